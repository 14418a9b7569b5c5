//! What waits to be announced, for a device that mirrors while its vault is locked: rows, sealed like a feed.
//!
//! One file for each change, in `local/`, never mirrored nor backed up. The index knows all of it too, so that a lost
//! file costs time.

use super::codec::{Reader, Write};
use super::row::{read_row, write_row};
use super::{FileType, SealedError, open_sealed, seal_file};
use crate::crypto::KeySource;
use crate::entropy::{Entropy, EntropyError};
use crate::id::ObjectName;
use crate::manifest::Row;

/// No such file is longer.
pub const MAX_OUTGOING_BYTES: u64 = 64 << 20;

/// An object that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The object.
    pub row: Row,
    /// Of a live version, the parts it names: they go before it.
    pub parts: Box<[ObjectName]>,
}

/// Seals what waits.
pub fn seal_outgoing(
    keys: &impl KeySource,
    outgoing: &[Outgoing],
    entropy: &impl Entropy,
) -> Result<Vec<u8>, EntropyError> {
    let mut content = Vec::new();
    content.list(outgoing.iter(), |out, outgoing| {
        write_row(out, &outgoing.row);
        out.list(outgoing.parts.iter(), |out, part| out.raw(part.as_bytes()));
    });
    seal_file(keys, FileType::Outgoing, 0, &content, entropy)
}

/// Opens a file of what waits.
pub fn open_outgoing(keys: &impl KeySource, file: &[u8]) -> Result<Vec<Outgoing>, SealedError> {
    let (_, content) = open_sealed(keys, FileType::Outgoing, file)?;
    let mut reader = Reader::new(&content, "what waits");
    let outgoing = reader.list(|reader| {
        let row = read_row(reader)?;
        let parts = reader.list(|reader| Ok(ObjectName::from_bytes(reader.array()?)))?.into();
        Ok(Outgoing { row, parts })
    })?;
    reader.end()?;
    Ok(outgoing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Keyring;
    use crate::entropy::OsEntropy;
    use crate::id::VaultId;
    use crate::manifest::Subject;

    #[test]
    fn what_waits_reads_back_with_the_keys_of_the_feeds_and_is_no_segment() {
        let keyring = Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
        let object = ObjectName::from_bytes([7; 32]);
        let row = Row { object, len_bytes: 4_096, schema: 2, epoch: 1, subject: Subject::Part };
        let waiting = vec![Outgoing { row, parts: [object, ObjectName::from_bytes([8; 32])].into() }];
        let file = seal_outgoing(&keyring, &waiting, &OsEntropy).unwrap();
        assert_eq!(open_outgoing(&keyring.feed_keys(), &file).unwrap(), waiting);
        assert!(super::super::feed::open_segment(&keyring, &file).is_err());
        let other = Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
        assert!(open_outgoing(&other, &file).is_err());
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1;
            assert!(open_outgoing(&keyring, &altered).is_err(), "byte {at}");
        }
    }
}
