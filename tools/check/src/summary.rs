//! A document in plain words: who is governed, when what happens, and what the client gets.

mod outlier;
mod retry;

use std::time::Duration;

use holdfast_policy::config::{duration, size};
use holdfast_policy::document::{
    Breaker, BreakerControl, Call, ClientGone, Dimension, Document, Fallback, FallbackKind, GRPC_STATUS_NAMES, GrpcSet,
    Match, Mode, OutcomeRules, Policy, Reason, Scope, Stale, StaticResponse, StatusSet, TemplatePart, Throttle, Window,
};
use holdfast_policy::glob::Glob;

/// Column at which a line's text begins.
const INDENT: usize = 16;
/// Columns after which a line is continued on the next.
const WIDTH: usize = 116;
/// Characters of a body that are shown.
const BODY_SHOWN: usize = 70;
/// How many growing periods are written out before the maximum.
const PERIODS_SHOWN: usize = 5;
/// A failure that has no status.
const NO_ANSWER: &str = "no answer from the host (connect failure, reset, time-out)";

/// What the document will do, policy by policy, ending in a newline.
pub fn summary(document: &Document) -> String {
    let policies = &document.policies;
    let mut out = if policies.is_empty() {
        "Every request passes through.\n".to_owned()
    } else {
        "The first policy that matches a request governs it; where none does, it passes through.\n".to_owned()
    };
    for (index, policy) in policies.iter().enumerate() {
        out.push_str(&format!("\npolicies[{index}] \"{}\"{}\n", policy.name, mark(policy.mode)));
        for (label, text) in lines(policy) {
            out.push_str(&wrapped(label, &text));
        }
    }
    out
}

/// `text` behind its label, continued on more lines where it is long; ends in a newline.
fn wrapped(label: &str, text: &str) -> String {
    let mut line = format!("  {label:<width$}", width = INDENT - 2);
    let mut out = String::new();
    for word in text.split(' ') {
        if line.chars().count() + word.chars().count() > WIDTH && line.chars().count() > INDENT {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(INDENT + 2);
        }
        line.push_str(word);
        line.push(' ');
    }
    out + line.trim_end() + "\n"
}

/// `no policies`, `1 policy`, `2 policies`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        0 => format!("no {many}"),
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

fn mark(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "",
        Mode::Shadow => "  [shadow: decides and counts, changes nothing]",
        Mode::Off => "  [off: does nothing]",
    }
}

/// The mark of a part whose mode is not that of the whole.
fn own_mark(mode: Mode, whole: Mode) -> &'static str {
    match mode {
        _ if mode == whole => "",
        Mode::Enforce => "  [enforced]",
        _ => mark(mode),
    }
}

/// The lines about a policy: label and text. A label is empty where a line goes on about the one above.
fn lines(policy: &Policy) -> Vec<(&'static str, String)> {
    let mut lines = vec![("governs", governs(&policy.matches))];
    let Policy { breaker, concurrency, throttle, retry, outlier, .. } = policy;
    if breaker.is_some() || concurrency.is_some() || throttle.is_some() || retry.is_some() || outlier.is_some() {
        lines.push(("state", state(&policy.scope)));
    }
    if breaker.is_some() || throttle.is_some() || outlier.is_some() || !policy.fallback.is_empty() {
        lines.extend(outcome(&policy.outcome));
    }
    if let Some(breaker) = &policy.breaker {
        block(&mut lines, "breaker", breaker.mode, policy.mode, breaker_lines(breaker));
    }
    if let Some(concurrency) = &policy.concurrency {
        let requests = if concurrency.max_requests.get() == 1 { "request" } else { "requests" };
        let text = format!("at most {} {requests} in flight, over all workers; rejects more", concurrency.max_requests);
        block(&mut lines, "concurrency", concurrency.mode, policy.mode, vec![text]);
    }
    if let Some(throttle) = &policy.throttle {
        block(&mut lines, "throttle", throttle.mode, policy.mode, throttle_lines(throttle));
    }
    if let Some(retry) = &policy.retry {
        block(&mut lines, "retry", retry.mode, policy.mode, retry::lines(retry, policy.breaker.as_ref()));
    }
    if let Some(outlier) = &policy.outlier {
        block(&mut lines, "outlier", outlier.mode, policy.mode, outlier::lines(outlier));
    }
    lines.extend(Reason::ALL.into_iter().filter_map(|reason| answer(policy, reason)));
    lines
}

/// Adds a feature's lines, marked when its mode is not the usual one.
fn block(lines: &mut Vec<(&str, String)>, label: &'static str, mode: Mode, policy: Mode, texts: Vec<String>) {
    let mark = own_mark(mode, policy);
    for (index, text) in texts.into_iter().enumerate() {
        lines.push(if index == 0 { (label, text + mark) } else { ("", text) });
    }
}

fn governs(matches: &Match) -> String {
    let fields = [
        ("cluster", &matches.cluster),
        ("route", &matches.route),
        ("authority", &matches.authority),
        ("path", &matches.path),
        ("method", &matches.method),
    ];
    let mut conditions: Vec<String> = fields
        .into_iter()
        .filter(|(_, globs)| !globs.is_empty())
        .map(|(field, globs)| format!("{field} {}", joined(globs.iter().map(Glob::as_str), "or")))
        .collect();
    conditions.extend(matches.headers.iter().map(shown));
    if conditions.is_empty() { "every request".to_owned() } else { conditions.join(", and ") }
}

/// `header x-tenant a*`.
fn shown((name, glob): &(String, Glob)) -> String {
    format!("header {name} {}", glob.as_str())
}

fn state(scope: &Scope) -> String {
    let parts = scope.by.iter().map(|dimension| match dimension {
        Dimension::Cluster => "cluster".to_owned(),
        Dimension::Route => "route".to_owned(),
        Dimension::Authority => "authority".to_owned(),
        Dimension::Header(name) => format!("value of header {name}"),
    });
    if scope.by.is_empty() {
        return "one for the whole policy".to_owned();
    }
    format!("one per {}; beyond {} of them, one more for all the rest", joined(parts, "and"), scope.max_keys)
}

fn outcome(rules: &OutcomeRules) -> Vec<(&'static str, String)> {
    let headers = |headers: &[(String, Glob)]| -> Vec<String> {
        headers.iter().map(|one| format!("response {}", shown(one))).collect()
    };
    let mut failures = answers(&rules.failure_status, &rules.failure_grpc);
    failures.extend(headers(&rules.failure_headers));
    if rules.failure_local {
        failures.push(NO_ANSWER.to_owned());
    }
    if rules.failure_broken {
        failures.push("an answer that the host breaks off".to_owned());
    }
    let failures = if failures.is_empty() { "nothing".to_owned() } else { failures.join("; ") };
    let mut lines = vec![("a failure is", failures)];
    let mut ignored = answers(&rules.ignore_status, &rules.ignore_grpc);
    ignored.extend(headers(&rules.ignore_headers));
    if !rules.failure_local {
        ignored.push("no answer from the host".to_owned());
    }
    if rules.client_gone == ClientGone::Ignore {
        ignored.push("a client that leaves, however late".to_owned());
    }
    if !ignored.is_empty() {
        lines.push(("ignored is", ignored.join("; ")));
    }
    lines.extend(rules.slow_after.map(|after| ("slow is", format!("{} or longer", duration::text(after)))));
    lines
}

fn answers(status: &StatusSet, grpc: &GrpcSet) -> Vec<String> {
    let names: Vec<&str> = (0..).zip(GRPC_STATUS_NAMES).filter(|(at, _)| grpc.contains(*at)).map(|(_, n)| n).collect();
    let mut texts = Vec::new();
    if *status != StatusSet::default() {
        texts.push(statuses(status));
    }
    if !names.is_empty() {
        texts.push(format!("gRPC status {}", names.join(", ")));
    }
    texts
}

/// `status 404, 500-599`.
fn statuses(status: &StatusSet) -> String {
    let range = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    let ranges: Vec<String> = status.ranges().into_iter().map(range).collect();
    format!("status {}", ranges.join(", "))
}

fn breaker_lines(breaker: &Breaker) -> Vec<String> {
    match breaker.state {
        BreakerControl::ForcedOpen => return vec!["forced open: rejects every request".to_owned()],
        BreakerControl::ForcedClosed => return vec!["forced closed: rejects no request and judges none".to_owned()],
        BreakerControl::Auto => {}
    }
    let mut rates = Vec::new();
    if !breaker.failure_rate.is_zero() {
        rates.push(format!("{} or more failed", breaker.failure_rate));
    }
    if !breaker.slow_rate.is_zero() {
        rates.push(format!("{} or more were slow", breaker.slow_rate));
    }
    let window = match breaker.window {
        Window::Time(time) => {
            format!("at least {} requests in the last {}", breaker.min_requests, duration::text(time))
        }
        Window::Count(last) => format!("the last {last} requests, once there are {}", breaker.min_requests),
    };
    let mut opens = Vec::new();
    if !rates.is_empty() {
        opens.push(format!("when {}, of {window}", rates.join(" or ")));
    }
    if let Some(run) = breaker.consecutive_failures {
        opens.push(format!("at {}", count(run.get().into(), "failure", "failures in a row")));
    }
    let mut lines = vec![format!("opens {}", opens.join("; or ")), open_period(breaker)];
    if breaker.honor_retry_after {
        let most = duration::text(breaker.open_max);
        lines.push(format!("a Retry-After on the answer that opens it lengthens that, to {most} at most"));
    }
    lines.push(format!(
        "then half-open: {} over all workers; one that has not ended after {} gives its place back",
        count(breaker.probes.get().into(), "probe", "probes"),
        duration::text(breaker.lease)
    ));
    lines.push(format!("if the probes reach a threshold it opens again, else it {}", closes(breaker.ramp)));
    lines
}

fn closes(ramp: Duration) -> String {
    if ramp.is_zero() {
        return "closes".to_owned();
    }
    format!("lets a share through that rises to 100% in {}, then closes", duration::text(ramp))
}

/// How long it stays open, with the growth worked out.
fn open_period(breaker: &Breaker) -> String {
    let mut periods: Vec<String> = Vec::new();
    for opens in 0..=u16::MAX {
        let period = duration::text(breaker.period(opens));
        if periods.last() == Some(&period) {
            break;
        }
        if periods.len() == PERIODS_SHOWN {
            periods.push(format!("... up to {}", duration::text(breaker.open_max)));
            break;
        }
        periods.push(period);
    }
    let jitter = if breaker.open_jitter.is_zero() {
        String::new()
    } else {
        format!(", plus up to {} at random", breaker.open_jitter)
    };
    match periods.split_first() {
        Some((first, [])) => format!("stays open {first} each time{jitter}"),
        Some((first, later)) => {
            let later = later.join(", ");
            format!("stays open {first}, then {later} if it opens again before it has closed{jitter}")
        }
        None => String::new(),
    }
}

fn throttle_lines(throttle: &Throttle) -> Vec<String> {
    let mut text = format!(
        "rejects a growing share, {} at most, while less than {} of the requests of the last {} succeed",
        throttle.max_rejection,
        throttle.success_rate,
        duration::text(throttle.window)
    );
    if throttle.min_rps > 0 {
        text.push_str(&format!(", from {} requests per second on", throttle.min_rps));
    }
    let mut lines = vec![text];
    if throttle.aggression != 1000 {
        lines.push(format!("aggression {}: the share to the power of 1/{0}", f64::from(throttle.aggression) / 1000.0));
    }
    lines
}

/// What the client gets for `reason`; nothing where it cannot happen.
fn answer(policy: &Policy, reason: Reason) -> Option<(&'static str, String)> {
    let (label, mode) = match reason {
        Reason::Open => {
            let breaker = policy.breaker.as_ref().filter(|breaker| breaker.state != BreakerControl::ForcedClosed)?;
            ("if open", breaker.mode)
        }
        Reason::Concurrency => ("if too many", policy.concurrency.as_ref()?.mode),
        Reason::Throttled => ("if throttled", policy.throttle.as_ref()?.mode),
        Reason::Failure => ("if failed", policy.mode),
        Reason::Timeout => ("if timed out", policy.mode),
        Reason::NoHost => ("if no host", policy.mode),
        Reason::RetriesExhausted => {
            let retry = policy.retry.as_ref().filter(|retry| retry.max_retries > 0)?;
            ("if exhausted", if policy.mode == Mode::Enforce { retry.mode } else { policy.mode })
        }
    };
    if mode == Mode::Off {
        return None;
    }
    let named = policy.fallback.iter().any(|fallback| fallback.on.contains(reason));
    let reasons: &[Reason] = match reason {
        // The last of several failures is a failure.
        Reason::RetriesExhausted => &[reason, Reason::Failure],
        _ => &[reason],
    };
    let judged = matches!(reason, Reason::Failure | Reason::Timeout | Reason::RetriesExhausted | Reason::NoHost);
    let plain =
        if judged { "with what came" } else { "503 with retry-after and x-holdfast-reject; to gRPC UNAVAILABLE" };
    let answer = match named {
        // Nothing happens to the answer, so there is nothing to say.
        false if judged => return None,
        false => plain.to_owned(),
        true => tried(policy.fallbacks_for(reasons), judged, plain),
    };
    let would = if mode == Mode::Shadow { "shadow only, would answer" } else { "answers" };
    Some((label, format!("{would} {answer}")))
}

/// Fallbacks in the order in which they are tried, up to the first that always serves, or to the `plain` answer; `afterwards`, in place of
/// one that has come.
fn tried<'a>(entries: impl Iterator<Item = &'a Fallback>, afterwards: bool, plain: &str) -> String {
    let mut text = String::new();
    let how = if afterwards { " in a further attempt, where it may be sent twice" } else { "" };
    for entry in entries {
        match &entry.kind {
            FallbackKind::Static(response) => return text + &fixed(response),
            FallbackKind::Call(Call { cluster, timeout, .. }) => {
                let timeout = duration::text(*timeout);
                text.push_str(&format!("by what the cluster {cluster} answers to the same within {timeout}, else "));
            }
            FallbackKind::Route(route) => text.push_str(&format!("by the cluster {}{how}, else ", route.cluster)),
            FallbackKind::Stale(Stale { max_age, max_body, entries }) => {
                let (max_age, max_body) = (duration::text(*max_age), size::text(*max_body));
                text.push_str(&format!(
                    "with the last good answer to the same GET, at most {max_age} old (of each key {entries} are kept, of at most \
                     {max_body}), else "
                ));
            }
        }
    }
    text + plain
}

fn fixed(response: &StaticResponse) -> String {
    let StaticResponse { status, headers, body, grpc_status, .. } = response;
    let mut text = status.to_string();
    let written = |parts: &[TemplatePart]| parts.iter().map(source).collect::<String>();
    let names: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {}", written(value))).collect();
    if !names.is_empty() {
        text.push_str(&format!(" with {}", names.join(", ")));
    }
    let body = written(body);
    if !body.is_empty() {
        text.push_str(&format!(" and the body {}", shortened(&body)));
    }
    let name = GRPC_STATUS_NAMES.get(usize::from(*grpc_status)).copied().unwrap_or_default();
    text + &format!("; to gRPC {name}")
}

/// A part of a template as it was written.
fn source(part: &TemplatePart) -> String {
    match part {
        TemplatePart::Text(text) => text.clone(),
        TemplatePart::Reason => "${reason}".to_owned(),
        TemplatePart::Policy => "${policy}".to_owned(),
        TemplatePart::RetryAfter => "${retry_after}".to_owned(),
        TemplatePart::Path => "${path}".to_owned(),
        TemplatePart::Header(name) => format!("${{header.{name}}}"),
    }
}

/// The beginning of a text, on one line.
fn shortened(text: &str) -> String {
    let line = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    match text.char_indices().nth(BODY_SHOWN) {
        Some((end, _)) => format!("{}... ({} bytes)", line(text.get(..end).unwrap_or(text)), text.len()),
        None => line(text),
    }
}

/// `a`, `a or b`, `a, b or c`.
fn joined(items: impl IntoIterator<Item = impl AsRef<str>>, word: &str) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.as_ref().to_owned()).collect();
    match items.pop() {
        None => String::new(),
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} {word} {last}", items.join(", ")),
    }
}
