//! The throttle of one key as one worker sees it.

use holdfast_policy::document::Throttle;

use super::rejection::rejects;
use crate::base::recent::Recent;
use crate::cx::Cx;
use crate::store::own_slot::OwnSlot;
use crate::store::window::Tally;
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;

/// One key's throttle.
#[derive(Debug, Default)]
pub struct ThrottleKey {
    /// What the other workers have counted.
    others: Recent<Tally>,
}

impl ThrottleKey {
    /// Whether a request is rejected now. The other workers' counts are looked at every 10 ms, and may have waited as long.
    pub fn rejects(&mut self, cx: &mut Cx<'_>, throttle: &Throttle, slot: &OwnSlot) -> bool {
        let now = cx.now;
        let shape = slot.shape();
        let others = self.others.get(now, VIEW_LASTS_UNSIGNALLED).unwrap_or_else(|| {
            let mut sum = Tally::default();
            slot.others(cx.store, cx.worker, now, |other| sum.add_tally(other.traffic_tally(shape, now)));
            self.others.set(now, sum)
        });
        let mut tally = slot.slot().traffic_tally(shape, now);
        tally.add_tally(others);
        rejects(throttle, tally, cx.worker.random.next())
    }
}
