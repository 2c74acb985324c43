//! A breaker's state, shared by all workers: what passes, and each step to another state.
//!
//! All methods take the time and random numbers as arguments and change only `self`, so a swap that lost a race can be
//! computed again on the newer record.

use core::time::Duration;

use super::half_open::{HalfOpen, Lease};
use super::relevance;
use super::thresholds::{self, Trip};
use crate::base::random::scale;
use crate::base::time::{Timestamp, nanos};
use crate::http::outcome::Outcome;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::window::{Bucket, Tally};
use holdfast_policy::document::{Breaker, BreakerControl};

/// The breaker of one key.
///
/// ```
/// use holdfast_engine::base::time::Timestamp;
/// use holdfast_engine::breaker::{Admission, Cell, StateName, thresholds};
/// use holdfast_engine::store::window::Tally;
///
/// let document = br#"{"policies": [{"name": "orders", "breaker": {"failure_rate": 50, "open_for": "30s", "open_jitter": 0}}]}"#;
/// let policy = holdfast_policy::config::parse(document).unwrap().policies.remove(0);
/// let breaker = policy.breaker.unwrap();
/// let (mut cell, now) = (Cell::default(), Timestamp::from_secs(1_700_000_000));
///
/// let trip = thresholds::tripped(&breaker, Tally { total: 48, failures: 30, slow: 0 }, 0).unwrap();
/// cell.trip(&breaker, cell.generation, trip, None, now, 0);
/// assert_eq!(cell.name(), StateName::Open);
///
/// let later = Timestamp::from_secs(1_700_000_030);
/// let (admission, _) = cell.admit(&breaker, later, 0);
/// assert!(matches!(admission, Admission::Probe { .. }), "the open period is over");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Rises by one whenever a new set of outcomes begins to count; an outcome counts only in the generation in which its
    /// request was admitted.
    pub generation: u32,
    /// How often it has opened since it was last closed.
    pub opens: u16,
    /// Where it is.
    pub state: State,
}

/// Where a breaker is. `since` is when it got there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// All requests pass.
    Closed,
    /// All requests are rejected until `until`.
    Open {
        /// When it opened.
        since: Timestamp,
        /// When the first probe may pass.
        until: Timestamp,
    },
    /// A few requests pass and are judged.
    HalfOpen(HalfOpen),
    /// A rising share of requests passes.
    Ramping {
        /// When the share was 0 %.
        since: Timestamp,
    },
}

/// The state as a number and a word, in metrics and log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StateName {
    /// `closed`
    Closed = 0,
    /// `half_open`
    HalfOpen = 1,
    /// `open`
    Open = 2,
    /// `ramping`
    Ramping = 3,
    /// `forced_open`
    ForcedOpen = 4,
    /// `forced_closed`
    ForcedClosed = 5,
}

impl core::fmt::Display for StateName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            StateName::Closed => "closed",
            StateName::HalfOpen => "half-open",
            StateName::Open => "open",
            StateName::Ramping => "ramping",
            StateName::ForcedOpen => "forced open",
            StateName::ForcedClosed => "forced closed",
        })
    }
}

/// Whether a request may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It passes and its outcome counts in this generation.
    Pass {
        /// The generation it was admitted in.
        generation: u32,
    },
    /// It passes as a probe and must report or give back this lease.
    Probe {
        /// The generation it was admitted in.
        generation: u32,
        /// The permit's name.
        lease: u32,
    },
    /// It does not pass; a next one may after this time.
    Reject {
        /// Time until the next probe; zero where that depends on the probes in flight.
        retry_after: Duration,
    },
}

/// A change of state, with what caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: StateName,
    /// After.
    pub to: StateName,
    /// Why.
    pub cause: TransitionCause,
}

/// What caused a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransitionCause {
    /// A threshold was reached; the next probe passes after `open_for`.
    Tripped {
        /// Which one.
        trip: Trip,
        /// The open period, with jitter.
        open_for: Duration,
    },
    /// The open period of this length is over.
    PeriodOver(Duration),
    /// All probes were judged below every threshold.
    ProbesPassed(Tally),
    /// The ramp of this length is over.
    RampOver(Duration),
}

/// What a report of an outcome did to the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellChange {
    /// It belongs to an earlier generation: nothing changed.
    Stale,
    /// It was taken into account.
    HostCount,
    /// It was taken into account and caused this.
    Moved(Transition),
}

impl Default for Cell {
    fn default() -> Self {
        Cell { generation: 0, opens: 0, state: State::Closed }
    }
}

impl Cell {
    /// The state's name.
    pub fn name(&self) -> StateName {
        match self.state {
            State::Closed => StateName::Closed,
            State::Open { .. } => StateName::Open,
            State::HalfOpen(_) => StateName::HalfOpen,
            State::Ramping { .. } => StateName::Ramping,
        }
    }

    /// Whether everything passes.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What a changed block begins with, where this is the cell of the block before it: an open period goes on, at most until
    /// the longest one of the new block is over; half-open is judged afresh, and permits that are out stay out for their lease,
    /// at most the new one; a ramp goes on; so does the count of openings. `None`: it begins closed.
    ///
    /// The generation stays. No outcome of the old block is ever reported to this cell, for a request reports where it was
    /// admitted; and those that the new block admits before somebody has taken over belong to the first generation, in which no
    /// other state than closed ever is.
    #[must_use]
    pub fn taken_over(&self, breaker: &Breaker, now: Timestamp) -> Option<Cell> {
        let state = match &self.state {
            State::Closed => return None,
            State::Open { since, until } => {
                State::Open { since: *since, until: since.plus(thresholds::longest_open(breaker)).min(*until) }
            }
            State::HalfOpen(half_open) => State::HalfOpen(half_open.taken_over(breaker, now)),
            State::Ramping { since } => State::Ramping { since: *since },
        };
        // Of what somebody else wrote nothing is taken over that does not fit together.
        Some(Cell { generation: self.generation, opens: self.opens, state }).filter(Record::invariants)
    }

    /// What the cell has to be while the state is set by hand, so that what follows begins right: after `forced_open`
    /// half-open, as after an open period that is over; after `forced_closed` closed, with a fresh window. `None`: it is so
    /// already.
    #[must_use]
    pub fn forced(&self, control: BreakerControl, now: Timestamp) -> Option<Cell> {
        let next = self.generation.wrapping_add(1);
        match (control, &self.state) {
            (BreakerControl::Auto, _) => None,
            (BreakerControl::ForcedOpen, State::Open { since, until }) => {
                let state = State::Open { since: now.min(*since), until: now };
                (*until > now).then_some(Cell { state, ..*self })
            }
            (BreakerControl::ForcedOpen, _) => {
                Some(Cell { generation: next, opens: self.opens, state: State::Open { since: now, until: now } })
            }
            (BreakerControl::ForcedClosed, State::Closed) if self.opens == 0 => None,
            (BreakerControl::ForcedClosed, _) => Some(Cell { generation: next, opens: 0, state: State::Closed }),
        }
    }

    /// Time until the first probe may pass, while it is open.
    pub fn open_left(&self, breaker: &Breaker, now: Timestamp) -> Option<Duration> {
        match &self.state {
            State::Open { until, .. } => until.remaining(now, thresholds::longest_open(breaker)),
            _ => None,
        }
    }

    /// Decides without changing the cell, where that is possible; `None` means that [`Cell::admit`] has to.
    pub fn peek(&self, breaker: &Breaker, now: Timestamp, random: u64) -> Option<Admission> {
        match &self.state {
            State::Closed => Some(Admission::Pass { generation: self.generation }),
            State::Open { .. } => self.open_left(breaker, now).map(|left| Admission::Reject { retry_after: left }),
            State::HalfOpen(_) => None,
            State::Ramping { since } => {
                let passed = ramped(*since, now, breaker.ramp)?;
                // Uniform in [0, ramp): below the time passed with exactly the share's probability.
                let draw = scale(random, nanos(breaker.ramp));
                Some(if draw < nanos(passed) {
                    Admission::Pass { generation: self.generation }
                } else {
                    Admission::Reject { retry_after: Duration::ZERO }
                })
            }
        }
    }

    /// Decides and takes what the decision needs: a probe's permit, or the step to the next state.
    pub fn admit(&mut self, breaker: &Breaker, now: Timestamp, random: u64) -> (Admission, Option<Transition>) {
        let mut transition = None;
        match &self.state {
            State::Open { since, until } if self.open_left(breaker, now).is_none() => {
                transition =
                    Some(self.name().to(StateName::HalfOpen, TransitionCause::PeriodOver(until.since(*since))));
                self.generation = self.generation.wrapping_add(1);
                self.state = State::HalfOpen(HalfOpen::default());
            }
            State::Ramping { since } if ramped(*since, now, breaker.ramp).is_none() => {
                transition = Some(self.name().to(StateName::Closed, TransitionCause::RampOver(breaker.ramp)));
                self.opens = 0;
                self.state = State::Closed;
            }
            _ => {}
        }
        let generation = self.generation;
        if let State::HalfOpen(half_open) = &mut self.state {
            let admission = match half_open.take_permit(breaker, now) {
                Some(lease) => Admission::Probe { generation, lease },
                None => Admission::Reject { retry_after: Duration::ZERO },
            };
            return (admission, transition);
        }
        // Every other state is decided without a change.
        let admission = self.peek(breaker, now, random).unwrap_or(Admission::Reject { retry_after: Duration::ZERO });
        (admission, transition)
    }

    /// Takes a probe's outcome into account, also after its lease is over. An ignored one only gives its permit back.
    pub fn judge_probe(
        &mut self,
        breaker: &Breaker,
        generation: u32,
        lease: u32,
        outcome: &Outcome,
        now: Timestamp,
        random: u64,
    ) -> CellChange {
        if self.generation != generation {
            return CellChange::Stale;
        }
        let State::HalfOpen(half_open) = &mut self.state else { return CellChange::Stale };
        if !half_open.judge(breaker, lease, outcome) {
            return CellChange::Stale;
        }
        if !relevance::counts(breaker, outcome) {
            return CellChange::HostCount;
        }
        if let Some(trip) = thresholds::half_open_tripped(breaker, half_open) {
            return CellChange::Moved(self.open(breaker, trip, outcome.retry_after, now, random));
        }
        if half_open.judged.total < u32::from(breaker.probes.get()) {
            return CellChange::HostCount;
        }
        let cause = TransitionCause::ProbesPassed(half_open.judged);
        let from = self.name();
        self.generation = self.generation.wrapping_add(1);
        self.state = if breaker.ramp.is_zero() {
            self.opens = 0;
            State::Closed
        } else {
            State::Ramping { since: now }
        };
        CellChange::Moved(from.to(self.name(), cause))
    }

    /// Opens because of `trip`, which was seen in `generation`; nothing happens if the cell has moved on since.
    pub fn trip(
        &mut self,
        breaker: &Breaker,
        generation: u32,
        trip: Trip,
        retry_after: Option<Duration>,
        now: Timestamp,
        random: u64,
    ) -> CellChange {
        if self.generation != generation || !matches!(self.state, State::Closed | State::Ramping { .. }) {
            return CellChange::Stale;
        }
        CellChange::Moved(self.open(breaker, trip, retry_after, now, random))
    }

    fn open(
        &mut self,
        breaker: &Breaker,
        trip: Trip,
        retry_after: Option<Duration>,
        now: Timestamp,
        random: u64,
    ) -> Transition {
        let from = self.name();
        let mut open_for = thresholds::jittered(breaker, self.opens, random);
        if breaker.honor_retry_after {
            open_for = open_for.max(retry_after.unwrap_or_default().min(breaker.open_max));
        }
        self.generation = self.generation.wrapping_add(1);
        self.opens = self.opens.saturating_add(1);
        self.state = State::Open { since: now, until: now.plus(open_for) };
        from.to(StateName::Open, TransitionCause::Tripped { trip, open_for })
    }
}

/// How far a ramp that began at `since` has come; `None` when it is over, or when `since` cannot be right.
fn ramped(since: Timestamp, now: Timestamp, ramp: Duration) -> Option<Duration> {
    let passed = now.since(since);
    let ahead = since.since(now);
    (passed < ramp && ahead < ramp).then_some(passed)
}

impl StateName {
    fn to(self, to: StateName, cause: TransitionCause) -> Transition {
        Transition { from: self, to, cause }
    }
}

impl Transition {
    /// Whether somebody should look: the breaker opened.
    pub fn is_alarming(&self) -> bool {
        matches!(self.cause, TransitionCause::Tripped { .. })
    }
}

/// The most leases and probes that a policy may ask for; more in stored bytes are foreign.
const MOST_PROBES: u16 = 100;

impl Record for Cell {
    const KIND: Kind = Kind::Breaker;

    fn invariants(&self) -> bool {
        match &self.state {
            State::Closed | State::Ramping { .. } => true,
            State::Open { since, until } => since <= until,
            State::HalfOpen(half_open) => half_open.invariants(),
        }
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.generation);
        out.u16(self.opens);
        match &self.state {
            State::Closed => out.u8(StateName::Closed as u8),
            State::Open { since, until } => {
                out.u8(StateName::Open as u8);
                out.time(*since);
                out.time(*until);
            }
            State::HalfOpen(half_open) => {
                out.u8(StateName::HalfOpen as u8);
                half_open.judged.write(out);
                out.u16(half_open.run);
                out.u32(half_open.next);
                out.u16(half_open.leases.len().min(usize::from(MOST_PROBES)) as u16);
                for lease in half_open.leases.iter().take(usize::from(MOST_PROBES)) {
                    out.u32(lease.id);
                    out.time(lease.expires);
                }
            }
            State::Ramping { since } => {
                out.u8(StateName::Ramping as u8);
                out.time(*since);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let (generation, opens) = (input.u32()?, input.u16()?);
        let state = match input.u8()? {
            0 => State::Closed,
            2 => State::Open { since: input.time()?, until: input.time()? },
            1 => {
                let (judged, run, next) = (Tally::read(input)?, input.u16()?, input.u32()?);
                let len = input.u16()?;
                if len > MOST_PROBES {
                    return None;
                }
                let mut leases = Vec::with_capacity(usize::from(len));
                for _ in 0..len {
                    leases.push(Lease { id: input.u32()?, expires: input.time()? });
                }
                State::HalfOpen(HalfOpen { judged, run, next, leases })
            }
            3 => State::Ramping { since: input.time()? },
            _ => return None,
        };
        Some(Cell { generation, opens, state })
    }
}

#[cfg(test)]
mod tests;
