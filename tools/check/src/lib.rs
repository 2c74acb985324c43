//! Compiles policy documents natively, exactly as the module does, and says what is wrong or what they will do. With
//! `--reference` it prints which keys there are, with `--schema` their JSON Schema.

mod reference;
mod summary;
mod warnings;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, value_parser};
use holdfast_policy::config::{self, Errors, schema};

/// What became of a file; the worst one is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Valid = 0,
    Invalid = 1,
    Unreadable = 2,
}

/// The option that prints the reference.
const REFERENCE: &str = "reference";
/// The option that prints the JSON Schema.
const SCHEMA: &str = "schema";

/// Runs the command with these arguments; the first one is the name that it is called by.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let arguments = Command::new("holdfast-check")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Checks Holdfast policy documents and says in plain words what they will do")
        .after_help("Exit codes: 0 valid (warnings included), 1 invalid, 2 unreadable.")
        .arg(
            Arg::new("FILE")
                .help("Policy documents (JSON), - for standard input")
                .value_parser(value_parser!(OsString))
                .action(ArgAction::Append)
                .required_unless_present_any([REFERENCE, SCHEMA]),
        )
        .arg(
            Arg::new(REFERENCE)
                .long(REFERENCE)
                .help("Print the reference of all keys as Markdown")
                .action(ArgAction::SetTrue)
                .exclusive(true),
        )
        .arg(
            Arg::new(SCHEMA)
                .long(SCHEMA)
                .help("Print the JSON Schema of policy documents, for editors and validators")
                .action(ArgAction::SetTrue)
                .exclusive(true),
        )
        .get_matches_from(arguments);
    if arguments.get_flag(REFERENCE) {
        say(io::stdout(), &reference::reference());
        return ExitCode::SUCCESS;
    }
    if arguments.get_flag(SCHEMA) {
        say(io::stdout(), &schema::json_schema());
        return ExitCode::SUCCESS;
    }
    let files = arguments.get_many::<OsString>("FILE").into_iter().flatten();
    let worst = files.map(|file| check(file)).max().unwrap_or(Outcome::Valid);
    ExitCode::from(worst as u8)
}

fn check(file: &OsStr) -> Outcome {
    let (name, bytes) = if file == "-" {
        ("standard input".to_owned(), from_stdin())
    } else {
        (file.to_string_lossy().into_owned(), fs::read(file))
    };
    match bytes.map(|bytes| config::parse(&bytes)) {
        Ok(Ok(document)) => {
            say(io::stdout(), &summary::summary(&name, &document));
            Outcome::Valid
        }
        Ok(Err(errors)) => {
            say(io::stderr(), &complaint(&name, &errors));
            Outcome::Invalid
        }
        Err(error) => {
            say(io::stderr(), &format!("{name}: cannot be read: {error}\n"));
            Outcome::Unreadable
        }
    }
}

fn from_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// One line per error, as compilers write them, then their count.
fn complaint(name: &str, errors: &Errors) -> String {
    let mut text = String::new();
    for error in errors.listed() {
        text.push_str(&format!("{name}: {error}\n"));
    }
    if errors.unlisted() > 0 {
        text.push_str(&format!("{name}: and {} more\n", errors.unlisted()));
    }
    let noun = if errors.total() == 1 { "error" } else { "errors" };
    text + &format!("{name}: {} {noun}\n", errors.total())
}

/// Writes all of `text`. A reader that has gone away (`| head`) is no error of ours.
fn say(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
