//! A request whose response has begun and is judged when it ends: its host is met, it may be a probe that lasts, and what the attempt seat
//! could not see is settled here.

use core::cell::Cell;
use std::rc::Rc;

use super::{Admitted, HostJudge, host_address};
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::host::Host;
use crate::http::attempt::{AttemptRecord, End};
use crate::http::outcome::{self, Answer, Verdict};
use crate::http::response::OpenResponse;
use crate::outlier::hosts::HostAttempt;
use crate::request::plugin::RequestPlugin;
use crate::request::policy::RequestPolicy;
use crate::request::running::{MetHost, RunningProbe};
use crate::seats::retry_context::RetryContext;
use crate::store::Store;
use crate::store::cluster::ClusterHash;
use crate::store::keys::Key;

/// Whether a response whose end did not come by was broken off by the host, from Envoy's response flags. A tunnel ends so in order.
pub(super) fn is_broken_off(host: &dyn Host, flags: u64) -> bool {
    outcome::is_broken_off(flags) && host.property("request\0method").is_none_or(|method| method != b"CONNECT")
}

impl Admitted {
    /// A response has begun that is judged when it ends.
    pub(super) fn open(
        &mut self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        response: OpenResponse,
    ) {
        self.waiting = None;
        let (now, sent) = (response.came, self.ticket.admitted());
        if response.has_begun_well() {
            // Where an attempt seat says that it was there it has met the host.
            let meets = matches!(self.hosts, Some(HostJudge::RequestSeat | HostJudge::Afterwards))
                && !response.head.points_to_record();
            let met = if meets { self.meet_host(plugin, store, host, now) } else { None };
            let is_out = met.as_ref().is_some_and(|(_, is_out)| *is_out);
            self.met = met.map(|(address, _)| address);
            if self.ticket.is_probe() || is_out {
                let address = self.met.clone().filter(|_| is_out);
                let host = address.map(|address| MetHost { address, sent, took: now.since(sent) });
                let probe = Rc::new(RunningProbe {
                    active: Rc::clone(&self.active),
                    key: self.ticket.key(),
                    cluster: self.cluster,
                    permit: Cell::new(self.ticket.permit),
                    host,
                    host_since: Cell::new(None),
                });
                plugin.watch(&probe, sent, now);
                self.running = Some(probe);
            }
        }
        self.response = Some(response);
    }

    /// Meets the host of a response that goes on. Its address, and whether it is out.
    fn meet_host(
        &self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        now: Timestamp,
    ) -> Option<(Vec<u8>, bool)> {
        let mut worker = plugin.vm.worker.try_borrow_mut().ok()?;
        let mut policy = self.active.state.try_borrow_mut().ok()?;
        store.refresh();
        let mut none = Vec::new();
        let cx = &mut Cx::new(store, &mut worker, now, &mut none);
        policy.meet_host(cx, self.ticket.key(), self.cluster, || host_address(host))
    }
}

/// Settles an attempt whose response did not come to its end, which the attempt seat has left open: only here it shows why.
pub(super) fn settle_attempt(
    policy: &mut RequestPolicy,
    cx: &mut Cx<'_>,
    (key, cluster): (Key, ClusterHash),
    context: &mut RetryContext,
    (mut one, since): (AttemptRecord, Timestamp),
    (answer, verdict): (Answer, Verdict),
) {
    let probe = context.probe.filter(|_| !context.is_retried());
    let judged = match End::of(answer) {
        Some(end) => Some((end, verdict)),
        // A stream that has begun well and was cut short is a success to a probe.
        None => probe.map(|_| (End::Grpc(0), Verdict::Success)),
    };
    let Some((end, verdict)) = judged else { return };
    let attempt = HostAttempt { host: &one.host, end, verdict, took: one.took, sent: since };
    policy.judge_host(cx, key, cluster, attempt, probe);
    if context.is_retried() || verdict != Verdict::Success {
        (one.end, one.verdict) = (end, verdict);
        context.ended(one);
    }
}
