//! The requests in flight of one key as one worker counts them.

use holdfast_policy::document::Concurrency;

use super::in_flight::{InFlight, RENEW_AFTER};
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::store::Store;
use crate::store::address::Address;

/// One key's requests in flight.
#[derive(Debug)]
pub struct ConcurrencyKey {
    cell: Address,
    /// Those of this worker.
    in_flight: u32,
    written: Timestamp,
    /// Whether the store lacks the last change of `in_flight`.
    is_unwritten: bool,
}

impl ConcurrencyKey {
    /// A key of which this worker has no request in flight.
    pub fn new(cell: Address) -> Self {
        ConcurrencyKey { cell, in_flight: 0, written: Timestamp::ZERO, is_unwritten: false }
    }

    /// Whether the key has lost its place in the store.
    pub fn is_superseded(&self) -> bool {
        self.cell.is_superseded()
    }

    /// Whether the key must keep its place, as far as this worker knows.
    pub fn is_kept(&self) -> bool {
        self.in_flight > 0
    }

    /// Admits one more request: `Some(true)` if it is counted, `Some(false)` if it could not be counted, `None` if there are too many.
    pub fn acquire(&mut self, cx: &mut Cx<'_>, concurrency: &Concurrency) -> Option<bool> {
        let now = cx.now;
        // A worker that cannot count lets pass: worse than no limit would be no service.
        let Some(index) = cx.worker.slot(cx.store, now) else { return Some(false) };
        let (own, limit) = (self.in_flight, concurrency.max_requests.get());
        let updated = self.cell.update(cx.store, |old: Option<&InFlight>| {
            let mut cell = old.cloned().unwrap_or_default();
            let admitted = cell.acquire(index, own, limit, now);
            (admitted, admitted.then_some(cell))
        });
        match updated {
            Err(_) => {
                // It passes, for no service would be worse than no limit, but it counts from the next write on.
                self.in_flight = own.saturating_add(1);
                self.is_unwritten = true;
                Some(true)
            }
            Ok(updated) if updated.verdict => {
                self.in_flight = own.saturating_add(1);
                self.written = now;
                Some(true)
            }
            Ok(_) => None,
        }
    }

    /// Takes note that a request that was counted is over.
    pub fn release(&mut self, cx: &mut Cx<'_>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.write(cx);
    }

    /// Writes again what the store lacks, or what would expire there.
    pub fn renew(&mut self, cx: &mut Cx<'_>) {
        let age = cx.now.apart(self.written);
        if self.is_unwritten || self.in_flight > 0 && age >= RENEW_AFTER {
            self.write(cx);
        }
    }

    /// Writes this worker's number of requests in flight.
    fn write(&mut self, cx: &mut Cx<'_>) {
        let (own, now) = (self.in_flight, cx.now);
        let Some(index) = cx.worker.slot(cx.store, now) else { return };
        let updated = self.cell.update(cx.store, |old: Option<&InFlight>| {
            let mut cell = old.cloned().unwrap_or_default();
            cell.set(index, own, now);
            ((), Some(cell))
        });
        match updated {
            Ok(_) => {
                self.written = now;
                self.is_unwritten = false;
            }
            // The next change or tick writes the whole count again.
            Err(_) => self.is_unwritten = true,
        }
    }
}

/// Whether any worker has a request in flight of a key that this one may never have met.
pub fn is_kept(store: &mut dyn Store, cell: &Address, now: Timestamp) -> bool {
    cell.read::<InFlight>(store).is_some_and(|cell| cell.is_any(now))
}
