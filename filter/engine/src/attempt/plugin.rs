//! The plugin of the attempt seat: the policies of its VM, and the attempts that wait.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::HashMap;
use std::rc::Rc;

use super::hedges::Hedges;
use super::in_flight::InFlight;
use super::passed::PassedAttempts;
use super::policy::{AttemptPolicy, SharedHosts};
use super::strangers::Strangers;
use crate::base::pauses::{Pauses, SIGN_EVERY, Waiting};
use crate::base::time::{Timestamp, millis_up};
use crate::cx::Cx;
use crate::host::RootHost;
use crate::seats::retry_context::RetryContext;
use crate::store::Store;
use crate::store::directory::Occupant;
use crate::store::worker::Worker;

/// How often a hedge that may not be sent looks whether it is the last attempt left.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What was counted of hosts is to be written within this at most.
const FLUSHES_WITHIN: Duration = Duration::from_secs(1);

/// What all plugins of the attempt seat in one VM share.
pub struct AttemptVm {
    /// This VM as a reader of the request seats' slots.
    pub worker: RefCell<Worker>,
    /// This VM as one of the attempt seats', which count hosts' attempts.
    pub hosts_worker: RefCell<Worker>,
    /// By the number of the place of their text.
    policies: RefCell<HashMap<u16, Rc<RefCell<AttemptPolicy>>>>,
    /// What is known of hosts, by the place of the outlier block.
    hosts: RefCell<HashMap<Occupant, SharedHosts>>,
}

impl AttemptVm {
    /// A VM without policies. `seed` should differ between VMs.
    pub fn new(seed: u64) -> Self {
        AttemptVm {
            worker: RefCell::new(Worker::new(seed)),
            hosts_worker: RefCell::new(Worker::of_attempts(seed.rotate_left(17))),
            policies: RefCell::default(),
            hosts: RefCell::default(),
        }
    }

    /// The policy of a request; `None` if the request seat's VM has not published it.
    fn policy(&self, store: &mut dyn Store, context: &RetryContext) -> Option<Rc<RefCell<AttemptPolicy>>> {
        let mut policies = self.policies.try_borrow_mut().ok()?;
        let place = context.policy;
        if let Some(known) = policies.get(&place.index)
            && known.try_borrow().is_ok_and(|known| known.is(place))
        {
            return Some(Rc::clone(known));
        }
        let mut hosts = self.hosts.try_borrow_mut().ok()?;
        let share = |block| Rc::clone(hosts.entry(block).or_default());
        let fetched = Rc::new(RefCell::new(AttemptPolicy::fetch(store, place, share)?));
        // The text that had the place before is of a policy that is gone, and so may be its hosts.
        policies.insert(place.index, Rc::clone(&fetched));
        hosts.retain(|_, hosts| Rc::strong_count(hosts) > 1);
        Some(fetched)
    }

    /// Writes what was counted of hosts. When there is more to write at the latest.
    fn flush(&self, store: &mut dyn Store, now: Timestamp) -> Option<Timestamp> {
        let (mut worker, policies) = (self.hosts_worker.try_borrow_mut().ok()?, self.policies.try_borrow().ok()?);
        worker.tick(store, now);
        let mut none = Vec::new();
        let cx = &mut Cx::new(store, &mut worker, now, &mut none);
        policies.values().filter_map(|policy| policy.try_borrow_mut().ok()?.flush(cx)).min()
    }
}

/// A paused stream.
pub struct Waiter<W> {
    /// How the host names it: its context.
    pub stream: u32,
    due: Timestamp,
    /// How long it was to wait when it began: a time further off shows that the clock was put back.
    at_most: Duration,
    /// What waits.
    pub(super) what: W,
}

/// The plugin; `W` is what a paused stream is for.
pub struct SeatPlugin<W> {
    host: Rc<dyn RootHost>,
    pub(super) vm: Rc<AttemptVm>,
    waiting: RefCell<Vec<Waiter<W>>>,
    pub(super) hedges: RefCell<Hedges>,
    /// All attempts that are under way here.
    pub(super) in_flight: RefCell<InFlight>,
    pub(super) passed: RefCell<PassedAttempts>,
    /// Those that this seat knows nothing of.
    pub(super) strangers: Strangers,
    /// When this worker did not run.
    pub(super) pauses: Pauses,
    /// The tick that was asked for, in milliseconds; 0 for none.
    tick: Cell<u32>,
    /// When that tick comes.
    ticks_at: Cell<Timestamp>,
    /// When what was counted of hosts is to be written, if there is anything.
    flush_due: Cell<Option<Timestamp>>,
}

impl<W> SeatPlugin<W> {
    /// The plugin in this VM.
    pub fn new(host: &Rc<dyn RootHost>, vm: Rc<AttemptVm>) -> Self {
        SeatPlugin {
            host: Rc::clone(host),
            vm,
            waiting: RefCell::new(Vec::new()),
            hedges: RefCell::default(),
            in_flight: RefCell::default(),
            passed: RefCell::default(),
            strangers: Strangers::default(),
            pauses: Pauses::default(),
            tick: Cell::new(0),
            ticks_at: Cell::new(Timestamp::ZERO),
            flush_due: Cell::new(None),
        }
    }

    /// The policy of a request; `None` if the request seat's VM has not published it.
    pub(super) fn policy(&self, store: &mut dyn Store, context: &RetryContext) -> Option<Rc<RefCell<AttemptPolicy>>> {
        store.refresh();
        self.vm.policy(store, context)
    }

    /// Sees to it that what was counted of hosts is written by then.
    pub(super) fn flush_by(&self, due: Timestamp, now: Timestamp) {
        self.flush_due.set(Some(self.flush_due.get().map_or(due, |other| other.min(due))));
        self.tick_by(due, now);
    }

    /// Has a paused stream woken at `due`.
    pub(super) fn wait(&self, stream: u32, due: Timestamp, what: W, now: Timestamp) {
        if let Ok(mut waiting) = self.waiting.try_borrow_mut() {
            waiting.push(Waiter { stream, due, at_most: due.since(now), what });
        }
        self.tick_by(due, now);
    }

    /// An attempt begins to wait for its host.
    pub(super) fn wait_for_host(&self, now: Timestamp) -> Waiting {
        self.pauses.sign(now);
        let is_first = !self.pauses.are_signs_expected();
        let waiting = self.pauses.wait(|| now);
        if is_first {
            self.tick_by(now.plus(SIGN_EVERY), now);
        }
        waiting
    }

    /// Forgets a stream that is gone.
    pub(super) fn forget(&self, stream: u32) {
        if let Ok(mut waiting) = self.waiting.try_borrow_mut() {
            waiting.retain(|waiter| waiter.stream != stream);
        }
    }

    /// Asks for a tick by then. The one that has been asked for may be early enough.
    fn tick_by(&self, due: Timestamp, now: Timestamp) {
        if self.tick.get() == 0 || due < self.ticks_at.get() || self.ticks_at.get() <= now {
            self.arm(now);
        }
    }

    /// Whether `ask` says so of the attempts of one request; `otherwise` where they cannot be looked at.
    pub(super) fn hedges<R>(&self, otherwise: R, ask: impl FnOnce(&mut Hedges) -> R) -> R {
        self.hedges.try_borrow_mut().map_or(otherwise, |mut hedges| ask(&mut hedges))
    }

    /// Takes those out whose time has come, at a tick. Each is to be woken, if its context is still there, and the tick
    /// to be ended by [`SeatPlugin::end_tick`].
    pub fn take_due(&self, now: Timestamp) -> Option<Vec<Waiter<W>>> {
        self.pauses.tick(now);
        let mut waiting = self.waiting.try_borrow_mut().ok()?;
        Some(waiting.extract_if(.., |waiter| waiter.due.remaining(now, waiter.at_most).is_none()).collect())
    }

    /// Has a stream that goes on waiting look again a little later.
    pub(super) fn look_again(&self, stream: u32, what: W, now: Timestamp) {
        if let Ok(mut waiting) = self.waiting.try_borrow_mut() {
            waiting.push(Waiter { stream, due: now.plus(LOOK_AGAIN), at_most: LOOK_AGAIN, what });
        }
    }

    /// Ends a tick: writes what is due, and asks for the next one.
    pub fn end_tick(&self, store: &mut dyn Store, now: Timestamp) {
        if let Some(told) = self.pauses.tell("attempts", now) {
            self.host.log(true, &told);
        }
        if self.flush_due.get().is_some_and(|due| due.remaining(now, FLUSHES_WITHIN).is_none()) {
            store.refresh();
            self.flush_due.set(self.vm.flush(store, now));
        }
        self.arm(now);
    }

    /// Asks for a tick when the next one is due, or for none.
    fn arm(&self, now: Timestamp) {
        let waiters = self.waiting.try_borrow().ok().and_then(|waiting| waiting.iter().map(|waiter| waiter.due).min());
        let sign = self.pauses.are_signs_expected().then(|| now.plus(SIGN_EVERY));
        let next = [waiters, self.flush_due.get(), sign].into_iter().flatten().min();
        let period = next.map_or(0, |due| u32::try_from(millis_up(due.since(now)).clamp(1, 1000)).unwrap_or(1000));
        // A tick repeats, and begins anew when it is set.
        if period > 0 || self.tick.get() > 0 {
            let every = Duration::from_millis(period.into());
            self.host.tick_every(every);
            self.tick.set(period);
            self.ticks_at.set(now.plus(every));
        }
    }
}
