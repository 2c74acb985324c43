//! Slots: what one worker has counted for one key of a block. Only that worker writes it; every worker may add it up.

use core::fmt::Debug;
use core::marker::PhantomData;

use crate::base::time::Timestamp;
use crate::store::Store;
use crate::store::record::{Mark, Record};
use crate::store::worker::Worker;

/// One worker's counts.
pub trait Slot: Record + Clone + Debug {
    /// Its parts and their sizes, as the policy has them.
    type Shape: Copy + Debug;

    /// An empty one.
    fn empty(shape: &Self::Shape) -> Self;

    /// Whether it has this shape: bytes that somebody else wrote may not.
    fn has(&self, shape: &Self::Shape) -> bool;
}

/// The slots of all workers under one key.
#[derive(Debug)]
pub struct Slots<S: Slot> {
    /// The common beginning of their names.
    path: String,
    mark: Mark,
    shape: S::Shape,
    slot: PhantomData<S>,
}

impl<S: Slot> Slots<S> {
    /// Those whose names begin like this. `mark` is that of the key's records.
    #[must_use]
    pub fn new(path: String, mark: Mark, shape: S::Shape) -> Self {
        Slots { path, mark, shape, slot: PhantomData }
    }

    /// The shape that they have.
    #[must_use]
    pub fn shape(&self) -> &S::Shape {
        &self.shape
    }

    /// The name in the store of the slot with this number.
    #[must_use]
    pub fn name(&self, number: u16) -> String {
        format!("{}{number}", self.path)
    }

    /// The slot of this name; `None` if nobody has written it.
    pub fn read(&self, store: &mut dyn Store, name: &str) -> Option<S> {
        let (bytes, _) = store.get(name)?;
        S::decode(&bytes, self.mark).filter(|slot| slot.has(&self.shape))
    }

    /// Writes the slot of this name, which only its worker may.
    pub fn write(&self, store: &mut dyn Store, name: &str, slot: &S) {
        store.set(name, &slot.encode(self.mark));
    }

    /// Reads the slots of all workers but the one that has the number `but`.
    pub fn each(
        &self,
        store: &mut dyn Store,
        worker: &mut Worker,
        now: Timestamp,
        but: Option<u16>,
        mut each: impl FnMut(S),
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
        count: impl Fn(&S, &S::Shape) -> u32,
    ) -> u32 {
        let mut total = 0_u32;
        self.each(store, worker, now, None, |slot| total = total.saturating_add(count(&slot, &self.shape)));
        total
    }
}
