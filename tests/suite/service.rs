//! `service`, with a real systemd of a person's own: in namespaces of its own, so that nothing of this machine sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::cli::{Cli, ESPEJO, Output, files, finish, text_of};
use crate::common::watching::until;

/// Inside the namespaces: nowhere else does systemd hand over a password.
const RUNTIME: &str = "/run/user";

/// `systemd --user`, until it is dropped.
struct Manager<'a> {
    cli: &'a Cli,
    unshare: Child,
    pid: String,
}

impl<'a> Manager<'a> {
    fn start(cli: &'a Cli) -> Self {
        // It looks for this directory to see whether systemd is in charge of the machine.
        let script =
            "mount --make-rshared / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user && chmod 700 /run/user &&
            /lib/systemd/systemd --user & wait";
        let apart = [
            "-m",
            "-p",
            "-f",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
        ];
        let mut command = cli.bare_command("unshare", &apart);
        command.env("XDG_RUNTIME_DIR", RUNTIME).stdout(Stdio::null()).stderr(Stdio::null());
        let unshare = command.spawn().unwrap();
        let id = unshare.id();
        let inside =
            || fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap().trim().to_owned();
        until("systemd", || Path::new(&format!("/proc/{}/root{RUNTIME}/systemd/private", inside())).exists());
        Self { cli, unshare, pid: inside() }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let enter = ["-t", &self.pid, "-m", "-p", "--", program];
        let mut command = self.cli.bare_command("nsenter", &[&enter[..], args].concat());
        command.env("XDG_RUNTIME_DIR", RUNTIME);
        command
    }

    /// `espejo` on a person's machine: the vault is known, its password is not.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(ESPEJO, args);
        finish(command.env("ESPEJO_VAULT", &self.cli.vault).stdin(Stdio::null()).spawn().unwrap(), b"")
    }

    fn systemctl(&self, args: &[&str]) -> Output {
        let args = [&["--user"], args].concat();
        finish(self.command("systemctl", &args).spawn().unwrap(), b"")
    }

    fn status(&self) -> Value {
        self.run(&["service", "status", "--json"]).document()
    }

    /// The command line of the watch that runs as the service.
    fn watching(&self, unit: &str) -> Vec<String> {
        let shown = self.systemctl(&["show", unit, "--property", "MainPID", "--value"]);
        let mut command = self.command("cat", &[&format!("/proc/{}/cmdline", shown.text().trim())]);
        let line = finish(command.spawn().unwrap(), b"");
        line.text().split_terminator('\0').map(str::to_owned).collect()
    }
}

impl Drop for Manager<'_> {
    fn drop(&mut self) {
        // Whatever it has started ends with it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Where units are, and those that are there.
fn units(cli: &Cli) -> Vec<PathBuf> {
    let dir = cli.path("config/systemd/user");
    let names = fs::read_dir(dir).map(|names| names.map(|name| name.unwrap().path()).collect::<Vec<_>>());
    names.unwrap_or_default().into_iter().filter(|path| path.is_file()).collect()
}

#[test]
fn a_service_mirrors_the_locked_vault_from_login_on_until_it_is_removed() {
    let cli = Cli::with_vault();
    let mirror = cli.arg("mirror");
    cli.json(&["remote", "set", &mirror, "--unattended"]);
    let manager = Manager::start(&cli);
    assert_eq!(manager.run(&["service", "install", "--json"]).error(12)["kind"], "password_needed");
    cli.json(&["sync"]);
    let installed = manager.run(&["service", "install", "--json"]).json();
    let unit = text_of(&installed["name"]);
    assert_eq!((&installed["running"], &installed["enabled"]), (&true.into(), &true.into()), "{installed}");
    assert_eq!(units(&cli), [cli.path("config/systemd/user").join(&unit)]);
    let line = manager.watching(&unit);
    assert!(line.len() == 5 && line[1..] == ["--no-input", "--vault", cli.vault.to_str().unwrap(), "watch"]);

    // What is written is sent, and the last word about it can be read.
    let before = files(Path::new(&mirror)).len();
    cli.add("written while it runs");
    until("the entry on the mirror", || files(Path::new(&mirror)).len() > before + 1);
    until("its word", || text_of(&manager.status()["status"]).contains("1 up"));
    let told = manager.run(&["service", "status"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.text().contains(&unit) && told.text().contains("runs: "), "{told:?}");

    // What is in the way stays the last word, and so does that it has passed.
    fs::rename(&mirror, cli.path("unplugged")).unwrap();
    cli.add("written meanwhile");
    until("the trouble", || !text_of(&manager.status()["status"]).contains(" up,"));
    assert_eq!(manager.status()["running"], true);
    fs::rename(cli.path("unplugged"), &mirror).unwrap();
    cli.add("written afterwards");
    until("the recovery", || text_of(&manager.status()["status"]).contains("2 up"));

    // Again, because espejo is somewhere else now: it goes on with what is installed now.
    assert_eq!(manager.run(&["service", "install", "--json"]).json()["running"], true);
    let watching = || cli.run(&["status", "--json"]).json()["watching"].clone();
    assert_eq!(watching(), true);
    assert_eq!(manager.run(&["service", "remove", "--json"]).json()["removed"], true);
    assert!(units(&cli).is_empty());
    assert_eq!(watching(), false);
    for command in ["status", "remove"] {
        assert_eq!(manager.run(&["service", command, "--json"]).error(4)["kind"], "no_service");
    }
}

#[test]
fn a_service_without_its_password_file_says_so_and_starts_when_it_is_back() {
    let cli = Cli::with_vault();
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    // Not in /dev/shm, over which systemd mounts what it prepares.
    let secrets = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let password = secrets.path().join("password");
    fs::copy(cli.path("secrets/password"), &password).unwrap();
    let password = password.to_str().unwrap();
    let manager = Manager::start(&cli);
    let install = ["service", "install", "--password-file", password, "--json"];
    let unit = text_of(&manager.run(&install).json()["name"]);
    let given = manager.watching(&unit).into_iter().find(|arg| arg.ends_with("/espejo-password")).unwrap();
    assert!(given.starts_with(RUNTIME), "systemd hands it over: {given}");

    let away = secrets.path().join("away");
    fs::rename(password, &away).unwrap();
    assert_eq!(manager.status()["running"], true, "it needs it at the start alone");
    assert_ne!(manager.systemctl(&["restart", &unit]).code, 0);
    let told = manager.run(&["service", "status"]);
    assert_eq!(told.code, 3, "{told:?}");
    assert!(told.text().contains(&format!("its password file {password} is not there")), "{told:?}");
    assert!(told.stderr.contains("put it back"), "{told:?}");
    let status = manager.status();
    assert_eq!((&status["running"], &status["password_file_there"]), (&false.into(), &false.into()));

    fs::rename(&away, password).unwrap();
    until("the service again", || manager.status()["running"] == true);
    assert!(manager.status()["restarts"].as_u64() >= Some(1), "by itself");
}

/// Has `service` fail with this code, and gives the kind of it.
fn kind(cli: &Cli, code: i32, args: &[&str]) -> String {
    let mut command = cli.bare_command(ESPEJO, &[&["service", "--json"], args].concat());
    command.env("ESPEJO_VAULT", &cli.vault);
    text_of(&finish(command.spawn().unwrap(), b"").error(code)["kind"])
}

#[test]
fn what_could_not_run_unattended_or_is_somebody_elses_is_not_installed() {
    let mut cli = Cli::with_vault();
    let password = cli.arg("secrets/password");
    let by_file = ["install", "--password-file", &password];
    assert_eq!(kind(&cli, 4, &by_file), "no_remote");
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    assert_eq!(kind(&cli, 12, &["install"]), "password_needed");
    let wrong = cli.file("secrets/wrong", "not this one");
    assert_eq!(kind(&cli, 12, &["install", "--password-file", &wrong]), "wrong_password");
    // Where there is no systemd, nothing is left behind.
    let path = format!("{}:/nowhere", cli.path("bin").display());
    cli.set("PATH", path);
    assert_eq!(kind(&cli, 1, &by_file), "no_systemd");
    assert!(units(&cli).is_empty());
    let name = text_of(&cli.run(&["service", "--print", "--json"]).json()["name"]);
    fs::create_dir_all(cli.path("config/systemd/user")).unwrap();
    let own = cli.file(&format!("config/systemd/user/{name}.service"), "[Service]\nExecStart=/bin/true\n");
    assert_eq!(kind(&cli, 16, &by_file), "not_ours");
    assert_eq!(kind(&cli, 16, &["remove"]), "not_ours");
    assert_eq!(fs::read_to_string(own).unwrap(), "[Service]\nExecStart=/bin/true\n");
}

#[test]
fn the_service_of_another_copy_of_the_vault_is_neither_replaced_nor_removed() {
    let mut cli = Cli::with_vault();
    cli.set("PATH", format!("{}:/nowhere", cli.path("bin").display()));
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    let printed = cli.run(&["service", "--print", "--json"]).json();
    fs::create_dir_all(cli.path("config/systemd/user")).unwrap();
    let at = format!("config/systemd/user/{}.service", text_of(&printed["name"]));
    let unit = text_of(&printed["text"]);
    let copy = cli.arg("a copy of 100%");
    let of_the_copy = unit.replace(&cli.arg("vault"), &copy.replace('%', "%%"));
    assert_ne!(of_the_copy, unit);
    cli.file(&at, &of_the_copy);
    let by_file = ["install", "--password-file", &cli.arg("secrets/password")];
    // It was moved here, and its directory may be left.
    assert_eq!(kind(&cli, 1, &by_file), "no_systemd");
    fs::create_dir(&copy).unwrap();
    assert_eq!(kind(&cli, 1, &by_file), "no_systemd");
    fs::copy(cli.vault.join("espejo.json"), format!("{copy}/espejo.json")).unwrap();
    for args in [&by_file[..], &["status"], &["remove"]] {
        assert_eq!(kind(&cli, 16, args), "other_copy", "{args:?}");
    }
    assert_eq!(fs::read_to_string(cli.path(&at)).unwrap(), of_the_copy);
    // Whatever way leads there.
    fs::remove_dir_all(&copy).unwrap();
    std::os::unix::fs::symlink(cli.path("vault"), &copy).unwrap();
    cli.json(&["service", "remove"]);
    assert!(units(&cli).is_empty());
}

#[test]
fn systemd_finds_nothing_wrong_with_a_unit_whatever_the_paths_are() {
    for name in ["vault", "50% of \"my\" $HOME \\ journal"] {
        let cli = Cli::new();
        let vault = cli.path(name);
        cli.new_vault(&vault);
        let at = cli.path(&format!("{name} password"));
        for secret in [&[][..], &["--password-file", at.to_str().unwrap()]] {
            let args = [&["--vault", vault.to_str().unwrap(), "service", "--print"], secret].concat();
            let unit = cli.file("espejo-test.service", cli.bare(&args).text());
            let verified =
                cli.bare_command("systemd-analyze", &["verify", "--user", &unit]).output().unwrap();
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(
                verified.status.success() && said.is_empty(),
                "{said}\n{}",
                fs::read_to_string(unit).unwrap()
            );
        }
    }
}
