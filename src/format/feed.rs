//! Feeds: a device's append-only, hash-chained announcement of what it added to the mirror.
//!
//! A segment is one sealed file holding consecutive announcements of one device. Merging segments copies the
//! announcements unchanged, so the chain does not depend on how they are cut into files.

use std::collections::BTreeMap;

use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::codec::{Malformed, Reader, Write};
use super::row::{read_row, read_tombstone, write_row, write_version};
use super::{FileType, SealedError, open_sealed, seal_file};
use crate::crypto::{Epoch, KeySource, Purpose, sha256};
use crate::entropy::{Entropy, EntropyError};
use crate::id::{DeviceId, ObjectName};
use crate::manifest::{Location, Notices, Row};

/// No segment is larger.
pub const MAX_SEGMENT_BYTES: usize = 64 << 20;

/// The tip before a feed's first announcement.
pub const NO_TIP: [u8; 32] = [0; 32];

/// Name and range of a segment, as its file name states them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Whose feed.
    pub device: DeviceId,
    /// First announcement in it, from 1.
    pub from: u64,
    /// Last announcement in it.
    pub to: u64,
    /// The first 16 hex digits of the file's SHA-256.
    pub hash16: String,
}

impl SegmentName {
    /// The name of a segment file with these bytes.
    pub fn new(device: DeviceId, from: u64, to: u64, file: &[u8]) -> Self {
        Self { device, from, to, hash16: hash16(file) }
    }

    /// Reads a file name; `None` if it is not a segment's.
    pub fn parse(name: &str) -> Option<Self> {
        let mut fields = name.split('.');
        let device = fields.next()?.parse().ok()?;
        let (from, to) = fields.next()?.split_once('-')?;
        let number = |text: &str| text.parse::<u64>().ok().filter(|n| n.to_string() == text);
        let (from, to) = (number(from)?, number(to)?);
        let hash16 = fields.next()?.to_owned();
        let parsed = Self { device, from, to, hash16 };
        (1 <= from && from <= to && to < u64::MAX && fields.next().is_none() && parsed.to_string() == name)
            .then_some(parsed)
            .filter(|name| {
                name.hash16.len() == 16 && name.hash16.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
    }

    /// Whether this segment holds all that `other` holds, and more.
    pub fn repeats(&self, other: &Self) -> bool {
        self.device == other.device
            && self.from <= other.from
            && other.to <= self.to
            && (self.from, self.to) != (other.from, other.to)
    }

    /// Whether a file with these bytes may have this name.
    pub fn matches(&self, file: &[u8]) -> bool {
        self.hash16 == hash16(file)
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}-{}.{}", self.device, self.from, self.to, self.hash16)
    }
}

/// The first 16 hex digits of the SHA-256 of a file, as they stand in file names.
pub fn hash16(file: &[u8]) -> String {
    let mut hex = crate::crypto::object_name(file).to_string();
    hex.truncate(16);
    hex
}

/// What a device has seen of another one's feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The last announcement.
    pub seq: u64,
    /// Its tip.
    pub tip: [u8; 32],
}

/// One announcement: what a device added to the mirror in one push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Its number in the feed, from 1.
    pub seq: u64,
    /// The tip of the announcement before it, [`NO_TIP`] for the first.
    pub previous: [u8; 32],
    /// When it was written, by the device's clock, milliseconds since 1970 UTC.
    pub written_at: i64,
    /// The device's name.
    pub name: String,
    /// The program and version that wrote it.
    pub program: String,
    /// The newest key file the device knows, by file name: how others learn of a password change.
    pub key_file: String,
    /// What the device had seen of every other feed: it has read everything up to there.
    pub seen: BTreeMap<DeviceId, Seen>,
    /// What was added, and where it lies. Locations are always below the writing device's own directories.
    pub rows: Vec<(Row, Location)>,
    /// What else there is to say.
    pub notices: Notices,
}

/// One feed segment, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The key epoch it is sealed under.
    pub epoch: Epoch,
    /// Whose feed.
    pub device: DeviceId,
    /// The announcements with the tip of each, in order.
    pub announcements: Vec<(Announcement, [u8; 32])>,
    /// The same as they were written, for joining them into a longer segment.
    pub encoded: Vec<Encoded>,
}

/// What the last announcement of a segment says of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// The key epoch the segment is sealed under.
    pub epoch: Epoch,
    /// As in the [`Announcement`].
    pub key_file: String,
    /// As in the [`Announcement`].
    pub seen: BTreeMap<DeviceId, Seen>,
}

/// An encoded announcement, ready to be joined into a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded(Bytes);

impl Encoded {
    /// Encodes `announcement` of `device`. What it buries is believed only if `keys` are all of the vault's.
    pub fn new(announcement: &Announcement, device: DeviceId, keys: &impl KeySource) -> Self {
        let mut out = Vec::new();
        out.u64(announcement.seq);
        out.raw(&announcement.previous);
        out.i64(announcement.written_at);
        out.bytes(announcement.name.as_bytes());
        out.bytes(announcement.program.as_bytes());
        out.bytes(announcement.key_file.as_bytes());
        out.list(announcement.seen.iter(), |out, (device, seen)| {
            out.raw(device.as_bytes());
            out.u64(seen.seq);
            out.raw(&seen.tip);
        });
        let mut files = Vec::<Location>::new();
        let mut rows = Vec::new();
        for (row, location) in &announcement.rows {
            let file = Location { offset: 0, ..*location };
            // Rows of one pack stand together, so looking at the last file is enough.
            if files.last() != Some(&file) {
                files.push(file);
            }
            rows.push((row, files.len() - 1, location.offset));
        }
        out.list(files.iter(), |out, file| {
            out.u32(file.batch);
            out.raw(file.file.as_bytes());
            out.u64(file.file_len_bytes);
        });
        out.list(rows.into_iter(), |out, (row, file, offset)| {
            write_row(out, row);
            out.u32(u32::try_from(file).expect("fewer files than rows"));
            out.u64(offset);
        });
        write_notices(&mut out, &announcement.notices);
        let epoch = keys.current_epoch();
        if let Some(mac) = burial_mac(keys, epoch, device, announcement) {
            out.u32(epoch);
            out.raw(&mac);
        }
        Self(out.into())
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }

    /// The hash that chains the next announcement to this one and all before it.
    pub fn tip(&self, device: DeviceId) -> [u8; 32] {
        tip(device, &self.0)
    }
}

/// Nothing at all if there is nothing to say.
fn write_notices(out: &mut Vec<u8>, notices: &Notices) {
    if notices.is_empty() {
        return;
    }
    out.list(notices.released.iter(), |out, (batch, file)| {
        out.u32(*batch);
        out.raw(file.as_bytes());
    });
    out.list(notices.buried.iter(), write_version);
    out.list(notices.retired.iter(), |out, (device, seq)| {
        out.raw(device.as_bytes());
        out.u64(*seq);
    });
}

/// What makes the deletions that are told without an object believable; `None` if there are none, or not the key for it.
fn burial_mac(
    keys: &impl KeySource,
    epoch: Epoch,
    device: DeviceId,
    announcement: &Announcement,
) -> Option<[u8; 32]> {
    let buried = &announcement.notices.buried;
    let key = keys.derive(Purpose::Burial, epoch).filter(|_| !buried.is_empty())?;
    let mut list = Vec::new();
    list.list(buried.iter(), write_version);
    Some(key.mac(&[b"espejo/v1/burial\0", device.as_bytes(), &announcement.seq.to_be_bytes(), &list]))
}

/// Reads that, and leaves out what is not believed.
fn read_burial_mac(
    reader: &mut Reader<'_>,
    keys: &impl KeySource,
    device: DeviceId,
    announcement: &mut Announcement,
) {
    let mut read = || Ok::<_, Malformed>((reader.u32()?, reader.array::<32>()?));
    let said = read().ok();
    let is_sound = said.is_some_and(|(epoch, mac)| {
        let expected = burial_mac(keys, epoch, device, announcement);
        expected.is_some_and(|expected| bool::from(expected.ct_eq(&mac)))
    });
    if !is_sound {
        announcement.notices.buried.clear();
    }
}

fn read_notices(reader: &mut Reader<'_>) -> Result<Notices, Malformed> {
    if reader.is_empty() {
        return Ok(Notices::default());
    }
    let released = reader.list(|reader| Ok((reader.u32()?, ObjectName::from_bytes(reader.array()?))))?;
    let buried = reader.list(read_tombstone)?;
    let retired = reader.list(|reader| Ok((DeviceId::from_bytes(reader.array()?), reader.u64()?)))?;
    Ok(Notices { released, buried, retired: retired.into_iter().collect() })
}

fn tip(device: DeviceId, encoded: &[u8]) -> [u8; 32] {
    sha256(&[b"espejo/v1/feed-tip\0", device.as_bytes(), encoded])
}

/// Seals announcements of `device` as one segment file.
pub fn seal_segment(
    keys: &impl KeySource,
    device: DeviceId,
    announcements: &[Encoded],
    entropy: &impl Entropy,
) -> Result<Vec<u8>, EntropyError> {
    let mut content = Vec::new();
    content.raw(device.as_bytes());
    content.list(announcements.iter(), |out, announcement| out.bytes(&announcement.0));
    seal_file(keys, FileType::Feed, 0, &content, entropy)
}

/// Opens a segment file. The numbers in it are consecutive and chained; whether it continues what is known of the
/// feed is for the caller to check.
pub fn open_segment(keys: &impl KeySource, file: &[u8]) -> Result<Segment, SealedError> {
    let (header, content) = open_sealed(keys, FileType::Feed, file)?;
    let content = Bytes::from_owner(content);
    let mut reader = Reader::new(&content, "feed segment");
    let device = DeviceId::from_bytes(reader.array()?);
    let encoded = reader.list(Reader::bytes)?;
    reader.end()?;
    let mut announcements = Vec::<(Announcement, [u8; 32])>::with_capacity(encoded.len());
    for bytes in &encoded {
        let announcement = read_announcement(keys, device, bytes)?;
        if let Some((before, tip)) = announcements.last()
            && (before.seq.checked_add(1) != Some(announcement.seq) || announcement.previous != *tip)
        {
            return Err(Malformed("feed chain").into());
        }
        announcements.push((announcement, tip(device, bytes)));
    }
    match announcements.first() {
        Some((first, _)) if first.seq >= 1 && (first.seq > 1 || first.previous == NO_TIP) => {}
        _ => return Err(Malformed("feed segment").into()),
    }
    let encoded = encoded.into_iter().map(|bytes| Encoded(content.slice_ref(bytes))).collect();
    Ok(Segment { epoch: header.epoch, device, announcements, encoded })
}

/// What the last announcement in a segment file says of its device. Its rows, of which a first upload has one for each
/// object, are not read.
pub fn open_last(keys: &impl KeySource, file: &[u8]) -> Result<Last, SealedError> {
    let (header, content) = open_sealed(keys, FileType::Feed, file)?;
    let mut reader = Reader::new(&content, "feed segment");
    reader.take(DeviceId::LEN)?;
    let last = reader.list(Reader::bytes)?.pop().ok_or(Malformed("feed segment"))?;
    let Announcement { key_file, seen, .. } = read_head(&mut Reader::new(last, "announcement"))?;
    Ok(Last { epoch: header.epoch, key_file, seen })
}

/// An announcement, up to what it adds.
fn read_head(reader: &mut Reader<'_>) -> Result<Announcement, Malformed> {
    let seq = reader.u64()?;
    let previous = reader.array()?;
    let written_at = reader.i64()?;
    let name = reader.text()?;
    let program = reader.text()?;
    let key_file = reader.text()?;
    let seen = reader
        .list(|reader| {
            let other = DeviceId::from_bytes(reader.array()?);
            Ok((other, Seen { seq: reader.u64()?, tip: reader.array()? }))
        })?
        .into_iter()
        .collect();
    let (rows, notices) = (Vec::new(), Notices::default());
    Ok(Announcement { seq, previous, written_at, name, program, key_file, seen, rows, notices })
}

fn read_announcement(
    keys: &impl KeySource,
    device: DeviceId,
    bytes: &[u8],
) -> Result<Announcement, Malformed> {
    let mut reader = Reader::new(bytes, "announcement");
    let head = read_head(&mut reader)?;
    let files = reader.list(|reader| {
        let batch = reader.u32()?;
        let file = ObjectName::from_bytes(reader.array()?);
        Ok(Location { writer: device, batch, file, file_len_bytes: reader.u64()?, offset: 0 })
    })?;
    let rows = reader.list(|reader| {
        let row = read_row(reader)?;
        let file = reader.u32()? as usize;
        let location = *files.get(file).ok_or(reader.malformed())?;
        let location = Location { offset: reader.u64()?, ..location };
        let end = location.offset.checked_add(u64::from(row.len_bytes));
        if end.is_none_or(|end| end > location.file_len_bytes) {
            return Err(reader.malformed());
        }
        Ok((row, location))
    })?;
    let notices = read_notices(&mut reader)?;
    let mut announcement = Announcement { rows, notices, ..head };
    read_burial_mac(&mut reader, keys, device, &mut announcement);
    // What follows is for later versions of this program, and covered by the tip all the same.
    Ok(announcement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Keyring;
    use crate::entropy::OsEntropy;
    use crate::id::{EntryId, VaultId, VersionId};
    use crate::manifest::Subject;
    use crate::version::{Context, Dot, Kind, Version};

    fn announcement(seq: u64, previous: [u8; 32]) -> Announcement {
        let device = DeviceId::from_bytes([1; 16]);
        let row = |byte| Row {
            object: ObjectName::from_bytes([byte; 32]),
            len_bytes: 4_096,
            schema: 0,
            epoch: 1,
            subject: Subject::Part,
        };
        let location = |offset| Location {
            writer: device,
            batch: 3,
            file: ObjectName::from_bytes([7; 32]),
            file_len_bytes: 10_000,
            offset,
        };
        Announcement {
            seq,
            previous,
            written_at: 5,
            name: "laptop".into(),
            program: "espejo 0.1.0".into(),
            key_file: "1-00.key".into(),
            seen: BTreeMap::from([(DeviceId::from_bytes([2; 16]), Seen { seq: 9, tip: [3; 32] })]),
            rows: vec![(row(1), location(88)), (row(2), location(4_184))],
            notices: Notices::default(),
        }
    }

    /// Epoch and MAC.
    const BURIAL_MAC_LEN: usize = 36;

    fn buried() -> Version {
        let dot = Dot { device: DeviceId::from_bytes([2; 16]), updated_at: 9 };
        let seen = [(dot.device, 8)].into_iter().collect();
        let context = Context { seen, ..Context::default() };
        let (entry, id) = (EntryId::from_bytes([4; 16]), VersionId::from_bytes([5; 16]));
        Version { entry, id, dot, context, kind: Kind::Tombstone }
    }

    #[test]
    fn notices_read_back_and_cost_nothing_where_there_are_none() {
        let device = DeviceId::from_bytes([1; 16]);
        let keyring = Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
        let plain = announcement(1, NO_TIP);
        let notices = Notices {
            released: vec![(3, ObjectName::from_bytes([7; 32]))],
            buried: vec![buried()],
            retired: BTreeMap::from([(DeviceId::from_bytes([2; 16]), 9)]),
        };
        let telling = Announcement { notices, ..plain.clone() };
        let encode = |announcement| Encoded::new(announcement, device, &keyring).0;
        let read = |bytes: &[u8]| read_announcement(&keyring, device, bytes);
        let (without, with) = (encode(&plain), encode(&telling));
        assert_eq!(with[..without.len()], without[..]);
        assert_eq!(read(&without), Ok(plain.clone()));
        assert_eq!(read(&with), Ok(telling.clone()));
        // What later programs will add is passed over; half a notice is not.
        assert_eq!(read(&[&with[..], b"later"].concat()), Ok(telling.clone()));
        for len in without.len() + 1..with.len() - BURIAL_MAC_LEN {
            assert!(read(&with[..len]).is_err(), "cut at {len}");
        }
        let live = Version { kind: Kind::Live, ..buried() };
        let notices = Notices { buried: vec![live], ..Notices::default() };
        assert!(
            read(&encode(&Announcement { notices, ..plain.clone() })).is_err(),
            "only a deletion is buried"
        );
    }

    #[test]
    fn nothing_is_buried_by_who_has_the_keys_of_the_feeds_alone() {
        let device = DeviceId::from_bytes([1; 16]);
        let keyring = Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
        let notices = Notices { buried: vec![buried()], ..Notices::default() };
        let telling = Announcement { notices, ..announcement(1, NO_TIP) };
        let told = |keys: &Keyring, device, bytes: &[u8]| {
            read_announcement(keys, device, bytes).map(|it| it.notices.buried.len()).unwrap()
        };
        let genuine = Encoded::new(&telling, device, &keyring).0;
        assert_eq!(told(&keyring, device, &genuine), 1);
        // After a new master key too.
        assert_eq!(told(&keyring.renewed(&OsEntropy).unwrap(), device, &genuine), 1);
        let by_thief = Encoded::new(&telling, device, &keyring.feed_keys()).0;
        assert_eq!(told(&keyring, device, &by_thief), 0);
        // Nor is one taken over into another feed or announcement, cut, or altered.
        assert_eq!(told(&keyring, DeviceId::from_bytes([3; 16]), &genuine), 0);
        let mac = &genuine[genuine.len() - BURIAL_MAC_LEN..];
        let other = Encoded::new(&Announcement { seq: 2, ..telling }, device, &keyring.feed_keys()).0;
        assert_eq!(told(&keyring, device, &[&other, mac].concat()), 0);
        for at in 0..BURIAL_MAC_LEN {
            let mut altered = genuine.to_vec();
            altered[by_thief.len() + at] ^= 1;
            assert_eq!(told(&keyring, device, &altered), 0, "byte {at}");
            assert_eq!(told(&keyring, device, &genuine[..by_thief.len() + at]), 0, "cut at {at}");
        }
    }

    #[test]
    fn a_segment_reads_back_and_its_chain_is_checked() {
        let device = DeviceId::from_bytes([1; 16]);
        let keyring = Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
        let encode = |announcement: &Announcement| Encoded::new(announcement, device, &keyring);
        let first = announcement(1, NO_TIP);
        let tip = encode(&first).tip(device);
        let second = Announcement { key_file: "2-00.key".into(), ..announcement(2, tip) };
        let encoded = [encode(&first), encode(&second)];
        let file = seal_segment(&keyring, device, &encoded, &OsEntropy).unwrap();
        let segment = open_segment(&keyring, &file).unwrap();
        let Announcement { key_file, seen, .. } = second.clone();
        assert_eq!(open_last(&keyring, &file), Ok(Last { epoch: segment.epoch, key_file, seen }));
        assert_eq!(segment.device, device);
        assert_eq!(segment.announcements[0], (first, tip));
        assert_eq!(segment.announcements[1].0, second);
        for broken in [
            vec![encoded[1].clone(), encoded[0].clone()],
            vec![encoded[0].clone(), encoded[0].clone()],
            vec![encoded[0].clone(), encode(&announcement(2, [0; 32]))],
            vec![encode(&announcement(1, [1; 32]))],
            vec![],
        ] {
            let file = seal_segment(&keyring, device, &broken, &OsEntropy).unwrap();
            assert!(matches!(open_segment(&keyring, &file), Err(SealedError::Malformed(_))));
        }
    }

    #[test]
    fn segment_names_read_back_and_nothing_else_does() {
        let name = SegmentName::new(DeviceId::from_bytes([1; 16]), 1, 42, b"file");
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name.clone()));
        assert!(name.matches(b"file") && !name.matches(b"other"));
        let text = name.to_string();
        for bad in [
            text.replace("1-42", "01-42"),
            text.replace("1-42", "42-1"),
            text.replace("1-42", "0-42"),
            text.to_uppercase(),
            format!("{text}.x"),
            format!("{text} (conflicted copy)"),
            text[..text.len() - 1].to_owned(),
        ] {
            assert_eq!(SegmentName::parse(&bad), None, "{bad}");
        }
    }
}
