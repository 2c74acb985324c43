//! Ejection beside Envoy's own `outlier_detection`: the same hosts behind two clusters of one Envoy, the same settings, the
//! same traffic, and in the end the same hosts are out.
//!
//! What a host answers depends on how many requests of a case it has seen, so that each interval has the same shares for both.
//! The mixes leave no host near a threshold: the two look at their intervals at different moments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, Listener, PATIENCE, Scene, Seats, Traffic, drive_all, eventually,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{all_known_to, becomes, metric, ms, out, route, steered};

/// What a host does, as the requests of a case come to it.
#[derive(Clone, Copy)]
enum Does {
    /// So many of each hundred requests fail with this status, spread evenly.
    Fail(u64, u16),
    /// Every request ends with a reset.
    Reset,
}

const GOOD: Does = Does::Fail(0, 500);

/// So many percent of the requests fail with 500.
const fn fails(percent: u64) -> Does {
    Does::Fail(percent, 500)
}

impl Does {
    fn action(self, turn: u64) -> Action {
        match self {
            Does::Fail(percent, status) if turn * percent % 100 < percent && percent > 0 => Action::status(status),
            Does::Fail(..) => Action::ok(),
            Does::Reset => Action::reset(),
        }
    }
}

/// A mix of hosts, and which of them both have out in the end.
struct Case {
    name: &'static str,
    hosts: Vec<Does>,
    out: &'static [usize],
}

/// The settings of a detector, for both.
struct Detector {
    name: &'static str,
    /// A policy's `outlier`.
    holdfast: Value,
    /// `envoy.config.cluster.v3.OutlierDetection`.
    envoy: Value,
}

/// Nobody comes back, everybody may be out, and nothing but the detector that is added does anything.
fn detector(name: &'static str, holdfast: Value, envoy: Value) -> Detector {
    let mut ours = json!({
        "consecutive_failures": 0, "interval": "1s", "base_ejection_time": "300s", "max_ejected": 100,
        "panic_threshold": 0,
    });
    json_patch::merge(&mut ours, &holdfast);
    let mut theirs = json!({
        "consecutive_5xx": 1_000_000, "enforcing_consecutive_5xx": 0, "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0, "enforcing_consecutive_gateway_failure": 0,
        "interval": "1s", "base_ejection_time": "300s", "max_ejection_percent": 100,
    });
    json_patch::merge(&mut theirs, &envoy);
    Detector { name, holdfast: ours, envoy: theirs }
}

impl Case {
    fn of_holdfast(&self) -> String {
        format!("{}-holdfast", self.name)
    }

    fn of_envoy(&self) -> String {
        format!("{}-envoy", self.name)
    }

    /// Hosts that do what the case says, for each path by a count of its own, as soon as `begun` says so.
    async fn hosts(&self, begun: &Arc<Mutex<bool>>) -> Vec<Backend> {
        let mut hosts = Vec::new();
        for does in &self.hosts {
            let host = Backend::start().await.unwrap();
            let (does, begun, turns) = (*does, Arc::clone(begun), Mutex::new(BTreeMap::<String, u64>::new()));
            host.script(move |seen| {
                if !*begun.lock().unwrap() {
                    return Action::ok();
                }
                let mut turns = turns.lock().unwrap();
                let turn = turns.entry(seen.path.clone()).or_default();
                *turn += 1;
                does.action(*turn)
            });
            hosts.push(host);
        }
        hosts
    }
}

/// Runs these cases at the same time.
async fn both_have_the_same_hosts_out(detector: Detector, cases: &[Case]) {
    let begun = Arc::new(Mutex::new(false));
    let mut options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).route(Scene::aside());
    let mut native = Listener::new("native");
    let (mut hosts, mut policies) = (Vec::new(), Vec::new());
    for case in cases {
        let all = case.hosts(&begun).await;
        let (ours, theirs) = (case.of_holdfast(), case.of_envoy());
        let own = all.iter().fold(Cluster::new(&theirs), |cluster, host| cluster.endpoint(host.addr()));
        let own = own.without_attempt_seat().raw(json!({
            "outlier_detection": detector.envoy,
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        }));
        options = options.cluster(steered(&ours, &all)).cluster(own).route(route(&format!("/{ours}")));
        native = native.route(route(&format!("/{theirs}")));
        policies.push(json!({"name": ours, "match": {"path": [format!("/{ours}")]}, "outlier": detector.holdfast}));
        hosts.push(all);
    }
    let options = options.policy(json!({"policies": policies})).listener(native.route(Scene::aside()));
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    let native = [Client::http2(scene.listener("native")), Client::http2(scene.listener("native"))];
    let names: Vec<String> = cases.iter().map(|case| format!("/{}", case.of_holdfast())).collect();
    let known: Vec<(&str, &[Backend])> =
        names.iter().map(String::as_str).zip(hosts.iter().map(Vec::as_slice)).collect();
    all_known_to(&scene, &clients, &known).await;
    for case in cases {
        drive_all(&native, 4, 20, format!("/{}", case.of_envoy()).as_str()).await;
    }

    // No interval holds answers from before the hosts are bad.
    sleep(ms(1100)).await;
    *begun.lock().unwrap() = true;
    let traffic = |clients: &[Client], path: String| Traffic::start(clients, 4, ms(20), path.as_str());
    let ours: Vec<_> = cases.iter().map(|case| traffic(&clients, format!("/{}", case.of_holdfast()))).collect();
    let theirs: Vec<_> = cases.iter().map(|case| traffic(&native, format!("/{}", case.of_envoy()))).collect();
    for (case, hosts) in cases.iter().zip(&hosts) {
        let expected: BTreeSet<SocketAddr> = case.out.iter().map(|number| hosts[*number].addr()).collect();
        eventually(PATIENCE, || async {
            let (ours, theirs) = (out(&scene, &case.of_holdfast()), out_by_envoy(&scene, case).await);
            if ours == expected && theirs == expected {
                return Ok(());
            }
            let of = |out: &BTreeSet<SocketAddr>| {
                let numbers = hosts.iter().enumerate().filter(|(_, host)| out.contains(&host.addr()));
                numbers.map(|(number, _)| number).collect::<Vec<_>>()
            };
            Err(format!(
                "{}, {}: Holdfast has {:?} out, Envoy {:?}, expected are {:?}",
                detector.name,
                case.name,
                of(&ours),
                of(&theirs),
                case.out
            ))
        })
        .await
        .unwrap();
    }
    // Whole intervals of both in which nothing more is found.
    sleep(Duration::from_millis(2200)).await;
    for going in ours.into_iter().chain(theirs) {
        going.stop().await;
    }

    for (case, hosts) in cases.iter().zip(&hosts) {
        let told = format!("{}, {}", detector.name, case.name);
        let (ours, theirs) = (out(&scene, &case.of_holdfast()), out_by_envoy(&scene, case).await);
        assert_eq!(ours, theirs, "{told}: the same hosts are out");
        assert_eq!(ours.len(), case.out.len(), "{told}");
        let name = case.of_holdfast();
        becomes(&scene, &name, "hosts_ejected", ours.len() as u64).await;
        assert_eq!(metric(&scene, &name, &format!("ejections.{}", detector.name)).await, ours.len() as u64, "{told}");
        let active = format!("cluster.{}.outlier_detection.ejections_active", case.of_envoy());
        assert_eq!(scene.stat(&active).await.unwrap(), theirs.len() as u64, "{told}");
        let seen = |path: &str| hosts.iter().map(|host| host.requests_to(path)).sum::<u64>();
        let both = [seen(&format!("/{name}")), seen(&format!("/{}", case.of_envoy()))];
        println!("{told}: {} of {} hosts are out by both, after {both:?} requests", ours.len(), hosts.len());
    }
}

async fn out_by_envoy(scene: &Scene, case: &Case) -> BTreeSet<SocketAddr> {
    let hosts = scene.hosts(&case.of_envoy()).await.unwrap();
    hosts.into_iter().filter(|(_, is_out)| *is_out).map(|(host, _)| host).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consecutive_failures_as_consecutive_5xx() {
    const ALWAYS: Does = fails(100);
    let same = detector(
        "consecutive_failures",
        json!({"consecutive_failures": 5}),
        json!({"consecutive_5xx": 5, "enforcing_consecutive_5xx": 100}),
    );
    let cases = [
        Case { name: "one", hosts: vec![GOOD, ALWAYS, GOOD, GOOD, GOOD], out: &[1] },
        Case { name: "two", hosts: vec![Does::Fail(100, 503), GOOD, GOOD, Does::Reset], out: &[0, 3] },
        Case { name: "most", hosts: vec![ALWAYS, ALWAYS, GOOD, ALWAYS, ALWAYS], out: &[0, 1, 3, 4] },
        // Never more than two in a row, or three where two requests overtake each other.
        Case { name: "mixed", hosts: vec![fails(50), GOOD, fails(60), ALWAYS], out: &[3] },
        Case { name: "client-errors", hosts: vec![Does::Fail(100, 404), Does::Fail(100, 429), GOOD], out: &[] },
    ];
    both_have_the_same_hosts_out(same, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_rate_as_failure_percentage() {
    let same = detector(
        "failure_rate",
        json!({"failure_rate": {"threshold": 85, "min_requests": 5, "min_hosts": 3}}),
        json!({
            "failure_percentage_threshold": 85, "enforcing_failure_percentage": 100,
            "failure_percentage_request_volume": 5, "failure_percentage_minimum_hosts": 3,
        }),
    );
    let cases = [
        Case { name: "one", hosts: vec![GOOD, fails(95), GOOD, fails(10)], out: &[1] },
        Case { name: "near", hosts: vec![fails(70), fails(96), fails(70), fails(96), fails(50)], out: &[1, 3] },
        Case { name: "all", hosts: vec![fails(100), Does::Reset, fails(100)], out: &[0, 1, 2] },
        Case { name: "none", hosts: vec![fails(70), fails(60), fails(70), GOOD], out: &[] },
        Case { name: "few", hosts: vec![fails(100), GOOD], out: &[] },
    ];
    both_have_the_same_hosts_out(same, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success_rate_as_success_rate() {
    let same = detector(
        "success_rate",
        json!({"success_rate": {"stdev_factor": 1.9, "min_requests": 5, "min_hosts": 5}}),
        json!({
            "success_rate_stdev_factor": 1900, "enforcing_success_rate": 100, "success_rate_request_volume": 5,
            "success_rate_minimum_hosts": 5,
        }),
    );
    let cases = [
        // A single host that is worse than four equal ones is out by two standard deviations.
        Case { name: "one", hosts: vec![GOOD, GOOD, fails(60), GOOD, GOOD], out: &[2] },
        // Two that are equally bad hide each other: 100 % and 50 % of 80 % +- 24.5 %.
        Case { name: "pair", hosts: vec![GOOD, fails(50), GOOD, fails(50), GOOD], out: &[] },
        // The worst first: 0 % is below 80 % - 1.9 x 35 %. Then the other is alone.
        Case { name: "worst", hosts: vec![GOOD, GOOD, fails(100), GOOD, GOOD, fails(40), GOOD], out: &[2, 5] },
        Case { name: "equal", hosts: vec![fails(100), fails(100), fails(100), fails(100), fails(100)], out: &[] },
        Case { name: "few", hosts: vec![GOOD, GOOD, fails(100), GOOD], out: &[] },
    ];
    both_have_the_same_hosts_out(same, &cases).await;
}
