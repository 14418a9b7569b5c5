//! What was read of the feeds is written down, and what nobody announces any more is announced again.

use std::collections::{BTreeMap, BTreeSet};

use super::news::{Announced, News};
use super::segments::{intact_segment, open, segment_names};
use crate::event::{Finding, Observer};
use crate::host::Host;
use crate::id::ObjectName;
use crate::manifest::Record;
use crate::vault::{self, Store, Vault};
use crate::version::Version;

/// Records that are noted together. Of a mirror that is new here there are as many as it has versions.
pub const RECORDS_AT_ONCE: usize = 4_096;

/// Notes what was read, and takes it out of the news. From here on the next sync starts after it.
pub fn accept<H: Host>(
    vault: &mut Vault<H>,
    news: &mut News,
    observer: &mut dyn Observer,
) -> Result<(), vault::Error> {
    if !news.segments.is_empty() {
        vault.cache_segments(&std::mem::take(&mut news.segments))?;
        let this = vault.device().id;
        let cached = segment_names(vault)?;
        // This device's own go when they have gone from the mirror.
        for name in cached.iter().filter(|name| name.device != this) {
            if cached.iter().any(|other| other.repeats(name)) {
                vault.drop_cached_segment(&name.to_string())?;
            }
        }
    }
    let manifest = vault.manifest()?;
    let back = news.announced.iter().filter(|it| it.tip.is_some() && manifest.is_retired(it.device));
    let back = back.map(|it| (it.device, it.name.clone())).collect::<BTreeMap<_, _>>();
    note(vault, std::mem::take(&mut news.announced))?;
    if !news.forgotten.is_empty() {
        // What is to be announced again has to be here; what turns out not to be is fetched while its place is known.
        for object in unnamed(vault)?.objects {
            match vault.object_bytes(&object) {
                Ok(_) | Err(vault::Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let this = vault.device().clone();
    let manifest = vault.manifest()?;
    if manifest.is_retired(this.id) {
        // It announces itself in this very sync.
        observer.finding(Finding::DeviceReturned { device: this.id, name: this.name });
    }
    for (device, name) in back.into_iter().filter(|(device, _)| !manifest.is_retired(*device)) {
        observer.finding(Finding::DeviceReturned { device, name });
    }
    Ok(())
}

/// Notes what follows from what was announced and is not known yet.
pub fn note<S: Store>(vault: &mut S, mut announced: Vec<Announced>) -> Result<(), vault::Error> {
    let notices = announced.iter_mut().map(|it| (it.device, std::mem::take(&mut it.notices)));
    let mut records =
        notices.flat_map(|(device, notices)| Record::of_notices(device, notices)).collect::<Vec<_>>();
    for Announced { device, rows, tip, .. } in announced {
        for (row, at) in rows {
            if records.len() >= RECORDS_AT_ONCE {
                note_new(vault, &mut records)?;
            }
            records.push(Record::Mirrored(row, at));
        }
        // It counts as read when all that it says is noted.
        records.extend(tip.map(|tip| Record::Feed(device, tip)));
    }
    note_new(vault, &mut records)
}

fn note_new<S: Store>(vault: &mut S, records: &mut Vec<Record>) -> Result<(), vault::Error> {
    let manifest = vault.manifest()?;
    records.retain(|record| !manifest.knows(record));
    vault.record(records)?;
    records.clear();
    Ok(())
}

/// What the mirror is said to have and to tell and what no segment names any more: nobody who comes new would find it.
struct Unnamed {
    objects: Vec<ObjectName>,
    buried: Vec<Version>,
}

/// Sees to it that what no segment names any more is announced again.
pub fn announce_again<H: Host>(vault: &mut Vault<H>) -> Result<(), vault::Error> {
    let Unnamed { objects, buried } = unnamed(vault)?;
    let objects = objects.into_iter().map(Record::NotMirrored);
    let buried = buried.into_iter().map(|version| Record::Buried(version, false));
    vault.record(&objects.chain(buried).collect::<Vec<_>>())
}

fn unnamed<H: Host>(vault: &mut Vault<H>) -> Result<Unnamed, vault::Error> {
    let mut named = BTreeSet::new();
    let mut told = BTreeSet::new();
    let mut rows = Vec::new();
    for name in segment_names(vault)? {
        let segment = intact_segment(vault, &name).and_then(|file| open(vault, &name, &file).ok());
        for (announcement, _) in segment.into_iter().flat_map(|segment| segment.announcements) {
            rows.extend(announcement.rows.into_iter().map(|(row, at)| (row.object, at)));
            told.extend(announcement.notices.buried.into_iter().map(|version| version.id));
        }
    }
    let manifest = vault.manifest()?;
    let released = manifest.released();
    let there = rows.into_iter().filter(|(_, at)| !released.contains_key(&at.file_place()));
    named.extend(there.map(|(object, _)| object));
    let objects = manifest.objects();
    let unnamed =
        objects.filter(|state| state.here && state.is_mirrored() && !named.contains(&state.row.object));
    let untold = manifest.buried().filter(|(version, announced)| *announced && !told.contains(&version.id));
    let buried = untold.map(|(version, _)| version.clone()).collect();
    Ok(Unnamed { objects: unnamed.map(|state| state.row.object).collect(), buried })
}
