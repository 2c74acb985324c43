//! A host that turns bad is out in time, whatever the way in which it is bad and whether anybody else notices; and never are
//! too many out. Counted at the hosts.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod outlying;

use std::net::SocketAddr;

use holdfast_tests::{Action, Attempt, Backend, Client, EnvoyOptions, Scene, Seats, Traffic, attempts, drive_all};
use serde_json::{Value, json};
use tokio::time::sleep;

use outlying::{
    SETTLED, addrs, all_known_to, all_served, are_out, are_told_nothing, becomes, counts, is_fair, logged, metric, ms,
    orders, out, route, scene_of, start, steered, told, told_of,
};

/// One way for a host to be bad, in a policy and a cluster of this name, on the path of this name.
struct Way {
    name: &'static str,
    http2: bool,
    /// What the policy retries, if it does.
    retry: Value,
    /// `None`: it refuses connections.
    action: Option<Action>,
    /// How the log tells the last failure.
    last: &'static str,
}

impl Way {
    fn policy(&self) -> Value {
        let mut policy = json!({
            "name": self.name[1..], "match": {"path": [self.name]}, "outlier": {"consecutive_failures": 5},
        });
        if !self.retry.is_null() {
            policy["retry"] = json!({
                "backoff": {"base": "1ms", "jitter": "none"}, "budget": {"ratio": 100, "min_per_second": 1000},
            });
            json_patch::merge(&mut policy["retry"], &self.retry);
        }
        policy
    }
}

/// The hosts of one way, of which the third will be bad.
struct Hosts {
    way: Way,
    hosts: [Backend; 5],
}

async fn scene_of_ways(workers: u32, ways: Vec<Way>) -> (Scene, Vec<Client>, Vec<Hosts>) {
    let mut all = Vec::new();
    for way in ways {
        all.push(Hosts { way, hosts: start().await });
    }
    let policies: Vec<Value> = all.iter().map(|one| one.way.policy()).collect();
    let mut options = EnvoyOptions::new().concurrency(workers).seats(Seats::Both).route(Scene::aside());
    for Hosts { way, hosts } in &all {
        let cluster = steered(&way.name[1..], hosts);
        let cluster = if way.http2 { cluster.http2() } else { cluster };
        options = options.cluster(cluster).route(route(way.name));
    }
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;
    let clients = scene.workers(workers as usize).await;
    let known: Vec<(&str, &[Backend])> = all.iter().map(|one| (one.way.name, one.hosts.as_slice())).collect();
    all_known_to(&scene, &clients, &known).await;
    (scene, clients, all)
}

/// One of five hosts turns bad and gets at most nine of the next three hundred requests: the five that the limit needs, and
/// four that were under way. With retries no client notices.
async fn is_out_in_time(workers: u32, ways: Vec<Way>) {
    let (scene, clients, all) = scene_of_ways(workers, ways).await;
    for Hosts { way, hosts } in &all {
        let (bad, name) = (&hosts[2], way.name);
        let before = logged(&scene, name, 0).await.len();
        match &way.action {
            Some(action) => bad.always(action.clone()),
            None => bad.refuse().await.unwrap(),
        }
        // Connections that were kept are noticed to be cut.
        sleep(SETTLED).await;

        let records = drive_all(&clients, 5, 300, name).await;

        let log = logged(&scene, name, before + 300).await;
        let of_bad = |one: &Attempt| one.host == bad.addr().to_string() && one.outcome.starts_with("failure:");
        let failed = log.iter().flat_map(attempts).filter(of_bad).count();
        assert!((5..=9).contains(&failed), "{name}: the bad host gets at most nine requests, not {failed}");
        if way.action.is_some() {
            assert_eq!(bad.requests(), failed as u64, "{name}: counted at the host");
        }
        let served = if way.retry.is_null() { 300 - failed } else { 300 };
        assert_eq!(records.count(200), served, "{name}: {:?}", records.statuses());
        let others: Vec<u64> = hosts.iter().filter(|host| host.addr() != bad.addr()).map(Backend::requests).collect();
        assert_eq!(others.iter().sum::<u64>(), served as u64, "{name}: the others serve the rest");
        assert!(is_fair(&others), "{name}: each its share: {others:?}");

        are_out(&scene, name, &[bad]).await;
        let told = told_of(&scene, name, bad);
        assert_eq!(told.len(), 1, "{name}: one line over all workers: {told:?}");
        let why = format!(": 5 consecutive failures, last {}; 1 of 5 hosts out", way.last);
        assert!(told[0].starts_with("ejected for 3") && told[0].ends_with(&why), "{name}: {}", told[0]);
        assert_eq!(metric(&scene, name, "ejections.consecutive_failures").await, 1, "{name}");
        are_told_nothing(hosts);
    }
}

fn seen_by_clients() -> Vec<Way> {
    let way = |name, http2, action: Action, last| Way { name, http2, retry: Value::Null, action: Some(action), last };
    vec![
        way("/http1", false, Action::status(500), "500"),
        way("/http2", true, Action::status(500), "500"),
        way("/reset", false, Action::reset(), "reset"),
        way("/stream-reset", true, Action::reset_stream(), "reset"),
    ]
}

fn hidden_by_retries() -> Vec<Way> {
    let way = |name, http2, retry, action, last| Way { name, http2, retry, action, last };
    let any = || json!({"on": ["5xx", "reset", "connect-failure"]});
    let timed = json!({"on": ["5xx", "reset"], "per_try_timeout": "250ms"});
    vec![
        way("/failing", false, any(), Some(Action::status(500)), "500"),
        way("/failing-http2", true, any(), Some(Action::status(503)), "503"),
        way("/resetting", false, any(), Some(Action::reset()), "reset"),
        way("/hanging", false, timed, Some(Action::hang()), "timeout"),
        way("/refusing", false, any(), None, "connect_failure"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_host_is_out_in_time_over_two_workers() {
    is_out_in_time(2, seen_by_clients()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_host_is_out_in_time_over_four_workers() {
    is_out_in_time(4, seen_by_clients()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_is_one_whose_failures_no_client_sees_over_two_workers() {
    is_out_in_time(2, hidden_by_retries()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_is_one_whose_failures_no_client_sees_over_four_workers() {
    is_out_in_time(4, hidden_by_retries()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_first_request_on_a_host_that_always_failed_is_found_too() {
    let hosts: [Backend; 5] = start().await;
    let scene = Scene::with(outlying::before(&hosts, 4, orders(json!({})))).await;
    let clients = scene.workers(4).await;
    hosts[4].always(Action::status(500));

    drive_all(&clients, 4, 200, "/").await;
    are_out(&scene, "orders", &[&hosts[4]]).await;
    becomes(&scene, "orders", "hosts", 5).await;
    hosts[4].reset_counters();
    let records = drive_all(&clients, 4, 200, "/").await;

    // While a host is out, now and then one request goes where it would without us: there may be a host nobody knows.
    assert!(hosts[4].requests() <= 1, "{} requests", hosts[4].requests());
    assert_eq!(records.count(200) as u64, 200 - hosts[4].requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_hosts_are_out_than_the_policy_allows() {
    let hosts: [Backend; 5] = start().await;
    let (scene, clients) = scene_of(&hosts, 4, orders(json!({"consecutive_failures": 3, "interval": "60s"}))).await;
    hosts.iter().for_each(|host| host.always(Action::status(500)));

    assert_eq!(drive_all(&clients, 8, 400, "/").await.count(500), 400, "traffic goes on");

    becomes(&scene, "orders", "hosts_ejected", 2).await;
    sleep(SETTLED).await;
    let metrics = scene.metrics("orders", "cluster=orders").await;
    assert_eq!(metrics["hosts_ejected"], 2, "two of five are 40 %, three would be 60 %");
    assert_eq!(metrics["ejections.consecutive_failures"], 2, "and there were never more");
    assert!(metrics["ejections_overflow"] >= 3, "the others were found as well: {metrics:?}");
    assert_eq!(
        metrics["ejections_detected.consecutive_failures"],
        2 + metrics["ejections_overflow"],
        "a host that is found is ejected or too many: {metrics:?}"
    );
    let told = told(&scene, "orders");
    let kept: Vec<_> = told.iter().filter(|line| line.contains(" not ejected: ")).collect();
    assert!(!kept.is_empty() && kept.len() <= 3, "each of the three is told once, for now: {told:?}");
    assert!(
        kept.iter().all(|line| line.contains("3 consecutive failures, last 500; 2 of 5 hosts are out, at most 50%"))
    );

    let out = out(&scene, "orders");
    hosts.iter().for_each(Backend::reset_counters);
    drive_all(&clients, 8, 300, "/").await;
    let (of_out, of_in): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| out.contains(&host.addr()));
    assert!(of_out.iter().map(|host| host.requests()).sum::<u64>() <= 1, "those that are out get nothing");
    let shares: Vec<u64> = of_in.iter().map(|host| host.requests()).collect();
    assert!(is_fair(&shares), "and the three that are in share it, bad as they are: {shares:?}");
    are_told_nothing(&hosts);
}

/// How many hosts of ten were out after each line of the log.
fn out_of_ten(lines: &[String]) -> Vec<u64> {
    let count = |line: &String| line.rsplit("; ").next()?.split_once(" of 10 hosts ")?.0.parse().ok();
    lines.iter().filter_map(count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_while_every_host_comes_and_goes() {
    let hosts: [Backend; 10] = start().await;
    let outlier = json!({
        "consecutive_failures": 2, "max_ejected": 30, "base_ejection_time": "100ms", "max_ejection_time": "300ms",
        "interval": "1s",
    });
    let (scene, clients) = scene_of(&hosts, 4, orders(outlier)).await;
    // Half of all requests fail, now here and now there.
    for (number, host) in hosts.iter().enumerate() {
        host.script(move |seen| {
            if (seen.index / 8 + number as u64).is_multiple_of(2) { Action::status(503) } else { Action::ok() }
        });
    }

    let traffic = Traffic::start(&clients, 24, ms(1), "/");
    let mut most = 0;
    for _ in 0..60 {
        most = most.max(metric(&scene, "orders", "hosts_ejected").await);
        sleep(ms(50)).await;
    }
    traffic.stop().await;
    sleep(SETTLED).await;

    let told = told(&scene, "orders");
    let after_each = out_of_ten(&told);
    assert!(most <= 3, "three of ten may be out, not {most}");
    assert!(after_each.len() > 20, "much has happened: {}", told.len());
    assert!(after_each.iter().all(|out| *out <= 3), "{after_each:?}");
    assert!(after_each.contains(&3), "the limit was reached: {after_each:?}");
    let metrics = scene.metrics("orders", "cluster=orders").await;
    assert_eq!(
        metrics["ejections.consecutive_failures"] - metrics["readmitted"],
        metrics["hosts_ejected"],
        "who went out and did not come back is out: {metrics:?}"
    );
    assert!(metrics["probe_failed"] > 0 && metrics["readmitted"] > 0, "{metrics:?}");
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_panic_threshold_all_hosts_share_again() {
    let hosts: [Backend; 5] = start().await;
    let outlier = json!({"consecutive_failures": 3, "max_ejected": 100, "interval": "60s"});
    let (scene, clients) = scene_of(&hosts, 2, orders(outlier)).await;

    for host in &hosts[..2] {
        host.always(Action::status(500));
    }
    drive_all(&clients, 4, 100, "/").await;
    are_out(&scene, "orders", &[&hosts[0], &hosts[1]]).await;
    hosts.iter().for_each(Backend::reset_counters);
    let records = drive_all(&clients, 4, 100, "/").await;
    assert!(records.count(500) <= 1, "with three of five left nobody panics: {:?}", counts(&hosts));

    hosts[2].always(Action::status(500));
    drive_all(&clients, 4, 60, "/").await;
    are_out(&scene, "orders", &[&hosts[0], &hosts[1], &hosts[2]]).await;
    hosts.iter().for_each(Backend::reset_counters);
    drive_all(&clients, 4, 300, "/").await;
    assert!(is_fair(&counts(&hosts)), "two of five are fewer than half: {:?}", counts(&hosts));

    hosts.iter().for_each(|host| host.always(Action::status(500)));
    drive_all(&clients, 4, 100, "/").await;
    becomes(&scene, "orders", "hosts_ejected", 5).await;
    assert_eq!(out(&scene, "orders"), addrs(&hosts), "all are found out");
    hosts.iter().for_each(Backend::reset_counters);
    assert_eq!(drive_all(&clients, 4, 300, "/").await.count(500), 300);
    assert!(is_fair(&counts(&hosts)), "and all share: {:?}", counts(&hosts));
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_may_be_out_of_a_small_cluster_unless_the_policy_forbids_it() {
    let (pair, single): ([Backend; 2], [Backend; 1]) = (start().await, start().await);
    let policy = |name: &str, one: bool| {
        let outlier = json!({"consecutive_failures": 3, "max_ejected": 10, "always_eject_one": one});
        json!({"name": name, "match": {"path": [format!("/{name}")]}, "outlier": outlier})
    };
    let names = ["/one", "/none", "/single"];
    let document = json!({"policies": [policy("one", true), policy("none", false), policy("single", true)]});
    let mut options = EnvoyOptions::new().seats(Seats::Both).route(Scene::aside()).policy(document);
    for name in names {
        let cluster = if name == "/single" { steered(&name[1..], &single) } else { steered(&name[1..], &pair) };
        options = options.cluster(cluster).route(route(name));
    }
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    all_known_to(&scene, &clients, &[(names[0], &pair), (names[1], &pair), (names[2], &single)]).await;
    pair[0].always(Action::status(503));
    single[0].always(Action::status(503));

    for name in names {
        drive_all(&clients, 2, 40, name).await;
    }

    are_out(&scene, "/one", &[&pair[0]]).await;
    pair[0].reset_counters();
    let records = drive_all(&clients, 2, 40, "/one").await;
    assert!(pair[0].requests() <= 1 && records.count(200) >= 39, "one of two: the other serves");

    assert_eq!(metric(&scene, "/none", "hosts_ejected").await, 0, "one of two is more than 10 %");
    assert!(metric(&scene, "/none", "ejections_overflow").await > 0);
    pair[0].reset_counters();
    drive_all(&clients, 2, 40, "/none").await;
    assert!(pair[0].requests() >= 15, "so it keeps its share: {}", pair[0].requests());

    are_out(&scene, "/single", &[&single[0]]).await;
    single[0].always(Action::ok());
    all_served(&drive_all(&clients, 2, 40, "/single").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_were_under_way_when_their_host_went_out_say_nothing_more() {
    let hosts: [Backend; 2] = start().await;
    let outlier = json!({"consecutive_failures": 3, "base_ejection_time": "1s", "ejection_jitter": 0});
    let (scene, clients) = scene_of(&hosts, 2, orders(outlier)).await;
    let late: SocketAddr = hosts[0].addr();
    hosts[0]
        .script(|seen| if seen.path == "/late" { Action::status(500).after(ms(1500)) } else { Action::status(500) });

    // Some wait at the host while others take it out, and end when its time is over.
    let slow: Vec<_> = (0..12).map(|number| clients[number % 2].open(Client::request("/late"))).collect();
    hosts[0].wait_in_flight(6).await.unwrap();
    drive_all(&clients, 2, 12, "/").await;
    are_out(&scene, "orders", &[&hosts[0]]).await;
    for request in slow {
        let _ = request.finish().await.unwrap();
    }
    sleep(SETTLED).await;
    let told = told_of(&scene, "orders", &hosts[0]);
    assert_eq!(told.len(), 1, "six late failures are no probe and no second ejection of {late}: {told:?}");

    hosts[0].always(Action::ok());
    all_served(&drive_all(&clients, 2, 20, "/").await);
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    assert_eq!(metric(&scene, "orders", "readmitted").await, 1);
}
