//! The manifest file: a preamble, then sealed frames of records, each bound to its place in this very file.

use super::codec::{Malformed, Reader, Write};
use super::row::{read_row, read_tombstone, write_row, write_version};
use super::sealed::Header;
use super::{FileType, SealedError, read_header};
use crate::crypto::{self, Keyring, SecretBytes};
use crate::entropy::{Entropy, EntropyError};
use crate::id::{DeviceId, ObjectName};
use crate::manifest::{FeedTip, Location, Record, Row, Summary};

/// Header and a random id of this file, so that frames of an older manifest do not fit into a newer one.
pub const PREAMBLE_LEN: usize = 52;

const FRAME_EDGE_LEN: usize = 4;

/// As short records are on average, in a vault of short titles of which everything is on its mirror.
const RECORD_BYTES: usize = 96;

/// The beginning of a new manifest file.
pub fn preamble(keyring: &Keyring, entropy: &impl Entropy) -> Result<Vec<u8>, EntropyError> {
    let header = Header {
        file_type: FileType::Manifest,
        schema: 0,
        epoch: keyring.current_epoch(),
        vault: keyring.vault(),
    };
    let mut bytes = header.encode();
    bytes.raw(&entropy.array::<16>()?);
    Ok(bytes)
}

/// Checks a preamble.
pub fn check_preamble(keyring: &Keyring, bytes: &[u8]) -> Result<(), SealedError> {
    let (header, id) = read_header(bytes)?;
    if header.vault != keyring.vault() {
        return Err(SealedError::WrongVault);
    }
    if !keyring.masters().contains_key(&header.epoch) {
        return Err(SealedError::UnknownEpoch(header.epoch));
    }
    match header.file_type {
        FileType::Manifest if id.len() == PREAMBLE_LEN - header.encode().len() => Ok(()),
        _ => Err(SealedError::WrongType),
    }
}

/// Seals records as the frame that stands at `offset` of the file with this preamble.
pub fn seal_frame(
    keyring: &Keyring,
    preamble: &[u8],
    offset: u64,
    records: &[Record],
    entropy: &impl Entropy,
) -> Result<Vec<u8>, EntropyError> {
    let mut content = SecretBytes::default();
    let before = std::iter::once(None).chain(records.iter().map(row_of));
    for (record, before) in records.iter().zip(before) {
        write_record(&mut content, record, before);
    }
    // Of the epoch the file was begun in.
    let epoch = read_header(preamble).map_or(keyring.current_epoch(), |(header, _)| header.epoch);
    let key = keyring
        .derive(FileType::Manifest.purpose(), epoch)
        .expect("a preamble was checked before anything is put behind it");
    let sealed = crypto::seal(&key, &context(preamble, offset), &content, entropy)?;
    let mut frame = Vec::with_capacity(sealed.len() + 2 * FRAME_EDGE_LEN);
    frame.bytes(&sealed);
    frame.u32(sealed.len() as u32);
    Ok(frame)
}

/// How long the frame at the front of `rest` says it is, both edges included; `None` if not even that is there.
pub fn frame_len(rest: &[u8]) -> Option<u64> {
    let sealed_len = Reader::new(rest, "manifest frame").u32().ok()?;
    Some(u64::from(sealed_len) + 2 * FRAME_EDGE_LEN as u64)
}

/// Opens the frame at the front of `rest`, which stands at `offset` of the file: its records and its length.
/// A frame that is cut short is the end of the file after a crash: [`OpenError::Truncated`](crypto::OpenError).
pub fn open_frame(
    keyring: &Keyring,
    preamble: &[u8],
    offset: u64,
    rest: &[u8],
) -> Result<(Vec<Record>, usize), SealedError> {
    let truncated = SealedError::Seal(crypto::OpenError::Truncated);
    let mut reader = Reader::new(rest, "manifest frame");
    let sealed = reader.bytes().map_err(|_| truncated)?;
    if reader.u32().map_err(|_| truncated)? as usize != sealed.len() {
        return Err(Malformed("manifest frame").into());
    }
    let (header, _) = read_header(preamble)?;
    let key = keyring
        .derive(FileType::Manifest.purpose(), header.epoch)
        .ok_or(SealedError::UnknownEpoch(header.epoch))?;
    let content = crypto::open(&key, &context(preamble, offset), sealed)?;
    let mut reader = Reader::new(&content, "manifest record");
    // A list that grows is copied each time.
    let mut records = Vec::with_capacity(content.len() / RECORD_BYTES);
    while !reader.is_empty() {
        let record = read_record(&mut reader, records.last().and_then(row_of))?;
        records.push(record);
    }
    Ok((records, sealed.len() + 2 * FRAME_EDGE_LEN))
}

/// Where the last frame of a file of `file_len` bytes starts, by the length that stands in its last four bytes;
/// `None` if that cannot be.
pub fn last_frame_start(file_len: u64, last_four: [u8; 4]) -> Option<u64> {
    let frame_len = u64::from(u32::from_be_bytes(last_four)) + 2 * FRAME_EDGE_LEN as u64;
    file_len.checked_sub(frame_len).filter(|start| *start >= PREAMBLE_LEN as u64)
}

fn context(preamble: &[u8], offset: u64) -> Vec<u8> {
    [preamble, &offset.to_be_bytes()].concat()
}

/// What a record says of an object, if that is all there is to say of it.
fn row_of(record: &Record) -> Option<&Row> {
    match record {
        Record::Stored(row, _) | Record::Mirrored(row, _) => Some(row),
        _ => None,
    }
}

/// `before` is what the record before it says of its object: it is not said twice.
fn write_record(out: &mut Vec<u8>, record: &Record, before: Option<&Row>) {
    match record {
        Record::Stored(row, summary) => {
            out.u8(1);
            write_row(out, row);
            out.list(summary.iter(), write_summary);
        }
        Record::Lost(object) => {
            out.u8(2);
            out.raw(object.as_bytes());
        }
        Record::Mirrored(row, location) if before == Some(row) => {
            out.u8(12);
            write_location(out, location);
        }
        Record::Mirrored(row, location) => {
            out.u8(3);
            write_row(out, row);
            write_location(out, location);
        }
        Record::Feed(device, tip) => {
            out.u8(4);
            out.raw(device.as_bytes());
            out.u64(tip.seq);
            out.raw(&tip.tip);
            out.i64(tip.written_at);
            out.bytes(tip.name.as_bytes());
            out.bytes(tip.program.as_bytes());
        }
        Record::NewMirror => out.u8(5),
        Record::NotMirrored(object) => {
            out.u8(6);
            out.raw(object.as_bytes());
        }
        Record::Released((writer, batch, file), removed) => {
            out.u8(7);
            out.raw(writer.as_bytes());
            out.u32(*batch);
            out.raw(file.as_bytes());
            out.u8(u8::from(*removed));
        }
        Record::Buried(version, announced) => {
            out.u8(8);
            write_version(out, version);
            out.u8(u8::from(*announced));
        }
        Record::DeviceRetired(device, seq, announced) => {
            out.u8(9);
            out.raw(device.as_bytes());
            out.u64(*seq);
            out.u8(u8::from(*announced));
        }
        Record::Retired(object, retired) => {
            out.u8(10);
            out.raw(object.as_bytes());
            out.u8(u8::from(*retired));
        }
        Record::Dropped(object) => {
            out.u8(11);
            out.raw(object.as_bytes());
        }
    }
}

fn write_location(out: &mut Vec<u8>, location: &Location) {
    out.raw(location.writer.as_bytes());
    out.u32(location.batch);
    out.raw(location.file.as_bytes());
    out.u64(location.file_len_bytes);
    out.u64(location.offset);
}

fn read_location(reader: &mut Reader<'_>) -> Result<Location, Malformed> {
    Ok(Location {
        writer: DeviceId::from_bytes(reader.array()?),
        batch: reader.u32()?,
        file: ObjectName::from_bytes(reader.array()?),
        file_len_bytes: reader.u64()?,
        offset: reader.u64()?,
    })
}

fn read_flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.malformed()),
    }
}

fn read_record(reader: &mut Reader<'_>, before: Option<&Row>) -> Result<Record, Malformed> {
    match reader.u8()? {
        1 => {
            let row = read_row(reader)?;
            let mut summaries = reader.list(read_summary)?;
            let summary = summaries.pop();
            if summaries.is_empty() { Ok(Record::Stored(row, summary)) } else { Err(reader.malformed()) }
        }
        2 => Ok(Record::Lost(ObjectName::from_bytes(reader.array()?))),
        3 => {
            let row = read_row(reader)?;
            Ok(Record::Mirrored(row, read_location(reader)?))
        }
        4 => {
            let device = DeviceId::from_bytes(reader.array()?);
            let tip = FeedTip {
                seq: reader.u64()?,
                tip: reader.array()?,
                written_at: reader.i64()?,
                name: reader.text()?,
                program: reader.text()?,
            };
            Ok(Record::Feed(device, tip))
        }
        5 => Ok(Record::NewMirror),
        6 => Ok(Record::NotMirrored(ObjectName::from_bytes(reader.array()?))),
        7 => {
            let writer = DeviceId::from_bytes(reader.array()?);
            let file = (writer, reader.u32()?, ObjectName::from_bytes(reader.array()?));
            Ok(Record::Released(file, read_flag(reader)?))
        }
        8 => Ok(Record::Buried(read_tombstone(reader)?, read_flag(reader)?)),
        9 => {
            let device = DeviceId::from_bytes(reader.array()?);
            Ok(Record::DeviceRetired(device, reader.u64()?, read_flag(reader)?))
        }
        10 => Ok(Record::Retired(ObjectName::from_bytes(reader.array()?), read_flag(reader)?)),
        11 => Ok(Record::Dropped(ObjectName::from_bytes(reader.array()?))),
        12 => {
            let row = before.ok_or(reader.malformed())?.clone();
            Ok(Record::Mirrored(row, read_location(reader)?))
        }
        _ => Err(reader.malformed()),
    }
}

fn write_summary(out: &mut Vec<u8>, summary: &Summary) {
    out.bytes(summary.title.as_bytes());
    out.list(summary.tags.iter(), |out, tag| out.bytes(tag.as_bytes()));
    out.i64(summary.created);
    out.u64(summary.body_len_bytes);
    out.list(summary.parts.iter(), |out, part| out.raw(part.as_bytes()));
}

fn read_summary(reader: &mut Reader<'_>) -> Result<Summary, Malformed> {
    Ok(Summary {
        title: reader.text()?,
        tags: reader.list(Reader::text)?.into(),
        created: reader.i64()?,
        body_len_bytes: reader.u64()?,
        parts: reader.list(|reader| reader.array().map(ObjectName::from_bytes))?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::OsEntropy;
    use crate::id::VaultId;
    use crate::manifest::Subject;

    #[test]
    fn frames_read_back_only_at_their_place() {
        let keyring = Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
        let preamble = preamble(&keyring, &OsEntropy).unwrap();
        check_preamble(&keyring, &preamble).unwrap();
        let row = Row {
            object: ObjectName::from_bytes([1; 32]),
            len_bytes: 4_096,
            schema: 0,
            epoch: 1,
            subject: Subject::Part,
        };
        let tip = FeedTip { seq: 4, tip: [8; 32], written_at: 1, name: "a".into(), program: "b".into() };
        let other = Row { object: ObjectName::from_bytes([3; 32]), ..row.clone() };
        let writer = DeviceId::from_bytes([2; 16]);
        let at = Location { writer, batch: 7, file: row.object, file_len_bytes: 4_096, offset: 0 };
        let records = vec![
            Record::Mirrored(row.clone(), at),
            Record::Stored(row.clone(), None),
            Record::Mirrored(row.clone(), at),
            Record::Mirrored(row.clone(), Location { batch: 8, ..at }),
            Record::Mirrored(other, at),
            Record::Stored(row.clone(), Some(Summary { title: "t".into(), ..Summary::default() })),
            Record::Lost(row.object),
            Record::Feed(DeviceId::from_bytes([2; 16]), tip),
            Record::NotMirrored(row.object),
            Record::NewMirror,
            Record::Released((DeviceId::from_bytes([2; 16]), 7, row.object), true),
            Record::DeviceRetired(DeviceId::from_bytes([2; 16]), 4, false),
            Record::Retired(row.object, true),
            Record::Dropped(row.object),
        ];
        let frame = seal_frame(&keyring, &preamble, 52, &records, &OsEntropy).unwrap();
        assert_eq!(open_frame(&keyring, &preamble, 52, &frame), Ok((records, frame.len())));
        assert!(open_frame(&keyring, &preamble, 53, &frame).is_err());
        let last_four = frame[frame.len() - 4..].try_into().unwrap();
        assert_eq!(last_frame_start(52 + frame.len() as u64, last_four), Some(52));
        for at in 0..frame.len() {
            let mut altered = frame.clone();
            altered[at] ^= 1;
            assert!(open_frame(&keyring, &preamble, 52, &altered).is_err(), "byte {at}");
            assert!(open_frame(&keyring, &preamble, 52, &frame[..at]).is_err(), "cut at {at}");
        }
    }
}
