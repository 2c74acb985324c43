//! Which metrics a policy has, and what they are called.

use holdfast_policy::document::{BreakerControl, FallbackKind, Mode, Policy};

use crate::metric::Metric;
use crate::outlier;
use crate::outlier::host_events::HostCount;

/// Whether `policy` can ever record a metric.
pub fn concerns(metric: Metric, policy: &Policy) -> bool {
    let breaker = policy.breaker.as_ref().filter(|breaker| breaker.mode != Mode::Off);
    let (breaker_mode, decides) = (breaker.map(|breaker| breaker.mode), |trigger: bool| {
        trigger && breaker.is_some_and(|breaker| breaker.state == BreakerControl::Auto)
    });
    let concurrency = policy.concurrency.as_ref().map(|concurrency| concurrency.mode);
    let throttle = policy.throttle.as_ref().map(|throttle| throttle.mode);
    let retry = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce);
    let outlier = policy.active_outlier();
    if let Some(counted) = of_hosts(metric) {
        return outlier.is_some_and(|outlier| match counted {
            HostCount::Detected(detector) => outlier.mode_of(detector) != Mode::Off,
            HostCount::Ejected(detector) => outlier.mode_of(detector) == Mode::Enforce,
            HostCount::Would(detector) => outlier.mode_of(detector) == Mode::Shadow,
            HostCount::Overflow | HostCount::Readmitted | HostCount::ProbeFailed => outlier.ejects(),
        });
    }
    match metric {
        Metric::Requests | Metric::Success | Metric::Failure | Metric::Ignored | Metric::Contention => true,
        Metric::Slow => policy.outcome.slow_after.is_some(),
        Metric::RejectedOpen => breaker_mode == Some(Mode::Enforce),
        Metric::WouldRejectOpen => breaker_mode == Some(Mode::Shadow),
        Metric::RejectedConcurrency => concurrency == Some(Mode::Enforce),
        Metric::WouldRejectConcurrency => concurrency == Some(Mode::Shadow),
        Metric::RejectedThrottled => throttle == Some(Mode::Enforce),
        Metric::WouldRejectThrottled => throttle == Some(Mode::Shadow),
        Metric::BreakerState => breaker.is_some(),
        Metric::OpenedFailureRate => decides(breaker.is_some_and(|breaker| !breaker.failure_rate.is_zero())),
        Metric::OpenedSlowRate => decides(breaker.is_some_and(|breaker| !breaker.slow_rate.is_zero())),
        Metric::OpenedConsecutiveFailures => {
            decides(breaker.is_some_and(|breaker| breaker.consecutive_failures.is_some()))
        }
        Metric::FallbackStatic => has_static(policy) && policy.mode == Mode::Enforce,
        Metric::FallbackStale | Metric::FallbackFailedStale => policy.stale().is_some() && policy.mode == Mode::Enforce,
        Metric::FallbackRoute | Metric::FallbackFailedRoute | Metric::MisassembledRoute => {
            has_route(policy) && policy.mode == Mode::Enforce
        }
        Metric::FallbackCall | Metric::FallbackFailedCall => policy.has_calls() && policy.mode == Mode::Enforce,
        _ if Metric::OF_STALE.contains(&metric) => policy.stale().is_some(),
        Metric::Retries
        | Metric::RetriesRecovered
        | Metric::DeniedBudget
        | Metric::DeniedMethod
        | Metric::DeniedDeadline
        | Metric::DeniedContention => retry.is_some(),
        Metric::DeniedBreaker => retry.is_some() && breaker_mode == Some(Mode::Enforce),
        Metric::DeniedRetryAfter => retry.is_some_and(|retry| retry.retry_after.honor),
        Metric::DeniedRetryOfRetry => retry.is_some_and(|retry| retry.skip_retries_of_retries),
        Metric::WouldRetry => policy.retry.as_ref().is_some_and(|retry| retry.mode == Mode::Shadow),
        _ if Metric::OF_HOSTS.contains(&metric) => outlier.is_some(),
        Metric::MisassembledAttemptSeat => outlier.is_some() || retry.is_some(),
        Metric::PausedRequests => policy.judges(),
        Metric::PausedAttempts => outlier.is_some(),
        Metric::PausedChecks => outlier.and_then(|outlier| outlier.heartbeat.as_ref()).is_some(),
        // No feature rejects what a call would serve.
        Metric::WouldFallbackCall => policy.has_calls() && policy.mode == Mode::Shadow,
        // A shadowed feature of an enforced policy only would have asked for its fallback.
        Metric::WouldFallbackStatic | Metric::WouldFallbackStale | Metric::WouldFallbackRoute => {
            let shadow = Some(Mode::Shadow);
            let has_one = match metric {
                Metric::WouldFallbackStatic => has_static(policy),
                Metric::WouldFallbackRoute => has_route(policy),
                _ => policy.stale().is_some(),
            };
            has_one && [Some(policy.mode), breaker_mode, concurrency, throttle].contains(&shadow)
        }
        // The others are those of hosts, above.
        _ => false,
    }
}

/// Whether a fallback has another cluster serve.
fn has_route(policy: &Policy) -> bool {
    policy.fallback.iter().any(|entry| matches!(entry.kind, FallbackKind::Route(_)))
}

/// Whether a fallback has a fixed response.
fn has_static(policy: &Policy) -> bool {
    policy.fallback.iter().any(|entry| matches!(entry.kind, FallbackKind::Static(_)))
}

/// What a metric counts of hosts, if it does.
fn of_hosts(metric: Metric) -> Option<HostCount> {
    HostCount::all().find(|counted| outlier::words::metric(*counted) == metric)
}

/// The metric's full name without Envoy's prefix. A label's value stands between `=.=` and `;.;`, where a short `stats_tags` entry
/// that names no metric finds it, and so does the one that Istio makes of `extraStatTags`. Neither can occur in a policy's name or
/// in a key's [text](crate::store::keys::text).
pub fn full_name(policy: &str, key: &str, metric: Metric) -> String {
    ["holdfast.policy=.=", policy, ";.;key=.=", key, ";.;", metric.name()].concat()
}

/// The gauge that signals changes of shared cells between workers.
pub const EPOCH: &str = "holdfast.epoch";

/// The gauge that signals changes of hosts' runs of failures.
pub const RUNS: &str = "holdfast.runs";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::{self, Denial};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_metric_has_its_own_number_and_name() {
        for (number, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, number);
            assert_eq!(Metric::ALL.iter().filter(|other| other.name() == metric.name()).count(), 1);
        }
    }

    #[test]
    fn a_denial_is_counted_under_its_own_name() {
        for denial in Denial::ALL {
            assert_eq!(retry::words::metric(denial).name(), format!("retries_denied.{}", denial.name()));
        }
    }

    #[test]
    fn names_are_the_contracts() {
        assert_eq!(
            full_name("orders", "cluster=outbound|80||orders.default", Metric::RejectedOpen),
            "holdfast.policy=.=orders;.;key=.=cluster=outbound|80||orders.default;.;rejected.open"
        );
    }
}
