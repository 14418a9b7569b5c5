//! `init` and `clone`: a vault where there was none.

use std::path::{Path, PathBuf};

use espejo::format::invitation::is_invitation;
use espejo::host::ThisMachine;
use espejo::sync;
use espejo::vault::{self, NewVault};
use serde_json::json;

use super::mirror::{refuse_nested, run_sync, summary};
use super::title_or_placeholder;
use crate::args::{CloneArgs, Init};
use crate::context::{Context, ThisVault, absolute, machine_name, remote};
use crate::failure::Failure;
use crate::output::{count, line};
use crate::progress::Bar;
use crate::{invite, recovery, runtime, secrets, sign_in, when};

/// As many entries are shown to whoever joins.
const SHOWN_ON_ARRIVAL: usize = 5;

pub fn init(context: &Context<'_>, args: &Init) -> Result<(), Failure> {
    let dir = args.dir.clone().or_else(|| context.global.vault.clone()).unwrap_or_else(|| PathBuf::from("."));
    let dir = absolute(&dir)?;
    require_usable(&dir)?;
    if let Some(out) = &args.recovery_out {
        recovery::check_out(out, &dir, None)?;
    }
    let password = secrets::new_password(context.global, &args.new_password, true, args.allow_weak_password)?;
    let shows =
        args.recovery_out.is_none() && !args.no_recovery && secrets::is_somebody_there(context.global);
    let recovery = args.recovery_out.is_some() || shows;
    let new = NewVault {
        password,
        recovery,
        device_name: args.device_name.clone().unwrap_or_else(machine_name),
        iterations: vault::measure_iterations(),
    };
    let created = vault::create(ThisMachine::new(&dir), &new)?;
    let mut confirmed = Ok(());
    if let Some(secret) = &created.recovery {
        let words = recovery::words(secret);
        match &args.recovery_out {
            Some(out) => recovery::write(out, &words)?,
            None => confirmed = secrets::show_words(context.global, &words),
        }
    }
    let json = json!({
        "vault": dir,
        "vault_id": created.vault.id().to_string(),
        "device_id": created.vault.device().id.to_string(),
    });
    let out = context.output;
    out.result(&json, || format!("new vault in {}", dir.display()))?;
    match &args.recovery_out {
        Some(file) => out.note(format_args!(
            "the recovery key is in {}: print it and keep it away from this machine",
            file.display()
        )),
        None if !recovery && !args.no_recovery => out.note(
            "no recovery key was made: if the password is forgotten, nothing opens this vault (`espejo recovery new`)",
        ),
        None => {}
    }
    let vault = shell_words::quote(&dir.to_string_lossy()).into_owned();
    out.note(format_args!("next: espejo --vault {vault} add -m \"a first thought\""));
    confirmed.map_err(|failure: Failure| {
        let message = format!("{}; the vault was made all the same", failure.message);
        Failure { message, ..failure }.hint(format!("`espejo --vault {vault} recovery new` shows new words"))
    })
}

/// Says early, and in the words of the mistake, why there can be no vault here.
fn require_usable(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(Failure::usage(format!("{} is a file, not a directory", dir.display()))
                .hint("name a new or empty directory"))
        }
        Err(error) => Err(Failure::io(&format!("looking into {}", dir.display()), &error)),
    }
}

pub fn clone(context: &Context<'_>, args: &CloneArgs) -> Result<(), Failure> {
    let runtime = runtime()?;
    let invitation = is_invitation(&args.remote).then(|| invite::read(&args.remote)).transpose()?;
    let found = match &invitation {
        Some(it) => {
            let sign_in = invite::signs_in(it, &args.sign_in);
            sign_in::find_mirror(context.global, &runtime, &it.target, &sign_in)
        }
        None => sign_in::find_mirror(context.global, &runtime, &args.remote, &args.sign_in),
    };
    let mut settings = found?.settings;
    let dir = match args.dir.clone().or_else(|| context.global.vault.clone()) {
        Some(dir) => dir,
        None => PathBuf::from(last_name(&settings.target)),
    };
    let dir = absolute(&dir)?;
    require_usable(&dir)?;
    refuse_nested(&dir, &settings.target)?;
    let mirror = remote(&settings)?;
    let introduction = runtime.block_on(sync::introduce(&mirror))?;
    if let Some(invitation) = &invitation {
        invite::require_invited(invitation, introduction.vault)?;
    }
    let secret = secrets::unlock_secret(context.global)?;
    let name = args.device_name.clone().unwrap_or_else(machine_name);
    let host = ThisMachine::new(&dir);
    let mut vault =
        vault::create_from_mirror(host, introduction.vault, &introduction.key_files, &secret, &name)?;
    settings.initialised = true;
    vault.set_remote(&settings)?;
    vault.note_activity(Some("joined"), &[], &[]);
    let done = run_sync(&runtime, &mut vault, &mirror, sync::Options::default(), Bar::new(context.output))?;
    let mut json = done.json();
    json["vault"] = json!(dir);
    json["vault_id"] = json!(vault.id().to_string());
    json["device_id"] = json!(vault.device().id.to_string());
    let entries = vault.manifest()?.counts().entries;
    let newest = if invitation.is_some() { newest(&mut vault)? } else { String::new() };
    context.output.warn_all(&done.findings);
    context.output.result(&json, || {
        let entries = count(entries, "entry is", "entries are");
        format!("{entries} now in {} ({})\n{newest}", dir.display(), summary(&done.report, done.took))
    })?;
    done.verdict()
}

/// The first of what arrived, to be recognised by whoever joined.
fn newest(vault: &mut ThisVault) -> Result<String, Failure> {
    let entries = vault.entries()?;
    let shown = entries.iter().filter(|entry| !entry.deleted()).take(SHOWN_ON_ARRIVAL);
    let lines = shown.map(|entry| {
        let (day, title) = (when::minute(entry.summary.created), line(title_or_placeholder(entry), 60));
        format!("  {day}  {title}\n")
    });
    Ok(lines.collect())
}

fn last_name(target: &str) -> String {
    let name = target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let plain = name.chars().all(|c| c.is_alphanumeric() || "-_. ".contains(c)) && !name.starts_with('.');
    if plain && !name.is_empty() { name.to_owned() } else { "journal".to_owned() }
}
