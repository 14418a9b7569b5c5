//! What a person writes: the content of one live version of an entry.

use serde::{Deserialize, Serialize};

use crate::id::ObjectName;

/// The newest content schema this program writes and reads.
pub const SCHEMA: u32 = 2;

/// Longest title kept, in bytes of UTF-8.
pub const MAX_TITLE_BYTES: usize = 65_536;

/// A text body up to this many bytes lies inside the version's own object; a longer one, or one that is not text,
/// is stored in parts like an attachment.
pub const MAX_INLINE_BODY_BYTES: usize = 1 << 20;

/// Content bytes in one part: with its 8-byte length exactly 4 MiB, a size that needs no padding.
pub const PART_BYTES: usize = (4 << 20) - 8;

/// The content of a live version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// One line, without control characters; may be empty.
    pub title: String,
    /// When the person says it happened, milliseconds since 1970 UTC.
    pub created: i64,
    /// In the order given, without duplicates.
    pub tags: Vec<String>,
    /// RFC 6838 media type of the body.
    pub media_type: String,
    /// The text itself.
    pub body: Body,
    /// Files kept with the entry. Names are unique.
    pub attachments: Vec<Attachment>,
}

impl Content {
    /// A text of Markdown, with a title and when it happened (milliseconds since 1970 UTC).
    pub fn markdown(title: impl Into<String>, body: impl Into<String>, created: i64) -> Self {
        Self {
            title: title.into(),
            created,
            tags: Vec::new(),
            media_type: "text/markdown".to_owned(),
            body: Body::Text(body.into()),
            attachments: Vec::new(),
        }
    }
}

/// A body, in place or in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    /// UTF-8 text.
    Text(String),
    /// Long, or not text.
    Parts(Blob),
}

impl Body {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Parts(blob) => blob.len_bytes(),
        }
    }
}

/// A file kept with an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// File name, without directories.
    pub name: String,
    /// RFC 6838 media type, guessed from the name.
    pub media_type: String,
    /// Where its bytes are.
    pub blob: Blob,
}

/// Bytes stored in part objects, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// The parts; none for zero bytes.
    pub parts: Vec<Part>,
}

impl Blob {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len_bytes).sum()
    }
}

/// One part: an object and how many content bytes it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The sealed object.
    #[serde(with = "hex_name")]
    pub object: ObjectName,
    /// Content bytes in it, at most [`PART_BYTES`].
    #[serde(rename = "len")]
    pub len_bytes: u64,
}

mod hex_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::id::ObjectName;

    pub fn serialize<S: Serializer>(name: &ObjectName, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Content {
    /// Every blob of this content: the body's, if it is in parts, and the attachments'.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        let body = match &self.body {
            Body::Parts(blob) => Some(blob),
            Body::Text(_) => None,
        };
        body.into_iter().chain(self.attachments.iter().map(|attachment| &attachment.blob))
    }
}

/// `typed` as a title: line breaks and other control characters become spaces, ends are trimmed.
pub fn clean_title(typed: &str) -> String {
    let spaced = typed.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    spaced.trim().to_owned()
}

/// A title for a body that was given none: its first line with text, without Markdown's heading marks, cut at the
/// end of the first sentence or at 80 characters.
pub fn title_from_body(body: &str) -> String {
    let first =
        body.lines().map(|line| line.trim().trim_start_matches('#').trim()).find(|line| !line.is_empty());
    let line = clean_title(first.unwrap_or_default());
    let sentence = line.split_inclusive(['.', '!', '?']).next().unwrap_or_default();
    let title = if sentence.len() > 2 { sentence.trim_end_matches('.').trim_end() } else { &line };
    match title.char_indices().nth(80) {
        Some((cut, _)) => format!("{}…", title[..cut].trim_end()),
        None => title.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_gives_its_own_title() {
        for (body, title) in [
            ("\n\n# A heading\ntext", "A heading"),
            ("Rain again. Stayed in.", "Rain again"),
            ("Why? Because.", "Why?"),
            ("Well ... then", "Well"),
            ("", ""),
            ("a\tb\u{7}c", "a b c"),
        ] {
            assert_eq!(title_from_body(body), title);
        }
        assert_eq!(title_from_body(&"é".repeat(200)).chars().count(), 81);
    }
}
