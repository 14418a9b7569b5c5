//! `add`, `edit`, `rm`, `undelete`: everything that makes a new version.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use espejo::entry::{Attachment, Body, Content, MAX_INLINE_BODY_BYTES, clean_title, title_from_body};
use espejo::id::EntryId;
use espejo::vault::{self, Change, Lookup, Saved};
use espejo::version::{Kind, MadeOn};
use serde_json::json;

use super::{changed, live_content, short_id, title_or_placeholder};
use crate::args::{Add, Edit, Ids};
use crate::context::{Context, ThisVault};
use crate::editor::{Draft, kept};
use crate::failure::{Code, Failure};
use crate::output::line;
use crate::when;

const TEXT: &str = "text/markdown";

/// A body as it was given.
struct Given {
    body: Body,
    media_type: String,
    /// Text to make a title from.
    beginning: String,
    /// A title for a body that has no text to make one from.
    fallback_title: String,
}

pub fn add(context: &Context<'_>, args: &Add) -> Result<(), Failure> {
    let created = match &args.date {
        Some(text) => when::parse(text)?,
        None => when::parse("now")?,
    };
    let tags = args.tags.iter().map(|tag| clean_tag(tag)).collect::<Result<Vec<_>, _>>()?;
    // Mistakes in file names cost no password.
    args.files
        .iter()
        .filter(|file| !is_stdin(file))
        .chain(&args.attachments)
        .try_for_each(|f| check_file(f))?;
    let mut vault = context.vault()?;
    let saved = context.with_vault(&mut vault, |vault| {
        let (given, draft) = given_bodies(context, vault, args)?;
        let mut edits = Vec::with_capacity(given.len());
        for given in given {
            let attachments = store_attachments(vault, &args.attachments)?;
            let title = match &args.title {
                Some(title) => clean_title(title),
                None => Some(title_from_body(&given.beginning))
                    .filter(|t| !t.is_empty())
                    .unwrap_or(given.fallback_title),
            };
            let content = Content {
                title,
                created,
                tags: unique(tags.clone()),
                media_type: given.media_type,
                body: given.body,
                attachments,
            };
            edits.push(vault::Edit {
                entry: None,
                made_on: MadeOn::Everything,
                change: Change::Content(content),
            });
        }
        save_draft(vault, &edits, draft)
    })?;
    let added = saved.iter().map(
        |it| json!({ "id": it.entry.to_string(), "version": it.version.to_string(), "title": it.title }),
    );
    let json = json!({ "added": added.collect::<Vec<_>>() });
    context.output.result(&json, || {
        let lines = saved
            .iter()
            .map(|it| format!("added {} {}", espejo::event::short(it.entry), line(&it.title, 80)));
        lines.collect::<Vec<_>>().join("\n")
    })
}

/// The bodies of new entries, and the draft they came from, if one was written.
fn given_bodies(
    context: &Context<'_>,
    vault: &mut ThisVault,
    args: &Add,
) -> Result<(Vec<Given>, Option<Draft>), Failure> {
    if let Some(message) = &args.message {
        return Ok((vec![text(vault, message.clone())?], None));
    }
    if !args.files.is_empty() {
        let bodies = args.files.iter().map(|file| from_file(vault, file)).collect::<Result<_, _>>()?;
        return Ok((bodies, None));
    }
    if !args.attachments.is_empty() {
        // A photo needs no words; it gives the entry its name.
        let name = file_name(&args.attachments[0])?;
        return Ok((vec![Given { fallback_title: clean_title(&name), ..text(vault, String::new())? }], None));
    }
    let draft = Draft::edit(context.global, "")?.ok_or_else(|| {
        Failure::new(Code::Other, "nothing_written", "nothing was written, nothing was saved")
    })?;
    match text(vault, draft.text.clone()) {
        Ok(given) => Ok((vec![given], Some(draft))),
        Err(failure) => Err(kept(failure, Some(draft))),
    }
}

/// Saves edits; a draft whose text could not be saved stays, and is named.
fn save_draft(
    vault: &mut ThisVault,
    edits: &[vault::Edit],
    draft: Option<Draft>,
) -> Result<Vec<Saved>, Failure> {
    vault.save(edits).map_err(|error| kept(error.into(), draft))
}

fn text(vault: &mut ThisVault, text: String) -> Result<Given, Failure> {
    let beginning = text.chars().take(2_000).collect();
    let body = if text.len() <= MAX_INLINE_BODY_BYTES {
        Body::Text(text)
    } else {
        Body::Parts(vault.store_blob(&mut Cursor::new(text))?)
    };
    Ok(Given { body, media_type: TEXT.to_owned(), beginning, fallback_title: String::new() })
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn check_file(path: &Path) -> Result<(), Failure> {
    let problem = match path.metadata() {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(_) => "it is not a file".to_owned(),
        Err(error) => error.to_string(),
    };
    let failure = Failure::new(Code::NotFound, "no_such_file", format!("{}: {problem}", path.display()));
    Err(failure.hint("the name of a file is expected here; a text is given with -m"))
}

/// Text goes into the entry; anything else is kept as it is.
fn from_file(vault: &mut ThisVault, path: &Path) -> Result<Given, Failure> {
    if is_stdin(path) {
        return from_reader(vault, &mut io::stdin().lock(), TEXT, String::new());
    }
    let media_type = mime_guess::from_path(path).first_raw().unwrap_or(TEXT);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut file =
        File::open(path).map_err(|error| Failure::io(&format!("reading {}", path.display()), &error))?;
    from_reader(vault, &mut file, media_type, clean_title(&stem))
}

fn from_reader(
    vault: &mut ThisVault,
    reader: &mut impl Read,
    media_type: &str,
    fallback_title: String,
) -> Result<Given, Failure> {
    let mut beginning = Vec::new();
    let limit = MAX_INLINE_BODY_BYTES as u64 + 1;
    reader
        .take(limit)
        .read_to_end(&mut beginning)
        .map_err(|error| Failure::io("reading the text", &error))?;
    let is_text = std::str::from_utf8(&beginning).map_or_else(|error| error.error_len().is_none(), |_| true);
    let whole = beginning.len() <= MAX_INLINE_BODY_BYTES;
    if is_text
        && whole
        && let Ok(body) = String::from_utf8(beginning.clone())
    {
        let media_type = if media_type.starts_with("text/") { media_type } else { TEXT };
        return Ok(Given { media_type: media_type.to_owned(), fallback_title, ..text(vault, body)? });
    }
    let words = if is_text {
        String::from_utf8_lossy(&beginning).chars().take(2_000).collect()
    } else {
        String::new()
    };
    let media_type = match (is_text, media_type) {
        (false, TEXT) => "application/octet-stream",
        (_, given) => given,
    };
    let blob = vault.store_blob(&mut Cursor::new(beginning).chain(reader))?;
    Ok(Given { body: Body::Parts(blob), media_type: media_type.to_owned(), beginning: words, fallback_title })
}

fn file_name(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.ok_or_else(|| Failure::usage(format!("{} has no file name", path.display())))
}

fn store_attachments(vault: &mut ThisVault, paths: &[PathBuf]) -> Result<Vec<Attachment>, Failure> {
    let mut attachments = Vec::<Attachment>::with_capacity(paths.len());
    for path in paths {
        let name = file_name(path)?;
        if attachments.iter().any(|attachment| attachment.name == name) {
            return Err(Failure::usage(format!("two attachments are called {name:?}")));
        }
        let mut file =
            File::open(path).map_err(|error| Failure::io(&format!("reading {}", path.display()), &error))?;
        let media_type =
            mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream").to_owned();
        attachments.push(Attachment { name, media_type, blob: vault.store_blob(&mut file)? });
    }
    Ok(attachments)
}

pub fn clean_tag(tag: &str) -> Result<String, Failure> {
    let tag = tag.trim();
    let fits = !tag.is_empty() && tag.len() <= 200 && !tag.chars().any(|c| c.is_control() || c == ',');
    match fits {
        true => Ok(tag.to_owned()),
        false => {
            Err(Failure::usage(format!("{:?} cannot be a tag: 1 to 200 bytes, no commas", line(tag, 40)))
                .hint("several tags: -T one -T another"))
        }
    }
}

pub fn unique(tags: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    tags.into_iter().filter(|tag| seen.insert(tag.clone())).collect()
}

pub fn edit(context: &Context<'_>, args: &Edit) -> Result<(), Failure> {
    args.file
        .iter()
        .filter(|file| !is_stdin(file))
        .chain(&args.attachments)
        .try_for_each(|f| check_file(f))?;
    let mut vault = context.vault()?;
    let saved = context.with_vault(&mut vault, |vault| {
        let entry = vault.find(&args.id, Lookup::Live)?;
        let current = vault.entry(entry)?.version.id;
        let mut content = live_content(vault, current)?;
        let title_was_the_texts = is_texts_own_title(&content);
        let (body, draft) = edited_body(context, vault, args, &content)?;
        if let Some(given) = body {
            if title_was_the_texts && !given.beginning.trim().is_empty() {
                content.title = title_from_body(&given.beginning);
            }
            (content.body, content.media_type) = (given.body, given.media_type);
        }
        if let Some(title) = &args.title {
            content.title = clean_title(title);
        }
        change_tags(&mut content.tags, &args.tags)?;
        for attachment in store_attachments(vault, &args.attachments)? {
            content.attachments.retain(|other| other.name != attachment.name);
            content.attachments.push(attachment);
        }
        let change = Change::Content(content);
        save_draft(
            vault,
            &[vault::Edit { entry: Some(entry), made_on: MadeOn::Version(current), change }],
            draft,
        )
    })?;
    context.output.result(&changed(&saved), || format!("changed {}", espejo::event::short(saved[0].entry)))
}

/// Whether the title is what the text would give by itself: then it follows the text.
fn is_texts_own_title(content: &Content) -> bool {
    matches!(&content.body, Body::Text(text) if title_from_body(text) == content.title)
}

fn edited_body(
    context: &Context<'_>,
    vault: &mut ThisVault,
    args: &Edit,
    content: &Content,
) -> Result<(Option<Given>, Option<Draft>), Failure> {
    if let Some(message) = &args.message {
        return Ok((Some(text(vault, message.clone())?), None));
    }
    if args.stdin.is_some() {
        return Ok((Some(from_file(vault, Path::new("-"))?), None));
    }
    if let Some(file) = &args.file {
        return Ok((Some(from_file(vault, file)?), None));
    }
    if args.title.is_some() || !args.tags.is_empty() || !args.attachments.is_empty() {
        return Ok((None, None));
    }
    let Body::Text(before) = &content.body else {
        return Err(Failure::usage("this body is too long or not text for an editor")
            .hint("`espejo show --raw -o FILE`, then `espejo edit ID --file FILE`"));
    };
    let draft = Draft::edit(context.global, before)?.ok_or_else(|| {
        Failure::new(Code::Other, "nothing_changed", "nothing was changed, nothing was saved")
    })?;
    match text(vault, draft.text.clone()) {
        Ok(given) => Ok((Some(Given { media_type: content.media_type.clone(), ..given }), Some(draft))),
        Err(failure) => Err(kept(failure, Some(draft))),
    }
}

fn change_tags(tags: &mut Vec<String>, changes: &[String]) -> Result<(), Failure> {
    for change in changes {
        match change.strip_prefix('-') {
            Some(removed) => tags.retain(|tag| tag != removed),
            None => tags.push(clean_tag(change.strip_prefix('+').unwrap_or(change))?),
        }
    }
    *tags = unique(std::mem::take(tags));
    Ok(())
}

pub fn remove(context: &Context<'_>, args: &Ids) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let entries = find_all(vault, &args.ids, Lookup::Live)?;
        let mut edits = Vec::with_capacity(entries.len());
        let mut names = Vec::with_capacity(entries.len());
        for entry in entries {
            let state = vault.entry(entry)?;
            names.push(format!("{} {}", short_id(vault, entry)?, line(title_or_placeholder(&state), 80)));
            let made_on = MadeOn::Version(state.version.id);
            edits.push(vault::Edit { entry: Some(entry), made_on, change: Change::Delete });
        }
        if args.dry_run {
            let json = json!({ "changed": [], "dry_run": true });
            return context.output.result(&json, || format!("would delete:\n{}", names.join("\n")));
        }
        let saved = vault.save(&edits)?;
        context.output.result(&changed(&saved), || format!("deleted {}", names.join("\ndeleted ")))?;
        context.output.note("`espejo undelete ID` brings it back");
        Ok(())
    })
}

pub fn undelete(context: &Context<'_>, args: &Ids) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let mut edits = Vec::new();
        for entry in find_all(vault, &args.ids, Lookup::Any)? {
            if !vault.entry(entry)?.deleted() {
                return Err(Failure::usage(format!("entry {} is not deleted", espejo::event::short(entry)))
                    .hint("`espejo list --deleted` shows those that are"));
            }
            let newest = vault.history(entry)?.into_iter().find(|state| state.version.kind == Kind::Live);
            let newest = newest.ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    "no_content",
                    "no version with content has arrived on this device",
                )
            })?;
            let content = live_content(vault, newest.version.id)?;
            let change = Change::Content(content);
            edits.push(vault::Edit { entry: Some(entry), made_on: MadeOn::Everything, change });
        }
        if args.dry_run {
            let json = json!({ "changed": [], "dry_run": true });
            return context.output.result(&json, || format!("would bring {} entries back", edits.len()));
        }
        let saved = vault.save(&edits)?;
        context.output.result(&changed(&saved), || {
            let lines = saved
                .iter()
                .map(|it| format!("brought back {} {}", espejo::event::short(it.entry), line(&it.title, 80)));
            lines.collect::<Vec<_>>().join("\n")
        })
    })
}

/// The entries named, each once.
fn find_all(vault: &mut ThisVault, ids: &[String], lookup: Lookup) -> Result<Vec<EntryId>, Failure> {
    let mut entries = Vec::<EntryId>::with_capacity(ids.len());
    for id in ids {
        let entry = vault.find(id, lookup)?;
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    Ok(entries)
}
