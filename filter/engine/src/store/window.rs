//! Windows over outcomes. One worker writes its own; a rate is taken over the windows of all workers together.
//!
//! A time window has 10 buckets that are aligned to the clock, not to the first request, so that the buckets of two
//! workers mean the same span and can simply be added. A count window and a run keep the time of each outcome instead,
//! so that the order over all workers is known without a common counter.
//!
//! The clock may jump. A step back of less than a window goes on counting in the newest bucket; after a larger one
//! the window starts afresh.

use core::time::Duration;

use crate::base::time::{SKEW, Timestamp, nanos};
use crate::http::outcome::Outcome;
use crate::store::record::{Reader, Writer};

/// Buckets of a time window.
pub const BUCKETS: usize = 10;

/// Counts of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Successes and failures.
    pub total: u32,
    /// Failures.
    pub failures: u32,
    /// Slow ones, successes and failures.
    pub slow: u32,
}

impl Tally {
    /// Adds one outcome; an ignored one adds nothing unless it is slow.
    pub fn add(&mut self, outcome: &Outcome) {
        if outcome.is_recorded() {
            self.add_tally(Tally { total: 1, failures: outcome.failed().into(), slow: outcome.slow.into() });
        }
    }

    /// Adds another tally.
    pub fn add_tally(&mut self, other: Tally) {
        self.total = self.total.saturating_add(other.total);
        self.failures = self.failures.saturating_add(other.failures);
        self.slow = self.slow.saturating_add(other.slow);
    }
}

/// What lies in one bucket.
pub trait Bucket: Copy + Default {
    /// Adds what lies in another.
    fn merge(&mut self, other: Self);
    /// Appends it to a record.
    fn write(&self, out: &mut Writer);
    /// Reads it; `None` when it cannot be right.
    fn read(input: &mut Reader<'_>) -> Option<Self>;
}

impl Bucket for Tally {
    fn merge(&mut self, other: Self) {
        self.add_tally(other);
    }
    fn write(&self, out: &mut Writer) {
        out.u32(self.total);
        out.u32(self.failures);
        out.u32(self.slow);
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let tally = Tally { total: input.u32()?, failures: input.u32()?, slow: input.u32()? };
        (tally.failures <= tally.total && tally.slow <= tally.total).then_some(tally)
    }
}

impl Bucket for u32 {
    fn merge(&mut self, other: Self) {
        *self = self.saturating_add(other);
    }
    fn write(&self, out: &mut Writer) {
        out.u32(*self);
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        input.u32()
    }
}

/// Something counted over the last `N` tenths of a window's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets<T, const N: usize> {
    /// Number of the newest bucket since the epoch.
    newest: u64,
    /// Bucket number `n` stands at `n % N`; all are among the `N` newest.
    buckets: [T; N],
}

/// The outcomes of the last so much time, in [`BUCKETS`] buckets.
pub type TimeWindow = Buckets<Tally, BUCKETS>;

/// Requests of one worker by time, for the retry budget. Spans 9 to 10 tenths of the window.
pub type Deposits = Buckets<u32, BUCKETS>;

/// The number of the bucket that `now` falls in, for a window of `length`.
pub(crate) fn bucket_number(now: Timestamp, length: Duration) -> u64 {
    now.0.checked_div(nanos(length) / BUCKETS as u64).unwrap_or(0)
}

impl<T: Bucket, const N: usize> Default for Buckets<T, N> {
    fn default() -> Self {
        Buckets { newest: 0, buckets: [T::default(); N] }
    }
}

impl<T: Bucket, const N: usize> Buckets<T, N> {
    /// Bytes of its record, where a bucket takes `each`.
    pub(crate) const fn size(each: usize) -> usize {
        8 + N * each
    }

    fn index(number: u64) -> usize {
        (number % N as u64) as usize
    }

    /// Moves the window on to `now`.
    fn advance(&mut self, now: Timestamp, length: Duration) {
        let current = bucket_number(now, length);
        if current > self.newest {
            let passed = (current - self.newest).min(N as u64);
            for number in current - passed + 1..=current {
                if let Some(bucket) = self.buckets.get_mut(Self::index(number)) {
                    *bucket = T::default();
                }
            }
            self.newest = current;
        } else if self.newest - current > N as u64 {
            *self = Buckets { newest: current, ..Buckets::default() };
        }
    }

    /// The bucket that counts at `now`.
    pub fn current(&mut self, now: Timestamp, length: Duration) -> Option<&mut T> {
        self.advance(now, length);
        self.buckets.get_mut(Self::index(self.newest))
    }

    /// The bucket that counted at `then`, if it has not left.
    pub fn bucket_of(&mut self, then: Timestamp, now: Timestamp, length: Duration) -> Option<&mut T> {
        self.advance(now, length);
        // After a small step back of the clock what came then lies in the newest.
        let number = bucket_number(then, length).min(self.newest);
        let is_there = self.newest - number < N as u64;
        if is_there { self.buckets.get_mut(Self::index(number)) } else { None }
    }

    /// What lies in the window at `now`.
    pub fn tally(&self, now: Timestamp, length: Duration) -> T {
        let current = bucket_number(now, length);
        let mut sum = T::default();
        if self.newest > current.saturating_add(N as u64) {
            return sum;
        }
        let current = current.max(self.newest);
        let gone = current - self.newest;
        // Of the buckets ending at `newest`, the oldest `gone` have left the window that ends at `current`.
        for age in 0..(N as u64).saturating_sub(gone) {
            let Some(number) = self.newest.checked_sub(age) else { break };
            if let Some(bucket) = self.buckets.get(Self::index(number)) {
                sum.merge(*bucket);
            }
        }
        sum
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.newest);
        for bucket in &self.buckets {
            bucket.write(out);
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Option<Self> {
        let mut window = Buckets { newest: input.u64()?, ..Buckets::default() };
        for bucket in &mut window.buckets {
            *bucket = T::read(input)?;
        }
        Some(window)
    }
}

impl TimeWindow {
    /// Records an outcome.
    pub fn record(&mut self, outcome: &Outcome, now: Timestamp, length: Duration) {
        if let Some(bucket) = self.current(now, length) {
            bucket.add(outcome);
        }
    }
}

/// One outcome with its time: nanoseconds since the epoch with the lowest two bits given to the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamped(u64);

impl Stamped {
    fn new(outcome: &Outcome, now: Timestamp) -> Self {
        Stamped(now.0 & !3 | u64::from(outcome.failed()) | u64::from(outcome.slow) << 1)
    }
    fn time(self) -> u64 {
        self.0 & !3
    }
    fn tally(self) -> Tally {
        Tally { total: 1, failures: (self.0 & 1) as u32, slow: (self.0 >> 1 & 1) as u32 }
    }
}

/// One worker's share of the last so many outcomes, oldest first, at most as many as the whole window holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CountWindow {
    outcomes: std::collections::VecDeque<Stamped>,
}

impl CountWindow {
    /// Records an outcome; `length` is the whole window's.
    pub fn record(&mut self, outcome: &Outcome, now: Timestamp, length: u16) {
        if !outcome.is_recorded() {
            return;
        }
        // After the clock went back, what is newer than now would otherwise stay the newest for ever.
        while self.outcomes.back().is_some_and(|last| last.time() > now.plus(SKEW).0) {
            self.outcomes.pop_back();
        }
        while self.outcomes.len() >= usize::from(length) {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(Stamped::new(outcome, now));
    }

    /// How many outcomes of this share are no older than this.
    pub fn since(&self, now: Timestamp, age: Duration) -> u32 {
        let is_young = |one: &&Stamped| now.apart(Timestamp(one.time())) <= age;
        u32::try_from(self.outcomes.iter().filter(is_young).count()).unwrap_or(u32::MAX)
    }

    /// How many outcomes this share holds.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether this share holds none.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// The tally of the newest `length` outcomes over all shares; outcomes later than `now` by more than [`SKEW`] are left
    /// out.
    pub fn tally<'a>(shares: impl Iterator<Item = &'a CountWindow>, now: Timestamp, length: u16) -> Tally {
        let latest = now.plus(SKEW).0;
        // Each share with how many of its outcomes are left to look at, from the newest on.
        let mut left: Vec<_> = shares
            .map(|CountWindow { outcomes }| {
                let later = outcomes.iter().rev().take_while(|one| one.time() > latest).count();
                (outcomes, outcomes.len() - later)
            })
            .collect();
        let mut sum = Tally::default();
        for _ in 0..length {
            let mut newest: Option<(Stamped, &mut usize)> = None;
            for (outcomes, left) in &mut left {
                if let Some(one) = left.checked_sub(1).and_then(|last| outcomes.get(last))
                    && newest.as_ref().is_none_or(|(newest, _)| one.time() >= newest.time())
                {
                    newest = Some((*one, left));
                }
            }
            let Some((one, left)) = newest else { break };
            sum.add_tally(one.tally());
            *left -= 1;
        }
        sum
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u16(self.outcomes.len().min(usize::from(u16::MAX)) as u16);
        for one in &self.outcomes {
            out.u64(one.0);
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>, length: u16) -> Option<Self> {
        let len = input.u16()?;
        if len > length {
            return None;
        }
        let mut outcomes = std::collections::VecDeque::with_capacity(usize::from(len));
        for _ in 0..len {
            outcomes.push_back(Stamped(input.u64()?));
        }
        Some(CountWindow { outcomes })
    }
}

/// One worker's part in a run of failures: when it last saw a success, and its failures since, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailureRun {
    last_success: Timestamp,
    failures: std::collections::VecDeque<Timestamp>,
}

impl FailureRun {
    /// Records an outcome; only the newest `limit` failures are kept.
    pub fn record(&mut self, outcome: &Outcome, now: Timestamp, limit: u16) {
        if outcome.failed() {
            while self.failures.len() >= usize::from(limit) {
                self.failures.pop_front();
            }
            self.failures.push_back(now);
        } else if outcome.counts() {
            self.last_success = now;
            self.failures.clear();
        }
    }

    /// How many failures over all parts came after the last success of any. Stamps later than `now` by more
    /// than [`SKEW`] are left out.
    pub fn length<'a>(parts: impl Iterator<Item = &'a FailureRun> + Clone, now: Timestamp) -> u32 {
        let now = now.plus(SKEW);
        let last_success =
            parts.clone().map(|part| part.last_success).filter(|time| *time <= now).max().unwrap_or_default();
        let mut count = 0_u32;
        for part in parts {
            // A part's own failures came after its own last success, also within one tick of the clock.
            let own = part.last_success == last_success;
            let counted = part.failures.iter().filter(|time| **time <= now && (own || **time > last_success)).count();
            count = count.saturating_add(u32::try_from(counted).unwrap_or(u32::MAX));
        }
        count
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.time(self.last_success);
        out.u16(self.failures.len().min(usize::from(u16::MAX)) as u16);
        for time in &self.failures {
            out.time(*time);
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>, limit: u16) -> Option<Self> {
        let last_success = input.time()?;
        let len = input.u16()?;
        if len > limit {
            return None;
        }
        let mut failures = std::collections::VecDeque::with_capacity(usize::from(len));
        for _ in 0..len {
            failures.push_back(input.time()?);
        }
        Some(FailureRun { last_success, failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::outcome::Verdict;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const TEN_SECONDS: Duration = Duration::from_secs(10);
    const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };
    const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + millis)
    }

    fn total(window: &TimeWindow, now: Timestamp) -> u32 {
        window.tally(now, TEN_SECONDS).total
    }

    #[test]
    fn an_outcome_is_in_the_window_for_nine_to_ten_seconds() {
        let mut window = TimeWindow::default();
        window.record(&FAILURE, at(500), TEN_SECONDS);
        assert_eq!(total(&window, at(500)), 1);
        assert_eq!(total(&window, at(9_999)), 1, "its bucket is the tenth");
        assert_eq!(total(&window, at(10_000)), 0, "its bucket has left");
    }

    #[test]
    fn buckets_are_reused_without_leaking_old_counts() {
        let mut window = TimeWindow::default();
        for second in 0..100 {
            window.record(&SUCCESS, at(second * 1000), TEN_SECONDS);
        }
        assert_eq!(total(&window, at(99_000)), 10);
        window.record(&SUCCESS, at(1_000_000), TEN_SECONDS);
        assert_eq!(total(&window, at(1_000_000)), 1, "after a long silence only the new one");
    }

    #[test]
    fn a_small_step_back_keeps_counting_and_a_large_one_starts_afresh() {
        let mut window = TimeWindow::default();
        window.record(&SUCCESS, at(5_000), TEN_SECONDS);
        window.record(&SUCCESS, at(4_990), TEN_SECONDS);
        assert_eq!(total(&window, at(4_990)), 2);
        window.record(&SUCCESS, Timestamp::from_secs(1000), TEN_SECONDS);
        assert_eq!(total(&window, Timestamp::from_secs(1000)), 1);
    }

    #[test]
    fn a_window_of_a_clock_that_was_ahead_counts_for_nothing() {
        let mut window = TimeWindow::default();
        window.record(&FAILURE, at(3_600_000), TEN_SECONDS);
        assert_eq!(total(&window, at(0)), 0);
    }

    #[test]
    fn the_last_outcomes_over_two_workers_are_the_newest_by_time() {
        let (mut one, mut two) = (CountWindow::default(), CountWindow::default());
        for n in 0..4 {
            one.record(&FAILURE, at(n * 10), 4);
            two.record(&SUCCESS, at(n * 10 + 5), 4);
        }
        let tally = CountWindow::tally([&one, &two].into_iter(), at(100), 4);
        assert_eq!((tally.total, tally.failures), (4, 2));
        let before = Timestamp(at(15).0 - SKEW.as_nanos() as u64);
        let tally = CountWindow::tally([&one, &two].into_iter(), before, 4);
        assert_eq!((tally.total, tally.failures), (4, 2), "what is later than now by more than the skew is left out");
        let tally = CountWindow::tally([&one, &two].into_iter(), at(100), 3);
        assert_eq!((tally.total, tally.failures), (3, 1), "the newest three are success, failure, success");
    }

    #[test]
    fn a_success_on_any_worker_ends_the_run() {
        let (mut one, mut two) = (FailureRun::default(), FailureRun::default());
        let length = |one: &FailureRun, two: &FailureRun| FailureRun::length([one, two].into_iter(), at(1000));
        one.record(&FAILURE, at(10), 5);
        two.record(&FAILURE, at(20), 5);
        one.record(&FAILURE, at(30), 5);
        assert_eq!(length(&one, &two), 3);
        two.record(&SUCCESS, at(25), 5);
        assert_eq!(length(&one, &two), 1, "only the failure at 30 came later");
        one.record(&SUCCESS, at(40), 5);
        two.record(&FAILURE, at(41), 5);
        assert_eq!(length(&one, &two), 1);
    }

    #[test]
    fn within_one_tick_a_worker_knows_its_own_order() {
        let mut one = FailureRun::default();
        one.record(&SUCCESS, at(10), 5);
        one.record(&FAILURE, at(10), 5);
        assert_eq!(FailureRun::length([&one].into_iter(), at(10)), 1);
    }
}
