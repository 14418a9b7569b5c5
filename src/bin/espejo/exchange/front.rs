//! Front matter: the fields above a text, between two lines of three hyphens.

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, tz::TimeZone};
use yaml_serde::Value;

/// Longer front matter of others is part of the text.
pub const MAX_FRONT_BYTES: usize = 64 << 10;

const FENCE: &str = "---\n";

/// What follows the milliseconds of a moment that no calendar here reaches.
const OUTSIDE: &str = " ms since 1970";

/// The moments that are written as dates, in milliseconds: 0001-01-01 until 9999-12-30T22:00, which every calendar has.
const DATES: std::ops::Range<i64> = -62_135_596_800_000..253_402_207_200_000;

/// A field: its name, and the lines it is written in.
pub type Field<'a> = (&'a str, &'a str);

/// A text that begins with front matter.
#[derive(Debug, PartialEq, Eq)]
pub struct Front<'a> {
    pub fields: Vec<Field<'a>>,
    /// What follows the second fence.
    pub rest: &'a str,
}

/// Takes the front matter off a text; `None` if there is none of at most `max_bytes` that can be told apart field by field.
pub fn split(text: &str, max_bytes: usize) -> Option<Front<'_>> {
    let inner = text.strip_prefix(FENCE)?;
    let mut fields = Vec::<(&str, std::ops::Range<usize>)>::new();
    let mut at = 0;
    for line in inner.split_inclusive('\n') {
        if line == FENCE || line == "---" {
            let rest = &inner[at + line.len()..];
            let fields = fields.into_iter().map(|(name, lines)| (name, &inner[lines]));
            return Some(Front { fields: fields.collect(), rest });
        }
        let next = at + line.len();
        if next > max_bytes || !line.ends_with('\n') || line.ends_with("\r\n") {
            return None;
        }
        match name_of(line) {
            Some(name) => fields.push((name, at..next)),
            None if goes_on(line) => fields.last_mut()?.1.end = next,
            None => return None,
        }
        at = next;
    }
    None
}

/// The name of the field that begins in this line: anything before a colon that YAML does not read as something else.
fn name_of(line: &str) -> Option<&str> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty()
        && !name.starts_with([
            ' ', '\t', '-', '#', '[', ']', '{', '}', ',', '"', '\'', '&', '*', '!', '|', '>', '%', '@', '`',
        ])
        && !name.contains(char::is_control);
    (is_name && value.starts_with([' ', '\n'])).then_some(name)
}

fn goes_on(line: &str) -> bool {
    line.starts_with([' ', '\t', '-', '#', '\n', ']', '}'])
}

/// A text with these lines as its front matter.
pub fn join(lines: &str, rest: &str) -> String {
    format!("{FENCE}{lines}{FENCE}{rest}")
}

/// The value of a field, as YAML has it.
fn value(lines: &str) -> Option<Value> {
    let mapping = yaml_serde::from_str::<yaml_serde::Mapping>(lines).ok()?;
    mapping.into_iter().next().map(|(_, value)| value)
}

/// A word or a sentence. What is not quoted is taken as it stands: `no` is a title, not a truth value.
pub fn text(lines: &str) -> Option<String> {
    let plain = lines.split_once(':')?.1.trim();
    if plain.starts_with(['"', '\'', '|', '>', '[', '{', '&', '*', '!']) || lines.trim_end().contains('\n') {
        return match value(lines)? {
            Value::String(text) => Some(text),
            _ => None,
        };
    }
    Some(plain.to_owned())
}

/// A list of words: a YAML list, or words between commas or spaces.
pub fn words(lines: &str) -> Option<Vec<String>> {
    let word = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    let words = match value(lines)? {
        Value::Null => Vec::new(),
        Value::Sequence(values) => values.into_iter().map(word).collect::<Option<Vec<_>>>()?,
        value => {
            let text = word(value)?;
            let separator = if text.contains(',') { |c: char| c == ',' } else { char::is_whitespace };
            text.split(separator).map(str::to_owned).collect()
        }
    };
    let words = words.iter().map(|word| word.trim().trim_start_matches('#').to_owned());
    Some(words.filter(|word| !word.is_empty()).collect())
}

/// A moment, milliseconds since 1970 UTC. One without a zone is in local time.
pub fn moment(lines: &str) -> Option<i64> {
    moment_of(&text(lines)?)
}

pub fn moment_of(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Some(ms) = text.strip_suffix(OUTSIDE).and_then(|ms| ms.parse().ok()) {
        return Some(ms);
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_millisecond());
    }
    let local = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(DateTime::from)).ok()?;
    local.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp().as_millisecond())
}

/// A moment as it is written: in UTC, to the millisecond.
pub fn written(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(moment) if DATES.contains(&ms) => format!("{moment:.3}"),
        _ => format!("{ms}{OUTSIDE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_apart_with_the_lines_they_are_written_in() {
        let text = "---\ntitle: no\ntags:\n  - a\n  - b\naliases: [x]\n---\n\nbody\n---\n";
        let front = split(text, MAX_FRONT_BYTES).unwrap();
        assert_eq!(
            front.fields.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["title", "tags", "aliases"]
        );
        assert_eq!((front.fields[1].1, front.rest), ("tags:\n  - a\n  - b\n", "\nbody\n---\n"));
        assert_eq!(super::text(front.fields[0].1).unwrap(), "no");
        assert_eq!(words(front.fields[1].1).unwrap(), ["a", "b"]);
        let lines = front.fields.iter().map(|(_, lines)| *lines).collect::<String>();
        assert_eq!(join(&lines, front.rest), text);
    }

    #[test]
    fn what_is_no_front_matter_is_text() {
        for text in [
            "",
            "---",
            "---\n",
            "---\nno field\n---\n",
            "---\ntitle: x\n",
            "a\n---\nb: c\n---\n",
            "---\r\na: b\r\n---\r\n",
        ] {
            assert_eq!(split(text, MAX_FRONT_BYTES), None, "{text:?}");
        }
        assert_eq!(split("---\n---\nbody", 0).unwrap().rest, "body");
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(text("title: \"a: b\"\n").unwrap(), "a: b");
        assert_eq!(text("title: it's: fine # really\n").unwrap(), "it's: fine # really");
        assert_eq!(words("tags: one, two words\n").unwrap(), ["one", "two words"]);
        assert_eq!(words("tags: \"#one two\"\n").unwrap(), ["one", "two"]);
        assert_eq!(words("tags: [2020, yes, true]\n").unwrap(), ["2020", "yes", "true"]);
        assert_eq!(moment("created: 2020-01-02 03:04:05Z\n"), Some(1_577_934_245_000));
        assert_eq!(moment("created: \"2020-01-02T03:04:05.678Z\"\n"), Some(1_577_934_245_678));
        assert!(moment("date: 2020-01-02\n").is_some());
        assert_eq!(moment("date: soon\n"), None);
        for ms in [0, -1, 253_402_000_000_000, DATES.start - 1, DATES.start, DATES.end, i64::MAX, i64::MIN] {
            assert_eq!(moment_of(&written(ms)), Some(ms));
        }
    }
}
