//! The attacks of `docs/attacks.md` that no other test tries. Each function begins with the number of its row.

mod backup;
mod keys;
mod machine;
mod objects;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use espejo::crypto::{Keyring, object_name};
use espejo::entropy::OsEntropy;
use espejo::event::Finding;
use espejo::remote::FolderRemote;
use espejo::sync::Options;
use tempfile::TempDir;

use crate::common::cli::{Cli, ESPEJO, Output, finish, temp_dir};
use crate::common::*;

/// How many rows the table has.
const ROWS: usize = 74;
/// At least so many of them are tried, and not only described.
const TRIED: usize = 74;

/// Two devices that have met, through a folder that belongs to the attacker.
struct Two {
    dir: TempDir,
    a: TestVault,
    b: TestVault,
    clocks: [TestClock; 2],
    remote: FolderRemote,
}

impl Two {
    /// With these entries on both.
    fn with(entries: &[&str]) -> Self {
        let dir = temp_dir();
        let clocks = [TestClock::at(NOW), TestClock::at(NOW)];
        let remote = FolderRemote::new(dir.path().join("mirror"));
        let dirs = ["a", "b"].map(|name| dir.path().join(name));
        let [a, b] = meet([&dirs[0], &dirs[1]], &clocks, &remote, entries);
        Self { dir, a, b, clocks, remote }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The attacker puts a file onto the mirror.
    fn plant(&self, name: &str, bytes: &[u8]) {
        plant(&self.path("mirror"), name, bytes);
    }

    /// Both sync with all they have, ordinarily and with `--full`: what they found.
    fn settle(&mut self) -> Vec<Finding> {
        let mut all = Vec::new();
        for options in [Options::default(), FULL, Options::default()] {
            for vault in [&mut self.a, &mut self.b] {
                let (report, findings) = try_sync(vault, &self.remote, options);
                report.unwrap_or_else(|error| panic!("{error}: {findings:?}"));
                all.extend(findings);
            }
        }
        all
    }

    /// Both show these titles, with the index they have and with one made anew of what is in the vault.
    #[track_caller]
    fn show(&mut self, expected: &[&str]) {
        for vault in [&mut self.a, &mut self.b] {
            assert_eq!(titles(vault), expected);
        }
        for (name, clock) in ["a", "b"].iter().zip(&self.clocks) {
            let copy = self.path("copy");
            copy_dir(&self.path(name), &copy);
            fs::remove_file(copy.join("local/manifest")).unwrap();
            assert_eq!(titles(&mut open_vault(&copy, clock)), expected, "with a new index");
            fs::remove_dir_all(copy).unwrap();
        }
    }
}

fn plant(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Puts a file among a vault's objects, under the name its bytes ask for.
fn plant_object(vault: &Path, bytes: &[u8]) -> PathBuf {
    let hex = object_name(bytes).to_string();
    let name = format!("objects/{}/{hex}", &hex[..2]);
    plant(vault, &name, bytes);
    vault.join(name)
}

/// Somebody who knows the vault's id and not its key.
fn stranger(vault: &TestVault) -> Keyring {
    Keyring::generate(vault.id(), &OsEntropy).unwrap()
}

/// Runs `espejo` in a shell that first does `before`.
fn run_after(cli: &Cli, before: &str, args: &[&str]) -> Output {
    let script = format!("{before}; exec \"$0\" \"$@\"");
    let mut command = cli.bare_command("sh", &[&["-c", &script, ESPEJO][..], args].concat());
    command.env("ESPEJO_VAULT", &cli.vault).env("ESPEJO_PASSWORD_FILE", cli.path("secrets/password"));
    finish(command.stdin(Stdio::null()).spawn().unwrap(), b"")
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of each row of the table.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_table_has_every_row_once_and_names_tests_that_exist() {
    let document = read("docs/attacks.md");
    let rows = rows(&document);
    let numbers = rows.iter().map(|row| row[0].parse::<usize>().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    let mut tried = 0;
    for row in &rows {
        assert_eq!(row.len(), 4, "{row:?}");
        // What stands between backticks in the last cell.
        let tests = row[3].split('`').skip(1).step_by(2).collect::<Vec<_>>();
        tried += usize::from(!tests.is_empty());
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{test} names no test"));
            let code = read(file);
            assert!(code.contains(&format!("fn {name}(")), "row {}: no {name} in {file}", row[0]);
            let (before, _) = code.split_once(&format!("fn {name}(")).unwrap();
            let is_test = before.trim_end_matches("async ").trim_end().ends_with("test]");
            assert!(is_test, "{name} in {file} is no test");
        }
    }
    assert!(tried >= TRIED, "only {tried} of {ROWS} rows are tried");
}
