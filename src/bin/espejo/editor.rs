//! Writing in the person's own editor, without leaving the text on a disk.
//!
//! The draft lies in memory (tmpfs), readable by nobody else. Editors of the vim family are told to keep no swap,
//! undo or history file. If saving fails afterwards the draft stays, and its path is printed.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Global;
use crate::failure::{Code, Failure};
use crate::file_system::FileSystem;

const MAX_DRAFT_BYTES: u64 = 64 << 20;

/// A draft in memory. Removed when dropped, unless it is kept.
pub struct Draft {
    dir: tempfile::TempDir,
    /// What the person left in it.
    pub text: String,
}

impl Draft {
    /// Opens the editor on `text` and waits until it is closed. `None` if nothing was written or changed.
    pub fn edit(global: &Global, text: &str) -> Result<Option<Self>, Failure> {
        if global.no_input || !io::stdin().is_terminal() {
            return Err(Failure::usage("there is no terminal for an editor")
                .hint("give the text with -m, a file or -"));
        }
        let dir = tempfile::Builder::new()
            .prefix("espejo-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir_in(memory_dir()?)
            .map_err(|error| Failure::io("making a draft", &error))?;
        let path = dir.path().join("entry.md");
        let mut file = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(file.write(true).create_new(true), 0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Failure::io("making a draft", &error))?;
        let edited = match run_editor(&path).and_then(|()| read(&path)) {
            Ok(edited) => edited,
            // Nothing to lose if it is as it was given.
            Err(failure) if std::fs::read(&path).is_ok_and(|now| now == text.as_bytes()) => {
                return Err(failure);
            }
            Err(failure) => return Err(kept(failure, Some(Self { dir, text: String::new() }))),
        };
        let unchanged = edited.trim_end() == text.trim_end();
        Ok((!unchanged).then_some(Self { dir, text: edited }))
    }

    /// Leaves the draft where it is, because it could not be saved.
    pub fn keep(self) -> PathBuf {
        self.dir.keep().join("entry.md")
    }
}

/// `failure`, with where the text is that could not be saved.
pub fn kept(failure: Failure, draft: Option<Draft>) -> Failure {
    match draft {
        Some(draft) => {
            let hint = format!("what you wrote is in {} (in memory)", draft.keep().display());
            failure.hint(hint)
        }
        None => failure,
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let len = path.metadata().map_err(|error| Failure::io("reading the draft", &error))?.len();
    if len > MAX_DRAFT_BYTES {
        return Err(Failure::usage("the draft has more than 64 MB"));
    }
    std::fs::read_to_string(path).map_err(|error| Failure::io("reading the draft", &error))
}

/// A directory that is in memory and of this user's session.
fn memory_dir() -> Result<PathBuf, Failure> {
    memory_dirs().into_iter().next().ok_or_else(|| {
        Failure::new(
            Code::Other,
            "no_memory_dir",
            "there is no directory in memory for the draft, and it must not touch a disk",
        )
        .hint("write with -m or from standard input: `espejo add -`")
    })
}

/// Where drafts may be, the best place first.
pub fn memory_dirs() -> Vec<PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates = session.into_iter().chain([PathBuf::from("/dev/shm")]);
    candidates.filter(|dir| FileSystem::of(dir) == FileSystem::Memory).collect()
}

fn run_editor(path: &Path) -> Result<(), Failure> {
    let configured = ["ESPEJO_EDITOR", "VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os);
    let editor =
        configured.into_iter().find(|value| !value.is_empty()).unwrap_or_else(|| OsString::from("vi"));
    let words =
        editor.to_str().and_then(|text| shell_words::split(text).ok()).filter(|words| !words.is_empty());
    let words = words
        .ok_or_else(|| Failure::usage(format!("the editor {} is not a command line", editor.display())))?;
    let program = Path::new(&words[0]).file_name().unwrap_or_default().to_string_lossy();
    let quiet: &[&str] = match &*program {
        "vi" | "vim" | "nvim" | "gvim" | "view" => &[
            "-n",
            "-i",
            "NONE",
            "--cmd",
            "set noswapfile nobackup nowritebackup",
            "-c",
            "silent! set noundofile",
        ],
        _ => &[],
    };
    let status = Command::new(&words[0])
        .args(&words[1..])
        .args(quiet)
        .arg(path)
        .env_remove("ESPEJO_PASSWORD_FILE")
        .env_remove("ESPEJO_PASSWORD_COMMAND")
        .status()
        .map_err(|error| Failure::usage(format!("the editor {:?}: {error}", words[0])).hint("set EDITOR"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(
            Code::Other,
            "editor",
            format!("the editor ended with {status}; nothing was saved"),
        )),
    }
}
