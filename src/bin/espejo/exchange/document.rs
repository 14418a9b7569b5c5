//! The form in which entries are written for other programs: Markdown with front matter, and files beside it.
//!
//! `docs/format.md` §16 restates it, so that whoever recovers a vault without Espejo writes the same.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::front::{self, Front, MAX_FRONT_BYTES};

/// What stays as it is in a link.
const IN_LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Above the links to files that the text itself does not mention.
const LINKS: &str = "\n\n<!-- attachments -->\n";

/// The fields that are an entry's own. Not `id`: Joplin takes one of 32 digits for a note it has already.
const OWN: [&str; 8] =
    ["espejo_id", "title", "created", "updated", "tags", "media_type", "body_file", "attachments"];

/// How a document begins that was written here.
const OURS: &str = "---\nespejo_id: ";

/// An attachment, and where its file is, as seen from the document; nowhere if it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub media_type: String,
    pub file: Option<String>,
}

/// What stands above a text. In this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    #[serde(rename = "espejo_id")]
    pub id: String,
    pub title: String,
    pub created: String,
    pub updated: String,
    pub tags: Vec<String>,
    pub media_type: String,
    /// Where the body is, if not here; nowhere if it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(clippy::option_option, reason = "nowhere is not the same as here")]
    pub body_file: Option<Option<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Listed>,
}

impl Head {
    fn lines(&self) -> String {
        let serde_json::Value::Object(fields) = serde_json::to_value(self).expect("strings and lists") else {
            return String::new();
        };
        let in_order = OWN.iter().filter_map(|name| Some((name, fields.get(*name)?)));
        in_order.map(|(name, value)| format!("{name}: {value}\n")).collect()
    }
}

/// The document that says `body` under `head`. Front matter of its own that the body begins with becomes part of it.
pub fn render(head: &Head, body: &str) -> String {
    let body = with_paths(body, &head.attachments);
    let lines = head.lines();
    let document = match own_front(&body) {
        Some((fields, rest)) => front::join(&(lines + fields), &format!("\n{rest}")),
        None => front::join(&lines, &format!("\n{body}")),
    };
    document + &links(&body, &head.attachments)
}

/// The lines of the body's own front matter, if none of them is one of an entry's.
fn own_front(body: &str) -> Option<(&str, &str)> {
    let Front { fields, rest } = front::split(body, MAX_FRONT_BYTES)?;
    let is_own = |name: &str| OWN.contains(&name);
    // A fence that ends the text without a line feed would come back with one.
    let is_whole = body[..body.len() - rest.len()].ends_with('\n');
    if !is_whole || fields.is_empty() || fields.iter().any(|(name, _)| is_own(name)) {
        return None;
    }
    let lines = fields.iter().map(|(_, lines)| lines.len()).sum::<usize>();
    let start = body.len() - rest.len() - "---\n".len() - lines;
    Some((&body[start..start + lines], rest))
}

/// What is read of a document that may be one of ours, or anybody's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub id: Option<String>,
    pub title: Option<String>,
    pub created: Option<i64>,
    pub tags: Vec<String>,
    pub media_type: Option<String>,
    #[allow(clippy::option_option, reason = "nowhere is not the same as here")]
    pub body_file: Option<Option<String>>,
    pub attachments: Vec<Listed>,
    pub body: String,
}

/// Reads a document. Fields that have no place in an entry stay above its text, and so does front matter that cannot be
/// read.
pub fn parse(document: &str) -> Parsed {
    let is_ours = document.starts_with(OURS);
    let Some(Front { fields, rest }) =
        front::split(document, if is_ours { usize::MAX } else { MAX_FRONT_BYTES })
    else {
        return Parsed { body: document.to_owned(), ..Parsed::default() };
    };
    let mut parsed = Parsed::default();
    let mut kept = String::new();
    for (name, lines) in fields {
        let taken = match name {
            "espejo_id" => front::text(lines).map(|id| parsed.id = Some(id)),
            "title" => value(is_ours, lines, front::text).map(|title| parsed.title = Some(title)),
            "created" | "date" | "created_at" if parsed.created.is_none() => {
                front::moment(lines).map(|created| parsed.created = Some(created))
            }
            // It is the version's own affair.
            "updated" => front::moment(lines).map(|_| ()),
            "tags" => value(is_ours, lines, front::words).map(|tags| parsed.tags = tags),
            "media_type" => value(is_ours, lines, front::text).map(|it| parsed.media_type = Some(it)),
            "body_file" => value(is_ours, lines, |lines| front::text(lines).map(Some))
                .map(|file| parsed.body_file = Some(file)),
            "attachments" => json(lines).map(|listed| parsed.attachments = listed),
            _ => None,
        };
        if taken.is_none() {
            kept.push_str(lines);
        }
    }
    // One empty line below the fence is not text.
    let rest = rest.strip_prefix('\n').unwrap_or(rest);
    let body = match kept.is_empty() {
        true => rest.to_owned(),
        false => front::join(&kept, rest),
    };
    let body = body.strip_suffix(&links(&body_before_links(&body), &parsed.attachments)).unwrap_or(&body);
    parsed.body = with_names(body, &parsed.attachments);
    parsed
}

/// A field of a document as it was written here, or else as people write it: a document may have been edited since.
fn value<T: DeserializeOwned>(is_ours: bool, lines: &str, by_hand: impl Fn(&str) -> Option<T>) -> Option<T> {
    let exact = if is_ours { json(lines) } else { None };
    exact.or_else(|| by_hand(lines))
}

fn json<T: DeserializeOwned>(lines: &str) -> Option<T> {
    serde_json::from_str(lines.split_once(':')?.1).ok()
}

fn body_before_links(body: &str) -> String {
    body.rfind(LINKS).map_or(body, |at| &body[..at]).to_owned()
}

/// Links to the files a text does not mention.
fn links(body: &str, attachments: &[Listed]) -> String {
    let files = attachments.iter().filter_map(|it| Some((it, it.file.as_ref()?)));
    let unmentioned = files.filter(|(_, file)| !body.contains(&format!("]({file})")));
    let link = |(it, file): (&Listed, &String)| {
        let mark = if it.media_type.starts_with("image/") { "!" } else { "" };
        let name = it.name.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]");
        format!("{mark}[{name}]({file})\n")
    };
    let links = unmentioned.map(link).collect::<String>();
    if links.is_empty() { links } else { format!("{LINKS}{links}") }
}

/// How a text in a vault links to an attachment.
pub fn link_to(name: &str) -> String {
    format!("attachment:{}", utf8_percent_encode(name, IN_LINK))
}

/// What a link in a text from elsewhere leads to.
pub fn unescaped(target: &str) -> String {
    percent_decode_str(target).decode_utf8().map_or_else(|_| target.to_owned(), std::borrow::Cow::into_owned)
}

fn with_paths(body: &str, attachments: &[Listed]) -> String {
    attachments.iter().fold(body.to_owned(), |body, it| match &it.file {
        Some(file) => body.replace(&format!("]({})", link_to(&it.name)), &format!("]({file})")),
        None => body,
    })
}

fn with_names(body: &str, attachments: &[Listed]) -> String {
    attachments.iter().fold(body.to_owned(), |body, it| match &it.file {
        Some(file) => body.replace(&format!("]({file})"), &format!("]({})", link_to(&it.name))),
        None => body,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(attachments: Vec<Listed>) -> Head {
        Head {
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            title: "a \"title\": no".to_owned(),
            created: "2020-01-02T03:04:05.678Z".to_owned(),
            updated: "2021-01-02T03:04:05.678Z".to_owned(),
            tags: vec!["a b".to_owned(), "ü".to_owned()],
            media_type: "text/markdown".to_owned(),
            body_file: None,
            attachments,
        }
    }

    fn photo() -> Listed {
        let (name, media_type) = ("a [photo].jpg".to_owned(), "image/jpeg".to_owned());
        Listed { name, media_type, file: Some("_resources/01234567/a-photo.jpg".to_owned()) }
    }

    #[test]
    fn a_document_reads_back() {
        let body =
            "---\naliases: [x]\nweather: {sun: true}\n---\nSee ![it](attachment:a%20%5Bphoto%5D.jpg).\n";
        let head = head(vec![photo()]);
        let document = render(&head, body);
        assert!(
            document.contains("](_resources/01234567/a-photo.jpg)") && !document.contains(LINKS),
            "{document}"
        );
        assert_eq!(document.matches("---\n").count(), 2, "one front matter: {document}");
        let parsed = parse(&document);
        assert_eq!((parsed.body.as_str(), &parsed.attachments), (body, &head.attachments));
        assert_eq!((parsed.id, parsed.title), (Some(head.id), Some(head.title)));
        assert_eq!((parsed.created, parsed.tags), (Some(1_577_934_245_678), head.tags));
    }

    #[test]
    fn a_text_that_mentions_no_attachment_gets_links() {
        let document = render(&head(vec![photo()]), "text");
        assert!(document.ends_with(
            "text\n\n<!-- attachments -->\n![a \\[photo\\].jpg](_resources/01234567/a-photo.jpg)\n"
        ));
        assert_eq!(parse(&document).body, "text");
    }

    #[test]
    fn what_was_written_here_is_read_exactly_however_odd_or_long() {
        let mut head = head(vec![Listed { file: None, ..photo() }]);
        head.tags = vec!["#one".to_owned(), "two words".to_owned(), "x".repeat(MAX_FRONT_BYTES)];
        head.title = "\u{85}a\u{2028}b: \"c\" #d".to_owned();
        head.body_file = Some(None);
        let parsed = parse(&render(&head, ""));
        assert_eq!((parsed.tags, parsed.title), (head.tags, Some(head.title)));
        assert_eq!((parsed.attachments, parsed.body_file), (head.attachments, Some(None)));
        // By hand it is as people write it.
        let parsed = parse("---\nespejo_id: \"00\"\ntags:\n  - '#one'\ntitle: no\nbody_file: a.png\n---\n");
        assert_eq!((parsed.tags, parsed.title), (vec!["one".to_owned()], Some("no".to_owned())));
        assert_eq!(parsed.body_file, Some(Some("a.png".to_owned())));
    }

    #[test]
    fn front_matter_that_ends_with_the_text_comes_back() {
        for body in ["---\na: b\n---", "---\na: b\n---\n", "---\n---"] {
            assert_eq!(parse(&render(&head(Vec::new()), body)).body, body);
        }
    }

    #[test]
    fn fields_of_others_stay_above_the_text() {
        let parsed = parse("---\ntitle: x\nlayout: post\ntags: [a]\nlayout2:\n  - 1\n---\n\ntext\n");
        assert_eq!(parsed.body, "---\nlayout: post\nlayout2:\n  - 1\n---\ntext\n");
        assert_eq!((parsed.title.as_deref(), &parsed.tags[..]), (Some("x"), &["a".to_owned()][..]));
    }

    proptest! {
        #[test]
        fn any_text_comes_back(body in "(---\n)?([a-z]{1,3}: [a-z\\[\\]\"]{0,5}\n){0,3}(---\n)?\\PC{0,40}\n?(\n\n<!-- attachments -->\n)?", with_photo in any::<bool>()) {
            let head = head(if with_photo { vec![photo()] } else { Vec::new() });
            prop_assert_eq!(parse(&render(&head, &body)).body, body);
        }
    }
}
