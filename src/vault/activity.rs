//! What happened in this vault, for a person to look back on: sealed, bounded, and relied upon by nothing.
//!
//! It is written after the fact and without waiting for the disk. A failure to write it is none, and a file that is gone,
//! torn or rotten is begun anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::read_state;
use super::{Doing, Error, Vault, layout};
use crate::clock::Clock;
use crate::crypto::SecretBytes;
use crate::event::Finding;
use crate::format::{FileType, seal_file};
use crate::fs::VaultFs;
use crate::host::Host;

/// The newest are kept.
pub const MAX_ACTIVITIES: usize = 300;

/// What was found is not noted again while it stands among so many of the newest.
const REMEMBERED: usize = 50;

/// So much of a message is kept.
const MAX_MESSAGE_CHARS: usize = 300;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// When, by this device's clock, milliseconds since 1970 UTC.
    pub at: i64,
    /// What, in a stable word. A newer program may know others.
    pub kind: String,
    /// How many of what.
    #[serde(default)]
    pub numbers: BTreeMap<String, u64>,
    /// What was said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct ActivitiesJson {
    events: Vec<Activity>,
}

impl<H: Host> Vault<H> {
    /// Notes that something was done, how many of what, and what was found on the way, if that can be noted. Only what
    /// was found if there is no `kind`.
    pub fn note_activity(&self, kind: Option<&str>, numbers: &[(&str, u64)], findings: &[Finding]) {
        // Nothing relies on it, and what it tells of is done.
        let _ = self.try_note_activity(kind, numbers, findings);
    }

    fn try_note_activity(
        &self,
        kind: Option<&str>,
        numbers: &[(&str, u64)],
        findings: &[Finding],
    ) -> Result<(), Error> {
        if kind.is_none() && findings.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut events = self.activities();
        let before = events.len();
        let at = self.host.clock().now_ms();
        for finding in findings {
            let message = finding.to_string().chars().take(MAX_MESSAGE_CHARS).collect();
            let found = Activity {
                at,
                kind: finding.kind().to_owned(),
                numbers: BTreeMap::new(),
                message: Some(message),
            };
            let is_known = |it: &Activity| (&it.kind, &it.message) == (&found.kind, &found.message);
            if !events.iter().rev().take(REMEMBERED).any(is_known) {
                events.push(found);
            }
        }
        if let Some(kind) = kind {
            let numbers = numbers.iter().filter(|(_, count)| *count > 0);
            let numbers = numbers.map(|(name, count)| ((*name).to_owned(), *count)).collect();
            events.push(Activity { at, kind: kind.to_owned(), numbers, message: None });
        }
        if events.len() == before {
            return Ok(());
        }
        events.drain(..events.len().saturating_sub(MAX_ACTIVITIES));
        let json = SecretBytes::from(serde_json::to_vec(&ActivitiesJson { events }).expect("plain data"));
        let file = seal_file(&self.keyring, FileType::State, 0, &json, self.host.entropy())?;
        self.host.fs().put_cache(layout::ACTIVITY, &file).doing("noting what happened")
    }

    /// What happened, the oldest first; nothing if that is not known.
    pub fn activities(&self) -> Vec<Activity> {
        let read = read_state::<H, ActivitiesJson>(&self.host, &self.keyring, layout::ACTIVITY);
        read.ok().flatten().unwrap_or_default().events
    }
}
