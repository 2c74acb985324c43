//! Requests of our own, which one VM makes for all: heartbeats, and readings of a cluster's hosts.

use core::time::Duration;
use std::sync::Arc;

use super::hosts::Group;
use super::{Event, Governed, state_of};
use crate::base::time::Timestamp;
use crate::outlier::cause::Cause;
use crate::outlier::discover::{self, Discovery};
use crate::outlier::heartbeat::{self, Checks, Found, MOST_IN_FLIGHT, Verdict};
use crate::outlier::leader::{self, Held};
use crate::outlier::table::HostId;
use crate::store::Store;
use crate::store::cluster::ClusterHash;
use crate::store::keys::Key;
use crate::store::worker::Worker;
use holdfast_policy::document::{Mode, Outlier};

/// How often the same trouble with reading the hosts is told.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What one VM remembers of the requests that it makes for a group.
#[derive(Debug, Default)]
pub(super) struct Calls {
    held: Held,
    checks: Checks,
    discovery: Discovery,
    /// What was told last, and when.
    complained: Option<(Timestamp, String)>,
}

/// A request to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    key: Key,
    cluster: ClusterHash,
    what: What,
    /// The cluster that it goes to.
    pub upstream: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Call {
    /// The key that it is made for.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Whether the answer's body matters.
    pub fn reads_body(&self) -> bool {
        self.what == What::Discover
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Heartbeat(HostId),
    Discover,
}

/// How a call was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// Whether a host gave it, and not Envoy in place of one.
    pub is_hosts: bool,
    /// Whether it has the header by which an attempt seat says, in place of a host, that the cluster has no such host.
    pub is_gone: bool,
    /// The body.
    pub body: &'a [u8],
}

impl Governed {
    /// The requests to make now, if this VM is the one to make them. Each is to be [`Governed::call_made`].
    pub fn calls(
        &mut self,
        worker: &mut Worker,
        store: &mut dyn Store,
        now: Timestamp,
        events: &mut Vec<(Key, Vec<Event>)>,
    ) -> Vec<Call> {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return Vec::new() };
        let beats = rules.heartbeat.as_ref().filter(|heartbeat| heartbeat.mode != Mode::Off);
        if beats.is_none() && rules.discover.is_none() {
            return Vec::new();
        }
        let nonce = worker.nonce();
        let mut calls = Vec::new();
        for state in self.states.iter_mut().flatten() {
            let key = state.key;
            for group in state.groups.iter_mut() {
                let leader = group.hosts.paths().leader();
                let cluster = group.hosts.table().map(|table| table.cluster.clone()).unwrap_or_default();
                let Some(name) = String::from_utf8(cluster).ok().filter(|name| !name.is_empty()) else { continue };
                if !leader::lead(store, &leader, group.hosts.fingerprint(), nonce, &mut group.calls.held, now) {
                    // A later term begins with nothing.
                    group.calls.checks = Checks::default();
                    continue;
                }
                if let Some(beats) = beats {
                    let overdue = group.calls.checks.overdue(beats, now);
                    overdue.into_iter().for_each(|found| take(group, worker, store, rules, found, now));
                    let table = group.hosts.table();
                    let hosts = table.iter().flat_map(|table| table.hosts());
                    let due = group.calls.checks.due(beats, hosts.map(|(id, host)| (id, host.address.as_slice())), now);
                    for id in due {
                        let Some(host) = group.hosts.address(id).and_then(|host| core::str::from_utf8(host).ok())
                        else {
                            continue;
                        };
                        calls.push(Call {
                            key,
                            cluster: group.cluster,
                            what: What::Heartbeat(id),
                            upstream: name.clone(),
                            headers: owned(&heartbeat::request(beats, &name, host)),
                            timeout: beats.timeout,
                        });
                    }
                }
                if let Some(discover) = &rules.discover
                    && group.calls.discovery.due(discover.interval, now)
                {
                    let headers = [(":method", "GET"), (":path", &discover.path), (":authority", &discover.cluster)];
                    calls.push(Call {
                        key,
                        cluster: group.cluster,
                        what: What::Discover,
                        upstream: discover.cluster.clone(),
                        headers: owned(&headers),
                        timeout: discover::TIMEOUT,
                    });
                }
            }
        }
        // What checks that never reported have changed.
        let keys: Vec<Key> = self.states.iter().flatten().map(|state| state.key).collect();
        for key in keys {
            let mut told = Vec::new();
            self.tell_hosts(worker, store, key, now, &mut told);
            if !told.is_empty() {
                events.push((key, told));
            }
        }
        calls
    }

    fn calling_group(&mut self, call: &Call) -> Option<&mut Group> {
        state_of(&mut self.states, call.key)?.groups.get_mut(call.cluster)
    }

    /// Notes that a call was made, and its name; `None` if it could not be made.
    pub fn call_made(&mut self, call: &Call, token: Option<u32>, now: Timestamp, events: &mut Vec<Event>) {
        let Some(group) = self.calling_group(call) else { return };
        match (call.what, token) {
            (What::Heartbeat(host), Some(token)) => group.calls.checks.sent(host, token, now),
            // There is no such cluster, no host in it, or one of Envoy's own limits is reached: none is this host's fault.
            (What::Heartbeat(host), None) => group.calls.checks.withdrawn(host),
            (What::Discover, Some(token)) => group.calls.discovery.sent(token),
            (What::Discover, None) => {
                let why = format!("cluster {} cannot be asked", call.upstream);
                self.complain(call, why, now, events);
            }
        }
    }

    /// Takes over how a call was answered; `None`: not at all. Gives whether others wait for their turn.
    #[allow(clippy::too_many_arguments)] // The worker, the store and the events belong to every call.
    pub fn call_reported(
        &mut self,
        worker: &mut Worker,
        store: &mut dyn Store,
        call: &Call,
        token: u32,
        reply: Option<Reply<'_>>,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> bool {
        let store = &mut { store };
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        let Some(group) = self.calling_group(call) else { return false };
        let mut waits = false;
        group.hosts.look(worker, store, rules, now);
        match (call.what, &rules.heartbeat) {
            (What::Heartbeat(host), Some(beats)) => {
                waits = group.calls.checks.in_flight() >= MOST_IN_FLIGHT;
                let status = reply.filter(|reply| reply.is_hosts).map(|reply| reply.status);
                let found = group.calls.checks.reported(beats, token, status);
                if reply.is_some_and(|reply| reply.is_gone && !reply.is_hosts) {
                    group.hosts.forget(worker, store, rules, host, now);
                } else if let Some(found) = found {
                    take(group, worker, store, rules, found, now);
                }
            }
            (What::Heartbeat(_), None) => {}
            (What::Discover, _) => {
                if group.calls.discovery.reported(token) {
                    let name = group.hosts.table().map(|table| table.cluster.clone()).unwrap_or_default();
                    match listed(reply, &String::from_utf8_lossy(&name)) {
                        Ok(listed) => group.hosts.list(worker, store, rules, &listed, now),
                        Err(why) => self.complain(call, why, now, events),
                    }
                }
            }
        }
        self.tell_hosts(worker, store, call.key, now, events);
        waits
    }

    /// Says that the hosts cannot be read, unless that was said a moment ago.
    fn complain(&mut self, call: &Call, why: String, now: Timestamp, events: &mut Vec<Event>) {
        let text = format!("{}/{}", self.policy.name, self.key_text(call.key));
        let Some(group) = self.calling_group(call) else { return };
        let is_told =
            group.calls.complained.as_ref().is_some_and(|(at, told)| *told == why && now.apart(*at) < COMPLAIN_EVERY);
        if !is_told {
            let line = format!("{text}: the hosts cannot be read: {why}; those known so far stay");
            events.push(Event::Said { alarming: true, line });
            group.calls.complained = Some((now, why));
        }
    }
}

/// The hosts in a listing.
fn listed(reply: Option<Reply<'_>>, cluster: &str) -> Result<Vec<String>, String> {
    let Some(reply) = reply else { return Err("no answer".to_owned()) };
    if reply.status != 200 {
        return Err(format!("the answer was {}", reply.status));
    }
    let listed = discover::hosts(reply.body, cluster)?;
    // Nothing could be sent anywhere; more likely that it is wrong for a moment.
    if listed.is_empty() { Err(format!("no host of {cluster} is listed")) } else { Ok(listed) }
}

/// Acts on what a check has found.
fn take(group: &mut Group, worker: &mut Worker, store: &mut dyn Store, rules: &Outlier, found: Found, now: Timestamp) {
    match found.verdict {
        Verdict::Healthy => group.hosts.find_healthy(worker, store, rules, found.host, now),
        Verdict::Unhealthy { failures, last } => {
            let cause = Cause::Heartbeat { failures, last };
            group.hosts.find_unhealthy(worker, store, rules, found.host, cause, now);
        }
        Verdict::Nothing => {}
    }
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
