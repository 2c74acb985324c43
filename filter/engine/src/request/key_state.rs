//! One key of a policy as one worker sees it: a part for each feature.

use super::groups::{Group, Groups};
use crate::breaker::key::BreakerKey;
use crate::concurrency::key::ConcurrencyKey;
use crate::retry::key::RetryKey;
use crate::store::directory::Occupant;
use crate::store::keys::Key;
use crate::store::own_slot::OwnSlot;
use crate::store::place::Place;
use crate::store::slot::Shape;
use crate::throttle::key::ThrottleKey;

/// One key.
#[derive(Debug)]
pub(super) struct RequestKey {
    pub(super) key: Key,
    pub(super) breaker: BreakerKey,
    pub(super) concurrency: ConcurrencyKey,
    pub(super) throttle: ThrottleKey,
    pub(super) retry: RetryKey,
    /// What belongs to one cluster each.
    pub(super) groups: Groups,
    /// What this worker counts for breaker, throttle and retry budget.
    pub(super) slot: OwnSlot,
}

impl RequestKey {
    /// A key that this worker knows nothing about yet. `policy` is the fingerprint of the policy, `prefix` the common beginning of its
    /// names in the store.
    pub(super) fn new(prefix: &str, policy: u64, key: Key, shape: &Shape) -> Self {
        let place = Place::new(prefix, policy, key.occupant);
        RequestKey {
            key,
            breaker: BreakerKey::new(place.breaker()),
            concurrency: ConcurrencyKey::new(place.in_flight()),
            throttle: ThrottleKey::default(),
            retry: RetryKey::new(place.budget()),
            groups: Groups::default(),
            slot: OwnSlot::new(place.slots(*shape)),
        }
    }

    /// Whether a record of a later occupant of the place was met.
    pub(super) fn is_superseded(&self) -> bool {
        self.breaker.is_superseded() || self.concurrency.is_superseded()
    }

    /// Whether the key must keep its place, as far as this worker knows.
    pub(super) fn is_kept(&self) -> bool {
        self.breaker.is_kept() || self.concurrency.is_kept() || self.groups.iter().any(Group::is_kept)
    }
}

/// The state of a key that has its place.
pub(super) fn state_of(states: &mut [Option<RequestKey>], key: Key) -> Option<&mut RequestKey> {
    states.get_mut(usize::from(key.occupant.index))?.as_mut().filter(|state| state.key.occupant == key.occupant)
}

/// The same to look at.
pub(super) fn state_at(states: &[Option<RequestKey>], key: Occupant) -> Option<&RequestKey> {
    states.get(usize::from(key.index))?.as_ref().filter(|state| state.key.occupant == key)
}
