//! Files that are looked at again and again: what was found out about them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use bytes::Bytes;
use espejo::crypto;
use espejo::format::feed::{Announcement, Segment, SegmentName, open_segment};
use espejo::format::{FileType, open_sealed, pack};
use espejo::id::{DeviceId, ObjectName, VersionId};
use espejo::manifest::Subject;
use espejo::version::Version;

use crate::disk::Image;
use crate::keys::is_intact_key;
use crate::vaults::seeds;

/// So many files are remembered, about what one schedule needs.
const MAX_KNOWN: usize = 4_000;

#[derive(Clone)]
struct File {
    bytes: Box<[u8]>,
    name: ObjectName,
    /// If it was asked for.
    #[allow(clippy::option_option, reason = "what was asked for may be none")]
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

pub fn intact_on_disk(image: &Image) -> BTreeSet<ObjectName> {
    let objects = image.files().filter(|(name, _)| name.starts_with("objects/"));
    let intact = objects.filter(|(name, bytes)| name.ends_with(&object_name(bytes).to_string()));
    intact.map(|(_, bytes)| object_name(bytes)).collect()
}

/// An object, and the name of the file on the mirror it is in.
pub type Place = (ObjectName, ObjectName);

pub fn intact_on_mirror(files: &BTreeMap<String, Bytes>) -> BTreeSet<Place> {
    let objects = files.iter().filter(|(name, _)| name.starts_with("objects/"));
    let intact = objects.filter(|(name, bytes)| name.ends_with(&object_name(bytes).to_string()));
    let places = |bytes: &Bytes| {
        let file = object_name(bytes);
        sealed_files(bytes).into_iter().map(|object| (object_name(object), file)).collect::<Vec<_>>()
    };
    intact.flat_map(|(_, bytes)| places(bytes)).collect()
}

/// The feed segments in a device's cache.
pub fn cached_segments(disk: &Image) -> impl Iterator<Item = (&str, &[u8])> {
    disk.files().filter(|(name, _)| name.starts_with("local/feeds/"))
}

/// What `of` takes from the announcements of an intact feed segment.
fn from_segment<T>(name: &str, bytes: &[u8], of: impl Fn(&Announcement) -> Vec<T>) -> Vec<T> {
    let segment = segment(name, bytes);
    let announcements = segment.iter().flat_map(|segment| &segment.announcements);
    announcements.flat_map(|(announcement, _)| of(announcement)).collect()
}

/// The objects an intact feed segment names, and where it says they are.
pub fn announced_in(name: &str, bytes: &[u8]) -> Vec<Place> {
    from_segment(name, bytes, |it| it.rows.iter().map(|(row, at)| (row.object, at.file)).collect())
}

/// The versions an intact feed segment names.
pub fn versions_in(name: &str, bytes: &[u8]) -> Vec<Version> {
    let version = |subject: &Subject| match subject {
        Subject::Version(version) => Some((**version).clone()),
        Subject::Part => None,
    };
    from_segment(name, bytes, |it| it.rows.iter().filter_map(|(row, _)| version(&row.subject)).collect())
}

/// The deletions an intact feed segment tells of.
pub fn buried_in(name: &str, bytes: &[u8]) -> Vec<VersionId> {
    from_segment(name, bytes, |it| it.notices.buried.iter().map(|version| version.id).collect())
}

/// The id of a device, if its own file says it.
pub fn device_id(disk: &Image) -> Option<DeviceId> {
    let (_, bytes) = disk.files().find(|(name, _)| *name == "local/device")?;
    let (_, json) = open_sealed(&seeds().keyring, FileType::State, bytes).ok()?;
    let json = serde_json::from_slice::<serde_json::Value>(&json).ok()?;
    json["id"].as_str()?.parse().ok()
}

/// Whether a device's settings of its mirror can be read.
pub fn knows_its_mirror(disk: &Image) -> bool {
    let settings = disk.files().find(|(name, _)| *name == "local/remote");
    settings.is_some_and(|(_, bytes)| open_sealed(&seeds().keyring, FileType::State, bytes).is_ok())
}

/// Whether a file on the mirror is what its name says.
pub fn is_intact(name: &str, bytes: &[u8]) -> bool {
    let segment = name.split('/').nth(1).and_then(SegmentName::parse);
    is_intact_key(name, bytes)
        || name.ends_with(&object_name(bytes).to_string())
        || segment.is_some_and(|segment| segment.matches(bytes))
}

/// The sealed objects in a file: itself, or what is in the pack.
pub fn sealed_files(bytes: &[u8]) -> Vec<&[u8]> {
    match pack::read(bytes) {
        Ok(objects) => objects.into_iter().map(|(_, bytes)| bytes).collect(),
        Err(_) => vec![bytes],
    }
}
