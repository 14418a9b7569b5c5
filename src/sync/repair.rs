//! Making damage good, both ways: what is damaged here from the mirror, a backup or what was set aside; what is damaged
//! on the mirror from here. Only the very object that is named is ever taken for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::listing::list_feeds;
use super::mirror::{KEYS, feed_path, file_path, path};
use super::scrub::{ScrubReport, Share, What, get, scrub};
use super::segments::{intact_segment, open};
use super::{Error, Options, sync};
use crate::entry::Content;
use crate::event::{Damage, Finding, Observer};
use crate::format::feed::{MAX_SEGMENT_BYTES, SegmentName};
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES};
use crate::format::marker::{self, MARKER_NAME};
use crate::host::Host;
use crate::id::{EntryId, ObjectName, VersionId};
use crate::manifest::{ObjectState, Record, Subject};
use crate::remote::{Remote, RemotePath};
use crate::vault::{self, Backup, Change, CheckReport, Edit, Remedy, Store, Vault};
use crate::version::{Kind, MadeOn};

/// How to repair.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepairOptions {
    /// Change nothing; say what would be done.
    pub dry_run: bool,
    /// Stop if the mirror cannot be asked, instead of going on without it.
    pub needs_mirror: bool,
    /// Where an entry's newest version exists nowhere any more, make the newest readable older one the newest.
    pub revert: bool,
}

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// An object of this vault.
    Object(ObjectName),
    /// Another file of this vault.
    File(String),
    /// A file on the mirror.
    Mirror(String),
}

/// Where an intact copy was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// On the mirror.
    Mirror,
    /// In this vault: another encoding of the same version.
    Encoding,
    /// In quarantine: it was intact after all.
    Quarantine,
    /// In the backup.
    Backup,
    /// In this vault, for the mirror.
    Vault,
}

/// What was made good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// What.
    pub thing: Thing,
    /// The entry it belongs to, if that is known.
    pub entry: Option<EntryId>,
    /// From where.
    pub source: Source,
}

/// What could not be made good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrepaired {
    /// What.
    pub thing: Thing,
    /// The entry it belongs to, if that is known.
    pub entry: Option<EntryId>,
    /// What is wrong with it.
    pub problem: String,
    /// Whether the version of the entry that is shown needs it.
    pub current: bool,
    /// The newest older version of the entry that can be read, and when it was written.
    pub readable: Option<(VersionId, i64)>,
    /// What puts a file other than an object right.
    pub remedy: Option<Remedy>,
}

/// An entry whose newest version is lost, and what was made the newest instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reverted {
    /// The entry.
    pub entry: EntryId,
    /// The version whose content it has now, and when that was written; `None` if it was deleted, and is again.
    pub to: Option<(VersionId, i64)>,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Made good.
    pub repaired: Vec<Repaired>,
    /// Not made good.
    pub unrepaired: Vec<Unrepaired>,
    /// Entries of which an older version was made the newest.
    pub reverted: Vec<Reverted>,
}

/// A version, and when it was written.
type Written = (VersionId, i64);

/// What is wrong on both sides, and what has been found to help.
struct Work<'a> {
    found: CheckReport,
    scrubbed: ScrubReport,
    backup: Option<&'a Backup>,
    sources: BTreeMap<Thing, Source>,
    dry_run: bool,
}

/// Looks at everything here and on the mirror, and makes good what can be: see [`RepairOptions`]. Ends with an ordinary
/// sync if the mirror has something to give or to get.
pub async fn repair<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: Option<&R>,
    backup: Option<&Backup>,
    options: RepairOptions,
    observer: &mut dyn Observer,
) -> Result<RepairReport, Error> {
    let dry_run = options.dry_run;
    let found = if dry_run { vault.inspect()?.report } else { vault.check()? };
    let mut work =
        Work { found, scrubbed: ScrubReport::default(), backup, sources: BTreeMap::new(), dry_run };
    if let Some(remote) = remote {
        let result = work.with_mirror(vault, remote, observer).await;
        match result {
            Err(error @ (Error::Remote(_) | Error::Guard(_))) if !options.needs_mirror => {
                observer.finding(Finding::Postponed { reason: format!("without the mirror: {error}") });
            }
            result => result?,
        }
    }
    work.try_copies(vault)?;
    work.note_encodings(vault)?;
    let mut report = RepairReport::default();
    if options.revert {
        report.reverted = work.revert(vault)?;
    }
    work.conclude(vault, &mut report)?;
    Ok(report)
}

impl Work<'_> {
    /// The damaged and missing objects of this vault that nothing has been found for yet.
    fn wanted(&self) -> Vec<ObjectName> {
        let corrupt = self.found.corrupt.iter().map(|(object, ..)| *object);
        let missing = self.found.missing.iter().map(|(object, _)| *object);
        let wanted = corrupt.chain(missing);
        wanted.filter(|object| !self.sources.contains_key(&Thing::Object(*object))).collect()
    }

    async fn with_mirror<H: Host, R: Remote>(
        &mut self,
        vault: &mut Vault<H>,
        remote: &R,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        self.scrubbed = scrub(vault, remote, Share::ALL).await?;
        self.mend_files(vault, remote).await?;
        // What the mirror has not either must come from elsewhere first, so that it can be sent there.
        let bad = self.scrubbed.bad.iter().map(|bad| bad.file.clone()).collect::<BTreeSet<_>>();
        let manifest = vault.manifest()?;
        let is_there = |object: &ObjectName| {
            let at = manifest.object(object).and_then(ObjectState::mirrored);
            at.is_some_and(|at| !bad.contains(file_path(&at).as_str()))
        };
        let (there, elsewhere) = self.wanted().into_iter().partition::<Vec<_>, _>(is_there);
        for object in elsewhere {
            self.try_copy(vault, object)?;
        }
        if self.dry_run {
            let from_mirror = there.iter().map(|object| (Thing::Object(*object), Source::Mirror));
            self.sources.extend(from_mirror);
        }
        self.mend_mirror(vault, remote).await?;
        let lost = self.forget_bad_places(vault)?;
        let unknown_state = self.found.files.iter().any(|problem| problem.remedy == Remedy::Sync);
        if !self.dry_run && (!there.is_empty() || !lost.is_empty() || unknown_state) {
            sync(vault, remote, Options::default(), observer).await?;
        }
        let manifest = vault.manifest()?;
        let healed = there.into_iter().filter(|object| manifest.object(object).is_some_and(|o| o.here));
        self.sources.extend(healed.map(|object| (Thing::Object(object), Source::Mirror)));
        for bad in &self.scrubbed.bad {
            let What::Objects(objects) = &bad.what else { continue };
            let states = || objects.iter().filter_map(|object| manifest.object(object));
            let sent = match self.dry_run {
                true => bad.here && !objects.iter().any(|object| self.is_damaged_here(object)),
                false => {
                    states()
                        .all(|state| state.mirrored().is_some_and(|at| file_path(&at).as_str() != bad.file))
                        || states().all(|state| lost.contains(&state.row.object) && state.is_mirrored())
                }
            };
            if sent {
                self.sources.insert(Thing::Mirror(bad.file.clone()), Source::Vault);
            }
        }
        Ok(())
    }

    fn is_damaged_here(&self, object: &ObjectName) -> bool {
        self.found.corrupt.iter().any(|(name, ..)| name == object)
            || self.found.missing.iter().any(|(name, _)| name == object)
    }

    /// Key files and cached feed segments of this vault, from the mirror.
    async fn mend_files<H: Host, R: Remote>(
        &mut self,
        vault: &mut Vault<H>,
        remote: &R,
    ) -> Result<(), Error> {
        let wanted = self.found.files.iter().filter(|it| it.remedy == Remedy::Copy).map(|it| it.file.clone());
        let wanted = wanted.collect::<Vec<_>>();
        if wanted.is_empty() {
            return Ok(());
        }
        let listing = list_feeds(remote).await?;
        for file in wanted {
            let healed = match file.strip_prefix("keys/") {
                Some(name) => match RemotePath::new(&format!("{KEYS}/{name}")) {
                    Some(at) => {
                        let bytes = get(remote, &at, MAX_KEY_FILE_BYTES).await?.unwrap_or_default();
                        self.mend_key(vault, name, &bytes)?
                    }
                    None => false,
                },
                None => self.mend_feed(vault, remote, &file, &listing.segments).await?,
            };
            if healed {
                self.sources.insert(Thing::File(file), Source::Mirror);
            }
        }
        Ok(())
    }

    fn mend_key<H: Host>(&self, vault: &Vault<H>, name: &str, bytes: &[u8]) -> Result<bool, Error> {
        let sound = KeyFile::decode(bytes)
            .is_ok_and(|key_file| key_file.file_name() == name && key_file.is_authentic(vault.keyring()));
        if sound && !self.dry_run {
            vault.put_key_file(name, bytes)?;
        }
        Ok(sound)
    }

    /// Fetches the segments that hold the announcements a damaged or missing one held.
    async fn mend_feed<H: Host, R: Remote>(
        &self,
        vault: &mut Vault<H>,
        remote: &R,
        file: &str,
        listed: &BTreeMap<SegmentName, Option<u64>>,
    ) -> Result<bool, Error> {
        let damaged = file.rsplit('/').next().unwrap_or_default();
        // A gap is named like a segment without its hash.
        let range = SegmentName::parse(damaged)
            .or_else(|| SegmentName::parse(&format!("{damaged}.{}", "0".repeat(16))));
        let Some(range) = range else { return Ok(false) };
        let mut held = BTreeSet::new();
        let fits = |name: &&SegmentName| {
            name.device == range.device && name.from <= range.to && range.from <= name.to
        };
        for name in listed.keys().filter(fits) {
            let bytes = match intact_segment(vault, name) {
                Some(bytes) => Some(bytes),
                None => get(remote, &feed_path(name), MAX_SEGMENT_BYTES).await?,
            };
            let Some(bytes) = bytes.filter(|bytes| open(vault, name, bytes).is_ok()) else { continue };
            held.extend(name.from.max(range.from)..=name.to.min(range.to));
            if !self.dry_run {
                vault.cache_segments(&BTreeMap::from([(name.to_string(), bytes)]))?;
            }
        }
        let whole = (range.from..=range.to).all(|seq| held.contains(&seq));
        if whole && !self.dry_run && intact_segment(vault, &range).is_none() {
            vault.drop_cached_segment(damaged)?;
        }
        Ok(whole)
    }

    /// The mirror's marker, key files and feed segments, from this vault.
    async fn mend_mirror<H: Host, R: Remote>(&mut self, vault: &Vault<H>, remote: &R) -> Result<(), Error> {
        let key_files = vault.key_files()?.into_iter().collect::<BTreeMap<_, _>>();
        for bad in &self.scrubbed.bad {
            let copy = match &bad.what {
                What::Marker => Some((path(MARKER_NAME), marker::encode(vault.id()))),
                What::Key(name) => key_files.get(name).map(|bytes| (path(&bad.file), bytes.clone())),
                What::Segment(name) => intact_segment(vault, name).map(|bytes| (feed_path(name), bytes)),
                What::Objects(_) => None,
            };
            let Some((at, bytes)) = copy else { continue };
            if !self.dry_run {
                remote.put(&at, Bytes::from(bytes)).await?;
            }
            self.sources.insert(Thing::Mirror(bad.file.clone()), Source::Vault);
        }
        Ok(())
    }

    /// Notes that what this vault has of the mirror's bad files is not there, so that the sync sends it again.
    fn forget_bad_places<H: Host>(&self, vault: &mut Vault<H>) -> Result<BTreeSet<ObjectName>, Error> {
        let manifest = vault.manifest()?;
        let objects = self.scrubbed.bad.iter().filter_map(|bad| match &bad.what {
            What::Objects(objects) => Some(objects),
            _ => None,
        });
        let here = objects.flatten().filter(|object| manifest.object(object).is_some_and(|o| o.here));
        let lost = here.copied().collect::<BTreeSet<_>>();
        if !self.dry_run {
            vault.record(&lost.iter().map(|object| Record::NotMirrored(*object)).collect::<Vec<_>>())?;
        }
        Ok(lost)
    }

    /// Objects and key files from what was set aside, and from the backup.
    fn try_copies<H: Host>(&mut self, vault: &mut Vault<H>) -> Result<(), Error> {
        for object in self.wanted() {
            self.try_copy(vault, object)?;
        }
        let Some(backup) = self.backup else { return Ok(()) };
        for problem in self.found.files.clone() {
            let thing = Thing::File(problem.file.clone());
            let Some(name) = problem.file.strip_prefix("keys/") else { continue };
            if let Some(bytes) = backup.file(&problem.file)
                && !self.sources.contains_key(&thing)
                && self.mend_key(vault, name, &bytes)?
            {
                self.sources.insert(thing, Source::Backup);
            }
        }
        Ok(())
    }

    fn try_copy<H: Host>(&mut self, vault: &mut Vault<H>, object: ObjectName) -> Result<(), Error> {
        let set_aside = vault.quarantined(&object).into_iter().map(|bytes| (Source::Quarantine, bytes));
        let backup = self.backup.and_then(|backup| backup.object(&object));
        let copies = set_aside.chain(backup.map(|bytes| (Source::Backup, bytes)));
        for (source, bytes) in copies {
            let fits = match self.dry_run {
                true => vault.is_copy_of(&object, &bytes),
                false => vault.take_back(&object, &bytes)?,
            };
            if fits {
                self.sources.insert(Thing::Object(object), source);
                break;
            }
        }
        Ok(())
    }

    /// Damaged objects that nobody needs, because another encoding of the same version is intact.
    fn note_encodings<H: Host>(&mut self, vault: &mut Vault<H>) -> Result<(), Error> {
        let wanted = self.wanted();
        let manifest = vault.manifest()?;
        let superseded = wanted.into_iter().filter(|object| {
            let others =
                manifest.object(object).into_iter().flat_map(|state| manifest.other_encodings(state));
            others.filter(|other| !self.is_damaged_here(&other.row.object)).any(|other| other.here)
        });
        let superseded =
            superseded.map(|object| (Thing::Object(object), Source::Encoding)).collect::<Vec<_>>();
        self.sources.extend(superseded);
        Ok(())
    }

    /// Entries whose shown version is lost: the newest readable older version becomes the newest, on top of all.
    fn revert<H: Host>(&self, vault: &mut Vault<H>) -> Result<Vec<Reverted>, Error> {
        let lost = self.wanted().into_iter().collect::<BTreeSet<_>>();
        let manifest = vault.manifest()?;
        let entries = lost.iter().filter_map(|object| match &manifest.object(object)?.row.subject {
            Subject::Version(version) => Some((version.entry, version.clone())),
            Subject::Part => None,
        });
        let is_current =
            |entry, id| manifest.resolve(entry).is_some_and(|resolved| resolved.current.id == id);
        let entries = entries.filter(|(entry, version)| is_current(*entry, version.id)).collect::<Vec<_>>();
        let mut reverted = Vec::new();
        for (entry, version) in entries {
            let (to, change) = match version.kind {
                Kind::Tombstone => (None, Change::Delete),
                Kind::Live => match newest_readable(vault, entry, &lost)? {
                    Some((version, content)) => (Some(version), Change::Content(content)),
                    None => continue,
                },
            };
            if !self.dry_run {
                vault.save(&[Edit { entry: Some(entry), made_on: MadeOn::Everything, change }])?;
            }
            reverted.push(Reverted { entry, to });
        }
        Ok(reverted)
    }

    /// Looks again: what is still wrong was not repaired, whatever was tried.
    fn conclude<H: Host>(&self, vault: &mut Vault<H>, report: &mut RepairReport) -> Result<(), Error> {
        let now = if self.dry_run { self.found.clone() } else { vault.inspect()?.report };
        let problems = |found: &CheckReport| {
            let corrupt = found.corrupt.iter().map(|(object, entry, problem)| (*object, *entry, *problem));
            let missing = found.missing.iter().map(|(object, entry)| (*object, *entry, Damage::Missing));
            corrupt.chain(missing).collect::<Vec<_>>()
        };
        let still = problems(&now).into_iter().map(|(object, ..)| object).collect::<BTreeSet<_>>();
        for (object, entry, problem) in problems(&self.found) {
            let thing = Thing::Object(object);
            match self.sources.get(&thing) {
                Some(source) if self.dry_run || !still.contains(&object) => {
                    report.repaired.push(Repaired { thing, entry, source: *source });
                }
                _ => report.unrepaired.push(self.unrepaired(vault, object, entry, problem)?),
            }
        }
        for problem in &self.found.files {
            let thing = Thing::File(problem.file.clone());
            match self.sources.get(&thing) {
                Some(source) if self.dry_run || !now.files.iter().any(|it| it.file == problem.file) => {
                    report.repaired.push(Repaired { thing, entry: None, source: *source });
                }
                // A sync has made it again on the way.
                None if !now.files.iter().any(|it| it.file == problem.file) => {
                    report.repaired.push(Repaired { thing, entry: None, source: Source::Vault });
                }
                _ => report.unrepaired.push(Unrepaired {
                    thing,
                    entry: None,
                    problem: problem.problem.to_string(),
                    current: false,
                    readable: None,
                    remedy: Some(problem.remedy),
                }),
            }
        }
        for bad in &self.scrubbed.bad {
            let thing = Thing::Mirror(bad.file.clone());
            let entry = bad.entries.first().copied();
            match self.sources.get(&thing) {
                Some(source) => report.repaired.push(Repaired { thing, entry, source: *source }),
                None => report.unrepaired.push(Unrepaired {
                    thing,
                    entry,
                    problem: bad.problem.clone(),
                    current: false,
                    readable: None,
                    remedy: None,
                }),
            }
        }
        Ok(())
    }

    fn unrepaired<H: Host>(
        &self,
        vault: &mut Vault<H>,
        object: ObjectName,
        entry: Option<EntryId>,
        problem: Damage,
    ) -> Result<Unrepaired, Error> {
        let manifest = vault.manifest()?;
        let shown = entry.and_then(|entry| manifest.resolve(entry)).map(|resolved| resolved.current.id);
        let shown = shown.and_then(|id| manifest.version(id));
        let current = shown.is_some_and(|state| {
            state.objects.contains(&object)
                || state.summary.as_ref().is_some_and(|summary| summary.parts.contains(&object))
        });
        let readable = match entry.filter(|_| current) {
            Some(entry) => {
                let lost = self.wanted().into_iter().collect();
                newest_readable(vault, entry, &lost)?.map(|(version, _)| version)
            }
            None => None,
        };
        let thing = Thing::Object(object);
        Ok(Unrepaired { thing, entry, problem: problem.to_string(), current, readable, remedy: None })
    }
}

/// The newest live version of `entry` of which nothing is among the `lost`.
fn newest_readable<H: Host>(
    vault: &mut Vault<H>,
    entry: EntryId,
    lost: &BTreeSet<ObjectName>,
) -> Result<Option<(Written, Content)>, Error> {
    for state in vault.history(entry)? {
        let manifest = vault.manifest()?;
        let is_here =
            |object: &ObjectName| !lost.contains(object) && manifest.object(object).is_some_and(|o| o.here);
        let parts = state.summary.iter().flat_map(|summary| &summary.parts);
        let encoding = manifest.encoding_here(state.version.id, u32::MAX);
        let whole =
            encoding.is_some_and(|encoding| is_here(&encoding.row.object)) && parts.clone().all(is_here);
        if !whole || state.version.kind == Kind::Tombstone {
            continue;
        }
        match vault.content(state.version.id) {
            Ok(Some(content)) => {
                return Ok(Some(((state.version.id, state.version.dot.updated_at), content)));
            }
            Ok(None)
            | Err(vault::Error::Damaged { .. } | vault::Error::NewerSchema | vault::Error::Pending) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
