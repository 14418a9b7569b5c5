//! Damage of every kind, on either side: named, and made good from wherever an intact copy is, and from nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::cli::{Cli, fields, files, temp_dir, text_of};
use crate::common::dice::Dice;
use crate::common::*;
use bytes::Bytes;
use espejo::crypto::{MIN_WRITTEN_ITERATIONS, object_name};
use espejo::entry::{Attachment, Content, PART_BYTES};
use espejo::event::{Damage, Finding};
use espejo::format::feed::SegmentName;
use espejo::format::keyfile::Secret;
use espejo::format::object::{open_version, seal_version};
use espejo::host::ThisMachine;
use espejo::id::{EntryId, ObjectName};
use espejo::remote::{MemoryRemote, RemotePath};
use espejo::sync::{RepairOptions, RepairReport, Share, Source, Thing, repair, scrub};
use espejo::vault::{self, Backup, Change, Edit, Locked, NewVault, Remedy};
use espejo::version::MadeOn;
use serde_json::json;
use zeroize::Zeroizing;

/// A small vault with something of everything. The recovery key opens it: that is cheap.
struct World {
    temp: tempfile::TempDir,
    recovery: Zeroizing<[u8; 32]>,
    remote: MemoryRemote,
    vault: BTreeMap<PathBuf, Vec<u8>>,
    mirror: BTreeMap<String, Bytes>,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Delete,
    Flip,
    Truncate,
}

const ALL: [How; 3] = [How::Delete, How::Flip, How::Truncate];

impl How {
    fn apply(self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Delete => None,
            Self::Flip => {
                let mut flipped = bytes.to_vec();
                // In the marker, a byte of the id and not of its format number.
                flipped[bytes.len() * 2 / 3] ^= 1;
                Some(flipped)
            }
            Self::Truncate => Some(bytes[..bytes.len() / 2].to_vec()),
        }
    }
}

impl World {
    fn new(mirrored: bool) -> Self {
        let temp = temp_dir();
        let clock = TestClock::at(NOW);
        let new = NewVault {
            password: password(),
            recovery: true,
            device_name: "laptop".to_owned(),
            iterations: MIN_WRITTEN_ITERATIONS,
        };
        let created = vault::create(ThisMachine::with_clock(temp.path().join("vault"), clock), &new).unwrap();
        let (mut a, recovery) = (created.vault, created.recovery.unwrap());
        let remote = MemoryRemote::new();
        let entry = add(&mut a, "first");
        edit(&mut a, entry, "first, edited");
        let attachment = Attachment {
            name: "note.txt".to_owned(),
            media_type: "text/plain".to_owned(),
            blob: a.store_blob(&mut &b"what is attached"[..]).unwrap(),
        };
        let content = Content { attachments: vec![attachment], ..text("second", "with an attachment") };
        let change = Change::Content(content);
        a.save(&[Edit { entry: None, made_on: MadeOn::Everything, change }]).unwrap();
        if mirrored {
            set_remote(&mut a);
            sync(&mut a, &remote);
            // A second device, so that there are announcements of others.
            let dir = tempfile::tempdir().unwrap();
            let mut b = clone_vault(dir.path(), "desktop", &TestClock::at(NOW), &remote);
            set_remote(&mut b);
            sync(&mut b, &remote);
            add_many(&mut b, 10);
            sync(&mut b, &remote);
            sync(&mut a, &remote);
        }
        a.check().unwrap();
        drop(a);
        let vault = files(&temp.path().join("vault"));
        let mirror = remote.files();
        Self { temp, recovery, remote, vault, mirror }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.temp.path().join("vault").join(name)
    }

    fn open(&self) -> Result<TestVault, vault::Error> {
        let host = ThisMachine::with_clock(self.path(""), TestClock::at(NOW + 60_000));
        Locked::find(host)?.unlock(&Secret::Recovery(self.recovery.clone()))
    }

    fn restore(&self) {
        for name in files(&self.path("")).into_keys().filter(|name| !self.vault.contains_key(name)) {
            fs::remove_file(self.path(name)).unwrap();
        }
        for (name, bytes) in &self.vault {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), bytes).unwrap();
        }
        for name in self.remote.files().into_keys().filter(|name| !self.mirror.contains_key(name)) {
            self.remote.remove_file(&at(&name));
        }
        for (name, bytes) in &self.mirror {
            self.remote.set_file(&at(name), bytes.clone());
        }
    }

    fn damage(&self, name: &Path, how: How) {
        match how.apply(&self.vault[name]) {
            None => fs::remove_file(self.path(name)).unwrap(),
            Some(bytes) => fs::write(self.path(name), bytes).unwrap(),
        }
    }

    fn damage_mirror(&self, name: &str, how: How) {
        match how.apply(&self.mirror[name]) {
            None => assert!(self.remote.remove_file(&at(name))),
            Some(bytes) => self.remote.set_file(&at(name), bytes.into()),
        }
    }

    /// The vault's files, each with each damage, but for what no damage can be told of.
    fn cases(&self) -> Vec<(PathBuf, How)> {
        let names = self.vault.keys().filter(|name| !name.ends_with("status") && !name.ends_with("activity"));
        // Without its marker a directory is no vault: copied back from the mirror or a backup it is one again.
        let is_vault =
            |(name, how): &(PathBuf, How)| !(name.ends_with("espejo.json") && matches!(how, How::Delete));
        names.flat_map(|name| ALL.map(|how| (name.clone(), how))).filter(is_vault).collect()
    }
}

fn at(text: &str) -> RemotePath {
    RemotePath::new(text).unwrap()
}

const REPAIR: RepairOptions = RepairOptions { dry_run: false, needs_mirror: true, revert: false };
const LOCAL: RepairOptions = RepairOptions { dry_run: false, needs_mirror: false, revert: false };

fn from_mirror(vault: &mut TestVault, remote: &MemoryRemote, options: RepairOptions) -> RepairReport {
    block_on(repair(vault, Some(remote), None, options, &mut Vec::new())).unwrap()
}

fn from_here(vault: &mut TestVault, backup: Option<&Backup>, options: RepairOptions) -> RepairReport {
    block_on(repair(vault, None::<&MemoryRemote>, backup, options, &mut Vec::new())).unwrap()
}

/// What opening a vault mends and says at once, by the file it mends.
fn is_mended(finding: &Finding, name: &Path) -> bool {
    match finding {
        Finding::KeyFileRestored => name.starts_with("keys") || name.ends_with("key"),
        Finding::MarkerRestored => name.ends_with("espejo.json"),
        Finding::IdentityLost => name.ends_with("device"),
        Finding::ManifestRebuilt { .. } => name.ends_with("manifest"),
        _ => false,
    }
}

/// Damages one file, looks whether it is named, repairs, and looks again.
fn heal_one(world: &World, name: &Path, how: How, heal: impl Fn(&mut TestVault) -> RepairReport) {
    let place = format!("{} {how:?}", name.display());
    world.restore();
    world.damage(name, how);
    let mut vault = world.open().unwrap_or_else(|error| panic!("{place}: {error}"));
    let report = vault.inspect().unwrap().report;
    let mended = vault.take_findings().iter().any(|finding| is_mended(finding, name));
    let file = name.file_name().unwrap().to_str().unwrap();
    let objects = report.corrupt.iter().map(|(object, ..)| *object);
    let objects = objects.chain(report.missing.iter().map(|(object, _)| *object));
    let named = objects.map(|object| object.to_string()).any(|object| object == file)
        || report.files.iter().any(|it| name.to_str().unwrap().starts_with(&it.file));
    if !named && name.ends_with("sync") && matches!(how, How::Delete) {
        // Without it the next sync looks closer, and that is all.
        return;
    }
    assert!(mended || named, "not named: {place}: {report:?}");
    if name.ends_with("remote") {
        assert_eq!(report.files[0].remedy, Remedy::SetRemote, "{place}");
        return;
    }
    let repaired = heal(&mut vault);
    assert_eq!(repaired.unrepaired, [], "{place}");
    assert_eq!(repaired.repaired.len(), usize::from(!mended), "{place}: {repaired:?}");
    let after = vault.inspect().unwrap().report;
    assert!(after.is_clean(), "not healed: {place}: {after:?}");
    if name.starts_with("objects") || name.starts_with("keys") || name.ends_with("key") {
        assert_eq!(fs::read(world.path(name)).unwrap(), world.vault[name], "{place}");
    }
    assert_eq!(after.objects as usize, world.vault.keys().filter(|name| name.starts_with("objects")).count());
}

#[test]
fn every_file_of_a_vault_is_named_and_healed_from_the_mirror() {
    let world = World::new(true);
    let cases = world.cases();
    for (name, how) in &cases {
        heal_one(&world, name, *how, |vault| from_mirror(vault, &world.remote, REPAIR));
    }
    assert!(cases.len() > 60, "{}", cases.len());
}

#[test]
fn every_file_of_a_vault_is_named_and_healed_from_a_backup() {
    let world = World::new(false);
    let path = world.temp.path().join("b.tar");
    world.open().unwrap().backup(&path).unwrap();
    let cases = world.cases();
    for (name, how) in &cases {
        heal_one(&world, name, *how, |vault| {
            let backup = Backup::of_vault(&path, vault.keyring()).unwrap();
            from_here(vault, Some(&backup), LOCAL)
        });
    }
    assert!(cases.len() >= 24, "{}", cases.len());
}

#[test]
fn every_file_of_a_mirror_is_named_and_healed_from_a_device() {
    let world = World::new(true);
    let mut cases = 0;
    for name in world.mirror.keys() {
        for how in ALL {
            let place = format!("{name} {how:?}");
            world.restore();
            world.damage_mirror(name, how);
            let mut vault = world.open().unwrap();
            let found = match block_on(scrub(&mut vault, &world.remote, Share::ALL)) {
                Ok(report) => report,
                // A marker that names another vault is another vault's, as far as can be told: nothing is touched.
                Err(error) if name == "espejo.json" && matches!(how, How::Flip) => {
                    assert!(error.to_string().contains("another vault"), "{error}");
                    continue;
                }
                Err(error) => panic!("{place}: {error}"),
            };
            let named = found.bad.iter().map(|bad| bad.file.clone()).collect::<Vec<_>>();
            if is_repeated(name, &world.mirror) {
                assert_eq!(named, [""; 0], "{place}");
                continue;
            }
            assert_eq!(named, std::slice::from_ref(name), "{place}");
            let report = from_mirror(&mut vault, &world.remote, REPAIR);
            assert_eq!(report.unrepaired, [], "{place}");
            let repaired = report.repaired.iter().map(|it| (&it.thing, it.source)).collect::<Vec<_>>();
            assert_eq!(repaired, [(&Thing::Mirror(name.clone()), Source::Vault)], "{place}");
            let after = block_on(scrub(&mut vault, &world.remote, Share::ALL)).unwrap();
            assert_eq!(after.bad, [], "{place}");
            // Another device gets everything.
            if cases % 5 == 0 {
                let dir = tempfile::tempdir().unwrap();
                let mut c = clone_vault(dir.path(), "tablet", &TestClock::at(NOW), &world.remote);
                set_remote(&mut c);
                assert_eq!(sync(&mut c, &world.remote).pending, 0, "{place}");
                assert_eq!(titles(&mut c), titles(&mut vault), "{place}");
            }
            cases += 1;
        }
    }
    assert!(cases > 20, "{cases}");
}

/// Whether this is a feed segment of which another one holds everything.
fn is_repeated(name: &str, mirror: &BTreeMap<String, Bytes>) -> bool {
    let parse = |name: &str| SegmentName::parse(name.strip_prefix("feeds/")?);
    parse(name).is_some_and(|name| mirror.keys().filter_map(|it| parse(it)).any(|it| it.repeats(&name)))
}

/// A mirrored vault of `count` entries, each object in a file of its own there.
fn singles(count: usize) -> (tempfile::TempDir, TestVault, MemoryRemote, Vec<EntryId>) {
    let dir = temp_dir();
    let remote = MemoryRemote::new();
    let mut vault = new_vault(&dir.path().join("vault"), "laptop", &TestClock::at(NOW));
    set_remote(&mut vault);
    let mut entries = Vec::new();
    while entries.len() < count {
        entries.extend(add_many(&mut vault, 8.min(count - entries.len())));
        sync(&mut vault, &remote);
    }
    (dir, vault, remote, entries)
}

fn object_of(vault: &mut TestVault, entry: EntryId) -> ObjectName {
    *vault.history(entry).unwrap()[0].objects.first().unwrap()
}

/// Only what was verified, and all that comes before.
#[test]
fn of_a_long_attachment_the_first_damage_is_told_and_nothing_after_it_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = new_vault(&dir.path().join("vault"), "laptop", &TestClock::at(NOW));
    // More parts than are opened at once, no two alike, and a short one.
    let bytes = Dice(7).bytes(6 * PART_BYTES + 1_000);
    let blob = vault.store_blob(&mut &bytes[..]).unwrap();
    let part = |n: usize| blob.parts[n].object;
    let file = |n| object_path(dir.path(), part(n));
    let mut read = || {
        let mut out = Vec::new();
        let told = vault.read_blob(&blob, &mut out).map_err(|error| match error {
            vault::Error::Damaged { object, problem, .. } => (object, problem),
            other => panic!("{other}"),
        });
        assert_eq!(out[..], bytes[..out.len()]);
        (out.len(), told)
    };
    assert_eq!(read(), (bytes.len(), Ok(())));
    let intact = [1, 2, 6].map(|n| fs::read(file(n)).unwrap());
    let longer = [&intact[0][..], b"x"].concat();
    let mut flipped = intact[1].clone();
    flipped[PART_BYTES] ^= 1;
    fs::write(file(1), longer).unwrap();
    fs::write(file(2), flipped).unwrap();
    fs::remove_file(file(6)).unwrap();
    assert_eq!(read(), (PART_BYTES, Err((part(1), Damage::BitRot))));
    fs::write(file(1), &intact[0]).unwrap();
    assert_eq!(read(), (2 * PART_BYTES, Err((part(2), Damage::BitRot))));
    fs::write(file(2), &intact[1]).unwrap();
    assert_eq!(read(), (6 * PART_BYTES, Err((part(6), Damage::Missing))));
    fs::write(file(6), &intact[2]).unwrap();
    assert_eq!(read(), (bytes.len(), Ok(())));
}

fn object_path(dir: &Path, object: ObjectName) -> PathBuf {
    let hex = object.to_string();
    dir.join("vault/objects").join(&hex[..2]).join(hex)
}

fn mirror_path(remote: &MemoryRemote, object: ObjectName) -> String {
    remote.files().into_keys().find(|path| path.ends_with(&object.to_string())).unwrap()
}

#[test]
fn another_authentic_version_is_never_taken_for_the_one_that_is_named() {
    let (dir, mut vault, remote, entries) = singles(2);
    let [wanted, other] = [object_of(&mut vault, entries[0]), object_of(&mut vault, entries[1])];
    let place = mirror_path(&remote, wanted);
    let other_bytes = remote.files()[&mirror_path(&remote, other)].clone();
    remote.set_file(&at(&place), other_bytes.clone());
    // An older version of the same entry is another version too.
    fs::remove_file(object_path(dir.path(), wanted)).unwrap();
    fs::create_dir_all(dir.path().join("vault/local/quarantine")).unwrap();
    fs::write(dir.path().join("vault/local/quarantine").join(wanted.to_string()), &other_bytes).unwrap();
    for _ in 0..2 {
        let report = from_mirror(&mut vault, &remote, REPAIR);
        let things = report.unrepaired.iter().map(|it| it.thing.clone()).collect::<BTreeSet<_>>();
        assert_eq!(things, [Thing::Object(wanted), Thing::Mirror(place.clone())].into(), "{report:?}");
        assert_eq!(report.repaired, []);
        assert!(!object_path(dir.path(), wanted).exists());
        let version = vault_version(&mut vault, entries[0]);
        assert!(vault.content(version).is_err());
    }
    assert!(!vault.take_back(&wanted, &other_bytes).unwrap());
    assert_eq!(titles(&mut vault).len(), 2, "it is known that there is something");
}

fn vault_version(vault: &mut TestVault, entry: EntryId) -> espejo::id::VersionId {
    vault.entry(entry).unwrap().version.id
}

#[test]
fn damage_on_both_sides_is_healed_from_a_backup_and_the_mirror_from_here() {
    let (dir, mut vault, remote, entries) = singles(3);
    let path = dir.path().join("b.tar");
    vault.backup(&path).unwrap();
    let object = object_of(&mut vault, entries[1]);
    let place = mirror_path(&remote, object);
    remote.set_file(&at(&place), Bytes::from_static(b"torn"));
    fs::write(object_path(dir.path(), object), b"torn").unwrap();
    let backup = Backup::of_vault(&path, vault.keyring()).unwrap();
    let report = block_on(repair(&mut vault, Some(&remote), Some(&backup), REPAIR, &mut Vec::new())).unwrap();
    let repaired = report.repaired.iter().map(|it| (it.thing.clone(), it.source)).collect::<Vec<_>>();
    let expected = [(Thing::Object(object), Source::Backup), (Thing::Mirror(place), Source::Vault)];
    assert_eq!((repaired, report.unrepaired), (expected.to_vec(), vec![]));
    assert_eq!(block_on(scrub(&mut vault, &remote, Share::ALL)).unwrap().bad, []);
}

#[test]
fn repeated_samples_cover_every_file_of_the_mirror() {
    let (_dir, mut vault, remote, _) = singles(37);
    let objects = remote.files().into_iter().filter(|(path, _)| path.starts_with("objects/"));
    let objects = objects.collect::<BTreeMap<_, _>>();
    assert_eq!(objects.len(), 37);
    // The same length, so that only reading finds it.
    for (path, bytes) in &objects {
        let mut bytes = bytes.to_vec();
        bytes[2_000] ^= 1;
        remote.set_file(&at(path), bytes.into());
    }
    let share = Share::percent(5.0).unwrap();
    let mut found = BTreeMap::<String, u32>::new();
    for _ in 0..20 {
        let report = block_on(scrub(&mut vault, &remote, share)).unwrap();
        assert_eq!(report.bad.len(), 2, "5 % of 37 files");
        report.bad.iter().for_each(|bad| *found.entry(bad.file.clone()).or_default() += 1);
    }
    assert!(found.keys().eq(objects.keys()), "{} of {}", found.len(), objects.len());
    assert!(found.values().all(|times| *times <= 2), "evenly");
    // A sync in between does not make it begin again.
    assert_eq!(block_on(scrub(&mut vault, &remote, Share::ALL)).unwrap().bad.len(), 37);
    for bad in ["0", "-1", "101", "x"] {
        assert!(bad.parse().ok().and_then(Share::percent).is_none(), "{bad}");
    }
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let world = World::new(true);
    let objects = world.vault.keys().filter(|name| name.starts_with("objects")).collect::<Vec<_>>();
    let segment = world.vault.keys().find(|name| name.starts_with("local/feeds")).unwrap();
    world.damage(objects[0], How::Flip);
    world.damage(objects[1], How::Delete);
    world.damage(segment, How::Truncate);
    let keys = world.mirror.keys().find(|name| name.starts_with("keys/")).unwrap();
    world.damage_mirror(keys, How::Flip);
    world.damage_mirror("espejo.json", How::Delete);
    let here = |world: &World| (files(&world.path("")), world.remote.files());
    let before = here(&world);
    let mut vault = world.open().unwrap();
    let planned = from_mirror(&mut vault, &world.remote, RepairOptions { dry_run: true, ..REPAIR });
    assert_eq!(planned.repaired.len(), 5, "{planned:?}");
    assert_eq!(planned.unrepaired, []);
    assert!(here(&world) == before, "something was changed");
    let done = from_mirror(&mut vault, &world.remote, REPAIR);
    assert_eq!(done, planned);
    assert!(here(&world) != before);
}

#[test]
fn a_lost_newest_version_is_reverted_only_when_asked_and_only_when_it_exists_nowhere() {
    let (dir, mut vault, remote, entries) = singles(1);
    let old = vault.entry(entries[0]).unwrap();
    edit(&mut vault, entries[0], "newest");
    let object = object_of(&mut vault, entries[0]);
    let newest = fs::read(object_path(dir.path(), object)).unwrap();
    fs::write(object_path(dir.path(), object), b"rot").unwrap();
    let asked = RepairOptions { revert: true, ..REPAIR };

    let report = from_mirror(&mut vault, &remote, REPAIR);
    let [lost] = &report.unrepaired[..] else { panic!("{report:?}") };
    assert!(lost.current);
    let readable = (old.version.id, old.version.dot.updated_at);
    assert_eq!((lost.readable, &report.reverted), (Some(readable), &vec![]));
    let planned = from_mirror(&mut vault, &remote, RepairOptions { dry_run: true, ..asked });
    assert_eq!(planned.reverted.len(), 1);
    assert_eq!(vault.history(entries[0]).unwrap().len(), 2);

    // As long as a copy exists there is nothing to go back to.
    vault.take_back(&object, &newest).unwrap();
    sync(&mut vault, &remote);
    fs::write(object_path(dir.path(), object), b"rot").unwrap();
    let report = from_mirror(&mut vault, &remote, asked);
    assert_eq!((report.reverted, report.repaired.len()), (vec![], 1));
    assert_eq!(titles(&mut vault), ["newest"]);

    edit(&mut vault, entries[0], "newest again");
    let object = object_of(&mut vault, entries[0]);
    fs::remove_file(object_path(dir.path(), object)).unwrap();
    let report = from_mirror(&mut vault, &remote, asked);
    assert_eq!(report.reverted.len(), 1, "{report:?}");
    assert_eq!(titles(&mut vault), ["newest"]);
    let history = vault.history(entries[0]).unwrap();
    assert_eq!((history.len(), vault.entry(entries[0]).unwrap().losers), (4, vec![]));
    assert_eq!(vault.check().unwrap().missing, [(object, Some(entries[0]))], "it stays listed as lost");
    assert_eq!(from_mirror(&mut vault, &remote, asked).reverted, [], "once");
}

#[test]
fn a_lost_deletion_is_made_again_when_asked() {
    let (dir, mut vault, _, entries) = singles(1);
    delete(&mut vault, entries[0]);
    let object = object_of(&mut vault, entries[0]);
    fs::remove_file(object_path(dir.path(), object)).unwrap();
    let report = from_here(&mut vault, None, RepairOptions { revert: true, ..LOCAL });
    assert_eq!(report.reverted.iter().map(|it| it.to).collect::<Vec<_>>(), [None]);
    fs::remove_file(dir.path().join("vault/local/manifest")).unwrap();
    assert_eq!(titles(&mut open_vault(&dir.path().join("vault"), &TestClock::at(NOW))), [""; 0]);
}

#[test]
fn another_encoding_of_the_same_version_is_as_good() {
    let (dir, mut vault, _, entries) = singles(1);
    let object = object_of(&mut vault, entries[0]);
    let bytes = fs::read(object_path(dir.path(), object)).unwrap();
    let opened = open_version(vault.keyring(), &bytes).unwrap();
    let again =
        seal_version(vault.keyring(), &opened.version, opened.content.as_ref(), &espejo::entropy::OsEntropy);
    let again = again.unwrap();
    fs::create_dir_all(object_path(dir.path(), again.name()).parent().unwrap()).unwrap();
    fs::write(object_path(dir.path(), again.name()), &again.bytes).unwrap();
    assert_eq!(vault.check().unwrap().adopted, 1);
    fs::write(object_path(dir.path(), object), b"rot").unwrap();
    let report = from_here(&mut vault, None, LOCAL);
    let repaired = report.repaired.iter().map(|it| (it.thing.clone(), it.source)).collect::<Vec<_>>();
    assert_eq!((repaired, report.unrepaired), (vec![(Thing::Object(object), Source::Encoding)], vec![]));
    assert!(vault.check().unwrap().is_clean());
    assert_eq!(vault.manifest().unwrap().counts().corrupt, 0);
    let version = vault_version(&mut vault, entries[0]);
    assert!(vault.content(version).unwrap().is_some());
}

#[test]
fn quarantine_keeps_every_damaged_copy_is_bounded_and_may_hold_the_cure() {
    let (dir, mut vault, _, entries) = singles(1);
    let object = object_of(&mut vault, entries[0]);
    let good = fs::read(object_path(dir.path(), object)).unwrap();
    let quarantine = dir.path().join("vault/local/quarantine");
    for rot in [&b"rot one"[..], b"rot two", b"rot three"] {
        fs::write(object_path(dir.path(), object), rot).unwrap();
        assert_eq!(vault.check().unwrap().corrupt.len(), 1);
        assert!(vault.take_back(&object, &good).unwrap());
    }
    let kept = files(&quarantine);
    let names = kept.keys().map(|name| name.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names, [object.to_string(), format!("{object}.2"), format!("{object}.3")]);
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [&b"rot one"[..], b"rot two", b"rot three"]);
    assert_eq!(vault.check().unwrap().quarantine, vault::Quarantine { files: 3, bytes: 23 });

    // A file that was set aside for a disk that could not be read for a moment.
    fs::rename(object_path(dir.path(), object), quarantine.join(format!("{object}.4"))).unwrap();
    let report = from_here(&mut vault, None, LOCAL);
    assert_eq!(report.repaired[0].source, Source::Quarantine);
    assert_eq!(fs::read(object_path(dir.path(), object)).unwrap(), good);

    let many = add_many(&mut vault, 300);
    let many = many.into_iter().map(|entry| object_of(&mut vault, entry)).collect::<Vec<_>>();
    for object in &many {
        fs::write(object_path(dir.path(), *object), object.as_bytes()).unwrap();
    }
    assert_eq!(vault.check().unwrap().quarantine.files, 256);
    let left =
        files(&quarantine).into_keys().filter(|name| name.to_str().unwrap().starts_with(&object.to_string()));
    assert_eq!(left.count(), 0, "what is whole again goes first");
}

#[test]
fn the_commands_name_the_entry_what_is_wrong_and_what_to_do() {
    let cli = Cli::with_vault();
    let mirror = cli.arg("mirror");
    cli.json(&["remote", "set", &mirror]);
    let id = cli.add("On the terrace");
    cli.json(&["sync"]);
    let check = cli.json(&["check", "--remote"]);
    fields(&check["remote"], "files:n bytes:n corrupt:a missing:a covered:s");
    assert_eq!(check["remote"]["covered"], "100%");
    cli.json(&["check", "--remote", "--sample", "5%"]);
    for usage in [
        &["check", "--sample", "5%"][..],
        &["check", "--remote", "--sample", "0%"],
        &["repair", "--from", "x"],
    ] {
        assert_eq!(cli.error(2, usage)["kind"], "usage", "{usage:?}");
    }
    let only = |dir: &Path| files(dir).into_keys().next().unwrap();
    let local = cli.vault.join("objects").join(only(&cli.vault.join("objects")));
    fs::write(&local, "rot").unwrap();
    let check = cli.run(&["check"]);
    assert_eq!(check.code, 14);
    for word in [&id[..4], "On the terrace", "damaged", "fix: espejo sync", "local/quarantine holds 1 file"] {
        assert!(check.text().contains(word), "{word}: {check:?}");
    }
    let json = cli.run(&["check", "--json"]).document();
    fields(&json["missing"][0], "object:s entry:s title:s error:s fix:s");
    let planned = cli.json(&["repair", "-n"]);
    assert_eq!((&planned["dry_run"], &planned["repaired"][0]["from"]), (&json!(true), &json!("remote")));
    assert!(!local.exists());
    let done = cli.json(&["repair"]);
    fields(&done, "repaired:a unrepaired:a");
    fields(&done["repaired"][0], "object:s entry:s title:s from:s");
    assert_eq!(cli.run(&["check"]).code, 0);
    assert!(cli.run(&["repair"]).text().contains("nothing to repair"));

    let there = cli.path("mirror/objects").join(only(&cli.path("mirror/objects")));
    fs::write(&there, "rot").unwrap();
    let check = cli.run(&["check", "--remote", "--json"]);
    assert_eq!(check.error(14)["kind"], "damaged");
    let bad = &check.document()["remote"];
    let bad = [&bad["corrupt"], &bad["missing"]].into_iter().find_map(|list| list.get(0)).unwrap().clone();
    assert_eq!((&bad["fix"], &bad["entries"][0]), (&json!("espejo repair"), &json!(id)));
    assert!(text_of(&bad["file"]).ends_with(there.file_name().unwrap().to_str().unwrap()));
    assert_eq!(cli.json(&["repair", "--from", "remote"])["repaired"][0]["from"], "vault");
    assert_eq!(cli.run(&["check", "--remote"]).code, 0);

    cli.json(&["edit", &id, "-m", "On the roof"]);
    let mut objects =
        files(&cli.vault.join("objects")).into_keys().map(|name| cli.vault.join("objects").join(name));
    let newest = objects.find(|path| *path != local).unwrap();
    assert_eq!(
        object_name(&fs::read(&newest).unwrap()).to_string(),
        newest.file_name().unwrap().to_str().unwrap()
    );
    fs::remove_file(newest).unwrap();
    let failed = cli.run(&["repair", "--json"]);
    assert_eq!(failed.error(14)["kind"], "unrepaired");
    let lost = &failed.document()["unrepaired"][0];
    fields(lost, "object:s entry:s title:s error:s safe:s fix:s readable:s");
    let reverted = cli.run(&["repair", "--from", "history"]);
    assert!(reverted.text().contains("was restored as the newest"), "{reverted:?}");
    assert_eq!(cli.run(&["show", &id, "--raw"]).text(), "On the terrace");
    assert_eq!(cli.error(4, &["repair", "--from", "backup=thesis.pdf"])["kind"], "not_found");
    // Without its mirror it does what it can, and says so; asked for the mirror, it stops.
    fs::rename(&mirror, cli.path("unplugged")).unwrap();
    let without = cli.run(&["repair", "--json"]);
    assert!(without.code == 14 && without.stderr.contains("without the mirror"), "{without:?}");
    assert_eq!(cli.error(16, &["repair", "--from", "remote"])["kind"], "mirror_gone");
}
