//! What a client gets instead of the host's answer, byte for byte, and when.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, Response, Route, Scene};
use http::{Method, Request};
use serde_json::json;

/// A policy `orders` whose breaker is always open, with this list of fallbacks.
fn open(fallback: &str) -> String {
    format!(
        r#"{{"policies":[{{"name":"orders","breaker":{{"state":"forced_open"}},"concurrency":{{"max_requests":1}},
            "fallback":{fallback}}}]}}"#
    )
}

/// A policy `orders` whose breaker never opens, with this list of fallbacks.
fn closed(fallback: &str) -> String {
    format!(
        r#"{{"policies":[{{"name":"orders","breaker":{{"state":"forced_closed"}},"concurrency":{{"max_requests":1}},
            "fallback":{fallback}}}]}}"#
    )
}

fn with_header(mut request: Request<Bytes>, name: &'static str, value: &[u8]) -> Request<Bytes> {
    request.headers_mut().insert(name, http::HeaderValue::from_bytes(value).unwrap());
    request
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    let mut request = Client::request(path).map(|_| body.into());
    *request.method_mut() = Method::POST;
    request
}

fn origin(response: &Response) -> Option<String> {
    response.header("x-holdfast-fallback")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_body_is_sent_as_it_was_written() {
    let host = Backend::start().await.unwrap();
    let policy = open(
        r#"[{"on": ["open"], "respond": {"status": 200, "headers": {"X-Degraded": "yes"},
            "body": {"zebra": 1, "apple": [true, null, -2.5e3, "é\n\"$5\""], "mango": {}}}}]"#,
    );
    let scene = Scene::start(&host, policy).await;

    let response = scene.client.get("/items").await.unwrap();

    assert_eq!(response.status, 200);
    assert_eq!(
        response.text(),
        r#"{"zebra":1,"apple":[true,null,-2500.0,"é\n\"$5\""],"mango":{}}"#,
        "in the order of the document, compact"
    );
    assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(response.header("content-length").unwrap(), response.body.len().to_string());
    assert_eq!(response.header("x-degraded").as_deref(), Some("yes"));
    assert_eq!(response.header("cache-control").as_deref(), Some("no-store"), "no cache in front keeps it");
    assert_eq!(origin(&response).as_deref(), Some("static; reason=open; policy=orders"));
    assert_eq!(response.header("x-holdfast-reject"), None, "it is no plain rejection");
    assert!(response.header("retry-after").is_some(), "a client may still want to know when to come back");
    assert_eq!(host.requests(), 0);
    assert_eq!(scene.metric("fallback.static").await, 1);
}

/// A fallback for a cluster that has no host, and another for hosts that fail.
const NO_HOST: &str = r#"[{"on": ["no_host"], "respond": {"status": 200, "body": "nobody is there"}},
    {"on": ["failure"], "respond": {"status": 200, "body": "a host failed"}}]"#;

/// The cluster `orders` of this host, none of which is used when all are out.
fn without_panic(host: &Backend, patch: serde_json::Value) -> EnvoyOptions {
    let cluster = Cluster::new("orders").endpoint(host.addr());
    let cluster = cluster.raw(json!({"common_lb_config": {"healthy_panic_threshold": {"value": 0}}})).raw(patch);
    EnvoyOptions::new().cluster(cluster).route(Route::to("/", "orders")).policy(closed(NO_HOST))
}

/// Waits until a request finds no host, and gives its answer.
async fn without_host(scene: &Scene) -> Response {
    for _ in 0..200 {
        let response = scene.client.get("/").await.unwrap();
        if response.text() == "nobody is there" {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("a host still answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_hosts_is_no_host() {
    let empty = EnvoyOptions::new().cluster(Cluster::new("orders")).route(Route::to("/", "orders"));
    let scene = Scene::with(empty.policy(closed(NO_HOST))).await;
    let response = scene.client.get("/").await.unwrap();
    assert_eq!(response.text(), "nobody is there");
    assert_eq!(origin(&response).as_deref(), Some("static; reason=no_host; policy=orders"));
    assert_eq!(scene.metric("failure").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_hosts_are_all_unhealthy_is_no_host() {
    let host = Backend::start().await.unwrap();
    host.always(Action::status(503));
    let check = json!({
        "timeout": "1s", "interval": "0.05s", "unhealthy_threshold": 1, "healthy_threshold": 1,
        "http_health_check": {"path": "/healthz"},
    });
    let scene = Scene::with(without_panic(&host, json!({"health_checks": [check]}))).await;
    let response = without_host(&scene).await;
    assert_eq!(origin(&response).as_deref(), Some("static; reason=no_host; policy=orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_hosts_envoy_has_ejected_is_no_host() {
    let host = Backend::start().await.unwrap();
    host.always(Action::status(503));
    let detection = json!({"consecutive_5xx": 2, "max_ejection_percent": 100, "base_ejection_time": "60s"});
    let scene = Scene::with(without_panic(&host, json!({"outlier_detection": detection}))).await;
    let first = scene.client.get("/").await.unwrap();
    assert_eq!(first.text(), "a host failed", "it was there");
    let response = without_host(&scene).await;
    assert_eq!(origin(&response).as_deref(), Some("static; reason=no_host; policy=orders"));
    assert_eq!(host.requests(), 2, "the second failure had it ejected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_refuses_connections_is_a_host() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::with(without_panic(&host, json!({}))).await;
    drop(host);
    let response = scene.client.get("/").await.unwrap();
    assert_eq!(response.text(), "a host failed");
    assert_eq!(origin(&response).as_deref(), Some("static; reason=failure; policy=orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_body_is_a_template() {
    let host = Backend::start().await.unwrap();
    let policy = open(
        r#"[{"on": ["open"], "respond": {"status": 503, "headers": {"Cache-Control": "max-age=5"},
            "body": "${reason}|${policy}|${retry_after}|${path}|${header.X-Id}|${header.x-none}|$${path}|$5|é"}}]"#,
    );
    let scene = Scene::start(&host, policy).await;

    let request = with_header(Client::request("/items?id=7&x=%22'"), "x-id", b"a\"b<\xfe\xff>");
    let response = scene.client.send(request).await.unwrap();

    assert_eq!(response.status, 503);
    let mut expected = b"open|orders|1|/items?id=7&x=%22'|a\"b<".to_vec();
    expected.extend_from_slice(b"\xfe\xff");
    expected.extend_from_slice(">||${path}|$5|é".as_bytes());
    assert_eq!(response.body, expected, "plain text takes bytes as they came: {}", response.text());
    assert_eq!(response.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(response.header("cache-control").as_deref(), Some("max-age=5"), "the document's word holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sends_cannot_leave_its_place_in_the_body() {
    let host = Backend::start().await.unwrap();
    let respond = |content_type: &str, body: &str| json!([{"on": ["open"], "respond": {"status": 200, "headers": {"content-type": content_type}, "body": body}}]);
    let policy = json!({"policies": [
        {
            "name": "page", "match": {"path": ["/page"]}, "breaker": {"state": "forced_open"},
            "fallback": respond("text/html; charset=utf-8", "<p title='${header.x-id}'>${path}</p>"),
        },
        {
            "name": "data", "breaker": {"state": "forced_open"},
            "fallback": respond("application/problem+json", r#"{"id":"${header.x-id}","reason":"${reason}"}"#),
        },
    ]});
    let scene = Scene::start(&host, policy).await;
    let nasty = b"</p><script>\"'&\\\xff\t";

    let page = scene.client.send(with_header(Client::request("/page?a&'b"), "x-id", nasty)).await.unwrap();
    let expected = b"<p title='&lt;/p&gt;&lt;script&gt;&quot;&#39;&amp;\\\xff'>/page?a&amp;&#39;b</p>";
    assert_eq!(page.text(), String::from_utf8_lossy(expected), "the value ends where it should");

    let data = scene.client.send(with_header(Client::request("/"), "x-id", nasty)).await.unwrap();
    assert_eq!(data.json(), json!({"id": "</p><script>\"'&\\\u{fffd}", "reason": "open"}), "{}", data.text());
    assert_eq!(origin(&data).as_deref(), Some("static; reason=open; policy=data"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_the_host_is_replaced_whole() {
    let host = Backend::start().await.unwrap();
    let policy = closed(
        r#"[{"on": ["failure"], "respond": {"status": 200, "headers": {"x-a": "b"},
            "body": "${reason} ${policy} ${retry_after} ${path} ${header.x-id}"}}]"#,
    );
    let scene = Scene::start(&host, policy).await;
    host.always(
        Action::status(500)
            .header("x-kept", "anyway")
            .header("content-type", "text/html")
            .header("set-cookie", "a=b")
            .header("retry-after", "7")
            .body(vec![b'x'; 100_000]),
    );

    for _ in 0..3 {
        let request = with_header(Client::request("/items?id=7"), "x-id", b"seven");
        let response = scene.client.send(request).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "failure orders 0 /items?id=7 seven"));
        for name in ["set-cookie", "retry-after"] {
            assert_eq!(response.header(name), None, "nothing that speaks of the host's answer is left");
        }
        assert_eq!(response.header("x-kept").as_deref(), Some("anyway"), "what may be another filter's stays");
        assert_eq!(response.headers.get_all("content-type").iter().count(), 1);
        assert_eq!(response.header("x-a").as_deref(), Some("b"));
        assert_eq!(origin(&response).as_deref(), Some("static; reason=failure; policy=orders"));
    }

    host.always(Action::status(404).body("no such item"));
    let response = scene.client.get("/").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (404, "no such item"), "a success is the host's own");
    assert_eq!(origin(&response), None);
    let counted = scene.counted(&["requests", "failure", "success", "ignored", "fallback.static"]).await;
    assert_eq!(
        counted,
        json!({"requests": 4, "failure": 3, "success": 1, "ignored": 0, "fallback.static": 3}),
        "a fallback of status 200 is no outcome of its own"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_at_all_is_replaced_too() {
    let host = Backend::start().await.unwrap();
    let policy = closed(r#"[{"on": ["failure"], "respond": {"status": 200, "body": "instead of ${path}"}}]"#);
    let scene = Scene::start(&host, policy).await;

    host.always(Action::reset());
    let response = scene.client.get("/reset").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "instead of /reset"));
    host.refuse().await.unwrap();
    let response = scene.client.get("/refused").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "instead of /refused"));
    assert_eq!(response.headers.get_all("content-type").iter().count(), 1);
    assert_eq!(origin(&response).as_deref(), Some("static; reason=failure; policy=orders"));

    assert_eq!(
        scene.counted(&["failure", "success", "ignored", "fallback.static"]).await,
        json!({"failure": 2, "success": 0, "ignored": 0, "fallback.static": 2})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_out_has_its_own_reason() {
    let host = Backend::start().await.unwrap();
    let entry = |on: &str| json!([{"on": [on], "respond": {"status": 200, "body": on.to_owned() + " ${reason}"}}]);
    let policy = json!({"policies": [
        {"name": "failure", "match": {"path": ["/failure"]}, "fallback": entry("failure")},
        {"name": "orders", "fallback": entry("timeout")},
    ]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").timeout(Duration::from_millis(250)))
        .policy(policy);
    let scene = Scene::with(options).await;

    host.always(Action::hang());
    let response = scene.client.get("/").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "timeout timeout"));
    assert_eq!(origin(&response).as_deref(), Some("static; reason=timeout; policy=orders"));
    let response = scene.client.get("/failure").await.unwrap();
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "failure timeout"),
        "a time-out is a failure too, and says which"
    );

    host.always(Action::status(504).body("the host's own"));
    let response = scene.client.get("/").await.unwrap();
    assert_eq!(
        (response.status, response.text().as_str()),
        (504, "the host's own"),
        "the host answered in time: this is not its time-out"
    );
    assert_eq!(scene.metric("failure").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_entry_that_names_the_reason_serves() {
    let host = Backend::start().await.unwrap();
    let policy = closed(
        r#"[{"on": ["timeout"], "respond": {"status": 201}},
            {"on": ["concurrency", "failure"], "respond": {"status": 202}},
            {"on": ["failure", "open"], "respond": {"status": 203}}]"#,
    );
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").timeout(Duration::from_millis(1000)))
        .policy(policy);
    let scene = Scene::with(options).await;

    host.always(Action::status(503));
    assert_eq!(scene.client.get("/").await.unwrap().status, 202, "failure: the second entry is the first to name it");
    host.always(Action::hang());
    let hanging = scene.client.open(Client::request("/"));
    host.wait_in_flight(1).await.unwrap();
    let crowded = scene.client.get("/").await.unwrap();
    assert_eq!(crowded.status, 202, "concurrency");
    assert_eq!(origin(&crowded).as_deref(), Some("static; reason=concurrency; policy=orders"));
    assert_eq!(hanging.finish().await.unwrap().status, 201, "timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_that_no_entry_names_is_left_alone() {
    let host = Backend::start().await.unwrap();
    let policy = open(r#"[{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}]"#);
    let scene = Scene::start(&host, policy).await;

    let response = scene.client.get("/").await.unwrap();

    assert_eq!(response.status, 503);
    assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
    assert_eq!(origin(&response), None);
    assert_eq!(scene.metric("fallback.static").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_request_gets_the_headers_and_no_body() {
    let host = Backend::start().await.unwrap();
    let entry = r#"[{"on": ["open", "failure"], "respond": {"status": 200, "body": "a body"}}]"#;
    host.always(Action::status(500));
    for policy in [open(entry), closed(entry)] {
        let scene = Scene::start(&host, policy).await;
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            for _ in 0..3 {
                let mut request = Client::request("/");
                *request.method_mut() = Method::HEAD;
                let response = client.send(request).await.unwrap();
                assert_eq!((response.status, response.body.len()), (200, 0));
                assert!(origin(&response).is_some());
                let whole = client.get("/").await.expect("the connection is still in step");
                assert_eq!(whole.text(), "a body");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_body_is_answered_too() {
    let host = Backend::start().await.unwrap();
    let entry = r#"[{"on": ["open", "failure"], "respond": {"status": 200, "body": "instead"}}]"#;
    host.always(Action::status(500));
    for policy in [open(entry), closed(entry)] {
        let scene = Scene::start(&host, policy).await;
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            for body in [vec![b'x'; 10], vec![b'x'; 1 << 20]] {
                let size = body.len();
                let response = client.send(post("/", body)).await;
                let response = response.unwrap_or_else(|error| panic!("{client:?} with {size} bytes: {error}"));
                assert_eq!((response.status, response.text().as_str()), (200, "instead"), "{client:?} {size}");
            }
            assert_eq!(client.get("/").await.unwrap().text(), "instead", "and goes on");
        }
    }
    assert!(host.seen().iter().any(|request| request.body.len() == 1 << 20), "passed on whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_under_way_is_answered_when_the_host_fails_early() {
    let host = Backend::start().await.unwrap();
    let policy = closed(r#"[{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}]"#);
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").timeout(Duration::from_millis(300)))
        .policy(policy);
    let scene = Scene::with(options).await;
    host.refuse().await.unwrap();

    for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
        let upload = client.open_unfinished(post("/", "the beginning"));
        let response = upload.finish().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "instead"));
    }
    assert_eq!(scene.metric("failure").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_clients_get_the_same() {
    let host = Backend::start().await.unwrap();
    let entry = r#"[{"on": ["open", "failure"], "respond": {"status": 200, "body": {"items": []}}}]"#;
    host.always(Action::status(500).body("oops"));
    for (policy, reason) in [(open(entry), "open"), (closed(entry), "failure")] {
        let scene = Scene::start(&host, policy).await;
        let response = Client::http2(scene.addr()).get("/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, r#"{"items":[]}"#));
        assert_eq!(response.header("content-length").as_deref(), Some("12"));
        assert_eq!(origin(&response), Some(format!("static; reason={reason}; policy=orders")));
    }
}

/// A scene for gRPC: HTTP/2 all the way.
async fn grpc(host: &Backend, policy: String) -> (Scene, Client) {
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders").timeout(Duration::from_millis(1000)))
        .policy(policy);
    let scene = Scene::with(options).await;
    let client = Client::http2(scene.addr());
    (scene, client)
}

fn call() -> Request<Bytes> {
    Client::grpc_request("/orders.Orders/List")
}

/// The answer of trailers only that a gRPC client needs.
fn assert_grpc(response: &Response, status: &str) -> String {
    assert_eq!(response.status, 200, "errors of gRPC have HTTP status 200");
    assert_eq!(response.header("content-type").as_deref(), Some("application/grpc"));
    assert_eq!(response.header("grpc-status").as_deref(), Some(status));
    assert!(response.body.is_empty(), "no message is in the body");
    assert_eq!(response.headers.get_all("grpc-status").iter().count(), 1);
    response.header("grpc-message").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_call_that_is_rejected_gets_a_grpc_status() {
    let host = Backend::start().await.unwrap();
    let (scene, client) = grpc(&host, open("[]")).await;

    let response = client.send(call()).await.unwrap();

    let message = assert_grpc(&response, "14");
    assert!(message.contains("orders") && message.contains("open"), "{message:?}");
    assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
    assert!(response.header("retry-after").is_some());
    assert_eq!(host.requests(), 0);
    assert_eq!(scene.metric("rejected.open").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_call_gets_a_grpc_fallback() {
    let host = Backend::start().await.unwrap();
    let policy = open(
        r#"[{"on": ["open"], "respond": {"status": 200, "headers": {"x-meta": "data", "content-type": "text/html"},
            "body": "<p>for browsers</p>"}}]"#,
    );
    let (_scene, client) = grpc(&host, policy).await;

    let response = client.send(call()).await.unwrap();
    assert_grpc(&response, "14");
    assert_eq!(origin(&response).as_deref(), Some("static; reason=open; policy=orders"));
    assert_eq!(response.header("x-meta").as_deref(), Some("data"), "headers become metadata");

    let browser = client.get("/").await.unwrap();
    assert_eq!(browser.text(), "<p>for browsers</p>", "others get what is meant for them");
    assert_eq!(browser.header("grpc-status"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_grpc_call_is_replaced_with_the_configured_status() {
    let host = Backend::start().await.unwrap();
    let policy = closed(
        r#"[{"on": ["failure", "timeout"], "respond": {"status": 200, "body": "x", "grpc_status": "RESOURCE_EXHAUSTED"}}]"#,
    );
    let (scene, client) = grpc(&host, policy).await;

    host.always(Action::grpc_trailers_only(14).header("grpc-message", "the host's"));
    let response = client.send(call()).await.unwrap();
    let message = assert_grpc(&response, "8");
    assert!(!message.contains("host's"), "the message is ours: {message}");
    assert_eq!(origin(&response).as_deref(), Some("static; reason=failure; policy=orders"));

    host.always(Action::status(500));
    assert_grpc(&client.send(call()).await.unwrap(), "8");
    host.always(Action::hang());
    let response = client.send(call()).await.unwrap();
    assert_grpc(&response, "8");
    assert_eq!(origin(&response).as_deref(), Some("static; reason=timeout; policy=orders"));
    host.refuse().await.unwrap();
    assert_grpc(&client.send(call()).await.unwrap(), "8");

    assert_eq!(
        scene.counted(&["failure", "success", "ignored", "fallback.static"]).await,
        json!({"failure": 4, "success": 0, "ignored": 0, "fallback.static": 4})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_answer_under_way_cannot_be_replaced_and_is_not_broken() {
    let host = Backend::start().await.unwrap();
    let policy = closed(r#"[{"on": ["failure"], "respond": {"status": 200, "body": "x"}}]"#);
    let (scene, client) = grpc(&host, policy).await;

    host.always(Action::grpc(14));
    let response = client.send(call()).await.unwrap();

    assert_eq!((response.status, response.grpc_status()), (200, Some(14)));
    assert_eq!(response.body.len(), 5, "the message has gone out already");
    assert_eq!(origin(&response), None);
    scene.becomes("failure", 1).await;
    assert_eq!(scene.metric("fallback.static").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_on_open_is_no_outcome() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "breaker": {"window": "60s", "min_requests": 4, "open_for": "2s", "open_jitter": 0, "half_open": {"probes": 2}},
        "fallback": [{"on": ["open"], "respond": {"status": 200, "body": "instead"}}],
    }]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));
    for _ in 0..4 {
        assert_eq!(scene.client.get("/").await.unwrap().status, 500, "failures are not replaced here");
    }
    for _ in 0..10 {
        assert_eq!(scene.client.get("/").await.unwrap().text(), "instead");
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;

    host.hold();
    let probes = [scene.client.open(Client::request("/")), scene.client.open(Client::request("/"))];
    host.wait_in_flight(2).await.unwrap();
    for _ in 0..10 {
        assert_eq!(scene.client.get("/").await.unwrap().text(), "instead");
    }
    assert_eq!(scene.metric("breaker_state").await, 1, "ten answers with status 200 closed nothing");
    assert_eq!(scene.metric("success").await, 0);
    host.always(Action::ok());
    host.release_all();
    for probe in probes {
        assert_eq!(probe.finish().await.unwrap().text(), "ok");
    }
    assert_eq!(
        scene.counted(&["success", "failure", "ignored"]).await,
        json!({
            "success": 2, "failure": 4, "ignored": 0,
        })
    );
}
