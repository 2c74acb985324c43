//! The place of one key in the store: its cells, and the slots of its workers.

use crate::store::address::Address;
use crate::store::directory::Occupant;
use crate::store::paths::Paths;
use crate::store::record::occupied;
use crate::store::slot::Shape;
use crate::store::slots::Slots;

/// What belongs to an earlier occupant of the same place reads as absent.
#[derive(Debug)]
pub struct Place {
    paths: Paths,
    fingerprint: u64,
}

impl Place {
    /// The place of a key. `prefix` is the common beginning of its policy's names in the store, `policy` that policy's fingerprint.
    pub fn new(prefix: &str, policy: u64, key: Occupant) -> Self {
        Place { paths: Paths::new(prefix, key.index), fingerprint: occupied(policy, key.tenancy) }
    }

    /// The breaker's cell.
    pub fn breaker(&self) -> Address {
        Address::new(self.paths.breaker(), self.fingerprint)
    }

    /// The requests in flight.
    pub fn in_flight(&self) -> Address {
        Address::new(self.paths.in_flight(), self.fingerprint)
    }

    /// What has been taken from the retry budget.
    pub fn budget(&self) -> Address {
        Address::new(self.paths.budget(), self.fingerprint)
    }

    /// The slots of all workers, which have these windows.
    pub fn slots(self, shape: Shape) -> Slots {
        Slots::new(self.paths, self.fingerprint, shape)
    }
}
