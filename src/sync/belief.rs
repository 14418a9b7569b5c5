//! What of the feeds is believed after the master key was replaced.
//!
//! Whoever has a copy of an old key can seal a segment under it. So an announcement under an old key counts only if
//! somebody who has the new one vouches for it: a later announcement of the same feed, which holds the hash of all before
//! it, or another device, which says how far it had read. Nothing has to be sealed or sent again for that.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::Epoch;
use crate::format::feed::{NO_TIP, Segment, SegmentName};
use crate::id::DeviceId;

/// An announcement by its number and by the hash of it and all before it.
type Point = (DeviceId, u64, [u8; 32]);

/// Segments that were read, and what is vouched for.
pub struct Belief {
    /// What is sealed under this epoch or a later one needs nobody's word.
    least: Epoch,
    vouched: BTreeSet<Point>,
    /// Read, and not believed yet, with the file as long as none of it was.
    held: BTreeMap<SegmentName, (Segment, Option<Vec<u8>>)>,
}

impl Belief {
    pub fn new(least: Epoch) -> Self {
        Self { least, vouched: BTreeSet::new(), held: BTreeMap::new() }
    }

    /// A segment that was read.
    pub fn add(&mut self, name: SegmentName, segment: Segment, file: Vec<u8>) {
        self.hear(&segment);
        self.held.insert(name, (segment, Some(file)));
    }

    /// Takes note of what a segment says of its own past and of other feeds.
    pub fn hear(&mut self, segment: &Segment) {
        if segment.epoch < self.least {
            return;
        }
        for (announcement, _) in &segment.announcements {
            self.vouched.insert((segment.device, announcement.seq - 1, announcement.previous));
            let seen = announcement.seen.iter();
            self.vouched.extend(seen.map(|(device, seen)| (*device, seen.seq, seen.tip)));
        }
    }

    /// What can be believed now, in order: whole segments with their files, and of some only a beginning.
    pub fn take_believed(&mut self) -> Vec<(SegmentName, Segment, Option<Vec<u8>>)> {
        let believed = self.believed();
        let mut taken = Vec::new();
        for (name, (mut segment, file)) in std::mem::take(&mut self.held) {
            if segment.epoch >= self.least {
                taken.push((name, segment, file));
                continue;
            }
            let is_believed = |seq: u64, tip: [u8; 32]| believed.contains(&(segment.device, seq, tip));
            let length =
                segment.announcements.iter().take_while(|(it, tip)| is_believed(it.seq, *tip)).count();
            match length {
                0 => drop(self.held.insert(name, (segment, file))),
                length if length == segment.announcements.len() => taken.push((name, segment, file)),
                length => {
                    let rest = Segment {
                        announcements: segment.announcements.split_off(length),
                        encoded: segment.encoded.split_off(length),
                        ..segment
                    };
                    taken.push((name.clone(), segment, None));
                    self.held.insert(name, (rest, None));
                }
            }
        }
        taken
    }

    /// Everything that hangs on what is vouched for, from the newest back to the first.
    fn believed(&self) -> BTreeSet<Point> {
        let segments = self.held.values().map(|(segment, _)| segment).filter(|it| it.epoch < self.least);
        let mut before = BTreeMap::<Point, Point>::new();
        for segment in segments {
            for (announcement, tip) in &segment.announcements {
                let point = (segment.device, announcement.seq, *tip);
                before.insert(point, (segment.device, announcement.seq - 1, announcement.previous));
            }
        }
        let mut believed = BTreeSet::new();
        for vouched in &self.vouched {
            let mut point = *vouched;
            while let Some(previous) = before.get(&point).filter(|_| believed.insert(point)) {
                if previous.2 == NO_TIP {
                    break;
                }
                point = *previous;
            }
        }
        believed
    }

    /// Whether everything that was read is believed.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The segments of which something is not believed.
    pub fn not_believed(&self) -> impl Iterator<Item = &SegmentName> {
        self.held.keys()
    }
}
