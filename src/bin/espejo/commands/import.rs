//! `import`: texts from elsewhere become entries, once.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use espejo::entry::{self, Attachment, Blob, Content, MAX_INLINE_BODY_BYTES, clean_title, title_from_body};
use espejo::id::EntryId;
use espejo::vault::{self, Change};
use espejo::version::MadeOn;
use serde_json::json;

use super::write::{clean_tag, unique};
use crate::args::{Import, ImportFormat};
use crate::context::{Context, ThisVault};
use crate::exchange::folder::{self, Dialect};
use crate::exchange::front::{self, MAX_FRONT_BYTES};
use crate::exchange::{
    Attached, Body, Document, Found, MAX_TEXT_BYTES, Origin, Same, Skipped, dayone, joplin, jrnl,
};
use crate::failure::{Code, Failure};
use crate::output::{count, line};
use crate::progress::Bar;

/// Entries that share their syncs, and bytes of text they may have: the directories of a vault are fewer than these.
const ENTRIES_PER_SAVE: usize = 4_096;
const BYTES_PER_SAVE: usize = 16 << 20;

#[derive(Default)]
struct Done {
    created: u64,
    updated: u64,
    unchanged: u64,
    skipped: Vec<Skipped>,
}

pub fn import(context: &Context<'_>, args: &Import) -> Result<(), Failure> {
    let Found { documents, skipped } = read(args.format, &args.path)?;
    let mut vault = context.vault()?;
    let done = context.with_vault(&mut vault, |vault| {
        let mut done = Done { skipped, ..Done::default() };
        let mut edits = Vec::new();
        let mut edits_bytes = 0;
        let mut seen = BTreeSet::new();
        let mut bar = Bar::new(context.output);
        for (number, document) in (1..).zip(&documents) {
            bar.at("importing", number, documents.len() as u64);
            match edit(vault, args, document, &mut seen) {
                Ok(None) => done.unchanged += 1,
                Ok(Some(edit)) => {
                    done.skipped.extend(document.missing.iter().map(|name| Skipped {
                        source: document.source.clone(),
                        reason: format!(
                            "its attachment {name:?} was not exported; the text was taken without it"
                        ),
                    }));
                    let entry = edit.entry.expect("it was given an id");
                    let is_new = vault.manifest()?.versions_of(entry).next().is_none();
                    *(if is_new { &mut done.created } else { &mut done.updated }) += 1;
                    if let Body::Text(text) = &document.body {
                        edits_bytes += text.len();
                    }
                    edits.push(edit);
                }
                Err(Problem::Skip(reason)) => {
                    done.skipped.push(Skipped { source: document.source.clone(), reason });
                }
                Err(Problem::Failed(failure)) => return Err(failure),
            }
            let is_full = edits.len() >= ENTRIES_PER_SAVE || edits_bytes >= BYTES_PER_SAVE;
            if is_full && !args.dry_run {
                vault.save(&std::mem::take(&mut edits))?;
                edits_bytes = 0;
            }
        }
        if !args.dry_run {
            vault.save(&edits)?;
        }
        Ok(done)
    })?;
    tell(context, args.dry_run, &done)
}

fn tell(context: &Context<'_>, dry_run: bool, done: &Done) -> Result<(), Failure> {
    let skipped = done.skipped.iter().map(|it| json!({ "source": it.source, "reason": it.reason }));
    let mut json = json!({
        "created": done.created,
        "updated": done.updated,
        "unchanged": done.unchanged,
        "skipped": skipped.collect::<Vec<_>>(),
    });
    if dry_run {
        json["dry_run"] = json!(true);
    }
    context.output.result(&json, || {
        let mut text = format!(
            "{}{} created, {} updated, {} unchanged",
            if dry_run { "would be: " } else { "" },
            count(done.created, "entry", "entries"),
            done.updated,
            done.unchanged
        );
        for it in &done.skipped {
            text.push_str(&format!("\nskipped {}: {}", line(&it.source, 120), line(&it.reason, 200)));
        }
        text
    })?;
    match done.skipped.len() as u64 {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Incomplete,
            "skipped",
            format!("{} skipped", count(n, "item was", "items were")),
        )),
    }
}

fn read(format: ImportFormat, path: &Path) -> Result<Found, Failure> {
    let not_found = |problem: String| {
        let failure = Failure::new(Code::NotFound, "not_found", format!("{}: {problem}", path.display()));
        failure.hint("`espejo import --help` says what is understood, and from where")
    };
    let is_stdin = path.as_os_str() == "-";
    if !is_stdin {
        path.metadata().map_err(|error| not_found(error.to_string()))?;
    }
    match format {
        ImportFormat::Markdown | ImportFormat::Obsidian if path.is_dir() => {
            let dialect =
                if format == ImportFormat::Obsidian { Dialect::Obsidian } else { Dialect::Markdown };
            Ok(folder::read(path, dialect))
        }
        ImportFormat::Markdown | ImportFormat::Obsidian => Err(not_found("it is not a folder".to_owned())),
        ImportFormat::Joplin => joplin::read(path).map_err(not_found),
        ImportFormat::Dayone => dayone::read(path).map_err(not_found),
        ImportFormat::Jrnl => {
            let mut text = String::new();
            let read = match is_stdin {
                true => io::stdin().lock().take(MAX_TEXT_BYTES).read_to_string(&mut text),
                false => std::fs::File::open(path)
                    .and_then(|file| file.take(MAX_TEXT_BYTES).read_to_string(&mut text)),
            };
            read.map_err(|error| Failure::io(&format!("reading {}", path.display()), &error))?;
            jrnl::read(path, &text).map_err(not_found)
        }
    }
}

/// Why a document became no entry.
enum Problem {
    Skip(String),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The new version a document makes; none if its entry says the same, or ever did: what was changed here since stays.
fn edit(
    vault: &mut ThisVault,
    args: &Import,
    document: &Document,
    seen: &mut BTreeSet<EntryId>,
) -> Result<Option<vault::Edit>, Problem> {
    let entry = document.id.unwrap_or_else(|| vault.entry_of_source(args.format.name(), &document.source));
    if !seen.insert(entry) {
        return Err(Problem::Skip("it says the same id as another one".to_owned()));
    }
    let tags = document.tags.iter().filter_map(|tag| clean_tag(tag).ok()).collect::<Vec<_>>();
    let title = match (&document.body, clean_title(&document.title)) {
        (Body::Text(text), title) if title.is_empty() => {
            title_from_body(front::split(text, MAX_FRONT_BYTES).map_or(text, |front| front.rest))
        }
        (_, title) => title,
    };
    let mut blank = Content {
        title,
        created: document.created,
        tags: unique(tags),
        media_type: document.media_type.clone(),
        body: entry::Body::Text(String::new()),
        attachments: Vec::new(),
    };
    let history = vault.history(entry)?;
    if !document.missing.is_empty() && !history.is_empty() {
        return Err(Problem::Skip(
            "it is here, and what was exported lacks one of its attachments".to_owned(),
        ));
    }
    for state in history {
        match vault.content(state.version.id) {
            Ok(Some(known)) => {
                // A copied file has another time, and says the same.
                if !document.is_dated {
                    blank.created = known.created;
                }
                if says_the_same(vault, &known, &blank, document)? {
                    return Ok(None);
                }
            }
            // What cannot be read here is not the same.
            Ok(None)
            | Err(vault::Error::Damaged { .. } | vault::Error::Pending | vault::Error::NewerSchema) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if args.dry_run {
        return Ok(Some(vault::Edit {
            entry: Some(entry),
            made_on: MadeOn::Everything,
            change: Change::Content(blank),
        }));
    }
    let mut content = blank;
    content.body = match &document.body {
        Body::Text(text) if text.len() <= MAX_INLINE_BODY_BYTES => entry::Body::Text(text.clone()),
        Body::Text(text) => entry::Body::Parts(vault.store_blob(&mut text.as_bytes())?),
        Body::File(origin) => entry::Body::Parts(store(vault, origin)?),
    };
    for Attached { name, media_type, origin } in &document.attachments {
        let blob = store(vault, origin)?;
        content.attachments.push(Attachment { name: name.clone(), media_type: media_type.clone(), blob });
    }
    Ok(Some(vault::Edit {
        entry: Some(entry),
        made_on: MadeOn::Everything,
        change: Change::Content(content),
    }))
}

fn store(vault: &mut ThisVault, origin: &Origin) -> Result<Blob, Problem> {
    let mut reader =
        origin.open().map_err(|error| Problem::Skip(format!("{}: {error}", origin.path.display())))?;
    Ok(vault.store_blob(&mut reader)?)
}

fn says_the_same(
    vault: &mut ThisVault,
    known: &Content,
    blank: &Content,
    document: &Document,
) -> Result<bool, Problem> {
    let same_head = known.title == blank.title
        && known.created == blank.created
        && known.tags == blank.tags
        && known.media_type == blank.media_type
        && known.attachments.len() == document.attachments.len();
    if !same_head {
        return Ok(false);
    }
    let same_body = match (&known.body, &document.body) {
        (entry::Body::Text(known), Body::Text(text)) => known == text,
        (entry::Body::Parts(blob), Body::Text(text)) => {
            holds(vault, blob, &mut text.as_bytes(), text.len() as u64)?
        }
        (entry::Body::Parts(blob), Body::File(origin)) => is_file(vault, blob, origin)?,
        (entry::Body::Text(_), Body::File(_)) => false,
    };
    if !same_body {
        return Ok(false);
    }
    for (known, attached) in known.attachments.iter().zip(&document.attachments) {
        let same = known.name == attached.name && known.media_type == attached.media_type;
        if !same || !is_file(vault, &known.blob, &attached.origin)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_file(vault: &mut ThisVault, blob: &Blob, origin: &Origin) -> Result<bool, Problem> {
    let unreadable = |error: io::Error| Problem::Skip(format!("{}: {error}", origin.path.display()));
    let len_bytes = origin.len_bytes().map_err(unreadable)?;
    let mut reader = origin.open().map_err(unreadable)?;
    holds(vault, blob, &mut reader, len_bytes)
}

fn holds(
    vault: &mut ThisVault,
    blob: &Blob,
    reader: &mut impl Read,
    len_bytes: u64,
) -> Result<bool, Problem> {
    if blob.len_bytes() != len_bytes {
        return Ok(false);
    }
    let mut same = Same { reader, so_far: true };
    match vault.read_blob(blob, &mut same) {
        Ok(()) => Ok(same.so_far),
        Err(vault::Error::Damaged { .. } | vault::Error::Pending) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
