//! Requests in flight for one key, over all workers: one cell, each worker's count in it a lease.
//!
//! A worker writes its own whole count at every change, so a write that was lost to contention is made good by the next one;
//! the count of a worker that stopped renewing its lease is left out.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer, are_different};
use crate::store::workers::{MOST, WorkerSlot};

/// How long a worker's count holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(10);

/// How old a count is renewed at.
pub const RENEW_AFTER: Duration = Duration::from_secs(2);

/// The cell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InFlight {
    /// By worker nonce, in no order; a worker without requests is not in it.
    pub counts: Vec<Count>,
}

/// One worker's requests in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The worker's nonce.
    pub worker: u64,
    /// How many.
    pub requests: u32,
    /// When it is void.
    pub expires: Timestamp,
}

impl InFlight {
    /// All workers' requests.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(count.requests)).sum()
    }

    /// Whether there is any whose lease lasts.
    pub fn is_any(&self, now: Timestamp) -> bool {
        self.counts.iter().any(|count| count.requests > 0 && count.expires.remaining(now, LEASE).is_some())
    }

    /// Writes that the worker at `place` now has `own` requests in flight.
    pub fn set(&mut self, slot: WorkerSlot, own: u32, now: Timestamp) {
        self.counts.retain(|count| count.worker != slot.nonce && count.expires.remaining(now, LEASE).is_some());
        if own > 0 && self.counts.len() < MOST {
            self.counts.push(Count { worker: slot.nonce, requests: own, expires: now.plus(LEASE) });
        }
    }

    /// Admits one more request of the worker at `place`, which has `own` in flight already, unless all together would
    /// then be more than `limit`.
    pub fn acquire(&mut self, slot: WorkerSlot, own: u32, limit: u32, now: Timestamp) -> bool {
        self.set(slot, own.saturating_add(1), now);
        let admitted = self.total() <= u64::from(limit);
        if !admitted {
            self.set(slot, own, now);
        }
        admitted
    }
}

impl Record for InFlight {
    const KIND: Kind = Kind::InFlight;

    /// Each worker counts once.
    fn invariants(&self) -> bool {
        self.counts.iter().all(|count| count.requests > 0)
            && are_different(self.counts.iter().map(|count| count.worker))
    }

    fn write(&self, out: &mut Writer) {
        out.u16(self.counts.len().min(MOST) as u16);
        for count in self.counts.iter().take(MOST) {
            out.u64(count.worker);
            out.u32(count.requests);
            out.time(count.expires);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let len = usize::from(input.u16()?);
        if len > MOST {
            return None;
        }
        let mut counts = Vec::with_capacity(len);
        for _ in 0..len {
            counts.push(Count { worker: input.u64()?, requests: input.u32()?, expires: input.time()? });
        }
        Some(InFlight { counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const ONE: WorkerSlot = WorkerSlot { number: 0, nonce: 1 };
    const TWO: WorkerSlot = WorkerSlot { number: 1, nonce: 2 };

    #[test]
    fn the_limit_is_over_all_workers() {
        let mut cell = InFlight::default();
        let now = Timestamp::from_secs(100);
        assert!(cell.acquire(ONE, 0, 2, now));
        assert!(cell.acquire(TWO, 0, 2, now));
        assert!(!cell.acquire(ONE, 1, 2, now), "two are in flight");
        cell.set(TWO, 0, now);
        assert!(cell.acquire(ONE, 1, 2, now));
        assert_eq!(cell.total(), 2);
    }

    #[test]
    fn a_crashed_workers_requests_do_not_count_for_ever() {
        let mut cell = InFlight::default();
        let start = Timestamp::from_secs(100);
        assert!(cell.acquire(ONE, 0, 1, start));
        assert!(!cell.acquire(TWO, 0, 1, start.plus(LEASE - Duration::from_nanos(1))));
        assert!(cell.acquire(TWO, 0, 1, start.plus(LEASE)));
    }
}
