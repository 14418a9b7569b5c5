//! The devices of a vault, as far as this one has read of them.

use super::retire::Feeds;
use crate::format::content::{PROGRAM, schemas_read_by};
use crate::host::Host;
use crate::id::DeviceId;
use crate::manifest::Manifest;
use crate::vault::{self, Vault};
use crate::version::Kind;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Its id.
    pub id: DeviceId,
    /// What it calls itself.
    pub name: String,
    /// Whether it is this one.
    pub this: bool,
    /// When it last announced something, by its own clock, milliseconds since 1970 UTC.
    pub last_seen: Option<i64>,
    /// Whether it has said that it has read all that this device announced.
    pub acknowledged: bool,
    /// Whether nobody waits for it.
    pub retired: bool,
    /// The program and version it last used.
    pub program: String,
}

/// How many live versions a device cannot read, by the program it says it uses; `None` if that is not known here.
pub fn unreadable_by(program: &str, manifest: &Manifest) -> Option<u64> {
    let schemas = schemas_read_by(program)?;
    let live = manifest.versions().filter(|state| state.version.kind == Kind::Live);
    let unreadable = live.filter(|state| {
        let mut written_in = manifest.encodings(state).map(|object| object.row.schema).peekable();
        written_in.peek().is_some() && !written_in.any(|schema| schemas.contains(&schema))
    });
    Some(unreadable.count() as u64)
}

/// Every device with a feed, and this one; this one first, then those seen last first.
pub fn devices<H: Host>(vault: &mut Vault<H>) -> Result<Vec<DeviceState>, vault::Error> {
    let this = vault.device().clone();
    let feeds = Feeds::read(vault)?;
    let manifest = vault.manifest()?;
    let own = manifest.feeds().get(&this.id);
    let last_own = own.map_or(0, |tip| tip.seq);
    let others = manifest.feeds().iter().filter(|(device, _)| **device != this.id);
    let others = others.map(|(device, tip)| DeviceState {
        id: *device,
        name: tip.name.clone(),
        this: false,
        last_seen: Some(tip.written_at),
        acknowledged: last_own == 0 || feeds.has_read(*device, this.id, last_own),
        retired: manifest.is_retired(*device),
        program: tip.program.clone(),
    });
    let here = DeviceState {
        id: this.id,
        name: this.name,
        this: true,
        last_seen: own.map(|tip| tip.written_at),
        acknowledged: true,
        retired: manifest.is_retired(this.id),
        program: PROGRAM.to_owned(),
    };
    let mut devices = others.chain([here]).collect::<Vec<_>>();
    devices.sort_by_key(|device| (!device.this, std::cmp::Reverse(device.last_seen), device.id));
    Ok(devices)
}
