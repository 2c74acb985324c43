//! An Envoy with Holdfast in it, for the tests of the module: its metrics and transitions by name, a client on each
//! worker, and an end that no test can forget.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde_json::{Value, json};

use crate::{Backend, Client, Cluster, Envoy, EnvoyOptions, PATIENCE, Policy, Route, eventually, metric_name};

/// Answered by Envoy itself, past Holdfast: a connection can be made without a request that counts.
const ASIDE: &str = "/aside";

/// So many connections are tried until every worker has one. The kernel spreads them by a hash.
const MOST_CONNECTIONS: usize = 200;

/// What the log shows when a callback of the module failed.
const FAULTS: [&str; 4] = ["Function: proxy_", "Uncaught RuntimeError", "panicked", "already borrowed"];

/// A running Envoy with Holdfast.
///
/// When it is dropped Envoy must still be serving, and no callback of the module may have failed, unless that is meant; else
/// the test fails.
pub struct Scene {
    envoy: Envoy,
    /// A client with kept HTTP/1.1 connections, on no particular worker.
    pub client: Client,
    faults_are_meant: bool,
}

impl Deref for Scene {
    type Target = Envoy;

    fn deref(&self) -> &Envoy {
        &self.envoy
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.envoy.fmt(f)
    }
}

impl Scene {
    /// Options with one cluster, `orders`, and a route to it.
    #[must_use]
    pub fn of(orders: &Backend) -> EnvoyOptions {
        Self::of_all(&[orders])
    }

    /// Options with one cluster, `orders`, of all these hosts, and a route to it.
    #[must_use]
    pub fn of_all(orders: &[&Backend]) -> EnvoyOptions {
        let cluster = orders.iter().fold(Cluster::new("orders"), |cluster, host| cluster.endpoint(host.addr()));
        EnvoyOptions::new().cluster(cluster).route(Self::aside()).route(Route::to("/", "orders"))
    }

    /// The route that [`workers`](Self::workers) needs; it comes before others.
    #[must_use]
    pub fn aside() -> Route {
        Route::direct(ASIDE, 204, "").raw(json!({
            "typed_per_filter_config": {
                "holdfast": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true},
            },
        }))
    }

    /// Starts Envoy with this policy before [`Scene::of`] a backend.
    ///
    /// # Panics
    /// When Envoy does not start.
    pub async fn start(orders: &Backend, policy: impl Into<Policy>) -> Self {
        Self::with(Self::of(orders).policy(policy)).await
    }

    /// Starts Envoy with these options.
    ///
    /// # Panics
    /// When Envoy does not start.
    pub async fn with(options: EnvoyOptions) -> Self {
        let envoy = Envoy::start(options).await.expect("Envoy starts");
        let client = Client::http1(envoy.addr());
        Self { envoy, client, faults_are_meant: false }
    }

    /// Lets callbacks of the module fail, as those of an [`EnvoyOptions::fragile`] one are meant to.
    #[must_use]
    pub fn with_faults(mut self) -> Self {
        self.faults_are_meant = true;
        self
    }

    /// One client for each worker thread, with a single HTTP/2 connection that this worker serves. The first listener
    /// needs the route [`aside`](Self::aside).
    ///
    /// # Panics
    /// When so many workers are not found.
    pub async fn workers(&self, count: usize) -> Vec<Client> {
        let mut clients = BTreeMap::new();
        for _ in 0..MOST_CONNECTIONS {
            let before = self.connections().await;
            let client = Client::http2(self.envoy.addr());
            client.get(ASIDE).await.expect("Envoy answers this itself");
            let after = self.connections().await;
            let (worker, _) = after
                .iter()
                .find(|(worker, total)| **total > before.get(*worker).copied().unwrap_or_default())
                .expect("some worker took the connection");
            clients.entry(worker.clone()).or_insert(client);
            if clients.len() == count {
                return clients.into_values().collect();
            }
        }
        panic!("{MOST_CONNECTIONS} connections reached only the workers {:?}", clients.keys());
    }

    async fn connections(&self) -> BTreeMap<String, u64> {
        let of_workers = r"^listener\.127\.0\.0\.1.*\.worker_.*\.downstream_cx_total$";
        self.envoy.stats_like(of_workers).await.expect("the admin interface answers")
    }

    /// All metrics of one key of a policy, by the last part of their names, when they stand still.
    ///
    /// # Panics
    /// When the admin interface does not answer.
    pub async fn metrics(&self, policy: &str, key: &str) -> BTreeMap<String, u64> {
        let prefix = metric_name(policy, key, "");
        let stats = self.envoy.settled_stats(&prefix).await.expect("the admin interface answers");
        stats.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?.to_owned(), value))).collect()
    }

    /// One metric of a policy's key; 0 when it does not exist. A gauge as it is now, which is told at once; a counter when the
    /// key's stand still.
    ///
    /// # Panics
    /// When the admin interface does not answer.
    pub async fn metric_of(&self, policy: &str, key: &str, name: &str) -> u64 {
        if ["breaker_state", "hosts", "hosts_ejected"].contains(&name) {
            return self.metric_now(policy, key, name).await;
        }
        self.metrics(policy, key).await.get(name).copied().unwrap_or_default()
    }

    /// One metric of a policy's key as it is now; 0 when it does not exist.
    ///
    /// # Panics
    /// When the admin interface does not answer.
    pub async fn metric_now(&self, policy: &str, key: &str, name: &str) -> u64 {
        self.envoy.stat(&metric_name(policy, key, name)).await.expect("the admin interface answers")
    }

    /// One metric of the policy `orders` for the cluster `orders`, as [`Scene::metric_of`].
    ///
    /// # Panics
    /// When the admin interface does not answer.
    pub async fn metric(&self, name: &str) -> u64 {
        self.metric_of("orders", "cluster=orders", name).await
    }

    /// Waits until that metric has this value.
    ///
    /// # Panics
    /// When it does not get it within [`PATIENCE`].
    pub async fn becomes(&self, name: &str, value: u64) {
        eventually(PATIENCE, || async {
            let now = self.metric_now("orders", "cluster=orders", name).await;
            if now == value { Ok(()) } else { Err(format!("{name} is {now}, not {value}")) }
        })
        .await
        .expect("the metric gets the value");
    }

    /// The transitions that the log tells of a policy, each from the policy's name on, in order.
    #[must_use]
    pub fn transitions(&self, policy: &str) -> Vec<String> {
        let start = format!(" {policy}/");
        let told = |line: &str| line.find(&start).map(|at| line[at + 1..].to_owned());
        self.log().lines().filter(|line| line.contains(" -> ")).filter_map(told).collect()
    }

    /// The metrics named here, as a JSON object: to be compared as one.
    ///
    /// # Panics
    /// When the admin interface does not answer.
    pub async fn counted(&self, names: &[&str]) -> Value {
        let metrics = self.metrics("orders", "cluster=orders").await;
        names.iter().map(|name| ((*name).to_owned(), json!(metrics.get(*name).copied().unwrap_or_default()))).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.exit_status(), None, "Envoy runs to the end of the test");
        if self.faults_are_meant {
            return;
        }
        let log = self.log();
        let fault = log.lines().find(|line| FAULTS.iter().any(|fault| line.contains(fault)));
        assert_eq!(fault, None, "no callback of the module failed");
    }
}
