//! A running Prometheus that scrapes Envoys, and what it answers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::envoy::from_environment;
use crate::watchdog::Watched;
use crate::{Client, PATIENCE, SendError, StartError, eventually};

/// One sample of an answer: labels with the metric's name under `__name__`, and the value as Prometheus writes it.
pub type Sample = (BTreeMap<String, String>, String);

/// A Prometheus of its own, on a free port of the loopback interface. Killed when dropped, and when the process that started it
/// is gone.
#[derive(Debug)]
pub struct Prometheus {
    client: Client,
    // Ends before the directory goes.
    _process: Process,
    _dir: TempDir,
}

/// The child process, watched until it is ended.
#[derive(Debug)]
struct Process(Child, Option<Watched>);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.1 = None;
        let _ = self.0.wait();
    }
}

impl Prometheus {
    /// Starts the binary that `HOLDFAST_PROMETHEUS` names, and lets it scrape the admin interfaces of Envoys once a second.
    ///
    /// # Errors
    /// When the variable is not set, or Prometheus is not ready within [`PATIENCE`].
    pub async fn start(envoys: &[SocketAddr]) -> Result<Self, StartError> {
        let binary = from_environment("HOLDFAST_PROMETHEUS", "a Prometheus binary")?;
        let failed = |error: io::Error| StartError::before(format!("{}: {error}", binary.display()));
        let dir = TempDir::with_prefix("holdfast-prometheus-").map_err(failed)?;
        let (config, log) = (dir.path().join("prometheus.yml"), dir.path().join("log"));
        let targets: Vec<String> = envoys.iter().map(SocketAddr::to_string).collect();
        // JSON is YAML.
        let wanted = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{
                "job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": [{"targets": targets}],
            }],
        });
        fs::write(&config, wanted.to_string()).map_err(failed)?;
        let out = File::create(&log).map_err(failed)?;
        let mut command = Command::new(&binary);
        command
            .arg("--config.file")
            .arg(&config)
            .arg("--storage.tsdb.path")
            .arg(dir.path().join("data"))
            .args(["--web.listen-address", "127.0.0.1:0"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(failed)?)
            .stderr(out);
        let child = command.spawn().map_err(failed)?;
        let watched = Watched::begin(child.id());
        let process = Process(child, Some(watched));
        let not_ready = |error: &dyn std::fmt::Display| StartError {
            reason: format!("{} is not ready: {error}", binary.display()),
            status: None,
            log: fs::read_to_string(&log).unwrap_or_default(),
        };
        let client = eventually(PATIENCE, || async {
            let client = Client::http1(listens_on(&log)?);
            let answer = client.get("/-/ready").await.ok()?;
            (answer.status == 200).then_some(client)
        })
        .await
        .map_err(|error| not_ready(&error))?;
        Ok(Self { client, _process: process, _dir: dir })
    }

    /// What an expression is worth now.
    ///
    /// # Errors
    /// When Prometheus does not answer, or refuses the expression.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>, SendError> {
        let answer =
            self.page("query", &format!("query={}", utf8_percent_encode(expression, NON_ALPHANUMERIC))).await?;
        let samples = answer["result"].as_array().into_iter().flatten();
        Ok(samples.filter_map(sample).collect())
    }

    /// What Prometheus says of its targets: for each its health, and the error of the last scrape.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub async fn targets(&self) -> Result<Vec<(String, String)>, SendError> {
        let answer = self.page("targets", "state=active").await?;
        let text = |target: &Value, field: &str| target[field].as_str().unwrap_or_default().to_owned();
        let targets = answer["activeTargets"].as_array().into_iter().flatten();
        Ok(targets.map(|target| (text(target, "health"), text(target, "lastError"))).collect())
    }

    /// The `data` of an answer of its API.
    async fn page(&self, page: &str, query: &str) -> Result<Value, SendError> {
        let response = self.client.get(&format!("/api/v1/{page}?{query}")).await?;
        if response.status == 200 {
            Ok(response.json()["data"].take())
        } else {
            Err(SendError { status: Some(response.status), message: response.text() })
        }
    }
}

/// The address in the log, where a port is chosen by the kernel: `msg="Listening on" address=127.0.0.1:46357`.
fn listens_on(log: &Path) -> Option<SocketAddr> {
    let log = fs::read_to_string(log).ok()?;
    let line = log.lines().find(|line| line.contains("\"Listening on\""))?;
    line.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
}

fn sample(result: &Value) -> Option<Sample> {
    let labels = result["metric"].as_object()?.iter();
    let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect::<Option<_>>()?;
    Some((labels, result["value"][1].as_str()?.to_owned()))
}
