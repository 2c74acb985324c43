//! A running Alertmanager, and what it makes of the alerts that it is sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::envoy::from_environment;
use crate::server::{Server, tool};
use crate::{SendError, StartError};

/// An alert that Alertmanager holds.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its labels, `alertname` among them.
    pub labels: BTreeMap<String, String>,
    /// Whether another alert keeps it from being notified.
    pub inhibited: bool,
    /// Who is notified of it.
    pub receivers: Vec<String>,
}

/// An Alertmanager of its own, on a free port of the loopback interface, without peers. Killed when dropped, and when the process
/// that started it is gone.
#[derive(Debug)]
pub struct Alertmanager {
    server: Server,
}

impl Alertmanager {
    /// Starts the binary that `HOLDFAST_ALERTMANAGER` names with this configuration.
    ///
    /// # Errors
    /// When the variable is not set, or Alertmanager is not ready within [`PATIENCE`](crate::PATIENCE).
    pub async fn start(config: &str) -> Result<Self, StartError> {
        let binary = from_environment("HOLDFAST_ALERTMANAGER", "an Alertmanager binary")?;
        let args = [
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            "--web.listen-address=127.0.0.1:0",
            // No gossip.
            "--cluster.listen-address=",
        ];
        // Debian's reads these in the directory that it is started in (scripts/prometheus.sh); others have them inside.
        let template = |name| std::fs::read_to_string(binary.with_file_name(name)).unwrap_or_default();
        let (default, email) = (template("default.tmpl"), template("email.tmpl"));
        let files = [("alertmanager.yml", config), ("default.tmpl", &default), ("email.tmpl", &email)];
        Ok(Self { server: Server::start(&binary, &args, &files).await? })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The alerts that fire.
    ///
    /// # Errors
    /// When Alertmanager does not answer.
    pub async fn alerts(&self) -> Result<Vec<Received>, SendError> {
        let answer = self.server.get("/api/v2/alerts").await?;
        Ok(answer.as_array().into_iter().flatten().filter_map(received).collect())
    }
}

/// Runs amtool: the binary that `HOLDFAST_AMTOOL` names, or the one beside `HOLDFAST_ALERTMANAGER`.
///
/// # Errors
/// When neither variable is set, or it cannot be run.
pub fn amtool(args: &[PathBuf]) -> Result<Output, StartError> {
    let binary = tool("HOLDFAST_AMTOOL", "amtool", "HOLDFAST_ALERTMANAGER")?;
    let failed = |error| StartError::before(format!("{}: {error}", binary.display()));
    Command::new(&binary).args(args).output().map_err(failed)
}

fn received(alert: &Value) -> Option<Received> {
    let labels = alert["labels"].as_object()?.iter();
    let receivers = alert["receivers"].as_array()?.iter();
    Some(Received {
        labels: labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect::<Option<_>>()?,
        inhibited: !alert["status"]["inhibitedBy"].as_array()?.is_empty(),
        receivers: receivers.filter_map(|receiver| Some(receiver["name"].as_str()?.to_owned())).collect(),
    })
}
