//! What the host calls: the exports, and callbacks for contexts that are over. And what is seen where the module panics.

use holdfast_host_tests::{Callback, Host, Request, Response, Seat, exports};

use crate::support::{BREAKER, passing, policy, retrying, seats_meet, seconds, succeed};

const OF_A_STREAM: [Callback; 6] = [
    Callback::RequestHeaders,
    Callback::RequestBody,
    Callback::RequestTrailers,
    Callback::ResponseHeaders,
    Callback::ResponseTrailers,
    Callback::Log,
];

/// Envoy calls each callback that is exported, and each costs time: of the SDK's 25 these are the ones with a use.
/// `proxy_on_delete` is not among them: see `filter/src/contexts.rs`.
#[test]
fn the_module_exports_what_it_needs_and_nothing_else() {
    let expected = [
        "_initialize",
        "malloc",
        "memory",
        "proxy_abi_version_0_2_1",
        "proxy_on_configure",
        "proxy_on_context_create",
        "proxy_on_done",
        "proxy_on_http_call_response",
        "proxy_on_log",
        "proxy_on_queue_ready",
        "proxy_on_request_body",
        "proxy_on_request_headers",
        "proxy_on_request_trailers",
        "proxy_on_response_body",
        "proxy_on_response_headers",
        "proxy_on_response_trailers",
        "proxy_on_tick",
    ];
    assert_eq!(exports(), expected, "a build without binaryen leaves the SDK's other callbacks in");
}

#[test]
fn callbacks_for_a_request_or_an_attempt_that_is_over_do_nothing() {
    let host = Host::with(&retrying(r#""max_retries":1"#)).workers(1).attempt_seat().start();
    seats_meet(&host);
    for number in 0..50 {
        let request = host.send(0, Request::get("/"));
        request.attempt().responds(503);
        // The attempt is over, and its request is not: it waits for the next attempt.
        assert!(!request.is_over());
        host.call_back(Seat::Attempt.on(0), host.last_context(Seat::Attempt.on(0)), Callback::ResponseTrailers);
        host.advance(seconds(1));
        request.attempt().responds(200);
        assert_eq!(request.answer().status, 200, "request {number}");
        for place in [Seat::Request.on(0), Seat::Attempt.on(0)] {
            let before = host.calls(place);
            for callback in OF_A_STREAM {
                host.call_back(place, host.last_context(place), callback);
            }
            assert_eq!(host.calls(place), before, "{place:?}: nobody is left to ask the host for anything");
        }
    }
    host.assert_no_trap();
    host.assert_nothing_is_left();
}

#[test]
fn ticks_of_a_policy_that_is_gone_do_nothing() {
    let host = Host::with(&policy(BREAKER)).workers(1).start();
    let old = host.last_context(0);
    succeed(&host, 0);
    host.update(&policy(&BREAKER.replace("30s", "31s"))).unwrap();
    assert_eq!(host.roots(0), 1);
    let before = host.calls(0);
    host.call_back(0, old, Callback::Tick);
    assert_eq!(host.calls(0), before);
    assert_eq!(passing(&host, 0, 5, 200), 5);
    host.assert_no_trap();
}

/// No context is over in the sense of the test above where it never began: Envoy calls none of those. The SDK panics there,
/// which is the one way to make the shipped module panic, and so to see that a panic's message gets into Envoy's log.
#[test]
fn a_panic_says_in_the_log_what_it_was_before_the_vm_stops() {
    const CRITICAL: u32 = 5;
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    host.call_back(0, 4_000_000, Callback::ResponseHeaders);
    assert!(!host.is_alive(0), "a panic ends the VM");
    let line = host.log().pop().expect("a line");
    assert_eq!(line.level, CRITICAL);
    assert!(line.text.starts_with("panicked at ") && line.text.ends_with(":\ninvalid context_id"), "{line:?}");
    assert_eq!(host.crashes().len(), 1, "the other worker's goes on");
    assert_eq!(host.get(1).passed().respond(Response::status(200)).status, 200);
}
