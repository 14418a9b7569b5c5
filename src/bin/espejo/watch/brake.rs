//! Stopping in good order: no object is begun any more, and what was sent is still confirmed and announced.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use espejo::clock::{Clock, SystemClock};
use espejo::remote::{
    ByteRange, Listing, Receipt, Remote, RemoteError, RemoteErrorKind, RemotePath, Sink, Traffic,
};
use tokio::sync::Notify;

/// Pulled once, when the watch is told to end.
#[derive(Default)]
pub struct Brake {
    pulled: Cell<bool>,
    told: Notify,
}

impl Brake {
    pub fn pull(&self) {
        self.pulled.set(true);
        self.told.notify_waiters();
    }

    pub fn is_pulled(&self) -> bool {
        self.pulled.get()
    }
}

/// A remote that carries no more objects once the brake is pulled.
pub struct Braked<'a, R> {
    pub inner: &'a R,
    pub brake: &'a Brake,
}

impl<R> Braked<'_, R> {
    fn refuse_objects(&self, file: &RemotePath) -> Result<(), RemoteError> {
        match self.brake.is_pulled() && file.as_str().starts_with("objects/") {
            // Not one of the kinds that are tried again.
            true => Err(RemoteError::new(RemoteErrorKind::Io, "", "the watch is ending")),
            false => Ok(()),
        }
    }
}

impl<R: Remote> Remote for Braked<'_, R> {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.inner.list(dir).await
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        self.refuse_objects(file)?;
        self.inner.get_in_pieces(file, range, max_bytes, sink).await
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        self.refuse_objects(file)?;
        self.inner.put(file, bytes).await
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        self.inner.size(file).await
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        self.inner.delete(file).await
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        self.inner.make_dir(dir).await
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }
}

/// The machine's clock, which does not wait once the brake is pulled.
pub struct BrakedClock<'a>(pub &'a Brake);

impl Clock for BrakedClock<'_> {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms()
    }

    async fn sleep(&self, duration: Duration) {
        if !self.0.is_pulled() {
            tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = self.0.told.notified() => {}
            }
        }
    }
}
