//! A mirror in memory whose uploads can be changed on their way.

use bytes::Bytes;
use espejo::remote::{
    ByteRange, Listing, MemoryRemote, Receipt, Remote, RemoteError, RemoteErrorKind, RemotePath, Sink,
    Traffic,
};

/// A mirror that keeps what `keeps` makes of a file, and says that it took all of it, or refuses it.
pub struct Uploads<'a, F> {
    pub memory: &'a MemoryRemote,
    pub keeps: F,
}

impl<F: Fn(&RemotePath, Bytes) -> Result<Option<Bytes>, RemoteErrorKind>> Remote for Uploads<'_, F> {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.memory.list(dir).await
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        self.memory.get_in_pieces(file, range, max, sink).await
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        match (self.keeps)(file, bytes) {
            Ok(Some(kept)) => self.memory.put(file, kept).await,
            Ok(None) => Ok(Receipt::Accepted),
            Err(kind) => Err(RemoteError::new(kind, format!("PUT {file}"), "refused")),
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
