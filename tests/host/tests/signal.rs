//! How fast the others learn of a transition, and what that costs.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::Host;

use crate::support::{BREAKER, assert_gauge_agrees, millis, passing, policy, seconds, succeed, trip};

fn warm(host: &Host) {
    for worker in 0..host.workers() {
        succeed(host, worker);
    }
}

#[test]
fn every_worker_sees_a_transition_at_its_next_request() {
    let host = Host::with(&policy(BREAKER)).workers(8).start();
    warm(&host);
    trip(&host, 5);
    for worker in 0..8 {
        assert_eq!(passing(&host, worker, 1, 200), 0, "worker {worker} at the same instant");
    }
    assert!(host.logged("stats matcher").is_empty());
    host.assert_no_trap();
}

#[test]
fn where_the_gauge_is_dropped_a_transition_is_seen_within_ten_milliseconds_and_a_line_says_so() {
    let host = Host::with(&policy(BREAKER)).workers(4).dropping_metrics(|name| name == "holdfast.epoch").start();
    assert_eq!(host.logged("the stats matcher drops the gauge wasmcustom.holdfast.epoch").len(), 1, "once for all");
    for _ in 0..3 {
        warm(&host);
        trip(&host, 0);
        assert_eq!(passing(&host, 0, 1, 200), 0, "the one who did it knows at once");
        host.advance(millis(9));
        assert_eq!(passing(&host, 1, 1, 200), 1, "the others look every 10 ms");
        host.advance(millis(1));
        for worker in 1..4 {
            assert_eq!(passing(&host, worker, 1, 200), 0);
        }
        assert_gauge_agrees(&host);
        host.advance(seconds(300));
        for worker in [0, 1, 2, 3, 0] {
            assert_eq!(passing(&host, worker, 1, 200), 1);
        }
        assert_eq!(host.state(), StateName::Closed);
        host.advance(millis(10));
    }
    host.assert_no_trap();
}

#[test]
fn without_any_metrics_everything_but_the_metrics_works() {
    let host = Host::with(&policy(BREAKER)).workers(2).dropping_metrics(|_| true).start();
    warm(&host);
    trip(&host, 0);
    host.advance(millis(10));
    assert_eq!(passing(&host, 1, 1, 200), 0);
    host.advance(seconds(30));
    assert_eq!(passing(&host, 1, 5, 200), 5);
    assert_eq!(host.state(), StateName::Closed);
    assert!(host.metrics().is_empty());
    host.assert_no_trap();
}

/// The gauge that signals wraps around, or somebody resets it: any change is a change.
#[test]
fn two_transitions_in_a_row_are_seen_as_what_they_come_to() {
    let host = Host::with(&policy(BREAKER)).workers(3).start();
    warm(&host);
    trip(&host, 0);
    host.advance(seconds(30));
    assert_eq!(passing(&host, 0, 5, 200), 5);
    assert_eq!(host.state(), StateName::Closed);
    assert_eq!(passing(&host, 1, 10, 200), 10, "worker 1 missed that it ever was open");
    assert_eq!(passing(&host, 2, 10, 200), 10);
    assert_gauge_agrees(&host);
    host.assert_no_trap();
}
