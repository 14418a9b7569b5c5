//! Backups: the vault in one file. Here it is read; what it says is believed as far as its index proves it.

mod automatic;
mod make;
mod restore;

use std::collections::BTreeMap;
use std::path::Path;

use super::keys::open_key_files;
use super::objects::identify_named;
use super::{Doing, Error, layout};
use crate::crypto::{Keyring, object_name};
use crate::format::backup::{
    BLOCK_BYTES, END_BYTES, Entry, INDEX_NAME, Index, Kind, MAX_INDEX_BYTES, is_key_path, object_at,
    open_index, padding, read_tar_header, tar_header, tar_len,
};
use crate::format::keyfile::{KeyFile, KeyFileError, MAX_KEY_FILE_BYTES, Secret};
use crate::format::marker::{self, MARKER_NAME, MAX_MARKER_BYTES, Marker};
use crate::fs::PlainFile;
use crate::id::{DeviceId, ObjectName};

pub use automatic::{BackupPlan, Made};
pub use restore::{Contents, Difference, Differing, Restored, restore, salvage};

/// More key files than this are not looked at before the index is open.
const MAX_KEY_FILES: usize = 64;

/// Nor are they looked for in more than this at the end.
const MAX_TAIL_BLOCKS: u64 = 1_024;

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
    /// Where else it may, if this one is damaged.
    found: Places,
}

/// The key files of a backup, read before anything in it can be believed: what opens one of them opens the rest.
fn key_files(file: &PlainFile) -> Result<Vec<Vec<u8>>, Error> {
    let last = last_key_files(file)?;
    let mut key_files = match first_key_files(file) {
        Err(_) if !last.is_empty() => Vec::new(),
        first => first?,
    };
    for copy in last {
        if !key_files.contains(&copy) {
            key_files.push(copy);
        }
    }
    Ok(key_files)
}

/// Those at the end, where they are once more: one bad spot costs no backup.
fn last_key_files(file: &PlainFile) -> Result<Vec<Vec<u8>>, Error> {
    let len_bytes = file.len_bytes().doing("reading the backup")?;
    let blocks = len_bytes / BLOCK_BYTES as u64;
    let from = blocks.saturating_sub(MAX_TAIL_BLOCKS);
    let mut key_files = Vec::new();
    for block in from..blocks {
        let offset = block * BLOCK_BYTES as u64;
        let Some((path, len)) = header_at(file, offset) else { continue };
        if is_key_path(&path) && len <= MAX_KEY_FILE_BYTES as u64 {
            key_files.extend(file.read_at(offset + BLOCK_BYTES as u64, len as usize));
        }
    }
    Ok(key_files)
}

fn first_key_files(file: &PlainFile) -> Result<Vec<Vec<u8>>, Error> {
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

/// Where the contents of files begin and how long they are, by the path in the header before them.
type Places = BTreeMap<String, Vec<(u64, u64)>>;

/// The files whose headers are found, at any block: a length says nothing where a block may be missing.
fn found(file: &PlainFile) -> Result<Places, Error> {
    let blocks = file.len_bytes().doing("reading the backup")? / BLOCK_BYTES as u64;
    let mut found = Places::new();
    for block in 0..blocks {
        let offset = block * BLOCK_BYTES as u64;
        if let Some((path, len_bytes)) = header_at(file, offset) {
            found.entry(path).or_default().push((offset + BLOCK_BYTES as u64, len_bytes));
        }
    }
    Ok(found)
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

    /// Opens what is left of a backup that is damaged: by its index if that opens, else by the headers in it. The last
    /// says whether the index is lost, and with it what else was in the file.
    pub fn unlock_damaged(path: &Path, secret: &Secret) -> Result<(Self, Keyring, bool), Error> {
        let file = PlainFile::open(path).doing("opening the backup")?;
        let found = found(&file)?;
        let keys = found.iter().filter(|(path, _)| is_key_path(path)).flat_map(|(_, places)| places);
        let keys = keys.filter(|(_, len)| *len <= MAX_KEY_FILE_BYTES as u64);
        let keys = keys.filter_map(|(offset, len)| file.read_at(*offset, *len as usize).ok());
        let keys = keys.filter(|bytes| KeyFile::decode(bytes).is_ok()).collect::<Vec<_>>();
        if keys.is_empty() {
            return Err(damaged("it has no intact key file, and nothing opens it without one"));
        }
        let (keyring, _) = open_key_files(None, &keys, secret)?;
        let (backup, index_lost) = Self::open_damaged(path, found, &keyring)?;
        Ok((backup, keyring, index_lost))
    }

    /// The same with the keys of its vault.
    pub fn of_vault_damaged(path: &Path, keyring: &Keyring) -> Result<(Self, bool), Error> {
        let file = PlainFile::open(path).doing("opening the backup")?;
        Self::open_damaged(path, found(&file)?, keyring)
    }

    fn open_damaged(path: &Path, found: Places, keyring: &Keyring) -> Result<(Self, bool), Error> {
        match Self::of_vault(path, keyring) {
            Ok(backup) => Ok((Self { found, ..backup }, false)),
            Err(Error::NotABackup | Error::BackupDamaged(_)) if !found.is_empty() => {
                let file = PlainFile::open(path).doing("opening the backup")?;
                Ok((Self::of_found(file, found), true))
            }
            Err(error) => Err(error),
        }
    }

    /// A backup whose index is lost.
    fn of_found(file: PlainFile, found: Places) -> Self {
        let (mut entries, mut offsets) = (Vec::new(), Vec::new());
        for (path, places) in &found {
            // Key files are there twice.
            let Some((offset, len_bytes)) = places.first().copied() else { continue };
            // The bytes of what has no hash in its name are believed if they are authentic.
            let sha256 = object_at(path);
            let read = || file.read_at(offset, len_bytes as usize).map(|bytes| object_name(&bytes)).ok();
            let is_small = len_bytes <= MAX_KEY_FILE_BYTES as u64;
            let Some(sha256) = sha256.or_else(|| is_small.then(read).flatten()) else { continue };
            let entry = Entry { path: path.clone(), len_bytes, sha256 };
            if entry.kind().is_some() {
                entries.push(entry);
                offsets.push(offset);
            }
        }
        let index = Index {
            created_at: 0,
            device: DeviceId::from_bytes([0; 16]),
            names: BTreeMap::new(),
            program: String::new(),
            entries,
        };
        Self { file, index, index_len_bytes: 0, offsets, found }
    }

    /// Every file its index names, with its bytes if they are intact.
    fn files(&self) -> impl Iterator<Item = (&Entry, Option<Vec<u8>>)> {
        self.index.entries.iter().enumerate().map(|(position, entry)| (entry, self.bytes_of(position)))
    }

    /// The key files at its end.
    fn last_key_files(&self) -> Result<Vec<Vec<u8>>, Error> {
        last_key_files(&self.file)
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
        Ok(Self { file, index, index_len_bytes, offsets, found: Places::new() })
    }

    /// What it holds, by its index.
    pub fn summary(&self) -> BackupSummary {
        let files = self.index.in_order().map(|entry| tar_len(entry.len_bytes)).sum::<u64>();
        BackupSummary {
            created_at: self.index.created_at,
            objects: self.objects().count() as u64,
            bytes: tar_len(self.index_len_bytes) + files + END_BYTES as u64,
        }
    }

    /// When it was made, by its index, milliseconds since 1970 UTC.
    fn created_at(&self) -> i64 {
        self.index.created_at
    }

    /// Whether the file is as long as its index says.
    fn has_its_length(&self) -> bool {
        self.file.len_bytes().is_ok_and(|len_bytes| len_bytes == self.summary().bytes)
    }

    /// What the devices were called that are known in it.
    fn names(&self) -> BTreeMap<DeviceId, String> {
        self.index.names.clone()
    }

    /// The objects its index names.
    pub fn objects(&self) -> impl Iterator<Item = ObjectName> + '_ {
        self.index.entries.iter().filter_map(|entry| match entry.kind() {
            Some(Kind::Object(name)) => Some(name),
            _ => None,
        })
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
        self.bytes_of(self.position(path)?)
    }

    fn bytes_of(&self, position: usize) -> Option<Vec<u8>> {
        let entry = &self.index.entries[position];
        let found = self.found.get(&entry.path).into_iter().flatten();
        let found = found.filter(|(_, len_bytes)| *len_bytes == entry.len_bytes).map(|(offset, _)| *offset);
        let places = std::iter::once(self.offsets[position]).chain(found);
        let mut copies = places.filter_map(|at| self.file.read_at(at, entry.len_bytes as usize).ok());
        copies.find(|bytes| object_name(bytes) == entry.sha256)
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
        for (number, entry) in self.index.in_order().enumerate() {
            if read(offset, BLOCK_BYTES)? != tar_header(&entry.path, entry.len_bytes) {
                return Err(damaged(format!("the header of {}", entry.path)));
            }
            let bytes = read(offset + BLOCK_BYTES as u64, entry.len_bytes as usize)?;
            let kind = entry.kind().ok_or_else(|| damaged("its index"))?;
            if object_name(&bytes) != entry.sha256 || !is_sound(keyring, entry, kind, &bytes) {
                return Err(damaged(&entry.path));
            }
            if number < self.index.entries.len() {
                each(entry, kind, bytes)?;
            }
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
        Kind::Object(name) => identify_named(keyring, &name, bytes).is_ok(),
    }
}
