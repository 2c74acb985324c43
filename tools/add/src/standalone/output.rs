//! What becomes of the files: a diff, or the files themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use similar::TextDiff;

use crate::place::Report;
use crate::request::Request;

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
        return match write(&[(to, after)]) {
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
    match write(&files) {
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

/// Writes all files or none: each into a new one beside it, and only when all are there they take their names.
fn write(files: &[(&str, &str)]) -> Result<(), String> {
    let mut ready: Vec<(PathBuf, PathBuf)> = Vec::new();
    let undo = |ready: &[(PathBuf, PathBuf)]| ready.iter().for_each(|(new, _)| drop(fs::remove_file(new)));
    for (name, text) in files {
        let problem = |error: io::Error| format!("{name}: cannot be written: {error}");
        match beside(Path::new(name), text) {
            Ok(pair) => ready.push(pair),
            Err(error) => {
                undo(&ready);
                return Err(problem(error));
            }
        }
    }
    for (index, (new, file)) in ready.iter().enumerate() {
        if let Err(error) = fs::rename(new, file) {
            undo(ready.get(index..).unwrap_or_default());
            return Err(format!("{}: cannot be written: {error}", file.display()));
        }
    }
    Ok(())
}

/// The new file, and the one whose place it takes.
fn beside(file: &Path, text: &str) -> io::Result<(PathBuf, PathBuf)> {
    // What a link leads to is what changes.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".holdfast-new");
    let new = file.with_file_name(name);
    fs::write(&new, text)?;
    if let Ok(metadata) = fs::metadata(&file) {
        fs::set_permissions(&new, metadata.permissions())?;
    }
    Ok((new, file))
}
