//! A file that a person asked for: there when it is whole and on the disk, and not before.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::thread::{Scope, ScopedJoinHandle, scope};

use crate::failure::Failure;

/// Written since the disk was last told to take what there is.
const SYNC_EVERY_BYTES: u64 = 32 << 20;

/// Writes a new file that appears only when it is whole.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut Behind<'_, '_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: &io::Error| Failure::io(&format!("writing {}", path.display()), error);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temp = tempfile::NamedTempFile::new_in(dir).map_err(|error| failed(&error))?;
    scope(|scope| {
        let mut behind = Behind { file: temp.as_file(), scope, unsynced_bytes: 0, under_way: None };
        write(&mut behind)?;
        behind.finish().map_err(|error| failed(&error))
    })?;
    match temp.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            Err(Failure::usage(format!("{} exists already; nothing was written", path.display()))
                .hint("name a new file"))
        }
        Err(error) => Err(failed(&error.error)),
    }
}

/// A file that the disk takes while the rest of it is still made: asked for all at once it lets one wait.
pub struct Behind<'scope, 'env> {
    file: &'env File,
    scope: &'scope Scope<'scope, 'env>,
    unsynced_bytes: u64,
    under_way: Option<ScopedJoinHandle<'scope, io::Result<()>>>,
}

impl Behind<'_, '_> {
    /// What a sync under way comes to. Its failure is final: the kernel forgets it when it has been told.
    fn wait(&mut self) -> io::Result<()> {
        let under_way = self.under_way.take();
        under_way.map_or(Ok(()), |it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Everything is on the disk.
    fn finish(&mut self) -> io::Result<()> {
        self.wait()?;
        self.file.sync_all()
    }
}

impl Write for Behind<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unsynced_bytes >= SYNC_EVERY_BYTES
            && self.under_way.as_ref().is_none_or(ScopedJoinHandle::is_finished)
        {
            self.wait()?;
            let file = self.file;
            self.under_way = Some(self.scope.spawn(|| file.sync_data()));
            self.unsynced_bytes = 0;
        }
        let len = self.file.write(bytes)?;
        self.unsynced_bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
