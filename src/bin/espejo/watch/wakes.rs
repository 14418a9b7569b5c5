//! What wakes a watch: the kernel's word that a file changed, and the clocks.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use espejo::clock::{Clock as _, SystemClock};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::pace::Clocks;
use crate::file_system::FileSystem;

/// Two directories at most are watched, neither with what is below it: `local/` of the vault, where every change leaves a
/// trace, and `feeds/` of a mirror that is a folder on this machine.
pub struct Wakes {
    /// Something changed in the vault. Any number of changes are one wake.
    pub here: Arc<Notify>,
    /// Something changed in the folder that is the mirror.
    pub there: Arc<Notify>,
    /// `None` if the kernel tells nothing.
    watcher: Option<RecommendedWatcher>,
    feeds: Option<Watched>,
}

/// A directory that is watched, and which one it was: another may take its place.
#[derive(PartialEq, Eq)]
struct Watched {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Wakes {
    /// Watches the vault in `dir`; with the reason if that cannot be done, and looking now and then must do.
    pub fn new(dir: &Path) -> (Self, Option<String>) {
        let (here, there) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let local = dir.join("local");
        let watcher = notify::recommended_watcher({
            let (here, there, local) = (Arc::clone(&here), Arc::clone(&there), local.clone());
            move |event: notify::Result<Event>| {
                let (in_vault, elsewhere) = concerns(&local, event);
                if in_vault {
                    here.notify_one();
                }
                if elsewhere {
                    there.notify_one();
                }
            }
        });
        let watcher = watcher.and_then(|mut watcher| {
            watcher.watch(&local, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let (watcher, problem) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error.to_string())),
        };
        (Self { here, there, watcher, feeds: None }, problem)
    }

    /// Whether the kernel tells of changes in the vault.
    pub fn tell_of_vault(&self) -> bool {
        self.watcher.is_some()
    }

    /// Watches the feeds of the folder `base`, if it is one that tells, and nothing else from now on. Gives whether it tells.
    pub fn follow(&mut self, base: Option<&Path>) -> bool {
        let found = base.filter(|base| FileSystem::of(base).tells()).and_then(|base| {
            let path = base.join("feeds");
            let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_dir)?;
            Some(Watched { path, device_and_inode: (metadata.dev(), metadata.ino()) })
        });
        let Some(watcher) = &mut self.watcher else { return false };
        if self.feeds == found {
            return found.is_some();
        }
        if let Some(before) = self.feeds.take() {
            // If it is gone the kernel has forgotten it already.
            let _ = watcher.unwatch(&before.path);
        }
        let watched = found.filter(|it| watcher.watch(&it.path, RecursiveMode::NonRecursive).is_ok());
        if watched.is_some() {
            // What changed before it was watched.
            self.there.notify_one();
        }
        self.feeds = watched;
        self.feeds.is_some()
    }
}

/// Whether an event is of the vault whose `local` this is, and whether it is of something else. Reading changes nothing, and
/// would make every look the reason for another one.
fn concerns(local: &Path, event: notify::Result<Event>) -> (bool, bool) {
    match event {
        Ok(event) if matches!(event.kind, EventKind::Access(_)) => (false, false),
        Ok(event) if !event.need_rescan() && !event.paths.is_empty() => {
            let in_vault = event.paths.iter().filter(|path| path.starts_with(local)).count();
            (in_vault > 0, in_vault < event.paths.len())
        }
        // Events were lost.
        _ => (true, true),
    }
}

/// What the clocks say.
pub fn clocks() -> Clocks {
    let read = |id| std::time::Duration::try_from(clock_gettime(id)).unwrap_or_default();
    #[cfg(target_os = "linux")]
    let boot = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let boot = ClockId::Monotonic;
    Clocks { boot: read(boot), awake: read(ClockId::Monotonic), wall_ms: SystemClock.now_ms() }
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, CreateKind, Flag};

    use super::*;

    #[test]
    fn reading_is_no_change_and_lost_events_are_any() {
        let local = Path::new("/v/local");
        let event = |kind, path: &str| Ok(Event::new(kind).add_path(path.into()));
        let created = EventKind::Create(CreateKind::File);
        assert_eq!(concerns(local, event(created, "/v/local/manifest")), (true, false));
        assert_eq!(concerns(local, event(created, "/m/feeds/x")), (false, true));
        assert_eq!(
            concerns(local, event(EventKind::Access(AccessKind::Any), "/v/local/manifest")),
            (false, false)
        );
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(concerns(local, Ok(lost)), (true, true));
        assert_eq!(concerns(local, Err(notify::Error::generic("overflow"))), (true, true));
    }

    #[test]
    fn a_folder_is_followed_wherever_another_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (vault, mirror) = (dir.path().join("v"), dir.path().join("m"));
        std::fs::create_dir_all(vault.join("local")).unwrap();
        let (mut wakes, problem) = Wakes::new(&vault);
        assert_eq!(problem, None);
        assert!(!wakes.follow(Some(&mirror)), "it is not there yet");
        std::fs::create_dir_all(mirror.join("feeds")).unwrap();
        assert!(wakes.follow(Some(&mirror)) && wakes.follow(Some(&mirror)));
        let before = wakes.feeds.as_ref().unwrap().device_and_inode;
        std::fs::rename(&mirror, dir.path().join("old")).unwrap();
        std::fs::create_dir_all(mirror.join("feeds")).unwrap();
        assert!(wakes.follow(Some(&mirror)));
        assert_ne!(wakes.feeds.as_ref().unwrap().device_and_inode, before);
        assert!(!wakes.follow(None) && wakes.feeds.is_none());
    }
}
