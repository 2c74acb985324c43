//! What is legal and yet most likely not what was meant.

mod hidden;
mod outcome;
mod outlier;
pub mod slow;
mod spelling;

pub use hidden::hides;

use holdfast_policy::config::{defaults, duration};
use holdfast_policy::document::{
    BreakerControl, Document, FallbackKind, Mode, Policy, Reason, ReasonSet, Retry, RetryWord, WordSet,
};

/// Something legal that most likely was not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The JSON path it is about.
    pub path: String,
    /// What it is.
    pub problem: String,
}

/// Warnings about a document.
pub fn warnings(document: &Document) -> Vec<Warning> {
    let mut found = Vec::new();
    for (index, policy) in document.policies.iter().enumerate() {
        let path = format!("policies[{index}]");
        let earlier = document.policies.iter().take(index).enumerate();
        if let Some((at, problem)) = earlier.filter_map(|(at, other)| Some((at, hides(other, policy)?))).next() {
            let problem = format!("can never govern a request: policies[{at}] {problem}");
            found.push(Warning { path: path.clone(), problem });
        }
        for (key, problem) in about(policy) {
            found.push(Warning { path: format!("{path}{key}"), problem });
        }
    }
    found
}

/// Warnings about one policy: the rest of the path and the problem.
fn about(policy: &Policy) -> Vec<(String, String)> {
    let mut found = spelling::about(policy);
    found.extend(slow::about(policy));
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
    if policy.scope.by.is_empty() && policy.scope.max_keys != defaults::scope().max_keys {
        warn(".max_keys", "has no effect: with scope [] there is one state for the whole policy");
    }

    let modes = [
        (".breaker.mode", policy.breaker.as_ref().map(|feature| feature.mode)),
        (".concurrency.mode", policy.concurrency.as_ref().map(|feature| feature.mode)),
        (".throttle.mode", policy.throttle.as_ref().map(|feature| feature.mode)),
        (".retry.mode", policy.retry.as_ref().map(|feature| feature.mode)),
        (".outlier.mode", policy.outlier.as_ref().map(outlier::strongest)),
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
        warn("", "does nothing: it has no breaker, concurrency, throttle, retry, outlier or fallback");
    }

    for (key, problem) in outcome::about(policy) {
        warn(&key, &problem);
    }
    match policy.breaker.as_ref().map(|breaker| breaker.state) {
        Some(BreakerControl::ForcedOpen) => warn(".breaker.state", "is forced_open: every request is rejected"),
        Some(BreakerControl::ForcedClosed) => warn(".breaker.state", "is forced_closed: the breaker protects nothing"),
        Some(BreakerControl::Auto) | None => {}
    }
    if policy.throttle.as_ref().is_some_and(|throttle| throttle.max_rejection.is_zero()) {
        warn(".throttle.max_rejection", "is 0: nothing is ever rejected");
    }

    let goes_further = policy.goes_further();
    let about_retry = |retry| about_retry(retry, goes_further);
    for (key, problem) in policy.retry.as_ref().map(about_retry).unwrap_or_default() {
        warn(&format!(".retry{key}"), &problem);
    }
    for (key, problem) in policy.outlier.as_ref().map(|outlier| outlier::about(outlier, policy)).unwrap_or_default() {
        warn(&format!(".outlier{key}"), &problem);
    }

    let mut served = ReasonSet::default();
    for (index, fallback) in policy.fallback.iter().enumerate() {
        if Reason::ALL.into_iter().all(|reason| !fallback.on.contains(reason) || served.contains(reason)) {
            warn(&format!(".fallback[{index}]"), "is never used: the entries before it serve all its reasons");
        }
        // What is kept may lack the answer, another cluster may have no host or fail too, and they give way.
        if let FallbackKind::Stale(_) | FallbackKind::Route(_) | FallbackKind::Call(_) = &fallback.kind {
            continue;
        }
        for reason in Reason::ALL.into_iter().filter(|reason| fallback.on.contains(*reason)) {
            served.insert(reason);
        }
        // The last of several failures is a failure, and so is that there is no host, unless it is no outcome.
        if served.contains(Reason::Failure) {
            served.insert(Reason::RetriesExhausted);
            if policy.outcome.failure_local {
                served.insert(Reason::NoHost);
            }
        }
    }
    found
}

/// Words after which a host may have done what the request asks for. gRPC's are left out: all its requests are POST, so
/// that naming both is how one says that a service takes retries.
const MAY_BE_DONE: [RetryWord; 4] =
    [RetryWord::FiveXx, RetryWord::GatewayError, RetryWord::Reset, RetryWord::Http3PostConnectFailure];

/// Words that retry an attempt that timed out.
const TIMED_OUT: WordSet = WordSet::of(&[RetryWord::FiveXx, RetryWord::GatewayError, RetryWord::Reset]);

/// Warnings about a policy's retries: the rest of the path and the problem.
///
/// A policy that has another cluster serve after the last attempt needs them for that (`goes_further`), if there are none.
fn about_retry(retry: &Retry, goes_further: bool) -> Vec<(String, String)> {
    if retry.max_retries == 0 && goes_further {
        return Vec::new();
    }
    if retry.max_retries == 0 {
        return vec![(".max_retries".to_owned(), "is 0: nothing is ever retried".to_owned())];
    }
    let mut found = Vec::new();
    let mut warn = |key: &str, problem: String| found.push((key.to_owned(), problem));
    let (words, header) = (retry.on.words, &retry.idempotency_header);

    for (word, what) in [(RetryWord::RetriableStatusCodes, "statuses"), (RetryWord::RetriableHeaders, "headers")] {
        if words.contains(word) {
            let name = word.name();
            warn(".on", format!("\"{name}\" depends on the route: it stands for the {what} that the route names"));
        }
    }
    if words.iter().any(|word| word.grpc_status().is_some()) && !retry.methods.iter().any(|method| method == "POST") {
        let problem = "names gRPC statuses, but gRPC requests are POST, which methods leaves out";
        let problem = format!("{problem}: only those with {header} are retried");
        warn(".on", problem);
    }
    let risky: Vec<&str> = words.iter().filter(|word| MAY_BE_DONE.contains(word)).map(RetryWord::name).collect();
    let server_errors = (500..600).any(|status| retry.on.statuses.contains(status));
    for (index, method) in retry.methods.iter().enumerate() {
        let key = format!(".methods[{index}]");
        // Source: IANA, HTTP Method Registry.
        if ["POST", "PATCH", "CONNECT", "LOCK"].contains(&method.as_str()) && (!risky.is_empty() || server_errors) {
            let after = risky.iter().copied().chain(server_errors.then_some("a 5xx status")).collect::<Vec<_>>();
            let after = after.join(", ");
            warn(&key, format!("{method} is not idempotent: after {after} a host may do the work a second time"));
        }
        if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            warn(&key, format!("\"{method}\" is no usual method: they are in upper case"));
        }
    }

    if let Some(one) = retry.per_try_timeout {
        if !words.has_any(TIMED_OUT) && !retry.hedge_on_per_try_timeout && !goes_further {
            let problem = "ends an attempt but brings no other: on has none of 5xx, gateway-error and reset";
            warn(".per_try_timeout", problem.to_owned());
        }
        if let Some(all) = retry.timeout.filter(|all| one.saturating_mul(2) > *all) {
            let (one, all) = (duration::text(one), duration::text(all));
            warn(".timeout", format!("{all} cannot hold two attempts of {one} (per_try_timeout)"));
        }
    }
    let budget = &retry.budget;
    if budget.ratio.is_zero() && u128::from(budget.min_per_second) * budget.window.as_millis() < 1_000_000 {
        let window = duration::text(budget.window);
        warn(".budget", format!("allows no retry: ratio is 0, and min_per_second is less than one in {window}"));
    }
    found
}
