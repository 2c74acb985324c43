//! Any bytes as a header map and as the head of a response.

#![no_main]

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::header_rules::HeaderVerdict;
use holdfast_engine::http::headers;
use holdfast_engine::http::outcome;
use holdfast_engine::http::response::{self, OpenResponse, ResponseHead};
use holdfast_policy::config::defaults;
use holdfast_policy::document::OutcomeRules;
use holdfast_policy::glob::Glob;
use holdfast_policy::seat::Seat;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    now: u64,
    flags: u64,
    ended: bool,
    details: &'a [u8],
    headers: Vec<(Name<'a>, &'a str)>,
    raw: &'a [u8],
}

#[derive(Debug, Arbitrary)]
enum Name<'a> {
    Status,
    ContentType,
    GrpcStatus,
    RetryAfter,
    Pushback,
    Ratelimited,
    AsksRetry,
    HasTries,
    ServiceTime,
    Error,
    Other(&'a str),
}

impl Name<'_> {
    fn text(&self) -> &str {
        match self {
            Name::Status => ":status",
            Name::ContentType => "content-type",
            Name::GrpcStatus => "grpc-status",
            Name::RetryAfter => "retry-after",
            Name::Pushback => "grpc-retry-pushback-ms",
            Name::Ratelimited => "x-envoy-ratelimited",
            Name::AsksRetry => "x-holdfast-retry",
            Name::HasTries => "x-holdfast-tries",
            Name::ServiceTime => "x-envoy-upstream-service-time",
            Name::Error => "x-error",
            Name::Other(name) => name,
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    read(input.raw, &input);

    let headers: Vec<_> =
        input.headers.iter().map(|(name, value)| (name.text().to_owned(), (*value).to_owned())).collect();
    let bytes = headers::write(&headers);
    let written = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    assert!(headers::read(&bytes).eq(written), "what was written is read");
    read(&bytes, &input);

    let _ = Seat::parse(input.raw);
});

fn read(bytes: &[u8], input: &Input<'_>) {
    // Every pair takes eight bytes of sizes at least.
    assert!(headers::read(bytes).count() <= bytes.len() / 8);
    let rules = defaults::outcome();
    let head = ResponseHead::read(bytes, Timestamp(input.now), true, &rules);
    let deaf = ResponseHead::read(bytes, Timestamp(input.now), false, &rules);
    assert_eq!(deaf, ResponseHead { retry_after: None, pushback: None, ..head.clone() });
    assert_eq!(deaf.asked_wait(), None);
    let _ = head.answer(input.ended);
    let _ = head.local_answer(input.flags, input.details);
    let open = OpenResponse { answer: head.answer(input.ended), head: head.clone(), came: Timestamp(input.now) };
    let _ = (open.complete(), open.left(), open.with_trailers(|| Some(input.details.to_vec())));
    let _ = open.cut(outcome::is_broken_off(input.flags));
    let _ = response::trailers_answer(Some(input.details));

    let any = |name: &str| Glob::new("*", None).map(|glob| (name.to_owned(), glob)).into_iter().collect();
    let judging = OutcomeRules { failure_headers: any("x-error"), ignore_headers: any("retry-after"), ..rules };
    let judged = ResponseHead::read(bytes, Timestamp(input.now), true, &judging);
    let has = |wanted: &[u8]| headers::read(bytes).any(|(name, _)| name == wanted);
    let expected = match (has(b"retry-after"), has(b"x-error")) {
        (true, _) => HeaderVerdict::Ignored,
        (false, true) => HeaderVerdict::Failure,
        (false, false) => HeaderVerdict::Nothing,
    };
    assert_eq!(judged, ResponseHead { by_headers: expected, ..head });
}
