//! Keeping a vault and its mirror the same: a set union of immutable versions.
//!
//! One sync is a straight line: read the other devices' feeds, plan, ask the guard, fetch, push, report.
//! Every prefix of it is a fine place to stop; the next sync goes on from there.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Clock;
use crate::event::{Finding, Observer};
use crate::format::feed::SegmentName;
use crate::history::Retention;
use crate::host::Host;
use crate::manifest::Record;
use crate::remote::{Remote, RemoteError, RemoteErrorKind};
use crate::vault::{self, Store, Vault};

mod accept;
mod arriving;
mod belief;
mod devices;
mod exposure;
mod fetch;
mod guard;
mod keys;
mod listing;
mod mirror;
mod news;
mod plan;
mod push;
mod read;
mod reader;
mod repair;
mod report;
mod resend;
mod retire;
mod scrub;
mod segments;
mod trial;
mod unattended;

pub use devices::{DeviceState, devices, unreadable_by};
pub use exposure::{Activity, Exposure, exposure};
pub use guard::Guard;
pub use mirror::{Introduction, introduce};
pub use plan::{Plan, plan};
pub use repair::{RepairOptions, RepairReport, Repaired, Reverted, Source, Thing, Unrepaired, repair};
pub use report::Report;
pub use scrub::{BadFile, ScrubReport, Share, What, scrub};
pub use trial::{Place, Step, Trial, trial};
pub use unattended::{sync_locked, take_in};

use listing::{Listing, list_feeds};
use mirror::{Found, Root};

/// How to sync.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Change nothing anywhere; say what would be done.
    pub dry_run: bool,
    /// Take in deletions however many they are.
    pub accept_deletes: bool,
    /// Fill a mirror that has lost its content again.
    pub reseed: bool,
    /// Look at every file on the mirror by name and size, and at every object here.
    pub full: bool,
    /// How long what was superseded is kept.
    pub retention: Retention,
    /// So many old small files of this device may lie on the mirror; of more, packs are made.
    pub small_files: usize,
}

impl Options {
    /// An ordinary sync.
    pub const DEFAULT: Self = Self {
        dry_run: false,
        accept_deletes: false,
        reseed: false,
        full: false,
        retention: Retention::DEFAULT,
        small_files: 64,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a sync stopped. What was transferred before stays transferred.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No mirror was set.
    #[error("no mirror is set")]
    NoRemote,
    /// There is nothing of Espejo's at the address.
    #[error("there is no mirror here")]
    NoMirror,
    /// The mirror is in a newer format.
    #[error("this mirror needs a newer version of espejo")]
    Newer,
    /// Something looks wrong enough to do nothing.
    #[error(transparent)]
    Guard(#[from] Guard),
    /// The mirror.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] vault::Error),
}

/// Requests that are made at once: as many as may be under way.
const PARALLEL: usize = crate::remote::MOST_AT_ONCE;

/// Housekeeping: how often the mirror's files are looked for, and obsolete ones of this device removed.
const TIDY_EVERY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Brings the vault and its mirror together.
///
/// Nothing new on either side costs one request, whatever the vault's size.
pub async fn sync<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    options: Options,
    observer: &mut dyn Observer,
) -> Result<Report, Error> {
    let _one_at_a_time = vault.sync_lock()?;
    let before = remote.traffic();
    let settings = vault.remote_settings()?.ok_or(Error::NoRemote)?;
    let state = vault.sync_state()?;
    if options.full && !options.dry_run {
        for (object, entry, problem) in vault.check()?.corrupt {
            observer.finding(Finding::Damaged { object, entry, problem });
        }
    }
    let look_closer = vault.is_to_look_closer();
    let report = Report { dry_run: options.dry_run, ..Report::default() };
    let root = if settings.initialised { Root::NotAsked } else { mirror::look(remote).await? };
    let mut listing = match root {
        Root::Absent => Listing::default(),
        Root::NotAsked | Root::There(_) => list_feeds(remote).await?,
    };
    let shown = listing.segments.clone();
    let started_at = vault.host().clock().now_ms();
    let tidy_due = state.tidied_at != 0 && started_at.saturating_sub(state.tidied_at) > TIDY_EVERY_MS;
    let wanted = tidy_due || look_closer || options.full || options.reseed || !settings.initialised;
    if !wanted && is_nothing_new(vault, &state, &listing, started_at)? {
        if !options.dry_run {
            vault.note_sync(started_at)?;
        }
        return Ok(report.with_traffic(before, remote.traffic()));
    }

    vault.manifest()?;
    let mut key_file = state.key_file.clone();
    let mut found = None;
    if !settings.initialised || options.reseed || !listing.continues(vault.manifest()?) {
        // The password may be changed meanwhile: what is sent is at least this.
        let sent = vault.key_file()?.file_name();
        let it = mirror::examine(vault, remote, &settings, root, listing.exists, options, observer).await?;
        if it == Found::Nothing {
            let plan = plan(vault.manifest()?, &[]);
            return Ok(report.planned(&plan).with_traffic(before, remote.traffic()));
        }
        if it != Found::Ours {
            key_file = sent;
        }
        if it != Found::Ours || !listing.exists {
            listing = Listing { exists: true, complete: true, ..Listing::default() };
        }
        found = Some(it);
    }

    let start =
        Start { settings, state, listing, shown, key_file, found, look_closer, tidy_due, at_ms: started_at };
    let report = exchange(vault, remote, options, start, report, observer).await?;
    Ok(report.with_traffic(before, remote.traffic()))
}

/// What a sync has found out before anything goes to and fro.
struct Start {
    settings: vault::RemoteSettings,
    state: vault::SyncState,
    listing: Listing,
    /// The feeds as the mirror showed them, before anything was sent.
    shown: BTreeMap<SegmentName, Option<u64>>,
    /// The key file that is known to be on the mirror.
    key_file: String,
    /// What was found, if this mirror was looked at as one that is not known.
    found: Option<Found>,
    /// Whether what it shows is not to be relied on.
    look_closer: bool,
    tidy_due: bool,
    at_ms: i64,
}

/// Reads what is new on the mirror, fetches and sends what is missing on either side, and writes down how far it came.
async fn exchange<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    options: Options,
    start: Start,
    mut report: Report,
    observer: &mut dyn Observer,
) -> Result<Report, Error> {
    let Start { settings, state, mut listing, shown, mut key_file, found, look_closer, tidy_due, at_ms } =
        start;
    let mut news = read::read_feeds(vault, remote, &mut listing, options, observer).await?;
    news.went_back |= look_closer;
    let plan = plan(vault.manifest()?, &news.announced);
    guard::check(&plan, options.accept_deletes)?;
    if options.dry_run {
        return Ok(report.planned(&plan));
    }
    accept::accept(vault, &mut news, observer)?;
    let push_len = plan.push.len();
    drop(plan);
    retire::retire_former(vault)?;
    let look_closer = options.full || news.went_back || tidy_due;
    // In a mirror made anew nobody has put any yet.
    let made = found.as_ref().and_then(Found::made);
    let may_hold_others = found.is_some() && !made.is_some_and(|made| made.anew);
    let look_at_all = look_closer || may_hold_others || news.beyond;
    let picked_up = keys::pick_up(vault, remote, &mut key_file, look_at_all, observer).await?;
    let look = keys::Look::after(options.full, news.went_back || tidy_due || !picked_up.is_whole);
    let no_room = keys::make_sure(vault, remote, &mut key_file, look, observer).await?.or(news.no_room);
    let lost = match look_closer {
        true => mirror::find_lost(vault, remote, options.full, observer).await?,
        false => Vec::new(),
    };
    if found.is_none() && (options.full || tidy_due || push_len > push::MAX_SINGLES) {
        // One edit is not worth the request; without the feeds it would have been noticed anyway. Who comes new needs it.
        mirror::require_marker(vault, remote, observer).await?;
    }
    if vault.has_arrivals() {
        report.pulled += fetch::take_in_stored(vault)?;
    }
    fetch::fetch(vault, remote, &mut report, observer).await?;
    if !news.forgotten.is_empty() {
        accept::announce_again(vault)?;
    }
    let retirement = retire::retire(vault, options, at_ms, tidy_due, &mut report)?;
    let pushed = if let Some(error) = &no_room {
        // An announcement is waiting to be sent again, or a key file, and what follows it must wait too.
        let waiting = plan::to_push(vault.manifest()?).len() as u64;
        push::postpone(waiting, error, &mut report, observer);
        Ok(())
    } else {
        let now_ms = vault.host().clock().now_ms();
        // What is sent is announced anyway; and to see what was said last its whole segment is unsealed.
        let due = plan::to_push(vault.manifest()?).is_empty()
            && push::announcement_due_at(vault, &picked_up.announced)?.is_some_and(|due| due <= now_ms);
        let announcing = push::Announcing { key_file: &key_file, retirement: &retirement, due, made };
        let pushed = push::push(vault, remote, &mut listing, announcing, &mut report, observer).await;
        // Before that its marker may be torn, and the next sync must look.
        if pushed.is_ok() && made.is_some() {
            mirror::remember(vault, &settings)?;
        }
        pushed
    };
    // What was mended is told even if the rest could not be sent.
    report.repaired += mirror::tell_healed(vault, &lost, observer)?;
    pushed?;

    let now_ms = vault.host().clock().now_ms();
    let mut next = vault::SyncState { key_file, ..state };
    // A clock that went back begins the day anew.
    if tidy_due || next.tidied_at == 0 || next.tidied_at > now_ms {
        next.tidied_at = now_ms;
    }
    if tidy_due {
        // What follows from what was said today is done tomorrow, whatever fails now.
        vault.set_sync_state(&next)?;
        push::tidy(vault, remote, &shown, &mut listing).await?;
        keys::tidy(vault, remote).await?;
        retire::remove_released(vault, remote, &shown).await?;
    }
    vault.condense_after(report.pulled + report.pushed)?;
    let manifest = vault.manifest()?;
    report.pending = manifest.absent().count() as u64 + news.unread + picked_up.pending;
    report.conflicts = manifest.counts().conflicts;
    // What another process added meanwhile is not settled.
    let settled = report.is_settled() && no_room.is_none() && plan::to_push(manifest).is_empty();
    next.listing = if settled { listing.digest() } else { [0; 32] };
    remember(vault, next, &picked_up.announced, now_ms)?;
    for finding in vault.take_findings() {
        report.repaired += u64::from(matches!(finding, Finding::Healed { .. }));
        observer.finding(finding);
    }
    Ok(report)
}

/// Whether the mirror and the vault are as the last sync left them, and nothing is due.
fn is_nothing_new<H: Host>(
    vault: &Vault<H>,
    state: &vault::SyncState,
    listing: &Listing,
    now_ms: i64,
) -> Result<bool, vault::Error> {
    let mark = vault.mark()?;
    Ok((state.acknowledge_at == 0 || now_ms < state.acknowledge_at)
        && state.listing == listing.digest()
        && (&state.manifest, state.manifest_len) == (&mark.file, mark.len)
        && listing.marker_seen != Some(false)
        && state.key_file == vault.key_file()?.file_name())
}

/// Writes down how far this sync came. What another process added meanwhile is not part of the mark.
fn remember<H: Host>(
    vault: &mut Vault<H>,
    state: vault::SyncState,
    announced: &BTreeSet<String>,
    now_ms: i64,
) -> Result<(), Error> {
    let mark = vault.known_mark();
    let acknowledge_at = push::announcement_due_at(vault, announced)?.unwrap_or(0);
    let state = vault::SyncState { acknowledge_at, manifest: mark.file, manifest_len: mark.len, ..state };
    vault.set_sync_state(&state)?;
    vault.settle_unattended()?;
    Ok(vault.note_sync(now_ms)?)
}

/// Whether the mirror refused a file for its size, or because it is full. Reading goes on all the same.
fn no_room(error: &RemoteError) -> bool {
    matches!(error.kind, RemoteErrorKind::Full | RemoteErrorKind::TooLarge)
}

/// Whether an answer shows that this one file is not what it should be, and says nothing about the mirror.
fn makes_no_sense(error: &RemoteError) -> bool {
    matches!(error.kind, RemoteErrorKind::Oversize | RemoteErrorKind::Malformed)
}

/// Forgets where objects lie on a mirror that lost them, but not what was read of the feeds. What never came here keeps
/// its place: whoever has it may find it there, and then nobody announces it again.
fn forget_locations<H: Host>(vault: &mut Vault<H>) -> Result<(), vault::Error> {
    let manifest = vault.manifest()?;
    let never_here = manifest.objects().filter(|state| !state.was_here);
    let awaited =
        never_here.flat_map(|state| state.places().map(|at| Record::Mirrored(state.row.clone(), at)));
    let records = std::iter::once(Record::NewMirror).chain(manifest.standing_records()).chain(awaited);
    let records = records.collect::<Vec<_>>();
    vault.record(&records)
}

/// How many entries each device, by name, would delete.
type Deletes = BTreeMap<String, u64>;
