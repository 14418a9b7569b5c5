//! Two folders, each the mirror of one device, and a copier between them that knows nothing of mirrors: it brings files
//! late, out of order and in halves, leaves temporary files and "conflicted copies" about, and deletes nothing.

#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::cli::temp_dir;
use crate::common::dice::Dice;
use crate::common::*;
use espejo::entry::{Attachment, Content};
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::id::{EntryId, VersionId};
use espejo::remote::{FolderRemote, Retrying};
use espejo::sync::{self, Options, Report};
use espejo::vault::{self, Change, Edit, NewVault};
use espejo::version::MadeOn;
use tempfile::TempDir;
use zeroize::Zeroizing;

const HOUR_MS: i64 = 60 * 60 * 1_000;
const SEEDS: u64 = 40;
const STEPS: usize = 60;

/// What the copier has not finished, from one folder to the other.
#[derive(Default)]
struct Copier {
    /// Half of them is there.
    halves: BTreeSet<PathBuf>,
    /// What it left about. Nobody else writes or removes such names.
    junk: BTreeSet<PathBuf>,
}

/// Files and directories below `dir`, as paths relative to it.
fn items(dir: &Path) -> Vec<(PathBuf, bool)> {
    let walk = walkdir::WalkDir::new(dir).min_depth(1).sort_by_file_name().into_iter().map(Result::unwrap);
    walk.map(|it| (it.path().strip_prefix(dir).unwrap().to_owned(), it.file_type().is_dir())).collect()
}

impl Copier {
    /// Files that are on one side, and not in full on the other.
    fn waiting(&self, from: &Path, to: &Path) -> Vec<PathBuf> {
        let files = items(from).into_iter().filter(|(_, is_dir)| !is_dir).map(|(path, _)| path);
        let copied = files.filter(|path| !is_temporary(path) && !self.junk.contains(path));
        copied.filter(|path| self.halves.contains(path) || !to.join(path).exists()).collect()
    }

    /// Carries some of what is waiting, in any order.
    fn carry(&mut self, from: &Path, to: &Path, dice: &mut Dice) {
        let mut waiting = self.waiting(from, to);
        dice.shuffle(&mut waiting);
        waiting.truncate(dice.below(waiting.len() + 1));
        for path in waiting {
            let bytes = std::fs::read(from.join(&path)).unwrap();
            let target = to.join(&path);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let half = &bytes[..bytes.len() / 2];
            // A copy of a copy of a copy would have too long a name.
            let tricks = if name.len() < 150 { 6 } else { 1 };
            match dice.below(6).min(tricks) {
                // It grows under its own name.
                0 => {
                    std::fs::write(&target, half).unwrap();
                    self.halves.insert(path);
                    continue;
                }
                1 => self.leave(to, path.with_file_name(format!(".syncthing.{name}.tmp")), half),
                2 => {
                    let copy = format!("{name}.sync-conflict-20261122-120000-ABCDEFG");
                    self.leave(to, path.with_file_name(copy), &bytes);
                }
                3 => {
                    let copy = format!("{name} (ada's conflicted copy 2026-11-22)");
                    self.leave(to, path.with_file_name(copy), half);
                }
                _ => {}
            }
            std::fs::write(&target, &bytes).unwrap();
            self.halves.remove(&path);
        }
    }

    fn leave(&mut self, side: &Path, path: PathBuf, bytes: &[u8]) {
        std::fs::write(side.join(&path), bytes).unwrap();
        self.junk.insert(path);
    }
}

/// What is still being written by Espejo itself.
fn is_temporary(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with('.')
}

struct Device {
    _dir: TempDir,
    /// Its side of the replicated folder.
    mirror: PathBuf,
    clock: TestClock,
    vault: TestVault,
}

impl Device {
    fn sync(&mut self) -> Report {
        self.clock.advance(60_000);
        let remote = Retrying::new(FolderRemote::new(self.mirror.clone()), self.clock.clone());
        let (result, findings) = try_sync(&mut self.vault, &remote, Options::default());
        result.unwrap_or_else(|error| panic!("{error} {findings:?}"))
    }

    fn sync_after(&mut self, hours: usize) {
        self.clock.advance(hours as i64 * HOUR_MS);
        self.sync();
    }

    fn entries(&mut self) -> Vec<EntryId> {
        let entries = self.vault.entries().unwrap();
        entries.into_iter().filter(|it| !it.deleted()).map(|it| it.id()).collect()
    }

    /// Adds, edits or deletes something; gives the versions that were saved.
    fn write(&mut self, dice: &mut Dice) -> Vec<VersionId> {
        let entries = self.entries();
        let many = if dice.below(8) == 0 { 10 } else { 1 };
        let edits = (0..many).map(|_| match dice.below(4) {
            1 if !entries.is_empty() => {
                let entry = entries[dice.below(entries.len())];
                let made_on = MadeOn::Version(self.vault.entry(entry).unwrap().version.id);
                let change = Change::Content(text("edited", &format!("{:x}", dice.next())));
                Edit { entry: Some(entry), made_on, change }
            }
            2 if many == 1 && entries.len() > 5 => {
                let entry = entries[dice.below(entries.len())];
                let made_on = MadeOn::Version(self.vault.entry(entry).unwrap().version.id);
                Edit { entry: Some(entry), made_on, change: Change::Delete }
            }
            _ => {
                Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(self.content(dice)) }
            }
        });
        let edits = edits.collect::<Vec<_>>();
        self.vault.save(&edits).unwrap().into_iter().map(|saved| saved.version).collect()
    }

    fn content(&mut self, dice: &mut Dice) -> Content {
        let mut content = text("new", &format!("{:x}", dice.next()));
        if dice.below(4) == 0 {
            let blob = self.vault.store_blob(&mut &dice.bytes(30_000)[..]).unwrap();
            let media_type = "application/octet-stream".to_owned();
            content.attachments.push(Attachment { name: "data".to_owned(), media_type, blob });
        }
        content
    }

    /// Everything it holds: entries, what is shown of them, and every version that is here.
    fn state(&mut self) -> Vec<(EntryId, VersionId, Vec<VersionId>, BTreeSet<VersionId>)> {
        let entries = self.vault.entries().unwrap();
        let states = entries.into_iter().map(|it| {
            let history = self.vault.history(it.id()).unwrap();
            let here = history.iter().filter(|version| version.opened).map(|version| version.version.id);
            (it.id(), it.version.id, it.losers.clone(), here.collect())
        });
        let mut states = states.collect::<Vec<_>>();
        states.sort();
        states
    }
}

/// The first device's vault, made once: only this costs a password.
struct First {
    dir: TempDir,
    recovery: Zeroizing<[u8; 32]>,
}

impl First {
    fn new() -> Self {
        let dir = temp_dir();
        let new = NewVault {
            password: password(),
            recovery: true,
            device_name: "laptop".to_owned(),
            iterations: espejo::crypto::MIN_WRITTEN_ITERATIONS,
        };
        let created = vault::create(ThisMachine::with_clock(dir.path(), TestClock::at(NOW)), &new).unwrap();
        Self { dir, recovery: created.recovery.unwrap() }
    }

    fn secret(&self) -> Secret {
        Secret::Recovery(self.recovery.clone())
    }

    fn open(&self, mirror: &Path) -> Device {
        let (dir, clock) = (temp_dir(), TestClock::at(NOW));
        copy_dir(self.dir.path(), dir.path());
        let host = ThisMachine::with_clock(dir.path(), clock.clone());
        let mut vault = vault::Locked::find(host).unwrap().unlock(&self.secret()).unwrap();
        set_remote(&mut vault);
        Device { _dir: dir, mirror: mirror.to_owned(), clock, vault }
    }

    fn clone_from(&self, mirror: &Path, name: &str) -> Device {
        let (dir, clock) = (temp_dir(), TestClock::at(NOW));
        let introduction = block_on(sync::introduce(&FolderRemote::new(mirror.to_owned()))).unwrap();
        let host = ThisMachine::with_clock(dir.path(), clock.clone());
        let (id, key_files) = (introduction.vault, &introduction.key_files);
        let mut vault = vault::create_from_mirror(host, id, key_files, &self.secret(), name).unwrap();
        set_remote(&mut vault);
        Device { _dir: dir, mirror: mirror.to_owned(), clock, vault }
    }
}

/// One seed: two devices write while the copier dawdles, then it is left to finish.
fn replicate(first: &First, seed: u64) -> (usize, usize) {
    let mut dice = Dice(seed);
    let sides = [temp_dir(), temp_dir()];
    let [here, there] = [0, 1].map(|side| sides[side].path().join("journal"));
    let mut a = first.open(&here);
    a.write(&mut dice);
    a.sync();
    copy_dir_new(&here, &there);
    let mut b = first.clone_from(&there, "desktop");
    b.sync();

    let (mut to_b, mut to_a) = (Copier::default(), Copier::default());
    let mut written = BTreeSet::new();
    for _ in 0..STEPS {
        match dice.below(8) {
            0 | 1 => written.extend(a.write(&mut dice)),
            2 | 3 => written.extend(b.write(&mut dice)),
            4 => a.sync_after(dice.below(8)),
            5 => b.sync_after(dice.below(8)),
            6 => to_b.carry(&here, &there, &mut dice),
            _ => to_a.carry(&there, &here, &mut dice),
        }
    }
    // The copier comes to an end, and so do the devices.
    for _ in 0..3 {
        a.sync();
        b.sync();
        for _ in 0..1_000 {
            to_b.carry(&here, &there, &mut dice);
            to_a.carry(&there, &here, &mut dice);
            if to_b.waiting(&here, &there).is_empty() && to_a.waiting(&there, &here).is_empty() {
                break;
            }
        }
    }
    assert_eq!(to_b.waiting(&here, &there), [] as [PathBuf; 0]);
    assert_eq!(to_a.waiting(&there, &here), [] as [PathBuf; 0]);
    for device in [&mut a, &mut b] {
        let name = device.vault.device().name.clone();
        assert!(device.sync().is_settled(), "{name}");
        let idle = device.sync();
        assert!(idle.is_idle() && idle.requests == 1, "{name}: {idle:?}");
        let check = device.vault.check().unwrap();
        assert!(check.is_clean() && check.adopted == 0, "{name}: {check:?}");
    }
    let state = a.state();
    assert_eq!(state, b.state());
    let held = state.iter().flat_map(|it| it.3.iter().copied()).collect::<BTreeSet<_>>();
    assert!(held.is_superset(&written), "what was saved is everywhere");
    for (side, copier) in [(&there, &to_b), (&here, &to_a)] {
        for junk in &copier.junk {
            assert!(side.join(junk).exists(), "{} was removed", junk.display());
        }
        let mut c = first.clone_from(side, "tablet");
        assert!(c.sync().is_settled());
        assert_eq!(c.state(), state);
    }
    (written.len(), to_a.junk.len() + to_b.junk.len())
}

fn copy_dir_new(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    copy_dir(from, to);
}

#[test]
fn two_folders_and_a_dumb_copier_between_them_come_together() {
    let first = First::new();
    let (mut versions, mut junk) = (0, 0);
    for seed in 0..SEEDS {
        // Shown by libtest if the seed fails.
        println!("seed {seed}");
        let (more_versions, more_junk) = replicate(&first, seed);
        versions += more_versions;
        junk += more_junk;
    }
    println!("{SEEDS} seeds, {versions} versions, {junk} files left about");
    assert!(versions > 1_000 && junk > 500);
}
