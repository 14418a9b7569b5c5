//! What a watch does beside syncing: the backup that is due, and every day a look at a little of what is here and on the
//! mirror.

use std::time::Duration;

use espejo::clock::Clock as _;
use espejo::event::Finding;
use espejo::host::Host as _;
use espejo::id::ObjectName;
use espejo::remote::{AnyRemote, Retrying};
use espejo::sync::{self, ScrubReport, Share};
use espejo::vault::{self, BackupPlan, Made, Store as _};

use super::brake::{Brake, Braked, BrakedClock};
use super::pace::At;
use crate::context::ThisVault;

/// How often to look whether something is due: no backup is asked for more often than every minute.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// What failed is not tried again before.
const AFTER_FAILURE: Duration = Duration::from_hours(1);
/// Nothing must have moved for so long: who writes an entry now comes first.
const QUIET: Duration = Duration::from_secs(20);

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// So much is read a day, here and of the mirror, in bytes of objects,
const SCRUB_BYTES: u64 = 16 << 20;
/// but at most this share: little need not be read whole every day.
const MOST_PERCENT: f64 = 5.0;
const LEAST_PERCENT: f64 = 0.01;

/// When to look at what next.
#[derive(Default)]
pub struct Chores {
    backup_at: At,
    scrub_at: At,
}

impl Chores {
    pub fn backup_at(&self) -> At {
        self.backup_at
    }

    /// When to look whether a scrub is due, if nothing moves after `moved_at`.
    pub fn scrub_at(&self, moved_at: At) -> At {
        self.scrub_at.max(moved_at + QUIET)
    }

    pub fn backup_done(&mut self, now: At, went_well: bool) {
        self.backup_at = now + if went_well { LOOK_EVERY } else { AFTER_FAILURE };
    }

    pub fn scrub_done(&mut self, now: At, went_well: bool) {
        self.scrub_at = now + if went_well { LOOK_EVERY } else { AFTER_FAILURE };
    }
}

/// Makes the backup on a thread of its own, so that signals are heard meanwhile. `None` if another process is at it.
pub async fn back_up(mut vault: ThisVault, plan: BackupPlan) -> Result<Option<Made>, vault::Error> {
    let made = tokio::task::spawn_blocking(move || vault.back_up(&plan)).await;
    match made {
        Ok(Ok(made)) => Ok(Some(made)),
        Ok(Err(vault::Error::Busy)) => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Whether the mirror was not looked at for a day. A last time in the future was a wrong clock's.
pub fn is_scrub_due(vault: &ThisVault) -> Result<bool, vault::Error> {
    let last = vault.sync_state()?.scrubbed_at;
    let since = vault.host().clock().now_ms().saturating_sub(last);
    Ok(!(0..DAY_MS).contains(&since))
}

/// Reads the day's share of the objects here, in the order of their names, going on where the last look stopped. Gives how
/// many, and what is damaged: that is set aside, and the next round fetches it again.
pub fn look_here(vault: &mut ThisVault) -> Result<(u64, Vec<Finding>), vault::Error> {
    let _one_at_a_time = vault.sync_lock()?;
    let mut state = vault.sync_state()?;
    let last = state.checked_to.and_then(|name| name.parse::<ObjectName>().ok());
    let objects = vault.manifest()?.objects_by_name().into_iter().filter(|state| state.here);
    let objects = objects.map(|state| (state.row.object, u64::from(state.row.len_bytes))).collect::<Vec<_>>();
    let chosen = sample(&objects, last);
    let mut findings = Vec::new();
    for object in &chosen {
        match vault.object_bytes(object) {
            Ok(_) => {}
            Err(vault::Error::Damaged { object, entry, problem }) => {
                findings.push(Finding::Damaged { object, entry, problem });
            }
            Err(error) => return Err(error),
        }
    }
    state.checked_to = chosen.last().map(ToString::to_string);
    vault.set_sync_state(&state)?;
    Ok((chosen.len() as u64, findings))
}

/// The objects, by name and length and in the order of the names, that come after `last`, and then from the beginning: as
/// many as a day reads, but at least one.
fn sample(objects: &[(ObjectName, u64)], last: Option<ObjectName>) -> Vec<ObjectName> {
    let from = last.map_or(0, |last| objects.partition_point(|(name, _)| *name <= last));
    let most = (objects.len() as f64 * MOST_PERCENT / 100.0).ceil() as usize;
    let mut bytes = 0;
    let within = |(_, len): &&(ObjectName, u64)| {
        let before = bytes;
        bytes += len;
        before < SCRUB_BYTES
    };
    let round = objects[from..].iter().chain(&objects[..from]);
    round.take(most).take_while(within).map(|(name, _)| *name).collect()
}

/// Reads the day's share of the mirror.
pub async fn scrub(
    vault: &mut ThisVault,
    mirror: &AnyRemote,
    brake: &Brake,
) -> Result<ScrubReport, sync::Error> {
    let objects = vault.manifest()?.objects();
    let total = objects.map(|state| u64::from(state.row.len_bytes)).sum::<u64>();
    let remote = Retrying::new(Braked { inner: mirror, brake }, BrakedClock(brake));
    sync::scrub(vault, &remote, share(total)).await
}

/// The share of a mirror with `total` bytes of objects that is read a day.
fn share(total: u64) -> Share {
    let percent = SCRUB_BYTES as f64 * 100.0 / total.max(1) as f64;
    Share::percent(percent.clamp(LEAST_PERCENT, MOST_PERCENT)).unwrap_or(Share::ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_reads_a_little_of_a_large_mirror_and_not_all_of_a_small_one() {
        assert_eq!(share(0), Share::percent(5.0).unwrap());
        assert_eq!(share(100 << 20), Share::percent(5.0).unwrap());
        assert_eq!(share(1600 << 20), Share::percent(1.0).unwrap());
        assert_eq!(share(u64::MAX), Share::percent(0.01).unwrap());
    }

    #[test]
    fn days_one_after_the_other_read_everything_here() {
        let name = |n: usize| espejo::crypto::object_name(&n.to_be_bytes());
        for (count, len) in [(0, 1), (1, 5 << 20), (7, 1 << 10), (1_000, 100), (30, 20 << 20)] {
            let mut objects = (0..count).map(|n| (name(n), len)).collect::<Vec<_>>();
            objects.sort();
            let (mut last, mut read) = (None, std::collections::BTreeSet::new());
            for _ in 0..40 {
                let today = sample(&objects, last);
                assert!(today.len() as u64 <= (SCRUB_BYTES / len + 1).min(count as u64 / 20 + 1), "{count}");
                last = today.last().copied();
                read.extend(today);
            }
            assert_eq!(read.len(), count);
        }
    }

    #[test]
    fn who_writes_comes_first() {
        let chores = Chores::default();
        assert_eq!(chores.scrub_at(Duration::from_secs(7)), Duration::from_secs(27));
    }
}
