//! The recipes of `docs/recipes.md`, as they stand there, but for their times: who serves while a service is down, and who gets nothing.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Records, Response, Route, Scene, Seats, Template,
    drive_all, envoy_version, eventually, with_header,
};
use http::Method;
use serde_json::{Value, json};

use crate::shape::{Hosts, added, file};

const WORKERS: usize = 2;

/// A recipe, with a host for each cluster of its routes.
struct Recipe {
    scene: Scene,
    clients: Vec<Client>,
    /// The policy whose breaker detects.
    policy: &'static str,
}

impl Recipe {
    /// The recipe below this heading, whose breaker of `policy` has this merged into it.
    async fn start(heading: &str, policy: &'static str, faster: Value, hosts: &[(&str, &Backend)]) -> Self {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes.md")).unwrap();
        let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("the page has it");
        let fenced = |mark: &str| {
            let (_, text) = section.split_once(&format!("```{mark}\n")).expect("the recipe has it");
            text.split_once("```").expect("a whole block").0
        };
        let mut document: Value = serde_json::from_str(fenced("json")).unwrap();
        let policies = document["policies"].as_array_mut().unwrap();
        let changed = policies.iter_mut().find(|each| each["name"] == policy).expect("the recipe has the policy");
        json_patch::merge(&mut changed["breaker"], &faster);
        let routes: Value = serde_norway::from_str(fenced("yaml extra")).unwrap();
        let mut options = EnvoyOptions::new()
            .concurrency(u32::try_from(WORKERS).unwrap())
            .seats(Seats::Both)
            .policy(document)
            .route(Scene::aside());
        for route in routes["routes"].as_array().unwrap() {
            options = options.route(Route::to("/", "").raw(json!({"route": null})).raw(route.clone()));
        }
        for (name, host) in hosts {
            options = options.cluster(Cluster::new(name).endpoint(host.addr()));
        }
        let scene = Scene::with(options).await;
        let clients = scene.workers(WORKERS).await;
        Self { scene, clients, policy }
    }

    /// Half of these are reads, half are writes with a body.
    async fn drive(&self, total: usize) -> Records {
        drive_all(&self.clients, 4, total, Template::new(|index| if index % 2 == 0 { read() } else { write() })).await
    }

    /// Sends until the breaker comes to this state.
    async fn until(&self, state: &str) {
        let wanted = format!("-> {state}");
        eventually(PATIENCE, || async {
            self.drive(40).await;
            match self.scene.transitions(self.policy).last() {
                Some(line) if line.contains(&wanted) => Ok(()),
                last => Err(format!("{last:?}")),
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn add_lets_a_fallback_choose() {
    let policy = json!({"policies": [{
        "name": "orders", "match": {"cluster": ["orders"]}, "breaker": {"state": "forced_open"},
        "fallback": [{"on": ["open"], "route": {"cluster": "orders-canary"}}],
    }]});
    let text = added(&file("shapes", "weighted-clusters"), &policy);
    let hosts = Hosts::start(&text).await;
    let envoy = hosts.envoy(&text).await;
    let client = Client::http1(envoy.addr());
    let records = drive_all(&[client], 2, 60, "/items").await;
    assert_eq!(records.count(200), 60, "{:?}", records.statuses());
    let rejected = served_by(&records, "route; reason=open; policy=orders; cluster=orders-canary");
    assert!((30..60).contains(&rejected), "80 % go to a cluster whose breaker is open: {rejected}");
    assert!(hosts.orders().all(|host| host.requests() == 0), "and none of them there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn add_lets_a_fallback_choose_after_the_last_attempt() {
    if envoy_version() < (1, 39) {
        return;
    }
    let policy = json!({"policies": [{
        "name": "orders", "match": {"cluster": ["orders"]}, "breaker": {"min_requests": 1000}, "retry": {"max_retries": 0},
        "fallback": [{"on": ["open", "failure"], "route": {"cluster": "billing"}}],
    }]});
    let text = added(&file("shapes", "two-services"), &policy);
    let hosts = Hosts::start(&text).await;
    let envoy = hosts.envoy(&text).await;
    let client = Client::http1(envoy.addr());
    drive_all(std::slice::from_ref(&client), 2, 20, "/items").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    hosts.orders().for_each(|host| host.always(Action::status(503)));
    let before: u64 = hosts.orders().map(Backend::requests).sum();
    let records = drive_all(&[client], 2, 40, "/items").await;
    assert_eq!(records.count(200), 40, "{:?}", records.statuses());
    assert_eq!(served_by(&records, "route; reason=failure; policy=orders; cluster=billing"), 40);
    assert_eq!(hosts.orders().map(Backend::requests).sum::<u64>() - before, 40);
}

fn read() -> http::Request<Bytes> {
    Client::request("/orders/7")
}

fn write() -> http::Request<Bytes> {
    let mut request = Client::request("/orders").map(|_| Bytes::from_static(b"an order"));
    *request.method_mut() = Method::POST;
    request
}

fn origin(response: &Response) -> Option<String> {
    response.header("x-holdfast-fallback")
}

/// How many were served by a fallback that says this.
fn served_by(records: &Records, says: &str) -> usize {
    records.responses().filter(|response| origin(response).as_deref() == Some(says)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_that_no_client_sees() {
    if envoy_version() < (1, 39) {
        return;
    }
    let (primary, standby) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let faster = json!({"min_requests": 10, "open_for": "1s", "ramp": "1s"});
    let hosts = [("orders", &primary), ("standby", &standby)];
    let recipe = Recipe::start("Failover that no client sees", "orders", faster, &hosts).await;
    let keyed = || with_header(write(), "idempotency-key", "7");
    let drive = async |total| {
        let template = Template::new(move |index| if index % 2 == 0 { read() } else { keyed() });
        drive_all(&recipe.clients, 4, total, template).await
    };
    drive(20).await;
    // An attempt seat is known a second after it was met.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!((drive(20).await.count(200), standby.requests()), (20, 0));

    primary.always(Action::status(503));
    let sent = AtomicU64::new(0);
    let opened = || recipe.scene.transitions("orders").iter().filter(|line| line.contains("-> open")).count();
    eventually(PATIENCE, || async {
        sent.fetch_add(40, Ordering::Relaxed);
        let records = drive(40).await;
        assert_eq!(records.count(200), 40, "no client sees it: {:?}", records.statuses());
        if opened() >= 2 { Ok(()) } else { Err("no probe has failed yet") }
    })
    .await
    .unwrap();
    assert_eq!(standby.requests(), sent.into_inner(), "the standby has served them all");
    primary.always(Action::ok());
    recipe.until("closed").await;
    standby.always(Action::status(503));
    assert_eq!(recipe.drive(20).await.count(200), 20, "all are back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_to_a_standby() {
    let (primary, standby) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let faster = json!({"min_requests": 10, "open_for": "3s", "ramp": "1s"});
    let hosts = [("orders", &primary), ("standby", &standby)];
    let recipe = Recipe::start("Failover to a standby", "orders", faster, &hosts).await;
    assert_eq!(recipe.drive(20).await.count(200), 20);
    assert_eq!(standby.requests(), 0);

    primary.always(Action::status(503));
    recipe.until("open").await;
    let records = recipe.drive(60).await;
    // Probes alone may still fail.
    let failed = records.count(503);
    assert_eq!(served_by(&records, "route; reason=open; policy=orders; cluster=standby"), 60 - failed);
    assert!(failed <= 10, "{:?}", records.statuses());

    primary.always(Action::ok());
    recipe.until("closed").await;
    standby.reset_counters();
    assert_eq!(recipe.drive(40).await.count(200), 40);
    assert_eq!(standby.requests(), 0, "all are back");

    standby.always(Action::status(503));
    primary.always(Action::status(503));
    recipe.until("open").await;
    eventually(PATIENCE, || async {
        let records = recipe.drive(20).await;
        let last = records.responses().last().map(Response::text);
        let wanted = "neither orders nor its standby can serve";
        if last.as_deref() == Some(wanted) { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_back_of_a_canary() {
    let (stable, canary) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let faster = json!({"open_for": "5s", "half_open": {"probes": 1}});
    let hosts = [("orders", &stable), ("orders-canary", &canary)];
    let recipe = Recipe::start("Roll-back of a canary", "canary", faster, &hosts).await;
    let records = recipe.drive(1000).await;
    let at_canary = canary.requests();
    assert_eq!(records.count(200), 1000);
    assert!((15..=120).contains(&at_canary), "5 % are its share: {at_canary}");

    canary.always(Action::status(500));
    recipe.until("open").await;
    let before = canary.requests();
    let records = recipe.drive(1000).await;
    let probes = (canary.requests() - before) as usize;
    let back = served_by(&records, "route; reason=open; policy=canary; cluster=orders");
    assert_eq!(records.count(200), 1000 - probes, "reads and writes: {:?}", records.statuses());
    assert!((15..=120).contains(&(back + probes)), "its whole share is rolled back: {back} and {probes} probes");
    assert!(back > 4 * probes, "{back} are rolled back, {probes} are probes");

    canary.always(Action::ok());
    recipe.until("closed").await;
    let before = canary.requests();
    assert_eq!(served_by(&recipe.drive(1000).await, "route; reason=open; policy=canary; cluster=orders"), 0);
    assert!(canary.requests() > before, "it has its share again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_from_a_replica_and_no_writes() {
    let (primary, replica) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let faster = json!({"min_requests": 10, "open_for": "1h"});
    let hosts = [("orders", &primary), ("orders-replica", &replica)];
    let recipe = Recipe::start("Reads from a replica, no writes", "reads", faster, &hosts).await;
    assert_eq!(recipe.drive(20).await.count(200), 20);
    primary.always(Action::status(500));
    recipe.until("open").await;
    replica.reset_counters();
    let client = &recipe.clients[0];
    for _ in 0..10 {
        let response = client.send(read()).await.unwrap();
        let says = "route; reason=open; policy=reads; cluster=orders-replica";
        assert_eq!((response.status, origin(&response).as_deref()), (200, Some(says)));
    }
    // Writes have a breaker of their own, which has yet to open, or lets a probe through.
    eventually(PATIENCE, || async {
        let response = client.send(write()).await.unwrap();
        let title = response.json()["title"].clone();
        if (response.status, &title) == (503, &json!("read only")) { Ok(()) } else { Err(title.to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(replica.requests(), 10, "no write has come to the replica");
}
