//! Prints the resources that put Holdfast before a service: it reads those that the service has already, so that nothing that
//! they say is lost where a patch replaces it.

mod document;
mod documents;
mod envoy;
mod facts;
mod fields;
mod gateway;
mod istio;
mod json;
mod place;
mod policy;
mod request;
mod service;
mod standalone;
pub mod wrap;
mod written;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use place::Report;
use request::Platform;

/// Runs the command with these arguments; the first one is the name that it is called by.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let request = request::read(arguments);
    let writes = request.write || request.output.is_some();
    let mut report = Report::default();
    let printed = match request.platform {
        Platform::Istio => istio::print(&request, &mut report).map(|text| titled(arguments, &text)),
        Platform::EnvoyGateway => gateway::print(&request, &mut report).map(|text| titled(arguments, &text)),
        Platform::Envoy => {
            standalone::add(&request, &mut report).map(|outputs| standalone::put(&outputs, &request, &mut report))
        }
    };
    for line in &report.warnings {
        say(io::stderr(), &format!("warning: {line}\n"));
    }
    for line in &report.errors {
        say(io::stderr(), &format!("{line}\n"));
    }
    match printed {
        Some(text) if report.errors.is_empty() => {
            say(io::stdout(), &text);
            ExitCode::SUCCESS
        }
        _ => {
            let count = report.errors.len();
            let noun = if count == 1 { "error" } else { "errors" };
            say(io::stderr(), &format!("{count} {noun}, nothing {}\n", if writes { "written" } else { "printed" }));
            ExitCode::FAILURE
        }
    }
}

/// With the command that makes it above it.
fn titled(arguments: &[OsString], text: &str) -> String {
    format!("{}\n{text}", request::again(arguments))
}

/// Writes all of `text`. A reader that has gone away (`| head`) is no error of ours.
fn say(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
