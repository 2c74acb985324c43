//! What a request's headers say of the client that sent it: how long it waits, and whether it has tried before.

use core::time::Duration;

use super::grpc::GrpcDialect;
use crate::base::time::Timestamp;

/// What a client says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Client {
    /// How long it waits.
    pub waits: ClientWaits,
    /// Whether it has sent the request before: by the count of a proxy (`x-envoy-attempt-count`, from 1) or by that of a gRPC
    /// client (`grpc-previous-rpc-attempts`, from 0). A count that is no number says nothing.
    /// Source: Envoy, "HTTP header manipulation"; gRPC proposal A6, "Exposed Retry Metadata".
    pub is_retry: bool,
}

impl Client {
    /// What the headers of a request say, given by names in lower case.
    pub fn read<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut client = Client::default();
        let mut is_grpc = false;
        for (name, value) in headers {
            match name {
                b"content-type" => is_grpc = GrpcDialect::of(value).is_some(),
                b"grpc-timeout" => client.waits.from_begin = grpc_timeout(value),
                b"x-envoy-expected-rq-timeout-ms" => client.waits.from_end = positive(value).map(Duration::from_millis),
                b"x-envoy-attempt-count" => client.is_retry |= is_above(value, 1),
                b"grpc-previous-rpc-attempts" => client.is_retry |= is_above(value, 0),
                _ => {}
            }
        }
        client.waits.from_begin = client.waits.from_begin.filter(|_| is_grpc);
        client
    }

    /// The `grpc-timeout` of a request whose headers `header` gives one by one, if it is gRPC.
    pub fn read_grpc_timeout(header: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Duration> {
        let timeout = grpc_timeout(&header("grpc-timeout")?)?;
        GrpcDialect::of(&header("content-type")?).map(|_| timeout)
    }
}

/// How long the client of a request waits for its answer, as far as it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientWaits {
    /// From when the request began: the `grpc-timeout` of a gRPC or gRPC-web client.
    pub from_begin: Option<Duration>,
    /// From when the request had been sent whole: the `x-envoy-expected-rq-timeout-ms` of a client that is an Envoy. (From others
    /// Envoy removes it: `ConnectionManagerUtility::mutateRequestHeaders`.) Zero is no time.
    /// Source: Envoy, "Router", HTTP headers (set on upstream calls).
    pub from_end: Option<Duration>,
}

impl ClientWaits {
    /// When the client of a request that began at `began` gives up, as far as that is certain: what counts from the request's last
    /// byte is left out as long as that is to come.
    pub fn deadline(&self, began: Timestamp, last_byte: Option<Timestamp>) -> Option<Timestamp> {
        let from_begin = self.from_begin.map(|waits| began.plus(waits));
        let from_end = self.from_end.zip(last_byte).map(|(waits, last_byte)| last_byte.plus(waits));
        [from_begin, from_end].into_iter().flatten().min()
    }
}

/// Whether a client that left at `now` gave up at its deadline. Its timer and the host's count in whole milliseconds, and its request
/// and its leave need not travel equally long.
pub fn gave_up(began: Timestamp, deadline: Timestamp, now: Timestamp) -> bool {
    let slack = (deadline.since(began) / 10).clamp(*SLACK.start(), *SLACK.end());
    now.plus(slack) >= deadline
}

/// How much before its deadline a client may be seen to leave that gave up by it, at least and at most. In between it is a tenth of the
/// time.
const SLACK: core::ops::RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(50);

/// The time in a `grpc-timeout` value: one to eight digits and a unit. `None` for anything else, and for no time at all.
/// Source: gRPC over HTTP/2, "Requests", Timeout: a positive integer of at most 8 digits.
pub fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let number = positive(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(number.saturating_mul(3600)),
        b'M' => Duration::from_secs(number.saturating_mul(60)),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A whole number above zero, written in digits alone.
fn positive(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok().filter(|number| *number > 0)
}

/// Whether a count is above `least`.
fn is_above(value: &[u8], least: u64) -> bool {
    let count = core::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u64>().ok());
    count.is_some_and(|count| count > least)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn client(headers: &[(&str, &str)]) -> Client {
        Client::read(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    fn waits(headers: &[(&str, &str)]) -> ClientWaits {
        client(headers).waits
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn a_grpc_timeout_is_up_to_eight_digits_and_a_unit() {
        for (value, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("9n", Duration::from_nanos(9)),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(grpc_timeout(value.as_bytes()), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_grpc_timeout_of_another_form_says_nothing() {
        for value in
            ["", "S", "1", "123456789m", "0S", "-1S", "+1S", "1.5S", " 1S", "1S ", "1s", "1h", "1Sm", "x1S", "١S"]
        {
            assert_eq!(grpc_timeout(value.as_bytes()), None, "{value}");
        }
        assert_eq!(grpc_timeout(b"\xff\xffS"), None);
    }

    #[test]
    fn a_proxys_timeout_is_a_whole_number_of_milliseconds() {
        let waits = |value| waits(&[("x-envoy-expected-rq-timeout-ms", value)]).from_end;
        assert_eq!(waits("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(waits("18446744073709551615"), Some(Duration::from_millis(u64::MAX)));
        for value in ["", "0", "-1", "+1", "1.5", "15s", "18446744073709551616"] {
            assert_eq!(waits(value), None, "{value}");
        }
    }

    #[test]
    fn a_grpc_timeout_counts_for_grpc_alone() {
        let timeout = ("grpc-timeout", "1S");
        assert_eq!(waits(&[timeout, GRPC]).from_begin, Some(Duration::from_secs(1)));
        for content_type in ["application/grpc+proto", "application/grpc-web", "application/grpc-web-text"] {
            assert!(waits(&[timeout, ("content-type", content_type)]).from_begin.is_some(), "{content_type}");
        }
        assert_eq!(waits(&[timeout, ("content-type", "application/json")]), ClientWaits::default());
        assert_eq!(waits(&[timeout]), ClientWaits::default());
    }

    #[test]
    fn the_earlier_of_two_times_is_the_clients_deadline() {
        let began = Timestamp::from_secs(100);
        let both = waits(&[("grpc-timeout", "2S"), GRPC, ("x-envoy-expected-rq-timeout-ms", "1500")]);
        assert_eq!(both.deadline(began, Some(began)), Some(Timestamp::from_millis(101_500)));
        let grpc_first = waits(&[("grpc-timeout", "1S"), GRPC, ("x-envoy-expected-rq-timeout-ms", "1500")]);
        assert_eq!(grpc_first.deadline(began, Some(began)), Some(Timestamp::from_secs(101)));
        assert_eq!(waits(&[GRPC]).deadline(began, Some(began)), None);
    }

    #[test]
    fn a_proxys_time_begins_when_the_request_is_whole() {
        let began = Timestamp::from_secs(100);
        let proxy = waits(&[("x-envoy-expected-rq-timeout-ms", "1500")]);
        assert_eq!(proxy.deadline(began, Some(began)), Some(Timestamp::from_millis(101_500)));
        assert_eq!(proxy.deadline(began, None), None, "the body is still to come");
        let grpc = waits(&[("grpc-timeout", "2S"), GRPC]);
        assert_eq!(grpc.deadline(began, None), Some(Timestamp::from_secs(102)), "a call's time begins with it");
    }

    #[test]
    fn a_client_that_counts_its_attempts_says_whether_it_retries() {
        let is_retry = |name, value| client(&[(name, value)]).is_retry;
        for (value, proxy, grpc) in [("0", false, false), ("1", false, true), ("2", true, true), (" 7 ", true, true)] {
            assert_eq!(is_retry("x-envoy-attempt-count", value), proxy, "{value}");
            assert_eq!(is_retry("grpc-previous-rpc-attempts", value), grpc, "{value}");
        }
        for nonsense in ["", "-1", "one", "1.5", "1,1", "18446744073709551616"] {
            for name in ["x-envoy-attempt-count", "grpc-previous-rpc-attempts"] {
                assert!(!is_retry(name, nonsense), "{name}: {nonsense}");
            }
        }
        assert!(!Client::read([(&b"x-envoy-attempt-count"[..], &b"\xff"[..])].into_iter()).is_retry);
        let both = [("grpc-previous-rpc-attempts", "2"), ("x-envoy-attempt-count", "1")];
        assert!(client(&both).is_retry, "the first attempt of a proxy for a client's third");
    }
}
