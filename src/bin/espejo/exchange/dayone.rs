//! Day One's JSON export: a zip with one JSON file per journal, and its media in folders.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::Deserialize;
use serde_json::Value;
use zip::ZipArchive;

use super::document::link_to;
use super::front::{join, moment_of};
use super::{Attached, Body, Document, Found, MAX_TEXT_BYTES, Origin, attach};

/// Files by their MD5, which is their name in the export: the whole name, and where they are.
type Media = BTreeMap<String, (String, Origin)>;

#[derive(Deserialize)]
struct Journal {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    uuid: String,
    creation_date: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    starred: bool,
    #[serde(default)]
    tags: Vec<String>,
    time_zone: Option<String>,
    location: Option<BTreeMap<String, Value>>,
    weather: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    photos: Vec<Medium>,
    #[serde(default)]
    videos: Vec<Medium>,
    #[serde(default)]
    audios: Vec<Medium>,
    #[serde(default)]
    pdf_attachments: Vec<Medium>,
}

#[derive(Deserialize)]
struct Medium {
    identifier: String,
    md5: Option<String>,
    #[serde(rename = "type")]
    ending: Option<String>,
    filename: Option<String>,
}

static LINK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\]\(dayone-moment:/+(?:[a-zA-Z]+/)?([0-9A-Fa-f-]{32,36})\)").expect("a constant")
});
/// Marks that Day One escapes though nothing asks for it.
static ESCAPED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\\([.!()+-])").expect("a constant"));

/// Reads an export.
pub fn read(path: &Path) -> Result<Found, String> {
    let broken = |error: zip::result::ZipError| format!("this is not a zip file of Day One's: {error}");
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut archive = ZipArchive::new(file).map_err(broken)?;
    let mut found = Found::default();
    let mut journals = Vec::new();
    let mut media = Media::new();
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(broken)?;
        let name = member.name().map_err(broken)?.into_owned();
        if member.is_dir() {
            continue;
        }
        let (folder, base) = name.rsplit_once('/').unwrap_or(("", &name));
        match base.rsplit_once('.') {
            Some((journal, "json")) if folder.is_empty() => {
                let mut text = String::new();
                let read = member.by_ref().take(MAX_TEXT_BYTES + 1).read_to_string(&mut text);
                match read {
                    Ok(len_bytes) if len_bytes as u64 > MAX_TEXT_BYTES => {
                        found.skip(name, "it is longer than 64 MiB");
                    }
                    Ok(_) => journals.push((journal.to_owned(), text)),
                    Err(error) => found.skip(name, error.to_string()),
                }
            }
            ending => {
                let md5 = ending.map_or(base, |(md5, _)| md5).to_owned();
                media.insert(md5, (name, Origin::in_zip(path.to_owned(), index)));
            }
        }
    }
    if journals.is_empty() && found.skipped.is_empty() {
        return Err("there is no journal of Day One's in it".to_owned());
    }
    for (name, text) in journals {
        match serde_json::from_str::<Journal>(&text) {
            Ok(journal) => {
                journal.entries.into_iter().for_each(|entry| take(&name, entry, &media, &mut found));
            }
            Err(error) => found.skip(format!("{name}.json"), error.to_string()),
        }
    }
    let attached = found.documents.iter().flat_map(|document| &document.attachments);
    let attached = attached.map(|it| it.origin.clone()).collect::<HashSet<_>>();
    for (name, origin) in media.into_values() {
        if !attached.contains(&origin) {
            found.skip(name, "no entry that was taken lists it");
        }
    }
    Ok(found)
}

fn take(journal: &str, entry: Entry, media: &Media, found: &mut Found) {
    let Some(created) = moment_of(&entry.creation_date) else {
        found.skip(&entry.uuid, format!("{:?} is no date", entry.creation_date));
        return;
    };
    let lists = [&entry.photos, &entry.videos, &entry.audios, &entry.pdf_attachments];
    let mut attachments = Vec::<Attached>::new();
    let mut names = BTreeMap::<&str, String>::new();
    for medium in lists.into_iter().flatten() {
        let origin = medium.md5.as_ref().and_then(|md5| media.get(md5));
        let Some((_, origin)) = origin else {
            found.skip(
                &entry.uuid,
                format!("its file {} is not in the export; the text was taken without it", medium.identifier),
            );
            continue;
        };
        let ending =
            medium.ending.as_deref().map(|it| format!(".{}", it.trim_start_matches('.'))).unwrap_or_default();
        let wanted = medium
            .filename
            .clone()
            .unwrap_or_else(|| format!("{}{ending}", medium.identifier.to_lowercase()));
        let name = attach(&mut attachments, &wanted.replace(['/', '\\'], "_"), None, origin.clone());
        names.insert(&medium.identifier, name);
    }
    let text = ESCAPED.replace_all(&entry.text, "$1").replace('\u{fffc}', "");
    let text = LINK.replace_all(&text, |link: &Captures<'_>| match names.get(&link[1]) {
        Some(name) => format!("]({})", link_to(name)),
        None => link[0].to_owned(),
    });
    let mut tags = entry.tags.clone();
    if entry.starred {
        tags.push("starred".to_owned());
    }
    let mut kept = format!("journal: {}\n", Value::from(journal));
    let zone = entry.time_zone.map(Value::from);
    let others = [
        ("timezone", zone),
        ("location", entry.location.map(|it| it.into_iter().collect())),
        ("weather", entry.weather.map(|it| it.into_iter().collect())),
    ];
    for (name, value) in others {
        kept.extend(value.map(|value| format!("{name}: {value}\n")));
    }
    found.documents.push(Document {
        source: entry.uuid,
        id: None,
        // The first line of the text is what Day One shows.
        title: espejo::entry::title_from_body(&text),
        created,
        is_dated: true,
        tags,
        media_type: "text/markdown".to_owned(),
        body: Body::Text(join(&kept, &text)),
        attachments,
        missing: Vec::new(),
    });
}
