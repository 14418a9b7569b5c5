//! What a sync has to do, decided from values alone: no I/O, and the same answer for the same question.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Deletes;
use super::news::Announced;
use crate::id::{EntryId, ObjectName};
use crate::manifest::{Manifest, Row, Subject};
use crate::version::{Kind, Version, resolve};

/// What to transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Objects to fetch, the most wanted first: what will be shown, then its attachments, then history.
    pub fetch: Vec<ObjectName>,
    /// Objects to send: parts before the versions that name them.
    pub push: Vec<ObjectName>,
    /// Live entries that the announced versions would delete, by the name of the device that deleted them.
    pub deletes: Deletes,
    /// Live entries now.
    pub live: u64,
}

/// Plans a sync of what `manifest` knows and what was `announced` since.
pub fn plan(manifest: &Manifest, announced: &[Announced]) -> Plan {
    let deletes = deletions(manifest, announced);
    let live = manifest.counts().entries;
    Plan { fetch: to_fetch(manifest, announced), push: to_push(manifest), deletes, live }
}

/// What to fetch, in the order of [`Plan::fetch`].
pub fn to_fetch(manifest: &Manifest, announced: &[Announced]) -> Vec<ObjectName> {
    let announced = announced.iter().flat_map(|news| news.rows.iter().map(|(row, _)| row));
    let known_absent = manifest.absent().map(|state| &state.row);
    let mut rows = known_absent.chain(announced).collect::<Vec<_>>();
    // What was said of an object last counts.
    rows.reverse();
    rows.sort_by_key(|row| row.object);
    rows.dedup_by_key(|row| row.object);
    let wanted = rows.iter().filter(|row| manifest.object(&row.object).is_none_or(|state| !state.here));
    let mut versions = rows.iter().filter_map(|row| version_of(row)).collect::<Vec<_>>();
    versions.sort_by_key(|version| version.entry);
    // An entry's versions as they will be known once everything is here.
    let heads = versions
        .chunk_by(|one, next| one.entry == next.entry)
        .flat_map(|announced| {
            let known = manifest.versions_of(announced[0].entry).map(|state| &*state.version);
            let resolved = resolve(known.chain(announced.iter().copied()));
            resolved.into_iter().flat_map(|it| it.losers.into_iter().chain([it.current])).map(|head| head.id)
        })
        .collect::<HashSet<_>>();
    let mut fetch = wanted
        .map(|row| {
            let priority = match &row.subject {
                Subject::Version(version) if heads.contains(&version.id) => 0,
                Subject::Part => 1,
                Subject::Version(_) => 2,
            };
            (priority, row.object)
        })
        .collect::<Vec<_>>();
    fetch.sort();
    fetch.into_iter().map(|(_, object)| object).collect()
}

fn version_of(row: &Row) -> Option<&Version> {
    match &row.subject {
        Subject::Version(version) => Some(version),
        Subject::Part => None,
    }
}

/// What to send. Parts that no version names are left out: they belong to an `add` that is still at work, or that
/// was killed.
pub fn to_push(manifest: &Manifest) -> Vec<ObjectName> {
    let mut unmirrored = manifest.unmirrored().collect::<Vec<_>>();
    // What is in one directory is read together.
    unmirrored.sort_unstable_by_key(|state| state.row.object);
    let (mut parts, versions): (Vec<_>, Vec<_>) =
        unmirrored.into_iter().partition(|state| state.row.subject == Subject::Part);
    if !parts.is_empty() {
        let summaries = manifest.versions().filter_map(|state| state.summary.as_ref());
        let named = summaries.flat_map(|summary| &summary.parts).collect::<BTreeSet<_>>();
        parts.retain(|state| named.contains(&state.row.object));
    }
    parts.into_iter().chain(versions).map(|state| state.row.object).collect()
}

/// How many live entries the announced versions would delete.
fn deletions(manifest: &Manifest, announced: &[Announced]) -> Deletes {
    // Of most that arrives nothing is known: then there is nothing to delete.
    let is_known = |entry| manifest.versions_of(entry).next().is_some();
    let is_live = |entry| manifest.resolve(entry).is_some_and(|it| it.current.kind == Kind::Live);
    let mut arriving = BTreeMap::<EntryId, Vec<(&Version, &str)>>::new();
    for news in announced {
        let versions = news.rows.iter().filter_map(|(row, _)| version_of(row));
        for version in versions.chain(&news.notices.buried).filter(|version| is_known(version.entry)) {
            arriving.entry(version.entry).or_default().push((version, &news.name));
        }
    }
    let mut deletes = Deletes::new();
    for (entry, arriving) in arriving.iter().filter(|(entry, _)| is_live(**entry)) {
        let known = manifest.versions_of(*entry).map(|state| &*state.version);
        let after = resolve(known.chain(arriving.iter().map(|(version, _)| *version)));
        if let Some(after) = after.filter(|after| after.current.kind == Kind::Tombstone) {
            let by = arriving.iter().find(|(version, _)| version.id == after.current.id);
            *deletes.entry(by.map_or("?", |(_, name)| name).to_owned()).or_default() += 1;
        }
    }
    deletes
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::id::{DeviceId, VersionId};
    use crate::manifest::{Location, Notices, Record, Row, Summary};
    use crate::version::{MadeOn, succeed};

    const DEVICES: u8 = 3;

    /// Objects of two entries that devices wrote, knowing part of each other's versions, and parts.
    fn objects() -> impl Strategy<Value = Vec<(Row, Option<Summary>)>> {
        let step = (0..DEVICES, 0..2_u8, 0..50_i64, any::<bool>(), vec(any::<bool>(), 16));
        vec(step, 1..16).prop_map(|steps| {
            let mut versions = Vec::<Version>::new();
            for (device, entry, now_ms, deletes, knows) in steps {
                let entry = EntryId::from_bytes([entry; 16]);
                let known =
                    versions.iter().zip(knows).filter(|(version, knows)| *knows && version.entry == entry);
                let known = known.map(|(version, _)| version).collect::<Vec<_>>();
                let device = DeviceId::from_bytes([device; 16]);
                let (dot, context) = succeed(&known, &[], MadeOn::Everything, device, now_ms);
                let kind = if deletes { Kind::Tombstone } else { Kind::Live };
                let id = VersionId::from_bytes([versions.len() as u8; 16]);
                versions.push(Version { entry, id, dot, context, kind });
            }
            let row = |number: usize, subject| {
                let object = ObjectName::from_bytes([number as u8; 32]);
                Row { object, len_bytes: 4_096, schema: 2, epoch: 1, subject }
            };
            let parts = (100..103).map(|number| row(number, Subject::Part)).collect::<Vec<_>>();
            let summary =
                Summary { parts: parts.iter().map(|row| row.object).collect(), ..Summary::default() };
            let versions = versions.into_iter().enumerate().map(|(number, version)| {
                let summary = (version.kind == Kind::Live).then(|| summary.clone());
                (row(number, Subject::Version(version.into())), summary)
            });
            versions.chain(parts.into_iter().map(|row| (row, None))).collect()
        })
    }

    fn location() -> Location {
        let (writer, file) = (DeviceId::from_bytes([0; 16]), ObjectName::from_bytes([0; 32]));
        Location { writer, batch: 1, file, file_len_bytes: 4_096, offset: 0 }
    }

    /// Those chosen to be here, and announcements of those chosen to be there.
    fn divided(
        objects: &[(Row, Option<Summary>)],
        here: &[bool],
        there: &[bool],
    ) -> (Manifest, Vec<Announced>) {
        let mut manifest = Manifest::default();
        for ((row, summary), _) in objects.iter().zip(here).filter(|(_, here)| **here) {
            manifest.apply(Record::Stored(row.clone(), summary.clone()));
        }
        let there = objects.iter().zip(there).filter(|(_, there)| **there);
        let announced = there.enumerate().map(|(number, ((row, _), _))| Announced {
            device: DeviceId::from_bytes([number as u8 % DEVICES; 16]),
            name: "phone".to_owned(),
            tip: None,
            rows: vec![(row.clone(), location())],
            notices: Notices::default(),
        });
        (manifest, announced.collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        #[test]
        fn carried_out_it_leaves_nothing_to_do(
            objects in objects(), here in vec(any::<bool>(), 20), there in vec(any::<bool>(), 20),
        ) {
            let (mut manifest, announced) = divided(&objects, &here, &there);
            for (row, at) in announced.iter().flat_map(|news| news.rows.clone()) {
                manifest.apply(Record::Mirrored(row, at));
            }
            let planned = plan(&manifest, &announced);
            let object = |name| objects.iter().find(|(row, _)| row.object == name).unwrap().clone();
            for (row, summary) in planned.fetch.iter().map(|name| object(*name)) {
                manifest.apply(Record::Stored(row, summary));
            }
            for (row, _) in planned.push.iter().map(|name| object(*name)) {
                manifest.apply(Record::Mirrored(row, location()));
            }
            let next = plan(&manifest, &announced);
            prop_assert_eq!(&next.fetch, &[]);
            // Parts that were here and named by nothing until now go with the version that names them.
            prop_assert!(next.push.iter().all(|name| object(*name).0.subject == Subject::Part));
            prop_assert_eq!(next.deletes, Deletes::new());
            for name in next.push {
                manifest.apply(Record::Mirrored(object(name).0, location()));
            }
            prop_assert_eq!(plan(&manifest, &announced).push, []);
        }

        #[test]
        fn the_order_of_announcements_does_not_matter(
            objects in objects(), here in vec(any::<bool>(), 20), there in vec(any::<bool>(), 20), by in any::<Index>(),
        ) {
            let (manifest, announced) = divided(&objects, &here, &there);
            let mut moved = announced.clone();
            moved.reverse();
            moved.rotate_left(by.index(announced.len().max(1)));
            prop_assert_eq!(plan(&manifest, &moved), plan(&manifest, &announced));
        }

        #[test]
        fn what_will_be_shown_comes_first_and_history_last(
            objects in objects(), here in vec(any::<bool>(), 20), there in vec(any::<bool>(), 20),
        ) {
            let (manifest, announced) = divided(&objects, &here, &there);
            let known = objects.iter().zip(here.iter().zip(&there)).filter(|(_, (here, there))| **here || **there);
            let known = known.filter_map(|((row, _), _)| match &row.subject {
                Subject::Version(version) => Some(&**version),
                Subject::Part => None,
            });
            let known = known.collect::<Vec<_>>();
            let is_head = |version: &Version| {
                let of_entry = known.iter().copied().filter(|other| other.entry == version.entry);
                let resolved = resolve(of_entry).unwrap();
                resolved.current == version || resolved.losers.contains(&version)
            };
            let ranks = plan(&manifest, &announced).fetch.into_iter().map(|name| {
                match &objects.iter().find(|(row, _)| row.object == name).unwrap().0.subject {
                    Subject::Version(version) if is_head(version) => 0,
                    Subject::Part => 1,
                    Subject::Version(_) => 2,
                }
            });
            prop_assert!(ranks.is_sorted());
        }

        #[test]
        fn nothing_here_is_fetched_and_nothing_there_is_sent(
            objects in objects(), here in vec(any::<bool>(), 20), there in vec(any::<bool>(), 20),
        ) {
            let (mut manifest, announced) = divided(&objects, &here, &there);
            let planned = plan(&manifest, &announced);
            let wanted = announced.iter().flat_map(|news| news.rows.iter().map(|(row, _)| row.object));
            let wanted = wanted.filter(|name| manifest.object(name).is_none_or(|state| !state.here));
            prop_assert_eq!(planned.fetch.iter().copied().collect::<BTreeSet<_>>(), wanted.collect());
            for (row, at) in announced.into_iter().flat_map(|news| news.rows) {
                manifest.apply(Record::Mirrored(row, at));
            }
            let sent = plan(&manifest, &[]).push;
            prop_assert!(sent.iter().all(|name| !manifest.object(name).unwrap().is_mirrored()));
            let parts = sent.iter().take_while(|name| manifest.object(name).unwrap().row.subject == Subject::Part);
            prop_assert!(sent[parts.count()..].iter().all(|name| name.as_bytes()[0] < 100), "parts go first");
        }
    }
}
