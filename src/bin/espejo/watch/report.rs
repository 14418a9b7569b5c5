//! What a watch says: each thing once, as a line for a person or as a JSON event.

use std::collections::BTreeSet;

use espejo::event::Finding;
use espejo::sync::ScrubReport;
use espejo::vault::Made;
use serde_json::{Value, json};

use crate::commands::backup::made_json;
use crate::commands::mirror::{Done, summary};
use crate::failure::Failure;
use crate::output::{Output, count, size, visible, warn};
use crate::when;

use super::supervisor;

/// So many findings are remembered as said.
const MAX_SAID: usize = 256;

pub struct Report {
    output: Output,
    /// Findings that were said and may come again with every round.
    said: BTreeSet<String>,
    trouble: Option<Trouble>,
    /// Open conflicts, when they were last said.
    conflicts: u64,
    is_first: bool,
}

/// Why nothing goes to the mirror at the moment.
#[derive(PartialEq, Eq)]
enum Trouble {
    /// It passes by itself.
    Away,
    /// It does not; with what was said.
    Stopped(String),
}

impl Report {
    pub fn new(output: Output) -> Self {
        Self { output, said: BTreeSet::new(), trouble: None, conflicts: 0, is_first: true }
    }

    /// One event: a JSON line, or `text` with the time of day.
    fn event(&self, kind: &str, json: Value, text: &str) -> Result<(), Failure> {
        // What is in the way stays the last word until it is not any more.
        if self.trouble.is_none() {
            supervisor::status(text);
        }
        self.print(kind, json, text)
    }

    fn print(&self, kind: &str, mut json: Value, text: &str) -> Result<(), Failure> {
        if !self.output.json {
            self.output.note(format_args!("{} {}", when::time_of_day(), visible(text)));
            return Ok(());
        }
        json["type"] = json!(kind);
        json["at"] = json!(when::now_rfc3339());
        self.output.result(&json, String::new)
    }

    /// The same for what needs attention, which is said even if nothing else is.
    fn alarm(&self, kind: &str, json: Value, text: &str) -> Result<(), Failure> {
        match self.output.json {
            true => self.print(kind, json, text),
            false => {
                warn(format_args!("{} {text}", when::time_of_day()));
                Ok(())
            }
        }
    }

    pub fn started(&self, target: &str, how: &str) -> Result<(), Failure> {
        let json = json!({ "target": target, "pid": std::process::id() });
        self.event("started", json, &format!("watching; the mirror is {target} ({how}); Ctrl-C ends it"))
    }

    /// The kernel tells nothing of the vault.
    pub fn polling(&self, problem: &str) -> Result<(), Failure> {
        let text = format!(
            "changes are looked for every second: the system does not tell of them ({problem}; fs.inotify.max_user_instances)"
        );
        self.alarm("finding", json!({ "kind": "polling", "message": text }), &text)
    }

    /// There is no mirror any more.
    pub fn waiting(&mut self) -> Result<(), Failure> {
        let message = "no mirror is set any more; waiting for `espejo remote set …`";
        self.stop("no_remote", message, None)
    }

    pub fn mirror_set(&mut self, target: &str, how: &str) -> Result<(), Failure> {
        self.trouble = None;
        self.is_first = true;
        self.event("mirror", json!({ "target": target }), &format!("the mirror is {target} ({how})"))
    }

    /// A round that went well. It is worth a word if it did something, or is the first one.
    pub fn synced(&mut self, done: &Done) -> Result<(), Failure> {
        self.findings(&done.findings)?;
        let report = &done.report;
        let is_news = !report.is_idle() || report.retired > 0 || self.is_first;
        self.is_first = false;
        if is_news {
            let mut text = summary(report, done.took);
            if report.conflicts > self.conflicts {
                text.push_str("; `espejo conflicts` lists what was changed on two devices at once");
            }
            self.event("sync", done.json(), &text)?;
        }
        self.conflicts = report.conflicts;
        Ok(())
    }

    /// Whatever was in the way has passed.
    pub fn well(&mut self) -> Result<(), Failure> {
        match self.trouble.take() {
            None => Ok(()),
            Some(_) => self.event("online", json!({}), "the mirror is there again"),
        }
    }

    /// It did not go well and will be tried again. Said once, however often it is tried.
    pub fn away(&mut self, failure: &Failure) -> Result<(), Failure> {
        if self.trouble == Some(Trouble::Away) {
            return Ok(());
        }
        self.trouble = Some(Trouble::Away);
        let text = format!("nothing goes to the mirror: {}; trying again", failure.message);
        supervisor::status(&text);
        self.alarm("offline", failure.json(), &text)
    }

    /// It did not go well and is not tried again until something changes.
    pub fn stopped(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.stop(failure.kind, &failure.message, Some(failure))
    }

    fn stop(&mut self, kind: &str, message: &str, failure: Option<&Failure>) -> Result<(), Failure> {
        let now = Trouble::Stopped(message.to_owned());
        if self.trouble.as_ref() == Some(&now) {
            return Ok(());
        }
        self.trouble = Some(now);
        supervisor::status(message);
        let hint = failure.and_then(|failure| failure.hint.as_ref());
        let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        let json = failure.map_or_else(|| json!({ "kind": kind, "message": message }), Failure::json);
        self.alarm("stopped", json, &format!("{message}{hint}"))
    }

    /// Findings that were not said yet.
    pub fn findings(&mut self, findings: &[Finding]) -> Result<(), Failure> {
        for finding in findings {
            self.finding(finding.kind(), &finding.to_string())?;
        }
        Ok(())
    }

    fn finding(&mut self, kind: &str, message: &str) -> Result<(), Failure> {
        if self.said.len() >= MAX_SAID {
            self.said.clear();
        }
        match self.said.insert(message.to_owned()) {
            true => self.alarm("finding", json!({ "kind": kind, "message": message }), message),
            false => Ok(()),
        }
    }

    pub fn backed_up(&self, made: &Made) -> Result<(), Failure> {
        let what = if made.unchanged { "nothing changed since; read again" } else { "verified" };
        self.event("backup", made_json(made), &format!("backup {}: {what}", made.file.display()))
    }

    pub fn backup_failed(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.finding("backup_failed", &format!("the automatic backup failed: {}", failure.message))
    }

    /// So many `objects` were read here.
    pub fn scrubbed(&mut self, objects: u64, scrubbed: &ScrubReport) -> Result<(), Failure> {
        for bad in &scrubbed.bad {
            let message = format!("{} on the mirror: {} (`espejo repair`)", bad.file, bad.problem);
            self.finding("mirror_damaged", &message)?;
        }
        let bad = scrubbed.bad.len() as u64;
        let json = json!({
            "objects": objects,
            "files": scrubbed.files,
            "known": scrubbed.known,
            "bytes": scrubbed.bytes,
            "bad": bad,
        });
        let files = count(scrubbed.files, "file", "files");
        let verdict = if bad == 0 { "all intact".to_owned() } else { format!("{bad} damaged or missing") };
        self.event(
            "scrub",
            json,
            &format!(
                "read {} here, and {files} of the mirror ({}): {verdict}",
                count(objects, "object", "objects"),
                size(scrubbed.bytes)
            ),
        )
    }

    /// The last word but one: what is under way is finished first.
    pub fn ending(&self) {
        supervisor::stopping();
        self.output.note(format_args!(
            "{} ending; what is under way is finished first (again to end at once)",
            when::time_of_day()
        ));
    }
}
