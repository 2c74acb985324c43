//! Time in intervals, for the detectors that compare hosts.

use core::time::Duration;

use crate::base::time::{Timestamp, nanos};

/// The number of the interval that `now` falls in.
pub fn interval_number(now: Timestamp, length: Duration) -> u64 {
    now.0.checked_div(nanos(length)).unwrap_or(0)
}
