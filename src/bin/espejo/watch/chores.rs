//! What a watch does beside syncing: the backup that is due, and a look at a little of the mirror every day.

use std::time::Duration;

use espejo::clock::Clock as _;
use espejo::host::Host as _;
use espejo::remote::{AnyRemote, Retrying};
use espejo::sync::{self, ScrubReport, Share};
use espejo::vault::{self, BackupPlan, Made};

use super::brake::{Brake, Braked, BrakedClock};
use super::pace::At;
use crate::context::ThisVault;

/// How often to look whether something is due.
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// What failed is not tried again before.
const AFTER_FAILURE: Duration = Duration::from_hours(1);
/// Nothing must have moved for so long: who writes an entry now comes first.
const QUIET: Duration = Duration::from_secs(20);

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// So much of the mirror is read a day, in bytes of objects,
const SCRUB_BYTES: u64 = 16 << 20;
/// but at most this share: a small mirror need not be read whole every day.
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

/// The plan of the backup that is due now, if one is.
pub fn backup_due(vault: &ThisVault) -> Result<Option<BackupPlan>, vault::Error> {
    Ok(vault.backup_plan()?.filter(|plan| vault.is_backup_due(plan)))
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

/// Reads the day's share of the mirror.
pub async fn scrub(
    vault: &mut ThisVault,
    mirror: &AnyRemote,
    brake: &Brake,
) -> Result<ScrubReport, sync::Error> {
    let objects = vault.manifest()?.objects().values();
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
    fn who_writes_comes_first() {
        let chores = Chores::default();
        assert_eq!(chores.scrub_at(Duration::from_secs(7)), Duration::from_secs(27));
    }
}
