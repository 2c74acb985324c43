//! Requests that go past the request seat, to a cluster that follows its header: on a route where the filter is off, and through
//! a listener that has none. What the route configurations say keeps a client from choosing the host there.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_tests::{
    Action, Backend, Client, Cluster, Envoy, EnvoyOptions, HOSTS, Listener, Route, Scene, Seats, drive_all,
    wasm_module, with_header,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::outlying::{
    ADMIN, all_known, all_served, are_out, are_told_nothing, counts, listed, orders, start, steered,
};

/// Requests of each kind: ten for each host.
const REQUESTS: usize = 30;

/// A route on which the filter of this name is off.
fn off(prefix: &str) -> Route {
    Route::to(prefix, "orders").raw(json!({"typed_per_filter_config": {"holdfast": {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true,
    }}}))
}

/// What a route configuration says of the header, or nothing.
fn saying(internal_only: bool) -> Value {
    if internal_only { json!({"route_config": {"internal_only_headers": [HOSTS]}}) } else { json!({}) }
}

/// Both seats, or the request seat alone, before `orders`; the filter is off below `/off`, and the second listener has none.
fn options(hosts: &[Backend], seats: Seats, internal_only: bool) -> EnvoyOptions {
    let second = Listener::new("second").route(Route::to("/", "orders")).raw_hcm(saying(internal_only));
    EnvoyOptions::new()
        // One worker, whose turns are exact.
        .concurrency(1)
        .seats(seats)
        .cluster(steered("orders", hosts))
        .cluster(Cluster::admin(ADMIN))
        .route(Scene::aside())
        .route(off("/off"))
        .route(Route::to("/", "orders"))
        .raw_hcm(saying(internal_only))
        .listener(second)
        .policy(orders(listed(json!({}))))
}

/// Clients that go past the request seat, over either protocol, each with its path.
fn past(scene: &Scene) -> [(Client, &'static str); 4] {
    let second = scene.listener("second");
    [
        (Client::http1(scene.addr()), "/off"),
        (Client::http2(scene.addr()), "/off"),
        (Client::http1(second), "/second"),
        (Client::http2(second), "/second"),
    ]
}

/// Where the requests of a client go that names a host.
async fn asking_for(client: &Client, path: &str, wanted: SocketAddr, hosts: &[Backend]) -> Vec<u64> {
    hosts.iter().for_each(Backend::reset_counters);
    let request = with_header(Client::request(path), HOSTS, wanted.to_string());
    all_served(&drive_all(std::slice::from_ref(client), 1, REQUESTS, request).await);
    counts(hosts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_internal_only_headers_the_client_chooses_the_host() {
    let hosts: [Backend; 3] = start().await;
    let scene = Scene::with(options(&hosts, Seats::Both, false)).await;

    for (client, path) in past(&scene) {
        let counts = asking_for(&client, path, hosts[1].addr(), &hosts).await;
        assert_eq!(counts, [0, REQUESTS as u64, 0], "{path}: nobody is in the way");
        let named = hosts[1].seen().iter().filter(|seen| seen.header(HOSTS).is_some()).count();
        // A route that has the filter `holdfast` off has it off beside the hosts too, where it has the same name.
        assert_eq!(named, if path == "/off" { REQUESTS } else { 0 }, "{path}: the attempt seat takes the header off");
    }

    let counts = asking_for(&scene.client, "/", hosts[1].addr(), &hosts).await;
    assert_eq!(counts, [10, 10, 10], "where the request seat is on it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_internal_only_headers_all_hosts_get_their_share_and_none_sees_the_header() {
    // Without an attempt seat nobody else takes the header off.
    for seats in [Seats::Both, Seats::Request] {
        let hosts: [Backend; 3] = start().await;
        let scene = Scene::with(options(&hosts, seats, true)).await;

        for (client, path) in past(&scene) {
            let counts = asking_for(&client, path, hosts[1].addr(), &hosts).await;
            assert_eq!(counts, [10, 10, 10], "{path}, {seats:?}");
            are_told_nothing(&hosts);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_host_is_out_no_client_asks_for_it_and_steering_goes_on() {
    let hosts: [Backend; 3] = start().await;
    let scene = Scene::with(options(&hosts, Seats::Both, true)).await;
    let clients = scene.workers(1).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    hosts[0].script(|seen| if seen.path == "/out" { Action::status(500) } else { Action::ok() });
    drive_all(&clients, 1, 60, "/out").await;
    are_out(&scene, "orders", &[&hosts[0]]).await;

    let counts = asking_for(&clients[0], "/", hosts[0].addr(), &hosts).await;
    assert_eq!(counts[0], 0, "{counts:?}: what the request seat names counts, and it is not taken off");
    for (client, path) in past(&scene) {
        let counts = asking_for(&client, path, hosts[0].addr(), &hosts).await;
        assert_eq!(counts, [10, 10, 10], "{path}: Envoy's own balancing, which knows of no host that is out");
    }
    are_told_nothing(&hosts);
}

// The configurations that people copy.

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy").join(name)
}

/// A shipped bootstrap before these hosts, whose balancing takes turns. The filter is off on a second route, and a second
/// listener has the routes and no filter.
fn with_ways_past(name: &str, hosts: &[Backend], folder: &Path, internal_only: bool) -> String {
    let text = fs::read_to_string(shipped(name)).unwrap();
    let module = wasm_module().unwrap();
    let text = text.replace("/etc/envoy/holdfast.wasm", module.to_str().unwrap());
    let text =
        text.replace("/etc/envoy/live", folder.to_str().unwrap()).replace("address: 0.0.0.0", "address: 127.0.0.1");
    let mut config: Value = serde_norway::from_str(&text).unwrap();
    config["admin"]["address"]["socket_address"]["port_value"] = json!(0);
    let resources = &mut config["static_resources"];
    let cluster = &mut resources["clusters"][0];
    cluster["type"] = json!("STATIC");
    let host = |host: &Backend| {
        let addr = host.addr();
        json!({"endpoint": {"address": {"socket_address": {"address": addr.ip(), "port_value": addr.port()}}}})
    };
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = hosts.iter().map(host).collect();
    let steering = "/load_balancing_policy/policies/0/typed_extension_config/typed_config/fallback_policy/policies/0";
    if let Some(fallback) = cluster.pointer_mut(steering) {
        fallback["typed_extension_config"] = json!({
            "name": "envoy.load_balancing_policies.round_robin",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
            },
        });
    }
    let listener = &mut resources["listeners"][0];
    listener["address"]["socket_address"]["port_value"] = json!(0);
    let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config").unwrap();
    if !internal_only {
        assert!(manager["route_config"].as_object_mut().unwrap().remove("internal_only_headers").is_some(), "{name}");
    }
    let filter = manager["http_filters"][0]["name"].as_str().unwrap().to_owned();
    let routes = manager.pointer_mut("/route_config/virtual_hosts/0/routes").unwrap().as_array_mut().unwrap();
    let mut off = routes[0].clone();
    off["match"] = json!({"prefix": "/off"});
    off["typed_per_filter_config"] = json!({filter: {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true,
    }});
    routes.insert(0, off);
    let mut second = listener.clone();
    second["name"] = json!("second");
    let manager = second.pointer_mut("/filter_chains/0/filters/0/typed_config").unwrap();
    manager["http_filters"].as_array_mut().unwrap().remove(0);
    let routes = manager.pointer_mut("/route_config/virtual_hosts/0/routes").unwrap();
    routes.as_array_mut().unwrap().remove(0);
    resources["listeners"].as_array_mut().unwrap().push(second);
    config.to_string()
}

/// What `envoy/live` reads. Its module is not where the files say, so that what stands in for it is on every way.
fn live_without_module() -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["request.yaml", "attempt.yaml"] {
        let text = fs::read_to_string(shipped("live").join(name)).unwrap();
        assert!(text.contains("/etc/envoy/holdfast.wasm"), "{name}");
        fs::write(folder.path().join(name), text.replace("/etc/envoy/", "/nonexistent/")).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_bootstraps_leave_no_client_the_choice() {
    let live = live_without_module();
    for (name, is_steered, has_module) in
        [("envoy.yaml", true, true), ("live/envoy.yaml", true, false), ("minimal.yaml", false, true)]
    {
        let hosts: [Backend; 3] = start().await;
        for internal_only in [false, true] {
            let config = with_ways_past(name, &hosts, live.path(), internal_only);
            let envoy = Envoy::start(EnvoyOptions::new().concurrency(1).bootstrap(config)).await.unwrap();
            let second = Client::http1(envoy.listener("second"));
            let ingress = Client::http1(envoy.listener("ingress"));
            let mut ways = vec![(&ingress, "/off"), (&second, "/second")];
            if internal_only || !has_module {
                ways.push((&ingress, "/"));
            }
            for (client, path) in ways {
                let counts = asking_for(client, path, hosts[1].addr(), &hosts).await;
                let is_chosen = is_steered && !internal_only;
                assert_eq!(counts, if is_chosen { [0, 30, 0] } else { [10, 10, 10] }, "{name} {path} {internal_only}");
                let named = hosts.iter().flat_map(Backend::seen).any(|seen| seen.header(HOSTS).is_some());
                // Both seats have one name there, so that the route has both off.
                let has_attempt_seat = is_steered && has_module && path != "/off";
                assert_eq!(named, !internal_only && !has_attempt_seat, "{name} {path}: whether a host sees the header");
            }
        }
    }
}

/// All documents in YAML and JSON below `envoy/`, but for templates, each with its file.
fn documents() -> Vec<(String, Value)> {
    let mut folders = vec![shipped("")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "templates" {
                folders.push(path);
            } else if path.is_file() && (name.ends_with(".yaml") || name.ends_with(".json")) {
                let text = fs::read_to_string(&path).unwrap();
                for document in serde_norway::Deserializer::from_str(&text) {
                    let document =
                        Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    found.push((path.strip_prefix(shipped("")).unwrap().display().to_string(), document));
                }
            }
        }
    }
    found
}

/// Every object within a value.
fn objects(value: &Value) -> Vec<&Value> {
    let within: Vec<&Value> = match value {
        Value::Object(fields) => fields.values().flat_map(objects).collect(),
        Value::Array(items) => items.iter().flat_map(objects).collect(),
        _ => Vec::new(),
    };
    value.is_object().then_some(value).into_iter().chain(within).collect()
}

/// Whether hosts of a cluster can be named by the header.
fn is_steered(value: &Value) -> bool {
    objects(value).iter().any(|object| {
        let sources = object["override_host_sources"].as_array().into_iter().flatten();
        sources.into_iter().any(|source| source["header"] == HOSTS)
    })
}

fn takes_off(routes: &Value) -> bool {
    routes["internal_only_headers"].as_array().is_some_and(|names| names.contains(&json!(HOSTS)))
}

#[test]
fn every_shipped_file_that_steers_keeps_clients_from_it_on_all_its_routes() {
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    let mut count = |kind| *kinds.entry(kind).or_default() += 1;
    for (file, document) in documents() {
        let patches = |field: &str| document["spec"][field].as_array().cloned().unwrap_or_default();
        match document["kind"].as_str() {
            Some("EnvoyFilter") => {
                let of_kind = |kind: &'static str| {
                    patches("configPatches").into_iter().filter(move |patch| patch["applyTo"] == kind)
                };
                for cluster in of_kind("CLUSTER").filter(is_steered) {
                    let context = json!({"context": cluster["match"]["context"]});
                    let everywhere = of_kind("ROUTE_CONFIGURATION").any(|routes| {
                        routes["match"] == context
                            && routes["patch"]["operation"] == "MERGE"
                            && takes_off(&routes["patch"]["value"])
                    });
                    assert!(everywhere, "{file}: in {context}");
                    count("EnvoyFilter");
                }
            }
            Some("EnvoyPatchPolicy") => {
                let patches = patches("jsonPatches");
                if !patches.iter().any(is_steered) {
                    continue;
                }
                let of_kind = |kind: &'static str| {
                    patches.iter().filter(move |patch| patch["type"].as_str().is_some_and(|name| name.ends_with(kind)))
                };
                for listener in of_kind(".Listener") {
                    let set = of_kind(".RouteConfiguration").any(|routes| {
                        routes["name"] == listener["name"]
                            && routes["operation"]["path"] == "/internal_only_headers"
                            && routes["operation"]["value"] == json!([HOSTS])
                    });
                    assert!(set, "{file}: the routes of {}", listener["name"]);
                    count("EnvoyPatchPolicy");
                }
            }
            _ => {
                for routes in objects(&document).into_iter().filter(|object| object["virtual_hosts"].is_array()) {
                    assert!(takes_off(routes), "{file}: {}", routes["name"]);
                    count("bootstrap");
                }
            }
        }
    }
    assert!(kinds["EnvoyFilter"] >= 13 && kinds["EnvoyPatchPolicy"] >= 1 && kinds["bootstrap"] == 3, "{kinds:?}");

    let template = fs::read_to_string(shipped("helm/holdfast/templates/envoyfilter.yaml")).unwrap();
    let set = "  {{- if $steered }}\n  - applyTo: ROUTE_CONFIGURATION\n    match:\n      context: {{ $context }}\n    patch:\n      \
               operation: MERGE\n      value:\n        internal_only_headers: [x-holdfast-hosts]\n  {{- end }}\n";
    assert!(template.contains(set), "the chart sets it wherever a cluster is steered");
}
