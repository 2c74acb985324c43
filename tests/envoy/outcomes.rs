//! What counts as a success, as a failure, and as nothing.

use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, Listener, Policy, Route, Scene, envoy_version, holdfast_filter,
    wasm_module,
};
use serde_json::{Value, json};

/// A policy `orders` that only counts, with these rules.
fn counting(outcome: Value) -> Value {
    json!({"policies": [{"name": "orders", "outcome": outcome, "breaker": {"state": "forced_closed"}}]})
}

/// Waits until all requests sent so far have an outcome, and says which.
async fn outcomes(scene: &Scene, requests: u64) -> Value {
    holdfast_tests::eventually(holdfast_tests::PATIENCE, || async {
        let metrics = scene.metrics("orders", "cluster=orders").await;
        let get = |name: &str| metrics.get(name).copied().unwrap_or_default();
        let known = get("success") + get("failure") + get("ignored");
        if known >= requests { Ok(()) } else { Err(format!("{known} of {requests} outcomes are known: {metrics:?}")) }
    })
    .await
    .unwrap();
    scene.counted(&["requests", "success", "failure", "ignored"]).await
}

fn expected(success: u64, failure: u64, ignored: u64) -> Value {
    json!({"requests": success + failure + ignored, "success": success, "failure": failure, "ignored": ignored})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_errors_fail_and_all_else_succeeds() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, counting(json!({}))).await;

    for status in [200, 204, 301, 400, 404, 429, 499, 500, 502, 503, 599] {
        host.always(Action::status(status));
        assert_eq!(scene.client.get("/").await.unwrap().status, status, "the client gets the host's answer");
    }

    assert_eq!(outcomes(&scene, 11).await, expected(7, 4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_can_be_changed_and_ignore_comes_first() {
    let host = Backend::start().await.unwrap();
    let rules = json!({"failure": {"status": [429, "500-599"]}, "ignore": {"status": [501, "400-404"]}});
    let scene = Scene::start(&host, counting(rules)).await;

    for (status, so_far) in [
        (429, expected(0, 1, 0)),
        (500, expected(0, 2, 0)),
        (501, expected(0, 2, 1)),
        (400, expected(0, 2, 2)),
        (404, expected(0, 2, 3)),
        (405, expected(1, 2, 3)),
        (200, expected(2, 2, 3)),
    ] {
        host.always(Action::status(status));
        assert_eq!(scene.client.get("/").await.unwrap().status, status);
        assert_eq!(outcomes(&scene, so_far["requests"].as_u64().unwrap()).await, so_far, "after {status}");
    }
}

/// Reset, timed out and refused: three ways to give no answer.
async fn no_answers(rules: Value) -> (Scene, Backend) {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").timeout(Duration::from_millis(300)))
        .policy(counting(rules));
    let scene = Scene::with(options).await;
    host.always(Action::reset());
    assert_eq!(scene.client.get("/reset").await.unwrap().status, 503);
    host.always(Action::hang());
    assert_eq!(scene.client.get("/hang").await.unwrap().status, 504);
    host.refuse().await.unwrap();
    assert_eq!(scene.client.get("/refused").await.unwrap().status, 503);
    (scene, host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_a_failure() {
    let (scene, _host) = no_answers(json!({})).await;
    assert_eq!(outcomes(&scene, 3).await, expected(0, 3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_ignored_where_the_policy_says_so() {
    let (scene, host) = no_answers(json!({"failure": {"local": false}})).await;
    assert_eq!(outcomes(&scene, 3).await, expected(0, 0, 3));
    host.resume().unwrap();
    host.always(Action::status(503));
    assert_eq!(scene.client.get("/").await.unwrap().status, 503);
    assert_eq!(outcomes(&scene, 4).await, expected(0, 1, 3), "the host's own 503 is a failure as ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_waiting_in_vain_is_a_time_out() {
    let host = Backend::start().await.unwrap();
    let idle_try = json!({"retry_on": "5xx", "num_retries": 0, "per_try_idle_timeout": "0.25s"});
    let one_try = json!({"retry_on": "5xx", "num_retries": 0, "per_try_timeout": "0.25s"});
    let policy = json!({"policies": [{
        "name": "orders", "breaker": {"state": "forced_closed"},
        "fallback": [{"on": ["timeout"], "respond": {"status": 200, "body": "${path} ${reason}"}}],
    }]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/whole", "orders").timeout(Duration::from_millis(250)))
        .route(Route::to("/try", "orders").retry_policy(one_try))
        .route(Route::to("/idle-try", "orders").retry_policy(idle_try))
        .route(Route::to("/idle-stream", "orders").raw(json!({"route": {"idle_timeout": "0.25s"}})))
        .route(Route::to("/stream", "orders").raw(json!({"route": {
            "timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.25s"},
        }})))
        .policy(policy);
    let scene = Scene::with(options).await;
    host.always(Action::hang());

    let mut got = Vec::new();
    for path in ["/whole", "/try", "/idle-try", "/idle-stream", "/stream"] {
        got.push(scene.client.get(path).await.unwrap().text());
    }

    let flags: Vec<_> = scene.wait_for_access_log(5).await.unwrap().into_iter().map(|entry| entry.flags).collect();
    assert_eq!(
        got,
        ["/whole timeout", "/try timeout", "/idle-try timeout", "/idle-stream timeout", "/stream timeout"],
        "Envoy's flags are {flags:?}"
    );
    assert_eq!(outcomes(&scene, 5).await, expected(0, 5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_deadline_that_passes_is_a_time_out() {
    let host = Backend::start().await.unwrap();
    let deadline = json!({"route": {"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}});
    let policy = json!({"policies": [{
        "name": "orders", "breaker": {"state": "forced_closed"},
        "fallback": [{"on": ["timeout"], "respond": {"status": 200, "grpc_status": "ABORTED"}}],
    }]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders").raw(deadline))
        .policy(policy);
    let scene = Scene::with(options).await;
    host.always(Action::hang());
    let mut call = Client::grpc_request("/orders.Orders/List");
    call.headers_mut().insert("grpc-timeout", "250m".parse().unwrap());

    let response = Client::http2(scene.addr()).send(call).await.unwrap();

    let log = scene.wait_for_access_log(1).await.unwrap().remove(0);
    assert_eq!(
        outcomes(&scene, 1).await,
        expected(0, 1, 0),
        "Envoy's flags are {}, details {}",
        log.flags,
        log.details
    );
    assert_eq!((response.status, response.grpc_status()), (200, Some(10)), "the fallback for time-outs serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_healthy_hosts_gives_no_answer() {
    let options =
        EnvoyOptions::new().cluster(Cluster::new("orders")).route(Route::to("/", "orders")).policy(counting(json!({})));
    let scene = Scene::with(options).await;
    assert_eq!(scene.client.get("/").await.unwrap().status, 503);
    assert_eq!(outcomes(&scene, 1).await, expected(0, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_is_judged_by_its_status_in_headers_and_in_trailers() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders"))
        .policy(counting(json!({"ignore": {"grpc_status": ["CANCELLED"]}})));
    let scene = Scene::with(options).await;
    let client = Client::http2(scene.addr());

    for (status, so_far) in [
        (0, expected(2, 0, 0)),   // OK
        (14, expected(2, 2, 0)),  // UNAVAILABLE
        (5, expected(4, 2, 0)),   // NOT_FOUND
        (1, expected(4, 2, 2)),   // CANCELLED
        (4, expected(4, 4, 2)),   // DEADLINE_EXCEEDED
        (7, expected(6, 4, 2)),   // PERMISSION_DENIED
        (999, expected(6, 6, 2)), // not in the standard: UNKNOWN
    ] {
        for action in [Action::grpc(status), Action::grpc_trailers_only(status)] {
            host.always(action);
            let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
            assert_eq!((response.status, response.grpc_status()), (200, Some(status)), "the answer is passed on");
        }
        let requests = so_far["requests"].as_u64().unwrap();
        assert_eq!(outcomes(&scene, requests).await, so_far, "after grpc-status {status}");
    }

    host.always(Action::status(404).header("content-type", "application/grpc"));
    client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
    assert_eq!(outcomes(&scene, 15).await, expected(7, 6, 2), "without a 200 the HTTP status counts");
    host.always(Action::grpc(0).body(""));
    client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
    assert_eq!(outcomes(&scene, 16).await, expected(8, 6, 2), "no message, but trailers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_failures_in_trailers_open_the_breaker() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({"window": "60s", "min_requests": 4, "open_for": "1h"});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": [{"name": "orders", "breaker": breaker}]}));
    let scene = Scene::with(options).await;
    let client = Client::http2(scene.addr());
    host.always(Action::grpc(14));

    for _ in 0..4 {
        let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
        assert_eq!(response.body.len(), 5);
    }

    scene.becomes("breaker_state", 2).await;
    let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
    assert_eq!((response.status, response.grpc_status(), response.body.len()), (200, Some(14), 0));
    assert_eq!(host.requests(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_stream_that_breaks_off_is_a_failure() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders"))
        .policy(counting(json!({})));
    let scene = Scene::with(options).await;
    host.always(Action::truncate().header("content-type", "application/grpc"));

    let broken = Client::http2(scene.addr()).send(Client::grpc_request("/orders.Orders/List")).await;

    if envoy_version() >= (1, 37) {
        assert_eq!(broken.unwrap_err().status, Some(200), "the head had gone out");
    } else {
        let cut_short = broken.unwrap();
        assert!(cut_short.is_cut_short() && cut_short.grpc_status().is_none(), "{cut_short:?}");
    }
    assert_eq!(outcomes(&scene, 1).await, expected(0, 1, 0), "its status never came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_says_nothing_about_the_host() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, counting(json!({}))).await;
    host.always(Action::hang());

    for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
        let open = client.open(Client::request("/"));
        host.wait_in_flight(1).await.unwrap();
        open.disconnect().await;
        host.wait_in_flight(0).await.unwrap();
    }

    assert_eq!(outcomes(&scene, 2).await, expected(0, 0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_replies_are_never_outcomes() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {"name": "plain", "match": {"path": ["/plain"]}, "breaker": {"state": "forced_open"}},
        {
            "name": "orders", "breaker": {"state": "forced_open"},
            "fallback": [{"on": ["open", "failure"], "respond": {"status": 500, "body": "instead"}}],
        },
    ]});
    let scene = Scene::start(&host, policy).await;

    assert_eq!(scene.client.burst(5, "/plain").await.count(503), 5);
    assert_eq!(scene.client.burst(5, "/").await.count(500), 5);
    scene.wait_for_access_log(10).await.unwrap();

    for policy in ["plain", "orders"] {
        let metrics = scene.metrics(policy, "cluster=orders").await;
        assert_eq!((metrics["requests"], metrics["rejected.open"]), (5, 5), "{policy}");
        assert_eq!((metrics["success"], metrics["failure"], metrics["ignored"]), (0, 0, 0), "{policy}");
    }
}

fn fault() -> Value {
    json!({
        "name": "envoy.filters.http.fault",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "abort": {"http_status": 503, "percentage": {"numerator": 100}},
            "headers": [{"name": "x-fault", "present_match": true}],
        },
    })
}

fn lua() -> Value {
    let code = "function envoy_on_request(handle)\n\
                  if handle:headers():get('x-lua') then handle:respond({[':status'] = '500'}, 'no') end\n\
                end";
    json!({
        "name": "lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": code},
        },
    })
}

fn marked(name: &'static str) -> http::Request<bytes::Bytes> {
    let mut request = Client::request("/");
    request.headers_mut().insert(name, "yes".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_of_filters_before_holdfast_are_not_seen() {
    let host = Backend::start().await.unwrap();
    let fallback = json!([{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}]);
    let policy = json!({"policies": [{"name": "orders", "fallback": fallback}]});
    let options = Scene::of(&host).filter(fault()).filter(lua()).policy(policy);
    let scene = Scene::with(options).await;

    assert_eq!(scene.client.send(marked("x-fault")).await.unwrap().status, 503);
    assert_eq!(scene.client.send(marked("x-lua")).await.unwrap().status, 500);
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);

    assert_eq!(outcomes(&scene, 1).await, expected(1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_of_filters_behind_holdfast_say_nothing_about_the_host() {
    let host = Backend::start().await.unwrap();
    let fallback = json!([{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}]);
    let policy = Policy::from(json!({"policies": [{"name": "orders", "fallback": fallback}]}));
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    let holdfast = holdfast_filter(&wasm_module().unwrap(), &policy);
    let options = Scene::of(&host).raw_hcm(json!({"http_filters": [holdfast, fault(), lua(), router]}));
    let scene = Scene::with(options).await;

    assert_eq!(scene.client.send(marked("x-fault")).await.unwrap().status, 503, "and it is not replaced");
    assert_eq!(outcomes(&scene, 1).await, expected(0, 0, 1));
    assert_eq!(scene.client.send(marked("x-lua")).await.unwrap().status, 500);
    assert_eq!(outcomes(&scene, 2).await, expected(0, 0, 2));
    host.always(Action::status(503));
    assert_eq!(scene.client.get("/").await.unwrap().text(), "instead");
    assert_eq!(outcomes(&scene, 3).await, expected(0, 1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_of_the_route_says_nothing_about_any_host() {
    let policy = json!({"policies": [{
        "name": "orders", "scope": [],
        "fallback": [{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}],
    }]});
    let redirect = json!({"match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/"}, "direct_response": null});
    let options = EnvoyOptions::new()
        .route(Route::direct("/down", 503, "closed for today"))
        .route(Route::direct("/moved", 301, "").raw(redirect))
        .policy(policy);
    let scene = Scene::with(options).await;

    assert_eq!(scene.client.get("/down").await.unwrap().text(), "closed for today");
    assert_eq!(scene.client.get("/moved").await.unwrap().status, 301);
    assert_eq!(scene.client.get("/nowhere").await.unwrap().status, 404);

    scene.wait_for_access_log(3).await.unwrap();
    let metrics = scene.metrics("orders", "all").await;
    assert_eq!((metrics["success"], metrics["failure"], metrics["ignored"]), (0, 0, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_own_ceiling_says_nothing_about_the_host() {
    let host = Backend::start().await.unwrap();
    let ceiling = json!({"circuit_breakers": {"thresholds": [{"max_requests": 1}]}});
    let policy = json!({"policies": [{
        "name": "orders", "breaker": {"state": "forced_closed"},
        "fallback": [{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}],
    }]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).raw(ceiling))
        .route(Route::to("/", "orders"))
        .policy(policy);
    let scene = Scene::with(options).await;
    host.hold();
    let first = scene.client.open(Client::request("/"));
    host.wait_in_flight(1).await.unwrap();

    for _ in 0..5 {
        let response = scene.client.get("/").await.unwrap();
        assert_eq!(response.status, 503);
        assert_eq!(response.header("x-envoy-overloaded").as_deref(), Some("true"), "this is Envoy's answer");
    }

    host.release_all();
    assert_eq!(first.finish().await.unwrap().status, 200);
    assert_eq!(outcomes(&scene, 6).await, expected(1, 0, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_attempts_only_the_last_counts() {
    let host = Backend::start().await.unwrap();
    let retry = json!({"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").retry_policy(retry))
        .policy(counting(json!({})));
    let scene = Scene::with(options).await;

    host.script(|request| if request.index % 3 < 2 { Action::status(503) } else { Action::ok() });
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);
    assert_eq!(host.requests(), 3);
    assert_eq!(outcomes(&scene, 1).await, expected(1, 0, 0));
    host.always(Action::status(503));
    assert_eq!(scene.client.get("/").await.unwrap().status, 503);
    assert_eq!(outcomes(&scene, 2).await, expected(1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_told_apart_where_envoy_adds_no_headers_of_its_own() {
    let host = Backend::start().await.unwrap();
    let silent = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        },
    });
    let holdfast = holdfast_filter(&wasm_module().unwrap(), &Policy::from(counting(json!({}))));
    let options = EnvoyOptions::new().cluster(Cluster::new("orders").endpoint(host.addr())).listener(
        Listener::new("ingress")
            .route(Route::to("/", "orders"))
            .raw_hcm(json!({"http_filters": [holdfast, fault(), silent]})),
    );
    let scene = Scene::with(options).await;

    let response = scene.client.get("/").await.unwrap();
    assert_eq!(response.header("x-envoy-upstream-service-time"), None);
    assert_eq!(outcomes(&scene, 1).await, expected(1, 0, 0));
    host.always(Action::status(500));
    scene.client.get("/").await.unwrap();
    assert_eq!(outcomes(&scene, 2).await, expected(1, 1, 0));
    scene.client.send(marked("x-fault")).await.unwrap();
    assert_eq!(outcomes(&scene, 3).await, expected(1, 1, 1));
    host.refuse().await.unwrap();
    scene.client.get("/").await.unwrap();
    assert_eq!(outcomes(&scene, 4).await, expected(1, 2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_is_counted_beside_success_and_failure() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "outcome": {"slow_after": "1s", "ignore": {"status": [404]}},
        "breaker": {"state": "forced_closed"},
    }]});
    let scene = Scene::start(&host, policy).await;

    for status in [200, 500, 404] {
        for delay in [0, 1100] {
            host.always(Action::status(status).after(Duration::from_millis(delay)));
            assert_eq!(scene.client.get("/").await.unwrap().status, status);
        }
    }

    assert_eq!(outcomes(&scene, 6).await, expected(2, 2, 2));
    assert_eq!(scene.metric("slow").await, 2, "an ignored answer is not slow either");
}
