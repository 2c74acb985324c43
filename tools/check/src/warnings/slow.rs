//! A `slow_rate` that has no traffic to judge.

use holdfast_policy::config::duration;
use holdfast_policy::document::{Breaker, Mode, Policy, Window};

/// A breaker that opens for slow answers, and acts or counts.
pub fn watches(policy: &Policy) -> Option<&Breaker> {
    policy.breaker.as_ref().filter(|breaker| breaker.mode != Mode::Off && !breaker.slow_rate.is_zero())
}

/// Warnings about one policy: the rest of the path and the problem.
pub fn about(policy: &Policy) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Some((breaker, slow_after)) = watches(policy).zip(policy.outcome.slow_after) else { return found };
    let slow = duration::text(slow_after);
    let retry = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce && retry.max_retries > 0);
    if let Some(all) = retry.and_then(|retry| retry.timeout).filter(|all| *all < slow_after) {
        let problem = format!("{slow} is longer than retry.timeout, {}: no answer is ever slow", duration::text(all));
        found.push((".outcome.slow_after".to_owned(), format!("{problem}, and slow_rate judges nothing")));
    }
    let limit = policy.concurrency.as_ref().filter(|limit| limit.mode == Mode::Enforce);
    if let (Some(limit), Window::Time(window)) = (limit, breaker.window) {
        // Each place holds a slow request for `slow_after` at least, and one more may end as the window begins.
        let each = window.as_nanos() / slow_after.as_nanos().max(1) + 1;
        let most_slow = each.saturating_mul(limit.max_requests.get().into());
        // At the threshold they are this share of all.
        let most = most_slow.saturating_mul(100_000) / u128::from(breaker.slow_rate.millis().max(1));
        if most < u128::from(breaker.min_requests.get()) {
            let problem = format!(
                "has too few to judge: of {} requests in flight (concurrency) at most {most} end in {} when so many are slow, and \
                 min_requests is {}",
                limit.max_requests,
                duration::text(window),
                breaker.min_requests
            );
            found.push((".breaker.slow_rate".to_owned(), problem));
        }
    }
    found
}
