//! Objects in the vault: reading with every check, setting damaged ones aside, taking in fetched ones.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

use super::{Doing, Error, Vault, layout};
use crate::crypto::{Keyring, object_name};
use crate::event::{Damage, Finding};
use crate::format::object::{MAX_OBJECT_BYTES, Object, identify_as};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{EntryId, ObjectName};
use crate::manifest::{Manifest, Record, Row, Subject};
use crate::parallel;

/// A thread is worth its start for no fewer,
pub(super) const OPENED_PER_THREAD: usize = 16;

/// or for so much to look at, in however few.
const LOOKED_AT_PER_THREAD_BYTES: usize = 64 << 10;

/// Objects that are taken in together.
const OBJECTS_PER_BATCH: usize = 64;

/// Sealed objects that are read at once.
const BATCH_BYTES: u64 = 8 << 20;

/// What the file of an object holds, or what is wrong with it.
pub(super) type Identified = (ObjectName, Result<Object, Damage>);

/// What became of a batch of fetched objects.
#[derive(Debug, Default)]
pub struct Received {
    /// Stored durably.
    pub stored: Vec<Row>,
    /// Of those, objects that were here before and had been damaged or lost.
    pub healed: Vec<Row>,
    /// Not stored.
    pub refused: Vec<(Row, Refused)>,
}

/// Why a fetched object was not taken in; the gravest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Its bytes are not those its name promises: a torn upload or bit rot on the mirror.
    WrongBytes,
    /// It is authentic and says something else than its row.
    NotAsAnnounced,
    /// The bytes are as named and the seal does not hold.
    Tampered,
}

/// What `work` makes of each object, by as many threads as are worth their start for what is to be looked at.
pub(super) fn look_at_all<T: Send, R: Send>(
    objects: Vec<T>,
    len_bytes: impl Fn(&T) -> usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let mean = objects.iter().map(len_bytes).sum::<usize>() / objects.len().max(1);
    let per_thread = LOOKED_AT_PER_THREAD_BYTES.div_ceil(mean.max(1)).min(OPENED_PER_THREAD);
    parallel::map(objects, per_thread, work)
}

/// `bytes`, if they are those that the name of the object promises.
pub fn named<B: AsRef<[u8]>>(name: &ObjectName, bytes: B) -> Result<B, Damage> {
    if object_name(bytes.as_ref()) == *name { Ok(bytes) } else { Err(Damage::BitRot) }
}

/// Opens `bytes`, which must be the object `name`.
pub fn identify_named<B: AsRef<[u8]>>(
    keyring: &Keyring,
    name: &ObjectName,
    bytes: B,
) -> Result<Object<B>, Damage> {
    identify_as(keyring, *name, named(name, bytes)?).map_err(|_| Damage::Tampered)
}

/// Whether a failed read shows that the file itself is not what it should be: too long, not a file, or on a bad spot
/// of the disk.
fn is_about_the_file(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidData)
        || [Errno::IO, Errno::LOOP, Errno::NXIO]
            .map(|errno| Some(errno.raw_os_error()))
            .contains(&error.raw_os_error())
}

/// What a read of an object's file says about it.
pub(super) fn judge<T>(read: io::Result<T>) -> Result<Result<T, Damage>, Error> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Err(Damage::Missing)),
        Err(error) if is_about_the_file(&error) => Ok(Err(Damage::BitRot)),
        Err(error) => Err(error).doing("reading an object"),
    }
}

/// An object's file, or what is wrong with it. A disk that cannot be asked says nothing about the file.
pub fn read_object<H: Host>(host: &H, name: &ObjectName) -> Result<Result<Vec<u8>, Damage>, Error> {
    judge(host.fs().read(&layout::object_path(name), MAX_OBJECT_BYTES as u64))
}

/// The entry an object belongs to, as far as the manifest knows.
pub fn entry_of(manifest: &Manifest, object: &ObjectName) -> Option<EntryId> {
    match &manifest.object(object)?.row.subject {
        Subject::Version(version) => Some(version.entry),
        Subject::Part => manifest.versions().find_map(|state| {
            let summary = state.summary.as_ref()?;
            summary.parts.contains(object).then_some(state.version.entry)
        }),
    }
}

impl<H: Host> Vault<H> {
    /// Stores sealed objects and lists them in the manifest, durably. The lock is held.
    pub(super) fn store_locked<B: AsRef<[u8]>>(&mut self, objects: &[Object<B>]) -> Result<(), Error> {
        self.put_locked(objects)?;
        self.list_locked(objects)
    }

    /// Writes sealed objects, durably; what could not be written whole is removed.
    pub(super) fn put_locked<B: AsRef<[u8]>>(&self, objects: &[Object<B>]) -> Result<(), Error> {
        let files = objects
            .iter()
            .map(|object| (layout::object_path(&object.name()), object.bytes.as_ref()))
            .collect::<Vec<_>>();
        let stored = self.host.fs().put(&files).doing("writing to the vault");
        if stored.is_err() {
            self.remove_refused(objects);
        }
        stored
    }

    /// Lists objects that were written, durably.
    pub(super) fn list_locked<B: AsRef<[u8]>>(&mut self, objects: &[Object<B>]) -> Result<(), Error> {
        let records = objects
            .iter()
            .map(|object| Record::Stored(object.row.clone(), object.summary.clone()))
            .collect::<Vec<_>>();
        let listed = self.append(&records);
        if listed.is_ok() {
            self.note_outgoing(objects);
        }
        if listed.is_err() && self.mark().is_ok_and(|mark| mark == self.known_mark()) {
            self.remove_refused(objects);
        }
        listed
    }

    /// What was refused must not turn up later as if it had been saved. On a disk that takes nothing any more it
    /// stays, until a check takes it in.
    pub(super) fn remove_refused<B: AsRef<[u8]>>(&self, objects: &[Object<B>]) {
        let is_listed = |object: &&Object<B>| {
            let state = self.known().and_then(|manifest| manifest.object(&object.row.object));
            state.is_some_and(|state| state.here)
        };
        let names = objects.iter().filter(|object| !is_listed(object));
        let names = names.map(|object| layout::object_path(&object.name())).collect::<Vec<_>>();
        let _ = self.host.fs().remove_all(&names);
    }

    /// The bytes of an object whose name they match. Damage is set aside and reported; the caller's reader checks
    /// the seal.
    pub fn object_bytes(&mut self, name: &ObjectName) -> Result<Vec<u8>, Error> {
        let read = read_object(&self.host, name)?.and_then(|bytes| named(name, bytes));
        read.map_err(|problem| self.damaged(*name, problem))
    }

    /// The files of many objects, or what is wrong with each.
    pub(super) fn read_objects(&self, names: &[ObjectName]) -> Result<Vec<Result<Vec<u8>, Damage>>, Error> {
        let paths = names.iter().map(layout::object_path).collect::<Vec<_>>();
        self.host.fs().read_many(&paths, MAX_OBJECT_BYTES as u64).into_iter().map(judge).collect()
    }

    /// Notes that an object is damaged, sets its file aside, and gives the error that says so.
    pub(super) fn damaged(&mut self, object: ObjectName, problem: Damage) -> Error {
        let entry = self.known().and_then(|manifest| entry_of(manifest, &object));
        // On a read-only disk nothing can be set aside; the damage is reported all the same.
        if let Ok(_lock) = self.lock() {
            if problem != Damage::Missing {
                self.set_aside(&object);
            }
            let _ = self.append(&[Record::Lost(object)]);
            let _ = self.write_status();
        }
        Error::Damaged { entry, object, problem }
    }

    /// Moves a damaged file to where it can be looked at and is in nobody's way.
    pub(super) fn set_aside(&self, object: &ObjectName) {
        // If even this fails the file stays; every read checks it again.
        let _ = self
            .free_quarantine_path(object)
            .and_then(|free| self.host.fs().rename(&layout::object_path(object), &free));
        let _ = self.bound_quarantine();
    }

    /// What the files of many objects hold, every check passed.
    pub(super) fn identify_many(&self, names: Vec<ObjectName>) -> Result<Vec<Identified>, Error> {
        let files = self.read_objects(&names)?;
        let keyring = &self.keyring;
        let read = names.into_iter().zip(files).collect::<Vec<_>>();
        let len_bytes = |(_, file): &(_, Result<Vec<u8>, _>)| file.as_ref().map_or(0, Vec::len);
        Ok(look_at_all(read, len_bytes, |(name, file)| {
            let object = file.and_then(|bytes| identify_named(keyring, &name, bytes));
            (name, object)
        }))
    }

    /// The first of `names`, taken off them: as many as may be in memory at once.
    pub(super) fn batch_of(&self, names: &mut Vec<ObjectName>) -> Result<Vec<ObjectName>, Error> {
        let mut count = 0;
        let mut bytes = 0;
        while count < names.len() && bytes < BATCH_BYTES {
            let len = self.host.fs().len(&layout::object_path(&names[count])).doing("reading the objects")?;
            bytes += len.unwrap_or(0);
            count += 1;
        }
        let rest = names.split_off(count);
        Ok(std::mem::replace(names, rest))
    }

    /// Takes in objects fetched from the mirror: each must have the bytes its name promises, an intact seal, and
    /// say inside what its row announced. What passes is durable when this returns.
    pub fn receive(&mut self, fetched: Vec<(Row, Vec<u8>)>) -> Result<Received, Error> {
        let mut received = Received::default();
        let mut objects = Vec::with_capacity(fetched.len());
        let keyring = &self.keyring;
        let identified = look_at_all(
            fetched,
            |(_, bytes)| bytes.len(),
            |(row, bytes)| {
                let object = identify_named(keyring, &row.object, bytes);
                (row, object)
            },
        );
        for (row, object) in identified {
            match object {
                Ok(object) if object.row == row => objects.push(object),
                Ok(_) => received.refused.push((row, Refused::NotAsAnnounced)),
                Err(Damage::Tampered) => received.refused.push((row, Refused::Tampered)),
                Err(Damage::BitRot | Damage::Missing) => received.refused.push((row, Refused::WrongBytes)),
            }
        }
        if objects.is_empty() {
            return Ok(received);
        }
        let _lock = self.lock()?;
        self.refresh_locked()?;
        for object in &objects {
            let healed = self.known().is_some_and(|manifest| was_here(manifest, &object.row));
            if healed {
                let entry = self.known().and_then(|manifest| entry_of(manifest, &object.name()));
                self.findings.push(Finding::Healed { object: object.name(), entry });
                received.healed.push(object.row.clone());
            }
        }
        self.store_locked(&objects)?;
        received.stored = objects.into_iter().map(|object| object.row).collect();
        Ok(received)
    }

    /// Takes in those of `rows` whose objects lie here already: they were fetched while the vault was locked. Each must pass
    /// the same checks as one that is fetched now. Gives those that did.
    pub fn take_in_stored(&mut self, rows: &[Row]) -> Result<Vec<Row>, Error> {
        let mut taken = Vec::new();
        for rows in rows.chunks(OBJECTS_PER_BATCH) {
            let identified = self.identify_many(rows.iter().map(|row| row.object).collect())?;
            let objects = rows.iter().zip(identified).filter_map(|(row, (_, object))| {
                let object = object.ok()?;
                (object.row == *row).then_some(object)
            });
            let objects = objects.collect::<Vec<_>>();
            if objects.is_empty() {
                continue;
            }
            let _lock = self.lock()?;
            self.refresh_locked()?;
            // Whoever put them there may have been stopped before their names were durable.
            let dirs =
                objects.iter().map(|object| layout::object_dir(&object.name())).collect::<BTreeSet<_>>();
            let dirs = dirs.iter().map(String::as_str).collect::<Vec<_>>();
            self.host.fs().sync_dirs(&dirs).doing("writing to the vault")?;
            self.list_locked(&objects)?;
            taken.extend(objects.into_iter().map(|object| object.row));
        }
        Ok(taken)
    }

    /// Whether `bytes` are the object `name`: its very bytes, an intact seal, and inside what is known of it. Nothing
    /// else is ever taken for it.
    pub fn is_copy_of(&self, name: &ObjectName, bytes: &[u8]) -> bool {
        self.identify_copy(name, bytes).is_some()
    }

    fn identify_copy<'a>(&self, name: &ObjectName, bytes: &'a [u8]) -> Option<Object<&'a [u8]>> {
        let object = identify_named(&self.keyring, name, bytes).ok()?;
        let known = self.known().and_then(|manifest| manifest.object(name));
        known.is_none_or(|state| state.row == object.row).then_some(object)
    }

    /// Takes an object back from a copy that was found elsewhere. False if it is not a copy of it.
    pub fn take_back(&mut self, name: &ObjectName, bytes: &[u8]) -> Result<bool, Error> {
        let _lock = self.lock()?;
        self.refresh_locked()?;
        let Some(object) = self.identify_copy(name, bytes) else { return Ok(false) };
        self.store_locked(&[object])?;
        self.write_status()?;
        Ok(true)
    }

    /// Notes what is known of the mirror.
    pub fn record(&mut self, records: &[Record]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.refresh_locked()?;
        self.append(records)
    }
}

impl<H: Host> Vault<H> {
    /// Drops objects that are done with, if nothing was learnt since that was decided. Says how many.
    pub fn drop_retired(&mut self, objects: &[ObjectName]) -> Result<u64, Error> {
        if objects.is_empty() {
            return Ok(0);
        }
        let decided_on = self.known_mark();
        let _lock = self.lock()?;
        self.refresh_locked()?;
        if self.known_mark() != decided_on {
            return Ok(0);
        }
        // Listed first: what is listed and not there would be damage; what is there and not listed is only in the way.
        self.append(&objects.iter().map(|object| Record::Dropped(*object)).collect::<Vec<_>>())?;
        let files = objects.iter().map(layout::object_path).collect::<Vec<_>>();
        self.host.fs().remove_all(&files).doing("removing what nobody needs any more")?;
        Ok(objects.len() as u64)
    }
}

/// Whether an absent object was in the vault before: a version that was opened, or a part listed by one.
fn was_here(manifest: &Manifest, row: &Row) -> bool {
    manifest.object(&row.object).is_some_and(|state| !state.here && state.was_here)
}
