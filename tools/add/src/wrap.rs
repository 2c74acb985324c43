//! `holdfast wrap`: a seat's filter as the discovery response that Envoy reads in a file and follows, the policy document in it
//! checked first.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, value_parser};
use holdfast_policy::config;
use holdfast_yaml::Node;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use crate::envoy::seat::{Module, Seat, response};
use crate::say;

/// Where the module is unless another place is said.
const MODULE: &str = "/etc/envoy/holdfast.wasm";

/// How much of the document's SHA-256 is its version: as many hexadecimal digits as nobody mistakes.
const VERSION: usize = 16;

/// What became of it.
enum Failure {
    /// The document is wrong: what is wrong with it, a line each.
    Invalid(Vec<String>),
    /// A file could not be read or written.
    Inaccessible(String),
}

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
        (_, file) => file.map(document).transpose()?,
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
    replace(output, &made)
        .map_err(|error| Failure::Inaccessible(format!("{}: cannot be written: {error}", output.display())))?;
    Ok(format!("{}: written, version {version}\n", output.display()))
}

/// What `sha256sum` says of the document begins so.
fn version(document: &str) -> String {
    let digest = Sha256::digest(document);
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().chars().take(VERSION).collect()
}

/// The document of a file, valid and as JSON.
fn document(file: &str) -> Result<String, Failure> {
    let (name, bytes) = if file == "-" {
        let mut bytes = Vec::new();
        ("standard input", io::stdin().read_to_end(&mut bytes).map(|_| bytes))
    } else {
        (file, fs::read(file))
    };
    let bytes = bytes.map_err(|error| Failure::Inaccessible(format!("{name}: cannot be read: {error}")))?;
    let wrong = |line: String| Failure::Invalid(vec![line]);
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        wrong(format!("{name}:{line}: is not UTF-8 text"))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);

    let parsed = holdfast_yaml::parse(text);
    let (json, root) = match (serde_json::from_str::<IgnoredAny>(text), parsed) {
        // As it stands there, so that whoever reads Envoy's configuration finds it again.
        (Ok(_), parsed) => (text.to_owned(), parsed.map(|documents| documents.into_iter().find_map(|one| one.root))),
        (Err(error), Err(_)) if text.trim_start().starts_with('{') => {
            let problem = error.to_string();
            let problem = problem.split(" at line ").next().unwrap_or_default();
            let column = error.column().max(1);
            return Err(wrong(format!("{name}:{}:{column}: document: {problem}", error.line())));
        }
        (Err(_), parsed) => {
            let root = only(parsed.map_err(|error| wrong(format!("{name}:{error}")))?, name)?;
            (serde_json::to_string_pretty(&root.value()).unwrap_or_default(), Ok(Some(root)))
        }
    };
    let place = |path: &str| match &root {
        Ok(Some(root)) => format!(":{}", root.find(path)),
        // JSON may have a key twice. What else is no YAML says nothing of the policies.
        Err(error) if error.problem.starts_with("the key ") => format!(":{}", error.at),
        _ => String::new(),
    };
    let errors = match config::parse(json.as_bytes()) {
        Ok(_) => return Ok(json),
        Err(errors) => errors,
    };
    let listed = errors.listed().iter();
    let mut lines: Vec<String> = listed.map(|error| format!("{name}{}: {error}", place(&error.path))).collect();
    if errors.unlisted() > 0 {
        lines.push(format!("{name}: and {} more", errors.unlisted()));
    }
    Err(Failure::Invalid(lines))
}

/// The one document of a file.
fn only(documents: Vec<holdfast_yaml::Document>, name: &str) -> Result<Node, Failure> {
    let mut roots = documents.into_iter().filter_map(|document| document.root);
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root),
        (None, _) => Err(Failure::Invalid(vec![format!("{name}:1:1: holds no document")])),
        (_, Some(second)) => {
            Err(Failure::Invalid(vec![format!("{name}:{}: is a second document, where one is taken", second.start)]))
        }
    }
}

/// Puts `text` in the place of what `path` holds: whoever reads the file finds the one or the other, and nothing between.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let fresh = path.with_file_name(hidden);
    let written = || {
        let mut file = File::create(&fresh)?;
        if let Ok(before) = fs::metadata(path) {
            file.set_permissions(before.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}
