//! An attempt whose response has begun and is judged when it ends: its host is met, it may run for the lease, and it is settled with its
//! last piece, by its client, or by the request seat.

use std::rc::Rc;

use super::{Attempt, AttemptPlugin, AttemptTimes, Phase};
use crate::attempt::policy::AttemptPolicy;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::host::Host;
use crate::http::attempt::{AttemptRecord, End};
use crate::http::outcome::{Answer, Verdict};
use crate::http::response::OpenResponse;
use crate::outlier::hosts::HostAttempt;
use crate::outlier::table::PROBE_LEASE;
use crate::seats::retry_context::{Next, RetryContext};
use crate::store::Store;

/// Settles an attempt whose response had begun well and that the router ended for a retry of its own: its headers stand.
pub(super) fn settle_retried(
    plugin: &AttemptPlugin,
    store: &mut dyn Store,
    policy: &mut AttemptPolicy,
    context: &mut RetryContext,
    one: AttemptRecord,
    since: Timestamp,
    now: Timestamp,
) {
    if policy.judges_hosts()
        && let Ok(mut worker) = plugin.vm.hosts_worker.try_borrow_mut()
    {
        let (host, end, verdict, took) = (&one.host, one.end, one.verdict, one.took);
        let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
        let due = policy.judge_host(cx, context, HostAttempt { host, end, verdict, took, sent: since });
        if let Some(due) = due {
            plugin.flush_by(due, now);
        }
    }
    // It is judged, and no other attempt is to be taken for it.
    context.probe = None;
    if context.is_retried() {
        context.ended(one);
    }
}

impl Attempt {
    /// Its response has begun and is judged when it ends.
    pub(super) fn stay_open(&mut self, sent: Timestamp, response: OpenResponse) {
        self.phase = Phase::Open { sent, since: sent, response: Box::new(response) };
    }

    /// Meets the host of a response that goes on: it is known from its headers on. When the attempt is to be looked at again, if it
    /// may be a probe that lasts, and when the headers came.
    pub(super) fn meet_host(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
    ) -> Option<(Timestamp, Timestamp)> {
        let Phase::Open { sent, response, .. } = &self.phase else { return None };
        let (sent, came) = (*sent, response.came);
        let shared_policy = Rc::clone(&self.policy);
        let mut policy = shared_policy.try_borrow_mut().ok()?;
        if !response.has_begun_well() || !policy.wants_to_meet_host(&self.context, came) {
            return None;
        }
        store.refresh();
        let mut worker = plugin.vm.hosts_worker.try_borrow_mut().ok()?;
        let cx = &mut Cx { store, worker: &mut worker, now: came, events: &mut Vec::new() };
        let address = self.address(host);
        let (is_out, flush) = policy.meet_host(cx, &self.context, &address);
        policy.note_label(cx, &self.context, &address, host);
        self.address = Some(address);
        self.is_met = true;
        if let Some(due) = flush {
            plugin.flush_by(due, came);
        }
        let lease = policy.policy().stream_lease().min(PROBE_LEASE);
        is_out.then(|| (came, sent.plus(lease)))
    }

    /// It has run for the lease: that is a success of its host, which is out.
    pub(super) fn pass_running(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        now: Timestamp,
    ) {
        let Phase::Open { sent, response, .. } = &self.phase else { return };
        let times = AttemptTimes { sent: *sent, since: *sent, came: response.came };
        let shared_policy = Rc::clone(&self.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return };
        store.refresh();
        self.judge_host_at(plugin, store, host, &mut policy, (End::Http(200), Verdict::Success), times, now);
        self.context.probe = None;
        if let Phase::Open { since, .. } = &mut self.phase {
            *since = now;
        }
    }

    /// Judges a response that has come to its end: too late for a retry, but not for the record.
    pub(super) fn judge_open(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        answer: impl FnOnce(&OpenResponse) -> Answer,
    ) {
        let Phase::Open { sent, since, response } = &self.phase else { return };
        let times = AttemptTimes { sent: *sent, since: *since, came: response.came };
        let (answer, by_headers) = (answer(response), response.head.by_headers);
        // What the headers said stands in the record, if there is one.
        if response.answer.is_some() && self.context.is_retried() {
            let shared_policy = Rc::clone(&self.policy);
            if let Ok(mut policy) = shared_policy.try_borrow_mut() {
                let verdict = by_headers.verdict(&policy.policy().outcome, answer);
                self.judge_host(plugin, store, host, &mut policy, (End::of(answer), verdict), times);
            }
        } else {
            self.record(plugin, store, host, (answer, by_headers), times);
        }
        self.phase = Phase::Over;
    }

    /// Leaves an attempt to the request seat whose response did not come to its end: this seat cannot see whether the host broke it off
    /// or the router's time was over.
    pub(super) fn leave_unsettled(
        &mut self,
        host: &dyn Host,
        hedges: bool,
        answer: Option<Answer>,
        times: AttemptTimes,
    ) {
        if hedges {
            self.refresh(host);
        }
        let address = self.address(host);
        // Its headers may have been recorded already.
        self.context.attempts.retain(|one| one.host != address || one.ended != times.came);
        let is_retried = self.context.is_retried();
        // Should the router have ended it for a retry, what its headers say stands.
        let so_far = answer.and_then(End::of).map_or((End::Broken, Verdict::Ignored), |end| (end, Verdict::Success));
        self.push(host, so_far, self.took(times.sent, times.came), times.came);
        self.context.unsettled = Some(times.since);
        if !is_retried {
            self.context.next = Next::Open;
        }
        self.write(host);
    }
}
