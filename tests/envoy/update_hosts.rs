//! What an update leaves of hosts: each kind of change while one is out, is being probed, comes back slowly, or has been out
//! before, and what it does to the checks. At the first request that meets the new document, over four workers and under load.

use std::time::Instant;

use holdfast_tests::{Action, Backend, Client, PATIENCE, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::changing::{Change, MAX_EJECTION_TIME, Stage, all_hold};
use crate::outlying::ms;
use crate::updating::{LAPSED, LONG, SHORT, Way, fails};

fn outlier(more: Value) -> Value {
    let mut outlier = json!({
        "consecutive_failures": 3, "base_ejection_time": "500ms", "ejection_jitter": 0, "interval": "1h",
    });
    json_patch::merge(&mut outlier, &more);
    json!({"outlier": outlier})
}

/// In shadow no host is out.
fn steers(change: &Change) -> bool {
    change.name != "outlier-mode"
}

/// Takes the first host out, for the policy of this change, by no more requests than that takes.
async fn take_out(stage: &Stage, clients: &[Client], change: &Change) {
    let bad = &stage.hosts[0];
    let before = bad.requests_to(&change.path());
    for client in clients.iter().cycle() {
        client.get(&change.path()).await.unwrap();
        if bad.requests_to(&change.path()) == before + 3 {
            break;
        }
    }
    stage.becomes(change, "hosts_ejected", 1).await;
}

/// The same for all policies.
async fn take_out_everywhere(stage: &Stage) {
    fails(&stage.hosts[0]);
    for change in &stage.changes {
        take_out(stage, &stage.clients, change).await;
    }
    stage.hosts.iter().for_each(Backend::reset_counters);
}

/// Sends requests, on all workers in turn.
async fn sends(clients: &[Client], change: &Change, count: usize) {
    for client in clients.iter().cycle().take(count) {
        client.get(&change.path()).await.unwrap();
    }
}

/// By requests, one of which is the probe.
async fn comes_back(stage: &Stage, clients: &[Client], change: &Change) {
    stage
        .comes(change, || async {
            sends(clients, change, 4).await;
            let out = stage.gauge(change, "hosts_ejected").await;
            if out == 0 { Ok(()) } else { Err(format!("a good probe brings the host back: {out} are out")) }
        })
        .await;
}

/// The first host gets requests as others do.
async fn serves(stage: &Stage, clients: &[Client], change: &Change) {
    let before = stage.hosts[0].requests_to(&change.path());
    sends(clients, change, 24).await;
    let got = stage.hosts[0].requests_to(&change.path()) - before;
    stage.check(change, got >= 4, format!("the host that is back gets {got} of 24 requests"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_out_stays_out_until_its_time() {
    all_hold(tokio::join!(stays_out(SHORT), stays_out(Way::Discovery)));
}

async fn stays_out(way: Way) -> Vec<String> {
    let stage = Stage::start(way, 3, outlier(json!({"base_ejection_time": "1h"})), &[]).await;
    let ejected = Instant::now();
    take_out_everywhere(&stage).await;
    let bad = &stage.hosts[0];

    let clients = stage.update().await;
    let mut probed_early = false;
    for change in &stage.changes {
        sends(&clients, change, 12).await;
        let got = bad.requests_to(&change.path());
        let as_said = match change.name {
            "outlier-mode" => got > 0,
            // The rows before it may have taken as long as hosts may be out now.
            "max-ejection-time" if got == 1 && ejected.elapsed() >= MAX_EJECTION_TIME => {
                probed_early = true;
                true
            }
            _ => got == 0,
        };
        stage.check(change, as_said, format!("{got} of 12 requests come to the host that is out"));
        stage.becomes(change, "hosts_ejected", u64::from(steers(change))).await;
        stage.becomes(change, "hosts", 3).await;
    }

    // When nothing is left of the document before.
    sleep(LAPSED).await;
    bad.reset_counters();
    for change in &stage.changes {
        sends(&clients, change, 12).await;
        let got = bad.requests_to(&change.path());
        let as_said = match change.name {
            "outlier-mode" => got > 0,
            // It fails its probe, and is out for the whole time once more.
            "max-ejection-time" => got == 1 || (got == 0 && probed_early),
            _ => got == 0,
        };
        stage.check(change, as_said, format!("later {got} of 12 requests come to the host that is out"));
        stage.becomes(change, "hosts_ejected", u64::from(steers(change))).await;
        stage
            .comes(change, || async {
                let told = stage.told(change, bad);
                let ejected = told.iter().filter(|line| line.starts_with("ejected ")).count();
                if ejected == 1 || !steers(change) { Ok(()) } else { Err(format!("it is ejected once: {told:?}")) }
            })
            .await;
    }
    stage.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_being_probed_gets_no_second_probe() {
    all_hold(tokio::join!(is_probed_once(LONG), is_probed_once(Way::Discovery)));
}

async fn is_probed_once(way: Way) -> Vec<String> {
    // A check would be the probe, and in shadow there is none.
    let stage = Stage::start(way, 3, outlier(json!({})), &["heartbeat", "outlier-mode"]).await;
    take_out_everywhere(&stage).await;
    let bad = &stage.hosts[0];
    bad.always(Action::ok());
    bad.hold();
    sleep(ms(600)).await;
    let mut probes = Vec::new();
    for change in &stage.changes {
        // Requests until one of them is the probe, which then waits.
        let probe = eventually(PATIENCE, || async {
            let request = stage.clients[0].open(Client::request(&change.path()));
            let is_probe = || bad.requests_to(&change.path()) == 1;
            eventually(PATIENCE, || async { request.is_finished() || is_probe() }).await.unwrap();
            is_probe().then_some(request)
        })
        .await
        .unwrap();
        probes.push(probe);
    }

    let clients = stage.update().await;
    // All at once: a probe that has been out for ten seconds gives its permit to another one.
    let opened: Vec<_> = stage.changes.iter().map(|change| Stage::open(&clients, &change.path(), 3)).collect();
    for (change, requests) in stage.changes.iter().zip(opened) {
        stage.all_but(change, &requests, 0).await;
        let got = bad.requests_to(&change.path());
        stage.check(change, got == 1, format!("{got} probes come to the host"));
        stage.becomes(change, "hosts_ejected", 1).await;
    }
    bad.release_all();
    for probe in probes {
        assert_eq!(probe.finish().await.unwrap().status, 200);
    }
    for change in &stage.changes {
        comes_back(&stage, &clients, change).await;
        serves(&stage, &clients, change).await;
    }
    stage.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_start_goes_on() {
    all_hold(tokio::join!(starts_slowly(SHORT), starts_slowly(Way::Discovery)));
}

async fn starts_slowly(way: Way) -> Vec<String> {
    // It is back by a request, not by a check.
    let stage = Stage::start(way, 2, outlier(json!({"slow_start": "1h"})), &["heartbeat"]).await;
    take_out_everywhere(&stage).await;
    let back = &stage.hosts[0];
    back.always(Action::ok());
    sleep(ms(600)).await;
    for change in &stage.changes {
        comes_back(&stage, &stage.clients, change).await;
    }

    let clients = stage.update().await;
    back.reset_counters();
    for change in &stage.changes {
        sends(&clients, change, 100).await;
        let got = back.requests_to(&change.path());
        // A tenth of the weight of the other one, so near to the beginning; half of all without a slow start.
        let wanted = if steers(change) { 0..=25 } else { 30..=70 };
        stage.check(change, wanted.contains(&got), format!("{got} of 100 requests come to the host that is back"));
        stage.becomes(change, "hosts_ejected", 0).await;
    }
    stage.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_out_before_is_out_for_longer() {
    all_hold(tokio::join!(keeps_its_multiplier(SHORT), keeps_its_multiplier(Way::Discovery)));
}

async fn keeps_its_multiplier(way: Way) -> Vec<String> {
    // With a check there is no probe, without a detector no ejection.
    let without = ["heartbeat", "outlier-mode", "consecutive-failures"];
    let stage = Stage::start(way, 3, outlier(json!({})), &without).await;
    take_out_everywhere(&stage).await;
    let bad = &stage.hosts[0];
    bad.always(Action::ok());
    sleep(ms(600)).await;
    for change in &stage.changes {
        comes_back(&stage, &stage.clients, change).await;
    }

    let clients = stage.update().await;
    fails(bad);
    for change in &stage.changes {
        take_out(&stage, &clients, change).await;
        let time = match change.name {
            "base-ejection-time" => "1.4s",
            "max-ejection-time" => "1.6s",
            _ => "1s",
        };
        let again = format!("ejected for {time}: ");
        // The log may be read later than the gauge.
        stage
            .comes(change, || async {
                let told = stage.told(change, bad);
                let holds = told.last().is_some_and(|line| line.starts_with(&again));
                if holds { Ok(()) } else { Err(format!("twice its base time is {time}: {told:?}")) }
            })
            .await;
    }
    stage.end().await
}

/// Where a policy's checks go, before and after.
fn checks(change: &Change, is_after: bool) -> &'static str {
    if is_after && change.name == "heartbeat" { "/after" } else { "/before" }
}

/// So many checks of all policies come to each host in one interval.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_is_checked_once_an_interval_whatever_changes() {
    all_hold(tokio::join!(are_checked(SHORT), are_checked(Way::Discovery)));
}

async fn are_checked(way: Way) -> Vec<String> {
    let interval = ms(1000);
    let heartbeat = json!({"path": "/before", "interval": "1s", "timeout": "900ms"});
    let stage = Stage::start(way, 2, outlier(json!({"heartbeat": heartbeat})), &[]).await;
    let count = |path: &str| stage.hosts.iter().map(|host| host.requests_to(path)).collect::<Vec<_>>();
    // What one interval brings to a host, when each policy checks it once.
    let all = stage.changes.len() as f64;
    let holds = async |paths: &[(&str, f64)]| {
        let (start, before) = (Instant::now(), paths.iter().map(|(path, _)| count(path)).collect::<Vec<_>>());
        sleep(interval * 6).await;
        let took = start.elapsed().as_secs_f64();
        for ((path, each), before) in paths.iter().zip(before) {
            for (now, before) in count(path).into_iter().zip(before) {
                let (made, most) = ((now - before) as f64, each * (took / interval.as_secs_f64() + 2.0));
                let least = each * (took / interval.as_secs_f64() - 3.0);
                assert!(made <= most, "{way:?}: {made} checks of {path} in {took} s, {most} at most");
                assert!(made >= least, "{way:?}: {made} checks of {path} in {took} s, {least} at least");
            }
        }
    };
    holds(&[("/before", all), ("/after", 0.0)]).await;

    let clients = stage.update().await;
    for change in &stage.changes {
        sends(&clients, change, 4).await;
    }
    // The document before makes its checks until its listener has drained.
    sleep(ms(3000)).await;
    let moved = stage.changes.iter().filter(|change| checks(change, true) == "/after").count() as f64;
    // A policy in shadow checks too, and one whose other settings change goes on.
    holds(&[("/before", all - moved), ("/after", moved)]).await;
    sleep(LAPSED).await;
    holds(&[("/before", all - moved), ("/after", moved)]).await;
    for change in &stage.changes {
        stage.becomes(change, "hosts", 2).await;
        stage.becomes(change, "hosts_ejected", 0).await;
    }
    stage.end().await
}

/// A host that its checks have taken out stays out, and comes back by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_fails_its_checks_stays_out() {
    all_hold(tokio::join!(stays_out_by_checks(SHORT), stays_out_by_checks(Way::Discovery)));
}

async fn stays_out_by_checks(way: Way) -> Vec<String> {
    let heartbeat = json!({"path": "/before", "interval": "500ms", "timeout": "450ms", "unhealthy_after": 2});
    let stage = Stage::start(way, 3, outlier(json!({"heartbeat": heartbeat})), &[]).await;
    let ill = &stage.hosts[0];
    let is_check = |path: &str| matches!(path, "/before" | "/after");
    ill.script(move |seen| if is_check(&seen.path) { Action::status(503) } else { Action::ok() });
    for change in &stage.changes {
        stage.becomes(change, "hosts_ejected", 1).await;
    }
    ill.reset_counters();

    let clients = stage.update().await;
    for change in &stage.changes {
        sends(&clients, change, 12).await;
        let got = ill.requests_to(&change.path());
        stage.check(change, (got == 0) == steers(change), format!("{got} of 12 requests come to the host that is out"));
        stage.becomes(change, "hosts_ejected", u64::from(steers(change))).await;
    }
    // Some checks later it is still ill.
    sleep(ms(3000)).await;
    for change in stage.changes.iter().filter(|change| steers(change)) {
        let before = ill.requests_to(&change.path());
        sends(&clients, change, 4).await;
        let got = ill.requests_to(&change.path()) - before;
        stage.check(change, got == 0, format!("while it is ill it gets {got} of 4 requests"));
    }
    ill.always(Action::ok());
    for change in &stage.changes {
        stage.becomes(change, "hosts_ejected", 0).await;
        serves(&stage, &clients, change).await;
    }
    stage.end().await
}
