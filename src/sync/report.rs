//! What a sync did.

use super::plan::Plan;
use crate::remote::Traffic;

/// Counts of one sync. Versions (live and tombstones) and parts of attachments count alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing was done; the counts say what would be.
    pub dry_run: bool,
    /// Objects sent.
    pub pushed: u64,
    /// Objects fetched.
    pub pulled: u64,
    /// Entries with an open conflict, after this sync.
    pub conflicts: u64,
    /// Objects announced that have not arrived.
    pub pending: u64,
    /// Damaged or missing files made good, here and on the mirror.
    pub repaired: u64,
    /// Objects that were to be sent and were not.
    pub unsent: u64,
    /// Objects dropped here because nobody needs them any more.
    pub retired: u64,
    /// Requests, retries included.
    pub requests: u64,
    /// Request body bytes.
    pub bytes_up: u64,
    /// Response body bytes.
    pub bytes_down: u64,
}

impl Report {
    /// Whether everything was transferred.
    pub fn is_settled(&self) -> bool {
        self.pending == 0 && self.unsent == 0
    }

    /// Whether nothing had to be transferred.
    pub fn is_idle(&self) -> bool {
        self.pushed == 0 && self.pulled == 0 && self.repaired == 0
    }

    pub(super) fn planned(self, plan: &Plan) -> Self {
        Self { pushed: plan.push.len() as u64, pulled: plan.fetch.len() as u64, ..self }
    }

    pub(super) fn with_traffic(self, before: Traffic, after: Traffic) -> Self {
        Self {
            requests: after.requests - before.requests,
            bytes_up: after.bytes_up - before.bytes_up,
            bytes_down: after.bytes_down - before.bytes_down,
            ..self
        }
    }
}
