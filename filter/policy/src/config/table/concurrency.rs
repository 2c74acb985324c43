//! The ceiling on requests in flight.

use super::{Absent, Block, Key, Kind, Text};

/// The ceiling on requests in flight.
pub static CONCURRENCY: Block = Block {
    keys: &[
        Key::new("max_requests", Kind::Whole(1..=1_000_000), Absent::Required)
            .does("More requests than this in flight for a key, over all workers, are rejected.")
            .change(
                "Requests in flight are the rate times the latency: 200 requests/s of 50 ms are 10. Set it to a few times \
                 that at your peak, and below what the service can hold.",
            )
            .envoy("`circuit_breakers.thresholds.max_requests`, 1024 unless set."),
        Key::mode("the policy's `mode`", "`shadow` to find the right number: `would_reject.concurrency` counts what is above it."),
    ],
    not_yet: &[],
    about: Text::new(
        "A ceiling on requests in flight, counted over all workers from admission until the response has ended. What is above \
         it is rejected with reason `concurrency`. Unlike Envoy's ceiling it is per policy and key, and has a fallback.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "search",
    "concurrency": {"max_requests": 500}
  }]
}"#,
    ),
};
