//! The command line's contract: what scripts may rely on, tried on the real binary.
//!
//! Long, because it is one contract: whoever changes a command finds here all that is promised of it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::cli::{Cli, ESPEJO, PASSWORD, Server, fields, files, finish, text_of};
use espejo::entry::Content;
use espejo::vault::{Change, Edit};
use espejo::version::MadeOn;
use serde_json::{Value, json};

const LISTED: &str = "id:s title:s tags:a created:s updated:s size:n schema:n deleted:b conflict:b";
const SHOWN: &str =
    "id:s version:s title:s tags:a created:s updated:s schema:n media_type:s body:s attachments:a";
const SYNCED: &str = "pushed:n pulled:n conflicts:n pending:n repaired:n requests:n bytes_up:n bytes_down:n \
                      duration_ms:n warnings:a";
const STATUS: &str = "entries:n unsynced:n conflicts:n pending:n corrupt:n locked:b remote:o? backup:o devices:n \
     watching:b";

fn fresh_content(title: &str, body: &str) -> Content {
    crate::common::text(title, body)
}

fn new_entry(content: Content) -> Edit {
    Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content) }
}

#[test]
fn writing_and_reading_give_the_documented_json() {
    let cli = Cli::with_vault();
    let older = cli.json(&[
        "add",
        "-m",
        "# Seeds\nsowed beans",
        "-T",
        "garden",
        "-T",
        "spring",
        "--date",
        "2026-03-01",
    ]);
    fields(&older, "added:a");
    fields(&older["added"][0], "id:s version:s title:s");
    assert_eq!(older["added"][0]["title"], "Seeds");
    let id = text_of(&older["added"][0]["id"]);
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()), "{id}");

    let photo = cli.file("photo.png", [0, 159, 146, 150]);
    let note = cli.file("note.md", "a note from a file\n");
    let args = ["add", &note, "-t", "Named", "-a", &photo, "--date", "2026-03-02 10:30"];
    let newer = text_of(&cli.json(&args)["added"][0]["id"]);

    let list = cli.json(&["list"]);
    let entries = list["entries"].as_array().unwrap();
    entries.iter().for_each(|entry| fields(entry, LISTED));
    assert_eq!([&entries[0]["id"], &entries[1]["id"]], [&json!(newer), &json!(id)], "newest first");
    assert_eq!(entries[1]["tags"], json!(["garden", "spring"]));
    assert_eq!(entries[1]["created"], "2026-03-01T00:00:00Z");
    assert_eq!(entries[0]["created"], "2026-03-02T10:30:00Z");
    assert_eq!(entries[0]["size"], 19);

    let show = cli.json(&["show", &newer]);
    fields(&show, SHOWN);
    assert_eq!((&show["title"], &show["body"]), (&json!("Named"), &json!("a note from a file\n")));
    fields(&show["attachments"][0], "name:s size:n media_type:s");
    assert_eq!(show["attachments"][0], json!({ "name": "photo.png", "size": 4, "media_type": "image/png" }));
    assert_eq!(cli.run(&["show", &newer, "--raw"]).stdout, b"a note from a file\n");
    assert_eq!(cli.run(&["show", &newer, "--attachment", "photo.png"]).stdout, [0, 159, 146, 150]);
    let out = cli.arg("out.png");
    let written = cli.json(&["show", &newer, "--attachment", "photo.png", "-o", &out]);
    assert_eq!(written, json!({ "file": out, "size": 4 }));
    assert_eq!(fs::read(&out).unwrap(), [0, 159, 146, 150]);
    cli.error(2, &["show", &newer, "--attachment", "photo.png", "-o", &out]);
    assert_eq!(fs::read(&out).unwrap(), [0, 159, 146, 150], "a file that exists is not touched");
    cli.error(4, &["show", &newer, "--attachment", "photo.jpg"]);

    let search = cli.json(&["search", "BEANS"]);
    fields(&search["matches"][0], "id:s title:s line:n text:s");
    assert_eq!(search["matches"], json!([{ "id": id, "title": "Seeds", "line": 2, "text": "sowed beans" }]));
    assert_eq!(cli.json(&["search", "^sow.*s$", "--regex"])["matches"][0]["line"], 2);
    assert_eq!(cli.json(&["search", "beans", "--tag", "autumn"])["matches"], json!([]));
    cli.error(2, &["search", "(", "--regex"]);

    for (args, found) in [
        (vec!["list", "--tag", "garden"], vec![&id]),
        (vec!["list", "named"], vec![&newer]),
        (vec!["list", "-n", "1"], vec![&newer]),
        (vec!["list", "--since", "2026-03-02"], vec![&newer]),
        (vec!["list", "--until", "2026-03-01"], vec![&id]),
        (vec!["ls", "--deleted"], vec![]),
    ] {
        let entries = cli.json(&args)["entries"].clone();
        let ids = entries.as_array().unwrap().iter().map(|entry| text_of(&entry["id"])).collect::<Vec<_>>();
        assert_eq!(ids.iter().collect::<Vec<_>>(), found, "{args:?}");
    }
    cli.error(2, &["list", "--since", "someday"]);
}

#[test]
fn editing_deleting_and_going_back_give_the_documented_json() {
    let cli = Cli::with_vault();
    let added = cli.json(&["add", "-m", "one\nsame", "-T", "old"])["added"][0].clone();
    let (id, first) = (text_of(&added["id"]), text_of(&added["version"]));
    let photo = cli.file("photo.png", "pixels");

    let changed = cli.json(&["edit", &id, "-m", "two\nsame"]);
    fields(&changed["changed"][0], "id:s version:s");
    let second = text_of(&changed["changed"][0]["version"]);
    cli.json(&["edit", &id, "-t", "Titled", "-T", "+new", "-T", "-old", "-a", &photo]);
    let show = cli.json(&["show", &id]);
    assert_eq!(
        (&show["title"], &show["tags"], &show["body"]),
        (&json!("Titled"), &json!(["new"]), &json!("two\nsame"))
    );
    assert_eq!(show["attachments"][0]["name"], "photo.png");
    let replaced = cli.file("photo.png", "other pixels");
    cli.json(&["edit", &id, "-a", &replaced]);
    assert_eq!(cli.json(&["show", &id])["attachments"].as_array().unwrap().len(), 1);
    let body = cli.file("body.md", "from a file");
    cli.json(&["edit", &id, "--file", &body]);
    assert_eq!(cli.run(&["show", &id, "--raw"]).stdout, b"from a file");
    assert_eq!(cli.run_with_stdin(&["edit", &id, "-"], b"from a pipe").code, 0);
    assert_eq!(cli.run(&["show", &id, "--raw"]).stdout, b"from a pipe");
    assert_eq!(cli.run(&["show", &id, "--raw", "--version", &second[..8]]).stdout, b"two\nsame");

    let diff = cli.run(&["diff", &id, &first, &second]).text().to_owned();
    assert!(diff.contains("-one\n") && diff.contains("+two\n") && diff.contains(" same\n"), "{diff}");
    fields(&cli.json(&["diff", &id]), "id:s from:s? to:s diff:s");

    let before = files(&cli.vault);
    assert_eq!(cli.json(&["rm", &id, "-n"])["changed"], json!([]));
    assert_eq!(cli.json(&["revert", &id, &first, "-n"])["changed"], json!([]));
    assert_eq!(files(&cli.vault), before, "-n changes nothing");

    fields(&cli.json(&["rm", &id])["changed"][0], "id:s version:s");
    assert_eq!(cli.error(4, &["show", &id])["kind"], "deleted");
    assert_eq!(cli.json(&["list"])["entries"], json!([]));
    assert_eq!(cli.json(&["list", "--deleted"])["entries"][0]["deleted"], true);
    let before = files(&cli.vault);
    cli.json(&["undelete", &id, "-n"]);
    assert_eq!(files(&cli.vault), before, "-n changes nothing");
    fields(&cli.json(&["undelete", &id])["changed"][0], "id:s version:s");
    cli.error(2, &["undelete", &id]);
    assert_eq!(cli.run(&["show", &id, "--raw"]).stdout, b"from a pipe");
    fields(&cli.json(&["revert", &id, &first])["changed"][0], "id:s version:s");
    assert_eq!(cli.run(&["show", &id, "--raw"]).stdout, b"one\nsame");

    let log = cli.json(&["log", &id]);
    let versions = log["versions"].as_array().unwrap();
    for version in versions {
        fields(version, "version:s updated:s device:s kind:s current:b conflict:b size:n present:b");
    }
    let kinds = versions.iter().map(|version| text_of(&version["kind"])).collect::<Vec<_>>();
    assert_eq!(kinds, ["live", "live", "tombstone", "live", "live", "live", "live", "live", "live"]);
    assert_eq!((&versions[0]["current"], &versions[1]["current"]), (&json!(true), &json!(false)));
    assert_eq!(versions[8]["version"], json!(first), "newest first");
    assert_eq!(versions[0]["device"], "laptop");
}

#[test]
fn init_makes_a_vault_that_password_and_recovery_words_open() {
    let mut cli = Cli::new();
    cli.set("ESPEJO_PASSWORD_FILE", "");
    let (weak, strong) = (cli.file("secrets/weak", "password1\n"), cli.arg("secrets/password"));
    let dir = cli.arg("vault");
    let error = cli.bare(&["init", &dir, "--new-password-file", &weak, "--json"]).error(12);
    assert_eq!(error["kind"], "weak_password");
    assert!(!Path::new(&dir).exists(), "a refused password leaves nothing");
    let weak_dir = cli.arg("weak-vault");
    let init = ["init", &weak_dir, "--new-password-file", &weak, "--allow-weak-password", "--no-recovery"];
    assert_eq!(cli.bare(&init).code, 0);

    let words = cli.arg("secrets/words");
    let init = cli.bare(&["init", &dir, "--new-password-file", &strong, "--recovery-out", &words, "--json"]);
    let json = init.json();
    fields(&json, "vault:s vault_id:s device_id:s");
    assert_eq!(json["vault"], json!(dir));
    let text = fs::read_to_string(&words).unwrap();
    assert_eq!(text.split_whitespace().count(), 24);
    assert_eq!(fs::metadata(&words).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!init.stderr.contains(text.trim()), "the words are in the file and nowhere else");

    let opened = cli.bare(&["--vault", &dir, "list", "--recovery-key-file", &words, "--json"]).json();
    assert_eq!(opened["entries"], json!([]));
    let other = text.split_whitespace().rev().collect::<Vec<_>>().join(" ");
    let wrong = cli.file("secrets/wrong-words", other);
    cli.bare(&["--vault", &dir, "list", "--recovery-key-file", &wrong, "--json"]).error(12);
    let none = ["--vault", &weak_dir, "list", "--recovery-key-file", &words, "--json"];
    assert_eq!(cli.bare(&none).error(12)["kind"], "no_recovery_key");
    let again = ["init", &dir, "--new-password-file", &strong, "--no-recovery", "--json"];
    assert_eq!(cli.bare(&again).error(1)["kind"], "not_empty");
    let inside = format!("{dir}/words");
    cli.bare(&["init", &dir, "--new-password-file", &strong, "--recovery-out", &inside, "--json"]).error(2);
}

#[test]
fn a_password_comes_from_the_first_source_given_and_from_no_other() {
    let cli = Cli::with_vault();
    let vault = cli.vault.to_str().unwrap();
    let right = cli.arg("secrets/password");
    let wrong = cli.file("secrets/wrong", "not the password\n");
    let (say_right, say_wrong) = (format!("cat {right}"), format!("cat {wrong}"));
    let run = |flags: &[&str], env: &[(&str, &str)], stdin: &[u8]| {
        let mut args = vec!["--vault", vault, "list", "--json"];
        args.extend(flags);
        let mut command = cli.bare_command(ESPEJO, &args);
        command.stdin(Stdio::piped()).envs(env.iter().copied());
        finish(command.spawn().unwrap(), stdin)
    };
    const FILE: &str = "ESPEJO_PASSWORD_FILE";
    const COMMAND: &str = "ESPEJO_PASSWORD_COMMAND";
    let stdin = format!("{PASSWORD}\n");
    for (flags, env, stdin) in [
        (vec!["--password-file", &*right], vec![(FILE, &*wrong), (COMMAND, &*say_wrong)], &b""[..]),
        (vec!["--password-command", &*say_right], vec![(FILE, &*wrong)], b""),
        (vec!["--password-stdin"], vec![(FILE, &*wrong)], stdin.as_bytes()),
        (vec![], vec![(FILE, &*right), (COMMAND, &*say_wrong)], b""),
        (vec![], vec![(COMMAND, &*say_right)], b""),
    ] {
        assert_eq!(run(&flags, &env, stdin).json()["entries"], json!([]), "{flags:?} {env:?}");
    }
    for (flags, env, stdin, kind) in [
        (vec!["--password-file", &*wrong], vec![(FILE, &*right)], &b""[..], "wrong_password"),
        (vec!["--password-file", "/nowhere"], vec![(FILE, &*right)], b"", "no_password"),
        (vec!["--password-command", &*say_wrong], vec![(FILE, &*right)], b"", "wrong_password"),
        (vec!["--password-command", "false"], vec![(FILE, &*right)], b"", "no_password"),
        (vec!["--password-command", "/nowhere"], vec![(FILE, &*right)], b"", "no_password"),
        (vec!["--password-stdin"], vec![(FILE, &*right)], b"not it\n", "wrong_password"),
        (vec!["--password-stdin"], vec![(FILE, &*right)], b"", "bad_password"),
        (vec![], vec![(FILE, &*wrong), (COMMAND, &*say_right)], b"", "wrong_password"),
        (vec![], vec![], b"", "no_password"),
    ] {
        assert_eq!(run(&flags, &env, stdin).error(12)["kind"], kind, "{flags:?} {env:?}");
    }
    // On a terminal too: a wrong source ends the command, it does not become a question.
    let asked = cli.on_terminal(&["list", "--password-file", &wrong]);
    assert_eq!(asked.code, 12, "{asked:?}");
    assert!(!asked.text().contains("Password:"), "{asked:?}");
    assert_eq!(run(&["--password-file", &right, "--password-stdin"], &[], b"").error(2)["kind"], "usage");
}

#[test]
fn a_text_on_standard_input_follows_the_password() {
    let cli = Cli::with_vault();
    let stdin = format!("{PASSWORD}\nfirst line\nsecond line\n");
    let added = cli.run_with_stdin(&["add", "-", "--password-stdin", "--json"], stdin.as_bytes()).json();
    assert_eq!(added["added"][0]["title"], "first line");
    assert_eq!(cli.run(&["show", "@", "--raw"]).stdout, b"first line\nsecond line\n");
}

#[test]
fn entries_are_named_by_prefix_or_by_place() {
    let cli = Cli::with_vault();
    let mut vault = cli.new_vault(&cli.path("many"));
    // Among so many random ids some share their first four digits.
    let edits = (0..1_600).map(|n| {
        new_entry(Content { created: crate::common::NOW + n, ..fresh_content(&format!("entry {n}"), "") })
    });
    let saved = vault.save(&edits.collect::<Vec<_>>()).unwrap();
    drop(vault);
    let mut ids = saved.iter().map(|saved| saved.entry.to_string()).collect::<Vec<_>>();
    let by_place = [ids[1_599].clone(), ids[1_598].clone()];
    ids.sort();
    let twins = ids.windows(2).find(|pair| pair[0][..4] == pair[1][..4]).unwrap();
    let shared = twins[0].bytes().zip(twins[1].bytes()).take_while(|(a, b)| a == b).count();

    let mut cli = cli;
    cli.vault = cli.path("many");
    let error = cli.error(4, &["log", &twins[0][..4]]);
    assert_eq!(error["kind"], "ambiguous");
    assert!(text_of(&error["message"]).contains(&twins[1]), "{error}");
    for (name, id) in [
        (&twins[0][..=shared], &twins[0]),
        (&twins[1].to_uppercase()[..], &twins[1]),
        ("@", &by_place[0]),
        ("@-1", &by_place[1]),
    ] {
        assert_eq!(cli.json(&["show", name])["id"], json!(id), "{name}");
    }
    for name in ["@-1600", "@-x", "@1", &twins[0][..3], "zzzz", "0123456789abcdef", ""] {
        assert_eq!(cli.error(4, &["show", name])["kind"], "not_found", "{name:?}");
    }
    let list = cli.run(&["list"]);
    let shown = list.text().lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(shown.len(), 1_600);
    for short in shown {
        let at = ids.partition_point(|id| &**id < short);
        assert!(short.len() >= 4 && ids[at].starts_with(short), "{short}");
        assert!(ids.get(at + 1).is_none_or(|next| !next.starts_with(short)), "{short} is ambiguous");
    }

    // More than a pipe holds, and nobody who reads it.
    let mut command = cli.command(&["list"]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let silent = finish(child, b"");
    assert_eq!(silent.stderr, "", "a broken pipe is silent");
}

#[test]
fn the_vault_is_found_as_documented() {
    let cli = Cli::with_vault();
    let other = cli.path("other");
    cli.new_vault(&other);
    cli.add("only in the first");
    let entries = |output: crate::common::cli::Output| output.json()["entries"].as_u64().unwrap();
    let status_in = |dir: &Path, env: &[(&str, &Path)]| {
        let mut command = cli.bare_command(ESPEJO, &["status", "--json"]);
        command.current_dir(dir).envs(env.iter().copied());
        finish(command.spawn().unwrap(), b"")
    };
    let deep = cli.vault.join("objects");
    assert_eq!(entries(status_in(&deep, &[])), 1, "upward from here");
    assert_eq!(entries(status_in(&deep, &[("ESPEJO_VAULT", &other)])), 0, "the variable comes first");
    let named = cli.bare(&["status", "--vault", cli.vault.to_str().unwrap(), "--json"]);
    assert_eq!(entries(named), 1);
    assert_eq!(status_in(&cli.path("tmp"), &[]).error(10)["kind"], "no_vault");
    fs::create_dir(cli.path("config/espejo")).unwrap();
    cli.file("config/espejo/config.toml", format!("vault = {:?}\n", cli.vault));
    assert_eq!(entries(status_in(&cli.path("tmp"), &[])), 1, "the configured one comes last");
    assert_eq!(entries(status_in(&other, &[])), 0, "and not before the one here");
    cli.file("config/espejo/config.toml", "valt = 1");
    status_in(&cli.path("tmp"), &[]).error(2);
    // A folder mirror is no vault to work in, though it has the marker.
    let mirror = cli.arg("mirror");
    assert_eq!(cli.run(&["remote", "set", &mirror]).code, 0);
    assert_eq!(cli.run(&["sync"]).code, 0);
    fs::remove_file(cli.path("config/espejo/config.toml")).unwrap();
    status_in(Path::new(&mirror), &[]).error(10);
}

#[test]
fn a_busy_vault_can_be_read_and_says_so_when_written() {
    let cli = Cli::with_vault();
    let id = cli.add("written before");
    let lock = cli.hold_lock();
    assert_eq!(cli.json(&["show", &id])["title"], "written before");
    assert_eq!(cli.error(11, &["add", "-m", "too early"])["kind"], "busy");
    drop(lock);
    cli.add("written after");
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 2);
}

#[test]
fn status_and_check_tell_how_things_stand() {
    let mut cli = Cli::with_vault();
    cli.set("ESPEJO_PASSWORD_FILE", "");
    cli.set("ESPEJO_PASSWORD_COMMAND", "false");
    let status = cli.json(&["status"]);
    fields(&status, STATUS);
    assert_eq!(
        (&status["entries"], &status["remote"]),
        (&json!(0), &Value::Null),
        "no password was asked for"
    );
    assert_eq!(cli.run(&["status", "--exit-code"]).code, 0);
    cli.env.clear();
    cli.add("an entry");
    assert_eq!(cli.run(&["status", "--exit-code"]).code, 6, "not on any mirror yet");
    let check = cli.json(&["check"]);
    fields(&check, "objects:n bytes:n corrupt:a missing:a foreign:a");
    assert_eq!(check["objects"], 1);

    fs::write(cli.vault.join("objects/stray.txt"), "not ours").unwrap();
    let (object, bytes) =
        files(&cli.vault.join("objects")).into_iter().find(|(path, _)| path.iter().count() == 2).unwrap();
    let mut torn = bytes.clone();
    torn[100] ^= 1;
    fs::write(cli.vault.join("objects").join(&object), &torn).unwrap();
    let check = cli.run(&["check", "--json"]);
    assert_eq!(check.error(14)["kind"], "damaged");
    let report = check.document();
    fields(&report["corrupt"][0], "object:s entry:s? error:s");
    assert_eq!(report["corrupt"][0]["object"], json!(object.file_name().unwrap().to_str()));
    assert_eq!(cli.error(14, &["show", "@"])["kind"], "damaged");
    assert_eq!(cli.json(&["status"])["corrupt"], 1);
    assert!(cli.vault.join("local/quarantine").join(object.file_name().unwrap()).exists());

    let marker = cli.vault.join("espejo.json");
    let intact = fs::read(&marker).unwrap();
    fs::write(&marker, br#"{"espejo":99,"vault":"later"}"#).unwrap();
    assert_eq!(cli.error(15, &["list"])["kind"], "newer");
    fs::write(&marker, intact).unwrap();
    fs::remove_dir_all(cli.vault.join("keys")).unwrap();
    fs::remove_file(cli.vault.join("local/key")).unwrap();
    assert_eq!(cli.error(15, &["list"])["kind"], "key_file_missing");
}

#[test]
fn espejo_alone_says_how_things_stand_and_what_to_do_next() {
    let cli = Cli::new();
    let nothing = cli.bare(&[]);
    assert_eq!(nothing.code, 10, "{nothing:?}");
    for begin in ["espejo init", "espejo clone", "espejo demo"] {
        assert!(nothing.text().contains(begin), "{nothing:?}");
    }
    assert_eq!(cli.bare(&["--json"]).error(10)["kind"], "no_vault");
    cli.new_vault(&cli.vault);
    let empty = cli.run(&[]);
    assert_eq!(
        empty.text(),
        "0 entries\nno mirror (`espejo remote set …`)\nno backup (`espejo backup auto --every 1d`)\n"
    );
    let hints = empty.stderr.lines().map(|line| line.trim().split("  ").next().unwrap()).collect::<Vec<_>>();
    let expected = [
        "next:",
        "espejo \"a first thought\"",
        "espejo remote set https://cloud.example",
        "espejo backup auto --every 1d",
    ];
    assert_eq!(hints, expected);
    // A thought is an entry, with all that `add` can do; anything else is a mistake that names the way.
    let added = cli.json(&["a first thought", "-T", "diary"]);
    assert_eq!(added["added"].as_array().unwrap().len(), 1);
    assert_eq!(cli.run(&["show", "@", "--raw"]).text(), "a first thought");
    assert_eq!(cli.json(&[])["entries"], 1);
    let word = cli.run(&["thought"]);
    assert!(word.code == 2 && word.stderr.contains("espejo \"a thought\""), "{word:?}");
    assert!(!cli.run(&["remote", "thought"]).stderr.contains("a thought"));
}

#[test]
fn a_mistake_on_the_command_line_is_2_and_says_what() {
    let cli = Cli::new();
    for args in [
        &["list", "--frobnicate", "--json"][..],
        &["frobnicate", "--json"],
        &["remote", "--json"],
        &["add", "-m", "text", "--date", "someday", "--json"],
        &["add", "-m", "text", "-T", "a,b", "--json"],
        &["resolve", "abcd", "--json"],
        &["resolve", "abcd", "--merge", "--keep", "abcd", "--json"],
        &["list", "-n", "many", "--json"],
        &["edit", "abcd", "-m", "a", "--file", "b", "--json"],
        &["remote", "set", "ftp://example.org/", "--vault", "/nowhere", "--json"],
    ] {
        let output = cli.run(args);
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        fields(&output.error(2), "kind:s message:s hint:s?");
        let words = cli.run(&args[..args.len() - 1]);
        assert_eq!(words.code, 2, "{args:?}: {words:?}");
        assert!(!words.stderr.is_empty(), "{args:?}");
    }
    // Where the help would be shown to a person.
    cli.run(&["--json", "remote"]).error(2);
    assert_eq!(cli.error(10, &["list"])["kind"], "no_vault");
    assert_eq!(cli.error(4, &["add", "/nowhere.md"])["kind"], "no_such_file");
    let person = cli.run(&["list"]);
    let lines = person.stderr.lines().collect::<Vec<_>>();
    assert!(
        lines.len() == 2 && lines[0].starts_with("error: ") && lines[1].starts_with("hint: "),
        "{lines:?}"
    );
    for args in [&["--help"][..], &["add", "--help"], &["--version"]] {
        let help = cli.run(args);
        assert!(help.code == 0 && !help.stdout.is_empty() && help.stderr.is_empty(), "{help:?}");
    }
}

/// Two vaults and the folder they meet in.
fn two_devices() -> (Cli, Cli) {
    let mut a = Cli::with_vault();
    let mirror = a.arg("mirror");
    a.json(&["remote", "set", &mirror]);
    a.json(&["sync"]);
    let mut b = Cli::new();
    let clone =
        b.run(&["clone", &mirror, b.vault.to_str().unwrap(), "--device-name", "desktop", "--json"]).json();
    fields(&clone, &format!("{SYNCED} vault:s vault_id:s device_id:s"));
    a.set("MIRROR", mirror.clone());
    b.set("MIRROR", mirror);
    (a, b)
}

#[test]
fn sync_and_remote_give_the_documented_json() {
    let (a, b) = two_devices();
    let mirror = a.env["MIRROR"].clone();
    assert_eq!(a.json(&["remote", "show"])["target"], json!(mirror));
    fields(&a.json(&["remote", "test"]), "target:s reachable:b state:s duration_ms:n");
    let photo = a.file("photo.png", "pixels");
    a.json(&["add", "-m", "with a photo", "-a", &photo]);

    let before = (files(&a.vault), files(Path::new(&mirror)));
    let dry = a.json(&["sync", "-n"]);
    fields(&dry, SYNCED);
    assert_eq!((&dry["dry_run"], &dry["pushed"]), (&json!(true), &json!(2)));
    assert_eq!((files(&a.vault), files(Path::new(&mirror))), before, "-n writes nothing anywhere");

    let pushed = a.json(&["sync"]);
    fields(&pushed, SYNCED);
    assert_eq!(pushed["pushed"], 2, "a version and an attachment");
    let idle = a.run(&["sync"]);
    assert_eq!(idle.text(), "up to date (1 request)\n");
    let pulled = b.json(&["sync"]);
    assert_eq!(pulled["pulled"], 2);
    let line = b.run(&["sync"]);
    assert_eq!(line.text(), "up to date (1 request)\n");
    assert_eq!(b.run(&["show", "@", "--attachment", "photo.png"]).stdout, b"pixels");
    let status = b.json(&["status"]);
    fields(&status["remote"], "target:s last_sync:s");
    assert_eq!(b.run(&["status", "--exit-code"]).code, 0);

    // An announced file that has not arrived: pending, not an error of its own.
    a.add("on its way");
    let known = files(Path::new(&mirror));
    a.json(&["sync"]);
    let arrived = files(Path::new(&mirror));
    let object =
        arrived.keys().find(|path| path.starts_with("objects") && !known.contains_key(*path)).unwrap();
    let object = Path::new(&mirror).join(object);
    let aside = a.path("aside");
    fs::rename(&object, &aside).unwrap();
    let waiting = b.run(&["sync", "--json"]);
    assert_eq!(waiting.code, 3, "{waiting:?}");
    assert_eq!(waiting.document()["pending"], 1);
    assert_eq!(b.run(&["status", "--exit-code"]).code, 6);
    fs::rename(&aside, &object).unwrap();
    assert_eq!(b.json(&["sync"])["pulled"], 1);

    let forgotten = b.json(&["remote", "forget"]);
    assert_eq!(forgotten, json!({ "forgotten": mirror }));
    assert_eq!(b.error(4, &["remote", "show"])["kind"], "no_remote");
    assert_eq!(b.error(4, &["sync"])["kind"], "no_remote");
    let inside = a.vault.join("mirror");
    assert_eq!(a.error(2, &["remote", "set", inside.to_str().unwrap()])["kind"], "usage");
}

#[test]
fn conflicts_are_listed_and_settled_each_way() {
    let (a, b) = two_devices();
    let id = a.add("line one\nline two\nline three");
    a.json(&["sync"]);
    b.json(&["sync"]);
    let clash = |left: &str, right: &str| {
        a.json(&["edit", &id, "-m", left]);
        b.json(&["edit", &id, "-m", right]);
        a.json(&["sync"]);
        assert_eq!(b.json(&["sync"])["conflicts"], 1, "a conflict is not a failure");
        assert_eq!(a.json(&["sync"])["conflicts"], 1);
        let conflicts = a.json(&["conflicts"]);
        fields(&conflicts["conflicts"][0], "id:s title:s current:s others:a");
        conflicts["conflicts"][0].clone()
    };
    let settle = |how: &[&str]| {
        let mut args = vec!["resolve", &id];
        args.extend(how);
        fields(&a.json(&args)["changed"][0], "id:s version:s");
        assert_eq!(a.json(&["conflicts"])["conflicts"], json!([]));
        a.json(&["sync"]);
        assert_eq!(b.json(&["sync"])["conflicts"], 0);
        let (mine, theirs) = (a.run(&["show", &id, "--raw"]), b.run(&["show", &id, "--raw"]));
        assert_eq!(mine.stdout, theirs.stdout);
        mine.text().to_owned()
    };
    let conflict = clash("line ONE\nline two\nline three", "line one\nline two\nline THREE");
    assert_eq!(a.json(&["list"])["entries"][0]["conflict"], true);
    assert_eq!(a.run(&["status", "--exit-code"]).code, 6);
    let loser = text_of(&conflict["others"][0]);
    let log = a.json(&["log", &id]);
    let lost = log["versions"].as_array().unwrap().iter().find(|it| it["conflict"] == true).unwrap();
    assert_eq!(lost["version"], json!(loser));
    assert_eq!(settle(&["--merge"]), "line ONE\nline two\nline THREE");

    let conflict = clash("left", "right");
    let merge = a.run(&["resolve", &id, "--merge"]);
    assert_eq!(merge.code, 2, "contradictions need an editor: {merge:?}");
    let loser = text_of(&conflict["others"][0]);
    assert_eq!(settle(&["--keep", &loser[..6]]), "left");
    clash("left again", "right again");
    let file = a.file("settled.md", "written by hand");
    assert_eq!(settle(&["--file", &file]), "written by hand");
    assert_eq!(a.error(4, &["resolve", &id, "--merge"])["kind"], "no_conflict");
}

#[test]
fn guards_stop_a_sync_and_change_nothing() {
    let (a, b) = two_devices();
    let mirror = a.env["MIRROR"].clone();
    let entries = (0..24).map(|n| new_entry(fresh_content(&format!("entry {n}"), "body")));
    let mut vault = {
        let locked = espejo::vault::Locked::find(espejo::host::ThisMachine::new(&a.vault)).unwrap();
        let password = espejo::crypto::Password::new(PASSWORD).unwrap();
        locked.unlock(&espejo::format::keyfile::Secret::Password(password)).unwrap()
    };
    let saved = vault.save(&entries.collect::<Vec<_>>()).unwrap();
    drop(vault);
    a.json(&["sync"]);
    b.json(&["sync"]);
    let ids = saved.iter().map(|saved| saved.entry.to_string()).collect::<Vec<_>>();
    let mut rm = vec!["rm"];
    rm.extend(ids.iter().take(22).map(String::as_str));
    a.json(&rm);
    a.json(&["sync"]);
    let error = b.error(16, &["sync"]);
    assert_eq!(error["kind"], "mass_delete");
    let message = text_of(&error["message"]);
    assert!(message.contains("22") && message.contains("laptop"), "{message}");
    assert!(text_of(&error["hint"]).contains("--accept-deletes"));
    assert_eq!(b.json(&["list"])["entries"].as_array().unwrap().len(), 24);
    b.json(&["sync", "--accept-deletes"]);
    assert_eq!(b.json(&["list"])["entries"].as_array().unwrap().len(), 2);

    fs::rename(&mirror, a.path("unmounted")).unwrap();
    let error = a.error(16, &["sync"]);
    assert_eq!(error["kind"], "mirror_gone");
    assert!(text_of(&error["hint"]).contains("--reseed"));
    assert!(!Path::new(&mirror).exists(), "a guard makes nothing");
    fs::create_dir(&mirror).unwrap();
    a.error(16, &["sync"]);
    a.json(&["sync", "--reseed"]);
    assert_eq!(b.run(&["sync"]).code, 0);

    let photos = a.path("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("cat.jpg"), "a cat").unwrap();
    let c = Cli::with_vault();
    c.json(&["remote", "set", photos.to_str().unwrap()]);
    assert_eq!(c.error(16, &["sync"])["kind"], "foreign_folder");
    assert_eq!(files(&photos).len(), 1);
    c.json(&["remote", "set", &mirror]);
    assert_eq!(c.error(16, &["sync"])["kind"], "other_vault");
}

#[test]
fn a_server_that_refuses_or_does_not_answer_has_its_own_code() {
    let cli = Cli::with_vault();
    let server = Server::start(cli.path("server"), "ana", "the right one");
    let (right, wrong) =
        (cli.file("secrets/right", "the right one"), cli.file("secrets/wrong", "a wrong one"));
    let set = |password: &str| {
        cli.json(&["remote", "set", &server.url, "--user", "ana", "--remote-password-file", password]);
    };
    set(&wrong);
    assert_eq!(cli.error(13, &["sync"])["kind"], "unauthorized");
    set(&right);
    cli.add("an entry");
    assert_eq!(cli.json(&["sync"])["pushed"], 1);
    let mut other = Cli::new();
    let other_vault = other.arg("vault");
    let clone = ["clone", &server.url, &other_vault, "--user", "ana", "--json"];
    other.set("ESPEJO_REMOTE_PASSWORD_COMMAND", format!("cat {right}"));
    assert_eq!(other.run(&clone).json()["pulled"], 1);
    drop(server);
    let start = Instant::now();
    let error = cli.error(5, &["sync"]);
    assert_eq!(error["kind"], "unreachable");
    assert!(start.elapsed() < Duration::from_mins(1), "{:?}", start.elapsed());
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 1);
    let empty = Cli::new();
    fs::create_dir(empty.path("nothing")).unwrap();
    let clone = empty.run(&["clone", &empty.arg("nothing"), empty.vault.to_str().unwrap(), "--json"]);
    assert_eq!(clone.error(4)["kind"], "no_mirror");
}

/// What the recording editors write down.
const RECORD: &str = r#"
for arg in "$@"; do printf '%s\n' "$arg"; file=$arg; done > "$RECORD/argv"
printf '%s' "$file" > "$RECORD/path"
stat -c %a "$file" > "$RECORD/mode"
stat -c %a "$(dirname "$file")" > "$RECORD/dir-mode"
stat -f -c %T "$file" > "$RECORD/file-system"
cat "$file" > "$RECORD/before"
env > "$RECORD/env"
"#;

struct Editor {
    cli: Cli,
}

impl Editor {
    /// A person whose editor `name` records what it is given and then does `script`.
    fn new(name: &str, script: &str) -> Self {
        let mut cli = Cli::with_vault();
        fs::create_dir(cli.path("record")).unwrap();
        cli.set("RECORD", cli.arg("record"));
        cli.set("EDITOR", name);
        cli.program(name, &format!("{RECORD}\n{script}"));
        Self { cli }
    }

    fn record(&self, what: &str) -> String {
        fs::read_to_string(self.cli.path("record").join(what)).unwrap()
    }

    /// The draft was in memory, for nobody else to read.
    fn assert_private(&self) {
        assert!(["tmpfs", "ramfs"].contains(&self.record("file-system").trim()), "{}", self.record("path"));
        assert_eq!((self.record("mode").trim(), self.record("dir-mode").trim()), ("600", "700"));
        let env = self.record("env");
        assert!(!env.contains("ESPEJO_PASSWORD") && !env.contains(PASSWORD), "{env}");
    }
}

#[test]
fn the_editor_gets_a_private_draft_in_memory() {
    let editor = Editor::new("vim", "printf 'written in vim\\n' > \"$file\"");
    let added = editor.cli.on_terminal(&["add"]);
    assert_eq!(added.code, 0, "{added:?}");
    editor.assert_private();
    assert_eq!(editor.record("before"), "");
    let argv = editor.record("argv");
    for flag in ["-n", "-i", "NONE", "set noswapfile nobackup nowritebackup", "silent! set noundofile"] {
        assert!(argv.lines().any(|arg| arg == flag), "no {flag:?} in {argv}");
    }
    let session = editor.cli.arg("run");
    assert!(editor.record("path").starts_with(&session), "in the session's own directory");
    assert!(!Path::new(&editor.record("path")).exists(), "the draft is gone");
    assert_eq!(editor.cli.run(&["show", "@", "--raw"]).stdout, b"written in vim\n");

    editor.cli.program("nano", &format!("{RECORD}\nprintf 'and nano\\n' >> \"$file\""));
    let mut cli = editor.cli;
    cli.set("VISUAL", "nano --flag");
    // That is on a disk.
    cli.set("XDG_RUNTIME_DIR", "/usr");
    let edited = cli.on_terminal(&["edit", "@"]);
    assert_eq!(edited.code, 0, "{edited:?}");
    let editor = Editor { cli };
    editor.assert_private();
    assert!(editor.record("path").starts_with("/dev/shm/"), "{}", editor.record("path"));
    assert_eq!(editor.record("before"), "written in vim\n");
    assert!(editor.record("argv").starts_with("--flag\n"));
    assert_eq!(editor.cli.run(&["show", "@", "--raw"]).stdout, b"written in vim\nand nano\n");

    editor.cli.program("nano", RECORD);
    let unchanged = editor.cli.on_terminal(&["edit", "@"]);
    assert_eq!(unchanged.code, 1);
    assert!(unchanged.text().contains("nothing was changed"), "{unchanged:?}");
    assert!(!Path::new(&editor.record("path")).exists());
    assert_eq!(editor.cli.json(&["log", "@"])["versions"].as_array().unwrap().len(), 2);
    let no_terminal = editor.cli.error(2, &["add"]);
    assert!(text_of(&no_terminal["message"]).contains("terminal"));
    let no_input = editor.cli.on_terminal(&["add", "--no-input"]);
    assert_eq!(no_input.code, 2);
}

#[test]
fn a_draft_that_could_not_be_saved_stays_and_is_named() {
    let editor = Editor::new("busy-editor", "printf 'precious words' > \"$file\"");
    let lock = editor.cli.hold_lock();
    let failed = editor.cli.on_terminal(&["add"]);
    assert_eq!(failed.code, 11, "{failed:?}");
    assert_kept(&editor, &failed, b"precious words");
    drop(lock);

    // Also if it is the editor that fails, or leaves something that is no text.
    for (script, content) in [
        ("printf 'precious words' > \"$file\"; exit 1", &b"precious words"[..]),
        ("printf 'precious \\377 words' > \"$file\"", b"precious \xff words"),
    ] {
        editor.cli.program("busy-editor", &format!("{RECORD}\n{script}"));
        let failed = editor.cli.on_terminal(&["add"]);
        assert_eq!(failed.code, 1, "{failed:?}");
        assert_kept(&editor, &failed, content);
    }
    editor.cli.program("busy-editor", &format!("{RECORD}\nexit 1"));
    assert_eq!(editor.cli.on_terminal(&["add"]).code, 1);
    assert!(!Path::new(&editor.record("path")).exists(), "nothing was written, nothing stays");
}

fn assert_kept(editor: &Editor, failed: &crate::common::cli::Output, content: &[u8]) {
    let path = editor.record("path");
    assert!(failed.text().contains(&path), "{path} is not named: {failed:?}");
    assert_eq!(fs::read(&path).unwrap(), content);
    fs::remove_dir_all(Path::new(&path).parent().unwrap()).unwrap();
}

#[test]
fn an_unsettled_merge_keeps_what_was_written() {
    let (a, b) = two_devices();
    let id = a.add("base");
    a.json(&["sync"]);
    b.json(&["sync"]);
    a.json(&["edit", &id, "-m", "left"]);
    b.json(&["edit", &id, "-m", "right"]);
    a.json(&["sync"]);
    b.json(&["sync"]);
    a.json(&["sync"]);
    let mut a = a;
    fs::create_dir(a.path("record")).unwrap();
    a.set("RECORD", a.arg("record"));
    a.set("EDITOR", "merger");
    a.program("merger", &format!("{RECORD}\nprintf 'half done\\n' >> \"$file\""));
    let editor = Editor { cli: a };
    let failed = editor.cli.on_terminal(&["resolve", &id, "--merge"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    let path = editor.record("path");
    assert!(failed.text().contains(&path), "{failed:?}");
    assert!(fs::read_to_string(&path).unwrap().ends_with("half done\n"));
    fs::remove_dir_all(Path::new(&path).parent().unwrap()).unwrap();
    editor.cli.program("merger", &format!("{RECORD}\nprintf 'settled' > \"$file\""));
    assert_eq!(editor.cli.on_terminal(&["resolve", &id, "--merge"]).code, 0);
    assert_eq!(editor.cli.run(&["show", &id, "--raw"]).stdout, b"settled");
}

#[test]
fn an_interrupted_sync_is_130_and_loses_nothing() {
    let cli = Cli::with_vault();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // An address like this is taken as it is, and nothing is asked there before the sync.
    let url = format!("http://{}/remote.php/dav/files/ada/journal", silent.local_addr().unwrap());
    cli.json(&["remote", "set", &url]);
    cli.add("an entry");
    let child = cli.command(&["sync", "--json"]).stdin(File::open("/dev/null").unwrap()).spawn().unwrap();
    // It is at the mirror when it has connected.
    let _connection = silent.accept().unwrap();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(finish(child, b"").error(130)["kind"], "interrupted");
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn the_mirror_stays_the_same_while_a_sync_runs() {
    let cli = Cli::with_vault();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // An address like this is taken as it is, and nothing is asked there before the sync.
    let url = format!("http://{}/remote.php/dav/files/ada/journal", silent.local_addr().unwrap());
    cli.json(&["remote", "set", &url]);
    let child = cli.command(&["sync", "--json"]).stdin(File::open("/dev/null").unwrap()).spawn().unwrap();
    let connection = silent.accept().unwrap();
    let other = cli.arg("mirror");
    assert_eq!(cli.error(11, &["remote", "set", &other])["kind"], "busy");
    assert_eq!(cli.error(11, &["remote", "forget"])["kind"], "busy");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(child, b"").error(130);
    drop(connection);
    cli.json(&["remote", "set", &other]);
}

#[test]
fn a_sync_with_a_folder_can_be_interrupted_and_goes_on_later() {
    let cli = Cli::with_vault();
    let mirror = cli.path("mirror");
    cli.json(&["remote", "set", mirror.to_str().unwrap()]);
    cli.json(&["sync"]);
    let large = cli.file("large.bin", vec![7; 200_000_000]);
    cli.json(&["add", "-m", "with something large", "-a", &large]);
    let before = files(&mirror).len();
    let child = cli.command(&["sync", "--json"]).spawn().unwrap();
    let start = Instant::now();
    let sent =
        || walkdir::WalkDir::new(&mirror).into_iter().flatten().filter(|it| it.file_type().is_file()).count();
    while sent() < before + 3 {
        assert!(start.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(finish(child, b"").error(130)["kind"], "interrupted");
    assert_eq!(cli.run(&["sync"]).code, 0);
    let out = cli.arg("out.bin");
    cli.json(&["show", "@", "--attachment", "large.bin", "-o", &out]);
    assert!(fs::read(&out).unwrap() == vec![7; 200_000_000]);
}
