//! A running `espejo watch`, and two machines that have one.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::cli::{Cli, Output};
use super::servers::Site;

/// How long something that must happen may take.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `what` is true.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running `espejo watch --json`.
pub struct Watch {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// Starts it, with more arguments, and waits until it watches.
    #[track_caller]
    pub fn start(cli: &Cli, args: &[&str]) -> Self {
        let watch = Self::of(cli.command(&[&["watch", "--json"][..], args].concat()));
        watch.sees("started", |_| true);
        watch
    }

    pub fn of(mut command: std::process::Command) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let (events, stderr) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(String::new())));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let heard = Arc::clone(&events);
        let out = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                heard.lock().unwrap().push(event);
            }
        });
        let mut pipe = child.stderr.take().unwrap();
        let said = Arc::clone(&stderr);
        let err = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text);
            said.lock().unwrap().push_str(&text);
        });
        Self { child, events, stderr, readers: vec![out, err] }
    }

    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event["type"] == kind).cloned().collect()
    }

    /// Waits for an event of this type.
    #[track_caller]
    pub fn sees(&self, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            if let Some(event) = self.events(kind).into_iter().find(|event| fits(event)) {
                return event;
            }
            assert!(start.elapsed() < PATIENCE, "no {kind} among {:#?}", self.events.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it and gives what it left behind.
    pub fn ended_by(mut self, signal: Signal) -> Output {
        self.signal(signal);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Output {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end; {:#?}", self.events.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        let stderr = self.stderr.lock().unwrap().clone();
        Output { code: status.code().unwrap_or(-1), stdout: Vec::new(), stderr }
    }

    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Open files, and inotify watches among them.
    pub fn descriptors_and_watches(&self) -> (usize, usize) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut watches = 0;
        for info in fs::read_dir(proc.join("fdinfo")).unwrap().flatten() {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            watches += text.lines().filter(|line| line.starts_with("inotify wd:")).count();
        }
        (fs::read_dir(proc.join("fd")).unwrap().count(), watches)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two machines with one vault and one mirror.
pub struct Two {
    pub laptop: Cli,
    pub desktop: Cli,
}

impl Two {
    /// `login`: what `remote set` and `clone` need besides the address.
    pub fn on(target: &str, login: &[&str]) -> Self {
        let (laptop, desktop) = (Cli::with_vault(), Cli::new());
        laptop.run(&[&["remote", "set", target][..], login].concat()).exits(0);
        laptop.run(&["sync"]).exits(0);
        let vault = desktop.vault.to_str().unwrap();
        let clone = ["clone", target, vault, "--device-name", "desktop"];
        desktop.run(&[&clone[..], login].concat()).exits(0);
        Self { laptop, desktop }
    }
}

/// How to sign in at the embedded server, with the password in a file of this machine.
pub const LOGIN: [&str; 4] = ["--user", "ada", "--remote-password-command", "echo secret"];

/// A machine whose vault has a mirror on `site`.
pub fn with_mirror_on(site: &Site) -> Cli {
    let cli = Cli::with_vault();
    cli.run(&[&["remote", "set", &site.target()][..], &LOGIN].concat()).exits(0);
    cli.run(&["sync"]).exits(0);
    cli
}

pub fn has_title(cli: &Cli, title: &str) -> bool {
    let list = cli.json(&["list"]);
    list["entries"].as_array().unwrap().iter().any(|entry| entry["title"] == title)
}

pub fn unsynced(cli: &Cli) -> u64 {
    cli.json(&["status"])["unsynced"].as_u64().unwrap()
}

/// How many rounds the tests of two devices take: 20, or as many as are asked for.
pub fn rounds() -> usize {
    setting("ESPEJO_WATCH_ROUNDS", 20)
}

/// A number in the environment, or the usual one.
pub fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}
