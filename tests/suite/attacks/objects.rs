//! Objects: integrity, binding, order, freshness.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use espejo::crypto::{self, Key, KeySource, Keyring, OpenError, Purpose, object_name};
use espejo::entropy::OsEntropy;
use espejo::entry::Content;
use espejo::event::{Damage, Finding};
use espejo::format::feed::{Announcement, Encoded, SegmentName, open_segment};
use espejo::format::object::{Object, identify, seal_version};
use espejo::format::{FileType, MIN_SEALED_BYTES, SealedError, open_sealed, seal_file};
use espejo::id::{DeviceId, EntryId, VersionId};
use espejo::manifest::Notices;
use espejo::sync::Options;
use espejo::vault::{Change, Edit, Error};
use espejo::version::{Context, Dot, Kind, MadeOn, Version};

use super::{Two, plant_object, stranger};
use crate::common::cli::{files, temp_dir};
use crate::common::dice::Dice;
use crate::common::*;

/// The file of the newest version of an entry.
fn object_path(vault: &mut TestVault, dir: &Path, entry: EntryId) -> PathBuf {
    let hex = vault.history(entry).unwrap()[0].objects.first().unwrap().to_string();
    dir.join("objects").join(&hex[..2]).join(hex)
}

/// A version that supersedes everything `vault` has of `entry`, as `device` would write it.
fn superseding(vault: &mut TestVault, entry: EntryId, device: DeviceId, kind: Kind) -> Version {
    let versions = vault.history(entry).unwrap().into_iter().map(|it| it.version.dot);
    let seen = versions.map(|dot| (dot.device, dot.updated_at)).collect();
    let context = Context { seen, ..Context::default() };
    let dot = Dot { device, updated_at: NOW + 1_000_000 };
    Version { entry, id: VersionId::from_bytes([6; 16]), dot, context, kind }
}

/// Puts a feed segment of `device` onto the mirror, sealed with `keyring`.
fn announce(two: &Two, keys: &impl KeySource, device: DeviceId, announcements: &[Announcement]) -> String {
    let (name, file) = forge::segment(keys, device, announcements);
    two.plant(&name, &file);
    name
}

/// Puts an object onto the mirror, where an announcement of `device` would say that it is.
fn upload(two: &Two, device: DeviceId, object: &Object) {
    two.plant(&forge::place(device, object).1, &object.bytes);
}

/// The last announcement of a device on the mirror, and the segments it is in.
fn last_announced(two: &Two, device: DeviceId) -> ((Announcement, [u8; 32]), Vec<PathBuf>) {
    let feeds = files(&two.path("mirror/feeds")).into_iter();
    let own = feeds.filter(|(name, _)| name.to_str().unwrap().starts_with(&device.to_string()));
    let own = own.map(|(name, file)| (two.path("mirror/feeds").join(name), file)).collect::<Vec<_>>();
    let read = own.iter().flat_map(|(_, file)| open_segment(two.a.keyring(), file).unwrap().announcements);
    let last = read.max_by_key(|(announcement, _)| announcement.seq).unwrap();
    (last, own.into_iter().map(|(path, _)| path).collect())
}

fn names(findings: &[Finding], file: &str) -> bool {
    findings.iter().any(|it| matches!(it, Finding::MirrorDamaged { file: named, .. } if named == file))
}

#[test]
fn row_15_what_was_sealed_under_another_key_is_named_and_never_listed() {
    let mut two = Two::with(&["kept"]);
    let (forger, entry) = (stranger(&two.a), two.a.entries().unwrap()[0].id());
    for device in [DeviceId::from_bytes([9; 16]), two.b.device().id] {
        let version = superseding(&mut two.a, entry, device, Kind::Live);
        let object = seal_version(&forger, &version, Some(&text("forged", "")), &OsEntropy).unwrap();
        upload(&two, device, &object);
        // As a device of its own, and as what another one says next.
        let before = (device == two.b.device().id).then(|| last_announced(&two, device).0);
        let next = forge::announcement(
            before.as_ref().map(|(it, tip)| (it.seq, *tip)),
            &[&object],
            Notices::default(),
        );
        let segment = announce(&two, &forger, device, &[next]);
        let (report, findings) = try_sync(&mut two.a, &two.remote, Options::default());
        report.unwrap();
        assert!(names(&findings, &segment), "{findings:?}");
        // Among the vault's own files, too.
        plant_object(&two.path("a"), &object.bytes);
        let check = two.a.check().unwrap();
        assert_eq!(check.corrupt, [(object.name(), None, Damage::Tampered)]);
        two.show(&["kept"]);
    }
}

#[test]
fn row_17_rot_is_healed_and_tampering_is_called_by_its_name() {
    let mut two = Two::with(&["kept"]);
    let entry = two.a.entries().unwrap()[0].id();
    let dir = two.path("a");
    let path = object_path(&mut two.a, &dir, entry);
    let good = fs::read(&path).unwrap();
    let mut altered = good.clone();
    altered[3_000] ^= 1;
    // The name is as it was: rot. The mirror has the same bytes, and gives them.
    fs::write(&path, &altered).unwrap();
    let version = two.a.entry(entry).unwrap().version.id;
    let read = two.a.content(version);
    assert!(matches!(read, Err(Error::Damaged { problem: Damage::BitRot, .. })), "{read:?}");
    let (_, findings) = try_sync(&mut two.a, &two.remote, Options::default());
    assert!(findings.iter().any(|it| matches!(it, Finding::Healed { .. })), "{findings:?}");
    assert_eq!(fs::read(&path).unwrap(), good);
    // The name was made to fit: somebody did that. It is set aside, and nothing is fetched for it.
    let planted = plant_object(&two.path("a"), &altered);
    assert_eq!(two.a.check().unwrap().corrupt, [(object_name(&altered), None, Damage::Tampered)]);
    assert!(!planted.exists());
    let (report, findings) = try_sync(&mut two.a, &two.remote, super::FULL);
    assert_eq!((report.unwrap().pulled, findings), (0, Vec::new()));
    assert!(!planted.exists());
    two.show(&["kept"]);
}

#[test]
fn row_18_chunks_out_of_place_do_not_open() {
    const CHUNK: usize = 16 * 1024 + 16;
    let key = Key::from_bytes([7; 32]);
    let seal = |byte| crypto::seal(&key, b"context", &vec![byte; 40_000], &OsEntropy).unwrap();
    let (mine, other) = (seal(1), seal(2));
    let open = |order: [&[u8]; 4]| crypto::open(&key, b"context", &order.concat()).err();
    let (prefix, body) = mine.split_at(56);
    let [first, second, last] = [&body[..CHUNK], &body[CHUNK..2 * CHUNK], &body[2 * CHUNK..]];
    assert_eq!(open([prefix, first, second, last]), None);
    assert_eq!(open([prefix, second, first, last]), Some(OpenError::Chunk(0)));
    assert_eq!(open([prefix, first, first, last]), Some(OpenError::Chunk(1)));
    assert_eq!(open([prefix, first, last, &[]]), Some(OpenError::Chunk(1)));
    assert_eq!(open([prefix, first, second, &[]]), Some(OpenError::Truncated));
    assert_eq!(open([prefix, &other[56..56 + CHUNK], second, last]), Some(OpenError::Chunk(0)));
    assert_eq!(open([&other[..56], first, second, last]), Some(OpenError::Chunk(0)));
}

#[test]
fn row_22_an_object_of_another_vault_is_never_shown() {
    let mut two = Two::with(&["kept"]);
    // The same person, the same password.
    let other = temp_dir();
    let mut vault = new_vault(other.path(), "laptop", &TestClock::at(NOW));
    let entry = add(&mut vault, "of another vault");
    let foreign = fs::read(object_path(&mut vault, other.path(), entry)).unwrap();
    let mut adapted = foreign.clone();
    adapted[20..36].copy_from_slice(two.a.id().as_bytes());
    let error = |bytes: &[u8]| identify(two.a.keyring(), bytes.to_vec()).err().unwrap();
    assert_eq!(error(&foreign), SealedError::WrongVault);
    assert_eq!(error(&adapted), SealedError::Seal(OpenError::Commitment));
    for bytes in [foreign, adapted] {
        let name = object_name(&bytes);
        plant_object(&two.path("a"), &bytes);
        two.plant(&format!("objects/{}-1/{name}", &two.a.device().id.to_string()[..8]), &bytes);
        assert_eq!(two.a.check().unwrap().corrupt, [(name, None, Damage::Tampered)]);
        two.settle();
        two.show(&["kept"]);
    }
}

#[test]
fn row_23_one_kind_of_file_does_not_open_as_another() {
    let keyring = Keyring::generate(espejo::id::VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
    let types = [
        (FileType::Version, 1),
        (FileType::Part, 2),
        (FileType::Manifest, 3),
        (FileType::Feed, 4),
        (FileType::Backup, 5),
        (FileType::State, 7),
    ];
    for (made_as, _) in types {
        let file = seal_file(&keyring, made_as, 0, b"text", &OsEntropy).unwrap();
        for (read_as, byte) in types.into_iter().filter(|(read_as, _)| *read_as != made_as) {
            assert_eq!(open_sealed(&keyring, read_as, &file), Err(SealedError::WrongType));
            let mut adapted = file.clone();
            adapted[10] = byte;
            let refused = Err(SealedError::Seal(OpenError::Commitment));
            assert_eq!(open_sealed(&keyring, read_as, &adapted), refused, "{made_as:?} as {read_as:?}");
        }
    }
}

#[test]
fn row_24_a_version_is_one_seal_from_its_header_to_its_end() {
    let dir = temp_dir();
    let mut vault = new_vault(dir.path(), "laptop", &TestClock::at(NOW));
    let content = Content { tags: vec!["a tag".to_owned()], ..text("a title", "a body") };
    let change = Change::Content(content);
    let saved = vault.save(&[Edit { entry: None, made_on: MadeOn::Everything, change }]).unwrap();
    let path = object_path(&mut vault, dir.path(), saved[0].entry);
    let stored = files(&dir.path().join("objects"));
    assert_eq!(stored.len(), 1, "the whole entry");
    let file = fs::read(path).unwrap();
    assert_eq!(file.len(), MIN_SEALED_BYTES);
    let key = vault.keyring().derive(Purpose::Entry, 1).unwrap();
    let plain = crypto::open(&key, &file[..36], &file[36..]).unwrap();
    for word in ["a title", "a tag", "a body"] {
        assert!(plain.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
}

#[test]
fn row_25_the_times_of_a_mirror_decide_nothing() {
    for (of_a, of_b) in [(4_070_908_800, 31_536_000), (31_536_000, 4_070_908_800)] {
        let mut two = Two::with(&["first"]);
        let entry = two.a.entries().unwrap()[0].id();
        let stamp = |two: &Two, secs| {
            for name in files(&two.path("mirror")).keys() {
                let file = fs::File::options().write(true).open(two.path("mirror").join(name)).unwrap();
                file.set_modified(UNIX_EPOCH + Duration::from_secs(secs)).unwrap();
            }
        };
        edit(&mut two.a, entry, "of the laptop, earlier");
        two.clocks[1].advance(60_000);
        edit(&mut two.b, entry, "of the desktop, later");
        sync(&mut two.a, &two.remote);
        stamp(&two, of_a);
        sync(&mut two.b, &two.remote);
        stamp(&two, of_b);
        sync(&mut two.a, &two.remote);
        for vault in [&mut two.a, &mut two.b] {
            let state = vault.entry(entry).unwrap();
            assert_eq!(state.summary.title, "of the desktop, later");
            assert_eq!(state.losers.len(), 1);
        }
    }
}

#[test]
fn row_26_plain_files_are_never_entries() {
    let mut two = Two::with(&["kept"]);
    let entry = two.a.entries().unwrap()[0].id();
    let json = serde_json::to_vec(&text("planted", "in plain")).unwrap();
    let noise = stranger(&two.a).derive(Purpose::Entry, 1).unwrap().as_bytes().repeat(128);
    let kinds = [json, b"# planted\n\nin plain\n".to_vec(), Vec::new(), noise];
    let device = DeviceId::from_bytes([9; 16]);
    for plain in &kinds {
        plant_object(&two.path("a"), plain);
        two.plant(
            &format!("objects/{}-1/{}", &two.a.device().id.to_string()[..8], object_name(plain)),
            plain,
        );
        two.plant(&format!("feeds/{}", SegmentName::new(device, 1, 1, plain)), plain);
        two.plant(&format!("entries/{entry}.md"), plain);
    }
    let check = two.a.check().unwrap();
    assert!(check.corrupt.iter().all(|(_, entry, problem)| (*entry, *problem) == (None, Damage::Tampered)));
    assert_eq!(check.corrupt.len(), kinds.len(), "{check:?}");
    let findings = two.settle();
    assert!(findings.iter().all(|it| matches!(it, Finding::MirrorDamaged { .. })), "{findings:?}");
    two.show(&["kept"]);
    // In the place of one of ours it is damage, never content.
    let dir = two.path("a");
    let path = object_path(&mut two.a, &dir, entry);
    let good = fs::read(&path).unwrap();
    for plain in kinds {
        fs::write(&path, plain).unwrap();
        let version = two.a.entry(entry).unwrap().version.id;
        let read = two.a.content(version);
        assert!(matches!(read, Err(Error::Damaged { problem: Damage::BitRot, .. })), "{read:?}");
        sync(&mut two.a, &two.remote);
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

#[test]
fn row_27_a_thousand_invented_files_change_nothing() {
    let mut two = Two::with(&["one", "two"]);
    let entry = two.a.entries().unwrap()[0].id();
    let before = ["a/objects", "a/keys", "b/objects", "b/keys"].map(|dir| files(&two.path(dir)));
    let dir = two.path("a");
    let good = fs::read(object_path(&mut two.a, &dir, entry)).unwrap();
    let batches = [&two.a, &two.b].map(|vault| vault.device().id.to_string()[..8].to_owned());
    let mut dice = Dice(27);
    for n in 0..1_000 {
        // All that is in clear is as it should be.
        let mut file = good.clone();
        file[36..].iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
        let name = match n % 4 {
            0 => format!("keys/{}-{}.key", 2 + n, espejo::format::feed::hash16(&file)),
            1 => {
                file[10] = 4;
                format!("feeds/{}", SegmentName::new(DeviceId::from_bytes([n as u8; 16]), 1, 1, &file))
            }
            _ => format!("objects/{}-1/{}", batches[n % 2], object_name(&file)),
        };
        two.plant(&name, &file);
    }
    let planted = files(&two.path("mirror")).len();
    let findings = two.settle();
    assert!(findings.iter().all(|it| matches!(it, Finding::MirrorDamaged { .. })), "{findings:?}");
    two.show(&["one", "two"]);
    assert_eq!(before, ["a/objects", "a/keys", "b/objects", "b/keys"].map(|dir| files(&two.path(dir))));
    assert_eq!(files(&two.path("mirror")).len(), planted, "what is not ours is not removed");
}

#[test]
fn row_27_a_file_in_the_name_of_a_devices_feed_costs_it_its_id_and_nothing_else() {
    let mut two = Two::with(&["kept"]);
    add(&mut two.a, "written meanwhile");
    // It cannot tell this from what a copy of it would write, and a torn upload of that.
    let device = two.a.device().id;
    two.plant(&format!("feeds/{}", SegmentName::new(device, 7, 7, b"invented")), b"invented");
    let (report, findings) = try_sync(&mut two.a, &two.remote, Options::default());
    report.unwrap();
    assert!(findings.contains(&Finding::NewIdentity), "{findings:?}");
    let new = two.a.device().id;
    assert_ne!(new, device);
    two.settle();
    assert_eq!(two.a.device().id, new, "once for each such file");
    two.show(&["kept", "written meanwhile"]);
}

#[test]
fn row_30_a_second_history_of_a_device_is_called_a_fork() {
    let mut two = Two::with(&["kept"]);
    add(&mut two.a, "shown to the desktop");
    sync(&mut two.a, &two.remote);
    sync(&mut two.b, &two.remote);
    // Whoever has the keys, and a copy of the laptop, goes on in its name. The true history is withheld.
    let device = two.a.device().id;
    let ((last, tip), segments) = last_announced(&two, device);
    let other = Announcement { name: "laptop".to_owned(), written_at: last.written_at + 1, ..last.clone() };
    let other_tip = Encoded::new(&other, device, two.a.keyring()).tip(device);
    assert_ne!(tip, other_tip);
    let next = forge::announcement(Some((other.seq, other_tip)), &[], Notices::default());
    segments.iter().for_each(|path| fs::remove_file(path).unwrap());
    announce(&two, two.a.keyring(), device, &[other, next]);
    let (report, findings) = try_sync(&mut two.b, &two.remote, Options::default());
    report.unwrap();
    let forked = |it: &Finding| matches!(it, Finding::Forked { device: of, .. } if *of == device);
    assert!(findings.iter().any(forked), "{findings:?}");
    // The laptop sees that its name is in use, and takes another.
    let (report, findings) = try_sync(&mut two.a, &two.remote, Options::default());
    report.unwrap();
    assert!(findings.contains(&Finding::NewIdentity), "{findings:?}");
    assert_ne!(two.a.device().id, device);
    two.show(&["kept", "shown to the desktop"]);
}

#[test]
fn row_33_a_deletion_nobody_sealed_deletes_nothing() {
    let mut two = Two::with(&["kept"]);
    let (forger, entry) = (stranger(&two.a), two.a.entries().unwrap()[0].id());
    let device = DeviceId::from_bytes([9; 16]);
    let tombstone = superseding(&mut two.a, entry, device, Kind::Tombstone);
    let object = seal_version(&forger, &tombstone, None, &OsEntropy).unwrap();
    upload(&two, device, &object);
    plant_object(&two.path("b"), &object.bytes);
    let buried = Notices { buried: vec![tombstone.clone()], ..Notices::default() };
    announce(&two, &forger, device, &[forge::announcement(None, &[&object], buried.clone())]);
    two.settle();
    two.show(&["kept"]);
    // With the key it is a deletion like any other: this is how one is told.
    let object = seal_version(two.a.keyring(), &tombstone, None, &OsEntropy).unwrap();
    upload(&two, device, &object);
    announce(&two, two.a.keyring(), device, &[forge::announcement(None, &[&object], buried)]);
    two.settle();
    assert_eq!([titles(&mut two.a), titles(&mut two.b)], [[""; 0], [""; 0]]);
}

#[test]
fn row_74_who_has_the_keys_of_the_feeds_deletes_nothing_and_makes_nothing() {
    let mut two = Two::with(&["kept"]);
    let entry = two.a.entries().unwrap()[0].id();
    // What a device keeps that mirrors while it is locked: the keys of the feeds, and the way to the mirror.
    let stolen = two.a.keyring().feed_keys();
    let device = DeviceId::from_bytes([9; 16]);
    let tombstone = superseding(&mut two.a, entry, device, Kind::Tombstone);
    let buried = Notices { buried: vec![tombstone.clone()], ..Notices::default() };
    let by_stranger = seal_version(&stranger(&two.a), &tombstone, None, &OsEntropy).unwrap();
    upload(&two, device, &by_stranger);
    announce(&two, &stolen, device, &[forge::announcement(None, &[&by_stranger], buried.clone())]);
    two.settle();
    two.show(&["kept"]);
    // Nor does it when an index is made anew from the feeds.
    fs::remove_file(two.path("b").join("local/manifest")).unwrap();
    two.settle();
    two.show(&["kept"]);
    // With all the keys it is how a deletion is told.
    announce(&two, two.a.keyring(), DeviceId::from_bytes([8; 16]), &[forge::announcement(None, &[], buried)]);
    two.settle();
    assert_eq!([titles(&mut two.a), titles(&mut two.b)], [[""; 0], [""; 0]]);
}

#[test]
fn row_35_a_clock_ten_years_ahead_wins_once_and_loses_to_the_next_edit() {
    let mut two = Two::with(&["first"]);
    let entry = two.a.entries().unwrap()[0].id();
    two.clocks[1].advance(10 * YEAR_MS);
    edit(&mut two.a, entry, "from today");
    edit(&mut two.b, entry, "from the future");
    for _ in 0..2 {
        sync(&mut two.a, &two.remote);
        sync(&mut two.b, &two.remote);
    }
    for vault in [&mut two.a, &mut two.b] {
        let state = vault.entry(entry).unwrap();
        assert_eq!(state.summary.title, "from the future");
        let loser = vault.content(state.losers[0]).unwrap().unwrap();
        assert_eq!(loser.title, "from today", "what lost is kept");
    }
    // Whoever has seen it writes on top of it, by a clock that is right.
    let change = Change::Content(text("from tomorrow", ""));
    two.a.save(&[Edit { entry: Some(entry), made_on: MadeOn::Everything, change }]).unwrap();
    sync(&mut two.a, &two.remote);
    sync(&mut two.b, &two.remote);
    for vault in [&mut two.a, &mut two.b] {
        let state = vault.entry(entry).unwrap();
        assert_eq!((state.summary.title.as_str(), state.losers.len()), ("from tomorrow", 0));
    }
}

#[test]
fn row_36_an_index_that_is_spoilt_or_anothers_is_made_again() {
    let dir = temp_dir();
    let clock = TestClock::at(NOW);
    let mut vault = new_vault(dir.path(), "laptop", &clock);
    let index = dir.path().join("local/manifest");
    add_many(&mut vault, 3);
    let expected = titles(&mut vault);
    let good = fs::read(&index).unwrap();
    drop(vault);
    let other = temp_dir();
    let mut stranger = new_vault(other.path(), "laptop", &clock);
    add(&mut stranger, "of another vault");
    let foreign = fs::read(other.path().join("local/manifest")).unwrap();
    let mut adapted = foreign.clone();
    adapted[..36].copy_from_slice(&good[..36]);
    let spliced = [&good[..52], &foreign[52..]].concat();
    for spoilt in [foreign, adapted, spliced, b"garbage".to_vec(), Vec::new(), vec![7; 9_000]] {
        fs::write(&index, spoilt).unwrap();
        assert_eq!(titles(&mut open_vault(dir.path(), &clock)), expected);
    }
}

#[test]
fn row_36_what_an_index_of_an_earlier_day_does_not_know_comes_back() {
    let mut two = Two::with(&["first"]);
    let [index, status] = ["a/local/manifest", "a/local/status"].map(|file| two.path(file));
    let old = [&index, &status].map(|file| fs::read(file).unwrap());
    add(&mut two.a, "sent");
    sync(&mut two.a, &two.remote);
    add(&mut two.a, "not sent");
    let expected = ["first", "not sent", "sent"];
    assert_eq!(titles(&mut two.a), expected);
    // It is whole, and this device's own; but the status says that there was more of it.
    fs::write(&index, &old[0]).unwrap();
    two.a = open_vault(&two.path("a"), &two.clocks[0]);
    assert_eq!(titles(&mut two.a), expected);
    // Together with the status of that day it is believed, and does not know the rest.
    fs::write(&index, &old[0]).unwrap();
    fs::write(&status, &old[1]).unwrap();
    two.a = open_vault(&two.path("a"), &two.clocks[0]);
    assert_eq!(titles(&mut two.a), ["first"]);
    // What the mirror has comes with a sync; what only the disk has, with a check.
    sync(&mut two.a, &two.remote);
    assert_eq!(titles(&mut two.a), ["first", "sent"]);
    assert_eq!(two.a.check().unwrap().adopted, 1);
    assert_eq!(titles(&mut two.a), expected);
    two.settle();
    two.show(&expected);
}
