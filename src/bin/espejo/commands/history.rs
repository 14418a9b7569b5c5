//! `log`, `diff`, `revert`: versions.

use std::collections::{BTreeMap, BTreeSet};

use espejo::entry::{Body, Content};
use espejo::id::{EntryId, VersionId};
use espejo::vault::{self, Change, Lookup};
use espejo::version::{Kind, MadeOn};
use serde_json::json;
use similar::TextDiff;

use super::{changed, live_content};
use crate::args::{Diff, Log, Revert};
use crate::context::{Context, ThisVault};
use crate::failure::{Code, Failure};
use crate::output::{for_stdout, line, short_ids, size};
use crate::when;

pub fn log(context: &Context<'_>, args: &Log) -> Result<(), Failure> {
    match &args.id {
        Some(id) => versions(context, id),
        None => super::activity::log(context, args.number),
    }
}

fn versions(context: &Context<'_>, id: &str) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let entry = vault.find(id, Lookup::Any)?;
        let state = vault.entry(entry)?;
        let history = vault.history(entry)?;
        let short = short_ids(&history.iter().map(|it| it.version.id).collect::<Vec<_>>());
        let writers = history.iter().map(|it| it.version.dot.device).collect::<BTreeSet<_>>();
        let names = writers.into_iter().map(|device| (device, vault.device_name(device)));
        let names = names.collect::<BTreeMap<_, _>>();
        let manifest = vault.manifest()?;
        let mut versions = Vec::new();
        let mut text = String::new();
        for (it, short) in history.iter().zip(&short) {
            let version = &it.version;
            let current = version.id == state.version.id;
            let conflict = state.losers.contains(&version.id);
            let writer = version.dot.device;
            let device = names[&writer].clone().unwrap_or_else(|| espejo::event::short(writer));
            let object = it.objects.iter().find_map(|name| manifest.object(name));
            let size_bytes = object.map_or(0, |object| object.row.len_bytes);
            versions.push(json!({
                "version": version.id.to_string(),
                "updated": when::rfc3339(version.dot.updated_at),
                "device": device,
                "kind": if version.kind == Kind::Live { "live" } else { "tombstone" },
                "current": current,
                "conflict": conflict,
                "size": size_bytes,
                "present": !manifest.is_absent(it),
            }));
            let what = match (&it.summary, version.kind) {
                (_, Kind::Tombstone) => "(deleted)".into(),
                (Some(summary), _) => line(&summary.title, 60),
                (None, _) => "".into(),
            };
            let mark = if current {
                "*"
            } else if conflict {
                "!"
            } else {
                " "
            };
            text.push_str(&format!(
                "{mark} {short}  {}  {:<12}  {:>7}  {what}\n",
                when::minute(version.dot.updated_at),
                line(&device, 20),
                size(it.summary.as_ref().map_or(0, |summary| summary.body_len_bytes)),
            ));
        }
        let json = json!({ "id": entry.to_string(), "versions": versions });
        context.output.result(&json, || text)?;
        if !state.losers.is_empty() {
            context.output.note("! lost a conflict nobody settled yet: `espejo resolve ID --keep VERSION`");
        }
        Ok(())
    })
}

pub fn diff(context: &Context<'_>, args: &Diff) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let entry = vault.find(&args.id, Lookup::Any)?;
        let (from, to) = versions_to_compare(vault, entry, args)?;
        let before = from.map(|from| as_text(vault, from)).transpose()?.unwrap_or_default();
        let after = as_text(vault, to)?;
        let name = |version: VersionId| espejo::event::short(version);
        let from_name = from.map_or("(nothing)".to_owned(), name);
        let text =
            TextDiff::from_lines(&before, &after).unified_diff().header(&from_name, &name(to)).to_string();
        let json = json!({
            "id": entry.to_string(),
            "from": from.map(|from| from.to_string()),
            "to": to.to_string(),
            "diff": text,
        });
        context.output.result(&json, || for_stdout(&text).into_owned())
    })
}

fn versions_to_compare(
    vault: &mut ThisVault,
    entry: EntryId,
    args: &Diff,
) -> Result<(Option<VersionId>, VersionId), Failure> {
    let current = vault.entry(entry)?.version.id;
    let to = args.to.as_ref().map_or(Ok(current), |to| vault.find_version(entry, to))?;
    let from = match &args.from {
        Some(from) => Some(vault.find_version(entry, from)?),
        None => {
            let history = vault.history(entry)?;
            let at = history.iter().position(|it| it.version.id == to);
            at.and_then(|at| history.get(at + 1)).map(|it| it.version.id)
        }
    };
    Ok((from, to))
}

/// A version as lines of text: title, tags, body, attachments. A deletion has none.
fn as_text(vault: &mut ThisVault, version: VersionId) -> Result<String, Failure> {
    let Some(content) = vault.content(version)? else { return Ok(String::new()) };
    let tags = content.tags.iter().map(|tag| format!("#{tag} ")).collect::<String>();
    let body = match &content.body {
        Body::Text(text) => text.clone(),
        Body::Parts(blob) => format!("({}, {})", content.media_type, size(blob.len_bytes())),
    };
    let attachments = content
        .attachments
        .iter()
        .map(|it| format!("attachment: {} {}\n", it.name, size(it.blob.len_bytes())));
    let attachments = attachments.collect::<String>();
    Ok(format!("{}\n{}\n\n{}\n{attachments}", content.title, tags.trim_end(), body.trim_end_matches('\n')))
}

pub fn revert(context: &Context<'_>, args: &Revert) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let entry = vault.find(&args.id, Lookup::Any)?;
        let version = vault.find_version(entry, &args.version)?;
        let content: Content = live_content(vault, version)?;
        if vault.entry(entry)?.version.id == version {
            return Err(Failure::new(Code::Usage, "is_current", "this is the current version already"));
        }
        if args.dry_run {
            let json = json!({ "changed": [], "dry_run": true });
            return context
                .output
                .result(&json, || format!("would go back to {}", espejo::event::short(version)));
        }
        let change = Change::Content(content);
        let saved = vault.save(&[vault::Edit { entry: Some(entry), made_on: MadeOn::Everything, change }])?;
        context.output.result(&changed(&saved), || {
            format!("{} is again as in {}", espejo::event::short(entry), espejo::event::short(version))
        })
    })
}
