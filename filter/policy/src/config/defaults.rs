//! What an empty block means, from the defaults in the tables.

use super::outcome::{grpc_set, status_set};
use super::table::{
    BACKOFF, BREAKER, BUDGET, FAILURE, HALF_OPEN, IGNORE, OUTCOME, OUTLIER, POLICY, PROBE, RETRY, RETRY_AFTER, key,
};
use super::{outlier, retry};
use crate::document::{
    Backoff, Balance, Breaker, BreakerControl, Budget, ClientGone, Jitter, Mode, OutcomeRules, Outlier, Retry,
    RetryAfter, RetryOn, Scope, StatusSet, Window,
};

/// State per cluster.
pub fn scope() -> Scope {
    Scope { by: super::scope::default(), max_keys: key!(POLICY.small_count("max_keys")).default }
}

/// Server errors, as HTTP and gRPC tell them, and no answer at all.
pub fn outcome() -> OutcomeRules {
    OutcomeRules {
        failure_status: status_set(key!(FAILURE.statuses("status")).default),
        failure_grpc: grpc_set(key!(FAILURE.strings("grpc_status")).default),
        failure_local: key!(FAILURE.boolean("local")).default,
        ignore_status: status_set(key!(IGNORE.statuses("status")).default),
        ignore_grpc: grpc_set(key!(IGNORE.strings("grpc_status")).default),
        failure_headers: Vec::new(),
        ignore_headers: Vec::new(),
        failure_broken: key!(FAILURE.boolean("broken")).default,
        slow_after: None,
        client_gone: key!(OUTCOME.word("client_gone", &ClientGone::WORDS)).default,
    }
}

/// Opens at half of 20 requests in 10 s for 30 s.
pub fn breaker(mode: Mode) -> Breaker {
    Breaker {
        mode,
        window: Window::Time(key!(BREAKER.duration("window")).default),
        min_requests: key!(BREAKER.count("min_requests")).default,
        failure_rate: key!(BREAKER.percent("failure_rate")).default,
        slow_rate: key!(BREAKER.percent("slow_rate")).default,
        consecutive_failures: None,
        open_for: key!(BREAKER.duration("open_for")).default,
        open_growth: key!(BREAKER.number("open_growth")).default,
        open_max: key!(BREAKER.duration("open_max")).default,
        open_jitter: key!(BREAKER.percent("open_jitter")).default,
        honor_retry_after: key!(BREAKER.boolean("honor_retry_after")).default,
        probes: key!(HALF_OPEN.small_count("probes")).default,
        lease: key!(HALF_OPEN.duration("lease")).default,
        ramp: key!(BREAKER.duration("ramp")).default,
        state: key!(BREAKER.word("state", &BreakerControl::WORDS)).default,
    }
}

/// Two retries of an idempotent request that had no answer or a gateway's, within a fifth of all requests.
pub fn retry(mode: Mode) -> Retry {
    Retry {
        mode,
        max_retries: key!(RETRY.whole("max_retries")).default as u8,
        on: RetryOn { words: retry::word_set(key!(RETRY.strings("on")).default), statuses: StatusSet::default() },
        methods: retry::owned(key!(RETRY.strings("methods")).default),
        idempotency_header: key!(RETRY.string("idempotency_header")).default.to_owned(),
        per_try_timeout: None,
        timeout: None,
        backoff: Backoff {
            base: key!(BACKOFF.duration("base")).default,
            max: key!(BACKOFF.duration("max")).default,
            jitter: key!(BACKOFF.word("jitter", &Jitter::WORDS)).default,
        },
        retry_after: RetryAfter {
            honor: key!(RETRY_AFTER.boolean("honor")).default,
            max: key!(RETRY_AFTER.duration("max")).default,
        },
        budget: Budget {
            ratio: key!(BUDGET.percent("ratio")).default,
            min_per_second: key!(BUDGET.number("min_per_second")).default,
            window: key!(BUDGET.duration("window")).default,
        },
        skip_retries_of_retries: key!(RETRY.boolean("skip_retries_of_retries")).default,
        hedge_on_per_try_timeout: key!(RETRY.boolean("hedge_on_per_try_timeout")).default,
    }
}

/// Ejects a host at 5 failures in a row, for 30 s, then for longer; half of a cluster at most.
pub fn outlier(mode: Mode) -> Outlier {
    let run = |limit| outlier::detector(limit, mode);
    Outlier {
        mode,
        consecutive_failures: run(key!(OUTLIER.whole("consecutive_failures")).default),
        consecutive_gateway_failures: run(key!(OUTLIER.whole("consecutive_gateway_failures")).default),
        consecutive_local_failures: run(key!(OUTLIER.whole("consecutive_local_failures")).default),
        failure_rate: None,
        success_rate: None,
        latency: None,
        heartbeat: None,
        interval: key!(OUTLIER.duration("interval")).default,
        base_ejection_time: key!(OUTLIER.duration("base_ejection_time")).default,
        max_ejection_time: key!(OUTLIER.duration("max_ejection_time")).default,
        ejection_jitter: key!(OUTLIER.percent("ejection_jitter")).default,
        max_ejected: key!(OUTLIER.percent("max_ejected")).default,
        always_eject_one: key!(OUTLIER.boolean("always_eject_one")).default,
        panic_threshold: key!(OUTLIER.percent("panic_threshold")).default,
        probe_requests: key!(PROBE.small_count("requests")).default,
        slow_start: key!(OUTLIER.duration("slow_start")).default,
        hosts: Vec::new(),
        discover: None,
        balance: Balance::default(),
    }
}
