//! What an operator sees: metrics and lines of the log.

mod counters;
pub mod metrics;
pub mod policy_metrics;
