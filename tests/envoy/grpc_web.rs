//! gRPC-web in a real Envoy where the host itself speaks it: a status in the response's headers decides, one in its body is
//! not read.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, Template, attempts, drive_all,
    eventually, with_header,
};
use http::Request;
use serde_json::{Value, json};

use crate::outlying::{are_out, counts, is_fair, listed, orders, scene_of, start};
use crate::retrying::{ID, seats_meet};

/// The content types of the protocol.
const TYPES: [&str; 4] = ["grpc-web", "grpc-web+proto", "grpc-web-text", "grpc-web-text+proto"];

const METHOD: &str = "/orders.Orders/List";

/// A message of no bytes, and after it the trailers `grpc-status: 14` as gRPC-web sends them: as one more frame.
const UNAVAILABLE_IN_BODY: &[u8] = b"\0\0\0\0\0\x80\0\0\0\x10grpc-status: 14\r\n";

fn call(kind: &str) -> Request<Bytes> {
    let call = Client::post_request(METHOD, Bytes::from_static(&[0; 5]));
    with_header(call, "content-type", format!("application/{kind}"))
}

/// Answers with this status in the headers, and without a body.
fn in_headers(kind: &str, status: u32) -> Action {
    answer(kind).header("grpc-status", status.to_string())
}

fn answer(kind: &str) -> Action {
    Action::status(200).header("content-type", format!("application/{kind}"))
}

/// What a policy that only counts has counted, once all these requests have an outcome.
async fn counted(scene: &Scene, requests: u64) -> (u64, u64) {
    eventually(PATIENCE, || async {
        let metrics = scene.metrics("orders", "cluster=orders").await;
        let get = |name: &str| metrics.get(name).copied().unwrap_or_default();
        let known = (get("success"), get("failure"));
        if known.0 + known.1 == requests { Ok(known) } else { Err(format!("{known:?} of {requests}: {metrics:?}")) }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_in_the_headers_decides_and_one_in_the_body_is_not_read() {
    for seats in [Seats::Request, Seats::Both] {
        let host = Backend::start().await.unwrap();
        let policy = json!({"policies": [{
            "name": "orders", "outcome": {"failure": {"grpc_status": ["UNAVAILABLE"]}},
            "breaker": {"state": "forced_closed"},
        }]});
        let scene = Scene::with(Scene::of(&host).seats(seats).policy(policy)).await;
        let (mut success, mut failure) = (0, 0);

        for kind in TYPES {
            host.always(in_headers(kind, 14));
            for _ in 0..30 {
                let response = scene.client.send(call(kind)).await.unwrap();
                assert_eq!((response.status, response.grpc_status()), (200, Some(14)), "{kind}: it is passed on");
            }
            failure += 30;
            assert_eq!(counted(&scene, success + failure).await, (success, failure), "{kind}, {seats:?}");

            let with_a_body = in_headers(kind, 14).body(Bytes::from_static(&[0; 5]));
            let by_http = Action::status(503).header("content-type", format!("application/{kind}"));
            for (action, fails) in [
                (in_headers(kind, 0), false),
                (in_headers(kind, 5), false),
                (with_a_body, true),
                (answer(kind).body(UNAVAILABLE_IN_BODY), false),
                (by_http.header("grpc-status", "0"), true),
            ] {
                host.always(action.clone());
                scene.client.send(call(kind)).await.unwrap();
                success += u64::from(!fails);
                failure += u64::from(fails);
                let counts = counted(&scene, success + failure).await;
                assert_eq!(counts, (success, failure), "{kind}, {seats:?}, after {action:?}");
            }
        }

        host.always(Action::status(200).header("content-type", "text/plain").header("grpc-status", "14"));
        scene.client.send(call("grpc-web")).await.unwrap();
        assert_eq!(counted(&scene, success + failure + 1).await, (success + 1, failure), "that is no gRPC-web");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_open_the_breaker() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({"window": "60s", "min_requests": 4, "open_for": "1h"});
    let scene = Scene::start(&host, json!({"policies": [{"name": "orders", "breaker": breaker}]})).await;
    host.always(in_headers("grpc-web-text", 14));

    for _ in 0..4 {
        scene.client.send(call("grpc-web-text")).await.unwrap();
    }

    scene.becomes("breaker_state", 2).await;
    let rejected = scene.client.send(call("grpc-web-text")).await.unwrap();
    assert!(rejected.header("x-holdfast-reject").is_some(), "{rejected:?}");
    assert_eq!(host.requests(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_fails_by_it_is_ejected() {
    let hosts: [Backend; 4] = start().await;
    let (scene, clients) = scene_of(&hosts, 2, orders(listed(json!({})))).await;
    hosts[0].always(in_headers("grpc-web+proto", 14));
    hosts[1..].iter().for_each(|host| host.always(in_headers("grpc-web+proto", 0)));

    drive_all(&clients, 4, 100, call("grpc-web+proto")).await;

    are_out(&scene, "orders", &[&hosts[0]]).await;
    hosts.iter().for_each(Backend::reset_counters);
    let records = drive_all(&clients, 4, 120, call("grpc-web+proto")).await;
    assert!(records.responses().all(|response| response.grpc_status() == Some(0)), "the others serve");
    assert_eq!(hosts[0].requests(), 0);
    assert!(is_fair(&counts(&hosts)[1..]), "{:?}", counts(&hosts));
}

/// Both seats before a host, with a policy that retries a POST after these ends.
async fn retrying(host: &Backend, seats: Seats, on: Value) -> Scene {
    let retry = json!({
        "on": on, "methods": ["POST", "GET"], "max_retries": 2, "backoff": {"base": "1ms", "jitter": "none"},
    });
    let scene = Scene::with(Scene::of(host).seats(seats).policy(json!({"policies": [
        {"name": "orders", "retry": retry},
    ]})))
    .await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    host.reset_counters();
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_retried_by_the_status_in_its_headers() {
    for seats in [Seats::Request, Seats::Both] {
        let host = Backend::start().await.unwrap();
        let scene = retrying(&host, seats, json!(["unavailable"])).await;
        for (number, kind) in TYPES.iter().enumerate() {
            let id = |case: &str| format!("{number}-{case}");
            let send = async |case: &str, first: Action| {
                host.script(Action::in_turn(ID, [first, in_headers(kind, 0)]));
                let response = scene.client.send(with_header(call(kind), ID, id(case))).await.unwrap();
                (response.grpc_status(), host.seen_with(ID, &id(case)).len())
            };
            assert_eq!(send("named", in_headers(kind, 14)).await, (Some(0), 2), "{kind}, {seats:?}");
            assert_eq!(send("other", in_headers(kind, 13)).await, (Some(13), 1), "INTERNAL is not named: {kind}");
            assert_eq!(send("in-body", answer(kind).body(UNAVAILABLE_IN_BODY)).await, (None, 1), "{kind}, {seats:?}");
        }
        if seats == Seats::Both {
            let log = scene.wait_for_access_log(2 + 3 * TYPES.len()).await.unwrap();
            let ends = |entry| attempts(entry).into_iter().map(|one| one.outcome).collect::<Vec<_>>();
            assert_eq!(ends(&log[2]), ["failure:grpc-14", "success:grpc-0"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_word_for_it_no_status_is_retried() {
    let host = Backend::start().await.unwrap();
    let scene = retrying(&host, Seats::Both, json!(["5xx", "reset"])).await;
    host.always(in_headers("grpc-web", 14));

    let response = scene.client.send(call("grpc-web")).await.unwrap();

    assert_eq!((response.grpc_status(), host.requests()), (Some(14), 1), "Envoy's 5xx are HTTP statuses");
}

/// Makes gRPC of gRPC-web, and gRPC-web of its answers.
fn translator() -> Value {
    json!({
        "name": "envoy.filters.http.grpc_web",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_translator_it_is_grpc_and_its_trailers_count() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders").timeout(Duration::from_secs(60)))
        .filter(translator())
        .policy(json!({"policies": [{"name": "orders", "breaker": {"state": "forced_closed"}}]}));
    let scene = Scene::with(options).await;

    for (actions, so_far) in [
        ([Action::grpc(14), Action::grpc_trailers_only(14)], (0, 20)),
        ([Action::grpc(0), Action::grpc_trailers_only(5)], (20, 20)),
    ] {
        for action in actions {
            host.always(action);
            let records = scene.client.burst(10, Template::new(|_| call("grpc-web+proto"))).await;
            assert_eq!(records.count(200), 10);
            let kind = records.responses().next().unwrap().header("content-type");
            assert_eq!(kind.as_deref(), Some("application/grpc-web+proto"));
        }
        assert_eq!(counted(&scene, so_far.0 + so_far.1).await, so_far);
    }
    assert_eq!(host.last_seen().unwrap().header("content-type").as_deref(), Some("application/grpc"));
}
