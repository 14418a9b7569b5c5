//! Fetching objects: whole packs where most of one is wanted, ranges where little is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::mirror::file_path;
use super::plan::to_fetch;
use super::{Error, PARALLEL, Report, makes_no_sense};
use crate::entry::SCHEMA;
use crate::event::{Finding, Observer, Phase, Progress};
use crate::format::feed::open_segment;
use crate::host::Host;
use crate::id::ObjectName;
use crate::manifest::{FilePlace, Location, Manifest, Row, Subject};
use crate::remote::{ByteRange, Remote, RemoteError, RemoteErrorKind};
use crate::vault::{Refused, Store, Vault};

/// A pack is fetched whole if at least one part in this many of it is wanted.
const WHOLE_IF_ONE_IN: u64 = 4;

/// One request: a file, or a stretch of it, and the objects in it that are wanted.
struct Job {
    at: Location,
    range: Option<ByteRange>,
    wanted: Vec<(Row, u64)>,
}

impl Job {
    /// The wanted objects in the bytes that came. Where they end too soon some are missing.
    fn objects(&self, bytes: Vec<u8>) -> Vec<(Row, Bytes)> {
        let bytes = Bytes::from(bytes);
        let start = self.range.map_or(0, |range| range.offset);
        let object = |(row, offset): &(Row, u64)| {
            let from = usize::try_from(offset - start).ok()?;
            let to = from.checked_add(row.len_bytes as usize).filter(|to| *to <= bytes.len())?;
            Some((row.clone(), bytes.slice(from..to)))
        };
        self.wanted.iter().filter_map(object).collect()
    }
}

/// Takes in what lies here already: it was fetched while the vault was locked. Says how much.
pub fn take_in_stored<H: Host>(vault: &mut Vault<H>) -> Result<u64, Error> {
    let absent = vault.manifest()?.absent().map(|state| state.row.clone()).collect::<Vec<_>>();
    Ok(vault.take_in_stored(&absent)?.len() as u64)
}

/// Fetches what the mirror has and the vault has not.
pub async fn fetch<S: Store, R: Remote>(
    vault: &mut S,
    remote: &R,
    report: &mut Report,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let manifest = vault.manifest()?;
    let asked = to_fetch(manifest, &[]);
    let located = asked.iter().filter_map(|name| {
        let state = manifest.object(name)?;
        Some((state.row.clone(), state.mirrored()?))
    });
    let first = jobs(located);
    let lost = manifest.lost().map(|state| state.row.object).collect::<BTreeSet<_>>();
    let failed = run(vault, remote, first, report, observer).await?;
    // The same object may have been announced twice, by a device that healed the mirror; and one that was missed there
    // once, and is lost here now, may be there after all.
    let mut wanted = failed.keys().copied().chain(lost).collect::<BTreeSet<_>>();
    let mut tried = failed.values().map(Location::file_place).collect::<BTreeSet<_>>();
    tried.extend(vault.manifest()?.released().keys());
    while !wanted.is_empty() {
        let others = other_locations(vault, &wanted, &tried)?;
        if others.is_empty() {
            break;
        }
        let failed = run(vault, remote, jobs(others), report, observer).await?;
        tried.extend(failed.values().map(Location::file_place));
        wanted.retain(|object| failed.contains_key(object));
    }
    let entries = too_new(vault.manifest()?, &asked);
    if entries > 0 {
        observer.finding(Finding::NewerSchema { entries });
    }
    Ok(())
}

/// How many entries have a version among `objects` that has arrived and that this program cannot read in any encoding.
fn too_new(manifest: &Manifest, objects: &[ObjectName]) -> u64 {
    let states = objects.iter().filter_map(|object| manifest.object(object));
    let newer = states.filter(|state| state.here && state.row.schema > SCHEMA);
    let entries = newer.filter_map(|state| match &state.row.subject {
        Subject::Version(version) if manifest.encoding_here(version.id, SCHEMA).is_none() => {
            Some(version.entry)
        }
        Subject::Version(_) | Subject::Part => None,
    });
    entries.collect::<BTreeSet<_>>().len() as u64
}

/// Carries out the requests; gives back what did not arrive and where it was looked for.
async fn run<S: Store, R: Remote>(
    vault: &mut S,
    remote: &R,
    jobs: Vec<Job>,
    report: &mut Report,
    observer: &mut dyn Observer,
) -> Result<BTreeMap<ObjectName, Location>, Error> {
    let total = jobs.iter().map(|job| job.wanted.len() as u64).sum();
    let mut done = 0;
    let mut failed = BTreeMap::new();
    let mut answers = stream::iter(jobs.into_iter().map(|job| async move {
        let max_bytes = job.range.map_or(job.at.file_len_bytes, |range| range.len_bytes);
        let answer = remote.get(&file_path(&job.at), job.range, max_bytes).await;
        (job, answer)
    }))
    .buffer_unordered(PARALLEL);
    while let Some((job, answer)) = answers.next().await {
        done += job.wanted.len() as u64;
        let problem = match answer {
            Ok(bytes) => {
                let fetched = job.objects(bytes);
                let cut = job.wanted.len() - fetched.len();
                let received = vault.receive(fetched)?;
                report.pulled += (received.stored.len() - received.healed.len()) as u64;
                match (cut, received.refused.first()) {
                    (0, None) => None,
                    (_, Some((_, Refused::Tampered))) => {
                        Some("tampered with, or of another vault".to_owned())
                    }
                    (_, Some((_, Refused::NotAsAnnounced))) => Some("not what was announced".to_owned()),
                    _ => Some("damaged (its bytes are not those its name promises)".to_owned()),
                }
            }
            // Announced, and not there yet: a slow folder sync. It is tried again at the next sync.
            Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => None,
            Err(error) if makes_no_sense(&error) => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        if let Some(problem) = problem {
            observer.finding(Finding::MirrorDamaged { file: file_path(&job.at).to_string(), problem });
        }
        let manifest = vault.manifest()?;
        let missing =
            job.wanted.iter().filter(|(row, _)| manifest.object(&row.object).is_none_or(|o| !o.here));
        failed.extend(missing.map(|(row, _)| (row.object, job.at)));
        observer.progress(Progress { phase: Phase::Fetching, done, total });
    }
    Ok(failed)
}

/// Groups wanted objects by file, in the order of the first object wanted of each.
fn jobs(wanted: impl IntoIterator<Item = (Row, Location)>) -> Vec<Job> {
    let mut files = Vec::<Job>::new();
    let mut index = BTreeMap::new();
    for (row, at) in wanted {
        let position = *index.entry(at.file_place()).or_insert(files.len());
        if position == files.len() {
            files.push(Job { at, range: None, wanted: Vec::new() });
        }
        files[position].wanted.push((row, at.offset));
    }
    files.into_iter().flat_map(split).collect()
}

/// One request for most of a pack, or one for each object of few.
fn split(job: Job) -> Vec<Job> {
    let wanted_bytes = job.wanted.iter().map(|(row, _)| u64::from(row.len_bytes)).sum::<u64>();
    if wanted_bytes * WHOLE_IF_ONE_IN >= job.at.file_len_bytes {
        return vec![job];
    }
    let at = job.at;
    let ranges = job.wanted.into_iter().map(|(row, offset)| Job {
        at,
        range: Some(ByteRange { offset, len_bytes: u64::from(row.len_bytes) }),
        wanted: vec![(row, offset)],
    });
    ranges.collect()
}

/// Where the cached segments say that `wanted` objects are, other than in files that were `tried` or released.
fn other_locations<S: Store>(
    vault: &S,
    wanted: &BTreeSet<ObjectName>,
    tried: &BTreeSet<FilePlace>,
) -> Result<Vec<(Row, Location)>, Error> {
    let mut others = BTreeMap::new();
    for name in vault.cached_segments()? {
        let Ok(segment) = open_segment(vault.keys(), &vault.cached_segment(&name)?) else { continue };
        for (announcement, _) in segment.announcements {
            for (row, at) in announcement.rows {
                if wanted.contains(&row.object) && !tried.contains(&at.file_place()) {
                    others.insert(row.object, (row, at));
                }
            }
        }
    }
    Ok(others.into_values().collect())
}
