//! Swaps that fail again and again.

use holdfast_engine::breaker::StateName;
use holdfast_engine::store::workers::KEY as WORKERS;
use holdfast_host_tests::{Host, Response};

use crate::outlier_support::{FIVE, World, ejecting_and};
use crate::support::{BREAKER, count, fail, millis, passing, policy, seconds, succeed, trip};

const ALWAYS: u64 = u64::MAX;

#[test]
fn while_no_permit_can_be_taken_none_passes_and_that_is_counted() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let opened = host.breaker();
    host.contend("/breaker", ALWAYS);
    assert_eq!(passing(&host, 0, 10, 200), 0);
    assert_eq!(passing(&host, 1, 10, 200), 0);
    assert_eq!(host.breaker(), opened);
    assert_eq!(count(&host, "shared_data.contention"), 20, "each gave up once");
    assert_eq!(count(&host, "rejected.open"), 20);
    host.nothing_fails();
    assert_eq!(passing(&host, 0, 10, 200), 10, "five probes and what follows");
    host.assert_no_trap();
}

#[test]
fn a_swap_that_succeeds_at_the_last_attempt_is_no_contention() {
    let host = Host::with(&policy(BREAKER)).workers(1).start();
    trip(&host, 0);
    host.advance(seconds(30));
    host.contend("/breaker", 63);
    assert_eq!(passing(&host, 0, 1, 200), 1);
    assert_eq!(count(&host, "shared_data.contention"), 0);
    host.contend("/breaker", 64);
    assert_eq!(passing(&host, 0, 1, 200), 0, "the next one gives up");
    assert_eq!(count(&host, "shared_data.contention"), 1);
    host.assert_no_trap();
}

#[test]
fn half_open_stays_within_its_probes_in_any_storm() {
    let host = Host::with(&policy(BREAKER)).workers(4).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let mut held = Vec::new();
    for round in 0..200_u64 {
        host.nothing_fails();
        host.contend("/breaker", round % 67);
        let exchange = host.get((round % 4) as usize);
        if exchange.has_passed() {
            held.push(exchange.passed());
        }
        assert!(host.breaker().probes_in_flight() <= 5 && held.len() <= 5);
    }
    assert_eq!(held.len(), 5);
    host.assert_no_trap();
}

/// All records that are changed by swaps. Which seat gives up, and in which callback, does not matter.
#[test]
fn giving_up_is_counted_wherever_it_happens() {
    let features = r#""breaker":{"min_requests":10},"concurrency":{"max_requests":100},"retry":{"on":["5xx"]}"#;
    let document = ejecting_and(r#""heartbeat":{"path":"/healthz"},"consecutive_failures":{}"#, features);
    let records = [
        "/breaker",
        "/retry/",
        "/leader",
        "/run/",
        "/table",
        "/concurrency/",
        "/directory",
        "/series/",
        "/policies",
        "/attempt_workers",
        WORKERS,
    ];
    for record in records {
        let world = World::start(&document, 2, &FIVE);
        if record == "/policies" {
            world.host.update(&document.replace("5xx", "gateway-error")).unwrap();
        }
        let of_start = ["/directory", "/series/", "/attempt_workers", WORKERS];
        if !of_start.contains(&record) {
            world.traffic_for(seconds(1));
            assert_eq!(world.count("shared_data.contention"), 0, "{record}");
        }
        world.host.contend(record, ALWAYS);
        FIVE.iter().for_each(|host| world.hosts.does(host, 503));
        world.traffic_for(seconds(7));
        world.host.nothing_fails();
        world.hosts.are_well();
        world.traffic_for(seconds(2));
        // Under whatever key: without a place in the directory it is the overflow key.
        let counts = world.host.metrics().into_iter().filter(|(name, _)| name.ends_with(";.;shared_data.contention"));
        assert!(counts.map(|(_, count)| count).sum::<u64>() > 0, "nobody counts that {record} could not be changed");
        world.host.assert_no_trap();
    }
}

#[test]
fn a_trip_that_cannot_be_written_is_made_by_the_next_failure() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    host.contend("/breaker", ALWAYS);
    for _ in 0..5 {
        fail(&host, 0);
    }
    assert_eq!(host.state(), StateName::Closed, "it could not be written");
    assert_eq!(count(&host, "shared_data.contention"), 3, "from the third failure on it was tried");
    assert_eq!(count(&host, "breaker_opened.consecutive_failures"), 0);
    host.nothing_fails();
    fail(&host, 1);
    assert_eq!(host.state(), StateName::Open);
    assert_eq!(count(&host, "breaker_opened.consecutive_failures"), 1);
    host.assert_no_trap();
}

/// Two workers see the third failure at the same time.
#[test]
fn a_trip_that_another_made_first_is_made_and_told_once() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    succeed(&host, 1);
    host.advance(millis(1));
    fail(&host, 0);
    fail(&host, 0);
    let other = host.get(1).passed();
    host.race_before_swap("/breaker", move |_| drop(other.respond(Response::status(503))));
    fail(&host, 0);
    assert_eq!(host.logged("closed -> open").len(), 1);
    assert_eq!(count(&host, "breaker_opened.consecutive_failures"), 1);
    assert_eq!(host.breaker().cell.generation, 1);
    host.assert_no_trap();
}

#[test]
fn requests_that_cannot_be_counted_pass_and_give_nothing_back_that_they_do_not_hold() {
    let host = Host::with(&policy(r#""concurrency":{"max_requests":2}"#)).workers(2).start();
    let counted: Vec<_> = (0..2).map(|worker| host.get(worker).passed()).collect();
    host.contend("/concurrency/", ALWAYS);
    let uncounted: Vec<_> = (0..4).map(|number| host.get(number % 2)).collect();
    host.nothing_fails();
    assert_eq!(host.in_flight(), 2);
    for exchange in uncounted {
        exchange.with(Response::status(200));
    }
    assert_eq!(host.in_flight(), 2, "their ends are not the ends of others");
    for pending in counted {
        pending.respond(Response::status(200));
    }
    assert_eq!(host.in_flight(), 0);
    host.assert_no_trap();
}

/// The end of a request could not be written; the next change of that worker makes it good.
#[test]
fn an_end_that_cannot_be_written_is_made_good() {
    let host = Host::with(&policy(r#""concurrency":{"max_requests":2}"#)).workers(2).start();
    let held: Vec<_> = (0..2).map(|_| host.get(0).passed()).collect();
    host.contend("/concurrency/", ALWAYS);
    for pending in held {
        pending.respond(Response::status(200));
    }
    host.nothing_fails();
    assert!(!host.get(1).has_passed(), "shared data still says 2");
    host.advance(seconds(10));
    assert!(host.get(1).has_passed(), "not for longer than the lease");
    assert!(count(&host, "shared_data.contention") > 0);
    host.assert_no_trap();
}

#[test]
fn a_worker_that_finds_no_place_enforces_without_counting() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    host.contend(WORKERS, ALWAYS);
    for _ in 0..5 {
        fail(&host, 0);
    }
    assert_eq!(host.state(), StateName::Closed, "failures that cannot be counted open nothing");
    host.nothing_fails();
    trip(&host, 1);
    assert_eq!(passing(&host, 0, 5, 200), 0);
    host.assert_no_trap();
}
