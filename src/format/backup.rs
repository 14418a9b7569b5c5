//! Backup files: a plain tar of a vault, and first in it a sealed index of everything that follows.
//!
//! The index decides every byte of the file: each header is the one this module makes of a path and a length, and
//! what lies between is hashed in the index. Nothing of a backup is believed that its index does not say.

use std::collections::BTreeMap;

use super::codec::{Reader, Write};
use super::keyfile::MAX_KEY_FILE_BYTES;
use super::marker::{MARKER_NAME, MAX_MARKER_BYTES};
use super::object::MAX_OBJECT_BYTES;
use super::{FileType, SealedError, open_sealed, seal_file};
use crate::crypto::Keyring;
use crate::entropy::{Entropy, EntropyError};
use crate::id::{DeviceId, ObjectName};

/// The index's name in the tar, where it comes first.
pub const INDEX_NAME: &str = "backup-index";

/// What a backup's file name ends with, after a dot.
pub const EXTENSION: &str = "tar";

/// No index is longer.
pub const MAX_INDEX_BYTES: usize = 256 << 20;

/// A tar is made of blocks of this many bytes, a header being one.
pub const BLOCK_BYTES: usize = 512;

/// What a tar ends with: zeros.
pub const END_BYTES: usize = 2 * BLOCK_BYTES;

const KEYS_PREFIX: &str = "keys/";
const OBJECTS_PREFIX: &str = "objects/";

/// One file in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, in the vault as in the tar.
    pub path: String,
    /// Its length.
    pub len_bytes: u64,
    /// Its SHA-256.
    pub sha256: ObjectName,
}

/// What a file in a backup is, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `espejo.json`.
    Marker,
    /// A key file.
    Key,
    /// An object.
    Object(ObjectName),
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// When it was made, milliseconds since 1970 UTC.
    pub created_at: i64,
    /// The device that made it.
    pub device: DeviceId,
    /// What the devices are called that were known to it, itself among them.
    pub names: BTreeMap<DeviceId, String>,
    /// The program and version that made it.
    pub program: String,
    /// Its files, in strictly ascending order of their paths.
    pub entries: Vec<Entry>,
}

impl Entry {
    /// What it is; `None` if its path or length is none that a backup may hold.
    pub fn kind(&self) -> Option<Kind> {
        let (kind, max_bytes) = if self.path == MARKER_NAME {
            (Kind::Marker, MAX_MARKER_BYTES)
        } else if is_key_path(&self.path) {
            (Kind::Key, MAX_KEY_FILE_BYTES)
        } else {
            let name = object_at(&self.path).filter(|name| *name == self.sha256)?;
            (Kind::Object(name), MAX_OBJECT_BYTES)
        };
        (self.len_bytes <= max_bytes as u64).then_some(kind)
    }
}

/// The object that lies at this path, if it is one where an object lies.
pub fn object_at(path: &str) -> Option<ObjectName> {
    let (shard, hex) = path.strip_prefix(OBJECTS_PREFIX)?.split_once('/')?;
    let name = hex.parse::<ObjectName>().ok()?;
    (hex.starts_with(shard) && shard.len() == 2).then_some(name)
}

/// Whether this is where a key file lies: a name that can do nothing but be a file's.
pub fn is_key_path(path: &str) -> bool {
    let safe = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = path.strip_prefix(KEYS_PREFIX).and_then(|name| name.strip_suffix(".key"));
    name.is_some_and(|name| (1..=64).contains(&name.len()) && name.chars().all(safe))
}

/// The header of a file in the tar. It says nothing but path and length: whoever holds the file learns no owner and
/// no time.
pub fn tar_header(path: &str, len_bytes: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).expect("paths in a backup are short and plain");
    header.set_size(len_bytes);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// The path and length a header states; `None` if it is not exactly as this program writes it.
pub fn read_tar_header(block: &[u8]) -> Option<(String, u64)> {
    if block.len() != BLOCK_BYTES {
        return None;
    }
    let header = tar::Header::from_byte_slice(block);
    let path = String::from_utf8(header.path_bytes().into_owned()).ok()?;
    let len_bytes = header.entry_size().ok()?;
    let safe = path == INDEX_NAME || path == MARKER_NAME || is_key_path(&path) || object_at(&path).is_some();
    (safe && len_bytes < 1 << 33 && tar_header(&path, len_bytes) == block).then_some((path, len_bytes))
}

/// The zeros after `len_bytes` bytes of content, up to the next block.
pub fn padding(len_bytes: u64) -> usize {
    (BLOCK_BYTES - (len_bytes % BLOCK_BYTES as u64) as usize) % BLOCK_BYTES
}

impl Index {
    /// The files in the order they are in the tar: all of them, and the key files once more, so that one bad spot does not
    /// cost the rest.
    pub fn in_order(&self) -> impl Iterator<Item = &Entry> {
        let keys = self.entries.iter().filter(|entry| entry.kind() == Some(Kind::Key));
        self.entries.iter().chain(keys)
    }
}

/// The bytes a file takes in the tar: header, content and padding.
pub fn tar_len(len_bytes: u64) -> u64 {
    BLOCK_BYTES as u64 + len_bytes + padding(len_bytes) as u64
}

/// Seals an index.
pub fn seal_index(keyring: &Keyring, index: &Index, entropy: &impl Entropy) -> Result<Vec<u8>, EntropyError> {
    let mut content = Vec::new();
    content.i64(index.created_at);
    content.raw(index.device.as_bytes());
    content.list(index.names.iter(), |out, (device, name)| {
        out.raw(device.as_bytes());
        out.bytes(name.as_bytes());
    });
    content.bytes(index.program.as_bytes());
    content.list(index.entries.iter(), |out, entry| {
        out.bytes(entry.path.as_bytes());
        out.u64(entry.len_bytes);
        out.raw(entry.sha256.as_bytes());
    });
    seal_file(keyring, FileType::Backup, 0, &content, entropy)
}

/// Opens an index. Every path in it is one that may be written into a vault, the marker and a key file are among them.
pub fn open_index(keyring: &Keyring, file: &[u8]) -> Result<Index, SealedError> {
    let (_, content) = open_sealed(keyring, FileType::Backup, file)?;
    let mut reader = Reader::new(&content, "backup index");
    let created_at = reader.i64()?;
    let device = DeviceId::from_bytes(reader.array()?);
    let names = reader.list(|reader| Ok((DeviceId::from_bytes(reader.array()?), reader.text()?)))?;
    let names = names.into_iter().collect();
    let program = reader.text()?;
    let entries = reader.list(|reader| {
        let path = reader.text()?;
        let len_bytes = reader.u64()?;
        Ok(Entry { path, len_bytes, sha256: ObjectName::from_bytes(reader.array()?) })
    })?;
    let malformed = reader.malformed();
    reader.end()?;
    let ordered = entries.windows(2).all(|pair| pair[0].path < pair[1].path);
    let kinds = entries.iter().map(Entry::kind).collect::<Option<Vec<_>>>();
    match kinds {
        Some(kinds) if ordered && kinds.contains(&Kind::Marker) && kinds.contains(&Kind::Key) => {
            Ok(Index { created_at, device, names, program, entries })
        }
        _ => Err(malformed.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::OsEntropy;
    use crate::id::VaultId;

    fn entry(path: &str, len_bytes: u64) -> Entry {
        Entry { path: path.to_owned(), len_bytes, sha256: ObjectName::from_bytes([0xab; 32]) }
    }

    #[test]
    fn an_index_reads_back_and_names_nothing_that_could_leave_the_vault() {
        let keyring = Keyring::generate(VaultId::from_bytes([1; 16]), &OsEntropy).unwrap();
        let object = format!("objects/ab/{}", "ab".repeat(32));
        let index = |paths: &[&str]| Index {
            created_at: 1,
            device: DeviceId::from_bytes([2; 16]),
            names: BTreeMap::from([(DeviceId::from_bytes([2; 16]), "laptop".to_owned())]),
            program: "espejo".to_owned(),
            entries: paths.iter().map(|path| entry(path, 100)).collect(),
        };
        let reads = |index: &Index| open_index(&keyring, &seal_index(&keyring, index, &OsEntropy).unwrap());
        let good = index(&["espejo.json", "keys/00000001-ab.key", &object]);
        assert_eq!(reads(&good).unwrap(), good);
        for bad in [
            "../espejo.json",
            "/etc/passwd",
            "keys/../x.key",
            "keys/.key",
            "local/device",
            "objects/ab/abc",
            "objects/cd/x",
            "zzz",
        ] {
            let mut paths = vec!["espejo.json", "keys/00000001-ab.key", bad];
            paths.sort_unstable();
            assert!(reads(&index(&paths)).is_err(), "{bad}");
        }
        assert!(reads(&index(&["keys/1.key", "espejo.json"])).is_err(), "out of order");
        assert!(reads(&index(&["espejo.json", "espejo.json", "keys/1.key"])).is_err(), "twice");
        assert!(reads(&index(&["espejo.json"])).is_err(), "no key file");
        let mut long = good.clone();
        long.entries[2].len_bytes = MAX_OBJECT_BYTES as u64 + 1;
        assert!(reads(&long).is_err());
        let mut other = good;
        other.entries[2].sha256 = ObjectName::from_bytes([0xcd; 32]);
        assert!(reads(&other).is_err(), "an object's name is its hash");
    }

    #[test]
    fn a_header_has_one_form() {
        let header = tar_header(INDEX_NAME, 12_345);
        assert_eq!(read_tar_header(&header), Some((INDEX_NAME.to_owned(), 12_345)));
        for at in 0..BLOCK_BYTES {
            let mut other = header.clone();
            other[at] ^= 1;
            assert_ne!(read_tar_header(&other), Some((INDEX_NAME.to_owned(), 12_345)), "byte {at}");
        }
        assert_eq!(tar_len(1), 1_024);
        assert_eq!(tar_len(512), 1_024);
        assert_eq!(tar_len(513), 1_536);
    }
}
