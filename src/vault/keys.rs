//! The key files of a vault: which one is in force, changing what opens it, and taking in what was changed elsewhere.
//!
//! In force is what all intact and authentic ones amount to ([`KeyFile::joined`]); there is one in `keys/` and its copy,
//! and for a moment, or after a crash, what they replaced.

use super::objects::identify_named;
use super::open::lock_vault;
use super::state::{is_at_home, names_vault};
use super::status::{PasswordSet, read as read_status};
use super::{Doing, Error, Locked, Store, Vault, layout};
use crate::clock::Clock;
use crate::crypto::{Keyring, MIN_WRITTEN_ITERATIONS, Password, object_name};
use crate::event::{Damage, Finding};
use crate::format::keyfile::{KeyFile, KeyFileError, MAX_KEY_FILE_BYTES, Secret};
use crate::format::object::MAX_OBJECT_BYTES;
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{ObjectName, VaultId};
use zeroize::Zeroizing;

/// So many key files are tried with one secret, which takes a key derivation each.
const MAX_TRIED: usize = 8;

/// So many key files with a newer master key are kept.
const MAX_NEWER: usize = 4;

/// So many objects are opened to find out whether keys are this vault's.
const MAX_PROBED: usize = 8;

/// What became of a key file that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is damaged, or was not made by a holder of this vault's key. Nothing was changed.
    Refused(KeyFileError),
    /// It says nothing new.
    Nothing,
    /// It was taken in, durably.
    Changed(KeyFile),
    /// It has a newer master key, which is not known here. It is kept until somebody gives what opens it.
    NewMaster(KeyFile),
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

/// The key files with a newer master key.
fn newer_key_files<H: Host>(host: &H) -> Result<Vec<KeyFile>, Error> {
    let mut files = Vec::new();
    for name in host.fs().list(layout::NEWER_KEYS).doing("looking for newer key files")? {
        let path = format!("{}/{name}", layout::NEWER_KEYS);
        let file = host.fs().read(&path, MAX_KEY_FILE_BYTES as u64).unwrap_or_default();
        files.extend(KeyFile::decode(&file));
    }
    Ok(files)
}

/// Whether the vault's own key file has a newer master key than `keyring`.
pub(super) fn has_newer_key<H: Host>(host: &H, keyring: &Keyring) -> Result<bool, Error> {
    let newer = |file: &KeyFile| file.vault == keyring.vault() && file.epoch > keyring.current_epoch();
    Ok(KeyFiles::look(host)?.all().any(newer))
}

/// Keeps a key file that nothing given so far opens. The lock is held.
fn keep_newer<H: Host>(host: &H, file: &KeyFile) -> Result<(), Error> {
    let kept = newer_key_files(host)?;
    if kept.len() >= MAX_NEWER || kept.contains(file) {
        return Ok(());
    }
    let path = format!("{}/{}", layout::NEWER_KEYS, file.file_name());
    host.fs().put(&[(path, &file.encode())]).doing("keeping a newer key file")
}

/// The lock is held.
fn forget_newer<H: Host>(host: &H) -> Result<(), Error> {
    let names = host.fs().list(layout::NEWER_KEYS).doing("looking for newer key files")?;
    let paths = names.iter().map(|name| format!("{}/{name}", layout::NEWER_KEYS)).collect::<Vec<_>>();
    host.fs().remove_all(&paths).doing("removing newer key files")
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
                problem = Error::KeyFileOfAnotherVault;
            }
            Ok(file) => decoded.push(file),
            Err(error) => problem = Error::Key { error, set: None },
        }
    }
    let refused = |error, file: &KeyFile| Error::Key { error, set: told(file, None) };
    match open_newest(&decoded.iter().collect::<Vec<_>>(), secret, |_| Ok(true), refused) {
        Err(Error::KeyFileMissing) => Err(problem),
        Ok((keyring, _)) if decoded.iter().any(|file| file.follows(&keyring)) => {
            // It opens what was left behind.
            let newest = decoded.iter().max_by_key(|file| file.rank());
            let set = newest.and_then(|file| told(file, None));
            Err(Error::Key { error: KeyFileError::WrongSecret, set })
        }
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
        // What opens the vault as it is known here says nothing about a newer key.
        let opened = match opened {
            Err(error @ Error::Key { error: KeyFileError::WrongSecret | KeyFileError::NoSuchSlot, .. }) => {
                self.open_newer(secret)?.ok_or(error)
            }
            opened => opened,
        };
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

    /// Opens a key file with a newer master key, and puts it in force.
    fn open_newer(&self, secret: &Secret) -> Result<Option<(Keyring, KeyFile)>, Error> {
        let mut newer = newer_key_files(self.host())?;
        newer.retain(|file| self.id().is_none_or(|id| id == file.vault));
        newer.sort_by_key(|file| std::cmp::Reverse(file.rank()));
        for file in newer {
            let Ok(keyring) = file.unlock(secret) else { continue };
            if home(self.host(), &keyring)? != Home::Yes {
                continue;
            }
            // On a read-only disk the vault opens all the same.
            let _ = lock_vault(self.host()).and_then(|_lock| {
                put_in_force(self.host(), &KeyFiles::look(self.host())?, &file, &keyring)?;
                forget_newer(self.host())
            });
            return Ok(Some((keyring, file)));
        }
        Ok(None)
    }

    /// What the key files amount to that a holder of `keyring` made.
    pub(super) fn key_file_in_force(&self, keyring: &Keyring) -> Result<KeyFile, Error> {
        KeyFiles::look(self.host())?.in_force(keyring)
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

    /// Gives the vault a new master key, which `secrets` open and nothing else: whoever has a copy of the old ones can
    /// read what is there, and nothing that is written from now on; and makes nothing that is believed. What is there
    /// stays as it is.
    pub fn rekey(&mut self, secrets: &[Secret], iterations: u32) -> Result<KeyFile, Error> {
        let _no_sync = self.sync_lock()?;
        let lock = self.lock()?;
        self.refresh_locked()?;
        let found = KeyFiles::look(&self.host)?;
        let before = found.in_force(&self.keyring)?;
        if secrets.iter().any(|secret| before.unlock(secret).is_ok()) {
            return Err(Error::Invalid("what opens the vault now cannot open it afterwards".to_owned()));
        }
        let keyring = self.keyring.renewed(self.host.entropy())?;
        let made = (self.device.id, self.host.clock().now_ms());
        let iterations = iterations.max(MIN_WRITTEN_ITERATIONS);
        let after = before.rekeyed(&keyring, secrets, iterations, made, self.host.entropy())?;
        put_in_force(&self.host, &found, &after, &keyring)?;
        self.keyring = keyring;
        // Whoever still has the old keys in memory sees by the index that they are old. The new key is in force whether or
        // not there is room for that.
        let _ = self.rewrite_index();
        let _ = forget_newer(&self.host);
        let _ = self.note_password();
        drop(lock);
        // If not now, then when it is opened next.
        let _ = self.renew_access();
        Ok(after)
    }

    /// The key file after the change, and whether there was one: only if the one before is as it `must_be`.
    fn replace_secret(
        &mut self,
        secret: &Secret,
        iterations: u32,
        must_be: impl Fn(&KeyFile) -> bool,
    ) -> Result<(KeyFile, bool), Error> {
        let lock = self.lock()?;
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
        drop(lock);
        // If not now, then when it is opened next.
        let _ = self.renew_access();
        Ok((after, true))
    }

    /// Whether a key file is of the next epoch, by a holder of the keys there are; or of a later one, which nobody here can
    /// tell, after such a one.
    fn may_have_new_master(&self, offered: &KeyFile) -> Result<bool, Error> {
        if offered.follows(&self.keyring) {
            return Ok(true);
        }
        let is_later = offered.vault == self.id() && offered.epoch > self.keyring.current_epoch() + 1;
        let kept = newer_key_files(&self.host)?;
        Ok(is_later && kept.iter().any(|file| file.follows(&self.keyring)))
    }

    /// Takes in a key file made elsewhere: without knowing what opens it, because it is authentic.
    pub fn take_key_file(&mut self, file: &[u8]) -> Result<Taken, Error> {
        let offered = match KeyFile::decode(file) {
            Ok(offered) if offered.is_authentic(&self.keyring) => offered,
            Ok(offered) if self.may_have_new_master(&offered)? => {
                let _lock = self.lock()?;
                keep_newer(&self.host, &offered)?;
                return Ok(Taken::NewMaster(offered));
            }
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
        Ok(Taken::Changed(offered))
    }
}

#[cfg(test)]
mod tests;
