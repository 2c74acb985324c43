//! What an operator sees of ejections, what works with fewer seats, and what an update or a crash leaves as it is.

use holdfast_tests::{
    AccessLogEntry, Action, Backend, Client, EnvoyOptions, PATIENCE, Route, Scene, Seats, Traffic, Update, drive_all,
    eventually, fatal_request,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    NOTICED, SETTLED, Story, all_known, all_served, are_out, are_told_nothing, becomes, before, counts, is_fair,
    listed, logged, metric, metric_now, ms, orders, stage, start, steered, told, told_of,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told() {
    let shadow = json!({
        "mode": "shadow", "consecutive_failures": 5, "interval": "1s",
        "failure_rate": {"threshold": 50, "min_requests": 5, "min_hosts": 3},
    });
    let shadow = Story::of::<4>("/shadow", shadow).await;
    let enforced = listed(json!({
        "consecutive_failures": 4, "base_ejection_time": "1s", "ejection_jitter": 0, "interval": "60s",
    }));
    let enforced = Story::of::<3>("/enforced", enforced).await;
    let (scene, clients) = stage(4, &[&shadow, &enforced]).await;
    tokio::join!(
        in_shadow_mode_everything_is_told_and_nothing_is_done(&scene, &clients, &shadow),
        a_story_in_metrics_log_and_access_log(&scene, &clients, &enforced),
    );
}

async fn in_shadow_mode_everything_is_told_and_nothing_is_done(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    hosts[3].always(Action::status(500));

    let traffic = Traffic::start(clients, 8, ms(20), *name);
    for detector in ["failure_rate", "consecutive_failures"] {
        let would = format!("would_eject.{detector}");
        eventually(PATIENCE, || async { metric_now(scene, name, &would).await >= 1 }).await.expect(detector);
    }
    hosts.iter().for_each(Backend::reset_counters);
    traffic.goes_on(300).await.unwrap();
    traffic.stop().await;
    sleep(SETTLED).await;

    assert!(is_fair(&counts(hosts)), "every host keeps its share: {:?}", counts(hosts));
    let metrics = scene.metrics("shadow", "cluster=shadow").await;
    for (name, value) in &metrics {
        let is_done = ["ejections.", "hosts_ejected", "readmitted", "probe_failed", "ejections_overflow"];
        assert!(*value == 0 || !is_done.iter().any(|done| name.starts_with(done)), "{name} is {value}");
    }
    for detector in ["consecutive_failures", "failure_rate"] {
        let (would, detected) = (format!("would_eject.{detector}"), format!("ejections_detected.{detector}"));
        assert_eq!(metrics[&would], metrics[&detected], "{metrics:?}");
    }
    assert_eq!(metrics["hosts"], 4);
    let log = scene.log();
    let start = format!(" shadow/cluster=shadow (shadow): host {} would be ejected", hosts[3].addr());
    let told: Vec<&str> = log.lines().filter(|line| line.contains("would be ejected")).collect();
    assert!(told.iter().all(|line| line.contains(&start)), "{told:?}");
    assert!((1..=4).contains(&told.len()), "now and then, not for each request: {told:?}");
    assert!(told.iter().any(|line| line.contains("5 consecutive failures, last 500")), "{told:?}");
    let entries = logged(scene, name, 300).await;
    let steered = entries.iter().find(|entry| entry.holdfast_field("hosts_out").is_some());
    assert!(steered.is_none(), "{steered:?}");
    are_told_nothing(hosts);
}

async fn a_story_in_metrics_log_and_access_log(scene: &Scene, clients: &[Client], Story { name, hosts, .. }: &Story) {
    let counted = async || {
        let all = scene.metrics("enforced", "cluster=enforced").await;
        let of = |name: &str| all.get(name).copied().unwrap_or_default();
        json!({
            "hosts": of("hosts"), "out": of("hosts_ejected"), "ejections": of("ejections.consecutive_failures"),
            "detected": of("ejections_detected.consecutive_failures"), "overflow": of("ejections_overflow"),
            "readmitted": of("readmitted"), "probe_failed": of("probe_failed"),
        })
    };
    let expected = |out: u32, ejections: u32, readmitted: u32, probe_failed: u32| {
        json!({
            "hosts": 3, "out": out, "ejections": ejections, "detected": ejections, "overflow": 0,
            "readmitted": readmitted, "probe_failed": probe_failed,
        })
    };
    assert_eq!(counted().await, expected(0, 0, 0, 0));
    let quiet = logged(scene, name, 1).await;
    assert!(quiet.iter().all(|entry| entry.holdfast_field("hosts_out").is_none()), "nobody is out");
    let bad = &hosts[0];
    let address = bad.addr().to_string();
    let field = |entry: &AccessLogEntry, field: &str| entry.holdfast_field(field).map(str::to_owned);

    bad.always(Action::status(502));
    drive_all(clients, 4, 40, *name).await;
    are_out(scene, name, &[bad]).await;
    all_served(&drive_all(clients, 4, 40, "/enforced/steered").await);
    assert_eq!(counted().await, expected(1, 1, 0, 0));

    let traffic = Traffic::start(clients, 4, ms(10), "/enforced/probed");
    becomes(scene, name, "probe_failed", 1).await;
    bad.always(Action::ok());
    becomes(scene, name, "readmitted", 1).await;
    let probed = traffic.stop().await.0.len();
    becomes(scene, name, "hosts_ejected", 0).await;
    assert_eq!(counted().await, expected(0, 1, 1, 1));

    let told = told(scene, name);
    assert_eq!(told.len(), 3, "once over all workers: {told:?}");
    assert_eq!(told[0], format!("{address} ejected for 1s: 4 consecutive failures, last 502; 1 of 3 hosts out"));
    let failed = "failed its probe (502): out for 2s more, ejected 2 times; 1 of 3 hosts out";
    assert_eq!(told[1], format!("{address} {failed}"));
    let back = told[2].strip_prefix(&format!("{address} is back after ")).unwrap();
    assert!(back.ends_with("s: its probe succeeded; 0 of 3 hosts out"), "{back}");

    let steered = logged(scene, "/enforced/steered", 40).await;
    let is_marked = steered.iter().all(|entry| field(entry, "hosts_out").as_deref() == Some("1/3"));
    assert!(is_marked, "each steered request says how many were out: {steered:?}");
    assert!(steered.iter().all(|entry| entry.host.as_ref() != Some(&address)));
    let log = logged(scene, "/enforced/probed", probed).await;
    let probes: Vec<_> = log.iter().filter(|entry| entry.holdfast_field("probe").is_some()).collect();
    let told: Vec<_> = probes.iter().map(|entry| (field(entry, "probe").unwrap(), entry.code)).collect();
    assert_eq!(told, [(address.clone(), 502), (address.clone(), 200)], "two requests were its probes");
    assert!(probes.iter().all(|entry| entry.host.as_ref() == Some(&address)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempt_seat_in_the_router_does_as_well() {
    let hosts: [Backend; 5] = start().await;
    let mut policy = orders(json!({"consecutive_failures": 5}));
    policy["policies"][0]["retry"] = json!({
        "on": ["5xx"], "backoff": {"base": "1ms", "jitter": "none"}, "budget": {"min_per_second": 1000},
    });
    let scene = Scene::with(before(&hosts, 2, policy).seats(Seats::BothInRouter)).await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    hosts[0].always(Action::status(500));

    let records = drive_all(&clients, 5, 300, "/").await;

    all_served(&records);
    assert!(hosts[0].requests() <= 9, "{:?}", counts(&hosts));
    are_out(&scene, "orders", &[&hosts[0]]).await;
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_attempt_seat_the_last_attempts_are_judged() {
    let hosts: [Backend; 5] = start().await;
    let outlier =
        json!({"consecutive_failures": 5, "base_ejection_time": "2s", "ejection_jitter": 0, "interval": "60s"});
    let outlier = listed(outlier);
    let options = before(&hosts, 2, orders(outlier)).seats(Seats::Request);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    let bad = &hosts[4];
    bad.always(Action::status(500));

    let records = drive_all(&clients, 5, 300, "/").await;

    assert!(bad.requests() <= 9, "{:?}", counts(&hosts));
    assert_eq!(records.count(500) as u64, bad.requests());
    are_out(&scene, "orders", &[bad]).await;
    bad.reset_counters();
    let traffic = Traffic::start(&clients, 4, ms(5), "/");
    becomes(&scene, "orders", "probe_failed", 1).await;
    assert_eq!(bad.requests(), 1, "it is probed as it is with both seats");
    bad.always(Action::ok());
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    traffic.stop().await;

    bad.always(Action::reset());
    drive_all(&clients, 4, 100, "/").await;
    are_out(&scene, "orders", &[bad]).await;
    let told = told_of(&scene, "orders", bad).pop().unwrap();
    assert!(told.contains("5 consecutive failures, last reset"), "{told}");
}

/// The same policy behind another one: equal by content, in a different document.
fn among_others(mut document: Value, other: u64) -> Value {
    let policies = document["policies"].as_array_mut().unwrap();
    let outlier = json!({"consecutive_failures": other});
    policies.insert(0, json!({"name": "other", "match": {"path": ["/other"]}, "outlier": outlier}));
    document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_keeps_who_is_out_of_a_policy_that_it_does_not_change() {
    let hosts: [Backend; 3] = start().await;
    let outlier = |limit| orders(json!({"consecutive_failures": limit}));
    let scene = Scene::with(before(&hosts, 2, outlier(3)).dynamic_listeners()).await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    let bad = &hosts[1];
    bad.always(Action::status(500));
    drive_all(&clients, 2, 30, "/").await;
    are_out(&scene, "orders", &[bad]).await;

    for round in 1..=2 {
        assert_eq!(scene.update_policy(among_others(outlier(3), round)).await.unwrap(), Update::Accepted);
        let clients = scene.workers(2).await;
        bad.reset_counters();
        drive_all(&clients, 4, 100, "/").await;
        assert!(bad.requests() <= 1, "it is out as before, but for a look at who else there is: {}", bad.requests());
        assert_eq!(metric(&scene, "orders", "hosts_ejected").await, 1);
    }
    assert_eq!(told_of(&scene, "orders", bad).len(), 1, "and nothing is told again");

    assert_eq!(scene.update_policy(outlier(4)).await.unwrap(), Update::Accepted);
    let clients = scene.workers(2).await;
    bad.reset_counters();
    drive_all(&clients, 4, 100, "/").await;
    assert!(bad.requests() <= 1, "and so it is where the rules for hosts have changed: {}", bad.requests());
    becomes(&scene, "orders", "hosts_ejected", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_leaves_out_who_is_out() {
    let hosts: [Backend; 3] = start().await;
    let scene = Scene::with(before(&hosts, 2, orders(json!({}))).fragile()).await.with_faults();
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    let bad = &hosts[2];
    bad.always(Action::status(500));
    drive_all(&clients, 2, 40, "/").await;
    are_out(&scene, "orders", &[bad]).await;

    for client in &clients {
        assert_eq!(client.send(fatal_request("/")).await.unwrap().status, 503, "the worker's VM ends");
    }
    for client in &clients {
        eventually(PATIENCE, || async { client.get("/").await.unwrap().status == 200 }).await.expect("it comes back");
    }
    bad.reset_counters();
    // Not answered before the seats have met anew, for there is nothing to meet: their state is where it was.
    let records = drive_all(&clients, 4, 200, "/").await;

    assert!(bad.requests() <= 1, "the host is still out: {:?}", counts(&hosts));
    assert_eq!(records.count(200) as u64, 200 - bad.requests());
    assert_eq!(told_of(&scene, "orders", bad).len(), 1, "and nobody has found that out again");
    becomes(&scene, "orders", "hosts_ejected", 1).await;
    sleep(NOTICED).await;
    hosts[0].always(Action::status(500));
    drive_all(&clients, 2, 60, "/").await;
    sleep(SETTLED).await;
    assert!(metric(&scene, "orders", "ejections_overflow").await >= 1, "and the limit counts it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_of_one_key_have_their_hosts_apart() {
    let (here, there): ([Backend; 3], [Backend; 2]) = (start().await, start().await);
    let policy = json!({"policies": [{"name": "orders", "scope": [], "outlier": {"consecutive_failures": 3}}]});
    let options = EnvoyOptions::new().seats(Seats::Both).policy(policy).route(Scene::aside());
    let options = options.cluster(steered("here", &here)).route(Route::to("/here", "here"));
    let options = options.cluster(steered("there", &there)).route(Route::to("/there", "there"));
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    for _ in 0..2 {
        for path in ["/here", "/there"] {
            all_served(&drive_all(&clients, 4, 60, path).await);
        }
        sleep(NOTICED).await;
    }
    let of_all = async |name: &str| scene.metrics("orders", "all").await.get(name).copied().unwrap_or_default();
    eventually(PATIENCE, || async { of_all("hosts").await == 5 }).await.expect("the key has the hosts of both");

    here[0].always(Action::status(500));
    drive_all(&clients, 2, 30, "/here").await;
    eventually(PATIENCE, || async { of_all("hosts_ejected").await == 1 }).await.unwrap();
    there.iter().for_each(Backend::reset_counters);
    all_served(&drive_all(&clients, 2, 40, "/there").await);
    assert!(is_fair(&counts(&there)), "nobody is out there: {:?}", counts(&there));
    there[1].always(Action::status(500));
    drive_all(&clients, 2, 30, "/there").await;
    eventually(PATIENCE, || async { of_all("hosts_ejected").await == 2 })
        .await
        .expect("each cluster has its own limit");
    let client = Client::http1(scene.addr());
    for path in ["/here", "/there"] {
        assert!(client.drive(2, 40, path).await.count(200) >= 39, "{path} is steered to its own hosts");
    }
}
