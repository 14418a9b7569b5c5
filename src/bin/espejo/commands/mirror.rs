//! `sync` and `remote`.

use std::path::Path;
use std::time::{Duration, Instant};

use espejo::event::Finding;
use espejo::format::marker::MARKER_NAME;
use espejo::host::ThisMachine;
use espejo::remote::nextcloud::Link;
use espejo::remote::{Listing, Remote as _, RemoteErrorKind, RemotePath, Target};
use espejo::sync::{self, Options, Report};
use espejo::vault::{self, Status, Store, Unattended};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::remote_test;
use crate::args::{Remote, RemoteSet, SignIn, Sync};
use crate::context::{Context, Opening, ThisRemote, ThisVault, absolute, remote};
use crate::failure::{Code, Failure};
use crate::output::{Collector, count, size, warn, warnings};
use crate::progress::Bar;
use crate::{runtime, sign_in};

/// A finished sync.
pub struct Done {
    pub report: Report,
    pub findings: Vec<Finding>,
    pub took: Duration,
    /// Damaged or missing files here that could not be repaired.
    pub corrupt: u64,
    /// The vault stayed locked: what arrived has not been read.
    pub is_locked: bool,
}

impl Done {
    pub fn json(&self) -> Value {
        let report = &self.report;
        let mut json = json!({
            "pushed": report.pushed,
            "pulled": report.pulled,
            "conflicts": report.conflicts,
            "pending": report.pending,
            "repaired": report.repaired,
            "retired": report.retired,
            "requests": report.requests,
            "bytes_up": report.bytes_up,
            "bytes_down": report.bytes_down,
            "duration_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "warnings": warnings(&self.findings),
        });
        if report.dry_run {
            json["dry_run"] = json!(true);
        }
        if self.is_locked {
            json["locked"] = json!(true);
        }
        json
    }

    /// The exit code that follows.
    pub fn verdict(&self) -> Result<(), Failure> {
        if self.corrupt > 0 {
            return Err(Failure::new(
                Code::Integrity,
                "damaged",
                format!("{} damaged files could not be repaired from the mirror", self.corrupt),
            )
            .hint("`espejo check` names them; another device that has them repairs the mirror with `espejo sync --full`"));
        }
        if !self.report.is_settled() {
            return Err(Failure::silent(Code::Incomplete));
        }
        Ok(())
    }
}

/// Syncs, and stops between two steps if the person says so.
pub fn run_sync(
    runtime: &Runtime,
    vault: &mut ThisVault,
    mirror: &ThisRemote,
    options: Options,
    bar: Bar,
) -> Result<Done, Failure> {
    let mut collector = Collector::new(bar);
    let start = Instant::now();
    let work = async { sync::sync(vault, mirror, options, &mut collector).await.map_err(Failure::from) };
    let result = runtime.block_on(until_interrupted(work));
    let mut findings = collector.into_findings();
    findings.extend(vault.take_findings());
    let report = match result {
        Ok(report) => report,
        Err(failure) => {
            findings.iter().for_each(warn);
            return Err(failure);
        }
    };
    let corrupt = vault.known_corrupt();
    if !report.dry_run {
        note_sync(vault, &report, &findings);
    }
    Ok(Done { report, findings, took: start.elapsed(), corrupt, is_locked: false })
}

/// Notes a sync for whoever looks back. One that found nothing to do happens all day, and is not worth a line.
pub fn note_sync(vault: &ThisVault, report: &Report, findings: &[Finding]) {
    let did_something = !report.is_idle() || report.retired > 0;
    let numbers = [
        ("pushed", report.pushed),
        ("pulled", report.pulled),
        ("conflicts", report.conflicts),
        ("pending", report.pending),
        ("repaired", report.repaired),
        ("retired", report.retired),
    ];
    vault.note_activity(did_something.then_some("sync"), &numbers, findings);
}

/// Stops between two steps if the person says so.
async fn until_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // Heard from here on, not only from the first pause of the work.
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(|error| Failure::io("listening for Ctrl-C", &error))?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => {
            let message = "stopped; what was transferred stays, the next sync goes on from there";
            Err(Failure::new(Code::Interrupted, "interrupted", message))
        }
    }
}

/// `synced: 12 up, 0 down, 0 conflicts · 14 requests · 48 KB · 0.8 s`
pub fn summary(report: &Report, took: Duration) -> String {
    let requests = count(report.requests, "request", "requests");
    if report.is_idle() && report.retired == 0 && report.is_settled() && !report.dry_run {
        return format!("up to date ({requests})");
    }
    let verb = if report.dry_run { "would sync" } else { "synced" };
    let mut text = format!(
        "{verb}: {} up, {} down, {}",
        report.pushed,
        report.pulled,
        count(report.conflicts, "conflict", "conflicts")
    );
    for (count, word) in [
        (report.repaired, "repaired"),
        (report.retired, "retired"),
        (report.pending, "pending"),
        (report.unsent, "waiting"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    let bytes = size(report.bytes_up + report.bytes_down);
    format!("{text} · {requests} · {bytes} · {:.1} s", took.as_secs_f64())
}

/// How long a command waits for a watch that is syncing: most of its rounds take less, a first upload does not.
const WATCH_PATIENCE: Duration = Duration::from_mins(1);

/// The lock of syncs. A watch takes it again and again, and may keep it for as long as it transfers something.
fn sync_lock<S: Store>(context: &Context<'_>, vault: &S) -> Result<impl Sized + use<S>, Failure> {
    let start = Instant::now();
    let mut is_said = false;
    loop {
        let error = match vault.sync_lock() {
            Ok(lock) => return Ok(lock),
            Err(error) => error,
        };
        let is_watch = matches!(error, vault::Error::Busy) && context.locked()?.is_watched();
        if is_watch && start.elapsed() < WATCH_PATIENCE {
            if !std::mem::replace(&mut is_said, true) {
                context.output.note("waiting for `espejo watch`, which is transferring something…");
            }
        } else if is_watch {
            let message = "`espejo watch` has been transferring something for a minute and goes on; nothing was changed";
            return Err(Failure::new(Code::Busy, "busy", message)
                .hint("wait for it, or end it: what it sent stays, and the next sync goes on from there"));
        } else {
            return Err(error.into());
        }
    }
}

pub fn sync(context: &Context<'_>, args: &Sync) -> Result<(), Failure> {
    // What looks closer, and what decides, takes all the keys.
    let is_plain = !(args.dry_run || args.accept_deletes || args.reseed || args.full);
    let mut vault = match is_plain {
        true => match context.opening()? {
            Opening::BySecret(vault) | Opening::BySession(vault) => vault,
            Opening::Locked(vault) => return sync_locked(context, vault),
        },
        false => context.vault()?,
    };
    // The engine takes it by itself; this waits longer.
    drop(sync_lock(context, &vault)?);
    let settings = vault.remote_settings()?.ok_or(sync::Error::NoRemote)?;
    let mirror = remote(&settings)?;
    let options = Options {
        dry_run: args.dry_run,
        accept_deletes: args.accept_deletes,
        reseed: args.reseed,
        full: args.full,
        ..Options::default()
    };
    let done = run_sync(&runtime()?, &mut vault, &mirror, options, Bar::new(context.output))?;
    context.output.warn_all(&done.findings);
    context.output.result(&done.json(), || summary(&done.report, done.took))?;
    if done.report.conflicts > 0 {
        context.output.note("`espejo conflicts` lists what was changed on two devices at once");
    }
    done.verdict()
}

fn sync_locked(context: &Context<'_>, mut vault: Unattended<ThisMachine>) -> Result<(), Failure> {
    drop(sync_lock(context, &vault)?);
    let mirror = remote(vault.remote_settings())?;
    let done = {
        let corrupt = vault.known_corrupt();
        let mut collector = Collector::new(Bar::new(context.output));
        let start = Instant::now();
        let work =
            async { sync::sync_locked(&mut vault, &mirror, &mut collector).await.map_err(Failure::from) };
        let result = runtime()?.block_on(until_interrupted(work));
        let findings = collector.into_findings();
        let report = result.inspect_err(|_| findings.iter().for_each(warn))?;
        Done { report, findings, took: start.elapsed(), corrupt, is_locked: true }
    };
    context.output.warn_all(&done.findings);
    context.output.result(&done.json(), || summary(&done.report, done.took))?;
    if done.report.pulled > 0 {
        context.output.note("the vault is locked; what arrived is read when it is opened next");
    }
    done.verdict()
}

pub fn remote_command(context: &Context<'_>, command: &Remote) -> Result<(), Failure> {
    match command {
        Remote::Set(args) => set(context, args),
        Remote::Show => show(context),
        Remote::Test => remote_test::test(context),
        Remote::Forget => forget(context),
    }
}

/// A mirror inside its vault would hold itself; a vault inside its mirror would be in everybody's way there.
pub fn refuse_nested(vault_dir: &Path, target: &str) -> Result<(), Failure> {
    let Target::Folder(path) = Target::parse(target)? else { return Ok(()) };
    let path = absolute(&path)?;
    match path.starts_with(vault_dir) || vault_dir.starts_with(&path) {
        true => Err(Failure::usage("vault and mirror must not lie inside each other; nothing was changed")
            .hint("name a directory beside the vault, on another disk or on a server")),
        false => Ok(()),
    }
}

fn set(context: &Context<'_>, args: &RemoteSet) -> Result<(), Failure> {
    let vault = match &args.target {
        Some(target) => set_target(context, target, &args.sign_in)?,
        None => {
            let vault = context.vault()?;
            let settings = vault.remote_settings()?.ok_or(sync::Error::NoRemote)?;
            let json =
                json!({ "target": settings.target, "user": settings.user, "unattended": args.unattended });
            context.output.result(&json, || format!("the mirror is {}", settings.target))?;
            vault
        }
    };
    set_unattended(context, vault, args)
}

/// Whether the vault is mirrored while it is locked.
fn set_unattended(context: &Context<'_>, mut vault: ThisVault, args: &RemoteSet) -> Result<(), Failure> {
    if args.unattended || args.no_unattended {
        vault.set_unattended(args.unattended)?;
    }
    if args.unattended {
        context.output.note(
            "`sync` and `watch` mirror this vault without its password from now on: the keys of its feeds and the way to the mirror are kept in local/unattended. \
             Whoever reads these files sees how many entries there are and when they changed, and can log in to the mirror; what is in the entries stays locked",
        );
    }
    if vault.remote_settings()?.is_some_and(|settings| !settings.initialised) {
        context.output.note("next: espejo sync");
    }
    Ok(())
}

fn set_target(context: &Context<'_>, target: &str, login: &SignIn) -> Result<ThisVault, Failure> {
    let vault_dir = absolute(&context.vault_dir()?)?;
    match sign_in::is_server(target) {
        true => drop(Link::read(target)?),
        false => refuse_nested(&vault_dir, target)?,
    }
    let runtime = runtime()?;
    let mut vault = context.vault()?;
    let mut found = sign_in::find_mirror(context.global, &runtime, target, login)?;
    // Checks address and certificate authority.
    let mirror = remote(&found.settings)?;
    // What a sync stores on one mirror must not be taken for stored on another.
    let _no_sync = sync_lock(context, &vault)?;
    let settings = &mut found.settings;
    // Damaged settings are what this puts right.
    if let Ok(Some(before)) = vault.remote_settings() {
        settings.initialised = before.initialised && before.target == settings.target;
    }
    vault.set_remote(settings)?;
    vault.note_activity(Some("mirror_set"), &[], &[]);
    let server = found.server.as_ref();
    let json = json!({
        "target": settings.target,
        "user": settings.user,
        "server": server.map(|it| json!({ "product": it.product, "version": it.version })),
    });
    let which = server.map_or_else(String::new, |it| format!(" ({} {})", it.product, it.version));
    context.output.result(&json, || format!("the mirror is {}{which}", settings.target))?;
    if found.is_unknown {
        look_once(&runtime, &mirror, &settings.target);
    }
    Ok(vault)
}

/// Says what is at an address that is no Nextcloud's, if it is not what a mirror can be made of.
fn look_once(runtime: &Runtime, mirror: &ThisRemote, target: &str) {
    match runtime.block_on(mirror.inner().list(&RemotePath::root())) {
        Ok(listing) if state_of(listing.as_ref()) == "foreign" => {
            warn(format_args!(
                "{target} holds other files, and a sync will not touch it: name a new or empty folder"
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind == RemoteErrorKind::Unauthorized => warn(format_args!(
            "{target} refuses this user or password. The address is set all the same; give it again with the right ones"
        )),
        Err(error) => warn(format_args!(
            "{target} is no Nextcloud, and as a WebDAV server it does not do yet: {error}. It is set all the same; `espejo remote test` looks closer"
        )),
    }
}

fn show(context: &Context<'_>) -> Result<(), Failure> {
    let locked = context.locked()?;
    let Status { target, last_sync, .. } = locked.status();
    let target = target.ok_or(sync::Error::NoRemote)?;
    let unattended = locked.is_unattended();
    let last_sync_json = last_sync.map(crate::when::rfc3339);
    let json = json!({ "target": target, "last_sync": last_sync_json, "unattended": unattended });
    context.output.result(&json, || {
        let last = last_sync
            .map_or_else(|| "never synced".to_owned(), |ms| format!("synced {}", crate::when::minute(ms)));
        let unattended = if unattended { ", also while the vault is locked" } else { "" };
        format!("{target} ({last}{unattended})")
    })
}

/// What a listing of the mirror's top shows: nothing at all, a mirror, nothing in it, or something else.
pub fn state_of(listing: Option<&Listing>) -> &'static str {
    match listing {
        None => "missing",
        Some(listing) if listing.items.iter().any(|item| item.name == MARKER_NAME) => "mirror",
        Some(listing) if listing.items.is_empty() => "empty",
        Some(_) => "foreign",
    }
}

fn forget(context: &Context<'_>) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    let target = match vault.remote_settings() {
        Ok(settings) => settings.ok_or(sync::Error::NoRemote)?.target.clone(),
        Err(vault::Error::StateDamaged { .. }) => "the mirror".to_owned(),
        Err(error) => return Err(error.into()),
    };
    let _no_sync = sync_lock(context, &vault)?;
    vault.forget_remote()?;
    vault.note_activity(Some("mirror_forgotten"), &[], &[]);
    let json = json!({ "forgotten": target });
    context.output.result(&json, || format!("{target} is forgotten here; nothing on it was touched"))
}
