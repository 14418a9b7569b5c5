//! How versions and rows are written, wherever they appear: in objects, feed segments and the manifest.

use super::codec::{Malformed, Reader, Write};
use crate::id::{DeviceId, EntryId, ObjectName, VersionId};
use crate::manifest::{Row, Subject};
use crate::version::{Context, Dot, Kind, Version};

pub fn write_version(out: &mut Vec<u8>, version: &Version) {
    out.u8(match version.kind {
        Kind::Live => 1,
        Kind::Tombstone => 2,
    });
    out.raw(version.entry.as_bytes());
    out.raw(version.id.as_bytes());
    write_dot(out, version.dot);
    out.list(version.context.seen.iter(), |out, (device, updated_at)| {
        write_dot(out, Dot { device, updated_at });
    });
    out.list(version.context.except.iter(), |out, dot| write_dot(out, *dot));
}

pub fn read_version(reader: &mut Reader<'_>) -> Result<Version, Malformed> {
    let kind = match reader.u8()? {
        1 => Kind::Live,
        2 => Kind::Tombstone,
        _ => return Err(reader.malformed()),
    };
    let entry = EntryId::from_bytes(reader.array()?);
    let id = VersionId::from_bytes(reader.array()?);
    let dot = read_dot(reader)?;
    let seen = reader.list(read_dot)?;
    let except = reader.list(read_dot)?;
    // One encoding for one context: in order, without duplicates.
    let ordered = seen.windows(2).all(|pair| pair[0].device < pair[1].device)
        && except.windows(2).all(|pair| pair[0] < pair[1]);
    if !ordered {
        return Err(reader.malformed());
    }
    let seen = seen.into_iter().map(|dot| (dot.device, dot.updated_at)).collect();
    let context = Context { seen, except: except.into_iter().collect() };
    Ok(Version { entry, id, dot, context, kind })
}

/// A deletion that is told without an object.
pub fn read_tombstone(reader: &mut Reader<'_>) -> Result<Version, Malformed> {
    let version = read_version(reader)?;
    if version.kind == Kind::Tombstone { Ok(version) } else { Err(reader.malformed()) }
}

fn write_dot(out: &mut Vec<u8>, dot: Dot) {
    out.raw(dot.device.as_bytes());
    out.i64(dot.updated_at);
}

fn read_dot(reader: &mut Reader<'_>) -> Result<Dot, Malformed> {
    Ok(Dot { device: DeviceId::from_bytes(reader.array()?), updated_at: reader.i64()? })
}

pub fn write_row(out: &mut Vec<u8>, row: &Row) {
    out.raw(row.object.as_bytes());
    out.u32(row.len_bytes);
    out.u32(row.schema);
    out.u32(row.epoch);
    match &row.subject {
        Subject::Part => out.u8(0),
        Subject::Version(version) => write_version(out, version),
    }
}

pub fn read_row(reader: &mut Reader<'_>) -> Result<Row, Malformed> {
    let object = ObjectName::from_bytes(reader.array()?);
    let len_bytes = reader.u32()?;
    let schema = reader.u32()?;
    let epoch = reader.u32()?;
    let mut peek = reader.clone();
    let subject = if peek.u8()? == 0 {
        *reader = peek;
        Subject::Part
    } else {
        Subject::Version(read_version(reader)?.into())
    };
    Ok(Row { object, len_bytes, schema, epoch, subject })
}
