//! What becomes of the files: a diff, or the files themselves.

use similar::TextDiff;

use crate::place::Report;
use crate::request::Request;
use crate::written;

/// A file before and after.
#[derive(Debug)]
pub struct Output {
    /// Its name as it was given.
    pub name: String,
    /// Its text.
    pub before: String,
    /// Its text with Holdfast.
    pub after: String,
}

/// What is said on standard output: a unified diff, or what was written. With an error in the report nothing is written.
pub fn put(outputs: &[Output], request: &Request, report: &mut Report) -> String {
    let changed: Vec<&Output> = outputs.iter().filter(|output| output.before != output.after).collect();
    if let Some(to) = &request.output {
        let Some(Output { after, .. }) = outputs.first().filter(|_| outputs.len() == 1) else {
            report.wrong("--output takes the place of one file: use --write with several");
            return String::new();
        };
        if to == "-" {
            return after.clone();
        }
        return match written::all(&[(to, after)]) {
            Ok(()) => format!("{to}: written\n"),
            Err(error) => {
                report.wrong(error);
                String::new()
            }
        };
    }
    if changed.is_empty() {
        return "Nothing to change: Holdfast is there.\n".to_owned();
    }
    if !request.write {
        return changed.iter().map(|output| diff(output)).collect();
    }
    if changed.iter().any(|output| output.name == "standard input") {
        report.wrong("standard input: cannot be written to: use --output");
        return String::new();
    }
    let files: Vec<(&str, &str)> = changed.iter().map(|output| (output.name.as_str(), output.after.as_str())).collect();
    match written::all(&files) {
        Ok(()) => files.iter().map(|(name, _)| format!("{name}: written\n")).collect(),
        Err(error) => {
            report.wrong(error);
            String::new()
        }
    }
}

fn diff(output: &Output) -> String {
    let changes = TextDiff::from_lines(&output.before, &output.after);
    changes.unified_diff().header(&output.name, &format!("{} with Holdfast", output.name)).to_string()
}
