//! A folder of Markdown files: anybody's, an Obsidian vault, or what `espejo export` wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use jiff::Timestamp;
use regex::{Captures, Regex};

use super::document::{self, Parsed, link_to, unescaped};
use super::front::moment_of;
use super::{Attached, Body, Document, Found, MAX_TEXT_BYTES, Origin, attach_once};

/// How links and tags in the text are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Markdown,
    /// `[[links]]` and `#tags` count too.
    Obsidian,
}

static LINK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\]\(<?([^)>\s]+)>?(?:\s+"[^"]*")?\)"#).expect("a constant"));
static EMBED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"!\[\[([^\]|#\n]+)([^\]\n]*)\]\]").expect("a constant"));
static TAG: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)(?:^|\s)#([\p{L}\p{N}_/-]*[\p{L}_/-][\p{L}\p{N}_/-]*)").expect("a constant")
});

/// Reads all of it but what is hidden.
pub fn read(root: &Path, dialect: Dialect) -> Found {
    let mut found = Found::default();
    let mut texts = Vec::new();
    let mut files = BTreeMap::<String, PathBuf>::new();
    let visible =
        |item: &walkdir::DirEntry| item.depth() == 0 || !item.file_name().to_string_lossy().starts_with('.');
    for item in walkdir::WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(visible) {
        match item {
            Ok(item) if item.file_type().is_dir() => {}
            Ok(item) if !item.file_type().is_file() => {
                found.skip(relative(root, item.path()), "it is a link or no file; it was not followed");
            }
            Ok(item) => match is_text(item.path()) {
                true => texts.push(item.into_path()),
                false => drop(files.insert(relative(root, item.path()), item.into_path())),
            },
            Err(error) => found
                .skip(error.path().map_or_else(String::new, |path| relative(root, path)), error.to_string()),
        }
    }
    let folder = Folder { dialect, files };
    let mut linked = BTreeSet::new();
    for path in texts {
        let source = relative(root, &path);
        match folder.document(&path, &source) {
            Ok(document) => {
                let origins = document.attachments.iter().map(|attached| &attached.origin);
                let body = match &document.body {
                    Body::File(origin) => Some(origin),
                    Body::Text(_) => None,
                };
                linked.extend(origins.chain(body).map(|origin| origin.path.clone()));
                found.documents.push(document);
            }
            Err(reason) => found.skip(source, reason),
        }
    }
    for (name, path) in &folder.files {
        if !linked.contains(path) {
            found.skip(name, "no text links to it");
        }
    }
    found
}

fn relative(root: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(root).unwrap_or(path).components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|it| it.eq_ignore_ascii_case("md") || it.eq_ignore_ascii_case("markdown"))
}

struct Folder {
    dialect: Dialect,
    /// Everything that is no text, by its path below the root.
    files: BTreeMap<String, PathBuf>,
}

impl Folder {
    fn document(&self, path: &Path, source: &str) -> Result<Document, String> {
        let metadata = path.metadata().map_err(|error| error.to_string())?;
        if metadata.len() > MAX_TEXT_BYTES {
            return Err("it is longer than 64 MiB".to_owned());
        }
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        let text = String::from_utf8(text).map_err(|_| "it is not UTF-8 text".to_owned())?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let Parsed { id, title, created, tags, media_type, body_file, attachments, body } =
            document::parse(text);
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut attached = Vec::<Attached>::new();
        let mut missing = Vec::new();
        for listed in attachments {
            let (name, media_type) = (listed.name, listed.media_type);
            let Some(file) = listed.file else {
                missing.push(name);
                continue;
            };
            let file = self.find(source, &file).ok_or_else(|| format!("its file {file:?} is not there"))?;
            attached.push(Attached { name, media_type, origin: Origin::file(file.to_owned()) });
        }
        let mut tags = tags;
        let body = match body_file {
            Some(None) => return Err("its text could not be read when it was exported".to_owned()),
            Some(Some(file)) => {
                let file =
                    self.find(source, &file).ok_or_else(|| format!("its text {file:?} is not there"))?;
                Body::File(Origin::file(file.to_owned()))
            }
            None => {
                let body = self.with_attachments(source, &body, &mut attached);
                if self.dialect == Dialect::Obsidian {
                    tags.extend(TAG.captures_iter(&body).map(|tag| tag[1].to_owned()));
                }
                Body::Text(body)
            }
        };
        let modified = || Timestamp::try_from(metadata.modified().ok()?).ok().map(Timestamp::as_millisecond);
        let dated = created.or_else(|| moment_of(stem.get(..10)?));
        Ok(Document {
            source: source.to_owned(),
            id: id.and_then(|id| id.parse().ok()),
            title: title.unwrap_or(stem),
            created: dated.or_else(modified).unwrap_or_default(),
            is_dated: dated.is_some(),
            tags,
            media_type: media_type.unwrap_or_else(|| "text/markdown".to_owned()),
            body,
            attachments: attached,
            missing,
        })
    }

    /// The text with its links to files in this folder leading to attachments.
    fn with_attachments(&self, source: &str, body: &str, attached: &mut Vec<Attached>) -> String {
        let body = match self.dialect {
            Dialect::Markdown => body.to_owned(),
            Dialect::Obsidian => {
                let embed = |link: &Captures<'_>| match self.find(source, link[1].trim()) {
                    Some(file) => format!("![{}{}]({})", &link[1], &link[2], attach(file, attached)),
                    None => link[0].to_owned(),
                };
                EMBED.replace_all(body, embed).into_owned()
            }
        };
        let link = |link: &Captures<'_>| match self.find(source, &unescaped(&link[1])) {
            Some(file) => link[0].replace(&link[1], &attach(file, attached)),
            None => link[0].to_owned(),
        };
        LINK.replace_all(&body, link).into_owned()
    }

    /// The file in this folder that a link in `source` leads to: by its path, or in Obsidian's way by its name alone.
    fn find(&self, source: &str, target: &str) -> Option<&PathBuf> {
        let from = Path::new(source).parent().unwrap_or(Path::new(""));
        let by_path = |base: &Path| self.files.get(&plain(&base.join(target))?);
        let by_name = || {
            let name = target.rsplit('/').next().unwrap_or(target);
            let mut named = self.files.iter().filter(|(path, _)| path.rsplit('/').next() == Some(name));
            named.next().map(|(_, file)| file)
        };
        if target.contains("://") {
            return None;
        }
        let found = by_path(from).or_else(|| by_path(Path::new("")));
        found.or_else(|| if self.dialect == Dialect::Obsidian { by_name() } else { None })
    }
}

/// A path without detours; `None` if it leads out of the folder.
fn plain(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Makes a file an attachment, once, and gives the link to it.
fn attach(file: &Path, attached: &mut Vec<Attached>) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    link_to(&attach_once(attached, &name, None, Origin::file(file.to_owned())))
}
