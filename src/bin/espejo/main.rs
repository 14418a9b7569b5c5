//! The `espejo` command: arguments in, library calls, words out.

mod args;
mod commands;
mod completion;
mod context;
mod demo;
mod editor;
mod exchange;
mod failure;
mod file_system;
mod help;
mod interrupt;
mod invite;
mod new_file;
mod output;
mod progress;
mod recovery;
mod secrets;
mod session;
mod sign_in;
mod unit;
mod watch;
mod when;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;

use args::{Cli, Command};
use context::Context;
use failure::{Code, Failure};

/// A watch lives for days and grows and shrinks with every round. What it lets go of is given back after ten seconds; the C
/// library's allocator keeps a multiple of it for ever (`watch::it_stays_as_large_as_it_is`).
#[cfg(all(target_os = "linux", feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    keep_secrets_out_of_core_dumps();
    completion::answer();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let said = "what was saved is safe\nhint: please report it";
        // A panic in here would be an abort.
        let _ = writeln!(std::io::stderr(), "error: espejo has a fault at {place}; {said}");
    }));
    let json = std::env::args_os().any(|arg| arg == "--json");
    let result = match help::parse(std::env::args_os().collect()) {
        Ok(cli) => run(&cli),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) if !json => {
            let _ = error.print();
            if help::may_be_an_entry(&error) {
                let _ = writeln!(std::io::stderr(), "hint: an entry is written with `espejo \"a thought\"`");
            }
            return ExitCode::from(Code::Usage as u8);
        }
        Err(error) => {
            let text = error.render().to_string();
            let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(Failure::usage(message).hint("espejo --help"))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure, json);
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let context = Context::new(&cli.global);
    let result = run_command(cli, &context);
    // Not after those that are about backups or make them themselves, or whose vault is new or has another key now.
    let by_itself = !matches!(
        cli.command,
        None | Some(
            Command::Init(_)
                | Command::Clone(_)
                | Command::Backup(_)
                | Command::Restore(_)
                | Command::Rekey(_)
                | Command::Watch(_)
                | Command::Service(_)
        )
    );
    if by_itself {
        commands::backup::make_if_due(&context);
    }
    result
}

fn run_command(cli: &Cli, context: &Context<'_>) -> Result<(), Failure> {
    let Some(command) = &cli.command else { return commands::home::home(context) };
    match command {
        Command::Init(args) => commands::setup::init(context, args),
        Command::Clone(args) => commands::setup::clone(context, args),
        Command::Add(args) => commands::write::add(context, args),
        Command::Edit(args) => commands::write::edit(context, args),
        Command::Show(args) => commands::read::show(context, args),
        Command::List(args) => commands::read::list(context, args),
        Command::Search(args) => commands::read::search(context, args),
        Command::Rm(args) => commands::write::remove(context, args),
        Command::Undelete(args) => commands::write::undelete(context, args),
        Command::Log(args) => commands::history::log(context, args),
        Command::Diff(args) => commands::history::diff(context, args),
        Command::Revert(args) => commands::history::revert(context, args),
        Command::Conflicts => commands::conflicts::list(context),
        Command::Resolve(args) => commands::conflicts::resolve(context, args),
        Command::Remote(command) => commands::mirror::remote_command(context, command),
        Command::Sync(args) => commands::mirror::sync(context, args),
        Command::Watch(args) => watch::watch(context, args),
        Command::Service(args) => commands::service::service(context, args),
        Command::Devices(args) => commands::devices::devices(context, args.command.as_ref()),
        Command::Status(args) => commands::health::status(context, args),
        Command::Check(args) => commands::health::check(context, args),
        Command::Repair(args) => commands::repair::repair(context, args),
        Command::Backup(command) => commands::backup::backup(context, command),
        Command::Restore(args) => commands::backup::restore(context, args),
        Command::Import(args) => commands::import::import(context, args),
        Command::Export(args) => commands::export::export(context, args),
        Command::Doctor => commands::doctor::doctor(context),
        Command::Migrate(args) => commands::migrate::migrate(context, args),
        Command::Privacy => commands::privacy::privacy(context),
        Command::Passwd(args) => commands::keys::passwd(context, args),
        Command::Recovery(command) => commands::keys::recovery(context, command),
        Command::Rekey(args) => commands::keys::rekey(context, args),
        Command::Unlock(args) => commands::keys::unlock(context, args),
        Command::Lock => commands::keys::lock(context),
        Command::Demo => Ok(demo::run()?),
        Command::Completions(args) => commands::manual::completions(context, args),
        Command::Man(args) => commands::manual::man(context, args),
    }
}

/// The runtime of the commands that talk to a mirror.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("starting", &error))
}

fn keep_secrets_out_of_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // If the system refuses, the limit it has stays.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}
