//! What is legal and yet most likely not what was meant.

use holdfast_policy::document::{
    BreakerControl, Document, FallbackKind, GrpcSet, Match, Mode, Policy, Reason, ReasonSet, StatusSet,
};
use holdfast_policy::glob::Glob;

/// Warnings about a document, each with the JSON path it is about.
pub fn warnings(document: &Document) -> Vec<String> {
    let mut found = Vec::new();
    for (index, policy) in document.policies.iter().enumerate() {
        let path = format!("policies[{index}]");
        let earlier = document.policies.iter().take(index).enumerate();
        if let Some((at, problem)) = earlier.filter_map(|(at, other)| Some((at, hides(other, policy)?))).next() {
            found.push(format!("{path}: can never govern a request: policies[{at}] {problem}"));
        }
        for (key, problem) in about(policy) {
            found.push(format!("{path}{key}: {problem}"));
        }
    }
    found
}

/// How `earlier` leaves nothing for `later`, if it does.
fn hides(earlier: &Policy, later: &Policy) -> Option<&'static str> {
    if everything(&earlier.matches) {
        Some("comes first and matches every request")
    } else if earlier.matches == later.matches {
        Some("comes first and matches the same ones")
    } else {
        None
    }
}

fn everything(matches: &Match) -> bool {
    // A header has to be there, so that any condition on one leaves something out.
    let Match { cluster, route, authority, path, method, headers } = matches;
    let any = |globs: &[Glob], all: &[&str]| globs.is_empty() || globs.iter().any(|glob| all.contains(&glob.as_str()));
    any(cluster, &["*", "**"])
        && any(route, &["*", "**"])
        && any(method, &["*", "**"])
        && any(authority, &["**"])
        && any(path, &["**", "/**"])
        && headers.is_empty()
}

/// Warnings about one policy: the rest of the path and the problem.
fn about(policy: &Policy) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut warn = |key: &str, problem: &str| found.push((key.to_owned(), problem.to_owned()));

    for (index, glob) in policy.matches.path.iter().enumerate() {
        let text = glob.as_str();
        if !text.starts_with(['/', '*']) {
            warn(&format!(".match.path[{index}]"), &format!("\"{text}\" matches no path: a path begins with /"));
        }
        if text.contains('?') {
            let problem = format!("\"{text}\" matches no path: ? is nothing special, and the query is not looked at");
            warn(&format!(".match.path[{index}]"), &problem);
        }
    }
    for (index, glob) in policy.matches.method.iter().enumerate() {
        if glob.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
            let problem = format!("\"{}\" matches no usual method: they are in upper case", glob.as_str());
            warn(&format!(".match.method[{index}]"), &problem);
        }
    }
    if policy.scope.by.is_empty() && policy.scope.max_keys != holdfast_policy::config::defaults::scope().max_keys {
        warn(".max_keys", "has no effect: with scope [] there is one state for the whole policy");
    }

    let modes = [
        (".breaker.mode", policy.breaker.as_ref().map(|feature| feature.mode)),
        (".concurrency.mode", policy.concurrency.as_ref().map(|feature| feature.mode)),
        (".throttle.mode", policy.throttle.as_ref().map(|feature| feature.mode)),
    ];
    let given = || modes.iter().filter_map(|(key, mode)| Some((*key, (*mode)?)));
    if policy.mode == Mode::Off && given().all(|(_, mode)| mode == Mode::Off) {
        warn(".mode", "is off: the policy does nothing, and later ones do not govern its requests either");
    } else if policy.mode == Mode::Off {
        warn(".mode", "is off, but not for the blocks that have a mode of their own");
    } else {
        given().filter(|(_, mode)| *mode == Mode::Off).for_each(|(key, _)| warn(key, "is off"));
    }
    if given().next().is_none() && policy.fallback.is_empty() {
        warn("", "does nothing: it has no breaker, concurrency, throttle or fallback");
    }

    let rules = &policy.outcome;
    let no_failures = rules.failure_status == StatusSet::default()
        && rules.failure_grpc == GrpcSet::default()
        && !rules.failure_local;
    if no_failures && (policy.breaker.is_some() || policy.throttle.is_some()) {
        warn(".outcome.failure", "nothing is a failure");
    }
    match policy.breaker.as_ref().map(|breaker| breaker.state) {
        Some(BreakerControl::ForcedOpen) => warn(".breaker.state", "is forced_open: every request is rejected"),
        Some(BreakerControl::ForcedClosed) => warn(".breaker.state", "is forced_closed: the breaker protects nothing"),
        Some(BreakerControl::Auto) | None => {}
    }
    if policy.throttle.as_ref().is_some_and(|throttle| throttle.max_rejection.is_zero()) {
        warn(".throttle.max_rejection", "is 0: nothing is ever rejected");
    }

    let mut served = ReasonSet::default();
    for (index, fallback) in policy.fallback.iter().enumerate() {
        let FallbackKind::Static(_) = &fallback.kind;
        if Reason::ALL.into_iter().all(|reason| !fallback.on.contains(reason) || served.contains(reason)) {
            warn(&format!(".fallback[{index}]"), "is never used: the entries before it serve all its reasons");
        }
        for reason in Reason::ALL.into_iter().filter(|reason| fallback.on.contains(*reason)) {
            served.insert(reason);
        }
    }
    found
}
