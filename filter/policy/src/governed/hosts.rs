//! The request seat's part in ejection: where requests go, and what is told of hosts.

use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use super::calls::Calls;
use super::{Event, Governed, KeyState, Ticket};
use crate::document::{Dimension, Mode, Outlier};
use crate::exchange::{ClusterHash, Exchange};
use crate::keys::KeyNumber;
use crate::metrics::Metric;
use crate::outlier::hosts::{Hosts, Judged, Steering};
use crate::outlier::narrate;
use crate::presence;
use crate::retry::Leave;
use crate::store::Store;
use crate::time::Timestamp;
use crate::worker::Worker;

/// The hosts of one cluster under one key.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) cluster: ClusterHash,
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

impl KeyState {
    pub(super) fn group(&mut self, fingerprint: u64, cluster: ClusterHash) -> Option<&mut Group> {
        let fresh = || {
            let hosts = Hosts::new(self.paths.hosts(cluster), fingerprint);
            Group { cluster, hosts, calls: Calls::default() }
        };
        presence::recall(&mut self.groups, |group| group.cluster == cluster, fresh)
    }
}

impl Governed {
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
        let Some(state) = self.states.get_mut(usize::from(ticket.key.0)) else {
            return Sent { exchange, steering: None };
        };
        let Some(group) = state.group(fingerprint, cluster) else { return Sent { exchange, steering: None } };
        group.hosts.look(worker, store, rules, now);
        group.hosts.introduce(worker, store, rules, cluster_name, now);
        let steering = group.hosts.steer(worker, store, rules, tries, waits, now);
        let mut exchange = exchange.unwrap_or_else(|| {
            Exchange::new(fingerprint, &policy.name, ticket.key, cluster, seat, worker.random.next(), now)
        });
        exchange.steered = steering.is_some();
        exchange.probe = steering.as_ref().and_then(|steering| steering.probe.as_ref()).map(|(id, _)| *id);
        let has_news = state.groups.iter().any(|group| group.hosts.has_news());
        if has_news {
            self.tell_hosts(worker, store, ticket.key, now, events);
        }
        Sent { exchange: Some(exchange), steering }
    }

    /// Whether the host of a try that succeeded must be known, where no attempt seat judges it.
    pub fn wants_host<S: Store>(
        &mut self,
        store: &mut S,
        key: KeyNumber,
        cluster: ClusterHash,
        now: Timestamp,
    ) -> bool {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        let group = self.states.get_mut(usize::from(key.0)).and_then(|state| state.group(self.fingerprint, cluster));
        group.is_some_and(|group| group.hosts.wants_host(store, rules, now))
    }

    /// Judges the host of a request's last try, where no attempt seat does.
    #[allow(clippy::too_many_arguments)] // The worker, the store and the events belong to every call.
    pub fn judge_host<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        key: KeyNumber,
        cluster: ClusterHash,
        one: Judged<'_>,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        let group = self.states.get_mut(usize::from(key.0)).and_then(|state| state.group(self.fingerprint, cluster));
        if let Some(group) = group {
            group.hosts.judge(worker, store, rules, one, None, now);
        }
        self.tell_hosts(worker, store, key, now, events);
    }

    /// Makes the next request look at the hosts: an attempt seat may have taken one out, and its signal does not reach this
    /// seat before Envoy 1.39.
    pub fn look_again_at_hosts(&mut self, key: KeyNumber, cluster: ClusterHash) {
        let state = self.states.get_mut(usize::from(key.0));
        if let Some(group) = state.and_then(|state| state.groups.iter_mut().find(|group| group.cluster == cluster)) {
            group.hosts.look_again();
        }
    }

    /// Tells what has happened to the hosts of a key, if no other worker has.
    #[inline(never)]
    pub(super) fn tell_hosts(
        &mut self,
        worker: &mut Worker,
        store: &mut dyn Store,
        key: KeyNumber,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        let Some(state) = self.states.get_mut(usize::from(key.0)) else { return };
        let mut lines = Vec::new();
        for group in &mut state.groups {
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
    ) -> Vec<(KeyNumber, Vec<Event>)> {
        let store = &mut { store };
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return Vec::new() };
        self.know_groups(worker, store, rules, now);
        let mut told = Vec::new();
        for number in 0..self.states.len() {
            let Some(state) = self.states.get_mut(number) else { continue };
            if state.groups.is_empty() {
                continue;
            }
            for group in &mut state.groups {
                group.hosts.look(worker, store, rules, now);
                group.hosts.flush(worker, store, rules, now);
                group.hosts.sweep(worker, store, rules, now);
            }
            let mut events: Vec<Event> = totals(state).into();
            let key = KeyNumber(number as u16);
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
            let key = self.key(store, |_| Some(Cow::Borrowed(name)));
            let hash = self.cluster_hash(|| Cow::Borrowed(name));
            let state = self.states.get_mut(usize::from(key.0));
            if let Some(group) = state.and_then(|state| state.group(self.fingerprint, hash)) {
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
