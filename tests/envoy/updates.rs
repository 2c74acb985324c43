//! What an update leaves of a breaker: each kind of change while it is open, half-open with probes out, ramping or forced, at
//! the first request that meets the new document, over four workers and under load.

use holdfast_tests::{Action, Client, Response};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::changing::{Change, NEW_TEXT, Stage, all_hold};
use crate::outlying::ms;
use crate::updating::{
    CLOSED, FORCED_CLOSED, FORCED_OPEN, HALF_OPEN, LAPSED, LONG, OPEN, RAMPING, SHORT, Way, fails, is_rejected,
};

/// Opens when the last four outcomes are failures.
fn breaker(more: Value) -> Value {
    let mut breaker = json!({
        "window": 4, "min_requests": 4, "failure_rate": 100, "open_for": "300ms", "open_jitter": 0,
    });
    json_patch::merge(&mut breaker, &more);
    json!({"breaker": breaker})
}

/// Opens the breaker of every policy.
async fn open_all(stage: &Stage) {
    fails(&stage.hosts[0]);
    for change in &stage.changes {
        for client in &stage.clients {
            assert_eq!(client.get(&change.path()).await.unwrap().status, 500);
        }
    }
    stage.hosts[0].always(Action::ok());
    for change in &stage.changes {
        stage.becomes(change, "breaker_state", OPEN).await;
    }
    stage.hosts[0].reset_counters();
}

/// After the shortest open period.
async fn half_open_all(stage: &Stage) {
    open_all(stage).await;
    sleep(ms(350)).await;
}

/// In shadow it decides, and lets pass.
fn lets_pass(change: &Change) -> bool {
    change.name == "breaker-mode"
}

/// One request on each worker: all of them pass, or none.
async fn all_are_rejected(stage: &Stage, clients: &[Client], change: &Change, when: &str) {
    for client in clients {
        let response = client.get(&change.path()).await.unwrap();
        let told = if is_rejected(&response) { "is rejected" } else { "passes" };
        let holds = is_rejected(&response) != lets_pass(change);
        stage.check(change, holds, format!("{when} a request {told}: {}", response.status));
    }
}

async fn all_pass(stage: &Stage, clients: &[Client], change: &Change, when: &str) {
    for client in clients {
        let response = client.get(&change.path()).await.unwrap();
        stage.check(change, !is_rejected(&response), format!("{when} a request is rejected: {}", response.status));
    }
}

fn waits(response: &Response) -> Option<u64> {
    response.header("retry-after")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_stays_open_until_its_time() {
    all_hold(tokio::join!(stays_open(SHORT), stays_open(Way::Discovery)));
}

async fn stays_open(way: Way) -> Vec<String> {
    let stage = Stage::start(way, 1, breaker(json!({"open_for": "1h"})), &[]).await;
    open_all(&stage).await;

    let clients = stage.update().await;
    for change in &stage.changes {
        for client in &clients {
            let response = client.get(&change.path()).await.unwrap();
            let waits = waits(&response);
            let seen = format!("{} {:?}, to come again in {waits:?} s", response.status, response.text());
            stage.check(change, is_rejected(&response) != lets_pass(change), &seen);
            let as_said = match change.name {
                "breaker-mode" => response.status == 200,
                "fallback-text" => response.text() == NEW_TEXT,
                // At most as long as the new one may be open, counted from when it opened.
                "open-for" => waits.is_some_and(|waits| (200..=300).contains(&waits)),
                "open-max" => waits.is_some_and(|waits| waits <= 20),
                _ => waits.is_some_and(|waits| (3500..=3600).contains(&waits)),
            };
            stage.check(change, as_said, &seen);
        }
        stage.becomes(change, "breaker_state", OPEN).await;
        let (passed, wanted) = (stage.hosts[0].requests_to(&change.path()), if lets_pass(change) { 4 } else { 0 });
        stage.check(change, passed == wanted, format!("{passed} requests come to the host"));
        let told = stage.envoy.transitions(change.name);
        stage.check(change, told.len() == 1, format!("it opens once: {told:?}"));
    }

    // When nothing is left of the document before.
    sleep(LAPSED).await;
    for change in &stage.changes {
        if change.name == "open-max" {
            all_pass(&stage, &clients[..1], change, "when its time is over").await;
            stage.becomes(change, "breaker_state", HALF_OPEN).await;
        } else {
            all_are_rejected(&stage, &clients, change, "later").await;
            stage.becomes(change, "breaker_state", OPEN).await;
        }
    }
    stage.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_lets_never_more_than_its_probes_through() {
    all_hold(tokio::join!(stays_half_open(LONG), stays_half_open(Way::Discovery)));
}

async fn stays_half_open(way: Way) -> Vec<String> {
    let half_open = json!({"probes": 3, "lease": "20s"});
    let stage = Stage::start(way, 1, breaker(json!({"open_growth": 1, "half_open": half_open})), &[]).await;
    let host = &stage.hosts[0];
    half_open_all(&stage).await;
    host.hold();
    let mut old = Vec::new();
    // All at once, here and below: all of it is over before a lease ends.
    for (change, client) in stage.changes.iter().zip(stage.clients.iter().cycle()) {
        old.extend(Stage::open(std::slice::from_ref(client), &change.path(), 2));
    }
    for change in &stage.changes {
        stage.come_to_host(change, 2).await;
    }

    let clients = stage.update().await;
    let mut new = Vec::new();
    let opened: Vec<_> = stage.changes.iter().map(|change| Stage::open(&clients, &change.path(), 2)).collect();
    for (change, requests) in stage.changes.iter().zip(opened) {
        let passing = match change.name {
            "breaker-mode" => requests.len(),
            // It asks for two now, and they are there.
            "probes" => 0,
            _ => 1,
        };
        stage.all_but(change, &requests, passing).await;
        stage.come_to_host(change, 2 + passing as u64).await;
        stage.becomes(change, "breaker_state", HALF_OPEN).await;
        new.extend(requests);
    }
    assert!(old.iter().all(|request| !request.is_finished()), "{way:?}: the probes are still out");

    host.release_all();
    for request in old {
        assert_eq!(
            request.finish().await.unwrap().status,
            200,
            "{way:?}: a probe of the document before ends in peace"
        );
    }
    for request in new {
        request.finish().await.unwrap();
    }
    for change in &stage.changes {
        stage
            .comes(change, || async {
                for client in &clients {
                    client.get(&change.path()).await.unwrap();
                }
                let state = stage.gauge(change, "breaker_state").await;
                if state == CLOSED { Ok(()) } else { Err(format!("after good probes its state is {state}")) }
            })
            .await;
        all_pass(&stage, &clients, change, "after good probes").await;
    }
    stage.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ramp_goes_on() {
    all_hold(tokio::join!(goes_on_ramping(SHORT), goes_on_ramping(Way::Discovery)));
}

async fn goes_on_ramping(way: Way) -> Vec<String> {
    let stage = Stage::start(way, 1, breaker(json!({"ramp": "1h", "half_open": {"probes": 1}})), &[]).await;
    half_open_all(&stage).await;
    for change in &stage.changes {
        all_pass(&stage, &stage.clients[..1], change, "as a probe").await;
        stage.becomes(change, "breaker_state", RAMPING).await;
    }

    let clients = stage.update().await;
    for change in &stage.changes {
        let mut rejected = 0;
        for client in clients.iter().cycle().take(20) {
            rejected += u64::from(is_rejected(&client.get(&change.path()).await.unwrap()));
        }
        // So near to its beginning nearly all of them are.
        let wanted = if lets_pass(change) { 0..=0 } else { 17..=20 };
        stage.check(change, wanted.contains(&rejected), format!("{rejected} of 20 are rejected"));
        stage.becomes(change, "breaker_state", RAMPING).await;
        let told = stage.envoy.transitions(change.name);
        stage.check(change, told.len() == 3, format!("there is no new transition: {told:?}"));
    }
    stage.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_forced_open_begins_half_open() {
    all_hold(tokio::join!(from_forced_open(SHORT), from_forced_open(Way::Discovery)));
}

async fn from_forced_open(way: Way) -> Vec<String> {
    let stage = Stage::start(way, 1, breaker(json!({"half_open": {"probes": 2}})), &[]).await;
    // A breaker that is closed is forced open with all other changes.
    let clients = stage.update_with(json!({"breaker": {"state": "forced_open"}})).await;
    for change in &stage.changes {
        all_are_rejected(&stage, &clients, change, "forced open").await;
        stage.becomes(change, "breaker_state", FORCED_OPEN).await;
    }

    let host = &stage.hosts[0];
    host.reset_counters();
    host.hold();
    let clients = stage.update().await;
    let mut all = Vec::new();
    for change in &stage.changes {
        let requests = Stage::open(&clients, &change.path(), 2);
        let passing = if lets_pass(change) { requests.len() } else { 2 };
        stage.all_but(change, &requests, passing).await;
        stage.come_to_host(change, passing as u64).await;
        stage.becomes(change, "breaker_state", HALF_OPEN).await;
        all.extend(requests);
    }
    host.release_all();
    for request in all {
        request.finish().await.unwrap();
    }
    for change in &stage.changes {
        stage.becomes(change, "breaker_state", CLOSED).await;
        all_pass(&stage, &clients, change, "after good probes").await;
    }
    stage.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_forced_closed_begins_closed_and_afresh() {
    all_hold(tokio::join!(from_forced_closed(SHORT), from_forced_closed(Way::Discovery)));
}

async fn from_forced_closed(way: Way) -> Vec<String> {
    let stage = Stage::start(way, 1, breaker(json!({"open_for": "1h"})), &[]).await;
    open_all(&stage).await;
    let clients = stage.update_with(json!({"breaker": {"state": "forced_closed"}})).await;
    fails(&stage.hosts[0]);
    for change in &stage.changes {
        all_pass(&stage, &clients, change, "forced closed").await;
        all_pass(&stage, &clients, change, "forced closed").await;
        stage.becomes(change, "breaker_state", FORCED_CLOSED).await;
    }

    let clients = stage.update().await;
    for change in &stage.changes {
        all_pass(&stage, &clients[1..], change, "before a fourth failure").await;
        stage.becomes(change, "breaker_state", CLOSED).await;
        all_pass(&stage, &clients[..1], change, "before a fourth failure").await;
        stage.becomes(change, "breaker_state", OPEN).await;
        all_are_rejected(&stage, &clients, change, "after four failures").await;
    }
    stage.end().await
}

/// A force keeps no open period: whatever the breaker was before, it begins as the force says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_breaker_that_was_open_goes_through_half_open() {
    all_hold(tokio::join!(from_open_to_forced_open(SHORT), from_open_to_forced_open(Way::Discovery)));
}

async fn from_open_to_forced_open(way: Way) -> Vec<String> {
    // One probe is to be enough.
    let features = breaker(json!({"open_for": "1h", "half_open": {"probes": 1}}));
    let stage = Stage::start(way, 1, features, &["probes"]).await;
    open_all(&stage).await;
    let clients = stage.update_with(json!({"breaker": {"state": "forced_open"}})).await;
    for change in &stage.changes {
        all_are_rejected(&stage, &clients, change, "forced open").await;
    }

    let clients = stage.update().await;
    for change in &stage.changes {
        all_pass(&stage, &clients[..1], change, "as the probe").await;
        stage.becomes(change, "breaker_state", CLOSED).await;
        all_pass(&stage, &clients, change, "after a good probe").await;
    }
    stage.end().await
}

/// The number of openings without a close in between, which lengthens the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_period_after_an_update_is_as_long_as_without_one() {
    all_hold(tokio::join!(keeps_its_reopenings(SHORT), keeps_its_reopenings(Way::Discovery)));
}

async fn keeps_its_reopenings(way: Way) -> Vec<String> {
    // A fallback says nothing of the time, and neither does a breaker that lets pass. One probe is to be enough.
    let without = ["open-for", "open-max", "fallback-text", "breaker-mode", "probes"];
    let features = breaker(json!({"open_for": "3s", "open_growth": 10, "half_open": {"probes": 1}}));
    let stage = Stage::start(way, 1, features, &without).await;
    open_all(&stage).await;
    sleep(ms(3050)).await;
    fails(&stage.hosts[0]);
    for change in &stage.changes {
        all_pass(&stage, &stage.clients[..1], change, "as a probe").await;
        stage.becomes(change, "breaker_state", OPEN).await;
    }

    let clients = stage.update().await;
    // It is the second opening: ten times three seconds, from when it opened.
    let waits_within = async |client: &Client, change: &Change, least: u64, most: u64| {
        let waits = waits(&client.get(&change.path()).await.unwrap());
        let holds = waits.is_some_and(|waits| (least..=most).contains(&waits));
        stage.check(change, holds, format!("{waits:?} s to the next probe, not {least} to {most}"));
    };
    for change in &stage.changes {
        waits_within(&clients[0], change, 10, 30).await;
    }
    sleep(ms(30_050)).await;
    // The third is ten times as long again.
    for change in &stage.changes {
        all_pass(&stage, &clients[1..2], change, "as a probe").await;
        waits_within(&clients[2], change, 270, 300).await;
    }
    stage.end().await
}
