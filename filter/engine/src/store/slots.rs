//! The slots of all workers under one key.

use crate::base::time::Timestamp;
use crate::store::Store;
use crate::store::paths::Paths;
use crate::store::record::Record;
use crate::store::slot::{Shape, Slot};
use crate::store::worker::Worker;

/// Where they are.
#[derive(Debug)]
pub struct Slots {
    paths: Paths,
    fingerprint: u64,
    shape: Shape,
}

impl Slots {
    /// Those at these paths, with these windows. `fingerprint` is that of the key's records.
    pub fn new(paths: Paths, fingerprint: u64, shape: Shape) -> Self {
        Slots { paths, fingerprint, shape }
    }

    /// Which windows they have.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The name in the store of the slot with this number.
    pub fn name(&self, number: u16) -> String {
        self.paths.slot(number)
    }

    /// The slot of this name; `None` if nobody has written it.
    pub fn read(&self, store: &mut dyn Store, name: &str) -> Option<Slot> {
        store.get(name).and_then(|(bytes, _)| Slot::decode_shaped(&bytes, self.fingerprint, &self.shape))
    }

    /// Writes the slot of this name, which only its worker may.
    pub fn write(&self, store: &mut dyn Store, name: &str, slot: &Slot) {
        store.set(name, &slot.encode(self.fingerprint));
    }

    /// Reads the slots of all workers but the one that has the number `but`.
    pub fn each(
        &self,
        store: &mut dyn Store,
        worker: &mut Worker,
        now: Timestamp,
        but: Option<u16>,
        mut each: impl FnMut(Slot),
    ) {
        for number in (0..worker.slots(store, now)).filter(|number| Some(*number) != but) {
            if let Some(slot) = self.read(store, &self.name(number)) {
                each(slot);
            }
        }
    }

    /// The sum of `count` over all workers.
    pub fn total(
        &self,
        store: &mut dyn Store,
        worker: &mut Worker,
        now: Timestamp,
        count: impl Fn(&Slot, &Shape) -> u32,
    ) -> u32 {
        let mut total = 0_u32;
        self.each(store, worker, now, None, |slot| total = total.saturating_add(count(&slot, &self.shape)));
        total
    }
}
