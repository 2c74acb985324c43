//! What waits a moment before others see it: outcomes that decide nothing, and what was counted.

use std::cell::Cell;
use std::rc::Rc;

use holdfast_engine::breaker::StateName;
use holdfast_engine::store::workers;
use holdfast_host_tests::{Host, Response, Seat, Thread};

use crate::support::{count, fail, millis, policy, seconds, succeed};

/// Opens when half of at least twenty fail.
const RATE: &str = r#""breaker":{"min_requests":20}"#;

/// What the metric said last, whatever waits.
fn told(host: &Host, metric: &str) -> u64 {
    host.metric_told(&format!("holdfast.policy=.=orders;.;key=.=all;.;{metric}")).unwrap_or(0)
}

/// A worker that has seen so much that its successes decide nothing any more.
fn warm(host: &Host, worker: usize) {
    for _ in 0..25 {
        succeed(host, worker);
    }
    host.advance(millis(200));
}

/// Calls of the workers' request seats in a second.
fn calls_in_a_second(host: &Host) -> u64 {
    let calls = || (0..host.workers()).map(|worker| host.calls(Seat::Request.on(worker))).sum::<u64>();
    let before = calls();
    host.advance(seconds(1));
    calls() - before
}

#[test]
fn what_was_counted_is_told_within_100_ms() {
    let host = Host::with(&policy(RATE)).workers(2).start();
    warm(&host, 0);
    assert_eq!((told(&host, "requests"), told(&host, "success")), (25, 25));
    for worker in [0, 1, 0] {
        succeed(&host, worker);
    }
    assert_eq!((told(&host, "requests"), told(&host, "success")), (25, 25), "not yet");
    host.advance(millis(100));
    assert_eq!((told(&host, "requests"), told(&host, "success")), (28, 28));
    host.assert_no_trap();
}

#[test]
fn a_line_in_the_log_comes_with_the_numbers_that_led_to_it() {
    let host = Host::with(&policy(RATE)).workers(1).start();
    for _ in 0..20 {
        fail(&host, 0);
    }
    assert_eq!(host.logged("closed -> open").len(), 1);
    assert_eq!(
        [told(&host, "requests"), told(&host, "failure"), told(&host, "breaker_opened.failure_rate")],
        [20, 20, 1]
    );
}

/// Worker 0's successes wait for at most 10 ms, then worker 1's failures are compared with all of them.
#[test]
fn outcomes_are_there_for_other_workers_within_10_ms() {
    let host = Host::with(&policy(RATE)).workers(2).start();
    warm(&host, 0);
    succeed(&host, 0);
    for _ in 0..74 {
        succeed(&host, 0);
    }
    host.advance(millis(10));
    for failures in 1..100 {
        fail(&host, 1);
        assert_eq!(host.state(), StateName::Closed, "{failures} of {} fail", 100 + failures);
    }
    fail(&host, 1);
    assert_eq!(host.state(), StateName::Open, "100 of 200 fail");
    host.assert_no_trap();
}

#[test]
fn a_worker_that_is_busy_writes_every_10_ms_and_an_idle_one_ticks_once_a_second() {
    let host = Host::with(&policy(RATE)).workers(1).start();
    // In its first second the policy is entered.
    host.advance(seconds(2));
    let before = calls_in_a_second(&host);
    assert!(before <= 4, "{before} calls before any request");
    warm(&host, 0);
    let writes = Rc::new(Cell::new(0));
    let seen = Rc::clone(&writes);
    host.on_call(move |_, call| {
        seen.set(seen.get() + u32::from(call.writes("/slot/") && call.thread != Thread::Main));
        None
    });
    for _ in 0..1000 {
        succeed(&host, 0);
        host.advance(millis(1));
    }
    let written = writes.get();
    assert!((90..=110).contains(&written), "{written} writes in the second of a thousand requests");
    host.advance(seconds(3));
    let after = calls_in_a_second(&host);
    assert!(after <= 4, "{after} calls a second when all is quiet again");
    host.assert_no_trap();
}

#[test]
fn one_request_a_second_makes_few_ticks() {
    let host = Host::with(&policy(RATE)).workers(1).start();
    warm(&host, 0);
    for _ in 0..5 {
        host.advance(seconds(1));
        succeed(&host, 0);
        let calls = calls_in_a_second(&host);
        assert!(calls <= 20, "{calls} calls in the second after a request");
    }
}

#[test]
fn what_a_replaced_policy_has_counted_is_told() {
    let host = Host::with(&policy(RATE)).workers(1).start();
    let pending = host.get(0).passed();
    succeed(&host, 0);
    host.update(&policy(r#""breaker":{"min_requests":30}"#)).unwrap();
    assert_eq!(told(&host, "requests"), 0);
    pending.respond(Response::status(200));
    host.advance(millis(100));
    assert_eq!((told(&host, "requests"), told(&host, "success")), (2, 2));
    host.assert_no_trap();
}

#[test]
fn a_worker_that_dies_takes_no_more_with_it_than_waited() {
    let host = Host::with(&policy(RATE)).workers(2).start();
    warm(&host, 0);
    (0..5).for_each(|_| drop(succeed(&host, 0)));
    host.crash(0);
    host.advance(seconds(2));
    warm(&host, 1);
    let requests = count(&host, "requests");
    assert!((50..=55).contains(&requests), "{requests}");
}

#[test]
fn a_clock_that_is_put_back_puts_off_no_renewal() {
    for back in [1, 5, 3600] {
        let host = Host::with(&policy(RATE)).workers(1).start();
        warm(&host, 0);
        let (_, before) = host.shared(workers::KEY).unwrap();
        host.set_clock_back(seconds(back));
        // Due after three seconds by any clock, and looked at once a second.
        host.advance(seconds(5));
        let (_, after) = host.shared(workers::KEY).unwrap();
        assert_ne!(before, after, "{back} s back: the worker's place is renewed");
    }
}
