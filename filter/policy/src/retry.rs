//! Which requests may be retried, after what, and what the router is told about it.

use crate::document::{Retry, RetryOn, RetryWord, StatusSet, WordSet};
use crate::exchange::{End, RETRY_HEADER};
use crate::outcome::Answer;

/// After what a request may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Leave {
    /// After everything that the policy names.
    All = 0,
    /// Only while no host can have seen it: it is not idempotent.
    Unsent = 1,
    /// After nothing: it is itself a retry of a proxy before this one.
    Nothing = 2,
}

impl Leave {
    /// The leave of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Leave::All, Leave::Unsent, Leave::Nothing].into_iter().find(|leave| *leave as u8 == number)
    }
}

/// Why a try that the policy's `on` names was not followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Denial {
    /// The budget has no token left.
    Budget = 0,
    /// The breaker is not closed.
    Breaker = 1,
    /// A host may have seen the request, and it is not idempotent.
    Method = 2,
    /// The wait would go beyond the time that is left.
    Deadline = 3,
    /// The host asked for a longer wait than the policy or the time that is left allows.
    RetryAfter = 4,
    /// The request is itself a retry.
    RetryOfRetry = 5,
    /// No token could be taken, because other workers were faster each time, or the key has lost its place.
    Contention = 6,
}

impl Denial {
    /// All, by number.
    pub const ALL: [Denial; 7] = [
        Denial::Budget,
        Denial::Breaker,
        Denial::Method,
        Denial::Deadline,
        Denial::RetryAfter,
        Denial::RetryOfRetry,
        Denial::Contention,
    ];

    /// The denial of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Denial::ALL.get(usize::from(number)).copied()
    }

    /// The word in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Denial::Budget => "budget",
            Denial::Breaker => "breaker",
            Denial::Method => "method",
            Denial::Deadline => "deadline",
            Denial::RetryAfter => "retry_after",
            Denial::RetryOfRetry => "retry_of_retry",
            Denial::Contention => "contention",
        }
    }
}

/// Whether `on` names the end of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It leaves that to lists that only the route has.
    RouteKnows,
}

/// Words after which a try without an answer is followed by another, whatever ended it. Envoy counts a reset as a 5xx
/// (Envoy, `RetryStateImpl::wouldRetryFromReset`).
const ANY_RESET: WordSet = WordSet::of(&[RetryWord::Reset, RetryWord::FiveXx, RetryWord::GatewayError]);

/// Words after which some resets are followed by another try. Which, Envoy alone can tell.
const SOME_RESETS: WordSet =
    WordSet::of(&[RetryWord::RefusedStream, RetryWord::ResetBeforeRequest, RetryWord::Http3PostConnectFailure]);

/// Words that leave the choice to the route.
const ROUTE_KNOWS: WordSet = WordSet::of(&[RetryWord::RetriableStatusCodes, RetryWord::RetriableHeaders]);

impl RetryOn {
    /// Whether a response with this status, `grpc-status` and (of the host's own making) `x-envoy-ratelimited` is named.
    /// Source: Envoy, `RetryStateImpl::wouldRetryFromHeaders`.
    pub fn names_response(&self, status: u16, grpc_status: Option<u32>, ratelimited: bool) -> Named {
        let has = |word| self.words.contains(word);
        if ratelimited {
            return if has(RetryWord::EnvoyRatelimited) { Named::Yes } else { Named::No };
        }
        let grpc =
            self.words.iter().any(|word| word.grpc_status().is_some_and(|named| grpc_status == Some(named.into())));
        let http = self.statuses.contains(status)
            || has(RetryWord::FiveXx) && (500..=599).contains(&status)
            || has(RetryWord::GatewayError) && (502..=504).contains(&status)
            || has(RetryWord::Retriable4xx) && status == 409;
        if grpc || http {
            Named::Yes
        } else if self.words.has_any(ROUTE_KNOWS) {
            Named::RouteKnows
        } else {
            Named::No
        }
    }

    /// Whether this end of a try without an answer is named.
    pub fn names_no_answer(&self, end: End) -> bool {
        let any = self.words.has_any(ANY_RESET);
        match end {
            End::ConnectFailure => {
                any || self.words.contains(RetryWord::ConnectFailure)
                    || self.words.contains(RetryWord::ResetBeforeRequest)
            }
            End::Reset => any || self.words.has_any(SOME_RESETS),
            End::TimedOut => any,
            End::Http(_) | End::Grpc(_) => false,
        }
    }

    /// Whether the final answer of a request is named.
    pub fn names_answer(&self, answer: Answer) -> bool {
        match answer {
            Answer::Http(status) => self.names_response(status, None, false) == Named::Yes,
            Answer::Grpc(status) => self.names_response(200, Some(status), false) == Named::Yes,
            Answer::NoAnswer => self.names_no_answer(End::Reset) || self.names_no_answer(End::ConnectFailure),
            Answer::TimedOut => self.names_no_answer(End::TimedOut),
            Answer::NotTheHost => false,
        }
    }
}

impl Retry {
    /// The leave of a request. `is_keyed` tells whether it has the idempotency header, `attempt` is the value of its
    /// `x-envoy-attempt-count`.
    pub fn leave(&self, method: &[u8], is_keyed: impl FnOnce() -> bool, attempt: Option<&[u8]>) -> Leave {
        let is_retry = attempt.and_then(|value| core::str::from_utf8(value).ok()?.trim().parse::<u64>().ok());
        if self.skip_retries_of_retries && is_retry.is_some_and(|attempt| attempt > 1) {
            Leave::Nothing
        } else if self.methods.iter().any(|named| named.as_bytes() == method) || is_keyed() {
            Leave::All
        } else {
            Leave::Unsent
        }
    }

    /// The request headers that tell the router how to retry a request with this leave, time-outs apart. With an
    /// attempt seat (`seat`) the router retries responses only when that seat asks for it; without one it goes by
    /// Envoy's words and by the statuses.
    /// Source: Envoy, "Router", HTTP headers (consumed).
    pub fn router_headers(&self, leave: Leave, seat: bool) -> Vec<(&'static str, String)> {
        if leave == Leave::Nothing || self.max_retries == 0 {
            // The route's own retries would go on otherwise.
            return vec![("x-envoy-max-retries", "0".to_owned())];
        }
        let (words, grpc_words) = self.router_words(leave, seat);
        if words.is_empty() && grpc_words.is_empty() {
            return vec![("x-envoy-max-retries", "0".to_owned())];
        }
        let join = |words: WordSet| listed(words.iter().map(|word| word.name().to_owned()));
        let mut headers =
            vec![("x-envoy-retry-on", join(words)), ("x-envoy-max-retries", self.max_retries.to_string())];
        if seat && leave == Leave::All {
            headers.push(("x-envoy-retriable-header-names", RETRY_HEADER.to_owned()));
        }
        if !grpc_words.is_empty() {
            headers.push(("x-envoy-retry-grpc-on", join(grpc_words)));
        }
        if !seat && leave == Leave::All {
            let statuses = (100..600).filter(|status| self.on.statuses.contains(*status));
            let statuses = listed(statuses.map(|status| status.to_string()));
            if !statuses.is_empty() {
                headers.push(("x-envoy-retriable-status-codes", statuses));
            }
        }
        match self.per_try_timeout {
            // The route's own would run while a try waits.
            None => headers.push(("x-envoy-upstream-rq-per-try-timeout-ms", "0".to_owned())),
            // The route may hedge by itself.
            Some(_) => {
                let hedges = self.hedge_on_per_try_timeout && leave == Leave::All;
                headers.push(("x-envoy-hedge-on-per-try-timeout", hedges.to_string()));
            }
        }
        headers
    }

    /// The words of `retry_on` and of `retry_grpc_on` for the router.
    fn router_words(&self, leave: Leave, seat: bool) -> (WordSet, WordSet) {
        let on = self.on.words;
        let any_reset = on.has_any(ANY_RESET);
        let mut words = WordSet::default();
        let mut grpc_words = WordSet::default();
        for word in on.iter() {
            match word {
                RetryWord::ConnectFailure | RetryWord::RefusedStream | RetryWord::ResetBeforeRequest => {
                    words.insert(word)
                }
                _ if leave != Leave::All => {}
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
        if leave != Leave::All && any_reset {
            // Of all that these name, what no host can have seen.
            words.insert(RetryWord::ConnectFailure);
            words.insert(RetryWord::RefusedStream);
        }
        if leave == Leave::All {
            if seat {
                words.insert(RetryWord::RetriableHeaders);
            } else if self.on.statuses != StatusSet::default() {
                words.insert(RetryWord::RetriableStatusCodes);
            }
        }
        (words, grpc_words)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;
    use crate::document::Mode;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn on(words: &[RetryWord]) -> RetryOn {
        RetryOn { words: WordSet::of(words), statuses: StatusSet::default() }
    }

    fn header(headers: &[(&'static str, String)], name: &str) -> Option<String> {
        headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn responses_are_named_as_envoy_names_them() {
        let named = |words: &[RetryWord], status| on(words).names_response(status, None, false) == Named::Yes;
        for (status, expected) in [(499, false), (500, true), (599, true)] {
            assert_eq!(named(&[RetryWord::FiveXx], status), expected, "5xx of {status}");
        }
        for (status, expected) in [(500, false), (502, true), (503, true), (504, true), (505, false)] {
            assert_eq!(named(&[RetryWord::GatewayError], status), expected, "gateway-error of {status}");
        }
        assert!(named(&[RetryWord::Retriable4xx], 409));
        assert!(!named(&[RetryWord::Retriable4xx], 404));
        assert!(!named(&[RetryWord::Reset, RetryWord::ConnectFailure], 503), "an answer is no reset");
        let mut statuses = StatusSet::default();
        statuses.insert_range(429, 429);
        assert_eq!(RetryOn { statuses, ..RetryOn::default() }.names_response(429, None, false), Named::Yes);
    }

    #[test]
    fn grpc_statuses_count_when_they_stand_in_the_headers() {
        let unavailable = on(&[RetryWord::Unavailable]);
        assert_eq!(unavailable.names_response(200, Some(14), false), Named::Yes);
        assert_eq!(unavailable.names_response(200, Some(13), false), Named::No);
        assert_eq!(unavailable.names_response(200, None, false), Named::No);
    }

    #[test]
    fn a_host_that_is_rate_limited_is_left_alone_unless_it_is_asked_for() {
        assert_eq!(on(&[RetryWord::FiveXx]).names_response(503, None, true), Named::No);
        assert_eq!(on(&[RetryWord::EnvoyRatelimited]).names_response(429, None, true), Named::Yes);
    }

    #[test]
    fn lists_of_the_route_are_left_to_it() {
        let route = on(&[RetryWord::RetriableStatusCodes, RetryWord::FiveXx]);
        assert_eq!(route.names_response(429, None, false), Named::RouteKnows);
        assert_eq!(route.names_response(503, None, false), Named::Yes);
    }

    #[test]
    fn what_has_no_answer_is_named_by_what_ended_it() {
        for word in [RetryWord::Reset, RetryWord::FiveXx, RetryWord::GatewayError] {
            for end in [End::ConnectFailure, End::Reset, End::TimedOut] {
                assert!(on(&[word]).names_no_answer(end), "{} after {end}", word.name());
            }
        }
        let connect = on(&[RetryWord::ConnectFailure]);
        assert!(connect.names_no_answer(End::ConnectFailure));
        assert!(!connect.names_no_answer(End::Reset) && !connect.names_no_answer(End::TimedOut));
        assert!(!on(&[RetryWord::RefusedStream]).names_no_answer(End::TimedOut));
    }

    #[test]
    fn only_idempotent_or_keyed_requests_have_leave_for_everything() {
        let retry = defaults::retry(Mode::Enforce);
        assert_eq!(retry.leave(b"GET", || false, None), Leave::All);
        assert_eq!(retry.leave(b"POST", || false, None), Leave::Unsent);
        assert_eq!(retry.leave(b"POST", || true, None), Leave::All);
        assert_eq!(retry.leave(b"get", || false, None), Leave::Unsent, "methods are case-sensitive");
    }

    #[test]
    fn a_retry_of_a_proxy_before_is_not_retried_again() {
        let retry = defaults::retry(Mode::Enforce);
        assert_eq!(retry.leave(b"GET", || false, Some(b"1")), Leave::All);
        assert_eq!(retry.leave(b"GET", || false, Some(b"2")), Leave::Nothing);
        assert_eq!(retry.leave(b"GET", || false, Some(b"\xff")), Leave::All);
        let again = Retry { skip_retries_of_retries: false, ..retry };
        assert_eq!(again.leave(b"GET", || false, Some(b"2")), Leave::All);
    }

    #[test]
    fn with_an_attempt_seat_the_router_retries_responses_only_when_asked() {
        let headers = defaults::retry(Mode::Enforce).router_headers(Leave::All, true);
        let words = "reset,connect-failure,refused-stream,retriable-headers";
        assert_eq!(header(&headers, "x-envoy-retry-on").as_deref(), Some(words));
        assert_eq!(header(&headers, "x-envoy-max-retries").as_deref(), Some("2"));
        assert_eq!(header(&headers, "x-envoy-retriable-header-names").as_deref(), Some(RETRY_HEADER));
        assert_eq!(header(&headers, "x-envoy-upstream-rq-per-try-timeout-ms").as_deref(), Some("0"));
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn only_the_policy_hedges_and_only_what_may_be_sent_twice() {
        let mut retry = defaults::retry(Mode::Enforce);
        let hedges =
            |retry: &Retry, leave| header(&retry.router_headers(leave, true), "x-envoy-hedge-on-per-try-timeout");
        assert_eq!(hedges(&retry, Leave::All), None, "without a time for a try there is nothing to hedge after");
        retry.per_try_timeout = Some(core::time::Duration::from_secs(1));
        assert_eq!(hedges(&retry, Leave::All).as_deref(), Some("false"));
        retry.hedge_on_per_try_timeout = true;
        assert_eq!(hedges(&retry, Leave::All).as_deref(), Some("true"));
        assert_eq!(hedges(&retry, Leave::Unsent).as_deref(), Some("false"));
    }

    #[test]
    fn without_one_it_goes_by_the_words_and_statuses() {
        let mut retry = defaults::retry(Mode::Enforce);
        retry.on.statuses.insert_range(429, 430);
        retry.on.words.insert(RetryWord::Unavailable);
        let headers = retry.router_headers(Leave::All, false);
        let words = "gateway-error,reset,connect-failure,refused-stream,retriable-status-codes";
        assert_eq!(header(&headers, "x-envoy-retry-on").as_deref(), Some(words));
        assert_eq!(header(&headers, "x-envoy-retry-grpc-on").as_deref(), Some("unavailable"));
        assert_eq!(header(&headers, "x-envoy-retriable-status-codes").as_deref(), Some("429,430"));
        assert_eq!(header(&headers, "x-envoy-retriable-header-names"), None, "a host could set the header");
    }

    #[test]
    fn what_may_have_been_seen_is_not_sent_again() {
        for seat in [false, true] {
            let retry = defaults::retry(Mode::Enforce);
            let headers = retry.router_headers(Leave::Unsent, seat);
            assert_eq!(header(&headers, "x-envoy-retry-on").as_deref(), Some("connect-failure,refused-stream"));
            let mut statuses = Retry { on: RetryOn::default(), ..retry };
            statuses.on.statuses.insert_range(503, 503);
            assert_eq!(statuses.router_headers(Leave::Unsent, seat), [("x-envoy-max-retries", "0".to_owned())]);
        }
    }

    #[test]
    fn without_leave_the_route_does_not_retry_either() {
        let retry = defaults::retry(Mode::Enforce);
        let none = [("x-envoy-max-retries", "0".to_owned())];
        assert_eq!(retry.router_headers(Leave::Nothing, true), none);
        assert_eq!(Retry { max_retries: 0, ..retry }.router_headers(Leave::All, true), none);
    }

    #[test]
    fn numbers_lead_back_to_what_they_stand_for() {
        for (number, denial) in Denial::ALL.into_iter().enumerate() {
            assert_eq!((denial as usize, Denial::from_number(number as u8)), (number, Some(denial)));
        }
        for leave in [Leave::All, Leave::Unsent, Leave::Nothing] {
            assert_eq!(Leave::from_number(leave as u8), Some(leave));
        }
        assert_eq!((Denial::from_number(7), Leave::from_number(3)), (None, None));
    }
}
