//! The last good answer, counted at hosts and clients: what a service has answered goes on being answered while it is down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, Response, Route, Scene, SeenRequest, Template, drive_all,
    eventually, with_header,
};
use http::{Method, Request};
use serde_json::{Value, json};

/// A policy `orders` with this block `stale`, and a fixed response behind it.
fn policy(stale: Value) -> Value {
    let on = ["open", "failure", "timeout", "no_host"];
    json!({"policies": [{
        "name": "orders",
        "breaker": {"consecutive_failures": 20, "open_for": "1s", "open_max": "1s"},
        "fallback": [
            {"on": on, "stale": stale},
            {"on": on, "respond": {"status": 418, "body": "nothing is kept"}},
        ],
    }]})
}

/// The body of a resource: of many sizes, and bytes of any kind.
fn body_of(path: &str) -> Bytes {
    let seed = path.bytes().fold(17_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    (0..seed % 40_000).map(|at| (seed.wrapping_mul(at + 7) >> 5) as u8).collect::<Vec<u8>>().into()
}

fn resource(request: &SeenRequest) -> Action {
    Action::status(200).header("content-type", "application/x-own").body(body_of(&request.path))
}

fn says(response: &Response) -> String {
    response.header("x-holdfast-fallback").unwrap_or_default()
}

fn age(response: &Response) -> u64 {
    response.header("age").and_then(|age| age.parse().ok()).unwrap_or(u64::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_goes_on_being_answered_while_the_service_is_down() {
    const RESOURCES: usize = 300;
    // A longer outage is a matter of time alone: `HOLDFAST_OUTAGE=60` makes it a minute.
    let outage = std::env::var("HOLDFAST_OUTAGE").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let host = Backend::start().await.unwrap();
    host.script(resource);
    let options = Scene::of(&host).concurrency(4).policy(policy(json!({"entries": RESOURCES})));
    let scene = Scene::with(options).await;
    let clients = scene.workers(4).await;
    let path = |number: usize| format!("/resource/{number}?of={RESOURCES}");
    let mut kept = BTreeMap::new();
    for number in 0..RESOURCES {
        let response = clients[number % 4].get(&path(number)).await.unwrap();
        assert_eq!((response.status, &response.body[..]), (200, &body_of(&path(number))[..]));
        kept.insert(number, Instant::now());
    }

    host.refuse().await.unwrap();
    let down = Instant::now();
    let (mut served, mut round) = (0, 0);
    while down.elapsed() < Duration::from_secs(outage) {
        round += 1;
        for number in 0..RESOURCES {
            let response = clients[(number + round) % 4].get(&path(number)).await.unwrap();
            assert_eq!(response.status, 200, "{number}: {}", response.text());
            assert!(response.body == body_of(&path(number)), "byte for byte");
            assert!(says(&response).starts_with("stale; reason="), "{}", says(&response));
            let (age, elapsed) = (age(&response), kept[&number].elapsed().as_secs_f64());
            assert!((age as f64 - elapsed).abs() <= 1.5, "{age} after {elapsed} s");
            assert_eq!(response.header("content-type").as_deref(), Some("application/x-own"));
            assert_eq!(response.header("cache-control"), None);
            served += 1;
        }
    }
    assert_eq!(scene.metric("fallback.stale").await, served, "all of them, in {round} rounds");
    assert_eq!(scene.metric("fallback_failed.stale").await, 0);
    println!("{served} answers in {round} rounds of {RESOURCES}, {:?} without the service", down.elapsed());

    host.resume().unwrap();
    let back = || async {
        let response = clients[0].get(&path(0)).await;
        response.is_ok_and(|response| says(&response).is_empty())
    };
    eventually(Duration::from_secs(10), back).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stands_in_for_a_hosts_own_failure_and_for_a_rejection() {
    let host = Backend::start().await.unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let is_failing = Arc::clone(&fails);
    host.script(move |request| {
        if is_failing.load(Ordering::Relaxed) {
            return Action::status(503).header("x-of-the-failure", "1").header("set-cookie", "a=b").body("failed");
        }
        let answer =
            resource(request).header("etag", "\"v1\"").header("cache-control", "max-age=1").header("link", "<a>");
        answer.header("link", "<b>").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")
    });
    let mut document = policy(json!({}));
    // It stays open to the end, however long that takes.
    document["policies"][0]["breaker"] = json!({"consecutive_failures": 20, "open_for": "5m", "open_max": "5m"});
    // Each worker has a connection of its own to the host: one worker, so that a second one shows that the first was reset.
    let scene = Scene::with(Scene::of(&host).concurrency(1).policy(document)).await;
    let first = scene.client.get("/a").await.unwrap();
    fails.store(true, Ordering::Relaxed);
    let assert_kept = |response: &Response, reason: &str| {
        assert_eq!((response.status, &response.body), (200, &first.body), "{:?}", response.headers);
        assert!(says(response).starts_with(&format!("stale; reason={reason}; policy=orders; age=")));
        for name in ["etag", "cache-control", "last-modified", "content-type", "date"] {
            assert_eq!(response.header(name), first.header(name), "{name}");
        }
        assert_eq!(response.header("link").as_deref(), Some("<a>, <b>"));
        assert_eq!((response.header("set-cookie"), response.header("retry-after")), (None, None));
        assert_eq!(response.header("content-length").unwrap(), first.body.len().to_string());
    };
    let replaced = scene.client.get("/a").await.unwrap();
    assert_kept(&replaced, "failure");
    let head = |path: &str| {
        let mut request = Client::request(path);
        *request.method_mut() = Method::HEAD;
        request
    };
    let conditional = || with_header(Client::request("/a"), "if-none-match", "\"v1\"");
    let mut answers = vec![(scene.client.send(head("/a")).await.unwrap(), 200)];
    answers.push((scene.client.send(conditional()).await.unwrap(), 304));
    for _ in 0..30 {
        scene.client.get("/other").await.unwrap();
    }
    let rejected = scene.client.get("/a").await.unwrap();
    assert_kept(&rejected, "open");
    answers.push((scene.client.send(head("/a")).await.unwrap(), 200));
    answers.push((scene.client.send(conditional()).await.unwrap(), 304));
    for (response, status) in answers {
        assert_eq!((response.status, response.body.len()), (status, 0), "{:?}", response.headers);
        assert_eq!(response.header("etag").as_deref(), Some("\"v1\""));
        assert!(says(&response).starts_with("stale; "), "{:?}", response.headers);
        let length = response.header("content-length");
        assert!(length.is_none_or(|length| status == 200 && length == first.body.len().to_string()));
    }
    let range = scene.client.send(with_header(Client::request("/a"), "range", "bytes=0-9")).await.unwrap();
    assert_kept(&range, "open");
    assert_eq!(host.connections(), 1, "nothing was reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_never_see_each_others_answers() {
    let host = Backend::start().await.unwrap();
    // Each answer says whose it is; its path, how it may be kept.
    host.script(|request| {
        let who = ["authorization", "cookie", "x-tenant"].map(|name| request.header(name).unwrap_or_default()).concat();
        let answer = Action::status(200).body(format!("{who} {}", request.path));
        match request.path.as_str() {
            "/vary" => answer.header("vary", "Authorization, Cookie").header("cache-control", "public"),
            "/cookie" => answer.header("vary", "cookie"),
            "/private" => answer.header("cache-control", "private"),
            "/public" => answer.header("cache-control", "public"),
            "/sets" => answer.header("set-cookie", "id=1"),
            _ => answer,
        }
    });
    let mut document = policy(json!({}));
    document["policies"][0]["scope"] = json!(["cluster", {"header": "x-tenant"}]);
    let scene = Scene::with(Scene::of(&host).concurrency(2).policy(document)).await;
    let clients = scene.workers(2).await;
    const PATHS: [&str; 6] = ["/plain", "/vary", "/cookie", "/private", "/public", "/sets"];
    let all = || {
        let with = ["authorization", "cookie", "x-tenant"];
        PATHS
            .into_iter()
            .flat_map(move |path| with.into_iter().flat_map(move |name| ["a", "b"].map(|who| (path, name, who))))
    };
    let ask = |path: &'static str, name: &'static str, who: &'static str| with_header(Client::request(path), name, who);
    for (path, name, who) in all() {
        for client in &clients {
            let response = client.send(ask(path, name, who)).await.unwrap();
            assert_eq!(response.text(), format!("{who} {path}"));
        }
    }
    host.refuse().await.unwrap();
    let mut served = BTreeMap::new();
    for (path, name, who) in all() {
        for client in &clients {
            let response = client.send(ask(path, name, who)).await.unwrap();
            let is_kept = response.status == 200;
            assert!(is_kept || response.status == 418, "{}", response.status);
            // A public answer is everybody's, within a tenant of the scope.
            let is_own = response.text() == format!("{who} {path}");
            let is_everybodys = path == "/public" && name != "x-tenant";
            assert!(!is_kept || is_own || is_everybodys, "{path} {name} {who}: {}", response.text());
            *served.entry((path, name)).or_insert(0) += u32::from(is_kept);
        }
    }
    let kept: Vec<_> = served.into_iter().filter(|(_, count)| *count > 0).map(|(what, _)| what).collect();
    let expected = [
        ("/cookie", "cookie"),
        ("/cookie", "x-tenant"),
        ("/plain", "x-tenant"),
        ("/public", "authorization"),
        ("/public", "cookie"),
        ("/public", "x-tenant"),
        ("/vary", "authorization"),
        ("/vary", "cookie"),
        ("/vary", "x-tenant"),
    ];
    assert_eq!(kept, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encoded_answers_are_told_apart_and_other_filters_leave_them_alone() {
    let host = Backend::start().await.unwrap();
    host.script(|request| {
        let answer = Action::status(200).header("vary", "accept-encoding").header("content-type", "text/plain");
        match request.header("accept-encoding").as_deref() {
            Some("br") => answer.header("content-encoding", "br").body(&b"\x8b\x00\x80\xff\xfe"[..]),
            _ => answer.body("plain ".repeat(100)),
        }
    });
    let scene = Scene::start(&host, policy(json!({}))).await;
    let br = || with_header(Client::request("/a"), "accept-encoding", "br");
    scene.client.send(br()).await.unwrap();
    scene.client.get("/a").await.unwrap();
    host.refuse().await.unwrap();
    let encoded = scene.client.send(br()).await.unwrap();
    assert_eq!(encoded.body, &b"\x8b\x00\x80\xff\xfe"[..]);
    assert_eq!(encoded.header("content-encoding").as_deref(), Some("br"));
    let plain = scene.client.get("/a").await.unwrap();
    assert_eq!((plain.text(), plain.header("content-encoding")), ("plain ".repeat(100), None));
    let other = scene.client.send(with_header(Client::request("/a"), "accept-encoding", "zstd")).await.unwrap();
    assert_eq!(other.status, 418);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_pass_at_once_and_only_whole_ones_are_kept() {
    let host = Backend::start().await.unwrap();
    let long = holdfast_tests::body_of(700_000);
    let sent = long.clone();
    host.script(move |request| match request.path.as_str() {
        "/long" => Action::ok().body(sent.clone()),
        "/too-long" => Action::ok().body(vec![7; 1_100_000]),
        _ => Action::truncate(),
    });
    let scene = Scene::start(&host, policy(json!({"max_body": "1MiB"}))).await;
    for path in ["/long", "/too-long", "/cut"] {
        let _ = scene.client.get(path).await;
    }
    host.refuse().await.unwrap();
    let kept = scene.client.get("/long").await.unwrap();
    assert_eq!((kept.status, kept.body == long), (200, true));
    for path in ["/too-long", "/cut"] {
        assert_eq!(scene.client.get(path).await.unwrap().status, 418, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_has_its_bound_under_any_number_of_resources() {
    let host = Backend::start().await.unwrap();
    host.script(|request| Action::status(200).body(vec![b'x'; 4096 + request.path.len()]));
    let cluster = Cluster::new("orders").endpoint(host.addr());
    let options = EnvoyOptions::new().cluster(cluster).route(Scene::aside()).route(Route::to("/", "orders"));
    let scene = Scene::with(options.concurrency(4).policy(policy(json!({"entries": 100, "max_body": "8KiB"})))).await;
    let clients = scene.workers(4).await;
    let path = |number: u64| -> Request<Bytes> { Client::request(&format!("/resource/{number:06}")) };
    let bytes = async || scene.metric("stale_bytes").await;
    let mut seen = Vec::new();
    for round in 0..2 {
        let start = round * 5_000;
        let records = drive_all(&clients, 16, 5_000, Template::new(move |number| path(start + number))).await;
        assert_eq!(records.count(200), 5_000);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        seen.push((scene.metric("stale_answers").await, bytes().await));
    }
    assert_eq!(seen[0], seen[1], "10,000 different resources take no more than 5,000");
    assert_eq!(seen[1].0, 100);
    assert!((100 * 4096..100 * 5000).contains(&seen[1].1), "{seen:?}");
}
