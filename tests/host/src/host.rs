//! One Envoy: workers, and what they share.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use crate::builder::{Builder, Refused};
use crate::caller::Asking;
use crate::clock::{Clock, nanos};
use crate::clusters::{Cluster, Clusters};
use crate::exchange::{Delivering, Exchange, SharedDelivering};
use crate::faults::{Call, Fault, Rule};
use crate::flow::{Call as Outgoing, Flow};
use crate::http_call::HttpCall;
use crate::message::Request;
use crate::metrics::Metrics;
use crate::module::{self, Loaded};
use crate::queues::{Queues, Registrant};
use crate::reaction::{Arrival, React, Reaction};
use crate::route::Route;
use crate::routed::Routed;
use crate::schedule::{Schedule, SharedFlow};
use crate::seat::{Place, Seat};
use crate::shared_data::SharedData;
use crate::status;
use crate::thread::Thread;
use crate::vm::{Action, Callback, Trap, Vm};

/// How long Envoy waits with a new VM after one has died (`FAIL_RELOAD`).
const RELOAD_AFTER: Duration = Duration::from_secs(1);

/// How long the module may wait before it tells the host what it has counted.
const COUNTS_WAIT: Duration = Duration::from_millis(100);

/// The cluster that requests go to unless they name another that there is.
const FIRST_CLUSTER: &str = "orders";

/// `vm_config.configuration` of the attempt seat. Its plugin configuration is empty.
const ATTEMPT_SEAT: &[u8] = br#"{"seat":"attempt"}"#;
const NO_CONFIGURATION: &str = "";

/// A listener, by its number; each has its own plugin configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listener(usize);

/// A line of Envoy's log that the module wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Time since the run began.
    pub at: Duration,
    /// The thread it was written on.
    pub thread: Thread,
    /// The seat that wrote it.
    pub seat: Seat,
    /// 0 trace, 1 debug, 2 info, 3 warning, 4 error, 5 critical.
    pub level: u32,
    /// What it says.
    pub text: String,
}

/// A VM that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// The thread whose VM it was.
    pub thread: Thread,
    /// The seat whose VM it was.
    pub seat: Seat,
    /// Whether the test wanted it.
    pub wanted: bool,
    /// What stopped it.
    pub cause: String,
}

/// The VM of a seat on a thread, if it lives.
#[derive(Default)]
struct Slot {
    vm: Option<Vm>,
    /// When the last VM died.
    died: u64,
    /// Rises with every VM that is started.
    incarnation: u64,
}

/// The VMs of a thread, by seat.
#[derive(Default)]
struct Slots {
    request: RefCell<Slot>,
    attempt: RefCell<Slot>,
    /// When the next ticks are due.
    ticks: [Cell<Option<u64>>; 2],
    /// The thread is busy with something else: no tick and no timer runs.
    is_stalled: Cell<bool>,
    /// The plugin configurations that the thread has, by listener; `None` for a listener that is gone.
    configurations: RefCell<Configurations>,
}

/// Plugin configurations by listener.
type Configurations = Vec<Option<Rc<str>>>;

pub(crate) struct Inner {
    module: Arc<Loaded>,
    clock: Clock,
    shared: RefCell<SharedData>,
    metrics: RefCell<Metrics>,
    log: RefCell<Vec<Line>>,
    crashes: RefCell<Vec<Crash>>,
    rules: RefCell<Vec<Rule>>,
    main: Slots,
    workers: Vec<Slots>,
    vm_configuration: Vec<u8>,
    has_attempt_seat: bool,
    sees_held_bodies: bool,
    shares_metrics: bool,
    router_headers: bool,
    route: Route,
    clusters: Clusters,
    /// What hosts do by themselves with users' requests, and with calls of the module.
    reactions: RefCell<[Option<React>; 2]>,
    /// How many attempts each host has got.
    served: RefCell<BTreeMap<String, usize>>,
    /// Requests that have gone on to the router, and calls of the module, that are not over.
    schedule: RefCell<Schedule>,
    /// Responses without a router that are on their way.
    delivering: RefCell<Vec<Weak<RefCell<Delivering>>>>,
    queues: RefCell<Queues>,
    /// A VM or root context has gone since calls were looked at.
    has_lost_callers: Cell<bool>,
}

impl Slots {
    fn of(&self, seat: Seat) -> &RefCell<Slot> {
        match seat {
            Seat::Request => &self.request,
            Seat::Attempt => &self.attempt,
        }
    }

    fn with(configurations: &Configurations) -> Self {
        Slots { configurations: RefCell::new(configurations.clone()), ..Slots::default() }
    }

    fn is_running(&self) -> bool {
        self.request.try_borrow().is_err() || self.attempt.try_borrow().is_err()
    }
}

impl Inner {
    pub(crate) fn new(builder: Builder) -> Rc<Self> {
        let first = Cluster::new(FIRST_CLUSTER, true, builder.balance);
        let configurations: Configurations = vec![Some(builder.policy.into())];
        Rc::new(Inner {
            module: builder.module.unwrap_or_else(module::shipped),
            clock: Clock::new(),
            shared: RefCell::new(SharedData::new()),
            metrics: RefCell::new(Metrics::new(builder.drops)),
            log: RefCell::new(Vec::new()),
            crashes: RefCell::new(Vec::new()),
            rules: RefCell::new(Vec::new()),
            main: Slots::with(&configurations),
            workers: (0..builder.workers).map(|_| Slots::with(&configurations)).collect(),
            vm_configuration: builder.vm_configuration.into_bytes(),
            has_attempt_seat: builder.attempt_seat,
            sees_held_bodies: builder.sees_held_bodies,
            shares_metrics: builder.shares_metrics,
            router_headers: builder.router_headers,
            route: builder.route,
            clusters: Clusters::new(first, builder.clusters),
            reactions: RefCell::new([builder.tries, builder.calls]),
            served: RefCell::default(),
            schedule: RefCell::new(Schedule::new(builder.workers)),
            delivering: RefCell::default(),
            queues: RefCell::default(),
            has_lost_callers: Cell::new(false),
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
        for configuration in host.configurations(Thread::Main, Seat::Request) {
            host.try_configuration(Seat::Request, &configuration)?;
        }
        if host.has_attempt_seat() {
            host.try_configuration(Seat::Attempt, &NO_CONFIGURATION.into())?;
        }
        for (thread, seat) in host.vms() {
            host.start_vm(thread, seat);
        }
        Ok(host)
    }

    /// The main thread and every worker.
    fn threads(&self) -> impl Iterator<Item = Thread> + use<> {
        std::iter::once(Thread::Main).chain((0..self.inner.workers.len()).map(Thread::Worker))
    }

    /// The threads and seats that have a VM.
    fn vms(&self) -> impl Iterator<Item = (Thread, Seat)> + use<> {
        let has_attempt_seat = self.has_attempt_seat();
        let seats = move |thread| {
            let attempt = has_attempt_seat.then_some((thread, Seat::Attempt));
            std::iter::once((thread, Seat::Request)).chain(attempt)
        };
        self.threads().flat_map(seats)
    }

    fn slots(&self, thread: Thread) -> &Slots {
        match thread {
            Thread::Main => &self.inner.main,
            Thread::Worker(number) => {
                self.inner.workers.get(number).unwrap_or_else(|| panic!("there is no worker {number}"))
            }
            Thread::Canary => panic!("the canary is gone when it has been asked"),
        }
    }

    fn slot(&self, thread: Thread, seat: Seat) -> RefMut<'_, Slot> {
        self.slots(thread)
            .of(seat)
            .try_borrow_mut()
            .unwrap_or_else(|_| panic!("the VM of {thread} is running: a rule can only let other workers take a step"))
    }

    fn at(&self, place: Place) -> RefMut<'_, Slot> {
        self.slot(Thread::Worker(place.worker), place.seat)
    }

    fn vm_configuration(&self, seat: Seat) -> &[u8] {
        match seat {
            Seat::Request => &self.inner.vm_configuration,
            Seat::Attempt => ATTEMPT_SEAT,
        }
    }

    /// The plugin configurations that a seat's VM on a thread has.
    fn configurations(&self, thread: Thread, seat: Seat) -> Vec<Rc<str>> {
        match seat {
            Seat::Request => self.slots(thread).configurations.borrow().iter().flatten().cloned().collect(),
            Seat::Attempt => vec![NO_CONFIGURATION.into()],
        }
    }

    /// Attempts a configuration in a VM of its own, as Envoy does first.
    fn try_configuration(&self, seat: Seat, configuration: &Rc<str>) -> Result<(), Refused> {
        let first_line = self.inner.log.borrow().len();
        let tried = Vm::start(self, Thread::Canary, seat, self.vm_configuration(seat), 0)
            .and_then(|mut vm| Ok(vm.configure(configuration)? && vm.retire_all_but(&[]).map(|()| true)?));
        let accepted = tried.unwrap_or_else(|trap| {
            self.note_crash(Thread::Canary, seat, trap);
            false
        });
        if accepted && seat == Seat::Request {
            holdfast_schema_tests::assert_no_stricter(configuration);
        }
        let lines = || self.inner.log.borrow()[first_line..].iter().map(|line| line.text.clone()).collect();
        if accepted { Ok(()) } else { Err(Refused { lines: lines() }) }
    }

    /// Starts a VM with all configurations of its seat.
    fn start_vm(&self, thread: Thread, seat: Seat) {
        let configurations = self.configurations(thread, seat);
        let mut slot = self.slot(thread, seat);
        // No two VMs are ready at the same instant: what they draw from the clock as a seed differs.
        self.inner.clock.run(1_000);
        slot.incarnation += 1;
        let incarnation = slot.incarnation;
        let started = Vm::start(self, thread, seat, self.vm_configuration(seat), incarnation).and_then(|mut vm| {
            for configuration in &configurations {
                if vm.root_of(configuration).is_none() && !vm.configure(configuration)? {
                    return Err(Trap { wanted: false, cause: "refused a configuration that its canary took".into() });
                }
            }
            Ok(vm)
        });
        match started {
            Ok(vm) => slot.vm = Some(vm),
            Err(trap) => self.died(&mut slot, thread, seat, trap),
        }
        self.note_tick(&mut slot, thread, seat);
        self.note_lost_caller();
    }

    fn died(&self, slot: &mut Slot, thread: Thread, seat: Seat, trap: Trap) {
        slot.vm = None;
        self.note_tick(slot, thread, seat);
        self.note_lost_caller();
        slot.died = self.inner.clock.steady();
        self.note_crash(thread, seat, trap);
    }

    fn note_crash(&self, thread: Thread, seat: Seat, trap: Trap) {
        self.inner.crashes.borrow_mut().push(Crash { thread, seat, wanted: trap.wanted, cause: trap.cause });
    }

    /// Lets a VM do something; nothing if the VM has died, or dies at it.
    pub(crate) fn run<R>(
        &self,
        thread: Thread,
        seat: Seat,
        step: impl FnOnce(&mut Vm) -> Result<R, Trap>,
    ) -> Option<R> {
        let mut slot = self.slot(thread, seat);
        let outcome = step(slot.vm.as_mut()?);
        self.note_tick(&mut slot, thread, seat);
        outcome.map_err(|trap| self.died(&mut slot, thread, seat, trap)).ok()
    }

    fn note_tick(&self, slot: &mut Slot, thread: Thread, seat: Seat) {
        self.slots(thread).ticks[seat as usize].set(slot.vm.as_mut().and_then(Vm::next_tick));
    }

    pub(crate) fn module(&self) -> &Loaded {
        &self.inner.module
    }

    /// Which VM of a worker runs now.
    pub(crate) fn incarnation(&self, place: impl Into<Place>) -> u64 {
        self.at(place.into()).incarnation
    }

    /// Which VM of a thread runs now.
    pub(crate) fn incarnation_on(&self, thread: Thread, seat: Seat) -> u64 {
        self.slot(thread, seat).incarnation
    }

    /// Sees to it that a worker has a VM: a new one in place of one that died, as soon as Envoy makes one.
    pub(crate) fn ensure_vm(&self, thread: Thread, seat: Seat) {
        let is_due = {
            let slot = self.slot(thread, seat);
            slot.vm.is_none() && self.inner.clock.steady() >= slot.died + nanos(RELOAD_AFTER)
        };
        if is_due {
            self.start_vm(thread, seat);
        }
    }

    pub(crate) fn root_of(&self, vm: &mut Vm, listener: Listener) -> u32 {
        let configurations = self.slots(vm.data().thread).configurations.borrow();
        let configuration =
            configurations[listener.0].as_ref().expect("no connection comes to a listener that is gone");
        vm.root_of(configuration).expect("every VM has every configuration")
    }

    /// The root context of all attempts.
    pub(crate) fn root_of_tries(vm: &mut Vm) -> u32 {
        vm.root_of(NO_CONFIGURATION).expect("every VM of the attempt seat has the empty configuration")
    }

    pub(crate) fn has_attempt_seat(&self) -> bool {
        self.inner.has_attempt_seat
    }

    /// Whether the plugin has `allow_on_headers_stop_iteration`.
    pub(crate) fn sees_held_bodies(&self) -> bool {
        self.inner.sees_held_bodies
    }

    /// Whether metrics of the same name are one over both seats.
    pub(crate) fn shares_metrics(&self) -> bool {
        self.inner.shares_metrics
    }

    pub(crate) fn router_headers(&self) -> bool {
        self.inner.router_headers
    }

    pub(crate) fn route(&self) -> &Route {
        &self.inner.route
    }

    pub(crate) fn clusters(&self) -> &Clusters {
        &self.inner.clusters
    }

    /// The place of the cluster that chooses the hosts of a request, and what the request's own is called.
    pub(crate) fn cluster_of(&self, name: Option<&str>) -> (usize, Rc<str>) {
        let place = name.and_then(|name| self.clusters().find(name)).unwrap_or(0);
        (place, name.unwrap_or_default().into())
    }

    /// What a host does by itself.
    pub(crate) fn reaction(&self, arrival: &Arrival<'_>, is_call: bool) -> Option<Reaction> {
        let mut reactions = self.inner.reactions.borrow_mut();
        reactions[usize::from(is_call)].as_mut().and_then(|react| react(arrival))
    }

    pub(crate) fn count_served(&self, host: &str, by: isize) {
        let mut served = self.inner.served.borrow_mut();
        match served.get_mut(host) {
            Some(count) => *count = count.saturating_add_signed(by),
            None => drop(served.insert(host.to_owned(), usize::try_from(by).unwrap_or(0))),
        }
    }

    // Requests.

    /// A client sends a request that comes to this worker.
    pub fn request(&self, worker: usize, request: Request) -> Exchange {
        self.ensure_vm(Thread::Worker(worker), Seat::Request);
        Exchange::begin(self, worker, request)
    }

    /// A client sends a request that comes to this worker; if the module lets it pass, Envoy's router takes it and makes
    /// as many attempts as it takes, each through the attempt seat where there is one.
    pub fn send(&self, worker: usize, request: Request) -> Routed {
        self.ensure_vm(Thread::Worker(worker), Seat::Request);
        let flow = Flow::begin(self, worker, &request);
        if flow.answer.is_some() {
            self.settle(flow.thread);
            return Routed::new(self.clone(), Rc::new(RefCell::new(flow)));
        }
        let flow = self.inner.schedule.borrow_mut().add(flow);
        self.drive(&flow, Flow::enter_router);
        Routed::new(self.clone(), flow)
    }

    /// Lets a request take a step, and whatever follows from it at once.
    pub(crate) fn drive<R>(&self, flow: &SharedFlow, step: impl FnOnce(&mut Flow, &Host) -> R) -> R {
        let thread = flow.borrow().thread;
        let result = self.step(flow, step);
        self.settle(thread);
        result
    }

    fn step<R>(&self, flow: &SharedFlow, step: impl FnOnce(&mut Flow, &Host) -> R) -> R {
        let mut flow = flow.borrow_mut();
        let result = step(&mut flow, self);
        self.inner.schedule.borrow_mut().stepped(&mut flow);
        result
    }

    /// What the seats have asked for outside of a stream's own callbacks, answers to the module's calls, and timers that are due by
    /// now.
    pub(crate) fn settle(&self, thread: Thread) {
        self.give_up_lost_calls();
        loop {
            if let Some((seat, context, action)) = self.next_action(thread) {
                self.act(thread, seat, context, action);
            } else if let Some((registrant, token)) = self.next_news(thread) {
                self.run(thread, registrant.seat, |vm| vm.queue_ready(registrant.root, token));
            } else if let Some(answered) = self.next_answer(thread) {
                self.tell(thread, answered);
            } else if let Some((_, flow)) = self.next_timer(thread).filter(|(due, _)| *due <= self.steady_nanos())
                && let Some(flow) = self.under_way(flow)
            {
                self.step(&flow, Flow::on_timer);
            } else {
                break;
            }
        }
    }

    fn next_news(&self, thread: Thread) -> Option<(Registrant, u32)> {
        if self.slots(thread).is_stalled.get() { None } else { self.queues_mut().take_news(thread) }
    }

    pub(crate) fn queues_mut(&self) -> RefMut<'_, Queues> {
        self.inner.queues.borrow_mut()
    }

    /// How many items wait in queues.
    pub fn queued(&self) -> usize {
        self.queues_mut().len()
    }

    fn under_way(&self, number: u64) -> Option<SharedFlow> {
        self.inner.schedule.borrow().get(number)
    }

    fn next_action(&self, thread: Thread) -> Option<(Seat, u32, Action)> {
        [Seat::Request, Seat::Attempt].into_iter().find_map(|seat| {
            let mut slot = self.slots(thread).of(seat).try_borrow_mut().ok()?;
            let (context, action) = slot.vm.as_mut()?.take_action()?;
            Some((seat, context, action))
        })
    }

    /// A seat lets a stream go on, or replies to it.
    fn act(&self, thread: Thread, seat: Seat, context: u32, action: Action) {
        let incarnation = self.incarnation_on(thread, seat);
        if seat == Seat::Attempt {
            if let Some(flow) = self.flow(|flow| flow.has_try(thread, incarnation, context)) {
                self.step(&flow, |flow, host| flow.act(host, context, action));
            }
        } else if let Some(flow) = self.flow(|flow| flow.has_client(thread, incarnation, context)) {
            self.step(&flow, |flow, host| flow.act_for_client(host, action));
        } else if let Some(delivering) = self.delivering(thread, incarnation, context) {
            delivering.borrow_mut().act(action);
        }
    }

    /// A response without a router is on its way.
    pub(crate) fn note_delivering(&self, delivering: &SharedDelivering) {
        let mut all = self.inner.delivering.borrow_mut();
        all.retain(|other| other.strong_count() > 0);
        all.push(Rc::downgrade(delivering));
    }

    fn delivering(&self, thread: Thread, incarnation: u64, context: u32) -> Option<SharedDelivering> {
        let all = self.inner.delivering.borrow();
        let is_it = |one: &SharedDelivering| one.try_borrow().is_ok_and(|one| one.is(thread, incarnation, context));
        all.iter().filter_map(Weak::upgrade).find(is_it)
    }

    fn next_answer(&self, thread: Thread) -> Option<Asking> {
        self.inner.schedule.borrow_mut().take_answer(thread)
    }

    /// The first request under way for which this holds.
    fn flow(&self, is_it: impl Fn(&Flow) -> bool) -> Option<SharedFlow> {
        let schedule = self.inner.schedule.borrow();
        schedule.all().find(|flow| flow.try_borrow().is_ok_and(|flow| is_it(&flow))).cloned()
    }

    /// The timer of the router that fires next on a thread, and whose it is; those of a thread that is stuck wait.
    fn next_timer(&self, thread: Thread) -> Option<(u64, u64)> {
        if self.slots(thread).is_stalled.get() { None } else { self.inner.schedule.borrow().next_timer(thread) }
    }

    // Calls of the module.

    /// The module makes a call; `Err` is the status that it gets instead of a token. Source: Envoy, `Context::httpCall`.
    pub(crate) fn call_out(&self, outgoing: Outgoing, asking: Asking) -> Result<(), u32> {
        let place = self.clusters().find(&outgoing.cluster).ok_or(status::BAD_ARGUMENT)?;
        if outgoing.thread == Thread::Canary {
            // It is gone before there is an answer.
            return Ok(());
        }
        let mut flow = Flow::of_call(place, outgoing, asking);
        flow.enter_router_as_call(self);
        if flow.answer.is_some() {
            return Err(status::INTERNAL_FAILURE);
        }
        let flow = self.inner.schedule.borrow_mut().add(flow);
        self.step(&flow, |_, _| ());
        Ok(())
    }

    /// Whether a call to this cluster comes by the attempt seat.
    pub(crate) fn calls_pass_attempt_seat(&self, cluster: &str) -> bool {
        let place = self.clusters().find(cluster);
        self.has_attempt_seat() && place.is_some_and(|place| self.clusters().has_attempt_seat(place))
    }

    /// Tells the module of an answer, if the VM that asked is still there.
    fn tell(&self, thread: Thread, answered: Asking) {
        if self.incarnation_on(thread, answered.seat) == answered.incarnation {
            self.run(thread, answered.seat, |vm| vm.http_call_response(answered.root, answered.token, answered.answer));
        }
    }

    pub(crate) fn note_lost_caller(&self) {
        self.inner.has_lost_callers.set(true);
    }

    /// Calls whose VM or root context has gone are reset: nobody is told.
    fn give_up_lost_calls(&self) {
        if !self.inner.has_lost_callers.take() {
            return;
        }
        let flows: Vec<SharedFlow> = self.inner.schedule.borrow().all().cloned().collect();
        for flow in flows {
            let Ok(is_lost) = flow.try_borrow().map(|flow| self.is_lost(&flow)) else { continue };
            match is_lost {
                Some(true) => self.step(&flow, Flow::give_up),
                Some(false) => {}
                None => self.note_lost_caller(),
            }
        }
    }

    /// Whether it is a call that nobody waits for; `None` if the thread is busy right now.
    fn is_lost(&self, flow: &Flow) -> Option<bool> {
        let Some(asking) = flow.asking() else { return Some(false) };
        if self.slots(flow.thread).is_running() {
            return None;
        }
        let mut slot = self.slot(flow.thread, asking.seat);
        let is_same = slot.incarnation == asking.incarnation;
        Some(!is_same || slot.vm.as_mut().is_none_or(|vm| !vm.data().roots.contains_key(&asking.root)))
    }

    /// The calls that the module has made (`proxy_http_call`) and that are under way, in the order it made them.
    pub fn calls_out(&self) -> Vec<HttpCall> {
        self.give_up_lost_calls();
        self.inner.schedule.borrow().all().filter_map(|flow| HttpCall::of(self, flow)).collect()
    }

    // Hosts.

    /// From now on the cluster has these hosts. Attempts under way stay where they are.
    pub fn set_hosts(&self, hosts: &[&str]) {
        self.clusters().set_hosts(0, hosts);
    }

    /// From now on a cluster of [`Builder::cluster`] has these hosts.
    pub fn set_hosts_of(&self, cluster: &str, hosts: &[&str]) {
        let place = self.clusters().find(cluster).unwrap_or_else(|| panic!("there is no cluster {cluster}"));
        self.clusters().set_hosts(place, hosts);
    }

    /// How many attempts of users' requests each host has got, by address.
    pub fn served(&self) -> BTreeMap<String, usize> {
        self.inner.served.borrow().clone()
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
        self.configure_main(policy, |all, new| all.push(Some(new)))?;
        self.reach_all();
        Ok(Listener(self.inner.main.configurations.borrow().len() - 1))
    }

    /// Gives the first listener another policy document. Requests that are under way end with the old one. If the module
    /// refuses it, everything stays as it is.
    pub fn update(&self, policy: &str) -> Result<(), Refused> {
        self.update_main(policy)?;
        self.reach_all();
        Ok(())
    }

    /// As [`Host::update`], but so far only the main thread has it; a worker has it when [`Host::reach`] says so.
    pub fn update_main(&self, policy: &str) -> Result<(), Refused> {
        self.configure_main(policy, |all, new| all[0] = Some(new))
    }

    /// What the main thread has been given reaches a worker.
    pub fn reach(&self, worker: usize) {
        let newest = self.inner.main.configurations.borrow().clone();
        let thread = Thread::Worker(worker);
        *self.slots(thread).configurations.borrow_mut() = newest;
        self.spread_configurations(thread);
    }

    /// As [`Host::update`], but the old listener goes on serving its connections with the old document until [`Host::close`].
    pub fn drain(&self, policy: &str) -> Result<Listener, Refused> {
        self.configure_main(policy, |all, new| {
            let old = all[0].replace(new);
            all.push(old);
        })?;
        self.reach_all();
        Ok(Listener(self.inner.main.configurations.borrow().len() - 1))
    }

    /// A listener is gone. Requests of its that are under way end with its document.
    pub fn close(&self, listener: Listener) {
        self.inner.main.configurations.borrow_mut()[listener.0] = None;
        self.spread_configurations(Thread::Main);
        self.reach_all();
    }

    /// The main thread is given what `change` makes of its configurations, if the module accepts the new one.
    fn configure_main(&self, policy: &str, change: impl FnOnce(&mut Configurations, Rc<str>)) -> Result<(), Refused> {
        let configuration: Rc<str> = policy.into();
        self.try_configuration(Seat::Request, &configuration)?;
        change(&mut self.inner.main.configurations.borrow_mut(), configuration);
        self.spread_configurations(Thread::Main);
        Ok(())
    }

    fn reach_all(&self) {
        (0..self.workers()).for_each(|worker| self.reach(worker));
    }

    /// The request seat's VM on a thread has the root contexts of the thread's configurations, those that have streams, and no
    /// others.
    fn spread_configurations(&self, thread: Thread) {
        if self.slot(thread, Seat::Request).vm.is_none() {
            return self.start_vm(thread, Seat::Request);
        }
        let configurations = self.configurations(thread, Seat::Request);
        self.run(thread, Seat::Request, |vm| {
            for configuration in &configurations {
                if vm.root_of(configuration).is_none() && !vm.configure(configuration)? {
                    return Err(Trap { wanted: false, cause: "refused a configuration that its canary took".into() });
                }
            }
            vm.retire_all_but(&configurations)
        });
        self.give_up_lost_calls();
    }

    // Time.

    /// Lets time pass; every tick and every timer of the router that falls into it runs, ticks first.
    pub fn advance(&self, duration: Duration) {
        let end = self.inner.clock.steady() + nanos(duration);
        self.run_until(end, || false);
        self.inner.clock.run(end - self.inner.clock.steady());
    }

    /// Lets time pass until this is so, but no longer than that.
    pub(crate) fn advance_until(&self, longest: Duration, is_over: impl Fn() -> bool) {
        self.run_until(self.inner.clock.steady() + nanos(longest), is_over);
    }

    /// Runs the ticks and timers that are due until then, unless this is so before.
    fn run_until(&self, end: u64, is_over: impl Fn() -> bool) {
        self.give_up_lost_calls();
        while !is_over() {
            let timer = self.threads().filter_map(|thread| self.next_timer(thread)).min();
            let (tick, timer_due) = (self.next_tick(), timer.map(|(due, _)| due));
            let tick_due = tick.map(|(due, ..)| due);
            let Some(due) = tick_due.into_iter().chain(timer_due).min().filter(|due| *due <= end) else { break };
            // What waited for its thread is late; the clock does not go back for it.
            self.inner.clock.run(due.saturating_sub(self.inner.clock.steady()));
            match (tick, timer) {
                (Some((tick_due, thread, seat)), _) if tick_due == due => {
                    let now = self.inner.clock.steady();
                    self.run(thread, seat, |vm| vm.tick(now));
                    self.settle(thread);
                }
                (_, Some((_, number))) => {
                    if let Some(flow) = self.under_way(number) {
                        self.drive(&flow, Flow::on_timer);
                    }
                }
                (_, None) => {}
            }
        }
    }

    /// When the next tick is due, and whose it is.
    fn next_tick(&self) -> Option<(u64, Thread, Seat)> {
        let due = self.vms().filter_map(|(thread, seat)| Some((self.next_tick_of(thread, seat)?, thread, seat)));
        due.min_by_key(|(due, ..)| *due)
    }

    fn next_tick_of(&self, thread: Thread, seat: Seat) -> Option<u64> {
        let slots = self.slots(thread);
        // A thread that runs right now, with a rule that lets time pass, ticks later.
        if slots.is_stalled.get() || slots.is_running() { None } else { slots.ticks[seat as usize].get() }
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
    pub fn crash_at(&self, place: impl Into<Place>, mut at: impl FnMut(&Call<'_>) -> bool + 'static) {
        let Place { worker, seat } = place.into();
        let mut has_struck = false;
        self.on_call(move |_, call| {
            let strikes = !has_struck && call.thread == Thread::Worker(worker) && call.seat == seat && at(call);
            has_struck |= strikes;
            strikes.then_some(Fault::Trap)
        });
    }

    /// A worker's VM dies at once, between two callbacks.
    pub fn crash(&self, place: impl Into<Place>) {
        let place = place.into();
        let mut slot = self.at(place);
        let trap = Trap { wanted: true, cause: "stopped by the test".to_owned() };
        self.died(&mut slot, Thread::Worker(place.worker), place.seat, trap);
        drop(slot);
        self.give_up_lost_calls();
    }

    /// A worker's thread is busy with something else: its ticks and timers wait until [`Host::resume`].
    pub fn stall(&self, worker: usize) {
        self.slots(Thread::Worker(worker)).is_stalled.set(true);
    }

    /// A stalled worker's thread is free again.
    pub fn resume(&self, worker: usize) {
        self.slots(Thread::Worker(worker)).is_stalled.set(false);
    }

    /// Envoy calls the VM back for a context that may be over, or never was: contexts are numbered from 1 on in each VM.
    pub fn call_back(&self, place: impl Into<Place>, context: u32, callback: Callback) {
        let Place { worker, seat } = place.into();
        self.run(Thread::Worker(worker), seat, |vm| vm.call_back(context, callback));
    }

    /// The context that was begun last in a worker's VM.
    pub fn last_context(&self, place: impl Into<Place>) -> u32 {
        self.at(place.into()).vm.as_ref().map_or(0, Vm::last_context)
    }

    /// Starts a worker's VM anew, without waiting for a request or the pause before it.
    pub fn reload(&self, place: impl Into<Place>) {
        let place = place.into();
        self.at(place).vm = None;
        self.note_lost_caller();
        self.start_vm(Thread::Worker(place.worker), place.seat);
        self.give_up_lost_calls();
    }

    pub(crate) fn has_rules(&self) -> bool {
        !self.inner.rules.borrow().is_empty()
    }

    /// What a rule says to a host call. While a rule runs, none sees what it makes others do.
    pub(crate) fn fault(&self, call: &Call<'_>) -> Option<Fault> {
        if !self.has_rules() {
            return None;
        }
        self.unruled(|rules| rules.iter_mut().find_map(|rule| rule(self, call)))
    }

    /// Does something that no rule sees. Rules that are added meanwhile come after the others.
    fn unruled<T>(&self, act: impl FnOnce(&mut Vec<Rule>) -> T) -> T {
        let mut rules = std::mem::take(&mut *self.inner.rules.borrow_mut());
        let done = act(&mut rules);
        let added = std::mem::replace(&mut *self.inner.rules.borrow_mut(), rules);
        self.inner.rules.borrow_mut().extend(added);
        done
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

    /// What shared data holds: how many keys, and how many bytes in their names and values.
    pub fn shared_size(&self) -> (usize, usize) {
        self.inner.shared.borrow().size()
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

    /// Has the module tell now what it has counted. No rule sees this.
    fn tell_counts(&self) {
        self.unruled(|_| {
            for thread in self.threads().filter(|thread| !self.slots(*thread).is_running()) {
                self.run(thread, Seat::Request, |vm| vm.tick_early(nanos(COUNTS_WAIT)));
            }
        });
    }

    /// A metric as `/stats` shows it a moment later, by its name without Envoy's prefix; `None` where it is not listed.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.tell_counts();
        self.inner.metrics.borrow().shown(name)
    }

    /// A metric as `/stats` shows it now, whatever the module has counted since it told the last time.
    pub fn metric_told(&self, name: &str) -> Option<u64> {
        self.inner.metrics.borrow().shown(name)
    }

    /// A metric of a policy's key; 0 where it is not listed.
    pub fn metric_of(&self, policy: &str, key: &str, metric: &str) -> u64 {
        self.metric(&format!("holdfast.policy=.={policy};.;key=.={key};.;{metric}")).unwrap_or(0)
    }

    /// All metrics as `/stats` shows them a moment later, by name.
    pub fn metrics(&self) -> Vec<(String, u64)> {
        self.tell_counts();
        self.inner.metrics.borrow().all_shown()
    }

    pub(crate) fn write_log(&self, thread: Thread, seat: Seat, level: u32, text: String) {
        self.inner.log.borrow_mut().push(Line { at: self.elapsed(), thread, seat, level, text });
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

    /// Checks that no context of a request or an attempt is left in any VM, and no request under way.
    #[track_caller]
    pub fn assert_nothing_is_left(&self) {
        self.give_up_lost_calls();
        let under_way = self.inner.schedule.borrow().len();
        assert_eq!(under_way, 0, "no request is under way at the end, and no call");
        for (thread, seat) in self.vms() {
            let left = self.slot(thread, seat).vm.as_mut().map_or(0, |vm| vm.data().streams.len());
            assert_eq!(left, 0, "the {seat:?} seat's VM on {thread} has no context of a request or a try at the end");
        }
    }

    /// Whether a worker's VM lives.
    pub fn is_alive(&self, place: impl Into<Place>) -> bool {
        self.at(place.into()).vm.is_some()
    }

    /// How many contexts of requests or attempts a worker's VM holds.
    pub fn streams(&self, place: impl Into<Place>) -> usize {
        self.at(place.into()).vm.as_mut().map_or(0, |vm| vm.data().streams.len())
    }

    /// How many root contexts a worker's VM holds.
    pub fn roots(&self, place: impl Into<Place>) -> usize {
        self.at(place.into()).vm.as_mut().map_or(0, |vm| vm.data().roots.len())
    }

    /// How many bytes of memory a worker's VM holds.
    pub fn memory(&self, place: impl Into<Place>) -> usize {
        self.at(place.into()).vm.as_mut().map_or(0, Vm::memory_size)
    }

    /// How many ids of metrics a worker's VM has: Envoy keeps each that it has given as long as the VM lives, also of a name that was
    /// defined before.
    pub fn metric_ids(&self, place: impl Into<Place>) -> usize {
        self.at(place.into()).vm.as_mut().map_or(0, |vm| vm.data().metrics.iter().map(Vec::len).sum())
    }

    /// How many host calls a worker's VM has made.
    pub fn calls(&self, place: impl Into<Place>) -> u64 {
        self.at(place.into()).vm.as_mut().map_or(0, |vm| vm.data().calls)
    }

    /// The policy document of the first listener.
    pub fn policy(&self) -> String {
        self.inner
            .main
            .configurations
            .borrow()
            .first()
            .cloned()
            .flatten()
            .map(|text| text.to_string())
            .unwrap_or_default()
    }
}
