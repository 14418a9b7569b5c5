//! Sending objects: straight to their final names, confirmed, and only then announced.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::try_join;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use super::accept::RECORDS_AT_ONCE;
use super::listing::Listing;
use super::mirror::{self, Made, TAKEN_AND_NOT_KEPT, batch_path, feed_path, file_path};
use super::plan::to_push;
use super::retire::Retirement;
use super::{Error, PARALLEL, Report, keys, no_room};
use crate::clock::Clock;
use crate::crypto::{KeySource, object_name};
use crate::event::{Finding, Observer, Phase, Progress};
use crate::format::content::PROGRAM;
use crate::format::feed::{
    Announcement, Encoded, Last, NO_TIP, Seen, SegmentName, open_last, open_segment, seal_segment,
};
use crate::format::pack::{self, MAX_PACK_BYTES};
use crate::host::Host;
use crate::id::{DeviceId, ObjectName};
use crate::manifest::{FeedTip, Location, Manifest, ObjectState, Record, Row, Subject};
use crate::remote::{Receipt, Remote, RemoteError};
use crate::vault::{self, Device, Store, Vault};

/// A push of more small objects than this goes as packs.
pub const MAX_SINGLES: usize = 8;

/// An object up to this long may go into a pack, and a file up to this long is made part of one when it is old.
pub const SMALL_BYTES: u32 = 512 << 10;

/// Files in one batch directory: a confirming listing is always small.
const MAX_BATCH_FILES: usize = 512;

/// After this much an announcement is made, so that an interrupted push is not sent again from the start.
const MAX_ROUND_BYTES: u64 = 64 << 20;

/// Joined segments are not made longer than this.
const MAX_JOINED_BYTES: usize = 256 << 10;

/// An announcement made only to say what was read is made at most this often.
const ACKNOWLEDGE_EVERY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A file to send, as a list of the objects it will hold: one for a single object, several for a pack.
type Load = Vec<Row>;

/// A file ready to be sent: the objects in it with their offsets, and its bytes.
type Assembled = (Vec<(Row, u64)>, Vec<u8>);

/// A file on its way.
struct Sent {
    at: Location,
    rows: Vec<(Row, u64)>,
    proven: bool,
}

/// What is announced beside the objects that are sent.
pub struct Announcing<'a> {
    /// The key file that is surely on the mirror.
    pub key_file: &'a str,
    /// What is sent once more, and what goes; said with the last of the objects.
    pub retirement: &'a Retirement,
    /// Whether there is something to say without any object.
    pub due: bool,
    /// The mirror, if this sync has made it.
    pub made: Option<&'a Made>,
}

/// Sends what the mirror lacks and announces it.
pub async fn push<S: Store, R: Remote>(
    vault: &mut S,
    remote: &R,
    listing: &mut Listing,
    announcing: Announcing<'_>,
    report: &mut Report,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let Announcing { key_file, retirement, due, mut made } = announcing;
    let manifest = vault.manifest()?;
    let row = |name: &ObjectName| Some(manifest.object(name)?.row.clone());
    let wanted = to_push(manifest).iter().filter_map(row).collect::<Vec<_>>();
    let again = retirement.again.iter().filter_map(row).collect::<Vec<_>>();
    let waiting = wanted.len() as u64;
    let total = waiting + again.len() as u64;
    let mut done = 0;
    // What is new goes first, and by itself: nothing that was there before holds it up.
    let mut to_send = rounds(wanted);
    to_send.extend(rounds(again));
    if to_send.is_empty() && (due || !retirement.notices.is_empty()) {
        to_send.push(Vec::new());
    }
    let last = to_send.len().saturating_sub(1);
    let nothing = Retirement::default();
    for (number, round) in to_send.into_iter().enumerate() {
        let (sent, mut refused) = send_round(vault, remote, round, made.take(), observer).await?;
        let announced = complete_only(vault.manifest()?, sent);
        let count = announced.len() as u64;
        let anew = announced.iter().filter(|(row, _)| !retirement.again.contains(&row.object)).count() as u64;
        let is_full = refused.as_ref().is_some_and(no_room);
        // A full mirror gets room again by what is released.
        let said = if number == last || is_full { retirement } else { &nothing };
        if !announced.is_empty() || refused.is_none() || (is_full && !said.notices.is_empty()) {
            match publish(vault, remote, listing, key_file, announced, said).await {
                Ok(()) => {
                    report.pushed += anew;
                    done += count;
                }
                Err(Error::Remote(error)) if no_room(&error) => {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        observer.progress(Progress { phase: Phase::Sending, done, total });
        if let Some(error) = refused {
            if !no_room(&error) {
                return Err(error.into());
            }
            postpone(waiting - report.pushed, &error, report, observer);
            return Ok(());
        }
    }
    report.unsent = waiting - report.pushed;
    Ok(())
}

/// What the server has no room for waits here; everything else of this sync is done.
pub fn postpone(waiting: u64, error: &RemoteError, report: &mut Report, observer: &mut dyn Observer) {
    report.unsent = waiting;
    let what = match waiting {
        0 => "only housekeeping waits".to_owned(),
        items => format!("{items} items wait here"),
    };
    observer.finding(Finding::Postponed { reason: format!("{error}; {what}") });
}

/// When an announcement without rows is due: at once for the first, which makes this device known, for a new name, for a
/// key file that nobody has announced, and for what was decided here of deletions and devices; a day after the last one
/// if others' announcements were read or a key file was taken in since; `None` if there is nothing to say.
///
/// Of the key files in `announced` it is known that somebody has announced them.
pub fn announcement_due_at<H: Host>(
    vault: &mut Vault<H>,
    announced: &BTreeSet<String>,
) -> Result<Option<i64>, Error> {
    let Device { id: this, name } = vault.device().clone();
    let manifest = vault.manifest()?;
    let unsaid = !manifest.unsaid().is_empty() || manifest.is_retired(this);
    if unsaid || manifest.feeds().get(&this).is_none_or(|own| own.name != name) {
        return Ok(Some(i64::MIN));
    }
    let key_file = vault.key_file()?.file_name();
    // Nobody has been told of a key file made here.
    if !announced.contains(&key_file) && !keys::announced(vault)?.values().any(|said| *said == key_file) {
        return Ok(Some(i64::MIN));
    }
    acknowledgement_due_at(vault, &key_file)
}

/// When the others are to be told what was read of their feeds, and that `key_file` was taken in.
pub fn acknowledgement_due_at<S: Store>(vault: &mut S, key_file: &str) -> Result<Option<i64>, Error> {
    let this = vault.device().id;
    let feeds = vault.manifest()?.feeds().clone();
    let Some(own) = feeds.get(&this) else { return Ok(Some(i64::MIN)) };
    let last = last_said(vault, this, own.seq)?;
    // What was said under a key that was replaced is believed when it is said on under the new one.
    if last.as_ref().is_some_and(|last| last.epoch < vault.keys().current_epoch()) {
        return Ok(Some(i64::MIN));
    }
    let is_key_file_said = last.as_ref().is_some_and(|last| last.key_file == key_file);
    let said = last.map_or_else(BTreeMap::new, |last| last.seen);
    let news = feeds
        .iter()
        .filter(|(device, _)| **device != this)
        .any(|(device, tip)| said.get(device).is_none_or(|seen| seen.seq < tip.seq));
    Ok((news || !is_key_file_said).then(|| own.written_at.saturating_add(ACKNOWLEDGE_EVERY_MS)))
}

/// What announcement `seq` of a device says, from a cached segment that ends with it, under the newest key there is one
/// under.
pub fn last_said<S: Store>(vault: &S, device: DeviceId, seq: u64) -> Result<Option<Last>, vault::Error> {
    let mut last = None::<Last>;
    for name in vault.cached_segments()? {
        let Some(parsed) = SegmentName::parse(&name) else { continue };
        if parsed.device == device && parsed.to == seq {
            let Ok(said) = open_last(vault.keys(), &vault.cached_segment(&name)?) else { continue };
            if last.as_ref().is_none_or(|last| last.epoch < said.epoch) {
                last = Some(said);
            }
            if last.as_ref().is_some_and(|last| last.epoch == vault.keys().current_epoch()) {
                break;
            }
        }
    }
    Ok(last)
}

/// Cuts a push into files, and the files into rounds.
fn rounds(rows: Vec<Row>) -> Vec<Vec<Load>> {
    let small = rows.iter().filter(|row| row.len_bytes <= SMALL_BYTES).count();
    let mut rounds = Vec::<Vec<Load>>::new();
    let mut round_bytes = u64::MAX;
    let mut open_pack: Option<(usize, usize)> = None;
    for row in rows {
        let len = row.len_bytes as usize;
        if round_bytes.saturating_add(len as u64) > MAX_ROUND_BYTES
            || rounds.last().is_none_or(|round| round.len() >= MAX_BATCH_FILES / 2)
        {
            rounds.push(Vec::new());
            (round_bytes, open_pack) = (0, None);
        }
        let Some(round) = rounds.last_mut() else { unreachable!("a round was just made") };
        round_bytes += len as u64;
        let packable = small > MAX_SINGLES && row.len_bytes <= SMALL_BYTES;
        match open_pack.filter(|_| packable) {
            Some((load, bytes)) if pack::table_len(round[load].len() + 1) + bytes + len <= MAX_PACK_BYTES => {
                round[load].push(row);
                open_pack = Some((load, bytes + len));
            }
            _ => {
                if packable {
                    open_pack = Some((round.len(), len));
                }
                round.push(vec![row]);
            }
        }
    }
    rounds
}

/// Sends one round and confirms it. Gives what is surely there, and the error that ended it early, if one did.
async fn send_round<S: Store, R: Remote>(
    vault: &mut S,
    remote: &R,
    round: Vec<Load>,
    made: Option<&Made>,
    observer: &mut dyn Observer,
) -> Result<(Vec<(Row, Location)>, Option<RemoteError>), Error> {
    let batch = match choose_batch(vault, remote, round.len(), made.is_some()).await {
        Ok(batch) => batch,
        Err(Error::Remote(error)) if no_room(&error) => return Ok((Vec::new(), Some(error))),
        Err(error) => return Err(error),
    };
    let writer = vault.device().id;
    let mut sent = Vec::new();
    let mut refused = None;
    let mut loads = round.into_iter().peekable();
    let mut under_way = stream::FuturesUnordered::new();
    loop {
        let may_begin = loads.peek().is_some() && under_way.len() < PARALLEL && refused.is_none();
        let answer = if may_begin {
            // What the server has taken meanwhile is let go of before the next file is made.
            give_way().await;
            under_way.next().now_or_never().flatten()
        } else {
            under_way.next().await
        };
        match answer {
            Some((at, rows, Ok(receipt))) => sent.push(Sent { at, rows, proven: receipt == Receipt::Proven }),
            // The rest of what is under way may still be stored; it is confirmed with the others.
            Some((.., Err(error))) => refused = Some(error),
            None if !may_begin => break,
            None => {
                let Some(load) = loads.next() else { continue };
                let Some((rows, file)) = assemble(vault, load, observer)? else { continue };
                let name = object_name(&file);
                // What was released here once will be removed here.
                let is_released = vault.manifest()?.released().contains_key(&(writer, batch, name));
                let batch = if is_released { spare_batch(vault)? } else { batch };
                let file_len_bytes = file.len() as u64;
                let at = Location { writer, batch, file: name, file_len_bytes, offset: 0 };
                under_way.push(async move {
                    let put = async {
                        if is_released {
                            // Here, where the others go on meanwhile: they may be all that the mirror takes at once.
                            mirror::make_dir(remote, &batch_path(writer, batch)).await?;
                        }
                        mirror::put(remote, &file_path(&at), Bytes::from(file)).await
                    };
                    (at, rows, put.await)
                });
            }
        }
    }
    drop(under_way);
    let marker = async {
        match made.and_then(|made| made.marker.as_ref()) {
            Some(marker) => Ok(marker.confirm(remote).await?),
            None => Ok(()),
        }
    };
    let (confirmed, ()) = try_join(confirm(remote, sent, observer), marker).await?;
    Ok((confirmed, refused))
}

/// Lets what is under way go on, as far as it can.
async fn give_way() {
    // Once to be told what has come, and once for what follows from it.
    let mut turns = 2;
    poll_fn(|context| {
        if turns == 0 {
            return Poll::Ready(());
        }
        turns -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Reads the objects of a load and makes the file that holds them. Damaged ones are left out and reported.
fn assemble<S: Store>(
    vault: &mut S,
    load: Load,
    observer: &mut dyn Observer,
) -> Result<Option<Assembled>, Error> {
    let is_pack = load.len() > 1;
    let mut rows = Vec::with_capacity(load.len());
    let len_bytes = load.iter().map(|row| row.len_bytes as usize).sum();
    let mut pack =
        if is_pack { pack::Builder::with_capacity(load.len(), len_bytes) } else { pack::Builder::default() };
    for row in load {
        match vault.object_bytes(&row.object) {
            Ok(bytes) if is_pack => pack.add(row.object, &bytes),
            Ok(bytes) => return Ok(Some((vec![(row, 0)], bytes))),
            Err(vault::Error::Damaged { object, entry, problem }) => {
                observer.finding(Finding::Damaged { object, entry, problem });
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let (file, offsets) = pack.finish();
    Ok(Some((rows.into_iter().zip(offsets).collect(), file)))
}

/// The batch directory for `files` more files: the one in use, or the next one, made.
async fn choose_batch<S: Store, R: Remote>(
    vault: &mut S,
    remote: &R,
    files: usize,
    has_batch: bool,
) -> Result<u32, Error> {
    let this = vault.device().id;
    let manifest = vault.manifest()?;
    let places = manifest.objects().flat_map(ObjectState::places).map(|at| at.file_place());
    let not_removed = manifest.released().iter().filter(|(_, removed)| !**removed).map(|(file, _)| *file);
    let mut in_use = BTreeMap::<u32, BTreeSet<ObjectName>>::new();
    for (_, batch, file) in places.chain(not_removed).filter(|(writer, ..)| *writer == this) {
        in_use.entry(batch).or_default().insert(file);
    }
    let last = in_use.last_key_value().map(|(batch, files)| (*batch, files.len()));
    let known = manifest.feeds().contains_key(&this);
    let (batch, exists) = match last {
        Some((batch, used)) if used + files <= MAX_BATCH_FILES => (batch, true),
        Some((batch, _)) => (batch + 1, false),
        // The first announcement comes with the first directory.
        None => (1, known || has_batch),
    };
    if !exists {
        mirror::make_dir(remote, &batch_path(this, batch)).await?;
    }
    Ok(batch)
}

/// A batch in which nothing of this device was released.
fn spare_batch<S: Store>(vault: &mut S) -> Result<u32, vault::Error> {
    let this = vault.device().id;
    let released = vault.manifest()?.released().keys().filter(|(device, ..)| *device == this);
    Ok(released.map(|(_, batch, _)| *batch).max().map_or(1, |last| last.saturating_add(1)))
}

/// Makes sure that what was accepted is there in full: by one listing, or by asking for a single file.
async fn confirm<R: Remote>(
    remote: &R,
    sent: Vec<Sent>,
    observer: &mut dyn Observer,
) -> Result<Vec<(Row, Location)>, Error> {
    let unproven = sent.iter().filter(|sent| !sent.proven).collect::<Vec<_>>();
    let mut seen = BTreeMap::<ObjectName, u64>::new();
    if let [_, _, ..] = unproven[..]
        && let Some(listing) = remote.list(&batch_path(unproven[0].at.writer, unproven[0].at.batch)).await?
    {
        for item in listing.items {
            if let (Ok(file), Some(len)) = (item.name.parse(), item.len_bytes) {
                seen.insert(file, len);
            }
        }
    }
    // What a listing does not show, or shows without a length, is asked for by name.
    let ask = unproven.iter().filter(|sent| !seen.contains_key(&sent.at.file)).map(|sent| sent.at);
    let asked = stream::iter(ask.collect::<Vec<_>>().into_iter().map(|at| async move {
        let len = remote.size(&file_path(&at)).await?;
        Ok::<_, Error>((at.file, len))
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<Vec<_>>()
    .await?;
    seen.extend(asked.into_iter().filter_map(|(file, len)| Some((file, len?))));
    let mut confirmed = Vec::new();
    for sent in &sent {
        if sent.proven || seen.get(&sent.at.file) == Some(&sent.at.file_len_bytes) {
            confirmed.extend(
                sent.rows.iter().map(|(row, offset)| (row.clone(), Location { offset: *offset, ..sent.at })),
            );
        } else {
            observer.finding(Finding::MirrorDamaged {
                file: file_path(&sent.at).to_string(),
                problem: TAKEN_AND_NOT_KEPT.to_owned(),
            });
        }
    }
    Ok(confirmed)
}

/// Leaves out versions with parts that are here and not on the mirror yet: they are announced when those are. A part
/// that was lost holds nothing back: the text is worth keeping without it.
fn complete_only(manifest: &Manifest, confirmed: Vec<(Row, Location)>) -> Vec<(Row, Location)> {
    let here = confirmed.iter().map(|(row, _)| row.object).collect::<BTreeSet<_>>();
    let on_mirror = |part: &ObjectName| {
        here.contains(part) || manifest.object(part).is_none_or(|state| !state.here || state.is_mirrored())
    };
    let complete = |row: &Row| match &row.subject {
        Subject::Part => true,
        Subject::Version(version) => {
            let summary = manifest.version(version.id).and_then(|state| state.summary.as_ref());
            summary.is_none_or(|summary| summary.parts.iter().all(on_mirror))
        }
    };
    confirmed.into_iter().filter(|(row, _)| complete(row)).collect()
}

/// Announces rows: one segment, kept here before it is sent, so that after a crash it is known for this device's.
async fn publish<S: Store, R: Remote>(
    vault: &mut S,
    remote: &R,
    listing: &mut Listing,
    key_file: &str,
    rows: Vec<(Row, Location)>,
    retirement: &Retirement,
) -> Result<(), Error> {
    let device = vault.device().clone();
    let written_at = vault.host().clock().now_ms();
    let feeds = vault.manifest()?.feeds();
    let own = feeds.get(&device.id);
    let seen = feeds
        .iter()
        .filter(|(other, _)| **other != device.id)
        .map(|(other, tip)| (*other, Seen { seq: tip.seq, tip: tip.tip }));
    let announcement = Announcement {
        seq: own.map_or(1, |tip| tip.seq + 1),
        previous: own.map_or(NO_TIP, |tip| tip.tip),
        written_at,
        name: device.name.clone(),
        program: PROGRAM.to_owned(),
        key_file: key_file.to_owned(),
        seen: seen.collect(),
        rows,
        notices: retirement.notices.clone(),
    };
    let encoded = Encoded::new(&announcement, device.id, vault.keys());
    let tip = FeedTip {
        seq: announcement.seq,
        tip: encoded.tip(device.id),
        written_at,
        name: device.name.clone(),
        program: PROGRAM.to_owned(),
    };
    let mut joined = earlier(vault, announcement.seq)?;
    let from = announcement.seq - joined.len() as u64;
    joined.push(encoded);
    let file =
        seal_segment(vault.keys(), device.id, &joined, vault.host().entropy()).map_err(vault::Error::from)?;
    drop(joined);
    let name = SegmentName::new(device.id, from, announcement.seq, &file);
    let file = Bytes::from(file);
    vault.cache_segments(&BTreeMap::from([(name.to_string(), file.clone())]))?;
    let len_bytes = file.len() as u64;
    mirror::put(remote, &feed_path(&name), file).await?;
    listing.segments.insert(name, Some(len_bytes));
    let mut records = Vec::new();
    for (row, at) in announcement.rows {
        if records.len() >= RECORDS_AT_ONCE {
            vault.record(&records)?;
            records.clear();
        }
        records.push(Record::Mirrored(row, at));
    }
    records.push(Record::Feed(device.id, tip));
    records.extend(retirement.records(device.id));
    vault.record(&records)?;
    Ok(())
}

/// The announcements before `seq` that go into its segment again, so that few segments lead through any feed: as
/// many as `seq` has factors of two, as a binary counter carries.
fn earlier<S: Store>(vault: &S, seq: u64) -> Result<Vec<Encoded>, Error> {
    let this = vault.device().id;
    let names = vault.cached_segments()?;
    let names = names.iter().filter_map(|name| SegmentName::parse(name)).filter(|name| name.device == this);
    let names = names.collect::<Vec<_>>();
    let first = seq + 1 - (1 << seq.trailing_zeros());
    let mut joined = Vec::<Encoded>::new();
    let mut next = seq;
    let mut len_bytes = 0;
    while next > first {
        let ending_here = names.iter().filter(|name| name.to == next - 1 && name.from >= first);
        let Some(name) = ending_here.min_by_key(|name| name.from) else { break };
        // That of a first upload is opened for nothing: what is in it is too long, whatever its padding.
        if vault.cached_segment_len(&name.to_string())?.is_some_and(|len| len > 2 * MAX_JOINED_BYTES as u64) {
            break;
        }
        let Ok(segment) = open_segment(vault.keys(), &vault.cached_segment(&name.to_string())?) else {
            break;
        };
        len_bytes += segment.encoded.iter().map(Encoded::len_bytes).sum::<usize>();
        if len_bytes > MAX_JOINED_BYTES {
            break;
        }
        next = name.from;
        joined.splice(0..0, segment.encoded);
    }
    Ok(joined)
}

/// This device's segments that the mirror has shown in full.
pub fn shown_whole<'a, H: Host>(
    vault: &Vault<H>,
    shown: &'a BTreeMap<SegmentName, Option<u64>>,
) -> Result<Vec<&'a SegmentName>, Error> {
    let mut whole = Vec::new();
    for (name, len_bytes) in shown.iter().filter(|(name, _)| name.device == vault.device().id) {
        if len_bytes.is_none() || *len_bytes == vault.cached_segment_len(&name.to_string())? {
            whole.push(name);
        }
    }
    Ok(whole)
}

/// Removes this device's segments that a longer one repeats. Only what the mirror itself has `shown` in full counts as
/// longer: what was sent just now may have been taken and not kept.
pub async fn tidy<H: Host, R: Remote>(
    vault: &Vault<H>,
    remote: &R,
    shown: &BTreeMap<SegmentName, Option<u64>>,
    listing: &mut Listing,
) -> Result<(), Error> {
    let this = vault.device().id;
    let whole = shown_whole(vault, shown)?;
    let own = listing.segments.keys().filter(|name| name.device == this);
    let repeated = own.filter(|name| whole.iter().any(|other| other.repeats(name)));
    let repeated = repeated.cloned().collect::<Vec<_>>();
    let removed = stream::iter(repeated.into_iter().map(|name| async move {
        remote.delete(&feed_path(&name)).await?;
        Ok::<_, Error>(name)
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<Vec<_>>()
    .await?;
    for name in removed {
        vault.drop_cached_segment(&name.to_string())?;
        listing.segments.remove(&name);
    }
    Ok(())
}
