//! What a sync has to do, decided from values alone: no I/O, and the same answer for the same question.

use std::collections::{BTreeMap, BTreeSet};

use super::Deletes;
use super::read::Announced;
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
    let rows = announced.iter().flat_map(|news| news.rows.iter().map(|(row, _)| row));
    let (deletes, live) = deletions(manifest, announced);
    Plan { fetch: to_fetch(manifest, rows), push: to_push(manifest), deletes, live }
}

fn to_fetch<'a>(manifest: &'a Manifest, announced: impl Iterator<Item = &'a Row>) -> Vec<ObjectName> {
    let known_absent = manifest.absent().map(|state| &state.row);
    let rows = known_absent.chain(announced).map(|row| (row.object, row)).collect::<BTreeMap<_, _>>();
    let wanted = rows.values().filter(|row| manifest.object(&row.object).is_none_or(|state| !state.here));
    // An entry's versions as they will be known once everything is here.
    let mut entries = BTreeMap::<EntryId, Vec<&Version>>::new();
    for row in rows.values() {
        if let Subject::Version(version) = &row.subject {
            entries.entry(version.entry).or_default().push(version);
        }
    }
    let heads = entries
        .iter()
        .flat_map(|(entry, announced)| {
            let known = manifest.versions_of(*entry).map(|state| &state.version);
            let resolved = resolve(known.chain(announced.iter().copied()));
            resolved.into_iter().flat_map(|it| it.losers.into_iter().chain([it.current])).map(|head| head.id)
        })
        .collect::<BTreeSet<_>>();
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

/// What to send. Parts that no version names are left out: they belong to an `add` that is still at work, or that
/// was killed.
pub fn to_push(manifest: &Manifest) -> Vec<ObjectName> {
    let summaries = manifest.versions().filter_map(|state| state.summary.as_ref());
    let named = summaries.flat_map(|summary| summary.parts.iter().copied()).collect::<BTreeSet<_>>();
    let (parts, versions): (Vec<_>, Vec<_>) =
        manifest.unmirrored().partition(|state| state.row.subject == Subject::Part);
    let parts = parts.into_iter().map(|state| state.row.object).filter(|part| named.contains(part));
    parts.chain(versions.into_iter().map(|state| state.row.object)).collect()
}

/// How many live entries the announced versions would delete, and how many are live.
fn deletions(manifest: &Manifest, announced: &[Announced]) -> (Deletes, u64) {
    let is_live = |entry| manifest.resolve(entry).is_some_and(|it| it.current.kind == Kind::Live);
    let live = manifest.entry_ids().filter(|entry| is_live(*entry)).count() as u64;
    let mut arriving = BTreeMap::<EntryId, Vec<(&Version, &str)>>::new();
    for news in announced {
        for (row, _) in &news.rows {
            if let Subject::Version(version) = &row.subject {
                arriving.entry(version.entry).or_default().push((version, &news.name));
            }
        }
    }
    let mut deletes = Deletes::new();
    for (entry, arriving) in arriving.iter().filter(|(entry, _)| is_live(**entry)) {
        let known = manifest.versions_of(*entry).map(|state| &state.version);
        let after = resolve(known.chain(arriving.iter().map(|(version, _)| *version)));
        if let Some(after) = after.filter(|after| after.current.kind == Kind::Tombstone) {
            let by = arriving.iter().find(|(version, _)| version.id == after.current.id);
            *deletes.entry(by.map_or("?", |(_, name)| name).to_owned()).or_default() += 1;
        }
    }
    (deletes, live)
}
