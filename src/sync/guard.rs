//! Reasons to stop and change nothing.

use std::fmt;

use super::plan::Plan;
use crate::id::VaultId;

/// Deletions by one sync are taken in without asking up to this many, or [`MAX_DELETED_PERCENT`].
const MAX_DELETED: u64 = 20;
const MAX_DELETED_PERCENT: u64 = 25;

/// What looked wrong. Nothing was changed, here or on the mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Guard {
    /// The mirror was there and has no marker now: an unmounted disk, a wiped server.
    MirrorGone,
    /// The mirror belongs to another vault.
    OtherVault(VaultId),
    /// The directory holds files and is no mirror.
    ForeignFolder(Vec<String>),
    /// The vault has a new master key, and what opens it has not been given here.
    Rekeyed {
        /// When it was made, by that device's clock, milliseconds since 1970 UTC.
        at: i64,
    },
    /// Many entries would be deleted at once.
    MassDelete {
        /// Entries that would be deleted.
        deletes: u64,
        /// Live entries now.
        live: u64,
        /// Who asks for it: device names with their counts.
        by: Vec<(String, u64)>,
    },
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MirrorGone => write!(
                f,
                "the mirror has no espejo.json (unmounted disk, wiped server?). Your entries are safe here; nothing was changed"
            ),
            Self::OtherVault(vault) => {
                write!(f, "the mirror belongs to another vault ({vault}). Nothing was changed")
            }
            Self::ForeignFolder(names) => write!(
                f,
                "the folder is neither empty nor a mirror: it holds {}. Nothing was changed",
                names.iter().take(3).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            ),
            Self::Rekeyed { .. } => write!(
                f,
                "this vault was given a new master key on another device, and this one has not got it yet. Your entries are safe here; nothing was sent"
            ),
            Self::MassDelete { deletes, live, by } => {
                let by = by.iter().map(|(name, count)| format!("{name:?} ({count})")).collect::<Vec<_>>();
                write!(
                    f,
                    "this sync would delete {deletes} of {live} entries, requested by {}. Nothing was changed",
                    by.join(", ")
                )
            }
        }
    }
}

/// Whether the plan may be carried out.
pub fn check(plan: &Plan, accept_deletes: bool) -> Result<(), Guard> {
    let deletes = plan.deletes.values().sum::<u64>();
    let allowed = MAX_DELETED.max(plan.live * MAX_DELETED_PERCENT / 100);
    if accept_deletes || deletes <= allowed {
        return Ok(());
    }
    let by = plan.deletes.iter().map(|(name, count)| (name.clone(), *count)).collect();
    Err(Guard::MassDelete { deletes, live: plan.live, by })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn more_deletions_than_that_always_stop_whoever_asks_for_them(
            by in proptest::collection::btree_map(".{0,5}", 0..50_u64, 0..4),
            live in 0..1_000_u64,
        ) {
            let plan = Plan { deletes: by.clone(), live, ..Plan::default() };
            let deletes = by.values().sum::<u64>();
            prop_assert_eq!(check(&plan, false).is_ok(), deletes <= 20 || deletes * 4 <= live);
            prop_assert_eq!(check(&plan, true), Ok(()));
            if let Err(Guard::MassDelete { deletes: told, by: names, .. }) = check(&plan, false) {
                prop_assert_eq!((told, names), (deletes, by.into_iter().collect()));
            }
        }
    }

    #[test]
    fn twenty_or_a_quarter_may_go_without_asking() {
        let plan = |deletes, live| Plan {
            deletes: BTreeMap::from([("oldphone".to_owned(), deletes)]),
            live,
            ..Plan::default()
        };
        for (deletes, live, passes) in [(20, 20, true), (21, 21, false), (25, 100, true), (26, 100, false)] {
            assert_eq!(check(&plan(deletes, live), false).is_ok(), passes, "{deletes} of {live}");
            assert!(check(&plan(deletes, live), true).is_ok());
        }
        let message = check(&plan(340, 1_204), false).unwrap_err().to_string();
        assert!(message.contains("340 of 1204 entries") && message.contains("oldphone"), "{message}");
    }
}
