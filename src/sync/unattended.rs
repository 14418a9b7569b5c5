//! Syncing while the vault is locked: sealed files in both directions, by the keys of the feeds alone.
//!
//! Nothing is merged, nothing mended, no key file taken in or sent: all that waits for a sync with all the keys, and so
//! does whatever looks odd.

use super::guard::{self, Guard};
use super::mirror::{self, MirrorMarker};
use super::plan::{plan, to_push};
use super::retire::Retirement;
use super::{Error, Report, accept, fetch, listing, push, read};
use crate::clock::Clock;
use crate::crypto::KeySource;
use crate::event::Observer;
use crate::host::Host;
use crate::remote::Remote;
use crate::vault::{self, Note, Store, Unattended, Vault};

/// Sends what waits here and fetches what others announced. What is fetched is verified by its hash, which a holder of the
/// keys announced, and taken in when the vault is opened next.
///
/// Nothing new on either side costs one request, whatever the vault's size.
pub async fn sync_locked<H: Host, R: Remote>(
    vault: &mut Unattended<H>,
    remote: &R,
    observer: &mut dyn Observer,
) -> Result<Report, Error> {
    let _one_at_a_time = vault.sync_lock()?;
    let before = remote.traffic();
    let note = vault.note();
    let mut report = Report { conflicts: vault.known_conflicts(), ..Report::default() };
    let mut listing = listing::list_feeds(remote).await?;
    let now_ms = vault.host().clock().now_ms();
    let silent = note.acknowledge_at == 0 || now_ms < note.acknowledge_at;
    let unchanged = silent && note.listing == listing.digest() && listing.marker_seen != Some(false);
    if unchanged && !vault.has_outgoing()? {
        vault.finish(&note, 0)?;
        return Ok(report.with_traffic(before, remote.traffic()));
    }
    if !listing.continues(vault.manifest()?) {
        require_ours(vault, remote).await?;
    }
    let mut news = read::read_locked(vault, remote, &mut listing, observer).await?;
    if !news.announced.is_empty() {
        // First, so that whatever is kept is taken in.
        vault.set_note(&Note { arrived: true, listing: [0; 32], ..vault.note() })?;
    }
    if !news.segments.is_empty() {
        vault.cache_segments(&std::mem::take(&mut news.segments))?;
    }
    accept::note(vault, std::mem::take(&mut news.announced))?;
    fetch::fetch(vault, remote, &mut report, observer).await?;
    let key_file = vault.key_file().to_owned();
    match &news.no_room {
        None => {
            let due = to_push(vault.manifest()?).is_empty()
                && push::acknowledgement_due_at(vault, &key_file)?.is_some_and(|due| due <= now_ms);
            let retirement = Retirement::default();
            let announcing =
                push::Announcing { key_file: &key_file, retirement: &retirement, due, made: None };
            push::push(vault, remote, &mut listing, announcing, &mut report, observer).await?;
        }
        // An announcement is waiting to be sent again, and what follows it must wait too.
        Some(error) => {
            let waiting = to_push(vault.manifest()?).len() as u64;
            push::postpone(waiting, error, &mut report, observer);
        }
    }
    let manifest = vault.manifest()?;
    report.pending = manifest.absent().count() as u64 + news.unread;
    let settled = report.is_settled() && news.no_room.is_none() && to_push(manifest).is_empty();
    let after = Note {
        listing: if settled { listing.digest() } else { [0; 32] },
        acknowledge_at: push::acknowledgement_due_at(vault, &key_file)?.unwrap_or(0),
        arrived: report.pulled > 0 || vault.note().arrived,
        ..vault.note()
    };
    vault.finish(&after, report.pushed)?;
    Ok(report.with_traffic(before, remote.traffic()))
}

/// Stops if the mirror shows nothing of what is known of it: what that means, and what to do, is not for a locked vault.
async fn require_ours<H: Host, R: Remote>(vault: &Unattended<H>, remote: &R) -> Result<(), Error> {
    match mirror::read_marker(remote).await? {
        MirrorMarker::Of(id) if id != vault.keys().vault() => Err(Guard::OtherVault(id).into()),
        MirrorMarker::Missing => Err(Guard::MirrorGone.into()),
        MirrorMarker::Of(_) | MirrorMarker::Damaged => {
            Err(vault::Error::PasswordNeeded("the mirror has lost what was known of it").into())
        }
    }
}

/// Takes in what was fetched while the vault was locked, without asking the mirror. Says how many objects. What a sync
/// would stop at, or what another process is about to take in, stays where it is.
pub async fn take_in<H: Host>(vault: &mut Vault<H>, observer: &mut dyn Observer) -> Result<u64, Error> {
    let Some(_one_at_a_time) = vault.try_sync_lock()? else { return Ok(0) };
    let mut news = read::read_kept(vault, observer).await?;
    let plan = plan(vault.manifest()?, &news.announced);
    if guard::check(&plan, false).is_err() {
        return Ok(0);
    }
    accept::accept(vault, &mut news, observer)?;
    let taken = fetch::take_in_stored(vault)?;
    vault.note_taken_in()?;
    Ok(taken)
}
