//! What `envoy/observability/` ships, and an outage for it to show.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Cluster, EnvoyOptions, PATIENCE, Prometheus, PrometheusOptions, Route, Scene, Seats, eventually,
};
use serde_json::json;

/// What is called a minute in the shipped files is so many times as long as in a hurried test. These are meant for a Prometheus
/// that scrapes every 15 seconds, and that of the tests does so every second.
const HASTE: u64 = 15;

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub const RECORDING: &str = "envoy/observability/recording-rules.yaml";
pub const ALERTING: &str = "envoy/observability/alerting-rules.yaml";

/// A file of rules, or a configuration of Alertmanager, for a time that runs [`HASTE`] times as fast: every range, and every
/// setting that is a time, is that much shorter. Names of rules, such as `...:rate5m`, stay.
pub fn hurried(text: &str) -> String {
    let range = regex::Regex::new(r"\[(?<time>\d+[smhd])\]").unwrap();
    let setting = regex::Regex::new(
        r"(?m)^(?<name>\s*(?:for|keep_firing_for|group_wait|group_interval|repeat_interval): )(?<time>\d+[smhd])$",
    )
    .unwrap();
    let text = range.replace_all(text, |found: &regex::Captures| format!("[{}]", shorter(&found["time"])));
    setting
        .replace_all(&text, |found: &regex::Captures| format!("{}{}", &found["name"], shorter(&found["time"])))
        .into_owned()
}

fn shorter(time: &str) -> String {
    let (count, unit) = time.split_at(time.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => 24 * 60 * 60,
    };
    format!("{}ms", count.parse::<u64>().unwrap() * seconds * 1000 / HASTE)
}

fn well() -> Action {
    Action::ok().after(Duration::from_millis(20))
}

/// The cluster `orders` of these hosts, with every feature that the shipped files look at, and its breaker soon open. What goes
/// to `/shadow` has all of that in shadow mode.
fn options(hosts: &[Backend; 3]) -> EnvoyOptions {
    let steered = hosts.iter().fold(Cluster::new("orders").steered(), |cluster, host| cluster.endpoint(host.addr()));
    let orders = json!({
        "name": "orders",
        "match": {"cluster": ["orders"]},
        "outcome": {"slow_after": "10s"},
        "breaker": {
            "window": 20, "min_requests": 20, "failure_rate": 50,
            "open_for": "8s", "open_jitter": 0, "open_growth": 1, "half_open": {"probes": 2},
        },
        "retry": {"max_retries": 1, "backoff": {"base": "1ms", "max": "1ms"}},
        "concurrency": {"max_requests": 1000},
        // Too generous to reject anything here.
        "throttle": {"success_rate": 10},
        // One host is out at most, and stays it.
        "outlier": {
            "consecutive_failures": 3, "consecutive_gateway_failures": 100, "consecutive_local_failures": 100,
            "failure_rate": {}, "success_rate": {}, "latency": {}, "base_ejection_time": "5m", "max_ejected": 34,
        },
        "fallback": [{"on": ["open"], "respond": {"status": 200, "body": {"items": []}}}],
    });
    let mut shadow = orders.clone();
    shadow["name"] = json!("shadow");
    shadow["mode"] = json!("shadow");
    shadow["match"] = json!({"path": ["/shadow"]});
    shadow["outlier"]["heartbeat"] = json!({"path": "/healthz"});
    EnvoyOptions::new()
        .cluster(steered)
        .seats(Seats::Both)
        .dynamic_listeners()
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": [shadow, orders]}))
}

/// An Envoy before three hosts, that a Prometheus scrapes.
pub struct Observed {
    pub scene: Scene,
    pub hosts: [Backend; 3],
    pub prometheus: Prometheus,
}

/// What an outage has shown to the client and to the hosts.
#[derive(Debug, Default)]
pub struct Counted {
    /// Requests that the client sent.
    pub requests: u64,
    /// Those that the service answered well.
    pub good: u64,
    /// Those that it failed, and that nothing else answered.
    pub failed: u64,
    /// Those that got the fallback for an open breaker.
    pub rejected: u64,
    /// What the hosts saw, retries among it.
    pub attempts: u64,
}

impl Observed {
    /// With these rules, hosts that answer well, and one request that has been scraped: so every counter is there, at what it
    /// then was, before anything is counted.
    pub async fn start(rules: Vec<String>) -> Self {
        let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap(), Backend::start().await.unwrap()];
        for host in &hosts {
            host.always(well());
        }
        let scene = Scene::with(options(&hosts)).await;
        let options = PrometheusOptions { rules, ..PrometheusOptions::default() };
        let prometheus = Prometheus::with(&[scene.admin_addr()], &options).await.unwrap();
        let observed = Self { scene, hosts, prometheus };
        assert_eq!(observed.scene.client.get("/").await.unwrap().status, 200);
        observed.becomes("holdfast_requests", |value| value == 1.0).await;
        observed
    }

    /// The only series that an expression is worth.
    pub async fn value(&self, expression: &str) -> Option<f64> {
        let samples = self.prometheus.query(expression).await.unwrap();
        assert!(samples.len() < 2, "{expression}: {samples:?}");
        samples.first().and_then(|(_, value)| value.parse().ok())
    }

    /// Waits until an expression has such a value.
    pub async fn becomes(&self, expression: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let found = eventually(PATIENCE, || async {
            let value = self.value(expression).await;
            value.filter(|value| wanted(*value)).ok_or_else(|| format!("{expression} is {value:?}"))
        });
        found.await.unwrap()
    }

    /// The samples of the only series that this selects, of the last five minutes, once there are any.
    pub async fn samples(&self, selector: &str) -> Vec<(f64, f64)> {
        let found = eventually(PATIENCE, || async {
            let mut series = self.prometheus.samples(selector, "5m").await.unwrap();
            assert!(series.len() < 2, "{selector}: {series:?}");
            series.pop().map(|(_, samples)| samples).ok_or_else(|| format!("no samples of {selector}"))
        });
        found.await.unwrap()
    }

    /// Has all hosts do the same.
    pub fn all(&self, action: &Action) {
        for host in &self.hosts {
            host.always(action.clone());
        }
    }

    /// Good answers, then failures until the breaker opens, then rejections, then probes and good answers again. One after the
    /// other, so that each counts. It ends when all of it has been scraped.
    pub async fn outage(&self) -> Counted {
        let mut counted = Counted::default();
        for host in &self.hosts {
            host.reset_counters();
        }
        for _ in 0..60 {
            self.send(&mut counted).await;
        }
        self.all(&Action::status(503));
        while self.scene.metric("breaker_state").await != 2 {
            self.send(&mut counted).await;
            assert!(counted.failed < 100, "half of the last 20 open it");
        }
        for _ in 0..30 {
            self.send(&mut counted).await;
        }
        // Open for so long that a scrape sees it.
        self.becomes("holdfast_breaker_state", |state| state == 2.0).await;
        self.all(&well());
        while self.scene.metric("breaker_state").await != 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.send(&mut counted).await;
            assert!(counted.requests < 1000, "good probes close it");
        }
        for _ in 0..20 {
            self.send(&mut counted).await;
        }
        counted.attempts = self.hosts.iter().map(|host| host.requests_to("/")).sum();
        // With the one before.
        let sent = counted.requests as f64 + 1.0;
        self.becomes("holdfast_requests", |requests| requests == sent).await;
        counted
    }

    async fn send(&self, counted: &mut Counted) {
        let response = self.scene.client.get("/").await.unwrap();
        counted.requests += 1;
        assert_eq!(response.header("x-holdfast-reject"), None, "a rejection has its fallback");
        match (response.status, response.header("x-holdfast-fallback")) {
            (200, None) => counted.good += 1,
            (200, Some(_)) => counted.rejected += 1,
            (503, None) => counted.failed += 1,
            other => panic!("the policy gives no such answer: {other:?}"),
        }
    }
}
