//! Everything that is to be said about the files.

mod json;
mod text;

use std::io;

use holdfast_policy::config;
use holdfast_policy::document::Document;
use holdfast_yaml::Position;

use crate::assembly;
use crate::documents;
use crate::finding::{Finding, Severity};
use crate::rules;
use crate::sources::{self, Sources};
use crate::texts::Texts;
use crate::units::Units;

/// What became of the files; the worst is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// No error.
    Valid = 0,
    /// An error.
    Invalid = 1,
    /// A file that cannot be read.
    Unreadable = 2,
}

/// A policy document of a file.
#[derive(Debug)]
struct Read {
    file: usize,
    at: Position,
    path: String,
    label: String,
    document: Option<Document>,
}

/// What is to be said.
#[derive(Debug)]
pub struct Report {
    /// The files, by their names, in the order in which they were given.
    files: Vec<String>,
    /// Those that cannot be read, and why not.
    unreadable: Vec<(usize, io::Error)>,
    documents: Vec<Read>,
    /// By file and place.
    findings: Vec<Finding>,
}

impl Report {
    /// Checks files.
    pub fn of(files: Vec<(String, io::Result<Vec<u8>>)>) -> Self {
        let mut texts = Texts::default();
        let (mut unreadable, mut findings) = (Vec::new(), Vec::new());
        for (name, bytes) in files {
            match bytes {
                Ok(bytes) => findings.extend(texts.add(&name, bytes)),
                Err(error) => {
                    unreadable.push((texts.files.len(), error));
                    texts.files.push(name);
                }
            }
        }
        let mut read = Vec::new();
        broken_json(&texts, &mut findings, &mut read);
        let mut checked = Vec::new();
        let mut units = Units::default();
        for root in texts.roots() {
            let Sources { documents, filters, plugins } = sources::sources(&texts, &root);
            let within = filters.iter().filter_map(sources::of_filter);
            let made = plugins.iter().filter_map(sources::of_plugin);
            let alone = !documents.is_empty();
            for source in documents.into_iter().chain(within).chain(made) {
                checked.push(documents::check(&texts, source, &mut findings));
            }
            units.add(&texts, root, filters, plugins, alone);
        }
        let discovered = units.discovered();
        for unit in units.with_holdfast() {
            findings.extend(assembly::check(&texts, unit, &checked, &discovered));
        }
        let mut empty = vec![true; texts.files.len()];
        let broken = texts.all.iter().filter(|text| text.json && text.roots.is_empty()).map(|text| text.file);
        for file in broken.chain(units.files_with_holdfast(&texts)) {
            empty.get_mut(file).into_iter().for_each(|empty| *empty = false);
        }
        for (file, _) in empty.iter().enumerate().filter(|(_, empty)| **empty) {
            let unread = unreadable.iter().any(|(number, _)| *number == file);
            if !unread && !findings.iter().any(|finding| finding.file == file) {
                findings.push(nothing(file));
            }
        }
        for one in checked {
            read.push(Read {
                file: texts.file(&one.at),
                at: texts.position(&one.at),
                path: texts.path(&one.at),
                label: texts.label(&one.at),
                document: one.document,
            });
        }
        findings.sort_by_key(|finding| (finding.file, finding.at.is_none(), finding.at));
        // Two ways to a cluster find the same.
        let mut once: Vec<Finding> = Vec::new();
        for finding in findings {
            let same_place = once.iter().rev().take_while(|other| (other.file, other.at) == (finding.file, finding.at));
            if !same_place.into_iter().any(|other| *other == finding) {
                once.push(finding);
            }
        }
        let findings = once;
        Report { files: texts.files, unreadable, documents: read, findings }
    }

    /// What became of the files.
    pub fn outcome(&self) -> Outcome {
        if !self.unreadable.is_empty() {
            Outcome::Unreadable
        } else if self.findings.iter().any(|finding| finding.severity == Severity::Error) {
            Outcome::Invalid
        } else {
            Outcome::Valid
        }
    }

    /// Whether there is a warning.
    pub fn has_warnings(&self) -> bool {
        self.count(None, Severity::Warning) > 0
    }

    /// How many findings of a kind there are, in a file or in all.
    fn count(&self, file: Option<usize>, severity: Severity) -> usize {
        let counted = self
            .findings
            .iter()
            .filter(|finding| finding.severity == severity && file.is_none_or(|file| finding.file == file));
        counted.map(|finding| finding.count).sum()
    }
}

/// A file without anything of Holdfast's.
fn nothing(file: usize) -> Finding {
    Finding {
        severity: rules::NO_POLICY.severity,
        rule: rules::NO_POLICY.id,
        file,
        at: None,
        path: String::new(),
        label: String::new(),
        problem: "has no policy document, and no filter or resource with the module".to_owned(),
        cure: rules::NO_POLICY.cure.to_owned(),
        count: 1,
    }
}

/// Texts that should be JSON and are none: the module's own reader says why.
fn broken_json(texts: &Texts, findings: &mut Vec<Finding>, read: &mut Vec<Read>) {
    for (index, text) in texts.all.iter().enumerate().filter(|(_, text)| text.json && text.roots.is_empty()) {
        let Err(errors) = config::parse(text.text.as_bytes()) else { continue };
        for error in errors.listed() {
            let (at, problem) = documents::in_text(&error.problem)
                .map_or((Position { line: 1, column: 1 }, error.problem.clone()), |(at, problem)| {
                    (documents::characters(text.text.as_bytes(), at), problem)
                });
            let path = texts.outer_path(index);
            findings.push(Finding {
                severity: rules::POLICY.severity,
                rule: rules::POLICY.id,
                file: text.file,
                at: Some(texts.place(index, at)),
                path: crate::texts::joined(&path, &error.path),
                label: crate::texts::joined(&path, &error.path),
                problem,
                cure: String::new(),
                count: 1,
            });
            read.push(Read {
                file: text.file,
                at: texts.place(index, Position { line: 1, column: 1 }),
                label: path.clone(),
                path,
                document: None,
            });
        }
    }
}
