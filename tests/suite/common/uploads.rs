//! A mirror in memory whose uploads can be changed on their way.

use bytes::Bytes;
use espejo::remote::{ByteRange, Listing, MemoryRemote, Receipt, Remote, RemoteError, RemotePath, Traffic};

/// A mirror that says it took every file, and keeps what `keeps` makes of it.
pub struct Uploads<'a, F> {
    pub memory: &'a MemoryRemote,
    pub keeps: F,
}

impl<F: Fn(&RemotePath, Bytes) -> Option<Bytes>> Remote for Uploads<'_, F> {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.memory.list(dir).await
    }

    async fn get(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max: u64,
    ) -> Result<Vec<u8>, RemoteError> {
        self.memory.get(file, range, max).await
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        match (self.keeps)(file, bytes) {
            Some(kept) => self.memory.put(file, kept).await,
            None => Ok(Receipt::Accepted),
        }
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        self.memory.size(file).await
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        self.memory.delete(file).await
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        self.memory.make_dir(dir).await
    }

    fn traffic(&self) -> Traffic {
        self.memory.traffic()
    }
}
