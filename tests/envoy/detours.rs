//! A fallback that has another cluster serve, before the first try: who gets the request, who is asked next where nobody is there, and what
//! the route has to say for it.

use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Response, Route, Scene, Seats, Template, Traffic,
    drive_all, eventually,
};
use http::Method;
use serde_json::{Value, json};

use crate::web_socket;

/// A route to `cluster` that lets a fallback of Holdfast's choose one of `others` in its place.
pub(crate) fn choosing(prefix: &str, cluster: &str, others: &[&str]) -> Route {
    let action = |cluster: &str| {
        let action = "type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction";
        json!({"action": {"name": cluster, "typed_config": {"@type": action, "cluster": cluster}}})
    };
    let map: serde_json::Map<String, Value> = others.iter().map(|other| ((*other).to_owned(), action(other))).collect();
    let input = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.FilterStateInput";
    let specifier = "type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier";
    let matcher = json!({
        "matcher_tree": {
            "input": {"name": "holdfast", "typed_config": {"@type": input, "key": "wasm.holdfast_route"}},
            "exact_match_map": {"map": map},
        },
        "on_no_match": action(cluster),
    });
    let plugin = json!({"extension": {
        "name": "envoy.router.cluster_specifier_plugin.matcher",
        "typed_config": {"@type": specifier, "cluster_matcher": matcher},
    }});
    Route::to(prefix, cluster).raw(json!({"route": {"cluster": null, "inline_cluster_specifier_plugin": plugin}}))
}

/// A breaker that opens after ten failures and is open for as long as this.
pub(crate) fn breaker(open_for: &str) -> Value {
    json!({"window": "10s", "min_requests": 10, "open_for": open_for, "open_jitter": 0, "half_open": {"probes": 3}})
}

fn standby_then_nobody(cluster: &str) -> Value {
    json!([
        {"on": ["open"], "route": {"cluster": cluster}},
        {"on": ["open"], "respond": {"status": 503, "headers": {"x-path": "${path}"}, "body": "nobody: ${reason}"}},
    ])
}

/// A policy whose breaker lets nothing through, so that its fallbacks serve.
fn forced_open(name: &str, fallback: Value) -> Value {
    json!({"name": name, "match": {"cluster": [name]}, "breaker": {"state": "forced_open"}, "fallback": fallback})
}

/// A document that has the standby serve each request of `orders`.
fn always_to_standby() -> Value {
    let fallback = json!([{"on": ["open"], "route": {"cluster": "standby"}}]);
    json!({"policies": [forced_open("orders", fallback)]})
}

pub(crate) fn origin(response: &Response) -> Option<String> {
    response.header("x-holdfast-fallback")
}

fn post(path: &str, body: Bytes) -> http::Request<Bytes> {
    let mut request = Client::request(path).map(|_| body);
    *request.method_mut() = Method::POST;
    request
}

pub(crate) async fn metric(scene: &Scene, policy: &str, name: &str) -> u64 {
    scene.metric_of(policy, &format!("cluster={policy}"), name).await
}

const TO_STANDBY: &str = "route; reason=open; policy=orders; cluster=standby";

/// Sends until the breaker is open, as its state says.
async fn open(scene: &Scene, clients: &[Client], path: &str) {
    eventually(PATIENCE, || async {
        drive_all(clients, 2, 10, path).await;
        match scene.transitions("orders").last() {
            Some(line) if line.contains("-> open") => Ok(()),
            last => Err(format!("{last:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_serves_while_the_breaker_is_open_and_no_longer() {
    let (primary, standby) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    standby.script(|seen| Action::ok().header("x-by", "standby").body(seen.body.clone()));
    let document = json!({"policies": [
        {"name": "orders", "match": {"cluster": ["orders"]}, "breaker": breaker("3s"),
         "fallback": standby_then_nobody("standby")},
        {"name": "standby", "match": {"cluster": ["standby"]}, "breaker": {}, "retry": {}, "outlier": {}},
    ]});
    let options = EnvoyOptions::new()
        .concurrency(2)
        .seats(Seats::Both)
        .cluster(Cluster::new("orders").endpoint(primary.addr()))
        .cluster(Cluster::new("standby").endpoint(standby.addr()).steered())
        .route(Scene::aside())
        .route(choosing("/", "orders", &["standby"]))
        .policy(document);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    let before = drive_all(&clients, 2, 20, "/well").await;
    assert_eq!((before.count(200), standby.requests()), (20, 0));

    primary.always(Action::status(503));
    open(&scene, &clients, "/down").await;
    let at_primary = primary.requests();
    let body = Bytes::from(vec![b'x'; 100_000]);
    for client in &clients {
        let response = client.send(post("/down", body.clone())).await.unwrap();
        assert_eq!((response.status, &response.body), (200, &body), "a body goes to the standby");
        assert_eq!(origin(&response).as_deref(), Some(TO_STANDBY));
        assert_eq!(response.header("x-by").as_deref(), Some("standby"));
        assert_eq!(response.header("cache-control"), None, "it is the standby's own answer");
    }
    let while_open = drive_all(&clients, 2, 30, "/down").await;
    assert_eq!(while_open.count(200), 30, "{:?}", while_open.statuses());
    assert!(primary.requests() <= at_primary + 3, "none but probes come to the primary");
    assert_eq!(metric(&scene, "standby", "requests").await, standby.requests(), "its own policy governs it there");
    assert_eq!(metric(&scene, "orders", "fallback.route").await, standby.requests());

    primary.always(Action::ok());
    eventually(PATIENCE, || async {
        drive_all(&clients, 1, 4, "/back").await;
        match scene.transitions("orders").last() {
            Some(line) if line.contains("-> closed") => Ok(()),
            last => Err(format!("{last:?}")),
        }
    })
    .await
    .unwrap();
    let at_standby = standby.requests();
    let after = drive_all(&clients, 2, 30, "/well").await;
    assert_eq!((after.count(200), standby.requests()), (30, at_standby));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_cannot_serve_gives_way_to_the_next() {
    let (primary, spare) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    primary.always(Action::status(503));
    let document = json!({"policies": [
        forced_open("missing", standby_then_nobody("nowhere")),
        forced_open("empty", standby_then_nobody("hostless")),
        forced_open("closed", standby_then_nobody("rejecting")),
        forced_open("rejecting", json!([])),
        forced_open("round", standby_then_nobody("about")),
        forced_open("about", json!([{"on": ["open"], "route": {"cluster": "round"}}])),
        forced_open("listed", json!([
            {"on": ["open"], "route": {"cluster": "nowhere"}}, {"on": ["open"], "route": {"cluster": "rejecting"}},
        ])),
        forced_open("second", json!([
            {"on": ["open"], "route": {"cluster": "rejecting"}}, {"on": ["open"], "route": {"cluster": "spare"}},
        ])),
    ]});
    let others = ["nowhere", "hostless", "rejecting", "about", "round", "spare"];
    let mut options = EnvoyOptions::new().cluster(Cluster::new("hostless")).policy(document);
    for name in ["missing", "empty", "closed", "rejecting", "round", "about", "listed", "second"] {
        options = options.cluster(Cluster::new(name).endpoint(primary.addr()));
        options = options.route(choosing(&format!("/{name}"), name, &others));
    }
    let scene = Scene::with(options.cluster(Cluster::new("spare").endpoint(spare.addr()))).await;
    for name in ["missing", "empty", "closed", "round"] {
        let response = scene.client.get(&format!("/{name}/7")).await.unwrap();
        assert_eq!((response.status, response.text()), (503, "nobody: open".to_owned()), "{name}");
        assert_eq!(origin(&response), Some(format!("static; reason=open; policy={name}")));
        assert_eq!(response.header("x-path"), Some(format!("/{name}/7")), "what it inserts was kept");
        assert_eq!(metric(&scene, name, "fallback_failed.route").await, 1, "{name}");
    }
    let response = scene.client.get("/listed").await.unwrap();
    assert_eq!(response.status, 503);
    let response = scene.client.get("/second").await.unwrap();
    assert_eq!((response.status, spare.requests()), (200, 1));
    assert_eq!(origin(&response).as_deref(), Some("route; reason=open; policy=second; cluster=spare"));
    assert_eq!(primary.requests(), 0, "no breaker lets anything through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_lets_nothing_choose_is_said_and_other_fallbacks_serve() {
    let (primary, standby) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let document = json!({"policies": [forced_open("orders", standby_then_nobody("standby"))]});
    let options = EnvoyOptions::new()
        .concurrency(2)
        .cluster(Cluster::new("orders").endpoint(primary.addr()))
        .cluster(Cluster::new("standby").endpoint(standby.addr()))
        .route(Scene::aside())
        .route(Route::to("/", "orders"))
        .policy(document);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    let records = drive_all(&clients, 1, 40, "/").await;
    assert_eq!(standby.requests(), 0);
    let through = primary.requests();
    assert!(through <= 2, "each worker finds out once: {through}");
    assert_eq!(records.count(503) as u64, 40 - through);
    let said = "orders: a fallback's route to standby does nothing: requests still go to orders";
    eventually(PATIENCE, || async { if scene.log().contains(said) { Ok(()) } else { Err("not said") } }).await.unwrap();
    assert_eq!(scene.log().matches(said).count(), 1, "once for all workers");
    assert_eq!(metric(&scene, "orders", "misassembled.route").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_stream_goes_to_the_standby_while_both_sides_talk() {
    let (primary, standby) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    standby.always(Action::grpc(0));
    let options = EnvoyOptions::new()
        .seats(Seats::Both)
        .cluster(Cluster::new("orders").endpoint(primary.addr()).http2())
        .cluster(Cluster::new("standby").endpoint(standby.addr()).http2())
        .route(choosing("/", "orders", &["standby"]))
        .policy(always_to_standby());
    let scene = Scene::with(options).await;
    let mut stream = Client::http2(scene.addr()).open_unfinished(Client::grpc_request("/orders.v1.Orders/Watch"));
    eventually(PATIENCE, || async { standby.open_streams() == 1 }).await.unwrap();
    for _ in 0..3 {
        stream.send_more(Bytes::from(vec![0; 40_000])).await.unwrap();
    }
    assert!(!stream.is_finished(), "it goes on for as long as its client has something to say");
    let response = stream.finish().await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(0)));
    assert_eq!(origin(&response).as_deref(), Some(TO_STANDBY));
    assert_eq!((primary.requests(), standby.requests()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_made_with_the_standby() {
    let primary = Backend::start().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let standby = std::thread::spawn(move || web_socket::echo(listener.accept().unwrap().0));
    let options = EnvoyOptions::new()
        .seats(Seats::Both)
        .cluster(Cluster::new("orders").endpoint(primary.addr()))
        .cluster(Cluster::new("standby").endpoint(addr))
        .route(choosing("/", "orders", &["standby"]))
        .raw_hcm(web_socket::passed_on())
        .policy(always_to_standby());
    let scene = Scene::with(options).await;
    let (head, said) = web_socket::say_hello(scene.addr()).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains(TO_STANDBY), "{head}");
    assert_eq!(&said, web_socket::HELLO, "both sides talk to each other");
    assert!(standby.join().unwrap().contains("upgrade: websocket"));
    assert_eq!(primary.requests(), 0);
}

/// `HOLDFAST_SWITCHING` says for how many seconds, `600` for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_nor_sent_twice_while_requests_switch_there_and_back() {
    const PHASE: Duration = Duration::from_secs(3);
    let asked = std::env::var("HOLDFAST_SWITCHING").ok().map(|text| text.parse().expect("it is a number of seconds"));
    let phases = asked.unwrap_or(12_u32) / 3;
    let (primary, standby) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let mut breaker = breaker("1s");
    breaker["window"] = json!("2s");
    breaker["ramp"] = json!("1s");
    breaker["open_max"] = json!("1s");
    let document = json!({"policies": [
        {"name": "orders", "match": {"cluster": ["orders"]}, "breaker": breaker,
         "fallback": [{"on": ["open"], "route": {"cluster": "standby"}}]},
        {"name": "standby", "match": {"cluster": ["standby"]}, "breaker": {}},
    ]});
    let options = EnvoyOptions::new()
        .concurrency(2)
        .seats(Seats::Both)
        .cluster(Cluster::new("orders").endpoint(primary.addr()))
        .cluster(Cluster::new("standby").endpoint(standby.addr()))
        .route(Scene::aside())
        .route(choosing("/", "orders", &["standby"]))
        .policy(document);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    // Half of them are writes.
    let order = |index: u64| {
        if index.is_multiple_of(2) { Client::request("/") } else { post("/", Bytes::from_static(b"order")) }
    };
    let traffic = Traffic::start(&clients, 4, Duration::from_millis(20), Template::new(order));
    for phase in 0..phases {
        primary.always(if phase % 2 == 1 { Action::status(503) } else { Action::ok() });
        tokio::time::sleep(PHASE).await;
    }
    let records = traffic.stop().await;
    let (sent, good, failed) = (records.0.len(), records.count(200), records.count(503));
    let by_route = records.responses().filter(|response| origin(response).is_some()).count() as u64;
    let counts = [primary.requests(), standby.requests()];
    println!("{sent} sent: {good} good, {failed} failed; {counts:?} at the hosts, in {phases} phases");
    assert_eq!(good + failed, sent, "{:?}", records.errors().next());
    assert_eq!(counts.iter().sum::<u64>() as usize, sent, "each has come to one host");
    assert_eq!(by_route, standby.requests(), "those of the standby say so");
    assert!(standby.requests() > 0 && failed * 3 < sent, "most of those that the service fails are served");
    assert_eq!(metric(&scene, "orders", "fallback.route").await, standby.requests());
    assert_eq!(metric(&scene, "orders", "requests").await, sent as u64);
    assert_eq!(metric(&scene, "standby", "requests").await, standby.requests());
    let opened = scene.transitions("orders").iter().filter(|line| line.contains("closed -> open")).count();
    let back = scene.transitions("orders").iter().filter(|line| line.contains("-> closed")).count();
    assert!(opened >= phases as usize / 2 && back + 1 >= opened, "{opened} there, {back} back");
}
