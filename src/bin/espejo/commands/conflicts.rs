//! `conflicts` and `resolve`: entries that were changed on two devices at once.

use std::path::Path;

use espejo::entry::{Body, Content};
use espejo::id::{EntryId, VersionId};
use espejo::vault::{self, Change, EntryState, Lookup};
use espejo::version::{Kind, MadeOn};
use serde_json::json;

use super::{changed, live_content, title_or_placeholder};
use crate::args::Resolve;
use crate::context::{Context, ThisVault};
use crate::editor::{Draft, kept};
use crate::failure::{Code, Failure};
use crate::output::{line, short_ids};
use crate::when;

pub fn list(context: &Context<'_>) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let all = vault.entries()?;
        let short = short_ids(&all.iter().map(EntryState::id).collect::<Vec<_>>());
        let open = all.iter().zip(&short).filter(|(entry, _)| !entry.losers.is_empty()).collect::<Vec<_>>();
        let conflicts = open.iter().map(|(entry, _)| {
            json!({
                "id": entry.id().to_string(),
                "title": entry.summary.title,
                "current": entry.version.id.to_string(),
                "others": entry.losers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        });
        let json = json!({ "conflicts": conflicts.collect::<Vec<_>>() });
        let text =
            open.iter().map(|(entry, id)| describe(vault, entry, id)).collect::<Result<String, _>>()?;
        context.output.result(&json, || if text.is_empty() { "no conflicts".to_owned() } else { text })?;
        if !open.is_empty() {
            context.output.note("settle one with `espejo resolve ID --keep VERSION`, --merge or --file F");
        }
        Ok(())
    })
}

fn describe(vault: &mut ThisVault, entry: &EntryState, id: &str) -> Result<String, Failure> {
    let mut text = format!("{id}  {}\n", line(title_or_placeholder(entry), 80));
    for version in std::iter::once(entry.version.id).chain(entry.losers.iter().copied()) {
        let Some(state) = vault.manifest()?.version(version) else { continue };
        let mark = if version == entry.version.id { "shown" } else { "kept " };
        let title = match (&state.summary, state.version.kind) {
            (_, Kind::Tombstone) => "(deleted)".to_owned(),
            (Some(summary), _) => line(&summary.title, 60).into_owned(),
            (None, _) => String::new(),
        };
        let (updated, device) = (when::minute(state.version.dot.updated_at), state.version.dot.device);
        // Two versions of one entry are mostly called the same: who wrote it tells them apart.
        let by = vault.device_name(device).unwrap_or_else(|| espejo::event::short(device));
        let (short, by) = (espejo::event::short(version), line(&by, 16));
        text.push_str(&format!("    {mark}  {short}  {updated}  {by:<16}  {title}\n"));
    }
    Ok(text)
}

pub fn resolve(context: &Context<'_>, args: &Resolve) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let entry = vault.find(&args.id, Lookup::Any)?;
        let state = vault.entry(entry)?;
        if state.losers.is_empty() {
            return Err(Failure::new(
                Code::NotFound,
                "no_conflict",
                format!("entry {} has no conflict", espejo::event::short(entry)),
            )
            .hint("`espejo conflicts` lists those that have"));
        }
        let mut draft = None;
        let change = if let Some(version) = &args.how.keep {
            keep(vault, entry, version)?
        } else if let Some(file) = &args.how.file {
            let mut content = base_content(vault, &state)?;
            content.body = Body::Text(read_text(file)?);
            Change::Content(content)
        } else {
            let (content, written) = merge(context, vault, &state)?;
            draft = written;
            Change::Content(content)
        };
        let edit = vault::Edit { entry: Some(entry), made_on: MadeOn::Everything, change };
        let saved = vault.save(&[edit]).map_err(|error| kept(error.into(), draft))?;
        context.output.result(&changed(&saved), || format!("settled {}", espejo::event::short(entry)))
    })
}

fn keep(vault: &mut ThisVault, entry: EntryId, version: &str) -> Result<Change, Failure> {
    let version = vault.find_version(entry, version)?;
    Ok(match vault.content(version)? {
        Some(content) => Change::Content(content),
        None => Change::Delete,
    })
}

fn read_text(file: &Path) -> Result<String, Failure> {
    let read = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin().lock())
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| Failure::io(&format!("reading {}", file.display()), &error))
}

/// The content the settled version starts from: the one that is shown, or the newest loser if that is a deletion.
fn base_content(vault: &mut ThisVault, state: &EntryState) -> Result<Content, Failure> {
    for version in std::iter::once(state.version.id).chain(state.losers.iter().copied()) {
        if let Some(content) = vault.content(version)? {
            return Ok(content);
        }
    }
    Err(Failure::new(Code::NotFound, "deleted", "both sides are deletions"))
}

/// Joins the texts of all sides, line by line, from what they have in common. Where they contradict each other the
/// person decides in the editor.
fn merge(
    context: &Context<'_>,
    vault: &mut ThisVault,
    state: &EntryState,
) -> Result<(Content, Option<Draft>), Failure> {
    let mut merged = base_content(vault, state)?;
    let mut text = text_of(&merged)?;
    let mut clean = true;
    for loser in &state.losers {
        let Some(other) = vault.content(*loser)? else { continue };
        let base = common_ancestor(vault, state, *loser)?;
        let base = base.map(|base| live_content(vault, base)).transpose()?;
        let base = base.as_ref().map(text_of).transpose()?.unwrap_or_default();
        text = match diffy::merge(&base, &text, &text_of(&other)?) {
            Ok(joined) => joined,
            Err(marked) => {
                clean = false;
                marked
            }
        };
        merged
            .tags
            .extend(other.tags.into_iter().filter(|tag| !merged.tags.contains(tag)).collect::<Vec<_>>());
        for attachment in other.attachments {
            if !merged.attachments.iter().any(|mine| mine.name == attachment.name) {
                merged.attachments.push(attachment);
            }
        }
    }
    if clean {
        merged.body = Body::Text(text);
        return Ok((merged, None));
    }
    let draft = Draft::edit(context.global, &text).map_err(|failure| {
        let message = format!("the sides contradict each other, and {}", failure.message);
        match failure.code {
            Code::Usage => Failure { message, ..failure }.hint(
                "`espejo show ID --version V` shows each side; write the text and give it with --file F",
            ),
            // Its hint says where the text is.
            _ => Failure { message, ..failure },
        }
    })?;
    let unsettled =
        Failure::new(Code::Other, "unsettled", "the text still has contradictions in it; nothing was saved");
    let Some(draft) = draft else { return Err(unsettled) };
    if draft.text.contains("<<<<<<<") {
        return Err(kept(unsettled, Some(draft)));
    }
    merged.body = Body::Text(draft.text.clone());
    Ok((merged, Some(draft)))
}

fn text_of(content: &Content) -> Result<String, Failure> {
    match &content.body {
        Body::Text(text) => Ok(text.clone()),
        Body::Parts(_) => Err(Failure::usage("this body is too long or not text to be merged")
            .hint("`espejo resolve ID --keep VERSION`")),
    }
}

/// The newest live version both sides were made on.
fn common_ancestor(
    vault: &mut ThisVault,
    state: &EntryState,
    loser: VersionId,
) -> Result<Option<VersionId>, Failure> {
    let history = vault.history(state.id())?;
    let loser = history.iter().find(|it| it.version.id == loser).map(|it| it.version.context.clone());
    let Some(loser) = loser else { return Ok(None) };
    let both = history.iter().find(|it| {
        let dot = it.version.dot;
        it.version.kind == Kind::Live && loser.covers(dot) && state.version.context.covers(dot)
    });
    Ok(both.map(|it| it.version.id))
}
