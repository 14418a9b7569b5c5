//! Objects and versions as the manifest holds them: small, because a vault has as many as it ever had versions.

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::SmallVec;

use super::record::{FilePlace, Location, Row, Summary};
use crate::id::{DeviceId, ObjectName};
use crate::version::Version;

/// One object as the manifest knows it.
#[derive(Debug, Clone)]
pub struct ObjectState {
    /// What it is.
    pub row: Row,
    /// Whether its file is in the vault.
    pub here: bool,
    /// Whether its file is or was in the vault: then its absence is damage, not delay.
    pub was_here: bool,
    /// Whether files it was in on the mirror were released, and it is in no other.
    pub released: bool,
    /// Whether it is done with: not to be sent again, and soon to be dropped.
    pub retired: bool,
    /// Where it was announced, the last one last.
    places: SmallVec<[Place; 1]>,
}

impl ObjectState {
    pub(super) fn new(row: Row) -> Self {
        let places = SmallVec::new();
        Self { row, here: false, was_here: false, released: false, retired: false, places }
    }

    /// Whether it is known to be on the mirror.
    pub fn is_mirrored(&self) -> bool {
        !self.places.is_empty()
    }

    /// Where it is on the mirror, if it is known to be there.
    pub fn mirrored(&self) -> Option<Location> {
        self.places.last().map(|place| place.location(&self.row))
    }

    /// Everywhere it was announced on the mirror, the last one last.
    pub fn places(&self) -> impl Iterator<Item = Location> {
        self.places.iter().map(|place| place.location(&self.row))
    }

    /// Whether it is here and has to be sent.
    pub(super) fn is_unsynced(&self) -> bool {
        self.here && !self.is_mirrored() && !self.retired
    }

    pub(super) fn forget_places(&mut self) {
        self.places = SmallVec::new();
    }

    /// It was announced there, after all other places.
    pub(super) fn locate(&mut self, location: Location, packs: &mut Packs) {
        let row = &self.row;
        self.places.retain(|place| place.location(row) != location);
        self.places.push(Place::new(location, row, packs));
    }

    /// That file is no place to look for it. Whether it was in it, and is in no other.
    pub(super) fn leave(&mut self, file: FilePlace) -> bool {
        let before = self.places.len();
        let row = &self.row;
        self.places.retain(|place| place.location(row).file_place() != file);
        before > 0 && self.places.is_empty()
    }

    /// It is this, whatever was announced.
    pub(super) fn correct(&mut self, row: Row, packs: &mut Packs) {
        if row.len_bytes != self.row.len_bytes {
            let places = self.places().collect::<Vec<_>>();
            self.places = places.into_iter().map(|place| Place::new(place, &row, packs)).collect();
        }
        self.row = row;
    }
}

/// A [`Location`] without what the object's row says as well.
#[derive(Debug, Clone)]
enum Place {
    /// The file is the object itself.
    Alone { writer: DeviceId, batch: u32 },
    /// In a file that holds others too, from this byte on.
    Packed(Arc<Location>, u64),
}

impl Place {
    fn new(location: Location, row: &Row, packs: &mut Packs) -> Self {
        let alone = (row.object, u64::from(row.len_bytes), 0);
        match location {
            Location { writer, batch, file, file_len_bytes, offset }
                if (file, file_len_bytes, offset) == alone =>
            {
                Self::Alone { writer, batch }
            }
            Location { offset, .. } => Self::Packed(packs.of(location), offset),
        }
    }

    fn location(&self, row: &Row) -> Location {
        match self {
            Self::Alone { writer, batch } => Location {
                writer: *writer,
                batch: *batch,
                file: row.object,
                file_len_bytes: row.len_bytes.into(),
                offset: 0,
            },
            Self::Packed(pack, offset) => Location { offset: *offset, ..**pack },
        }
    }
}

/// The files that hold several objects, each once: as the location of what is at their beginning.
#[derive(Debug, Clone, Default)]
pub struct Packs(BTreeSet<Arc<Location>>);

impl Packs {
    fn of(&mut self, location: Location) -> Arc<Location> {
        let pack = Location { offset: 0, ..location };
        if let Some(known) = self.0.get(&pack) {
            return known.clone();
        }
        let pack = Arc::new(pack);
        self.0.insert(pack.clone());
        pack
    }

    /// Lets go of those that no object is in.
    pub(super) fn retain_used(&mut self) {
        self.0.retain(|pack| Arc::strong_count(pack) > 1);
    }
}

/// One version as the manifest knows it.
#[derive(Debug, Clone)]
pub struct VersionState {
    /// What it says about itself.
    pub version: Arc<Version>,
    /// Whether it was ever opened here. What an entry is comes only from opened versions.
    pub opened: bool,
    /// For an opened live version.
    pub summary: Option<Summary>,
    /// Its encodings, in order. Nearly always one.
    pub objects: SmallVec<[ObjectName; 1]>,
}

impl VersionState {
    pub(super) fn new(version: Arc<Version>) -> Self {
        Self { version, opened: false, summary: None, objects: SmallVec::new() }
    }
}
