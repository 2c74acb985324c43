//! Writes the bill of materials of one artefact, or the licences of several, to standard output.

use std::io::Write;
use std::process::ExitCode;
use std::{fs, io};

use clap::{Arg, ArgAction, ArgMatches, Command};
use holdfast_sbom::bom::{self, Linked, Surroundings};
use holdfast_sbom::lock::Checksums;
use holdfast_sbom::packages::{Metadata, Parts};
use holdfast_sbom::{built, notices};

fn main() -> ExitCode {
    let arguments = Command::new("holdfast-sbom")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Lists what is in an artefact that cargo has built, as CycloneDX 1.6")
        .subcommand_required(true)
        .subcommand(
            Command::new("bom")
                .about("Prints the bill of materials of one artefact")
                .arg(one("artefact", "FILE", "The artefact"))
                .arg(one("name", "NAME", "What it is called"))
                .arg(
                    one("type", "TYPE", "What it is: application, or library").value_parser(["application", "library"]),
                )
                .arg(one("lock", "FILE", "Cargo.lock"))
                .arg(build(ArgAction::Set))
                .arg(linked())
                .arg(several("tool", &["NAME", "VERSION"], "A tool that made it; may be repeated")),
        )
        .subcommand(
            Command::new("notices")
                .about("Prints the licences of all parts with their texts")
                .arg(build(ArgAction::Append))
                .arg(linked()),
        )
        .get_matches();
    let text = match arguments.subcommand() {
        Some(("bom", arguments)) => bill(arguments),
        Some((_, arguments)) => licences(arguments),
        None => Err("a command is needed".to_owned()),
    };
    match text.and_then(|text| io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = writeln!(io::stderr(), "holdfast-sbom: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn one(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).required(true)
}

fn several(name: &'static str, values: &[&'static str], help: &'static str) -> Arg {
    let names = values.iter().copied();
    Arg::new(name).long(name).num_args(values.len()).value_names(names).help(help).action(ArgAction::Append)
}

/// One build: the package, what it was compiled for, the messages of `cargo build`, the output of `cargo metadata`.
fn build(action: ArgAction) -> Arg {
    let values = ["PACKAGE", "TRIPLE", "MESSAGES", "METADATA"];
    let help = "The build: messages of `cargo build --message-format=json`, output of `cargo metadata`";
    several("build", &values, help).required(true).action(action)
}

fn linked() -> Arg {
    let help = "What is linked in and is no package, \"\" where it has no version or no URL; may be repeated";
    several("linked", &["NAME", "VERSION", "PURL", "LICENCE", "COPYRIGHT"], help)
}

/// The values of each use of an option; the parser has counted them.
fn uses<const N: usize>(arguments: &ArgMatches, name: &str) -> Vec<[String; N]> {
    let uses = arguments.get_occurrences::<String>(name).into_iter().flatten();
    uses.filter_map(|values| values.cloned().collect::<Vec<_>>().try_into().ok()).collect()
}

fn linked_of(arguments: &ArgMatches) -> Vec<Linked> {
    let made =
        |[name, version, purl, licence, copyright]: [String; 5]| Linked { name, version, purl, licence, copyright };
    uses(arguments, "linked").into_iter().map(made).collect()
}

fn value<'a>(arguments: &'a ArgMatches, name: &str) -> &'a str {
    arguments.get_one::<String>(name).map(String::as_str).unwrap_or_default()
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn bill(arguments: &ArgMatches) -> Result<String, String> {
    let mut builds = uses(arguments, "build");
    let Some([package, triple, messages, metadata]) = builds.pop() else {
        return Err("--build is needed".to_owned());
    };
    let artefact = value(arguments, "artefact");
    let bytes = fs::read(artefact).map_err(|error| format!("{artefact}: {error}"))?;
    let metadata = Metadata::of(&read(&metadata)?).map_err(|fault| fault.to_string())?;
    let built = built::for_target(&read(&messages)?, &triple).map_err(|fault| fault.to_string())?;
    let parts = Parts::of(&metadata, &package, &built).map_err(|fault| fault.to_string())?;
    let checksums = Checksums::of(&read(value(arguments, "lock"))?).map_err(|fault| fault.to_string())?;
    let around = Surroundings {
        kind: value(arguments, "type").to_owned(),
        file: value(arguments, "name").to_owned(),
        triple,
        linked: linked_of(arguments),
        tools: uses(arguments, "tool").into_iter().map(|[name, version]| (name, version)).collect(),
    };
    bom::of(&bytes, &parts, &checksums, &around).map_err(|fault| fault.to_string())
}

fn licences(arguments: &ArgMatches) -> Result<String, String> {
    let mut builds = Vec::new();
    for [package, triple, messages, metadata] in uses(arguments, "build") {
        let metadata = Metadata::of(&read(&metadata)?).map_err(|fault| fault.to_string())?;
        let built = built::for_target(&read(&messages)?, &triple).map_err(|fault| fault.to_string())?;
        builds.push((package, metadata, built));
    }
    let mut parts = Vec::new();
    for (package, metadata, built) in &builds {
        parts.push(Parts::of(metadata, package, built).map_err(|fault| fault.to_string())?);
    }
    notices::of(&parts, &linked_of(arguments)).map_err(|fault| fault.to_string())
}
