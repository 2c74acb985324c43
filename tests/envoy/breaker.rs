//! The circuit breaker, over two workers of a real Envoy: when it opens, who passes half-open, how it closes.

use std::time::{Duration, SystemTime};

use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Records, Route, Scene, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

/// The states as the gauge `breaker_state` shows them.
const CLOSED: u64 = 0;
const HALF_OPEN: u64 = 1;
const OPEN: u64 = 2;
const RAMPING: u64 = 3;
const FORCED_OPEN: u64 = 4;
const FORCED_CLOSED: u64 = 5;

/// The open period of [`quick`].
const PERIOD: Duration = Duration::from_millis(200);

/// Some time longer than [`PERIOD`].
const PERIOD_OVER: Duration = Duration::from_millis(300);

/// Opens when half of at least four requests failed, for a short and constant time.
fn quick() -> Value {
    json!({
        "window": "60s", "min_requests": 4, "failure_rate": 50,
        "open_for": format!("{}ms", PERIOD.as_millis()), "open_growth": 1, "open_jitter": 0,
    })
}

/// A period in which a busy machine still gets to send a request.
const ROOMY: Duration = Duration::from_secs(2);

/// Some time longer than [`ROOMY`].
const ROOMY_OVER: Duration = Duration::from_millis(2100);

/// The same with a roomy period, for what is to be rejected within it.
fn roomy() -> Value {
    changed(quick(), json!({"open_for": format!("{}ms", ROOMY.as_millis())}))
}

/// The same, but once open it stays so to the end of the test.
fn lasting() -> Value {
    changed(quick(), json!({"open_for": "1h"}))
}

fn changed(mut value: Value, patch: Value) -> Value {
    json_patch::merge(&mut value, &patch);
    value
}

fn orders(breaker: Value) -> Value {
    json!({"policies": [{"name": "orders", "breaker": breaker}]})
}

/// One GET that the host, if it sees it, answers with `status`.
async fn send(client: &Client, host: &Backend, status: u16) -> u16 {
    host.always(Action::status(status));
    client.get("/").await.unwrap().status
}

/// Four failures: enough for [`quick`] in its first window.
async fn trip(client: &Client, host: &Backend) {
    for _ in 0..4 {
        assert_eq!(send(client, host, 500).await, 500, "the breaker still lets requests pass");
    }
}

/// Opens the breaker and waits until its period is over.
async fn half_open(client: &Client, host: &Backend) {
    trip(client, host).await;
    sleep(PERIOD_OVER).await;
}

/// Sends one request and expects the breaker to reject it before the host sees it.
async fn expect_rejected(client: &Client, host: &Backend) {
    let before = host.requests();
    let response = client.get("/").await.unwrap();
    assert_eq!(response.status, 503);
    assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
    assert_eq!(response.header("cache-control").as_deref(), Some("no-store"), "no cache in front keeps it");
    assert_eq!(host.requests(), before, "the host is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_opens_at_the_threshold_and_not_before() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(lasting(), json!({"min_requests": 20}));
    let scene = Scene::start(&host, orders(breaker)).await;
    let workers = scene.workers(2).await;

    for number in 0..19 {
        let status = if number < 9 { 500 } else { 200 };
        let worker = &workers[number % 2];
        assert_eq!(send(worker, &host, status).await, status, "below the minimum of 20 requests nothing is decided");
    }
    assert_eq!(send(&workers[1], &host, 200).await, 200);
    assert_eq!(send(&workers[0], &host, 500).await, 500, "9 of 20 is below a half");
    assert_eq!(send(&workers[1], &host, 500).await, 500, "10 of 21 is below a half");
    assert_eq!(scene.metric("breaker_state").await, OPEN, "11 of 22 is a half");

    for worker in &workers {
        expect_rejected(worker, &host).await;
    }
    assert_eq!(host.requests(), 22);
    assert_eq!(
        scene.transitions("orders"),
        ["orders/cluster=orders: closed -> open: failure rate 50% of 22 >= 50%; next probe in 3600s"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_success_that_completes_the_volume_opens_it_too() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(changed(lasting(), json!({"min_requests": 6})))).await;
    let workers = scene.workers(2).await;

    for number in 0..3 {
        assert_eq!(send(&workers[number % 2], &host, 500).await, 500);
    }
    for number in 0..3 {
        assert_eq!(send(&workers[number % 2], &host, 200).await, 200, "five requests decide nothing");
    }

    expect_rejected(&workers[0], &host).await;
    expect_rejected(&workers[1], &host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_of_all_workers_count_together() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(lasting())).await;
    let workers = scene.workers(2).await;

    for worker in [&workers[0], &workers[0], &workers[1]] {
        assert_eq!(send(worker, &host, 500).await, 500);
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED, "three are too few");
    assert_eq!(send(&workers[1], &host, 500).await, 500);

    expect_rejected(&workers[0], &host).await;
    expect_rejected(&workers[1], &host).await;
    assert_eq!(scene.metric("breaker_opened.failure_rate").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_after_the_last_failure_is_rejected_on_every_worker() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(roomy(), json!({"half_open": {"probes": 1}}));
    let scene = Scene::start(&host, orders(breaker)).await;
    let workers = scene.workers(2).await;

    for round in 0..6 {
        let (tripping, other) = (&workers[round % 2], &workers[(round + 1) % 2]);
        trip(tripping, &host).await;
        expect_rejected(other, &host).await;
        sleep(ROOMY_OVER).await;
        assert_eq!(send(other, &host, 200).await, 200, "the probe");
        // The other way round: the first to see that it closed is the worker that did not close it.
        trip(tripping, &host).await;
        expect_rejected(tripping, &host).await;
        sleep(ROOMY_OVER).await;
        assert_eq!(send(tripping, &host, 200).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_says_who_rejects_and_when_to_come_back() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(changed(quick(), json!({"open_for": "30s"})))).await;
    trip(&scene.client, &host).await;
    host.reset_counters();

    let records = scene.client.burst(20, "/").await;

    assert_eq!(records.count(503), 20);
    for response in records.responses() {
        assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
        let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&seconds), "the rest of the open period in whole seconds, not {seconds}");
        assert_eq!(response.header("x-holdfast-fallback"), None, "there is no fallback");
        assert!(response.body.is_empty());
    }
    assert_eq!(host.requests(), 0, "a rejected request costs the host nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_in_half_open_asks_to_wait_at_least_a_second() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(changed(quick(), json!({"half_open": {"probes": 1}})))).await;
    half_open(&scene.client, &host).await;

    host.hold();
    let probe = scene.client.open(Client::request("/"));
    host.wait_in_flight(1).await.unwrap();
    let rejected = scene.client.get("/").await.unwrap();

    assert_eq!((rejected.status, rejected.header("retry-after").as_deref()), (503, Some("1")));
    host.always(Action::ok());
    host.release_all();
    assert_eq!(probe.finish().await.unwrap().status, 200);
}

/// Sends 50 requests at once in half-open, with the host's answers held, and gives what came of them after the host
/// answered all that it got with `status`.
async fn flood(scene: &Scene, host: &Backend, probes: u64, status: u16) -> Records {
    let rejected = scene.metric("rejected.open").await;
    host.reset_counters();
    host.hold();
    let client = scene.client.clone();
    let burst = tokio::spawn(async move { client.burst(50, "/").await });
    eventually(PATIENCE, || async {
        let (passed, rejected) = (host.requests(), scene.metric("rejected.open").await - rejected);
        if passed + rejected == 50 { Ok(()) } else { Err(format!("{passed} passed and {rejected} were rejected")) }
    })
    .await
    .unwrap();
    assert_eq!(host.requests(), probes, "never one probe more, over all workers");
    assert_eq!(scene.metric("breaker_state").await, HALF_OPEN);
    host.always(Action::status(status));
    host.release_all();
    burst.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_requests_exactly_the_probes_pass_half_open() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(changed(quick(), json!({"half_open": {"probes": 5}})))).await;

    for round in 1..=4 {
        half_open(&scene.client, &host).await;
        let records = flood(&scene, &host, 5, 200).await;
        assert_eq!((records.count(200), records.count(503)), (5, 45));
        assert_eq!(scene.metric("breaker_state").await, CLOSED, "five good probes close it");

        half_open(&scene.client, &host).await;
        let records = flood(&scene, &host, 5, 500).await;
        assert_eq!((records.count(500), records.count(503)), (5, 45));
        assert_eq!(scene.metric("breaker_state").await, OPEN, "bad probes open it again");
        sleep(PERIOD_OVER).await;
        assert_eq!(flood(&scene, &host, 5, 200).await.count(200), 5, "the last round's probes do not count any more");
        assert_eq!(scene.metric("breaker_opened.failure_rate").await, 3 * round);
    }
    assert_eq!(scene.transitions("orders").len(), 4 * (3 + 5), "one line for each step");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_exact_over_four_workers_too() {
    let host = Backend::start().await.unwrap();
    let policy = orders(changed(quick(), json!({"open_for": "50ms", "half_open": {"probes": 3}})));
    let scene = Scene::with(Scene::of(&host).concurrency(4).policy(policy)).await;

    // Workers meet in the same microseconds only now and then: many rounds.
    for _ in 0..20 {
        trip(&scene.client, &host).await;
        sleep(Duration::from_millis(80)).await;
        assert_eq!(flood(&scene, &host, 3, 200).await.count(200), 3);
        assert_eq!(scene.metric("breaker_state").await, CLOSED);
    }
    assert_eq!(scene.transitions("orders").len(), 20 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_closes_when_the_probes_are_judged_and_starts_counting_afresh() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(changed(roomy(), json!({"half_open": {"probes": 4}})))).await;
    let workers = scene.workers(2).await;
    trip(&workers[0], &host).await;
    sleep(ROOMY_OVER).await;

    for number in 0..3 {
        assert_eq!(send(&workers[number % 2], &host, 200).await, 200);
        assert_eq!(scene.metric("breaker_state").await, HALF_OPEN, "fewer than four probes close nothing");
    }
    assert_eq!(send(&workers[1], &host, 500).await, 500, "one of four is below a half");
    assert_eq!(scene.metric("breaker_state").await, CLOSED);

    for worker in [&workers[0], &workers[1], &workers[0]] {
        assert_eq!(send(worker, &host, 500).await, 500, "what was before does not count");
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED);
    assert_eq!(send(&workers[1], &host, 500).await, 500);
    expect_rejected(&workers[0], &host).await;
    assert_eq!(
        scene.transitions("orders"),
        [
            "orders/cluster=orders: closed -> open: failure rate 100% of 4 >= 50%; next probe in 2s",
            &scene.transitions("orders")[1],
            "orders/cluster=orders: half-open -> closed: 4 probes judged, 1 failed",
            "orders/cluster=orders: closed -> open: failure rate 100% of 4 >= 50%; next probe in 2s",
        ]
    );
    assert!(scene.transitions("orders")[1].starts_with("orders/cluster=orders: open -> half-open: "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reopening_lasts_longer_up_to_the_maximum() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({
        "window": "60s", "min_requests": 4, "open_for": "300ms", "open_growth": 10, "open_max": "7500ms", "open_jitter": 0,
        "half_open": {"probes": 1},
    });
    let scene = Scene::start(&host, orders(breaker)).await;
    let periods = || {
        let told = scene.transitions("orders");
        let period = |line: &String| line.split_once("next probe in ").map(|(_, period)| period.to_owned());
        told.iter().filter_map(period).collect::<Vec<_>>()
    };

    trip(&scene.client, &host).await;
    sleep(Duration::from_millis(350)).await;
    assert_eq!(send(&scene.client, &host, 500).await, 500, "the first period is over");
    assert_eq!(periods(), ["300ms", "3s"]);
    sleep(Duration::from_millis(350)).await;
    expect_rejected(&scene.client, &host).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(send(&scene.client, &host, 500).await, 500, "the second period is over");
    assert_eq!(periods(), ["300ms", "3s", "7.5s"], "thirty seconds are more than the maximum");
    let response = scene.client.get("/").await.unwrap();
    let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((6..=8).contains(&wait), "{wait}");
    sleep(Duration::from_millis(7600)).await;
    assert_eq!(send(&scene.client, &host, 200).await, 200);
    assert_eq!(scene.metric("breaker_state").await, CLOSED);

    trip(&scene.client, &host).await;
    assert_eq!(periods(), ["300ms", "3s", "7.5s", "300ms"], "a close in between forgets the growth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jitter_lengthens_a_period_by_less_than_its_share() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(quick(), json!({"open_for": "100s", "open_jitter": 50}));
    let policy = json!({"policies": [{"name": "orders", "scope": [{"header": "x-tenant"}], "breaker": breaker}]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));

    for tenant in 0..6 {
        for _ in 0..4 {
            let mut request = Client::request("/");
            request.headers_mut().insert("x-tenant", tenant.into());
            assert_eq!(scene.client.send(request).await.unwrap().status, 500);
        }
    }

    let told = scene.transitions("orders");
    let period = |line: &String| line.split_once("next probe in ")?.1.strip_suffix('s')?.parse::<u64>().ok();
    let periods: Vec<u64> = told.iter().filter_map(period).collect();
    assert_eq!(periods.len(), 6, "{told:?}");
    assert!(periods.iter().all(|period| (100..=150).contains(period)), "{periods:?}");
    assert!(periods.iter().any(|period| *period != periods[0]), "they are not in step: {periods:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ignored_outcome_gives_its_permit_back() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "outcome": {"ignore": {"status": [404]}},
        "breaker": changed(quick(), json!({"half_open": {"probes": 1, "lease": "1h"}})),
    }]});
    let scene = Scene::start(&host, policy).await;
    let workers = scene.workers(2).await;
    half_open(&scene.client, &host).await;

    for number in 0..6 {
        assert_eq!(send(&workers[number % 2], &host, 404).await, 404, "the one permit is free again");
    }
    assert_eq!(scene.metric("breaker_state").await, HALF_OPEN, "404 says nothing about the host");
    assert_eq!(send(&workers[0], &host, 200).await, 200);
    assert_eq!(scene.metric("breaker_state").await, CLOSED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_never_answers_does_not_hold_half_open_for_ever() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(quick(), json!({"half_open": {"probes": 2, "lease": "1500ms"}}));
    let scene = Scene::start(&host, orders(breaker)).await;
    half_open(&scene.client, &host).await;
    host.reset_counters();

    host.hold();
    let hanging = [scene.client.open(Client::request("/hanging")), scene.client.open(Client::request("/hanging"))];
    host.wait_in_flight(2).await.unwrap();
    for _ in 0..5 {
        expect_rejected(&scene.client, &host).await;
    }

    sleep(Duration::from_millis(1600)).await;
    let fresh = [scene.client.open(Client::request("/fresh")), scene.client.open(Client::request("/fresh"))];
    host.wait_in_flight(4).await.expect("expired leases let two new probes in");
    expect_rejected(&scene.client, &host).await;
    assert_eq!(host.requests(), 4);

    host.script(|_| Action::status(200));
    host.release(2);
    for probe in hanging {
        assert_eq!(probe.finish().await.unwrap().status, 200, "they came first and are answered first");
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED, "an answer counts also after its lease");
    host.release_all();
    for probe in fresh {
        assert_eq!(probe.finish().await.unwrap().status, 200);
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_times_out_in_half_open_opens_it_again() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(roomy(), json!({"half_open": {"probes": 1}}));
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").timeout(Duration::from_millis(250)))
        .policy(orders(breaker));
    let scene = Scene::with(options).await;
    trip(&scene.client, &host).await;
    sleep(ROOMY_OVER).await;

    host.always(Action::hang());
    assert_eq!(scene.client.get("/").await.unwrap().status, 504);
    expect_rejected(&scene.client, &host).await;
    assert_eq!(scene.metric("breaker_state").await, OPEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_gives_its_permit_back() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(quick(), json!({"half_open": {"probes": 1, "lease": "1h"}}));
    let scene = Scene::start(&host, orders(breaker)).await;
    let workers = scene.workers(2).await;
    half_open(&scene.client, &host).await;

    host.hold();
    for client in [&scene.client, &workers[0], &workers[1]] {
        let probe = client.open(Client::request("/"));
        host.wait_in_flight(1).await.unwrap();
        expect_rejected(&workers[0], &host).await;
        let ignored = scene.metric("ignored").await;
        probe.disconnect().await;
        scene.becomes("ignored", ignored + 1).await;
        host.wait_in_flight(0).await.unwrap();
    }
    host.release_all();

    assert_eq!(send(&workers[1], &host, 200).await, 200, "the permit is free");
    assert_eq!(scene.metric("breaker_state").await, CLOSED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_does_not_judge_the_state_after_it() {
    let (held, host) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let policy = json!({"policies": [{
        "name": "orders", "scope": [], "breaker": changed(quick(), json!({"half_open": {"probes": 2}})),
    }]});
    // One policy with one state over two clusters, so that one host can be held while the other answers.
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("held").endpoint(held.addr()))
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Scene::aside())
        .route(Route::to("/held", "held"))
        .route(Route::to("/", "orders"))
        .policy(policy);
    let scene = Scene::with(options).await;
    let state = || async { scene.metrics("orders", "all").await["breaker_state"] };
    let failed = |count: u64| {
        let scene = &scene;
        async move {
            let failures = || async { scene.metrics("orders", "all").await["failure"] == count };
            eventually(PATIENCE, failures).await.expect("late failures are counted, though");
        }
    };

    held.always(Action::status(500));
    held.hold();
    let late: Vec<_> = (0..12).map(|_| scene.client.open(Client::request("/held"))).collect();
    held.wait_in_flight(12).await.unwrap();
    trip(&scene.client, &host).await;
    assert_eq!(state().await, OPEN);
    held.release(4);
    held.wait_in_flight(8).await.unwrap();
    sleep(PERIOD_OVER).await;
    assert_eq!(send(&scene.client, &host, 200).await, 200);
    assert_eq!(state().await, HALF_OPEN);
    held.release(4);
    held.wait_in_flight(4).await.unwrap();
    failed(12).await;
    assert_eq!(state().await, HALF_OPEN, "failures from before are no probes");
    assert_eq!(send(&scene.client, &host, 200).await, 200, "and took no permits");
    assert_eq!(state().await, CLOSED);
    held.release_all();
    for request in late {
        assert_eq!(request.finish().await.unwrap().status, 500);
    }

    failed(16).await;
    assert_eq!(state().await, CLOSED, "four failures would open it, but not these");
    assert_eq!(scene.metrics("orders", "all").await["breaker_opened.failure_rate"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_that_have_left_the_window_do_not_count() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(changed(lasting(), json!({"window": "1s", "min_requests": 3})))).await;

    for _ in 0..3 {
        for _ in 0..2 {
            assert_eq!(send(&scene.client, &host, 500).await, 500, "two in a second are too few");
        }
        sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED, "six in three seconds are not three in one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_window_looks_at_the_last_outcomes_over_all_workers() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(lasting(), json!({"window": 6, "min_requests": 6}));
    let scene = Scene::start(&host, orders(breaker)).await;
    let workers = scene.workers(2).await;
    let statuses = [500, 500, 200, 200, 200, 200, 200, 500, 500];

    for (number, status) in statuses.into_iter().enumerate() {
        assert_eq!(send(&workers[number % 2], &host, status).await, status);
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED, "of the last six two failed; the first two are forgotten");
    assert_eq!(send(&workers[0], &host, 500).await, 500);

    expect_rejected(&workers[1], &host).await;
    assert_eq!(
        scene.transitions("orders"),
        ["orders/cluster=orders: closed -> open: failure rate 50% of 6 >= 50%; next probe in 3600s"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_open_it_though_they_are_successes() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "outcome": {"slow_after": "1s"},
        "breaker": changed(lasting(), json!({"slow_rate": 50})),
    }]});
    let scene = Scene::start(&host, policy).await;
    let slow = Action::ok().after(Duration::from_millis(1100));

    for action in [Action::ok(), Action::ok(), Action::ok(), slow.clone(), slow.clone()] {
        host.always(action);
        assert_eq!(scene.client.get("/").await.unwrap().status, 200);
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED, "two of five are below a half");
    host.always(slow);
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);

    expect_rejected(&scene.client, &host).await;
    let metrics = scene.counted(&["success", "failure", "slow", "breaker_opened.slow_rate"]).await;
    assert_eq!(metrics, json!({"success": 6, "failure": 0, "slow": 3, "breaker_opened.slow_rate": 1}));
    assert_eq!(
        scene.transitions("orders"),
        ["orders/cluster=orders: closed -> open: slow rate 50% of 6 >= 50%; next probe in 3600s"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_in_a_row_open_it_whatever_the_volume() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(lasting(), json!({"min_requests": 1000, "consecutive_failures": 3}));
    let scene = Scene::start(&host, orders(breaker)).await;
    let workers = scene.workers(2).await;

    for (number, status) in [500, 500, 200, 500, 500, 200, 500, 500].into_iter().enumerate() {
        assert_eq!(send(&workers[number % 2], &host, status).await, status, "a success breaks the row");
    }
    assert_eq!(scene.metric("breaker_state").await, CLOSED);
    assert_eq!(send(&workers[0], &host, 500).await, 500);

    expect_rejected(&workers[1], &host).await;
    assert_eq!(scene.metric("breaker_opened.consecutive_failures").await, 1);
    assert_eq!(
        scene.transitions("orders"),
        ["orders/cluster=orders: closed -> open: 3 consecutive failures; next probe in 3600s"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_half_open_traffic_can_come_back_little_by_little() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(quick(), json!({"half_open": {"probes": 2}, "ramp": "2s"}));
    let scene = Scene::start(&host, orders(breaker)).await;
    half_open(&scene.client, &host).await;
    assert_eq!(send(&scene.client, &host, 200).await, 200);
    assert_eq!(send(&scene.client, &host, 200).await, 200);
    assert_eq!(scene.metric("breaker_state").await, RAMPING);

    let early = scene.client.steady(100.0, Duration::from_millis(500), "/").await;
    sleep(Duration::from_secs(1)).await;
    let late = scene.client.steady(100.0, Duration::from_millis(400), "/").await;
    assert!(early.count(503) > 25, "an eighth of the requests is let through, most are not: {:?}", early.statuses());
    assert!(late.count(200) > 20, "nine of ten are let through: {:?}", late.statuses());

    sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.client.burst(20, "/").await.count(200), 20, "the ramp is over");
    assert_eq!(scene.metric("breaker_state").await, CLOSED);
    let told = scene.transitions("orders");
    let last: Vec<&str> = told.iter().skip(2).map(String::as_str).collect();
    assert_eq!(
        last,
        [
            "orders/cluster=orders: half-open -> ramping: 2 probes judged, 0 failed; full traffic in 2s",
            "orders/cluster=orders: ramping -> closed: the ramp of 2s is over",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_during_the_ramp_open_it_again() {
    let host = Backend::start().await.unwrap();
    let breaker = changed(quick(), json!({"half_open": {"probes": 1}, "ramp": "500ms", "min_requests": 2}));
    let scene = Scene::start(&host, orders(breaker)).await;
    assert_eq!(send(&scene.client, &host, 500).await, 500);
    assert_eq!(send(&scene.client, &host, 500).await, 500);
    sleep(PERIOD_OVER).await;
    assert_eq!(send(&scene.client, &host, 200).await, 200);

    host.always(Action::status(500));
    eventually(PATIENCE, || async {
        scene.client.get("/").await.unwrap();
        scene.metric("breaker_opened.failure_rate").await == 2
    })
    .await
    .expect("two failures among those let through");
    assert_eq!(scene.metric("breaker_state").await, OPEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_retry_after_lengthens_the_open_period() {
    let host = Backend::start().await.unwrap();
    let breaker = |more: Value| changed(changed(quick(), json!({"open_max": "100s"})), more);
    let policy = json!({"policies": [
        {"name": "deaf", "match": {"path": ["/deaf"]}, "breaker": breaker(json!({"honor_retry_after": false}))},
        {"name": "orders", "scope": [{"header": "x-tenant"}], "breaker": breaker(json!({}))},
    ]});
    let scene = Scene::start(&host, policy).await;
    let in_a_minute = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
    let told_to_wait = async |path: &str, tenant: &str, retry_after: &str| {
        let request = || {
            let mut request = Client::request(path);
            request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
            request
        };
        host.always(Action::status(503).header("retry-after", retry_after));
        for _ in 0..4 {
            let response = scene.client.send(request()).await.unwrap();
            assert_eq!(response.header("retry-after").as_deref(), Some(retry_after), "the host's own answer");
        }
        let rejected = scene.client.send(request()).await.unwrap();
        assert!(rejected.header("x-holdfast-reject").is_some(), "{tenant} is open");
        rejected.header("retry-after").unwrap().parse::<u64>().unwrap()
    };

    let waits = told_to_wait("/", "seconds", "60").await;
    assert!((30..=60).contains(&waits), "seconds: {waits}");
    let waits = told_to_wait("/", "date", &in_a_minute).await;
    assert!((20..=60).contains(&waits), "a date: {waits}");
    let waits = told_to_wait("/", "too-long", "86400").await;
    assert!((70..=100).contains(&waits), "never past open_max: {waits}");
    let waits = told_to_wait("/", "shorter", "0").await;
    assert_eq!(waits, 1, "it never shortens the period");
    let waits = told_to_wait("/deaf", "deaf", "60").await;
    assert_eq!(waits, 1, "unless it is not to be honoured");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_states_are_kept_whatever_happens() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {"name": "shut", "match": {"path": ["/shut"]}, "breaker": {"state": "forced_open"}},
        {"name": "orders", "breaker": changed(quick(), json!({"state": "forced_closed"}))},
    ]});
    let scene = Scene::start(&host, policy).await;

    for _ in 0..5 {
        let response = scene.client.get("/shut").await.unwrap();
        assert_eq!((response.status, response.header("retry-after").as_deref()), (503, Some("1")));
        assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("open; policy=shut"));
    }
    assert_eq!(host.requests(), 0);
    assert_eq!(scene.metrics("shut", "cluster=orders").await["breaker_state"], FORCED_OPEN);

    for _ in 0..12 {
        assert_eq!(send(&scene.client, &host, 500).await, 500, "it never opens");
    }
    assert_eq!(scene.metric("breaker_state").await, FORCED_CLOSED);
    assert_eq!(scene.metric("failure").await, 12, "outcomes are counted all the same");
    assert_eq!(scene.log().matches(" -> ").count(), 0, "there is nothing to tell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shadow_it_decides_and_counts_and_changes_nothing() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "mode": "shadow",
        "breaker": lasting(),
        "fallback": [{"on": ["open", "failure"], "respond": {"status": 200, "body": "instead"}}],
    }]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500).header("x-mine", "yes").body("the host's"));

    for _ in 0..10 {
        let response = scene.client.get("/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (500, "the host's"));
        assert_eq!(response.header("x-mine").as_deref(), Some("yes"));
        for own in ["x-holdfast-reject", "x-holdfast-fallback", "retry-after"] {
            assert_eq!(response.header(own), None);
        }
    }

    assert_eq!(host.requests(), 10, "the host gets all");
    let counted = scene
        .counted(&["requests", "failure", "breaker_state", "would_reject.open", "rejected.open", "fallback.static"])
        .await;
    assert_eq!(
        counted,
        json!({
            "requests": 10, "failure": 10, "breaker_state": OPEN, "would_reject.open": 6, "rejected.open": 0,
            "fallback.static": 0,
        })
    );
    assert_eq!(
        scene.metric("would_fallback.static").await,
        10,
        "each request would have got the fallback: four failed, six were rejected"
    );
    assert_eq!(
        scene.transitions("orders"),
        ["orders/cluster=orders (shadow): closed -> open: failure rate 100% of 4 >= 50%; next probe in 3600s"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_can_have_a_mode_of_its_own() {
    let host = Backend::start().await.unwrap();
    let fallback = json!([{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}]);
    let policy = json!({"policies": [
        {
            "name": "orders", "match": {"path": ["/"]}, "breaker": changed(lasting(), json!({"mode": "shadow"})),
            "fallback": fallback,
        },
        {
            "name": "idle", "match": {"path": ["/idle"]}, "breaker": changed(lasting(), json!({"mode": "off"})),
            "fallback": fallback,
        },
        {
            "name": "strict", "mode": "shadow", "breaker": changed(lasting(), json!({"mode": "enforce"})),
            "fallback": fallback,
        },
    ]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));
    let metric = async |policy: &str, name: &str| scene.metrics(policy, "cluster=orders").await.get(name).copied();

    for path in ["/", "/idle"] {
        assert_eq!(scene.client.drive(1, 8, path).await.count(200), 8, "{path}: the fallback is real");
    }
    assert_eq!(scene.client.drive(1, 8, "/strict").await.statuses(), [(500, 4), (503, 4)].into());

    assert_eq!(
        (metric("orders", "would_reject.open").await, metric("orders", "fallback.static").await),
        (Some(4), Some(8))
    );
    assert_eq!(metric("orders", "rejected.open").await, None);
    assert_eq!((metric("idle", "breaker_state").await, metric("idle", "fallback.static").await), (None, Some(8)));
    assert_eq!(
        (metric("strict", "rejected.open").await, metric("strict", "would_fallback.static").await),
        (Some(4), Some(4))
    );
    assert_eq!(host.requests(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_is_off_does_nothing_but_say_so() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "mode": "off",
        "breaker": quick(),
        "fallback": [{"on": ["open", "failure"], "respond": {"status": 200, "body": "instead"}}],
    }]});
    let scene = Scene::start(&host, policy).await;

    for _ in 0..10 {
        assert_eq!(send(&scene.client, &host, 500).await, 500);
    }

    assert_eq!(scene.metrics("orders", "cluster=orders").await.values().sum::<u64>(), 0);
    let log = scene.wait_for_access_log(10).await.unwrap();
    let said = Some("policy=orders; decision=off");
    assert!(log.iter().all(|entry| entry.holdfast.as_deref() == said), "so that no other seat governs: {:?}", log[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_cluster_has_its_own_breaker() {
    let (orders_host, carts_host) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(orders_host.addr()))
        .cluster(Cluster::new("carts").endpoint(carts_host.addr()))
        .route(Route::to("/carts", "carts"))
        .route(Route::to("/", "orders"))
        .policy(orders(lasting()));
    let scene = Scene::with(options).await;

    trip(&scene.client, &orders_host).await;

    expect_rejected(&scene.client, &orders_host).await;
    assert_eq!(scene.client.burst(10, "/carts").await.count(200), 10, "the other cluster is served");
    assert_eq!(scene.metrics("orders", "cluster=carts").await["success"], 10);
    assert_eq!(scene.metrics("orders", "cluster=carts").await["breaker_state"], CLOSED);
}

fn tenant(name: &str) -> http::Request<bytes::Bytes> {
    let mut request = Client::request("/");
    request.headers_mut().insert("x-tenant", name.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tenant_has_its_own_breaker_until_there_are_too_many() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "scope": [{"header": "x-tenant"}], "max_keys": 2, "breaker": lasting(),
    }]});
    let scene = Scene::start(&host, policy).await;
    let workers = scene.workers(2).await;
    let status = async |worker: usize, name: &str| workers[worker].send(tenant(name)).await.unwrap().status;

    host.always(Action::ok());
    assert_eq!(status(0, "gold").await, 200);
    assert_eq!(status(1, "iron").await, 200);
    host.always(Action::status(500));
    for number in 0..5 {
        assert_eq!(status(number % 2, "gold").await, if number < 3 { 500 } else { 503 }, "three of four opened it");
    }
    host.always(Action::ok());
    for worker in 0..2 {
        assert_eq!(status(worker, "gold").await, 503, "gold is rejected by every worker");
        for _ in 0..4 {
            assert_eq!(status(worker, "iron").await, 200, "iron is not touched by it");
        }
    }

    // One is open and one is busy: both keep their places.
    host.always(Action::status(500));
    for number in 0..4 {
        assert_eq!(status(number % 2, "tin").await, 500);
    }
    host.always(Action::ok());
    for worker in 0..2 {
        assert_eq!(status(worker, "zinc").await, 503, "tenants for whom there is no place share one breaker");
        assert_eq!(status(worker, "iron").await, 200, "those before them keep their own");
    }
    assert_eq!(scene.metrics("orders", "x-tenant=gold").await["breaker_state"], OPEN);
    assert_eq!(scene.metrics("orders", "overflow").await["breaker_state"], OPEN);
    assert_eq!(scene.metrics("orders", "x-tenant=tin").await.len(), 0, "no metrics for those without a key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_policies_never_mix() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {"name": "reads", "match": {"path": ["/reads"]}, "breaker": lasting()},
        {"name": "orders", "breaker": lasting()},
    ]});
    let scene = Scene::start(&host, policy).await;
    trip(&scene.client, &host).await;

    expect_rejected(&scene.client, &host).await;
    host.always(Action::ok());
    assert_eq!(scene.client.burst(10, "/reads").await.count(200), 10, "the same cluster, but another policy");
    host.always(Action::status(500));
    for _ in 0..10 {
        assert_eq!(scene.client.get("/reads").await.unwrap().status, 500, "9 of 19 and fewer are below a half");
        if scene.metrics("reads", "cluster=orders").await["failure"] == 9 {
            break;
        }
    }
    assert_eq!(scene.metrics("reads", "cluster=orders").await["breaker_state"], CLOSED);
    assert_eq!(scene.client.get("/reads").await.unwrap().status, 500);
    assert_eq!(scene.client.get("/reads").await.unwrap().status, 503, "10 of 20 opened this one too");
    assert_eq!(scene.transitions("reads").len(), 1);
    assert_eq!(scene.transitions("orders").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_failures_opens_it_once() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(lasting())).await;
    host.always(Action::status(500));

    host.hold();
    let client = scene.client.clone();
    let burst = tokio::spawn(async move { client.burst(60, "/").await });
    host.wait_in_flight(60).await.unwrap();
    host.release_all();
    assert_eq!(burst.await.unwrap().count(500), 60);

    assert_eq!(scene.metric("breaker_opened.failure_rate").await, 1);
    assert_eq!(scene.transitions("orders").len(), 1, "one line over all workers");
    expect_rejected(&scene.client, &host).await;
}
