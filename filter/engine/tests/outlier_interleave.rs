//! Every order in which two or three workers can reach the hosts of one group, exhaustively.
//!
//! Each call of the store is a point where another worker may come first. That no more hosts are out than may be, and no more
//! probes under way, is checked at every write of the table, the outcome of the scenario at its end.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod racing;

use holdfast_engine::cx::Cx;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::End;
use holdfast_engine::http::outcome::Verdict;
use holdfast_engine::outlier::cause::EjectionCause;
use holdfast_engine::outlier::host_events::{HostCount, HostEventKind, HostEvents};
use holdfast_engine::outlier::hosts::{Asks, HostAttempt, Hosts, Steering};
use holdfast_engine::outlier::run::HostRun;
use holdfast_engine::outlier::table::{HostId, HostTable, State};
use holdfast_engine::outlier::topology::HostListing;
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::paths::HostPaths;
use holdfast_engine::store::record::Record;
use holdfast_engine::store::worker::Worker;
use holdfast_engine::store::{Conflict, Expected, Store, Version};
use holdfast_policy::document::{Detector, NamedHost, Outlier, Policy};
use racing::{FIRST, Handle, policy, race, send_discovery_request, t};

/// The shared store as a host with or without a signal offers it.
#[derive(Clone)]
struct Port {
    handle: Handle,
    is_signalled: bool,
}

impl Store for Port {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)> {
        self.handle.get(key)
    }
    fn set(&mut self, key: &str, value: &[u8]) {
        self.handle.set(key, value);
    }
    fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict> {
        self.handle.swap(key, value, expected)
    }
    fn epoch(&mut self) -> Option<u64> {
        self.handle.epoch().filter(|_| self.is_signalled)
    }
    fn raise_epoch(&mut self) {
        if self.is_signalled {
            self.handle.raise_epoch();
        }
    }
}

/// One worker with the group.
struct Thread {
    worker: Worker,
    hosts: Hosts,
    rules: Outlier,
    store: Port,
}

impl AsRef<Handle> for Thread {
    fn as_ref(&self) -> &Handle {
        &self.store.handle
    }
}

fn outlier(features: &str) -> String {
    format!(r#""outlier":{{"ejection_jitter":0,{features}}}"#)
}

fn rules(policy: &Policy) -> Outlier {
    policy.outlier.clone().expect("it ejects")
}

fn group() -> HostPaths {
    HostPaths::new(0, 0, GroupId::OfTheKey).expect("it is the key's")
}

fn address(host: usize) -> String {
    format!("10.0.0.{host}:80")
}

/// An empty store that checks the tables in what is written.
fn store(policy: &Policy) -> Handle {
    let rules = rules(policy);
    let most = rules.max_ejected.millis() as usize;
    Handle::new(move |key, _, new| {
        if key == group().table() {
            let table = HostTable::decode(new, FIRST).expect("what is written can be read");
            let (out, known) = (table.out(), table.known());
            let is_within = out * 100_000 <= most * known || out == 1 && rules.always_eject_one;
            assert!(is_within, "{out} of {known} hosts are out");
            for (_, host) in table.hosts() {
                if let State::Out { probes, passed, .. } = &host.state {
                    let used = probes.len() + usize::from(*passed);
                    assert!(used <= rules.probe_requests.get().into(), "{used} permits");
                }
            }
        }
    })
}

impl Thread {
    fn new(store: &Handle, policy: &Arc<Policy>, is_signalled: bool, seed: u64) -> Self {
        Thread {
            worker: Worker::new(seed),
            hosts: Hosts::new(group(), FIRST, Vec::new()),
            rules: rules(policy),
            store: Port { handle: store.clone(), is_signalled },
        }
    }

    fn ends(&mut self, host: usize, verdict: Verdict, sent: Timestamp, now: Timestamp) {
        self.ends_as(None, host, verdict, sent, now);
    }

    /// The probe of a host is over.
    fn ends_probe(&mut self, host: usize, verdict: Verdict, sent: Timestamp, now: Timestamp) {
        let id = self.hosts.table().and_then(|table| table.find(address(host).as_bytes()));
        self.ends_as(id, host, verdict, sent, now);
    }

    fn ends_as(&mut self, probe: Option<HostId>, host: usize, verdict: Verdict, sent: Timestamp, now: Timestamp) {
        let Thread { worker, hosts, rules, store } = self;
        if verdict == Verdict::Success && probe.is_none() && !hosts.wants_host(store, rules, now) {
            return;
        }
        let host = address(host);
        let end = if verdict == Verdict::Success { End::Http(200) } else { End::Http(503) };
        let one = HostAttempt { host: host.as_bytes(), end, verdict, took: Duration::from_millis(1), sent };
        hosts.judge(&mut Cx::new(store, worker, now, &mut Vec::new()), rules, one, probe);
    }

    fn fails(&mut self, host: usize, now: Timestamp) {
        self.ends(host, Verdict::Failure, now, now);
    }

    fn succeeds(&mut self, host: usize, now: Timestamp) {
        self.ends(host, Verdict::Success, now, now);
    }

    /// Our own checks find the host bad.
    fn finds_unhealthy(&mut self, host: usize, now: Timestamp) {
        let Thread { worker, hosts, rules, store } = self;
        let cause = EjectionCause::Heartbeat { failures: 3, last: None };
        let id = hosts.table().and_then(|table| table.find(address(host).as_bytes())).expect("it is known");
        hosts.find_unhealthy(&mut Cx::new(store, worker, now, &mut Vec::new()), rules, id, cause);
    }

    fn steers(&mut self, now: Timestamp) -> Option<Steering> {
        let Thread { worker, hosts, rules, store } = self;
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), rules);
        hosts.steer(&mut Cx::new(store, worker, now, &mut Vec::new()), rules, 1, false, &Asks::NOTHING)
    }

    fn probes(&mut self, now: Timestamp) -> bool {
        self.steers(now).is_some_and(|steering| steering.probe.is_some())
    }

    fn sweeps(&mut self, now: Timestamp) {
        let Thread { worker, hosts, rules, store } = self;
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), rules);
        hosts.sweep(&mut Cx::new(store, worker, now, &mut Vec::new()), rules);
    }

    fn takes_news(&mut self, now: Timestamp) -> Option<HostEvents> {
        let Thread { worker, hosts, rules, store } = self;
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), rules);
        hosts.take_events(&mut Cx::new(store, worker, now, &mut Vec::new()), rules)
    }

    fn looks(&mut self, now: Timestamp) {
        let Thread { worker, hosts, rules, store } = self;
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), rules);
    }
}

fn table(store: &Handle) -> HostTable {
    store.record(&group().table()).unwrap_or_default()
}

fn id(store: &Handle, host: usize) -> HostId {
    table(store).find(address(host).as_bytes()).expect("it is known")
}

fn is_out(store: &Handle, host: usize) -> bool {
    let table = table(store);
    let id = table.find(address(host).as_bytes()).expect("it is known");
    table.host(id).is_some_and(|host| !host.is_in())
}

fn run_length(store: &Handle, host: usize) -> u16 {
    let id = id(store, host);
    store.record::<HostRun>(&group().run(id.index)).map_or(0, |run| HostRun::of(id, Some(&run)).failures)
}

fn count(events: &HostEvents, kind: HostCount) -> u32 {
    events.counts().find(|(counted, _)| *counted == kind).map_or(0, |(_, count)| count)
}

/// Workers that know five hosts, have a place each, and look at what is new.
fn workers(count: u64, policy: &Arc<Policy>) -> (Handle, Vec<Thread>) {
    workers_on(count, policy, true)
}

fn workers_on(count: u64, policy: &Arc<Policy>, is_signalled: bool) -> (Handle, Vec<Thread>) {
    let store = store(policy);
    store.shared.signals_alone.store(count < 3, Ordering::Relaxed);
    let mut threads: Vec<_> = (0..count).map(|seed| Thread::new(&store, policy, is_signalled, seed)).collect();
    for round in 0..2 {
        for thread in &mut threads {
            // In the second round nobody has news for anybody.
            (0..5).for_each(|host| thread.succeeds(host, t(round)));
        }
    }
    (store, threads)
}

/// Lets every worker see what is there.
fn all_look(threads: &mut [Thread], now: Timestamp) {
    threads.iter_mut().for_each(|thread| thread.looks(now));
}

const RUNS: &str = r#""consecutive_failures":5"#;
const BEATS: &str = r#""consecutive_failures":0,"heartbeat":{"path":"/healthz"}"#;

// Limits

#[test]
fn three_workers_that_eject_a_host_each_take_out_the_two_that_may_be() {
    send_discovery_request(policy(&outlier(BEATS)), |policy| {
        let (store, threads) = workers(3, policy);
        race(threads, |number, thread| thread.finds_unhealthy(number, t(1)));
        let table = table(&store);
        assert_eq!(table.out(), 2, "two of five");
        assert_eq!(count(&table.events, HostCount::Overflow), 1, "and one is counted as one too many");
        assert_eq!(count(&table.events, HostCount::Detected(Detector::Heartbeat)), 3, "nobody is lost");
        assert_eq!(table.events.list.len(), 3);
    });
}

#[test]
fn two_workers_that_reach_the_limit_of_two_hosts_take_out_the_one_that_may_be() {
    send_discovery_request(policy(&outlier(r#""consecutive_failures":5,"max_ejected":20"#)), |policy| {
        let (store, mut threads) = workers(2, policy);
        for _ in 0..4 {
            threads[0].fails(0, t(2));
            threads[1].fails(1, t(2));
        }
        race(threads, |number, thread| thread.fails(number, t(2)));
        let table = table(&store);
        assert_eq!(table.out(), 1);
        assert_eq!(count(&table.events, HostCount::Overflow), 1);
    });
}

#[test]
fn a_host_that_three_workers_find_bad_at_once_is_ejected_once() {
    send_discovery_request(policy(&outlier(BEATS)), |policy| {
        let (store, threads) = workers(3, policy);
        race(threads, |_, thread| thread.finds_unhealthy(0, t(1)));
        let table = table(&store);
        assert_eq!((table.out(), table.events.list.len()), (1, 1));
        assert_eq!(
            table.host(id(&store, 0)).map(|host| host.ejections),
            Some(1),
            "its next time is not longer for that"
        );
    });
}

// Runs

#[test]
fn the_failures_of_two_workers_add_up_to_exactly_five() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers(2, policy);
        (0..3).for_each(|_| threads[0].fails(2, t(2)));
        threads[1].looks(t(2));
        race(threads, |_, thread| thread.fails(2, t(2)));
        assert!(is_out(&store, 2), "3 + 1 + 1");
        assert_eq!(count(&table(&store).events, HostCount::Ejected(Detector::ConsecutiveFailures)), 1);
    });
}

#[test]
fn the_failures_of_three_workers_that_are_one_too_few_eject_nobody() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        // Without a signal, which would only have each of them read the table as well.
        let (store, mut threads) = workers_on(3, policy, false);
        threads[0].fails(2, t(2));
        let mut done = race(threads, |_, thread| thread.fails(2, t(2)));
        assert_eq!((is_out(&store, 2), run_length(&store, 2)), (false, 4), "1 + 3");
        done[1].0.fails(2, t(3));
        assert!(is_out(&store, 2), "the fifth");
    });
}

#[test]
fn a_success_between_failures_begins_the_run_anew_wherever_it_comes() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers(2, policy);
        (0..3).for_each(|_| threads[0].fails(2, t(2)));
        let mut done = race(threads, |number, thread| match number {
            0 => (0..2).for_each(|_| thread.fails(2, t(2))),
            _ => thread.succeeds(2, t(2)),
        });
        if is_out(&store, 2) {
            return; // The success came after the fifth.
        }
        let length = run_length(&store, 2);
        assert!((1..=2).contains(&length), "failures after the success: {length}");
        for _ in length..4 {
            done[0].0.fails(2, t(3));
            assert!(!is_out(&store, 2));
        }
        done[0].0.fails(2, t(3));
        assert!(is_out(&store, 2), "five after the success");
    });
}

#[test]
fn a_success_that_came_before_the_next_failures_always_counts() {
    // Each worker goes on only with what it knows: signals may be late, but not lost.
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers(2, policy);
        (0..3).for_each(|_| threads[0].fails(2, t(2)));
        let mut done = race(threads, |number, thread| match number {
            0 => thread.fails(2, t(2)),
            // Of another host, which reads all runs that are new.
            _ => (0..2).for_each(|host| thread.succeeds(host, t(2))),
        });
        assert_eq!(run_length(&store, 2), 4);
        done[1].0.succeeds(2, t(2));
        assert_eq!(run_length(&store, 2), 0, "whatever it had seen by then, it sees the fourth failure");
        (0..4).for_each(|_| done[0].0.fails(2, t(3)));
        assert!(!is_out(&store, 2), "four, a success, four");
    });
}

#[test]
fn without_a_signal_the_failures_of_two_workers_add_up_too() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers_on(2, policy, false);
        (0..3).for_each(|_| threads[0].fails(2, t(2)));
        race(threads, |_, thread| thread.fails(2, t(5)));
        assert!(is_out(&store, 2));
        assert_eq!(count(&table(&store).events, HostCount::Ejected(Detector::ConsecutiveFailures)), 1);
    });
}

#[test]
fn without_a_signal_a_success_counts_once_what_was_seen_is_10_ms_old() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers_on(2, policy, false);
        (0..3).for_each(|_| threads[0].fails(2, t(2)));
        all_look(&mut threads, t(13));
        let mut done = race(threads, |number, thread| match number {
            0 => thread.fails(2, t(13)),
            _ => thread.succeeds(2, t(13)),
        });
        let length = run_length(&store, 2);
        assert!(length <= 1, "before or after: {length}");
        for _ in length..4 {
            done[0].0.fails(2, t(14));
        }
        assert!(!is_out(&store, 2));
        done[0].0.fails(2, t(14));
        assert!(is_out(&store, 2));
    });
}

#[test]
fn a_worker_that_crashes_anywhere_in_an_ejection_loses_at_most_that_run() {
    for calls in 0..7 {
        send_discovery_request(policy(&outlier(RUNS)), move |policy| {
            let (store, mut threads) = workers(2, policy);
            (0..4).for_each(|_| threads[0].fails(2, t(2)));
            threads[1].looks(t(2));
            threads[0].store.handle = store.crashing_after(calls);
            let mut done = race(threads, |_, thread| thread.fails(2, t(2)));
            for _ in 0..4 {
                done[1].0.fails(2, t(3));
            }
            let survivor = &mut done[1].0;
            if !is_out(&store, 2) {
                survivor.fails(2, t(3));
            }
            assert!(is_out(&store, 2), "after a crash at call {calls}");
            let ejected = count(&table(&store).events, HostCount::Ejected(Detector::ConsecutiveFailures));
            assert_eq!(ejected, 1);
        });
    }
}

// Probes

/// Takes host 2 out and lets all workers see it.
fn take_out(threads: &mut [Thread]) {
    (0..5).for_each(|_| threads[0].fails(2, t(2)));
    all_look(threads, t(3));
}

#[test]
fn of_three_workers_one_gets_the_only_permit() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (_, mut threads) = workers(3, policy);
        take_out(&mut threads);
        all_look(&mut threads, t(30_001));
        let done = race(threads, |_, thread| thread.probes(t(30_003)));
        assert_eq!(done.iter().filter(|(_, probes)| *probes).count(), 1);
    });
}

#[test]
fn of_three_workers_two_get_the_two_permits() {
    send_discovery_request(policy(&outlier(r#""consecutive_failures":5,"probe":{"requests":2}"#)), |policy| {
        let (_, mut threads) = workers(3, policy);
        take_out(&mut threads);
        all_look(&mut threads, t(30_001));
        let done = race(threads, |_, thread| thread.probes(t(30_003)));
        assert_eq!(done.iter().filter(|(_, probes)| *probes).count(), 2);
    });
}

#[test]
fn a_permit_whose_lease_is_over_is_taken_by_one_of_two_workers() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (_, mut threads) = workers(2, policy);
        take_out(&mut threads);
        assert!(threads[0].probes(t(30_003)));
        all_look(&mut threads, t(40_003));
        let done = race(threads, |_, thread| thread.probes(t(40_003)));
        assert_eq!(done.iter().filter(|(_, probes)| *probes).count(), 1);
    });
}

#[test]
fn a_probe_that_succeeds_while_others_ask_lets_the_host_back_and_nobody_probes_it() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers(2, policy);
        take_out(&mut threads);
        assert!(threads[0].probes(t(30_003)));
        all_look(&mut threads, t(30_004));
        let done = race(threads, |number, thread| match number {
            0 => {
                thread.ends_probe(2, Verdict::Success, t(30_003), t(30_005));
                false
            }
            _ => thread.probes(t(30_005)),
        });
        assert!(!done[1].1, "the only permit was used");
        assert!(!is_out(&store, 2));
        assert_eq!(count(&table(&store).events, HostCount::Readmitted), 1);
    });
}

#[test]
fn a_good_and_a_bad_probe_that_report_together_leave_the_host_out() {
    send_discovery_request(policy(&outlier(r#""consecutive_failures":5,"probe":{"requests":2}"#)), |policy| {
        let (store, mut threads) = workers(2, policy);
        take_out(&mut threads);
        assert!(threads[0].probes(t(30_003)) && threads[1].probes(t(30_003)));
        all_look(&mut threads, t(30_004));
        race(threads, |number, thread| {
            let verdict = if number == 0 { Verdict::Success } else { Verdict::Failure };
            thread.ends_probe(2, verdict, t(30_003), t(30_005));
        });
        let table = table(&store);
        let host = table.host(id(&store, 2)).expect("it is known");
        assert!(!host.is_in(), "both had to succeed");
        assert_eq!((host.ejections, count(&table.events, HostCount::ProbeFailed)), (2, 1));
        assert_eq!(host.due_since(), Some(t(90_005)), "out for twice the time");
    });
}

#[test]
fn two_bad_probes_that_report_together_are_one_failure() {
    send_discovery_request(policy(&outlier(r#""consecutive_failures":5,"probe":{"requests":2}"#)), |policy| {
        let (store, mut threads) = workers(2, policy);
        take_out(&mut threads);
        assert!(threads[0].probes(t(30_003)) && threads[1].probes(t(30_003)));
        all_look(&mut threads, t(30_004));
        race(threads, |_, thread| thread.ends_probe(2, Verdict::Failure, t(30_003), t(30_005)));
        let table = table(&store);
        assert_eq!(table.host(id(&store, 2)).map(|host| host.ejections), Some(2), "60 s and not 90 s");
        assert_eq!(count(&table.events, HostCount::ProbeFailed), 1);
    });
}

#[test]
fn the_last_two_probes_that_succeed_together_let_it_back_once() {
    send_discovery_request(policy(&outlier(r#""consecutive_failures":5,"probe":{"requests":2}"#)), |policy| {
        let (store, mut threads) = workers(2, policy);
        take_out(&mut threads);
        assert!(threads[0].probes(t(30_003)) && threads[1].probes(t(30_003)));
        all_look(&mut threads, t(30_004));
        race(threads, |_, thread| thread.ends_probe(2, Verdict::Success, t(30_003), t(30_005)));
        assert!(!is_out(&store, 2));
        assert_eq!(count(&table(&store).events, HostCount::Readmitted), 1);
    });
}

#[test]
fn one_of_three_workers_sends_a_request_unsteered() {
    send_discovery_request(policy(&outlier(r#""consecutive_failures":5,"base_ejection_time":"60s""#)), |policy| {
        let (_, mut threads) = workers(3, policy);
        take_out(&mut threads);
        all_look(&mut threads, t(5_003));
        let done = race(threads, |_, thread| thread.steers(t(5_003)).is_some());
        assert_eq!(done.iter().filter(|(_, steered)| !steered).count(), 1);
    });
}

// Sweeps

const RATES: &str = r#""consecutive_failures":0,"failure_rate":{"min_requests":4,"min_hosts":1,"mode":"shadow"}"#;

/// Lets each worker count two failures of host 2 in the interval that ends at `end`.
fn count_failures(threads: &mut [Thread], end: u64) {
    for thread in threads {
        for millis in [end - 40, end - 20] {
            thread.fails(2, t(millis));
        }
    }
}

fn would(store: &Handle) -> u32 {
    count(&table(store).events, HostCount::Would(Detector::FailureRate))
}

#[test]
fn of_two_workers_that_tick_together_one_sweeps() {
    send_discovery_request(policy(&outlier(RATES)), |policy| {
        let (store, mut threads) = workers(2, policy);
        count_failures(&mut threads, 20_000);
        all_look(&mut threads, t(20_100));
        race(threads, |_, thread| thread.sweeps(t(20_100)));
        assert_eq!(would(&store), 1, "the four failures of both, once");
    });
}

#[test]
fn of_three_workers_that_tick_together_one_sweeps() {
    send_discovery_request(policy(&outlier(RATES)), |policy| {
        let (store, mut threads) = workers(3, policy);
        count_failures(&mut threads, 20_000);
        all_look(&mut threads, t(20_100));
        race(threads, |number, thread| {
            // All see the same interval; the third one only looks at whether it is swept.
            if number < 2 { thread.sweeps(t(20_100)) } else { thread.looks(t(20_100)) }
        });
        assert_eq!(would(&store), 1);
    });
}

#[test]
fn a_worker_that_read_the_clock_a_moment_before_sweeps_nothing_twice() {
    send_discovery_request(policy(&outlier(RATES)), |policy| {
        let (store, mut threads) = workers(2, policy);
        count_failures(&mut threads, 20_000);
        threads[0].sweeps(t(20_100));
        assert_eq!(would(&store), 1);
        count_failures(&mut threads, 30_000);
        all_look(&mut threads, t(30_099));
        let mut done = race(threads, |number, thread| thread.sweeps(t(30_100 - number as u64)));
        done[0].0.sweeps(t(30_200));
        assert_eq!(would(&store), 2, "each interval once");
    });
}

#[test]
fn a_worker_that_dies_while_it_sweeps_loses_that_interval_only() {
    for calls in 0..10 {
        send_discovery_request(policy(&outlier(RATES)), move |policy| {
            let (store, mut threads) = workers(2, policy);
            count_failures(&mut threads, 20_000);
            all_look(&mut threads, t(20_100));
            threads[0].store.handle = store.crashing_after(calls);
            let mut done = race(threads, |_, thread| thread.sweeps(t(20_100)));
            let first = would(&store);
            assert!(first <= 1);
            let survivor = &mut done[1].0;
            for millis in [29_920, 29_940, 29_960, 29_980] {
                survivor.fails(2, t(millis));
            }
            survivor.sweeps(t(30_100));
            assert_eq!(would(&store), first + 1, "the next is swept, after a crash at call {calls}");
        });
    }
}

#[test]
fn a_sweep_undoes_nothing_that_happens_meanwhile() {
    let features = r#""consecutive_failures":5,"failure_rate":{"min_requests":4,"min_hosts":1}"#;
    send_discovery_request(policy(&outlier(features)), |policy| {
        let (store, mut threads) = workers(2, policy);
        for thread in &mut threads {
            thread.fails(0, t(19_960));
            thread.fails(0, t(19_980));
        }
        (0..4).for_each(|_| threads[1].fails(2, t(19_990)));
        all_look(&mut threads, t(20_100));
        race(threads, |number, thread| match number {
            0 => thread.sweeps(t(20_100)),
            _ => thread.fails(2, t(20_100)),
        });
        assert!(is_out(&store, 0), "by its rate");
        assert!(is_out(&store, 2), "by its run");
        assert_eq!(table(&store).events.list.len(), 2);
    });
}

// Hosts

#[test]
fn two_workers_that_find_the_same_host_enter_it_once() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, threads) = workers(2, policy);
        race(threads, |_, thread| thread.fails(7, t(2)));
        assert_eq!(table(&store).known(), 6);
        assert_eq!(run_length(&store, 7), 2, "and both failures are its own");
    });
}

#[test]
fn two_workers_that_find_two_hosts_enter_both() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, threads) = workers(2, policy);
        race(threads, |number, thread| thread.fails(7 + number, t(2)));
        assert_eq!(table(&store).known(), 7);
        assert_ne!(id(&store, 7), id(&store, 8));
        assert_eq!((run_length(&store, 7), run_length(&store, 8)), (1, 1));
    });
}

#[test]
fn a_listing_and_an_ejection_at_once_both_hold() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers(2, policy);
        (0..4).for_each(|_| threads[0].fails(2, t(2)));
        race(threads, |number, thread| match number {
            0 => thread.fails(2, t(2)),
            _ => {
                let Thread { worker, hosts, rules, store } = thread;
                let listed = HostListing::of_named(&[1, 2, 3, 9].map(address).map(NamedHost::at));
                hosts.list(&mut Cx::new(store, worker, t(2), &mut Vec::new()), rules, &listed, &[]);
            }
        });
        assert!(is_out(&store, 2));
        assert_eq!(table(&store).known(), 4);
    });
}

// News

#[test]
fn what_happened_is_told_by_one_of_three_workers() {
    send_discovery_request(policy(&outlier(RUNS)), |policy| {
        let (store, mut threads) = workers(3, policy);
        take_out(&mut threads);
        let done = race(threads, |_, thread| thread.takes_news(t(3)));
        let told: Vec<_> = done.into_iter().filter_map(|(_, events)| events).collect();
        assert_eq!(told.len(), 1);
        assert!(matches!(told[0].list[0].kind, HostEventKind::Ejected(..)));
        assert!(table(&store).events.is_empty());
    });
}

#[test]
fn nothing_is_lost_when_two_workers_eject_while_a_third_takes_the_news() {
    send_discovery_request(policy(&outlier(BEATS)), |policy| {
        let (store, mut threads) = workers(3, policy);
        threads[0].finds_unhealthy(4, t(2));
        all_look(&mut threads, t(2));
        let done = race(threads, |number, thread| match number {
            0 => thread.takes_news(t(2)),
            _ => {
                thread.finds_unhealthy(number, t(2));
                None
            }
        });
        let told = done.into_iter().find_map(|(_, events)| events).expect("there was something from the beginning");
        let left = table(&store).events;
        let both = |kind: HostCount| count(&told, kind) + count(&left, kind);
        assert_eq!(both(HostCount::Ejected(Detector::Heartbeat)), 2, "two may be out");
        assert_eq!(both(HostCount::Overflow), 1);
        assert_eq!(told.list.len() + left.list.len(), 3);
    });
}
