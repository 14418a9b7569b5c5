//! What people, disks and thieves put in the way: every command ends with a clear word, nothing is lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::cli::{Cli, Mounted, files, text_of};
use espejo::entry::{Attachment, Blob, Content};
use espejo::vault::{Change, Edit};
use espejo::version::MadeOn;
use serde_json::json;

fn is_acting(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Random bytes, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn any_body_comes_back_as_it_was() {
    let cli = Cli::with_vault();
    let empty = cli.run_with_stdin(&["add", "-", "--json"], b"").json()["added"][0].clone();
    assert_eq!(empty["title"], "");
    assert_eq!(cli.json(&["show", "@"])["body"], "");
    assert_eq!(cli.run(&["show", "@", "--raw"]).stdout, b"");
    assert!(cli.run(&["list"]).text().contains("(no title)"));
    cli.json(&["add", "-m", ""]);

    let mut long = String::new();
    while long.len() < 10_000_000 {
        long.push_str("a line of a long text, with é and 😀 in it\n");
    }
    long.push_str("the needle at the end\n");
    let file = cli.file("long.md", &long);
    cli.json(&["add", &file]);
    assert_eq!(cli.json(&["list"])["entries"][0]["size"], long.len());
    assert!(files(&cli.vault.join("objects")).len() >= 5, "the text lies in parts");
    assert!(cli.run(&["show", "@", "--raw"]).stdout == long.as_bytes());
    assert!(cli.json(&["show", "@"])["body"] == long.as_str());
    let needle = cli.json(&["search", "NEEDLE"]);
    assert_eq!(needle["matches"][0]["line"], long.lines().count());
    let edited = cli.run_with_stdin(&["edit", "@", "-"], long.to_uppercase().as_bytes());
    assert_eq!(edited.code, 0, "{edited:?}");
    assert!(cli.run(&["show", "@", "--raw"]).stdout == long.to_uppercase().as_bytes());

    for (name, bytes) in [
        ("noise.bin", noise(3_000_000)),
        ("small.bin", noise(1_000)),
        ("nul.txt", b"text with a \0 in it".to_vec()),
        ("cut.txt", b"ends inside a character \xf0\x9f".to_vec()),
    ] {
        let file = cli.file(name, &bytes);
        let added = cli.json(&["add", &file]);
        assert!(cli.run(&["show", "@", "--raw"]).stdout == bytes, "{name}");
        let out = cli.arg(&format!("{name}.out"));
        cli.json(&["show", "@", "-o", &out]);
        assert!(fs::read(&out).unwrap() == bytes, "{name}");
        assert_eq!(cli.run(&["show", "@"]).code, 0, "{name}: {added}");
    }
    assert_eq!(cli.run(&["search", "anything"]).code, 0);
    let no_file = cli.error(4, &["add", cli.dir.to_str().unwrap()]);
    assert!(text_of(&no_file["message"]).contains("not a file"), "{no_file}");
}

#[test]
fn ids_that_mean_nothing_are_4_everywhere() {
    let cli = Cli::with_vault();
    cli.add("an entry");
    let before = files(&cli.vault);
    for args in [
        &["show", "00000000"][..],
        &["show", "../../etc"],
        &["show", "\u{202e}abcd"],
        &["edit", "@-7", "-m", "text"],
        &["rm", "@", "zzzzzzzz"],
        &["undelete", "ffffffff"],
        &["log", "abc"],
        &["diff", "@", "00000000"],
        &["revert", "@", "00000000"],
        &["show", "@", "--version", "zzzz"],
        &["resolve", "00000000", "--merge"],
    ] {
        let error = cli.error(4, args);
        assert_eq!(error["kind"], "not_found", "{args:?}");
    }
    assert_eq!(files(&cli.vault), before);
}

#[test]
fn titles_are_one_clean_line_and_nothing_from_an_entry_acts_on_a_terminal() {
    let cli = Cli::with_vault();
    let ten_thousand = "ñ".repeat(10_000);
    for (typed, kept) in [
        ("two\nlines\r\tand a tab", "two lines  and a tab"),
        ("\u{1b}]52;c;cGF3bmVk\u{7}title\u{9b}31m", "]52;c;cGF3bmVk title 31m"),
        ("\u{202e}desrever\u{2066}", "\u{202e}desrever\u{2066}"),
        ("family 👨‍👩‍👧‍👦 é", "family 👨‍👩‍👧‍👦 é"),
        (&ten_thousand, &ten_thousand),
    ] {
        assert_eq!(cli.json(&["add", "-m", "body", "-t", typed])["added"][0]["title"], *kept);
    }
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 5);
    let too_long = cli.error(2, &["add", "-m", "body", "-t", &"x".repeat(70_000)]);
    assert!(text_of(&too_long["message"]).contains("65536"), "{too_long}");

    // A program that is not this one may have written anything at all into a vault it has the key to.
    let nasty = "n\0u\u{1b}[2Jl\u{9b}31m\u{85}\u{202e}\u{2066}\u{200f}\u{61c}\u{7f}\u{8}x";
    let dir = cli.path("foreign");
    let mut vault = cli.new_vault(&dir);
    let blob = vault.store_blob(&mut &b"bytes"[..]).unwrap();
    let attachment = Attachment { name: nasty.to_owned(), media_type: nasty.to_owned(), blob };
    let content = Content {
        tags: vec![nasty.to_owned()],
        attachments: vec![attachment],
        ..crate::common::text(nasty, &format!("needle {nasty}\nmore {nasty}"))
    };
    let odd = Content {
        body: espejo::entry::Body::Parts(Blob { parts: Vec::new() }),
        media_type: nasty.to_owned(),
        ..content.clone()
    };
    let edit = |content| Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content) };
    let saved = vault.save(&[edit(content), edit(odd)]).unwrap();
    drop(vault);
    let mut cli = cli;
    cli.vault = dir;
    let [id, odd] = [saved[0].entry.to_string(), saved[1].entry.to_string()];
    for args in [
        &["list"][..],
        &["list", "--json"],
        &["show", &id],
        &["show", &id, "--json"],
        &["show", &odd],
        &["show", &id, "--attachment", "missing"],
        &["search", "needle"],
        &["search", "needle", "--json"],
        &["rm", &id, "-n"],
        &["edit", &id, "-m", "changed \u{1b}[2J\u{202e}"],
        &["log", &id],
        &["diff", &id],
        &["diff", &id, "--json"],
        &["show", &id],
        &["show", "\u{1b}[2J\u{202e}", "--json"],
        &["show", "\u{1b}[2J\u{202e}"],
        &["rm", &id],
        &["list", "--deleted"],
        &["undelete", &id],
        &["check"],
    ] {
        let output = cli.on_terminal(args);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(!shown.is_empty(), "{args:?}");
        let acting = shown.chars().find(|c| is_acting(*c));
        assert_eq!(acting, None, "{args:?}: {shown:?}");
    }
    // To a program everything is given as it is.
    assert_eq!(cli.json(&["show", &odd])["title"], nasty);
    assert_eq!(cli.json(&["show", &odd])["attachments"][0]["name"], nasty);
}

#[test]
fn a_vault_that_is_a_file_or_missing_or_garbage_is_named() {
    let mut cli = Cli::new();
    let real = cli.vault.clone();
    cli.vault = PathBuf::from(cli.file("file", "I am a file"));
    assert_eq!(cli.error(10, &["list"])["kind"], "no_vault");
    let init = cli.error(2, &["init", &cli.arg("file"), "--no-recovery"]);
    assert!(text_of(&init["message"]).contains("is a file"), "{init}");
    cli.vault = cli.path("nowhere");
    assert!(text_of(&cli.error(10, &["list"])["message"]).contains("nowhere"));
    assert!(!cli.path("nowhere").exists(), "looking makes nothing");
    cli.vault = cli.path("full");
    fs::create_dir(&cli.vault).unwrap();
    fs::write(cli.vault.join("photo.jpg"), "a photo").unwrap();
    assert_eq!(cli.error(1, &["init", &cli.arg("full"), "--no-recovery"])["kind"], "not_empty");

    cli.vault = real;
    cli.new_vault(&cli.vault);
    cli.add("an entry");
    let marker = cli.vault.join("espejo.json");
    let intact = fs::read(&marker).unwrap();
    let mut other_id = intact.clone();
    let digit = other_id.iter().rposition(u8::is_ascii_digit).unwrap();
    other_id[digit] ^= 1;
    for garbage in [&b"<html>Sign in"[..], b"", &noise(1_000), &vec![b' '; 100_000], &other_id] {
        fs::write(&marker, garbage).unwrap();
        let list = cli.run(&["list", "--json"]);
        assert_eq!(list.json()["entries"].as_array().unwrap().len(), 1);
        assert!(list.stderr.contains("espejo.json was damaged"), "{list:?}");
        assert_eq!(fs::read(&marker).unwrap(), intact, "it was written again");
    }
    fs::write(&marker, br#"{"espejo":2,"vault":"in a later format","more":[]}"#).unwrap();
    for args in [&["list"][..], &["add", "-m", "text"], &["sync"], &["status"], &["check"]] {
        assert_eq!(cli.error(15, args)["kind"], "newer", "{args:?}");
    }
    fs::write(&marker, &intact).unwrap();
    // Another vault's keys, though the same password opens them.
    cli.new_vault(&cli.path("other"));
    for dir in ["keys", "local/key"] {
        let _ = fs::remove_dir_all(cli.vault.join(dir)).or_else(|_| fs::remove_file(cli.vault.join(dir)));
    }
    fs::rename(cli.path("other/keys"), cli.vault.join("keys")).unwrap();
    assert_eq!(cli.error(15, &["list"])["kind"], "key_file_of_another_vault");
}

#[test]
fn a_read_only_vault_can_be_read() {
    let cli = Cli::with_vault();
    let id = cli.add("read me");
    let vault = cli.vault.to_str().unwrap().to_owned();
    let mounted = Mounted::new(&["--bind", &vault], &cli.vault);
    // With and without an index that has to be built again.
    for damage in [None, Some("local/manifest")] {
        mounted.remount("remount,rw,bind");
        damage.iter().for_each(|name| fs::remove_file(cli.vault.join(name)).unwrap());
        mounted.remount("remount,ro,bind");
        assert!(fs::write(cli.vault.join("probe"), "").is_err());
        assert_eq!(cli.json(&["list"])["entries"][0]["id"], json!(id));
        assert_eq!(cli.run(&["show", &id, "--raw"]).stdout, b"read me");
        assert_eq!(cli.json(&["search", "read"])["matches"].as_array().unwrap().len(), 2);
        assert_eq!(cli.json(&["log", &id])["versions"].as_array().unwrap().len(), 1);
        assert_eq!(cli.json(&["status"])["entries"], 1);
        for args in [&["add", "-m", "text"][..], &["edit", &id, "-m", "text"], &["rm", &id]] {
            let error = cli.error(1, args);
            assert_eq!(error["kind"], "read_only", "{args:?}: {error}");
        }
        let check = cli.run(&["check", "--json"]);
        assert!([0, 1].contains(&check.code), "{check:?}");
    }
    mounted.remount("remount,rw,bind");
    cli.add("writable again");
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 2);
}

#[test]
fn a_full_disk_says_so_and_loses_nothing_acknowledged() {
    let cli = Cli::new();
    fs::create_dir(&cli.vault).unwrap();
    let mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=1m", "espejo-test"], &cli.vault);
    cli.new_vault(&cli.vault);
    let mut acknowledged = Vec::new();
    let mut refusals = 0;
    // Large entries first, then small ones into what is left.
    for size in [60_000, 12_000, 10] {
        loop {
            let text = format!("entry {} {}", acknowledged.len(), "x".repeat(size));
            let added = cli.run(&["add", "-m", &text, "--json"]);
            if added.code == 0 {
                acknowledged.push(text);
                assert!(acknowledged.len() < 400, "the disk never fills");
                continue;
            }
            let error = added.error(1);
            assert_eq!(error["kind"], "disk_full", "{error}");
            assert!(text_of(&error["message"]).contains("disk is full"), "{error}");
            refusals += 1;
            break;
        }
    }
    assert_eq!(refusals, 3);
    assert!(acknowledged.len() > 10);
    let verify = |state: &str| {
        let list = cli.json(&["list"]);
        let listed = list["entries"].as_array().unwrap().len();
        assert_eq!(listed, acknowledged.len(), "{state}");
        let found = cli.json(&["search", "entry"]);
        let found = found["matches"].as_array().unwrap().iter();
        let bodies = found.filter(|it| it["line"] == 1).map(|it| text_of(&it["text"]));
        let bodies = bodies.collect::<std::collections::BTreeSet<_>>();
        assert!(acknowledged.iter().all(|text| bodies.contains(text)), "{state}");
    };
    verify("full");
    assert_eq!(cli.run(&["status"]).code, 0);
    for args in [&["edit", "@", "-m", &"y".repeat(60_000)][..], &["rm", "@"]] {
        assert_eq!(cli.error(1, args)["kind"], "disk_full");
    }
    verify("after refused changes");
    // Even the index, if it has to be built again without room to write it.
    fs::remove_file(cli.vault.join("local/manifest")).unwrap();
    fs::write(cli.vault.join("filler"), vec![0; 1 << 20]).unwrap_err();
    let rebuilt = cli.json(&["list"])["entries"].as_array().unwrap().len();
    assert!(rebuilt >= acknowledged.len(), "{rebuilt}");
    fs::remove_file(cli.vault.join("filler")).unwrap();
    mounted.remount("remount,size=4m");
    cli.add("there is room again");
    let check = cli.json(&["check"]);
    assert_eq!((&check["corrupt"], &check["missing"]), (&json!([]), &json!([])));
}

#[test]
fn links_and_pipes_in_place_of_objects_are_neither_followed_nor_waited_for() {
    let cli = Cli::with_vault();
    let ids = ["first", "second", "third"].map(|text| cli.add(text));
    let mirror = cli.arg("mirror");
    cli.json(&["remote", "set", &mirror]);
    cli.json(&["sync"]);
    // Each entry's object, by what the log knows of it.
    let objects = ids.clone().map(|id| object_of(&cli, &id));
    let outside = cli.path("outside");
    fs::create_dir(&outside).unwrap();

    // A link to a good copy: even that is not read.
    fs::rename(&objects[0], outside.join("copy")).unwrap();
    symlink(outside.join("copy"), &objects[0]).unwrap();
    // A pipe nobody writes to.
    fs::remove_file(&objects[1]).unwrap();
    let made = Command::new("mkfifo").arg(&objects[1]).status();
    assert!(made.unwrap().success());
    // A directory elsewhere, with the object in it.
    let shard = objects[2].parent().unwrap();
    let elsewhere = outside.join("shard");
    fs::rename(shard, &elsewhere).unwrap();
    symlink(&elsewhere, shard).unwrap();

    let start = Instant::now();
    for id in &ids {
        let error = cli.error(14, &["show", id]);
        assert_eq!(error["kind"], "damaged", "{error}");
        assert!(text_of(&error["message"]).contains(&id[..8]), "the entry is named: {error}");
    }
    let search = cli.run(&["search", "s", "--json"]);
    assert_eq!(search.code, 3, "{search:?}");
    let check = cli.run(&["check", "--json"]);
    assert_eq!(check.code, 14, "{check:?}");
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 3);
    assert!(start.elapsed() < Duration::from_secs(30), "something waited: {:?}", start.elapsed());
    let before = files(&outside);

    // Files heal from the mirror; the linked directory is refused, and nothing is written through it.
    let sync = cli.run(&["sync", "--json"]);
    assert_ne!(sync.code, 0, "{sync:?}");
    assert_eq!(files(&outside), before, "nothing was written behind the link");
    fs::remove_file(shard).unwrap();
    cli.json(&["sync"]);
    for (id, text) in ids.iter().zip(["first", "second", "third"]) {
        assert_eq!(cli.run(&["show", id, "--raw"]).text(), text);
    }
    assert_eq!(cli.run(&["check"]).code, 0);

    // A pipe in place of the lock, the index or this device's state.
    for name in ["local/lock", "local/manifest", "local/device", "espejo.json", "local/status"] {
        fs::remove_file(cli.vault.join(name)).unwrap();
        let made = Command::new("mkfifo").arg(cli.vault.join(name)).status();
        assert!(made.unwrap().success());
        let start = Instant::now();
        let add = cli.run(&["add", "-m", "text"]);
        assert!(start.elapsed() < Duration::from_secs(20), "{name}: {add:?}");
        assert!(add.code == 0 || !add.stderr.is_empty(), "{name}: {add:?}");
        let _ = fs::remove_file(cli.vault.join(name));
        if name == "espejo.json" {
            fs::copy(Path::new(&mirror).join(name), cli.vault.join(name)).unwrap();
        }
    }
    assert_eq!(cli.run(&["check"]).code, 0);
}

/// The one object of an entry that has one version: found by taking files away.
fn object_of(cli: &Cli, id: &str) -> PathBuf {
    let locked = espejo::vault::Locked::find(espejo::host::ThisMachine::new(&cli.vault)).unwrap();
    let password = espejo::crypto::Password::new(crate::common::cli::PASSWORD).unwrap();
    let mut vault = locked.unlock(&espejo::format::keyfile::Secret::Password(password)).unwrap();
    let history = vault.history(id.parse().unwrap()).unwrap();
    let name = history[0].objects.first().unwrap().to_string();
    cli.vault.join("objects").join(&name[..2]).join(&name)
}
