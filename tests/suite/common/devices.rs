//! Devices that meet at one mirror, and days that pass.

use std::collections::BTreeSet;

use espejo::event::Finding;
use espejo::format::feed::{SegmentName, open_segment};
use espejo::history::Retention;
use espejo::id::{DeviceId, EntryId, ObjectName};
use espejo::remote::MemoryRemote;
use espejo::sync::{Error, Options, Report};
use tempfile::TempDir;

use super::{DAY_MS, NOW, TestClock, TestVault, clone_vault, new_vault, set_remote, try_sync};

pub const KEEP: Retention = Retention { age_ms: 30 * DAY_MS, versions: 2 };

pub fn keeping(retention: Retention) -> Options {
    Options { retention, ..Options::default() }
}

/// Devices that share a mirror, with one clock.
pub struct Devices {
    pub dirs: Vec<TempDir>,
    pub vaults: Vec<TestVault>,
    pub clock: TestClock,
    pub remote: MemoryRemote,
}

impl Devices {
    pub fn new(count: usize) -> Self {
        let (clock, remote) = (TestClock::at(NOW), MemoryRemote::new());
        let mut devices = Self { dirs: Vec::new(), vaults: Vec::new(), clock, remote };
        for _ in 0..count {
            devices.join();
        }
        devices
    }

    pub fn join(&mut self) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("device {}", self.vaults.len());
        let mut vault = match self.vaults.is_empty() {
            true => new_vault(dir.path(), &name, &self.clock),
            false => clone_vault(dir.path(), &name, &self.clock, &self.remote),
        };
        set_remote(&mut vault);
        self.dirs.push(dir);
        self.vaults.push(vault);
        self.sync(self.vaults.len() - 1)
    }

    pub fn sync(&mut self, device: usize) -> Report {
        self.try_sync(device, keeping(KEEP)).0.unwrap()
    }

    pub fn try_sync(&mut self, device: usize, options: Options) -> (Result<Report, Error>, Vec<Finding>) {
        try_sync(&mut self.vaults[device], &self.remote.share(), options)
    }

    /// So many days pass on which these devices sync.
    pub fn days(&mut self, days: i64, devices: &[usize]) -> u64 {
        let mut retired = 0;
        for _ in 0..days {
            self.clock.advance(DAY_MS + 60_000);
            for device in devices {
                retired += self.sync(*device).retired;
            }
        }
        retired
    }

    /// A month and a half in which everybody syncs now and then.
    pub fn months(&mut self, devices: &[usize]) -> u64 {
        let before = self.days(2, devices);
        self.clock.advance(40 * DAY_MS);
        before + self.days(4, devices)
    }

    pub fn versions(&mut self, device: usize, entry: EntryId) -> usize {
        self.vaults[device].history(entry).unwrap().len()
    }

    pub fn objects_on_mirror(&self) -> usize {
        self.remote.files().keys().filter(|name| name.starts_with("objects/")).count()
    }
}

/// What the announcements of the mirror say was released, by device.
pub fn released(remote: &MemoryRemote, vault: &TestVault) -> BTreeSet<(DeviceId, u32, ObjectName)> {
    let mut released = BTreeSet::new();
    for (name, bytes) in remote.files() {
        let Some(name) = name.strip_prefix("feeds/").and_then(SegmentName::parse) else { continue };
        for (announcement, _) in open_segment(vault.keyring(), &bytes).unwrap().announcements {
            released.extend(
                announcement.notices.released.iter().map(|(batch, file)| (name.device, *batch, *file)),
            );
        }
    }
    released
}
