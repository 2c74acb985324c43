//! Clients that upload slowly. Times count from a request's last byte; the order of callbacks was seen on Envoy 1.36.2 and 1.40.0.

use std::time::Duration;

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Host, Request, Response, Route, Routed};

use crate::outlier_support::ejecting;
use crate::support::{count, millis, policy, seats_meet, seconds};

/// Opens where half of ten are slow.
const SLOW: &str = r#""outcome":{"slow_after":"500ms"},
    "breaker":{"window":10,"min_requests":10,"failure_rate":0,"slow_rate":50}"#;

fn put() -> Request {
    Request::new("PUT", "/").body("some").unfinished()
}

/// A client uploads in three pieces over this time.
fn upload(host: &Host, request: &Routed, over: Duration) {
    for _ in 0..2 {
        host.advance(over / 2);
        request.uploads("more");
    }
    request.ends_upload();
}

#[test]
fn twenty_clients_that_upload_for_two_seconds_open_nothing() {
    let host = Host::with(&policy(SLOW)).workers(2).start();
    let all: Vec<_> = (0..20).map(|number| host.request(number % 2, put()).passed()).collect();
    host.advance(seconds(2));
    for pending in all {
        pending.uploads("the rest");
        pending.ends_upload();
        assert_eq!(pending.respond(Response::status(200)).status, 200);
    }
    assert_eq!((host.state(), count(&host, "slow"), count(&host, "success")), (StateName::Closed, 0, 20));
    let slow: Vec<_> = (0..10).map(|number| host.request(number % 2, put()).passed()).collect();
    slow.iter().for_each(|pending| pending.ends_upload());
    host.advance(millis(500));
    slow.into_iter().for_each(|pending| drop(pending.respond(Response::status(200))));
    assert_eq!((host.state(), count(&host, "slow")), (StateName::Open, 10), "this is the service's time");
    host.assert_no_trap();
}

#[test]
fn clients_that_stay_away_with_their_last_byte_make_no_answer_slow() {
    let host = Host::with(&policy(SLOW)).start();
    for _ in 0..20 {
        let early = host.request(0, put()).passed();
        host.advance(seconds(2));
        early.uploads("more");
        assert_eq!(early.respond(Response::status(413)).status, 413);
        host.request(0, put()).passed().client_leaves();
    }
    assert_eq!((host.state(), count(&host, "slow"), count(&host, "success")), (StateName::Closed, 0, 20));
    host.assert_nothing_is_left();
}

#[test]
fn a_retry_is_sent_what_has_come_and_then_the_rest_and_its_time_begins_with_the_last_byte() {
    let retry = r#""retry":{"per_try_timeout":"300ms","backoff":{"base":"100ms","max":"100ms","jitter":"none"}}"#;
    for trailers in [None, Some(1)] {
        let host = Host::with(&policy(retry)).workers(1).attempt_seat().start();
        seats_meet(&host);
        let request = host.send(0, put());
        host.advance(seconds(2));
        request.attempt().responds(503);
        host.advance(millis(99));
        assert!(request.attempt().is_held(), "its wait");
        request.uploads("while it waits");
        host.advance(millis(1));
        assert!(!request.attempt().is_held());
        host.advance(seconds(2));
        match trailers {
            None => request.ends_upload(),
            Some(trailers) => request.ends_upload_with(trailers),
        }
        // The router waits for the policy's time and its longest wait.
        host.advance(millis(399));
        assert_eq!((request.attempts().len(), request.tries().len()), (1, 2), "no time-out before");
        host.advance(millis(1));
        assert_eq!(request.tries().len(), 3);
        assert!(!request.attempt().is_held(), "by the policy the attempt before ended 100 ms ago");
        request.attempt().responds(200);
        let log = request.answer().access_log.unwrap();
        let expected = "attempts=127.0.0.1:4001 failure:503 0ms, 127.0.0.1:4002 failure:timeout 400ms, \
                        127.0.0.1:4003 success:200 0ms";
        assert!(log.contains(expected), "{log}");
        host.assert_nothing_is_left();
        host.assert_no_trap();
    }
}

#[test]
fn the_routes_time_begins_with_the_last_byte_too() {
    let host = Host::with(&policy(r#""breaker":{}"#)).route(Route::new().timeout(seconds(1))).start();
    let request = host.send(0, put());
    host.advance(seconds(60));
    upload(&host, &request, seconds(60));
    host.advance(millis(999));
    assert!(!request.is_over());
    host.advance(millis(1));
    assert_eq!(request.answer().details, "response_timeout");
    host.assert_nothing_is_left();
}

/// Three hosts, of which the clients of the first upload for this long, or wait for it so long. Whether it was found to be slow.
fn first_is_slow(attempt_seat: bool, uploads: Duration, waits: Duration) -> bool {
    let keys = r#""consecutive_failures":0,"latency":{"min_requests":5},"interval":"5s""#;
    let builder = Host::with(&ejecting(keys)).workers(1).override_host(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    let host = if attempt_seat { builder.attempt_seat().start() } else { builder.start() };
    seats_meet(&host);
    for _ in 0..120 {
        let request = host.send(0, put());
        let is_first = request.attempt().host() == "10.0.0.1:80";
        upload(&host, &request, if is_first { uploads } else { millis(20) });
        host.advance(if is_first { waits } else { millis(5) });
        request.attempt().responds(200);
        assert_eq!(request.answer().status, 200);
        host.advance(millis(50));
    }
    host.advance(seconds(10));
    host.assert_no_trap();
    host.metric_of("orders", "cluster=orders", "ejections_detected.latency") > 0
}

#[test]
fn a_host_whose_clients_upload_slowly_is_not_ejected_and_one_that_is_slow_after_the_last_byte_is() {
    for attempt_seat in [true, false] {
        assert!(!first_is_slow(attempt_seat, millis(500), millis(5)), "the clients are");
        assert!(first_is_slow(attempt_seat, millis(20), millis(500)), "the host is");
    }
}

#[test]
fn the_clock_is_read_once_for_a_body_where_its_time_is_wanted_and_never_without_one() {
    let time = "get_current_time_nanoseconds";
    let calls = |features: &str, request: Request| {
        let host = Host::with(&policy(features)).workers(1).attempt_seat().start();
        seats_meet(&host);
        let request = host.send(0, request);
        (0..5).for_each(|_| request.uploads("a piece"));
        request.ends_upload();
        request.attempt().responds(200);
        (request.answer().calls, request.attempt_calls())
    };
    let outlier = r#""outlier":{}"#;
    for (features, of_request, of_attempt) in
        [(r#""breaker":{}"#, 0, 0), (SLOW, 1, 0), (outlier, 1, 1), (r#""retry":{}"#, 0, 1)]
    {
        let (with, without) = (calls(features, put()), calls(features, Request::new("PUT", "/")));
        let more = (with.0.of(time) - without.0.of(time), with.1.of(time) - without.1.of(time));
        assert_eq!(more, (of_request, of_attempt), "{features}");
        assert_eq!(with.0.total() - without.0.total(), of_request, "{features}: and nothing else");
        assert_eq!(with.1.total() - without.1.total(), of_attempt, "{features}: and nothing else");
    }
}
