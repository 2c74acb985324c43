//! Answers that a fallback replaces as they pass: they are held back until they are complete, and let go at once, or at a tick.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use holdfast_host_tests::{
    Answer, Builder, By, Fault, Host, Local, Request, Reset, Response, Route, Seat, Streaming, Thread, status,
};

use crate::support::{HOUR, count, millis, policy, seconds, succeed};

const BODY: &str = r#"{"items":[]}"#;

const FALLBACK: &str = r#""fallback":[{"on":["failure"],
    "respond":{"status":200,"headers":{"content-type":"application/json"},"body":{"items":[]}}}]"#;

/// The longest that an answer may be held, with the ticks that come late.
const LATEST: Duration = Duration::from_millis(130);

fn replacing(features: &str) -> Builder {
    Host::with(&policy(&format!("{features}{FALLBACK}")))
}

/// The two ways in which a plugin may be told to hold headers back.
fn both(features: &str) -> [Host; 2] {
    [replacing(features).start(), replacing(features).seeing_held_bodies().start()]
}

/// The host's headers say that it failed; the rest of its answer is still to come.
fn failing(host: &Host) -> Streaming {
    failing_on(host, 0)
}

fn failing_on(host: &Host, worker: usize) -> Streaming {
    let streaming = host.get(worker).passed().headers(Response::status(503).header("content-length", "4"));
    assert!(streaming.is_held() && streaming.is_replaced());
    streaming
}

#[track_caller]
fn assert_replaced(answer: &Answer) {
    assert_eq!((answer.by, answer.status, answer.text().as_str()), (By::Holdfast, 200, BODY), "{answer:?}");
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(answer.header("content-length").as_deref().unwrap_or("12"), BODY.len().to_string());
    assert_eq!(answer.header("x-holdfast-fallback").as_deref(), Some("static; reason=failure; policy=orders"));
    assert!(answer.trailers.is_empty(), "{answer:?}");
}

/// The client's answer is the host's own, rewritten.
#[track_caller]
fn assert_rewritten(answer: &Answer) {
    assert_replaced(answer);
    assert_eq!(answer.details, "via_upstream");
}

/// The client's answer is a reply.
#[track_caller]
fn assert_replied(answer: &Answer) {
    assert_replaced(answer);
    assert_eq!(answer.details, "holdfast_failure");
}

#[track_caller]
fn assert_nothing_came(answer: &Answer) {
    assert_eq!((answer.by, answer.status, answer.headers.len()), (By::Nobody, 0, 0), "{answer:?}");
}

/// How long it takes until this is so, in milliseconds.
#[track_caller]
fn millis_until(host: &Host, is_so: impl Fn() -> bool) -> u64 {
    let began = host.elapsed();
    while !is_so() {
        assert!(host.elapsed() - began < seconds(1), "it does not come");
        host.advance(millis(1));
    }
    u64::try_from((host.elapsed() - began).as_millis()).unwrap()
}

#[test]
fn an_answer_that_comes_whole_is_let_go_at_once() {
    let host = replacing("").start();
    let began = host.elapsed();
    assert_rewritten(&host.get(0).passed().respond(Response::status(503)));
    assert_eq!((host.elapsed(), host.queued()), (began, 0), "by a wake-up, which leaves nothing");
    host.assert_no_trap();
}

#[test]
fn a_wake_up_that_is_lost_is_made_up_for_by_a_tick() {
    // Refused, the next tick is asked for at once; lost without a word, it comes within ten milliseconds.
    for (answer, latest) in [(status::NOT_FOUND, 1), (status::OK, 10)] {
        let host = replacing("").start();
        host.on_call(move |_, call| (call.name == "enqueue_shared_queue").then_some(Fault::Status(answer)));
        let began = host.elapsed();
        assert_rewritten(&host.get(0).passed().respond(Response::status(503)));
        let took = host.elapsed() - began;
        assert!(took > Duration::ZERO && took <= millis(latest), "{answer}: {took:?}");
        host.assert_no_trap();
    }
}

#[test]
fn an_answer_that_was_not_whole_at_once_is_let_go_at_the_next_tick() {
    let host = replacing("").start();
    let streaming = failing(&host);
    streaming.completes("down", None);
    assert!(streaming.is_held(), "nobody has looked");
    host.advance(millis(1));
    assert_rewritten(&streaming.answer().unwrap());
    assert_eq!(host.streams(0), 0);
    host.assert_no_trap();
}

#[test]
fn where_bodies_are_seen_it_is_let_go_with_its_last_piece() {
    let host = replacing("").seeing_held_bodies().start();
    let streaming = failing(&host);
    for piece in ["do", "w", ""] {
        streaming.piece(piece);
        assert!(streaming.is_held());
    }
    streaming.completes("n", None);
    assert_rewritten(&streaming.answer().unwrap());
    host.assert_no_trap();
}

#[test]
fn answers_of_every_shape_have_the_new_body_once() {
    for host in both("") {
        let answer = |response| host.get(0).passed().respond(response);
        for response in [
            Response::status(503).body("down"),
            Response::status(503).body("down").header("content-length", "4"),
            Response::status(503).body("down").trailer("x-t", "1"),
            Response::status(503).empty_body(),
            Response::status(500).body([b'x'; 16 * 1024]).header("content-length", "16384"),
        ] {
            assert_rewritten(&answer(response));
        }
        assert_replied(&answer(Response::status(503).without_body()));
        // Longer than what is held back.
        let streaming =
            host.get(0).passed().headers(Response::status(503).header("content-length", (16 * 1024 + 1).to_string()));
        assert!(streaming.is_replaced() && !streaming.is_held());
        for _ in 0..10 {
            streaming.piece([b'x'; 1000]);
        }
        assert_rewritten(&streaming.ends());
        // A HEAD request's answer is whole with its headers.
        let head = host.request(0, Request::new("HEAD", "/")).passed();
        let whole = head.respond(Response::status(503).without_body().header("content-length", "4"));
        assert_eq!((whole.status, whole.body.len(), whole.details.as_str()), (200, 0, "via_upstream"));
        assert_eq!(whole.header("content-length").as_deref(), Some("12"), "what a GET would have");
        // What is not a host's is complete.
        let local = host.get(0).passed().local(Local::connect_failure());
        assert_replaced(&local);
        assert_eq!(local.details, Local::connect_failure().details());
        assert_eq!(host.streams(0), 0);
        host.assert_no_trap();
    }
}

/// A body that is only trailers has no piece that could be overwritten: the reply comes where it can be seen.
#[test]
fn trailers_alone_leave_no_trailers() {
    let [unseen, seen] = both("");
    let only_trailers = || Response::status(503).without_body().trailer("x-t", "1");
    let answer = unseen.get(0).passed().respond(only_trailers());
    assert_eq!((answer.status, answer.body.len(), answer.trailers.len()), (200, 0, 0), "{answer:?}");
    assert_eq!(answer.header("content-length"), None);
    assert_replied(&seen.get(0).passed().respond(only_trailers()));
}

#[test]
fn an_answer_that_never_ends_is_replied_to_in_time() {
    for host in both("") {
        let streaming = failing(&host);
        host.advance(millis(99));
        assert!(streaming.is_held());
        let took = 99 + millis_until(&host, || streaming.answer().is_some());
        assert!((100..=LATEST.as_millis()).contains(&took.into()), "{took} ms");
        assert_replied(&streaming.answer().unwrap());
        host.assert_no_trap();
    }
}

#[test]
fn an_answer_that_takes_a_while_is_rewritten() {
    for after in [1, 7, 50, 74] {
        let host = replacing("").start();
        let streaming = failing(&host);
        host.advance(millis(after));
        streaming.completes("down", None);
        let took = millis_until(&host, || streaming.answer().is_some());
        assert!(took <= (2 * after).min(26), "looked at {took} ms after it was complete, at {after} ms");
        assert_rewritten(&streaming.answer().unwrap());
    }
}

#[test]
fn a_client_that_leaves_gives_its_place_back() {
    for host in both(r#""concurrency":{"max_requests":1},"#) {
        for _ in 0..5 {
            let streaming = failing(&host);
            assert_eq!(host.in_flight(), 1);
            assert!(!host.get(0).has_passed(), "its place is taken");
            assert_nothing_came(&streaming.client_leaves());
            assert_eq!((host.in_flight(), host.streams(0)), (0, 0));
            host.advance(LATEST);
        }
        assert_eq!(count(&host, "failure"), 5);
        host.assert_no_trap();
    }
}

#[test]
fn a_host_that_resets_leaves_the_client_without_an_answer() {
    for host in both(r#""concurrency":{"max_requests":1},"#) {
        let streaming = failing(&host);
        assert_nothing_came(&streaming.breaks_off());
        host.advance(LATEST);
        assert_eq!((host.in_flight(), host.streams(0), count(&host, "failure")), (0, 0, 1));
        host.assert_no_trap();
    }
}

fn routed(host: &Host) -> holdfast_host_tests::Routed {
    host.send(0, Request::get("/"))
}

#[test]
fn the_attempt_ends_by_itself_and_its_answer_is_let_go() {
    for builder in [replacing(""), replacing("").attempt_seat()] {
        let host = builder.start();
        let request = routed(&host);
        request.attempt().responds(503);
        let [attempt] = &request.tries()[..] else { panic!("one attempt") };
        assert_eq!(attempt.ended, Some(host.elapsed()), "the host's stream is over");
        assert_rewritten(&request.answer());
        host.assert_nothing_is_left();
    }
}

#[test]
fn a_reply_ends_the_attempt_whose_answer_never_ends() {
    let host = replacing("").attempt_seat().start();
    let request = routed(&host);
    request.attempt().begins(503);
    host.advance(millis(99));
    assert!(!request.is_over() && request.tries()[0].ended.is_none());
    host.advance(LATEST - millis(99));
    assert_replied(&request.answer());
    host.assert_nothing_is_left();
}

#[test]
fn the_answer_of_the_last_attempt_is_held() {
    let features = r#""retry":{"on":["5xx"],"max_retries":1,"backoff":{"base":"10ms","max":"10ms","jitter":"none"}},"#;
    let host = replacing(features).attempt_seat().start();
    crate::support::seats_meet(&host);
    let request = routed(&host);
    request.attempt().responds(503);
    host.advance(millis(10));
    request.attempt().begins(503);
    host.advance(millis(20));
    assert!(!request.is_over(), "what is complete is the first attempt's answer");
    request.attempt().ends();
    host.advance(millis(20));
    assert_eq!((request.answer().status, request.answer().text().as_str()), (200, BODY));
    assert_eq!(request.tries().len(), 2);
    host.assert_nothing_is_left();
}

#[test]
fn whatever_ends_a_held_request_ends_it_once() {
    type End = fn(&holdfast_host_tests::Routed);
    let ends: [(&str, End); 3] = [
        ("the client leaves", |request| drop(request.client_leaves())),
        ("the host resets", |request| request.attempt().resets()),
        ("the connection breaks", |request| request.attempt().fails(Reset::ConnectionTermination)),
    ];
    for (what, end) in ends {
        let host = replacing(r#""concurrency":{"max_requests":1},"#).attempt_seat().start();
        let request = routed(&host);
        request.attempt().begins(503);
        host.advance(millis(5));
        end(&request);
        assert_nothing_came(&request.answer());
        host.advance(LATEST);
        assert_eq!((host.in_flight(), count(&host, "failure"), count(&host, "ignored")), (0, 1, 0), "{what}");
        host.assert_nothing_is_left();
        host.assert_no_trap();
    }
    let host = replacing("").route(Route::new().timeout(millis(50))).attempt_seat().start();
    let request = routed(&host);
    request.attempt().begins(503);
    host.advance(millis(60));
    assert_nothing_came(&request.answer());
    host.assert_nothing_is_left();
}

#[test]
fn a_time_out_of_the_route_does_not_come_after_the_hosts_answer_is_complete() {
    let host = replacing("").route(Route::new().timeout(millis(5))).attempt_seat().start();
    let request = routed(&host);
    host.advance(millis(4));
    request.attempt().begins(503);
    request.attempt().ends();
    host.stall(0);
    host.advance(millis(10));
    assert!(!request.is_over());
    host.resume(0);
    host.advance(millis(1));
    assert_rewritten(&request.answer());
}

#[test]
fn what_a_vm_held_that_died_is_the_clients_to_give_up() {
    let host = replacing(r#""concurrency":{"max_requests":10},"#).attempt_seat().start();
    let (streaming, request) = (failing(&host), routed(&host));
    // What is complete is held until the worker gets to it, which it never does.
    host.stall(0);
    request.attempt().responds(503);
    let timed = host.send(0, Request::get("/").header("x-envoy-upstream-rq-timeout-ms", "500"));
    timed.attempt().begins(503);
    host.crash(0);
    host.resume(0);
    host.advance(seconds(2));
    assert!(!request.is_over() && streaming.is_held());
    assert_nothing_came(&timed.answer());
    assert_nothing_came(&request.client_leaves());
    assert_nothing_came(&streaming.client_leaves());
    assert_rewritten(&host.get(0).passed().respond(Response::status(503)));
    host.advance(HOUR);
    assert_eq!(host.in_flight(), 0, "places of a VM that died are given back in time");
    host.assert_nothing_is_left();
    host.assert_no_trap();
}

#[test]
fn a_vm_may_die_at_any_call_of_letting_go() {
    for nth in 0..20 {
        let host = replacing("").start();
        let streaming = failing(&host);
        streaming.completes("down", None);
        let first = host.calls(0);
        host.crash_at(0, move |call| call.before >= first + nth);
        host.advance(millis(2));
        let has_died = !host.is_alive(0);
        if let Some(answer) = streaming.answer() {
            assert!(has_died || answer.text() == BODY);
        } else {
            assert!(has_died);
            drop(streaming.client_leaves());
        }
        host.nothing_fails();
        host.advance(seconds(2));
        assert_rewritten(&host.get(0).passed().respond(Response::status(503)));
        host.assert_no_trap();
        if !has_died {
            assert!(nth > 3, "there are calls to die at");
            return;
        }
    }
    panic!("letting go takes fewer calls");
}

#[test]
fn what_an_old_policy_held_is_let_go_when_there_is_a_new_one() {
    let host = replacing("").start();
    let (complete, endless) = (failing(&host), failing(&host));
    complete.completes("down", None);
    host.update(&policy(r#""breaker":{}"#)).unwrap();
    assert_eq!(host.roots(0), 2, "the old one has streams");
    assert_eq!(host.get(0).passed().respond(Response::status(503)).status, 503);
    host.advance(millis(1));
    assert_rewritten(&complete.answer().unwrap());
    host.advance(LATEST);
    assert_replied(&endless.answer().unwrap());
    assert_eq!((host.roots(0), host.streams(0)), (1, 0));
    host.assert_no_trap();
}

#[test]
fn two_listeners_let_their_own_answers_go() {
    for other in [policy(FALLBACK), policy(&format!(r#""breaker":{{}},{FALLBACK}"#))] {
        let host = replacing("").start();
        let second = host.add_listener(&other).unwrap();
        let hold = |listener| {
            let streaming = host.request(0, Request::get("/").on(listener)).passed().headers(Response::status(503));
            assert!(streaming.is_held());
            streaming
        };
        let held = [host.first_listener(), second, host.first_listener(), second].map(hold);
        held[0].completes("down", None);
        held[1].completes("down", None);
        host.advance(millis(1));
        held[..2].iter().for_each(|one| assert_rewritten(&one.answer().unwrap()));
        assert!(held[2].is_held() && held[3].is_held());
        host.advance(LATEST);
        held[2..].iter().for_each(|one| assert_replied(&one.answer().unwrap()));
        host.assert_no_trap();
    }
}

/// The moments at which worker 0 ticks from now on.
fn ticks(host: &Host) -> Rc<RefCell<BTreeSet<Duration>>> {
    let ticks = Rc::<RefCell<BTreeSet<Duration>>>::default();
    let seen = Rc::clone(&ticks);
    host.on_call(move |host, call| {
        if call.thread == Thread::Worker(0) && call.seat == Seat::Request {
            seen.borrow_mut().insert(host.elapsed());
        }
        None
    });
    ticks
}

#[test]
fn many_held_at_once_cost_few_ticks_and_few_calls() {
    const MANY: u64 = 500;
    let host = replacing("").start();
    let all: Vec<_> = (0..MANY).map(|_| failing(&host)).collect();
    all.iter().for_each(|one| one.completes("down", None));
    let (before, seen) = (host.calls(0), ticks(&host));
    host.advance(millis(1));
    all.iter().for_each(|one| assert_rewritten(&one.answer().unwrap()));
    assert_eq!(seen.borrow().len(), 1, "one tick for all");
    let each = (host.calls(0) - before).div_ceil(MANY);
    // Whose answer it is, whether it is complete, its going on, and the new body.
    assert_eq!(each, 5, "calls for each answer");

    let all: Vec<_> = (0..MANY).map(|_| failing(&host)).collect();
    seen.borrow_mut().clear();
    let before = host.calls(0);
    host.advance(LATEST);
    all.iter().for_each(|one| assert_replied(&one.answer().unwrap()));
    let looks = seen.borrow().len();
    assert!(looks <= 20, "{looks} ticks");
    let each = (host.calls(0) - before) / MANY;
    assert!(each <= 20, "{each} calls for each answer that never ends");
    host.assert_no_trap();
}

#[test]
fn ticks_are_seldom_again_when_nothing_is_held() {
    for completes in [true, false] {
        let host = replacing(r#""breaker":{"min_requests":1000},"#).start();
        assert_rewritten(&host.get(0).passed().respond(Response::status(503)));
        host.advance(seconds(5));
        let calls_in = |time| {
            let before = host.calls(0);
            host.advance(time);
            host.calls(0) - before
        };
        let before = calls_in(seconds(10));
        for _ in 0..10 {
            let one = failing(&host);
            if completes {
                one.completes("down", None);
            }
            host.advance(LATEST);
            assert!(one.answer().is_some());
        }
        // One that nobody waits for any more.
        drop(failing(&host).client_leaves());
        host.advance(seconds(5));
        let after = calls_in(seconds(10));
        assert!(after.abs_diff(before) <= 5, "{before} calls in ten seconds before, {after} after");
        host.assert_no_trap();
    }
}

/// What the metric said last, whatever waits.
fn told(host: &Host, metric: &str) -> u64 {
    host.metric_told(&format!("holdfast.policy=.=orders;.;key=.=all;.;{metric}")).unwrap_or(0)
}

#[test]
fn counters_and_slots_are_written_in_time_while_ticks_come_every_millisecond() {
    let host = replacing(r#""breaker":{"min_requests":20,"failure_rate":90},"#).start();
    (0..100).for_each(|_| drop(succeed(&host, 0)));
    host.advance(millis(200));
    let writes = Rc::new(Cell::new(0));
    let seen = Rc::clone(&writes);
    host.on_call(move |_, call| {
        seen.set(seen.get() + u32::from(call.writes("/slot/") && call.thread == Thread::Worker(0)));
        None
    });
    let (mut held, mut requests) = (Vec::new(), [100_u64; 1001]);
    for milli in 1..=1000 {
        succeed(&host, 0);
        if milli % 4 == 0 {
            held.push(failing(&host));
        }
        requests[milli] = requests[milli - 1] + 1 + u64::from(milli % 4 == 0);
        host.advance(millis(1));
        let told = told(&host, "requests");
        let due = requests[milli.saturating_sub(101)];
        assert!(told >= due, "{milli} ms: {told} requests are told of, 101 ms ago there were {due}");
    }
    // A failure may decide and is written at once: 250 of them.
    let written = writes.get();
    assert!((90..=360).contains(&written), "{written} writes");
    let mut gap = 0;
    for _ in 0..100 {
        let before = writes.get();
        succeed(&host, 0);
        host.advance(millis(1));
        gap = if writes.get() == before { gap + 1 } else { 0 };
        assert!(gap <= 10, "what has happened is written within 10 ms");
    }
    host.assert_no_trap();
}

#[test]
fn a_clock_that_is_set_holds_nothing_up() {
    for (what, set) in [
        ("back a millisecond", (|host| host.set_clock_back(millis(1))) as fn(&Host)),
        ("back 50 ms", |host| host.set_clock_back(millis(50))),
        ("back a second", |host| host.set_clock_back(seconds(1))),
        ("back 9 s", |host| host.set_clock_back(seconds(9))),
        ("back an hour", |host| host.set_clock_back(HOUR)),
        ("forward 50 ms", |host| host.set_clock_forward(millis(50))),
        ("forward an hour", |host| host.set_clock_forward(HOUR)),
    ] {
        for after in [0, 1, 20] {
            let host = replacing("").start();
            let (complete, endless, later) = (failing(&host), failing(&host), failing(&host));
            host.advance(millis(after));
            complete.completes("down", None);
            set(&host);
            let took = millis_until(&host, || complete.answer().is_some());
            assert!(took <= 50, "{what} after {after} ms: {took} ms");
            assert_rewritten(&complete.answer().unwrap());
            later.completes("down", None);
            let took = millis_until(&host, || endless.answer().is_some() && later.answer().is_some());
            assert!(took <= 200, "{what} after {after} ms: {took} ms");
            assert_replied(&endless.answer().unwrap());
            host.assert_no_trap();
        }
    }
}

#[test]
fn a_clock_that_is_put_back_puts_off_no_writing_while_answers_are_held() {
    for back in [millis(50), seconds(1), seconds(9), HOUR] {
        let host = replacing(r#""breaker":{"min_requests":1000},"#).start();
        let _held = failing(&host);
        host.set_clock_back(back);
        let mut held = Vec::new();
        for _ in 0..300 {
            held.push(failing(&host));
            host.advance(millis(1));
        }
        let told = told(&host, "requests");
        assert!(told >= 199, "{back:?} back: {told} of 301 requests are told of");
    }
}

#[test]
fn a_stalled_worker_lets_go_when_it_is_free_again() {
    let host = replacing("").start();
    let (complete, endless) = (failing(&host), failing(&host));
    complete.completes("down", None);
    host.stall(0);
    host.advance(seconds(1));
    assert!(complete.is_held() && endless.is_held());
    host.resume(0);
    host.advance(millis(1));
    assert_rewritten(&complete.answer().unwrap());
    assert_replied(&endless.answer().unwrap());
}

#[test]
fn a_reply_that_is_refused_lets_the_answer_go() {
    let host = replacing("").start();
    let endless = failing(&host);
    host.on_call(|_, call| (call.name == "send_local_response").then_some(holdfast_host_tests::Fault::Status(2)));
    host.advance(LATEST);
    assert!(!endless.is_held(), "better the host's answer than none");
    assert_rewritten(&endless.ends());
    host.assert_no_trap();
}

const OPEN: &str = r#""breaker":{"state":"forced_open"}"#;

#[test]
fn a_rejected_grpc_call_gets_its_status_in_headers_of_its_own() {
    let host = Host::with(&policy(OPEN)).start();
    let calls = [
        Request::grpc("/orders.v1.Orders/Get"),
        Request::grpc("/orders.v1.Orders/Get").transcoded(),
        Request::grpc("/orders.v1.Orders/Get").protocol("HTTP/1.1").header("x-grpc-web", "1"),
    ];
    for call in calls {
        let answer = host.request(0, call).answered();
        assert_eq!((answer.by, answer.status, answer.body.len()), (By::Holdfast, 200, 0));
        assert_eq!(answer.header("content-type").as_deref(), Some("application/grpc"));
        assert_eq!(answer.header("grpc-status").as_deref(), Some("14"));
        assert_eq!(answer.header("grpc-message").as_deref(), Some("rejected by policy orders: open"));
        assert_eq!(answer.details, "holdfast_open");
    }
    let plain = host.get(0).answered();
    assert_eq!((plain.status, plain.header("grpc-status")), (503, None));
    assert_eq!(count(&host, "rejected.open"), 4);
    host.assert_no_trap();
}

#[test]
fn a_grpc_call_that_is_answered_with_text_is_replied_to_when_that_is_complete() {
    for host in both("") {
        let call = |request: Request| request.header("te", "trailers");
        let text = || Response::status(503).header("content-type", "text/html").body("<h1>down</h1>");
        let host_answers = |request| host.request(0, call(request)).passed().respond(text());
        let answer = host_answers(Request::grpc("/orders.v1.Orders/Get"));
        assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("14")));
        assert_eq!(answer.details, "holdfast_failure");
        let whole = host.request(0, Request::grpc("/a.B/C")).passed().respond(Response::grpc_headers_only(14));
        assert_eq!((whole.header("grpc-status").as_deref(), whole.details.as_str()), (Some("14"), "via_upstream"));
        assert!(whole.header("x-holdfast-fallback").is_some());
        // Where a filter translates, it makes of an HTTP answer what its client expects.
        let translated = host_answers(Request::grpc("/orders.v1.Orders/Get").transcoded());
        assert_eq!((translated.status, translated.header("grpc-status")), (503, None), "{translated:?}");
        assert_eq!(translated.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
        assert_eq!(translated.details, "via_upstream");
        host.assert_no_trap();
    }
}
