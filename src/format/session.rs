//! The session file: the keys of an unlocked vault, sealed under a key that the operating system keeps for a while.
//!
//! It lies beside the vault's own state and is never mirrored nor backed up. Without the key it is noise.

use super::codec::{Malformed, Reader, Write};
use super::keyfile::{read_masters, write_masters};
use super::sealed::{FORMAT, MAGIC, SUITE};
use crate::crypto::{self, Key, Keyring, SecretBytes};
use crate::entropy::{Entropy, EntropyError};
use crate::id::VaultId;

/// No session file is longer.
pub const MAX_SESSION_BYTES: u64 = 8_192;

const TYPE: u8 = 9;
const ID_LEN: usize = 16;
const CONTEXT: &[u8] = b"espejo/v1/session\0";

/// What a session is found by: random, and no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId([u8; ID_LEN]);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What a session holds.
#[derive(Debug, Clone)]
pub struct Session {
    /// The keys.
    pub keyring: Keyring,
    /// When it began, milliseconds since 1970 UTC: a clock that is before it was set back.
    pub begun_ms: i64,
    /// When it ends.
    pub until_ms: i64,
    /// The key file that was in force: what opens the vault has changed if another one is.
    pub key_file: String,
}

/// Seals a session under `key`: what it is found by, and the file.
pub fn seal(
    session: &Session,
    key: &Key,
    entropy: &impl Entropy,
) -> Result<(SessionId, Vec<u8>), EntropyError> {
    let id = SessionId(entropy.array()?);
    let mut content = SecretBytes::default();
    content.raw(session.keyring.vault().as_bytes());
    content.i64(session.begun_ms);
    content.i64(session.until_ms);
    content.bytes(session.key_file.as_bytes());
    write_masters(&mut content, &session.keyring);
    let mut file = Vec::new();
    file.raw(&MAGIC);
    file.raw(&[FORMAT, SUITE, TYPE, 0]);
    file.raw(&id.0);
    let sealed = crypto::seal(key, &[CONTEXT, &file].concat(), &content, entropy)?;
    file.extend(sealed);
    Ok((id, file))
}

/// What the session in `file` is found by.
pub fn read_id(file: &[u8]) -> Result<SessionId, Malformed> {
    split(file).map(|(id, ..)| id)
}

/// Opens the session in `file`, if `key` is its own.
pub fn open(key: &Key, file: &[u8]) -> Result<Session, Malformed> {
    let malformed = Malformed("session");
    let (_, clear, sealed) = split(file)?;
    let content = crypto::open(key, &[CONTEXT, clear].concat(), sealed).map_err(|_| malformed)?;
    let mut reader = Reader::new(&content, "session");
    let vault = VaultId::from_bytes(reader.array()?);
    let (begun_ms, until_ms) = (reader.i64()?, reader.i64()?);
    let key_file = reader.text()?;
    let masters = read_masters(&mut reader)?;
    reader.end()?;
    let keyring = Keyring::from_masters(vault, masters).ok_or(malformed)?;
    Ok(Session { keyring, begun_ms, until_ms, key_file })
}

fn split(file: &[u8]) -> Result<(SessionId, &[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(file, "session");
    let is_ours = reader.take(MAGIC.len())? == MAGIC && reader.array()? == [FORMAT, SUITE, TYPE, 0];
    let id = SessionId(reader.array()?);
    let sealed = reader.rest();
    let clear = &file[..file.len() - sealed.len()];
    is_ours.then_some((id, clear, sealed)).ok_or(Malformed("session"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::OsEntropy;

    #[test]
    fn a_session_opens_with_its_own_key_and_unaltered_and_not_otherwise() {
        let keyring = Keyring::generate(VaultId::from_bytes([3; 16]), &OsEntropy).unwrap();
        let session = Session { keyring, begun_ms: 5, until_ms: 9, key_file: "1-a.key".to_owned() };
        let key = Key::random(&OsEntropy).unwrap();
        let (id, file) = seal(&session, &key, &OsEntropy).unwrap();
        assert!(file.len() as u64 <= MAX_SESSION_BYTES);
        assert_eq!(read_id(&file).unwrap(), id);
        let opened = open(&key, &file).unwrap();
        assert_eq!((opened.begun_ms, opened.until_ms, &opened.key_file[..]), (5, 9, "1-a.key"));
        assert_eq!(opened.keyring.masters()[&1].as_bytes(), session.keyring.masters()[&1].as_bytes());
        assert!(open(&Key::random(&OsEntropy).unwrap(), &file).is_err());
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1;
            assert!(open(&key, &altered).is_err(), "byte {at}");
            assert!(open(&key, &file[..at]).is_err(), "cut at {at}");
        }
    }
}
