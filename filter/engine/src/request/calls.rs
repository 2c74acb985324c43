//! Requests of our own for the hosts of a policy's keys and clusters.

use std::sync::Arc;

use holdfast_policy::document::Mode;

use super::clusters::HostGroup;
use super::policy::RequestPolicy;
use crate::base::pauses::Pauses;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::outlier::calls::{CallRequest, CallResponse};
use crate::store::cluster::ClusterHash;
use crate::store::keys::Key;

/// A request to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    key: Key,
    cluster: ClusterHash,
    /// What to send, and where.
    pub request: CallRequest,
}

impl Call {
    /// The key that it is made for.
    pub fn key(&self) -> Key {
        self.key
    }
}

impl RequestPolicy {
    /// The requests to make now, if this VM is the one to make them; each is to be [`RequestPolicy::call_made`]. `reports` gets what the
    /// operator should know, by key.
    pub fn calls(&mut self, cx: &mut Cx<'_>, pauses: &Pauses, reports: &mut Vec<(Key, Vec<Event>)>) -> Vec<Call> {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return Vec::new() };
        let beats = rules.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.mode != Mode::Off);
        if !beats && rules.discover.is_none() {
            return Vec::new();
        }
        let (nonce, mut calls) = (cx.worker.nonce(), Vec::new());
        let mut keys = Vec::new();
        if let Some(mut block) = self.outlier_block() {
            for (key, clusters) in block.iter_mut() {
                let mut events = Vec::new();
                for (cluster, HostGroup { hosts, calls: own }) in clusters.iter_mut() {
                    let mut requests = Vec::new();
                    own.due(&mut cx.with_events(&mut events), rules, nonce, hosts, pauses, &mut requests);
                    calls.extend(requests.into_iter().map(|request| Call { key, cluster, request }));
                }
                keys.push((key, events));
            }
        }
        // What checks that never reported have changed.
        for (key, mut events) in keys {
            self.report_hosts(&mut cx.with_events(&mut events), key);
            if !events.is_empty() {
                reports.push((key, events));
            }
        }
        calls
    }

    /// Notes that a call was made, and its name; `None` if it could not be made.
    pub fn call_made(&mut self, call: &Call, token: Option<u32>, now: Timestamp, events: &mut Vec<Event>) {
        if let Some(mut block) = self.outlier_block()
            && let Some(group) = block.of(call.key).and_then(|clusters| clusters.get_mut(call.cluster))
        {
            group.calls.made(&call.request, token, now, events);
        }
    }

    /// Takes over how a call was answered; `None`: not at all. Gives whether others wait for their turn.
    pub fn call_reported(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        token: u32,
        response: Option<CallResponse<'_>>,
        pauses: &Pauses,
    ) -> bool {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        let others_wait = self.outlier_block().is_some_and(|mut block| {
            let group = block.of(call.key).and_then(|clusters| clusters.get_mut(call.cluster));
            group.is_some_and(|HostGroup { hosts, calls }| {
                calls.reported(cx, rules, hosts, (&call.request, token), response, pauses)
            })
        });
        self.report_hosts(cx, call.key);
        others_wait
    }
}
