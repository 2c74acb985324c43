//! The wall clock is set, forward or back. Nothing is stuck longer than the documented periods, and no VM stops.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{Host, Response};

use crate::support::{BREAKER, HOUR, assert_gauge_agrees, fail, millis, passing, policy, seconds, succeed, trip};

pub type Jump = fn(&Host);

pub const JUMPS: [(&str, Jump); 4] = [
    ("an hour forward", |host| host.set_clock_forward(HOUR)),
    ("an hour back", |host| host.set_clock_back(HOUR)),
    ("a second back", |host| host.set_clock_back(seconds(1))),
    ("to 1971", |host| host.set_clock_back(HOUR * 24 * 365 * 55)),
];

fn in_state(state: StateName) -> Host {
    let ramping = BREAKER.replace(r#""open_jitter":0"#, r#""open_jitter":0,"ramp":"20s""#);
    let host = Host::with(&policy(&ramping)).workers(3).start();
    for worker in 0..3 {
        succeed(&host, worker);
    }
    if state != StateName::Closed {
        trip(&host, 0);
    }
    if matches!(state, StateName::HalfOpen | StateName::Ramping) {
        host.advance(seconds(30));
    }
    match state {
        StateName::HalfOpen => std::mem::forget([host.get(1), host.get(2)]),
        StateName::Ramping => (0..5).for_each(|_| drop(succeed(&host, 1))),
        _ => {}
    }
    assert_eq!(host.state(), state);
    host
}

/// How long it takes until the breaker is closed and ten requests in a row pass on every worker.
fn until_everything_passes(host: &Host) -> std::time::Duration {
    let start = host.elapsed();
    loop {
        let all_pass = (0..3).all(|worker| passing(host, worker, 10, 200) == 10);
        if all_pass && host.state() == StateName::Closed {
            return host.elapsed() - start;
        }
        host.advance(seconds(1));
        assert!(host.elapsed() - start < HOUR, "it is stuck: {:?}", host.breaker());
    }
}

#[test]
fn in_no_state_a_jump_holds_anything_up_longer_than_its_period() {
    let mut trace = Trace::new("How long after a jump of the clock a healthy service has all its traffic again");
    let states = [
        (StateName::Closed, 0),
        // What is left of the open period, then the ramp.
        (StateName::Open, 30 + 20),
        // The leases of the two probes that are lost, then the ramp.
        (StateName::HalfOpen, 10 + 20),
        (StateName::Ramping, 20),
    ];
    for (state, most) in states {
        for (what, jump) in JUMPS {
            let host = in_state(state);
            jump(&host);
            let took = until_everything_passes(&host);
            trace.line(format_args!("{state}, {what}: {} s", took.as_secs()));
            assert!(took <= seconds(most + 1), "{state}, {what}: {took:?}");
            assert_gauge_agrees(&host);
            host.assert_no_trap();
        }
    }
    trace.check("clock");
}

#[test]
fn after_a_jump_failures_open_it_as_ever() {
    let rates = r#""breaker":{"window":"10s","min_requests":20,"failure_rate":50,"open_jitter":0}"#;
    let counts = r#""breaker":{"window":40,"min_requests":20,"failure_rate":50,"open_jitter":0}"#;
    for (breaker, most) in [(BREAKER, 3), (rates, 60), (counts, 60)] {
        for (what, jump) in JUMPS {
            let host = Host::with(&policy(breaker)).workers(3).start();
            for number in 0..30 {
                succeed(&host, number % 3);
            }
            jump(&host);
            let mut failures = 0;
            while host.state() == StateName::Closed {
                fail(&host, failures % 3);
                host.advance(millis(10));
                failures += 1;
                assert!(failures <= most, "{breaker}, {what}: {failures} failures have not opened it");
            }
            host.assert_no_trap();
        }
    }
}

/// What was counted before the jump must not open the breaker after it.
#[test]
fn a_jump_alone_opens_nothing() {
    for (what, jump) in JUMPS {
        let host = Host::with(&policy(BREAKER)).workers(3).start();
        for worker in [0, 1, 0, 1] {
            fail(&host, worker);
            succeed(&host, 2);
        }
        jump(&host);
        for number in 0..30 {
            succeed(&host, number % 3);
        }
        assert_eq!(host.state(), StateName::Closed, "{what}");
        host.assert_no_trap();
    }
}

#[test]
fn places_in_flight_survive_a_jump_and_are_never_more_than_the_limit() {
    for (what, jump) in JUMPS {
        let host = Host::with(&policy(r#""concurrency":{"max_requests":4}"#)).workers(2).start();
        let held: Vec<_> = (0..4).map(|number| host.get(number % 2).passed()).collect();
        jump(&host);
        // Both renew their counts at a tick.
        host.advance(seconds(3));
        assert!(!host.get(0).has_passed() && !host.get(1).has_passed(), "{what}: four are in flight");
        for pending in held {
            pending.respond(Response::status(200));
        }
        assert_eq!(host.in_flight(), 0, "{what}");
        let again: Vec<_> = (0..4).map(|number| host.get(number % 2).passed()).collect();
        assert!(!host.get(0).has_passed(), "{what}: the limit holds as before");
        drop(again);
        host.assert_no_trap();
    }
}

#[test]
fn a_throttle_that_rejects_stops_when_the_host_is_well_again_whatever_the_clock_does() {
    for (what, jump) in JUMPS {
        let host = Host::with(&policy(r#""throttle":{"window":"10s"}"#)).workers(2).start();
        for number in 0..200 {
            host.get(number % 2).with(Response::status(503));
        }
        assert!(passing(&host, 0, 100, 503) < 60, "it throttles");
        jump(&host);
        host.advance(seconds(1));
        let start = host.elapsed();
        while passing(&host, 0, 20, 200) < 20 || passing(&host, 1, 20, 200) < 20 {
            host.advance(seconds(1));
            assert!(host.elapsed() - start < seconds(25), "{what}: still throttled");
        }
        host.assert_no_trap();
    }
}
