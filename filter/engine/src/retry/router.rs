//! What the router is told about retries.

use holdfast_policy::document::{Retry, RetryOn, RetryWord, StatusSet, WordSet};

use super::conditions::ANY_RESET;
use super::eligibility::Eligibility;
use crate::http::markers::RETRY_HEADER;

/// Whether an attempt seat asks the router for a retry by a header of its own ([`RETRY_HEADER`]). The word that has the router
/// heed it (`retriable-headers`) also switches on the headers that the route lists. An answer that the policy names or does not
/// name can be marked so that these do not matter; one that it leaves to the statuses of the route cannot. There the router goes
/// by Envoy's words, as without an attempt seat, and that seat forbids what must not be.
/// Source: Envoy, `RetryStateImpl`: header names of the request are added to the matchers of the route.
pub fn asks_by_header(on: &RetryOn) -> bool {
    !on.words.contains(RetryWord::RetriableStatusCodes) || on.words.contains(RetryWord::RetriableHeaders)
}

/// The request headers that tell the router how to retry a request of this eligibility, time-outs apart. With an
/// attempt seat (`seat`) the router retries responses only when that seat asks for it, where it [asks by header](asks_by_header);
/// otherwise it goes by Envoy's words and by the statuses.
/// Source: Envoy, "Router", HTTP headers (consumed).
pub fn router_headers(retry: &Retry, eligibility: Eligibility, seat: bool) -> Vec<(&'static str, String)> {
    let seat = seat && asks_by_header(&retry.on);
    if eligibility == Eligibility::Nothing || retry.max_retries == 0 {
        // The route's own retries would go on otherwise.
        return vec![("x-envoy-max-retries", "0".to_owned())];
    }
    let (words, grpc_words) = router_words(retry, eligibility, seat);
    if words.is_empty() && grpc_words.is_empty() {
        return vec![("x-envoy-max-retries", "0".to_owned())];
    }
    let mut headers = vec![("x-envoy-retry-on", join(words)), ("x-envoy-max-retries", retry.max_retries.to_string())];
    if seat && eligibility == Eligibility::All {
        headers.push(("x-envoy-retriable-header-names", RETRY_HEADER.to_owned()));
    }
    if !grpc_words.is_empty() {
        headers.push(("x-envoy-retry-grpc-on", join(grpc_words)));
    }
    if !seat && eligibility == Eligibility::All {
        let statuses = (100..600).filter(|status| retry.on.statuses.contains(*status));
        let statuses = listed(statuses.map(|status| status.to_string()));
        if !statuses.is_empty() {
            headers.push(("x-envoy-retriable-status-codes", statuses));
        }
    }
    headers.push(times_one_attempt(retry, eligibility));
    headers
}

/// The same where an attempt seat may have another cluster serve after the last attempt, after what a request of this eligibility may be
/// followed by. Without `retries` there are none before that.
pub fn headers_for_further_attempt(
    retry: &Retry,
    eligibility: Eligibility,
    retries: bool,
) -> Vec<(&'static str, String)> {
    let own = if retries { eligibility } else { Eligibility::Nothing };
    let (mut words, _) = router_words(retry, own, true);
    words.insert(RetryWord::ConnectFailure);
    words.insert(RetryWord::RefusedStream);
    if eligibility == Eligibility::All {
        words.insert(RetryWord::Reset);
        words.insert(RetryWord::RetriableHeaders);
    }
    let most = if retries { retry.max_retries.saturating_add(1) } else { 1 };
    let mut headers = vec![("x-envoy-retry-on", join(words)), ("x-envoy-max-retries", most.to_string())];
    if eligibility == Eligibility::All {
        headers.push(("x-envoy-retriable-header-names", RETRY_HEADER.to_owned()));
    }
    headers.push(times_one_attempt(retry, eligibility));
    headers
}

/// How the router times one attempt, or that it does not.
fn times_one_attempt(retry: &Retry, eligibility: Eligibility) -> (&'static str, String) {
    match retry.per_try_timeout {
        // The route's own would run while an attempt waits.
        None => ("x-envoy-upstream-rq-per-try-timeout-ms", "0".to_owned()),
        // The route may hedge by itself.
        Some(_) => {
            let hedges = retry.hedge_on_per_try_timeout && eligibility == Eligibility::All;
            ("x-envoy-hedge-on-per-try-timeout", hedges.to_string())
        }
    }
}

/// A header's list of words.
fn join(words: WordSet) -> String {
    listed(words.iter().map(|word| word.name().to_owned()))
}

/// The words of `retry_on` and of `retry_grpc_on` for the router.
fn router_words(retry: &Retry, eligibility: Eligibility, seat: bool) -> (WordSet, WordSet) {
    let on = retry.on.words;
    let any_reset = on.has_any(ANY_RESET);
    let mut words = WordSet::default();
    let mut grpc_words = WordSet::default();
    for word in on.iter() {
        match word {
            RetryWord::ConnectFailure | RetryWord::RefusedStream | RetryWord::ResetBeforeRequest => words.insert(word),
            _ if eligibility != Eligibility::All => {}
            // The attempt seat asks after responses that these name; what they name besides is a reset.
            RetryWord::FiveXx | RetryWord::GatewayError if seat => words.insert(RetryWord::Reset),
            RetryWord::EnvoyRatelimited | RetryWord::Retriable4xx if seat => {}
            _ if word.grpc_status().is_some() => {
                if !seat {
                    grpc_words.insert(word);
                }
            }
            _ => words.insert(word),
        }
    }
    if eligibility != Eligibility::All && any_reset {
        // Of all that these name, what no host can have seen.
        words.insert(RetryWord::ConnectFailure);
        words.insert(RetryWord::RefusedStream);
    }
    if eligibility == Eligibility::All {
        if seat {
            words.insert(RetryWord::RetriableHeaders);
        } else if retry.on.statuses != StatusSet::default() {
            words.insert(RetryWord::RetriableStatusCodes);
        }
    }
    (words, grpc_words)
}

/// A header's list.
fn listed(items: impl Iterator<Item = String>) -> String {
    let mut list = String::new();
    for item in items {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&item);
    }
    list
}
