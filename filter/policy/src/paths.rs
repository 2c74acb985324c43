//! The names in the store of what belongs to a policy and to its keys. They are made of configuration and numbers only.

use crate::exchange::ClusterHash;
use crate::keys::KeyNumber;
use crate::record;

/// The common beginning of all names of a policy of this name and content.
pub fn of_policy(name: &str, fingerprint: u64) -> String {
    format!("holdfast/{}/p/{name}/{fingerprint:016x}", record::VERSION)
}

/// The name of the policy's own text.
pub fn policy_text(of_policy: &str) -> String {
    format!("{of_policy}/policy")
}

/// The names of what belongs to one key.
#[derive(Debug)]
pub struct Paths(String);

impl Paths {
    /// Those of key number `key`.
    pub fn new(of_policy: &str, key: KeyNumber) -> Self {
        Paths(format!("{of_policy}/{}", key.0))
    }

    /// The breaker's cell.
    pub fn breaker(&self) -> String {
        format!("{}/breaker", self.0)
    }

    /// The requests in flight.
    pub fn in_flight(&self) -> String {
        format!("{}/in_flight", self.0)
    }

    /// The slot of the worker at `place`.
    pub fn slot(&self, place: u16) -> String {
        format!("{}/slot/{place}", self.0)
    }

    /// What has been taken from the retry budget.
    pub fn budget(&self) -> String {
        format!("{}/budget", self.0)
    }

    /// When an attempt seat of a cluster was last seen.
    pub fn attempt_seat(&self, cluster: ClusterHash) -> String {
        match cluster {
            ClusterHash::OF_THE_KEY => format!("{}/attempt_seat", self.0),
            ClusterHash(hash) => format!("{}/attempt_seat/{hash:016x}", self.0),
        }
    }

    /// The hosts of a cluster.
    pub fn hosts(&self, cluster: ClusterHash) -> HostPaths {
        HostPaths(match cluster {
            ClusterHash::OF_THE_KEY => format!("{}/hosts", self.0),
            ClusterHash(hash) => format!("{}/hosts/{hash:016x}", self.0),
        })
    }
}

/// The names of what belongs to the hosts of one key and cluster.
#[derive(Debug)]
pub struct HostPaths(String);

impl HostPaths {
    /// The table of the hosts.
    pub fn table(&self) -> String {
        format!("{}/table", self.0)
    }

    /// The run of failures of the host at `place`.
    pub fn run(&self, place: u16) -> String {
        format!("{}/run/{place}", self.0)
    }

    /// The slot of the worker at `place` among the request seats' VMs, or among the attempt seats'.
    pub fn slot(&self, of_attempts: bool, place: u16) -> String {
        format!("{}/{}/{place}", self.0, if of_attempts { "attempt_slot" } else { "slot" })
    }

    /// Who does what is to be done once: the heartbeat, or reading the hosts.
    pub fn leader(&self) -> String {
        format!("{}/leader", self.0)
    }
}
