//! What only this device keeps: who it is, where its mirror is, how far it has come. Sealed.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{Doing, Error, Store, Vault, layout};
use crate::crypto::{Keyring, SecretBytes};
use crate::event::Finding;
use crate::format::{FileType, open_sealed, read_header, seal_file};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{DeviceId, VaultId};
use crate::manifest::Record;

const MAX_STATE_BYTES: u64 = 16 << 20;

/// Name of a device whose state file was lost.
const LOST_NAME: &str = "this device";

/// Who this device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Random; new if another vault is seen to use it.
    pub id: DeviceId,
    /// As the person calls it.
    pub name: String,
}

#[derive(Serialize, Deserialize)]
struct DeviceJson {
    id: String,
    name: String,
    /// The birthmark of the vault's lock file, which is made once and never replaced: another one means that this
    /// vault was copied, or restored from a copy.
    #[serde(default)]
    born: Option<String>,
}

/// Devices that no feed names.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct OthersJson {
    /// What they were called.
    names: BTreeMap<String, String>,
    /// Those that were this one.
    former: Vec<String>,
}

/// Where the mirror is and how to get in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSettings {
    /// `https://…` or a directory.
    pub target: String,
    /// User name, for a server.
    pub user: Option<String>,
    /// Password, for a server.
    pub password: Option<String>,
    /// A certificate authority to trust besides the system's, PEM.
    pub ca_pem: Option<String>,
    /// Whether the mirror has been seen with this vault in it. From then on its absence is an alarm, not a beginning.
    pub initialised: bool,
}

impl RemoteSettings {
    /// A mirror that takes no login and was not seen yet.
    pub fn new(target: impl Into<String>) -> Self {
        Self { target: target.into(), user: None, password: None, ca_pem: None, initialised: false }
    }
}

impl Drop for RemoteSettings {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

impl std::fmt::Debug for RemoteSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteSettings({}, initialised: {})", self.target, self.initialised)
    }
}

/// How things stood when everything had been fetched and sent: if nothing moved since, there is nothing to plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncState {
    /// The manifest file's random id.
    pub manifest: Vec<u8>,
    /// How long the manifest was.
    pub manifest_len: u64,
    /// A hash of the names in the mirror's `feeds/`.
    pub listing: [u8; 32],
    /// When other devices should be told what was read, if nothing else is announced before; 0 if they know.
    #[serde(default)]
    pub acknowledge_at: i64,
    /// When obsolete files were last removed from the mirror, milliseconds since 1970 UTC.
    pub tidied_at: i64,
    /// The key file, by name, that was made sure of on the mirror last.
    #[serde(default)]
    pub key_file: String,
    /// The last file on the mirror that was read by a sampling check, which goes on after it.
    #[serde(default)]
    pub scrubbed_to: Option<String>,
    /// When that was, milliseconds since 1970 UTC; 0 for never.
    #[serde(default)]
    pub scrubbed_at: i64,
    /// The last object here that was read by such a look at a part of them, by name.
    #[serde(default)]
    pub checked_to: Option<String>,
}

/// Who this device is. A copy of a vault is another device before it writes anything: what two vaults wrote under one
/// id could not be told apart. So is a vault whose own id was lost.
pub(super) fn read_device<H: Host>(
    host: &H,
    keyring: &Keyring,
    findings: &mut Vec<Finding>,
) -> Result<Device, Error> {
    let read = read_state::<H, DeviceJson>(host, keyring, layout::DEVICE)?;
    let read = read.and_then(|json| Some((json.id.parse().ok()?, json.name, json.born)));
    let (name, finding) = match read {
        Some((id, name, born)) if born == host.fs().birthmark(layout::LOCK) => {
            return Ok(Device { id, name });
        }
        Some((_, name, _)) => (name, Finding::NewIdentity),
        None => (LOST_NAME.to_owned(), Finding::IdentityLost),
    };
    let device = Device { id: DeviceId::random(host.entropy())?, name };
    // On a read-only disk nothing will be written under the new id either.
    if super::open::lock_vault(host).and_then(|_lock| write_device(host, keyring, &device)).is_ok() {
        findings.push(finding);
    }
    Ok(device)
}

/// The vault's lock file is there.
pub(super) fn write_device<H: Host>(host: &H, keyring: &Keyring, device: &Device) -> Result<(), Error> {
    let born = host.fs().birthmark(layout::LOCK);
    let json = DeviceJson { id: device.id.to_string(), name: device.name.clone(), born };
    write_state(host, keyring, layout::DEVICE, &json)
}

/// `None` if the file is missing or damaged: all local state can be made again.
pub(super) fn read_state<H: Host, T: DeserializeOwned>(
    host: &H,
    keyring: &Keyring,
    name: &str,
) -> Result<Option<T>, Error> {
    let bytes = match host.fs().read(name, MAX_STATE_BYTES) {
        Ok(bytes) => bytes,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::FileTooLarge | ErrorKind::InvalidData
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).doing("reading local state"),
    };
    let opened = open_sealed(keyring, FileType::State, &bytes).ok();
    Ok(opened.and_then(|(_, json)| serde_json::from_slice(&json).ok()))
}

/// Whether this device's own state opens with these keys: then they are this vault's, whatever the marker says.
pub(super) fn is_at_home<H: Host>(host: &H, keyring: &Keyring) -> bool {
    read_state::<H, DeviceJson>(host, keyring, layout::DEVICE).is_ok_and(|device| device.is_some())
}

/// Whether this device's own state says, in clear, that it is of `vault`.
pub(super) fn names_vault<H: Host>(host: &H, vault: VaultId) -> bool {
    let bytes = host.fs().read(layout::DEVICE, MAX_STATE_BYTES);
    bytes.is_ok_and(|bytes| read_header(&bytes).is_ok_and(|(header, _)| header.vault == vault))
}

/// Whether what is known of the last sync can be read, if there is anything.
pub(super) fn is_readable_sync_state<H: Host>(host: &H, keyring: &Keyring) -> Result<bool, Error> {
    let exists = host.fs().len(layout::SYNC_STATE).doing("reading local state")?.is_some();
    Ok(!exists || read_state::<H, SyncState>(host, keyring, layout::SYNC_STATE)?.is_some())
}

pub(super) fn write_state<H: Host>(
    host: &H,
    keyring: &Keyring,
    name: &str,
    state: &impl Serialize,
) -> Result<(), Error> {
    let json = SecretBytes::from(serde_json::to_vec(state).expect("plain data"));
    let file = seal_file(keyring, FileType::State, 0, &json, host.entropy())?;
    host.fs().put(&[(name.to_owned(), &file)]).doing("writing local state")
}

impl<H: Host> Vault<H> {
    /// The mirror's settings, if one was set. That they are damaged is an error: it must not look as if there had
    /// never been a mirror.
    pub fn remote_settings(&self) -> Result<Option<RemoteSettings>, Error> {
        let settings = read_state(&self.host, &self.keyring, layout::REMOTE)?;
        if settings.is_none() && self.host.fs().len(layout::REMOTE).doing("reading local state")?.is_some() {
            return Err(Error::StateDamaged { file: layout::REMOTE });
        }
        Ok(settings)
    }

    /// Sets the mirror. If it is another one than before, everything known of the old one is forgotten.
    pub fn set_remote(&mut self, settings: &RemoteSettings) -> Result<(), Error> {
        let is_another = match self.remote_settings() {
            Ok(Some(before)) => before.target != settings.target,
            // If something is known of a mirror all the same, the settings were lost.
            Ok(None) => !self.manifest()?.feeds().is_empty() || !self.cached_segments()?.is_empty(),
            Err(Error::StateDamaged { .. }) => true,
            Err(error) => return Err(error),
        };
        let lock = self.lock()?;
        if is_another {
            self.forget_mirror()?;
        }
        write_state(&self.host, &self.keyring, layout::REMOTE, settings)?;
        self.write_status()?;
        drop(lock);
        self.renew_access()
    }

    /// Forgets the mirror and everything known of it. Nothing on it is touched.
    pub fn forget_remote(&mut self) -> Result<(), Error> {
        // While the vault is locked nothing goes there any more either.
        self.set_unattended(false)?;
        let _lock = self.lock()?;
        self.forget_mirror()?;
        self.host.fs().remove_all(&[layout::REMOTE.to_owned()]).doing("forgetting the mirror")?;
        self.write_status()
    }

    fn forget_mirror(&mut self) -> Result<(), Error> {
        self.refresh_locked()?;
        let this = self.device.id.to_string();
        let announced = self.known().is_some_and(|manifest| manifest.feeds().contains_key(&self.device.id));
        if announced || self.cached_segments()?.iter().any(|name| name.starts_with(&this)) {
            // It may be the same mirror that is set again, having lost this device's feed: begun anew under the same id,
            // those who read the first one would pass over the second.
            self.take_another_id(true)?;
        }
        // First the index: one that speaks of feeds whose segments are gone looks robbed.
        self.append(&[Record::NewMirror])?;
        // Segments that came back after a power cut would be announced on the next mirror, which lacks their objects.
        let feeds = self.host.fs().list(layout::FEEDS).doing("forgetting the mirror")?;
        let mut known = feeds.iter().map(|name| format!("{}/{name}", layout::FEEDS)).collect::<Vec<_>>();
        known.push(layout::SYNC_STATE.to_owned());
        self.host.fs().remove_all(&known).doing("forgetting the mirror")
    }

    /// How things stood after the last sync; the default if that is not known.
    pub fn sync_state(&self) -> Result<SyncState, Error> {
        Ok(read_state(&self.host, &self.keyring, layout::SYNC_STATE)?.unwrap_or_default())
    }

    /// Notes how things stand after a sync.
    pub fn set_sync_state(&self, state: &SyncState) -> Result<(), Error> {
        let _lock = self.lock()?;
        write_state(&self.host, &self.keyring, layout::SYNC_STATE, state)
    }

    /// Calls this device something else. The next sync tells the others.
    pub fn rename_device(&mut self, name: &str) -> Result<(), Error> {
        let device = Device { name: name.to_owned(), ..self.device.clone() };
        let state = SyncState { acknowledge_at: i64::MIN, ..self.sync_state()? };
        let lock = self.lock()?;
        write_device(&self.host, &self.keyring, &device)?;
        write_state(&self.host, &self.keyring, layout::SYNC_STATE, &state)?;
        self.device = device;
        drop(lock);
        // If not now, then when it is opened next.
        let _ = self.renew_access();
        Ok(())
    }

    /// Nobody waits for `device` any more, as long as it announces nothing. The next sync tells the others.
    pub fn retire_device(&mut self, device: DeviceId) -> Result<(), Error> {
        let id = device.to_string();
        let this = self.device.id;
        let tip = self.manifest()?.feeds().get(&device).filter(|_| device != this);
        let seq = tip.ok_or(Error::NotFound { what: "device", id })?.seq;
        self.record(&[Record::DeviceRetired(device, seq, false)])
    }

    /// Becomes another device: its old id is in use elsewhere.
    pub fn take_new_identity(&mut self) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.take_another_id(false)?;
        self.findings.push(Finding::NewIdentity);
        Ok(())
    }

    /// `alone`: nobody else can have the old one.
    fn take_another_id(&mut self, alone: bool) -> Result<(), Error> {
        let device = Device { id: DeviceId::random(self.host.entropy())?, name: self.device.name.clone() };
        // What was written under the old id is still this device's, as far as a person is concerned.
        let mut others = self.others()?;
        others.names.insert(self.device.id.to_string(), self.device.name.clone());
        if alone {
            others.former.push(self.device.id.to_string());
        }
        self.write_others(&others)?;
        write_device(&self.host, &self.keyring, &device)?;
        self.device = device;
        Ok(())
    }

    /// What is noted of devices that no feed names any more. Nothing but a word is lost with it.
    fn others(&self) -> Result<OthersJson, Error> {
        Ok(read_state(&self.host, &self.keyring, layout::OTHERS)?.unwrap_or_default())
    }

    fn write_others(&self, others: &OthersJson) -> Result<(), Error> {
        write_state(&self.host, &self.keyring, layout::OTHERS, others)
    }

    /// What a device was called that no feed names any more.
    pub(super) fn name_noted(&self, device: DeviceId) -> Option<String> {
        self.others().ok()?.names.remove(&device.to_string())
    }

    /// Notes what devices are called that no feed here may ever name.
    pub(super) fn note_names(&self, names: BTreeMap<DeviceId, String>) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut others = self.others()?;
        others.names.extend(names.into_iter().map(|(id, name)| (id.to_string(), name)));
        self.write_others(&others)
    }

    /// Ids that this device had and nobody else has: nobody need wait for them.
    pub fn former_ids(&self) -> Result<Vec<DeviceId>, Error> {
        let former = self.others()?.former;
        let former = former.iter().filter_map(|id| id.parse().ok());
        // Stopped before it took another one, this device has it still.
        Ok(former.filter(|id| *id != self.device.id).collect())
    }

    /// What the devices are called that are known here, this one among them.
    pub(super) fn names(&mut self) -> Result<BTreeMap<DeviceId, String>, Error> {
        let noted = self.others()?.names.into_iter();
        let mut names =
            noted.filter_map(|(id, name)| Some((id.parse().ok()?, name))).collect::<BTreeMap<_, _>>();
        names.extend(self.manifest()?.feeds().iter().map(|(device, tip)| (*device, tip.name.clone())));
        names.insert(self.device.id, self.device.name.clone());
        Ok(names)
    }
}
