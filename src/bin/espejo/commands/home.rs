//! `espejo` alone: how things stand, and what to do next.

use espejo::vault::Status;

use super::health;
use crate::args;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::columns;

/// So many things to do are named.
const HINTS: usize = 3;

pub fn home(context: &Context<'_>) -> Result<(), Failure> {
    match context.locked() {
        Ok(locked) => {
            let status = locked.status();
            health::tell(context, &status, locked.is_watched(), &args::Status::default())?;
            context.output.note(format_args!("next:\n{}", columns(&hints(&status))));
            Ok(())
        }
        // Who has none yet is told how to get one.
        Err(failure) if failure.code == Code::NoVault && !context.output.json => {
            let begin = columns(&[
                ("espejo init ~/journal", "a new vault"),
                ("espejo clone https://cloud.example ~/journal", "the one you have on another device"),
                ("espejo demo", "see it work, with nothing set up"),
            ]);
            context.output.bytes(format!("{}\nnext:\n{begin}\n", failure.message).as_bytes())?;
            Err(Failure::silent(Code::NoVault))
        }
        Err(failure) => Err(failure),
    }
}

/// What is to be done first, then what can be done at any time.
fn hints(status: &Status) -> Vec<(&'static str, &'static str)> {
    let counts = &status.counts;
    let has_mirror = status.target.is_some();
    let all = [
        (counts.corrupt > 0, "espejo repair", "something is damaged"),
        (counts.conflicts > 0, "espejo conflicts", "what was changed on two devices at once"),
        (status.backup_failure.is_some(), "espejo backup auto", "the last backup failed"),
        (counts.entries == 0, "espejo \"a first thought\"", "write something"),
        (!has_mirror, "espejo remote set https://cloud.example", "a mirror: Nextcloud, WebDAV or a folder"),
        (
            has_mirror && counts.unsynced + counts.pending > 0,
            "espejo sync",
            "bring vault and mirror together",
        ),
        (status.backup_every.is_none(), "espejo backup auto --every 1d", "a verified backup, by itself"),
        (counts.entries > 0, "espejo \"a thought\"", "write; `espejo add` opens your editor"),
        (counts.entries > 0, "espejo list", "what is there"),
        (true, "espejo --help", "every command"),
    ];
    let due = all.into_iter().filter(|(is_due, ..)| *is_due);
    due.map(|(_, command, what)| (command, what)).take(HINTS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(status: &Status) -> Vec<&'static str> {
        hints(status).into_iter().map(|(command, _)| command).collect()
    }

    #[test]
    fn what_is_wrong_comes_before_what_is_missing_and_that_before_what_is_possible() {
        let mut status = Status::default();
        let new = [
            "espejo \"a first thought\"",
            "espejo remote set https://cloud.example",
            "espejo backup auto --every 1d",
        ];
        assert_eq!(commands(&status), new);
        status.counts.entries = 5;
        status.target = Some("/nas".to_owned());
        status.backup_every = Some(1);
        assert_eq!(commands(&status), ["espejo \"a thought\"", "espejo list", "espejo --help"]);
        status.counts.unsynced = 1;
        status.counts.conflicts = 1;
        status.counts.corrupt = 1;
        assert_eq!(commands(&status), ["espejo repair", "espejo conflicts", "espejo sync"]);
    }
}
