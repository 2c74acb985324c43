//! What a run needs: the service's servers, an Envoy before them, and what can be read off both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use holdfast_tests::{Backend, Client, Cluster, Envoy, EnvoyOptions, Route};

use crate::change::Change;
use crate::scene::{Phase, Scene};

/// Envoy's workers. More than one, because sharing state between them is the hard part.
pub const WORKERS: u32 = 2;

/// What Envoy puts before the names of the module's metrics.
const STATS: &str = "wasmcustom.holdfast.policy.";

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
    servers: Vec<Backend>,
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
            let server = Backend::start().await.context("starting a server")?;
            cluster = cluster.endpoint(server.addr());
            servers.push(server);
        }
        let mut options = EnvoyOptions::new()
            .binary(readable(&parts.envoy)?)
            .wasm(readable(&parts.module)?)
            .concurrency(WORKERS)
            .cluster(cluster)
            .route(Route::to("/", scene.service));
        if with_holdfast {
            options = options.policy(scene.policy);
        }
        let envoy = Envoy::start(options).await?;
        Ok(Stage { servers, envoy, patience: scene.patience, log_read: 0 })
    }

    /// A client of this Envoy.
    pub fn client(&self) -> Client {
        Client::http1(self.envoy.addr()).timeout(self.patience)
    }

    /// Lets the servers behave as in this phase, from the next request on.
    pub fn set(&self, phase: &Phase) {
        for (number, server) in self.servers.iter().enumerate() {
            server.always((phase.hosts)(number));
        }
    }

    /// Requests that have arrived at the servers so far.
    pub fn arrived(&self) -> u64 {
        self.servers.iter().map(Backend::requests).sum()
    }

    /// The breakers' changes that Envoy has logged since the last call, as of now.
    pub fn changes(&mut self, now: Duration) -> Vec<Change> {
        let log = self.envoy.log();
        let fresh = log.get(self.log_read..).unwrap_or_default();
        // The last line may be half written.
        let whole = fresh.rfind('\n').map_or("", |end| fresh.get(..=end).unwrap_or_default());
        self.log_read += whole.len();
        whole.lines().filter_map(|line| Change::parse(line, now)).collect()
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
        let stats = self.envoy.stats().await.context("reading Envoy's statistics")?;
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

fn readable(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(std::path::absolute(path)?)
}
