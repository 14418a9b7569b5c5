//! `remote test`: what is at the mirror's address, what it does, and in words what is wrong with it.

use std::time::Instant;

use espejo::event::short;
use espejo::remote::nextcloud::{self, Found, Link};
use espejo::remote::{About, AnyRemote, Remote as _};
use espejo::sync::{self, Place, Trial, exposure};
use espejo::vault::RemoteSettings;
use serde_json::json;

use super::doctor::MAX_CLOCK_OFF_MS;
use crate::context::{Context, ThisRemote, ThisVault, remote};
use crate::failure::{Code, Failure};
use crate::output::{count, line, size};
use crate::runtime;

/// Less room than this is soon gone.
const LITTLE_ROOM_BYTES: u64 = 100 << 20;

/// What a mirror tells of itself beside what it does.
#[derive(Default)]
struct Told {
    /// `Nextcloud 31.0.2`, or what else answers.
    server: Option<String>,
    is_nextcloud: bool,
    has_etags: Option<bool>,
    room_bytes: Option<u64>,
}

pub fn test(context: &Context<'_>) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    let settings = vault.remote_settings()?.ok_or(sync::Error::NoRemote)?;
    let mirror = remote(&settings)?;
    let runtime = runtime()?;
    let start = Instant::now();
    // One question first: a mirror that does not answer is not asked for more.
    runtime.block_on(mirror.list(&espejo::remote::RemotePath::root()))?;
    let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let is_server = matches!(mirror.inner(), AnyRemote::WebDav(_));
    let trial = runtime.block_on(sync::trial(&vault, &mirror, is_server))?;
    let told = runtime.block_on(ask(&mirror, &settings));
    let clock = mirror.clock_ahead_ms();
    let seen = seen_by_owner(&mut vault, &trial)?;
    let trouble = trouble(&trial, &told, &settings);
    let json = json!({
        "target": settings.target,
        "reachable": true,
        "state": word(&trial.place),
        "duration_ms": took_ms,
        "server": told.server,
        "steps": trial.steps.iter().map(|step| {
            json!({ "verb": step.verb, "ok": step.outcome.is_ok(), "error": step.outcome.as_ref().err().map(ToString::to_string) })
        }).collect::<Vec<_>>(),
        "tried_bytes": trial.tried_bytes,
        "etags": told.has_etags,
        "clock_ahead_ms": clock,
        "room_bytes": told.room_bytes,
        "visible": seen,
    });
    context.output.result(&json, || {
        let mut text =
            format!("{}: answered in {took_ms} ms; {}\n", settings.target, words(&trial.place, &settings));
        let mut row = |name: &str, what: String| text.push_str(&format!("{name:<11} {what}\n"));
        if let Some(server) = &told.server {
            row("server", server.clone());
        }
        let works =
            trial.steps.iter().filter(|step| step.outcome.is_ok()).map(|step| step.verb).collect::<Vec<_>>();
        let tried = match trial.tried_bytes {
            0 => " (nothing was written)".to_owned(),
            bytes => format!(", with a file of {}", size(bytes)),
        };
        row("works", format!("{}{tried}", works.join(", ")));
        for step in &trial.steps {
            if let Err(error) = &step.outcome {
                row("FAILS", format!("{}: {error}", step.verb));
            }
        }
        if let Some(has_etags) = told.has_etags {
            row("ETags", if has_etags { "yes; not needed" } else { "none; not needed" }.to_owned());
        }
        if let Some(ahead) = clock {
            row("clock", clock_words(ahead));
        }
        if let Some(room) = told.room_bytes {
            let little = if room < LITTLE_ROOM_BYTES { ": make room there soon" } else { "" };
            row("room", format!("{}{little}", size(room)));
        }
        if let Some(visible) = &seen {
            row("its owner", format!("sees {visible} (`espejo privacy`)"));
        }
        text
    })?;
    trouble.map_or(Ok(()), Err)
}

/// Asks a mirror what it is. What it does not tell is left open.
async fn ask(mirror: &ThisRemote, settings: &RemoteSettings) -> Told {
    match mirror.inner() {
        AnyRemote::WebDav(dav) => {
            let About { server, has_etags, room_bytes } = dav.about().await.unwrap_or_default();
            let ca_pem = settings.ca_pem.as_deref().map(str::as_bytes);
            let found = match Link::read(&settings.target) {
                Ok(link) => nextcloud::find(&link, ca_pem).await.ok(),
                Err(_) => None,
            };
            let product = match found {
                Some(Found::Nextcloud(it)) => Some(format!("{} {}", it.product, it.version)),
                Some(Found::Other(_)) | None => None,
            };
            let is_nextcloud = product.is_some();
            let server = match (product, server) {
                (Some(product), Some(server)) => Some(format!("{product}, behind {server}")),
                (product, server) => product.or(server),
            };
            Told { server, is_nextcloud, has_etags, room_bytes }
        }
        AnyRemote::Folder(folder) => {
            let stat = rustix::fs::statvfs(folder.base()).ok();
            let room_bytes = stat.map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
            Told { room_bytes, ..Told::default() }
        }
        AnyRemote::Memory(_) => Told::default(),
    }
}

fn seen_by_owner(vault: &mut ThisVault, trial: &Trial) -> Result<Option<String>, Failure> {
    if trial.place != Place::Ours {
        return Ok(None);
    }
    let exposed = exposure(vault)?;
    Ok(Some(format!(
        "{} of {}, from {}, and when each came; not a word of what is in them",
        count(exposed.files, "file", "files"),
        size(exposed.bytes),
        count(exposed.devices.len() as u64, "device", "devices"),
    )))
}

fn word(place: &Place) -> &'static str {
    match place {
        Place::Ours => "mirror",
        Place::OtherVault(_) => "other_vault",
        Place::Newer => "newer",
        Place::Damaged => "damaged",
        Place::Missing => "missing",
        Place::Empty => "empty",
        Place::Foreign(_) => "foreign",
    }
}

fn words(place: &Place, settings: &RemoteSettings) -> String {
    match (place, settings.initialised) {
        (Place::Ours, _) => "there is a mirror of this vault".to_owned(),
        (Place::OtherVault(id), _) => format!("there is the mirror of another vault, {}", short(id)),
        (Place::Newer, _) => "there is a mirror that needs a newer espejo".to_owned(),
        (Place::Damaged, _) => "there is a mirror, and its espejo.json is damaged".to_owned(),
        (Place::Missing | Place::Empty, true) => "the mirror that was there is gone".to_owned(),
        (Place::Missing, false) => "the folder does not exist yet; the first sync makes it".to_owned(),
        (Place::Empty, false) => "the folder is empty; the first sync fills it".to_owned(),
        (Place::Foreign(_), _) => "the folder holds other files".to_owned(),
    }
}

fn clock_words(ahead: i64) -> String {
    let off = count(ahead.unsigned_abs() / 60_000, "minute", "minutes");
    match ahead {
        _ if ahead.abs() <= MAX_CLOCK_OFF_MS => "agrees with this machine's".to_owned(),
        1.. => format!("this machine's is {off} behind it: set this machine's clock"),
        _ => format!("this machine's is {off} ahead of it: set this machine's clock"),
    }
}

/// What keeps a sync from working, and what to do about it.
fn trouble(trial: &Trial, told: &Told, settings: &RemoteSettings) -> Option<Failure> {
    let guard = |kind, message: String, hint: &str| Some(Failure::new(Code::Guard, kind, message).hint(hint));
    match &trial.place {
        Place::OtherVault(id) => {
            let message =
                format!("this is the mirror of another vault ({}); nothing on it was changed", short(id));
            return guard("other_vault", message, "`espejo remote set` with the right address");
        }
        Place::Missing | Place::Empty if settings.initialised => {
            let message =
                "the mirror has no espejo.json (unmounted disk, wiped server?); your entries are safe here";
            let hint = "check the folder or address, or `espejo sync --reseed` to fill it again";
            return guard("mirror_gone", message.to_owned(), hint);
        }
        Place::Foreign(names) => {
            let shown = names.iter().take(3).map(|name| line(name, 60)).collect::<Vec<_>>().join(", ");
            let message =
                format!("the folder is no mirror and not empty ({shown} …); nothing in it was changed");
            return guard("foreign_folder", message, "name a new or empty folder: `espejo remote set …`");
        }
        Place::Newer => return Some(sync::Error::Newer.into()),
        Place::Damaged => {
            let message = "espejo.json on the mirror is damaged; your entries are safe here";
            return Some(
                Failure::new(Code::Integrity, "damaged", message).hint("`espejo sync` writes it again"),
            );
        }
        Place::Ours | Place::Missing | Place::Empty => {}
    }
    let failed = trial.steps.iter().find_map(|step| Some((step.verb, step.outcome.as_ref().err()?)))?;
    let (verb, error) = failed;
    let failure = Failure::from(error.clone());
    let message = format!("the mirror does not do {verb}: {}", failure.message);
    let hint = match failure.kind {
        "not_found_on_mirror" if told.is_nextcloud => {
            "the name the files are under may differ from the one that signs in: `espejo remote set` with the server's own address finds it".to_owned()
        }
        "forbidden" => "check that this user may write and delete there (a share that is read-only?)".to_owned(),
        "bad_answer" => "this server does not keep what it takes: use another one, or report it".to_owned(),
        _ => failure.hint.clone().unwrap_or_default(),
    };
    Some(Failure { message, ..failure }.hint(hint))
}
