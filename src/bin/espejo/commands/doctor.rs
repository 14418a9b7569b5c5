//! `doctor`: what could cause trouble, and what to do about it.
//!
//! Most of it needs neither password nor network. What does is looked at when a password was given or a session is open;
//! nothing is asked for, and nothing is changed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use espejo::clock::{Clock, SystemClock};
use espejo::crypto::MIN_WRITTEN_ITERATIONS;
use espejo::remote::{Remote, RemotePath};
use espejo::vault::Status;
use serde_json::{Value, json};

use super::mirror::state_of;
use crate::context::{Context, ThisVault, absolute, remote};
use crate::failure::{Code, Failure};
use crate::file_system::FileSystem;
use crate::output::{count, line, size};
use crate::{runtime, secrets, session, when};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A clock this far off puts entries on the wrong day, and makes the newest edit of two devices the wrong one.
pub const MAX_CLOCK_OFF_MS: i64 = 5 * 60 * 1_000;

/// Below this a backup, or a photo, may not fit.
const LITTLE_ROOM_BYTES: u64 = 1 << 30;

/// Below this saving an entry is a matter of luck.
const NO_ROOM_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Check {
    name: &'static str,
    verdict: Verdict,
    message: String,
    hint: Option<String>,
}

fn ok(name: &'static str, message: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Ok, message: message.into(), hint: None }
}

fn warn(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Warn, message: message.into(), hint: Some(hint.into()) }
}

fn fail(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { verdict: Verdict::Fail, ..warn(name, message, hint) }
}

pub fn doctor(context: &Context<'_>) -> Result<(), Failure> {
    let locked = context.locked()?;
    let dir = absolute(&context.vault_dir()?)?;
    let status = locked.status();
    let now_ms = SystemClock.now_ms();
    let mut checks = vec![
        permissions(&dir),
        file_system(&dir),
        free_space(&dir),
        damage(&status),
        synced(&status, now_ms),
        backed_up(&status, now_ms),
        keyring(),
        inotify(),
        drafts(),
    ];
    let opened = match secrets::is_given(context.global) {
        true => Some(context.vault_by_secret(locked)?),
        false => session::resume(locked)?.ok(),
    };
    match opened {
        Some(mut vault) => checks.extend(unlocked(&mut vault, now_ms)?),
        None => checks.push(warn(
            "unlocked",
            "the vault is locked: key, index and mirror were not looked at",
            "`espejo doctor` with --password-file, --password-command, or after `espejo unlock`",
        )),
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    let json = json!({ "checks": checks.iter().map(Check::json).collect::<Vec<_>>() });
    context.output.result(&json, || checks.iter().map(Check::text).collect())?;
    if failed { Err(Failure::silent(Code::Other)) } else { Ok(()) }
}

impl Check {
    fn json(&self) -> Value {
        let status = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        let mut json = json!({ "name": self.name, "status": status, "message": self.message });
        if let Some(hint) = &self.hint {
            json["hint"] = json!(hint);
        }
        json
    }

    fn text(&self) -> String {
        let status = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let hint = self.hint.as_ref().map(|hint| format!("      hint: {hint}\n")).unwrap_or_default();
        format!("{status}  {}: {}\n{hint}", self.name.replace('_', " "), line(&self.message, 300))
    }
}

/// Who else on this machine may read or change the vault's files.
fn permissions(dir: &Path) -> Check {
    const NAME: &str = "permissions";
    let Ok(metadata) = fs::metadata(dir) else {
        return fail(NAME, format!("{} cannot be looked at", dir.display()), "make it readable for you");
    };
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("{} belongs to another user", dir.display());
        return warn(NAME, message, "run espejo as the vault's owner, or change the owner");
    }
    // A vault made by espejo has 0700 for `local/`; the rest is sealed, but others could delete it.
    let open = [dir.to_owned(), dir.join("local")].into_iter().find(|dir| {
        let mode = fs::metadata(dir).map_or(0, |metadata| metadata.permissions().mode());
        mode & 0o022 != 0
    });
    match open {
        Some(open) => {
            let message = format!("others may change files in {}", open.display());
            warn(NAME, message, format!("chmod go-w {}", shell_words::quote(&open.to_string_lossy())))
        }
        None => ok(NAME, "only you can change the vault's files"),
    }
}

/// Whether locks hold and whether what is synced stays, as on a disk of this machine.
fn file_system(dir: &Path) -> Check {
    const NAME: &str = "file_system";
    match FileSystem::of(dir) {
        FileSystem::Network => warn(
            NAME,
            "the vault is on a network file system, where locks and syncing may not hold",
            "keep the vault on this machine's disk, and make the network folder its mirror",
        ),
        FileSystem::Memory => warn(
            NAME,
            "the vault is in memory: it is gone when this machine is turned off",
            "move the directory to a disk; nothing in it knows where it lies",
        ),
        FileSystem::Disk => ok(NAME, "the vault is on a disk of this machine"),
        FileSystem::Unknown => ok(NAME, "the vault's file system does not say what it is"),
    }
}

fn free_space(dir: &Path) -> Check {
    const NAME: &str = "free_space";
    let free = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => return warn(NAME, format!("cannot be told: {error}"), "df"),
    };
    let message = format!("{} free beside the vault", size(free));
    match free {
        ..NO_ROOM_BYTES => fail(NAME, message, "make room: nothing can be saved without it"),
        NO_ROOM_BYTES..LITTLE_ROOM_BYTES => {
            warn(NAME, message, "make room, so that attachments and backups fit")
        }
        _ => ok(NAME, message),
    }
}

fn damage(status: &Status) -> Check {
    const NAME: &str = "damage";
    let counts = &status.counts;
    if counts.corrupt > 0 {
        let message = format!(
            "{} damaged or lost",
            count(counts.corrupt, "file of the vault is", "files of the vault are")
        );
        return fail(NAME, message, "`espejo sync` heals from the mirror, `espejo repair` from a backup too");
    }
    if counts.pending > 0 {
        let files = count(counts.pending, "file is", "files are");
        let message = format!("{files} announced by other devices and not here yet");
        return warn(NAME, message, "`espejo sync`; if it stays so, sync the device that has them");
    }
    ok(NAME, "no damage is known; `espejo check` reads everything")
}

fn synced(status: &Status, now_ms: i64) -> Check {
    const NAME: &str = "mirror_age";
    let waiting = match status.counts.unsynced {
        0 => String::new(),
        unsynced => format!(", {} not on it", count(unsynced, "file", "files")),
    };
    match (&status.target, status.last_sync) {
        (None, _) => {
            warn(NAME, "there is no mirror: this disk is the only copy", "`espejo remote set TARGET`")
        }
        (Some(_), None) => warn(NAME, "the mirror was never synced", "`espejo sync`"),
        (Some(_), Some(last)) if now_ms - last > 7 * DAY_MS => {
            warn(NAME, format!("synced {}{waiting}", when::ago(last)), "`espejo sync`, or `espejo watch`")
        }
        (Some(_), Some(last)) => ok(NAME, format!("synced {}{waiting}", when::ago(last))),
    }
}

fn backed_up(status: &Status, now_ms: i64) -> Check {
    const NAME: &str = "backup_age";
    let make = "`espejo backup create`, or `espejo backup auto --every 1d` for one a day";
    if let Some(failure) = &status.backup_failure {
        return fail(
            NAME,
            format!("the backup that was due was not made: {failure}"),
            "`espejo backup auto`",
        );
    }
    // Twice as late as it should be, or a month where nothing was asked for.
    let late = status.backup_every.map_or(30 * DAY_MS, |every| every.saturating_mul(2));
    match status.last_backup {
        None => warn(NAME, "there is no backup", make),
        Some(last) if now_ms - last > late => {
            warn(NAME, format!("the last verified backup was made {}", when::ago(last)), make)
        }
        Some(last) => ok(NAME, format!("the last verified backup was made {}", when::ago(last))),
    }
}

fn keyring() -> Check {
    const NAME: &str = "keyring";
    match keyring::Entry::store_status() {
        Ok(()) => ok(NAME, "the system's keyring can keep a session (`espejo unlock`)"),
        Err(error) => {
            let error = error.to_string();
            let why = line(&error, 60);
            ok(NAME, format!("none here, so `espejo unlock` cannot be used; everything else can ({why})"))
        }
    }
}

/// Whether the kernel still takes files to watch from this user.
fn inotify() -> Check {
    const NAME: &str = "inotify";
    let limit = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (limit("max_user_instances"), limit("max_user_watches")) {
        (Some(instances), Some(watches)) if instances < 16 || watches < 64 => warn(
            NAME,
            format!(
                "the kernel allows {instances} instances and {watches} watches: `espejo watch` may have to poll"
            ),
            "sysctl fs.inotify.max_user_instances=128",
        ),
        (Some(instances), Some(watches)) => ok(
            NAME,
            format!("{instances} instances and {watches} watches are allowed; `espejo watch` needs 1 and 2"),
        ),
        _ => ok(NAME, "not on this system: `espejo watch` polls"),
    }
}

/// Drafts that could not be saved, or whose editor was killed.
fn drafts() -> Check {
    const NAME: &str = "drafts";
    let dirs = crate::editor::memory_dirs();
    let left = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().filter_map(|item| {
        let item = item.ok()?;
        let ours = item.file_name().to_string_lossy().starts_with("espejo-");
        let mine = item.metadata().is_ok_and(|it| it.uid() == rustix::process::geteuid().as_raw());
        let draft = item.path().join("entry.md");
        (ours && mine && draft.is_file()).then_some(draft)
    });
    match left.collect::<Vec<PathBuf>>().first() {
        Some(draft) => warn(
            NAME,
            format!("an unsaved draft is in {}, in plain text", draft.display()),
            "`espejo add FILE` saves it; then delete it",
        ),
        None => ok(NAME, "no unsaved draft lies about"),
    }
}

fn unlocked(vault: &mut ThisVault, now_ms: i64) -> Result<Vec<Check>, Failure> {
    Ok(vec![password_cost(vault)?, schemas(vault)?, future(vault, now_ms)?]
        .into_iter()
        .chain(mirror(vault)?)
        .collect())
}

fn password_cost(vault: &ThisVault) -> Result<Check, Failure> {
    const NAME: &str = "password_cost";
    let rounds = vault.key_file()?.password().map_or(0, |password| password.iterations);
    Ok(match rounds < MIN_WRITTEN_ITERATIONS {
        true => warn(
            NAME,
            format!(
                "guessing the password costs {rounds} rounds, less than today's {MIN_WRITTEN_ITERATIONS}"
            ),
            "`espejo passwd`, or any command with the password: it is raised by itself",
        ),
        false => ok(NAME, format!("each guess of the password costs {rounds} rounds of HMAC-SHA-256")),
    })
}

fn schemas(vault: &mut ThisVault) -> Result<Check, Failure> {
    const NAME: &str = "schemas";
    let outdated = vault.outdated()?.len() as u64;
    Ok(match outdated {
        0 => ok(NAME, "everything is stored in today's schema"),
        _ => ok(
            NAME,
            format!("{} in an older schema; `espejo migrate`", count(outdated, "version", "versions")),
        ),
    })
}

/// Versions that were written in the future: some device's clock is or was ahead.
fn future(vault: &mut ThisVault, now_ms: i64) -> Result<Check, Failure> {
    const NAME: &str = "clocks";
    let manifest = vault.manifest()?;
    let ahead = manifest.versions().filter(|state| state.version.dot.updated_at > now_ms + DAY_MS);
    let Some(worst) = ahead.max_by_key(|state| state.version.dot.updated_at) else {
        return Ok(ok(NAME, "no entry was written in the future"));
    };
    let dot = worst.version.dot;
    let device = vault.device_name(dot.device).unwrap_or_else(|| espejo::event::short(dot.device));
    let message = format!("{device} wrote at {}, which is yet to come", when::minute(dot.updated_at));
    Ok(warn(
        NAME,
        message,
        "set that device's clock; what it wrote stays as it is, and an edit still wins over it",
    ))
}

/// Asks the mirror for one listing.
fn mirror(vault: &ThisVault) -> Result<Vec<Check>, Failure> {
    const NAME: &str = "mirror";
    let Some(settings) = vault.remote_settings()? else { return Ok(Vec::new()) };
    let mirror = remote(&settings)?;
    let listing = runtime()?.block_on(mirror.list(&RemotePath::root()));
    let target = line(&settings.target, 200);
    let answered = match listing {
        Err(error) => {
            let failure = Failure::from(error);
            let hint = failure.hint.unwrap_or_else(|| "`espejo remote test`".to_owned());
            fail(NAME, format!("{target}: {}", failure.message), hint)
        }
        Ok(listing) => match (state_of(listing.as_ref()), settings.initialised) {
            ("missing", true) => fail(
                NAME,
                format!("{target} is gone; your entries are safe here"),
                "`espejo sync --reseed` fills it again",
            ),
            ("missing", false) => ok(NAME, format!("{target} does not exist yet; the first sync makes it")),
            ("mirror", _) => ok(NAME, format!("{target} answers")),
            (_, true) => fail(
                NAME,
                format!(
                    "{target} has no espejo.json (unmounted disk, wiped server?); your entries are safe here"
                ),
                "check the folder, or `espejo sync --reseed` to fill it again",
            ),
            (_, false) => ok(NAME, format!("{target} answers and is no mirror yet")),
        },
    };
    let clock = mirror.clock_ahead_ms().map(|ahead| {
        const NAME: &str = "clock";
        let off = count(ahead.unsigned_abs() / 60_000, "minute", "minutes");
        match ahead {
            ahead if ahead.abs() <= MAX_CLOCK_OFF_MS => {
                ok(NAME, "this machine's clock agrees with the server's")
            }
            1.. => warn(
                NAME,
                format!("this machine's clock is {off} behind the server's"),
                "set this machine's clock",
            ),
            _ => warn(
                NAME,
                format!("this machine's clock is {off} ahead of the server's"),
                "set this machine's clock",
            ),
        }
    });
    Ok(std::iter::once(answered).chain(clock).collect())
}
