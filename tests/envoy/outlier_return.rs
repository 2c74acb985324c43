//! How a host comes back: by as many requests as the policy says and no more, and not before its time.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod outlying;

use holdfast_tests::{
    Action, Backend, Client, PATIENCE, Scene, Template, Traffic, attempts, drive_all, eventually, gaps,
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use outlying::{
    SETTLED, all_served, are_out, are_told_nothing, becomes, counts, listed, metric, ms, orders, scene_of, start,
    told_of,
};

/// Out for half a second at first, and exactly so. No sweep in a test takes anything back.
fn for_half_a_second(more: Value) -> Value {
    let mut outlier = json!({
        "consecutive_failures": 3, "base_ejection_time": "500ms", "ejection_jitter": 0, "interval": "60s",
    });
    json_patch::merge(&mut outlier, &more);
    listed(outlier)
}

/// Takes a host out by the requests of these clients, and waits until none is under way there.
async fn take_out(scene: &Scene, clients: &[Client], bad: &Backend) {
    drive_all(clients, clients.len(), 60, "/").await;
    are_out(scene, "orders", &[bad]).await;
    bad.wait_idle().await.unwrap();
    sleep(SETTLED).await;
}

async fn one_request_at_a_time(workers: u32) {
    let hosts: [Backend; 5] = start().await;
    let (scene, clients) = scene_of(&hosts, workers, orders(for_half_a_second(json!({})))).await;
    let bad = &hosts[1];
    bad.always(Action::status(500));
    take_out(&scene, &clients, bad).await;
    bad.reset_counters();

    // Its failures take long, so that many requests pass while a probe is under way.
    bad.always(Action::status(500).after(ms(200)));
    let traffic = Traffic::start(&clients, 4 * clients.len(), ms(5), "/");
    becomes(&scene, "orders", "probe_failed", 2).await;
    let probes = bad.seen();
    assert_eq!(probes.len(), 2, "one request when its time is over, and one when the next time is");
    // 200 ms for the first to fail, and then a second.
    assert!(gaps(&probes)[0] >= ms(1190), "the second time is twice as long: {:?}", gaps(&probes));
    bad.always(Action::ok());
    becomes(&scene, "orders", "readmitted", 1).await;
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    let probes = bad.seen();
    assert!(gaps(&probes)[1] >= ms(1690), "and the third three times: {:?}", gaps(&probes));
    hosts.iter().for_each(Backend::reset_counters);
    traffic.goes_on(500).await.unwrap();
    let records = traffic.stop().await;

    let least = *counts(&hosts).iter().min().unwrap();
    assert!(least >= 60, "it serves as the others do: {:?}", counts(&hosts));
    assert_eq!(records.count(500), 2, "two requests of {} were risked", records.0.len());
    assert_eq!(metric(&scene, "orders", "ejections.consecutive_failures").await, 1);
    let told = told_of(&scene, "orders", bad);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], "ejected for 500ms: 3 consecutive failures, last 500; 1 of 5 hosts out");
    assert_eq!(told[1], "failed its probe (500): out for 1s more, ejected 2 times; 1 of 5 hosts out");
    assert_eq!(told[2], "failed its probe (500): out for 1.5s more, ejected 3 times; 1 of 5 hosts out");
    let back = told[3].starts_with("is back after ") && told[3].ends_with(": its probe succeeded; 0 of 5 hosts out");
    assert!(back, "{}", told[3]);
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_tries_a_host_when_its_time_is_over_two_workers() {
    one_request_at_a_time(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_tries_a_host_when_its_time_is_over_four_workers() {
    one_request_at_a_time(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_probes_all_have_to_succeed() {
    let hosts: [Backend; 3] = start().await;
    let outlier = for_half_a_second(json!({"probe": {"requests": 3}}));
    let (scene, clients) = scene_of(&hosts, 4, orders(outlier)).await;
    let bad = &hosts[0];
    bad.always(Action::status(503));
    take_out(&scene, &clients, bad).await;
    bad.reset_counters();

    // After a quiet time a crowd comes at once.
    sleep(ms(600)).await;
    bad.hold();
    let crowd: Vec<_> = (0..40).map(|number| clients[number % 4].open(Client::request("/"))).collect();
    let answered = || crowd.iter().filter(|request| request.is_finished()).count();
    eventually(PATIENCE, || async { answered() == 37 }).await.expect("three of them are probes");
    bad.script(|seen| if seen.index == 2 { Action::status(503) } else { Action::ok() });
    bad.release_all();
    for request in crowd {
        request.finish().await.unwrap();
    }
    let traffic = Traffic::start(&clients, 12, ms(5), "/");
    becomes(&scene, "orders", "probe_failed", 1).await;
    assert_eq!(bad.requests(), 3, "two good ones and a bad one are not three good ones");
    assert_eq!(metric(&scene, "orders", "readmitted").await, 0);
    bad.reset_counters();
    bad.hold();
    bad.always(Action::ok());
    bad.wait_in_flight(3).await.expect("three again");
    traffic.goes_on(200).await.unwrap();
    assert_eq!(bad.requests(), 3, "and no more while they are under way");
    bad.release_all();
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    traffic.goes_on(100).await.unwrap();
    traffic.stop().await;
    assert!(bad.requests() > 10, "all were good: it serves again");
    assert_eq!(metric(&scene, "orders", "readmitted").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_back_starts_slowly_if_the_policy_says_so() {
    let hosts: [Backend; 2] = start().await;
    let outlier = for_half_a_second(json!({"slow_start": "2s"}));
    let (scene, clients) = scene_of(&hosts, 2, orders(outlier)).await;
    let bad = &hosts[0];
    bad.always(Action::status(500));
    take_out(&scene, &clients, bad).await;
    bad.always(Action::ok());

    let traffic = Traffic::start(&clients, 4, ms(4), "/");
    becomes(&scene, "orders", "readmitted", 1).await;
    let mut shares = Vec::new();
    for _ in 0..5 {
        hosts.iter().for_each(Backend::reset_counters);
        sleep(ms(500)).await;
        let counts = counts(&hosts);
        shares.push(counts[0] as f64 / counts.iter().sum::<u64>() as f64);
    }
    all_served(&traffic.stop().await);

    // Of two hosts with 10 % to 25 %, then up to 50 %, 75 % and all of its half.
    assert!(shares[0] > 0.01 && shares[0] < 0.25, "little at first, but not nothing: {shares:?}");
    assert!(shares[3] > shares[0] + 0.1, "more and more: {shares:?}");
    assert!(shares[4] > 0.4, "its half in the end: {shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_can_be_made_again_is_the_probe() {
    let hosts: [Backend; 3] = start().await;
    let mut policy = orders(for_half_a_second(json!({})));
    policy["policies"][0]["retry"] = json!({
        "max_retries": 2, "on": ["5xx"], "backoff": {"base": "1ms", "jitter": "none"},
        "budget": {"ratio": 100, "min_per_second": 1000},
    });
    let (scene, clients) = scene_of(&hosts, 4, policy).await;
    let bad = &hosts[2];
    bad.always(Action::status(500));
    drive_all(&clients, 4, 60, "/").await;
    are_out(&scene, "orders", &[bad]).await;
    bad.wait_idle().await.unwrap();
    bad.reset_counters();

    let mixed =
        Template::new(
            |number| {
                if number % 8 == 0 { Client::request("/get") } else { Client::post_request("/post", "order") }
            },
        );
    let traffic = Traffic::start(&clients, 12, ms(5), mixed);
    becomes(&scene, "orders", "probe_failed", 2).await;
    let records = traffic.stop().await;
    bad.wait_idle().await.unwrap();

    all_served(&records);
    let probes = bad.seen();
    assert!(probes.iter().all(|probe| probe.method == Method::GET), "no POST is risked: {probes:?}");
    assert_eq!(probes.len(), 2, "and a request that was a probe goes elsewhere when it is made again");
    let log = scene.wait_for_access_log(records.0.len()).await.unwrap();
    let told: Vec<_> = log.iter().filter(|entry| entry.holdfast_field("probe").is_some()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for entry in told {
        assert_eq!(entry.holdfast_field("probe"), Some(bad.addr().to_string().as_str()));
        let outcomes: Vec<_> = attempts(entry).into_iter().map(|one| one.outcome).collect();
        assert_eq!(outcomes, ["failure:500", "success:200"], "{:?}", entry.holdfast);
    }

    // Without any other requests POSTs have to do: somebody must go first.
    bad.always(Action::ok());
    let traffic = Traffic::start(&clients, 4, ms(5), Client::post_request("/post", "order"));
    becomes(&scene, "orders", "readmitted", 1).await;
    all_served(&traffic.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_whose_client_leaves_is_made_again() {
    let hosts: [Backend; 2] = start().await;
    let (scene, clients) = scene_of(&hosts, 2, orders(for_half_a_second(json!({})))).await;
    let bad = &hosts[0];
    bad.always(Action::status(500));
    take_out(&scene, &clients, bad).await;
    bad.reset_counters();
    bad.always(Action::hang());

    // Requests until one of them is the probe, which then waits.
    let probe = eventually(PATIENCE, || async {
        let request = clients[0].open(Client::request("/"));
        eventually(PATIENCE, || async { request.is_finished() || bad.in_flight() == 1 }).await.unwrap();
        (bad.in_flight() == 1).then_some(request)
    })
    .await
    .unwrap();
    probe.disconnect().await;
    bad.wait_idle().await.unwrap();
    assert_eq!(metric(&scene, "orders", "probe_failed").await, 0, "the host has not failed it");
    bad.always(Action::ok());
    let traffic = Traffic::start(&clients, 2, ms(20), "/");
    becomes(&scene, "orders", "readmitted", 1).await;
    all_served(&traffic.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_panic_threshold_the_first_request_after_its_time_is_the_probe() {
    let hosts: [Backend; 2] = start().await;
    let outlier = for_half_a_second(json!({"max_ejected": 100}));
    let (scene, clients) = scene_of(&hosts, 2, orders(outlier)).await;
    hosts.iter().for_each(|host| host.always(Action::status(500)));
    drive_all(&clients, 4, 100, "/").await;
    are_out(&scene, "orders", &[&hosts[0], &hosts[1]]).await;

    hosts.iter().for_each(|host| host.always(Action::ok()));
    let before = metric(&scene, "orders", "readmitted").await;
    all_served(&drive_all(&clients, 4, 40, "/").await);
    let early = metric(&scene, "orders", "readmitted").await;
    let traffic = Traffic::start(&clients, 4, ms(10), "/");
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    all_served(&traffic.stop().await);

    assert!(before == 0 && early <= 2, "{before} {early}");
    assert_eq!(metric(&scene, "orders", "readmitted").await, 2, "both are back, each by its own success");
    assert_eq!(metric(&scene, "orders", "probe_failed").await, 0);
}
