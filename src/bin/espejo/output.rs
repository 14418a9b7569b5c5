//! Printing: data on stdout, everything else on stderr, and nothing to a terminal that could move its cursor.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use espejo::event::{Finding, Observer, Phase, Progress};
use serde_json::{Value, json};

use crate::args::Global;
use crate::failure::Failure;
use crate::progress::Bar;

/// How this run prints.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub quiet: bool,
}

impl Output {
    pub fn new(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet }
    }

    /// Prints the command's result: one JSON document, or text for a person.
    pub fn result(self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let mut text = if self.json { inert(json) } else { text() };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are.
    #[allow(clippy::unused_self, reason = "whoever prints has been given the right to")]
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::io("writing", &error))
    }

    /// Says something beside the result.
    pub fn note(self, text: impl Display) {
        if !self.quiet && !self.json {
            // Nobody is left to read it if this fails.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    #[allow(clippy::unused_self, reason = "whoever prints has been given the right to")]
    pub fn warn_all(self, findings: &[Finding]) {
        findings.iter().for_each(warn);
    }
}

/// Says something that needs attention. Not with `eprintln!`, which panics if nobody can be told.
pub fn warn(text: impl Display) {
    let _ = writeln!(io::stderr(), "warning: {}", visible(&text.to_string()));
}

/// Collects what the engine has to say, and shows how far it has come.
pub struct Collector {
    findings: Vec<Finding>,
    bar: Bar,
}

impl Collector {
    pub fn new(bar: Bar) -> Self {
        Self { findings: Vec::new(), bar }
    }

    /// What was found; the bar is gone.
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}

impl Observer for Collector {
    fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn progress(&mut self, Progress { phase, done, total }: Progress) {
        let what = match phase {
            Phase::Reading => "reading what others did",
            Phase::Fetching => "fetching",
            Phase::Sending => "sending",
        };
        self.bar.at(what, done, total);
    }
}

/// Findings as JSON.
pub fn warnings(findings: &[Finding]) -> Value {
    findings.iter().map(|finding| json!({ "kind": finding.kind(), "message": finding.to_string() })).collect()
}

/// Prints a failure, as its last word.
pub fn failure(failure: &Failure, json: bool) {
    if failure.silent {
        return;
    }
    let mut stderr = io::stderr().lock();
    // If even stderr is gone there is nobody to tell.
    let _ = if json {
        let mut value = failure.json();
        value["type"] = json!("error");
        writeln!(stderr, "{}", inert(&value))
    } else {
        let hint =
            failure.hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {}", visible(hint)));
        writeln!(stderr, "error: {}{hint}", visible(&failure.message))
    };
}

/// JSON in which control and direction-changing characters are escaped, so that it means the same to a program and
/// does nothing to a terminal.
fn inert(json: &Value) -> String {
    let text = json.to_string();
    if !text.contains(acts) {
        return text;
    }
    // They occur in strings only, and all of them are in the basic plane.
    text.chars().map(|c| if acts(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() }).collect()
}

/// What is kept, except where all is one line.
const BREAKS: [char; 2] = ['\n', '\t'];

fn acts(c: char) -> bool {
    (c.is_control() && !BREAKS.contains(&c)) || is_direction_mark(c)
}

/// Text that cannot do anything to a terminal but be read: control and direction-changing characters are shown as
/// their code, line breaks and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|c| if acts(c) { format!("\\u{{{:x}}}", c as u32) } else { c.to_string() });
    Cow::Owned(shown.collect())
}

/// One line of at most `max_chars`, safe for a terminal.
pub fn line(text: &str, max_chars: usize) -> Cow<'_, str> {
    let shown = match text.contains(|c: char| c.is_control() || is_direction_mark(c)) {
        true => Cow::Owned(visible(&text.replace(BREAKS, " ")).into_owned()),
        false => Cow::Borrowed(text),
    };
    match shown.char_indices().nth(max_chars) {
        Some((cut, _)) => format!("{}…", &shown[..cut]).into(),
        None => shown,
    }
}

/// A line for each pair, the second ones below each other.
pub fn columns(rows: &[(&str, &str)]) -> String {
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    let lines = rows.iter().map(|(left, right)| format!("  {left:<width$}  {right}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// For text that goes to a terminal it is made visible; a file or a pipe gets it exactly.
pub fn for_stdout(text: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { visible(text) } else { Cow::Borrowed(text) }
}

/// The shortest beginnings, of four digits or more, that tell these ids apart.
pub fn short_ids<T: Display>(ids: &[T]) -> Vec<String> {
    let mut short = ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut sorted = short.iter_mut().collect::<Vec<_>>();
    sorted.sort_unstable();
    let shared = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let mut before = 0;
    for at in 0..sorted.len() {
        let after = sorted.get(at + 1).map_or(0, |next| shared(sorted[at], next));
        let len = (before.max(after) + 1).clamp(4, sorted[at].len());
        sorted[at].truncate(len);
        before = after;
    }
    short
}

/// `1 entry`, `2 entries`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `12.3 MB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} KB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_can_move_the_cursor() {
        let nasty = "a\u{1b}]52;c;x\u{7}b\u{202e}c\u{9b}d\u{2066}e\r";
        assert!(!visible(nasty).chars().any(|c| c.is_control() || is_direction_mark(c)));
        assert_eq!(visible("plain\n\ttext é 😀"), "plain\n\ttext é 😀");
        let escaped = inert(&json!({ "title": nasty }));
        assert!(!escaped.chars().any(|c| c.is_control() || is_direction_mark(c)), "{escaped}");
        assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap()["title"], nasty);
        assert_eq!(line("a\nb\tc", 80), "a b c");
        assert_eq!(line("a\u{1b}b", 80), "a\\u{1b}b");
        assert_eq!(line("a\u{202e}b\n", 5), "a\\u{2…");
        assert_eq!(line(&"x".repeat(100), 10), "xxxxxxxxxx…");
    }

    #[test]
    fn short_ids_are_as_short_as_they_can_be() {
        assert_eq!(short_ids(&["abcdef", "abcdxy", "zzzzzz"]), ["abcde", "abcdx", "zzzz"]);
        assert_eq!(short_ids(&["abcdef"]), ["abcd"]);
    }
}
