//! Several real processes at once: on one vault, and on four vaults that share a server which fails, dies and comes
//! back. What a command called done is there in the end, everywhere.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::cli::{Output, run, temp_dir};
use crate::common::dice::Dice;
use crate::common::proxy::{Fault, How, Proxy};
use crate::common::servers::Embedded;
use crate::common::*;
use bip39::{Language, Mnemonic};
use espejo::embedded::EmbeddedServer;
use espejo::host::ThisMachine;
use espejo::vault::{self, NewVault};
use serde_json::Value;
use tempfile::TempDir;

const PROCESSES: usize = 4;
/// What a command says that waited too long for another one: nothing was changed.
const BUSY: i32 = 11;

/// The vaults of some devices, opened with the recovery key: the password would be most of the work.
struct Devices {
    dir: TempDir,
    words: PathBuf,
}

impl Devices {
    fn new() -> Self {
        let dir = temp_dir();
        let new = NewVault {
            password: password(),
            recovery: true,
            device_name: "device0".to_owned(),
            iterations: espejo::crypto::MIN_WRITTEN_ITERATIONS,
        };
        let created = vault::create(ThisMachine::new(dir.path().join("0")), &new).unwrap();
        let words = Mnemonic::from_entropy_in(Language::English, &created.recovery.unwrap()[..]).unwrap();
        let file = dir.path().join("words");
        std::fs::write(&file, words.to_string()).unwrap();
        Self { dir, words: file }
    }

    fn vault(&self, device: usize) -> PathBuf {
        self.dir.path().join(device.to_string())
    }

    fn run(&self, device: usize, args: &[&str]) -> Output {
        let unlock = ["--recovery-key-file", self.words.to_str().unwrap()];
        run(&self.vault(device), &[&unlock[..], args].concat())
    }

    fn set_mirror(&self, target: &str) {
        let login = ["--user", "ada", "--remote-password-command", "echo secret"];
        self.run(0, &[&["remote", "set", target][..], &login].concat()).exits(0);
    }

    fn clone_from(&self, device: usize, target: &str) {
        let name = format!("device{device}");
        let login = ["--device-name", &name, "--user", "ada", "--remote-password-command", "echo secret"];
        self.run(device, &[&["clone", target][..], &login].concat()).exits(0);
    }

    fn list(&self, device: usize) -> Value {
        self.run(device, &["list"]).json()
    }
}

/// The live entries of a list: title by id.
fn titles_by_id(list: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list["entries"].as_array().unwrap().iter().map(|it| (text(&it["id"]), text(&it["title"]))).collect()
}

/// The id of what `add` added.
fn added(ran: &Output) -> String {
    ran.json()["added"][0]["id"].as_str().unwrap().to_owned()
}

/// What one process did to its own entries, as far as the commands called it done.
#[derive(Default)]
struct Wrote {
    titles: BTreeMap<String, String>,
    edits: usize,
    removed: BTreeSet<String>,
    busy: usize,
}

/// Adds, edits and removes entries of its own, so many times.
fn write(devices: &Devices, device: usize, name: &str, times: usize, dice: &mut Dice) -> Wrote {
    let mut wrote = Wrote::default();
    for n in 0..times {
        let title = format!("{name} {n}");
        let own = wrote.titles.keys().nth(dice.below(wrote.titles.len().max(1))).cloned();
        let (ran, id) = match (dice.below(4), own) {
            (2, Some(id)) => (devices.run(device, &["edit", &id, "-t", &title]), Some(id)),
            (3, Some(id)) => {
                let ran = devices.run(device, &["rm", &id]);
                if ran.code == 0 {
                    wrote.titles.remove(&id);
                    wrote.removed.insert(id);
                    continue;
                }
                (ran, Some(id))
            }
            _ => (devices.run(device, &["add", "-t", &title, "-m", "text"]), None),
        };
        if ran.code == BUSY {
            wrote.busy += 1;
            continue;
        }
        let ran = ran.exits(0);
        wrote.edits += usize::from(id.is_some());
        wrote.titles.insert(id.unwrap_or_else(|| added(&ran)), title);
    }
    wrote
}

/// Every list shows what every process wrote, no more and no less; nothing is damaged, nothing left to do.
fn all_is_there(devices: &Devices, count: usize, wrote: &[Wrote]) {
    let mut expected = BTreeMap::new();
    wrote.iter().for_each(|wrote| expected.extend(wrote.titles.clone()));
    let first = devices.list(0);
    for device in 0..count {
        let list = devices.list(device);
        assert_eq!(titles_by_id(&list), expected, "device {device}");
        assert_eq!(list, first, "device {device}");
        devices.run(device, &["check"]).exits(0);
        let idle = devices.run(device, &["sync"]).json();
        assert_eq!((&idle["requests"], &idle["warnings"]), (&Value::from(1), &serde_json::json!([])));
        let removed = devices.run(device, &["list", "--deleted"]).json();
        let removed = titles_by_id(&removed).into_keys().collect::<BTreeSet<_>>();
        assert_eq!(removed, wrote.iter().flat_map(|wrote| wrote.removed.clone()).collect());
    }
}

#[test]
fn four_processes_and_a_sync_on_one_vault() {
    let server = Embedded::start();
    let target = server.server.url() + "journal/";
    let devices = Devices::new();
    devices.set_mirror(&target);
    let writing = AtomicUsize::new(PROCESSES);
    let (wrote, syncs) = std::thread::scope(|scope| {
        let (devices, writing) = (&devices, &writing);
        let writers = (0..PROCESSES).map(|process| {
            scope.spawn(move || {
                let name = format!("process {process}");
                let wrote = write(devices, 0, &name, 30, &mut Dice(process as u64));
                writing.fetch_sub(1, Ordering::SeqCst);
                wrote
            })
        });
        let writers = writers.collect::<Vec<_>>();
        let syncing = scope.spawn(move || {
            let mut syncs = 0;
            while writing.load(Ordering::SeqCst) > 0 {
                let ran = devices.run(0, &["sync"]);
                assert!([0, BUSY].contains(&ran.code), "{ran:?}");
                syncs += 1;
            }
            syncs
        });
        let wrote = writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>();
        (wrote, syncing.join().unwrap())
    });
    devices.run(0, &["sync"]).exits(0);
    devices.clone_from(1, &target);
    devices.run(0, &["sync"]).exits(0);
    all_is_there(&devices, 2, &wrote);
    let sum = |count: fn(&Wrote) -> usize| wrote.iter().map(count).sum::<usize>();
    println!(
        "{PROCESSES} processes: {} live, {} edits, {} removed, {} times busy, {syncs} syncs beside them",
        sum(|it| it.titles.len()),
        sum(|it| it.edits),
        sum(|it| it.removed.len()),
        sum(|it| it.busy)
    );
    assert!(syncs >= 5 && sum(|it| it.removed.len()) >= 10);
}

/// Something that goes wrong on the way, and that no server lies about.
fn trouble(dice: &mut Dice) -> Fault {
    let page = "<!DOCTYPE html><html><body>Sign in to Hotel-WLAN</body></html>";
    let how = match dice.below(12) {
        0 | 1 => How::Reset,
        2 | 3 => How::LoseAnswer,
        4 => How::CutAnswer(50),
        5 => How::Cut(1_000),
        6 => How::Twice,
        7 => How::Stale,
        8 => How::Late(2, None),
        9 => How::Torn("500 Internal Server Error"),
        10 => How::Answer("200 OK\r\nContent-Type: text/html\r\n".to_owned(), page.to_owned()),
        _ => {
            let statuses = ["403 Forbidden", "404 Not Found", "423 Locked", "503 Unavailable", "507 Full"];
            How::status(statuses[dice.below(statuses.len())])
        }
    };
    // Half a body under a file's name: nothing else has a body to halve.
    let method = if matches!(how, How::Torn(_) | How::Late(..)) { "PUT" } else { "" };
    Fault { method, path: "/journal/", after: dice.below(8), times: 1, how }
}

fn address(server: &EmbeddedServer) -> std::net::SocketAddr {
    server.url().trim_start_matches("http://").trim_end_matches('/').parse().unwrap()
}

#[test]
fn four_vaults_and_a_server_that_fails_and_dies() {
    let seed = 20_261_122;
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let root = temp_dir();
    let start = || EmbeddedServer::start(root.path().to_owned(), "ada", "secret").unwrap();
    let mut server = start();
    let proxy = Proxy::start(address(&server));
    let target = proxy.url() + "journal/";
    let devices = Devices::new();
    devices.set_mirror(&target);
    devices.run(0, &["sync"]).exits(0);
    (1..PROCESSES).for_each(|device| devices.clone_from(device, &target));

    let failed = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let (mut troubles, mut kills) = (0, 0);
    let wrote = std::thread::scope(|scope| {
        let (devices, failed) = (&devices, &failed);
        let writers = (0..PROCESSES).map(|device| {
            scope.spawn(move || {
                let mut dice = Dice(seed + device as u64);
                let mut wrote = Wrote::default();
                for round in 0..8 {
                    let more = write(devices, device, &format!("device {device}, {round}"), 4, &mut dice);
                    wrote.titles.extend(more.titles);
                    wrote.removed.extend(more.removed);
                    let ran = devices.run(device, &["sync"]);
                    assert!(!ran.stderr.contains("panicked") && ran.code < 100, "{ran:?}");
                    failed.fetch_add(usize::from(ran.code != 0), Ordering::SeqCst);
                }
                wrote
            })
        });
        let writers = writers.collect::<Vec<_>>();
        let (done, proxy, server) = (&done, &proxy, &mut server);
        let (troubles, kills) = (&mut troubles, &mut kills);
        let start = &start;
        let handle = runtime.handle().clone();
        let trouble_maker = scope.spawn(move || {
            let _inside = handle.enter();
            let mut dice = Dice(seed);
            while !done.load(Ordering::SeqCst) {
                proxy.fault(trouble(&mut dice));
                *troubles += 1;
                std::thread::sleep(Duration::from_millis(100));
                if *troubles % 20 == 0 {
                    // Its connections die with it, in the middle of what they carry.
                    *server = start();
                    proxy.set_upstream(address(server));
                    *kills += 1;
                }
            }
        });
        let wrote = writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>();
        done.store(true, Ordering::SeqCst);
        trouble_maker.join().unwrap();
        wrote
    });
    proxy.heal();
    for _ in 0..2 {
        (0..PROCESSES).for_each(|device| drop(devices.run(device, &["sync"]).exits(0)));
    }
    devices.clone_from(PROCESSES, &target);
    (0..PROCESSES).for_each(|device| drop(devices.run(device, &["sync"]).exits(0)));
    all_is_there(&devices, PROCESSES + 1, &wrote);
    let failed = failed.load(Ordering::SeqCst);
    println!("{troubles} troubles, {kills} kills of the server, {failed} of 32 syncs failed");
    assert!(failed >= 3 && kills >= 2);
}
