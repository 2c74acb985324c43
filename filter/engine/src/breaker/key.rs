//! The breaker of one key as one worker sees it.
//!
//! While it is closed a request reads nothing shared: the view that was read last holds until the change signal moves, and for a
//! second at most.

use core::time::Duration;

use holdfast_policy::document::{Breaker, BreakerControl, Mode};

use super::cell::{Admission, Cell, CellChange, StateName, Transition, TransitionCause};
use super::thresholds::Trip;
use super::words;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::http::outcome::Outcome;
use crate::metric::Metric;
use crate::store::address::Address;
use crate::store::worker::{Seen, VIEW_LASTS};
use crate::store::{NotUpdated, Store};

/// How the breaker let a request pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It was not asked, or would have refused.
    None,
    /// It was closed, or ramping: the outcome counts in this generation.
    Pass {
        /// The generation.
        generation: u32,
    },
    /// It is one of half-open's probes.
    Probe {
        /// The generation.
        generation: u32,
        /// The name of the permit.
        lease: u32,
    },
    /// It is a stream that has been a successful probe and goes on: its outcome counts in the state in which it ends.
    Running,
}

/// A worker's copy of the cell.
#[derive(Debug)]
struct View {
    cell: Cell,
    seen: Seen,
}

/// One key's breaker.
#[derive(Debug)]
pub struct BreakerKey {
    cell: Address,
    view: Option<View>,
    /// When an event last reported a forced state.
    last_reported: Option<Timestamp>,
    /// Counts the changes of the state that this worker has seen.
    changes: u32,
}

impl BreakerKey {
    /// A breaker that this worker knows nothing about yet.
    pub fn new(cell: Address) -> Self {
        BreakerKey { cell, view: None, last_reported: None, changes: 0 }
    }

    /// Whether the key has lost its place in the store.
    pub fn is_superseded(&self) -> bool {
        self.cell.is_superseded()
    }

    /// Whether the key must keep its place, as far as this worker knows: the breaker is not closed.
    pub fn is_kept(&self) -> bool {
        self.view.as_ref().is_some_and(|view| !view.cell.is_closed())
    }

    /// The generation in which outcomes count now, as far as this worker knows.
    pub fn generation(&self) -> u32 {
        self.view.as_ref().map_or(0, |view| view.cell.generation)
    }

    /// Admits a request without looking at the clock, where the view of a closed breaker holds. `recently` is a time that was now
    /// a moment ago. `None` says that [`BreakerKey::admit`] has to decide.
    pub fn admit_recently(&self, store: &mut dyn Store, breaker: &Breaker, recently: Timestamp) -> Option<Permit> {
        let view = self.view.as_ref()?;
        if !self.cell.before().is_empty() {
            return None;
        }
        // Without a change signal views are too short-lived for a clock that is not looked at.
        let epoch = Some(store.epoch()?);
        if breaker.state != BreakerControl::Auto || !view.cell.is_closed() || !view.seen.holds(epoch, recently) {
            return None;
        }
        Some(Permit::Pass { generation: view.cell.generation })
    }

    /// Asks the breaker whether a request may pass.
    ///
    /// # Errors
    /// The time until it is worth asking again, zero where nobody can say.
    pub fn admit(&mut self, cx: &mut Cx<'_>, breaker: &Breaker) -> Result<Permit, Duration> {
        if let Some(state) = forced(breaker) {
            self.report_forced(cx, breaker, state);
            return if state == StateName::ForcedOpen { Err(Duration::ZERO) } else { Ok(Permit::None) };
        }
        self.take_over(cx, breaker);
        let epoch = cx.store.epoch();
        self.look_again(cx);
        let random = cx.worker.random.next();
        match self.view.as_ref().and_then(|view| view.cell.peek(breaker, cx.now, random)) {
            Some(admission) => admission.into(),
            None => self.take_step(cx, breaker, random, epoch),
        }
    }

    /// Has the cell begin with what is true out there, where the block follows others. Does nothing but for the first time.
    fn take_over(&mut self, cx: &mut Cx<'_>, breaker: &Breaker) {
        if self.cell.before().is_empty() {
            return;
        }
        let now = cx.now;
        let Some(taken) = self.cell.take_over(cx.store, |cell: &Cell| cell.taken_over(breaker, now)) else {
            // It begins closed, once for all workers: what the block before it does from now on is not taken over by the next
            // one.
            let _ = self.cell.update(cx.store, |old: Option<&Cell>| ((), old.is_none().then(Cell::default)));
            return;
        };
        cx.store.raise_epoch();
        if breaker.state == BreakerControl::Auto {
            cx.events.push(words::taken_over(breaker, &taken, now));
        }
    }

    /// Tells the state that was set by hand, once a second, and sees to it that the cell is such as what follows is to begin
    /// with.
    fn report_forced(&mut self, cx: &mut Cx<'_>, breaker: &Breaker, state: StateName) {
        let now = cx.now;
        if self.last_reported.is_some_and(|reported| now.apart(reported) < VIEW_LASTS) {
            return;
        }
        if self.last_reported.replace(now).is_none() {
            self.changes = self.changes.wrapping_add(1);
        }
        cx.events.push(Event::Gauge(Metric::BreakerState, state as u64));
        self.take_over(cx, breaker);
        let _ = self.cell.update(cx.store, |old: Option<&Cell>| {
            let forced = match old {
                Some(cell) => cell.forced(breaker.state, now),
                None => Cell::default().forced(breaker.state, now),
            };
            ((), forced)
        });
    }

    /// Takes a permit, or a step to the next state.
    fn take_step(
        &mut self,
        cx: &mut Cx<'_>,
        breaker: &Breaker,
        random: u64,
        epoch: Option<u64>,
    ) -> Result<Permit, Duration> {
        let now = cx.now;
        let updated = self.cell.update(cx.store, |old: Option<&Cell>| {
            let old = old.cloned().unwrap_or_default();
            let mut cell = old.clone();
            let verdict = cell.admit(breaker, now, random);
            (verdict, (cell != old).then_some(cell))
        });
        let updated = match updated {
            Ok(updated) => updated,
            // Without a permit nothing passes: never one probe more.
            Err(NotUpdated::Contended) => return Err(Duration::ZERO),
            // A key that was worth nothing has lost its place; the next request gives it another one.
            Err(NotUpdated::Superseded) => return Ok(Permit::None),
        };
        let (admission, transition) = updated.verdict;
        publish(cx, breaker, transition.filter(|_| updated.written));
        // The epoch from before the swap: whatever others changed since then makes this view look old, never new.
        self.refresh(cx, updated.record.unwrap_or_default(), epoch);
        admission.into()
    }

    /// Brings this worker's view up to date, where no request has for a while.
    pub fn look(&mut self, cx: &mut Cx<'_>, breaker: &Breaker) {
        match forced(breaker) {
            Some(state) => self.report_forced(cx, breaker, state),
            None => {
                self.take_over(cx, breaker);
                self.look_again(cx);
            }
        }
    }

    /// Whether every request may pass, as it stands now.
    pub fn lets_all_in(&mut self, cx: &mut Cx<'_>, breaker: &Breaker) -> bool {
        if let Some(state) = forced(breaker) {
            return state == StateName::ForcedClosed;
        }
        self.look(cx, breaker);
        !self.is_kept()
    }

    fn look_again(&mut self, cx: &mut Cx<'_>) {
        let epoch = cx.store.epoch();
        if !self.view.as_ref().is_some_and(|view| view.seen.holds(epoch, cx.now)) {
            let cell = self.cell.read(cx.store).unwrap_or_default();
            self.refresh(cx, cell, epoch);
        }
    }

    /// Takes a probe's outcome into account. An ignored one only gives its permit back.
    pub fn judge_probe(&mut self, cx: &mut Cx<'_>, breaker: &Breaker, generation: u32, lease: u32, outcome: &Outcome) {
        let (now, random) = (cx.now, cx.worker.random.next());
        self.change(cx, breaker, &mut |cell| cell.judge_probe(breaker, generation, lease, outcome, now, random));
    }

    /// Opens because of `trip`.
    pub fn trip(&mut self, cx: &mut Cx<'_>, breaker: &Breaker, trip: Trip, retry_after: Option<Duration>) {
        let (now, generation, random) = (cx.now, self.generation(), cx.worker.random.next());
        self.change(cx, breaker, &mut |cell| cell.trip(breaker, generation, trip, retry_after, now, random));
    }

    /// Changes the cell by `step`, which is repeated on a newer record when another worker was faster.
    fn change(&mut self, cx: &mut Cx<'_>, breaker: &Breaker, step: &mut dyn FnMut(&mut Cell) -> CellChange) {
        self.take_over(cx, breaker);
        let epoch = cx.store.epoch();
        let updated = self.cell.update(cx.store, |old: Option<&Cell>| {
            let mut cell = old.cloned().unwrap_or_default();
            let judged = step(&mut cell);
            (judged, (judged != CellChange::Stale).then_some(cell))
        });
        let Ok(updated) = updated else { return };
        let transition = match updated.verdict {
            CellChange::Moved(transition) => Some(transition),
            CellChange::Stale | CellChange::HostCount => None,
        };
        publish(cx, breaker, transition.filter(|_| updated.written));
        self.refresh(cx, updated.record.unwrap_or_default(), epoch);
    }

    /// How often the state has changed, as far as this worker knows: what was told before the last time is not so any more.
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Brings this worker's view up to date as [`BreakerKey::look`] does, and says what it shows even if it was so already: who was
    /// told may have been another document.
    pub fn tell(&mut self, cx: &mut Cx<'_>, breaker: &Breaker) {
        self.look(cx, breaker);
        let state = forced(breaker).unwrap_or_else(|| self.seen());
        cx.events.push(Event::Gauge(Metric::BreakerState, state as u64));
    }

    /// The state that the view shows.
    fn seen(&self) -> StateName {
        self.view.as_ref().map_or(StateName::Closed, |view| view.cell.name())
    }

    /// Takes over what the cell now is.
    fn refresh(&mut self, cx: &mut Cx<'_>, cell: Cell, epoch: Option<u64>) {
        cx.events.push(Event::Gauge(Metric::BreakerState, cell.name() as u64));
        if cell.name() != self.seen() {
            self.changes = self.changes.wrapping_add(1);
        }
        self.view = Some(View { cell, seen: Seen { epoch, at: cx.now } });
    }
}

/// The state that was set by hand, if one was.
fn forced(breaker: &Breaker) -> Option<StateName> {
    match breaker.state {
        BreakerControl::Auto => None,
        BreakerControl::ForcedOpen => Some(StateName::ForcedOpen),
        BreakerControl::ForcedClosed => Some(StateName::ForcedClosed),
    }
}

/// Whether the breaker of a key that this worker may never have met is not closed. One that is forced open is so for every key,
/// and none must keep its place for that.
pub fn is_kept(store: &mut dyn Store, breaker: &Breaker, cell: &Address) -> bool {
    breaker.state == BreakerControl::Auto && cell.read::<Cell>(store).is_some_and(|cell| !cell.is_closed())
}

/// Whether the breaker of a key lets attempts pass that are no probes: it is closed or ramping, or does not act.
pub fn lets_retry(store: &mut dyn Store, breaker: Option<&Breaker>, cell: &Address) -> bool {
    let acts = |breaker: &&Breaker| breaker.mode == Mode::Enforce && breaker.state == BreakerControl::Auto;
    if breaker.filter(acts).is_none() {
        return true;
    }
    let state = cell.read::<Cell>(store).unwrap_or_default().name();
    matches!(state, StateName::Closed | StateName::Ramping)
}

impl From<Admission> for Result<Permit, Duration> {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Pass { generation } => Ok(Permit::Pass { generation }),
            Admission::Probe { generation, lease } => Ok(Permit::Probe { generation, lease }),
            Admission::Reject { retry_after } => Err(retry_after),
        }
    }
}

/// Tells the other workers and the operator of a transition that this worker made.
fn publish(cx: &mut Cx<'_>, breaker: &Breaker, transition: Option<Transition>) {
    let Some(transition) = transition else { return };
    cx.store.raise_epoch();
    if let TransitionCause::Tripped { trip, .. } = transition.cause {
        cx.events.push(Event::Count(words::opened(trip)));
    }
    cx.events.push(words::line(breaker, &transition));
}

#[cfg(test)]
mod tests;
