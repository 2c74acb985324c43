//! The module's records in shared data, read for checks.

use holdfast_engine::breaker::{Cell, State, StateName};
use holdfast_engine::concurrency::in_flight::InFlight;
use holdfast_engine::store::record::Record;

use crate::host::Host;

/// The breaker of one key, as shared data has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerRecord {
    /// The key of shared data.
    pub key: String,
    /// The record.
    pub cell: Cell,
}

impl BreakerRecord {
    /// Probes in flight, by their leases, whether those have expired or not.
    pub fn probes_in_flight(&self) -> usize {
        match &self.cell.state {
            State::HalfOpen(half_open) => half_open.leases.len(),
            State::Closed | State::Open { .. } | State::Ramping { .. } => 0,
        }
    }

    /// Probes judged.
    pub fn probes_judged(&self) -> usize {
        match &self.cell.state {
            State::HalfOpen(half_open) => half_open.judged.total as usize,
            State::Closed | State::Open { .. } | State::Ramping { .. } => 0,
        }
    }
}

impl Host {
    /// Every breaker in shared data, of whatever policy and key. Bytes that are no breaker's are left out.
    pub fn breakers(&self) -> Vec<BreakerRecord> {
        let keys = self.shared_keys().into_iter().filter(|key| key.ends_with("/breaker"));
        keys.filter_map(|key| Some(BreakerRecord { cell: self.record(&key)?, key })).collect()
    }

    /// The breaker of a policy with a single key; closed while there is none.
    pub fn breaker(&self) -> BreakerRecord {
        let mut breakers = self.breakers();
        assert!(breakers.len() <= 1, "there are several breakers: {breakers:#?}");
        breakers.pop().unwrap_or(BreakerRecord { key: String::new(), cell: Cell::default() })
    }

    /// The state of the breaker of a policy with a single key.
    pub fn state(&self) -> StateName {
        self.breaker().cell.name()
    }

    /// Requests in flight that count now, of a policy with a single key.
    pub fn in_flight(&self) -> u64 {
        let keys = self.shared_keys().into_iter().filter(|key| key.ends_with("/in_flight"));
        let cells: Vec<InFlight> = keys.filter_map(|key| self.record(&key)).collect();
        assert!(cells.len() <= 1, "there are several: {cells:#?}");
        let now = holdfast_engine::base::time::Timestamp(self.wall_nanos());
        let counts = cells.iter().flat_map(|cell| &cell.counts);
        let held = counts
            .filter(|count| count.expires.remaining(now, holdfast_engine::concurrency::in_flight::LEASE).is_some());
        held.map(|count| u64::from(count.requests)).sum()
    }

    /// A record whose key names its policy and fingerprint: `.../p/NAME/FINGERPRINT/...`.
    fn record<R: Record>(&self, key: &str) -> Option<R> {
        let fingerprint = u64::from_str_radix(key.split('/').skip_while(|part| *part != "p").nth(2)?, 16).ok()?;
        R::decode(&self.shared(key)?.0, fingerprint)
    }
}
