//! Reading the feeds: what the other devices have announced since the last time.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures_util::{Stream, StreamExt, stream};

use super::belief::Belief;
use super::listing::{Listing, covers};
use super::mirror::{FEEDS, feed_path};
use super::news::News;
use super::reader::Reader;
use super::resend::{behind, has_another_length, resend, send_again};
use super::segments::{intact_segment, open, segment_names};
use super::{Error, Options, PARALLEL, makes_no_sense};
use crate::crypto::{Epoch, KeySource};
use crate::event::{Finding, Observer, Phase, Progress, short};
use crate::format::feed::{MAX_SEGMENT_BYTES, SegmentName};
use crate::format::read_header;
use crate::host::Host;
use crate::id::DeviceId;
use crate::manifest::FeedTip;
use crate::remote::{MemoryRemote, Remote, RemoteError, RemoteErrorKind};
use crate::vault::{self, Note, Store, Unattended, Vault};

/// Reads what is new. Changes nothing here but this device's identity, if another vault is seen to use it or if its
/// own feed has a hole that nothing fills.
pub async fn read_feeds<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    listing: &mut Listing,
    options: Options,
    observer: &mut dyn Observer,
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
    observer: &mut dyn Observer,
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
    observer: &mut dyn Observer,
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
pub async fn read_kept<H: Host>(vault: &mut Vault<H>, observer: &mut dyn Observer) -> Result<News, Error> {
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
    observer: &mut dyn Observer,
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
    observer: &mut dyn Observer,
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

/// Gets segments from the cache or the mirror, in order. One that is gone was merged away since it was listed.
async fn load<S: Store, R: Remote>(
    vault: &S,
    remote: &R,
    wanted: BTreeSet<SegmentName>,
    cached: &BTreeSet<SegmentName>,
    observer: &mut dyn Observer,
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

/// Whether a file says that it is sealed under a key that is not known here yet. Anybody can say that.
fn is_beyond<S: Store>(vault: &S, file: &[u8]) -> bool {
    read_header(file).is_ok_and(|(header, _)| header.epoch > vault.keys().current_epoch())
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
