//! What is counted of retries.

use super::denial::Denial;
use crate::metric::Metric;

/// The counter of requests that were not retried for this reason.
pub const fn metric(denial: Denial) -> Metric {
    match denial {
        Denial::Budget => Metric::DeniedBudget,
        Denial::Breaker => Metric::DeniedBreaker,
        Denial::Method => Metric::DeniedMethod,
        Denial::Deadline => Metric::DeniedDeadline,
        Denial::RetryAfter => Metric::DeniedRetryAfter,
        Denial::RetryOfRetry => Metric::DeniedRetryOfRetry,
        Denial::Contention => Metric::DeniedContention,
    }
}
