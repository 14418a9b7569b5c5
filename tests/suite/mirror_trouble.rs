//! Whatever is wrong with the mirror, the command says so with its own exit code, a sentence and a next step, changes
//! nothing here, and goes on as soon as the mirror is well again.

#![allow(missing_docs)]

use std::path::{Path, PathBuf};

use crate::common::cli::{Output, run};
use crate::common::proxy::{Fault, How};
use crate::common::servers::{RealServer, Site};
use crate::common::*;
use serde_json::Value;

/// A vault, driven by the command only.
struct Device {
    dir: tempfile::TempDir,
}

impl Device {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        new_vault(dir.path(), name, &TestClock::at(NOW));
        Self { dir }
    }

    /// A vault with this mirror, synced, and an entry that is not.
    fn with_mirror(target: &str) -> Self {
        let device = Self::new("laptop");
        device.set_mirror(target);
        device.add("synced before");
        device.run(&["sync"]).exits(0);
        device.add("not synced yet");
        device
    }

    #[track_caller]
    fn clone_of(target: &str) -> Self {
        Self::clone_exits(target, 0)
    }

    #[track_caller]
    fn clone_exits(target: &str, code: i32) -> Self {
        let device = Self { dir: tempfile::tempdir().unwrap() };
        let login = login(target);
        let args = [&["clone", target, "--device-name", "desktop"][..], &words(&login)].concat();
        device.run(&args).exits(code);
        device
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        run(self.dir.path(), args)
    }

    fn set_mirror(&self, target: &str) {
        let login = login(target);
        self.run(&[&["remote", "set", target][..], &words(&login)].concat()).exits(0);
    }

    fn add(&self, title: &str) {
        self.run(&["add", "-t", title, "-m", title]).exits(0);
    }

    fn list(&self) -> String {
        self.run(&["list"]).exits(0).text().to_owned()
    }

    fn unsynced(&self) -> u64 {
        self.run(&["status"]).json()["unsynced"].as_u64().unwrap()
    }

    /// Runs `sync`, which has to fail like this, and checks that it changes nothing here.
    #[track_caller]
    fn fails(&self, args: &[&str], code: i32, kind: &str) -> String {
        let (list, unsynced) = (self.list(), self.unsynced());
        assert!(unsynced > 0, "there is something to lose");
        let ran = self.run(args);
        let error = ran.error(code);
        assert_eq!(error["kind"], kind, "{error}");
        assert!(ran.stdout.is_empty(), "{}", ran.text());
        let message = error["message"].as_str().unwrap().to_owned();
        let hint = error["hint"].as_str().expect("the next step");
        assert!(message.split(' ').count() >= 6 && !hint.is_empty(), "{message} {hint}");
        for shown in [&ran.stderr, &message] {
            assert!(!shown.contains("secret") && !shown.contains("panicked"), "{shown}");
        }
        assert_eq!((self.list(), self.unsynced()), (list, unsynced), "{message}");
        message
    }

    /// Runs `sync` on a mirror that is well, and checks that everything is done.
    #[track_caller]
    fn recovers(&self) -> Value {
        let list = self.list();
        let json = self.run(&["sync"]).json();
        assert_eq!(self.unsynced(), 0, "{json}");
        assert_eq!(self.list(), list);
        assert_eq!(json["warnings"], serde_json::json!([]), "{json}");
        json
    }
}

/// How to sign in at `target`.
fn login(target: &str) -> Vec<String> {
    match target.starts_with("http") {
        true => ["--user", "ada", "--remote-password-command", "echo secret"].map(str::to_owned).to_vec(),
        false => Vec::new(),
    }
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn titles_in(list: &str) -> Vec<String> {
    let list = serde_json::from_str::<Value>(list).unwrap();
    let titles =
        list["entries"].as_array().unwrap().iter().map(|it| it["title"].as_str().unwrap().to_owned());
    let mut titles = titles.collect::<Vec<_>>();
    titles.sort();
    titles
}

/// Lets each answer come to every request, and then to uploads alone.
fn answers_fail(cases: &[(How, i32, &str)], methods: &[&'static str]) {
    let site = Site::start();
    let device = Device::with_mirror(&site.target());
    let mut entries = 2;
    for (how, code, kind) in cases {
        for method in methods {
            site.proxy.fault(Fault {
                method,
                path: "/journal/",
                after: 0,
                times: usize::MAX,
                how: how.clone(),
            });
            site.proxy.take_asked();
            device.fails(&["sync"], *code, kind);
            let asked = site.proxy.take_asked();
            assert!(*kind != "unauthorized" || !method.is_empty() || asked.len() == 1, "{asked:?}");
            site.proxy.heal();
            assert_eq!(device.recovers()["pushed"], 1);
            device.add(&format!("after {kind}"));
            entries += 1;
        }
    }
    device.run(&["sync"]).exits(0);
    // Nothing of what was tried is missing on another device.
    let other = Device::clone_of(&site.target());
    assert_eq!(other.list(), device.list());
    assert_eq!(titles_in(&other.list()).len(), entries);
}

const PAGE: &str = "<!DOCTYPE html><html><body>Sign in to Hotel-WLAN</body></html>";

#[test]
fn a_login_page_or_a_redirect_is_not_a_mirror() {
    let page = How::Answer("200 OK\r\nContent-Type: text/html\r\n".to_owned(), PAGE.to_owned());
    let redirect =
        How::Answer("302 Found\r\nLocation: https://portal.example/login\r\n".to_owned(), String::new());
    answers_fail(&[(page, 5, "not_webdav"), (redirect, 5, "redirected")], &["", "PUT"]);
}

#[test]
fn a_refusal_is_told_by_its_reason() {
    let unauthorized =
        How::Answer("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n".to_owned(), String::new());
    answers_fail(
        &[(unauthorized, 13, "unauthorized"), (How::status("403 Forbidden"), 13, "forbidden")],
        &["", "PUT"],
    );
}

#[test]
fn a_wait_longer_than_patience_ends_the_sync() {
    let later = |status: &str| How::Answer(format!("{status}\r\nRetry-After: 120\r\n"), String::new());
    answers_fail(
        &[
            (later("429 Too Many Requests"), 5, "throttled"),
            (later("503 Service Unavailable"), 5, "unavailable"),
        ],
        &["", "PUT"],
    );
}

#[test]
fn a_lock_that_stays_ends_the_sync() {
    answers_fail(&[(How::status("423 Locked"), 5, "locked")], &["", "PUT"]);
}

#[test]
fn a_server_that_stays_away_ends_the_sync() {
    answers_fail(&[(How::status("503 Service Unavailable"), 5, "unavailable")], &["PUT"]);
}

#[test]
fn a_server_that_comes_back_is_waited_for() {
    let site = Site::start();
    let device = Device::with_mirror(&site.target());
    for how in [How::status("503 Service Unavailable"), How::Cut(100), How::LoseAnswer] {
        site.proxy.fault(Fault { method: "PUT", path: "/objects/", after: 0, times: 1, how });
        assert_eq!(device.recovers()["pushed"], 1);
        device.add("the next one");
    }
}

#[test]
fn an_upload_that_is_always_cut_ends_the_sync() {
    answers_fail(&[(How::Cut(1_000), 5, "interrupted")], &["PUT"]);
}

/// A server that cannot take more, or not this much, still gives what it has.
fn takes_no_more(status: &str, path: &'static str) {
    let site = Site::start();
    let device = Device::with_mirror(&site.target());
    let other = Device::clone_of(&site.target());
    other.add("from the desktop");
    other.run(&["sync"]).exits(0);

    site.proxy.fault(Fault { method: "PUT", path, after: 0, times: usize::MAX, how: How::status(status) });
    for attempt in 0..2 {
        let ran = device.run(&["sync"]).exits(3);
        let json = ran.document();
        assert_eq!(json["pulled"], 1 - attempt, "what the server has is read: {json}");
        assert_eq!((&json["pushed"], device.unsynced()), (&Value::from(0), 1));
        let warning = &json["warnings"][0];
        assert_eq!(warning["kind"], "postponed", "{json}");
        assert!(warning["message"].as_str().unwrap().ends_with("1 items wait here"), "{json}");
        assert!(ran.stderr.contains("wait here"), "{}", ran.stderr);
    }
    assert_eq!(titles_in(&device.list()), ["from the desktop", "not synced yet", "synced before"]);
    site.proxy.heal();
    device.recovers();
    other.run(&["sync"]).exits(0);
    assert_eq!(other.list(), device.list());
}

#[test]
fn a_full_server_still_gives_what_it_has() {
    takes_no_more("507 Insufficient Storage", "/journal/");
}

#[test]
fn a_server_that_is_full_only_at_the_announcement_still_gives_what_it_has() {
    takes_no_more("507 Insufficient Storage", "/feeds/");
}

#[test]
fn a_server_that_takes_no_upload_of_this_size_still_gives_what_it_has() {
    takes_no_more("413 Content Too Large", "/objects/");
}

#[test]
fn a_server_that_is_down_is_left_alone() {
    let mut site = Site::start();
    let device = Device::with_mirror(&site.target());
    site.proxy.go_down();
    device.fails(&["sync"], 5, "unreachable");
    site.proxy.come_back();
    device.recovers();
}

#[test]
fn a_certificate_of_an_unknown_authority_is_not_accepted() {
    let server = RealServer::start("apache", true);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), &server.password).unwrap();
    let secret = secret.path().to_str().unwrap();
    let target = server.url.clone() + "journal/";
    let device = Device::new("laptop");
    let set = |ca: &[&str]| {
        let login = ["remote", "set", &target, "--user", &server.user, "--remote-password-file", secret];
        device.run(&[&login[..], ca].concat()).exits(0);
    };
    let right = ["--ca-file", server.ca_file.as_ref().unwrap().to_str().unwrap()];
    set(&right);
    device.add("synced before");
    device.run(&["sync"]).exits(0);
    device.add("not synced yet");
    set(&[]);
    device.fails(&["sync"], 1, "untrusted");
    let other = RealServer::start("apache", true);
    set(&["--ca-file", other.ca_file.as_ref().unwrap().to_str().unwrap()]);
    device.fails(&["sync"], 1, "untrusted");
    set(&right);
    device.recovers();
}

/// A mirror in a folder, and one on a server: the same stops, by looking at the same directory.
fn each_kind(check: impl Fn(&str, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    check(folder.to_str().unwrap(), &folder);
    let site = Site::start();
    check(&site.target(), &site.root);
}

#[test]
fn what_an_interrupted_first_sync_had_asked_for_may_arrive_late() {
    let site = Site::start();
    let device = Device::new("laptop");
    device.add("not synced yet");
    std::fs::create_dir(&site.root).unwrap();
    device.set_mirror(&site.target());
    let mkcol_fails = Fault {
        method: "MKCOL",
        path: "/journal/",
        after: 0,
        times: usize::MAX,
        how: How::status("403 Forbidden"),
    };
    site.proxy.fault(mkcol_fails);
    device.fails(&["sync"], 13, "forbidden");
    site.proxy.heal();
    // The next sync looks at the folder, and only then the feeds are made that the last one had asked for.
    std::fs::create_dir(site.root.join("feeds")).unwrap();
    site.proxy.fault(Fault { method: "PROPFIND", path: "/journal/", after: 0, times: 1, how: How::Stale });
    device.recovers();
}

#[test]
fn what_came_of_a_pack_before_the_line_broke_is_kept() {
    let site = Site::start();
    let device = Device::new("laptop");
    for number in 0..20 {
        device.add(&format!("entry {number}"));
    }
    device.set_mirror(&site.target());
    device.run(&["sync"]).exits(0);
    let breaks =
        Fault { method: "GET", path: "/objects/", after: 0, times: usize::MAX, how: How::CutAnswer(50_000) };
    site.proxy.fault(breaks);
    let other = Device::clone_exits(&site.target(), 5);
    let arrived = titles_in(&other.list()).len();
    assert!((5..20).contains(&arrived), "{arrived} of 20");
    site.proxy.heal();
    let synced = other.run(&["sync"]).exits(0).json();
    assert_eq!(synced["pulled"], 20 - arrived, "{synced}");
    assert_eq!(titles_in(&other.list()), titles_in(&device.list()));
}

#[test]
fn a_folder_without_its_marker_stops_the_sync() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let device = Device::with_mirror(folder.to_str().unwrap());
    let marker = folder.join("espejo.json");
    let kept = std::fs::read(&marker).unwrap();
    std::fs::remove_file(&marker).unwrap();
    let message = device.fails(&["sync"], 16, "mirror_gone");
    assert!(message.contains("espejo.json"), "{message}");
    assert!(!marker.exists());
    std::fs::write(&marker, kept).unwrap();
    device.recovers();
}

#[test]
fn an_emptied_mirror_stops_the_sync_until_it_is_told_to_fill_it() {
    each_kind(|target, root| {
        let device = Device::with_mirror(target);
        let aside = root.with_file_name("aside");
        std::fs::rename(root, &aside).unwrap();
        for exists in [false, true] {
            if exists {
                std::fs::create_dir(root).unwrap();
            }
            device.fails(&["sync"], 16, "mirror_gone");
            assert!(!exists || std::fs::read_dir(root).unwrap().next().is_none(), "nothing is written");
        }
        std::fs::remove_dir(root).unwrap();
        std::fs::rename(&aside, root).unwrap();
        assert_eq!(device.recovers()["pushed"], 1);

        std::fs::remove_dir_all(root).unwrap();
        device.add("after the second loss");
        device.fails(&["sync"], 16, "mirror_gone");
        assert_eq!(device.run(&["sync", "--reseed"]).json()["pushed"], 3);
        assert_eq!(Device::clone_of(target).list(), device.list());
    });
}

#[test]
fn another_vaults_mirror_stops_the_sync() {
    each_kind(|target, root| {
        let device = Device::with_mirror(target);
        let aside = root.with_file_name("aside");
        std::fs::rename(root, &aside).unwrap();
        let stranger = Device::new("stranger");
        stranger.set_mirror(root.to_str().unwrap());
        stranger.add("not yours");
        stranger.run(&["sync"]).exits(0);
        device.fails(&["sync"], 16, "other_vault");
        assert_eq!(stranger.recovers()["requests"], 1, "nothing was written");

        // A device that has never seen this mirror stops as well.
        let new = Device::new("new");
        new.set_mirror(target);
        new.add("mine");
        new.fails(&["sync"], 16, "other_vault");
        assert_eq!(stranger.recovers()["requests"], 1, "nothing was written");
        std::fs::remove_dir_all(root).unwrap();
        std::fs::rename(&aside, root).unwrap();
        assert_eq!(device.recovers()["pushed"], 1);
    });
}

#[test]
fn a_folder_with_other_files_is_not_taken() {
    each_kind(|target, root| {
        std::fs::create_dir_all(root).unwrap();
        let photo = root.join("Photo 1.jpg");
        std::fs::write(&photo, "not ours").unwrap();
        let device = Device::new("laptop");
        device.set_mirror(target);
        device.add("one");
        let message = device.fails(&["sync"], 16, "foreign_folder");
        assert!(message.contains("Photo 1.jpg"), "{message}");
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 1, "nothing is written");
        std::fs::remove_file(&photo).unwrap();
        assert_eq!(device.recovers()["pushed"], 1);
    });
}

/// Files below `dir` of the mirror in `root`, by path, the newest last.
fn files(root: &Path, dir: &str) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root.join(dir)).into_iter().map(Result::unwrap);
    let files = walk.filter(|item| item.file_type().is_file());
    let mut files = files
        .map(|item| (item.metadata().unwrap().modified().unwrap(), item.into_path()))
        .collect::<Vec<_>>();
    files.sort();
    files.into_iter().map(|(_, path)| path).collect()
}

/// What the warnings of a sync name, of files in a mirror.
fn damage_told(json: &Value) -> Vec<String> {
    let warnings = json["warnings"].as_array().unwrap().iter();
    let damaged = warnings.filter(|it| it["kind"] == "mirror_damaged");
    damaged.map(|it| it["message"].as_str().unwrap().to_owned()).collect()
}

/// A folder mirror with two devices that have met.
fn two_in_a_folder() -> (tempfile::TempDir, PathBuf, Device, Device) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let target = folder.to_str().unwrap();
    let writer = Device::with_mirror(target);
    writer.run(&["sync"]).exits(0);
    let reader = Device::clone_of(target);
    writer.run(&["sync"]).exits(0);
    (dir, folder, writer, reader)
}

#[test]
fn a_file_cut_short_on_the_mirror_is_named_and_sent_again_by_its_writer() {
    let (_dir, folder, writer, reader) = two_in_a_folder();
    let before = files(&folder, "objects");
    // One object in a file of its own, then many in one.
    for count in [1, 20] {
        for n in 0..count {
            writer.add(&format!("entry {n} of {count}"));
        }
        writer.run(&["sync"]).exits(0);
        let mut new = files(&folder, "objects").into_iter().filter(|file| !before.contains(file));
        let cut = new.next_back().unwrap();
        let whole = std::fs::read(&cut).unwrap();
        std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
        let other = Device::clone_exits(folder.to_str().unwrap(), 3);

        let ran = reader.run(&["sync"]).exits(3);
        let json = ran.document();
        let pending = json["pending"].as_u64().unwrap();
        assert!((1..=count).contains(&pending), "{json}");
        let told = damage_told(&json);
        let name = cut.file_name().unwrap().to_str().unwrap();
        assert!(!told.is_empty() && told.iter().all(|it| it.contains(name)), "{json}");
        assert!(ran.stderr.contains(name), "{}", ran.stderr);
        assert_eq!(reader.run(&["status"]).json()["pending"], pending);
        // The rest goes on, and pending items are asked for again each time.
        reader.add("written meanwhile");
        let json = reader.run(&["sync"]).exits(3).document();
        assert_eq!([&json["pushed"], &json["pending"]], [&Value::from(1), &Value::from(pending)], "{json}");

        let json = writer.run(&["sync", "--full"]).json();
        assert!(damage_told(&json)[0].contains(name), "{json}");
        assert_eq!(reader.run(&["sync"]).json()["pulled"], pending);
        other.run(&["sync"]).exits(0);
        assert_eq!(writer.list(), reader.list());
        assert_eq!(other.list(), reader.list());
        writer.run(&["check"]).exits(0);
        assert_eq!(reader.run(&["sync"]).json()["requests"], 1);
    }
}

#[test]
fn a_pack_cut_short_blocks_nothing_else() {
    let (_dir, folder, writer, reader) = two_in_a_folder();
    let before = files(&folder, "objects");
    for n in 0..20 {
        writer.add(&format!("entry {n}"));
    }
    writer.run(&["sync"]).exits(0);
    let pack = files(&folder, "objects").into_iter().find(|file| !before.contains(file)).unwrap();
    reader.run(&["sync"]).exits(0);
    // Few of many are lost here: they are fetched by their place in the pack, which is not there any more.
    let lost = files(reader.dir.path(), "objects").into_iter().rev().take(3).collect::<Vec<_>>();
    lost.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    reader.run(&["check"]).exits(14);
    let whole = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, &whole[..100]).unwrap();
    writer.add("written since");
    writer.run(&["sync"]).exits(0);

    let ran = reader.run(&["sync"]).exits(14);
    assert!(ran.stderr.contains(pack.file_name().unwrap().to_str().unwrap()), "{}", ran.stderr);
    assert_eq!(ran.error(14)["kind"], "damaged");
    assert!(reader.list().contains("written since"));
    writer.run(&["sync", "--full"]).exits(0);
    assert_eq!(reader.run(&["sync"]).json()["repaired"], 3);
    reader.run(&["check"]).exits(0);
}

#[test]
fn a_damaged_announcement_is_named_and_nothing_in_it_is_lost() {
    let (_dir, folder, writer, reader) = two_in_a_folder();
    let third = Device::clone_of(folder.to_str().unwrap());
    for device in [&writer, &reader, &writer, &reader, &third] {
        device.run(&["sync"]).exits(0);
    }
    // Announcements are joined into longer ones by their number, so each place in that pattern is tried.
    for n in 0..4 {
        writer.add(&format!("announced and damaged {n}"));
        writer.run(&["sync"]).exits(0);
        let damaged = files(&folder, "feeds").pop().unwrap();
        let mut bytes = std::fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        third.add(&format!("from the third {n}"));
        third.run(&["sync"]).exits(3);

        let name = damaged.file_name().unwrap().to_str().unwrap();
        for _ in 0..2 {
            // Nothing is called up to date that is not.
            let ran = reader.run(&["sync"]).exits(3);
            let told = damage_told(&ran.document());
            assert!(told.len() == 1 && told[0].contains(name), "{told:?}");
            assert!(ran.stderr.contains(name), "{}", ran.stderr);
        }
        let list = reader.list();
        assert!(list.contains(&format!("from the third {n}")), "the rest goes on: {list}");
        assert!(!list.contains(&format!("announced and damaged {n}")), "{list}");

        // What follows the damaged one may be read, but not as if nothing were missing before it.
        writer.add(&format!("announced after it {n}"));
        writer.run(&["sync"]).exits(0);
        let ran = reader.run(&["sync"]);
        assert_eq!(ran.code == 0, reader.list().contains(&format!("announced and damaged {n}")));
        let json = writer.run(&["sync", "--full"]).json();
        let healed = json["warnings"].as_array().unwrap().iter().filter(|it| it["kind"] == "mirror_healed");
        assert_eq!(healed.count(), 1, "{json}");
        for device in [&reader, &third, &writer, &reader] {
            device.run(&["sync"]).exits(0);
        }
        for title in ["announced and damaged", "announced after it", "from the third"] {
            assert!(reader.list().contains(&format!("{title} {n}")), "{title} {n}: {}", reader.list());
        }
        assert_eq!([reader.list(), third.list()], [writer.list(), writer.list()]);
    }
}
