//! The throttle of one key as one worker sees it.

use holdfast_policy::document::Throttle;

use super::rejection::rejects;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::store::own_slot::OwnSlot;
use crate::store::window::Tally;
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;

/// One key's throttle.
#[derive(Debug, Default)]
pub struct ThrottleKey {
    /// What the other workers have counted, and when it was added up.
    others: Option<(Timestamp, Tally)>,
}

impl ThrottleKey {
    /// Whether a request is rejected now. The other workers' counts are looked at every 10 ms, and may have waited as long.
    pub fn rejects(&mut self, cx: &mut Cx<'_>, throttle: &Throttle, slot: &OwnSlot) -> bool {
        let now = cx.now;
        let is_fresh = self.others.is_some_and(|(at, _)| at <= now && now.since(at) < VIEW_LASTS_UNSIGNALLED);
        if !is_fresh {
            let mut sum = Tally::default();
            slot.others(cx.store, cx.worker, now, |slot, shape| sum.add_tally(slot.traffic_tally(shape, now)));
            self.others = Some((now, sum));
        }
        let mut tally = slot.slot().traffic_tally(slot.shape(), now);
        if let Some((_, others)) = self.others {
            tally.add_tally(others);
        }
        rejects(throttle, tally, cx.worker.random.next())
    }
}
