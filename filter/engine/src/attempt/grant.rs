//! Whether a retry is granted: the breaker must let it pass, and the budget must have a token.

use std::sync::Arc;

use holdfast_policy::document::Retry;

use super::policy::{AttemptKey, AttemptPolicy};
use crate::base::time::Timestamp;
use crate::breaker::key::lets_retry;
use crate::cx::Cx;
use crate::retry::{self, Denial, budget};
use crate::store::Store;
use crate::store::directory::Occupant;
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;

impl AttemptPolicy {
    /// The requests that the budget counts now, unless the breaker denies a retry anyway.
    fn requests_while_closed(&mut self, cx: &mut Cx<'_>, key: Occupant) -> Result<u32, Denial> {
        if self.is_breaker_closed(cx.store, key) { Ok(self.requests(cx, key)) } else { Err(Denial::Breaker) }
    }

    /// Grants a retry and withdraws its token.
    pub(super) fn grant(&mut self, cx: &mut Cx<'_>, retry: &Retry, key: Occupant) -> Result<(), Denial> {
        let requests = self.requests_while_closed(cx, key)?;
        let cell = self.key(key).budget.as_mut().ok_or(Denial::Budget)?;
        budget::withdraw(cell, cx.store, &retry.budget, requests, cx.now)
    }

    /// Whether a retry would be granted now.
    pub(super) fn would_grant(&mut self, cx: &mut Cx<'_>, retry: &Retry, key: Occupant) -> Result<(), Denial> {
        let requests = self.requests_while_closed(cx, key)?;
        let cell = self.key(key).budget.as_ref().ok_or(Denial::Budget)?;
        budget::would_grant(cell, cx.store, &retry.budget, requests, cx.now)
    }

    /// Gives the token back of an attempt that was not sent.
    pub(super) fn refund(&mut self, store: &mut dyn Store, key: Occupant, taken: Timestamp, now: Timestamp) {
        let policy = Arc::clone(&self.policy);
        if let (Some(retry), Some(cell)) = (&policy.retry, &mut self.key(key).budget) {
            budget::refund(cell, store, &retry.budget, taken, now);
        }
    }

    /// Requests in the budget's window over all workers, looked up every 10 ms, and without those that still wait to be written.
    fn requests(&mut self, cx: &mut Cx<'_>, key: Occupant) -> u32 {
        let now = cx.now;
        let AttemptKey { slots, requests, .. } = self.key(key);
        requests
            .get(now, VIEW_LASTS_UNSIGNALLED)
            .unwrap_or_else(|| requests.set(now, slots.as_ref().map_or(0, |slots| retry::key::requests(cx, slots))))
    }

    /// Whether the breaker lets attempts pass that are no probes: it is closed or ramping, or there is none that acts.
    pub(super) fn is_breaker_closed(&mut self, store: &mut dyn Store, key: Occupant) -> bool {
        let policy = Arc::clone(&self.policy);
        self.key(key).breaker.as_ref().is_none_or(|cell| lets_retry(store, policy.breaker.as_ref(), cell))
    }
}
