//! The command line as it is read, and its help: commands in groups, examples before options.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::args::Cli;
use crate::output::columns;

/// Every command, in the group in which a person looks for it.
const GROUPS: &[(&str, &[&str])] = &[
    ("Begin", &["init", "clone", "demo"]),
    ("Write and read", &["add", "edit", "show", "list", "search", "rm", "undelete"]),
    ("History", &["log", "diff", "revert", "conflicts", "resolve"]),
    ("Mirror and devices", &["remote", "sync", "watch", "service", "devices", "privacy"]),
    ("Safety", &["status", "check", "repair", "backup", "restore", "doctor"]),
    ("Keys", &["passwd", "recovery", "rekey", "unlock", "lock"]),
    ("Come and go", &["import", "export", "migrate", "completions", "man"]),
];

/// What a command is for, shown by using it.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "init",
        &[
            ("espejo init ~/journal", "asks for a password, and offers one"),
            ("espejo init ~/journal --recovery-out ~/words.txt", "24 words that also open it, in a file"),
        ],
    ),
    (
        "clone",
        &[
            ("espejo clone https://cloud.example ~/journal", "signs in with your browser"),
            ("espejo clone /mnt/nas/journal ~/journal", "from a folder"),
            ("espejo join LINE ~/journal", "the line that `espejo devices invite` printed"),
        ],
    ),
    (
        "add",
        &[
            ("espejo add", "opens your editor, on a draft that never touches the disk"),
            ("espejo add -m \"Rain again\" -T diary", "a text and a tag"),
            ("espejo add notes.md -a photo.jpg", "a file, with an attachment"),
            ("fortune | espejo add - -t \"Of the day\"", "what another program says"),
        ],
    ),
    (
        "edit",
        &[
            ("espejo edit @", "the newest entry, in your editor"),
            ("espejo edit 7f3a -T +garden -T -draft", "one tag more, one less"),
        ],
    ),
    (
        "show",
        &[
            ("espejo show @", "the newest entry"),
            ("espejo show 7f3a --attachment photo.jpg -o photo.jpg", "an attachment, into a new file"),
        ],
    ),
    ("list", &[("espejo list -n 20", "the newest twenty"), ("espejo list -T diary", "those with a tag")]),
    ("search", &[("espejo search lighthouse", "every entry in which it stands")]),
    (
        "log",
        &[
            ("espejo log 7f3a", "the versions of an entry"),
            ("espejo log", "what happened in the vault: syncs, repairs, backups"),
        ],
    ),
    (
        "sync",
        &[
            ("espejo sync", "once"),
            ("espejo sync -n", "what it would do"),
            ("espejo sync --reseed", "fill a mirror that was emptied"),
        ],
    ),
    (
        "service",
        &[
            ("espejo remote set --unattended", "once: it then needs no password"),
            ("espejo service install", "from now on, whenever you are logged in"),
            ("espejo service --print launchd", "the same for macOS, to look at"),
        ],
    ),
    (
        "check",
        &[
            ("espejo check", "everything here"),
            ("espejo check --remote --sample 5%", "and a part of the mirror"),
        ],
    ),
    (
        "repair",
        &[
            ("espejo repair", "from the mirror, and the mirror from here"),
            ("espejo repair --from backup=journal.tar", "from a backup"),
        ],
    ),
    (
        "restore",
        &[
            ("espejo restore journal.tar --to ~/journal", "a vault of a backup"),
            ("espejo restore journal.tar --entry 7f3a", "one entry, back as it was"),
        ],
    ),
    (
        "import",
        &[
            ("espejo import obsidian ~/Notes -n", "what would come"),
            ("jrnl --format json | espejo import jrnl -", "from another journal"),
        ],
    ),
    ("rekey", &[("espejo rekey", "after a device was lost: new key, new password, new words")]),
];

/// The command line, with its help.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    for (name, examples) in EXAMPLES {
        command = command.mut_subcommand(name, |it| it.before_help(columns(examples)));
    }
    let groups = groups(&command);
    command.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n       espejo \"a thought\"\n{groups}\nFor every command:\n{{options}}\n\n\
         See it work, with nothing set up:  espejo demo\nMore of a command, with examples:   espejo add --help"
    ))
}

/// Whether a mistake looks like somebody's wish to write something: a first word that is like no command.
pub fn may_be_an_entry(error: &clap::Error) -> bool {
    let first = std::env::args_os().nth(1).unwrap_or_default();
    let is_first = matches!(error.get(ContextKind::InvalidSubcommand), Some(ContextValue::String(word)) if first == **word);
    let has_tip = error.get(ContextKind::SuggestedSubcommand).is_some();
    error.kind() == ErrorKind::InvalidSubcommand && is_first && !has_tip
}

fn groups(command: &clap::Command) -> String {
    let about = |name: &str| {
        let about = command.find_subcommand(name).and_then(clap::Command::get_about);
        about.map(ToString::to_string).unwrap_or_default()
    };
    let mut text = String::new();
    for (group, names) in GROUPS {
        text.push_str(&format!("\n{group}:\n"));
        names.iter().for_each(|name| text.push_str(&format!("  {name:<12} {}\n", about(name))));
    }
    text
}

/// Reads a command line. A first word with spaces in it is no command: it is an entry.
pub fn parse(mut args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let parse = |args: &[OsString]| {
        command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches))
    };
    let error = match parse(&args) {
        Err(error) if error.kind() == ErrorKind::InvalidSubcommand => error,
        parsed => return parsed,
    };
    let Some(ContextValue::String(thought)) = error.get(ContextKind::InvalidSubcommand) else {
        return Err(error);
    };
    let at = args.iter().position(|arg| arg.to_str() == Some(thought));
    match at.filter(|_| thought.trim().contains(char::is_whitespace)) {
        Some(at) => {
            args.splice(at..at, ["add".into(), "-m".into()]);
            parse(&args)
        }
        None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        parse(shell_words::split(line).unwrap().into_iter().map(Into::into).collect())
    }

    #[test]
    fn every_command_stands_in_one_group() {
        let mut grouped = GROUPS.iter().flat_map(|(_, names)| names.to_vec()).collect::<Vec<_>>();
        grouped.sort_unstable();
        let command = command();
        let mut all = command.get_subcommands().map(clap::Command::get_name).collect::<Vec<_>>();
        all.sort_unstable();
        assert_eq!(grouped, all);
        let help = command.clone().render_long_help().to_string();
        for part in [
            "espejo \"a thought\"",
            "Mirror and devices:\n",
            "  watch        Keep the vault",
            "--password-file",
        ] {
            assert!(help.contains(part), "{part} in {help}");
        }
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        for (name, examples) in EXAMPLES {
            for (line, _) in *examples {
                let line = line.rsplit("| ").next().unwrap();
                assert!(line.starts_with("espejo "), "{line}");
                read(line).unwrap_or_else(|error| panic!("{name}: {line}: {error}"));
            }
            let help = command().find_subcommand_mut(name).unwrap().render_help().to_string();
            assert!(help.starts_with("  espejo ") || help.contains("| espejo"), "{help}");
        }
    }

    #[test]
    fn a_first_word_with_spaces_is_an_entry_and_any_other_a_mistake() {
        for (line, text) in [
            ("espejo 'a thought'", "a thought"),
            ("espejo --vault '/my vault' 'add this' -T tag", "add this"),
            ("espejo --quiet 'two\nlines'", "two\nlines"),
        ] {
            let Ok(Cli { command: Some(Command::Add(add)), .. }) = read(line) else { panic!("{line}") };
            assert_eq!(add.message.as_deref(), Some(text));
        }
        for line in ["espejo thought", "espejo lst", "espejo '  '", "espejo list 'a thought' more"] {
            assert!(read(line).is_err(), "{line}");
        }
        assert!(read("espejo").unwrap().command.is_none());
    }
}
