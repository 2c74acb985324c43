//! What a client says of itself binds retries: how long it waits, and that it has tried before. Attempts are counted at the host.

use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, Route, Scene, Seats, with_header};
use http::Request;
use serde_json::{Value, json};

use crate::retrying::{ID, orders, request, seats_meet};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Waits of 300 and 600 ms: the second retry would leave 900 ms after the first attempt.
fn waiting() -> Value {
    orders(json!({
        "on": ["5xx", "unavailable"], "methods": ["GET", "POST"], "max_retries": 2,
        "backoff": {"base": "300ms", "max": "600ms", "jitter": "none"}, "budget": {"ratio": 100, "min_per_second": 100},
    }))
}

/// Clients at loopback addresses are trusted: Envoy leaves what they say to it. From 1.33 on it trusts none of itself.
fn trusting() -> Value {
    let ranges = json!([{"address_prefix": "127.0.0.0", "prefix_len": 8}]);
    json!({"use_remote_address": true, "internal_address_config": {"cidr_ranges": ranges}})
}

async fn start() -> (Backend, Scene) {
    let host = Backend::start().await.unwrap();
    let options = Scene::of(&host).seats(Seats::Both).policy(waiting());
    let scene = Scene::with(options.raw_hcm(trusting())).await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    (host, scene)
}

fn call(id: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let call = with_header(Client::grpc_request("/shop.Orders/Get"), ID, id);
    headers.iter().fold(call, |call, (name, value)| with_header(call, name, value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_gets_no_retry_that_would_come_after_its_deadline() {
    let (host, scene) = start().await;
    let client = Client::http2(scene.addr());
    host.always(Action::grpc_trailers_only(14));
    let counted = async |name: &str| scene.metric(name).await;

    for (timeout, tries) in [("800m", 2), ("0900000u", 2), ("200m", 1), ("2S", 3), ("800", 3), ("123456789n", 3)] {
        let denied = counted("retries_denied.deadline").await;
        let response = client.send(call(timeout, &[("grpc-timeout", timeout)])).await.unwrap();
        assert_eq!((response.grpc_status(), host.seen_with(ID, timeout).len()), (Some(14), tries), "{timeout}");
        assert_eq!(counted("retries_denied.deadline").await - denied, u64::from(tries < 3), "{timeout}");
    }
    // Before the wait would be over, or one of many on a machine that has much to do.
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        client.send(call("again", &[("grpc-timeout", "200m")])).await.unwrap();
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < ms(250), "it is answered at once: {fastest:?}");
    let plain = with_header(request("/", "plain"), "grpc-timeout", "200m");
    assert_eq!(scene.client.send(plain).await.unwrap().grpc_status(), Some(14));
    assert_eq!(host.seen_with(ID, "plain").len(), 3, "no gRPC client has sent it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_is_the_client_gets_no_retry_that_would_come_after_its_time_out() {
    let (host, scene) = start().await;
    let sidecar = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(scene.addr()))
        .route(Route::to("/", "orders").timeout(ms(800)));
    let sidecar = Scene::with(sidecar).await;
    host.always(Action::status(503).body("its own"));

    let response = sidecar.client.send(request("/", "one")).await.unwrap();

    assert_eq!(
        (response.status, response.text().as_str()),
        (503, "its own"),
        "not a 504: the last answer is there in time"
    );
    assert_eq!(host.seen_with(ID, "one").len(), 2);
    assert_eq!(
        scene.counted(&["retries", "retries_denied.deadline", "ignored"]).await,
        json!({
            "retries": 1, "retries_denied.deadline": 1, "ignored": 0,
        })
    );

    let expecting = |id: &str| with_header(request("/", id), "x-envoy-expected-rq-timeout-ms", "1");
    let outside = with_header(expecting("outside"), "x-forwarded-for", "192.0.2.7");
    assert_eq!(scene.client.send(outside).await.unwrap().status, 503);
    assert_eq!(host.seen_with(ID, "outside").len(), 3, "Envoy removes what an outside client says");
    assert_eq!(scene.client.send(expecting("inside")).await.unwrap().status, 503);
    assert_eq!(host.seen_with(ID, "inside").len(), 1);
}

/// gRPC A6, "Exposed Retry Metadata": `grpc-previous-rpc-attempts` is the number of attempts before this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_grpc_client_retries_itself_is_not_retried_again() {
    let (host, scene) = start().await;
    let client = Client::http2(scene.addr());
    host.always(Action::grpc_trailers_only(14));

    for (attempts, tries) in [("0", 3), ("1", 1), ("4", 1), ("many", 3)] {
        let response = client.send(call(attempts, &[("grpc-previous-rpc-attempts", attempts)])).await.unwrap();
        let seen = host.seen_with(ID, attempts);
        assert_eq!((response.grpc_status(), seen.len()), (Some(14), tries), "{attempts}");
        let told = seen.iter().all(|one| one.header("grpc-previous-rpc-attempts").as_deref() == Some(attempts));
        assert!(told, "{attempts}: the host gets what the client says");
    }
    assert_eq!(scene.metric("retries_denied.retry_of_retry").await, 2);
}
