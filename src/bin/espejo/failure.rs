//! What went wrong, as a person reads it: one sentence, one hint, one exit code. The only place that knows the codes.

use espejo::event::short;
use espejo::format::keyfile::KeyFileError;
use espejo::remote::{RemoteError, RemoteErrorKind};
use espejo::sync::{self, Guard};
use espejo::vault::{self, PasswordSet};
use serde_json::{Value, json};

use crate::demo::DemoError;
use crate::when;

/// Exit codes, frozen: scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Other = 1,
    Usage = 2,
    Incomplete = 3,
    NotFound = 4,
    Temporary = 5,
    Pending = 6,
    NoVault = 10,
    Busy = 11,
    Password = 12,
    RemoteLogin = 13,
    Integrity = 14,
    Newer = 15,
    Guard = 16,
    Interrupted = 130,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    /// A stable word for programs.
    pub kind: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// The command has already printed what it has to say.
    pub silent: bool,
}

impl Failure {
    pub fn new(code: Code, kind: &'static str, message: impl Into<String>) -> Self {
        Self { code, kind, message: message.into(), hint: None, silent: false }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As programs read it.
    pub fn json(&self) -> Value {
        json!({
            "code": self.code as i32,
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
        })
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, "usage", message)
    }

    /// Ends with `code` and no further word.
    pub fn silent(code: Code) -> Self {
        Self { silent: true, ..Self::new(code, "", "") }
    }

    pub fn io(doing: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::BrokenPipe => Self { silent: true, ..Self::new(Code::Other, "broken_pipe", "") },
            K::StorageFull | K::QuotaExceeded => Self::new(
                Code::Other,
                "disk_full",
                format!("{doing}: the disk is full; what was saved before is safe"),
            )
            .hint("make room and try again; reading still works"),
            K::ReadOnlyFilesystem => Self::new(
                Code::Other,
                "read_only",
                format!("{doing}: this vault is read-only here; what was saved before is safe"),
            ),
            K::PermissionDenied => Self::new(
                Code::Other,
                "permission",
                format!("{doing}: permission denied; what was saved before is safe"),
            ),
            _ => Self::new(Code::Other, "io", format!("{doing}: {error}")),
        }
    }
}

impl From<vault::Error> for Failure {
    fn from(error: vault::Error) -> Self {
        use vault::Error as E;
        let message = error.to_string();
        match error {
            E::NoVault => Self::new(Code::NoVault, "no_vault", message)
                .hint("`espejo init DIR` makes one, `--vault DIR` names one"),
            E::NotEmpty => {
                Self::new(Code::Other, "not_empty", "the directory is not empty; nothing was changed")
                    .hint("name a new or empty directory")
            }
            E::Newer | E::NewerSchema => Self::new(Code::Newer, "newer", message).hint("update espejo"),
            E::Key { error, set } => key(error, set),
            E::KeyFileMissing => Self::new(
                Code::Newer,
                "key_file_missing",
                "the key file is missing, and so is its copy; your entries are intact and cannot be read without it",
            )
            .hint(TAKE_BACK),
            E::KeyFileOfAnotherVault => Self::new(
                Code::Newer,
                "key_file_of_another_vault",
                "the key file belongs to another vault; it was not used, and your entries are intact",
            )
            .hint(TAKE_BACK),
            E::Rekeyed => Self::new(
                Code::Password,
                "rekeyed",
                "this vault was given a new master key while this command ran; what was saved before is safe",
            )
            .hint("again, with the new password"),
            E::PasswordNeeded(why) => Self::new(
                Code::Password,
                "password_needed",
                format!("this cannot be done while the vault is locked: {why}; nothing was changed"),
            )
            .hint("`espejo sync` once, with the password"),
            E::Busy => Self::new(Code::Busy, "busy", "another espejo is using this vault").hint("try again"),
            E::Io { doing, source } => Self::io(doing, &source),
            E::Damaged { entry, object, problem } => {
                let what =
                    entry.map_or("a file of this vault".to_owned(), |id| format!("entry {}", short(id)));
                Self::new(
                    Code::Integrity,
                    "damaged",
                    format!(
                        "{what} is {problem} on this disk (object {}); a damaged file is kept in local/quarantine",
                        short(object)
                    ),
                )
                .hint("`espejo sync` restores it from the mirror; `espejo log ID` shows older versions")
            }
            E::StateDamaged { .. } => Self::new(
                Code::Integrity,
                "settings_damaged",
                format!("the mirror's settings are damaged ({message}); your entries are safe"),
            )
            .hint("`espejo remote set …` again"),
            E::NotABackup | E::BackupDamaged(_) | E::BackupOfAnotherVault | E::BackupHoldsMore { .. } => {
                of_backup(&error, &message)
            }
            E::Pending => Self::new(
                Code::Incomplete,
                "pending",
                "it was announced by another device and has not arrived here yet",
            )
            .hint("`espejo sync`"),
            E::NotFound { what, id } => {
                Self::new(Code::NotFound, "not_found", format!("no {what} with id {id:?}"))
                    .hint(not_found_hint(what, &id))
            }
            E::Ambiguous { id, candidates } => {
                Self::new(Code::NotFound, "ambiguous", format!("{id:?} fits {}", candidates.join(", ")))
                    .hint("give more digits")
            }
            E::Invalid(message) => Self::usage(message),
            E::Source(error) => Self::io("reading the file", &error),
            E::Entropy(_) => Self::new(Code::Other, "entropy", message),
        }
    }
}

/// What is wrong with a backup file.
fn of_backup(error: &vault::Error, message: &str) -> Failure {
    use vault::Error as E;
    let unchanged = format!("{message}; nothing was changed");
    match error {
        E::BackupDamaged(_) => Failure::new(Code::Integrity, "backup_damaged", unchanged)
            .hint("use another backup; `espejo repair --from backup=FILE` still takes what is intact in it"),
        E::BackupOfAnotherVault => Failure::new(Code::NotFound, "backup_of_another_vault", unchanged)
            .hint("name a backup of this vault"),
        E::BackupHoldsMore { .. } => {
            Failure::new(Code::Guard, "backup_holds_more", format!("{message}; it was left as it is"))
                .hint("`espejo repair --from backup=FILE` takes them back; or name another file")
        }
        _ => Failure::new(
            Code::NotFound,
            "not_a_backup",
            "there is a file, and it is not a readable backup of this vault; nothing was changed",
        )
        .hint("name another file"),
    }
}

fn not_found_hint(what: &str, id: &str) -> String {
    match what {
        "entry" if !id.starts_with('@') && id.len() < 4 => {
            "give at least 4 digits of the id; `espejo list`".into()
        }
        "entry" => "`espejo list` shows the ids, `espejo list --deleted` those of deleted entries".into(),
        _ => "`espejo log ID` shows the versions".into(),
    }
}

/// How a key file comes back.
const TAKE_BACK: &str = "`espejo repair` takes it from the mirror (`--user U` for a server's), `espejo repair --from backup=FILE` from a backup";

fn key(error: KeyFileError, set: Option<PasswordSet>) -> Failure {
    match error {
        KeyFileError::WrongSecret => {
            let told = set.map_or_else(String::new, |set| told(&set));
            Failure::new(
                Code::Password,
                "wrong_password",
                format!("this does not open this vault; the key file is intact{told}"),
            )
            .hint("if it was changed elsewhere and this device has not synced since, the old one still opens it here; `espejo repair --from remote` fetches the new key file")
        }
        KeyFileError::NoSuchSlot => Failure::new(
            Code::Password,
            "no_recovery_key",
            "this vault has no recovery key; only the password opens it",
        )
        .hint("`espejo recovery new`, with the password, makes one"),
        KeyFileError::Newer => Failure::new(
            Code::Newer,
            "newer",
            "the key file was written by a newer version of espejo; nothing was changed",
        )
        .hint("update espejo"),
        KeyFileError::Damaged => Failure::new(
            Code::Newer,
            "key_file_damaged",
            "the key file is damaged, and so is its copy; your entries are intact and cannot be read without it",
        )
        .hint(TAKE_BACK),
        KeyFileError::TooCheap | KeyFileError::TooExpensive | KeyFileError::Tampered => Failure::new(
            Code::Integrity,
            "key_file_tampered",
            format!("{error}; it was not used, and your entries are intact"),
        )
        .hint(TAKE_BACK),
    }
}

/// When the password was set, and where.
fn told(set: &PasswordSet) -> String {
    let on = match (&set.by, set.here) {
        (_, true) => " on this device".to_owned(),
        (Some(by), false) => format!(" on {by}"),
        (None, false) => String::new(),
    };
    match set.changed {
        false => format!(" (set {}{on})", when::day(set.at)),
        true => format!(". The password was changed{on} {}: use the new one", when::ago(set.at)),
    }
}

impl From<sync::Error> for Failure {
    fn from(error: sync::Error) -> Self {
        use sync::Error as E;
        match error {
            E::NoRemote => Self::new(Code::NotFound, "no_remote", "this vault has no mirror yet")
                .hint("`espejo remote set https://…` or `espejo remote set /a/folder`"),
            E::NoMirror => {
                Self::new(Code::NotFound, "no_mirror", "there is no espejo mirror at this address")
                    .hint("check the address; on the first device: `espejo remote set …` and `espejo sync`")
            }
            E::Newer => Self::new(Code::Newer, "newer", "this mirror needs a newer version of espejo")
                .hint("update espejo; your entries are safe here"),
            E::Guard(guard) => guarded(&guard),
            E::Remote(error) => error.into(),
            E::Vault(error) => error.into(),
        }
    }
}

fn guarded(guard: &Guard) -> Failure {
    let failure = |kind| Failure::new(Code::Guard, kind, guard.to_string());
    match guard {
        Guard::MirrorGone => failure("mirror_gone")
            .hint("check the folder or address, or `espejo sync --reseed` to fill it again"),
        Guard::OtherVault(_) => failure("other_vault").hint("`espejo remote set` with the right address"),
        Guard::ForeignFolder(_) => {
            failure("foreign_folder").hint("name a new or empty folder: `espejo remote set …`")
        }
        Guard::Rekeyed { at } => {
            Failure { message: format!("{guard} (it was made on {})", when::day(*at)), ..failure("rekeyed") }
                .hint("give the new password or the new recovery words here once: `espejo sync`")
        }
        Guard::MassDelete { .. } => failure("mass_delete")
            .hint("`espejo sync -n` looks again, `espejo sync --accept-deletes` goes on"),
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        use RemoteErrorKind as K;
        let message = format!("{error}; your entries are safe here");
        let (code, kind, hint) = match &error.kind {
            K::Unauthorized => (
                Code::RemoteLogin,
                "unauthorized",
                "`espejo remote set TARGET --user U` with the right password",
            ),
            K::Forbidden => (Code::RemoteLogin, "forbidden", "check that this user may write there"),
            K::Locked => (Code::Temporary, "locked", "`espejo sync` again in a minute"),
            K::Throttled { .. } => (Code::Temporary, "throttled", "`espejo sync` again later"),
            K::Unavailable { .. } => (Code::Temporary, "unavailable", "`espejo sync` again later"),
            K::Full => (Code::Temporary, "mirror_full", "make room there, then `espejo sync`"),
            K::TooLarge => {
                (Code::Other, "too_large", "raise the server's limit (nginx: client_max_body_size 8m)")
            }
            K::Redirected { .. } => (
                Code::Temporary,
                "redirected",
                "sign in to the network, or correct the address: `espejo remote set`",
            ),
            K::NotDav => (
                Code::Temporary,
                "not_webdav",
                "sign in to the network, or correct the address: `espejo remote set`",
            ),
            K::Untrusted => {
                (Code::Other, "untrusted", "`espejo remote set … --ca-file F` trusts your own authority")
            }
            K::Insecure => (Code::Usage, "insecure", "use https://"),
            K::BadAddress => (Code::Usage, "bad_address", "https://… or the path of a directory"),
            K::Unreachable => (Code::Temporary, "unreachable", "check the network, then `espejo sync`"),
            K::Interrupted => (Code::Temporary, "interrupted", "`espejo sync` again; it goes on from there"),
            K::NotFound => (Code::Temporary, "not_found_on_mirror", "`espejo sync` again"),
            K::Oversize | K::Malformed | K::Unexpected { .. } => {
                (Code::Temporary, "bad_answer", "`espejo remote test` looks closer")
            }
            K::Io => (Code::Temporary, "folder", "check the folder, then `espejo sync`"),
        };
        Self::new(code, kind, message).hint(hint)
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match &error {
            DemoError::Output(source) => Self::io("writing", source),
            DemoError::Interrupted => Self::new(Code::Interrupted, "interrupted", error.to_string()),
            DemoError::Step { .. } | DemoError::Io { .. } => {
                Self::new(Code::Other, "demo", error.to_string())
            }
        }
    }
}
