//! Backups: the vault in one file, written beside the old one, read back, and only then put in its place.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::keys::open_key_files;
use super::objects::identify_named;
use super::open::lay_out;
use super::state::Device;
use super::{Doing, Error, Vault, layout};
use crate::clock::Clock;
use crate::crypto::{Keyring, object_name};
use crate::format::backup::{
    BLOCK_BYTES, END_BYTES, Entry, INDEX_NAME, Index, Kind, MAX_INDEX_BYTES, is_key_path, open_index,
    padding, read_tar_header, seal_index, tar_header, tar_len,
};
use crate::format::keyfile::{KeyFile, KeyFileError, MAX_KEY_FILE_BYTES, Secret};
use crate::format::marker::{self, MARKER_NAME, MAX_MARKER_BYTES, Marker};
use crate::fs::{PlainFile, StagedDir, VaultFs, replace};
use crate::host::Host;
use crate::id::{DeviceId, ObjectName};

const PROGRAM: &str = concat!("espejo ", env!("CARGO_PKG_VERSION"));

/// Restored files that share their syncs.
const FILES_PER_BATCH: usize = 64;

/// More key files than this are not looked at before the index is open.
const MAX_KEY_FILES: usize = 64;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupSummary {
    /// When it was made, milliseconds since 1970 UTC.
    pub created_at: i64,
    /// Objects in it.
    pub objects: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// A backup file whose index is open. Its content is checked as it is read.
#[derive(Debug)]
pub struct Backup {
    file: PlainFile,
    index: Index,
    index_len_bytes: u64,
    /// Where each file's content begins.
    offsets: Vec<u64>,
}

/// The key files of a backup, read before anything in it can be believed: what opens one of them opens the rest.
fn key_files(file: &PlainFile) -> Result<Vec<Vec<u8>>, Error> {
    let mut key_files = Vec::new();
    let (first, mut len_bytes) = header_at(file, 0).ok_or(Error::NotABackup)?;
    let mut offset = 0;
    if first != INDEX_NAME {
        return Err(Error::NotABackup);
    }
    for _ in 0..=MAX_KEY_FILES {
        offset += tar_len(len_bytes);
        let Some((path, len)) = header_at(file, offset) else { break };
        if is_key_path(&path) && len <= MAX_KEY_FILE_BYTES as u64 {
            key_files.extend(file.read_at(offset + BLOCK_BYTES as u64, len as usize));
        } else if path != MARKER_NAME || len > MAX_MARKER_BYTES as u64 {
            break;
        }
        len_bytes = len;
    }
    Ok(key_files)
}

fn header_at(file: &PlainFile, offset: u64) -> Option<(String, u64)> {
    read_tar_header(&file.read_at(offset, BLOCK_BYTES).ok()?)
}

fn damaged(what: impl Into<String>) -> Error {
    Error::BackupDamaged(what.into())
}

impl Backup {
    /// Opens a backup with what opened its vault when it was made.
    pub fn unlock(path: &Path, secret: &Secret) -> Result<(Self, Keyring), Error> {
        let file = PlainFile::open(path).doing("opening the backup")?;
        let (keyring, _) = open_key_files(None, &key_files(&file)?, secret).map_err(|error| match error {
            Error::KeyFileMissing | Error::Key { error: KeyFileError::Damaged, .. } => {
                damaged("it has no intact key file")
            }
            error => error,
        })?;
        Ok((Self::open(file, &keyring)?, keyring))
    }

    /// The key files in a backup: whether they are of use shows when one opens.
    pub fn key_files(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
        key_files(&PlainFile::open(path).doing("opening the backup")?)
    }

    /// Opens a backup of a vault whose keys are known.
    pub fn of_vault(path: &Path, keyring: &Keyring) -> Result<Self, Error> {
        Self::open(PlainFile::open(path).doing("opening the backup")?, keyring)
    }

    fn open(file: PlainFile, keyring: &Keyring) -> Result<Self, Error> {
        use crate::format::SealedError as E;
        let (name, index_len_bytes) = header_at(&file, 0).ok_or(Error::NotABackup)?;
        if name != INDEX_NAME || index_len_bytes > MAX_INDEX_BYTES as u64 {
            return Err(Error::NotABackup);
        }
        if index_len_bytes > file.len_bytes().doing("reading the backup")? {
            return Err(damaged("it is cut short"));
        }
        let bytes = file.read_at(BLOCK_BYTES as u64, index_len_bytes as usize).doing("reading the backup")?;
        let index = open_index(keyring, &bytes).map_err(|error| match error {
            E::WrongVault => Error::BackupOfAnotherVault,
            E::Newer => Error::Newer,
            error => damaged(format!("its index: {error}")),
        })?;
        let mut next = tar_len(index_len_bytes);
        let offsets = index.entries.iter().map(|entry| {
            let offset = next + BLOCK_BYTES as u64;
            next += tar_len(entry.len_bytes);
            offset
        });
        let offsets = offsets.collect();
        Ok(Self { file, index, index_len_bytes, offsets })
    }

    /// What it holds, by its index.
    pub fn summary(&self) -> BackupSummary {
        let objects = self.index.entries.iter().filter(|entry| matches!(entry.kind(), Some(Kind::Object(_))));
        let files = self.index.entries.iter().map(|entry| tar_len(entry.len_bytes)).sum::<u64>();
        BackupSummary {
            created_at: self.index.created_at,
            objects: objects.count() as u64,
            bytes: tar_len(self.index_len_bytes) + files + END_BYTES as u64,
        }
    }

    /// Whether its index names this object.
    pub fn holds(&self, object: &ObjectName) -> bool {
        self.position(&layout::object_path(object)).is_some()
    }

    fn position(&self, path: &str) -> Option<usize> {
        self.index.entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()
    }

    /// A file of the vault it is of, if it is in it and intact: its bytes are those the index promises.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        let position = self.position(path)?;
        let entry = &self.index.entries[position];
        let bytes = self.file.read_at(self.offsets[position], entry.len_bytes as usize).ok()?;
        (object_name(&bytes) == entry.sha256).then_some(bytes)
    }

    /// An object, if it is in it and intact.
    pub fn object(&self, object: &ObjectName) -> Option<Vec<u8>> {
        self.file(&layout::object_path(object))
    }

    /// Reads the whole file: every byte must be what the index says, every object must open. Each file is given to
    /// `each` once it has passed.
    fn read_all(
        &self,
        keyring: &Keyring,
        mut each: impl FnMut(&Entry, Kind, Vec<u8>) -> Result<(), Error>,
    ) -> Result<BackupSummary, Error> {
        let summary = self.summary();
        if self.file.len_bytes().doing("reading the backup")? != summary.bytes {
            return Err(damaged("it is cut short, or something was added to it"));
        }
        let read = |offset, len| self.file.read_at(offset, len).doing("reading the backup");
        let zeros = |offset, len| match read(offset, len)?.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(damaged("between its files")),
        };
        let mut offset = tar_len(self.index_len_bytes);
        zeros(offset - padding(self.index_len_bytes) as u64, padding(self.index_len_bytes))?;
        for entry in &self.index.entries {
            if read(offset, BLOCK_BYTES)? != tar_header(&entry.path, entry.len_bytes) {
                return Err(damaged(format!("the header of {}", entry.path)));
            }
            let bytes = read(offset + BLOCK_BYTES as u64, entry.len_bytes as usize)?;
            let kind = entry.kind().ok_or_else(|| damaged("its index"))?;
            if object_name(&bytes) != entry.sha256 || !is_sound(keyring, entry, kind, &bytes) {
                return Err(damaged(&entry.path));
            }
            each(entry, kind, bytes)?;
            offset += tar_len(entry.len_bytes);
            zeros(offset - padding(entry.len_bytes) as u64, padding(entry.len_bytes))?;
        }
        zeros(offset, END_BYTES)?;
        Ok(summary)
    }

    /// Reads and opens everything in it.
    pub fn verify(&self, keyring: &Keyring) -> Result<BackupSummary, Error> {
        self.read_all(keyring, |_, _, _| Ok(()))
    }
}

/// Whether a file is what its place in the backup says, and was made by a holder of the key.
fn is_sound(keyring: &Keyring, entry: &Entry, kind: Kind, bytes: &[u8]) -> bool {
    match kind {
        Kind::Marker => marker::decode(bytes) == Ok(Marker::Vault(keyring.vault())),
        Kind::Key => KeyFile::decode(bytes).is_ok_and(|key_file| {
            entry.path == format!("{}/{}", layout::KEYS, key_file.file_name())
                && key_file.is_authentic(keyring)
        }),
        Kind::Object(name) => identify_named(keyring, &name, bytes.to_vec()).is_ok(),
    }
}

/// What the disk said while a backup was written.
fn writing(source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::ResourceBusy => Error::Busy,
        _ => Error::Io { doing: "writing the backup", source },
    }
}

impl<H: Host> Vault<H> {
    /// Writes everything this vault has into `target`. A backup that is there is replaced by a verified one only, and
    /// never if it holds an object that this vault has lost.
    pub fn backup(&mut self, target: &Path) -> Result<BackupSummary, Error> {
        self.check()?;
        self.may_replace(target)?;
        let key_files = self.key_files()?;
        let marker = marker::encode(self.id());
        let known = self.manifest()?.objects().values().filter(|state| state.here);
        let objects = known.map(|state| Entry {
            path: layout::object_path(&state.row.object),
            len_bytes: u64::from(state.row.len_bytes),
            sha256: state.row.object,
        });
        let clear = std::iter::once((MARKER_NAME.to_owned(), marker));
        let keys = key_files.into_iter().map(|(name, bytes)| (format!("{}/{name}", layout::KEYS), bytes));
        let clear = clear.chain(keys).collect::<std::collections::BTreeMap<_, _>>();
        let first = clear.iter().map(|(path, bytes)| Entry {
            path: path.clone(),
            len_bytes: bytes.len() as u64,
            sha256: object_name(bytes),
        });
        let entries = first.chain(objects).collect();
        let index = Index {
            created_at: self.host.clock().now_ms(),
            device: self.device.id,
            device_name: self.device.name.clone(),
            program: PROGRAM.to_owned(),
            entries,
        };
        let sealed = seal_index(&self.keyring, &index, self.host.entropy())?;
        let keyring = self.keyring.clone();
        let write = |file: &mut PlainFile| {
            write_file(file, INDEX_NAME, &sealed)?;
            for entry in &index.entries {
                match clear.get(&entry.path) {
                    Some(bytes) => write_file(file, &entry.path, bytes)?,
                    None => write_file(file, &entry.path, &self.object_bytes(&entry.sha256)?)?,
                }
            }
            file.write_all(&[0; END_BYTES]).map_err(writing)
        };
        let verify = |file| Backup::open(file, &keyring)?.verify(&keyring);
        let summary = replace(target, writing, write, verify)?;
        // The backup is there; numbers that cannot be written are put right by the next change.
        let _ = self.note_backup(summary.created_at);
        Ok(summary)
    }

    fn may_replace(&mut self, target: &Path) -> Result<(), Error> {
        let old = match PlainFile::open(target) {
            Ok(file) => Backup::open(file, &self.keyring).map_err(|_| Error::NotABackup)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).doing("looking at the backup that is there"),
        };
        let absent = self.manifest()?.objects().values().filter(|state| !state.here);
        let only_there = absent.filter(|state| old.holds(&state.row.object)).count() as u64;
        match only_there {
            0 => Ok(()),
            objects => Err(Error::BackupHoldsMore { objects }),
        }
    }
}

fn write_file(file: &mut PlainFile, path: &str, bytes: &[u8]) -> Result<(), Error> {
    let len_bytes = bytes.len() as u64;
    let mut out = tar_header(path, len_bytes);
    out.extend_from_slice(bytes);
    out.resize(out.len() + padding(len_bytes), 0);
    file.write_all(&out).map_err(writing)
}

/// Makes a vault of a backup in `target`, which must be missing or empty: with a new device identity, without a
/// mirror, and in place only when all of it is there and was read back. `host` is the machine with a given vault
/// directory.
pub fn restore<H: Host>(
    backup: &Backup,
    keyring: &Keyring,
    target: &Path,
    host: impl FnOnce(&Path) -> H,
    device_name: &str,
) -> Result<BackupSummary, Error> {
    let staged = StagedDir::beside(target).map_err(|source| match source.kind() {
        ErrorKind::DirectoryNotEmpty => Error::NotEmpty,
        _ => Error::Io { doing: "making the directory", source },
    })?;
    let host = host(staged.path());
    let mut key_files = Vec::new();
    let mut batch = Vec::<(String, Vec<u8>)>::new();
    let summary = backup.read_all(keyring, |entry, kind, bytes| {
        match kind {
            // It comes last: a directory without it is no vault.
            Kind::Marker => return Ok(()),
            Kind::Key => key_files.push(bytes.clone()),
            Kind::Object(_) => {}
        }
        batch.push((entry.path.clone(), bytes));
        if batch.len() == FILES_PER_BATCH { put(&host, &mut batch) } else { Ok(()) }
    })?;
    put(&host, &mut batch)?;
    let key_files = key_files.iter().filter_map(|bytes| KeyFile::decode(bytes).ok());
    let newest = key_files.reduce(|a, b| a.joined(&b, keyring)).ok_or(Error::KeyFileMissing)?;
    let device = Device { id: DeviceId::random(host.entropy())?, name: device_name.to_owned() };
    let mut vault = lay_out(host, keyring.clone(), device, &newest)?;
    vault.rebuild_now()?;
    let check = vault.check()?;
    if !check.is_clean() || check.objects != summary.objects {
        return Err(damaged("what was restored of it does not read back; nothing was put in place"));
    }
    staged.publish().map_err(|source| match source.kind() {
        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => Error::NotEmpty,
        _ => Error::Io { doing: "putting the vault in place", source },
    })?;
    Ok(summary)
}

fn put<H: Host>(host: &H, batch: &mut Vec<(String, Vec<u8>)>) -> Result<(), Error> {
    let files = batch.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect::<Vec<_>>();
    host.fs().put(&files).doing("writing the vault")?;
    batch.clear();
    Ok(())
}
