//! Checks of our own: they find a host that no request has found, they bring hosts back without risking a request, and there
//! is one who makes them. And where the hosts are read that are checked.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod outlying;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, Traffic, Update, drive_all,
    eventually, fatal_request,
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use outlying::{
    ADMIN, SETTLED, all_known, all_served, are_out, are_told_nothing, becomes, before, counts_to, listed, metric, ms,
    orders, route, scene_of, start, steered, told_of,
};

const INTERVAL: Duration = Duration::from_millis(400);

const CHECK: &str = "/healthz";

/// Checks that are quick, with this `outlier` around them.
fn checked(outlier: Value) -> Value {
    let mut all = json!({
        "consecutive_failures": 3, "base_ejection_time": "1s", "ejection_jitter": 0, "interval": "60s",
        "heartbeat": {"path": CHECK, "interval": "400ms", "timeout": "300ms"},
    });
    json_patch::merge(&mut all, &outlier);
    all
}

/// Waits until each of these hosts has been checked so many times more.
async fn are_checked(hosts: &[&Backend], times: u64) {
    let checks = || hosts.iter().map(|host| host.requests_to(CHECK)).collect::<Vec<_>>();
    let before = checks();
    eventually(PATIENCE, || async {
        let now = checks();
        let enough = now.iter().zip(&before).all(|(now, before)| *now >= before + times);
        if enough { Ok(()) } else { Err(format!("{before:?} checks before, {now:?} now")) }
    })
    .await
    .unwrap();
}

/// Each host is checked about once an interval, by all workers together.
async fn are_checked_once_an_interval(hosts: &[&Backend]) {
    let before: Vec<u64> = hosts.iter().map(|host| host.requests_to(CHECK)).collect();
    let start = Instant::now();
    are_checked(hosts, 5).await;
    for (host, before) in hosts.iter().zip(before) {
        let (checks, took) = (host.requests_to(CHECK) - before, start.elapsed());
        let most = took.as_millis() as u64 / INTERVAL.as_millis() as u64 + 2;
        assert!(checks <= most, "{checks} checks in {took:?}, {most} at most");
    }
}

/// The host's checks get this answer, other requests are served.
fn check_is(host: &Backend, action: Action) {
    host.script(move |seen| if seen.path == CHECK { action.clone() } else { Action::ok() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_serves_but_fails_its_checks_is_out_until_they_succeed() {
    let hosts: [Backend; 3] = start().await;
    let outlier = listed(checked(json!({"base_ejection_time": "60s"})));
    let (scene, clients) = scene_of(&hosts, 4, orders(outlier)).await;
    let ill = &hosts[1];
    are_checked_once_an_interval(&[&hosts[0], ill, &hosts[2]]).await;
    let check = ill.seen().into_iter().find(|seen| seen.path == CHECK).unwrap();
    assert_eq!((check.method, check.body.len()), (Method::GET, 0));
    let counted = metric(&scene, "orders", "requests").await;
    are_checked(&[ill], 2).await;
    assert_eq!(metric(&scene, "orders", "requests").await, counted, "a check is nobody's request");

    let traffic = Traffic::start(&clients, 4, ms(10), "/");
    check_is(ill, Action::status(503));
    are_out(&scene, "orders", &[ill]).await;
    sleep(SETTLED).await;
    hosts.iter().for_each(Backend::reset_counters);
    traffic.goes_on(100).await.unwrap();
    are_checked(&[&hosts[0], ill, &hosts[2]], 2).await;
    assert_eq!(ill.requests_to("/"), 0, "no request goes there, but checks do");
    assert!(counts_to(&hosts, "/").iter().sum::<u64>() >= 100);
    check_is(ill, Action::status(204));
    becomes(&scene, "orders", "readmitted", 1).await;
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    traffic.goes_on(100).await.unwrap();
    all_served(&traffic.stop().await);
    assert!(ill.requests_to("/") >= 15, "the checks have brought it back");

    let metrics = scene.metrics("orders", "cluster=orders").await;
    assert_eq!((metrics["ejections.heartbeat"], metrics["ejections_detected.heartbeat"]), (1, 1));
    assert_eq!(metrics["probe_failed"], 0, "a check that fails while the host is out is no news");
    let told = told_of(&scene, "orders", ill);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("ejected") && told[0].contains("3 heartbeats failed, last 503; 1 of 3 hosts out"),
        "{told:?}"
    );
    assert!(told[1].starts_with("is back after ") && told[1].ends_with("; 0 of 3 hosts out"), "{told:?}");
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_requests_took_out_comes_back_without_risking_one() {
    let hosts: [Backend; 3] = start().await;
    let (scene, clients) = scene_of(&hosts, 2, orders(listed(checked(json!({}))))).await;
    let bad = &hosts[0];
    bad.always(Action::status(500));
    drive_all(&clients, 2, 40, "/").await;
    are_out(&scene, "orders", &[bad]).await;
    bad.wait_idle().await.unwrap();
    hosts.iter().for_each(Backend::reset_counters);

    let traffic = Traffic::start(&clients, 4, ms(10), "/");
    // Its time is one second.
    sleep(ms(2500)).await;
    assert_eq!(bad.requests_to("/"), 0, "while its checks fail nobody tries it");
    assert!(bad.requests_to(CHECK) >= 3, "they are made: {}", bad.requests_to(CHECK));
    assert_eq!(metric(&scene, "orders", "hosts_ejected").await, 1, "and its time alone does not bring it back");
    bad.always(Action::ok());
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    traffic.goes_on(100).await.unwrap();
    all_served(&traffic.stop().await);

    assert!(bad.requests_to("/") > 0, "it serves again");
    assert_eq!(metric(&scene, "orders", "readmitted").await, 1);
    let log = scene.access_log();
    assert!(log.iter().all(|entry| entry.holdfast_field("probe").is_none()), "no request was a probe");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_good_check_is_the_policy_says() {
    let hosts: [Backend; 2] = start().await;
    let policy = |name: &str, heartbeat: Value| {
        let mut outlier = json!({"max_ejected": 50, "heartbeat": {
            "path": format!("/check-{name}"), "interval": "200ms", "timeout": "150ms", "unhealthy_after": 2,
        }});
        json_patch::merge(&mut outlier["heartbeat"], &heartbeat);
        json!({"name": name, "match": {"path": [format!("/{name}")]}, "outlier": outlier})
    };
    // What the first host does with the check of each.
    let cases = [
        ("status", json!({"status": [204, "400-499"]}), Some(Action::status(200))),
        ("odd", json!({"status": [204, "400-499"]}), Some(Action::status(404))),
        ("slow", json!({}), Some(Action::ok().after(ms(400)))),
        ("reset", json!({}), Some(Action::reset())),
        ("hanging", json!({}), Some(Action::ok().then_hang())),
        ("shadow", json!({"mode": "shadow"}), Some(Action::status(500))),
        ("off", json!({"mode": "off"}), Some(Action::status(500))),
        ("good", json!({}), None),
    ];
    let document = cases.iter().map(|(name, heartbeat, _)| policy(name, heartbeat.clone())).collect::<Vec<_>>();
    let mut options =
        EnvoyOptions::new().seats(Seats::Both).policy(json!({"policies": document})).route(Scene::aside());
    for (name, _, _) in &cases {
        options = options.cluster(steered(name, &hosts)).route(route(&format!("/{name}")));
    }
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    let paths: Vec<String> = cases.iter().map(|(name, _, _)| format!("/{name}")).collect();
    let of_first: Vec<(String, Action)> =
        cases.iter().filter_map(|(name, _, action)| Some((format!("/check-{name}"), action.clone()?))).collect();
    hosts[0].script(move |seen| {
        of_first.iter().find(|(path, _)| *path == seen.path).map_or_else(Action::ok, |(_, action)| action.clone())
    });
    // The other one is good to all of them.
    hosts[1].script(|seen| match seen.path.as_str() {
        "/check-status" | "/check-odd" => Action::status(404),
        _ => Action::ok(),
    });

    for path in &paths {
        all_served(&drive_all(&clients, 4, 8, path.as_str()).await);
    }
    for name in ["status", "slow", "reset", "hanging"] {
        are_out(&scene, &format!("/{name}"), &[&hosts[0]]).await;
        assert_eq!(metric(&scene, name, "ejections.heartbeat").await, 1, "{name}");
    }
    eventually(PATIENCE, || async { metric(&scene, "shadow", "would_eject.heartbeat").await >= 1 }).await.unwrap();
    are_checked_at(&hosts[0], "/check-good", 4).await;
    for name in ["odd", "shadow", "off", "good"] {
        assert_eq!(metric(&scene, name, "hosts_ejected").await, 0, "{name}");
        assert_eq!(metric(&scene, name, "ejections.heartbeat").await, 0, "{name}");
    }
    assert_eq!(hosts[0].requests_to("/check-off"), 0);
}

async fn are_checked_at(host: &Backend, path: &str, times: u64) {
    eventually(PATIENCE, || async { host.requests_to(path) >= times }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_listener_goes_on_with_the_checks() {
    let hosts: [Backend; 2] = start().await;
    let all = [&hosts[0], &hosts[1]];
    let policy = |other: u64| {
        json!({"policies": [
            {"name": "other", "match": {"path": ["/other"]}, "outlier": {"consecutive_failures": other}},
            {"name": "orders", "outlier": checked(json!({}))},
        ]})
    };
    let drain = ms(1000);
    let scene = Scene::with(before(&hosts, 4, policy(1)).dynamic_listeners().drain_time(drain)).await;
    let clients = scene.workers(4).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    are_checked(&all, 2).await;

    for round in 2..=3 {
        assert_eq!(scene.update_policy(policy(round)).await.unwrap(), Update::Accepted);
        let clients = scene.workers(4).await;
        all_served(&drive_all(&clients, 4, 8, "/").await);
        are_checked_once_an_interval(&all).await;
    }
    check_is(&hosts[1], Action::status(500));
    are_out(&scene, "orders", &[&hosts[1]]).await;
    assert_eq!(metric(&scene, "orders", "ejections.heartbeat").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_makes_the_checks_when_a_worker_crashes() {
    let hosts: [Backend; 2] = start().await;
    let all = [&hosts[0], &hosts[1]];
    let scene = Scene::with(before(&hosts, 2, orders(checked(json!({})))).fragile()).await.with_faults();
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    are_checked(&all, 2).await;

    // One of the two makes them, and then the other has to.
    for client in &clients {
        assert_eq!(client.send(fatal_request("/")).await.unwrap().status, 503, "the worker's VM ends");
        are_checked(&all, 2).await;
        eventually(PATIENCE, || async { client.get("/").await.unwrap().status == 200 }).await.expect("it comes back");
    }
    are_checked_once_an_interval(&all).await;
    check_is(&hosts[0], Action::status(500));
    are_out(&scene, "orders", &[&hosts[0]]).await;
}

/// Sends one request, so that there is a key whose hosts can be known.
async fn first_request(scene: &Scene) {
    let client = Client::http1(scene.addr());
    assert_eq!(client.get("/").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_the_policy_names_are_checked_without_any_request() {
    let hosts: [Backend; 4] = start().await;
    let names: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    let scene = Scene::with(before(&hosts, 2, orders(checked(json!({"hosts": names}))))).await;
    check_is(&hosts[2], Action::status(500));

    first_request(&scene).await;

    becomes(&scene, "orders", "hosts", 4).await;
    are_checked(&[&hosts[0], &hosts[1], &hosts[2], &hosts[3]], 1).await;
    are_out(&scene, "orders", &[&hosts[2]]).await;
    assert!(counts_to(&hosts, "/").iter().sum::<u64>() == 1);
    assert_eq!(metric(&scene, "orders", "hosts").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_read_from_envoys_admin_interface() {
    let hosts: [Backend; 3] = start().await;
    let cluster = steered("orders", &hosts[..2]).dynamic_endpoints();
    let options = EnvoyOptions::new().seats(Seats::Both).cluster(cluster).cluster(Cluster::admin(ADMIN));
    let options = options.route(Scene::aside()).route(Route::to("/", "orders"));
    let outlier = listed(checked(json!({})));
    let scene = Scene::with(options.policy(orders(outlier))).await;

    first_request(&scene).await;
    becomes(&scene, "orders", "hosts", 2).await;
    are_checked(&[&hosts[0], &hosts[1]], 1).await;
    assert_eq!(hosts[2].requests(), 0);
    let addrs: Vec<SocketAddr> = hosts.iter().map(Backend::addr).collect();
    scene.set_endpoints("orders", &addrs).await.unwrap();
    becomes(&scene, "orders", "hosts", 3).await;
    are_checked(&[&hosts[2]], 1).await;
    scene.set_endpoints("orders", &addrs[1..]).await.unwrap();
    becomes(&scene, "orders", "hosts", 2).await;
    sleep(SETTLED).await;
    hosts[0].reset_counters();
    are_checked(&[&hosts[1], &hosts[2]], 2).await;
    assert_eq!(hosts[0].requests(), 0, "who has left is not checked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_leaves_while_it_is_out_is_not_brought_back_by_others() {
    let hosts: [Backend; 3] = start().await;
    let cluster = steered("orders", &hosts).dynamic_endpoints();
    let options = EnvoyOptions::new().seats(Seats::Both).cluster(cluster);
    let options = options.route(Scene::aside()).route(Route::to("/", "orders")).policy(orders(checked(json!({}))));
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    check_is(&hosts[0], Action::status(500));
    are_out(&scene, "orders", &[&hosts[0]]).await;

    // Envoy sends what is meant for a host that it does not know to another one.
    scene.set_endpoints("orders", &[hosts[1].addr(), hosts[2].addr()]).await.unwrap();
    hosts.iter().for_each(Backend::reset_counters);
    becomes(&scene, "orders", "hosts", 2).await;
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    let checks = counts_to(&hosts, CHECK);
    are_checked_once_an_interval(&[&hosts[1], &hosts[2]]).await;

    assert_eq!(hosts[0].requests(), 0);
    assert!(checks[1] + checks[2] <= 12, "no host gets another one's checks: {checks:?}");
    assert_eq!(metric(&scene, "orders", "readmitted").await, 0, "it is forgotten, which is not to be back");
    all_served(&drive_all(&clients, 2, 40, "/").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_read_from_an_endpoint_of_ones_own() {
    let (hosts, registry): ([Backend; 3], [Backend; 1]) = (start().await, start().await);
    let registry = &registry[0];
    let lists = |listed: Value| {
        let page = json!({"clusters": {"carts": ["127.0.0.1:1"], "orders": listed}}).to_string();
        registry.always(Action::ok().header("content-type", "application/json").body(page));
    };
    let addr = |number: usize| hosts[number].addr().to_string();
    let mut outlier = checked(json!({}));
    outlier["discover"] = json!({"cluster": "registry", "path": "/hosts?of=all", "interval": "100ms"});
    let options = before(&hosts, 2, orders(outlier));
    let options = options.cluster(Cluster::new("registry").endpoint(registry.addr()).without_attempt_seat());
    let scene = Scene::with(options).await;
    lists(json!([addr(0), addr(1)]));

    first_request(&scene).await;
    eventually(PATIENCE, || async { metric(&scene, "orders", "hosts").await >= 2 }).await.unwrap();
    assert!(registry.requests_to("/hosts?of=all") > 0);
    assert_eq!(registry.requests(), registry.requests_to("/hosts?of=all"));
    lists(json!([addr(0), addr(1), addr(2)]));
    becomes(&scene, "orders", "hosts", 3).await;

    // What is no list, or comes with no good status, changes nothing.
    let nonsense = [
        Action::status(500).body(json!({"clusters": {"orders": []}}).to_string()),
        Action::ok().body("not JSON"),
        Action::ok().body(json!({"clusters": {"orders": "127.0.0.1:1"}}).to_string()),
        Action::ok().body(json!({"orders": ["127.0.0.1:1"]}).to_string()),
        Action::ok().body(vec![b'['; 100_000]),
        Action::reset(),
        Action::hang(),
    ];
    for action in nonsense {
        registry.always(action.clone());
        let before = registry.requests();
        eventually(PATIENCE, || async { registry.requests() >= before + 2 })
            .await
            .expect("it is asked again and again");
        assert_eq!(metric(&scene, "orders", "hosts").await, 3, "{action:?}");
    }
    lists(json!([addr(2)]));
    becomes(&scene, "orders", "hosts", 1).await;
    becomes(&scene, "orders", "hosts_ejected", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_ask_the_listing_as_one() {
    let (hosts, registry): ([Backend; 1], [Backend; 1]) = (start().await, start().await);
    let page = json!({"clusters": {"orders": [hosts[0].addr().to_string()]}}).to_string();
    registry[0].always(Action::ok().body(page));
    let mut outlier = json!({});
    outlier["discover"] = json!({"cluster": "registry", "path": "/hosts", "interval": "400ms"});
    let options = before(&hosts, 4, orders(outlier));
    let options = options.cluster(Cluster::new("registry").endpoint(registry[0].addr()).without_attempt_seat());
    let scene = Scene::with(options).await;
    let clients = scene.workers(4).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;

    registry[0].reset_counters();
    let start = Instant::now();
    eventually(PATIENCE, || async { registry[0].requests() >= 5 }).await.unwrap();
    let (asked, took) = (registry[0].requests(), start.elapsed());
    let most = took.as_millis() as u64 / INTERVAL.as_millis() as u64 + 2;
    assert!(asked <= most, "asked {asked} times in {took:?}, {most} at most");
}
