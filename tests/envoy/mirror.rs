//! Mirrors (`request_mirror_policies`): what the hosts of a mirror see of Holdfast, and that what they answer is nothing to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, HOSTS, PATIENCE, Route, Scene, Seats, SeenRequest, drive_all,
    eventually, with_header,
};
use http::Request;
use serde_json::{Value, json};

use crate::outlying::{ADMIN, all_known, all_served, are_out, listed, start, steered};

/// Each request bears its own value.
const KEY: &str = "x-key";

/// Requests of each kind.
const REQUESTS: u64 = 30;

/// How a mirror's cluster is kept from seeing the header.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    /// Not at all.
    Nothing,
    /// By an attempt seat in the cluster.
    Seat,
    /// By the attempt seats of the listener's router.
    SeatInRouter,
    /// By Envoy, as the route says.
    Route,
}

/// The route's mirror.
fn mirrored(kept: Kept) -> Value {
    let mut policy = json!({"cluster": "mirror"});
    if kept == Kept::Route {
        policy["request_headers_mutations"] = json!([{"remove": HOSTS}]);
    }
    json!({"route": {"request_mirror_policies": [policy]}})
}

/// `orders`, with a mirror of one host. A document makes it Holdfast's.
fn options(hosts: &[Backend], mirror: &Backend, kept: Kept, document: Option<Value>) -> EnvoyOptions {
    let mut copies = Cluster::new("mirror").endpoint(mirror.addr());
    if kept == Kept::Nothing || kept == Kept::Route {
        copies = copies.without_attempt_seat();
    }
    let seats = match (&document, kept) {
        (None, _) => Seats::Request,
        (_, Kept::SeatInRouter) => Seats::BothInRouter,
        _ => Seats::Both,
    };
    let options = EnvoyOptions::new()
        .seats(seats)
        .cluster(steered("orders", hosts))
        .cluster(copies)
        .cluster(Cluster::admin(ADMIN))
        .route(Scene::aside())
        .route(Route::to("/", "orders").raw(mirrored(kept)));
    match document {
        Some(document) => options.policy(document),
        None => options,
    }
}

/// A policy `orders` that has something to say in every header that there is for it, but for time-outs.
fn busy(more: Value) -> Value {
    let mut policy = json!({
        "name": "orders", "breaker": {"min_requests": 10, "failure_rate": 50},
        "retry": {"on": ["5xx", "reset", "unavailable"], "max_retries": 3, "backoff": {"base": "1ms"}},
        "outlier": listed(json!({})),
    });
    json_patch::merge(&mut policy, &more);
    json!({"policies": [policy]})
}

/// Every other one has a body, and may be repeated.
fn asks(number: u64) -> Request<Bytes> {
    let request =
        if number.is_multiple_of(2) { Client::request("/items") } else { Client::post_request("/items", "an order") };
    with_header(with_header(request, KEY, number.to_string()), "idempotency-key", number.to_string())
}

/// Sends requests, and waits for the copy of each.
async fn copies(client: &Client, mirror: &Backend) -> BTreeMap<u64, SeenRequest> {
    mirror.reset_counters();
    let client = client.clone().authority("shop.example");
    for number in 0..REQUESTS {
        assert_eq!(client.send(asks(number)).await.unwrap().status, 200);
    }
    eventually(PATIENCE, || async {
        let all: BTreeMap<u64, SeenRequest> =
            mirror.seen().into_iter().filter_map(|seen| Some((seen.header(KEY)?.parse().ok()?, seen))).collect();
        if all.len() as u64 == REQUESTS { Ok(all) } else { Err(format!("{} copies", all.len())) }
    })
    .await
    .unwrap()
}

/// What a host sees but for what differs from one request to the next.
fn headers(seen: &SeenRequest) -> Vec<(String, Vec<u8>)> {
    let named = seen.headers.iter().filter(|(name, _)| name.as_str() != "x-request-id");
    let mut all: Vec<_> = named.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    all.sort();
    all
}

/// Holdfast before `orders`, the first host of which is out.
async fn with_a_host_out(hosts: &[Backend], mirror: &Backend, kept: Kept, more: Value) -> (Scene, Vec<Client>) {
    let scene = Scene::with(options(hosts, mirror, kept, Some(busy(more)))).await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], hosts).await;
    hosts[0].always(Action::status(503));
    all_served(&drive_all(&clients, 2, 60, "/").await);
    are_out(&scene, "orders", &[&hosts[0]]).await;
    (scene, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_sees_what_it_would_see_without_holdfast() {
    let (hosts, [mirror]): ([Backend; 3], [Backend; 1]) = (start().await, start().await);
    let plain = Scene::with(options(&hosts, &mirror, Kept::Nothing, None)).await;
    let without = copies(&plain.client, &mirror).await;
    drop(plain);

    for kept in [Kept::Seat, Kept::SeatInRouter, Kept::Route, Kept::Nothing] {
        let (scene, clients) = with_a_host_out(&hosts, &mirror, kept, json!({})).await;
        // Never so often in a row that it is ejected too.
        hosts[1].every(2, Action::status(503));
        let with = copies(&clients[0], &mirror).await;
        assert_eq!(mirror.requests(), REQUESTS, "{kept:?}: a retry has no copy");
        assert!(scene.metric("retries").await > 0, "{kept:?}");
        for (number, seen) in &with {
            let named = seen.header(HOSTS);
            assert_eq!(named.is_some(), kept == Kept::Nothing, "{kept:?}: the hosts' addresses: {named:?}");
            let mut headers_with = headers(seen);
            headers_with.retain(|(name, _)| name != HOSTS);
            assert_eq!(headers_with, headers(&without[number]), "{kept:?}");
            assert_eq!(seen.body, without[number].body, "{kept:?}");
        }
        hosts.iter().for_each(|host| host.always(Action::ok()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_outs_of_the_policy_add_no_header_to_a_copy() {
    let (hosts, [mirror]): ([Backend; 3], [Backend; 1]) = (start().await, start().await);
    let plain = Scene::with(options(&hosts, &mirror, Kept::Nothing, None)).await;
    let without = copies(&plain.client, &mirror).await;
    drop(plain);

    let times = json!({"retry": {"timeout": "9s", "per_try_timeout": "3s", "hedge_on_per_try_timeout": true}});
    let (_scene, clients) = with_a_host_out(&hosts, &mirror, Kept::Seat, times).await;
    let names = |seen: &SeenRequest| headers(seen).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    for (number, seen) in copies(&clients[0], &mirror).await {
        // Envoy tells a host how long it will wait. The policy's time-outs have changed that.
        assert_eq!(names(&seen), names(&without[&number]));
    }
}

/// What Holdfast has counted of `orders`.
async fn counted(scene: &Scene) -> Value {
    scene.counted(&["requests", "success", "failure", "ignored", "retries", "hosts_ejected", "breaker_state"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mirror_answers_opens_nothing_ejects_nothing_and_is_waited_for_by_nobody() {
    for kept in [Kept::Seat, Kept::SeatInRouter] {
        let (hosts, [mirror]): ([Backend; 3], [Backend; 1]) = (start().await, start().await);
        let concurrency = json!({"concurrency": {"max_requests": 8}});
        let scene = Scene::with(options(&hosts, &mirror, kept, Some(busy(concurrency)))).await;
        let clients = scene.workers(2).await;
        all_known(&scene, &clients, &["orders"], &hosts).await;
        let before = scene.metrics("orders", "cluster=orders").await;

        for (action, is_held) in [
            (Action::status(503).header("retry-after", "3600"), false),
            (Action::reset(), false),
            (Action::grpc_trailers_only(14), false),
            (Action::hang(), true),
        ] {
            mirror.reset_counters();
            mirror.always(action.clone());
            all_served(&drive_all(&clients[..1], 1, REQUESTS as usize, "/").await);
            if is_held {
                mirror.wait_in_flight(REQUESTS).await.expect("all are answered while the mirror answers none");
            }
            eventually(PATIENCE, || async {
                let copies = mirror.requests();
                if copies == REQUESTS { Ok(()) } else { Err(format!("{copies} copies after {action:?}")) }
            })
            .await
            .unwrap();
        }

        let sent = 4 * REQUESTS;
        let after = scene.metrics("orders", "cluster=orders").await;
        let more = |name: &str| {
            let of = |metrics: &BTreeMap<String, u64>| metrics.get(name).copied().unwrap_or_default();
            of(&after) - of(&before)
        };
        assert_eq!((more("requests"), more("success")), (sent, sent), "{kept:?}: {}", counted(&scene).await);
        for name in ["failure", "ignored", "retries", "rejected.concurrency", "outlier.consecutive_failures"] {
            assert_eq!(more(name), 0, "{kept:?}: {name}");
        }
        assert_eq!((after["hosts"], after["hosts_ejected"], after["breaker_state"]), (3, 0, 0), "{kept:?}");
        let of_the_mirror = |name: &String| name.starts_with("wasmcustom.holdfast") && name.contains("mirror");
        let series: Vec<String> = scene.stats().await.unwrap().into_keys().filter(of_the_mirror).collect();
        assert_eq!(series, Vec::<String>::new(), "{kept:?}: nothing is counted of the mirror");
        assert_eq!(scene.transitions("orders"), Vec::<String>::new(), "{kept:?}");
    }
}

/// Copies come to a cluster that has hosts to judge of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_come_to_a_governed_cluster_are_not_judged_there() {
    let (hosts, [other]): ([Backend; 3], [Backend; 1]) = (start().await, start().await);
    let mirrors = json!({"route": {"request_mirror_policies": [{"cluster": "orders"}]}});
    let mut document = busy(json!({"match": {"cluster": ["orders"]}}));
    document["policies"].as_array_mut().unwrap().push(json!({"name": "other", "retry": {}}));
    let scene = Scene::with(
        EnvoyOptions::new()
            .seats(Seats::Both)
            .cluster(steered("orders", &hosts))
            .cluster(Cluster::new("other").endpoint(other.addr()))
            .cluster(Cluster::admin(ADMIN))
            .route(Scene::aside())
            .route(Route::to("/other", "other").raw(mirrors))
            .route(Route::to("/", "orders"))
            .policy(document),
    )
    .await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    for host in &hosts {
        host.script(|seen| if seen.path == "/other" { Action::status(503) } else { Action::ok() });
    }

    all_served(&drive_all(&clients, 2, 90, "/other").await);
    let copies = || async {
        let copies: u64 = hosts.iter().map(|host| host.requests_to("/other")).sum();
        if copies == 90 { Ok(()) } else { Err(format!("{copies} copies")) }
    };
    eventually(PATIENCE, copies).await.expect("each copy arrives once");
    all_served(&drive_all(&clients, 2, 30, "/").await);

    let counted = counted(&scene).await;
    assert_eq!(
        (&counted["failure"], &counted["hosts_ejected"], &counted["breaker_state"]),
        (&json!(0), &json!(0), &json!(0)),
        "{counted}"
    );
    assert_eq!(scene.transitions("orders"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_holdfast_answers_itself_has_no_copy() {
    let (hosts, [mirror]): ([Backend; 3], [Backend; 1]) = (start().await, start().await);
    let document = json!({"policies": [{"name": "orders", "breaker": {"state": "forced_open"}}]});
    let scene = Scene::with(options(&hosts, &mirror, Kept::Seat, Some(document))).await;

    assert_eq!(scene.client.burst(10, "/").await.count(503), 10);

    scene.wait_for_access_log(10).await.unwrap();
    assert_eq!(mirror.requests(), 0);
}
