//! Restoring: a whole vault from a backup, all of it or what is intact of it, and single entries into a living one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use super::{Backup, BackupSummary, damaged, is_sound};
use crate::crypto::Keyring;
use crate::format::backup::Kind;
use crate::format::keyfile::KeyFile;
use crate::format::object::Object;
use crate::fs::{StagedDir, VaultFs};
use crate::host::Host;
use crate::id::{DeviceId, EntryId, ObjectName, VersionId};
use crate::manifest::{Manifest, Record};
use crate::vault::entries::by_prefix;
use crate::vault::objects::identify_named;
use crate::vault::open::lay_out;
use crate::vault::state::Device;
use crate::vault::{Change, Doing, Edit, Error, Vault};
use crate::version::{Kind as VersionKind, MadeOn};

/// Restored files that share their syncs: no more than this many, and of that many bytes.
const FILES_PER_BATCH: usize = 2_048;
const BATCH_BYTES: usize = 8 << 20;

/// Objects that are taken out of a backup together.
const OBJECTS_PER_BATCH: usize = 64;

/// What was restored, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Objects.
    pub objects: u64,
    /// Files of the backup that are damaged or cut off, by their names in it.
    pub damaged: Vec<String>,
    /// What is to be shown of live entries that came back without all that belongs to them.
    pub incomplete: Vec<(EntryId, String)>,
}

/// Makes a vault of a backup in `target`, which must be missing or empty: with a new device identity, without a
/// mirror, and in place only when all of it is there and was read back. `host` is the machine with a given vault
/// directory.
pub fn restore<H: Host>(
    backup: &Backup,
    keyring: &Keyring,
    target: &Path,
    host: impl FnOnce(&Path) -> H,
    device_name: &str,
) -> Result<BackupSummary, Error> {
    let staged = stage(target)?;
    let host = host(staged.path());
    let mut put = Put::new(&host);
    let summary = backup.read_all(keyring, |entry, kind, bytes| put.file(&entry.path, kind, bytes))?;
    let key_files = put.end()?;
    let (vault, objects) = set_up(host, keyring, &key_files, device_name)?;
    vault.note_names(backup.names())?;
    if objects != summary.objects {
        return Err(damaged("what was restored of it does not read back; nothing was put in place"));
    }
    publish(staged)?;
    Ok(summary)
}

/// The same with every file that is intact, of a backup that is damaged or cut short.
pub fn salvage<H: Host>(
    backup: &Backup,
    keyring: &Keyring,
    target: &Path,
    host: impl FnOnce(&Path) -> H,
    device_name: &str,
) -> Result<Restored, Error> {
    let staged = stage(target)?;
    let host = host(staged.path());
    let mut put = Put::new(&host);
    let mut damaged = Vec::new();
    for (entry, bytes) in backup.files() {
        match (entry.kind(), bytes) {
            (Some(kind), Some(bytes)) if is_sound(keyring, entry, kind, &bytes) => {
                put.file(&entry.path, kind, bytes)?;
            }
            _ => damaged.push(entry.path.clone()),
        }
    }
    let mut key_files = put.end()?;
    key_files.extend(backup.last_key_files()?);
    let (mut vault, objects) = set_up(host, keyring, &key_files, device_name)?;
    vault.note_names(backup.names())?;
    let incomplete = incomplete(vault.manifest()?);
    publish(staged)?;
    Ok(Restored { objects, damaged, incomplete })
}

fn stage(target: &Path) -> Result<StagedDir, Error> {
    StagedDir::beside(target).map_err(|source| match source.kind() {
        ErrorKind::DirectoryNotEmpty => Error::NotEmpty,
        _ => Error::Io { doing: "making the directory", source },
    })
}

fn publish(staged: StagedDir) -> Result<(), Error> {
    staged.publish().map_err(|source| match source.kind() {
        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => Error::NotEmpty,
        _ => Error::Io { doing: "putting the vault in place", source },
    })
}

/// Writes what comes out of a backup, a batch at a time.
struct Put<'a, H: Host> {
    host: &'a H,
    batch: Vec<(String, Vec<u8>)>,
    batch_bytes: usize,
    key_files: Vec<Vec<u8>>,
}

impl<'a, H: Host> Put<'a, H> {
    fn new(host: &'a H) -> Self {
        Self { host, batch: Vec::new(), batch_bytes: 0, key_files: Vec::new() }
    }

    fn file(&mut self, path: &str, kind: Kind, bytes: Vec<u8>) -> Result<(), Error> {
        match kind {
            // It comes last: a directory without it is no vault.
            Kind::Marker => return Ok(()),
            Kind::Key => self.key_files.push(bytes.clone()),
            Kind::Object(_) => {}
        }
        self.batch_bytes += bytes.len();
        self.batch.push((path.to_owned(), bytes));
        let is_full = self.batch.len() == FILES_PER_BATCH || self.batch_bytes >= BATCH_BYTES;
        if is_full { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), Error> {
        let files = self.batch.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect::<Vec<_>>();
        self.host.fs().put(&files).doing("writing the vault")?;
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }

    /// The key files among it.
    fn end(mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.write()?;
        Ok(self.key_files)
    }
}

/// Makes a vault of the files that are there. Says how many objects can be read in it.
fn set_up<H: Host>(
    host: H,
    keyring: &Keyring,
    key_files: &[Vec<u8>],
    device_name: &str,
) -> Result<(Vault<H>, u64), Error> {
    let key_files = key_files.iter().filter_map(|bytes| KeyFile::decode(bytes).ok());
    let key_files = key_files.filter(|file| file.is_authentic(keyring));
    let newest = key_files.reduce(|a, b| a.joined(&b, keyring)).ok_or(Error::KeyFileMissing)?;
    let device = Device { id: DeviceId::random(host.entropy())?, name: device_name.to_owned() };
    let mut vault = lay_out(host, keyring.clone(), device, &newest)?;
    vault.rebuild_now()?;
    let check = vault.check()?;
    match check.is_clean() {
        true => Ok((vault, check.objects)),
        false => Err(damaged("what was restored of it does not read back; nothing was put in place")),
    }
}

/// Live entries of which a part, or the text that is shown, is not there.
fn incomplete(manifest: &Manifest) -> Vec<(EntryId, String)> {
    let here = |part: &ObjectName| manifest.object(part).is_some_and(|state| state.here);
    let shown = manifest.entry_ids().filter_map(|id| Some((id, manifest.resolve(id)?.current.id)));
    let shown = shown.filter_map(|(id, version)| Some((id, manifest.version(version)?.summary.as_ref()?)));
    let incomplete = shown.filter(|(_, summary)| !summary.parts.iter().all(here));
    let mut incomplete = incomplete.map(|(id, summary)| (id, summary.title.clone())).collect::<Vec<_>>();
    incomplete.sort_unstable();
    incomplete
}

/// How an entry of this vault and the same one in a backup differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// This vault does not know it.
    Unknown,
    /// It was deleted since.
    DeletedSince,
    /// It was changed since.
    ChangedSince,
    /// This vault has an older state of it.
    NewerThere,
}

/// An entry in a backup that is not the same here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// Which.
    pub entry: EntryId,
    /// Its title there.
    pub title: String,
    /// When it was written there, milliseconds since 1970 UTC.
    pub updated_at: i64,
    /// How it differs.
    pub difference: Difference,
    /// The version that was shown there.
    version: VersionId,
}

/// What a backup holds, opened to be taken into a living vault.
pub struct Contents {
    manifest: Manifest,
    /// What cannot be read of it.
    pub damaged: Vec<String>,
}

impl Contents {
    /// Opens every object of a backup.
    pub fn read(backup: &Backup, keyring: &Keyring) -> Self {
        let mut manifest = Manifest::default();
        let mut damaged = Vec::new();
        for (entry, bytes) in backup.files() {
            let Some(Kind::Object(name)) = entry.kind() else { continue };
            match bytes.and_then(|bytes| identify_named(keyring, &name, bytes).ok()) {
                Some(object) => manifest.apply(Record::Stored(object.row, object.summary)),
                None => damaged.push(entry.path.clone()),
            }
        }
        Self { manifest, damaged }
    }

    /// The entry in it that a person means by `text`.
    pub fn find(&self, text: &str) -> Result<EntryId, Error> {
        by_prefix("entry", text, self.manifest.entry_ids())
    }

    /// The objects an entry is made of.
    fn objects_of(&self, entry: EntryId) -> BTreeSet<ObjectName> {
        let states = self.manifest.versions_of(entry);
        let objects = states.flat_map(|state| {
            let parts = state.summary.iter().flat_map(|summary| summary.parts.iter());
            state.objects.iter().chain(parts).copied()
        });
        objects.collect()
    }
}

impl<H: Host> Vault<H> {
    /// The entries that differ from what `contents` has of them, by title; all of them, or these.
    pub fn differing(
        &mut self,
        contents: &Contents,
        entries: Option<&BTreeSet<EntryId>>,
    ) -> Result<Vec<Differing>, Error> {
        let here = self.manifest()?;
        let then = &contents.manifest;
        let mut differing = Vec::new();
        for entry in then.entry_ids().filter(|entry| entries.is_none_or(|wanted| wanted.contains(entry))) {
            let Some(was) = then.resolve(entry) else { continue };
            let knows = || {
                let mut versions = here.versions_of(entry).map(|state| &*state.version);
                versions.any(|it| it.id == was.current.id || it.context.covers(was.current.dot))
            };
            let difference = match here.resolve(entry).map(|is| is.current) {
                None => Difference::Unknown,
                Some(is) if is.id == was.current.id => continue,
                Some(_) if !knows() => Difference::NewerThere,
                Some(is) if is.kind == VersionKind::Tombstone => Difference::DeletedSince,
                Some(_) => Difference::ChangedSince,
            };
            let summary = then.newest_live(entry).and_then(|state| state.summary.as_ref());
            let title = summary.map(|summary| summary.title.clone()).unwrap_or_default();
            let (version, updated_at) = (was.current.id, was.current.dot.updated_at);
            differing.push(Differing { entry, title, updated_at, difference, version });
        }
        differing.sort_by(|a, b| (&a.title, a.entry).cmp(&(&b.title, b.entry)));
        Ok(differing)
    }

    /// Takes every object of a backup in that this vault has not, or only those of these entries. Nothing here is given up
    /// for it: versions are united, and the newest is shown. Says how many came.
    pub fn merge(
        &mut self,
        backup: &Backup,
        contents: &Contents,
        entries: Option<&BTreeSet<EntryId>>,
    ) -> Result<u64, Error> {
        let wanted = match entries {
            None => contents.manifest.objects().map(|state| state.row.object).collect(),
            Some(entries) => {
                entries.iter().flat_map(|entry| contents.objects_of(*entry)).collect::<BTreeSet<_>>()
            }
        };
        let here = self.manifest()?;
        let lacking = wanted.into_iter().filter(|name| here.object(name).is_none_or(|state| !state.here));
        let mut taken = 0;
        for names in lacking.collect::<Vec<_>>().chunks(OBJECTS_PER_BATCH) {
            let objects = names
                .iter()
                .filter_map(|name| identify_named(&self.keyring, name, backup.object(name)?).ok());
            let objects = objects.collect::<Vec<Object>>();
            taken += objects.len() as u64;
            let _lock = self.lock()?;
            self.refresh_locked()?;
            self.store_locked(&objects)?;
            self.write_status()?;
        }
        Ok(taken)
    }

    /// Makes what a backup shows of these entries their newest versions: whatever was done since stays in their history.
    /// Their objects are here. Says how many were changed.
    pub fn go_back(&mut self, entries: &[Differing]) -> Result<u64, Error> {
        let versions = entries.iter().map(|it| (it.entry, it.version)).collect::<Vec<_>>();
        self.make_current(&versions)
    }

    /// The same with the newest text a backup has of these entries, deleted in it or not.
    pub fn bring_back(&mut self, contents: &Contents, entries: &BTreeSet<EntryId>) -> Result<u64, Error> {
        let newest = |entry: &EntryId| Some((*entry, contents.manifest.newest_live(*entry)?.version.id));
        self.make_current(&entries.iter().filter_map(newest).collect::<Vec<_>>())
    }

    /// Saves what these versions say as new ones, where something else is shown.
    fn make_current(&mut self, versions: &[(EntryId, VersionId)]) -> Result<u64, Error> {
        let mut edits = Vec::new();
        for (entry, version) in versions {
            let shown = self.manifest()?.resolve(*entry).map(|it| it.current.id);
            let shown = match shown {
                // What cannot be read is not the same.
                Some(shown) => self.content(shown).ok().flatten(),
                None => None,
            };
            let wanted = self.content(*version)?;
            if shown != wanted {
                let change = wanted.map_or(Change::Delete, Change::Content);
                edits.push(Edit { entry: Some(*entry), made_on: MadeOn::Everything, change });
            }
        }
        Ok(self.save(&edits)?.len() as u64)
    }
}
