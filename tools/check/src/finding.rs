//! What was found, and how much it matters.

use holdfast_yaml::Position;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot work, or Envoy refuses it.
    Error,
    /// It works, but less than it could, or most likely not as it was meant.
    Warning,
    /// Worth knowing.
    Hint,
}

impl Severity {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Hint => "hint",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Which rule found it: an id of [`crate::rules::RULES`].
    pub rule: &'static str,
    /// The file, by its number.
    pub file: usize,
    /// Where in the file; none for the file as a whole.
    pub at: Option<Position>,
    /// The whole path to it.
    pub path: String,
    /// The same for people: what it is in, by names.
    pub label: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right; empty where the problem says it.
    pub cure: String,
    /// How many it stands for: more than one where the rest is only counted.
    pub count: usize,
}
