//! Envoy's router behind the request seat alone, with retries that a route asks for.

use holdfast_host_tests::{By, Host, Request, Reset, Route, flags};

use crate::support::{BREAKER, count, millis, policy, seconds, trip};

/// A route that retries twice; the module lets everything pass.
fn retrying(route: Route) -> Host {
    Host::with(r#"{"policies":[]}"#).route(route.retry_on("5xx").retries(2)).start()
}

#[test]
fn each_attempt_goes_to_the_next_host_after_the_back_off() {
    let host = retrying(Route::new().back_off(millis(25)).counting_attempts());
    let request = host.send(0, Request::get("/"));
    assert_eq!((request.attempt().number(), request.attempt().host().as_str()), (1, "127.0.0.1:4001"));
    request.attempt().responds(503);
    assert!(request.waits(), "a try is over and the next has not started");
    host.advance(millis(24));
    assert!(request.waits());
    host.advance(millis(1));
    assert_eq!(request.attempt().header("x-envoy-attempt-count").as_deref(), Some("2"));
    request.attempt().connect_fails();
    host.advance(millis(25));
    request.attempt().responds(200);
    let answer = request.answer();
    assert_eq!((answer.by, answer.status, answer.text().as_str()), (By::Upstream, 200, "upstream"));
    let tries = request.tries();
    assert_eq!(
        tries.iter().map(|one| one.host.as_str()).collect::<Vec<_>>(),
        ["127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4003"]
    );
    let seen: Vec<bool> = tries.iter().map(|one| one.headers.is_some()).collect();
    assert_eq!(seen, [true, false, true], "a host that was not reached has seen nothing");
    host.assert_nothing_is_left();
}

#[test]
fn the_last_attempt_is_what_the_client_gets() {
    let host = retrying(Route::new());
    let request = host.send(0, Request::get("/"));
    request.attempt().responds(500);
    request.attempt().fails(Reset::ConnectionTermination);
    request.attempt().resets();
    let answer = request.answer();
    assert_eq!((answer.by, answer.status), (By::Envoy, 503));
    assert_eq!(answer.details, "upstream_reset_before_response_started{remote_reset}");
    assert_eq!(answer.flags, flags::UPSTREAM_REMOTE_RESET | flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    host.assert_nothing_is_left();
}

#[test]
fn a_host_that_never_answers_is_given_up_in_time() {
    let host = retrying(Route::new().per_try_timeout(millis(100)).timeout(millis(250)));
    let request = host.send(0, Request::get("/"));
    host.advance(millis(99));
    assert_eq!(request.attempt().number(), 1);
    host.advance(millis(1));
    assert_eq!(request.attempt().number(), 2);
    host.advance(millis(149));
    assert_eq!(request.attempt().number(), 3);
    host.advance(millis(1));
    let answer = request.answer();
    assert_eq!((answer.status, answer.details.as_str()), (504, "response_timeout"));
    assert_eq!(answer.flags, flags::UPSTREAM_TIMEOUT);
    host.assert_nothing_is_left();
}

#[test]
fn a_hedged_request_has_two_attempts_under_way_and_takes_the_first_good_answer() {
    let host = retrying(Route::new().per_try_timeout(millis(100)).hedging());
    let request = host.send(0, Request::get("/"));
    host.advance(millis(100));
    let [first, second] = &request.attempts()[..] else { panic!("both are under way") };
    first.responds(503);
    assert!(!request.is_over(), "the other may still answer well");
    second.responds(200);
    assert_eq!(request.answer().status, 200);
    host.assert_nothing_is_left();
}

#[test]
fn a_client_may_leave_at_any_time() {
    let leaves = |until: fn(&Host, &Request) -> holdfast_host_tests::Routed| {
        let host = retrying(Route::new().back_off(millis(25)));
        let request = until(&host, &Request::get("/"));
        let answer = request.client_leaves();
        assert_eq!(answer.flags, flags::DOWNSTREAM_CONNECTION_TERMINATION);
        host.advance(seconds(60));
        host.assert_nothing_is_left();
        (answer.by, answer.status, request.tries().len())
    };
    let during_a_try = leaves(|host, request| host.send(0, request.clone()));
    assert_eq!(during_a_try, (By::Nobody, 0, 1));
    let between_tries = leaves(|host, request| {
        let request = host.send(0, request.clone());
        request.attempt().responds(503);
        request
    });
    assert_eq!(between_tries, (By::Nobody, 0, 1), "no try follows for nobody");
    let during_the_response = leaves(|host, request| {
        let request = host.send(0, request.clone());
        request.attempt().begins(200);
        request
    });
    assert_eq!(during_the_response, (By::Upstream, 200, 1));
}

#[test]
fn without_a_host_there_is_no_attempt() {
    let host = Host::with(r#"{"policies":[]}"#).choosing_hosts(|_, _| None).start();
    let request = host.send(0, Request::get("/"));
    let answer = request.answer();
    assert_eq!((answer.status, answer.details.as_str()), (503, "no_healthy_upstream"));
    assert_eq!((answer.flags, request.tries().len()), (flags::NO_HEALTHY_UPSTREAM, 0));
}

#[test]
fn a_worker_that_is_stuck_starts_its_next_attempt_late() {
    let host = retrying(Route::new().back_off(millis(25)));
    let request = host.send(0, Request::get("/"));
    request.attempt().responds(503);
    host.stall(0);
    host.advance(millis(100));
    assert!(request.waits());
    host.resume(0);
    host.advance(millis(0));
    request.attempt().responds(200);
    assert_eq!(request.answer().status, 200);
}

#[test]
fn what_envoy_retries_by_itself_is_one_outcome_and_what_the_module_rejects_is_no_attempt() {
    let host = Host::with(&policy(BREAKER)).route(Route::new().retry_on("5xx")).start();
    let request = host.send(0, Request::get("/"));
    request.attempt().responds(503);
    request.attempt().responds(200);
    assert_eq!((count(&host, "success"), count(&host, "failure")), (1, 0));
    trip(&host, 0);
    let rejected = host.send(0, Request::get("/"));
    assert_eq!((rejected.answer().by, rejected.tries().len()), (By::Holdfast, 0));
    host.assert_nothing_is_left();
}

#[test]
#[should_panic(expected = "no request is under way at the end")]
fn a_request_that_a_test_forgets_is_found() {
    let host = retrying(Route::new());
    drop(host.send(0, Request::get("/")));
    host.assert_nothing_is_left();
}
