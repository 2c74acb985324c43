//! A policy at work in the attempt seat, as one worker sees it.
//!
//! Nothing here runs while attempts simply succeed. After one that did not, the cells and slots are read as they are in the
//! store: an attempt seat has no view of its own that could be old.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_policy::document::{Policy, RetryWord};

use crate::base::recent::Recent;
use crate::base::time::Timestamp;
use crate::http::header_rules::HeaderVerdict;
use crate::http::response::ResponseHead;
use crate::outlier::hosts::Hosts;
use crate::retry::{Eligibility, Named, conditions, router};
use crate::seats::policy_text;
use crate::seats::presence::Announcement;
use crate::seats::retry_context::RetryContext;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::cluster::GroupId;
use crate::store::directory::Occupant;
use crate::store::paths::{self, GroupPaths};
use crate::store::place::Place;
use crate::store::slot::Shape;
use crate::store::slots::Slots;

/// The most routes of which an attempt seat remembers what they retry.
const MOST_ROUTES: usize = 1024;

/// One key as one attempt seat sees it.
#[derive(Debug)]
pub(super) struct AttemptKey {
    occupant: Occupant,
    pub(super) breaker: Address,
    pub(super) budget: Address,
    /// The request seats' slots.
    pub(super) slots: Slots,
    /// Requests in the budget's window over all workers.
    pub(super) requests: Recent<u32>,
}

/// One cluster under one key as one attempt seat sees it.
#[derive(Debug)]
pub(super) struct Group {
    id: GroupId,
    key: Occupant,
    announcement: Announcement,
    pub(super) hosts: Hosts,
}

/// One policy as one attempt seat sees it.
#[derive(Debug)]
pub struct AttemptPolicy {
    pub(super) policy: Arc<Policy>,
    pub(super) fingerprint: u64,
    pub(super) prefix: String,
    pub(super) shape: Shape,
    /// By place.
    keys: HashMap<u16, AttemptKey>,
    /// By the place of the key, or by that of the group.
    pub(super) groups: HashMap<(u16, bool), Group>,
    /// Routes that have retried a response that was forbidden: they have `envoy-ratelimited` among their own words.
    marks_ask: Vec<Vec<u8>>,
    /// Routes that have retried a response below 400: they have conditions of their own.
    retries_successes: Vec<Vec<u8>>,
    /// A host has asked for a wait: from then on the time that an attempt has left is worth knowing.
    pub(super) hosts_ask_for_waits: bool,
}

impl AttemptPolicy {
    /// The policy of this name and content, as the request seat has published it; `None` if it is not there.
    pub fn fetch(store: &mut dyn Store, name: &str, fingerprint: u64) -> Option<Self> {
        let policy = policy_text::fetch(store, name, fingerprint)?;
        Some(AttemptPolicy {
            shape: Shape::of(&policy),
            policy: policy.into(),
            fingerprint,
            prefix: paths::of_policy(name, fingerprint),
            keys: HashMap::new(),
            groups: HashMap::new(),
            marks_ask: Vec::new(),
            retries_successes: Vec::new(),
            hosts_ask_for_waits: false,
        })
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Whether attempts of this request may run beside each other.
    pub fn hedges(&self, context: &RetryContext) -> bool {
        context.eligibility == Eligibility::All
            && self.policy.retry.as_ref().is_some_and(|retry| retry.hedge_on_per_try_timeout)
    }

    /// Whether responses that the policy does not name may be named by lists of the route.
    pub fn route_knows(&self) -> bool {
        let retry = self.policy.retry.as_ref();
        retry.is_some_and(|retry| conditions::names_response(&retry.on, 0, None, false) == Named::RouteKnows)
    }

    /// Whether this is the policy of that name and content.
    pub fn is(&self, context: &RetryContext) -> bool {
        self.fingerprint == context.fingerprint && self.policy.name == context.policy
    }

    /// Whether the router retries a response of this request only when it is asked by a header of the attempt seat's.
    pub fn asks_by_header(&self, context: &RetryContext) -> bool {
        context.seat && self.policy.retry.as_ref().is_none_or(|retry| router::asks_by_header(&retry.on))
    }

    /// Whether a response is to be marked as one that is not to be retried. Those below 400 that no header makes a failure are
    /// marked only where the route was seen to retry such. No mark while the router has the word by which a mark asks for a retry,
    /// from the
    /// request's seat or, as was seen, from its route. A host's own mark stands already. `route` gives the route's name.
    pub fn forbids(
        &self,
        context: &RetryContext,
        head: &ResponseHead,
        route: impl FnOnce() -> Option<Vec<u8>>,
    ) -> bool {
        let given = self.policy.retry.as_ref().is_none_or(|retry| retry.on.words.contains(RetryWord::EnvoyRatelimited));
        if head.ratelimited.is_some() || given && !self.asks_by_header(context) {
            return false;
        }
        let is_failure = head.status >= 400
            || head.grpc_status.is_some_and(|status| status != 0)
            || head.by_headers == HeaderVerdict::Failure;
        // Where nothing was learnt nobody needs the name.
        let learnt = if is_failure { &self.marks_ask } else { &self.retries_successes };
        if learnt.is_empty() {
            return is_failure;
        }
        let route = route().unwrap_or_default();
        if is_failure {
            // Routes without a name cannot be told apart, and most of them heed the mark.
            route.is_empty() || !self.marks_ask.contains(&route)
        } else {
            // To lose an answer that may be retried is less than to lose every success.
            self.retries_successes.contains(&route) && !self.marks_ask.contains(&route)
        }
    }

    /// Learns from a response that this route retried though the policy did not want it: `marked` tells whether it was
    /// forbidden.
    pub fn came_back(&mut self, marked: bool, route: Vec<u8>) {
        let learnt = if marked { &mut self.marks_ask } else { &mut self.retries_successes };
        if !learnt.contains(&route) {
            if learnt.len() >= MOST_ROUTES {
                // The one that was learnt first is learnt again when it does it again.
                learnt.remove(0);
            }
            learnt.push(route);
        }
    }

    /// Whether it is worth knowing how long the route gives a request: hosts ask for waits, and the policy has no time-out.
    pub fn wants_time_left(&self) -> bool {
        self.hosts_ask_for_waits
            && self
                .policy
                .retry
                .as_ref()
                .is_some_and(|retry| retry.timeout.is_none() && retry.per_try_timeout.is_none())
    }

    pub(super) fn key(&mut self, key: Occupant) -> &mut AttemptKey {
        let fresh = || {
            let place = Place::new(&self.prefix, self.fingerprint, key);
            let (breaker, budget) = (place.breaker(), place.budget());
            AttemptKey { occupant: key, breaker, budget, slots: place.slots(self.shape), requests: Recent::default() }
        };
        let state = self.keys.entry(key.index).or_insert_with(fresh);
        if state.occupant != key {
            *state = fresh();
        }
        state
    }

    /// The cluster of a request under its key; `None` where there is no place for it.
    pub(super) fn group(&mut self, context: &RetryContext) -> Option<&mut Group> {
        let (id, key) = (context.group, context.key);
        let index = match id {
            GroupId::OfTheKey => (key.index, false),
            GroupId::Numbered(occupant) => (occupant.index, true),
            GroupId::Nowhere => return None,
        };
        let is_known = self.groups.get(&index).is_some_and(|group| (group.id, group.key) == (id, key));
        if !is_known {
            let paths = GroupPaths::new(&self.prefix, key.index, id)?;
            let fingerprint = id.fingerprint(self.fingerprint, key);
            let announcement = Announcement::new(Address::new(paths.attempt_seat(), fingerprint));
            let hosts = Hosts::new(paths.hosts(), fingerprint);
            self.groups.insert(index, Group { id, key, announcement, hosts });
        }
        self.groups.get_mut(&index)
    }

    /// Says to the request seats, now and then, that there is an attempt seat for this request's key and cluster.
    pub fn announce(&mut self, store: &mut dyn Store, context: &RetryContext, now: Timestamp) {
        if let Some(group) = self.group(context) {
            group.announcement.announce(store, now);
        }
    }
}
