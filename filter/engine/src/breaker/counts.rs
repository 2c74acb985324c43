//! What one worker counts for one key's breaker, and what all workers together have counted.

use holdfast_policy::document::Breaker;

use super::relevance;
use super::slot::{BreakerSlot, Shape};
use super::thresholds::{self, Trip};
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::http::outcome::Outcome;
use crate::store::own_slot::OwnSlot;
use crate::store::slot::Slots;

/// A moment for as long as nothing leaves the window, and the breaker's generation.
type Sighting = (u32, u64);

/// One key's counts.
#[derive(Debug)]
pub struct BreakerCounts {
    slot: OwnSlot<BreakerSlot>,
    /// When all workers together were found to have enough outcomes.
    had_enough: Option<Sighting>,
    /// Slots of all workers, while they are added up; kept to reuse its memory.
    gathered: Vec<BreakerSlot>,
}

/// What recording an outcome has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// The threshold that was reached, if any.
    pub trip: Option<Trip>,
    /// Whether the slot waits to be written from now on.
    pub waits: bool,
}

impl BreakerCounts {
    /// Nothing was counted yet.
    #[must_use]
    pub fn new(slots: Slots<BreakerSlot>) -> Self {
        BreakerCounts { slot: OwnSlot::new(slots), had_enough: None, gathered: Vec::new() }
    }

    /// Records an outcome that counts for the breaker in this generation. `may_wait` says that something else will be written in a
    /// moment anyway.
    pub fn record(
        &mut self,
        cx: &mut Cx<'_>,
        breaker: &Breaker,
        generation: u32,
        outcome: &Outcome,
        may_wait: bool,
    ) -> Recorded {
        let now = cx.now;
        if !self.slot.hold(cx.store, cx.worker, now) {
            return Recorded::default();
        }
        let (slot, shape) = self.slot.counting();
        slot.enter(shape, generation);
        // A success can complete `min_requests`, over all workers, and open the breaker by nothing else that it does. Where this
        // worker alone has seen as many before, it cannot. Others are asked before it is written, and what it decides by is read
        // after: of several that come at once and complete it together, the last one to be written sees all.
        let low = Some(thresholds::low_volume(breaker)).filter(|least| slot.own_total(shape, now) < *least);
        let completes = !outcome.failed() && low.is_some_and(|least| !self.have_all(cx, generation, least));
        let (slot, shape) = self.slot.counting();
        slot.record(shape, outcome, now);
        let decides = outcome.failed() || completes || outcome.slow && relevance::watches_slow(breaker);
        if !decides && low.is_none() && shape.may_wait() && (may_wait || self.slot.was_written(now)) {
            return Recorded { trip: None, waits: self.slot.wait() };
        }
        self.slot.write(cx.store, now);
        let trip = if decides { self.decide(cx, breaker, generation, outcome, completes) } else { None };
        Recorded { trip, waits: false }
    }

    /// The threshold that was reached by an outcome that is counted, if any.
    fn decide(
        &mut self,
        cx: &mut Cx<'_>,
        breaker: &Breaker,
        generation: u32,
        outcome: &Outcome,
        completes: bool,
    ) -> Option<Trip> {
        let now = cx.now;
        self.gather(cx, generation);
        let (gathered, shape) = (&self.gathered, self.slot.shape());
        let tally = BreakerSlot::tally(gathered, shape, now);
        if outcome.failed() {
            thresholds::tripped(breaker, tally, BreakerSlot::run_length(gathered, now))
        } else if completes {
            thresholds::tripped(breaker, tally, 0)
        } else {
            thresholds::slow_tripped(breaker, tally)
        }
    }

    /// Whether all workers together have at least `least` outcomes in the window. Once they do, only time takes some away: the other
    /// slots are not read again before.
    fn have_all(&mut self, cx: &mut Cx<'_>, generation: u32, least: u32) -> bool {
        let sighting = (generation, self.slot.shape().moment(cx.now));
        if self.had_enough == Some(sighting) {
            return true;
        }
        self.gather(cx, generation);
        let has = BreakerSlot::tally(&self.gathered, self.slot.shape(), cx.now).total >= least;
        if has {
            self.had_enough = Some(sighting);
        }
        has
    }

    /// Collects this worker's slot and those of the others that count in the same generation.
    fn gather(&mut self, cx: &mut Cx<'_>, generation: u32) {
        let BreakerCounts { slot, gathered, .. } = self;
        gathered.clear();
        gathered.push(slot.slot().clone());
        slot.others(cx.store, cx.worker, cx.now, |other| {
            if other.generation == generation {
                gathered.push(other);
            }
        });
    }

    /// Writes what has waited.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        self.slot.flush(cx.store, cx.worker, cx.now);
    }
}

/// How many outcomes all workers together have of a key that this one may never have met.
pub fn outcomes(cx: &mut Cx<'_>, slots: &Slots<BreakerSlot>) -> u32 {
    let now: Timestamp = cx.now;
    slots.total(cx.store, cx.worker, now, |slot, shape: &Shape| slot.outcomes(shape, now))
}
