//! Damaged files that were set aside: kept to be looked at, and not for ever.

use std::io;

use super::check::Quarantine;
use super::{Doing, Error, Vault, layout};
use crate::format::object::MAX_OBJECT_BYTES;
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::ObjectName;

/// Beyond this many files, or bytes, the least needed go.
const MAX_FILES: usize = 256;
const MAX_BYTES: u64 = 256 << 20;

/// Copies of one object that are kept.
const MAX_COPIES: u32 = 8;

/// The object a file in quarantine was: `<object>`, or `<object>.2` for a second damaged copy of it.
fn object_of(file: &str) -> Option<ObjectName> {
    file.split('.').next()?.parse().ok()
}

impl<H: Host> Vault<H> {
    /// What is in quarantine.
    pub fn quarantine(&self) -> Result<Quarantine, Error> {
        let files = self.quarantined_files().doing("looking into the quarantine")?;
        Ok(Quarantine { files: files.len() as u64, bytes: files.iter().map(|(_, len, _)| len).sum() })
    }

    /// Copies of `object` that were set aside. Whether one of them is intact after all is for the caller to check.
    pub fn quarantined(&self, object: &ObjectName) -> Vec<Vec<u8>> {
        let names = (1..=MAX_COPIES).map(|copy| path(object, copy));
        names.filter_map(|name| self.host.fs().read(&name, MAX_OBJECT_BYTES as u64).ok()).collect()
    }

    /// Where a damaged copy of `object` goes without covering another one. With too many, over the newest.
    pub(super) fn free_quarantine_path(&self, object: &ObjectName) -> io::Result<String> {
        let present = self.host.fs().list(layout::QUARANTINE)?;
        let taken =
            |copy: &u32| present.iter().any(|file| path(object, *copy).ends_with(&format!("/{file}")));
        Ok(path(object, (1..MAX_COPIES).find(|copy| !taken(copy)).unwrap_or(MAX_COPIES)))
    }

    /// Name, length and age rank of every file.
    fn quarantined_files(&self) -> io::Result<Vec<(String, u64, i64)>> {
        let fs = self.host.fs();
        let names = fs.list(layout::QUARANTINE)?.into_iter();
        names
            .map(|name| {
                let path = format!("{}/{name}", layout::QUARANTINE);
                Ok((name, fs.len(&path)?.unwrap_or(0), fs.placed_at(&path)?))
            })
            .collect()
    }

    /// Removes what is too much: files whose object is whole again first, then the oldest.
    pub(super) fn bound_quarantine(&self) -> io::Result<()> {
        let mut files = self.quarantined_files()?;
        let is_whole = |name: &str| {
            let state = object_of(name).and_then(|object| self.known()?.object(&object));
            state.is_some_and(|state| state.here)
        };
        files.sort_by_cached_key(|(name, _, placed_at)| (!is_whole(name), *placed_at, name.clone()));
        let mut bytes = files.iter().map(|(_, len, _)| len).sum::<u64>();
        let mut left = files.len();
        for (name, len, _) in files {
            if left <= MAX_FILES && bytes <= MAX_BYTES {
                break;
            }
            self.host.fs().remove(&format!("{}/{name}", layout::QUARANTINE))?;
            (left, bytes) = (left - 1, bytes - len);
        }
        Ok(())
    }
}

fn path(object: &ObjectName, copy: u32) -> String {
    match copy {
        1 => format!("{}/{object}", layout::QUARANTINE),
        copy => format!("{}/{object}.{copy}", layout::QUARANTINE),
    }
}
