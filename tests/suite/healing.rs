//! What went wrong on the mirror or on the way, and how it is made good. Each test is a story that was once lost.

use crate::common::uploads::Uploads;
use crate::common::*;
use bytes::Bytes;
use espejo::crypto::object_name;
use espejo::event::Finding;
use espejo::format::object::identify;
use espejo::format::pack;
use espejo::id::{DeviceId, ObjectName};
use espejo::remote::{MemoryRemote, RemotePath};
use espejo::sync::{Error, Guard, Options};
use espejo::vault::{RemoteSettings, Store as _};

fn third(remote: &MemoryRemote) -> (tempfile::TempDir, TestVault) {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = clone_vault(dir.path(), "tablet", &TestClock::at(NOW), remote);
    set_remote(&mut vault);
    (dir, vault)
}

fn path(text: &str) -> RemotePath {
    RemotePath::new(text).unwrap()
}

fn segments(remote: &MemoryRemote, device: DeviceId) -> Vec<String> {
    remote.files().into_keys().filter(|path| path.starts_with(&format!("feeds/{device}"))).collect()
}

fn flip(remote: &MemoryRemote, file: &str) {
    let mut bytes = remote.files()[file].to_vec();
    bytes[100] ^= 1;
    remote.set_file(&path(file), Bytes::from(bytes));
}

#[test]
fn a_damaged_segment_hides_nothing_but_itself_and_is_read_when_it_is_whole() {
    let Two { dirs: _dirs, mut a, mut b, remote, .. } = two(&[]);
    let mut damaged = None;
    for n in 0..6 {
        add(&mut a, &format!("entry {n}"));
        sync(&mut a, &remote);
        if let Some(segment) =
            segments(&remote, a.device().id).into_iter().find(|name| name.contains(".5-6."))
        {
            if damaged.is_none() {
                flip(&remote, &segment);
            }
            damaged = Some(segment);
        }
    }
    let (report, findings) = try_sync(&mut b, &remote, Options::default());
    let named = |finding: &Finding| matches!(finding, Finding::MirrorDamaged { file, .. } if Some(file) == damaged.as_ref());
    assert!(findings.iter().any(named), "{findings:?}");
    assert!(!report.unwrap().is_settled(), "what cannot be read is pending");
    assert!(!titles(&mut b).contains(&"entry 4".to_owned()), "it is in the damaged one");
    assert!(titles(&mut b).contains(&"entry 5".to_owned()), "what lies beyond the gap is read all the same");
    // Whoever wrote it has it intact; a full look sends it again.
    let (_, findings) = try_sync(&mut a, &remote, FULL);
    assert!(findings.contains(&Finding::MirrorHealed { file: damaged.unwrap() }), "{findings:?}");
    sync(&mut b, &remote);
    assert_eq!(titles(&mut a), titles(&mut b));
}

#[test]
fn what_a_damaged_segment_repeats_is_sent_again_by_whoever_has_read_it() {
    let Two { dirs: _dirs, mut a, mut b, remote, clocks } = two(&[]);
    add(&mut a, "one");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    for text in ["two", "three"] {
        add(&mut a, text);
        sync(&mut a, &remote);
    }
    clocks[0].advance(DAY_MS + 60_000);
    sync(&mut a, &remote);
    let joined = segments(&remote, a.device().id).into_iter().find(|name| name.contains(".1-4.")).unwrap();
    assert_eq!(segments(&remote, a.device().id).iter().filter(|name| name.contains(".1-")).count(), 1);
    // The writer is lost, and so is the only segment that tells of what it wrote.
    flip(&remote, &joined);
    drop(a);
    try_sync(&mut b, &remote, Options::default()).0.unwrap();
    let (_dir, mut c) = third(&remote);
    try_sync(&mut c, &remote, Options::default()).0.unwrap();
    assert!(titles(&mut c).contains(&"one".to_owned()), "{:?}", titles(&mut c));
}

#[test]
fn a_segment_torn_on_the_mirror_is_sent_again() {
    let Two { dirs: _dirs, mut a, b: _b, remote, .. } = two(&[]);
    add(&mut a, "one");
    sync(&mut a, &remote);
    let segment = segments(&remote, a.device().id).into_iter().find(|name| name.contains(".1-2.")).unwrap();
    remote.set_file(&path(&segment), remote.files()[&segment].slice(0..1_000));
    let (report, findings) = try_sync(&mut a, &remote, Options::default());
    report.unwrap();
    assert!(findings.contains(&Finding::MirrorHealed { file: segment }), "{findings:?}");
    let (_dir, mut c) = third(&remote);
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["one"]);
}

#[test]
fn what_has_not_arrived_yet_is_fetched_when_it_does() {
    let Two { dirs: _dirs, mut a, mut b, remote, .. } = two(&[]);
    add(&mut a, "late");
    let before = remote.files();
    sync(&mut a, &remote);
    let late = remote
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("objects/") && !before.contains_key(path));
    let late = late.collect::<Vec<_>>();
    for (file, _) in &late {
        remote.remove_file(&path(file));
    }
    assert_eq!(sync(&mut b, &remote).pending, 1);
    assert_eq!(try_sync(&mut b, &remote, FULL).0.unwrap().pending, 1);
    for (file, bytes) in late {
        remote.set_file(&path(&file), bytes);
    }
    assert_eq!(sync(&mut b, &remote).pending, 0);
    assert_eq!(titles(&mut b), ["late"]);
}

#[test]
fn rot_on_the_mirror_is_healed_by_a_full_sync_of_a_device_that_has_the_object() {
    let Two { dirs: _dirs, mut a, b: _b, remote, .. } = two(&[]);
    add(&mut a, "rot");
    let before = remote.files();
    sync(&mut a, &remote);
    let rotten =
        remote.files().into_keys().find(|path| path.starts_with("objects/") && !before.contains_key(path));
    flip(&remote, &rotten.unwrap());
    let (_dir, mut c) = third(&remote);
    let (report, findings) = try_sync(&mut c, &remote, Options::default());
    assert_eq!(report.unwrap().pending, 1);
    assert!(findings.iter().any(|finding| matches!(finding, Finding::MirrorDamaged { .. })), "{findings:?}");
    let (report, findings) = try_sync(&mut a, &remote, FULL);
    assert_eq!(report.unwrap().repaired, 1);
    assert!(findings.iter().any(|finding| matches!(finding, Finding::MirrorHealed { .. })), "{findings:?}");
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["rot"]);
}

#[test]
fn own_segments_that_come_back_with_a_restored_server_are_no_strangers() {
    let Two { dirs: _dirs, mut a, b: _b, clocks, remote } = two(&[]);
    for title in ["one", "two"] {
        add(&mut a, title);
        sync(&mut a, &remote);
    }
    let backup = remote.files();
    clocks[0].advance(3 * DAY_MS);
    add(&mut a, "three");
    sync(&mut a, &remote);
    let tidied = backup.keys().filter(|file| !remote.files().contains_key(*file)).count();
    assert!(tidied > 0, "the story needs segments that were merged and removed");
    for file in remote.files().into_keys() {
        remote.remove_file(&path(&file));
    }
    for (file, bytes) in backup {
        remote.set_file(&path(&file), bytes);
    }
    let id = a.device().id;
    sync(&mut a, &remote);
    assert_eq!(a.device().id, id);
    let (_dir, mut c) = third(&remote);
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["one", "three", "two"]);
}

#[test]
fn what_was_read_is_acknowledged_within_a_day_though_nothing_else_happens() {
    let Two { dirs: _dirs, mut a, mut b, clocks, remote } = two(&[]);
    let before = segments(&remote, b.device().id);
    clocks.iter().for_each(|clock| clock.advance(DAY_MS / 24));
    add(&mut a, "one");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    assert_eq!(segments(&remote, b.device().id), before, "not for every single thing");
    clocks[1].advance(2 * DAY_MS);
    sync(&mut b, &remote);
    let after = segments(&remote, b.device().id);
    assert_ne!(after, before);
    for _ in 0..3 {
        clocks[1].advance(2 * DAY_MS);
        sync(&mut b, &remote);
    }
    let now = segments(&remote, b.device().id);
    assert!(now.iter().all(|segment| after.contains(segment)), "once is enough: {now:?}");
}

#[test]
fn directories_that_are_links_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let mut vault = new_vault(dir.path(), "laptop", &TestClock::at(NOW));
    std::fs::create_dir_all(dir.path().join("objects")).unwrap();
    for shard in 0..256 {
        std::os::unix::fs::symlink(outside.path(), dir.path().join(format!("objects/{shard:02x}"))).unwrap();
    }
    let change = espejo::vault::Change::Content(text("one", "text"));
    let edit = espejo::vault::Edit { entry: None, made_on: espejo::version::MadeOn::Everything, change };
    assert!(vault.save(&[edit]).is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_file_in_the_wrong_place_is_not_called_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = new_vault(dir.path(), "laptop", &TestClock::at(NOW));
    add(&mut vault, "one");
    let misplaced = dir.path().join("objects/zz");
    std::fs::create_dir(&misplaced).unwrap();
    std::fs::write(misplaced.join("0".repeat(64)), "not ours").unwrap();
    std::fs::remove_file(dir.path().join("local/manifest")).unwrap();
    let mut vault = open_vault(dir.path(), &TestClock::at(NOW));
    assert_eq!(titles(&mut vault), ["one"]);
    let findings = vault.take_findings();
    assert!(!findings.iter().any(|finding| matches!(finding, Finding::Damaged { .. })), "{findings:?}");
}

#[test]
fn a_marker_that_alone_is_gone_or_damaged_is_written_again() {
    let Two { dirs: _dirs, mut a, b: _b, remote, .. } = two(&[]);
    add(&mut a, "one");
    sync(&mut a, &remote);
    let marker = path("espejo.json");
    let half = remote.files()["espejo.json"].slice(0..20);
    assert!(remote.remove_file(&marker));
    assert!(try_sync(&mut a, &remote, FULL).0.is_err(), "it might be a disk that is not mounted");
    try_sync(&mut a, &remote, Options { reseed: true, ..Options::default() }).0.unwrap();
    remote.set_file(&marker, half);
    let (report, findings) = try_sync(&mut a, &remote, FULL);
    report.unwrap();
    assert!(findings.contains(&Finding::MirrorHealed { file: "espejo.json".to_owned() }), "{findings:?}");
    let (_dir, mut c) = third(&remote);
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["one"]);
}

#[test]
fn a_torn_marker_of_another_vault_is_left_alone() {
    let Two { dirs: _dirs, mut a, b: _b, remote, .. } = two(&[]);
    let other = MemoryRemote::new();
    let dir = tempfile::tempdir().unwrap();
    let mut stranger = new_vault(dir.path(), "stranger", &TestClock::at(NOW));
    set_remote(&mut stranger);
    sync(&mut stranger, &other);
    let half = other.files()["espejo.json"].slice(0..20);
    other.set_file(&path("espejo.json"), half);
    let before = other.files();
    assert!(try_sync(&mut a, &other, Options::default()).0.is_err());
    assert_eq!(other.files(), before);
    sync(&mut a, &remote);
}

#[test]
fn a_mirror_that_shows_no_feed_that_is_known_is_not_written_to() {
    // Stopped after it had made its first mirror and before it had announced itself, a device knew of no feed at all;
    // any mirror at all seemed to be the one it knew.
    let dir = tempfile::tempdir().unwrap();
    let mut a = new_vault(dir.path(), "laptop", &TestClock::at(NOW));
    let settings = RemoteSettings {
        target: "memory".to_owned(),
        user: None,
        password: None,
        ca_pem: None,
        initialised: true,
    };
    a.set_remote(&settings).unwrap();
    let other = MemoryRemote::new();
    let stranger_dir = tempfile::tempdir().unwrap();
    let mut stranger = new_vault(stranger_dir.path(), "stranger", &TestClock::at(NOW));
    set_remote(&mut stranger);
    sync(&mut stranger, &other);
    let before = other.files();
    let (result, _) = try_sync(&mut a, &other, Options::default());
    assert!(matches!(result, Err(Error::Guard(Guard::OtherVault(_)))), "{result:?}");
    assert_eq!(other.files(), before);
}

#[test]
fn a_device_whose_own_announcements_were_lost_announces_everything_again() {
    let Two { dirs: _dirs, mut a, mut b, remote, .. } = two(&[]);
    add(&mut a, "one");
    sync(&mut a, &remote);
    add(&mut a, "two");
    // The mirror loses this device's feed, and so does the device.
    for name in segments(&remote, a.device().id) {
        remote.remove_file(&path(&name));
    }
    for segment in a.cached_segments().unwrap() {
        if segment.starts_with(&a.device().id.to_string()) {
            a.drop_cached_segment(&segment).unwrap();
        }
    }
    let (report, findings) = try_sync(&mut a, &remote, Options::default());
    report.unwrap();
    assert!(findings.contains(&Finding::NewIdentity), "{findings:?}");
    sync(&mut b, &remote);
    assert_eq!(titles(&mut b), ["one", "two"]);
    let (_dir, mut c) = third(&remote);
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["one", "two"]);
}

#[test]
fn a_mirror_set_anew_that_lost_its_feeds_shows_what_is_written_from_then_on() {
    // Begun anew under the same id, the feed was passed over by everybody who had read the first one.
    for settings in ["damaged", "missing", "forgotten"] {
        let Two { dirs, mut a, mut b, remote, .. } = two(&["one"]);
        for device in [a.device().id, b.device().id] {
            for name in segments(&remote, device) {
                remote.remove_file(&path(&name));
            }
        }
        let file = dirs[0].path().join("local/remote");
        match settings {
            "damaged" => std::fs::write(&file, "rot").unwrap(),
            "missing" => std::fs::remove_file(&file).unwrap(),
            _ => a.forget_remote().unwrap(),
        }
        set_remote(&mut a);
        add(&mut a, "two");
        sync(&mut a, &remote);
        sync(&mut b, &remote);
        assert_eq!(titles(&mut b), ["one", "two"], "{settings}");
    }
}

#[test]
fn nobody_waits_for_what_a_device_was_before_its_mirror_was_set_anew() {
    let Two { dirs: _dirs, mut a, mut b, remote, .. } = two(&["one"]);
    let before = a.device().id;
    a.forget_remote().unwrap();
    set_remote(&mut a);
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    assert_ne!(a.device().id, before);
    for vault in [&mut a, &mut b] {
        let devices = espejo::sync::devices(vault).unwrap();
        let retired = devices.iter().filter(|it| it.retired).map(|it| it.id).collect::<Vec<_>>();
        assert_eq!((retired, devices.len()), (vec![before], 3), "{devices:?}");
    }
}

#[test]
fn a_segment_that_is_torn_on_the_mirror_and_damaged_here_is_announced_again() {
    let Two { dirs, mut a, b: _b, remote, .. } = two(&["one"]);
    for name in segments(&remote, a.device().id) {
        remote.set_file(&path(&name), Bytes::new());
        std::fs::write(dirs[0].path().join("local").join(&name), "rot").unwrap();
    }
    let (report, findings) = try_sync(&mut a, &remote, Options::default());
    report.unwrap();
    assert!(findings.contains(&Finding::NewIdentity), "{findings:?}");
    let (_dir, mut c) = third(&remote);
    try_sync(&mut c, &remote, Options::default()).0.unwrap();
    assert_eq!(titles(&mut c), ["one"]);
}

#[test]
fn what_is_announced_again_and_turns_out_to_be_lost_here_is_fetched_first() {
    let Two { dirs, mut a, mut b, remote, .. } = two(&["one"]);
    let object = a.manifest().unwrap().objects().next().unwrap().row.object.to_string();
    std::fs::remove_file(dirs[0].path().join("objects").join(&object[..2]).join(&object)).unwrap();
    for name in segments(&remote, a.device().id) {
        flip(&remote, &name);
        std::fs::remove_file(dirs[0].path().join("local").join(&name)).unwrap();
    }
    add(&mut a, "two");
    let (report, findings) = try_sync(&mut a, &remote, Options::default());
    report.unwrap();
    assert!(
        findings.iter().any(|it| matches!(it, Finding::Healed { .. })),
        "the mirror had it: {findings:?}"
    );
    sync(&mut b, &remote);
    assert_eq!(titles(&mut b), ["one", "two"]);
    let (_dir, mut c) = third(&remote);
    try_sync(&mut c, &remote, Options::default()).0.unwrap();
    assert_eq!(titles(&mut c), ["one", "two"]);
}

#[test]
fn what_another_device_has_read_and_the_mirror_does_not_show_is_named() {
    let Two { dirs: _dirs, mut a, mut b, clocks, remote } = two(&[]);
    add(&mut a, "withheld");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    clocks[1].advance(2 * DAY_MS);
    add(&mut b, "shown");
    sync(&mut b, &remote);
    // Whoever comes now is shown everything but what the first device announced last.
    let laptop = a.device().id;
    for name in
        segments(&remote, laptop).into_iter().filter(|name| name.contains(".1-2.") || name.contains(".2-2."))
    {
        remote.remove_file(&path(&name));
    }
    let (_dir, mut c) = third(&remote);
    let (report, findings) = try_sync(&mut c, &remote, Options::default());
    report.unwrap();
    let named = |finding: &Finding| matches!(finding, Finding::Withheld { device, by, .. } if *device == laptop && by == "desktop");
    assert!(findings.iter().any(named), "{findings:?}");
    // Whoever has read it sends it again.
    sync(&mut b, &remote);
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["shown", "withheld"]);
}

#[test]
fn what_the_mirror_took_and_did_not_keep_is_neither_called_stored_nor_announced() {
    let half = |bytes: &Bytes| Some(bytes.slice(..bytes.len() / 2));
    let kinds = [("half", half as fn(&Bytes) -> Option<Bytes>), ("nothing", |_| None)];
    // One file, which is asked for by name; several, which are listed; and a pack.
    for (kept, keeps) in kinds {
        for count in [1, 3, 20] {
            let Two { dirs: _dirs, mut a, mut b, remote, .. } = two(&[]);
            add_many(&mut a, count);
            let keeps = |file: &RemotePath, bytes: Bytes| match file.as_str().starts_with("objects/") {
                true => Ok(keeps(&bytes)),
                false => Ok(Some(bytes)),
            };
            let lying = Uploads { memory: &remote, keeps };
            let (report, findings) = try_sync(&mut a, &lying, Options::default());
            let report = report.unwrap();
            assert!(
                (report.pushed, report.unsent) == (0, count as u64) && !report.is_settled(),
                "{kept} of {count} was kept, and they are called stored: {report:?}"
            );
            let named = |it: &Finding| matches!(it, Finding::MirrorDamaged { .. });
            assert!(findings.iter().any(named), "{findings:?}");
            let (report, findings) = try_sync(&mut b, &remote, Options::default());
            assert!(report.unwrap().pending == 0 && findings.is_empty(), "announced: {findings:?}");
            sync(&mut a, &remote);
            sync(&mut b, &remote);
            assert_eq!(titles(&mut b).len(), count);
        }
    }
}

#[test]
fn what_is_damaged_here_is_never_sent() {
    // As single files, and in a pack.
    for count in [3, 20] {
        let Two { dirs, mut a, mut b, remote, .. } = two(&[]);
        let entries = add_many(&mut a, count);
        let version = a.entry(entries[1]).unwrap().version.id;
        let damaged = *a.manifest().unwrap().version(version).unwrap().objects.first().unwrap();
        let hex = damaged.to_string();
        let file = dirs[0].path().join("objects").join(&hex[..2]).join(&hex);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[2_000] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let (report, findings) = try_sync(&mut a, &remote, Options::default());
        for (file, bytes) in remote.files().iter().filter(|(file, _)| file.starts_with("objects/")) {
            let objects = pack::read(bytes).unwrap_or_else(|_| vec![(object_name(bytes), &bytes[..])]);
            let intact = |(name, object): &(ObjectName, &[u8])| {
                object_name(object) == *name && identify(a.keyring(), object.to_vec()).is_ok()
            };
            assert!(objects.iter().all(intact), "what is damaged here was sent: {file}");
        }
        assert_eq!(report.unwrap().pushed, count as u64 - 1);
        let named = |it: &Finding| matches!(it, Finding::Damaged { object, .. } if *object == damaged);
        assert!(findings.iter().any(named), "{findings:?}");
        sync(&mut b, &remote);
        assert_eq!(titles(&mut b).len(), count - 1);
    }
}
