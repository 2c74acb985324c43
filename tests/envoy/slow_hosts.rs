//! Hosts that are slow, or only look so: equal ones with a heavy tail, and one that is cold. Beside the same cluster without
//! Holdfast, in the same Envoy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, Traffic, eventually,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{all_known, becomes, counts, metric, ms, start, steered, told};

/// Two clusters whose hosts can be replaced: `orders`, which the policy governs, and `plain`, which nobody does.
async fn scene_of(orders: &[Backend], plain: &[Backend], outlier: Value) -> (Scene, Vec<Client>) {
    let policy = json!({"name": "orders", "match": {"cluster": ["orders"]}, "outlier": outlier});
    let (scene, clients) = scene_with(orders, plain, vec![policy]).await;
    all_known(&scene, &clients, &["orders"], orders).await;
    (scene, clients)
}

async fn scene_with(orders: &[Backend], plain: &[Backend], policies: Vec<Value>) -> (Scene, Vec<Client>) {
    let bare = plain.iter().fold(Cluster::new("plain"), |cluster, host| cluster.endpoint(host.addr()));
    let options = EnvoyOptions::new()
        .concurrency(4)
        .seats(Seats::Both)
        .cluster(steered("orders", orders).dynamic_endpoints())
        .cluster(bare.dynamic_endpoints())
        .route(Scene::aside())
        .route(Route::to("/plain", "plain"))
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": policies}));
    let scene = Scene::with(options).await;
    let clients = scene.workers(4).await;
    (scene, clients)
}

async fn metric_of(scene: &Scene, policy: &str, name: &str) -> u64 {
    scene.metric_of(policy, "cluster=orders", name).await
}

/// Two of a hundred answers take 500 ms, by chance, and the others 5.
fn has_heavy_tail(host: &Backend, seed: u64) {
    // Source: Knuth, "The Art of Computer Programming", volume 2, the generator of MMIX.
    let next = |state: u64| state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let state = Mutex::new(next(seed));
    host.script(move |_| {
        let mut state = state.lock().unwrap();
        *state = next(*state);
        Action::ok().after(if (*state >> 33) % 50 == 0 { ms(500) } else { ms(5) })
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_hosts_with_a_heavy_tail_stay_in_and_a_slow_one_goes() {
    let (hosts, plain) = (start::<3>().await, start::<1>().await);
    let outlier = json!({"consecutive_failures": 0, "interval": "1s", "latency": {}, "base_ejection_time": "1h"});
    let mut shadow = outlier.clone();
    shadow["latency"]["mode"] = json!("shadow");
    let policy =
        |name: &str, outlier: Value| json!({"name": name, "match": {"path": [format!("/{name}")]}, "outlier": outlier});
    let policies = vec![policy("tail", shadow), policy("slow", outlier)];
    let (scene, clients) = scene_with(&hosts, &plain, policies).await;
    for (host, seed) in hosts.iter().zip(1..) {
        has_heavy_tail(host, seed);
    }
    let traffic = Traffic::start(&clients, 12, ms(20), "/tail");
    // Thirty intervals of some seventy or more answers for each host.
    sleep(ms(30_500)).await;
    traffic.stop().await;
    let found = metric_of(&scene, "tail", "ejections_detected.latency").await;
    println!("found in thirty intervals: {found}");
    // Twenty answers that wait while a busy machine does something else are twenty slow answers. As a difference of means alone it is
    // found in eight or more.
    assert!(found <= 2, "{:?}", told(&scene, "tail"));

    hosts.iter().for_each(|host| host.always(Action::ok().after(ms(5))));
    hosts[1].always(Action::ok().after(ms(250)));
    let traffic = Traffic::start(&clients, 32, ms(20), "/slow");
    eventually(PATIENCE, || async { metric_of(&scene, "slow", "ejections.latency").await == 1 }).await.unwrap();
    traffic.stop().await;
    assert!(scene.log().contains(&format!("host {} ejected", hosts[1].addr())), "{}", scene.log());
}

/// Slow until it has served so many requests, as one with code to compile and caches to fill. Gives when it has.
fn is_cold(host: &Backend) -> Arc<Mutex<Option<Instant>>> {
    let (served, warm) = (AtomicU64::new(0), Arc::new(Mutex::new(None)));
    let since = Arc::clone(&warm);
    host.script(move |_| {
        if served.fetch_add(1, Ordering::Relaxed) < 300 {
            return Action::ok().after(ms(100));
        }
        since.lock().unwrap().get_or_insert_with(Instant::now);
        Action::ok().after(ms(20))
    });
    warm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_host_that_joins_becomes_warm_as_soon_as_without_holdfast() {
    let (hosts, plain) = (start::<4>().await, start::<4>().await);
    let outlier = json!({"consecutive_failures": 0, "interval": "1s", "latency": {"min_requests": 10}});
    let (scene, clients) = scene_of(&hosts[..3], &plain[..3], outlier).await;
    for host in hosts.iter().chain(&plain) {
        host.always(Action::ok().after(ms(20)));
    }
    let traffic = ["/", "/plain"].map(|path| Traffic::start(&clients, 5, ms(30), path));
    sleep(ms(5000)).await;

    let warm = [&hosts[3], &plain[3]].map(is_cold);
    let joined = Instant::now();
    for (cluster, hosts) in [("orders", &hosts), ("plain", &plain)] {
        let addrs: Vec<_> = hosts.iter().map(Backend::addr).collect();
        scene.set_endpoints(cluster, &addrs).await.unwrap();
    }
    let took = |of: usize| warm[of].lock().unwrap().map(|at| at.duration_since(joined));
    eventually(PATIENCE, || async { took(0).is_some() && took(1).is_some() }).await.unwrap();
    let (with, without) = (took(0).unwrap(), took(1).unwrap());
    println!("warm after {with:?}, without Holdfast after {without:?}: {:?}", counts(&hosts));
    assert!(with < without * 2, "{with:?} with Holdfast, {without:?} without");
    assert_eq!(metric(&scene, "orders", "ejections_detected.latency").await, 0, "{:?}", told(&scene, "orders"));
    for traffic in traffic {
        let records = traffic.stop().await;
        assert_eq!(records.count(200), records.0.len());
    }
}

/// A host that was found slow is judged by several probes, gets a small part of its share while it is slow, and all of it when it is
/// not any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_host_gets_a_little_and_comes_back_when_it_is_not_slow_any_more() {
    let (hosts, plain) = (start::<4>().await, start::<1>().await);
    let outlier = json!({
        "consecutive_failures": 0, "interval": "1s", "latency": {"min_requests": 10, "grace": "0s"},
        "base_ejection_time": "4s", "ejection_jitter": 0,
    });
    let (scene, clients) = scene_of(&hosts, &plain, outlier).await;
    for host in &hosts {
        host.always(Action::ok().after(ms(5)));
    }
    let slow = &hosts[2];
    slow.always(Action::ok().after(ms(150)));
    let traffic = Traffic::start(&clients, 16, ms(15), "/");
    becomes(&scene, "orders", "ejections.latency", 1).await;
    becomes(&scene, "orders", "probe_failed", 1).await;
    hosts.iter().for_each(Backend::reset_counters);
    sleep(ms(7000)).await;
    let (got, all) = (slow.requests(), counts(&hosts).iter().sum::<u64>());
    println!("while it is out it gets {got} of {all}");
    // Of a quarter it gets 3 %.
    assert!(got > 0 && got * 50 <= all, "while it is out it gets {got} of {all}");
    assert_eq!(metric(&scene, "orders", "hosts_ejected").await, 1);

    slow.always(Action::ok().after(ms(5)));
    becomes(&scene, "orders", "readmitted", 1).await;
    // Its share grows for three intervals.
    sleep(ms(3500)).await;
    hosts.iter().for_each(Backend::reset_counters);
    traffic.goes_on(400).await.unwrap();
    let records = traffic.stop().await;
    assert!(slow.requests() >= 60, "it serves as the others do: {:?}", counts(&hosts));
    assert_eq!(records.count(200), records.0.len());
    let told = told(&scene, "orders");
    let slow =
        told.iter().filter(|line| line.contains(" is still slow, ") && line.contains(" for 3.0% of its share; 1 of 4"));
    assert!(slow.count() == told.len() - 2 && told.len() > 2, "{told:?}");
    let back = told.last().unwrap();
    assert!(back.contains(": it is not slow any more, full share in 3s; 0 of 4 hosts out"), "{told:?}");
}
