//! Reading every object and comparing it with what the manifest says.

use std::collections::BTreeSet;

use super::objects::{entry_of, identify_named};
use super::{Doing, Error, Vault, layout};
use crate::event::Damage;
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{EntryId, ObjectName};
use crate::manifest::Record;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Intact objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged objects. They were set aside.
    pub corrupt: Vec<(ObjectName, Option<EntryId>, Damage)>,
    /// Objects that were here and are gone.
    pub missing: Vec<(ObjectName, Option<EntryId>)>,
    /// Files among the objects that are none. They were left alone.
    pub foreign: Vec<String>,
    /// Intact objects the manifest did not know (another vault directory copied over this one): taken in.
    pub adopted: u64,
}

impl CheckReport {
    /// Whether everything is as it should be.
    pub fn is_clean(&self) -> bool {
        self.corrupt.is_empty() && self.missing.is_empty()
    }
}

impl<H: Host> Vault<H> {
    /// Reads and opens every object. Damaged ones are set aside, unknown ones taken in.
    pub fn check(&mut self) -> Result<CheckReport, Error> {
        let mut report = CheckReport::default();
        let mut seen = BTreeSet::new();
        self.manifest()?;
        for shard in self.host.fs().list(layout::OBJECTS).doing("reading the objects")? {
            let dir = format!("{}/{shard}", layout::OBJECTS);
            let mut adopted = Vec::new();
            for file in self.host.fs().list(&dir).doing("reading the objects")? {
                let Some(name) = file.parse::<ObjectName>().ok().filter(|_| file.starts_with(&shard)) else {
                    report.foreign.push(format!("{dir}/{file}"));
                    continue;
                };
                seen.insert(name);
                match self.read_object(&name)?.and_then(|bytes| identify_named(&self.keyring, &name, bytes)) {
                    Ok(object) => {
                        report.objects += 1;
                        report.bytes += u64::from(object.row.len_bytes);
                        if self.known().and_then(|m| m.object(&name)).is_none_or(|state| !state.here) {
                            adopted.push(Record::Stored(object.row, object.summary));
                        }
                    }
                    Err(problem) => {
                        let entry = self.known().and_then(|manifest| entry_of(manifest, &name));
                        report.corrupt.push((name, entry, problem));
                        self.damaged(name, problem);
                    }
                }
            }
            report.adopted += adopted.len() as u64;
            self.record(&adopted)?;
        }
        let manifest = self.manifest()?;
        let gone = manifest.objects().iter().filter(|(name, state)| state.was_here && !seen.contains(name));
        let gone =
            gone.map(|(name, state)| (*name, entry_of(manifest, name), state.here)).collect::<Vec<_>>();
        for (name, entry, listed) in gone {
            report.missing.push((name, entry));
            if listed {
                self.damaged(name, Damage::Missing);
            }
        }
        Ok(report)
    }
}
