//! Making a vault, finding one, and unlocking it.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::index::Index;
use super::keys::open_key_files;
use super::state::{Device, SyncState, read_device, write_device};
use super::{Doing, Error, Vault, layout};
use crate::clock::Clock;
use crate::crypto::{Keyring, MIN_WRITTEN_ITERATIONS, Password, calibrated_iterations, password_key};
use crate::entropy::Entropy;
use crate::event::Finding;
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES, NewKeyFile, Secret};
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
    let key_file = KeyFile::new(&keyring, &key_file, entropy)?;
    clear_interrupted(&host)?;
    let vault = lay_out(host, keyring, device, &key_file)?;
    Ok(Created { vault, recovery })
}

/// Makes this device's vault for a mirror that exists already, of which `key_files` are: what they amount to must open
/// with `secret`.
pub fn create_from_mirror<H: Host>(
    host: H,
    vault: VaultId,
    key_files: &[Vec<u8>],
    secret: &Secret,
    device_name: &str,
) -> Result<Vault<H>, Error> {
    require_empty(&host)?;
    let (keyring, key_file) = open_key_files(Some(vault), key_files, secret)?;
    let device = Device { id: DeviceId::random(host.entropy())?, name: device_name.to_owned() };
    clear_interrupted(&host)?;
    let vault = lay_out(host, keyring, device, &key_file)?;
    if key_files.contains(&key_file.encode()) {
        // It need not be looked for there.
        vault.set_sync_state(&SyncState { key_file: key_file.file_name(), ..SyncState::default() })?;
    }
    Ok(vault)
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
    key_file: &KeyFile,
) -> Result<Vault<H>, Error> {
    let lock = lock_vault(&host)?;
    if host.fs().len(MARKER_NAME).doing("looking into the directory")?.is_some() {
        // Another process has made a vault here meanwhile.
        return Err(Error::NotEmpty);
    }
    let (name, bytes) = (key_file.file_name(), key_file.encode());
    let files = [(format!("{}/{name}", layout::KEYS), &bytes[..]), (layout::KEY_COPY.to_owned(), &bytes[..])];
    host.fs().put(&files).doing("writing the key file")?;
    write_device(&host, &keyring, &device)?;
    let index = Index::create(&host, &keyring)?;
    // The marker comes last: a directory without it is no vault, and can be tried again.
    let marker = marker::encode(keyring.vault());
    host.fs().put(&[(MARKER_NAME.to_owned(), &marker)]).doing("writing espejo.json")?;
    drop(lock);
    let vault = Vault { host, keyring, device, index, findings: Vec::new() };
    // What it is good for is only said when the password is wrong.
    let _ = vault.note_password();
    Ok(vault)
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

    pub(super) fn into_host(self) -> H {
        self.host
    }

    /// The vault's id, if `espejo.json` can be read. Nothing has verified it yet.
    pub fn id(&self) -> Option<VaultId> {
        self.id
    }

    /// Opens the vault with what the person gave.
    pub fn unlock(self, secret: &Secret) -> Result<Vault<H>, Error> {
        let (keyring, findings) = self.open_keys(secret)?;
        self.opened(keyring, findings)
    }

    /// Opens the vault with the keys it was opened with before.
    pub fn unlock_again(self, keyring: Keyring) -> Result<Vault<H>, Error> {
        self.opened(keyring, Vec::new())
    }

    /// The vault that these keys open.
    pub(super) fn opened(self, keyring: Keyring, mut findings: Vec<Finding>) -> Result<Vault<H>, Error> {
        // Of a marker and a key file that differ, what the keys open has said which of the two is wrong.
        if self.id != Some(keyring.vault()) {
            let marker = marker::encode(keyring.vault());
            let restored = lock_vault(&self.host).and_then(|_lock| {
                self.host.fs().put(&[(MARKER_NAME.to_owned(), &marker)]).doing("restoring espejo.json")
            });
            // On a read-only disk the vault opens all the same.
            findings.extend(restored.ok().map(|()| Finding::MarkerRestored));
        }
        let device = read_device(&self.host, &keyring, &mut findings)?;
        let vault = Vault { host: self.host, keyring, device, index: Index::default(), findings };
        // Where it cannot be written, the vault opens all the same.
        let _ = vault.renew_access();
        Ok(vault)
    }
}
