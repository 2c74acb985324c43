//! The report for people: errors as compilers write them, or in plain words what the documents will do.

use std::fmt::Write;

use super::{Read, Report};
use crate::finding::{Finding, Severity};
use crate::rules;
use crate::summary::{count, summary};

/// Rules about the document itself, whose problems say what is accepted.
const UNNAMED: [&str; 3] = [rules::POLICY.id, rules::POLICY_DOUBTFUL.id, rules::SYNTAX.id];

impl Report {
    /// What goes to standard output, and what to standard error.
    pub fn text(&self, hints: bool) -> (String, String) {
        let (mut out, mut errors) = (String::new(), String::new());
        for (file, name) in self.files.iter().enumerate() {
            if let Some((_, error)) = self.unreadable.iter().find(|(number, _)| *number == file) {
                let _ = writeln!(errors, "{name}: cannot be read: {error}");
                continue;
            }
            let findings = self.findings.iter().filter(|finding| finding.file == file);
            let shown = findings.filter(|finding| hints || finding.severity != Severity::Hint);
            let lines: String = shown.map(|finding| line(name, finding)).collect();
            let (wrong, doubtful) =
                (self.count(Some(file), Severity::Error), self.count(Some(file), Severity::Warning));
            if wrong > 0 {
                let more =
                    if doubtful > 0 { format!(", {}", count(doubtful, "warning", "warnings")) } else { String::new() };
                let _ = writeln!(errors, "{lines}{name}: {}{more}", count(wrong, "error", "errors"));
                continue;
            }
            if !out.is_empty() {
                out.push('\n');
            }
            let read: Vec<&Read> = self.documents.iter().filter(|read| read.file == file).collect();
            self.valid(name, &read, doubtful, &mut out);
            if !lines.is_empty() {
                let _ = write!(out, "\n{lines}");
            }
        }
        (out, errors)
    }

    fn valid(&self, name: &str, read: &[&Read], doubtful: usize, out: &mut String) {
        let documents = || read.iter().filter_map(|read| read.document.as_ref());
        let policies = count(documents().map(|document| document.policies.len()).sum(), "policy", "policies");
        let within = if read.len() > 1 { format!(" in {} documents", read.len()) } else { String::new() };
        let _ = writeln!(out, "{name}: valid, {policies}{within}, {}", count(doubtful, "warning", "warnings"));
        for one in read {
            let Some(document) = &one.document else { continue };
            if !one.path.is_empty() {
                let within = if one.label.is_empty() { &one.path } else { &one.label };
                let _ = writeln!(out, "\n{within}, line {}:", one.at.line);
            }
            out.push_str(&summary(document));
        }
    }
}

/// One line about a finding.
fn line(file: &str, finding: &Finding) -> String {
    let mut line = file.to_owned();
    if let Some(at) = finding.at {
        let _ = write!(line, ":{at}");
    }
    line.push_str(": ");
    if finding.severity != Severity::Error {
        let _ = write!(line, "{}: ", finding.severity.name());
    }
    if !finding.label.is_empty() {
        let _ = write!(line, "{}: ", finding.label);
    }
    line.push_str(&finding.problem);
    if !finding.cure.is_empty() {
        let _ = write!(line, "; {}", finding.cure);
    }
    if !UNNAMED.contains(&finding.rule) {
        let _ = write!(line, " [{}]", finding.rule);
    }
    line + "\n"
}
