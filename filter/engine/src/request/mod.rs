//! A policy at work: its hot state as one worker sees it.
//!
//! The healthy path reads nothing shared: a request compares the change signal with the one its worker's view was
//! read at, and an outcome is counted in the worker's own slot, which is written at most every 10 ms while no outcome can decide
//! anything. A failure is written at once and adds up all workers' slots; a transition is one swap of the key's cell and
//! raises the change signal.

pub mod access_log;

use crate::breaker::thresholds;
use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::breaker::{Admission, Cell, Judged, StateName, Transition, Trip};
use crate::concurrency::in_flight::{self, InFlight};
use crate::http::matching::comparable;
use crate::http::outcome::{Outcome, Verdict};
use crate::http::request::Field;
use crate::observe::metrics::Metric;
use crate::store::cluster::GroupId;
use crate::store::keys::{Key, KeyTable, Series};
use crate::store::paths::{self, Paths};
use crate::store::places::{Occupant, Places, Worth};
use crate::store::record::{Record, occupied};
use crate::store::slot::{Shape, Slot};
use crate::store::variants::Beside;
use crate::store::window::Tally;
use crate::store::worker::{Seen, VIEW_LASTS, VIEW_LASTS_UNSIGNALLED, Worker};
use crate::store::workers::Place;
use crate::store::{NotUpdated, Store, update};
use crate::throttle;
use holdfast_policy::document::{Breaker, BreakerControl, Concurrency, Mode, Policy, Reason, Throttle};

/// Something to tell the operator about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Adds one to a counter.
    Count(Metric),
    /// Adds so many to a counter.
    Add(Metric, u32),
    /// Sets a gauge.
    Gauge(Metric, u64),
    /// Something to say in the log.
    Said {
        /// Whether somebody should look at it.
        alarming: bool,
        /// The line.
        line: String,
    },
    /// This worker made the breaker change its state.
    Moved(Transition),
    /// The breaker is in this state: sets the gauge. Comes whenever a worker looks at the cell, about once a second.
    State(StateName),
}

/// Whether a request may go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may, and its outcome must be reported with this.
    Admitted(Ticket),
    /// It may not.
    Rejected(Rejection),
}

/// A request that was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// How long until it is worth another try; zero where nobody can say.
    pub retry_after: Duration,
}

/// What an admitted request holds. It is used up by reporting the outcome.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that was admitted must report its outcome or its end"]
pub struct Ticket {
    key: Key,
    admitted: Timestamp,
    permit: Permit,
    in_flight: bool,
    would_be_served: bool,
}

impl Ticket {
    /// The key it was admitted for.
    pub fn key(&self) -> Key {
        self.key
    }

    /// When it was admitted.
    pub fn admitted(&self) -> Timestamp {
        self.admitted
    }

    /// Whether a feature in shadow mode would have rejected it to a fallback, which has been counted.
    pub fn would_be_served(&self) -> bool {
        self.would_be_served
    }

    /// The place in flight that it holds.
    fn hold(&self) -> Option<InFlightHold> {
        self.in_flight.then_some(InFlightHold { key: self.key })
    }

    /// Whether it is one of half-open's probes.
    pub fn is_probe(&self) -> bool {
        matches!(self.permit, Permit::Probe { .. })
    }
}

/// A place in flight that a request holds until its response has ended, which is after its outcome is known.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the place must be given back when the response has ended"]
pub struct InFlightHold {
    key: Key,
}

impl InFlightHold {
    /// The key it was admitted for.
    pub fn key(&self) -> Key {
        self.key
    }
}

/// How the breaker let a request pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permit {
    /// It was not asked, or would have refused.
    None,
    Pass {
        generation: u32,
    },
    Probe {
        generation: u32,
        lease: u32,
    },
}

/// Whether a request that holds something was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    /// It went on to the host.
    Made,
    /// One of the features turned it away.
    TurnedAway,
}

/// A worker's copy of a key's cell.
#[derive(Debug)]
struct View {
    cell: Cell,
    seen: Seen,
}

/// One key as one worker sees it.
#[derive(Debug)]
struct KeyState {
    key: Key,
    /// That of the key's records: the policy's, moved on with each occupant of the place.
    fingerprint: u64,
    /// Whether a record of a later occupant of the place was met.
    is_superseded: bool,
    paths: Paths,
    view: Option<View>,
    /// When an event last told of a forced state.
    told: Option<Timestamp>,
    slot: Slot,
    /// The slot's name in the store, and the place it goes with.
    slot_key: Option<(Place, String)>,
    /// When the slot was last written.
    slot_written: Timestamp,
    /// Whether the store lacks outcomes that the slot has.
    is_slot_unwritten: bool,
    /// Whether [`Governed::flush`] looks at the slot.
    is_slot_listed: bool,
    /// Requests of this worker in flight, where the policy limits them.
    in_flight: u32,
    in_flight_written: Timestamp,
    /// Whether the store lacks the last change of `in_flight`.
    in_flight_unwritten: bool,
    /// The throttle's counts of the other workers.
    others: Option<(Timestamp, Tally)>,
    /// Whether the retry budget has a token left, and when this was last looked up.
    budget: Option<(Timestamp, bool)>,
    /// What belongs to one cluster each.
    groups: Groups,
}

/// One policy as one worker sees it.
#[derive(Debug)]
pub struct Governed {
    policy: Arc<Policy>,
    fingerprint: u64,
    prefix: String,
    shape: Shape,
    keys: KeyTable,
    /// By place.
    states: Vec<Option<KeyState>>,
    /// The places of clusters that the keys do not tell apart.
    groups: Places,
    /// Other contents of the same name.
    beside: Beside,
    /// Slots of other workers, while they are added up.
    gathered: Vec<Slot>,
    /// Keys whose slot may have outcomes that the store lacks.
    unwritten: Vec<Key>,
    /// Whether the groups of hosts are known that the document names.
    knows_groups: bool,
}

impl KeyState {
    fn new(prefix: &str, fingerprint: u64, key: Key, shape: &Shape) -> Self {
        KeyState {
            key,
            fingerprint: occupied(fingerprint, key.occupant.tenancy),
            is_superseded: false,
            paths: Paths::new(prefix, key.occupant.place),
            view: None,
            told: None,
            slot: Slot::new(shape, 0),
            slot_key: None,
            slot_written: Timestamp::ZERO,
            is_slot_unwritten: false,
            is_slot_listed: false,
            in_flight: 0,
            in_flight_written: Timestamp::ZERO,
            in_flight_unwritten: false,
            others: None,
            budget: None,
            groups: Groups::default(),
        }
    }

    /// Whether the key must keep its place, as far as this worker knows.
    fn is_kept(&self) -> bool {
        self.view.as_ref().is_some_and(|view| !view.cell.is_closed())
            || self.in_flight > 0
            || self.groups.iter().any(Group::is_kept)
    }

    fn generation(&self) -> u32 {
        self.view.as_ref().map_or(0, |view| view.cell.generation)
    }

    /// Whether the slot was written so recently that what was counted since may wait.
    fn is_freshly_written(&self, now: Timestamp) -> bool {
        // A write from the future is from before the clock was put back.
        self.slot_written <= now && now.since(self.slot_written) < SLOTS_WAIT
    }

    fn write_slot<S: Store>(&mut self, store: &mut S, now: Timestamp) {
        let Some((_, slot_key)) = &self.slot_key else { return };
        store.set(slot_key, &self.slot.encode(self.fingerprint));
        self.slot_written = now;
        self.is_slot_unwritten = false;
    }

    /// Takes over what the cell now is.
    fn look(&mut self, cell: Cell, seen: Seen, events: &mut Vec<Event>) {
        // Even when it is not new to this worker: the gauge belongs to the process, and may still show what an earlier
        // policy of this name, a worker that crashed, or one that was late has left there.
        events.push(Event::State(cell.name()));
        self.view = Some(View { cell, seen });
    }
}

/// How long outcomes that decide nothing may wait to be written for the other workers.
pub const SLOTS_WAIT: Duration = Duration::from_millis(10);

/// Whether a feature does anything, and whether it only pretends to.
fn active<T>(feature: Option<&T>, mode: impl Fn(&T) -> Mode) -> Option<(&T, bool)> {
    let feature = feature?;
    match mode(feature) {
        Mode::Enforce => Some((feature, false)),
        Mode::Shadow => Some((feature, true)),
        Mode::Off => None,
    }
}

/// The most clusters of one policy whose state is kept, where its keys do not tell them apart.
pub const MOST_GROUPS: u16 = 4096;

/// A key with so many outcomes keeps its place, where no breaker says how many may decide something.
const ENOUGH: u32 = 20;

fn state_at(states: &[Option<KeyState>], key: Key) -> Option<&KeyState> {
    states.get(usize::from(key.occupant.place))?.as_ref().filter(|state| state.key.occupant == key.occupant)
}

/// The state of a key that has its place.
fn state_of(states: &mut [Option<KeyState>], key: Key) -> Option<&mut KeyState> {
    states.get_mut(usize::from(key.occupant.place))?.as_mut().filter(|state| state.key.occupant == key.occupant)
}

/// What it is worth to keep the key that has this place.
#[allow(clippy::too_many_arguments)] // Those of the one caller.
fn worth(
    policy: &Policy,
    fingerprint: u64,
    prefix: &str,
    shape: &Shape,
    states: &[Option<KeyState>],
    occupant: Occupant,
    worker: &mut Worker,
    store: &mut dyn Store,
    now: Timestamp,
) -> Worth {
    let store = &mut { store };
    let (fingerprint, paths) = (occupied(fingerprint, occupant.tenancy), Paths::new(prefix, occupant.place));
    if policy.breaker.is_some() {
        let stored = store.get(&paths.breaker()).and_then(|(bytes, _)| Cell::decode(&bytes, fingerprint));
        if stored.is_some_and(|cell| !cell.is_closed()) {
            return Worth::Keep;
        }
    }
    if policy.concurrency.is_some() {
        let stored = store.get(&paths.in_flight()).and_then(|(bytes, _)| InFlight::decode(&bytes, fingerprint));
        if stored.is_some_and(|cell| cell.is_any(now)) {
            return Worth::Keep;
        }
    }
    let state = states.get(usize::from(occupant.place)).and_then(Option::as_ref);
    let own = state.filter(|state| state.key.occupant == occupant);
    let has_hosts_out = own.is_some_and(|state| state.groups.iter().any(Group::is_kept));
    if has_hosts_out || policy.active_outlier().is_some() && hosts::are_out(store, prefix, fingerprint, occupant) {
        return Worth::Keep;
    }
    let mut outcomes = 0_u32;
    if *shape != Shape::default() {
        for number in 0..worker.places(store, now) {
            let slot = store.get(&paths.slot(number));
            let slot = slot.and_then(|(bytes, _)| Slot::decode_shaped(&bytes, fingerprint, shape));
            outcomes = outcomes.saturating_add(slot.map_or(0, |slot| slot.outcomes(shape, now)));
        }
    }
    Worth::Little(outcomes)
}

impl Governed {
    /// A policy that this worker knows nothing about yet.
    pub fn new(policy: Arc<Policy>) -> Self {
        let fingerprint = fingerprint::of_policy(&policy);
        let prefix = paths::of_policy(&policy.name, fingerprint);
        let keys = KeyTable::new(&prefix, &policy.name, fingerprint, &policy.scope);
        let groups = Places::new(paths::groups(&prefix), fingerprint, MOST_GROUPS);
        let beside = Beside::new(paths::variants(&policy.name), fingerprint);
        let shape = Shape::of(&policy);
        Governed {
            policy,
            fingerprint,
            prefix,
            shape,
            keys,
            states: Vec::new(),
            groups,
            beside,
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

    /// Notes that the policy is configured now: of several contents of its name it is the newest. `before` is what this gave when this
    /// worker last configured it.
    pub fn configure(&mut self, store: &mut dyn Store, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        self.beside.configure(store, before, now)
    }

    /// The policy's name in metrics, which several live contents of one name do not share.
    pub fn metrics_name(&self) -> Cow<'_, str> {
        match self.beside.rank() {
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

    /// The key of a request; `value` gives a field of it, if it has it. `now` may be a moment ago.
    pub fn key<'v, S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        now: Timestamp,
        mut value: impl FnMut(Field<'_>) -> Option<Cow<'v, [u8]>>,
    ) -> Key {
        let Governed { policy, fingerprint, prefix, shape, keys, states, .. } = self;
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
            let mut worth = |store: &mut dyn Store, occupant| {
                worth(policy, *fingerprint, prefix, shape, states, occupant, worker, store, now)
            };
            let key = keys.key(store, scope, &values, enough, now, &mut worth);
            if state_at(states, key).is_some_and(|state| state.is_superseded) {
                keys.look_again(store, now);
                let mut worth = |store: &mut dyn Store, occupant| {
                    self::worth(policy, *fingerprint, prefix, shape, states, occupant, worker, store, now)
                };
                keys.key(store, scope, &values, enough, now, &mut worth)
            } else {
                key
            }
        };
        let place = usize::from(key.occupant.place);
        if states.len() <= place {
            states.resize_with(place.saturating_add(1), || None);
        }
        if let Some(state) = states.get_mut(place)
            && state.as_ref().is_none_or(|state| state.key.occupant != key.occupant || state.is_superseded)
        {
            *state = Some(KeyState::new(prefix, *fingerprint, key, shape));
        }
        key
    }

    /// Whether a key is the one that those share for which there was no place.
    fn is_overflow(&self, key: Key) -> bool {
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

    /// Whether nothing that the policy does with a request depends on when the request came, but for a breaker that is not closed.
    pub fn is_untimed(&self) -> bool {
        self.policy.outcome.slow_after.is_none()
            && active(self.policy.concurrency.as_ref(), |feature| feature.mode).is_none()
            && active(self.policy.throttle.as_ref(), |feature| feature.mode).is_none()
            && active(self.policy.retry.as_ref(), |feature| feature.mode).is_none()
            && self.outlier().is_none()
    }

    /// Admits a request without looking at the clock, where the time changes nothing: the policy [is untimed](Self::is_untimed) and
    /// this worker's view of a closed breaker holds. `lately` is a time that was now a moment ago. `None` says that
    /// [`Governed::admit`] has to decide.
    pub fn admit_unhurried<S: Store>(
        &self,
        store: &mut S,
        key: Key,
        lately: Timestamp,
        events: &mut Vec<Event>,
    ) -> Option<Ticket> {
        let (breaker, _) = active(self.policy.breaker.as_ref(), |feature| feature.mode)?;
        let state = self.states.get(usize::from(key.occupant.place))?.as_ref()?;
        let view = state.view.as_ref().filter(|_| state.key == key)?;
        // Without a change signal views are too short-lived for a clock that is not looked at.
        let epoch = Some(store.epoch()?);
        if breaker.state != BreakerControl::Auto || !view.cell.is_closed() || !view.seen.holds(epoch, lately) {
            return None;
        }
        events.push(Event::Count(Metric::Requests));
        let permit = Permit::Pass { generation: view.cell.generation };
        Some(Ticket { key, admitted: lately, permit, in_flight: false, would_be_served: false })
    }

    /// Decides on a request. What the operator should know is appended to `events`.
    pub fn admit<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        key: Key,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Decision {
        events.push(Event::Count(Metric::Requests));
        let mut exempt = false;
        let mut ticket = Ticket { key, admitted: now, permit: Permit::None, in_flight: false, would_be_served: false };
        let Some(state) = state_of(&mut self.states, key) else { return Decision::Admitted(ticket) };

        if let Some((breaker, shadow)) = active(self.policy.breaker.as_ref(), |feature| feature.mode) {
            match ask_breaker(breaker, state, worker, store, now, events) {
                Ok(permit) => {
                    ticket.permit = permit;
                    // A probe must get through; but a breaker that only pretends has none.
                    exempt = !shadow && ticket.is_probe();
                }
                Err(retry_after) => {
                    let rejection = Rejection { reason: Reason::Open, retry_after };
                    if let Some(rejected) = reject(&self.policy, rejection, shadow, &mut ticket, events) {
                        return rejected;
                    }
                }
            }
        }
        if let Some((concurrency, shadow)) = active(self.policy.concurrency.as_ref(), |feature| feature.mode) {
            match take_concurrency(concurrency, state, worker, store, now) {
                Some(taken) => ticket.in_flight = taken,
                None => {
                    let rejection = Rejection { reason: Reason::Concurrency, retry_after: Duration::ZERO };
                    if let Some(rejected) = reject(&self.policy, rejection, shadow, &mut ticket, events) {
                        self.give_back(worker, store, ticket, now, events);
                        return rejected;
                    }
                }
            }
        }
        let policy = Arc::clone(&self.policy);
        if let Some((throttle, shadow)) = active(policy.throttle.as_ref(), |feature| feature.mode)
            && !exempt
            && self.is_throttled(worker, store, key, throttle, now)
        {
            let rejection = Rejection { reason: Reason::Throttled, retry_after: Duration::ZERO };
            if let Some(rejected) = reject(&policy, rejection, shadow, &mut ticket, events) {
                self.give_back(worker, store, ticket, now, events);
                return rejected;
            }
        }
        Decision::Admitted(ticket)
    }

    /// Records the outcome of an admitted request. What is returned is to be given to [`Governed::release`] when the
    /// response has ended.
    pub fn report<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        ticket: Ticket,
        outcome: &Outcome,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Option<InFlightHold> {
        events.push(Event::Count(match outcome.verdict {
            Verdict::Success => Metric::Success,
            Verdict::Failure => Metric::Failure,
            Verdict::Ignored => Metric::Ignored,
        }));
        if outcome.slow {
            events.push(Event::Count(Metric::Slow));
        }
        let hold = ticket.hold();
        self.settle(worker, store, ticket, outcome, Request::Made, now, events);
        hold
    }

    /// Gives a place in flight back.
    pub fn release<S: Store>(&mut self, worker: &mut Worker, store: &mut S, hold: InFlightHold, now: Timestamp) {
        if let Some(state) = state_of(&mut self.states, hold.key) {
            state.in_flight = state.in_flight.saturating_sub(1);
            write_in_flight(state, worker, store, now);
        }
    }

    /// Takes back what an admitted request holds that will not have an outcome, without counting it.
    fn give_back<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        ticket: Ticket,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) {
        let hold = ticket.hold();
        self.settle(worker, store, ticket, &Outcome::IGNORED, Request::TurnedAway, now, events);
        if let Some(hold) = hold {
            self.release(worker, store, hold, now);
        }
    }

    #[allow(clippy::too_many_arguments)] // The worker, the store and the events belong to every call.
    fn settle<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        ticket: Ticket,
        outcome: &Outcome,
        request: Request,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) {
        let Governed { policy, shape, states, gathered, unwritten, .. } = self;
        let Some(state) = state_of(states, ticket.key) else { return };

        if let (Permit::Probe { generation, lease }, Some(breaker)) = (ticket.permit, &policy.breaker) {
            let random = worker.random.next();
            change_cell(state, store, now, events, &mut |cell| {
                cell.judge_probe(breaker, generation, lease, outcome, now, random)
            });
        }
        let deposits = shape.counts_requests() && request == Request::Made;
        let judges = match ticket.permit {
            Permit::Pass { generation } => outcome.counts() && generation == state.generation(),
            _ => false,
        };
        let throttles = outcome.counts() && policy.throttle.is_some();
        if !judges && !throttles && !deposits {
            return;
        }
        let Some(place) = worker.place(store, now) else { return };
        own_slot(shape, state, store, place);
        let mut own_total = 0;
        if judges {
            if state.slot.generation != state.generation() {
                state.slot.start_generation(shape, state.generation());
            }
            own_total = state.slot.own_total(shape, now);
            state.slot.record(shape, outcome, now);
        }
        state.slot.record_traffic(shape, outcome, now);
        if deposits {
            state.slot.deposit(shape, now);
        }
        let breaker = policy.breaker.as_ref().filter(|_| judges);
        // A success can only complete `min_requests`, and not any more once this worker alone had seen that many.
        let decides = breaker.is_some_and(|breaker| {
            outcome.failed()
                || outcome.slow && thresholds::watches_slow(breaker)
                || own_total < thresholds::low_volume(breaker)
        });
        if !decides && !outcome.failed() && shape.may_wait() && state.is_freshly_written(now) {
            state.is_slot_unwritten = true;
            // It may still be listed from before an outcome that was written at once.
            if !core::mem::replace(&mut state.is_slot_listed, true) {
                unwritten.push(ticket.key);
            }
            return;
        }
        state.write_slot(store, now);
        let Some(breaker) = breaker.filter(|_| decides) else { return };
        gather(gathered, shape, state, worker, store, now);
        let tally = Slot::tally(gathered, shape, now);
        let run = if outcome.failed() { Slot::run_length(gathered, now) } else { 0 };
        if let Some(trip) = thresholds::tripped(breaker, tally, run) {
            let (generation, random) = (state.generation(), worker.random.next());
            change_cell(state, store, now, events, &mut |cell| {
                cell.trip(breaker, generation, trip, outcome.retry_after, now, random)
            });
        }
    }

    /// Whether there may be outcomes to be written by [`Governed::flush`] within [`SLOTS_WAIT`].
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Writes the outcomes that have waited.
    pub fn flush<S: Store>(&mut self, worker: &mut Worker, store: &mut S, now: Timestamp) {
        let Governed { states, unwritten, .. } = self;
        for key in unwritten.drain(..) {
            let Some(state) = state_of(states, key) else { continue };
            state.is_slot_listed = false;
            // A slot whose place was lost may be another worker's by now.
            if core::mem::take(&mut state.is_slot_unwritten)
                && let place = worker.place(store, now)
                && state.slot_key.as_ref().is_some_and(|(held, _)| Some(*held) == place)
            {
                state.write_slot(store, now);
            }
        }
    }

    /// Renews what would otherwise expire, and looks after the hosts. To be called about once a second. Gives what the operator
    /// should know, by key.
    pub fn tick(&mut self, worker: &mut Worker, store: &mut dyn Store, now: Timestamp) -> Vec<(Key, Vec<Event>)> {
        let store = &mut { store };
        let lost = self.keep_places(store, now);
        self.beside.renew(store, now);
        for state in self.states.iter_mut().flatten() {
            let age = now.apart(state.in_flight_written);
            if state.in_flight_unwritten || state.in_flight > 0 && age >= in_flight::RENEW_AFTER {
                write_in_flight(state, worker, store, now);
            }
        }
        let mut told = self.tick_hosts(worker, store, now);
        if self.outlier().is_some() {
            // Nothing is known of their hosts any more.
            let gauges = [Metric::Hosts, Metric::HostsEjected].map(|metric| Event::Gauge(metric, 0));
            told.extend(lost.into_iter().map(|key| (key, gauges.to_vec())));
        }
        told
    }

    /// Says which keys and clusters are used, and forgets those that have lost their places. Gives such keys.
    fn keep_places(&mut self, store: &mut dyn Store, now: Timestamp) -> Vec<Key> {
        let Governed { policy, keys, states, groups, .. } = self;
        keys.upkeep(store, now, &mut |occupant| {
            let state = states.get(usize::from(occupant.place)).and_then(Option::as_ref);
            state.filter(|state| state.key.occupant == occupant).is_some_and(KeyState::is_kept)
        });
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
                && let Some(kept) = kept.get_mut(usize::from(occupant.place))
            {
                *kept = true;
            }
        }
        let is_kept = &mut |occupant: Occupant| kept.get(usize::from(occupant.place)).copied().unwrap_or_default();
        if groups.upkeep(store, now, is_kept) {
            self.forget_lost_groups();
        }
        lost
    }

    /// Forgets the clusters that have lost their places.
    fn forget_lost_groups(&mut self) {
        let Governed { states, groups, .. } = self;
        for state in states.iter_mut().flatten() {
            state.groups.retain(|group| match group.id {
                GroupId::Numbered(occupant) => groups.known().has(occupant),
                GroupId::OfTheKey | GroupId::Nowhere => true,
            });
        }
    }

    /// Whether the throttle rejects a request now. The other workers' counts are looked at every 10 ms, and may have waited as long.
    fn is_throttled<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        key: Key,
        throttle: &Throttle,
        now: Timestamp,
    ) -> bool {
        let Governed { shape, states, .. } = self;
        let Some(state) = state_of(states, key) else { return false };
        let fresh = state.others.is_some_and(|(at, _)| at <= now && now.since(at) < VIEW_LASTS_UNSIGNALLED);
        if !fresh {
            let mut sum = Tally::default();
            for slot in other_slots(shape, state, worker, store, now) {
                sum.add_tally(slot.traffic_tally(shape, now));
            }
            state.others = Some((now, sum));
        }
        let mut tally = state.slot.traffic_tally(shape, now);
        if let Some((_, others)) = state.others {
            tally.add_tally(others);
        }
        throttle::rejects(throttle, tally, worker.random.next())
    }
}

/// Counts a rejection and makes it real unless the feature only pretends.
fn reject(
    policy: &Policy,
    rejection: Rejection,
    shadow: bool,
    ticket: &mut Ticket,
    events: &mut Vec<Event>,
) -> Option<Decision> {
    let reason = rejection.reason;
    if let Some(metric) = Metric::rejected(reason, shadow) {
        events.push(Event::Count(metric));
    }
    if shadow && !ticket.would_be_served && policy.fallback_for(&[reason]).is_some() {
        ticket.would_be_served = true;
        events.push(Event::Count(Metric::WouldFallbackStatic));
    }
    (!shadow).then_some(Decision::Rejected(rejection))
}

/// Asks the breaker; an error is the time until it is worth asking again.
fn ask_breaker<S: Store>(
    breaker: &Breaker,
    state: &mut KeyState,
    worker: &mut Worker,
    store: &mut S,
    now: Timestamp,
    events: &mut Vec<Event>,
) -> Result<Permit, Duration> {
    let forced = match breaker.state {
        BreakerControl::Auto => None,
        BreakerControl::ForcedOpen => Some((StateName::ForcedOpen, Err(Duration::ZERO))),
        BreakerControl::ForcedClosed => Some((StateName::ForcedClosed, Ok(Permit::None))),
    };
    if let Some((name, answer)) = forced {
        if state.told.is_none_or(|told| now.apart(told) >= VIEW_LASTS) {
            state.told = Some(now);
            events.push(Event::State(name));
        }
        return answer;
    }

    let epoch = store.epoch();
    if !state.view.as_ref().is_some_and(|view| view.seen.holds(epoch, now)) {
        let stored = store.get(&state.paths.breaker()).and_then(|(bytes, _)| Cell::decode(&bytes, state.fingerprint));
        state.look(stored.unwrap_or_default(), Seen { epoch, at: now }, events);
    }
    let random = worker.random.next();
    if let Some(admission) = state.view.as_ref().and_then(|view| view.cell.peek(breaker, now, random)) {
        return admission.into();
    }

    take_step(breaker, state, store, now, random, epoch, events)
}

/// Takes a permit, or a step to the next state.
#[allow(clippy::too_many_arguments)] // Those of the one caller.
fn take_step(
    breaker: &Breaker,
    state: &mut KeyState,
    store: &mut dyn Store,
    now: Timestamp,
    random: u64,
    epoch: Option<u64>,
    events: &mut Vec<Event>,
) -> Result<Permit, Duration> {
    let store = &mut { store };
    let updated = update(store, &state.paths.breaker(), state.fingerprint, |old: Option<&Cell>| {
        let old = old.cloned().unwrap_or_default();
        let mut cell = old.clone();
        let verdict = cell.admit(breaker, now, random);
        (verdict, (cell != old).then_some(cell))
    });
    let updated = match updated {
        Ok(updated) => updated,
        // Without a permit nothing passes: never one probe more.
        Err(NotUpdated::Contended) => return Err(Duration::ZERO),
        // A key that was worth nothing has lost its place; the next request gives it another one.
        Err(NotUpdated::Superseded) => {
            state.is_superseded = true;
            return Ok(Permit::None);
        }
    };
    let (admission, transition) = updated.verdict;
    moved(transition, updated.written, store, events);
    // The epoch from before the swap: whatever others changed since then makes this view look old, never new.
    state.look(updated.record.unwrap_or_default(), Seen { epoch, at: now }, events);
    admission.into()
}

impl From<Admission> for Result<Permit, Duration> {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Pass { generation } => Ok(Permit::Pass { generation }),
            Admission::Probe { generation, lease } => Ok(Permit::Probe { generation, lease }),
            Admission::Reject { retry_after } => Err(retry_after),
        }
    }
}

/// Tells of a transition that this worker made, to the other workers and to the operator.
fn moved(transition: Option<Transition>, written: bool, store: &mut dyn Store, events: &mut Vec<Event>) {
    let Some(transition) = transition.filter(|_| written) else { return };
    store.raise_epoch();
    if let crate::breaker::Cause::Tripped { trip, .. } = transition.cause {
        events.push(Event::Count(match trip {
            Trip::FailureRate(_) => Metric::OpenedFailureRate,
            Trip::SlowRate(_) => Metric::OpenedSlowRate,
            Trip::ConsecutiveFailures(_) => Metric::OpenedConsecutiveFailures,
        }));
    }
    events.push(Event::Moved(transition));
}

/// Changes a key's cell by `step`, which is repeated on a newer record when another worker was faster.
fn change_cell(
    state: &mut KeyState,
    store: &mut dyn Store,
    now: Timestamp,
    events: &mut Vec<Event>,
    step: &mut dyn FnMut(&mut Cell) -> Judged,
) {
    let store = &mut { store };
    let epoch = store.epoch();
    let updated = update(store, &state.paths.breaker(), state.fingerprint, |old: Option<&Cell>| {
        let mut cell = old.cloned().unwrap_or_default();
        let judged = step(&mut cell);
        (judged, (judged != Judged::Stale).then_some(cell))
    });
    state.is_superseded |= updated.as_ref().is_err_and(|error| *error == NotUpdated::Superseded);
    let Ok(updated) = updated else { return };
    let transition = match updated.verdict {
        Judged::Moved(transition) => Some(transition),
        Judged::Stale | Judged::Counted => None,
    };
    moved(transition, updated.written, store, events);
    state.look(updated.record.unwrap_or_default(), Seen { epoch, at: now }, events);
}

/// Takes one of the places in flight: `Some(true)` if taken, `Some(false)` if it could not be counted, `None` if there
/// is none.
fn take_concurrency<S: Store>(
    concurrency: &Concurrency,
    state: &mut KeyState,
    worker: &mut Worker,
    store: &mut S,
    now: Timestamp,
) -> Option<bool> {
    // A worker that cannot count lets pass: worse than no limit would be no service.
    let Some(place) = worker.place(store, now) else { return Some(false) };
    let (own, limit) = (state.in_flight, concurrency.max_requests.get());
    let updated = update(store, &state.paths.in_flight(), state.fingerprint, |old: Option<&InFlight>| {
        let mut cell = old.cloned().unwrap_or_default();
        let admitted = cell.acquire(place, own, limit, now);
        (admitted, admitted.then_some(cell))
    });
    match updated {
        Err(error) => {
            state.is_superseded |= error == NotUpdated::Superseded;
            // It passes, for no service would be worse than no limit, but it counts from the next write on.
            state.in_flight = own.saturating_add(1);
            state.in_flight_unwritten = true;
            Some(true)
        }
        Ok(updated) if updated.verdict => {
            state.in_flight = own.saturating_add(1);
            state.in_flight_written = now;
            Some(true)
        }
        Ok(_) => None,
    }
}

/// Writes this worker's number of requests in flight.
fn write_in_flight<S: Store>(state: &mut KeyState, worker: &mut Worker, store: &mut S, now: Timestamp) {
    let Some(place) = worker.place(store, now) else { return };
    let own = state.in_flight;
    let updated = update(store, &state.paths.in_flight(), state.fingerprint, |old: Option<&InFlight>| {
        let mut cell = old.cloned().unwrap_or_default();
        cell.set(place, own, now);
        ((), Some(cell))
    });
    match updated {
        Ok(_) => {
            state.in_flight_written = now;
            state.in_flight_unwritten = false;
        }
        // The next change or tick writes the whole count again.
        Err(_) => state.in_flight_unwritten = true,
    }
}

/// Sees to it that the slot goes with the worker's place, taking over what a worker before it left there.
fn own_slot<S: Store>(shape: &Shape, state: &mut KeyState, store: &mut S, place: Place) {
    if state.slot_key.as_ref().is_some_and(|(held, _)| *held == place) {
        return;
    }
    take_over_slot(shape, state, store, place);
}

fn take_over_slot(shape: &Shape, state: &mut KeyState, store: &mut dyn Store, place: Place) {
    let key = state.paths.slot(place.number);
    // Also when the worker has lost its earlier place: what it counted there is still added up, by whoever holds it now.
    let left = store.get(&key).and_then(|(bytes, _)| Slot::decode_shaped(&bytes, state.fingerprint, shape));
    state.slot = left.unwrap_or_else(|| Slot::new(shape, state.generation()));
    state.slot_key = Some((place, key));
}

/// Collects this worker's slot and those of the others that count in the same generation.
fn gather<S: Store>(
    gathered: &mut Vec<Slot>,
    shape: &Shape,
    state: &KeyState,
    worker: &mut Worker,
    store: &mut S,
    now: Timestamp,
) {
    gathered.clear();
    gathered.push(state.slot.clone());
    let others = other_slots(shape, state, worker, store, now);
    gathered.extend(others.filter(|slot| slot.generation == state.slot.generation));
}

/// Reads the slots of all workers but the one that `state.slot` is, which after a lost place may still be at the old one.
fn other_slots<S: Store>(
    shape: &Shape,
    state: &KeyState,
    worker: &mut Worker,
    store: &mut S,
    now: Timestamp,
) -> impl Iterator<Item = Slot> {
    let own = state.slot_key.as_ref().map(|(place, _)| place.number);
    (0..worker.places(store, now)).filter(move |number| Some(*number) != own).filter_map(move |number| {
        let (bytes, _) = store.get(&state.paths.slot(number))?;
        Slot::decode_shaped(&bytes, state.fingerprint, shape)
    })
}

use hosts::{Group, Groups};

mod calls;
mod hosts;
mod retries;

pub use calls::{Call, Reply};
pub use hosts::{Sending, Sent};
pub use retries::{Accounted, Asked, Plan, Tried};

#[cfg(test)]
mod tests;
