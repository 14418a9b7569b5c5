//! `unlock` and `lock`, with a real keyring on a bus of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::cli::{Cli, Output, PASSWORD, bash_completes, finish};

/// A session bus with a keyring on it, as on a desktop; both end with it.
struct Desktop {
    bus: Child,
    keyring: Child,
    address: String,
}

impl Desktop {
    fn start(cli: &Cli) -> Self {
        let mut bus = cli.bare_command("dbus-daemon", &["--session", "--nofork", "--print-address=1"]);
        let mut bus = bus.spawn().expect("dbus-daemon is installed");
        let mut address = String::new();
        BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        let args = ["--foreground", "--unlock", "--components=secrets"];
        let mut keyring = cli.bare_command("gnome-keyring-daemon", &args);
        keyring.env("DBUS_SESSION_BUS_ADDRESS", &address).stdin(Stdio::piped());
        let mut keyring = keyring.spawn().expect("gnome-keyring is installed");
        keyring.stdin.take().unwrap().write_all(b"the keyring's own password").unwrap();
        let desktop = Self { bus, keyring, address };
        let owner = [
            "--session",
            "--print-reply",
            "--dest=org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus.NameHasOwner",
        ];
        let is_up = || {
            let mut ask = desktop.command(cli, "dbus-send", &owner);
            let answer = finish(ask.arg("string:org.freedesktop.secrets").spawn().unwrap(), b"");
            answer.text().contains("true")
        };
        for _ in 0..200 {
            if is_up() {
                return desktop;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the keyring does not come up");
    }

    fn command(&self, cli: &Cli, program: &str, args: &[&str]) -> Command {
        let mut command = cli.bare_command(program, args);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command
    }

    /// `espejo`, which is told no password.
    fn run(&self, cli: &Cli, args: &[&str]) -> Output {
        let mut command = self.command(cli, env!("CARGO_BIN_EXE_espejo"), args);
        finish(command.env("ESPEJO_VAULT", &cli.vault).arg("--json").spawn().unwrap(), b"")
    }

    /// The same with the password.
    fn run_with_password(&self, cli: &Cli, args: &[&str]) -> Output {
        self.run(cli, &[args, &["--password-file", &cli.arg("secrets/password")]].concat())
    }

    /// What the keyring holds for sessions.
    fn secrets(&self, cli: &Cli) -> Vec<u8> {
        let mut lookup = self.command(cli, "secret-tool", &["lookup", "service", "espejo"]);
        lookup.output().unwrap().stdout
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        for process in [&mut self.keyring, &mut self.bus] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn session_file(cli: &Cli) -> std::path::PathBuf {
    cli.vault.join("local/session")
}

fn has_no_password(output: &Output) -> bool {
    output.error(12)["kind"] == "no_password"
}

#[test]
fn unlock_opens_a_vault_for_a_while_and_lock_ends_it() {
    let cli = Cli::with_vault();
    let id = cli.add("a thought");
    let desktop = Desktop::start(&cli);
    assert!(has_no_password(&desktop.run(&cli, &["list"])), "without a session");
    let until = desktop.run_with_password(&cli, &["unlock", "--for", "2h"]).json()["until"].clone();
    let until = until.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let left = until.duration_since(jiff::Timestamp::now());
    assert!(left.as_mins() > 100 && left.as_mins() <= 120, "{left:?}");
    assert_eq!(desktop.run(&cli, &["list"]).json()["entries"][0]["id"], id.as_str());
    desktop.run(&cli, &["edit", &id, "-m", "another thought"]).json();

    // What changes who gets in asks who is there.
    let new = cli.file("secrets/new", "marble anvil thicket solder 17\n");
    assert!(has_no_password(&desktop.run(&cli, &["passwd", "--new-password-file", &new])));
    let words = cli.arg("words");
    assert!(has_no_password(&desktop.run(&cli, &["recovery", "new", "--recovery-out", &words])));

    assert_eq!(desktop.run(&cli, &["lock"]).json()["was_open"], true);
    assert!(has_no_password(&desktop.run(&cli, &["list"])), "after lock");
    assert!(!session_file(&cli).exists());
    assert_eq!(desktop.secrets(&cli), b"", "its key is gone from the keyring");
    assert_eq!(desktop.run(&cli, &["lock"]).json()["was_open"], false);
}

#[test]
fn a_shell_is_offered_ids_and_tags_while_the_vault_is_open() {
    let cli = Cli::with_vault();
    let id = cli.add("a thought");
    cli.json(&["edit", &id, "-T", "diary"]);
    let desktop = Desktop::start(&cli);
    let offered = |words: &[&str]| {
        let mut bash = desktop.command(&cli, "bash", &["-c", &bash_completes(&cli, words)]);
        let output = bash.env("ESPEJO_VAULT", &cli.vault).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(offered(&["show", &id[..2]]), "", "while it is locked");
    desktop.run_with_password(&cli, &["unlock"]).json();
    assert_eq!(offered(&["show", &id[..2]]), id[..4]);
    assert_eq!(offered(&["rm", &id[..2]]), id[..4]);
    assert_eq!(offered(&["list", "--tag", "di"]), "diary");
    let elsewhere = cli.arg("elsewhere");
    assert_eq!(offered(&["--vault", &elsewhere, "show", &id[..2]]), "", "of the vault that is named");
}

#[test]
fn a_session_ends_with_its_time_and_with_any_change_of_what_opens_the_vault() {
    let cli = Cli::with_vault();
    let desktop = Desktop::start(&cli);
    desktop.run_with_password(&cli, &["unlock", "--for", "1s"]).json();
    std::thread::sleep(Duration::from_millis(1_100));
    assert!(has_no_password(&desktop.run(&cli, &["list"])), "its time has passed");
    assert!(!session_file(&cli).exists() && desktop.secrets(&cli).is_empty(), "nothing is left of it");

    desktop.run_with_password(&cli, &["unlock"]).json();
    desktop.run(&cli, &["list"]).json();
    let new = cli.file("secrets/new", "marble anvil thicket solder 17\n");
    desktop.run_with_password(&cli, &["passwd", "--new-password-file", &new]).json();
    assert!(has_no_password(&desktop.run(&cli, &["list"])), "the password was changed");

    // One that takes another's place leaves nothing of that in the keyring.
    fs::copy(cli.path("secrets/new"), cli.path("secrets/password")).unwrap();
    desktop.run_with_password(&cli, &["unlock"]).json();
    desktop.run_with_password(&cli, &["unlock"]).json();
    desktop.run(&cli, &["list"]).json();
    desktop.run(&cli, &["lock"]).json();
    assert_eq!(desktop.secrets(&cli), b"");
}

#[test]
fn neither_the_keyring_nor_the_vault_alone_opens_a_session() {
    let cli = Cli::with_vault();
    let desktop = Desktop::start(&cli);
    desktop.run_with_password(&cli, &["unlock"]).json();
    let in_keyring = desktop.secrets(&cli);
    assert_eq!(in_keyring.len(), 32);
    let vault = cli.open();
    let masters = vault.keyring().masters().values().map(|key| *key.as_bytes()).collect::<Vec<_>>();
    assert!(masters.iter().all(|master| master[..] != in_keyring[..]), "it holds the master key");
    let file = fs::read(session_file(&cli)).unwrap();
    for secret in masters.iter().map(|master| &master[..]).chain([&in_keyring[..], PASSWORD.as_bytes()]) {
        assert!(!file.windows(secret.len()).any(|window| window == secret), "the vault holds it in clear");
    }

    // Whoever copies the vault has no keyring to go with it.
    let other = Desktop::start(&Cli::new());
    assert!(has_no_password(&other.run(&cli, &["list"])));
    // An altered session opens nothing, and harms nothing.
    let mut altered = file;
    *altered.last_mut().unwrap() ^= 1;
    fs::write(session_file(&cli), altered).unwrap();
    assert!(has_no_password(&desktop.run(&cli, &["list"])));
    desktop.run_with_password(&cli, &["list"]).json();
}

#[test]
fn without_a_keyring_nothing_is_unlocked_and_the_message_says_what_to_do() {
    let cli = Cli::with_vault();
    let error = cli.error(1, &["unlock"]);
    assert_eq!(error["kind"], "no_keyring");
    assert!(error["hint"].as_str().unwrap().contains("--password-command"), "{error}");
    assert!(!session_file(&cli).exists());
    assert_eq!(cli.json(&["lock"])["was_open"], false);
    for time in ["0s", "-1h", "721h", "soon", ""] {
        assert_eq!(cli.run(&["unlock", "--for", time]).code, 2, "{time:?}");
    }
    assert_eq!(cli.error(1, &["unlock", "--for", "90m"])["kind"], Value::from("no_keyring"));
}
