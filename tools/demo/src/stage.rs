//! What a run needs: the service's servers, an Envoy before them, and what can be read off both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use holdfast_tests::{Action, Backend, Client, Cluster, Envoy, EnvoyOptions, Route};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::change::Change;
use crate::ejection::Told;
use crate::perform::Event;
use crate::recording::Arrival;
use crate::scene::{Phase, Scene};
use crate::server::Server;

/// Envoy's workers. More than one, because sharing state between them is the hard part.
pub const WORKERS: u32 = 2;

/// Envoy's own ceiling of concurrent retries in a cluster, out of the way: by default it is 3.
const UNLIMITED: u32 = u32::MAX;

/// What an answer of the standby takes.
const STANDBY_TAKES: Duration = Duration::from_millis(8);

/// What Envoy puts before the names of the module's metrics.
const STATS: &str = "wasmcustom.holdfast.policy=.=";

/// The parts to run.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The module.
    pub module: PathBuf,
    /// The Envoy binary.
    pub envoy: PathBuf,
}

/// Running servers and their Envoy. All of it ends when this is dropped.
pub struct Stage {
    servers: Vec<Server>,
    standby: Option<Backend>,
    envoy: Envoy,
    patience: Duration,
    log_read: usize,
}

impl Stage {
    /// Starts everything, with Holdfast in Envoy or without.
    pub async fn start(scene: &Scene, parts: &Parts, with_holdfast: bool) -> anyhow::Result<Self> {
        let mut cluster = Cluster::new(scene.service);
        let mut servers = Vec::new();
        for _ in 0..scene.hosts {
            let share = scene.capacity.map(|capacity| capacity / u32::try_from(scene.hosts).unwrap_or(u32::MAX));
            let server = Server::start(share).await.context("starting a server")?;
            cluster = server.join(cluster);
            servers.push(server);
        }
        let mut routes = vec![Route::to("/", scene.service)];
        let mut options =
            EnvoyOptions::new().binary(readable(&parts.envoy)?).wasm(readable(&parts.module)?).concurrency(WORKERS);
        let mut standby = None;
        if let Some(name) = scene.standby {
            let host = Backend::start().await.context("starting the standby")?;
            host.always(Action::ok().after(STANDBY_TAKES));
            options = options.cluster(Cluster::new(name).endpoint(host.addr()));
            routes.insert(0, Route::chosen_by_fallback(name));
            standby = Some(host);
        }
        if with_holdfast {
            options = options.seats(scene.seats).policy(scene.policy);
            if scene.steers() {
                cluster = cluster.steered();
            }
        } else {
            cluster = cluster.raw(scene.without.cluster.clone());
            if let Some(policy) = &scene.without.retry_policy {
                routes.insert(0, retried(scene, policy));
                cluster = cluster.raw(json!({"circuit_breakers": {"thresholds": [{"max_retries": UNLIMITED}]}}));
            }
        }
        let options = routes.into_iter().fold(options.cluster(cluster), EnvoyOptions::route);
        let envoy = Envoy::start(options).await?;
        Ok(Stage { servers, standby, envoy, patience: scene.patience, log_read: 0 })
    }

    /// A client of this Envoy.
    pub fn client(&self) -> Client {
        Client::http1(self.envoy.addr()).timeout(self.patience)
    }

    /// Lets the servers behave as in this phase, from the next attempt on.
    pub fn set(&self, phase: &Phase) {
        for (number, server) in self.servers.iter().enumerate() {
            server.follow((phase.servers)(number));
        }
    }

    /// The attempts that have reached each server so far.
    pub fn attempts(&self, start: Instant) -> Vec<Vec<Arrival>> {
        self.servers.iter().map(|server| server.attempts(start.into_std())).collect()
    }

    /// The requests that have reached the standby so far.
    pub fn at_standby(&self) -> u64 {
        self.standby.as_ref().map_or(0, Backend::requests)
    }

    /// What Envoy has logged of breakers and of hosts since the last call, as of now.
    pub fn events(&mut self, now: Duration) -> Vec<Event> {
        let addresses: Vec<String> = self.servers.iter().map(|server| server.addr().to_string()).collect();
        let log = self.envoy.log();
        let fresh = log.get(self.log_read..).unwrap_or_default();
        // The last line may be half written.
        let whole = fresh.rfind('\n').map_or("", |end| fresh.get(..=end).unwrap_or_default());
        self.log_read += whole.len();
        let told = |line: &str| Told::parse(line, &addresses, now).map(Event::Told);
        whole.lines().filter_map(|line| Change::parse(line, now).map(Event::Change).or_else(|| told(line))).collect()
    }

    /// Fails when Envoy is no longer there.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.envoy.exit_status() {
            Some(status) => bail!("Envoy ended in the middle of the run ({status})\n{}", self.envoy.log()),
            None => Ok(()),
        }
    }

    /// Holdfast's metrics, by their names from the policy's on.
    pub async fn stats(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let stats = self.envoy.settled_stats(STATS).await.context("reading Envoy's statistics")?;
        let ours = |(name, value): (String, u64)| Some((name.strip_prefix(STATS)?.to_owned(), value));
        Ok(stats.into_iter().filter_map(ours).collect())
    }

    /// Envoy's version: `1.40.0`.
    pub async fn envoy_version(&self) -> anyhow::Result<String> {
        let info = self.envoy.admin_get("/server_info").await.context("asking Envoy for its version")?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        // commit/1.40.0/state/build/library
        let version = info.get("version").and_then(|version| version.as_str()?.split('/').nth(1));
        Ok(version.unwrap_or("of unknown version").to_owned())
    }
}

/// The route of the requests that Envoy itself retries.
fn retried(scene: &Scene, policy: &Value) -> Route {
    let route = Route::to("/", scene.service).retry_policy(policy.clone());
    match &scene.without.retried {
        None => route,
        Some(method) => {
            let is_it = json!([{"name": ":method", "string_match": {"exact": method.as_str()}}]);
            route.raw(json!({"match": {"headers": is_it}}))
        }
    }
}

fn readable(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(std::path::absolute(path)?)
}
