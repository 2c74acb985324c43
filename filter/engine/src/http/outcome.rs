//! What an answer counts as.

use core::time::Duration;

use holdfast_policy::document::OutcomeRules;

use super::date;

/// What came back for a request, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The host answered with this HTTP status.
    Http(u16),
    /// The host answered a gRPC or gRPC-web call with this gRPC status (any number the host sent).
    Grpc(u32),
    /// No answer from the host: connect failure, reset.
    NoAnswer,
    /// There was no host that could have been asked.
    NoHost,
    /// No answer from the host in time.
    TimedOut,
    /// The host broke its answer off after the headers.
    Broken,
    /// A gRPC stream that had begun well was ended by a time-out, or by Envoy itself, before its status came.
    CutShort,
    /// The client left before there was an answer, and no deadline of its own had passed.
    ClientLeft,
    /// Not an answer of the host at all: the client left, another filter replied, the proxy shed load.
    NotTheHost,
}

/// What an answer counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The host did its work.
    Success,
    /// It did not.
    Failure,
    /// It says nothing about the host.
    Ignored,
}

/// The outcome of one request, ready to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What it counts as.
    pub verdict: Verdict,
    /// Whether it took at least `slow_after`. Of the ignored ones only where the client left after that time.
    pub slow: bool,
    /// How long the host asked to be left alone.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// An outcome that counts as nothing.
    pub const IGNORED: Outcome = Outcome { verdict: Verdict::Ignored, slow: false, retry_after: None };

    /// A success in time.
    pub const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };

    /// Judges `answer`, which came `took` after the request's last byte.
    pub fn judge(rules: &OutcomeRules, answer: Answer, took: Duration, retry_after: Option<Duration>) -> Outcome {
        let verdict = verdict(rules, answer);
        Outcome {
            verdict,
            slow: (verdict != Verdict::Ignored || answer == Answer::ClientLeft)
                && rules.slow_after.is_some_and(|limit| took >= limit),
            retry_after,
        }
    }

    /// Whether it is a success or a failure.
    pub fn counts(&self) -> bool {
        self.verdict != Verdict::Ignored
    }

    /// Whether a window takes it up: it counts, or it is slow and nothing else.
    pub fn is_recorded(&self) -> bool {
        self.counts() || self.slow
    }

    /// Whether it is a failure.
    pub fn failed(&self) -> bool {
        self.verdict == Verdict::Failure
    }
}

/// What `answer` counts as by these rules.
pub fn verdict(rules: &OutcomeRules, answer: Answer) -> Verdict {
    let (ignored, failed) = match answer {
        Answer::Http(status) => (rules.ignore_status.contains(status), rules.failure_status.contains(status)),
        Answer::Grpc(status) => match u8::try_from(status) {
            Ok(status @ 0..=16) => (rules.ignore_grpc.contains(status), rules.failure_grpc.contains(status)),
            // Clients read a status outside the standard as UNKNOWN (gRPC core, statuscodes).
            _ => (rules.ignore_grpc.contains(2), rules.failure_grpc.contains(2)),
        },
        Answer::NoAnswer | Answer::NoHost | Answer::TimedOut => (!rules.failure_local, true),
        Answer::Broken => (!rules.failure_broken, true),
        Answer::CutShort | Answer::ClientLeft | Answer::NotTheHost => (true, false),
    };
    match (ignored, failed) {
        (true, _) => Verdict::Ignored,
        (false, true) => Verdict::Failure,
        (false, false) => Verdict::Success,
    }
}

/// Envoy's response flags, as bits of the property `response.flags`.
/// Source: Envoy, `envoy/stream_info/stream_info.h`, `CoreResponseFlag`, in order.
mod flag {
    pub(super) const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
    pub(super) const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    pub(super) const LOCAL_RESET: u64 = 1 << 3;
    pub(super) const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
    pub(super) const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
    pub(super) const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    pub(super) const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
    pub(super) const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
    pub(super) const UPSTREAM_MAX_STREAM_DURATION: u64 = 1 << 19;
    pub(super) const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
    pub(super) const DNS_FAILURE: u64 = 1 << 26;
    pub(super) const DOWNSTREAM_REMOTE_RESET: u64 = 1 << 28;
}

/// What a reply that did not come from the host stands for, from Envoy's response flags.
///
/// Envoy replies itself when a host gives no answer; filters reply for their own reasons, without any of these flags.
/// An overflow of Envoy's own ceilings says nothing about the host.
pub fn of_local_reply(flags: u64) -> Answer {
    let any = |bits: u64| flags & bits != 0;
    if client_left(flags) {
        Answer::NotTheHost
    } else if any(flag::UPSTREAM_REQUEST_TIMEOUT | flag::UPSTREAM_MAX_STREAM_DURATION) {
        Answer::TimedOut
    } else if any(flag::NO_HEALTHY_UPSTREAM
        | flag::LOCAL_RESET
        | flag::UPSTREAM_REMOTE_RESET
        | flag::UPSTREAM_CONNECTION_FAILURE
        | flag::UPSTREAM_CONNECTION_TERMINATION
        | flag::UPSTREAM_PROTOCOL_ERROR
        | flag::DNS_FAILURE)
    {
        Answer::NoAnswer
    } else {
        Answer::NotTheHost
    }
}

/// Whether the host broke a response off whose end did not come by, from Envoy's response flags. Otherwise its client, a time-out or
/// Envoy itself ended it.
pub fn is_broken_off(flags: u64) -> bool {
    let any = |bits: u64| flags & bits != 0;
    !client_left(flags)
        && !any(flag::UPSTREAM_REQUEST_TIMEOUT | flag::STREAM_IDLE_TIMEOUT | flag::UPSTREAM_MAX_STREAM_DURATION)
        && any(flag::UPSTREAM_REMOTE_RESET
            | flag::UPSTREAM_CONNECTION_FAILURE
            | flag::UPSTREAM_CONNECTION_TERMINATION
            | flag::UPSTREAM_PROTOCOL_ERROR)
}

/// Whether the client has left, from Envoy's response flags.
pub fn client_left(flags: u64) -> bool {
    flags & (flag::DOWNSTREAM_CONNECTION_TERMINATION | flag::DOWNSTREAM_REMOTE_RESET) != 0
}

/// Whether a content type makes a message gRPC: `application/grpc`, alone or followed by `+` or `;`.
/// Source: gRPC over HTTP/2; Envoy `Grpc::Common::hasGrpcContentType`.
pub fn is_grpc_content_type(value: &[u8]) -> bool {
    match value.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// Whether a content type makes a message gRPC-web, binary or text: `application/grpc-web`, however it goes on.
/// Source: gRPC-web (PROTOCOL-WEB), "Protocol differences", Content-Type.
pub fn is_grpc_web_content_type(value: &[u8]) -> bool {
    value.starts_with(b"application/grpc-web")
}

/// The number in a `grpc-status` value. Something that is no number reads as UNKNOWN (2), as gRPC clients read it.
pub fn grpc_status(value: &[u8]) -> u32 {
    core::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(2)
}

/// How long a `Retry-After` value asks to wait: whole seconds, or a date taken against `now` (a date that has passed
/// is zero). `None` for anything else. Source: RFC 9110, 10.2.3.
pub fn retry_after(value: &[u8], now: crate::base::time::Timestamp) -> Option<Duration> {
    let text = core::str::from_utf8(value).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX / 1_000_000_000)));
    }
    Some(date::parse(value)?.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_retry_after_is_a_number_of_seconds_or_a_date_in_any_form_of_http() {
        let wait = |value: &[u8]| retry_after(value, Timestamp::from_secs(784_111_700));
        for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(wait(date.as_bytes()), Some(Duration::from_secs(77)), "{date}");
        }
        assert_eq!(wait(b"Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO), "it has passed");
        assert_eq!(wait(b" 120 "), Some(Duration::from_secs(120)));
        assert!(wait(&[b'9'; 40]) > Some(Duration::from_secs(1 << 33)), "longer than can be counted");
        let none: [&[u8]; 8] = [
            b"",
            b"-1",
            b"1.5",
            b"soon",
            b"\xff",
            b"Sat, 06 Nov 1994 08:49:37 GMT",
            b"Sun, 31 Nov 1994 08:49:37 GMT",
            b"Wed, 31 Dec 1969 23:59:59 GMT",
        ];
        for value in none {
            assert_eq!(wait(value), None, "{}", value.escape_ascii());
        }
    }
}
