//! What `status` shows without a password: a few numbers in the clear, kept beside the vault.

use serde::{Deserialize, Serialize};

use super::{Doing, Error, Locked, Vault, layout};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::manifest::Counts;

const MAX_STATUS_BYTES: u64 = 64 << 10;

/// Numbers about a vault. Worked out again whenever the manifest is read, so a wrong one does no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Live entries.
    pub entries: u64,
    /// Objects the mirror is not known to have.
    pub unsynced: u64,
    /// Entries with an open conflict.
    pub conflicts: u64,
    /// Announced objects that have not arrived.
    pub pending: u64,
    /// Objects damaged or gone on this disk.
    pub corrupt: u64,
    /// Devices known.
    pub devices: u64,
    /// Where the mirror is: `https://…` without credentials, or a directory.
    pub target: Option<String>,
    /// When the last sync finished, milliseconds since 1970 UTC.
    pub last_sync: Option<i64>,
}

fn read<H: Host>(host: &H) -> Status {
    let bytes = host.fs().read(layout::STATUS, MAX_STATUS_BYTES);
    bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write<H: Host>(host: &H, status: &Status) -> Result<(), Error> {
    let json = serde_json::to_vec(status).expect("plain numbers");
    host.fs().put_cache(layout::STATUS, &json).doing("writing the status")
}

impl<H: Host> Locked<H> {
    /// The numbers as they were after the last change.
    pub fn status(&self) -> Status {
        read(self.host())
    }
}

impl<H: Host> Vault<H> {
    /// Writes the numbers of the manifest as it was last read. The lock is held.
    pub(super) fn write_status(&self) -> Result<(), Error> {
        let before = read(&self.host);
        let counts = match self.known() {
            Some(manifest) => manifest.counts(),
            None => Counts {
                entries: before.entries,
                unsynced: before.unsynced,
                conflicts: before.conflicts,
                pending: before.pending,
                corrupt: before.corrupt,
                devices: before.devices,
            },
        };
        let target = match self.remote_settings() {
            Ok(settings) => settings.map(|settings| settings.target.clone()),
            Err(Error::StateDamaged { .. }) => before.target.clone(),
            Err(error) => return Err(error),
        };
        let status = Status {
            entries: counts.entries,
            unsynced: counts.unsynced,
            conflicts: counts.conflicts,
            pending: counts.pending,
            corrupt: counts.corrupt,
            devices: counts.devices.max(1),
            target,
            last_sync: before.last_sync,
        };
        if status == before { Ok(()) } else { write(&self.host, &status) }
    }

    /// Objects damaged or gone on this disk, as far as the manifest was read.
    pub fn known_corrupt(&self) -> u64 {
        self.known().map_or(0, |manifest| manifest.counts().corrupt)
    }

    /// Counts new entries whose objects were just stored, without reading the manifest. The lock is held.
    pub(super) fn count_added(&self, entries: u64, objects: u64) -> Result<(), Error> {
        let mut status = read(&self.host);
        status.entries += entries;
        status.unsynced += objects;
        write(&self.host, &status)
    }

    /// Notes that a sync finished at `now_ms`.
    pub fn note_sync(&self, now_ms: i64) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.write_status()?;
        let mut status = read(&self.host);
        status.last_sync = Some(now_ms);
        write(&self.host, &status)
    }
}
