//! A mirror in a directory: a NAS, a folder that Syncthing or Dropbox carries, a USB stick.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::meter::Meter;
use super::{
    ByteRange, Item, Listing, Receipt, Remote, RemoteError, RemoteErrorKind, RemotePath, Sink, Traffic,
};

/// The file that marks an initialised mirror.
const MARKER: &str = "espejo.json";
/// How many left-over temporary files of one name are stepped over before giving up.
const PART_TRIES: u32 = 16;

/// A directory as a mirror.
///
/// Only what lies below the directory is touched: below it no symbolic link is followed, in no part of a path, and
/// nothing but regular files is read, so that a link or a pipe somebody put there can neither leak nor hang.
/// A file appears under its name when it is on the disk as a whole. Until then it is `.<name>.part-<process>-<n>`
/// beside it; one that a power cut left behind is never read, listed or in the way.
///
/// The calls block: a folder answers at the speed of its disk.
#[derive(Debug)]
pub struct FolderRemote {
    base: PathBuf,
    meter: Meter,
}

impl FolderRemote {
    /// The mirror in `base`, which need not exist yet.
    pub fn new(base: PathBuf) -> Self {
        Self { base, meter: Meter::default() }
    }

    /// The directory itself.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Opens `dir`, name by name from the base, following no link below it.
    fn open_dir(&self, dir: &RemotePath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut fd = rustix::fs::openat(CWD, &self.base, flags, Mode::empty())?;
        for name in dir.as_str().split('/').filter(|name| !name.is_empty()) {
            fd = rustix::fs::openat(&fd, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(fd)
    }

    /// Opens the directory of `path`, and gives the last name.
    fn open_parent<'p>(&self, path: &'p RemotePath) -> Result<(OwnedFd, &'p str), Errno> {
        let (dir, name) = match path.as_str().rsplit_once('/') {
            Some((dir, name)) => (RemotePath::new(dir).ok_or(Errno::INVAL)?, name),
            None => (RemotePath::root(), path.as_str()),
        };
        Ok((self.open_dir(&dir)?, name))
    }

    fn read_dir(&self, dir: &RemotePath) -> Result<Option<Listing>, Errno> {
        let fd = match self.open_dir(dir) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let mut listing = Listing { items: Vec::new(), complete: true, marker_seen: None };
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            // Names that are not ours are shown too: a folder full of photos must not look empty. Hidden ones are
            // temporary files and a sync tool's own.
            let name = entry.file_name().to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            match stat_of(&fd, entry.file_name()) {
                Ok(Some(Kind::File { len_bytes })) => {
                    listing.items.push(Item {
                        name: name.clone().into_owned(),
                        len_bytes: Some(len_bytes),
                        is_dir: false,
                    });
                }
                Ok(Some(Kind::Dir)) => {
                    listing.items.push(Item {
                        name: name.clone().into_owned(),
                        len_bytes: None,
                        is_dir: true,
                    });
                }
                Ok(Some(Kind::Other) | None) => {}
                Err(_) => listing.complete = false,
            }
        }
        let base = self.open_dir(&RemotePath::root())?;
        listing.marker_seen = Some(matches!(stat_of(&base, MARKER)?, Some(Kind::File { .. })));
        Ok(Some(listing))
    }

    fn read_file(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
    ) -> Result<Vec<u8>, Failure> {
        let (dir, name) = self.open_parent(file)?;
        // NONBLOCK: opening a pipe somebody left there must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut opened = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::NXIO) => return Err(not_a_file()),
            opened => File::from(opened?),
        };
        let Kind::File { len_bytes: file_len_bytes } = Kind::of(&rustix::fs::fstat(&opened)?) else {
            return Err(not_a_file());
        };
        let len_bytes = match range {
            None => file_len_bytes,
            Some(range) => {
                let short = Failure(RemoteErrorKind::Malformed, "the file ends before the range does".into());
                let (from, to) = range.within(file_len_bytes).ok_or(short)?;
                opened.seek(SeekFrom::Start(from))?;
                to - from
            }
        };
        if len_bytes > max_bytes {
            return Err(Failure(RemoteErrorKind::Oversize, String::new()));
        }
        // Not read to the end: a file that grows meanwhile stays within the bound.
        let mut bytes = Vec::with_capacity(usize::try_from(len_bytes).unwrap_or(0));
        opened.take(len_bytes).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < len_bytes {
            return Err(Failure(RemoteErrorKind::Interrupted, "the file became shorter".into()));
        }
        self.meter.down(bytes.len());
        Ok(bytes)
    }

    fn write_file(&self, file: &RemotePath, bytes: &[u8]) -> Result<(), Failure> {
        let (dir, name) = self.open_parent(file)?;
        let (part_name, mut part) = create_part(&dir, name)?;
        let written = (|| -> Result<(), Failure> {
            part.write_all(bytes)?;
            part.sync_all()?;
            Ok(rustix::fs::renameat(&dir, &part_name, &dir, name)?)
        })();
        if written.is_err() {
            // The first error is the one to tell; a part that stays is only a hidden left-over.
            let _ = rustix::fs::unlinkat(&dir, &part_name, AtFlags::empty());
            return written;
        }
        // The directory is synced too: without it the rename may vanish with the power.
        Ok(sync_dir(&dir)?)
    }

    fn remove_file(&self, file: &RemotePath) -> Result<(), Failure> {
        let removed =
            self.open_parent(file).and_then(|(dir, name)| rustix::fs::unlinkat(&dir, name, AtFlags::empty()));
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn create_dir(&self, dir: &RemotePath) -> Result<bool, Failure> {
        if dir.is_root() {
            return Ok(make_base(&self.base)?);
        }
        let (parent, name) = self.open_parent(dir)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => {
                sync_dir(&parent)?;
                Ok(true)
            }
            Err(Errno::EXIST) if matches!(stat_of(&parent, name)?, Some(Kind::Dir)) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Remote for FolderRemote {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.meter.request();
        self.read_dir(dir).map_err(|errno| Failure::from(errno).in_request("list", dir))
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        self.meter.request();
        let read = self.read_file(file, range, max_bytes);
        sink.take_whole(&read.map_err(|failure| failure.in_request("read", file))?);
        Ok(())
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        self.meter.request();
        self.meter.up(bytes.len());
        self.write_file(file, &bytes).map_err(|failure| failure.in_request("write", file))?;
        Ok(Receipt::Accepted)
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        self.meter.request();
        let found = self.open_parent(file).and_then(|(dir, name)| stat_of(&dir, name));
        match found {
            Ok(Some(Kind::File { len_bytes })) => Ok(Some(len_bytes)),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Failure::from(errno).in_request("look at", file)),
        }
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        self.meter.request();
        self.remove_file(file).map_err(|failure| failure.in_request("remove", file))
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        self.meter.request();
        self.create_dir(dir).map_err(|failure| failure.in_request("make", dir))
    }

    async fn remove_dir(&self, dir: &RemotePath) -> Result<(), RemoteError> {
        self.meter.request();
        let removed = self.open_parent(dir).and_then(|(parent, name)| {
            // The system removes none that has something in it.
            rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
        });
        removed.map_err(|errno| Failure::from(errno).in_request("remove", dir))
    }

    fn traffic(&self) -> Traffic {
        self.meter.read()
    }
}

/// Makes the mirror's directory and those above it, durably: what is announced in it must not vanish with it.
/// Says whether it was not there before.
fn make_base(dir: &Path) -> io::Result<bool> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::create_dir(dir) {
        Ok(()) => {
            sync_dir(&File::open(parent)?.into())?;
            Ok(true)
        }
        Err(_) if dir.is_dir() => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir != parent => {
            make_base(parent)?;
            make_base(dir)
        }
        Err(error) => Err(error),
    }
}

/// What a name stands for.
enum Kind {
    File {
        len_bytes: u64,
    },
    Dir,
    /// A link, a pipe, a device: never touched.
    Other,
}

impl Kind {
    fn of(stat: &rustix::fs::Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Self::File { len_bytes: u64::try_from(stat.st_size).unwrap_or(0) },
            FileType::Directory => Self::Dir,
            _ => Self::Other,
        }
    }
}

/// What `name` in `dir` is, or `None` if it is not there.
fn stat_of(dir: &OwnedFd, name: impl rustix::path::Arg) -> Result<Option<Kind>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Kind::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A new file in `dir` that no listing shows, for what will be `name`.
fn create_part(dir: &OwnedFd, name: &str) -> Result<(String, File), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut last = Errno::EXIST;
    for n in 0..PART_TRIES {
        let part_name = format!(".{name}.part-{}-{n}", std::process::id());
        // 0666 less the umask: whoever shares the folder with this person decides who else may read.
        match rustix::fs::openat(dir, &part_name, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => return Ok((part_name, File::from(fd))),
            Err(Errno::EXIST) => last = Errno::EXIST,
            Err(errno) => return Err(errno),
        }
    }
    Err(last)
}

/// Syncs a directory. Some network file systems cannot, and say so: there is nothing more to be had from them.
fn sync_dir(dir: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fsync(dir) {
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn not_a_file() -> Failure {
    Failure(RemoteErrorKind::NotFound, "there is something else than a file".into())
}

/// What went wrong, before it is known which request it belongs to.
struct Failure(RemoteErrorKind, String);

impl Failure {
    fn in_request(self, verb: &str, path: &RemotePath) -> RemoteError {
        RemoteError::new(self.0, format!("{verb} {path}").trim_end().to_owned(), &self.1)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self(RemoteErrorKind::Io, error.to_string()),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        let kind = match errno {
            Errno::NOENT => RemoteErrorKind::NotFound,
            Errno::NOSPC | Errno::DQUOT => RemoteErrorKind::Full,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => RemoteErrorKind::Forbidden,
            Errno::FBIG => RemoteErrorKind::TooLarge,
            _ => RemoteErrorKind::Io,
        };
        Self(kind, io::Error::from(errno).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn path(text: &str) -> RemotePath {
        RemotePath::new(text).unwrap()
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn links_and_pipes_are_neither_read_nor_listed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "private").unwrap();
        symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
        symlink(outside.path(), dir.path().join("away")).unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        let remote = FolderRemote::new(dir.path().to_owned());
        run(async {
            assert_eq!(remote.list(&RemotePath::root()).await.unwrap().unwrap().items, []);
            for name in ["link", "pipe"] {
                let refused = remote.get(&path(name), None, 100).await.unwrap_err();
                assert_eq!(refused.kind, RemoteErrorKind::NotFound, "{name}");
                assert_eq!(remote.size(&path(name)).await, Ok(None));
            }
            assert!(remote.get(&path("away/secret"), None, 100).await.is_err());
            assert!(remote.put(&path("away/mine"), Bytes::from_static(b"x")).await.is_err());
            assert!(remote.list(&path("away")).await.is_err());
            // A file put under a link's name takes the link's place and leaves its target alone.
            remote.put(&path("link"), Bytes::from_static(b"mine")).await.unwrap();
        });
        assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"private");
        assert!(!outside.path().join("mine").exists());
    }

    #[test]
    fn a_part_left_by_a_crash_is_not_listed_and_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let left_over = format!(".object.part-{}-0", std::process::id());
        std::fs::write(dir.path().join(&left_over), "half").unwrap();
        let remote = FolderRemote::new(dir.path().to_owned());
        run(async {
            remote.put(&path("object"), Bytes::from_static(b"whole")).await.unwrap();
            let listing = remote.list(&RemotePath::root()).await.unwrap().unwrap();
            assert_eq!(listing.items, [Item { name: "object".into(), len_bytes: Some(5), is_dir: false }]);
            assert_eq!(remote.get(&path("object"), None, 5).await.unwrap(), b"whole");
        });
        let mut names =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        names.sort();
        assert_eq!(names, [left_over.as_str(), "object"], "a finished put leaves no part of its own");
    }

    #[test]
    fn the_marker_is_seen_only_as_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let remote = FolderRemote::new(dir.path().to_owned());
        let seen = || run(remote.list(&RemotePath::root())).unwrap().unwrap().marker_seen;
        assert_eq!(seen(), Some(false));
        symlink("/dev/null", dir.path().join(MARKER)).unwrap();
        assert_eq!(seen(), Some(false));
        std::fs::remove_file(dir.path().join(MARKER)).unwrap();
        std::fs::write(dir.path().join(MARKER), "{}").unwrap();
        assert_eq!(seen(), Some(true));
    }

    #[test]
    fn an_unmounted_disk_is_an_absent_directory_and_a_failed_put_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let gone = FolderRemote::new(dir.path().join("stick"));
        run(async {
            assert_eq!(gone.list(&RemotePath::root()).await, Ok(None));
            let refused = gone.put(&path("object"), Bytes::from_static(b"x")).await.unwrap_err();
            assert_eq!(refused.kind, RemoteErrorKind::NotFound);
            // A directory stands where the file should go: the rename fails.
            let remote = FolderRemote::new(dir.path().to_owned());
            remote.make_dir(&path("object")).await.unwrap();
            let refused = remote.put(&path("object"), Bytes::from_static(b"x")).await.unwrap_err();
            assert_eq!(refused.kind, RemoteErrorKind::Io);
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errno_becomes_what_a_person_can_act_on() {
        for (errno, kind) in [
            (Errno::NOSPC, RemoteErrorKind::Full),
            (Errno::DQUOT, RemoteErrorKind::Full),
            (Errno::ACCESS, RemoteErrorKind::Forbidden),
            (Errno::ROFS, RemoteErrorKind::Forbidden),
            (Errno::IO, RemoteErrorKind::Io),
        ] {
            assert_eq!(Failure::from(errno).0, kind, "{errno:?}");
        }
    }
}
