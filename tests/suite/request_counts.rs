//! Requests are what a sync costs. They are counted by the server, not by the program.

#![allow(missing_docs)]

use std::time::Duration;

use crate::common::servers::{Embedded, RealServer};
use crate::common::*;
use espejo::clock::SystemClock;
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::id::EntryId;
use espejo::remote::{Remote, Retrying, WebDavConfig, WebDavRemote};
use espejo::sync::{self, Options, Report};
use espejo::vault::{self, Change, Edit, RemoteSettings};
use espejo::version::MadeOn;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

/// A server that says what it was asked.
trait Server {
    fn config(&self) -> WebDavConfig;

    /// Every request so far, one line each.
    fn log(&self) -> Vec<String>;
}

impl Server for RealServer {
    fn config(&self) -> WebDavConfig {
        self.config("journal/")
    }

    /// The log may lag behind the answers, so it is read until it stands still.
    fn log(&self) -> Vec<String> {
        let read = || std::fs::read_to_string(&self.access_log).unwrap_or_default();
        let mut before = read();
        let mut still = 0;
        while still < 4 {
            std::thread::sleep(Duration::from_millis(50));
            let now = read();
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        before.lines().map(str::to_owned).collect()
    }
}

impl Server for Embedded {
    fn config(&self) -> WebDavConfig {
        WebDavConfig {
            base_url: self.server.url() + "journal/",
            user: Some("ada".to_owned()),
            password: Some(Zeroizing::new("secret".to_owned())),
            ca_file_pem: None,
        }
    }

    fn log(&self) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        requests.map(|(method, path, status)| format!("{method} {path} {status}")).collect()
    }
}

struct Bench<'a, S> {
    server: &'a S,
    runtime: Runtime,
    /// Requests counted so far.
    counted: usize,
}

impl<'a, S: Server> Bench<'a, S> {
    fn new(server: &'a S) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let counted = server.log().len();
        Self { server, runtime, counted }
    }

    fn remote(&self) -> Retrying<WebDavRemote, SystemClock> {
        Retrying::new(WebDavRemote::new(self.server.config()).unwrap(), SystemClock)
    }

    /// The requests of `work`, as the server saw them. What the program itself counts must be the same.
    fn requests(&mut self, work: impl FnOnce(&Runtime, &Retrying<WebDavRemote, SystemClock>)) -> Vec<String> {
        let remote = self.remote();
        work(&self.runtime, &remote);
        let log = self.server.log();
        let seen = log[self.counted..].to_vec();
        self.counted = log.len();
        assert_eq!(seen.len() as u64, remote.traffic().requests, "{}", seen.join("\n"));
        seen
    }

    /// The requests of one sync, and what it did.
    fn sync(&mut self, vault: &mut TestVault) -> (Vec<String>, Report) {
        let mut report = Report::default();
        let seen = self.requests(|runtime, remote| report = sync_once(runtime, remote, vault));
        (seen, report)
    }
}

fn sync_once(runtime: &Runtime, remote: &impl Remote, vault: &mut TestVault) -> Report {
    let mut findings = Vec::new();
    let report = runtime.block_on(sync::sync(vault, remote, Options::default(), &mut findings)).unwrap();
    assert_eq!(findings, []);
    assert!(report.is_settled());
    report
}

fn settings(initialised: bool) -> RemoteSettings {
    RemoteSettings { target: "counted".to_owned(), user: None, password: None, ca_pem: None, initialised }
}

fn write(vault: &mut TestVault, count: usize) -> Vec<EntryId> {
    let mut entries = Vec::new();
    for from in (0..count).step_by(1_000) {
        let edits = (from..count.min(from + 1_000)).map(|n| {
            let change = Change::Content(text(&format!("entry {n}"), &format!("what happened, {n}")));
            Edit { entry: None, made_on: MadeOn::Everything, change }
        });
        let saved = vault.save(&edits.collect::<Vec<_>>()).unwrap();
        entries.extend(saved.into_iter().map(|saved| saved.entry));
    }
    entries
}

#[track_caller]
fn at_most(limit: usize, what: &str, seen: &[String]) {
    println!("{what}: {} of at most {limit} requests", seen.len());
    assert!(seen.len() <= limit, "{what}: {} requests:\n{}", seen.len(), seen.join("\n"));
}

/// First push and clone of `count` entries, then edits on both sides.
fn requests_stay_few(server: &impl Server, count: usize, push_limit: usize, clone_limit: usize) {
    let mut bench = Bench::new(server);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut a = new_vault(dirs[0].path(), "laptop", &TestClock::at(NOW));
    a.set_remote(&settings(false)).unwrap();
    let entries = write(&mut a, count);
    // Not a request more for the making of the mirror itself.
    let (push, report) = bench.sync(&mut a);
    assert_eq!(report.pushed, count as u64);
    at_most(push_limit, &format!("first push of {count}"), &push);
    at_most(1, "nothing to do after the push", &bench.sync(&mut a).0);

    let clock = TestClock::at(NOW + 3 * YEAR_MS);
    let mut b = None;
    let seen = bench.requests(|runtime, remote| {
        let introduction = runtime.block_on(sync::introduce(remote)).unwrap();
        let host = ThisMachine::with_clock(dirs[1].path(), clock);
        let secret = Secret::Password(password());
        let mut vault =
            vault::create_from_mirror(host, introduction.vault, &introduction.key_files, &secret, "desktop");
        let vault = vault.as_mut().unwrap();
        vault.set_remote(&settings(true)).unwrap();
        assert_eq!(sync_once(runtime, remote, vault).pulled, count as u64);
        b = Some(open_vault(dirs[1].path(), &TestClock::at(NOW + 3 * YEAR_MS + 1_000)));
    });
    let mut b = b.unwrap();
    at_most(clone_limit, &format!("clone of {count}"), &seen);
    assert_eq!(titles(&mut b).len(), count);
    at_most(1, "nothing to do after the clone", &bench.sync(&mut b).0);

    // The first device learns that there is a second one, then rests.
    bench.sync(&mut a);
    at_most(1, "nothing to do on the first device", &bench.sync(&mut a).0);
    for entry in entries.into_iter().take(10) {
        edit(&mut a, entry, "edited here");
        at_most(4, "push of one edited entry", &bench.sync(&mut a).0);
        let (pull, report) = bench.sync(&mut b);
        assert_eq!(report.pulled, 1);
        // The list, the announcement, the object.
        at_most(3, "pull of one edited entry", &pull);
        delete(&mut b, entry);
        at_most(4, "push of one deletion", &bench.sync(&mut b).0);
        bench.sync(&mut a);
    }
    for vault in [&mut a, &mut b] {
        let (seen, report) = bench.sync(vault);
        assert!(report.is_idle());
        at_most(1, "nothing to do in the end", &seen);
        assert_eq!(titles(vault).len(), count - 10);
    }
}

#[test]
fn apache_sees_few_requests() {
    requests_stay_few(&RealServer::start("apache", false), 1_000, 14, 20);
}

#[test]
fn the_embedded_server_sees_few_requests() {
    requests_stay_few(&Embedded::start(), 1_000, 14, 20);
}

#[test]
fn ten_thousand_entries_take_fifty_requests_to_clone() {
    requests_stay_few(&RealServer::start("apache", false), 10_000, 32, 50);
}
