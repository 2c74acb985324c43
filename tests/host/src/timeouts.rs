//! How long a request and each of its attempts may take. Source: Envoy, `router.cc`, `finalTimeout` and
//! `setTimeoutHeaders`.

use std::time::Duration;

use crate::headers::Headers;
use crate::route::Route;

const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

/// The time-outs of one request; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) global: Duration,
    pub(crate) per_try: Duration,
    /// An attempt that takes too long goes on beside another.
    pub(crate) hedges: bool,
}

impl Timeouts {
    /// Reads what route and headers say, and removes the headers.
    pub(crate) fn take(route: &Route, headers: &mut Headers) -> Self {
        let hedges = match take(headers, "x-envoy-hedge-on-per-try-timeout").as_deref() {
            Some("true") => true,
            Some("false") => false,
            _ => route.hedges,
        };
        let mut millis = |name: &str| take(headers, name)?.trim().parse().ok().map(Duration::from_millis);
        let global = millis("x-envoy-upstream-rq-timeout-ms").unwrap_or(route.timeout);
        let per_try = millis("x-envoy-upstream-rq-per-try-timeout-ms").unwrap_or(route.per_try_timeout);
        let is_ignored = per_try >= global && !global.is_zero();
        Timeouts { global, per_try: if is_ignored { Duration::ZERO } else { per_try }, hedges }
    }

    /// Tells the host how long it has, `elapsed` after the request came.
    pub(crate) fn announce(&self, headers: &mut Headers, elapsed: Duration) {
        let expected = if self.hedges || self.per_try.is_zero() { self.global } else { self.per_try };
        if expected.is_zero() {
            return;
        }
        let left = self.global.saturating_sub(elapsed).max(Duration::from_millis(1));
        let expected = if self.global.is_zero() { expected } else { expected.min(left) };
        headers.set(EXPECTED, expected.as_millis().to_string());
    }
}

fn take(headers: &mut Headers, name: &str) -> Option<String> {
    let value = headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
    headers.remove(name.as_bytes());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn with(route: &Route, headers: &[(&str, &str)]) -> Timeouts {
        let mut headers = headers.iter().copied().collect();
        let timeouts = Timeouts::take(route, &mut headers);
        assert!(headers.is_empty(), "what is for the router stays with it: {headers:?}");
        timeouts
    }

    #[test]
    fn headers_replace_what_the_route_says() {
        let route = Route::new().timeout(millis(900)).per_try_timeout(millis(200)).hedging();
        assert_eq!(with(&route, &[]), Timeouts { global: millis(900), per_try: millis(200), hedges: true });
        let headers = [
            ("x-envoy-upstream-rq-timeout-ms", "500"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "100"),
            ("x-envoy-hedge-on-per-try-timeout", "false"),
        ];
        assert_eq!(with(&route, &headers), Timeouts { global: millis(500), per_try: millis(100), hedges: false });
        let nonsense = [("x-envoy-upstream-rq-timeout-ms", "soon"), ("x-envoy-hedge-on-per-try-timeout", "maybe")];
        assert_eq!(with(&route, &nonsense), with(&route, &[]), "what cannot be read is passed over");
    }

    #[test]
    fn a_per_attempt_timeout_that_is_not_below_the_whole_is_none() {
        let per_try = |global: u64, per_try: u64| {
            with(&Route::new().timeout(millis(global)).per_try_timeout(millis(per_try)), &[]).per_try
        };
        assert_eq!(per_try(500, 499), millis(499));
        assert_eq!(per_try(500, 500), Duration::ZERO);
        assert_eq!(per_try(0, 500), millis(500), "no time-out for the whole is longer than any");
    }

    #[test]
    fn the_host_is_told_the_shorter_of_what_is_left() {
        let told = |timeouts: Timeouts, elapsed: u64| {
            let mut headers = Headers::default();
            timeouts.announce(&mut headers, millis(elapsed));
            headers.get(EXPECTED).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let both = Timeouts { global: millis(500), per_try: millis(200), hedges: false };
        assert_eq!(told(both, 0).as_deref(), Some("200"));
        assert_eq!(told(both, 400).as_deref(), Some("100"));
        assert_eq!(told(both, 500).as_deref(), Some("1"));
        assert_eq!(told(Timeouts { hedges: true, ..both }, 100).as_deref(), Some("400"), "a hedged try is not cut off");
        assert_eq!(told(Timeouts { global: Duration::ZERO, ..both }, 900).as_deref(), Some("200"));
        assert_eq!(told(Timeouts { global: Duration::ZERO, per_try: Duration::ZERO, hedges: false }, 0), None);
    }
}
