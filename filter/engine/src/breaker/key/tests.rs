//! A breaker whose block was changed, and one that is set by hand, with two workers.

use super::*;
use crate::breaker::{State, thresholds};
use crate::http::outcome::Verdict;
use crate::store::memory::MemoryStore;
use crate::store::record::Mark;
use crate::store::window::Tally;
use crate::store::worker::Worker;
use holdfast_policy::config;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn breaker(settings: &str) -> Breaker {
    let text = format!(r#"{{"policies":[{{"name":"p","breaker":{{"open_jitter":0{settings}}}}}]}}"#);
    config::parse(text.as_bytes()).unwrap().policies.remove(0).breaker.unwrap()
}

/// The cell of a block.
fn address(block: u32) -> Address {
    Address::new(format!("holdfast/{block}/breaker"), Mark { block, key: 0 })
}

/// One worker with one block.
struct Vm {
    worker: Worker,
    store: MemoryStore,
    breaker: Breaker,
    key: BreakerKey,
    events: Vec<Event>,
}

impl Vm {
    /// The worker's part in a block that follows others.
    fn new(store: &MemoryStore, seed: u64, settings: &str, block: u32, before: &[u32]) -> Self {
        let cell = address(block).after(before.iter().copied().map(address).collect());
        let (store, breaker) = (store.clone(), breaker(settings));
        Vm { worker: Worker::new(seed), store, breaker, key: BreakerKey::new(cell), events: Vec::new() }
    }

    fn cx<V>(&mut self, now: Timestamp, act: impl FnOnce(&mut BreakerKey, &mut Cx<'_>, &Breaker) -> V) -> V {
        let Vm { worker, store, breaker, key, events } = self;
        act(key, &mut Cx::new(store, worker, now, events), breaker)
    }

    fn admit(&mut self, now: Timestamp) -> Result<Permit, Duration> {
        self.cx(now, |key, cx, breaker| key.admit(cx, breaker))
    }

    fn trip(&mut self, now: Timestamp) {
        let tally = Tally { total: 20, failures: 20, slow: 0 };
        self.cx(now, |key, cx, breaker| {
            let trip = thresholds::tripped(breaker, tally, 0).unwrap();
            key.trip(cx, breaker, trip, None);
        });
    }

    fn lines(&self) -> Vec<&str> {
        fn text(event: &Event) -> Option<&str> {
            if let Event::Log { text, .. } = event { Some(text) } else { None }
        }
        self.events.iter().filter_map(text).collect()
    }

    fn gauge(&self) -> Option<u64> {
        let value =
            |event: &Event| if let Event::Gauge(Metric::BreakerState, value) = event { Some(*value) } else { None };
        self.events.iter().rev().find_map(value)
    }
}

fn cell(store: &MemoryStore, block: u32) -> Option<Cell> {
    address(block).read(&mut store.clone())
}

/// A store in which block 1 has opened at 0 for 30 s.
fn opened() -> MemoryStore {
    let store = MemoryStore::default();
    let mut vm = Vm::new(&store, 1, "", 1, &[]);
    vm.admit(t(0)).unwrap();
    vm.trip(t(0));
    store
}

#[test]
fn the_first_request_under_a_changed_policy_meets_the_open_breaker() {
    let store = opened();
    let mut vms = [2, 3].map(|seed| Vm::new(&store, seed, r#","open_for":"60s""#, 2, &[1]));
    assert_eq!(vms[0].admit(t(18_000)), Err(Duration::from_secs(12)), "its time stays");
    assert_eq!(vms[0].lines(), ["open, taken over by the changed policy; next probe in 12s"]);
    assert_eq!(vms[0].gauge(), Some(StateName::Open as u64));
    assert_eq!(vms[1].admit(t(18_000)), Err(Duration::from_secs(12)));
    assert_eq!(vms[1].lines(), [""; 0], "it is told once");
    assert!(matches!(vms[1].admit(t(30_000)), Ok(Permit::Probe { .. })), "at the time that was set");
}

#[test]
fn a_worker_that_looked_before_sees_what_another_has_taken_over() {
    let store = MemoryStore::default();
    let mut early = Vm::new(&store, 2, "", 2, &[]);
    assert!(early.admit(t(0)).is_ok(), "it does not know of the block before");
    let mut old = Vm::new(&store, 1, "", 1, &[]);
    old.admit(t(0)).unwrap();
    old.trip(t(0));
    let mut late = Vm::new(&store, 3, "", 2, &[1]);
    assert!(late.admit(t(1)).is_err());
    assert!(early.admit(t(2)).is_err(), "at its next request");
}

#[test]
fn a_breaker_that_was_closed_begins_closed_and_what_the_old_block_does_later_is_its_own() {
    let store = MemoryStore::default();
    let mut old = Vm::new(&store, 1, "", 1, &[]);
    old.admit(t(0)).unwrap();
    let mut vms = [2, 3].map(|seed| Vm::new(&store, seed, "", 2, &[1]));
    assert_eq!(vms[0].admit(t(1)), Ok(Permit::Pass { generation: 0 }));
    old.trip(t(2));
    assert_eq!(vms[1].admit(t(3)), Ok(Permit::Pass { generation: 0 }), "it began before that");
    assert_eq!((vms[0].lines().len(), vms[1].lines().len()), (0, 0));
}

#[test]
fn the_newest_block_before_it_is_taken_over_and_it_alone() {
    let store = opened();
    let mut second = Vm::new(&store, 2, r#","half_open":{"probes":1}"#, 2, &[1]);
    assert!(second.admit(t(18_000)).is_err());
    let Ok(Permit::Probe { generation, lease }) = second.admit(t(30_000)) else { panic!("its time is over") };
    second.cx(t(30_001), |key, cx, breaker| key.judge_probe(cx, breaker, generation, lease, &SUCCESS));
    assert_eq!(cell(&store, 2).map(|cell| cell.name()), Some(StateName::Closed));
    let mut third = Vm::new(&store, 3, r#","open_for":"70s""#, 3, &[2, 1]);
    assert!(third.admit(t(30_002)).is_ok(), "the second has closed; that the first never did is past");
}

#[test]
fn a_block_that_has_its_record_takes_nothing_over() {
    let store = opened();
    let mut own = Vm::new(&store, 2, "", 2, &[]);
    own.admit(t(0)).unwrap();
    own.trip(t(1));
    let before = cell(&store, 2);
    let mut again = Vm::new(&store, 3, "", 2, &[1]);
    assert_eq!(again.admit(t(5)), Err(Duration::from_millis(29_996)));
    assert_eq!(cell(&store, 2), before, "it was taken out and put back");
    assert_eq!(again.lines(), [""; 0]);
}

#[test]
fn an_outcome_alone_takes_over_before_it_changes_anything() {
    let store = opened();
    let mut vm = Vm::new(&store, 2, "", 2, &[1]);
    vm.trip(t(1));
    assert_eq!(cell(&store, 2).map(|cell| cell.opens), Some(1), "it was open already");
}

#[test]
fn a_look_takes_over_before_any_request() {
    let store = opened();
    let mut auto = Vm::new(&store, 2, r#","open_for":"60s""#, 2, &[1]);
    auto.cx(t(1), |key, cx, breaker| key.look(cx, breaker));
    assert_eq!((cell(&store, 2).map(|cell| cell.name()), auto.lines().len()), (Some(StateName::Open), 1));
    assert_eq!(auto.gauge(), Some(StateName::Open as u64));
    let mut forced = Vm::new(&store, 3, r#","state":"forced_closed""#, 3, &[2, 1]);
    forced.cx(t(2), |key, cx, breaker| key.look(cx, breaker));
    assert_eq!((cell(&store, 3).map(|cell| cell.name()), forced.lines().len()), (Some(StateName::Closed), 0));
    assert_eq!(forced.gauge(), Some(StateName::ForcedClosed as u64));
}

#[test]
fn without_a_clock_nothing_passes_before_it_was_taken_over() {
    let store = opened();
    let mut vm = Vm::new(&store, 2, "", 2, &[1]);
    vm.cx(t(1), |key, cx, _| key.look_again(cx));
    let recently = vm.cx(t(1), |key, cx, breaker| key.admit_recently(cx.store, breaker, cx.now));
    assert_eq!(recently, None);
    assert!(vm.admit(t(1)).is_err());
}

#[test]
fn forced_open_that_is_put_back_begins_half_open() {
    let store = MemoryStore::default();
    let mut forced = Vm::new(&store, 1, r#","state":"forced_open""#, 1, &[]);
    assert_eq!(forced.admit(t(0)), Err(Duration::ZERO));
    assert_eq!((forced.lines().len(), forced.gauge()), (0, Some(StateName::ForcedOpen as u64)));
    let state = State::Open { since: t(0), until: t(0) };
    assert_eq!(cell(&store, 1), Some(Cell { generation: 1, opens: 0, state }));
    assert!(!is_kept(&mut store.clone(), &forced.breaker, &address(1)), "no key needs its place for that");
    assert!(lets_retry(&mut store.clone(), Some(&forced.breaker), &address(1)), "it is for requests, as ever");
    let mut auto = Vm::new(&store, 2, "", 2, &[1]);
    assert!(matches!(auto.admit(t(9_000)), Ok(Permit::Probe { .. })));
    let told = ["open, taken over by the changed policy; the next request is a probe"];
    let over = ["open -> half-open: it is not forced open any more; up to 5 probes"];
    assert_eq!(auto.lines(), [told, over].concat());
    assert_eq!(auto.gauge(), Some(StateName::HalfOpen as u64));
}

#[test]
fn forced_closed_that_is_put_back_begins_closed_whatever_was_before() {
    let store = opened();
    let mut forced = Vm::new(&store, 2, r#","state":"forced_closed""#, 2, &[1]);
    assert_eq!(forced.admit(t(5_000)), Ok(Permit::None));
    assert_eq!((forced.lines().len(), forced.gauge()), (0, Some(StateName::ForcedClosed as u64)));
    let mut auto = Vm::new(&store, 3, r#","open_for":"31s""#, 3, &[2, 1]);
    assert!(matches!(auto.admit(t(6_000)), Ok(Permit::Pass { .. })), "the first block is open for 24 s more");
    assert_eq!(auto.gauge(), Some(StateName::Closed as u64));
}

#[test]
fn a_forced_state_costs_one_look_a_second_and_one_write_at_all() {
    let store = MemoryStore::default();
    let mut vms = [1, 2].map(|seed| Vm::new(&store, seed, r#","state":"forced_open""#, 1, &[]));
    assert!(vms.iter_mut().all(|vm| vm.admit(t(0)).is_err()));
    assert_eq!(store.writes(), 1);
    let reads = store.reads();
    for millis in 0..3_000 {
        let _ = vms[0].admit(t(millis));
    }
    assert_eq!((store.writes(), store.reads() - reads), (1, 2), "at 1 s and at 2 s");
}
