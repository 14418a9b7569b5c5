//! Automatic backups: made when one is due, and the old ones let go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Backup, BackupSummary};
use crate::clock::Clock;
use crate::format::backup::EXTENSION;
use crate::fs::{VaultFs, paths_in, remove_path};
use crate::host::Host;
use crate::id::ObjectName;
use crate::vault::state::{read_state, write_state};
use crate::vault::{Doing, Error, Vault, layout};

/// What an automatic backup is called: the vault's name, this, and when it was made.
const MARK: &str = "-auto-";

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Beside the newest ones, the last of each of so many weeks and months is kept.
const WEEKS: usize = 4;
const MONTHS: usize = 12;

/// How often backups are made without being asked for, and what is kept of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPlan {
    /// How old the last one may be, in milliseconds.
    pub every_ms: i64,
    /// How many of the newest are kept.
    pub keep: usize,
    /// Where they go.
    pub dir: PathBuf,
    /// What their names begin with.
    pub name: String,
}

/// What an automatic backup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The file.
    pub file: PathBuf,
    /// What it holds.
    pub summary: BackupSummary,
    /// Whether nothing had changed since it was made: then it was read again, and is as good as a new one.
    pub unchanged: bool,
    /// Older ones that were let go.
    pub removed: usize,
}

impl<H: Host> Vault<H> {
    /// How backups are made, if that was asked for. That this cannot be read any more is an error: it must not look as if
    /// nobody had asked.
    pub fn backup_plan(&self) -> Result<Option<BackupPlan>, Error> {
        let plan = read_state(&self.host, &self.keyring, layout::BACKUP_PLAN)?;
        match plan.is_none() && self.status().backup_every.is_some() {
            true => Err(Error::StateDamaged { file: layout::BACKUP_PLAN }),
            false => Ok(plan),
        }
    }

    /// Has backups made from now on, or no longer.
    pub fn set_backup_plan(&self, plan: Option<&BackupPlan>) -> Result<(), Error> {
        {
            let _lock = self.lock()?;
            match plan {
                Some(plan) => write_state(&self.host, &self.keyring, layout::BACKUP_PLAN, plan)?,
                None => {
                    let file = [layout::BACKUP_PLAN.to_owned()];
                    self.host.fs().remove_all(&file).doing("forgetting the backups")?;
                }
            }
        }
        self.note(|status| {
            status.backup_every = plan.map(|plan| plan.every_ms);
            status.backup_failure = None;
        })
    }

    /// Whether a backup is due. A last one in the future was made by a wrong clock.
    pub fn is_backup_due(&self, plan: &BackupPlan) -> bool {
        let now_ms = self.host.clock().now_ms();
        let last = self.status().last_backup.filter(|last| *last <= now_ms);
        last.is_none_or(|last| now_ms.saturating_sub(last) >= plan.every_ms)
    }

    /// Makes the backup that is due, and lets go of those that are too many. Why it failed is noted too.
    pub fn back_up(&mut self, plan: &BackupPlan) -> Result<Made, Error> {
        let made = self.make(plan);
        if let Err(error) = &made {
            // The failure that matters is the one above.
            let _ = self.note(|status| status.backup_failure = Some(error.to_string()));
        }
        made
    }

    fn make(&mut self, plan: &BackupPlan) -> Result<Made, Error> {
        let mut there = self.made_before(plan)?;
        // One that rotted since is no reason to have none.
        let again = match there.last() {
            Some((file, last)) if self.is_all_there_is(last)? => {
                last.verify(&self.keyring).ok().map(|summary| (file.clone(), summary))
            }
            _ => None,
        };
        let unchanged = again.is_some();
        let now_ms = self.host.clock().now_ms();
        let (file, summary) = match again {
            Some(again) => {
                self.note_backup(now_ms)?;
                again
            }
            None => {
                let file = plan.dir.join(format!("{}{MARK}{}.{EXTENSION}", plan.name, file_time(now_ms)));
                let summary = self.backup(&file)?;
                there.push((file.clone(), Backup::of_vault(&file, &self.keyring)?));
                (file, summary)
            }
        };
        let removed = self.let_go(plan, &there)?;
        Ok(Made { file, summary, unchanged, removed })
    }

    /// The automatic backups of this vault that are there, the oldest first.
    fn made_before(&self, plan: &BackupPlan) -> Result<Vec<(PathBuf, Backup)>, Error> {
        let mut made = Vec::new();
        let paths = paths_in(&plan.dir).doing("looking for backups")?;
        for path in paths.into_iter().filter(|path| is_named(path, plan)) {
            // One that is cut short neither counts nor is removed.
            if let Ok(backup) = Backup::of_vault(&path, &self.keyring)
                && backup.has_its_length()
            {
                made.push((path, backup));
            }
        }
        made.sort_by(|(a, was), (b, is)| (was.created_at(), a).cmp(&(is.created_at(), b)));
        Ok(made)
    }

    /// Whether a backup holds what this vault has, and what opens it today.
    fn is_all_there_is(&mut self, backup: &Backup) -> Result<bool, Error> {
        let keys = self.key_files()?;
        let keys_there = keys.iter().all(|(name, bytes)| {
            backup.file(&format!("{}/{name}", layout::KEYS)).is_some_and(|there| there == *bytes)
        });
        let objects = self.manifest()?.objects().filter(|state| state.here);
        let here = objects.map(|state| state.row.object).collect::<BTreeSet<ObjectName>>();
        Ok(keys_there && here == backup.objects().collect())
    }

    /// Removes backups that are too many, but none with something in it that this vault has lost.
    fn let_go(&mut self, plan: &BackupPlan, made: &[(PathBuf, Backup)]) -> Result<usize, Error> {
        let times = made.iter().map(|(_, backup)| backup.created_at()).collect::<Vec<_>>();
        let kept = kept(&times, plan.keep);
        let mut removed = 0;
        for (path, backup) in made.iter().filter(|(_, backup)| !kept.contains(&backup.created_at())) {
            if self.lost_in(backup)? == 0 {
                remove_path(path).doing("removing an old backup")?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn is_named(path: &Path, plan: &BackupPlan) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with(&format!("{}{MARK}", plan.name)) && name.ends_with(&format!(".{EXTENSION}"))
}

fn file_time(at_ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Which backups are kept, by when they were made: the newest ones, and of each of the last weeks and months the newest.
fn kept(made_at: &[i64], newest: usize) -> BTreeSet<i64> {
    let mut times = made_at.to_vec();
    times.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
    let month = |at: i64| {
        let at = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        i64::from(date.year()) * 12 + i64::from(date.month())
    };
    let mut kept = times.iter().take(newest.max(1)).copied().collect::<BTreeSet<_>>();
    kept.extend(newest_of_each(&times, |at| at.div_euclid(7 * DAY_MS), WEEKS));
    kept.extend(newest_of_each(&times, month, MONTHS));
    kept
}

/// Of `times`, the newest first, the first of each period, for so many periods.
fn newest_of_each(times: &[i64], period: impl Fn(i64) -> i64, periods: usize) -> Vec<i64> {
    let mut firsts = times.to_vec();
    firsts.dedup_by_key(|at| period(*at));
    firsts.truncate(periods);
    firsts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_thin_out_to_weeks_and_months() {
        // 2026-01-01 was a Thursday, as 1970-01-01 was: weeks begin on it.
        let start = 20_454 * DAY_MS;
        let times = (0..365).map(|day| start + day * DAY_MS).collect::<Vec<_>>();
        let kept = kept(&times, 7);
        let days = kept.iter().rev().map(|at| (at - start) / DAY_MS).collect::<Vec<_>>();
        assert_eq!(days[..7], [364, 363, 362, 361, 360, 359, 358]);
        assert!(
            days.contains(&363) && days.contains(&356) && days.contains(&349),
            "the last of weeks: {days:?}"
        );
        assert!(
            days.contains(&30) && days.contains(&58) && days.contains(&333),
            "the last of months: {days:?}"
        );
        assert_eq!(days.len(), 7 + 2 + 11, "{days:?}");
    }

    #[test]
    fn one_is_always_kept() {
        assert_eq!(kept(&[5], 0), BTreeSet::from([5]));
        assert!(kept(&[], 3).is_empty());
    }
}
