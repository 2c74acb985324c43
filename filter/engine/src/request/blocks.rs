//! The blocks of a policy as one worker sees them.
//!
//! Contents in one VM that agree on a block share it here as they do in the store: so each slot there keeps its one writer, and what is
//! to be done once is done once.

use core::cell::{RefCell, RefMut};
use std::rc::{Rc, Weak};

use holdfast_policy::document::{Mode, Policy};

use super::clusters::{Clusters, HostGroup};
use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::breaker::Cell;
use crate::breaker::counts::BreakerCounts;
use crate::breaker::key::{BreakerKey, is_kept as is_not_closed};
use crate::breaker::slot::Shape;
use crate::concurrency::key::{ConcurrencyKey, is_kept as are_in_flight};
use crate::cx::Cx;
use crate::fallback::StaleKey;
use crate::outlier::calls::Calls;
use crate::outlier::hosts::Hosts;
use crate::outlier::table::HostTable;
use crate::retry::key::RetryKey;
use crate::seats::presence::{AttemptSeatView, seat};
use crate::store::Store;
use crate::store::address::Address;
use crate::store::block::{BlockKind, ByKind};
use crate::store::cluster::GroupId;
use crate::store::directory::{Directory, DirectoryView, Occupant};
use crate::store::keys::{self, Key, KeyTable};
use crate::store::paths::{HostPaths, KeysPaths};
use crate::store::place::Place;
use crate::store::record::{Mark, Record};
use crate::store::registry::{Predecessor, Standing};
use crate::throttle::key::ThrottleKey;

/// The most clusters of one policy whose state is kept, where its keys do not tell them apart.
pub const MOST_GROUPS: u16 = 4096;

/// What a block has for one key.
pub(super) trait KeyState {
    /// Whether a record of a later occupant of the place was met.
    fn is_superseded(&self) -> bool {
        false
    }

    /// Whether the key must keep its place, as far as this worker knows.
    fn is_kept(&self) -> bool {
        false
    }

    /// Writes what has waited.
    fn flush(&mut self, _: &mut Cx<'_>) {}
}

/// The breaker of one key.
#[derive(Debug)]
pub(super) struct BreakerState {
    pub(super) key: BreakerKey,
    pub(super) counts: BreakerCounts,
}

impl KeyState for BreakerState {
    fn is_superseded(&self) -> bool {
        self.key.is_superseded()
    }
    fn is_kept(&self) -> bool {
        self.key.is_kept()
    }
    fn flush(&mut self, cx: &mut Cx<'_>) {
        self.counts.flush(cx);
    }
}

impl KeyState for ConcurrencyKey {
    fn is_superseded(&self) -> bool {
        self.is_superseded()
    }
    fn is_kept(&self) -> bool {
        self.is_kept()
    }
}

impl KeyState for ThrottleKey {
    fn flush(&mut self, cx: &mut Cx<'_>) {
        self.flush(cx);
    }
}

impl KeyState for RetryKey {
    fn flush(&mut self, cx: &mut Cx<'_>) {
        self.flush(cx);
    }
}

impl KeyState for StaleKey {
    fn is_superseded(&self) -> bool {
        self.is_superseded()
    }
}

impl KeyState for Clusters<HostGroup> {
    fn is_kept(&self) -> bool {
        self.iter().any(|(_, group)| group.is_kept())
    }
}

impl KeyState for Clusters<AttemptSeatView> {}

/// What one block has, by the place of the key.
#[derive(Debug)]
pub(super) struct Block<S> {
    states: Vec<Option<(Key, S)>>,
    /// Keys that may have something that the store lacks.
    pub(super) unwritten: Vec<Key>,
}

impl<S> Default for Block<S> {
    fn default() -> Self {
        Block { states: Vec::new(), unwritten: Vec::new() }
    }
}

impl<S: KeyState> Block<S> {
    /// The state of a key that has its place.
    pub(super) fn of(&mut self, key: Key) -> Option<&mut S> {
        let (known, state) = self.states.get_mut(usize::from(key.occupant.index))?.as_mut()?;
        (known.occupant == key.occupant).then_some(state)
    }

    /// The same to look at.
    pub(super) fn at(&self, key: Occupant) -> Option<&S> {
        let (known, state) = self.states.get(usize::from(key.index))?.as_ref()?;
        (known.occupant == key).then_some(state)
    }

    /// Sees to it that a key has a state of its own.
    fn enter(&mut self, key: Key, make: impl FnOnce() -> Option<S>) {
        let index = usize::from(key.occupant.index);
        if self.states.len() <= index {
            self.states.resize_with(index.saturating_add(1), || None);
        }
        let Some(state) = self.states.get_mut(index) else { return };
        if state.as_ref().is_none_or(|(known, state)| known.occupant != key.occupant || state.is_superseded()) {
            *state = make().map(|state| (key, state));
        }
    }

    /// All keys with their states.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut S)> {
        self.states.iter_mut().flatten().map(|(key, state)| (*key, state))
    }

    /// The same to look at.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &S)> {
        self.states.iter().flatten().map(|(key, state)| (*key, state))
    }

    /// Forgets the keys that have lost their places, and gives them.
    pub(super) fn forget_lost(&mut self, has: &dyn Fn(Occupant) -> bool) -> Vec<Key> {
        let mut lost = Vec::new();
        for state in &mut self.states {
            lost.extend(state.take_if(|(key, _)| !has(key.occupant)).map(|(key, _)| key));
        }
        lost
    }

    /// Notes that a key's slot waits to be written.
    pub(super) fn list(&mut self, key: Key) {
        self.unwritten.push(key);
    }

    fn flush(&mut self, cx: &mut Cx<'_>) {
        let mut keys = core::mem::take(&mut self.unwritten);
        for key in keys.drain(..) {
            if let Some(state) = self.of(key) {
                state.flush(cx);
            }
        }
        // Its memory is used again.
        self.unwritten = keys;
    }
}

/// Which keys and clusters there are.
#[derive(Debug)]
pub(super) struct KeysBlock {
    pub(super) table: KeyTable,
    /// The places of clusters that the keys do not tell apart.
    pub(super) groups: DirectoryView,
    /// Whether there are attempt seats.
    pub(super) seats: Block<Clusters<AttemptSeatView>>,
}

/// What several contents in a VM may share.
pub(super) type Shared<T> = Rc<RefCell<T>>;

/// All blocks of one kind in a VM, by their places.
#[derive(Debug)]
struct Pool<T>(Vec<(Occupant, Weak<RefCell<T>>)>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Pool(Vec::new())
    }
}

impl<T> Pool<T> {
    /// The block that has this place.
    fn get(&mut self, place: Occupant, make: impl FnOnce() -> T) -> Shared<T> {
        self.0.retain(|(_, block)| block.strong_count() > 0);
        let known = self.0.iter().find(|(of, _)| *of == place).and_then(|(_, block)| block.upgrade());
        known.unwrap_or_else(|| {
            let block = Rc::new(RefCell::new(make()));
            self.0.push((place, Rc::downgrade(&block)));
            block
        })
    }
}

/// All blocks in a VM.
#[derive(Debug, Default)]
pub struct Pools {
    keys: Pool<KeysBlock>,
    breaker: Pool<Block<BreakerState>>,
    concurrency: Pool<Block<ConcurrencyKey>>,
    throttle: Pool<Block<ThrottleKey>>,
    retry: Pool<Block<RetryKey>>,
    outlier: Pool<Block<Clusters<HostGroup>>>,
    stale: Pool<Block<StaleKey>>,
}

/// Those of one policy.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Where they are.
    pub(super) places: ByKind<Option<Occupant>>,
    /// What they begin with.
    before: ByKind<Vec<Predecessor>>,
    /// Where the keys of those before have their places, if not where the policy's have theirs; none of those whose policy had but one
    /// key.
    keys_before: Vec<(Occupant, Option<Directory>)>,
    pub(super) keys: Shared<KeysBlock>,
    pub(super) breaker: Option<Shared<Block<BreakerState>>>,
    pub(super) concurrency: Option<Shared<Block<ConcurrencyKey>>>,
    pub(super) throttle: Option<Shared<Block<ThrottleKey>>>,
    pub(super) retry: Option<Shared<Block<RetryKey>>>,
    pub(super) outlier: Option<Shared<Block<Clusters<HostGroup>>>>,
    pub(super) stale: Option<Shared<Block<StaleKey>>>,
}

impl Blocks {
    /// Those of a policy that has this standing; `None` where there is no place for its keys.
    pub(super) fn new(policy: &Policy, standing: &Standing, store: &mut dyn Store, pools: &mut Pools) -> Option<Self> {
        let places = standing.places;
        let place = |kind| *places.get(kind);
        let keys = place(BlockKind::Keys)?;
        let mut keys_before: Vec<(Occupant, Option<Directory>)> = Vec::new();
        for before in BlockKind::ALL.iter().flat_map(|kind| standing.before.get(*kind)) {
            if before.keys != keys && keys_before.iter().all(|(known, _)| *known != before.keys) {
                let name = KeysPaths::new(before.keys.index).directory();
                let mark = Mark { block: before.keys.tenancy, key: 0 };
                let directory = store.get(&name).and_then(|(bytes, _)| Directory::decode(&bytes, mark));
                keys_before.push((before.keys, directory));
            }
        }
        Some(Blocks {
            keys: pools.keys.get(keys, || KeysBlock {
                table: KeyTable::new(keys, &policy.name, &policy.scope),
                groups: DirectoryView::new(
                    KeysPaths::new(keys.index).groups(),
                    Mark { block: keys.tenancy, key: 0 },
                    MOST_GROUPS,
                ),
                seats: Block::default(),
            }),
            breaker: place(BlockKind::Breaker).map(|place| pools.breaker.get(place, Block::default)),
            concurrency: place(BlockKind::Concurrency).map(|place| pools.concurrency.get(place, Block::default)),
            throttle: place(BlockKind::Throttle).map(|place| pools.throttle.get(place, Block::default)),
            retry: place(BlockKind::Retry).map(|place| pools.retry.get(place, Block::default)),
            outlier: place(BlockKind::Outlier).map(|place| pools.outlier.get(place, Block::default)),
            stale: place(BlockKind::Stale).map(|place| pools.stale.get(place, Block::default)),
            places,
            before: standing.before.clone(),
            keys_before,
        })
    }

    /// Where the keys' names are.
    fn keys_place(&self) -> Occupant {
        self.places.get(BlockKind::Keys).unwrap_or_default()
    }

    /// Where the records of a key in the block of a kind are; `None` if the policy has no such block.
    pub(super) fn place(&self, kind: BlockKind, key: Occupant) -> Option<Place> {
        Some(Place::new(kind, (*self.places.get(kind))?, key))
    }

    /// The blocks of a kind that were there before, the newest first, each after the place of its keys and with the place that a key had
    /// among them.
    fn before(&self, policy: &Policy, kind: BlockKind, key: Key) -> Vec<(Occupant, Occupant, Occupant)> {
        let had = |before: &Predecessor| Some((before.keys, before.block, self.key_before(policy, before.keys, key)?));
        self.before.get(kind).iter().filter_map(had).collect()
    }

    /// The place that a key had among those before: by its text, where they were not the policy's own.
    fn key_before(&self, policy: &Policy, keys: Occupant, key: Key) -> Option<Occupant> {
        if keys == self.keys_place() {
            return Some(key.occupant);
        }
        let (_, directory) = self.keys_before.iter().find(|(of, _)| *of == keys)?;
        match directory {
            None => policy.scope.by.is_empty().then_some(key.occupant),
            Some(_) if policy.scope.by.is_empty() => None,
            Some(directory) => {
                let own = self.keys.try_borrow().ok()?;
                directory.find(fingerprint::of_text(own.table.text(key).as_bytes()))
            }
        }
    }

    /// Whether any block may have something to take over.
    pub(super) fn may_take_over(&self) -> bool {
        BlockKind::ALL.iter().any(|kind| !self.before.get(*kind).is_empty())
    }

    /// The texts of the keys before whose state may not be lost and that the policy may have too, though with no place in common: their
    /// breakers are not closed, they have requests in flight, or hosts that are out or have been lately.
    pub(super) fn kept_before(&self, policy: &Policy, store: &mut dyn Store, now: Timestamp) -> Vec<String> {
        let mut kept = Vec::new();
        for (keys, directory) in &self.keys_before {
            let all = directory.iter().flat_map(|directory| (0..).map_while(|index| directory.occupant(index)));
            for key in all {
                let blocks = |kind| self.before.get(kind).iter().filter(|before| before.keys == *keys);
                let cells = |kind| blocks(kind).map(move |before| Place::new(kind, before.block, key).cell());
                let hosts =
                    || blocks(BlockKind::Outlier).filter_map(|it| self.hosts_in(it.block, key, GroupId::OfTheKey));
                let breaker = policy.breaker.as_ref();
                if (cells(BlockKind::Breaker).any(|cell| breaker.is_some_and(|it| is_not_closed(store, it, &cell)))
                    || cells(BlockKind::Concurrency).any(|cell| are_in_flight(store, &cell, now))
                    || hosts().any(|table| are_unsettled(store, &table, policy, now)))
                    && let Some(text) = keys::read_text(store, *keys, key)
                    && keys::is_of(&text, &policy.scope)
                {
                    kept.push(text);
                }
            }
        }
        kept
    }

    /// Whether there is something to tell of a key that this worker may never have met: its breaker is not closed, or it has hosts.
    pub(super) fn is_known(&self, store: &mut dyn Store, key: Occupant) -> bool {
        let breaker = self.place(BlockKind::Breaker, key).map(|place| place.cell());
        let is_open = breaker.is_some_and(|cell| cell.read::<Cell>(store).is_some_and(|cell| !cell.is_closed()));
        let hosts = self.hosts(key, GroupId::OfTheKey);
        is_open || hosts.is_some_and(|table| table.read::<HostTable>(store).is_some_and(|table| table.known() > 0))
    }

    /// Takes nothing over any more: what was to be is.
    pub(super) fn end_takeover(&mut self) {
        self.before = ByKind::default();
        self.keys_before = Vec::new();
    }

    /// Sees to it that a key has its state in each block.
    pub(super) fn enter(&self, policy: &Policy, key: Key) {
        let place = |kind| self.place(kind, key.occupant);
        let before = |kind| {
            let all = self.before(policy, kind, key).into_iter();
            all.map(|(_, block, key)| Place::new(kind, block, key).cell()).collect::<Vec<_>>()
        };
        if let Ok(mut keys) = self.keys.try_borrow_mut() {
            keys.seats.enter(key, || Some(Clusters::default()));
        }
        if let (Some(breaker), Some(mut block)) = (&policy.breaker, borrowed(self.breaker.as_ref())) {
            block.enter(key, || {
                let place = place(BlockKind::Breaker)?;
                let key = BreakerKey::new(place.cell().after(before(BlockKind::Breaker)));
                Some(BreakerState { key, counts: BreakerCounts::new(place.slots(Shape::of(breaker))) })
            });
        }
        if let Some(mut block) = borrowed(self.concurrency.as_ref()) {
            block.enter(key, || {
                let cell = place(BlockKind::Concurrency)?.cell();
                Some(ConcurrencyKey::new(cell, before(BlockKind::Concurrency)))
            });
        }
        if let (Some(throttle), Some(mut block)) = (&policy.throttle, borrowed(self.throttle.as_ref())) {
            block.enter(key, || Some(ThrottleKey::new(place(BlockKind::Throttle)?.slots(throttle.window))));
        }
        if let (Some(retry), Some(mut block)) = (&policy.retry, borrowed(self.retry.as_ref())) {
            block.enter(key, || {
                let place = place(BlockKind::Retry)?;
                Some(RetryKey::new(place.cell(), place.slots(retry.budget.window)))
            });
        }
        if let Some(mut block) = borrowed(self.outlier.as_ref()) {
            block.enter(key, || Some(Clusters::default()));
        }
        if let Some(mut block) = borrowed(self.stale.as_ref()) {
            block.enter(key, || place(BlockKind::Stale).map(StaleKey::new));
        }
    }

    /// Where the table of the hosts of a cluster under a key is in the block that has this place.
    fn hosts_in(&self, block: Occupant, key: Occupant, group: GroupId) -> Option<Address> {
        let paths = HostPaths::new(block.index, key.index, group)?;
        Some(Address::new(paths.table(), group.mark(block.tenancy, key)))
    }

    /// Where it is in the policy's own; `None` if the policy has none, or the cluster no place.
    pub(super) fn hosts(&self, key: Occupant, group: GroupId) -> Option<Address> {
        self.hosts_in((*self.places.get(BlockKind::Outlier))?, key, group)
    }

    /// What is known of the hosts of a cluster under a key before they are looked at.
    pub(super) fn host_group(&self, policy: &Policy, key: Key, group: GroupId) -> Option<HostGroup> {
        let (occupant, place) = (key.occupant, (*self.places.get(BlockKind::Outlier))?);
        let paths = HostPaths::new(place.index, occupant.index, group)?;
        let before = self.before(policy, BlockKind::Outlier, key).into_iter();
        // A cluster that the keys do not tell has its place where they have theirs.
        let before = before.filter(|(keys, ..)| group == GroupId::OfTheKey || *keys == self.keys_place());
        let before = before.filter_map(|(_, block, key)| self.hosts_in(block, key, group));
        let hosts = Hosts::new(paths, group.mark(place.tenancy, occupant), before.collect());
        Some(HostGroup { hosts, calls: Calls::default() })
    }

    /// Where an attempt seat says that it is there, for a cluster under a key.
    pub(super) fn seat(&self, key: Key, group: GroupId) -> Option<Address> {
        seat(self.keys_place(), key.occupant, group)
    }

    /// Whether a record of a later occupant of a key's place was met in any block.
    pub(super) fn is_superseded(&self, key: Occupant) -> bool {
        is_so(self.breaker.as_ref(), key, KeyState::is_superseded)
            || is_so(self.concurrency.as_ref(), key, KeyState::is_superseded)
            || is_so(self.stale.as_ref(), key, KeyState::is_superseded)
    }

    /// Whether a key must keep its place, as far as this worker knows.
    pub(super) fn is_kept(&self, key: Occupant) -> bool {
        is_so(self.breaker.as_ref(), key, KeyState::is_kept)
            || is_so(self.concurrency.as_ref(), key, KeyState::is_kept)
            || is_so(self.outlier.as_ref(), key, KeyState::is_kept)
    }

    /// Forgets the keys that have lost their places; `has` says of one whether it has its place. Gives those that have lost it.
    pub(super) fn forget_lost(&self, has: &dyn Fn(Occupant) -> bool) -> Vec<Key> {
        fn forget<S: KeyState>(block: Option<&Shared<Block<S>>>, has: &dyn Fn(Occupant) -> bool) -> Vec<Key> {
            borrowed(block).map_or_else(Vec::new, |mut block| block.forget_lost(has))
        }
        forget(self.breaker.as_ref(), has);
        forget(self.concurrency.as_ref(), has);
        forget(self.throttle.as_ref(), has);
        forget(self.retry.as_ref(), has);
        let lost = forget(self.stale.as_ref(), has);
        let of_hosts = forget(self.outlier.as_ref(), has);
        if of_hosts.is_empty() { lost } else { of_hosts }
    }

    /// Whether something may have waited to be written.
    pub(super) fn has_unwritten(&self) -> bool {
        fn has<S>(block: Option<&Shared<Block<S>>>) -> bool {
            block.and_then(|block| block.try_borrow().ok()).is_some_and(|block| !block.unwritten.is_empty())
        }
        has(self.breaker.as_ref()) || has(self.throttle.as_ref()) || has(self.retry.as_ref())
    }

    /// Writes what has waited.
    pub(super) fn flush(&self, cx: &mut Cx<'_>) {
        fn flush<S: KeyState>(block: Option<&Shared<Block<S>>>, cx: &mut Cx<'_>) {
            if let Some(mut block) = borrowed(block) {
                block.flush(cx);
            }
        }
        flush(self.breaker.as_ref(), cx);
        flush(self.throttle.as_ref(), cx);
        flush(self.retry.as_ref(), cx);
    }
}

/// What several share, to change it.
pub(super) fn borrowed<T>(shared: Option<&Shared<T>>) -> Option<RefMut<'_, T>> {
    shared.and_then(|shared| shared.try_borrow_mut().ok())
}

/// Whether hosts are out, come back or have been out lately; `table` is where their table is.
fn are_unsettled(store: &mut dyn Store, table: &Address, policy: &Policy, now: Timestamp) -> bool {
    let rules = policy.active_outlier();
    rules.is_some_and(|rules| table.read::<HostTable>(store).is_some_and(|table| table.is_unsettled(rules, now)))
}

/// Whether something is so of what a block has for a key.
fn is_so<S: KeyState>(block: Option<&Shared<Block<S>>>, key: Occupant, is: impl FnOnce(&S) -> bool) -> bool {
    block.and_then(|block| block.try_borrow().ok()).is_some_and(|block| block.at(key).is_some_and(is))
}

/// Whether the policy has a feature that does anything, and whether that only pretends to.
pub(super) fn active<T>(feature: Option<&T>, mode: impl Fn(&T) -> Mode) -> Option<(&T, bool)> {
    let feature = feature?;
    match mode(feature) {
        Mode::Enforce => Some((feature, false)),
        Mode::Shadow => Some((feature, true)),
        Mode::Off => None,
    }
}
