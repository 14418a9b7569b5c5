//! What somebody who may write to a mirror can put there, sealed with whatever key they have.

use espejo::crypto::KeySource;
use espejo::entropy::OsEntropy;
use espejo::format::feed::{Announcement, Encoded, NO_TIP, SegmentName, seal_segment};
use espejo::format::object::Object;
use espejo::id::DeviceId;
use espejo::manifest::{Location, Notices};

use super::NOW;

/// An announcement of these objects, each a file in the first batch, that follows the one with this number and tip.
pub fn announcement(after: Option<(u64, [u8; 32])>, objects: &[&Object], notices: Notices) -> Announcement {
    let location = |object: &Object| Location {
        // Not written down: it is whoever's feed it is.
        writer: DeviceId::from_bytes([0; 16]),
        batch: 1,
        file: object.name(),
        file_len_bytes: object.bytes.len() as u64,
        offset: 0,
    };
    Announcement {
        seq: after.map_or(1, |(seq, _)| seq + 1),
        previous: after.map_or(NO_TIP, |(_, tip)| tip),
        written_at: NOW + 1_000_000,
        name: "forged".to_owned(),
        program: "forged 1".to_owned(),
        key_file: String::new(),
        seen: std::collections::BTreeMap::default(),
        rows: objects.iter().map(|object| (object.row.clone(), location(object))).collect(),
        notices,
    }
}

/// A feed segment of `device`, with its name on the mirror.
pub fn segment(keys: &impl KeySource, device: DeviceId, announcements: &[Announcement]) -> (String, Vec<u8>) {
    let encoded = announcements.iter().map(|it| Encoded::new(it, device, keys)).collect::<Vec<_>>();
    let file = seal_segment(keys, device, &encoded, &OsEntropy).unwrap();
    let (from, to) = (announcements[0].seq, announcements.last().unwrap().seq);
    (format!("feeds/{}", SegmentName::new(device, from, to, &file)), file)
}

/// Where on the mirror an announcement of `device` would say that an object is: the directory and the file.
pub fn place(device: DeviceId, object: &Object) -> (String, String) {
    let dir = format!("objects/{}-1", &device.to_string()[..8]);
    let file = format!("{dir}/{}", object.name());
    (dir, file)
}
