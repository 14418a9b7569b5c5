//! The key files of a vault: which one is in force, changing what opens it, and taking in what was changed elsewhere.
//!
//! In force is what all intact and authentic ones amount to ([`KeyFile::joined`]); there is one in `keys/` and its copy,
//! and for a moment, or after a crash, what they replaced.

use super::objects::identify_named;
use super::open::lock_vault;
use super::state::{is_at_home, names_vault};
use super::status::{PasswordSet, read as read_status};
use super::{Doing, Error, Locked, Vault, layout};
use crate::clock::Clock;
use crate::crypto::{Keyring, MIN_WRITTEN_ITERATIONS, Password, object_name};
use crate::event::{Damage, Finding};
use crate::format::keyfile::{Difference, KeyFile, KeyFileError, MAX_KEY_FILE_BYTES, Secret};
use crate::format::object::MAX_OBJECT_BYTES;
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{DeviceId, ObjectName, VaultId};
use zeroize::Zeroizing;

/// So many key files are tried with one secret, which takes a key derivation each.
const MAX_TRIED: usize = 8;

/// So many objects are opened to find out whether keys are this vault's.
const MAX_PROBED: usize = 8;

/// What a key file brought that was made elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyChange {
    /// What opens the vault now and did not, or the reverse.
    pub difference: Difference,
    /// Who wrote it.
    pub device: DeviceId,
    /// When, milliseconds since 1970 UTC.
    pub at: i64,
    /// How many passwords open it now: more than one if they were set at once.
    pub passwords: usize,
    /// How many recovery keys do.
    pub recovery_keys: usize,
}

/// What became of a key file that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is damaged, or was not made by a holder of this vault's key. Nothing was changed.
    Refused(KeyFileError),
    /// It says nothing new.
    Nothing,
    /// It was taken in, durably.
    Changed(KeyChange),
}

/// The key files in a vault directory.
#[derive(Debug, Default)]
pub(super) struct KeyFiles {
    /// The intact ones in `keys/`.
    named: Vec<(String, KeyFile)>,
    /// The names there of the others.
    damaged: Vec<String>,
    /// What is wrong with the last of these.
    problem: Option<KeyFileError>,
    copy: Option<KeyFile>,
}

/// The generation that a name in `keys/` states.
pub fn generation_of(name: &str) -> Option<u32> {
    name.strip_suffix(".key")?.split_once('-')?.0.parse().ok()
}

/// Whether keys are those of a vault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    Yes,
    No,
    /// There is nothing sealed in it.
    Unknown,
}

impl KeyFiles {
    pub(super) fn look<H: Host>(host: &H) -> Result<Self, Error> {
        let fs = host.fs();
        let read = |path: &str| {
            let file = fs.read(path, MAX_KEY_FILE_BYTES as u64);
            file.map_err(|_| KeyFileError::Damaged).and_then(|file| KeyFile::decode(&file))
        };
        let mut found = Self { copy: read(layout::KEY_COPY).ok(), ..Self::default() };
        let names = fs.list(layout::KEYS).doing("looking for the key file")?;
        for name in names.into_iter().filter(|name| name.ends_with(".key")) {
            match read(&format!("{}/{name}", layout::KEYS)) {
                Ok(file) => found.named.push((name, file)),
                Err(error) => {
                    found.problem = Some(error);
                    found.damaged.push(name);
                }
            }
        }
        Ok(found)
    }

    fn all(&self) -> impl Iterator<Item = &KeyFile> {
        self.named.iter().map(|(_, file)| file).chain(&self.copy)
    }

    /// What those that a holder of `keyring` made amount to.
    fn in_force(&self, keyring: &Keyring) -> Result<KeyFile, Error> {
        let authentic = self.all().filter(|file| file.is_authentic(keyring)).cloned();
        authentic.reduce(|a, b| a.joined(&b, keyring)).ok_or(Error::KeyFileMissing)
    }

    /// Under the name that is right for it.
    fn has(&self, file: &KeyFile) -> bool {
        self.named.iter().any(|(name, named)| named == file && *name == file.file_name())
    }

    /// Names in `keys/` of what was replaced. What was joined into `in_force` stays until the next change: it is how a
    /// device that is told of it knows that it knows it.
    fn obsolete(&self, in_force: &KeyFile, keyring: &Keyring) -> Vec<String> {
        let authentic = self.named.iter().filter(|(_, file)| file.is_authentic(keyring));
        let replaced = authentic.filter(|(_, file)| in_force.supersedes(file)).map(|(name, _)| name);
        let older = |name: &&String| generation_of(name).is_some_and(|it| it < in_force.generation);
        replaced.chain(&self.damaged).filter(older).map(|name| format!("{}/{name}", layout::KEYS)).collect()
    }

    fn is_settled(&self, in_force: &KeyFile, keyring: &Keyring) -> bool {
        let whole = self.has(in_force) && self.copy.as_ref() == Some(in_force);
        whole && self.obsolete(in_force, keyring).is_empty()
    }

    /// What a person should know of the state they are in.
    fn findings(&self, in_force: &KeyFile) -> Vec<Finding> {
        let mut findings = Vec::new();
        let newer = |name: &String| generation_of(name).is_some_and(|it| it > in_force.generation);
        if self.damaged.iter().any(newer) {
            findings.push(Finding::KeyFileWentBack);
        }
        let misplaced = !self.has(in_force) && self.all().any(|file| file == in_force);
        if misplaced || self.copy.is_none() {
            findings.push(Finding::KeyFileRestored);
        }
        findings
    }
}

/// Makes `in_force` durable in both its places, and only then removes what it replaced. The lock is held.
fn put_in_force<H: Host>(
    host: &H,
    found: &KeyFiles,
    in_force: &KeyFile,
    keyring: &Keyring,
) -> Result<(), Error> {
    let bytes = in_force.encode();
    let mut files = Vec::new();
    if !found.has(in_force) {
        files.push((format!("{}/{}", layout::KEYS, in_force.file_name()), &bytes[..]));
    }
    if found.copy.as_ref() != Some(in_force) {
        files.push((layout::KEY_COPY.to_owned(), &bytes[..]));
    }
    if !files.is_empty() {
        host.fs().put(&files).doing("writing the key file")?;
    }
    let obsolete = found.obsolete(in_force, keyring);
    if obsolete.is_empty() {
        return Ok(());
    }
    host.fs().remove_all(&obsolete).doing("removing the key file that was replaced")
}

/// Puts the key file in force and its copy where they belong. The lock is held.
pub(super) fn settle_keys<H: Host>(host: &H, keyring: &Keyring) -> Result<(), Error> {
    let found = KeyFiles::look(host)?;
    put_in_force(host, &found, &found.in_force(keyring)?, keyring)
}

/// Opens `key_files` of one vault: the keys, and what those files amount to. A secret that was replaced since opens
/// nothing, though an older file is at hand. `is_home` says whether keys are the vault's.
fn open_newest(
    key_files: &[&KeyFile],
    secret: &Secret,
    mut is_home: impl FnMut(&Keyring) -> Result<bool, Error>,
    refused: impl Fn(KeyFileError, &KeyFile) -> Error,
) -> Result<(Keyring, KeyFile), Error> {
    let mut ranked = key_files.to_vec();
    ranked.sort_by_key(|file| std::cmp::Reverse(file.rank()));
    ranked.dedup();
    let mut first = None;
    for file in ranked.iter().take(MAX_TRIED) {
        let error = match file.unlock_slot(secret) {
            Ok((keyring, _)) if !is_home(&keyring)? => KeyFileError::Tampered,
            Ok((keyring, slot)) => {
                let authentic = ranked.iter().filter(|file| file.is_authentic(&keyring));
                let in_force = authentic.fold((*file).clone(), |a, b| a.joined(b, &keyring));
                if in_force.has_slot(slot) {
                    return Ok((keyring, in_force));
                }
                first = Some(refused(KeyFileError::WrongSecret, &in_force));
                break;
            }
            Err(error) => error,
        };
        first.get_or_insert_with(|| refused(error, file));
    }
    Err(first.unwrap_or(Error::KeyFileMissing))
}

/// The same for files that come from elsewhere, the keys being those of `vault`, if that is known.
pub(super) fn open_key_files(
    vault: Option<VaultId>,
    key_files: &[Vec<u8>],
    secret: &Secret,
) -> Result<(Keyring, KeyFile), Error> {
    let mut problem = Error::KeyFileMissing;
    let mut decoded = Vec::new();
    for file in key_files {
        match KeyFile::decode(file) {
            Ok(file) if vault.is_some_and(|vault| vault != file.vault) => {
                problem = Error::KeyFileOfAnotherVault
            }
            Ok(file) => decoded.push(file),
            Err(error) => problem = Error::Key { error, set: None },
        }
    }
    let refused = |error, file: &KeyFile| Error::Key { error, set: told(file, None) };
    match open_newest(&decoded.iter().collect::<Vec<_>>(), secret, |_| Ok(true), refused) {
        Err(Error::KeyFileMissing) => Err(problem),
        opened => opened,
    }
}

/// What is said of the password when another one is tried; `note` says more of one that was set at its time.
fn told(file: &KeyFile, note: Option<PasswordSet>) -> Option<PasswordSet> {
    let slot = file.password()?;
    let unknown = PasswordSet { at: slot.set_at, changed: slot.changed, here: false, by: None };
    Some(note.filter(|note| note.at == slot.set_at).unwrap_or(unknown))
}

/// Whether these keys open what is sealed in the vault.
fn home<H: Host>(host: &H, keyring: &Keyring) -> Result<Home, Error> {
    if is_at_home(host, keyring) {
        return Ok(Home::Yes);
    }
    let mut probed = 0;
    let fs = host.fs();
    for shard in fs.list(layout::OBJECTS).doing("reading the objects")? {
        for file in fs.list(&format!("{}/{shard}", layout::OBJECTS)).doing("reading the objects")? {
            let Ok(name) = file.parse::<ObjectName>() else { continue };
            let Ok(bytes) = fs.read(&layout::object_path(&name), MAX_OBJECT_BYTES as u64) else { continue };
            if object_name(&bytes) != name {
                continue;
            }
            match identify_named(keyring, &name, bytes) {
                Ok(_) => return Ok(Home::Yes),
                Err(Damage::Tampered) => probed += 1,
                Err(Damage::BitRot | Damage::Missing) => {}
            }
            if probed == MAX_PROBED {
                return Ok(Home::No);
            }
        }
    }
    Ok(if probed > 0 { Home::No } else { Home::Unknown })
}

impl<H: Host> Locked<H> {
    /// The keys, what the key files amount to, and what was found on the way.
    pub(super) fn open_keys(&self, secret: &Secret) -> Result<(Keyring, Vec<Finding>), Error> {
        let found = KeyFiles::look(self.host())?;
        let is_ours = |file: &&KeyFile| self.id().is_none_or(|id| id == file.vault);
        // A making that was interrupted and begun again has left the key file of a vault that never was.
        let mut files = found.all().filter(is_ours).collect::<Vec<_>>();
        let same_vault = !files.is_empty();
        if !same_vault {
            files = found.all().collect();
            // The marker is in clear and unchecked; so is this, and the two agree.
            let agreed = self.id().is_some_and(|id| names_vault(self.host(), id));
            if agreed && !files.is_empty() {
                return Err(Error::KeyFileOfAnotherVault);
            }
        }
        let is_home = |keyring: &Keyring| {
            let home = home(self.host(), keyring)?;
            Ok(home == Home::Yes || (same_vault && home == Home::Unknown))
        };
        let opened = open_newest(&files, secret, is_home, |error, file| self.refused(error, file));
        let (keyring, in_force) = opened.map_err(|error| match (error, found.problem) {
            (Error::KeyFileMissing, Some(error)) => Error::Key { error, set: None },
            (Error::Key { .. }, _) if !same_vault => Error::KeyFileOfAnotherVault,
            (error, _) => error,
        })?;
        let mut findings = found.findings(&in_force);
        // On a read-only disk the vault opens all the same.
        if !found.is_settled(&in_force, &keyring)
            && lock_vault(self.host()).and_then(|_lock| settle_keys(self.host(), &keyring)).is_err()
        {
            findings.retain(|finding| *finding != Finding::KeyFileRestored);
        }
        Ok((keyring, findings))
    }

    fn refused(&self, error: KeyFileError, file: &KeyFile) -> Error {
        Error::Key { error, set: told(file, read_status(self.host()).password) }
    }

    /// Takes a key file back that was found elsewhere, when the one here is damaged, gone or older than the password:
    /// the newest of `key_files` that opens with `secret` and opens what is sealed here. What is here and intact is
    /// never replaced by something older.
    pub fn take_back_key(&self, key_files: &[Vec<u8>], secret: &Secret) -> Result<(), Error> {
        let here = KeyFiles::look(self.host())?;
        let here = here.all().filter(|file| self.id().is_none_or(|id| id == file.vault)).map(KeyFile::encode);
        let offered = key_files.iter().cloned().chain(here).collect::<Vec<_>>();
        let (keyring, in_force) = open_key_files(self.id(), &offered, secret)?;
        match home(self.host(), &keyring)? {
            Home::Yes => {}
            Home::Unknown if self.id().is_some() => {}
            Home::No | Home::Unknown => return Err(self.refused(KeyFileError::Tampered, &in_force)),
        }
        let _lock = lock_vault(self.host())?;
        put_in_force(self.host(), &KeyFiles::look(self.host())?, &in_force, &keyring)
    }
}

impl<H: Host> Vault<H> {
    /// The key file in force.
    pub fn key_file(&self) -> Result<KeyFile, Error> {
        KeyFiles::look(&self.host)?.in_force(&self.keyring)
    }

    /// Every intact key file of this vault by name, the newest last: they go to a new mirror as they are.
    pub fn key_files(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut files = KeyFiles::look(&self.host)?.named;
        files.retain(|(name, file)| *name == file.file_name() && file.is_authentic(&self.keyring));
        files.sort_by_key(|(_, file)| file.rank());
        Ok(files.into_iter().map(|(name, file)| (name, file.encode())).collect())
    }

    /// Puts back a key file that was damaged or lost. That it is genuine is for the caller to check.
    pub fn put_key_file(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.host.fs().put(&[(format!("{}/{name}", layout::KEYS), bytes)]).doing("writing the key file")
    }

    /// Changes the password. The old one opens this vault no more when this returns, and other devices' no more when
    /// they have synced.
    pub fn change_password(&mut self, password: &Password, iterations: u32) -> Result<KeyFile, Error> {
        let secret = Secret::Password(password.clone());
        self.replace_secret(&secret, iterations.max(MIN_WRITTEN_ITERATIONS), |_| true).map(|(after, _)| after)
    }

    /// Makes `secret` the recovery key, in place of the one there was.
    pub fn change_recovery(&mut self, secret: &Zeroizing<[u8; 32]>) -> Result<KeyFile, Error> {
        self.replace_secret(&Secret::Recovery(secret.clone()), 0, |_| true).map(|(after, _)| after)
    }

    /// Wraps the keys again if `password`, which opened this vault, is stretched with fewer than `least` rounds: with as
    /// many as `measure` says.
    pub fn raise_cost(
        &mut self,
        password: &Password,
        least: u32,
        measure: impl FnOnce() -> u32,
    ) -> Result<bool, Error> {
        // Where two passwords open it, the other one is not known.
        let is_low = |key_file: &KeyFile| {
            key_file.passwords() == 1 && key_file.password().is_some_and(|slot| slot.iterations < least)
        };
        if !is_low(&self.key_file()?) {
            return Ok(false);
        }
        let secret = Secret::Password(password.clone());
        // One that was changed by another process meanwhile is not low.
        self.replace_secret(&secret, measure().max(least), is_low).map(|(_, raised)| raised)
    }

    /// The key file after the change, and whether there was one: only if the one before is as it `must_be`.
    fn replace_secret(
        &mut self,
        secret: &Secret,
        iterations: u32,
        must_be: impl Fn(&KeyFile) -> bool,
    ) -> Result<(KeyFile, bool), Error> {
        let _lock = self.lock()?;
        let found = KeyFiles::look(&self.host)?;
        let before = found.in_force(&self.keyring)?;
        if !must_be(&before) {
            return Ok((before, false));
        }
        let made = (self.device.id, self.host.clock().now_ms());
        let after = before.replaced(&self.keyring, secret, iterations, made, self.host.entropy())?;
        put_in_force(&self.host, &found, &after, &self.keyring)?;
        // What it is good for is only said when the password is wrong.
        let _ = self.note_password();
        Ok((after, true))
    }

    /// Takes in a key file made elsewhere: without knowing what opens it, because it is authentic.
    pub fn take_key_file(&mut self, file: &[u8]) -> Result<Taken, Error> {
        let offered = match KeyFile::decode(file) {
            Ok(offered) if offered.is_authentic(&self.keyring) => offered,
            Ok(_) => return Ok(Taken::Refused(KeyFileError::Tampered)),
            Err(error) => return Ok(Taken::Refused(error)),
        };
        let _lock = self.lock()?;
        let found = KeyFiles::look(&self.host)?;
        let before = found.in_force(&self.keyring)?;
        let after = before.joined(&offered, &self.keyring);
        if after == before {
            return Ok(Taken::Nothing);
        }
        put_in_force(&self.host, &found, &after, &self.keyring)?;
        Ok(Taken::Changed(KeyChange {
            difference: after.difference(&before),
            device: offered.device,
            at: offered.created_ms,
            passwords: after.passwords(),
            recovery_keys: after.recovery_keys(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;

    use super::*;
    use crate::crypto::{DERIVATIONS, sha256};
    use crate::entry::{Body, Content};
    use crate::format::keyfile::NewKeyFile;
    use crate::host::ThisMachine;
    use crate::vault::{self, Change, Edit, NewVault};
    use crate::version::MadeOn;

    const FIRST: &str = "plinth gravel cocoon tundra 41";
    const SECOND: &str = "marble anvil thicket solder 17";

    fn password(text: &str) -> Secret {
        Secret::Password(Password::new(text).unwrap())
    }

    /// A vault with an entry, its recovery key, and where its key file is.
    struct Fixture {
        dir: TempDir,
        words: Secret,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = TempDir::with_prefix("espejo-keys-").unwrap();
            let new = NewVault {
                password: Password::new(FIRST).unwrap(),
                recovery: true,
                device_name: "laptop".to_owned(),
                iterations: 0,
            };
            let mut created = vault::create(ThisMachine::new(dir.path()), &new).unwrap();
            let content = Content {
                title: "kept".to_owned(),
                created: 0,
                tags: Vec::new(),
                media_type: "text/plain".to_owned(),
                body: Body::Text("kept".to_owned()),
                attachments: Vec::new(),
            };
            let change = Change::Content(content);
            created.vault.save(&[Edit { entry: None, made_on: MadeOn::Everything, change }]).unwrap();
            let words = Secret::Recovery(created.recovery.unwrap());
            Self { dir, words }
        }

        fn file(&self) -> PathBuf {
            let files = fs::read_dir(self.dir.path().join("keys")).unwrap();
            let files = files.map(|item| item.unwrap().path()).collect::<Vec<_>>();
            assert_eq!(files.len(), 1, "{files:?}");
            files[0].clone()
        }

        fn copy(&self) -> PathBuf {
            self.dir.path().join("local/key")
        }

        fn bytes(&self) -> Vec<u8> {
            fs::read(self.file()).unwrap()
        }

        /// Both of its places hold these bytes.
        fn put(&self, bytes: &[u8]) {
            fs::write(self.file(), bytes).unwrap();
            fs::write(self.copy(), bytes).unwrap();
        }

        fn unlock(&self, secret: &Secret) -> Result<Vault<ThisMachine>, Error> {
            Locked::find(ThisMachine::new(self.dir.path())).unwrap().unlock(secret)
        }

        /// What a password gets to hear, without having been stretched.
        fn refused_at_once(&self) -> Error {
            let before = DERIVATIONS.get();
            let error = self.unlock(&password(FIRST)).err().expect("it is refused");
            assert_eq!(DERIVATIONS.get(), before, "the password was stretched for {error}");
            error
        }
    }

    fn with_checksum(mut file: Vec<u8>) -> Vec<u8> {
        let end = file.len() - 32;
        let checksum = sha256(&[&file[..end]]);
        file[end..].copy_from_slice(&checksum);
        file
    }

    /// The number of rounds in the first slot is another one, and the checksum is right.
    fn with_rounds(mut file: Vec<u8>, rounds: u32) -> Vec<u8> {
        file[76..80].copy_from_slice(&rounds.to_be_bytes());
        with_checksum(file)
    }

    /// A key file of the same vault that wraps another master key for the same secrets.
    fn impostor(vault: VaultId, words: &Secret) -> KeyFile {
        let Secret::Recovery(recovery) = words else { unreachable!() };
        let keyring = Keyring::generate(vault, &crate::entropy::OsEntropy).unwrap();
        let new = NewKeyFile {
            generation: 7,
            created_ms: 0,
            device: DeviceId::from_bytes([5; 16]),
            password: &Password::new(FIRST).unwrap(),
            iterations: MIN_WRITTEN_ITERATIONS,
            recovery: Some(recovery),
        };
        KeyFile::new(&keyring, &new, &crate::entropy::OsEntropy).unwrap()
    }

    fn error_of(error: &Error) -> KeyFileError {
        match error {
            Error::Key { error, .. } => *error,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn no_altered_or_cut_key_file_is_taken_for_a_wrong_password_or_costs_a_derivation() {
        let vault = Fixture::new();
        let good = vault.bytes();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut altered = good.clone();
                altered[at] ^= 1 << bit;
                vault.put(&altered);
                assert_eq!(
                    error_of(&vault.refused_at_once()),
                    KeyFileError::Damaged,
                    "bit {bit} of byte {at}"
                );
            }
            vault.put(&good[..at]);
            assert_eq!(error_of(&vault.refused_at_once()), KeyFileError::Damaged, "cut at {at}");
        }
    }

    #[test]
    fn a_key_file_altered_in_one_place_is_restored_from_the_other() {
        let vault = Fixture::new();
        let (file, copy, good) = (vault.file(), vault.copy(), vault.bytes());
        for at in (0..good.len()).step_by(13) {
            let mut altered = good.clone();
            altered[at] ^= 1 << (at % 8);
            for place in [&file, &copy] {
                fs::write(place, &altered).unwrap();
                let mut opened = vault.unlock(&vault.words).unwrap();
                assert_eq!(opened.take_findings(), [Finding::KeyFileRestored]);
                assert!([&file, &copy].map(|place| fs::read(place).unwrap()) == [good.clone(), good.clone()]);
            }
        }
    }

    #[test]
    fn absurd_costs_another_vault_and_nothing_at_all_cost_no_derivation() {
        let (vault, other) = (Fixture::new(), Fixture::new());
        let good = vault.bytes();
        for (rounds, error) in [
            (599_999, KeyFileError::TooCheap),
            (0, KeyFileError::TooCheap),
            (20_000_001, KeyFileError::TooExpensive),
            (u32::MAX, KeyFileError::TooExpensive),
        ] {
            vault.put(&with_rounds(good.clone(), rounds));
            assert_eq!(error_of(&vault.refused_at_once()), error);
        }
        for (at, error) in [(8, KeyFileError::Newer), (9, KeyFileError::Newer), (72, KeyFileError::Newer)] {
            let mut newer = good.clone();
            newer[at] = 9;
            vault.put(&with_checksum(newer));
            assert_eq!(error_of(&vault.refused_at_once()), error);
        }
        vault.put(&other.bytes());
        assert!(matches!(vault.refused_at_once(), Error::KeyFileOfAnotherVault));
        fs::remove_file(vault.file()).unwrap();
        fs::remove_file(vault.copy()).unwrap();
        assert!(matches!(vault.refused_at_once(), Error::KeyFileMissing));
        // Nobody made a new one on the way.
        assert!(!vault.copy().exists());
    }

    #[test]
    fn a_key_file_with_another_master_key_under_the_same_secrets_opens_nothing() {
        let vault = Fixture::new();
        let (file, good) = (vault.file(), vault.bytes());
        let id = KeyFile::decode(&good).unwrap().vault;
        let impostor = impostor(id, &vault.words);
        // Beside the good one it is passed over, though its generation is higher.
        let beside = vault.dir.path().join("keys").join(impostor.file_name());
        fs::write(&beside, impostor.encode()).unwrap();
        for secret in [password(FIRST), vault.words.clone()] {
            let mut opened = vault.unlock(&secret).unwrap();
            assert_eq!(opened.entries().unwrap().len(), 1);
            assert_eq!(opened.key_file().unwrap().encode(), good);
            assert!(fs::read(&file).unwrap() == good && fs::read(vault.copy()).unwrap() == good);
        }
        fs::remove_file(&beside).unwrap();
        // In its place it is known for what it is, and nothing is written under its key.
        vault.put(&impostor.encode());
        let before = fs::read(vault.dir.path().join("local/device")).unwrap();
        for secret in [password(FIRST), vault.words.clone()] {
            assert_eq!(error_of(&vault.unlock(&secret).err().unwrap()), KeyFileError::Tampered);
        }
        // Even if this device's own state is gone: the entries tell.
        fs::remove_file(vault.dir.path().join("local/device")).unwrap();
        assert_eq!(error_of(&vault.unlock(&vault.words).err().unwrap()), KeyFileError::Tampered);
        assert!(!vault.dir.path().join("local/device").exists());
        fs::write(vault.dir.path().join("local/device"), before).unwrap();
        vault.put(&good);
        assert!(vault.unlock(&vault.words).is_ok());
    }

    #[test]
    fn an_older_key_file_put_back_opens_nothing_and_is_removed() {
        let vault = Fixture::new();
        let (old_path, old) = (vault.file(), vault.bytes());
        vault.unlock(&vault.words).unwrap().change_password(&Password::new(SECOND).unwrap(), 0).unwrap();
        let (new_path, new) = (vault.file(), vault.bytes());
        assert!(!old_path.exists(), "the wrapper of the old password stayed");
        fs::write(&old_path, &old).unwrap();
        let error = vault.unlock(&password(FIRST)).err().unwrap();
        let Error::Key { error: KeyFileError::WrongSecret, set: Some(set) } = error else {
            panic!("{error}")
        };
        assert_eq!((set.changed, set.here, set.by), (true, true, None));
        // Even if the newest one is gone from its place and only the copy is left.
        fs::remove_file(&new_path).unwrap();
        assert_eq!(error_of(&vault.unlock(&password(FIRST)).err().unwrap()), KeyFileError::WrongSecret);
        assert_eq!(vault.unlock(&password(SECOND)).unwrap().take_findings(), [Finding::KeyFileRestored]);
        assert!(!old_path.exists() && fs::read(&new_path).unwrap() == new);
        // A newer one that is damaged in both places is not passed over in silence.
        vault.put(&new[..new.len() - 1]);
        fs::write(&old_path, &old).unwrap();
        let mut opened = vault.unlock(&vault.words).unwrap();
        assert!(opened.take_findings().contains(&Finding::KeyFileWentBack));
        assert!(new_path.exists(), "what is damaged and newer is left for the mirror to heal");
    }

    #[test]
    fn a_key_file_from_elsewhere_is_taken_in_only_if_it_is_authentic_and_says_something_new() {
        let vault = Fixture::new();
        let mut opened = vault.unlock(&vault.words).unwrap();
        let first = vault.bytes();
        let new = Zeroizing::new([9; 32]);
        let made = (DeviceId::from_bytes([4; 16]), 77);
        let secret = Secret::Recovery(new.clone());
        let before = opened.key_file().unwrap();
        let next = before.replaced(opened.keyring(), &secret, 0, made, opened.host().entropy()).unwrap();
        let impostor = impostor(opened.id(), &vault.words).encode();
        let mut altered = next.encode();
        altered[100] ^= 1;
        let other = Fixture::new().bytes();
        let derivations = DERIVATIONS.get();
        for (offered, error) in [
            (altered.clone(), KeyFileError::Damaged),
            (with_checksum(altered), KeyFileError::Tampered),
            (with_rounds(next.encode(), 599_999), KeyFileError::TooCheap),
            (with_rounds(next.encode(), u32::MAX), KeyFileError::TooExpensive),
            (with_rounds(next.encode(), 600_001), KeyFileError::Tampered),
            (next.encode()[..300].to_vec(), KeyFileError::Damaged),
            (Vec::new(), KeyFileError::Damaged),
            (impostor, KeyFileError::Tampered),
            (other, KeyFileError::Tampered),
        ] {
            assert_eq!(opened.take_key_file(&offered).unwrap(), Taken::Refused(error));
            assert!(vault.bytes() == first && fs::read(vault.copy()).unwrap() == first);
        }
        assert_eq!(opened.take_key_file(&first).unwrap(), Taken::Nothing);
        let Taken::Changed(change) = opened.take_key_file(&next.encode()).unwrap() else { panic!() };
        assert_eq!((change.device, change.at, change.recovery_keys), (made.0, 77, 1));
        assert_eq!(change.difference, Difference { password: false, recovery: true });
        assert_eq!(opened.take_key_file(&first).unwrap(), Taken::Nothing, "it never goes back");
        assert_eq!(vault.bytes(), next.encode());
        assert_eq!(DERIVATIONS.get(), derivations, "a password was stretched");
        assert!(vault.unlock(&vault.words).is_err() && vault.unlock(&secret).is_ok());
    }

    #[test]
    fn a_cheap_wrapper_is_made_again_with_the_same_password() {
        let vault = Fixture::new();
        let first = Password::new(FIRST).unwrap();
        let mut opened = vault.unlock(&vault.words).unwrap();
        let cost = |vault: &Vault<ThisMachine>| vault.key_file().unwrap().password().unwrap().iterations;
        let never = || panic!("nothing is due");
        assert!(!opened.raise_cost(&first, MIN_WRITTEN_ITERATIONS, never).unwrap());
        assert!(opened.raise_cost(&first, 650_000, || 700_000).unwrap());
        assert_eq!((cost(&opened), opened.key_file().unwrap().generation), (700_000, 2));
        assert!(vault.unlock(&password(FIRST)).is_ok());
        assert!(!opened.raise_cost(&first, 650_000, never).unwrap());
        // A new wrapper is never cheaper than today's least, whatever the file says.
        opened.change_password(&first, 1).unwrap();
        assert_eq!(cost(&opened), MIN_WRITTEN_ITERATIONS);
    }

    #[test]
    fn a_key_file_taken_back_must_open_what_is_here() {
        let vault = Fixture::new();
        let (path, good) = (vault.file(), vault.bytes());
        let id = KeyFile::decode(&good).unwrap().vault;
        let take_back = |offered: &[u8], secret: &Secret| {
            let locked = Locked::find(ThisMachine::new(vault.dir.path())).unwrap();
            locked.take_back_key(&[offered.to_vec()], secret)
        };
        fs::remove_file(&path).unwrap();
        fs::remove_file(vault.copy()).unwrap();
        let error = take_back(&impostor(id, &vault.words).encode(), &vault.words).unwrap_err();
        assert_eq!(error_of(&error), KeyFileError::Tampered);
        let error = take_back(&Fixture::new().bytes(), &vault.words).unwrap_err();
        assert!(matches!(error, Error::KeyFileOfAnotherVault));
        assert!(!Path::new(&path).exists());
        take_back(&good, &vault.words).unwrap();
        assert!(fs::read(&path).unwrap() == good && vault.unlock(&vault.words).is_ok());
        // What is here and newer stays in force: the old secret of what is offered is refused.
        vault.unlock(&vault.words).unwrap().change_recovery(&Zeroizing::new([8; 32])).unwrap();
        let new = vault.bytes();
        assert_eq!(error_of(&take_back(&good, &vault.words).unwrap_err()), KeyFileError::WrongSecret);
        assert_eq!(vault.bytes(), new);
    }
}
