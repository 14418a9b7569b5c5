//! The mistakes people make, and what they read then, word for word: `mistakes.txt`. `ESPEJO_BLESS=1` writes it anew, to be
//! read by a person.

use std::fs;
use std::path::Path;

use crate::common::cli::{Cli, ESPEJO, PASSWORD, finish};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/mistakes.txt");

/// A home directory in which mistakes can be made, with `vault` and `mirror` if it says so.
fn home(kind: &str) -> Cli {
    let mut cli = Cli::new();
    for (name, text) in [("a-file", "a file\n"), ("password", PASSWORD), ("wrong", "not this one at all\n")] {
        cli.file(name, text);
    }
    cli.file("empty", "");
    cli.file("short", "secret\n");
    fs::create_dir(cli.path("full")).unwrap();
    cli.file("full/photo.jpg", "a photo");
    cli.program("espejo", &format!("exec {ESPEJO} \"$@\""));
    cli.set("ESPEJO_PASSWORD_FILE", cli.arg("password"));
    if kind != "nothing" {
        let vault = cli.arg("vault");
        cli.new_vault(&cli.vault);
        cli.run(&["add", "-m", "kept"]).exits(0);
        cli.set("ESPEJO_VAULT", vault);
    }
    if kind == "mirror" {
        cli.run(&["remote", "set", &cli.arg("mirror")]).exits(0);
        cli.run(&["sync"]).exits(0);
        let other = cli.path("other");
        cli.new_vault(&other);
        let other = other.to_str().unwrap().to_owned();
        cli.run(&["--vault", &other, "remote", "set", &cli.arg("other-mirror")]).exits(0);
        cli.run(&["--vault", &other, "sync"]).exits(0);
    }
    cli
}

/// What is another one each time: directories, ids, the day.
fn steady(text: &str, cli: &Cli) -> String {
    let day = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).strftime("%-d %b %Y").to_string();
    let text = text.replace(cli.dir.to_str().unwrap(), "~").replace(&day, "today");
    let is_id = |word: &str| word.len() >= 8 && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut steady = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        steady.push_str(if is_id(&word) { "(id)" } else { &word });
        word.clear();
        steady.push(c);
    }
    steady.trim_end().to_owned()
}

#[test]
fn whoever_makes_a_mistake_reads_what_happened_and_what_to_do() {
    let expected = fs::read_to_string(FILE).unwrap();
    let mut told = String::new();
    let mut cli = home("nothing");
    let mut mistakes = 0;
    for line in expected.lines() {
        if let Some(title) = line.strip_prefix("# ") {
            let kind = title.split_once('[').unwrap().1.trim_end_matches(']');
            cli = home(kind);
            told.push_str(&format!("{line}\n\n"));
        } else if let Some(command) = line.strip_prefix("$ ") {
            mistakes += 1;
            let output = finish(cli.bare_command("sh", &["-c", command]).spawn().unwrap(), b"");
            let said = steady(&output.stderr, &cli);
            told.push_str(&format!("{line}\n{said}\n[{}]\n\n", output.code));
            assert!((1..=20).contains(&output.code), "{command}: {output:?}");
            // A parser's usage is a hint, too.
            assert!(said.contains("\nhint: ") || said.contains("--help"), "no hint: {command}: {output:?}");
        }
    }
    if std::env::var_os("ESPEJO_BLESS").is_some() {
        fs::write(Path::new(FILE), &told).unwrap();
    }
    assert!(mistakes >= 50, "{mistakes}");
    let differs = told.lines().zip(expected.lines()).find(|(told, expected)| told != expected);
    assert_eq!(differs, None);
    assert_eq!(told, expected);
}
