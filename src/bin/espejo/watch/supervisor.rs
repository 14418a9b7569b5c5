//! Telling whoever started the watch how it is: systemd, for a unit of `Type=notify`. Nobody else listens.

use sd_notify::NotifyState;

use crate::output::line;
use crate::when;

/// So much of a message fits on a line of `systemctl status`.
const SHOWN_CHARS: usize = 200;

/// It watches.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// What was said last.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&format!("{} {}", when::time_of_day(), line(text, SHOWN_CHARS)))]);
}

/// What is under way is finished, then it ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    // That nobody hears it changes nothing about the vault.
    let _ = sd_notify::notify(state);
}
