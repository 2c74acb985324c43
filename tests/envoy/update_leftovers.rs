//! What is left of a document that is gone: no check of its hosts, no tick, no wake.

use std::time::{Duration, Instant};

use holdfast_tests::{Backend, PATIENCE, Policy, eventually};
use serde_json::json;
use tokio::time::sleep;

use crate::outlying::{all_served, before, start};
use crate::updating::{SHORT, Updated, Way};

const INTERVAL: Duration = Duration::from_millis(500);

/// Longer than a listener drains, which is three seconds, and than a check that is under way takes.
const GONE: Duration = Duration::from_secs(5);

/// A policy that has its hosts checked at this path. `content` makes it another one.
fn checking(path: &str, hosts: &[Backend], content: u64) -> Policy {
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    let outlier = json!({
        "hosts": addrs, "max_ejection_time": format!("{}s", 300 + content),
        "heartbeat": {"path": path, "interval": "500ms", "timeout": "450ms"},
    });
    json!({"policies": [{"name": "orders", "outlier": outlier, "breaker": {}, "retry": {}}]}).into()
}

fn nothing() -> Policy {
    json!({"policies": []}).into()
}

/// What the hosts have got of a path, each.
fn got(hosts: &[Backend], path: &str) -> Vec<u64> {
    hosts.iter().map(|host| host.requests_to(path)).collect()
}

/// Each host is checked there, once an interval, by all workers together.
async fn are_checked_once_an_interval(hosts: &[Backend], path: &str) {
    let (before, began) = (got(hosts, path), Instant::now());
    eventually(PATIENCE, || async {
        let now = got(hosts, path);
        let enough = now.iter().zip(&before).all(|(now, before)| *now >= before + 6);
        if enough { Ok(()) } else { Err(format!("{path}: {before:?} before, {now:?} now")) }
    })
    .await
    .unwrap();
    let most = began.elapsed().as_millis() as u64 / INTERVAL.as_millis() as u64 + 2;
    for (now, before) in got(hosts, path).iter().zip(before) {
        assert!(now - before <= most, "{path}: {} checks in {:?}, {most} at most", now - before, began.elapsed());
    }
}

/// How often workers wake in two seconds.
async fn wakes(scene: &Updated) -> u64 {
    let before = scene.worker_wakes().unwrap();
    sleep(Duration::from_secs(2)).await;
    scene.worker_wakes().unwrap() - before
}

/// Envoy takes a document over, and each worker has requests of it: so it is known for which cluster a policy is.
async fn takes_and_uses(scene: &Updated, document: Policy) {
    scene.update(document).await;
    for client in scene.workers(4).await {
        all_served(&client.drive(1, 2, "/").await);
    }
}

async fn nothing_is_left_of_a_document_that_is_gone(way: Way) {
    let hosts: [Backend; 2] = start().await;
    let scene = Updated::start(before(&hosts, 4, json!({})), way, nothing()).await;
    sleep(GONE).await;
    let idle = wakes(&scene).await;

    takes_and_uses(&scene, checking("/a", &hosts, 0)).await;
    are_checked_once_an_interval(&hosts, "/a").await;
    scene.refuse(json!({"policies": [{"name": "orders", "outlier": {"heartbeat": {"path": "a"}}}]})).await;
    are_checked_once_an_interval(&hosts, "/a").await;

    takes_and_uses(&scene, checking("/b", &hosts, 0)).await;
    sleep(GONE).await;
    let left = got(&hosts, "/a");
    are_checked_once_an_interval(&hosts, "/b").await;
    assert_eq!(got(&hosts, "/a"), left, "nobody checks there any more");

    // Each is another policy.
    for content in 1..=10 {
        takes_and_uses(&scene, checking("/b", &hosts, content)).await;
    }
    sleep(GONE).await;
    are_checked_once_an_interval(&hosts, "/b").await;
    assert_eq!(got(&hosts, "/a"), left, "nor now");

    scene.update(nothing()).await;
    sleep(GONE).await;
    let all = || hosts.iter().map(Backend::requests).sum::<u64>();
    let before = all();
    let after = wakes(&scene).await;
    assert_eq!(all(), before, "without a policy there is no check, nor any other request");
    println!("{way:?}: {idle} wakes in two idle seconds before, {after} after");
    assert!(after < idle + 60, "workers woke {idle} times in two idle seconds before all of them, {after} after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_document_that_came_by_discovery() {
    nothing_is_left_of_a_document_that_is_gone(Way::Discovery).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_document_whose_listener_has_drained() {
    nothing_is_left_of_a_document_that_is_gone(SHORT).await;
}
