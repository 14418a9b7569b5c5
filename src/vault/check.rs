//! Reading everything and comparing it with what the manifest says.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::objects::entry_of;
use super::state::{is_at_home, is_readable_sync_state};
use super::{Doing, Error, Store, Vault, layout};
use crate::event::Damage;
use crate::format::feed::{SegmentName, open_segment};
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES};
use crate::format::marker::{self, MARKER_NAME, MAX_MARKER_BYTES, Marker};
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{DeviceId, EntryId, ObjectName};
use crate::manifest::{ObjectState, Record};

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
    /// Other files of the vault that are damaged or gone.
    pub files: Vec<FileProblem>,
    /// Files in the vault's directories that are not the vault's. They were left alone.
    pub foreign: Vec<String>,
    /// Intact objects the manifest did not know (another vault directory copied over this one): taken in.
    pub adopted: u64,
    /// What was set aside and is still kept.
    pub quarantine: Quarantine,
}

/// A file of the vault, not an object, that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// Its path in the vault.
    pub file: String,
    /// What is wrong with it.
    pub problem: Damage,
    /// What puts it right.
    pub remedy: Remedy,
}

/// What puts a file right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// A copy from the mirror or a backup.
    Copy,
    /// It is made again by the next sync.
    Sync,
    /// The person says again where the mirror is.
    SetRemote,
    /// It is made again when the vault is opened on a disk that can be written.
    Reopen,
}

/// What is in quarantine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was found, and nothing done about it yet.
#[derive(Debug, Default)]
pub struct Inspected {
    /// What a check would report.
    pub report: CheckReport,
    /// What the manifest does not know and should.
    adopted: Vec<Record>,
    /// Missing objects of which the manifest still says that they are here.
    newly_missing: Vec<ObjectName>,
}

impl CheckReport {
    /// Whether everything is as it should be.
    pub fn is_clean(&self) -> bool {
        self.corrupt.is_empty() && self.missing.is_empty() && self.files.is_empty()
    }
}

impl<H: Host> Vault<H> {
    /// Reads and opens everything. Damaged objects are set aside, unknown ones taken in.
    pub fn check(&mut self) -> Result<CheckReport, Error> {
        let Inspected { mut report, adopted, newly_missing } = self.inspect()?;
        for (object, _, problem) in &report.corrupt {
            self.damaged(*object, *problem);
        }
        self.record(&adopted)?;
        for object in newly_missing {
            self.damaged(object, Damage::Missing);
        }
        report.quarantine = self.quarantine()?;
        Ok(report)
    }

    /// Reads and opens everything, and changes nothing.
    pub fn inspect(&mut self) -> Result<Inspected, Error> {
        self.manifest()?;
        let mut found = Inspected::default();
        let mut seen = BTreeSet::new();
        for shard in self.host.fs().list(layout::OBJECTS).doing("reading the objects")? {
            self.inspect_shard(&shard, &mut found, &mut seen)?;
        }
        found.report.adopted = found.adopted.len() as u64;
        let corrupt = found.report.corrupt.iter().map(|(object, ..)| *object).collect::<BTreeSet<_>>();
        let is_intact = |object: &ObjectName| seen.contains(object) && !corrupt.contains(object);
        let manifest = self.manifest()?;
        let unseen = manifest.objects_by_name().into_iter().filter(|state| !seen.contains(&state.row.object));
        for state in unseen {
            let name = state.row.object;
            // One encoding of a version is enough.
            let needed = !manifest.other_encodings(state).any(|other| is_intact(&other.row.object));
            if state.was_here && needed {
                found.report.missing.push((name, entry_of(manifest, &name)));
            }
            if state.here {
                found.newly_missing.push(name);
            }
        }
        self.inspect_keys(&mut found.report)?;
        self.inspect_state(&mut found.report)?;
        self.inspect_feeds(&mut found.report)?;
        found.report.quarantine = self.quarantine()?;
        Ok(found)
    }

    fn inspect_shard(
        &mut self,
        shard: &str,
        found: &mut Inspected,
        seen: &mut BTreeSet<ObjectName>,
    ) -> Result<(), Error> {
        let dir = format!("{}/{shard}", layout::OBJECTS);
        if self.host.fs().len(&dir).doing("reading the objects")?.is_some() {
            found.report.foreign.push(dir);
            return Ok(());
        }
        let mut names = Vec::new();
        for file in self.host.fs().list(&dir).doing("reading the objects")? {
            let ours = file.starts_with(shard) && shard.len() == 2;
            match file.parse::<ObjectName>().ok().filter(|_| ours) {
                Some(name) => names.push(name),
                None => found.report.foreign.push(format!("{dir}/{file}")),
            }
        }
        seen.extend(&names);
        while !names.is_empty() {
            let batch = self.batch_of(&mut names)?;
            for (name, object) in self.identify_many(batch)? {
                match object {
                    Ok(object) => {
                        found.report.objects += 1;
                        found.report.bytes += u64::from(object.row.len_bytes);
                        if self.known().and_then(|m| m.object(&name)).is_none_or(|state| !state.here) {
                            found.adopted.push(Record::Stored(object.row, object.summary));
                        }
                    }
                    Err(problem) => {
                        let entry = self.known().and_then(|manifest| entry_of(manifest, &name));
                        found.report.corrupt.push((name, entry, problem));
                    }
                }
            }
        }
        Ok(())
    }

    /// The key files and the marker. The newest key file and the marker are mended when the vault is opened.
    fn inspect_keys(&self, report: &mut CheckReport) -> Result<(), Error> {
        let fs = self.host.fs();
        let mut note = |file: String, problem: Option<Damage>, remedy| {
            report.files.extend(problem.map(|problem| FileProblem { file, problem, remedy }));
        };
        let problem_of = |bytes: &[u8], name: Option<&str>| match KeyFile::decode(bytes) {
            Ok(key_file) if !key_file.is_authentic(&self.keyring) => Some(Damage::Tampered),
            Ok(key_file) if name.is_some_and(|name| key_file.file_name() != name) => Some(Damage::BitRot),
            Ok(_) => None,
            Err(_) => Some(Damage::BitRot),
        };
        let mut foreign = Vec::new();
        for name in fs.list(layout::KEYS).doing("looking for key files")? {
            let path = format!("{}/{name}", layout::KEYS);
            if !name.ends_with(".key") {
                foreign.push(path);
                continue;
            }
            let bytes = fs.read(&path, MAX_KEY_FILE_BYTES as u64).unwrap_or_default();
            if KeyFile::decode(&bytes).is_ok_and(|file| file.vault != self.id()) {
                foreign.push(path);
                continue;
            }
            note(path, problem_of(&bytes, Some(&name)), Remedy::Copy);
        }
        let copy = fs.read(layout::KEY_COPY, MAX_KEY_FILE_BYTES as u64);
        let problem = copy.map_or(Some(Damage::Missing), |bytes| problem_of(&bytes, None));
        note(layout::KEY_COPY.to_owned(), problem, Remedy::Reopen);
        let marker = fs.read(MARKER_NAME, MAX_MARKER_BYTES as u64).unwrap_or_default();
        let sound = marker::decode(&marker) == Ok(Marker::Vault(self.id()));
        note(MARKER_NAME.to_owned(), (!sound).then_some(Damage::BitRot), Remedy::Reopen);
        report.foreign.extend(foreign);
        Ok(())
    }

    /// This device's own state.
    fn inspect_state(&mut self, report: &mut CheckReport) -> Result<(), Error> {
        let has_mirror = {
            let manifest = self.manifest()?;
            !manifest.feeds().is_empty() || manifest.objects().any(ObjectState::is_mirrored)
        };
        let remote = match self.remote_settings() {
            Ok(Some(_)) => None,
            // That there was a mirror can still be seen from what is known of it.
            Ok(None) => has_mirror.then_some(Damage::Missing),
            Err(Error::StateDamaged { .. }) => Some(Damage::BitRot),
            Err(error) => return Err(error),
        };
        let device = (!is_at_home(&self.host, &self.keyring)).then_some(Damage::BitRot);
        let sync = (!is_readable_sync_state(&self.host, &self.keyring)?).then_some(Damage::BitRot);
        for (file, problem, remedy) in [
            (layout::REMOTE, remote, Remedy::SetRemote),
            (layout::DEVICE, device, Remedy::Reopen),
            (layout::SYNC_STATE, sync, Remedy::Sync),
        ] {
            let file = file.to_owned();
            report.files.extend(problem.map(|problem| FileProblem { file, problem, remedy }));
        }
        Ok(())
    }

    /// The cached feed segments: what the others have announced, and what a mirror that loses it is given again.
    fn inspect_feeds(&mut self, report: &mut CheckReport) -> Result<(), Error> {
        let mut intact = BTreeSet::new();
        let mut bad = BTreeSet::new();
        for file in self.cached_segments()? {
            let path = format!("{}/{file}", layout::FEEDS);
            let Some(name) = SegmentName::parse(&file) else {
                report.foreign.push(path);
                continue;
            };
            let bytes = match self.cached_segment(&file) {
                Err(Error::Io { source, .. }) if source.kind() != ErrorKind::InvalidData => {
                    return Err(source).doing("reading a cached feed");
                }
                bytes => bytes.unwrap_or_default(),
            };
            let problem = match name.matches(&bytes) {
                false => Damage::BitRot,
                true if open_segment(&self.keyring, &bytes).is_err() => Damage::Tampered,
                true => {
                    intact.insert(name);
                    continue;
                }
            };
            report.files.push(FileProblem { file: path, problem, remedy: Remedy::Copy });
            bad.insert(name);
        }
        let tips = self.manifest()?.feeds().iter().map(|(device, tip)| (*device, tip.seq));
        for (device, last) in tips.collect::<Vec<_>>() {
            // What a damaged segment held is not told twice.
            if let Some((from, to)) = first_gap(device, last, intact.iter().chain(&bad)) {
                let file = format!("{}/{device}.{from}-{to}", layout::FEEDS);
                report.files.push(FileProblem { file, problem: Damage::Missing, remedy: Remedy::Copy });
            }
        }
        Ok(())
    }
}

/// The first announcements of `device`, up to `last`, that no segment holds.
fn first_gap<'a>(
    device: DeviceId,
    last: u64,
    segments: impl Iterator<Item = &'a SegmentName> + Clone,
) -> Option<(u64, u64)> {
    let mut next = 1;
    let own = segments.filter(|name| name.device == device);
    while let Some(to) =
        own.clone().filter(|name| name.from <= next && next <= name.to).map(|name| name.to).max()
    {
        next = to + 1;
    }
    let until = own.map(|name| name.from).filter(|from| *from > next).min().map_or(last, |from| from - 1);
    (next <= last).then_some((next, until.min(last)))
}
