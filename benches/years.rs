//! What a mirror becomes in ten years of daily use, and what a clone of it costs: `cargo bench --bench years`.
//!
//! Time is set, not waited for; the mirror is in memory and counts what it is asked. Each day a new entry, one edit of it
//! and one of yesterday's, each synced at once, and in the evening a sync of the other device, which edits something once a
//! week. The first row of each year is the program as it is; the second is one that leaves small files as they are.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use espejo::clock::Clock;
use espejo::crypto::{MIN_WRITTEN_ITERATIONS, Password};
use espejo::entry::Content;
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::id::EntryId;
use espejo::remote::{MemoryRemote, Remote};
use espejo::sync::{self, Options};
use espejo::vault::{self, Change, Edit, NewVault, RemoteSettings, Vault};
use espejo::version::MadeOn;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const YEARS: u32 = 10;
const HOUR_MS: i64 = 60 * 60 * 1_000;

/// A clock that stands still until it is set. Every look at it takes a millisecond.
#[derive(Clone)]
struct SetClock(Rc<Cell<i64>>);

impl SetClock {
    fn advance(&self, ms: i64) {
        self.0.set(self.0.get() + ms);
    }
}

impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        self.advance(1);
        self.0.get()
    }

    async fn sleep(&self, _: Duration) {}
}

struct Device {
    _dir: TempDir,
    vault: Vault<ThisMachine<SetClock>>,
}

struct World {
    runtime: Runtime,
    clock: SetClock,
    mirror: MemoryRemote,
    options: Options,
    devices: Vec<Device>,
}

fn password() -> Password {
    Password::new("correct horse battery staple").expect("not empty")
}

/// Three quarters of a page, and now and then a long one.
fn text(number: usize) -> Content {
    let words = if number.is_multiple_of(10) { 2_000 } else { 60 + number % 300 };
    Content::markdown(format!("day {number}"), "what happened ".repeat(words), 0)
}

impl World {
    fn new(options: Options) -> Self {
        let clock = SetClock(Rc::new(Cell::new(1_790_000_000_000)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut world = Self { runtime, clock, mirror: MemoryRemote::new(), options, devices: Vec::new() };
        let dir = tempfile::tempdir().expect("a directory");
        let new = NewVault {
            password: password(),
            recovery: false,
            device_name: "laptop".to_owned(),
            iterations: MIN_WRITTEN_ITERATIONS,
        };
        let machine = ThisMachine::with_clock(dir.path(), world.clock.clone());
        let vault = vault::create(machine, &new).expect("a new vault").vault;
        world.add(Device { _dir: dir, vault });
        let phone = world.clone_of(&world.mirror.share());
        world.add(phone);
        world
    }

    fn add(&mut self, mut device: Device) {
        device.vault.set_remote(&RemoteSettings::new("memory")).expect("room on the disk");
        self.devices.push(device);
        self.sync(self.devices.len() - 1);
    }

    fn clone_of(&self, mirror: &MemoryRemote) -> Device {
        let dir = tempfile::tempdir().expect("a directory");
        let introduction = self.runtime.block_on(sync::introduce(mirror)).expect("a mirror");
        let machine = ThisMachine::with_clock(dir.path(), self.clock.clone());
        let secret = Secret::Password(password());
        let (id, key_files) = (introduction.vault, introduction.key_files);
        let vault =
            vault::create_from_mirror(machine, id, &key_files, &secret, "phone").expect("the password");
        Device { _dir: dir, vault }
    }

    fn sync(&mut self, device: usize) {
        let mirror = self.mirror.share();
        let vault = &mut self.devices[device].vault;
        let report = self.runtime.block_on(sync::sync(vault, &mirror, self.options, &mut Vec::new()));
        assert!(report.expect("a mirror in memory").is_settled());
    }

    fn write(&mut self, device: usize, entry: Option<EntryId>, number: usize) -> EntryId {
        let edit = Edit { entry, made_on: MadeOn::Everything, change: Change::Content(text(number)) };
        self.devices[device].vault.save(&[edit]).expect("room on the disk")[0].entry
    }

    fn year(&mut self, entries: &mut Vec<EntryId>) {
        for _ in 0..365 {
            let day = entries.len();
            let yesterday = entries.last().copied();
            self.clock.advance(8 * HOUR_MS);
            let today = self.write(0, None, day);
            entries.push(today);
            self.sync(0);
            self.write(0, yesterday, day + 1);
            self.sync(0);
            self.clock.advance(8 * HOUR_MS);
            self.write(0, Some(today), day + 2);
            self.sync(0);
            if day.is_multiple_of(7) {
                self.write(1, Some(entries[day / 2]), day + 3);
            }
            self.clock.advance(8 * HOUR_MS);
            self.sync(1);
        }
    }

    /// What there is after so many years, and what a clone of it costs.
    fn report(&self, years: u32, what: &str) {
        let files = self.mirror.files();
        let count = |dir: &str| files.keys().filter(|name| name.starts_with(dir)).count();
        let bytes = files.values().map(|file| file.len() as u64).sum::<u64>();
        let mirror = self.mirror.share();
        let mut device = self.clone_of(&mirror);
        device.vault.set_remote(&RemoteSettings::new("memory")).expect("room on the disk");
        let mut findings = Vec::new();
        let sync = sync::sync(&mut device.vault, &mirror, self.options, &mut findings);
        let report = self.runtime.block_on(sync).expect("a mirror in memory");
        let traffic = mirror.traffic();
        println!(
            "| {years} | {what} | {} | {} | {} | {:.1} MB | {} | {:.1} MB |",
            report.pulled,
            count("objects/"),
            count("feeds/"),
            bytes as f64 / 1e6,
            traffic.requests,
            traffic.bytes_down as f64 / 1e6,
        );
    }
}

fn main() {
    println!(
        "| years | | versions | object files | feed segments | mirror | requests of a clone | bytes down |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let as_it_is = World::new(Options::DEFAULT);
    let left_alone = World::new(Options { small_files: usize::MAX, ..Options::DEFAULT });
    let mut worlds = [("espejo", as_it_is, Vec::new()), ("without packs", left_alone, Vec::new())];
    for year in 1..=YEARS {
        for (what, world, entries) in &mut worlds {
            world.year(entries);
            world.report(year, what);
        }
    }
}
