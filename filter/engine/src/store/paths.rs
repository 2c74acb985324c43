//! The names in the store. They are made of numbers, and of a policy's name where something is the name's and not a block's; never of
//! what comes from requests.

use crate::store::block::BlockKind;
use crate::store::cluster::GroupId;
use crate::store::record;

/// The registry: which policies live, and where their blocks are.
pub const REGISTRY: &str = "holdfast/9/policies";

/// The common beginning of all names of the block of a kind that has this place.
#[must_use]
pub fn of_block(kind: BlockKind, place: u16) -> String {
    format!("holdfast/{}/{}/{place}", record::VERSION, kind.word())
}

/// The names of what a block of [keys](BlockKind::Keys) has beside what is each key's.
#[derive(Debug)]
pub struct KeysPaths(String);

impl KeysPaths {
    /// Those of the block that has this place.
    #[must_use]
    pub fn new(place: u16) -> Self {
        KeysPaths(of_block(BlockKind::Keys, place))
    }

    /// Who has which place among the keys.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{}/directory", self.0)
    }

    /// Who has which place among the clusters that the keys do not tell apart.
    #[must_use]
    pub fn groups(&self) -> String {
        format!("{}/groups", self.0)
    }

    /// The name of the key at this place.
    #[must_use]
    pub fn name(&self, key: u16) -> String {
        format!("{}/name/{key}", self.0)
    }
}

/// Which keys of a policy of this name have metric series, whatever its content.
#[must_use]
pub fn series(policy: &str) -> String {
    format!("holdfast/{}/series/{policy}", record::VERSION)
}

/// Whether it was said that a policy of this name does not govern what it matches.
#[must_use]
pub fn told_of_chain(policy: &str) -> String {
    format!("holdfast/told/chain/{policy}")
}

/// Whether it was said that no route lets a fallback of a policy of this name choose the cluster, for a further attempt or before the first.
#[must_use]
pub fn told_of_route(policy: &str, is_further: bool) -> String {
    let what = if is_further { "further" } else { "route" };
    format!("holdfast/told/{what}/{policy}")
}

/// When something that concerns all policies was last said.
#[must_use]
pub fn told(what: &str) -> String {
    format!("holdfast/told/seats/{what}")
}

/// The common beginning of the names of what a block has for one cluster under one key; `None` for a cluster that has no place.
#[must_use]
pub fn of_group(kind: BlockKind, place: u16, key: u16, group: GroupId) -> Option<String> {
    let block = of_block(kind, place);
    match group {
        GroupId::OfTheKey => Some(format!("{block}/{key}")),
        GroupId::Numbered(occupant) => Some(format!("{block}/group/{}", occupant.index)),
        GroupId::Nowhere => None,
    }
}

/// The names of what belongs to the hosts of one cluster under one key.
#[derive(Debug)]
pub struct HostPaths(String);

impl HostPaths {
    /// Those in the [outlier](BlockKind::Outlier) block that has this place; `None` for a cluster that has none.
    #[must_use]
    pub fn new(place: u16, key: u16, group: GroupId) -> Option<Self> {
        of_group(BlockKind::Outlier, place, key, group).map(HostPaths)
    }

    /// The table of the hosts.
    #[must_use]
    pub fn table(&self) -> String {
        format!("{}/table", self.0)
    }

    /// The run of failures of the host at this place.
    #[must_use]
    pub fn run(&self, index: u16) -> String {
        format!("{}/run/{index}", self.0)
    }

    /// The slot of the worker at this place among the request seats' VMs, or among the attempt seats'.
    #[must_use]
    pub fn slot(&self, of_attempts: bool, index: u16) -> String {
        format!("{}/{}/{index}", self.0, if of_attempts { "attempt_slot" } else { "slot" })
    }

    /// Who does what is to be done once: the heartbeat, or reading the hosts.
    #[must_use]
    pub fn leader(&self) -> String {
        format!("{}/leader", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn all_names_have_the_version_of_the_records() {
        assert_eq!(REGISTRY, format!("holdfast/{}/policies", record::VERSION));
    }
}
