//! What was read of the feeds and was not known.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::DeviceId;
use crate::manifest::{FeedTip, Location, Manifest, Notices, Row};
use crate::remote::RemoteError;

/// One announcement of another device (or of this one, found after a crash) that the manifest does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Whose.
    pub device: DeviceId,
    /// What that device is called.
    pub name: String,
    /// How far its feed has been read with it; `None` if something before it is missing, or if it is one of two
    /// histories.
    pub tip: Option<FeedTip>,
    /// What it says is on the mirror, and where.
    pub rows: Vec<(Row, Location)>,
    /// What else it says.
    pub notices: Notices,
}

/// Everything new in the feeds.
#[derive(Debug, Default)]
pub struct News {
    /// In the order of each feed.
    pub announced: Vec<Announced>,
    /// Segments to keep, by name.
    pub segments: BTreeMap<String, Vec<u8>>,
    /// The mirror shows less than was seen before.
    pub went_back: bool,
    /// Devices of whose announcements some that were read before are neither on the mirror nor here any more.
    pub forgotten: BTreeSet<DeviceId>,
    /// Something is sealed under a newer key than is known here, or says so.
    pub beyond: bool,
    /// Feeds that go on beyond what could be read.
    pub unread: u64,
    /// The mirror had no room for a segment that was to be sent again.
    pub no_room: Option<RemoteError>,
}

impl News {
    /// Leaves out what was in files that were released since: it is not there any more, and nobody needs it.
    pub fn pass_over_released(&mut self, manifest: &Manifest) {
        let released = self
            .announced
            .iter()
            .flat_map(|it| it.notices.released.iter().map(|(batch, file)| (it.device, *batch, *file)));
        let released = released.collect::<BTreeSet<_>>();
        let is_released = |at: &Location| {
            let file = at.file_place();
            released.contains(&file) || manifest.released().contains_key(&file)
        };
        self.announced.iter_mut().for_each(|it| it.rows.retain(|(_, at)| !is_released(at)));
    }
}
