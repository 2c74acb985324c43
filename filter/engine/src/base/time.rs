//! Points in time, as the host's wall clock gives them.

use core::time::Duration;

/// How far apart the moments may be at which two workers look at the clock and then write: a worker reads the time
/// before it gets to its write, and another may have written with a later time by then. Stamps that far in the future are
/// taken at their word; only later ones show that the clock was put back.
pub const SKEW: Duration = Duration::from_secs(10);

/// Nanoseconds since the Unix epoch. All arithmetic saturates: the clock is a wall clock and may jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The epoch itself.
    pub const ZERO: Timestamp = Timestamp(0);

    /// `seconds` after the epoch.
    pub const fn from_secs(seconds: u64) -> Self {
        Timestamp(seconds.saturating_mul(1_000_000_000))
    }

    /// Whole seconds after the epoch, until 2106.
    pub fn seconds(self) -> u32 {
        u32::try_from(self.0 / 1_000_000_000).unwrap_or(u32::MAX)
    }

    /// `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis.saturating_mul(1_000_000))
    }

    /// This point plus `duration`.
    pub fn plus(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(nanos(duration)))
    }

    /// Time from `earlier` to this point; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time between the two, whichever is later.
    pub fn apart(self, other: Timestamp) -> Duration {
        Duration::from_nanos(self.0.abs_diff(other.0))
    }

    /// Time left until this point if it is in the future and was set at most `at_most` ahead. A point further away than it
    /// can have been set, by more than [`SKEW`], counts as passed: the clock was put back, or the bytes are foreign.
    pub fn remaining(self, now: Timestamp, at_most: Duration) -> Option<Duration> {
        let left = self.since(now);
        (!left.is_zero() && left <= at_most.saturating_add(SKEW)).then_some(left)
    }

    /// Time left until this point, which this same worker has set at most `at_most` ahead. A point further away counts as passed: the
    /// clock was put back.
    pub fn left(self, now: Timestamp, at_most: Duration) -> Option<Duration> {
        let left = self.since(now);
        (!left.is_zero() && left <= at_most).then_some(left)
    }
}

/// A duration in whole milliseconds, saturating at `u64::MAX`. (Those of 128 bits that a [`Duration`] gives take code of their own
/// to be written.)
pub fn millis(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis().into())
}

/// A duration in whole milliseconds, rounded up: a tick that comes early finds nothing to do.
pub fn millis_up(duration: Duration) -> u64 {
    millis(duration).saturating_add((!duration.subsec_nanos().is_multiple_of(1_000_000)).into())
}

/// A duration in nanoseconds, saturating at `u64::MAX` (584 years).
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_deadline_further_away_than_it_can_be_counts_as_passed() {
        let now = Timestamp::from_secs(1000);
        let limit = Duration::from_secs(30);
        assert_eq!(Timestamp::from_secs(1010).remaining(now, limit), Some(Duration::from_secs(10)));
        assert_eq!(Timestamp::from_secs(1000).remaining(now, limit), None);
        assert_eq!(Timestamp::from_secs(4600).remaining(now, limit), None, "the clock was put back an hour");
    }

    #[test]
    fn a_deadline_of_ones_own_needs_no_allowance() {
        let (now, limit) = (Timestamp::from_secs(1000), Duration::from_millis(100));
        assert_eq!(now.plus(limit).left(now, limit), Some(limit));
        assert_eq!(now.left(now, limit), None);
        let back = Timestamp::from_secs(999);
        assert_eq!(now.plus(limit).left(back, limit), None, "the clock was put back a second");
    }

    #[test]
    fn a_deadline_that_a_faster_worker_has_just_set_holds() {
        let (earlier, later) = (Timestamp::from_millis(999_999), Timestamp::from_millis(1_000_000));
        let limit = Duration::from_secs(30);
        assert!(later.plus(limit).remaining(earlier, limit).is_some());
    }
}
