//! How an attempt ends: while it waits, without a response, with its client, or with a response that is still open.

use core::mem;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_policy::document::ClientGone;

use super::{Attempt, AttemptPlugin, AttemptTimes, Phase};
use crate::attempt::connection::upstream_address;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::host::{Host, is_disconnected_locally, response_flags};
use crate::http::attempt::End;
use crate::http::client;
use crate::http::last_byte::LastByte;
use crate::http::outcome::{self, Answer};
use crate::http::response::OpenResponse;
use crate::store::Store;

impl Attempt {
    /// Records what ended without a response.
    pub(super) fn end(&mut self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host) {
        self.waiting = None;
        let (seed, was_sent) = (self.seed(), self.is_sent);
        let hedges = self.policy.try_borrow().is_ok_and(|policy| policy.hedges(&self.context));
        let is_answered = hedges && plugin.hedges(false, |hedges| hedges.end(seed, was_sent));
        match mem::replace(&mut self.phase, Phase::Over) {
            Phase::Over | Phase::Stopped => {}
            Phase::Waiting { due, taken } => self.end_waiting(plugin, store, host, hedges, (due, taken)),
            Phase::Open { sent, since, response } => {
                let times = AttemptTimes { sent, since, came: response.came };
                if outcome::client_left(response_flags(host)) {
                    self.phase = Phase::Open { sent, since, response };
                    self.judge_open(plugin, store, host, OpenResponse::left);
                } else {
                    self.leave_unsettled(host, hedges, response.answer, times);
                }
            }
            Phase::Sent(sent) => {
                if is_answered {
                    self.end_overtaken(plugin, store, host, sent);
                } else if outcome::client_left(response_flags(host)) {
                    self.end_left(plugin, store, host, sent);
                } else {
                    self.end_sent(plugin, store, host, hedges, sent);
                }
            }
        }
    }

    /// It ended while it waited.
    fn end_waiting(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        hedges: bool,
        (due, taken): (Timestamp, Timestamp),
    ) {
        let now = host.now();
        if hedges {
            self.refresh(host);
        }
        let shared_policy = Rc::clone(&self.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return };
        let (began, connection) = (self.began, self.connection(host));
        if outcome::client_left(response_flags(host)) {
            store.refresh();
            policy.abandon(store, &mut self.context, taken, now);
        } else if connection.is_there() {
            // Its host has closed the connection, or the route's time is over.
            policy.begin_again(&mut self.context, due, taken);
        } else {
            if self.says_something(plugin, host, &mut policy, connection, (began, now)) {
                let end = End::ConnectFailure;
                let verdict = outcome::verdict(&policy.policy().outcome, end.answer());
                let times = AttemptTimes { sent: began, since: began, came: now };
                self.judge_host(plugin, store, host, &mut policy, (Some(end), verdict), times);
            }
            policy.after_no_connection(&mut self.context, upstream_address(host), now);
            self.look_further(plugin, store, host, &mut policy, now);
        }
        self.write(host);
    }

    /// It was sent, and another attempt beside it has the answer. One whose own time was over is a time-out of its host; of the others
    /// nothing is known.
    fn end_overtaken(&mut self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host, sent: Timestamp) {
        let now = host.now();
        let took = self.took(sent, now);
        let shared_policy = Rc::clone(&self.policy);
        if let Ok(mut policy) = shared_policy.try_borrow_mut() {
            let document = Arc::clone(policy.policy());
            let limit = document.retry.as_ref().and_then(|retry| retry.per_try_timeout);
            // Until the last byte has come it is the client that takes its time.
            if self.last_byte != LastByte::Awaited
                && limit.is_some_and(|limit| took >= limit)
                && self.says_something(plugin, host, &mut policy, self.connection(host), (sent, now))
            {
                let verdict = outcome::verdict(&document.outcome, Answer::TimedOut);
                let times = AttemptTimes { sent, since: sent, came: now };
                return self.judge_host(plugin, store, host, &mut policy, (Some(End::TimedOut), verdict), times);
            }
        }
        self.return_probe(plugin, store, host, sent);
    }

    /// It was sent, and its client left before it had a response.
    fn end_left(&mut self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host, sent: Timestamp) {
        let shared_policy = Rc::clone(&self.policy);
        let document = shared_policy.try_borrow().map(|policy| Arc::clone(policy.policy()));
        let Ok(rules) = document.as_ref().map(|document| &document.outcome) else { return };
        let now = host.now();
        plugin.pauses.sign(now);
        let waited = self.took(sent, now).saturating_sub(plugin.pauses.between(sent, now));
        let says_something = rules.client_gone == ClientGone::Auto
            // A client that had not sent all has kept the host waiting.
            && self.last_byte != LastByte::Awaited
            && !is_disconnected_locally(host);
        if says_something {
            let connection = self.connection(host);
            // The request seat may have written when its client gives up.
            self.refresh(host);
            let (began, deadline) = (self.context.admitted, self.context.client_deadline);
            let Ok(mut policy) = shared_policy.try_borrow_mut() else { return };
            if deadline.is_some_and(|deadline| client::gave_up(began, deadline, now))
                && self.says_something(plugin, host, &mut policy, connection, (sent, now))
            {
                let (end, verdict) = (End::TimedOut, outcome::verdict(rules, Answer::TimedOut));
                let times = AttemptTimes { sent, since: sent, came: now };
                return self.judge_host(plugin, store, host, &mut policy, (Some(end), verdict), times);
            }
            if connection.says_something(now.since(sent))
                && rules.slow_after.is_some_and(|limit| waited >= limit)
                && let Ok(mut worker) = plugin.vm.hosts_worker.try_borrow_mut()
            {
                store.refresh();
                let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
                if let Some(due) = policy.abandon_host(cx, &self.context, &self.address(host), sent, waited) {
                    plugin.flush_by(due, now);
                }
            }
        }
        self.return_probe(plugin, store, host, sent);
    }

    /// It was sent and ended without a response.
    fn end_sent(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        hedges: bool,
        sent: Timestamp,
    ) {
        if hedges {
            self.refresh(host);
        }
        let now = host.now();
        let (address, connection) = (self.address(host), self.connection(host));
        let is_connected = connection.is_there();
        let shared_policy = Rc::clone(&self.policy);
        let tells_of_host = shared_policy
            .try_borrow_mut()
            .is_ok_and(|mut policy| self.says_something(plugin, host, &mut policy, connection, (sent, now)));
        if !tells_of_host {
            self.return_probe(plugin, store, host, sent);
        }
        // The router's time-out of an attempt counts from there.
        let counts_from = self.last_byte.counts_from(sent, now);
        if let Ok(mut policy) = shared_policy.try_borrow_mut() {
            if tells_of_host {
                let (end, _) = policy.end_without_response(&self.context, is_connected, counts_from, now);
                let verdict = outcome::verdict(&policy.policy().outcome, end.answer());
                let times = AttemptTimes { sent, since: sent, came: now };
                self.judge_host(plugin, store, host, &mut policy, (Some(end), verdict), times);
            }
            policy.after_no_response(&mut self.context, address, is_connected, counts_from, now);
            self.look_further(plugin, store, host, &mut policy, now);
        }
        self.write(host);
    }
}
