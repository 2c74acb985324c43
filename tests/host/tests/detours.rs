//! A fallback that has another cluster serve, with refusals and crashes at every host call.

use holdfast_host_tests::{Answer, By, Exchange, Fault, Host, Local, Request, Response, status};

use crate::support::{BREAKER, millis, seconds};

/// `orders`, whose breaker is open, falls back to `standby`, which has a policy of its own, and to nobody.
fn document() -> String {
    format!(
        r#"{{"policies":[
            {{"name":"orders","match":{{"cluster":"orders"}},"breaker":{{"state":"forced_open"}},"fallback":[
                {{"on":["open"],"route":{{"cluster":"standby"}}}},
                {{"on":["open"],"respond":{{"status":418,"body":"nobody at ${{path}}"}}}}]}},
            {{"name":"standby","match":{{"cluster":"standby"}},{BREAKER},"retry":{{}}}}]}}"#
    )
}

fn request(path: &str) -> Request {
    Request::get(path).cluster("orders")
}

fn good() -> Response {
    Response::status(200).body("standby")
}

/// Three requests on each of two workers: the standby answers, has no host, and fails.
fn detours(host: &Host) -> Vec<Answer> {
    let mut answers = Vec::new();
    for worker in [0, 1, 0, 1] {
        for turn in 0..3 {
            let answer = match host.request(worker, request("/a")) {
                Exchange::Passed(pending) if turn == 1 => pending.local(Local::no_healthy_upstream()),
                Exchange::Passed(pending) if turn == 2 => pending.respond(Response::status(500).body("failed")),
                exchange => exchange.with(good()),
            };
            answers.push(answer);
        }
        host.advance(millis(100));
    }
    answers
}

#[test]
fn the_standby_answers_or_the_next_entry_does() {
    let host = Host::with(&document()).workers(2).start();
    for answers in detours(&host).chunks(3) {
        let [well, nobody, failed] = answers else { panic!("three by three") };
        assert_eq!((well.by, well.status, well.text().as_str()), (By::Upstream, 200, "standby"));
        let says = well.header("x-holdfast-fallback");
        assert_eq!(says.as_deref(), Some("route; reason=open; policy=orders; cluster=standby"));
        let log = "policy=standby; key=cluster=standby; decision=admitted; detour=orders:open";
        assert_eq!(well.access_log.as_deref(), Some(log));
        assert_eq!((nobody.status, nobody.text().as_str()), (418, "nobody at /a"));
        assert_eq!((failed.status, failed.text().as_str()), (500, "failed"));
    }
    host.advance(seconds(1));
    let metric = |policy: &str, name: &str| {
        host.metric(&format!("holdfast.policy=.={policy};.;key=.=cluster={policy};.;{name}")).unwrap_or_default()
    };
    assert_eq!((metric("orders", "fallback.route"), metric("orders", "fallback_failed.route")), (12, 4));
    assert_eq!((metric("orders", "fallback.static"), metric("standby", "requests")), (4, 12));
    host.assert_no_trap();
}

#[test]
fn every_call_may_be_refused_once() {
    for nth in 0.. {
        let host = Host::with(&document()).workers(2).start();
        let first = host.calls(0);
        host.on_call(move |_, call| {
            // Where the body cannot be written over, what came passes under the new headers, as with any fallback.
            call.refused().filter(|_| call.before == first + nth && call.name != "set_buffer_bytes")
        });
        for answer in detours(&host) {
            assert!([200, 418, 500, 503].contains(&answer.status), "call {nth}: {answer:?}");
        }
        host.assert_no_trap();
        if host.calls(0) < first + nth {
            break;
        }
    }
}

#[test]
fn a_vm_may_die_at_any_host_call() {
    for nth in 0.. {
        let host = Host::with(&document()).workers(2).start();
        let first = host.calls(1);
        host.crash_at(1, move |call| call.before == first + nth);
        detours(&host);
        host.nothing_fails();
        let died = !host.is_alive(1);
        host.advance(seconds(60));
        let answer = host.request(0, request("/b")).with(good());
        assert_eq!(answer.text(), "standby", "call {nth}");
        if !died {
            break;
        }
    }
}

#[test]
fn where_the_host_does_not_know_the_function_other_entries_serve() {
    let host = Host::with(&document()).start();
    host.on_call(|_, call| (call.name == "call_foreign_function").then_some(Fault::Status(status::NOT_FOUND)));
    let first = host.request(0, request("/a")).with(good());
    assert_eq!((first.text().as_str(), first.header("x-holdfast-fallback")), ("standby", None), "its own cluster's");
    for _ in 0..3 {
        assert_eq!(host.request(0, request("/a")).with(good()).status, 418);
    }
    host.assert_no_trap();
}
