//! Requests in flight for one key, over all workers: one cell, each worker's count in it a lease.
//!
//! A worker writes its own whole count at every change, so a write that was lost to contention is made good by the next one;
//! the count of a worker that stopped renewing its lease is left out.
//!
//! Where the block follows others, what was in flight there when it was taken over counts until it has ended. Which request a
//! cell's number stands for is not known: those that were there first are taken to end first, and none counts that is not there
//! any more.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer, are_different};
use crate::store::workers::{MOST, WorkerSlot};

/// How long a worker's count holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(10);

/// How old a count is renewed at.
pub const RENEW_AFTER: Duration = Duration::from_secs(2);

/// The most blocks of which a cell knows what was in flight there; what is in flight in more of them is not counted.
pub const MOST_CARRIED: usize = 16;

/// The cell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InFlight {
    /// By worker nonce, in no order; a worker without requests is not in it.
    pub counts: Vec<Count>,
    /// How many requests there have been, over all workers and times.
    pub passed: Passed,
    /// What is in flight in the blocks that this one follows, in no order. One of which nothing is left stays, so that it is
    /// taken over once and not by each worker.
    pub carried: Vec<Carried>,
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

/// Counters of a cell, which begin anew after 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// Requests that have begun.
    pub begun: u32,
    /// Requests that have ended, or were given up as lost.
    pub ended: u32,
}

impl Passed {
    /// Whether this was seen before `other` was.
    fn is_before(self, other: Passed) -> bool {
        let changes = |passed: Passed| passed.begun.wrapping_add(passed.ended);
        changes(self).wrapping_sub(changes(other)) > u32::MAX / 2
    }
}

/// What is in flight in a block that this one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Names that block's cell.
    pub whose: u64,
    /// How many of its requests count; the number only falls.
    pub requests: u32,
    /// That cell's counters when it was looked at last.
    pub passed: Passed,
    /// When it is void, unless somebody who knows that cell looks at it.
    pub expires: Timestamp,
}

/// A look at the cell of a block that this one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Names the cell.
    pub whose: u64,
    /// What is in flight there.
    pub requests: u32,
    /// Its counters.
    pub passed: Passed,
}

impl InFlight {
    /// All workers' requests, and those in flight in the blocks before this one.
    pub fn total(&self) -> u64 {
        let own = self.counts.iter().map(|count| count.requests);
        own.chain(self.carried.iter().map(|carried| carried.requests)).map(u64::from).sum()
    }

    /// Whether there is any whose lease lasts.
    pub fn is_any(&self, now: Timestamp) -> bool {
        let is_left = |requests: u32, expires: Timestamp| requests > 0 && expires.remaining(now, LEASE).is_some();
        self.counts.iter().any(|count| is_left(count.requests, count.expires))
            || self.carried.iter().any(|carried| is_left(carried.requests, carried.expires))
    }

    /// What a block that follows this one sees of it. What this one has of others it has from where they are.
    pub fn source(&self, whose: u64, now: Timestamp) -> Source {
        let lasting = self.counts.iter().filter(|count| count.expires.remaining(now, LEASE).is_some());
        let requests = lasting.fold(0_u32, |all, count| all.saturating_add(count.requests));
        Source { whose, requests, passed: self.passed }
    }

    /// Whether requests of the block of this name still count.
    pub fn carries(&self, whose: u64) -> bool {
        self.carried.iter().any(|carried| carried.whose == whose && carried.requests > 0)
    }

    /// Counts what is in flight in the blocks that this one follows: of one that it has not met all that is there, of the
    /// others what is left of it. Whether anything changed.
    pub fn carry(&mut self, sources: &[Source], now: Timestamp) -> bool {
        let mut changed = false;
        for carried in &mut self.carried {
            let is_looked_at = sources.iter().any(|source| source.whose == carried.whose);
            if carried.requests > 0 && !is_looked_at && carried.expires.remaining(now, LEASE).is_none() {
                carried.requests = 0;
                changed = true;
            }
        }
        for source in sources {
            changed |= self.carry_one(source, now);
        }
        changed
    }

    fn carry_one(&mut self, source: &Source, now: Timestamp) -> bool {
        let expires = now.plus(LEASE);
        let Some(carried) = self.carried.iter_mut().find(|carried| carried.whose == source.whose) else {
            if self.carried.len() >= MOST_CARRIED {
                let over = self.carried.iter().enumerate().filter(|(_, carried)| carried.requests == 0);
                let Some(oldest) = over.min_by_key(|(_, carried)| carried.expires).map(|(at, _)| at) else {
                    return false;
                };
                self.carried.swap_remove(oldest);
            }
            let Source { whose, requests, passed } = *source;
            self.carried.push(Carried { whose, requests, passed, expires });
            return true;
        };
        // Another worker may have looked later and been faster here.
        if carried.requests == 0 || source.passed.is_before(carried.passed) {
            return false;
        }
        let ended = source.passed.ended.wrapping_sub(carried.passed.ended);
        let left = carried.requests.saturating_sub(ended).min(source.requests);
        *carried = Carried { requests: left, passed: source.passed, expires, ..*carried };
        true
    }

    /// Writes that the worker at `place` now has `own` requests in flight.
    pub fn set(&mut self, slot: WorkerSlot, own: u32, now: Timestamp) {
        let (mut before, mut lost) = (0, 0_u32);
        self.counts.retain(|count| {
            if count.worker == slot.nonce {
                before = count.requests;
                return false;
            }
            let lasts = count.expires.remaining(now, LEASE).is_some();
            lost = lost.saturating_add(if lasts { 0 } else { count.requests });
            lasts
        });
        let ended = before.saturating_sub(own).saturating_add(lost);
        self.passed.begun = self.passed.begun.wrapping_add(own.saturating_sub(before));
        self.passed.ended = self.passed.ended.wrapping_add(ended);
        if own > 0 && self.counts.len() < MOST {
            self.counts.push(Count { worker: slot.nonce, requests: own, expires: now.plus(LEASE) });
        }
    }

    /// Admits one more request of the worker at `place`, which has `own` in flight already, unless all together would
    /// then be more than `limit`.
    pub fn acquire(&mut self, slot: WorkerSlot, own: u32, limit: u32, now: Timestamp) -> bool {
        let lasts = |count: &&Count| count.worker != slot.nonce && count.expires.remaining(now, LEASE).is_some();
        let others: u64 = self.counts.iter().filter(lasts).map(|count| u64::from(count.requests)).sum();
        let carried: u64 = self.carried.iter().map(|carried| u64::from(carried.requests)).sum();
        let admitted = others.saturating_add(carried).saturating_add(own.into()) < u64::from(limit);
        self.set(slot, if admitted { own.saturating_add(1) } else { own }, now);
        admitted
    }
}

impl Record for InFlight {
    const KIND: Kind = Kind::InFlight;

    /// Each worker counts once, and so does each block.
    fn invariants(&self) -> bool {
        self.counts.iter().all(|count| count.requests > 0)
            && are_different(self.counts.iter().map(|count| count.worker))
            && are_different(self.carried.iter().map(|carried| carried.whose))
    }

    fn write(&self, out: &mut Writer) {
        out.u16(self.counts.len().min(MOST) as u16);
        for count in self.counts.iter().take(MOST) {
            out.u64(count.worker);
            out.u32(count.requests);
            out.time(count.expires);
        }
        self.passed.write(out);
        out.u8(self.carried.len().min(MOST_CARRIED) as u8);
        for carried in self.carried.iter().take(MOST_CARRIED) {
            out.u64(carried.whose);
            out.u32(carried.requests);
            carried.passed.write(out);
            out.time(carried.expires);
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
        let (passed, len) = (Passed::read(input)?, usize::from(input.u8()?));
        if len > MOST_CARRIED {
            return None;
        }
        let mut carried = Vec::with_capacity(len);
        for _ in 0..len {
            let (whose, requests) = (input.u64()?, input.u32()?);
            carried.push(Carried { whose, requests, passed: Passed::read(input)?, expires: input.time()? });
        }
        Some(InFlight { counts, passed, carried })
    }
}

impl Passed {
    fn write(self, out: &mut Writer) {
        out.u32(self.begun);
        out.u32(self.ended);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(Passed { begun: input.u32()?, ended: input.u32()? })
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
    /// A cell with so many requests of each of the two workers.
    fn with(one: u32, two: u32, now: Timestamp) -> InFlight {
        let mut cell = InFlight::default();
        cell.set(ONE, one, now);
        cell.set(TWO, two, now);
        cell
    }

    const OLD: u64 = 77;

    #[test]
    fn what_is_in_flight_in_the_block_before_counts_until_it_has_ended() {
        let now = Timestamp::from_secs(100);
        let mut old = with(2, 1, now);
        let mut cell = InFlight::default();
        assert!(cell.carry(&[old.source(OLD, now)], now));
        assert_eq!(cell.total(), 3);
        assert!(cell.acquire(ONE, 0, 4, now));
        assert!(!cell.acquire(TWO, 0, 4, now), "three and one");
        old.set(TWO, 0, now);
        assert!(cell.carry(&[old.source(OLD, now)], now));
        assert!(cell.acquire(TWO, 0, 4, now));
        old.set(ONE, 0, now);
        assert!(cell.carry(&[old.source(OLD, now)], now));
        assert!(!cell.carries(OLD), "nobody has to look there any more");
        assert_eq!(cell.total(), 2);
    }

    #[test]
    fn what_begins_in_the_block_before_after_that_does_not_count() {
        let now = Timestamp::from_secs(100);
        let mut old = with(2, 0, now);
        let mut cell = InFlight::default();
        cell.carry(&[old.source(OLD, now)], now);
        // Two that were there end and two others begin, one by one: there are always one or two.
        for own in [1, 2, 1, 2] {
            old.set(ONE, own, now);
            cell.carry(&[old.source(OLD, now)], now);
        }
        assert_eq!((old.total(), cell.total()), (2, 0), "a listener that goes on with the old policy takes no room");
        old.set(ONE, 5, now);
        assert!(!cell.carry(&[old.source(OLD, now)], now), "nor does it ever again");
    }

    #[test]
    fn a_look_that_is_older_than_the_last_one_changes_nothing() {
        let now = Timestamp::from_secs(100);
        let mut old = InFlight::default();
        let none = old.source(OLD, now);
        old.set(ONE, 3, now);
        let three = old.source(OLD, now);
        let mut cell = InFlight::default();
        cell.carry(&[three], now);
        assert!(!cell.carry(&[none], now), "it was looked at before there were three");
        assert_eq!(cell.total(), 3);
        old.set(ONE, 1, now);
        cell.carry(&[old.source(OLD, now)], now);
        assert!(!cell.carry(&[three], now));
        assert_eq!(cell.total(), 1);
    }

    #[test]
    fn the_requests_of_a_crashed_worker_do_not_count_for_ever_in_the_block_after_either() {
        let (start, mut cell) = (Timestamp::from_secs(100), InFlight::default());
        let old = with(1, 1, start);
        cell.carry(&[old.source(OLD, start)], start);
        let later = start.plus(LEASE);
        cell.carry(&[old.source(OLD, later)], later);
        assert_eq!(cell.total(), 0);
        let mut cell = InFlight::default();
        cell.carry(&[old.source(OLD, start)], start);
        assert!(!cell.carry(&[], start.plus(LEASE / 2)), "its time is not over");
        assert!(cell.carry(&[], later), "nobody who knows the block before has looked at it");
        assert_eq!(cell.total(), 0);
    }

    #[test]
    fn of_more_blocks_than_are_kept_those_are_forgotten_of_which_nothing_is_left() {
        let now = Timestamp::from_secs(100);
        let busy = |whose, requests| Source { whose, requests, passed: Passed::default() };
        let mut cell = InFlight::default();
        for whose in 0..1000 {
            cell.carry(&[busy(whose, u32::from(whose % 100 == 0))], now.plus(Duration::from_millis(whose)));
            assert!(cell.carried.len() <= MOST_CARRIED && cell.invariants());
        }
        assert_eq!(cell.total(), 10);
        for whose in 1000..1100 {
            cell.carry(&[busy(whose, 1)], now);
        }
        assert_eq!((cell.carried.len(), cell.total()), (MOST_CARRIED, 16), "more are not counted");
    }

    #[test]
    fn a_rejected_request_has_neither_begun_nor_ended() {
        let now = Timestamp::from_secs(100);
        let mut cell = with(1, 1, now);
        let passed = cell.passed;
        assert!(!cell.acquire(ONE, 1, 2, now));
        assert_eq!((cell.passed, cell.total()), (passed, 2));
    }

    #[test]
    fn every_record_comes_back_and_no_cut_one_is_read() {
        use crate::store::record::Mark;
        let (now, mark) = (Timestamp::from_secs(100), Mark { block: 7, key: 0 });
        let mut cell = with(3, 2, now);
        cell.carry(&[with(4, 0, now).source(OLD, now), with(0, 0, now).source(OLD + 1, now)], now);
        let bytes = cell.encode(mark);
        assert_eq!(InFlight::decode(&bytes, mark), Some(cell));
        for len in 0..bytes.len() {
            assert_eq!(InFlight::decode(&bytes[..len], mark), None, "cut at {len}");
        }
    }
}
