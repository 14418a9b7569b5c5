//! `completions` and `man`: the command line, told to shells and to `man`.

use std::fs;

use serde_json::json;

use crate::args::{Completions, Man};
use crate::completion;
use crate::context::Context;
use crate::failure::Failure;
use crate::help;

pub fn completions(context: &Context<'_>, args: &Completions) -> Result<(), Failure> {
    context.output.bytes(&completion::script(args.shell)?)
}

pub fn man(context: &Context<'_>, args: &Man) -> Result<(), Failure> {
    let writing = format!("writing the manual pages to {}", args.out.display());
    let failed = |error: std::io::Error| Failure::io(&writing, &error);
    fs::create_dir_all(&args.out).map_err(failed)?;
    let mut command = help::command().disable_help_subcommand(true);
    command.build();
    clap_mangen::generate_to(command, &args.out).map_err(failed)?;
    let json = json!({ "dir": args.out });
    context.output.result(&json, || format!("the manual pages are in {}", args.out.display()))
}
