//! What the attempt seats of one VM share: the policies, and the tries that wait.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::attempt::{Attempts, BeforeRetry};
use holdfast_engine::base::time::{Timestamp, millis};
use holdfast_engine::http::attempt::{End, Try};
use holdfast_engine::http::outcome::Verdict;
use holdfast_engine::http::response::NOT_RETRIED;
use holdfast_engine::outlier::heartbeat;
use holdfast_engine::retry::Denial;
use holdfast_engine::seats::retry_context::Exchange;

use crate::attempt_seat::Attempt;
use crate::host;
use crate::shared::SharedData;
use crate::vm::Vm;

/// How often a hedge that may not be sent looks whether it is the last try left.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How many requests are remembered whose first try passed without a record. A route that retries it all the same does so
/// within its back-off.
const PASSED: usize = 1024;

/// What was counted of hosts is to be written within this at most.
const FLUSHES_WITHIN: Duration = Duration::from_secs(1);

/// A first try that passed without a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Passed {
    seed: u64,
    /// The status of its response.
    status: u16,
    /// Whether it was marked as not to be retried.
    pub is_marked: bool,
}

impl Passed {
    /// The try, as far as it is remembered.
    pub fn as_try(&self, now: Timestamp) -> Try {
        let (end, verdict) = (End::Http(self.status), Verdict::Success);
        Try { host: Vec::new(), end, verdict, took: Duration::ZERO, ended: now }
    }
}

/// The plugin in the attempt seat.
pub struct AttemptPlugin {
    /// The VM that this runs in.
    pub vm: Rc<Vm>,
    /// The store that all seats share.
    pub shared: SharedData,
    waiting: RefCell<Vec<Waiter>>,
    /// Tries in flight of requests whose tries may run beside each other, by the request's seed.
    beside: RefCell<HashMap<u64, Beside>>,
    /// By the request's seed.
    passed: RefCell<Vec<Passed>>,
    /// The tick that was asked for, in milliseconds; 0 for none.
    tick: Cell<u32>,
    /// When that tick comes.
    ticks_at: Cell<Timestamp>,
    /// When what was counted of hosts is to be written, if there is anything.
    flush_due: Cell<Option<Timestamp>>,
}

/// A paused try.
struct Waiter {
    context: u32,
    due: Timestamp,
    /// How long it was to wait when it began: a time further off shows that the clock was put back.
    at_most: Duration,
    what: Waits,
}

/// What is paused.
pub enum Waits {
    /// A try, until its back-off is over.
    Try(Rc<RefCell<Attempt>>),
    /// A hedge that may not be sent, until it is the last try left.
    Hedge(Rc<RefCell<Attempt>>),
    /// A check of ours that would reach another host, until the call that sent it is over.
    GoesBack,
}

/// Tries of one request beside each other.
#[derive(Debug, Clone, Copy, Default)]
struct Beside {
    /// All that have begun and not ended.
    tries: u32,
    /// Those of them that were sent or will be.
    live: u32,
    is_answered: bool,
    /// One of them has replied in place of all; a second reply would crash Envoy.
    has_replied: bool,
}

impl AttemptPlugin {
    /// The plugin.
    pub fn new() -> Self {
        AttemptPlugin {
            vm: Vm::current(),
            shared: SharedData::open(),
            waiting: RefCell::default(),
            beside: RefCell::default(),
            passed: RefCell::new(vec![Passed::default(); PASSED]),
            tick: Cell::new(0),
            ticks_at: Cell::new(Timestamp::ZERO),
            flush_due: Cell::new(None),
        }
    }

    /// The policy of an exchange; `None` if the request seat's VM has not published it.
    pub fn policy(&self, exchange: &Exchange) -> Option<Rc<RefCell<Attempts>>> {
        self.vm.attempts(exchange, self.shared)
    }

    /// Sees to it that what was counted of hosts is written by then.
    pub fn flush_by(&self, due: Timestamp, now: Timestamp) {
        self.flush_due.set(Some(self.flush_due.get().map_or(due, |other| other.min(due))));
        self.tick_by(due, now);
    }

    /// Has a paused context woken at `due`.
    pub fn wait(&self, context: u32, due: Timestamp, what: Waits, now: Timestamp) {
        if let Ok(mut waiting) = self.waiting.try_borrow_mut() {
            waiting.push(Waiter { context, due, at_most: due.since(now), what });
        }
        self.tick_by(due, now);
    }

    /// Asks for a tick by then. The one that has been asked for may be early enough.
    fn tick_by(&self, due: Timestamp, now: Timestamp) {
        if self.tick.get() == 0 || due < self.ticks_at.get() || self.ticks_at.get() <= now {
            self.arm(now);
        }
    }

    /// Forgets a context that is gone.
    pub fn forget(&self, context: u32) {
        if let Ok(mut waiting) = self.waiting.try_borrow_mut() {
            waiting.retain(|waiter| waiter.context != context);
        }
    }

    /// Counts a try of a request whose tries may run beside each other.
    pub fn begin_beside(&self, seed: u64) {
        if let Ok(mut beside) = self.beside.try_borrow_mut() {
            let own = beside.entry(seed).or_default();
            own.tries = own.tries.saturating_add(1);
        }
    }

    /// Counts such a try as one that was sent or will be; `false` if it cannot be counted.
    pub fn live_beside(&self, seed: u64) -> bool {
        self.change_live(seed, |live| live.saturating_add(1))
    }

    fn change_live(&self, seed: u64, change: impl FnOnce(u32) -> u32) -> bool {
        let Ok(mut beside) = self.beside.try_borrow_mut() else { return false };
        let Some(own) = beside.get_mut(&seed) else { return false };
        own.live = change(own.live);
        true
    }

    /// Notes that a try of the request has its answer: the router ends the others.
    pub fn answer_beside(&self, seed: u64) {
        if let Ok(mut beside) = self.beside.try_borrow_mut()
            && let Some(own) = beside.get_mut(&seed)
        {
            own.is_answered = true;
        }
    }

    /// Takes a try back that [`AttemptPlugin::begin_beside`] counted. Whether another one has the answer.
    pub fn end_beside(&self, seed: u64, was_live: bool) -> bool {
        let Ok(mut beside) = self.beside.try_borrow_mut() else { return false };
        let Some(own) = beside.get_mut(&seed) else { return false };
        own.tries = own.tries.saturating_sub(1);
        own.live = own.live.saturating_sub(was_live.into());
        let is_answered = own.is_answered;
        if own.tries == 0 {
            beside.remove(&seed);
        }
        is_answered
    }

    /// Whether a reply may take the place of this request's tries: none has yet. A request whose tries do not run beside each
    /// other has only one.
    pub fn may_reply(&self, seed: u64) -> bool {
        let Ok(mut beside) = self.beside.try_borrow_mut() else { return true };
        beside.get_mut(&seed).is_none_or(|own| !std::mem::replace(&mut own.has_replied, true))
    }

    /// How many tries of the request were sent, or will be, and have not ended.
    pub fn live(&self, seed: u64) -> u32 {
        self.beside.try_borrow().ok().and_then(|beside| beside.get(&seed).map(|own| own.live)).unwrap_or(0)
    }

    /// Remembers a first try that passed without a record.
    pub fn pass(&self, seed: u64, status: u16, is_marked: bool) {
        if let Ok(mut passed) = self.passed.try_borrow_mut()
            && let Some(place) = passed.get_mut(seed as usize % PASSED)
        {
            *place = Passed { seed, status, is_marked };
        }
    }

    /// The first try of this request, if it passed without a record a moment ago.
    pub fn passed(&self, seed: u64) -> Option<Passed> {
        let passed = self.passed.try_borrow().ok()?;
        passed.get(seed as usize % PASSED).copied().filter(|passed| passed.seed == seed)
    }

    /// Wakes those whose time has come.
    pub fn on_tick(&self) {
        // The tick that was asked for has come; the host goes on with it until it hears otherwise.
        let now = Timestamp(host::now());
        let due: Vec<Waiter> = match self.waiting.try_borrow_mut() {
            Ok(mut waiting) => {
                waiting.extract_if(.., |waiter| waiter.due.remaining(now, waiter.at_most).is_none()).collect()
            }
            Err(_) => return,
        };
        for waiter in due {
            self.wake(waiter, now);
        }
        if self.flush_due.get().is_some_and(|due| due.remaining(now, FLUSHES_WITHIN).is_none()) {
            self.flush_due.set(self.vm.flush(self.shared, now));
        }
        self.arm(now);
    }

    fn wake(&self, waiter: Waiter, now: Timestamp) {
        // A context that is gone was forgotten when it went.
        if host::act_for(waiter.context).is_err() {
            return;
        }
        match waiter.what {
            Waits::GoesBack => {
                let headers = [(heartbeat::GONE.to_owned(), "1".to_owned())];
                // Without a stream there is nobody to reply to.
                let _ = host::reply(503, "holdfast_no_such_host", &headers, &[], None);
            }
            Waits::Try(shared_attempt) => {
                let Ok(mut attempt) = shared_attempt.try_borrow_mut() else { return };
                match attempt.after_wait(self.shared, now) {
                    BeforeRetry::Stop(_) if self.live(attempt.seed()) > 1 || !self.may_reply(attempt.seed()) => {
                        if attempt.hold() {
                            self.change_live(attempt.seed(), |live| live.saturating_sub(1));
                        }
                        drop(attempt);
                        self.look_again(Waiter { what: Waits::Hedge(shared_attempt), ..waiter }, now);
                    }
                    BeforeRetry::Stop(denial) => attempt.stop(denial),
                    BeforeRetry::Send | BeforeRetry::Wait { .. } => {
                        attempt.send(now);
                        let _ = host::resume_request();
                    }
                }
            }
            Waits::Hedge(attempt) => {
                let seed = attempt.try_borrow().map(|attempt| attempt.seed());
                if seed.is_ok_and(|seed| self.live(seed) > 0 || !self.may_reply(seed)) {
                    self.look_again(Waiter { what: Waits::Hedge(attempt), ..waiter }, now);
                } else if let Ok(mut attempt) = attempt.try_borrow_mut() {
                    attempt.stop_as_left();
                }
            }
        }
    }

    /// Has a hedge that is held back look again a little later.
    fn look_again(&self, waiter: Waiter, now: Timestamp) {
        if let Ok(mut waiting) = self.waiting.try_borrow_mut() {
            waiting.push(Waiter { due: now.plus(LOOK_AGAIN), at_most: LOOK_AGAIN, ..waiter });
        }
    }

    /// Asks for a tick when the next one is due, or for none.
    fn arm(&self, now: Timestamp) {
        let waiters = self.waiting.try_borrow().ok().and_then(|waiting| waiting.iter().map(|waiter| waiter.due).min());
        let next = [waiters, self.flush_due.get()].into_iter().flatten().min();
        let period = next.map_or(0, |due| {
            let left = due.since(now);
            let millis = millis(left).saturating_add((left.subsec_nanos() % 1_000_000 > 0).into());
            u32::try_from(millis.clamp(1, 1000)).unwrap_or(1000)
        });
        // A tick repeats, and begins anew when it is set.
        if period > 0 || self.tick.get() > 0 {
            let every = Duration::from_millis(period.into());
            host::tick_every(every);
            self.tick.set(period);
            self.ticks_at.set(now.plus(every));
        }
    }
}

/// Replies in place of a try that may not be sent, with what stands for the end of the one before.
pub fn reply_not_retried(last: Option<End>, denial: Option<Denial>) {
    let why = denial.map_or("policy", Denial::name);
    let status = match last {
        Some(End::TimedOut) => 504,
        Some(End::Http(status @ 400..=599)) => status,
        _ => 503,
    };
    let body = format!("upstream connect error or disconnect/reset before headers. not retried: {why}");
    // Without a stream there is nobody to reply to.
    let _ = host::reply(status, &format!("{NOT_RETRIED}{{{why}}}"), &[], body.as_bytes(), None);
}
