//! How long requests take at a rate that no case is saturated by: `h2load` sends them at fixed moments, whatever the answers do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::process::Command;

use crate::cores::Cores;
use crate::request;
use crate::stage::{Stage, Subject};
use crate::statistics::percentile;
use crate::wrk;

/// The cases whose latency is measured.
pub const CASES: [&str; 7] = ["none", "noop", "noop-2", "request-seat", "both-seats", "native", "lua"];

/// From the start of one connection to that of the next.
const STAGGER: Duration = Duration::from_millis(4);

/// Until all have started, and some more.
const START: Duration = Duration::from_millis(200);

/// The part of the wanted rate that must have been reached.
const HELD: f64 = 0.95;

/// The latencies of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Requests a second that were sent.
    pub rate: f64,
    /// Microseconds that half of the requests did not exceed.
    pub p50_us: f64,
    /// Microseconds that 99 of 100 did not exceed.
    pub p99_us: f64,
    /// The requests.
    pub requests: usize,
}

/// Measures a case at `rate` requests a second.
pub async fn measure(
    stage: &Stage,
    subject: &Subject,
    rate: f64,
    warm_up: Duration,
    time: Duration,
) -> anyhow::Result<Sample> {
    let envoy = stage.start(subject, subject.case.workers).await?;
    wrk::run(envoy.addr(), wrk::CONNECTIONS, None, 0, warm_up, stage.cores.load, envoy.dir()).await?;
    let log = envoy.dir().join("requests.log");
    load(envoy.addr(), rate, time, stage.cores.load, &log).await?;
    let sample = parse(&std::fs::read_to_string(&log)?).and_then(Sample::of)?;
    if sample.rate < rate * HELD {
        bail!("case {}: h2load sent {:.0} requests a second and not {rate:.0}", subject.label, sample.rate);
    }
    Ok(sample)
}

/// Sends `rate` requests a second. `h2load` sends by the clock of each connection: these begin one after the other, so that their
/// requests are spread evenly and do not come in bursts.
async fn load(addr: SocketAddr, rate: f64, time: Duration, core: Option<usize>, log: &Path) -> anyhow::Result<()> {
    let mut words = Cores::prefix(core);
    words.extend(["h2load", "--h1", "--threads", "1", "--rate", "1"].map(str::to_owned));
    words.push(format!("--rate-period={}ms", STAGGER.as_millis()));
    words.push(format!("--clients={}", wrk::CONNECTIONS));
    words.push(format!("--requests={:.0}", rate * (time + START).as_secs_f64()));
    words.push(format!("--rps={:.3}", rate / f64::from(wrk::CONNECTIONS)));
    words.push(format!("--log-file={}", log.display()));
    for (name, value) in request::HEADERS {
        words.push(format!("--header={name}: {value}"));
    }
    words.push(format!("http://{addr}{}", request::PATH));
    let (program, arguments) = words.split_first().context("a command has words")?;
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(time * 3 + START, child)
        .await
        .with_context(|| format!("Envoy cannot serve {rate:.0} requests a second"))?
        .context("h2load does not start: apt-get install nghttp2-client")?;
    if !output.status.success() {
        bail!("h2load failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The rate nearest to `wanted`, from below, at which the requests of all connections come one by one: an odd number of them in
/// the time from one connection's start to the next's.
pub fn even_rate(wanted: f64) -> f64 {
    let within = (wanted * STAGGER.as_secs_f64()).floor().max(1.0);
    let odd = if within % 2.0 == 0.0 { within - 1.0 } else { within };
    odd / STAGGER.as_secs_f64()
}

/// A request of a log of `h2load`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    /// Microseconds since 1970.
    sent: f64,
    /// Microseconds until its whole answer.
    took: f64,
}

/// Reads a log of `h2load`: for each request when it was sent, its status, and how long it took.
fn parse(log: &str) -> anyhow::Result<Vec<Line>> {
    let line = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        match columns.as_slice() {
            [sent, "200", took] => Ok(Line { sent: sent.parse()?, took: took.parse()? }),
            [_, status, _] => bail!("a request was answered with {status}"),
            _ => bail!("{line:?} is no line of a log"),
        }
    };
    log.lines().map(line).collect()
}

impl Sample {
    /// Without the requests that were sent before all connections had begun, and those after the first had ended.
    fn of(mut lines: Vec<Line>) -> anyhow::Result<Self> {
        lines.sort_by(|one, other| one.sent.total_cmp(&other.sent));
        let first = lines.first().context("no request was answered")?.sent;
        let start = START.as_micros() as f64;
        let mut last = first;
        let mut took = Vec::with_capacity(lines.len());
        for line in lines.iter().filter(|line| line.sent - first >= start) {
            last = line.sent;
            took.push(line.took);
        }
        took.sort_by(f64::total_cmp);
        let percentile = |percent| percentile(&took, percent).context("too few requests");
        let (p50_us, p99_us) = (percentile(50.0)?, percentile(99.0)?);
        let rate = took.len() as f64 / (last - first - start) * 1e6;
        Ok(Sample { rate, p50_us, p99_us, requests: took.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "1732222222000001\t200\t431\n1732222222000009\t200\t299\n";
        let lines = parse(log).unwrap();
        assert_eq!(lines[1], Line { sent: 1_732_222_222_000_009.0, took: 299.0 });
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_failed_request_is_no_latency() {
        assert!(parse("1\t503\t12\n").unwrap_err().to_string().contains("503"));
        assert!(parse("1\t-1\t12\n").is_err());
        assert!(parse("1\t200\n").is_err());
    }

    #[test]
    fn the_beginning_does_not_count() {
        // A thousand a second for two seconds, slow in the first 200 ms.
        let line =
            |number: u32| Line { sent: f64::from(number) * 1000.0, took: if number < 200 { 9000.0 } else { 100.0 } };
        let sample = Sample::of((0..2000).map(line).collect()).unwrap();
        assert_eq!((sample.p50_us, sample.p99_us, sample.requests), (100.0, 100.0, 1800));
        assert!((sample.rate - 1000.0).abs() < 1.0, "{}", sample.rate);
        assert!(Sample::of(Vec::new()).is_err());
    }

    #[test]
    fn rates_spread_evenly() {
        assert_eq!(even_rate(8000.0), 7750.0);
        assert_eq!(even_rate(7750.0), 7750.0);
        assert_eq!(even_rate(10.0), 250.0);
    }
}
