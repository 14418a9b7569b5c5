//! The real binary, run as a script runs it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What one run of the binary left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
    what: String,
}

impl Ran {
    fn new(what: String, output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap_or_else(|| panic!("{what}: {}\n{stderr}", output.status));
        Self { code, stdout: output.stdout, stderr, what }
    }

    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let Self { what, stderr, .. } = &self;
        assert_eq!(self.code, code, "{what}\n{}\n{stderr}", self.text());
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_slice(&self.stdout);
        parsed.unwrap_or_else(|error| panic!("{}: {error}\n{}\n{}", self.what, self.text(), self.stderr))
    }

    /// The error on the last line of stderr.
    #[track_caller]
    pub fn error(&self) -> Value {
        let parsed = serde_json::from_str(self.stderr.lines().last().unwrap_or_default());
        parsed.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.what, self.stderr))
    }
}

/// The binary on the vault in `dir`, with the password of all test vaults and nobody to ask.
pub fn espejo(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espejo"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ESPEJO_")) {
        command.env_remove(name);
    }
    command.env("ESPEJO_PASSWORD_COMMAND", "echo correct horse battery staple");
    command.args(["--no-input", "--json", "--vault"]).arg(dir).args(args).stdin(Stdio::null());
    command
}

#[track_caller]
pub fn run(dir: &Path, args: &[&str]) -> Ran {
    Ran::new(args.join(" "), espejo(dir, args).output().unwrap())
}

/// The same command on several vaults at once: most of its time goes into the password.
#[track_caller]
pub fn run_on<const N: usize>(dirs: [&Path; N], args: &[&str]) -> [Ran; N] {
    let piped = |dir| espejo(dir, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let running = dirs.map(|dir| {
        let child = piped(dir);
        std::thread::spawn(move || child.wait_with_output().unwrap())
    });
    running.map(|run| Ran::new(args.join(" "), run.join().unwrap()))
}
