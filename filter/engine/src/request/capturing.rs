//! A good answer on its way to the client, copied to be kept.

use std::rc::Rc;

use super::active::ActivePolicy;
use super::plugin::RequestPlugin;
use crate::fallback::Capture;
use crate::host::Host;
use crate::store::Store;
use crate::store::keys::Key;

/// An answer that is copied as it passes.
pub struct Capturing {
    pub(super) active: Rc<ActivePolicy>,
    pub(super) key: Key,
    pub(super) capture: Capture,
}

impl Capturing {
    /// A piece of the body has come, of `size` bytes. `None` where the answer will not be kept.
    pub(super) fn add(mut self, host: &dyn Host, size: usize) -> Option<Self> {
        if size == 0 {
            return Some(self);
        }
        let piece = host.response_body(size);
        (piece.len() == size && self.capture.add(&piece)).then_some(self)
    }

    /// The answer has come to its end: it is kept.
    pub(super) fn keep(self, plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host) {
        let Capturing { active, key, capture } = self;
        let (Some(answer), Ok(policy)) = (capture.end(), active.state.try_borrow()) else { return };
        policy.keep_answer(store, key, &answer, host.now());
        // For what was given up there.
        plugin.publish(&active, &policy, key, active.metrics.events());
    }
}
