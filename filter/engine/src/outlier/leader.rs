//! One VM of all acts for a group: it asks the hosts how they are, and reads which there are.
//!
//! Whoever finds no claim makes one, and renews it for as long as it lives. A VM that died stops renewing, and another
//! takes over when its claim is over: [`LEASE`] after the last renewal, and up to [`LOOK_EVERY`] later. A leader acts only
//! while its own claim lasts by its own clock, whatever the store says meanwhile. As all VMs of a process have the same
//! clock, there is never more than one leader while that clock runs forward; where it jumps there and back, two may act for
//! less than [`RENEW_AFTER`], until the first of them looks again.
//!
//! A claim that cannot be read, because something else wrote its key, counts as none. So a key must belong to one
//! fingerprint alone, or two sets of VMs would take the claim from each other for ever.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Mark, Reader, Record, Writer};
use crate::store::{Store, update};

/// How long a claim lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(5);

/// How old a claim is renewed at; until then the leader does not look at the store.
pub const RENEW_AFTER: Duration = Duration::from_nanos(LEASE.as_nanos() as u64 / 3);

/// How often the others look whether the claim is over.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The claim, as all VMs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Names the claimant.
    pub nonce: u64,
    /// When the claim is void.
    pub expires: Timestamp,
}

impl Record for Leader {
    const KIND: Kind = Kind::Leader;

    fn size(&self) -> usize {
        16
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.nonce);
        out.time(self.expires);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(Leader { nonce: input.u64()?, expires: input.time()? })
    }
}

/// What one VM remembers of one group's claim, so that it seldom has to look. A VM has one per group, whatever number of
/// its plugins have use for it: they claim with the same nonce and would all be leaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// When its own claim is void, if it made one.
    expires: Option<Timestamp>,
    /// When it last looked.
    looked: Option<Timestamp>,
}

impl Held {
    /// Whether its own claim lasts, without any call.
    pub fn lasts(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires.remaining(now, LEASE).is_some())
    }

    /// Whether what it saw last can still be relied on.
    fn is_fresh(&self, now: Timestamp) -> bool {
        let every = if self.expires.is_some() { RENEW_AFTER } else { LOOK_EVERY };
        // A look from the future is from before the clock was put back.
        self.looked.is_some_and(|looked| looked <= now && now.since(looked) < every)
    }
}

/// Whether the VM that `own` names is the leader at `now`: claims or renews where that is due. To be asked at every tick,
/// and before every act. No two VMs may have the same nonce.
pub fn lead(store: &mut dyn Store, key: &str, mark: Mark, own: u64, held: &mut Held, now: Timestamp) -> bool {
    if !held.lasts(now) {
        // Over is over: a clock that is put back does not revive a claim that others have seen void.
        held.expires = None;
    }
    if held.is_fresh(now) {
        return held.expires.is_some();
    }
    let claimed = update(store, key, mark, |claim: Option<&Leader>| {
        let others = claim.filter(|claim| claim.nonce != own);
        if others.is_some_and(|claim| claim.expires.remaining(now, LEASE).is_some()) {
            return (None, None);
        }
        let expires = now.plus(LEASE);
        (Some(expires), Some(Leader { nonce: own, expires }))
    });
    held.looked = Some(now);
    // When giving up, the old claim is kept for as long as it lasts.
    if let Ok(done) = claimed {
        held.expires = done.verdict;
    }
    held.expires.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Conflict, Expected, Version};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const KEY: &str = "holdfast/leader";
    const MARK: Mark = Mark { block: 0x5eed, key: 0 };

    fn t(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    /// One VM.
    #[derive(Clone)]
    struct Vm {
        nonce: u64,
        held: Held,
    }

    impl Vm {
        fn new(nonce: u64) -> Self {
            Vm { nonce, held: Held::default() }
        }

        fn leads(&mut self, store: &mut dyn Store, now: Timestamp) -> bool {
            lead(store, KEY, MARK, self.nonce, &mut self.held, now)
        }
    }

    #[test]
    fn a_leader_keeps_its_claim_while_it_ticks_and_the_next_takes_over_when_it_stops() {
        let mut store = MemoryStore::default();
        let (mut first, mut second) = (Vm::new(1), Vm::new(2));
        for second_number in 0..60 {
            let now = t(second_number * 1000);
            assert!(first.leads(&mut store, now), "nobody else claims while it renews");
            assert!(!second.leads(&mut store, now.plus(Duration::from_millis(500))));
        }
        // The first VM dies after its tick at 59 s; it had renewed at 58 s.
        assert!(!second.leads(&mut store, t(62_999)), "the lease lasts to the end");
        assert!(second.leads(&mut store, t(63_999)), "and the next look claims");
        assert!(!first.leads(&mut store, t(64_000)), "the first comes back and learns that it lost");
    }

    #[test]
    fn a_leader_whose_own_lease_is_over_does_not_act_on_it() {
        let mut store = MemoryStore::default();
        let (mut first, mut second) = (Vm::new(1), Vm::new(2));
        assert!(first.leads(&mut store, t(0)));
        assert!(first.held.lasts(t(4999)));
        assert!(!first.held.lasts(t(5000)), "it stalled: by its own clock the claim is over");
        assert!(second.leads(&mut store, t(5000)), "so another may have it");
        assert!(!first.leads(&mut store, t(5000)), "and it asks before it acts again");
        assert!(second.leads(&mut store, t(5001)));
    }

    #[test]
    fn a_leader_that_was_away_claims_again_if_nobody_did() {
        let mut store = MemoryStore::default();
        let mut only = Vm::new(1);
        assert!(only.leads(&mut store, t(0)));
        assert!(only.leads(&mut store, t(3_600_000)));
        assert!(only.held.lasts(t(3_604_999)));
    }

    #[test]
    fn the_store_is_read_a_few_times_in_a_lease_and_not_at_every_tick() {
        let mut store = MemoryStore::default();
        let (mut first, mut second) = (Vm::new(1), Vm::new(2));
        assert!(first.leads(&mut store, t(0)));
        let before = store.reads();
        for tick in 1..=1000 {
            assert!(first.leads(&mut store, t(tick * 10)));
        }
        assert_eq!(store.reads() - before, 5, "10 s of ticks each 10 ms: a renewal each 1.67 s");
        let before = (store.reads(), store.writes());
        for tick in 1001..=1200 {
            assert!(!second.leads(&mut store, t(tick * 10)));
        }
        assert_eq!(store.reads() - before.0, 2, "the others look once a second");
        assert_eq!(store.writes(), before.1, "and write nothing");
    }

    #[test]
    fn a_claim_from_a_clock_that_was_ahead_does_not_hold_for_ever() {
        let mut store = MemoryStore::default();
        let (mut first, mut second) = (Vm::new(1), Vm::new(2));
        assert!(first.leads(&mut store, t(3_600_000)));
        assert!(second.leads(&mut store, t(0)), "the clock was put back an hour");
        assert!(!first.leads(&mut store, t(1)), "which voids the first claim for its owner as well");
    }

    #[test]
    fn a_claim_that_was_seen_void_does_not_come_back_with_the_clock() {
        let mut store = MemoryStore::default();
        let (mut first, mut second) = (Vm::new(1), Vm::new(2));
        assert!(first.leads(&mut store, t(100_000)));
        assert!(second.leads(&mut store, t(0)));
        assert!(!first.leads(&mut store, t(500)));
        // The clock is put right again: by it neither claim of before is to be acted on without a look.
        assert!(second.leads(&mut store, t(100_001)));
        assert!(!first.leads(&mut store, t(100_001)));
    }

    #[test]
    fn foreign_bytes_are_no_claim() {
        let mut store = MemoryStore::default();
        for bytes in [&b""[..], b"\x02", &[0xff; 26], &[0; 4096]] {
            store.set(KEY, bytes);
            let mut vm = Vm::new(7);
            assert!(vm.leads(&mut store, t(0)), "{bytes:?}");
        }
        store.set(KEY, &Leader { nonce: 9, expires: t(5000) }.encode(Mark { block: 1, ..MARK }));
        assert!(Vm::new(7).leads(&mut store, t(0)), "nor is a claim of another content");
    }

    /// A store that another VM always writes to first.
    struct Contended(MemoryStore);

    impl Store for Contended {
        fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)> {
            self.0.get(key)
        }
        fn set(&mut self, key: &str, value: &[u8]) {
            self.0.set(key, value);
        }
        fn swap(&mut self, _: &str, _: &[u8], _: Expected) -> Result<(), Conflict> {
            Err(Conflict)
        }
        fn epoch(&mut self) -> Option<u64> {
            None
        }
        fn raise_epoch(&mut self) {}
    }

    #[test]
    fn a_claim_that_cannot_be_renewed_lasts_until_it_is_over() {
        let mut store = MemoryStore::default();
        let mut vm = Vm::new(1);
        assert!(vm.leads(&mut store, t(0)));
        let mut contended = Contended(store);
        for millis in (0..5000).step_by(100) {
            assert!(vm.leads(&mut contended, t(millis)), "after {millis} ms");
        }
        assert!(!vm.leads(&mut contended, t(5000)), "and not a moment longer");
        assert!(!Vm::new(2).leads(&mut contended, t(6000)), "who cannot write does not lead");
    }

    /// A store in which another VM comes before the call of this number.
    struct Between<'a> {
        store: MemoryStore,
        calls_left: usize,
        other: &'a mut dyn FnMut(&mut MemoryStore),
    }

    impl Between<'_> {
        fn call(&mut self) -> &mut MemoryStore {
            if self.calls_left == 0 {
                (self.other)(&mut self.store);
            }
            self.calls_left = self.calls_left.wrapping_sub(1);
            &mut self.store
        }
    }

    impl Store for Between<'_> {
        fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)> {
            self.call().get(key)
        }
        fn set(&mut self, key: &str, value: &[u8]) {
            self.call().set(key, value);
        }
        fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict> {
            self.call().swap(key, value, expected)
        }
        fn epoch(&mut self) -> Option<u64> {
            self.call().epoch()
        }
        fn raise_epoch(&mut self) {
            self.call().raise_epoch();
        }
    }

    #[test]
    fn of_two_that_claim_at_once_one_leads_whoever_comes_between() {
        let over = Leader { nonce: 9, expires: t(0) }.encode(MARK);
        for before in [None, Some(over), Some(vec![0xff; 26])] {
            for calls in 0..4 {
                let mut store = MemoryStore::default();
                if let Some(bytes) = &before {
                    store.set(KEY, bytes);
                }
                let (mut first, mut second) = (Vm::new(1), Vm::new(2));
                let mut second_leads = None;
                let mut other = |store: &mut MemoryStore| second_leads = Some(second.leads(store, t(1)));
                let mut between = Between { store: store.clone(), calls_left: calls, other: &mut other };
                let first_leads = first.leads(&mut between, t(1));
                // It makes two calls, or four if it has to begin again; the other may also come after all of them.
                let second_leads = second_leads.unwrap_or_else(|| second.leads(&mut store, t(1)));
                assert!(first_leads != second_leads, "before call {calls}: {first_leads} and {second_leads}");
            }
        }
    }

    #[test]
    fn a_renewal_that_comes_late_loses_to_a_claim_that_comes_between() {
        for calls in 0..2 {
            let mut store = MemoryStore::default();
            let (mut first, mut second) = (Vm::new(1), Vm::new(2));
            assert!(first.leads(&mut store, t(0)));
            let mut second_leads = false;
            // The first VM read the clock before its lease was over and was then held up.
            let mut other = |store: &mut MemoryStore| second_leads = second.leads(store, t(5000));
            let mut between = Between { store, calls_left: calls, other: &mut other };
            assert!(!first.leads(&mut between, t(4999)), "before call {calls}");
            assert!(second_leads);
        }
    }

    /// Asks one of two VMs after some time, and again, in every order; each order goes on from a copy of all that is shared.
    fn in_every_order(steps_left: u32, now: u64, bytes: Option<&[u8]>, vms: &[Vm; 2], led: &mut [u64; 2]) {
        if steps_left == 0 {
            return;
        }
        for (passing, asked) in [100, 1700, 5000].into_iter().flat_map(|passing| [(passing, 0), (passing, 1)]) {
            let (now, mut vms, mut store) = (now + passing, vms.clone(), MemoryStore::default());
            if let Some(bytes) = bytes {
                store.set(KEY, bytes);
            }
            let leads = vms[asked].leads(&mut store, t(now));
            assert_eq!(leads, vms[asked].held.lasts(t(now)), "who leads has a claim that lasts");
            assert!(!vms[0].held.lasts(t(now)) || !vms[1].held.lasts(t(now)), "two claims last at {now} ms");
            led[asked] += u64::from(leads);
            let bytes = store.get(KEY).map(|(bytes, _)| bytes);
            in_every_order(steps_left - 1, now, bytes.as_deref(), &vms, led);
        }
    }

    #[test]
    fn in_every_order_of_two_vms_there_is_at_most_one_leader() {
        let mut led = [0; 2];
        in_every_order(6, 0, None, &[Vm::new(1), Vm::new(2)], &mut led);
        assert!(led[0] > 0, "it is not that nobody ever leads");
        assert_eq!(led[0], led[1], "and neither has an advantage");
    }

    #[test]
    fn every_record_comes_back_and_no_cut_one_is_read() {
        let leader = Leader { nonce: u64::MAX, expires: t(5) };
        let bytes = leader.encode(MARK);
        assert_eq!(Leader::decode(&bytes, MARK), Some(leader));
        for len in 0..bytes.len() {
            assert_eq!(Leader::decode(&bytes[..len], MARK), None);
        }
    }
}
