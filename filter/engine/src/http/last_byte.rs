//! When a request's last byte came, from which the host's time counts: a client that uploads slowly makes no host slow.
//!
//! Envoy's own times count from there too: the route's time-out, that of an attempt, and `x-envoy-upstream-service-time`.
//! Source: Envoy, `Router::Filter::onRequestComplete` and `UpstreamRequest::onPoolReady`.

use crate::base::time::Timestamp;

/// When a request's last byte came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastByte {
    /// With the headers, or nobody wants to know.
    WithHeaders,
    /// It is still to come.
    Awaited,
    /// It came then, with the body or the trailers.
    Came(Timestamp),
}

impl LastByte {
    /// That of a request whose headers have come. `ended` says that there is nothing else.
    pub fn of_headers(ended: bool) -> Self {
        if ended { LastByte::WithHeaders } else { LastByte::Awaited }
    }

    /// Notes that it has come, where somebody waits for it; `now` reads the clock.
    pub fn come(&mut self, now: impl FnOnce() -> Timestamp) {
        if *self == LastByte::Awaited {
            *self = LastByte::Came(now());
        }
    }

    /// From when the time counts that a host took which had the request's headers at `sent` and did something at `came`. A host
    /// that does not wait for the last byte takes no time.
    pub fn counts_from(self, sent: Timestamp, came: Timestamp) -> Timestamp {
        match self {
            LastByte::WithHeaders => sent,
            LastByte::Awaited => came,
            LastByte::Came(last) => last.max(sent).min(came),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// How many milliseconds a host took that got the headers at 100 ms, and did something at `came`.
    fn took(last: LastByte, came: u64) -> u64 {
        let at = Timestamp::from_millis;
        let (sent, came) = (at(100), at(came));
        u64::try_from(came.since(last.counts_from(sent, came)).as_millis()).unwrap()
    }

    #[test]
    fn a_host_takes_the_time_from_the_requests_last_byte() {
        let at = |millis| LastByte::Came(Timestamp::from_millis(millis));
        assert_eq!(took(LastByte::WithHeaders, 350), 250);
        assert_eq!(took(at(300), 350), 50);
        assert_eq!(took(at(50), 350), 250, "an attempt that waited for its back-off has the body before it is sent");
        assert_eq!(took(at(100), 350), 250);
    }

    #[test]
    fn a_host_that_does_not_wait_for_the_last_byte_takes_no_time() {
        assert_eq!(took(LastByte::Awaited, 350), 0);
        assert_eq!(took(LastByte::Came(Timestamp::from_millis(400)), 350), 0, "its trailers are judged later");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_time_of_nothing() {
        assert_eq!(took(LastByte::WithHeaders, 20), 0);
        assert_eq!(took(LastByte::Came(Timestamp::from_millis(50)), 20), 0);
    }

    #[test]
    fn only_the_first_last_byte_counts_and_only_where_one_is_awaited() {
        let at = |millis| move || Timestamp::from_millis(millis);
        let mut last = LastByte::of_headers(false);
        last.come(at(300));
        last.come(at(900));
        assert_eq!(last, LastByte::Came(at(300)()));
        let (mut none, mut is_read) = (LastByte::of_headers(true), false);
        none.come(|| {
            is_read = true;
            Timestamp::ZERO
        });
        assert_eq!((none, is_read), (LastByte::WithHeaders, false), "nobody asks for the time");
    }
}
