//! `list`, `show`, `search`: reading.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use espejo::entry::{Blob, Body, Content};
use espejo::id::VersionId;
use espejo::vault::{self, EntryState, Lookup};
use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::{live_content, title_or_placeholder};
use crate::args::{List, Search, Show};
use crate::context::{Context, ThisVault};
use crate::failure::{Code, Failure};
use crate::new_file::write_file;
use crate::output::{for_stdout, line, short_ids, size, warn};
use crate::when;

/// Larger attachments and bodies are not printed, only written to a file.
const MAX_PRINTED_BYTES: u64 = 64 << 20;

/// About as long as an entry's line: a text that grows is copied each time.
const LINE_BYTES: usize = 64;

/// Sealed entries that are read at once.
const BATCH_BYTES: u64 = 2 << 20;

pub fn list(context: &Context<'_>, args: &List) -> Result<(), Failure> {
    let since = args.since.as_deref().map(when::parse).transpose()?;
    let until = args.until.as_deref().map(when::parse).transpose()?;
    let today = when::month_and_day(when::parse("now")?);
    let words = args.query.as_deref().map(str::to_lowercase).unwrap_or_default();
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let all = vault.entries()?;
        let short = short_ids(&all.iter().map(EntryState::id).collect::<Vec<_>>());
        let wanted = |entry: &EntryState| {
            let created = entry.summary.created;
            entry.deleted() == args.deleted
                && words.split_whitespace().all(|word| entry.summary.title.to_lowercase().contains(word))
                && args.tag.as_ref().is_none_or(|tag| entry.summary.tags.contains(tag))
                && since.is_none_or(|since| created >= since)
                && until.is_none_or(|until| created <= until)
                && (!args.on_this_day || when::month_and_day(created) == today)
        };
        let entries = all.iter().zip(&short).filter(|(entry, _)| wanted(entry));
        let entries = entries.take(args.number.unwrap_or(usize::MAX)).collect::<Vec<_>>();
        let json = match context.output.json {
            true => json!({ "entries": entries.iter().map(|(it, _)| entry_json(it)).collect::<Vec<_>>() }),
            false => Value::Null,
        };
        context.output.result(&json, || {
            let mut text = String::with_capacity(entries.len() * LINE_BYTES);
            entries.iter().for_each(|(entry, id)| write_entry(&mut text, entry, id));
            text
        })
    })
}

fn entry_json(entry: &EntryState) -> Value {
    json!({
        "id": entry.id().to_string(),
        "title": entry.summary.title,
        "tags": entry.summary.tags,
        "created": when::rfc3339(entry.summary.created),
        "updated": when::rfc3339(entry.version.dot.updated_at),
        "size": entry.summary.body_len_bytes,
        "schema": entry.schema,
        "deleted": entry.deleted(),
        "conflict": !entry.losers.is_empty(),
    })
}

fn write_entry(text: &mut String, entry: &EntryState, id: &str) {
    let title = line(title_or_placeholder(entry), 100);
    let _ = write!(text, "{id}  {}  {title}", when::minute(entry.summary.created));
    for tag in &entry.summary.tags {
        let _ = write!(text, "  #{}", line(tag, 30));
    }
    text.push_str(if entry.losers.is_empty() { "\n" } else { "  (conflict)\n" });
}

pub fn show(context: &Context<'_>, args: &Show) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let entry = vault.find(&args.id, Lookup::Any)?;
        let state = vault.entry(entry)?;
        let version = match &args.version {
            Some(version) => vault.find_version(entry, version)?,
            None if state.deleted() => {
                return Err(Failure::new(
                    Code::NotFound,
                    "deleted",
                    format!("entry {} is deleted", espejo::event::short(entry)),
                )
                .hint("`espejo undelete ID` brings it back, `espejo log ID` shows its versions"));
            }
            None => state.version.id,
        };
        let content = live_content(vault, version)?;
        // What was read is stored in today's schema. On a disk that takes nothing it is shown all the same.
        let _ = vault.migrate(&[version]);
        if let Some(name) = &args.attachment {
            return show_attachment(context, vault, &content, name, args.output.as_deref());
        }
        if args.raw || args.output.is_some() {
            return match &content.body {
                Body::Text(text) => release(context, text.as_bytes(), args.output.as_deref()),
                Body::Parts(blob) => release_blob(context, vault, blob, args.output.as_deref()),
            };
        }
        let body = match &content.body {
            Body::Text(text) => Some(text.clone()),
            Body::Parts(blob) if content.media_type.starts_with("text/") => {
                String::from_utf8(vault.blob_bytes(blob, MAX_PRINTED_BYTES)?).ok()
            }
            Body::Parts(_) => None,
        };
        let json = content_json(vault, &state, version, &content, body.as_deref())?;
        context.output.result(&json, || page(&state, &content, body.as_deref()))
    })
}

fn content_json(
    vault: &mut ThisVault,
    state: &EntryState,
    version: VersionId,
    content: &Content,
    body: Option<&str>,
) -> Result<Value, Failure> {
    let versions = vault.history(state.id())?;
    let shown = versions.iter().find(|it| it.version.id == version).map_or(&state.version, |it| &it.version);
    let attachments = content
        .attachments
        .iter()
        .map(|it| json!({ "name": it.name, "size": it.blob.len_bytes(), "media_type": it.media_type }));
    let mut json = json!({
        "id": state.id().to_string(),
        "version": version.to_string(),
        "title": content.title,
        "tags": content.tags,
        "created": when::rfc3339(content.created),
        "updated": when::rfc3339(shown.dot.updated_at),
        "schema": state.schema,
        "media_type": content.media_type,
        "attachments": attachments.collect::<Vec<_>>(),
    });
    if let Some(body) = body {
        json["body"] = json!(body);
    }
    Ok(json)
}

fn page(state: &EntryState, content: &Content, body: Option<&str>) -> String {
    let mut head = format!("{}  {}", espejo::event::short(state.id()), when::minute(content.created));
    content.tags.iter().for_each(|tag| head.push_str(&format!("  #{tag}")));
    if !state.losers.is_empty() {
        head.push_str("  (conflict: `espejo conflicts`)");
    }
    let title =
        if content.title.is_empty() { String::new() } else { format!("{}\n", line(&content.title, 200)) };
    let body = match body {
        Some(body) => format!("\n{}\n", for_stdout(body.trim_end_matches('\n'))),
        None => {
            let media_type = line(&content.media_type, 60);
            format!("\n({media_type}, {}; --raw prints it)\n", size(content.body.len_bytes()))
        }
    };
    let attachments = content.attachments.iter().map(|it| {
        format!("\n  {}  {}  {}", line(&it.name, 100), size(it.blob.len_bytes()), line(&it.media_type, 60))
    });
    let attachments = attachments.collect::<String>();
    let attachments =
        if attachments.is_empty() { attachments } else { format!("\nattachments:{attachments}\n") };
    format!("{}\n{title}{body}{attachments}", for_stdout(&head))
}

fn show_attachment(
    context: &Context<'_>,
    vault: &mut ThisVault,
    content: &Content,
    name: &str,
    to: Option<&Path>,
) -> Result<(), Failure> {
    let attachment = content.attachments.iter().find(|it| it.name == name).ok_or_else(|| {
        let names = content.attachments.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
        let hint =
            if names.is_empty() { "this entry has none".to_owned() } else { format!("it has {names}") };
        Failure::new(Code::NotFound, "not_found", format!("no attachment {name:?}")).hint(hint)
    })?;
    release_blob(context, vault, &attachment.blob, to)
}

/// Prints bytes that were verified, or writes them to a new file.
fn release(context: &Context<'_>, bytes: &[u8], to: Option<&Path>) -> Result<(), Failure> {
    match to {
        None => context.output.bytes(bytes),
        Some(path) => {
            write_file(path, |file| {
                file.write_all(bytes).map_err(|error| Failure::io("writing the file", &error))
            })?;
            written(context, path, bytes.len() as u64)
        }
    }
}

/// With `--json` there is always a document, also when the content went to a file.
fn written(context: &Context<'_>, path: &Path, size: u64) -> Result<(), Failure> {
    context.output.result(&json!({ "file": path, "size": size }), String::new)
}

fn release_blob(
    context: &Context<'_>,
    vault: &mut ThisVault,
    blob: &Blob,
    to: Option<&Path>,
) -> Result<(), Failure> {
    match to {
        None if blob.len_bytes() > MAX_PRINTED_BYTES => Err(Failure::usage(format!(
            "it has {}; more than {} is only written to a file",
            size(blob.len_bytes()),
            size(MAX_PRINTED_BYTES)
        ))
        .hint("-o FILE")),
        None => context.output.bytes(&vault.blob_bytes(blob, MAX_PRINTED_BYTES)?),
        Some(path) => {
            write_file(path, |file| Ok(vault.read_blob(blob, file)?))?;
            written(context, path, blob.len_bytes())
        }
    }
}

pub fn search(context: &Context<'_>, args: &Search) -> Result<(), Failure> {
    let pattern = if args.regex { args.pattern.clone() } else { regex::escape(&args.pattern) };
    let pattern = RegexBuilder::new(&pattern).case_insensitive(!args.regex).build();
    let pattern = pattern.map_err(|error| Failure::usage(format!("the pattern does not work: {error}")))?;
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let entries = vault.entries()?;
        let short = short_ids(&entries.iter().map(EntryState::id).collect::<Vec<_>>());
        let mut matches = Vec::new();
        let mut text = String::new();
        let mut unreadable = 0;
        let wanted = |entry: &EntryState| {
            !entry.deleted() && args.tag.as_ref().is_none_or(|tag| entry.summary.tags.contains(tag))
        };
        let wanted = entries.iter().zip(&short).filter(|(entry, _)| wanted(entry)).collect::<Vec<_>>();
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_len(rest.iter().map(|(entry, _)| *entry)));
            rest = later;
            let contents = vault.contents(&batch.iter().map(|(it, _)| it.version.id).collect::<Vec<_>>())?;
            for ((entry, id), content) in batch.iter().zip(contents) {
                let body = match content.and_then(|content| text_of(vault, content)) {
                    Ok(body) => body,
                    // What cannot be read is said once, and the rest is searched.
                    Err(vault::Error::Damaged { .. } | vault::Error::Pending | vault::Error::NewerSchema) => {
                        unreadable += 1;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let found = matching_lines(&pattern, &entry.summary.title, &body);
                if found.is_empty() {
                    continue;
                }
                if context.output.json {
                    matches.extend(found.iter().map(|(number, text)| {
                        let (id, title) = (entry.id().to_string(), &entry.summary.title);
                        json!({ "id": id, "title": title, "line": number, "text": text })
                    }));
                    continue;
                }
                write_entry(&mut text, entry, id);
                let lines = body.lines().collect::<Vec<_>>();
                for (number, _) in found.iter().filter(|(number, _)| *number > 0) {
                    let from = number.saturating_sub(1 + args.context);
                    let around = &lines[from..lines.len().min(number + args.context)];
                    around.iter().for_each(|around| text.push_str(&format!("    {}\n", line(around, 200))));
                }
            }
            // Said as it is found: all of it may be more than fits into memory.
            context.output.bytes(text.as_bytes())?;
            text.clear();
        }
        if unreadable > 0 {
            warn(format_args!("{unreadable} entries could not be read; `espejo check` names them"));
        }
        context.output.result(&json!({ "matches": matches }), String::new)?;
        if unreadable > 0 { Err(Failure::silent(Code::Incomplete)) } else { Ok(()) }
    })
}

/// How many of these entries are read at once: as many as fit into a bounded amount of memory.
fn batch_len<'a>(entries: impl Iterator<Item = &'a EntryState>) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&EntryState| {
        bytes += u64::from(entry.object_len_bytes);
        bytes <= BATCH_BYTES
    };
    entries.take_while(fits).count().max(1)
}

/// The text of a version's content; empty if it has none.
fn text_of(vault: &mut ThisVault, content: Option<Content>) -> Result<String, vault::Error> {
    match content {
        Some(Content { body: Body::Text(text), .. }) => Ok(text),
        Some(Content { body: Body::Parts(blob), media_type, .. })
            if media_type.starts_with("text/") && blob.len_bytes() <= MAX_PRINTED_BYTES =>
        {
            Ok(String::from_utf8(vault.blob_bytes(&blob, MAX_PRINTED_BYTES)?).unwrap_or_default())
        }
        _ => Ok(String::new()),
    }
}

/// Line numbers, from 1, and lines that match; 0 stands for the title.
fn matching_lines<'a>(pattern: &Regex, title: &'a str, body: &'a str) -> Vec<(usize, &'a str)> {
    let title = pattern.is_match(title).then_some((0, title));
    let lines = body.lines().enumerate().filter(|(_, line)| pattern.is_match(line));
    title.into_iter().chain(lines.map(|(index, line)| (index + 1, line))).collect()
}
