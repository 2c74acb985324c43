//! Whether a success has a run of failures to end, as one worker knows it without asking for each one.
//!
//! The signal of runs tells that none has changed. While it stands still, what was looked at once need not be looked at again,
//! and when all of it was looked at and no run is open, a success need not even know its host.

use core::time::Duration;

use super::table::HostTable;
use crate::base::time::Timestamp;
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;

/// How long the signal has to stand still before it is worth looking at the runs of hosts that have not succeeded themselves.
const STANDS_STILL: Duration = Duration::from_millis(50);

/// How many of them are looked at beside one that has.
pub const LOOKED_AT: usize = 4;

/// What is known of a host's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Known {
    #[default]
    Nothing,
    Empty,
    Open,
}

/// What one worker knows of the runs of a group's hosts since the signal last changed.
#[derive(Debug, Default)]
pub struct OpenRuns {
    signal: Option<u64>,
    since: Timestamp,
    /// By place.
    known: Vec<Known>,
    /// Of all places before this one something is known.
    next: usize,
    /// Whether nothing is left to look at, and no run is open.
    is_quiet: bool,
}

impl OpenRuns {
    /// Whether what is known was found under this signal.
    fn holds(&self, signal: Option<u64>, now: Timestamp) -> bool {
        // Unlike a view it is not refreshed by time where there is a signal: a worker that died before it raised it leaves a run
        // that the next failure shows.
        let lasts = signal.is_some() || self.since <= now && now.since(self.since) < VIEW_LASTS_UNSIGNALLED;
        self.signal == signal && lasts
    }

    /// Whether no host has a run of failures.
    pub fn is_quiet(&self, signal: Option<u64>, now: Timestamp) -> bool {
        self.is_quiet && self.holds(signal, now)
    }

    /// Forgets everything if the signal has changed.
    pub fn follow(&mut self, signal: Option<u64>, now: Timestamp) {
        if !self.holds(signal, now) {
            self.known.fill(Known::Nothing);
            (self.signal, self.since, self.next, self.is_quiet) = (signal, now, 0, false);
        }
    }

    /// Whether the host at this place is known to have no run.
    pub fn is_empty(&self, index: u16) -> bool {
        self.known.get(usize::from(index)) == Some(&Known::Empty)
    }

    /// Notes what was found at a place.
    pub fn found(&mut self, index: u16, is_empty: bool) {
        let index = usize::from(index);
        if self.known.len() <= index {
            self.known.resize(index + 1, Known::Nothing);
        }
        if let Some(known) = self.known.get_mut(index) {
            *known = if is_empty { Known::Empty } else { Known::Open };
        }
    }

    /// The next place to look at, if it is time to; none when all are known.
    pub fn next(&mut self, table: &HostTable, now: Timestamp) -> Option<u16> {
        // A change in the future is from before the clock was put back.
        if now.apart(self.since) < STANDS_STILL {
            return None;
        }
        while self.next < table.indexes() {
            let index = self.next;
            let is_known = self.known.get(index).is_some_and(|known| *known != Known::Nothing);
            if !is_known && table.is_in(index as u16) {
                return Some(index as u16);
            }
            self.next += 1;
        }
        let is_open = |(index, known): (usize, &Known)| *known == Known::Open && table.is_in(index as u16);
        self.is_quiet = !self.known.iter().enumerate().any(is_open);
        None
    }
}
