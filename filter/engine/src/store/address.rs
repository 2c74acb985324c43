//! Where one cell is in the store: a record that every worker may change, by swap.

use crate::store::record::Record;
use crate::store::{NotUpdated, Store, Updated, update};

/// The name of a cell, and whose it is.
#[derive(Debug)]
pub struct Address {
    name: String,
    fingerprint: u64,
    is_superseded: bool,
}

impl Address {
    /// The cell of this name, if its bytes have this fingerprint.
    pub fn new(name: String, fingerprint: u64) -> Self {
        Address { name, fingerprint, is_superseded: false }
    }

    /// Whether a change met the record of a later occupant of the same place: what this was for has no state there any more.
    pub fn is_superseded(&self) -> bool {
        self.is_superseded
    }

    /// The record as it is now; `None` if there is none.
    pub fn read<R: Record>(&self, store: &mut dyn Store) -> Option<R> {
        store.get(&self.name).and_then(|(bytes, _)| R::decode(&bytes, self.fingerprint))
    }

    /// Changes the record by [`update`].
    ///
    /// # Errors
    /// Those of [`update`].
    pub fn update<R: Record + Clone, V>(
        &mut self,
        store: &mut dyn Store,
        step: impl FnMut(Option<&R>) -> (V, Option<R>),
    ) -> Result<Updated<V, R>, NotUpdated> {
        let updated = update(store, &self.name, self.fingerprint, step);
        self.is_superseded |= updated.as_ref().is_err_and(|error| *error == NotUpdated::Superseded);
        updated
    }
}
