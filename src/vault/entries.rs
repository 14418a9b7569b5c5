//! Entries: saving, finding, reading, and their history.

use std::sync::Arc;

use super::objects::{OPENED_PER_THREAD, named};
use super::{Error, Vault};
use crate::clock::Clock;
use crate::crypto::{Purpose, Salt};
use crate::entry::{Content, MAX_TITLE_BYTES, SCHEMA};
use crate::event::Damage;
use crate::format::object::{Object, open_version, seal_version_with};
use crate::host::Host;
use crate::id::{EntryId, ObjectName, VersionId};
use crate::manifest::{Manifest, Summary, VersionState};
use crate::parallel;
use crate::version::{Kind, MadeOn, Version, succeed};

/// Ids are found by their first digits, but not by fewer than this.
const MIN_PREFIX_LEN: usize = 4;

/// A thread is worth its start for no fewer.
const SEALS_PER_THREAD: usize = 16;

/// What an entry is, is found in so little time that it takes as many.
const STATES_PER_THREAD: usize = 512;

/// An entry as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryState {
    /// The version that is shown.
    pub version: Version,
    /// What the list shows: of the newest live version, if the entry is deleted.
    pub summary: Summary,
    /// Length of the sealed object, bytes.
    pub object_len_bytes: u32,
    /// Schema the current version is read in; if this program can read it in none, the newest it is stored in.
    pub schema: u32,
    /// Versions that lost a conflict nobody resolved yet, newest first.
    pub losers: Vec<VersionId>,
}

impl EntryState {
    /// The entry.
    pub fn id(&self) -> EntryId {
        self.version.entry
    }

    /// Whether the version that is shown is a tombstone.
    pub fn deleted(&self) -> bool {
        self.version.kind == Kind::Tombstone
    }
}

/// One change to make.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Which entry; `None` for a new one.
    pub entry: Option<EntryId>,
    /// What the change is made on.
    pub made_on: MadeOn,
    /// New content, or deletion.
    pub change: Change,
}

/// What an entry becomes.
#[derive(Debug, Clone)]
pub enum Change {
    /// It has this content.
    Content(Content),
    /// It is deleted.
    Delete,
}

/// A version just saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The entry.
    pub entry: EntryId,
    /// Its new version.
    pub version: VersionId,
    /// Title of a live version.
    pub title: String,
}

/// How a person names an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Live entries only, for reading and editing.
    Live,
    /// Deleted ones too, for history.
    Any,
}

impl<H: Host> Vault<H> {
    /// Saves changes, all of them durably or none: each becomes a new version.
    ///
    /// New entries cost the same in a vault of any size: the manifest is not read for them.
    pub fn save(&mut self, edits: &[Edit]) -> Result<Vec<Saved>, Error> {
        for edit in edits {
            if let Change::Content(content) = &edit.change {
                check_content(content)?;
            }
        }
        let _lock = self.lock()?;
        let only_new = edits.iter().all(|edit| edit.entry.is_none()) && self.known().is_none();
        if !only_new {
            self.refresh_locked()?;
        }
        let now_ms = self.host.clock().now_ms();
        let mut unsealed = Vec::with_capacity(edits.len());
        let mut saved = Vec::with_capacity(edits.len());
        for edit in edits {
            let entropy = self.host.entropy();
            let entry = edit.entry.map_or_else(|| EntryId::random(entropy), Ok)?;
            let versions = match (edit.entry, self.known()) {
                (Some(entry), Some(manifest)) => {
                    manifest.versions_of(entry).map(|state| &*state.version).collect()
                }
                _ => Vec::new(),
            };
            let elsewhere = self.known().map_or_else(Vec::new, |manifest| manifest.unopened_dots(entry));
            let (dot, context) = succeed(&versions, &elsewhere, edit.made_on, self.device.id, now_ms);
            let (kind, content) = match &edit.change {
                Change::Content(content) => (Kind::Live, Some(content)),
                Change::Delete => (Kind::Tombstone, None),
            };
            let version = Version { entry, id: VersionId::random(entropy)?, dot, context, kind };
            let title = content.map_or_else(String::new, |content| content.title.clone());
            saved.push(Saved { entry, version: version.id, title });
            unsealed.push((version, content, Salt::draw(entropy)?));
        }
        let keyring = &self.keyring;
        let sealed = parallel::map(unsealed, SEALS_PER_THREAD, |(version, content, salt)| {
            seal_version_with(keyring, &version, content, salt)
        });
        let objects = sealed.into_iter().collect::<Result<Vec<Object>, _>>()?;
        self.store_locked(&objects)?;
        // Saved is saved: numbers that cannot be written (a full disk) are put right by the next change.
        let _ = match only_new {
            true => self.count_added(objects.len() as u64, objects.len() as u64),
            false => self.write_status(),
        };
        Ok(saved)
    }

    /// The id of the entry that is made of a text from elsewhere: the same each time, and telling nobody what it was.
    pub fn entry_of_source(&self, kind: &str, name: &str) -> EntryId {
        let first = self.keyring.masters().keys().next().copied().unwrap_or_default();
        let key = self.keyring.derive(Purpose::Import, first).expect("a keyring has a key");
        let mac = key.mac(&[kind.as_bytes(), &[0], name.as_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&mac[..16]);
        EntryId::from_bytes(id)
    }

    /// Every entry, the newest (by the date it carries) first; deleted ones last.
    pub fn entries(&mut self) -> Result<Vec<EntryState>, Error> {
        let manifest = self.manifest()?;
        let ids = manifest.entry_ids().collect();
        let mut entries = parallel::filter_map(ids, STATES_PER_THREAD, |id| entry_state(manifest, id));
        // Moved once each: they are large.
        entries.sort_by_cached_key(|entry| {
            let newest = (entry.summary.created, entry.version.dot.updated_at, entry.id());
            (entry.deleted(), std::cmp::Reverse(newest))
        });
        Ok(entries)
    }

    /// One entry.
    pub fn entry(&mut self, id: EntryId) -> Result<EntryState, Error> {
        entry_state(self.manifest()?, id).ok_or_else(|| not_found("entry", &id.to_string()))
    }

    /// The entry a person means by `text`: the first digits of its id, `@` for the newest, `@-1` for the one before.
    pub fn find(&mut self, text: &str, lookup: Lookup) -> Result<EntryId, Error> {
        if let Some(back) = text.strip_prefix('@') {
            let back = match back {
                "" => Some(0),
                back => back.strip_prefix('-').and_then(|digits| digits.parse::<usize>().ok()),
            };
            let live = self.entries()?.into_iter().filter(|entry| !entry.deleted());
            let found = back.and_then(|back| live.map(|entry| entry.id()).nth(back));
            return found.ok_or_else(|| not_found("entry", text));
        }
        let manifest = self.manifest()?;
        let wanted = |id: &EntryId| {
            let resolved = manifest.resolve(*id);
            resolved.is_some_and(|it| lookup == Lookup::Any || it.current.kind == Kind::Live)
        };
        by_prefix("entry", text, manifest.entry_ids().filter(wanted))
    }

    /// The version of `entry` a person means by `text`.
    pub fn find_version(&mut self, entry: EntryId, text: &str) -> Result<VersionId, Error> {
        let versions = self.manifest()?.versions_of(entry).map(|state| state.version.id);
        by_prefix("version", text, versions)
    }

    /// Every known version of `entry`, newest first.
    pub fn history(&mut self, entry: EntryId) -> Result<Vec<VersionState>, Error> {
        let mut versions = self.manifest()?.versions_of(entry).cloned().collect::<Vec<_>>();
        versions.sort_by_key(|state| {
            let version = &state.version;
            std::cmp::Reverse((version.dot.updated_at, version.dot.device, version.id))
        });
        Ok(versions)
    }

    /// The content of a version, every check passed; `None` for a tombstone.
    pub fn content(&mut self, version: VersionId) -> Result<Option<Content>, Error> {
        self.contents(&[version])?.pop().expect("one for one")
    }

    /// The contents of many versions at once, in their order, each as by [`content`](Self::content).
    pub fn contents(&mut self, versions: &[VersionId]) -> Result<Vec<Result<Option<Content>, Error>>, Error> {
        let manifest = self.manifest()?;
        let mut contents = Vec::with_capacity(versions.len());
        let mut sealed = Vec::new();
        for version in versions {
            match sealed_in(manifest, *version) {
                Ok(Some(it)) => {
                    sealed.push((contents.len(), it));
                    contents.push(Ok(None));
                }
                other => contents.push(other.map(|_| None)),
            }
        }
        let names = sealed.iter().map(|(_, (_, object))| *object).collect::<Vec<_>>();
        let files = self.read_objects(&names)?;
        let keyring = &self.keyring;
        let read = sealed.into_iter().zip(files).collect::<Vec<_>>();
        let opened = parallel::map(read, OPENED_PER_THREAD, |((at, (version, object)), file)| {
            let content = file.and_then(|bytes| match open_version(keyring, &named(&object, bytes)?) {
                Ok(opened) if opened.version == *version => Ok(opened.content),
                Ok(_) | Err(_) => Err(Damage::Tampered),
            });
            (at, object, content)
        });
        for (at, object, content) in opened {
            contents[at] = content.map_err(|problem| self.damaged(object, problem));
        }
        Ok(contents)
    }
}

/// The version as it is known, and the object to read it from; `None` if it is a tombstone without one.
fn sealed_in(manifest: &Manifest, id: VersionId) -> Result<Option<(Arc<Version>, ObjectName)>, Error> {
    let state = manifest.version(id).ok_or_else(|| not_found("version", &id.to_string()))?;
    match manifest.encoding_here(id, SCHEMA) {
        Some(object) => return Ok(Some((state.version.clone(), object.row.object))),
        None if manifest.encoding_here(id, u32::MAX).is_some() => return Err(Error::NewerSchema),
        None if manifest.is_buried(id) => return Ok(None),
        None => {}
    }
    let lost = |name: &&ObjectName| manifest.object(name).is_some_and(|object| object.was_here);
    match state.objects.iter().find(lost) {
        Some(object) => {
            let entry = Some(state.version.entry);
            Err(Error::Damaged { entry, object: *object, problem: Damage::Missing })
        }
        None => Err(Error::Pending),
    }
}

fn check_content(content: &Content) -> Result<(), Error> {
    if content.title.len() > MAX_TITLE_BYTES {
        return Err(Error::Invalid(format!(
            "the title has {} bytes; at most {MAX_TITLE_BYTES} fit",
            content.title.len()
        )));
    }
    let mut names = content.attachments.iter().map(|attachment| &attachment.name).collect::<Vec<_>>();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::Invalid(format!("two attachments are called {:?}", pair[0]))),
        None => Ok(()),
    }
}

fn entry_state(manifest: &Manifest, id: EntryId) -> Option<EntryState> {
    let resolved = manifest.resolve(id)?;
    let version = resolved.current.clone();
    let state = manifest.version(version.id)?;
    let summary = state.summary.clone().or_else(|| manifest.newest_live(id)?.summary.clone());
    let newest =
        || state.objects.iter().filter_map(|name| manifest.object(name)).max_by_key(|o| o.row.schema);
    let object = manifest.encoding_here(version.id, SCHEMA).or_else(newest);
    // Of a deletion that is told by the feeds alone there is nothing to show, unless something else stands beside it.
    let nothing_left =
        || resolved.losers.is_empty() && manifest.versions_of(id).all(|it| it.objects.is_empty());
    if object.is_none() && (!manifest.is_buried(version.id) || nothing_left()) {
        return None;
    }
    // One that only a newer program can read stands where it was written.
    let created = version.dot.updated_at;
    let summary = summary.unwrap_or_else(|| Summary { created, ..Summary::default() });
    Some(EntryState {
        version,
        summary,
        object_len_bytes: object.map_or(0, |object| object.row.len_bytes),
        schema: object.map_or(SCHEMA, |object| object.row.schema),
        losers: resolved.losers.iter().map(|loser| loser.id).collect(),
    })
}

pub(super) fn by_prefix<T: Copy + Ord + std::fmt::Display>(
    what: &'static str,
    text: &str,
    ids: impl Iterator<Item = T>,
) -> Result<T, Error> {
    let prefix = text.to_ascii_lowercase();
    if prefix.len() < MIN_PREFIX_LEN || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(not_found(what, text));
    }
    let mut found = ids.filter(|id| id.to_string().starts_with(&prefix)).collect::<Vec<_>>();
    found.sort_unstable();
    match found[..] {
        [] => Err(not_found(what, text)),
        [one] => Ok(one),
        _ => {
            let candidates = found.iter().take(8).map(ToString::to_string).collect();
            Err(Error::Ambiguous { id: text.to_owned(), candidates })
        }
    }
}

fn not_found(what: &'static str, id: &str) -> Error {
    Error::NotFound { what, id: id.to_owned() }
}
