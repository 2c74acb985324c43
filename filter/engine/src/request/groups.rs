//! The clusters under one key as one worker sees them.

use crate::outlier::calls::Calls;
use crate::outlier::hosts::Hosts;
use crate::outlier::table::HostTable;
use crate::seats::presence::AttemptSeatView;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::cluster::{ClusterHash, GroupId};
use crate::store::directory::Occupant;
use crate::store::paths::GroupPaths;

/// One cluster under one key.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) cluster: ClusterHash,
    pub(super) id: GroupId,
    pub(super) attempt_seat: AttemptSeatView,
    pub(super) hosts: Hosts,
    /// What this VM does for all of them, where it leads.
    pub(super) calls: Calls,
}

/// What belongs to the clusters under one key, in the order of their hashes.
#[derive(Debug, Default)]
#[allow(clippy::vec_box)] // One that comes between others moves them: thousands of pointers, not of groups.
pub(super) struct Groups(Vec<Box<Group>>);

impl Groups {
    fn find(&self, cluster: ClusterHash) -> Result<usize, usize> {
        self.0.binary_search_by_key(&cluster, |group| group.cluster)
    }

    pub(super) fn get(&self, cluster: ClusterHash) -> Option<&Group> {
        self.0.get(self.find(cluster).ok()?).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, cluster: ClusterHash) -> Option<&mut Group> {
        let at = self.find(cluster).ok()?;
        self.0.get_mut(at).map(Box::as_mut)
    }

    /// Adds one that is not there.
    pub(super) fn add(&mut self, group: Group) {
        if let Err(at) = self.find(group.cluster) {
            self.0.insert(at, Box::new(group));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.0.iter().map(Box::as_ref)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.0.iter_mut().map(Box::as_mut)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Group) -> bool) {
        self.0.retain(|group| keep(group));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Group {
    /// Whether it must stay: a host is out, comes back, or may be probed.
    pub(super) fn is_kept(&self) -> bool {
        self.hosts.table().is_some_and(|table| table.out() > 0)
    }
}

/// Whether hosts of a cluster under this key are out. `prefix` is the common beginning of the policy's names in the store, `policy` its
/// fingerprint.
pub(super) fn are_out(store: &mut dyn Store, prefix: &str, policy: u64, key: Occupant, id: GroupId) -> bool {
    let Some(paths) = GroupPaths::new(prefix, key.index, id) else { return false };
    let table: Option<HostTable> = Address::new(paths.hosts().table(), id.fingerprint(policy, key)).read(store);
    table.is_some_and(|table| table.out() > 0)
}
