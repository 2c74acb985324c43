//! `holdfast wrap`: a seat's filter as the discovery response that Envoy reads in a file and follows, the policy document in it
//! checked first.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, value_parser};
use sha2::{Digest, Sha256};

use crate::document::{self, Failure};
use crate::envoy::seat::{Module, Seat, response};
use crate::{say, written};

/// Where the module is unless another place is said.
const MODULE: &str = "/etc/envoy/holdfast.wasm";

/// How much of the document's SHA-256 is its version: as many hexadecimal digits as nobody mistakes.
const VERSION: usize = 16;

/// Runs the command with these arguments; the first one is the name that it is called by.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let matches = command().get_matches_from(arguments);
    match wrap(&matches) {
        Ok(said) => {
            say(io::stdout(), &said);
            ExitCode::SUCCESS
        }
        Err(Failure::Invalid(lines)) => {
            let noun = if lines.len() == 1 { "error" } else { "errors" };
            say(io::stderr(), &format!("{}\n{} {noun}, nothing written\n", lines.join("\n"), lines.len()));
            ExitCode::from(1)
        }
        Err(Failure::Inaccessible(line)) => {
            say(io::stderr(), &format!("{line}\n"));
            ExitCode::from(2)
        }
    }
}

fn command() -> Command {
    Command::new("holdfast-wrap")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Wraps a policy document for an Envoy that follows it by discovery (ECDS) from a file")
        .after_help(
            "The file is replaced at once, by renaming, and only when the document is valid.\n\
             Exit codes: 0 written, 1 the document is invalid, 2 a file cannot be read or written, or wrong usage.",
        )
        .arg(
            Arg::new("POLICY")
                .help("The policy document, JSON or YAML, - for standard input; the attempt seat has none"),
        )
        .arg(
            Arg::new("seat")
                .long("seat")
                .value_name("SEAT")
                .help("Whose filter it is")
                .value_parser(["request", "attempt"])
                .default_value("request"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .value_name("FILE")
                .help("The file that Envoy reads, .yaml or .json; else it is printed as YAML")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("module")
                .long("module")
                .value_name("FILE")
                .help("Where the module is when Envoy looks for it")
                .value_parser(NonEmptyStringValueParser::new())
                .default_value(MODULE),
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .help("The filter's name in Envoy's configuration, else holdfast-request or holdfast-attempt")
                .value_parser(NonEmptyStringValueParser::new()),
        )
}

fn wrap(matches: &ArgMatches) -> Result<String, Failure> {
    let text = |id: &str| matches.get_one::<String>(id).map(String::as_str);
    let policy = match (text("seat"), text("POLICY")) {
        (Some("attempt"), Some(_)) => {
            let message = "the attempt seat takes its policies from the request seat, so it has no POLICY";
            command().error(ErrorKind::ArgumentConflict, message).exit()
        }
        (Some("request"), None) => {
            let message = "the request seat needs the file with its POLICY";
            command().error(ErrorKind::MissingRequiredArgument, message).exit()
        }
        (_, file) => file.map(document::read).transpose()?,
    };
    let seat = policy.as_deref().map_or(Seat::Attempt, Seat::Request);
    let name = text("name").map_or_else(|| format!("holdfast-{}", seat.name()), str::to_owned);
    // The attempt seat's never changes with the policies.
    let version = policy.as_deref().map_or_else(|| "1".to_owned(), version);
    let made = response(&name, seat, &Module::File(text("module").unwrap_or(MODULE).to_owned()), &version);
    let Some(output) = matches.get_one::<PathBuf>("output") else { return Ok(made.document()) };
    let made = match output.extension().and_then(|ending| ending.to_str()) {
        Some("yaml" | "yml") => made.document(),
        // The text is made of keys that are texts: it can always be written.
        Some("json") => serde_json::to_string_pretty(&made.value()).unwrap_or_default() + "\n",
        _ => {
            let problem = "must end in .yaml, .yml or .json: Envoy goes by that";
            return Err(Failure::Inaccessible(format!("{}: {problem}", output.display())));
        }
    };
    written::all(&[(&output.to_string_lossy(), &made)]).map_err(Failure::Inaccessible)?;
    Ok(format!("{}: written, version {version}\n", output.display()))
}

/// What `sha256sum` says of the document begins so.
fn version(document: &str) -> String {
    let digest = Sha256::digest(document);
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().chars().take(VERSION).collect()
}
