//! One Envoy: workers, and what they share.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::builder::{Builder, Refused};
use crate::clock::{Clock, nanos};
use crate::exchange::Exchange;
use crate::faults::{Call, Fault, Rule};
use crate::message::Request;
use crate::metrics::Metrics;
use crate::shared_data::SharedData;
use crate::status;
use crate::thread::Thread;
use crate::vm::{Trap, Vm};

/// How long Envoy waits with a new VM after one has died (`FAIL_RELOAD`).
const RELOAD_AFTER: Duration = Duration::from_secs(1);

/// A listener, by its number; each has its own plugin configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listener(usize);

/// A line of Envoy's log that the module wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Time since the run began.
    pub at: Duration,
    /// Who wrote it.
    pub thread: Thread,
    /// 0 trace, 1 debug, 2 info, 3 warning, 4 error, 5 critical.
    pub level: u32,
    /// What it says.
    pub text: String,
}

/// A VM that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// Which one.
    pub thread: Thread,
    /// Whether the test wanted it.
    pub wanted: bool,
    /// What stopped it.
    pub cause: String,
}

/// A thread's VM, if it lives.
struct Seat {
    vm: Option<Vm>,
    /// When the last VM died.
    died: u64,
    /// Its thread is busy with something else: no tick runs.
    is_stalled: bool,
}

pub(crate) struct Inner {
    clock: Clock,
    shared: RefCell<SharedData>,
    metrics: RefCell<Metrics>,
    log: RefCell<Vec<Line>>,
    crashes: RefCell<Vec<Crash>>,
    rules: RefCell<Vec<Rule>>,
    main: RefCell<Seat>,
    workers: Vec<RefCell<Seat>>,
    /// Rises with every VM that is started, by worker.
    incarnations: Vec<Cell<u64>>,
    /// The plugin configurations, by listener.
    configurations: RefCell<Vec<Rc<str>>>,
    vm_configuration: Vec<u8>,
    router_headers: bool,
}

impl Inner {
    pub(crate) fn new(builder: Builder) -> Rc<Self> {
        let seat = || RefCell::new(Seat { vm: None, died: 0, is_stalled: false });
        Rc::new(Inner {
            clock: Clock::new(),
            shared: RefCell::new(SharedData::new()),
            metrics: RefCell::new(Metrics::new(builder.drops)),
            log: RefCell::new(Vec::new()),
            crashes: RefCell::new(Vec::new()),
            rules: RefCell::new(Vec::new()),
            main: seat(),
            workers: (0..builder.workers).map(|_| seat()).collect(),
            incarnations: (0..builder.workers).map(|_| Cell::new(0)).collect(),
            configurations: RefCell::new(vec![builder.policy.into()]),
            vm_configuration: builder.vm_configuration.into_bytes(),
            router_headers: builder.router_headers,
        })
    }
}

/// One Envoy with the module in it. Clones are the same one.
#[derive(Clone)]
pub struct Host {
    inner: Rc<Inner>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("workers", &self.workers()).finish_non_exhaustive()
    }
}

impl Host {
    /// An Envoy with this policy document, to be started.
    pub fn with(policy: &str) -> Builder {
        Builder::new(policy)
    }

    pub(crate) fn of(inner: Rc<Inner>) -> Self {
        Host { inner }
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Rc::downgrade(&self.inner)
    }

    pub(crate) fn start(inner: Rc<Inner>) -> Result<Self, Refused> {
        let host = Host { inner };
        let configurations = host.inner.configurations.borrow().clone();
        host.try_configuration(&configurations[0])?;
        for thread in host.threads() {
            host.start_vm(thread);
        }
        Ok(host)
    }

    /// The main thread and every worker.
    fn threads(&self) -> impl Iterator<Item = Thread> + use<> {
        std::iter::once(Thread::Main).chain((0..self.inner.workers.len()).map(Thread::Worker))
    }

    fn seat(&self, thread: Thread) -> RefMut<'_, Seat> {
        let seat = match thread {
            Thread::Main => &self.inner.main,
            Thread::Worker(number) => {
                self.inner.workers.get(number).unwrap_or_else(|| panic!("there is no worker {number}"))
            }
            Thread::Canary => panic!("the canary is gone when it has been asked"),
        };
        seat.try_borrow_mut()
            .unwrap_or_else(|_| panic!("the VM of {thread} is running: a rule can only let other workers take a step"))
    }

    /// Tries a configuration in a VM of its own, as Envoy does first.
    fn try_configuration(&self, configuration: &Rc<str>) -> Result<(), Refused> {
        let first_line = self.inner.log.borrow().len();
        let tried = Vm::start(self, Thread::Canary, &self.inner.vm_configuration)
            .and_then(|mut vm| Ok(vm.configure(configuration)? && vm.retire_all_but(&[]).map(|()| true)?));
        let accepted = tried.unwrap_or_else(|trap| {
            self.note_crash(Thread::Canary, trap);
            false
        });
        let lines = || self.inner.log.borrow()[first_line..].iter().map(|line| line.text.clone()).collect();
        if accepted { Ok(()) } else { Err(Refused { lines: lines() }) }
    }

    /// Starts a thread's VM with the configurations of all listeners.
    fn start_vm(&self, thread: Thread) {
        let configurations = self.inner.configurations.borrow().clone();
        let mut seat = self.seat(thread);
        // No two VMs are ready at the same instant: what they draw from the clock as a seed differs.
        self.inner.clock.run(1_000);
        if let Thread::Worker(number) = thread {
            self.inner.incarnations[number].set(self.inner.incarnations[number].get() + 1);
        }
        let started = Vm::start(self, thread, &self.inner.vm_configuration).and_then(|mut vm| {
            for configuration in &configurations {
                if vm.root_of(configuration).is_none() && !vm.configure(configuration)? {
                    return Err(Trap { wanted: false, cause: "refused a configuration that its canary took".into() });
                }
            }
            Ok(vm)
        });
        match started {
            Ok(vm) => seat.vm = Some(vm),
            Err(trap) => self.died(&mut seat, thread, trap),
        }
    }

    fn died(&self, seat: &mut Seat, thread: Thread, trap: Trap) {
        seat.vm = None;
        seat.died = self.inner.clock.steady();
        self.note_crash(thread, trap);
    }

    fn note_crash(&self, thread: Thread, trap: Trap) {
        self.inner.crashes.borrow_mut().push(Crash { thread, wanted: trap.wanted, cause: trap.cause });
    }

    /// Lets a thread's VM do something; nothing if the VM has died, or dies at it.
    pub(crate) fn run<R>(&self, thread: Thread, step: impl FnOnce(&mut Vm) -> Result<R, Trap>) -> Option<R> {
        let mut seat = self.seat(thread);
        let outcome = step(seat.vm.as_mut()?);
        outcome.map_err(|trap| self.died(&mut seat, thread, trap)).ok()
    }

    /// Which VM of a worker runs now.
    pub(crate) fn incarnation(&self, worker: usize) -> u64 {
        self.inner.incarnations[worker].get()
    }

    /// Sees to it that a worker has a VM: a new one in place of one that died, as soon as Envoy makes one.
    fn ensure_vm(&self, worker: usize) {
        let thread = Thread::Worker(worker);
        let is_due = {
            let seat = self.seat(thread);
            seat.vm.is_none() && self.inner.clock.steady() >= seat.died + nanos(RELOAD_AFTER)
        };
        if is_due {
            self.start_vm(thread);
        }
    }

    pub(crate) fn root_of(&self, vm: &mut Vm, listener: Listener) -> u32 {
        let configuration = Rc::clone(&self.inner.configurations.borrow()[listener.0]);
        vm.root_of(&configuration).expect("every VM has every configuration")
    }

    pub(crate) fn router_headers(&self) -> bool {
        self.inner.router_headers
    }

    // Requests.

    /// A client sends a request that comes to this worker.
    pub fn request(&self, worker: usize, request: Request) -> Exchange {
        self.ensure_vm(worker);
        Exchange::begin(self, worker, request)
    }

    /// A client sends a plain GET that comes to this worker.
    pub fn get(&self, worker: usize) -> Exchange {
        self.request(worker, Request::get("/"))
    }

    // Configuration.

    /// The listener that was there first.
    pub fn first_listener(&self) -> Listener {
        Listener::default()
    }

    /// Adds a listener with its own policy document.
    pub fn add_listener(&self, policy: &str) -> Result<Listener, Refused> {
        let configuration: Rc<str> = policy.into();
        self.try_configuration(&configuration)?;
        self.inner.configurations.borrow_mut().push(configuration);
        self.spread_configurations();
        Ok(Listener(self.inner.configurations.borrow().len() - 1))
    }

    /// Gives the first listener another policy document. Requests that are under way end with the old one. If the module
    /// refuses it, everything stays as it is.
    pub fn update(&self, policy: &str) -> Result<(), Refused> {
        let configuration: Rc<str> = policy.into();
        self.try_configuration(&configuration)?;
        self.inner.configurations.borrow_mut()[0] = configuration;
        self.spread_configurations();
        Ok(())
    }

    fn spread_configurations(&self) {
        let configurations = self.inner.configurations.borrow().clone();
        for thread in self.threads() {
            if self.seat(thread).vm.is_none() {
                self.start_vm(thread);
                continue;
            }
            self.run(thread, |vm| {
                for configuration in &configurations {
                    if vm.root_of(configuration).is_none() && !vm.configure(configuration)? {
                        return Err(Trap {
                            wanted: false,
                            cause: "refused a configuration that its canary took".into(),
                        });
                    }
                }
                vm.retire_all_but(&configurations)
            });
        }
    }

    // Time.

    /// Lets time pass; every tick that falls into it runs.
    pub fn advance(&self, duration: Duration) {
        let end = self.inner.clock.steady() + nanos(duration);
        while let Some((due, thread)) = self.next_tick().filter(|(due, _)| *due <= end) {
            // A tick that waited for its thread is late; the clock does not go back for it.
            self.inner.clock.run(due.saturating_sub(self.inner.clock.steady()));
            let now = self.inner.clock.steady();
            self.run(thread, |vm| vm.tick(now));
        }
        self.inner.clock.run(end - self.inner.clock.steady());
    }

    /// When the next tick is due, and whose it is.
    fn next_tick(&self) -> Option<(u64, Thread)> {
        let due = self.threads().filter_map(|thread| Some((self.next_tick_of(thread)?, thread)));
        due.min_by_key(|(due, _)| *due)
    }

    fn next_tick_of(&self, thread: Thread) -> Option<u64> {
        let mut seat = self.seat(thread);
        if seat.is_stalled { None } else { seat.vm.as_mut().and_then(Vm::next_tick) }
    }

    /// Somebody sets the wall clock forward. Timers do not notice.
    pub fn set_clock_forward(&self, by: Duration) {
        self.inner.clock.forward(by);
    }

    /// Somebody sets the wall clock back. Timers do not notice.
    pub fn set_clock_back(&self, by: Duration) {
        self.inner.clock.back(by);
    }

    /// Time since the run began, whatever the wall clock was set to.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.inner.clock.steady())
    }

    /// The wall clock, in nanoseconds since the Unix epoch.
    pub fn wall_nanos(&self) -> u64 {
        self.inner.clock.wall()
    }

    pub(crate) fn steady_nanos(&self) -> u64 {
        self.inner.clock.steady()
    }

    // Faults.

    /// Adds a rule that sees every host call of every VM just before it takes effect, and may put a fault in its place.
    /// The rule may also let *other* workers take steps; rules do not see those. The first rule with a fault decides.
    pub fn on_call(&self, rule: impl FnMut(&Host, &Call<'_>) -> Option<Fault> + 'static) {
        self.inner.rules.borrow_mut().push(Box::new(rule));
    }

    /// Removes all rules.
    pub fn nothing_fails(&self) {
        self.inner.rules.borrow_mut().clear();
    }

    /// Before the next compare-and-swap of a key with `key` in it, somebody else takes a step.
    pub fn race_before_swap(&self, key: &'static str, step: impl FnOnce(&Host) + 'static) {
        let mut step = Some(step);
        self.on_call(move |host, call| {
            if call.swaps(key)
                && let Some(step) = step.take()
            {
                step(host);
            }
            None
        });
    }

    /// The next `times` compare-and-swaps of keys with `key` in them fail as if another worker had been faster.
    pub fn contend(&self, key: &'static str, mut times: u64) {
        self.on_call(move |_, call| {
            let strikes = times > 0 && call.swaps(key);
            times -= u64::from(strikes);
            strikes.then_some(Fault::Status(status::CAS_MISMATCH))
        });
    }

    /// A worker's VM dies at its next host call for which `at` holds, before that takes effect.
    pub fn crash_at(&self, worker: usize, mut at: impl FnMut(&Call<'_>) -> bool + 'static) {
        let mut has_struck = false;
        self.on_call(move |_, call| {
            let strikes = !has_struck && call.thread == Thread::Worker(worker) && at(call);
            has_struck |= strikes;
            strikes.then_some(Fault::Trap)
        });
    }

    /// A worker's VM dies at once, between two callbacks.
    pub fn crash(&self, worker: usize) {
        let thread = Thread::Worker(worker);
        let mut seat = self.seat(thread);
        self.died(&mut seat, thread, Trap { wanted: true, cause: "stopped by the test".to_owned() });
    }

    /// A worker's thread is busy with something else: its ticks wait until [`Host::resume`].
    pub fn stall(&self, worker: usize) {
        self.seat(Thread::Worker(worker)).is_stalled = true;
    }

    /// A stalled worker's thread is free again.
    pub fn resume(&self, worker: usize) {
        self.seat(Thread::Worker(worker)).is_stalled = false;
    }

    /// Starts a worker's VM anew, without waiting for a request or the pause before it.
    pub fn reload(&self, worker: usize) {
        self.seat(Thread::Worker(worker)).vm = None;
        self.start_vm(Thread::Worker(worker));
    }

    /// What a rule says to a host call. While a rule runs, none sees what it makes others do.
    pub(crate) fn fault(&self, call: &Call<'_>) -> Option<Fault> {
        if self.inner.rules.borrow().is_empty() {
            return None;
        }
        let mut rules = std::mem::take(&mut *self.inner.rules.borrow_mut());
        let fault = rules.iter_mut().find_map(|rule| rule(self, call));
        let added = std::mem::replace(&mut *self.inner.rules.borrow_mut(), rules);
        self.inner.rules.borrow_mut().extend(added);
        fault
    }

    // What there is to see.

    /// The bytes of a key of shared data and their version.
    pub fn shared(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.inner.shared.borrow().get(key).map(|(bytes, version)| (bytes.to_vec(), version))
    }

    /// Every key of shared data, in order.
    pub fn shared_keys(&self) -> Vec<String> {
        self.inner.shared.borrow().keys()
    }

    /// Puts any bytes into shared data, as an older version or another plugin might have.
    pub fn put_shared(&self, key: &str, bytes: impl AsRef<[u8]>) {
        let written = self.write_shared(key, bytes.as_ref().to_vec(), 0);
        assert_eq!(written, status::OK);
    }

    pub(crate) fn write_shared(&self, key: &str, bytes: Vec<u8>, token: u32) -> u32 {
        self.inner.shared.borrow_mut().set(key, bytes, token)
    }

    pub(crate) fn metrics_mut(&self) -> RefMut<'_, Metrics> {
        self.inner.metrics.borrow_mut()
    }

    /// A metric as `/stats` shows it, by its name without Envoy's prefix; `None` where it is not listed.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.inner.metrics.borrow().shown(name)
    }

    /// A metric of a policy's key; 0 where it is not listed.
    pub fn metric_of(&self, policy: &str, key: &str, metric: &str) -> u64 {
        self.metric(&format!("holdfast.policy.{policy}.key.{key}.{metric}")).unwrap_or(0)
    }

    /// All metrics as `/stats` shows them, by name.
    pub fn metrics(&self) -> Vec<(String, u64)> {
        self.inner.metrics.borrow().all_shown()
    }

    pub(crate) fn write_log(&self, thread: Thread, level: u32, text: String) {
        self.inner.log.borrow_mut().push(Line { at: self.elapsed(), thread, level, text });
    }

    /// Everything that the module has logged.
    pub fn log(&self) -> Vec<Line> {
        self.inner.log.borrow().clone()
    }

    /// The texts of log lines with `part` in them.
    pub fn logged(&self, part: &str) -> Vec<String> {
        self.inner.log.borrow().iter().filter(|line| line.text.contains(part)).map(|line| line.text.clone()).collect()
    }

    /// Every VM that died.
    pub fn crashes(&self) -> Vec<Crash> {
        self.inner.crashes.borrow().clone()
    }

    /// Checks that no VM died but those that the test stopped.
    pub fn assert_no_trap(&self) {
        let unwanted: Vec<Crash> = self.crashes().into_iter().filter(|crash| !crash.wanted).collect();
        assert!(unwanted.is_empty(), "no VM stops by itself: {unwanted:#?}");
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.inner.workers.len()
    }

    /// Whether a worker's VM lives.
    pub fn is_alive(&self, worker: usize) -> bool {
        self.seat(Thread::Worker(worker)).vm.is_some()
    }

    /// How many contexts of requests a worker's VM holds.
    pub fn streams(&self, worker: usize) -> usize {
        self.seat(Thread::Worker(worker)).vm.as_mut().map_or(0, |vm| vm.data().streams.len())
    }

    /// How many root contexts a worker's VM holds.
    pub fn roots(&self, worker: usize) -> usize {
        self.seat(Thread::Worker(worker)).vm.as_mut().map_or(0, |vm| vm.data().roots.len())
    }

    /// How many bytes of memory a worker's VM holds.
    pub fn memory(&self, worker: usize) -> usize {
        self.seat(Thread::Worker(worker)).vm.as_mut().map_or(0, Vm::memory_size)
    }

    /// How many host calls a worker's VM has made.
    pub fn calls(&self, worker: usize) -> u64 {
        self.seat(Thread::Worker(worker)).vm.as_mut().map_or(0, |vm| vm.data().calls)
    }

    /// The policy document of the first listener.
    pub fn policy(&self) -> String {
        self.inner.configurations.borrow()[0].to_string()
    }
}
