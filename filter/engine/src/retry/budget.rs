//! The retry budget: a token bucket over all workers.
//!
//! Each request deposits a part of a token, each retry withdraws a whole one, and a reserve lets a quiet service
//! retry too. Deposits are counted in the workers' slots and leave with the window. Withdrawals are counted in one cell that
//! is changed by compare-and-swap, and stay for at least as long as the window, so that in no window there are more
//! retries than its deposits and one reserve allow.
//!
//! A limit on retries *per request* multiplies the load of an outage by that limit; a share of all requests cannot.
//! Source: Finagle, `RetryBudget`; Google, "Site Reliability Engineering", chapter 22, "Retries".

use core::time::Duration;

use super::denial::Denial;
use crate::base::time::{Timestamp, nanos};
use crate::store::Store;
use crate::store::address::Address;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::window::{BUCKETS, Buckets};
use holdfast_policy::document::Budget;

/// What all workers have withdrawn, in the last 10 to 11 tenths of the window.
///
/// ```
/// use holdfast_engine::base::time::Timestamp;
/// use holdfast_engine::retry::budget::Withdrawn;
///
/// let document = br#"{"policies": [{"name": "orders", "retry": {"budget": {"ratio": 20, "min_per_second": 0}}}]}"#;
/// let retry = holdfast_policy::config::parse(document).unwrap().policies.remove(0).retry.unwrap();
/// let (mut withdrawn, now) = (Withdrawn::default(), Timestamp::from_secs(1_700_000_000));
/// // Of ten requests in the window two may be retried.
/// assert!(withdrawn.withdraw(&retry.budget, 10, now));
/// assert!(withdrawn.withdraw(&retry.budget, 10, now));
/// assert!(!withdrawn.withdraw(&retry.budget, 10, now));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Withdrawn(Buckets<u32, { BUCKETS + 1 }>);

/// How many retries `requests` in the window allow, in thousandths:
/// `requests * ratio / 100 + min_per_second * window`.
pub fn allowed(budget: &Budget, requests: u32) -> u64 {
    let share = budget.ratio.of(u64::from(requests).saturating_mul(1000));
    let reserve = u128::from(budget.min_per_second) * u128::from(nanos(budget.window)) / 1_000_000_000;
    share.saturating_add(u64::try_from(reserve).unwrap_or(u64::MAX))
}

impl Withdrawn {
    /// Whether `requests` in the window leave a token.
    pub fn has_left(&self, budget: &Budget, requests: u32, now: Timestamp) -> bool {
        let used = u64::from(self.0.tally(now, budget.window));
        used.saturating_add(1).saturating_mul(1000) <= allowed(budget, requests)
    }

    /// Withdraws a token if `requests` in the window leave one.
    pub fn withdraw(&mut self, budget: &Budget, requests: u32, now: Timestamp) -> bool {
        let has_left = self.has_left(budget, requests, now);
        if has_left {
            self.charge(1, now, budget.window);
        }
        has_left
    }

    /// Withdraws `tokens` whether or not they are left: for attempts that have been made.
    pub fn charge(&mut self, tokens: u32, now: Timestamp, window: Duration) {
        if let Some(bucket) = self.0.current(now, window) {
            *bucket = bucket.saturating_add(tokens);
        }
    }

    /// Puts a token back that was taken at `taken` and whose attempt was not made after all. One that has left with its time is
    /// back already.
    pub fn refund(&mut self, taken: Timestamp, now: Timestamp, window: Duration) {
        if let Some(bucket) = self.0.bucket_of(taken, now, window) {
            *bucket = bucket.saturating_sub(1);
        }
    }
}

/// Withdraws a token for a retry, where the budget counts so many requests.
///
/// # Errors
/// Why there is none.
pub fn withdraw(
    cell: &mut Address,
    store: &mut dyn Store,
    budget: &Budget,
    requests: u32,
    now: Timestamp,
) -> Result<(), Denial> {
    let withdrawn = cell.update(store, |old: Option<&Withdrawn>| {
        let mut cell = old.cloned().unwrap_or_default();
        let taken = cell.withdraw(budget, requests, now);
        (taken, taken.then_some(cell))
    });
    match withdrawn {
        Ok(done) if done.verdict => Ok(()),
        Ok(_) => Err(Denial::Budget),
        // Where the cell cannot be changed nothing is taken, so nothing is sent.
        Err(_) => Err(Denial::Contention),
    }
}

/// Whether a token would be there.
///
/// # Errors
/// The budget has none.
pub fn would_grant(
    cell: &Address,
    store: &mut dyn Store,
    budget: &Budget,
    requests: u32,
    now: Timestamp,
) -> Result<(), Denial> {
    let withdrawn = cell.read::<Withdrawn>(store).unwrap_or_default();
    if withdrawn.has_left(budget, requests, now) { Ok(()) } else { Err(Denial::Budget) }
}

/// Gives the token back of a retry that was not made; it was withdrawn at `taken`.
pub fn refund(cell: &mut Address, store: &mut dyn Store, budget: &Budget, taken: Timestamp, now: Timestamp) {
    change(cell, store, |cell| cell.refund(taken, now, budget.window));
}

/// Changes what has been withdrawn. A change that is lost to contention leaves it a token too high or too low until the window has
/// passed.
pub(super) fn change(cell: &mut Address, store: &mut dyn Store, change: impl Fn(&mut Withdrawn)) {
    let _ = cell.update(store, |old: Option<&Withdrawn>| {
        let mut cell = old.cloned().unwrap_or_default();
        change(&mut cell);
        ((), Some(cell))
    });
}

impl Record for Withdrawn {
    const KIND: Kind = Kind::Budget;

    fn write(&self, out: &mut Writer) {
        self.0.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Buckets::read(input).map(Withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_policy::percent::Percent;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn budget(ratio: u32, min_per_second: u32) -> Budget {
        Budget { ratio: Percent::whole(ratio), min_per_second, window: Duration::from_secs(10) }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + millis)
    }

    fn drain(withdrawn: &mut Withdrawn, budget: &Budget, requests: u32, now: Timestamp) -> u32 {
        (0..10_000).filter(|_| withdrawn.withdraw(budget, requests, now)).count() as u32
    }

    #[test]
    fn a_fifth_of_the_requests_and_the_reserve_may_be_retried() {
        let mut withdrawn = Withdrawn::default();
        assert_eq!(drain(&mut withdrawn, &budget(20, 1000), 400, at(0)), 90, "400 x 20 % + 1/s x 10 s");
        assert_eq!(drain(&mut withdrawn, &budget(20, 1000), 405, at(1)), 1, "five more requests are one more token");
    }

    #[test]
    fn a_quiet_service_has_its_reserve_and_without_one_none() {
        assert_eq!(drain(&mut Withdrawn::default(), &budget(20, 500), 0, at(0)), 5);
        assert_eq!(drain(&mut Withdrawn::default(), &budget(20, 0), 4, at(0)), 0);
        assert_eq!(drain(&mut Withdrawn::default(), &budget(20, 0), 5, at(0)), 1);
    }

    #[test]
    fn what_was_withdrawn_comes_back_after_the_window_and_not_before() {
        let (mut withdrawn, budget) = (Withdrawn::default(), budget(0, 1000));
        assert_eq!(drain(&mut withdrawn, &budget, 0, at(0)), 10);
        assert_eq!(drain(&mut withdrawn, &budget, 0, at(10_999)), 0, "its bucket is the eleventh");
        assert_eq!(drain(&mut withdrawn, &budget, 0, at(11_000)), 10, "its bucket has left");
    }

    #[test]
    fn in_no_window_is_more_withdrawn_than_one_reserve() {
        let (mut withdrawn, budget) = (Withdrawn::default(), budget(0, 1000));
        let times: Vec<u64> =
            (0..100_000).step_by(7).filter(|millis| withdrawn.withdraw(&budget, 0, at(*millis))).collect();
        for (first, start) in times.iter().enumerate() {
            let inside = times.iter().skip(first).take_while(|time| **time < start + 10_000).count();
            assert!(inside <= 10, "{inside} in the 10 s from {start} ms");
        }
        assert!(times.len() >= 90, "and the reserve is used: {}", times.len());
    }

    #[test]
    fn a_refund_is_worth_a_token_and_a_charge_costs_one_even_if_none_is_left() {
        let (mut withdrawn, budget) = (Withdrawn::default(), budget(0, 1000));
        withdrawn.charge(12, at(0), budget.window);
        assert!(!withdrawn.has_left(&budget, 0, at(1)));
        for _ in 0..3 {
            withdrawn.refund(at(0), at(2), budget.window);
        }
        assert_eq!(drain(&mut withdrawn, &budget, 0, at(3)), 1);
        let (mut late, long_after) = (Withdrawn::default(), at(5_000));
        assert_eq!(drain(&mut late, &budget, 0, at(0)), 10);
        late.refund(at(0), long_after, budget.window);
        assert_eq!(drain(&mut late, &budget, 0, long_after), 1, "however long its try has waited");
        late.refund(at(0), at(11_000), budget.window);
        assert_eq!(drain(&mut late, &budget, 0, at(11_000)), 9, "one that has left with its time is back already");
        let mut fresh = Withdrawn::default();
        fresh.refund(at(0), at(0), budget.window);
        assert_eq!(drain(&mut fresh, &budget, 0, at(0)), 10, "nothing is put back that was not taken");
    }
}
