//! Several documents at once: listeners whose policies are equal in a part, an old and a new document while the old one drains,
//! many listeners with one policy, and documents that come faster than they can be looked at.

use std::time::Instant;

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, Listener, PATIENCE, Route, Scene, Seats, Traffic, eventually,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{SETTLED, becomes, metric_now, ms, start, steered};
use crate::updating::{AttemptSeat, CLOSED, LONG, OPEN, SHORT, Updated, WORKERS, Way, fails, is_rejected};

/// Opens after four failures and stays open.
fn lasting() -> Value {
    json!({"window": "5m", "min_requests": 4, "open_for": "1h"})
}

fn orders(features: Value) -> Value {
    let mut policy = json!({"name": "orders"});
    json_patch::merge(&mut policy, &features);
    json!({"policies": [policy]})
}

fn listener(name: &str, document: &Value) -> Listener {
    Listener::new(name).route(Scene::aside()).route(Route::to("/", "orders")).policy(document)
}

fn says(text: &str) -> Value {
    json!([{"on": ["open"], "respond": {"status": 200, "body": text}}])
}

/// Four workers and one host, with a listener for each of these documents.
async fn listening(host: &Backend, documents: &[(&str, Value)]) -> Scene {
    let (_, first) = &documents[0];
    let mut options = Scene::of(host).concurrency(WORKERS as u32).policy(first);
    for (name, document) in &documents[1..] {
        options = options.listener(listener(name, document));
    }
    Scene::with(options).await
}

async fn state(scene: &Scene, policy: &str) -> u64 {
    scene.metric_now(policy, "cluster=orders", "breaker_state").await
}

async fn state_becomes(scene: &Scene, policy: &str, wanted: u64) {
    eventually(PATIENCE, || async {
        let now = state(scene, policy).await;
        if now == wanted { Ok(()) } else { Err(format!("the breaker of {policy} is {now}, not {wanted}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_breakers_are_one_whatever_else_differs() {
    let host = Backend::start().await.unwrap();
    let limited = json!({"breaker": lasting(), "concurrency": {"max_requests": 50}, "retry": {"max_retries": 1}});
    let documents = [
        ("ingress", orders(json!({"breaker": lasting(), "fallback": says("one")}))),
        ("second", orders(json!({"breaker": lasting(), "fallback": says("two")}))),
        ("third", orders(limited)),
    ];
    let scene = listening(&host, &documents).await;
    let [one, two, three] = ["ingress", "second", "third"].map(|name| Client::http1(scene.listener(name)));
    fails(&host);

    for client in [&one, &two, &three, &one] {
        assert_eq!(client.get("/").await.unwrap().status, 500);
    }

    host.reset_counters();
    for _ in 0..2 * WORKERS {
        assert_eq!(one.reconnected().get("/").await.unwrap().text(), "one", "what came through all listeners counts");
        assert_eq!(two.reconnected().get("/").await.unwrap().text(), "two");
        assert!(is_rejected(&three.reconnected().get("/").await.unwrap()));
    }
    assert_eq!(host.requests(), 0);
    // Three contents have this name, and one breaker.
    for name in ["orders", "orders~2", "orders~3"] {
        state_becomes(&scene, name, OPEN).await;
    }
    assert_eq!(scene.transitions("orders").len(), 1, "it opens once: {:?}", scene.transitions("orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_limit_is_one_beside_breakers_that_differ() {
    let host = Backend::start().await.unwrap();
    let limit = json!({"max_requests": 6});
    let mut other = lasting();
    other["open_for"] = json!("2h");
    let documents = [
        ("ingress", orders(json!({"breaker": lasting(), "concurrency": limit}))),
        ("second", orders(json!({"breaker": other, "concurrency": limit}))),
    ];
    let scene = listening(&host, &documents).await;
    let [one, two] = ["ingress", "second"].map(|name| Client::http1(scene.listener(name)));

    host.hold();
    let open = |client: &Client| client.open(Client::request("/"));
    let held = [open(&one), open(&one), open(&one), open(&two), open(&two), open(&two)];
    host.wait_in_flight(6).await.unwrap();
    for client in [&one, &two].into_iter().cycle().take(8) {
        let response = client.reconnected().get("/").await.unwrap();
        assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("concurrency; policy=orders"));
    }
    fails(&host);
    host.release_all();
    for request in held {
        assert_eq!(request.finish().await.unwrap().status, 500);
    }
    // Three failures each: to neither breaker they are enough.
    assert_eq!(one.get("/").await.unwrap().status, 500);
    assert!(is_rejected(&one.get("/").await.unwrap()), "its own fourth opens it");
    assert_eq!(two.get("/").await.unwrap().status, 500, "and leaves the other one closed");
    assert!(is_rejected(&two.get("/").await.unwrap()), "until its own fourth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_one_document_has_out_are_in_to_another() {
    let hosts: [Backend; 3] = start().await;
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    let policy = |failures: u64, text: &str| {
        let outlier = json!({"consecutive_failures": failures, "base_ejection_time": "1h", "hosts": addrs});
        orders(json!({"outlier": outlier, "breaker": {"min_requests": 1000}, "fallback": says(text)}))
    };
    let options = EnvoyOptions::new()
        .concurrency(WORKERS as u32)
        .seats(Seats::Both)
        .cluster(steered("orders", &hosts))
        .route(Scene::aside())
        .route(Route::to("/", "orders"))
        .policy(policy(3, "one"))
        .listener(listener("equal", &policy(3, "two")))
        .listener(listener("other", &policy(900, "three")));
    let scene = Scene::with(options).await;
    let [one, equal, other] = ["ingress", "equal", "other"].map(|name| Client::http1(scene.listener(name)));
    for round in 0..2 {
        for client in [&one, &equal, &other].into_iter().cycle().take(24) {
            assert_eq!(client.reconnected().get("/").await.unwrap().status, 200);
        }
        sleep(ms(1100 * (1 - round))).await;
    }
    fails(&hosts[0]);
    eventually(PATIENCE, || async {
        one.get("/").await.unwrap();
        let out = hosts_out(&scene).await;
        if out.contains(&1) { Ok(()) } else { Err(format!("{out:?} hosts are out")) }
    })
    .await
    .expect("it is ejected");
    sleep(SETTLED).await;

    let got = async |client: &Client| {
        hosts[0].reset_counters();
        for _ in 0..12 {
            client.reconnected().get("/").await.unwrap();
        }
        hosts[0].requests()
    };
    assert_eq!(got(&one).await, 0);
    assert_eq!(got(&equal).await, 0, "the same outlier block, whatever the fallback says");
    assert!(got(&other).await > 0, "another block has not seen it fail that often");
    eventually(PATIENCE, || async {
        let mut out = hosts_out(&scene).await;
        out.sort_unstable();
        if out == [0, 1, 1] {
            Ok(())
        } else {
            Err(format!("by the gauges of the three contents {out:?} hosts are out"))
        }
    })
    .await
    .unwrap();
}

async fn hosts_out(scene: &Scene) -> Vec<u64> {
    let mut out = Vec::new();
    for name in ["orders", "orders~2", "orders~3"] {
        out.push(scene.metric_now(name, "cluster=orders", "hosts_ejected").await);
    }
    out
}

/// Connections that the listener of now has served: while it drains each serves one request more.
async fn kept(envoy: &Updated, count: usize) -> Vec<Client> {
    let mut kept = Vec::new();
    for _ in 0..count {
        let client = envoy.client.reconnected();
        client.get("/aside").await.unwrap();
        kept.push(client);
    }
    kept
}

fn options(host: &Backend) -> EnvoyOptions {
    Scene::of(host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_old_listener_drains_an_unchanged_block_is_one() {
    let host = Backend::start().await.unwrap();
    // A good one and four bad ones.
    let breaker = json!({"window": "5m", "min_requests": 5, "open_for": "1h"});
    let document = |text: &str| orders(json!({"breaker": breaker, "fallback": says(text)}));
    let envoy = Updated::start(options(&host), LONG, &document("old")).await;
    let old = kept(&envoy, 8).await;
    host.hold();
    let busy = envoy.client.reconnected().open(Client::request("/"));
    host.wait_in_flight(1).await.unwrap();

    envoy.update(&document("new")).await;
    host.release_all();
    assert_eq!(busy.finish().await.unwrap().status, 200);
    let new = envoy.clients().await;
    fails(&host);
    for client in [&old[0], &new[0], &old[1], &new[1]] {
        assert_eq!(client.get("/").await.unwrap().status, 500);
    }
    host.reset_counters();
    for (old, new) in old[2..6].iter().zip(&new) {
        assert_eq!(old.get("/").await.unwrap().text(), "old", "two failures of each document open it for both");
        assert_eq!(new.get("/").await.unwrap().text(), "new");
    }
    assert_eq!(host.requests(), 0);
    state_becomes(&envoy, "orders", OPEN).await;
    assert_eq!(envoy.transitions("orders").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_old_listener_drains_a_changed_block_does_not_mix() {
    let host = Backend::start().await.unwrap();
    // So many failures in a row open it.
    let document = |window: u64| {
        let breaker = json!({"window": window, "min_requests": window, "failure_rate": 100, "open_for": "1h"});
        orders(json!({"breaker": breaker}))
    };
    let envoy = Updated::start(options(&host), LONG, &document(4)).await;
    let old = kept(&envoy, 16).await;
    envoy.update(&document(5)).await;
    let new = envoy.clients().await;
    for client in &new {
        assert_eq!(client.get("/").await.unwrap().status, 200, "it begins closed");
    }

    fails(&host);
    for client in &old[..4] {
        assert_eq!(client.get("/").await.unwrap().status, 500);
    }
    assert!(is_rejected(&old[4].get("/").await.unwrap()), "four failures open the old one");
    for client in &new {
        assert_eq!(client.get("/").await.unwrap().status, 500, "to the new one those four say nothing");
    }
    assert_eq!(state(&envoy, "orders").await, CLOSED);
    host.always(Action::ok());
    for client in &old[5..9] {
        assert!(is_rejected(&client.get("/").await.unwrap()), "it stays open");
    }
    for client in &new {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    state_becomes(&envoy, "orders~2", OPEN).await;
    fails(&host);
    for client in new.iter().cycle().take(5) {
        assert_eq!(client.get("/").await.unwrap().status, 500);
    }
    state_becomes(&envoy, "orders", OPEN).await;
    let told = envoy.transitions("orders");
    assert_eq!(told.len(), 2, "each opens once: {told:?}");
}

/// What a document that drains makes of its own block later is no news to the one after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_open_at_the_update_closes_for_itself() {
    let host = Backend::start().await.unwrap();
    let document = |window: u64| {
        let half_open = json!({"probes": 1});
        let breaker = json!({
            "window": window, "min_requests": 4, "open_for": "8s", "open_jitter": 0, "half_open": half_open,
        });
        orders(json!({"breaker": breaker}))
    };
    let envoy = Updated::start(options(&host), LONG, &document(4)).await;
    fails(&host);
    for _ in 0..4 {
        envoy.client.get("/").await.unwrap();
    }
    state_becomes(&envoy, "orders", OPEN).await;
    let opened = Instant::now();
    let old = kept(&envoy, 8).await;
    envoy.update(&document(5)).await;
    let new = envoy.clients().await;
    for client in &new {
        assert!(is_rejected(&client.get("/").await.unwrap()), "{:?} after it opened", opened.elapsed());
    }
    sleep(ms(8100).saturating_sub(opened.elapsed())).await;

    // The probe of the old one fails, and that of the new one is good.
    assert_eq!(old[0].get("/").await.unwrap().status, 500);
    host.always(Action::ok());
    assert_eq!(new[0].get("/").await.unwrap().status, 200, "its own time is over, and its own probe goes");
    for (old, new) in old[1..5].iter().zip(&new) {
        assert!(is_rejected(&old.get("/").await.unwrap()), "the old one is open again");
        assert_eq!(new.get("/").await.unwrap().status, 200, "the new one has closed");
    }
}

/// A listener that begins to have a policy of this name, too, finds what is true.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_joins_another_begins_with_its_state() {
    let host = Backend::start().await.unwrap();
    let bare = Listener::new("second").route(Route::to("/", "orders"));
    let first = orders(json!({"breaker": lasting(), "fallback": says("one")}));
    let options = options(&host).listener(bare);
    let envoy = Updated::start(options, SHORT, &first).await;
    let (one, two) = (envoy.client.clone(), Client::http1(envoy.listener("second")));
    fails(&host);
    for _ in 0..4 {
        assert_eq!(one.get("/").await.unwrap().status, 500);
    }
    state_becomes(&envoy, "orders", OPEN).await;

    let mut changed = lasting();
    changed["min_requests"] = json!(5);
    let second = listener("second", &orders(json!({"breaker": changed, "fallback": says("two")})));
    envoy.update_by(|options| options.listener(second)).await;
    host.always(Action::ok());
    host.reset_counters();
    for _ in 0..2 * WORKERS {
        assert_eq!(two.reconnected().get("/").await.unwrap().text(), "two");
        assert_eq!(one.reconnected().get("/").await.unwrap().text(), "one", "the one before is untouched");
    }
    assert_eq!(host.requests(), 0);
    state_becomes(&envoy, "orders", OPEN).await;
    state_becomes(&envoy, "orders~2", OPEN).await;
}

/// As behind a gateway: each listener has a document of its own, in which one policy is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_listeners_check_each_host_once_an_interval() {
    const LISTENERS: usize = 40;
    let hosts: [Backend; 2] = start().await;
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    let document = |number: usize, content: usize| {
        let heartbeat = json!({"path": "/healthz", "interval": "1s", "timeout": "900ms"});
        let outlier = json!({"hosts": addrs, "heartbeat": heartbeat, "base_ejection_time": "1h"});
        json!({"policies": [
            {"name": format!("own-{number}"), "match": {"path": ["/own"]}, "breaker": {"min_requests": 20 + content}},
            {"name": "orders", "match": {"cluster": ["orders"]}, "outlier": outlier, "breaker": lasting()},
        ]})
    };
    let name = |number: usize| format!("listener-{number}");
    let mut options = EnvoyOptions::new().seats(Seats::Both).cluster(steered("orders", &hosts));
    options = options.route(Scene::aside()).route(Route::to("/", "orders"));
    for number in 1..LISTENERS {
        options = options.listener(listener(&name(number), &document(number, 0)));
    }
    let envoy = Updated::start(options, SHORT, &document(0, 0)).await;
    let clients: Vec<Client> = envoy.listeners().map(|(_, addr)| Client::http1(addr)).collect();
    assert_eq!(clients.len(), LISTENERS);
    let all_serve = async || {
        for client in &clients {
            assert_eq!(client.reconnected().get("/").await.unwrap().status, 200);
        }
    };
    all_serve().await;
    are_checked_once_a_second(&hosts).await;

    // All of them get another document at once, in which this policy is the same.
    let change = |options: EnvoyOptions| {
        let others = (1..LISTENERS).map(|number| listener(&name(number), &document(number, 1)));
        others.fold(options.policy(document(0, 1)), EnvoyOptions::listener)
    };
    envoy.update_by(change).await;
    all_serve().await;
    sleep(ms(2500)).await;
    are_checked_once_a_second(&hosts).await;

    fails(&hosts[0]);
    becomes(&envoy, "orders", "hosts_ejected", 1).await;
    hosts[0].reset_counters();
    all_serve().await;
    assert_eq!(hosts[0].requests_to("/"), 0, "it is out to all of them");
}

async fn are_checked_once_a_second(hosts: &[Backend]) {
    let checks = || hosts.iter().map(|host| host.requests_to("/healthz")).collect::<Vec<_>>();
    let (before, began) = (checks(), Instant::now());
    sleep(ms(6000)).await;
    let (now, took) = (checks(), began.elapsed().as_secs());
    for (now, before) in now.into_iter().zip(before) {
        let made = now - before;
        assert!((took.saturating_sub(4)..=took + 2).contains(&made), "{made} checks in {took} seconds");
    }
}

/// Documents that come by discovery reach one worker after the other, and each of their changes is one of the breaker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_rejects_through_thirty_updates_under_load() {
    tokio::join!(rejects_all_along(SHORT), rejects_all_along(Way::Discovery));
}

async fn rejects_all_along(way: Way) {
    let host = Backend::start().await.unwrap();
    let document = |number: u64| {
        let breaker = json!({"window": "5m", "min_requests": 4 + number / 2, "open_for": "1h"});
        orders(json!({"breaker": breaker, "fallback": says(&format!("document {number}"))}))
    };
    let envoy = Updated::start(options(&host), way, &document(0)).await;
    fails(&host);
    for _ in 0..4 {
        assert_eq!(envoy.client.get("/").await.unwrap().status, 500);
    }
    state_becomes(&envoy, "orders", OPEN).await;
    host.reset_counters();
    let clients = if matches!(way, Way::Discovery) { envoy.clients().await } else { vec![envoy.client.clone()] };
    let traffic = Traffic::start(&clients, 8, ms(4), "/");
    traffic.goes_on(20).await.unwrap();
    for number in 1..=30 {
        envoy.update(&document(number)).await;
        traffic.goes_on(20).await.unwrap();
        let response = envoy.client.reconnected().get("/").await.unwrap();
        assert_eq!(response.text(), format!("document {number}"), "{way:?}: the newest one answers");
    }
    let records = traffic.stop().await;
    let passed = records.responses().filter(|response| !is_rejected(response)).count();
    assert_eq!((passed, records.errors().count()), (0, 0), "{way:?}: of {} requests", records.0.len());
    assert_eq!(host.requests(), 0, "{way:?}");
    state_becomes(&envoy, "orders", OPEN).await;
    assert_eq!(envoy.transitions("orders").len(), 1, "{way:?}: {:?}", envoy.transitions("orders"));
}

/// An attempt seat that comes by discovery too is replaced as the request seat is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempt_seat_is_replaced_and_knows_what_it_knew() {
    let hosts: [Backend; 3] = start().await;
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    let document = |text: &str| {
        let outlier = json!({"consecutive_failures": 3, "base_ejection_time": "1h", "hosts": addrs});
        let retry = json!({"max_retries": 1, "on": [500]});
        orders(json!({"outlier": outlier, "retry": retry, "breaker": {"min_requests": 1000}, "fallback": says(text)}))
    };
    let seat = AttemptSeat::new();
    let cluster = hosts.iter().fold(Cluster::new("orders").steered(), |cluster, host| cluster.endpoint(host.addr()));
    let options = EnvoyOptions::new()
        .seats(Seats::Both)
        .cluster(cluster.raw(seat.cluster()))
        .route(Scene::aside())
        .route(Route::to("/", "orders"));
    let envoy = Updated::start(options, Way::Discovery, &document("old")).await;
    let clients = envoy.clients().await;
    for round in 0..2 {
        for client in &clients {
            assert_eq!(client.get("/").await.unwrap().status, 200);
        }
        sleep(ms(1100 * (1 - round))).await;
    }
    fails(&hosts[0]);
    eventually(PATIENCE, || async {
        for client in &clients {
            assert_eq!(client.get("/").await.unwrap().status, 200, "a retry on another host");
        }
        metric_now(&envoy, "orders", "hosts_ejected").await == 1
    })
    .await
    .unwrap();

    for round in 0..6 {
        // Before the request seat, after it, or without it.
        if round % 3 != 1 {
            seat.replace(&envoy).await;
        }
        if round % 3 != 2 {
            envoy.update(&document(&format!("new {round}"))).await;
        }
        hosts[0].reset_counters();
        for client in clients.iter().cycle().take(24) {
            assert_eq!(client.get("/").await.unwrap().status, 200, "round {round}");
        }
        assert_eq!(hosts[0].requests(), 0, "round {round}: the host stays out");
        assert_eq!(metric_now(&envoy, "orders", "hosts_ejected").await, 1, "round {round}");
    }
    // And a retry still goes elsewhere.
    fails(&hosts[1]);
    for client in clients.iter().cycle().take(8) {
        assert_eq!(client.get("/").await.unwrap().status, 200, "a retry on another host");
    }
}
