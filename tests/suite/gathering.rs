//! Old small files on the mirror are gathered into packs: nobody misses anything meanwhile, and a clone asks for few.

use std::collections::BTreeMap;

use crate::common::devices::{Devices, KEEP, released};
use crate::common::uploads::Uploads;
use crate::common::*;
use bytes::Bytes;
use espejo::remote::{RemoteErrorKind, RemotePath};
use espejo::sync::{Error, Options, Report};

/// As few small files as packs are made of.
const GATHERING: Options = Options { retention: KEEP, small_files: 8, ..Options::DEFAULT };

#[test]
fn old_small_files_become_packs_and_nobody_misses_them() {
    let mut world = Devices::new(2);
    add_one_by_one(&mut world, 12);
    // One device reads what was announced, and the files are slow to come.
    let files = world.remote.files().into_iter().filter(|(name, _)| name.starts_with("objects/"));
    let files = files.map(|(name, bytes)| (RemotePath::new(&name).unwrap(), bytes)).collect::<Vec<_>>();
    assert!(files.iter().all(|(file, _)| world.remote.remove_file(file)));
    assert_eq!(world.sync(1).pending, 12);
    files.into_iter().for_each(|(file, bytes)| world.remote.set_file(&file, bytes));

    let mut gather = |days: i64| {
        world.clock.advance(days * DAY_MS + 60_000);
        let report = world.try_sync(0, GATHERING).0.unwrap();
        assert_eq!((report.pushed, report.unsent, report.retired), (0, 0, 0), "nothing new is sent");
        world.objects_on_mirror()
    };
    assert_eq!(gather(6), 12, "all of it is young");
    assert_eq!(gather(1), 13, "and one pack");
    assert_eq!(gather(1), 13, "the others are told first");
    assert_eq!(gather(1), 1);
    assert_eq!(gather(1), 1, "nothing is gathered twice");
    assert_eq!(world.try_sync(0, GATHERING).0.unwrap().requests, 1);

    // The one that was late, one that comes new, and one with a new index.
    let late = world.sync(1);
    assert_eq!((late.pulled, late.pending), (12, 0));
    world.join();
    assert_eq!(world.vaults[2].entries().unwrap().len(), 12);
    std::fs::remove_file(world.dirs[0].path().join("local/manifest")).unwrap();
    world.vaults[0] = open_vault(world.dirs[0].path(), &world.clock);
    assert_eq!(world.vaults[0].manifest().unwrap().unmirrored().count(), 0);
    for device in 0..3 {
        let report = world.sync(device);
        assert_eq!((report.pulled, report.pushed, report.pending), (0, 0, 0), "device {device}");
        assert!(world.vaults[device].check().unwrap().is_clean());
        assert_eq!(titles(&mut world.vaults[device]).len(), 12);
    }
}

#[test]
fn few_small_files_stay_as_they_are() {
    let mut world = Devices::new(1);
    add_one_by_one(&mut world, 8);
    let this = world.vaults[0].device().id;
    for small_files in [8, 0] {
        world.clock.advance(9 * DAY_MS);
        let report = world.try_sync(0, Options { small_files, ..GATHERING }).0.unwrap();
        assert_eq!((report.pushed, world.objects_on_mirror()), (0, 8));
        let announced = world.vaults[0].manifest().unwrap().feeds()[&this].seq;
        assert_eq!(announced, 1 + 8, "the device itself, and one for each");
    }
}

fn add_one_by_one(world: &mut Devices, count: usize) {
    for n in 0..count {
        add(&mut world.vaults[0], &format!("number {n}"));
        world.sync(0);
    }
}

/// A sync of a day later, with a mirror that refuses packs like this.
fn day_without_packs(world: &mut Devices, kind: RemoteErrorKind) -> Result<Report, Error> {
    world.clock.advance(DAY_MS + 60_000);
    let keeps = |file: &RemotePath, bytes: Bytes| match file.as_str().starts_with("objects/") {
        true if bytes.len() > 20_000 => Err(kind.clone()),
        _ => Ok(Some(bytes)),
    };
    let remote = world.remote.share();
    try_sync(&mut world.vaults[0], &Uploads { memory: &remote, keeps }, GATHERING).0
}

#[test]
fn what_is_new_does_not_wait_for_a_pack_that_is_refused() {
    let mut world = Devices::new(1);
    add_one_by_one(&mut world, 9);
    world.clock.advance(8 * DAY_MS);
    let broken = RemoteErrorKind::Unavailable { status: 502, retry_after_secs: None };
    for kind in [broken, RemoteErrorKind::TooLarge] {
        add(&mut world.vaults[0], "written meanwhile");
        let is_fatal = kind != RemoteErrorKind::TooLarge;
        assert_eq!(day_without_packs(&mut world, kind).is_err(), is_fatal);
        assert_eq!(world.vaults[0].manifest().unwrap().unmirrored().count(), 0);
    }
    world.join();
    assert_eq!(world.vaults[1].entries().unwrap().len(), 11);
}

#[test]
fn a_full_mirror_gets_room_although_a_pack_has_none() {
    let mut world = Devices::new(1);
    add_one_by_one(&mut world, 12);
    world.clock.advance(DAY_MS);
    add_one_by_one(&mut world, 9);
    world.clock.advance(7 * DAY_MS - 60_000);
    world.try_sync(0, GATHERING).0.unwrap();
    assert_eq!(world.objects_on_mirror(), 12 + 9 + 1);
    // The second nine are old enough now.
    let report = day_without_packs(&mut world, RemoteErrorKind::Full).unwrap();
    assert_eq!((report.unsent, report.is_settled()), (0, true));
    assert_eq!(released(&world.remote, &world.vaults[0]).len(), 12);
    day_without_packs(&mut world, RemoteErrorKind::Full).unwrap();
    assert_eq!(world.objects_on_mirror(), 9 + 1);
}

#[test]
fn a_pack_is_read_before_anything_is_given_up_for_it() {
    let mut world = Devices::new(1);
    add_one_by_one(&mut world, 12);
    let before = world.remote.files();
    world.clock.advance(8 * DAY_MS);
    world.try_sync(0, GATHERING).0.unwrap();
    // Its length is right and its bytes are not.
    let is_pack = |name: &String| name.starts_with("objects/") && !before.contains_key(name);
    let (name, pack) = world.remote.files().into_iter().find(|(name, _)| is_pack(name)).unwrap();
    world.remote.set_file(&RemotePath::new(&name).unwrap(), vec![0; pack.len()].into());
    for _ in 0..4 {
        world.clock.advance(DAY_MS + 60_000);
        world.try_sync(0, GATHERING).0.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut newcomer = clone_vault(dir.path(), "new", &world.clock, &world.remote);
        set_remote(&mut newcomer);
        assert_eq!(sync(&mut newcomer, &world.remote.share()).pending, 0);
    }
    assert_eq!(world.objects_on_mirror(), 1);
}

#[test]
fn an_index_that_is_made_again_knows_where_everything_lies_now() {
    let mut world = Devices::new(1);
    add_one_by_one(&mut world, 12);
    world.clock.advance(8 * DAY_MS);
    world.try_sync(0, GATHERING).0.unwrap();
    std::fs::remove_file(world.dirs[0].path().join("local/manifest")).unwrap();
    world.vaults[0] = open_vault(world.dirs[0].path(), &world.clock);
    for expected in [13, 1, 1] {
        world.clock.advance(DAY_MS + 60_000);
        world.try_sync(0, GATHERING).0.unwrap();
        assert_eq!(world.objects_on_mirror(), expected);
    }
}

#[test]
fn a_batch_directory_holds_512_files_at_most_those_that_are_to_go_among_them() {
    // When files were sent again, when they were released, and when they are removed.
    for (days, expected) in [(1, 500 + 1), (2, 500 + 1), (3, 500 + 1 - 256)] {
        let mut world = Devices::new(1);
        let write = |world: &mut Devices, files: usize| {
            for n in (0..files).step_by(8) {
                (n..files.min(n + 8)).for_each(|n| {
                    add(&mut world.vaults[0], &format!("number {n}"));
                });
                world.try_sync(0, GATHERING).0.unwrap();
            }
        };
        write(&mut world, 500);
        for _ in 0..days {
            // With so many allowed only the first of these days gathers.
            let small_files = 300;
            world.clock.advance(8 * DAY_MS);
            world.try_sync(0, Options { small_files, ..GATHERING }).0.unwrap();
        }
        assert_eq!(world.objects_on_mirror(), expected);
        write(&mut world, 16);
        let mut files = BTreeMap::<_, u32>::new();
        for name in world.remote.files().into_keys().filter(|name| name.starts_with("objects/")) {
            *files.entry(name.rsplit_once('/').unwrap().0.to_owned()).or_default() += 1;
        }
        assert!(files.values().all(|files| *files <= 512), "after {days} days: {files:?}");
    }
}

#[test]
fn a_vault_edited_daily_for_half_a_year_is_cloned_in_few_requests() {
    let mut world = Devices::new(2);
    for day in 0..180 {
        world.clock.advance(DAY_MS);
        let entry = add(&mut world.vaults[0], &format!("day {day}"));
        world.try_sync(0, Options::DEFAULT).0.unwrap();
        edit(&mut world.vaults[0], entry, &format!("day {day}, in the evening"));
        world.try_sync(0, Options::DEFAULT).0.unwrap();
        world.try_sync(1, Options::DEFAULT).0.unwrap();
    }
    let clone = world.join();
    assert_eq!((clone.pulled, clone.pending), (360, 0));
    assert!(clone.requests <= 100, "{} requests", clone.requests);
}
