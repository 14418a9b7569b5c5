//! Patience with a remote: what passes by itself is tried again, and nothing else is.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::window::Window;
use super::{ByteRange, Listing, Receipt, Remote, RemoteError, RemoteErrorKind, RemotePath, Sink, Traffic};
use crate::clock::Clock;

/// How often one call is tried.
const MAX_TRIES: u32 = 4;
/// A server that asks for a longer wait than this is left alone until the next sync.
const LONGEST_WAIT_SECS: u64 = 15;

/// A remote that tries again what may pass by itself, waiting in between.
///
/// The waits double and are spread by chance, so that devices which failed together do not return together. A server that
/// has too much to do gets fewer requests at once, and slowly more again.
/// After the first 401 nothing more is sent: servers slow down everybody behind an address that guesses passwords.
/// A put whose outcome is unknown is looked at before it is repeated.
#[derive(Debug)]
pub struct Retrying<R, C> {
    inner: R,
    clock: C,
    window: Window,
    refused: AtomicBool,
    waits: AtomicU64,
}

impl<R: Remote, C: Clock> Retrying<R, C> {
    /// `inner`, with patience measured by `clock`.
    pub fn new(inner: R, clock: C) -> Self {
        let (window, refused, waits) = (Window::default(), AtomicBool::new(false), AtomicU64::new(0));
        Self { inner, clock, window, refused, waits }
    }

    /// The remote underneath.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Runs `call` until it succeeds, fails for good, or patience ends.
    async fn patiently<T>(
        &self,
        request: &str,
        mut call: impl AsyncFnMut() -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let mut failures = 0;
        loop {
            let error = match self.once(request, call()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            failures += 1;
            self.wait_after(error, failures).await?;
        }
    }

    /// Runs `call` when it may be under way beside the others, unless the credentials are known to be refused.
    async fn once<T>(
        &self,
        request: &str,
        call: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let pass = self.window.enter().await;
        if self.refused.load(Ordering::Relaxed) {
            return Err(RemoteError::new(RemoteErrorKind::Unauthorized, request, "not asked again"));
        }
        let answer = call.await;
        if matches!(&answer, Err(error) if error.kind == RemoteErrorKind::Unauthorized) {
            self.refused.store(true, Ordering::Relaxed);
        }
        match &answer {
            Err(error) if is_complaint(&error.kind) => pass.answered(true),
            // What never came says nothing of how much the server takes.
            Err(error) if error.kind.is_transient() => drop(pass),
            _ => pass.answered(false),
        }
        answer
    }

    /// Waits as long as the `failures`-th failure of a call asks for, or gives `error` back.
    async fn wait_after(&self, error: RemoteError, failures: u32) -> Result<(), RemoteError> {
        match wait_ms(&error.kind, failures, self.chance()) {
            Some(ms) => {
                self.clock.sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    /// A number that differs between devices and waits. It only spreads load, so the clock is chance enough.
    fn chance(&self) -> u64 {
        let wait = self.waits.fetch_add(1, Ordering::Relaxed);
        // The finisher of splitmix64.
        let mut x =
            self.clock.now_ms().cast_unsigned().wrapping_add(wait.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }
}

/// How long to wait after the `failures`-th failure of a call, in milliseconds; `None` to give up.
fn wait_ms(kind: &RemoteErrorKind, failures: u32, chance: u64) -> Option<u64> {
    use RemoteErrorKind as K;
    let (first_ms, tries, asked_secs) = match kind {
        K::Locked => (200, MAX_TRIES, None),
        K::Throttled { retry_after_secs } => (1_000, MAX_TRIES, *retry_after_secs),
        K::Unavailable { retry_after_secs, .. } => (1_000, MAX_TRIES, *retry_after_secs),
        K::Interrupted => (1_000, MAX_TRIES, None),
        // Without a network the person is waiting for nothing.
        K::Unreachable => (1_000, 2, None),
        _ => return None,
    };
    if failures >= tries || asked_secs.is_some_and(|secs| secs > LONGEST_WAIT_SECS) {
        return None;
    }
    match asked_secs {
        // Never sooner than asked for, and a little spread.
        Some(secs) => Some(secs * 1_000 + chance % 500),
        // Half to one and a half times the doubled wait.
        None => {
            let full_ms = first_ms << (failures - 1);
            Some(full_ms / 2 + chance % (full_ms + 1))
        }
    }
}

/// Whether the server says that it has too much to do.
fn is_complaint(kind: &RemoteErrorKind) -> bool {
    use RemoteErrorKind as K;
    matches!(kind, K::Locked | K::Throttled { .. } | K::Unavailable { .. })
}

/// Whether a put that ended like this may have stored the file all the same: the connection broke, or a proxy lost
/// the server behind it.
fn may_be_stored(kind: &RemoteErrorKind) -> bool {
    matches!(kind, RemoteErrorKind::Interrupted | RemoteErrorKind::Unavailable { status: 502 | 504, .. })
}

impl<R: Remote, C: Clock> Remote for Retrying<R, C> {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.patiently("list", async || self.inner.list(dir).await).await
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        self.patiently("get", async || self.inner.get_in_pieces(file, range, max_bytes, sink).await).await
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        let mut failures = 0;
        loop {
            let error = match self.once("put", self.inner.put(file, bytes.clone())).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            failures += 1;
            let mut unknown = may_be_stored(&error.kind);
            let waited = self.wait_after(error, failures).await;
            // Looked at until it is known what became of the file: only then is it sent again, or given up.
            while unknown {
                match self.once("put", self.inner.size(file)).await {
                    Ok(Some(len_bytes)) if len_bytes == bytes.len() as u64 => return Ok(Receipt::Accepted),
                    Ok(_) => unknown = false,
                    Err(_) if waited.is_err() => break,
                    Err(error) => {
                        failures += 1;
                        self.wait_after(error, failures).await?;
                    }
                }
            }
            waited?;
        }
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        self.patiently("size", async || self.inner.size(file).await).await
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        self.patiently("delete", async || self.inner.delete(file).await).await
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        self.patiently("make", async || self.inner.make_dir(dir).await).await
    }

    async fn remove_dir(&self, dir: &RemotePath) -> Result<(), RemoteError> {
        self.once("remove", self.inner.remove_dir(dir)).await
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }

    fn clock_ahead_ms(&self) -> Option<i64> {
        self.inner.clock_ahead_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_spread_and_end() {
        for chance in [0, 1, 12_345, u64::MAX] {
            for (kind, first_ms, tries) in [
                (RemoteErrorKind::Locked, 200, 4),
                (RemoteErrorKind::Interrupted, 1_000, 4),
                (RemoteErrorKind::Unreachable, 1_000, 2),
                (RemoteErrorKind::Throttled { retry_after_secs: None }, 1_000, 4),
                (RemoteErrorKind::Unavailable { status: 503, retry_after_secs: None }, 1_000, 4),
            ] {
                for failures in 1..tries {
                    let full = first_ms << (failures - 1);
                    let wait = wait_ms(&kind, failures, chance).unwrap();
                    assert!((full / 2..=full + full / 2).contains(&wait), "{kind:?} {failures} {wait}");
                }
                assert_eq!(wait_ms(&kind, tries, chance), None);
            }
        }
    }

    #[test]
    fn a_wait_the_server_asks_for_is_kept_or_not_begun() {
        let asked = |secs| RemoteErrorKind::Throttled { retry_after_secs: Some(secs) };
        assert!((7_000..7_500).contains(&wait_ms(&asked(7), 1, 99).unwrap()));
        assert!(wait_ms(&asked(15), 3, 0).is_some());
        assert_eq!(wait_ms(&asked(16), 1, 0), None);
        assert_eq!(wait_ms(&asked(u64::MAX), 1, 0), None);
    }

    #[test]
    fn what_does_not_pass_by_itself_is_not_tried_again() {
        use RemoteErrorKind as K;
        for kind in
            [K::Unauthorized, K::Forbidden, K::NotFound, K::Full, K::TooLarge, K::NotDav, K::Untrusted]
        {
            assert_eq!(wait_ms(&kind, 1, 0), None, "{kind:?}");
            assert!(!kind.is_transient());
        }
    }
}
