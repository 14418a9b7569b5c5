//! What the owner of the mirror can see, computed from the vault: everything that is not inside a seal.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use super::segments::segment_names;
use crate::crypto::Epoch;
use crate::format::keyfile::KeyFile;
use crate::host::Host;
use crate::id::{DeviceId, ObjectName, VaultId};
use crate::manifest::{ObjectState, Subject};
use crate::vault::Vault;

/// What is in clear on the mirror: in names, lengths, headers, tables of packs and key files. When each file came, and
/// what was fetched by whom, is seen besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// Whose mirror it is: a number, not a name.
    pub vault: VaultId,
    /// The devices that write to it.
    pub devices: BTreeMap<DeviceId, Activity>,
    /// Files that hold objects.
    pub files: u64,
    /// Of those, packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many different lengths objects have.
    pub lengths: u64,
    /// Objects that are saved versions: a deletion looks like any other.
    pub versions: u64,
    /// Objects that are parts of attachments or of long bodies.
    pub parts: u64,
    /// The schemas that stand in headers; 0 for parts.
    pub schemas: BTreeSet<u32>,
    /// The key epochs that stand in headers.
    pub epochs: BTreeSet<Epoch>,
    /// The key files, oldest first.
    pub key_files: Vec<KeyFile>,
}

/// What one device is seen to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// How often it announced something.
    pub announcements: u64,
    /// The files it put there to hold objects.
    pub files: u64,
}

/// What the mirror's owner can see of this vault, as far as this device knows the mirror.
pub fn exposure<H: Host>(vault: &mut Vault<H>) -> Result<Exposure, Error> {
    let mut devices = BTreeMap::<DeviceId, Activity>::new();
    for name in segment_names(vault)? {
        let activity = devices.entry(name.device).or_default();
        activity.announcements = activity.announcements.max(name.to);
    }
    let key_files = vault.key_files()?;
    let key_files = key_files.iter().filter_map(|(_, file)| KeyFile::decode(file).ok()).collect();
    let id = vault.id();
    let manifest = vault.manifest()?;
    let mirrored = || manifest.objects().filter_map(|state| Some((state, state.mirrored()?)));
    let mut files = BTreeMap::<ObjectName, (DeviceId, u64, Vec<&ObjectState>)>::new();
    for (state, at) in mirrored() {
        files.entry(at.file).or_insert((at.writer, at.file_len_bytes, Vec::new())).2.push(state);
    }
    for (writer, ..) in files.values() {
        devices.entry(*writer).or_default().files += 1;
    }
    let is_pack = |(file, (_, _, objects)): &(&ObjectName, &(_, _, Vec<&ObjectState>))| {
        objects.iter().any(|state| state.row.object != **file)
    };
    let rows = || mirrored().map(|(state, _)| &state.row);
    let parts = rows().filter(|row| row.subject == Subject::Part).count() as u64;
    Ok(Exposure {
        vault: id,
        devices,
        files: files.len() as u64,
        packs: files.iter().filter(is_pack).count() as u64,
        bytes: files.values().map(|(_, len_bytes, _)| len_bytes).sum(),
        lengths: rows().map(|row| row.len_bytes).collect::<BTreeSet<_>>().len() as u64,
        versions: rows().count() as u64 - parts,
        parts,
        schemas: rows().map(|row| row.schema).collect(),
        epochs: rows().map(|row| row.epoch).collect(),
        key_files,
    })
}
