//! What one worker has counted for one key's breaker.

use holdfast_policy::document::{Breaker, Window};

use crate::base::time::Timestamp;
use crate::http::outcome::Outcome;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::slot::Slot;
use crate::store::window::{CountWindow, FailureRun, Tally, TimeWindow, bucket_number};
use core::time::Duration;

/// One worker's counts for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerSlot {
    /// The breaker's generation that the rest belongs to. A slot of another generation counts for nothing, so outcomes from before a
    /// transition never judge the state after it.
    pub generation: u32,
    /// The window.
    pub window: Outcomes,
    /// The run of failures.
    pub run: Option<FailureRun>,
}

/// A window of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcomes {
    /// By time.
    Time(TimeWindow),
    /// By number.
    Count(CountWindow),
}

/// The parts of a slot, and their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    window: Window,
    run: Option<u16>,
}

impl Shape {
    /// That of a breaker's slots.
    #[must_use]
    pub fn of(breaker: &Breaker) -> Self {
        Shape { window: breaker.window, run: breaker.consecutive_failures.map(|limit| limit.get()) }
    }

    /// Whether outcomes may wait a moment before they are written. A success ends a run of failures, and another worker may count
    /// that run at any time.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.run.is_none()
    }

    /// Names the time for as long as nothing leaves the window.
    #[must_use]
    pub fn moment(&self, now: Timestamp) -> u64 {
        // A window by number loses nothing, but that the clock can be put back.
        const SECOND_IN_TENTHS: Duration = Duration::from_secs(10);
        match self.window {
            Window::Time(length) => bucket_number(now, length),
            Window::Count(_) => bucket_number(now, SECOND_IN_TENTHS),
        }
    }
}

impl BreakerSlot {
    /// Forgets what was counted in an earlier generation.
    pub fn enter(&mut self, shape: &Shape, generation: u32) {
        if self.generation != generation {
            *self = BreakerSlot { generation, ..BreakerSlot::empty(shape) };
        }
    }

    /// Records an outcome.
    pub fn record(&mut self, shape: &Shape, outcome: &Outcome, now: Timestamp) {
        match (&mut self.window, shape.window) {
            (Outcomes::Time(window), Window::Time(length)) => window.record(outcome, now, length),
            (Outcomes::Count(window), Window::Count(length)) => window.record(outcome, now, length.get()),
            _ => {}
        }
        if let (Some(run), Some(limit)) = (&mut self.run, shape.run) {
            run.record(outcome, now, limit);
        }
    }

    /// How many outcomes this slot alone has in the window.
    #[must_use]
    pub fn own_total(&self, shape: &Shape, now: Timestamp) -> u32 {
        match (&self.window, shape.window) {
            (Outcomes::Time(window), Window::Time(length)) => window.tally(now, length).total,
            (Outcomes::Count(window), _) => u32::try_from(window.len()).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// How much this slot has. A window by number has no age: of it the last minute counts.
    #[must_use]
    pub fn outcomes(&self, shape: &Shape, now: Timestamp) -> u32 {
        match &self.window {
            Outcomes::Count(window) => window.since(now, Duration::from_secs(60)),
            Outcomes::Time(_) => self.own_total(shape, now),
        }
    }

    /// The window over all `slots`, which must be of one generation.
    #[must_use]
    pub fn tally(slots: &[BreakerSlot], shape: &Shape, now: Timestamp) -> Tally {
        match shape.window {
            Window::Time(length) => {
                let mut sum = Tally::default();
                for slot in slots {
                    if let Outcomes::Time(window) = &slot.window {
                        sum.add_tally(window.tally(now, length));
                    }
                }
                sum
            }
            Window::Count(length) => {
                let shares = slots.iter().filter_map(|slot| match &slot.window {
                    Outcomes::Count(window) => Some(window),
                    Outcomes::Time(_) => None,
                });
                CountWindow::tally(shares, now, length.get())
            }
        }
    }

    /// The run of failures over all `slots`, which must be of one generation.
    #[must_use]
    pub fn run_length(slots: &[BreakerSlot], now: Timestamp) -> u32 {
        FailureRun::length(slots.iter().filter_map(|slot| slot.run.as_ref()), now)
    }
}

impl Slot for BreakerSlot {
    type Shape = Shape;

    fn empty(shape: &Shape) -> Self {
        BreakerSlot {
            generation: 0,
            window: match shape.window {
                Window::Time(_) => Outcomes::Time(TimeWindow::default()),
                Window::Count(_) => Outcomes::Count(CountWindow::default()),
            },
            run: shape.run.map(|_| FailureRun::default()),
        }
    }

    fn has(&self, shape: &Shape) -> bool {
        let window = match (&self.window, shape.window) {
            (Outcomes::Time(_), Window::Time(_)) => true,
            (Outcomes::Count(window), Window::Count(length)) => window.len() <= usize::from(length.get()),
            _ => false,
        };
        window && self.run.is_some() == shape.run.is_some()
    }
}

/// The longest count window and run that a policy may ask for; longer ones in stored bytes are foreign.
const LONGEST: u16 = 1000;

impl Record for BreakerSlot {
    const KIND: Kind = Kind::BreakerSlot;

    fn size(&self) -> usize {
        const TIME_WINDOW: usize = TimeWindow::size(12);
        let window = match &self.window {
            Outcomes::Time(_) => TIME_WINDOW,
            Outcomes::Count(window) => 2 + 8 * window.len(),
        };
        // The rest: the generation, two marks, and a run of failures that is seldom long.
        window + if self.run.is_some() { 64 } else { 0 } + 6
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.generation);
        match &self.window {
            Outcomes::Time(window) => {
                out.u8(1);
                window.write(out);
            }
            Outcomes::Count(window) => {
                out.u8(2);
                window.write(out);
            }
        }
        match &self.run {
            None => out.u8(0),
            Some(run) => {
                out.u8(1);
                run.write(out);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let generation = input.u32()?;
        let window = match input.u8()? {
            1 => Outcomes::Time(TimeWindow::read(input)?),
            2 => Outcomes::Count(CountWindow::read(input, LONGEST)?),
            _ => return None,
        };
        let run = if input.flag()? { Some(FailureRun::read(input, LONGEST)?) } else { None };
        Some(BreakerSlot { generation, window, run })
    }
}
