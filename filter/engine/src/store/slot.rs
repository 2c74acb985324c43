//! A slot: what one worker has counted for one key. Only that worker writes it; every worker may add it up.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::http::outcome::Outcome;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::window::Deposits;
use crate::store::window::{CountWindow, FailureRun, Tally, TimeWindow, bucket_number};
use holdfast_policy::document::{Mode, Policy, Window};

/// One worker's counts for one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// The breaker's generation that `window` and `run` belong to. A slot of another generation counts for nothing, so
    /// outcomes from before a transition never judge the state after it.
    pub generation: u32,
    /// The breaker's window.
    pub window: Outcomes,
    /// The breaker's run of failures.
    pub run: Option<FailureRun>,
    /// The throttle's window; it knows no generations.
    pub traffic: Option<TimeWindow>,
    /// Requests, for the retry budget; it knows no generations either.
    pub deposits: Option<Deposits>,
}

/// A window of either kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Outcomes {
    /// The policy has no breaker.
    #[default]
    None,
    /// By time.
    Time(TimeWindow),
    /// By number.
    Count(CountWindow),
}

/// The parts that a slot of a policy has, and their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    window: Option<Window>,
    run: Option<u16>,
    traffic: Option<Duration>,
    deposits: Option<Duration>,
}

impl Shape {
    /// The shape of this policy's slots.
    pub fn of(policy: &Policy) -> Self {
        let breaker = policy.breaker.as_ref();
        Shape {
            window: breaker.map(|breaker| breaker.window),
            run: breaker.and_then(|breaker| breaker.consecutive_failures).map(|limit| limit.get()),
            traffic: policy.throttle.as_ref().map(|throttle| throttle.window),
            deposits: policy.retry.as_ref().filter(|retry| retry.mode != Mode::Off).map(|retry| retry.budget.window),
        }
    }

    /// Whether outcomes may wait a moment before they are written. A success ends a run of failures, and another worker may count
    /// that run at any time.
    pub fn may_wait(&self) -> bool {
        self.run.is_none()
    }

    /// Names the time for as long as nothing leaves the breaker's window.
    pub fn moment(&self, now: Timestamp) -> u64 {
        // A window by number loses nothing, but that the clock can be put back.
        const SECOND_IN_TENTHS: Duration = Duration::from_secs(10);
        match self.window {
            Some(Window::Time(length)) => bucket_number(now, length),
            Some(Window::Count(_)) | None => bucket_number(now, SECOND_IN_TENTHS),
        }
    }

    /// Whether requests are counted whatever their outcome.
    pub fn counts_requests(&self) -> bool {
        self.deposits.is_some()
    }
}

impl Slot {
    /// An empty slot of the given shape and generation.
    pub fn new(shape: &Shape, generation: u32) -> Self {
        Slot {
            generation,
            window: match shape.window {
                None => Outcomes::None,
                Some(Window::Time(_)) => Outcomes::Time(TimeWindow::default()),
                Some(Window::Count(_)) => Outcomes::Count(CountWindow::default()),
            },
            run: shape.run.map(|_| FailureRun::default()),
            traffic: shape.traffic.map(|_| TimeWindow::default()),
            deposits: shape.deposits.map(|_| Deposits::default()),
        }
    }

    /// Forgets what the breaker counted in an earlier generation; the throttle's and the budget's counts stay.
    pub fn start_generation(&mut self, shape: &Shape, generation: u32) {
        let (traffic, deposits) = (self.traffic.take(), self.deposits.take());
        *self = Slot { traffic, deposits, ..Slot::new(shape, generation) };
    }

    /// Records an outcome for the breaker.
    pub fn record(&mut self, shape: &Shape, outcome: &Outcome, now: Timestamp) {
        match (&mut self.window, shape.window) {
            (Outcomes::Time(window), Some(Window::Time(length))) => window.record(outcome, now, length),
            (Outcomes::Count(window), Some(Window::Count(length))) => window.record(outcome, now, length.get()),
            _ => {}
        }
        if let (Some(run), Some(limit)) = (&mut self.run, shape.run) {
            run.record(outcome, now, limit);
        }
    }

    /// Records an outcome for the throttle.
    pub fn record_traffic(&mut self, shape: &Shape, outcome: &Outcome, now: Timestamp) {
        if let (Some(traffic), Some(length)) = (&mut self.traffic, shape.traffic)
            && outcome.counts()
        {
            traffic.record(outcome, now, length);
        }
    }

    /// Counts a request for the retry budget.
    pub fn deposit(&mut self, shape: &Shape, now: Timestamp) {
        if let (Some(deposits), Some(length)) = (&mut self.deposits, shape.deposits)
            && let Some(bucket) = deposits.current(now, length)
        {
            *bucket = bucket.saturating_add(1);
        }
    }

    /// The requests in the retry budget's window of this slot.
    pub fn deposits_tally(&self, shape: &Shape, now: Timestamp) -> u32 {
        match (&self.deposits, shape.deposits) {
            (Some(deposits), Some(length)) => deposits.tally(now, length),
            _ => 0,
        }
    }

    /// How many outcomes this slot alone has in the breaker's window.
    pub fn own_total(&self, shape: &Shape, now: Timestamp) -> u32 {
        match (&self.window, shape.window) {
            (Outcomes::Time(window), Some(Window::Time(length))) => window.tally(now, length).total,
            (Outcomes::Count(window), _) => u32::try_from(window.len()).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// The breaker's window over all `slots`, which must be of one generation.
    pub fn tally(slots: &[Slot], shape: &Shape, now: Timestamp) -> Tally {
        match shape.window {
            Some(Window::Time(length)) => {
                let mut sum = Tally::default();
                for slot in slots {
                    if let Outcomes::Time(window) = &slot.window {
                        sum.add_tally(window.tally(now, length));
                    }
                }
                sum
            }
            Some(Window::Count(length)) => {
                let shares = slots.iter().filter_map(|slot| match &slot.window {
                    Outcomes::Count(window) => Some(window),
                    _ => None,
                });
                CountWindow::tally(shares, now, length.get())
            }
            None => Tally::default(),
        }
    }

    /// The run of failures over all `slots`, which must be of one generation.
    pub fn run_length(slots: &[Slot], now: Timestamp) -> u32 {
        FailureRun::length(slots.iter().filter_map(|slot| slot.run.as_ref()), now)
    }

    /// How much this slot has in any of its windows. A window by number has no age: of it the last minute counts.
    pub fn outcomes(&self, shape: &Shape, now: Timestamp) -> u32 {
        let deposits = self.deposits_tally(shape, now);
        let judged = match &self.window {
            Outcomes::Count(window) => window.since(now, Duration::from_secs(60)),
            Outcomes::Time(_) | Outcomes::None => self.own_total(shape, now),
        };
        judged.max(self.traffic_tally(shape, now).total).max(deposits)
    }

    /// What the throttle's window of this slot holds.
    pub fn traffic_tally(&self, shape: &Shape, now: Timestamp) -> Tally {
        match (&self.traffic, shape.traffic) {
            (Some(traffic), Some(length)) => traffic.tally(now, length),
            _ => Tally::default(),
        }
    }

    /// Reads a slot of the given shape.
    pub fn decode_shaped(bytes: &[u8], fingerprint: u64, shape: &Shape) -> Option<Self> {
        Slot::decode(bytes, fingerprint).filter(|slot| slot.has(shape))
    }

    fn has(&self, shape: &Shape) -> bool {
        let window = match (&self.window, shape.window) {
            (Outcomes::None, None) | (Outcomes::Time(_), Some(Window::Time(_))) => true,
            (Outcomes::Count(window), Some(Window::Count(length))) => window.len() <= usize::from(length.get()),
            _ => false,
        };
        window
            && self.run.is_some() == shape.run.is_some()
            && self.traffic.is_some() == shape.traffic.is_some()
            && self.deposits.is_some() == shape.deposits.is_some()
    }
}

/// The longest count window and run that a policy may ask for; longer ones in stored bytes are foreign.
const LONGEST: u16 = 1000;

impl Record for Slot {
    const KIND: Kind = Kind::Slot;

    fn size(&self) -> usize {
        const TIME_WINDOW: usize = TimeWindow::size(12);
        let window = match &self.window {
            Outcomes::None => 0,
            Outcomes::Time(_) => TIME_WINDOW,
            Outcomes::Count(window) => 2 + 8 * window.len(),
        };
        let deposits = if self.deposits.is_some() { Deposits::size(4) } else { 0 };
        // The rest: the generation, four marks, and a run of failures that is seldom long.
        window
            + if self.traffic.is_some() { TIME_WINDOW } else { 0 }
            + if self.run.is_some() { 64 } else { 0 }
            + deposits
            + 8
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.generation);
        match &self.window {
            Outcomes::None => out.u8(0),
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
        match &self.traffic {
            None => out.u8(0),
            Some(traffic) => {
                out.u8(1);
                traffic.write(out);
            }
        }
        match &self.deposits {
            None => out.u8(0),
            Some(deposits) => {
                out.u8(1);
                deposits.write(out);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let generation = input.u32()?;
        let window = match input.u8()? {
            0 => Outcomes::None,
            1 => Outcomes::Time(TimeWindow::read(input)?),
            2 => Outcomes::Count(CountWindow::read(input, LONGEST)?),
            _ => return None,
        };
        let run = match input.u8()? {
            0 => None,
            1 => Some(FailureRun::read(input, LONGEST)?),
            _ => return None,
        };
        let traffic = match input.u8()? {
            0 => None,
            1 => Some(TimeWindow::read(input)?),
            _ => return None,
        };
        let deposits = match input.u8()? {
            0 => None,
            1 => Some(Deposits::read(input)?),
            _ => return None,
        };
        Some(Slot { generation, window, run, traffic, deposits })
    }
}
