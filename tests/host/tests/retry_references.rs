//! What the references do when an attempt ends, as sequences: when each attempt is sent, and what the client gets. Each says
//! where it is from; where it is decided otherwise here, it says so and why.
//!
//! Sources: gRPC proposal A6, and its client in Go (`clientStream.shouldRetry`); Envoy, "Router" and `retry_state_impl_test.cc`;
//! Finagle, "Clients", Retries; linkerd, "Retries".

use std::cell::RefCell;
use std::collections::VecDeque;

use holdfast_host_tests::{Host, Reaction, Request, Reset, Response, Route};

use crate::support::{millis, retrying, seats_meet};

/// A request and what its hosts do, attempt by attempt.
struct Sequence {
    /// What the reference does, and what is done here where that is something else.
    rule: &'static str,
    /// The policy's `retry`, besides its back-off.
    retry: &'static str,
    route: Route,
    request: Request,
    hosts: Vec<Reaction>,
    /// When the attempts are sent, in milliseconds from the first.
    sent: &'static [u64],
    /// What the client gets: the HTTP status, or the gRPC status where there is one.
    gets: u32,
    /// Why there was not another attempt, if the policy wanted one.
    denied: Option<&'static str>,
}

/// The first waits are 100, 200 and 400 ms.
const BACKOFF: &str = r#""backoff":{"base":"100ms","max":"400ms","jitter":"none"}"#;

fn sequence(
    rule: &'static str,
    retry: &'static str,
    hosts: Vec<Reaction>,
    sent: &'static [u64],
    gets: u32,
) -> Sequence {
    Sequence { rule, retry, route: Route::new(), request: Request::get("/"), hosts, sent, gets, denied: None }
}

impl Sequence {
    fn from(self, request: Request) -> Self {
        Sequence { request, ..self }
    }

    fn by(self, route: Route) -> Self {
        Sequence { route, ..self }
    }

    fn denied(self, why: &'static str) -> Self {
        Sequence { denied: Some(why), ..self }
    }

    #[track_caller]
    fn runs(self) {
        let Sequence { rule, retry, route, request, hosts, sent, gets, denied } = self;
        let separator = if retry.is_empty() { "" } else { "," };
        let hosts = RefCell::new(VecDeque::from(hosts));
        let host = Host::with(&retrying(&format!("{BACKOFF}{separator}{retry}")))
            .attempt_seat()
            .route(route)
            // A wait that a host asks for binds retries that come to it.
            .hosts(&["127.0.0.1:4001"])
            .answering_tries(move |arrival| {
                // Those that let the seats meet are left to them.
                arrival.header("x-sequence").and_then(|_| hosts.borrow_mut().pop_front())
            })
            .start();
        seats_meet(&host);
        let routed = host.send(0, request.header("x-sequence", "1"));
        for _ in 0..600 {
            host.advance(millis(5));
        }
        assert!(routed.is_over(), "{rule}: it is still under way");
        let at: Vec<u64> = routed.tries().iter().filter_map(|one| one.sent).map(|at| at.as_millis() as u64).collect();
        let at: Vec<u64> = at.iter().map(|time| time - at[0]).collect();
        let answer = routed.answer();
        let number = |headers: &holdfast_host_tests::Headers| {
            headers.get("grpc-status").and_then(|value| std::str::from_utf8(value).ok()?.parse::<u32>().ok())
        };
        let got = number(&answer.headers).or_else(|| number(&answer.trailers)).unwrap_or(answer.status.into());
        let is_near = at.len() == sent.len() && at.iter().zip(sent).all(|(at, sent)| at.abs_diff(*sent) <= 5);
        assert!(is_near && got == gets, "{rule}: {sent:?} and {gets} expected, not {at:?} and {got}: {answer:?}");
        let log = answer.access_log.unwrap_or_default();
        let why = log.split("; ").find_map(|part| part.strip_prefix("denied="));
        assert_eq!(why, denied, "{rule}: {log}");
        host.assert_no_trap();
        host.assert_nothing_is_left();
    }
}

fn grpc() -> Request {
    Request::grpc("/shop.Orders/Get")
}

/// A response without a message: it alone can be retried.
fn status(status: u32) -> Response {
    Response::grpc_headers_only(status)
}

fn pushback(value: &str) -> Response {
    status(14).header("grpc-retry-pushback-ms", value)
}

const UNAVAILABLE: &str = r#""on":["unavailable"],"methods":["POST"],"max_retries":3"#;

fn call(rule: &'static str, hosts: Vec<Reaction>, sent: &'static [u64], gets: u32) -> Sequence {
    sequence(rule, UNAVAILABLE, hosts, sent, gets).from(grpc())
}

#[test]
fn grpc_a6_retries() {
    let again = || Reaction::from(status(14));
    call(
        "a retryable status is retried until one is good",
        vec![again(), again(), status(0).into()],
        &[0, 100, 300],
        0,
    )
    .runs();
    call(
        "at most maxAttempts are made, and the last failure is the client's",
        vec![again(); 4],
        &[0, 100, 300, 700],
        14,
    )
    .runs();
    call("any other status is the client's at once", vec![status(3).into()], &[0], 3).runs();
    call("a retry may end so too", vec![again(), status(5).into()], &[0, 100], 5).runs();
    call("once headers have come a call is committed", vec![Response::grpc(14).into()], &[0], 14).runs();
    call("a committed call that is a retry too", vec![again(), Response::grpc(14).into()], &[0, 100], 14).runs();
    // A6 leaves that to the client; a proxy between would multiply its attempts.
    call("a client's own retry is not retried (A6 tells only the server)", vec![again()], &[0], 14)
        .from(grpc().header("grpc-previous-rpc-attempts", "1"))
        .denied("retry_of_retry")
        .runs();
    call("a first attempt that says so is", vec![again(), status(0).into()], &[0, 100], 0)
        .from(grpc().header("grpc-previous-rpc-attempts", "0"))
        .runs();
    call("the deadline is that of all attempts: none begins after it", vec![again(); 2], &[0, 100], 14)
        .from(grpc().header("grpc-timeout", "300m"))
        .denied("deadline")
        .runs();
    call("and no wait is begun that would end after it", vec![again()], &[0], 14)
        .from(grpc().header("grpc-timeout", "90m"))
        .denied("deadline")
        .runs();
    sequence(
        "a method that is not idempotent is the policy's own matter here",
        r#""on":["unavailable"]"#,
        vec![again()],
        &[0],
        14,
    )
    .from(grpc())
    .denied("method")
    .runs();
    sequence(
        "a call that no server has worked on is retried at once, whatever the policy (here: by its word, and after its wait)",
        r#""on":["refused-stream"],"methods":["POST"]"#,
        vec![Reaction::fails(Reset::RefusedStream), status(0).into()],
        &[0, 100],
        0,
    )
    .from(grpc())
    .runs();
}

#[test]
fn grpc_a6_pushback() {
    let ok = || Reaction::from(status(0));
    call("a retry waits as the server says", vec![pushback("250").into(), ok()], &[0, 250], 0).runs();
    call("also where that is less than its own wait", vec![pushback("30").into(), ok()], &[0, 30], 0).runs();
    call("zero is at once", vec![pushback("0").into(), ok()], &[0, 0], 0).runs();
    for never in ["-1", "-9999", "soon", "1.5", "", "100ms"] {
        call("what is negative or no number stops retries", vec![pushback(never).into()], &[0], 14)
            .denied("retry_after")
            .runs();
    }
    call(
        "of several lines none is guessed (grpc-go)",
        vec![pushback("10").another("grpc-retry-pushback-ms", "10").into()],
        &[0],
        14,
    )
    .denied("retry_after")
    .runs();
    call(
        "a status that is not retryable is not retried for a pushback",
        vec![status(3).header("grpc-retry-pushback-ms", "10").into()],
        &[0],
        3,
    )
    .runs();
    call(
        "after a pushback grpc-go begins its back-off anew (100 ms); here it counts on (200 ms): the service is no better off",
        vec![pushback("250").into(), status(14).into(), ok()],
        &[0, 250, 450],
        0,
    )
    .runs();
    call("it cannot go past the deadline", vec![pushback("250").into()], &[0], 14)
        .from(grpc().header("grpc-timeout", "200m"))
        .denied("retry_after")
        .runs();
    call("nor past maxAttempts", vec![pushback("10").into(); 4], &[0, 10, 20, 30], 14).runs();
    sequence(
        "who does not honor it is deaf to it",
        r#""on":["unavailable"],"methods":["POST"],"retry_after":{"honor":false}"#,
        vec![pushback("-1").into(), ok()],
        &[0, 100],
        0,
    )
    .from(grpc())
    .runs();
}

/// Hedges after 500 ms: 100 of an attempt's own, and 400 for the longest wait.
const HEDGING: &str = r#""on":["unavailable"],"methods":["POST"],"max_retries":3,"per_try_timeout":"100ms",
    "hedge_on_per_try_timeout":true"#;

#[test]
fn grpc_a6_hedging() {
    let hedged = |rule, hosts, sent, gets| sequence(rule, HEDGING, hosts, sent, gets).from(grpc());
    let ok = |after| Reaction::from(status(0)).after(millis(after));
    let slow = || ok(1900);
    hedged(
        "the next attempt is sent after the hedging delay, and the first good answer wins",
        vec![slow(), ok(10)],
        &[0, 500],
        0,
    )
    .runs();
    hedged("the slow one may win", vec![ok(700), slow()], &[0, 500], 0).runs();
    hedged(
        "attempts are sent until there are maxAttempts",
        vec![slow(), slow(), slow(), slow()],
        &[0, 500, 1000, 1500],
        0,
    )
    .runs();
    hedged("a fatal status ends them all", vec![slow(), status(3).into()], &[0, 500], 3).runs();
    hedged(
        "after a status that is not fatal the next one goes at once (here: after its wait of 200 ms)",
        vec![slow(), status(14).into(), ok(10)],
        &[0, 500, 700],
        0,
    )
    .runs();
    for never in ["-1", "soon", "5000"] {
        let refused = Reaction::from(pushback(never));
        hedged(
            "a pushback below zero stops hedges, what is in flight goes on (here: also one that does not fit)",
            vec![slow(), refused.clone()],
            &[0, 500],
            0,
        )
        .denied("retry_after")
        .runs();
        hedged("whoever sends it", vec![refused.after(millis(700)), slow()], &[0, 500], 0).denied("retry_after").runs();
    }
    hedged(
        "when what is in flight fails too, the call does",
        vec![Reaction::from(status(14)).after(millis(1300)), pushback("-1").into()],
        &[0, 500],
        14,
    )
    .denied("retry_after")
    .runs();
    hedged("a pushback delays the next hedge", vec![slow(), pushback("350").into(), ok(10)], &[0, 500, 850], 0).runs();
    hedged(
        "and the one that the delay would begin",
        vec![Reaction::from(pushback("390")).after(millis(900)), slow(), ok(10)],
        &[0, 500, 1290],
        0,
    )
    .runs();
}

const ON: [(&str, &str); 7] = [
    ("5xx", r#""on":["5xx"]"#),
    ("gateway-error", r#""on":["gateway-error"]"#),
    ("reset", r#""on":["reset"]"#),
    ("connect-failure", r#""on":["connect-failure"]"#),
    ("refused-stream", r#""on":["refused-stream"]"#),
    ("reset-before-request", r#""on":["reset-before-request"]"#),
    ("retriable-4xx", r#""on":["retriable-4xx"]"#),
];

/// An end of an attempt, the words by which Envoy retries it, and what its client gets when it is not retried.
type Ending = (&'static str, fn() -> Reaction, &'static [&'static str], u32);

#[test]
fn envoys_words_name_what_they_name_there() {
    let endings: [Ending; 12] = [
        ("500", || 500.into(), &["5xx"], 500),
        ("501", || 501.into(), &["5xx"], 501),
        ("502", || 502.into(), &["5xx", "gateway-error"], 502),
        ("503", || 503.into(), &["5xx", "gateway-error"], 503),
        ("504", || 504.into(), &["5xx", "gateway-error"], 504),
        ("505", || 505.into(), &["5xx"], 505),
        ("409", || 409.into(), &["retriable-4xx"], 409),
        ("400", || 400.into(), &[], 400),
        ("429", || 429.into(), &[], 429),
        ("remote reset", || Reaction::fails(Reset::Remote), &["5xx", "gateway-error", "reset"], 503),
        (
            "refused stream",
            || Reaction::fails(Reset::RefusedStream),
            &["5xx", "gateway-error", "reset", "refused-stream"],
            503,
        ),
        (
            "connect failure",
            || Reaction::fails(Reset::ConnectFailure),
            &["5xx", "gateway-error", "reset", "connect-failure", "reset-before-request"],
            503,
        ),
    ];
    for (what, ends, words, status) in endings {
        for (word, retry) in ON {
            let (sent, gets): (&[u64], u32) = if words.contains(&word) { (&[0, 100], 200) } else { (&[0], status) };
            // A connection that is not there sends nothing.
            let sent = if what == "connect failure" && gets == 200 { &[0][..] } else { sent };
            let sent = if what == "connect failure" && gets != 200 { &[][..] } else { sent };
            let hosts = vec![ends(), Reaction::from(200)];
            println!("{what}, {word}");
            sequence("Envoy: each word names its own ends of attempts", retry, hosts, sent, gets).runs();
        }
    }
}

#[test]
fn envoys_words_for_grpc_name_what_they_name_there() {
    const WORDS: [(&str, &str, u32); 5] = [
        ("cancelled", r#""on":["cancelled"],"methods":["POST"]"#, 1),
        ("deadline-exceeded", r#""on":["deadline-exceeded"],"methods":["POST"]"#, 4),
        ("resource-exhausted", r#""on":["resource-exhausted"],"methods":["POST"]"#, 8),
        ("internal", r#""on":["internal"],"methods":["POST"]"#, 13),
        ("unavailable", r#""on":["unavailable"],"methods":["POST"]"#, 14),
    ];
    for (word, retry, named) in WORDS {
        for code in [1, 2, 4, 8, 13, 14] {
            let (sent, gets): (&[u64], u32) = if code == named { (&[0, 100], 0) } else { (&[0], code) };
            println!("{code}, {word}");
            sequence(
                "Envoy: a gRPC status in the headers",
                retry,
                vec![status(code).into(), status(0).into()],
                sent,
                gets,
            )
            .from(grpc())
            .runs();
        }
    }
}

#[test]
fn envoys_statuses_headers_and_limits() {
    let ok = || Reaction::from(200);
    let again = || Reaction::from(Response::status(404).header("x-again", "yes"));
    let limited = || Reaction::from(Response::status(503).header("x-envoy-ratelimited", "true"));
    let lists = |on: &str| Route::new().retry_on(on).retriable_status_codes(&[425]).retriable_headers(&["x-again"]);

    sequence(
        "a rate limiter's answer is not retried by the words for its status",
        r#""on":["5xx"]"#,
        vec![limited()],
        &[0],
        503,
    )
    .runs();
    sequence("but by its own", r#""on":["envoy-ratelimited"]"#, vec![limited(), ok()], &[0, 100], 200).runs();
    sequence(
        "retriable-status-codes is the route's list",
        r#""on":["retriable-status-codes"]"#,
        vec![425.into(), ok()],
        &[0, 100],
        200,
    )
    .by(lists("retriable-status-codes"))
    .runs();
    sequence("and not its other one", r#""on":["retriable-status-codes"]"#, vec![again()], &[0], 404)
        .by(lists("retriable-status-codes"))
        .runs();
    sequence("also where the route retries by nothing", r#""on":["retriable-status-codes"]"#, vec![again()], &[0], 404)
        .by(lists(""))
        .runs();
    sequence(
        "retriable-headers is the route's list",
        r#""on":["retriable-headers"]"#,
        vec![again(), ok()],
        &[0, 100],
        200,
    )
    .by(lists("retriable-headers"))
    .runs();
    sequence("and not its other one", r#""on":["retriable-headers"]"#, vec![425.into()], &[0], 425)
        .by(lists(""))
        .runs();
    sequence("one header of several is enough", r#""on":["retriable-headers"]"#, vec![again(), ok()], &[0, 100], 200)
        .by(Route::new().retriable_headers(&["x-other", "x-again"]))
        .runs();
    sequence(
        "a policy's own statuses are a list of its own",
        r#""on":[404,"retriable-status-codes"]"#,
        vec![404.into(), 425.into(), ok()],
        &[0, 100, 300],
        200,
    )
    .by(lists(""))
    .runs();
    sequence(
        "num_retries is a limit",
        r#""on":["5xx"],"max_retries":3"#,
        vec![500.into(); 4],
        &[0, 100, 300, 700],
        500,
    )
    .runs();
    sequence("0 of them is none", r#""on":["5xx"],"max_retries":0"#, vec![500.into()], &[0], 500).runs();
    sequence(
        "a route's own number is no matter (Envoy: the header's counts)",
        r#""on":["5xx"],"max_retries":1"#,
        vec![500.into(); 2],
        &[0, 100],
        500,
    )
    .by(Route::new().retry_on("5xx").retries(5))
    .runs();
    sequence("its own ceilings are not retried", r#""on":["5xx"]"#, vec![Reaction::fails(Reset::Overflow)], &[], 503)
        .runs();
    sequence(
        "an attempt that times out is retried by what retries a reset",
        r#""on":["reset"],"per_try_timeout":"200ms","max_retries":1"#,
        vec![ok().after(millis(2000)), ok()],
        &[0, 300],
        200,
    )
    .runs();
    sequence(
        "and not by what retries a connection that failed",
        r#""on":["connect-failure"],"per_try_timeout":"200ms","max_retries":1"#,
        vec![ok().after(millis(2000))],
        &[0],
        504,
    )
    .runs();
    for (values, sent) in [(["1", "3"], &[0, 1000]), (["0", "3"], &[0, 0])] {
        let asks = Response::status(503).header("retry-after", values[0]).another("retry-after", values[1]);
        sequence(
            "of several values of a reset header the first counts",
            r#""on":["5xx"]"#,
            vec![asks.into(), ok()],
            sent,
            200,
        )
        .runs();
    }
    let asks = |value: &str| Reaction::from(Response::status(503).header("retry-after", value));
    sequence(
        "what is no number and no date is passed over",
        r#""on":["5xx"]"#,
        vec![asks("soon"), ok()],
        &[0, 100],
        200,
    )
    .runs();
    sequence(
        "what is more than its maximum is passed over (here: means no retry)",
        r#""on":["5xx"],"retry_after":{"max":"2s"}"#,
        vec![asks("3")],
        &[0],
        503,
    )
    .denied("retry_after")
    .runs();
}

#[test]
fn finagle_and_linkerd() {
    let post = || Request::new("POST", "/").body("an order");
    let ok = || Reaction::from(200);
    for (nack, sent, gets, denied) in [
        (Reset::ConnectFailure, &[0][..], 200, None),
        // The attempt seat cannot tell it from another reset.
        (Reset::RefusedStream, &[0][..], 503, Some("method")),
    ] {
        let rule = "Finagle requeues what no service has worked on, whatever it is (here: what has had no connection)";
        let requeued = sequence(rule, "", vec![Reaction::fails(nack), ok()], sent, gets).from(post());
        Sequence { denied, ..requeued }.runs();
    }
    sequence("and nothing else of itself", "", vec![Reaction::fails(Reset::Remote)], &[0], 503)
        .from(post())
        .denied("method")
        .runs();
    sequence(
        "linkerd retries a POST by its status (here: where the policy or its key says that it may be sent again)",
        r#""on":["5xx"]"#,
        vec![500.into()],
        &[0],
        500,
    )
    .from(post())
    .denied("method")
    .runs();
    sequence("so with a key", r#""on":["5xx"]"#, vec![500.into(), ok()], &[0, 100], 200)
        .from(post().header("idempotency-key", "7"))
        .runs();
    sequence(
        "linkerd: a retry's time-out is retried too, at most so often",
        r#""on":["5xx"],"per_try_timeout":"100ms","max_retries":1"#,
        vec![ok().after(millis(2000)); 2],
        &[0, 200],
        504,
    )
    .runs();
    sequence(
        "linkerd: 1 retry unless more are asked for (here 2)",
        r#""on":["5xx"]"#,
        vec![500.into(); 3],
        &[0, 100, 300],
        500,
    )
    .runs();
}
