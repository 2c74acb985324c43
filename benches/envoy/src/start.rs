//! How long Envoy takes to read its configuration, in which it compiles and configures the modules: `envoy --mode validate` from
//! its start to its end, on all cores.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::process::Command;

use crate::stage::{Stage, Subject};

/// The cases whose start is measured.
pub const CASES: [&str; 6] = ["none", "noop-lean", "noop", "request-seat", "noop-2", "both-seats"];

/// Longer than any start takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// One start.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Milliseconds.
    pub ms: f64,
}

/// Starts a case's configuration.
pub async fn measure(stage: &Stage, subject: &Subject) -> anyhow::Result<Sample> {
    // It stands in the directory of an Envoy that runs with it, and is idle.
    let envoy = stage.start(subject, subject.case.workers).await?;
    let config = envoy.dir().join("bootstrap.yaml");
    let ms = validate(stage, &config).await.with_context(|| format!("case {}", subject.label))?;
    Ok(Sample { ms })
}

async fn validate(stage: &Stage, config: &Path) -> anyhow::Result<f64> {
    fs::metadata(config)?;
    let mut command = Command::new(&stage.envoy);
    command.args(["--mode", "validate", "--concurrency", "1", "--log-level", "error"]);
    command.arg("--config-path").arg(config).stdin(Stdio::null()).kill_on_drop(true);
    let start = Instant::now();
    let output = tokio::time::timeout(PATIENCE, command.output()).await.context("Envoy does not end")??;
    let took = start.elapsed();
    if !output.status.success() {
        bail!("Envoy refuses the configuration: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(took.as_secs_f64() * 1e3)
}
