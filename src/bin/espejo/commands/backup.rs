//! `backup` and `restore`: the vault in one file.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use espejo::format::backup::EXTENSION;
use espejo::host::ThisMachine;
use espejo::vault::{
    self, Backup as BackupFile, BackupPlan, BackupSummary, Contents, Difference, Differing, Made,
};
use serde_json::{Value, json};

use crate::args::{AutoBackup, Backup, Restore};
use crate::context::{Context, ThisVault, absolute, machine_name};
use crate::failure::{Code, Failure};
use crate::output::{self, count, line, size};
use crate::{secrets, when};

pub fn backup(context: &Context<'_>, command: &Backup) -> Result<(), Failure> {
    match command {
        Backup::Create { file } => create(context, file.as_deref()),
        Backup::List => list(context),
        Backup::Verify { file } => verify(context, file),
        Backup::Auto(args) => auto(context, args),
        Backup::Rewrap { file } => rewrap(context, file),
    }
}

/// The vault's name, and the directory beside it where its backups go if nothing else is said.
fn beside(context: &Context<'_>) -> Result<(String, PathBuf), Failure> {
    let vault = absolute(&context.vault_dir()?)?;
    let name = vault.file_name().map_or("vault".into(), |name| name.to_string_lossy().into_owned());
    let dir = vault.with_file_name(format!("{name}-backups"));
    Ok((name, dir))
}

fn create(context: &Context<'_>, file: Option<&Path>) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    let file = match file {
        Some(file) => absolute(file)?,
        None => {
            let (name, dir) = beside(context)?;
            make_dir(&dir)?;
            dir.join(format!("{name}-{}.{EXTENSION}", when::now_for_file_name()))
        }
    };
    require_outside(context, &file)?;
    let summary = vault.backup(&file)?;
    let lost = vault.known_corrupt();
    context.tell_findings(&mut vault);
    let json = json!({ "file": file, "objects": summary.objects, "bytes": summary.bytes, "verified": true, "lost": lost });
    context.output.result(&json, || format!("{}: {}, verified", file.display(), described(&summary)))?;
    nothing_lost(lost)
}

/// A backup cannot hold what its vault has lost: that is said with it.
fn nothing_lost(lost: u64) -> Result<(), Failure> {
    match lost {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Incomplete,
            "incomplete",
            format!(
                "the backup is whole but for {} that this vault has lost",
                count(n, "damaged file", "damaged files")
            ),
        )
        .hint("`espejo repair`, then make another one")),
    }
}

fn described(summary: &BackupSummary) -> String {
    format!("{}, {}", count(summary.objects, "object", "objects"), size(summary.bytes))
}

fn list(context: &Context<'_>) -> Result<(), Failure> {
    let vault = context.vault()?;
    let (_, dir) = beside(context)?;
    let mut found = Vec::new();
    let names = match std::fs::read_dir(&dir) {
        Ok(names) => names.flatten().map(|item| item.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::io("looking for backups", &error)),
    };
    for path in names.into_iter().filter(|path| path.extension().is_some_and(|it| it == EXTENSION)) {
        if let Ok(backup) = BackupFile::of_vault(&path, vault.keyring()) {
            found.push((backup.summary(), path));
        }
    }
    found.sort_by_key(|(summary, _)| std::cmp::Reverse(summary.created_at));
    let json = found.iter().map(|(it, path)| {
        json!({ "file": path, "created": when::rfc3339(it.created_at), "objects": it.objects, "bytes": it.bytes })
    });
    let json = json!({ "backups": json.collect::<Vec<_>>() });
    context.output.result(&json, || {
        let lines = found.iter().map(|(it, path)| {
            format!("{}  {}  {}\n", when::minute(it.created_at), described(it), path.display())
        });
        let text = lines.collect::<String>();
        if text.is_empty() {
            format!("no backups in {} (`espejo backup create`)", dir.display())
        } else {
            text
        }
    })
}

fn verify(context: &Context<'_>, file: &Path) -> Result<(), Failure> {
    let (backup, keyring) = open(context, file)?;
    let summary = backup.verify(&keyring)?;
    let json = json!({
        "file": file,
        "created": when::rfc3339(summary.created_at),
        "objects": summary.objects,
        "bytes": summary.bytes,
        "verified": true,
    });
    context.output.result(&json, || format!("{}: {}, all of it opens", file.display(), described(&summary)))
}

fn open(context: &Context<'_>, file: &Path) -> Result<(BackupFile, espejo::crypto::Keyring), Failure> {
    require_file(file)?;
    Ok(BackupFile::unlock(file, &secrets::unlock_secret(context.global)?)?)
}

/// Says in plain words that there is no such backup.
pub fn require_file(file: &Path) -> Result<(), Failure> {
    if file.exists() {
        return Ok(());
    }
    let message = format!("there is no backup {}", file.display());
    Err(Failure::new(Code::NotFound, "not_found", message).hint("`espejo backup list`"))
}

pub fn restore(context: &Context<'_>, args: &Restore) -> Result<(), Failure> {
    match &args.to {
        Some(to) if args.salvage => salvage_to(context, args, to),
        Some(to) => restore_to(context, args, to),
        None => restore_here(context, args),
    }
}

fn restore_to(context: &Context<'_>, args: &Restore, to: &Path) -> Result<(), Failure> {
    let (backup, keyring) = open(context, &args.file).map_err(may_be_salvaged)?;
    let to = absolute(to)?;
    let name = args.device_name.clone().unwrap_or_else(machine_name);
    let host = |path: &Path| ThisMachine::new(path);
    let summary =
        vault::restore(&backup, &keyring, &to, host, &name).map_err(|error| may_be_salvaged(error.into()))?;
    let json = json!({ "vault": to, "restored": summary.objects, "skipped": [], "damaged": [] });
    context.output.result(&json, || format!("{} restored to {}", described(&summary), to.display()))?;
    tell_no_mirror(context, &to);
    Ok(())
}

fn tell_no_mirror(context: &Context<'_>, to: &Path) {
    context.output.note(format_args!(
        "it is a device of its own and has no mirror yet: `espejo --vault {} remote set …`",
        shell_words::quote(&to.to_string_lossy())
    ));
}

fn may_be_salvaged(failure: Failure) -> Failure {
    match failure.kind {
        "backup_damaged" => {
            failure.hint("use another backup, or `--salvage` to take what is intact of this one")
        }
        _ => failure,
    }
}

fn salvage_to(context: &Context<'_>, args: &Restore, to: &Path) -> Result<(), Failure> {
    require_file(&args.file)?;
    let secret = secrets::unlock_secret(context.global)?;
    let (backup, keyring, index_lost) = BackupFile::unlock_damaged(&args.file, &secret)?;
    let to = absolute(to)?;
    let name = args.device_name.clone().unwrap_or_else(machine_name);
    let host = |path: &Path| ThisMachine::new(path);
    let restored = vault::salvage(&backup, &keyring, &to, host, &name)?;
    let incomplete = restored.incomplete.iter();
    let incomplete = incomplete.map(|(id, title)| json!({ "entry": id.to_string(), "title": title }));
    let json = json!({
        "vault": to,
        "restored": restored.objects,
        "skipped": [],
        "damaged": restored.damaged,
        "incomplete": incomplete.collect::<Vec<_>>(),
        "index_lost": index_lost,
    });
    context.output.result(&json, || {
        let mut text =
            format!("{} restored to {}", count(restored.objects, "object", "objects"), to.display());
        restored
            .damaged
            .iter()
            .for_each(|file| text.push_str(&format!("\ndamaged, left out: {}", line(file, 200))));
        for (id, title) in &restored.incomplete {
            text.push_str(&format!(
                "\nan attachment is lost: {} {}",
                espejo::event::short(*id),
                line(title, 80)
            ));
        }
        text
    })?;
    tell_no_mirror(context, &to);
    all_there(&restored.damaged, index_lost)
}

/// Says what was not in a damaged backup any more.
fn all_there(damaged: &[String], index_lost: bool) -> Result<(), Failure> {
    if damaged.is_empty() && !index_lost {
        return Ok(());
    }
    let lost = match index_lost {
        true => "its index is lost, so what else was in it cannot be told".to_owned(),
        false => format!("damaged: {}", count(damaged.len() as u64, "file", "files")),
    };
    Err(Failure::new(Code::Incomplete, "incomplete", format!("what is intact was restored; {lost}"))
        .hint("a sync with the mirror brings back what is missing"))
}

/// Brings what is in a backup into the vault there is.
fn restore_here(context: &Context<'_>, args: &Restore) -> Result<(), Failure> {
    require_file(&args.file)?;
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let (backup, index_lost) = if args.salvage {
            BackupFile::of_vault_damaged(&args.file, vault.keyring())?
        } else {
            let backup = BackupFile::of_vault(&args.file, vault.keyring());
            let verified = backup.and_then(|backup| backup.verify(vault.keyring()).map(|_| backup));
            (verified.map_err(|error| may_be_salvaged(error.into()))?, false)
        };
        let contents = Contents::read(&backup, vault.keyring());
        let wanted = args.entries.iter().map(|id| contents.find(id)).collect::<Result<BTreeSet<_>, _>>()?;
        let wanted = Some(wanted).filter(|wanted| !wanted.is_empty());
        let differing = vault.differing(&contents, wanted.as_ref())?;
        if args.dry_run {
            return tell_restored(context, &contents, &differing, 0, index_lost, true);
        }
        vault.merge(&backup, &contents, wanted.as_ref())?;
        let changed = match &wanted {
            Some(wanted) => vault.bring_back(&contents, wanted)?,
            None if args.as_new_versions => vault.go_back(&differing)?,
            // What was changed or deleted since stays so.
            None => differing.iter().filter(|it| comes_by_merging(it)).count() as u64,
        };
        vault.note_activity(Some("restore"), &[("restored", changed)], &[]);
        tell_restored(context, &contents, &differing, changed, index_lost, false)?;
        if wanted.is_none() && !args.as_new_versions && changed < differing.len() as u64 {
            context.output.note(
                "what was changed or deleted since the backup stays so: --entry ID or --as-new-versions goes back",
            );
        }
        all_there(&contents.damaged, index_lost)
    })
}

fn comes_by_merging(differing: &Differing) -> bool {
    matches!(differing.difference, Difference::Unknown | Difference::NewerThere)
}

fn tell_restored(
    context: &Context<'_>,
    contents: &Contents,
    differing: &[Differing],
    changed: u64,
    index_lost: bool,
    dry_run: bool,
) -> Result<(), Failure> {
    let word = |it: &Differing| match it.difference {
        Difference::Unknown => "unknown",
        Difference::DeletedSince => "deleted_since",
        Difference::ChangedSince => "changed_since",
        Difference::NewerThere => "newer_there",
    };
    let entries = differing.iter().map(|it| {
        json!({
            "id": it.entry.to_string(),
            "title": it.title,
            "updated": when::rfc3339(it.updated_at),
            "difference": word(it),
        })
    });
    let mut json = json!({
        "restored": changed,
        "skipped": [],
        "damaged": contents.damaged,
        "index_lost": index_lost,
        "entries": entries.collect::<Vec<_>>(),
    });
    if dry_run {
        json["dry_run"] = json!(true);
    }
    context.output.result(&json, || {
        let mut text = match (dry_run, differing.len() as u64) {
            (_, 0) => "nothing differs".to_owned(),
            (true, 1) => "1 entry differs".to_owned(),
            (true, n) => format!("{n} entries differ"),
            (false, _) => format!("{} brought back", count(changed, "entry", "entries")),
        };
        for it in differing.iter().filter(|_| dry_run || changed > 0) {
            let how = match it.difference {
                Difference::Unknown => "not in this vault",
                Difference::DeletedSince => "deleted since",
                Difference::ChangedSince => "changed since",
                Difference::NewerThere => "newer in the backup",
            };
            let id = espejo::event::short(it.entry);
            text.push_str(&format!(
                "\n{id}  {}  {} ({how})",
                when::minute(it.updated_at),
                line(&it.title, 80)
            ));
        }
        contents.damaged.iter().for_each(|file| text.push_str(&format!("\ndamaged: {}", line(file, 200))));
        text
    })
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    // Whoever may write there could take a backup away, or put another one in its place.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::io("making the directory", &error))
}

fn require_outside(context: &Context<'_>, path: &Path) -> Result<(), Failure> {
    match path.starts_with(absolute(&context.vault_dir()?)?) {
        true => Err(Failure::usage("a backup inside its vault would be lost with it; nothing was changed")
            .hint("without a name it goes into a directory beside the vault")),
        false => Ok(()),
    }
}

fn rewrap(context: &Context<'_>, file: &Path) -> Result<(), Failure> {
    require_file(file)?;
    let mut vault = context.vault()?;
    let summary = vault.rewrap(&absolute(file)?)?;
    let json = json!({ "file": file, "objects": summary.objects, "bytes": summary.bytes, "verified": true });
    context.output.result(&json, || {
        format!(
            "{}: opens with what opens this vault today; {}, verified",
            file.display(),
            described(&summary)
        )
    })?;
    context.output.note("copies of the old file open with the password of their day");
    Ok(())
}

fn auto(context: &Context<'_>, args: &AutoBackup) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    let Some(every) = args.every else {
        if args.off {
            vault.set_backup_plan(None)?;
            let json = json!({ "auto": null });
            return context
                .output
                .result(&json, || "no more automatic backups; those that are there stay".to_owned());
        }
        return make_now(context, &mut vault);
    };
    let (name, dir) = beside(context)?;
    let dir = match &args.to {
        Some(dir) => absolute(dir)?,
        None => dir,
    };
    require_outside(context, &dir)?;
    make_dir(&dir)?;
    let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
    let plan = BackupPlan { every_ms, keep: usize::from(args.keep), dir, name };
    vault.set_backup_plan(Some(&plan))?;
    make_now(context, &mut vault)
}

/// Makes the backup that is due, and says what there is.
fn make_now(context: &Context<'_>, vault: &mut ThisVault) -> Result<(), Failure> {
    let Some(plan) = vault.backup_plan()? else {
        return Err(
            Failure::usage("no automatic backups were asked for").hint("`espejo backup auto --every 1d`")
        );
    };
    let made = if vault.is_backup_due(&plan) { Some(vault.back_up(&plan)?) } else { None };
    let lost = vault.known_corrupt();
    context.tell_findings(vault);
    let every = when::every(plan.every_ms);
    let json = json!({
        "auto": { "every_ms": plan.every_ms, "keep": plan.keep, "dir": plan.dir },
        "made": made.as_ref().map(|made| {
            let mut json = made_json(made);
            json["lost"] = json!(lost);
            json
        }),
    });
    context.output.result(&json, || {
        let plan = format!("every {every} into {}, the newest {} kept", plan.dir.display(), plan.keep);
        match &made {
            None => format!("{plan}\nnone is due"),
            Some(made) if made.unchanged => {
                format!("{plan}\n{}: nothing changed since; read again, all of it opens", made.file.display())
            }
            Some(made) => format!("{plan}\n{}: {}, verified", made.file.display(), described(&made.summary)),
        }
    })?;
    nothing_lost(if made.is_some() { lost } else { 0 })
}

/// An automatic backup, as programs read it.
pub fn made_json(made: &Made) -> Value {
    json!({
        "file": made.file,
        "objects": made.summary.objects,
        "bytes": made.summary.bytes,
        "verified": true,
        "unchanged": made.unchanged,
        "removed": made.removed,
    })
}

/// The plan of the backup that is due now, if one is.
pub fn backup_due(vault: &ThisVault) -> Result<Option<BackupPlan>, vault::Error> {
    Ok(vault.backup_plan()?.filter(|plan| vault.is_backup_due(plan)))
}

/// After any other command: makes the backup that is due, if that was asked for. What the command did is done; that this
/// fails is said aloud, and again by `status`.
pub fn make_if_due(context: &Context<'_>) {
    let Some(mut vault) = context.vault_again() else { return };
    let made = match backup_due(&vault) {
        Ok(None) => return,
        Ok(Some(plan)) => {
            context.output.note("making the backup that is due…");
            vault.back_up(&plan)
        }
        Err(error) => Err(error),
    };
    let lost = vault.known_corrupt();
    context.tell_findings(&mut vault);
    match made {
        Ok(_) => {
            if let Err(incomplete) = nothing_lost(lost) {
                output::warn(incomplete.message);
            }
        }
        // Another process is at it.
        Err(vault::Error::Busy) => {}
        Err(error) => {
            output::warn(format_args!("the automatic backup failed: {}", Failure::from(error).message));
        }
    }
}
