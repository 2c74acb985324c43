//! Documents that are refused, empty, the same, or too many at once: the last good one governs, nothing is lost, and nothing is
//! counted twice.

use std::cell::Cell;
use std::collections::BTreeSet;

use holdfast_tests::{Backend, Client, PATIENCE, Scene, Traffic, Update, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::ms;
use crate::updating::{LAPSED, OPEN, SHORT, Updated, Way, fails, is_rejected, names, of_all_names};

fn document(text: &str, breaker: Value) -> Value {
    let mut all = json!({"window": "5m", "min_requests": 4, "open_for": "1h"});
    json_patch::merge(&mut all, &breaker);
    let fallback = json!([{"on": ["open"], "respond": {"status": 200, "body": text}}]);
    json!({"policies": [{"name": "orders", "breaker": all, "fallback": fallback}]})
}

/// An Envoy whose breaker is open, under load that it answers with a fallback.
struct Open {
    envoy: Updated,
    host: Backend,
    traffic: Traffic,
    /// Requests that are no part of the load.
    others: Cell<u64>,
}

impl Open {
    async fn start(way: Way) -> Self {
        let host = Backend::start().await.unwrap();
        let envoy = Updated::start(Scene::of(&host), way, &document("good", json!({}))).await;
        fails(&host);
        for _ in 0..4 {
            assert_eq!(envoy.client.get("/").await.unwrap().status, 500);
        }
        eventually(PATIENCE, || async { envoy.metric_now("orders", KEY, "breaker_state").await == OPEN })
            .await
            .unwrap();
        let clients = match way {
            Way::Listener(_) => vec![envoy.client.clone()],
            Way::Discovery => envoy.clients().await,
        };
        let traffic = Traffic::start(&clients, 4, ms(5), "/");
        Self { envoy, host, traffic, others: Cell::new(4) }
    }

    /// Some requests later this document governs, on all workers, and the breaker is still open.
    async fn is_governed_by(&self, text: &str) {
        self.traffic.goes_on(20).await.unwrap();
        for client in self.envoy.clients().await {
            let response = client.get("/").await.unwrap();
            assert_eq!(response.text(), text, "{}: {:?}", response.status, response.header("x-holdfast-reject"));
            assert!(is_rejected(&response));
            self.others.set(self.others.get() + 1);
        }
        assert_eq!(self.envoy.metric_now("orders", KEY, "breaker_state").await, OPEN);
    }

    /// No request was lost, none came to the host, and each is counted once, under no other name.
    async fn end(self, passed: u64) {
        let records = self.traffic.stop().await;
        let sent = records.0.len() as u64 + self.others.get();
        let not = records.responses().find(|response| response.status != 200);
        assert_eq!((records.errors().count(), not.map(|response| response.status)), (0, None));
        assert_eq!(self.host.requests(), 4 + passed, "after the four that opened it");
        let counted = self.envoy.metrics("orders", KEY).await;
        assert_eq!(counted["requests"], sent);
        assert_eq!(counted["rejected.open"], sent - 4 - passed);
        assert_eq!(counted["failure"], 4);
        assert_eq!(self.envoy.transitions("orders").len(), 1, "it opened once");
    }
}

const KEY: &str = "cluster=orders";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_document_changes_nothing() {
    tokio::join!(refused(SHORT), refused(Way::Discovery));
}

async fn refused(way: Way) {
    let open = Open::start(way).await;
    let bad = [
        document("bad", json!({"failure_rate": 140})).to_string(),
        // Wrong in the last of its policies.
        json!({"policies": [{"name": "orders", "breaker": {}}, {"name": "Bad"}]}).to_string(),
        String::new(),
        "{\"policies\": [".to_owned(),
        "{}".to_owned(),
    ];
    for (number, bad) in bad.iter().enumerate() {
        let log = open.envoy.refuse(bad.as_str()).await;
        assert!(log.contains("holdfast: configuration refused: "), "{way:?} {bad}: {log}");
        open.is_governed_by(if number == 0 { "good" } else { "better" }).await;
        // The next good one is taken over as if there had been none between.
        open.envoy.update(&document("better", json!({"slow_rate": 0, "min_requests": 4}))).await;
        open.is_governed_by("better").await;
    }
    sleep(LAPSED).await;
    open.is_governed_by("better").await;
    // The one that drained may have had the second name; none of the refused ones has any.
    let had = names(&open.envoy).await;
    let known = BTreeSet::from(["orders".to_owned(), "orders~2".to_owned()]);
    assert!(had.is_subset(&known), "{way:?}: a document that is refused has no name: {had:?}");
    open.end(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_without_policies_lets_pass_and_keeps_nothing_from_coming_back() {
    tokio::join!(emptied(SHORT), emptied(Way::Discovery));
}

async fn emptied(way: Way) {
    let host = Backend::start().await.unwrap();
    let good = document("good", json!({}));
    let envoy = Updated::start(Scene::of(&host), way, &good).await;
    fails(&host);
    for _ in 0..4 {
        envoy.client.get("/").await.unwrap();
    }
    for round in 0..3 {
        envoy.update(&json!({"policies": []})).await;
        for client in envoy.clients().await {
            assert_eq!(client.get("/").await.unwrap().status, 500, "{way:?} round {round}: nobody governs it");
        }
        envoy.update(&good).await;
        for client in envoy.clients().await {
            assert_eq!(client.get("/").await.unwrap().text(), "good", "{way:?} round {round}");
        }
    }
    let counted = envoy.metrics("orders", KEY).await;
    assert_eq!([counted["requests"], counted["failure"], counted["rejected.open"]], [4 + 12, 4, 12], "{way:?}");
    assert_eq!(host.requests(), 4 + 12, "{way:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_document_again_changes_nothing() {
    tokio::join!(repeated(SHORT), repeated(Way::Discovery));
}

async fn repeated(way: Way) {
    let open = Open::start(way).await;
    let same = document("good", json!({}));
    for _ in 0..5 {
        open.envoy.repeat(&same).await;
        open.is_governed_by("good").await;
    }
    // The same in other words is another document to Envoy, and the same to us.
    let breaker = json!({
        "failure_rate": 50.0, "open_for": "60m", "min_requests": 4, "window": "300s", "half_open": {"probes": 5},
    });
    let fallback = &same["policies"][0]["fallback"];
    let words = json!({"policies": [
        {"name": "orders", "mode": "enforce", "fallback": fallback, "breaker": breaker},
    ]});
    open.envoy.update(&words).await;
    open.is_governed_by("good").await;
    assert_eq!(names(&open.envoy).await, BTreeSet::from(["orders".to_owned()]), "{way:?}");
    open.end(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_documents_in_a_row_the_last_one_governs() {
    tokio::join!(in_a_row(SHORT), in_a_row(Way::Discovery));
}

async fn in_a_row(way: Way) {
    let open = Open::start(way).await;
    for round in 0..3 {
        for number in 0..10 {
            // Every third is refused, and every other one changes the breaker itself.
            let rate = if number % 3 == 1 { 140 } else { 50 };
            let next =
                document(&format!("{round}-{number}"), json!({"min_requests": 4 + number / 2, "failure_rate": rate}));
            match way {
                Way::Listener(_) => {
                    let update = open.envoy.update_policy(&next).await.unwrap();
                    assert_eq!(update == Update::Accepted, rate == 50);
                }
                // Envoy need not have looked at one before the next is there.
                Way::Discovery => {
                    open.envoy.write(&next);
                    sleep(ms(50)).await;
                }
            }
        }
        let last = format!("{round}-9");
        eventually(PATIENCE, || async {
            let mut texts = Vec::new();
            for client in open.envoy.clients().await {
                texts.push(client.get("/").await.unwrap().text());
            }
            open.others.set(open.others.get() + texts.len() as u64);
            if texts.iter().all(|text| *text == last) { Ok(()) } else { Err(format!("{texts:?}")) }
        })
        .await
        .unwrap();
        open.is_governed_by(&last).await;
    }
    // Not to be counted by one name: each of the documents had one while it lived.
    let Open { envoy, host, traffic, others } = open;
    let records = traffic.stop().await;
    let sent = records.0.len() as u64 + others.get();
    assert!(records.responses().all(is_rejected) && records.errors().count() == 0, "{way:?}: {:?}", records.statuses());
    assert_eq!(host.requests(), 4, "{way:?}");
    let [requests, rejected] = ["requests", "rejected.open"].map(|name| of_all_names(&envoy, name));
    let (requests, rejected) = (requests.await, rejected.await);
    assert_eq!([requests, rejected], [sent, sent - 4], "{way:?}: each is counted once, by one name or another");
    assert_eq!(envoy.transitions("orders").len(), 1, "{way:?}");
}

/// A document that is good in a listener that is not: Envoy has configured it, and uses it nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_document_in_a_listener_that_envoy_refuses_changes_nothing() {
    let open = Open::start(SHORT).await;
    let broken = json!({
        "name": "broken",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": "this is not Lua"},
        },
    });
    for other in [
        document("refused", json!({})),
        document("refused", json!({"state": "forced_closed"})),
        document("refused", json!({"open_for": "1s", "open_max": "1s"})),
        json!({"policies": []}),
    ] {
        let update =
            open.envoy.scene().update(|options| options.policy(&other).filter_behind(broken.clone())).await.unwrap();
        let Update::Rejected(log) = update else { panic!("a broken listener was accepted") };
        assert!(!log.contains("configuration refused"), "the document itself is good: {log}");
        open.is_governed_by("good").await;
        sleep(ms(2500)).await;
        open.is_governed_by("good").await;
    }
    sleep(LAPSED).await;
    open.is_governed_by("good").await;
    assert_eq!(names(&open.envoy).await, BTreeSet::from(["orders".to_owned()]));
    open.envoy.update(&document("better", json!({}))).await;
    open.is_governed_by("better").await;
    open.end(0).await;
}

/// A worker's client, past all that: the state is one for all workers whatever was refused between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_before_and_after_a_refused_document_add_up() {
    tokio::join!(add_up(SHORT), add_up(Way::Discovery));
}

async fn add_up(way: Way) {
    let host = Backend::start().await.unwrap();
    let envoy = Updated::start(Scene::of(&host), way, &document("good", json!({}))).await;
    let clients: Vec<Client> = envoy.clients().await;
    fails(&host);
    for (number, client) in clients[..3].iter().enumerate() {
        assert_eq!(client.get("/").await.unwrap().status, 500);
        // Envoy does not look into the same once more.
        envoy.refuse(document("bad", json!({"failure_rate": 140 + number})).to_string()).await;
    }
    envoy.update(&document("better", json!({}))).await;
    let clients = envoy.clients().await;
    assert_eq!(clients[0].get("/").await.unwrap().status, 500, "{way:?}: the fourth");
    for client in &clients {
        assert_eq!(client.get("/").await.unwrap().text(), "better", "{way:?}: opens it");
    }
    assert_eq!(host.requests(), 4, "{way:?}");
}
