//! For whoever watches a vault: that somebody does, and what tells that it has changed.

use super::index::read_mark;
use super::open::lock;
use super::{Doing, Error, Locked, layout};
use crate::fs::VaultFs;
use crate::host::Host;

/// What a vault looks like to somebody without its keys, who reads a few file heads and lengths. As long as it is the same
/// there is nothing new here for the mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The manifest file's random id and its length in bytes, as in [`SyncState`](super::SyncState).
    pub manifest: (Vec<u8>, u64),
    /// Which file holds the mirror's settings.
    pub settings: Place,
    /// Which files say who this device is and what opens the vault.
    pub identity: [Place; 2],
}

/// What tells a file that is only ever replaced from the one that takes its place: birthmark, length in bytes, and when
/// it was put there. `None` if there is no such file.
type Place = Option<(Option<String>, u64, i64)>;

impl<H: Host> Locked<H> {
    /// Takes the lock that says that this vault is being watched, waiting a moment for a watch that is about to end.
    /// [`Error::Busy`] if another process keeps it.
    pub fn watch_lock(&self) -> Result<<H::Fs as VaultFs>::Lock, Error> {
        lock(self.host(), layout::WATCH_LOCK)
    }

    /// Whether a process watches this vault. One that was killed does not: the kernel has let go of its lock.
    pub fn is_watched(&self) -> bool {
        let fs = self.host().fs();
        // Looking makes no file.
        let was_ever = fs.len(layout::WATCH_LOCK).is_ok_and(|len| len.is_some());
        was_ever && fs.try_lock(layout::WATCH_LOCK).is_ok_and(|lock| lock.is_none())
    }

    /// What the vault looks like now.
    pub fn outline(&self) -> Result<Outline, Error> {
        Ok(Outline {
            manifest: read_mark(self.host())?.unwrap_or_default(),
            settings: self.place(layout::REMOTE)?,
            identity: [self.place(layout::DEVICE)?, self.place(layout::KEY_COPY)?],
        })
    }

    fn place(&self, name: &str) -> Result<Place, Error> {
        let fs = self.host().fs();
        let Some(len_bytes) = fs.len(name).doing("looking for changes")? else { return Ok(None) };
        // It may be replaced at this moment; then the next look sees it.
        Ok(Some((fs.birthmark(name), len_bytes, fs.placed_at(name).unwrap_or_default())))
    }
}
