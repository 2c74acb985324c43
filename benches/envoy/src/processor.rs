//! The processor time of another process.

use std::time::Duration;

use anyhow::Context;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// The processor clock of a process: user and system time of all its threads, also those that have ended, in nanoseconds.
pub struct ProcessorClock(ClockId);

impl ProcessorClock {
    /// Of the process with this id.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        Ok(ProcessorClock(clock_getcpuclockid(pid).with_context(|| format!("there is no process {pid}"))?))
    }

    /// The time so far.
    pub fn now(&self) -> anyhow::Result<Duration> {
        Ok(self.0.now().context("the process has ended")?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time_and_waiting_hardly_any() {
        let clock = ProcessorClock::of(std::process::id()).unwrap();
        let before = clock.now().unwrap();
        let mut sum = 0_u64;
        while clock.now().unwrap() - before < Duration::from_millis(20) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
