//! Objects: sealed versions and sealed parts.

use super::codec::{Malformed, Reader, Write};
use super::content::read_content;
use super::row::{read_version, write_version};
use super::{FileType, Header, SealedError, Unsealed, open_sealed, open_sealed_in_place};
use crate::crypto::{Keyring, Salt, SecretBytes, object_name};
use crate::entropy::{Entropy, EntropyError};
use crate::entry::{Content, PART_BYTES, SCHEMA};
use crate::id::ObjectName;
use crate::manifest::{Row, Subject, Summary};
use crate::version::{Kind, Version};

/// The largest object there is: a part of 4 MiB, or a version with an inline body and very many parts.
pub const MAX_OBJECT_BYTES: usize = 16 << 20;

/// A sealed file and its row.
#[derive(Debug, Clone)]
pub struct Object<B = Vec<u8>> {
    /// What it is, as it will be announced.
    pub row: Row,
    /// For a live version in a schema this program reads.
    pub summary: Option<Summary>,
    /// The file.
    pub bytes: B,
}

impl<B: AsRef<[u8]>> Object<B> {
    /// Its name.
    pub fn name(&self) -> ObjectName {
        self.row.object
    }

    fn new(object: ObjectName, header: Header, subject: Subject, summary: Option<Summary>, bytes: B) -> Self {
        let row = Row {
            object,
            len_bytes: u32::try_from(bytes.as_ref().len()).expect("objects are at most 16 MiB"),
            schema: header.schema,
            epoch: header.epoch,
            subject,
        };
        Self { row, summary, bytes }
    }
}

/// The content does not fit into one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Title, tags and the list of attachments are too long together.
    #[error("title, tags and list of attachments are too long together")]
    TooLong,
    /// No randomness, no seal.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// Seals a version: live with its content, a tombstone without.
pub fn seal_version(
    keyring: &Keyring,
    version: &Version,
    content: Option<&Content>,
    entropy: &impl Entropy,
) -> Result<Object, SealError> {
    seal_version_with(keyring, version, content, Salt::draw(entropy)?)
}

/// The same with a salt drawn before.
pub fn seal_version_with(
    keyring: &Keyring,
    version: &Version,
    content: Option<&Content>,
    salt: Salt,
) -> Result<Object, SealError> {
    debug_assert_eq!(content.is_some(), version.kind == Kind::Live);
    let mut inner = SecretBytes::default();
    write_version(&mut inner, version);
    if let Some(content) = content {
        let json = serde_json::to_vec(content).expect("content is strings, numbers and lists");
        inner.raw(&SecretBytes::from(json));
    }
    if super::sealed_file_len(inner.len()) > MAX_OBJECT_BYTES {
        return Err(SealError::TooLong);
    }
    let bytes = Unsealed::of(&inner).seal(keyring, FileType::Version, SCHEMA, salt);
    let header = Header {
        file_type: FileType::Version,
        schema: SCHEMA,
        epoch: keyring.current_epoch(),
        vault: keyring.vault(),
    };
    let subject = Subject::Version(version.clone().into());
    Ok(Object::new(object_name(&bytes), header, subject, content.map(Summary::of), bytes))
}

/// Seals up to [`PART_BYTES`] of an attachment.
pub fn seal_part(keyring: &Keyring, part: Unsealed, salt: Salt) -> Object {
    debug_assert!(part.content().len() <= PART_BYTES);
    let bytes = part.seal(keyring, FileType::Part, 0, salt);
    let header = Header {
        file_type: FileType::Part,
        schema: 0,
        epoch: keyring.current_epoch(),
        vault: keyring.vault(),
    };
    Object::new(object_name(&bytes), header, Subject::Part, None, bytes)
}

/// An opened version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedVersion {
    /// What it says about itself.
    pub version: Version,
    /// Live content; `None` for a tombstone.
    pub content: Option<Content>,
}

/// Opens a version. One in a newer schema opens without content: its [`Version`] can be read for ever.
pub fn open_version(keyring: &Keyring, file: &[u8]) -> Result<OpenedVersion, SealedError> {
    let (header, inner) = open_sealed(keyring, FileType::Version, file)?;
    let mut reader = Reader::new(&inner, "version");
    let version = read_version(&mut reader)?;
    let rest = reader.rest();
    let content = match version.kind {
        _ if header.schema > SCHEMA => None,
        Kind::Tombstone if rest.is_empty() => None,
        Kind::Tombstone => return Err(Malformed("tombstone").into()),
        Kind::Live => Some(read_content(header.schema, rest)?),
    };
    Ok(OpenedVersion { version, content })
}

/// Opens a part, in the memory it is in.
pub fn open_part(keyring: &Keyring, file: SecretBytes) -> Result<SecretBytes, SealedError> {
    let (_, content) = open_sealed_in_place(keyring, FileType::Part, file)?;
    if content.len() > PART_BYTES { Err(Malformed("part").into()) } else { Ok(content) }
}

/// Opens an object of either kind, and says what it is: the row it must have been announced with.
pub fn identify(keyring: &Keyring, bytes: Vec<u8>) -> Result<Object, SealedError> {
    identify_as(keyring, object_name(&bytes), bytes)
}

/// The same, where it was found before that `name` is the hash of these bytes: that takes longer than to open them.
pub fn identify_as<B: AsRef<[u8]>>(
    keyring: &Keyring,
    name: ObjectName,
    bytes: B,
) -> Result<Object<B>, SealedError> {
    let (header, _) = super::read_header(bytes.as_ref())?;
    match header.file_type {
        FileType::Version => {
            let OpenedVersion { version, content } = open_version(keyring, bytes.as_ref())?;
            let summary = content.as_ref().map(Summary::of);
            Ok(Object::new(name, header, Subject::Version(version.into()), summary, bytes))
        }
        FileType::Part => {
            open_part(keyring, bytes.as_ref().to_vec().into())?;
            Ok(Object::new(name, header, Subject::Part, None, bytes))
        }
        FileType::Manifest | FileType::Feed | FileType::Backup | FileType::State | FileType::Outgoing => {
            Err(SealedError::WrongType)
        }
    }
}
