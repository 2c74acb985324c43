//! The policy document of a file: JSON, or the same as YAML, and only one that the module takes.

use std::fs;
use std::io::{self, Read};

use holdfast_policy::config;
use holdfast_yaml::Node;
use serde::de::IgnoredAny;

/// What became of a file that holds no document for the module.
#[derive(Debug)]
pub enum Failure {
    /// The document is wrong: what is wrong with it, a line each.
    Invalid(Vec<String>),
    /// A file cannot be read or written.
    Inaccessible(String),
}

/// The document of a file, `-` for standard input, valid and as JSON.
///
/// # Errors
///
/// All that is wrong with it, each with file, line, column and path.
pub fn read(file: &str) -> Result<String, Failure> {
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
