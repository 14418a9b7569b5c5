//! `export`: everything that is shown, as files that other programs read.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use espejo::entry::{Blob, Body, Content};
use espejo::event::short;
use espejo::fs::StagedDir;
use espejo::id::{EntryId, VersionId};
use espejo::vault::{self, EntryState};
use espejo::version::Kind;
use serde_json::json;

use crate::args::{Export, ExportFormat};
use crate::context::{Context, ThisVault, absolute, folder_mirror, is_in_vault_or_mirror};
use crate::exchange::document::{self, Head, Listed};
use crate::exchange::front::written;
use crate::exchange::names::{file_name, slug};
use crate::exchange::{MAX_TEXT_BYTES, Same};
use crate::failure::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::{count, line};
use crate::progress::Bar;

/// Where attachments go.
const RESOURCES: &str = "_resources";
const CONFLICTS: &str = "conflicts";

const STOPPED: &str = "stopped; what was written of the export was removed, and the vault is as it was";

/// So many digits of an id tell a file, where they do.
const TAIL: usize = 8;

/// A longer text is a file of its own: a document must not be longer than `import` reads.
const MAX_BODY_BYTES: u64 = MAX_TEXT_BYTES / 2;

pub fn export(context: &Context<'_>, args: &Export) -> Result<(), Failure> {
    let target = absolute(&args.dir)?;
    let mut vault = context.vault()?;
    let mirror = folder_mirror(&vault)?;
    if is_in_vault_or_mirror(&target, &absolute(&context.vault_dir()?)?, mirror.as_deref()) {
        return Err(Failure::usage(
            "an export inside a vault or a mirror would be plain text there; nothing was written",
        )
        .hint("name a directory outside of them"));
    }
    let interrupt = Interrupt::listen()?;
    context.with_vault(&mut vault, |vault| {
        let staged = StagedDir::beside(&target).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => Failure::from(vault::Error::NotEmpty),
            _ => Failure::io("making the directory", &error),
        })?;
        let root = staged.path().to_owned();
        let mut out = Out { interrupt, root, json: None, exported: 0, skipped: Vec::new() };
        if args.format == ExportFormat::Json {
            let mut json = out.create("entries.json")?;
            write(&mut json, b"{\"entries\":[")?;
            out.json = Some(json);
        }
        let shown = with_tails(vault)?;
        let mut bar = Bar::new(context.output);
        for (number, (tail, state)) in (1..).zip(&shown) {
            bar.at("exporting", number, shown.len() as u64);
            out.entry(vault, state, tail)?;
        }
        drop(bar);
        if let Some(json) = &mut out.json {
            write(json, b"],\"version\":1}")?;
        }
        out.interrupt.check(STOPPED)?;
        let exported = out.exported;
        staged.publish().map_err(|error| Failure::io("putting the export in place", &error))?;
        let skipped =
            out.skipped.iter().map(|(source, reason)| json!({ "source": source, "reason": reason }));
        let json = json!({ "dir": target, "exported": exported, "skipped": skipped.collect::<Vec<_>>() });
        context.output.result(&json, || {
            let mut text = format!(
                "{} exported to {}, read back",
                count(exported, "entry", "entries"),
                target.display()
            );
            for (source, reason) in &out.skipped {
                text.push_str(&format!("\nleft out {}: {}", line(source, 100), line(reason, 200)));
            }
            text
        })?;
        context.output.note("these files are plain text: whoever reads the disk reads them");
        match out.skipped.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(
                Code::Incomplete,
                "incomplete",
                "some of it could not be read and was left out; the rest is there",
            )
            .hint("`espejo sync`, `espejo repair`")),
        }
    })
}

/// The entries that are shown, the newest first, each with the first digits of its id: all of them if two share these.
fn with_tails(vault: &mut ThisVault) -> Result<Vec<(String, EntryState)>, Failure> {
    let entries = vault.entries()?;
    let manifest = vault.manifest()?;
    let is_live = |id: &VersionId| manifest.version(*id).is_some_and(|it| it.version.kind == Kind::Live);
    let shown = entries.into_iter().filter(|it| !it.deleted() || it.losers.iter().any(is_live));
    let shown = shown.map(|it| (it.id().to_string()[..TAIL].to_owned(), it)).collect::<Vec<_>>();
    let mut alike = BTreeMap::<String, u64>::new();
    shown.iter().for_each(|(tail, _)| *alike.entry(tail.clone()).or_default() += 1);
    let tail = |tail: String, id: EntryId| if alike[&tail] == 1 { tail } else { id.to_string() };
    Ok(shown.into_iter().map(|(short, it)| (tail(short, it.id()), it)).collect())
}

struct Out {
    interrupt: Interrupt,
    root: PathBuf,
    /// Where entries go, if not each into a file of its own.
    json: Option<File>,
    exported: u64,
    /// What could not be read, and why.
    skipped: Vec<(String, String)>,
}

/// The files that belong to a version: where they are, also as seen from its document, and which names are taken.
struct Files<'a> {
    dir: String,
    up: &'a str,
    used: Vec<String>,
}

impl Out {
    fn entry(&mut self, vault: &mut ThisVault, state: &EntryState, tail: &str) -> Result<(), Failure> {
        let current = (!state.deleted()).then_some((state.version.id, false));
        let losers = state.losers.iter().map(|loser| (*loser, true));
        for (version, lost) in current.into_iter().chain(losers) {
            self.interrupt.check(STOPPED)?;
            match vault.content(version).map_err(Problem::from) {
                Ok(Some(content)) => self.version(vault, version, state.id(), &content, lost, tail)?,
                Ok(None) => {}
                Err(Problem::Unreadable(error)) => self.skip(state.id(), error.to_string()),
                Err(Problem::Failed(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    fn skip(&mut self, id: EntryId, reason: String) {
        self.skipped.push((short(id), reason));
    }

    fn version(
        &mut self,
        vault: &mut ThisVault,
        version: VersionId,
        id: EntryId,
        content: &Content,
        lost: bool,
        tail: &str,
    ) -> Result<(), Failure> {
        let mut tail = tail.to_owned();
        if lost {
            tail.push_str(&format!("-{}", &version.to_string()[..TAIL]));
        }
        let updated = vault.manifest()?.version(version).map_or(0, |it| it.version.dot.updated_at);
        let up = if lost { "../" } else { "" };
        let mut files = Files { dir: format!("{RESOURCES}/{tail}"), up, used: Vec::new() };
        let (body, body_file) = match &content.body {
            Body::Text(text) => (text.clone(), None),
            Body::Parts(blob) => match text(vault, &content.media_type, blob)? {
                Some(text) => (text, None),
                None => (String::new(), Some(self.place(vault, id, &mut files, "body", blob)?)),
            },
        };
        let mut attachments = Vec::new();
        for it in &content.attachments {
            let file = self.place(vault, id, &mut files, &it.name, &it.blob)?;
            attachments.push(Listed { name: it.name.clone(), media_type: it.media_type.clone(), file });
        }
        let head = Head {
            id: id.to_string(),
            title: content.title.clone(),
            created: written(content.created),
            updated: written(updated),
            tags: content.tags.clone(),
            media_type: content.media_type.clone(),
            body_file,
            attachments,
        };
        if let Some(file) = &mut self.json {
            let comma = if self.exported > 0 { "," } else { "" };
            write(file, format!("{comma}{}", as_json(&head, &body, lost)).as_bytes())?;
        } else {
            let parts = [day(content.created), slug(&content.title), tail];
            let name = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
            let dir = if lost { format!("{CONFLICTS}/") } else { String::new() };
            let path = format!("{dir}{name}.md");
            write(&mut self.create(&path)?, document::render(&head, &body).as_bytes())?;
            if !self.reads_back(&path, &head, &body)? {
                let reason =
                    format!("{path} is written, but `espejo import` would not make quite the same of it");
                self.skip(id, reason);
            }
        }
        self.exported += 1;
        Ok(())
    }

    /// Writes a file that belongs to a version: its path as seen from the document. None if it cannot be read, which is
    /// listed: its text is not left out for that.
    fn place(
        &mut self,
        vault: &mut ThisVault,
        id: EntryId,
        files: &mut Files<'_>,
        wanted: &str,
        blob: &Blob,
    ) -> Result<Option<String>, Failure> {
        let file = file_name(wanted, &files.used);
        files.used.push(file.clone());
        let path = format!("{}/{file}", files.dir);
        match self.write_blob(vault, &path, blob) {
            Ok(()) => Ok(Some(format!("{}{path}", files.up))),
            Err(Problem::Unreadable(error)) => {
                let removed = std::fs::remove_file(self.root.join(&path));
                removed.map_err(|error| Failure::io("removing half a file from the export", &error))?;
                self.skip(id, format!("{wanted}: {error}; the rest was written without it"));
                Ok(None)
            }
            Err(Problem::Failed(failure)) => Err(failure),
        }
    }

    /// Whether `import` would make of a document what was written.
    fn reads_back(&self, path: &str, head: &Head, body: &str) -> Result<bool, Failure> {
        let text = std::fs::read_to_string(self.root.join(path));
        let text = text.map_err(|error| Failure::io("reading the export back", &error))?;
        let parsed = document::parse(&text);
        Ok(parsed.body == body
            && parsed.created.map(written).as_ref() == Some(&head.created)
            && parsed.id.as_ref() == Some(&head.id)
            && parsed.title.as_ref() == Some(&head.title)
            && parsed.tags == head.tags
            && parsed.attachments == head.attachments
            && parsed.body_file == head.body_file)
    }

    fn create(&self, path: &str) -> Result<File, Failure> {
        let path = self.root.join(path);
        let writing = |error: io::Error| Failure::io("writing the export", &error);
        let dir = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(writing)?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(writing)
    }

    /// Writes a blob, and reads the file back beside it.
    fn write_blob(&self, vault: &mut ThisVault, path: &str, blob: &Blob) -> Result<(), Problem> {
        let mut sink = UnlessAsked { interrupt: &self.interrupt, file: self.create(path)? };
        let written = vault.read_blob(blob, &mut sink);
        self.interrupt.check(STOPPED)?;
        written?;
        let reading = |error: io::Error| Failure::io("reading the export back", &error);
        let mut file = File::open(self.root.join(path)).map_err(reading)?;
        let mut same = Same { reader: &mut file, so_far: true };
        vault.read_blob(blob, &mut same)?;
        let whole = same.so_far && file.read(&mut [0]).map_err(reading)? == 0;
        match whole {
            true => Ok(()),
            false => {
                Err(Failure::new(Code::Integrity, "export_differs", format!("{path} does not read back"))
                    .into())
            }
        }
    }
}

fn write(file: &mut File, bytes: &[u8]) -> Result<(), Failure> {
    file.write_all(bytes).map_err(|error| Failure::io("writing the export", &error))
}

/// A long body that goes into the document: text that a document may hold.
fn text(vault: &mut ThisVault, media_type: &str, blob: &Blob) -> Result<Option<String>, Failure> {
    if !media_type.starts_with("text/") || blob.len_bytes() > MAX_BODY_BYTES {
        return Ok(None);
    }
    match vault.blob_bytes(blob, MAX_BODY_BYTES).map_err(Problem::from) {
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        // What is wrong with it is told when it is to be a file.
        Err(Problem::Unreadable(_)) => Ok(None),
        Err(Problem::Failed(failure)) => Err(failure),
    }
}

fn as_json(head: &Head, body: &str, lost: bool) -> serde_json::Value {
    let mut json = serde_json::to_value(head).expect("plain data");
    if let Some(fields) = json.as_object_mut() {
        fields.remove("espejo_id");
    }
    json["id"] = json!(head.id);
    json["conflict"] = json!(lost);
    if head.body_file.is_none() {
        json["body"] = json!(body);
    }
    json
}

/// The day of a moment, in UTC; nothing if it is in no year of four digits.
fn day(ms: i64) -> String {
    let text = written(ms);
    let day = text.get(..10).filter(|day| day.as_bytes()[4] == b'-' && day.as_bytes()[0].is_ascii_digit());
    day.unwrap_or_default().to_owned()
}

/// A file that takes nothing more once somebody asked to stop.
struct UnlessAsked<'a> {
    interrupt: &'a Interrupt,
    file: File,
}

impl Write for UnlessAsked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.interrupt.is_asked() {
            true => Err(io::Error::other("interrupted")),
            false => self.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Why something was not written.
enum Problem {
    Unreadable(vault::Error),
    Failed(Failure),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<vault::Error> for Problem {
    fn from(error: vault::Error) -> Self {
        match error {
            vault::Error::Damaged { .. } | vault::Error::Pending | vault::Error::NewerSchema => {
                Self::Unreadable(error)
            }
            error => Self::Failed(error.into()),
        }
    }
}
