//! What nobody needs any more goes, here and on the mirror; what anybody may still need stays, whatever comes back.

use std::collections::BTreeSet;

use crate::common::cli::*;
use crate::common::devices::{Devices, KEEP, keeping, released};
use crate::common::*;
use espejo::event::Finding;
use espejo::history::Retention;
use espejo::id::{EntryId, ObjectName};
use espejo::remote::{MemoryRemote, RemotePath};
use espejo::sync::{self, Error, Guard, Options};
use espejo::vault::{Change, Edit};
use espejo::version::{Kind, MadeOn};

fn write_versions(vault: &mut TestVault, entry: EntryId, count: usize) {
    (0..count).for_each(|n| edit(vault, entry, &format!("edit {n}")));
}

fn objects_here(vault: &mut TestVault) -> BTreeSet<ObjectName> {
    let manifest = vault.manifest().unwrap();
    manifest.objects().filter(|state| state.here).map(|state| state.row.object).collect()
}

#[test]
fn old_history_goes_everywhere_once_everybody_knows_what_came_after() {
    let mut world = Devices::new(2);
    let entry = add(&mut world.vaults[0], "first");
    world.sync(0);
    for _ in 0..5 {
        edit(&mut world.vaults[0], entry, "again");
        world.sync(0);
    }
    world.sync(1);
    assert_eq!(world.objects_on_mirror(), 6);
    world.days(3, &[0, 1]);
    assert_eq!((world.versions(0, entry), world.versions(1, entry)), (6, 6), "all of it is young");
    let retired = world.months(&[0, 1]);
    assert_eq!((world.versions(0, entry), world.versions(1, entry)), (2, 2));
    assert_eq!((retired, world.objects_on_mirror()), (8, 2), "four versions on each, and their files");
    for device in 0..2 {
        assert_eq!(titles(&mut world.vaults[device]), ["again"]);
        assert!(world.vaults[device].check().unwrap().is_clean());
        assert_eq!(objects_here(&mut world.vaults[device]).len(), 2);
    }
    world.sync(0);
    let idle = world.sync(0);
    assert_eq!((idle.requests, idle.is_settled()), (1, true));
    // Whoever comes new waits for nothing that is gone, and nor does an index that is made again.
    world.join();
    let report = world.sync(2);
    assert_eq!((report.pending, world.versions(2, entry)), (0, 2));
    std::fs::remove_file(world.dirs[1].path().join("local/manifest")).unwrap();
    world.vaults[1] = open_vault(world.dirs[1].path(), &world.clock);
    let report = world.sync(1);
    assert_eq!((report.pending, report.pulled, report.pushed, world.versions(1, entry)), (0, 0, 0, 2));
}

#[test]
fn nothing_goes_while_one_device_has_not_read_what_came_after() {
    let mut world = Devices::new(2);
    let entry = add(&mut world.vaults[0], "first");
    world.sync(0);
    world.sync(1);
    for _ in 0..5 {
        edit(&mut world.vaults[0], entry, "again");
        world.sync(0);
    }
    world.clock.advance(400 * DAY_MS);
    assert_eq!(world.days(5, &[0]), 0, "the second device is away");
    assert_eq!((world.versions(0, entry), world.objects_on_mirror()), (6, 6));
    // Its answer is what the time is counted from.
    world.days(3, &[0, 1]);
    assert_eq!(world.days(3, &[0, 1]), 0);
    assert!(world.months(&[0, 1]) > 0);
    assert_eq!(world.versions(0, entry), 2);
}

#[test]
fn a_retired_device_is_not_waited_for_and_counts_again_when_it_comes_back() {
    let mut world = Devices::new(3);
    let entry = add(&mut world.vaults[0], "first");
    for device in 0..3 {
        world.sync(device);
    }
    edit(&mut world.vaults[2], entry, "written far away, and never sent");
    for _ in 0..5 {
        edit(&mut world.vaults[0], entry, "again");
        world.sync(0);
    }
    let away = world.vaults[2].device().id;
    assert_eq!(world.months(&[0, 1]), 0);
    world.vaults[1].retire_device(away).unwrap();
    world.days(1, &[1, 0]);
    for device in 0..2 {
        let devices = sync::devices(&mut world.vaults[device]).unwrap();
        assert_eq!(devices.iter().filter(|it| it.retired).map(|it| it.id).collect::<Vec<_>>(), [away]);
    }
    assert!(world.months(&[0, 1]) > 0);
    assert_eq!(world.versions(0, entry), 2);

    world.clock.advance(2 * YEAR_MS);
    let (report, findings) = world.try_sync(2, keeping(KEEP));
    let report = report.unwrap();
    assert!(
        findings.iter().any(|it| matches!(it, Finding::DeviceReturned { device, .. } if *device == away))
    );
    assert_eq!(
        (report.pulled, report.conflicts),
        (2, 1),
        "what it wrote is kept beside what was written since"
    );
    let (_, findings) = world.try_sync(0, keeping(KEEP));
    assert!(
        findings.iter().any(|it| matches!(it, Finding::DeviceReturned { device, .. } if *device == away))
    );
    for device in [0, 2] {
        let state = world.vaults[device].entry(entry).unwrap();
        assert_eq!((state.summary.title.as_str(), state.losers.len()), ("again", 1));
        assert!(sync::devices(&mut world.vaults[device]).unwrap().iter().all(|it| !it.retired));
    }
    // The loser of the conflict stays as long as nobody settles it.
    world.months(&[0, 1, 2]);
    world.months(&[0, 1, 2]);
    for device in 0..3 {
        assert_eq!(world.vaults[device].entry(entry).unwrap().losers.len(), 1);
        assert!(world.vaults[device].check().unwrap().is_clean());
    }
}

/// Deletes an entry and lets it be buried.
fn bury(world: &mut Devices, devices: &[usize], entry: EntryId) {
    delete(&mut world.vaults[0], entry);
    world.sync(0);
    for device in devices {
        world.sync(*device);
    }
    world.months(devices);
    assert!(world.vaults[0].entries().unwrap().iter().all(|it| it.id() != entry));
}

#[test]
fn of_an_old_deletion_nothing_stays_but_the_word_of_it() {
    let mut world = Devices::new(2);
    let (gone, kept) = (add(&mut world.vaults[0], "gone"), add(&mut world.vaults[0], "kept"));
    edit(&mut world.vaults[0], gone, "gone soon");
    world.sync(0);
    world.sync(1);
    bury(&mut world, &[0, 1], gone);
    for device in 0..2 {
        assert_eq!(objects_here(&mut world.vaults[device]).len(), 1);
        assert_eq!(world.vaults[device].entry(kept).unwrap().summary.title, "kept");
        let history = world.vaults[device].history(gone).unwrap();
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].version.kind, Kind::Tombstone);
        assert_eq!(world.vaults[device].content(history[0].version.id).unwrap(), None);
        assert!(world.vaults[device].check().unwrap().is_clean());
    }
    assert_eq!(world.objects_on_mirror(), 1);
    // An index that is made again from the objects and the feeds knows it too.
    std::fs::remove_file(world.dirs[1].path().join("local/manifest")).unwrap();
    world.vaults[1] = open_vault(world.dirs[1].path(), &world.clock);
    assert_eq!(world.vaults[1].history(gone).unwrap().len(), 1);
    // So does another mirror, before anything else is put there.
    let other = MemoryRemote::new();
    world.vaults[1].forget_remote().unwrap();
    set_remote(&mut world.vaults[1]);
    world.remote = other;
    world.sync(1);
    world.join();
    assert_eq!(world.vaults[2].history(gone).unwrap().len(), 1);
}

#[test]
fn a_device_back_after_two_years_brings_no_deleted_entry_back() {
    let mut world = Devices::new(3);
    let entries = add_many(&mut world.vaults[0], 30);
    for device in 0..3 {
        world.sync(device);
    }
    // What it wrote before it went away, and what it wrote without knowing of the deletion.
    edit(&mut world.vaults[2], entries[0], "written without knowing");
    let away = world.vaults[2].device().id;
    world.vaults[0].retire_device(away).unwrap();
    let edits = entries.iter().map(|entry| {
        let made_on = MadeOn::Version(world.vaults[0].entry(*entry).unwrap().version.id);
        Edit { entry: Some(*entry), made_on, change: Change::Delete }
    });
    let edits = edits.collect::<Vec<_>>();
    world.vaults[0].save(&edits).unwrap();
    world.sync(0);
    world.try_sync(1, Options { accept_deletes: true, ..keeping(KEEP) }).0.unwrap();
    world.months(&[0, 1]);
    world.clock.advance(2 * YEAR_MS);
    world.days(3, &[0, 1]);
    assert_eq!(world.objects_on_mirror(), 0);
    assert_eq!(world.vaults[0].entries().unwrap(), []);

    // The deletions are nowhere but in the feeds, and they count for the guard as any others.
    let stopped = world.try_sync(2, keeping(KEEP)).0;
    assert!(
        matches!(stopped, Err(Error::Guard(Guard::MassDelete { deletes: 30, live: 30, .. }))),
        "{stopped:?}"
    );
    world.try_sync(2, Options { accept_deletes: true, ..keeping(KEEP) }).0.unwrap();
    world.days(4, &[0, 1, 2]);
    for device in 0..3 {
        let listed = world.vaults[device].entries().unwrap();
        assert_eq!(
            listed.iter().map(espejo::vault::EntryState::id).collect::<Vec<_>>(),
            [entries[0]],
            "only the conflict"
        );
        assert_eq!(
            listed[0].losers.len(),
            1,
            "an edit made without knowledge of the deletion is kept and shown"
        );
        let shown = BTreeSet::from([listed[0].version.id, listed[0].losers[0]]);
        let titles = shown.iter().map(|version| world.vaults[device].content(*version).unwrap());
        let titles = titles.map(|content| content.map(|content| content.title)).collect::<BTreeSet<_>>();
        assert_eq!(titles, [None, Some("written without knowing".to_owned())].into());
        assert!(world.vaults[device].check().unwrap().is_clean());
    }
    let state = world.vaults[1].entry(entries[0]).unwrap();
    let edit = Edit {
        entry: Some(entries[0]),
        made_on: MadeOn::Everything,
        change: Change::Content(text("kept", "")),
    };
    world.vaults[1].save(&[edit]).unwrap();
    world.sync(1);
    world.sync(2);
    let settled = world.vaults[2].entry(entries[0]).unwrap();
    assert_eq!((settled.deleted(), settled.losers.len()), (false, 0), "{state:?}");
}

#[test]
fn a_server_rolled_back_and_an_old_image_bring_nothing_back() {
    let mut world = Devices::new(2);
    let entry = add(&mut world.vaults[0], "gone");
    add(&mut world.vaults[0], "kept");
    world.sync(0);
    world.sync(1);
    let before = world.remote.files();
    let image = tempfile::tempdir().unwrap();
    copy_dir(world.dirs[1].path(), image.path());
    bury(&mut world, &[0, 1], entry);

    world
        .remote
        .files()
        .keys()
        .for_each(|name| assert!(world.remote.remove_file(&RemotePath::new(name).unwrap())));
    before
        .into_iter()
        .for_each(|(name, bytes)| world.remote.set_file(&RemotePath::new(&name).unwrap(), bytes));
    world.days(3, &[0, 1]);
    let old = open_vault(image.path(), &world.clock);
    world.vaults.push(old);
    world.dirs.push(image);
    world.days(4, &[2, 0, 1]);
    world.join();
    for device in 0..4 {
        assert_eq!(titles(&mut world.vaults[device]), ["kept"], "device {device}");
        assert!(world.vaults[device].check().unwrap().is_clean());
        let state = world.vaults[device].history(entry).unwrap();
        assert_eq!(state[0].version.kind, Kind::Tombstone);
    }
}

#[test]
fn what_one_device_still_needs_it_sends_again() {
    let mut world = Devices::new(2);
    let entry = add(&mut world.vaults[0], "first");
    world.sync(0);
    for _ in 0..5 {
        edit(&mut world.vaults[0], entry, "again");
        world.sync(0);
    }
    world.sync(1);
    // The second device keeps everything for ever, and never agrees.
    let for_ever = Retention { age_ms: 1_000 * YEAR_MS, ..KEEP };
    for days in [2, 2, 40, 2, 2, 2, 2, 2] {
        world.clock.advance(days * DAY_MS);
        world.sync(0);
        world.try_sync(1, keeping(for_ever)).0.unwrap();
    }
    world.sync(0);
    assert_eq!((world.versions(0, entry), world.versions(1, entry)), (6, 6));
    world.join();
    assert_eq!(world.versions(2, entry), 6);
}

#[test]
fn an_attachment_goes_with_the_last_version_that_names_it_and_comes_back_with_a_new_one() {
    let mut world = Devices::new(2);
    let attach = |vault: &mut TestVault, text: &mut espejo::entry::Content| {
        let blob = vault.store_blob(&mut &b"the bytes of a picture"[..]).unwrap();
        let (name, media_type) = ("p.png".to_owned(), "image/png".to_owned());
        text.attachments.push(espejo::entry::Attachment { name, media_type, blob });
    };
    let mut content = text("with a picture", "");
    attach(&mut world.vaults[0], &mut content);
    let new = Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content.clone()) };
    let saved = world.vaults[0].save(&[new]).unwrap().remove(0);
    world.sync(0);
    world.sync(1);
    assert_eq!(world.objects_on_mirror(), 2);
    for _ in 0..3 {
        edit(&mut world.vaults[0], saved.entry, "without");
        world.sync(0);
    }
    world.days(2, &[0, 1]);
    world.clock.advance(40 * DAY_MS);
    world.sync(0);
    // Released, and not dropped yet: the other device makes a new version that names it, and has it.
    let reverted = Edit {
        entry: Some(saved.entry),
        made_on: MadeOn::Everything,
        change: Change::Content(content.clone()),
    };
    world.vaults[1].save(&[reverted]).unwrap();
    world.days(4, &[1, 0]);
    world.join();
    for device in 0..3 {
        let state = world.vaults[device].entry(saved.entry).unwrap();
        let shown = world.vaults[device].content(state.version.id).unwrap().unwrap();
        let bytes = world.vaults[device].blob_bytes(&shown.attachments[0].blob, 1_000).unwrap();
        assert_eq!(bytes, b"the bytes of a picture", "device {device}");
    }
    // And when nothing names it for long, it goes.
    let mut plain = text("plain", "");
    for n in 0..3 {
        plain.title = format!("plain {n}");
        let change = Change::Content(plain.clone());
        let edit = Edit { entry: Some(saved.entry), made_on: MadeOn::Everything, change };
        world.vaults[0].save(&[edit]).unwrap();
        world.sync(0);
    }
    for device in 0..3 {
        world.sync(device);
    }
    world.months(&[0, 1, 2]);
    for device in 0..3 {
        let manifest = world.vaults[device].manifest().unwrap();
        let mut parts = manifest.objects().filter(|it| it.row.subject == espejo::manifest::Subject::Part);
        assert!(parts.next().is_none(), "device {device}");
    }
}

#[test]
fn a_pack_goes_when_nothing_in_it_is_needed_and_is_written_anew_when_little_is() {
    let mut world = Devices::new(2);
    let entries = add_many(&mut world.vaults[0], 20);
    world.sync(0);
    world.sync(1);
    assert_eq!(world.objects_on_mirror(), 1, "one pack");
    let delete =
        |entry: &EntryId| Edit { entry: Some(*entry), made_on: MadeOn::Everything, change: Change::Delete };
    world.vaults[0].save(&entries[3..].iter().map(delete).collect::<Vec<_>>()).unwrap();
    let all = Options { accept_deletes: true, ..keeping(KEEP) };
    world.try_sync(0, all).0.unwrap();
    world.try_sync(1, all).0.unwrap();
    assert_eq!(world.objects_on_mirror(), 2, "and one of deletions");
    world.months(&[0, 1]);
    world.days(3, &[0, 1]);
    assert_eq!(world.objects_on_mirror(), 3, "what is left, one by one");
    world.join();
    for device in 0..3 {
        assert_eq!(titles(&mut world.vaults[device]), ["entry 0", "entry 1", "entry 2"]);
        assert!(world.vaults[device].check().unwrap().is_clean());
        assert_eq!(objects_here(&mut world.vaults[device]).len(), 3);
    }
}

#[test]
fn a_vault_without_a_mirror_and_a_device_that_never_told_keep_everything() {
    let clock = TestClock::at(NOW);
    let dir = tempfile::tempdir().unwrap();
    let mut vault = new_vault(dir.path(), "alone", &clock);
    let entry = add(&mut vault, "first");
    write_versions(&mut vault, entry, 30);
    clock.advance(10 * YEAR_MS);
    assert!(try_sync(&mut vault, &MemoryRemote::new(), keeping(KEEP)).0.is_err());
    assert_eq!(vault.history(entry).unwrap().len(), 31);
}

#[test]
fn by_default_everything_stays_for_ninety_days_and_then_the_last_ten() {
    let mut world = Devices::new(1);
    let entry = add(&mut world.vaults[0], "first");
    world.sync(0);
    for n in 0..14 {
        edit(&mut world.vaults[0], entry, &format!("edit {n}"));
        world.try_sync(0, Options::default()).0.unwrap();
    }
    let mut counts = Vec::new();
    for _ in 0..100 {
        world.clock.advance(DAY_MS + 60_000);
        world.try_sync(0, Options::default()).0.unwrap();
        counts.push(world.versions(0, entry));
    }
    assert!(counts[..90].iter().all(|count| *count == 15));
    assert_eq!(counts.last(), Some(&10));
}

#[test]
fn files_go_from_the_mirror_after_everybody_was_told_and_only_their_own_device_removes_them() {
    let mut world = Devices::new(2);
    let entry = add(&mut world.vaults[0], "first");
    world.sync(0);
    world.sync(1);
    for device in [1, 0, 1, 0] {
        edit(&mut world.vaults[device], entry, "again");
        world.sync(device);
        world.sync(1 - device);
    }
    let mut there = BTreeSet::new();
    world.days(2, &[0, 1]);
    world.clock.advance(40 * DAY_MS);
    for device in [0, 1, 0, 1, 0, 1, 0, 1] {
        world.clock.advance(DAY_MS);
        let told = released(&world.remote, &world.vaults[0]);
        let before = world.remote.files().into_keys().collect::<BTreeSet<_>>();
        world.sync(device);
        let after = world.remote.files().into_keys().collect::<BTreeSet<_>>();
        let prefix = espejo::event::short(world.vaults[device].device().id);
        for file in before.difference(&after).filter(|name| name.starts_with("objects/")) {
            assert!(file.starts_with(&format!("objects/{prefix}-")), "{file} is another device's");
            let name = file.rsplit('/').next().unwrap();
            assert!(told.iter().any(|(.., it)| it.to_string() == name), "{file} went without a word");
            there.insert(file.clone());
        }
    }
    assert_eq!(there.len(), 3);
}

#[test]
fn looking_after_what_is_old_costs_no_idle_sync_and_no_edit_a_request() {
    let mut world = Devices::new(1);
    let entry = add(&mut world.vaults[0], "first");
    world.sync(0);
    for n in 0..4 {
        edit(&mut world.vaults[0], entry, &format!("edit {n}"));
        world.sync(0);
    }
    world.months(&[0]);
    assert_eq!(world.versions(0, entry), 2);
    assert_eq!(world.sync(0).requests, 1);
    edit(&mut world.vaults[0], entry, "one more");
    assert_eq!(world.sync(0).requests, 4);
    assert_eq!(world.sync(0).requests, 1);
}

#[test]
fn devices_are_listed_renamed_and_retired_by_command() {
    let laptop = Cli::with_vault();
    let (mirror, phone) = (laptop.arg("mirror"), laptop.arg("phone"));
    laptop.json(&["remote", "set", &mirror]);
    laptop.add("hello");
    laptop.json(&["sync"]);
    let list = || laptop.json(&["devices"])["devices"].as_array().unwrap().clone();
    let alone = list();
    assert_eq!(alone.len(), 1);
    fields(&alone[0], "id:s name:s this:b last_seen:s acknowledged:b retired:b program:s");
    assert_eq!((alone[0]["this"].as_bool(), alone[0]["retired"].as_bool()), (Some(true), Some(false)));

    laptop.json(&["clone", &mirror, &phone, "--device-name", "phone"]);
    laptop.json(&["devices", "rename", "Ada's laptop"]);
    laptop.json(&["sync"]);
    let on_phone = |args: &[&str]| laptop.json(&[&["--vault", &phone], args].concat());
    on_phone(&["sync"]);
    let seen = on_phone(&["devices", "list"]);
    let names = seen["devices"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned());
    assert_eq!(names.collect::<Vec<_>>(), ["phone", "Ada's laptop"]);
    laptop.json(&["sync"]);

    let phone_id = list().iter().find(|it| it["name"] == "phone").unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(laptop.error(2, &["devices", "retire", "Ada's laptop"])["kind"], "is_this_device");
    assert_eq!(laptop.error(4, &["devices", "retire", "nobody"])["kind"], "not_found");
    let planned = laptop.json(&["devices", "retire", "phone", "-n"]);
    assert_eq!((&planned["dry_run"], &planned["retired"]["id"]), (&true.into(), &phone_id.as_str().into()));
    let retired = || {
        let retired = list().into_iter().filter(|it| it["retired"] == true);
        retired.map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(retired(), Vec::<String>::new(), "a dry run changes nothing");
    laptop.json(&["devices", "retire", &phone_id[..8]]);
    assert_eq!(retired(), ["phone"]);
    laptop.json(&["sync"]);
    // It comes back, says so, and counts again.
    let back = on_phone(&["sync"]);
    let kinds = back["warnings"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap());
    assert_eq!(kinds.collect::<Vec<_>>(), ["device_returned"]);
    laptop.json(&["sync"]);
    assert_eq!(retired(), Vec::<String>::new());
    laptop.error(2, &["devices", "rename", " "]);
}
