//! Backups: what is in one, what is refused, and that a good one is never given up for a doubtful one.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::cli::{Cli, ESPEJO, Mounted, files, temp_dir, text_of};
use crate::common::*;
use espejo::crypto::Keyring;
use espejo::host::ThisMachine;
use espejo::vault::{self, Backup, Error};
use serde_json::json;

/// A machine with a vault that its recovery key opens too, which is cheap, and the arguments that say so.
fn with_recovery() -> (Cli, [String; 2]) {
    let cli = Cli::new();
    let words = cli.arg("words");
    let init = cli.run(&["init", cli.vault.to_str().unwrap(), "--recovery-out", &words]);
    assert_eq!(init.code, 0, "{init:?}");
    (cli, ["--recovery-key-file".to_owned(), words])
}

/// Runs `espejo` so that it is killed, or fails, at the n-th system call of a kind. True if it came that far.
fn inject(cli: &Cli, args: &[&str], syscall: &str, what: &str, n: u32) -> bool {
    let rule = format!("inject={syscall}:{what}:when={n}");
    let mut words = vec!["-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &rule, ESPEJO];
    words.extend(args);
    let mut command: Command = cli.bare_command("strace", &words);
    command.env("ESPEJO_VAULT", &cli.vault);
    command.env("ESPEJO_PASSWORD_FILE", cli.path("secrets/password"));
    let status = command.output().expect("this test needs strace (tests/servers/install.sh)").status;
    status.signal() == Some(9) || status.code() != Some(0)
}

fn verify(path: &Path, keyring: &Keyring) -> Result<u64, Error> {
    Ok(Backup::of_vault(path, keyring)?.verify(keyring)?.objects)
}

fn restore(path: &Path, keyring: &Keyring, to: &Path) -> Result<(), Error> {
    let backup = Backup::of_vault(path, keyring)?;
    let host = |dir: &Path| ThisMachine::with_clock(dir, TestClock::at(NOW));
    vault::restore(&backup, keyring, to, host, "restored").map(|_| ())
}

#[test]
fn a_backup_unpacks_with_tar_into_a_vault() {
    let cli = Cli::with_vault();
    let note = cli.file("note.txt", "what is attached");
    cli.json(&["add", "-m", "first", "-a", &note]);
    cli.add("second");
    let backup = cli.arg("journal.tar");
    let created = cli.json(&["backup", "create", &backup]);
    crate::common::cli::fields(&created, "file:s objects:n verified:b");
    assert_eq!((&created["objects"], &created["verified"]), (&json!(3), &json!(true)));
    assert_eq!(cli.json(&["status"])["backup"]["verified"], true);

    fs::create_dir(cli.path("unpacked")).unwrap();
    let tar = Command::new("tar").args(["xf", &backup, "-C", &cli.arg("unpacked")]).status();
    assert!(tar.unwrap().success());
    for (name, bytes) in files(&cli.vault.join("objects")) {
        assert_eq!(fs::read(cli.path("unpacked/objects").join(name)).unwrap(), bytes);
    }
    let unpacked = cli.run(&["--vault", &cli.arg("unpacked"), "list", "--json"]).json();
    assert_eq!(unpacked, cli.json(&["list"]));
    let shown = cli.run(&["--vault", &cli.arg("unpacked"), "show", "@-1", "--attachment", "note.txt"]);
    assert_eq!(shown.text(), "what is attached");
    assert_eq!(cli.run(&["--vault", &cli.arg("unpacked"), "check"]).code, 0);
}

#[test]
fn without_a_file_a_backup_goes_beside_the_vault_and_is_listed() {
    let cli = Cli::with_vault();
    cli.add("an entry");
    let created = cli.json(&["backup", "create"]);
    let file = PathBuf::from(text_of(&created["file"]));
    assert_eq!(file.parent().unwrap(), cli.path("vault-backups"));
    let list = cli.json(&["backup", "list"]);
    assert_eq!(list["backups"][0]["file"], created["file"]);
    assert_eq!(list["backups"][0]["objects"], 1);
    // No vault is needed to verify: the backup has its keys in it.
    let mut elsewhere = Cli::new();
    elsewhere.set("ESPEJO_VAULT", "/nowhere");
    assert_eq!(elsewhere.json(&["backup", "verify", file.to_str().unwrap()])["verified"], true);
    fs::write(elsewhere.path("secrets/password"), "wrong").unwrap();
    assert_eq!(elsewhere.error(12, &["backup", "verify", file.to_str().unwrap()])["kind"], "wrong_password");
    assert_eq!(cli.error(4, &["backup", "verify", "nothing.tar"])["kind"], "not_found");
    let inside = cli.vault.join("inside.tar");
    assert_eq!(cli.error(2, &["backup", "create", inside.to_str().unwrap()])["kind"], "usage");
}

#[test]
fn a_restored_vault_is_a_device_of_its_own_without_a_mirror() {
    let cli = Cli::with_vault();
    let mirror = cli.arg("mirror");
    cli.json(&["remote", "set", &mirror]);
    cli.add("before");
    cli.json(&["sync"]);
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    let to = cli.arg("restored/here");
    let restored = cli.json(&["restore", &backup, "--to", &to]);
    assert_eq!(restored["restored"], 1);
    assert_eq!((&restored["skipped"], &restored["damaged"]), (&json!([]), &json!([])));
    let at = |args: &[&str]| cli.run(&[&["--vault", &to, "--json"], args].concat()).json();
    assert_eq!(at(&["list"]), cli.json(&["list"]));
    assert_eq!(at(&["check"])["files"], json!([]));
    assert!(at(&["status"])["remote"].is_null());
    // Two devices at one mirror, and neither takes the other for itself.
    cli.run(&["--vault", &to, "add", "-m", "after"]);
    at(&["remote", "set", &mirror]);
    let sync = at(&["sync"]);
    assert_eq!((&sync["pushed"], &sync["warnings"]), (&json!(1), &json!([])), "{sync}");
    let sync = cli.json(&["sync"]);
    assert_eq!((&sync["pulled"], &sync["warnings"]), (&json!(1), &json!([])), "{sync}");
    assert_eq!(cli.json(&["status"])["devices"], 2);

    let before = files(Path::new(&to));
    assert_eq!(cli.error(1, &["restore", &backup, "--to", &to])["kind"], "not_empty");
    assert_eq!(files(Path::new(&to)), before);
    let left = fs::read_dir(cli.path("restored")).unwrap().count();
    assert_eq!(left, 1, "nothing is left beside it");
}

#[test]
fn every_damage_of_a_backup_is_refused_and_restores_nothing() {
    let temp = temp_dir();
    let mut vault = new_vault(&temp.path().join("vault"), "laptop", &TestClock::at(NOW));
    add_many(&mut vault, 6);
    let path = temp.path().join("good.tar");
    let summary = vault.backup(&path).unwrap();
    let good = fs::read(&path).unwrap();
    assert_eq!((summary.objects, summary.bytes), (6, good.len() as u64));
    let keyring = vault.keyring();
    assert_eq!(verify(&path, keyring).unwrap(), 6);
    let bad = temp.path().join("bad.tar");
    let to = temp.path().join("to");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&bad, bytes).unwrap();
        assert!(verify(&bad, keyring).is_err(), "verified: {what}");
        assert!(restore(&bad, keyring, &to).is_err(), "restored: {what}");
        assert!(!to.exists(), "{what}");
    };
    let mut flips = 0;
    for block in 0..good.len().div_ceil(4_096) {
        let at = (block * 4_096 + block * 1_021 % 4_096).min(good.len() - 1);
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (block % 8);
        refused(&bytes, &format!("byte {at}"));
        flips += 1;
    }
    assert!(flips > 8, "{flips}");
    // Every block of the tar, without restoring: headers, contents, padding, end.
    for block in 0..good.len() / 512 {
        let mut bytes = good.clone();
        bytes[block * 512 + block * 37 % 512] ^= 0x20;
        fs::write(&bad, &bytes).unwrap();
        assert!(verify(&bad, keyring).is_err(), "block {block}");
    }
    let len = good.len();
    for cut in [0, 1, 511, 512, 513, 4_608, 5_120, len / 2, len - 1_025, len - 1_024, len - 512, len - 1] {
        refused(&good[..cut], &format!("cut at {cut}"));
    }
    refused(&[&good[..], &[0; 512]].concat(), "longer");
    // Two objects of the same length in each other's place, headers and all.
    let pair = |n: usize| good.windows(8).enumerate().filter(|(_, w)| *w == b"objects/").nth(n).unwrap().0;
    let (first, second) = (pair(0), pair(1));
    let mut swapped = good.clone();
    let (left, right) = swapped.split_at_mut(second);
    left[first..].swap_with_slice(&mut right[..second - first]);
    refused(&swapped, "two files exchanged");
    // Another vault's, with the same password.
    let mut other = new_vault(&temp.path().join("other"), "laptop", &TestClock::at(NOW));
    add(&mut other, "another vault");
    other.backup(&bad).unwrap_err();
    fs::remove_file(&bad).unwrap();
    other.backup(&bad).unwrap();
    assert!(matches!(verify(&bad, keyring), Err(Error::BackupOfAnotherVault)));
    restore(&path, keyring, &to).unwrap();
    assert_eq!(titles(&mut open_vault(&to, &TestClock::at(NOW))).len(), 6);
    let beside = fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(beside, 5, "vault, other, to and two backups: no temporary file is left");
}

#[test]
fn damage_at_the_end_of_a_large_backup_leaves_nothing_of_its_beginning() {
    let temp = temp_dir();
    let mut vault = new_vault(&temp.path().join("vault"), "laptop", &TestClock::at(NOW));
    // More than a restore writes at once: when it comes to the damage, much has been written.
    add_many(&mut vault, 150);
    let path = temp.path().join("b.tar");
    vault.backup(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let in_the_last = bytes.len() - 4_000;
    bytes[in_the_last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let to = temp.path().join("to");
    let restored = restore(&path, vault.keyring(), &to);
    assert!(matches!(restored, Err(Error::BackupDamaged(_))), "{restored:?}");
    assert!(!to.exists(), "restored in part, from what is damaged: {:?}", files(&to).into_keys().next());
    let beside = fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(beside, 2, "the vault and the backup");
}

#[test]
fn a_backup_that_has_more_or_is_none_is_not_replaced() {
    let cli = Cli::with_vault();
    let id = cli.add("precious");
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    cli.add("another");
    cli.json(&["backup", "create", &backup]);
    assert_eq!(cli.json(&["backup", "verify", &backup])["objects"], 2, "replaced by a newer one");
    let good = fs::read(&backup).unwrap();
    let (object, _) = files(&cli.vault.join("objects")).into_iter().next().unwrap();
    fs::remove_file(cli.vault.join("objects").join(&object)).unwrap();
    let refused = cli.error(16, &["backup", "create", &backup]);
    assert_eq!(refused["kind"], "backup_holds_more", "{refused}");
    assert!(fs::read(&backup).unwrap() == good);
    // Elsewhere it may be made, and says what is not in it.
    let incomplete = cli.run(&["backup", "create", &cli.arg("c.tar"), "--json"]);
    assert_eq!((incomplete.code, &incomplete.document()["lost"]), (3, &json!(1)), "{incomplete:?}");
    let from = format!("backup={backup}");
    let repaired = cli.json(&["repair", "--from", &from]);
    assert_eq!(repaired["repaired"][0]["from"], "backup");
    assert_eq!(cli.run(&["show", &id, "--raw"]).text(), "precious");
    cli.json(&["backup", "create", &backup]);

    let thesis = cli.file("thesis.pdf", "years of work");
    assert_eq!(cli.error(4, &["backup", "create", &thesis])["kind"], "not_a_backup");
    assert_eq!(fs::read(&thesis).unwrap(), b"years of work");
}

#[test]
fn a_full_disk_leaves_the_good_backup_as_it_is() {
    let cli = Cli::with_vault();
    cli.add("small");
    fs::create_dir(cli.path("disk")).unwrap();
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=128k", "espejo-test"], &cli.path("disk"));
    let backup = cli.arg("disk/b.tar");
    cli.json(&["backup", "create", &backup]);
    let good = files(&cli.path("disk"));
    let large = cli.file("large", "x".repeat(200_000));
    cli.json(&["add", &large]);
    let full = cli.error(1, &["backup", "create", &backup]);
    assert_eq!(full["kind"], "disk_full", "{full}");
    assert!(files(&cli.path("disk")) == good, "the good one, and nothing else");
    assert_eq!(cli.json(&["backup", "verify", &backup])["objects"], 1);
}

#[test]
fn a_backup_killed_or_refused_at_any_moment_leaves_the_old_one_or_the_new_one() {
    let (cli, [flag, words]) = with_recovery();
    cli.add("first");
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    cli.add("second");
    let keyring = cli_keyring(&cli);
    let (mut injected, mut kept) = (0, 0);
    for (syscall, what) in [
        ("fsync", "signal=KILL"),
        ("/rename.*", "signal=KILL"),
        ("fsync", "error=EIO"),
        ("write", "error=ENOSPC"),
    ] {
        for n in 1.. {
            let before = verify(Path::new(&backup), &keyring).unwrap();
            if !inject(&cli, &[&flag, &words, "-q", "backup", "create", &backup], syscall, what, n) {
                break;
            }
            injected += 1;
            let after = verify(Path::new(&backup), &keyring).unwrap();
            kept += u32::from(after == before);
            assert!(after >= before, "{syscall} {what} {n}");
        }
        cli.add("one more");
    }
    assert!(injected >= 6 && kept >= 3, "{injected} {kept}");
    cli.json(&["backup", "create", &backup]);
    assert_eq!(verify(Path::new(&backup), &keyring).unwrap(), 6);
    let left = fs::read_dir(&cli.dir).unwrap().map(|item| item.unwrap().file_name());
    let left = left.filter(|name| name.to_string_lossy().ends_with(".part")).collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_backup_is_durable_and_verified_before_it_takes_the_name() {
    let cli = Cli::with_vault();
    cli.add("an entry");
    let trace = cli.arg("trace");
    let backup = cli.arg("b.tar");
    let calls = "trace=openat,write,fsync,pread64,/rename.*";
    let args = ["-f", "-y", "-qq", "-o", &trace, "-e", calls, ESPEJO, "-q", "backup", "create", &backup];
    let mut command = cli.bare_command("strace", &args);
    command.env("ESPEJO_VAULT", &cli.vault).env("ESPEJO_PASSWORD_FILE", cli.path("secrets/password"));
    assert!(command.status().expect("this test needs strace (tests/servers/install.sh)").success());
    let trace = fs::read_to_string(trace).unwrap();
    let part = cli.dir.join(".b.tar.part").to_str().unwrap().to_owned();
    let lines = trace
        .lines()
        .filter(|line| line.contains(&part) || line.contains(&format!("<{}>)", cli.dir.display())));
    let kinds = lines.filter_map(|line| {
        let of = |call: &str| line.contains(&format!(" {call}("));
        match () {
            () if of("openat") && line.contains("O_EXCL") => Some("create"),
            () if of("write") => Some("write"),
            () if of("fsync") && line.contains(&part) => Some("sync"),
            () if of("pread64") => Some("read"),
            () if line.contains(" rename") => Some("rename"),
            () if of("fsync") => Some("sync directory"),
            () => None,
        }
    });
    let mut kinds = kinds.collect::<Vec<_>>();
    kinds.dedup();
    assert_eq!(kinds, ["create", "write", "sync", "read", "rename", "sync directory"], "{trace}");
}

#[test]
fn an_interrupted_restore_puts_nothing_in_place() {
    let (cli, [flag, words]) = with_recovery();
    cli.add("first");
    cli.add("second");
    let backup = cli.arg("b.tar");
    cli.json(&["backup", "create", &backup]);
    let to = cli.arg("to");
    let mut killed = 0;
    for n in 1.. {
        if !inject(
            &cli,
            &[&flag, &words, "-q", "restore", &backup, "--to", &to],
            "/rename.*",
            "signal=KILL",
            n,
        ) {
            break;
        }
        killed += 1;
        assert!(!Path::new(&to).exists(), "killed at rename {n}");
    }
    assert!(killed >= 5, "{killed}");
    assert_eq!(cli.run(&["--vault", &to, "list", "--json"]).json(), cli.json(&["list"]));
}

fn cli_keyring(cli: &Cli) -> Keyring {
    cli.open().keyring().clone()
}
