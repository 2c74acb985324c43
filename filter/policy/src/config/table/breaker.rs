//! When the breaker opens, for how long, and how it closes again.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::{Absent, Block, Key, Kind, Text, Word};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const OPEN: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(24 * 3600);

/// The circuit breaker.
pub static BREAKER: Block = Block {
    keys: &[
        Key::new(
            "window",
            Kind::OneOf(&[Kind::Duration(Duration::from_millis(100)..=HOUR), Kind::Whole(1..=1000)]),
            Absent::Duration(Duration::from_secs(10)),
        )
        .does(
            "Which outcomes the rates look at. A duration is a sliding time window in 10 buckets, a number the last that \
             many outcomes.",
        )
        .change(
            "Lengthen it where traffic is thin, so that `min_requests` is reached; shorten it to react sooner and to forget a \
             short disturbance sooner. A number of outcomes suits traffic that comes in bursts; one of 1,000 writes 8 KB \
             every 10 ms, so prefer a time window or 100.",
        )
        .envoy("`outlier_detection.interval`, `admission_control.sampling_window`."),
        Key::new("min_requests", Kind::Whole(1..=1_000_000), Absent::Number(20.0))
            .limit("at most the outcomes of a `window` that is a number")
            .does(
                "With fewer outcomes in the window the rates decide nothing. The default is all outcomes of a window that \
                 holds fewer than that.",
            )
            .change(
                "Raise it where single failures are normal, so that chance opens nothing: with 20, ten failures open at 50 %. \
                 Lower it, or lengthen `window`, where a key sees less traffic than that.",
            )
            .envoy("`success_rate_request_volume` and `failure_percentage_request_volume`, for hosts."),
        Key::new("failure_rate", Kind::Percent { min: 0 }, Absent::Number(50.0))
            .does("Opens when failures reach this share of the outcomes. 0 is off. A success only completes `min_requests`.")
            .change(
                "Lower it for a service whose clients cannot use the rest either, such as a payment in several calls. Raise \
                 it where a cluster has few hosts and losing one should eject it and not open for all.",
            )
            .envoy("`failure_percentage_threshold`, for hosts."),
        Key::new("slow_rate", Kind::Percent { min: 0 }, Absent::Number(0.0))
            .limit("above 0 only with `outcome.slow_after`")
            .does("Opens when slow responses reach this share of the outcomes. 0 is off.")
            .change(
                "Set it, with `outcome.slow_after`, for services that hang before they fail: the breaker then opens before \
                 requests pile up. Choose a share that a bad minute does not reach, such as 80.",
            ),
        Key::new("consecutive_failures", Kind::Whole(0..=1000), Absent::Number(0.0))
            .does("Opens at this many failures in a row, over all workers and whatever the volume. 0 is off.")
            .change(
                "Set it for a service with so little traffic that no rate is meaningful, or to open at once when it is down \
                 altogether. Above `half_open.probes`, all probes failing opens it again; with `failure_rate` 0 one good one \
                 of two closes it.",
            )
            .envoy("`consecutive_5xx`, for hosts."),
        Key::new("open_for", Kind::Duration(OPEN), Absent::Duration(Duration::from_secs(30)))
            .does("How long it stays open the first time. All requests are rejected meanwhile.")
            .change(
                "Set it to the time in which the service usually recovers, such as a restart. Shorter probes sooner and costs \
                 a few failures more; longer spares a service that needs quiet.",
            )
            .envoy("`base_ejection_time`, for hosts."),
        Key::new("open_growth", Kind::Number(1..=10), Absent::Number(2.0))
            .does("Factor on the open period each time it opens again without having closed in between.")
            .change("Set 1 for periods of equal length, where you would rather probe often through a long outage.")
            .envoy("none: ejection times grow by `base_ejection_time` each."),
        Key::new("open_max", Kind::Duration(OPEN), Absent::Duration(Duration::from_secs(300)))
            .limit("at least `open_for`")
            .does("The longest open period before jitter. The default is `open_for` where that is longer.")
            .change(
                "It is how long a recovered service can wait for its first probe. Lower it where that matters more than the \
                 probes that fail. It also limits what a `Retry-After` can ask for.",
            )
            .envoy("`max_ejection_time`, for hosts."),
        Key::new("open_jitter", Kind::Percent { min: 0 }, Absent::Number(10.0))
            .does("Up to this share of the period is added at random.")
            .change(
                "Raise it where many Envoys open at the same moment, so that they do not probe in step. 0 makes tests exact.",
            )
            .envoy("`max_ejection_time_jitter`, for hosts."),
        Key::new("honor_retry_after", Kind::Boolean, Absent::Boolean(true))
            .does(
                "Whether a `Retry-After` (seconds or an HTTP date) on the response that opens the breaker lengthens the open \
                 period, up to `open_max`.",
            )
            .change("Switch it off where a service or a proxy before it sends a fixed `Retry-After` that means nothing."),
        Key::new("half_open", Kind::Object(&HALF_OPEN), Absent::Object)
            .does("How it is found out whether the service is well again."),
        Key::new("ramp", Kind::Duration(Duration::ZERO..=HOUR), Absent::Duration(Duration::ZERO))
            .does(
                "After good probes the admitted share rises from 0 to 100 % over this time, while the thresholds apply. \
                 `\"0s\"` closes at once.",
            )
            .change(
                "Set it for a service that would fail again under its full load: cold caches, a JIT compiler, autoscaling. \
                 The rest of the requests is rejected meanwhile.",
            )
            .envoy("`slow_start_config.slow_start_window`, for hosts."),
        Key::new("state", Kind::Word(&STATES), Absent::String("auto"))
            .does("Whether the breaker decides, or a person.")
            .change(
                "`forced_open` takes a service out for maintenance, with its fallback; `forced_closed` keeps a breaker that \
                 misjudges from rejecting, while you find out why.",
            ),
        Key::mode(
            "the policy's `mode`",
            "`shadow` for a new breaker beside features that enforce: `would_reject.open` says what it would reject.",
        ),
    ],
    not_yet: &[],
    about: Text::new(
        "Closed, it lets everything through and watches. When a threshold is reached it opens: requests are rejected with \
         reason `open`, at no cost to the service. Then it is half-open: a few probes decide whether it closes (over a \
         `ramp`, if set) or opens again for longer. A threshold is reached at its value (`>=`). At least one of \
         `failure_rate`, `slow_rate` and `consecutive_failures` must be on, unless `state` is set.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "outcome": {"slow_after": "2s"},
    "breaker": {"window": "30s", "min_requests": 40, "failure_rate": 40, "slow_rate": 80, "ramp": "20s"}
  }]
}"#,
    ),
};

/// Who decides.
static STATES: [Word; 3] = [
    Word::new("auto", "The breaker decides."),
    Word::new("forced_open", "Every request is rejected."),
    Word::new("forced_closed", "No request is rejected, and nothing is judged."),
];

/// The probes.
pub static HALF_OPEN: Block = Block {
    keys: &[
        Key::new("probes", Kind::Whole(1..=100), Absent::Number(5.0))
            .does(
                "How many requests are in flight or judged in half-open, over all workers and never one more. It closes when \
                 all are judged below every threshold, also where `min_requests` is smaller, and opens as soon as no later \
                 probe can prevent it. Late answers to requests of an earlier state are dropped.",
            )
            .change(
                "Lower it where each probe that fails hurts a user; 1 decides by one request. Raise it where a service fails \
                 for a part of its requests, which few probes would miss.",
            ),
        Key::new(
            "lease",
            Kind::Duration(Duration::from_millis(10)..=HOUR),
            Absent::Duration(Duration::from_secs(10)),
        )
        .does(
            "A probe that has not reported by then gives its permit to another request. Its outcome still counts if it comes \
             later.",
        )
        .change(
            "Raise it above the time that a good response may take, such as for reports or streams: else half-open admits \
             more requests than it waits for.",
        ),
    ],
    not_yet: &[],
    about: Text::new(
        "Half-open lets a few requests through, each with a permit, and judges a fresh window of their outcomes by the \
         thresholds of the breaker.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "reports",
    "breaker": {"open_for": "1m", "half_open": {"probes": 2, "lease": "45s"}}
  }]
}"#,
    ),
};
