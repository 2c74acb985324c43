//! How a host comes back: by as many requests as the policy says and no more, and not before its time.

use std::time::Instant;

use holdfast_tests::{
    Action, Backend, Client, PATIENCE, Scene, Template, Traffic, attempts, drive_all, envoy_version, eventually, gaps,
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    SETTLED, Story, all_served, are_out, are_told_nothing, becomes, counts, listed, logged, metric, metric_now, ms,
    stage, told_of,
};

/// Out for half a second at first, and exactly so. No sweep in a test takes anything back.
fn for_half_a_second(more: Value) -> Value {
    let mut outlier = json!({
        "consecutive_failures": 3, "base_ejection_time": "500ms", "ejection_jitter": 0, "interval": "60s",
    });
    json_patch::merge(&mut outlier, &more);
    listed(outlier)
}

/// Takes a host out by no more requests than that takes. Then nothing has been counted there.
async fn take_out(scene: &Scene, clients: &[Client], name: &str, bad: &Backend) {
    bad.always(Action::status(500));
    for client in clients.iter().cycle() {
        client.get(name).await.unwrap();
        if bad.requests() == 3 {
            break;
        }
    }
    bad.reset_counters();
    are_out(scene, name, &[bad]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_come_back_over_two_workers() {
    let single = Story::of::<5>("/one-probe", for_half_a_second(json!({}))).await;
    let panic = Story::of::<2>("/panic", for_half_a_second(json!({"max_ejected": 100}))).await;
    let (scene, clients) = stage(2, &[&single, &panic]).await;
    tokio::join!(
        one_request_at_a_time(&scene, &clients, &single),
        in_panic_the_first_request_after_its_time_is_the_probe(&scene, &clients, &panic),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_come_back_over_four_workers() {
    let single = Story::of::<5>("/one-probe", for_half_a_second(json!({}))).await;
    let several = Story::of::<3>("/three-probes", for_half_a_second(json!({"probe": {"requests": 3}}))).await;
    let slowly = Story::of::<2>("/slowly", for_half_a_second(json!({"slow_start": "2s"}))).await;
    let retry = json!({
        "max_retries": 2, "on": ["5xx"], "backoff": {"base": "1ms", "jitter": "none"},
        "budget": {"ratio": 100, "min_per_second": 1000},
    });
    let retried = json!({"outlier": for_half_a_second(json!({})), "retry": retry});
    let retried = Story::new::<3>("/retried", retried).await;
    let left = Story::of::<2>("/left", for_half_a_second(json!({}))).await;
    let slow = for_half_a_second(json!({"consecutive_failures": 0, "interval": "1s", "latency": {"min_requests": 5}}));
    let slow = Story::of::<4>("/slow", slow).await;
    let (scene, clients) = stage(4, &[&single, &several, &slowly, &retried, &left, &slow]).await;
    tokio::join!(
        one_request_at_a_time(&scene, &clients, &single),
        several_probes_all_have_to_succeed(&scene, &clients, &several),
        one_that_is_back_starts_slowly(&scene, &clients, &slowly),
        a_request_that_can_be_made_again_is_the_probe(&scene, &clients, &retried),
        a_probe_whose_client_leaves_is_made_again(&scene, &clients, &left),
        a_slow_host_has_to_be_faster_to_come_back(&scene, &clients, &slow),
    );
}

async fn one_request_at_a_time(scene: &Scene, clients: &[Client], Story { name, hosts, .. }: &Story) {
    let bad = &hosts[1];
    take_out(scene, clients, name, bad).await;

    // Its failures take long, so that many requests pass while a probe is under way.
    bad.always(Action::status(500).after(ms(200)));
    let traffic = Traffic::start(clients, 8, ms(10), *name);
    becomes(scene, name, "probe_failed", 2).await;
    let probes = bad.seen();
    assert_eq!(probes.len(), 2, "one request when its time is over, and one when the next time is");
    // 200 ms for the first to fail, and then a second.
    assert!(gaps(&probes)[0] >= ms(1190), "the second time is twice as long: {:?}", gaps(&probes));
    bad.always(Action::ok());
    becomes(scene, name, "readmitted", 1).await;
    becomes(scene, name, "hosts_ejected", 0).await;
    let probes = bad.seen();
    assert!(gaps(&probes)[1] >= ms(1690), "and the third three times: {:?}", gaps(&probes));
    hosts.iter().for_each(Backend::reset_counters);
    traffic.goes_on(300).await.unwrap();
    let records = traffic.stop().await;

    let least = *counts(hosts).iter().min().unwrap();
    assert!(least >= 30, "it serves as the others do: {:?}", counts(hosts));
    assert_eq!(records.count(500), 2, "two requests of {} were risked", records.0.len());
    assert_eq!(metric(scene, name, "ejections.consecutive_failures").await, 1);
    let told = told_of(scene, name, bad);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], "ejected for 500ms: 3 consecutive failures, last 500; 1 of 5 hosts out");
    assert_eq!(told[1], "failed its probe (500): out for 1s more, ejected 2 times; 1 of 5 hosts out");
    assert_eq!(told[2], "failed its probe (500): out for 1.5s more, ejected 3 times; 1 of 5 hosts out");
    let back = told[3].starts_with("is back after ") && told[3].ends_with(": its probe succeeded; 0 of 5 hosts out");
    assert!(back, "{}", told[3]);
    are_told_nothing(hosts);
}

async fn several_probes_all_have_to_succeed(scene: &Scene, clients: &[Client], Story { name, hosts, .. }: &Story) {
    let bad = &hosts[0];
    take_out(scene, clients, name, bad).await;

    // After a quiet time a crowd comes at once.
    sleep(ms(600)).await;
    bad.hold();
    let crowd: Vec<_> = (0..40).map(|number| clients[number % 4].open(Client::request(name))).collect();
    let answered = || crowd.iter().filter(|request| request.is_finished()).count();
    eventually(PATIENCE, || async { answered() == 37 }).await.expect("three of them are probes");
    bad.script(|seen| if seen.index == 2 { Action::status(503) } else { Action::ok() });
    bad.release_all();
    for request in crowd {
        request.finish().await.unwrap();
    }
    becomes(scene, name, "probe_failed", 1).await;
    assert_eq!(bad.requests(), 3, "two good ones and a bad one are not three good ones");
    assert_eq!(metric(scene, name, "readmitted").await, 0);

    bad.reset_counters();
    bad.hold();
    bad.always(Action::ok());
    let traffic = Traffic::start(clients, 12, ms(10), *name);
    bad.wait_in_flight(3).await.expect("three again");
    traffic.goes_on(100).await.unwrap();
    assert_eq!(bad.requests(), 3, "and no more while they are under way");
    bad.release_all();
    becomes(scene, name, "hosts_ejected", 0).await;
    traffic.goes_on(100).await.unwrap();
    traffic.stop().await;
    assert!(bad.requests() > 10, "all were good: it serves again");
    assert_eq!(metric(scene, name, "readmitted").await, 1);
}

async fn one_that_is_back_starts_slowly(scene: &Scene, clients: &[Client], Story { name, hosts, .. }: &Story) {
    let bad = &hosts[0];
    take_out(scene, clients, name, bad).await;
    bad.always(Action::ok());

    let traffic = Traffic::start(clients, 4, ms(4), *name);
    becomes(scene, name, "readmitted", 1).await;
    sleep(ms(2800)).await;
    all_served(&traffic.stop().await);

    let arrivals = hosts.iter().map(|host| host.seen().into_iter().map(|seen| seen.at).collect::<Vec<_>>());
    let arrivals: Vec<Vec<Instant>> = arrivals.collect();
    let probe = arrivals[0][0];
    // Its share of all requests in the quarter of the slow start with this number.
    let share = |quarter: u32| {
        let (from, to) = (probe + ms(500) * quarter, probe + ms(500) * (quarter + 1));
        let within = |arrivals: &Vec<Instant>| arrivals.iter().filter(|at| (from..to).contains(*at)).count() as f64;
        within(&arrivals[0]) / (within(&arrivals[0]) + within(&arrivals[1]))
    };
    let shares = [share(0), share(1), share(2), share(3), share(4)];
    // Of two hosts with 10 % to 25 %, then up to 50 %, 75 % and all of its half.
    // Before Envoy 1.39 it may take a second until a worker knows that it is back.
    let known = if envoy_version() >= (1, 39) { 0 } else { 2 };
    assert!(shares[known] > 0.01 && shares[0] < 0.3, "little at first, but not nothing: {shares:?}");
    assert!(shares[3] > shares[0] + 0.1, "more and more: {shares:?}");
    assert!(shares[4] > 0.4, "its half in the end: {shares:?}");
}

async fn a_slow_host_has_to_be_faster_to_come_back(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    let slow = &hosts[2];
    slow.always(Action::ok().after(ms(120)));
    let traffic = Traffic::start(clients, 8, ms(20), *name);
    becomes(scene, name, "ejections.latency", 1).await;
    becomes(scene, name, "probe_failed", 1).await;
    assert_eq!(metric(scene, name, "readmitted").await, 0, "its answer was good, but as slow as before");
    slow.always(Action::ok());
    becomes(scene, name, "readmitted", 1).await;
    all_served(&traffic.stop().await);
}

async fn a_request_that_can_be_made_again_is_the_probe(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    let bad = &hosts[2];
    take_out(scene, clients, name, bad).await;

    let mixed = Template::new(|number| {
        if number % 8 == 0 {
            Client::request("/retried/mixed")
        } else {
            Client::post_request("/retried/mixed", "order")
        }
    });
    let traffic = Traffic::start(clients, 12, ms(10), mixed);
    becomes(scene, name, "probe_failed", 2).await;
    let records = traffic.stop().await;
    bad.wait_idle().await.unwrap();

    all_served(&records);
    let probes = bad.seen();
    assert!(probes.iter().all(|probe| probe.method == Method::GET), "no POST is risked: {probes:?}");
    assert_eq!(probes.len(), 2, "and a request that was a probe goes elsewhere when it is made again");
    let log = logged(scene, "/retried/mixed", records.0.len()).await;
    let told: Vec<_> = log.iter().filter(|entry| entry.holdfast_field("probe").is_some()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for entry in told {
        assert_eq!(entry.holdfast_field("probe"), Some(bad.addr().to_string().as_str()));
        let outcomes: Vec<_> = attempts(entry).into_iter().map(|one| one.outcome).collect();
        assert_eq!(outcomes, ["failure:500", "success:200"], "{:?}", entry.holdfast);
    }

    // Without any other requests POSTs have to do: somebody must go first.
    bad.always(Action::ok());
    let traffic = Traffic::start(clients, 4, ms(10), Client::post_request("/retried/posts", "order"));
    becomes(scene, name, "readmitted", 1).await;
    all_served(&traffic.stop().await);
}

async fn a_probe_whose_client_leaves_is_made_again(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    let bad = &hosts[0];
    take_out(scene, clients, name, bad).await;
    bad.always(Action::hang());

    // Requests until one of them is the probe, which then waits.
    let probe = eventually(PATIENCE, || async {
        let request = clients[0].open(Client::request(name));
        eventually(PATIENCE, || async { request.is_finished() || bad.in_flight() == 1 }).await.unwrap();
        (bad.in_flight() == 1).then_some(request)
    })
    .await
    .unwrap();
    probe.disconnect().await;
    bad.wait_idle().await.unwrap();
    sleep(SETTLED).await;
    assert_eq!(metric(scene, name, "probe_failed").await, 0, "the host has not failed it");
    bad.always(Action::ok());
    let traffic = Traffic::start(clients, 2, ms(50), *name);
    becomes(scene, name, "readmitted", 1).await;
    all_served(&traffic.stop().await);
}

async fn in_panic_the_first_request_after_its_time_is_the_probe(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    hosts.iter().for_each(|host| host.always(Action::status(500)));
    drive_all(clients, 4, 100, *name).await;
    eventually(PATIENCE, || async { metric_now(scene, name, "ejections.consecutive_failures").await == 2 })
        .await
        .unwrap();

    hosts.iter().for_each(|host| host.always(Action::ok()));
    let traffic = Traffic::start(clients, 4, ms(10), *name);
    becomes(scene, name, "hosts_ejected", 0).await;
    all_served(&traffic.stop().await);

    assert_eq!(metric(scene, name, "readmitted").await, 2, "both are back, each by its own success");
    for host in hosts {
        let told = told_of(scene, name, host);
        assert!(told.last().unwrap().contains(": its probe succeeded; "), "{told:?}");
    }
}
