//! The policies: features alone and together, with few keys and short times.

use std::sync::{Arc, LazyLock};

use holdfast_policy::config;
use holdfast_policy::document::{Mode, Policy, Retry};

/// A policy, alone in its document.
pub struct Shape {
    pub policy: Arc<Policy>,
    pub text: String,
}

impl Shape {
    /// The retries that it acts on.
    pub fn retry(&self) -> Option<&Retry> {
        self.policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce)
    }

    /// Whether all requests that it lets pass count in flight.
    pub fn counts_in_flight(&self) -> bool {
        self.policy.concurrency.as_ref().is_some_and(|concurrency| concurrency.mode == Mode::Enforce)
    }
}

pub static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    let document = br#"{"policies": [
        {"name": "plain", "breaker": {"min_requests": 2, "open_for": "1s", "half_open": {"probes": 2}}, "retry": {}},
        {"name": "most", "scope": [], "retry": {"max_retries": 20, "on": ["5xx", "retriable-status-codes", "unavailable", 409],
            "timeout": "10s", "per_try_timeout": "300ms", "backoff": {"max": "5m", "jitter": "decorrelated"},
            "budget": {"ratio": 100, "window": "1s"}}},
        {"name": "hedge", "breaker": {"min_requests": 2, "open_for": "1s"}, "retry": {"max_retries": 3, "per_try_timeout": "100ms", "hedge_on_per_try_timeout": true,
            "backoff": {"base": "1s", "max": "2s", "jitter": "equal"},
            "budget": {"ratio": 0, "min_per_second": 0.2, "window": "10s"}}},
        {"name": "deaf", "retry": {"max_retries": 1, "on": ["envoy-ratelimited", "connect-failure", "429-430", "cancelled"],
            "retry_after": {"honor": false, "max": "0s"}, "backoff": {"base": "1ms", "max": "1ms", "jitter": "none"},
            "skip_retries_of_retries": false, "idempotency_header": "x-key"}},
        {"name": "tight", "retry": {"per_try_timeout": "1s", "timeout": "1s", "on": ["retriable-4xx", "reset"],
            "budget": {"ratio": 0, "min_per_second": 0.001, "window": "5m"}}},
        {"name": "none", "retry": {"max_retries": 0}},
        {"name": "shadow", "mode": "shadow", "breaker": {"min_requests": 2}, "concurrency": {"max_requests": 1}, "retry": {},
            "outlier": {}, "fallback": [{"on": ["open", "failure"], "respond": {"status": 200}}]},
        {"name": "alone", "breaker": {"min_requests": 3, "consecutive_failures": 2, "open_for": "1s"}},
        {"name": "limit", "max_keys": 3, "scope": ["cluster", {"header": "x-tenant"}],
            "outcome": {"slow_after": "1s", "failure": {"header": {"x-a": "*"}}, "ignore": {"header": {"retry-after": "9*"}}},
            "breaker": {"min_requests": 3, "slow_rate": 50, "open_for": "1s", "half_open": {"probes": 1, "lease": "1s"}, "ramp": "1s"},
            "concurrency": {"max_requests": 2}, "throttle": {"window": "1s"},
            "retry": {"backoff": {"base": "100ms", "max": "100ms", "jitter": "none"}},
            "fallback": [{"on": ["open", "concurrency", "throttled"], "respond": {"status": 200, "body": "${path} ${retry_after}"}},
                {"on": ["failure", "timeout", "retries_exhausted", "no_host"],
                    "respond": {"status": 503, "body": "${reason} of ${policy} for ${header.x-tenant} ${path}", "grpc_status": 8}}]},
        {"name": "hosts", "max_keys": 3, "scope": [], "breaker": {"min_requests": 2, "open_for": "1s"}, "concurrency": {"max_requests": 9},
            "retry": {"backoff": {"base": "10ms", "max": "20ms"}, "budget": {"min_per_second": 0.5}},
            "outlier": {"consecutive_failures": 2, "interval": "1s", "base_ejection_time": "1s", "slow_start": "1s",
                "failure_rate": {"min_requests": 2, "min_hosts": 1}, "latency": {"min_requests": 2, "min_hosts": 2},
                "hosts": ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"], "probe": {"requests": 2},
                "heartbeat": {"path": "/healthz"}, "discover": {"cluster": "admin", "path": "/clusters"}}},
        {"name": "bare", "scope": [], "concurrency": {"max_requests": 9},
            "fallback": [{"on": ["failure"], "respond": {"status": 204}}]},
        {"name": "judge", "match": {"method": ["GET", "POST"]}, "outlier": {"consecutive_failures": 1, "base_ejection_time": "1s"}},
        {"name": "calls", "scope": [], "outlier": {"hosts": ["10.0.0.1:80", "10.0.0.2:80"],
            "heartbeat": {"grpc": {"service": "a.B"}, "host": "a", "headers": {"x-a": "b"}, "unhealthy_after": 1, "healthy_after": 1}}}
    ]}"#;
    let texts = config::policy_texts(document);
    let policies = config::parse(document).expect("the policies are valid").policies;
    let shapes = policies.into_iter().zip(texts).map(|(policy, text)| Shape { policy: Arc::new(policy), text });
    shapes.collect()
});
