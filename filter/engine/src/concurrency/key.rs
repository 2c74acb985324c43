//! The requests in flight of one key as one worker counts them.

use holdfast_policy::document::Concurrency;

use super::in_flight::{InFlight, RENEW_AFTER, Source};
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::store::Store;
use crate::store::address::Address;

/// One key's requests in flight.
#[derive(Debug)]
pub struct ConcurrencyKey {
    cell: Address,
    /// The cells of the blocks that this one follows, by their names, as long as something is in flight there that counts here.
    before: Vec<(u64, Address)>,
    /// Those of this worker.
    in_flight: u32,
    written: Timestamp,
    /// Whether the store lacks the last change of `in_flight`.
    is_unwritten: bool,
}

impl ConcurrencyKey {
    /// A key of which this worker has no request in flight. `before` are the cells of the blocks that its block follows.
    pub fn new(cell: Address, before: Vec<Address>) -> Self {
        let before = before.into_iter().map(|address| (address.id(), address)).collect();
        ConcurrencyKey { cell, before, in_flight: 0, written: Timestamp::ZERO, is_unwritten: false }
    }

    /// Whether the key has lost its place in the store.
    pub fn is_superseded(&self) -> bool {
        self.cell.is_superseded()
    }

    /// Whether the key must keep its place, as far as this worker knows.
    pub fn is_kept(&self) -> bool {
        self.in_flight > 0
    }

    /// Admits one more request: `Some(true)` if it is counted, `Some(false)` if it could not be counted, `None` if there are
    /// too many.
    pub fn acquire(&mut self, cx: &mut Cx<'_>, concurrency: &Concurrency) -> Option<bool> {
        let now = cx.now;
        // A worker that cannot count lets pass: worse than no limit would be no service.
        let Some(index) = cx.worker.slot(cx.store, now) else { return Some(false) };
        let (own, limit) = (self.in_flight, concurrency.max_requests.get());
        let sources = self.look_before(cx.store, now);
        let updated = self.cell.update(cx.store, |old: Option<&InFlight>| {
            let mut cell = old.cloned().unwrap_or_default();
            let carries = cell.carry(&sources, now);
            let admitted = cell.acquire(index, own, limit, now);
            (admitted, (admitted || carries).then_some(cell))
        });
        if let Some(cell) = updated.as_ref().ok().and_then(|updated| updated.record.as_ref()) {
            self.before.retain(|(whose, _)| cell.carries(*whose));
        }
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

    /// Looks at what is in flight in the blocks before; costs nothing once nothing of it counts any more.
    fn look_before(&self, store: &mut dyn Store, now: Timestamp) -> Vec<Source> {
        let look =
            |(whose, address): &(u64, Address)| address.read::<InFlight>(store).unwrap_or_default().source(*whose, now);
        self.before.iter().map(look).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::record::Mark;
    use crate::store::worker::Worker;
    use core::num::NonZeroU32;
    use core::time::Duration;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn t(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    fn address(block: u32) -> Address {
        Address::new(format!("holdfast/{block}/in_flight"), Mark { block, key: 0 })
    }

    /// One worker with one block.
    struct Vm {
        worker: Worker,
        store: MemoryStore,
        rules: Concurrency,
        key: ConcurrencyKey,
    }

    impl Vm {
        fn new(store: &MemoryStore, seed: u64, limit: u32, block: u32, before: &[u32]) -> Self {
            let text = format!(r#"{{"policies":[{{"name":"p","concurrency":{{"max_requests":{limit}}}}}]}}"#);
            let rules = config::parse(text.as_bytes()).unwrap().policies.remove(0).concurrency.unwrap();
            assert_eq!(Some(rules.max_requests), NonZeroU32::new(limit));
            let key = ConcurrencyKey::new(address(block), before.iter().copied().map(address).collect());
            Vm { worker: Worker::new(seed), store: store.clone(), rules, key }
        }

        fn cx<V>(
            &mut self,
            now: Timestamp,
            act: impl FnOnce(&mut ConcurrencyKey, &mut Cx<'_>, &Concurrency) -> V,
        ) -> V {
            let Vm { worker, store, rules, key } = self;
            act(key, &mut Cx::new(store, worker, now, &mut Vec::new()), rules)
        }

        fn acquires(&mut self, now: Timestamp) -> bool {
            self.cx(now, |key, cx, rules| key.acquire(cx, rules)) == Some(true)
        }

        fn releases(&mut self, now: Timestamp) {
            self.cx(now, |key, cx, _| key.release(cx));
        }
    }

    fn total(store: &MemoryStore, block: u32) -> u64 {
        address(block).read::<InFlight>(&mut store.clone()).map_or(0, |cell| cell.total())
    }

    /// Three requests are in flight under the first block, on two workers.
    fn busy() -> (MemoryStore, [Vm; 2]) {
        let store = MemoryStore::default();
        let mut old = [1, 2].map(|seed| Vm::new(&store, seed, 9, 1, &[]));
        assert!(old[0].acquires(t(0)) && old[0].acquires(t(0)) && old[1].acquires(t(0)));
        (store, old)
    }

    #[test]
    fn what_is_in_flight_counts_under_a_changed_limit_on_every_worker_until_it_ends() {
        let (store, mut old) = busy();
        let mut new = [3, 4].map(|seed| Vm::new(&store, seed, 4, 2, &[1]));
        assert!(new[0].acquires(t(1)));
        assert!(!new[0].acquires(t(2)) && !new[1].acquires(t(2)), "three and one");
        old[0].releases(t(3));
        assert!(new[1].acquires(t(3)));
        assert!(!new[0].acquires(t(3)));
        old[0].releases(t(4));
        old[1].releases(t(4));
        assert!(new[0].acquires(t(5)) && new[1].acquires(t(5)));
        assert_eq!(total(&store, 2), 4);
        assert_eq!(total(&store, 1), 0);
    }

    #[test]
    fn once_nothing_of_it_is_left_nobody_looks_there() {
        let (store, mut old) = busy();
        let mut new = [3, 4].map(|seed| Vm::new(&store, seed, 9, 2, &[1]));
        let cost = |vm: &mut Vm, now: Timestamp| {
            let reads = vm.store.reads();
            assert!(vm.acquires(now));
            vm.store.reads() - reads
        };
        new.iter_mut().for_each(|vm| assert!(vm.acquires(t(1))));
        assert_eq!(cost(&mut new[0], t(2)), 2, "its own cell and the one before");
        (0..2).for_each(|_| old[0].releases(t(3)));
        old[1].releases(t(3));
        new.iter_mut().for_each(|vm| assert!(vm.acquires(t(4))));
        assert_eq!((cost(&mut new[0], t(5)), cost(&mut new[1], t(5))), (1, 1));
        assert!(old[0].acquires(t(6)), "the old policy goes on elsewhere");
        let mut late = Vm::new(&store, 5, 9, 2, &[1]);
        assert!(late.acquires(t(7)));
        assert_eq!((total(&store, 2), cost(&mut late, t(8))), (8, 1), "it was taken over already");
    }

    #[test]
    fn a_request_that_is_rejected_takes_over_too() {
        let (store, _old) = busy();
        let mut new = Vm::new(&store, 3, 2, 2, &[1]);
        assert!(!new.acquires(t(1)));
        assert_eq!(total(&store, 2), 3, "more than there may be now, and so nothing passes");
        assert!(is_kept(&mut store.clone(), &address(2), t(1)));
        assert!(!is_kept(&mut store.clone(), &address(2), t(20_000)));
    }

    #[test]
    fn a_policy_that_is_put_back_counts_what_is_in_flight_in_the_one_between() {
        let (store, mut first) = busy();
        let mut second = Vm::new(&store, 3, 5, 2, &[1]);
        assert!(second.acquires(t(1)) && second.acquires(t(1)));
        let mut again = Vm::new(&store, 4, 9, 1, &[2]);
        assert!(again.acquires(t(2)));
        assert_eq!(total(&store, 1), 6, "three of before, two of the one between, and its own");
        first[0].releases(t(3));
        second.releases(t(3));
        assert!(again.acquires(t(4)));
        assert_eq!(total(&store, 1), 5);
    }

    #[test]
    fn two_blocks_before_it_count_once_each() {
        let (store, _first) = busy();
        let mut second = Vm::new(&store, 3, 9, 2, &[1]);
        assert!(second.acquires(t(1)));
        let mut third = Vm::new(&store, 4, 9, 3, &[2, 1]);
        assert!(third.acquires(t(2)));
        assert_eq!(total(&store, 3), 5, "three, one, and its own");
    }

    #[test]
    fn workers_that_died_hold_no_room_under_a_changed_policy() {
        let (store, _dead) = busy();
        let mut new = Vm::new(&store, 3, 4, 2, &[1]);
        assert!(new.acquires(t(1)));
        assert!(!new.acquires(t(9_000)));
        new.cx(t(9_000), |key, cx, _| key.renew(cx));
        let later = t(0).plus(Duration::from_secs(10));
        assert!(new.acquires(later));
        assert_eq!(total(&store, 2), 2);
    }
}
