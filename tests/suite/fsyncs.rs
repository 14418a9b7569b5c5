//! What is acknowledged rests on fsync: that it is asked for in time, and believed when it fails. Two commands, looked at
//! closely and quickly; `syscalls` disturbs every command at every call.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::cli::{Output, finish, temp_dir};
use crate::common::crash::{self, Key, VAULT, written};
use crate::common::strace::{self, Call};
use crate::common::{NOT_SYNCED, copy_dir};

/// Fails unless every file was made where nobody looks for it, synced, and only then named, and unless every name was
/// synced before the command said that it is done.
fn judge(dir: &Path, calls: &[Call]) {
    let mut unsynced = BTreeSet::<PathBuf>::new();
    let mut named = 0;
    for call in calls.iter().filter(|call| call.succeeded() && call.changes()) {
        let path = dir.join(call.path());
        let name = path.strip_prefix(dir).unwrap_or(Path::new("")).display().to_string();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &call.name[..] {
            "write" if call.descriptor() == "1" => {
                assert!(unsynced.is_empty(), "acknowledged before {unsynced:?} is synced");
            }
            _ if !path.starts_with(dir) || file_name.ends_with("lock") => {}
            "openat" if call.has_flag("O_CREAT") => {
                let unseen = name.contains("local/incoming/") || file_name.starts_with('.');
                assert!(unseen && call.has_flag("O_EXCL"), "{name} is written under its final name");
                unsynced.insert(path);
            }
            "fsync" => drop(unsynced.remove(&path)),
            "syncfs" => unsynced.clear(),
            name if name.starts_with("rename") => {
                let to = dir.join(call.target());
                let from_incoming = unsynced.remove(&path);
                if !NOT_SYNCED.iter().any(|name| to.ends_with(name)) {
                    assert!(!from_incoming, "{} is named before it is synced", to.display());
                    unsynced.insert(to.parent().unwrap().to_owned());
                    named += 1;
                }
            }
            _ => {}
        }
    }
    assert!(unsynced.is_empty() && named > 0, "{named} named, and in the end {unsynced:?} is not synced");
}

#[test]
fn a_file_is_synced_then_named_then_its_directory_is_synced_then_it_is_acknowledged() {
    let dir = temp_dir();
    let dir = dir.path().canonicalize().unwrap();
    let (vault, key) = crash::create(&dir);
    drop(vault);
    // A new entry, with a directory that is new too; and a mirror in a folder, made and filled.
    for args in [&["add", "-m", "text", "-t", "title"][..], &["sync"]] {
        let (output, calls) = traced(&dir, &key, args, &[]);
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
        judge(&dir, &calls);
    }
}

/// Runs the binary below strace.
fn traced(dir: &Path, key: &Key, args: &[&str], inject: &[String]) -> (Output, Vec<Call>) {
    let log = dir.join("calls.log");
    let strace = [vec!["strace".to_owned()], strace::arguments(&log, inject)].concat();
    let args = args.iter().copied().map(str::to_owned).collect::<Vec<_>>();
    let child = crash::command(dir, &strace, key, &args).spawn();
    let output = finish(child.expect("strace is needed; tests/servers/install.sh installs it"), b"");
    let calls = strace::parse(&fs::read_to_string(&log).unwrap());
    (output, calls)
}

/// `add` with one of its fsyncs failing.
struct Failed {
    dir: tempfile::TempDir,
    key: Key,
    /// What was shown before.
    before: crash::State,
    output: Output,
    calls: Vec<Call>,
    /// Which of them it was.
    at: usize,
}

impl Failed {
    /// What could not be synced.
    fn path(&self) -> PathBuf {
        self.calls[self.at].path()
    }

    fn place(&self) -> String {
        self.path().strip_prefix(self.dir.path()).unwrap().display().to_string()
    }

    fn shown(&self) -> crash::State {
        crash::shown(&mut crash::open(&self.dir.path().join(VAULT), &self.key).unwrap()).unwrap()
    }
}

/// One run for each fsync, which fails like this.
fn failing(error: &str) -> Vec<Failed> {
    let start = temp_dir();
    let (mut vault, key) = crash::create(start.path());
    vault.save(&[written("before", "before")]).unwrap();
    let before = crash::shown(&mut vault).unwrap();
    let mut failed = Vec::new();
    for n in 1.. {
        let dir = temp_dir();
        copy_dir(start.path(), dir.path());
        // A copy becomes a device of its own when it is opened first: that is not what fails here.
        let _ = crash::open(&dir.path().join(VAULT), &key);
        let inject = [format!("fsync:error={error}:when={n}")];
        let (output, calls) = traced(dir.path(), &key, &["add", "-m", "after", "-t", "after"], &inject);
        let Some(at) = calls.iter().position(Call::was_injected) else {
            assert_eq!(output.code, 0, "{output:?}");
            break;
        };
        failed.push(Failed { dir, key: key.clone(), before: before.clone(), output, calls, at });
    }
    assert!(failed.len() >= 3, "{}", failed.len());
    failed
}

/// After a failed fsync Linux counts the bytes as written, so that a second one succeeds and means nothing. What could
/// not be synced was not saved.
#[test]
fn an_fsync_that_fails_is_reported_and_not_tried_again() {
    for failed in failing("EIO") {
        let (path, place) = (failed.path(), failed.place());
        let after = &failed.calls[failed.at + 1..];
        let again = after.iter().find(|call| call.name == "fsync" && call.path() == path);
        // The directory of a file that is taken away again is synced once more, and that is right.
        let is_file = path.extension().is_none() && !path.is_dir();
        assert!(!is_file || again.is_none(), "an fsync of {place} that failed is tried again: {again:?}");
        assert_ne!(failed.output.code, 0, "an fsync of {place} failed, and add says that it is done");
        assert_eq!(failed.shown(), failed.before, "an fsync of {place} failed");
    }
}

/// Some network and foreign file systems cannot sync a directory, and say so.
#[test]
fn a_directory_that_cannot_be_synced_at_all_is_no_failure_and_a_file_is() {
    let mut dirs = 0;
    for failed in failing("EINVAL") {
        let place = failed.place();
        if failed.path().is_dir() {
            dirs += 1;
            assert_eq!(failed.output.code, 0, "{place}: {:?}", failed.output);
            assert!(failed.shown().contains_key("after"), "{place}");
        } else {
            assert_ne!(failed.output.code, 0, "{place} is not synced, and add says that it is done");
            assert_eq!(failed.shown(), failed.before, "{place}");
        }
    }
    assert!(dirs > 0);
}

/// What was synced.
#[derive(Debug)]
struct Synced {
    files: usize,
    dirs: usize,
    /// The whole file system.
    whole: usize,
    /// How often the numbers of `status` were written.
    told: usize,
}

fn synced(calls: &[Call]) -> Synced {
    let fsyncs = calls.iter().filter(|call| call.name == "fsync").map(Call::path).collect::<Vec<_>>();
    let dirs = fsyncs.iter().filter(|path| path.is_dir()).count();
    let renames = calls.iter().filter(|call| call.name.starts_with("rename"));
    let told = renames.filter(|call| call.target().ends_with("local/status")).count();
    let whole = calls.iter().filter(|call| call.name == "syncfs").count();
    Synced { files: fsyncs.len() - dirs, dirs, whole, told }
}

const ENTRIES: usize = 1_500;

/// A vault, and a folder of notes beside it. On a disk: nothing in memory is synced as a whole.
fn with_notes() -> (tempfile::TempDir, Key) {
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = temp.path();
    let (vault, key) = crash::create(dir);
    drop(vault);
    fs::create_dir(dir.join("notes")).unwrap();
    for n in 0..ENTRIES {
        fs::write(dir.join(format!("notes/{n}.md")), format!("what was written, {n}")).unwrap();
    }
    (temp, key)
}

const IMPORT: [&str; 3] = ["import", "markdown", "notes"];

#[test]
fn the_entries_of_an_import_share_the_syncs_of_their_file_system_or_of_their_directories() {
    let (dir, key) = with_notes();
    let dir = dir.path().canonicalize().unwrap();
    let (output, calls) = traced(&dir, &key, &IMPORT, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    judge(&dir, &calls);
    let synced = synced(&calls);
    println!("{synced:?}");
    assert!(synced.told <= 2, "{synced:?}");
    // One batch: the index, every directory of objects once, and theirs.
    if synced.whole == 0 {
        assert!((ENTRIES..ENTRIES + 10).contains(&synced.files), "{synced:?}");
        assert!(synced.dirs <= 256 + 10, "{synced:?}");
    } else {
        assert_eq!(synced.whole, 2, "the files, then their names");
        assert!(synced.files < 10 && synced.dirs < 10, "{synced:?}");
    }
}

#[test]
fn a_file_system_that_could_not_be_synced_has_saved_nothing() {
    for n in 1..=2 {
        let (dir, key) = with_notes();
        let (output, calls) = traced(dir.path(), &key, &IMPORT, &[format!("syncfs:error=EIO:when={n}")]);
        if !calls.iter().any(Call::was_injected) {
            println!("the file system of {} is not synced as a whole", dir.path().display());
            return;
        }
        assert_ne!(output.code, 0, "sync {n} failed, and the import says that it is done");
        let mut vault = crash::open(&dir.path().join(VAULT), &key).unwrap();
        assert_eq!(crash::shown(&mut vault).unwrap(), crash::State::new(), "sync {n} failed");
    }
}

#[test]
fn the_parts_of_an_attachment_share_the_syncs_of_the_index() {
    const PARTS: usize = 8;
    let dir = temp_dir();
    let dir = dir.path().canonicalize().unwrap();
    let (vault, key) = crash::create(&dir);
    drop(vault);
    fs::write(dir.join("film.bin"), vec![7; PARTS * espejo::entry::PART_BYTES]).unwrap();
    let (output, calls) = traced(&dir, &key, &["add", "-m", "text", "-t", "title", "-a", "film.bin"], &[]);
    assert_eq!(output.code, 0, "{output:?}");
    judge(&dir, &calls);
    let synced = synced(&calls);
    println!("{synced:?}");
    // The parts and the entry, and the index once for all parts and once for the entry.
    assert!(synced.files <= PARTS + 1 + 2, "{synced:?}");
    // That of each part, the one they were made in, and the entry's.
    assert!(synced.dirs <= 2 * PARTS + 4, "{synced:?}");
    assert!(synced.told <= 2, "{synced:?}");
}
