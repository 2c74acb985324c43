//! From an outage to whom it concerns: a real Prometheus with the shipped rules, a real Alertmanager with the shipped example.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_tests::{
    Action, Alert, Alertmanager, Backend, Client, Cluster, EnvoyOptions, Prometheus, PrometheusOptions, Received,
    Route, Scene, Seats, Traffic, amtool, eventually, fatal_request,
};
use serde_json::{Value, json};

use crate::observing::{ALERTING, RECORDING, hurried, path, text};

const EXAMPLE: &str = "envoy/observability/alertmanager.yaml";

/// Alerts come and go by the minute, fifteen times as fast, beside whatever else this machine does.
const LONG: Duration = Duration::from_secs(180);

#[test]
fn amtool_has_nothing_to_say_of_the_example() {
    let output = amtool(&[PathBuf::from("check-config"), path(EXAMPLE)]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two services, `orders` without a fallback and `covered` with one, each of three hosts and with a policy of its name.
fn options(hosts: &[Backend]) -> EnvoyOptions {
    let policy = |name: &str, fallback: Value| {
        json!({
            "name": name,
            "match": {"cluster": [name]},
            "breaker": {"window": "4s", "min_requests": 10, "open_for": "2s", "open_growth": 1, "half_open": {"probes": 2}},
            "outlier": {"consecutive_failures": 3, "base_ejection_time": "2s", "max_ejection_time": "2s", "max_ejected": 34},
            "fallback": fallback,
        })
    };
    let all = json!([{"on": ["open", "failure"], "respond": {"status": 200, "body": {"items": []}}}]);
    let policies = [policy("orders", json!([])), policy("covered", all)];
    let steered = |name: &str, hosts: &[Backend]| {
        hosts.iter().fold(Cluster::new(name).steered(), |cluster, host| cluster.endpoint(host.addr()))
    };
    EnvoyOptions::new()
        .cluster(steered("orders", &hosts[..3]))
        .cluster(steered("covered", &hosts[3..]))
        .seats(Seats::Both)
        .route(Route::to("/orders", "orders"))
        .route(Route::to("/covered", "covered"))
        .policy(json!({"policies": policies}))
}

/// The example, with its receivers at this address.
fn example(receivers: &Backend) -> String {
    let config = hurried(&text(EXAMPLE));
    assert_eq!(config.matches(".example/notify").count(), 3, "{EXAMPLE} has three receivers");
    let at = |config: String, name: &str| {
        config.replace(&format!("http://{name}.example/notify"), &format!("http://{}/{name}", receivers.addr()))
    };
    ["pager", "chat", "log"].into_iter().fold(config, at)
}

/// An alert and its policy.
type Name = (String, String);

fn name(labels: &BTreeMap<String, String>) -> Name {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    (label("alertname"), label("policy"))
}

/// What the receivers were told of: the receiver, the alert and its policy.
fn told(receivers: &Backend) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for request in receivers.seen() {
        let body: Value = serde_json::from_slice(&request.body).expect("Alertmanager sends JSON");
        for alert in body["alerts"].as_array().unwrap() {
            let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
            all.insert((request.path.clone(), label("alertname"), label("policy")));
        }
    }
    all
}

async fn received(alertmanager: &Alertmanager) -> BTreeMap<Name, Received> {
    alertmanager.alerts().await.unwrap().into_iter().map(|alert| (name(&alert.labels), alert)).collect()
}

async fn firing(prometheus: &Prometheus) -> BTreeSet<Name> {
    let alerts = prometheus.alerts().await.unwrap();
    alerts.iter().filter(|alert| alert.fires).map(|alert| name(&alert.labels)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_calls_somebody_once_and_is_over_when_it_is_over() {
    let mut hosts = Vec::new();
    for _ in 0..6 {
        hosts.push(Backend::start().await.unwrap());
    }
    let receivers = Backend::start().await.unwrap();
    let scene = Scene::with(options(&hosts)).await;
    let alertmanager = Alertmanager::start(&example(&receivers)).await.unwrap();
    let rules = [RECORDING, ALERTING].map(|file| hurried(&text(file))).to_vec();
    let options = PrometheusOptions { rules, alertmanagers: vec![alertmanager.addr()] };
    let prometheus = Prometheus::with(&[scene.admin_addr()], &options).await.unwrap();
    let clients = [Client::http1(scene.addr())];
    let traffic = ["/orders", "/covered"].map(|path| Traffic::start(&clients, 2, Duration::from_millis(100), path));

    eventually(LONG, || async {
        prometheus.query("policy_key:holdfast_requests:rate5m > 1").await.unwrap().len() == 2
    })
    .await
    .expect("both services have traffic");
    assert_eq!(firing(&prometheus).await, BTreeSet::new(), "nothing is wrong with good answers");

    hosts.iter().for_each(|host| host.always(Action::status(503)));
    let of = |policy: &'static str| move |alert: &str| (format!("Holdfast{alert}"), policy.to_owned());
    let mut expected: BTreeSet<Name> =
        ["BreakerOpen", "ErrorBudgetBurnFast", "ErrorBudgetBurnSlow", "ErrorBudgetBurnCreeping"]
            .map(of("orders"))
            .into();
    expected.extend(["BreakerOpen", "FallbackShare"].map(of("covered")));
    expected.extend(["orders", "covered"].map(|policy| of(policy)("HostsOut")));
    eventually(LONG, || async {
        let found = firing(&prometheus).await;
        if found.is_superset(&expected) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .expect("the alerts of an outage fire");

    // All of these have come, and only an open breaker is news.
    eventually(LONG, || async {
        let received = received(&alertmanager).await;
        let fault = expected.iter().find(|name| {
            let inhibited = name.0 != "HoldfastBreakerOpen";
            received.get(*name).is_none_or(|alert| alert.inhibited != inhibited)
        });
        fault.map_or(Ok(()), |name| Err(format!("{name:?}: {:?}", received.get(name))))
    })
    .await
    .expect("an open breaker inhibits the others of its policy");
    let open = &received(&alertmanager).await[&of("orders")("BreakerOpen")];
    assert_eq!(open.receivers, ["pager"]);
    eventually(LONG, || async {
        let told = told(&receivers);
        ["orders", "covered"].iter().all(|policy| {
            let (alert, policy) = of(policy)("BreakerOpen");
            told.contains(&("/pager".to_owned(), alert, policy))
        })
    })
    .await
    .expect("somebody is called for each");

    hosts.iter().for_each(|host| host.always(Action::ok()));
    // Those over half an hour and more last longer than a test.
    let lasting: BTreeSet<Name> = ["ErrorBudgetBurnSlow", "ErrorBudgetBurnCreeping"].map(of("orders")).into();
    eventually(LONG, || async {
        let found: BTreeSet<Name> = firing(&prometheus).await.difference(&lasting).cloned().collect();
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .expect("the alerts end with the outage");
    for traffic in traffic {
        traffic.stop().await;
    }

    let chat: BTreeSet<_> = told(&receivers).into_iter().filter(|(receiver, ..)| receiver == "/chat").collect();
    assert_eq!(chat, BTreeSet::new(), "fallbacks and hosts that are out were no news, neither then nor afterwards");
}

/// The alerts on an Envoy itself, each where there is a reason for it and nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_one_envoy_is_said_of_that_one() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "breaker": {}}]});
    let drops = json!({"exclusion_list": {"patterns": [{"prefix": "wasmcustom.holdfast."}]}});
    let well = Scene::with(Scene::of(&host).policy(&policy)).await;
    let blind = Scene::with(Scene::of(&host).stats_matcher(drops).policy(&policy)).await;
    let crashing = Scene::with(Scene::of(&host).fragile().concurrency(1).policy(&policy)).await.with_faults();
    let rules = [RECORDING, ALERTING].map(|file| hurried(&text(file))).to_vec();
    let options = PrometheusOptions { rules, ..PrometheusOptions::default() };
    let all = [well.admin_addr(), blind.admin_addr(), crashing.admin_addr()];
    let prometheus = Prometheus::with(&all, &options).await.unwrap();
    // That it was never reloaded must have been seen once.
    eventually(LONG, || async {
        prometheus.query("envoy_wasm_holdfast_vm_reload_success == 0").await.unwrap().len() == 3
    })
    .await
    .expect("all three are scraped");

    assert!(crashing.client.send(fatal_request("/")).await.unwrap().status >= 500, "the module crashes");
    for scene in [&well, &blind, &crashing] {
        eventually(LONG, || async { scene.client.get("/").await.unwrap().status == 200 }).await.expect("and is back");
    }

    let expected = BTreeSet::from([
        ("HoldfastMetricsMissing".to_owned(), blind.admin_addr().to_string()),
        ("HoldfastModuleReloaded".to_owned(), crashing.admin_addr().to_string()),
    ]);
    eventually(LONG, || async {
        let alerts = prometheus.alerts().await.unwrap();
        let label = |alert: &Alert, name: &str| alert.labels.get(name).cloned().unwrap_or_default();
        let found: BTreeSet<(String, String)> = alerts
            .iter()
            .filter(|alert| alert.fires)
            .map(|alert| (label(alert, "alertname"), label(alert, "instance")))
            .collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .expect("each of these alerts fires for its Envoy");
}
