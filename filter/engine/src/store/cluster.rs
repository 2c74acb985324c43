//! Clusters under one key, as shared records name them.

use crate::base::fingerprint;
use crate::store::directory::Occupant;
use crate::store::record::Mark;

/// A cluster's name, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterHash(pub u64);

impl ClusterHash {
    /// The cluster is part of the key.
    pub const OF_THE_KEY: ClusterHash = ClusterHash(0);

    /// The cluster of this name.
    pub fn of(name: &[u8]) -> Self {
        ClusterHash(fingerprint::of_text(name).max(1))
    }
}

/// Where the state of one cluster under one key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupId {
    /// With the key, which tells the cluster.
    OfTheKey,
    /// At a place of its own.
    Numbered(Occupant),
    /// There was no place to be had: nothing is known of the cluster.
    Nowhere,
}

impl GroupId {
    /// The mark of the group's records under this key, in a block of this tenancy.
    #[must_use]
    pub fn mark(self, block: u32, key: Occupant) -> Mark {
        let occupant = if let GroupId::Numbered(occupant) = self { occupant } else { key };
        Mark { block, key: occupant.tenancy }
    }
}

/// A cluster under a key as one number: equal for equal ones, different otherwise but for chance.
#[must_use]
pub fn name_of(key: Occupant, cluster: ClusterHash) -> u64 {
    fingerprint::of(&(key.index, key.tenancy, cluster.0))
}
