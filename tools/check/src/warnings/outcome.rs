//! Rules of outcomes that decide nothing.

use holdfast_policy::document::{GrpcSet, OutcomeRules, Policy, StatusSet};
use holdfast_policy::glob::Glob;

use super::outlier;

/// Warnings about one policy: the rest of the path and the problem.
pub fn about(policy: &Policy) -> Vec<(String, String)> {
    let rules = &policy.outcome;
    let mut found = Vec::new();
    let ejects_for_failures = policy.outlier.as_ref().is_some_and(outlier::counts_failures);
    if has_no_failures(rules) && (policy.breaker.is_some() || policy.throttle.is_some() || ejects_for_failures) {
        let but = if rules.failure_broken { ", but for a response that breaks off" } else { "" };
        found.push((".outcome.failure".to_owned(), format!("nothing is a failure{but}")));
    }
    for (block, headers) in [("failure", &rules.failure_headers), ("ignore", &rules.ignore_headers)] {
        let problems = headers.iter().filter_map(|(name, glob)| Some((name, problem_of(glob)?)));
        found.extend(problems.map(|(name, problem)| (path(block, name), problem)));
    }
    let hidden = rules.failure_headers.iter().filter(|(name, glob)| {
        rules.ignore_headers.iter().any(|(ignored, wider)| ignored == name && wider.covers(glob))
    });
    found.extend(hidden.map(|(name, _)| {
        (path("failure", name), "is never looked at: ignore.header takes the same values first".to_owned())
    }));
    found
}

/// Whether no response and no lack of one is a failure.
fn has_no_failures(rules: &OutcomeRules) -> bool {
    rules.failure_status == StatusSet::default()
        && rules.failure_grpc == GrpcSet::default()
        && rules.failure_headers.is_empty()
        && !rules.failure_local
}

fn path(block: &str, name: &str) -> String {
    format!(".outcome.{block}.header[\"{name}\"]")
}

/// Why a glob most likely matches no value.
fn problem_of(glob: &Glob) -> Option<String> {
    let text = glob.as_str();
    // Source: RFC 9110, section 5.5: space around a value is no part of it, and there are no control characters in it.
    if text.trim_ascii().len() < text.len() || text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Some(format!(
            "\"{}\" matches no value: none begins or ends with space, or has lines",
            text.escape_debug()
        ));
    }
    let is_pattern = text.starts_with('^') || text.ends_with('$') || text.contains(".+") || text == ".*";
    is_pattern.then(|| format!("\"{text}\" looks like a regular expression: in a glob only * and ** are special"))
}
