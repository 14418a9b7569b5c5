//! The index of a vault: everything known about its versions and objects, so that listing opens no file.
//!
//! A cache. Each [`Record`] restates something an object or a feed segment says; deleting the manifest costs time,
//! never data. [`Manifest`] is what a sequence of records amounts to, and applying a record twice changes nothing.

mod objects;
mod record;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use self::objects::Objects;
pub use self::record::{FeedTip, FilePlace, Location, Notices, Record, Row, Subject, Summary};
use self::state::Packs;
pub use self::state::{ObjectState, VersionState};
use crate::id::{DeviceId, EntryId, ObjectName, VersionId};
use crate::version::{Dot, Kind, Resolved, Version, resolve};

/// The index.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    // Hashed, because ids are random: a tree of many takes several looks into memory for each. Without a seed, so that
    // the same records give the same order each time. Boxed, because many of a map's slots are empty.
    versions: HashMap<VersionId, Box<VersionState>, FxBuildHasher>,
    entries: HashMap<EntryId, SmallVec<[VersionId; 1]>, FxBuildHasher>,
    objects: Objects,
    packs: Packs,
    feeds: BTreeMap<DeviceId, FeedTip>,
    /// Released files: true if this device has removed its own.
    released: BTreeMap<FilePlace, bool>,
    /// Buried deletions: true if this mirror's feeds tell of them.
    buried: BTreeMap<VersionId, bool>,
    /// Retired devices: the last announcement that was known then, and whether it is told on this mirror.
    retired_devices: BTreeMap<DeviceId, (u64, bool)>,
    records: u64,
    /// Worked out when it is first asked for, until the next record.
    counts: OnceLock<Counts>,
}

impl Manifest {
    /// Takes one record in.
    pub fn apply(&mut self, record: Record) {
        self.records += 1;
        self.counts.take();
        match record {
            Record::Stored(row, summary) => {
                let row = self.learn(row, true, summary);
                let state = self.objects.get_or_learn(&row);
                // What was opened counts, whatever was announced before.
                state.correct(row, &mut self.packs);
                (state.here, state.was_here) = (true, true);
            }
            Record::Lost(object) => {
                if let Some(state) = self.objects.get_mut(&object) {
                    (state.here, state.was_here) = (false, true);
                }
            }
            Record::Mirrored(row, location) => self.locate(row, location),
            Record::NotMirrored(object) => {
                if let Some(state) = self.objects.get_mut(&object) {
                    state.forget_places();
                }
            }
            Record::Feed(device, tip) => {
                self.feeds.insert(device, tip);
            }
            Record::NewMirror => {
                self.feeds.clear();
                self.released.clear();
                self.retired_devices.clear();
                self.buried.values_mut().for_each(|announced| *announced = false);
                for state in self.objects.iter_mut() {
                    state.forget_places();
                    (state.released, state.retired) = (false, false);
                }
                self.packs.retain_used();
            }
            Record::Released(file, removed) => self.release(file, removed),
            Record::Buried(version, announced) => self.bury(version, announced),
            Record::DeviceRetired(device, seq, announced) => {
                let known = self.retired_devices.entry(device).or_insert((seq, announced));
                if known.0 <= seq {
                    *known = (seq, announced);
                }
            }
            Record::Retired(object, retired) => {
                if let Some(state) = self.objects.get_mut(&object).filter(|state| !state.is_mirrored()) {
                    (state.released, state.retired) = (true, retired);
                }
            }
            Record::Dropped(object) => self.forget(object),
        }
    }

    /// Whether this was learnt from the mirror before: it is read again as long as something before it is missing there.
    pub fn knows(&self, record: &Record) -> bool {
        match record {
            Record::Mirrored(row, location) => {
                let state = self.objects.get(&row.object);
                state.is_some_and(|state| state.places().any(|known| known == *location))
            }
            Record::Released(file, _) => self.released.contains_key(file),
            Record::Buried(version, _) => self.buried.get(&version.id) == Some(&true),
            Record::DeviceRetired(device, seq, _) => {
                self.retired_devices.get(device).is_some_and(|(known, announced)| *announced && seq <= known)
            }
            _ => false,
        }
    }

    fn locate(&mut self, row: Row, location: Location) {
        if self.released.contains_key(&location.file_place()) {
            if let Some(state) = self.objects.get_mut(&row.object) {
                state.released |= !state.is_mirrored();
            }
            return;
        }
        let state = match self.objects.get_mut(&row.object) {
            // Whatever it says is known.
            Some(state) if state.row == row => state,
            _ => {
                let row = self.learn(row, false, None);
                self.objects.get_or_learn(&row)
            }
        };
        state.locate(location, &mut self.packs);
        (state.released, state.retired) = (false, false);
    }

    fn release(&mut self, file: FilePlace, removed: bool) {
        if self.released.insert(file, removed).is_some() {
            return;
        }
        let mut forgotten = Vec::new();
        let mut leave = |state: &mut ObjectState| {
            if state.leave(file) {
                state.released = true;
                // What never came here is not waited for.
                forgotten.extend((!state.was_here).then_some(state.row.object));
            }
        };
        // A file that has an object's name is that object alone. Only in a pack may be any.
        match self.objects.get_mut(&file.2) {
            Some(state) => leave(state),
            None => self.objects.iter_mut().for_each(leave),
        }
        forgotten.into_iter().for_each(|object| self.forget(object));
        self.packs.retain_used();
    }

    fn bury(&mut self, version: Version, announced: bool) {
        let version = Arc::new(version);
        self.buried.insert(version.id, announced);
        let state = self.version_mut(&version);
        if !state.opened {
            let announced = std::mem::replace(&mut state.version, version.clone());
            state.opened = true;
            self.correct_entry(version.id, announced.entry, version.entry);
        }
    }

    /// Forgets an object, and the version it holds if that has no other and is not buried.
    fn forget(&mut self, object: ObjectName) {
        let Some(state) = self.objects.remove(&object) else { return };
        let Subject::Version(version) = &state.row.subject else { return };
        let Some(known) = self.versions.get_mut(&version.id) else { return };
        known.objects.retain(|other| *other != object);
        if self.buried.contains_key(&version.id) {
            return;
        }
        if known.objects.is_empty() {
            let entry = known.version.entry;
            self.versions.remove(&version.id);
            self.leave_entry(version.id, entry);
        } else if !known.objects.iter().any(|object| self.objects.get(object).is_some_and(|it| it.was_here)) {
            // What is left of it was only announced.
            (known.opened, known.summary) = (false, None);
        }
    }

    fn leave_entry(&mut self, version: VersionId, entry: EntryId) {
        let ids = self.entries.entry(entry).or_default();
        ids.retain(|id| *id != version);
        if ids.is_empty() {
            self.entries.remove(&entry);
        }
    }

    /// A version was announced as one entry's and is another's.
    fn correct_entry(&mut self, version: VersionId, announced: EntryId, entry: EntryId) {
        if announced != entry {
            self.leave_entry(version, announced);
            self.entries.entry(entry).or_default().push(version);
        }
    }

    /// The version, known from now on, and as one of its entry.
    fn version_mut(&mut self, version: &Arc<Version>) -> &mut VersionState {
        self.versions.entry(version.id).or_insert_with(|| {
            self.entries.entry(version.entry).or_default().push(version.id);
            VersionState::new(version.clone()).into()
        })
    }

    /// Takes in what a row says. Gives the row, with the version in it that is held already if that says the same: most
    /// are met several times.
    fn learn(&mut self, mut row: Row, opened: bool, summary: Option<Summary>) -> Row {
        let Subject::Version(version) = &mut row.subject else { return row };
        let state = self.version_mut(version);
        if let Err(at) = state.objects.binary_search(&row.object) {
            state.objects.insert(at, row.object);
        }
        if opened {
            // An encoding that this program cannot read has none.
            state.summary = state.summary.take().or(summary);
        }
        if state.version == *version {
            version.clone_from(&state.version);
            state.opened |= opened;
        } else if opened && !state.opened {
            // What was opened counts, whatever was announced before.
            let announced = std::mem::replace(&mut state.version, version.clone());
            state.opened = true;
            let (id, entry) = (version.id, version.entry);
            self.correct_entry(id, announced.entry, entry);
        }
        row
    }

    /// The records that would build this manifest again, without what later ones made void.
    pub fn to_records(&self) -> impl Iterator<Item = Record> + '_ {
        let objects = self.objects_by_name().into_iter().flat_map(|state| {
            let stored = state.was_here && self.is_opened(&state.row);
            let mirrored = state.places().map(|location| Record::Mirrored(state.row.clone(), location));
            // What was lost stays known, so that its absence is noticed.
            let lost = (state.was_here && !state.here).then_some(Record::Lost(state.row.object));
            let stored = stored.then(|| Record::Stored(state.row.clone(), self.summary_of(state)));
            let retired = state.released.then_some(Record::Retired(state.row.object, state.retired));
            stored.into_iter().chain(mirrored).chain(lost).chain(retired)
        });
        // What was released comes first, so that nothing is looked for there.
        self.standing_records().chain(objects)
    }

    /// What is known of the mirror beside where each object is.
    pub fn standing_records(&self) -> impl Iterator<Item = Record> + '_ {
        let released = self.released.iter().map(|(file, removed)| Record::Released(*file, *removed));
        let buried = self.buried().map(|(version, announced)| Record::Buried(version.clone(), announced));
        let retired = self.retired_devices.iter();
        let retired = retired.map(|(device, (seq, told))| Record::DeviceRetired(*device, *seq, *told));
        let feeds = self.feeds.iter().map(|(device, tip)| Record::Feed(*device, tip.clone()));
        released.chain(buried).chain(retired).chain(feeds)
    }

    /// The files on the mirror that nobody needs, and whether this device has removed them.
    pub fn released(&self) -> &BTreeMap<FilePlace, bool> {
        &self.released
    }

    /// The deletions that need no object, and whether they are announced on this mirror.
    pub fn buried(&self) -> impl Iterator<Item = (&Version, bool)> {
        let versions = self.buried.iter();
        versions.filter_map(|(id, announced)| Some((&*self.versions.get(id)?.version, *announced)))
    }

    /// Whether this version is a deletion that needs no object.
    pub fn is_buried(&self, version: VersionId) -> bool {
        self.buried.contains_key(&version)
    }

    /// The devices that were retired: the last announcement that was known then, and whether that is announced.
    pub fn retired_devices(&self) -> &BTreeMap<DeviceId, (u64, bool)> {
        &self.retired_devices
    }

    /// What is to be announced here beside what is to be sent.
    pub fn unsaid(&self) -> Notices {
        let buried = self.buried().filter(|(_, announced)| !announced).map(|(version, _)| version.clone());
        let retired = self.retired_devices.iter().filter(|(_, (_, announced))| !announced);
        Notices {
            released: Vec::new(),
            buried: buried.collect(),
            retired: retired.map(|(device, (seq, _))| (*device, *seq)).collect(),
        }
    }

    /// Whether nobody waits for `device`: it was retired and has announced nothing since.
    pub fn is_retired(&self, device: DeviceId) -> bool {
        let last = self.feeds.get(&device).map_or(0, |tip| tip.seq);
        self.retired_devices.get(&device).is_some_and(|(seq, _)| last <= *seq)
    }

    /// Objects that are or were here, were released, and are nowhere on the mirror.
    pub fn loose(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects().filter(|state| state.released && !state.is_mirrored() && state.was_here)
    }

    fn is_opened(&self, row: &Row) -> bool {
        match &row.subject {
            Subject::Version(version) => self.versions.get(&version.id).is_some_and(|state| state.opened),
            Subject::Part => true,
        }
    }

    /// What is known of the content of the live version it holds.
    pub fn summary_of(&self, state: &ObjectState) -> Option<Summary> {
        match &state.row.subject {
            Subject::Version(version) => self.versions.get(&version.id)?.summary.clone(),
            Subject::Part => None,
        }
    }

    /// How many records were applied: against the number of objects it tells when to rewrite the file.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Every object known, in no particular order.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects.iter()
    }

    /// Every object known, in the order of their names: those in one directory stand together.
    pub fn objects_by_name(&self) -> Vec<&ObjectState> {
        let mut objects = self.objects.iter().collect::<Vec<_>>();
        objects.sort_unstable_by_key(|state| state.row.object);
        objects
    }

    /// One object.
    pub fn object(&self, name: &ObjectName) -> Option<&ObjectState> {
        self.objects.get(name)
    }

    /// Every feed known, this device's own included.
    pub fn feeds(&self) -> &BTreeMap<DeviceId, FeedTip> {
        &self.feeds
    }

    /// Every entry with at least one known version, in no particular order.
    pub fn entry_ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.entries.keys().copied()
    }

    /// One version.
    pub fn version(&self, id: VersionId) -> Option<&VersionState> {
        self.versions.get(&id).map(Box::as_ref)
    }

    /// Every version known, in no particular order.
    pub fn versions(&self) -> impl Iterator<Item = &VersionState> {
        self.versions.values().map(Box::as_ref)
    }

    /// The versions of `entry` that were opened here, in no particular order.
    pub fn versions_of(&self, entry: EntryId) -> impl Iterator<Item = &VersionState> {
        let ids = self.entries.get(&entry).map_or(&[][..], SmallVec::as_slice);
        ids.iter().map(|id| &*self.versions[id]).filter(|state| state.opened)
    }

    /// The newest version of `entry` with content, superseded or not.
    pub fn newest_live(&self, entry: EntryId) -> Option<&VersionState> {
        let live = self.versions_of(entry).filter(|state| state.summary.is_some());
        live.max_by_key(|state| (state.version.dot.updated_at, state.version.id))
    }

    /// The dots of versions of `entry` that were announced and have not been opened here.
    pub fn unopened_dots(&self, entry: EntryId) -> Vec<Dot> {
        let ids = self.entries.get(&entry).map_or(&[][..], SmallVec::as_slice);
        let states = ids.iter().map(|id| &self.versions[id]).filter(|state| !state.opened);
        states.map(|state| state.version.dot).collect()
    }

    /// The state of `entry`, from the versions opened here.
    pub fn resolve(&self, entry: EntryId) -> Option<Resolved<'_>> {
        resolve(self.versions_of(entry).map(|state| &*state.version))
    }

    /// The encoding of a version to read: of those in the vault the highest epoch, then the highest schema up to
    /// `max_schema`, then the smallest name.
    pub fn encoding_here(&self, version: VersionId, max_schema: u32) -> Option<&ObjectState> {
        self.encodings(self.versions.get(&version)?)
            .filter(|state| state.here && state.row.schema <= max_schema)
            .max_by_key(|state| (state.row.epoch, state.row.schema, std::cmp::Reverse(state.row.object)))
    }

    /// Whether nothing of a version's own object is in the vault.
    pub fn is_absent(&self, state: &VersionState) -> bool {
        !self.encodings(state).any(|object| object.here)
    }

    /// The objects a version is in, less those that were announced as such and turned out to be something else.
    pub fn encodings<'a>(&'a self, state: &'a VersionState) -> impl Iterator<Item = &'a ObjectState> {
        let objects = state.objects.iter().filter_map(|name| self.object(name));
        objects.filter(|object| match &object.row.subject {
            Subject::Version(version) => version.id == state.version.id,
            Subject::Part => false,
        })
    }

    /// The other encodings of the version an object holds: one of them is as good as it.
    pub fn other_encodings<'a>(&'a self, state: &'a ObjectState) -> impl Iterator<Item = &'a ObjectState> {
        let version = match &state.row.subject {
            Subject::Version(version) => self.versions.get(&version.id),
            Subject::Part => None,
        };
        let names = version.into_iter().flat_map(|version| &version.objects);
        names.filter(|name| **name != state.row.object).filter_map(|name| self.object(name))
    }

    /// Objects in the vault that the mirror is not known to have.
    pub fn unmirrored(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects().filter(|state| state.is_unsynced())
    }

    /// Objects the mirror has and the vault has not.
    pub fn absent(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects().filter(|state| !state.here && state.is_mirrored())
    }

    /// Objects that were in the vault, are damaged or gone, and are not known to be on the mirror.
    pub fn lost(&self) -> impl Iterator<Item = &ObjectState> {
        let lost = |state: &&ObjectState| !state.here && state.was_here && !state.is_mirrored();
        self.objects().filter(lost).filter(|state| !state.retired)
    }

    /// Counts for `status`.
    pub fn counts(&self) -> Counts {
        *self.counts.get_or_init(|| self.count())
    }

    fn count(&self) -> Counts {
        let mut counts = Counts { devices: self.feeds.len() as u64, ..Counts::default() };
        for entry in self.entry_ids() {
            if let Some(resolved) = self.resolve(entry) {
                counts.entries += u64::from(resolved.current.kind == Kind::Live);
                counts.conflicts += u64::from(!resolved.losers.is_empty());
            }
        }
        for state in self.objects.iter() {
            counts.unsynced += u64::from(state.is_unsynced());
            let lost = !state.here && state.was_here && !state.retired;
            counts.corrupt += u64::from(lost && !self.other_encodings(state).any(|other| other.here));
            counts.pending += u64::from(!state.here && !state.was_here);
        }
        counts
    }
}

/// How a vault is, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Live entries.
    pub entries: u64,
    /// Objects in the vault that the mirror is not known to have.
    pub unsynced: u64,
    /// Entries with an open conflict.
    pub conflicts: u64,
    /// Objects announced on the mirror that have not arrived.
    pub pending: u64,
    /// Objects that were here and are damaged or gone.
    pub corrupt: u64,
    /// Devices with a feed.
    pub devices: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{MadeOn, succeed};

    #[test]
    fn of_two_encodings_the_one_that_can_be_read_says_what_is_in_a_version() {
        let device = DeviceId::from_bytes([1; 16]);
        let (dot, context) = succeed(&[], &[], MadeOn::Everything, device, 5);
        let (entry, id) = (EntryId::from_bytes([2; 16]), VersionId::from_bytes([3; 16]));
        let version = Version { entry, id, dot, context, kind: Kind::Live };
        let stored = |object: u8, schema, summary| {
            let (object, subject) =
                (ObjectName::from_bytes([object; 32]), Subject::Version(version.clone().into()));
            Record::Stored(Row { object, len_bytes: 4_096, schema, epoch: 1, subject }, summary)
        };
        let readable = stored(4, 2, Some(Summary { title: "title".to_owned(), ..Summary::default() }));
        let newer = stored(5, 3, None);
        for records in [[readable.clone(), newer.clone()], [newer, readable]] {
            let mut manifest = Manifest::default();
            records.into_iter().for_each(|record| manifest.apply(record));
            let summary = manifest.version(id).and_then(|state| state.summary.as_ref());
            assert_eq!(summary.map(|summary| summary.title.as_str()), Some("title"));
        }
    }
}
