//! What each worker thread takes of memory: by how much an Envoy with five of them uses more than one with one, after a load.
//!
//! Used is what the process has of anonymous memory, less what its allocator holds free: compiling a module takes tens of MiB that
//! stay with the allocator, and that further workers would then fill unseen.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use procfs::process::Process;
use serde::Serialize;
use serde_json::json;

use crate::stage::{Stage, Subject};
use crate::wrk;

/// The cases whose memory is measured.
pub const CASES: [&str; 6] = ["none", "noop", "noop-2", "request-seat", "both-seats", "keys-256"];

/// The two numbers of workers.
const FEW: u32 = 1;
const MANY: u32 = 5;

/// Enough that the kernel gives every worker some.
const CONNECTIONS: u32 = 100;

/// How long the load lasts.
const LOAD: Duration = Duration::from_secs(1);

/// Until the connections are closed, and what is free has gone back to the system.
const SETTLE: Duration = Duration::from_millis(500);

/// Bytes that go back each time, more than there are.
const RELEASED: u64 = 1 << 30;

/// Bytes in a MiB.
const MIB: f64 = 1024.0 * 1024.0;

/// The memory of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// MiB with one worker.
    pub one_worker_mib: f64,
    /// MiB with five.
    pub five_workers_mib: f64,
    /// A fourth of the difference.
    pub per_worker_mib: f64,
}

/// Measures a case.
pub async fn measure(stage: &Stage, subject: &Subject) -> anyhow::Result<Sample> {
    let few = of_workers(stage, subject, FEW).await.with_context(|| format!("case {}", subject.label))?;
    let many = of_workers(stage, subject, MANY).await.with_context(|| format!("case {}", subject.label))?;
    let per_worker = (many - few) / f64::from(MANY - FEW);
    Ok(Sample { one_worker_mib: few, five_workers_mib: many, per_worker_mib: per_worker })
}

async fn of_workers(stage: &Stage, subject: &Subject, workers: u32) -> anyhow::Result<f64> {
    // So there is less to subtract.
    let releasing =
        json!({"memory_allocator_manager": {"bytes_to_release": RELEASED, "memory_release_interval": "0.05s"}});
    let envoy = stage.start_with(subject, workers, &releasing).await?;
    let tenants = subject.case.tenants;
    wrk::run(envoy.addr(), CONNECTIONS, tenants, 0, LOAD, stage.cores.load, envoy.dir()).await?;
    let stats = envoy.stats().await.map_err(|error| anyhow::anyhow!("the admin interface: {error}"))?;
    let served = stats.iter().filter(|(name, connections)| {
        name.starts_with("listener.127.0.0.1")
            && name.contains(".worker_")
            && name.ends_with(".downstream_cx_total")
            && **connections > 0
    });
    let served = served.count();
    ensure!(served == workers as usize, "only {served} of {workers} workers had connections");
    tokio::time::sleep(SETTLE).await;
    let page = envoy.admin_get("/memory").await.map_err(|error| anyhow::anyhow!("the admin interface: {error}"))?;
    let free = held_free(&page)?;
    Ok(anonymous(envoy.pid())?.saturating_sub(free) as f64 / MIB)
}

/// Resident bytes of a process that no file backs: its heap, the modules' memories and what V8 makes of their code.
fn anonymous(pid: u32) -> anyhow::Result<u64> {
    let rollup = Process::new(i32::try_from(pid)?)?.smaps_rollup()?;
    let maps = rollup.memory_map_rollup.into_iter();
    maps.filter_map(|map| map.extension.map.get("Anonymous").copied())
        .reduce(|a, b| a + b)
        .context("no anonymous memory")
}

/// Bytes that Envoy's allocator keeps for later, by the admin page `/memory`.
fn held_free(page: &str) -> anyhow::Result<u64> {
    let page: BTreeMap<String, String> = serde_json::from_str(page).context("the admin page /memory")?;
    let bytes =
        |name: &str| page.get(name).and_then(|bytes| bytes.parse::<u64>().ok()).with_context(|| format!("no {name}"));
    Ok(bytes("pageheap_free")? + bytes("total_thread_cache")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_read() {
        let page = r#"{"allocated": "9", "pageheap_free": "3555328", "total_thread_cache": "3350296"}"#;
        assert_eq!(held_free(page).unwrap(), 6_905_624);
        assert!(held_free("{}").is_err());
    }

    #[test]
    fn memory_that_is_written_counts() {
        let before = anonymous(std::process::id()).unwrap();
        let written = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = anonymous(std::process::id()).unwrap();
        assert!(after >= before + (32 << 20), "{before} {after}, {} bytes were written", written.len());
    }
}
