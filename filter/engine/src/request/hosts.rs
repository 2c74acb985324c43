//! Where an admitted request goes, and what is reported of hosts.

use core::cell::RefMut;
use core::time::Duration;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use holdfast_policy::document::{Balance, Dimension, Mode, Outlier};

use super::blocks::{Block, KeysBlock, borrowed};
use super::clusters::{Clusters, HostGroup, are_out};
use super::policy::RequestPolicy;
use super::ticket::Ticket;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::host::Host;
use crate::metric::Metric;
use crate::outlier::hosts::{Asks, HostAttempt, Steering};
use crate::outlier::table::{HostId, HostTable};
use crate::outlier::words;
use crate::outlier::{steering, subset};
use crate::retry::Eligibility;
use crate::seats::presence::AttemptSeatView;
use crate::seats::retry_context::RetryContext;
use crate::store::Store;
use crate::store::block::BlockKind;
use crate::store::cluster::{self, ClusterHash, GroupId};
use crate::store::directory::Worth;
use crate::store::keys::Key;
use crate::store::registry::Newer;

/// So many attempts a request may have where the policy does not say: the route may have retries of its own, which cannot be seen.
const ROUTES_ATTEMPTS: usize = 6;

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
    /// Where the state of a cluster under a key is.
    pub(super) fn group_id(
        &mut self,
        store: &mut dyn Store,
        key: Key,
        cluster: ClusterHash,
        now: Timestamp,
    ) -> GroupId {
        self.find_group(store, key, cluster, now).unwrap_or(GroupId::Nowhere)
    }

    /// The same; `None` if the key has no place, or there is none for the cluster.
    fn find_group(&mut self, store: &mut dyn Store, key: Key, cluster: ClusterHash, now: Timestamp) -> Option<GroupId> {
        if cluster == ClusterHash::OF_THE_KEY {
            return Some(GroupId::OfTheKey);
        }
        let blocks = self.blocks.as_ref()?;
        if blocks.keys.try_borrow_mut().ok()?.groups.refresh(store, now) {
            self.forget_lost_groups();
        }
        let mut keys = blocks.keys.try_borrow_mut().ok()?;
        let KeysBlock { groups, seats, .. } = &mut *keys;
        let seats = seats.of(key)?;
        let id = match seats.id(cluster) {
            Some(id) => id,
            None => {
                let name = cluster::name_of(key.occupant, cluster);
                let occupant = groups.assign(store, name, u32::MAX, now, &mut |store, occupant| {
                    let table = blocks.hosts(key.occupant, GroupId::Numbered(occupant));
                    if are_out(store, table.as_ref()) { Worth::Keep } else { Worth::Little(0) }
                });
                let id = GroupId::Numbered(occupant?.0);
                seats.get_or_add(cluster, id, || blocks.seat(key, id).map(AttemptSeatView::new));
                id
            }
        };
        if let GroupId::Numbered(occupant) = id {
            groups.use_once(occupant);
        }
        Some(id)
    }

    /// Whether there is an attempt seat for a cluster under a key, as far as this worker knows; given to `ask`.
    pub(super) fn with_seat<R>(
        &mut self,
        store: &mut dyn Store,
        key: Key,
        cluster: ClusterHash,
        now: Timestamp,
        ask: impl FnOnce(&mut AttemptSeatView, &mut dyn Store) -> R,
    ) -> Option<R> {
        let id = self.find_group(store, key, cluster, now)?;
        let blocks = self.blocks.as_ref()?;
        let mut keys = blocks.keys.try_borrow_mut().ok()?;
        let make = || blocks.seat(key, id).map(AttemptSeatView::new);
        Some(ask(keys.seats.of(key)?.get_or_add(cluster, id, make)?, store))
    }

    /// What is known of the hosts of a cluster under a key, given to `act` with the store; `None` if the key has no place, or there is none
    /// for the cluster.
    fn with_group<R>(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        cluster: ClusterHash,
        act: impl FnOnce(&mut HostGroup, &mut Cx<'_>) -> R,
    ) -> Option<R> {
        let id = self.find_group(cx.store, key, cluster, cx.now)?;
        let RequestPolicy { policy, blocks, .. } = self;
        let blocks = blocks.as_ref()?;
        let mut block = blocks.outlier.as_ref()?.try_borrow_mut().ok()?;
        let group = block.of(key)?.get_or_add(cluster, id, || blocks.host_group(policy, key, id))?;
        Some(act(group, cx))
    }

    /// Takes over what the blocks before knew of the hosts of all keys that this worker has met, and of all their clusters.
    pub(super) fn take_over_hosts(&mut self, cx: &mut Cx<'_>) {
        let policy = Arc::clone(&self.policy);
        let (Some(rules), Some(blocks)) = (policy.active_outlier(), &self.blocks) else { return };
        let Some(block) = &blocks.outlier else { return };
        let (mut known, mut others) = (Vec::new(), Vec::new());
        if let (Ok(block), Ok(mut keys)) = (block.try_borrow(), blocks.keys.try_borrow_mut()) {
            let KeysBlock { groups, seats, .. } = &mut *keys;
            groups.reread(cx.store, cx.now);
            for (key, _) in block.iter() {
                let of_the_key = (!self.wants_cluster(key)).then_some((ClusterHash::OF_THE_KEY, GroupId::OfTheKey));
                let all = seats.at(key.occupant).into_iter().flat_map(Clusters::ids).chain(of_the_key);
                known.extend(all.map(|(cluster, id)| (key, cluster, id)));
            }
            let met: HashSet<GroupId> = known.iter().map(|(.., id)| *id).collect();
            let numbered = (0..).map_while(|index| groups.known().occupant(index)).map(GroupId::Numbered);
            others.extend(numbered.filter(|id| !met.contains(id)));
        }
        let Ok(mut block) = block.try_borrow_mut() else { return };
        for (key, cluster, id) in known {
            let make = || blocks.host_group(&policy, key, id);
            if let Some(group) = block.of(key).and_then(|clusters| clusters.get_or_add(cluster, id, make)) {
                group.hosts.refresh(cx, rules);
            }
        }
        // Clusters that this worker has not met have their records, whoever meets them.
        for id in others {
            if let Some(mut group) = blocks.host_group(&policy, Key::ALL, id) {
                group.hosts.refresh(cx, rules);
            }
        }
    }

    /// Decides where an admitted request goes.
    pub fn send(&mut self, cx: &mut Cx<'_>, ticket: &Ticket, sending: Sending<'_>, asks: &Asks<'_>) -> Sent {
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
        let attempts = retry.map_or(ROUTES_ATTEMPTS, |retry| 1 + usize::from(retry.max_retries));
        // Where nothing is retried all requests are alike.
        let waits = retry.is_some_and(|retry| retry.max_retries > 0) && eligibility != Some(Eligibility::All);
        let Some(place) = self.text_place() else { return Sent { context, steering: None } };
        let id = self.group_id(cx.store, ticket.key, cluster, now);
        let steered = self.with_group(cx, ticket.key, cluster, |group, cx| {
            group.hosts.refresh(cx, rules);
            group.hosts.register(cx, rules, cluster_name);
            let steering = group.hosts.steer(cx, rules, attempts, waits, asks);
            (steering, group.hosts.has_events())
        });
        let Some((steering, has_events)) = steered else { return Sent { context, steering: None } };
        let mut context = context
            .unwrap_or_else(|| RetryContext::new(place, ticket.key.occupant, id, seat, cx.worker.random.next(), now));
        context.steered = steering.is_some();
        context.probe = steering.as_ref().and_then(|steering| steering.probe.as_ref()).map(|(id, _)| *id);
        if has_events {
            self.report_hosts(cx, ticket.key);
        }
        Sent { context: Some(context), steering }
    }

    /// Whether the host of an attempt that succeeded must be known, where no attempt seat judges it.
    pub fn wants_host(&mut self, cx: &mut Cx<'_>, key: Key, cluster: ClusterHash) -> bool {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        let wants = self.with_group(cx, key, cluster, |group, cx| group.hosts.wants_host(cx.store, rules, cx.now));
        wants.unwrap_or_default()
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
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        self.with_group(cx, key, cluster, |group, cx| group.hosts.judge(cx, rules, one, probe));
        self.report_hosts(cx, key);
    }

    /// Takes note of which host a request came to: where its selector leads if nobody steered it, and, if no attempt seat does so, its
    /// host's label and whether it is one that was named to it. `address` is its host, if that was looked at.
    pub(super) fn note_subset(
        &mut self,
        cx: &mut Cx<'_>,
        (key, cluster): (Key, ClusterHash),
        address: Option<&[u8]>,
        steering: Option<&Steering>,
        host: &dyn Host,
    ) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        let Some(mut block) = self.outlier_block() else { return };
        let Some(group) = block.of(key).and_then(|clusters| clusters.get_mut(cluster)) else { return };
        if let Some(address) = address {
            group.hosts.note_label(cx, rules, address, &|| subset::label(host));
            if let Some(steering) = steering {
                group.hosts.check_steering(cx, rules, steering::names(steering.hosts.as_bytes(), address));
            }
        }
        if group.hosts.has_subsets()
            && steering.is_none()
            && let Some(selector) = subset::selector(host)
        {
            group.hosts.note_subset(cx.worker, selector, &|| subset::label_of_last(host));
        }
    }

    /// Takes in how long a host took to answer a request that named it first, or to fail, where the balance looks at that. `address`
    /// gives whose answer it was.
    pub(super) fn observe(
        &mut self,
        (key, cluster): (Key, ClusterHash),
        steering: &Steering,
        (took, failed, now): (Duration, bool, Timestamp),
        address: impl FnOnce() -> Option<Vec<u8>>,
    ) {
        let is_wanted = self.outlier().is_some_and(|rules| *rules.acting_balance() == Balance::LeastLatency);
        if is_wanted
            && address().is_some_and(|address| steering.leads_to(&address))
            && let Some(mut block) = self.outlier_block()
            && let Some(group) = block.of(key).and_then(|clusters| clusters.get_mut(cluster))
        {
            group.hosts.observe(steering.first, took, failed, now);
        }
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
        let policy = Arc::clone(&self.policy);
        let rules = policy.active_outlier()?;
        self.with_group(cx, key, cluster, |HostGroup { hosts, .. }, cx| {
            let address = if hosts.wants_to_meet(cx.now) { address()? } else { return None };
            let is_out = hosts.meet(cx, rules, &address);
            Some((address, is_out))
        })?
    }

    /// Counts an attempt whose client left after `slow_after`, where no attempt seat does. It was sent then and took so long.
    pub(super) fn abandon_host(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        cluster: ClusterHash,
        (address, sent, took): (&[u8], Timestamp, Duration),
    ) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        self.with_group(cx, key, cluster, |group, cx| group.hosts.abandon(cx, rules, address, sent, took));
    }

    /// Makes the next request look at the hosts: an attempt seat may have taken one out, and its signal does not reach this
    /// seat before Envoy 1.39.
    pub fn invalidate_hosts(&mut self, key: Key, cluster: ClusterHash) {
        if let Some(mut block) = self.outlier_block()
            && let Some(group) = block.of(key).and_then(|clusters| clusters.get_mut(cluster))
        {
            group.hosts.invalidate();
        }
    }

    /// Reports what has happened to the hosts of a key, if no other worker has.
    pub(super) fn report_hosts(&mut self, cx: &mut Cx<'_>, key: Key) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        // What is shared with a newer content is told under its name.
        if *self.newer().get(BlockKind::Outlier) == Newer::Same {
            return;
        }
        let Some(mut block) = self.outlier_block() else { return };
        let Some(state) = block.of(key) else { return };
        let mut lines = Vec::new();
        for (_, group) in state.iter_mut() {
            let Some(events) = group.hosts.take_events(cx, rules) else { continue };
            cx.events.extend(events.counts().map(|(counted, count)| Event::Add(words::metric(counted), count)));
            lines.push(events);
        }
        if lines.is_empty() {
            return;
        }
        let totals = totals(state, cx.now);
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
        let mut keys = Vec::new();
        if let Some(mut block) = self.outlier_block() {
            for (key, state) in block.iter_mut().filter(|(_, state)| state.len() > 0) {
                for (_, group) in state.iter_mut() {
                    group.hosts.refresh(cx, rules);
                    group.hosts.flush(cx, rules);
                    group.hosts.sweep(cx, rules);
                }
                keys.push((key, totals(state, cx.now)));
            }
        }
        let mut reports = Vec::new();
        for (key, totals) in keys {
            let mut events: Vec<Event> = totals.into();
            self.report_hosts(&mut cx.with_events(&mut events), key);
            reports.push((key, events));
        }
        reports
    }

    /// What is known of hosts.
    pub(super) fn outlier_block(&self) -> Option<RefMut<'_, Block<Clusters<HostGroup>>>> {
        borrowed(self.blocks.as_ref()?.outlier.as_ref())
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
            self.with_group(cx, key, hash, |group, cx| {
                group.hosts.refresh(cx, rules);
                group.hosts.register(cx, rules, name);
            });
        }
    }
}

/// The gauges of a key's hosts, over all clusters that this worker knows. Where nothing is steered no host is out.
fn totals(clusters: &Clusters<HostGroup>, now: Timestamp) -> [Event; 4] {
    let tables = || clusters.iter().filter_map(|(_, group)| group.hosts.table());
    let known = tables().map(|table| table.known() as u64).sum();
    let out = tables().filter(|table| !table.is_unfollowed()).map(|table| table.out() as u64).sum();
    let is_unfollowed = tables().any(HostTable::is_unfollowed);
    [
        Event::Gauge(Metric::Hosts, known),
        Event::Gauge(Metric::HostsEjected, out),
        Event::Gauge(Metric::MisassembledOverrideHost, is_unfollowed.into()),
        Event::Gauge(Metric::MisassembledHostAddress, tables().any(|table| table.has_unaddressed(now)).into()),
    ]
}
