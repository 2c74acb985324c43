//! A further attempt, in another cluster after the last one, with refusals and crashes at every host call of both seats.

use holdfast_host_tests::{Answer, Host, Request, Response, Route, Routed, Seat};

use crate::support::{millis, seconds};

const STANDBY: &str = "10.0.0.2:80";

/// `orders` falls back to `standby` after a failure, and then to nobody.
fn document(retry: &str) -> String {
    format!(
        r#"{{"policies":[
            {{"name":"orders","match":{{"cluster":"orders"}},"breaker":{{"min_requests":1000}},"retry":{{{retry}}},"fallback":[
                {{"on":["failure"],"route":{{"cluster":"standby"}}}},
                {{"on":["failure"],"respond":{{"status":418,"body":"nobody at ${{path}}"}}}}]}},
            {{"name":"standby","match":{{"cluster":"standby"}},"breaker":{{"min_requests":1000}}}}]}}"#
    )
}

const RETRY: &str = r#""max_retries":1,"backoff":{"jitter":"none"},"budget":{"min_per_second":1000}"#;

fn start(route: Route) -> Host {
    let host = Host::with(&document(RETRY)).workers(2).attempt_seat().route(route).hosts(&["10.0.0.1:80"]);
    let host = host.plain_cluster("standby", &[STANDBY]).start();
    for _ in 0..2 {
        for worker in [0, 1] {
            let request = send(&host, worker);
            request.attempt().responds(200);
            assert_eq!(request.answer().status, 200);
        }
        host.advance(millis(1100));
    }
    host
}

fn choosing() -> Route {
    Route::new().timeout(seconds(2)).choosing_again()
}

fn send(host: &Host, worker: usize) -> Routed {
    host.send(worker, Request::get("/a").cluster("orders").body("a body"))
}

/// Lets the service fail each attempt, without an answer the second time, and the standby answer `standby` to its own.
fn fail_over(host: &Host, worker: usize, standby: u16) -> Answer {
    let request = send(host, worker);
    let began = host.elapsed();
    loop {
        for attempt in request.attempts().into_iter().filter(|attempt| !attempt.is_held() && !attempt.is_over()) {
            match (attempt.host().as_str(), attempt.number()) {
                (STANDBY, _) => attempt.responds(Response::status(standby).body("standby")),
                (_, 1) => attempt.responds(503),
                (_, _) => attempt.resets(),
            }
        }
        if request.is_over() {
            return request.answer();
        }
        assert!(host.elapsed() - began <= seconds(3), "it lasts longer than its time-out");
        host.advance(millis(10));
    }
}

fn count(host: &Host, policy: &str, name: &str) -> u64 {
    host.metric_of(policy, &format!("cluster={policy}"), name)
}

#[test]
fn the_standby_answers_after_the_last_attempt() {
    let host = start(choosing());
    for worker in [0, 1] {
        let answer = fail_over(&host, worker, 200);
        assert_eq!((answer.status, answer.text().as_str()), (200, "standby"));
        let says = "route; reason=retries_exhausted; policy=orders; cluster=standby";
        assert_eq!(answer.header("x-holdfast-fallback").as_deref(), Some(says));
        let log = answer.access_log.unwrap_or_default();
        assert!(log.contains("kind=route; cluster=standby; attempts=10.0.0.1:80 failure:503"), "{log}");
    }
    let answer = fail_over(&host, 0, 500);
    assert_eq!((answer.status, answer.text().as_str()), (500, "standby"), "its own answer goes on");
    host.advance(seconds(1));
    assert_eq!((count(&host, "orders", "failure"), count(&host, "orders", "retries")), (3, 3));
    assert_eq!(count(&host, "orders", "fallback.route"), 3);
    assert_eq!((count(&host, "standby", "success"), count(&host, "standby", "failure")), (2, 1));
    host.assert_nothing_is_left();
    host.assert_no_trap();
}

#[test]
fn where_the_router_does_not_choose_again_the_next_entry_serves_and_nothing_more_is_tried() {
    let host = start(Route::new().timeout(seconds(2)));
    for turn in 0..4 {
        let request = send(&host, 0);
        request.attempt().responds(503);
        host.advance(millis(500));
        request.attempt().resets();
        assert_eq!((request.answer().status, request.answer().text().as_str()), (418, "nobody at /a"), "{turn}");
        let sent = request.tries().iter().filter(|one| one.sent.is_some()).count();
        assert_eq!(sent, 2, "the service gets no attempt more");
        assert_eq!(request.tries().len(), if turn == 0 { 3 } else { 2 }, "it is left alone then");
        assert!(request.access_log().is_some_and(|line| line.contains("failed=route:not_routed")));
    }
    host.advance(seconds(1));
    assert_eq!(count(&host, "orders", "misassembled.route"), 1);
    assert_eq!(host.logged("further attempts still go to orders").len(), 1);
    assert_eq!((count(&host, "orders", "fallback_failed.route"), count(&host, "orders", "failure")), (4, 4));
    host.assert_no_trap();
}

#[test]
fn a_retry_that_waits_while_the_breaker_opens_is_stopped_and_the_next_entry_serves() {
    let document =
        document(RETRY).replacen(r#""min_requests":1000"#, r#""consecutive_failures":1,"open_for":"60s""#, 1);
    let host = Host::with(&document).workers(2).attempt_seat().route(choosing()).hosts(&["10.0.0.1:80"]);
    let host = host.plain_cluster("standby", &[STANDBY]).start();
    send(&host, 0).attempt().responds(200);
    host.advance(millis(1100));
    let waiting = send(&host, 0);
    waiting.attempt().responds(503);
    assert!(waiting.attempt().is_held(), "for its back-off");
    let opens = host.send(0, Request::new("POST", "/a").cluster("orders"));
    opens.attempt().responds(503);
    assert_eq!(opens.answer().status, 418);
    host.advance(seconds(1));
    let answer = waiting.answer();
    assert_eq!((answer.status, waiting.tries().iter().filter(|one| one.sent.is_some()).count()), (418, 1));
    assert!(answer.access_log.is_some_and(|line| line.contains("failed=route:too_late")));
    host.assert_no_trap();
}

#[test]
fn every_call_of_either_seat_may_be_refused_once() {
    for seat in [Seat::Attempt, Seat::Request] {
        for nth in 0.. {
            let host = start(choosing());
            let first = host.calls(seat.on(0));
            host.on_call(move |_, call| {
                let strikes = call.seat == seat && call.before == first + nth && call.name != "set_buffer_bytes";
                call.refused().filter(|_| strikes)
            });
            let answer = fail_over(&host, 0, 200);
            assert!([200, 418, 503, 504].contains(&answer.status), "{seat:?}, call {nth}: {answer:?}");
            host.nothing_fails();
            host.assert_no_trap();
            if host.calls(seat.on(0)) < first + nth {
                break;
            }
        }
    }
}

#[test]
fn either_vm_may_die_at_any_host_call() {
    for seat in [Seat::Attempt, Seat::Request] {
        for nth in 0.. {
            let host = start(choosing());
            let first = host.calls(seat.on(1));
            host.crash_at(seat.on(1), move |call| call.before == first + nth);
            fail_over(&host, 1, 200);
            host.nothing_fails();
            let died = !host.is_alive(seat.on(1));
            host.advance(seconds(30));
            for worker in [0, 1] {
                // A new VM meets the other seat first.
                let request = send(&host, worker);
                request.attempt().responds(200);
            }
            host.advance(millis(1100));
            for worker in [0, 1] {
                let answer = fail_over(&host, worker, 200);
                assert_eq!(answer.text(), "standby", "{seat:?}, call {nth}");
            }
            host.assert_nothing_is_left();
            if !died {
                break;
            }
        }
    }
}
