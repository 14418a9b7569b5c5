//! What a shell offers after a TAB: commands and flags, and the ids and tags of a vault that a session holds open. Nobody is
//! asked for a password, and no mirror for anything.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Command, ValueEnum};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete_nushell::Nushell;
use espejo::host::ThisMachine;
use espejo::vault::{EntryState, Locked};

use crate::args::Shell;
use crate::context::nearest_vault;
use crate::failure::Failure;
use crate::help;
use crate::output::{line, short_ids};
use crate::session;

/// Says to the program which shell asks.
const VARIABLE: &str = "ESPEJO_COMPLETE";

/// So much of a title is shown beside an id.
const MAX_TITLE_CHARS: usize = 60;

/// Answers a shell that asks what may come next, and ends. Returns if none does.
pub fn answer() {
    CompleteEnv::with_factory(|| with_candidates(help::command())).var(VARIABLE).complete();
}

/// What makes a shell ask. Nushell cannot: it is told the commands and their flags once and for all.
pub fn script(shell: Shell) -> Result<Vec<u8>, Failure> {
    let mut script = Vec::new();
    if shell == Shell::Nushell {
        let mut command = help::command().disable_help_subcommand(true);
        clap_complete::generate(Nushell, &mut command, "espejo", &mut script);
        return Ok(script);
    }
    let name = shell.to_possible_value().map(|it| it.get_name().to_owned()).unwrap_or_default();
    let shells = Shells::builtins();
    let known = shells.completer(&name).ok_or_else(|| Failure::usage(format!("no script for {name}")))?;
    let written = known.write_registration(VARIABLE, "espejo", "espejo", "espejo", &mut script);
    written.map_err(|error| Failure::io("writing the script", &error))?;
    Ok(script)
}

fn with_candidates(command: Command) -> Command {
    let offer = |arg: Arg| match arg.get_id().as_str() {
        "id" | "ids" => arg.add(ArgValueCandidates::new(ids)),
        "tag" | "tags" => arg.add(ArgValueCandidates::new(tags)),
        _ => arg,
    };
    command.mut_args(offer).mut_subcommands(with_candidates)
}

fn ids() -> Vec<CompletionCandidate> {
    let entries = entries();
    let short = short_ids(&entries.iter().map(EntryState::id).collect::<Vec<_>>());
    let offered = entries.iter().zip(short).map(|(entry, id)| {
        let title = line(&entry.summary.title, MAX_TITLE_CHARS);
        CompletionCandidate::new(id).help(Some(title.into_owned().into()))
    });
    offered.collect()
}

fn tags() -> Vec<CompletionCandidate> {
    let entries = entries();
    let tags = entries.iter().flat_map(|entry| &entry.summary.tags).collect::<BTreeSet<_>>();
    tags.into_iter().map(CompletionCandidate::new).collect()
}

/// What is in the vault, if it is open; nothing if anything is in the way: a prompt is no place to say so.
fn entries() -> Vec<EntryState> {
    let open = || {
        let dir = named_vault().or_else(|| nearest_vault().ok())?;
        let mut vault = session::resume(Locked::find(ThisMachine::new(&dir)).ok()?).ok()?.ok()?;
        vault.entries().ok()
    };
    open().unwrap_or_default()
}

/// The vault that the line names that is being typed, or the environment.
fn named_vault() -> Option<PathBuf> {
    let typed = std::env::args_os().skip_while(|word| word != "--").collect::<Vec<OsString>>();
    let after = typed.iter().position(|word| word == "--vault").and_then(|at| typed.get(at + 1));
    let joined = typed.iter().find_map(|word| word.to_str()?.strip_prefix("--vault="));
    let named = after.cloned().or_else(|| joined.map(OsString::from));
    named.or_else(|| std::env::var_os("ESPEJO_VAULT")).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}
