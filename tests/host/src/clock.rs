//! The time, in the test's hand.

use std::cell::Cell;
use std::time::Duration;

/// 2026-01-01 00:00:00 UTC, where every run begins.
const START: u64 = 1_767_225_600_000_000_000;

/// The wall clock, which is all that a module can read and which an administrator can set, and the steady one, which only
/// runs on and drives Envoy's timers.
#[derive(Debug)]
pub(crate) struct Clock {
    wall: Cell<u64>,
    steady: Cell<u64>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Clock { wall: Cell::new(START), steady: Cell::new(0) }
    }

    /// Nanoseconds since the Unix epoch, as the module reads them.
    pub(crate) fn wall(&self) -> u64 {
        self.wall.get()
    }

    /// Nanoseconds since the run began.
    pub(crate) fn steady(&self) -> u64 {
        self.steady.get()
    }

    /// Lets time pass, on both clocks.
    pub(crate) fn run(&self, nanos: u64) {
        self.steady.set(self.steady.get() + nanos);
        self.wall.set(self.wall.get().saturating_add(nanos));
    }

    /// Sets the wall clock forward.
    pub(crate) fn forward(&self, by: Duration) {
        self.wall.set(self.wall.get().saturating_add(nanos(by)));
    }

    /// Sets the wall clock back.
    pub(crate) fn back(&self, by: Duration) {
        self.wall.set(self.wall.get().saturating_sub(nanos(by)));
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
