//! What the stories have in common.

use std::time::Duration;

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Answer, Host, Request, Response};

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub const HOUR: Duration = Duration::from_secs(3600);

/// A document with the one policy `orders`, which has one state for everything; `features` are its other keys.
pub fn policy(features: &str) -> String {
    format!(r#"{{"policies":[{{"name":"orders","scope":[],{features}}}]}}"#)
}

/// As [`policy()`], with these keys in its `retry`.
pub fn retrying(keys: &str) -> String {
    policy(&format!(r#""retry":{{{keys}}}"#))
}

/// Every worker's request seat finds out that the cluster has an attempt seat: it looks once a second.
pub fn seats_meet(host: &Host) {
    let requests = || {
        for worker in 0..host.workers() {
            host.send(worker, Request::get("/")).attempt().responds(200);
        }
    };
    requests();
    host.advance(seconds(1));
    requests();
}

/// The breaker that most stories are about: opens at 3 failures in a row for 30 s, probes 5 times.
pub const BREAKER: &str = r#""breaker":{"consecutive_failures":3,"failure_rate":0,"open_for":"30s","open_jitter":0,
    "half_open":{"probes":5,"lease":"10s"}}"#;

/// The host answers well.
#[track_caller]
pub fn succeed(host: &Host, worker: usize) -> Answer {
    host.get(worker).passed().respond(Response::status(200))
}

/// The host fails.
#[track_caller]
pub fn fail(host: &Host, worker: usize) -> Answer {
    host.get(worker).passed().respond(Response::status(503))
}

/// Three failures on a worker open the breaker.
#[track_caller]
pub fn trip(host: &Host, worker: usize) {
    for _ in 0..3 {
        fail(host, worker);
    }
    assert_eq!(host.state(), StateName::Open, "three failures in a row open it");
}

/// How many of `count` requests to a worker pass now; what passes is answered with `status`.
pub fn passing(host: &Host, worker: usize, count: usize, status: u16) -> usize {
    let answers = (0..count).map(|_| host.get(worker).with(Response::status(status)));
    answers.filter(|answer| !answer.is_holdfasts()).count()
}

/// A metric of the one policy and key.
pub fn count(host: &Host, metric: &str) -> u64 {
    host.metric_of("orders", "all", metric)
}

/// Checks that the gauge says what shared data says. Every worker must have had a request since the last change.
#[track_caller]
pub fn assert_gauge_agrees(host: &Host) {
    let (gauge, state) = (count(host, "breaker_state"), host.state());
    assert_eq!(gauge, state as u64, "the gauge breaker_state and the record must agree; the record is {state}");
}
