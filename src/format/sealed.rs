//! The frame every sealed file shares: a clear header, then the padded content, sealed with the header as context.

use std::io::{self, Read};

use super::codec::{Malformed, Reader, Write};
use crate::crypto::{self, Epoch, KeySource, OpenError, Purpose, Salt, SecretBytes};
use crate::entropy::{Entropy, EntropyError};
use crate::id::VaultId;

/// The first eight bytes of every file. The line ends in it show a transfer that mangled them.
pub const MAGIC: [u8; 8] = [0x89, b'E', b'S', b'J', 0x0d, 0x0a, 0x1a, 0x0a];
pub const FORMAT: u8 = 1;
/// Cobblestone-256.
pub const SUITE: u8 = 1;

/// No sealed file is shorter: an edit of a few words and a delete look the same.
pub const MIN_SEALED_BYTES: usize = 4_096;

const HEADER_LEN: usize = 36;
const LENGTH_LEN: usize = 8;
/// Where the length stands before it is sealed, and what it is the length of.
const LENGTH_START: usize = HEADER_LEN + crypto::PREFIX_LEN;
const CONTENT_START: usize = LENGTH_START + LENGTH_LEN;
const MIN_PADDED_LEN: usize = MIN_SEALED_BYTES - HEADER_LEN - crypto::OVERHEAD_BYTES;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A version of an entry.
    Version,
    /// A part of an attachment or a long body.
    Part,
    /// The local index.
    Manifest,
    /// A feed segment.
    Feed,
    /// The index of a backup.
    Backup,
    /// Device identity, remote settings.
    State,
    /// Rows of objects that wait to be announced.
    Outgoing,
}

impl FileType {
    fn byte(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Part => 2,
            Self::Manifest => 3,
            Self::Feed => 4,
            Self::Backup => 5,
            // 6 is the key file, 8 a pack, 9 the session: they have frames of their own.
            Self::State => 7,
            Self::Outgoing => 10,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Version, Self::Part, Self::Manifest, Self::Feed, Self::Backup, Self::State, Self::Outgoing]
            .into_iter()
            .find(|file_type| file_type.byte() == byte)
    }

    /// The purpose of the key that seals files of this type.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Version => Purpose::Entry,
            Self::Part => Purpose::Attachment,
            Self::Manifest => Purpose::Manifest,
            Self::Feed | Self::Outgoing => Purpose::Feed,
            Self::Backup => Purpose::Backup,
            Self::State => Purpose::State,
        }
    }
}

/// Everything a sealed file says in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub file_type: FileType,
    /// The schema of the content; 0 where there is none.
    pub schema: u32,
    /// The key epoch it is sealed under.
    pub epoch: Epoch,
    /// The vault it belongs to.
    pub vault: VaultId,
}

impl Header {
    /// The header's bytes: what the seal is bound to.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.raw(&MAGIC);
        bytes.raw(&[FORMAT, SUITE, self.file_type.byte(), 0]);
        bytes.u32(self.schema);
        bytes.u32(self.epoch);
        bytes.raw(self.vault.as_bytes());
        bytes
    }
}

/// Why a sealed file was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Does not begin like a file of Espejo's.
    #[error("not a file of Espejo's")]
    Foreign,
    /// Written in a format, suite or with flags this program does not know.
    #[error("written by a newer program")]
    Newer,
    /// A file of Espejo's, but not the kind that belongs here.
    #[error("another kind of file")]
    WrongType,
    /// It belongs to another vault.
    #[error("it belongs to another vault")]
    WrongVault,
    /// Sealed under a key epoch this device has no key for.
    #[error("sealed under key epoch {0}, which this device does not have")]
    UnknownEpoch(Epoch),
    /// The seal does not hold: tampered with, or not made by a key holder.
    #[error(transparent)]
    Seal(#[from] OpenError),
    /// The seal holds and the content does not follow the format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Splits off and checks the clear header. Authenticates nothing.
pub fn read_header(file: &[u8]) -> Result<(Header, &[u8]), SealedError> {
    let mut reader = Reader::new(file, "header");
    if reader.take(MAGIC.len()).ok() != Some(&MAGIC) {
        return Err(SealedError::Foreign);
    }
    let [format, suite, file_type, flags] = reader.array()?;
    if format != FORMAT || suite != SUITE || flags != 0 {
        return Err(SealedError::Newer);
    }
    let file_type = FileType::from_byte(file_type).ok_or(SealedError::Newer)?;
    let schema = reader.u32()?;
    let epoch = reader.u32()?;
    let vault = VaultId::from_bytes(reader.array()?);
    Ok((Header { file_type, schema, epoch, vault }, reader.rest()))
}

/// The length of the sealed file for `content_len` bytes of content.
pub fn sealed_file_len(content_len: usize) -> usize {
    HEADER_LEN + crypto::sealed_len(padded_len(content_len))
}

/// Content that will be sealed in the memory it is in, with room around it for what a seal adds.
#[derive(Debug)]
pub struct Unsealed(SecretBytes);

impl Unsealed {
    /// None yet, in memory with room for `content_len` bytes of it.
    pub fn with_capacity(content_len: usize) -> Self {
        Self::reusing(Vec::with_capacity(sealed_file_len(content_len)))
    }

    /// None yet, in memory that was used before.
    pub fn reusing(used: Vec<u8>) -> Self {
        let mut bytes = SecretBytes::from(used);
        bytes.clear();
        bytes.reserve_exact(MIN_SEALED_BYTES);
        bytes.resize(CONTENT_START, 0);
        Self(bytes)
    }

    /// A copy of `content`.
    pub fn of(content: &[u8]) -> Self {
        let mut unsealed = Self::with_capacity(content.len());
        unsealed.0.extend_from_slice(content);
        unsealed
    }

    /// Reads from `source` until there are `content_len` bytes, or it ends.
    pub fn fill(&mut self, source: &mut impl Read, content_len: usize) -> io::Result<()> {
        if self.0.capacity() < sealed_file_len(content_len) {
            // A buffer that grew would leave a copy behind that nobody wipes.
            let mut larger = Self::with_capacity(content_len);
            larger.0.extend_from_slice(self.content());
            *self = larger;
        }
        let missing = content_len.saturating_sub(self.content().len());
        source.take(missing as u64).read_to_end(&mut self.0).map(drop)
    }

    /// What is to be sealed.
    pub fn content(&self) -> &[u8] {
        &self.0[CONTENT_START..]
    }

    /// Seals it as a file of `file_type`, under the current epoch.
    pub fn seal(self, keys: &impl KeySource, file_type: FileType, schema: u32, salt: Salt) -> Vec<u8> {
        let len = self.content().len();
        let Self(mut file) = self;
        let header = Header { file_type, schema, epoch: keys.current_epoch(), vault: keys.vault() }.encode();
        let key = keys
            .derive(file_type.purpose(), keys.current_epoch())
            .expect("keys of this purpose, in their newest epoch");
        file[..HEADER_LEN].copy_from_slice(&header);
        file[LENGTH_START..CONTENT_START].copy_from_slice(&(len as u64).to_be_bytes());
        file.resize(LENGTH_START + padded_len(len), 0);
        crypto::seal_in_place(file, HEADER_LEN, &key, &header, salt)
    }
}

/// Seals `content` as a file of `file_type`, under the current epoch.
pub fn seal_file(
    keys: &impl KeySource,
    file_type: FileType,
    schema: u32,
    content: &[u8],
    entropy: &impl Entropy,
) -> Result<Vec<u8>, EntropyError> {
    Ok(Unsealed::of(content).seal(keys, file_type, schema, Salt::draw(entropy)?))
}

/// Opens a file that must be of `file_type` and of this vault: its header and content.
pub fn open_sealed(
    keys: &impl KeySource,
    file_type: FileType,
    file: &[u8],
) -> Result<(Header, SecretBytes), SealedError> {
    open_sealed_in_place(keys, file_type, file.to_vec().into())
}

/// The same, in the memory the file is in.
pub fn open_sealed_in_place(
    keys: &impl KeySource,
    file_type: FileType,
    file: SecretBytes,
) -> Result<(Header, SecretBytes), SealedError> {
    let (header, _) = read_header(&file)?;
    if header.vault != keys.vault() {
        return Err(SealedError::WrongVault);
    }
    if header.file_type != file_type {
        return Err(SealedError::WrongType);
    }
    let key =
        keys.derive(file_type.purpose(), header.epoch).ok_or(SealedError::UnknownEpoch(header.epoch))?;
    let (length, mut content) = crypto::open_in_place(file, HEADER_LEN, &key, &header.encode())?;
    let malformed = SealedError::Malformed(Malformed("padding"));
    let len = usize::try_from(u64::from_be_bytes(length)).map_err(|_| malformed)?;
    if padded_len(len) != LENGTH_LEN + content.len() {
        return Err(malformed);
    }
    // Together, not one by one: most of a small file is padding.
    if content[len..].iter().fold(0, |all, byte| all | byte) != 0 {
        return Err(malformed);
    }
    content.truncate(len);
    Ok((header, content))
}

/// Length prefix and content, padded so that no file is under 4,096 bytes, and above that by Padmé (PURBs, PoPETs
/// 2019): at most 12 % more, and few distinct sizes.
fn padded_len(content_len: usize) -> usize {
    let len = content_len.saturating_add(LENGTH_LEN);
    if len <= MIN_PADDED_LEN {
        return MIN_PADDED_LEN;
    }
    let exponent = len.ilog2();
    let mask = (1_usize << (exponent - (exponent.ilog2() + 1))) - 1;
    len.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::crypto::Keyring;
    use crate::entropy::OsEntropy;

    fn keyring() -> Keyring {
        Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap()
    }

    #[test]
    fn small_files_are_one_size_and_large_ones_few() {
        assert!((0..=3_980).all(|len| sealed_file_len(len) == MIN_SEALED_BYTES));
        let sizes = (0..1 << 20).map(sealed_file_len).collect::<BTreeSet<_>>();
        assert!(sizes.len() <= 200, "{}", sizes.len());
        assert!((4_000..1 << 20).all(|len| padded_len(len) as f64 <= (len + 8) as f64 * 1.12));
        assert_eq!(padded_len(crate::entry::PART_BYTES), 4 << 20);
    }

    #[test]
    fn what_is_sealed_opens_and_only_as_what_it_is() {
        let keyring = keyring();
        for len in [0, 1, 3_980, 3_981, 16_384, 100_000] {
            let content = vec![3; len];
            let file = seal_file(&keyring, FileType::Version, 2, &content, &OsEntropy).unwrap();
            assert_eq!(file.len(), sealed_file_len(len));
            let (header, opened) = open_sealed(&keyring, FileType::Version, &file).unwrap();
            assert_eq!((header.schema, header.epoch, &opened[..]), (2, 1, &content[..]));
            assert_eq!(open_sealed(&keyring, FileType::Part, &file), Err(SealedError::WrongType));
        }
    }

    #[test]
    fn every_altered_byte_is_refused() {
        let keyring = keyring();
        let file = seal_file(&keyring, FileType::Version, 2, b"text", &OsEntropy).unwrap();
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1 << (at % 8);
            assert!(open_sealed(&keyring, FileType::Version, &altered).is_err(), "byte {at}");
        }
        for len in 0..file.len() {
            assert!(open_sealed(&keyring, FileType::Version, &file[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_changed_header_breaks_the_seal() {
        let keyring = keyring();
        let file = seal_file(&keyring, FileType::Version, 2, b"text", &OsEntropy).unwrap();
        let mut schema = file.clone();
        schema[15] = 1;
        assert_eq!(
            open_sealed(&keyring, FileType::Version, &schema),
            Err(SealedError::Seal(OpenError::Commitment))
        );
        for (at, byte) in [(8, 2), (8, 0), (9, 0), (9, 2), (9, 255), (11, 1)] {
            let mut newer = file.clone();
            newer[at] = byte;
            assert_eq!(open_sealed(&keyring, FileType::Version, &newer), Err(SealedError::Newer));
        }
    }
}
