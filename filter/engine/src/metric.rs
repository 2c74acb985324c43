//! What an operator can count.

use holdfast_policy::document::Reason;

/// A metric of one key. Full name: `holdfast.policy=.=<policy>;.;key=.=<key>;.;<metric>`, which Envoy prefixes with
/// `wasmcustom.`. A label that only some metrics have goes before the metric's own name: `host=.=<address>;.;`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Metric {
    /// Requests that the policy governed.
    Requests,
    /// Outcomes that were successes.
    Success,
    /// Outcomes that were failures.
    Failure,
    /// Outcomes that were slow.
    Slow,
    /// Requests that ended without saying anything about the host.
    Ignored,
    /// Rejected by the breaker.
    RejectedOpen,
    /// Rejected because of requests in flight.
    RejectedConcurrency,
    /// Rejected by the throttle.
    RejectedThrottled,
    /// Would have been rejected by the breaker, in shadow mode.
    WouldRejectOpen,
    /// Would have been rejected because of requests in flight, in shadow mode.
    WouldRejectConcurrency,
    /// Would have been rejected by the throttle, in shadow mode.
    WouldRejectThrottled,
    /// Gauge: the breaker's state, see [`crate::breaker::StateName`].
    BreakerState,
    /// The breaker opened because of its failure rate.
    OpenedFailureRate,
    /// The breaker opened because of its slow rate.
    OpenedSlowRate,
    /// The breaker opened because of failures in a row.
    OpenedConsecutiveFailures,
    /// Answered with a static fallback.
    FallbackStatic,
    /// Would have been answered with a static fallback, in shadow mode.
    WouldFallbackStatic,
    /// Answered with a good answer that was kept.
    FallbackStale,
    /// Could not be answered so.
    FallbackFailedStale,
    /// Would have been answered with a good answer that was kept, in shadow mode.
    WouldFallbackStale,
    /// Served by another cluster.
    FallbackRoute,
    /// Could not be served so.
    FallbackFailedRoute,
    /// Would have been served by another cluster, in shadow mode.
    WouldFallbackRoute,
    /// Answered with what another cluster has answered to the same request.
    FallbackCall,
    /// Could not be answered so.
    FallbackFailedCall,
    /// Another cluster would have been asked, in shadow mode.
    WouldFallbackCall,
    /// Gauge: good answers that are kept.
    StaleAnswers,
    /// Gauge: how many bytes they take.
    StaleBytes,
    /// Attempts after the first of a request.
    Retries,
    /// Requests that succeeded after more than one attempt.
    RetriesRecovered,
    /// Not retried: the budget had no token left.
    DeniedBudget,
    /// Not retried: the breaker was not closed.
    DeniedBreaker,
    /// Not retried: a host may have seen the request, and it is not idempotent.
    DeniedMethod,
    /// Not retried: the wait would have gone beyond the time that was left.
    DeniedDeadline,
    /// Not retried: the host asked for too long a wait.
    DeniedRetryAfter,
    /// Not retried: it was itself a retry.
    DeniedRetryOfRetry,
    /// Not retried: no token could be taken, because other workers were faster each time, or the key has lost its place.
    DeniedContention,
    /// Would have been retried, in shadow mode.
    WouldRetry,
    /// Gauge: hosts that are known.
    Hosts,
    /// Gauge: hosts that are out.
    HostsEjected,
    /// Gauge: 1 while requests do not go to the hosts that are named to them.
    MisassembledOverrideHost,
    /// Gauge: 1 while hosts have no IP address and port by which they could be named.
    MisassembledHostAddress,
    /// Gauge: 1 while requests that want an attempt seat go to a cluster where none shows itself.
    MisassembledAttemptSeat,
    /// Gauge: 1 while the route does not let a fallback choose the cluster.
    MisassembledRoute,
    /// A host was ejected for failures in a row.
    EjectedConsecutiveFailures,
    /// A host was ejected for gateway failures in a row.
    EjectedConsecutiveGatewayFailures,
    /// A host was ejected for no answers in a row.
    EjectedConsecutiveLocalFailures,
    /// A host was ejected for its share of failures.
    EjectedFailureRate,
    /// A host was ejected for its share of successes.
    EjectedSuccessRate,
    /// A host was ejected for its latency.
    EjectedLatency,
    /// A host was ejected for its heartbeat.
    EjectedHeartbeat,
    /// A host was found bad by failures in a row.
    DetectedConsecutiveFailures,
    /// A host was found bad by gateway failures in a row.
    DetectedConsecutiveGatewayFailures,
    /// A host was found bad by no answers in a row.
    DetectedConsecutiveLocalFailures,
    /// A host was found bad by its share of failures.
    DetectedFailureRate,
    /// A host was found bad by its share of successes.
    DetectedSuccessRate,
    /// A host was found bad by its latency.
    DetectedLatency,
    /// A host was found bad by its heartbeat.
    DetectedHeartbeat,
    /// A host would have been ejected for failures in a row, in shadow mode.
    WouldEjectConsecutiveFailures,
    /// A host would have been ejected for gateway failures in a row, in shadow mode.
    WouldEjectConsecutiveGatewayFailures,
    /// A host would have been ejected for no answers in a row, in shadow mode.
    WouldEjectConsecutiveLocalFailures,
    /// A host would have been ejected for its share of failures, in shadow mode.
    WouldEjectFailureRate,
    /// A host would have been ejected for its share of successes, in shadow mode.
    WouldEjectSuccessRate,
    /// A host would have been ejected for its latency, in shadow mode.
    WouldEjectLatency,
    /// A host would have been ejected for its heartbeat, in shadow mode.
    WouldEjectHeartbeat,
    /// A host was not ejected, because too many were out.
    EjectionsOverflow,
    /// A host is back.
    Readmitted,
    /// A host's probe failed.
    ProbeFailed,
    /// A change of shared data was given up because other workers were faster each time.
    Contention,
    /// Requests without an answer in time that are not held against the service, because the worker did not run meanwhile.
    PausedRequests,
    /// Attempts like that.
    PausedAttempts,
    /// Checks like that.
    PausedChecks,
}

impl Metric {
    /// How many there are; their numbers are below it.
    pub const COUNT: usize = 72;

    /// All, by number.
    pub const ALL: [Metric; Metric::COUNT] = [
        Metric::Requests,
        Metric::Success,
        Metric::Failure,
        Metric::Slow,
        Metric::Ignored,
        Metric::RejectedOpen,
        Metric::RejectedConcurrency,
        Metric::RejectedThrottled,
        Metric::WouldRejectOpen,
        Metric::WouldRejectConcurrency,
        Metric::WouldRejectThrottled,
        Metric::BreakerState,
        Metric::OpenedFailureRate,
        Metric::OpenedSlowRate,
        Metric::OpenedConsecutiveFailures,
        Metric::FallbackStatic,
        Metric::WouldFallbackStatic,
        Metric::FallbackStale,
        Metric::FallbackFailedStale,
        Metric::WouldFallbackStale,
        Metric::FallbackRoute,
        Metric::FallbackFailedRoute,
        Metric::WouldFallbackRoute,
        Metric::FallbackCall,
        Metric::FallbackFailedCall,
        Metric::WouldFallbackCall,
        Metric::StaleAnswers,
        Metric::StaleBytes,
        Metric::Retries,
        Metric::RetriesRecovered,
        Metric::DeniedBudget,
        Metric::DeniedBreaker,
        Metric::DeniedMethod,
        Metric::DeniedDeadline,
        Metric::DeniedRetryAfter,
        Metric::DeniedRetryOfRetry,
        Metric::DeniedContention,
        Metric::WouldRetry,
        Metric::Hosts,
        Metric::HostsEjected,
        Metric::MisassembledOverrideHost,
        Metric::MisassembledHostAddress,
        Metric::MisassembledAttemptSeat,
        Metric::MisassembledRoute,
        Metric::EjectedConsecutiveFailures,
        Metric::EjectedConsecutiveGatewayFailures,
        Metric::EjectedConsecutiveLocalFailures,
        Metric::EjectedFailureRate,
        Metric::EjectedSuccessRate,
        Metric::EjectedLatency,
        Metric::EjectedHeartbeat,
        Metric::DetectedConsecutiveFailures,
        Metric::DetectedConsecutiveGatewayFailures,
        Metric::DetectedConsecutiveLocalFailures,
        Metric::DetectedFailureRate,
        Metric::DetectedSuccessRate,
        Metric::DetectedLatency,
        Metric::DetectedHeartbeat,
        Metric::WouldEjectConsecutiveFailures,
        Metric::WouldEjectConsecutiveGatewayFailures,
        Metric::WouldEjectConsecutiveLocalFailures,
        Metric::WouldEjectFailureRate,
        Metric::WouldEjectSuccessRate,
        Metric::WouldEjectLatency,
        Metric::WouldEjectHeartbeat,
        Metric::EjectionsOverflow,
        Metric::Readmitted,
        Metric::ProbeFailed,
        Metric::Contention,
        Metric::PausedRequests,
        Metric::PausedAttempts,
        Metric::PausedChecks,
    ];

    /// The gauges of a key's hosts.
    pub const OF_HOSTS: [Metric; 4] =
        [Metric::Hosts, Metric::HostsEjected, Metric::MisassembledOverrideHost, Metric::MisassembledHostAddress];

    /// The gauges of a key's kept answers.
    pub const OF_STALE: [Metric; 2] = [Metric::StaleAnswers, Metric::StaleBytes];

    /// The last part of the name.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Requests => "requests",
            Metric::Success => "success",
            Metric::Failure => "failure",
            Metric::Slow => "slow",
            Metric::Ignored => "ignored",
            Metric::RejectedOpen => "rejected.open",
            Metric::RejectedConcurrency => "rejected.concurrency",
            Metric::RejectedThrottled => "rejected.throttled",
            Metric::WouldRejectOpen => "would_reject.open",
            Metric::WouldRejectConcurrency => "would_reject.concurrency",
            Metric::WouldRejectThrottled => "would_reject.throttled",
            Metric::BreakerState => "breaker_state",
            Metric::OpenedFailureRate => "breaker_opened.failure_rate",
            Metric::OpenedSlowRate => "breaker_opened.slow_rate",
            Metric::OpenedConsecutiveFailures => "breaker_opened.consecutive_failures",
            Metric::FallbackStatic => "fallback.static",
            Metric::WouldFallbackStatic => "would_fallback.static",
            Metric::FallbackStale => "fallback.stale",
            Metric::FallbackFailedStale => "fallback_failed.stale",
            Metric::WouldFallbackStale => "would_fallback.stale",
            Metric::FallbackRoute => "fallback.route",
            Metric::FallbackFailedRoute => "fallback_failed.route",
            Metric::WouldFallbackRoute => "would_fallback.route",
            Metric::FallbackCall => "fallback.call",
            Metric::FallbackFailedCall => "fallback_failed.call",
            Metric::WouldFallbackCall => "would_fallback.call",
            Metric::StaleAnswers => "stale_answers",
            Metric::StaleBytes => "stale_bytes",
            Metric::Retries => "retries",
            Metric::RetriesRecovered => "retries_recovered",
            Metric::DeniedBudget => "retries_denied.budget",
            Metric::DeniedBreaker => "retries_denied.breaker",
            Metric::DeniedMethod => "retries_denied.method",
            Metric::DeniedDeadline => "retries_denied.deadline",
            Metric::DeniedRetryAfter => "retries_denied.retry_after",
            Metric::DeniedRetryOfRetry => "retries_denied.retry_of_retry",
            Metric::DeniedContention => "retries_denied.contention",
            Metric::WouldRetry => "would_retry",
            Metric::Hosts => "hosts",
            Metric::HostsEjected => "hosts_ejected",
            Metric::MisassembledOverrideHost => "misassembled.override_host",
            Metric::MisassembledHostAddress => "misassembled.host_address",
            Metric::MisassembledAttemptSeat => "misassembled.attempt_seat",
            Metric::MisassembledRoute => "misassembled.route",
            Metric::EjectedConsecutiveFailures => "ejections.consecutive_failures",
            Metric::EjectedConsecutiveGatewayFailures => "ejections.consecutive_gateway_failures",
            Metric::EjectedConsecutiveLocalFailures => "ejections.consecutive_local_failures",
            Metric::EjectedFailureRate => "ejections.failure_rate",
            Metric::EjectedSuccessRate => "ejections.success_rate",
            Metric::EjectedLatency => "ejections.latency",
            Metric::EjectedHeartbeat => "ejections.heartbeat",
            Metric::DetectedConsecutiveFailures => "ejections_detected.consecutive_failures",
            Metric::DetectedConsecutiveGatewayFailures => "ejections_detected.consecutive_gateway_failures",
            Metric::DetectedConsecutiveLocalFailures => "ejections_detected.consecutive_local_failures",
            Metric::DetectedFailureRate => "ejections_detected.failure_rate",
            Metric::DetectedSuccessRate => "ejections_detected.success_rate",
            Metric::DetectedLatency => "ejections_detected.latency",
            Metric::DetectedHeartbeat => "ejections_detected.heartbeat",
            Metric::WouldEjectConsecutiveFailures => "would_eject.consecutive_failures",
            Metric::WouldEjectConsecutiveGatewayFailures => "would_eject.consecutive_gateway_failures",
            Metric::WouldEjectConsecutiveLocalFailures => "would_eject.consecutive_local_failures",
            Metric::WouldEjectFailureRate => "would_eject.failure_rate",
            Metric::WouldEjectSuccessRate => "would_eject.success_rate",
            Metric::WouldEjectLatency => "would_eject.latency",
            Metric::WouldEjectHeartbeat => "would_eject.heartbeat",
            Metric::EjectionsOverflow => "ejections_overflow",
            Metric::Readmitted => "readmitted",
            Metric::ProbeFailed => "probe_failed",
            Metric::Contention => "shared_data.contention",
            Metric::PausedRequests => "paused.requests",
            Metric::PausedAttempts => "paused.attempts",
            Metric::PausedChecks => "paused.checks",
        }
    }

    /// Whether it is a gauge; the others are counters.
    pub fn is_gauge(self) -> bool {
        matches!(self, Metric::BreakerState | Metric::MisassembledAttemptSeat | Metric::MisassembledRoute)
            || Metric::OF_HOSTS.contains(&self)
            || Metric::OF_STALE.contains(&self)
    }

    /// The counter of requests rejected for `reason`, or that would have been.
    pub const fn rejected(reason: Reason, shadow: bool) -> Option<Metric> {
        match (reason, shadow) {
            (Reason::Open, false) => Some(Metric::RejectedOpen),
            (Reason::Concurrency, false) => Some(Metric::RejectedConcurrency),
            (Reason::Throttled, false) => Some(Metric::RejectedThrottled),
            (Reason::Open, true) => Some(Metric::WouldRejectOpen),
            (Reason::Concurrency, true) => Some(Metric::WouldRejectConcurrency),
            (Reason::Throttled, true) => Some(Metric::WouldRejectThrottled),
            (Reason::Failure | Reason::Timeout | Reason::RetriesExhausted | Reason::NoHost, _) => None,
        }
    }
}
