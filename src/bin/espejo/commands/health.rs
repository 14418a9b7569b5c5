//! `status` and `check`: how things stand.

use espejo::event::{Finding, short};
use espejo::vault::Status;
use serde_json::json;

use crate::args;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{count, line, size};
use crate::when;

pub fn status(context: &Context<'_>, args: &args::Status) -> Result<(), Failure> {
    let status = context.locked()?.status();
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
        "backup": { "last": null, "verified": null },
        "devices": status.counts.devices,
    });
    context.output.result(&json, || describe(&status))?;
    let pending =
        status.counts.unsynced + status.counts.conflicts + status.counts.pending + status.counts.corrupt > 0;
    if args.exit_code && pending { Err(Failure::silent(Code::Pending)) } else { Ok(()) }
}

fn describe(status: &Status) -> String {
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
    format!("{text}\n{mirror}")
}

pub fn check(context: &Context<'_>) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    let report = vault.check()?;
    // The report says the same.
    let mut findings = vault.take_findings();
    findings.retain(|finding| !matches!(finding, Finding::Damaged { .. }));
    context.output.warn_all(&findings);
    let corrupt = report.corrupt.iter().map(|(object, entry, problem)| {
        json!({ "object": object.to_string(), "entry": entry.map(|id| id.to_string()), "error": problem.to_string() })
    });
    let missing = report.missing.iter().map(
        |(object, entry)| json!({ "object": object.to_string(), "entry": entry.map(|id| id.to_string()) }),
    );
    let json = json!({
        "objects": report.objects,
        "bytes": report.bytes,
        "corrupt": corrupt.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
        "foreign": report.foreign,
        "adopted": report.adopted,
    });
    context.output.result(&json, || {
        let mut text = format!("{} objects intact ({})\n", report.objects, size(report.bytes));
        let whose = |entry: &Option<_>| {
            entry.map_or("no entry known".to_owned(), |id| format!("entry {}", short(id)))
        };
        for (object, entry, problem) in &report.corrupt {
            text.push_str(&format!("{problem}: object {} ({})\n", short(object), whose(entry)));
        }
        for (object, entry) in &report.missing {
            text.push_str(&format!("missing: object {} ({})\n", short(object), whose(entry)));
        }
        report
            .foreign
            .iter()
            .for_each(|name| text.push_str(&format!("not ours, left alone: {}\n", line(name, 200))));
        if report.adopted > 0 {
            text.push_str(&format!("taken in: {} objects the index did not know\n", report.adopted));
        }
        text
    })?;
    if report.is_clean() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Integrity,
        "damaged",
        format!("{} objects are damaged and {} missing", report.corrupt.len(), report.missing.len()),
    )
    .hint("`espejo sync` restores them from the mirror"))
}
