//! Fetching objects: whole packs where most of one is wanted, ranges where little is.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::Poll;

use futures_util::{StreamExt, stream};

use super::arriving::{Arrived, Arriving};
use super::mirror::file_path;
use super::plan::to_fetch;
use super::{Error, PARALLEL, Report, makes_no_sense};
use crate::clock::Clock;
use crate::entry::SCHEMA;
use crate::event::{Finding, Observer, Phase, Progress};
use crate::format::feed::open_segment;
use crate::host::Host;
use crate::id::ObjectName;
use crate::manifest::{FilePlace, Location, Manifest, Row, Subject};
use crate::remote::{ByteRange, Remote, RemoteError, RemoteErrorKind};
use crate::vault::{Refused, Store, Vault};

/// What is wrong with a file that is not as long as was announced, or holds other bytes.
const TORN: &str = "damaged (its bytes are not those its name promises)";

/// A pack is fetched whole if at least one part in this many of it is wanted.
const WHOLE_IF_ONE_IN: u64 = 4;

/// So much of what has arrived is taken in together,
const TAKEN_IN_BYTES: u64 = 2 << 20;
/// or what arrived in so long: who stops a slow transfer keeps what came.
const TAKEN_IN_AFTER_MS: u64 = 1_000;

/// One request: a file, or a stretch of it, and the objects in it that are wanted.
pub struct Job {
    pub at: Location,
    pub range: Option<ByteRange>,
    /// Each with where it begins in the file, in this order; none begins before the one before it ends.
    pub wanted: Vec<(Row, u64)>,
}

/// Takes in what lies here already: it was fetched while the vault was locked. Says how much.
pub fn take_in_stored<H: Host>(vault: &mut Vault<H>) -> Result<u64, Error> {
    let mut absent = vault.manifest()?.absent().map(|state| state.row.clone()).collect::<Vec<_>>();
    // What is in one directory is taken in together.
    absent.sort_unstable_by_key(|row| row.object);
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

/// What happened to the requests that are under way.
enum Step {
    /// Enough has arrived to be taken in.
    Enough,
    /// One has ended: whether all that was wanted came, or why not.
    Answer(Job, Result<bool, RemoteError>),
    /// All have.
    End,
}

/// Carries out the requests, and takes in what arrives while it arrives; gives back what did not arrive and where it was
/// looked for.
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
    let mut told = BTreeSet::new();
    let mut ended = Vec::<Job>::new();
    let mut taken_in_at = vault.host().clock().now_ms();
    let arrived = &RefCell::new(Arrived::default());
    let has_enough = || arrived.borrow().len_bytes >= TAKEN_IN_BYTES;
    let mut answers = stream::iter(jobs.into_iter().map(|job| async move {
        let max_bytes = job.range.map_or(job.at.file_len_bytes, |range| range.len_bytes);
        let mut arriving = Arriving::new(&job, arrived);
        let answer = remote.get_in_pieces(&file_path(&job.at), job.range, max_bytes, &mut arriving).await;
        let answer = answer.map(|()| arriving.is_whole());
        (job, answer)
    }))
    .buffer_unordered(PARALLEL);
    loop {
        let step = poll_fn(|context| match answers.poll_next_unpin(context) {
            Poll::Ready(Some((job, answer))) => Poll::Ready(Step::Answer(job, answer)),
            Poll::Ready(None) => Poll::Ready(Step::End),
            Poll::Pending if has_enough() => Poll::Ready(Step::Enough),
            Poll::Pending => Poll::Pending,
        })
        .await;
        let is_late = vault.host().clock().now_ms().abs_diff(taken_in_at) >= TAKEN_IN_AFTER_MS;
        let take_in_now = match &step {
            Step::Enough | Step::End | Step::Answer(_, Err(_)) => true,
            Step::Answer(_, Ok(_)) => has_enough() || is_late,
        };
        let is_end = matches!(step, Step::End);
        let mut answered = None;
        if let Step::Answer(job, answer) = step {
            done += job.wanted.len() as u64;
            answered = Some((job.at, answer));
            ended.push(job);
        }
        if take_in_now {
            take_in(vault, arrived.take(), &mut told, report, observer)?;
            taken_in_at = vault.host().clock().now_ms();
            let manifest = vault.manifest()?;
            for job in ended.drain(..) {
                let missing = job.wanted.iter().map(|(row, _)| row.object);
                let missing = missing.filter(|it| manifest.object(it).is_none_or(|state| !state.here));
                failed.extend(missing.map(|object| (object, job.at)));
            }
        }
        match answered {
            None | Some((_, Ok(true))) => {}
            Some((at, Ok(false))) => tell(&mut told, &at, TORN, observer),
            // Announced, and not there yet: a slow folder sync. It is tried again at the next sync.
            Some((_, Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }))) => {}
            Some((at, Err(error))) if makes_no_sense(&error) => {
                tell(&mut told, &at, &error.to_string(), observer);
            }
            Some((_, Err(error))) => return Err(error.into()),
        }
        observer.progress(Progress { phase: Phase::Fetching, done, total });
        if is_end {
            return Ok(failed);
        }
    }
}

/// Says once what is wrong with a file.
fn tell(told: &mut BTreeSet<FilePlace>, at: &Location, problem: &str, observer: &mut dyn Observer) {
    if told.insert(at.file_place()) {
        let (file, problem) = (file_path(at).to_string(), problem.to_owned());
        observer.finding(Finding::MirrorDamaged { file, problem });
    }
}

/// Takes in objects that have arrived, as far as they are what they should be. Of each file that has others the gravest
/// thing is told, once.
fn take_in<S: Store>(
    vault: &mut S,
    arrived: Arrived,
    told: &mut BTreeSet<FilePlace>,
    report: &mut Report,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    if arrived.objects.is_empty() {
        return Ok(());
    }
    let mut from = BTreeMap::new();
    let mut objects = Vec::with_capacity(arrived.objects.len());
    for (row, at, bytes) in arrived.objects {
        from.insert(row.object, at);
        objects.push((row, bytes));
    }
    let received = vault.receive(objects)?;
    report.pulled += (received.stored.len() - received.healed.len()) as u64;
    let mut refused = received.refused;
    refused.sort_by_key(|(_, why)| std::cmp::Reverse(*why));
    for (row, why) in refused {
        let problem = match why {
            Refused::Tampered => "tampered with, or of another vault",
            Refused::NotAsAnnounced => "not what was announced",
            Refused::WrongBytes => TORN,
        };
        if let Some(at) = from.get(&row.object) {
            tell(told, at, problem, observer);
        }
    }
    Ok(())
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
fn split(mut job: Job) -> Vec<Job> {
    let len_bytes = |row: &Row| u64::from(row.len_bytes);
    let wanted_bytes = job.wanted.iter().map(|(row, _)| len_bytes(row)).sum::<u64>();
    if wanted_bytes * WHOLE_IF_ONE_IN >= job.at.file_len_bytes {
        let mut in_order = job.wanted.clone();
        in_order.sort_by_key(|(_, offset)| *offset);
        let is_apart = |pair: &[(Row, u64)]| pair[0].1.saturating_add(len_bytes(&pair[0].0)) <= pair[1].1;
        // What lies in a file twice over was announced wrongly: each is looked for by itself.
        if in_order.windows(2).all(is_apart) {
            job.wanted = in_order;
            return vec![job];
        }
    }
    let at = job.at;
    let ranges = job.wanted.into_iter().map(|(row, offset)| Job {
        at,
        range: Some(ByteRange { offset, len_bytes: len_bytes(&row) }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeviceId;

    fn job(wanted: &[(u64, u32)], file_len_bytes: u64) -> Job {
        let file = ObjectName::from_bytes([0xff; 32]);
        let at =
            Location { writer: DeviceId::from_bytes([1; 16]), batch: 1, file, file_len_bytes, offset: 0 };
        let row = |number: usize, len_bytes| {
            let object = ObjectName::from_bytes([number as u8; 32]);
            Row { object, len_bytes, schema: 0, epoch: 1, subject: Subject::Part }
        };
        let wanted = wanted.iter().enumerate();
        let wanted = wanted.map(|(number, (offset, len_bytes))| (row(number, *len_bytes), *offset));
        Job { at, range: None, wanted: wanted.collect() }
    }

    /// For each request: whether it is for a stretch only, and where what is wanted begins.
    fn requests(wanted: &[(u64, u32)], file_len_bytes: u64) -> Vec<(bool, Vec<u64>)> {
        let jobs = split(job(wanted, file_len_bytes)).into_iter();
        jobs.map(|job| (job.range.is_some(), job.wanted.iter().map(|(_, offset)| *offset).collect()))
            .collect()
    }

    #[test]
    fn a_pack_comes_whole_if_a_quarter_of_it_is_wanted_and_in_its_own_order() {
        assert_eq!(requests(&[(300, 50), (100, 50)], 400), [(false, vec![100, 300])]);
        assert_eq!(requests(&[(300, 50), (100, 49)], 400), [(true, vec![300]), (true, vec![100])]);
    }

    #[test]
    fn what_is_said_to_lie_in_one_place_is_asked_for_one_by_one() {
        assert_eq!(requests(&[(300, 50), (100, 201)], 400), [(true, vec![300]), (true, vec![100])]);
        assert_eq!(requests(&[(100, 200), (300, 50)], 400), [(false, vec![100, 300])]);
    }
}
