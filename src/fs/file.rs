//! Files and directories outside of a vault: backups, and what becomes a vault when it is whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

const O_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// A regular file anywhere on this machine.
#[derive(Debug)]
pub struct PlainFile(File);

impl PlainFile {
    /// Opens it for reading. A pipe or a device is an error, not a wait.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(Self(file)),
            false => Err(io::Error::new(ErrorKind::InvalidData, "not a regular file")),
        }
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// Exactly `len_bytes` bytes from `offset`.
    pub fn read_at(&self, offset: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len_bytes];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

impl Write for PlainFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What is in a directory anywhere on this machine. That it is not there is an error.
pub fn paths_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|item| Ok(item?.path())).collect()
}

/// Removes a file anywhere on this machine.
pub fn remove_path(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Makes the names in a directory durable. Some network and foreign file systems cannot, and say so: there is nothing
/// more to be had from them. (Of a file's bytes no such answer is taken.)
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    match rustix::fs::fsync(File::open(dir)?) {
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes a file beside `target`, makes it durable, reads it again, and only then gives it the name: a good file is
/// never replaced by one that was not verified. `wrap` makes an error of what the disk said.
pub fn replace<T, E>(
    target: &Path,
    wrap: impl Fn(io::Error) -> E,
    write: impl FnOnce(&mut PlainFile) -> Result<(), E>,
    verify: impl FnOnce(PlainFile) -> Result<T, E>,
) -> Result<T, E> {
    let (dir, temp) = beside(target).map_err(&wrap)?;
    let mut file = PlainFile(create_temp(&temp).map_err(&wrap)?);
    let result = write(&mut file).and_then(|()| {
        file.0.sync_all().map_err(&wrap)?;
        let verified = verify(PlainFile::open(&temp).map_err(&wrap)?)?;
        fs::rename(&temp, target).map_err(&wrap)?;
        sync_dir(&dir).map_err(&wrap)?;
        Ok(verified)
    });
    if result.is_err() {
        // The failure that matters is the one above.
        let _ = fs::remove_file(&temp);
    }
    result
}

/// The directory of `target`, and the name of what will become it.
fn beside(target: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let name = target.file_name().ok_or(ErrorKind::InvalidInput)?;
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(".part");
    Ok((dir.to_owned(), dir.join(part)))
}

/// Makes a new file, locked as long as it is open: one that nobody holds was left by a process that was killed.
fn create_temp(path: &Path) -> io::Result<File> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = match create() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            match File::open(path)?.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(ErrorKind::ResourceBusy.into()),
                Ok(()) | Err(TryLockError::Error(_)) => fs::remove_file(path)?,
            }
            create()?
        }
        result => result?,
    };
    // Without locks (some network shares) two at once are not told apart; the later one fails to verify.
    let _ = file.try_lock();
    Ok(file)
}

/// A directory that becomes `target` when everything in it is in place, and vanishes otherwise.
#[derive(Debug)]
pub struct StagedDir {
    path: PathBuf,
    target: PathBuf,
}

impl StagedDir {
    /// Makes the directory beside `target`, which must be missing or empty.
    pub fn beside(target: &Path) -> io::Result<Self> {
        match fs::read_dir(target).map(|mut names| names.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(ErrorKind::DirectoryNotEmpty.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (dir, part) = beside(target)?;
        for number in 0..100 {
            let path = part.with_extension(format!("part-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, target: target.to_owned() }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => fs::create_dir_all(&dir)?,
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, durably. A target that has got content meanwhile is left as it is.
    pub fn publish(self) -> io::Result<()> {
        sync_dir(&self.path)?;
        fs::rename(&self.path, &self.target)?;
        let (dir, _) = beside(&self.target)?;
        sync_dir(&dir)
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // Published, it is not there any more.
        let _ = fs::remove_dir_all(&self.path);
    }
}
