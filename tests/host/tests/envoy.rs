//! What Envoy does around the module: phases, replies, bytes.

use holdfast_host_tests::{By, Host, Local, Request, Response};

use crate::support::{BREAKER, count, passing, policy, trip};

const FALLBACK: &str = r#""fallback":[{"on":["open","failure"],"respond":{"status":200,
    "headers":{"content-type":"text/plain"},"body":"instead of ${path} for ${header.x-id}: ${reason}"}}]"#;

#[test]
fn a_rejection_passes_the_module_again_as_a_response_and_is_not_counted() {
    let host = Host::with(&policy(&format!("{BREAKER},{FALLBACK}"))).start();
    for _ in 0..3 {
        host.get(0).with(Response::status(503));
    }
    let failures = count(&host, "failure");
    let answer = host.request(0, Request::get("/items").header("x-id", "7")).answered();
    assert_eq!((answer.status, answer.text().as_str()), (200, "instead of /items for 7: open"));
    assert_eq!(answer.header("x-holdfast-fallback").as_deref(), Some("static; reason=open; policy=orders"));
    assert_eq!(answer.details, "holdfast_open");
    assert_eq!(
        answer.access_log.as_deref(),
        Some("policy=orders; key=all; decision=fallback; reason=open; kind=static")
    );
    assert_eq!((count(&host, "failure"), count(&host, "ignored"), count(&host, "success")), (failures, 0, 0));
    host.assert_no_trap();
}

#[test]
fn a_failure_is_replaced_before_the_client_sees_any_of_it() {
    let host = Host::with(&policy(&format!(r#""breaker":{{}},{FALLBACK}"#))).start();
    let answer = host
        .request(0, Request::get("/items?id=1").header("x-id", b"\xff\xfe"))
        .passed()
        .respond(Response::status(500).header("set-cookie", "session=1").header("content-encoding", "br"));
    assert_eq!((answer.by, answer.status), (By::Holdfast, 200));
    assert_eq!(answer.body, b"instead of /items?id=1 for \xff\xfe: failure");
    assert_eq!((answer.header("set-cookie"), answer.header("content-encoding")), (None, None));
    assert_eq!(count(&host, "failure"), 1, "it is a failure all the same");
    let timed_out = host.get(0).passed().local(Local::timeout());
    assert_eq!(timed_out.header("x-holdfast-fallback").as_deref(), Some("static; reason=timeout; policy=orders"));
    host.assert_no_trap();
}

#[test]
fn that_there_is_no_host_has_its_own_fallback() {
    let own = r#"{"on":["no_host"],"respond":{"status":502,"body":"nobody is there"}}"#;
    let others = r#"{"on":["failure"],"respond":{"status":200,"body":"instead"}}"#;
    let host = Host::with(&policy(&format!(r#""breaker":{{"min_requests":100}},"fallback":[{own},{others}]"#))).start();
    let answer = host.get(0).passed().local(Local::no_healthy_upstream());
    assert_eq!((answer.status, answer.text().as_str()), (502, "nobody is there"));
    assert_eq!(answer.header("x-holdfast-fallback").as_deref(), Some("static; reason=no_host; policy=orders"));
    assert_eq!(
        answer.access_log.as_deref(),
        Some("policy=orders; key=all; decision=fallback; reason=no_host; kind=static")
    );
    assert_eq!(count(&host, "failure"), 1, "the cluster did not serve it");
    for local in [Local::connect_failure(), Local::reset()] {
        assert_eq!(host.get(0).passed().local(local).text(), "instead", "a host was there");
    }
    host.assert_no_trap();
}

#[test]
fn an_entry_for_failures_serves_where_there_is_no_host_unless_that_is_no_outcome() {
    let answered = |outcome: &str, on: &str| {
        let fallback = format!(r#""fallback":[{{"on":["{on}"],"respond":{{"status":200}}}}]"#);
        let host = Host::with(&policy(&format!(r#"{outcome}"breaker":{{}},{fallback}"#))).start();
        let answer = host.get(0).passed().local(Local::no_healthy_upstream());
        host.assert_no_trap();
        (answer.status, answer.header("x-holdfast-fallback"))
    };
    let served = (200, Some("static; reason=no_host; policy=orders".to_owned()));
    assert_eq!(answered("", "failure"), served);
    let ignored = r#""outcome":{"failure":{"local":false}},"#;
    assert_eq!(answered(ignored, "failure"), (503, None));
    assert_eq!(answered(ignored, "no_host"), served);
}

#[test]
fn a_grpc_client_gets_a_grpc_answer() {
    let host = Host::with(&policy(BREAKER)).start();
    let call = || host.request(0, Request::grpc("/orders.v1.Orders/Get"));
    for _ in 0..3 {
        assert_eq!(call().passed().grpc(14).header(":status").as_deref(), Some("200"));
    }
    let answer = call().answered();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status").as_deref(), Some("14"));
    assert_eq!(answer.header("grpc-message").as_deref(), Some("rejected by policy orders: open"));
    assert!(answer.body.is_empty());
    host.assert_no_trap();
}

#[test]
fn what_is_an_outcome_and_what_is_none() {
    let host = Host::with(&policy(r#""breaker":{"min_requests":1000}"#)).start();
    let outcomes = || (count(&host, "success"), count(&host, "failure"), count(&host, "ignored"));
    host.get(0).passed().respond(Response::status(404));
    assert_eq!(outcomes(), (1, 0, 0), "a 404 of the host is its work");
    host.get(0).passed().respond(Response::status(503));
    host.get(0).passed().local(Local::connect_failure());
    host.get(0).passed().local(Local::reset());
    host.get(0).passed().local(Local::timeout());
    host.get(0).passed().local(Local::idle());
    host.get(0).passed().local(Local::no_healthy_upstream());
    assert_eq!(outcomes(), (1, 6, 0), "a 503 of the host and no answer of it are failures");
    host.get(0).passed().local(Local::overflow());
    host.get(0).passed().local(Local::by_filter(503));
    host.get(0).passed().client_leaves();
    assert_eq!(outcomes(), (1, 6, 3), "these say nothing about the host");
    host.request(0, Request::grpc("/a.B/C")).passed().respond(Response::grpc_headers_only(14));
    host.request(0, Request::grpc("/a.B/C")).passed().grpc(5);
    host.request(0, Request::grpc("/a.B/C")).passed().headers(Response::grpc(0)).client_leaves();
    assert_eq!(outcomes(), (2, 7, 4), "UNAVAILABLE, NOT_FOUND, a client that leaves in the middle");
    host.request(0, Request::grpc("/a.B/C")).passed().local(Local::grpc_deadline());
    assert_eq!(outcomes(), (2, 8, 4), "a deadline that passes");
    host.assert_no_trap();
}

#[test]
fn the_same_holds_where_the_router_adds_no_headers() {
    let host = Host::with(&policy(r#""breaker":{"min_requests":1000}"#)).without_router_headers().start();
    host.get(0).passed().respond(Response::status(200));
    host.get(0).passed().respond(Response::status(503));
    host.get(0).passed().local(Local::connect_failure());
    host.get(0).passed().local(Local::by_filter(503));
    assert_eq!((count(&host, "success"), count(&host, "failure"), count(&host, "ignored")), (1, 2, 1));
    host.assert_no_trap();
}

#[test]
fn no_bytes_of_a_client_or_a_host_stop_a_worker() {
    let document = format!(
        r#"{{"policies":[{{"name":"orders","scope":["authority",{{"header":"x-tenant"}}],
            "match":{{"path":["/**"],"header":{{"x-tenant":"**"}}}},{BREAKER},{FALLBACK}}}]}}"#
    );
    let host = Host::with(&document).start();
    let long = vec![b'\xff'; 60_000];
    let hostile: [&[u8]; 8] = [b"", b"\xff\xfe", b"\0", b"a\0b", b"${path}", b"%s%n", "\u{202e}".as_bytes(), &long];
    for bytes in hostile {
        for worker in [0, 0, 0, 0, 0] {
            let request = Request::get("/").header("x-tenant", bytes).header("x-id", bytes).header(":authority", bytes);
            let request = request.header(":path", [b"/", bytes].concat()).header("content-type", bytes);
            let response = Response::status(503).header("retry-after", bytes).header("content-type", bytes);
            host.request(worker, request.another("x-tenant", bytes)).with(response.header("grpc-status", bytes));
        }
    }
    let odd = [Response::status(503).header(":status", "abc"), Response::status(0), Response::status(65_535)];
    for response in odd {
        host.request(0, Request::get("/").header("x-tenant", "odd")).passed().respond(response);
    }
    host.request(0, Request::grpc("/").header("x-tenant", "g"))
        .passed()
        .respond(Response::grpc(0).header("content-type", "application/grpc").trailer("grpc-status", b"\xff\xff"));
    for (name, _) in host.metrics() {
        assert!(name.len() < 700 && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
        let labels = if ["holdfast.epoch", "holdfast.runs"].contains(&name.as_str()) { 0 } else { 2 };
        assert_eq!((name.matches("=.=").count(), name.matches(";.;").count()), (labels, labels), "{name}");
    }
    host.assert_no_trap();
}

#[test]
fn a_request_that_no_route_was_found_for_passes() {
    let host = Host::with(r#"{"policies":[{"name":"orders","breaker":{}}]}"#).start();
    let answer = host.request(0, Request::get("/").unrouted()).passed().local(Local::by_filter(404));
    assert_eq!((answer.by, answer.status), (By::Envoy, 404));
    host.assert_no_trap();
}

/// Envoy's pause before it makes a new VM, in which the worker's requests fail.
#[test]
fn a_worker_whose_vm_died_has_a_new_one_a_second_later_and_the_same_state() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.crash(1);
    assert_eq!(host.get(1).answered().details, "wasm_fail_stream");
    host.advance(std::time::Duration::from_secs(1));
    assert_eq!(host.get(1).answered().header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
    assert_eq!(passing(&host, 0, 1, 200), 0);
    host.assert_no_trap();
}

#[test]
fn each_seat_takes_its_own_configuration_and_no_other() {
    let start = |vm: &str, plugin: &str| {
        let started = Host::with(plugin).vm_configuration(vm).try_start();
        started.map(drop).map_err(|refused| refused.lines.join("\n"))
    };
    let (request, attempt) = (r#"{"seat":"request"}"#, r#"{"seat":"attempt"}"#);
    assert_eq!(start("", &policy(BREAKER)), Ok(()), "the request seat is the default");
    assert_eq!(start(request, &policy(BREAKER)), Ok(()));
    assert_eq!(start(attempt, ""), Ok(()));
    assert_eq!(start(attempt, " \n"), Ok(()));
    let refused = start(attempt, &policy(BREAKER)).unwrap_err();
    assert!(refused.contains("configuration: must be empty in the attempt seat"), "{refused}");
    let refused = start(request, "").unwrap_err();
    assert!(refused.contains("configuration refused"), "a request seat without a document: {refused}");
    let refused = start(r#"{"seat":"back"}"#, "").unwrap_err();
    assert!(refused.contains(r#"{"seat": "request"} or {"seat": "attempt"}, was the seat "back""#), "{refused}");
}

#[test]
fn the_attempt_seat_alone_lets_everything_pass() {
    let host = Host::with(r#"{"policies":[]}"#).attempt_seat().start();
    for status in [200, 404, 503] {
        let request = host.send(0, Request::get("/"));
        request.attempt().responds(status);
        assert_eq!((request.answer().status, request.tries().len()), (status, 1));
    }
    host.assert_no_trap();
    host.assert_nothing_is_left();
}
