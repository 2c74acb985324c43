//! Where an admitted request goes, and what is reported of hosts.

use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use holdfast_policy::document::{Dimension, Mode, Outlier};

use super::groups::{Group, are_out};
use super::key_state::{RequestKey, state_of};
use super::policy::RequestPolicy;
use super::ticket::Ticket;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::metric::Metric;
use crate::outlier::calls::Calls;
use crate::outlier::hosts::{HostAttempt, Hosts, Steering};
use crate::outlier::table::HostId;
use crate::outlier::words;
use crate::retry::Eligibility;
use crate::seats::presence::AttemptSeatView;
use crate::seats::retry_context::RetryContext;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::cluster::{self, ClusterHash, GroupId};
use crate::store::directory::Worth;
use crate::store::keys::Key;
use crate::store::paths::GroupPaths;

/// What there is to know of a request before it is sent.
#[derive(Debug)]
pub struct Sending<'a> {
    /// Its cluster, where the key does not tell it.
    pub cluster: ClusterHash,
    /// The cluster's name.
    pub cluster_name: &'a [u8],
    /// What it may be retried after, if the policy says.
    pub eligibility: Option<Eligibility>,
    /// What the attempt seat is told about its retries, if anything.
    pub context: Option<RetryContext>,
}

/// How a request is sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// What the attempt seat is told, if anything.
    pub context: Option<RetryContext>,
    /// Which hosts the router is told, if any.
    pub steering: Option<Steering>,
}

impl RequestPolicy {
    /// What is known of a cluster under a key that has its place; `None` if the key has none, or there is none for the cluster.
    pub(super) fn group(
        &mut self,
        store: &mut dyn Store,
        key: Key,
        cluster: ClusterHash,
        now: Timestamp,
    ) -> Option<&mut Group> {
        if cluster != ClusterHash::OF_THE_KEY && self.groups.refresh(store, now) {
            self.forget_lost_groups();
        }
        let RequestPolicy { states, groups, prefix, fingerprint, .. } = self;
        let state = state_of(states, key)?;
        let known = state.groups.get(cluster).map(|group| group.id);
        let id = match known {
            Some(id) => id,
            None if cluster == ClusterHash::OF_THE_KEY => GroupId::OfTheKey,
            None => {
                let name = cluster::name_of(key.occupant, cluster);
                let occupant = groups.assign(store, name, u32::MAX, now, &mut |store, occupant| {
                    if are_out(store, prefix, *fingerprint, key.occupant, GroupId::Numbered(occupant)) {
                        Worth::Keep
                    } else {
                        Worth::Little(0)
                    }
                });
                GroupId::Numbered(occupant?.0)
            }
        };
        if let GroupId::Numbered(occupant) = id {
            groups.use_once(occupant);
        }
        if known.is_none() {
            let paths = GroupPaths::new(prefix, key.occupant.index, id)?;
            let fingerprint = id.fingerprint(*fingerprint, key.occupant);
            state.groups.add(Group {
                cluster,
                id,
                attempt_seat: AttemptSeatView::new(Address::new(paths.attempt_seat(), fingerprint)),
                hosts: Hosts::new(paths.hosts(), fingerprint),
                calls: Calls::default(),
            });
        }
        state.groups.get_mut(cluster)
    }

    /// Where the state of a cluster under a key is.
    pub(super) fn group_id(
        &mut self,
        store: &mut dyn Store,
        key: Key,
        cluster: ClusterHash,
        now: Timestamp,
    ) -> GroupId {
        self.group(store, key, cluster, now).map_or(GroupId::Nowhere, |group| group.id)
    }

    /// Decides where an admitted request goes.
    pub fn send(&mut self, cx: &mut Cx<'_>, ticket: &Ticket, sending: Sending<'_>) -> Sent {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else {
            return Sent { context: sending.context, steering: None };
        };
        let Sending { cluster, cluster_name, eligibility, context } = sending;
        let seat = match &context {
            Some(context) => context.seat,
            None => self.sees_attempt_seat(cx.store, ticket.key, cluster, now),
        };
        let retry = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce);
        let attempts = retry.map_or(1, |retry| 1 + usize::from(retry.max_retries));
        // Where nothing is retried all requests are alike.
        let waits = retry.is_some_and(|retry| retry.max_retries > 0) && eligibility != Some(Eligibility::All);
        let fingerprint = self.fingerprint;
        let Some(group) = self.group(cx.store, ticket.key, cluster, now) else {
            return Sent { context, steering: None };
        };
        let id = group.id;
        group.hosts.refresh(cx, rules);
        group.hosts.register(cx, rules, cluster_name);
        let steering = group.hosts.steer(cx, rules, attempts, waits);
        let has_events = group.hosts.has_events();
        let mut context = context.unwrap_or_else(|| {
            RetryContext::new(fingerprint, &policy.name, ticket.key.occupant, id, seat, cx.worker.random.next(), now)
        });
        context.steered = steering.is_some();
        context.probe = steering.as_ref().and_then(|steering| steering.probe.as_ref()).map(|(id, _)| *id);
        if has_events {
            self.report_hosts(cx, ticket.key);
        }
        Sent { context: Some(context), steering }
    }

    /// Whether the host of an attempt that succeeded must be known, where no attempt seat judges it.
    pub fn wants_host(&mut self, store: &mut dyn Store, key: Key, cluster: ClusterHash, now: Timestamp) -> bool {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        self.group(store, key, cluster, now).is_some_and(|group| group.hosts.wants_host(store, rules, now))
    }

    /// Judges the host of a request's last attempt, where no attempt seat does. `probe` is the host that the attempt was the probe
    /// of, if it holds that permit.
    pub fn judge_host(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        cluster: ClusterHash,
        one: HostAttempt<'_>,
        probe: Option<HostId>,
    ) {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        if let Some(group) = self.group(cx.store, key, cluster, now) {
            group.hosts.judge(cx, rules, one, probe);
        }
        self.report_hosts(cx, key);
    }

    /// Meets the host of a response whose headers have come and that goes on, where no attempt seat does. `address` gives it. What it
    /// gave, and whether the host is out; `None` if it is not to be met.
    pub(super) fn meet_host(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        cluster: ClusterHash,
        address: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Option<(Vec<u8>, bool)> {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let rules = policy.active_outlier()?;
        let hosts = &mut self.group(cx.store, key, cluster, now)?.hosts;
        let address = if hosts.wants_to_meet(now) { address()? } else { return None };
        let is_out = hosts.meet(cx, rules, &address);
        Some((address, is_out))
    }

    /// Counts an attempt whose client left after `slow_after`, where no attempt seat does. It was sent then and took so long.
    pub(super) fn abandon_host(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        cluster: ClusterHash,
        (address, sent, took): (&[u8], Timestamp, Duration),
    ) {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        if let Some(group) = self.group(cx.store, key, cluster, now) {
            group.hosts.abandon(cx, rules, address, sent, took);
        }
    }

    /// Makes the next request look at the hosts: an attempt seat may have taken one out, and its signal does not reach this
    /// seat before Envoy 1.39.
    pub fn invalidate_hosts(&mut self, key: Key, cluster: ClusterHash) {
        let state = state_of(&mut self.states, key);
        if let Some(group) = state.and_then(|state| state.groups.get_mut(cluster)) {
            group.hosts.invalidate();
        }
    }

    /// Reports what has happened to the hosts of a key, if no other worker has.
    pub(super) fn report_hosts(&mut self, cx: &mut Cx<'_>, key: Key) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        let Some(state) = state_of(&mut self.states, key) else { return };
        let mut lines = Vec::new();
        for group in state.groups.iter_mut() {
            let Some(events) = group.hosts.take_events(cx, rules) else { continue };
            cx.events.extend(events.counts().map(|(counted, count)| Event::Add(words::metric(counted), count)));
            lines.push(events);
        }
        if lines.is_empty() {
            return;
        }
        let totals = totals(state);
        for events in lines {
            cx.events.extend(events.list.iter().map(|event| words::line(rules, event)));
            if events.left_out > 0 {
                cx.events.push(words::left_out(events.left_out));
            }
        }
        cx.events.extend(totals);
    }

    /// What is to be done for the hosts once a second or so.
    pub(super) fn tick_hosts(&mut self, cx: &mut Cx<'_>) -> Vec<(Key, Vec<Event>)> {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return Vec::new() };
        self.know_groups(cx, rules);
        let mut reports = Vec::new();
        for number in 0..self.states.len() {
            let Some(Some(state)) = self.states.get_mut(number) else { continue };
            if state.groups.len() == 0 {
                continue;
            }
            for group in state.groups.iter_mut() {
                group.hosts.refresh(cx, rules);
                group.hosts.flush(cx, rules);
                group.hosts.sweep(cx, rules);
            }
            let mut events: Vec<Event> = totals(state).into();
            let key = state.key;
            self.report_hosts(&mut cx.with_events(&mut events), key);
            reports.push((key, events));
        }
        reports
    }

    /// Knows the groups from the beginning of which the document says all: so their hosts are looked after before the first
    /// request.
    fn know_groups(&mut self, cx: &mut Cx<'_>, rules: &Outlier) {
        let now = cx.now;
        let looks_after = rules.heartbeat.is_some() || rules.discover.is_some();
        if core::mem::replace(&mut self.knows_groups, true) || !looks_after {
            return;
        }
        let policy = Arc::clone(&self.policy);
        let is_known = policy.scope.by.iter().all(|dimension| *dimension == Dimension::Cluster);
        for cluster in policy.matches.cluster.iter().filter(|cluster| is_known && cluster.is_literal()) {
            let name = cluster.as_str().as_bytes();
            let key = self.key(cx.worker, cx.store, now, |_| Some(Cow::Borrowed(name)));
            let hash = self.cluster_hash(key, || Cow::Borrowed(name));
            if let Some(group) = self.group(cx.store, key, hash, now) {
                group.hosts.refresh(cx, rules);
                group.hosts.register(cx, rules, name);
            }
        }
    }
}

/// The gauges of a key's hosts, over all clusters that this worker knows.
fn totals(state: &RequestKey) -> [Event; 2] {
    let tables = || state.groups.iter().filter_map(|group| group.hosts.table());
    let (known, out) =
        (tables().map(|table| table.known() as u64).sum(), tables().map(|table| table.out() as u64).sum());
    [Event::Gauge(Metric::Hosts, known), Event::Gauge(Metric::HostsEjected, out)]
}
