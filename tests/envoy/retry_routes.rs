//! What is left of the retry policies of routes, virtual hosts and clusters where Holdfast decides: every combination of
//! theirs, a policy's and an attempt's end, counted at the host.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, Envoy, EnvoyOptions, Response, Route, Scene, Seats, TICK, Template, alone,
    envoy_version, gaps, with_header,
};
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The header by which the host tells the requests of a test apart.
const KEY: &str = "x-request-key";

/// The header that tells the host what to do.
const ACTION: &str = "x-action";

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn changed(mut value: Value, patch: Value) -> Value {
    json_patch::merge(&mut value, &patch);
    value
}

/// The retry policies that routes bring, by the first part of a path.
fn routes() -> Vec<(&'static str, Value)> {
    let own = |on: &str, more: Value| changed(json!({"retry_on": on, "num_retries": 5}), more);
    let again = json!({"retriable_headers": [{"name": "x-again", "present_match": true}]});
    vec![
        ("none", json!(null)),
        ("5xx", own("5xx", json!({}))),
        ("reset", own("reset,connect-failure,refused-stream", json!({}))),
        ("gateway", own("gateway-error", json!({}))),
        ("4xx", own("retriable-4xx", json!({}))),
        ("statuses", own("retriable-status-codes", json!({"retriable_status_codes": [200, 404]}))),
        ("headers", own("retriable-headers", again)),
        ("limited", own("envoy-ratelimited", json!({}))),
        ("grpc", own("unavailable", json!({}))),
        ("silent", json!({"num_retries": 5})),
    ]
}

/// The policies, by the last part of a path. The route "limited" has its own: what a policy learns of such a route is not
/// for others.
fn policies() -> Value {
    let retries = [
        ("default", json!({})),
        ("resets", json!({"on": ["reset"]})),
        ("five", json!({"on": ["5xx"], "max_retries": 1})),
        ("limited", json!({"on": ["envoy-ratelimited"]})),
        ("zero", json!({"max_retries": 0})),
        ("shadow", json!({"mode": "shadow"})),
        ("off", json!({"mode": "off"})),
    ];
    let limited = retries.iter().map(|(name, retry)| {
        let own = json!({"name": format!("{name}-limited"), "match": {"path": [format!("/limited/{name}")]}});
        changed(policy(name, retry.clone()), own)
    });
    let others = retries.iter().map(|(name, retry)| policy(name, retry.clone()));
    json!({"policies": limited.chain(others).collect::<Vec<_>>()})
}

const POLICIES: [&str; 7] = ["default", "resets", "five", "limited", "zero", "shadow", "off"];

/// What the host does, by the name that a request gives.
fn action(name: &str) -> Action {
    let own = |status| Action::status(status).body("its own");
    match name {
        "200" => own(200),
        "200 again" => own(200).header("x-again", "yes"),
        "404" => own(404),
        "409" => own(409),
        "500" => own(500),
        "503" => own(503),
        "503 again" => own(503).header("x-again", "yes"),
        "503 limited" => own(503).header("x-envoy-ratelimited", "true"),
        "reset" => Action::reset(),
        "grpc 14" => Action::grpc_trailers_only(14),
        other => panic!("nothing is known of {other}"),
    }
}

const ACTIONS: [&str; 10] =
    ["200", "200 again", "404", "409", "500", "503", "503 again", "503 limited", "reset", "grpc 14"];

/// Who asks.
const REQUESTS: [&str; 3] = ["GET", "POST", "a retry"];

fn request(route: &str, policy: &str, kind: &str, action: &str, key: &str) -> Request<Bytes> {
    let mut request = Client::request(&format!("/{route}/{policy}"));
    if kind == "POST" {
        *request.method_mut() = Method::POST;
    }
    if kind == "a retry" {
        request = with_header(request, "x-envoy-attempt-count", "2");
    }
    with_header(with_header(request, KEY, key), ACTION, action)
}

/// How many attempts the document alone allows, of a host that does the same each time.
fn by_document(policy: &str, kind: &str, action: &str) -> Option<usize> {
    let named = match policy {
        "default" => action == "503" || action == "503 again" || action == "reset",
        "resets" => action == "reset",
        "five" => matches!(action, "500" | "503" | "503 again" | "reset"),
        "limited" => action == "503 limited",
        "zero" => false,
        _ => return None,
    };
    let most = if policy == "five" { 2 } else { 3 };
    Some(if named && kind == "GET" { most } else { 1 })
}

/// How many Envoy alone makes.
fn by_route(route: &str, action: &str) -> usize {
    let retried = match route {
        "5xx" => matches!(action, "500" | "503" | "503 again" | "reset"),
        "reset" => action == "reset",
        "gateway" => matches!(action, "503" | "503 again" | "reset"),
        "4xx" => action == "409",
        "statuses" => matches!(action, "200" | "200 again" | "404" | "grpc 14"),
        "headers" => action.ends_with("again"),
        "limited" => action == "503 limited",
        "grpc" => action == "grpc 14",
        _ => false,
    };
    if retried { 6 } else { 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_alone_governs_retries_whatever_the_route_says() {
    let host = Backend::start().await.unwrap();
    host.script(|request| action(&request.header(ACTION).unwrap_or_else(|| "200".to_owned())));
    let mut options = EnvoyOptions::new().cluster(Cluster::new("orders").endpoint(host.addr()));
    for (name, policy) in routes() {
        let policy = if policy.is_null() {
            policy
        } else {
            changed(policy, json!({"retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"}}))
        };
        options = options.route(Route::to(&format!("/{name}/"), "orders").retry_policy(policy));
    }
    let scene = Scene::with(options.seats(Seats::Both).policy(policies())).await;

    let (mut wrong, mut lost, mut again) = (Vec::new(), BTreeMap::new(), 0);
    for meet in [false, true] {
        if meet {
            for policy in POLICIES {
                scene.client.get(&format!("/none/{policy}")).await.unwrap();
            }
            sleep(ms(1100)).await;
        }
        let mut sent = JoinSet::new();
        for (route, _) in routes() {
            for policy in POLICIES {
                let client = scene.client.clone();
                sent.spawn(async move {
                    let mut answers = Vec::new();
                    for kind in REQUESTS {
                        for action in ACTIONS {
                            let key = format!("{route}, {policy}, {kind}, {action}, met {meet}");
                            let response = client.send(request(route, policy, kind, action, &key)).await.unwrap();
                            answers.push((route, policy, kind, action, key, response));
                        }
                    }
                    answers
                });
            }
        }
        let answers = sent.join_all().await;
        let mut seen = BTreeMap::<String, usize>::new();
        for request in host.seen() {
            *seen.entry(request.header(KEY).unwrap_or_default()).or_default() += 1;
        }
        for (route, policy, kind, action, key, response) in answers.into_iter().flatten() {
            let tries = seen.get(&key).copied().unwrap_or_default();
            let expected = by_document(policy, kind, action).unwrap_or_else(|| by_route(route, action));
            let is_whole = matches!(action, "reset" | "grpc 14") || response.text() == "its own";
            // Where nothing is known of the route yet, a second attempt is told from a first one by a memory of 1024 requests.
            let is_rare = learns(route, action)
                || route == "limited" && matches!(action, "404" | "409")
                || has_own_word(route, policy, action, meet);
            if tries == 2 && expected == 1 && is_rare {
                again += 1;
            } else if tries != expected
                || marked(&response)
                || !(is_whole || may_be_lost(route, policy, action, meet, &response))
            {
                wrong.push(format!("{key}: {tries} tries, {expected} expected: {response:?}"));
            }
            if !is_whole && action.starts_with("200") {
                *lost.entry((route == "limited", policy)).or_insert(0) += 1;
            }
        }
        host.reset_counters();
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(again <= 4, "that is rarely mistaken: {again}");
    // Two requests of a policy may be under way at once when a worker learns it.
    assert!(lost.values().all(|lost| *lost <= 2 * 2), "each of the two workers learns it once for a policy: {lost:?}");
}

/// Whether the host's answer may be lost to a reply that stands in place of an attempt which the route has made of it, because
/// nothing kept the router from it.
fn may_be_lost(route: &str, policy: &str, action: &str, meet: bool, response: &Response) -> bool {
    if matches!(policy, "shadow" | "off") {
        return false;
    }
    let has_its_status = action.starts_with(&response.status.to_string());
    match (route, action) {
        _ if learns(route, action) => response.status == 503,
        // What forbids a retry is what this route asks for. The reply has the answer's status.
        ("limited", _) => has_its_status,
        _ => has_its_status && has_own_word(route, policy, action, meet),
    }
}

/// Whether what would forbid the route a retry asks for one by this policy's own word, as long as the router has to go by it.
fn has_own_word(route: &str, policy: &str, action: &str, meet: bool) -> bool {
    !meet && policy == "limited" && by_route(route, action) > 1
}

/// Whether a worker has to learn that this route makes a retry of such answers: it is not expected of any.
fn learns(route: &str, action: &str) -> bool {
    matches!((route, action), ("headers" | "statuses" | "limited", "200" | "200 again"))
}

/// Whether an answer has something in it that the seats tell each other.
fn marked(response: &Response) -> bool {
    let names = ["x-holdfast-retry", "x-holdfast-tries"];
    names.iter().any(|name| response.headers.contains_key(*name))
        || response.header("x-envoy-ratelimited").as_deref() == Some("holdfast")
}

/// A policy for all paths that end in its name.
fn policy(name: &str, retry: Value) -> Value {
    let eager = json!({"backoff": {"base": "1ms", "max": "1ms"}, "budget": {"ratio": 100, "min_per_second": 10000}});
    json!({"name": name, "match": {"path": [format!("/*/{name}")]}, "retry": changed(eager, retry)})
}

/// Back-offs of 200 ms each.
fn waiting(retry: Value) -> Value {
    changed(json!({"backoff": {"base": "200ms", "max": "200ms", "jitter": "none"}}), retry)
}

async fn seats_meet(scene: &Scene, host: &Backend, paths: &[&str]) {
    for path in paths {
        scene.client.get(path).await.unwrap();
    }
    sleep(ms(1100)).await;
    host.reset_counters();
}

/// What became of a request to a host that does the same at each attempt.
#[derive(Debug)]
struct Seen {
    status: u16,
    waits: Vec<Duration>,
    tries: usize,
}

async fn send(scene: &Scene, host: &Backend, path: &str, method: Method, action: &str) -> Seen {
    let key = format!("{method} {path}: {action}");
    let mut request = with_header(with_header(Client::request(path), KEY, &key), ACTION, action);
    *request.method_mut() = method;
    let response = scene.client.send(request).await.unwrap();
    assert!(!marked(&response), "{key}: {response:?}");
    let seen = host.seen_with(KEY, &key);
    Seen { status: response.status, waits: gaps(&seen), tries: seen.len() }
}

fn scripted(host: &Backend) {
    host.script(|request| match request.header(ACTION).as_deref() {
        None => Action::ok(),
        Some("slow") => Action::ok().after(ms(250)),
        Some("hang") => Action::hang(),
        Some("asking") => Action::status(503).header("retry-after", "1"),
        Some(name) => action(name),
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routes_own_time_out_of_an_attempt_does_not_eat_back_offs() {
    let host = Backend::start().await.unwrap();
    scripted(&host);
    let own = |more: Value| changed(json!({"retry_on": "5xx,reset", "num_retries": 5}), more);
    let policies = json!({"policies": [
        policy("plain", waiting(json!({}))),
        policy("timed", waiting(json!({"per_try_timeout": "400ms"}))),
    ]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/timed/", "orders").retry_policy(own(json!({"per_try_timeout": "0.1s"}))))
        .route(Route::to("/idle/", "orders").retry_policy(own(json!({"per_try_idle_timeout": "0.1s"}))));
    let scene = Scene::with(options.seats(Seats::Both).policy(policies)).await;
    seats_meet(&scene, &host, &["/timed/plain", "/timed/timed"]).await;
    let send = |path: &'static str, action: &'static str| send(&scene, &host, path, Method::GET, action);

    for path in ["/timed/plain", "/timed/timed"] {
        let (failed, reset, slow) = tokio::join!(send(path, "503"), send(path, "reset"), send(path, "slow"));
        for seen in [failed, reset] {
            assert_eq!((seen.tries, seen.status), (3, 503), "{path}: {seen:?}");
            assert!(seen.waits.iter().all(|wait| *wait + TICK >= ms(200)), "{path}: {seen:?}");
        }
        assert_eq!((slow.tries, slow.status), (1, 200), "{path}: 250 ms are no matter, or less than 400: {slow:?}");
    }
    let hanging = send("/timed/timed", "hang").await;
    assert_eq!((hanging.tries, hanging.status), (3, 504), "{hanging:?}");

    // Nothing takes the place of the time without a byte that a route allows an attempt, and it runs while an attempt waits.
    for path in ["/idle/plain", "/idle/timed"] {
        for action in ["503", "reset"] {
            let seen = send(path, action).await;
            assert!(seen.tries < 3 && seen.status >= 503, "{path}, {action}: tries are lost: {seen:?}");
        }
        let seen = send(path, "slow").await;
        assert!(seen.tries <= 3 && seen.status == 504, "{path}: 250 ms are too slow for the route: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_hedges_sends_nothing_twice_that_the_document_does_not_hedge() {
    let host = Backend::start().await.unwrap();
    scripted(&host);
    let own = json!({"retry_on": "5xx,reset", "num_retries": 5, "per_try_timeout": "0.1s"});
    let hedging = json!({"route": {"hedge_policy": {"hedge_on_per_try_timeout": true}}});
    let policies = json!({"policies": [
        policy("plain", json!({})),
        policy("timed", json!({"per_try_timeout": "150ms", "max_retries": 1})),
        policy("waiting", waiting(json!({}))),
        policy("none", json!({"max_retries": 0})),
        policy("off", json!({"mode": "off"})),
        policy("hedged", json!({"per_try_timeout": "150ms", "hedge_on_per_try_timeout": true, "max_retries": 1})),
    ]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/hedging/", "orders").retry_policy(own).raw(hedging))
        .route(Route::to("/", "orders"));
    let scene = Scene::with(options.seats(Seats::Both).policy(policies)).await;
    let paths = ["/hedging/plain", "/hedging/timed", "/hedging/waiting", "/hedging/none", "/hedging/hedged"];

    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &host, &paths).await;
        }
        let send = |path: &'static str, method: Method| send(&scene, &host, path, method, "slow");
        for path in ["/hedging/plain", "/hedging/waiting", "/hedging/none", "/hedging/timed"] {
            let (order, again) = tokio::join!(send(path, Method::POST), send(path, Method::PATCH));
            assert_eq!((order.tries, again.tries), (1, 1), "met {meet}: {path}: an order is sent once");
        }
        for path in ["/hedging/plain", "/hedging/waiting", "/hedging/none"] {
            let seen = send(path, Method::GET).await;
            assert_eq!((seen.tries, seen.status), (1, 200), "met {meet}: {path}: 250 ms are no reason: {seen:?}");
        }
        let seen = send("/hedging/timed", Method::GET).await;
        assert!(
            seen.waits.iter().all(|wait| *wait + TICK >= ms(150)),
            "met {meet}: after the document's time: {seen:?}"
        );
        let seen = send("/hedging/off", Method::GET).await;
        assert!(seen.tries >= 2 && seen.status == 200, "met {meet}: without Holdfast the route hedges: {seen:?}");
        for path in ["/hedging/hedged", "/plain/hedged"] {
            let seen = send(path, Method::GET).await;
            assert_eq!((seen.tries, seen.status), (2, 200), "met {meet}: {path}: where the document hedges: {seen:?}");
            let seen = send(path, Method::POST).await;
            assert_eq!(seen.tries, 1, "met {meet}: {path}: no order is hedged: {seen:?}");
        }
        host.wait_idle().await.unwrap();
        host.reset_counters();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_back_offs_the_longer_is_waited_for() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    scripted(&host);
    let own = |more: Value| changed(json!({"retry_on": "5xx,reset", "num_retries": 5}), more);
    let long = own(json!({"retry_back_off": {"base_interval": "0.3s", "max_interval": "0.3s"}}));
    let reset_headers = json!([{"name": "retry-after", "format": "SECONDS"}]);
    let limited = own(json!({"rate_limited_retry_back_off": {"reset_headers": reset_headers}}));
    let policies = json!({"policies": [
        policy("eager", json!({"max_retries": 1})),
        policy("deaf", json!({"max_retries": 1, "retry_after": {"honor": false}})),
        policy("patient", json!({"max_retries": 1, "backoff": {"base": "400ms", "max": "400ms", "jitter": "none"}})),
    ]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/long/", "orders").retry_policy(long))
        .route(Route::to("/limited/", "orders").retry_policy(limited));
    let scene = Scene::with(options.seats(Seats::Both).policy(policies)).await;
    seats_meet(&scene, &host, &["/long/eager", "/long/patient", "/limited/deaf"]).await;
    let eager = scene.client.drive(12, 12, numbered("/long/eager"));
    let patient = scene.client.drive(12, 12, numbered("/long/patient"));
    let deaf = send(&scene, &host, "/limited/deaf", Method::GET, "asking");
    let (_, _, deaf) = tokio::join!(eager, patient, deaf);

    let waits = |path: &str| -> Vec<Duration> {
        let of = |number| gaps(&host.seen_with(KEY, &format!("{path}-{number}")))[0];
        let mut waits: Vec<Duration> = (0..12).map(of).collect();
        waits.sort_unstable();
        waits
    };
    let (eager, patient) = (waits("/long/eager"), waits("/long/patient"));
    assert!(eager[11] > ms(75), "Envoy's own runs from 0 to 300 ms, and no header shortens it: {eager:?}");
    assert!(patient[0] + TICK >= ms(400) && patient[5] <= ms(480), "400 ms are not added to it: {patient:?}");
    assert!(deaf.waits[0] + TICK >= ms(1000), "a route may honor what the document does not: {deaf:?}");
}

fn numbered(path: &'static str) -> Template {
    Template::new(move |number| {
        let request = with_header(Client::request(path), KEY, format!("{path}-{number}"));
        with_header(request, ACTION, "503")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_governs_where_a_cluster_or_a_virtual_host_has_a_retry_policy() {
    let host = Backend::start().await.unwrap();
    scripted(&host);
    let five = json!({"retry_on": "5xx,retriable-4xx", "num_retries": 5, "per_try_timeout": "0.1s"});
    let untimed = changed(five.clone(), json!({"per_try_timeout": null}));
    let silent = changed(holdfast_tests::retry_policy(), json!({"num_retries": 5}));
    let of_cluster = |policy: &Value| {
        json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"retry_policy": policy},
        }})
    };
    let clusters_have_policies = envoy_version() >= (1, 37);
    let cluster = |name, policy: &Value| {
        let plain = Cluster::new(name).endpoint(host.addr());
        if clusters_have_policies { plain.raw(of_cluster(policy)) } else { plain }
    };
    if !clusters_have_policies {
        let options = EnvoyOptions::new().cluster(Cluster::new("five").endpoint(host.addr()).raw(of_cluster(&five)));
        let refused = Envoy::validate(options.seats(Seats::Both)).await.expect_err("Envoy has no such thing").log;
        // Envoy varies the blanks.
        let words: Vec<&str> = refused.split_whitespace().collect();
        assert!(words.join(" ").contains("no such field: 'retry_policy'"), "{refused}");
    }
    let policies = json!({"policies": [
        policy("default", waiting(json!({}))),
        policy("resets", json!({"on": ["reset"]})),
        policy("none", json!({"max_retries": 0})),
        policy("off", json!({"mode": "off"})),
    ]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .cluster(cluster("five", &five))
        .cluster(cluster("silent", &silent))
        .route(Route::to("/cluster/", "five"))
        .route(Route::to("/both/", "five").retry_policy(json!({"retry_on": "retriable-4xx", "num_retries": 1})))
        .route(Route::to("/silent/", "silent").retry_policy(untimed.clone()))
        .route(Route::to("/host/", "orders"))
        .raw_virtual_host(json!({"retry_policy": untimed}));
    let scene = Scene::with(options.seats(Seats::Both).policy(policies)).await;

    for meet in [false, true] {
        if meet {
            for route in ["cluster", "both", "silent", "host"] {
                let paths = ["default", "resets", "none"].map(|policy| format!("/{route}/{policy}"));
                for path in paths {
                    scene.client.get(&path).await.unwrap();
                }
            }
            sleep(ms(1100)).await;
        }
        host.reset_counters();
        for route in ["cluster", "both", "silent", "host"] {
            for (policy, action, expected) in [
                ("default", "503", 3),
                ("default", "500", 1),
                ("default", "409", 1),
                ("default", "reset", 3),
                ("resets", "503", 1),
                ("resets", "reset", 3),
                ("none", "503", 1),
                ("none", "reset", 1),
            ] {
                let path = format!("/{route}/{policy}");
                let seen = send(&scene, &host, &path, Method::GET, action).await;
                assert_eq!(seen.tries, expected, "met {meet}: {path}, {action}: {seen:?}");
                assert!(
                    policy != "default" || seen.waits.iter().all(|wait| *wait + TICK >= ms(200)),
                    "{path}: {seen:?}"
                );
            }
            let seen = send(&scene, &host, &format!("/{route}/off"), Method::GET, "503").await;
            // A cluster's policy takes the place of its route's; without it the route's own stands, or else the virtual host's.
            let is_alone = if clusters_have_policies { route == "silent" } else { route == "both" };
            assert_eq!(seen.tries, if is_alone { 1 } else { 6 }, "met {meet}: {route}");
        }
    }
}
