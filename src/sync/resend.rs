//! Segments that the mirror has lost, or never got whole, are sent again by whoever has them.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::listing::Listing;
use super::mirror::{self, FEEDS, feed_path};
use super::segments::{intact_segment, segment_names};
use super::{Error, PARALLEL, no_room};
use crate::event::{Finding, Observer};
use crate::format::feed::SegmentName;
use crate::id::DeviceId;
use crate::remote::{Remote, RemoteError};
use crate::vault::{self, Store};

/// Sends cached segments the mirror does not show in full: this device's (it may have been stopped before they were
/// sent), those of devices whose feed went back, and any that are shown with another length than they have or were
/// found `damaged`. Gives the refusal if the mirror has no room for one.
pub async fn resend<S: Store, R: Remote>(
    vault: &S,
    remote: &R,
    listing: &mut Listing,
    went_back: &[DeviceId],
    damaged: &BTreeSet<SegmentName>,
    observer: &mut dyn Observer,
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
pub fn behind(
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
pub async fn send_again<S: Store, R: Remote>(
    vault: &S,
    remote: &R,
    listing: &mut Listing,
    lost: Vec<(SegmentName, bool)>,
    observer: &mut dyn Observer,
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

/// Whether a cached segment is shown with another length than it has here.
pub fn has_another_length<S: Store>(
    vault: &S,
    listing: &Listing,
    name: &SegmentName,
) -> Result<bool, vault::Error> {
    match listing.segments.get(name) {
        Some(Some(len)) => Ok(vault.cached_segment_len(&name.to_string())? != Some(*len)),
        _ => Ok(false),
    }
}
