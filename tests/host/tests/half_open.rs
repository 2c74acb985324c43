//! Half-open: never one probe more than the policy says, over all workers, and never stuck.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{Answer, Host, Local, Pending, Request, Response};

use crate::support::{
    BREAKER, HOUR, assert_gauge_agrees, count, fail, millis, passing, policy, seconds, succeed, trip,
};

/// Four workers with an open breaker whose period has just passed.
fn at_the_end_of_the_open_period() -> Host {
    let host = Host::with(&policy(BREAKER)).workers(4).start();
    trip(&host, 0);
    host.advance(seconds(30));
    host
}

/// The probes that get through when every worker is asked `rounds` times in turn.
fn probes(host: &Host, rounds: usize) -> Vec<Pending> {
    let all = (0..rounds).flat_map(|_| 0..host.workers()).map(|worker| host.get(worker));
    all.filter(|one| one.has_passed()).map(|one| one.passed()).collect()
}

#[test]
fn five_probes_pass_on_four_workers_and_their_interleaved_answers_close_it() {
    let host = at_the_end_of_the_open_period();
    let mut trace = Trace::new("Half-open on four workers, answers interleaved");
    let probes = probes(&host, 3);
    assert_eq!(probes.len(), 5, "of twelve requests exactly five pass");
    for probe in &probes {
        assert_eq!(probe.access_log().as_deref(), Some("policy=orders; key=all; decision=probe"));
    }
    for (number, probe) in probes.into_iter().rev().enumerate() {
        assert_eq!(host.state(), StateName::HalfOpen, "four answers do not decide yet");
        host.advance(millis(10));
        let worker = probe.worker();
        probe.respond(Response::status(if number == 2 { 500 } else { 200 }));
        trace.note(&host, format_args!("worker {worker} has answer {} of 5", number + 1));
    }
    assert_eq!(host.state(), StateName::Closed, "one failure of five is below three in a row");
    for worker in 0..4 {
        succeed(&host, worker);
    }
    assert_gauge_agrees(&host);
    trace.check("half_open_interleaved");
    host.assert_no_trap();
}

#[test]
fn three_failed_probes_in_a_row_open_it_again_before_the_others_are_back() {
    let host = at_the_end_of_the_open_period();
    let mut probes = probes(&host, 2);
    for _ in 0..3 {
        probes.remove(0).respond(Response::status(503));
    }
    assert_eq!(host.state(), StateName::Open);
    let generation = host.breaker().cell.generation;
    for probe in probes {
        assert_eq!(probe.respond(Response::status(200)).status, 200, "their clients get their answers all the same");
    }
    assert_eq!(host.breaker().cell.generation, generation, "answers that come later decide nothing any more");
    host.assert_no_trap();
}

/// Who takes the step that another is about to take, and what that leaves to the other.
#[test]
fn a_worker_that_is_overtaken_at_its_swap_does_not_get_a_sixth_probe() {
    for overtaking in 1..=7 {
        let host = at_the_end_of_the_open_period();
        host.race_before_swap("/breaker", move |host| {
            for number in 0..overtaking {
                std::mem::forget(host.get(1 + number % 3));
            }
        });
        let overtaken = host.get(0).has_passed();
        assert_eq!(overtaken, overtaking < 5, "{overtaking} were faster");
        let record = host.breaker();
        assert_eq!(record.probes_in_flight(), 5.min(overtaking + 1), "and none is counted twice or lost");
        assert_eq!(count(&host, "shared_data.contention"), 0, "losing one race is not contention");
    }
}

/// Every worker overtakes the one before it, at the same swap.
#[test]
fn all_four_workers_at_the_same_swap_get_one_probe_each() {
    let host = at_the_end_of_the_open_period();
    host.race_before_swap("/breaker", |host| {
        host.race_before_swap("/breaker", |host| {
            host.race_before_swap("/breaker", |host| assert!(host.get(3).has_passed()));
            assert!(host.get(2).has_passed());
        });
        assert!(host.get(1).has_passed());
    });
    assert!(host.get(0).has_passed());
    assert_eq!(host.breaker().probes_in_flight(), 4);
}

#[test]
fn two_answers_at_the_same_swap_are_both_judged() {
    for is_overtaken in [false, true] {
        let host = at_the_end_of_the_open_period();
        let mut probes = probes(&host, 2);
        let (last, fourth) = (probes.pop().unwrap(), probes.pop().unwrap());
        assert_ne!(last.worker(), fourth.worker());
        for probe in probes {
            probe.respond(Response::status(200));
        }
        if is_overtaken {
            host.race_before_swap("/breaker", |_| drop(last.respond(Response::status(503))));
            fourth.respond(Response::status(503));
        } else {
            fourth.respond(Response::status(503));
            last.respond(Response::status(503));
        }
        assert_eq!(host.state(), StateName::Closed, "two failures at the end of five are not three in a row");
        assert_eq!(host.logged("half-open -> closed"), ["orders/all: half-open -> closed: 5 probes judged, 2 failed"]);
        host.assert_no_trap();
    }
}

#[test]
fn an_answer_from_before_it_opened_judges_neither_half_open_nor_what_comes_after() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    let late: Vec<_> = (0..12).map(|_| host.get(0).passed()).collect();
    trip(&host, 0);
    let mut late = late.into_iter();
    let mut answer_three = |status: u16| {
        for pending in late.by_ref().take(3) {
            pending.respond(Response::status(status));
        }
    };
    let opened = host.breaker();
    answer_three(503);
    assert_eq!(host.breaker(), opened, "while it is open, late failures do not open it again");
    host.advance(seconds(30));
    let probe = host.get(1).passed();
    let half_open = host.breaker();
    answer_three(503);
    assert_eq!(host.breaker(), half_open, "in half-open they are no probes");
    probe.respond(Response::status(200));
    for _ in 0..4 {
        succeed(&host, 0);
    }
    assert_eq!(host.state(), StateName::Closed);
    let closed = host.breaker();
    answer_three(503);
    assert_eq!(host.breaker(), closed, "after it closed they are not three in a row");
    host.advance(millis(1));
    fail(&host, 0);
    fail(&host, 0);
    assert_eq!(host.breaker(), closed, "nor are they together with two that are its own");
    fail(&host, 0);
    assert_eq!(host.state(), StateName::Open, "those are, with a third");
    assert_eq!(count(&host, "failure"), 15, "but they are counted for the operator");
    host.assert_no_trap();
}

#[test]
fn a_probe_that_answers_after_its_lease_is_judged_and_one_of_an_earlier_half_open_is_not() {
    let host = at_the_end_of_the_open_period();
    let old = probes(&host, 2);
    assert_eq!(old.len(), 5);
    host.advance(seconds(10));
    let new = probes(&host, 2);
    assert_eq!(new.len(), 5, "what has not answered within its lease gives its permit back");
    let mut old = old.into_iter();
    old.next().unwrap().respond(Response::status(503));
    assert_eq!(probes(&host, 2).len(), 0, "it is judged in place of one that is in flight");
    for probe in new.into_iter().take(2) {
        probe.respond(Response::status(503));
    }
    assert_eq!(host.state(), StateName::Open);
    host.advance(seconds(60));
    let next = probes(&host, 2);
    assert_eq!(next.len(), 5);
    let record = host.breaker();
    for probe in old {
        probe.respond(Response::status(503));
    }
    assert_eq!(host.breaker(), record, "nor is one of an earlier half-open, though its permit had the same number");
    host.assert_no_trap();
}

/// A client of a probe goes, a host gives nothing that counts: the permit comes back at once.
#[test]
fn probes_that_say_nothing_give_their_permits_back() {
    let ignoring = format!(r#"{BREAKER},"outcome":{{"ignore":{{"status":[404]}}}}"#);
    type End = fn(Pending) -> Answer;
    let ends: [(&str, End); 5] = [
        ("the client leaves", |probe| probe.client_leaves()),
        ("an ignored status", |probe| probe.respond(Response::status(404))),
        ("Envoy's own ceiling", |probe| probe.local(Local::overflow())),
        ("another filter's reply", |probe| probe.local(Local::by_filter(503))),
        ("a stream that the client breaks off", |probe| probe.headers(Response::grpc(0)).client_leaves()),
    ];
    for (what, end) in ends {
        let host = Host::with(&policy(&ignoring)).workers(2).start();
        trip(&host, 0);
        host.advance(seconds(30));
        for round in 0..20 {
            let held: Vec<_> = (0..5).map(|number| host.get(number % 2).passed()).collect();
            assert!(!host.get(0).has_passed(), "{what}, round {round}: five are in flight");
            for probe in held {
                end(probe);
            }
            let record = host.breaker();
            assert_eq!((record.probes_in_flight(), record.probes_judged()), (0, 0), "{what}, round {round}");
        }
        for worker in [0, 1, 0, 1, 0] {
            succeed(&host, worker);
        }
        assert_eq!(host.state(), StateName::Closed, "{what}: it closes as soon as five have answered");
        host.assert_no_trap();
    }
}

/// The probes of an hour are never answered.
#[test]
fn probes_that_are_lost_one_and_all_do_not_hold_half_open_for_ever() {
    let host = at_the_end_of_the_open_period();
    let mut passed = 0;
    let start = host.elapsed();
    while host.elapsed() < start + HOUR {
        let now = probes(&host, 2);
        assert!(now.len() <= 5);
        passed += now.len();
        std::mem::forget(now);
        host.advance(seconds(5));
    }
    assert_eq!(passed, 5 * 360, "five every ten seconds");
    host.advance(seconds(10));
    assert_eq!(passing(&host, 0, 5, 200), 5);
    assert_eq!(host.state(), StateName::Closed);
    host.assert_no_trap();
}

#[test]
fn a_grpc_probe_is_judged_by_its_trailers_and_not_before() {
    let host = at_the_end_of_the_open_period();
    let mut streams: Vec<_> = (0..5)
        .map(|worker| host.request(worker % 4, Request::grpc("/orders.v1.Orders/Watch")).passed())
        .map(|probe| probe.headers(Response::grpc(0)))
        .collect();
    assert_eq!((host.breaker().probes_in_flight(), host.breaker().probes_judged()), (5, 0));
    streams.remove(0).trailers(&[("grpc-status", "14")]);
    streams.remove(0).trailers(&[]);
    streams.remove(0).breaks_off();
    assert_eq!(host.state(), StateName::Open, "UNAVAILABLE, no status, and a reset are three failures in a row");
    host.assert_no_trap();
}

#[test]
fn a_ramp_admits_a_rising_share_on_all_workers_and_then_everything() {
    let ramping = BREAKER.replace(r#""open_jitter":0"#, r#""open_jitter":0,"ramp":"100s""#);
    let host = Host::with(&policy(&ramping)).workers(4).start();
    trip(&host, 0);
    host.advance(seconds(30));
    for worker in [0, 1, 2, 3, 0] {
        succeed(&host, worker);
    }
    assert_eq!(host.state(), StateName::Ramping);
    let mut shares = Vec::new();
    for _ in 0..10 {
        let passed: usize = (0..4).map(|worker| passing(&host, worker, 100, 200)).sum();
        shares.push(passed);
        host.advance(seconds(10));
    }
    for (step, passed) in shares.iter().enumerate() {
        let expected = 40 * step;
        assert!(passed.abs_diff(expected) <= 40, "after {step}0 s about {expected} of 400 pass, not {passed}");
    }
    assert_eq!(passing(&host, 2, 100, 200), 100, "after 100 s everything passes");
    assert_eq!(host.state(), StateName::Closed);
    (0..4).for_each(|worker| drop(succeed(&host, worker)));
    assert_gauge_agrees(&host);
    host.assert_no_trap();
}
