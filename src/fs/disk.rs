//! The vault directory on a real disk.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use super::file::sync_dir;
use super::whole::Whole;
use super::{INCOMING, VaultFs, WRITE_BYTES};
use crate::parallel;

/// How much of a batch is done at once: waiting for the disk is most of the work.
const PARALLEL: usize = 8;

/// From so many on, the files or directories of a batch are synced with their whole file system at once, where that can
/// be relied upon.
const SYNCED_TOGETHER: usize = 64;

/// Moves are not waited for; a thread is worth its start for no fewer.
const MOVES_PER_THREAD: usize = 64;

/// Nor are reads of files that were read lately.
const READS_PER_THREAD: usize = 16;

const O_NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
const O_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// What opening a link or a socket that may not be followed says.
const LINK: i32 = rustix::io::Errno::LOOP.raw_os_error();
const SOCKET: i32 = rustix::io::Errno::NXIO.raw_os_error();

static NEXT_TEMP: AtomicU64 = AtomicU64::new(0);

/// A directory on this machine.
#[derive(Debug, Clone)]
pub struct DiskFs {
    root: PathBuf,
}

impl DiskFs {
    /// The vault directory `root`, whether or not it exists yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of `name`. A link among its directories, planted by a sync tool or by a thief, is an error: it would
    /// lead what is read and written out of the vault. The root itself may be a link; that is the person's choice.
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let mut path = self.root.clone();
        let mut names = name.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            path.push(name);
            if names.peek().is_some() && is_link(&path) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "one of its directories is a link"));
            }
        }
        Ok(path)
    }

    /// Opens a regular file for reading. A link, pipe or device in its place is an error, not a wait.
    fn open(&self, name: &str) -> io::Result<(File, u64)> {
        let path = self.path(name)?;
        let opened = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(LINK | SOCKET) => not_a_file(),
            _ => error,
        })?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(not_a_file());
        }
        Ok((file, metadata.len()))
    }

    /// Makes the vault directory and its parents, and makes their names durable.
    fn make_root(dir: &Path) -> io::Result<bool> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => sync_dir(parent(dir)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir != parent(dir) => {
                Self::make_root(parent(dir))?;
                Self::make_root(dir)
            }
            Err(error) => Err(error),
        }
    }

    /// The file system, if so many things are to be synced there together. A vault is on one: its files are moved
    /// between its directories.
    fn together(&self, count: usize) -> Option<Whole> {
        if count < SYNCED_TOGETHER { None } else { Whole::of(&self.root) }
    }

    fn create_one(&self, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
        let mut new = OpenOptions::new();
        let new = new.write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW);
        let mut file = new.open(self.path(name)?)?;
        bytes.chunks(WRITE_BYTES).try_for_each(|piece| file.write_all(piece))?;
        if durable { file.sync_all() } else { Ok(()) }
    }
}

impl VaultFs for DiskFs {
    type Lock = File;

    fn read_into(&self, name: &str, max_bytes: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
        let (file, len) = self.open(name)?;
        bytes.clear();
        bytes.reserve_exact(usize::try_from(len.min(max_bytes)).unwrap_or(0));
        file.take(max_bytes.saturating_add(1)).read_to_end(bytes)?;
        if bytes.len() as u64 > max_bytes { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    }

    fn read_many(&self, names: &[String], max_bytes: u64) -> Vec<io::Result<Vec<u8>>> {
        parallel::map(names.iter().collect(), READS_PER_THREAD, |name| self.read(name, max_bytes))
    }

    fn read_at(&self, name: &str, offset: u64, len_bytes: u64) -> io::Result<Vec<u8>> {
        let (file, len) = self.open(name)?;
        let available = len.saturating_sub(offset).min(len_bytes);
        let mut bytes = vec![0; usize::try_from(available).map_err(|_| io::ErrorKind::FileTooLarge)?];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn len(&self, name: &str) -> io::Result<Option<u64>> {
        match fs::symlink_metadata(self.path(name)?) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn placed_at(&self, name: &str) -> io::Result<i64> {
        Ok(fs::symlink_metadata(self.path(name)?)?.ctime())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let path = self.path(dir)?;
        if !dir.is_empty() && is_link(&path) {
            // What lies behind it is not the vault's.
            return Ok(names);
        }
        // Walked one level deep and never through links.
        for item in walkdir::WalkDir::new(path).min_depth(1).max_depth(1) {
            match item {
                Ok(item) => names.extend(item.file_name().to_str().map(str::to_owned)),
                Err(error) => {
                    let error = io::Error::from(error);
                    if error.kind() == io::ErrorKind::NotFound {
                        break;
                    }
                    return Err(error);
                }
            }
        }
        // Walked in order, each comparison would look for the name in both paths.
        names.sort_unstable();
        Ok(names)
    }

    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(self.path(name)?)?;
        if file.metadata()?.len() > at {
            file.set_len(at)?;
        }
        let written = file.write_all_at(bytes, at).and_then(|()| file.sync_all());
        if written.is_err() {
            // On a full disk a beginning may have fitted, and what could not be synced does not count either. If it
            // cannot be cut off, the reader finds it.
            let _ = file.set_len(at);
        }
        written
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        fs::remove_dir(self.path(dir)?)
    }

    fn birthmark(&self, name: &str) -> Option<String> {
        let metadata = fs::symlink_metadata(self.path(name).ok()?).ok()?;
        let born = metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(format!("{}-{}", metadata.ino(), born.as_nanos()))
    }

    fn try_lock(&self, name: &str) -> io::Result<Option<File>> {
        super::ensure_dir(self, super::parent(name))?;
        let path = self.path(name)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            // A file system without locks (some network shares): writes are create-only, so go on without.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(Some(file)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn make_dir(&self, dir: &str) -> io::Result<bool> {
        if dir.is_empty() {
            return Self::make_root(&self.root);
        }
        match DirBuilder::new().mode(0o700).create(self.path(dir)?) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn temp_name(&self) -> String {
        let number = NEXT_TEMP.fetch_add(1, Ordering::Relaxed);
        format!("{INCOMING}/{}-{number}", std::process::id())
    }

    fn create(&self, files: &[(String, &[u8])], durable: bool) -> io::Result<()> {
        let together = if durable { self.together(files.len()) } else { None };
        let one_by_one = durable && together.is_none();
        each(files, 1, |(name, bytes)| self.create_one(name, bytes, one_by_one))?;
        together.map_or(Ok(()), |whole| whole.sync())
    }

    fn move_file(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_dir(&self.path(dir)?)
    }

    fn move_files(&self, moves: &[(&str, &str)]) -> io::Result<()> {
        each(moves, MOVES_PER_THREAD, |(from, to)| self.move_file(from, to))
    }

    fn sync_dirs(&self, dirs: &[&str]) -> io::Result<()> {
        match self.together(dirs.len()) {
            Some(whole) => whole.sync(),
            None => each(dirs, 1, |dir| self.sync_dir(dir)),
        }
    }
}

/// Does `work` on each item, some at once. Of what one thread has to do nothing is begun after an error.
fn each<T: Sync>(
    items: &[T],
    per_thread: usize,
    work: impl Fn(&T) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let work = |piece: Vec<&T>| piece.into_iter().try_for_each(&work);
    parallel::pieces(items.iter().collect(), per_thread, PARALLEL, work).into_iter().collect()
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a regular file")
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_back_whole_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let fs = DiskFs::new(dir.path());
        let files =
            (0..40).map(|n| (format!("objects/{:02}/{n}", n % 3), vec![n as u8; 10])).collect::<Vec<_>>();
        fs.put(&files.iter().map(|(name, bytes)| (name.clone(), &bytes[..])).collect::<Vec<_>>()).unwrap();
        for (name, bytes) in &files {
            assert_eq!(&fs.read(name, 10).unwrap(), bytes);
        }
        assert_eq!(fs.list(INCOMING).unwrap(), [""; 0]);
        assert_eq!(fs.list("objects").unwrap(), ["00", "01", "02"]);
        assert_eq!(fs.list("nothing").unwrap(), [""; 0]);
        assert_eq!(fs.read(&files[0].0, 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(fs.read_at(&files[0].0, 8, 100).unwrap(), [0, 0]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("objects/link")).unwrap();
        let refused = fs.read("objects/link", 1 << 20).unwrap_err();
        assert_eq!(
            refused.kind(),
            io::ErrorKind::InvalidData,
            "damage, and not a disk that fails: {refused}"
        );
        assert_eq!(fs.len("objects/link").unwrap(), None);
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("objects/ff")).unwrap();
        assert!(fs.read("objects/ff/secret", 1 << 20).is_err());
        assert_eq!(fs.list("objects/ff").unwrap(), [""; 0]);
        assert!(fs.put(&[("objects/ff/new".to_owned(), b"bytes")]).is_err());
        assert!(!outside.path().join("new").exists());
        fs.append(&files[0].0, 5, b"end").unwrap();
        assert_eq!(fs.read(&files[0].0, 10).unwrap(), b"\0\0\0\0\0end");
    }

    #[test]
    fn a_batch_fails_if_one_of_its_files_does() {
        // Whichever of the threads that share it has that one.
        for bad in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let fs = DiskFs::new(dir.path());
            fs.make_dir("a").unwrap();
            let name = |n| if n == bad { format!("missing/{n}") } else { format!("a/{n}") };
            let files = (0..20).map(|n| (name(n), &b"bytes"[..])).collect::<Vec<_>>();
            assert_eq!(fs.create(&files, true).unwrap_err().kind(), io::ErrorKind::NotFound, "{bad}");
        }
    }

    #[test]
    fn a_file_made_in_pieces_is_whole_or_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let fs = DiskFs::new(dir.path());
        let put = |pieces: &[Result<&[u8], u8>]| {
            fs.put_in_pieces("local/file", pieces.iter().map(|piece| piece.map(<[u8]>::to_vec)))
        };
        put(&[Ok(b"one "), Ok(b"two "), Ok(b"three")]).unwrap().unwrap();
        assert_eq!(fs.read("local/file", 100).unwrap(), b"one two three");
        assert_eq!(put(&[Ok(b"four"), Err(5)]).unwrap_err(), 5);
        assert_eq!(fs.read("local/file", 100).unwrap(), b"one two three");
        put(&[Ok(b"six")]).unwrap().unwrap();
        assert_eq!(fs.read("local/file", 100).unwrap(), b"six");
        std::fs::create_dir(dir.path().join("local/dir")).unwrap();
        assert!(
            fs.put_in_pieces("local/dir", [Ok::<_, u8>(b"seven".to_vec())].into_iter()).unwrap().is_err()
        );
        assert_eq!(fs.list(INCOMING).unwrap(), [""; 0]);
    }

    #[test]
    fn one_lock_at_a_time_and_none_left_by_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let fs = DiskFs::new(dir.path());
        let held = fs.try_lock("local/lock").unwrap().unwrap();
        assert!(fs.try_lock("local/lock").unwrap().is_none());
        drop(held);
        assert!(fs.try_lock("local/lock").unwrap().is_some());
    }
}
