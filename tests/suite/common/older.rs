//! Older programs: this repository's, as it was, built from its history.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The last commit before schema 1 could be read.
const REVISION: &str = "af239a4d";

/// The patch that sets the program at [`REVISION`] back to the first schema, which never was in a release.
const FIRST_SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/older/schema-1.patch");

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn git(args: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    git
}

/// A program that writes schema 1 and reads no other, built once. `None` where the source came without its history.
pub fn first_schema() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let revision = format!("{REVISION}^{{commit}}");
    if !git(&["cat-file", "-e", &revision]).output().unwrap().status.success() {
        let told = git(&["rev-parse", "--is-shallow-repository"]).output().unwrap().stdout;
        assert_ne!(told.trim_ascii(), b"false", "{REVISION} is not in the history of this repository");
        eprintln!("no history came with this source: nothing was tried with the older program");
        return None;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("older");
    let program = dir.join("target/debug/espejo");
    // Built from these: the commit, and the patch.
    let patch = fs::read_to_string(FIRST_SCHEMA).unwrap();
    let of = format!("{REVISION}\n{patch}");
    if fs::read_to_string(dir.join("of")).is_ok_and(|built| built == of) && program.exists() {
        return Some(program);
    }
    let source = dir.join("source");
    let _ = fs::remove_dir_all(&source);
    fs::create_dir_all(&source).unwrap();
    let archive = dir.join("source.tar");
    let to = format!("--output={}", archive.display());
    run(&mut git(&["archive", "--format=tar", &to, REVISION]));
    run(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(&source));
    // Not as part of the repository it lies in.
    run(Command::new("git")
        .args(["apply", FIRST_SCHEMA])
        .current_dir(&source)
        .env("GIT_CEILING_DIRECTORIES", &dir));
    run(Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--bin", "espejo"])
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        // Of what `tests/coverage` counts it is no part.
        .env_remove("RUSTC_WORKSPACE_WRAPPER"));
    fs::write(dir.join("of"), of).unwrap();
    Some(program)
}
