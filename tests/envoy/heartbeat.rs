//! Checks of our own: they find a host that no request has found, they bring hosts back without risking a request, and there
//! is one who makes them. And where the hosts are read that are checked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, Traffic, Update, drive_all,
    eventually, fatal_request,
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    ADMIN, SETTLED, Story, all_known, all_served, are_out, are_told_nothing, becomes, before, counts_to, listed,
    logged, metric, metric_now, ms, orders, route, stage, start, steered, told_of,
};

const INTERVAL: Duration = Duration::from_millis(800);

const CHECK: &str = "/healthz";

/// Checks that are quick, with this `outlier` around them.
fn checked(outlier: Value) -> Value {
    let mut all = json!({
        "consecutive_failures": 3, "base_ejection_time": "1s", "ejection_jitter": 0, "interval": "60s",
        // Time enough for a host that is well, however busy the machine is.
        "heartbeat": {"path": CHECK, "interval": "800ms", "timeout": "750ms"},
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
async fn checks_take_hosts_out_and_bring_them_back() {
    let ill = Story::of::<3>("/ill", listed(checked(json!({"base_ejection_time": "60s"})))).await;
    let bad = Story::of::<3>("/bad", listed(checked(json!({})))).await;
    let of = async |name: &'static str, heartbeat: Value| {
        let mut outlier = json!({"heartbeat": {
            "path": CHECK, "interval": "600ms", "timeout": "550ms", "unhealthy_after": 2,
        }});
        json_patch::merge(&mut outlier["heartbeat"], &heartbeat);
        Story::of::<2>(name, outlier).await
    };
    // What the first host answers to each.
    let out = [
        (of("/status", json!({"status": [204, "400-499"]})).await, Action::status(200)),
        (of("/slow", json!({})).await, Action::ok().after(ms(1000))),
        (of("/reset", json!({})).await, Action::reset()),
        (of("/hanging", json!({})).await, Action::ok().then_hang()),
    ];
    let in_all_the_same = [
        (of("/odd", json!({"status": [204, "400-499"]})).await, Action::status(404)),
        (of("/shadow", json!({"mode": "shadow"})).await, Action::status(500)),
        (of("/off", json!({"mode": "off"})).await, Action::status(500)),
    ];
    for (Story { name, hosts, .. }, action) in out.iter().chain(&in_all_the_same) {
        check_is(&hosts[0], action.clone());
        // The other one is good to all of them.
        check_is(&hosts[1], Action::status(if matches!(*name, "/status" | "/odd") { 404 } else { 200 }));
    }
    let others = out.iter().chain(&in_all_the_same).map(|(story, _)| story);
    let stories: Vec<&Story> = [&ill, &bad].into_iter().chain(others).collect();
    let (scene, clients) = stage(4, &stories).await;

    tokio::join!(
        one_that_serves_but_fails_its_checks_is_out(&scene, &clients, &ill),
        one_that_requests_took_out_comes_back_without_risking_one(&scene, &clients, &bad),
        what_a_good_check_is_the_policy_says(&scene, &out, &in_all_the_same),
    );
}

async fn one_that_serves_but_fails_its_checks_is_out(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    let ill = &hosts[1];
    are_checked_once_an_interval(&[&hosts[0], ill, &hosts[2]]).await;
    let check = ill.seen().into_iter().find(|seen| seen.path == CHECK).unwrap();
    assert_eq!((check.method, check.body.len()), (Method::GET, 0));
    let counted = metric(scene, name, "requests").await;
    are_checked(&[ill], 2).await;
    assert_eq!(metric(scene, name, "requests").await, counted, "a check is nobody's request");

    let traffic = Traffic::start(clients, 4, ms(20), *name);
    check_is(ill, Action::status(503));
    are_out(scene, name, &[ill]).await;
    sleep(SETTLED).await;
    hosts.iter().for_each(Backend::reset_counters);
    traffic.goes_on(100).await.unwrap();
    are_checked(&[&hosts[0], ill, &hosts[2]], 2).await;
    assert_eq!(ill.requests_to(name), 0, "no request goes there, but checks do");
    check_is(ill, Action::status(204));
    becomes(scene, name, "readmitted", 1).await;
    becomes(scene, name, "hosts_ejected", 0).await;
    traffic.goes_on(100).await.unwrap();
    all_served(&traffic.stop().await);
    assert!(ill.requests_to(name) >= 15, "the checks have brought it back");

    assert_eq!(metric(scene, name, "ejections.heartbeat").await, 1);
    assert_eq!(metric(scene, name, "ejections_detected.heartbeat").await, 1);
    assert_eq!(metric(scene, name, "probe_failed").await, 0, "a check that fails while the host is out is no news");
    let told = told_of(scene, name, ill);
    assert_eq!(told.len(), 2, "{told:?}");
    let out =
        told[0].starts_with("ejected until ") && told[0].ends_with(": 3 heartbeats failed, last 503; 1 of 3 hosts out");
    assert!(out, "{told:?}");
    assert!(told[1].starts_with("is back after ") && told[1].ends_with("; 0 of 3 hosts out"), "{told:?}");
    are_told_nothing(hosts);
}

async fn one_that_requests_took_out_comes_back_without_risking_one(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    let bad = &hosts[0];
    bad.always(Action::status(500));
    drive_all(clients, 4, 40, *name).await;
    becomes(scene, name, "hosts_ejected", 1).await;
    bad.wait_idle().await.unwrap();
    sleep(SETTLED).await;
    hosts.iter().for_each(Backend::reset_counters);

    let traffic = Traffic::start(clients, 4, ms(20), *name);
    // Its time is one second.
    sleep(ms(3200)).await;
    assert_eq!(bad.requests_to(name), 0, "while its checks fail nobody tries it");
    assert!(bad.requests_to(CHECK) >= 2, "they are made: {}", bad.requests_to(CHECK));
    assert_eq!(metric(scene, name, "hosts_ejected").await, 1, "and its time alone does not bring it back");
    bad.always(Action::ok());
    becomes(scene, name, "hosts_ejected", 0).await;
    traffic.goes_on(100).await.unwrap();
    let records = traffic.stop().await;
    all_served(&records);

    assert!(bad.requests_to(name) > 0, "it serves again");
    assert_eq!(metric(scene, name, "readmitted").await, 1);
    let log = logged(scene, name, records.0.len()).await;
    assert!(log.iter().all(|entry| entry.holdfast_field("probe").is_none()), "no request was a probe");
}

async fn what_a_good_check_is_the_policy_says(
    scene: &Scene,
    out: &[(Story, Action)],
    in_all_the_same: &[(Story, Action)],
) {
    for (Story { name, hosts, .. }, _) in out {
        are_out(scene, name, &[&hosts[0]]).await;
        assert_eq!(metric(scene, name, "ejections.heartbeat").await, 1, "{name}");
    }
    eventually(PATIENCE, || async { metric_now(scene, "/shadow", "would_eject.heartbeat").await >= 1 }).await.unwrap();
    for (Story { name, hosts, .. }, _) in in_all_the_same {
        if *name == "/off" {
            assert_eq!(hosts[0].requests_to(CHECK), 0);
        } else {
            are_checked(&[&hosts[0]], 4).await;
        }
        assert_eq!(metric(scene, name, "hosts_ejected").await, 0, "{name}");
        assert_eq!(metric(scene, name, "ejections.heartbeat").await, 0, "{name}");
    }
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

    assert_eq!(scene.update_policy(policy(2)).await.unwrap(), Update::Accepted);
    let clients = scene.workers(4).await;
    all_served(&drive_all(&clients, 4, 8, "/").await);
    are_checked_once_an_interval(&all).await;
    // When the listener before it has gone as well.
    sleep(ms(1500)).await;
    are_checked_once_an_interval(&all).await;
    check_is(&hosts[1], Action::status(500));
    are_out(&scene, "orders", &[&hosts[1]]).await;
    assert_eq!(metric(&scene, "orders", "ejections.heartbeat").await, 1);
}

/// While a listener drains, a VM has the root contexts of the old policy and of the new one, and both make checks: each answer
/// comes to the one that asked, and no request is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_under_load_lose_no_request_and_mix_up_no_checks() {
    let hosts: [Backend; 2] = start().await;
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    // Only the checks of the second policy find a host ill, and a policy of another content has checks of its own.
    let policy = |name: &str, content: u64| {
        let heartbeat = json!({"path": format!("/{name}"), "interval": "200ms", "timeout": "190ms"});
        let outlier =
            json!({"hosts": addrs, "max_ejection_time": format!("{}s", 300 + content), "heartbeat": heartbeat});
        json!({"policies": [{"name": name, "match": {"cluster": ["orders"]}, "outlier": checked(outlier)}]})
    };
    let serve = |host: &Backend, check: Action| {
        host.script(move |seen| if seen.path == "/ill" { check.clone() } else { Action::ok() });
    };
    serve(&hosts[0], Action::ok());
    serve(&hosts[1], Action::status(500));
    // On a busy machine a part of it is over when the update is known to be accepted.
    let drain = ms(4000);
    let scene = Scene::with(before(&hosts, 2, policy("well", 0)).dynamic_listeners().drain_time(drain)).await;
    let clients = scene.workers(2).await;
    let traffic = Traffic::start(&clients, 8, ms(2), "/");
    traffic.goes_on(50).await.unwrap();

    for content in 1..=6 {
        let (new, old) = if content % 2 == 1 { ("ill", "well") } else { ("well", "ill") };
        assert_eq!(scene.update_policy(policy(new, content)).await.unwrap(), Update::Accepted);
        // The connections from before keep the old policy until the listener has drained.
        let checks = || [new, old].map(|name| hosts[0].requests_to(&format!("/{name}")));
        let before = checks();
        sleep(ms(1500)).await;
        let made: Vec<u64> = checks().iter().zip(before).map(|(now, before)| now - before).collect();
        assert!(made.iter().all(|made| *made >= 3), "update {content}: both check meanwhile: {made:?}");
        traffic.goes_on(100).await.unwrap();
        sleep(drain).await;
    }

    let records = traffic.stop().await;
    println!("{} requests over six updates", records.0.len());
    all_served(&records);
    let ejections = async |name: &str| scene.metric_of(name, "cluster=orders", "ejections.heartbeat").await;
    assert_eq!(ejections("well").await, 0, "no answer to another policy's check is taken for its own");
    assert_eq!(ejections("ill").await, 1, "the first of the three finds it, and the others begin with it out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_makes_the_checks_when_a_worker_crashes() {
    let hosts: [Backend; 2] = start().await;
    let all = [&hosts[0], &hosts[1]];
    let scene = Scene::with(before(&hosts, 2, orders(checked(json!({})))).fragile()).await.with_faults();
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    are_checked(&all, 2).await;

    // Whoever makes them is one of these. A request brings a VM back, which knows nothing of the checks before it.
    for client in &clients {
        assert_eq!(client.send(fatal_request("/")).await.unwrap().status, 503, "the worker's VM ends");
    }
    for client in &clients {
        eventually(PATIENCE, || async { client.get("/").await.unwrap().status == 200 }).await.expect("it comes back");
    }
    are_checked(&all, 2).await;
    are_checked_once_an_interval(&all).await;
    check_is(&hosts[0], Action::status(500));
    are_out(&scene, "orders", &[&hosts[0]]).await;
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

/// Three ways to say which hosts there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_known_from_listings() {
    let (named, read, listed_by_us): ([Backend; 4], [Backend; 3], [Backend; 3]) =
        (start().await, start().await, start().await);
    let [registry] = start().await;
    let names: Vec<String> = named.iter().map(|host| host.addr().to_string()).collect();
    let mut ours = checked(json!({}));
    ours["discover"] = json!({"cluster": "registry", "path": "/hosts?of=all", "interval": "200ms"});
    let policy = |name: &str, outlier: Value| json!({"name": name, "match": {"cluster": [name]}, "outlier": outlier});
    let document = json!({"policies": [
        policy("named", checked(json!({"hosts": names}))),
        policy("read", listed(checked(json!({})))),
        policy("registered", ours),
    ]});
    let options = EnvoyOptions::new().concurrency(4).seats(Seats::Both).route(Scene::aside()).policy(document);
    let options = options
        .cluster(Cluster::admin(ADMIN))
        .cluster(Cluster::new("registry").endpoint(registry.addr()).without_attempt_seat())
        .cluster(steered("named", &named))
        .cluster(steered("read", &read[..2]).dynamic_endpoints())
        .cluster(steered("registered", &listed_by_us));
    let options = options.route(route("/named")).route(route("/read")).route(route("/registered"));
    let scene = Scene::with(options).await;
    let clients = scene.workers(4).await;

    tokio::join!(
        named_ones_are_checked_without_any_request(&scene, &clients[0], &named),
        they_are_read_from_envoys_admin_interface(&scene, &clients[0], &read),
        they_are_read_from_an_endpoint_of_ones_own(&scene, &clients, &registry, &listed_by_us),
    );
}

/// As the policy is for this cluster alone, nobody has to send a request first.
async fn named_ones_are_checked_without_any_request(scene: &Scene, client: &Client, hosts: &[Backend]) {
    check_is(&hosts[2], Action::status(500));

    are_checked(&[&hosts[0], &hosts[1], &hosts[2], &hosts[3]], 1).await;
    are_out(scene, "named", &[&hosts[2]]).await;
    assert_eq!(counts_to(hosts, "/named").iter().sum::<u64>(), 0);
    assert_eq!(metric(scene, "named", "hosts").await, 4);
    all_served(&client.drive(1, 12, "/named").await);
    assert_eq!(hosts[2].requests_to("/named"), 0, "and the first request knows");
}

async fn they_are_read_from_envoys_admin_interface(scene: &Scene, client: &Client, hosts: &[Backend]) {
    assert_eq!(client.get("/read").await.unwrap().status, 200);
    becomes(scene, "read", "hosts", 2).await;
    are_checked(&[&hosts[0], &hosts[1]], 1).await;
    assert_eq!(hosts[2].requests(), 0);

    let addrs: Vec<SocketAddr> = hosts.iter().map(Backend::addr).collect();
    scene.set_endpoints("read", &addrs).await.unwrap();
    becomes(scene, "read", "hosts", 3).await;
    are_checked(&[&hosts[2]], 1).await;
    scene.set_endpoints("read", &addrs[1..]).await.unwrap();
    becomes(scene, "read", "hosts", 2).await;
    sleep(SETTLED).await;
    hosts[0].reset_counters();
    are_checked(&[&hosts[1], &hosts[2]], 2).await;
    assert_eq!(hosts[0].requests(), 0, "who has left is not checked");
}

async fn they_are_read_from_an_endpoint_of_ones_own(
    scene: &Scene,
    clients: &[Client],
    registry: &Backend,
    hosts: &[Backend],
) {
    let lists = |listed: Value| {
        let page = json!({"clusters": {"carts": ["127.0.0.1:1"], "registered": listed}}).to_string();
        registry.always(Action::ok().header("content-type", "application/json").body(page));
    };
    let addr = |number: usize| hosts[number].addr().to_string();
    let is_asked = async |times: u64| {
        let before = registry.requests();
        eventually(PATIENCE, || async { registry.requests() >= before + times }).await.expect("it is asked again");
    };
    lists(json!([addr(0), addr(1)]));
    all_served(&drive_all(clients, 4, 4, "/registered").await);
    eventually(PATIENCE, || async { metric_now(scene, "registered", "hosts").await >= 2 }).await.unwrap();
    lists(json!([addr(0), addr(1), addr(2)]));
    becomes(scene, "registered", "hosts", 3).await;

    // Four workers ask as one.
    let (before, start) = (registry.requests(), Instant::now());
    is_asked(5).await;
    let (asked, most) = (registry.requests() - before, start.elapsed().as_millis() as u64 / 200 + 2);
    assert!(asked <= most, "asked {asked} times in {:?}, {most} at most", start.elapsed());
    assert_eq!(registry.requests(), registry.requests_to("/hosts?of=all"));

    // What is no list, or comes with no good status, changes nothing.
    let nonsense = [
        Action::status(500).body(json!({"clusters": {"registered": []}}).to_string()),
        Action::ok().body("not JSON"),
        Action::ok().body(json!({"clusters": {"registered": "127.0.0.1:1"}}).to_string()),
        Action::ok().body(json!({"registered": ["127.0.0.1:1"]}).to_string()),
        Action::ok().body(vec![b'['; 100_000]),
        Action::reset(),
    ];
    for action in nonsense {
        registry.always(action.clone());
        is_asked(2).await;
        assert_eq!(metric(scene, "registered", "hosts").await, 3, "{action:?}");
    }
    lists(json!([addr(2)]));
    becomes(scene, "registered", "hosts", 1).await;
    becomes(scene, "registered", "hosts_ejected", 0).await;
}

/// What Envoy refuses at once it does not answer as well: that would be an answer that nobody has asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_that_envoy_refuses_at_once_harm_nobody() {
    let hosts: [Backend; 3] = start().await;
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    let one = json!({"max_connections": 1, "max_pending_requests": 1, "max_requests": 1});
    let policy = |name: &str| {
        let heartbeat = json!({"path": CHECK, "interval": "100ms", "timeout": "90ms"});
        let outlier = checked(json!({"hosts": addrs, "heartbeat": heartbeat}));
        json!({"name": name, "match": {"cluster": [name]}, "outlier": outlier})
    };
    let full = steered("full", &hosts).raw(json!({"circuit_breakers": {"thresholds": [one]}}));
    let options = EnvoyOptions::new().seats(Seats::Both).cluster(Cluster::new("empty").steered()).cluster(full);
    let options = options.route(Scene::aside()).route(route("/full"));
    hosts.iter().for_each(|host| check_is(host, Action::hang()));
    let scene = Scene::with(options.policy(json!({"policies": [policy("empty"), policy("full")]}))).await;

    scene.wait_for_stat("cluster.empty.upstream_cx_none_healthy", |refused| refused >= 20).await.unwrap();
    scene.wait_for_stat("cluster.full.upstream_rq_503", |refused| refused >= 20).await.unwrap();
    // And no callback has failed: see the end of `Scene`.
}
