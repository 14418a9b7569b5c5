//! The way back from a backup: everything, what is intact, or single entries; and backups that are made by themselves.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::common::cli::{Cli, files, temp_dir, text_of};
use crate::common::*;
use espejo::crypto::object_name;
use espejo::host::ThisMachine;
use espejo::vault::{self, Backup, BackupPlan, Error};
use serde_json::{Value, json};

#[test]
fn everything_lost_comes_back_from_an_automatic_backup_and_a_password() {
    let cli = Cli::with_vault();
    let photo = (0..300_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect::<Vec<_>>();
    let first = text_of(
        &cli.json(&["add", "-m", "a walk", "-T", "outside", "-a", &cli.file("photo.jpg", &photo)])["added"]
            [0]["id"],
    );
    cli.json(&["backup", "auto", "--every", "1m"]);
    // From now on any command makes one when it is due; the clock is made to say so.
    cli.json(&["edit", &first, "-m", "a long walk"]);
    let deleted = cli.add("to be deleted");
    cli.json(&["rm", &deleted]);
    let status = cli.vault.join("local/status");
    let mut known: Value = serde_json::from_slice(&fs::read(&status).unwrap()).unwrap();
    known["last_backup"] = json!(5);
    fs::write(&status, known.to_string()).unwrap();
    let list = cli.run(&["list", "--json"]);
    assert!(list.stderr.is_empty(), "nothing but the list, for a program: {list:?}");
    let (list, log) = (list.json(), cli.json(&["log", &first]));
    let deleted_list = cli.json(&["list", "--deleted"]);
    assert_eq!(log["versions"].as_array().unwrap().len(), 2);

    let backups = fs::read_dir(cli.path("vault-backups")).unwrap().map(|item| item.unwrap().path());
    let newest = backups.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::remove_dir_all(&cli.vault).unwrap();
    cli.json(&["restore", newest.to_str().unwrap(), "--to", cli.vault.to_str().unwrap()]);
    assert_eq!(cli.json(&["list"]), list);
    assert_eq!(cli.json(&["list", "--deleted"]), deleted_list);
    assert_eq!(cli.json(&["log", &first]), log);
    let out = cli.arg("again.jpg");
    cli.run(&["show", &first, "--attachment", "photo.jpg", "-o", &out]).exits(0);
    assert_eq!(object_name(&fs::read(&out).unwrap()), object_name(&photo));
    assert_eq!(cli.run(&["check"]).code, 0);
}

/// A vault with text and an attachment, and its backup.
fn backed_up(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut vault = new_vault(&dir.join("vault"), "laptop", &TestClock::at(NOW));
    add_many(&mut vault, 5);
    let blob = vault.store_blob(&mut &[7; 10_000][..]).unwrap();
    let mut content = text("with a file", "text");
    let (name, media_type) = ("file.bin".to_owned(), "application/octet-stream".to_owned());
    content.attachments.push(espejo::entry::Attachment { name, media_type, blob });
    let change = vault::Change::Content(content);
    vault.save(&[vault::Edit { entry: None, made_on: espejo::version::MadeOn::Everything, change }]).unwrap();
    let path = dir.join("good.tar");
    vault.backup(&path).unwrap();
    let good = fs::read(&path).unwrap();
    (path, good)
}

/// Where the files of a tar lie whose names begin with `prefix`: each header with its content.
fn places(tar: &[u8], prefix: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((path, len)) = tar.get(at..at + 512).and_then(espejo::format::backup::read_tar_header) {
        let end = at + 512 + len as usize;
        if path.starts_with(prefix) {
            found.push(at..end);
        }
        at = end.next_multiple_of(512);
    }
    found
}

#[test]
fn of_a_damaged_backup_nothing_is_restored_or_all_that_is_intact() {
    let temp = temp_dir();
    let (_, good) = backed_up(temp.path());
    let objects = places(&good, "objects/");
    let keys = places(&good, "keys/");
    assert_eq!((objects.len(), keys.len()), (7, 2), "the key file is there twice");
    let mut damages = Vec::new();
    for block in 0..good.len().div_ceil(4_096) {
        let hit = block * 4_096..((block + 1) * 4_096).min(good.len());
        let mut zeroed = good.clone();
        zeroed[hit.clone()].fill(0);
        damages.push((format!("zeros at {}", hit.start), zeroed, hit.clone()));
        damages.push((format!("cut at {}", hit.start), good[..hit.start].to_vec(), hit.start..good.len()));
    }
    let (bad, to) = (temp.path().join("bad.tar"), temp.path().join("to"));
    let host = |dir: &Path| ThisMachine::with_clock(dir, TestClock::at(NOW));
    let secret = secret(super::common::PASSWORD);
    let mut salvaged = 0;
    for (what, bytes, hit) in damages {
        fs::write(&bad, &bytes).unwrap();
        let spared = |place: &&Range<usize>| place.end <= hit.start || place.start >= hit.end;
        let strict = Backup::unlock(&bad, &secret)
            .and_then(|(backup, keyring)| vault::restore(&backup, &keyring, &to, host, "restored"));
        assert!(strict.is_err() && !to.exists(), "{what}: {strict:?}");
        let opened = Backup::unlock_damaged(&bad, &secret);
        if keys.iter().filter(spared).count() == 0 {
            assert!(matches!(opened, Err(Error::BackupDamaged(_))), "{what}: nothing opens it");
            continue;
        }
        assert!(!Backup::key_files(&bad).unwrap().is_empty(), "{what}: at one end or the other");
        let (backup, keyring, index_lost) = opened.unwrap();
        let restored = vault::salvage(&backup, &keyring, &to, host, "restored").unwrap();
        let expected = objects.iter().filter(spared).count() as u64;
        // With the index a lost header is made good; without it that object is not found.
        let content = |place: &Range<usize>| place.start + 512..place.end;
        let whole = objects.iter().filter(|place| spared(&&content(place))).count() as u64;
        let came = restored.objects;
        assert!(
            came == if index_lost { expected } else { whole },
            "{what}: {came} of {expected} and {whole}"
        );
        let mut vault = open_vault(&to, &TestClock::at(NOW));
        assert!(vault.check().unwrap().is_clean(), "{what}");
        assert!(came == 7 || index_lost || !restored.damaged.is_empty(), "{what}: what is lost is named");
        salvaged += u64::from(came > 0);
        drop(vault);
        fs::remove_dir_all(&to).unwrap();
    }
    assert!(salvaged >= 15, "{salvaged}");
}

#[test]
fn salvage_says_what_is_lost_and_ends_with_3() {
    let cli = Cli::with_vault();
    let file = cli.file("file.bin", [7; 10_000]);
    cli.json(&["add", "-m", "with a file", "-a", &file]);
    cli.add("another");
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    let mut bytes = fs::read(&backup).unwrap();
    // The attachment is the longest object.
    let place = places(&bytes, "objects/").into_iter().max_by_key(Range::len).unwrap();
    bytes[place.start + 2_000] ^= 1;
    fs::write(&backup, bytes).unwrap();
    let to = cli.arg("to");
    let refused = cli.error(14, &["restore", &backup, "--to", &to]);
    assert!(text_of(&refused["hint"]).contains("--salvage"), "{refused}");
    let salvaged = cli.run(&["restore", &backup, "--to", &to, "--salvage", "--json"]).exits(3).document();
    assert_eq!((&salvaged["restored"], &salvaged["index_lost"]), (&json!(2), &json!(false)), "{salvaged}");
    assert_eq!(salvaged["damaged"].as_array().unwrap().len(), 1);
    assert_eq!(salvaged["incomplete"][0]["title"], "with a file");
    let list = cli.run(&["--vault", &to, "list", "--json"]).json();
    assert_eq!(list["entries"].as_array().unwrap().len(), 2);
}

#[test]
fn what_lies_behind_a_missing_block_is_found() {
    let temp = temp_dir();
    let (_, good) = backed_up(temp.path());
    let (bad, to) = (temp.path().join("bad.tar"), temp.path().join("to"));
    let host = |dir: &Path| ThisMachine::with_clock(dir, TestClock::at(NOW));
    // In the content of the third object: the header of the next one is not where its length says either.
    let block = places(&good, "objects/")[2].start + 1_024;
    fs::write(&bad, [&good[..block], &good[block + 512..]].concat()).unwrap();
    let (backup, keyring, index_lost) =
        Backup::unlock_damaged(&bad, &secret(super::common::PASSWORD)).unwrap();
    let restored = vault::salvage(&backup, &keyring, &to, host, "restored").unwrap();
    assert_eq!((restored.objects, restored.damaged.len(), index_lost), (6, 1, false), "{restored:?}");
}

#[test]
fn what_is_intact_comes_into_the_vault_there_is_without_an_index() {
    let cli = Cli::with_vault();
    let [first, second] = ["first", "second"].map(|text| cli.add(text));
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    cli.json(&["rm", &first]);
    let mut bytes = fs::read(&backup).unwrap();
    bytes[1_000] ^= 1;
    fs::write(&backup, bytes).unwrap();
    assert!(text_of(&cli.error(14, &["restore", &backup])["hint"]).contains("--salvage"));
    let args = ["restore", &backup, "--salvage", "--as-new-versions", "--json"];
    let restored = cli.run(&args).exits(3).document();
    assert_eq!((&restored["restored"], &restored["index_lost"]), (&json!(1), &json!(true)), "{restored}");
    let list = cli.json(&["list"]);
    let mut ids = list["entries"].as_array().unwrap().iter().map(|it| text_of(&it["id"])).collect::<Vec<_>>();
    ids.sort();
    let mut both = [first, second];
    both.sort();
    assert_eq!(ids, both);
}

#[test]
fn an_automatic_backup_says_what_this_vault_has_lost() {
    let cli = Cli::with_vault();
    cli.add("an entry");
    let objects = cli.vault.join("objects");
    let (object, _) = files(&objects).pop_first().unwrap();
    fs::remove_file(objects.join(object)).unwrap();
    let made = cli.run(&["backup", "auto", "--every", "1d", "--json"]).exits(3).document();
    assert_eq!((&made["made"]["lost"], &made["made"]["verified"]), (&json!(1), &json!(true)), "{made}");
    // By itself too.
    let status = cli.vault.join("local/status");
    let mut known: Value = serde_json::from_slice(&fs::read(&status).unwrap()).unwrap();
    known["last_backup"] = json!(5);
    fs::write(&status, known.to_string()).unwrap();
    let list = cli.run(&["list"]);
    assert!(list.stderr.contains("this vault has lost"), "{list:?}");
}

#[test]
fn a_backup_is_united_with_the_vault_there_is_and_goes_back_only_when_told() {
    let cli = Cli::with_vault();
    let [lost, changed, deleted] = ["lost", "first text", "deleted"].map(|text| cli.add(text));
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    cli.json(&["edit", &changed, "-m", "second text"]);
    cli.json(&["rm", &deleted]);
    cli.add("new");
    // One entry is lost without a trace: the whole index with it.
    let object = places(&fs::read(&backup).unwrap(), "objects/").len();
    assert_eq!(object, 3);
    let of_lost = cli.json(&["log", &lost])["versions"].as_array().unwrap().len();
    assert_eq!(of_lost, 1);
    let mut vault = cli.open();
    let name = vault
        .manifest()
        .unwrap()
        .versions()
        .find(|it| it.summary.as_ref().is_some_and(|s| s.title == "lost"));
    let name = name.unwrap().objects.first().unwrap().to_string();
    drop(vault);
    fs::remove_file(cli.vault.join("objects").join(&name[..2]).join(&name)).unwrap();
    fs::remove_file(cli.vault.join("local/manifest")).unwrap();
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 2, "new and changed");

    let before = files(&cli.vault.join("objects"));
    let shown = cli.json(&["restore", &backup, "-n"]);
    let kinds = shown["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (text_of(&it["title"]), text_of(&it["difference"])));
    let kinds = kinds.collect::<Vec<_>>();
    let expected = [("deleted", "deleted_since"), ("first text", "changed_since"), ("lost", "unknown")];
    assert_eq!(kinds, expected.map(|(title, kind)| (title.to_owned(), kind.to_owned())));
    assert_eq!(files(&cli.vault.join("objects")), before, "a dry run");

    assert_eq!(cli.json(&["restore", &backup])["restored"], 1);
    let titles = || {
        let list = cli.json(&["list"]);
        let mut titles =
            list["entries"].as_array().unwrap().iter().map(|it| text_of(&it["title"])).collect::<Vec<_>>();
        titles.sort();
        titles
    };
    assert_eq!(titles(), ["lost", "new", "second text"], "what was changed or deleted stays so");
    assert_eq!(cli.json(&["restore", &backup, "--entry", &deleted])["restored"], 1);
    assert_eq!(titles(), ["deleted", "lost", "new", "second text"], "it wins over the deletion");
    assert_eq!(cli.json(&["restore", &backup, "--entry", &deleted])["restored"], 0, "twice is once");
    assert_eq!(cli.json(&["restore", &backup, "--as-new-versions"])["restored"], 1);
    assert_eq!(titles(), ["deleted", "first text", "lost", "new"]);
    assert_eq!(cli.json(&["log", &changed])["versions"].as_array().unwrap().len(), 3, "and nothing is lost");
    assert_eq!(cli.error(4, &["restore", &backup, "--entry", "ffffffff"])["kind"], "not_found");
    fs::write(cli.vault.join("objects").join(&name[..2]).join(&name), "rot").unwrap();
    assert_eq!(cli.run(&["check"]).code, 14);
    cli.json(&["restore", &backup]);
    assert_eq!(cli.run(&["check"]).code, 0, "what was known and lost comes back too");
}

#[test]
fn a_rewrapped_backup_opens_with_todays_password() {
    let cli = Cli::with_vault();
    cli.add("an entry");
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    let new = cli.file("secrets/new", "quarry lantern otter sleeve 72");
    cli.json(&["passwd", "--new-password-file", &new]);
    let mut elsewhere = Cli::new();
    elsewhere.set("ESPEJO_VAULT", "/nowhere");
    let with = |password: &str| elsewhere.run(&["backup", "verify", &backup, "--password-file", password]);
    let old = elsewhere.arg("secrets/password");
    assert_eq!((with(&old).code, with(&new).code), (0, 12));
    fs::copy(&new, cli.path("secrets/password")).unwrap();
    assert_eq!(cli.json(&["backup", "rewrap", &backup])["objects"], 1);
    assert_eq!((with(&old).code, with(&new).code), (12, 0));
}

#[test]
fn automatic_backups_are_made_when_due_read_again_when_nothing_changed_and_thinned_out() {
    let temp = temp_dir();
    let clock = TestClock::at(NOW);
    let mut vault = new_vault(&temp.path().join("vault"), "laptop", &clock);
    let dir = temp.path().join("backups");
    fs::create_dir(&dir).unwrap();
    let plan = BackupPlan { every_ms: DAY_MS, keep: 3, dir: dir.clone(), name: "journal".to_owned() };
    vault.set_backup_plan(Some(&plan)).unwrap();
    assert_eq!(vault.backup_plan().unwrap().as_ref(), Some(&plan));
    let id = add(&mut vault, "an entry");
    let object = vault.manifest().unwrap().objects().next().unwrap().row.object.to_string();
    let first = vault.back_up(&plan).unwrap();
    assert!(!first.unchanged && !vault.is_backup_due(&plan));
    clock.advance(DAY_MS - 60_000);
    assert!(!vault.is_backup_due(&plan));
    clock.advance(60_000);
    assert!(vault.is_backup_due(&plan));
    let again = vault.back_up(&plan).unwrap();
    assert_eq!((again.unchanged, &again.file), (true, &first.file));
    assert!(!vault.is_backup_due(&plan), "read again is as good as made");
    for day in 0..60 {
        clock.advance(DAY_MS);
        edit(&mut vault, id, &format!("day {day}"));
        vault.back_up(&plan).unwrap();
    }
    let left = fs::read_dir(&dir).unwrap().count();
    assert!((5..=9).contains(&left), "three days, four weeks, three months: {left}");
    // A clock that was ahead once keeps nobody from making another one.
    clock.advance(-100 * DAY_MS);
    assert!(vault.is_backup_due(&plan));
    // What is only in an old backup keeps it there.
    clock.advance(500 * DAY_MS);
    edit(&mut vault, id, "much later");
    fs::remove_file(temp.path().join("vault/objects").join(&object[..2]).join(&object)).unwrap();
    let made = vault.back_up(&plan).unwrap();
    assert_eq!(made.removed, 0, "each of them holds what was lost");
}

#[test]
fn no_backup_goes_that_holds_what_this_vault_never_had_and_a_rotten_one_stops_nothing() {
    let Two { dirs: _dirs, mut a, mut b, clocks, .. } = two(&["one"]);
    let dir = temp_dir();
    let plan =
        BackupPlan { every_ms: DAY_MS, keep: 1, dir: dir.path().to_owned(), name: "journal".to_owned() };
    add(&mut b, "only on the desktop");
    let theirs = b.back_up(&plan).unwrap().file;
    clocks[0].advance(60_000);
    add(&mut a, "only on the laptop");
    let ours = a.back_up(&plan).unwrap();
    assert!(theirs.exists() && ours.removed == 0, "nobody else has what is in it");
    assert!(matches!(a.backup(&theirs), Err(Error::BackupHoldsMore { objects: 1 })));
    // Nothing changed since, and the last one rotted.
    let mut bytes = fs::read(&ours.file).unwrap();
    let at = bytes.len() - 5_000;
    bytes[at] ^= 1;
    fs::write(&ours.file, bytes).unwrap();
    clocks[0].advance(DAY_MS);
    let next = a.back_up(&plan).unwrap();
    assert!(!next.unchanged && next.file != ours.file && theirs.exists(), "{next:?}");
}

#[test]
fn a_backup_that_fails_by_itself_is_said_aloud_and_again_by_status() {
    let cli = Cli::with_vault();
    let to = cli.arg("disk/backups");
    cli.json(&["backup", "auto", "--every", "1d", "--to", &to]);
    assert_eq!(cli.json(&["status"])["backup"]["every_ms"], DAY_MS);
    fs::remove_dir_all(cli.path("disk")).unwrap();
    let status = cli.vault.join("local/status");
    let due = || {
        let mut known: Value = serde_json::from_slice(&fs::read(&status).unwrap()).unwrap();
        known["last_backup"] = json!(5);
        fs::write(&status, known.to_string()).unwrap();
    };
    due();
    let added = cli.run(&["add", "-m", "an entry"]);
    assert_eq!(added.code, 0, "the entry is saved");
    assert!(added.stderr.contains("the automatic backup failed"), "{added:?}");
    assert!(!cli.path("disk").exists(), "a disk that is not there is not made up");
    assert!(cli.run(&["status"]).text().contains("THE LAST BACKUP FAILED"));
    fs::create_dir_all(&to).unwrap();
    assert!(cli.json(&["backup", "auto"])["made"]["verified"] == true);
    assert!(!cli.run(&["status"]).text().contains("FAILED"));
    // Nobody may come to believe that backups are made when the plan is lost.
    fs::write(cli.vault.join("local/backup"), "rot").unwrap();
    let added = cli.run(&["add", "-m", "another"]);
    assert!(added.code == 0 && added.stderr.contains("the automatic backup failed"), "{added:?}");
    cli.json(&["backup", "auto", "--off"]);
    assert!(cli.run(&["add", "-m", "a third"]).stderr.is_empty());
    assert_eq!(cli.error(2, &["backup", "auto"])["kind"], "usage");
    assert_eq!(cli.error(2, &["backup", "auto", "--every", "0s"])["kind"], "usage");
    let inside = cli.vault.join("backups");
    assert_eq!(
        cli.error(2, &["backup", "auto", "--every", "1d", "--to", inside.to_str().unwrap()])["kind"],
        "usage"
    );
}
