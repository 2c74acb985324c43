//! Every order in which two or three workers can reach the store, exhaustively.
//!
//! Each call of the store is a point where another worker may come first. The invariants of the cell are checked at
//! every write of it, the outcome of the scenario at its end.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod racing;

use holdfast_engine::cx::Cx;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::breaker::{Cell, State, StateName};
use holdfast_engine::concurrency::in_flight::InFlight;
use holdfast_engine::event::Event;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::request::{Decision, RequestPolicy, Ticket};
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::keys::Key;
use holdfast_engine::store::record::Record;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config;
use holdfast_policy::document::Policy;
use racing::{FIRST, Handle, policy, race, send_discovery_request, t};

const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };
const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };

impl Handle {
    fn cell(&self) -> Cell {
        self.record(&racing::cell(BlockKind::Breaker)).unwrap_or_default()
    }

    fn in_flight(&self) -> u64 {
        self.record(&racing::cell(BlockKind::Concurrency)).map_or(0, |cell: InFlight| cell.total())
    }
}

/// An empty store that checks the cells in what is written.
fn store(policy: &Policy) -> Handle {
    let probes = policy.breaker.as_ref().map_or(0, |breaker| usize::from(breaker.probes.get()));
    let name = racing::cell(BlockKind::Breaker);
    Handle::new(move |key, old, new| {
        if key == name {
            let cell = |bytes: &[u8]| Cell::decode(bytes, FIRST);
            let new = cell(new).expect("what is written can be read");
            check_step(&old.and_then(cell).unwrap_or_default(), &new, probes);
        }
    })
}

/// What must hold between any two states of a cell that follow each other.
fn check_step(old: &Cell, new: &Cell, probes: usize) {
    if let State::HalfOpen(half_open) = &new.state {
        let used = half_open.leases.len() + half_open.judged.total as usize;
        assert!(used <= probes, "{used} permits of {probes}");
    }
    let (from, to) = (old.name(), new.name());
    let legal = match (from, to) {
        (from, to) if from == to => new.generation == old.generation,
        (StateName::Closed | StateName::HalfOpen | StateName::Ramping, StateName::Open)
        | (StateName::Open, StateName::HalfOpen)
        | (StateName::HalfOpen, StateName::Closed | StateName::Ramping) => new.generation == old.generation + 1,
        (StateName::Ramping, StateName::Closed) => new.generation == old.generation,
        _ => false,
    };
    assert!(legal, "{old:?} was followed by {new:?}");
}

/// One worker with the policy.
struct Thread {
    worker: Worker,
    request_policy: RequestPolicy,
    store: Handle,
    events: Vec<Event>,
}

impl AsRef<Handle> for Thread {
    fn as_ref(&self) -> &Handle {
        &self.store
    }
}

impl Thread {
    fn new(store: &Handle, policy: &Arc<Policy>, seed: u64) -> Self {
        let mut store = store.clone();
        Thread {
            worker: Worker::new(seed),
            request_policy: RequestPolicy::entered(Arc::clone(policy), &mut store, t(0)),
            store,
            events: Vec::new(),
        }
    }

    fn key(&mut self, now: Timestamp) -> Key {
        self.request_policy.key(&mut self.worker, &mut self.store, now, |_| Some(Cow::Borrowed(b"")))
    }

    fn arrive(&mut self, now: Timestamp) -> Option<Ticket> {
        let key = self.key(now);
        match self.request_policy.admit(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events), key) {
            Decision::Admitted(ticket) => Some(ticket),
            Decision::Rejected(_) => None,
        }
    }

    fn end(&mut self, ticket: Ticket, outcome: &Outcome, now: Timestamp) {
        let hold = self.request_policy.report(
            &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events),
            ticket,
            outcome,
        );
        if let Some(hold) = hold {
            self.request_policy.release(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut Vec::new()), hold);
        }
    }

    fn request(&mut self, outcome: &Outcome, now: Timestamp) -> bool {
        let ticket = self.arrive(now);
        let admitted = ticket.is_some();
        if let Some(ticket) = ticket {
            self.end(ticket, outcome, now);
        }
        admitted
    }

    fn moves_to(&self, state: StateName) -> usize {
        let hits =
            |event: &&Event| matches!(event, Event::Log { text, .. } if text.contains(&format!(" -> {state}: ")));
        self.events.iter().filter(hits).count()
    }
}

fn workers(count: u64, policy: &Arc<Policy>) -> (Handle, Vec<Thread>) {
    let store = store(policy);
    let mut threads: Vec<_> = (0..count).map(|seed| Thread::new(&store, policy, seed)).collect();
    // Places are claimed and views are read before the interleaving begins, to keep it to what is looked at.
    for thread in &mut threads {
        thread.request(&SUCCESS, t(0));
    }
    (store, threads)
}

const OPEN: &str =
    r#""breaker":{"window":"10s","min_requests":4,"open_for":"1s","open_jitter":0,"half_open":{"probes":2}}"#;

/// Opens the breaker through the first worker.
fn open(threads: &mut [Thread], now: Timestamp) {
    for _ in 0..4 {
        threads[0].request(&FAILURE, now);
    }
    assert_eq!(threads[0].moves_to(StateName::Open), 1);
}

/// Opens the breaker and lets every worker see it, which leaves less to interleave.
fn open_for_all(threads: &mut [Thread], now: Timestamp) {
    open(threads, now);
    for thread in threads {
        assert!(thread.arrive(now).is_none());
    }
}

#[test]
fn two_workers_that_reach_the_threshold_together_open_it_once() {
    send_discovery_request(
        policy(r#""breaker":{"window":"10s","min_requests":6,"failure_rate":60,"open_for":"1s","open_jitter":0}"#),
        |policy| {
            // Each has seen one success and one failure; each now sees one more failure: 4 of 6 over both, and
            // with either one alone 3 of 5.
            let (store, mut threads) = workers(2, policy);
            for thread in &mut threads {
                thread.request(&FAILURE, t(1));
            }
            let done = race(threads, |_, thread| {
                thread.request(&FAILURE, t(2));
            });
            let opened: usize = done.iter().map(|(thread, ())| thread.moves_to(StateName::Open)).sum();
            assert_eq!(opened, 1, "neither lost nor done twice");
            assert_eq!((store.cell().name(), store.cell().opens), (StateName::Open, 1));
        },
    );
}

#[test]
fn two_successes_that_complete_min_requests_together_open_it_once() {
    let settings = r#""breaker":{"window":"10s","min_requests":6,"failure_rate":40,"open_for":"1s","open_jitter":0}"#;
    send_discovery_request(policy(settings), |policy| {
        // Two successes and three failures: whichever of the next two successes comes first completes the six with 3 of 6, and with both
        // it is 3 of 7.
        let (store, mut threads) = workers(2, policy);
        for _ in 0..3 {
            threads[0].request(&FAILURE, t(1));
        }
        assert_eq!(store.cell().name(), StateName::Closed, "five are too few");
        let done = race(threads, |_, thread| {
            thread.request(&SUCCESS, t(2));
        });
        let opened: usize = done.iter().map(|(thread, ())| thread.moves_to(StateName::Open)).sum();
        assert_eq!(opened, 1, "neither lost nor done twice");
        assert_eq!((store.cell().name(), store.cell().opens), (StateName::Open, 1));
    });
}

#[test]
fn successes_that_come_together_never_open_a_window_that_had_min_requests() {
    let settings = r#""breaker":{"window":"2s","min_requests":2,"failure_rate":50,"open_jitter":0}"#;
    send_discovery_request(policy(settings), |policy| {
        // Three successes leave the window of 2 s before the race: two failures stay, a rate that no failure was judged by.
        let (store, mut threads) = workers(2, policy);
        threads[0].request(&SUCCESS, t(0));
        for thread in &mut threads {
            thread.request(&FAILURE, t(1400));
        }
        assert_eq!(store.cell().name(), StateName::Closed, "two of five are 40 %");
        race(threads, |_, thread| {
            thread.request(&SUCCESS, t(2050));
        });
        assert_eq!(store.cell().name(), StateName::Closed, "a success does not open it");
    });
}

#[test]
fn three_workers_share_exactly_the_permits_there_are() {
    send_discovery_request(policy(OPEN), |policy| {
        let (store, mut threads) = workers(3, policy);
        open_for_all(&mut threads, t(1));
        store.shared.signals_alone.store(false, Ordering::Relaxed);
        let done = race(threads, |_, thread| thread.arrive(t(1001)).is_some());
        let admitted = done.iter().filter(|(_, admitted)| *admitted).count();
        assert_eq!(admitted, 2);
        assert_eq!(done.iter().map(|(thread, _)| thread.moves_to(StateName::HalfOpen)).sum::<usize>(), 1);
        assert_eq!(store.cell().name(), StateName::HalfOpen);
    });
}

#[test]
fn two_workers_go_through_open_half_open_and_close_in_any_order() {
    send_discovery_request(policy(OPEN), |policy| {
        let (store, mut threads) = workers(2, policy);
        open_for_all(&mut threads, t(1));
        let done = race(threads, |_, thread| thread.request(&SUCCESS, t(1001)));
        assert!(done.iter().all(|(_, admitted)| *admitted), "there are two permits");
        let closed: usize = done.iter().map(|(thread, _)| thread.moves_to(StateName::Closed)).sum();
        assert_eq!((closed, store.cell().name()), (1, StateName::Closed));
    });
}

#[test]
fn a_good_and_a_bad_probe_that_report_together_are_both_judged() {
    send_discovery_request(policy(OPEN), |policy| {
        let (store, mut threads) = workers(2, policy);
        open_for_all(&mut threads, t(1));
        let tickets: Vec<_> = threads.iter_mut().map(|thread| thread.arrive(t(1001))).collect();
        let tickets = Mutex::new(tickets);
        let done = race(threads, move |number, thread| {
            let ticket = tickets.lock().expect("no panic")[number].take().expect("a permit");
            thread.end(ticket, if number == 0 { &SUCCESS } else { &FAILURE }, t(1002));
        });
        let opened: usize = done.iter().map(|(thread, ())| thread.moves_to(StateName::Open)).sum();
        // The first opening was before the race, on worker 0.
        assert_eq!((opened, store.cell().opens), (2, 2), "one of two failed, which is 50%");
    });
}

#[test]
fn a_transition_is_seen_by_the_next_request_of_every_other_worker() {
    let settings = r#""breaker":{"window":"10s","min_requests":4,"failure_rate":60,"open_jitter":0}"#;
    send_discovery_request(policy(settings), |policy| {
        let (store, mut threads) = workers(2, policy);
        for _ in 0..2 {
            threads[0].request(&FAILURE, t(1));
        }
        assert_eq!(store.cell().name(), StateName::Closed, "2 of 4 are 50%");
        let opened = Arc::new(AtomicBool::new(false));
        race(threads, move |number, thread| {
            if number == 0 {
                thread.request(&FAILURE, t(2));
                opened.store(true, Ordering::SeqCst);
            } else {
                for _ in 0..2 {
                    let before = opened.load(Ordering::SeqCst);
                    let admitted = thread.request(&FAILURE, t(2));
                    assert!(!(before && admitted), "it had opened before this request");
                }
            }
        });
    });
}

#[test]
fn a_late_failure_never_judges_half_open() {
    send_discovery_request(policy(OPEN), |policy| {
        let (store, mut threads) = workers(2, policy);
        let late = Mutex::new(threads[1].arrive(t(0)));
        open(&mut threads, t(1));
        race(threads, move |number, thread| {
            if number == 0 {
                thread.request(&SUCCESS, t(1001));
                thread.request(&SUCCESS, t(1001));
            } else {
                let ticket = late.lock().expect("no panic").take().expect("it was admitted");
                thread.end(ticket, &FAILURE, t(1001));
            }
        });
        assert_eq!(store.cell().name(), StateName::Closed, "both probes were good");
    });
}

#[test]
fn requests_in_flight_never_pass_the_limit_and_none_is_lost() {
    send_discovery_request(policy(r#""concurrency":{"max_requests":1}"#), |policy| {
        let (store, threads) = workers(2, policy);
        let now_in_flight = Arc::new(AtomicUsize::new(0));
        race(threads, move |_, thread| {
            if let Some(ticket) = thread.arrive(t(1)) {
                let others = now_in_flight.fetch_add(1, Ordering::SeqCst);
                assert_eq!(others, 0, "the limit is one");
                now_in_flight.fetch_sub(1, Ordering::SeqCst);
                thread.end(ticket, &SUCCESS, t(2));
            }
        });
        assert_eq!(store.in_flight(), 0);
    });
}

#[test]
fn workers_that_start_together_find_equal_keys() {
    let text = br#"{"policies":[{"name":"p","scope":["cluster"],"concurrency":{"max_requests":9}}]}"#;
    send_discovery_request(config::parse(text).expect("valid").policies.remove(0).into(), |policy| {
        let store = store(policy);
        let threads = (0..2).map(|seed| Thread::new(&store, policy, seed)).collect();
        let done = race(threads, |_, thread| thread.key(t(0)));
        assert_eq!(done[0].1, done[1].1, "the same cluster is the same key");
    });
}

#[test]
fn workers_that_start_together_get_different_places() {
    let text = br#"{"policies":[{"name":"p","scope":[],"concurrency":{"max_requests":9}}]}"#;
    send_discovery_request(config::parse(text).expect("valid").policies.remove(0).into(), |policy| {
        let store = store(policy);
        let threads = (0..2).map(|seed| Thread::new(&store, policy, seed)).collect();
        race(threads, |_, thread| assert!(thread.arrive(t(0)).is_some()));
        assert_eq!(store.in_flight(), 2, "two places, so both counts stand side by side");
    });
}

#[test]
fn a_worker_that_crashes_anywhere_in_half_open_holds_nothing_up() {
    for calls in 0..7 {
        send_discovery_request(policy(OPEN), move |policy| {
            let (store, mut threads) = workers(2, policy);
            open_for_all(&mut threads, t(1));
            threads[0].store = store.crashing_after(calls);
            let mut done = race(threads, |_, thread| {
                thread.request(&SUCCESS, t(1001));
            });
            // Long after, when every lease is over, the other worker alone gets it closed.
            let (survivor, ()) = done.last_mut().expect("two workers");
            let later = t(1001).plus(Duration::from_secs(11));
            for _ in 0..3 {
                survivor.request(&SUCCESS, later);
            }
            assert_eq!(store.cell().name(), StateName::Closed, "after a crash at call {calls}");
        });
    }
}
