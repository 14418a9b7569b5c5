//! `status` and `check`: how things stand.

use espejo::clock::{Clock, SystemClock};
use espejo::event::{Damage, Finding, short};
use espejo::id::{EntryId, ObjectName};
use espejo::manifest::ObjectState;
use espejo::sync::{self, BadFile, ScrubReport, Share};
use espejo::vault::{CheckReport, Quarantine, Remedy, Status};
use serde_json::{Value, json};

use super::entry_name;
use crate::context::{Context, ThisVault, remote};
use crate::failure::{Code, Failure};
use crate::output::{count, line, size};
use crate::{args, runtime, when};

pub fn status(context: &Context<'_>, args: &args::Status) -> Result<(), Failure> {
    let locked = context.locked()?;
    tell(context, &locked.status(), locked.is_watched(), args)
}

/// Says how things stand.
pub fn tell(
    context: &Context<'_>,
    status: &Status,
    watching: bool,
    args: &args::Status,
) -> Result<(), Failure> {
    let remote = status
        .target
        .as_ref()
        .map(|target| json!({ "target": target, "last_sync": status.last_sync.map(when::rfc3339) }));
    let json = json!({
        "entries": status.counts.entries,
        "unsynced": status.counts.unsynced,
        "conflicts": status.counts.conflicts,
        "pending": status.counts.pending,
        "corrupt": status.counts.corrupt,
        "locked": true,
        "remote": remote,
        "backup": {
            "last": status.last_backup.map(when::rfc3339),
            "verified": status.last_backup.map(|_| true),
            "every_ms": status.backup_every,
            "failure": status.backup_failure,
        },
        "devices": status.counts.devices,
        "watching": watching,
    });
    context.output.result(&json, || match args.short {
        true => in_short(status, watching, SystemClock.now_ms()),
        false => describe(status, watching),
    })?;
    let pending =
        status.counts.unsynced + status.counts.conflicts + status.counts.pending + status.counts.corrupt > 0;
    if args.exit_code && pending { Err(Failure::silent(Code::Pending)) } else { Ok(()) }
}

/// One line: a sign, what waits for somebody, and how long ago all was well. `✓ 2 waiting · synced 3 min ago`
fn in_short(status: &Status, watching: bool, now_ms: i64) -> String {
    let counts = &status.counts;
    let needs_care = counts.corrupt > 0 || status.backup_failure.is_some();
    let sign = match counts.conflicts + counts.pending {
        _ if needs_care => "✗",
        0 => "✓",
        _ => "!",
    };
    let numbers = [
        (counts.corrupt, "damaged"),
        (counts.conflicts, "in conflict"),
        (counts.pending, "not here yet"),
        (counts.unsynced, "waiting"),
    ];
    let numbers =
        numbers.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let failed = status.backup_failure.is_some().then(|| "backup failed".to_owned());
    let synced = match (&status.target, status.last_sync) {
        (None, _) => "no mirror".to_owned(),
        (Some(_), None) => "never synced".to_owned(),
        (Some(_), Some(ms)) => format!("synced {}", when::since(ms, now_ms)),
    };
    let watched = watching.then(|| "watched".to_owned());
    let parts = failed.into_iter().chain(numbers).chain([synced]).chain(watched).collect::<Vec<_>>();
    format!("{sign} {}", parts.join(" · "))
}

fn describe(status: &Status, watching: bool) -> String {
    let mut text = count(status.counts.entries, "entry", "entries");
    for (count, what) in [
        (status.counts.unsynced, "not on the mirror yet"),
        (status.counts.conflicts, "in conflict (`espejo conflicts`)"),
        (status.counts.pending, "announced and not here yet (`espejo sync`)"),
        (status.counts.corrupt, "damaged (`espejo check`)"),
    ] {
        if count > 0 {
            text.push_str(&format!("\n{count} {what}"));
        }
    }
    let mirror = match (&status.target, status.last_sync) {
        (None, _) => "no mirror (`espejo remote set …`)".to_owned(),
        (Some(target), None) => format!("mirror {}, never synced (`espejo sync`)", line(target, 200)),
        (Some(target), Some(ms)) => format!("mirror {}, synced {}", line(target, 200), when::minute(ms)),
    };
    let watched = if watching { "\nwatched: what changes is synced as it comes" } else { "" };
    let backup = match (status.last_backup, status.backup_every) {
        (None, None) => "no backup (`espejo backup auto --every 1d`)".to_owned(),
        (None, Some(every)) => format!("no backup yet; every {} one is to be made", when::every(every)),
        (Some(ms), None) => format!("last backup {}, by hand", when::ago(ms)),
        (Some(ms), Some(every)) => {
            format!("last backup {}, every {} one is to be made", when::ago(ms), when::every(every))
        }
    };
    let failure = status.backup_failure.as_ref();
    let failure = failure.map_or_else(String::new, |it| {
        format!("\nTHE LAST BACKUP FAILED: {} (`espejo backup auto`)", line(it, 200))
    });
    format!("{text}\n{mirror}{watched}\n{backup}{failure}")
}

pub fn check(context: &Context<'_>, args: &args::Check) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    let report = vault.check()?;
    // The report says the same.
    let mut findings = vault.take_findings();
    findings.retain(|finding| !matches!(finding, Finding::Damaged { .. }));
    context.output.warn_all(&findings);
    let scrubbed = match args.remote {
        true => {
            let settings = vault.remote_settings()?.ok_or(sync::Error::NoRemote)?;
            let share = args.sample.unwrap_or(Share::ALL);
            Some(runtime()?.block_on(sync::scrub(&mut vault, &remote(&settings)?, share))?)
        }
        false => None,
    };
    let mut json = local_json(&mut vault, &report)?;
    if let Some(scrubbed) = &scrubbed {
        json["remote"] = remote_json(scrubbed);
    }
    let mut text = local_text(&mut vault, &report)?;
    text.push_str(&scrubbed.as_ref().map_or_else(String::new, remote_text));
    context.output.result(&json, || text)?;
    verdict(&report, scrubbed.as_ref())
}

/// The command that puts an object right.
fn object_fix(vault: &mut ThisVault, object: &ObjectName) -> Result<&'static str, Failure> {
    let mirrored = vault.manifest()?.object(object).is_some_and(ObjectState::is_mirrored);
    Ok(if mirrored { "espejo sync" } else { "espejo repair --from backup=FILE" })
}

/// The command that puts another file of the vault right.
pub fn file_fix(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Copy => "espejo repair",
        Remedy::Sync => "espejo sync",
        Remedy::SetRemote => "espejo remote set TARGET",
        Remedy::Reopen => "any command, once the disk can be written",
    }
}

fn mirror_fix(bad: &BadFile) -> &'static str {
    if bad.here { "espejo repair" } else { "espejo repair, on a device that has it" }
}

fn local_json(vault: &mut ThisVault, report: &CheckReport) -> Result<Value, Failure> {
    let mut object = |object: &ObjectName, entry: Option<EntryId>, problem: Damage| {
        let title = entry.and_then(|id| Some(vault.entry(id).ok()?.summary.title));
        Ok::<_, Failure>(json!({
            "object": object.to_string(),
            "entry": entry.map(|id| id.to_string()),
            "title": title,
            "error": problem.to_string(),
            "fix": object_fix(vault, object)?,
        }))
    };
    let corrupt = report.corrupt.iter().map(|(name, entry, problem)| object(name, *entry, *problem));
    let corrupt = corrupt.collect::<Result<Vec<_>, _>>()?;
    let missing = report.missing.iter().map(|(name, entry)| object(name, *entry, Damage::Missing));
    let missing = missing.collect::<Result<Vec<_>, _>>()?;
    let files = report
        .files
        .iter()
        .map(|it| json!({ "file": it.file, "error": it.problem.to_string(), "fix": file_fix(it.remedy) }));
    Ok(json!({
        "objects": report.objects,
        "bytes": report.bytes,
        "corrupt": corrupt,
        "missing": missing,
        "files": files.collect::<Vec<_>>(),
        "foreign": report.foreign,
        "adopted": report.adopted,
        "quarantine": { "files": report.quarantine.files, "bytes": report.quarantine.bytes },
    }))
}

fn remote_json(scrubbed: &ScrubReport) -> Value {
    let list = |missing: bool| {
        let bad = scrubbed.bad.iter().filter(|bad| bad.is_missing() == missing);
        let bad = bad.map(|bad| {
            let entries = bad.entries.iter().map(ToString::to_string).collect::<Vec<_>>();
            json!({ "file": bad.file, "error": bad.problem, "entries": entries, "fix": mirror_fix(bad) })
        });
        bad.collect::<Vec<_>>()
    };
    json!({
        "files": scrubbed.files,
        "known": scrubbed.known,
        "bytes": scrubbed.bytes,
        "corrupt": list(false),
        "missing": list(true),
        "covered": covered(scrubbed),
    })
}

/// The share of the mirror's files that was read: `5%`.
fn covered(scrubbed: &ScrubReport) -> String {
    format!("{}%", scrubbed.files * 100 / scrubbed.known.max(1))
}

fn local_text(vault: &mut ThisVault, report: &CheckReport) -> Result<String, Failure> {
    let mut text =
        format!("{} intact ({})\n", count(report.objects, "object", "objects"), size(report.bytes));
    let corrupt = report.corrupt.iter().map(|(object, entry, problem)| (object, entry, *problem));
    let missing = report.missing.iter().map(|(object, entry)| (object, entry, Damage::Missing));
    for (object, entry, problem) in corrupt.chain(missing) {
        let entry = entry_name(vault, *entry)?;
        let fix = object_fix(vault, object)?;
        text.push_str(&format!("{problem}: object {} of {entry} (fix: {fix})\n", short(object)));
    }
    for it in &report.files {
        let fix = file_fix(it.remedy);
        text.push_str(&format!("{}: {} (fix: {fix})\n", it.problem, line(&it.file, 200)));
    }
    for name in &report.foreign {
        text.push_str(&format!("not ours, left alone: {}\n", line(name, 200)));
    }
    if report.adopted > 0 {
        text.push_str(&format!("taken in: {} objects the index did not know\n", report.adopted));
    }
    let Quarantine { files, bytes } = report.quarantine;
    if files > 0 {
        let files = count(files, "file", "files");
        text.push_str(&format!(
            "local/quarantine holds {files}, {}; they may be deleted when this check finds nothing damaged\n",
            size(bytes)
        ));
    }
    Ok(text)
}

fn remote_text(scrubbed: &ScrubReport) -> String {
    let files = count(scrubbed.files, "file", "files");
    let mut text = format!("mirror: {files} read ({}, {})\n", covered(scrubbed), size(scrubbed.bytes));
    for bad in &scrubbed.bad {
        let entries = bad.entries.iter().map(|id| format!(", entry {}", short(id))).collect::<String>();
        text.push_str(&format!(
            "on the mirror, {}: {}{entries} (fix: {})\n",
            bad.problem,
            line(&bad.file, 200),
            mirror_fix(bad)
        ));
    }
    text
}

fn verdict(report: &CheckReport, scrubbed: Option<&ScrubReport>) -> Result<(), Failure> {
    let bad = scrubbed.map_or(0, |scrubbed| scrubbed.bad.len());
    if report.is_clean() && bad == 0 {
        return Ok(());
    }
    let here = report.corrupt.len() + report.files.len();
    let mut message = format!("{here} files are damaged and {} missing on this disk", report.missing.len());
    if bad > 0 {
        message.push_str(&format!("; {bad} are damaged or missing on the mirror"));
    }
    let hint = match bad {
        0 => "`espejo sync` restores objects from the mirror; `espejo repair` tries everything",
        _ => "`espejo repair` restores both sides from each other",
    };
    Err(Failure::new(Code::Integrity, "damaged", message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_status_says_what_waits_and_for_how_long() {
        let mut status = Status::default();
        assert_eq!(in_short(&status, false, 0), "✓ no mirror");
        status.target = Some("https://cloud.example/".to_owned());
        assert_eq!(in_short(&status, true, 0), "✓ never synced · watched");
        (status.last_sync, status.counts.unsynced) = (Some(1_000_000), 2);
        assert_eq!(in_short(&status, false, 1_000_000 + 3 * 60_000), "✓ 2 waiting · synced 3 min ago");
        status.counts.conflicts = 1;
        assert_eq!(in_short(&status, false, 900_000), "! 1 in conflict · 2 waiting · synced just now");
        (status.counts.corrupt, status.counts.pending) = (4, 5);
        let long = "✗ 4 damaged · 1 in conflict · 5 not here yet · 2 waiting · synced 2 h ago";
        assert_eq!(in_short(&status, false, 1_000_000 + 2 * 3_600_000), long);
        status = Status { backup_failure: Some("no room".to_owned()), ..Status::default() };
        assert_eq!(in_short(&status, false, 0), "✗ backup failed · no mirror");
    }
}
