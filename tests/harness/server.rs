//! A server of somebody else's that tests run: in a directory of its own, on a free port of the loopback interface.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::envoy::from_environment;
use crate::watchdog::Watched;
use crate::{Client, PATIENCE, SendError, StartError, eventually};

/// A server that answers. Killed when dropped, and when the process that started it is gone.
#[derive(Debug)]
pub(crate) struct Server {
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

impl Server {
    /// Starts a binary in a directory with these files, each with its text, and waits until it is ready. Its arguments let the
    /// kernel choose its port.
    pub(crate) async fn start(binary: &Path, args: &[&str], files: &[(&str, &str)]) -> Result<Self, StartError> {
        let failed = |error: io::Error| StartError::before(format!("{}: {error}", binary.display()));
        let dir = TempDir::with_prefix("holdfast-server-").map_err(failed)?;
        for (name, text) in files {
            fs::write(dir.path().join(name), text).map_err(failed)?;
        }
        let log = dir.path().join("log");
        let out = File::create(&log).map_err(failed)?;
        let mut command = Command::new(binary);
        command
            .args(args)
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

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.client.addr()
    }

    /// What it answers, which is JSON.
    pub(crate) async fn get(&self, target: &str) -> Result<Value, SendError> {
        let response = self.client.get(target).await?;
        if response.status == 200 {
            Ok(response.json())
        } else {
            Err(SendError { status: Some(response.status), message: response.text() })
        }
    }
}

/// A server's command-line tool: the binary that `variable` names, or the one of this name beside the server's.
pub(crate) fn tool(variable: &str, name: &str, server: &str) -> Result<PathBuf, StartError> {
    if std::env::var_os(variable).is_some() {
        return from_environment(variable, name);
    }
    Ok(from_environment(server, "a server's binary")?.with_file_name(name))
}

/// The address in the log, where a port is chosen by the kernel: `msg="Listening on" address=127.0.0.1:46357`.
fn listens_on(log: &Path) -> Option<SocketAddr> {
    let log = fs::read_to_string(log).ok()?;
    let line = log.lines().find(|line| line.contains("\"Listening on\""))?;
    line.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
}
