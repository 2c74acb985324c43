//! Every order in which two workers can reach the store while a changed block begins with what is true out there, exhaustively.
//!
//! The records are those of a block before, and of one that follows it. Each call of the store is a point where another worker
//! may come first. That there is never one probe more is checked at every write, the outcome of the scenario at its end.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code)] // Other tests use the rest.
mod racing;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::breaker::key::{BreakerKey, Permit};
use holdfast_engine::breaker::{Cell, State, StateName, Trip};
use holdfast_engine::concurrency::in_flight::InFlight;
use holdfast_engine::concurrency::key::ConcurrencyKey;
use holdfast_engine::cx::Cx;
use holdfast_engine::event::Event;
use holdfast_engine::http::attempt::End;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::outlier::host_events::HostEvents;
use holdfast_engine::outlier::hosts::{Asks, HostAttempt, Hosts};
use holdfast_engine::outlier::table::{HostTable, State as HostState};
use holdfast_engine::store::address::Address;
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::paths::HostPaths;
use holdfast_engine::store::record::{Mark, Record};
use holdfast_engine::store::window::Tally;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::document::Policy;
use racing::{Handle, policy, race, send_discovery_request, t};

const OLD: u32 = 1;
const NEW: u32 = 2;

const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };
const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };

fn mark(block: u32) -> Mark {
    Mark { block, key: 0 }
}

fn cell(block: u32, of: &str) -> Address {
    Address::new(format!("holdfast/test/{block}/{of}"), mark(block))
}

/// The cell of the block before, or that of the one that follows it.
fn address(block: u32, of: &str) -> Address {
    let before = if block == NEW { vec![cell(OLD, of)] } else { Vec::new() };
    cell(block, of).after(before)
}

fn hosts_paths(block: u32) -> HostPaths {
    HostPaths::new(block as u16, 0, GroupId::OfTheKey).expect("it is the key's")
}

fn hosts(block: u32) -> Hosts {
    let before = Address::new(hosts_paths(OLD).table(), mark(OLD));
    Hosts::new(hosts_paths(block), mark(block), if block == NEW { vec![before] } else { Vec::new() })
}

/// An empty store that checks what the block that follows writes.
fn store(policy: &Policy) -> Handle {
    let probes = policy.breaker.as_ref().map_or(0, |breaker| usize::from(breaker.probes.get()));
    let requests = policy.outlier.as_ref().map_or(0, |rules| usize::from(rules.probe_requests.get()));
    let (breaker, table) = (format!("{NEW}/breaker"), hosts_paths(NEW).table());
    Handle::new(move |key, _, new| {
        if key.ends_with(&breaker) {
            let cell = Cell::decode(new, mark(NEW)).expect("what is written can be read");
            if let State::HalfOpen(half_open) = cell.state {
                let used = half_open.leases.len() + half_open.judged.total as usize;
                assert!(used <= probes, "{used} permits of {probes}");
            }
        }
        if key == table {
            let table = HostTable::decode(new, mark(NEW)).expect("what is written can be read");
            for (_, host) in table.hosts() {
                if let HostState::Out { probes, passed, .. } = &host.state {
                    let used = probes.len() + usize::from(*passed);
                    assert!(used <= requests, "{used} permits of {requests}");
                }
            }
        }
    })
}

fn read<R: Record>(store: &Handle, block: u32, of: &str) -> Option<R> {
    cell(block, of).read(&mut store.clone())
}

fn table(store: &Handle, block: u32) -> HostTable {
    Address::new(hosts_paths(block).table(), mark(block)).read(&mut store.clone()).unwrap_or_default()
}

/// One worker with one of the two blocks.
struct Thread {
    worker: Worker,
    breaker: BreakerKey,
    concurrency: ConcurrencyKey,
    hosts: Hosts,
    policy: Arc<Policy>,
    store: Handle,
    events: Vec<Event>,
}

impl AsRef<Handle> for Thread {
    fn as_ref(&self) -> &Handle {
        &self.store
    }
}

impl Thread {
    fn new(store: &Handle, policy: &Arc<Policy>, seed: u64, block: u32) -> Self {
        let before = if block == NEW { vec![cell(OLD, "in_flight")] } else { Vec::new() };
        let mut thread = Thread {
            worker: Worker::new(seed),
            breaker: BreakerKey::new(address(block, "breaker")),
            concurrency: ConcurrencyKey::new(cell(OLD, "warm"), Vec::new()),
            hosts: hosts(block),
            policy: Arc::clone(policy),
            store: store.clone(),
            events: Vec::new(),
        };
        // It has its place among the workers before the interleaving begins, to keep that to what is looked at.
        if policy.concurrency.is_some() && thread.acquires(t(0)) {
            thread.releases(t(0));
        }
        thread.concurrency = ConcurrencyKey::new(cell(block, "in_flight"), before);
        thread
    }

    fn admit(&mut self, now: Timestamp) -> Result<Permit, Duration> {
        let breaker = self.policy.breaker.as_ref().expect("it has one");
        self.breaker.admit(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events), breaker)
    }

    fn trip(&mut self, now: Timestamp) {
        let breaker = self.policy.breaker.as_ref().expect("it has one");
        let trip = Trip::FailureRate(Tally { total: 20, failures: 20, slow: 0 });
        let cx = &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events);
        self.breaker.trip(cx, breaker, trip, None);
    }

    fn end(&mut self, permit: Permit, outcome: &Outcome, now: Timestamp) {
        let breaker = self.policy.breaker.as_ref().expect("it has one");
        let Permit::Probe { generation, lease } = permit else { panic!("{permit:?}") };
        let cx = &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events);
        self.breaker.judge_probe(cx, breaker, generation, lease, outcome);
    }

    fn acquires(&mut self, now: Timestamp) -> bool {
        let rules = self.policy.concurrency.as_ref().expect("it has one");
        let cx = &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events);
        self.concurrency.acquire(cx, rules).is_some()
    }

    fn releases(&mut self, now: Timestamp) {
        self.concurrency.release(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events));
    }

    fn fails(&mut self, host: usize, now: Timestamp) {
        let rules = self.policy.outlier.as_ref().expect("it has one");
        let host = format!("10.0.0.{host}:80");
        let verdict = Verdict::Failure;
        let one = HostAttempt { host: host.as_bytes(), end: End::Reset, verdict, took: Duration::ZERO, sent: now };
        let cx = &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events);
        self.hosts.judge(cx, rules, one, None);
    }

    /// Whether the request is the probe of a host.
    fn probes(&mut self, now: Timestamp) -> bool {
        let rules = self.policy.outlier.as_ref().expect("it has one");
        let cx = &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events);
        self.hosts.refresh(cx, rules);
        self.hosts.steer(cx, rules, 1, false, &Asks::NOTHING).is_some_and(|steering| steering.probe.is_some())
    }

    fn takes_news(&mut self, now: Timestamp) -> Option<HostEvents> {
        let rules = self.policy.outlier.as_ref().expect("it has one");
        let cx = &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events);
        self.hosts.refresh(cx, rules);
        self.hosts.take_events(cx, rules)
    }

    fn lines(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Log { .. })).count()
    }
}

/// Workers with the block that follows.
fn followers(count: u64, store: &Handle, policy: &Arc<Policy>) -> Vec<Thread> {
    (0..count).map(|seed| Thread::new(store, policy, seed, NEW)).collect()
}

// The breaker

const BREAKER: &str = r#""breaker":{"open_for":"30s","open_jitter":0,"half_open":{"probes":2}}"#;

/// A worker with the block before, whose breaker has opened at 0.
fn opened(store: &Handle, policy: &Arc<Policy>) -> Thread {
    let mut old = Thread::new(store, policy, 100, OLD);
    old.admit(t(0)).expect("it is closed");
    old.trip(t(0));
    old
}

#[test]
fn two_workers_that_take_an_open_breaker_over_together_have_one_and_tell_it_once() {
    send_discovery_request(policy(BREAKER), |policy| {
        let store = store(policy);
        opened(&store, policy);
        let done = race(followers(2, &store, policy), |_, thread| thread.admit(t(10_000)));
        for (_, admitted) in &done {
            assert_eq!(*admitted, Err(Duration::from_secs(20)));
        }
        assert_eq!(done.iter().map(|(thread, _)| thread.lines()).sum::<usize>(), 1);
        assert_eq!(read::<Cell>(&store, NEW, "breaker"), read(&store, OLD, "breaker"));
    });
}

#[test]
fn two_workers_that_take_half_open_over_together_have_no_probe_more_than_are_left() {
    send_discovery_request(policy(BREAKER), |policy| {
        let store = store(policy);
        let mut old = opened(&store, policy);
        old.admit(t(30_000)).expect("a probe, which stays in flight");
        let done = race(followers(2, &store, policy), |_, thread| thread.admit(t(30_001)).is_ok());
        assert_eq!(done.iter().filter(|(_, admitted)| *admitted).count(), 1, "one of two is out");
    });
}

#[test]
fn two_workers_that_take_over_a_breaker_whose_time_is_over_share_the_probes() {
    send_discovery_request(policy(BREAKER), |policy| {
        let store = store(policy);
        opened(&store, policy);
        store.shared.signals_alone.store(false, Ordering::Relaxed);
        let mut done = race(followers(2, &store, policy), |_, thread| thread.admit(t(30_000)));
        for (thread, admitted) in &mut done {
            thread.end(admitted.expect("there are two permits"), &SUCCESS, t(30_001));
        }
        assert_eq!(read::<Cell>(&store, NEW, "breaker").map(|cell| cell.name()), Some(StateName::Closed));
        assert_eq!(done.iter().map(|(thread, _)| thread.lines()).sum::<usize>(), 3, "taken over, half-open, closed");
    });
}

#[test]
fn what_the_block_before_does_meanwhile_is_taken_over_as_a_whole_or_not_at_all() {
    for outcome in [SUCCESS, FAILURE] {
        send_discovery_request(policy(BREAKER), move |policy| {
            let store = store(policy);
            let mut old = opened(&store, policy);
            let permits = [30_000, 30_000].map(|now| old.admit(t(now)).expect("two probes"));
            old.end(permits[0], &outcome, t(30_001));
            let permit = Mutex::new(Some(permits[1]));
            let mut threads = vec![old];
            threads.extend(followers(1, &store, policy));
            let done = race(threads, move |number, thread| match number {
                0 => {
                    let permit = permit.lock().expect("no panic").take().expect("once");
                    thread.end(permit, &outcome, t(30_002));
                    true
                }
                _ => thread.admit(t(30_003)).is_ok(),
            });
            let (old, new): (Option<Cell>, Option<Cell>) = (read(&store, OLD, "breaker"), read(&store, NEW, "breaker"));
            let (old, new) = (old.expect("there is one"), new.expect("what it begins with is written down"));
            if new.name() == StateName::HalfOpen {
                assert!(done[1].1, "one permit is in flight in the block before, and the other is this one's");
            } else {
                assert_eq!(done[1].1, old.is_closed());
                assert_eq!(new.name(), old.name());
            }
        });
    }
}

#[test]
fn a_worker_that_opens_it_while_another_takes_it_over_opens_nothing_twice() {
    send_discovery_request(policy(BREAKER), |policy| {
        let store = store(policy);
        let mut threads = followers(2, &store, policy);
        // One has a view of its own from before: closed.
        threads[1].breaker = BreakerKey::new(cell(NEW, "breaker"));
        threads[1].admit(t(0)).expect("it is closed");
        opened(&store, policy);
        let done = race(threads, |number, thread| match number {
            0 => drop(thread.admit(t(10_000))),
            _ => thread.trip(t(10_000)),
        });
        let new: Cell = read(&store, NEW, "breaker").expect("it is open");
        assert_eq!((new.name(), new.opens, new.generation), (StateName::Open, 1, 1));
        assert_eq!(done.iter().map(|(thread, ())| thread.lines()).sum::<usize>(), 1);
    });
}

#[test]
fn of_two_workers_that_begin_as_the_block_before_opens_both_have_the_same() {
    send_discovery_request(policy(BREAKER), |policy| {
        let store = store(policy);
        let mut old = Thread::new(&store, policy, 100, OLD);
        old.admit(t(0)).expect("it is closed");
        let mut threads = vec![old];
        threads.extend(followers(1, &store, policy));
        let mut done = race(threads, |number, thread| match number {
            0 => {
                thread.trip(t(1));
                true
            }
            _ => thread.admit(t(1)).is_ok(),
        });
        let began_closed = done[1].1;
        let mut late = Thread::new(&store, policy, 2, NEW);
        assert_eq!(late.admit(t(2)).is_ok(), began_closed, "it is decided once");
        assert_eq!(done[1].0.admit(t(2)).is_ok(), began_closed);
    });
}

#[test]
fn a_worker_that_crashes_anywhere_in_a_takeover_leaves_it_to_the_next() {
    for calls in 0..8 {
        send_discovery_request(policy(BREAKER), move |policy| {
            let store = store(policy);
            opened(&store, policy);
            let mut threads = followers(2, &store, policy);
            threads[0].store = store.crashing_after(calls);
            let done = race(threads, |_, thread| thread.admit(t(10_000)));
            assert_eq!(done[1].1, Err(Duration::from_secs(20)), "after a crash at call {calls}");
        });
    }
}

#[test]
fn two_workers_that_are_forced_open_together_open_it_once_for_what_follows() {
    let forced = r#""breaker":{"state":"forced_open"}"#;
    send_discovery_request(policy(forced), |policy| {
        let store = store(policy);
        race(followers(2, &store, policy), |_, thread| thread.admit(t(5)).is_ok());
        let cell: Cell = read(&store, NEW, "breaker").expect("it is kept");
        assert_eq!((cell.generation, cell.state), (1, State::Open { since: t(5), until: t(5) }));
    });
}

// Hosts

const HOSTS: &str = r#""outlier":{"ejection_jitter":0,"consecutive_failures":2,"base_ejection_time":"30s"}"#;

/// A worker with the block before, in which the first of five hosts went out at 1 and the second has failed once.
fn one_out(store: &Handle, policy: &Arc<Policy>) -> Thread {
    let mut old = Thread::new(store, policy, 100, OLD);
    (0..5).for_each(|host| old.fails(host, t(0)));
    old.fails(0, t(1));
    assert_eq!(table(store, OLD).out(), 1);
    // A signal by itself would only have the others read once more.
    store.shared.signals_alone.store(false, Ordering::Relaxed);
    old
}

#[test]
fn two_workers_that_take_hosts_over_together_have_the_same_and_tell_it_once() {
    send_discovery_request(policy(HOSTS), |policy| {
        let store = store(policy);
        one_out(&store, policy);
        let done = race(followers(2, &store, policy), |_, thread| thread.takes_news(t(2)));
        let told: Vec<_> = done.iter().filter_map(|(_, events)| events.as_ref()).collect();
        assert_eq!((told.len(), told[0].list.len()), (1, 1));
        let (old, new) = (table(&store, OLD), table(&store, NEW));
        assert!(new.looks_like(&old) && new.out() == 1);
    });
}

#[test]
fn a_host_that_goes_out_in_the_block_before_meanwhile_is_out_or_in_for_all() {
    send_discovery_request(policy(HOSTS), |policy| {
        let store = store(policy);
        let mut threads = vec![one_out(&store, policy)];
        threads.extend(followers(1, &store, policy));
        race(threads, |number, thread| match number {
            0 => thread.fails(1, t(2)),
            _ => drop(thread.probes(t(2))),
        });
        let out = table(&store, NEW).out();
        assert!((1..=2).contains(&out) && table(&store, OLD).out() == 2);
        let mut late = Thread::new(&store, policy, 2, NEW);
        late.probes(t(3));
        assert_eq!(late.hosts.table().map(HostTable::out), Some(out), "what it began with is decided");
    });
}

#[test]
fn of_two_workers_that_take_over_a_host_that_is_due_one_probes_it() {
    send_discovery_request(policy(HOSTS), |policy| {
        let store = store(policy);
        one_out(&store, policy);
        let done = race(followers(2, &store, policy), |_, thread| thread.probes(t(30_001)));
        assert_eq!(done.iter().filter(|(_, probes)| *probes).count(), 1);
    });
}

#[test]
fn a_probe_that_is_under_way_in_the_block_before_is_not_sent_again() {
    send_discovery_request(policy(HOSTS), |policy| {
        let store = store(policy);
        let mut old = one_out(&store, policy);
        assert!(old.probes(t(30_001)));
        let done = race(followers(2, &store, policy), |_, thread| thread.probes(t(30_002)));
        assert!(done.iter().all(|(_, probes)| !probes));
    });
}

// Requests in flight

#[test]
fn two_workers_that_take_over_what_is_in_flight_admit_the_one_for_which_there_is_room() {
    send_discovery_request(policy(r#""concurrency":{"max_requests":3}"#), |policy| {
        let store = store(policy);
        let mut old = Thread::new(&store, policy, 100, OLD);
        assert!(old.acquires(t(1)) && old.acquires(t(1)));
        let done = race(followers(2, &store, policy), |_, thread| thread.acquires(t(2)));
        assert_eq!(done.iter().filter(|(_, admitted)| *admitted).count(), 1);
        assert_eq!(read::<InFlight>(&store, NEW, "in_flight").map(|cell| cell.total()), Some(3));
    });
}

#[test]
fn what_ends_in_the_block_before_meanwhile_makes_room_and_never_too_much() {
    send_discovery_request(policy(r#""concurrency":{"max_requests":2}"#), |policy| {
        let store = store(policy);
        let mut old = Thread::new(&store, policy, 100, OLD);
        assert!(old.acquires(t(1)) && old.acquires(t(1)));
        let mut threads = vec![old];
        threads.extend(followers(1, &store, policy));
        let in_flight = Arc::new(AtomicUsize::new(2));
        let done = race(threads, move |number, thread| match number {
            0 => {
                for _ in 0..2 {
                    in_flight.fetch_sub(1, Ordering::SeqCst);
                    thread.releases(t(2));
                }
                0
            }
            _ => (0..2)
                .filter(|_| {
                    let admitted = thread.acquires(t(2));
                    let before = if admitted { in_flight.fetch_add(1, Ordering::SeqCst) } else { 0 };
                    assert!(before < 2, "{before} were in flight");
                    admitted
                })
                .count(),
        });
        let admitted = done[1].1 as u64;
        let mut new = done.into_iter().nth(1).expect("two workers").0;
        let more = (0..2).filter(|_| new.acquires(t(3))).count() as u64;
        assert_eq!(admitted + more, 2, "all that was before has ended");
        assert_eq!(read::<InFlight>(&store, NEW, "in_flight").map(|cell| cell.total()), Some(2));
    });
}
