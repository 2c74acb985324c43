//! How many host calls a request costs, by policy and by what becomes of it: `traces/host_calls.txt`.
//!
//! A call that returns bytes costs about 0.6 us, one that does not about 0.1 us, on each of a million requests a second.
//! Whoever adds one changes the table and shows it to the reviewer.

use std::fmt::Write as _;

use holdfast_host_tests::{Answer, Calls, Exchange, Host, Request, Response, trace};

use crate::support::{BREAKER, fail, seconds, trip};

/// Calls that can return bytes, for which the host calls back into the module to allocate.
pub const RETURN_BYTES: [&str; 5] =
    ["get_buffer_bytes", "get_header_map_pairs", "get_header_map_value", "get_property", "get_shared_data"];

/// How many of these calls can return bytes.
pub fn returning_bytes(calls: &Calls) -> u64 {
    RETURN_BYTES.iter().map(|name| calls.of(name)).sum()
}

struct Case {
    name: &'static str,
    document: String,
    prepare: fn(&Host),
    request: fn(&Host) -> Answer,
}

/// As most documents are: one state for each cluster.
pub fn one(features: &str) -> String {
    format!(r#"{{"policies":[{{"name":"orders",{features}}}]}}"#)
}

fn well(host: &Host) -> Answer {
    host.get(0).passed().respond(Response::status(200))
}

fn turned_away(host: &Host) -> Answer {
    host.get(0).answered()
}

/// The host fails, and a fallback stands in.
fn replaced(host: &Host, response: Response) -> Answer {
    let answer = host.get(0).passed().respond(response);
    assert!(answer.is_holdfasts() && answer.status == 200, "{answer:?}");
    answer
}

/// Enough requests on worker 0 that it alone has `min_requests`, and some on the others.
fn warm(host: &Host) {
    for number in 0..100 {
        host.get(if number % 4 == 3 { number % 3 } else { 0 }).with(Response::status(200));
    }
}

fn warm_and_open(host: &Host) {
    warm(host);
    for _ in 0..3 {
        fail(host, 0);
    }
    host.get(0).answered();
}

fn cases() -> Vec<Case> {
    let fallback = r#""fallback":[{"on":["open","failure"],"respond":{"status":200,"body":{"items":[]}}}]"#;
    let with_fallback = format!("{BREAKER},{fallback}");
    let inserting = r#""fallback":[{"on":["failure"],"respond":{"status":200,"body":"${path} ${header.x-id}"}}]"#;
    let stale = r#""fallback":[{"on":["open","failure"],"stale":{}}]"#;
    let route = r#""fallback":[{"on":["open"],"route":{"cluster":"standby"}}]"#;
    let case = |name, features: &str, prepare, request| Case { name, document: one(features), prepare, request };
    vec![
        case("not matched", r#""match":{"cluster":["other"]},"breaker":{}"#, warm, well),
        case("mode off", r#""mode":"off","breaker":{}"#, warm, well),
        case("breaker, success", BREAKER, warm, well),
        case("breaker, one state for all (scope [])", &format!(r#""scope":[],{BREAKER}"#), warm, well),
        case("breaker, below min_requests", r#""breaker":{}"#, |host| drop(well(host)), well),
        case("breaker, failure", BREAKER, warm, |host| {
            let answer = fail(host, 0);
            well(host);
            answer
        }),
        case("breaker, success without the router's headers", BREAKER, warm, well),
        case("breaker, gRPC", BREAKER, warm, |host| {
            host.request(0, Request::grpc("/orders.v1.Orders/Get")).passed().grpc(0)
        }),
        case("breaker + fallback, success", &with_fallback, warm, well),
        case("breaker + fallback, failure that is rewritten when it is complete", &with_fallback, warm, |host| {
            let answer = replaced(host, Response::status(503));
            well(host);
            answer
        }),
        case("breaker + fallback, failure with a long body, rewritten at once", &with_fallback, warm, |host| {
            let answer = replaced(host, Response::status(503).header("content-length", "100000"));
            well(host);
            answer
        }),
        case("breaker + fallback, failure without a body, replied to", &with_fallback, warm, |host| {
            let answer = replaced(host, Response::status(503).without_body());
            well(host);
            answer
        }),
        case("breaker + fallback, failure that never ends, replied to after 100 ms", &with_fallback, warm, |host| {
            let failing = host.get(0).passed().headers(Response::status(503));
            host.advance(seconds(1));
            failing.answer().expect("it is replied to")
        }),
        case("breaker + stale, success, which is kept", &format!("{BREAKER},{stale}"), warm, well),
        case("breaker + stale, success, which may not be kept", &format!("{BREAKER},{stale}"), warm, |host| {
            host.get(0).passed().respond(Response::status(200).header("cache-control", "no-store"))
        }),
        case("breaker + stale, POST", &format!("{BREAKER},{stale}"), warm, |host| {
            host.request(0, Request::new("POST", "/")).passed().respond(Response::status(200))
        }),
        case(
            "breaker + stale, failure that is answered with what was kept",
            &format!("{BREAKER},{stale}"),
            warm,
            |host| {
                let answer = replaced(host, Response::status(503));
                well(host);
                answer
            },
        ),
        case("breaker + fallback that inserts, success", &format!("{BREAKER},{inserting}"), warm, well),
        case(
            "breaker + concurrency, success",
            &format!(r#"{BREAKER},"concurrency":{{"max_requests":100}}"#),
            warm,
            well,
        ),
        case("breaker + throttle, success", &format!(r#"{BREAKER},"throttle":{{}}"#), warm, well),
        case("breaker + throttle, 10 ms later", &format!(r#"{BREAKER},"throttle":{{}}"#), warm, |host| {
            host.advance(seconds(1) / 100);
            well(host)
        }),
        case("rejected while open", BREAKER, warm_and_open, turned_away),
        case("rejected while open, with a fallback", &format!("{BREAKER},{fallback}"), warm_and_open, turned_away),
        case(
            "rejected while open, answered with what was kept",
            &format!("{BREAKER},{stale}"),
            warm_and_open,
            turned_away,
        ),
        case(
            "rejected while open, served by another cluster",
            &format!(r#""match":{{"cluster":["orders"]}},{BREAKER},{route}"#),
            |host| {
                warm(host);
                for _ in 0..3 {
                    fail(host, 0);
                }
                well(host);
            },
            well,
        ),
        case(
            "a probe, success",
            BREAKER,
            |host| {
                warm_and_open(host);
                host.advance(seconds(30));
                well(host);
            },
            well,
        ),
        case("breaker, the first request after a second without any", BREAKER, warm, |host| {
            host.advance(seconds(1));
            well(host)
        }),
    ]
}

#[test]
fn host_calls_per_request() {
    let mut table = String::from(
        "# Host calls of one request on worker 0 of 3, after warm-up: all (those that can return bytes)\n",
    );
    for Case { name, document, prepare, request } in cases() {
        let builder = Host::with(&document).workers(3);
        let host = if name.contains("without the router") { builder.without_router_headers() } else { builder }.start();
        prepare(&host);
        let answer = request(&host);
        let calls = answer.calls;
        let _ = writeln!(table, "\n{name}: {} ({})", calls.total(), returning_bytes(&calls));
        for (call, count) in calls.iter() {
            let _ = writeln!(table, "  {count} {call}");
        }
        host.assert_no_trap();
    }
    trace::check("host_calls", &table);
}

#[test]
fn the_healthy_path_neither_reads_shared_data_nor_swaps() {
    let host = Host::with(&one(BREAKER)).workers(3).start();
    warm(&host);
    for _ in 0..100 {
        let calls = well(&host).calls;
        assert_eq!(calls.of("get_shared_data"), 0, "{calls}");
        assert_eq!(calls.of("set_shared_data"), 1, "only its own slot: {calls}");
        host.advance(seconds(1) / 1000);
    }
}

#[test]
fn a_rejection_writes_nothing_shared() {
    let host = Host::with(&one(BREAKER)).workers(3).start();
    warm_and_open(&host);
    for _ in 0..10 {
        let calls = turned_away(&host).calls;
        assert_eq!((calls.of("get_shared_data"), calls.of("set_shared_data")), (0, 0), "{calls}");
    }
}

/// What a request leaves behind in the module's memory would add up to a dead worker.
#[test]
fn five_thousand_requests_later_the_memory_is_no_larger() {
    let fallback = r#""fallback":[{"on":["open","failure"],"respond":{"status":200,"body":"${path}"}}]"#;
    let host = Host::with(&one(&format!(r#"{BREAKER},"concurrency":{{"max_requests":100}},{fallback}"#))).start();
    let some = |count: usize| {
        for number in 0..count {
            match number % 50 {
                40 => drop(host.get(0).with(Response::status(503))),
                41 => {
                    if let Exchange::Passed(pending) = host.get(0) {
                        pending.client_leaves();
                    }
                }
                42 => drop(host.request(0, Request::grpc("/a/b")).with(Response::grpc(14))),
                _ => drop(host.get(0).with(Response::status(200).header("x-padding", [b'x'; 3000]))),
            }
        }
    };
    some(1_000);
    let before = host.memory(0);
    some(5_000);
    assert_eq!(host.memory(0), before);
    assert_eq!((host.streams(0), host.roots(0)), (0, 1));
    host.assert_no_trap();
}

#[test]
fn open_and_closed_again_costs_what_it_cost_before() {
    let host = Host::with(&format!(r#"{{"policies":[{{"name":"orders","scope":[],{BREAKER}}}]}}"#)).workers(3).start();
    warm(&host);
    let before = well(&host).calls;
    trip(&host, 0);
    host.advance(seconds(30));
    (0..5).for_each(|_| drop(well(&host)));
    warm(&host);
    assert_eq!(well(&host).calls, before);
}
