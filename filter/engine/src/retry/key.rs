//! The retry budget of one key as one worker sees it.

use holdfast_policy::document::{Budget, Retry};

use super::budget;
use crate::base::recent::Recent;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::own_slot::OwnSlot;
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;

/// One key's budget.
#[derive(Debug)]
pub struct RetryKey {
    cell: Address,
    /// Whether it has a token left.
    has_token: Recent<bool>,
}

impl RetryKey {
    /// A budget that this worker knows nothing about yet.
    pub fn new(cell: Address) -> Self {
        RetryKey { cell, has_token: Recent::default() }
    }

    /// Whether the budget has a token left; looked up every 10 ms, and without requests that still wait to be written.
    pub fn has_token(&mut self, cx: &mut Cx<'_>, retry: &Retry, slot: &OwnSlot) -> bool {
        let now = cx.now;
        if let Some(has) = self.has_token.get(now, VIEW_LASTS_UNSIGNALLED) {
            return has;
        }
        let shape = slot.shape();
        let mut requests = slot.slot().deposits_tally(shape, now);
        slot.others(cx.store, cx.worker, now, |other| {
            requests = requests.saturating_add(other.deposits_tally(shape, now));
        });
        let has = budget::would_grant(&self.cell, cx.store, &retry.budget, requests, now).is_ok();
        self.has_token.set(now, has)
    }

    /// Charges the budget with retries that have been made.
    pub fn charge(&mut self, store: &mut dyn Store, budget: &Budget, retries: u32, now: Timestamp) {
        budget::change(&mut self.cell, store, |cell| cell.charge(retries, now, budget.window));
    }

    /// Gives the token back of a retry that was not made; it was withdrawn at `taken`.
    pub fn refund(&mut self, store: &mut dyn Store, budget: &Budget, taken: Timestamp, now: Timestamp) {
        budget::refund(&mut self.cell, store, budget, taken, now);
    }
}
