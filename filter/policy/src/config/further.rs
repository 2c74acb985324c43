//! What the policy needs for a further attempt, in another cluster: a `route` for a reason that only an answer gives.

use super::around::{Around, Feature};
use super::error::{Report, Reported};
use crate::document::{Fallback, Reason, Retry, RetryWord, WordSet};

/// Why a reason is not for a route.
pub(super) const NO_ATTEMPT_FOLLOWS: &str =
    "must not name no_host where the entry has a route: where there is no host no attempt follows";

/// What a policy lacks for a route after a failure.
pub(super) const NEEDS_RETRY: &str = "a route for failure, timeout or retries_exhausted is the router's further attempt: it needs retry, which may have max_retries 0";
pub(super) const NEEDS_RETRY_ON: &str =
    "a route for failure, timeout or retries_exhausted is the router's further attempt: it needs retry, which is off";
pub(super) const NEEDS_NO_HEDGES: &str = "a route for failure, timeout or retries_exhausted follows the last attempt, which hedges do not have: set retry.hedge_on_per_try_timeout to false";
pub(super) const NEEDS_OWN_STATUSES: &str = "a route for failure, timeout or retries_exhausted needs retry.on without retriable-status-codes: with it the router goes by the route's statuses alone";
pub(super) const NEEDS_PER_TRY_TIMEOUT: &str =
    "a route for timeout needs retry.per_try_timeout: after the whole time-out there is no time for a further attempt";

/// Reports why no attempt can follow in another cluster for the reasons that an entry names, which stand at `path`.
pub(super) fn may_follow(
    entry: &Fallback,
    around: &Around<'_>,
    path: &str,
    report: &mut Report,
) -> Result<(), Reported> {
    if entry.on.contains(Reason::NoHost) {
        return Err(report.add(path, NO_ATTEMPT_FOLLOWS));
    }
    let lacks = match (around.features.retry, around.retry) {
        (Feature::Absent, _) => NEEDS_RETRY,
        (Feature::Off, _) => NEEDS_RETRY_ON,
        // What is wrong there has been said.
        (Feature::On, None) => return Ok(()),
        (_, Some(retry)) if retry.hedge_on_per_try_timeout => NEEDS_NO_HEDGES,
        (_, Some(Retry { on, .. })) if leaves_to_route(on.words) => NEEDS_OWN_STATUSES,
        (_, Some(retry)) if entry.on.contains(Reason::Timeout) && retry.per_try_timeout.is_none() => {
            NEEDS_PER_TRY_TIMEOUT
        }
        _ => return Ok(()),
    };
    Err(report.add(path, lacks))
}

/// Whether the router goes by the statuses of the route, which nobody can add to.
fn leaves_to_route(words: WordSet) -> bool {
    words.contains(RetryWord::RetriableStatusCodes) && !words.contains(RetryWord::RetriableHeaders)
}
