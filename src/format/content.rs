//! The document of a live version, in the schema this program writes and in those before it.
//!
//! What an earlier schema says is read by a chain of pure functions, each from one schema to the next: whoever adds a
//! schema adds a struct for what was, and one function. Nothing here knows files or versions.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::codec::Malformed;
use crate::entry::{Body, Content, PART_BYTES, SCHEMA};

/// What this program calls itself, in its feed and in backups.
pub const PROGRAM: &str = concat!("espejo ", env!("CARGO_PKG_VERSION"));

/// The media type of what was written before there were others.
const TEXT: &str = "text/markdown";

/// Schema 1, the first journal: text, and nothing beside it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    title: String,
    body: String,
    tags: Vec<String>,
    created: i64,
    /// Said twice: by the version's dot, which counts, and here.
    #[serde(rename = "updated")]
    _updated: i64,
}

/// Schema 2 knows media types and attachments, leaves `updated` to the dot, and has each tag once.
fn second(first: First) -> Content {
    let mut seen = HashSet::new();
    let mut tags = first.tags;
    tags.retain(|tag| seen.insert(tag.clone()));
    Content {
        title: first.title,
        created: first.created,
        tags,
        media_type: TEXT.to_owned(),
        body: Body::Text(first.body),
        attachments: Vec::new(),
    }
}

/// Reads the document of a live version written in `schema`, which is not above [`SCHEMA`].
pub fn read_content(schema: u32, json: &[u8]) -> Result<Content, Malformed> {
    let content = match schema {
        1 => second(parse(json)?),
        SCHEMA => parse(json)?,
        _ => return Err(Malformed("schema")),
    };
    let parts_fit =
        content.blobs().flat_map(|blob| &blob.parts).all(|part| part.len_bytes <= PART_BYTES as u64);
    parts_fit.then_some(content).ok_or(Malformed("content"))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(json).map_err(|_| Malformed("content"))
}

/// The schemas a program reads, by what it calls itself in its feed; `None` for one that is not known here, which is
/// newer or no espejo.
pub fn schemas_read_by(program: &str) -> Option<RangeInclusive<u32>> {
    let number = program.strip_prefix("espejo ")?;
    let mut numbers = number.split('.').map(str::parse::<u32>);
    match (numbers.next()?.ok()?, numbers.next()?.ok()?) {
        (0, 0) => Some(1..=1),
        // It took schema 1 for damage.
        (0, 1) => Some(2..=2),
        (0, 2) => Some(1..=2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_journal_is_read_as_what_it_means_today() {
        let json = r#"{"title":"Rain","body":"All day.","tags":["b","a","b"],"created":5,"updated":7}"#;
        let content = read_content(1, json.as_bytes()).unwrap();
        let expected = Content {
            title: "Rain".to_owned(),
            created: 5,
            tags: vec!["b".to_owned(), "a".to_owned()],
            media_type: "text/markdown".to_owned(),
            body: Body::Text("All day.".to_owned()),
            attachments: Vec::new(),
        };
        assert_eq!(content, expected);
        let again = serde_json::to_vec(&content).unwrap();
        assert_eq!(read_content(2, &again).unwrap(), expected);
    }

    #[test]
    fn a_document_of_another_schema_than_it_says_is_refused() {
        let first = r#"{"title":"","body":"","tags":[],"created":0,"updated":0}"#;
        let second =
            r#"{"title":"","created":0,"tags":[],"media_type":"text/plain","body":"","attachments":[]}"#;
        assert!(read_content(1, first.as_bytes()).is_ok());
        assert!(read_content(2, second.as_bytes()).is_ok());
        for (schema, json) in [(0, first), (2, first), (3, first), (0, second), (1, second), (3, second)] {
            assert!(read_content(schema, json.as_bytes()).is_err(), "{schema} {json}");
        }
        for json in [
            r#"{"title":"","body":"","tags":[],"created":0}"#,
            r#"{"title":"","body":"","tags":[],"created":0,"updated":0,"more":1}"#,
            r#"{"title":"","title":"","body":"","tags":[],"created":0,"updated":0}"#,
            r#"{"title":"","body":{"parts":[]},"tags":[],"created":0,"updated":0}"#,
            r#"{"title":"","body":"","tags":[],"created":0.5,"updated":0}"#,
        ] {
            assert!(read_content(1, json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_program_says_by_its_number_what_it_reads() {
        assert_eq!(schemas_read_by(PROGRAM), Some(1..=SCHEMA));
        for (program, reads) in [
            ("espejo 0.0.1", Some(1..=1)),
            ("espejo 0.1.0", Some(2..=2)),
            ("espejo 9.0.0", None),
            ("espejo", None),
            ("espejo 0", None),
            ("other 0.1.0", None),
        ] {
            assert_eq!(schemas_read_by(program), reads, "{program}");
        }
    }
}
