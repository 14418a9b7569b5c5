//! What `jrnl --format json` writes.

use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::{Body, Document, Found};

#[derive(Deserialize)]
struct Journal {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    title: String,
    #[serde(default)]
    body: String,
    date: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    starred: bool,
}

/// Reads a journal. Its entries have no ids: one is the same next time if all of it is.
pub fn read(_: &Path, text: &str) -> Result<Found, String> {
    let journal = serde_json::from_str::<Journal>(text)
        .map_err(|error| format!("this is not what `jrnl --format json` writes: {error}"))?;
    let mut found = Found::default();
    for (number, entry) in journal.entries.into_iter().enumerate() {
        let at = match entry.time.as_str() {
            "" => format!("{}T00:00", entry.date),
            time => format!("{}T{time}", entry.date),
        };
        let zoned = at.parse::<DateTime>().ok().and_then(|at| at.to_zoned(TimeZone::system()).ok());
        let Some(zoned) = zoned else {
            found.skip(format!("entry {}", number + 1), format!("{at:?} is no date"));
            continue;
        };
        let mut tags =
            entry.tags.iter().map(|tag| tag.trim_start_matches(['@', '#']).to_owned()).collect::<Vec<_>>();
        if entry.starred {
            tags.push("starred".to_owned());
        }
        found.documents.push(Document {
            source: format!("{at}\n{}\n{}", entry.title, entry.body),
            id: None,
            title: entry.title,
            created: zoned.timestamp().as_millisecond(),
            is_dated: true,
            tags,
            media_type: "text/markdown".to_owned(),
            body: Body::Text(entry.body),
            attachments: Vec::new(),
            missing: Vec::new(),
        });
    }
    Ok(found)
}
