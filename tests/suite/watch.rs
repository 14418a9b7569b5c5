//! `espejo watch`, as real processes on real vaults, folders and servers. Nothing here measures time: what must happen is
//! waited for, as long as a busy machine may need, and what must not is counted.

#![allow(missing_docs)]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::cli::{Cli, files};
use crate::common::proxy::{Fault, How};
use crate::common::servers::{Embedded, RealServer, Site};
use crate::common::text;
use crate::common::watching::{
    LOGIN, Two, Watch, has_title, rounds, setting, unsynced, until, with_mirror_on,
};
use espejo::crypto::object_name;
use espejo::entry::PART_BYTES;
use espejo::vault::{Change, Edit, EntryState};
use espejo::version::MadeOn;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What is added on either device is readable on the other, every time.
fn none_is_missed(two: &Two, args: &[&str]) {
    let (laptop, desktop) = (Watch::start(&two.laptop, args), Watch::start(&two.desktop, args));
    let mut longest = Duration::ZERO;
    for round in 0..rounds() {
        let (from, to) = match round % 2 {
            0 => (&two.laptop, &two.desktop),
            _ => (&two.desktop, &two.laptop),
        };
        let title = format!("number {round}");
        from.run(&["add", "-m", &title]).exits(0);
        let added = Instant::now();
        // The number of entries is told without a password, so asking costs nothing.
        until(&title, || to.json(&["status"])["entries"] == json!(round + 1));
        longest = longest.max(added.elapsed());
        if round % 10 == 9 {
            assert!(has_title(to, &title), "{title}");
        }
    }
    eprintln!("the longest of {} took {longest:?}", rounds());
    assert_eq!(two.laptop.json(&["list"]), two.desktop.json(&["list"]));
    for (watch, cli) in [(laptop, &two.laptop), (desktop, &two.desktop)] {
        watch.ended_by(Signal::SIGTERM).exits(0);
        cli.run(&["check"]).exits(0);
        assert_eq!(cli.json(&["sync"])["requests"], 1);
    }
}

#[test]
fn two_devices_on_one_folder_see_what_the_other_adds() {
    let shared = Cli::new();
    none_is_missed(&Two::on(&shared.arg("mirror"), &[]), &[]);
}

#[test]
fn two_devices_on_one_server_see_what_the_other_adds() {
    let server = RealServer::start("apache", false);
    let secret = Cli::new();
    let file = secret.file("secrets/server", &server.password);
    let login = ["--user", &server.user, "--remote-password-file", &file];
    none_is_missed(&Two::on(&format!("{}journal/", server.url), &login), &["--every", "2"]);
}

const PAGE: &str = "<!DOCTYPE html><html><body>Sign in to Hotel-WLAN</body></html>";

/// Every request meets this.
fn always(how: How) -> Fault {
    Fault { method: "", path: "", after: 0, times: usize::MAX, how }
}

/// Entries that are added while a mirror is away are sent when it is back, it is said once that it went and once that it
/// came, and in the meantime little is asked.
fn an_outage_is_waited_out(how: How, kind: &str, most: usize) {
    let site = Site::start();
    let cli = with_mirror_on(&site);
    let watch = Watch::start(&cli, &[]);
    watch.sees("sync", |_| true);
    site.proxy.fault(always(how));
    site.proxy.take_asked();
    cli.add("written during the outage");
    let offline = watch.sees("offline", |_| true);
    assert_eq!(offline["kind"], kind, "{offline}");
    assert!(offline["message"].as_str().unwrap().contains("safe here"), "{offline}");
    // Writing on does not make it ask more.
    for n in 0..5 {
        cli.add(&format!("and another {n}"));
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(unsynced(&cli), 6);
    let asked = site.proxy.take_asked();
    assert!(asked.len() <= most, "{asked:?}");
    site.proxy.heal();
    watch.sees("online", |_| true);
    until("all is sent", || unsynced(&cli) == 0);
    assert_eq!((watch.events("offline").len(), watch.events("online").len()), (1, 1));
    watch.ended_by(Signal::SIGTERM).exits(0);
}

// The first sync is tried up to four times by itself, and then the watch tries once, after 4 to 6 seconds, and once more
// after 8 to 13 further ones.
const MOST: usize = 7;

#[test]
fn maintenance_is_waited_out() {
    an_outage_is_waited_out(How::status("503 Service Unavailable"), "unavailable", MOST);
}

#[test]
fn a_server_that_is_asked_too_often_is_left_alone_for_as_long_as_it_says() {
    // Only the first try: the wait is longer than the rest of this.
    an_outage_is_waited_out(How::status("429 Too Many Requests\r\nRetry-After: 16"), "throttled", 1);
}

#[test]
fn a_lock_of_another_program_is_waited_out() {
    an_outage_is_waited_out(How::status("423 Locked"), "locked", MOST);
}

#[test]
fn a_login_page_of_a_network_is_waited_out() {
    let page = How::Answer("200 OK\r\nContent-Type: text/html\r\n".to_owned(), PAGE.to_owned());
    an_outage_is_waited_out(page, "not_webdav", MOST);
}

#[test]
fn a_server_that_is_stopped_and_started_again_is_found_again() {
    let mut site = Site::start();
    let cli = with_mirror_on(&site);
    let watch = Watch::start(&cli, &[]);
    watch.sees("sync", |_| true);
    site.proxy.go_down();
    cli.add("written during the outage");
    assert_eq!(watch.sees("offline", |_| true)["kind"], "unreachable");
    site.proxy.come_back();
    watch.sees("online", |_| true);
    until("all is sent", || unsynced(&cli) == 0);
    watch.ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn refused_credentials_stop_all_traffic_until_others_are_set() {
    let site = Site::start();
    let cli = with_mirror_on(&site);
    let watch = Watch::start(&cli, &["--every", "1"]);
    watch.sees("sync", |_| true);
    site.proxy.fault(always(How::status("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"")));
    let stopped = watch.sees("stopped", |_| true);
    assert_eq!((&stopped["kind"], &stopped["code"]), (&json!("unauthorized"), &json!(13)));
    assert!(stopped["hint"].as_str().unwrap().contains("espejo remote set"), "{stopped}");
    site.proxy.take_asked();
    cli.add("written while it is stopped");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(site.proxy.take_asked(), [""; 0], "servers punish further tries");
    site.proxy.heal();
    cli.run(&[&["remote", "set", &site.target()][..], &LOGIN].concat()).exits(0);
    until("all is sent", || unsynced(&cli) == 0);
    assert_eq!(watch.events("stopped").len(), 1);
    watch.ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn a_guard_stops_it_until_the_person_decides() {
    let site = Site::start();
    let cli = with_mirror_on(&site);
    cli.add("a thought");
    let watch = Watch::start(&cli, &["--every", "1"]);
    watch.sees("sync", |event| event["pushed"] == 1);
    fs::rename(&site.root, site.root.with_extension("moved")).unwrap();
    let stopped = watch.sees("stopped", |_| true);
    assert_eq!((&stopped["kind"], &stopped["code"]), (&json!("mirror_gone"), &json!(16)));
    site.proxy.take_asked();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(site.proxy.take_asked(), [""; 0]);
    cli.run(&["sync", "--reseed"]).exits(0);
    watch.sees("online", |_| true);
    cli.add("another one");
    until("all is sent", || unsynced(&cli) == 0);
    assert_eq!(watch.events("stopped").len(), 1);
    watch.ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn a_folder_that_was_not_mounted_is_found_when_it_is_there_again() {
    let cli = Cli::with_vault();
    let (mirror, away) = (cli.path("mirror"), cli.path("away"));
    cli.run(&["remote", "set", mirror.to_str().unwrap()]).exits(0);
    cli.run(&["sync"]).exits(0);
    let watch = Watch::start(&cli, &["--every", "1"]);
    watch.sees("sync", |_| true);
    fs::rename(&mirror, &away).unwrap();
    watch.sees("stopped", |event| event["kind"] == "mirror_gone");
    cli.add("written meanwhile");
    fs::rename(&away, &mirror).unwrap();
    watch.sees("online", |_| true);
    until("all is sent", || unsynced(&cli) == 0);
    let (_, watches) = watch.descriptors_and_watches();
    assert_eq!(watches, 2, "the folder that is there now is listened to");
    watch.ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn a_mirror_is_followed_that_is_forgotten_set_and_exchanged_while_it_runs() {
    let cli = Cli::with_vault();
    assert_eq!(cli.error(4, &["watch"])["kind"], "no_remote", "it says so at once if there is none");
    cli.run(&["remote", "set", &cli.arg("one")]).exits(0);
    let watch = Watch::start(&cli, &[]);
    watch.sees("sync", |_| true);
    assert_eq!(watch.events("mirror").len(), 0, "it is not set anew by the first sync");
    cli.run(&["remote", "forget"]).exits(0);
    assert_eq!(watch.sees("stopped", |_| true)["kind"], "no_remote");
    cli.add("without a mirror");
    cli.run(&["remote", "set", &cli.arg("two")]).exits(0);
    watch.sees("mirror", |event| event["target"] == cli.arg("two"));
    watch.sees("sync", |event| event["pushed"] == 1);
    cli.run(&["remote", "set", &cli.arg("three")]).exits(0);
    watch.sees("mirror", |event| event["target"] == cli.arg("three"));
    until("all is sent", || cli.path("three/espejo.json").exists() && unsynced(&cli) == 0);
    watch.ended_by(Signal::SIGTERM).exits(0);
    for mirror in ["two", "three"] {
        let clone = Cli::new();
        clone.run(&["clone", &cli.arg(mirror), clone.vault.to_str().unwrap()]).exits(0);
        assert!(has_title(&clone, "without a mirror"), "{mirror}");
    }
}

/// How long a process is stopped: `ESPEJO_STOPPED_SECS` makes it minutes.
fn stopped() -> Duration {
    Duration::from_secs(setting("ESPEJO_STOPPED_SECS", 6) as u64)
}

#[test]
fn a_stopped_process_goes_on_where_it_was() {
    let shared = Cli::new();
    let two = Two::on(&shared.arg("mirror"), &[]);
    let watch = Watch::start(&two.laptop, &[]);
    watch.sees("sync", |_| true);
    watch.signal(Signal::SIGSTOP);
    two.desktop.add("from the desktop");
    two.desktop.run(&["sync"]).exits(0);
    two.laptop.add("from the laptop");
    std::thread::sleep(stopped());
    watch.signal(Signal::SIGCONT);
    until("what came meanwhile is fetched and sent", || {
        has_title(&two.laptop, "from the desktop") && unsynced(&two.laptop) == 0
    });
    watch.ended_by(Signal::SIGTERM).exits(0);
    two.desktop.run(&["sync"]).exits(0);
    assert_eq!(two.laptop.json(&["list"]), two.desktop.json(&["list"]));
}

/// A file of so many bytes that do not repeat.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let byte = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(byte).collect()
}

#[test]
fn told_to_end_during_a_transfer_it_finishes_the_files_that_are_under_way() {
    for (signal, code) in [(Signal::SIGTERM, 0), (Signal::SIGINT, 130)] {
        let server = Embedded::start();
        let (target, root) = (server.server.url() + "journal/", server.dir.path().join("journal"));
        let cli = Cli::with_vault();
        cli.run(&[&["remote", "set", &target][..], &LOGIN].concat()).exits(0);
        let watch = Watch::start(&cli, &[]);
        watch.sees("sync", |_| true);
        let file = cli.file("film", noise(120 << 20));
        cli.run(&["add", "-t", "film", "-a", &file]).exits(0);
        let objects = || {
            let all = files(&root.join("objects"));
            all.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect::<Vec<_>>()
        };
        until("something is sent", || !objects().is_empty());
        watch.ended_by(signal).exits(code);
        let sent = objects();
        for (path, bytes) in &sent {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(object_name(bytes).to_string(), name, "a half of a file is left");
        }
        assert_eq!(cli.json(&["status"])["watching"], false);
        // The version, and its parts.
        let all = 1 + (120_usize << 20).div_ceil(PART_BYTES) as u64;
        let rest = cli.json(&["sync"])["pushed"].as_u64().unwrap();
        assert!(rest > 0, "it was not in the middle of anything");
        assert_eq!(rest + sent.len() as u64, all, "what was sent is announced and not sent again");
        cli.run(&["check", "--remote"]).exits(0);
    }
}

#[test]
fn other_commands_work_beside_it() {
    let shared = Cli::new();
    let two = Two::on(&shared.arg("mirror"), &[]);
    let cli = &two.laptop;
    let (here, there) = (Watch::start(cli, &[]), Watch::start(&two.desktop, &[]));
    assert_eq!(cli.json(&["status"])["watching"], true);
    assert!(cli.run(&["status"]).text().contains("watched"));
    for n in 0..10 {
        cli.add(&format!("entry {n}"));
        cli.run(&["sync"]).exits(0);
    }
    cli.run(&["backup", "create"]).exits(0);
    cli.run(&["check", "--remote"]).exits(0);
    cli.run(&["devices", "rename", "lap"]).exits(0);
    until("the new name is told", || {
        let devices = two.desktop.json(&["devices"]);
        devices["devices"].as_array().unwrap().iter().any(|device| device["name"] == "lap")
    });
    let new = cli.file("secrets/new", "walrus ember quilt sonata 77");
    cli.run(&["passwd", "--new-password-file", &new]).exits(0);
    there.sees("finding", |event| event["kind"] == "password_changed");
    // Both go on with the keys they have.
    let add = ["--password-file", &new, "add", "-m", "after the change"];
    cli.run(&add).exits(0);
    until("it arrives", || two.desktop.json(&["status"])["entries"] == 11);
    here.ended_by(Signal::SIGINT).exits(130);
    there.ended_by(Signal::SIGTERM).exits(0);
    assert_eq!(cli.json(&["status"])["watching"], false);
}

#[test]
fn another_mirror_is_not_set_while_a_sync_notes_what_it_stored_on_the_one_there_is() {
    let cli = Cli::with_vault();
    cli.run(&["remote", "set", &cli.arg("one")]).exits(0);
    cli.run(&["sync"]).exits(0);
    let lock = fs::File::options().write(true).open(cli.vault.join("local/sync-lock")).unwrap();
    lock.lock().unwrap();
    cli.error(11, &["remote", "set", &cli.arg("two")]);
    cli.error(11, &["remote", "forget"]);
    assert_eq!(cli.json(&["remote", "show"])["target"], cli.arg("one"));
    drop(lock);
    cli.run(&["remote", "set", &cli.arg("two")]).exits(0);
}

#[test]
fn a_new_master_key_ends_it_and_it_says_what_to_do() {
    let cli = Cli::with_vault();
    cli.run(&["remote", "set", &cli.arg("mirror")]).exits(0);
    let mut watch = Watch::start(&cli, &[]);
    watch.sees("sync", |_| true);
    let new = cli.file("secrets/new", "walrus ember quilt sonata 77");
    cli.run(&["rekey", "--new-password-file", &new, "--no-recovery"]).exits(0);
    let error = watch.wait().error(12);
    assert_eq!(error["kind"], "rekeyed");
    assert!(error["hint"].as_str().unwrap().contains("espejo watch"), "{error}");
    fs::rename(&new, cli.path("secrets/password")).unwrap();
    let watch = Watch::start(&cli, &[]);
    watch.sees("sync", |_| true);
    watch.ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn killed_it_leaves_nothing_and_starts_again() {
    let cli = Cli::with_vault();
    cli.run(&["remote", "set", &cli.arg("mirror")]).exits(0);
    for round in 0..5 {
        let watch = Watch::start(&cli, &[]);
        cli.add(&format!("round {round}"));
        std::thread::sleep(Duration::from_millis(100 * round));
        watch.ended_by(Signal::SIGKILL).exits(-1);
        assert_eq!(cli.json(&["status"])["watching"], false, "a killed watch never looks alive");
        cli.run(&["check"]).exits(0);
    }
    let watch = Watch::start(&cli, &[]);
    until("all is sent", || unsynced(&cli) == 0);
    watch.ended_by(Signal::SIGTERM).exits(0);
    cli.run(&["check", "--remote"]).exits(0);
}

#[test]
fn a_second_one_a_wrong_password_and_wrong_numbers_are_refused() {
    let cli = Cli::with_vault();
    cli.run(&["remote", "set", &cli.arg("mirror")]).exits(0);
    let wrong = cli.file("secrets/wrong", "this is another password");
    assert_eq!(cli.error(12, &["watch", "--password-file", &wrong])["kind"], "wrong_password");
    for args in [["--every", "0"], ["--every", "soon"], ["--debounce", "0"], ["--debounce", "600000"]] {
        cli.error(2, &[&["watch"][..], &args].concat());
    }
    let watch = Watch::start(&cli, &[]);
    let second = Watch::of(cli.command(&["watch", "--json"])).wait();
    assert_eq!(second.error(11)["kind"], "watched");
    assert_eq!(watch.events("stopped").len(), 0);
    watch.ended_by(Signal::SIGTERM).exits(0);
    Watch::start(&cli, &[]).ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn the_backup_that_is_due_is_made_and_the_mirror_is_sampled() {
    let cli = Cli::with_vault();
    cli.run(&["remote", "set", &cli.arg("mirror")]).exits(0);
    cli.add("a thought");
    cli.run(&["sync"]).exits(0);
    cli.run(&["backup", "auto", "--every", "1d"]).exits(0);
    cli.add("another one");
    // As if it had been made long ago: this file is in the clear.
    let status = cli.vault.join("local/status");
    let mut long_ago = serde_json::from_slice::<Value>(&fs::read(&status).unwrap()).unwrap();
    long_ago["last_backup"] = json!(1);
    fs::write(&status, long_ago.to_string()).unwrap();
    let watch = Watch::start(&cli, &[]);
    let backup = watch.sees("backup", |_| true);
    assert_eq!((&backup["verified"], &backup["objects"]), (&json!(true), &json!(2)), "{backup}");
    cli.run(&["backup", "verify", backup["file"].as_str().unwrap()]).exits(0);
    let scrub = watch.sees("scrub", |_| true);
    assert_eq!(scrub["bad"], 0, "{scrub}");
    assert!(scrub["files"].as_u64() > Some(0) && scrub["objects"] == 1, "{scrub}");
    watch.ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn without_inotify_it_looks_by_itself_and_says_so() {
    let cli = Cli::with_vault();
    cli.run(&["remote", "set", &cli.arg("mirror")]).exits(0);
    let espejo = shell_words::quote(crate::common::cli::ESPEJO);
    cli.program(
        "limited",
        &format!("echo 0 > /proc/sys/user/max_inotify_instances && exec {espejo} watch --json --every 1"),
    );
    let mut command = cli.bare_command("unshare", &["-Ur", "limited"]);
    command.env("ESPEJO_VAULT", &cli.vault);
    command.env("ESPEJO_PASSWORD_FILE", cli.path("secrets/password"));
    let watch = Watch::of(command);
    watch.sees("finding", |event| event["kind"] == "polling");
    watch.sees("sync", |_| true);
    cli.add("noticed all the same");
    watch.sees("sync", |event| event["pushed"] == 1);
    watch.ended_by(Signal::SIGTERM).exits(0);
}

#[test]
fn a_locked_vault_is_watched_by_somebody_without_its_password() {
    let cli = Cli::with_vault();
    let (mirror, other) = (cli.arg("mirror"), cli.arg("other"));
    cli.json(&["remote", "set", &mirror, "--unattended"]);
    cli.json(&["sync"]);
    cli.json(&["clone", &mirror, &other]);
    let mut command = cli.bare_command(crate::common::cli::ESPEJO, &["watch", "--json", "--no-input"]);
    command.env("ESPEJO_VAULT", &cli.vault);
    let watch = Watch::of(command);
    watch.sees("sync", |event| event["locked"] == true);
    cli.add("sent while it is locked");
    watch.sees("sync", |event| event["pushed"] == 1 && event["locked"] == true);
    cli.json(&["--vault", &other, "add", "-m", "from the other one"]);
    let synced = cli.json(&["--vault", &other, "sync"]);
    assert_eq!((&synced["pulled"], &synced["pushed"]), (&json!(1), &json!(1)));
    watch.sees("sync", |event| event["pulled"] == 1 && event["locked"] == true);
    let listed = cli.json(&["list"]);
    assert_eq!(listed["entries"].as_array().unwrap().len(), 2, "{listed}");
    // What it has no leave for any more, it does not do.
    cli.json(&["remote", "set", "--no-unattended"]);
    cli.add("not without leave");
    watch.sees("stopped", |event| event["kind"] == "password_needed");
    assert_eq!(unsynced(&cli), 1);
    watch.ended_by(Signal::SIGTERM).exits(0);
}

/// After so many changes its size is taken, and again after ten times as many; `ESPEJO_WATCH_CHANGES` makes it more.
fn changes_at_first() -> usize {
    setting("ESPEJO_WATCH_CHANGES", 100)
}

#[test]
fn it_stays_as_large_as_it_is() {
    let shared = Cli::new();
    let two = Two::on(&shared.arg("mirror"), &[]);
    let (here, there) = (Watch::start(&two.laptop, &[]), Watch::start(&two.desktop, &[]));
    let mut vault = two.laptop.open();
    let mut changes = 0_usize;
    // New entries and edits of them, each a change of its own.
    let mut add = |times: usize| {
        for _ in 0..times {
            changes += 1;
            let entry =
                vault.entries().unwrap().first().filter(|_| changes.is_multiple_of(2)).map(EntryState::id);
            let change = Change::Content(text(&format!("change {changes}"), "of many"));
            vault.save(&[Edit { entry, made_on: MadeOn::Everything, change }]).unwrap();
        }
        let entries = changes.div_ceil(2);
        until("all is here", || two.desktop.json(&["status"])["entries"] == json!(entries));
        until("all is sent", || unsynced(&two.laptop) == 0);
    };
    let first = changes_at_first();
    add(first);
    // At rest: the last round was acknowledged, and what it let go of was given back, which takes ten seconds.
    let rest = || std::thread::sleep(Duration::from_secs(30));
    rest();
    let before = [&here, &there].map(|watch| (watch.resident_kb(), watch.descriptors_and_watches()));
    // As many at a time as before: what is sent together is in memory together.
    for _ in 0..9 {
        add(first);
    }
    rest();
    let after = [&here, &there].map(|watch| (watch.resident_kb(), watch.descriptors_and_watches()));
    eprintln!("kB, (descriptors, inotify watches): {before:?} and {after:?}");
    for ((kb_before, open_before), (kb_after, open_after)) in before.into_iter().zip(after) {
        assert!(kb_after <= kb_before * 6 / 5, "{kb_before} kB grew to {kb_after} kB");
        assert_eq!(open_after.1, 2, "one watch on the vault, one on the folder");
        // A connection or a file may be open at this moment.
        assert!(open_after.0 <= open_before.0 + 2, "{open_before:?} grew to {open_after:?}");
    }
    here.ended_by(Signal::SIGTERM).exits(0);
    there.ended_by(Signal::SIGTERM).exits(0);
}
