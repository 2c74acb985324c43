//! Policies at start, over updates, and over several listeners: what is refused, what is shared, what is kept.

use std::time::Duration;

use holdfast_tests::{Action, Backend, Client, Cluster, Envoy, EnvoyOptions, Listener, Route, Scene, Update};
use serde_json::{Value, json};
use tokio::time::sleep;

const CLOSED: u64 = 0;
const OPEN: u64 = 2;

/// Opens after four failures and stays open.
fn lasting() -> Value {
    json!({"window": "60s", "min_requests": 4, "open_for": "1h"})
}

fn orders(breaker: Value) -> Value {
    json!({"policies": [{"name": "orders", "breaker": breaker}]})
}

/// Sends four requests that the host fails.
async fn trip(client: &Client, host: &Backend) {
    host.always(Action::status(500));
    for _ in 0..4 {
        assert_eq!(client.get("/").await.unwrap().status, 500);
    }
    host.always(Action::ok());
}

async fn rejects(client: &Client) -> bool {
    client.get("/").await.unwrap().header("x-holdfast-reject").is_some()
}

/// The same policy in another document. (For equal documents Envoy makes one plugin, whatever the listeners.)
fn among_others(mut document: Value) -> Value {
    let policies = document["policies"].as_array_mut().unwrap();
    policies.insert(0, json!({"name": "other", "match": {"path": ["/other"]}, "breaker": {}}));
    document
}

/// The errors that the module wrote into a log.
fn complaints(log: &str) -> Vec<&str> {
    log.lines()
        .filter_map(|line| line.split_once("holdfast: configuration refused: ").map(|(_, error)| error))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_policy_is_refused_at_start_with_all_its_errors() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "brekaer": {},
        "breaker": {"failure_rate": 140, "window": "10 minutes"},
        "fallback": [{"on": ["opened"], "respond": {"status": 99}}],
    }]});

    let error = Envoy::start(Scene::of(&host).policy(&policy)).await.unwrap_err();

    assert!(error.status.is_some_and(|status| !status.success()), "Envoy ends: {error}");
    let said = complaints(&error.log);
    let says = |text: &str| said.iter().filter(|line| line.starts_with(text)).count();
    assert_eq!(says("policies[0].breaker.failure_rate: must be within 0..=100, was 140"), 1, "{said:?}");
    assert_eq!(says("policies[0].brekaer: unknown key; accepted here: "), 1, "{said:?}");
    assert_eq!(says("policies[0].breaker.window: "), 1, "{said:?}");
    assert_eq!(says("policies[0].fallback[0].on[0]: "), 1, "{said:?}");
    assert_eq!(says("policies[0].fallback[0].respond.status: must be within 200..=599, was 99"), 1, "{said:?}");
    assert_eq!(said.len(), 5, "and nothing else: {said:?}");
    assert!(said.iter().any(|line| line.contains("did you mean \"breaker\"?")), "{said:?}");

    let error = Envoy::validate(Scene::of(&host).policy(&policy)).await.unwrap_err();
    assert_eq!(complaints(&error.log).len(), 5, "`envoy --mode validate` says the same");
    Envoy::validate(Scene::of(&host).policy(orders(json!({})))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_none_is_refused() {
    let host = Backend::start().await.unwrap();
    for (text, complaint) in [
        ("", "policies: is missing"),
        ("  \n", "document: must be a JSON object"),
        ("{\"policies\": [}", "document: not valid JSON at line 1, column 15"),
        ("[]", "document: must be an object"),
        ("{}", "policies: is missing"),
        ("{\"policies\": [{}]}", "policies[0].name: is missing"),
    ] {
        let error = Envoy::validate(Scene::of(&host).policy(text)).await.unwrap_err();
        let said = complaints(&error.log);
        assert!(said.len() == 1 && said[0].starts_with(complaint), "{text:?} is told as {said:?}");
    }
    for (text, meant) in [
        ("policies:\n- name: orders\n", "; this looks like YAML: "),
        ("static_resources:\n  listeners: []\n", "; this looks like a configuration of Envoy, "),
        ("{\"static_resources\": {}}", "; this looks like a configuration of Envoy, "),
        ("\"{\\\"policies\\\": []}\"", "; this looks like JSON that was put into a text once more: "),
        ("/etc/envoy/policy.json", "; this looks like the name of a file: "),
        ("", "; the document is empty"),
    ] {
        let error = Envoy::validate(Scene::of(&host).policy(text)).await.unwrap_err();
        let said = complaints(&error.log);
        assert!(said.last().is_some_and(|line| line.contains(meant)), "{text:?} is told as {said:?}");
    }
    let mut nothing = holdfast_tests::holdfast_filter(&holdfast_tests::wasm_module().unwrap(), &"".into());
    json_patch::merge(&mut nothing, &json!({"typed_config": {"config": {"configuration": null}}}));
    let error = Envoy::validate(Scene::of(&host).filter(nothing)).await.unwrap_err();
    assert_eq!(complaints(&error.log).len(), 1, "no configuration at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_that_does_not_exist_is_refused() {
    let host = Backend::start().await.unwrap();
    let module = holdfast_tests::wasm_module().unwrap();
    let seated = |seat: &str| {
        let configuration = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": seat});
        let mut filter = holdfast_tests::holdfast_filter(&module, &orders(json!({})).into());
        let patch = json!({"typed_config": {"config": {"vm_config": {"configuration": configuration}}}});
        json_patch::merge(&mut filter, &patch);
        Scene::of(&host).filter(filter)
    };
    let error = Envoy::validate(seated(r#"{"seat": "back"}"#)).await.unwrap_err();
    let said = complaints(&error.log);
    assert!(said.len() == 1 && said[0].contains("vm_config.configuration: must be empty, {\"seat\": "), "{said:?}");
    Envoy::validate(seated(r#"{"seat": "request"}"#)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_policies_let_everything_pass() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, json!({"policies": []})).await;
    host.always(Action::status(500));

    assert_eq!(scene.client.burst(30, "/").await.count(500), 30);

    let log = scene.wait_for_access_log(30).await.unwrap();
    assert!(log.iter().all(|entry| entry.holdfast.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_policy_that_matches_governs() {
    let host = Backend::start().await.unwrap();
    let shut = json!({"state": "forced_open"});
    let policy = json!({"policies": [
        {"name": "writes", "match": {"method": ["POST", "PUT"], "path": ["/api/**"]}, "breaker": shut},
        {"name": "gold", "match": {"header": {"x-tenant": "gold*"}}, "breaker": shut},
        {"name": "shop", "match": {"authority": ["*.shop.test"]}, "breaker": shut},
        {"name": "slow", "match": {"route": ["slow"]}, "breaker": shut},
        {"name": "carts", "match": {"cluster": ["car*"]}, "breaker": shut},
        {"name": "api", "match": {"path": ["/api/*"]}, "breaker": shut},
    ]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .cluster(Cluster::new("carts").endpoint(host.addr()))
        .route(Route::to("/carts", "carts"))
        .route(Route::to("/slow", "orders").name("slow"))
        .route(Route::to("/", "orders"))
        .policy(policy);
    let scene = Scene::with(options).await;
    let governor = async |method: &str, path: &str, tenant: &str, authority: &str| {
        let mut request = Client::request(path);
        *request.method_mut() = method.parse().unwrap();
        request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
        let response = scene.client.clone().authority(authority).send(request).await.unwrap();
        response.header("x-holdfast-reject")
    };
    let open = |name: &str| Some(format!("open; policy={name}"));

    assert_eq!(governor("POST", "/api/a/b", "gold", "a.test").await, open("writes"));
    assert_eq!(governor("GET", "/api/a/b", "gold-1", "a.test").await, open("gold"));
    assert_eq!(governor("GET", "/api/a?x=/", "iron", "a.test").await, open("api"), "a query is no part of a path");
    assert_eq!(governor("GET", "/api/a/b", "iron", "a.test").await, None, "* stays within a segment");
    assert_eq!(governor("GET", "/", "iron", "A.Shop.Test").await, open("shop"), "an authority has no case");
    assert_eq!(governor("GET", "/", "iron", "a.b.shop.test").await, None);
    assert_eq!(governor("GET", "/slow", "iron", "a.test").await, open("slow"));
    assert_eq!(governor("GET", "/carts", "iron", "a.test").await, open("carts"));
    assert_eq!(governor("GET", "/", "iron", "a.test").await, None, "none matches: it passes");
    assert_eq!(host.requests(), 3);
}

fn dynamic(host: &Backend, policy: Value) -> EnvoyOptions {
    Scene::of(host).dynamic_listeners().policy(policy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_update_changes_nothing() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::with(dynamic(&host, orders(lasting()))).await;
    trip(&scene.client, &host).await;
    assert!(rejects(&scene.client).await);

    let update = scene.update_policy(orders(json!({"failure_rate": 140}))).await.unwrap();

    let Update::Rejected(log) = update else { panic!("a bad policy was accepted") };
    assert_eq!(complaints(&log), ["policies[0].breaker.failure_rate: must be within 0..=100, was 140"]);
    for client in [scene.client.clone(), scene.client.reconnected(), Client::http2(scene.addr())] {
        assert!(rejects(&client).await, "the old policy goes on, and its breaker is still open");
    }
    let mut good = lasting();
    good["mode"] = json!("shadow");
    assert_eq!(scene.update_policy(orders(good)).await.unwrap(), Update::Accepted);
    assert!(!rejects(&scene.client.reconnected()).await, "a good update is taken after a bad one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_keeps_the_state_of_what_it_does_not_change() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::with(dynamic(&host, orders(lasting()))).await;
    trip(&scene.client, &host).await;

    // The same in other words, behind another policy.
    let same = json!({"policies": [
        {"name": "other", "match": {"path": ["/other"]}, "breaker": {}},
        {"name": "orders", "mode": "enforce", "breaker": {
            "window": "1m", "min_requests": 4, "open_for": "60m", "failure_rate": 50.0, "half_open": {"probes": 5},
        }},
    ]});
    assert_eq!(scene.update_policy(same.clone()).await.unwrap(), Update::Accepted);
    for client in [scene.client.reconnected(), Client::http2(scene.addr()), Client::http2(scene.addr())] {
        assert!(rejects(&client).await, "open stays open");
    }
    assert_eq!(scene.metric("breaker_state").await, OPEN);

    // One policy of two changes.
    let mut changed = same;
    changed["policies"][0]["breaker"] = json!({"state": "forced_open"});
    assert_eq!(scene.update_policy(changed).await.unwrap(), Update::Accepted);
    assert!(rejects(&scene.client.reconnected()).await, "the other policy is still the same");
    assert_eq!(scene.transitions("orders").len(), 1);
}

/// A request ends with its listener's drain and is the last thing that its policy counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_that_are_gone_have_no_ticks_left() {
    let host = Backend::start().await.unwrap();
    let drained = Duration::from_secs(1);
    let scene = Scene::with(dynamic(&host, orders(lasting())).drain_time(drained)).await;
    let wakes_in_two_seconds = async || {
        sleep(Duration::from_secs(3)).await;
        let before = scene.worker_wakes().unwrap();
        sleep(Duration::from_secs(2)).await;
        scene.worker_wakes().unwrap() - before
    };
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);
    let before = wakes_in_two_seconds().await;

    host.hold();
    for number in 0..8 {
        let client = scene.client.reconnected();
        let (first, second) = (client.open(Client::request("/")), client.open(Client::request("/")));
        host.wait_in_flight(2).await.unwrap();
        let other = orders(json!({"window": "60s", "min_requests": 10 + number}));
        assert_eq!(scene.update_policy(other).await.unwrap(), Update::Accepted);
        host.wait_in_flight(0).await.unwrap();
        first.disconnect().await;
        second.disconnect().await;
    }
    let after = wakes_in_two_seconds().await;
    assert!(after < before + 60, "workers woke {before} times in two idle seconds before eight updates, {after} after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_survive_an_update() {
    let host = Backend::start().await.unwrap();
    let limited = json!({"name": "orders", "concurrency": {"max_requests": 2}});
    let scene = Scene::with(dynamic(&host, json!({"policies": [limited]}))).await;
    host.hold();
    let old = [scene.client.open(Client::request("/")), scene.client.open(Client::request("/"))];
    host.wait_in_flight(2).await.unwrap();

    let more = json!({"policies": [{"name": "other", "match": {"path": ["/x"]}, "breaker": {}}, limited]});
    assert_eq!(scene.update_policy(more).await.unwrap(), Update::Accepted);

    let client = scene.client.reconnected();
    assert!(rejects(&client).await, "the old configuration's requests still count");
    host.release_all();
    for request in old {
        assert_eq!(request.finish().await.unwrap().status, 200, "they end under the old configuration");
    }
    for _ in 0..4 {
        assert!(!rejects(&client).await, "and free their places");
    }
    scene.becomes("success", 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holdfast_can_be_taken_out_and_put_back() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::with(dynamic(&host, orders(lasting()))).await;
    trip(&scene.client, &host).await;
    assert!(rejects(&scene.client).await);

    // The route for bare connections is of no use without the filter.
    let out = |options: EnvoyOptions| options.listener(Listener::new("ingress").route(Route::to("/", "orders")));
    assert_eq!(scene.update(out).await.unwrap(), Update::Accepted);
    assert_eq!(scene.client.reconnected().get("/").await.unwrap().status, 200);
    assert_eq!(scene.update_policy(orders(lasting())).await.unwrap(), Update::Accepted);
    assert!(scene.client.reconnected().get("/").await.is_ok(), "it works again, with the old state or without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_listeners_with_the_same_policy_share_its_state() {
    let host = Backend::start().await.unwrap();
    let second = Listener::new("second").route(Route::to("/", "orders")).policy(among_others(orders(lasting())));
    let scene = Scene::with(Scene::of(&host).policy(orders(lasting())).listener(second)).await;
    let (one, two) = (scene.client.clone(), Client::http1(scene.listener("second")));
    host.always(Action::status(500));

    for client in [&one, &two, &two, &one] {
        assert_eq!(client.get("/").await.unwrap().status, 500);
    }

    for _ in 0..4 {
        assert!(rejects(&one.reconnected()).await);
        assert!(rejects(&two.reconnected()).await, "what came through one listener counts for the other");
    }
    assert_eq!(scene.metric("failure").await, 4);
    assert_eq!(scene.transitions("orders").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_listeners_with_different_policies_of_one_name_do_not_mix() {
    let host = Backend::start().await.unwrap();
    let other = orders(json!({"window": "60s", "min_requests": 5, "open_for": "1h"}));
    let second = Listener::new("second").route(Route::to("/", "orders")).policy(other);
    let scene = Scene::with(Scene::of(&host).policy(orders(lasting())).listener(second)).await;
    let two = Client::http1(scene.listener("second"));
    assert!(!rejects(&two).await, "it begins while nothing is open");

    trip(&scene.client, &host).await;

    for _ in 0..4 {
        assert!(rejects(&scene.client.reconnected()).await);
        assert!(!rejects(&two.reconnected()).await, "the other policy has seen no failure");
    }
    // The one that was configured last has the name as it is.
    sleep(Duration::from_millis(1500)).await;
    assert!(rejects(&scene.client).await);
    let state = async |policy: &str| scene.metric_of(policy, "cluster=orders", "breaker_state").await;
    assert_eq!([state("orders").await, state("orders~2").await], [CLOSED, OPEN], "and metrics do not mix either");
    host.always(Action::status(500));
    for _ in 0..5 {
        assert_eq!(two.get("/").await.unwrap().status, 500);
    }
    assert!(rejects(&two).await, "five of ten failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_listeners_hold_one_limit() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "concurrency": {"max_requests": 6}}]});
    let second = Listener::new("second").route(Route::to("/", "orders")).policy(among_others(policy.clone()));
    let scene = Scene::with(Scene::of(&host).policy(&policy).listener(second)).await;
    let (one, two) = (scene.client.clone(), Client::http1(scene.listener("second")));

    host.hold();
    let bursts =
        [tokio::spawn(async move { one.burst(15, "/").await }), tokio::spawn(async move { two.burst(15, "/").await })];
    scene.becomes("rejected.concurrency", 24).await;
    host.wait_in_flight(6).await.unwrap();
    host.release_all();
    let mut passed = 0;
    for burst in bursts {
        passed += burst.await.unwrap().count(200);
    }
    assert_eq!((passed, host.requests()), (6, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_change_signal_it_looks_by_itself() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({
        "window": "60s", "min_requests": 4, "open_for": "200ms", "open_growth": 1, "open_jitter": 0,
        "half_open": {"probes": 3},
    });
    let matcher = json!({"exclusion_list": {"patterns": [{"exact": "wasmcustom.holdfast.epoch"}]}});
    let scene = Scene::with(Scene::of(&host).stats_matcher(matcher).policy(orders(breaker))).await;
    let workers = scene.workers(2).await;
    assert!(!scene.stats().await.unwrap().contains_key("wasmcustom.holdfast.epoch"), "the matcher drops it");
    assert_eq!(scene.log().matches("the stats matcher drops the gauge wasmcustom.holdfast.epoch").count(), 1);

    for round in 0..3 {
        let (one, other) = (&workers[round % 2], &workers[(round + 1) % 2]);
        assert!(!rejects(other).await, "it knows a closed breaker");
        host.always(Action::status(500));
        for _ in 0..3 {
            assert_eq!(one.get("/").await.unwrap().status, 500);
        }
        host.always(Action::ok());
        sleep(Duration::from_millis(50)).await;
        assert!(rejects(other).await, "what one worker saw the other knows a moment later");
        sleep(Duration::from_millis(250)).await;

        host.reset_counters();
        host.hold();
        let rejected = scene.metric("rejected.open").await;
        let client = scene.client.clone();
        let burst = tokio::spawn(async move { client.burst(20, "/").await });
        scene.becomes("rejected.open", rejected + 17).await;
        host.release_all();
        assert_eq!(burst.await.unwrap().count(200), 3);
        assert_eq!(host.requests(), 3, "probes are as exact as ever");
        assert_eq!(scene.metric("breaker_state").await, CLOSED);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_change_signal_nothing_is_said_about_it() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders(lasting())).await;
    assert!(scene.stats().await.unwrap()["wasmcustom.holdfast.epoch"] > 0);
    assert!(!scene.log().contains("stats matcher"), "{}", scene.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_without_any_metrics() {
    let host = Backend::start().await.unwrap();
    let matcher = json!({"exclusion_list": {"patterns": [{"prefix": "wasmcustom."}]}});
    let scene = Scene::with(Scene::of(&host).stats_matcher(matcher).policy(orders(lasting()))).await;

    trip(&scene.client, &host).await;
    sleep(Duration::from_millis(50)).await;

    assert_eq!(scene.client.burst(20, "/").await.count(503), 20);
    assert_eq!(scene.metrics("orders", "cluster=orders").await.len(), 0);
    assert_eq!(scene.transitions("orders").len(), 1, "the log still tells");
}
