//! This worker's slot of one key, and those of the others.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::http::outcome::Outcome;
use crate::store::Store;
use crate::store::slot::{Shape, Slot};
use crate::store::slots::Slots;
use crate::store::worker::Worker;
use crate::store::workers::WorkerSlot;

/// How long outcomes that decide nothing may wait to be written for the other workers.
pub const SLOTS_WAIT: Duration = Duration::from_millis(10);

/// A moment for as long as nothing leaves the window, and the breaker's generation.
type Sighting = (u32, u64);

/// One key's slot of this worker.
#[derive(Debug)]
pub struct OwnSlot {
    slot: Slot,
    /// Those of all workers.
    all: Slots,
    /// The slot's name in the store, and the place it goes with.
    name: Option<(WorkerSlot, String)>,
    /// When it was last written.
    written: Timestamp,
    /// Whether the store lacks something that it has.
    is_unwritten: bool,
    /// When the first request was sent that the store lacks: it is listed since then, whenever the slot was written before.
    deposited: Option<Timestamp>,
    /// When all workers together were found to have enough outcomes.
    had_enough: Option<Sighting>,
    /// Whether it is on the list of those that wait to be written.
    pub is_listed: bool,
}

impl OwnSlot {
    /// An empty one among those of all workers.
    pub fn new(all: Slots) -> Self {
        OwnSlot {
            slot: Slot::new(all.shape(), 0),
            all,
            name: None,
            written: Timestamp::ZERO,
            is_unwritten: false,
            deposited: None,
            had_enough: None,
            is_listed: false,
        }
    }

    /// What this worker has counted.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Which windows it has.
    pub fn shape(&self) -> &Shape {
        self.all.shape()
    }

    /// Sees to it that the slot goes with the worker's place, taking over what a worker before it left there. `generation` is the
    /// breaker's. Whether there is such a place.
    pub fn hold(&mut self, store: &mut dyn Store, worker: &mut Worker, generation: u32, now: Timestamp) -> bool {
        let Some(slot) = worker.slot(store, now) else { return false };
        if self.name.as_ref().is_none_or(|(held, _)| *held != slot) {
            self.take_over(store, slot, generation);
        }
        true
    }

    fn take_over(&mut self, store: &mut dyn Store, slot: WorkerSlot, generation: u32) {
        let name = self.all.name(slot.number);
        // Also when the worker has lost its earlier place: what it counted there is still added up, by whoever holds it now.
        let left = self.all.read(store, &name);
        self.slot = left.unwrap_or_else(|| Slot::new(self.all.shape(), generation));
        self.name = Some((slot, name));
    }

    /// Begins to count for the breaker in this generation, if it does not yet.
    pub fn enter(&mut self, generation: u32) {
        if self.slot.generation != generation {
            self.slot.start_generation(self.all.shape(), generation);
        }
    }

    /// How many outcomes this worker has in the breaker's window.
    pub fn own_total(&self, now: Timestamp) -> u32 {
        self.slot.own_total(self.all.shape(), now)
    }

    /// Whether all workers together have at least `least` outcomes in the breaker's window. Once they do, only time takes some
    /// away: the other slots are not read again before.
    pub fn have_all(
        &mut self,
        store: &mut dyn Store,
        worker: &mut Worker,
        now: Timestamp,
        least: u32,
        gathered: &mut Vec<Slot>,
    ) -> bool {
        let sighting = (self.slot.generation, self.shape().moment(now));
        if self.had_enough == Some(sighting) {
            return true;
        }
        self.gather(store, worker, now, gathered);
        let has = Slot::tally(gathered, self.shape(), now).total >= least;
        if has {
            self.had_enough = Some(sighting);
        }
        has
    }

    /// Records an outcome for the breaker, in the generation that was [entered](OwnSlot::enter).
    pub fn record(&mut self, outcome: &Outcome, now: Timestamp) {
        self.slot.record(self.all.shape(), outcome, now);
    }

    /// Records an outcome for the throttle.
    pub fn record_traffic(&mut self, outcome: &Outcome, now: Timestamp) {
        self.slot.record_traffic(self.all.shape(), outcome, now);
    }

    /// Counts a request for the retry budget, and has it wait. Whether the slot is to be listed among those that wait.
    pub fn deposit(&mut self, now: Timestamp) -> bool {
        self.slot.deposit(self.all.shape(), now);
        self.deposited.get_or_insert(now);
        self.wait()
    }

    /// Whether what was counted last may wait to be written: nobody decides by it, and the slot was written a moment ago, or is
    /// about to be.
    pub fn may_wait(&self, now: Timestamp) -> bool {
        // A moment in the future is from before the clock was put back.
        let is_recent = |then: Timestamp| then <= now && now.since(then) < SLOTS_WAIT;
        self.all.shape().may_wait() && (is_recent(self.written) || self.deposited.is_some_and(is_recent))
    }

    /// Has it wait. Whether it is to be listed among those that wait.
    pub fn wait(&mut self) -> bool {
        self.is_unwritten = true;
        // It may still be listed from before an outcome that was written at once.
        !core::mem::replace(&mut self.is_listed, true)
    }

    /// Writes it for the other workers.
    pub fn write(&mut self, store: &mut dyn Store, now: Timestamp) {
        let Some((_, name)) = &self.name else { return };
        self.all.write(store, name, &self.slot);
        self.written = now;
        self.is_unwritten = false;
        self.deposited = None;
    }

    /// Writes what has waited.
    pub fn flush(&mut self, store: &mut dyn Store, worker: &mut Worker, now: Timestamp) {
        self.is_listed = false;
        // A slot whose place was lost may be another worker's by now.
        if core::mem::take(&mut self.is_unwritten)
            && let slot = worker.slot(store, now)
            && self.name.as_ref().is_some_and(|(held, _)| Some(*held) == slot)
        {
            self.write(store, now);
        }
    }

    /// Reads the slots of all workers but this one, which after a lost place may still be at the old one.
    pub fn others(&self, store: &mut dyn Store, worker: &mut Worker, now: Timestamp, each: impl FnMut(Slot)) {
        let own = self.name.as_ref().map(|(slot, _)| slot.number);
        self.all.each(store, worker, now, own, each);
    }

    /// Collects this worker's slot and those of the others that count in the same generation.
    pub fn gather(&self, store: &mut dyn Store, worker: &mut Worker, now: Timestamp, gathered: &mut Vec<Slot>) {
        gathered.clear();
        gathered.push(self.slot.clone());
        let generation = self.slot.generation;
        self.others(store, worker, now, |slot| {
            if slot.generation == generation {
                gathered.push(slot);
            }
        });
    }
}
