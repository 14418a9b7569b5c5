//! Simulated vaults: all have one key, so that making one costs no key derivation.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::OnceLock;

use bytes::Bytes;
use espejo::crypto::{Keyring, Password};
use espejo::entry::Content;
use espejo::format::keyfile::{KeyFile, KeyFileError, NewKeyFile, Secret};
use espejo::id::{DeviceId, ObjectName, VaultId, VersionId};
use espejo::remote::{MemoryRemote, Remote, RemotePath};
use espejo::vault::{self, Locked, RemoteSettings, Vault};

use crate::chance::Chance;
use crate::host::{SimEntropy, SimHost};
use crate::net::now;

pub const START_MS: i64 = 1_790_000_000_000;

pub type SimVault = Vault<SimHost>;

/// The key of every simulated vault.
pub struct Seeds {
    pub vault: VaultId,
    pub keyring: Keyring,
    pub key_file: Vec<u8>,
}

/// What opens every simulated vault at first. A derivation from a password would cost more than the rest of a schedule;
/// what is told of the words here holds for passwords alike.
pub const RECOVERY: [u8; 32] = [7; 32];

/// Every secret that was ever given to a vault, or tried to.
pub type Secrets = Rc<RefCell<Vec<[u8; 32]>>>;

pub fn seeds() -> &'static Seeds {
    static SEEDS: OnceLock<Seeds> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let entropy = SimEntropy(Chance::new(1));
        let vault = VaultId::from_bytes([3; 16]);
        let keyring = Keyring::generate(vault, &entropy).unwrap();
        let new = NewKeyFile {
            generation: 1,
            created_ms: START_MS,
            device: DeviceId::from_bytes([1; 16]),
            password: &Password::new("correct horse battery staple").unwrap(),
            iterations: espejo::crypto::MIN_WRITTEN_ITERATIONS,
            recovery: Some(&zeroize::Zeroizing::new(RECOVERY)),
        };
        let key_file = KeyFile::new(&keyring, &new, &entropy).unwrap().encode();
        Seeds { vault, keyring, key_file }
    })
}

pub fn secret(secret: &[u8; 32]) -> Secret {
    Secret::Recovery(zeroize::Zeroizing::new(*secret))
}

pub fn make_vault(host: SimHost, name: &str) -> Result<SimVault, vault::Error> {
    let Seeds { vault, key_file, .. } = seeds();
    vault::create_from_mirror(host, *vault, std::slice::from_ref(key_file), &secret(&RECOVERY), name)
}

/// Opens a vault with the newest of `secrets` that opens it.
pub fn open(host: SimHost, secrets: &Secrets) -> Result<SimVault, vault::Error> {
    for given in secrets.borrow().iter().rev() {
        match Locked::find(host.clone())?.unlock(&secret(given)) {
            Err(vault::Error::Key { error: KeyFileError::WrongSecret, .. }) => {}
            opened => return opened,
        }
    }
    panic!("a vault opens with nothing that was ever set");
}

/// Of a mirror nobody has been to yet.
pub fn settings(target: &str) -> RemoteSettings {
    RemoteSettings::new(target)
}

pub fn content(text: &str, created: i64) -> Content {
    Content::markdown(text, text, created)
}

pub fn path(name: &str) -> RemotePath {
    RemotePath::new(name).expect("names on the mirror are safe")
}

/// The mirror holds these files from now on, and no other.
pub fn set_files(mirror: &MemoryRemote, files: &BTreeMap<String, Bytes>) {
    for name in mirror.files().keys().filter(|name| !files.contains_key(*name)) {
        mirror.remove_file(&path(name));
    }
    files.iter().for_each(|(name, bytes)| put_file(mirror, name, bytes.clone()));
}

pub fn put_file(mirror: &MemoryRemote, name: &str, bytes: Bytes) {
    let dirs = name.match_indices('/').map(|(at, _)| &name[..at]);
    now(mirror.make_dir(&RemotePath::root())).expect("memory");
    for dir in dirs {
        now(mirror.make_dir(&path(dir))).expect("memory");
    }
    mirror.set_file(&path(name), bytes);
}

/// The objects a version needs: its own and its attachments' parts.
pub fn objects_of(vault: &mut SimVault, version: VersionId) -> Result<BTreeSet<ObjectName>, vault::Error> {
    let manifest = vault.manifest()?;
    let Some(state) = manifest.version(version) else { return Ok(BTreeSet::new()) };
    let parts = state.summary.iter().flat_map(|summary| summary.parts.iter().copied());
    let readable = |name: &&ObjectName| manifest.object(name).is_some_and(|object| object.row.schema <= 2);
    Ok(state.objects.iter().filter(readable).copied().chain(parts).collect())
}
