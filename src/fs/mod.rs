//! The door to the vault's own directory, and to the few files outside of it that the person names.
//!
//! Names in the vault are relative to it, made by this program, and separated by `/`.

use std::io;

mod disk;
mod file;

pub use disk::DiskFs;
pub use file::{PlainFile, StagedDir, replace};

/// The vault directory.
///
/// What `put` and `append` acknowledge survives a power cut. Files are opened without following links, and only
/// regular files are read, so a link planted in a shared folder leads nowhere.
pub trait VaultFs {
    /// Held while the vault is changed; released when dropped, and by the kernel when the process dies.
    type Lock;

    /// The whole file. An error of kind [`NotFound`](io::ErrorKind::NotFound) if it is not there,
    /// [`FileTooLarge`](io::ErrorKind::FileTooLarge) if it has more than `max_bytes`.
    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Vec<u8>>;

    /// Up to `len_bytes` bytes from `offset`; fewer at the end of the file.
    fn read_at(&self, name: &str, offset: u64, len_bytes: u64) -> io::Result<Vec<u8>>;

    /// The file's length in bytes, or `None` if there is no such regular file.
    fn len(&self, name: &str) -> io::Result<Option<u64>>;

    /// When the file was last put where it is, in seconds of the file system's own clock: only for telling older from
    /// newer. 0 where that is not known.
    fn placed_at(&self, _name: &str) -> io::Result<i64> {
        Ok(0)
    }

    /// The names in a directory, in order; none if there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Writes each file whole, replacing what was there. After `Ok` all of them are durable; after `Err` each is
    /// either as before or new, never a mixture. Directories are made as needed. One call costs one sync of each
    /// file and of each directory, so callers hand over batches.
    fn put(&self, files: &[(String, &[u8])]) -> io::Result<()>;

    /// Like [`put`](Self::put) for one file, without making it durable: for what can be worked out again.
    fn put_cache(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to `at` bytes, adds `bytes`, and makes that durable.
    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Moves a file, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. That it is not there is success.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Takes the exclusive lock `name`. `None` if another process holds it.
    fn try_lock(&self, name: &str) -> io::Result<Option<Self::Lock>>;
}
