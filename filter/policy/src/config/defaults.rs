//! What a key that is not given means, all in one place.

use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use crate::document::{
    Backoff, Breaker, BreakerControl, Budget, Consecutive, Dimension, FailureRate, GrpcSet, Heartbeat, Jitter, Latency,
    Mode, OutcomeRules, Outlier, Retry, RetryAfter, RetryOn, RetryWord, Scope, StatusSet, SuccessRate, Throttle,
    Window, WordSet,
};
use crate::percent::Percent;

/// gRPC status of a fallback answer: UNAVAILABLE.
pub const FALLBACK_GRPC_STATUS: u8 = 14;
/// `content-type` of a fallback whose body is a string.
pub const TEXT_CONTENT_TYPE: &str = "text/plain; charset=utf-8";
/// `content-type` of a fallback whose body is any other JSON value.
pub const JSON_CONTENT_TYPE: &str = "application/json";

/// State per cluster.
pub fn scope() -> Scope {
    Scope { by: vec![Dimension::Cluster], max_keys: nonzero16(256) }
}

/// Server errors, as HTTP and gRPC tell them, and no answer at all.
pub fn outcome() -> OutcomeRules {
    let mut failure_status = StatusSet::default();
    failure_status.insert_range(500, 599);
    let mut failure_grpc = GrpcSet::default();
    // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    for status in [2, 4, 13, 14, 15] {
        failure_grpc.insert(status);
    }
    OutcomeRules {
        failure_status,
        failure_grpc,
        failure_local: true,
        ignore_status: StatusSet::default(),
        ignore_grpc: GrpcSet::default(),
        slow_after: None,
    }
}

/// Opens at half of 20 requests in 10 s for 30 s.
pub fn breaker(mode: Mode) -> Breaker {
    Breaker {
        mode,
        window: Window::Time(Duration::from_secs(10)),
        min_requests: nonzero32(20),
        failure_rate: Percent::whole(50),
        slow_rate: Percent::ZERO,
        consecutive_failures: None,
        open_for: Duration::from_secs(30),
        open_growth: 2000,
        open_max: Duration::from_secs(5 * 60),
        open_jitter: Percent::whole(10),
        honor_retry_after: true,
        probes: nonzero16(5),
        lease: Duration::from_secs(10),
        ramp: Duration::ZERO,
        state: BreakerControl::Auto,
    }
}

/// Rejects as soon as more than 5 % of the requests of 30 s failed.
pub fn throttle(mode: Mode) -> Throttle {
    Throttle {
        mode,
        success_rate: Percent::whole(95),
        aggression: 1000,
        max_rejection: Percent::whole(80),
        min_rps: 0,
        window: Duration::from_secs(30),
    }
}

/// The methods that RFC 9110, section 9.2.2, calls idempotent.
pub const IDEMPOTENT_METHODS: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

/// Two more tries of an idempotent request that had no answer or a gateway's, within a fifth of all requests.
pub fn retry(mode: Mode) -> Retry {
    const ON: WordSet =
        WordSet::of(&[RetryWord::ConnectFailure, RetryWord::RefusedStream, RetryWord::Reset, RetryWord::GatewayError]);
    Retry {
        mode,
        max_retries: 2,
        on: RetryOn { words: ON, statuses: StatusSet::default() },
        methods: IDEMPOTENT_METHODS.map(str::to_owned).to_vec(),
        idempotency_header: "idempotency-key".to_owned(),
        per_try_timeout: None,
        timeout: None,
        backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250), jitter: Jitter::Full },
        retry_after: RetryAfter { honor: true, max: Duration::from_secs(5 * 60) },
        budget: Budget { ratio: Percent::whole(20), min_per_second: 10_000, window: Duration::from_secs(10) },
        skip_retries_of_retries: true,
        hedge_on_per_try_timeout: false,
    }
}

/// Failures in a row that eject where a detector of them is given without a number.
pub const CONSECUTIVE: NonZeroU16 = nonzero16(5);
/// How often a listing of hosts is read.
pub const DISCOVER_INTERVAL: Duration = Duration::from_secs(5);

/// Takes a host out at 5 failures in a row, for 30 s, then for longer; half of a cluster at most.
pub fn outlier(mode: Mode) -> Outlier {
    Outlier {
        mode,
        consecutive_failures: Some(Consecutive { limit: CONSECUTIVE, mode }),
        consecutive_gateway_failures: None,
        consecutive_local_failures: None,
        failure_rate: None,
        success_rate: None,
        latency: None,
        heartbeat: None,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(5 * 60),
        ejection_jitter: Percent::whole(10),
        max_ejected: Percent::whole(50),
        always_eject_one: true,
        panic_threshold: Percent::whole(50),
        probe_requests: nonzero16(1),
        slow_start: Duration::ZERO,
        hosts: Vec::new(),
        discover: None,
    }
}

/// Where `failure_rate` is given.
pub fn failure_rate(mode: Mode) -> FailureRate {
    FailureRate { threshold: Percent::whole(85), min_requests: nonzero32(50), min_hosts: nonzero16(5), mode }
}

/// Where `success_rate` is given.
pub fn success_rate(mode: Mode) -> SuccessRate {
    SuccessRate { stdev_factor: 1900, min_requests: nonzero32(100), min_hosts: nonzero16(5), mode }
}

/// Where `latency` is given: three times as slow as the others.
pub fn latency(mode: Mode) -> Latency {
    let floor = Duration::from_millis(20);
    Latency { deviation: 200, min_requests: nonzero32(50), min_hosts: nonzero16(3), floor, mode }
}

/// Where `heartbeat` is given.
pub fn heartbeat(mode: Mode) -> Heartbeat {
    let mut status = StatusSet::default();
    status.insert_range(200, 299);
    Heartbeat {
        path: "/healthz".to_owned(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        unhealthy_after: nonzero16(3),
        healthy_after: nonzero16(2),
        status,
        mode,
    }
}

const fn nonzero16(value: u16) -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(value.saturating_sub(1))
}

const fn nonzero32(value: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(value.saturating_sub(1))
}
