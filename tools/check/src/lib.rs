//! Compiles policy documents natively, exactly as the module does, wherever they stand, looks at the configuration around
//! them, and says what is wrong or what they will do. With `--reference` it prints which keys there are, with `--schema` their
//! JSON Schema.

mod assembly;
mod documents;
mod finding;
mod json;
mod position;
mod reader;
mod reference;
mod report;
mod rules;
mod sources;
mod summary;
mod texts;
mod units;
mod warnings;
mod wasm;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, value_parser};
use holdfast_policy::config::schema;

use report::{Outcome, Report};

/// The option that prints the reference.
const REFERENCE: &str = "reference";
/// The option that prints the JSON Schema.
const SCHEMA: &str = "schema";
/// The option that prints the rules.
const RULES: &str = "rules";

/// Runs the command with these arguments; the first one is the name that it is called by.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let arguments = Command::new("holdfast-check")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Checks Holdfast policy documents, and the configurations that they stand in")
        .after_help(
            "A file is a policy document (JSON or YAML), or has some in it: an Envoy configuration, files of its\n\
             discovery, EnvoyFilter, WasmPlugin, TrafficExtension, EnvoyExtensionPolicy, ConfigMap. Files of one\n\
             Envoy's discovery are looked at together.\n\n\
             Exit codes: 0 valid (warnings included), 1 errors, 2 unreadable.",
        )
        .arg(
            Arg::new("FILE")
                .help("What to check, - for standard input")
                .value_parser(value_parser!(OsString))
                .action(ArgAction::Append)
                .required_unless_present_any([REFERENCE, SCHEMA, RULES]),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .help("How to say it: text, or json for machines")
                .value_parser(["text", "json"])
                .default_value("text"),
        )
        .arg(Arg::new("strict").long("strict").help("Exit with 1 for warnings too").action(ArgAction::SetTrue))
        .arg(Arg::new("verbose").long("verbose").short('v').help("Print hints too").action(ArgAction::SetTrue))
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
        .arg(
            Arg::new(RULES)
                .long(RULES)
                .help("Print all rules as a table in Markdown")
                .action(ArgAction::SetTrue)
                .exclusive(true),
        )
        .get_matches_from(arguments);
    if arguments.get_flag(RULES) {
        say(io::stdout(), &rules::table());
        return ExitCode::SUCCESS;
    }
    if arguments.get_flag(REFERENCE) {
        say(io::stdout(), &reference::reference());
        return ExitCode::SUCCESS;
    }
    if arguments.get_flag(SCHEMA) {
        say(io::stdout(), &schema::json_schema());
        return ExitCode::SUCCESS;
    }
    let files = arguments.get_many::<OsString>("FILE").into_iter().flatten();
    let files = files.map(|file| {
        if file == "-" {
            ("standard input".to_owned(), from_stdin())
        } else {
            (file.to_string_lossy().into_owned(), fs::read(file))
        }
    });
    let report = Report::of(files.collect());
    if arguments.get_one::<String>("format").is_some_and(|format| format == "json") {
        say(io::stdout(), &report.json());
    } else {
        let (out, error) = report.text(arguments.get_flag("verbose"));
        say(io::stdout(), &out);
        say(io::stderr(), &error);
    }
    let strict = arguments.get_flag("strict") && report.has_warnings();
    ExitCode::from(report.outcome().max(if strict { Outcome::Invalid } else { Outcome::Valid }) as u8)
}

fn from_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes all of `text`. A reader that has gone away (`| head`) is no error of ours.
fn say(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
