//! When Envoy's router tries again. Source: Envoy, `source/common/router/retry_state_impl.cc`.

use crate::headers::Headers;
use crate::reset::Reset;
use crate::route::Route;

/// What a request may be retried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    FiveXx,
    GatewayError,
    ConnectFailure,
    EnvoyRateLimited,
    Retriable4xx,
    RefusedStream,
    RetriableStatusCodes,
    RetriableHeaders,
    Reset,
    ResetBeforeRequest,
    /// A status of gRPC, in the response's headers.
    Grpc(u32),
}

impl On {
    fn of_http(word: &str) -> Option<Self> {
        Some(match word {
            "5xx" => On::FiveXx,
            "gateway-error" => On::GatewayError,
            "connect-failure" => On::ConnectFailure,
            "envoy-ratelimited" => On::EnvoyRateLimited,
            "retriable-4xx" => On::Retriable4xx,
            "refused-stream" => On::RefusedStream,
            "retriable-status-codes" => On::RetriableStatusCodes,
            "retriable-headers" => On::RetriableHeaders,
            "reset" => On::Reset,
            "reset-before-request" => On::ResetBeforeRequest,
            _ => return None,
        })
    }

    fn of_grpc(word: &str) -> Option<Self> {
        Some(On::Grpc(match word {
            "cancelled" => 1,
            "deadline-exceeded" => 4,
            "resource-exhausted" => 8,
            "internal" => 13,
            "unavailable" => 14,
            _ => return None,
        }))
    }
}

/// The router's answer to the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is not to be retried.
    No,
    /// It would be, but there are no retries left.
    LimitExceeded,
    /// A retry follows.
    Retry,
}

/// What the router has found out about one request's retries.
#[derive(Debug)]
pub(crate) struct RetryState {
    on: Vec<On>,
    remaining: u32,
    status_codes: Vec<u16>,
    header_names: Vec<String>,
}

/// Headers that go no further than the router, whether there are retries or not.
const CONSUMED: [&str; 7] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-upstream-rq-per-try-timeout-ms",
];

impl RetryState {
    /// Reads what route and headers say, and removes the headers. `None` if neither speaks of retries.
    pub(crate) fn take(route: &Route, headers: &mut Headers) -> Option<Self> {
        let state = RetryState::read(route, headers);
        for name in CONSUMED {
            headers.remove(name.as_bytes());
        }
        state
    }

    fn read(route: &Route, headers: &Headers) -> Option<Self> {
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
        let (http, grpc) = (text("x-envoy-retry-on"), text("x-envoy-retry-grpc-on"));
        let mut on: Vec<On> =
            words(&route.retry_on).filter_map(|word| On::of_http(word).or_else(|| On::of_grpc(word))).collect();
        if http.is_none() && grpc.is_none() && on.is_empty() {
            return None;
        }
        on.extend(words(http.as_deref().unwrap_or_default()).filter_map(On::of_http));
        on.extend(words(grpc.as_deref().unwrap_or_default()).filter_map(On::of_grpc));
        // What is no number is passed over; a header counts only where there is something to retry on.
        let max = text("x-envoy-max-retries").and_then(|value| value.trim().parse().ok()).filter(|_| !on.is_empty());
        let mut status_codes = route.retriable_status_codes.clone();
        let codes = text("x-envoy-retriable-status-codes").unwrap_or_default();
        status_codes.extend(words(&codes).filter_map(|code| code.parse::<u16>().ok()));
        let mut header_names = route.retriable_headers.clone();
        header_names.extend(words(&text("x-envoy-retriable-header-names").unwrap_or_default()).map(str::to_owned));
        Some(RetryState { on, remaining: max.unwrap_or(route.retries), status_codes, header_names })
    }

    fn is_on(&self, what: On) -> bool {
        self.on.contains(&what)
    }

    /// Whether a response with these headers is to be retried, retries left or not.
    pub(crate) fn would_retry(&self, headers: &Headers) -> bool {
        if headers.get("x-envoy-ratelimited").is_some() {
            return self.is_on(On::EnvoyRateLimited);
        }
        let number = |name: &str| std::str::from_utf8(headers.get(name)?).ok()?.trim().parse::<u32>().ok();
        let status = number(":status").unwrap_or(0);
        (self.is_on(On::FiveXx) && (500..600).contains(&status))
            || (self.is_on(On::GatewayError) && (502..=504).contains(&status))
            || (self.is_on(On::Retriable4xx) && status == 409)
            || (self.is_on(On::RetriableStatusCodes) && self.status_codes.iter().any(|code| u32::from(*code) == status))
            || (self.is_on(On::RetriableHeaders) && self.header_names.iter().any(|name| headers.get(name).is_some()))
            || number("grpc-status").is_some_and(|status| self.is_on(On::Grpc(status)))
    }

    fn would_retry_reset(&self, reset: Reset, was_sent: bool) -> bool {
        match reset {
            Reset::Overflow => return false,
            Reset::ConnectFailure if self.is_on(On::ConnectFailure) => return true,
            _ => {}
        }
        (self.is_on(On::ResetBeforeRequest) && !was_sent)
            || self.is_on(On::Reset)
            || self.is_on(On::FiveXx)
            || self.is_on(On::GatewayError)
            || (self.is_on(On::RefusedStream) && reset == Reset::RefusedStream)
    }

    fn decide(&mut self, would_retry: bool) -> Decision {
        if !would_retry {
            return Decision::No;
        }
        let Some(left) = self.remaining.checked_sub(1) else { return Decision::LimitExceeded };
        self.remaining = left;
        Decision::Retry
    }

    /// An attempt has answered.
    pub(crate) fn after_headers(&mut self, headers: &Headers) -> Decision {
        self.decide(self.would_retry(headers))
    }

    /// An attempt has ended without an answer; `was_sent` says whether the host had seen any of the request.
    pub(crate) fn after_reset(&mut self, reset: Reset, was_sent: bool) -> Decision {
        self.decide(self.would_retry_reset(reset, was_sent))
    }

    /// An attempt has taken too long and goes on beside another.
    pub(crate) fn hedge(&mut self) -> Decision {
        self.decide(true)
    }
}

/// The words of a list, without the blanks around them.
fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with these headers on a route without a retry policy.
    fn state(headers: &[(&str, &str)]) -> RetryState {
        RetryState::take(&Route::new(), &mut headers.iter().copied().collect()).expect("there is a retry policy")
    }

    fn on(words: &str) -> RetryState {
        state(&[("x-envoy-retry-on", words)])
    }

    fn response(headers: &[(&str, &str)]) -> Headers {
        headers.iter().copied().collect()
    }

    fn retries_status(state: &RetryState, status: u16) -> bool {
        state.would_retry(&response(&[(":status", &status.to_string())]))
    }

    const RESETS: [Reset; 7] = [
        Reset::ConnectFailure,
        Reset::Remote,
        Reset::RefusedStream,
        Reset::ConnectionTermination,
        Reset::ProtocolError,
        Reset::Overflow,
        Reset::Local,
    ];

    /// The resets that these words retry once the request was sent; before that for a connection that failed.
    fn retried_resets(words: &str) -> Vec<Reset> {
        let state = on(words);
        RESETS.into_iter().filter(|reset| state.would_retry_reset(*reset, *reset != Reset::ConnectFailure)).collect()
    }

    #[test]
    fn without_a_word_from_route_or_headers_there_is_no_retry_policy() {
        let mut headers = response(&[("x-envoy-max-retries", "5"), ("x-other", "stays")]);
        assert!(RetryState::take(&Route::new(), &mut headers).is_none());
        assert_eq!(headers, response(&[("x-other", "stays")]), "its headers are removed all the same");
    }

    #[test]
    fn every_header_that_is_for_the_router_stays_with_it() {
        let mut headers = response(&[
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-retry-grpc-on", "unavailable"),
            ("x-envoy-max-retries", "2"),
            ("x-envoy-retriable-header-names", "x-retry"),
            ("x-envoy-retriable-status-codes", "429"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "5"),
        ]);
        assert!(RetryState::take(&Route::new(), &mut headers).is_some());
        assert!(headers.is_empty());
    }

    #[test]
    fn statuses_are_retried_by_their_words() {
        let retried = |words: &str| -> Vec<u16> {
            let state = on(words);
            (100..600).filter(|status| retries_status(&state, *status)).collect()
        };
        assert_eq!(retried("5xx"), (500..600).collect::<Vec<u16>>());
        assert_eq!(retried("gateway-error"), [502, 503, 504]);
        assert_eq!(retried("retriable-4xx"), [409]);
        assert_eq!(retried("connect-failure,refused-stream,reset,reset-before-request,envoy-ratelimited"), [0; 0]);
        assert_eq!(retried("retriable-status-codes"), [0; 0], "there are none without a list");
        assert_eq!(retried(" gateway-error , retriable-4xx,no-such-word,"), [409, 502, 503, 504], "words add up");
    }

    #[test]
    fn status_codes_of_route_and_header_add_up() {
        let route = Route::new().retry_on("retriable-status-codes").retriable_status_codes(&[404]);
        let mut headers = response(&[("x-envoy-retriable-status-codes", "429, 418,teapot")]);
        let state = RetryState::take(&route, &mut headers).unwrap();
        assert!([404, 418, 429].iter().all(|status| retries_status(&state, *status)));
        assert!(!retries_status(&state, 503));
        let without_the_word = state_with("5xx", ("x-envoy-retriable-status-codes", "429"));
        assert!(!retries_status(&without_the_word, 429), "the list alone retries nothing");
    }

    fn state_with(words: &str, header: (&str, &str)) -> RetryState {
        state(&[("x-envoy-retry-on", words), header])
    }

    #[test]
    fn a_response_is_retried_for_a_header_by_its_name_alone() {
        let state = state_with("retriable-headers", ("x-envoy-retriable-header-names", "x-holdfast-retry, x-other"));
        assert!(state.would_retry(&response(&[(":status", "200"), ("X-Holdfast-Retry", "")])));
        assert!(state.would_retry(&response(&[(":status", "200"), ("x-other", "no")])));
        assert!(!state.would_retry(&response(&[(":status", "503")])));
    }

    #[test]
    fn a_rate_limit_forbids_every_retry_unless_it_is_asked_for() {
        let limited =
            |status: &str| response(&[(":status", status), ("x-envoy-ratelimited", "holdfast"), ("x-r", "1")]);
        let everything = "5xx,gateway-error,retriable-headers,retriable-status-codes";
        let state_of = |words: &str| state_with(words, ("x-envoy-retriable-header-names", "x-r"));
        assert!(!state_of(everything).would_retry(&limited("503")));
        assert!(state_of("envoy-ratelimited").would_retry(&limited("200")), "then by the header alone");
        assert!(!state_of("envoy-ratelimited").would_retry(&response(&[(":status", "429")])));
    }

    #[test]
    fn grpc_statuses_are_read_from_headers_by_their_words() {
        let retried = |state: &RetryState| -> Vec<u32> {
            let answer = |status: u32| response(&[(":status", "200"), ("grpc-status", &status.to_string())]);
            (0..=16).filter(|status| state.would_retry(&answer(*status))).collect()
        };
        let all = "cancelled,deadline-exceeded,resource-exhausted,internal,unavailable";
        assert_eq!(retried(&state(&[("x-envoy-retry-grpc-on", all)])), [1, 4, 8, 13, 14]);
        assert_eq!(retried(&state(&[("x-envoy-retry-grpc-on", "unavailable")])), [14]);
        assert_eq!(retried(&on("unavailable")), [0; 0], "in the wrong header they mean nothing");
        let mut none = Headers::default();
        let by_route = RetryState::take(&Route::new().retry_on("5xx,unavailable"), &mut none).unwrap();
        assert_eq!(retried(&by_route), [14], "a route has both kinds in one list");
        assert!(!by_route.would_retry(&response(&[(":status", "200"), ("grpc-status", "fourteen")])));
    }

    #[test]
    fn resets_are_retried_by_their_words() {
        use Reset::{ConnectFailure, ConnectionTermination, Local, ProtocolError, RefusedStream, Remote};
        let all_but_overflow = [ConnectFailure, Remote, RefusedStream, ConnectionTermination, ProtocolError, Local];
        for word in ["reset", "5xx", "gateway-error"] {
            assert_eq!(retried_resets(word), all_but_overflow, "{word}");
        }
        assert_eq!(retried_resets("connect-failure"), [ConnectFailure]);
        assert_eq!(retried_resets("refused-stream"), [RefusedStream]);
        assert_eq!(retried_resets("reset-before-request"), [ConnectFailure], "of it nothing was sent");
        assert_eq!(retried_resets("retriable-4xx,retriable-headers,retriable-status-codes,envoy-ratelimited"), []);
    }

    #[test]
    fn before_the_host_saw_anything_every_reset_is_one_before_the_request() {
        let state = on("reset-before-request");
        let retried = |was_sent| RESETS.into_iter().filter(|reset| state.would_retry_reset(*reset, was_sent)).count();
        assert_eq!((retried(false), retried(true)), (6, 0), "all but Envoy's own ceiling");
    }

    #[test]
    fn the_header_decides_how_many_retries_there_are() {
        let bad = response(&[(":status", "503")]);
        let count = |route: &Route, max: Option<&str>| {
            let mut headers = response(&[("x-envoy-retry-on", "5xx")]);
            max.into_iter().for_each(|max| headers.set("x-envoy-max-retries", max));
            let mut state = RetryState::take(route, &mut headers).unwrap();
            let retries = std::iter::from_fn(|| (state.after_headers(&bad) == Decision::Retry).then_some(())).count();
            assert_eq!(state.after_headers(&bad), Decision::LimitExceeded);
            assert_eq!(state.after_headers(&response(&[(":status", "200")])), Decision::No);
            retries
        };
        assert_eq!(count(&Route::new(), None), 1, "Envoy's default");
        assert_eq!(count(&Route::new().retries(5), None), 5);
        assert_eq!(count(&Route::new().retries(5), Some("2")), 2);
        assert_eq!(count(&Route::new().retries(5), Some("0")), 0);
        assert_eq!(count(&Route::new().retries(5), Some("many")), 5, "what is no number is passed over");
    }

    #[test]
    fn resets_and_responses_share_the_retries() {
        let mut state = state_with("5xx", ("x-envoy-max-retries", "3"));
        assert_eq!(state.after_reset(Reset::Remote, true), Decision::Retry);
        assert_eq!(state.hedge(), Decision::Retry);
        assert_eq!(state.after_headers(&response(&[(":status", "500")])), Decision::Retry);
        assert_eq!(state.after_reset(Reset::ConnectFailure, false), Decision::LimitExceeded);
        assert_eq!(state.hedge(), Decision::LimitExceeded);
    }
}
