//! The further attempt: after the last attempt another cluster may serve.
//!
//! The router chooses the cluster before it begins an attempt, so it is told when the one before ends. Its route reads the name from the
//! filter state that this seat sets.

use std::sync::Arc;

use holdfast_policy::document::Route;

use super::{Attempt, AttemptEffect, AttemptPlugin, AttemptReply, AttemptState};
use crate::attempt::policy::AttemptPolicy;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::fallback::choose_further;
use crate::host::{Headers, Host};
use crate::http::attempt::End;
use crate::http::outcome::Verdict;
use crate::outlier::steering;
use crate::retry::Eligibility;
use crate::seats::further::Chosen;
use crate::seats::retry_context::{self, Next, RetryContext};
use crate::store::Store;

/// The further attempt begins. Where the route has not let the fallback choose, it would be one more at the request's own cluster.
pub(super) fn begin(host: &dyn Host, mut context: RetryContext) -> (AttemptState, AttemptEffect) {
    let last = context.attempts.last().map(|last| last.end);
    let Some(chosen) = context.further.as_mut().and_then(|further| further.chosen.as_mut()) else {
        return (AttemptState::Ungoverned, AttemptEffect::Continue);
    };
    if host.property("xds\0cluster_name").is_some_and(|cluster| cluster == chosen.cluster) {
        if context.steered {
            // They are hosts of the other cluster.
            host.remove_header(Headers::Request, steering::HEADER);
        }
        return (AttemptState::Ungoverned, AttemptEffect::Continue);
    }
    chosen.is_astray = true;
    let _ = retry_context::write(host, &context);
    (AttemptState::Ungoverned, AttemptEffect::Reply(AttemptReply::not_retried(last, None, None)))
}

impl Attempt {
    /// Has another cluster serve after this attempt, which was the last one and failed, if one may. Whether it will.
    pub(super) fn go_further(&mut self, policy: &AttemptPolicy, host: &dyn Host, now: Timestamp) -> bool {
        let is_late = self.context.deadline.is_some_and(|deadline| now >= deadline);
        let was_retried = self.context.retries > 0;
        let document = Arc::clone(policy.policy());
        let Some(last) = self.context.attempts.last().filter(|last| last.verdict == Verdict::Failure && !is_late)
        else {
            return false;
        };
        let end = last.end;
        let Some(further) = self.context.further.as_mut().filter(|further| further.chosen.is_none()) else {
            return false;
        };
        let may_follow = match further.eligibility {
            Eligibility::All => true,
            Eligibility::Unsent => end == End::ConnectFailure,
            Eligibility::Nothing => false,
        };
        let can_serve = |route: &Route| further.others.iter().any(|other| other == route.cluster.as_bytes());
        let chosen = choose_further(&document, (end.answer(), was_retried), further.has_stale, can_serve);
        let Some((route, reason)) = chosen.filter(|_| may_follow) else { return false };
        let cluster = route.cluster.as_bytes().to_vec();
        if host.set_property(Route::PROPERTY, &cluster).is_err() {
            return false;
        }
        further.chosen = Some(Chosen { cluster, reason, is_astray: false });
        true
    }

    /// After an attempt without a response, which the router follows by another on its own: decides now whether that is a retry, and has
    /// another cluster serve where it is none.
    pub(super) fn look_further(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        policy: &mut AttemptPolicy,
        now: Timestamp,
    ) {
        if !self.context.may_go_further() {
            return;
        }
        let Ok(mut worker) = plugin.vm.worker.try_borrow_mut() else { return };
        store.refresh();
        let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
        policy.decide_early(cx, &mut self.context, self.route_ends);
        if !matches!(self.context.next, Next::Retry { .. }) {
            self.go_further(policy, host, now);
        }
    }
}
