//! The place of one key in one block.

use crate::store::address::Address;
use crate::store::block::BlockKind;
use crate::store::directory::Occupant;
use crate::store::paths;
use crate::store::record::Mark;
use crate::store::slot::{Slot, Slots};

/// Where the records of a key in a block are.
#[derive(Debug)]
pub struct Place {
    path: String,
    mark: Mark,
}

impl Place {
    /// The place of a key in the block of this kind that has that place.
    #[must_use]
    pub fn new(kind: BlockKind, block: Occupant, key: Occupant) -> Self {
        let path = format!("{}/{}", paths::of_block(kind, block.index), key.index);
        Place { path, mark: Mark { block: block.tenancy, key: key.tenancy } }
    }

    /// The cell.
    #[must_use]
    pub fn cell(&self) -> Address {
        Address::new(self.path.clone(), self.mark)
    }

    /// The mark of its records.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The name of one of the key's numbered records.
    #[must_use]
    pub fn item(&self, number: u16) -> String {
        format!("{}/item/{number}", self.path)
    }

    /// The slots of all workers, of this shape.
    #[must_use]
    pub fn slots<S: Slot>(&self, shape: S::Shape) -> Slots<S> {
        Slots::new(format!("{}/slot/", self.path), self.mark, shape)
    }
}
