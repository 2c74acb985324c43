//! A VM dies, with something in hand. Nothing of what it held may count for ever, and the others must go on.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{By, Host, Response};

use crate::support::{BREAKER, assert_gauge_agrees, count, fail, millis, passing, policy, seconds, succeed, trip};

const IN_FLIGHT: &str = r#""concurrency":{"max_requests":5}"#;

#[test]
fn probes_of_a_vm_that_died_come_back_with_their_leases() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    let mut trace = Trace::new("A VM dies with all five permits of half-open in hand");
    trip(&host, 0);
    host.advance(seconds(30));
    let probes: Vec<_> = (0..5).map(|_| host.get(1).passed()).collect();
    trace.note(&host, "worker 1 has five probes in flight, and its VM dies");
    host.crash(1);
    for probe in probes {
        let answer = probe.respond(Response::status(200));
        assert_eq!((answer.by, answer.status), (By::Envoy, 503), "Envoy fails the streams of a dead VM");
    }
    host.advance(millis(9_999));
    assert_eq!(passing(&host, 0, 5, 200), 0, "until the leases are over nothing passes: never one probe more");
    trace.note(&host, "nothing has passed");
    host.advance(millis(1));
    assert_eq!(passing(&host, 0, 5, 200), 5, "then it goes on");
    trace.note(&host, "five have passed");
    assert_eq!(host.state(), StateName::Closed);
    assert!(passing(&host, 1, 1, 200) == 1 && host.is_alive(1), "worker 1 has a new VM by now");
    assert_gauge_agrees(&host);
    trace.check("crash_with_permits");
    host.assert_no_trap();
}

/// The VM dies at every host call of a probe's way in and out, one after the other.
#[test]
fn a_vm_may_die_at_any_host_call_of_a_probe() {
    for nth in 0.. {
        let host = Host::with(&policy(BREAKER)).workers(2).start();
        trip(&host, 0);
        passing(&host, 1, 1, 200);
        host.advance(seconds(30));
        let first = host.calls(1);
        host.crash_at(1, move |call| call.before == first + nth);
        for number in 0..5 {
            let status = if number == 0 { 200 } else { 503 };
            passing(&host, 1, 1, status);
        }
        host.nothing_fails();
        let died = !host.is_alive(1);
        // From here on the host is healthy, and half a minute later everything is as if nothing had happened. What the
        // VM did before it died may have opened the breaker once more: 60 s.
        host.advance(seconds(60));
        let mut rounds = 0;
        while host.state() != StateName::Closed {
            passing(&host, 0, 5, 200);
            host.advance(seconds(1));
            rounds += 1;
            assert!(rounds < 12, "at call {nth}: still {}", host.state());
        }
        assert_eq!((passing(&host, 0, 10, 200), passing(&host, 1, 10, 200)), (10, 10), "at call {nth}");
        assert_gauge_agrees(&host);
        host.assert_no_trap();
        if !died {
            assert!(nth > 30, "the last call was {nth}");
            break;
        }
    }
}

#[test]
fn a_worker_that_dies_between_its_swap_and_the_signal_is_understood_within_a_second() {
    let host = Host::with(&policy(BREAKER)).workers(3).start();
    // Twice: that a worker takes its place in the table is signalled too.
    for worker in [0, 1, 2, 0, 1, 2] {
        succeed(&host, worker);
    }
    host.crash_at(0, |call| call.is_signal());
    for _ in 0..3 {
        fail(&host, 0);
    }
    assert!(!host.is_alive(0), "it died at the signal");
    assert_eq!(host.state(), StateName::Open, "but its swap is there");
    host.advance(millis(999));
    assert_eq!(passing(&host, 1, 1, 200), 1, "nobody told worker 1 yet");
    host.advance(millis(1));
    assert_eq!(
        (passing(&host, 1, 1, 200), passing(&host, 2, 1, 200)),
        (0, 0),
        "after a second they look by themselves"
    );
    assert_eq!(passing(&host, 0, 1, 200), 0, "as does the VM that takes the dead one's place");
    assert_gauge_agrees(&host);
    host.assert_no_trap();
}

/// As above, for every call between the swap and the end of the callback: the log line and the gauge are lost with it.
#[test]
fn whatever_a_dying_worker_left_unsaid_the_gauge_is_right_when_the_others_have_looked() {
    for from in ["closed", "open", "half-open"] {
        for nth in 0.. {
            let host = Host::with(&policy(BREAKER)).workers(2).start();
            succeed(&host, 1);
            host.advance(millis(1));
            let act = |host: &Host| match from {
                "closed" => drop(host.get(0).with(Response::status(503))),
                "open" => drop(host.get(0)),
                _ => drop(host.get(0).with(Response::status(200))),
            };
            if from == "closed" {
                fail(&host, 0);
                fail(&host, 0);
            } else {
                trip(&host, 0);
                host.advance(seconds(30));
            }
            if from == "half-open" {
                for _ in 0..4 {
                    succeed(&host, 0);
                }
            }
            let mut after = None;
            host.crash_at(0, move |call| {
                if let Some(after) = &mut after {
                    *after += 1;
                } else if call.writes("/breaker") {
                    after = Some(-1);
                }
                after == Some(nth)
            });
            act(&host);
            host.nothing_fails();
            let died = !host.is_alive(0);
            host.advance(seconds(1));
            // Both look, without changing anything: in half-open a probe that is dropped only takes a permit.
            drop(host.get(1));
            drop(host.get(0));
            let (gauge, state) = (count(&host, "breaker_state"), host.state());
            assert_eq!(gauge, state as u64, "from {from}, at call {nth} after the swap: the record is {state}");
            if !died {
                assert!(nth >= 1, "there are calls after the swap");
                break;
            }
        }
    }
}

#[test]
fn requests_in_flight_of_a_vm_that_died_do_not_count_longer_than_their_lease() {
    let host = Host::with(&policy(IN_FLIGHT)).workers(3).start();
    let mut trace = Trace::new("A VM dies with three of five places in flight");
    let held: Vec<_> = (0..3).map(|_| host.get(2).passed()).collect();
    host.advance(seconds(60));
    trace.note(&host, format_args!("worker 2 has held three for a minute; in flight {}", host.in_flight()));
    assert_eq!(host.in_flight(), 3, "a request that takes a minute counts for a minute");
    host.crash(2);
    drop(held);
    let others: Vec<_> = (0..2).map(|worker| host.get(worker).passed()).collect();
    let answer = host.get(0).answered();
    assert_eq!(answer.header("x-holdfast-reject").as_deref(), Some("concurrency; policy=orders"));
    // The dead VM renewed its count within the last two or three seconds before it died.
    host.advance(seconds(7));
    assert!(!host.get(1).has_passed(), "its three still count");
    trace.note(&host, format_args!("its VM has been dead for 7 s; in flight {}", host.in_flight()));
    host.advance(seconds(3));
    trace.note(&host, format_args!("its VM has been dead for 10 s; in flight {}", host.in_flight()));
    assert_eq!(host.in_flight(), 2, "ten seconds after it died they do not");
    let again: Vec<_> = (0..3).map(|number| host.get(number % 2).passed()).collect();
    assert!(!host.get(0).has_passed(), "five are in flight");
    for pending in others.into_iter().chain(again) {
        pending.respond(Response::status(200));
    }
    assert_eq!(host.in_flight(), 0, "and when they are over, none is");
    trace.check("crash_in_flight");
    host.assert_no_trap();
}

#[test]
fn a_vm_may_die_at_any_host_call_of_a_counted_request() {
    for nth in 0.. {
        let host = Host::with(&policy(IN_FLIGHT)).workers(2).start();
        succeed(&host, 0);
        succeed(&host, 1);
        let first = host.calls(1);
        host.crash_at(1, move |call| call.before == first + nth);
        let held = host.get(1);
        if held.has_passed() {
            held.with(Response::status(200));
        }
        host.nothing_fails();
        let died = !host.is_alive(1);
        host.advance(seconds(10));
        assert_eq!(host.in_flight(), 0, "at call {nth}: nothing is held for ever");
        let five: Vec<_> = (0..5).map(|number| host.get(number % 2).passed()).collect();
        assert!(!host.get(0).has_passed(), "at call {nth}: and never more than five pass");
        drop(five);
        host.assert_no_trap();
        if !died {
            assert!(nth > 5, "the last call was {nth}");
            break;
        }
    }
}

/// The place in the table of workers is taken over, so the table does not grow with every crash.
#[test]
fn a_worker_that_dies_again_and_again_does_not_use_up_places() {
    let breaker =
        r#""breaker":{"window":"1m","min_requests":10,"failure_rate":50,"consecutive_failures":0,"open_jitter":0}"#;
    let host = Host::with(&policy(breaker)).workers(4).start();
    for worker in 0..4 {
        succeed(&host, worker);
    }
    let slots = |host: &Host| host.shared_keys().iter().filter(|key| key.contains("/slot/")).count();
    assert_eq!(slots(&host), 4);
    for _ in 0..40 {
        host.crash(3);
        host.advance(seconds(20));
        succeed(&host, 3);
    }
    assert!(slots(&host) <= 5, "forty VMs later there are {} slots", slots(&host));
    host.assert_no_trap();
}

/// What a dead VM had counted goes on counting, once.
#[test]
fn the_counts_of_a_vm_that_died_are_neither_lost_nor_doubled() {
    for pause in [2, 16] {
        let breaker = r#""breaker":{"window":"5m","min_requests":20,"failure_rate":50,"open_jitter":0}"#;
        let host = Host::with(&policy(breaker)).workers(2).start();
        succeed(&host, 1);
        for _ in 0..9 {
            fail(&host, 0);
        }
        for _ in 0..7 {
            succeed(&host, 1);
        }
        host.crash(0);
        host.advance(seconds(pause));
        // 17 so far, 9 of them failures.
        fail(&host, 0);
        assert_eq!(host.state(), StateName::Closed, "{pause} s later: 10 of 18 are too few to judge by");
        succeed(&host, 1);
        assert_eq!(host.state(), StateName::Closed, "{pause} s later: as are 10 of 19");
        succeed(&host, 1);
        assert_eq!(host.state(), StateName::Open, "{pause} s later: 10 of 20 are half");
        assert_eq!(host.logged("closed -> open").len(), 1);
        assert!(host.logged("closed -> open")[0].contains("failure rate 50% of 20 >= 50%"));
        host.assert_no_trap();
    }
}

/// A worker's thread is stuck for longer than its claim lasts, and another has taken its place in the table meanwhile.
#[test]
fn a_worker_that_lost_its_place_counts_under_a_new_one_and_nothing_twice() {
    let breaker = r#""breaker":{"window":"5m","min_requests":20,"failure_rate":50,"open_jitter":0}"#;
    let host = Host::with(&policy(breaker)).workers(2).start();
    for _ in 0..9 {
        fail(&host, 0);
    }
    host.stall(0);
    host.advance(seconds(20));
    succeed(&host, 1);
    host.resume(0);
    host.advance(seconds(1));
    for _ in 0..9 {
        succeed(&host, 0);
    }
    assert_eq!(host.state(), StateName::Closed, "9 of 19: too few to judge by");
    succeed(&host, 0);
    assert_eq!(host.state(), StateName::Closed, "9 of 20 are less than half");
    fail(&host, 1);
    assert_eq!(host.state(), StateName::Closed, "10 of 21 are less than half");
    fail(&host, 0);
    assert_eq!(host.state(), StateName::Open, "11 of 22 are half");
    assert!(host.logged("closed -> open")[0].contains("failure rate 50% of 22 >= 50%"), "{:?}", host.logged("->"));
    host.assert_no_trap();
}
