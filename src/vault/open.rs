//! Making a vault, finding one, and unlocking it.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::index::Index;
use super::state::{Device, is_at_home, read_device, write_device};
use super::{Doing, Error, Vault, layout};
use crate::clock::Clock;
use crate::crypto::{Keyring, MIN_WRITTEN_ITERATIONS, Password, calibrated_iterations, password_key};
use crate::entropy::Entropy;
use crate::event::Finding;
use crate::format::keyfile::{KeyFile, KeyFileError, MAX_KEY_FILE_BYTES, NewKeyFile, Secret};
use crate::format::marker::{self, MARKER_NAME, MAX_MARKER_BYTES, Marker};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{DeviceId, VaultId};

/// How long a command waits for another process to finish its change.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// What a new vault starts with.
#[derive(Debug, Clone)]
pub struct NewVault {
    /// The password that will open it.
    pub password: Password,
    /// Whether to make a recovery key.
    pub recovery: bool,
    /// What to call this device.
    pub device_name: String,
    /// PBKDF2 rounds: [`measure_iterations`] on the machine that will unlock it most.
    pub iterations: u32,
}

/// A vault just made.
pub struct Created<H: Host> {
    /// The vault, unlocked.
    pub vault: Vault<H>,
    /// The secret behind the recovery words, if one was asked for. It is stored nowhere.
    pub recovery: Option<Zeroizing<[u8; 32]>>,
}

/// A vault whose key is not known.
#[derive(Debug)]
pub struct Locked<H: Host> {
    host: H,
    /// `None` if the marker is damaged; the key file knows too.
    id: Option<VaultId>,
}

/// Makes a new vault in the host's directory, which must be empty or missing.
pub fn create<H: Host>(host: H, new: &NewVault) -> Result<Created<H>, Error> {
    require_empty(&host)?;
    let entropy = host.entropy();
    let keyring = Keyring::generate(VaultId::random(entropy)?, entropy)?;
    let recovery = match new.recovery {
        true => Some(Zeroizing::new(entropy.array()?)),
        false => None,
    };
    let device = Device { id: DeviceId::random(entropy)?, name: new.device_name.clone() };
    let key_file = NewKeyFile {
        generation: 1,
        created_ms: host.clock().now_ms(),
        device: device.id,
        password: &new.password,
        iterations: new.iterations.max(MIN_WRITTEN_ITERATIONS),
        recovery: recovery.as_ref(),
    };
    let key_file = KeyFile::new(&keyring, &key_file, entropy)?.encode();
    clear_interrupted(&host)?;
    let vault = lay_out(host, keyring, device, &key_file)?;
    Ok(Created { vault, recovery })
}

/// Makes this device's vault for a mirror that exists already: the first of the mirror's `key_files` that opens with
/// `secret` is the vault's.
pub fn create_from_mirror<H: Host>(
    host: H,
    vault: VaultId,
    key_files: &[Vec<u8>],
    secret: &Secret,
    device_name: &str,
) -> Result<Vault<H>, Error> {
    require_empty(&host)?;
    let mut result = Err(Error::KeyFileMissing);
    for key_file in key_files {
        result = unlock_key_file(vault, key_file, secret).map(|keyring| (keyring, key_file));
        if result.is_ok() {
            break;
        }
    }
    let (keyring, key_file) = result?;
    let device = Device { id: DeviceId::random(host.entropy())?, name: device_name.to_owned() };
    clear_interrupted(&host)?;
    lay_out(host, keyring, device, key_file)
}

/// Removes the key of a vault whose making was interrupted: nothing was ever sealed with it. Only what is a key file and
/// named like one; anything else in the directory is somebody's.
fn clear_interrupted<H: Host>(host: &H) -> Result<(), Error> {
    let _lock = lock_vault(host)?;
    require_empty(host)?;
    let mut left = Vec::new();
    for name in host.fs().list(layout::KEYS).doing("looking for key files")? {
        let path = format!("{}/{name}", layout::KEYS);
        let file = host.fs().read(&path, MAX_KEY_FILE_BYTES as u64).unwrap_or_default();
        if KeyFile::decode(&file).is_ok_and(|file| file.file_name() == name) {
            left.push(path);
        }
    }
    host.fs().remove_all(&left).doing("removing leftovers")
}

pub(super) fn lay_out<H: Host>(
    host: H,
    keyring: Keyring,
    device: Device,
    key_file: &[u8],
) -> Result<Vault<H>, Error> {
    let lock = lock_vault(&host)?;
    if host.fs().len(MARKER_NAME).doing("looking into the directory")?.is_some() {
        // Another process has made a vault here meanwhile.
        return Err(Error::NotEmpty);
    }
    let name = KeyFile::decode(key_file).map_err(|error| Error::Key { error, written_at: None })?.file_name();
    let files = [(format!("{}/{name}", layout::KEYS), key_file), (layout::KEY_COPY.to_owned(), key_file)];
    host.fs().put(&files).doing("writing the key file")?;
    write_device(&host, &keyring, &device)?;
    let index = Index::create(&host, &keyring)?;
    // The marker comes last: a directory without it is no vault, and can be tried again.
    let marker = marker::encode(keyring.vault());
    host.fs().put(&[(MARKER_NAME.to_owned(), &marker)]).doing("writing espejo.json")?;
    drop(lock);
    Ok(Vault { host, keyring, device, index, findings: Vec::new() })
}

fn require_empty<H: Host>(host: &H) -> Result<(), Error> {
    // A vault whose making was interrupted has neither entries nor marker; it may be made again. One with entries has
    // lost its marker, and making another one over it would cost them.
    let names = host.fs().list("").doing("looking into the directory")?;
    let objects = host.fs().list(layout::OBJECTS).doing("looking into the directory")?;
    let ours = [layout::KEYS, layout::LOCAL, layout::OBJECTS];
    match names.iter().all(|name| ours.contains(&name.as_str())) && objects.is_empty() {
        true => Ok(()),
        false => Err(Error::NotEmpty),
    }
}

/// The PBKDF2 rounds that take this machine about 250 ms.
pub fn measure_iterations() -> u32 {
    const ROUNDS: u32 = 50_000;
    let password = Password::new("calibration").expect("not empty");
    let start = Instant::now();
    password_key(&password, &[0; 32], ROUNDS);
    calibrated_iterations(ROUNDS, start.elapsed())
}

/// Takes the lock `name`, waiting a moment for another process.
pub fn lock<H: Host>(host: &H, name: &str) -> Result<<H::Fs as VaultFs>::Lock, Error> {
    let start = Instant::now();
    loop {
        match host.fs().try_lock(name).doing("locking the vault")? {
            Some(lock) => return Ok(lock),
            None if start.elapsed() >= LOCK_WAIT => return Err(Error::Busy),
            None => std::thread::sleep(LOCK_POLL),
        }
    }
}

/// Takes the vault's lock, which whoever writes to the vault holds, and removes what a process that was killed left
/// behind: whoever holds the lock is the only writer.
pub fn lock_vault<H: Host>(host: &H) -> Result<<H::Fs as VaultFs>::Lock, Error> {
    let held = lock(host, layout::LOCK)?;
    for name in host.fs().list(layout::INCOMING).doing("looking for leftovers")? {
        host.fs().remove(&format!("{}/{name}", layout::INCOMING)).doing("removing leftovers")?;
    }
    Ok(held)
}

pub(super) fn unlock_key_file(vault: VaultId, file: &[u8], secret: &Secret) -> Result<Keyring, Error> {
    let key_file = KeyFile::decode(file).map_err(|error| Error::Key { error, written_at: None })?;
    if key_file.vault != vault {
        return Err(Error::KeyFileOfAnotherVault);
    }
    let written_at = Some(key_file.created_ms);
    key_file.unlock(secret).map_err(|error| Error::Key { error, written_at })
}

impl<H: Host> Locked<H> {
    /// Finds the vault in the host's directory.
    pub fn find(host: H) -> Result<Self, Error> {
        let bytes = match host.fs().read(MARKER_NAME, MAX_MARKER_BYTES as u64) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(Error::NoVault);
            }
            Err(error) if error.kind() == ErrorKind::FileTooLarge => Vec::new(),
            Err(error) => return Err(error).doing("reading espejo.json"),
        };
        match marker::decode(&bytes) {
            Ok(Marker::Vault(id)) => Ok(Self { host, id: Some(id) }),
            Ok(Marker::Newer) => Err(Error::Newer),
            Err(_) => Ok(Self { host, id: None }),
        }
    }

    /// The machine it lives on.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The newest intact key file, and whether it had to be taken from its copy.
    fn key_file(&self) -> Result<(KeyFile, bool), Error> {
        let fs = self.host.fs();
        let mut newest: Option<KeyFile> = None;
        let mut problem = None;
        // The newest generation that a damaged file claims by its name.
        let mut damaged = None;
        // Where directories were copied together, another vault's key file may lie here too.
        let rank = |file: &KeyFile| (self.id.is_none_or(|id| id == file.vault), file.generation);
        let generation = |name: &str| name.split_once('-').and_then(|(number, _)| number.parse::<u32>().ok());
        for name in fs.list(layout::KEYS).doing("looking for the key file")? {
            if !name.ends_with(".key") {
                continue;
            }
            let file = fs.read(&format!("{}/{name}", layout::KEYS), MAX_KEY_FILE_BYTES as u64);
            match file.map_err(|_| KeyFileError::Damaged).and_then(|file| KeyFile::decode(&file)) {
                Ok(found) if newest.as_ref().is_none_or(|best| rank(best) < rank(&found)) => {
                    newest = Some(found);
                }
                Ok(_) => {}
                Err(error) => {
                    damaged = damaged.max(generation(&name));
                    problem = Some(error);
                }
            }
        }
        let copy = fs.read(layout::KEY_COPY, MAX_KEY_FILE_BYTES as u64).ok();
        let copy = copy.and_then(|file| KeyFile::decode(&file).ok());
        match (newest, copy) {
            (Some(newest), Some(copy)) if rank(&copy) > rank(&newest) => Ok((copy, true)),
            (Some(newest), Some(_)) => {
                let restore = damaged >= Some(newest.generation);
                Ok((newest, restore))
            }
            // The copy is what is missing; it is written again below as any other.
            (Some(newest), None) => Ok((newest, true)),
            (None, Some(copy)) => Ok((copy, true)),
            (None, None) => match problem {
                Some(error) => Err(Error::Key { error, written_at: None }),
                None => Err(Error::KeyFileMissing),
            },
        }
    }

    /// Opens the vault with what the person gave.
    pub fn unlock(self, secret: &Secret) -> Result<Vault<H>, Error> {
        let (key_file, restore) = self.key_file()?;
        let written_at = Some(key_file.created_ms);
        let same_vault = self.id.is_none_or(|id| id == key_file.vault);
        let keyring = match key_file.unlock(secret) {
            Ok(keyring) => keyring,
            Err(_) if !same_vault => return Err(Error::KeyFileOfAnotherVault),
            Err(error) => return Err(Error::Key { error, written_at }),
        };
        // The marker is in the clear and unchecked; what the keys open says which of the two is wrong.
        if !same_vault && !is_at_home(&self.host, &keyring) {
            return Err(Error::KeyFileOfAnotherVault);
        }
        let mut findings = Vec::new();
        let mut restored = Vec::new();
        if self.id.is_none() || !same_vault {
            restored.push((MARKER_NAME.to_owned(), marker::encode(keyring.vault())));
            findings.push(Finding::MarkerRestored);
        }
        if restore {
            let name = format!("{}/{}", layout::KEYS, key_file.file_name());
            restored.extend([name, layout::KEY_COPY.to_owned()].map(|name| (name, key_file.encode())));
            findings.push(Finding::KeyFileRestored);
        }
        let files = restored.iter().map(|(name, bytes)| (name.clone(), &bytes[..])).collect::<Vec<_>>();
        // On a read-only disk the vault opens all the same.
        if !files.is_empty()
            && lock_vault(&self.host).and_then(|_lock| self.host.fs().put(&files).doing("restoring")).is_err()
        {
            findings.clear();
        }
        let device = read_device(&self.host, &keyring, &mut findings)?;
        Ok(Vault { host: self.host, keyring, device, index: Index::default(), findings })
    }
}

impl<H: Host> Vault<H> {
    /// Every intact key file of this vault by name, the newest last: they go to the mirror as they are.
    pub fn key_files(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let fs = self.host.fs();
        let mut files = Vec::new();
        for name in fs.list(layout::KEYS).doing("looking for key files")? {
            let file = fs.read(&format!("{}/{name}", layout::KEYS), MAX_KEY_FILE_BYTES as u64);
            let file = file.doing("reading a key file")?;
            if let Ok(key_file) = KeyFile::decode(&file)
                && key_file.file_name() == name
                && key_file.vault == self.id()
            {
                files.push((key_file.generation, name, file));
            }
        }
        files.sort();
        Ok(files.into_iter().map(|(_, name, file)| (name, file)).collect())
    }

    /// Puts back a key file that was damaged or lost. That it is genuine is for the caller to check.
    pub fn put_key_file(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.host.fs().put(&[(format!("{}/{name}", layout::KEYS), bytes)]).doing("writing the key file")
    }
}
