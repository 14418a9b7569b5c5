//! Packs: many small sealed objects in one file on the mirror, because requests are what is dear.

use super::codec::{Malformed, Reader, Write};
use super::sealed::{FORMAT, MAGIC};
use crate::id::ObjectName;

/// A pack is not made larger than this.
pub const MAX_PACK_BYTES: usize = 4 << 20;

const TYPE: u8 = 8;
const FIXED_LEN: usize = 16;
const ROW_LEN: usize = ObjectName::LEN + 4;

/// The length of a pack's table for `count` objects: where the first object starts.
pub const fn table_len(count: usize) -> usize {
    FIXED_LEN + count * ROW_LEN
}

/// Joins objects into a pack. Returns it with each object's offset.
pub fn build(objects: &[(ObjectName, Vec<u8>)]) -> (Vec<u8>, Vec<u64>) {
    let len = objects.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let mut pack = Vec::with_capacity(table_len(objects.len()) + len);
    pack.raw(&MAGIC);
    pack.raw(&[FORMAT, 0, TYPE, 0]);
    pack.list(objects.iter(), |pack, (name, bytes)| {
        pack.raw(name.as_bytes());
        pack.u32(u32::try_from(bytes.len()).expect("objects are at most 16 MiB"));
    });
    let offsets = objects
        .iter()
        .map(|(_, bytes)| {
            let offset = pack.len() as u64;
            pack.raw(bytes);
            offset
        })
        .collect();
    (pack, offsets)
}

/// The objects of a pack, by its own table. Nothing is verified but the lengths.
pub fn read(pack: &[u8]) -> Result<Vec<(ObjectName, &[u8])>, Malformed> {
    let mut reader = Reader::new(pack, "pack");
    if reader.take(12)? != [&MAGIC[..], &[FORMAT, 0, TYPE, 0]].concat() {
        return Err(reader.malformed());
    }
    let rows = reader.list(|reader| Ok((ObjectName::from_bytes(reader.array()?), reader.u32()?)))?;
    let objects = rows
        .into_iter()
        .map(|(name, len)| Ok((name, reader.take(len as usize)?)))
        .collect::<Result<_, Malformed>>()?;
    reader.end()?;
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_gives_back_what_was_put_in() {
        let objects = vec![
            (ObjectName::from_bytes([1; 32]), vec![1; 10]),
            (ObjectName::from_bytes([2; 32]), vec![2; 20]),
        ];
        let (pack, offsets) = build(&objects);
        assert_eq!(offsets, [table_len(2) as u64, table_len(2) as u64 + 10]);
        let read_back = read(&pack).unwrap();
        assert!(read_back.iter().zip(&objects).all(|(read, put)| read.0 == put.0 && read.1 == put.1));
        for len in 0..pack.len() {
            assert!(read(&pack[..len]).is_err());
        }
        assert!(read(&[pack, vec![0]].concat()).is_err());
    }
}
