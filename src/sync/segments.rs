//! Feed segments: those that are kept here, and whether one is what its name says.

use std::collections::BTreeSet;

use crate::format::feed::{Segment, SegmentName, open_segment};
use crate::vault::{self, Store};

pub fn segment_names<S: Store>(vault: &S) -> Result<BTreeSet<SegmentName>, vault::Error> {
    Ok(vault.cached_segments()?.iter().filter_map(|name| SegmentName::parse(name)).collect())
}

/// A cached segment, if it is there as its name promises.
pub fn intact_segment<S: Store>(vault: &S, name: &SegmentName) -> Option<Vec<u8>> {
    vault.cached_segment(&name.to_string()).ok().filter(|file| name.matches(file))
}

pub fn open<S: Store>(vault: &S, name: &SegmentName, file: &[u8]) -> Result<Segment, String> {
    if !name.matches(file) {
        return Err("damaged (its bytes are not those its name promises)".to_owned());
    }
    let segment = open_segment(vault.keys(), file).map_err(|error| error.to_string())?;
    let first = segment.announcements.first().map(|(a, _)| a.seq);
    let last = segment.announcements.last().map(|(a, _)| a.seq);
    match (segment.device, first, last) == (name.device, Some(name.from), Some(name.to)) {
        true => Ok(segment),
        false => Err("it is not the segment its name promises".to_owned()),
    }
}
