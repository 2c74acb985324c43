//! The retry budget of one key as one worker sees it.

use core::time::Duration;

use holdfast_policy::document::{Budget, Retry};

use super::budget;
use super::slot::DepositSlot;
use crate::base::recent::Recent;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::own_slot::{OwnSlot, SLOTS_WAIT};
use crate::store::slot::Slots;
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;

/// One key's budget.
#[derive(Debug)]
pub struct RetryKey {
    cell: Address,
    slot: OwnSlot<DepositSlot>,
    /// When the first request was sent that the store lacks.
    deposited: Option<Timestamp>,
    /// Whether it has a token left.
    has_token: Recent<bool>,
}

impl RetryKey {
    /// A budget that this worker knows nothing about yet.
    #[must_use]
    pub fn new(cell: Address, slots: Slots<DepositSlot>) -> Self {
        RetryKey { cell, slot: OwnSlot::new(slots), deposited: None, has_token: Recent::default() }
    }

    /// Whether the budget has a token left; looked up every 10 ms, and without requests that still wait to be written.
    pub fn has_token(&mut self, cx: &mut Cx<'_>, retry: &Retry) -> bool {
        let (now, slot) = (cx.now, &self.slot);
        if let Some(has) = self.has_token.get(now, VIEW_LASTS_UNSIGNALLED) {
            return has;
        }
        let mut requests = slot.slot().tally(slot.shape(), now);
        slot.others(cx.store, cx.worker, now, |other| {
            requests = requests.saturating_add(other.tally(slot.shape(), now));
        });
        let has = budget::would_grant(&self.cell, cx.store, &retry.budget, requests, now).is_ok();
        self.has_token.set(now, has)
    }

    /// Counts a request that is sent. It waits to be written: the attempt seat reads it when the attempt has failed. Whether the slot
    /// waits from now on.
    pub fn deposit(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.slot.hold(cx.store, cx.worker, cx.now) {
            return false;
        }
        let (slot, window) = self.slot.counting();
        slot.deposit(window, cx.now);
        self.deposited.get_or_insert(cx.now);
        self.slot.wait()
    }

    /// Whether something waits here that will be written in a moment.
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> bool {
        // A moment in the future is from before the clock was put back.
        self.deposited.is_some_and(|then| then <= now && now.since(then) < SLOTS_WAIT)
    }

    /// Writes what has waited.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        self.deposited = None;
        self.slot.flush(cx.store, cx.worker, cx.now);
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

/// How many requests all workers together have sent of a key that this one may never have met.
pub fn requests(cx: &mut Cx<'_>, slots: &Slots<DepositSlot>) -> u32 {
    let now = cx.now;
    slots.total(cx.store, cx.worker, now, |slot, window: &Duration| slot.tally(window, now))
}
