//! A fallback that repeats the request in another cluster while the failed answer is held back: who is asked what, what the client gets, and
//! what serves where nothing comes of it.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Records, Response, Route, Scene, Seats, body_of,
    drive_all, eventually, with_header,
};
use http::Method;
use serde_json::{Value, json};

use crate::detours::{metric, origin};

const SAYS: &str = "call; reason=failure; policy=orders; cluster=standby";

fn call_of(keys: &Value) -> Value {
    let mut call = json!({"cluster": "standby", "timeout": "5s"});
    call.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    call
}

fn orders(entries: Value) -> Value {
    json!({"policies": [
        {"name": "orders", "match": {"cluster": ["orders"]}, "breaker": {"min_requests": 10_000}, "fallback": entries},
        {"name": "standby", "match": {"cluster": ["standby"]}, "breaker": {}, "retry": {}, "outlier": {}},
    ]})
}

/// A policy that calls the standby, and has nothing else.
fn calling(keys: Value) -> Value {
    orders(json!([{"on": ["failure", "timeout", "no_host"], "call": call_of(&keys)}]))
}

async fn scene_of(
    orders: &Cluster,
    standby: &Backend,
    seats: Seats,
    route: Route,
    document: Value,
) -> (Scene, Vec<Client>) {
    let options = EnvoyOptions::new()
        .concurrency(2)
        .seats(seats)
        .cluster(orders.clone())
        .cluster(Cluster::new("standby").endpoint(standby.addr()).steered())
        .route(Scene::aside())
        .route(route)
        .policy(document);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    (scene, clients)
}

async fn scene(orders: &Backend, standby: &Backend, document: Value) -> (Scene, Vec<Client>) {
    let cluster = Cluster::new("orders").endpoint(orders.addr());
    scene_of(&cluster, standby, Seats::Both, Route::to("/", "orders"), document).await
}

async fn both() -> (Backend, Backend) {
    (Backend::start().await.unwrap(), Backend::start().await.unwrap())
}

fn with_method(method: Method, path: &str) -> http::Request<Bytes> {
    let mut request = Client::request(path);
    *request.method_mut() = method;
    request
}

fn keyed(path: &str, body: impl Into<Bytes>) -> http::Request<Bytes> {
    with_header(Client::post_request(path, body), "idempotency-key", "k")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_is_answered_by_another_cluster() {
    for seats in [Seats::Both, Seats::Request] {
        let (primary, second) = both().await;
        second.script(|seen| {
            Action::ok()
                .header("x-by", "standby")
                .header("set-cookie", "a=1")
                .header("set-cookie", "b=2")
                .header("keep-alive", "timeout=5")
                .header("x-holdfast-fallback", "forged")
                .body(seen.body.clone())
        });
        let cluster = Cluster::new("orders").endpoint(primary.addr());
        let route = Route::to("/api/", "orders").raw(json!({"route": {"prefix_rewrite": "/"}}));
        let (scene, clients) = scene_of(&cluster, &second, seats, route, calling(json!({}))).await;
        primary.always(Action::status(503).header("etag", "\"old\"").header("x-kept", "1").body("down"));

        let records = drive_all(&clients, 2, 40, "/api/items?a=b").await;
        assert_eq!(records.count(200), 40, "{:?}", records.statuses());
        for response in records.responses() {
            assert_eq!(origin(response).as_deref(), Some(SAYS));
            assert_eq!(response.header("x-by").as_deref(), Some("standby"));
            assert_eq!((response.header("etag"), response.text()), (None, String::new()));
            let cookies: Vec<_> = response.headers.get_all("set-cookie").iter().map(|value| value.as_bytes()).collect();
            assert_eq!(cookies, [b"a=1", b"b=2"], "no line of a header takes another's place");
        }
        assert_eq!((primary.requests_to("/items?a=b"), second.requests_to("/api/items?a=b")), (40, 40), "as it came");
        assert!(primary.connections() <= 8, "the answers are replaced in place: {}", primary.connections());
        let seen = second.last_seen().unwrap();
        for name in [
            "x-envoy-retry-on",
            "x-envoy-max-retries",
            "connection",
            "x-holdfast-hosts",
            "x-envoy-upstream-rq-timeout-ms",
        ] {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert_eq!(seen.header("x-request-id"), primary.last_seen().unwrap().header("x-request-id"));
        let of = async |name: &'static str| metric(&scene, "orders", name).await;
        assert_eq!((of("failure").await, of("fallback.call").await, of("fallback_failed.call").await), (40, 40, 0));
        let line = scene.wait_for_access_log_of("/items?a=b", 40).await.unwrap().remove(0).holdfast.unwrap_or_default();
        let begin = "policy=orders; key=cluster=orders; decision=fallback; reason=failure; kind=call; cluster=standby";
        assert!(line.starts_with(begin), "{line}");

        let head = clients[0].send(with_method(Method::HEAD, "/api/head")).await.unwrap();
        assert_eq!((head.status, origin(&head).as_deref(), head.body.len()), (200, Some(SAYS), 0));
        let body = body_of(60_000);
        let put = clients[0].send(keyed("/api/write", body.clone())).await.unwrap();
        assert_eq!((put.status, &put.body, origin(&put).as_deref()), (200, &body, Some(SAYS)));

        let at_standby = second.requests();
        for (request, path, why) in [
            (Client::post_request("/api/not", "x"), "/not", "method"),
            (keyed("/api/long", body_of(70_000)), "/long", "body"),
            (with_header(Client::request("/api/grpc"), "content-type", "application/grpc"), "/grpc", "kind"),
        ] {
            let response = clients[0].send(request).await.unwrap();
            assert_eq!(origin(&response), None, "{why}");
            let entry = scene.wait_for_access_log_of(path, 1).await.unwrap().remove(0);
            let line = entry.holdfast.unwrap_or_default();
            assert!(line.contains(&format!("failed=call:{why}")), "{line}");
        }
        assert_eq!(second.requests(), at_standby, "none of them is sent again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_called_where_no_answer_comes_in_time_or_at_all() {
    let (primary, second) = both().await;
    second.always(Action::ok().body("good"));
    let route = Route::to("/", "orders").raw(json!({"route": {"timeout": "0.3s"}}));
    let cluster = Cluster::new("orders").endpoint(primary.addr());
    let (_scene, clients) = scene_of(&cluster, &second, Seats::Both, route, calling(json!({}))).await;
    for (action, reason) in
        [(Action::hang(), "timeout"), (Action::reset(), "failure"), (Action::reset_stream(), "failure")]
    {
        primary.always(action);
        let response = clients[0].get("/").await.unwrap();
        let says = format!("call; reason={reason}; policy=orders; cluster=standby");
        assert_eq!((response.status, response.text().as_str(), origin(&response)), (200, "good", Some(says)));
    }
    let nobody = Cluster::new("orders");
    let (_scene, clients) = scene_of(&nobody, &second, Seats::Both, Route::to("/", "orders"), calling(json!({}))).await;
    let response = clients[0].send(with_method(Method::POST, "/")).await.unwrap();
    let says = "call; reason=no_host; policy=orders; cluster=standby";
    assert_eq!((response.status, origin(&response).as_deref()), (200, Some(says)), "no host has seen it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_to_nothing_gives_way_to_the_next_or_to_the_services_own_answer() {
    let (primary, second) = both().await;
    let entries = json!([
        {"on": ["failure"], "call": {"cluster": "nobody"}},
        {"on": ["failure"], "call": call_of(&json!({"timeout": "300ms", "max_concurrent": 1}))},
    ]);
    let (scene, clients) = scene(&primary, &second, orders(entries)).await;
    primary.always(Action::status(503).header("x-own", "1").body("down"));
    let own = |response: &Response| (response.status, response.text(), response.header("x-own"), origin(response));
    let the_services = (503, "down".to_owned(), Some("1".to_owned()), None);
    for (action, why) in [
        (Action::status(500).body("bad"), "failed"),
        (Action::hang(), "failed"),
        (Action::reset(), "failed"),
        (Action::ok().body("abc").then_hang(), "failed"),
        (Action::ok().header("content-length", "100").body("abc").then_hang(), "failed"),
    ] {
        second.always(action);
        let response = clients[0].get("/x").await.unwrap();
        assert_eq!(own(&response), the_services, "{why}");
    }
    second.always(Action::ok().body(body_of(33 * 1024 * 1024)));
    assert_eq!(own(&clients[0].get("/large").await.unwrap()), the_services, "more than 32 MiB");
    second.always(Action::ok().body(body_of(5 * 1024 * 1024)));
    let response = clients[0].get("/x").await.unwrap();
    assert_eq!((response.status, response.body.len()), (200, 5 * 1024 * 1024));
    let lines = scene.wait_for_access_log_of("/x", 6).await.unwrap();
    assert!(
        lines.iter().all(|entry| entry.holdfast.as_deref().is_some_and(|line| line.contains("call:no_cluster"))),
        "{lines:?}"
    );

    second.always(Action::ok().after(Duration::from_millis(200)).body("good"));
    let before = second.requests();
    let records = drive_all(&clients, 16, 64, "/many").await;
    let served = records.responses().filter(|response| origin(response).is_some()).count();
    assert_eq!(records.count(200), served);
    assert!(second.max_in_flight() <= 2, "one in each worker: {}", second.max_in_flight());
    assert!((1..64).contains(&served), "{served}");
    assert_eq!(second.requests() - before, served as u64);
    assert_eq!(metric(&scene, "orders", "failure").await, 7 + 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_it_waits_leaves_nothing_behind() {
    let (primary, second) = both().await;
    let (scene, clients) = scene(&primary, &second, calling(json!({"max_concurrent": 4, "timeout": "3s"}))).await;
    primary.always(Action::status(503).body("down"));
    second.always(Action::hang());
    for round in 0..3 {
        let open: Vec<_> = (0..4).map(|_| clients[0].open(Client::request("/left"))).collect();
        eventually(PATIENCE, || async { second.in_flight() == 4 }).await.unwrap_or_else(|_| panic!("round {round}"));
        for one in open {
            one.disconnect().await;
        }
        eventually(PATIENCE, || async { second.open_streams() == 0 && second.in_flight() == 0 }).await.unwrap();
    }
    second.always(Action::ok().body("good"));
    for client in &clients {
        assert_eq!(client.get("/").await.unwrap().text(), "good", "none of them counts any more");
    }
    assert_eq!(scene.stat("cluster.orders.upstream_rq_active").await.unwrap(), 0);
    assert_eq!(scene.stat("cluster.standby.upstream_rq_active").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shadow_it_is_only_counted() {
    let (primary, second) = both().await;
    let mut document = calling(json!({}));
    document["policies"][0]["mode"] = json!("shadow");
    let (scene, clients) = scene(&primary, &second, document).await;
    primary.always(Action::status(503).body("down"));
    let records: Records = drive_all(&clients, 2, 20, "/").await;
    assert_eq!((records.count(503), second.requests()), (20, 0));
    assert_eq!(metric(&scene, "orders", "would_fallback.call").await, 20);
}
