//! What an operator sees: metrics that add up, one log line for each transition, the access log's filter state.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, Route, Scene};
use serde_json::{Value, json};
use tokio::time::sleep;

fn numbers(metrics: BTreeMap<String, u64>) -> Value {
    json!(metrics)
}

/// Longer than the breaker is open.
const PERIOD_OVER: Duration = Duration::from_millis(2100);

/// Opens after half of four, for a short time; two probes.
fn policy() -> Value {
    json!({"policies": [{
        "name": "orders",
        "outcome": {"ignore": {"status": [404]}, "slow_after": "10s"},
        "breaker": {
            "window": "60s", "min_requests": 4, "open_for": "2s", "open_growth": 1, "open_jitter": 0,
            "half_open": {"probes": 2},
        },
        "fallback": [{"on": ["open"], "respond": {"status": 200, "body": "instead"}}],
    }]})
}

async fn send(client: &Client, host: &Backend, status: u16, times: usize) {
    host.always(Action::status(status));
    for _ in 0..times {
        assert_eq!(client.get("/").await.unwrap().status, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_of_a_story_add_up() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, policy()).await;
    let metrics = async || numbers(scene.metrics("orders", "cluster=orders").await);
    assert_eq!(metrics().await, json!({}), "no request, no key, no metrics");

    send(&scene.client, &host, 200, 1).await;
    assert_eq!(
        metrics().await,
        json!({
            "requests": 1, "success": 1, "failure": 0, "slow": 0, "ignored": 0, "rejected.open": 0, "breaker_state": 0,
            "breaker_opened.failure_rate": 0, "fallback.static": 0, "shared_data.contention": 0, "paused.requests": 0,
        }),
        "from the first request all that the policy can count is there"
    );

    send(&scene.client, &host, 404, 3).await;
    send(&scene.client, &host, 200, 1).await;
    send(&scene.client, &host, 500, 2).await;
    for _ in 0..5 {
        assert_eq!(scene.client.get("/").await.unwrap().text(), "instead");
    }
    let opened = json!({
        "requests": 12, "success": 2, "failure": 2, "slow": 0, "ignored": 3, "rejected.open": 5, "breaker_state": 2,
        "breaker_opened.failure_rate": 1, "fallback.static": 5, "shared_data.contention": 0, "paused.requests": 0,
    });
    assert_eq!(metrics().await, opened);

    sleep(PERIOD_OVER).await;
    assert_eq!(metrics().await, opened, "without a request nothing happens");
    send(&scene.client, &host, 200, 1).await;
    assert_eq!(metrics().await["breaker_state"], 1);
    send(&scene.client, &host, 200, 1).await;
    assert_eq!(
        metrics().await,
        json!({
            "requests": 14, "success": 4, "failure": 2, "slow": 0, "ignored": 3, "rejected.open": 5, "breaker_state": 0,
            "breaker_opened.failure_rate": 1, "fallback.static": 5, "shared_data.contention": 0, "paused.requests": 0,
        })
    );

    let told: Vec<_> =
        scene.transitions("orders").iter().map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect();
    assert_eq!(told, ["closed -> open", "open -> half-open", "half-open -> closed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transition_has_its_line_with_its_numbers() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, policy()).await;

    send(&scene.client, &host, 200, 1).await;
    send(&scene.client, &host, 500, 3).await;
    sleep(PERIOD_OVER).await;
    send(&scene.client, &host, 200, 1).await;
    send(&scene.client, &host, 500, 1).await;
    sleep(PERIOD_OVER).await;
    send(&scene.client, &host, 200, 2).await;

    let told = scene.transitions("orders");
    let half_open = "orders/cluster=orders: open -> half-open: 2s are over; up to 2 probes";
    assert_eq!(
        told,
        [
            "orders/cluster=orders: closed -> open: failure rate 75% of 4 >= 50%; next probe in 2s",
            half_open,
            "orders/cluster=orders: half-open -> open: failure rate 50% of 2 >= 50%; next probe in 2s",
            half_open,
            "orders/cluster=orders: half-open -> closed: 2 probes judged, 0 failed",
        ]
    );
    let log = scene.log();
    for line in log.lines().filter(|line| line.contains(" -> ")) {
        let level = if line.contains("-> open:") { "[warning][wasm]" } else { "[info][wasm]" };
        assert!(line.contains(level), "a breaker that opens is a warning, anything else is not: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_counted_twice_under_load() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "outcome": {"ignore": {"status": [404]}},
        "breaker": {"state": "forced_closed"}, "concurrency": {"max_requests": 8}, "throttle": {"max_rejection": 0},
    }]});
    let scene = Scene::start(&host, policy).await;
    host.script(|request| match request.index % 4 {
        0 => Action::status(500),
        1 => Action::status(404),
        _ => Action::ok(),
    });

    let records = scene.client.drive(16, 800, "/").await;

    let rejected = records.responses().filter(|response| response.header("x-holdfast-reject").is_some()).count() as u64;
    let admitted = 800 - rejected;
    assert_eq!(host.requests(), admitted);
    assert_eq!(scene.metric("requests").await, 800);
    assert_eq!(scene.metric("rejected.concurrency").await, rejected);
    assert_eq!(scene.metric("success").await, records.count(200) as u64);
    assert_eq!(scene.metric("failure").await, records.count(500) as u64);
    assert_eq!(scene.metric("ignored").await, records.count(404) as u64);
    assert!(host.max_in_flight() <= 8, "{}", host.max_in_flight());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_has_policy_and_key_as_labels() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({"window": "60s", "min_requests": 2, "open_for": "1h"});
    let policy = json!({"policies": [
        {"name": "tenants", "match": {"path": ["/t"]}, "scope": ["cluster", {"header": "x-tenant"}], "breaker": breaker},
        {"name": "all-of_it", "scope": [], "breaker": breaker},
    ]});
    let cluster = "outbound|80|v1|orders.default.svc.local";
    let options = EnvoyOptions::new()
        .cluster(Cluster::new(cluster).endpoint(host.addr()))
        .route(Route::to("/", cluster))
        .policy(policy);
    let scene = Scene::with(options).await;
    host.always(Action::status(500));

    for _ in 0..3 {
        let mut request = Client::request("/t");
        request.headers_mut().insert("x-tenant", "gold.requests".parse().unwrap());
        scene.client.send(request).await.unwrap();
    }
    scene.client.get("/").await.unwrap();

    scene.settled_stats("wasmcustom.holdfast.policy=").await.unwrap();
    let page = scene.prometheus().await.unwrap();
    let line = |name: &str, policy: &str, key: &str| {
        let wanted = page.lines().find(|line| {
            let (series, _) = line.split_once('{').unwrap_or((line, ""));
            series.trim_start_matches("envoy_").trim_start_matches("wasmcustom_") == name
                && line.contains(&format!("policy=\"{policy}\""))
                && line.contains(&format!("key=\"{key}\""))
        });
        let shown: Vec<&str> = page.lines().filter(|line| line.contains("holdfast")).collect();
        wanted
            .unwrap_or_else(|| panic!("{name} {policy} {key} is not in {shown:#?}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let key = "cluster=outbound|80|v1|orders.default.svc.local,x-tenant=gold.requests";
    assert_eq!(line("holdfast_requests", "tenants", key), "3");
    assert_eq!(line("holdfast_failure", "tenants", key), "2");
    assert_eq!(line("holdfast_breaker_state", "tenants", key), "2");
    assert_eq!(line("holdfast_rejected_open", "tenants", key), "1");
    assert_eq!(line("holdfast_breaker_opened_failure_rate", "tenants", key), "1");
    assert_eq!(line("holdfast_requests", "all-of_it", "all"), "1");
    assert_eq!(line("holdfast_shared_data_contention", "all-of_it", "all"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_says_what_became_of_each_request() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({
        "window": "60s", "min_requests": 2, "open_for": "2s", "open_jitter": 0, "half_open": {"probes": 1},
    });
    let policy = json!({"policies": [
        {
            "name": "served", "match": {"path": ["/served**"]}, "breaker": {"state": "forced_open"},
            "fallback": [{"on": ["open"], "respond": {"status": 200}}],
        },
        {
            "name": "mended", "match": {"path": ["/mended"]},
            "fallback": [{"on": ["failure"], "respond": {"status": 200}}],
        },
        {"name": "crowded", "match": {"path": ["/crowded"]}, "scope": [], "concurrency": {"max_requests": 1}},
        {"name": "orders", "match": {"path": ["/"]}, "breaker": breaker},
    ]});
    let scene = Scene::start(&host, policy).await;
    let mut sent = Vec::new();
    let mut say = |path: &str, state: Option<&str>| sent.push((path.to_owned(), state.map(str::to_owned)));

    host.always(Action::ok());
    scene.client.get("/ungoverned").await.unwrap();
    say("/ungoverned", None);
    scene.client.get("/mended").await.unwrap();
    say("/mended", Some("policy=mended; key=cluster=orders; decision=admitted"));
    scene.client.get("/served").await.unwrap();
    say("/served", Some("policy=served; key=cluster=orders; decision=fallback; reason=open; kind=static"));
    host.always(Action::status(500));
    scene.client.get("/mended").await.unwrap();
    say("/mended", Some("policy=mended; key=cluster=orders; decision=fallback; reason=failure; kind=static"));
    for _ in 0..2 {
        scene.client.get("/").await.unwrap();
        say("/", Some("policy=orders; key=cluster=orders; decision=admitted"));
    }
    scene.client.get("/").await.unwrap();
    say("/", Some("policy=orders; key=cluster=orders; decision=rejected; reason=open"));
    sleep(PERIOD_OVER).await;
    host.always(Action::ok());
    scene.client.get("/").await.unwrap();
    say("/", Some("policy=orders; key=cluster=orders; decision=probe"));
    host.hold();
    let held = scene.client.open(Client::request("/crowded"));
    host.wait_in_flight(1).await.unwrap();
    scene.client.get("/crowded").await.unwrap();
    say("/crowded", Some("policy=crowded; key=all; decision=rejected; reason=concurrency"));
    host.release_all();
    held.finish().await.unwrap();
    say("/crowded", Some("policy=crowded; key=all; decision=admitted"));

    let log = scene.wait_for_access_log(sent.len()).await.unwrap();
    let mut logged: Vec<_> = log.iter().map(|entry| (entry.path.clone(), entry.holdfast.clone())).collect();
    logged.sort();
    sent.sort();
    assert_eq!(logged, sent);
    let details = |state: &str| {
        let entry = log.iter().find(|entry| entry.holdfast.as_ref().is_some_and(|told| told.contains(state)));
        entry.unwrap().details.clone()
    };
    assert_eq!(details("decision=rejected; reason=open"), "holdfast_open", "Envoy's own field names the cause as well");
    assert_eq!(details("decision=rejected; reason=concurrency"), "holdfast_concurrency");
    assert_eq!(details("decision=admitted"), "via_upstream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_never_breaks_the_log_or_the_metrics() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "scope": [{"header": "x-tenant"}],
        "breaker": {"window": "60s", "min_requests": 1, "open_for": "1h"},
    }]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));

    for value in [&b"a b; decision=admitted"[..], b"\xff\xfe", b"a\"b{}\\", b"", &[b'x'; 5000]] {
        let mut request = Client::request("/");
        request.headers_mut().insert("x-tenant", http::HeaderValue::from_bytes(value).unwrap());
        assert_eq!(scene.client.send(request).await.unwrap().status, 500, "each has a breaker of its own");
    }

    let told = scene.transitions("orders");
    assert_eq!(told.len(), 5);
    assert!(told[0].starts_with("orders/x-tenant=a%20b%3B%20decision%3Dadmitted: "), "{}", told[0]);
    assert!(told[3].starts_with("orders/x-tenant=: "), "{}", told[3]);
    for line in &told {
        assert!(line.is_ascii() && line.len() < 400, "{line}");
    }
    scene.settled_stats("wasmcustom.holdfast.policy=").await.unwrap();
    let page = scene.prometheus().await.unwrap();
    let series: Vec<&str> =
        page.lines().filter(|line| line.contains("breaker_state{") && line.contains("policy=\"orders\"")).collect();
    assert_eq!(series.len(), 5, "{series:#?}");
}
