//! `doctor` names what could cause trouble, with what to do about it; `completions` and `man` tell the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::cli::{Cli, Proxied, bash_completes, fields, files, text_of};
use crate::common::proxy::{Fault, How};
use serde_json::{Value, json};

/// The one check of this name.
fn check<'a>(told: &'a Value, name: &str) -> &'a Value {
    let checks = told["checks"].as_array().unwrap();
    let named = checks.iter().filter(|check| check["name"] == name).collect::<Vec<_>>();
    assert_eq!(named.len(), 1, "{name} in {told}");
    named[0]
}

#[track_caller]
fn says(told: &Value, name: &str, status: &str, words: &str) {
    let check = check(told, name);
    assert_eq!(check["status"], status, "{check}");
    assert!(text_of(&check["message"]).contains(words), "{check}");
    assert_eq!(check.get("hint").is_some(), status != "ok", "what is wrong says what to do: {check}");
}

fn doctor(cli: &Cli, code: i32) -> Value {
    let told = cli.run(&["doctor", "--json"]).exits(code).document();
    for check in told["checks"].as_array().unwrap() {
        fields(check, "name:s status:s message:s");
    }
    told
}

#[test]
fn a_new_vault_is_told_what_it_lacks_and_changes_nothing() {
    let cli = Cli::with_vault();
    let before = files(&cli.vault);
    let told = doctor(&cli, 0);
    assert!(files(&cli.vault) == before, "looking changes nothing");
    for name in
        ["permissions", "free_space", "damage", "keyring", "drafts", "password_cost", "schemas", "clocks"]
    {
        assert_eq!(check(&told, name)["status"], "ok", "{told}");
    }
    says(&told, "mirror_age", "warn", "only copy");
    says(&told, "backup_age", "warn", "no backup");
    // The vaults of these tests lie in memory, where there is one.
    if cli.vault.starts_with("/dev/shm") {
        says(&told, "file_system", "warn", "memory");
    }
    cli.json(&["backup", "create"]);
    says(&doctor(&cli, 0), "backup_age", "ok", "today");
    // Without a secret what is locked is not looked at, and nothing is asked.
    let told = cli.bare(&["doctor", "--json", "--vault", cli.vault.to_str().unwrap()]).json();
    says(&told, "unlocked", "warn", "locked");
    // One that is wrong is an error like everywhere.
    let wrong = cli.file("wrong", "not the password\n");
    cli.error(12, &["doctor", "--password-file", &wrong]);
}

#[test]
fn every_trouble_is_named_with_what_to_do() {
    let mut cli = Cli::with_vault();
    cli.add("an entry");
    let object = files(&cli.vault.join("objects")).into_keys().next().unwrap();
    fs::remove_file(cli.vault.join("objects").join(object)).unwrap();
    cli.run(&["check"]).exits(14);
    says(&doctor(&cli, 1), "damage", "fail", "1 file of the vault is damaged or lost");

    fs::set_permissions(&cli.vault, fs::Permissions::from_mode(0o777)).unwrap();
    says(&doctor(&cli, 1), "permissions", "warn", "others may change files");

    let run = cli.path("run");
    let memory = Path::new("/dev/shm");
    if run.starts_with(memory) {
        let draft = run.join("espejo-abc");
        fs::create_dir(&draft).unwrap();
        fs::write(draft.join("entry.md"), "half a thought").unwrap();
        says(&doctor(&cli, 1), "drafts", "warn", draft.to_str().unwrap());
    }

    cli.set("ESPEJO_PASSWORD_FILE", cli.arg("secrets/password"));
    let mirror = cli.path("mirror");
    fs::create_dir(&mirror).unwrap();
    cli.json(&["remote", "set", mirror.to_str().unwrap()]);
    says(&doctor(&cli, 1), "mirror_age", "warn", "never synced");
    cli.run(&["sync"]);
    says(&doctor(&cli, 1), "mirror", "ok", "answers");
    fs::remove_file(mirror.join("espejo.json")).unwrap();
    says(&doctor(&cli, 1), "mirror", "fail", "no espejo.json");
    fs::remove_dir_all(&mirror).unwrap();
    says(&doctor(&cli, 1), "mirror", "fail", "is gone");
}

#[test]
fn a_clock_that_differs_from_the_servers_is_told() {
    let Proxied { cli, proxy, .. } = &Proxied::start();
    let told = doctor(cli, 0);
    says(&told, "clock", "ok", "agrees");
    let answer = "404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n".to_owned();
    let how = How::Answer(answer, String::new());
    proxy.fault(Fault { method: "PROPFIND", path: "", after: 0, times: 9, how });
    says(&doctor(cli, 0), "clock", "warn", "ahead of the server's");
}

/// The Nushell that `tests/servers/install.sh` installs.
fn nu() -> PathBuf {
    let cache = std::env::var_os("ESPEJO_TEST_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-servers"));
    cache.join("nushell/node_modules/@nushell/linux-x64/bin/nu")
}

#[test]
fn shells_and_man_are_told_every_command() {
    let cli = Cli::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = cli.bare(&["completions", shell]).exits(0);
        assert!(script.text().contains("ESPEJO_COMPLETE"), "{shell}");
    }
    cli.bare(&["completions", "tcsh"]).exits(2);
    // A shell takes it, and completes with it.
    let mut bash = cli.bare_command("bash", &["-c", &bash_completes(&cli, &["und"])]);
    let completed = bash.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "undelete", "{completed:?}");

    // Nushell does not ask the program: commands, flags and values stand in its script.
    let script = cli.file("espejo.nu", cli.bare(&["completions", "nushell"]).exits(0).stdout);
    for (typed, offered) in [
        ("espejo und", json!(["espejo undelete"])),
        ("espejo backup auto --ke", json!(["--keep"])),
        ("espejo import j", json!(["joplin", "jrnl"])),
    ] {
        let line = cli.file("typed.nu", format!("use {script} *\n{typed}"));
        let at = fs::metadata(&line).unwrap().len().to_string();
        let mut nu = cli.bare_command(nu().to_str().unwrap(), &["--ide-complete", &at, &line]);
        let completed = nu.output().expect("tests/servers/install.sh installs nushell");
        let told = serde_json::from_slice::<Value>(&completed.stdout).unwrap();
        assert_eq!(told["completions"], offered, "{typed}: {completed:?}");
    }

    let out = cli.path("man/man1");
    cli.bare(&["man", "--out", out.to_str().unwrap()]).exits(0);
    let pages = files(&out);
    for page in ["espejo.1", "espejo-add.1", "espejo-backup-auto.1", "espejo-migrate.1"] {
        let text = String::from_utf8_lossy(
            pages.get(Path::new(page)).unwrap_or_else(|| panic!("{page}: {pages:?}")),
        );
        assert!(text.contains(".SH NAME") && text.contains(".SH OPTIONS"), "{page}: {text}");
    }
}
