//! Requests deposit into the retry budget when they are sent: in an outage that hangs those under way have.

use holdfast_host_tests::{Host, Request, Routed};

use crate::support::{count, millis, policy, seconds};

/// Sends so many requests at once, on all workers by turns.
fn send(host: &Host, requests: usize) -> Vec<Routed> {
    (0..requests).map(|number| host.send(number % host.workers(), Request::get("/"))).collect()
}

/// Every worker's request seat finds out that there is an attempt seat. Without one a request is sent as one to be retried only while
/// there is a token, so it takes several.
fn seats_meet(host: &Host) {
    for pause in [50, 1000] {
        for number in 0..4 * host.workers() {
            host.send(number % host.workers(), Request::get("/")).attempt().responds(200);
        }
        host.advance(millis(pause));
    }
    // What they have deposited leaves.
    host.advance(seconds(10));
}

/// All attempts that are at a host fail.
fn fail_all(under_way: &[Routed]) {
    for attempt in under_way.iter().flat_map(Routed::attempts).filter(|one| !one.is_held() && !one.has_answered()) {
        attempt.responds(503);
    }
}

/// Two workers, on which so many requests are sent at once that all fail `after`. Gives the retries that the hosts see.
fn retries(budget: &str, requests: usize, after: u64) -> usize {
    let features = format!(r#""retry":{{"max_retries":1,"on":["503"],"budget":{budget}}}"#);
    let host = Host::with(&policy(&features)).workers(2).attempt_seat().start();
    seats_meet(&host);
    let under_way = send(&host, requests);
    host.advance(millis(after));
    fail_all(&under_way);
    host.advance(seconds(1));
    let all: usize = under_way.iter().map(|request| request.tries().len()).sum();
    fail_all(&under_way);
    assert!(under_way.iter().all(Routed::is_over), "one retry each, and no more");
    host.advance(seconds(1));
    assert_eq!(count(&host, "retries"), (all - requests) as u64);
    host.assert_no_trap();
    all - requests
}

#[test]
fn half_of_a_hundred_requests_that_fail_together_may_be_retried() {
    assert_eq!(retries(r#"{"ratio":50,"min_per_second":0,"window":"1s"}"#, 100, 300), 50);
}

#[test]
fn of_four_hundred_at_the_defaults_a_fifth_and_the_reserve() {
    assert_eq!(retries("{}", 400, 600), 180);
}

#[test]
fn what_is_sent_counts_for_the_other_worker_ten_milliseconds_later() {
    let features = r#""retry":{"max_retries":1,"on":["503"],"budget":{"ratio":50,"min_per_second":0,"window":"1s"}}"#;
    let host = Host::with(&policy(features)).workers(2).attempt_seat().start();
    seats_meet(&host);
    let hangs: Vec<_> = (0..3).map(|_| host.send(1, Request::get("/"))).collect();
    host.advance(millis(10));
    let fails = host.send(0, Request::get("/"));
    fails.attempt().responds(503);
    host.advance(seconds(1));
    assert_eq!(fails.tries().len(), 2, "three that hang elsewhere are a token and a half");
    drop(hangs);
}

#[test]
fn a_request_that_another_feature_turns_away_deposits_nothing() {
    let features = r#""concurrency":{"max_requests":1},
        "retry":{"max_retries":1,"on":["503"],"budget":{"ratio":50,"min_per_second":0,"window":"1s"}}"#;
    let host = Host::with(&policy(features)).workers(1).attempt_seat().start();
    seats_meet(&host);
    let only = host.send(0, Request::get("/"));
    for _ in 0..9 {
        assert_eq!(host.send(0, Request::get("/")).answer().status, 503, "one is under way");
    }
    host.advance(millis(20));
    only.attempt().responds(503);
    host.advance(seconds(1));
    assert_eq!(only.tries().len(), 1, "one request is half a token");
    assert_eq!(count(&host, "retries_denied.budget"), 1);
}
