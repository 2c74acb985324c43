//! A policy at work in the attempt seat, as one worker sees it.
//!
//! Nothing here runs while attempts simply succeed. After one that did not, the cells and slots are read as they are in the
//! store: an attempt seat has no view of its own that could be old.

use core::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_policy::document::{Policy, RetryWord};

use super::seen_hosts::SeenHosts;
use super::unreached::Unreached;
use crate::base::recent::Recent;
use crate::base::time::Timestamp;
use crate::http::header_rules::HeaderVerdict;
use crate::http::response::ResponseHead;
use crate::outlier::hosts::Hosts;
use crate::retry::slot::DepositSlot;
use crate::retry::{Eligibility, Named, conditions, router};
use crate::seats::policy_text;
use crate::seats::presence::{Announcement, seat};
use crate::seats::retry_context::RetryContext;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::block::{BlockKind, ByKind};
use crate::store::cluster::GroupId;
use crate::store::directory::Occupant;
use crate::store::paths::HostPaths;
use crate::store::place::Place;
use crate::store::slot::Slots;

/// The most routes of which an attempt seat remembers what they retry.
const MOST_ROUTES: usize = 1024;

/// One key as one attempt seat sees it.
#[derive(Debug)]
pub(super) struct AttemptKey {
    occupant: Occupant,
    /// None without a breaker.
    pub(super) breaker: Option<Address>,
    /// None without retries.
    pub(super) budget: Option<Address>,
    /// The request seats' slots.
    pub(super) slots: Option<Slots<DepositSlot>>,
    /// Requests in the budget's window over all workers.
    pub(super) requests: Recent<u32>,
}

/// One cluster under one key as one attempt seat sees it.
#[derive(Debug)]
struct Group<T> {
    id: GroupId,
    key: Occupant,
    what: T,
}

/// Something for each cluster, by the place of the key, or by that of the cluster.
#[derive(Debug)]
pub struct Groups<T>(HashMap<(u16, bool), Group<T>>);

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Groups(HashMap::new())
    }
}

impl<T> Groups<T> {
    /// What there is for the cluster of a request, made if there is nothing yet; `None` where there is no place for it.
    fn of(&mut self, context: &RetryContext, make: impl FnOnce() -> Option<T>) -> Option<&mut T> {
        let (id, key) = (context.group, context.key);
        let index = match id {
            GroupId::OfTheKey => (key.index, false),
            GroupId::Numbered(occupant) => (occupant.index, true),
            GroupId::Nowhere => return None,
        };
        let is_known = self.0.get(&index).is_some_and(|group| (group.id, group.key) == (id, key));
        if !is_known {
            self.0.insert(index, Group { id, key, what: make()? });
        }
        self.0.get_mut(&index).map(|group| &mut group.what)
    }

    /// All.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut().map(|group| &mut group.what)
    }
}

/// The hosts that an outlier block judges, as one attempt seat's VM sees them. Contents in one VM that agree on the block share it, so
/// that each slot in the store keeps its one writer.
pub type SharedHosts = Rc<RefCell<Groups<Hosts>>>;

/// One policy as one attempt seat sees it.
#[derive(Debug)]
pub struct AttemptPolicy {
    pub(super) policy: Arc<Policy>,
    /// Where its blocks are.
    places: ByKind<Option<Occupant>>,
    /// By place.
    keys: HashMap<u16, AttemptKey>,
    announcements: Groups<Announcement>,
    seen_hosts: Groups<SeenHosts>,
    unreached: Groups<Unreached>,
    pub(super) hosts: SharedHosts,
    /// Routes that have retried a response that was forbidden: they have `envoy-ratelimited` among their own words.
    marks_ask: Vec<Vec<u8>>,
    /// Routes that have retried a response below 400: they have conditions of their own.
    retries_successes: Vec<Vec<u8>>,
    /// When it was last looked at whether an attempt went where it was sent.
    pub(super) steering_checked: Timestamp,
    /// A host has asked for a wait: from then on the time that an attempt has left is worth knowing, and where attempts go.
    pub(super) hosts_ask_for_waits: bool,
}

impl AttemptPolicy {
    /// The policy whose text has this place, as the request seat has published it; `None` if it is not there. `share` gives the hosts of
    /// the outlier block that has a place.
    pub fn fetch(store: &mut dyn Store, place: Occupant, share: impl FnOnce(Occupant) -> SharedHosts) -> Option<Self> {
        let (policy, places) = policy_text::fetch(store, place)?;
        Some(AttemptPolicy {
            policy: policy.into(),
            hosts: (*places.get(BlockKind::Outlier)).map(share).unwrap_or_default(),
            places,
            keys: HashMap::new(),
            announcements: Groups::default(),
            seen_hosts: Groups::default(),
            unreached: Groups::default(),
            marks_ask: Vec::new(),
            retries_successes: Vec::new(),
            steering_checked: Timestamp::ZERO,
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

    /// Whether this is the policy whose text has this place.
    pub fn is(&self, place: Occupant) -> bool {
        *self.places.get(BlockKind::Text) == Some(place)
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
        let AttemptPolicy { policy, places, keys, .. } = self;
        let place = |kind| Some(Place::new(kind, (*places.get(kind))?, key));
        let fresh = || {
            let retry = place(BlockKind::Retry);
            let window = policy.retry.as_ref().map(|retry| retry.budget.window);
            AttemptKey {
                occupant: key,
                breaker: place(BlockKind::Breaker).map(|place| place.cell()),
                slots: retry.as_ref().zip(window).map(|(place, window)| place.slots(window)),
                budget: retry.map(|place| place.cell()),
                requests: Recent::default(),
            }
        };
        let state = keys.entry(key.index).or_insert_with(fresh);
        if state.occupant != key {
            *state = fresh();
        }
        state
    }

    /// What is known of the hosts of a request's cluster under its key, given to `act`; `None` where there is no place for it, or hosts are
    /// not judged.
    pub(super) fn with_hosts<R>(&self, context: &RetryContext, act: impl FnOnce(&mut Hosts) -> R) -> Option<R> {
        let block = (*self.places.get(BlockKind::Outlier))?;
        let mut hosts = self.hosts.try_borrow_mut().ok()?;
        let make = || {
            let paths = HostPaths::new(block.index, context.key.index, context.group)?;
            Some(Hosts::new(paths, context.group.mark(block.tenancy, context.key), Vec::new()))
        };
        hosts.of(context, make).map(act)
    }

    /// The hosts that attempts for a request's cluster have gone to; `None` where there is no place for it.
    pub(super) fn seen_hosts(&mut self, context: &RetryContext) -> Option<&mut SeenHosts> {
        self.seen_hosts.of(context, || Some(SeenHosts::default()))
    }

    /// The hosts that attempts for a request's cluster have waited for in vain; `None` where there is no place for it.
    pub(super) fn unreached(&mut self, context: &RetryContext) -> Option<&mut Unreached> {
        self.unreached.of(context, || Some(Unreached::default()))
    }

    /// Says to the request seats, now and then, that there is an attempt seat for this request's key and cluster.
    pub fn announce(&mut self, store: &mut dyn Store, context: &RetryContext, now: Timestamp) {
        let AttemptPolicy { places, announcements, .. } = self;
        let Some(keys) = *places.get(BlockKind::Keys) else { return };
        let make = || seat(keys, context.key, context.group).map(Announcement::new);
        if let Some(announcement) = announcements.of(context, make) {
            announcement.announce(store, now);
        }
    }
}
