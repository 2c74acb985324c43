//! A policy at work in the request seat, as one worker sees it.
//!
//! The healthy path reads nothing shared: a request compares the change signal with the one its worker's view was
//! read at, and an outcome is counted in the worker's own slot, which is written at most every 10 ms while no outcome can decide
//! anything. A failure is written at once and adds up all workers' slots; a transition is one swap of the key's cell and
//! raises the change signal.

use core::time::Duration;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use holdfast_policy::document::{Mode, Outlier, Policy};

use super::blocks::{Blocks, KeysBlock, Pools, active, borrowed};
use super::clusters::{Clusters, are_out};
use crate::base::recent::Recent;
use crate::base::time::Timestamp;
use crate::breaker;
use crate::breaker::slot::Shape;
use crate::concurrency;
use crate::cx::Cx;
use crate::event::Event;
use crate::http::matching::comparable;
use crate::http::request::Field;
use crate::metric::Metric;
use crate::observe::policy_metrics::KeyNames;
use crate::seats::presence::{self, AttemptSeatView};
use crate::store::Store;
use crate::store::block::{BlockKind, ByKind};
use crate::store::cluster::GroupId;
use crate::store::directory::{Occupant, Worth};
use crate::store::keys::{self, Key, KeyTable, Series};
use crate::store::place::Place;
use crate::store::registry::{self, Configured, Identity, Newer, Standing};
use crate::store::told;
use crate::store::worker::Worker;
use crate::{retry, throttle};

/// A key with so many outcomes keeps its place, where no breaker says how many may decide something.
const ENOUGH: u32 = 20;

/// So long after its first request a policy has taken over what there was.
const TAKEOVER_LASTS: Duration = Duration::from_secs(1);

/// The most names that contents of one policy have in metrics, which Envoy keeps for ever: those that are older share the last.
const MOST_NAMES: usize = 16;

/// Nor does it wait longer for that request: the contents before it lapse.
const TAKEOVER_WAITS: Duration = Duration::from_secs(10);

/// One policy as one worker sees it.
#[derive(Debug)]
pub struct RequestPolicy {
    pub(super) policy: Arc<Policy>,
    identity: Identity,
    /// Where it stands among the contents that live; none before it was entered, or where there was no place for it.
    standing: Option<Standing>,
    /// What has state.
    pub(super) blocks: Option<Blocks>,
    /// The key that those share for which there is no place.
    overflow: Key,
    /// When it last had a request.
    used: Option<Timestamp>,
    /// When it had the first since it was entered.
    began: Option<Timestamp>,
    /// When it was looked after first since it was entered.
    looked_after: Option<Timestamp>,
    /// Whether the gauges tell of the keys that others have met.
    is_told: bool,
    /// The keys of which it was last told that an attempt seat is missing.
    seats_told: HashSet<Key>,
    /// Whether it was looked lately whether that is to be said.
    seat_said: Recent<()>,
    /// Of the breakers that the document shares with others, by key: which of their changes it has told.
    breakers_told: HashMap<Occupant, u32>,
    /// Whether the groups of hosts are known that the document names.
    pub(super) knows_groups: bool,
}

/// What says what keys are worth.
struct Appraisal<'a> {
    policy: &'a Policy,
    blocks: &'a Blocks,
    worker: &'a mut Worker,
    now: Timestamp,
}

/// A key with so many outcomes keeps its place: its rates may decide something.
fn enough(policy: &Policy) -> u32 {
    policy.breaker.as_ref().map_or(ENOUGH, |breaker| breaker.min_requests.get())
}

/// Gives places to the keys before that had others, and whose state may not be lost though they have no request now.
fn adopt_keys(policy: &Policy, blocks: &Blocks, cx: &mut Cx<'_>) {
    let kept = blocks.kept_before(policy, cx.store, cx.now);
    let mut appraisal = Appraisal { policy, blocks, worker: cx.worker, now: cx.now };
    let mut worth = |store: &mut dyn Store, occupant| appraisal.worth(store, occupant);
    if let Ok(mut keys) = blocks.keys.try_borrow_mut() {
        for text in kept {
            keys.table.key_of(cx.store, text, enough(policy), cx.now, &mut worth);
        }
    }
}

impl Appraisal<'_> {
    /// What it is worth to keep the key that has this place.
    fn worth(&mut self, store: &mut dyn Store, key: Occupant) -> Worth {
        let Appraisal { policy, blocks, worker, now } = self;
        let place = |kind| blocks.place(kind, key);
        let (breaker, concurrency) = (place(BlockKind::Breaker), place(BlockKind::Concurrency));
        let is_kept = blocks.is_kept(key)
            || breaker
                .as_ref()
                .zip(policy.breaker.as_ref())
                .is_some_and(|(place, rules)| breaker::key::is_kept(store, rules, &place.cell()))
            || concurrency.is_some_and(|place| concurrency::key::is_kept(store, &place.cell(), *now))
            || policy.active_outlier().is_some() && are_out(store, blocks.hosts(key, GroupId::OfTheKey).as_ref());
        if is_kept {
            return Worth::Keep;
        }
        let mut none = Vec::new();
        let cx = &mut Cx::new(store, worker, *now, &mut none);
        let mut most = 0;
        if let (Some(rules), Some(place)) = (&policy.breaker, breaker) {
            most = breaker::counts::outcomes(cx, &place.slots(Shape::of(rules)));
        }
        if let (Some(rules), Some(place)) = (&policy.throttle, place(BlockKind::Throttle)) {
            most = most.max(throttle::key::outcomes(cx, &place.slots(rules.window)));
        }
        if let (Some(rules), Some(place)) = (&policy.retry, place(BlockKind::Retry)) {
            most = most.max(retry::key::requests(cx, &place.slots(rules.budget.window)));
        }
        Worth::Little(most)
    }
}

impl RequestPolicy {
    /// A policy that was not entered yet: it has no state, and lets everything pass.
    pub fn new(policy: Arc<Policy>) -> Self {
        RequestPolicy {
            identity: Identity::of(&policy),
            overflow: KeyTable::overflow_of(&policy.scope),
            policy,
            standing: None,
            blocks: None,
            used: None,
            began: None,
            looked_after: None,
            is_told: false,
            seats_told: HashSet::new(),
            seat_said: Recent::default(),
            breakers_told: HashMap::new(),
            knows_groups: false,
        }
    }

    /// A policy that is alone in its VM, entered at `now`.
    pub fn entered(policy: Arc<Policy>, store: &mut dyn Store, now: Timestamp) -> Self {
        let mut entered = RequestPolicy::new(policy);
        let configured = Configured { identity: entered.identity, before: None, used: ByKind::default() };
        let registry = registry::configure(store, &[configured], &[], now);
        if let Some(standing) = registry.and_then(|registry| registry.standing(&entered.identity, now)) {
            entered.stand(standing, store, &mut Pools::default());
        }
        entered
    }

    /// The place of a key in a block of the policy's; `None` if it has none.
    pub fn place(&self, kind: BlockKind, key: Key) -> Option<Place> {
        self.blocks.as_ref()?.place(kind, key.occupant)
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// What it is, in hashes.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it stands among the contents that live, as far as this worker knows.
    pub fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    /// Where its text is for the attempt seats.
    pub fn text_place(&self) -> Option<Occupant> {
        self.standing.as_ref().and_then(|standing| *standing.places.get(BlockKind::Text))
    }

    /// Takes over where it stands now. Blocks that it has at other places than before begin anew.
    pub fn stand(&mut self, standing: Standing, store: &mut dyn Store, pools: &mut Pools) {
        if self.standing.as_ref().is_none_or(|before| before.places != standing.places) {
            self.blocks = Blocks::new(&self.policy, &standing, store, pools);
            (self.began, self.looked_after) = (None, None);
            self.tell_again();
            self.knows_groups = false;
        }
        self.standing = Some(standing);
    }

    /// The policy's rules for hosts, if they do anything.
    pub fn outlier(&self) -> Option<&Outlier> {
        self.policy.active_outlier()
    }

    /// When it last had a request.
    pub(super) fn used(&self) -> Option<Timestamp> {
        self.used
    }

    /// Has the gauges told again of all that is not as at a start: nobody has yet under the name that the policy has now.
    pub(super) fn tell_again(&mut self) {
        self.is_told = false;
        self.seats_told.clear();
        self.breakers_told.clear();
        self.tell_answers_again();
    }

    /// The policy's name in metrics, which several live contents of one name do not share.
    pub fn metrics_name(&self) -> Cow<'_, str> {
        match self.standing.as_ref().map_or(0, |standing| standing.rank) {
            0 => Cow::Borrowed(&self.policy.name),
            rank => Cow::Owned(format!("{}~{}", self.policy.name, rank.saturating_add(1).min(MOST_NAMES))),
        }
    }

    /// Which gauges newer contents of the policy's name speak with, so that they are not this one's any more.
    pub(super) fn newer(&self) -> ByKind<Newer> {
        self.standing.as_ref().map(|standing| standing.newer).unwrap_or_default()
    }

    /// Whether any feature counts or decides anything for this policy; without one it lets everything through untouched.
    pub fn is_active(&self) -> bool {
        self.policy.judges()
            || active(self.policy.concurrency.as_ref(), |feature| feature.mode).is_some()
            || active(self.policy.retry.as_ref(), |feature| feature.mode).is_some()
            || !self.policy.fallback.is_empty() && self.policy.mode != holdfast_policy::document::Mode::Off
    }

    /// Whether nothing that the policy does with a request depends on when the request came, but for a breaker that is not closed.
    pub fn is_untimed(&self) -> bool {
        self.policy.outcome.slow_after.is_none()
            && active(self.policy.concurrency.as_ref(), |feature| feature.mode).is_none()
            && active(self.policy.throttle.as_ref(), |feature| feature.mode).is_none()
            && active(self.policy.retry.as_ref(), |feature| feature.mode).is_none()
            && self.outlier().is_none()
            && self.policy.stale().is_none()
    }

    /// The key of a request; `value` gives a field of it, if it has it. `now` may be a moment ago.
    pub fn key<'v>(
        &mut self,
        worker: &mut Worker,
        store: &mut dyn Store,
        now: Timestamp,
        mut value: impl FnMut(Field<'_>) -> Option<Cow<'v, [u8]>>,
    ) -> Key {
        let Some(blocks) = &self.blocks else { return self.overflow };
        self.used = Some(now);
        self.began.get_or_insert(now);
        let policy = &self.policy;
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
            let enough = enough(policy);
            let mut appraisal = Appraisal { policy, blocks, worker, now };
            let mut worth = |store: &mut dyn Store, occupant| appraisal.worth(store, occupant);
            let Ok(mut keys) = blocks.keys.try_borrow_mut() else { return self.overflow };
            let key = keys.table.key(store, scope, &values, enough, now, &mut worth);
            if blocks.is_superseded(key.occupant) {
                keys.table.reread(store, now);
                keys.table.key(store, scope, &values, enough, now, &mut worth)
            } else {
                key
            }
        };
        blocks.enter(policy, key);
        key
    }

    /// Whether a key is the one that those share for which there was no place.
    pub(super) fn is_overflow(&self, key: Key) -> bool {
        !self.policy.scope.by.is_empty() && key == self.overflow
    }

    /// Gives what a key is called to `use_names`.
    pub fn with_names<R>(&self, key: Key, use_names: impl FnOnce(KeyNames<'_>) -> R) -> R {
        let keys = self.blocks.as_ref().and_then(|blocks| blocks.keys.try_borrow().ok());
        let (text, series_text) = if self.policy.scope.by.is_empty() {
            (keys::ALL, keys::ALL)
        } else {
            let table = keys.as_ref().map(|keys| &keys.table);
            let text = table.map_or(keys::OVERFLOW, |table| table.text(key));
            (text, table.map_or(keys::OVERFLOW, |table| table.series_text(key.series)))
        };
        use_names(KeyNames { text, series: key.series, series_text, has_gauges: self.has_gauges(key) })
    }

    /// The text of a key in metrics, headers and logs.
    pub fn key_text(&self, key: Key) -> String {
        self.with_names(key, |names| names.text.to_owned())
    }

    /// Whether a gauge can say what is so of this key: those that share a series with others would contradict each other there.
    fn has_gauges(&self, key: Key) -> bool {
        key.series != Series::OVERFLOW || self.is_overflow(key)
    }

    /// Renews what would otherwise expire, and looks after the hosts. To be called about once a second. Gives what the operator
    /// should know, by key.
    pub fn tick(&mut self, cx: &mut Cx<'_>) -> Vec<(Key, Vec<Event>)> {
        let lost = self.keep_places(cx.store, cx.now);
        let mut events = self.take_over(cx);
        if let Some(mut block) = borrowed(self.blocks.as_ref().and_then(|blocks| blocks.concurrency.as_ref())) {
            block.iter_mut().for_each(|(_, state)| state.renew(cx));
        }
        events.extend(self.tell_breakers(cx));
        events.extend(self.tell_answers(cx.store));
        events.extend(self.tell_seats(cx));
        events.extend(self.tick_hosts(cx));
        if self.outlier().is_some() {
            // Nothing is known of their hosts any more.
            let gauges = Metric::OF_HOSTS.map(|metric| Event::Gauge(metric, 0));
            events.extend(lost.iter().map(|key| (*key, gauges.to_vec())));
        }
        events.extend(self.tell_answers_lost(&lost));
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

    /// Takes over for all keys what the blocks before knew of them, a moment after the first request: those that had no request since
    /// have their state too, and what others do from then on is theirs. Gives what the operator should know, by key: this worker's
    /// gauges speak of all that is not as at a start, whoever has met it.
    fn take_over(&mut self, cx: &mut Cx<'_>) -> Vec<(Key, Vec<Event>)> {
        let looked_after = *self.looked_after.get_or_insert(cx.now);
        // One that is not the newest any more is not waited for.
        let is_newest = self.standing.as_ref().is_some_and(|standing| standing.rank == 0);
        let is_due = self.began.is_some_and(|began| cx.now.apart(began) >= TAKEOVER_LASTS)
            || is_newest && cx.now.apart(looked_after) >= TAKEOVER_WAITS;
        let policy = Arc::clone(&self.policy);
        let Some(blocks) = self.blocks.as_ref().filter(|_| is_due && !self.is_told) else { return Vec::new() };
        let takes_over = blocks.may_take_over();
        adopt_keys(&policy, blocks, cx);
        let mut keys = if policy.scope.by.is_empty() {
            vec![Key::ALL]
        } else {
            let all = blocks.keys.try_borrow_mut().map(|mut keys| keys.table.all(cx.store, cx.now));
            all.unwrap_or_default().into_iter().chain([self.overflow]).collect()
        };
        let mut reports = Vec::new();
        keys.retain(|key| takes_over || blocks.is_known(cx.store, key.occupant));
        for key in keys {
            blocks.enter(&policy, key);
            let mut events = Vec::new();
            if let Some(breaker) = &policy.breaker
                && let Some(mut block) = borrowed(blocks.breaker.as_ref())
                && let Some(state) = block.of(key)
            {
                state.key.look(&mut cx.with_events(&mut events), breaker);
            }
            reports.push((key, events));
        }
        self.take_over_hosts(cx);
        if let Some(blocks) = &mut self.blocks {
            blocks.end_takeover();
        }
        self.is_told = true;
        reports
    }

    /// Tells the breakers that this document shares with others and that have changed since it last did: the request that found
    /// the change may have been another document's, whose metrics are not this one's.
    fn tell_breakers(&mut self, cx: &mut Cx<'_>) -> Vec<(Key, Vec<Event>)> {
        let shared = self.blocks.as_ref().and_then(|blocks| blocks.breaker.as_ref());
        let shared = shared.filter(|block| Rc::strong_count(block) > 1);
        let (Some(breaker), Some(mut block)) = (&self.policy.breaker, borrowed(shared)) else { return Vec::new() };
        let before = core::mem::take(&mut self.breakers_told);
        let mut reports = Vec::new();
        for (key, state) in block.iter_mut() {
            if before.get(&key.occupant).copied().unwrap_or_default() != state.key.changes() {
                let mut events = Vec::new();
                state.key.tell(&mut cx.with_events(&mut events), breaker);
                reports.push((key, events));
            }
            if state.key.changes() > 0 {
                self.breakers_told.insert(key.occupant, state.key.changes());
            }
        }
        reports
    }

    /// Tells of each key whether requests that want an attempt seat go to a cluster where none shows itself.
    fn tell_seats(&mut self, cx: &mut Cx<'_>) -> Vec<(Key, Vec<Event>)> {
        let retries = self.policy.retry.as_ref().is_some_and(|retry| retry.mode == Mode::Enforce);
        let Some(blocks) = self.blocks.as_ref().filter(|_| retries || self.policy.active_outlier().is_some()) else {
            return Vec::new();
        };
        let Ok(keys) = blocks.keys.try_borrow() else { return Vec::new() };
        let lacks = |seats: &Clusters<AttemptSeatView>| seats.iter().any(|(_, seat)| seat.is_missing(cx.now));
        let missing: HashSet<Key> = keys.seats.iter().filter(|(_, seats)| lacks(seats)).map(|(key, _)| key).collect();
        let changed = missing
            .symmetric_difference(&self.seats_told)
            .map(|key| (*key, vec![Event::Gauge(Metric::MisassembledAttemptSeat, missing.contains(key).into())]));
        let mut reports: Vec<_> = changed.collect();
        if let Some(key) = missing.iter().min()
            && self.seat_said.get(cx.now, presence::LOOK_EVERY).is_none()
        {
            self.seat_said.set(cx.now, ());
            if told::is_due(cx.store, &["seat/", &self.policy.name].concat(), cx.now) {
                reports.push((*key, vec![presence::missing()]));
            }
        }
        self.seats_told = missing;
        reports
    }

    /// Says which keys and clusters are used, and forgets those that have lost their places. Gives such keys.
    fn keep_places(&mut self, store: &mut dyn Store, now: Timestamp) -> Vec<Key> {
        let RequestPolicy { policy, blocks, .. } = self;
        let Some(blocks) = blocks else { return Vec::new() };
        let Ok(mut keys) = blocks.keys.try_borrow_mut() else { return Vec::new() };
        keys.table.upkeep(store, now, &mut |occupant| blocks.is_kept(occupant));
        let mut lost = Vec::new();
        if !policy.scope.by.is_empty() {
            let KeysBlock { table, seats, .. } = &mut *keys;
            seats.forget_lost(&|occupant| table.has(occupant));
            lost = blocks.forget_lost(&|occupant| table.has(occupant));
        }
        let mut kept = vec![false; keys.groups.known().entries().len()];
        if let Some(block) = blocks.outlier.as_ref().and_then(|block| block.try_borrow().ok()) {
            for (id, group) in block.iter().flat_map(|(_, groups)| groups.iter()) {
                if let GroupId::Numbered(occupant) = id
                    && group.is_kept()
                    && let Some(kept) = kept.get_mut(usize::from(occupant.index))
                {
                    *kept = true;
                }
            }
        }
        let is_kept = &mut |occupant: Occupant| kept.get(usize::from(occupant.index)).copied().unwrap_or_default();
        if keys.groups.upkeep(store, now, is_kept) {
            drop(keys);
            self.forget_lost_groups();
        }
        lost
    }

    /// Forgets the clusters that have lost their places.
    pub(super) fn forget_lost_groups(&self) {
        let Some(blocks) = &self.blocks else { return };
        let Ok(mut keys) = blocks.keys.try_borrow_mut() else { return };
        let KeysBlock { groups, seats, .. } = &mut *keys;
        let has_place = |id| match id {
            GroupId::Numbered(occupant) => groups.known().has(occupant),
            GroupId::OfTheKey | GroupId::Nowhere => true,
        };
        seats.iter_mut().for_each(|(_, clusters)| clusters.retain(has_place));
        if let Some(mut block) = borrowed(blocks.outlier.as_ref()) {
            block.iter_mut().for_each(|(_, clusters)| clusters.retain(has_place));
        }
    }
}
