//! What several of these tests share.

pub mod cli;
pub mod crash;
pub mod devices;
pub mod dice;
pub mod forge;
pub mod nextcloud;
pub mod older;
pub mod proxy;
pub mod servers;
pub mod strace;
pub mod tracer;
pub mod uploads;
pub mod watching;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use espejo::clock::Clock;
use espejo::crypto::Password;
use espejo::entry::Content;
use espejo::event::Finding;
use espejo::format::keyfile::Secret;
use espejo::format::pack;
use espejo::host::{Host, ThisMachine};
use espejo::id::{EntryId, ObjectName};
use espejo::remote::{MemoryRemote, Remote};
use espejo::sync::{self, Options, Report};
use espejo::vault::{self, Change, Edit, NewVault, RemoteSettings, Vault};
use espejo::version::MadeOn;

/// What a vault holds that is named before it is synced: numbers that can be worked out again, and what nothing relies on.
pub const NOT_SYNCED: [&str; 2] = ["local/status", "local/activity"];

/// A clock a test sets. Every look at it takes a millisecond; waiting takes no time.
#[derive(Clone)]
pub struct TestClock(Rc<Cell<i64>>);

impl TestClock {
    pub fn at(ms: i64) -> Self {
        Self(Rc::new(Cell::new(ms)))
    }

    pub fn advance(&self, ms: i64) {
        self.0.set(self.0.get() + ms);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.advance(1);
        self.0.get()
    }

    async fn sleep(&self, _: Duration) {}
}

pub type TestVault = Vault<ThisMachine<TestClock>>;

pub const NOW: i64 = 1_790_000_000_000;
pub const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
pub const YEAR_MS: i64 = 365 * DAY_MS;

pub const PASSWORD: &str = "correct horse battery staple";

pub fn password() -> Password {
    Password::new(PASSWORD).unwrap()
}

pub fn new_vault(dir: &Path, name: &str, clock: &TestClock) -> TestVault {
    let new = NewVault {
        password: password(),
        recovery: false,
        device_name: name.to_owned(),
        iterations: espejo::crypto::MIN_WRITTEN_ITERATIONS,
    };
    vault::create(ThisMachine::with_clock(dir, clock.clone()), &new).unwrap().vault
}

pub fn open_vault(dir: &Path, clock: &TestClock) -> TestVault {
    try_open(dir, PASSWORD, clock).unwrap()
}

pub fn try_open(dir: &Path, password: &str, clock: &TestClock) -> Result<TestVault, vault::Error> {
    let locked = vault::Locked::find(ThisMachine::with_clock(dir, clock.clone())).unwrap();
    locked.unlock(&secret(password))
}

pub fn secret(password: &str) -> Secret {
    Secret::Password(Password::new(password).unwrap())
}

/// A second device's vault, from the mirror.
pub fn clone_vault(dir: &Path, name: &str, clock: &TestClock, remote: &impl Remote) -> TestVault {
    try_clone(dir, name, PASSWORD, clock, remote).unwrap()
}

pub fn try_clone(
    dir: &Path,
    name: &str,
    password: &str,
    clock: &TestClock,
    remote: &impl Remote,
) -> Result<TestVault, vault::Error> {
    let introduction = block_on(sync::introduce(remote)).unwrap();
    let host = ThisMachine::with_clock(dir, clock.clone());
    let (id, key_files) = (introduction.vault, introduction.key_files);
    vault::create_from_mirror(host, id, &key_files, &secret(password), name)
}

/// Two devices that have met on a mirror, the first of which had these entries.
pub fn meet(
    dirs: [&Path; 2],
    clocks: &[TestClock; 2],
    remote: &impl Remote,
    titles: &[&str],
) -> [TestVault; 2] {
    let mut a = new_vault(dirs[0], "laptop", &clocks[0]);
    set_remote(&mut a);
    for title in titles {
        add(&mut a, title);
    }
    sync(&mut a, remote);
    let mut b = clone_vault(dirs[1], "desktop", &clocks[1], remote);
    set_remote(&mut b);
    sync(&mut b, remote);
    sync(&mut a, remote);
    [a, b]
}

/// Two devices that have met on a mirror in memory.
pub struct Two {
    pub dirs: [tempfile::TempDir; 2],
    pub clocks: [TestClock; 2],
    pub a: TestVault,
    pub b: TestVault,
    pub remote: MemoryRemote,
}

/// The same, the first of which had these entries.
pub fn two(titles: &[&str]) -> Two {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let clocks = [TestClock::at(NOW), TestClock::at(NOW)];
    let remote = MemoryRemote::new();
    let [a, b] = meet([dirs[0].path(), dirs[1].path()], &clocks, &remote, titles);
    Two { dirs, clocks, a, b, remote }
}

/// A sync that looks at everything.
pub const FULL: Options = Options { full: true, ..Options::DEFAULT };

/// Tells a vault that it has a mirror; which one, the test hands to each sync.
pub fn set_remote<H: Host>(vault: &mut Vault<H>) {
    vault.set_remote(&RemoteSettings::new("memory")).unwrap();
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn try_sync<H: Host>(
    vault: &mut Vault<H>,
    remote: &impl Remote,
    options: Options,
) -> (Result<Report, sync::Error>, Vec<Finding>) {
    let mut findings = Vec::new();
    let result = block_on(sync::sync(vault, remote, options, &mut findings));
    (result, findings)
}

pub fn sync<H: Host>(vault: &mut Vault<H>, remote: &impl Remote) -> Report {
    try_sync(vault, remote, Options::default()).0.unwrap()
}

pub fn text(title: &str, body: &str) -> Content {
    Content::markdown(title, body, NOW)
}

pub fn add<H: Host>(vault: &mut Vault<H>, title: &str) -> EntryId {
    let change = Change::Content(text(title, &format!("body of {title}")));
    let edit = Edit { entry: None, made_on: MadeOn::Everything, change };
    vault.save(&[edit]).unwrap()[0].entry
}

/// Many entries in one batch.
pub fn add_many<H: Host>(vault: &mut Vault<H>, count: usize) -> Vec<EntryId> {
    let edits = (0..count).map(|n| {
        let change = Change::Content(text(&format!("entry {n}"), &format!("body of entry {n}")));
        Edit { entry: None, made_on: MadeOn::Everything, change }
    });
    let saved = vault.save(&edits.collect::<Vec<_>>()).unwrap();
    saved.into_iter().map(|saved| saved.entry).collect()
}

pub fn edit<H: Host>(vault: &mut Vault<H>, entry: EntryId, title: &str) {
    let current = vault.entry(entry).unwrap().version.id;
    let change = Change::Content(text(title, &format!("body of {title}")));
    vault.save(&[Edit { entry: Some(entry), made_on: MadeOn::Version(current), change }]).unwrap();
}

pub fn delete<H: Host>(vault: &mut Vault<H>, entry: EntryId) {
    let current = vault.entry(entry).unwrap().version.id;
    let edit = Edit { entry: Some(entry), made_on: MadeOn::Version(current), change: Change::Delete };
    vault.save(&[edit]).unwrap();
}

pub fn titles<H: Host>(vault: &mut Vault<H>) -> Vec<String> {
    let entries = vault.entries().unwrap();
    let live = entries.iter().filter(|entry| !entry.deleted());
    let mut titles = live.map(|entry| entry.summary.title.clone()).collect::<Vec<_>>();
    titles.sort();
    titles
}

/// Copies a directory and everything below it into `to`, which exists.
pub fn copy_dir(from: &Path, to: &Path) {
    for item in walkdir::WalkDir::new(from).min_depth(1) {
        let item = item.unwrap();
        let path = to.join(item.path().strip_prefix(from).unwrap());
        if item.file_type().is_dir() {
            std::fs::create_dir_all(&path).unwrap();
        } else {
            std::fs::copy(item.path(), &path).unwrap();
        }
    }
}

/// A pack of these objects, and where each begins in it.
pub fn pack_of<B: AsRef<[u8]>>(objects: &[(ObjectName, B)]) -> (Vec<u8>, Vec<u64>) {
    let mut pack = pack::Builder::default();
    objects.iter().for_each(|(name, bytes)| pack.add(*name, bytes.as_ref()));
    pack.finish()
}
