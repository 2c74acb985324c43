//! Which core does what: Envoy has one of its own where there are at least two.

use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use procfs::process::Process;
use serde::Serialize;

/// The numbers of the cores, or nothing where all share the only one.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cores {
    /// Envoy's own.
    pub envoy: Option<usize>,
    /// That of the hosts, and of this program.
    pub hosts: Option<usize>,
    /// That of the load: the hosts' too where there are only two.
    pub load: Option<usize>,
}

impl Cores {
    /// For a machine with so many.
    pub fn of(count: usize) -> Self {
        match count {
            0 | 1 => Cores { envoy: None, hosts: None, load: None },
            2 => Cores { envoy: Some(0), hosts: Some(1), load: Some(1) },
            _ => Cores { envoy: Some(0), hosts: Some(1), load: Some(2) },
        }
    }

    /// Keeps the thread that calls to one core. Where that is not allowed it goes on as it is.
    pub fn keep_to(core: Option<usize>) {
        let mut cores = CpuSet::new();
        if core.is_some_and(|core| cores.set(core).is_ok()) {
            let _ = sched_setaffinity(Pid::from_raw(0), &cores);
        }
    }

    /// Keeps a whole process to one core: all its threads, and those that they start from now on.
    pub fn keep_process_to(core: Option<usize>, pid: u32) -> anyhow::Result<()> {
        let Some(core) = core else { return Ok(()) };
        let mut cores = CpuSet::new();
        cores.set(core)?;
        for task in Process::new(i32::try_from(pid)?)?.tasks()? {
            sched_setaffinity(Pid::from_raw(task?.tid), &cores).with_context(|| format!("core {core}"))?;
        }
        Ok(())
    }

    /// The words before a command that keep it to one core.
    pub fn prefix(core: Option<usize>) -> Vec<String> {
        let words = |core: usize| vec!["taskset".to_owned(), "--cpu-list".to_owned(), core.to_string()];
        core.map(words).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoy_shares_its_core_with_nobody_where_there_are_two() {
        for count in 2..5 {
            let cores = Cores::of(count);
            assert!(cores.envoy.is_some() && cores.envoy != cores.hosts && cores.envoy != cores.load, "{cores:?}");
        }
        assert_eq!(Cores::prefix(Cores::of(4).load), ["taskset", "--cpu-list", "2"]);
        assert!(Cores::prefix(Cores::of(1).envoy).is_empty());
    }
}
