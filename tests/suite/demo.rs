//! `espejo demo`, as a person runs it.

use std::fs;
use std::process::{Command, Output, Stdio};

const STEPS: [&str; 12] = [
    "server", "laptop", "import", "sync", "join", "offline", "conflict", "damage", "heal", "delete", "idle",
    "secrecy",
];

fn demo(temp: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espejo"));
    command.arg("demo").env("TMPDIR", temp);
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn every_step_holds_and_nothing_is_left_behind() {
    let temp = tempfile::tempdir().unwrap();
    let output = demo(temp.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"");

    let said = stdout(&output);
    let held = said.lines().filter_map(|line| line.strip_prefix("✓ "));
    let held = held.map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(held, STEPS);
    for line in [
        "12 Markdown pages and a picture, as 13 sealed objects",
        "13 objects up in one pack",
        "12 pages from the mirror, word for word",
        "desktop's is newer and shown, laptop's in both histories",
        "flipped on disk: noticed, not shown",
        "the same bytes back from the mirror",
        "deleted on laptop, gone on desktop",
        "nothing is left to do: 1 request each",
        "none found",
        "espejo init ~/journal",
        "espejo --vault ~/journal sync",
        "espejo clone https://",
    ] {
        assert!(said.contains(line), "{line:?} is missing:\n{said}");
    }
    for line in said.lines().filter(|line| line.starts_with('✓')) {
        assert!(line.chars().count() <= 100, "too wide: {line}");
    }

    let named = said.lines().next().unwrap().rsplit(' ').next().unwrap();
    assert!(std::path::Path::new(named).starts_with(temp.path()), "{named}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn a_reader_that_goes_away_leaves_nothing_behind_either() {
    let temp = tempfile::tempdir().unwrap();
    let mut demo = demo(temp.path()).stdout(Stdio::piped()).spawn().unwrap();
    drop(demo.stdout.take());
    demo.wait().unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}
