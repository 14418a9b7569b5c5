//! Retirement: what nobody needs any more goes, from here and from the mirror.
//!
//! What may go is decided by [`history`](crate::history) from what every device has said that it has read. Each device
//! releases only files it wrote itself; it announces that first, drops what was in them a day later at the earliest, and
//! removes them last. Whoever reads the announcement decides for itself, by its own clock: what it still needs it sends
//! again. Files that are not worth keeping as they are go the same way, when what is needed of them has been sent again.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::mirror::file_path;
use super::push::{MAX_SINGLES, SMALL_BYTES, shown_whole};
use super::segments::{intact_segment, open, segment_names};
use super::{Error, Options, PARALLEL, Report};
use crate::format::feed::{Announcement, SegmentName};
use crate::history::{Known, Retention, to_bury, unneeded};
use crate::host::Host;
use crate::id::{DeviceId, EntryId, ObjectName, VersionId};
use crate::manifest::{FilePlace, Location, Manifest, Notices, ObjectState, Record, Subject, VersionState};
use crate::remote::Remote;
use crate::vault::{self, Vault};
use crate::version::{Kind, Version, standing};

/// Files released by one sync, removed by one, and small ones written anew by one: the rest waits for the next day.
const MAX_FILES: usize = 256;

/// A file with less than one part in this many still needed is written anew.
const REWRITE_BELOW_ONE_IN: u64 = 2;

/// Before that a small file is left alone: what was written lately is often superseded soon.
const SMALL_FILE_IS_OLD_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// Everything the cached feed segments tell.
#[derive(Default)]
pub struct Feeds {
    /// In which announcements a version is: as an object, or as a deletion that needs none.
    versions: BTreeMap<VersionId, BTreeSet<(DeviceId, u64)>>,
    /// In which announcements a part is.
    parts: BTreeMap<ObjectName, BTreeSet<(DeviceId, u64)>>,
    /// When each announcement was written, by its device's clock.
    written_at: BTreeMap<(DeviceId, u64), i64>,
    /// How far the first device had read the second's feed, and when it said so: ascending.
    read: BTreeMap<(DeviceId, DeviceId), Vec<(u64, i64)>>,
    /// The files of objects.
    files: BTreeMap<FilePlace, File>,
    /// By which announcement a file was released.
    released_by: BTreeMap<FilePlace, u64>,
}

/// A file of objects on the mirror.
struct File {
    /// Where it lies, and how long it is.
    at: Location,
    /// When it was announced first, by its device's clock.
    announced_at: i64,
    /// What is in it, and how long that is.
    objects: BTreeMap<ObjectName, u64>,
}

impl Feeds {
    /// Reads the cached segments.
    pub fn read<H: Host>(vault: &Vault<H>) -> Result<Self, vault::Error> {
        let mut announcements = BTreeMap::<(DeviceId, u64), Vec<Announcement>>::new();
        for name in segment_names(vault)? {
            let segment = intact_segment(vault, &name).and_then(|file| open(vault, &name, &file).ok());
            for (announcement, _) in segment.into_iter().flat_map(|segment| segment.announcements) {
                let same = announcements.entry((name.device, announcement.seq)).or_default();
                if !same.contains(&announcement) {
                    same.push(announcement);
                }
            }
        }
        let mut feeds = Self::default();
        for ((device, seq), same) in announcements {
            same.into_iter().for_each(|announcement| feeds.take_in(device, seq, announcement));
        }
        Ok(feeds)
    }

    fn take_in(&mut self, device: DeviceId, seq: u64, announcement: Announcement) {
        let written_at = self.written_at.entry((device, seq)).or_insert(i64::MIN);
        *written_at = announcement.written_at.max(*written_at);
        for (other, seen) in announcement.seen {
            let read = self.read.entry((device, other)).or_default();
            if read.last().is_none_or(|(last, _)| *last < seen.seq) {
                read.push((seen.seq, announcement.written_at));
            }
        }
        for (row, at) in announcement.rows {
            match &row.subject {
                Subject::Version(version) => self.versions.entry(version.id).or_default(),
                Subject::Part => self.parts.entry(row.object).or_default(),
            }
            .insert((device, seq));
            let announced_at = announcement.written_at;
            let file = self.files.entry(at.file_place());
            let file = file.or_insert(File { at, announced_at, objects: BTreeMap::new() });
            file.objects.insert(row.object, row.len_bytes.into());
        }
        for version in announcement.notices.buried {
            self.versions.entry(version.id).or_default().insert((device, seq));
        }
        for (batch, file) in announcement.notices.released {
            self.released_by.insert((device, batch, file), seq);
        }
    }

    /// When `device` first said that it had read announcement `seq` of `other`.
    fn acknowledged_at(&self, device: DeviceId, (other, seq): (DeviceId, u64)) -> Option<i64> {
        if device == other {
            return self.written_at.get(&(other, seq)).copied();
        }
        let read = self.read.get(&(device, other))?;
        read.get(read.partition_point(|(last, _)| *last < seq)).map(|(_, written_at)| *written_at)
    }

    /// Whether `device` has said that it has read all that `other` had announced up to `seq`.
    pub fn has_read(&self, device: DeviceId, other: DeviceId, seq: u64) -> bool {
        self.acknowledged_at(device, (other, seq)).is_some()
    }

    /// Since when all `devices` know what was `announced` in one of these. One that had been retired and is back has to know
    /// it, and when it came back does not matter.
    fn everywhere_since(
        &self,
        announced: Option<&BTreeSet<(DeviceId, u64)>>,
        devices: &Counted,
    ) -> Option<i64> {
        let announced = announced?;
        // Not before it was announced, whatever the others' clocks say.
        let first = announced.iter().filter_map(|at| self.written_at.get(at)).min().copied()?;
        let told = devices.iter().map(|(device, was_retired)| {
            let told = announced.iter().filter_map(|at| self.acknowledged_at(*device, *at)).min()?;
            Some(if *was_retired { first } else { told })
        });
        told.collect::<Option<Vec<_>>>()?.into_iter().chain([first]).max()
    }
}

/// What of a vault and its mirror nobody needs any more.
#[derive(Default)]
struct Judged {
    unneeded: BTreeSet<ObjectName>,
    /// Parts that only such versions name, which are in these files still: they go after them, or with them.
    afterwards: BTreeMap<ObjectName, BTreeSet<FilePlace>>,
    bury: Vec<Version>,
}

impl Judged {
    /// Whether nobody needs `object` once this file is gone.
    fn goes_with(&self, object: &ObjectName, file: &FilePlace) -> bool {
        let with = self.afterwards.get(object).is_some_and(|files| files.iter().all(|it| it == file));
        with || self.unneeded.contains(object)
    }
}

/// Looks at every entry. `devices` are those that are waited for.
fn judge(manifest: &Manifest, feeds: &Feeds, devices: &Counted, retention: Retention, now_ms: i64) -> Judged {
    let mut judged = Judged::default();
    let mut named = BTreeSet::<ObjectName>::new();
    let mut all_parts_known = true;
    for entry in manifest.entry_ids() {
        let states = manifest.versions_of(entry).collect::<Vec<_>>();
        let whole = manifest.unopened_dots(entry).is_empty();
        all_parts_known &= whole;
        let gone = if whole && stands_here(manifest, &states) {
            let known = known(manifest, feeds, devices, entry, &states);
            judged.bury.extend(to_bury(&known, retention, now_ms).into_iter().cloned());
            unneeded(&known, retention, now_ms)
        } else {
            BTreeSet::new()
        };
        for state in states {
            all_parts_known &= state.version.kind == Kind::Tombstone || state.summary.is_some();
            let parts = state.summary.iter().flat_map(|summary| &summary.parts);
            if !gone.contains(&state.version.id) {
                named.extend(parts);
                continue;
            }
            judged.unneeded.extend(&state.objects);
            let objects = state.objects.iter().filter_map(|object| manifest.object(object));
            let places = objects.flat_map(ObjectState::places);
            let places = places.map(|at| at.file_place()).collect::<BTreeSet<_>>();
            for part in parts.filter(|_| !places.is_empty()) {
                judged.afterwards.entry(*part).or_default().extend(&places);
            }
        }
    }
    judged.bury.retain(|version| !manifest.is_buried(version.id));
    // A version that cannot be read may name any part.
    if all_parts_known {
        let parts = manifest.objects().filter(|state| state.row.subject == Subject::Part);
        let unnamed = parts.map(|state| state.row.object).filter(|part| !named.contains(part));
        let old = |part: &ObjectName| {
            let since = feeds.everywhere_since(feeds.parts.get(part), devices);
            since.is_some_and(|since| retention.is_over(since, now_ms))
        };
        judged.unneeded.extend(unnamed.filter(old));
    }
    let Judged { unneeded, afterwards, .. } = &mut judged;
    afterwards.retain(|part, _| unneeded.remove(part));
    judged
}

/// Whether what stands of an entry can be read here: only beside that may anything be left out.
fn stands_here(manifest: &Manifest, states: &[&VersionState]) -> bool {
    let versions = states.iter().map(|state| &*state.version).collect::<Vec<_>>();
    let mut standing = standing(&versions).into_iter();
    standing.all(|version| {
        let state = states.iter().find(|state| state.version.id == version.id);
        manifest.is_buried(version.id) || state.is_some_and(|state| !manifest.is_absent(state))
    })
}

fn known<'a>(
    manifest: &'a Manifest,
    feeds: &Feeds,
    devices: &Counted,
    entry: EntryId,
    states: &[&'a VersionState],
) -> Vec<Known<'a>> {
    debug_assert!(states.iter().all(|state| state.version.entry == entry));
    let known = states.iter().map(|state| Known {
        version: &state.version,
        everywhere_since: feeds.everywhere_since(feeds.versions.get(&state.version.id), devices),
        buried: manifest.is_buried(state.version.id),
    });
    known.collect()
}

/// The devices that are waited for, and whether each had been retired once.
type Counted = BTreeMap<DeviceId, bool>;

/// All that have announced something and were not retired since, and this one: before its first announcement nothing goes.
fn counted<H: Host>(vault: &mut Vault<H>) -> Result<Counted, vault::Error> {
    let this = vault.device().id;
    let manifest = vault.manifest()?;
    let devices = manifest.feeds().keys().chain([&this]).filter(|device| !manifest.is_retired(**device));
    Ok(devices.map(|device| (*device, manifest.retired_devices().contains_key(device))).collect())
}

/// What is to be announced, and what is done with once that is.
#[derive(Debug, Default)]
pub struct Retirement {
    /// For the next announcement.
    pub notices: Notices,
    /// What is sent once more, because the files it is in are not worth keeping. Those are released when it is elsewhere.
    pub again: BTreeSet<ObjectName>,
    /// The objects in the files that are released by it and that nobody needs.
    done_with: Vec<ObjectName>,
}

impl Retirement {
    /// What is known once the notices of `device` are announced.
    pub fn records(&self, device: DeviceId) -> Vec<Record> {
        let noticed = Record::of_notices(device, self.notices.clone());
        noticed.chain(self.done_with.iter().map(|object| Record::Retired(*object, true))).collect()
    }
}

/// Has nobody wait for what this device was before: its feed is there and it will never go on.
pub fn retire_former<H: Host>(vault: &mut Vault<H>) -> Result<(), Error> {
    let former = vault.former_ids()?;
    let manifest = vault.manifest()?;
    let waited_for = former.into_iter().filter(|id| !manifest.is_retired(*id));
    let retired =
        waited_for.filter_map(|id| Some(Record::DeviceRetired(id, manifest.feeds().get(&id)?.seq, false)));
    let retired = retired.collect::<Vec<_>>();
    Ok(vault.record(&retired)?)
}

/// Decides anew about what is in no file on the mirror any more, since those were released. If `daily`, drops what was
/// done with before, and finds what can be released next.
pub fn retire<H: Host>(
    vault: &mut Vault<H>,
    options: Options,
    now_ms: i64,
    daily: bool,
    report: &mut Report,
) -> Result<Retirement, Error> {
    let retention = options.retention;
    let mut loose =
        vault.manifest()?.loose().map(|state| (state.row.object, state.retired)).collect::<Vec<_>>();
    // What is in one directory is removed together.
    loose.sort_unstable();
    if !daily && loose.is_empty() {
        return Ok(Retirement { notices: vault.manifest()?.unsaid(), ..Retirement::default() });
    }
    let devices = counted(vault)?;
    let feeds = Feeds::read(vault)?;
    let mut judged = judge(vault.manifest()?, &feeds, &devices, retention, now_ms);
    if daily && !judged.bury.is_empty() {
        let buried = judged.bury.iter().map(|version| Record::Buried(version.clone(), false));
        vault.record(&buried.collect::<Vec<_>>())?;
        judged = judge(vault.manifest()?, &feeds, &devices, retention, now_ms);
    }
    let changed = loose.iter().filter(|(object, retired)| judged.unneeded.contains(object) != *retired);
    let changed = changed.map(|(object, retired)| Record::Retired(*object, !retired)).collect::<Vec<_>>();
    vault.record(&changed)?;
    let mut retirement = Retirement::default();
    if daily {
        let done_with = loose.iter().filter(|(object, retired)| *retired && judged.unneeded.contains(object));
        let done_with = done_with.map(|(object, _)| *object).collect::<Vec<_>>();
        report.retired = vault.drop_retired(&done_with)?;
        retirement = release(vault, &feeds, &judged, options.small_files, now_ms)?;
    }
    let unsaid = vault.manifest()?.unsaid();
    retirement.notices = Notices { released: retirement.notices.released, ..unsaid };
    Ok(retirement)
}

/// Finds own files in which nothing is needed, or nothing that is not in another own file too; and what is still needed of
/// those that are not worth keeping: of one that is mostly needless, and of old small ones if there are more than
/// `small_files`.
fn release<H: Host>(
    vault: &mut Vault<H>,
    feeds: &Feeds,
    judged: &Judged,
    small_files: usize,
    now_ms: i64,
) -> Result<Retirement, Error> {
    let this = vault.device().id;
    let manifest = vault.manifest()?;
    let mut retirement = Retirement::default();
    let mut rewrite = None;
    let mut small = Vec::new();
    let own =
        feeds.files.iter().filter(|(file, _)| file.0 == this && !manifest.released().contains_key(file));
    for (file, File { at, announced_at, objects }) in own {
        if retirement.notices.released.len() == MAX_FILES {
            break;
        }
        let is_elsewhere = |object: &ObjectName| {
            let state = manifest.object(object).filter(|state| state.here);
            let at = state.and_then(ObjectState::mirrored);
            at.is_some_and(|at| at.writer == this && at.file_place() != *file)
        };
        let needed = objects.keys().filter(|object| !judged.goes_with(object, file) && !is_elsewhere(object));
        let needed = needed.copied().collect::<Vec<_>>();
        if needed.is_empty() {
            retirement.notices.released.push((file.1, file.2));
            retirement.done_with.extend(objects.keys().filter(|object| judged.goes_with(object, file)));
            continue;
        }
        if !needed.iter().all(|object| manifest.object(object).is_some_and(|state| state.here)) {
            continue;
        }
        let needed_bytes = needed.iter().map(|object| objects[object]).sum::<u64>();
        if needed_bytes * REWRITE_BELOW_ONE_IN < at.file_len_bytes {
            rewrite.get_or_insert(needed);
        } else if at.file_len_bytes <= SMALL_BYTES.into()
            && now_ms.saturating_sub(*announced_at) > SMALL_FILE_IS_OLD_MS
        {
            small.push((*announced_at, needed));
        }
    }
    // So few would be sent one by one, as they are.
    if small.len() <= small_files.max(MAX_SINGLES) {
        small.clear();
    }
    small.sort();
    let small = small.into_iter().map(|(_, needed)| needed).take(MAX_FILES);
    let again = rewrite.into_iter().chain(small).flatten();
    // What waits to be sent anyway is not sent twice.
    let again = again.filter(|object| manifest.object(object).is_some_and(ObjectState::is_mirrored));
    retirement.again = again.collect();
    Ok(retirement)
}

/// Removes own files that were released, once the mirror itself has `shown` the announcement of it and nothing that was in
/// them is waiting to be dropped or sent again.
pub async fn remove_released<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    shown: &BTreeMap<SegmentName, Option<u64>>,
) -> Result<(), Error> {
    let this = vault.device().id;
    let manifest = vault.manifest()?;
    let own = manifest.released().iter().filter(|((device, ..), removed)| *device == this && !**removed);
    let own = own.map(|(file, _)| *file).collect::<Vec<_>>();
    if own.is_empty() {
        return Ok(());
    }
    let feeds = Feeds::read(vault)?;
    let whole = shown_whole(vault, shown)?;
    let manifest = vault.manifest()?;
    let is_told = |file: &FilePlace| {
        let seq = feeds.released_by.get(file);
        seq.is_some_and(|seq| whole.iter().any(|name| (name.from..=name.to).contains(seq)))
    };
    let is_loose = |object: &ObjectName| {
        manifest.object(object).is_some_and(|state| state.was_here && !state.is_mirrored())
    };
    let removable = own.into_iter().filter(is_told).filter_map(|file| {
        let File { at, objects, .. } = feeds.files.get(&file)?;
        (!objects.keys().any(is_loose)).then_some(*at)
    });
    let removed = stream::iter(removable.take(MAX_FILES).map(|at| async move {
        remote.delete(&file_path(&at)).await?;
        Ok::<_, Error>(at)
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<Vec<_>>()
    .await?;
    vault.record(&removed.iter().map(|at| Record::Released(at.file_place(), true)).collect::<Vec<_>>())?;
    Ok(())
}
