//! Whole syncs in which one request goes wrong: every request of every story, with every fault that fits it, by the real
//! engine through a proxy in front of real servers. Whatever happens, the sync ends, the vault is as it was or has
//! correct news, and when the faults are over two more syncs bring everybody together.
//!
//! Long, because the stories, the faults and what is expected of them are one table.

#![allow(missing_docs)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::common::cli::temp_dir;
use crate::common::dice::Dice;
use crate::common::proxy::{Fault, How, Listings, Proxy, Reply};
use crate::common::servers::{Embedded, RealServer};
use crate::common::*;
use espejo::entry::{Attachment, PART_BYTES};
use espejo::event::Finding;
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::id::{EntryId, VersionId};
use espejo::remote::{
    AnyRemote, FolderRemote, Remote, RemoteErrorKind, Retrying, WebDavConfig, WebDavRemote,
};
use espejo::sync::{self, Error, Options, Report};
use espejo::vault::{self, Change, Edit, Locked, NewVault};
use espejo::version::MadeOn;
use regex::bytes::Regex;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

const PAGE: &str = "<!DOCTYPE html><html><body>Sign in to Hotel-WLAN</body></html>";
const HTML: &str = "Content-Type: text/html\r\n";
const XML: &str = "207 Multi-Status\r\nContent-Type: application/xml; charset=utf-8\r\n";

/// One way a request goes wrong.
struct Kind {
    name: &'static str,
    /// The methods it can happen to; empty for all.
    methods: &'static [&'static str],
    how: How,
    /// The server says it keeps a file and does not.
    lie: bool,
}

/// What comes back instead of an answer, or of the true one. The server does not see the request.
fn refusals() -> Vec<Kind> {
    let kind = |name, how| Kind { name, methods: &[], how, lie: false };
    let mut kinds = Vec::new();
    for status in [
        "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"",
        "403 Forbidden",
        "404 Not Found",
        "409 Conflict",
        "412 Precondition Failed",
        "413 Content Too Large",
        "423 Locked",
        "429 Too Many Requests\r\nRetry-After: 2",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable\r\nRetry-After: 2",
        "507 Insufficient Storage",
    ] {
        kinds.push(kind(&status[..3], How::status(status)));
    }
    let redirect = "302 Found\r\nLocation: https://portal.example/login\r\n";
    kinds.push(kind("login page", How::Answer(format!("200 OK\r\n{HTML}"), PAGE.to_owned())));
    kinds.push(kind("redirect", How::Answer(redirect.to_owned(), String::new())));
    let listed = |name, how| Kind { name, methods: &["PROPFIND"], how, lie: false };
    kinds.push(listed("207 with a page", How::Answer(XML.to_owned(), PAGE.to_owned())));
    kinds.push(listed("207 with nothing", How::Answer(XML.to_owned(), String::new())));
    kinds
}

/// What happens on the way, to a request the server sees or to its true answer.
fn accidents() -> Vec<Kind> {
    const BODIES: &[&str] = &["GET", "PROPFIND"];
    const LENGTHS: &[&str] = &["GET", "PROPFIND", "HEAD"];
    let kind = |name, methods, how| Kind { name, methods, how, lie: false };
    let lie = |name, methods, how| Kind { name, methods, how, lie: true };
    vec![
        kind("reset", &[], How::Reset),
        kind("answer lost", &[], How::LoseAnswer),
        kind("applied twice", &[], How::Twice),
        kind("unavailable", &[], How::status("503 Service Unavailable")),
        kind("upload cut", &["PUT"], How::Cut(1_000)),
        kind("answer cut", BODIES, How::CutAnswer(100)),
        kind("told too long", LENGTHS, How::Change(told_too_long)),
        kind("told too short", LENGTHS, How::Change(told_too_short)),
        kind("no item listed", &["PROPFIND"], How::Change(no_item)),
        kind("half of the items listed", &["PROPFIND"], How::Change(half_of_the_items)),
        kind("item without length", &["PROPFIND"], How::Change(no_length)),
        kind("listing ends early", &["PROPFIND"], How::Change(half_of_the_body)),
        kind("stale listing", &["PROPFIND"], How::Stale),
        kind("applied late, answer lost", &["PUT"], How::Late(2, None)),
        kind("torn, 500", &["PUT"], How::Torn("500 Internal Server Error")),
        lie("applied late, 201", &["PUT"], How::Late(2, Some("201 Created"))),
        lie("torn, 201", &["PUT"], How::Torn("201 Created")),
        lie("not stored, 201", &["PUT", "MKCOL"], How::status("201 Created")),
        lie("not removed, 204", &["DELETE"], How::status("204 No Content")),
    ]
}

fn told_too_long(reply: Reply) -> Reply {
    Reply { told_len: reply.told_len + 100, ..reply }
}

fn told_too_short(reply: Reply) -> Reply {
    Reply { told_len: reply.told_len / 2, ..reply }
}

fn half_of_the_body(reply: Reply) -> Reply {
    let half = reply.body[..reply.body.len() / 2].to_vec();
    reply.with_body(half)
}

/// Keeps so many responses of a listing, the directory itself among them.
fn keep_items(reply: Reply, keep: impl Fn(usize) -> usize) -> Reply {
    let response = Regex::new(r"(?s)<(\w+:)?response[ >].*?</(\w+:)?response>").unwrap();
    let found = response.find_iter(&reply.body).map(|found| found.range()).collect::<Vec<_>>();
    let mut body = reply.body.clone();
    for range in found.iter().skip(keep(found.len())).rev() {
        body.drain(range.clone());
    }
    reply.with_body(body)
}

fn no_item(reply: Reply) -> Reply {
    keep_items(reply, |_| 0)
}

fn half_of_the_items(reply: Reply) -> Reply {
    keep_items(reply, |all| all.div_ceil(2))
}

fn no_length(reply: Reply) -> Reply {
    let length = Regex::new(r"(?s)<(\w+:)?getcontentlength[ >].*?</(\w+:)?getcontentlength>").unwrap();
    let body = length.replace(&reply.body, &b""[..]).into_owned();
    reply.with_body(body)
}

/// A vault with a recovery key, made once: only this costs a password.
fn first_vault() -> &'static (TempDir, Zeroizing<[u8; 32]>) {
    static FIRST: OnceLock<(TempDir, Zeroizing<[u8; 32]>)> = OnceLock::new();
    FIRST.get_or_init(|| {
        let dir = temp_dir();
        let new = NewVault {
            password: password(),
            recovery: true,
            device_name: "laptop".to_owned(),
            iterations: espejo::crypto::MIN_WRITTEN_ITERATIONS,
        };
        let created = vault::create(ThisMachine::with_clock(dir.path(), TestClock::at(NOW)), &new).unwrap();
        let mut vault = created.vault;
        set_remote(&mut vault);
        (dir, created.recovery.unwrap())
    })
}

fn secret() -> Secret {
    Secret::Recovery(first_vault().1.clone())
}

/// What a vault holds: of every entry what is shown, what lost, and every version that is here.
type State = BTreeMap<EntryId, (VersionId, bool, Vec<VersionId>, BTreeSet<VersionId>)>;

fn state(vault: &mut TestVault) -> State {
    let entries = vault.entries().unwrap();
    let states = entries.into_iter().map(|it| {
        let history = vault.history(it.id()).unwrap();
        let here = history.into_iter().filter(|version| version.opened).map(|version| version.version.id);
        (it.id(), (it.version.id, it.deleted(), it.losers.clone(), here.collect()))
    });
    states.collect()
}

type Outcome = (Result<Report, Error>, Vec<Finding>);

/// A server behind a proxy, and the directories of the devices that use it.
struct Stage {
    proxy: Proxy,
    config: Box<dyn Fn() -> WebDavConfig>,
    /// The directory behind the mirror.
    mirror: PathBuf,
    devices: TempDir,
    runtime: Runtime,
    now: Cell<i64>,
}

/// Everything as it was at one moment.
struct Snapshot {
    dir: TempDir,
    listings: Listings,
    now: i64,
}

impl Stage {
    /// `config` reaches the served directory `root` directly.
    fn new(config: WebDavConfig, root: &Path) -> Self {
        let url = url::Url::parse(&config.base_url).unwrap();
        let proxy = Proxy::start(url.socket_addrs(|| None).unwrap()[0]);
        let through = format!("{}{}journal/", proxy.url(), url.path().trim_start_matches('/'));
        let config = move || WebDavConfig {
            base_url: through.clone(),
            user: config.user.clone(),
            password: config.password.clone(),
            ca_file_pem: None,
        };
        Self {
            proxy,
            config: Box::new(config),
            mirror: root.join("journal"),
            devices: temp_dir(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            now: Cell::new(NOW),
        }
    }

    fn clock(&self) -> TestClock {
        self.now.set(self.now.get() + 1_000);
        TestClock::at(self.now.get())
    }

    fn remote(&self) -> Retrying<AnyRemote, TestClock> {
        let remote = AnyRemote::WebDav(WebDavRemote::new((self.config)()).unwrap());
        Retrying::new(remote, self.clock())
    }

    fn dir(&self, device: usize) -> PathBuf {
        self.devices.path().join(format!("device{device}"))
    }

    fn exists(&self, device: usize) -> bool {
        self.dir(device).join("espejo.json").exists()
    }

    fn open(&self, device: usize) -> TestVault {
        let host = ThisMachine::with_clock(self.dir(device), self.clock());
        Locked::find(host).unwrap().unlock(&secret()).unwrap()
    }

    /// Syncs; a device that has no vault yet gets one from the mirror, as `clone` does it.
    fn sync(&self, device: usize) -> Outcome {
        if !self.exists(device) {
            let made = self.introduce(device, &self.remote());
            if let Err(error) = made {
                return (Err(error), Vec::new());
            }
        }
        let mut findings = Vec::new();
        let (mut vault, remote) = (self.open(device), self.remote());
        let done = sync::sync(&mut vault, &remote, Options::default(), &mut findings);
        (self.runtime.block_on(done), findings)
    }

    fn introduce(&self, device: usize, remote: &impl Remote) -> Result<(), Error> {
        let introduction = self.runtime.block_on(sync::introduce(remote))?;
        let host = ThisMachine::with_clock(self.dir(device), self.clock());
        let (id, key_files) = (introduction.vault, &introduction.key_files);
        let mut vault =
            vault::create_from_mirror(host, id, key_files, &secret(), &format!("device{device}"))?;
        set_remote(&mut vault);
        let mut settings = vault.remote_settings()?.unwrap();
        settings.initialised = true;
        vault.set_remote(&settings)?;
        Ok(())
    }

    /// What a new device reads from the mirror: looked at as the directory it is, or a copy of it.
    fn read_by_a_new_device(&self, mirror: &Path) -> Result<State, String> {
        let remote = Retrying::new(FolderRemote::new(mirror.to_owned()), self.clock());
        let _ = std::fs::remove_dir_all(self.dir(9));
        self.introduce(9, &remote).map_err(|error| format!("introduction: {error}"))?;
        let mut vault = self.open(9);
        let mut findings = Vec::new();
        let report =
            self.runtime.block_on(sync::sync(&mut vault, &remote, Options::default(), &mut findings));
        let report = report.map_err(|error| format!("clone: {error}"))?;
        if !report.is_settled() {
            return Err(format!("clone: {report:?} {findings:?}"));
        }
        Ok(state(&mut vault))
    }

    /// What there is to be kept and put back.
    fn parts(&self) -> [(&str, &Path); 2] {
        [("devices", self.devices.path()), ("mirror", &self.mirror)]
    }

    fn snapshot(&self) -> Snapshot {
        let dir = temp_dir();
        for (name, from) in self.parts() {
            if from.exists() {
                std::fs::create_dir(dir.path().join(name)).unwrap();
                copy_dir(from, &dir.path().join(name));
            }
        }
        Snapshot { dir, listings: self.proxy.listings(), now: self.now.get() }
    }

    fn restore(&self, snapshot: &Snapshot) {
        for (name, to) in self.parts() {
            let _ = std::fs::remove_dir_all(to);
            let from = snapshot.dir.path().join(name);
            if from.exists() {
                std::fs::create_dir(to).unwrap();
                copy_dir(&from, to);
            }
        }
        self.proxy.set_listings(&snapshot.listings);
        self.proxy.take_asked();
        self.now.set(snapshot.now);
    }
}

/// What happens before, and who syncs when it goes wrong.
struct Story {
    name: &'static str,
    before: fn(&Stage),
    actor: usize,
    /// Devices there are in the end.
    devices: usize,
    /// Whether its requests are made one after the other.
    in_order: bool,
}

const STORIES: [Story; 8] = [
    Story { name: "first push", before: nothing_synced, actor: 0, devices: 1, in_order: false },
    Story { name: "push of an attachment", before: one_attaches, actor: 0, devices: 2, in_order: false },
    Story { name: "push of an edit", before: one_edits, actor: 0, devices: 2, in_order: true },
    Story { name: "push of a pack", before: nine_more, actor: 0, devices: 2, in_order: true },
    Story { name: "pull", before: news_for_the_other, actor: 1, devices: 2, in_order: false },
    Story { name: "conflict", before: both_edit, actor: 1, devices: 2, in_order: false },
    Story { name: "push and tidy", before: one_edits_days_later, actor: 0, devices: 2, in_order: false },
    Story { name: "clone", before: news_for_the_other, actor: 2, devices: 3, in_order: false },
];

fn nothing_synced(stage: &Stage) {
    std::fs::create_dir(stage.dir(0)).unwrap();
    copy_dir(first_vault().0.path(), &stage.dir(0));
    let mut vault = stage.open(0);
    let first = add(&mut vault, "one");
    add(&mut vault, "two");
    delete(&mut vault, first);
}

/// An entry with an attachment in two parts.
fn attach(vault: &mut TestVault, title: &str) {
    let blob = vault.store_blob(&mut &Dice(7).bytes(PART_BYTES + 1_000)[..]).unwrap();
    assert_eq!(blob.parts.len(), 2);
    let mut content = text(title, "with much to see");
    let media_type = "video/mp4".to_owned();
    content.attachments.push(Attachment { name: title.to_owned(), media_type, blob });
    let change = Change::Content(content);
    vault.save(&[Edit { entry: None, made_on: MadeOn::Everything, change }]).unwrap();
}

/// Two devices that know each other and have the same three entries.
fn two_that_met(stage: &Stage) {
    std::fs::create_dir(stage.dir(0)).unwrap();
    copy_dir(first_vault().0.path(), &stage.dir(0));
    add_many(&mut stage.open(0), 3);
    for device in [0, 1, 0] {
        stage.sync(device).0.unwrap();
    }
}

fn one_attaches(stage: &Stage) {
    two_that_met(stage);
    attach(&mut stage.open(0), "film");
}

fn first_entry(vault: &mut TestVault) -> EntryId {
    vault.entries().unwrap().iter().map(espejo::vault::EntryState::id).min().unwrap()
}

fn edit_first(stage: &Stage, device: usize, title: &str) {
    let mut vault = stage.open(device);
    let entry = first_entry(&mut vault);
    edit(&mut vault, entry, title);
}

fn one_edits(stage: &Stage) {
    two_that_met(stage);
    edit_first(stage, 0, "edited");
}

fn nine_more(stage: &Stage) {
    two_that_met(stage);
    add_many(&mut stage.open(0), 9);
}

fn news_for_the_other(stage: &Stage) {
    two_that_met(stage);
    edit_first(stage, 0, "edited");
    let mut vault = stage.open(0);
    let last = vault.entries().unwrap().iter().map(espejo::vault::EntryState::id).max().unwrap();
    delete(&mut vault, last);
    stage.sync(0).0.unwrap();
    add_many(&mut stage.open(0), 9);
    stage.sync(0).0.unwrap();
    add(&mut stage.open(0), "one more");
    stage.sync(0).0.unwrap();
}

fn both_edit(stage: &Stage) {
    two_that_met(stage);
    edit_first(stage, 0, "edited here");
    edit_first(stage, 1, "edited there");
    stage.sync(0).0.unwrap();
}

fn one_edits_days_later(stage: &Stage) {
    two_that_met(stage);
    for title in ["once", "twice"] {
        edit_first(stage, 0, title);
        stage.sync(0).0.unwrap();
    }
    edit_first(stage, 0, "days later");
    stage.now.set(stage.now.get() + 3 * DAY_MS);
}

/// A story up to where it can go wrong, and how it goes when it does not.
struct Prepared<'a> {
    stage: &'a Stage,
    story: &'a Story,
    start: Snapshot,
    /// The requests of the actor's sync.
    requests: Vec<String>,
    before: State,
    after: State,
}

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

impl<'a> Prepared<'a> {
    fn new(stage: &'a Stage, story: &'a Story) -> Self {
        let _ = std::fs::remove_dir_all(&stage.mirror);
        for device in 0..10 {
            let _ = std::fs::remove_dir_all(stage.dir(device));
        }
        stage.now.set(NOW);
        stage.proxy.set_listings(&Listings::new());
        (story.before)(stage);
        let start = stage.snapshot();
        let exists = stage.exists(story.actor);
        let before = if exists { state(&mut stage.open(story.actor)) } else { State::new() };
        stage.proxy.take_asked();
        let (report, findings) = stage.sync(story.actor);
        assert!(report.unwrap().is_settled() && findings.is_empty(), "{}: {findings:?}", story.name);
        let requests = stage.proxy.take_asked();
        let mut prepared = Self { stage, story, start, requests, before, after: State::new() };
        prepared.after = prepared.together().unwrap().pop().unwrap();
        prepared.end_is_good().unwrap();
        prepared
    }

    /// Syncs every device twice; what each holds then.
    fn together(&self) -> Result<Vec<State>, String> {
        for round in 0..2 {
            for device in 0..self.story.devices {
                let (report, findings) = self.stage.sync(device);
                let report = report.map_err(|error| format!("device {device}, round {round}: {error}"))?;
                ensure!(round == 0 || report.is_settled(), "device {device}: {report:?} {findings:?}");
            }
        }
        Ok((0..self.story.devices).map(|device| state(&mut self.stage.open(device))).collect())
    }

    /// Everybody has everything, nothing is left to do, and a new device gets the same.
    fn end_is_good(&self) -> Result<(), String> {
        for (device, held) in self.together()?.into_iter().enumerate() {
            ensure!(held == self.after, "device {device} holds {held:?}, not {:?}", self.after);
            let check = self.stage.open(device).check().unwrap();
            ensure!(check.is_clean() && check.adopted == 0, "device {device}: {check:?}");
            self.stage.proxy.take_asked();
            let report = self.stage.sync(device).0.map_err(|error| error.to_string())?;
            let asked = self.stage.proxy.take_asked();
            ensure!(asked.len() == 1 && report.is_idle(), "device {device} is not idle: {asked:?}");
        }
        let read = self.stage.read_by_a_new_device(&self.stage.mirror)?;
        ensure!(read == self.after, "a new device reads {read:?}, not {:?}", self.after);
        Ok(())
    }

    /// Runs the story with `kind` at its request `nth`. False if that is no case: the fault does not fit.
    fn case(&self, nth: usize, kind: &Kind) -> Result<bool, String> {
        let fits = |request: &str| {
            kind.methods.is_empty() || kind.methods.iter().any(|method| request.starts_with(method))
        };
        if !fits(&self.requests[nth]) {
            return Ok(false);
        }
        let stage = self.stage;
        stage.restore(&self.start);
        stage.proxy.fault(Fault { method: "", path: "", after: nth, times: 1, how: kind.how.clone() });
        let (result, findings) = stage.sync(self.story.actor);
        let asked = stage.proxy.take_asked();
        ensure!(asked.len() > nth, "only {asked:?} was asked");
        // Of requests made at once, any may be the one.
        if !fits(&asked[nth]) {
            stage.proxy.heal();
            return Ok(false);
        }
        self.ended_well(nth, kind, &result, &asked).map_err(|why| format!("{why} {findings:?}"))?;
        stage.proxy.heal();
        self.end_is_good()?;
        Ok(true)
    }

    /// The faulted sync ended, said why, harmed nothing here and claimed nothing that is not so.
    fn ended_well(
        &self,
        nth: usize,
        kind: &Kind,
        result: &Result<Report, Error>,
        asked: &[String],
    ) -> Result<(), String> {
        let most = 3 * self.requests.len() + 12;
        ensure!(asked.len() <= most, "{} requests instead of {}", asked.len(), self.requests.len());
        ensure!(!matches!(result, Err(Error::Vault(vault::Error::Io { .. }))), "{result:?}");
        if kind.name == "401" {
            let told = matches!(result, Err(Error::Remote(it)) if it.kind == RemoteErrorKind::Unauthorized);
            ensure!(told, "{result:?}");
            // Others that were under way at the same time have been sent.
            let further = asked.len() - nth - 1;
            ensure!(further <= if self.story.in_order { 0 } else { 3 }, "{further} more after a 401");
        }
        if !self.stage.exists(self.story.actor) {
            return Ok(());
        }
        let mut vault = self.stage.open(self.story.actor);
        let held = state(&mut vault);
        let missing = self.before.keys().find(|entry| !held.contains_key(entry));
        ensure!(missing.is_none(), "{missing:?} is gone");
        for (entry, shown) in &held {
            // What was not here before may come without its newest version; what was, never goes back.
            let is_news = match self.before.get(entry) {
                Some(before) => shown.0 == before.0 || shown.0 == self.after[entry].0,
                None => self.after[entry].3.contains(&shown.0),
            };
            ensure!(is_news, "{entry} was never {shown:?}");
        }
        let check = vault.check().unwrap();
        ensure!(check.is_clean() && check.adopted == 0, "{check:?}");
        let settled = result.as_ref().is_ok_and(Report::is_settled);
        if settled && !kind.lie {
            let copy = temp_dir();
            copy_dir(&self.stage.mirror, copy.path());
            let read = self.stage.read_by_a_new_device(copy.path())?;
            for (entry, shown) in &held {
                let there = read.get(entry).is_some_and(|there| there.3.is_superset(&shown.3));
                ensure!(there, "called settled, and {entry} is not on the mirror");
            }
        }
        Ok(())
    }
}

/// All stories with all `kinds` on one server; at least so many cases.
fn go_wrong(name: &str, config: WebDavConfig, root: &Path, kinds: &[Kind], at_least: usize) {
    let stage = Stage::new(config, root);
    let (mut cases, mut failed) = (0, Vec::new());
    for story in &STORIES {
        let prepared = Prepared::new(&stage, story);
        let before = cases;
        for (nth, request) in prepared.requests.iter().enumerate() {
            for kind in kinds {
                match prepared.case(nth, kind) {
                    Ok(fits) => cases += usize::from(fits),
                    Err(why) => {
                        stage.proxy.heal();
                        cases += 1;
                        failed
                            .push(format!("{}, request {nth} ({request}), {}: {why}", story.name, kind.name));
                    }
                }
            }
        }
        println!("{name}: {}: {} requests, {} cases", story.name, prepared.requests.len(), cases - before);
    }
    println!("{name}: {cases} cases");
    assert!(failed.is_empty(), "{} of {cases}:\n{}", failed.len(), failed.join("\n"));
    assert!(cases >= at_least, "{cases}");
}

fn on(server: &str) {
    let running = RealServer::start(server, false);
    go_wrong(server, running.config(""), &running.root, &accidents(), 400);
}

fn on_embedded(kinds: &[Kind], at_least: usize) {
    let running = Embedded::start();
    let config = WebDavConfig {
        base_url: running.server.url(),
        user: Some("ada".to_owned()),
        password: Some(Zeroizing::new("secret".to_owned())),
        ca_file_pem: None,
    };
    go_wrong("embedded", config, running.dir.path(), kinds, at_least);
}

#[test]
fn embedded_refuses() {
    on_embedded(&refusals(), 800);
}

#[test]
fn embedded_has_accidents() {
    on_embedded(&accidents(), 400);
}

#[test]
fn apache_has_accidents() {
    on("apache");
}

#[test]
fn sabre_has_accidents() {
    on("sabre");
}
