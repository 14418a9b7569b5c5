//! The real binary at every system call that changes something: what it does is what the documents say; killed
//! there or told that it failed, nothing that was acknowledged is lost and nothing half done is left.
//!
//! Long, because the stories, the calls and what is expected of them are one table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::cli::{Output, finish, temp_dir};
use crate::common::crash::{
    self, Key, MIRROR, PAPER, PASSWORD, State, ThisVault, VAULT, with_attachment, written,
};
use crate::common::strace::{self, Call, Point};
use crate::common::tracer::{self, Run};
use crate::common::{NOT_SYNCED, copy_dir, edit};
use espejo::format::feed::SegmentName;
use espejo::host::ThisMachine;
use espejo::id::EntryId;
use espejo::vault::Locked;
use serde_json::Value;
use tempfile::TempDir;

const LOG: &str = "calls.log";

/// A command and what it is to do.
struct Scenario {
    name: &'static str,
    /// The directory it starts from.
    start: TempDir,
    args: Vec<String>,
    key: Key,
    before: State,
    after: State,
    /// Whether it may stop half-way: a sync goes on later from where it was.
    in_steps: bool,
    /// Whether there is no vault before.
    makes_vault: bool,
    /// Whether the mirror has everything afterwards.
    syncs: bool,
    /// What the command does undisturbed, and where it was seen to do it.
    calls: Vec<Call>,
    seen_in: PathBuf,
}

/// The vaults the commands start from.
struct Start {
    dir: TempDir,
    vault: ThisVault,
    key: Key,
}

impl Start {
    fn empty() -> Self {
        let dir = temp_dir();
        let (vault, key) = crash::create(dir.path());
        fs::write(dir.path().join("photo.bin"), [7; 5_000]).unwrap();
        Self { dir, vault, key }
    }

    /// A vault with a bit of everything, in step with its mirror and with another device in `other`.
    fn lived_in() -> Self {
        let Self { dir, mut vault, key } = Self::empty();
        let photo = with_attachment(&mut vault, written("photo", "a photo"), "old.bin", &[3; 2_000]);
        let edits = ["plain", "gone", "changed", "contested"].map(|title| written(title, title));
        vault.save(&edits.into_iter().chain([photo]).collect::<Vec<_>>()).unwrap();
        let id = |vault: &mut ThisVault, title: &str| id_of(vault, title);
        let changed = id(&mut vault, "changed");
        edit(&mut vault, changed, "changed");
        let gone = id(&mut vault, "gone");
        crate::common::delete(&mut vault, gone);
        let mirror = dir.path().join(MIRROR);
        crash::sync_with(&mut vault, &mirror).unwrap();
        let mut other = crash::clone_mirror(&mirror, &dir.path().join("other"), &key).unwrap();
        let contested = id(&mut vault, "contested");
        edit(&mut vault, contested, "contested");
        edit(&mut other, contested, "contested");
        crash::sync_with(&mut vault, &mirror).unwrap();
        crash::sync_with(&mut other, &mirror).unwrap();
        crash::sync_with(&mut vault, &mirror).unwrap();
        Self { dir, vault, key }
    }

    fn scenario(mut self, name: &'static str, args: &[&str]) -> Scenario {
        let before = crash::shown(&mut self.vault).unwrap();
        Scenario::new(name, self.dir, args, self.key, before)
    }
}

fn id_of(vault: &mut ThisVault, title: &str) -> EntryId {
    let entries = vault.entries().unwrap();
    entries.iter().find(|entry| entry.summary.title == title).unwrap().id()
}

impl Scenario {
    /// Runs the command once, undisturbed, to see what it does.
    fn new(name: &'static str, start: TempDir, args: &[&str], key: Key, before: State) -> Self {
        let args = args.iter().copied().map(str::to_owned).collect();
        let mut scenario = Self {
            name,
            before,
            after: State::new(),
            in_steps: false,
            makes_vault: !start.path().join(VAULT).exists(),
            syncs: false,
            calls: Vec::new(),
            seen_in: PathBuf::new(),
            start,
            args,
            key,
        };
        let (dir, output, calls) = scenario.run(&[]);
        assert_eq!(output.code, 0, "{name}: {output:?}");
        let mut vault = crash::open(&dir.path().join(VAULT), &scenario.key).unwrap();
        scenario.after = crash::shown(&mut vault).unwrap();
        (scenario.calls, scenario.seen_in) = (calls, dir.path().to_owned());
        scenario
    }

    /// A copy of its start.
    fn copy(&self) -> TempDir {
        let dir = temp_dir();
        copy_dir(self.start.path(), dir.path());
        if !self.makes_vault {
            // A copy becomes a device of its own when it is opened first; here it stands for the vault itself.
            let copy = Locked::find(ThisMachine::new(dir.path().join(VAULT)));
            copy.and_then(|copy| copy.unlock(&self.key.secret())).unwrap();
        }
        dir
    }

    /// Runs the command in a copy of its start, with these calls failing.
    fn run(&self, inject: &[String]) -> (TempDir, Output, Vec<Call>) {
        let dir = self.copy();
        let log = dir.path().join(LOG);
        let mut strace = vec!["strace".to_owned()];
        strace.extend(strace::arguments(&log, inject));
        let child = crash::command(dir.path(), &strace, &self.key, &self.args).spawn();
        let output = finish(child.expect("strace is needed; tests/servers/install.sh installs it"), b"");
        let calls = strace::parse(&fs::read_to_string(&log).unwrap());
        (dir, output, calls)
    }

    /// Runs the command in a copy of its start, and kills it before its changing call with this number.
    fn run_until(&self, kill_before: Option<usize>) -> (TempDir, tracer::Run) {
        let dir = self.copy();
        let held = tracer::HELD.map(str::to_owned);
        let run = tracer::run(&mut crash::command(dir.path(), &held, &self.key, &self.args), kill_before);
        (dir, run)
    }

    fn points(&self) -> Vec<Point> {
        strace::points(&self.calls)
    }
}

fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let add = ["add", "-m", "new text", "-t", "new", "-a", "photo.bin"];
    all.push(Start::lived_in().scenario("add", &add));
    for (name, title, words) in [
        ("edit", "plain", &["edit", "ID", "-m", "edited", "-t", "plain"][..]),
        ("edit with a file", "photo", &["edit", "ID", "-a", "photo.bin"]),
        ("rm", "plain", &["rm", "ID"]),
        ("undelete", "gone", &["undelete", "ID"]),
        ("revert", "changed", &["revert", "ID", "OLDEST"]),
        ("resolve", "contested", &["resolve", "ID", "--keep", "OLDEST"]),
    ] {
        let mut start = Start::lived_in();
        let id = id_of(&mut start.vault, title);
        let oldest = start.vault.history(id).unwrap().last().unwrap().version.id.to_string();
        let id = id.to_string();
        let word = |word: &&'static str| match *word {
            "ID" => id.clone(),
            "OLDEST" => oldest.clone(),
            word => word.to_owned(),
        };
        let words = words.iter().map(word).collect::<Vec<_>>();
        all.push(start.scenario(name, &words.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let start = Start::lived_in();
    fs::remove_file(start.dir.path().join(VAULT).join("local/manifest")).unwrap();
    let mut check = start.scenario("check", &["check"]);
    check.name = "check without an index";
    all.push(check);
    let start = Start::lived_in();
    interrupt(&start.dir.path().join(VAULT));
    all.push(start.scenario("add after a crash", &add));
    all.extend(syncs());
    all.push(clone());
    all.push(restore());
    all.push(migrate());
    all
}

/// A backup of another device, with edits and entries that this one has not seen, united with this vault.
fn restore() -> Scenario {
    let mut start = Start::lived_in();
    let mut other = crash::open(&start.dir.path().join("other"), &start.key).unwrap();
    other.save(&batch()).unwrap();
    let [plain, gone] = ["plain", "contested"].map(|title| id_of(&mut other, title));
    edit(&mut other, plain, "plain");
    crate::common::delete(&mut other, gone);
    other.backup(&start.dir.path().join("backup.espejo")).unwrap();
    let changed = id_of(&mut start.vault, "changed");
    edit(&mut start.vault, changed, "changed");
    Scenario { in_steps: true, ..start.scenario("restore into the vault", &["restore", "backup.espejo"]) }
}

/// A vault of the first schema, frozen: what it shows never changes.
fn migrate() -> Scenario {
    let dir = temp_dir();
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/vaults/schema-1");
    fs::create_dir(dir.path().join(VAULT)).unwrap();
    copy_dir(&frozen.join("vault"), &dir.path().join(VAULT));
    fs::copy(frozen.join("recovery"), dir.path().join(PAPER)).unwrap();
    let key = crash::key_on_paper(dir.path()).expect("it has its recovery key beside it");
    // The copy becomes a device of its own before anything is looked at.
    let copy = Locked::find(ThisMachine::new(dir.path().join(VAULT)));
    let mut vault = copy.and_then(|copy| copy.unlock(&key.secret())).unwrap();
    let before = crash::shown(&mut vault).unwrap();
    Scenario::new("migrate", dir, &["migrate", "--all"], key, before)
}

/// What a process leaves that was killed while it wrote.
fn interrupt(vault: &Path) {
    fs::write(vault.join("local/incoming/1-0"), "half a file").unwrap();
    let index = vault.join("local/manifest");
    let mut torn = fs::read(&index).unwrap();
    torn.extend([0; 30]);
    fs::write(index, torn).unwrap();
}

/// Many entries: beyond eight they are written by several threads.
fn batch() -> Vec<espejo::vault::Edit> {
    (0..10).map(|n| written(&format!("entry {n}"), &format!("text {n}"))).collect()
}

fn syncs() -> Vec<Scenario> {
    let mut first = Start::empty();
    first.vault.save(&batch()).unwrap();
    let mut push = Start::lived_in();
    let plain = id_of(&mut push.vault, "plain");
    edit(&mut push.vault, plain, "plain");
    let pull = Start::lived_in();
    let mut other = crash::open(&pull.dir.path().join("other"), &pull.key).unwrap();
    other.save(&batch()).unwrap();
    let plain = id_of(&mut other, "plain");
    edit(&mut other, plain, "plain");
    crash::sync_with(&mut other, &pull.dir.path().join(MIRROR)).unwrap();
    let starts = [("first sync", first), ("sync of an edit", push), ("sync that fetches", pull)];
    let stepwise = |(name, start): (&'static str, Start)| Scenario {
        in_steps: true,
        syncs: true,
        ..start.scenario(name, &["sync"])
    };
    starts.map(stepwise).into()
}

fn clone() -> Scenario {
    let Start { dir, key, .. } = Start::lived_in();
    fs::remove_dir_all(dir.path().join(VAULT)).unwrap();
    let scenario = Scenario::new("clone", dir, &["clone", MIRROR, VAULT], key, State::new());
    Scenario { in_steps: true, syncs: true, ..scenario }
}

/// Its key derivation takes longer than everything else here.
fn init() -> Scenario {
    let dir = temp_dir();
    fs::write(dir.path().join(PASSWORD), "correct horse battery staple\n").unwrap();
    Scenario::new("init", dir, &["init", VAULT, "--recovery-out", PAPER], Key::Password, State::new())
}

/// Fails unless the command wrote as the documents say: into a new file that nobody sees, synced, renamed, its
/// directory synced, before anything that relies on it and before the command says that it is done.
fn judge(scenario: &Scenario) {
    let dir = &scenario.seen_in;
    let (vault, mirror) = (dir.join(VAULT), dir.join(MIRROR));
    let mut made = BTreeSet::<PathBuf>::new();
    // Files and directories whose bytes or names a power cut would take.
    let mut unsynced = BTreeSet::<PathBuf>::new();
    let parent = |path: &Path| path.parent().unwrap().to_owned();
    let segment = |path: &Path| SegmentName::parse(path.file_name().unwrap().to_str().unwrap());
    let cached = fs::read_dir(scenario.start.path().join(VAULT).join("local/feeds"));
    let cached = cached.into_iter().flatten().map(|item| item.unwrap().path());
    let mut segments = cached.filter_map(|path| segment(&path)).collect::<BTreeSet<_>>();
    for call in scenario.calls.iter().filter(|call| call.succeeded() && call.changes()) {
        let path = dir.join(call.path());
        let inside = path.strip_prefix(&vault).unwrap_or(Path::new("")).to_str().unwrap();
        let wrong = |why: &str| -> ! { panic!("{}: {why}: {call:?}", scenario.name) };
        let settled = |unsynced: &BTreeSet<PathBuf>| {
            if !unsynced.is_empty() {
                wrong(&format!("{unsynced:?} not synced before"));
            }
        };
        match &call.name[..] {
            "write" if call.descriptor() == "1" => settled(&unsynced),
            _ if !path.starts_with(dir) => {}
            "openat" if ["local/lock", "local/sync-lock"].contains(&inside) => {}
            "openat" if inside == "local/manifest" => {
                if call.has_flag("O_CREAT") || call.has_flag("O_TRUNC") {
                    wrong("the index is only appended to");
                }
            }
            "openat" => {
                let hidden = path.file_name().unwrap().to_str().unwrap().starts_with('.');
                let elsewhere = !path.starts_with(&vault) && !path.starts_with(&mirror);
                if !call.has_flag("O_EXCL") {
                    wrong("a file is written anew");
                } else if elsewhere {
                    unsynced.insert(parent(&path));
                } else if !(inside.starts_with("local/incoming/") || path.starts_with(&mirror) && hidden) {
                    wrong("a file is written in place");
                }
                made.insert(path);
            }
            "write" | "pwrite64" | "ftruncate" => {
                if inside == "local/manifest" {
                    settled(&unsynced);
                } else if !made.contains(&path) || call.name == "ftruncate" {
                    wrong("a file is written in place");
                }
                unsynced.insert(path);
            }
            "fsync" | "fdatasync" => {
                unsynced.remove(&path);
            }
            "rename" | "renameat" | "renameat2" => {
                let to = dir.join(call.target());
                let is_cache = NOT_SYNCED.iter().any(|name| to == vault.join(name));
                if !made.contains(&path) || path.starts_with(&vault) != to.starts_with(&vault) {
                    wrong("a rename of something else");
                }
                if path.starts_with(&mirror) && parent(&path) != parent(&to) {
                    wrong("a rename from elsewhere");
                }
                segments.extend(segment(&to).filter(|_| to.starts_with(vault.join("local/feeds"))));
                match is_cache {
                    true => drop(unsynced.remove(&path)),
                    false if unsynced.contains(&path) => wrong("a file is named before it is synced"),
                    false => drop(unsynced.insert(parent(&to))),
                }
            }
            "mkdir" | "mkdirat" => {
                unsynced.insert(parent(&path));
            }
            "unlink" if inside.starts_with("local/incoming/") => {}
            "unlink" if inside.starts_with("local/feeds/") => {
                settled(&unsynced);
                let dropped = segment(&path).unwrap();
                segments.remove(&dropped);
                if !segments.iter().any(|other| other.repeats(&dropped)) {
                    wrong("what it announces is kept nowhere else");
                }
            }
            _ => wrong("something else is removed"),
        }
    }
    assert!(unsynced.is_empty(), "{}: at its end {unsynced:?} not synced", scenario.name);
}

#[test]
fn every_write_is_synced_and_renamed_before_it_is_relied_upon() {
    let all = scenarios().into_iter().chain([init()]).collect::<Vec<_>>();
    all.iter().for_each(judge);
    let renames =
        |scenario: &Scenario| scenario.calls.iter().filter(|c| c.name.starts_with("rename")).count();
    let renames = all.iter().map(renames).sum::<usize>();
    println!("{} commands, {renames} files", all.len());
    assert!(renames > 60, "{renames}");
}

/// How a disturbed command ended.
struct End {
    /// It said that it is done.
    acknowledged: bool,
    /// It said that nothing was changed.
    unchanged: bool,
}

/// Whether everything is as it was, or as it should be.
fn verify(scenario: &Scenario, dir: &Path, end: &End, by_binary: bool) -> Result<(), String> {
    let (path, mirror, key) = (dir.join(VAULT), dir.join(MIRROR), &scenario.key);
    let mut acknowledged = end.acknowledged;
    crash::locks_are_free(&path)?;
    if scenario.makes_vault && !path.join("espejo.json").exists() {
        let args = scenario.args.iter().map(String::as_str).collect::<Vec<_>>();
        let again = crash::run(dir, key, &args);
        if acknowledged || again.code != 0 {
            return Err(format!("there is no vault, and again: {again:?}"));
        }
        acknowledged = true;
    }
    let paper = crash::key_on_paper(dir);
    let key = paper.as_ref().unwrap_or(key);
    let mut vault = crash::open(&path, key)?;
    if vault.remote_settings().map_err(|error| format!("{error:?}"))?.is_none() {
        crash::set_mirror(&mut vault);
    }
    let first = crash::shown(&mut vault)?;
    match (acknowledged, scenario.in_steps) {
        (false, false) if first == scenario.before || first == scenario.after => {}
        (false, true) => each_is_one_of(scenario, &first)?,
        (true, _) if first == scenario.after => {}
        _ => {
            let (from_old, from_new) =
                (crash::difference(&first, &scenario.before), crash::difference(&first, &scenario.after));
            return Err(format!("it shows neither what was ({from_old}) nor what is to be ({from_new})"));
        }
    }
    through(dir, key, by_binary, &["check"], || crash::check(&mut vault))?;
    let second = crash::shown(&mut vault)?;
    each_is_one_of(scenario, &second).map_err(|problem| format!("after the check {problem}"))?;
    if end.unchanged && (first != scenario.before || second != scenario.before) {
        let changed = crash::difference(&scenario.before, &second);
        return Err(format!("it said that nothing was changed: {changed}"));
    }
    if end.acknowledged && scenario.syncs {
        let mut early = crash::clone_mirror(&mirror, &dir.join("early"), key)?;
        if crash::shown(&mut early)? != scenario.after {
            return Err("it said that it is in step with the mirror".to_owned());
        }
    }
    let next = ["add", "-m", "next", "-t", "next"];
    through(dir, key, by_binary, &next, || {
        vault.save(&[written("next", "next")]).map(drop).map_err(|error| format!("no next change: {error:?}"))
    })?;
    crash::no_leftovers(&path)?;
    through(dir, key, by_binary, &["sync"], || crash::sync_with(&mut vault, &mirror))?;
    let mut copy = match by_binary {
        true => {
            let copy = dir.join("copy");
            through(dir, key, true, &["clone", MIRROR, "copy"], || Ok(()))?;
            crash::open(&copy, key)?
        }
        false => crash::clone_mirror(&mirror, &dir.join("copy"), key)?,
    };
    let mut last = crash::shown(&mut vault)?;
    let copied = crash::shown(&mut copy)?;
    if copied != last {
        return Err(format!("a clone differs: {}", crash::difference(&last, &copied)));
    }
    if last.remove("next").is_none() || (scenario.syncs && last != scenario.after) {
        return Err(format!("in the end: {}", crash::difference(&last, &scenario.after)));
    }
    Ok(())
}

/// Does something with the binary, or with the library, which is faster.
fn through(
    dir: &Path,
    key: &Key,
    by_binary: bool,
    args: &[&str],
    by_library: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    if !by_binary {
        return by_library();
    }
    let output = crash::run(dir, key, args);
    if output.code == 0 { Ok(()) } else { Err(format!("{args:?} {output:?}")) }
}

/// Each entry is as before or as after, and none that was there is gone.
fn each_is_one_of(scenario: &Scenario, shown: &State) -> Result<(), String> {
    let (before, after) = (&scenario.before, &scenario.after);
    for (title, entry) in shown {
        let (old, new) = (before.get(title), after.get(title));
        let on_its_way = scenario.in_steps && old != new && entry.is_on_its_way();
        // Of what is fetched for the first time, any version may come first; conflicts show when all are here.
        let arriving = scenario.in_steps && old.is_none() && new.is_some();
        if Some(entry) != old && Some(entry) != new && !on_its_way && !arriving {
            return Err(format!("{title} is {entry:?}, neither {old:?} nor {new:?}"));
        }
    }
    let lost = before.keys().filter(|title| !shown.contains_key(*title)).collect::<Vec<_>>();
    if lost.is_empty() { Ok(()) } else { Err(format!("{lost:?} is lost")) }
}

/// Does `work` with each case, on all cores; gives how often it returned true, and fails with all that went wrong.
fn with_each<T: Sync>(cases: &[T], work: impl Fn(usize, &T) -> Result<bool, String> + Sync) -> usize {
    let (next, hits) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let problems = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((n, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, cases.get(n)?)))
                {
                    match work(n, case) {
                        Ok(hit) => drop(hits.fetch_add(usize::from(hit), Ordering::Relaxed)),
                        Err(problem) => problems.lock().unwrap().push(problem),
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    let first = problems.iter().take(25).map(|problem| format!("\n* {problem}")).collect::<String>();
    assert!(problems.is_empty(), "{} of {} cases went wrong:{first}", problems.len(), cases.len());
    hits.into_inner()
}

/// Every this many cases the binary itself looks after the vault.
const BY_BINARY: usize = 12;

#[test]
fn killed_at_any_system_call_nothing_acknowledged_is_lost() {
    let all = scenarios().into_iter().chain([init()]).collect::<Vec<_>>();
    let numbers = all.iter().map(|scenario| 0..scenario.run_until(None).1.calls.len());
    let cases = all.iter().zip(numbers).flat_map(|(scenario, numbers)| numbers.map(move |n| (scenario, n)));
    let cases = cases.collect::<Vec<_>>();
    let by_others = AtomicUsize::new(0);
    let kills = with_each(&cases, |n, (scenario, before)| {
        let (dir, Run { output, calls }) = scenario.run_until(Some(*before));
        let end = End { acknowledged: output.code == 0, unchanged: false };
        let context = |problem| {
            let call = calls.get(*before).map_or("none", |call| call.name);
            format!("{} killed before call {before}, {call} ({output:?}): {problem}", scenario.name)
        };
        if ![-1, 0].contains(&output.code) {
            return Err(context("it failed".to_owned()));
        }
        verify(scenario, dir.path(), &end, n % BY_BINARY == 0).map_err(context)?;
        let killed = output.code == -1;
        by_others.fetch_add(usize::from(killed && !calls[*before].by_main_thread), Ordering::Relaxed);
        Ok(killed)
    });
    let by_others = by_others.into_inner();
    println!("{kills} kills in {} commands, {by_others} of them in the threads of a batch", all.len());
    assert!(kills >= 600 && by_others >= 30, "{kills}, {by_others}");
}

const ERRORS: [&str; 6] = ["ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EMFILE"];

#[test]
fn a_failing_system_call_is_reported_and_nothing_acknowledged_is_lost() {
    let all = scenarios();
    let mut cases = Vec::new();
    for scenario in &all {
        for (n, point) in scenario.points().into_iter().enumerate() {
            for errno in ERRORS {
                cases.push((scenario, point.fail_once(errno), format!("{errno} once at {point:?}")));
            }
            let errno = ERRORS[n % ERRORS.len()];
            cases.push((scenario, point.fail_from_here(errno), format!("{errno} from {point:?} on")));
        }
    }
    let init = init();
    for point in init.points() {
        cases.push((&init, point.fail_once("ENOSPC"), format!("ENOSPC once at {point:?}")));
    }
    let injections = with_each(&cases, |n, (scenario, inject, what)| {
        let (dir, output, calls) = scenario.run(inject);
        let context = |problem| format!("{}, {what} ({output:?}): {problem}", scenario.name);
        let end = reported(&output, &calls, dir.path()).map_err(context)?;
        verify(scenario, dir.path(), &end, n % (5 * BY_BINARY) == 0).map_err(context)?;
        Ok(calls.iter().any(Call::was_injected))
    });
    println!("{injections} injected failures in {} commands", all.len() + 1);
    assert!(injections >= 3_000, "{injections}");
}

/// Whether a sync says that the mirror takes no more.
fn has_postponed(output: &Output) -> bool {
    let report = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
    report["warnings"].as_array().into_iter().flatten().any(|warning| warning["kind"] == "postponed")
}

/// How a command with failing calls ended, if it ended as a program should.
fn reported(output: &Output, calls: &[Call], dir: &Path) -> Result<End, String> {
    let deaf = |descriptor| {
        calls.iter().any(|c| c.was_injected() && c.name == "write" && c.descriptor() == descriptor)
    };
    let mut unchanged = false;
    match output.code {
        -1 | 101 => return Err("it did not end by itself".to_owned()),
        0 => {}
        // It has said on stdout what is still to do.
        3 if !output.stdout.is_empty() || deaf("1") => {}
        _ if deaf("2") => {}
        _ => {
            let last = output.stderr.lines().last().unwrap_or_default();
            let error =
                serde_json::from_str::<Value>(last).map_err(|error| format!("no message: {error}"))?;
            let message = error["message"].as_str().unwrap_or_default();
            if message.is_empty() {
                return Err("an empty message".to_owned());
            }
            unchanged = message.contains("nothing was changed");
        }
    }
    for (n, failed) in calls.iter().enumerate().filter(|(_, call)| call.was_injected() && call.is_sync()) {
        // A mirror that is full is no failure as long as nothing of the person's waits; it is said all the same.
        let is_told = failed.path().starts_with(dir.join(MIRROR)) && has_postponed(output);
        if output.code == 0 && !is_told {
            return Err(format!("it says that it is done, and could not make this durable: {failed:?}"));
        }
        // A directory from which a refused file was removed again is synced for that.
        let again = |later: &&Call| later.is_sync() && later.path() == failed.path() && later.succeeded();
        let is_file = !failed.path().is_dir();
        if let Some(again) = calls[n..].iter().find(again).filter(|_| is_file) {
            return Err(format!("a sync that failed is tried again: {again:?}"));
        }
    }
    Ok(End { acknowledged: output.code == 0, unchanged })
}
