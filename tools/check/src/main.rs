//! The command by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_check::run(&std::env::args_os().collect::<Vec<_>>())
}
