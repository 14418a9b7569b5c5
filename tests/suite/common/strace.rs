//! The system calls of the real binary, watched and disturbed by strace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything that changes a file or a directory. Of `openat` only some do; of `write`, those to a terminal do not.
pub const CHANGING: [&str; 14] = [
    "openat",
    "write",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "fsync",
    "fdatasync",
    "syncfs",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "ftruncate",
];

/// The arguments of strace that write every changing call to `log` and do `inject`.
pub fn arguments(log: &Path, inject: &[String]) -> Vec<String> {
    let mut words = ["-f", "-y", "-qq", "-s", "0", "-o"].map(str::to_owned).to_vec();
    words.push(log.to_str().unwrap().to_owned());
    // Faster, as the process stops for these calls only.
    words.push("--seccomp-bpf".to_owned());
    words.extend(["-e".to_owned(), format!("trace={}", CHANGING.join(","))]);
    words.extend(inject.iter().flat_map(|what| ["-e".to_owned(), format!("inject={what}")]));
    words
}

/// One system call as strace tells it.
#[derive(Debug, Clone)]
pub struct Call {
    pub thread: String,
    pub name: String,
    args: Vec<String>,
    /// What follows the equals sign.
    result: String,
}

impl Call {
    pub fn succeeded(&self) -> bool {
        self.result.starts_with(|c: char| c.is_ascii_digit())
    }

    /// Whether strace had it fail.
    pub fn was_injected(&self) -> bool {
        self.result.contains("(INJECTED)")
    }

    /// Whether it makes something durable.
    pub fn is_sync(&self) -> bool {
        ["fsync", "fdatasync", "syncfs"].contains(&&self.name[..])
    }

    pub fn has_flag(&self, flag: &str) -> bool {
        self.args.iter().any(|arg| arg.split('|').any(|word| word == flag))
    }

    /// Whether it changes a file, a directory, or what the person reads.
    pub fn changes(&self) -> bool {
        self.name != "openat" || ["O_CREAT", "O_WRONLY", "O_RDWR"].iter().any(|flag| self.has_flag(flag))
    }

    /// The descriptor's number, where the first argument is one.
    pub fn descriptor(&self) -> &str {
        self.args[0].split('<').next().unwrap_or_default()
    }

    /// What it is about: the file behind its descriptor, or the path it names.
    pub fn path(&self) -> PathBuf {
        match &self.name[..] {
            "rename" => named(&self.args[0], None),
            "mkdir" | "unlink" => named(&self.args[0], None),
            "openat" | "renameat" | "renameat2" | "unlinkat" | "mkdirat" => {
                named(&self.args[1], Some(&self.args[0]))
            }
            _ => behind(&self.args[0]),
        }
    }

    /// Where a rename leads.
    pub fn target(&self) -> PathBuf {
        match &self.name[..] {
            "rename" => named(&self.args[1], None),
            _ => named(&self.args[3], Some(&self.args[2])),
        }
    }
}

/// `5</a/path>`: the path behind a descriptor.
fn behind(descriptor: &str) -> PathBuf {
    let path = descriptor.split_once('<').map_or("", |(_, rest)| rest);
    path.rsplit_once('>').map_or(path, |(path, _)| path).into()
}

/// `"name"`, in the directory behind a descriptor.
fn named(quoted: &str, dir: Option<&String>) -> PathBuf {
    let name = quoted.trim_matches('"');
    dir.map_or_else(PathBuf::new, |dir| behind(dir)).join(name)
}

/// The calls in a log, in the order in which they ended. What a killed process did not finish is left out.
pub fn parse(log: &str) -> Vec<Call> {
    let mut begun = BTreeMap::<&str, &str>::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((thread, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(beginning) = text.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, beginning);
        } else if let Some(resumed) = text.strip_prefix("<... ") {
            let rest = resumed.split_once(" resumed>").map_or("", |(_, rest)| rest);
            calls.extend(
                begun.remove(thread).and_then(|beginning| call(thread, &format!("{beginning}{rest}"))),
            );
        } else {
            calls.extend(call(thread, text));
        }
    }
    calls
}

fn call(thread: &str, text: &str) -> Option<Call> {
    let (called, result) = text.rsplit_once(" = ")?;
    let (name, args) = called.trim_end().strip_suffix(')')?.split_once('(')?;
    Some(Call {
        thread: thread.to_owned(),
        name: name.to_owned(),
        args: args.split(", ").map(str::to_owned).collect(),
        result: result.to_owned(),
    })
}

/// A place in a run where it can be disturbed: the call, and how many of each kind were made before.
#[derive(Debug, Clone)]
pub struct Point {
    pub name: String,
    before: BTreeMap<String, usize>,
}

/// Every changing call of a run's main thread. Strace counts in each thread by itself, so that a call of another
/// thread cannot be told from the main thread's call of the same number.
pub fn points(calls: &[Call]) -> Vec<Point> {
    let mut count = BTreeMap::<String, usize>::new();
    let mut points = Vec::new();
    for call in calls.iter().filter(|call| call.thread == calls[0].thread) {
        if call.changes() {
            points.push(Point { name: call.name.clone(), before: count.clone() });
        }
        *count.entry(call.name.clone()).or_default() += 1;
    }
    points
}

impl Point {
    fn number(&self, name: &str) -> usize {
        self.before.get(name).copied().unwrap_or(0) + 1
    }

    /// This call fails.
    pub fn fail_once(&self, errno: &str) -> Vec<String> {
        vec![format!("{}:error={errno}:when={}", self.name, self.number(&self.name))]
    }

    /// This call and every one of these calls after it fail.
    pub fn fail_from_here(&self, errno: &str) -> Vec<String> {
        CHANGING.iter().map(|name| format!("{name}:error={errno}:when={}+", self.number(name))).collect()
    }
}
