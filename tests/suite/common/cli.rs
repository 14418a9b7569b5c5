//! The real binary, run as a person would, with nothing of this machine's own settings in sight.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use espejo::crypto::{MIN_WRITTEN_ITERATIONS, Password};
use espejo::embedded::EmbeddedServer;
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::vault::{self, Locked, NewVault, Vault};
use serde_json::Value;
use tempfile::TempDir;

use super::proxy::Proxy;

pub const PASSWORD: &str = "plinth gravel cocoon tundra 41";
pub const ESPEJO: &str = env!("CARGO_BIN_EXE_espejo");

/// A temporary directory in memory where there is one: syncing files to a disk is most of what commands wait for.
pub fn temp_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::with_prefix_in("espejo-test-", memory) } else { TempDir::new() }.unwrap()
}

/// One person's machine: a home, a password file, and a place for a vault.
pub struct Cli {
    _temp: TempDir,
    /// Everything is in here.
    pub dir: PathBuf,
    /// What `ESPEJO_VAULT` says.
    pub vault: PathBuf,
    /// Environment of every command, besides the fixed one.
    pub env: BTreeMap<String, String>,
}

/// What makes bash print what it offers for the last of these words behind `espejo`.
pub fn bash_completes(cli: &Cli, words: &[&str]) -> String {
    let script = cli.arg("espejo.bash");
    fs::write(&script, cli.bare(&["completions", "bash"]).exits(0).stdout).unwrap();
    let (all, at, last) = (words.join(" "), words.len(), words[words.len() - 1]);
    let bin = Path::new(ESPEJO).parent().unwrap().display();
    format!(
        "PATH={bin}:$PATH; source {script}; COMP_WORDS=(espejo {all}); COMP_CWORD={at}; COMP_TYPE=9
        _clap_complete_espejo espejo {last} espejo; echo \"${{COMPREPLY[*]}}\""
    )
}

/// What a command left behind.
pub struct Output {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The one JSON document on stdout of a command that went well.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        self.document()
    }

    /// The one JSON document on stdout, however the command ended.
    #[track_caller]
    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error of a command that failed with `code` under `--json`: the last line of stderr.
    #[track_caller]
    pub fn error(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        fields(&error, "type:s code:n kind:s message:s hint:s?");
        assert_eq!((&error["type"], &error["code"]), (&Value::from("error"), &Value::from(code)));
        error
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let shown = stdout.chars().take(4_000).collect::<String>();
        write!(f, "exit {}\nstdout: {shown}\nstderr: {}", self.code, self.stderr)
    }
}

/// Asserts that `value` has these fields of these types: `s`tring, `n`umber, `b`ool, `a`rray, `o`bject; `?` allows
/// null.
pub fn fields(value: &Value, expected: &str) {
    for field in expected.split(' ') {
        let (name, kind) = field.split_once(':').unwrap();
        let found = value.get(name).unwrap_or_else(|| panic!("no {name:?} in {value}"));
        let fits = match kind.trim_end_matches('?') {
            "s" => found.is_string(),
            "n" => found.is_number(),
            "b" => found.is_boolean(),
            "a" => found.is_array(),
            "o" => found.is_object(),
            other => panic!("no type {other:?}"),
        };
        assert!(fits || (kind.ends_with('?') && found.is_null()), "{name} is {found} in {value}");
    }
}

impl Cli {
    /// A machine without a vault.
    pub fn new() -> Self {
        let temp = temp_dir();
        let dir = temp.path().canonicalize().unwrap();
        for name in ["home", "tmp", "run", "config", "data", "state", "cache", "bin", "secrets"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(dir.join("secrets/password"), format!("{PASSWORD}\n")).unwrap();
        Self { _temp: temp, vault: dir.join("vault"), dir, env: BTreeMap::new() }
    }

    /// A machine with a new vault in it.
    pub fn with_vault() -> Self {
        let cli = Self::new();
        cli.new_vault(&cli.vault);
        cli
    }

    /// Makes a vault without the binary: the cheapest key derivation there may be.
    pub fn new_vault(&self, dir: &Path) -> Vault<ThisMachine> {
        let new = NewVault {
            password: Password::new(PASSWORD).unwrap(),
            recovery: false,
            device_name: "laptop".to_owned(),
            iterations: MIN_WRITTEN_ITERATIONS,
        };
        vault::create(ThisMachine::new(dir), &new).unwrap().vault
    }

    /// The vault, opened in this process.
    pub fn open(&self) -> Vault<ThisMachine> {
        let secret = Secret::Password(Password::new(PASSWORD).unwrap());
        Locked::find(ThisMachine::new(&self.vault)).unwrap().unlock(&secret).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The same as text, for arguments.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.arg(name)
    }

    /// Writes a program into the first directory of `PATH`.
    pub fn program(&self, name: &str, script: &str) -> String {
        let path = self.file(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Sets a variable for the commands that follow.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.insert(name.to_owned(), value.into());
    }

    /// A command in the clean environment, with neither vault nor password.
    pub fn bare_command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = clean(program);
        command.args(args).current_dir(&self.dir);
        for (name, dir) in [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_CACHE_HOME", "cache"),
        ] {
            command.env(name, self.path(dir));
        }
        command.env("PATH", format!("{}:{PATH}", self.path("bin").display()));
        command.env("SHELL", "/bin/sh").env("TERM", "xterm").envs(&self.env);
        command
    }

    /// `espejo`, with the vault and its password in the environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare_command(ESPEJO, args);
        command.env("ESPEJO_VAULT", &self.vault);
        command.env("ESPEJO_PASSWORD_FILE", self.path("secrets/password"));
        command.envs(&self.env);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args).spawn().unwrap(), b"")
    }

    pub fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Output {
        finish(self.command(args).stdin(Stdio::piped()).spawn().unwrap(), stdin)
    }

    /// With neither vault nor password in the environment.
    pub fn bare(&self, args: &[&str]) -> Output {
        finish(self.bare_command(ESPEJO, args).spawn().unwrap(), b"")
    }

    /// On a terminal of its own; what it shows is on stdout.
    pub fn on_terminal(&self, args: &[&str]) -> Output {
        let mut words = vec![ESPEJO];
        words.extend(args);
        let mut command = self.bare_command("script", &["-qec", &shell_words::join(words), "/dev/null"]);
        command.env("ESPEJO_VAULT", &self.vault);
        command.env("ESPEJO_PASSWORD_FILE", self.path("secrets/password")).envs(&self.env);
        let child = command.spawn().expect("`script` (util-linux) makes the terminal for this test");
        finish(child, b"")
    }

    /// Runs a command that must go well, with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        self.run(&all).json()
    }

    /// Runs a command that must fail with `code`, with `--json`: its error.
    pub fn error(&self, code: i32, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        self.run(&all).error(code)
    }

    /// Adds an entry and gives its id.
    pub fn add(&self, text: &str) -> String {
        text_of(&self.json(&["add", "-m", text])["added"][0]["id"])
    }

    /// Holds the vault's lock until it is dropped, as another process would.
    pub fn hold_lock(&self) -> File {
        let path = self.vault.join("local/lock");
        let lock = File::options().write(true).create(true).truncate(false).open(path).unwrap();
        lock.lock().unwrap();
        lock
    }
}

impl Default for Cli {
    fn default() -> Self {
        Self::new()
    }
}

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program that sees nothing of this machine's own settings and has nobody to ask.
pub fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("TZ", "UTC").env("LANG", "C.UTF-8");
    // Where an instrumented program writes which of its lines ran.
    if let Some(coverage) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", coverage);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `program --json` on the vault in `dir`, with the password of all vaults that are made without a [`Cli`].
fn on_vault(program: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = clean(program);
    command.env("ESPEJO_PASSWORD_COMMAND", format!("echo {}", super::PASSWORD));
    command.args(["--no-input", "--json", "--vault"]).arg(dir).args(args);
    command
}

pub fn run(dir: &Path, args: &[&str]) -> Output {
    run_with(Path::new(ESPEJO), dir, args)
}

/// The same, by another espejo.
pub fn run_with(program: &Path, dir: &Path, args: &[&str]) -> Output {
    finish(on_vault(program.to_str().unwrap(), dir, args).spawn().unwrap(), b"")
}

/// The same command on several vaults at once: most of its time goes into the password.
pub fn run_on<const N: usize>(dirs: [&Path; N], args: &[&str]) -> [Output; N] {
    let running = dirs.map(|dir| {
        let child = on_vault(ESPEJO, dir, args).spawn().unwrap();
        std::thread::spawn(|| finish(child, b""))
    });
    running.map(|run| run.join().unwrap())
}

/// Waits for a command's end.
pub fn finish(mut child: Child, stdin: &[u8]) -> Output {
    if let Some(mut pipe) = child.stdin.take() {
        // A command that fails before reading closes it.
        let _ = pipe.write_all(stdin);
    }
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}

/// Every file below `dir` with its bytes, but for empty lock files.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let walk = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let files = walk.filter(|item| item.file_type().is_file());
    let files = files.map(|item| {
        let bytes = fs::read(item.path()).unwrap();
        (item.path().strip_prefix(dir).unwrap().to_owned(), bytes)
    });
    files.filter(|(path, _)| !path.to_string_lossy().ends_with("lock")).collect()
}

/// A vault on a machine whose mirror is a server behind a proxy.
pub struct Proxied {
    pub cli: Cli,
    pub proxy: Proxy,
    _server: Server,
}

impl Proxied {
    pub fn start() -> Self {
        let cli = Cli::with_vault();
        let server = Server::start(cli.path("served"), "ana", "geheim");
        let url = url::Url::parse(&server.url).unwrap();
        let proxy = Proxy::start(url.socket_addrs(|| None).unwrap()[0]);
        let password = cli.file("remote-password", "geheim\n");
        cli.json(&["remote", "set", &proxy.url(), "--user", "ana", "--remote-password-file", &password]);
        Self { cli, proxy, _server: server }
    }
}

/// A WebDAV server in a thread of its own, until it is dropped.
pub struct Server {
    pub url: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(root: PathBuf, user: &'static str, password: &str) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let password = password.to_owned();
        let thread = std::thread::spawn(move || {
            super::block_on(async move {
                let server = EmbeddedServer::start(root, user, &password).unwrap();
                tell.send(server.url()).unwrap();
                let _ = stopped.await;
            });
        });
        Self { url: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A file system mounted for one test.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(args: &[&str], at: &Path) -> Self {
        let mount = Command::new("mount").args(args).arg(at).output();
        let done = mount.as_ref().is_ok_and(|output| output.status.success());
        assert!(done, "this test mounts a file system, which takes root and CAP_SYS_ADMIN: {mount:?}");
        Self(at.to_owned())
    }

    pub fn remount(&self, options: &str) {
        let mount = Command::new("mount").args(["-o", options]).arg(&self.0).status();
        assert!(mount.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
