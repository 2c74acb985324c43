//! What is wrong with a document: every problem, policy by policy and block by block.

use core::fmt;

/// So many errors are listed; the rest is only counted. Nobody reads more before they fix the first.
pub const MAX_LISTED: usize = 50;

/// One problem of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// JSON path, such as `policies[0].breaker.failure_rate`; `document` for the text as a whole.
    pub path: String,
    /// What is wrong, what was found and what is accepted, on one line.
    pub problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        f.write_str(": ")?;
        f.write_str(&self.problem)
    }
}

/// Everything that is wrong with a document; at least one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    listed: Vec<Error>,
    total: usize,
}

impl Errors {
    /// The first [`MAX_LISTED`] errors, policy by policy and block by block.
    pub fn listed(&self) -> &[Error] {
        &self.listed
    }

    /// How many errors there are, listed or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many errors are counted but not listed.
    pub fn unlisted(&self) -> usize {
        self.total - self.listed.len()
    }
}

impl fmt::Display for Errors {
    /// One line per error, no newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.listed.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        match self.unlisted() {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl core::error::Error for Errors {}

/// Proof that an error is in the [`Report`]: a value that could not be read needs no stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported(());

/// Collects errors while a document is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    listed: Vec<Error>,
    total: usize,
    /// Whether the document takes a text such as `"62.5"` for a number: where it was a `google.protobuf.Struct`. Envoy's reader of YAML
    /// makes texts of numbers with decimals in it (Envoy, `parseYamlNode`).
    pub(super) takes_texts_as_numbers: bool,
}

impl Report {
    /// Adds an error.
    pub(super) fn add(&mut self, path: &str, problem: impl Into<String>) -> Reported {
        if !self.is_full() {
            self.listed.push(Error { path: path.to_owned(), problem: problem.into() });
        }
        self.count()
    }

    /// Counts an error that would not be listed anyway.
    pub(super) fn count(&mut self) -> Reported {
        self.total += 1;
        Reported(())
    }

    /// Whether the next error will only be counted, so that its text need not be worked out.
    pub(super) fn is_full(&self) -> bool {
        self.listed.len() >= MAX_LISTED
    }

    /// The errors, if there are any.
    pub(super) fn finish(self) -> Result<(), Errors> {
        if self.total == 0 { Ok(()) } else { Err(Errors { listed: self.listed, total: self.total }) }
    }
}

/// Results of all parts, none skipped, so that each part's errors are reported.
pub(super) fn gather<T>(results: impl Iterator<Item = Result<T, Reported>>) -> Result<Vec<T>, Reported> {
    let mut values = Vec::new();
    let mut failed = None;
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(reported) => failed = Some(reported),
        }
    }
    failed.map_or(Ok(values), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_report_without_errors_is_no_error() {
        assert_eq!(Report::default().finish(), Ok(()));
    }

    #[test]
    fn errors_are_listed_in_order_and_the_surplus_is_counted() {
        let mut report = Report::default();
        for index in 0..53 {
            report.add(&format!("policies[{index}]"), "is bad");
        }
        let errors = report.finish().unwrap_err();
        assert_eq!(errors.listed().len(), 50);
        assert_eq!((errors.total(), errors.unlisted()), (53, 3));
        let text = errors.to_string();
        assert!(text.starts_with("policies[0]: is bad\npolicies[1]: is bad\n"));
        assert!(text.ends_with("policies[49]: is bad\nand 3 more"));
    }
}
