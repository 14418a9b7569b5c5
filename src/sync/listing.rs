//! The listing of `feeds/`: all that a sync with nothing to do asks for.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use super::mirror::FEEDS;
use crate::crypto::sha256;
use crate::format::feed::SegmentName;
use crate::id::DeviceId;
use crate::manifest::Manifest;
use crate::remote::{Remote, RemotePath};

/// What was seen in the mirror's `feeds/`.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Whether the directory is there.
    pub exists: bool,
    /// Whether something may follow from what is not in it.
    pub complete: bool,
    /// Whether the marker is there, if the remote told for free.
    pub marker_seen: Option<bool>,
    /// The segments, with their lengths where the remote gives them.
    pub segments: BTreeMap<SegmentName, Option<u64>>,
}

impl Listing {
    /// A hash of names and lengths: equal listings hold equal news.
    pub fn digest(&self) -> [u8; 32] {
        let lines = self.segments.iter().map(|(name, len)| format!("{name} {len:?}\n"));
        sha256(&[lines.collect::<String>().as_bytes()])
    }

    /// Whether this is the mirror that was known: it shows at least something of what was read from it before.
    pub fn continues(&self, manifest: &Manifest) -> bool {
        let known = |segment: &SegmentName| manifest.feeds().contains_key(&segment.device);
        self.exists && self.marker_seen != Some(false) && self.segments.keys().any(known)
    }

    /// Whether every announcement of `device` up to `to` is in a segment shown here.
    pub fn covers(&self, device: DeviceId, to: u64) -> bool {
        covers(self.segments.keys(), device, to)
    }

    /// The last announcement of `device` that a segment promises; 0 if there is none.
    pub fn last_of(&self, device: DeviceId) -> u64 {
        self.segments.keys().filter(|segment| segment.device == device).map(|s| s.to).max().unwrap_or(0)
    }
}

/// Whether every announcement of `device` up to `to` is in one of `segments`.
pub fn covers<'a>(segments: impl Iterator<Item = &'a SegmentName>, device: DeviceId, to: u64) -> bool {
    let mut next = 1;
    for name in segments.filter(|name| name.device == device).collect::<BTreeSet<_>>() {
        if name.from <= next {
            next = next.max(name.to.saturating_add(1));
        }
    }
    next > to
}

/// Lists `feeds/`: the one request of a sync that has nothing to do.
pub async fn list_feeds(remote: &impl Remote) -> Result<Listing, Error> {
    let dir = RemotePath::new(FEEDS).expect("a constant");
    let Some(listing) = remote.list(&dir).await? else { return Ok(Listing::default()) };
    let segments = listing.items.iter().filter(|item| !item.is_dir);
    Ok(Listing {
        exists: true,
        complete: listing.complete,
        marker_seen: listing.marker_seen,
        segments: segments
            .filter_map(|item| Some((SegmentName::parse(&item.name)?, item.len_bytes)))
            .collect(),
    })
}
