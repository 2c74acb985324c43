//! Retries: which requests may be retried, after what, how soon, and within which budget.

pub mod backoff;
pub mod budget;
pub mod conditions;
pub mod denial;
pub mod eligibility;
pub mod key;
pub mod router;
pub mod slot;
pub mod words;

pub use conditions::Named;
pub use denial::Denial;
pub use eligibility::Eligibility;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::attempt::End;
    use crate::http::markers::RETRY_HEADER;
    use holdfast_policy::config::defaults;
    use holdfast_policy::document::{Mode, Retry, RetryOn, RetryWord, StatusSet, WordSet};
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
        let named =
            |words: &[RetryWord], status| conditions::names_response(&on(words), status, None, false) == Named::Yes;
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
        assert_eq!(
            conditions::names_response(&RetryOn { statuses, ..RetryOn::default() }, 429, None, false),
            Named::Yes
        );
    }

    #[test]
    fn grpc_statuses_count_when_they_stand_in_the_headers() {
        let unavailable = on(&[RetryWord::Unavailable]);
        assert_eq!(conditions::names_response(&unavailable, 200, Some(14), false), Named::Yes);
        assert_eq!(conditions::names_response(&unavailable, 200, Some(13), false), Named::No);
        assert_eq!(conditions::names_response(&unavailable, 200, None, false), Named::No);
    }

    #[test]
    fn a_host_that_is_rate_limited_is_left_alone_unless_it_is_asked_for() {
        assert_eq!(conditions::names_response(&on(&[RetryWord::FiveXx]), 503, None, true), Named::No);
        assert_eq!(conditions::names_response(&on(&[RetryWord::EnvoyRatelimited]), 429, None, true), Named::Yes);
    }

    #[test]
    fn lists_of_the_route_are_left_to_it() {
        let route = on(&[RetryWord::RetriableStatusCodes, RetryWord::FiveXx]);
        assert_eq!(conditions::names_response(&route, 429, None, false), Named::RouteKnows);
        assert_eq!(conditions::names_response(&route, 503, None, false), Named::Yes);
    }

    #[test]
    fn what_has_no_answer_is_named_by_what_ended_it() {
        for word in [RetryWord::Reset, RetryWord::FiveXx, RetryWord::GatewayError] {
            for end in [End::ConnectFailure, End::Reset, End::TimedOut] {
                assert!(conditions::names_no_answer(&on(&[word]), end), "{} after {end}", word.name());
            }
        }
        let connect = on(&[RetryWord::ConnectFailure]);
        assert!(conditions::names_no_answer(&connect, End::ConnectFailure));
        assert!(
            !conditions::names_no_answer(&connect, End::Reset) && !conditions::names_no_answer(&connect, End::TimedOut)
        );
        assert!(!conditions::names_no_answer(&on(&[RetryWord::RefusedStream]), End::TimedOut));
    }

    #[test]
    fn only_idempotent_or_keyed_requests_have_leave_for_everything() {
        let retry = defaults::retry(Mode::Enforce);
        assert_eq!(eligibility::of(&retry, b"GET", || false, false), Eligibility::All);
        assert_eq!(eligibility::of(&retry, b"POST", || false, false), Eligibility::Unsent);
        assert_eq!(eligibility::of(&retry, b"POST", || true, false), Eligibility::All);
        assert_eq!(eligibility::of(&retry, b"get", || false, false), Eligibility::Unsent, "methods are case-sensitive");
    }

    #[test]
    fn a_retry_of_a_proxy_before_is_not_retried_again() {
        let retry = defaults::retry(Mode::Enforce);
        assert_eq!(eligibility::of(&retry, b"GET", || false, false), Eligibility::All);
        assert_eq!(eligibility::of(&retry, b"GET", || false, true), Eligibility::Nothing);
        let again = Retry { skip_retries_of_retries: false, ..retry };
        assert_eq!(eligibility::of(&again, b"GET", || false, true), Eligibility::All);
    }

    #[test]
    fn with_an_attempt_seat_the_router_retries_responses_only_when_asked() {
        let headers = router::router_headers(&defaults::retry(Mode::Enforce), Eligibility::All, true);
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
        let hedges = |retry: &Retry, eligibility| {
            header(&router::router_headers(retry, eligibility, true), "x-envoy-hedge-on-per-try-timeout")
        };
        assert_eq!(hedges(&retry, Eligibility::All), None, "without a time for a try there is nothing to hedge after");
        retry.per_try_timeout = Some(core::time::Duration::from_secs(1));
        assert_eq!(hedges(&retry, Eligibility::All).as_deref(), Some("false"));
        retry.hedge_on_per_try_timeout = true;
        assert_eq!(hedges(&retry, Eligibility::All).as_deref(), Some("true"));
        assert_eq!(hedges(&retry, Eligibility::Unsent).as_deref(), Some("false"));
    }

    #[test]
    fn without_one_it_goes_by_the_words_and_statuses() {
        let mut retry = defaults::retry(Mode::Enforce);
        retry.on.statuses.insert_range(429, 430);
        retry.on.words.insert(RetryWord::Unavailable);
        let headers = router::router_headers(&retry, Eligibility::All, false);
        let words = "gateway-error,reset,connect-failure,refused-stream,retriable-status-codes";
        assert_eq!(header(&headers, "x-envoy-retry-on").as_deref(), Some(words));
        assert_eq!(header(&headers, "x-envoy-retry-grpc-on").as_deref(), Some("unavailable"));
        assert_eq!(header(&headers, "x-envoy-retriable-status-codes").as_deref(), Some("429,430"));
        assert_eq!(header(&headers, "x-envoy-retriable-header-names"), None, "a host could set the header");
    }

    #[test]
    fn what_is_left_to_the_statuses_of_the_route_is_not_left_to_its_headers() {
        let leaving = |words: &[RetryWord]| Retry { on: on(words), ..defaults::retry(Mode::Enforce) };
        let mut statuses = leaving(&[RetryWord::RetriableStatusCodes, RetryWord::GatewayError, RetryWord::Unavailable]);
        statuses.on.statuses.insert_range(429, 429);
        for seat in [false, true] {
            let headers = router::router_headers(&statuses, Eligibility::All, seat);
            let words = "gateway-error,retriable-status-codes";
            assert_eq!(header(&headers, "x-envoy-retry-on").as_deref(), Some(words), "{seat}");
            assert_eq!(header(&headers, "x-envoy-retriable-status-codes").as_deref(), Some("429"));
            assert_eq!(header(&headers, "x-envoy-retry-grpc-on").as_deref(), Some("unavailable"));
            assert_eq!(header(&headers, "x-envoy-retriable-header-names"), None);
        }
        for left in
            [&[RetryWord::RetriableHeaders][..], &[RetryWord::RetriableHeaders, RetryWord::RetriableStatusCodes]]
        {
            let headers = router::router_headers(&leaving(left), Eligibility::All, true);
            assert_eq!(header(&headers, "x-envoy-retriable-header-names").as_deref(), Some(RETRY_HEADER), "{left:?}");
        }
    }

    #[test]
    fn for_a_further_attempt_the_router_is_told_one_more_and_to_wait_to_be_asked() {
        let retry = defaults::retry(Mode::Enforce);
        let headers = |eligibility, retries| router::headers_for_further_attempt(&retry, eligibility, retries);
        let of = |eligibility, retries| {
            let headers = headers(eligibility, retries);
            ["x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-retriable-header-names"]
                .map(|name| header(&headers, name))
        };
        let some = |text: &str| Some(text.to_owned());
        let all = "reset,connect-failure,refused-stream,retriable-headers";
        assert_eq!(of(Eligibility::All, true), [some(all), some("3"), some(RETRY_HEADER)]);
        assert_eq!(
            of(Eligibility::All, false),
            [some(all), some("1"), some(RETRY_HEADER)],
            "a probe has none of its own"
        );
        let unsent = "connect-failure,refused-stream";
        assert_eq!(of(Eligibility::Unsent, true), [some(unsent), some("3"), None]);
        assert_eq!(of(Eligibility::Unsent, false), [some(unsent), some("1"), None]);
    }

    #[test]
    fn what_may_have_been_seen_is_not_sent_again() {
        for seat in [false, true] {
            let retry = defaults::retry(Mode::Enforce);
            let headers = router::router_headers(&retry, Eligibility::Unsent, seat);
            assert_eq!(header(&headers, "x-envoy-retry-on").as_deref(), Some("connect-failure,refused-stream"));
            let mut statuses = Retry { on: RetryOn::default(), ..retry };
            statuses.on.statuses.insert_range(503, 503);
            assert_eq!(
                router::router_headers(&statuses, Eligibility::Unsent, seat),
                [("x-envoy-max-retries", "0".to_owned())]
            );
        }
    }

    #[test]
    fn without_leave_the_route_does_not_retry_either() {
        let retry = defaults::retry(Mode::Enforce);
        let none = [("x-envoy-max-retries", "0".to_owned())];
        assert_eq!(router::router_headers(&retry, Eligibility::Nothing, true), none);
        assert_eq!(router::router_headers(&Retry { max_retries: 0, ..retry }, Eligibility::All, true), none);
    }

    #[test]
    fn numbers_lead_back_to_what_they_stand_for() {
        for (number, denial) in Denial::ALL.into_iter().enumerate() {
            assert_eq!((denial as usize, Denial::from_number(number as u8)), (number, Some(denial)));
        }
        for eligibility in [Eligibility::All, Eligibility::Unsent, Eligibility::Nothing] {
            assert_eq!(Eligibility::from_number(eligibility as u8), Some(eligibility));
        }
        assert_eq!((Denial::from_number(7), Eligibility::from_number(3)), (None, None));
    }
}
