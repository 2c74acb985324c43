//! What each detector finds and what it leaves alone, and what is never held against a host.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod outlying;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use holdfast_tests::{Action, Backend, Client, EnvoyOptions, Route, Scene, Seats, Traffic, drive_all};
use regex::Regex;
use serde_json::{Value, json};
use tokio::time::sleep;

use outlying::{
    SETTLED, all_known, are_out, are_told_nothing, becomes, counts_to, failing, metric, ms, route, start, steered,
    told, told_of,
};

/// Both seats, and for each of these names a policy with this `outlier`, a path and a steered cluster of the same hosts.
async fn scene_of(hosts: &[Backend], policies: &[(&'static str, Value)]) -> (Scene, Vec<Client>) {
    scene_with(hosts, policies, |options| options).await
}

async fn scene_with(
    hosts: &[Backend],
    policies: &[(&'static str, Value)],
    change: impl FnOnce(EnvoyOptions) -> EnvoyOptions,
) -> (Scene, Vec<Client>) {
    let written: Vec<Value> = policies
        .iter()
        .map(|(name, outlier)| json!({"name": name[1..], "match": {"path": [name]}, "outlier": outlier}))
        .collect();
    let mut options = EnvoyOptions::new().seats(Seats::Both).policy(json!({"policies": written})).route(Scene::aside());
    for (name, _) in policies {
        options = options.cluster(steered(&name[1..], hosts)).route(route(name));
    }
    let scene = Scene::with(change(options)).await;
    let clients = scene.workers(2).await;
    let names: Vec<&str> = policies.iter().map(|(name, _)| *name).collect();
    all_known(&scene, &clients, &names, hosts).await;
    (scene, clients)
}

/// Sends requests one after the other, and expects this status of each.
async fn send(client: &Client, path: &str, times: usize, status: u16) {
    for _ in 0..times {
        assert_eq!(client.get(path).await.unwrap().status, status, "{path}");
    }
    sleep(SETTLED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_in_a_row_are_counted_by_their_kind() {
    let hosts: [Backend; 1] = start().await;
    let host = &hosts[0];
    let only = |which: &str| {
        let mut outlier = json!({"consecutive_failures": 0, "interval": "60s"});
        outlier[which] = json!(3);
        outlier
    };
    let (scene, clients) = scene_of(
        &hosts,
        &[
            ("/any", only("consecutive_failures")),
            ("/gateway", only("consecutive_gateway_failures")),
            ("/local", only("consecutive_local_failures")),
        ],
    )
    .await;
    let out = async |name: &str| metric(&scene, name, "hosts_ejected").await;

    host.always(Action::status(500));
    send(&clients[0], "/gateway", 6, 500).await;
    send(&clients[0], "/local", 6, 500).await;
    assert_eq!((out("/gateway").await, out("/local").await), (0, 0), "a 500 is no gateway's failure, and an answer");
    for status in [502, 503, 504] {
        host.always(Action::status(status));
        send(&clients[0], "/local", 2, status).await;
    }
    assert_eq!(out("/local").await, 0, "whatever a host answers, it answers");

    for (status, client) in [(502, 0), (503, 1), (504, 0)] {
        host.always(Action::status(status));
        send(&clients[client], "/gateway", 1, status).await;
    }
    becomes(&scene, "/gateway", "ejections.consecutive_gateway_failures", 1).await;
    host.always(Action::reset());
    send(&clients[1], "/local", 2, 503).await;
    assert_eq!(out("/local").await, 0, "two are not three");
    send(&clients[0], "/local", 1, 503).await;
    becomes(&scene, "/local", "ejections.consecutive_local_failures", 1).await;
    for (status, client) in [(500, 0), (503, 1), (599, 1)] {
        host.always(Action::status(status));
        send(&clients[client], "/any", 1, status).await;
    }
    becomes(&scene, "/any", "ejections.consecutive_failures", 1).await;

    for (name, why) in [
        ("/any", "3 consecutive failures, last 599"),
        ("/gateway", "3 consecutive gateway failures, last 504"),
        ("/local", "3 consecutive local failures, last reset"),
    ] {
        let told = told_of(&scene, name, host);
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert!(told[0].contains(why), "{name}: {}", told[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_ends_a_run_of_failures_whichever_worker_serves_it() {
    let hosts: [Backend; 1] = start().await;
    let host = &hosts[0];
    let (scene, clients) = scene_of(&hosts, &[("/a", json!({"interval": "60s"}))]).await;
    let fail = async |client: &Client, times| {
        host.always(Action::status(503));
        send(client, "/a", times, 503).await;
    };
    let serve = async |client: &Client| {
        host.always(Action::ok());
        send(client, "/a", 1, 200).await;
    };

    fail(&clients[0], 4).await;
    serve(&clients[0]).await;
    fail(&clients[0], 4).await;
    serve(&clients[1]).await;
    fail(&clients[0], 2).await;
    fail(&clients[1], 2).await;
    serve(&clients[1]).await;
    fail(&clients[1], 4).await;
    host.always(Action::status(404));
    send(&clients[0], "/a", 1, 404).await;
    fail(&clients[1], 4).await;
    assert_eq!(metric(&scene, "/a", "ejections_detected.consecutive_failures").await, 0, "never five in a row");

    fail(&clients[0], 1).await;
    becomes(&scene, "/a", "ejections.consecutive_failures", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_failures_count_wherever_their_status_stands() {
    let hosts: [Backend; 1] = start().await;
    let host = &hosts[0];
    let outlier = json!({"consecutive_failures": 5, "consecutive_gateway_failures": 3, "interval": "60s"});
    let policy = json!({"policies": [{"name": "rpc", "outlier": outlier}]});
    let options = EnvoyOptions::new().seats(Seats::Both).route(Scene::aside()).route(Route::to("/", "rpc"));
    let options = options.cluster(steered("rpc", &hosts).http2()).policy(policy);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    host.always(Action::grpc(0));
    let call = async |client: &Client, status: u32| {
        let answer = client.send(Client::grpc_request("/rpc.Orders/List")).await.unwrap();
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(status)));
        sleep(SETTLED).await;
    };
    call(&clients[0], 0).await;
    sleep(outlying::NOTICED).await;
    call(&clients[0], 0).await;
    becomes(&scene, "rpc", "hosts", 1).await;

    for (status, trailers_only) in [(13, false), (13, true), (2, true), (15, false)] {
        host.always(if trailers_only { Action::grpc_trailers_only(status) } else { Action::grpc(status) });
        call(&clients[0], status).await;
    }
    host.always(Action::grpc(5));
    call(&clients[1], 5).await;
    assert_eq!(metric(&scene, "rpc", "hosts_ejected").await, 0, "NOT_FOUND is a success, and ends the run");
    for (status, trailers_only) in [(14, true), (4, false), (14, false)] {
        host.always(if trailers_only { Action::grpc_trailers_only(status) } else { Action::grpc(status) });
        call(&clients[1], status).await;
    }
    becomes(&scene, "rpc", "ejections.consecutive_gateway_failures", 1).await;
}

/// Off, and ready for one detector. Nobody comes back in a test.
fn rate(detector: &str, settings: Value) -> Value {
    let mut outlier = json!({"consecutive_failures": 0, "interval": "1s", "max_ejected": 100});
    outlier[detector] = settings;
    outlier
}

/// The host fails so many of each ten requests for a path.
fn fail_of_ten(host: &Backend, failures: fn(&str) -> u64) {
    let turns = Mutex::new(BTreeMap::<String, u64>::new());
    host.script(move |seen| {
        let mut turns = turns.lock().unwrap();
        let turn = turns.entry(seen.path.clone()).or_default();
        *turn += 1;
        // Spread over the ten, so that any run of requests has about this share.
        let failures = failures(&seen.path);
        if *turn * failures % 10 < failures { Action::status(500) } else { Action::ok() }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rates_find_the_right_host_and_only_with_enough_to_judge_by() {
    let hosts: [Backend; 5] = start().await;
    let failure = |min_requests: u32, min_hosts: u32| {
        rate("failure_rate", json!({"threshold": 70, "min_requests": min_requests, "min_hosts": min_hosts}))
    };
    let success = |min_requests: u32, min_hosts: u32| {
        rate("success_rate", json!({"min_requests": min_requests, "min_hosts": min_hosts}))
    };
    let policies = [
        ("/failure", failure(5, 5)),
        ("/failure-few-requests", failure(1_000_000, 5)),
        ("/failure-few-hosts", failure(5, 6)),
        ("/success", success(5, 5)),
        ("/success-few-requests", success(1_000_000, 5)),
        ("/success-few-hosts", success(5, 6)),
    ];
    let names = policies.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let (scene, clients) = scene_of(&hosts, &policies).await;
    // One fails nine of ten, another half of them, which is not 70 %. A single host that is worse than four equal ones is out
    // by two standard deviations, however little it is worse.
    fail_of_ten(&hosts[3], |path| if path.starts_with("/success") { 10 } else { 9 });
    fail_of_ten(&hosts[1], |path| if path.starts_with("/success") { 0 } else { 5 });

    let traffic: Vec<Traffic> = names.iter().map(|name| Traffic::start(&clients, 4, ms(20), *name)).collect();
    are_out(&scene, "/failure", &[&hosts[3]]).await;
    are_out(&scene, "/success", &[&hosts[3]]).await;
    // Two whole intervals more, whatever part of one has passed.
    sleep(Duration::from_secs(3)).await;
    for going in traffic {
        going.stop().await;
    }

    for (name, detector) in [("/failure", "failure_rate"), ("/success", "success_rate")] {
        are_out(&scene, name, &[&hosts[3]]).await;
        assert_eq!(metric(&scene, name, &format!("ejections.{detector}")).await, 1, "{name}");
        for why in ["few-requests", "few-hosts"] {
            let name = format!("{name}-{why}");
            assert_eq!(metric(&scene, &name, &format!("ejections_detected.{detector}")).await, 0, "{name}");
            assert!(told(&scene, &name).is_empty(), "{name}");
            assert!(counts_to(&hosts, &name).iter().all(|count| *count > 30), "{name}: all of them serve");
        }
    }
    let expect = |name: &str, expected: &str| {
        let told = told_of(&scene, name, &hosts[3]);
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert!(Regex::new(expected).unwrap().is_match(&told[0]), "{name}: {}", told[0]);
    };
    expect("/failure", r"^ejected for 3\S+: failure rate ([89]\d|100)% of \d+ >= 70%; 1 of 5 hosts out$");
    let success =
        r"^ejected for 3\S+: success rate \d+\.\d% < \d+\.\d% \(mean \d+\.\d% - 1\.9 x \d+\.\d% of 5 hosts\); 1 of 5";
    expect("/success", success);
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_hosts_are_found_beside_their_peers() {
    let hosts: [Backend; 4] = start().await;
    let latency = |settings: Value| {
        let mut all = json!({"min_requests": 5});
        json_patch::merge(&mut all, &settings);
        rate("latency", all)
    };
    let (scene, clients) = scene_of(
        &hosts,
        &[
            ("/slow", latency(json!({}))),
            ("/all-slow", latency(json!({}))),
            ("/floor", latency(json!({"floor": "400ms"}))),
            ("/few-hosts", latency(json!({"min_hosts": 5}))),
            ("/few-requests", latency(json!({"min_requests": 1_000_000}))),
        ],
    )
    .await;
    for (number, host) in hosts.iter().enumerate() {
        host.script(move |seen| match (seen.path.as_str(), number) {
            ("/all-slow", _) | (_, 2) => Action::ok().after(ms(120)),
            _ => Action::ok().after(ms(5)),
        });
    }
    let names = ["/slow", "/all-slow", "/floor", "/few-hosts", "/few-requests"];
    // No interval holds answers from before the hosts are slow.
    sleep(ms(1100)).await;

    let traffic: Vec<Traffic> = names.iter().map(|name| Traffic::start(&clients, 6, ms(10), *name)).collect();
    are_out(&scene, "/slow", &[&hosts[2]]).await;
    sleep(Duration::from_secs(3)).await;
    for going in traffic {
        going.stop().await;
    }

    are_out(&scene, "/slow", &[&hosts[2]]).await;
    assert_eq!(metric(&scene, "/slow", "ejections.latency").await, 1);
    for name in &names[1..] {
        assert_eq!(metric(&scene, name, "ejections_detected.latency").await, 0, "{name}: {:?}", told(&scene, name));
        assert!(counts_to(&hosts, name).iter().all(|count| *count >= 15), "{name}: {:?}", counts_to(&hosts, name));
    }
    let told = told_of(&scene, "/slow", &hosts[2]);
    let expected = r"^ejected for 3\S+: mean latency \d+\.\dms is \d+% above its peers' \d+\.\dms \(3 hosts, limit 200%\); 1 of 4 hosts out$";
    assert!(Regex::new(expected).unwrap().is_match(&told[0]), "{}", told[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_hosts_doing_is_never_held_against_it() {
    let hosts: [Backend; 1] = start().await;
    let host = &hosts[0];
    let outlier = json!({
        "consecutive_failures": 3, "consecutive_local_failures": 3, "interval": "1s",
        "failure_rate": {"threshold": 1, "min_requests": 1, "min_hosts": 1},
    });
    let policy = |name: &str, more: Value| {
        let mut policy = json!({"name": name, "match": {"path": [format!("/{name}/**")]}, "outlier": outlier});
        json_patch::merge(&mut policy, &more);
        policy
    };
    let document = json!({"policies": [
        policy("rejected", json!({"concurrency": {"max_requests": 1}})),
        policy("overflow", json!({})),
        policy("leaving", json!({})),
        policy("ignored", json!({"outcome": {"ignore": {"status": [503]}}})),
        policy("elsewhere", json!({})),
    ]});
    let tight = json!({"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 1}]}});
    let mut options = EnvoyOptions::new().concurrency(1).seats(Seats::Both).policy(document).route(Scene::aside());
    for name in ["rejected", "overflow", "leaving", "ignored"] {
        let cluster = steered(name, &hosts);
        let cluster = if name == "overflow" { cluster.raw(tight.clone()) } else { cluster };
        options = options.cluster(cluster).route(Route::to(&format!("/{name}"), name));
    }
    let options = options.route(Route::direct("/elsewhere", 503, "by Envoy"));
    let scene = Scene::with(options).await;
    let client = Client::http2(scene.addr());
    for round in 0..2 {
        for name in ["rejected", "overflow", "leaving", "ignored"] {
            assert_eq!(client.get(&format!("/{name}/ok")).await.unwrap().status, 200, "{name}");
        }
        if round == 0 {
            sleep(outlying::NOTICED).await;
        }
    }
    host.script(|seen| match seen.path.as_str() {
        path if path.ends_with("/fail") => Action::status(500),
        "/ignored/503" => Action::status(503),
        _ => Action::ok(),
    });

    host.hold();
    let held = client.open(Client::request("/rejected/held"));
    host.wait_in_flight(1).await.unwrap();
    assert_eq!(client.burst(10, "/rejected/more").await.count(503), 10, "Holdfast rejects them");
    let crowd: Vec<_> = (0..10).map(|_| client.open(Client::request("/overflow/held"))).collect();
    scene.wait_for_stat("cluster.overflow.upstream_rq_pending_overflow", |count| count >= 8).await.unwrap();
    let leaving: Vec<_> = (0..10).map(|_| client.open(Client::request("/leaving/held"))).collect();
    host.wait_in_flight(2 + 10).await.unwrap();
    for request in leaving {
        request.disconnect().await;
    }
    host.wait_in_flight(2).await.unwrap();
    host.release_all();
    assert_eq!(held.finish().await.unwrap().status, 200);
    let mut overflowed = 0;
    for request in crowd {
        overflowed += usize::from(request.finish().await.unwrap().status == 503);
    }
    assert_eq!(overflowed, 8, "one went, one waited, Envoy refused the others");
    assert_eq!(client.drive(1, 10, "/ignored/503").await.count(503), 10);
    assert_eq!(client.drive(1, 10, "/elsewhere/x").await.count(503), 10);
    // Beyond the end of the interval and its sweep.
    sleep(Duration::from_millis(2500)).await;
    for name in ["rejected", "overflow", "leaving", "ignored", "elsewhere"] {
        assert!(told(&scene, name).is_empty(), "{name}: {:?}", told(&scene, name));
        for (which, count) in scene.metrics(name, &format!("cluster={name}")).await {
            assert!(!which.starts_with("ejections_detected.") || count == 0, "{name}: {which} is {count}");
        }
    }

    for name in ["rejected", "overflow", "leaving", "ignored"] {
        assert_eq!(client.drive(1, 3, &*format!("/{name}/fail")).await.count(500), 3);
        becomes(&scene, name, "hosts_ejected", 1).await;
    }
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detector_has_its_own_mode() {
    let hosts: [Backend; 2] = start().await;
    let of_mode = |outlier: &str, detector: &str| json!({"mode": outlier, "consecutive_failures": {"threshold": 3, "mode": detector}, "interval": "60s"});
    let (scene, clients) = scene_of(
        &hosts,
        &[
            ("/acts", of_mode("shadow", "enforce")),
            ("/tells", of_mode("enforce", "shadow")),
            (
                "/both",
                json!({"consecutive_failures": {"threshold": 3, "mode": "shadow"}, "consecutive_gateway_failures": 6}),
            ),
        ],
    )
    .await;
    for (path, status) in [("/acts", 500), ("/tells", 500), ("/both", 503)] {
        hosts.iter().for_each(Backend::reset_counters);
        failing(&hosts[0], path, Action::status(status));
        drive_all(&clients, 1, 30, path).await;
    }

    are_out(&scene, "/acts", &[&hosts[0]]).await;
    assert!(metric(&scene, "/tells", "would_eject.consecutive_failures").await >= 1);
    assert_eq!(metric(&scene, "/tells", "hosts_ejected").await, 0);
    are_out(&scene, "/both", &[&hosts[0]]).await;
    assert_eq!(metric(&scene, "/both", "ejections.consecutive_gateway_failures").await, 1);
    assert_eq!(metric(&scene, "/both", "ejections.consecutive_failures").await, 0, "that one only tells");
    assert!(metric(&scene, "/both", "would_eject.consecutive_failures").await >= 1);
    let told: Vec<String> =
        scene.log().lines().filter(|line| line.contains("would be ejected")).map(str::to_owned).collect();
    assert_eq!(told.len(), 2, "each is told once, for now: {told:?}");
    assert!(told.iter().all(|line| line.contains("(shadow): host ")), "{told:?}");
}
