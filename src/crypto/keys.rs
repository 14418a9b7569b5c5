//! Keys: the random master key of each epoch, and what is derived from it.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::entropy::{Entropy, EntropyError};
use crate::id::VaultId;

/// A 256-bit key. Wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// A key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh random key.
    pub fn random(entropy: &impl Entropy) -> Result<Self, EntropyError> {
        entropy.array().map(Self)
    }

    /// Its bytes: for wrapping them, nothing else.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC-SHA256 of `message` under this key.
    pub fn mac(&self, message: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        message.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    /// One block of HKDF-Expand with SHA-256 (RFC 5869 §2.3): right without Extract because keys are uniform.
    fn expand(&self, info: &[&[u8]]) -> Self {
        let mut message = info.to_vec();
        message.push(&[1]);
        Self(self.mac(&message))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Which master key, counted from 1. Grows when a vault is rekeyed after a loss.
pub type Epoch = u32;

/// What a derived key is for. One label each, so a flaw in one use does not carry over to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Versions of entries.
    Entry,
    /// Parts of attachments and of long bodies.
    Attachment,
    /// The local index.
    Manifest,
    /// Announcements to other devices.
    Feed,
    /// The MAC over deletions that are told without an object: who has the keys of the feeds alone cannot delete.
    Burial,
    /// The index of a backup file.
    Backup,
    /// Device identity, remote settings and other local state.
    State,
    /// The MAC over the key file.
    KeyFileMac,
    /// A public name for the master key.
    KeyId,
    /// Ids of entries that come from elsewhere, so that they are the same each time.
    Import,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 10] = [
        Self::Entry,
        Self::Attachment,
        Self::Manifest,
        Self::Feed,
        Self::Burial,
        Self::Backup,
        Self::State,
        Self::KeyFileMac,
        Self::KeyId,
        Self::Import,
    ];

    fn label(self) -> &'static [u8] {
        match self {
            Self::Entry => b"entry",
            Self::Attachment => b"attachment",
            Self::Manifest => b"manifest",
            Self::Feed => b"feed",
            Self::Burial => b"burial",
            Self::Backup => b"backup",
            Self::State => b"state",
            Self::KeyFileMac => b"keyfile-mac",
            Self::KeyId => b"key-id",
            Self::Import => b"import",
        }
    }
}

/// Keys of one vault: all of them, or those for one purpose.
pub trait KeySource {
    /// The vault these keys belong to.
    fn vault(&self) -> VaultId;

    /// The newest epoch: what new files are sealed under.
    fn current_epoch(&self) -> Epoch;

    /// The key for `purpose` in `epoch`, or `None` if it is not among these keys.
    fn derive(&self, purpose: Purpose, epoch: Epoch) -> Option<Key>;
}

/// The master keys of one vault, one per epoch, and the way to every derived key.
#[derive(Clone)]
pub struct Keyring {
    vault: VaultId,
    masters: BTreeMap<Epoch, Key>,
}

impl Keyring {
    /// The keyring of a new vault: one random master key, epoch 1.
    pub fn generate(vault: VaultId, entropy: &impl Entropy) -> Result<Self, EntropyError> {
        Ok(Self { vault, masters: BTreeMap::from([(1, Key::random(entropy)?)]) })
    }

    /// The same with a new random master key, of the next epoch: who has a copy of these keys has not that one.
    pub fn renewed(&self, entropy: &impl Entropy) -> Result<Self, EntropyError> {
        let mut masters = self.masters.clone();
        masters.insert(self.current_epoch().saturating_add(1), Key::random(entropy)?);
        Ok(Self { vault: self.vault, masters })
    }

    /// A keyring from its parts; `None` if there is no key at all.
    pub fn from_masters(vault: VaultId, masters: BTreeMap<Epoch, Key>) -> Option<Self> {
        (!masters.is_empty()).then_some(Self { vault, masters })
    }

    /// The master keys by epoch: for wrapping them, nothing else.
    pub fn masters(&self) -> &BTreeMap<Epoch, Key> {
        &self.masters
    }

    /// The vault these keys belong to.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// The newest epoch: what new files are sealed under.
    pub fn current_epoch(&self) -> Epoch {
        self.masters.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// The key for `purpose` in `epoch`, or `None` if this keyring has no such epoch.
    pub fn derive(&self, purpose: Purpose, epoch: Epoch) -> Option<Key> {
        let master = self.masters.get(&epoch)?;
        let info: [&[u8]; 5] =
            [b"espejo/v1/", purpose.label(), b"\0", self.vault.as_bytes(), &epoch.to_be_bytes()];
        Some(master.expand(&info))
    }

    /// What a device keeps that mirrors this vault while it is locked.
    pub fn feed_keys(&self) -> FeedKeys {
        let keys =
            self.masters.keys().filter_map(|epoch| Some((*epoch, self.derive(Purpose::Feed, *epoch)?)));
        FeedKeys { vault: self.vault, keys: keys.collect() }
    }
}

impl KeySource for Keyring {
    fn vault(&self) -> VaultId {
        self.vault()
    }

    fn current_epoch(&self) -> Epoch {
        self.current_epoch()
    }

    fn derive(&self, purpose: Purpose, epoch: Epoch) -> Option<Key> {
        self.derive(purpose, epoch)
    }
}

/// The keys of the feeds alone, one per epoch: what they open says which objects there are, and nothing that is in them.
#[derive(Clone)]
pub struct FeedKeys {
    vault: VaultId,
    keys: BTreeMap<Epoch, Key>,
}

impl FeedKeys {
    /// These keys; `None` if there is none.
    pub fn new(vault: VaultId, keys: BTreeMap<Epoch, Key>) -> Option<Self> {
        (!keys.is_empty()).then_some(Self { vault, keys })
    }

    /// The keys by epoch: for keeping them, nothing else.
    pub fn keys(&self) -> &BTreeMap<Epoch, Key> {
        &self.keys
    }
}

impl KeySource for FeedKeys {
    fn vault(&self) -> VaultId {
        self.vault
    }

    fn current_epoch(&self) -> Epoch {
        self.keys.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    fn derive(&self, purpose: Purpose, epoch: Epoch) -> Option<Key> {
        self.keys.get(&epoch).filter(|_| purpose == Purpose::Feed).cloned()
    }
}

impl fmt::Debug for FeedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeedKeys({}, epochs {:?})", self.vault, self.keys.keys())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({}, epochs {:?})", self.vault, self.masters.keys())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_purpose_vault_and_epoch_has_its_own_key() {
        let master = Key::from_bytes([1; 32]);
        let mut keys = HashSet::new();
        for vault in [VaultId::from_bytes([1; 16]), VaultId::from_bytes([2; 16])] {
            let masters = BTreeMap::from([(1, master.clone()), (2, master.clone())]);
            let keyring = Keyring::from_masters(vault, masters).unwrap();
            for purpose in Purpose::ALL {
                for epoch in [1, 2] {
                    assert!(keys.insert(*keyring.derive(purpose, epoch).unwrap().as_bytes()));
                }
            }
            assert!(keyring.derive(Purpose::Entry, 3).is_none());
        }
        assert_eq!(keys.len(), 2 * 10 * 2);
    }

    #[test]
    fn the_keys_of_the_feeds_are_those_of_the_keyring_and_good_for_nothing_else() {
        let masters = BTreeMap::from([(1, Key::from_bytes([1; 32])), (2, Key::from_bytes([2; 32]))]);
        let keyring = Keyring::from_masters(VaultId::from_bytes([2; 16]), masters).unwrap();
        let feeds = keyring.feed_keys();
        assert_eq!((feeds.vault(), feeds.current_epoch()), (keyring.vault(), 2));
        let bytes = |key: Option<Key>| key.map(|key| *key.as_bytes());
        for epoch in 0..4 {
            for purpose in Purpose::ALL {
                let expected = keyring.derive(purpose, epoch).filter(|_| purpose == Purpose::Feed);
                assert_eq!(bytes(feeds.derive(purpose, epoch)), bytes(expected), "{purpose:?} {epoch}");
            }
        }
    }

    #[test]
    fn the_derivation_is_the_documented_one() {
        // python3: hmac.new(b"\x01"*32, b"espejo/v1/entry\0" + b"\x02"*16 + b"\0\0\0\x01" + b"\x01", "sha256")
        let masters = BTreeMap::from([(1, Key::from_bytes([1; 32]))]);
        let keyring = Keyring::from_masters(VaultId::from_bytes([2; 16]), masters).unwrap();
        let derived = keyring.derive(Purpose::Entry, 1).unwrap();
        assert_eq!(
            data_encoding::HEXLOWER.encode(derived.as_bytes()),
            "729dd84982c6c530f016d8f7aa887f7b64c504c1381a3a9304699057020c8f67"
        );
    }

    #[test]
    fn keys_do_not_print() {
        assert_eq!(format!("{:?}", Key::from_bytes([1; 32])), "Key(…)");
    }
}
