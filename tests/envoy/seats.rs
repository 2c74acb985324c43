//! The two seats: what works without the attempt seat, how the seats find each other, what an update does to both, and what
//! neither of them may be made to do.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, Envoy, EnvoyOptions, Listener, PATIENCE, Records, Route, Scene, Seats, TICK,
    Template, Update, attempt_seat_filter, attempts, body_of, eventually, gaps, seen_by_all, upstream_codec,
    wasm_module, with_header,
};
use http::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::retrying::{ID, NOTICED, exactly, orders, quick_backoff, request, seats_meet};

fn post(path: &str, id: &str, body: &Bytes) -> Request<Bytes> {
    with_header(Client::post_request(path, body.clone()), ID, id)
}

/// Fails each request's first attempt and serves the next.
fn fails_once(status: u16) -> impl Fn(&holdfast_tests::SeenRequest) -> Action + Clone + Send + Sync + 'static {
    Action::in_turn(ID, [Action::status(status), Action::ok()])
}

/// The names by which the attempt seat tells the router and the request seat what it wants.
fn inner_headers(response: &holdfast_tests::Response) -> Vec<&str> {
    let names = response.headers.keys().map(http::HeaderName::as_str);
    names.filter(|name| name.starts_with("x-holdfast-") || *name == "x-envoy-ratelimited").collect()
}

// Without the attempt seat.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_attempt_seat_envoy_retries_what_the_policy_names() {
    let host = Backend::start().await.unwrap();
    let policy =
        orders(json!({"max_retries": 2, "on": ["gateway-error", "connect-failure", 429], "budget": exactly(50)}));
    let scene = Scene::with(Scene::of(&host).policy(policy)).await;

    for (id, status, tries) in [("503", 503, 2), ("429", 429, 2), ("500", 500, 1), ("404", 404, 1)] {
        host.script(fails_once(status));
        let response = scene.client.send(request("/", id)).await.unwrap();
        assert_eq!(response.status, if tries == 2 { 200 } else { status }, "after {status}");
        assert_eq!(host.seen_with(ID, id).len(), tries, "{status} is named or not");
        assert_eq!(inner_headers(&response), [""; 0]);
    }
    let counted = ["retries", "retries_recovered", "success", "failure", "retries_denied.method"];
    let expected =
        json!({"retries": 2, "retries_recovered": 2, "success": 3, "failure": 1, "retries_denied.method": 0});
    assert_eq!(scene.counted(&counted).await, expected, "a 404 is no failure");

    host.script(fails_once(503));
    let body = body_of(1024);
    assert_eq!(scene.client.send(post("/", "post", &body)).await.unwrap().status, 503);
    assert_eq!(host.seen_with(ID, "post").len(), 1, "a POST that reached the host is not sent again");
    let keyed = with_header(post("/", "keyed", &body), "idempotency-key", "7");
    assert_eq!(scene.client.send(keyed).await.unwrap().status, 200);
    let tries = host.seen_with(ID, "keyed");
    assert_eq!(tries.len(), 2, "one with an idempotency key is");
    assert!(tries.iter().all(|seen| seen.body == body), "with its body");
    let expected =
        json!({"retries": 3, "retries_recovered": 3, "success": 4, "failure": 2, "retries_denied.method": 1});
    assert_eq!(scene.counted(&counted).await, expected);

    host.refuse().await.unwrap();
    for (number, unsent) in [request("/", "get"), post("/", "unsent", &body)].into_iter().enumerate() {
        assert_eq!(scene.client.send(unsent).await.unwrap().status, 503);
        let entry = scene.wait_for_access_log(7 + number).await.unwrap().pop().unwrap();
        assert_eq!(entry.attempts, 3, "{}: no host has seen it, so any method is tried again", entry.method);
    }
    assert_eq!(scene.metric("retries").await, 3 + 4);
    assert_eq!(scene.metric("retries_denied.method").await, 1, "the method stood in the way of nothing");
    let log = scene.wait_for_access_log(8).await.unwrap();
    assert!(log.iter().all(|entry| entry.holdfast_field("attempts").is_none()), "nobody could write a trail");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_attempt_seat_time_outs_hold_and_retries_are_exhausted() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {
            "name": "patient", "match": {"path": ["/patient"]},
            "retry": {"max_retries": 20, "per_try_timeout": "150ms", "timeout": "500ms", "budget": exactly(100)},
        },
        {
            "name": "orders", "retry": {"max_retries": 2, "per_try_timeout": "400ms", "budget": exactly(50)},
            "fallback": [{"on": ["retries_exhausted"], "respond": {"status": 200, "body": "${reason}"}}],
        },
    ]});
    let scene = Scene::with(Scene::of(&host).policy(policy)).await;
    let timely = |id: &'static str| {
        let client = scene.client.clone();
        async move { client.send(request("/", id)).await.unwrap() }
    };

    host.script(Action::in_turn(ID, [Action::hang(), Action::ok()]));
    assert_eq!(timely("slow once").await.text(), "ok");
    assert_eq!(host.seen_with(ID, "slow once").len(), 2, "the first try was given up and another one served");
    host.always(Action::hang());
    let response = timely("slow").await;
    assert!(response.header("x-holdfast-fallback").is_some(), "{response:?}");
    assert_eq!(host.seen_with(ID, "slow").len(), 3, "two retries are exhausted");
    host.always(Action::status(503));
    assert_eq!(timely("failing").await.text(), "retries_exhausted");
    let post = post("/", "post", &Bytes::new());
    assert_eq!(scene.client.send(post).await.unwrap().status, 503, "what was not retried has exhausted nothing");
    let counted = scene.counted(&["retries", "retries_recovered", "retries_denied.method", "fallback.static"]).await;
    let expected = json!({
        "retries": 1 + 2 + 2, "retries_recovered": 1, "retries_denied.method": 1, "fallback.static": 2,
    });
    assert_eq!(counted, expected);

    host.always(Action::hang());
    let response = scene.client.send(request("/patient", "patient")).await.unwrap();
    assert_eq!(response.status, 504);
    let entry = scene.wait_for_access_log(5).await.unwrap().pop().unwrap();
    let (tries, seen) = (entry.attempts, host.seen_with(ID, "patient").len() as u64);
    assert!((2..=4).contains(&tries), "500 ms hold so many tries of 150 ms, not {tries}");
    // The last may be over before its host has read it.
    assert!((tries - 1..=tries).contains(&seen), "{seen} of {tries}");
    let took = entry.all["duration_ms"].as_u64().unwrap();
    assert!(took >= 495, "the time for all tries was used: {took} ms");
    assert_eq!(scene.metrics("patient", "cluster=orders").await["retries"], tries - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_attempt_seat_the_budget_is_kept_roughly() {
    const SENDERS: u64 = 8;
    let host = Backend::start().await.unwrap();
    let budget = json!({"ratio": 20, "min_per_second": 0.2, "window": "50s"});
    let policy = orders(json!({"max_retries": 3, "budget": budget}));
    // Envoy's own default of three retries at a time would be the limit.
    let many = json!({"circuit_breakers": {"thresholds": [{"max_retries": 1000}]}});
    let cluster = Cluster::new("orders").endpoint(host.addr()).raw(many);
    let options = EnvoyOptions::new().cluster(cluster).route(Scene::aside()).route(Route::to("/", "orders"));
    let scene = Scene::with(options.policy(policy)).await;
    let mut clients = scene.workers(2).await;
    clients.extend([Client::http1(scene.addr()), Client::http1(scene.addr())]);
    // Longer than a worker takes the budget as it last saw it.
    host.always(Action::status(503).after(Duration::from_millis(20)));

    let mut storm = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let template = Template::new(move |index| request("/", &format!("{number}-{index}")));
        storm.spawn(async move { client.drive(SENDERS as usize / 4, 100, template).await });
    }
    let records = Records(storm.join_all().await.into_iter().flat_map(|records| records.0).collect());

    assert_eq!(records.count(503), 400);
    let tries = host.requests();
    // 400 x 20 % + 0.2/s x 50 s. A token is taken when its request is over, and whether there is one is known 10 ms late:
    // when the last one goes each sender has a request under way that may be retried three times, and may have begun
    // one more by then.
    let (allowed, late) = (400 + 90, 2 * SENDERS * 3 + 3);
    println!("without the attempt seat: {tries} tries, {allowed} allowed, up to {} expected", allowed + late);
    assert!(tries <= allowed + late, "{tries} tries");
    assert!(tries >= 400 + 54, "60 % of what is allowed is used: {tries} tries");
    let metrics = scene.metrics("orders", "cluster=orders").await;
    assert_eq!(metrics["retries"], tries - 400, "each is counted, if late");
    let denied = metrics["retries_denied.budget"];
    let retried = host.seen().iter().filter_map(|seen| seen.header(ID)).fold(
        std::collections::BTreeMap::<String, u64>::new(),
        |mut tries, id| {
            *tries.entry(id).or_default() += 1;
            tries
        },
    );
    let untried = retried.values().filter(|tries| **tries == 1).count() as u64;
    assert_eq!(denied, untried, "a request that found no token was not retried at all, and the others were");
    assert!(retried.values().all(|tries| *tries == 1 || *tries == 4), "Envoy knows nothing between the two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_attempt_seat_no_host_speaks_in_its_place() {
    let host = Backend::start().await.unwrap();
    let policy = orders(json!({"max_retries": 2, "budget": exactly(50)}));
    let scene = Scene::with(Scene::of(&host).policy(policy)).await;

    for (id, action) in [
        ("asks", Action::ok().header("x-holdfast-retry", "1")),
        ("tells", Action::ok().header("x-holdfast-tries", "1")),
    ] {
        host.always(action);
        let response = scene.client.send(request("/", id)).await.unwrap();
        assert_eq!((response.status, inner_headers(&response)), (200, Vec::new()), "{id}: no client hears of it");
        assert_eq!(
            host.seen_with(ID, id).len(),
            1,
            "{id}: an answer that the policy does not name is not asked for again"
        );
    }
    host.always(Action::status(503).header("x-envoy-ratelimited", "true"));
    let response = scene.client.send(request("/", "limited")).await.unwrap();
    assert_eq!(
        response.header("x-envoy-ratelimited").as_deref(),
        Some("true"),
        "a host's own wish goes on to the client"
    );
    assert_eq!(host.seen_with(ID, "limited").len(), 1, "and is heard");
    assert_eq!(scene.metric("retries").await, 0);
}

// The seats find each other.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_seats_know_each_other_requests_are_retried_and_charged_once() {
    let host = Backend::start().await.unwrap();
    let policy = orders(json!({"max_retries": 1, "on": [503], "backoff": quick_backoff(), "budget": exactly(3)}));
    let scene = Scene::with(Scene::of(&host).seats(Seats::Both).policy(policy)).await;
    host.script(fails_once(503));

    assert_eq!(scene.client.send(request("/", "first")).await.unwrap().status, 200, "the very first request");
    assert_eq!(scene.client.send(post("/", "post", &body_of(10))).await.unwrap().status, 503);
    assert_eq!(host.seen_with(ID, "post").len(), 1);
    assert_eq!(scene.client.send(request("/", "second")).await.unwrap().status, 200);
    host.always(Action::status(503));
    for id in ["third", "fourth", "fifth"] {
        let response = scene.client.send(request("/", id)).await.unwrap();
        assert_eq!((response.status, inner_headers(&response)), (503, Vec::new()));
    }
    let tries = ["first", "second", "third", "fourth", "fifth"].map(|id| host.seen_with(ID, id).len());
    assert_eq!(tries, [2, 2, 2, 1, 1], "three tokens are three further tries, whichever seat takes them");
    let counted = ["retries", "retries_recovered", "retries_denied.budget", "retries_denied.method"];
    let expected = json!({
        "retries": 3, "retries_recovered": 2, "retries_denied.budget": 2, "retries_denied.method": 1,
    });
    assert_eq!(scene.counted(&counted).await, expected);

    sleep(NOTICED).await;
    assert_eq!(scene.client.send(request("/", "later")).await.unwrap().status, 503);
    assert_eq!(host.seen_with(ID, "later").len(), 1, "and the seats go on from there when they know each other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_seats_know_each_other_the_budget_is_exact_too() {
    let host = Backend::start().await.unwrap();
    let policy = orders(json!({"max_retries": 3, "backoff": quick_backoff(), "budget": exactly(20)}));
    let scene = Scene::with(Scene::of(&host).concurrency(4).seats(Seats::Both).policy(policy)).await;
    let workers = scene.workers(4).await;
    host.always(Action::status(503));

    let mut crowd = JoinSet::new();
    for client in workers {
        crowd.spawn(async move { client.drive(5, 50, "/").await.count(503) });
    }

    assert_eq!(crowd.join_all().await.iter().sum::<usize>(), 200);
    assert_eq!(host.requests(), 200 + 20, "no token is taken twice or by nobody");
    assert_eq!(scene.metric("retries").await, 20);
}

/// What both seats do together, wherever the attempt seat stands.
async fn together(seats: Seats) {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let all = [&hosts[0], &hosts[1]];
    let rpc = Backend::start().await.unwrap();
    let policy = orders(json!({
        "max_retries": 2, "on": ["gateway-error", "reset", "unavailable"], "budget": exactly(20),
        "backoff": {"base": "120ms", "max": "120ms", "jitter": "none"},
    }));
    let options = EnvoyOptions::new()
        .seats(seats)
        .cluster(Cluster::new("orders").endpoint(hosts[0].addr()).endpoint(hosts[1].addr()))
        .cluster(Cluster::new("rpc").endpoint(rpc.addr()).http2())
        .route(Scene::aside())
        .route(Route::to("/rpc", "rpc"))
        .route(Route::to("/", "orders"))
        .policy(policy);
    let scene = Scene::with(options).await;
    let clients = [scene.client.clone(), Client::http2(scene.addr())];
    for path in ["/", "/rpc"] {
        seats_meet(&clients, path).await;
    }

    for (number, first) in [Action::status(503), Action::reset()].into_iter().enumerate() {
        let script = Action::in_turn(ID, [first, Action::ok()]);
        all.iter().for_each(|host| host.script(script.clone()));
        let id = format!("once-{number}");
        let response = clients[number].send(request("/", &id)).await.unwrap();
        assert_eq!((response.status, inner_headers(&response)), (200, Vec::new()), "{seats:?}");
        let (here, there) = (hosts[0].seen_with(ID, &id).len(), hosts[1].seen_with(ID, &id).len());
        assert_eq!((here, there), (1, 1), "{seats:?}: the further try goes to the other host");
        let waited = gaps(&seen_by_all(&all, ID, &id))[0];
        assert!(waited + TICK >= Duration::from_millis(120), "{seats:?}: the attempt seat waits, not only {waited:?}");
        let entry = scene.wait_for_access_log(9 + number).await.unwrap().pop().unwrap();
        let trail: Vec<_> = attempts(&entry).into_iter().map(|one| one.outcome).collect();
        assert_eq!(trail, [["failure:503", "failure:reset"][number], "success:200"], "{seats:?}");
    }
    all.iter().for_each(|host| host.always(Action::status(503)));
    assert_eq!(scene.client.send(post("/", "post", &body_of(10))).await.unwrap().status, 503);
    assert_eq!(seen_by_all(&all, ID, "post").len(), 1, "{seats:?}");
    let response = scene.client.send(request("/", "failing")).await.unwrap();
    assert_eq!((response.status, inner_headers(&response)), (503, Vec::new()));
    assert_eq!(seen_by_all(&all, ID, "failing").len(), 3, "{seats:?}");

    rpc.script(Action::in_turn(ID, [Action::grpc_trailers_only(14), Action::grpc(0)]));
    let call = with_header(Client::grpc_request("/rpc.Orders/List"), "idempotency-key", "1");
    let answer = clients[1].send(with_header(call, ID, "call")).await.unwrap();
    assert_eq!((answer.grpc_status(), rpc.seen_with(ID, "call").len()), (Some(0), 2), "{seats:?}");

    let counted = scene.counted(&["retries", "retries_recovered", "retries_denied.method"]).await;
    assert_eq!(counted, json!({"retries": 4, "retries_recovered": 2, "retries_denied.method": 1}), "{seats:?}");
    let seen = all.iter().copied().chain([&rpc]).flat_map(Backend::seen);
    let told: Vec<String> =
        seen.flat_map(|seen| seen.headers.keys().map(ToString::to_string).collect::<Vec<_>>()).collect();
    let told: Vec<&String> =
        told.iter().filter(|name| name.starts_with("x-holdfast") || name.starts_with("x-envoy-retr")).collect();
    assert_eq!(told, Vec::<&String>::new(), "{seats:?}: no host hears of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempt_seat_works_in_the_cluster() {
    together(Seats::Both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempt_seat_works_in_the_router() {
    together(Seats::BothInRouter).await;
}

/// One cluster with an attempt seat and one without, under one policy of this scope.
async fn side_by_side(seats: Seats, scope: Value) {
    let (seated, bare) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let options = EnvoyOptions::new()
        .seats(seats)
        .cluster(Cluster::new("orders").endpoint(seated.addr()))
        .cluster(Cluster::new("carts").endpoint(bare.addr()).without_attempt_seat())
        .route(Scene::aside())
        .route(Route::to("/carts", "carts"))
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": [{
            "name": "orders", "scope": scope,
            "retry": {"max_retries": 2, "backoff": quick_backoff(), "budget": exactly(30)},
        }]}));
    let scene = Scene::with(options).await;
    for path in ["/", "/carts"] {
        seats_meet(std::slice::from_ref(&scene.client), path).await;
    }
    seated.script(fails_once(503));
    bare.script(fails_once(503));

    for round in 0..3 {
        for (host, path) in [(&seated, "/"), (&bare, "/carts")] {
            let id = format!("{path}{round}");
            let status = scene.client.send(request(path, &id)).await.unwrap().status;
            let tries = host.seen_with(ID, &id).len();
            assert_eq!((status, tries), (200, 2), "{seats:?}, scope {scope}: {path} is retried");
        }
    }
    let log = scene.wait_for_access_log(4 + 6).await.unwrap();
    for entry in log.iter().skip(4) {
        let trail = attempts(entry).len();
        assert_eq!(trail, if entry.path == "/" { 2 } else { 0 }, "a trail needs an attempt seat: {entry:?}");
    }
    let retries = scene.settled_stats("wasmcustom.holdfast.policy=").await.unwrap().into_iter();
    let retries = retries.filter(|(name, _)| name.ends_with(";.;retries"));
    assert_eq!(retries.map(|(_, count)| count).sum::<u64>(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_an_attempt_seat_beside_one_with() {
    side_by_side(Seats::Both, json!(["cluster"])).await;
    side_by_side(Seats::BothInRouter, json!(["cluster"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_with_and_without_an_attempt_seat_in_one_key() {
    side_by_side(Seats::Both, json!([])).await;
}

// Updates and several listeners.

fn dynamic(host: &Backend, policy: Value) -> EnvoyOptions {
    Scene::of(host).dynamic_listeners().seats(Seats::Both).policy(policy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_judged_to_its_end_by_the_policy_it_began_with() {
    let host = Backend::start().await.unwrap();
    let (one, slow) = (json!({"max_retries": 1, "on": ["gateway-error"]}), json!({"base": "800ms", "jitter": "none"}));
    let old = orders(json!({"max_retries": 3, "on": ["gateway-error"], "backoff": slow, "budget": exactly(100)}));
    let new = orders(json!({"max_retries": 1, "on": [500], "backoff": quick_backoff(), "budget": exactly(100)}));
    let mut few = orders(one);
    few["policies"][0]["retry"]["backoff"] = quick_backoff();
    let scene = Scene::with(dynamic(&host, old)).await;
    let clients = [scene.client.clone(), Client::http2(scene.addr())];
    seats_meet(&clients, "/").await;
    host.script(|seen| if seen.path == "/500" { Action::status(500) } else { Action::status(503) });

    // Three waits of 800 ms, during which the policy changes.
    let early: Vec<_> = (0..8).map(|id| clients[id % 2].open(request("/", &format!("early-{id}")))).collect();
    eventually(PATIENCE, || async { host.requests() == 4 + 8 }).await.unwrap();
    assert_eq!(scene.update_policy(new).await.unwrap(), Update::Accepted);
    let fresh = [clients[0].reconnected(), clients[1].reconnected()];
    for (number, client) in fresh.iter().enumerate() {
        let id = format!("late-{number}");
        assert_eq!(client.send(request("/", &id)).await.unwrap().status, 503);
        assert_eq!(host.seen_with(ID, &id).len(), 1, "the new policy does not name 503");
        let id = format!("late-500-{number}");
        assert_eq!(client.send(request("/500", &id)).await.unwrap().status, 500);
        assert_eq!(host.seen_with(ID, &id).len(), 2, "but 500, and once");
    }
    assert!(early.iter().all(|open| !open.is_finished()), "the old requests are still under way");
    for (number, open) in early.into_iter().enumerate() {
        assert_eq!(open.finish().await.unwrap().status, 503);
        let tries = host.seen_with(ID, &format!("early-{number}"));
        assert_eq!(tries.len(), 4, "request {number} goes by the old policy to its end");
        let shortest = gaps(&tries).into_iter().min().unwrap();
        assert!(shortest + TICK >= Duration::from_millis(800), "in its waits too: {shortest:?}");
    }

    // The other way round: fewer retries before, more after.
    assert_eq!(scene.update_policy(few).await.unwrap(), Update::Accepted);
    let fresh = [clients[0].reconnected(), clients[1].reconnected()];
    host.reset_counters();
    host.hold();
    let held: Vec<_> = (0..8).map(|id| fresh[id % 2].open(request("/", &format!("held-{id}")))).collect();
    host.wait_in_flight(8).await.unwrap();
    let more = orders(json!({"max_retries": 4, "backoff": quick_backoff(), "budget": exactly(100)}));
    assert_eq!(scene.update_policy(more).await.unwrap(), Update::Accepted);
    host.release_all();
    for (number, open) in held.into_iter().enumerate() {
        assert_eq!(open.finish().await.unwrap().status, 503);
        assert_eq!(host.seen_with(ID, &format!("held-{number}")).len(), 2, "one retry was all it had");
    }
    let client = scene.client.reconnected();
    assert_eq!(client.send(request("/", "last")).await.unwrap().status, 503);
    assert_eq!(host.seen_with(ID, "last").len(), 5, "and the newest policy has four");
}

/// The same policy behind another one: equal by content, in a different document.
fn among_others(mut document: Value, other: u64) -> Value {
    let policies = document["policies"].as_array_mut().unwrap();
    let retry = json!({"max_retries": other});
    policies.insert(0, json!({"name": "other", "match": {"path": ["/other"]}, "retry": retry}));
    document
}

/// Sends failing requests, and gives how many retries they got.
async fn spent(client: &Client, host: &Backend, count: u64) -> u64 {
    let before = host.requests();
    for _ in 0..count {
        assert_eq!(client.get("/").await.unwrap().status, 503);
    }
    host.requests() - before - count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_keeps_the_budget_of_a_policy_that_it_does_not_change() {
    let host = Backend::start().await.unwrap();
    let retry = |tokens| orders(json!({"max_retries": 1, "backoff": quick_backoff(), "budget": exactly(tokens)}));
    let scene = Scene::with(dynamic(&host, retry(9))).await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    host.always(Action::status(503));
    assert_eq!(spent(&scene.client, &host, 3).await, 3);

    for round in 1..=2 {
        assert_eq!(scene.update_policy(among_others(retry(9), round)).await.unwrap(), Update::Accepted);
        assert_eq!(spent(&scene.client.reconnected(), &host, 2).await, 2);
    }
    let last = scene.client.reconnected();
    assert_eq!(spent(&last, &host, 4).await, 2, "nine tokens over three documents");

    assert_eq!(scene.update_policy(retry(4)).await.unwrap(), Update::Accepted);
    assert_eq!(spent(&scene.client.reconnected(), &host, 6).await, 4, "another budget is another policy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_with_equal_policies_share_a_budget_and_others_do_not() {
    let host = Backend::start().await.unwrap();
    let retry = |retries| orders(json!({"max_retries": retries, "backoff": quick_backoff(), "budget": exactly(6)}));
    let listener = |name: &str, policy| Listener::new(name).route(Route::to("/", "orders")).policy(policy);
    let options = Scene::of(&host)
        .seats(Seats::Both)
        .policy(retry(1))
        .listener(listener("equal", among_others(retry(1), 1)))
        .listener(listener("different", retry(2)));
    let scene = Scene::with(options).await;
    let clients = ["ingress", "equal", "different"].map(|name| Client::http1(scene.listener(name)));
    seats_meet(&clients, "/").await;
    host.always(Action::status(503));

    assert_eq!(spent(&clients[0], &host, 4).await, 4);
    assert_eq!(spent(&clients[1], &host, 4).await, 2, "what one listener has taken the other has not");
    assert_eq!(spent(&clients[0], &host, 2).await, 0);
    assert_eq!(spent(&clients[2], &host, 4).await, 6, "a policy of another content has six tokens of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_seat_with_a_policy_or_a_wrong_name_is_refused() {
    let host = Backend::start().await.unwrap();
    let wasm = wasm_module().unwrap();
    let seated = |vm: Option<&str>, plugin: Option<&str>| {
        let text = |value: &str| json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": value});
        let mut filter = attempt_seat_filter(&wasm);
        let config = &mut filter["typed_config"]["config"];
        if let Some(vm) = vm {
            config["vm_config"]["configuration"] = text(vm);
        }
        if let Some(plugin) = plugin {
            config["configuration"] = text(plugin);
        }
        let options = json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"http_filters": [filter, upstream_codec()]},
        }});
        let cluster = Cluster::new("orders").endpoint(host.addr()).raw(options);
        EnvoyOptions::new().cluster(cluster).seats(Seats::Both).route(Route::to("/", "orders"))
    };
    let complaints = async |options: EnvoyOptions| {
        let log = Envoy::validate(options).await.expect_err("it is refused").log;
        let told = log.lines().filter_map(|line| line.split_once("holdfast: configuration refused: "));
        told.map(|(_, complaint)| complaint.to_owned()).collect::<Vec<_>>()
    };

    Envoy::validate(seated(None, None)).await.unwrap();
    Envoy::validate(seated(None, Some(" \n"))).await.expect("blanks are as good as nothing");
    for document in [orders(json!({})).to_string(), "{}".to_owned()] {
        let told = complaints(seated(None, Some(&document))).await;
        let why = "configuration: must be empty in the attempt seat, which takes its policies from the request seat";
        assert_eq!(told, [why], "for {document}");
    }
    for seat in [r#"{"seat": "retry"}"#, r#"{"seat": "Attempt"}"#, r#"{"seat": "attempt", "more": 1}"#, "attempt", "{}"]
    {
        let told = complaints(seated(Some(seat), None)).await;
        let why = r#"vm_config.configuration: must be empty, {"seat": "request"} or {"seat": "attempt"}"#;
        assert!(told.len() == 1 && told[0].starts_with(why), "{seat} is told as {told:?}");
    }
    let told = complaints(seated(Some(r#"{"seat": "request"}"#), None)).await;
    assert!(told.len() == 1 && told[0].starts_with("policies: is missing"), "{told:?}");
}

// What comes from outside.

/// Values that are no text, no number, or too much of it.
fn nasty() -> Vec<Vec<u8>> {
    vec![
        b"\xff\xfe".to_vec(),
        b"\x80".to_vec(),
        b"caf\xe9".to_vec(),
        b"a\tb".to_vec(),
        b"-1".to_vec(),
        b"1e9".to_vec(),
        b"0x2".to_vec(),
        b"one, two".to_vec(),
        Vec::new(),
        vec![b'*'; 5_000],
        // Compressed for HTTP/2 each byte that is no text takes four: Envoy ends a connection at 60 KiB.
        vec![0xf0; 10_000],
        vec![b'x'; 50_000],
    ]
}

/// A scene whose policy has tokens for everything, in both seats.
async fn generous(host: &Backend, on: Value) -> Scene {
    let budget = json!({"ratio": 100, "min_per_second": 1000});
    let policy = orders(json!({"max_retries": 1, "on": on, "backoff": quick_backoff(), "budget": budget}));
    let scene = Scene::with(Scene::of(host).seats(Seats::Both).policy(policy)).await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_send_decides_no_more_than_it_should() {
    let host = Backend::start().await.unwrap();
    let scene = generous(&host, json!(["gateway-error"])).await;
    host.always(Action::status(503));
    let mut number = 0;
    let mut tries = async |client: &Client, request: Request<Bytes>| {
        number += 1;
        let id = format!("request-{number}");
        let what = format!("{client:?} {} {:?}", request.method(), request.headers());
        let response = client.send(with_header(request, ID, &id)).await;
        let response = response.unwrap_or_else(|error| panic!("{}: {error}", &what[..what.len().min(300)]));
        assert_eq!((response.status, inner_headers(&response)), (503, Vec::new()), "{}", &what[..what.len().min(300)]);
        host.seen_with(ID, &id)
    };

    // Over HTTP/1.1 Envoy itself takes no method that it does not know.
    let odd: [&[(&str, usize)]; 2] = [&[], &[("M-SEARCH", 1), ("get", 1), ("BREW", 1)]];
    for (client, odd) in [Client::http1(scene.addr()), Client::http2(scene.addr())].into_iter().zip(odd) {
        for value in nasty() {
            let get = || Client::request("/");
            let told = tries(&client, with_header(get(), "x-envoy-attempt-count", &value)).await;
            assert_eq!(told.len(), 2, "this is no number of a try: {value:?}");
            let told = tries(&client, with_header(get(), "x-http-method-override", &value)).await;
            assert_eq!(told.len(), 2, "the method is the method: {value:?}");
            let told = tries(&client, Client::post_request("/", "order")).await;
            assert_eq!(told.len(), 1);
            let keyed = with_header(Client::post_request("/", "order"), "idempotency-key", &value);
            let told = tries(&client, keyed).await;
            assert_eq!(told.len(), 2, "a key is a key: {value:?}");
            for seen in told {
                assert_eq!(seen.headers["idempotency-key"].as_bytes(), value, "passed on as it came");
                assert_eq!(seen.body, "order");
            }
        }
        for (value, expected) in [("0", 2), ("1", 2), ("2", 1), (" 2 ", 1), ("4294967296", 1)] {
            let told = tries(&client, with_header(Client::request("/"), "x-envoy-attempt-count", value)).await;
            assert_eq!(told.len(), expected, "x-envoy-attempt-count: {value}");
        }
        for (method, expected) in [("PUT", 2), ("OPTIONS", 2), ("PATCH", 1)].iter().chain(odd) {
            let mut request = Client::request("/");
            *request.method_mut() = method.parse().unwrap();
            assert_eq!(tries(&client, request).await.len(), *expected, "{method}");
        }
        for name in ["x-holdfast-retry", "x-holdfast-tries", "x-holdfast-hosts"] {
            let told = tries(&client, with_header(Client::request("/"), name, "1")).await;
            assert_eq!(told.len(), 2, "{name} of a client's making says nothing");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_give_the_router_orders_of_their_own() {
    let host = Backend::start().await.unwrap();
    let scene = generous(&host, json!(["gateway-error"])).await;
    host.script(|seen| match seen.path.as_str() {
        "/slow" => Action::ok().after(Duration::from_millis(300)),
        "/404" => Action::status(404),
        "/grpc" => Action::grpc_trailers_only(14),
        _ => Action::status(503),
    });
    let greedy: [(&str, &str); 7] = [
        ("x-envoy-retry-on", "5xx,retriable-4xx,retriable-status-codes,reset"),
        ("x-envoy-retry-grpc-on", "unavailable"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-retriable-status-codes", "404"),
        ("x-envoy-retriable-header-names", "server"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "50"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
    ];
    for (path, most) in [("/", 2), ("/404", 1), ("/grpc", 1), ("/slow", 2)] {
        for (number, only) in greedy.iter().map(Some).chain([None]).enumerate() {
            let id = format!("{path}-{number}");
            let mut request = request(path, &id);
            for (name, value) in greedy.iter().filter(|header| only.is_none_or(|only| only == *header)) {
                request = with_header(request, name, value);
            }
            let response = scene.client.send(request).await.unwrap();
            let tries = host.seen_with(ID, &id).len();
            assert!((1..=most).contains(&tries), "{path} {only:?}: {tries} tries and {}", response.status);
            assert_eq!(inner_headers(&response), [""; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hosts_send_decides_no_more_than_it_should() {
    let host = Backend::start().await.unwrap();
    let scene = generous(&host, json!(["gateway-error", "unavailable"])).await;
    let mut number = 0;
    let mut tries = async |action: Action| {
        number += 1;
        let id = format!("request-{number}");
        host.always(action);
        let response = scene.client.send(request("/", &id)).await.unwrap();
        (host.seen_with(ID, &id).len(), response)
    };

    for value in nasty() {
        let (made, response) = tries(Action::status(503).header("retry-after", &value)).await;
        assert_eq!(made, 2, "no time to wait is said by {value:?}");
        assert_eq!(response.headers["retry-after"].as_bytes(), value, "passed on as it came");
        let (made, response) = tries(Action::status(503).header("x-envoy-ratelimited", &value)).await;
        assert_eq!(made, 1, "whatever its value, it asks to be left alone: {value:?}");
        assert_eq!(response.headers["x-envoy-ratelimited"].as_bytes(), value, "and the client learns of it");
        let (made, _) = tries(Action::status(503).header("grpc-retry-pushback-ms", &value)).await;
        assert_eq!(made, 1, "a pushback that is no number means never: {value:?}");
        let call = Action::status(200).header("content-type", "application/grpc").header("grpc-status", &value);
        let (made, response) = tries(call).await;
        assert_eq!((made, response.status), (1, 200), "this is not UNAVAILABLE: {value:?}");
        let (made, response) = tries(Action::status(404).header("x-holdfast-retry", &value)).await;
        assert_eq!((made, inner_headers(&response)), (1, Vec::new()), "no host asks for retries: {value:?}");
        let (made, response) = tries(Action::ok().header("x-holdfast-tries", &value)).await;
        assert_eq!((made, inner_headers(&response)), (1, Vec::new()));
        let (made, response) = tries(Action::status(200).header("x-holdfast-retry", &value)).await;
        assert_eq!((made, inner_headers(&response)), (1, Vec::new()));
    }
    let (made, response) = tries(Action::status(503).header("x-envoy-ratelimited", "holdfast")).await;
    assert_eq!((made, inner_headers(&response)), (1, Vec::new()), "nor whose it pretends to be");
    let (made, _) = tries(Action::grpc_trailers_only(14)).await;
    assert_eq!(made, 2);
    for status in [100_000, 4_294_967_310_u64] {
        let call = Action::status(200).header("content-type", "application/grpc");
        let (made, _) = tries(call.header("grpc-status", status.to_string())).await;
        assert_eq!(made, 1, "{status} is not 14 in any number of bits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipv6_host_stands_in_the_trail_in_brackets() {
    let four = Backend::start().await.unwrap();
    let six = Backend::start_on("[::1]:0".parse().unwrap()).await.expect("the machine has an IPv6 loopback");
    let policy = orders(json!({"max_retries": 1, "backoff": quick_backoff(), "budget": exactly(50)}));
    let scene = Scene::with(Scene::of_all(&[&four, &six]).seats(Seats::Both).policy(policy)).await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    let script = fails_once(503);
    four.script(script.clone());
    six.script(script);

    for number in 0..4 {
        let id = format!("request-{number}");
        assert_eq!(scene.client.send(request("/", &id)).await.unwrap().status, 200);
        let entry = scene.wait_for_access_log(3 + number).await.unwrap().pop().unwrap();
        let trail: Vec<_> = attempts(&entry).into_iter().map(|one| (one.host, one.outcome)).collect();
        let first =
            if six.seen_with(ID, &id)[0].at < four.seen_with(ID, &id)[0].at { (&six, &four) } else { (&four, &six) };
        let (failed, served) = (first.0.addr().to_string(), first.1.addr().to_string());
        assert_eq!(trail, [(failed, "failure:503".to_owned()), (served, "success:200".to_owned())]);
        assert!(trail.iter().any(|(host, _)| host.starts_with("[::1]:")), "{trail:?}");
    }
}
