//! Where a figure was measured.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use procfs::{Current, CurrentSI, KernelStats};
use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many cores there are.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn this(cores: usize) -> anyhow::Result<Self> {
        let processors = procfs::CpuInfo::current()?;
        let cpu = processors.model_name(0).unwrap_or("unknown").trim().to_owned();
        let kernel = procfs::sys::kernel::Version::current()?;
        Ok(Machine { cpu, cores, kernel: format!("{}.{}.{}", kernel.major, kernel.minor, kernel.patch) })
    }
}

/// Lets one bench at a time measure on this machine: two would measure each other. The lock goes with what is returned.
pub fn lock() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join("holdfast-bench.lock");
    let file = File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
    if file.try_lock().is_err() {
        eprintln!("another bench runs on this machine: waiting for its end");
        file.lock()?;
    }
    Ok(file)
}

/// What the cores have done since the machine started, in ticks of the kernel's clock.
pub struct Ticks {
    busy: u64,
    stolen: u64,
    at: Instant,
}

/// What else there was while something was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Disturbance {
    /// Percent of the time of Envoy's core, or of all, in which other programs had it.
    pub others: f64,
    /// Percent of the time in which the machine below this virtual one had it.
    pub stolen: f64,
}

impl Ticks {
    /// So far, of one core or of all.
    pub fn now(core: Option<usize>) -> anyhow::Result<Self> {
        let stat = KernelStats::current()?;
        let time = core.and_then(|core| stat.cpu_time.get(core)).unwrap_or(&stat.total);
        let waits = time.irq.unwrap_or_default() + time.softirq.unwrap_or_default();
        let busy = time.user + time.nice + time.system + waits;
        Ok(Ticks { busy, stolen: time.steal.unwrap_or_default(), at: Instant::now() })
    }

    /// What there was on Envoy's own core since then beside Envoy, which took `spent`.
    pub fn since(&self, before: &Self, spent: Duration) -> Disturbance {
        let per_second = procfs::ticks_per_second() as f64;
        let whole = self.at.duration_since(before.at).as_secs_f64();
        let busy = self.busy.saturating_sub(before.busy) as f64 / per_second - spent.as_secs_f64();
        let stolen = self.stolen.saturating_sub(before.stolen) as f64 / per_second;
        Disturbance { others: (busy / whole * 100.0).max(0.0), stolen: stolen / whole * 100.0 }
    }
}

/// The version of an Envoy binary.
pub fn envoy_version(binary: &Path) -> anyhow::Result<String> {
    let output = Command::new(binary).arg("--version").output().with_context(|| binary.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(version_in(&text).unwrap_or("unknown").to_owned())
}

/// The second part, between slashes, of what follows the word.
fn version_in(text: &str) -> Option<&str> {
    text.split_once("version:")?.1.split('/').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found() {
        let text = "\n/opt/envoy  version: 0123456789abcdef/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(version_in(text), Some("1.40.0"));
        assert_eq!(version_in("no version"), None);
    }
}
