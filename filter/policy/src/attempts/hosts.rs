//! The attempt seat's part in ejection: it judges each try's host.

use super::Attempts;
use crate::document::Outlier;
use crate::exchange::Exchange;
use crate::outlier::hosts::{Hosts, Judged};
use crate::presence;
use crate::store::Store;
use crate::time::Timestamp;
use crate::worker::Worker;

impl Attempts {
    fn outlier(&self) -> Option<&Outlier> {
        self.policy.outlier.as_ref().filter(|outlier| outlier.is_active())
    }

    /// Whether hosts are judged by their tries.
    pub fn judges_hosts(&self) -> bool {
        self.outlier().is_some()
    }

    /// The hosts of a request's key and cluster.
    fn group(&mut self, exchange: &Exchange) -> Option<&mut Hosts> {
        let (fingerprint, cluster) = (self.fingerprint, exchange.cluster);
        let state = self.key(exchange.key);
        let place = state.hosts.iter().position(|(known, _)| *known == cluster);
        let place = place.unwrap_or_else(|| {
            let hosts = Hosts::new(state.paths.hosts(cluster), fingerprint);
            presence::remember(&mut state.hosts, (cluster, hosts));
            state.hosts.len() - 1
        });
        state.hosts.get_mut(place).map(|(_, hosts)| hosts)
    }

    /// Whether the host of a try that succeeded must be known.
    pub fn wants_host<S: Store>(&mut self, store: &mut S, exchange: &Exchange, now: Timestamp) -> bool {
        let policy = std::sync::Arc::clone(&self.policy);
        let Some(rules) = policy.outlier.as_ref().filter(|outlier| outlier.is_active()) else { return false };
        exchange.probe.is_some() || self.group(exchange).is_some_and(|hosts| hosts.wants_host(store, rules, now))
    }

    /// Judges the host of a try that has ended and is not in the exchange yet. `worker` is this VM among those of the attempt seats.
    pub fn judge_host<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        exchange: &Exchange,
        one: Judged<'_>,
        now: Timestamp,
    ) {
        let policy = std::sync::Arc::clone(&self.policy);
        let Some(rules) = policy.outlier.as_ref().filter(|outlier| outlier.is_active()) else { return };
        if let Some(hosts) = self.group(exchange) {
            let probe = exchange.probe.filter(|_| !exchange.is_retried());
            hosts.judge(worker, store, rules, one, probe, now);
        }
    }

    /// Gives the permit back of a probe that says nothing about its host: its client left, or there was no connection in time.
    pub fn return_probe<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        exchange: &Exchange,
        sent: Timestamp,
        now: Timestamp,
    ) {
        let policy = std::sync::Arc::clone(&self.policy);
        let Some(rules) = policy.outlier.as_ref().filter(|outlier| outlier.is_active()) else { return };
        if let Some(probe) = exchange.probe.filter(|_| !exchange.is_retried())
            && let Some(hosts) = self.group(exchange)
        {
            hosts.return_probe(worker, store, rules, probe, sent, now);
        }
    }

    /// When what was counted of hosts should be written at the latest.
    pub fn flush_due(&self) -> Option<Timestamp> {
        self.keys.values().flat_map(|state| &state.hosts).filter_map(|(_, hosts)| hosts.flush_due()).min()
    }

    /// Writes what was counted of hosts.
    pub fn flush<S: Store>(&mut self, worker: &mut Worker, store: &mut S, now: Timestamp) {
        let policy = std::sync::Arc::clone(&self.policy);
        let Some(rules) = policy.outlier.as_ref() else { return };
        for (_, hosts) in self.keys.values_mut().flat_map(|state| &mut state.hosts) {
            hosts.flush(worker, store, now);
            hosts.settle(worker, store, rules, now);
        }
    }
}
