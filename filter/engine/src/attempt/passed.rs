//! First attempts that passed without a record: a route that retries one all the same does so within its back-off.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::http::attempt::{AttemptRecord, End};
use crate::http::outcome::Verdict;

/// How many are remembered.
const PASSED: usize = 1024;

/// A first attempt that passed without a record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    seed: u64,
    /// The status of its response.
    status: u16,
    /// Whether it was marked as not to be retried.
    pub(super) is_marked: bool,
}

impl Passed {
    /// The attempt, as far as it is remembered.
    pub(super) fn as_record(&self, now: Timestamp) -> AttemptRecord {
        let (end, verdict) = (End::Http(self.status), Verdict::Success);
        AttemptRecord { host: Vec::new(), end, verdict, took: Duration::ZERO, ended: now, wish: None }
    }
}

/// The last ones, by the request's seed.
#[derive(Debug)]
pub(super) struct PassedAttempts(Vec<Passed>);

impl Default for PassedAttempts {
    fn default() -> Self {
        PassedAttempts(vec![Passed::default(); PASSED])
    }
}

impl PassedAttempts {
    /// Remembers one.
    pub(super) fn remember(&mut self, seed: u64, status: u16, is_marked: bool) {
        if let Some(slot) = self.0.get_mut(seed as usize % PASSED) {
            *slot = Passed { seed, status, is_marked };
        }
    }

    /// The first attempt of this request, if it passed without a record a moment ago.
    pub(super) fn of(&self, seed: u64) -> Option<Passed> {
        self.0.get(seed as usize % PASSED).copied().filter(|passed| passed.seed == seed)
    }
}
