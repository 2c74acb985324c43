//! The harness itself: what the tests of outlier ejection take for granted about the hosts of a cluster, about load over
//! several workers, and about a module that crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, Cluster, Envoy, EnvoyOptions, HOSTS, PATIENCE, Route, Scene, Traffic, drive_all,
    eventually, fatal_request, with_header,
};
use serde_json::json;

async fn start<const COUNT: usize>() -> [Backend; COUNT] {
    let mut hosts = Vec::new();
    for _ in 0..COUNT {
        hosts.push(Backend::start().await.unwrap());
    }
    hosts.try_into().unwrap()
}

fn counts(hosts: &[Backend]) -> Vec<u64> {
    hosts.iter().map(Backend::requests).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steered_cluster_goes_where_the_header_says_and_else_by_turns() {
    let hosts: [Backend; 3] = start().await;
    let six = Backend::start_on("[::1]:0".parse().unwrap()).await.unwrap();
    let cluster = hosts
        .iter()
        .chain([&six])
        .fold(Cluster::new("orders").steered(), |cluster, host| cluster.endpoint(host.addr()));
    let retries = json!({"retry_on": "5xx", "num_retries": 3});
    let options = EnvoyOptions::new().concurrency(1).cluster(cluster);
    let envoy = Envoy::start(options.route(Route::to("/", "orders").retry_policy(retries))).await.unwrap();
    let client = Client::http1(envoy.addr());
    let to = |hosts: &str| with_header(Client::request("/"), HOSTS, hosts);

    assert_eq!(client.drive(1, 8, "/").await.count(200), 8);
    assert_eq!((counts(&hosts), six.requests()), (vec![2, 2, 2], 2), "no header: by turns");
    for addr in [hosts[1].addr(), six.addr()] {
        assert_eq!(client.drive(1, 5, to(&addr.to_string())).await.count(200), 5);
    }
    assert_eq!((counts(&hosts), six.requests()), (vec![2, 7, 2], 7), "one host is named, in brackets if it is IPv6");
    assert_eq!(hosts[1].last_seen().unwrap().header(HOSTS), Some(hosts[1].addr().to_string()), "and sees the header");

    hosts[0].always(Action::status(503));
    six.always(Action::status(503));
    let list = format!("{},{},{}", six.addr(), hosts[0].addr(), hosts[2].addr());
    assert_eq!(client.send(to(&list)).await.unwrap().status, 200);
    assert_eq!((counts(&hosts), six.requests()), (vec![3, 7, 3], 8), "each try goes to the next of the list");
    assert_eq!(client.send(to("127.0.0.1:1")).await.unwrap().status, 200, "one that is not there is passed over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_come_and_go_while_envoy_runs() {
    let hosts: [Backend; 3] = start().await;
    let cluster = Cluster::new("orders").steered().dynamic_endpoints().endpoint(hosts[0].addr());
    let options = EnvoyOptions::new().cluster(cluster).cluster(Cluster::admin("envoy_admin"));
    let options = options.route(Route::to("/clusters", "envoy_admin")).route(Route::to("/", "orders"));
    let envoy = Envoy::start(options).await.unwrap();
    let client = Client::http1(envoy.addr());

    assert_eq!(client.drive(2, 4, "/").await.count(200), 4);
    assert_eq!(counts(&hosts), [4, 0, 0]);
    envoy.set_endpoints("orders", &[hosts[1].addr(), hosts[2].addr()]).await.unwrap();
    assert_eq!(client.drive(2, 20, "/").await.count(200), 20);
    let seen = counts(&hosts);
    assert_eq!((seen[0], seen[1] + seen[2]), (4, 20), "the first host has left");
    assert!(seen[1] > 5 && seen[2] > 5, "the new ones share: {seen:?}");
    envoy.set_endpoints("orders", &[]).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status, 503);

    let page = client.get("/clusters?format=json").await.unwrap().json();
    let named = page["cluster_statuses"].as_array().unwrap().iter().map(|status| status["name"].as_str().unwrap());
    assert_eq!(
        named.collect::<BTreeSet<_>>(),
        ["envoy_admin", "orders"].into(),
        "a cluster can be the admin interface"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_tells_which_hosts_its_own_detection_has_out() {
    let hosts: [Backend; 2] = start().await;
    let detection = json!({"outlier_detection": {"consecutive_5xx": 3, "max_ejection_percent": 100}});
    let options = Scene::of_all(&[&hosts[0], &hosts[1]]);
    let native = Cluster::new("native").endpoint(hosts[0].addr()).endpoint(hosts[1].addr()).raw(detection);
    let options =
        options.cluster(native).listener(holdfast_tests::Listener::new("native").route(Route::to("/", "native")));
    let envoy = Envoy::start(options).await.unwrap();
    let client = Client::http1(envoy.listener("native"));
    hosts[0].always(Action::status(500));

    client.drive(2, 20, "/").await;

    let out = BTreeMap::from([(hosts[0].addr(), true), (hosts[1].addr(), false)]);
    eventually(PATIENCE, || async { envoy.hosts("native").await.unwrap() == out }).await.unwrap();
    assert!(envoy.hosts("orders").await.unwrap().values().all(|is_out| !is_out), "another cluster has its own view");
    assert!(envoy.hosts("nowhere").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_is_spread_over_clients_and_counted() {
    let hosts: [Backend; 2] = start().await;
    let clients = [Client::http1(hosts[0].addr()), Client::http2(hosts[1].addr())];

    let records = drive_all(&clients, 4, 50, "/").await;
    assert_eq!((records.count(200), counts(&hosts).iter().sum::<u64>()), (50, 50));
    assert!(counts(&hosts).iter().all(|count| *count > 5), "both clients sent: {:?}", counts(&hosts));

    hosts[1].always(Action::status(500));
    let traffic = Traffic::start(&clients, 2, Duration::from_millis(1), "/more");
    traffic.goes_on(40).await.unwrap();
    let answered = traffic.answered();
    let records = traffic.stop().await;
    assert!(answered >= 40 && records.0.len() as u64 >= answered);
    assert_eq!(records.count(200) as u64, hosts[0].requests_to("/more"));
    assert_eq!(records.count(500) as u64, hosts[1].requests_to("/more"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fragile_module_dies_when_it_is_told_to_and_comes_back() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "breaker": {"state": "forced_closed"}}]});
    let scene = Scene::with(Scene::of(&host).fragile().policy(policy)).await.with_faults();
    let workers = scene.workers(2).await;

    assert_eq!(drive_all(&workers, 2, 10, "/").await.count(200), 10, "it works like the module");
    // What a VM has not told yet goes with it.
    scene.becomes("success", 10).await;
    assert_eq!(workers[0].send(fatal_request("/")).await.unwrap().status, 503, "one worker's VM is gone");
    assert_eq!(workers[0].get("/").await.unwrap().status, 503);
    assert_eq!(workers[1].get("/").await.unwrap().status, 200, "and the other's is not");
    assert!(scene.log().contains("proxy_on_request_headers"), "the log tells of it");
    eventually(PATIENCE, || async { workers[0].get("/").await.unwrap().status == 200 }).await.expect("it comes back");
    let counted = scene.counted(&["requests", "success"]).await;
    assert_eq!(counted["requests"], counted["success"], "what it has counted it knows");
}
