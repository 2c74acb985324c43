//! What a response says, as far as a policy judges by it.

use core::time::Duration;

use holdfast_policy::document::OutcomeRules;

use crate::base::time::Timestamp;
use crate::http::attempt::RetryWish;
use crate::http::header_rules::{self, HeaderVerdict};
use crate::http::headers;
use crate::http::markers;
use crate::http::outcome::{self, Answer, Verdict};

/// The parts of a response's headers that matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseHead {
    /// `:status`; 0 when it is missing or no number.
    pub status: u16,
    /// Whether the content type is gRPC's.
    pub grpc: bool,
    /// Whether the content type is gRPC-web's.
    pub grpc_web: bool,
    /// `grpc-status`, which stands in the headers when there is no body.
    pub grpc_status: Option<u32>,
    /// How long the host asks to be left alone.
    pub retry_after: Option<Duration>,
    /// How long the host asks a gRPC client to wait before it tries again; without end if it is not to.
    pub pushback: Option<Duration>,
    /// `x-envoy-ratelimited`, and whose it is.
    pub ratelimited: Option<SetBy>,
    /// Whether it has the header by which the attempt seat asks for a retry.
    pub asks_retry: bool,
    /// Whether it has the header by which the attempt seat points to its record.
    pub has_attempts: bool,
    /// Whether Envoy's router passed this on from a host: it then says how long the host took. Where it has been told
    /// not to (`suppress_envoy_headers`), this is false for every response.
    pub timed_by_router: bool,
    /// What the policy's header rules make of it.
    pub by_headers: HeaderVerdict,
}

/// Who has set a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetBy {
    /// The host, or a proxy before it.
    Host,
    /// The attempt seat.
    AttemptSeat,
}

impl ResponseHead {
    /// Reads a header map as the host serializes it, once. `rules` are those of the policy that governs the request.
    pub fn read(serialized: &[u8], now: Timestamp, wants_retry_after: bool, rules: &OutcomeRules) -> Self {
        let mut head = ResponseHead::default();
        let has_rules = header_rules::are_given(rules);
        let mut has_retry_after = false;
        for (name, value) in headers::read(serialized) {
            match name {
                b":status" => head.status = number(value).unwrap_or(0),
                b"content-type" => {
                    head.grpc = outcome::is_grpc_content_type(value);
                    head.grpc_web = outcome::is_grpc_web_content_type(value);
                }
                b"grpc-status" => head.grpc_status = Some(outcome::grpc_status(value)),
                // The first line counts. Source: Envoy, `ResetHeaderParserImpl::parseInterval`.
                b"retry-after" if wants_retry_after && !has_retry_after => {
                    has_retry_after = true;
                    head.retry_after = outcome::retry_after(value, now);
                }
                // Of several lines none is to be guessed. Source: grpc-go, `clientStream.shouldRetry`.
                b"grpc-retry-pushback-ms" if wants_retry_after => {
                    head.pushback = Some(if head.pushback.is_none() { pushback(value) } else { Duration::MAX });
                }
                b"x-envoy-ratelimited" => {
                    let ours = value == markers::FORBID_VALUE.as_bytes();
                    head.ratelimited = Some(if ours { SetBy::AttemptSeat } else { SetBy::Host });
                }
                b"x-holdfast-retry" => head.asks_retry = true,
                b"x-holdfast-tries" => head.has_attempts = true,
                b"x-envoy-upstream-service-time" => head.timed_by_router = true,
                _ => {}
            }
            if has_rules {
                // Of several lines of one name any may match.
                head.by_headers = head.by_headers.max(HeaderVerdict::of_line(rules, name, value));
            }
        }
        head
    }

    /// How long the host asks to wait before a retry.
    pub fn asked_wait(&self) -> Option<Duration> {
        self.retry_after.max(self.pushback)
    }

    /// The same as what it asks of retries.
    pub fn wish(&self) -> Option<RetryWish> {
        self.asked_wait().map(|wait| if wait == Duration::MAX { RetryWish::Never } else { RetryWish::Wait(wait) })
    }

    /// Whether it has a header before which an attempt seat would have written its record. A host may send them too.
    pub fn points_to_record(&self) -> bool {
        self.has_attempts || self.asks_retry
    }

    /// What a reply that Envoy made itself stands for, from its response flags and details.
    ///
    /// Where the route has no time-out, a stream's idle time-out and longest duration are what ends a request that
    /// waits in vain. Envoy answers them with 504 when the whole request had come, and with 408 when the client was
    /// the slow one (Envoy, `ActiveStream::onIdleTimeout`, `onStreamMaxDurationReached`); a gRPC client gets UNAVAILABLE for 504,
    /// and DEADLINE_EXCEEDED when its own `grpc-timeout` is over.
    pub fn local_answer(&self, flags: u64, details: &[u8]) -> Answer {
        let host_was_slow = self.status == 504 || self.grpc && matches!(self.grpc_status, Some(4 | 14));
        if host_was_slow && [&b"stream_idle_timeout"[..], b"max_duration_timeout"].contains(&details) {
            return Answer::TimedOut;
        }
        match outcome::of_local_reply(flags) {
            // The flags of attempts before stay. Envoy may add to the details what its balancing says.
            Answer::NoAnswer if details.starts_with(NO_HEALTHY_UPSTREAM) => Answer::NoHost,
            answer => answer,
        }
    }

    /// What the host answered; `None` when that stands in the trailers still to come.
    ///
    /// A gRPC-web status that is not in the headers stands in the body, which is not read. Such an answer is judged as HTTP.
    pub fn answer(&self, ended: bool) -> Option<Answer> {
        match (self.grpc, self.grpc_status) {
            // Source: gRPC-web (PROTOCOL-WEB), "Message framing": trailers may be sent with the headers, without a message.
            (false, Some(status)) if self.grpc_web && self.status == 200 => Some(Answer::Grpc(status)),
            (true, Some(status)) => Some(Answer::Grpc(status)),
            // Source: gRPC over HTTP/2, "Responses": only a 200 goes on to trailers.
            (true, None) if !ended && self.status == 200 => None,
            // A gRPC response that ends without a status reads as UNKNOWN.
            (true, None) if self.status == 200 => Some(Answer::Grpc(2)),
            _ => Some(Answer::Http(self.status)),
        }
    }
}

/// The answer in trailers, which are without a status if there is no `grpc-status`; that reads as UNKNOWN (2).
pub fn trailers_answer(grpc_status: Option<&[u8]>) -> Answer {
    Answer::Grpc(grpc_status.map_or(2, outcome::grpc_status))
}

/// Whether a response that goes on after its headers is judged when it ends: what has begun well may still break off. What is switched
/// to another protocol has no end that would tell.
pub fn judges_at_end(rules: &OutcomeRules, head: &ResponseHead, answer: Answer) -> bool {
    rules.failure_broken && head.status != 101 && head.by_headers.verdict(rules, answer) == Verdict::Success
}

/// A response that has begun and is judged when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenResponse {
    /// Its headers.
    pub head: ResponseHead,
    /// When they came.
    pub came: Timestamp,
    /// What they say; `None` where that stands in trailers still to come.
    pub answer: Option<Answer>,
}

impl OpenResponse {
    /// What it is when it has ended in order, without trailers.
    pub fn complete(&self) -> Answer {
        self.with_trailers(|| None)
    }

    /// What it is when its trailers come. `grpc_status` gives their status.
    pub fn with_trailers(&self, grpc_status: impl FnOnce() -> Option<Vec<u8>>) -> Answer {
        self.answer.unwrap_or_else(|| trailers_answer(grpc_status().as_deref()))
    }

    /// What it is when its client has left: what its headers say stands.
    pub fn left(&self) -> Answer {
        self.answer.unwrap_or(Answer::NotTheHost)
    }

    /// What it is when it has ended out of order: `broken` off by the host, or cut short through no fault of the host's or client's.
    pub fn cut(&self, broken: bool) -> Answer {
        let cut_short = if self.has_begun_well() { Answer::CutShort } else { Answer::NotTheHost };
        if broken { Answer::Broken } else { self.answer.unwrap_or(cut_short) }
    }

    /// Whether it has begun well, and so may be a stream that lasts.
    pub fn has_begun_well(&self) -> bool {
        let is_promising = self.head.grpc && self.head.status == 200 && self.head.by_headers == HeaderVerdict::Nothing;
        self.answer.is_some() || is_promising
    }
}

/// The wait in a `grpc-retry-pushback-ms` value; without end for what is negative or no number, which means that there is to
/// be no other attempt. Source: gRPC proposal A6, "Pushback".
fn pushback(value: &[u8]) -> Duration {
    let milliseconds = core::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    milliseconds.map_or(Duration::MAX, Duration::from_millis)
}

/// The number in a status header.
fn number(value: &[u8]) -> Option<u16> {
    core::str::from_utf8(value).ok()?.parse().ok()
}

/// How the details of a reply begin that the attempt seat made in place of an attempt.
pub const NOT_RETRIED: &str = "holdfast_not_retried";

/// How the details begin that Envoy gives where the cluster has no host for the request.
/// Source: Envoy, `StreamInfo::ResponseCodeDetailValues::NoHealthyUpstream`.
const NO_HEALTHY_UPSTREAM: &[u8] = b"no_healthy_upstream";

/// The details that Envoy gives for a response that came from a host.
/// Source: Envoy, `StreamInfo::ResponseCodeDetailValues::ViaUpstream`.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";

#[cfg(test)]
mod tests {
    use holdfast_policy::config::defaults;

    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn head(pairs: &[(&str, &str)]) -> ResponseHead {
        let owned: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ResponseHead::read(
            &crate::http::headers::write(&owned),
            Timestamp::from_secs(1_000_000_000),
            true,
            &defaults::outcome(),
        )
    }

    #[test]
    fn http_is_judged_by_its_status() {
        assert_eq!(head(&[(":status", "503")]).answer(false), Some(Answer::Http(503)));
        assert_eq!(head(&[(":status", "x")]).answer(false), Some(Answer::Http(0)));
    }

    #[test]
    fn grpc_is_judged_by_its_own_status_wherever_it_stands() {
        let grpc = ("content-type", "application/grpc+proto");
        assert_eq!(head(&[(":status", "200"), grpc]).answer(false), None, "it stands in the trailers");
        assert_eq!(head(&[(":status", "200"), grpc, ("grpc-status", "14")]).answer(true), Some(Answer::Grpc(14)));
        assert_eq!(head(&[(":status", "200"), grpc]).answer(true), Some(Answer::Grpc(2)));
        assert_eq!(head(&[(":status", "503"), grpc]).answer(false), Some(Answer::Http(503)));
    }

    #[test]
    fn grpc_web_is_judged_by_a_status_in_its_headers_and_as_http_without_one() {
        for kind in
            ["grpc-web", "grpc-web+proto", "grpc-web-text", "grpc-web-text+proto", "grpc-web+json; charset=utf-8"]
        {
            let content_type = format!("application/{kind}");
            let head = |pairs: &[(&str, &str)]| head(&[pairs, &[("content-type", &content_type)]].concat());
            for ended in [false, true] {
                let unavailable = head(&[(":status", "200"), ("grpc-status", "14")]);
                assert_eq!(unavailable.answer(ended), Some(Answer::Grpc(14)), "{kind}");
                assert_eq!(head(&[(":status", "200"), ("grpc-status", "0")]).answer(ended), Some(Answer::Grpc(0)));
                assert_eq!(head(&[(":status", "200"), ("grpc-status", "x")]).answer(ended), Some(Answer::Grpc(2)));
                let in_body = head(&[(":status", "200")]);
                assert_eq!(in_body.answer(ended), Some(Answer::Http(200)), "the body is not read: {kind}");
                let by_http = head(&[(":status", "503"), ("grpc-status", "0")]);
                assert_eq!(by_http.answer(ended), Some(Answer::Http(503)), "{kind}");
            }
            assert!(!head(&[(":status", "200")]).grpc, "no trailers are waited for: {kind}");
        }
        let other = head(&[(":status", "200"), ("content-type", "application/json"), ("grpc-status", "14")]);
        assert_eq!(other.answer(false), Some(Answer::Http(200)), "neither gRPC nor gRPC-web");
    }

    #[test]
    fn a_stream_that_waited_in_vain_timed_out_and_one_with_a_slow_client_did_not() {
        for details in [&b"stream_idle_timeout"[..], b"max_duration_timeout"] {
            assert_eq!(head(&[(":status", "504")]).local_answer(1 << 16, details), Answer::TimedOut);
            assert_eq!(head(&[(":status", "408")]).local_answer(1 << 16, details), Answer::NotTheHost);
        }
        let grpc = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")];
        assert_eq!(head(&grpc).local_answer(0, b"max_duration_timeout"), Answer::TimedOut);
        let deadline = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "4")];
        assert_eq!(head(&deadline).local_answer(0, b"max_duration_timeout"), Answer::TimedOut);
        assert_eq!(head(&[(":status", "504")]).local_answer(0, b"other_filter"), Answer::NotTheHost);
        assert_eq!(head(&[(":status", "503")]).local_answer(1 << 5, b"x"), Answer::NoAnswer);
    }

    #[test]
    fn that_there_is_no_host_is_told_from_a_host_that_does_not_answer() {
        let unavailable = head(&[(":status", "503")]);
        let (no_host, refused) = (1 << 1, 1 << 5);
        assert_eq!(unavailable.local_answer(no_host, b"no_healthy_upstream"), Answer::NoHost);
        assert_eq!(unavailable.local_answer(no_host, b"no_healthy_upstream{why}"), Answer::NoHost);
        assert_eq!(unavailable.local_answer(no_host | refused, b"no_healthy_upstream"), Answer::NoHost, "for a retry");
        let refused_last = unavailable.local_answer(refused, b"upstream_reset_before_response_started");
        assert_eq!(refused_last, Answer::NoAnswer);
        assert_eq!(unavailable.local_answer(0, b"no_healthy_upstream"), Answer::NotTheHost, "another filter's");
    }

    #[test]
    fn a_pushback_is_milliseconds_and_nonsense_means_never() {
        assert_eq!(head(&[("grpc-retry-pushback-ms", "250")]).asked_wait(), Some(Duration::from_millis(250)));
        for never in ["-1", "soon", ""] {
            assert_eq!(head(&[("grpc-retry-pushback-ms", never)]).asked_wait(), Some(Duration::MAX));
        }
        let both = head(&[("grpc-retry-pushback-ms", "250"), ("retry-after", "1")]);
        assert_eq!(both.asked_wait(), Some(Duration::from_secs(1)), "the longer wait holds");
    }

    #[test]
    fn of_several_lines_no_pushback_is_guessed_and_the_first_retry_after_counts() {
        let lines = |name: &str, values: [&str; 2]| head(&values.map(|value| (name, value))).asked_wait();
        for values in [["250", "100"], ["250", "250"], ["-1", "250"], ["250", "-1"]] {
            assert_eq!(lines("grpc-retry-pushback-ms", values), Some(Duration::MAX), "{values:?}");
        }
        assert_eq!(lines("retry-after", ["1", "7"]), Some(Duration::from_secs(1)));
        assert_eq!(lines("retry-after", ["7", "1"]), Some(Duration::from_secs(7)));
        assert_eq!(lines("retry-after", ["soon", "7"]), None);
    }

    #[test]
    fn headers_of_the_attempt_seat_are_told_from_the_hosts() {
        assert_eq!(head(&[("x-envoy-ratelimited", "true")]).ratelimited, Some(SetBy::Host));
        assert_eq!(head(&[(markers::FORBID_HEADER, markers::FORBID_VALUE)]).ratelimited, Some(SetBy::AttemptSeat));
        assert!(head(&[(markers::RETRY_HEADER, "1")]).asks_retry);
        assert!(head(&[(markers::ATTEMPTS_HEADER, "1")]).has_attempts);
        assert!(head(&[(markers::RETRY_HEADER, "1")]).points_to_record());
        assert!(head(&[(markers::ATTEMPTS_HEADER, "1")]).points_to_record());
        let forbids = head(&[(markers::FORBID_HEADER, markers::FORBID_VALUE)]);
        assert!(!forbids.points_to_record(), "a success that may not be retried is marked without a record");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(head(&[("retry-after", "120")]).retry_after, Some(Duration::from_secs(120)));
        let date = head(&[("retry-after", "Sun, 09 Sep 2001 01:47:40 GMT")]);
        assert_eq!(date.retry_after, Some(Duration::from_secs(60)), "a minute past 1,000,000,000");
        let past = head(&[("retry-after", "Sun, 09 Sep 2001 01:46:00 GMT")]);
        assert_eq!(past.retry_after, Some(Duration::ZERO));
        for nonsense in ["soon", "-1", "", "1.5"] {
            assert_eq!(head(&[("retry-after", nonsense)]).retry_after, None);
        }
        assert!(head(&[("retry-after", "99999999999999999999999")]).retry_after.is_some());
    }
}
