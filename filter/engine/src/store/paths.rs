//! The names in the store of what belongs to a policy and to its keys. They are made of configuration and numbers only.

use crate::store::cluster::GroupId;
use crate::store::record;

/// The common beginning of all names of a policy of this name and content.
pub fn of_policy(name: &str, fingerprint: u64) -> String {
    format!("holdfast/{}/p/{name}/{fingerprint:016x}", record::VERSION)
}

/// The name of the policy's own text.
pub fn policy_text(of_policy: &str) -> String {
    format!("{of_policy}/policy")
}

/// Who has which place among a policy's keys.
pub fn keys(of_policy: &str) -> String {
    format!("{of_policy}/keys")
}

/// Who has which place among the clusters that a policy's keys do not tell apart.
pub fn groups(of_policy: &str) -> String {
    format!("{of_policy}/groups")
}

/// Which keys of a policy of this name have metric series, whatever its content.
pub fn series(policy: &str) -> String {
    format!("holdfast/{}/series/{policy}", record::VERSION)
}

/// Which contents live under a policy's name.
pub fn variants(policy: &str) -> String {
    format!("holdfast/{}/variants/{policy}", record::VERSION)
}

/// Whether it was said that a policy of this name does not govern what it matches.
pub fn told_of_chain(policy: &str) -> String {
    format!("holdfast/told/chain/{policy}")
}

/// The names of what belongs to one key.
#[derive(Debug)]
pub struct Paths(String);

impl Paths {
    /// Those of the key at this place.
    pub fn new(of_policy: &str, index: u16) -> Self {
        Paths(format!("{of_policy}/{index}"))
    }

    /// The breaker's cell.
    pub fn breaker(&self) -> String {
        format!("{}/breaker", self.0)
    }

    /// The requests in flight.
    pub fn in_flight(&self) -> String {
        format!("{}/in_flight", self.0)
    }

    /// The slot of the worker at this place.
    pub fn slot(&self, index: u16) -> String {
        format!("{}/slot/{index}", self.0)
    }

    /// What has been taken from the retry budget.
    pub fn budget(&self) -> String {
        format!("{}/budget", self.0)
    }
}

/// The names of what belongs to one cluster under one key.
#[derive(Debug)]
pub struct GroupPaths(String);

impl GroupPaths {
    /// Those of a group of the key at `key`; `None` for a group that has no place.
    pub fn new(of_policy: &str, key: u16, group: GroupId) -> Option<Self> {
        match group {
            GroupId::OfTheKey => Some(GroupPaths(format!("{of_policy}/{key}"))),
            GroupId::Numbered(occupant) => Some(GroupPaths(format!("{of_policy}/group/{}", occupant.index))),
            GroupId::Nowhere => None,
        }
    }

    /// When an attempt seat was last seen.
    pub fn attempt_seat(&self) -> String {
        format!("{}/attempt_seat", self.0)
    }

    /// The hosts.
    pub fn hosts(&self) -> HostPaths {
        HostPaths(format!("{}/hosts", self.0))
    }
}

/// The names of what belongs to the hosts of one cluster under one key.
#[derive(Debug)]
pub struct HostPaths(String);

impl HostPaths {
    /// The table of the hosts.
    pub fn table(&self) -> String {
        format!("{}/table", self.0)
    }

    /// The run of failures of the host at this place.
    pub fn run(&self, index: u16) -> String {
        format!("{}/run/{index}", self.0)
    }

    /// The slot of the worker at this place among the request seats' VMs, or among the attempt seats'.
    pub fn slot(&self, of_attempts: bool, index: u16) -> String {
        format!("{}/{}/{index}", self.0, if of_attempts { "attempt_slot" } else { "slot" })
    }

    /// Who does what is to be done once: the heartbeat, or reading the hosts.
    pub fn leader(&self) -> String {
        format!("{}/leader", self.0)
    }
}
