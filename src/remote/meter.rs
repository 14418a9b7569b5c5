//! Counting what was asked of a remote.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Traffic;

/// A [`Traffic`] that can be counted up from several requests at once.
#[derive(Debug, Default)]
pub(super) struct Meter {
    requests: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Meter {
    /// One more request.
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// `len_bytes` more of request bodies.
    pub(super) fn up(&self, len_bytes: usize) {
        self.bytes_up.fetch_add(len_bytes as u64, Ordering::Relaxed);
    }

    /// `len_bytes` more of response bodies.
    pub(super) fn down(&self, len_bytes: usize) {
        self.bytes_down.fetch_add(len_bytes as u64, Ordering::Relaxed);
    }

    /// The sums so far.
    pub(super) fn read(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
        }
    }
}
