//! A vault that is mirrored while it is locked.
//!
//! For that the device keeps, outside the seal and for its owner's eyes only, the keys of the feeds and the way to the
//! mirror. With these it sends sealed objects, announces them, and fetches what others announced, verified by its hash.
//! What a version says is not read: it is taken in when the vault is opened next.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::ErrorKind;

use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::index::cached_feeds;
use super::objects::{Received, Refused, look_at_all, named, read_object};
use super::open::lock_vault;
use super::{Device, Doing, Error, Locked, RemoteSettings, Store, Vault, layout, status};
use crate::clock::Clock;
use crate::crypto::{Epoch, FeedKeys, Key, SecretBytes, sha256};
use crate::format::object::Object;
use crate::format::outgoing::{MAX_OUTGOING_BYTES, Outgoing, open_outgoing, seal_outgoing};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{ObjectName, VaultId};
use crate::manifest::{Manifest, ObjectState, Record, Row, Summary};

const MAX_ACCESS_BYTES: u64 = 1 << 20;
const MAX_NOTE_BYTES: u64 = 4_096;

/// What is kept outside the seal. Good for as long as the vault's own files are those it was made beside.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct AccessJson {
    vault: String,
    device: String,
    name: String,
    /// The birthmark of the vault's lock file: another one means that this vault was copied.
    born: Option<String>,
    /// A hash of the files that say who this device is, where its mirror is, and what opens the vault.
    beside: String,
    /// The keys of the feeds by epoch, in hex.
    feed_keys: BTreeMap<Epoch, Zeroizing<String>>,
    /// What is sealed under an older epoch is not believed by itself.
    min_epoch: Epoch,
    /// The key file that is surely on the mirror.
    key_file: String,
    remote: RemoteSettings,
}

/// What one round while the vault is locked leaves for the next, and for whoever opens the vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// A hash of the mirror's `feeds/` as everything had been fetched and sent.
    pub listing: [u8; 32],
    /// When the others are to be told what was read, if nothing else is announced before; 0 if they know.
    pub acknowledge_at: i64,
    /// Something was fetched that has not been taken in.
    pub arrived: bool,
    /// The mirror showed less than was known of it.
    pub look_closer: bool,
}

/// A vault that mirrors itself while it is locked.
pub struct Unattended<H: Host> {
    host: H,
    keys: FeedKeys,
    device: Device,
    remote: RemoteSettings,
    key_file: String,
    min_epoch: Epoch,
    manifest: Option<Manifest>,
}

/// Whether this vault is to be mirrored while it is locked.
pub(super) fn is_set<H: Host>(host: &H) -> bool {
    host.fs().len(layout::ACCESS).is_ok_and(|len| len.is_some())
}

/// The files that an access stands or falls with.
fn beside<H: Host>(host: &H) -> Result<String, Error> {
    let mut files = Vec::new();
    for name in [layout::DEVICE, layout::REMOTE, layout::KEY_COPY] {
        match host.fs().read(name, MAX_ACCESS_BYTES) {
            Ok(bytes) => files.push(sha256(&[&bytes])),
            Err(error) if error.kind() == ErrorKind::NotFound => files.push([0; 32]),
            Err(error) => return Err(error).doing("reading local state"),
        }
    }
    Ok(data_encoding::HEXLOWER.encode(&sha256(&[&files.concat()])))
}

pub(super) fn note<H: Host>(host: &H) -> Note {
    let bytes = host.fs().read(layout::UNATTENDED_NOTE, MAX_NOTE_BYTES);
    bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The lock is held.
fn set_note<H: Host>(host: &H, note: &Note) -> Result<(), Error> {
    let json = serde_json::to_vec(note).expect("plain data");
    host.fs().put(&[(layout::UNATTENDED_NOTE.to_owned(), &json)]).doing("writing local state")
}

/// The files of what waits to be announced.
fn outgoing_files<H: Host>(host: &H) -> Result<Vec<String>, Error> {
    let names = host.fs().list(layout::OUTGOING).doing("looking for what waits")?;
    Ok(names.into_iter().map(|name| format!("{}/{name}", layout::OUTGOING)).collect())
}

/// Removes the files of what waits in which nothing `waits` any more, or that cannot be read: the index knows it too.
fn prune<S: Store>(store: &S, waits: impl Fn(&ObjectName) -> bool) -> Result<(), Error> {
    let fs = store.host().fs();
    let mut done = Vec::new();
    for path in outgoing_files(store.host())? {
        let Ok(file) = fs.read(&path, MAX_OUTGOING_BYTES) else { continue };
        let rows = open_outgoing(store.keys(), &file).unwrap_or_default();
        if !rows.iter().any(|outgoing| waits(&outgoing.row.object)) {
            done.push(path);
        }
    }
    fs.remove_all(&done).doing("removing what was announced")
}

impl<H: Host> Vault<H> {
    /// Whether this vault is mirrored while it is locked.
    pub fn is_unattended(&self) -> bool {
        is_set(&self.host)
    }

    /// From now on, whoever reads this device's files can mirror the vault without its password; or nobody can any more.
    pub fn set_unattended(&mut self, on: bool) -> Result<(), Error> {
        if !on {
            if !self.is_unattended() {
                return Ok(());
            }
            let mut files = outgoing_files(&self.host)?;
            files.extend([layout::UNATTENDED_NOTE.to_owned(), layout::ACCESS.to_owned()]);
            let _lock = self.lock()?;
            return self.host.fs().remove_all(&files).doing("forgetting the keys of the feeds");
        }
        let manifest = self.manifest()?;
        let waiting = manifest.unmirrored().map(|state| {
            let parts = manifest.summary_of(state).map(|summary| summary.parts).unwrap_or_default();
            Outgoing { row: state.row.clone(), parts }
        });
        let mut waiting = waiting.collect::<Vec<_>>();
        // The file is named after the first: the same things are noted once.
        waiting.sort_unstable_by_key(|outgoing| outgoing.row.object);
        {
            let _lock = self.lock()?;
            self.put_outgoing(&waiting)?;
        }
        self.write_access(self.access()?)
    }

    /// Brings what is kept outside the seal up to date, if anything is.
    pub(super) fn renew_access(&self) -> Result<(), Error> {
        if !self.is_unattended() {
            return Ok(());
        }
        let access = self.access()?;
        if access == read_access(&self.host) { Ok(()) } else { self.write_access(access) }
    }

    /// What is to be kept; nothing if there is no mirror.
    fn access(&self) -> Result<Option<AccessJson>, Error> {
        let Some(remote) = self.remote_settings()? else { return Ok(None) };
        let keys = self.keyring.feed_keys();
        let hex = |key: &Key| Zeroizing::new(data_encoding::HEXLOWER.encode(key.as_bytes()));
        Ok(Some(AccessJson {
            vault: self.id().to_string(),
            device: self.device.id.to_string(),
            name: self.device.name.clone(),
            born: self.host.fs().birthmark(layout::LOCK),
            beside: beside(&self.host)?,
            feed_keys: keys.keys().iter().map(|(epoch, key)| (*epoch, hex(key))).collect(),
            min_epoch: self.key_file()?.min_epoch,
            key_file: self.sync_state()?.key_file,
            remote,
        }))
    }

    fn write_access(&self, access: Option<AccessJson>) -> Result<(), Error> {
        let fs = self.host.fs();
        let _lock = self.lock()?;
        let Some(access) = access else {
            return fs.remove_all(&[layout::ACCESS.to_owned()]).doing("forgetting the keys of the feeds");
        };
        let json = SecretBytes::from(serde_json::to_vec(&access).expect("plain data"));
        fs.put(&[(layout::ACCESS.to_owned(), &json)]).doing("keeping the keys of the feeds")
    }

    /// Notes what was just stored and waits to be announced, for when the vault is locked. The lock is held.
    pub(super) fn note_outgoing<B: AsRef<[u8]>>(&self, objects: &[Object<B>]) {
        if !self.is_unattended() {
            return;
        }
        let is_mirrored = |object: &&Object<B>| {
            let state = self.known().and_then(|manifest| manifest.object(&object.row.object));
            state.is_some_and(ObjectState::is_mirrored)
        };
        let waiting = objects.iter().filter(|object| !is_mirrored(object)).map(|object| Outgoing {
            row: object.row.clone(),
            parts: object.summary.as_ref().map(|summary| summary.parts.clone()).unwrap_or_default(),
        });
        // Saved is saved: what is not noted is sent by the next sync with the password.
        let _ = self.put_outgoing(&waiting.collect::<Vec<_>>());
    }

    fn put_outgoing(&self, waiting: &[Outgoing]) -> Result<(), Error> {
        let Some(first) = waiting.first() else { return Ok(()) };
        let file = seal_outgoing(&self.keyring, waiting, self.host.entropy())?;
        let name = format!("{}/{}", layout::OUTGOING, first.row.object);
        self.host.fs().put(&[(name, &file)]).doing("noting what waits")
    }

    /// Whether something was fetched while the vault was locked, and not taken in yet.
    pub fn has_arrivals(&self) -> bool {
        self.is_unattended() && note(&self.host).arrived
    }

    /// Whether the mirror showed less than was known of it while the vault was locked.
    pub fn is_to_look_closer(&self) -> bool {
        self.is_unattended() && note(&self.host).look_closer
    }

    /// What was fetched while the vault was locked has been taken in.
    pub fn note_taken_in(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        let before = note(&self.host);
        if before.arrived { set_note(&self.host, &Note { arrived: false, ..before }) } else { Ok(()) }
    }

    /// Notes that a sync with all the keys has finished: what waits, and what there is to go by while the vault is locked.
    pub fn settle_unattended(&mut self) -> Result<(), Error> {
        if !self.is_unattended() {
            return Ok(());
        }
        let waiting = self.manifest()?.unmirrored().map(|state| state.row.object).collect::<BTreeSet<_>>();
        self.renew_access()?;
        let _lock = self.lock()?;
        prune(self, |object| waiting.contains(object))?;
        let before = note(&self.host);
        let after = Note { arrived: false, look_closer: false, ..before };
        if after == before { Ok(()) } else { set_note(&self.host, &after) }
    }
}

fn read_access<H: Host>(host: &H) -> Option<AccessJson> {
    let bytes = SecretBytes::from(host.fs().read(layout::ACCESS, MAX_ACCESS_BYTES).ok()?);
    serde_json::from_slice(&bytes).ok()
}

fn read_keys(access: &AccessJson, vault: VaultId) -> Option<FeedKeys> {
    let mut keys = BTreeMap::new();
    for (epoch, hex) in &access.feed_keys {
        let bytes = SecretBytes::from(data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?);
        keys.insert(*epoch, Key::from_bytes(bytes[..].try_into().ok()?));
    }
    FeedKeys::new(vault, keys)
}

impl<H: Host> Locked<H> {
    /// Whether this vault is mirrored while it is locked.
    pub fn is_unattended(&self) -> bool {
        is_set(self.host())
    }

    /// The vault as far as it can be mirrored while it is locked. [`Error::PasswordNeeded`] if that was never allowed, or if
    /// what opens the vault, this device or its mirror have changed since it was opened last.
    pub fn unattended(self) -> Result<Unattended<H>, Error> {
        let access = read_access(self.host()).ok_or(Error::PasswordNeeded("its keys are not kept here"))?;
        let changed = Error::PasswordNeeded("this vault was copied, or changed, since it was opened last");
        let parsed = (|| {
            let vault = access.vault.parse::<VaultId>().ok().filter(|vault| self.id() == Some(*vault))?;
            Some((read_keys(&access, vault)?, access.device.parse().ok()?))
        })();
        let Some((keys, id)) = parsed else { return Err(changed) };
        let born = self.host().fs().birthmark(layout::LOCK);
        if access.born != born || access.beside != beside(self.host())? {
            return Err(changed);
        }
        if !access.remote.initialised || access.key_file.is_empty() {
            return Err(Error::PasswordNeeded("it has not been synced yet"));
        }
        let AccessJson { name, remote, key_file, min_epoch, .. } = access;
        let device = Device { id, name };
        Ok(Unattended { host: self.into_host(), keys, device, remote, key_file, min_epoch, manifest: None })
    }
}

impl<H: Host> Unattended<H> {
    /// Where the mirror is and how to get in.
    pub fn remote_settings(&self) -> &RemoteSettings {
        &self.remote
    }

    /// The key file that is surely on the mirror, by name.
    pub fn key_file(&self) -> &str {
        &self.key_file
    }

    /// What is sealed under an older epoch is not believed by itself.
    pub fn min_epoch(&self) -> Epoch {
        self.min_epoch
    }

    /// Whether something waits to be announced.
    pub fn has_outgoing(&self) -> Result<bool, Error> {
        Ok(!outgoing_files(&self.host)?.is_empty())
    }

    /// Entries with an open conflict, as of when the vault was opened last.
    pub fn known_conflicts(&self) -> u64 {
        status::read(&self.host).counts.conflicts
    }

    /// Objects damaged or gone on this disk, as of when the vault was opened last.
    pub fn known_corrupt(&self) -> u64 {
        status::read(&self.host).counts.corrupt
    }

    /// What the last round left.
    pub fn note(&self) -> Note {
        note(&self.host)
    }

    /// Leaves a note.
    pub fn set_note(&self, note: &Note) -> Result<(), Error> {
        let _lock = lock_vault(&self.host)?;
        set_note(&self.host, note)
    }

    /// Notes how things stand after a round, in which `pushed` objects were sent. What was announced waits no more.
    pub fn finish(&mut self, after: &Note, pushed: u64) -> Result<(), Error> {
        let waits = |object: &ObjectName| {
            let state = self.manifest.as_ref().and_then(|manifest| manifest.object(object));
            state.is_some_and(|state| state.here && !state.is_mirrored())
        };
        let _lock = lock_vault(&self.host)?;
        if self.manifest.is_some() {
            prune(self, waits)?;
        }
        if *after != note(&self.host) {
            set_note(&self.host, after)?;
        }
        status::note_mirrored(&self.host, self.host.clock().now_ms(), pushed)
    }

    /// What the feeds and the files here amount to.
    fn load(&self) -> Result<Manifest, Error> {
        let mut manifest = Manifest::default();
        cached_feeds(self)?.for_each(|record| manifest.apply(record));
        let mut here = HashSet::<_, FxBuildHasher>::default();
        for shard in self.host.fs().list(layout::OBJECTS).doing("reading the objects")? {
            let dir = format!("{}/{shard}", layout::OBJECTS);
            let names = self.host.fs().list(&dir).doing("reading the objects")?;
            here.extend(names.iter().filter_map(|name| name.parse::<ObjectName>().ok()));
        }
        for name in &here {
            let announced = manifest.object(name).map(|state| state.row.clone());
            announced.into_iter().for_each(|row| manifest.apply(Record::Stored(row, None)));
        }
        for path in outgoing_files(&self.host)? {
            let Ok(file) = self.host.fs().read(&path, MAX_OUTGOING_BYTES) else { continue };
            let waiting = open_outgoing(&self.keys, &file).unwrap_or_default().into_iter();
            for Outgoing { row, parts } in waiting.filter(|it| here.contains(&it.row.object)) {
                manifest.apply(Record::Stored(row, Some(Summary { parts, ..Summary::default() })));
            }
        }
        Ok(manifest)
    }
}

impl<H: Host> Store for Unattended<H> {
    type Host = H;
    type Keys = FeedKeys;

    fn host(&self) -> &H {
        &self.host
    }

    fn keys(&self) -> &FeedKeys {
        &self.keys
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn manifest(&mut self) -> Result<&Manifest, Error> {
        if self.manifest.is_none() {
            self.manifest = Some(self.load()?);
        }
        Ok(self.manifest.get_or_insert_default())
    }

    /// In memory: the cached segments say the same.
    fn record(&mut self, records: &[Record]) -> Result<(), Error> {
        self.manifest()?;
        let manifest = self.manifest.get_or_insert_default();
        records.iter().for_each(|record| manifest.apply(record.clone()));
        Ok(())
    }

    fn object_bytes(&mut self, name: &ObjectName) -> Result<Vec<u8>, Error> {
        let read = read_object(&self.host, name)?.and_then(|bytes| named(name, bytes));
        read.map_err(|problem| Error::Damaged { entry: None, object: *name, problem })
    }

    /// Each must have the bytes its name promises, which a holder of the keys announced. What is in it is looked at when it
    /// is taken in.
    fn receive(&mut self, fetched: Vec<(Row, Vec<u8>)>) -> Result<Received, Error> {
        let mut received = Received::default();
        let looked_at = look_at_all(
            fetched,
            |(_, bytes)| bytes.len(),
            |(row, bytes)| {
                let bytes = named(&row.object, bytes);
                (row, bytes)
            },
        );
        let mut intact = Vec::with_capacity(looked_at.len());
        for (row, bytes) in looked_at {
            match bytes {
                Ok(bytes) => intact.push((row, bytes)),
                Err(_) => received.refused.push((row, Refused::WrongBytes)),
            }
        }
        let files = intact.iter().map(|(row, bytes)| (layout::object_path(&row.object), &bytes[..]));
        let files = files.collect::<Vec<_>>();
        let lock = lock_vault(&self.host)?;
        self.host.fs().put(&files).doing("writing to the vault")?;
        drop(lock);
        received.stored = intact.into_iter().map(|(row, _)| row).collect();
        let stored = received.stored.iter().map(|row| Record::Stored(row.clone(), None));
        self.record(&stored.collect::<Vec<_>>())?;
        Ok(received)
    }
}
