//! The module's records in shared data, read for checks.

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::breaker::{Cell, State, StateName};
use holdfast_engine::concurrency::in_flight::{InFlight, LEASE};
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::paths;
use holdfast_engine::store::record::{Mark, Record, mark_of};
use holdfast_engine::store::registry::Registry;

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
    /// Every breaker in shared data, of whatever policy and key, that of the newest policy first. Bytes that are no breaker's are left
    /// out, and so are breakers of blocks that have lost their places.
    pub fn breakers(&self) -> Vec<BreakerRecord> {
        let records = self.block_records(BlockKind::Breaker, 1);
        records.into_iter().map(|(key, cell)| BreakerRecord { key, cell }).collect()
    }

    /// The breaker of the newest policy, if that has a single key; closed while there is none.
    pub fn breaker(&self) -> BreakerRecord {
        let breakers = self.breakers();
        let newest = breakers.first().map(|first| block_of(&first.key).to_owned());
        let mut breakers: Vec<_> =
            breakers.into_iter().filter(|one| Some(block_of(&one.key)) == newest.as_deref()).collect();
        assert!(breakers.len() <= 1, "there are several breakers: {breakers:#?}");
        breakers.pop().unwrap_or(BreakerRecord { key: String::new(), cell: Cell::default() })
    }

    /// The state of the breaker of a policy with a single key.
    pub fn state(&self) -> StateName {
        self.breaker().cell.name()
    }

    /// Requests in flight that count now, of a policy with a single key.
    pub fn in_flight(&self) -> u64 {
        let cells: Vec<(String, InFlight)> = self.block_records(BlockKind::Concurrency, 1);
        let now = Timestamp(self.wall_nanos());
        let counts = cells.iter().flat_map(|(_, cell)| &cell.counts);
        let held = counts.filter(|count| count.expires.remaining(now, LEASE).is_some());
        held.map(|count| u64::from(count.requests)).sum()
    }

    /// The registry: which policies live, and where their blocks are.
    pub fn registry(&self) -> Option<Registry> {
        self.record(paths::REGISTRY, Mark::NONE)
    }

    /// The records of the blocks of a kind whose names have so many parts after the block's, those of the newest policy first.
    pub fn block_records<R: Record>(&self, kind: BlockKind, parts: usize) -> Vec<(String, R)> {
        let mut blocks = Vec::new();
        for places in self.registry().iter().flat_map(Registry::all_places) {
            blocks.extend(places.get(kind).filter(|block| !blocks.contains(block)));
        }
        let (keys, mut records) = (self.shared_keys(), Vec::new());
        for block in blocks {
            let prefix = format!("{}/", paths::of_block(kind, block.index));
            let of_block =
                |key: &&String| key.strip_prefix(&prefix).is_some_and(|rest| rest.split('/').count() == parts);
            for key in keys.iter().filter(of_block) {
                let mark = self.shared(key).and_then(|(bytes, _)| mark_of(&bytes, R::KIND));
                let mark = mark.filter(|mark| mark.block == block.tenancy);
                records.extend(mark.and_then(|mark| self.record(key, mark)).map(|record| (key.clone(), record)));
            }
        }
        records
    }

    fn record<R: Record>(&self, key: &str, mark: Mark) -> Option<R> {
        R::decode(&self.shared(key)?.0, mark)
    }
}

/// The part of a name that is the block's.
fn block_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(block, _)| block)
}
