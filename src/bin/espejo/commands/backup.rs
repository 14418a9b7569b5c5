//! `backup` and `restore`: the vault in one file.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use espejo::host::ThisMachine;
use espejo::vault::{self, Backup as BackupFile, BackupSummary};
use serde_json::json;

use crate::args::{Backup, Restore};
use crate::context::{Context, absolute, machine_name};
use crate::failure::{Code, Failure};
use crate::output::{count, size};
use crate::{secrets, when};

const EXTENSION: &str = "tar";

pub fn backup(context: &Context<'_>, command: &Backup) -> Result<(), Failure> {
    match command {
        Backup::Create { file } => create(context, file.as_deref()),
        Backup::List => list(context),
        Backup::Verify { file } => verify(context, file),
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
            // Whoever may write there could take a backup away, or put another one in its place.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|error| Failure::io("making the directory", &error))?;
            dir.join(format!("{name}-{}.{EXTENSION}", when::now_for_file_name()))
        }
    };
    if file.starts_with(absolute(&context.vault_dir()?)?) {
        return Err(Failure::usage("a backup inside its vault would be lost with it; nothing was changed"));
    }
    let summary = vault.backup(&file)?;
    let lost = vault.known_corrupt();
    context.tell_findings(&mut vault);
    let json = json!({ "file": file, "objects": summary.objects, "bytes": summary.bytes, "verified": true, "lost": lost });
    context.output.result(&json, || format!("{}: {}, verified", file.display(), described(&summary)))?;
    match lost {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Incomplete,
            "incomplete",
            format!("the backup is whole but for {n} damaged files that this vault has lost"),
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
    let (backup, keyring) = open(context, &args.file)?;
    let to = absolute(&args.to)?;
    let name = args.device_name.clone().unwrap_or_else(machine_name);
    let host = |path: &Path| ThisMachine::new(path);
    let summary = vault::restore(&backup, &keyring, &to, host, &name)?;
    let json = json!({ "vault": to, "restored": summary.objects, "skipped": [], "damaged": [] });
    context.output.result(&json, || format!("{} restored to {}", described(&summary), to.display()))?;
    context.output.note(format_args!(
        "it is a device of its own and has no mirror yet: `espejo --vault {} remote set …`",
        shell_words::quote(&to.to_string_lossy())
    ));
    Ok(())
}
