//! The index of a vault: everything known about its versions and objects, so that listing opens no file.
//!
//! A cache. Each [`Record`] restates something an object or a feed segment says; deleting the manifest costs time,
//! never data. [`Manifest`] is what a sequence of records amounts to, and applying a record twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::crypto::Epoch;
use crate::entry::{Blob, Content};
use crate::id::{DeviceId, EntryId, ObjectName, VersionId};
use crate::version::{Dot, Kind, Resolved, Version, resolve};

/// What an object is an encoding of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A version of an entry.
    Version(Version),
    /// A part of an attachment or of a long body.
    Part,
}

/// One object, as announced or as opened: what decides whether to fetch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The object.
    pub object: ObjectName,
    /// Its length in bytes.
    pub len_bytes: u32,
    /// The schema its content is in; 0 for parts.
    pub schema: u32,
    /// The key epoch it is sealed under.
    pub epoch: Epoch,
    /// What it holds.
    pub subject: Subject,
}

/// Where an object lies on the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The device whose batch directory it is in.
    pub writer: DeviceId,
    /// The number of that directory.
    pub batch: u32,
    /// The file: the object itself, or a pack.
    pub file: ObjectName,
    /// The file's length.
    pub file_len_bytes: u64,
    /// Where in the file the object starts: 0 for the object itself.
    pub offset: u64,
}

/// What the list shows of a live version without opening its object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Title.
    pub title: String,
    /// Tags.
    pub tags: Vec<String>,
    /// When the person says it happened, milliseconds since 1970 UTC.
    pub created: i64,
    /// Length of the body in bytes.
    pub body_len_bytes: u64,
    /// The objects its body and attachments are in.
    pub parts: Vec<ObjectName>,
}

impl Summary {
    /// The summary of a live version's content.
    pub fn of(content: &Content) -> Self {
        Self {
            title: content.title.clone(),
            tags: content.tags.clone(),
            created: content.created,
            body_len_bytes: content.body.len_bytes(),
            parts: content
                .blobs()
                .flat_map(|blob: &Blob| blob.parts.iter().map(|part| part.object))
                .collect(),
        }
    }
}

/// The newest record of a device's feed that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedTip {
    /// Its number, from 1.
    pub seq: u64,
    /// The hash that chains it to all before.
    pub tip: [u8; 32],
    /// When the device wrote it, by its own clock.
    pub written_at: i64,
    /// The device's name.
    pub name: String,
    /// The program and version that wrote it.
    pub program: String,
}

/// One thing learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This object is in the vault, and was opened: live versions come with their summary.
    Stored(Row, Option<Summary>),
    /// This object is in the vault no more: damaged and set aside.
    Lost(ObjectName),
    /// This object is on the mirror.
    Mirrored(Row, Location),
    /// This object is not on the mirror where it was said to be.
    NotMirrored(ObjectName),
    /// A device's feed has come this far.
    Feed(DeviceId, FeedTip),
    /// The vault has another mirror now: nothing is known of it.
    NewMirror,
}

/// One object as the manifest knows it.
#[derive(Debug, Clone)]
pub struct ObjectState {
    /// What it is.
    pub row: Row,
    /// Whether its file is in the vault.
    pub here: bool,
    /// Whether its file is or was in the vault: then its absence is damage, not delay.
    pub was_here: bool,
    /// Where it is on the mirror, if it is known to be there.
    pub mirrored: Option<Location>,
}

/// One version as the manifest knows it.
#[derive(Debug, Clone)]
pub struct VersionState {
    /// What it says about itself.
    pub version: Version,
    /// Whether it was ever opened here. What an entry is comes only from opened versions.
    pub opened: bool,
    /// For an opened live version.
    pub summary: Option<Summary>,
    /// Its encodings.
    pub objects: BTreeSet<ObjectName>,
}

/// The index.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    versions: BTreeMap<VersionId, VersionState>,
    entries: BTreeMap<EntryId, Vec<VersionId>>,
    objects: BTreeMap<ObjectName, ObjectState>,
    feeds: BTreeMap<DeviceId, FeedTip>,
    records: u64,
}

impl Manifest {
    /// Takes one record in.
    pub fn apply(&mut self, record: Record) {
        self.records += 1;
        match record {
            Record::Stored(row, summary) => {
                self.learn(&row, true, summary);
                let state = self.object_mut(row.clone());
                // What was opened counts, whatever was announced before.
                (state.row, state.here, state.was_here) = (row, true, true);
            }
            Record::Lost(object) => {
                if let Some(state) = self.objects.get_mut(&object) {
                    (state.here, state.was_here) = (false, true);
                }
            }
            Record::Mirrored(row, location) => {
                self.learn(&row, false, None);
                self.object_mut(row).mirrored = Some(location);
            }
            Record::NotMirrored(object) => {
                if let Some(state) = self.objects.get_mut(&object) {
                    state.mirrored = None;
                }
            }
            Record::Feed(device, tip) => {
                self.feeds.insert(device, tip);
            }
            Record::NewMirror => {
                self.feeds.clear();
                self.objects.values_mut().for_each(|state| state.mirrored = None);
            }
        }
    }

    fn object_mut(&mut self, row: Row) -> &mut ObjectState {
        self.objects.entry(row.object).or_insert(ObjectState {
            row,
            here: false,
            was_here: false,
            mirrored: None,
        })
    }

    fn learn(&mut self, row: &Row, opened: bool, summary: Option<Summary>) {
        let Subject::Version(version) = &row.subject else { return };
        let state = self.versions.entry(version.id).or_insert_with(|| {
            self.entries.entry(version.entry).or_default().push(version.id);
            VersionState { version: version.clone(), opened: false, summary: None, objects: BTreeSet::new() }
        });
        state.objects.insert(row.object);
        if opened && !state.opened {
            // What was opened counts, whatever was announced before.
            let announced = std::mem::replace(&mut state.version, version.clone());
            state.opened = true;
            state.summary = summary;
            if announced.entry != version.entry {
                let wrong = self.entries.entry(announced.entry).or_default();
                wrong.retain(|id| *id != version.id);
                if wrong.is_empty() {
                    self.entries.remove(&announced.entry);
                }
                self.entries.entry(version.entry).or_default().push(version.id);
            }
        }
    }

    /// The records that would build this manifest again, without what later ones made void.
    pub fn to_records(&self) -> impl Iterator<Item = Record> + '_ {
        let objects = self.objects.values().flat_map(|state| {
            let stored = state.was_here && self.is_opened(&state.row);
            let mirrored = state.mirrored.map(|location| Record::Mirrored(state.row.clone(), location));
            // What was lost stays known, so that its absence is noticed.
            let lost = (state.was_here && !state.here).then_some(Record::Lost(state.row.object));
            let stored = stored.then(|| Record::Stored(state.row.clone(), self.summary_of(state)));
            stored.into_iter().chain(mirrored).chain(lost)
        });
        let feeds = self.feeds.iter().map(|(device, tip)| Record::Feed(*device, tip.clone()));
        objects.chain(feeds)
    }

    fn is_opened(&self, row: &Row) -> bool {
        match &row.subject {
            Subject::Version(version) => self.versions.get(&version.id).is_some_and(|state| state.opened),
            Subject::Part => true,
        }
    }

    fn summary_of(&self, state: &ObjectState) -> Option<Summary> {
        match &state.row.subject {
            Subject::Version(version) => self.versions.get(&version.id)?.summary.clone(),
            Subject::Part => None,
        }
    }

    /// How many records were applied: against the number of objects it tells when to rewrite the file.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Every object known, by name.
    pub fn objects(&self) -> &BTreeMap<ObjectName, ObjectState> {
        &self.objects
    }

    /// One object.
    pub fn object(&self, name: &ObjectName) -> Option<&ObjectState> {
        self.objects.get(name)
    }

    /// Every feed known, this device's own included.
    pub fn feeds(&self) -> &BTreeMap<DeviceId, FeedTip> {
        &self.feeds
    }

    /// Every entry with at least one known version.
    pub fn entry_ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.entries.keys().copied()
    }

    /// One version.
    pub fn version(&self, id: VersionId) -> Option<&VersionState> {
        self.versions.get(&id)
    }

    /// Every version known.
    pub fn versions(&self) -> impl Iterator<Item = &VersionState> {
        self.versions.values()
    }

    /// The versions of `entry` that were opened here, in no particular order.
    pub fn versions_of(&self, entry: EntryId) -> impl Iterator<Item = &VersionState> {
        let ids = self.entries.get(&entry).map_or(&[][..], Vec::as_slice);
        ids.iter().map(|id| &self.versions[id]).filter(|state| state.opened)
    }

    /// The dots of versions of `entry` that were announced and have not been opened here.
    pub fn unopened_dots(&self, entry: EntryId) -> Vec<Dot> {
        let ids = self.entries.get(&entry).map_or(&[][..], Vec::as_slice);
        let states = ids.iter().map(|id| &self.versions[id]).filter(|state| !state.opened);
        states.map(|state| state.version.dot).collect()
    }

    /// The state of `entry`, from the versions opened here.
    pub fn resolve(&self, entry: EntryId) -> Option<Resolved<'_>> {
        resolve(self.versions_of(entry).map(|state| &state.version))
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
    fn encodings<'a>(&'a self, state: &'a VersionState) -> impl Iterator<Item = &'a ObjectState> {
        let objects = state.objects.iter().filter_map(|name| self.objects.get(name));
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
        names.filter(|name| **name != state.row.object).filter_map(|name| self.objects.get(name))
    }

    /// Objects in the vault that the mirror is not known to have.
    pub fn unmirrored(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects.values().filter(|state| state.here && state.mirrored.is_none())
    }

    /// Objects the mirror has and the vault has not.
    pub fn absent(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects.values().filter(|state| !state.here && state.mirrored.is_some())
    }

    /// Objects that were in the vault, are damaged or gone, and are not known to be on the mirror.
    pub fn lost(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects.values().filter(|state| !state.here && state.was_here && state.mirrored.is_none())
    }

    /// Counts for `status`.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { devices: self.feeds.len() as u64, ..Counts::default() };
        for entry in self.entry_ids() {
            if let Some(resolved) = self.resolve(entry) {
                counts.entries += u64::from(resolved.current.kind == Kind::Live);
                counts.conflicts += u64::from(!resolved.losers.is_empty());
            }
        }
        for state in self.objects.values() {
            counts.unsynced += u64::from(state.here && state.mirrored.is_none());
            let lost = !state.here && state.was_here;
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
