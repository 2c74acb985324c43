//! What becomes of state, and of the gauges that tell it, when a policy or a feature is taken out, put back or renamed.

use holdfast_tests::{Action, Backend, Client, PATIENCE, Scene, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{NOTICED, SETTLED};
use crate::updating::{CLOSED, LAPSED, LONG, OPEN, SHORT, Updated, Way, fails, is_rejected};

/// Opens after four failures, ejects after three.
fn features() -> Value {
    json!({
        "breaker": {"window": 4, "min_requests": 4, "failure_rate": 100, "open_for": "1h"},
        "outlier": {"consecutive_failures": 3, "base_ejection_time": "1h", "max_ejected": 100},
    })
}

fn policy(name: &str, features: Value) -> Value {
    let mut policy = json!({"name": name, "match": {"cluster": ["orders"]}});
    json_patch::merge(&mut policy, &features);
    policy
}

fn document(policies: &[Value]) -> Value {
    json!({"policies": policies})
}

/// An Envoy with the policy `orders`, whose breaker is open and whose only host is out.
async fn open(way: Way) -> (Updated, Backend) {
    let host = Backend::start().await.unwrap();
    let options = Scene::of(&host).seats(holdfast_tests::Seats::Both);
    let envoy = Updated::start(options, way, &document(&[policy("orders", features())])).await;
    for _ in 0..2 {
        for client in envoy.clients().await {
            assert_eq!(client.get("/").await.unwrap().status, 200);
        }
        sleep(NOTICED).await;
    }
    fails(&host);
    for _ in 0..4 {
        assert_eq!(envoy.client.reconnected().get("/").await.unwrap().status, 500);
    }
    host.always(Action::ok());
    are(&envoy, "orders", [OPEN, 1, 1]).await;
    host.reset_counters();
    (envoy, host)
}

/// Waits until the gauges of a policy are these: its breaker's state, its hosts, and those that are out.
async fn are(envoy: &Updated, policy: &str, wanted: [u64; 3]) {
    eventually(PATIENCE, || async {
        let mut now = [0; 3];
        for (now, name) in now.iter_mut().zip(["breaker_state", "hosts", "hosts_ejected"]) {
            *now = envoy.metric_now(policy, "cluster=orders", name).await;
        }
        if now == wanted { Ok(()) } else { Err(format!("{policy}: {now:?}, not {wanted:?}")) }
    })
    .await
    .unwrap();
}

/// On each worker, over new connections.
async fn all_are(envoy: &Updated, rejected: bool, when: &str) {
    for client in envoy.clients().await {
        let response = client.get("/").await.unwrap();
        assert_eq!(is_rejected(&response), rejected, "{when}: {}", response.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_is_put_back_in_time_is_as_it_was() {
    tokio::join!(put_back(SHORT), put_back(Way::Discovery), put_back_while_it_drains());
}

async fn put_back(way: Way) {
    let (envoy, host) = open(way).await;
    let with = document(&[policy("orders", features())]);

    envoy.update(&document(&[])).await;
    all_are(&envoy, false, "without it").await;
    // Of a policy that is gone no gauge goes on telling anything.
    are(&envoy, "orders", [CLOSED, 0, 0]).await;
    envoy.update(&with).await;
    all_are(&envoy, true, "put back").await;
    are(&envoy, "orders", [OPEN, 1, 1]).await;

    // The same with a single feature.
    let without = |name: &str| {
        let mut features = features();
        features[name] = json!(null);
        document(&[policy("orders", features)])
    };
    envoy.update(&without("breaker")).await;
    all_are(&envoy, false, "without a breaker").await;
    are(&envoy, "orders", [CLOSED, 1, 1]).await;
    envoy.update(&without("outlier")).await;
    all_are(&envoy, true, "with the breaker again").await;
    are(&envoy, "orders", [OPEN, 0, 0]).await;
    envoy.update(&with).await;
    all_are(&envoy, true, "with both").await;
    are(&envoy, "orders", [OPEN, 1, 1]).await;

    // Off is as good as out.
    let mut off = policy("orders", features());
    off["breaker"]["mode"] = json!("off");
    envoy.update(&document(&[off])).await;
    all_are(&envoy, false, "off").await;
    are(&envoy, "orders", [CLOSED, 1, 1]).await;
    envoy.update(&with).await;
    all_are(&envoy, true, "on again").await;
    host.reset_counters();
    assert_eq!(envoy.transitions("orders").len(), 1);
}

/// However long that takes.
async fn put_back_while_it_drains() {
    let (envoy, host) = open(LONG).await;
    let kept: Vec<Client> = (0..2).map(|_| envoy.client.reconnected()).collect();
    for client in &kept {
        client.get("/aside").await.unwrap();
    }
    envoy.update(&document(&[])).await;
    all_are(&envoy, false, "without it").await;
    sleep(LAPSED).await;
    assert!(is_rejected(&kept[0].get("/").await.unwrap()), "where the old listener drains it is still open");
    are(&envoy, "orders", [OPEN, 1, 1]).await;

    host.reset_counters();
    envoy.update(&document(&[policy("orders", features())])).await;
    all_are(&envoy, true, "put back").await;
    assert_eq!(host.requests(), 0);
    are(&envoy, "orders", [OPEN, 1, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_another_name_begins_afresh() {
    tokio::join!(renamed(SHORT), renamed(Way::Discovery));
}

async fn renamed(way: Way) {
    let (envoy, host) = open(way).await;

    envoy.update(&document(&[policy("orders-2", features())])).await;
    all_are(&envoy, false, "under another name").await;
    assert_eq!(host.requests(), 4);
    are(&envoy, "orders-2", [CLOSED, 1, 0]).await;
    are(&envoy, "orders", [CLOSED, 0, 0]).await;

    // Two that change their names are not taken for each other.
    let both = |first: &str, second: &str| {
        let mut other = policy(second, features());
        other["match"] = json!({"path": ["/other"]});
        document(&[other, policy(first, features())])
    };
    envoy.update(&both("orders", "orders-2")).await;
    all_are(&envoy, true, "its old name, in time").await;
    let other = envoy.client.reconnected().get("/other").await.unwrap();
    assert_eq!(other.status, 200, "the other one is closed");
    envoy.update(&both("orders-2", "orders")).await;
    all_are(&envoy, false, "the names changed places").await;
    assert!(is_rejected(&envoy.client.reconnected().get("/other").await.unwrap()), "and so did their states");
}

/// The place of what is gone is used again, by something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_in_a_place_that_another_had_before() {
    tokio::join!(places_are_clean(SHORT), places_are_clean(Way::Discovery));
}

async fn places_are_clean(way: Way) {
    let (envoy, host) = open(way).await;
    for round in 0..2 {
        let name = format!("other-{round}");
        envoy.update(&document(&[])).await;
        sleep(LAPSED).await;
        host.reset_counters();
        let mut other = features();
        other["breaker"]["open_for"] = json!(format!("{}m", 50 + round));
        envoy.update(&document(&[policy(&name, other)])).await;
        all_are(&envoy, false, "another policy").await;
        assert_eq!(host.requests(), 4, "{way:?} round {round}");
        are(&envoy, &name, [CLOSED, 1, 0]).await;
        // It has a state to leave behind, too.
        fails(&host);
        for _ in 0..4 {
            assert_eq!(envoy.client.reconnected().get("/").await.unwrap().status, 500, "{way:?} round {round}");
        }
        host.always(Action::ok());
        sleep(SETTLED).await;
        all_are(&envoy, true, "when it is open").await;
    }
}
