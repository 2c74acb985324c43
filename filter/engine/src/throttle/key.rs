//! The throttle of one key as one worker sees it.

use core::time::Duration;

use holdfast_policy::document::Throttle;

use super::rejection::rejects;
use super::slot::TrafficSlot;
use crate::base::recent::Recent;
use crate::cx::Cx;
use crate::http::outcome::Outcome;
use crate::store::own_slot::OwnSlot;
use crate::store::slot::Slots;
use crate::store::window::Tally;
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;

/// One key's throttle.
#[derive(Debug)]
pub struct ThrottleKey {
    slot: OwnSlot<TrafficSlot>,
    /// What the other workers have counted.
    others: Recent<Tally>,
}

impl ThrottleKey {
    /// A throttle that this worker knows nothing about yet.
    #[must_use]
    pub fn new(slots: Slots<TrafficSlot>) -> Self {
        ThrottleKey { slot: OwnSlot::new(slots), others: Recent::default() }
    }

    /// Whether a request is rejected now. The other workers' counts are looked at every 10 ms, and may have waited as long.
    pub fn rejects(&mut self, cx: &mut Cx<'_>, throttle: &Throttle) -> bool {
        let (now, slot) = (cx.now, &self.slot);
        let others = self.others.get(now, VIEW_LASTS_UNSIGNALLED).unwrap_or_else(|| {
            let mut sum = Tally::default();
            slot.others(cx.store, cx.worker, now, |other| sum.add_tally(other.tally(slot.shape(), now)));
            self.others.set(now, sum)
        });
        let mut tally = slot.slot().tally(slot.shape(), now);
        tally.add_tally(others);
        rejects(throttle, tally, cx.worker.random.next())
    }

    /// Records an outcome; a success waits to be written if `may_wait` says that something else will be in a moment, or if the slot was
    /// a moment ago. Whether the slot waits from now on.
    pub fn record(&mut self, cx: &mut Cx<'_>, outcome: &Outcome, may_wait: bool) -> bool {
        let now = cx.now;
        if !self.slot.hold(cx.store, cx.worker, now) {
            return false;
        }
        let (slot, window) = self.slot.counting();
        slot.0.record(outcome, now, *window);
        if !outcome.failed() && (may_wait || self.slot.was_written(now)) {
            return self.slot.wait();
        }
        self.slot.write(cx.store, now);
        false
    }

    /// Writes what has waited.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        self.slot.flush(cx.store, cx.worker, cx.now);
    }
}

/// How many outcomes all workers together have of a key that this one may never have met.
pub fn outcomes(cx: &mut Cx<'_>, slots: &Slots<TrafficSlot>) -> u32 {
    let now = cx.now;
    slots.total(cx.store, cx.worker, now, |slot, window: &Duration| slot.tally(window, now).total)
}
