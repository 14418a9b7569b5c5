//! Every step of every operation, and every disk a power cut may leave there.
//!
//! Each script runs once while the disk after each of its steps is kept. For each of these moments every legal disk is
//! made, and on each a person goes on: opens the vault, reads, writes, checks, syncs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use espejo::fs::{INCOMING, VaultFs};
use espejo::id::{EntryId, VersionId};
use espejo::remote::MemoryRemote;
use espejo::vault;
use espejo::version::MadeOn;

use crate::chance::Chance;
use crate::disk::{Image, Trouble, Unsynced};
use crate::promise::Broken;
use crate::script::{Known, Moment, Play, SCRIPTS, Script, Stage, TARGET, Words, edit};
use crate::vaults::{START_MS, SimVault};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What follows a power cut is cut again, for one disk at every so many moments...
const MOMENTS_APART: usize = 16;

/// ...at every step, with one in so many of the disks that may be left.
const ONE_IN: u64 = 16;

/// Of one script so many broken promises are told.
const MAX_BROKEN: usize = 5;

/// Every disk that a power cut at this moment may leave: the changes of names cut off at every point of their order,
/// and each one lost or kept alone; the bytes that were not synced lost, kept, torn or never written.
fn cuts(disk: &Image) -> Vec<Image> {
    let pending = disk.pending();
    let mut cuts = Vec::new();
    for bytes in Unsynced::ALL {
        let mut add = |kept: &dyn Fn(usize) -> bool| cuts.push(disk.after_power_cut(kept, |_| bytes));
        (0..=pending).for_each(|at| add(&|n| n < at));
        (0..pending).for_each(|at| add(&|n| n != at));
        (0..pending).for_each(|at| add(&|n| n == at));
    }
    cuts
}

fn read(vault: &mut SimVault, version: VersionId) -> Result<Words, vault::Error> {
    let Some(content) = vault.content(version)? else { return Ok(Words { text: None, attached: None }) };
    let attached = content.attachments.first();
    let attached = attached.map(|attachment| vault.blob_bytes(&attachment.blob, 1 << 20)).transpose()?;
    Ok(Words { text: Some(content.title), attached })
}

/// Looks at everything that is listed: all that `must` be there is, nothing but what `may` be there is, and all of it
/// says what was written.
fn look(
    stage: &Stage,
    vault: &mut SimVault,
    must: &Known,
    may: &Known,
) -> Result<BTreeSet<VersionId>, Broken> {
    let mut listed = BTreeSet::new();
    for entry in vault.entries()? {
        for state in vault.history(entry.id())? {
            let id = state.version.id;
            let arrives = may.versions.contains_key(&id) && !must.versions.contains_key(&id);
            match read(vault, id) {
                Ok(words) => {
                    let written = must.versions.get(&id).or_else(|| may.versions.get(&id));
                    promise!(written == Some(&words), "version {id} says {words:?} and not {written:?}");
                    listed.insert(id);
                }
                // Announced, and not fetched yet.
                Err(vault::Error::Pending) if arrives && stage.elsewhere.contains_key(&id) => {}
                Err(_) if stage.harmed.contains(&id) => {}
                Err(error) => return Err(Broken(format!("version {id} cannot be read: {error}"))),
            }
        }
    }
    let lost = must.versions.keys().find(|id| !listed.contains(id) && !stage.harmed.contains(id));
    promise!(lost.is_none(), "version {lost:?} is lost, {listed:?} are there");
    Ok(listed)
}

/// What is known is there, in a process of its own.
fn look_again(stage: &Stage, may: &Known) -> Result<(), Broken> {
    look(stage, &mut stage.open()?, &stage.known, may).map(drop)
}

/// What each entry shows, and beside it.
fn shown(vault: &mut SimVault) -> Result<BTreeMap<EntryId, (VersionId, Vec<VersionId>)>, Broken> {
    let entries = vault.entries()?;
    Ok(entries.into_iter().map(|entry| (entry.id(), (entry.version.id, entry.losers))).collect())
}

fn with(may: &Known, also: &Known) -> Known {
    let mut may = may.clone();
    may.versions.extend(also.versions.clone());
    may
}

/// What a person does after the machine came back. What is known is there; of the rest, at most what `may` be; if
/// `whole`, all of it or nothing.
fn go_on(stage: &mut Stage, may: &Known, whole: bool) -> Result<(), Broken> {
    let must = stage.known.clone();
    let mut vault = match stage.open() {
        Err(vault::Error::NoVault) if !must.vault => {
            stage.make()?;
            stage.open()?
        }
        opened => opened?,
    };
    let opens = stage.opens_with(&must.secrets) || stage.opens_with(&may.secrets);
    promise!(opens, "neither what opened it before opens it, nor what does after");
    let listed = look(stage, &mut vault, &must, may)?;
    let all_of = |known: &Known| known.versions.keys().eq(&listed);
    promise!(!whole || all_of(&must) || all_of(may), "half a change is there: {listed:?}");
    let device = Some(vault.device().id);
    promise!(stage.former.is_none() || device != stage.former, "a copy is the device it was copied from");
    let is_known = must.device.is_none() || device == must.device || device == may.device;
    promise!(is_known, "it is another device");
    let target = vault.remote_settings()?.map(|settings| settings.target.clone());
    promise!(target == must.target || target == may.target, "the mirror is {target:?}");

    let mut edits = vec![edit(None, MadeOn::Everything, "written after")];
    let live = vault.entries()?.into_iter().filter(|entry| !entry.deleted());
    edits.extend(live.map(|entry| edit(Some(entry.id()), MadeOn::Version(entry.version.id), "edited after")));
    let saved = stage.save(&mut vault, &edits)?;
    let leftovers = stage.host.disk.list(INCOMING)?;
    promise!(leftovers.is_empty(), "left over: {leftovers:?}");

    let mut vault = stage.open()?;
    let report = vault.check()?;
    let harmless = report.files.is_empty() && report.foreign.is_empty();
    promise!(harmless && (report.is_clean() || !stage.harmed.is_empty()), "the check says {report:?}");
    look(stage, &mut vault, &stage.known, &with(may, &stage.known))?;
    let shown = shown(&mut vault)?;
    for saved in saved {
        let (current, losers) = &shown[&saved.entry];
        let counts = *current == saved.version || losers.contains(&saved.version);
        promise!(counts, "what was written after is covered by {current}");
    }
    Ok(())
}

/// Syncs until there is nothing to do; another device sees the same.
fn sync(stage: &mut Stage, may: &Known) -> Result<(), Broken> {
    let Some(settings) = stage.open()?.remote_settings()? else { return Ok(()) };
    if settings.target != TARGET {
        stage.mirror = MemoryRemote::new();
    }
    let report = stage.sync()?;
    promise!(report.is_settled(), "the sync is not settled: {report:?}");
    let report = stage.sync()?;
    promise!(report.is_settled() && report.is_idle(), "the second sync did {report:?}");
    let mut vault = stage.open()?;
    stage.harmed.clear();
    let report = vault.check()?;
    promise!(report.is_clean() && report.foreign.is_empty(), "after the sync the check says {report:?}");
    let may = with(may, &stage.known);
    let peer = stage.peer()?;
    let mut other = peer.open()?;
    look(&peer, &mut other, &stage.known, &may)
        .map_err(|Broken(why)| Broken(format!("a new device: {why}")))?;
    promise!(shown(&mut other)? == shown(&mut vault)?, "a new device shows something else");
    promise!(other.key_file()? == vault.key_file()?, "a new device has another key file");
    let opens = peer.opens_with(&stage.known.secrets) || peer.opens_with(&may.secrets);
    promise!(opens, "what opens the vault does not open a new device's");
    Ok(())
}

/// One machine that stopped at `moment` and has `disk` on it now.
fn return_to(stage: &mut Stage, moment: &Moment, disk: &Image, days: i64) {
    let now_ms = START_MS + days * DAY_MS;
    stage.set(disk.clone(), &moment.mirror, moment.known.clone(), disk.fingerprint(), now_ms);
}

/// Does `work` on every processor, with a number for each time it asks for one.
fn on_all_processors(work: impl Fn(&dyn Fn() -> usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&|| next.fetch_add(1, Ordering::Relaxed)));
        }
    });
}

/// What was tried with one script.
#[derive(Default)]
struct Tally {
    moments: usize,
    seen: HashSet<u64>,
    cases: usize,
    broken: Vec<String>,
}

impl Tally {
    fn note(&mut self, result: Result<(), Broken>, what: impl FnOnce() -> String) {
        self.cases += 1;
        if let Err(Broken(why)) = result {
            self.broken.push(format!("{}: {why}", what()));
        }
    }
}

/// The scripts that are asked for with `ESPEJO_SCRIPT`, by a part of their names.
fn chosen() -> Option<String> {
    std::env::var("ESPEJO_SCRIPT").ok()
}

/// Fails if a test has become smaller than it was, unless less was asked for.
fn require(cases: usize, least: usize) {
    assert!(cases >= least || (cases > 0 && chosen().is_some()), "only {cases} cases");
}

/// Runs `work` for every script and says how many cases there were.
fn for_every_script(work: impl Fn(&Script, &Mutex<Tally>, &dyn Fn() -> usize) + Sync) -> usize {
    let started = std::time::Instant::now();
    let mut cases = 0;
    for script in SCRIPTS.iter().filter(|script| chosen().is_none_or(|name| script.name.contains(&name))) {
        let tally = Mutex::<Tally>::default();
        on_all_processors(|next| work(script, &tally, next));
        let tally = tally.into_inner().unwrap();
        println!("{:>8} cases at {:>4} moments: {}", tally.cases, tally.moments, script.name);
        cases += tally.cases;
        let broken = tally.broken;
        assert!(broken.is_empty(), "{}:\n{}", script.name, broken[..MAX_BROKEN.min(broken.len())].join("\n"));
    }
    println!("{cases:>8} cases in {:.1} s", started.elapsed().as_secs_f64());
    cases
}

/// Every different case of a script: what is known, the mirror, and the disk.
fn for_every_case(
    play: &mut Play,
    tally: &Mutex<Tally>,
    next: &dyn Fn() -> usize,
    mut work: impl FnMut(&mut Stage, &Moment, usize, &Image, &Known),
) {
    let (moments, after) = play.record();
    tally.lock().unwrap().moments = moments.len();
    loop {
        let at = next();
        let Some(moment) = moments.get(at) else { return };
        for disk in cuts(&moment.disk) {
            let mut hasher = DefaultHasher::new();
            (moment.stage, disk.fingerprint()).hash(&mut hasher);
            if tally.lock().unwrap().seen.insert(hasher.finish()) {
                work(&mut play.stage, moment, at, &disk, &after);
            }
        }
    }
}

#[test]
fn after_a_power_cut_at_any_step_everything_acknowledged_is_there() {
    let cases = for_every_script(|script, tally, next| {
        let mut play = Play::new(script);
        let harmed = play.stage.harmed.clone();
        for_every_case(&mut play, tally, next, |stage, moment, at, disk, may| {
            return_to(stage, moment, disk, 1);
            stage.harmed = harmed.clone();
            let result = go_on(stage, may, script.saves).and_then(|()| sync(stage, may));
            tally.lock().unwrap().note(result, || format!("moment {at}"));
        });
    });
    require(cases, 20_000);
}

#[test]
fn after_a_power_cut_while_going_on_after_one_everything_acknowledged_is_there() {
    let cases = for_every_script(|script, tally, next| {
        let mut play = Play::new(script);
        let harmed = play.stage.harmed.clone();
        let (moments, may) = play.record();
        tally.lock().unwrap().moments = moments.len();
        let stage = &mut play.stage;
        loop {
            let at = next() * MOMENTS_APART;
            let Some(moment) = moments.get(at) else { return };
            let disks = cuts(&moment.disk);
            let disk = Chance::new(at as u64).pick(&disks).expect("one at least").clone();
            return_to(stage, moment, &disk, 1);
            stage.harmed = harmed.clone();
            stage.record();
            // That this goes well is the test before.
            let _ = go_on(stage, &may, script.saves);
            let again = stage.take_moments(disk);
            let may = with(&may, &stage.known);
            let mut seen = HashSet::new();
            for (step, moment) in again.iter().enumerate() {
                let disks = cuts(&moment.disk);
                let chosen = |disk: &&Image| disk.fingerprint().is_multiple_of(ONE_IN);
                for disk in disks.iter().filter(chosen) {
                    if !seen.insert((moment.stage, disk.fingerprint())) {
                        continue;
                    }
                    return_to(stage, moment, disk, 2);
                    stage.harmed = harmed.clone();
                    let result = go_on(stage, &may, false).and_then(|()| sync(stage, &may));
                    tally.lock().unwrap().note(result, || format!("moment {at}, then {step}"));
                }
            }
        }
    });
    require(cases, 5_000);
}

#[test]
fn after_a_step_that_fails_everything_acknowledged_is_there_and_nothing_refused() {
    let cases = for_every_script(|script, tally, next| {
        let mut play = Play::new(script);
        let harmed = play.stage.harmed.clone();
        play.rewind();
        let before = play.stage.host.disk.steps();
        play.act().unwrap_or_else(|Broken(why)| panic!("{}: {why}", script.name));
        let steps = play.stage.host.disk.steps() - before;
        let after = play.stage.known.clone();
        tally.lock().unwrap().moments = steps as usize;
        let once = [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::Other];
        while let Some(step) = Some(next() as u64).filter(|step| *step < steps) {
            let troubles = once.iter().map(|kind| Trouble::FailOnce(step, *kind));
            for trouble in troubles.chain([Trouble::Full(step)]) {
                play.rewind();
                play.stage.harmed = harmed.clone();
                play.stage.host.disk.trouble(Some(trouble));
                let refused = play.act().is_err();
                let stage = &mut play.stage;
                // What a save refused must not be there, not even later.
                let may = if refused && script.saves { stage.known.clone() } else { after.clone() };
                let still = match stage.known.vault {
                    true => look_again(stage, &may),
                    false => Ok(()),
                };
                stage.host.disk.trouble(None);
                let result = still.and_then(|()| go_on(stage, &may, script.saves));
                let result = result.and_then(|()| sync(stage, &may));
                tally.lock().unwrap().note(result, || format!("{trouble:?}"));
            }
        }
    });
    require(cases, 1_500);
}
