//! The request seat's part in ejection: where requests go, and what is told of hosts.

use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use super::calls::Calls;
use super::{Event, Governed, KeyState, Ticket, state_of};
use crate::base::time::Timestamp;
use crate::observe::metrics::Metric;
use crate::outlier::hosts::{Hosts, Judged, Steering};
use crate::outlier::narrate;
use crate::outlier::table::HostTable;
use crate::retry::Leave;
use crate::seats::retry_context::Exchange;
use crate::store::Store;
use crate::store::cluster::{self, ClusterHash, GroupId};
use crate::store::keys::Key;
use crate::store::paths::GroupPaths;
use crate::store::places::{Occupant, Worth};
use crate::store::record::Record;
use crate::store::worker::Worker;
use holdfast_policy::document::{Dimension, Mode, Outlier};

/// One cluster under one key.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) cluster: ClusterHash,
    pub(super) id: GroupId,
    /// The name in the store of when an attempt seat was last seen.
    pub(super) attempt_seat: String,
    /// Whether there is an attempt seat, and when this was last looked up.
    pub(super) has_attempt_seat: Option<(Timestamp, bool)>,
    /// Until then one that shows itself is not counted on: it did not see a request. It may be another listener's.
    pub(super) seat_missed_until: Timestamp,
    pub(super) hosts: Hosts,
    /// What this VM does for all of them, where it leads.
    pub(super) calls: Calls,
}

/// What there is to know of a request before it is sent.
#[derive(Debug)]
pub struct Sending<'a> {
    /// Its cluster, where the key does not tell it.
    pub cluster: ClusterHash,
    /// The cluster's name.
    pub cluster_name: &'a [u8],
    /// What it may be retried after, if the policy says.
    pub leave: Option<Leave>,
    /// What the attempt seat is told about its retries, if anything.
    pub exchange: Option<Exchange>,
}

/// How a request is sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// What the attempt seat is told, if anything.
    pub exchange: Option<Exchange>,
    /// Which hosts the router is told, if any.
    pub steering: Option<Steering>,
}

/// What belongs to the clusters under one key, in the order of their hashes.
#[derive(Debug, Default)]
#[allow(clippy::vec_box)] // One that comes between others moves them: thousands of pointers, not of groups.
pub(super) struct Groups(Vec<Box<Group>>);

impl Groups {
    fn find(&self, cluster: ClusterHash) -> Result<usize, usize> {
        self.0.binary_search_by_key(&cluster, |group| group.cluster)
    }

    fn get(&self, cluster: ClusterHash) -> Option<&Group> {
        self.0.get(self.find(cluster).ok()?).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, cluster: ClusterHash) -> Option<&mut Group> {
        let at = self.find(cluster).ok()?;
        self.0.get_mut(at).map(Box::as_mut)
    }

    /// Adds one that is not there.
    fn add(&mut self, group: Group) {
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

/// Whether hosts of the cluster that this key tells are out.
pub(super) fn are_out(store: &mut dyn Store, prefix: &str, fingerprint: u64, key: Occupant) -> bool {
    let paths = GroupPaths::new(prefix, key.place, GroupId::OfTheKey);
    paths.is_some_and(|paths| is_any_out(store, &paths, fingerprint))
}

fn is_any_out(store: &mut dyn Store, paths: &GroupPaths, fingerprint: u64) -> bool {
    let stored = store.get(&paths.hosts().table());
    stored.and_then(|(bytes, _)| HostTable::decode(&bytes, fingerprint)).is_some_and(|table| table.out() > 0)
}

impl Governed {
    /// What is known of a cluster under a key that has its place; `None` if the key has none, or there is none for the cluster.
    pub(super) fn group(
        &mut self,
        store: &mut dyn Store,
        key: Key,
        cluster: ClusterHash,
        now: Timestamp,
    ) -> Option<&mut Group> {
        if cluster != ClusterHash::OF_THE_KEY && self.groups.look(store, now) {
            self.forget_lost_groups();
        }
        let Governed { states, groups, prefix, fingerprint, .. } = self;
        let state = state_of(states, key)?;
        let known = state.groups.get(cluster).map(|group| group.id);
        let id = match known {
            Some(id) => id,
            None if cluster == ClusterHash::OF_THE_KEY => GroupId::OfTheKey,
            None => {
                let name = cluster::name_of(key.occupant, cluster);
                let occupant = groups.place(store, name, u32::MAX, now, &mut |store, occupant| {
                    let id = GroupId::Numbered(occupant);
                    let paths = GroupPaths::new(prefix, key.occupant.place, id);
                    let fingerprint = id.fingerprint(*fingerprint, key.occupant);
                    if paths.is_some_and(|paths| is_any_out(store, &paths, fingerprint)) {
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
            let paths = GroupPaths::new(prefix, key.occupant.place, id)?;
            state.groups.add(Group {
                cluster,
                id,
                attempt_seat: paths.attempt_seat(),
                has_attempt_seat: None,
                seat_missed_until: Timestamp::ZERO,
                hosts: Hosts::new(paths.hosts(), id.fingerprint(*fingerprint, key.occupant)),
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

    /// The policy's rules for hosts, if they do anything.
    pub fn outlier(&self) -> Option<&Outlier> {
        self.policy.active_outlier()
    }

    /// Decides where an admitted request goes.
    pub fn send<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        ticket: &Ticket,
        sending: Sending<'_>,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Sent {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else {
            return Sent { exchange: sending.exchange, steering: None };
        };
        let Sending { cluster, cluster_name, leave, exchange } = sending;
        let seat = match &exchange {
            Some(exchange) => exchange.seat,
            None => self.sees_attempt_seat(store, ticket.key, cluster, now),
        };
        let retry = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce);
        let tries = retry.map_or(1, |retry| 1 + usize::from(retry.max_retries));
        // Where nothing is retried all requests are alike.
        let waits = retry.is_some_and(|retry| retry.max_retries > 0) && leave != Some(Leave::All);
        let fingerprint = self.fingerprint;
        let Some(group) = self.group(store, ticket.key, cluster, now) else { return Sent { exchange, steering: None } };
        let id = group.id;
        group.hosts.look(worker, store, rules, now);
        group.hosts.introduce(worker, store, rules, cluster_name, now);
        let steering = group.hosts.steer(worker, store, rules, tries, waits, now);
        let has_news = group.hosts.has_news();
        let mut exchange = exchange.unwrap_or_else(|| {
            Exchange::new(fingerprint, &policy.name, ticket.key.occupant, id, seat, worker.random.next(), now)
        });
        exchange.steered = steering.is_some();
        exchange.probe = steering.as_ref().and_then(|steering| steering.probe.as_ref()).map(|(id, _)| *id);
        if has_news {
            self.tell_hosts(worker, store, ticket.key, now, events);
        }
        Sent { exchange: Some(exchange), steering }
    }

    /// Whether the host of a try that succeeded must be known, where no attempt seat judges it.
    pub fn wants_host<S: Store>(&mut self, store: &mut S, key: Key, cluster: ClusterHash, now: Timestamp) -> bool {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        self.group(store, key, cluster, now).is_some_and(|group| group.hosts.wants_host(store, rules, now))
    }

    /// Judges the host of a request's last try, where no attempt seat does.
    #[allow(clippy::too_many_arguments)] // The worker, the store and the events belong to every call.
    pub fn judge_host<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        key: Key,
        cluster: ClusterHash,
        one: Judged<'_>,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        if let Some(group) = self.group(store, key, cluster, now) {
            group.hosts.judge(worker, store, rules, one, None, now);
        }
        self.tell_hosts(worker, store, key, now, events);
    }

    /// Makes the next request look at the hosts: an attempt seat may have taken one out, and its signal does not reach this
    /// seat before Envoy 1.39.
    pub fn look_again_at_hosts(&mut self, key: Key, cluster: ClusterHash) {
        let state = state_of(&mut self.states, key);
        if let Some(group) = state.and_then(|state| state.groups.get_mut(cluster)) {
            group.hosts.look_again();
        }
    }

    /// Tells what has happened to the hosts of a key, if no other worker has.
    pub(super) fn tell_hosts(
        &mut self,
        worker: &mut Worker,
        store: &mut dyn Store,
        key: Key,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        let Some(state) = state_of(&mut self.states, key) else { return };
        let mut lines = Vec::new();
        for group in state.groups.iter_mut() {
            let Some(news) = group.hosts.take_news(worker, store, rules, now) else { continue };
            events.extend(news.counts().map(|(counted, count)| Event::Add(Metric::counted(counted), count)));
            lines.push(news);
        }
        if lines.is_empty() {
            return;
        }
        let totals = totals(state);
        let text = self.key_text(key);
        for news in lines {
            for happening in &news.happenings {
                let (alarming, line) = narrate::line(&policy.name, text, rules, happening);
                events.push(Event::Said { alarming, line });
            }
            if news.left_out > 0 {
                let line = narrate::left_out(&policy.name, text, news.left_out);
                events.push(Event::Said { alarming: false, line });
            }
        }
        events.extend(totals);
    }

    /// What is to be done for the hosts once a second or so.
    pub(super) fn tick_hosts(
        &mut self,
        worker: &mut Worker,
        store: &mut dyn Store,
        now: Timestamp,
    ) -> Vec<(Key, Vec<Event>)> {
        let store = &mut { store };
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return Vec::new() };
        self.know_groups(worker, store, rules, now);
        let mut told = Vec::new();
        for number in 0..self.states.len() {
            let Some(Some(state)) = self.states.get_mut(number) else { continue };
            if state.groups.len() == 0 {
                continue;
            }
            for group in state.groups.iter_mut() {
                group.hosts.look(worker, store, rules, now);
                group.hosts.flush(worker, store, rules, now);
                group.hosts.sweep(worker, store, rules, now);
            }
            let mut events: Vec<Event> = totals(state).into();
            let key = state.key;
            self.tell_hosts(worker, store, key, now, &mut events);
            told.push((key, events));
        }
        told
    }

    /// How often [`Governed::tick`] should be called at least.
    pub fn tick_every(&self) -> Duration {
        let second = Duration::from_secs(1);
        let Some(rules) = self.outlier() else { return second };
        let heartbeat = rules.heartbeat.as_ref().map_or(second, |heartbeat| heartbeat.interval / 4);
        let discover = rules.discover.as_ref().map_or(second, |discover| discover.interval);
        // Twice in an interval, so that each is looked at before the next but one begins; and oftener than a heartbeat, whose hosts
        // each have their own moment.
        second.min(rules.interval / 2).min(heartbeat).min(discover)
    }

    /// Knows the groups from the beginning of which the document says all: so their hosts are looked after before the first
    /// request.
    fn know_groups(&mut self, worker: &mut Worker, store: &mut dyn Store, rules: &Outlier, now: Timestamp) {
        let store = &mut { store };
        let looks_after = rules.heartbeat.is_some() || rules.discover.is_some();
        if core::mem::replace(&mut self.knows_groups, true) || !looks_after {
            return;
        }
        let policy = Arc::clone(&self.policy);
        let is_known = policy.scope.by.iter().all(|dimension| *dimension == Dimension::Cluster);
        for cluster in policy.matches.cluster.iter().filter(|cluster| is_known && cluster.is_literal()) {
            let name = cluster.as_str().as_bytes();
            let key = self.key(worker, store, now, |_| Some(Cow::Borrowed(name)));
            let hash = self.cluster_hash(key, || Cow::Borrowed(name));
            if let Some(group) = self.group(store, key, hash, now) {
                group.hosts.look(worker, store, rules, now);
                group.hosts.introduce(worker, store, rules, name, now);
            }
        }
    }
}

/// The gauges of a key's hosts, over all clusters that this worker knows.
fn totals(state: &KeyState) -> [Event; 2] {
    let tables = || state.groups.iter().filter_map(|group| group.hosts.table());
    let (known, out) =
        (tables().map(|table| table.known() as u64).sum(), tables().map(|table| table.out() as u64).sum());
    [Event::Gauge(Metric::Hosts, known), Event::Gauge(Metric::HostsEjected, out)]
}
