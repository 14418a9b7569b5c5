//! Writing backups: beside the old one, read back, and only then put in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::{Backup, BackupSummary};
use crate::clock::Clock;
use crate::crypto::object_name;
use crate::format::backup::{END_BYTES, Entry, INDEX_NAME, Index, Kind, padding, seal_index, tar_header};
use crate::format::content::PROGRAM;
use crate::format::marker::{self, MARKER_NAME};
use crate::fs::{PlainFile, replace};
use crate::host::Host;
use crate::id::ObjectName;
use crate::manifest::Subject;
use crate::vault::objects::identify_named;
use crate::vault::{Doing, Error, Vault, layout};

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
        let known = self.manifest()?.objects_by_name().into_iter().filter(|state| state.here);
        let objects = known.map(|state| Entry {
            path: layout::object_path(&state.row.object),
            len_bytes: u64::from(state.row.len_bytes),
            sha256: state.row.object,
        });
        let objects = objects.collect();
        let created_at = self.host.clock().now_ms();
        let summary = self.write(target, created_at, objects, Vault::object_bytes)?;
        // The backup is there; numbers that cannot be written are put right by the next change.
        let _ = self.note_backup(summary.created_at);
        self.note_activity(Some("backup"), &[("objects", summary.objects), ("bytes", summary.bytes)], &[]);
        Ok(summary)
    }

    /// Writes a backup of this vault again with the key files of today: what opens the vault opens it from now on. Whoever
    /// has a copy of the old file opens that as before.
    pub fn rewrap(&mut self, file: &Path) -> Result<BackupSummary, Error> {
        let old = Backup::of_vault(file, &self.keyring)?;
        old.verify(&self.keyring)?;
        let objects = old.index.entries.iter().filter(|entry| matches!(entry.kind(), Some(Kind::Object(_))));
        let objects = objects.cloned().collect();
        let created_at = old.index.created_at;
        self.write(file, created_at, objects, |_, object| {
            old.object(object).ok_or_else(|| super::damaged(object.to_string()))
        })
    }

    fn write(
        &mut self,
        target: &Path,
        created_at: i64,
        objects: Vec<Entry>,
        read: impl Fn(&mut Self, &ObjectName) -> Result<Vec<u8>, Error>,
    ) -> Result<BackupSummary, Error> {
        let key_files = self.key_files()?;
        let marker = marker::encode(self.id());
        let clear = std::iter::once((MARKER_NAME.to_owned(), marker));
        let keys = key_files.into_iter().map(|(name, bytes)| (format!("{}/{name}", layout::KEYS), bytes));
        let clear = clear.chain(keys).collect::<BTreeMap<_, _>>();
        let first = clear.iter().map(|(path, bytes)| Entry {
            path: path.clone(),
            len_bytes: bytes.len() as u64,
            sha256: object_name(bytes),
        });
        let entries = first.chain(objects).collect();
        let index = Index {
            created_at,
            device: self.device.id,
            names: self.names()?,
            program: PROGRAM.to_owned(),
            entries,
        };
        let sealed = seal_index(&self.keyring, &index, self.host.entropy())?;
        let keyring = self.keyring.clone();
        let write = |file: &mut PlainFile| {
            write_file(file, INDEX_NAME, &sealed)?;
            for entry in index.in_order() {
                match clear.get(&entry.path) {
                    Some(bytes) => write_file(file, &entry.path, bytes)?,
                    None => write_file(file, &entry.path, &read(self, &entry.sha256)?)?,
                }
            }
            file.write_all(&[0; END_BYTES]).map_err(writing)
        };
        let verify = |file| Backup::open(file, &keyring)?.verify(&keyring);
        replace(target, writing, write, verify)
    }

    fn may_replace(&mut self, target: &Path) -> Result<(), Error> {
        let old = match PlainFile::open(target) {
            Ok(file) => Backup::open(file, &self.keyring).map_err(|_| Error::NotABackup)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).doing("looking at the backup that is there"),
        };
        match self.lost_in(&old)? {
            0 => Ok(()),
            objects => Err(Error::BackupHoldsMore { objects }),
        }
    }

    /// How many objects a backup holds that are not here and that somebody may miss: those this vault has lost or has not
    /// got yet, and those it never heard of, unless it knows what came after them.
    pub(super) fn lost_in(&mut self, backup: &Backup) -> Result<u64, Error> {
        let keyring = self.keyring.clone();
        let manifest = self.manifest()?;
        let summaries = manifest.versions().filter_map(|state| state.summary.as_ref());
        let named = summaries.flat_map(|summary| &summary.parts).collect::<BTreeSet<_>>();
        let is_missed = |object: &ObjectName| match manifest.object(object) {
            Some(state) => !state.here,
            None => {
                let opened =
                    backup.object(object).and_then(|bytes| identify_named(&keyring, object, bytes).ok());
                match opened.map(|object| object.row.subject) {
                    Some(Subject::Version(version)) => {
                        let mut known = manifest.versions_of(version.entry).map(|state| &*state.version);
                        !known.any(|it| it.id == version.id || it.context.covers(version.dot))
                    }
                    Some(Subject::Part) => named.contains(object),
                    // Nobody can read it there either.
                    None => false,
                }
            }
        };
        Ok(backup.objects().filter(is_missed).count() as u64)
    }
}

fn write_file(file: &mut PlainFile, path: &str, bytes: &[u8]) -> Result<(), Error> {
    let len_bytes = bytes.len() as u64;
    let mut out = tar_header(path, len_bytes);
    out.extend_from_slice(bytes);
    out.resize(out.len() + padding(len_bytes), 0);
    file.write_all(&out).map_err(writing)
}
