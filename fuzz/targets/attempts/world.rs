//! Three workers, the requests that they have begun, and what happens to them.

use core::mem;
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use holdfast_engine::attempt::{AttemptEffect, AttemptPlugin, AttemptVm};
use holdfast_engine::base::time::{SKEW, Timestamp};
use holdfast_engine::fallback::PATIENCE;
use holdfast_engine::host::RootHost;
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::outlier::calls::CallResponse;
use holdfast_engine::request::{
    ActivePolicy, Call, Configuration, RequestEffect, RequestPlugin, RequestState, RequestVm,
};
use holdfast_engine::retry::{Denial, Eligibility};
use holdfast_engine::seats::retry_context::{Next, PROPERTY};
use holdfast_engine::store::Store;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::paths::{self, HostPaths, KeysPaths};
use holdfast_engine::store::record::{self, Kind, Mark};
use holdfast_engine::store::workers;

use crate::checks::{Change, Doubts};
use crate::policies::Shape;
use crate::request::{Phase, Request};
use crate::steps::{self, Order, Pretended, Seat, Step, mostly_first};
use crate::streams::CLIENT_LEFT;

/// Odd, so that no two multiples of it are equal.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both seats of one worker thread: two VMs.
pub struct Worker {
    vm: Rc<RequestVm>,
    pub request: Rc<RequestPlugin>,
    attempt: AttemptPlugin,
    /// The attempt seat's root.
    pub ticks: Rc<MemoryHost>,
    /// Calls of our own that are under way.
    calls: Vec<MadeCall>,
    /// First attempts that passed without a record, by where the attempt seat remembers them.
    pub passed: HashMap<u64, u64>,
}

/// A call of our own.
struct MadeCall {
    plugin: Rc<RequestPlugin>,
    policy: Rc<ActivePolicy>,
    call: Call,
    token: u32,
}

pub struct World<'s> {
    pub shape: &'s Shape,
    pub store: MemoryStore,
    /// The root of all request seats.
    pub root: Rc<MemoryHost>,
    /// Each from its first use on.
    pub workers: [Option<Worker>; 3],
    pub requests: Vec<Request>,
    /// Whether bodies come by while their headers are held.
    pub sees_held_bodies: bool,
    pub began: Timestamp,
    pub now: Timestamp,
    pub doubts: Doubts,
    /// Tokens that were withdrawn, less those that were given back or used by an attempt.
    pub tokens: i64,
    /// What requests have in their keys: their clusters and tenants.
    pub keys: HashSet<(u8, Vec<u8>)>,
    seed: u64,
    seeds: u64,
    /// Whether a tick is under way, and the next one still to be asked for.
    is_ticking: bool,
    /// Names of streams and of calls.
    names: u32,
    /// Requests that a policy governed, and those of them whose outcome was to be reported.
    pub governed: u64,
    outcomes: u64,
}

impl<'s> World<'s> {
    pub fn new(shape: &'s Shape, signalled: bool, sees_held_bodies: bool, seed: u64) -> Self {
        let now = Timestamp::from_secs(1_700_000_000);
        World {
            shape,
            store: if signalled { MemoryStore::default() } else { MemoryStore::unsignalled() },
            root: Rc::new(MemoryHost::at(now)),
            workers: [const { None }; 3],
            requests: Vec::new(),
            sees_held_bodies,
            began: now,
            now,
            doubts: Doubts::default(),
            tokens: 0,
            keys: HashSet::new(),
            seed,
            seeds: 0,
            is_ticking: false,
            names: 0,
            governed: 0,
            outcomes: 0,
        }
    }

    /// The worker of this number, which is there from now on.
    fn started(&mut self, worker: u8) -> usize {
        let number = usize::from(mostly_first(worker, 3));
        if self.workers[number].is_none() {
            self.workers[number] = Some(self.worker());
        }
        number
    }

    fn all_started(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|worker| self.workers[*worker].is_some()).collect()
    }

    /// A worker that is there.
    pub fn at_work(&self, number: usize) -> &Worker {
        self.workers[number].as_ref().expect("it has begun")
    }

    /// What VMs draw from differs between them, as it does in Envoy.
    fn next_seed(&mut self) -> u64 {
        self.seeds += 1;
        self.seed.wrapping_add(self.seeds.wrapping_mul(SPREAD))
    }

    pub fn next_name(&mut self) -> u32 {
        self.names += 1;
        self.names
    }

    fn worker(&mut self) -> Worker {
        let vm = Rc::new(RequestVm::new(self.next_seed()));
        let request = self.request_plugin(&vm);
        let ticks = Rc::new(self.root.another());
        let root: Rc<dyn RootHost> = ticks.clone();
        let attempt = AttemptPlugin::new(&root, Rc::new(AttemptVm::new(self.next_seed())));
        Worker { vm, request, attempt, ticks, calls: Vec::new(), passed: HashMap::new() }
    }

    fn request_plugin(&mut self, vm: &Rc<RequestVm>) -> Rc<RequestPlugin> {
        let root: Rc<dyn RootHost> = self.root.clone();
        let configuration = Configuration::read(self.shape.text.as_bytes()).expect("the policy is valid");
        let plugin = RequestPlugin::new(&root, Rc::clone(vm), configuration);
        plugin.reseed(&mut self.store);
        plugin.start();
        Rc::new(plugin)
    }

    pub fn step(&mut self, step: &Step<'_>) {
        let requests = self.requests.len();
        let pick = |request: u8| usize::from(request).checked_rem(requests);
        match *step {
            Step::Request { worker, ref request } => {
                let worker = self.started(worker);
                self.request(worker, request);
            }
            Step::Serve { worker, cluster, status, seated } => {
                let worker = self.started(worker);
                let number = self.serve(worker, cluster, status, seated, false);
                self.finish(number, Order::AttemptsFirst);
            }
            Step::Retry { worker, cluster, status } => {
                let worker = self.started(worker);
                let number = self.serve(worker, cluster, status, true, true);
                self.begin(number, steps::Attempt::default());
            }
            Step::Hedge { worker, cluster, hedges } => {
                let worker = self.started(worker);
                let number = self.get(worker, cluster, true);
                for one in 0..usize::from(hedges % 4) {
                    self.begin(number, steps::Attempt::default());
                    if one < self.requests[number].attempts.len() {
                        self.hedge(number, one);
                    }
                }
                self.begin(number, steps::Attempt::default());
            }
            Step::Outage { worker, cluster, requests } => {
                let worker = self.started(worker);
                for _ in 0..requests % 8 {
                    let number = self.serve(worker, cluster, steps::Status::Unavailable, true, false);
                    self.finish(number, Order::AttemptsFirst);
                }
            }
            Step::Pieces { worker, cluster, seated, local, ref pieces, ended } => {
                let worker = self.started(worker);
                let number = self.begin_failing(worker, cluster, seated, local);
                for (piece, millis) in pieces {
                    if self.requests[number].is_open {
                        self.body(number, &host_bytes(*piece), false);
                    }
                    self.pass((*millis).into());
                }
                match ended.filter(|_| self.requests[number].is_open) {
                    Some(true) => self.body(number, b"end", true),
                    Some(false) => self.trailers(number, Some(b"2")),
                    None => {}
                }
                self.pass(25);
                self.finish(number, Order::AttemptsFirst);
            }
            Step::Pass(millis) => self.pass(millis),
            Step::Uploaded { request } => {
                if let Some(request) = pick(request) {
                    self.uploaded(request);
                }
            }
            Step::Begin { request, attempt } => {
                if let Some(request) = pick(request) {
                    self.begin(request, attempt);
                }
            }
            Step::Overdue { request, one } => {
                if let Some((request, one)) = self.one(pick(request), one, |_| true) {
                    self.hedge(request, one);
                }
            }
            Step::Respond { request, one, ref response } => {
                if let Some((request, one)) = self.one(pick(request), one, |phase| phase == Phase::Sent) {
                    self.respond(request, one, response);
                }
            }
            Step::Silence { request, one, connection, flags, named } => {
                if let Some((request, one)) = self.one(pick(request), one, |phase| phase != Phase::Answered) {
                    self.silence(request, one, connection, flags, named);
                }
            }
            Step::Body { request, piece, ended } => {
                if let Some(request) = pick(request).filter(|request| self.requests[*request].is_open) {
                    self.body(request, &host_bytes(piece), ended);
                }
            }
            Step::Trailers { request, grpc_status } => {
                if let Some(request) = pick(request).filter(|request| self.requests[*request].is_open) {
                    self.trailers(request, grpc_status);
                }
            }
            Step::Local { request, ref reply, order } => {
                if let Some(request) = pick(request).filter(|request| self.requests[*request].is_waited_for()) {
                    self.local_reply(request, reply, order);
                }
            }
            Step::Leave { request, order } => {
                if let Some(request) = pick(request) {
                    let flag = CLIENT_LEFT[usize::from(order == Order::RequestFirst)];
                    self.put_flags(request, flag);
                    self.finish(request, order);
                }
            }
            Step::Finish { request, order } => {
                if let Some(request) = pick(request) {
                    self.finish(request, order);
                }
            }
            Step::Again { request, ref headers } => {
                if let Some(request) = pick(request) {
                    self.again(request, headers);
                }
            }
            Step::Replace { request, head, body } => {
                if let Some(request) = pick(request) {
                    self.replace(request, &bytes(head.then_some(Kind::RetryContext), body));
                }
            }
            Step::Patch { request, at, bytes } => {
                if let Some(request) = pick(request) {
                    let mut property = self.requests[request].property();
                    property.iter_mut().skip(at.into()).zip(bytes).for_each(|(old, new)| *old = *new);
                    self.replace(request, &property);
                }
            }
            Step::Pretend { request, retries, eligibility, next, deadline, attempt_lasts } => {
                if let Some(request) = pick(request)
                    && let Some(mut context) = self.requests[request].context()
                {
                    let at = |millis: i16| Timestamp(self.now.0.saturating_add_signed(i64::from(millis) * 1_000_000));
                    context.retries = retries;
                    context.eligibility = Eligibility::from_number(eligibility).unwrap_or(context.eligibility);
                    context.deadline = deadline.map(at);
                    context.attempt_lasts = attempt_lasts.map(|millis| Duration::from_millis(millis.into()));
                    context.next = match next {
                        Pretended::Open => Next::Open,
                        Pretended::Retry { due, taken } => Next::Retry { due: at(due), taken: at(taken) },
                        Pretended::Due(due) => Next::Due(at(due)),
                        Pretended::Denied(number) => Denial::from_number(number).map_or(Next::Open, Next::Denied),
                    };
                    self.replace(request, &context.property());
                }
            }
            Step::Contend { request, given_up } => {
                if let Some(request) = pick(request) {
                    self.requests[request].host.put_contentions(given_up);
                    self.root.put_contentions(given_up);
                }
            }
            Step::Scribble { record, number, head, body } => {
                let (name, kind) = target(record, number, &self.shape.policy.name);
                self.store.set(&name, &bytes(head.then_some(kind), body));
                self.doubts.records = true;
            }
            Step::Tick { worker, seat } => {
                let worker = self.started(worker);
                match seat {
                    Seat::Request => self.tick_request_seat(worker),
                    Seat::Attempt => self.tick_attempt_seat(worker),
                }
            }
            Step::Answer { worker, one, ref headers, body } => {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (name.text(), *value)).collect();
                let worker = self.started(worker);
                self.answer_call(worker, one, &headers, body);
            }
            Step::Restart { worker } => {
                let number = self.started(worker);
                // What the VMs had in flight is gone with them, and with it what they held.
                self.requests.retain(|request| request.worker != number);
                self.workers[number] = Some(self.worker());
                self.doubts.crashes = true;
            }
            Step::Reload { worker } => {
                let number = self.started(worker);
                let vm = Rc::clone(&self.at_work(number).vm);
                let plugin = self.request_plugin(&vm);
                at_work(&mut self.workers, number).request = plugin;
            }
            Step::Forward(micros) => self.set_clock(self.now.plus(Duration::from_micros(micros.into()))),
            Step::Back(micros) => self.set_clock(Timestamp(self.now.0.saturating_sub(u64::from(micros) * 1000))),
            Step::At(nanos) => self.set_clock(Timestamp(nanos)),
            Step::Signal => self.store.raise_epoch(),
        }
    }

    fn pass(&mut self, millis: u16) {
        self.set_clock(self.now.plus(Duration::from_millis(millis.into())));
        for worker in self.all_started() {
            self.tick_attempt_seat(worker);
            self.tick_request_seat(worker);
        }
    }

    fn set_clock(&mut self, now: Timestamp) {
        self.doubts.clock |= now < self.now;
        self.now = now;
        self.root.set_now(now);
    }

    fn replace(&mut self, request: usize, property: &[u8]) {
        let request = &mut self.requests[request];
        request.host.put_property(PROPERTY, Some(property));
        request.replaced = true;
        self.doubts.contexts = true;
    }

    /// An attempt of a request that is in such a phase.
    fn one(&self, request: Option<usize>, one: u8, wanted: impl Fn(Phase) -> bool) -> Option<(usize, usize)> {
        let attempts = &self.requests[request?].attempts;
        let fit: Vec<usize> = (0..attempts.len()).filter(|number| wanted(attempts[*number].phase)).collect();
        let one = usize::from(one).checked_rem(fit.len())?;
        Some((request?, fit[one]))
    }

    /// Has the request seat act on a request, and checks what it leaves.
    pub fn on_request<R>(
        &mut self,
        number: usize,
        event: impl FnOnce(RequestState, &RequestPlugin, &mut MemoryStore, &MemoryHost) -> (RequestState, R),
    ) -> R {
        let key = self.requests[number].context().map(|context| context.key);
        let before = key.map_or(0, |key| self.used(key));
        let request = &mut self.requests[number];
        let was_admitted = matches!(request.state, RequestState::Admitted(_));
        let (state, done) = event(mem::take(&mut request.state), &request.plugin, &mut self.store, &request.host);
        request.state = state;
        let is_settled = was_admitted && !matches!(request.state, RequestState::Admitted(_));
        self.outcomes += u64::from(is_settled);
        // What the router did by itself is charged, and that is no token for an attempt.
        let given_back = key.map_or(0, |key| before.saturating_sub(self.used(key)));
        assert!(given_back <= u32::from(is_settled), "{given_back} tokens for the one retry that was not made");
        self.tokens -= i64::from(given_back);
        self.check_lines(&self.requests[number]);
        done
    }

    /// Has the attempt seat act on one of a request's attempts, and checks what it leaves.
    pub fn on_attempt<R>(
        &mut self,
        number: usize,
        event: impl FnOnce(&AttemptPlugin, &mut MemoryStore, &MemoryHost) -> R,
    ) -> (R, Change) {
        let (old, before) = (self.requests[number].property(), self.requests[number].context());
        let key = before.as_ref().map(|context| context.key);
        let used = key.map_or(0, |key| self.used(key));
        let request = &self.requests[number];
        let done = event(&at_work(&mut self.workers, request.worker).attempt, &mut self.store, &request.host);
        self.tokens += i64::from(key.map_or(0, |key| self.used(key))) - i64::from(used);
        let request = &self.requests[number];
        let change = Change { before, after: request.context() };
        self.check_context(request, &old, &change);
        if !self.is_ticking {
            self.check_ticks(request.worker);
        }
        (done, change)
    }

    /// The plugins of a worker's request seat: one that was replaced is there until its last request is over.
    fn request_plugins(&self, worker: usize) -> Vec<Rc<RequestPlugin>> {
        let mut plugins = vec![Rc::clone(&self.at_work(worker).request)];
        for request in self.requests.iter().filter(|request| request.worker == worker) {
            if !plugins.iter().any(|known| Rc::ptr_eq(known, &request.plugin)) {
                plugins.push(Rc::clone(&request.plugin));
            }
        }
        plugins
    }

    fn tick_request_seat(&mut self, number: usize) {
        for plugin in self.request_plugins(number) {
            let effects = self.wake_held(&plugin);
            let World { store, workers, names, .. } = self;
            let Worker { calls, .. } = at_work(workers, number);
            plugin.on_tick(store, &mut |policy, call| make(calls, names, &plugin, policy, call));
            // When the tick is over.
            effects.into_iter().for_each(|(stream, effect)| self.let_go(stream, effect));
        }
        self.check_nothing_is_held_too_long(number);
        self.check_log();
        self.check_in_flight();
    }

    /// Looks at the answers that a plugin holds, and says what is to be done with each.
    fn wake_held(&mut self, plugin: &RequestPlugin) -> Vec<(u32, RequestEffect)> {
        let mut effects = Vec::new();
        for held in plugin.take_held(true, self.now) {
            let stream = held.stream;
            // Envoy does not know the context of one that is over.
            let Some(request) = self.requests.iter().find(|request| request.stream == stream) else { continue };
            effects.push((stream, plugin.wake(&request.host, held, self.now)));
        }
        effects
    }

    /// No answer is held for much longer than it may be, where ticks come.
    fn check_nothing_is_held_too_long(&self, worker: usize) {
        for request in self.requests.iter().filter(|request| request.worker == worker) {
            let held_for = request.held.as_ref().map_or(Duration::ZERO, |held| self.now.since(held.since));
            assert!(held_for < PATIENCE + PATIENCE / 4, "held for {held_for:?}");
        }
    }

    fn answer_call(&mut self, number: usize, one: u8, headers: &[(&str, &[u8])], body: &[u8]) {
        let World { store, workers, names, .. } = self;
        let Worker { calls, .. } = at_work(workers, number);
        let Some(one) = usize::from(one).checked_rem(calls.len()) else { return };
        let MadeCall { plugin, policy, call, token } = calls.swap_remove(one);
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_vec());
        let body = if call.request.reads_body(body.len()) { body } else { &[] };
        let response = CallResponse::read(&call.request, &header, &header, body);
        plugin.call_reported(store, &policy, &call, token, response, &mut |policy, call| {
            make(calls, names, &plugin, policy, call)
        });
        self.check_log();
    }

    /// Wakes those whose time has come. What follows from it comes when all are awake, as in Envoy.
    fn tick_attempt_seat(&mut self, worker: usize) {
        let now = self.now;
        let due = self.at_work(worker).attempt.take_due(now).expect("nothing is borrowed");
        let mut replies = Vec::new();
        for waiter in due {
            let stream = waiter.stream;
            let (number, one) = self.stream(stream).expect("who is gone is not woken");
            let Phase::Waiting { not_before, .. } = self.requests[number].attempts[one].phase else {
                panic!("who does not wait is not woken")
            };
            let woken = |plugin: &AttemptPlugin, store: &mut MemoryStore, host: &MemoryHost| {
                plugin.wake(store, host, waiter, now)
            };
            let (effect, change) = self.on_attempt_quietly(number, woken);
            let phase = match effect {
                AttemptEffect::Resume => {
                    assert!(self.doubts.is_tampered() || now >= not_before, "it is resumed before it is due");
                    self.check_retry(number, &change);
                    Phase::Sent
                }
                AttemptEffect::Pause => Phase::Waiting { since: now, not_before },
                AttemptEffect::Reply(reply) => {
                    replies.push((stream, reply));
                    Phase::Stopped
                }
                AttemptEffect::Continue => panic!("nothing else is at work"),
            };
            self.requests[number].attempts[one].phase = phase;
        }
        at_work(&mut self.workers, worker).attempt.end_tick(&mut self.store, now);
        let mut replied = Vec::new();
        for (stream, reply) in replies {
            let Some((number, _)) = self.stream(stream) else {
                assert!(!replied.contains(&stream), "a second reply would crash Envoy");
                continue;
            };
            replied.extend(self.requests[number].attempts.iter().map(|one| one.stream));
            self.replied(number, &reply);
        }
        self.check_ticks(worker);
        self.check_nobody_is_overdue(worker);
    }

    /// As [`World::on_attempt`], while a tick is under way and no next one has been asked for.
    fn on_attempt_quietly<R>(
        &mut self,
        number: usize,
        event: impl FnOnce(&AttemptPlugin, &mut MemoryStore, &MemoryHost) -> R,
    ) -> (R, Change) {
        self.is_ticking = true;
        let done = self.on_attempt(number, event);
        self.is_ticking = false;
        done
    }

    /// Nobody waits for longer than the longest wait.
    fn check_nobody_is_overdue(&self, worker: usize) {
        let Some(longest) = self.longest() else { return };
        for request in self.requests.iter().filter(|request| request.worker == worker) {
            for one in &request.attempts {
                if let Phase::Waiting { since, .. } = one.phase {
                    let (early, late) = (since.since(self.now), self.now.since(since));
                    assert!(late < longest.max(HOLDS_FOR) || self.now == since, "held for {late:?}");
                    assert!(
                        early <= longest.max(HOLDS_FOR).saturating_add(SKEW),
                        "the clock was put back by {early:?}"
                    );
                }
            }
        }
    }

    fn stream(&self, stream: u32) -> Option<(usize, usize)> {
        self.requests
            .iter()
            .enumerate()
            .find_map(|(number, request)| Some((number, request.attempts.iter().position(|one| one.stream == stream)?)))
    }

    /// Ends all streams, and looks at what they leave.
    pub fn end(&mut self) {
        while !self.requests.is_empty() {
            self.finish(0, Order::AttemptsFirst);
        }
        // Ticks that came for held answers have left what was counted for its time.
        self.set_clock(self.now.plus(COUNTS_WAIT));
        for worker in self.all_started() {
            self.tick_attempt_seat(worker);
            self.tick_request_seat(worker);
            let late = self.at_work(worker).attempt.take_due(Timestamp(u64::MAX)).expect("nothing is borrowed");
            assert!(late.is_empty(), "nobody waits any more");
        }
        if !self.doubts.records && !self.doubts.clock && !self.doubts.crashes {
            assert_eq!(self.counted_in_flight(self.now), 0, "nothing is in flight any more");
        }
        let sum = |names: &[&str]| names.iter().map(|name| self.root.metrics_sum(name)).sum::<u64>();
        assert_eq!(sum(&[";.;requests"]), self.governed, "each request counts once");
        assert_eq!(sum(&[";.;success", ";.;failure", ";.;ignored"]), self.outcomes, "and so does its outcome");
        let Some(retry) = self.shape.retry() else { return };
        let has_lapsed = self.now.since(self.began) >= retry.budget.window;
        if !self.doubts.is_tampered() && !self.doubts.crashes && !self.doubts.pretences && !has_lapsed {
            // The retry context keeps one token at a time: of two hedges that wait when all ends, one's comes back with the window.
            let is_settled = if retry.hedge_on_per_try_timeout { self.tokens >= 0 } else { self.tokens == 0 };
            assert!(is_settled, "each token was used or given back: {}", self.tokens);
        }
    }
}

/// A worker that is there.
pub fn at_work(workers: &mut [Option<Worker>], number: usize) -> &mut Worker {
    workers[number].as_mut().expect("it has begun")
}

/// How long the request seat may wait before it tells what it has counted.
const COUNTS_WAIT: Duration = Duration::from_millis(100);

/// A hedge that may not be sent looks again that soon.
const HOLDS_FOR: Duration = Duration::from_millis(5);

/// Makes a call, where there is such a cluster.
fn make(
    calls: &mut Vec<MadeCall>,
    names: &mut u32,
    plugin: &Rc<RequestPlugin>,
    policy: &Rc<ActivePolicy>,
    call: &Call,
) -> Option<u32> {
    *names += 1;
    let has_room = calls.len() < 8 && call.request.upstream != "c3";
    has_room.then(|| {
        let (plugin, policy, call) = (Rc::clone(plugin), Rc::clone(policy), call.clone());
        calls.push(MadeCall { plugin, policy, call, token: *names });
        *names
    })
}

/// What a host sends: so many bytes.
fn host_bytes(count: u8) -> Vec<u8> {
    vec![b'x'; count.into()]
}

/// Bytes with the head that belongs there, or without one.
fn bytes(head: Option<Kind>, body: &[u8]) -> Vec<u8> {
    let head = head.map(|kind| record::head(kind, Mark::NONE)).unwrap_or_default();
    [&head, body].concat()
}

/// One of the names that a policy uses that is alone, and what belongs there.
fn target(record: u8, number: u8, policy: &str) -> (String, Kind) {
    let (key, index) = (u16::from(number & 3), u16::from(number >> 2));
    let id = if number & 1 == 0 { GroupId::OfTheKey } else { GroupId::Numbered(Occupant { index, tenancy: 0 }) };
    let hosts = HostPaths::new(0, key, id).expect("it has its place");
    let seat = paths::of_group(BlockKind::Keys, 0, key, id).expect("it has its place");
    let (keys, of) = (KeysPaths::new(0), |kind| format!("{}/{key}", paths::of_block(kind, 0)));
    let slot = |kind| format!("{}/slot/{}", of(kind), index & 3);
    match record % 19 {
        0 => (workers::KEY.to_owned(), Kind::Workers),
        1 => (workers::ATTEMPTS_KEY.to_owned(), Kind::Workers),
        2 => (of(BlockKind::Breaker), Kind::Breaker),
        3 => (slot(BlockKind::Breaker), Kind::BreakerSlot),
        4 => (of(BlockKind::Retry), Kind::Budget),
        5 => (of(BlockKind::Concurrency), Kind::InFlight),
        6 => (format!("{seat}/seat"), Kind::AttemptSeat),
        7 => (keys.name(key), Kind::KeyName),
        8 => (keys.directory(), Kind::Occupants),
        9 => (keys.groups(), Kind::Occupants),
        10 => (hosts.table(), Kind::Hosts),
        11 => (hosts.run(index), Kind::HostRun),
        12 => (hosts.slot(number & 2 == 0, index & 3), Kind::HostSlot),
        13 => (hosts.leader(), Kind::Leader),
        14 => (paths::REGISTRY.to_owned(), Kind::Registry),
        15 => (slot(BlockKind::Throttle), Kind::TrafficSlot),
        16 => (slot(BlockKind::Retry), Kind::DepositSlot),
        17 => (paths::series(policy), Kind::Series),
        _ => (paths::of_block(BlockKind::Text, 0), Kind::PolicyText),
    }
}
