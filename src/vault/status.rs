//! What `status` shows without a password: a few numbers in the clear, kept beside the vault.

use serde::{Deserialize, Serialize};

use super::index::Mark;
use super::{Doing, Error, Locked, Vault, layout};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::DeviceId;
use crate::manifest::{Counts, Manifest};

const MAX_STATUS_BYTES: u64 = 64 << 10;

/// Numbers about a vault. Worked out again whenever the manifest is read, so a wrong one does no harm
/// but that the index may be built again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// What the manifest amounts to.
    #[serde(flatten)]
    pub counts: Counts,
    /// Where the mirror is: `https://…` without credentials, or a directory.
    pub target: Option<String>,
    /// When the last sync finished, milliseconds since 1970 UTC.
    pub last_sync: Option<i64>,
    /// When the last backup was made and verified, milliseconds since 1970 UTC.
    pub last_backup: Option<i64>,
    /// How often a backup is to be made, in milliseconds, if that was asked for.
    pub backup_every: Option<i64>,
    /// Why the backup that was due last was not made.
    pub backup_failure: Option<String>,
    /// The password, as far as it can be told who set it.
    pub password: Option<PasswordSet>,
    /// Where the index ended: one that is shorter has lost something, even if it is whole.
    pub index: Option<Mark>,
}

/// When a password was set, and on which device: said to whoever tries another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordSet {
    /// When, by that device's clock, milliseconds since 1970 UTC.
    pub at: i64,
    /// Whether there was another one before.
    pub changed: bool,
    /// Whether that was this device. Its name is not in clear anywhere.
    pub here: bool,
    /// The other device's name, where it is known.
    pub by: Option<String>,
}

pub(super) fn read<H: Host>(host: &H) -> Status {
    let bytes = host.fs().read(layout::STATUS, MAX_STATUS_BYTES);
    bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write<H: Host>(host: &H, status: &Status) -> Result<(), Error> {
    let json = serde_json::to_vec(status).expect("plain numbers");
    host.fs().put_cache(layout::STATUS, &json).doing("writing the status")
}

/// Notes that a round while the vault is locked finished at `now_ms` and sent so many objects. The lock is held.
pub(super) fn note_mirrored<H: Host>(host: &H, now_ms: i64, pushed: u64) -> Result<(), Error> {
    let mut status = read(host);
    status.last_sync = Some(now_ms);
    status.counts.unsynced = status.counts.unsynced.saturating_sub(pushed);
    write(host, &status)
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
        let status = self.renewed(&before)?;
        if status == before { Ok(()) } else { write(&self.host, &status) }
    }

    /// The status `before`, with what is known now.
    fn renewed(&self, before: &Status) -> Result<Status, Error> {
        let mut counts = self.known().map_or(before.counts, Manifest::counts);
        // This device counts though it has not announced itself yet.
        counts.devices = counts.devices.max(1);
        let target = match self.remote_settings() {
            Ok(settings) => settings.map(|settings| settings.target.clone()),
            Err(Error::StateDamaged { .. }) => before.target.clone(),
            Err(error) => return Err(error),
        };
        let index = self.known().is_some().then(|| self.known_mark()).or_else(|| before.index.clone());
        Ok(Status { counts, target, index, ..before.clone() })
    }

    /// Objects damaged or gone on this disk, as far as the manifest was read.
    pub fn known_corrupt(&self) -> u64 {
        self.known().map_or(0, |manifest| manifest.counts().corrupt)
    }

    /// Notes who set the password. The lock is held.
    pub(super) fn note_password(&self) -> Result<(), Error> {
        let before = read(&self.host);
        let status = Status { password: self.password_set(&before)?, ..before.clone() };
        if status == before { Ok(()) } else { write(&self.host, &status) }
    }

    /// Who set the password: what is known, or the device that wrote the key file together with it.
    fn password_set(&self, before: &Status) -> Result<Option<PasswordSet>, Error> {
        let key_file = self.key_file()?;
        let Some(slot) = key_file.password() else { return Ok(None) };
        let known = |note: &PasswordSet| note.at == slot.set_at && (note.here || note.by.is_some());
        if let Some(note) = before.password.clone().filter(known) {
            return Ok(Some(note));
        }
        let together = (key_file.created_ms == slot.set_at).then_some(key_file.device);
        let here = together == Some(self.device.id);
        let by = together.filter(|_| !here).and_then(|device| self.device_name(device));
        Ok(Some(PasswordSet { at: slot.set_at, changed: slot.changed, here, by }))
    }

    /// What a device is called, if it is known.
    pub fn device_name(&self, device: DeviceId) -> Option<String> {
        if device == self.device.id {
            return Some(self.device.name.clone());
        }
        let known = self.known().and_then(|manifest| manifest.feeds().get(&device));
        known.map(|tip| tip.name.clone()).or_else(|| self.name_noted(device))
    }

    /// Counts new entries whose objects were just stored, without reading the manifest. The lock is held.
    pub(super) fn count_added(&self, entries: u64, objects: u64) -> Result<(), Error> {
        let mut status = read(&self.host);
        // The file is in the clear and unchecked.
        status.counts.entries = status.counts.entries.saturating_add(entries);
        status.counts.unsynced = status.counts.unsynced.saturating_add(objects);
        status.index = Some(self.known_mark());
        write(&self.host, &status)
    }

    /// Notes that a sync finished at `now_ms`.
    pub fn note_sync(&self, now_ms: i64) -> Result<(), Error> {
        let _lock = self.lock()?;
        let before = read(&self.host);
        let password = self.password_set(&before).unwrap_or_else(|_| before.password.clone());
        write(&self.host, &Status { last_sync: Some(now_ms), password, ..self.renewed(&before)? })
    }

    /// Notes that a backup was made and verified at `now_ms`.
    pub(super) fn note_backup(&self, now_ms: i64) -> Result<(), Error> {
        self.note(|status| (status.last_backup, status.backup_failure) = (Some(now_ms), None))
    }

    /// Changes what the status says beside the numbers.
    pub(super) fn note(&self, change: impl FnOnce(&mut Status)) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut status = self.renewed(&read(&self.host))?;
        change(&mut status);
        write(&self.host, &status)
    }

    /// The numbers as they were after the last change.
    pub fn status(&self) -> Status {
        read(&self.host)
    }
}
