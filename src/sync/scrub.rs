//! Looking at what is on the mirror: that every file known to be there is, and that its bytes are those its name
//! promises. Changes nothing there, and here only remembers how far a sample came.

use std::collections::{BTreeMap, BTreeSet};

use super::listing::{Listing, list_feeds};
use super::mirror::{FEEDS, KEYS, MirrorFile, MirrorMarker, file_path, look_at, path, read_marker};
use super::segments;
use super::{Error, Guard, makes_no_sense};
use crate::clock::Clock;
use crate::format::feed::{MAX_SEGMENT_BYTES, SegmentName};
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES};
use crate::format::marker::MARKER_NAME;
use crate::host::Host;
use crate::id::{EntryId, ObjectName};
use crate::manifest::{Location, Subject};
use crate::remote::{Remote, RemoteError, RemoteErrorKind, RemotePath};
use crate::vault::{Store, Vault};

const MISSING: &str = "missing";
const DAMAGED: &str = "damaged (its bytes are not those its name promises)";

/// How much of the mirror's object files to read, in hundredths of a percent. Everything else is looked at whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(10_000);

    /// From a percentage; `None` unless it is above 0 and at most 100.
    pub fn percent(percent: f64) -> Option<Self> {
        let hundredths = (percent * 100.0).round();
        (1.0..=10_000.0).contains(&hundredths).then_some(Self(hundredths as u32))
    }

    /// How many of `count` files.
    fn of(self, count: usize) -> usize {
        (count as u64 * u64::from(self.0)).div_ceil(10_000) as usize
    }
}

/// What was seen on the mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Files read whole.
    pub files: u64,
    /// Files there should be.
    pub known: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is not as it should be.
    pub bad: Vec<BadFile>,
}

/// A file that is damaged or not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFile {
    /// Its path on the mirror.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
    /// What it is.
    pub what: What,
    /// Entries with something in it.
    pub entries: BTreeSet<EntryId>,
    /// Whether this device has all that was in it.
    pub here: bool,
}

/// What a file on the mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `espejo.json`.
    Marker,
    /// A key file.
    Key(String),
    /// A feed segment.
    Segment(SegmentName),
    /// An object or a pack, by the objects in it.
    Objects(Vec<ObjectName>),
}

impl BadFile {
    /// Whether it is not there at all, as far as can be told.
    pub fn is_missing(&self) -> bool {
        self.problem.starts_with(MISSING)
    }
}

/// Looks at the mirror: at its marker, its key files and feeds, for every object file by name and length, and at the
/// bytes of a `share` of them. A smaller share goes on where the last one stopped, in the order of the names, so that
/// repeated ones cover everything.
pub async fn scrub<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    share: Share,
) -> Result<ScrubReport, Error> {
    let _one_at_a_time = vault.sync_lock()?;
    let before = remote.traffic().bytes_down;
    let listing = list_feeds(remote).await?;
    let mut report = ScrubReport::default();
    scrub_marker(vault, remote, &listing, &mut report).await?;
    scrub_keys(vault, remote, &mut report).await?;
    scrub_feeds(vault, remote, &listing, &mut report).await?;
    scrub_objects(vault, remote, share, &mut report).await?;
    report.bytes = remote.traffic().bytes_down - before;
    Ok(report)
}

/// A mirror that shows its feeds and no marker has lost a file; one that shows neither is not there.
async fn scrub_marker<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    listing: &Listing,
    report: &mut ScrubReport,
) -> Result<(), Error> {
    let problem = match read_marker(remote).await {
        Ok(MirrorMarker::Of(id)) if id == vault.id() => None,
        Ok(MirrorMarker::Of(id)) => return Err(Guard::OtherVault(id).into()),
        Ok(MirrorMarker::Missing) if listing.segments.is_empty() => return Err(Guard::MirrorGone.into()),
        Ok(MirrorMarker::Missing) => Some(MISSING),
        Ok(MirrorMarker::Damaged) => Some("damaged"),
        Err(error) => return Err(error),
    };
    report.note(MARKER_NAME.to_owned(), problem, What::Marker, true);
    Ok(())
}

async fn scrub_keys<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    report: &mut ScrubReport,
) -> Result<(), Error> {
    let own = vault.key_files()?.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    let listing = remote.list(&path(KEYS)).await?.unwrap_or_default();
    let listed = listing.items.into_iter().map(|item| item.name).filter(|name| name.ends_with(".key"));
    // What was joined into the one in force may have been removed there already.
    let expected = listed.chain([vault.key_file()?.file_name()]).collect::<BTreeSet<_>>();
    for name in &expected {
        let file = format!("{KEYS}/{name}");
        let Some(at) = RemotePath::new(&file) else { continue };
        let problem = match get(remote, &at, MAX_KEY_FILE_BYTES).await? {
            Some(bytes) => match KeyFile::decode(&bytes) {
                Ok(it) if it.file_name() != *name => Some(DAMAGED),
                // A rekey that has not arrived here yet.
                Ok(it) if it.epoch > vault.keyring().current_epoch() => None,
                Ok(it) if !it.is_authentic(vault.keyring()) => {
                    Some("not made by a holder of this vault's key")
                }
                Ok(_) => None,
                Err(_) => Some("damaged"),
            },
            None => Some(MISSING),
        };
        report.note(file, problem, What::Key(name.clone()), own.contains(name));
    }
    Ok(())
}

/// The segments that are shown, and those that are known here and neither shown nor repeated by one that is.
async fn scrub_feeds<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    listing: &Listing,
    report: &mut ScrubReport,
) -> Result<(), Error> {
    let cached = segments::segment_names(vault)?;
    let is_here = |name: &SegmentName| segments::intact_segment(vault, name).is_some();
    let mut intact = BTreeSet::new();
    let mut damaged = Vec::new();
    for name in listing.segments.keys() {
        let problem = match get(remote, &super::mirror::feed_path(name), MAX_SEGMENT_BYTES).await? {
            Some(bytes) => segments::open(vault, name, &bytes).err(),
            // It was listed a moment ago: merged away since.
            None => continue,
        };
        match problem {
            Some(problem) => damaged.push((name, problem)),
            None => {
                intact.insert(name);
            }
        }
    }
    for (name, problem) in damaged {
        // One that another repeats is in nobody's way; its device removes it.
        let problem = Some(problem).filter(|_| !intact.iter().any(|other| other.repeats(name)));
        let file = format!("{FEEDS}/{name}");
        report.note(file, problem.as_deref(), What::Segment(name.clone()), is_here(name));
    }
    for name in intact {
        report.note(format!("{FEEDS}/{name}"), None, What::Segment(name.clone()), true);
    }
    let is_shown = |name: &SegmentName, seq| {
        let mut shown = listing.segments.keys();
        shown.any(|other| other.device == name.device && other.from <= seq && seq <= other.to)
    };
    for name in cached.iter().filter(|name| !(name.from..=name.to).all(|seq| is_shown(name, seq))) {
        let file = format!("{FEEDS}/{name}");
        report.note(file, Some(MISSING), What::Segment(name.clone()), is_here(name));
    }
    Ok(())
}

async fn scrub_objects<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    share: Share,
    report: &mut ScrubReport,
) -> Result<(), Error> {
    let mut state = vault.sync_state()?;
    let manifest = vault.manifest()?;
    let mut files = BTreeMap::<MirrorFile, Location>::new();
    let mut content = BTreeMap::<MirrorFile, Vec<ObjectName>>::new();
    for object in manifest.objects() {
        let Some(at) = object.mirrored() else { continue };
        let file = ((at.writer, at.batch), at.file);
        files.insert(file, at);
        content.entry(file).or_default().push(object.row.object);
    }
    // In the order of their names, which are hashes: any stretch of it is a fair sample.
    let place = |(file, at): (&MirrorFile, &Location)| (format!("{} {}", at.file, file_path(at)), *file);
    let order = files.iter().map(place).collect::<BTreeMap<_, _>>();
    let after = state.scrubbed_to.clone().unwrap_or_default();
    let mut chosen = order.iter().filter(|(place, _)| **place > after).chain(&order);
    let chosen = chosen.by_ref().take(share.of(order.len())).collect::<Vec<_>>();
    let picked = chosen.iter().map(|(_, file)| **file).collect::<BTreeSet<_>>();
    let bad = look_at(remote, &files, |file| picked.contains(file)).await?;
    let manifest = vault.manifest()?;
    for (file, problem) in &bad {
        let objects = content.remove(file).unwrap_or_default();
        let states = objects.iter().filter_map(|object| manifest.object(object));
        let entries = states.clone().filter_map(|state| match &state.row.subject {
            Subject::Version(version) => Some(version.entry),
            Subject::Part => None,
        });
        report.bad.push(BadFile {
            file: file_path(&files[file]).to_string(),
            problem: (*problem).to_owned(),
            entries: entries.collect(),
            here: states.clone().all(|state| state.here),
            what: What::Objects(objects),
        });
    }
    report.known += files.len() as u64;
    report.files += picked.len() as u64;
    if share != Share::ALL {
        state.scrubbed_to = chosen.last().map(|(last, _)| (*last).clone());
        state.scrubbed_at = vault.host().clock().now_ms();
        vault.set_sync_state(&state)?;
    }
    Ok(())
}

impl ScrubReport {
    fn note(&mut self, file: String, problem: Option<&str>, what: What, here: bool) {
        self.known += 1;
        self.files += u64::from(problem != Some(MISSING));
        self.bad.extend(problem.map(|problem| BadFile {
            file,
            problem: problem.to_owned(),
            what,
            entries: BTreeSet::new(),
            here,
        }));
    }
}

/// The file; `None` if it is not there. An answer that makes no sense counts as no bytes.
pub async fn get(
    remote: &impl Remote,
    file: &RemotePath,
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, Error> {
    match remote.get(file, None, max_bytes as u64).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => Ok(None),
        Err(error) if makes_no_sense(&error) => Ok(Some(Vec::new())),
        Err(error) => Err(error.into()),
    }
}
