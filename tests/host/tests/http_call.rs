//! Calls that a module makes itself, to the letter of what Envoy does with them.

use std::cell::RefCell;
use std::rc::Rc;

use holdfast_host_tests::status::{BAD_ARGUMENT, INTERNAL_FAILURE, NOT_FOUND, OK};
use holdfast_host_tests::{Builder, Fault, Host, HttpCall, Reaction, Request, Reset, Response, Seat, Thread};

use crate::small_module::Calling;
use crate::support::{HOUR, millis, seconds};

fn calling(calling: &Calling) -> Builder {
    Host::with("{}").module(&calling.module())
}

/// Lets worker 0 make its call and gives it; the main thread makes one too.
#[track_caller]
fn call_of_worker(host: &Host) -> HttpCall {
    host.advance(seconds(1));
    let mut calls = host.calls_out().into_iter().filter(|call| call.thread() == Thread::Worker(0));
    calls.next_back().expect("worker 0 has made a call")
}

fn words(host: &Host, key: &str) -> Vec<u32> {
    let bytes = host.shared(key).unwrap_or_default().0;
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn read(host: &Host, key: &str) -> String {
    String::from_utf8(host.shared(key).unwrap().0).unwrap()
}

#[test]
fn an_answer_comes_to_the_vm_that_asked_with_all_there_is_to_read() {
    let host = calling(&Calling { body: "ping", ..Calling::default() }).start();
    let call = call_of_worker(&host);
    assert_eq!(words(&host, "sent"), [OK, 4], "the first token of a VM");
    assert_eq!((call.cluster(), call.host().as_str(), call.seat()), ("orders", "127.0.0.1:4001", Seat::Request));
    assert_eq!((call.body(), call.timeout()), (&b"ping"[..], seconds(2)));
    assert_eq!(call.header(":path").as_deref(), Some("/healthz"));
    assert_eq!(call.header("content-length").as_deref(), Some("4"), "Envoy adds what it adds");
    assert_eq!(call.header("x-envoy-expected-rq-timeout-ms").as_deref(), Some("2000"));
    assert_eq!(host.elapsed() - call.began(), millis(0));
    call.responds(Response::status(204).body("pong").header("x-a", "b").trailer("x-trailer", "late"));
    assert!(call.is_over());
    assert_eq!(words(&host, "told"), [4, 3, 4, 1, 1], "token; three headers, of which one is Envoy's; body; trailers");
    let seen = ["status", "body", "trailer"].map(|key| read(&host, key));
    assert_eq!(seen, ["204", "pong", "late"]);
    host.assert_no_trap();
}

#[test]
fn what_envoy_refuses_at_once_is_refused_at_once() {
    let status = |calls: Calling, builder: fn(Builder) -> Builder| {
        let host = builder(calling(&calls)).start();
        host.advance(seconds(1));
        assert!(host.calls_out().is_empty(), "nothing is under way");
        host.advance(seconds(60));
        assert_eq!(words(&host, "told"), [0; 0], "and nothing is told");
        words(&host, "sent")[0]
    };
    let as_is: fn(Builder) -> Builder = |builder| builder;
    assert_eq!(status(Calling { cluster: "nowhere", ..Calling::default() }, as_is), BAD_ARGUMENT);
    for missing in [":method", ":path", ":authority"] {
        let mut calls = Calling::default();
        calls.headers.retain(|(name, _)| *name != missing);
        assert_eq!(status(calls, as_is), BAD_ARGUMENT, "without {missing}");
    }
    assert_eq!(status(Calling { timeout_ms: -1, ..Calling::default() }, as_is), BAD_ARGUMENT);
    assert_eq!(status(Calling::default(), |builder| builder.override_host(&[])), INTERNAL_FAILURE, "no healthy host");
}

#[test]
fn a_time_out_and_a_host_that_cannot_be_reached_are_answers_of_envoys() {
    let host = calling(&Calling { every: 10_000, ..Calling::default() }).start();
    host.advance(millis(11_999));
    assert_eq!(words(&host, "told"), [0; 0], "there is time left");
    host.advance(millis(1));
    assert_eq!((read(&host, "status").as_str(), read(&host, "body").as_str()), ("504", "upstream request timeout"));
    host.advance(seconds(8));
    host.calls_out().into_iter().for_each(|call| call.connect_fails());
    assert_eq!(read(&host, "status"), "503");
    let body = read(&host, "body");
    assert!(body.starts_with("upstream connect error or disconnect/reset before headers"), "{body}");
    host.advance(seconds(10));
    host.calls_out().into_iter().for_each(|call| call.fails(Reset::ProtocolError));
    assert_eq!(read(&host, "status"), "502");
    host.assert_no_trap();
}

#[test]
fn without_a_time_out_a_call_waits_for_ever() {
    let host = calling(&Calling { timeout_ms: 0, every: 3_000_000, ..Calling::default() }).start();
    host.advance(HOUR);
    assert_eq!(host.calls_out().len(), 2);
    assert_eq!(words(&host, "told"), [0; 0]);
}

#[test]
fn of_a_response_that_breaks_off_there_is_nothing_to_read() {
    let host = calling(&Calling::default()).start();
    call_of_worker(&host).resets();
    assert_eq!(words(&host, "told"), [4, 0, 0, 0, 1]);
    let statuses = ["status", "body", "trailer"].map(|key| words(&host, key)[0]);
    assert_eq!(statuses, [BAD_ARGUMENT, NOT_FOUND, BAD_ARGUMENT]);
    host.assert_no_trap();
}

#[test]
fn a_module_that_cannot_be_told_is_not_told() {
    let host = calling(&Calling { hears: false, ..Calling::default() }).start();
    call_of_worker(&host).responds(200);
    assert_eq!(words(&host, "told"), [0; 0]);
    host.assert_no_trap();
}

#[test]
fn a_call_names_its_host_and_goes_by_the_attempt_seat() {
    let mut calls = Calling::default();
    calls.headers.push(("x-holdfast-hosts", "10.0.0.2:80"));
    let host = calling(&calls).attempt_seat().override_host(&["10.0.0.1:80", "10.0.0.2:80"]).start();
    let call = call_of_worker(&host);
    assert_eq!(call.host(), "10.0.0.2:80");
    assert_eq!(call.header("x-seen").as_deref(), Some("yes"), "the attempt seat has had it");
    assert_eq!(host.streams(Seat::Attempt.on(0)), 1);
    call.responds(200);
    assert_eq!(host.streams(Seat::Attempt.on(0)), 0);
    assert_eq!(read(&host, "status"), "200");
    let plain = Calling { cluster: "control", ..Calling::default() };
    let host = calling(&plain).attempt_seat().plain_cluster("control", &["10.1.0.1:80"]).start();
    let call = call_of_worker(&host);
    assert_eq!((call.host().as_str(), call.header("x-seen")), ("10.1.0.1:80", None), "a cluster without the module");
    host.assert_no_trap();
}

#[test]
fn the_attempt_seat_cannot_call_a_cluster_that_it_sits_in() {
    let in_attempt_seat = || Calling { in_attempt_seat: true, ..Calling::default() };
    let host = calling(&in_attempt_seat()).attempt_seat().start();
    host.advance(seconds(1));
    let crash = host.crashes().pop().expect("its VM is entered while it runs");
    assert_eq!((crash.seat, crash.wanted), (Seat::Attempt, false));
    let elsewhere = Calling { cluster: "control", ..in_attempt_seat() };
    let host = calling(&elsewhere).attempt_seat().plain_cluster("control", &["10.1.0.1:80"]).start();
    assert_eq!(call_of_worker(&host).seat(), Seat::Attempt);
    call_of_worker(&host).responds(200);
    assert_eq!(read(&host, "status"), "200");
    host.assert_no_trap();
}

#[test]
fn nobody_hears_of_calls_of_a_vm_or_a_configuration_that_is_gone() {
    let host = calling(&Calling { timeout_ms: 0, ..Calling::default() }).workers(2).attempt_seat().start();
    let of_worker = |host: &Host, worker| {
        host.calls_out().into_iter().filter(|call| call.thread() == Thread::Worker(worker)).count()
    };
    let call = call_of_worker(&host);
    host.crash(0);
    assert_eq!((of_worker(&host, 0), of_worker(&host, 1)), (0, 1), "Envoy resets it");
    assert!(call.is_over());
    assert_eq!(host.streams(Seat::Attempt.on(0)), 0, "in the attempt seat too");
    host.reload(0);
    let again = call_of_worker(&host);
    assert_eq!(words(&host, "sent")[1], 4, "a new VM counts anew");
    host.update(r#"{"another":1}"#).unwrap();
    assert!(again.is_over(), "its root context is gone");
    assert!(host.calls_out().is_empty());
    host.advance(seconds(1));
    assert_eq!(host.calls_out().len(), 3, "the new one calls, on the main thread and both workers");
    assert_eq!(
        words(&host, "sent")[1],
        12,
        "the third call of the VM that called last, over both of its root contexts"
    );
    assert_eq!(words(&host, "told"), [0; 0]);
    host.assert_no_trap();
}

#[test]
fn rules_see_calls_and_may_refuse_them_or_stop_the_vm() {
    let host = calling(&Calling::default()).start();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let sees = Rc::clone(&seen);
    host.on_call(move |_, call| {
        (call.name == "http_call").then(|| {
            sees.borrow_mut().push(call.subject.to_owned());
            Fault::Status(7)
        })
    });
    host.advance(seconds(1));
    assert_eq!(
        (seen.borrow().as_slice(), words(&host, "sent")[0]),
        (&["orders".to_owned(), "orders".to_owned()][..], 7)
    );
    host.nothing_fails();
    host.crash_at(0, |call| call.name == "http_call");
    host.advance(seconds(1));
    assert!(!host.is_alive(0));
    assert_eq!(host.calls_out().len(), 1, "the main thread's");
    host.assert_no_trap();
}

#[test]
fn hosts_may_answer_by_themselves_for_hours() {
    let hosts = Rc::new(RefCell::new(Vec::new()));
    let asked = Rc::clone(&hosts);
    let builder = calling(&Calling::default()).workers(2).attempt_seat().override_host(&["10.0.0.1:80", "10.0.0.2:80"]);
    let host = builder
        .answering_calls(move |arrival| {
            asked.borrow_mut().push((arrival.host.to_owned(), arrival.thread, arrival.at));
            Some(if arrival.host == "10.0.0.1:80" {
                Reaction::responds(Response::status(200).body("well")).after(millis(30))
            } else {
                Reaction::fails(Reset::ConnectFailure)
            })
        })
        .start();
    host.advance(HOUR);
    let asked = hosts.borrow();
    assert_eq!(asked.len(), 3 * 3600, "three threads call once a second");
    let first = asked.iter().filter(|(host, ..)| host == "10.0.0.1:80").count();
    assert!(first.abs_diff(asked.len() / 2) <= 2, "each thread goes round");
    assert!(host.served().is_empty(), "no user's request has come");
    host.assert_no_trap();
}

#[test]
fn what_takes_too_long_by_itself_times_out() {
    let host = calling(&Calling::default()).answering_calls(|_| Some(Reaction::from(200).after(seconds(3)))).start();
    host.advance(seconds(3));
    assert_eq!(read(&host, "status"), "504");
    let host = calling(&Calling::default()).answering_calls(|_| Some(Reaction::breaks_off().after(seconds(1)))).start();
    host.advance(seconds(2));
    assert_eq!(words(&host, "told")[1], 0);
    host.assert_no_trap();
}

#[test]
fn users_requests_go_on_beside_calls() {
    let host = calling(&Calling::default()).attempt_seat().start();
    let call = call_of_worker(&host);
    let request = host.send(0, Request::get("/"));
    request.attempt().responds(200);
    assert_eq!(request.answer().status, 200);
    assert!(!call.is_over());
    call.responds(503);
    assert_eq!(read(&host, "status"), "503");
    assert_eq!(host.served().into_iter().collect::<Vec<_>>(), [("127.0.0.1:4001".to_owned(), 1)]);
    host.assert_no_trap();
}
