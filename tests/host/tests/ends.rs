//! How responses and requests end: streams that last, answers that break off, clients that leave, over long times and with every
//! interruption.

use std::time::Duration;

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Fault, Host, Local, Request, Response, Route, Seat, Streaming};

use crate::outlier_support::{BAD, FIVE, World, ejecting, ejecting_and};
use crate::support::{BREAKER, HOUR, count, fail, millis, passing, policy, seconds, succeed, trip};

/// Opens by the rate of slow answers.
const SLOW: &str = r#""outcome":{"slow_after":"1s"},"breaker":{"min_requests":10,"failure_rate":0,"slow_rate":50,
    "open_for":"30s","open_jitter":0,"half_open":{"probes":2,"lease":"10s"}}"#;

/// What the host may say where it does not do what it is asked.
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;
const INTERNAL_FAILURE: u32 = 10;

/// A stream begins well.
fn stream(host: &Host, worker: usize) -> Streaming {
    host.request(worker, Request::grpc("/orders.Orders/Watch")).passed().headers(Response::grpc(0))
}

#[test]
fn streams_that_run_for_the_lease_close_it_and_count_when_they_end() {
    let host = Host::with(&policy(BREAKER)).workers(4).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let streams: Vec<_> = (0..5).map(|worker| stream(&host, worker % 4)).collect();
    assert_eq!(passing(&host, 0, 3, 200), 0, "five are in flight");
    host.advance(millis(9_900));
    assert_eq!(host.state(), StateName::HalfOpen, "not yet");
    host.advance(millis(200));
    assert_eq!(host.state(), StateName::Closed, "all five have run for ten seconds");
    assert_eq!((count(&host, "success"), count(&host, "failure")), (0, 3), "none has ended");
    host.advance(24 * HOUR);
    for (ended, one) in streams.into_iter().enumerate() {
        assert_eq!(host.state(), StateName::Closed, "{ended} have ended");
        one.trailers(&[("grpc-status", "14")]);
        if ended == 2 {
            break;
        }
    }
    assert_eq!(host.state(), StateName::Open, "a day later three in a row fail, which counts now");
    assert_eq!(count(&host, "failure"), 6);
    host.assert_no_trap();
}

#[test]
fn a_stream_is_one_success_to_half_open_whatever_it_ends_with_before_the_others_are_back() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let lasting = stream(&host, 1);
    host.advance(millis(10_100));
    assert_eq!((host.breaker().probes_in_flight(), host.breaker().probes_judged()), (0, 1), "it is judged");
    lasting.breaks_off();
    assert_eq!((host.breaker().probes_in_flight(), host.breaker().probes_judged()), (0, 1), "and not once more");
    (0..4).for_each(|worker| drop(succeed(&host, worker % 2)));
    assert_eq!(host.state(), StateName::Closed);
    host.assert_no_trap();
}

#[test]
fn a_stream_with_bad_headers_or_none_is_no_success_however_long_it_runs() {
    let failing = format!(r#"{BREAKER},"outcome":{{"failure":{{"header":{{"x-app-error":"*"}}}}}}"#);
    let host = Host::with(&policy(&failing)).workers(2).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let bad = || Response::grpc(0).header("x-app-error", "1");
    let held: Vec<_> =
        (0..5).map(|worker| host.request(worker % 2, Request::grpc("/")).passed().headers(bad())).collect();
    host.advance(seconds(60));
    assert_eq!(host.state(), StateName::HalfOpen, "their headers say that they fail");
    drop(held);
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let waiting: Vec<_> = (0..5).map(|worker| host.request(worker % 2, Request::grpc("/")).passed()).collect();
    host.advance(seconds(60));
    assert_eq!(host.state(), StateName::HalfOpen, "nothing has been heard of them");
    drop(waiting);
}

#[test]
fn a_worker_that_dies_with_running_probes_takes_only_them_with_it() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let lost: Vec<_> = (0..3).map(|_| stream(&host, 1)).collect();
    let kept: Vec<_> = (0..2).map(|_| stream(&host, 0)).collect();
    host.crash(1);
    host.advance(seconds(11));
    assert_eq!(host.breaker().probes_judged(), 2, "those of the other worker");
    (0..3).for_each(|_| drop(succeed(&host, 0)));
    assert_eq!(host.state(), StateName::Closed, "the permits of the dead were given back");
    drop((lost, kept));
}

#[test]
fn answers_that_break_off_are_failures_on_any_worker() {
    let host = Host::with(&policy(BREAKER)).workers(4).start();
    for worker in [0, 1] {
        host.get(worker).passed().headers(Response::status(200)).breaks_off();
    }
    host.get(2).passed().headers(Response::status(200)).client_leaves();
    assert_eq!(
        (count(&host, "success"), count(&host, "failure")),
        (1, 2),
        "what a client leaves counts as its status says"
    );
    host.advance(millis(1));
    for worker in [3, 0, 1] {
        host.get(worker).passed().headers(Response::status(200)).breaks_off();
    }
    assert_eq!(host.state(), StateName::Open, "three in a row");
    let host = Host::with(&policy(&format!(r#"{BREAKER},"outcome":{{"failure":{{"broken":false}}}}"#))).start();
    (0..9).for_each(|_| drop(host.get(0).passed().headers(Response::status(200)).breaks_off()));
    assert_eq!((host.state(), count(&host, "success"), count(&host, "failure")), (StateName::Closed, 9, 0));
}

#[test]
fn clients_that_leave_after_their_deadline_open_it_and_half_open_is_judged_by_them() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    let gives_up = |worker, after: Duration| {
        let waiting = host.request(worker, Request::grpc("/").header("grpc-timeout", "500m")).passed();
        host.advance(after);
        waiting.client_leaves()
    };
    for worker in [0, 1, 0, 1] {
        gives_up(worker, millis(400));
    }
    assert_eq!((host.state(), count(&host, "ignored")), (StateName::Closed, 4), "they could have waited longer");
    for worker in [0, 1, 0] {
        gives_up(worker, millis(500));
    }
    assert_eq!(host.state(), StateName::Open);
    host.advance(seconds(30));
    for worker in [0, 1, 0] {
        gives_up(worker, millis(500));
    }
    assert_eq!(host.state(), StateName::Open, "half-open is judged by them, too");
    host.assert_no_trap();
}

#[test]
fn clients_that_leave_after_slow_after_are_slow_and_nothing_else() {
    let host = Host::with(&policy(SLOW)).workers(2).start();
    let leaves = |worker, after: Duration| {
        let waiting = host.get(worker).passed();
        host.advance(after);
        waiting.client_leaves();
    };
    (0..40).for_each(|worker| leaves(worker % 2, millis(20)));
    assert_eq!((count(&host, "ignored"), count(&host, "slow")), (40, 0), "early ones say nothing");
    (0..5).for_each(|worker| drop(succeed(&host, worker % 2)));
    (0..4).for_each(|worker| leaves(worker % 2, seconds(1)));
    assert_eq!(host.state(), StateName::Closed, "nine outcomes");
    leaves(0, seconds(1));
    assert_eq!((host.state(), count(&host, "slow"), count(&host, "failure")), (StateName::Open, 5, 0));
    host.advance(seconds(30));
    leaves(1, millis(20));
    assert_eq!(host.breaker().probes_judged(), 0, "an early one gives its permit back");
    leaves(1, seconds(1));
    assert_eq!(host.state(), StateName::Open, "a late one is judged: half of the probes are slow in any case");
    host.assert_no_trap();
}

#[test]
fn a_client_that_is_late_with_its_own_request_has_waited_for_nobody() {
    let host = Host::with(&policy(SLOW)).start();
    for _ in 0..20 {
        let uploading = host.request(0, Request::new("POST", "/").unfinished()).passed();
        host.advance(seconds(2));
        uploading.client_leaves();
    }
    assert_eq!((host.state(), count(&host, "ignored"), count(&host, "slow")), (StateName::Closed, 20, 0));
}

#[test]
fn where_the_policy_says_so_no_client_that_leaves_is_an_outcome() {
    let ignoring = SLOW.replace(r#""slow_after":"1s""#, r#""slow_after":"1s","client_gone":"ignore""#);
    let host = Host::with(&policy(&ignoring)).start();
    for _ in 0..20 {
        let waiting = host.request(0, Request::grpc("/").header("grpc-timeout", "1S")).passed();
        host.advance(seconds(2));
        waiting.client_leaves();
    }
    assert_eq!((host.state(), count(&host, "ignored"), count(&host, "slow")), (StateName::Closed, 20, 0));
}

#[test]
fn a_time_out_before_the_headers_is_a_failure_as_ever() {
    let host = Host::with(&policy(BREAKER)).start();
    (0..3).for_each(|_| drop(host.get(0).passed().local(Local::timeout())));
    assert_eq!(host.state(), StateName::Open);
    host.advance(seconds(30));
    fail(&host, 0);
    assert_ne!(host.state(), StateName::Closed);
}

#[test]
fn a_host_is_known_by_streams_that_only_run() {
    let world = World::start(&ejecting(r#""consecutive_failures":5,"ejection_jitter":0"#), 2, &FIVE);
    FIVE.iter().for_each(|host| world.hosts.hangs(host));
    let running: Vec<_> = (0..40)
        .map(|_| {
            let routed = world.host.send(0, Request::grpc("/"));
            routed.attempt().begins(Response::grpc(0));
            routed
        })
        .collect();
    assert_eq!(world.known(), FIVE.map(str::to_owned).to_vec(), "by the headers of their answers");
    drop(running);
}

#[test]
fn a_host_comes_back_by_a_stream_and_may_fail_by_it_later() {
    let features = r#""breaker":{"min_requests":1000,"half_open":{"lease":"2s"}}"#;
    let outlier = r#""consecutive_failures":1,"base_ejection_time":"30s","ejection_jitter":0"#;
    let lasting = Route::new().timeout(Duration::ZERO);
    let world =
        World::with(&ejecting_and(outlier, features), 1, &FIVE, |builder| builder.attempt_seat().route(lasting));
    world.hosts.serves(BAD, Response::status(503));
    world.traffic(20, millis(10));
    assert_eq!(world.out(), [BAD.to_owned()]);
    world.host.advance(seconds(30));
    FIVE.iter().for_each(|host| world.hosts.hangs(host));
    let probe = (0..20)
        .map(|_| world.host.send(0, Request::grpc("/")))
        .find(|routed| routed.tries().first().is_some_and(|tried| tried.host == BAD))
        .expect("the host is probed");
    probe.attempt().begins(Response::grpc(0));
    world.host.advance(millis(1_900));
    assert_eq!(world.out(), [BAD.to_owned()], "not yet");
    world.host.advance(millis(200));
    assert_eq!(world.out(), Vec::<String>::new(), "it has run for the lease");
    world.host.advance(HOUR);
    assert_eq!(world.count("readmitted"), 1);
    probe.attempt().resets();
    world.get();
    assert_eq!(world.out(), [BAD.to_owned()], "an hour later it breaks off, which counts now");
    world.host.assert_no_trap();
}

#[test]
fn an_attempt_that_the_route_retries_is_judged_by_its_headers_and_no_other_one_is_judged_for_it() {
    const CONFLICT: &str = FIVE[1];
    let document = ejecting(r#""consecutive_failures":5,"ejection_jitter":0"#);
    let route = Route::new().retry_on("retriable-4xx");
    let world = World::with(&document, 1, &[BAD, CONFLICT], |builder| builder.attempt_seat().route(route));
    world.traffic(20, millis(100));
    world.hosts.serves(CONFLICT, Response::status(409));
    world.hosts.serves(BAD, Response::status(503));
    let before = world.hosts.at(BAD);
    world.traffic_until(40, |world| !world.out().is_empty());
    assert_eq!(world.out(), [BAD.to_owned()]);
    assert_eq!(world.hosts.at(BAD) - before, 5, "each of its failures counts once");
    world.host.assert_no_trap();
}

#[test]
fn a_proxy_gives_up_so_long_after_its_last_byte() {
    let waits = |after: Duration| {
        let outlier = r#""consecutive_failures":1,"ejection_jitter":0"#;
        let world = World::start(&ejecting_and(outlier, r#""retry":{}"#), 1, &FIVE);
        world.traffic(20, millis(100));
        FIVE.iter().for_each(|host| world.hosts.hangs(host));
        let request = Request::new("POST", "/").header("x-envoy-expected-rq-timeout-ms", "1000").unfinished();
        let uploading = world.send(request);
        world.host.advance(seconds(3));
        uploading.ends_upload();
        world.host.advance(after);
        uploading.client_leaves();
        world.get();
        world.host.assert_no_trap();
        world.out().len()
    };
    assert_eq!(waits(millis(500)), 0, "it could have waited longer");
    assert_eq!(waits(millis(1000)), 1, "its time is over");
}

#[test]
fn every_call_may_be_refused_while_streams_run_break_off_and_are_left() {
    let features = format!(r#"{BREAKER},"outlier":{{"consecutive_failures":3,"ejection_jitter":0}},"retry":{{}}"#);
    for seat in [Seat::Request, Seat::Attempt] {
        for (name, status) in [
            ("get_property", INTERNAL_FAILURE),
            ("set_property", INTERNAL_FAILURE),
            ("get_header_map_value", INTERNAL_FAILURE),
            ("get_shared_data", NOT_FOUND),
            ("set_shared_data", CAS_MISMATCH),
        ] {
            let world = World::start(&policy(&features), 2, &FIVE);
            world.traffic(20, millis(10));
            FIVE.iter().for_each(|host| world.hosts.hangs(host));
            world
                .host
                .on_call(move |_, call| (call.name == name && call.seat == seat).then_some(Fault::Status(status)));
            for worker in [0, 1, 0, 1] {
                let send = || world.host.send(worker, Request::grpc("/").header("grpc-timeout", "100m"));
                let left = send();
                world.host.advance(millis(200));
                if !left.is_over() {
                    left.client_leaves();
                }
                let running = send();
                if !running.is_over() && !running.waits() {
                    running.attempt().begins(Response::grpc(0));
                    world.host.advance(seconds(11));
                    running.attempt().resets();
                }
            }
            world.host.nothing_fails();
            world.hosts.are_well();
            world.host.advance(seconds(400));
            world.traffic(50, millis(20));
            assert_eq!(world.host.get(0).with(Response::status(200)).status, 200, "{seat:?} {name}");
            assert_eq!(world.host.logged("panicked"), Vec::<String>::new(), "{seat:?} {name}");
            world.host.assert_no_trap();
        }
    }
}
