//! Where one cell is in the store: a record that every worker may change, by swap.

use crate::base::fingerprint;
use crate::store::record::{Mark, Record};
use crate::store::{NotUpdated, Store, Updated, update};

/// The name of a cell, and whose it is.
#[derive(Debug)]
pub struct Address {
    name: String,
    mark: Mark,
    is_superseded: bool,
    /// The same cell in the blocks that this one follows, the newest first, until it was looked whether there is anything to take over.
    before: Vec<Address>,
}

impl Address {
    /// The cell of this name, if its bytes have this mark.
    pub fn new(name: String, mark: Mark) -> Self {
        Address { name, mark, before: Vec::new(), is_superseded: false }
    }

    /// The same cell, where it follows these: those of the blocks that were there before, the newest first.
    #[must_use]
    pub fn after(self, before: Vec<Address>) -> Self {
        Address { before, ..self }
    }

    /// The cell's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names the cell and its occupant among all, but for chance.
    #[must_use]
    pub fn id(&self) -> u64 {
        fingerprint::of(&(&self.name, self.mark))
    }

    /// The cells that this one follows.
    #[must_use]
    pub fn before(&self) -> &[Address] {
        &self.before
    }

    /// Has the cell, where there is none yet, begin with what the first of those before it `gives`. Does nothing but for the first
    /// time. What was taken over, if anything was.
    pub fn take_over<R: Record + Clone>(
        &mut self,
        store: &mut dyn Store,
        give: impl FnOnce(&R) -> Option<R>,
    ) -> Option<R> {
        let before = core::mem::take(&mut self.before);
        if before.is_empty() || self.read::<R>(store).is_some() {
            return None;
        }
        let given = before.iter().find_map(|address| address.read(store)).and_then(|record| give(&record))?;
        // Somebody else's bytes, or an earlier occupant's, are written over; who was faster has taken over the same.
        let is_first = update(store, &self.name, self.mark, |old: Option<&R>| {
            (old.is_none(), old.is_none().then_some(given.clone()))
        });
        is_first.is_ok_and(|done| done.verdict).then_some(given)
    }

    /// Whether a change met the record of a later occupant of the same place: what this was for has no state there any more.
    pub fn is_superseded(&self) -> bool {
        self.is_superseded
    }

    /// The record as it is now; `None` if there is none.
    pub fn read<R: Record>(&self, store: &mut dyn Store) -> Option<R> {
        store.get(&self.name).and_then(|(bytes, _)| R::decode(&bytes, self.mark))
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
        let updated = update(store, &self.name, self.mark, step);
        self.is_superseded |= updated.as_ref().is_err_and(|error| *error == NotUpdated::Superseded);
        updated
    }
}
