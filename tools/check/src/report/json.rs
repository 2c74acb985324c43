//! The report for machines: one JSON object.

use serde::Serialize;

use super::Report;
use crate::finding::Severity;

#[derive(Serialize)]
struct Whole<'a> {
    files: Vec<File<'a>>,
    errors: usize,
    warnings: usize,
}

#[derive(Serialize)]
struct File<'a> {
    file: &'a str,
    /// Why it cannot be read; left out where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    documents: Vec<Document<'a>>,
    findings: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    path: &'a str,
    line: usize,
    column: usize,
    /// How many it has; null where it is not valid.
    policies: Option<usize>,
}

#[derive(Serialize)]
struct Finding<'a> {
    severity: &'static str,
    rule: &'static str,
    path: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    problem: &'a str,
    cure: &'a str,
}

impl Report {
    /// The object, on lines of its own.
    pub fn json(&self) -> String {
        let files = self.files.iter().enumerate().map(|(number, file)| {
            let findings = self.findings.iter().filter(|finding| finding.file == number).map(|finding| Finding {
                severity: finding.severity.name(),
                rule: finding.rule,
                path: &finding.path,
                line: finding.at.map(|at| at.line),
                column: finding.at.map(|at| at.column),
                problem: &finding.problem,
                cure: &finding.cure,
            });
            let documents = self.documents.iter().filter(|read| read.file == number).map(|read| Document {
                path: &read.path,
                line: read.at.line,
                column: read.at.column,
                policies: read.document.as_ref().map(|document| document.policies.len()),
            });
            let unreadable = self.unreadable.iter().find(|(unreadable, _)| *unreadable == number);
            File {
                file,
                unreadable: unreadable.map(|(_, error)| error.to_string()),
                documents: documents.collect(),
                findings: findings.collect(),
            }
        });
        let whole = Whole {
            files: files.collect(),
            errors: self.count(None, Severity::Error),
            warnings: self.count(None, Severity::Warning),
        };
        // Only a map with keys that are no texts has no JSON, and there is none here.
        serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
    }
}
