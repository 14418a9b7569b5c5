//! Reading the feeds: what the other devices have announced since the last time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::mirror::{FEEDS, feed_path};
use super::{Error, Options, PARALLEL};
use crate::crypto::sha256;
use crate::event::{Finding, Observer, Phase, Progress};
use crate::format::feed::{MAX_SEGMENT_BYTES, Segment, SegmentName, open_segment};
use crate::host::Host;
use crate::id::DeviceId;
use crate::manifest::{FeedTip, Location, Manifest, Record, Row};
use crate::remote::{Remote, RemoteError, RemoteErrorKind, RemotePath};
use crate::vault::{self, Vault};

/// What was seen in the mirror's `feeds/`.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Whether the directory is there.
    pub exists: bool,
    /// Whether something may follow from what is not in it.
    pub complete: bool,
    /// Whether the marker is there, if the remote told for free.
    pub marker_seen: Option<bool>,
    /// The segments.
    pub segments: BTreeSet<SegmentName>,
}

impl Listing {
    /// A hash of the names: equal listings hold equal news.
    pub fn digest(&self) -> [u8; 32] {
        let names = self.segments.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        sha256(&[names.as_bytes()])
    }

    /// Whether this is the mirror that was known: it shows at least something of what was read from it before.
    pub fn continues(&self, manifest: &Manifest) -> bool {
        let known = manifest.feeds();
        self.exists
            && self.marker_seen != Some(false)
            && (known.is_empty() || self.segments.iter().any(|segment| known.contains_key(&segment.device)))
    }

    /// The last announcement of `device` that a segment promises; 0 if there is none.
    fn last_of(&self, device: DeviceId) -> u64 {
        self.segments.iter().filter(|segment| segment.device == device).map(|s| s.to).max().unwrap_or(0)
    }
}

/// One announcement of another device (or of this one, found after a crash) that the manifest does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Whose.
    pub device: DeviceId,
    /// Its place in the feed.
    pub tip: FeedTip,
    /// What it says is on the mirror, and where.
    pub rows: Vec<(Row, Location)>,
}

/// Everything new in the feeds.
#[derive(Debug, Default)]
pub struct News {
    /// In the order of each feed.
    pub announced: Vec<Announced>,
    /// Segments to keep.
    pub segments: Vec<(String, Vec<u8>)>,
    /// The mirror shows less than was seen before.
    pub went_back: bool,
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
        segments: segments.filter_map(|item| SegmentName::parse(&item.name)).collect(),
    })
}

/// Reads what is new. Changes nothing here but this device's identity, if another vault is seen to use it.
pub async fn read_feeds<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    listing: &mut Listing,
    options: Options,
    observer: &mut impl Observer,
) -> Result<News, Error> {
    let mut cached = segment_names(vault)?;
    let this = vault.device().id;
    let strangers =
        listing.segments.iter().any(|segment| segment.device == this && !cached.contains(segment));
    if strangers && !options.dry_run {
        vault.take_new_identity()?;
    }
    let this = vault.device().id;
    let mut news = News::default();
    let manifest = vault.manifest()?.feeds().clone();
    let went_back = |(device, tip): &(&DeviceId, &FeedTip)| listing.last_of(**device) < tip.seq;
    let went_back = manifest.iter().filter(went_back).map(|(device, _)| *device).collect::<Vec<_>>();
    if listing.complete && !options.dry_run {
        news.went_back = !went_back.is_empty();
        for device in went_back.iter().filter(|device| **device != this) {
            observer.finding(Finding::WentBack { device: *device, name: manifest[device].name.clone() });
        }
        // This device's segments that are not there were about to be sent when it was stopped, or were lost.
        resend(vault, remote, listing, &cached, &went_back).await?;
    }
    cached = segment_names(vault)?;

    let wanted = to_read(listing, &cached, &manifest);
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
    let here = files.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
    let mut fetched = stream::iter(there.into_iter().map(|name| async move {
        let file = remote.get(&feed_path(&name), None, MAX_SEGMENT_BYTES as u64).await;
        (name, file)
    }))
    .buffer_unordered(PARALLEL);
    while let Some((name, file)) = fetched.next().await {
        match file {
            Ok(file) => files.push((name, file)),
            // Listed and merged away since: the next sync sees the merged one.
            Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let done = files.len() as u64;
        observer.progress(Progress { phase: Phase::Reading, done, total });
    }
    drop(fetched);
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    take_in(vault, files, &manifest, &here, &mut news, observer);
    Ok(news)
}

/// A cached segment, if it is there as its name promises.
fn intact_segment<H: Host>(vault: &Vault<H>, name: &SegmentName) -> Option<Vec<u8>> {
    vault.cached_segment(&name.to_string()).ok().filter(|file| name.matches(file))
}

fn segment_names<H: Host>(vault: &Vault<H>) -> Result<BTreeSet<SegmentName>, vault::Error> {
    Ok(vault.cached_segments()?.iter().filter_map(|name| SegmentName::parse(name)).collect())
}

/// The segments to read: per device as few as lead from what is known to the end, and any that claim the same
/// announcements as another one.
fn to_read(
    listing: &Listing,
    cached: &BTreeSet<SegmentName>,
    known: &BTreeMap<DeviceId, FeedTip>,
) -> BTreeSet<SegmentName> {
    let mut wanted = BTreeSet::new();
    let devices = listing.segments.iter().map(|segment| segment.device).collect::<BTreeSet<_>>();
    for device in devices {
        let segments = || listing.segments.iter().filter(|segment| segment.device == device);
        let mut next = known.get(&device).map_or(1, |tip| tip.seq.saturating_add(1));
        while let Some(best) = segments().filter(|s| s.from <= next && next <= s.to).max_by_key(|s| s.to) {
            wanted.insert(best.clone());
            next = best.to + 1;
        }
        let twin = |segment: &&SegmentName| {
            segments().any(|s| (s.from, s.to) == (segment.from, segment.to) && s.hash16 != segment.hash16)
        };
        wanted.extend(segments().filter(twin).filter(|segment| !cached.contains(*segment)).cloned());
    }
    wanted
}

/// Opens segments and takes what is new out of them. What does not belong is reported, the rest goes on.
fn take_in<H: Host>(
    vault: &Vault<H>,
    files: Vec<(SegmentName, Vec<u8>)>,
    known: &BTreeMap<DeviceId, FeedTip>,
    cached: &BTreeSet<SegmentName>,
    news: &mut News,
    observer: &mut impl Observer,
) {
    let mut tips = known.clone();
    for (name, file) in files {
        let segment = match open(vault, &name, &file) {
            Ok(segment) => segment,
            Err(problem) => {
                observer.finding(Finding::MirrorDamaged { file: format!("{FEEDS}/{name}"), problem });
                continue;
            }
        };
        for (announcement, tip) in segment.announcements {
            let before = tips.get(&name.device);
            let forked = match before {
                Some(before) if announcement.seq == before.seq => tip != before.tip,
                Some(before) if announcement.seq == before.seq + 1 => announcement.previous != before.tip,
                Some(before) if announcement.seq < before.seq => continue,
                _ => false,
            };
            if forked {
                let device = name.device;
                observer.finding(Finding::Forked { device, name: announcement.name.clone() });
            } else if before.is_some_and(|before| before.seq == announcement.seq) {
                continue;
            }
            // Both sides of a fork were written by a holder of the key: their rows count alike.
            let tip = FeedTip {
                seq: announcement.seq,
                tip,
                written_at: announcement.written_at,
                name: announcement.name,
                program: announcement.program,
            };
            tips.insert(name.device, tip.clone());
            news.announced.push(Announced { device: name.device, tip, rows: announcement.rows });
        }
        if !cached.contains(&name) {
            news.segments.push((name.to_string(), file));
        }
    }
}

fn open<H: Host>(vault: &Vault<H>, name: &SegmentName, file: &[u8]) -> Result<Segment, String> {
    if !name.matches(file) {
        return Err("damaged (its bytes are not those its name promises)".to_owned());
    }
    let segment = open_segment(vault.keyring(), file).map_err(|error| error.to_string())?;
    let first = segment.announcements.first().map(|(a, _)| a.seq);
    let last = segment.announcements.last().map(|(a, _)| a.seq);
    match (segment.device, first, last) == (name.device, Some(name.from), Some(name.to)) {
        true => Ok(segment),
        false => Err("it is not the segment its name promises".to_owned()),
    }
}

/// Notes what was read. From here on the next sync starts after it.
pub fn accept<H: Host>(vault: &mut Vault<H>, news: &News) -> Result<(), vault::Error> {
    if !news.segments.is_empty() {
        vault.cache_segments(&news.segments)?;
    }
    let mut records = Vec::new();
    for announced in &news.announced {
        records.extend(announced.rows.iter().map(|(row, at)| Record::Mirrored(row.clone(), *at)));
        records.push(Record::Feed(announced.device, announced.tip.clone()));
    }
    vault.record(&records)
}

/// Sends cached segments whose announcements the mirror does not show: this device's, and those of devices whose
/// feed went back.
async fn resend<H: Host, R: Remote>(
    vault: &Vault<H>,
    remote: &R,
    listing: &mut Listing,
    cached: &BTreeSet<SegmentName>,
    went_back: &[DeviceId],
) -> Result<(), Error> {
    let this = vault.device().id;
    let shown = |name: &SegmentName| {
        let covers =
            |seq| listing.segments.iter().any(|s| s.device == name.device && s.from <= seq && seq <= s.to);
        (name.from..=name.to).all(covers)
    };
    let lost = cached
        .iter()
        .filter(|name| (name.device == this || went_back.contains(&name.device)) && !shown(name))
        .cloned()
        .collect::<Vec<_>>();
    let sent = stream::iter(lost.into_iter().map(|name| async move {
        let Some(file) = intact_segment(vault, &name) else { return Ok(None) };
        remote.put(&feed_path(&name), Bytes::from(file)).await?;
        Ok::<_, Error>(Some(name))
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<Vec<_>>()
    .await?;
    listing.segments.extend(sent.into_iter().flatten());
    Ok(())
}
