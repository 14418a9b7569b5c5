//! Two devices whose clocks are three years apart write, edit and delete offline, and become the same through every
//! kind of mirror. What one of them lost in a conflict is in the history on both.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use crate::common::cli::{run, run_on};
use crate::common::dice::Dice;
use crate::common::servers::RealServer;
use crate::common::*;
use espejo::clock::SystemClock;
use espejo::embedded::EmbeddedServer;
use espejo::entry::{Attachment, Body, Content};
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::id::{EntryId, VersionId};
use espejo::remote::{
    AnyRemote, FolderRemote, MemoryRemote, Remote, Retrying, Target, WebDavConfig, WebDavRemote,
};
use espejo::sync::{self, Options, Report};
use espejo::vault::{self, Change, Edit, RemoteSettings};
use espejo::version::MadeOn;
use serde_json::Value;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

const HOUR_MS: i64 = 60 * 60 * 1_000;
const LONG_BYTES: usize = 50_000_000;

type Mirror = Retrying<AnyRemote, SystemClock>;

/// The mirror the settings name, made as the command makes it.
fn mirror_of(settings: &RemoteSettings) -> Rc<Mirror> {
    let remote = match Target::parse(&settings.target).unwrap() {
        Target::Folder(path) => AnyRemote::Folder(FolderRemote::new(path)),
        Target::WebDav(base_url) => {
            let config = WebDavConfig {
                base_url: base_url.to_string(),
                user: settings.user.clone(),
                password: settings.password.clone().map(Zeroizing::new),
                ca_file_pem: settings.ca_pem.clone().map(String::into_bytes),
            };
            AnyRemote::WebDav(WebDavRemote::new(config).unwrap())
        }
    };
    Rc::new(Retrying::new(remote, SystemClock))
}

struct Device<'a> {
    runtime: &'a Runtime,
    dir: tempfile::TempDir,
    clock: TestClock,
    vault: TestVault,
    mirror: Rc<Mirror>,
}

impl Device<'_> {
    fn sync(&mut self) -> Report {
        let mut findings = Vec::new();
        let done = sync::sync(&mut self.vault, &*self.mirror, Options::default(), &mut findings);
        let report = self.runtime.block_on(done).unwrap_or_else(|error| panic!("{error} {findings:?}"));
        assert_eq!(findings, [], "a healthy mirror gives no reason to warn");
        assert!(report.is_settled(), "{report:?}");
        report
    }

    /// Requests of one sync.
    fn requests(&mut self) -> u64 {
        let before = self.mirror.traffic().requests;
        self.sync();
        self.mirror.traffic().requests - before
    }

    fn save(&mut self, edits: &[Edit]) -> BTreeMap<EntryId, VersionId> {
        self.clock.advance(HOUR_MS);
        self.vault.save(edits).unwrap().into_iter().map(|saved| (saved.entry, saved.version)).collect()
    }

    /// New entries. Some have attachments, whose bytes follow from their names.
    fn write(&mut self, count: usize, dice: &mut Dice) -> Vec<EntryId> {
        let name = self.vault.device().name.clone();
        let edits = (0..count).map(|n| {
            let mut content = text(&format!("{name} {n}"), &body(dice));
            content.created = NOW - dice.below(1_000) as i64 * HOUR_MS;
            content.tags = (0..dice.below(3)).map(|tag| format!("tag{tag}")).collect();
            if n % 10 == 3 {
                let len = [0, 1, 4_095, 70_000, 5_000_000][dice.below(5)];
                content.attachments.push(self.attach(&format!("{name}-{n}-{len}")));
            }
            Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content) }
        });
        let edits = edits.collect::<Vec<_>>();
        self.save(&edits).into_keys().collect()
    }

    /// Stores an attachment whose name ends in its length.
    fn attach(&mut self, name: &str) -> Attachment {
        let blob = self.vault.store_blob(&mut &attached(name)[..]).unwrap();
        Attachment { name: name.to_owned(), media_type: "application/octet-stream".to_owned(), blob }
    }

    fn content(&mut self, entry: EntryId) -> Content {
        let version = self.vault.entry(entry).unwrap().version.id;
        self.vault.content(version).unwrap().unwrap()
    }

    /// Edits what is shown: a plain edit of each.
    fn edit(&mut self, entries: &[EntryId], word: &str, dice: &mut Dice) -> BTreeMap<EntryId, VersionId> {
        let edits = entries.iter().map(|entry| {
            let mut content = self.content(*entry);
            content.title = format!("{} {word}", content.title);
            content.body = Body::Text(body(dice));
            if dice.below(10) == 0 {
                content.attachments.push(self.attach(&format!("{word}-{}-{}", entry, dice.below(9_000))));
            }
            let made_on = MadeOn::Version(self.vault.entry(*entry).unwrap().version.id);
            Edit { entry: Some(*entry), made_on, change: Change::Content(content) }
        });
        let edits = edits.collect::<Vec<_>>();
        self.save(&edits)
    }

    fn delete(&mut self, entries: &[EntryId]) -> BTreeMap<EntryId, VersionId> {
        let edits = entries.iter().map(|entry| {
            let made_on = MadeOn::Version(self.vault.entry(*entry).unwrap().version.id);
            Edit { entry: Some(*entry), made_on, change: Change::Delete }
        });
        let edits = edits.collect::<Vec<_>>();
        self.save(&edits)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn body(dice: &mut Dice) -> String {
    let long = [10, 500, 20_000][dice.below(3)];
    let words = (0..=(dice.below(long) / 8)).map(|_| format!("{:07x}", dice.next() >> 36));
    words.collect::<Vec<_>>().join(if long > 500 { "\n" } else { " " })
}

/// The bytes of the attachment `name`.
fn attached(name: &str) -> Vec<u8> {
    let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
    Dice(seed).bytes(name.rsplit('-').next().unwrap().parse().unwrap())
}

/// Two devices that have met on an empty mirror; the second one's clock is three years ahead.
fn two<'a>(runtime: &'a Runtime, settings: &RemoteSettings, shared: Option<Rc<Mirror>>) -> [Device<'a>; 2] {
    let open = |settings: &RemoteSettings| shared.clone().unwrap_or_else(|| mirror_of(settings));
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::at(NOW));
    let mut vault = new_vault(dir.path(), "laptop", &clock);
    vault.set_remote(settings).unwrap();
    let mirror = open(&vault.remote_settings().unwrap().unwrap());
    let mut a = Device { runtime, dir, clock, vault, mirror };
    a.sync();

    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::at(NOW + 3 * YEAR_MS));
    let introduction = runtime.block_on(sync::introduce(&*a.mirror)).unwrap();
    let host = ThisMachine::with_clock(dir.path(), clock.clone());
    let secret = Secret::Password(password());
    let mut vault =
        vault::create_from_mirror(host, introduction.vault, &introduction.key_files, &secret, "desktop")
            .unwrap();
    let mut known = settings.clone();
    known.initialised = true;
    vault.set_remote(&known).unwrap();
    let mirror = open(&vault.remote_settings().unwrap().unwrap());
    let mut b = Device { runtime, dir, clock, vault, mirror };
    b.sync();
    [a, b]
}

/// What the whole test has to come to.
#[derive(Default)]
struct Expected {
    /// Titles that were given last, of live entries.
    titles: BTreeMap<EntryId, String>,
    deleted: Vec<EntryId>,
    /// Winner and loser of each open conflict.
    conflicts: BTreeMap<EntryId, (VersionId, VersionId)>,
    /// Attachments to be fetched back: entry and name.
    attachments: Vec<(EntryId, String)>,
}

/// The whole story.
fn converge(settings: &RemoteSettings, shared: Option<Rc<Mirror>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut dice = Dice(20_261_122);
    let [mut a, mut b] = two(&runtime, settings, shared);

    // Both write before either has seen a word of the other.
    let mut entries = a.write(119, &mut dice);
    let mut long = text("a long film", "with much to see");
    long.attachments.push(a.attach(&format!("film-{LONG_BYTES}")));
    let film = a.save(&[Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(long) }]);
    let film = *film.keys().next().unwrap();
    entries.extend(b.write(80, &mut dice));
    a.sync();
    b.sync();
    a.sync();
    assert_eq!([a.vault.entries().unwrap().len(), b.vault.entries().unwrap().len()], [200, 200]);

    let expected = both_change_much(&mut a, &mut b, entries, film, &mut dice);
    for device in [&mut a, &mut b] {
        assert_eq!(device.requests(), 1, "nothing to do, on {}", device.vault.device().name);
    }
    let on_disk = settings.target != "memory";
    let dirs = [a.path(), b.path()];
    the_same_is_read(dirs, &expected, &mut dice);
    if on_disk {
        // The first one may say what was read in the days that have passed since, by the true clock.
        for dir in dirs.into_iter().chain(dirs) {
            run(dir, &["sync"]).exits(0);
        }
        for ran in run_on(dirs, &["sync"]) {
            assert_eq!(ran.json()["requests"], 1, "nothing to do, by the command");
        }
    }
}

/// Both edit and delete offline, some of it the same, and sync; then one of them settles a few conflicts.
fn both_change_much(
    a: &mut Device<'_>,
    b: &mut Device<'_>,
    mut entries: Vec<EntryId>,
    film: EntryId,
    dice: &mut Dice,
) -> Expected {
    entries.sort();
    dice.shuffle(&mut entries);
    let mut rest = entries.into_iter();
    let mut some = |count| rest.by_ref().take(count).collect::<Vec<_>>();
    let (both_edit, a_edits_b_deletes, a_deletes_b_edits) = (some(8), some(3), some(3));
    let (both_delete, only_a_edits, only_b_edits) = (some(5), some(25), some(25));
    let (only_a_deletes, only_b_deletes) = (some(6), some(6));

    // The last edit of several is the one that is in conflict.
    a.edit(&both_edit[..4], "first", dice);
    let a_edit = a.edit(&both_edit, "laptop", dice);
    let b_edit = b.edit(&both_edit, "desktop", dice);
    b.edit(&only_b_edits[..10], "again", dice);
    let a_lost_edit = a.edit(&a_edits_b_deletes, "laptop", dice);
    let b_delete = b.delete(&a_edits_b_deletes);
    let b_won_edit = b.edit(&a_deletes_b_edits, "desktop", dice);
    let a_lost_delete = a.delete(&a_deletes_b_edits);
    a.delete(&[&both_delete[..], &only_a_deletes[..]].concat());
    b.delete(&[&both_delete[..], &only_b_deletes[..]].concat());
    a.edit(&only_a_edits, "laptop", dice);
    b.edit(&only_b_edits, "desktop", dice);
    let written = [a.write(5, dice), b.write(5, dice)].concat();

    b.sync();
    a.sync();
    let mut conflicts = BTreeMap::new();
    for (won, lost) in [(&b_edit, &a_edit), (&b_delete, &a_lost_edit), (&b_won_edit, &a_lost_delete)] {
        conflicts.extend(won.iter().map(|(entry, winner)| (*entry, (*winner, lost[entry]))));
    }
    assert_eq!(b.sync().conflicts, conflicts.len() as u64);

    // The device whose clock is behind settles some: it wins, because it has seen both sides. Meanwhile the other
    // one edits a winner, which settles nothing, and the film gets a new text and keeps its parts.
    let settled = both_edit[..2].to_vec();
    let edits = settled.iter().map(|entry| {
        let change = Change::Content(text("settled", "by the laptop"));
        Edit { entry: Some(*entry), made_on: MadeOn::Everything, change }
    });
    let edits = edits.collect::<Vec<_>>();
    a.save(&edits);
    conflicts.retain(|entry, _| !settled.contains(entry));
    let later = b.edit(&[both_edit[7], film], "later", dice);
    conflicts.get_mut(&both_edit[7]).unwrap().0 = later[&both_edit[7]];
    let up = a.mirror.traffic().bytes_up;
    a.sync();
    b.sync();
    assert!(a.mirror.traffic().bytes_up - up < 1_000_000, "attachments are not sent again");
    let report = a.sync();
    assert_eq!(report.conflicts, conflicts.len() as u64);

    let deleted = [&both_delete[..], &only_a_deletes, &only_b_deletes, &a_edits_b_deletes].concat();
    let mut expected = Expected { deleted, conflicts, ..Expected::default() };
    for entry in only_a_edits.into_iter().chain(settled) {
        expected.titles.insert(entry, a.content(entry).title);
    }
    let seen_by_b = both_edit[2..].iter().chain(&a_deletes_b_edits).chain(&only_b_edits).chain([&film]);
    for entry in seen_by_b.chain(&written) {
        let content = b.content(*entry);
        expected.attachments.extend(content.attachments.into_iter().map(|it| (*entry, it.name)));
        expected.titles.insert(*entry, content.title);
    }
    for (entry, title) in &expected.titles {
        let by_b = only_b_edits.contains(entry) || a_deletes_b_edits.contains(entry);
        let ending = match both_edit.iter().position(|it| it == entry) {
            Some(0 | 1) => "settled",
            Some(7) => "desktop later",
            Some(_) => "desktop",
            None if *entry == film => "later",
            None if written.contains(entry) => "",
            None if by_b => "desktop",
            None => "laptop",
        };
        assert!(title.ends_with(ending), "{title:?} should end in {ending:?}");
    }
    expected
}

/// Reads both vaults with the command and compares every byte of what it says.
fn the_same_is_read(dirs: [&Path; 2], expected: &Expected, dice: &mut Dice) {
    let same = |args: &[&str]| {
        let [a, b] = run_on(dirs, args).map(|ran| ran.exits(0));
        assert!(a.stdout == b.stdout, "{args:?} differs:\n{}\n{}", a.text(), b.text());
        assert_eq!([&a.stderr, &b.stderr], ["", ""], "{args:?}");
        a.stdout
    };
    let same_json = |args: &[&str]| serde_json::from_slice::<Value>(&same(args)).unwrap();

    let listed = same_json(&["list"]);
    let listed = listed["entries"].as_array().unwrap();
    assert_eq!(listed.len(), 210 - expected.deleted.len());
    for (entry, title) in &expected.titles {
        let found = listed.iter().find(|it| it["id"] == entry.to_string());
        assert_eq!(found.map(|it| &it["title"]), Some(&Value::from(title.as_str())), "{entry}");
    }
    let deleted = same_json(&["list", "--deleted"]);
    let deleted = deleted["entries"].as_array().unwrap();
    assert_eq!(deleted.len(), expected.deleted.len());
    for entry in &expected.deleted {
        assert!(deleted.iter().any(|it| it["id"] == entry.to_string()), "{entry}");
    }

    let conflicts = same_json(&["conflicts"]);
    let conflicts = conflicts["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), expected.conflicts.len());
    for (entry, (winner, loser)) in &expected.conflicts {
        let entry = entry.to_string();
        let told = conflicts.iter().find(|it| it["id"] == *entry).expect("every conflict is listed");
        assert_eq!(told["current"], winner.to_string());
        assert_eq!(told["others"], serde_json::json!([loser.to_string()]));
        let log = same_json(&["log", &entry]);
        let versions = log["versions"].as_array().unwrap();
        let lost = versions.iter().find(|it| it["version"] == loser.to_string()).expect("the loser is kept");
        assert_eq!([&lost["conflict"], &lost["present"], &lost["current"]], [true, true, false]);
        if lost["kind"] == "live" {
            same(&["show", &entry, "--version", &loser.to_string()]);
        }
    }

    let mut shown = listed.iter().map(|it| it["id"].as_str().unwrap()).collect::<Vec<_>>();
    dice.shuffle(&mut shown);
    let in_conflict = |id: &&&str| expected.conflicts.keys().any(|entry| entry.to_string() == ***id);
    for id in shown.iter().filter(in_conflict).chain(shown.iter().filter(|id| !in_conflict(id)).take(10)) {
        same(&["show", id]);
    }
    assert!(expected.attachments.iter().any(|(_, name)| name.ends_with(&LONG_BYTES.to_string())));
    let (long, short) =
        expected.attachments.iter().partition::<Vec<_>, _>(|(_, name)| name.starts_with("film"));
    for (entry, name) in long.into_iter().chain(short.into_iter().take(4)) {
        let bytes = same(&["show", &entry.to_string(), "--attachment", name]);
        assert!(bytes == attached(name), "{name} came back changed");
    }
    for (dir, other) in [(dirs[0], "desktop"), (dirs[1], "laptop")] {
        let status = run(dir, &["status"]).json();
        assert_eq!(
            ["unsynced", "pending", "corrupt", "devices"].map(|field| status[field].as_u64().unwrap()),
            [0, 0, 0, 2],
            "{status} beside {other}"
        );
    }
}

fn folder_settings(target: &str) -> RemoteSettings {
    let target = target.to_owned();
    RemoteSettings { target, user: None, password: None, ca_pem: None, initialised: false }
}

fn through(server: &str, tls: bool) {
    let server = RealServer::start(server, tls);
    let config = server.config("journal/");
    converge(
        &RemoteSettings {
            target: config.base_url,
            user: config.user,
            password: config.password.map(|password| password.to_string()),
            ca_pem: config.ca_file_pem.map(|pem| String::from_utf8(pem).unwrap()),
            initialised: false,
        },
        None,
    );
}

#[test]
fn memory() {
    let mirror = Retrying::new(AnyRemote::Memory(MemoryRemote::new()), SystemClock);
    converge(&folder_settings("memory"), Some(Rc::new(mirror)));
}

#[test]
fn folder() {
    let dir = tempfile::tempdir().unwrap();
    converge(&folder_settings(&dir.path().join("journal").to_string_lossy()), None);
}

#[test]
fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let server = EmbeddedServer::start(dir.path().to_owned(), "ada", "secret").unwrap();
    drop(inside);
    converge(
        &RemoteSettings {
            target: server.url() + "journal/",
            user: Some("ada".to_owned()),
            password: Some("secret".to_owned()),
            ca_pem: None,
            initialised: false,
        },
        None,
    );
}

/// With TLS, and the authority that is trusted taken from the settings.
#[test]
fn apache() {
    through("apache", true);
}

#[test]
fn nginx() {
    through("nginx", false);
}

#[test]
fn lighttpd() {
    through("lighttpd", false);
}

#[test]
fn rclone() {
    through("rclone", false);
}

#[test]
fn wsgidav() {
    through("wsgidav", false);
}

#[test]
fn sabre() {
    through("sabre", false);
}
