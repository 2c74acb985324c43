//! A cluster with subsets: while a host is out, requests still come to hosts of their own subset only.

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, drive_all, eventually,
};
use http::Request;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    ADMIN, NOTICED, SETTLED, are_out, are_told_nothing, becomes, counts, listed, metric, ms, orders, start,
};

/// The metadata by which Envoy chooses subsets.
fn lb(metadata: &Value) -> Value {
    json!({"filter_metadata": {"envoy.lb": metadata}})
}

/// Subsets by `version`; without one a request may come to any host.
fn subsets() -> Value {
    let kind = |name: &str, message: &str| {
        format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}.v3.{message}")
    };
    let policy = |name: &str, config: Value| json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]});
    let by_turns = policy("round-robin", json!({"@type": kind("round_robin", "RoundRobin")}));
    let subset = json!({
        "@type": kind("subset", "Subset"),
        "fallback_policy": "ANY_ENDPOINT",
        "subset_selectors": [{"keys": ["version"]}],
        "subset_lb_policy": by_turns,
    });
    let steered = json!({
        "@type": kind("override_host", "OverrideHost"),
        "override_host_sources": [{"header": "x-holdfast-hosts"}],
        "fallback_policy": policy("subset", subset),
    });
    policy("override-host", steered)
}

/// Hosts that bear these versions.
fn cluster(hosts: &[Backend], versions: &[&str]) -> Cluster {
    let endpoints = hosts.iter().zip(versions).map(|(host, version)| {
        let addr = host.addr();
        let address = json!({"address": addr.ip().to_string(), "port_value": addr.port()});
        // A second entry, so that the order of them may differ.
        let metadata = lb(&json!({"version": version, "stage": "prod"}));
        json!({"endpoint": {"address": {"socket_address": address}}, "metadata": metadata})
    });
    let endpoints: Vec<Value> = endpoints.collect();
    Cluster::new("orders")
        .raw(json!({"load_assignment": {"cluster_name": "orders", "endpoints": [{"lb_endpoints": endpoints}]}}))
        .raw(json!({"load_balancing_policy": subsets()}))
}

/// A route whose subset the route names.
fn of_version(path: &str, version: &str) -> Route {
    Route::to(path, "orders").raw(json!({"route": {"metadata_match": lb(&json!({"version": version}))}}))
}

/// Has requests bear the version that a header of theirs asks for.
fn version_by_header() -> Value {
    let present = json!({"metadata_namespace": "envoy.lb", "key": "version"});
    json!({"name": "by-header", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [{"header": "x-version", "on_header_present": present, "remove": false}],
    }})
}

fn asking_for(version: &str) -> Request<bytes::Bytes> {
    holdfast_tests::with_header(Client::request("/by-header"), "x-version", version)
}

/// How many requests each host has had of so many like this one; all are served.
async fn served(hosts: &[Backend], clients: &[Client], request: impl Into<holdfast_tests::Template>) -> Vec<u64> {
    hosts.iter().for_each(Backend::reset_counters);
    let records = drive_all(clients, 4, 200, request).await;
    assert_eq!(records.count(200), 200, "{:?}", records.statuses());
    counts(hosts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_host_is_out_no_request_comes_to_a_host_of_another_subset() {
    tokio::join!(
        keeps_subsets(json!({}), Seats::Both),
        keeps_subsets(listed(json!({})), Seats::Both),
        keeps_subsets(json!({}), Seats::Request)
    );
}

async fn keeps_subsets(outlier: Value, seats: Seats) {
    let hosts: [Backend; 6] = start().await;
    let mut rules = json!({"consecutive_failures": 5, "base_ejection_time": "300s", "interval": "300s"});
    json_patch::merge(&mut rules, &outlier);
    let options = EnvoyOptions::new()
        .concurrency(2)
        .seats(seats)
        .cluster(cluster(&hosts, &["v1", "v1", "v1", "v2", "v2", "v2"]))
        .cluster(Cluster::admin(ADMIN))
        .filter(version_by_header())
        .route(Scene::aside())
        .route(of_version("/v1", "v1").name("one"))
        .route(of_version("/v2", "v2").name("two"))
        .route(Route::to("/by-header", "orders").name("by-header"))
        .route(Route::to("/any", "orders").name("any"));
    let scene = Scene::with(options.policy(orders(rules))).await;
    let clients = scene.workers(2).await;
    let requests = || {
        let paths = ["/v1", "/v2", "/any"].map(Client::request);
        paths.into_iter().chain([asking_for("v1"), asking_for("v2")])
    };
    for _ in 0..2 {
        for request in requests() {
            served(&hosts, &clients, request).await;
        }
        sleep(NOTICED).await;
    }
    becomes(&scene, "orders", "hosts", 6).await;

    hosts[0].always(Action::status(500));
    eventually(PATIENCE, || async {
        drive_all(&clients, 2, 20, "/v1").await;
        let out = metric(&scene, "orders", "hosts_ejected").await;
        if out == 1 { Ok(()) } else { Err(format!("{out} are out")) }
    })
    .await
    .unwrap();
    are_out(&scene, "orders", &[&hosts[0]]).await;
    hosts[0].always(Action::ok());
    sleep(SETTLED + ms(100)).await;
    let fair = |counts: &[u64], each: u64| counts.iter().all(|count| count.abs_diff(each) <= 2);
    for (request, own) in requests().zip([1..3, 3..6, 1..6, 1..3, 3..6]) {
        let what = format!("{seats:?} {outlier}: {} {:?}", request.uri(), request.headers().get("x-version"));
        let counts = served(&hosts, &clients, request).await;
        // One goes anywhere in its subset now and then, where hosts are learned.
        let looking = if own.start == 1 && outlier.get("discover").is_none() { counts[0] } else { 0 };
        assert!(looking <= 3, "{what}: {counts:?}");
        assert_eq!(counts[own.clone()].iter().sum::<u64>() + looking, 200, "{what}: no other host: {counts:?}");
        let each = 200 / own.len() as u64;
        assert!(fair(&counts[own], each), "{what}: by turns: {counts:?}");
    }
    if seats == Seats::Both {
        are_told_nothing(&hosts);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_without_names_are_left_to_the_cluster_and_that_is_said() {
    let hosts: [Backend; 4] = start().await;
    let rules = json!({"consecutive_failures": 5, "base_ejection_time": "300s", "interval": "300s"});
    let options = EnvoyOptions::new()
        .concurrency(2)
        .seats(Seats::Both)
        .cluster(cluster(&hosts, &["v1", "v1", "v2", "v2"]))
        .route(Scene::aside())
        .route(of_version("/v1", "v1"))
        .route(of_version("/v2", "v2"));
    let scene = Scene::with(options.policy(orders(rules))).await;
    let clients = scene.workers(2).await;
    for _ in 0..2 {
        for path in ["/v1", "/v2"] {
            served(&hosts, &clients, path).await;
        }
        sleep(NOTICED).await;
    }
    becomes(&scene, "orders", "hosts", 4).await;
    hosts[0].always(Action::status(500));
    drive_all(&clients, 2, 60, "/v1").await;
    are_out(&scene, "orders", &[&hosts[0]]).await;
    hosts[0].always(Action::ok());
    for (path, own) in [("/v1", 0..2), ("/v2", 2..4)] {
        let counts = served(&hosts, &clients, path).await;
        assert_eq!(counts[own].iter().sum::<u64>(), 200, "{path}: {counts:?}");
    }
    let said = || scene.log().matches("give each route a name").count();
    eventually(PATIENCE, || async { if said() == 1 { Ok(()) } else { Err(format!("said {} times", said())) } })
        .await
        .unwrap();
}
