//! How many host calls retries cost, by seat and by what becomes of the request: `traces/retry_calls/`.
//!
//! As in `costs`: whoever adds a call changes the table and shows it to the reviewer. A request that is not eligible to retry,
//! and every attempt of a request that no policy retries, is to cost as good as nothing.

use std::fmt::Write as _;

use holdfast_host_tests::{Calls, Host, Request, Reset, Response, Route, Routed, Seat, trace::Cases};

use crate::costs::{one, returning_bytes};
use crate::support::{BREAKER, millis, policy, seats_meet, seconds, trip};

const ONE_WAIT: &str = r#""backoff":{"base":"25ms","max":"25ms","jitter":"none"}"#;
const TIMEOUTS: &str = r#""per_try_timeout":"200ms","timeout":"2s""#;

struct Case {
    name: &'static str,
    document: String,
    prepare: fn(&Host),
    request: fn(&Host) -> Routed,
}

fn send(host: &Host, request: Request) -> Routed {
    host.send(0, request)
}

fn get(host: &Host) -> Routed {
    send(host, Request::get("/"))
}

fn post(host: &Host) -> Routed {
    send(host, Request::new("POST", "/").body("one"))
}

fn answered(request: Routed, status: u16) -> Routed {
    request.attempt().responds(status);
    request
}

/// The first attempt fails; the second waits, and has this status.
fn retried(host: &Host, status: u16) -> Routed {
    let request = answered(get(host), 503);
    host.advance(millis(25));
    answered(request, status)
}

/// Enough requests on worker 0 that it alone has a breaker's `min_requests`.
fn warm(host: &Host) {
    (0..30).for_each(|_| drop(answered(get(host), 200)));
    seats_meet(host);
}

/// Takes the one token that there is in ten seconds.
fn spend(host: &Host) {
    seats_meet(host);
    retried(host, 200);
}

fn all_cases() -> Vec<Case> {
    type Prepare = fn(&Host);
    type Do = fn(&Host) -> Routed;
    let case =
        |name, features: &str, prepare: Prepare, request: Do| Case { name, document: one(features), prepare, request };
    let retry = |keys: &str| format!(r#""retry":{{{ONE_WAIT},{keys}}}"#);
    let plain = format!(r#""retry":{{{ONE_WAIT}}}"#);
    let broken = format!("{BREAKER},{plain}");
    let limited = retry(r#""budget":{"ratio":0,"min_per_second":0.1,"window":"10s"}"#);
    let hedging = retry(r#""per_try_timeout":"200ms","hedge_on_per_try_timeout":true"#);
    let ok: Do = |host| answered(get(host), 200);
    vec![
        case("no policy", r#""match":{"cluster":["other"]},"retry":{}"#, warm, ok),
        case("a breaker and no retry", BREAKER, warm, ok),
        case("retry in mode off", r#""retry":{"mode":"off"}"#, seats_meet, ok),
        case("retry in mode shadow", r#""retry":{"mode":"shadow"}"#, seats_meet, ok),
        case("retry", &plain, seats_meet, ok),
        case("retry, one state for all (scope [])", &format!(r#""scope":[],{plain}"#), seats_meet, ok),
        case("retry + breaker", &broken, warm, ok),
        case("retry + time-outs", &retry(TIMEOUTS), seats_meet, ok),
        case("retry + hedging", &hedging, seats_meet, ok),
        case("retry, gRPC", &plain, seats_meet, |host| {
            let request = send(host, Request::grpc("/orders.v1.Orders/Get").header("idempotency-key", "7"));
            request.attempt().responds(Response::grpc(0));
            request
        }),
        case("retry, the first request of all", &plain, |_| {}, ok),
        case(
            "retry, the first request after a second without any",
            &plain,
            |host| {
                seats_meet(host);
                host.advance(seconds(1));
            },
            ok,
        ),
        case("retry, not found (404)", &plain, seats_meet, |host| answered(get(host), 404)),
        case("POST without leave", &plain, seats_meet, |host| answered(post(host), 200)),
        case("POST without leave, failure", &plain, seats_meet, |host| answered(post(host), 503)),
        case("retry of a retry", &plain, seats_meet, |host| {
            answered(send(host, Request::get("/").header("x-envoy-attempt-count", "2")), 200)
        }),
        case("retry of a retry, failure", &plain, seats_meet, |host| {
            answered(send(host, Request::get("/").header("x-envoy-attempt-count", "2")), 503)
        }),
        case("503, and the second try succeeds", &plain, seats_meet, |host| retried(host, 200)),
        case("503, and the second try succeeds, with a breaker", &broken, warm, |host| retried(host, 200)),
        case("503, and the second try succeeds, with time-outs", &retry(TIMEOUTS), seats_meet, |host| {
            retried(host, 200)
        }),
        case("a reset, and the second try succeeds", &plain, seats_meet, |host| {
            let request = get(host);
            request.attempt().resets();
            host.advance(millis(25));
            answered(request, 200)
        }),
        case("no connection, and the second try succeeds", &plain, seats_meet, |host| {
            let request = get(host);
            request.attempt().fails(Reset::ConnectFailure);
            host.advance(millis(25));
            answered(request, 200)
        }),
        case("a time-out, and the second try succeeds", &retry(TIMEOUTS), seats_meet, |host| {
            let request = get(host);
            host.advance(millis(225 + 25));
            answered(request, 200)
        }),
        case("503, and a slow second try beside its hedge", &hedging, seats_meet, |host| {
            let request = answered(get(host), 503);
            host.advance(millis(25 + 200));
            answered(request, 200)
        }),
        case("503 three times", &retry(r#""max_retries":2"#), seats_meet, |host| {
            let request = retried(host, 503);
            host.advance(millis(25));
            answered(request, 503)
        }),
        case("503, and the budget is spent", &limited, spend, |host| answered(get(host), 503)),
        case("a reset, and the budget is spent", &limited, spend, |host| {
            let request = get(host);
            request.attempt().resets();
            request
        }),
        case("503, and the breaker opens during the wait", &broken, warm, |host| {
            let request = answered(get(host), 503);
            trip(host, 1);
            host.advance(millis(25));
            request
        }),
        case(
            "rejected while open",
            &broken,
            |host| {
                warm(host);
                trip(host, 0);
                get(host).answer();
            },
            get,
        ),
    ]
}

fn push(table: &mut String, seat: &str, calls: &Calls) {
    let _ = writeln!(table, "  {seat}: {} ({})", calls.total(), returning_bytes(calls));
    for (call, count) in calls.iter() {
        let _ = writeln!(table, "    {count} {call}");
    }
}

#[test]
fn host_calls_per_request_and_seat() {
    let mut cases = Cases::new(
        "retry_calls",
        "# Host calls of one request on worker 0 of 3, both seats, after warm-up: all (those that can return bytes).\n\
         # What a worker's ticks cost beside its tries is counted for all tries together.\n",
    );
    for Case { name, document, prepare, request } in all_cases() {
        let host = Host::with(&document).workers(3).attempt_seat().route(Route::new().timeout(seconds(5))).start();
        prepare(&host);
        let attempts_before = host.calls(Seat::Attempt.on(0));
        let request = request(&host);
        let answer = request.answer();
        let mut table = format!("{name}: {}\n", answer.status);
        push(&mut table, "request seat", &answer.calls);
        for (number, one) in request.tries().iter().enumerate() {
            push(&mut table, &format!("attempt seat, try {}", number + 1), &one.calls);
        }
        let all = host.calls(Seat::Attempt.on(0)) - attempts_before;
        let ticks = all - request.attempt_calls().total();
        if ticks > 0 {
            let _ = writeln!(table, "  attempt seat, ticks: {ticks}");
        }
        host.assert_no_trap();
        host.assert_nothing_is_left();
        cases.add(name, table);
    }
    cases.check();
}

#[test]
fn an_attempt_of_a_request_that_no_policy_retries_makes_two_calls() {
    let documents = [
        r#"{"policies":[]}"#.to_owned(),
        policy(BREAKER),
        policy(r#""retry":{"mode":"off"}"#),
        policy(r#""retry":{"max_retries":0}"#),
        policy(r#""retry":{"mode":"shadow"}"#),
        policy(r#""match":{"method":["PUT"]},"retry":{}"#),
    ];
    for document in documents {
        let host = Host::with(&document).attempt_seat().start();
        for status in [200, 404, 503] {
            let tries = answered(get(&host), status).tries();
            let calls: Vec<_> = tries.iter().flat_map(|one| one.calls.iter()).collect();
            // The second is for names of hosts, which would leave for the host.
            assert_eq!(calls, [("get_header_map_value", 1), ("get_property", 1)], "{document}, {status}");
        }
        let left = get(&host);
        left.client_leaves();
        assert_eq!(left.attempt_calls().total(), 2, "{document}: a client that leaves is no news to it either");
        host.advance(seconds(60));
        let (all, calls) = (host.calls(Seat::Attempt.on(0)), 2 * 4);
        let at_start = Host::with(&document).attempt_seat().start().calls(Seat::Attempt.on(0));
        assert_eq!(all - at_start, calls, "{document}: and nothing ticks");
    }
}

#[test]
fn a_policy_without_retries_costs_the_request_seat_the_same_with_an_attempt_seat_and_without() {
    for features in [BREAKER, r#""concurrency":{"max_requests":9}"#, r#""throttle":{}"#, r#""retry":{"mode":"off"}"#] {
        let calls = |status: u16| {
            let alone = Host::with(&policy(features)).workers(2).start();
            let with = Host::with(&policy(features)).workers(2).attempt_seat().start();
            [alone, with].map(|host| {
                (0..40).for_each(|number| drop(answered(send(&host, Request::get("/")), [200, 404][number % 2])));
                answered(get(&host), status).answer().calls
            })
        };
        for status in [200, 503] {
            let [alone, with] = calls(status);
            assert_eq!(alone, with, "{features}, {status}");
        }
    }
}

#[test]
fn a_request_without_leave_is_neither_told_of_nor_looked_at() {
    let host = Host::with(&policy(r#""retry":{}"#)).attempt_seat().start();
    seats_meet(&host);
    let retry_of_retry = || send(&host, Request::get("/").header("x-envoy-attempt-count", "2"));
    let request = answered(retry_of_retry(), 200);
    assert_eq!(request.answer().calls.of("set_property"), 1, "only its own line for the access log");
    assert_eq!(request.attempt_calls().total(), 2, "its try finds nothing");
    assert_eq!(request.filter_state("holdfast_exchange"), None);
    let failed = answered(retry_of_retry(), 503);
    assert_eq!((failed.tries().len(), failed.attempt_calls().total()), (1, 2));
}
