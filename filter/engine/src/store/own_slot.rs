//! This worker's slot of one key, and those of the others.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::Store;
use crate::store::slot::{Slot, Slots};
use crate::store::worker::Worker;
use crate::store::workers::WorkerSlot;

/// How long what decides nothing may wait to be written for the other workers.
pub const SLOTS_WAIT: Duration = Duration::from_millis(10);

/// One key's slot of this worker.
#[derive(Debug)]
pub struct OwnSlot<S: Slot> {
    slot: S,
    /// Those of all workers.
    all: Slots<S>,
    /// The slot's name in the store, and the place it goes with.
    name: Option<(WorkerSlot, String)>,
    /// When it was last written.
    written: Timestamp,
    /// Whether the store lacks something that it has.
    is_unwritten: bool,
    /// Whether it is on the list of those that wait to be written.
    is_listed: bool,
}

impl<S: Slot> OwnSlot<S> {
    /// An empty one among those of all workers.
    #[must_use]
    pub fn new(all: Slots<S>) -> Self {
        let slot = S::empty(all.shape());
        OwnSlot { slot, all, name: None, written: Timestamp::ZERO, is_unwritten: false, is_listed: false }
    }

    /// What this worker has counted.
    #[must_use]
    pub fn slot(&self) -> &S {
        &self.slot
    }

    /// The same to count in, with its shape.
    pub fn counting(&mut self) -> (&mut S, &S::Shape) {
        (&mut self.slot, self.all.shape())
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> &S::Shape {
        self.all.shape()
    }

    /// Sees to it that the slot goes with the worker's place, taking over what a worker before it left there. Whether there is such a
    /// place.
    pub fn hold(&mut self, store: &mut dyn Store, worker: &mut Worker, now: Timestamp) -> bool {
        let Some(slot) = worker.slot(store, now) else { return false };
        if self.name.as_ref().is_none_or(|(held, _)| *held != slot) {
            let name = self.all.name(slot.number);
            // Also when the worker has lost its earlier place: what it counted there is still added up, by whoever holds it now.
            self.slot = self.all.read(store, &name).unwrap_or_else(|| S::empty(self.all.shape()));
            self.name = Some((slot, name));
        }
        true
    }

    /// Whether it was written a moment ago.
    #[must_use]
    pub fn was_written(&self, now: Timestamp) -> bool {
        // A moment in the future is from before the clock was put back.
        self.written <= now && now.since(self.written) < SLOTS_WAIT
    }

    /// Has it wait. Whether it is to be listed among those that wait.
    pub fn wait(&mut self) -> bool {
        self.is_unwritten = true;
        // It may still be listed from before something that was written at once.
        !core::mem::replace(&mut self.is_listed, true)
    }

    /// Writes it for the other workers.
    pub fn write(&mut self, store: &mut dyn Store, now: Timestamp) {
        let Some((_, name)) = &self.name else { return };
        self.all.write(store, name, &self.slot);
        self.written = now;
        self.is_unwritten = false;
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
    pub fn others(&self, store: &mut dyn Store, worker: &mut Worker, now: Timestamp, each: impl FnMut(S)) {
        let own = self.name.as_ref().map(|(slot, _)| slot.number);
        self.all.each(store, worker, now, own, each);
    }
}
