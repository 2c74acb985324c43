//! Hosts that swallow connections, where `connect_timeout` is longer than requests are given, beside Envoy's own detection.

use std::time::Duration;

use holdfast_tests::{
    Action, Backend, BlackHole, Client, Cluster, EnvoyOptions, PATIENCE, Records, Route, Scene, Seats, drive_all,
    eventually,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::outlying::{ADMIN, NOTICED, SETTLED, listed, metric_now, ms, route, start, told};

/// How long a request is given.
const GIVEN: Duration = ms(400);

/// Envoy's default.
const CONNECT: Duration = Duration::from_secs(5);

/// Requests at a time.
const BESIDE: usize = 8;

/// The whole of it: so many steps of [`BESIDE`] requests, of which a quarter goes to the black hole.
const STEPS: usize = 30;

/// Kinds of policies, each for one path and the cluster of its name: what they say of retries, and whether the hosts speak HTTP/2.
fn kinds() -> [(&'static str, Value, bool); 6] {
    let given = json!("400ms");
    [
        ("/plain", json!({"timeout": given}), false),
        ("/plain2", json!({"timeout": given}), true),
        ("/tries", json!({"timeout": given, "per_try_timeout": "150ms"}), false),
        ("/tries2", json!({"timeout": given, "per_try_timeout": "150ms"}), true),
        ("/hedged", json!({"timeout": given, "per_try_timeout": "150ms", "hedge_on_per_try_timeout": true}), false),
        ("/hedged2", json!({"timeout": given, "per_try_timeout": "150ms", "hedge_on_per_try_timeout": true}), true),
    ]
}

fn ejects() -> Value {
    listed(json!({"consecutive_failures": 5, "base_ejection_time": "300s", "interval": "300s"}))
}

fn own_detection() -> Value {
    json!({"outlier_detection": {
        "consecutive_5xx": 5, "enforcing_success_rate": 0, "base_ejection_time": "300s", "max_ejection_percent": 100,
    }})
}

/// Sends so many requests to each of these paths, all at a time.
async fn drive_each(clients: &[Client], paths: &[&'static str], count: usize) -> Vec<Records> {
    let mut sent = JoinSet::new();
    for (index, path) in paths.iter().enumerate() {
        let (clients, path) = (clients.to_owned(), *path);
        sent.spawn(async move { (index, drive_all(&clients, count, count, path).await) });
    }
    let mut answers = sent.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, records)| records).collect()
}

/// A black hole among four hosts, for each kind of policy, for one whose time-out is the route's, and twice with Envoy's own detection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_swallows_connections_is_found_no_later_than_by_envoy() {
    let (hosts, black) = (start::<3>().await, BlackHole::start().await.unwrap());
    let cluster = |name: &str, http2: bool| {
        let cluster = Cluster::new(name).connect_timeout(CONNECT).endpoint(black.addr());
        let cluster = hosts.iter().fold(cluster, |cluster, host| cluster.endpoint(host.addr()));
        if http2 { cluster.http2() } else { cluster }
    };
    let mut options = EnvoyOptions::new().concurrency(1).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    options = options.route(Scene::aside());
    let mut policies = Vec::new();
    for (path, retry, http2) in kinds() {
        options = options.cluster(cluster(&path[1..], http2).steered()).route(route(path));
        policies
            .push(json!({"name": &path[1..], "match": {"cluster": [&path[1..]]}, "retry": retry, "outlier": ejects()}));
    }
    options = options.cluster(cluster("routed", false).steered()).route(route("/routed").timeout(GIVEN));
    policies.push(json!({"name": "routed", "match": {"cluster": ["routed"]}, "outlier": ejects()}));
    for (path, http2) in [("/own", false), ("/own2", true)] {
        let own = cluster(&path[1..], http2).without_attempt_seat().raw(own_detection());
        options = options.cluster(own).route(route(path).timeout(GIVEN));
    }
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;
    let clients = scene.workers(1).await;
    let judged: Vec<&'static str> = kinds().iter().map(|(path, _, _)| *path).chain(["/routed"]).collect();
    // The seats meet by requests that find nobody, too.
    drive_each(&clients, &judged, 4).await;
    sleep(NOTICED).await;

    let paths: Vec<&'static str> = judged.iter().copied().chain(["/own", "/own2"]).collect();
    let is_out = async |path: &str| {
        if path.starts_with("/own") {
            let name = format!("cluster.{}.outlier_detection.ejections_active", &path[1..]);
            scene.stats().await.unwrap().get(&name).copied().unwrap_or_default() == 1
        } else {
            metric_now(&scene, path, "hosts_ejected").await == 1
        }
    };
    let mut found = vec![None; paths.len()];
    let mut failed = vec![0; paths.len()];
    for step in 1..=STEPS {
        let answers = drive_each(&clients, &paths, BESIDE).await;
        for (index, records) in answers.iter().enumerate() {
            if found[index].is_some() {
                assert_eq!(records.count(200), BESIDE, "{}, step {step}: {:?}", paths[index], records.statuses());
                continue;
            }
            failed[index] += BESIDE - records.count(200);
            if is_out(paths[index]).await {
                found[index] = Some(step);
            }
        }
        if found[..judged.len()].iter().all(Option::is_some) && step > STEPS / 2 {
            break;
        }
    }
    for (index, path) in paths.iter().enumerate() {
        println!("{path}: out after {:?} steps and {} failures", found[index], failed[index]);
    }
    let earliest = found[judged.len()..].iter().flatten().min().copied().unwrap_or(usize::MAX);
    for (index, path) in judged.iter().enumerate() {
        let step = found[index].unwrap_or_else(|| panic!("{path}: it is not found: {:?}", told(&scene, path)));
        assert!(step <= earliest.min(10), "{path}: {step} steps, and {earliest} with Envoy's own detection");
        let lines = told(&scene, path);
        let black = black.addr().to_string();
        assert!(lines.iter().all(|line| line.starts_with(&black)), "{path}: no other host: {lines:?}");
        let why = "5 consecutive failures, last connect_failure";
        assert!(lines.iter().any(|line| line.contains(why)), "{path}: {lines:?}");
    }
}

/// A connection to each host, which serves a long stream that no policy governs: the others wait for it as long as they are given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_connections_serve_others_is_not_judged() {
    let hosts = start::<2>().await;
    let lasting = Action::ok().lasting(Duration::from_secs(60));
    hosts.iter().for_each(|host| {
        let lasting = lasting.clone();
        host.script(move |request| if request.path == "/held" { lasting.clone() } else { Action::ok() });
    });
    let full = json!({"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 1000}]}});
    let cluster = |name: &str| {
        let cluster = Cluster::new(name).connect_timeout(CONNECT).raw(full.clone());
        hosts.iter().fold(cluster, |cluster, host| cluster.endpoint(host.addr()))
    };
    let own = cluster("own").without_attempt_seat().raw(own_detection());
    let policy = |more: Value| {
        let mut policy = json!({"name": "full", "match": {"path": ["/full"]}, "outlier": ejects()});
        policy["retry"] = more;
        policy
    };
    let options = EnvoyOptions::new().concurrency(1).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    let options = options.cluster(cluster("full").steered()).cluster(own).route(Scene::aside());
    let options = options.route(Route::to("/held-own", "own").raw(json!({"route": {"prefix_rewrite": "/held"}})));
    let options = options.route(Route::to("/held", "full")).route(Route::to("/full", "full"));
    let options = options.route(Route::to("/own", "own").timeout(GIVEN));
    let scene = Scene::with(options.policy(json!({"policies": [policy(json!({"timeout": "400ms"}))]}))).await;
    let client = scene.workers(1).await.into_iter().next().unwrap();
    for _ in 0..2 {
        drive_all(std::slice::from_ref(&client), 1, 8, "/full").await;
        sleep(NOTICED).await;
    }
    let mut streams = Vec::new();
    for path in ["/held", "/held", "/held-own", "/held-own"] {
        streams.push(client.open(Client::request(path)));
    }
    eventually(PATIENCE, || async {
        let held: Vec<u64> = hosts.iter().map(Backend::open_streams).collect();
        if held == [2, 2] { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await
    .unwrap();
    for path in ["/full", "/own"] {
        for _ in 0..4 {
            let records = drive_all(std::slice::from_ref(&client), 8, 8, path).await;
            assert_eq!(records.count(504), 8, "{path}: {:?}", records.statuses());
        }
    }
    sleep(SETTLED).await;
    assert_eq!(told(&scene, "/full"), [""; 0], "a host that nobody could ask is nobody's failure");
    assert_eq!(metric_now(&scene, "/full", "hosts_ejected").await, 0);
    assert_eq!(scene.stats().await.unwrap()["cluster.own.outlier_detection.ejections_total"], 0);
    drop(streams);
    hosts.iter().for_each(|host| host.always(Action::ok()));
    eventually(PATIENCE, || async {
        let status = client.get("/full").await.unwrap().status;
        if status == 200 { Ok(()) } else { Err(format!("{status}")) }
    })
    .await
    .unwrap();
}
