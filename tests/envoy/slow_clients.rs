//! Clients that upload slowly. A host's time begins with the request's last byte, as Envoy's own times do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Response, Route, Scene, Seats, eventually, with_header,
};
use http::Request;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::outlying::{NOTICED, metric, ms, start, steered, told};

/// How long clients upload: what takes so long is slow.
const UPLOAD: Duration = ms(2000);

/// A host that takes so long is slow.
const LATE: Duration = ms(1200);

/// A policy for each of these clusters that opens for what is slow.
fn opens_for_slow(clusters: &[&str]) -> Value {
    let policies: Vec<Value> = clusters
        .iter()
        .map(|cluster| {
            json!({
                "name": cluster, "match": {"cluster": [cluster]}, "outcome": {"slow_after": "1s"}, "retry": {},
                "breaker": {"min_requests": 10, "failure_rate": 0, "slow_rate": 50, "open_jitter": 0},
            })
        })
        .collect();
    json!({"policies": policies})
}

/// An Envoy before a host that speaks HTTP/1.1 and one that speaks HTTP/2, under `/orders` and `/rpc`.
async fn before_both(seats: Seats, policy: Value) -> (Scene, [Backend; 2]) {
    let [orders, rpc] = start().await;
    let options = EnvoyOptions::new()
        .seats(seats)
        .cluster(Cluster::new("orders").endpoint(orders.addr()))
        .cluster(Cluster::new("rpc").endpoint(rpc.addr()).http2())
        .route(Scene::aside())
        .route(Route::to("/rpc", "rpc"))
        .route(Route::to("/", "orders"))
        .policy(policy);
    (Scene::with(options).await, [orders, rpc])
}

/// How the body of a request ends.
#[derive(Clone, Copy)]
enum End {
    /// With an empty piece after the last one.
    Body,
    /// With trailers.
    Trailers,
}

/// Uploads a request in three pieces over this time.
async fn upload(client: &Client, request: Request<Bytes>, over: Duration, end: End) -> Response {
    let mut open = client.open_unfinished(request);
    for _ in 0..2 {
        sleep(over / 2).await;
        open.send_more("more").await.unwrap();
    }
    if let End::Trailers = end {
        open.end_with_trailer("x-end", "1").await.unwrap();
    }
    open.finish().await.unwrap()
}

/// So many clients upload at once over this time, and all are answered well.
async fn upload_all(client: &Client, clients: usize, request: impl Fn() -> Request<Bytes>, over: Duration, end: End) {
    let uploads = (0..clients).map(|_| {
        let (client, request) = (client.clone(), request());
        tokio::spawn(async move { upload(&client, request, over, end).await.status })
    });
    for upload in uploads.collect::<Vec<_>>() {
        assert_eq!(upload.await.unwrap(), 200);
    }
}

async fn slow_and_successes(scene: &Scene, policy: &str) -> (u64, u64) {
    let metrics = scene.metrics(policy, &format!("cluster={policy}")).await;
    let get = |name: &str| metrics.get(name).copied().unwrap_or_default();
    (get("slow"), get("success"))
}

/// Over each protocol 20 clients upload for two seconds to a service that answers at once.
async fn slow_clients(seats: Seats) {
    let (scene, [orders, rpc]) = before_both(seats, opens_for_slow(&["orders", "rpc"])).await;
    rpc.script(|request| if request.path == "/rpc/Chat/Say" { Action::grpc(0) } else { Action::ok() });
    let (http1, http2) = (&scene.client, &Client::http2(scene.addr()));
    let post = |path: &'static str| move || Client::post_request(path, "some");
    let call = || Client::grpc_request("/rpc/Chat/Say");
    tokio::join!(
        upload_all(http1, 20, post("/chunked"), UPLOAD, End::Body),
        upload_all(http2, 20, post("/rpc/http2"), UPLOAD, End::Body),
        upload_all(http2, 20, post("/rpc/trailers"), UPLOAD, End::Trailers),
        upload_all(http2, 20, call, UPLOAD, End::Body),
    );
    assert_eq!(slow_and_successes(&scene, "orders").await, (0, 20));
    assert_eq!(slow_and_successes(&scene, "rpc").await, (0, 60));
    assert_eq!(scene.transitions("orders"), [""; 0]);
    assert_eq!(scene.transitions("rpc"), [""; 0]);

    // The same service, slow after the last byte.
    for host in [&orders, &rpc] {
        host.script(|request| match request.path.as_str() {
            "/rpc/Chat/Say" => Action::grpc(0).after(LATE),
            _ => Action::ok().after(LATE),
        });
    }
    tokio::join!(
        upload_all(http1, 10, post("/chunked"), ms(300), End::Body),
        upload_all(http2, 5, post("/rpc/trailers"), ms(300), End::Trailers),
        upload_all(http2, 5, call, ms(300), End::Body),
    );
    assert_eq!(slow_and_successes(&scene, "orders").await, (10, 30));
    assert_eq!(slow_and_successes(&scene, "rpc").await, (10, 70));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn make_no_service_slow() {
    slow_clients(Seats::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn make_no_service_slow_where_an_attempt_seat_is() {
    slow_clients(Seats::Both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_slow_after_the_last_byte_is_found() {
    let (scene, [orders, _]) = before_both(Seats::Both, opens_for_slow(&["orders"])).await;
    orders.always(Action::ok().after(LATE));
    upload_all(&scene.client, 10, || Client::post_request("/chunked", "some"), ms(300), End::Body).await;
    let opened = "orders/cluster=orders: closed -> open: slow rate 100% of 10 >= 50%; next probe in 30s";
    eventually(PATIENCE, || async { scene.transitions("orders") == [opened] }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_body_comes_makes_no_difference() {
    let policy = json!({"policies": [{
        "name": "orders", "outcome": {"slow_after": "1s"}, "breaker": {"state": "forced_closed"},
    }]});
    let (scene, [orders, _]) = before_both(Seats::Request, policy).await;
    let sized = || with_header(Client::post_request("/sized", "some"), "content-length", "12");
    upload(&scene.client, sized(), LATE, End::Body).await;
    let expecting = || with_header(Client::post_request("/expecting", ""), "expect", "100-continue");
    let mut open = scene.client.open_unfinished(expecting());
    open.wait_continue().await.unwrap();
    sleep(LATE).await;
    open.send_more("all of it").await.unwrap();
    assert_eq!(open.finish().await.unwrap().status, 200);
    assert_eq!(scene.counted(&["slow", "success"]).await, json!({"slow": 0, "success": 2}));

    // An answer that does not wait for the last byte took no time, wherever the client is.
    orders.script_at_headers(|request| (request.path == "/early").then(|| Action::status(413).after(LATE)));
    let mut open = scene.client.open_unfinished(Client::post_request("/early", "some"));
    eventually(PATIENCE, || async { open.is_finished() }).await.unwrap();
    let _ = open.send_more("of no use").await;
    assert_eq!(open.finish().await.unwrap().status, 413);
    assert_eq!(scene.counted(&["slow", "success"]).await, json!({"slow": 0, "success": 3}));

    // Without a body the time begins with the headers.
    orders.always(Action::ok().after(LATE));
    let none = || with_header(Client::post_request("/none", ""), "content-length", "0");
    assert_eq!(scene.client.send(none()).await.unwrap().status, 200);
    assert_eq!(scene.client.get("/get").await.unwrap().status, 200);
    assert_eq!(scene.client.send(Client::post_request("/whole", "at once")).await.unwrap().status, 200);
    assert_eq!(scene.counted(&["slow", "success"]).await, json!({"slow": 3, "success": 6}));
}

/// Tells which host a request has come to while its client is still uploading.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<HashMap<String, usize>>>);

impl Arrivals {
    fn of(hosts: &[Backend]) -> Self {
        let arrivals = Arrivals::default();
        for (number, host) in hosts.iter().enumerate() {
            let arrivals = arrivals.clone();
            host.script_at_headers(move |request| {
                let id = request.header("x-id").unwrap_or_default();
                arrivals.0.lock().unwrap().insert(id, number);
                None
            });
        }
        arrivals
    }

    async fn host_of(&self, id: &str) -> usize {
        let find = || self.0.lock().unwrap().get(id).copied();
        eventually(PATIENCE, || async { find().is_some() }).await.unwrap();
        find().unwrap()
    }
}

/// Clients upload to all hosts for some time, over this time to the first one, and at once to the others.
async fn uploads_to_first(scene: &Scene, arrivals: &Arrivals, over: Duration, lasts: Duration) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + lasts;
    let clients = (0..12).map(|_| {
        let (client, arrivals) = (Client::http2(scene.addr()), arrivals.clone());
        tokio::spawn(async move {
            while Instant::now() < until {
                let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
                let open = client.open_unfinished(with_header(Client::post_request("/", "some"), "x-id", &id));
                if arrivals.host_of(&id).await == 0 {
                    sleep(over).await;
                }
                assert_eq!(open.finish().await.unwrap().status, 200);
                sleep(ms(10)).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

/// Two whole intervals of a second, whatever part of one has passed, and their sweep.
const TWO_INTERVALS: Duration = ms(3200);

async fn slow_clients_of_one_host(seats: Seats) {
    let hosts: [Backend; 3] = start().await;
    let outlier = json!({"consecutive_failures": 0, "interval": "1s", "latency": {"min_requests": 5}});
    let options = EnvoyOptions::new()
        .concurrency(1)
        .seats(seats)
        .cluster(steered("orders", &hosts))
        .route(Scene::aside())
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": [{"name": "orders", "outlier": outlier}]}));
    let scene = Scene::with(options).await;
    for _ in 0..2 {
        for _ in 0..9 {
            assert_eq!(scene.client.get("/").await.unwrap().status, 200);
        }
        sleep(NOTICED).await;
    }
    let arrivals = Arrivals::of(&hosts);
    uploads_to_first(&scene, &arrivals, ms(250), TWO_INTERVALS).await;
    assert_eq!(metric(&scene, "orders", "ejections_detected.latency").await, 0, "{:?}", told(&scene, "orders"));
    assert!(hosts.iter().all(|host| host.requests() >= 30), "all of them served");

    // The same host, slow after the last byte.
    hosts[0].always(Action::ok().after(ms(250)));
    uploads_to_first(&scene, &arrivals, ms(0), TWO_INTERVALS).await;
    assert_eq!(metric(&scene, "orders", "ejections.latency").await, 1);
    let ejected = told(&scene, "orders");
    assert!(ejected[0].starts_with(&hosts[0].addr().to_string()), "{ejected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eject_no_host() {
    slow_clients_of_one_host(Seats::Both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eject_no_host_where_no_attempt_seat_is() {
    slow_clients_of_one_host(Seats::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_take_the_time_from_the_last_byte() {
    let retry = json!({
        "methods": ["POST"], "per_try_timeout": "300ms", "on": ["5xx", "reset"],
        "backoff": {"base": "100ms", "max": "100ms", "jitter": "none"},
    });
    let policy = json!({"policies": [{"name": "orders", "match": {"cluster": ["orders"]}, "retry": retry}]});
    let (scene, [orders, _]) = before_both(Seats::Both, policy).await;
    for _ in 0..2 {
        assert_eq!(scene.client.get("/").await.unwrap().status, 200);
        sleep(NOTICED).await;
    }
    let attempts_of = async |path: &str| {
        let line = eventually(PATIENCE, || async {
            let line = scene.access_log().into_iter().find(|entry| entry.path == path);
            line.and_then(|entry| entry.holdfast).ok_or_else(|| format!("{path} is not in the access log"))
        });
        let line = line.await.unwrap();
        let attempts = line.split_once("attempts=").unwrap_or_else(|| panic!("{line}")).1.to_owned();
        attempts.replace(&format!("{} ", orders.addr()), "")
    };
    let took = |attempt: &str| -> u64 {
        let millis = attempt.rsplit_once(' ').unwrap().1.strip_suffix("ms").unwrap();
        millis.parse().unwrap()
    };

    // The body of a retry comes in one piece, when its wait is over.
    orders.script(Action::in_turn("x-id", [Action::status(503), Action::ok()]));
    upload(&scene.client, Client::post_request("/retried", "some"), UPLOAD, End::Body).await;
    let attempts = attempts_of("/retried").await;
    let [first, second] = attempts.split(", ").collect::<Vec<_>>().try_into().unwrap();
    assert!(first.starts_with("failure:503 ") && second.starts_with("success:200 "), "{attempts}");
    assert!(took(first) < 1500 && took(second) < 1500, "none of the client's time: {attempts}");

    // An attempt's own time does not run before its last byte: a reset meanwhile is none of a time-out.
    let resets = AtomicU64::new(0);
    orders.script_at_headers(move |request| {
        let is_first = request.path == "/reset" && resets.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then(|| Action::reset().after(ms(900)))
    });
    orders.always(Action::ok());
    upload(&scene.client, Client::post_request("/reset", "some"), UPLOAD, End::Body).await;
    let attempts = attempts_of("/reset").await;
    assert!(attempts.starts_with("failure:reset 0ms, success:200 "), "{attempts}");

    // It does run from there on.
    orders.script(|request| if request.path == "/hung" { Action::hang() } else { Action::ok() });
    let hung = upload(&scene.client, Client::post_request("/hung", "some"), UPLOAD, End::Body).await;
    assert_eq!(hung.status, 504);
    let attempts = attempts_of("/hung").await;
    for attempt in attempts.split(", ") {
        assert!(attempt.starts_with("failure:timeout ") && took(attempt) < 1500, "{attempts}");
    }
}
