//! What a policy does about retries: after what, for which requests, when, and how many at most.

use std::time::Duration;

use holdfast_policy::config::duration;
use holdfast_policy::document::{
    Backoff, Breaker, BreakerControl, Budget, GrpcSet, Jitter, Mode, Retry, RetryAfter, RetryOn, RetryWord, WordSet,
};

use super::{NO_ANSWER, PERIODS_SHOWN, answers, count, joined};

/// Words that stand for every way in which a host does not answer.
const ANY_RESET: WordSet = WordSet::of(&[RetryWord::FiveXx, RetryWord::GatewayError, RetryWord::Reset]);

/// The lines about `retry` in a policy with this breaker.
pub fn lines(retry: &Retry, breaker: Option<&Breaker>) -> Vec<String> {
    if retry.max_retries == 0 {
        return vec!["no retries: max_retries is 0".to_owned()];
    }
    let retries = count(retry.max_retries.into(), "retry", "retries");
    let mut lines = vec![
        format!("up to {retries} after {}", causes(&retry.on)),
        eligible(retry),
        waits(&retry.backoff, retry.max_retries),
    ];
    lines.extend(wishes(&retry.retry_after));
    lines.push(time_outs(retry));
    lines.push(budget(&retry.budget));
    if retry.skip_retries_of_retries {
        lines.push("no retry of a request that is one already (x-envoy-attempt-count above 1)".to_owned());
    }
    if breaker.is_some_and(|breaker| breaker.mode == Mode::Enforce && breaker.state == BreakerControl::Auto) {
        lines.push("no retry while the breaker is open or half-open".to_owned());
    }
    lines
}

/// After which ends of an attempt there is another, with Envoy's words said as what they stand for.
fn causes(on: &RetryOn) -> String {
    let (mut status, mut grpc) = (on.statuses, GrpcSet::default());
    let statuses =
        [(RetryWord::FiveXx, 500, 599), (RetryWord::GatewayError, 502, 504), (RetryWord::Retriable4xx, 409, 409)];
    for (_, first, last) in statuses.into_iter().filter(|(word, ..)| on.words.contains(*word)) {
        status.insert_range(first, last);
    }
    on.words.iter().filter_map(RetryWord::grpc_status).for_each(|status| grpc.insert(status));

    let mut texts = answers(&status, &grpc);
    let any_reset = on.words.has_any(ANY_RESET);
    texts.extend(on.words.iter().filter_map(|word| word_text(word, any_reset)).map(str::to_owned));
    texts.extend(any_reset.then(|| NO_ANSWER.to_owned()));
    texts.join("; or ")
}

/// What a word stands for that is neither a status nor, with `any_reset`, one of many ways of not answering.
fn word_text(word: RetryWord, any_reset: bool) -> Option<&'static str> {
    let (text, reset) = match word {
        RetryWord::EnvoyRatelimited => ("an answer with x-envoy-ratelimited", false),
        RetryWord::RetriableStatusCodes => ("a status that the route calls retriable", false),
        RetryWord::RetriableHeaders => ("a header that the route calls retriable", false),
        RetryWord::ConnectFailure => ("a connect failure", true),
        RetryWord::RefusedStream => ("a stream that the host refused", true),
        RetryWord::ResetBeforeRequest => ("a reset before anything was sent", true),
        RetryWord::Http3PostConnectFailure => ("no answer over HTTP/3", true),
        _ => return None,
    };
    (!reset || !any_reset).then_some(text)
}

/// Which requests may have reached a host and are sent again all the same, and which others are.
fn eligible(retry: &Retry) -> String {
    let methods = joined(&retry.methods, "or");
    let mut text = format!("for method {methods}, or with header {}", retry.idempotency_header);
    if retry.on.words.has_any(ANY_RESET) || retry.on.words.contains(RetryWord::ConnectFailure) {
        text.push_str("; for others only if the request reached no host");
    }
    text
}

/// The wait before each retry, with the growth worked out.
fn waits(backoff: &Backoff, retries: u8) -> String {
    let each = if retries == 1 { "it" } else { "each" };
    match backoff.jitter {
        Jitter::None => format!("waits before {each}: {}", growth(backoff, retries, duration::text)),
        Jitter::Full => format!("waits at random before {each}: up to {}", growth(backoff, retries, duration::text)),
        Jitter::Equal => {
            let range = |wait: Duration| format!("{} to {}", duration::text(wait / 2), duration::text(wait));
            format!("waits at random before {each}: {}", growth(backoff, retries, range))
        }
        Jitter::Decorrelated => {
            let (base, max) = (duration::text(backoff.base), duration::text(backoff.max));
            format!("waits at random before {each}: {base} to three times the one before, {max} at most")
        }
    }
}

/// The waits as they double, as `text` says them, up to the one that is no longer than that before it.
fn growth(backoff: &Backoff, retries: u8, text: impl Fn(Duration) -> String) -> String {
    let mut waits: Vec<String> = Vec::new();
    let mut wait = backoff.base;
    for _ in 0..retries {
        if waits.len() == PERIODS_SHOWN {
            waits.push(format!("... up to {}", duration::text(backoff.max)));
            break;
        }
        waits.push(text(wait));
        if wait == backoff.max {
            break;
        }
        wait = wait.saturating_mul(2).min(backoff.max);
    }
    match waits.split_first() {
        Some((first, later)) if !later.is_empty() => format!("{first}, then {}", later.join(", ")),
        _ => waits.concat(),
    }
}

/// What becomes of a host's own wish when to come again.
fn wishes(retry_after: &RetryAfter) -> Option<String> {
    let asks = "a host that asks for a wait (Retry-After, grpc-retry-pushback-ms)";
    match (retry_after.honor, retry_after.max) {
        (false, _) => None,
        (true, Duration::ZERO) => Some(format!("{asks} gets no retry itself")),
        (true, most) => Some(format!(
            "{asks} gets it before a retry there, up to {}; beyond that no retry there",
            duration::text(most)
        )),
    }
}

fn time_outs(retry: &Retry) -> String {
    let mut texts = Vec::new();
    if let Some(one) = retry.per_try_timeout {
        let one = duration::text(one);
        texts.push(if retry.hedge_on_per_try_timeout {
            format!("an attempt that takes {one} goes on beside the next one, and the first good answer counts")
        } else {
            format!("an attempt takes {one} at most")
        });
    }
    texts.push(match retry.timeout {
        Some(all) => format!("all attempts with their waits take {} at most", duration::text(all)),
        None => "all attempts with their waits take as long as the route allows".to_owned(),
    });
    texts.join("; ")
}

fn budget(budget: &Budget) -> String {
    let mut parts = Vec::new();
    if !budget.ratio.is_zero() {
        parts.push(format!("{} of requests", budget.ratio));
    }
    if budget.min_per_second > 0 {
        parts.push(format!("{}/s", f64::from(budget.min_per_second) / 1000.0));
    }
    let window = duration::text(budget.window);
    format!("budget: at most {}, counted over {window} and over all workers", parts.join(" plus "))
}
