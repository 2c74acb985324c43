//! What an update leaves of limits: each kind of change while requests are in flight, while the retry budget is spent, and while
//! the throttle rejects. At the first request that meets the new document, over four workers and under load.

use holdfast_tests::{Action, Client, Response};
use serde_json::{Value, json};

use crate::changing::{Change, Stage, all_hold};
use crate::retrying::{exactly, quick_backoff};
use crate::updating::{LONG, SHORT, Way, fails};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_count_until_they_end() {
    all_hold(tokio::join!(stay_counted(LONG), stay_counted(Way::Discovery)));
}

async fn stay_counted(way: Way) -> Vec<String> {
    let stage = Stage::start(way, 1, json!({"concurrency": {"max_requests": 4}}), &[]).await;
    let host = &stage.hosts[0];
    host.hold();
    let mut old = Vec::new();
    for change in &stage.changes {
        old.push(Stage::open(&stage.clients[..3], &change.path(), 1));
    }
    host.wait_in_flight(3 * stage.changes.len() as u64).await.unwrap();

    let clients = stage.update().await;
    let is_unlimited =
        |change: &Change| matches!(change.name, "concurrency-added" | "max-requests" | "concurrency-removed");
    let mut new = Vec::new();
    for change in &stage.changes {
        let requests = Stage::open(&clients, &change.path(), 2);
        let passing = if is_unlimited(change) { requests.len() } else { 1 };
        stage.all_but(change, &requests, passing).await;
        stage.come_to_host(change, 3 + passing as u64).await;
        new.push(requests);
    }
    assert!(old.iter().flatten().all(|request| !request.is_finished()), "those before are still in flight");

    // Each that ends makes room for one, whichever document it began with.
    host.release_all();
    for request in old.into_iter().chain(new).flatten() {
        request.finish().await.unwrap();
    }
    stage.settles().await;
    host.reset_counters();
    host.hold();
    for change in stage.changes.iter().filter(|change| !is_unlimited(change)) {
        let requests = Stage::open(&clients, &change.path(), 2);
        stage.all_but(change, &requests, 4).await;
        stage.come_to_host(change, 4).await;
        host.release(4);
        for request in requests {
            request.finish().await.unwrap();
        }
    }
    stage.end().await
}

/// The new limit holds over what the old and the new listener have in flight: a smaller one admits nothing until so many have
/// ended, a larger one exactly the difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_limit_holds_at_once_and_exactly() {
    all_hold(tokio::join!(holds_exactly(LONG), holds_exactly(Way::Discovery)));
}

async fn holds_exactly(way: Way) -> Vec<String> {
    let others = ["concurrency-added", "concurrency-removed", "max-requests"];
    let stage = Stage::start(way, 1, json!({"concurrency": {"max_requests": 6}}), &others).await;
    let host = &stage.hosts[0];
    let change = &stage.changes[0];
    let limit = |limit: u64| json!({"concurrency": {"max_requests": limit}});
    host.hold();
    let mut held = Stage::open(&stage.clients[..3], &change.path(), 2);
    host.wait_in_flight(6).await.unwrap();

    for (max, more) in [(8, 2), (5, 0), (11, 3), (12, 1)] {
        let clients = stage.update_with(limit(max)).await;
        let requests = Stage::open(&clients, &change.path(), 2);
        stage.all_but(change, &requests, more).await;
        held.extend(requests.into_iter().filter(|request| !request.is_finished()));
        host.wait_in_flight(held.len() as u64).await.unwrap();
    }
    assert_eq!(held.len(), 12);
    let clients = stage.update_with(limit(3)).await;
    for left in (0..12).rev() {
        host.release(1);
        host.wait_in_flight(left).await.unwrap();
        stage.settles().await;
        let requests = Stage::open(&clients[..1], &change.path(), 1);
        let passing = usize::from(left < 3);
        stage.all_but(change, &requests, passing).await;
        if passing == 1 {
            break;
        }
    }
    host.release_all();
    for request in held {
        assert_eq!(request.finish().await.unwrap().status, 200);
    }
    stage.end().await
}

/// Sends requests on all workers in turn, and gives how many retries they got.
async fn retries(stage: &Stage, clients: &[Client], change: &Change, count: usize) -> u64 {
    let before = stage.hosts[0].requests_to(&change.path());
    for client in clients.iter().cycle().take(count) {
        let status = client.get(&change.path()).await.unwrap().status;
        stage.check(change, status == 500, format!("the host's answer is {status}"));
    }
    stage.hosts[0].requests_to(&change.path()) - before - count as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_budget_stays_spent_unless_the_retries_change() {
    all_hold(tokio::join!(stays_spent(SHORT), stays_spent(Way::Discovery)));
}

async fn stays_spent(way: Way) -> Vec<String> {
    let retry = json!({"max_retries": 1, "on": [500], "backoff": quick_backoff(), "budget": exactly(3)});
    let stage = Stage::start(way, 1, json!({"retry": retry}), &["retry-added"]).await;
    fails(&stage.hosts[0]);
    for change in &stage.changes {
        let spent = retries(&stage, &stage.clients, change, 4).await;
        stage.check(change, spent == 3, format!("before the update {spent} retries, not three"));
    }

    let clients = stage.update().await;
    for change in &stage.changes {
        let wanted = match change.name {
            // The keys are others, too, with another number of them.
            "max-retries" | "max-keys" => 3,
            _ => 0,
        };
        let spent = [retries(&stage, &clients, change, 4).await, retries(&stage, &clients, change, 4).await];
        stage.check(change, spent == [wanted, 0], format!("{spent:?} retries after the update, not {wanted}"));
    }
    stage.end().await
}

/// Each of these changes gives the retries a budget of its own, and putting it back finds what is left of the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_the_retries_has_a_budget_of_its_own() {
    all_hold(tokio::join!(begins_afresh(SHORT), begins_afresh(Way::Discovery)));
}

async fn begins_afresh(way: Way) -> Vec<String> {
    let retry = json!({"max_retries": 1, "on": [500], "backoff": quick_backoff(), "budget": exactly(3)});
    let others: Vec<&str> = crate::changing::changes().iter().map(|change| change.name).skip(1).collect();
    let stage = Stage::start(way, 1, json!({"retry": retry}), &others).await;
    fails(&stage.hosts[0]);
    let change = &stage.changes[0];
    assert_eq!(retries(&stage, &stage.clients, change, 2).await, 2);
    for (patch, left) in [
        (json!({"retry": {"on": [500, 502]}}), 3),
        (json!({"retry": {"methods": ["GET"]}}), 3),
        (json!({}), 1),
        (json!({"retry": null}), 0),
        (json!({}), 0),
        (json!({"retry": {"budget": exactly(2)}}), 2),
    ] {
        let clients = stage.update_with(patch.clone()).await;
        let spent = retries(&stage, &clients, change, 4).await;
        stage.check(change, spent == left, format!("{spent} retries with {patch}, not {left}"));
    }
    stage.end().await
}

fn is_throttled(response: &Response) -> bool {
    response.header("x-holdfast-reject").is_some_and(|reason| reason.starts_with("throttled; "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_throttle_goes_on_rejecting_unless_it_changes() {
    all_hold(tokio::join!(goes_on_rejecting(SHORT), goes_on_rejecting(Way::Discovery)));
}

async fn goes_on_rejecting(way: Way) -> Vec<String> {
    let stage = Stage::start(way, 1, json!({"throttle": {"window": "5m", "max_rejection": 100}}), &[]).await;
    let host = &stage.hosts[0];
    fails(host);
    for change in &stage.changes {
        for client in stage.clients.iter().cycle().take(240) {
            client.get(&change.path()).await.unwrap();
        }
    }
    host.always(Action::ok());
    stage.settles().await;

    let clients = stage.update().await;
    for change in &stage.changes {
        let mut rejected = 0;
        for client in clients.iter().cycle().take(24) {
            rejected += u64::from(is_throttled(&client.get(&change.path()).await.unwrap()));
        }
        // Another throttle knows of no request, nor one that judges by another outcome, nor one of other keys.
        let is_afresh = matches!(change.name, "throttle" | "outcome" | "max-keys");
        // Eight of about thirty that were let through have been good: some six of ten are rejected, and fewer little by little.
        let wanted = if is_afresh { 0..=0 } else { 4..=24 };
        stage.check(change, wanted.contains(&rejected), format!("{rejected} of 24 are rejected"));
    }
    stage.end().await
}

/// A failure that counts to one document counts to no other that judges by something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_that_are_none_any_more_open_nothing() {
    all_hold(tokio::join!(judge_afresh(SHORT), judge_afresh(Way::Discovery)));
}

async fn judge_afresh(way: Way) -> Vec<String> {
    let breaker = json!({"window": "60s", "min_requests": 24, "failure_rate": 50, "open_for": "1h"});
    let others: Vec<&str> = crate::changing::changes().iter().map(|change| change.name).skip(1).collect();
    let stage = Stage::start(way, 1, json!({"breaker": breaker}), &others).await;
    let change = &stage.changes[0];
    let send = async |clients: &[Client], count: usize| {
        let mut passed = 0;
        for client in clients.iter().cycle().take(count) {
            passed += u64::from(client.get(&change.path()).await.unwrap().status == 500);
        }
        passed
    };
    fails(&stage.hosts[0]);
    // Eight good ones have been there already.
    assert_eq!(send(&stage.clients, 15).await, 15);
    let ignoring: Value = json!({"outcome": {"ignore": {"status": [500]}}});
    let clients = stage.update_with(ignoring).await;
    assert_eq!(send(&clients, 40).await, 40, "{way:?}: they say nothing now");
    let clients = stage.update_with(json!({"outcome": {"ignore": {"status": [404]}}})).await;
    assert_eq!(send(&clients, 40).await, 24, "{way:?}: a window that begins afresh");
    stage.end().await
}
