//! Two hours without a host, seen from sixteen workers.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{Host, Response};

use crate::support::{assert_gauge_agrees, count, millis, policy, seconds};

const WORKERS: usize = 16;

/// The host is down from the first minute to the end of the second hour, but for two moments in which it seems to be
/// back, just when it is probed.
fn is_up(second: u64) -> bool {
    !(60..7200).contains(&second) || (1785..1795).contains(&second) || (4230..4300).contains(&second)
}

/// What one burst of sixteen requests, one on each worker at the same instant, came to.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Burst {
    admitted: usize,
    failed: usize,
}

fn burst(host: &Host) -> Burst {
    let all: Vec<_> = (0..WORKERS).map(|worker| host.get(worker)).collect();
    let pending: Vec<_> = all.into_iter().filter(|one| one.has_passed()).map(|one| one.passed()).collect();
    let admitted = pending.len();
    host.advance(millis(300));
    let status = if is_up(host.elapsed().as_secs()) { 200 } else { 503 };
    // The answers come in the opposite order.
    for one in pending.into_iter().rev() {
        one.respond(Response::status(status));
    }
    host.advance(millis(9700));
    Burst { admitted, failed: if status == 200 { 0 } else { admitted } }
}

#[test]
fn two_hours_of_outage_cost_the_host_five_requests_every_five_minutes() {
    let host = Host::with(&policy(
        r#""breaker":{"window":"20s","min_requests":20,"failure_rate":50,"open_for":"30s","open_growth":2,
            "open_max":"5m","open_jitter":0,"half_open":{"probes":5,"lease":"10s"}}"#,
    ))
    .workers(WORKERS)
    .start();
    let mut trace = Trace::new("Two hours of outage, 16 workers, a burst of one request on each every 10 s");
    let (mut rejected, mut failed_after_opening) = (0, 0);
    let mut quarter = Burst::default();

    while host.elapsed() < seconds(7500) {
        let before = host.state();
        let now = burst(&host);
        trace.catch_up(&host);
        rejected += WORKERS - now.admitted;
        quarter = Burst { admitted: quarter.admitted + now.admitted, failed: quarter.failed + now.failed };
        match (before, now.admitted) {
            (StateName::Closed, admitted) => assert_eq!(admitted, WORKERS, "a closed breaker lets everything pass"),
            (StateName::Open, 0) => {}
            (StateName::Open, admitted) => {
                assert_eq!(admitted, 5, "of sixteen at the same instant, half-open lets exactly five probe");
                failed_after_opening += now.failed;
            }
            (state, _) => panic!("five answers that came have decided half-open, but the state is {state}"),
        }
        if host.elapsed().as_secs().is_multiple_of(900) {
            trace.note(
                &host,
                format_args!("the last quarter of an hour: {} passed, {} failed", quarter.admitted, quarter.failed),
            );
            quarter = Burst::default();
        }
    }
    assert_eq!(host.state(), StateName::Closed, "five minutes after the host came back, so is the service");
    assert_gauge_agrees(&host);
    trace.line(format_args!("requests {}, rejected {}", count(&host, "requests"), count(&host, "rejected.open")));
    trace.line(format_args!("failures while it was open or probed: {failed_after_opening}"));
    assert_eq!(count(&host, "rejected.open"), rejected as u64, "every rejection is counted once, whoever made it");
    assert_eq!(
        count(&host, "requests"),
        count(&host, "rejected.open") + count(&host, "success") + count(&host, "failure")
    );
    assert_eq!(count(&host, "ignored"), 0);
    host.assert_no_trap();
    for worker in 0..WORKERS {
        assert_eq!(host.streams(worker), 0, "no context is left behind");
    }
    trace.check("outage");
}

#[test]
fn open_periods_grow_to_their_maximum_and_jitter_stays_within_its_share() {
    let host = Host::with(&policy(
        r#""breaker":{"consecutive_failures":1,"open_for":"10s","open_growth":2,"open_max":"60s","open_jitter":20,
            "half_open":{"probes":1,"lease":"10s"}}"#,
    ))
    .workers(2)
    .start();
    let mut jitters = Vec::new();
    for expected in [10, 20, 40, 60, 60, 60] {
        host.get(0).passed().respond(Response::status(503));
        let opened = host.elapsed();
        until_one_passes(&host, 1);
        let period = host.elapsed() - opened;
        let most = seconds(expected) * 12 / 10 + millis(100);
        assert!(period >= seconds(expected) && period <= most, "{period:?} is {expected} s and up to a fifth more");
        jitters.push(period - seconds(expected));
        // The probe above is never answered: its lease passes, and the next request is the one that fails.
        host.advance(seconds(10));
    }
    jitters.sort();
    jitters.dedup();
    assert!(jitters.len() > 3, "the additions differ: {jitters:?}");
    host.assert_no_trap();
}

/// A request to `worker` every tenth of a second until one passes.
fn until_one_passes(host: &Host, worker: usize) {
    while !host.get(worker).has_passed() {
        host.advance(millis(100));
    }
}
