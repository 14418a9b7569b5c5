//! `log` without an entry: what happened in the vault, sealed, bounded, and never in the way.

use std::fs;

use serde_json::Value;

use crate::common::cli::{Cli, files};
use crate::common::{Two, two};
use espejo::event::Finding;
use espejo::vault::MAX_ACTIVITIES;

const FILE: &str = "local/activity";

fn kinds(log: &Value) -> Vec<String> {
    log["events"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect()
}

/// A machine whose one entry is on its mirror.
fn synced() -> Cli {
    let cli = Cli::with_vault();
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    cli.add("one");
    cli.json(&["sync"]);
    cli
}

#[test]
fn what_happened_is_told_the_newest_first() {
    let cli = Cli::with_vault();
    assert_eq!(kinds(&cli.json(&["log"])), [""; 0]);
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    let id = cli.add("The lemon tree");
    cli.json(&["sync"]);
    cli.json(&["backup", "create", &cli.arg("backup.tar")]);
    let new = cli.file("new-password", "seven quiet lighthouses over a grey sea\n");
    cli.json(&["passwd", "--new-password-file", &new]);
    fs::copy(new, cli.path("secrets/password")).unwrap();
    cli.json(&["rm", &id]);
    cli.json(&["restore", &cli.arg("backup.tar"), "--entry", &id]);
    cli.json(&["remote", "forget"]);
    let log = cli.json(&["log"]);
    let all = ["mirror_forgotten", "restore", "password", "backup", "sync", "mirror_set"];
    assert_eq!(kinds(&log), all);
    assert_eq!((&log["events"][4]["pushed"], &log["events"][1]["restored"]), (&1.into(), &1.into()));
    assert!(log["events"][0]["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(kinds(&cli.json(&["log", "-n", "2"])), all[..2]);
    let said = cli.run(&["log"]).exits(0);
    assert!(
        said.text().contains("synced: 1 up") && said.text().contains("the password was changed"),
        "{}",
        said.text()
    );
    // An entry's versions are told as before.
    assert_eq!(cli.json(&["log", &id])["versions"].as_array().unwrap().len(), 3);
    let bytes = fs::read(cli.vault.join(FILE)).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("pushed"), "it is sealed");
}

#[test]
fn a_sync_with_nothing_to_do_writes_nothing_of_it_and_it_never_grows() {
    let cli = synced();
    let before = fs::metadata(cli.vault.join(FILE)).unwrap();
    cli.json(&["sync"]);
    cli.json(&["sync", "-n"]);
    let after = fs::metadata(cli.vault.join(FILE)).unwrap();
    let place = |it: &fs::Metadata| (std::os::unix::fs::MetadataExt::ino(it), it.modified().unwrap());
    assert_eq!(place(&before), place(&after));

    // The directories are there as long as all of it is.
    let Two { a, dirs: _dirs, .. } = &two(&[]);
    for n in 0..MAX_ACTIVITIES as u64 + 5 {
        a.note_activity(Some("backup"), &[("objects", n)], &[]);
    }
    let events = a.activities();
    assert_eq!(events.len(), MAX_ACTIVITIES);
    assert_eq!(
        (events[0].numbers.get("objects"), events.last().unwrap().kind.as_str()),
        (Some(&5), "backup")
    );
    // What is found again and again is noted once.
    let found = [Finding::MirrorHealed { file: "feeds/x".repeat(100) }];
    for _ in 0..3 {
        a.note_activity(None, &[], &found);
        a.note_activity(Some("sync"), &[], &found);
    }
    let kinds = a.activities().into_iter().rev().take(5).map(|it| it.kind).collect::<Vec<_>>();
    assert_eq!(kinds, ["sync", "sync", "sync", "mirror_healed", "backup"]);
}

#[test]
fn what_a_sync_or_a_watch_found_can_be_read_afterwards() {
    let cli = synced();
    let feeds =
        fs::read_dir(cli.path("mirror/feeds")).unwrap().map(|it| it.unwrap().path()).collect::<Vec<_>>();
    for damage in [b"torn".as_slice(), b"torn again"] {
        feeds.iter().for_each(|feed| fs::write(feed, damage).unwrap());
        cli.run(&["sync", "--full"]).exits(0);
    }
    let log = cli.json(&["log"]);
    assert_eq!(kinds(&log)[..2], ["mirror_healed", "sync"], "{log}");
    assert!(log["events"][0]["message"].as_str().unwrap().contains("feeds/"), "{log}");
    let said = cli.run(&["log"]).exits(0);
    assert!(said.text().contains("feeds/"), "{}", said.text());
}

#[test]
fn damaged_gone_or_in_the_way_it_fails_nothing_and_is_begun_anew() {
    let cli = synced();
    let file = cli.vault.join(FILE);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..100], b"", &[0; 5_000]] {
        fs::write(&file, damaged).unwrap();
        let log = cli.run(&["log", "--json"]);
        assert_eq!((log.stderr.as_str(), kinds(&log.json())), ("", Vec::new()));
        cli.run(&["check"]).exits(0);
        cli.add("more");
        let synced = cli.run(&["sync", "--json"]);
        assert_eq!((synced.stderr.as_str(), &synced.json()["pushed"]), ("", &1.into()));
        assert_eq!(kinds(&cli.json(&["log"])), ["sync"]);
    }
    // A directory in its place: nothing can be noted, and nothing else is different.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    cli.add("once more");
    cli.run(&["sync"]).exits(0);
    cli.run(&["log"]).exits(0);
    assert!(files(&cli.vault.join("local/incoming")).is_empty(), "nothing is left lying about");
}
