//! What a hundred thousand entries change, and what they must not: counted, not timed.

use std::cell::Cell;
use std::io;
use std::path::Path;

use crate::common::*;
use espejo::entropy::OsEntropy;
use espejo::event::Finding;
use espejo::format::keyfile::Secret;
use espejo::fs::{DiskFs, VaultFs};
use espejo::host::Host;
use espejo::vault::{self, Change, Edit, Locked, Vault};
use espejo::version::MadeOn;

/// A disk that counts what is asked of it.
struct CountingFs {
    disk: DiskFs,
    bytes_written: Cell<u64>,
    writes: Cell<u64>,
    bytes_read: Cell<u64>,
    objects_read: Cell<u64>,
    /// The object read that finds a flipped bit.
    spoils: Cell<Option<u64>>,
}

impl CountingFs {
    fn wrote(&self, files: u64, bytes: usize) {
        self.writes.set(self.writes.get() + files);
        self.bytes_written.set(self.bytes_written.get() + bytes as u64);
    }

    fn did_read(&self, name: &str, bytes: &mut [u8]) {
        self.bytes_read.set(self.bytes_read.get() + bytes.len() as u64);
        if name.starts_with("objects/") {
            self.objects_read.set(self.objects_read.get() + 1);
            if self.spoils.get() == Some(self.objects_read.get()) {
                bytes[3_000] ^= 1;
            }
        }
    }
}

impl VaultFs for CountingFs {
    type Lock = <DiskFs as VaultFs>::Lock;

    fn read_into(&self, name: &str, max_bytes: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.disk.read_into(name, max_bytes, bytes)?;
        self.did_read(name, bytes);
        Ok(())
    }

    fn read_at(&self, name: &str, offset: u64, len_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.disk.read_at(name, offset, len_bytes)?;
        self.did_read(name, &mut bytes);
        Ok(bytes)
    }

    fn len(&self, name: &str) -> io::Result<Option<u64>> {
        self.disk.len(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, files: &[(String, &[u8])], durable: bool) -> io::Result<()> {
        files.iter().for_each(|(_, bytes)| self.wrote(1, bytes.len()));
        self.disk.create(files, durable)
    }

    fn birthmark(&self, name: &str) -> Option<String> {
        self.disk.birthmark(name)
    }

    fn make_dir(&self, dir: &str) -> io::Result<bool> {
        self.disk.make_dir(dir)
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }

    fn temp_name(&self) -> String {
        self.disk.temp_name()
    }

    fn move_file(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.move_file(from, to)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.wrote(1, bytes.len());
        self.disk.append(name, at, bytes)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn try_lock(&self, name: &str) -> io::Result<Option<Self::Lock>> {
        self.disk.try_lock(name)
    }
}

struct CountingHost {
    fs: CountingFs,
    clock: TestClock,
}

impl Host for CountingHost {
    type Fs = CountingFs;
    type Clock = TestClock;
    type Entropy = OsEntropy;

    fn fs(&self) -> &CountingFs {
        &self.fs
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn entropy(&self) -> &OsEntropy {
        &OsEntropy
    }
}

fn open_counting(dir: &Path) -> Vault<CountingHost> {
    find_counting(dir).unlock(&Secret::Password(password())).unwrap()
}

fn find_counting(dir: &Path) -> Locked<CountingHost> {
    let fs = CountingFs {
        disk: DiskFs::new(dir),
        bytes_written: Cell::new(0),
        writes: Cell::new(0),
        bytes_read: Cell::new(0),
        objects_read: Cell::new(0),
        spoils: Cell::new(None),
    };
    let host = CountingHost { fs, clock: TestClock::at(NOW) };
    Locked::find(host).unwrap()
}

fn new_entry(title: &str) -> Edit {
    Edit {
        entry: None,
        made_on: MadeOn::Everything,
        change: Change::Content(text(title, "a body of some words")),
    }
}

/// A hundred thousand syncs of a real disk would show nothing that is counted here.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn fill(dir: &Path, entries: usize) {
    let mut vault = new_vault(dir, "laptop", &TestClock::at(NOW));
    for start in (0..entries).step_by(5_000) {
        let batch = (start..entries.min(start + 5_000)).map(|n| new_entry(&format!("entry {n}")));
        vault.save(&batch.collect::<Vec<_>>()).unwrap();
    }
}

/// Bytes written, files written and bytes read by adding one entry to a vault just opened.
fn cost_of_adding(dir: &Path) -> (u64, u64, u64) {
    let mut vault = open_counting(dir);
    let before = vault.host().fs.bytes_read.get();
    vault.save(&[new_entry("one more")]).unwrap();
    let fs = &vault.host().fs;
    assert_eq!(fs.objects_read.get(), 0);
    (fs.bytes_written.get(), fs.writes.get(), fs.bytes_read.get() - before)
}

/// A vault of so many entries whose titles are as long, and one more before and after them.
fn with_titles(entries: usize, words: usize) -> (tempfile::TempDir, TestClock) {
    let dir = crate::common::cli::temp_dir();
    let clock = TestClock::at(NOW);
    let mut vault = new_vault(dir.path(), "laptop", &clock);
    let edit = |n: usize| new_entry(&format!("{n} {}", "a long title ".repeat(words)));
    add(&mut vault, "before");
    vault.save(&(0..entries).map(edit).collect::<Vec<_>>()).unwrap();
    add(&mut vault, "after");
    (dir, clock)
}

#[test]
fn a_long_index_is_read_and_not_made_again_unless_it_is_damaged_anywhere() {
    // A frame of more than is read at once; many that are read several at once.
    for (entries, words, min_bytes) in [(1_500, 80, 1 << 20), (6_000, 1, 600_000)] {
        let (dir, clock) = with_titles(entries, words);
        let index = dir.path().join("local/manifest");
        let whole = std::fs::read(&index).unwrap();
        assert!(whole.len() > min_bytes, "{}", whole.len());
        let findings = || {
            let mut vault = open_vault(dir.path(), &clock);
            assert_eq!(vault.entries().unwrap().len(), entries + 2);
            vault.take_findings()
        };
        assert_eq!(findings(), []);

        let damage = |bytes: &[u8]| {
            // If there is one: it would tell that the index was longer.
            let _ = std::fs::remove_file(dir.path().join("local/status"));
            std::fs::write(&index, bytes).unwrap();
        };
        let made_again = [Finding::ManifestRebuilt { entries: entries + 2 }];
        for eighth in 1..8 {
            let at = whole.len() * eighth / 8;
            damage(&whole[..at]);
            assert_eq!(findings(), made_again, "cut off at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            damage(&flipped);
            assert_eq!(findings(), made_again, "a flipped bit at {at}");
        }
    }
}

#[test]
fn adding_one_entry_costs_the_same_in_a_vault_of_any_size() {
    let dirs = [memory_dir(), memory_dir()];
    fill(dirs[0].path(), 100);
    fill(dirs[1].path(), 100_000);
    // The first addition after a bulk of them still looks at that bulk, the last thing written.
    for dir in &dirs {
        cost_of_adding(dir.path());
    }
    let [small, large] = [cost_of_adding(dirs[0].path()), cost_of_adding(dirs[1].path())];
    assert!(large.0 * 2 <= small.0 * 3, "bytes written: {} against {}", large.0, small.0);
    assert_eq!(large.1, small.1, "files written and synced");
    assert!(large.2 * 2 <= small.2 * 3, "bytes read: {} against {}", large.2, small.2);

    let mut vault = open_counting(dirs[1].path());
    assert_eq!(vault.entries().unwrap().len(), 100_002);
    assert_eq!(vault.host().fs.objects_read.get(), 0, "the list opens no object");
}

#[test]
fn a_vault_in_the_first_schema_opens_at_once_however_large_it_is() {
    let Some(older) = older::first_schema() else { return };
    let dir = memory_dir();
    let notes = dir.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    for n in 0..10_000 {
        std::fs::write(notes.join(format!("note {n}.md")), format!("what was written, {n}")).unwrap();
    }
    let path = dir.path().join("vault");
    let arg = path.to_str().unwrap();
    cli::run_with(older, &path, &["init", arg, "--device-name", "old", "--no-recovery"]).exits(0);
    cli::run_with(older, &path, &["import", "markdown", notes.to_str().unwrap()]).exits(0);

    let mut vault = open_counting(&path);
    let objects_read = |vault: &Vault<CountingHost>| vault.host().fs.objects_read.get();
    let entries = vault.entries().unwrap();
    assert_eq!((entries.len(), entries[0].schema), (10_000, 1));
    assert_eq!(objects_read(&vault), 0, "nothing is read to open it and to list what is in it");
    let entry = &entries[5_000];
    vault.content(entry.version.id).unwrap().unwrap();
    vault.migrate(&[entry.version.id]).unwrap();
    // To show it, to store it anew, and to read back what was stored.
    assert_eq!(objects_read(&vault), 3);
    // What does not read back as it was written is not taken for the entry, and everything is as it was.
    let next = &entries[5_001];
    let files = cli::files(&path.join("objects")).len();
    vault.host().fs.spoils.set(Some(5));
    let error = vault.migrate(&[next.version.id]).unwrap_err();
    assert!(matches!(error, vault::Error::Damaged { .. }), "{error}");
    assert_eq!(cli::files(&path.join("objects")).len(), files);
    assert_eq!(vault.entry(next.id()).unwrap().schema, 1);
    vault.content(next.version.id).unwrap().unwrap();
    let content = Change::Content(text("edited", "today"));
    let edit = Edit { entry: Some(entry.id()), made_on: MadeOn::Version(entry.version.id), change: content };
    vault.save(&[edit]).unwrap();
    assert_eq!(objects_read(&vault), 6, "an edit reads nothing of the others");
    assert_eq!(vault.outdated().unwrap().len(), 9_999);
}
