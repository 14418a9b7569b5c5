//! What is learnt, one thing at a time: the records that a manifest is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::Epoch;
use crate::entry::{Blob, Content};
use crate::id::{DeviceId, ObjectName};
use crate::version::Version;

/// What an object is an encoding of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A version of an entry.
    Version(Arc<Version>),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// What the list shows of a live version without opening its object. A vault holds one for every version, so its
/// lists are as short as they can be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Title.
    pub title: String,
    /// Tags.
    pub tags: Box<[String]>,
    /// When the person says it happened, milliseconds since 1970 UTC.
    pub created: i64,
    /// Length of the body in bytes.
    pub body_len_bytes: u64,
    /// The objects its body and attachments are in.
    pub parts: Box<[ObjectName]>,
}

impl Summary {
    /// The summary of a live version's content.
    pub fn of(content: &Content) -> Self {
        Self {
            title: content.title.clone(),
            tags: content.tags.clone().into(),
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

/// Where a file of objects is on the mirror: whose, in which of that device's batches, and its name.
pub type FilePlace = (DeviceId, u32, ObjectName);

impl Location {
    /// The file the object is in.
    pub fn file_place(&self) -> FilePlace {
        (self.writer, self.batch, self.file)
    }
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
    /// Nobody needs this file on the mirror any more, its device says: it is or will be removed. True once this device,
    /// whose it is, has removed it.
    Released(FilePlace, bool),
    /// A deletion that is told by the feeds alone and needs no object. True once it is announced on this mirror.
    Buried(Version, bool),
    /// Nobody waits for this device unless it announces more than this. True once that is announced on this mirror.
    DeviceRetired(DeviceId, u64, bool),
    /// An object of released files, which the mirror has nowhere else: whether it is done with here too.
    Retired(ObjectName, bool),
    /// An object that was done with is here no more.
    Dropped(ObjectName),
}

impl Record {
    /// What follows from what `device` announced beside what it added.
    pub fn of_notices(device: DeviceId, notices: Notices) -> impl Iterator<Item = Self> {
        let released = notices.released.into_iter();
        let released = released.map(move |(batch, file)| Self::Released((device, batch, file), false));
        let buried = notices.buried.into_iter().map(|version| Self::Buried(version, true));
        let retired = notices.retired.into_iter();
        let retired = retired.map(|(device, seq)| Self::DeviceRetired(device, seq, true));
        released.chain(buried).chain(retired)
    }
}

/// What a device announces beside what it added to the mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// Its own files that nobody needs any more, by batch and name: it will remove them.
    pub released: Vec<(u32, ObjectName)>,
    /// Deletions that need no object from now on.
    pub buried: Vec<Version>,
    /// Devices that nobody waits for any more, with the last announcement that was known of each.
    pub retired: BTreeMap<DeviceId, u64>,
}

impl Notices {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.released.is_empty() && self.buried.is_empty() && self.retired.is_empty()
    }
}
