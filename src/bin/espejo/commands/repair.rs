//! `repair`: damage made good, and said in the words of the entry it happened to.

use espejo::event::short;
use espejo::id::EntryId;
use espejo::sync::{self, RepairOptions, RepairReport, Repaired, Reverted, Source, Thing, Unrepaired};
use espejo::vault::{self, Backup};
use serde_json::{Value, json};

use super::backup::require_file;
use super::entry_name;
use super::health::file_fix;
use crate::args::{From, Repair};
use crate::context::{Context, ThisVault, remote, remote_settings};
use crate::failure::{Code, Failure};
use crate::output::{Collector, line};
use crate::progress::Bar;
use crate::{runtime, secrets, when};

pub fn repair(context: &Context<'_>, args: &Repair) -> Result<(), Failure> {
    let mut vault = open(context, args)?;
    let asked = |from: &From| args.from.contains(from);
    let options = RepairOptions {
        dry_run: args.dry_run,
        // What exists on the mirror is not lost: it must be asked before an older version takes its place.
        needs_mirror: asked(&From::Remote) || asked(&From::History),
        revert: asked(&From::History),
    };
    let mut files = args.from.iter().filter_map(|from| match from {
        From::Backup(file) => Some(file),
        _ => None,
    });
    let open = |file| {
        require_file(file)?;
        Ok::<_, Failure>(Backup::of_vault(file, vault.keyring())?)
    };
    let backup = files.next().map(|file| open(file)).transpose()?;
    if files.next().is_some() {
        return Err(Failure::usage("one backup at a time; nothing was changed"));
    }
    let settings = match vault.remote_settings() {
        Ok(settings) => settings.filter(|_| options.needs_mirror || args.from.is_empty()),
        // The report names them.
        Err(vault::Error::StateDamaged { .. }) if !options.needs_mirror => None,
        Err(error) => return Err(error.into()),
    };
    if settings.is_none() && asked(&From::Remote) {
        return Err(sync::Error::NoRemote.into());
    }
    let mirror = settings.as_ref().map(remote).transpose()?;
    let mut collector = Collector::new(Bar::new(context.output));
    let work = sync::repair(&mut vault, mirror.as_ref(), backup.as_ref(), options, &mut collector);
    let report = runtime()?.block_on(work)?;
    context.output.warn_all(&collector.into_findings());
    let (repaired, unrepaired) = (report.repaired.len() as u64, report.unrepaired.len() as u64);
    if !args.dry_run && repaired + unrepaired > 0 {
        vault.note_activity(Some("repair"), &[("repaired", repaired), ("unrepaired", unrepaired)], &[]);
    }
    let json = to_json(&mut vault, &report, args.dry_run);
    let text = describe(&mut vault, &report, args.dry_run)?;
    context.output.result(&json, || text)?;
    match report.unrepaired.len() {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Integrity,
            "unrepaired",
            format!("{n} damaged files could not be repaired"),
        )
        .hint("`espejo repair --from backup=FILE`, or `espejo repair` on another device")),
    }
}

/// The vault; if its key file is of no use, with one from the mirror or the backup.
fn open(context: &Context<'_>, args: &Repair) -> Result<ThisVault, Failure> {
    use vault::Error as E;
    let secret = secrets::unlock_secret(context.global)?;
    let error = match context.unlock(context.locked()?, &secret) {
        Err(error @ (E::Key { .. } | E::KeyFileMissing | E::KeyFileOfAnotherVault)) if !args.dry_run => error,
        opened => return Ok(opened?),
    };
    let offered = key_files(context, args)?;
    if offered.is_empty() {
        return Err(error.into());
    }
    context.locked()?.take_back_key(&offered, &secret)?;
    let vault = context.unlock(context.locked()?, &secret)?;
    context.output.note("the key file was put back");
    Ok(vault)
}

/// Key files from where the person said. Without the key the mirror's login cannot be read, only its address.
fn key_files(context: &Context<'_>, args: &Repair) -> Result<Vec<Vec<u8>>, Failure> {
    let mut offered = Vec::new();
    for from in &args.from {
        if let From::Backup(file) = from {
            require_file(file)?;
            offered.extend(Backup::key_files(file)?);
        }
    }
    let asked = args.from.contains(&From::Remote);
    if asked || args.from.is_empty() {
        let introduced = introduced(context, args);
        // Nobody asked for the mirror; the key file's own error says more.
        if asked || introduced.is_ok() {
            offered.extend(introduced?);
        }
    }
    Ok(offered)
}

fn introduced(context: &Context<'_>, args: &Repair) -> Result<Vec<Vec<u8>>, Failure> {
    let target = context.locked()?.status().target.ok_or(sync::Error::NoRemote)?;
    let settings = remote_settings(context.global, &target, &args.login)?;
    let introduction = runtime()?.block_on(sync::introduce(&remote(&settings)?));
    introduction.map(|introduction| introduction.key_files).map_err(|error| {
        let failure = Failure::from(error);
        match failure.code {
            Code::RemoteLogin => failure.hint("`espejo repair --from remote --user U`"),
            _ => failure,
        }
    })
}

fn title(vault: &mut ThisVault, entry: Option<EntryId>) -> Option<String> {
    Some(vault.entry(entry?).ok()?.summary.title)
}

fn to_json(vault: &mut ThisVault, report: &RepairReport, dry_run: bool) -> Value {
    let thing = |vault: &mut ThisVault, thing: &Thing, entry: Option<EntryId>| {
        let (kind, name) = match thing {
            Thing::Object(object) => ("object", object.to_string()),
            Thing::File(file) => ("file", file.clone()),
            Thing::Mirror(file) => ("remote_file", file.clone()),
        };
        json!({ kind: name, "entry": entry.map(|id| id.to_string()), "title": title(vault, entry) })
    };
    let mut repaired = Vec::new();
    for it in &report.repaired {
        let mut json = thing(vault, &it.thing, it.entry);
        json["from"] = json!(word(it.source));
        repaired.push(json);
    }
    let mut unrepaired = Vec::new();
    for it in &report.unrepaired {
        let mut json = thing(vault, &it.thing, it.entry);
        json["error"] = json!(it.problem);
        json["current"] = json!(it.current);
        json["readable"] = json!(it.readable.map(|(version, _)| version.to_string()));
        json["safe"] = json!(safe(it));
        json["fix"] = json!(fix(it));
        unrepaired.push(json);
    }
    let reverted = report.reverted.iter().map(
        |it| json!({ "entry": it.entry.to_string(), "to": it.to.map(|(version, _)| version.to_string()) }),
    );
    let mut json = json!({
        "repaired": repaired,
        "unrepaired": unrepaired,
        "reverted": reverted.collect::<Vec<_>>(),
    });
    if dry_run {
        json["dry_run"] = json!(true);
    }
    json
}

fn word(source: Source) -> &'static str {
    match source {
        Source::Mirror => "remote",
        Source::Encoding => "history",
        Source::Quarantine => "quarantine",
        Source::Backup => "backup",
        Source::Vault => "vault",
    }
}

fn describe(vault: &mut ThisVault, report: &RepairReport, dry_run: bool) -> Result<String, Failure> {
    let mut text = String::new();
    for it in &report.repaired {
        text.push_str(&repaired_line(vault, it, dry_run)?);
    }
    for it in &report.reverted {
        text.push_str(&reverted_line(vault, it, dry_run)?);
    }
    for it in &report.unrepaired {
        let what = what(vault, &it.thing, it.entry)?;
        text.push_str(&format!("{}, not repaired: {what}; {} (fix: {})\n", it.problem, safe(it), fix(it)));
    }
    if text.is_empty() {
        text.push_str("nothing to repair\n");
    }
    Ok(text)
}

fn what(vault: &mut ThisVault, thing: &Thing, entry: Option<EntryId>) -> Result<String, Failure> {
    Ok(match thing {
        Thing::Object(object) => format!("object {} of {}", short(object), entry_name(vault, entry)?),
        Thing::File(file) => line(file, 200).into_owned(),
        Thing::Mirror(file) => format!("{} on the mirror", line(file, 200)),
    })
}

fn repaired_line(vault: &mut ThisVault, it: &Repaired, dry_run: bool) -> Result<String, Failure> {
    let verb = if dry_run { "would be repaired" } else { "repaired" };
    let from = match it.source {
        Source::Mirror => "from the mirror",
        Source::Encoding => "another copy of this version is intact here",
        Source::Quarantine => "from local/quarantine, where it was intact after all",
        Source::Backup => "from the backup",
        Source::Vault => "from this device",
    };
    Ok(format!("{verb}: {} ({from})\n", what(vault, &it.thing, it.entry)?))
}

fn reverted_line(vault: &mut ThisVault, it: &Reverted, dry_run: bool) -> Result<String, Failure> {
    let entry = entry_name(vault, Some(it.entry))?;
    let verb = if dry_run { "would be" } else { "was" };
    Ok(match it.to {
        Some((_, ms)) => format!(
            "{entry}: its newest version is damaged and no copy of it exists; its version of {} {verb} restored as the newest\n",
            when::day(ms)
        ),
        None => format!("{entry}: the file that says it is deleted is damaged; it {verb} deleted again\n"),
    })
}

/// What a person need not worry about.
fn safe(it: &Unrepaired) -> String {
    match (&it.thing, it.current, it.readable) {
        (Thing::Object(_), true, Some((_, ms))) => format!("its version of {} is readable", when::day(ms)),
        (Thing::Object(_), true, None) => "no other version of it is readable here".to_owned(),
        (Thing::Object(_), false, _) => "the newest version of every entry does not need it".to_owned(),
        (Thing::File(_), ..) => "your entries do not need it".to_owned(),
        (Thing::Mirror(_), ..) => "this device does not have what was in it".to_owned(),
    }
}

/// The next command.
fn fix(it: &Unrepaired) -> String {
    match (&it.thing, it.remedy, it.readable) {
        (Thing::File(_), Some(remedy), _) => file_fix(remedy).to_owned(),
        (Thing::Mirror(_), ..) => "espejo repair, on a device that has it".to_owned(),
        (_, _, Some(_)) => {
            "espejo repair --from backup=FILE, or --from history to go back to that version".to_owned()
        }
        _ => "espejo repair --from backup=FILE".to_owned(),
    }
}
