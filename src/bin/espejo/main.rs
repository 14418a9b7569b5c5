//! The `espejo` command.

use std::process::ExitCode;

mod demo;

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    if args == ["demo"] {
        return match demo::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("espejo: {error}");
                ExitCode::FAILURE
            }
        };
    }
    ExitCode::SUCCESS
}
