//! How long the history of an entry is kept: which versions nobody needs any more, and when a deletion needs no object.
//!
//! Pure decisions. What is left out here can never change what an entry is: [`resolve`](crate::version::resolve) gives the
//! same without it, whichever versions arrive later or again.

use std::collections::BTreeSet;

use crate::id::VersionId;
use crate::version::{Kind, Version, standing};

/// How long what was superseded is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Everything is kept this long, in milliseconds...
    pub age_ms: i64,
    /// ...and of each entry so many of its newest versions for ever.
    pub versions: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Retention {
    /// Everything for 90 days, then the last ten.
    pub const DEFAULT: Self = Self { age_ms: 90 * 24 * 60 * 60 * 1_000, versions: 10 };

    /// Whether something of `then` is old `now_ms`.
    pub fn is_over(self, then: i64, now_ms: i64) -> bool {
        now_ms.saturating_sub(then) > self.age_ms
    }
}

/// A version, and what is known of it beside what it says.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The version.
    pub version: &'a Version,
    /// Since when every device that counts has known it, milliseconds since 1970 UTC; `None` as long as one does not.
    pub everywhere_since: Option<i64>,
    /// Whether it is a deletion that needs no object any more, because the feeds tell of it.
    pub buried: bool,
}

impl Known<'_> {
    /// Whether every device has known it for as long as anything is kept.
    fn is_settled(&self, retention: Retention, now_ms: i64) -> bool {
        let since = self.everywhere_since.map(|since| since.max(self.version.dot.updated_at));
        since.is_some_and(|since| retention.is_over(since, now_ms))
    }
}

/// The versions of one entry whose objects nobody needs any more.
///
/// Needed are: what stands (the current version, and a conflict's losers), the newest ones, what is young, and what was
/// superseded by nothing that every device has known for long. Of a buried entry nothing is needed but what is young.
pub fn unneeded(known: &[Known<'_>], retention: Retention, now_ms: i64) -> BTreeSet<VersionId> {
    let versions = known.iter().map(|it| it.version).collect::<Vec<_>>();
    let standing = standing(&versions);
    let is_buried = |version: &Version| known.iter().any(|it| it.buried && it.version.id == version.id);
    let gone = standing.iter().all(|version| is_buried(version));
    let mut newest_first = known.to_vec();
    newest_first.sort_by_key(|it| {
        let dot = it.version.dot;
        std::cmp::Reverse((dot.updated_at, dot.device, it.version.id))
    });
    let is_unneeded = |(rank, it): &(usize, &Known<'_>)| {
        if standing.iter().any(|version| version.id == it.version.id) {
            return gone && it.is_settled(retention, now_ms);
        }
        let replaced = standing.iter().any(|version| version.dominates(it.version));
        let long_ago = || {
            let mut others = known.iter().filter(|other| other.version.dominates(it.version));
            others.any(|other| other.is_settled(retention, now_ms))
        };
        (gone || *rank >= retention.versions)
            && replaced
            && retention.is_over(it.version.dot.updated_at, now_ms)
            && long_ago()
    };
    newest_first.iter().enumerate().filter(is_unneeded).map(|(_, it)| it.version.id).collect()
}

/// The deletions of one entry that can be told by the feeds alone from now on: all that stands, if nothing else does and
/// every device has known it for long. Empty if the entry lives, is in conflict, or was deleted not long ago.
pub fn to_bury<'a>(known: &[Known<'a>], retention: Retention, now_ms: i64) -> Vec<&'a Version> {
    let versions = known.iter().map(|it| it.version).collect::<Vec<_>>();
    let standing = standing(&versions);
    let settled = |version: &&Version| {
        let it = known.iter().find(|it| it.version.id == version.id);
        version.kind == Kind::Tombstone && it.is_some_and(|it| it.buried || it.is_settled(retention, now_ms))
    };
    match standing.iter().all(settled) {
        true => standing,
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::id::{DeviceId, EntryId};
    use crate::version::{MadeOn, resolve, succeed};

    const DEVICES: usize = 3;
    const RETENTION: Retention = Retention { age_ms: 20, versions: 2 };

    fn device(number: usize) -> DeviceId {
        DeviceId::from_bytes([number as u8; 16])
    }

    /// A new version made on those of `all` that are `held`.
    fn write(
        all: &BTreeMap<usize, Version>,
        held: &BTreeSet<usize>,
        everything: bool,
        by: usize,
        now_ms: i64,
        deletes: bool,
    ) -> (Version, BTreeSet<usize>) {
        let versions = held.iter().map(|at| &all[at]).collect::<Vec<_>>();
        let shown = resolve(versions.iter().copied()).map(|it| it.current.id);
        let made_on = shown.filter(|_| !everything).map_or(MadeOn::Everything, MadeOn::Version);
        let (dot, context) = succeed(&versions, &[], made_on, device(by), now_ms);
        let id = VersionId::from_bytes([all.len() as u8; 16]);
        let kind = if deletes { Kind::Tombstone } else { Kind::Live };
        let parents = match made_on {
            MadeOn::Everything => held.clone(),
            MadeOn::Version(id) => BTreeSet::from([usize::from(id.as_bytes()[0])]),
        };
        (Version { entry: EntryId::from_bytes([0; 16]), id, dot, context, kind }, parents)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write {
            by: usize,
            clock: i64,
            everything: bool,
            deletes: bool,
        },
        Copy {
            from: usize,
            to: usize,
            which: usize,
        },
        /// The device drops those that nobody needs, and of these only some.
        Drop {
            by: usize,
            now_ms: i64,
            settled: u32,
            some: u32,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (by, clock) = (0..DEVICES, 0..60_i64);
        let step = prop_oneof![
            4 => (by.clone(), clock.clone(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
                |(by, clock, everything, deletes)| Step::Write { by, clock, everything, deletes }
            ),
            4 => (by.clone(), by.clone(), 0..20_usize)
                .prop_map(|(from, to, which)| Step::Copy { from, to, which }),
            2 => (by, 0..200_i64, any::<u32>(), any::<u32>())
                .prop_map(|(by, now_ms, settled, some)| Step::Drop { by, now_ms, settled, some }),
        ];
        vec(step, 1..60)
    }

    fn known(version: &Version, settled: u32, buried: u32) -> Known<'_> {
        let bit = 1 << (version.id.as_bytes()[0] % 32);
        let everywhere_since = (settled & bit != 0).then_some(version.dot.updated_at);
        Known { version, everywhere_since, buried: version.kind == Kind::Tombstone && buried & bit != 0 }
    }

    /// What stands, by who wrote what on top of what.
    fn truth(
        all: &BTreeMap<usize, Version>,
        parents: &[BTreeSet<usize>],
    ) -> (VersionId, BTreeSet<VersionId>) {
        let mut ancestors = Vec::<BTreeSet<usize>>::new();
        for parents in parents {
            let above = parents.iter().flat_map(|parent| ancestors[*parent].iter().copied());
            let above = above.chain(parents.iter().copied()).collect();
            ancestors.push(above);
        }
        let heads = all.iter().filter(|(at, _)| !ancestors.iter().any(|above| above.contains(at)));
        let heads = heads.map(|(_, version)| version).collect::<Vec<_>>();
        let current = heads.iter().max_by_key(|v| (v.dot.updated_at, v.dot.device, v.id)).unwrap();
        let losers = heads.iter().filter(|version| {
            version.id != current.id && !(version.kind == Kind::Tombstone && current.kind == Kind::Tombstone)
        });
        (current.id, losers.map(|version| version.id).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

        /// Whatever is dropped where, and whatever comes late or again: all that somebody still has amounts to what was
        /// written, and so does any part of it that holds what stands.
        #[test]
        fn what_is_dropped_never_changes_what_an_entry_is(steps in steps(), buried in any::<u32>()) {
            let mut all = BTreeMap::<usize, Version>::new();
            let mut parents = Vec::new();
            let mut held: [BTreeSet<usize>; DEVICES] = Default::default();
            for step in steps {
                match step {
                    Step::Write { by, clock, everything, deletes } => {
                        let (version, made_on) = write(&all, &held[by], everything, by, clock, deletes);
                        held[by].insert(all.len());
                        parents.push(made_on);
                        all.insert(all.len(), version);
                    }
                    Step::Copy { from, to, which } => {
                        let copied = held[from].iter().nth(which).copied();
                        held[to].extend(copied);
                    }
                    Step::Drop { by, now_ms, settled, some } => {
                        let here = held[by].iter().map(|at| known(&all[at], settled, buried)).collect::<Vec<_>>();
                        let before = resolve(here.iter().map(|it| it.version)).map(|it| (it.current.id, it.losers.len()));
                        let dropped = unneeded(&here, RETENTION, now_ms);
                        // A buried one goes on standing, without an object.
                        let is_dropped = |at: &usize| {
                            let version = &all[at];
                            let goes = dropped.contains(&version.id) && some & (1 << (at % 32)) != 0;
                            goes && !known(version, 0, buried).buried
                        };
                        held[by].retain(|at| !is_dropped(at));
                        let after = resolve(held[by].iter().map(|at| &all[at])).map(|it| (it.current.id, it.losers.len()));
                        prop_assert_eq!(before, after);
                    }
                }
            }
            if all.is_empty() {
                return Ok(());
            }
            let kept = held.iter().flatten().copied().collect::<BTreeSet<_>>();
            let resolved = resolve(kept.iter().map(|at| &all[at])).unwrap();
            let told = (resolved.current.id, resolved.losers.iter().map(|it| it.id).collect::<BTreeSet<_>>());
            prop_assert_eq!(&told, &truth(&all, &parents));
            for device in &held {
                // What one device lacks of the rest arrives, and all that was ever dropped comes back.
                let resolved = resolve(device.iter().chain(&kept).chain(all.keys()).map(|at| &all[at])).unwrap();
                let told_again = (resolved.current.id, resolved.losers.iter().map(|it| it.id).collect());
                prop_assert_eq!(&told_again, &told);
            }
        }

        /// What may never go stays, whatever is known.
        #[test]
        fn what_stands_what_is_young_and_what_was_not_acknowledged_is_needed(
            steps in steps(), settled in any::<u32>(), now_ms in 0..200_i64,
        ) {
            let mut all = BTreeMap::<usize, Version>::new();
            for step in steps {
                if let Step::Write { by, clock, everything, deletes } = step {
                    let held = all.keys().copied().filter(|at| at % (by + 1) == 0).collect();
                    let (version, _) = write(&all, &held, everything, by, clock, deletes);
                    all.insert(all.len(), version);
                }
            }
            let known = all.values().map(|version| known(version, settled, 0)).collect::<Vec<_>>();
            let dropped = unneeded(&known, RETENTION, now_ms);
            let mut newest = all.values().map(|v| (v.dot.updated_at, v.dot.device, v.id)).collect::<Vec<_>>();
            newest.sort();
            for (_, _, id) in newest.iter().rev().take(RETENTION.versions) {
                prop_assert!(!dropped.contains(id));
            }
            if let Some(resolved) = resolve(all.values()) {
                prop_assert!(resolved.losers.iter().chain([&resolved.current]).all(|it| !dropped.contains(&it.id)));
            }
            for id in &dropped {
                let version = &known[usize::from(id.as_bytes()[0])].version;
                prop_assert!(now_ms - version.dot.updated_at > RETENTION.age_ms);
                let by = known.iter().filter(|other| other.version.context.covers(version.dot));
                let told = by.filter(|other| other.everywhere_since.is_some());
                prop_assert!(told.clone().any(|other| now_ms - other.version.dot.updated_at > RETENTION.age_ms));
            }
            // Nothing is known of what the devices know: nothing goes.
            let unknown = known.iter().map(|it| Known { everywhere_since: None, ..*it }).collect::<Vec<_>>();
            prop_assert!(unneeded(&unknown, RETENTION, now_ms).is_empty());
            prop_assert!(to_bury(&unknown, RETENTION, now_ms).is_empty());
        }
    }

    fn chain(kinds: &[Kind]) -> Vec<Version> {
        let mut versions = Vec::<Version>::new();
        for (number, kind) in kinds.iter().enumerate() {
            let known = versions.iter().collect::<Vec<_>>();
            let (dot, context) = succeed(&known, &[], MadeOn::Everything, device(1), number as i64);
            let id = VersionId::from_bytes([number as u8; 16]);
            versions.push(Version { entry: EntryId::from_bytes([0; 16]), id, dot, context, kind: *kind });
        }
        versions
    }

    fn all_known(versions: &[Version], everywhere_since: Option<i64>, buried: bool) -> Vec<Known<'_>> {
        let is_buried = |version: &Version| buried && version.kind == Kind::Tombstone;
        versions
            .iter()
            .map(|version| Known { version, everywhere_since, buried: is_buried(version) })
            .collect()
    }

    #[test]
    fn beyond_the_newest_what_is_old_goes() {
        let versions = chain(&[Kind::Live; 5]);
        let known = all_known(&versions, Some(4), false);
        assert!(unneeded(&known, RETENTION, 24).is_empty(), "it was superseded 20 ago and not longer");
        let gone = unneeded(&known, RETENTION, 25);
        assert_eq!(gone, versions[..3].iter().map(|it| it.id).collect());
        assert_eq!(unneeded(&known, Retention { versions: 5, ..RETENTION }, 1_000), BTreeSet::new());
    }

    #[test]
    fn a_deletion_is_buried_when_it_is_old_and_known_everywhere_and_then_nothing_of_the_entry_is_needed() {
        let versions = chain(&[Kind::Live, Kind::Tombstone]);
        assert!(to_bury(&all_known(&versions, None, false), RETENTION, 1_000).is_empty());
        assert!(to_bury(&all_known(&versions, Some(5), false), RETENTION, 25).is_empty());
        let known = all_known(&versions, Some(5), false);
        assert_eq!(to_bury(&known, RETENTION, 26), [&versions[1]]);
        assert!(unneeded(&known, RETENTION, 26).is_empty(), "not before it is buried");
        assert_eq!(unneeded(&all_known(&versions, Some(5), true), RETENTION, 26).len(), 2);

        // An edit made without knowledge of the deletion: nothing of it is buried or goes any more.
        let mut conflict = versions.clone();
        let (dot, context) = succeed(&[&versions[0]], &[], MadeOn::Everything, device(2), 30);
        let id = VersionId::from_bytes([9; 16]);
        conflict.push(Version { id, dot, context, kind: Kind::Live, ..versions[0].clone() });
        let resolved = resolve(&conflict).unwrap();
        assert_eq!((resolved.current.id, resolved.losers.len()), (id, 1));
        let known = all_known(&conflict, Some(40), true);
        assert!(to_bury(&known, RETENTION, 1_000).is_empty());
        assert_eq!(
            unneeded(&known, RETENTION, 1_000),
            BTreeSet::from([versions[0].id]),
            "history as any other"
        );
    }
}
