//! Versions of entries, what they know of each other, and which one is shown.
//!
//! An entry's state is a pure function of the set of its versions: [`resolve`]. It is commutative, associative and
//! idempotent, so the order in which versions arrive never matters.

use std::collections::BTreeSet;

use crate::id::{DeviceId, EntryId, VersionId};

/// A version's place in its device's history of one entry: who wrote it, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The writer.
    pub device: DeviceId,
    /// The writer's `updated_at`, milliseconds since 1970 UTC.
    pub updated_at: i64,
}

/// The history a version was made on: exactly the set of dots it supersedes.
///
/// Stored as a version vector (per device, everything up to a time) minus exceptions. The exceptions matter: a
/// version made on the *winner* of a conflict has not seen the loser, though the loser's device may have written
/// later versions that it has seen. With the vector alone the next edit elsewhere would bury an unresolved loser
/// (`a_later_edit_elsewhere_does_not_bury_an_open_conflict` shows it).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Per device, the newest `updated_at` in the history.
    pub seen: Seen,
    /// Dots that are not in the history though `seen` covers them, or will cover them once this version's own dot is
    /// added.
    pub except: BTreeSet<Dot>,
}

/// For each device, its newest version that is known.
///
/// A list in the order of the devices, and not a map: most have one element or none, and a vault holds one of these for
/// every version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen(Vec<(DeviceId, i64)>);

impl Seen {
    /// When the newest version of `device` that is known was made.
    pub fn get(&self, device: DeviceId) -> Option<i64> {
        let at = self.0.binary_search_by_key(&device, |(device, _)| *device).ok()?;
        Some(self.0[at].1)
    }

    /// In the order of the devices.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (DeviceId, i64)> + '_ {
        self.0.iter().copied()
    }

    /// A version of `device` of this time is known, too.
    fn raise(&mut self, device: DeviceId, updated_at: i64) {
        match self.0.binary_search_by_key(&device, |(device, _)| *device) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(updated_at),
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (device, updated_at));
            }
        }
    }
}

impl FromIterator<(DeviceId, i64)> for Seen {
    fn from_iter<T: IntoIterator<Item = (DeviceId, i64)>>(iter: T) -> Self {
        let mut seen = Self::default();
        iter.into_iter().for_each(|(device, updated_at)| seen.raise(device, updated_at));
        seen
    }
}

impl Context {
    /// Whether the history holds the version with this dot.
    pub fn covers(&self, dot: Dot) -> bool {
        self.seen.get(dot.device).is_some_and(|newest| dot.updated_at <= newest)
            && !self.except.contains(&dot)
    }

    /// Whether this history holds all that `other` holds, whatever versions there are.
    fn includes(&self, other: &Context) -> bool {
        let reaches = |(device, newest)| self.seen.get(device).is_some_and(|mine| newest <= mine);
        other.seen.iter().all(reaches) && !self.except.iter().any(|dot| other.covers(*dot))
    }

    /// Adds everything in `other` to this history.
    fn merge(&mut self, other: &Context) {
        let except = self
            .except
            .iter()
            .filter(|dot| !other.covers(**dot))
            .chain(other.except.iter().filter(|dot| !self.covers(**dot)))
            .copied()
            .collect();
        self.except = except;
        for (device, newest) in other.seen.iter() {
            self.seen.raise(device, newest);
        }
    }

    /// Adds one version. `known` are the dots of all versions of the entry known here: those between what was
    /// seen of the device and `dot` become exceptions, because the vector alone would claim them.
    fn add(&mut self, dot: Dot, known: &[Dot]) {
        let before = self.seen.get(dot.device);
        if before.is_none_or(|newest| newest < dot.updated_at) {
            self.seen.raise(dot.device, dot.updated_at);
            let between = known.iter().filter(|k| {
                k.device == dot.device
                    && k.updated_at < dot.updated_at
                    && before.is_none_or(|newest| k.updated_at > newest)
            });
            self.except.extend(between);
        }
        self.except.remove(&dot);
    }
}

/// Whether a version says that the entry is there or that it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The entry exists, with content.
    Live,
    /// The entry is deleted. A file like any other, so the mirror cannot tell a delete from an edit.
    Tombstone,
}

/// What a version says about itself, content aside. Immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The entry it is a state of.
    pub entry: EntryId,
    /// Its own id.
    pub id: VersionId,
    /// Who wrote it and when.
    pub dot: Dot,
    /// What it was made on.
    pub context: Context,
    /// Live or tombstone.
    pub kind: Kind,
}

impl Version {
    /// The order that decides what is shown: newest time, then device, then id.
    fn order(&self) -> (i64, DeviceId, VersionId) {
        (self.dot.updated_at, self.dot.device, self.id)
    }

    /// Whether this version was made in knowledge of `other`.
    fn supersedes(&self, other: &Version) -> bool {
        self.context.covers(other.dot)
    }

    /// Whether whatever `other` says of the entry's state, this version says too: beside it `other` can be left out, and
    /// [`resolve`] gives the same, whichever further versions arrive.
    pub fn dominates(&self, other: &Version) -> bool {
        self.order() > other.order() && self.supersedes(other) && self.context.includes(&other.context)
    }
}

/// The versions that stand: the current one, and those that none supersedes. Newest first.
pub fn standing<'a>(versions: &[&'a Version]) -> Vec<&'a Version> {
    let mut newest_first = versions.to_vec();
    newest_first.sort_by_key(|version| std::cmp::Reverse(version.order()));
    let stands = |(at, version): &(usize, &&Version)| {
        *at == 0 || !newest_first.iter().any(|other| other.supersedes(version))
    };
    newest_first.iter().enumerate().filter(stands).map(|(_, version)| *version).collect()
}

/// What the versions of one entry amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The version that is shown: the newest.
    pub current: &'a Version,
    /// Versions that neither supersede the current one nor are superseded by any: an open conflict's losers,
    /// newest first. Empty if there is no conflict.
    pub losers: Vec<&'a Version>,
}

/// The state of an entry from all its known versions; `None` if there are none.
///
/// Newest wins, and what nobody superseded is kept beside it as a conflict. Two tombstones are no conflict: there
/// is nothing to choose between.
pub fn resolve<'a>(versions: impl IntoIterator<Item = &'a Version>) -> Option<Resolved<'a>> {
    let mut versions = versions.into_iter();
    let first = versions.next()?;
    // Most entries have one version, and a sync asks for all of them.
    let Some(second) = versions.next() else { return Some(Resolved { current: first, losers: Vec::new() }) };
    let mut newest_first = [first, second].into_iter().chain(versions).collect::<Vec<_>>();
    newest_first.sort_by_key(|version| std::cmp::Reverse(version.order()));
    newest_first.dedup_by_key(|version| version.id);
    let (current, rest) = newest_first.split_first()?;
    let losers = rest
        .iter()
        .filter(|version| !newest_first.iter().any(|other| other.supersedes(version)))
        .filter(|version| !(version.kind == Kind::Tombstone && current.kind == Kind::Tombstone))
        .copied()
        .collect();
    Some(Resolved { current, losers })
}

/// What a new version is made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeOn {
    /// One version, the one that was shown: a plain edit. Losers of an open conflict stay losers.
    Version(VersionId),
    /// Everything known: resolving, reverting, undeleting. The new version wins on every device.
    Everything,
}

/// The dot and causal context of a new version by `device` of an entry whose versions here are `versions`.
///
/// `updated_at` is the wall clock, but always later than what the version was made on, so an edit beats what it
/// edits whatever the clocks say, and there is no global clock for a wrong device to poison.
///
/// `elsewhere` are dots of versions that are known to exist and could not be opened here: a version made in ignorance
/// of them must not be taken to cover them.
pub fn succeed(
    versions: &[&Version],
    elsewhere: &[Dot],
    made_on: MadeOn,
    device: DeviceId,
    now_ms: i64,
) -> (Dot, Context) {
    let known =
        versions.iter().map(|version| version.dot).chain(elsewhere.iter().copied()).collect::<Vec<_>>();
    let is_parent = |version: &&&Version| match made_on {
        MadeOn::Everything => true,
        MadeOn::Version(id) => version.id == id,
    };
    let parents = versions.iter().filter(is_parent).copied().collect::<Vec<_>>();
    let mut context = Context::default();
    for parent in &parents {
        context.merge(&parent.context);
    }
    for parent in &parents {
        context.add(parent.dot, &known);
    }
    // Later than the parents, and later than anything this device wrote itself: its dots must be distinct. What it wrote
    // and has dropped since, the histories of what came after still tell.
    let told = versions.iter().flat_map(|version| {
        let Context { seen, except } = &version.context;
        let seen = seen.iter().map(|(device, updated_at)| Dot { device, updated_at });
        seen.chain(except.iter().copied())
    });
    let own = known.iter().copied().chain(told).filter(|dot| dot.device == device);
    let floor = parents.iter().map(|version| version.dot).chain(own);
    let floor = floor.map(|dot| dot.updated_at.saturating_add(1)).max();
    let dot = Dot { device, updated_at: floor.map_or(now_ms, |floor| now_ms.max(floor)) };
    // Whoever covers this dot by its time must not be taken to cover earlier dots of this device that were not
    // part of the history; so they are named here, where they are known for certain.
    let unseen = known
        .into_iter()
        .filter(|k| k.device == device && k.updated_at < dot.updated_at && !context.covers(*k))
        .collect::<Vec<_>>();
    context.except.extend(unseen);
    (dot, context)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: DeviceId = DeviceId::from_bytes([0xa; 16]);
    const B: DeviceId = DeviceId::from_bytes([0xb; 16]);

    /// What a test device does: edit what is shown, or settle everything it knows.
    #[derive(Clone, Copy, PartialEq)]
    enum How {
        Edit,
        Settle,
    }

    fn write(versions: &[&Version], how: How, device: DeviceId, now_ms: i64, id: u8) -> Version {
        let made_on = match (how, resolve(versions.iter().copied())) {
            (How::Edit, Some(resolved)) => MadeOn::Version(resolved.current.id),
            _ => MadeOn::Everything,
        };
        let (dot, context) = succeed(versions, &[], made_on, device, now_ms);
        let entry = EntryId::from_bytes([0; 16]);
        Version { entry, id: VersionId::from_bytes([id; 16]), dot, context, kind: Kind::Live }
    }

    #[test]
    fn an_edit_beats_what_it_was_made_on_whatever_the_clocks_say() {
        let ahead = write(&[], How::Edit, A, 1_000_000, 1);
        let behind = write(&[&ahead], How::Edit, B, 5, 2);
        let resolved = resolve([&ahead, &behind]).unwrap();
        assert_eq!(resolved.current.id, behind.id);
        assert!(resolved.losers.is_empty());
    }

    #[test]
    fn concurrent_edits_conflict_until_resolved() {
        let base = write(&[], How::Edit, A, 1, 1);
        let left = write(&[&base], How::Edit, A, 10, 2);
        let right = write(&[&base], How::Edit, B, 20, 3);
        let all = [&base, &left, &right];
        assert_eq!(resolve(all).unwrap().losers, [&left]);
        let edit = write(&all, How::Edit, A, 30, 4);
        assert_eq!(resolve([&base, &left, &right, &edit]).unwrap().losers, [&left]);
        let merge = write(&[&base, &left, &right, &edit], How::Settle, B, 2, 5);
        let done = [&base, &left, &right, &edit, &merge];
        assert_eq!(resolve(done).unwrap().current, &merge);
        assert!(resolve(done).unwrap().losers.is_empty());
    }

    #[test]
    fn a_later_edit_elsewhere_does_not_bury_an_open_conflict() {
        let base = write(&[], How::Edit, B, 1, 1);
        let loser = write(&[&base], How::Edit, A, 10, 2);
        let winner = write(&[&base], How::Edit, B, 20, 3);
        // A goes on editing the winner; its later dot must not make others believe they saw the loser.
        let on_winner = write(&[&base, &loser, &winner], How::Edit, A, 30, 4);
        // B has never received the loser.
        let elsewhere = write(&[&base, &winner, &on_winner], How::Edit, B, 40, 5);
        let all = [&base, &loser, &winner, &on_winner, &elsewhere];
        assert_eq!(resolve(all).unwrap().losers, [&loser]);
    }

    #[test]
    fn two_deletes_at_once_are_no_conflict() {
        let base = write(&[], How::Edit, A, 1, 1);
        let mut left = write(&[&base], How::Edit, A, 10, 2);
        let mut right = write(&[&base], How::Edit, B, 20, 3);
        left.kind = Kind::Tombstone;
        assert_eq!(resolve([&base, &left, &right]).unwrap().losers, [&left]);
        right.kind = Kind::Tombstone;
        assert!(resolve([&base, &left, &right]).unwrap().losers.is_empty());
    }

    /// A run of three devices that write and pass versions on, beside the exact set of ancestors of each version.
    #[derive(Debug, Clone)]
    enum Step {
        Write { device: usize, clock: i64, everything: bool },
        Copy { from: usize, to: usize, which: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3_usize, 0..50_i64, prop::bool::weighted(0.2))
                .prop_map(|(device, clock, everything)| Step::Write { device, clock, everything }),
            (0..3_usize, 0..3_usize, 0..20_usize).prop_map(|(from, to, which)| Step::Copy {
                from,
                to,
                which
            }),
        ];
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_context_is_exactly_the_set_of_ancestors(steps in steps()) {
            let mut all: Vec<(Version, BTreeSet<usize>)> = Vec::new();
            let mut held: [BTreeSet<usize>; 3] = Default::default();
            for step in steps {
                match step {
                    Step::Copy { from, to, which } => {
                        if let Some(version) = held[from].iter().nth(which).copied() {
                            held[to].insert(version);
                        }
                    }
                    Step::Write { device, clock, everything } => {
                        let versions = held[device].iter().map(|i| &all[*i].0).collect::<Vec<_>>();
                        let how = if everything { How::Settle } else { How::Edit };
                        let author = DeviceId::from_bytes([device as u8; 16]);
                        let version = write(&versions, how, author, clock, all.len() as u8);
                        let parents = match how {
                            How::Settle => held[device].clone(),
                            How::Edit => resolve(versions)
                                .map(|r| usize::from(r.current.id.as_bytes()[0]))
                                .into_iter()
                                .collect(),
                        };
                        let mut ancestors = parents.clone();
                        for parent in parents {
                            ancestors.extend(all[parent].1.iter().copied());
                        }
                        held[device].insert(all.len());
                        all.push((version, ancestors));
                    }
                }
            }
            for (version, ancestors) in &all {
                for (index, (other, _)) in all.iter().enumerate() {
                    if ancestors.contains(&index) {
                        prop_assert!(version.supersedes(other), "{version:?} must supersede {other:?}");
                    } else if other.id != version.id {
                        prop_assert!(!version.supersedes(other), "{version:?} must not supersede {other:?}");
                    }
                }
            }
        }

        #[test]
        fn the_order_of_arrival_does_not_matter(steps in steps(), seed in any::<u64>()) {
            let mut versions: Vec<Version> = Vec::new();
            for step in steps {
                if let Step::Write { device, clock, everything } = step {
                    let known = versions.iter().step_by(device + 1).collect::<Vec<_>>();
                    let how = if everything { How::Settle } else { How::Edit };
                    let author = DeviceId::from_bytes([device as u8; 16]);
                    versions.push(write(&known, how, author, clock, versions.len() as u8));
                }
            }
            let mut shuffled = versions.iter().chain(&versions).collect::<Vec<_>>();
            let mut state = seed | 1;
            shuffled.sort_by_cached_key(|_| { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state });
            prop_assert_eq!(resolve(&versions), resolve(shuffled));
        }
    }
}
