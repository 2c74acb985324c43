//! Any bytes as a header map and as the head of a response.

#![no_main]

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::headers;
use holdfast_engine::http::response::{self, ResponseHead};
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
    let head = ResponseHead::read(bytes, Timestamp(input.now), true);
    let deaf = ResponseHead::read(bytes, Timestamp(input.now), false);
    assert_eq!(deaf, ResponseHead { retry_after: None, pushback: None, ..head.clone() });
    assert_eq!(deaf.asked_wait(), None);
    let _ = head.answer(input.ended);
    let _ = head.local_answer(input.flags, input.details);
    let _ = response::answer_at_end(Some(&head), input.flags);
    let _ = response::trailers_answer(Some(input.details));
}
