//! Packs: many small sealed objects in one file on the mirror, because requests are what is dear.

use super::codec::{Malformed, Reader, Write};
use super::sealed::{FORMAT, MAGIC};
use crate::id::ObjectName;

/// A pack is not made larger than this.
pub const MAX_PACK_BYTES: usize = 2 << 20;

const TYPE: u8 = 8;
const FIXED_LEN: usize = 16;
const ROW_LEN: usize = ObjectName::LEN + 4;

/// The length of a pack's table for `count` objects: where the first object starts.
pub const fn table_len(count: usize) -> usize {
    FIXED_LEN + count * ROW_LEN
}

/// Joins objects into a pack, holding no more than the pack.
#[derive(Debug, Default)]
pub struct Builder {
    /// Each object with its length and where it begins after the table.
    rows: Vec<(ObjectName, u32, u64)>,
    bytes: Vec<u8>,
}

impl Builder {
    /// For `count` objects, of so many bytes together, or fewer.
    pub fn with_capacity(count: usize, len_bytes: usize) -> Self {
        Self { rows: Vec::with_capacity(count), bytes: Vec::with_capacity(table_len(count) + len_bytes) }
    }

    /// Adds an object.
    pub fn add(&mut self, name: ObjectName, bytes: &[u8]) {
        let len_bytes = u32::try_from(bytes.len()).expect("objects are at most 16 MiB");
        self.rows.push((name, len_bytes, self.bytes.len() as u64));
        self.bytes.raw(bytes);
    }

    /// The pack, and each object's offset in it.
    pub fn finish(self) -> (Vec<u8>, Vec<u64>) {
        let mut table = Vec::with_capacity(table_len(self.rows.len()));
        table.raw(&MAGIC);
        table.raw(&[FORMAT, 0, TYPE, 0]);
        table.list(self.rows.iter(), |table, (name, len_bytes, _)| {
            table.raw(name.as_bytes());
            table.u32(*len_bytes);
        });
        let offsets = self.rows.iter().map(|(.., from)| table.len() as u64 + from).collect();
        let mut pack = self.bytes;
        pack.splice(0..0, table);
        (pack, offsets)
    }
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
        let mut builder = Builder::default();
        objects.iter().for_each(|(name, bytes)| builder.add(*name, bytes));
        let (pack, offsets) = builder.finish();
        assert_eq!(offsets, [table_len(2) as u64, table_len(2) as u64 + 10]);
        let read_back = read(&pack).unwrap();
        assert!(read_back.iter().zip(&objects).all(|(read, put)| read.0 == put.0 && read.1 == put.1));
        for len in 0..pack.len() {
            assert!(read(&pack[..len]).is_err());
        }
        assert!(read(&[pack, vec![0]].concat()).is_err());
    }
}
