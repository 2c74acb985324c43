//! `holdfast`: every command for those who put Holdfast in, as one program that needs nothing else.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, Command};

/// A command, what it does, and its code.
struct Tool {
    name: &'static str,
    about: &'static str,
    run: fn(&[OsString]) -> ExitCode,
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "add",
        about: "Puts Holdfast into an Envoy configuration, or prints what to apply for Istio or Envoy Gateway",
        run: holdfast_add::run,
    },
    Tool {
        name: "check",
        about: "Says what is wrong with policy documents and with the configuration around them, or what they will do",
        run: holdfast_check::run,
    },
    Tool {
        name: "wrap",
        about: "Wraps a policy document for an Envoy that follows it from a file",
        run: holdfast_add::wrap::run,
    },
];

/// Whatever follows a command is its own, `--help` too.
const REST: &str = "ARGUMENTS";

fn main() -> ExitCode {
    let command = Command::new("holdfast")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Puts Holdfast in, and checks what was put in")
        .after_help("holdfast COMMAND --help lists what a command takes.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands(TOOLS.iter().map(|tool| {
            let rest = Arg::new(REST).num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
            Command::new(tool.name)
                .about(tool.about)
                .disable_help_flag(true)
                .arg(rest.value_parser(clap::value_parser!(OsString)))
        }));
    let matches = command.get_matches();
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::FAILURE };
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else { return ExitCode::FAILURE };
    let mut arguments = vec![OsString::from(format!("holdfast {name}"))];
    arguments.extend(matches.get_many::<OsString>(REST).into_iter().flatten().cloned());
    (tool.run)(&arguments)
}
