//! `passwd`, `recovery`, `rekey`, `unlock` and `lock`: what opens the vault.

use std::path::Path;

use espejo::format::keyfile::{KeyFile, Secret};
use espejo::vault;
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::{Passwd, Recovery, Rekey, Unlock};
use crate::context::{Context, ThisVault, absolute, folder_mirror};
use crate::failure::Failure;
use crate::{recovery, secrets, session, when};

/// What a change does not do.
const OLD_COPIES: &str = "an old key file with its old password still opens what was copied before: what a server kept of it, \
                          and backups, which open with the password of their day (`espejo backup rewrap FILE`)";

pub fn passwd(context: &Context<'_>, args: &Passwd) -> Result<(), Failure> {
    let mut vault = context.vault_by_secret(context.locked()?)?;
    let new = secrets::new_password(context.global, &args.new_password, false, args.allow_weak_password)?;
    let key_file = vault.change_password(&new, vault::measure_iterations())?;
    vault.note_activity(Some("password"), &[], &[]);
    let iterations = key_file.password().map_or(0, |slot| slot.iterations);
    let json = json!({ "generation": key_file.generation, "iterations": iterations, "mirrored": is_mirrored(&vault)? });
    context.output.result(&json, || "the password is changed".to_owned())?;
    tell_others(context, &vault)?;
    context.output.note(OLD_COPIES);
    Ok(())
}

/// Whether there is a mirror, through which other devices learn of it.
fn is_mirrored(vault: &ThisVault) -> Result<bool, Failure> {
    Ok(vault.remote_settings()?.is_some())
}

fn tell_others(context: &Context<'_>, vault: &ThisVault) -> Result<(), Failure> {
    if is_mirrored(vault)? {
        context.output.note("other devices take it over when they sync; until then the old one opens them (next: espejo sync)");
    }
    Ok(())
}

pub fn recovery(context: &Context<'_>, command: &Recovery) -> Result<(), Failure> {
    match command {
        Recovery::New { recovery_out } => new(context, recovery_out.as_deref()),
        Recovery::Verify => verify(context),
    }
}

fn new(context: &Context<'_>, out: Option<&Path>) -> Result<(), Failure> {
    require_reader(context, out)?;
    let mut vault = context.vault_by_secret(context.locked()?)?;
    let secret = hand_out_words(context, &vault, out)?;
    let key_file: KeyFile = vault.change_recovery(&secret).inspect_err(|_| take_words_back(out))?;
    vault.note_activity(Some("recovery_key"), &[], &[]);
    let json = json!({ "generation": key_file.generation, "file": out, "mirrored": is_mirrored(&vault)? });
    context.output.result(&json, || match out {
        Some(out) => format!("the new recovery key is in {}", out.display()),
        None => "the new words open this vault".to_owned(),
    })?;
    tell_others(context, &vault)?;
    context.output.note(OLD_COPIES);
    Ok(())
}

fn require_reader(context: &Context<'_>, out: Option<&Path>) -> Result<(), Failure> {
    match out.is_some() || secrets::is_somebody_there(context.global) {
        true => Ok(()),
        false => Err(Failure::usage("there is nobody to show the words to; nothing was changed")
            .hint("--recovery-out FILE writes them to a new file")),
    }
}

/// Makes new words and gives them to the person: they are written down before the old ones are worth nothing.
fn hand_out_words(
    context: &Context<'_>,
    vault: &ThisVault,
    out: Option<&Path>,
) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let secret = recovery::secret()?;
    let words = recovery::words(&secret);
    match out {
        Some(out) => {
            recovery::check_out(out, &absolute(&context.vault_dir()?)?, folder_mirror(vault)?.as_deref())?;
            recovery::write(out, &words)?;
        }
        None => secrets::show_words(context.global, &words).map_err(|failure| {
            let message = format!("{}; nothing was changed", failure.message);
            Failure { message, ..failure }.hint("try again: other words are shown")
        })?,
    }
    Ok(secret)
}

/// Words that open nothing would mislead.
fn take_words_back(out: Option<&Path>) {
    if let Some(out) = out {
        let _ = std::fs::remove_file(out);
    }
}

pub fn rekey(context: &Context<'_>, args: &Rekey) -> Result<(), Failure> {
    let out = args.recovery_out.as_deref();
    if !args.no_recovery {
        require_reader(context, out)?;
    }
    let mut vault = context.vault_by_secret(context.locked()?)?;
    let new = secrets::new_password(context.global, &args.new_password, false, args.allow_weak_password)?;
    let mut given = vec![Secret::Password(new)];
    if !args.no_recovery {
        given.push(Secret::Recovery(hand_out_words(context, &vault, out)?));
    }
    let key_file = vault.rekey(&given, vault::measure_iterations()).inspect_err(|_| take_words_back(out))?;
    vault.note_activity(Some("rekey"), &[], &[]);
    let json = json!({
        "epoch": key_file.epoch,
        "generation": key_file.generation,
        "file": out,
        "mirrored": is_mirrored(&vault)?,
    });
    context.output.result(&json, || "this vault has a new master key".to_owned())?;
    if is_mirrored(&vault)? {
        context.output.note(
            "the others are told at your next sync, and ask once for the new password (next: espejo sync)",
        );
    }
    context.output.note(
        "who has a copy of the old key can still read what was written before, wherever that was copied; nothing that comes after",
    );
    Ok(())
}

fn verify(context: &Context<'_>) -> Result<(), Failure> {
    let locked = context.locked()?;
    let words = secrets::recovery_words(context.global)?;
    locked.unlock(&Secret::Recovery(words))?;
    context.output.result(&json!({ "opens": true }), || "these words open this vault".to_owned())
}

pub fn unlock(context: &Context<'_>, args: &Unlock) -> Result<(), Failure> {
    let vault = context.vault_by_secret(context.locked()?)?;
    let until_ms = session::begin(&context.locked()?, &vault, args.lasting)?;
    let json = json!({ "until": when::rfc3339(until_ms) });
    context.output.result(&json, || format!("open until {}", when::minute(until_ms)))?;
    context.output.note("`espejo lock` ends it at once");
    Ok(())
}

pub fn lock(context: &Context<'_>) -> Result<(), Failure> {
    let was_open = session::end(&context.locked()?)?;
    context.output.result(&json!({ "locked": true, "was_open": was_open }), || {
        if was_open { "locked".to_owned() } else { "it was locked already".to_owned() }
    })
}
