//! The clusters that one worker knows under a key.

use crate::outlier::calls::Calls;
use crate::outlier::hosts::Hosts;
use crate::outlier::table::HostTable;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::cluster::{ClusterHash, GroupId};

/// One cluster.
#[derive(Debug)]
struct Entry<T> {
    cluster: ClusterHash,
    id: GroupId,
    what: T,
}

/// Something for each cluster under one key, in the order of their hashes.
#[derive(Debug)]
#[allow(clippy::vec_box)] // One that comes between others moves them: thousands of pointers, not of groups.
pub(super) struct Clusters<T>(Vec<Box<Entry<T>>>);

impl<T> Default for Clusters<T> {
    fn default() -> Self {
        Clusters(Vec::new())
    }
}

impl<T> Clusters<T> {
    fn find(&self, cluster: ClusterHash) -> Result<usize, usize> {
        self.0.binary_search_by_key(&cluster, |entry| entry.cluster)
    }

    /// Where the state of a cluster is, as far as it is known.
    pub(super) fn id(&self, cluster: ClusterHash) -> Option<GroupId> {
        self.0.get(self.find(cluster).ok()?).map(|entry| entry.id)
    }

    /// What there is for a cluster.
    pub(super) fn get_mut(&mut self, cluster: ClusterHash) -> Option<&mut T> {
        let at = self.find(cluster).ok()?;
        self.0.get_mut(at).map(|entry| &mut entry.what)
    }

    /// The same, made if there is nothing yet for the cluster with its state there.
    pub(super) fn get_or_add(
        &mut self,
        cluster: ClusterHash,
        id: GroupId,
        make: impl FnOnce() -> Option<T>,
    ) -> Option<&mut T> {
        let at = match self.find(cluster) {
            Ok(at) => {
                if self.0.get(at).is_some_and(|entry| entry.id != id) {
                    let what = make()?;
                    self.0.get_mut(at).map(|entry| **entry = Entry { cluster, id, what })?;
                }
                at
            }
            Err(at) => {
                self.0.insert(at, Box::new(Entry { cluster, id, what: make()? }));
                at
            }
        };
        self.0.get_mut(at).map(|entry| &mut entry.what)
    }

    /// All clusters, with where their states are.
    pub(super) fn ids(&self) -> impl Iterator<Item = (ClusterHash, GroupId)> {
        self.0.iter().map(|entry| (entry.cluster, entry.id))
    }

    /// All, with where their states are.
    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, &T)> {
        self.0.iter().map(|entry| (entry.id, &entry.what))
    }

    /// The same to change, with the clusters.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ClusterHash, &mut T)> {
        self.0.iter_mut().map(|entry| (entry.cluster, &mut entry.what))
    }

    /// Forgets those whose states are somewhere else now.
    pub(super) fn retain(&mut self, keep: impl Fn(GroupId) -> bool) {
        self.0.retain(|entry| keep(entry.id));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The hosts of one cluster.
#[derive(Debug)]
pub(super) struct HostGroup {
    pub(super) hosts: Hosts,
    /// What this VM does for all of them, where it leads.
    pub(super) calls: Calls,
}

impl HostGroup {
    /// Whether it must stay: a host is out, comes back, or may be probed.
    pub(super) fn is_kept(&self) -> bool {
        self.hosts.table().is_some_and(|table| table.out() > 0)
    }
}

/// Whether hosts are out that this worker may never have met; `table` is where their table is.
pub(super) fn are_out(store: &mut dyn Store, table: Option<&Address>) -> bool {
    let table: Option<HostTable> = table.and_then(|table| table.read(store));
    table.is_some_and(|table| table.out() > 0)
}
