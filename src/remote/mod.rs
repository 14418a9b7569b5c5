//! The door to the mirror: seven verbs over opaque, write-once files.
//!
//! A remote never learns what an entry is. Every name is written once, by one device, and never overwritten, so a
//! remote needs no locks, no conditional requests and no atomic replace; eleven servers were measured and no
//! such primitive works on all of them.

use std::future::Future;

use bytes::Bytes;

pub mod any;
pub mod error;
pub mod folder;
pub mod memory;
mod meter;
pub mod nextcloud;
pub mod path;
pub mod retry;
mod sanitize;
pub mod webdav;
mod window;

pub use any::{AnyRemote, Target};
pub use error::{RemoteError, RemoteErrorKind};
pub use folder::FolderRemote;
pub use memory::MemoryRemote;
pub use path::RemotePath;
pub use retry::Retrying;
pub use sanitize::sanitize;
pub use webdav::{About, WebDavConfig, WebDavRemote};
pub use window::MOST_AT_ONCE;

/// A mirror's storage.
///
/// The contract every implementation meets, and `tests/suite/remote_contract.rs` proves on each:
///
/// - Paths are relative to the mirror's base directory and made of safe names ([`RemotePath`]).
/// - `get` after an acknowledged `put` returns the same bytes, or an error; never other bytes silently cut short
///   where the transport tells the length. The caller verifies content all the same.
/// - A listing may be partial. What it shows exists; nothing follows from what it does not show.
/// - No call retries by itself: [`RemoteError`] says whether trying again can help.
pub trait Remote {
    /// What `dir` holds directly, or `None` if there is no such directory.
    fn list(&self, dir: &RemotePath) -> impl Future<Output = Result<Option<Listing>, RemoteError>>;

    /// Gives `sink` the bytes of `file`, or of `range` of it, as they come. An answer of more than `max_bytes` is an
    /// [`Oversize`](RemoteErrorKind::Oversize) error, raised as soon as it is known. After an error the sink was given a
    /// beginning, the end of which may be anything.
    fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> impl Future<Output = Result<(), RemoteError>>;

    /// The same bytes, when all of them have come.
    fn get(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
    ) -> impl Future<Output = Result<Vec<u8>, RemoteError>> {
        async move {
            let mut bytes = Vec::new();
            self.get_in_pieces(file, range, max_bytes, &mut bytes).await?;
            Ok(bytes)
        }
    }

    /// Stores `bytes` under the fresh name `file`, in a directory that exists.
    ///
    /// `Ok` means the server acknowledged it, not yet that it is stored: see [`Receipt`].
    /// An [`Interrupted`](RemoteErrorKind::Interrupted) error leaves the outcome unknown; ask [`size`](Self::size).
    fn put(&self, file: &RemotePath, bytes: Bytes) -> impl Future<Output = Result<Receipt, RemoteError>>;

    /// The length in bytes of `file` as the remote sees it, or `None` if it is not there.
    fn size(&self, file: &RemotePath) -> impl Future<Output = Result<Option<u64>, RemoteError>>;

    /// Removes `file`. That it is not there is success.
    fn delete(&self, file: &RemotePath) -> impl Future<Output = Result<(), RemoteError>>;

    /// Makes the directory `dir`, whose parent exists; for [`RemotePath::root`] missing parents are made too. That it is
    /// there already is success. Says whether it was not there before; some servers say so of every directory.
    fn make_dir(&self, dir: &RemotePath) -> impl Future<Output = Result<bool, RemoteError>>;

    /// Removes the directory `dir` if nothing is in it. A remote may keep it all the same: nothing relies on that.
    fn remove_dir(&self, dir: &RemotePath) -> impl Future<Output = Result<(), RemoteError>> {
        let _ = dir;
        async { Ok(()) }
    }

    /// What has been asked of this remote since it was made. Failed requests count too.
    fn traffic(&self) -> Traffic;

    /// How far its clock was ahead of this machine's at its last answer, in milliseconds, if it told. Nothing is decided
    /// from that: it is for a person whose clock may be wrong.
    fn clock_ahead_ms(&self) -> Option<i64> {
        None
    }
}

/// What takes in the bytes of a file as they come.
pub trait Sink {
    /// They come from the first one on, as many as the remote `told`, if it did. What was taken before was the beginning of
    /// an answer that broke off.
    fn begin(&mut self, told: Option<u64>);

    /// The next ones.
    fn take(&mut self, bytes: &[u8]);

    /// All of them, which are here already.
    fn take_whole(&mut self, bytes: &[u8]) {
        self.begin(Some(bytes.len() as u64));
        self.take(bytes);
    }
}

/// All of them.
impl Sink for Vec<u8> {
    fn begin(&mut self, told: Option<u64>) {
        self.clear();
        // The length is only a claim: no more is set aside than a common file needs.
        self.reserve(usize::try_from(told.unwrap_or(0).min(4 << 20)).unwrap_or(0));
    }

    fn take(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What one directory was seen to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The children, in no particular order. Names are as the server gave them, percent-decoded, never joined to
    /// a path without passing [`RemotePath`] first.
    pub items: Vec<Item>,
    /// False if anything suggests that the listing is cut short or was not understood in full. Even a complete
    /// listing proves no absence.
    pub complete: bool,
    /// Whether the base directory holds a file `espejo.json`, where the remote can tell without another request
    /// (a folder can; a server cannot).
    pub marker_seen: Option<bool>,
}

/// One child of a listed directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The last path segment, decoded.
    pub name: String,
    /// The length in bytes, if the remote gave one.
    pub len_bytes: Option<u64>,
    /// True for a directory.
    pub is_dir: bool,
}

/// A part of a file: `len_bytes` bytes from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, at least 1.
    pub len_bytes: u64,
}

impl ByteRange {
    /// First byte and first byte after, if the range is not empty and lies within `file_len_bytes`.
    pub fn within(self, file_len_bytes: u64) -> Option<(u64, u64)> {
        let end = self.offset.checked_add(self.len_bytes)?;
        (self.len_bytes > 0 && end <= file_len_bytes).then_some((self.offset, end))
    }
}

/// What a remote said about an upload it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It said it took the file. Whether it kept it is seen by listing.
    Accepted,
    /// It computed the SHA-256 of what it stored, and that is the hash of what was sent.
    Proven,
}

/// Requests made and body bytes moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests sent, retries included.
    pub requests: u64,
    /// Request body bytes.
    pub bytes_up: u64,
    /// Response body bytes.
    pub bytes_down: u64,
}
