//! The load at saturation: `wrk`, one thread, connections that are kept, each with its next request as soon as the last is
//! answered.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::Command;

use crate::cores::Cores;
use crate::request;

/// How many connections there are.
pub const CONNECTIONS: u32 = 32;

/// What it counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counted {
    /// Whole answers.
    pub requests: u64,
    /// How long it ran.
    pub seconds: f64,
    /// Answers outside 200..=399.
    pub errors: u64,
    /// Connections that could not be made, or broke, and requests that took more than two seconds.
    pub socket_errors: u64,
}

impl Counted {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// Reads what `wrk` prints at its end.
    fn parse(output: &str) -> anyhow::Result<Self> {
        let mut counted = Counted { requests: 0, seconds: 0.0, errors: 0, socket_errors: 0 };
        for line in output.lines().map(str::trim) {
            if let Some((requests, rest)) = line.split_once(" requests in ") {
                counted.requests = requests.parse()?;
                counted.seconds = seconds(rest.split(',').next().unwrap_or_default())?;
            } else if let Some(errors) = line.strip_prefix("Non-2xx or 3xx responses: ") {
                counted.errors = errors.parse()?;
            } else if let Some(errors) = line.strip_prefix("Socket errors: ") {
                let counts = errors.split(", ").filter_map(|count| count.split_once(' ')?.1.parse::<u64>().ok());
                counted.socket_errors = counts.sum();
            }
        }
        if counted.seconds > 0.0 { Ok(counted) } else { bail!("no count in what wrk printed:\n{output}") }
    }
}

/// A duration as `wrk` prints it: `980.12ms`, `3.10s`, `1.50m`.
fn seconds(text: &str) -> anyhow::Result<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().with_context(|| format!("{text} is not a duration"))?;
    Ok(match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        _ => bail!("{text} is not a duration"),
    })
}

/// Loads a listener for some time. With `tenants` the requests take turns in that many values of the header that tells them;
/// with a `body` of some length they are POSTs.
pub async fn run(
    addr: SocketAddr,
    connections: u32,
    tenants: Option<u32>,
    body: usize,
    time: Duration,
    core: Option<usize>,
    dir: &Path,
) -> anyhow::Result<Counted> {
    let mut words = Cores::prefix(core);
    words.push("wrk".to_owned());
    words.extend(["--threads", "1", "--connections"].map(str::to_owned));
    words.push(connections.to_string());
    // It takes whole seconds only. A signal ends it earlier, and it prints the same.
    let at_most = time.as_secs() + 2;
    words.extend(["--duration".to_owned(), format!("{at_most}s")]);
    for (name, value) in request::HEADERS {
        words.extend(["--header".to_owned(), format!("{name}: {value}")]);
    }
    if let Some(tenants) = tenants {
        let script = dir.join("tenants.lua");
        std::fs::File::create(&script)?.write_all(turns(tenants).as_bytes())?;
        words.extend(["--script".to_owned(), script.display().to_string()]);
    } else if body > 0 {
        let script = dir.join("body.lua");
        std::fs::write(&script, format!("wrk.method, wrk.body = \"POST\", string.rep(\"x\", {body})\n"))?;
        words.extend(["--script".to_owned(), script.display().to_string()]);
    }
    words.push(format!("http://{addr}{}", request::PATH));

    let (program, arguments) = words.split_first().context("a command has words")?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("wrk does not start: apt-get install wrk")?;
    let pid = child.id().map(i32::try_from).transpose()?;
    let interrupt = async {
        tokio::time::sleep(time).await;
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        std::future::pending::<()>().await;
    };
    let output = tokio::select! {
        output = child.wait_with_output() => output?,
        () = interrupt => bail!("wrk was left"),
    };
    if !output.status.success() {
        bail!("wrk failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Counted::parse(&String::from_utf8_lossy(&output.stdout))
}

/// A script that makes all requests beforehand, and then hands them out in turn.
fn turns(tenants: u32) -> String {
    format!(
        "local requests, turn = {{}}, 0\n\
         function init()\n\
         \x20 for tenant = 1, {tenants} do\n\
         \x20   wrk.headers[\"{}\"] = \"tenant-\" .. tenant\n\
         \x20   requests[tenant] = wrk.format()\n\
         \x20 end\n\
         end\n\
         function request()\n\
         \x20 turn = turn % {tenants} + 1\n\
         \x20 return requests[turn]\n\
         end\n",
        request::TENANT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_run_is_read() {
        let output = "Running 3s test @ http://127.0.0.1:8080/\n  1 threads and 32 connections\n  \
            Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.33ms    0.10ms   4.52ms   95.00%\n  \
            59232 requests in 3.10s, 12.31MB read\nRequests/sec:  19107.10\nTransfer/sec:      3.97MB\n";
        let counted = Counted::parse(output).unwrap();
        assert_eq!(counted, Counted { requests: 59232, seconds: 3.1, errors: 0, socket_errors: 0 });
        assert_eq!(counted.rate().round(), 19107.0);
    }

    #[test]
    fn errors_are_read() {
        let output = "  12 requests in 980.50ms, 1.00KB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  \
            Non-2xx or 3xx responses: 7\n";
        let counted = Counted::parse(output).unwrap();
        assert_eq!(counted, Counted { requests: 12, seconds: 0.9805, errors: 7, socket_errors: 10 });
    }

    #[test]
    fn what_is_no_result_is_an_error() {
        assert!(Counted::parse("unable to connect to 127.0.0.1:1 Connection refused\n").is_err());
        assert!(seconds("3 hours").is_err());
    }
}
