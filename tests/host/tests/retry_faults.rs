//! A VM dies, or the host refuses what a seat asks for, while a request is retried. Other requests are served, none lasts
//! longer than its time-outs, the budget never grows, and nothing is left.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use holdfast_host_tests::{Answer, Attempt, Host, Request, Reset, Response, Route, Routed, Seat, Thread, status};

use crate::support::{count, millis, retrying, seats_meet, seconds};

/// How finely the stories below look at what happens.
const STEP: Duration = Duration::from_millis(10);

/// The longest that a request of these stories may last.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Three retries in ten seconds, whatever the traffic.
const TOKENS: usize = 3;
pub const RETRY: &str = r#""max_retries":2,"backoff":{"base":"40ms","max":"40ms","jitter":"none"},"per_try_timeout":"300ms",
    "timeout":"2s","budget":{"ratio":0,"min_per_second":0.3,"window":"10s"}"#;

/// What a host does with an attempt.
#[derive(Clone)]
enum Does {
    Answers(Response),
    Resets,
    CannotBeReached,
    Hangs,
}

use Does::{Answers, CannotBeReached, Hangs, Resets};

fn answers(status: u16) -> Does {
    Answers(Response::status(status))
}

fn do_it(attempt: &Attempt, what: &Does) {
    match what {
        Answers(response) => attempt.responds(response.clone()),
        Resets => attempt.fails(Reset::Remote),
        CannotBeReached => attempt.connect_fails(),
        Hangs => {}
    }
}

/// Lets the hosts do with the request's attempts what `hosts` says, by the number of the attempt; retries are answered well.
#[track_caller]
fn until_over(host: &Host, request: &Routed, hosts: &[Does]) -> Answer {
    let (began, mut done) = (host.elapsed(), BTreeSet::new());
    loop {
        for attempt in request.attempts() {
            if !attempt.is_held() && !attempt.is_over() && done.insert(attempt.number()) {
                do_it(&attempt, hosts.get(attempt.number() - 1).unwrap_or(&answers(200)));
            }
        }
        if request.is_over() {
            return request.answer();
        }
        assert!(host.elapsed() - began <= TIMEOUT, "a request lasts longer than its time-out");
        host.advance(STEP);
    }
}

fn sent(request: &Routed) -> usize {
    request.tries().iter().filter(|one| one.sent.is_some()).count()
}

pub fn start() -> Host {
    let host = Host::with(&retrying(RETRY)).workers(2).attempt_seat().route(Route::new().timeout(TIMEOUT)).start();
    seats_meet(&host);
    host
}

/// How many tokens there are now; they are all there afterwards.
fn tokens(host: &Host, worker: usize) -> usize {
    let failing = || {
        let request = host.send(worker, Request::get("/"));
        request.attempt().responds(503);
        request
    };
    let waiting: Vec<Routed> = (0..10).map(|_| failing()).filter(|request| !request.is_over()).collect();
    let tokens = waiting.len();
    waiting.iter().for_each(|request| drop(request.client_leaves()));
    tokens
}

/// What a retried request goes through in the stories about dying VMs: every callback of the attempt seat is in it.
pub fn three_tries(host: &Host, worker: usize) -> (Routed, Answer) {
    let request = host.send(worker, Request::get("/").body("a body"));
    let answer = until_over(host, &request, &[answers(503), Resets, Answers(Response::status(200).trailer("a", "b"))]);
    (request, answer)
}

#[test]
fn all_is_well_where_nothing_goes_wrong() {
    let host = start();
    let (request, answer) = three_tries(&host, 1);
    assert_eq!((answer.status, sent(&request)), (200, 3));
    assert_eq!((count(&host, "retries"), count(&host, "retries_recovered")), (2, 1));
    assert_eq!(tokens(&host, 0), TOKENS - 2);
    host.assert_nothing_is_left();
}

/// What must hold after the VM of a seat died at some call of a retried request on worker 1.
#[track_caller]
fn assert_recovers(host: &Host, further: usize, seat: Seat, nth: u64) {
    host.assert_nothing_is_left();
    let left = tokens(host, 0);
    assert!(left + further <= TOKENS, "{seat:?}, call {nth}: {left} tokens are left after {further} retries");
    assert!(left + further + 1 >= TOKENS, "{seat:?}, call {nth}: at most the token in its hand is lost with a VM");
    host.advance(seconds(1));
    let (request, answer) = three_tries(host, 1);
    assert_eq!(answer.status, if left >= 2 { 200 } else { 503 }, "{seat:?}, call {nth}: a second later it is served");
    assert_eq!(sent(&request), 1 + left.min(2), "{seat:?}, call {nth}: within what is left of the budget");
    host.advance(seconds(11));
    assert_eq!(tokens(host, 1), TOKENS, "{seat:?}, call {nth}: and when the window has passed all tokens are there");
    host.advance(seconds(1));
    host.assert_nothing_is_left();
    host.assert_no_trap();
}

#[test]
fn either_vm_may_die_at_any_host_call_of_a_retried_request() {
    for seat in [Seat::Attempt, Seat::Request] {
        for nth in 0.. {
            let host = start();
            let first = host.calls(seat.on(1));
            host.crash_at(seat.on(1), move |call| call.before == first + nth);
            let (request, answer) = three_tries(&host, 1);
            host.nothing_fails();
            let died = !host.is_alive(seat.on(1));
            // One that has begun breaks off.
            let ends: &[u16] = if died { &[200, 503, 504, 0] } else { &[200] };
            assert!(ends.contains(&answer.status), "{seat:?}, call {nth}: {answer:?}");
            assert_recovers(&host, sent(&request).saturating_sub(1), seat, nth);
            if !died {
                let least = if seat == Seat::Attempt { 40 } else { 15 };
                assert!(nth > least, "the {seat:?} seat makes more calls than {nth}");
                break;
            }
        }
    }
}

#[test]
fn attempts_that_wait_in_a_vm_that_dies_end_with_their_time_outs() {
    // Without time-outs of the policy it is the route's.
    for (timeouts, tries, most) in
        [("", 1, seconds(15)), (r#","per_try_timeout":"300ms","timeout":"2s""#, 2, seconds(2))]
    {
        let retry = format!(r#""backoff":{{"base":"200ms","max":"200ms","jitter":"none"}}{timeouts}"#);
        let host = Host::with(&retrying(&retry)).workers(2).attempt_seat().start();
        seats_meet(&host);
        let waiting: Vec<Routed> = (0..5)
            .map(|_| {
                let request = host.send(1, Request::get("/"));
                request.attempt().responds(503);
                assert!(request.attempt().is_held());
                request
            })
            .collect();
        host.advance(millis(100));
        host.crash(Seat::Attempt.on(1));
        host.advance(most - millis(100));
        for request in &waiting {
            let answer = request.answer();
            assert!([503, 504].contains(&answer.status), "{timeouts}: {}", answer.details);
            assert_eq!(sent(request), 1, "{timeouts}: nobody is there to let the second go");
            assert!(request.tries().len() > tries, "{timeouts}");
        }
        let answer = until_over(&host, &host.send(1, Request::get("/")), &[answers(503)]);
        assert_eq!(answer.status, 200, "{timeouts}: the next request has a new VM");
        host.assert_nothing_is_left();
        host.assert_no_trap();
    }
}

#[test]
fn a_request_seat_that_dies_while_its_request_waits_takes_only_that_request_with_it() {
    let host = start();
    let requests: Vec<Routed> = (0..2).map(|worker| host.send(worker, Request::get("/"))).collect();
    requests.iter().for_each(|request| request.attempt().responds(503));
    host.crash(1);
    let ends: Vec<_> = requests.iter().map(|request| until_over(&host, request, &[answers(503)])).collect();
    assert_eq!((ends[0].status, ends[1].status), (200, 503));
    assert_eq!(ends[1].details, "wasm_fail_stream", "the host's answer finds no seat");
    host.advance(seconds(1));
    assert_eq!(three_tries(&host, 1).1.status, 503, "two of three tokens were spent before");
    host.advance(seconds(11));
    assert_eq!(three_tries(&host, 1).1.status, 200);
    host.assert_nothing_is_left();
    host.assert_no_trap();
}

#[test]
fn a_vm_that_dies_again_and_again_spends_no_more_than_the_budget() {
    let host = start();
    let first = host.elapsed();
    let mut further = Vec::new();
    for nth in 0_u64..120 {
        let before = host.calls(Seat::Attempt.on(1));
        // Later in the request each time, so that it dies before and after tokens are taken.
        host.crash_at(Seat::Attempt.on(1), move |call| call.before >= before + nth % 50);
        let (request, _) = three_tries(&host, 1);
        host.nothing_fails();
        further.extend(request.tries().iter().skip(1).filter_map(|one| one.sent));
        // A new VM is made after a second.
        host.advance(seconds(1));
    }
    for start in &further {
        let window = further.iter().filter(|at| (*start..*start + seconds(10)).contains(*at)).count();
        assert!(window <= TOKENS, "{window} retries in the ten seconds from {start:?}");
    }
    // Most die with a token in hand.
    let windows = (host.elapsed() - first).as_secs() / 11;
    assert!(2 * further.len() as u64 > windows, "{} retries in {windows} windows: tokens come back", further.len());
    host.advance(seconds(12));
    assert_eq!(tokens(&host, 0), TOKENS);
    host.assert_no_trap();
}

// Refusals.

/// Every host call that both seats make together.
const CALLS: [&str; 22] = [
    "continue_stream",
    "define_metric",
    "dequeue_shared_queue",
    "enqueue_shared_queue",
    "get_buffer_bytes",
    "get_current_time_nanoseconds",
    "get_header_map_pairs",
    "get_header_map_value",
    "get_metric",
    "get_property",
    "get_shared_data",
    "increment_metric",
    "log",
    "record_metric",
    "register_shared_queue",
    "remove_header_map_value",
    "replace_header_map_value",
    "set_buffer_bytes",
    "set_effective_context",
    "set_property",
    "set_shared_data",
    "set_tick_period_milliseconds",
];

/// A document in which attempts are followed by others for every reason.
const EVERYTHING: &str = r#"{"policies":[
    {"name":"hedged","match":{"path":["/hedged"]},"scope":[],
     "retry":{"per_try_timeout":"100ms","hedge_on_per_try_timeout":true,"timeout":"2s","max_retries":2}},
    {"name":"orders","breaker":{"min_requests":1000},
     "fallback":[{"on":["retries_exhausted"],"respond":{"status":503,"body":"later"}}],
     "retry":{"on":["5xx","connect-failure","refused-stream","unavailable"],"max_retries":2,
        "backoff":{"base":"40ms","max":"40ms","jitter":"equal"},"per_try_timeout":"300ms","timeout":"2s"}}]}"#;

/// A request and what the hosts do with its attempts.
fn everything() -> Vec<(Request, Vec<Does>)> {
    let get = || Request::get("/");
    let grpc = || Request::grpc("/orders.v1.Orders/Get").header("idempotency-key", "7");
    let pushes_back = || Answers(Response::grpc_headers_only(14).header("grpc-retry-pushback-ms", "200"));
    vec![
        (get(), vec![answers(200)]),
        (get(), vec![answers(503), answers(200)]),
        (get(), vec![Resets, CannotBeReached, answers(200)]),
        (get(), vec![Hangs, answers(200)]),
        (get(), vec![answers(503), answers(500), answers(502)]),
        (get(), vec![Hangs, Hangs, Hangs]),
        (get(), vec![answers(404)]),
        (get(), vec![Answers(Response::status(503).header("retry-after", "1").header("x-envoy-ratelimited", "true"))]),
        (get(), vec![Answers(Response::status(503).header("x-holdfast-retry", "1").header("x-holdfast-tries", "1"))]),
        (get().header("x-envoy-attempt-count", "2"), vec![answers(503)]),
        (Request::new("POST", "/").body("one"), vec![answers(503)]),
        (Request::new("POST", "/").body("one"), vec![CannotBeReached, answers(200)]),
        (grpc(), vec![pushes_back(), Answers(Response::grpc(0))]),
        (grpc(), vec![Answers(Response::grpc(14))]),
        (Request::get("/hedged"), vec![Hangs, answers(200)]),
        (Request::get("/hedged"), vec![Hangs, answers(503), answers(200)]),
    ]
}

/// Everything that can happen to a request with retries. What must hold is that it ends, within its time, with what a host
/// said or Envoy says in its place, and that no request is made twice that may not.
#[track_caller]
fn everything_happens(host: &Host, what: &str) {
    for (request, hosts) in everything() {
        let request = host.send(0, request);
        let answer = until_over(host, &request, &hosts);
        assert!([200, 404, 500, 502, 503, 504].contains(&answer.status), "{what}: {answer:?}");
        assert!(request.tries().len() <= 3, "{what}: {} tries", request.tries().len());
        let methods: Vec<_> = request.tries().iter().filter_map(|one| one.header(":method")).collect();
        let is_keyed = request.tries().iter().any(|one| one.header("idempotency-key").is_some());
        assert!(is_keyed || methods != ["POST", "POST"], "{what}: a POST is sent once");
    }
    let leaving = host.send(0, Request::get("/"));
    leaving.attempt().responds(503);
    if !leaving.is_over() {
        leaving.client_leaves();
    }
}

/// Whether a failed attempt is followed by another one and the request seat says so.
fn is_well(host: &Host) -> bool {
    let before = host.metric_of("orders", "cluster=orders", "retries_recovered");
    let request = host.send(0, Request::get("/"));
    let answer = until_over(host, &request, &[answers(503), answers(200)]);
    answer.status == 200 && host.metric_of("orders", "cluster=orders", "retries_recovered") == before + 1
}

fn with_everything() -> Host {
    let host = Host::with(EVERYTHING).attempt_seat().route(Route::new().timeout(TIMEOUT)).start();
    seats_meet(&host);
    host
}

#[track_caller]
fn assert_ends_well(host: &Host, what: &str) {
    host.assert_no_trap();
    host.assert_nothing_is_left();
    host.nothing_fails();
    let recovers = (0..10).any(|_| {
        host.advance(seconds(1));
        is_well(host)
    });
    assert!(recovers, "{what}: ten seconds later it is not as before");
    host.assert_nothing_is_left();
}

#[test]
fn the_list_of_both_seats_calls_is_complete() {
    let seen = Rc::new(RefCell::new(BTreeSet::new()));
    let sees = Rc::clone(&seen);
    let builder = Host::with(EVERYTHING).attempt_seat().route(Route::new().timeout(TIMEOUT));
    let host = builder.try_start_with(move |_, call| {
        sees.borrow_mut().insert(call.name);
        None
    });
    let host = host.unwrap();
    seats_meet(&host);
    everything_happens(&host, "nothing fails");
    assert!(is_well(&host));
    // A line of the log needs a breaker that opens.
    seen.borrow_mut().insert("log");
    assert_eq!(seen.borrow().iter().copied().collect::<Vec<_>>(), CALLS);
}

#[test]
fn every_call_of_either_seat_may_be_refused_while_requests_are_retried() {
    for name in CALLS {
        let tried = [status::NOT_FOUND, status::BAD_ARGUMENT, status::CAS_MISMATCH, status::INTERNAL_FAILURE];
        for status in tried.into_iter().filter(|status| status::refusals(name).contains(status)) {
            for seat in [Seat::Attempt, Seat::Request] {
                let host = with_everything();
                host.on_call(move |_, call| {
                    call.refused_with(status).filter(|_| call.name == name && call.seat == seat)
                });
                let what = format!("{name} of the {seat:?} seat, status {status}");
                everything_happens(&host, &what);
                assert_ends_well(&host, &what);
            }
        }
    }
}

#[test]
fn every_single_call_of_a_retried_request_may_be_refused_once() {
    for seat in [Seat::Attempt, Seat::Request] {
        for nth in 0.. {
            let host = start();
            let (first, refused) = (host.calls(seat.on(1)), Rc::new(Cell::new("")));
            let refuses = Rc::clone(&refused);
            host.on_call(move |_, call| {
                let strikes = call.seat == seat && call.before == first + nth && call.thread == Thread::Worker(1);
                if strikes {
                    refuses.set(call.name);
                }
                call.refused().filter(|_| strikes)
            });
            let (request, answer) = three_tries(&host, 1);
            assert!([200, 503, 504].contains(&answer.status), "{seat:?}, call {nth}: {answer:?}");
            host.nothing_fails();
            host.assert_no_trap();
            host.assert_nothing_is_left();
            let (left, further) = (tokens(&host, 0), sent(&request) - 1);
            // An attempt whose context cannot find out about its request is Envoy's alone, and takes no token.
            let blind = usize::from(refused.get() == "get_property");
            let what = format!("{seat:?}, call {nth}, {}: {left} left after {further}", refused.get());
            assert!(left + further <= TOKENS + blind, "{what}");
            host.advance(seconds(12));
            assert_eq!(three_tries(&host, 1).1.status, 200, "{seat:?}, call {nth}: then all is as before");
            if refused.get().is_empty() {
                break;
            }
        }
    }
}
