//! Adaptive client-side throttling.

use core::time::Duration;

use super::{Absent, Block, Key, Kind, Text};

/// The throttle.
pub static THROTTLE: Block = Block {
    keys: &[
        Key::new("success_rate", Kind::Percent { min: 1 }, Absent::Number(95.0))
            .does("With a smaller share of successes than this, requests begin to be rejected.")
            .change(
                "Lower it to below the usual share of successes of a service that always fails a little, else a part is \
                 rejected all the time.",
            )
            .envoy("`admission_control.sr_threshold`."),
        Key::new("aggression", Kind::Number(1..=10), Absent::Number(1.0))
            .does("The rejected share is raised to the power of 1/`aggression`.")
            .change("Raise it to reject more as soon as the share of successes falls: 2 rejects 50 % where 1 rejects 25 %.")
            .envoy("`admission_control.aggression`."),
        Key::new("max_rejection", Kind::Percent { min: 0 }, Absent::Number(80.0))
            .does("Never a larger share than this is rejected.")
            .change(
                "The rest is what finds out that the service is well again. Raise it where even a fifth of the load is too \
                 much for a service in trouble.",
            )
            .envoy("`admission_control.max_rejection_probability`."),
        Key::new("min_rps", Kind::Whole(0..=1_000_000), Absent::Number(0.0))
            .does("With fewer requests per second than this over the window nothing is rejected.")
            .change("Set it where few requests make the share of successes a matter of chance, such as at night.")
            .envoy("`admission_control.rps_threshold`."),
        Key::new(
            "window",
            Kind::Duration(Duration::from_secs(1)..=Duration::from_secs(3600)),
            Absent::Duration(Duration::from_secs(30)),
        )
        .does("How far back requests and successes are counted.")
        .change("Shorten it to react and to recover sooner; lengthen it where traffic is thin.")
        .envoy("`admission_control.sampling_window`."),
        Key::mode("the policy's `mode`", "`shadow` to see in `would_reject.throttled` what it would take away."),
    ],
    not_yet: &[],
    about: Text::new(
        "Client-side throttling as in Google's \"Site Reliability Engineering\" and Envoy's `admission_control`: with `n` \
         requests and `s` successes in the window a request is rejected, with reason `throttled`, with probability \
         `min(max_rejection, max(0, (n - s/success_rate)/(n+1))^(1/aggression))`. Counts are over all workers, where Envoy's \
         are per worker, and per policy and key.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "recommendations",
    "throttle": {"success_rate": 90, "max_rejection": 95, "min_rps": 10, "window": "1m"}
  }]
}"#,
    ),
};
