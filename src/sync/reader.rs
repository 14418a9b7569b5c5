//! How far the feeds have been read: which segments come next, and what is new in one.

use std::collections::{BTreeMap, BTreeSet};

use super::belief::Belief;
use super::listing::Listing;
use super::news::{Announced, News};
use super::segments::intact_segment;
use crate::event::{Finding, Observer};
use crate::format::feed::{NO_TIP, Seen, Segment, SegmentName};
use crate::id::DeviceId;
use crate::manifest::FeedTip;
use crate::vault::Store;

/// How far the feeds have been read.
pub struct Reader {
    pub tips: BTreeMap<DeviceId, FeedTip>,
    pub tried: BTreeSet<SegmentName>,
    /// What each device said last that it had read of the others: its name, the number of the announcement, and that.
    pub seen: BTreeMap<DeviceId, (String, u64, BTreeMap<DeviceId, Seen>)>,
}

impl Reader {
    /// The segments to read next: per device as few as lead from what is known towards the end, what lies beyond a gap
    /// and was not read yet, and twins.
    pub fn wanted(&self, listing: &Listing, cached: &BTreeSet<SegmentName>) -> BTreeSet<SegmentName> {
        let mut wanted = BTreeSet::new();
        let devices = listing.segments.keys().map(|segment| segment.device).collect::<BTreeSet<_>>();
        for device in devices {
            let untried = || {
                listing.segments.keys().filter(|name| name.device == device && !self.tried.contains(*name))
            };
            let mut next = self.tips.get(&device).map_or(1, |tip| tip.seq.saturating_add(1));
            loop {
                while let Some(best) =
                    untried().filter(|s| s.from <= next && next <= s.to).max_by_key(|s| s.to)
                {
                    wanted.insert(best.clone());
                    next = best.to + 1;
                }
                let beyond =
                    untried().filter(|s| s.from > next && !cached.contains(*s)).map(|s| s.from).min();
                let Some(from) = beyond else { break };
                next = from;
            }
            wanted
                .extend(untried().filter(|name| is_twin(listing, name) && !cached.contains(*name)).cloned());
        }
        wanted
    }

    /// Takes in what can be believed of what was read.
    pub fn take_in_believed<S: Store>(
        &mut self,
        vault: &S,
        listing: &Listing,
        belief: &mut Belief,
        news: &mut News,
        observer: &mut dyn Observer,
    ) {
        for (name, segment, file) in belief.take_believed() {
            self.take_in(&name, segment, is_twin(listing, &name), news, observer);
            if let Some(file) = file.filter(|_| intact_segment(vault, &name).is_none()) {
                news.segments.insert(name.to_string(), file);
            }
        }
    }

    /// Takes what is new out of a segment. The feed counts as read up to the first gap, so that what is missing there
    /// is still read when it turns up; what lies beyond is on the mirror all the same. Both sides of a fork were written
    /// by a holder of the key: their rows count alike.
    fn take_in(
        &mut self,
        name: &SegmentName,
        segment: Segment,
        twin: bool,
        news: &mut News,
        observer: &mut dyn Observer,
    ) {
        for (announcement, tip) in segment.announcements {
            let before = self.tips.get(&name.device).map_or((0, NO_TIP), |tip| (tip.seq, tip.tip));
            let follows = announcement.seq == before.0 + 1;
            let other_history = (follows && announcement.previous != before.1)
                || (announcement.seq == before.0 && tip != before.1);
            if other_history {
                let name = announcement.name.clone();
                observer.finding(Finding::Forked { device: segment.device, name });
            }
            if announcement.seq <= before.0 && !twin && !other_history {
                continue;
            }
            let last = self.seen.entry(name.device).or_default();
            if last.1 < announcement.seq {
                *last = (announcement.name.clone(), announcement.seq, announcement.seen);
            }
            let device_name = announcement.name.clone();
            let tip = follows.then_some(FeedTip {
                seq: announcement.seq,
                tip,
                written_at: announcement.written_at,
                name: announcement.name,
                program: announcement.program,
            });
            self.tips.extend(tip.clone().map(|tip| (name.device, tip)));
            let (rows, notices) = (announcement.rows, announcement.notices);
            news.announced.push(Announced { device: name.device, name: device_name, tip, rows, notices });
        }
    }

    /// How many feeds go on beyond what could be read.
    pub fn unread(&self, listing: &Listing) -> u64 {
        let read = |device| self.tips.get(device).map_or(0, |tip| tip.seq);
        let devices = listing.segments.keys().map(|name| name.device).collect::<BTreeSet<_>>();
        devices.iter().filter(|device| listing.last_of(**device) > read(device)).count() as u64
    }

    /// The feeds of which another device has read more than the mirror shows now, with the name of that device.
    pub fn withheld(&self, listing: &Listing) -> Vec<(DeviceId, String)> {
        let mut withheld = BTreeMap::new();
        for (by, _, seen) in self.seen.values() {
            for (device, seen) in seen {
                let read = self.tips.get(device).map_or(0, |tip| tip.seq);
                if seen.seq > read.max(listing.last_of(*device)) && listing.complete {
                    withheld.insert(*device, by.clone());
                }
            }
        }
        withheld.into_iter().collect()
    }
}

/// Whether another segment claims the same announcements: two vaults wrote under one id.
fn is_twin(listing: &Listing, name: &SegmentName) -> bool {
    let same_place = |other: &SegmentName| {
        (other.device, other.from, other.to) == (name.device, name.from, name.to)
            && other.hash16 != name.hash16
    };
    listing.segments.keys().any(same_place)
}
