//! A host that turns bad is out in time, whatever the way in which it is bad and whether anybody else notices; and never are
//! too many out. Counted at the hosts.

use holdfast_tests::{Action, Attempt, Backend, Client, Scene, Seats, Traffic, attempts, drive_all};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    SETTLED, Story, addrs, all_served, are_out, are_told_nothing, becomes, before, counts, is_fair, logged, metric,
    metrics, ms, orders, out, scene_of, stage, start, told, told_of,
};

/// One way for a host to be bad.
struct Way {
    story: Story,
    /// Whether the policy retries, so that no client sees it.
    is_hidden: bool,
    /// `None`: it refuses connections.
    action: Option<Action>,
    /// How the log tells the last failure.
    last: &'static str,
}

impl Way {
    async fn seen(name: &'static str, action: Action, last: &'static str) -> Self {
        let story = Story::of::<5>(name, json!({"consecutive_failures": 5})).await;
        Self { story, is_hidden: false, action: Some(action), last }
    }

    async fn hidden(name: &'static str, action: Option<Action>, last: &'static str) -> Self {
        let retry = json!({
            "on": ["5xx", "reset", "connect-failure"], "per_try_timeout": "600ms",
            "backoff": {"base": "1ms", "jitter": "none"}, "budget": {"ratio": 100, "min_per_second": 1000},
        });
        let story = Story::new::<5>(name, json!({"outlier": {"consecutive_failures": 5}, "retry": retry})).await;
        Self { story, is_hidden: true, action, last }
    }

    fn http2(mut self) -> Self {
        self.story = self.story.http2();
        self
    }
}

/// One of five hosts turns bad and gets at most nine of the next three hundred requests: the five that the limit needs, and
/// four that were under way. With retries no client notices.
async fn is_out_in_time(scene: &Scene, clients: &[Client], way: &Way) {
    let (hosts, name) = (&way.story.hosts, way.story.name);
    let bad = &hosts[2];
    let before = logged(scene, name, 0).await.len();
    match &way.action {
        Some(action) => bad.always(action.clone()),
        None => bad.refuse().await.unwrap(),
    }
    // Connections that were kept are noticed to be cut.
    sleep(SETTLED).await;

    let records = drive_all(clients, 5, 300, name).await;

    let log = logged(scene, name, before + 300).await;
    let of_bad = |one: &Attempt| one.host == bad.addr().to_string() && one.outcome.starts_with("failure:");
    let failed = log.iter().flat_map(attempts).filter(of_bad).count();
    assert!((5..=9).contains(&failed), "{name}: the bad host gets at most nine requests, not {failed}");
    if way.action.is_some() {
        assert_eq!(bad.requests(), failed as u64, "{name}: counted at the host");
    }
    let served = if way.is_hidden { 300 } else { 300 - failed };
    assert_eq!(records.count(200), served, "{name}: {:?}", records.statuses());
    let others: Vec<u64> = hosts.iter().filter(|host| host.addr() != bad.addr()).map(Backend::requests).collect();
    assert_eq!(others.iter().sum::<u64>(), served as u64, "{name}: the others serve the rest");
    assert!(is_fair(&others), "{name}: each its share: {others:?}");

    are_out(scene, name, &[bad]).await;
    let told = told_of(scene, name, bad);
    assert_eq!(told.len(), 1, "{name}: one line over all workers: {told:?}");
    let why = format!(": 5 consecutive failures, last {}; 1 of 5 hosts out", way.last);
    assert!(told[0].starts_with("ejected for 3") && told[0].ends_with(&why), "{name}: {}", told[0]);
    assert_eq!(metric(scene, name, "ejections.consecutive_failures").await, 1, "{name}");
    are_told_nothing(hosts);
}

/// One after the other: five requests are under way, and no more.
async fn are_out_in_time(workers: u32, ways: &[Way]) {
    let stories: Vec<&Story> = ways.iter().map(|way| &way.story).collect();
    let (scene, clients) = stage(workers, &stories).await;
    for way in ways {
        is_out_in_time(&scene, &clients, way).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_host_is_out_in_time_over_two_workers() {
    let ways = [
        Way::seen("/http1", Action::status(500), "500").await,
        Way::seen("/http2", Action::status(500), "500").await.http2(),
        Way::seen("/stream-reset", Action::reset_stream(), "reset").await.http2(),
        Way::hidden("/failing", Some(Action::status(500)), "500").await,
        Way::hidden("/failing-http2", Some(Action::status(503)), "503").await.http2(),
        Way::hidden("/hanging", Some(Action::hang()), "timeout").await,
    ];
    are_out_in_time(2, &ways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_attempt_seat_a_bad_host_that_speaks_for_one_is_out_in_time() {
    let hosts = start::<5>().await;
    let policy = orders(json!({"consecutive_failures": 5}));
    let scene = Scene::with(before(&hosts, 2, policy).seats(Seats::Request)).await;
    let clients = scene.workers(2).await;
    all_served(&drive_all(&clients, 5, 100, "/").await);
    let seats_own = [("x-holdfast-tries", "1"), ("x-holdfast-retry", "1"), ("x-envoy-ratelimited", "holdfast")];
    let bad = &hosts[2];
    bad.reset_counters();
    bad.always(seats_own.iter().fold(Action::status(500), |action, (name, value)| action.header(name, value)));

    let records = drive_all(&clients, 5, 300, "/").await;

    assert!((5..=9).contains(&bad.requests()), "the bad host gets at most nine requests, not {}", bad.requests());
    assert_eq!(records.count(500) as u64, bad.requests());
    are_out(&scene, "orders", &[bad]).await;
    for response in records.responses() {
        assert!(seats_own.iter().all(|(name, _)| !response.headers.contains_key(*name)), "{:?}", response.headers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_host_is_out_in_time_over_four_workers() {
    let ways = [
        Way::seen("/http1", Action::status(500), "500").await,
        Way::seen("/http2", Action::status(500), "500").await.http2(),
        Way::hidden("/failing", Some(Action::status(500)), "500").await,
        Way::hidden("/failing-http2", Some(Action::status(503)), "503").await.http2(),
        Way::hidden("/resetting", Some(Action::reset()), "reset").await,
        Way::hidden("/refusing", None, "connect_failure").await,
    ];
    are_out_in_time(4, &ways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_first_request_on_a_host_that_always_failed_is_found_too() {
    let hosts: [Backend; 5] = start().await;
    let scene = Scene::with(before(&hosts, 4, orders(json!({})))).await;
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
async fn never_too_many_hosts_are_out() {
    let limited = Story::of::<5>("/limited", json!({"consecutive_failures": 3, "interval": "60s"})).await;
    let unlimited = json!({"consecutive_failures": 3, "max_ejected": 100, "interval": "60s"});
    let unlimited = Story::of::<5>("/unlimited", unlimited).await;
    let small = |one: bool| json!({"consecutive_failures": 3, "max_ejected": 10, "always_eject_one": one});
    let one = Story::of::<2>("/one", small(true)).await;
    let none = Story::of::<2>("/none", small(false)).await;
    let single = Story::of::<1>("/single", small(true)).await;
    let late = json!({"consecutive_failures": 3, "base_ejection_time": "1s", "ejection_jitter": 0});
    let late = Story::of::<2>("/late", late).await;
    let (scene, clients) = stage(4, &[&limited, &unlimited, &one, &none, &single, &late]).await;

    tokio::join!(
        more_than_the_policy_allows_stay_in(&scene, &clients, &limited),
        below_the_panic_threshold_all_share_again(&scene, &clients, &unlimited),
        one_may_be_out_of_a_small_cluster(&scene, &clients, [&one, &none, &single]),
        what_was_under_way_says_nothing_more(&scene, &clients, &late),
    );
}

async fn more_than_the_policy_allows_stay_in(scene: &Scene, clients: &[Client], Story { name, hosts, .. }: &Story) {
    hosts.iter().for_each(|host| host.always(Action::status(500)));

    assert_eq!(drive_all(clients, 8, 400, *name).await.count(500), 400, "traffic goes on");

    becomes(scene, name, "hosts_ejected", 2).await;
    sleep(SETTLED).await;
    let metric = async |which: &str| metric(scene, name, which).await;
    assert_eq!(metric("hosts_ejected").await, 2, "two of five are 40 %, three would be 60 %");
    assert_eq!(metric("ejections.consecutive_failures").await, 2, "and there were never more");
    // In one reading: workers may still tell of more between two.
    let counted = metrics(scene, name).await;
    let [overflow, detected] = ["ejections_overflow", "ejections_detected.consecutive_failures"]
        .map(|which| counted.get(which).copied().unwrap_or_default());
    assert!(overflow >= 3, "the others were found as well: {overflow}");
    assert_eq!(detected, 2 + overflow, "a host that is found is ejected or too many");
    let told = told(scene, name);
    let kept: Vec<_> = told.iter().filter(|line| line.contains(" not ejected: ")).collect();
    assert!(!kept.is_empty() && kept.len() <= 3, "each of the three is told once, for now: {told:?}");
    let why = "3 consecutive failures, last 500; 2 of 5 hosts are out, at most 50%";
    assert!(kept.iter().all(|line| line.ends_with(why)), "{kept:?}");

    let out = out(scene, name);
    hosts.iter().for_each(Backend::reset_counters);
    drive_all(clients, 8, 300, *name).await;
    let (of_out, of_in): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| out.contains(&host.addr()));
    assert!(of_out.iter().map(|host| host.requests()).sum::<u64>() <= 1, "those that are out get nothing");
    let shares: Vec<u64> = of_in.iter().map(|host| host.requests()).collect();
    assert!(is_fair(&shares), "and the three that are in share it, bad as they are: {shares:?}");
    are_told_nothing(hosts);
}

async fn below_the_panic_threshold_all_share_again(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    for host in &hosts[..2] {
        host.always(Action::status(500));
    }
    drive_all(clients, 4, 100, *name).await;
    are_out(scene, name, &[&hosts[0], &hosts[1]]).await;
    hosts.iter().for_each(Backend::reset_counters);
    let records = drive_all(clients, 4, 100, *name).await;
    assert!(records.count(500) <= 1, "with three of five left nobody panics: {:?}", counts(hosts));

    hosts[2].always(Action::status(500));
    drive_all(clients, 4, 60, *name).await;
    are_out(scene, name, &[&hosts[0], &hosts[1], &hosts[2]]).await;
    hosts.iter().for_each(Backend::reset_counters);
    drive_all(clients, 4, 300, *name).await;
    assert!(is_fair(&counts(hosts)), "two of five are fewer than half: {:?}", counts(hosts));

    hosts.iter().for_each(|host| host.always(Action::status(500)));
    drive_all(clients, 4, 100, *name).await;
    becomes(scene, name, "hosts_ejected", 5).await;
    assert_eq!(out(scene, name), addrs(hosts), "all are found out");
    hosts.iter().for_each(Backend::reset_counters);
    assert_eq!(drive_all(clients, 4, 300, *name).await.count(500), 300);
    assert!(is_fair(&counts(hosts)), "and all share: {:?}", counts(hosts));
    are_told_nothing(hosts);
}

async fn one_may_be_out_of_a_small_cluster(scene: &Scene, clients: &[Client], [one, none, single]: [&Story; 3]) {
    for Story { name, hosts, .. } in [one, none, single] {
        hosts[0].always(Action::status(503));
        drive_all(clients, 4, 40, *name).await;
        hosts[0].wait_idle().await.unwrap();
    }

    are_out(scene, one.name, &[&one.hosts[0]]).await;
    one.hosts[0].reset_counters();
    let records = drive_all(clients, 4, 40, one.name).await;
    assert!(one.hosts[0].requests() <= 1 && records.count(200) >= 39, "one of two: the other serves");

    assert_eq!(metric(scene, none.name, "hosts_ejected").await, 0, "one of two is more than 10 %");
    assert!(metric(scene, none.name, "ejections_overflow").await > 0);
    none.hosts[0].reset_counters();
    drive_all(clients, 4, 40, none.name).await;
    assert!(none.hosts[0].requests() >= 15, "so it keeps its share: {}", none.hosts[0].requests());

    are_out(scene, single.name, &[&single.hosts[0]]).await;
    single.hosts[0].always(Action::ok());
    all_served(&drive_all(clients, 4, 40, single.name).await);
}

async fn what_was_under_way_says_nothing_more(scene: &Scene, clients: &[Client], Story { name, hosts, .. }: &Story) {
    let bad = &hosts[0];
    bad.script(
        |seen| if seen.path == "/late/slow" { Action::status(500).after(ms(1500)) } else { Action::status(500) },
    );

    // Some wait at the host while others take it out, and end when its time is over.
    let slow: Vec<_> = (0..16).map(|number| clients[number % 4].open(Client::request("/late/slow"))).collect();
    bad.wait_in_flight(8).await.unwrap();
    drive_all(clients, 4, 24, *name).await;
    are_out(scene, name, &[bad]).await;
    for request in slow {
        let _ = request.finish().await.unwrap();
    }
    sleep(SETTLED).await;
    let told = told_of(scene, name, bad);
    assert_eq!(told.len(), 1, "eight late failures are no probe and no second ejection: {told:?}");

    bad.always(Action::ok());
    all_served(&drive_all(clients, 4, 20, *name).await);
    becomes(scene, name, "hosts_ejected", 0).await;
    assert_eq!(metric(scene, name, "readmitted").await, 1);
}

/// How many hosts of ten were out after each line of the log.
fn out_of_ten(lines: &[String]) -> Vec<u64> {
    let count = |line: &String| line.rsplit("; ").next()?.split_once(" of 10 hosts ")?.0.parse().ok();
    lines.iter().filter_map(count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_while_every_host_comes_and_goes() {
    let hosts: [Backend; 10] = start().await;
    let outlier: Value = json!({
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

    let traffic = Traffic::start(&clients, 16, ms(2), "/");
    let mut most = 0;
    for _ in 0..40 {
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
