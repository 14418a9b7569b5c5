//! Reading the feeds: what the other devices have announced since the last time.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use super::belief::Belief;
use super::mirror::{self, FEEDS, feed_path};
use super::{Error, Options, PARALLEL, makes_no_sense, no_room};
use crate::crypto::{Epoch, KeySource, sha256};
use crate::event::{Finding, Observer, Phase, Progress, short};
use crate::format::feed::{MAX_SEGMENT_BYTES, NO_TIP, Seen, Segment, SegmentName, open_segment};
use crate::format::read_header;
use crate::host::Host;
use crate::id::{DeviceId, ObjectName};
use crate::manifest::{FeedTip, Location, Manifest, Notices, Record, Row};
use crate::remote::{MemoryRemote, Remote, RemoteError, RemoteErrorKind, RemotePath};
use crate::vault::{self, Note, Store, Unattended, Vault};
use crate::version::Version;

/// What was seen in the mirror's `feeds/`.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Whether the directory is there.
    pub exists: bool,
    /// Whether something may follow from what is not in it.
    pub complete: bool,
    /// Whether the marker is there, if the remote told for free.
    pub marker_seen: Option<bool>,
    /// The segments, with their lengths where the remote gives them.
    pub segments: BTreeMap<SegmentName, Option<u64>>,
}

impl Listing {
    /// A hash of names and lengths: equal listings hold equal news.
    pub fn digest(&self) -> [u8; 32] {
        let lines = self.segments.iter().map(|(name, len)| format!("{name} {len:?}\n"));
        sha256(&[lines.collect::<String>().as_bytes()])
    }

    /// Whether this is the mirror that was known: it shows at least something of what was read from it before.
    pub fn continues(&self, manifest: &Manifest) -> bool {
        let known = |segment: &SegmentName| manifest.feeds().contains_key(&segment.device);
        self.exists && self.marker_seen != Some(false) && self.segments.keys().any(known)
    }

    /// Whether every announcement of `device` up to `to` is in a segment shown here.
    fn covers(&self, device: DeviceId, to: u64) -> bool {
        covers(self.segments.keys(), device, to)
    }

    /// The last announcement of `device` that a segment promises; 0 if there is none.
    fn last_of(&self, device: DeviceId) -> u64 {
        self.segments.keys().filter(|segment| segment.device == device).map(|s| s.to).max().unwrap_or(0)
    }
}

/// Whether every announcement of `device` up to `to` is in one of `segments`.
fn covers<'a>(segments: impl Iterator<Item = &'a SegmentName>, device: DeviceId, to: u64) -> bool {
    let mut next = 1;
    for name in segments.filter(|name| name.device == device).collect::<BTreeSet<_>>() {
        if name.from <= next {
            next = next.max(name.to.saturating_add(1));
        }
    }
    next > to
}

/// One announcement of another device (or of this one, found after a crash) that the manifest does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Whose.
    pub device: DeviceId,
    /// What that device is called.
    pub name: String,
    /// How far its feed has been read with it; `None` if something before it is missing, or if it is one of two
    /// histories.
    pub tip: Option<FeedTip>,
    /// What it says is on the mirror, and where.
    pub rows: Vec<(Row, Location)>,
    /// What else it says.
    pub notices: Notices,
}

/// Everything new in the feeds.
#[derive(Debug, Default)]
pub struct News {
    /// In the order of each feed.
    pub announced: Vec<Announced>,
    /// Segments to keep, by name.
    pub segments: BTreeMap<String, Vec<u8>>,
    /// The mirror shows less than was seen before.
    pub went_back: bool,
    /// Devices of whose announcements some that were read before are neither on the mirror nor here any more.
    pub forgotten: BTreeSet<DeviceId>,
    /// Something is sealed under a newer key than is known here, or says so.
    pub beyond: bool,
    /// Feeds that go on beyond what could be read.
    pub unread: u64,
    /// The mirror had no room for a segment that was to be sent again.
    pub no_room: Option<RemoteError>,
}

impl News {
    /// Leaves out what was in files that were released since: it is not there any more, and nobody needs it.
    fn pass_over_released(&mut self, manifest: &Manifest) {
        let released = self
            .announced
            .iter()
            .flat_map(|it| it.notices.released.iter().map(|(batch, file)| (it.device, *batch, *file)));
        let released = released.collect::<BTreeSet<_>>();
        let is_released = |at: &Location| {
            let file = at.file_place();
            released.contains(&file) || manifest.released().contains_key(&file)
        };
        self.announced.iter_mut().for_each(|it| it.rows.retain(|(_, at)| !is_released(at)));
    }
}

/// Lists `feeds/`: the one request of a sync that has nothing to do.
pub async fn list_feeds(remote: &impl Remote) -> Result<Listing, Error> {
    let dir = RemotePath::new(FEEDS).expect("a constant");
    let Some(listing) = remote.list(&dir).await? else { return Ok(Listing::default()) };
    let segments = listing.items.iter().filter(|item| !item.is_dir);
    Ok(Listing {
        exists: true,
        complete: listing.complete,
        marker_seen: listing.marker_seen,
        segments: segments
            .filter_map(|item| Some((SegmentName::parse(&item.name)?, item.len_bytes)))
            .collect(),
    })
}

/// Reads what is new. Changes nothing here but this device's identity, if another vault is seen to use it or if its
/// own feed has a hole that nothing fills.
pub async fn read_feeds<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    listing: &mut Listing,
    options: Options,
    observer: &mut impl Observer,
) -> Result<News, Error> {
    let mut news = News::default();
    let known = vault.manifest()?.feeds().clone();
    let least = vault.key_file()?.min_epoch;
    let mut damaged = BTreeSet::new();
    if !options.dry_run {
        if is_in_use_elsewhere(vault, remote, listing, least, &mut damaged).await? {
            vault.take_new_identity()?;
        }
        let lacking = lacking(vault, listing, &known, observer);
        news.went_back = !lacking.is_empty();
        let doubtful = match options.full {
            true => listing.segments.keys().cloned().collect(),
            false => torn_in_both(vault, listing)?,
        };
        compare_feeds(vault, remote, doubtful, least, &mut damaged, &mut news).await?;
        news.no_room = resend(vault, remote, listing, &lacking, &damaged, observer).await?;
        if !lacking.is_empty() || !damaged.is_empty() {
            news.forgotten = forgotten(vault, listing, &known, &mut damaged, observer)?;
        }
    }

    let reader = read_new(vault, remote, listing, least, &mut damaged, &mut news, observer).await?;
    if !options.dry_run {
        let behind = behind(&damaged, listing, &segment_names(vault)?);
        let refused = send_again(vault, remote, listing, behind, observer).await?;
        news.no_room = news.no_room.or(refused);
    }
    news.pass_over_released(vault.manifest()?);
    news.unread = reader.unread(listing);

    let this = vault.device().id;
    let mut lost_own = news.forgotten.contains(&this);
    for (device, by) in reader.withheld(listing) {
        if device == this {
            // Others have read more of this device's feed than it remembers writing: it was restored from an image.
            lost_own = true;
        } else {
            let name = known.get(&device).map_or_else(|| short(device), |tip| tip.name.clone());
            observer.finding(Finding::Withheld { device, name, by });
        }
    }
    if lost_own && !options.dry_run {
        vault.take_new_identity()?;
    }
    Ok(news)
}

/// Reads what is beyond what is known, from the cache where it is there.
async fn read_new<S: Store, R: Remote>(
    vault: &mut S,
    remote: &R,
    listing: &Listing,
    least: Epoch,
    damaged: &mut BTreeSet<SegmentName>,
    news: &mut News,
    observer: &mut impl Observer,
) -> Result<Reader, Error> {
    let known = vault.manifest()?.feeds().clone();
    let cached = segment_names(vault)?;
    let mut reader = Reader { tips: known, tried: BTreeSet::new(), seen: BTreeMap::new() };
    let mut belief = Belief::new(least);
    // A segment that is damaged or gone leaves a gap; another one may bridge it.
    loop {
        let wanted = reader.wanted(listing, &cached);
        if wanted.is_empty() {
            break;
        }
        reader.tried.extend(wanted.iter().cloned());
        for (name, file) in load(vault, remote, wanted, &cached, observer).await? {
            news.beyond |= is_beyond(vault, &file);
            match open(vault, &name, &file) {
                Ok(segment) => belief.add(name, segment, file),
                Err(problem) => {
                    observer.finding(Finding::MirrorDamaged { file: format!("{FEEDS}/{name}"), problem });
                    damaged.insert(name);
                }
            }
        }
        reader.take_in_believed(vault, listing, &mut belief, news, observer);
    }
    if !belief.is_empty() {
        // Who read it before may have vouched for it then.
        for name in &cached {
            let Some(segment) = intact_segment(vault, name).and_then(|file| open(vault, name, &file).ok())
            else {
                continue;
            };
            belief.hear(&segment);
        }
        reader.take_in_believed(vault, listing, &mut belief, news, observer);
    }
    for name in belief.not_believed() {
        let problem = "sealed under a key that was replaced, and nobody vouches for it; it was not used";
        observer
            .finding(Finding::MirrorDamaged { file: format!("{FEEDS}/{name}"), problem: problem.to_owned() });
    }
    Ok(reader)
}

/// Reads what is new while the vault is locked. Only what plainly continues what is known is kept: whatever is odd is left
/// for a sync that can look closer.
pub async fn read_locked<H: Host, R: Remote>(
    vault: &mut Unattended<H>,
    remote: &R,
    listing: &mut Listing,
    observer: &mut impl Observer,
) -> Result<News, Error> {
    let mut news = News::default();
    let least = vault.min_epoch();
    let known = vault.manifest()?.feeds().clone();
    let mut damaged = BTreeSet::new();
    if is_in_use_elsewhere(vault, remote, listing, least, &mut damaged).await? {
        return Err(vault::Error::PasswordNeeded("another vault writes in this device's name").into());
    }
    let lacking = lacking(vault, listing, &known, observer);
    if !lacking.is_empty() {
        // Once it shows everything again nobody would look for the objects.
        vault.set_note(&Note { look_closer: true, ..vault.note() })?;
    }
    news.no_room = resend(vault, remote, listing, &lacking, &damaged, observer).await?;
    let reader = read_new(vault, remote, listing, least, &mut damaged, &mut news, observer).await?;
    if news.beyond {
        return Err(vault::Error::PasswordNeeded("the vault has a new master key").into());
    }
    let gaps = news.announced.iter().filter(|it| it.tip.is_none()).map(|it| it.device);
    let odd = gaps.collect::<BTreeSet<_>>();
    let is_odd = |device: &DeviceId| odd.contains(device);
    news.announced.retain(|it| !is_odd(&it.device));
    news.segments.retain(|name, _| SegmentName::parse(name).is_some_and(|name| !is_odd(&name.device)));
    news.pass_over_released(vault.manifest()?);
    news.unread = reader.unread(listing).max(odd.len() as u64);
    Ok(news)
}

/// Reads what was kept while the vault was locked.
pub async fn read_kept<H: Host>(vault: &mut Vault<H>, observer: &mut impl Observer) -> Result<News, Error> {
    let mut news = News::default();
    let least = vault.key_file()?.min_epoch;
    let mut listing = Listing::default();
    for name in segment_names(vault)? {
        let len_bytes = vault.cached_segment_len(&name.to_string())?;
        listing.segments.insert(name, len_bytes);
    }
    let nowhere = MemoryRemote::new();
    read_new(vault, &nowhere, &listing, least, &mut BTreeSet::new(), &mut news, observer).await?;
    news.pass_over_released(vault.manifest()?);
    Ok(news)
}

/// The devices of whose announcements, as far as they were read before, the mirror does not show some any more. Says so.
fn lacking<S: Store>(
    vault: &S,
    listing: &Listing,
    known: &BTreeMap<DeviceId, FeedTip>,
    observer: &mut impl Observer,
) -> Vec<DeviceId> {
    let this = vault.device().id;
    let lacking = known.iter().filter(|(device, tip)| !listing.covers(**device, tip.seq));
    let lacking = lacking.filter(|_| listing.complete).map(|(device, _)| *device).collect::<Vec<_>>();
    for device in lacking.iter().filter(|device| **device != this) {
        observer.finding(Finding::WentBack { device: *device, name: known[device].name.clone() });
    }
    lacking
}

/// The devices of whose announcements, as far as they were read before, some are in no intact segment, there or here.
/// `damaged` are segments on the mirror that were found to be, and those of them that are whole nowhere in the end.
fn forgotten<H: Host>(
    vault: &Vault<H>,
    listing: &Listing,
    known: &BTreeMap<DeviceId, FeedTip>,
    damaged: &mut BTreeSet<SegmentName>,
    observer: &mut impl Observer,
) -> Result<BTreeSet<DeviceId>, vault::Error> {
    let mut left = segment_names(vault)?;
    left.retain(|name| intact_segment(vault, name).is_some());
    damaged.retain(|name| !left.contains(name));
    for name in damaged.iter() {
        let file = format!("{FEEDS}/{name}");
        observer.finding(Finding::MirrorDamaged { file, problem: "damaged, and nowhere else".to_owned() });
    }
    left.extend(listing.segments.keys().filter(|name| !damaged.contains(*name)).cloned());
    let forgotten = known.iter().filter(|(device, tip)| !covers(left.iter(), **device, tip.seq));
    Ok(forgotten.filter(|_| listing.complete).map(|(device, _)| *device).collect())
}

/// Cached segments that are shown with another length than they have here, and are not what their names promise here
/// either.
fn torn_in_both<H: Host>(vault: &Vault<H>, listing: &Listing) -> Result<BTreeSet<SegmentName>, vault::Error> {
    let mut torn = BTreeSet::new();
    for name in segment_names(vault)? {
        if has_another_length(vault, listing, &name)? && intact_segment(vault, &name).is_none() {
            torn.insert(name);
        }
    }
    Ok(torn)
}

/// Whether a cached segment is shown with another length than it has here.
fn has_another_length<S: Store>(
    vault: &S,
    listing: &Listing,
    name: &SegmentName,
) -> Result<bool, vault::Error> {
    match listing.segments.get(name) {
        Some(Some(len)) => Ok(vault.cached_segment_len(&name.to_string())? != Some(*len)),
        _ => Ok(false),
    }
}

/// Reads segments on the mirror: finds those that are damaged, and takes in those that are damaged or gone here, if they
/// need nobody to vouch for them.
async fn compare_feeds<H: Host, R: Remote>(
    vault: &Vault<H>,
    remote: &R,
    names: BTreeSet<SegmentName>,
    least: Epoch,
    damaged: &mut BTreeSet<SegmentName>,
    news: &mut News,
) -> Result<(), Error> {
    let names = names.into_iter().filter(|name| !damaged.contains(name));
    let mut files = pin!(fetch(remote, names.collect()));
    while let Some((name, file)) = files.next().await {
        match file {
            Ok(file) if name.matches(&file) => {
                let is_ours = open(vault, &name, &file).is_ok_and(|segment| segment.epoch >= least);
                if is_ours && intact_segment(vault, &name).is_none() {
                    news.segments.insert(name.to_string(), file);
                }
            }
            Ok(_) => drop(damaged.insert(name)),
            Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => drop(damaged.insert(name)),
            Err(error) if makes_no_sense(&error) => drop(damaged.insert(name)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub fn segment_names<S: Store>(vault: &S) -> Result<BTreeSet<SegmentName>, vault::Error> {
    Ok(vault.cached_segments()?.iter().filter_map(|name| SegmentName::parse(name)).collect())
}

/// Whether another segment claims the same announcements: two vaults wrote under one id.
fn is_twin(listing: &Listing, name: &SegmentName) -> bool {
    let same_place = |other: &SegmentName| {
        (other.device, other.from, other.to) == (name.device, name.from, name.to)
            && other.hash16 != name.hash16
    };
    listing.segments.keys().any(same_place)
}

/// Gets segments from the cache or the mirror, in order. One that is gone was merged away since it was listed.
async fn load<S: Store, R: Remote>(
    vault: &S,
    remote: &R,
    wanted: BTreeSet<SegmentName>,
    cached: &BTreeSet<SegmentName>,
    observer: &mut impl Observer,
) -> Result<Vec<(SegmentName, Vec<u8>)>, Error> {
    let total = wanted.len() as u64;
    let mut files = Vec::new();
    let mut there = Vec::new();
    for name in wanted {
        match intact_segment(vault, &name) {
            Some(file) if cached.contains(&name) => files.push((name, file)),
            // Not here, or damaged here: the mirror has it.
            _ => there.push(name),
        }
    }
    let mut fetched = pin!(fetch(remote, there));
    while let Some((name, file)) = fetched.next().await {
        match file {
            Ok(file) => files.push((name, file)),
            Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => {}
            // One file that makes no sense does not stop the rest.
            Err(error) if makes_no_sense(&error) => {
                let (file, problem) = (format!("{FEEDS}/{name}"), error.to_string());
                observer.finding(Finding::MirrorDamaged { file, problem });
            }
            Err(error) => return Err(error.into()),
        }
        observer.progress(Progress { phase: Phase::Reading, done: files.len() as u64, total });
    }
    files.sort();
    Ok(files)
}

/// Asks the mirror for segments, several at once.
fn fetch<R: Remote>(
    remote: &R,
    names: Vec<SegmentName>,
) -> impl Stream<Item = (SegmentName, Result<Vec<u8>, RemoteError>)> {
    let gets = names.into_iter().map(async move |name| {
        let file = remote.get(&feed_path(&name), None, MAX_SEGMENT_BYTES as u64).await;
        (name, file)
    });
    stream::iter(gets).buffer_unordered(PARALLEL)
}

/// A cached segment, if it is there as its name promises.
pub fn intact_segment<S: Store>(vault: &S, name: &SegmentName) -> Option<Vec<u8>> {
    vault.cached_segment(&name.to_string()).ok().filter(|file| name.matches(file))
}

/// How far the feeds have been read.
struct Reader {
    tips: BTreeMap<DeviceId, FeedTip>,
    tried: BTreeSet<SegmentName>,
    /// What each device said last that it had read of the others: its name, the number of the announcement, and that.
    seen: BTreeMap<DeviceId, (String, u64, BTreeMap<DeviceId, Seen>)>,
}

impl Reader {
    /// The segments to read next: per device as few as lead from what is known towards the end, what lies beyond a gap
    /// and was not read yet, and twins.
    fn wanted(&self, listing: &Listing, cached: &BTreeSet<SegmentName>) -> BTreeSet<SegmentName> {
        let mut wanted = BTreeSet::new();
        let devices = listing.segments.keys().map(|segment| segment.device).collect::<BTreeSet<_>>();
        for device in devices {
            let untried = || {
                listing.segments.keys().filter(|name| name.device == device && !self.tried.contains(*name))
            };
            let mut next = self.tips.get(&device).map_or(1, |tip| tip.seq.saturating_add(1));
            loop {
                while let Some(best) =
                    untried().filter(|s| s.from <= next && next <= s.to).max_by_key(|s| s.to)
                {
                    wanted.insert(best.clone());
                    next = best.to + 1;
                }
                let beyond =
                    untried().filter(|s| s.from > next && !cached.contains(*s)).map(|s| s.from).min();
                let Some(from) = beyond else { break };
                next = from;
            }
            wanted
                .extend(untried().filter(|name| is_twin(listing, name) && !cached.contains(*name)).cloned());
        }
        wanted
    }

    /// Takes in what can be believed of what was read.
    fn take_in_believed<S: Store>(
        &mut self,
        vault: &S,
        listing: &Listing,
        belief: &mut Belief,
        news: &mut News,
        observer: &mut impl Observer,
    ) {
        for (name, segment, file) in belief.take_believed() {
            self.take_in(&name, segment, is_twin(listing, &name), news, observer);
            if let Some(file) = file.filter(|_| intact_segment(vault, &name).is_none()) {
                news.segments.insert(name.to_string(), file);
            }
        }
    }

    /// Takes what is new out of a segment. The feed counts as read up to the first gap, so that what is missing there
    /// is still read when it turns up; what lies beyond is on the mirror all the same. Both sides of a fork were written
    /// by a holder of the key: their rows count alike.
    fn take_in(
        &mut self,
        name: &SegmentName,
        segment: Segment,
        twin: bool,
        news: &mut News,
        observer: &mut impl Observer,
    ) {
        for (announcement, tip) in segment.announcements {
            let before = self.tips.get(&name.device).map_or((0, NO_TIP), |tip| (tip.seq, tip.tip));
            let follows = announcement.seq == before.0 + 1;
            let other_history = (follows && announcement.previous != before.1)
                || (announcement.seq == before.0 && tip != before.1);
            if other_history {
                let name = announcement.name.clone();
                observer.finding(Finding::Forked { device: segment.device, name });
            }
            if announcement.seq <= before.0 && !twin && !other_history {
                continue;
            }
            let last = self.seen.entry(name.device).or_default();
            if last.1 < announcement.seq {
                *last = (announcement.name.clone(), announcement.seq, announcement.seen);
            }
            let device_name = announcement.name.clone();
            let tip = follows.then_some(FeedTip {
                seq: announcement.seq,
                tip,
                written_at: announcement.written_at,
                name: announcement.name,
                program: announcement.program,
            });
            self.tips.extend(tip.clone().map(|tip| (name.device, tip)));
            let (rows, notices) = (announcement.rows, announcement.notices);
            news.announced.push(Announced { device: name.device, name: device_name, tip, rows, notices });
        }
    }

    /// How many feeds go on beyond what could be read.
    fn unread(&self, listing: &Listing) -> u64 {
        let read = |device| self.tips.get(device).map_or(0, |tip| tip.seq);
        let devices = listing.segments.keys().map(|name| name.device).collect::<BTreeSet<_>>();
        devices.iter().filter(|device| listing.last_of(**device) > read(device)).count() as u64
    }

    /// The feeds of which another device has read more than the mirror shows now, with the name of that device.
    fn withheld(&self, listing: &Listing) -> Vec<(DeviceId, String)> {
        let mut withheld = BTreeMap::new();
        for (by, _, seen) in self.seen.values() {
            for (device, seen) in seen {
                let read = self.tips.get(device).map_or(0, |tip| tip.seq);
                if seen.seq > read.max(listing.last_of(*device)) && listing.complete {
                    withheld.insert(*device, by.clone());
                }
            }
        }
        withheld.into_iter().collect()
    }
}

/// Whether a file says that it is sealed under a key that is not known here yet. Anybody can say that.
fn is_beyond<S: Store>(vault: &S, file: &[u8]) -> bool {
    read_header(file).is_ok_and(|(header, _)| header.epoch > vault.keys().current_epoch())
}

pub fn open<S: Store>(vault: &S, name: &SegmentName, file: &[u8]) -> Result<Segment, String> {
    if !name.matches(file) {
        return Err("damaged (its bytes are not those its name promises)".to_owned());
    }
    let segment = open_segment(vault.keys(), file).map_err(|error| error.to_string())?;
    let first = segment.announcements.first().map(|(a, _)| a.seq);
    let last = segment.announcements.last().map(|(a, _)| a.seq);
    match (segment.device, first, last) == (name.device, Some(name.from), Some(name.to)) {
        true => Ok(segment),
        false => Err("it is not the segment its name promises".to_owned()),
    }
}

/// Whether the mirror shows announcements under this device's id that this device did not make. Segments it made
/// and has merged since may come back when a server is restored: they hold what its own chain holds. One that is
/// `damaged` and of which nothing is known here may be anybody's.
async fn is_in_use_elsewhere<S: Store, R: Remote>(
    vault: &S,
    remote: &R,
    listing: &Listing,
    least: Epoch,
    damaged: &mut BTreeSet<SegmentName>,
) -> Result<bool, Error> {
    let this = vault.device().id;
    let cached = segment_names(vault)?;
    let unknown = listing.segments.keys().filter(|name| name.device == this && !cached.contains(*name));
    let unknown = unknown.cloned().collect::<Vec<_>>();
    if unknown.is_empty() {
        return Ok(false);
    }
    let mut own = BTreeSet::new();
    for name in cached.iter().filter(|name| name.device == this) {
        if let Ok(segment) = open(vault, name, &vault.cached_segment(&name.to_string())?) {
            own.extend(segment.announcements.into_iter().map(|(announcement, tip)| (announcement.seq, tip)));
        }
    }
    for name in unknown {
        let file = remote.get(&feed_path(&name), None, MAX_SEGMENT_BYTES as u64).await;
        let segment = match file {
            Ok(file) => open(vault, &name, &file),
            Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let Ok(segment) = segment else {
            damaged.insert(name);
            return Ok(true);
        };
        if segment.epoch < least {
            // Whoever has a copy of the old key can make that. It is not believed.
            continue;
        }
        if !segment.announcements.iter().all(|(a, tip)| own.contains(&(a.seq, *tip))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Notes what was read. From here on the next sync starts after it.
pub fn accept<H: Host>(
    vault: &mut Vault<H>,
    news: &News,
    observer: &mut impl Observer,
) -> Result<(), vault::Error> {
    if !news.segments.is_empty() {
        vault.cache_segments(&news.segments)?;
        let this = vault.device().id;
        let cached = segment_names(vault)?;
        // This device's own go when they have gone from the mirror.
        for name in cached.iter().filter(|name| name.device != this) {
            if cached.iter().any(|other| other.repeats(name)) {
                vault.drop_cached_segment(&name.to_string())?;
            }
        }
    }
    let manifest = vault.manifest()?;
    let back = news.announced.iter().filter(|it| it.tip.is_some() && manifest.is_retired(it.device));
    let back = back.map(|it| (it.device, it.name.clone())).collect::<BTreeMap<_, _>>();
    let records = learnt(manifest, news);
    vault.record(&records)?;
    if !news.forgotten.is_empty() {
        // What is to be announced again has to be here; what turns out not to be is fetched while its place is known.
        for object in unnamed(vault)?.objects {
            match vault.object_bytes(&object) {
                Ok(_) | Err(vault::Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let this = vault.device().clone();
    let manifest = vault.manifest()?;
    if manifest.is_retired(this.id) {
        // It announces itself in this very sync.
        observer.finding(Finding::DeviceReturned { device: this.id, name: this.name });
    }
    for (device, name) in back.into_iter().filter(|(device, _)| !manifest.is_retired(*device)) {
        observer.finding(Finding::DeviceReturned { device, name });
    }
    Ok(())
}

/// What follows from the news and is not known yet.
pub fn learnt(manifest: &Manifest, news: &News) -> Vec<Record> {
    let notices = news.announced.iter().map(|it| (it.device, it.notices.clone()));
    let mut records =
        notices.flat_map(|(device, notices)| Record::of_notices(device, notices)).collect::<Vec<_>>();
    for announced in &news.announced {
        records.extend(announced.rows.iter().map(|(row, at)| Record::Mirrored(row.clone(), *at)));
        records.extend(announced.tip.clone().map(|tip| Record::Feed(announced.device, tip)));
    }
    records.retain(|record| !manifest.knows(record));
    records
}

/// What the mirror is said to have and to tell and what no segment names any more: nobody who comes new would find it.
struct Unnamed {
    objects: Vec<ObjectName>,
    buried: Vec<Version>,
}

/// Sees to it that what no segment names any more is announced again.
pub fn announce_again<H: Host>(vault: &mut Vault<H>) -> Result<(), vault::Error> {
    let Unnamed { objects, buried } = unnamed(vault)?;
    let objects = objects.into_iter().map(Record::NotMirrored);
    let buried = buried.into_iter().map(|version| Record::Buried(version, false));
    vault.record(&objects.chain(buried).collect::<Vec<_>>())
}

fn unnamed<H: Host>(vault: &mut Vault<H>) -> Result<Unnamed, vault::Error> {
    let mut named = BTreeSet::new();
    let mut told = BTreeSet::new();
    let mut rows = Vec::new();
    for name in segment_names(vault)? {
        let segment = intact_segment(vault, &name).and_then(|file| open(vault, &name, &file).ok());
        for (announcement, _) in segment.into_iter().flat_map(|segment| segment.announcements) {
            rows.extend(announcement.rows.into_iter().map(|(row, at)| (row.object, at)));
            told.extend(announcement.notices.buried.into_iter().map(|version| version.id));
        }
    }
    let manifest = vault.manifest()?;
    let released = manifest.released();
    let there = rows.into_iter().filter(|(_, at)| !released.contains_key(&at.file_place()));
    named.extend(there.map(|(object, _)| object));
    let objects = manifest.objects().values();
    let unnamed =
        objects.filter(|state| state.here && state.mirrored.is_some() && !named.contains(&state.row.object));
    let untold = manifest.buried().filter(|(version, announced)| *announced && !told.contains(&version.id));
    let buried = untold.map(|(version, _)| version.clone()).collect();
    Ok(Unnamed { objects: unnamed.map(|state| state.row.object).collect(), buried })
}

/// Sends cached segments the mirror does not show in full: this device's (it may have been stopped before they were
/// sent), those of devices whose feed went back, and any that are shown with another length than they have or were
/// found `damaged`. Gives the refusal if the mirror has no room for one.
async fn resend<S: Store, R: Remote>(
    vault: &S,
    remote: &R,
    listing: &mut Listing,
    went_back: &[DeviceId],
    damaged: &BTreeSet<SegmentName>,
    observer: &mut impl Observer,
) -> Result<Option<RemoteError>, Error> {
    let this = vault.device().id;
    let shown = |name: &SegmentName| {
        let repeated = || listing.segments.keys().any(|other| other.repeats(name));
        listing.segments.contains_key(name) || repeated() || listing.covers(name.device, name.to)
    };
    let mut lost = Vec::new();
    for name in segment_names(vault)? {
        let torn = has_another_length(vault, listing, &name)?
            || (listing.segments.contains_key(&name) && damaged.contains(&name));
        if torn || ((name.device == this || went_back.contains(&name.device)) && !shown(&name)) {
            lost.push((name, torn));
        }
    }
    send_again(vault, remote, listing, lost, observer).await
}

/// The cached segments that were removed from the mirror because a longer one repeats them, which is damaged now and may
/// be so for ever: what they hold is nowhere else there.
fn behind(
    damaged: &BTreeSet<SegmentName>,
    listing: &Listing,
    cached: &BTreeSet<SegmentName>,
) -> Vec<(SegmentName, bool)> {
    let is_behind = |name: &&SegmentName| {
        let mut repeating = listing.segments.keys().filter(|other| other.repeats(name)).peekable();
        let all_damaged = repeating.peek().is_some() && repeating.all(|other| damaged.contains(other));
        !listing.segments.contains_key(*name) && all_damaged
    };
    cached.iter().filter(is_behind).map(|name| (name.clone(), false)).collect()
}

/// Sends cached segments again; those that are torn there count as healed. Gives the refusal if the mirror has no room
/// for one.
async fn send_again<S: Store, R: Remote>(
    vault: &S,
    remote: &R,
    listing: &mut Listing,
    lost: Vec<(SegmentName, bool)>,
    observer: &mut impl Observer,
) -> Result<Option<RemoteError>, Error> {
    let sent = stream::iter(lost.into_iter().map(|(name, torn)| async move {
        let Some(file) = intact_segment(vault, &name) else { return Ok(None) };
        let len_bytes = file.len() as u64;
        match mirror::put(remote, &feed_path(&name), Bytes::from(file)).await {
            Ok(_) => Ok(Some(Ok((name, len_bytes, torn)))),
            Err(error) if no_room(&error) => Ok(Some(Err(error))),
            Err(error) => Err(Error::from(error)),
        }
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<Vec<_>>()
    .await?;
    let mut refused = None;
    for sent in sent.into_iter().flatten() {
        match sent {
            Ok((name, len_bytes, torn)) => {
                if torn {
                    observer.finding(Finding::MirrorHealed { file: format!("{FEEDS}/{name}") });
                }
                listing.segments.insert(name, Some(len_bytes));
            }
            Err(error) => refused = Some(error),
        }
    }
    Ok(refused)
}
