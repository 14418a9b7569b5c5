//! `export`: everything that is shown, as files that other programs read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use espejo::entry::{Blob, Body, Content};
use espejo::event::short;
use espejo::fs::StagedDir;
use espejo::id::VersionId;
use espejo::vault::{self, EntryState};
use serde_json::json;

use crate::args::{Export, ExportFormat};
use crate::context::{Context, ThisVault, absolute};
use crate::exchange::Same;
use crate::exchange::document::{self, Head, Listed};
use crate::exchange::front::written;
use crate::exchange::names::{file_name, slug};
use crate::failure::{Code, Failure};
use crate::output::{count, line};

/// Where attachments go.
const RESOURCES: &str = "_resources";
const CONFLICTS: &str = "conflicts";

pub fn export(context: &Context<'_>, args: &Export) -> Result<(), Failure> {
    let target = absolute(&args.dir)?;
    let mut vault = context.vault()?;
    let inside = target.starts_with(absolute(&context.vault_dir()?)?);
    if inside {
        return Err(Failure::usage(
            "an export inside the vault would be plain text there; nothing was written",
        ));
    }
    context.with_vault(&mut vault, |vault| {
        let staged = StagedDir::beside(&target).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => Failure::from(vault::Error::NotEmpty),
            _ => Failure::io("making the directory", &error),
        })?;
        let mut out = Out { root: staged.path().to_owned(), entries: Vec::new(), skipped: Vec::new() };
        for state in vault.entries()? {
            out.entry(vault, &state, args.format)?;
        }
        let exported = out.entries.len() as u64;
        if args.format == ExportFormat::Json {
            let json =
                serde_json::to_vec(&json!({ "version": 1, "entries": out.entries })).expect("plain data");
            out.write("entries.json", &json)?;
        }
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
                "some entries could not be read and were left out",
            )
            .hint("`espejo sync`, `espejo repair`")),
        }
    })
}

struct Out {
    root: PathBuf,
    entries: Vec<serde_json::Value>,
    /// What could not be read, and why.
    skipped: Vec<(String, String)>,
}

impl Out {
    fn entry(
        &mut self,
        vault: &mut ThisVault,
        state: &EntryState,
        format: ExportFormat,
    ) -> Result<(), Failure> {
        let current = (!state.deleted()).then_some((state.version.id, false));
        let losers = state.losers.iter().map(|loser| (*loser, true));
        for (version, lost) in current.into_iter().chain(losers) {
            let content = match vault.content(version) {
                Ok(Some(content)) => content,
                Ok(None) => continue,
                Err(error) => {
                    self.skipped.push((short(state.id()), error.to_string()));
                    continue;
                }
            };
            match self.version(vault, state, version, &content, lost, format) {
                Ok(()) => {}
                Err(Problem::Unreadable(error)) => self.skipped.push((short(state.id()), error.to_string())),
                Err(Problem::Failed(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    fn version(
        &mut self,
        vault: &mut ThisVault,
        state: &EntryState,
        version: VersionId,
        content: &Content,
        lost: bool,
        format: ExportFormat,
    ) -> Result<(), Problem> {
        let id = state.id().to_string();
        let mut tail = id[..8].to_owned();
        if lost {
            tail.push_str(&format!("-{}", &version.to_string()[..8]));
        }
        let updated = vault.manifest()?.version(version).map_or(0, |it| it.version.dot.updated_at);
        let parts = [day(content.created), slug(&content.title), tail.clone()];
        let name = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
        let up = if lost { "../" } else { "" };
        let resources = format!("{RESOURCES}/{tail}");
        let mut used = Vec::new();
        let mut blobs = Vec::new();
        let mut place = |wanted: &str, blob: &Blob| {
            let file = file_name(wanted, &used);
            used.push(file.clone());
            blobs.push((format!("{resources}/{file}"), blob.clone()));
            format!("{up}{resources}/{file}")
        };
        let is_text = content.media_type.starts_with("text/");
        let (body, body_file) = match &content.body {
            Body::Text(text) => (text.clone(), None),
            Body::Parts(blob) => {
                let text =
                    if is_text { String::from_utf8(vault.blob_bytes(blob, u64::MAX)?).ok() } else { None };
                match text {
                    Some(text) => (text, None),
                    None => (String::new(), Some(place("body", blob))),
                }
            }
        };
        let attachments = content.attachments.iter().map(|it| {
            let file = place(&it.name, &it.blob);
            Listed { name: it.name.clone(), media_type: it.media_type.clone(), file }
        });
        let attachments = attachments.collect();
        let head = Head {
            id,
            title: content.title.clone(),
            created: written(content.created),
            updated: written(updated),
            tags: content.tags.clone(),
            media_type: content.media_type.clone(),
            body_file,
            attachments,
        };
        for (path, blob) in &blobs {
            self.write_blob(vault, path, blob)?;
        }
        if format == ExportFormat::Json {
            let mut json = serde_json::to_value(&head).expect("plain data");
            if let Some(fields) = json.as_object_mut() {
                fields.remove("espejo_id");
            }
            json["id"] = json!(head.id);
            json["conflict"] = json!(lost);
            if head.body_file.is_none() {
                json["body"] = json!(body);
            }
            self.entries.push(json);
            return Ok(());
        }
        let dir = if lost { format!("{CONFLICTS}/") } else { String::new() };
        let path = format!("{dir}{name}.md");
        self.write(&path, document::render(&head, &body).as_bytes())?;
        self.entries.push(json!(path));
        Ok(self.read_back(&path, &head, &body)?)
    }

    /// Reads a document as `import` would: what comes of it must be what was written.
    fn read_back(&self, path: &str, head: &Head, body: &str) -> Result<(), Failure> {
        let text = std::fs::read_to_string(self.root.join(path));
        let text = text.map_err(|error| Failure::io("reading the export back", &error))?;
        let parsed = document::parse(&text);
        let same = parsed.body == body
            && parsed.created.map(written).as_ref() == Some(&head.created)
            && parsed.id.as_ref() == Some(&head.id)
            && parsed.title.as_ref() == Some(&head.title)
            && parsed.tags == head.tags
            && parsed.attachments == head.attachments
            && parsed.body_file == head.body_file;
        match same {
            true => Ok(()),
            false => Err(Failure::new(
                Code::Integrity,
                "export_differs",
                format!("{path} does not read back as what was written; nothing was put in place"),
            )
            .hint("`espejo export --format json`, and please report it")),
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let mut file = self.create(path)?;
        file.write_all(bytes).map_err(|error| Failure::io("writing the export", &error))
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
        let mut file = self.create(path)?;
        vault.read_blob(blob, &mut file)?;
        drop(file);
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

/// The day of a moment, in UTC; nothing if it is in no year of four digits.
fn day(ms: i64) -> String {
    let text = written(ms);
    let day = text.get(..10).filter(|day| day.as_bytes()[4] == b'-' && day.as_bytes()[0].is_ascii_digit());
    day.unwrap_or_default().to_owned()
}

/// Why a version was not written.
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
