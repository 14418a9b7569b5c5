//! Files that are looked at again and again: what was found out about them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use espejo::crypto;
use espejo::format::feed::{Segment, SegmentName, open_segment};
use espejo::id::ObjectName;

use crate::vaults::seeds;

/// So many files are remembered, about what one schedule needs.
const MAX_KNOWN: usize = 4_000;

#[derive(Clone)]
struct File {
    bytes: Box<[u8]>,
    name: ObjectName,
    /// If it was asked for.
    segment: Option<Option<Rc<Segment>>>,
}

thread_local! {
    static SEEN: RefCell<HashMap<(*const u8, usize), File>> = RefCell::default();
}

/// Files stay where they are in memory, and comparing them is cheaper than hashing.
fn with<T>(bytes: &[u8], look: impl FnOnce(&mut File) -> T) -> T {
    SEEN.with_borrow_mut(|seen| {
        if seen.len() > MAX_KNOWN {
            seen.clear();
        }
        let new = || File { bytes: bytes.into(), name: crypto::object_name(bytes), segment: None };
        let file = seen.entry((bytes.as_ptr(), bytes.len())).or_insert_with(new);
        if *file.bytes != *bytes {
            *file = new();
        }
        look(file)
    })
}

/// The name of a file with these bytes.
pub fn object_name(bytes: &[u8]) -> ObjectName {
    with(bytes, |file| file.name)
}

/// The feed segment that a file is, if it is intact and named like one.
pub fn segment(name: &str, bytes: &[u8]) -> Option<Rc<Segment>> {
    let name = name.rsplit('/').next().and_then(SegmentName::parse)?;
    with(bytes, |file| {
        if !file.name.to_string().starts_with(&name.hash16) {
            return None;
        }
        let open = || open_segment(&seeds().keyring, bytes).ok().map(Rc::new);
        file.segment.get_or_insert_with(open).clone()
    })
}
