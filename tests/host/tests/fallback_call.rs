//! The same request again, in another cluster while the failed answer is held back, with refusals and crashes at every host call.

use holdfast_host_tests::{Answer, Host, HttpCall, Request, Response, Routed, Seat};

use crate::support::{millis, seconds};

const DOCUMENT: &str = r#"{"policies":[
    {"name":"orders","match":{"cluster":"orders"},"breaker":{"min_requests":1000},"fallback":[
        {"on":["failure"],"call":{"cluster":"standby","timeout":"2s","max_concurrent":2}},
        {"on":["failure"],"call":{"cluster":"second","timeout":"1s"}},
        {"on":["retries_exhausted"],"respond":{"status":418}}]}]}"#;

fn start() -> Host {
    let document = DOCUMENT.replace(r#""breaker""#, r#""retry":{"max_retries":0},"breaker""#);
    let host = Host::with(&document).workers(2).attempt_seat().hosts(&["10.0.0.1:80"]);
    host.plain_cluster("standby", &["10.0.0.2:80"]).plain_cluster("second", &["10.0.0.3:80"]).start()
}

fn send(host: &Host, worker: usize) -> Routed {
    let request = host.send(worker, Request::get("/a").cluster("orders").body("a body"));
    // None where the VM has died.
    for attempt in request.attempts() {
        attempt.responds(Response::status(503).body("down"));
    }
    request
}

/// The call under way, once it is made.
fn call(host: &Host) -> Option<HttpCall> {
    for _ in 0..200 {
        if let Some(call) = host.calls_out().pop() {
            return Some(call);
        }
        host.advance(millis(1));
    }
    None
}

/// Lets the service fail, and the first cluster that is asked answer with `standby`.
fn fail_over(host: &Host, worker: usize, standby: u16) -> Answer {
    let request = send(host, worker);
    if !request.is_over()
        && let Some(call) = call(host)
    {
        call.responds(Response::status(standby).body("standby"));
    }
    let began = host.elapsed();
    while !request.is_over() {
        if host.elapsed() - began > seconds(5) {
            // What a VM held that has died is the client's to give up.
            assert!(!host.is_alive(Seat::Request.on(worker)), "it lasts longer than all its time-outs");
            return request.client_leaves();
        }
        host.advance(millis(10));
    }
    request.answer()
}

fn count(host: &Host, name: &str) -> u64 {
    host.metric_of("orders", "cluster=orders", name)
}

#[test]
fn another_cluster_answers_in_place_of_the_service() {
    let host = start();
    for worker in [0, 1] {
        let request = send(&host, worker);
        assert!(!request.is_over(), "the answer is held back");
        let asked = call(&host).unwrap();
        assert_eq!((asked.cluster(), asked.body(), asked.timeout()), ("standby", &b"a body"[..], seconds(2)));
        assert_eq!(asked.header(":path").as_deref(), Some("/a"));
        assert_eq!(asked.header("x-envoy-max-retries"), None);
        asked.responds(Response::status(200).header("x-by", "standby").body("standby"));
        host.advance(millis(10));
        let answer = request.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "standby"));
        let says = "call; reason=failure; policy=orders; cluster=standby";
        assert_eq!(answer.header("x-holdfast-fallback").as_deref(), Some(says));
        let log = answer.access_log.unwrap_or_default();
        assert!(log.contains("decision=fallback; reason=failure; kind=call; cluster=standby"), "{log}");
    }
    host.advance(seconds(1));
    assert_eq!(
        (count(&host, "failure"), count(&host, "fallback.call"), count(&host, "fallback_failed.call")),
        (2, 2, 0)
    );
    host.assert_nothing_is_left();
    host.assert_no_trap();
}

#[test]
fn one_that_comes_to_nothing_gives_way_to_the_next_and_at_last_to_the_services_own_answer() {
    let host = start();
    type End = fn(&HttpCall);
    let ends: [End; 3] = [|call| call.responds(500), HttpCall::resets, HttpCall::connect_fails];
    for end in ends {
        let request = send(&host, 0);
        end(&call(&host).unwrap());
        let next = call(&host).unwrap();
        assert_eq!(next.cluster(), "second");
        next.responds(Response::status(200).body("second"));
        host.advance(millis(10));
        assert_eq!(request.answer().text(), "second");
    }
    let request = send(&host, 0);
    for _ in 0..2 {
        let asked = call(&host).unwrap();
        asked.responds(503);
        host.advance(millis(1));
    }
    host.advance(millis(10));
    let answer = request.answer();
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-holdfast-fallback")), (503, "down", None));
    assert!(answer.access_log.is_some_and(|line| line.contains("failed=call:failed,call:failed")));

    let request = send(&host, 0);
    host.advance(seconds(4));
    assert_eq!(request.answer().text(), "down", "both hang");
    host.advance(seconds(1));
    assert_eq!(count(&host, "fallback_failed.call"), 3 + 2 + 2);
    host.assert_nothing_is_left();
    host.assert_no_trap();
}

#[test]
fn a_worker_makes_no_more_calls_than_it_may_and_a_client_that_leaves_counts_until_the_answer() {
    let host = start();
    let requests = [0, 1, 2].map(|_| send(&host, 0));
    host.advance(millis(5));
    let clusters: Vec<String> = host.calls_out().iter().map(|call| call.cluster().to_owned()).collect();
    assert_eq!(clusters, ["standby", "standby", "second"], "the third may not be made there");
    for request in &requests {
        request.client_leaves();
    }
    let late = send(&host, 0);
    host.advance(millis(5));
    assert_eq!(host.calls_out().last().unwrap().cluster(), "second", "two are still under way");
    host.calls_out().iter().for_each(|call| call.responds(Response::status(200).body("late")));
    host.advance(millis(10));
    assert_eq!(late.answer().text(), "late");
    assert_eq!(fail_over(&host, 0, 200).text(), "standby", "they are over");
    host.assert_nothing_is_left();
    host.assert_no_trap();
}

#[test]
fn every_host_call_may_be_refused_once() {
    for nth in 0.. {
        let host = start();
        assert_eq!(fail_over(&host, 0, 200).status, 200);
        let first = host.calls(Seat::Request.on(0));
        host.on_call(move |_, call| {
            let strikes = call.seat == Seat::Request && call.before == first + nth && call.name != "set_buffer_bytes";
            call.refused().filter(|_| strikes)
        });
        let answer = fail_over(&host, 0, 200);
        assert!([200, 503].contains(&answer.status), "call {nth}: {answer:?}");
        host.nothing_fails();
        host.assert_no_trap();
        if host.calls(Seat::Request.on(0)) < first + nth {
            break;
        }
    }
}

#[test]
fn the_vm_may_die_at_any_host_call() {
    for nth in 0.. {
        let host = start();
        assert_eq!(fail_over(&host, 1, 200).status, 200);
        let first = host.calls(Seat::Request.on(1));
        host.crash_at(Seat::Request.on(1), move |call| call.before == first + nth);
        fail_over(&host, 1, 200);
        host.nothing_fails();
        let died = !host.is_alive(Seat::Request.on(1));
        host.advance(seconds(30));
        for worker in [0, 1] {
            assert_eq!(fail_over(&host, worker, 200).text(), "standby", "call {nth}");
        }
        host.assert_nothing_is_left();
        if !died {
            break;
        }
    }
}
