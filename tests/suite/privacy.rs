//! What the mirror's owner can see is what `privacy` says, no more and no less.

use std::process::Command;

use crate::common::cli::Cli;
use serde_json::Value;

const ADVERSARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/adversary.py");

/// What somebody with the mirror and without the key finds out.
fn adversary(cli: &Cli) -> Value {
    let output = Command::new("python3").args([ADVERSARY, &cli.arg("mirror")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Without the part of a second, in which the two are written differently.
fn seconds(mut exposed: Value) -> Value {
    for key in exposed["key_files"].as_array_mut().unwrap() {
        let created = key["created"].as_str().unwrap()[..19].to_owned();
        key["created"] = created.into();
    }
    exposed
}

#[test]
fn privacy_says_what_an_adversary_with_the_mirror_finds() {
    let cli = Cli::with_vault();
    let photo = cli.file("photo.bin", vec![7; 9 << 20]);
    for number in 0..12 {
        cli.add(&format!("Page {number}\n{}", "word ".repeat(number * 400)));
    }
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    cli.json(&["sync"]);
    cli.json(&["edit", "@", "-m", "again", "-a", &photo]);
    let gone = cli.add("a page that goes");
    cli.json(&["sync"]);
    cli.json(&["rm", &gone]);
    cli.json(&["sync"]);
    let desktop = cli.arg("desktop");
    cli.json(&["clone", &cli.arg("mirror"), &desktop, "--device-name", "desktop"]);
    cli.json(&["--vault", &desktop, "add", "-m", "from the other device"]);
    cli.json(&["--vault", &desktop, "sync"]);
    cli.json(&["sync"]);
    for vault in [cli.vault.to_str().unwrap(), &desktop] {
        assert_eq!(seconds(cli.json(&["--vault", vault, "privacy"])), seconds(adversary(&cli)));
    }
    let exposed = cli.json(&["privacy"]);
    // 14 pages were written, one was edited and one deleted; the attachment is three parts.
    assert_eq!((exposed["versions"].as_u64(), exposed["parts"].as_u64()), (Some(16), Some(3)));
    assert_eq!(exposed["devices"].as_array().unwrap().len(), 2);
    let said = cli.run(&["privacy"]);
    assert!(said.text().contains("16 saved versions"), "{said:?}");
    for secret in ["laptop", "desktop", "Page", "photo"] {
        let told = said.text().lines().skip(1).any(|line| line.contains(secret));
        assert!(!told && !exposed.to_string().contains(secret), "{secret} is not the mirror's to see");
    }
}

#[test]
fn without_a_mirror_nobody_sees_anything() {
    let cli = Cli::with_vault();
    cli.error(4, &["privacy"]);
}
