//! A hedge that overtakes an attempt: what that says of the host which was too slow, beside Envoy's own detection.

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, drive_all, eventually,
};
use serde_json::json;
use tokio::time::sleep;

use crate::outlying::{ADMIN, NOTICED, are_told_nothing, becomes, listed, metric, metric_now, ms, told};

/// Two clusters of the same hosts, both with hedges after 100 ms: one judged by Holdfast, one by Envoy.
async fn start(hosts: &[Backend]) -> (Scene, Client) {
    let cluster = |name| hosts.iter().fold(Cluster::new(name), |cluster, host| cluster.endpoint(host.addr()));
    let own = cluster("own").without_attempt_seat().raw(json!({"outlier_detection": {
        "consecutive_5xx": 5, "enforcing_success_rate": 0, "base_ejection_time": "300s", "max_ejection_percent": 100,
    }}));
    let hedges = json!({"route": {
        "retry_policy": {"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.1s"},
        "hedge_policy": {"hedge_on_per_try_timeout": true},
    }});
    let options = EnvoyOptions::new().concurrency(1).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    let options = options.cluster(cluster("orders").steered()).cluster(own).route(Scene::aside());
    let options = options.route(Route::to("/orders", "orders")).route(Route::to("/own", "own").raw(hedges));
    let policy = json!({"policies": [{
        "name": "orders", "match": {"cluster": ["orders"]},
        "retry": {
            "max_retries": 1, "per_try_timeout": "100ms", "hedge_on_per_try_timeout": true,
            "backoff": {"base": "1ms", "max": "1ms", "jitter": "none"}, "budget": {"ratio": 100, "min_per_second": 1000},
        },
        "outlier": listed(json!({"consecutive_failures": 5, "base_ejection_time": "300s", "interval": "300s"})),
    }]});
    let scene = Scene::with(options.policy(policy)).await;
    let clients = scene.workers(1).await;
    for _ in 0..2 {
        drive_all(&clients, 1, 12, "/orders").await;
        sleep(NOTICED).await;
    }
    becomes(&scene, "/orders", "hosts", hosts.len() as u64).await;
    (scene, clients.into_iter().next().unwrap())
}

/// A host that takes a second beside two that answer at once: each request to it is served by a hedge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_overtaken_again_and_again_is_found_no_later_than_by_envoy() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let (scene, client) = start(&hosts).await;
    hosts[0].always(Action::ok().after(ms(1000)));
    hosts.iter().for_each(Backend::reset_counters);
    // Of a host that is out Envoy itself tells nothing else.
    let is_out = async |path: &str| match path {
        "/own" => {
            let name = "cluster.own.outlier_detection.ejections_active";
            scene.stats().await.unwrap().get(name).copied().unwrap_or_default() == 1
        }
        path => metric_now(&scene, path, "hosts_ejected").await == 1,
    };
    let met = async |path: &str| {
        eventually(PATIENCE, || async {
            let response = client.get(path).await.unwrap();
            if response.status == 200 && is_out(path).await { Ok(()) } else { Err(format!("{path}: nobody is out")) }
        })
        .await
        .unwrap();
        hosts[0].requests_to(path)
    };
    let (own, ours) = (met("/own").await, met("/orders").await);
    println!("out after {ours} requests to it, and {own} with Envoy's own detection");
    assert!(ours <= own, "{ours} requests, and {own} with Envoy's own detection");
    let told = told(&scene, "/orders");
    assert!(told.iter().any(|line| line.contains("5 consecutive failures, last timeout")), "{told:?}");
    are_told_nothing(&hosts);
}

/// A hedge that the first attempt overtakes says nothing of its host, and neither does an attempt that was not long enough under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_that_was_not_needed_is_nobodys_failure() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let (scene, client) = start(&hosts).await;
    // Each first attempt is hedged at 100 ms, and answers at 160 ms, when its hedge has been under way for 60 ms.
    hosts.iter().for_each(|host| host.always(Action::ok().after(ms(160))));
    hosts.iter().for_each(Backend::reset_counters);
    for _ in 0..40 {
        assert_eq!(client.get("/orders").await.unwrap().status, 200);
    }
    let attempts: u64 = hosts.iter().map(Backend::requests).sum();
    assert!(attempts > 60, "most are hedged: {attempts} attempts of 40 requests");
    assert_eq!(metric(&scene, "/orders", "hosts_ejected").await, 0, "{:?}", told(&scene, "/orders"));
}
