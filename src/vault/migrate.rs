//! Migration: versions in an earlier schema are stored once more, in today's.
//!
//! The new object holds the same version: id, dot, context and meaning. So it cannot conflict, looks to nobody like an
//! edit, and may be made on two devices at once. The old object stays as long as its version does: a device with an
//! older program may be able to read no other.

use super::{Doing, Error, Vault};
use crate::entry::SCHEMA;
use crate::event::Damage;
use crate::format::object::{MAX_OBJECT_BYTES, Object, OpenedVersion, open_version, seal_version};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::VersionId;
use crate::manifest::{Manifest, VersionState};
use crate::version::Kind;

/// Objects are made and stored together up to about this many bytes: they share the wait for the disk.
const BATCH_BYTES: usize = 8 << 20;

/// What became of versions that were to be migrated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Stored in today's schema.
    pub stored: u64,
    /// Damaged or not here.
    pub unreadable: u64,
}

impl<H: Host> Vault<H> {
    /// The live versions that are here and can be read only in an earlier schema than [`SCHEMA`].
    pub fn outdated(&mut self) -> Result<Vec<VersionId>, Error> {
        let manifest = self.manifest()?;
        let outdated = manifest.versions().filter(|state| is_outdated(manifest, state));
        Ok(outdated.map(|state| state.version.id).collect())
    }

    /// Stores those of `versions` that are outdated in today's schema. Each new object is read back before it is listed;
    /// until then, and after a failure, everything is as it was.
    pub fn migrate(&mut self, versions: &[VersionId]) -> Result<Migrated, Error> {
        let mut migrated = Migrated::default();
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for id in versions {
            let manifest = self.manifest()?;
            let Some(state) = manifest.version(*id).filter(|state| is_outdated(manifest, state)) else {
                continue;
            };
            let version = state.version.clone();
            let content = match self.content(*id) {
                Ok(Some(content)) => content,
                Ok(None) => continue,
                Err(Error::Damaged { .. } | Error::Pending) => {
                    migrated.unreadable += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let object = seal_version(&self.keyring, &version, Some(&content), self.host.entropy())?;
            batch_bytes += object.bytes.len();
            batch.push((object, OpenedVersion { version: (*version).clone(), content: Some(content) }));
            if batch_bytes >= BATCH_BYTES {
                migrated.stored += self.store_renewed(std::mem::take(&mut batch))?;
                batch_bytes = 0;
            }
        }
        migrated.stored += self.store_renewed(batch)?;
        Ok(migrated)
    }

    /// Stores versions, each sealed anew and as it is to be read back.
    fn store_renewed(&mut self, mut batch: Vec<(Object, OpenedVersion)>) -> Result<u64, Error> {
        if batch.is_empty() {
            return Ok(0);
        }
        let _lock = self.lock()?;
        self.refresh_locked()?;
        // Another process may have been at it.
        batch.retain(|(_, said)| {
            let known =
                self.known().and_then(|manifest| Some((manifest, manifest.version(said.version.id)?)));
            known.is_some_and(|(manifest, state)| is_outdated(manifest, state))
        });
        let (objects, said): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        self.put_locked(&objects)?;
        let read_back = objects.iter().zip(&said).try_for_each(|(object, said)| self.read_back(object, said));
        if let Err(error) = read_back {
            self.remove_refused(&objects);
            return Err(error);
        }
        self.list_locked(&objects)?;
        // Saved is saved, as in `save`.
        let _ = self.write_status();
        Ok(objects.len() as u64)
    }

    /// Whether what lies on the disk now says what the version says.
    fn read_back(&self, object: &Object, said: &OpenedVersion) -> Result<(), Error> {
        let path = super::layout::object_path(&object.name());
        let read = self.host.fs().read(&path, MAX_OBJECT_BYTES as u64);
        let opened = open_version(&self.keyring, &read.doing("reading back what was written")?);
        match opened.is_ok_and(|opened| opened == *said) {
            true => Ok(()),
            false => Err(Error::Damaged {
                entry: Some(said.version.entry),
                object: object.name(),
                problem: Damage::BitRot,
            }),
        }
    }
}

fn is_outdated(manifest: &Manifest, state: &VersionState) -> bool {
    let readable = manifest.encoding_here(state.version.id, SCHEMA);
    state.version.kind == Kind::Live && readable.is_some_and(|it| it.row.schema < SCHEMA && !it.retired)
}
