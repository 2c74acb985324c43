//! Several request seats in one chain of filters: two teams in one gateway, two services on one sidecar's port.

use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, HOSTS, Policy, Route, Scene, Seats, drive_all, holdfast_filter,
    wasm_module, with_header,
};
use serde_json::{Value, json};

use crate::outlying::{
    ADMIN, SETTLED, all_known_to, all_served, are_out, are_told_nothing, counts, listed, logged, metric, route, start,
    steered,
};
use crate::retrying::{ID, exactly, quick_backoff, request, seats_meet};

/// A request seat to stand before the listener's own.
fn seat(document: Value) -> Value {
    let mut filter = holdfast_filter(&wasm_module().unwrap(), &Policy::from(document));
    filter["name"] = json!("holdfast-before");
    filter
}

/// The same in a VM of another id, as Istio's WasmPlugin makes them: it shares nothing with the other seats.
fn seat_apart(document: Value) -> Value {
    let mut filter = seat(document);
    filter["typed_config"]["config"]["vm_config"]["vm_id"] = json!("");
    filter
}

/// A document with one policy for the cluster of its name.
fn of(name: &str, features: Value) -> Value {
    let mut policy = features;
    policy["name"] = json!(name);
    policy["match"] = json!({"cluster": [name]});
    json!({"policies": [policy]})
}

/// Ejects a host after three failures, for longer than a test lasts.
fn ejects() -> Value {
    json!({"outlier": listed(json!({"consecutive_failures": 3, "base_ejection_time": "250s"}))})
}

/// Two clusters with a route each, `/orders` and `/stock`, whose hosts are named where it matters.
fn services(orders: &[Backend], stock: &[Backend]) -> EnvoyOptions {
    let options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    let options = options.cluster(steered("orders", orders)).cluster(steered("stock", stock));
    options.route(Scene::aside()).route(route("/orders")).route(route("/stock"))
}

/// Has one host of each service ejected, and counts what it gets after that: nothing.
async fn both_are_steered(options: EnvoyOptions, orders: &[Backend], stock: &[Backend]) {
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    all_known_to(&scene, &clients, &[("/orders", orders), ("/stock", stock)]).await;
    for (path, hosts) in [("/orders", orders), ("/stock", stock)] {
        hosts[0].always(Action::status(503));
        drive_all(&clients, 4, 40, path).await;
        are_out(&scene, path, &[&hosts[0]]).await;
    }
    tokio::time::sleep(SETTLED).await;
    orders.iter().chain(stock).for_each(Backend::reset_counters);
    for (path, hosts) in [("/orders", orders), ("/stock", stock)] {
        all_served(&drive_all(&clients, 4, 100, path).await);
        assert_eq!(counts(hosts)[0], 0, "{path}: the host that is out gets nothing of {:?}", counts(hosts));
        let last = logged(&scene, path, 100).await.pop().unwrap();
        assert_eq!(last.holdfast_field("policy"), Some(&path[1..]), "{:?}", last.all);
        assert_eq!(last.holdfast_field("hosts_out"), Some("1/3"), "{:?}", last.all);
    }
    are_told_nothing(orders);
    are_told_nothing(stock);
    assert!(!scene.log().contains("does not govern"), "no two policies match one request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_two_seats_steers_what_its_own_policies_match() {
    let (orders, stock) = (start::<3>().await, start::<3>().await);
    let options = services(&orders, &stock).filter(seat(of("orders", ejects()))).policy(of("stock", ejects()));
    both_are_steered(options, &orders, &stock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_that_matches_nothing_harms_nobody_before_or_after() {
    let (orders, stock) = (start::<3>().await, start::<3>().await);
    let both = json!({"policies": [of("orders", ejects())["policies"][0], of("stock", ejects())["policies"][0]]});
    let nothing = || of("nothing", json!({"breaker": {}, "retry": {}, "outlier": {}}));
    let mut behind = seat(nothing());
    behind["name"] = json!("holdfast-behind");
    // Three of them, the one that governs in the middle; the listener's own is the last.
    let mut own = seat(both);
    own["name"] = json!("holdfast-own");
    let options = services(&orders, &stock).filter(seat(nothing())).filter(own).filter(behind).policy(nothing());
    both_are_steered(options, &orders, &stock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_seat_whose_policy_matches_governs_and_that_is_said_once() {
    let host = Backend::start().await.unwrap();
    let first = json!({"policies": [{"name": "first", "match": {"path": ["/first/**", "/both"]}, "breaker": {}}]});
    let opens = json!({"min_requests": 4, "open_for": "250s"});
    let own = json!({"policies": [
        {"name": "orders", "breaker": opens, "retry": {"max_retries": 2, "on": [503], "backoff": quick_backoff(), "budget": exactly(100)}},
    ]});
    let options = Scene::of(&host).concurrency(2).seats(Seats::Both).filter(seat(first)).policy(own);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    seats_meet(&clients, "/met").await;

    host.always(Action::status(503));
    for client in &clients {
        for _ in 0..5 {
            assert_eq!(client.get("/both").await.unwrap().status, 503);
        }
    }
    assert_eq!(host.requests_to("/both"), 10, "the second seat retries and rejects nothing of what the first governs");
    assert_eq!(scene.metric_of("first", "cluster=orders", "failure").await, 10);
    assert_eq!(scene.metric("failure").await, 0, "nor does it judge it");
    let last = logged(&scene, "/both", 10).await.pop().unwrap();
    assert_eq!(last.holdfast_field("policy"), Some("first"));

    assert_eq!(clients[0].get("/orders").await.unwrap().status, 503);
    assert_eq!(host.requests_to("/orders"), 3, "what the first does not match the second governs, retries and all");
    let said: Vec<String> =
        scene.log().lines().filter(|line| line.contains("does not govern")).map(str::to_owned).collect();
    let line =
        "orders: does not govern a request that it matches: the policy first of a request seat before this one does";
    assert!(matches!(&said[..], [one] if one.contains(line) && one.contains("[warning]")), "once: {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_is_off_governs_what_it_matches_too() {
    let host = Backend::start().await.unwrap();
    let off = json!({"policies": [{"name": "exempt", "match": {"path": ["/health"]}, "mode": "off", "breaker": {}}]});
    let own = json!({"policies": [{"name": "orders", "breaker": {"min_requests": 4, "open_for": "250s"}}]});
    let scene = Scene::with(Scene::of(&host).concurrency(1).filter(seat(off)).policy(own)).await;
    host.always(Action::status(503));
    for _ in 0..10 {
        assert_eq!(scene.client.get("/health").await.unwrap().status, 503);
    }
    assert_eq!(host.requests_to("/health"), 10, "no breaker opens for it");
    let last = logged(&scene, "/health", 10).await.pop().unwrap();
    assert_eq!(last.all["holdfast"], json!("policy=exempt; decision=off"));
    for _ in 0..10 {
        assert_eq!(scene.client.get("/orders").await.unwrap().status, 503);
    }
    assert_eq!(host.requests_to("/orders"), 4, "the other seat's breaker opens for what it governs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_own_choice_of_a_host_is_dropped_whoever_governs() {
    let (orders, stock) = (start::<2>().await, start::<2>().await);
    let (first, second) = (of("orders", json!({"outlier": {}})), of("nothing", json!({"outlier": {}})));
    let scene = Scene::with(services(&orders, &stock).filter(seat(first)).policy(second)).await;
    let clients = scene.workers(2).await;
    for (path, hosts) in [("/orders", &orders), ("/stock", &stock)] {
        for number in 0..40 {
            let asks = with_header(Client::request(path), HOSTS, hosts[0].addr().to_string());
            assert_eq!(clients[number % 2].send(asks).await.unwrap().status, 200);
        }
        assert!(counts(hosts).iter().all(|count| *count >= 10), "{path}: by turns, {:?}", counts(hosts));
        are_told_nothing(hosts);
    }
    assert_eq!(metric(&scene, "/orders", "requests").await, 40, "one is governed, the other is not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_that_shares_nothing_with_another_leaves_its_requests_alone() {
    let (orders, stock) = (start::<3>().await, start::<3>().await);
    let options = services(&orders, &stock)
        .filter(seat_apart(of("stock", json!({"breaker": {"min_requests": 4, "open_for": "250s"}}))))
        .policy(of("orders", ejects()));
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    all_known_to(&scene, &clients, &[("/orders", &orders)]).await;
    orders[0].always(Action::status(503));
    drive_all(&clients, 4, 40, "/orders").await;
    are_out(&scene, "/orders", &[&orders[0]]).await;
    tokio::time::sleep(SETTLED).await;
    orders[0].reset_counters();
    all_served(&drive_all(&clients, 4, 100, "/orders").await);
    assert_eq!(counts(&orders)[0], 0, "it leaves the names of hosts alone");
    stock.iter().for_each(|host| host.always(Action::status(503)));
    drive_all(&clients, 2, 40, "/stock").await;
    assert!(counts(&stock).iter().sum::<u64>() < 12, "and governs its own: {:?}", counts(&stock));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_envoy_redirects_within_is_governed_again() {
    let (before, after) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    before.always(Action::status(302).header("location", "http://holdfast.test/stock"));
    after.script(Action::in_turn(ID, [Action::status(503), Action::ok()]));
    let retries =
        || json!({"retry": {"max_retries": 1, "on": [503], "backoff": quick_backoff(), "budget": exactly(50)}});
    let both = json!({"policies": [of("orders", retries())["policies"][0], of("stock", retries())["policies"][0]]});
    let redirected =
        route("/orders").raw(json!({"route": {"internal_redirect_policy": {"max_internal_redirects": 1}}}));
    let options = EnvoyOptions::new().seats(Seats::Both).concurrency(1);
    let options = options.cluster(Cluster::new("orders").endpoint(before.addr()));
    let options = options.cluster(Cluster::new("stock").endpoint(after.addr()));
    let options = options.route(Scene::aside()).route(redirected).route(route("/stock")).route(Route::to("/", "stock"));
    let scene = Scene::with(options.policy(both)).await;
    let response = scene.client.send(request("/orders", "one")).await.unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(
        (before.requests(), after.seen_with(ID, "one").len()),
        (1, 2),
        "the second part is retried as its policy says"
    );
    eventually_counted(&scene, "orders").await;
    eventually_counted(&scene, "stock").await;
}

async fn eventually_counted(scene: &Scene, name: &str) {
    let key = format!("cluster={name}");
    holdfast_tests::eventually(Duration::from_secs(30), || async {
        let requests = scene.metric_of(name, &key, "requests").await;
        if requests == 1 { Ok(()) } else { Err(format!("{name} governs {requests} requests, not 1")) }
    })
    .await
    .unwrap();
}
