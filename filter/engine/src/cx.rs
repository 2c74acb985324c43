//! What every decision needs of the callback that asks for it.

use crate::base::time::Timestamp;
use crate::event::Event;
use crate::store::Store;
use crate::store::worker::Worker;

/// The context of one callback: made once for it, and passed down.
pub struct Cx<'a> {
    /// What all workers share.
    pub store: &'a mut dyn Store,
    /// The worker that this is.
    pub worker: &'a mut Worker,
    /// The time of the callback.
    pub now: Timestamp,
    /// What the operator is to know of one key, in its order.
    pub events: &'a mut Vec<Event>,
}

impl<'a> Cx<'a> {
    /// The context of a callback at `now`.
    pub fn new(store: &'a mut dyn Store, worker: &'a mut Worker, now: Timestamp, events: &'a mut Vec<Event>) -> Self {
        Cx { store, worker, now, events }
    }

    /// The same callback, for another key: what there is to know of that one goes to `events`.
    pub fn with_events<'b>(&'b mut self, events: &'b mut Vec<Event>) -> Cx<'b> {
        Cx { store: self.store, worker: self.worker, now: self.now, events }
    }
}
