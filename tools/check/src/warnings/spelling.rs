//! Values that are legal and were most likely written for another tool: ratios for percentages, regular expressions for globs.

use holdfast_policy::document::Policy;
use holdfast_policy::glob::Glob;
use holdfast_policy::percent::{Percent, decimal};

/// Warnings about one policy: the rest of the path and the problem.
pub fn about(policy: &Policy) -> Vec<(String, String)> {
    let ratios =
        percentages(policy).into_iter().filter(|(_, percent)| !percent.is_zero() && *percent < Percent::whole(1));
    let ratios = ratios.map(|(key, percent)| {
        let value = decimal(percent.millis());
        (
            key.to_owned(),
            format!(
                "is {value} of 100 percent: if a ratio of {value} is meant, write {}",
                decimal(percent.millis() * 100)
            ),
        )
    });
    let patterns = globs(policy).filter(|(_, glob)| is_pattern(glob.as_str())).map(|(key, glob)| {
        let text = glob.as_str();
        (key, format!("\"{text}\" looks like a regular expression: in a glob only * and ** are special"))
    });
    ratios.chain(patterns).collect()
}

/// What decides by a share.
fn percentages(policy: &Policy) -> Vec<(&'static str, Percent)> {
    let mut found = Vec::new();
    if let Some(breaker) = &policy.breaker {
        found.push((".breaker.failure_rate", breaker.failure_rate));
        found.push((".breaker.slow_rate", breaker.slow_rate));
        found.push((".breaker.open_jitter", breaker.open_jitter));
    }
    if let Some(throttle) = &policy.throttle {
        found.push((".throttle.success_rate", throttle.success_rate));
        found.push((".throttle.max_rejection", throttle.max_rejection));
    }
    if let Some(retry) = &policy.retry {
        found.push((".retry.budget.ratio", retry.budget.ratio));
    }
    if let Some(outlier) = &policy.outlier {
        found.push((".outlier.max_ejected", outlier.max_ejected));
        found.push((".outlier.panic_threshold", outlier.panic_threshold));
        found.push((".outlier.ejection_jitter", outlier.ejection_jitter));
        found.extend(outlier.failure_rate.map(|rate| (".outlier.failure_rate.threshold", rate.threshold)));
    }
    found
}

/// The globs of `match`, each with its path. A list of one may have been written without brackets.
fn globs(policy: &Policy) -> impl Iterator<Item = (String, &Glob)> {
    let matches = &policy.matches;
    let lists = [
        ("cluster", &matches.cluster),
        ("route", &matches.route),
        ("authority", &matches.authority),
        ("path", &matches.path),
        ("method", &matches.method),
    ];
    lists.into_iter().flat_map(|(key, list)| {
        list.iter().enumerate().map(move |(index, glob)| (format!(".match.{key}[{index}]"), glob))
    })
}

/// Whether a text has what regular expressions have and names of clusters, hosts and paths have not.
fn is_pattern(text: &str) -> bool {
    text.starts_with('^') || text.ends_with('$') || ["\\", ".+", "[", "(", "/.*"].iter().any(|part| text.contains(part))
}
