//! The key file: the master keys, wrapped once per way to unlock them.
//!
//! It carries a generation and a MAC under the master key, so a device that is unlocked can accept a password
//! change made elsewhere without knowing the new password, and a server can neither forge one nor go back.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

mod join;

pub use join::Difference;

use super::codec::{Malformed, Reader, Write};
use super::feed::hash16;
use super::sealed::{FORMAT, MAGIC, SUITE};
use crate::crypto::{
    self, ACCEPTED_ITERATIONS, Epoch, Key, Keyring, Password, Purpose, SecretBytes, password_key,
    recovery_key, sha256,
};
use crate::entropy::{Entropy, EntropyError};
use crate::id::{DeviceId, VaultId};

/// No key file is longer; what is, is not read.
pub const MAX_KEY_FILE_BYTES: usize = 8_192;

const TYPE: u8 = 6;
const HEADER_LEN: usize = 72;
const SLOT_HEADER_LEN: usize = 64;
const TRAILER_LEN: usize = 96;
const SLOT_CONTEXT: &[u8] = b"espejo/v1/slot\0";

/// So many passwords, and so many recovery keys, open one file at most: neither leaves the other without room.
const MAX_SLOTS_OF_KIND: usize = 8;

/// A way to unlock: what the person gives.
#[derive(Debug, Clone)]
pub enum Secret {
    /// The vault's password.
    Password(Password),
    /// The 256 bits behind the 24 recovery words.
    Recovery(Zeroizing<[u8; 32]>),
}

/// How a slot's key is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SlotKind {
    /// PBKDF2-HMAC-SHA256 with this many rounds.
    Password { iterations: u32 },
    /// HKDF-SHA256.
    Recovery,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    /// The generation it was made in. A newer one of its kind takes its place, wherever the two meet.
    made_in: u32,
    created_ms: i64,
    kind: SlotKind,
    salt: [u8; 32],
    sealed: Vec<u8>,
}

/// Which slot of a key file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotId([u8; 32]);

/// What a key file says of the password, in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordSlot {
    /// When it was set, milliseconds since 1970 UTC, by that device's clock.
    pub set_at: i64,
    /// Whether there was another one before.
    pub changed: bool,
    /// PBKDF2 rounds.
    pub iterations: u32,
}

/// A parsed key file. Nothing in it is trusted before it is unlocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Counts changes, from 1.
    pub generation: u32,
    /// The newest epoch.
    pub epoch: Epoch,
    /// Objects of older epochs are refused.
    pub min_epoch: Epoch,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// When it was written, milliseconds since 1970 UTC, by that device's clock.
    pub created_ms: i64,
    /// Who wrote it.
    pub device: DeviceId,
    slots: Vec<Slot>,
    mac: [u8; 32],
    previous_mac: [u8; 32],
}

/// Why a key file could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Its own checksum is wrong, or it is cut short, or not a key file.
    #[error("the key file is damaged")]
    Damaged,
    /// A format or a key derivation this program does not know.
    #[error("the key file was written by a newer program")]
    Newer,
    /// Fewer rounds than are safe: refused before any work.
    #[error("the key file asks for a dangerously cheap key derivation")]
    TooCheap,
    /// More rounds than are reasonable: refused before any work.
    #[error("the key file asks for an absurdly expensive key derivation")]
    TooExpensive,
    /// The checksum is right and no slot opens with what was given.
    #[error("this does not open the key file")]
    WrongSecret,
    /// The key file has no slot for this kind of secret.
    #[error("this key file has no recovery key")]
    NoSuchSlot,
    /// A slot opened and the whole is not authentic: somebody altered the key file.
    #[error("the key file was tampered with")]
    Tampered,
}

impl From<Malformed> for KeyFileError {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

/// Parameters of a new key file.
#[derive(Debug, Clone)]
pub struct NewKeyFile<'a> {
    /// Counts changes, from 1.
    pub generation: u32,
    /// Milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// Who writes it.
    pub device: DeviceId,
    /// The password slot.
    pub password: &'a Password,
    /// PBKDF2 rounds of the password slot.
    pub iterations: u32,
    /// The recovery slot, if the person wants one.
    pub recovery: Option<&'a Zeroizing<[u8; 32]>>,
}

impl KeyFile {
    /// Wraps `keyring`.
    pub fn new(
        keyring: &Keyring,
        new: &NewKeyFile<'_>,
        entropy: &impl Entropy,
    ) -> Result<Self, EntropyError> {
        let made = (new.generation, new.created_ms);
        let password = Secret::Password(new.password.clone());
        let mut slots = vec![Slot::new(keyring, &password, new.iterations, made, entropy)?];
        if let Some(recovery) = new.recovery {
            let secret = Secret::Recovery(recovery.clone());
            slots.push(Slot::new(keyring, &secret, new.iterations, made, entropy)?);
        }
        let key_file = Self {
            generation: new.generation,
            epoch: keyring.current_epoch(),
            min_epoch: 1,
            vault: keyring.vault(),
            created_ms: new.created_ms,
            device: new.device,
            slots,
            mac: [0; 32],
            previous_mac: [0; 32],
        };
        Ok(key_file.authenticated(keyring))
    }

    /// The same with the MACs that belong to it.
    fn authenticated(mut self, keyring: &Keyring) -> Self {
        let body = self.encode_body();
        self.mac = mac_key(keyring, self.epoch).map_or([0; 32], |key| key.mac(&[&body]));
        let before = self.epoch.checked_sub(1).and_then(|before| mac_key(keyring, before));
        self.previous_mac = before.map_or([0; 32], |key| key.mac(&[&body, &self.mac]));
        self
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_body();
        bytes.raw(&self.mac);
        bytes.raw(&self.previous_mac);
        let checksum = sha256(&[&bytes]);
        bytes.raw(&checksum);
        bytes
    }

    /// The file's name in `keys/`: `<generation>-<hash16>.key`.
    pub fn file_name(&self) -> String {
        format!("{}-{}.key", self.generation, hash16(&self.encode()))
    }

    fn encode_body(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.raw(&MAGIC);
        bytes.raw(&[FORMAT, SUITE, TYPE, 0]);
        bytes.u32(self.generation);
        bytes.u32(self.epoch);
        bytes.u32(self.min_epoch);
        bytes.raw(self.vault.as_bytes());
        bytes.i64(self.created_ms);
        bytes.raw(self.device.as_bytes());
        bytes.u8(self.slots.len() as u8);
        bytes.raw(&[0; 7]);
        for slot in &self.slots {
            bytes.raw(&slot.encode_header());
            bytes.raw(&slot.sealed);
        }
        bytes
    }

    /// Parses a key file strictly, the checksum first: a damaged file must never look like a wrong password.
    pub fn decode(file: &[u8]) -> Result<Self, KeyFileError> {
        if file.len() > MAX_KEY_FILE_BYTES || file.len() < HEADER_LEN + TRAILER_LEN {
            return Err(KeyFileError::Damaged);
        }
        let (content, checksum) = file.split_at(file.len() - 32);
        if sha256(&[content]) != checksum {
            return Err(KeyFileError::Damaged);
        }
        let mut reader = Reader::new(content, "key file");
        if reader.take(8)? != MAGIC {
            return Err(KeyFileError::Damaged);
        }
        if reader.array()? != [FORMAT, SUITE, TYPE, 0] {
            return Err(KeyFileError::Newer);
        }
        let generation = reader.u32()?;
        let epoch = reader.u32()?;
        let min_epoch = reader.u32()?;
        let vault = VaultId::from_bytes(reader.array()?);
        let created_ms = reader.i64()?;
        let device = DeviceId::from_bytes(reader.array()?);
        let count = reader.u8()?;
        reader.zeros(7)?;
        if !(1..=2 * MAX_SLOTS_OF_KIND).contains(&usize::from(count)) || epoch == 0 || generation == 0 {
            return Err(KeyFileError::Damaged);
        }
        let slots = (0..count).map(|_| Slot::decode(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        if slots.iter().any(|slot| slot.made_in > generation) {
            return Err(KeyFileError::Damaged);
        }
        let mac = reader.array()?;
        let previous_mac = reader.array()?;
        reader.end()?;
        let file = Self { generation, epoch, min_epoch, vault, created_ms, device, slots, mac, previous_mac };
        let most = file.passwords().max(file.recovery_keys());
        if most > MAX_SLOTS_OF_KIND { Err(KeyFileError::Damaged) } else { Ok(file) }
    }

    /// Opens the file with what the person gave, and authenticates the whole of it.
    ///
    /// The key derivation runs only for slots of the right kind whose cost is within bounds.
    pub fn unlock(&self, secret: &Secret) -> Result<Keyring, KeyFileError> {
        self.unlock_slot(secret).map(|(keyring, _)| keyring)
    }

    /// The same, with the slot that opened.
    pub fn unlock_slot(&self, secret: &Secret) -> Result<(Keyring, SlotId), KeyFileError> {
        let mut fitting = self.slots.iter().filter(|slot| slot.fits(secret)).peekable();
        if fitting.peek().is_none() {
            return Err(KeyFileError::NoSuchSlot);
        }
        for slot in fitting {
            if let Some(keyring) = slot.open(self.vault, secret)? {
                let authentic = self.is_authentic(&keyring);
                return authentic.then_some((keyring, slot.id())).ok_or(KeyFileError::Tampered);
            }
        }
        Err(KeyFileError::WrongSecret)
    }

    /// Whether this key file was written by a holder of `keyring`.
    pub fn is_authentic(&self, keyring: &Keyring) -> bool {
        self.vault == keyring.vault()
            && mac_key(keyring, self.epoch)
                .is_some_and(|key| key.mac(&[&self.encode_body()]).ct_eq(&self.mac).into())
    }

    /// Whether this key file is of the next epoch and was written by a holder of `keyring`, who may be anybody that has a
    /// copy of it.
    pub fn follows(&self, keyring: &Keyring) -> bool {
        let before = keyring.current_epoch();
        self.vault == keyring.vault()
            && self.epoch.checked_sub(1) == Some(before)
            && mac_key(keyring, before).is_some_and(|key| {
                key.mac(&[&self.encode_body(), &self.mac]).ct_eq(&self.previous_mac).into()
            })
    }

    /// Whether what opened this slot opens this file.
    pub fn has_slot(&self, slot: SlotId) -> bool {
        self.slots.iter().any(|own| own.id() == slot)
    }

    /// The password that was set last.
    pub fn password(&self) -> Option<PasswordSlot> {
        let slots = self.slots.iter().filter_map(|slot| match slot.kind {
            SlotKind::Password { iterations } => {
                Some(PasswordSlot { set_at: slot.created_ms, changed: slot.made_in > 1, iterations })
            }
            SlotKind::Recovery => None,
        });
        slots.max_by_key(|slot| slot.set_at)
    }
}

fn mac_key(keyring: &Keyring, epoch: Epoch) -> Option<Key> {
    keyring.derive(Purpose::KeyFileMac, epoch)
}

impl Slot {
    /// Wraps `keyring` for `secret`; `made` says in which generation and when.
    fn new(
        keyring: &Keyring,
        secret: &Secret,
        iterations: u32,
        (made_in, created_ms): (u32, i64),
        entropy: &impl Entropy,
    ) -> Result<Self, EntropyError> {
        let kind = match secret {
            Secret::Password(_) => SlotKind::Password { iterations },
            Secret::Recovery(_) => SlotKind::Recovery,
        };
        let mut masters = SecretBytes::default();
        write_masters(&mut masters, keyring);
        let sealed_len = crypto::sealed_len(masters.len());
        let sealed = vec![0; sealed_len];
        let mut slot = Self { kind, salt: entropy.array()?, created_ms, made_in, sealed };
        slot.sealed = crypto::seal(&slot.key(secret), &slot.context(keyring.vault()), &masters, entropy)?;
        Ok(slot)
    }

    fn encode_header(&self) -> Vec<u8> {
        let (slot_type, kdf, iterations) = match self.kind {
            SlotKind::Password { iterations } => (1, 1, iterations),
            SlotKind::Recovery => (2, 0, 0),
        };
        let mut bytes = Vec::with_capacity(SLOT_HEADER_LEN);
        bytes.raw(&[slot_type, kdf, 0, 0]);
        bytes.u32(iterations);
        // Two more parameters, for a memory-hard derivation.
        bytes.raw(&[0; 8]);
        bytes.raw(&self.salt);
        bytes.i64(self.created_ms);
        bytes.u32(self.sealed.len() as u32);
        bytes.u32(self.made_in);
        bytes
    }

    /// A salt is random, and a new one for every slot.
    fn id(&self) -> SlotId {
        SlotId(self.salt)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, KeyFileError> {
        let [slot_type, kdf, zero, also_zero] = reader.array()?;
        let parameters: [u32; 3] = [reader.u32()?, reader.u32()?, reader.u32()?];
        let salt = reader.array()?;
        let created_ms = reader.i64()?;
        let sealed_len = reader.u32()? as usize;
        let made_in = reader.u32()?;
        let sealed = reader.take(sealed_len)?.to_vec();
        let kind = match (slot_type, kdf, zero, also_zero, parameters) {
            (1, 1, 0, 0, [iterations, 0, 0]) => SlotKind::Password { iterations },
            (2, 0, 0, 0, [0, 0, 0]) => SlotKind::Recovery,
            _ => return Err(KeyFileError::Newer),
        };
        match kind {
            SlotKind::Password { iterations } if iterations < *ACCEPTED_ITERATIONS.start() => {
                Err(KeyFileError::TooCheap)
            }
            SlotKind::Password { iterations } if iterations > *ACCEPTED_ITERATIONS.end() => {
                Err(KeyFileError::TooExpensive)
            }
            _ => Ok(Self { made_in, created_ms, kind, salt, sealed }),
        }
    }

    fn fits(&self, secret: &Secret) -> bool {
        matches!(
            (self.kind, secret),
            (SlotKind::Password { .. }, Secret::Password(_)) | (SlotKind::Recovery, Secret::Recovery(_))
        )
    }

    fn key(&self, secret: &Secret) -> Key {
        match (secret, self.kind) {
            (Secret::Password(password), SlotKind::Password { iterations }) => {
                password_key(password, &self.salt, iterations)
            }
            (Secret::Recovery(secret), _) => recovery_key(secret, &self.salt),
            (Secret::Password(_), SlotKind::Recovery) => unreachable!("slots are matched to secrets first"),
        }
    }

    /// The slot's place in the file is not part of it: a password change leaves the recovery slot's bytes alone.
    fn context(&self, vault: VaultId) -> Vec<u8> {
        [SLOT_CONTEXT, vault.as_bytes(), &self.encode_header()].concat()
    }

    fn open(&self, vault: VaultId, secret: &Secret) -> Result<Option<Keyring>, KeyFileError> {
        let Ok(opened) = crypto::open(&self.key(secret), &self.context(vault), &self.sealed) else {
            return Ok(None);
        };
        let mut reader = Reader::new(&opened, "key slot");
        let masters = read_masters(&mut reader)?;
        reader.end()?;
        Ok(Keyring::from_masters(vault, masters))
    }
}

/// Every master key with its epoch.
pub(super) fn write_masters(out: &mut Vec<u8>, keyring: &Keyring) {
    out.list(keyring.masters().iter(), |out, (epoch, key)| {
        out.u32(*epoch);
        out.raw(key.as_bytes());
    });
}

/// What [`write_masters`] wrote.
pub(super) fn read_masters(reader: &mut Reader<'_>) -> Result<BTreeMap<Epoch, Key>, Malformed> {
    let masters = reader.list(|reader| Ok((reader.u32()?, Key::from_bytes(reader.array()?))))?;
    Ok(masters.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MIN_WRITTEN_ITERATIONS;
    use crate::entropy::OsEntropy;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    fn make(keyring: &Keyring, recovery: Option<&Zeroizing<[u8; 32]>>) -> KeyFile {
        let new = NewKeyFile {
            generation: 1,
            created_ms: 1_700_000_000_000,
            device: DeviceId::from_bytes([4; 16]),
            password: &password("open sesame"),
            iterations: MIN_WRITTEN_ITERATIONS,
            recovery,
        };
        KeyFile::new(keyring, &new, &OsEntropy).unwrap()
    }

    fn keyring() -> Keyring {
        Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap()
    }

    fn with_checksum(mut file: Vec<u8>) -> Vec<u8> {
        let end = file.len() - 32;
        let checksum = sha256(&[&file[..end]]);
        file[end..].copy_from_slice(&checksum);
        file
    }

    #[test]
    fn the_password_and_the_recovery_key_open_it_and_nothing_else() {
        let keyring = keyring();
        let words = Zeroizing::new([5; 32]);
        let file = make(&keyring, Some(&words)).encode();
        let key_file = KeyFile::decode(&file).unwrap();
        for secret in [Secret::Password(password("open sesame")), Secret::Recovery(words)] {
            let opened = key_file.unlock(&secret).unwrap();
            assert_eq!(opened.masters()[&1].as_bytes(), keyring.masters()[&1].as_bytes());
        }
        for secret in [Secret::Password(password("Open sesame")), Secret::Recovery(Zeroizing::new([6; 32]))] {
            assert_eq!(key_file.unlock(&secret).err(), Some(KeyFileError::WrongSecret));
        }
        let none = make(&keyring, None);
        let recovery = Secret::Recovery(Zeroizing::new([5; 32]));
        assert_eq!(none.unlock(&recovery).err(), Some(KeyFileError::NoSuchSlot));
    }

    #[test]
    fn every_altered_bit_and_every_cut_is_damage_and_never_a_wrong_password() {
        let file = make(&keyring(), None).encode();
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut altered = file.clone();
                altered[at] ^= 1 << bit;
                assert_eq!(KeyFile::decode(&altered), Err(KeyFileError::Damaged));
            }
            assert_eq!(KeyFile::decode(&file[..at]), Err(KeyFileError::Damaged));
        }
    }

    #[test]
    fn a_key_file_altered_together_with_its_checksum_does_not_open() {
        let words = Zeroizing::new([5; 32]);
        let file = make(&keyring(), Some(&words)).encode();
        // The recovery slot opens without a slow derivation, so every byte can be tried.
        for at in 0..file.len() - 32 {
            let mut altered = file.clone();
            altered[at] ^= 1;
            let opened = KeyFile::decode(&with_checksum(altered))
                .and_then(|key_file| key_file.unlock(&Secret::Recovery(words.clone())));
            // The MAC for the epoch before only matters after a rekey.
            let previous_mac = file.len() - 64..file.len() - 32;
            assert!(opened.is_err() || previous_mac.contains(&at), "byte {at}");
        }
    }

    #[test]
    fn the_cost_of_the_derivation_is_checked_before_any_work() {
        let file = make(&keyring(), None).encode();
        let iterations_at = HEADER_LEN + 4;
        for (iterations, error) in [
            (599_999, KeyFileError::TooCheap),
            (0, KeyFileError::TooCheap),
            (20_000_001, KeyFileError::TooExpensive),
            (u32::MAX, KeyFileError::TooExpensive),
        ] {
            let mut altered = file.clone();
            altered[iterations_at..iterations_at + 4].copy_from_slice(&iterations.to_be_bytes());
            assert_eq!(KeyFile::decode(&with_checksum(altered)), Err(error));
        }
    }

    #[test]
    fn another_vaults_keys_do_not_authenticate_it() {
        let key_file = make(&keyring(), None);
        assert!(!key_file.is_authentic(&keyring()));
    }
}
