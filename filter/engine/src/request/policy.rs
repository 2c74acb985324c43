//! A policy at work in the request seat, as one worker sees it.
//!
//! The healthy path reads nothing shared: a request compares the change signal with the one its worker's view was
//! read at, and an outcome is counted in the worker's own slot, which is written at most every 10 ms while no outcome can decide
//! anything. A failure is written at once and adds up all workers' slots; a transition is one swap of the key's cell and
//! raises the change signal.

use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use holdfast_policy::document::{Mode, Outlier, Policy};

use super::groups::{Group, are_out};
use super::key_state::{RequestKey, state_at};
use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::http::matching::comparable;
use crate::http::request::Field;
use crate::metric::Metric;
use crate::store::Store;
use crate::store::cluster::GroupId;
use crate::store::directory::{DirectoryView, Occupant, Worth};
use crate::store::keys::{Key, KeyTable, Series};
use crate::store::paths;
use crate::store::place::Place;
use crate::store::slot::{Shape, Slot};
use crate::store::variants::VariantView;
use crate::store::worker::Worker;
use crate::{breaker, concurrency};

/// The most clusters of one policy whose state is kept, where its keys do not tell them apart.
pub const MOST_GROUPS: u16 = 4096;

/// A key with so many outcomes keeps its place, where no breaker says how many may decide something.
const ENOUGH: u32 = 20;

/// One policy as one worker sees it.
#[derive(Debug)]
pub struct RequestPolicy {
    pub(super) policy: Arc<Policy>,
    pub(super) fingerprint: u64,
    pub(super) prefix: String,
    pub(super) shape: Shape,
    pub(super) keys: KeyTable,
    /// By place.
    pub(super) states: Vec<Option<RequestKey>>,
    /// The places of clusters that the keys do not tell apart.
    pub(super) groups: DirectoryView,
    /// Other contents of the same name.
    variants: VariantView,
    /// Slots of other workers, while they are added up.
    pub(super) gathered: Vec<Slot>,
    /// Keys whose slot may have outcomes that the store lacks.
    pub(super) unwritten: Vec<Key>,
    /// Whether the groups of hosts are known that the document names.
    pub(super) knows_groups: bool,
}

/// Whether a feature does anything, and whether it only pretends to.
pub(super) fn active<T>(feature: Option<&T>, mode: impl Fn(&T) -> Mode) -> Option<(&T, bool)> {
    let feature = feature?;
    match mode(feature) {
        Mode::Enforce => Some((feature, false)),
        Mode::Shadow => Some((feature, true)),
        Mode::Off => None,
    }
}

/// What says what keys are worth.
struct Appraisal<'a> {
    policy: &'a Policy,
    fingerprint: u64,
    prefix: &'a str,
    shape: &'a Shape,
    states: &'a [Option<RequestKey>],
    worker: &'a mut Worker,
    now: Timestamp,
}

impl Appraisal<'_> {
    /// What it is worth to keep the key that has this place.
    fn worth(&mut self, store: &mut dyn Store, occupant: Occupant) -> Worth {
        let (policy, now) = (self.policy, self.now);
        let place = Place::new(self.prefix, self.fingerprint, occupant);
        if policy.breaker.is_some() && breaker::key::is_kept(store, &place.breaker()) {
            return Worth::Keep;
        }
        if policy.concurrency.is_some() && concurrency::key::is_kept(store, &place.in_flight(), now) {
            return Worth::Keep;
        }
        let own = state_at(self.states, occupant);
        let has_hosts_out = own.is_some_and(|state| state.groups.iter().any(Group::is_kept));
        if has_hosts_out
            || policy.active_outlier().is_some()
                && are_out(store, self.prefix, self.fingerprint, occupant, GroupId::OfTheKey)
        {
            return Worth::Keep;
        }
        if *self.shape == Shape::default() {
            return Worth::Little(0);
        }
        let outcomes = |slot: &Slot, shape: &Shape| slot.outcomes(shape, now);
        Worth::Little(place.slots(*self.shape).total(store, self.worker, now, outcomes))
    }
}

impl RequestPolicy {
    /// A policy that this worker knows nothing about yet.
    pub fn new(policy: Arc<Policy>) -> Self {
        let fingerprint = fingerprint::of_policy(&policy);
        let prefix = paths::of_policy(&policy.name, fingerprint);
        let keys = KeyTable::new(&prefix, &policy.name, fingerprint, &policy.scope);
        let groups = DirectoryView::new(paths::groups(&prefix), fingerprint, MOST_GROUPS);
        let variants = VariantView::new(paths::variants(&policy.name), fingerprint);
        let shape = Shape::of(&policy);
        RequestPolicy {
            policy,
            fingerprint,
            prefix,
            shape,
            keys,
            states: Vec::new(),
            groups,
            variants,
            gathered: Vec::new(),
            unwritten: Vec::new(),
            knows_groups: false,
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The policy's content hash: two of equal name and fingerprint share their state.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The policy's rules for hosts, if they do anything.
    pub fn outlier(&self) -> Option<&Outlier> {
        self.policy.active_outlier()
    }

    /// Notes that the policy is configured now: of several contents of its name it is the newest. `before` is what this gave when this
    /// worker last configured it.
    pub fn configure(&mut self, store: &mut dyn Store, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        self.variants.configure(store, before, now)
    }

    /// The policy's name in metrics, which several live contents of one name do not share.
    pub fn metrics_name(&self) -> Cow<'_, str> {
        match self.variants.rank() {
            0 => Cow::Borrowed(&self.policy.name),
            rank => Cow::Owned(format!("{}~{}", self.policy.name, rank.saturating_add(1))),
        }
    }

    /// Whether any feature counts or decides anything for this policy; without one it lets everything through untouched.
    pub fn is_active(&self) -> bool {
        active(self.policy.breaker.as_ref(), |feature| feature.mode).is_some()
            || active(self.policy.concurrency.as_ref(), |feature| feature.mode).is_some()
            || active(self.policy.throttle.as_ref(), |feature| feature.mode).is_some()
            || active(self.policy.retry.as_ref(), |feature| feature.mode).is_some()
            || self.outlier().is_some()
            || !self.policy.fallback.is_empty() && self.policy.mode != Mode::Off
    }

    /// Whether nothing that the policy does with a request depends on when the request came, but for a breaker that is not closed.
    pub fn is_untimed(&self) -> bool {
        self.policy.outcome.slow_after.is_none()
            && active(self.policy.concurrency.as_ref(), |feature| feature.mode).is_none()
            && active(self.policy.throttle.as_ref(), |feature| feature.mode).is_none()
            && active(self.policy.retry.as_ref(), |feature| feature.mode).is_none()
            && self.outlier().is_none()
    }

    /// The key of a request; `value` gives a field of it, if it has it. `now` may be a moment ago.
    pub fn key<'v>(
        &mut self,
        worker: &mut Worker,
        store: &mut dyn Store,
        now: Timestamp,
        mut value: impl FnMut(Field<'_>) -> Option<Cow<'v, [u8]>>,
    ) -> Key {
        let RequestPolicy { policy, fingerprint, prefix, shape, keys, states, .. } = self;
        let scope = &policy.scope;
        let key = if scope.by.is_empty() {
            Key::ALL
        } else {
            let values: Vec<Cow<'v, [u8]>> = scope
                .by
                .iter()
                .map(|dimension| {
                    let field = dimension.into();
                    comparable(field, value(field).unwrap_or_default())
                })
                .collect();
            // With so many its rates may decide something.
            let enough = policy.breaker.as_ref().map_or(ENOUGH, |breaker| breaker.min_requests.get());
            let mut appraisal = Appraisal { policy, fingerprint: *fingerprint, prefix, shape, states, worker, now };
            let mut worth = |store: &mut dyn Store, occupant| appraisal.worth(store, occupant);
            let key = keys.key(store, scope, &values, enough, now, &mut worth);
            if state_at(states, key.occupant).is_some_and(RequestKey::is_superseded) {
                keys.reread(store, now);
                keys.key(store, scope, &values, enough, now, &mut worth)
            } else {
                key
            }
        };
        let index = usize::from(key.occupant.index);
        if states.len() <= index {
            states.resize_with(index.saturating_add(1), || None);
        }
        if let Some(state) = states.get_mut(index)
            && state.as_ref().is_none_or(|state| state.key.occupant != key.occupant || state.is_superseded())
        {
            *state = Some(RequestKey::new(prefix, *fingerprint, key, shape));
        }
        key
    }

    /// Whether a key is the one that those share for which there was no place.
    pub(super) fn is_overflow(&self, key: Key) -> bool {
        !self.policy.scope.by.is_empty() && key == self.keys.overflow()
    }

    /// The text of a key in metrics, headers and logs.
    pub fn key_text(&self, key: Key) -> &str {
        if self.policy.scope.by.is_empty() { crate::store::keys::ALL } else { self.keys.text(key) }
    }

    /// The text of a key in the names of metrics, of which there is a limited number.
    pub fn series_text(&self, key: Key) -> &str {
        if self.policy.scope.by.is_empty() { crate::store::keys::ALL } else { self.keys.series_text(key.series) }
    }

    /// Whether a gauge can say what is so of this key: those that share a series with others would contradict each other there.
    pub fn has_gauges(&self, key: Key) -> bool {
        key.series != Series::OVERFLOW || self.is_overflow(key)
    }

    /// Renews what would otherwise expire, and looks after the hosts. To be called about once a second. Gives what the operator
    /// should know, by key.
    pub fn tick(&mut self, cx: &mut Cx<'_>) -> Vec<(Key, Vec<Event>)> {
        let lost = self.keep_places(cx.store, cx.now);
        self.variants.renew(cx.store, cx.now);
        for state in self.states.iter_mut().flatten() {
            state.concurrency.renew(cx);
        }
        let mut events = self.tick_hosts(cx);
        if self.outlier().is_some() {
            // Nothing is known of their hosts any more.
            let gauges = [Metric::Hosts, Metric::HostsEjected].map(|metric| Event::Gauge(metric, 0));
            events.extend(lost.into_iter().map(|key| (key, gauges.to_vec())));
        }
        events
    }

    /// How often [`RequestPolicy::tick`] should be called at least.
    pub fn tick_every(&self) -> Duration {
        let second = Duration::from_secs(1);
        let Some(rules) = self.outlier() else { return second };
        let heartbeat = rules.heartbeat.as_ref().map_or(second, |heartbeat| heartbeat.interval / 4);
        let discover = rules.discover.as_ref().map_or(second, |discover| discover.interval);
        // Twice in an interval, so that each is looked at before the next but one begins; and more often than a heartbeat, whose
        // hosts each have their own moment.
        second.min(rules.interval / 2).min(heartbeat).min(discover)
    }

    /// Says which keys and clusters are used, and forgets those that have lost their places. Gives such keys.
    fn keep_places(&mut self, store: &mut dyn Store, now: Timestamp) -> Vec<Key> {
        let RequestPolicy { policy, keys, states, groups, .. } = self;
        keys.upkeep(store, now, &mut |occupant| state_at(states, occupant).is_some_and(RequestKey::is_kept));
        let mut lost = Vec::new();
        if !policy.scope.by.is_empty() {
            for state in states.iter_mut() {
                let has_lost = state.as_ref().is_some_and(|state| !keys.has(state.key.occupant));
                lost.extend(state.take_if(|_| has_lost).map(|state| state.key));
            }
        }
        let all = states.iter().flatten().flat_map(|state| state.groups.iter());
        let mut kept = vec![false; groups.known().entries().len()];
        for group in all.filter(|group| group.is_kept()) {
            if let GroupId::Numbered(occupant) = group.id
                && let Some(kept) = kept.get_mut(usize::from(occupant.index))
            {
                *kept = true;
            }
        }
        let is_kept = &mut |occupant: Occupant| kept.get(usize::from(occupant.index)).copied().unwrap_or_default();
        if groups.upkeep(store, now, is_kept) {
            self.forget_lost_groups();
        }
        lost
    }

    /// Forgets the clusters that have lost their places.
    pub(super) fn forget_lost_groups(&mut self) {
        let RequestPolicy { states, groups, .. } = self;
        for state in states.iter_mut().flatten() {
            state.groups.retain(|group| match group.id {
                GroupId::Numbered(occupant) => groups.known().has(occupant),
                GroupId::OfTheKey | GroupId::Nowhere => true,
            });
        }
    }
}
