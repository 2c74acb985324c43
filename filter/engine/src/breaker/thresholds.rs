//! What opens a breaker, and for how long.

use core::time::Duration;

use holdfast_policy::document::{Breaker, Window};
use holdfast_policy::percent::Percent;

use super::half_open::HalfOpen;
use crate::base::random::scale;
use crate::base::time::nanos;
use crate::store::window::Tally;

/// Which threshold was reached, with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trip {
    /// `failure_rate`.
    FailureRate(Tally),
    /// `slow_rate`.
    SlowRate(Tally),
    /// `consecutive_failures`: this many in a row.
    ConsecutiveFailures(u32),
}

/// The longest that an open period can be: the maximum with full jitter.
pub(super) fn longest_open(breaker: &Breaker) -> Duration {
    breaker.open_max.saturating_add(Duration::from_nanos(breaker.open_jitter.of(nanos(breaker.open_max))))
}

/// The open period with jitter: `period + U[0, period * open_jitter)`. `random` is uniform over all `u64`.
pub(super) fn jittered(breaker: &Breaker, opens: u16, random: u64) -> Duration {
    let period = breaker.period(opens);
    period.saturating_add(Duration::from_nanos(scale(random, breaker.open_jitter.of(nanos(period)))))
}

/// Which threshold `tally` and `run` reach, if any. Rates decide nothing below `min_requests`.
pub fn tripped(breaker: &Breaker, tally: Tally, run: u32) -> Option<Trip> {
    if breaker.consecutive_failures.is_some_and(|limit| run >= u32::from(limit.get())) {
        return Some(Trip::ConsecutiveFailures(run));
    }
    if tally.total < breaker.min_requests.get() {
        return None;
    }
    rate_tripped(breaker, tally, tally.total)
}

/// Whether `tally` reaches `slow_rate`: a slow success opens the breaker by nothing else.
pub fn slow_tripped(breaker: &Breaker, tally: Tally) -> Option<Trip> {
    let rate = breaker.slow_rate;
    let reached = !rate.is_zero() && rate.reached(tally.slow.into(), tally.total.into());
    (reached && tally.total >= breaker.min_requests.get()).then_some(Trip::SlowRate(tally))
}

pub(super) fn rate_tripped(breaker: &Breaker, tally: Tally, total: u32) -> Option<Trip> {
    let reached = |rate: Percent, part: u32| !rate.is_zero() && rate.reached(part.into(), total.into());
    if reached(breaker.failure_rate, tally.failures) {
        Some(Trip::FailureRate(tally))
    } else if reached(breaker.slow_rate, tally.slow) {
        Some(Trip::SlowRate(tally))
    } else {
        None
    }
}

/// The threshold that half-open has reached, or cannot fail to reach with the probes still to come.
pub(super) fn half_open_tripped(breaker: &Breaker, half_open: &HalfOpen) -> Option<Trip> {
    let probes = u32::from(breaker.probes.get());
    // With fewer probes than the run asks for, all of them failing is as many as half-open can show.
    let run_limit = breaker.consecutive_failures.map(|limit| u32::from(limit.get()).min(probes));
    if run_limit.is_some_and(|limit| u32::from(half_open.run) >= limit) {
        return Some(Trip::ConsecutiveFailures(u32::from(half_open.run)));
    }
    rate_tripped(breaker, half_open.judged, probes)
}

/// The number of outcomes below which a success may complete `min_requests`; none where no rate is on.
pub fn low_volume(breaker: &Breaker) -> u32 {
    if breaker.failure_rate.is_zero() && breaker.slow_rate.is_zero() {
        return 0;
    }
    match breaker.window {
        Window::Time(_) => breaker.min_requests.get(),
        Window::Count(length) => breaker.min_requests.get().min(u32::from(length.get())),
    }
}
