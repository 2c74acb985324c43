//! A running Prometheus that scrapes Envoys, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::envoy::from_environment;
use crate::server::{Server, tool};
use crate::{SendError, StartError};

/// One sample of an answer: labels with the metric's name under `__name__`, and the value as Prometheus writes it.
pub type Sample = (BTreeMap<String, String>, String);

/// One series of an answer over a time: its labels as in [`Sample`], and its samples, each with its time in seconds.
pub type Series = (BTreeMap<String, String>, Vec<(f64, f64)>);

/// What a Prometheus is to do beside scraping.
#[derive(Clone, Debug, Default)]
pub struct PrometheusOptions {
    /// Files of rules, as text. All are evaluated once a second.
    pub rules: Vec<String>,
    /// Where alerts are sent to.
    pub alertmanagers: Vec<SocketAddr>,
}

/// An alert that Prometheus holds.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its labels, `alertname` among them.
    pub labels: BTreeMap<String, String>,
    /// Whether it fires; it is pending otherwise.
    pub fires: bool,
}

/// A Prometheus of its own, on a free port of the loopback interface. Killed when dropped, and when the process that started it
/// is gone.
#[derive(Debug)]
pub struct Prometheus {
    server: Server,
}

impl Prometheus {
    /// Starts the binary that `HOLDFAST_PROMETHEUS` names, and lets it scrape the admin interfaces of Envoys once a second.
    ///
    /// # Errors
    /// When the variable is not set, or Prometheus is not ready within [`PATIENCE`](crate::PATIENCE).
    pub async fn start(envoys: &[SocketAddr]) -> Result<Self, StartError> {
        Self::with(envoys, &PrometheusOptions::default()).await
    }

    /// [`start`](Self::start) with rules, and with somebody to be told of alerts.
    ///
    /// # Errors
    /// When the variable is not set, or Prometheus is not ready within [`PATIENCE`](crate::PATIENCE). Rules that it cannot load
    /// keep it from starting.
    pub async fn with(envoys: &[SocketAddr], options: &PrometheusOptions) -> Result<Self, StartError> {
        let binary = from_environment("HOLDFAST_PROMETHEUS", "a Prometheus binary")?;
        let of = |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        let files: Vec<String> = (0..options.rules.len()).map(|index| format!("rules-{index}.yaml")).collect();
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": files,
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": of(&options.alertmanagers)}]}]},
            "scrape_configs": [{
                "job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": [{"targets": of(envoys)}],
            }],
        })
        .to_string();
        let mut written = vec![("prometheus.yml", config.as_str())];
        written.extend(files.iter().map(String::as_str).zip(options.rules.iter().map(String::as_str)));
        let args = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"];
        Ok(Self { server: Server::start(&binary, &args, &written).await? })
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

    /// What an expression was worth from `start` to `end`, both in seconds since 1970, each `step` seconds.
    ///
    /// # Errors
    /// When Prometheus does not answer, or refuses the expression.
    pub async fn query_range(&self, expression: &str, span: (f64, f64), step: f64) -> Result<Vec<Series>, SendError> {
        let query = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let (start, end) = span;
        let answer = self.page("query_range", &format!("query={query}&start={start}&end={end}&step={step}")).await?;
        let all = answer["result"].as_array().into_iter().flatten();
        Ok(all.filter_map(series).collect())
    }

    /// The samples of a series as they were scraped or recorded within the last `window`, such as `5m`.
    ///
    /// # Errors
    /// When Prometheus does not answer, or refuses the selector.
    pub async fn samples(&self, selector: &str, window: &str) -> Result<Vec<Series>, SendError> {
        let query = format!("{selector}[{window}]");
        let answer = self.page("query", &format!("query={}", utf8_percent_encode(&query, NON_ALPHANUMERIC))).await?;
        let all = answer["result"].as_array().into_iter().flatten();
        Ok(all.filter_map(series).collect())
    }

    /// The values that a label has, in the series of a metric.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub async fn label_values(&self, selector: &str, label: &str) -> Result<BTreeSet<String>, SendError> {
        let query = utf8_percent_encode(selector, NON_ALPHANUMERIC);
        let answer = self.page(&format!("label/{label}/values"), &format!("match%5B%5D={query}")).await?;
        Ok(answer.as_array().into_iter().flatten().filter_map(|value| Some(value.as_str()?.to_owned())).collect())
    }

    /// The alerts that fire or are about to.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub async fn alerts(&self) -> Result<Vec<Alert>, SendError> {
        let answer = self.page("alerts", "").await?;
        let alert =
            |alert: &Value| Some(Alert { labels: labels(&alert["labels"])?, fires: alert["state"] == "firing" });
        Ok(answer["alerts"].as_array().into_iter().flatten().filter_map(alert).collect())
    }

    /// The names of all rules, each with what was wrong with its last evaluation.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub async fn rules(&self) -> Result<Vec<(String, Option<String>)>, SendError> {
        let answer = self.page("rules", "").await?;
        let groups = answer["groups"].as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let fault = |rule: &Value| rule["lastError"].as_str().filter(|error| !error.is_empty()).map(str::to_owned);
        Ok(rules.map(|rule| (rule["name"].as_str().unwrap_or_default().to_owned(), fault(rule))).collect())
    }

    /// The `data` of an answer of its API.
    async fn page(&self, page: &str, query: &str) -> Result<Value, SendError> {
        self.server.get(&format!("/api/v1/{page}?{query}")).await.map(|mut answer| answer["data"].take())
    }
}

/// Runs promtool: the binary that `HOLDFAST_PROMTOOL` names, or the one beside `HOLDFAST_PROMETHEUS`.
///
/// # Errors
/// When neither variable is set, or it cannot be run.
pub fn promtool(args: &[PathBuf]) -> Result<Output, StartError> {
    let binary = tool("HOLDFAST_PROMTOOL", "promtool", "HOLDFAST_PROMETHEUS")?;
    let failed = |error| StartError::before(format!("{}: {error}", binary.display()));
    Command::new(&binary).args(args).output().map_err(failed)
}

fn labels(of: &Value) -> Option<BTreeMap<String, String>> {
    of.as_object()?.iter().map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn sample(result: &Value) -> Option<Sample> {
    Some((labels(&result["metric"])?, result["value"][1].as_str()?.to_owned()))
}

fn series(result: &Value) -> Option<Series> {
    let value = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?));
    let values = result["values"].as_array()?.iter();
    Some((labels(&result["metric"])?, values.map(value).collect::<Option<_>>()?))
}
