//! The attempt seat's part in ejection: it judges each try's host.

use std::sync::Arc;

use super::{Attempts, Group};
use crate::base::time::Timestamp;
use crate::outlier::hosts::Judged;
use crate::seats::retry_context::Exchange;
use crate::store::Store;
use crate::store::worker::Worker;

impl Attempts {
    /// Whether hosts are judged by their tries.
    pub fn judges_hosts(&self) -> bool {
        self.policy.active_outlier().is_some()
    }

    /// Whether the host of a try that succeeded must be known.
    pub fn wants_host<S: Store>(&mut self, store: &mut S, exchange: &Exchange, now: Timestamp) -> bool {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        exchange.probe.is_some() || self.group(exchange).is_some_and(|group| group.hosts.wants_host(store, rules, now))
    }

    /// Judges the host of a try that has ended and is not in the exchange yet. `worker` is this VM among those of the attempt
    /// seats. When what was counted is to be written at the latest.
    pub fn judge_host<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        exchange: &Exchange,
        one: Judged<'_>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let policy = Arc::clone(&self.policy);
        let (rules, hosts) = (policy.active_outlier()?, &mut self.group(exchange)?.hosts);
        let probe = exchange.probe.filter(|_| !exchange.is_retried());
        hosts.judge(worker, store, rules, one, probe, now);
        hosts.flush_due()
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
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        if let Some(probe) = exchange.probe.filter(|_| !exchange.is_retried())
            && let Some(group) = self.group(exchange)
        {
            group.hosts.return_probe(worker, store, rules, probe, sent, now);
        }
    }

    /// Writes what was counted of hosts. When there is more to write at the latest.
    pub fn flush<S: Store>(&mut self, worker: &mut Worker, store: &mut S, now: Timestamp) -> Option<Timestamp> {
        let policy = Arc::clone(&self.policy);
        let rules = policy.active_outlier()?;
        let flush = |group: &mut Group| {
            group.hosts.flush(worker, store, rules, now);
            group.hosts.flush_due()
        };
        self.groups.values_mut().filter_map(flush).min()
    }
}
