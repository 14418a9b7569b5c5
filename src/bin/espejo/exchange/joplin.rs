//! Joplin's export: a JEX file (a tar), or the same as a folder (RAW).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::document::link_to;
use super::front::{join, moment_of};
use super::{Attached, Body, Document, Found, MAX_TEXT_BYTES, Origin, attach_once};

const NOTE: &str = "1";
const FOLDER: &str = "2";
const RESOURCE: &str = "4";
const TAG: &str = "5";
const NOTE_TAG: &str = "6";

/// Properties of a note that have no place in an entry and are worth keeping above its text.
const KEPT: [&str; 9] = [
    "source_url",
    "author",
    "latitude",
    "longitude",
    "altitude",
    "is_todo",
    "todo_due",
    "todo_completed",
    "is_conflict",
];

/// Where a link leads, in Markdown or HTML, with a title or without.
static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r":/([0-9a-f]{32})\b").expect("a constant"));

/// One item of the export: its text, and the properties below it.
struct Item {
    title: String,
    body: String,
    properties: BTreeMap<String, String>,
}

impl Item {
    fn get(&self, name: &str) -> &str {
        self.properties.get(name).map_or("", String::as_str)
    }
}

/// Title, empty line, body, empty line, and `key: value` lines: found from the end, since a body may hold anything.
fn parse(text: &str) -> Option<Item> {
    let text = text.trim_end_matches('\n');
    let (above, properties) = match text.rsplit_once("\n\n") {
        Some((above, properties)) => (above, properties),
        None => ("", text),
    };
    let unescaped = |value: &str| value.replace("\\n", "\n").replace("\\r", "\r");
    let property = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), unescaped(value.strip_prefix(' ').unwrap_or(value))))
    };
    let properties = properties.lines().map(property).collect::<Option<BTreeMap<_, _>>>()?;
    properties.contains_key("type_").then_some(())?;
    let (title, body) = above.split_once("\n\n").unwrap_or((above, ""));
    Some(Item { title: title.to_owned(), body: body.to_owned(), properties })
}

/// Reads an export.
pub fn read(path: &Path) -> Result<Found, String> {
    let mut found = Found::default();
    let mut items = BTreeMap::<String, Item>::new();
    let mut files = BTreeMap::<String, Origin>::new();
    let mut take = |name: &str, text: Result<String, Origin>, found: &mut Found| match text {
        Ok(text) => match parse(&text) {
            Some(item) if !item.get("id").is_empty() => drop(items.insert(item.get("id").to_owned(), item)),
            _ => found.skip(name, "it is no item of Joplin's"),
        },
        Err(origin) => {
            let id = name.rsplit('/').next().unwrap_or(name);
            files.insert(id.split('.').next().unwrap_or(id).to_owned(), origin);
        }
    };
    if path.is_dir() {
        for item in walkdir::WalkDir::new(path).sort_by_file_name().into_iter().filter_map(Result::ok) {
            if !item.file_type().is_file() {
                continue;
            }
            let name = item.path().strip_prefix(path).unwrap_or(item.path()).to_string_lossy().into_owned();
            let text = if is_item(&name) { text_of(File::open(item.path())) } else { None };
            take(&name, text.ok_or_else(|| Origin::file(item.into_path())), &mut found);
        }
    } else {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut archive = tar::Archive::new(file);
        let broken = |error: std::io::Error| format!("this is not a JEX file: {error}");
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
            let range = (entry.raw_file_position(), entry.size());
            let text = if is_item(&name) { text_of(Ok(&mut entry)) } else { None };
            let origin = Origin::range(path.to_owned(), range.0, range.1);
            take(&name, text.ok_or(origin), &mut found);
        }
    }
    if items.is_empty() {
        return Err("there is nothing of Joplin's in it".to_owned());
    }
    notes(&items, &files, &mut found);
    Ok(found)
}

fn is_item(name: &str) -> bool {
    let id = name.rsplit('/').next().and_then(|name| name.strip_suffix(".md")).unwrap_or_default();
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn text_of(reader: std::io::Result<impl Read>) -> Option<String> {
    let mut text = String::new();
    reader.ok()?.take(MAX_TEXT_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn notes(items: &BTreeMap<String, Item>, files: &BTreeMap<String, Origin>, found: &mut Found) {
    let of_type = |kind: &'static str| items.iter().filter(move |(_, item)| item.get("type_") == kind);
    let mut tags = BTreeMap::<&str, Vec<String>>::new();
    for (_, link) in of_type(NOTE_TAG) {
        let tag = items.get(link.get("tag_id")).filter(|tag| tag.get("type_") == TAG);
        tags.entry(link.get("note_id")).or_default().extend(tag.map(|tag| tag.title.clone()));
    }
    for (id, note) in of_type(NOTE) {
        let name = format!("{} ({id})", note.title);
        if note.get("encryption_applied") == "1" {
            found.skip(name, "it is encrypted; export it from a Joplin that has the password");
            continue;
        }
        if !["", "0"].contains(&note.get("deleted_time")) {
            found.skip(name, "it is in Joplin's trash");
            continue;
        }
        let time = |name| moment_of(note.get(name));
        let Some(created) = time("user_created_time").or_else(|| time("created_time")) else {
            found.skip(name, "it says no time");
            continue;
        };
        let mut attachments = Vec::<Attached>::new();
        let mut missing = None;
        let body = LINK.replace_all(&note.body, |link: &Captures<'_>| {
            let Some(resource) = items.get(&link[1]).filter(|it| it.get("type_") == RESOURCE) else {
                return link[0].to_owned();
            };
            match files.get(&link[1]) {
                Some(origin) => attach(&link[1], resource, origin, &mut attachments),
                None => {
                    missing = Some(resource.title.clone());
                    link[0].to_owned()
                }
            }
        });
        let body = body.into_owned();
        if let Some(missing) = missing {
            found.skip(
                &name,
                format!("its file {missing:?} is not in the export; the text was taken without it"),
            );
        }
        let mut kept = String::new();
        let notebook = notebook(items, note.get("parent_id"));
        let notebook = Some(("notebook", notebook.as_str()));
        let others = KEPT.iter().map(|name| (*name, note.get(name)));
        for (name, value) in notebook.into_iter().chain(others) {
            if !value.is_empty() && !value.trim_matches(['0', '.']).is_empty() {
                kept.push_str(&format!("{name}: {}\n", serde_json::Value::from(value)));
            }
        }
        let body = if kept.is_empty() { body } else { join(&kept, &body) };
        let media_type = if note.get("markup_language") == "2" { "text/html" } else { "text/markdown" };
        let mut tags = tags.remove(id.as_str()).unwrap_or_default();
        tags.sort();
        found.documents.push(Document {
            source: id.clone(),
            id: None,
            title: note.title.clone(),
            created,
            is_dated: true,
            tags,
            media_type: media_type.to_owned(),
            body: Body::Text(body),
            attachments,
            missing: Vec::new(),
        });
    }
}

/// The notebooks a note is in, from the outermost.
fn notebook(items: &BTreeMap<String, Item>, id: &str) -> String {
    let mut names = Vec::new();
    let mut next = id;
    while let Some(folder) = items.get(next).filter(|it| it.get("type_") == FOLDER) {
        names.push(folder.title.as_str());
        next = folder.get("parent_id");
        // A ring is nobody's intention.
        if names.len() > 32 {
            break;
        }
    }
    names.reverse();
    names.join("/")
}

fn attach(id: &str, resource: &Item, origin: &Origin, attachments: &mut Vec<Attached>) -> String {
    let ending = resource.get("file_extension");
    let title = Some(resource.title.replace(['/', '\\'], "_")).filter(|title| !title.is_empty());
    let named =
        title.unwrap_or_else(|| if ending.is_empty() { id.to_owned() } else { format!("{id}.{ending}") });
    let mime = Some(resource.get("mime")).filter(|mime| !mime.is_empty());
    link_to(&attach_once(attachments, &named, mime, origin.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_found_from_the_end() {
        let item =
            parse("a title\n\nbody: not a property\n\nmore\n\nid: 0123\nauthor: \nsource: a\\nb\ntype_: 1")
                .unwrap();
        assert_eq!((item.title.as_str(), item.body.as_str()), ("a title", "body: not a property\n\nmore"));
        assert_eq!((item.get("id"), item.get("source"), item.get("author")), ("0123", "a\nb", ""));
        assert_eq!(parse("id: 5\ntype_: 6").unwrap().title, "");
        assert!(parse("just text").is_none());
    }
}
