//! `status --short`: one line for a bar, from a handful of small files, without password or network.

use std::process::Command;

use crate::common::cli::{Cli, ESPEJO};

#[test]
fn a_bar_reads_one_line_and_a_handful_of_files() {
    let cli = Cli::with_vault();
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    cli.json(&["sync"]);
    cli.add("one");
    let line =
        cli.bare(&["--vault", cli.vault.to_str().unwrap(), "status", "--short", "--no-input"]).exits(0);
    assert_eq!(line.text(), "✓ 1 waiting · synced just now\n");
    let json = cli.run(&["status", "--short", "--json"]).json();
    assert_eq!(json["unsynced"], 1);
    assert_eq!(cli.run(&["status", "--short", "--exit-code"]).code, 6);

    let log = cli.path("strace.log");
    let trace = ["-f", "-qq", "-e", "trace=openat,socket", "-o", log.to_str().unwrap(), ESPEJO, "--vault"];
    let mut command = Command::new("strace");
    command.args(trace).arg(&cli.vault).args(["status", "--short"]).env("TZ", "UTC");
    let output = command.output().expect("strace is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = std::fs::read_to_string(log).unwrap();
    let vault = cli.vault.to_str().unwrap();
    let inside = calls
        .lines()
        .filter(|call| call.contains(vault) || call.contains("\"local") || call.contains("\"espejo.json"));
    let inside = inside.collect::<Vec<_>>();
    assert!((1..=12).contains(&inside.len()), "{inside:#?}");
    for never in ["objects", "keys", "local/manifest", "local/feeds", "socket(AF_INET"] {
        assert!(!inside.iter().any(|call| call.contains(never)), "{never} in {inside:#?}");
    }
    assert!(!calls.contains("AF_INET"), "{calls}");
}
