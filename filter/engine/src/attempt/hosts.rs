//! The attempt seat's part in ejection: it judges each attempt's host.

use core::time::Duration;
use std::sync::Arc;

use super::policy::AttemptPolicy;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::host::Host;
use crate::outlier::hosts::{HostAttempt, Hosts};
use crate::outlier::subset;
use crate::seats::retry_context::RetryContext;
use crate::store::Store;

/// How often it is looked at whether an attempt went where it was sent.
const CHECK_STEERING_EVERY: Duration = Duration::from_millis(20);

impl AttemptPolicy {
    /// Whether hosts are judged by their attempts.
    pub fn judges_hosts(&self) -> bool {
        self.policy.active_outlier().is_some()
    }

    /// Whether the host of an attempt that succeeded must be known.
    pub fn wants_host(&mut self, store: &mut dyn Store, context: &RetryContext, now: Timestamp) -> bool {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return false };
        let mut wants = || self.with_hosts(context, |hosts| hosts.wants_host(store, rules, now)).unwrap_or_default();
        context.probe.is_some() || wants()
    }

    /// Whether the host of a response that goes on is to be met.
    pub(super) fn wants_to_meet_host(&mut self, context: &RetryContext, now: Timestamp) -> bool {
        let wants = || self.with_hosts(context, |hosts| hosts.wants_to_meet(now)).unwrap_or_default();
        self.judges_hosts() && (context.probe.is_some() || wants())
    }

    /// Meets that host. Whether it is out, and when what was counted is to be written at the latest.
    pub(super) fn meet_host(
        &mut self,
        cx: &mut Cx<'_>,
        context: &RetryContext,
        address: &[u8],
    ) -> (bool, Option<Timestamp>) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return (false, None) };
        let met = self.with_hosts(context, |hosts| {
            let is_out = hosts.meet(cx, rules, address);
            (is_out, hosts.flush_due())
        });
        met.unwrap_or((false, None))
    }

    /// Counts an attempt whose client left after `slow_after` among its host's times. It was sent then and took so long. When what was
    /// counted is to be written at the latest.
    pub(super) fn abandon_host(
        &mut self,
        cx: &mut Cx<'_>,
        context: &RetryContext,
        address: &[u8],
        sent: Timestamp,
        took: Duration,
    ) -> Option<Timestamp> {
        let policy = Arc::clone(&self.policy);
        let rules = policy.active_outlier()?;
        self.with_hosts(context, |hosts| {
            hosts.abandon(cx, rules, address, sent, took);
            hosts.flush_due()
        })?
    }

    /// Judges the host of an attempt that has ended and is not in the retry context yet. The worker is this VM among those of the
    /// attempt seats. When what was counted is to be written at the latest.
    pub fn judge_host(&mut self, cx: &mut Cx<'_>, context: &RetryContext, one: HostAttempt<'_>) -> Option<Timestamp> {
        let policy = Arc::clone(&self.policy);
        let rules = policy.active_outlier()?;
        let probe = context.probe.filter(|_| !context.is_retried());
        self.with_hosts(context, |hosts| {
            hosts.judge(cx, rules, one, probe);
            hosts.flush_due()
        })?
    }

    /// Whether it is time to look whether an attempt went where it was sent.
    pub(super) fn wants_to_check_steering(&mut self, now: Timestamp) -> bool {
        let wants = self.judges_hosts() && now.apart(self.steering_checked) >= CHECK_STEERING_EVERY;
        if wants {
            self.steering_checked = now;
        }
        wants
    }

    /// Takes note of whether a request's first attempt went to one of the hosts that were named to it.
    pub(super) fn check_steering(&mut self, cx: &mut Cx<'_>, context: &RetryContext, is_followed: bool) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        self.with_hosts(context, |hosts| hosts.check_steering(cx, rules, is_followed));
    }

    /// Takes note of the label of an attempt's host, where it is worth knowing.
    pub(super) fn note_label(&mut self, cx: &mut Cx<'_>, context: &RetryContext, address: &[u8], host: &dyn Host) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        self.with_hosts(context, |hosts| hosts.note_label(cx, rules, address, &|| subset::label(host)));
    }

    /// Gives the permit back of a probe that says nothing about its host: its client left, or there was no connection in time.
    pub fn return_probe(&mut self, cx: &mut Cx<'_>, context: &RetryContext, sent: Timestamp) {
        let policy = Arc::clone(&self.policy);
        let Some(rules) = policy.active_outlier() else { return };
        if let Some(probe) = context.probe.filter(|_| !context.is_retried()) {
            self.with_hosts(context, |hosts| hosts.return_probe(cx, rules, probe, sent));
        }
    }

    /// Writes what was counted of hosts. When there is more to write at the latest.
    pub fn flush(&mut self, cx: &mut Cx<'_>) -> Option<Timestamp> {
        let policy = Arc::clone(&self.policy);
        let rules = policy.active_outlier()?;
        let flush = |hosts: &mut Hosts| {
            hosts.flush(cx, rules);
            hosts.flush_due()
        };
        self.hosts.try_borrow_mut().ok()?.iter_mut().filter_map(flush).min()
    }
}
