//! What each detector finds and what it leaves alone, and what is never held against a host.

use std::sync::Mutex;
use std::time::Duration;

use holdfast_tests::{Action, Backend, Client, EnvoyOptions, Route, Scene, Seats, Traffic, drive_all};
use regex::Regex;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    NOTICED, SETTLED, Story, are_out, are_told_nothing, becomes, counts, metric, ms, stage, start, steered, told,
    told_of,
};

/// Two whole intervals of a second, whatever part of one has passed, and their sweep.
const TWO_INTERVALS: Duration = Duration::from_millis(3200);

/// Sends requests one after the other, and expects this status of each.
async fn send(client: &Client, path: &str, times: usize, status: u16) {
    for _ in 0..times {
        assert_eq!(client.get(path).await.unwrap().status, status, "{path}");
    }
    sleep(SETTLED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_failures() {
    let only = |which: &str| {
        let mut outlier = json!({"consecutive_failures": 0, "interval": "60s"});
        outlier[which] = json!(3);
        outlier
    };
    let any = Story::of::<1>("/any", only("consecutive_failures")).await;
    let gateway = Story::of::<1>("/gateway", only("consecutive_gateway_failures")).await;
    let local = Story::of::<1>("/local", only("consecutive_local_failures")).await;
    let broken_off = Story::of::<1>("/broken-off", json!({"interval": "60s"})).await;
    let rpc = json!({"consecutive_failures": 5, "consecutive_gateway_failures": 3, "interval": "60s"});
    let rpc = Story::of::<1>("/rpc", rpc).await.http2();
    let of_mode = |outlier: &str, detector: &str| json!({"mode": outlier, "consecutive_failures": {"threshold": 3, "mode": detector}, "interval": "60s"});
    let acts = Story::of::<2>("/acts", of_mode("shadow", "enforce")).await;
    let tells = Story::of::<2>("/tells", of_mode("enforce", "shadow")).await;
    let mixed = json!({"consecutive_failures": {"threshold": 3, "mode": "shadow"}, "consecutive_gateway_failures": 6});
    let mixed = Story::of::<2>("/mixed", mixed).await;
    let (scene, clients) = stage(2, &[&any, &gateway, &local, &broken_off, &rpc, &acts, &tells, &mixed]).await;

    tokio::join!(
        failures_are_counted_by_their_kind(&scene, &clients, [&any, &gateway, &local]),
        a_success_ends_a_run_whichever_worker_serves_it(&scene, &clients, &broken_off),
        grpc_failures_count_wherever_their_status_stands(&scene, &clients, &rpc),
        a_detector_has_its_own_mode(&scene, &clients, [&acts, &tells, &mixed]),
    );
}

async fn failures_are_counted_by_their_kind(scene: &Scene, clients: &[Client], [any, gateway, local]: [&Story; 3]) {
    let out = async |story: &Story| metric(scene, story.name, "hosts_ejected").await;

    gateway.hosts[0].always(Action::status(500));
    local.hosts[0].always(Action::status(500));
    send(&clients[0], gateway.name, 6, 500).await;
    send(&clients[0], local.name, 6, 500).await;
    assert_eq!((out(gateway).await, out(local).await), (0, 0), "a 500 is no gateway's failure, and an answer");
    for status in [502, 503, 504] {
        local.hosts[0].always(Action::status(status));
        send(&clients[0], local.name, 2, status).await;
    }
    assert_eq!(out(local).await, 0, "whatever a host answers, it answers");

    for (status, client) in [(502, 0), (503, 1), (504, 0)] {
        gateway.hosts[0].always(Action::status(status));
        send(&clients[client], gateway.name, 1, status).await;
    }
    becomes(scene, gateway.name, "ejections.consecutive_gateway_failures", 1).await;
    local.hosts[0].always(Action::reset());
    send(&clients[1], local.name, 2, 503).await;
    assert_eq!(out(local).await, 0, "two are not three");
    send(&clients[0], local.name, 1, 503).await;
    becomes(scene, local.name, "ejections.consecutive_local_failures", 1).await;
    for (status, client) in [(500, 0), (503, 1), (599, 1)] {
        any.hosts[0].always(Action::status(status));
        send(&clients[client], any.name, 1, status).await;
    }
    becomes(scene, any.name, "ejections.consecutive_failures", 1).await;

    for (story, why) in [
        (any, "3 consecutive failures, last 599"),
        (gateway, "3 consecutive gateway failures, last 504"),
        (local, "3 consecutive local failures, last reset"),
    ] {
        let told = told_of(scene, story.name, &story.hosts[0]);
        assert_eq!(told.len(), 1, "{}: {told:?}", story.name);
        assert!(told[0].contains(why), "{}: {}", story.name, told[0]);
    }
}

async fn a_success_ends_a_run_whichever_worker_serves_it(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    let fail = async |client: &Client, times| {
        hosts[0].always(Action::status(503));
        send(client, name, times, 503).await;
    };
    let serve = async |client: &Client| {
        hosts[0].always(Action::ok());
        send(client, name, 1, 200).await;
    };

    fail(&clients[0], 4).await;
    serve(&clients[0]).await;
    fail(&clients[0], 4).await;
    serve(&clients[1]).await;
    fail(&clients[0], 2).await;
    fail(&clients[1], 2).await;
    serve(&clients[1]).await;
    fail(&clients[1], 4).await;
    hosts[0].always(Action::status(404));
    send(&clients[0], name, 1, 404).await;
    fail(&clients[1], 4).await;
    assert_eq!(metric(scene, name, "ejections_detected.consecutive_failures").await, 0, "never five in a row");

    fail(&clients[0], 1).await;
    becomes(scene, name, "ejections.consecutive_failures", 1).await;
}

async fn grpc_failures_count_wherever_their_status_stands(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    let call = async |client: &Client, status: u32, trailers_only: bool| {
        hosts[0].always(if trailers_only { Action::grpc_trailers_only(status) } else { Action::grpc(status) });
        let answer = client.send(Client::grpc_request("/rpc/orders.Orders/List")).await.unwrap();
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(status)));
        sleep(SETTLED).await;
    };

    for (status, trailers_only) in [(13, false), (13, true), (2, true), (15, false)] {
        call(&clients[0], status, trailers_only).await;
    }
    call(&clients[1], 5, false).await;
    assert_eq!(metric(scene, name, "hosts_ejected").await, 0, "NOT_FOUND is a success, and ends the run");
    for (status, trailers_only) in [(14, true), (4, false), (14, false)] {
        call(&clients[1], status, trailers_only).await;
    }
    becomes(scene, name, "ejections.consecutive_gateway_failures", 1).await;
}

async fn a_detector_has_its_own_mode(scene: &Scene, clients: &[Client], [acts, tells, mixed]: [&Story; 3]) {
    for (Story { name, hosts, .. }, status) in [(acts, 500), (tells, 500), (mixed, 503)] {
        hosts[0].always(Action::status(status));
        drive_all(clients, 1, 30, *name).await;
    }

    are_out(scene, acts.name, &[&acts.hosts[0]]).await;
    assert!(metric(scene, tells.name, "would_eject.consecutive_failures").await >= 1);
    assert_eq!(metric(scene, tells.name, "hosts_ejected").await, 0);
    are_out(scene, mixed.name, &[&mixed.hosts[0]]).await;
    assert_eq!(metric(scene, mixed.name, "ejections.consecutive_gateway_failures").await, 1);
    assert_eq!(metric(scene, mixed.name, "ejections.consecutive_failures").await, 0, "that one only tells");
    assert!(metric(scene, mixed.name, "would_eject.consecutive_failures").await >= 1);
    let log = scene.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("would be ejected")).collect();
    assert_eq!(told.len(), 2, "each is told once, for now: {told:?}");
    assert!(told.iter().all(|line| line.contains(" (shadow): host ")), "{told:?}");
}

/// Off, and ready for one detector. Nobody comes back in a test.
fn rate(detector: &str, settings: Value) -> Value {
    let mut outlier = json!({"consecutive_failures": 0, "interval": "1s", "max_ejected": 100});
    outlier[detector] = settings;
    outlier
}

/// The host fails so many of each ten requests.
fn fail_of_ten(host: &Backend, failures: u64) {
    let turns = Mutex::new(0);
    host.script(move |_| {
        let mut turn = turns.lock().unwrap();
        *turn += 1;
        // Spread over the ten, so that any run of requests has about this share.
        if *turn * failures % 10 < failures { Action::status(500) } else { Action::ok() }
    });
}

/// What one interval says of the hosts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals() {
    let failure = |min_requests: u32, min_hosts: u32| {
        rate("failure_rate", json!({"threshold": 70, "min_requests": min_requests, "min_hosts": min_hosts}))
    };
    let success = |min_requests: u32, min_hosts: u32| {
        rate("success_rate", json!({"min_requests": min_requests, "min_hosts": min_hosts}))
    };
    let latency = |settings: Value| {
        let mut all = json!({"min_requests": 5});
        json_patch::merge(&mut all, &settings);
        rate("latency", all)
    };
    let failing = [
        Story::of::<5>("/failure", failure(5, 5)).await,
        Story::of::<5>("/failure-few-requests", failure(1_000_000, 5)).await,
        Story::of::<5>("/failure-few-hosts", failure(5, 6)).await,
    ];
    let failing_beside_others = [
        Story::of::<5>("/success", success(5, 5)).await,
        Story::of::<5>("/success-few-requests", success(1_000_000, 5)).await,
        Story::of::<5>("/success-few-hosts", success(5, 6)).await,
    ];
    let slow = [
        Story::of::<4>("/slow", latency(json!({}))).await,
        Story::of::<4>("/all-slow", latency(json!({}))).await,
        Story::of::<4>("/slow-below-floor", latency(json!({"floor": "400ms"}))).await,
        Story::of::<4>("/slow-few-hosts", latency(json!({"min_hosts": 5}))).await,
        Story::of::<4>("/slow-few-requests", latency(json!({"min_requests": 1_000_000}))).await,
    ];
    let all: Vec<&Story> = failing.iter().chain(&failing_beside_others).chain(&slow).collect();
    let (scene, clients) = stage(2, &all).await;
    // No interval holds answers from before the hosts are bad.
    sleep(ms(1100)).await;

    let failure = r"failure rate ([89]\d|100)% of \d+ >= 70%; 1 of 5 hosts out$";
    let success = r"success rate \d+\.\d% < \d+\.\d% \(mean \d+\.\d% - 1\.9 x \d+\.\d% of 5 hosts\); 1 of 5 hosts out$";
    let latency =
        r"mean latency \d+\.\dms is \d+% above its peers' \d+\.\dms \(3 hosts, limit 200%\); 1 of 4 hosts out$";
    for Story { hosts, .. } in &failing {
        fail_of_ten(&hosts[1], 5);
        fail_of_ten(&hosts[3], 9);
    }
    for Story { hosts, .. } in &failing_beside_others {
        // A single host that is worse than four equal ones is out by two standard deviations, however little it is worse.
        fail_of_ten(&hosts[3], 10);
    }
    for (Story { name, hosts, .. }, number) in slow.iter().flat_map(|story| (0..4).map(move |number| (story, number))) {
        let delay = if *name == "/all-slow" || number == 2 { 120 } else { 5 };
        hosts[number].always(Action::ok().after(ms(delay)));
    }
    tokio::join!(
        only_the_first_loses_a_host(&scene, &clients, &failing, 3, "failure_rate", failure),
        only_the_first_loses_a_host(&scene, &clients, &failing_beside_others, 3, "success_rate", success),
        only_the_first_loses_a_host(&scene, &clients, &slow, 2, "latency", latency),
    );
}

/// Of these stories with the same bad host the first has enough to judge it by.
async fn only_the_first_loses_a_host(
    scene: &Scene,
    clients: &[Client],
    stories: &[Story],
    bad: usize,
    detector: &str,
    line: &str,
) {
    let traffic: Vec<Traffic> = stories.iter().map(|story| Traffic::start(clients, 4, ms(20), story.name)).collect();
    let (first, rest) = stories.split_first().unwrap();
    let bad = &first.hosts[bad];
    are_out(scene, first.name, &[bad]).await;
    sleep(TWO_INTERVALS).await;
    for going in traffic {
        going.stop().await;
    }

    are_out(scene, first.name, &[bad]).await;
    assert_eq!(metric(scene, first.name, &format!("ejections.{detector}")).await, 1);
    let ejected = told_of(scene, first.name, bad);
    assert_eq!(ejected.len(), 1, "{ejected:?}");
    let expected = Regex::new(&format!(r"^ejected for 3\S+: {line}")).unwrap();
    assert!(expected.is_match(&ejected[0]), "{}", ejected[0]);
    for Story { name, hosts, .. } in rest {
        let lines = told(scene, name);
        assert_eq!(metric(scene, name, &format!("ejections_detected.{detector}")).await, 0, "{name}: {lines:?}");
        assert!(lines.is_empty(), "{name}: {lines:?}");
        assert!(counts(hosts).iter().all(|count| *count >= 15), "{name}: all of them serve: {:?}", counts(hosts));
    }
    stories.iter().for_each(|story| are_told_nothing(&story.hosts));
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
            sleep(NOTICED).await;
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
