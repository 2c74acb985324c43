//! The host refuses what the module asks for, whatever it is and with whatever status it may. No VM stops and requests pass.

use holdfast_host_tests::{By, Exchange, Fault, Host, Local, Request, Response, status};

use crate::support::{passing, seconds};

/// Every host call that the module makes.
const CALLS: [&str; 23] = [
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
    "send_local_response",
    "set_buffer_bytes",
    "set_effective_context",
    "set_property",
    "set_shared_data",
    "set_tick_period_milliseconds",
];

/// A document that uses everything.
const EVERYTHING: &str = r#"{"policies":[{"name":"orders","match":{"method":["GET","POST"],"header":{"x-tenant":"*"}},
    "scope":["cluster",{"header":"x-tenant"}],"outcome":{"slow_after":"1s"},
    "breaker":{"consecutive_failures":3,"open_for":"5s","open_max":"5s","open_jitter":0,"ramp":"1s"},
    "concurrency":{"max_requests":100},"throttle":{"max_rejection":1},
    "fallback":[{"on":["timeout"],"stale":{}},{"on":["open","failure","timeout"],"respond":{"status":200,"body":"${path} ${header.x-tenant}"}}]}]}"#;

fn get() -> Request {
    Request::get("/items?id=1").header("x-tenant", "gold")
}

/// Everything that can happen to a request. What must hold is that it ends.
fn everything_happens(host: &Host) {
    for worker in 0..host.workers() {
        for status in [200, 200, 503, 503, 503, 503] {
            host.request(worker, get()).with(Response::status(status).header("retry-after", "1"));
        }
        host.advance(seconds(1));
        host.request(worker, Request::grpc("/a.B/C").header("x-tenant", "gold")).with(Response::grpc(14));
        for local in [Local::timeout(), Local::connect_failure(), Local::overflow()] {
            if let Exchange::Passed(pending) = host.request(worker, get()) {
                pending.local(local);
            }
        }
        if let Exchange::Passed(pending) = host.request(worker, get()) {
            pending.client_leaves();
        }
        if let Exchange::Passed(pending) = host.request(worker, get().body("a piece").unfinished()) {
            pending.uploads("another");
            pending.ends_upload();
            pending.respond(Response::status(200));
        }
    }
    host.advance(seconds(5));
    for worker in 0..host.workers() {
        (0..6).for_each(|_| drop(host.request(worker, get()).with(Response::status(200))));
    }
    host.advance(seconds(2));
}

fn healthy(host: &Host, worker: usize) -> bool {
    (0..10).all(|_| host.request(worker, get()).with(Response::status(200)).by == By::Upstream)
}

#[test]
fn the_list_of_calls_is_complete() {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(std::collections::BTreeSet::new()));
    let sees = std::rc::Rc::clone(&seen);
    let host = Host::with(EVERYTHING).workers(2).try_start_with(move |_, call| {
        sees.borrow_mut().insert(call.name);
        None
    });
    everything_happens(&host.unwrap());
    assert_eq!(seen.borrow().iter().copied().collect::<Vec<_>>(), CALLS);
}

#[test]
fn every_call_may_be_refused_while_requests_run() {
    for name in CALLS {
        for &status in status::refusals(name) {
            let host = Host::with(EVERYTHING).workers(2).start();
            host.on_call(move |_, call| call.refused_with(status).filter(|_| call.name == name));
            everything_happens(&host);
            host.assert_no_trap();
            assert_eq!((host.streams(0), host.streams(1)), (0, 0), "{name}, status {status}");
            host.nothing_fails();
            let recovers = (0..30).any(|_| {
                host.advance(seconds(1));
                healthy(&host, 0) && healthy(&host, 1)
            });
            assert!(recovers, "{name}, status {status}: a healthy service is still rejected half a minute later");
        }
    }
}

#[test]
fn every_call_may_be_refused_from_the_start() {
    for name in CALLS {
        for &status in status::refusals(name) {
            let started = Host::with(EVERYTHING)
                .workers(1)
                .try_start_with(move |_, call| call.refused_with(status).filter(|_| call.name == name));
            match started {
                Ok(host) => {
                    everything_happens(&host);
                    host.assert_no_trap();
                }
                Err(refused) => {
                    assert_eq!(name, "get_buffer_bytes", "only an unreadable document is refused: {refused:?}");
                    assert!(!refused.lines.is_empty(), "and that is said");
                }
            }
        }
    }
}

/// One call of a request fails, each in turn, and only for once.
#[test]
fn every_single_call_may_be_refused_once() {
    for nth in 0..400 {
        let host = Host::with(EVERYTHING).workers(1).start();
        let first = host.calls(0);
        host.on_call(move |_, call| call.refused().filter(|_| call.before == first + nth));
        everything_happens(&host);
        host.assert_no_trap();
        let done = host.calls(0) < first + nth;
        host.nothing_fails();
        let recovers = (0..30).any(|_| {
            host.advance(seconds(1));
            healthy(&host, 0)
        });
        assert!(recovers, "call {nth}");
        if done {
            break;
        }
    }
}

#[test]
fn a_reply_that_is_refused_lets_the_request_pass_once() {
    let host = Host::with(&crate::support::policy(crate::support::BREAKER)).workers(1).start();
    crate::support::trip(&host, 0);
    host.on_call(|_, call| (call.name == "send_local_response").then_some(Fault::Status(status::BAD_ARGUMENT)));
    assert_eq!(passing(&host, 0, 3, 200), 3, "better the host's answer than none");
    host.nothing_fails();
    assert_eq!(passing(&host, 0, 3, 200), 0);
    host.assert_no_trap();
}
