//! Both seats of three workers while anything at all is written over their records and over what they tell each other, at
//! any time: requests are planned, attempts respond or do not, wait, are sent or stopped, and are accounted for.

#![no_main]

use core::time::Duration;
use holdfast_engine::cx::Cx;
use holdfast_engine::retry::conditions;
use holdfast_engine::retry::eligibility;
use holdfast_engine::retry::router;
use std::sync::{Arc, LazyLock};

use holdfast_engine::attempt::{AfterResponse, AttemptPolicy, BeforeRetry, RouteEnds};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::event::Event;
use holdfast_engine::http::attempt::{AttemptRecord, End};
use holdfast_engine::http::headers;
use holdfast_engine::http::outcome::{Answer, Outcome, Verdict};
use holdfast_engine::http::response::ResponseHead;
use holdfast_engine::request::access_log;
use holdfast_engine::request::{Asked, AttemptsMade, Decision, Plan, RequestPolicy, Ticket};
use holdfast_engine::retry::budget::Withdrawn;
use holdfast_engine::retry::{Denial, Eligibility, Named};
use holdfast_engine::seats::retry_context::{Next, RetryContext};
use holdfast_engine::store::Store;
use holdfast_engine::store::cluster::{ClusterHash, GroupId};
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::paths::{self, GroupPaths, Paths};
use holdfast_engine::store::record::{Kind, Record, VERSION, occupied};
use holdfast_engine::store::worker::Worker;
use holdfast_engine::store::workers;
use holdfast_policy::config;
use holdfast_policy::document::{Budget, Mode, Policy, Retry};
use holdfast_policy::percent::Percent;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Retries of every kind, each with its policy's own text.
static POLICIES: LazyLock<Vec<(Arc<Policy>, String)>> = LazyLock::new(|| {
    let document = br#"{"policies": [
        {"name": "plain", "breaker": {"min_requests": 2, "open_for": "1s", "half_open": {"probes": 2}}, "retry": {}},
        {"name": "most", "scope": [], "retry": {"max_retries": 20, "on": ["5xx", "retriable-status-codes", "unavailable", 409],
            "timeout": "10s", "per_try_timeout": "300ms", "backoff": {"max": "5m", "jitter": "decorrelated"},
            "budget": {"ratio": 100, "window": "1s"}}},
        {"name": "hedge", "retry": {"max_retries": 3, "per_try_timeout": "100ms", "hedge_on_per_try_timeout": true,
            "backoff": {"base": "1s", "max": "2s", "jitter": "equal"},
            "budget": {"ratio": 0, "min_per_second": 0.5, "window": "10s"}}},
        {"name": "deaf", "retry": {"max_retries": 1, "on": ["envoy-ratelimited", "connect-failure", "429-430", "cancelled"],
            "retry_after": {"honor": false, "max": "0s"}, "backoff": {"base": "1ms", "max": "1ms", "jitter": "none"},
            "skip_retries_of_retries": false, "idempotency_header": "x-key"}},
        {"name": "tight", "retry": {"per_try_timeout": "1s", "timeout": "1s", "on": ["retriable-4xx", "reset"],
            "budget": {"ratio": 0, "min_per_second": 0.001, "window": "5m"}}},
        {"name": "none", "retry": {"max_retries": 0}},
        {"name": "shadow", "retry": {"mode": "shadow"}}
    ]}"#;
    let texts = config::policy_texts(document);
    let policies = config::parse(document).expect("the policies are valid").policies;
    policies.into_iter().map(Arc::new).zip(texts).collect()
});

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    policy: u8,
    signalled: bool,
    steps: Vec<Step<'a>>,
}

/// Numbers of workers, requests and attempts are taken modulo how many there are.
#[derive(Debug, Arbitrary)]
enum Step<'a> {
    /// A request comes.
    Request {
        worker: u8,
        value: &'a [u8],
        post: bool,
        keyed: bool,
        attempt: Option<&'a [u8]>,
        cluster: u8,
        ended: bool,
        misses_seat: bool,
    },
    /// The router begins an attempt.
    Begin {
        request: u8,
        route: &'a [u8],
    },
    /// The wait of an attempt is over.
    Wake {
        request: u8,
        one: u8,
    },
    /// An attempt has a response.
    Respond {
        request: u8,
        one: u8,
        host: &'a [u8],
        status: Status,
        headers: Vec<(Name<'a>, &'a str)>,
        ended: bool,
        route: &'a [u8],
        ends: Ends,
    },
    /// An attempt ends without a response.
    Silence {
        request: u8,
        one: u8,
        host: &'a [u8],
        connected: bool,
        client_left: bool,
    },
    /// A request is over.
    Finish {
        request: u8,
        answer: AnyAnswer,
        attempts: u64,
    },
    /// Something else is where the retry context was.
    Replace {
        request: u8,
        head: bool,
        body: &'a [u8],
    },
    /// Some bytes of the retry context are others.
    Patch {
        request: u8,
        at: u8,
        bytes: &'a [u8],
    },
    /// The retry context says something else, and is well-formed. Times are milliseconds from now.
    Pretend {
        request: u8,
        retries: u8,
        eligibility: u8,
        next: Pretended,
        deadline: Option<i16>,
        attempt_lasts: Option<u16>,
    },
    /// Something else is where a record was.
    Scribble {
        record: u8,
        number: u8,
        head: bool,
        body: &'a [u8],
    },
    Tick {
        worker: u8,
    },
    Restart {
        worker: u8,
        seed: u64,
    },
    Forward(u32),
    Back(u32),
    At(u64),
    Signal,
}

/// The statuses that policies here name in one way or another, and any.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Status {
    Ok,
    Conflict,
    TooManyRequests,
    Internal,
    Unavailable,
    Any(u16),
}

impl Status {
    fn code(self) -> u16 {
        match self {
            Status::Ok => 200,
            Status::Conflict => 409,
            Status::TooManyRequests => 429,
            Status::Internal => 500,
            Status::Unavailable => 503,
            Status::Any(status) => status,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Name<'a> {
    Status,
    ContentType,
    GrpcStatus,
    RetryAfter,
    Pushback,
    Ratelimited,
    Other(&'a str),
}

impl Name<'_> {
    fn text(&self) -> &str {
        match self {
            Name::Status => ":status",
            Name::ContentType => "content-type",
            Name::GrpcStatus => "grpc-status",
            Name::RetryAfter => "retry-after",
            Name::Pushback => "grpc-retry-pushback-ms",
            Name::Ratelimited => "x-envoy-ratelimited",
            Name::Other(name) => name,
        }
    }
}

/// What is to happen next, as somebody else would have it.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Pretended {
    Open,
    Retry { due: i16, taken: i16 },
    Due(i16),
    Denied(u8),
}

/// When the route ends a request.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Ends {
    Unknown,
    Never,
    At(u64),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum AnyAnswer {
    Http(u16),
    Grpc(u32),
    NoAnswer,
    TimedOut,
    NotTheHost,
}

impl AnyAnswer {
    fn answer(self) -> Answer {
        match self {
            AnyAnswer::Http(status) => Answer::Http(status),
            AnyAnswer::Grpc(status) => Answer::Grpc(status),
            AnyAnswer::NoAnswer => Answer::NoAnswer,
            AnyAnswer::TimedOut => Answer::TimedOut,
            AnyAnswer::NotTheHost => Answer::NotTheHost,
        }
    }
}

/// Both seats of one worker thread: two VMs.
struct Thread {
    request: Worker,
    governed: RequestPolicy,
    attempt: Worker,
    attempts: Option<AttemptPolicy>,
}

impl Thread {
    fn new(policy: &Arc<Policy>, seed: u64) -> Self {
        let governed = RequestPolicy::new(Arc::clone(policy));
        Thread { request: Worker::new(seed), governed, attempt: Worker::new(!seed), attempts: None }
    }
}

/// A request, as the router and the two seats share it.
struct Request {
    thread: usize,
    ticket: Ticket,
    plan: Option<Plan>,
    /// The filter state.
    property: Vec<u8>,
    attempts: Vec<InFlight>,
    begun: u32,
    /// Retries that the attempt seat has sent.
    sent: u32,
    /// Hedges that are held back until they are the last attempt left.
    held: usize,
    /// The status of an answer that passed without a record, and whether it was marked.
    passed: Option<(u16, bool)>,
    /// Whether somebody else wrote the property.
    replaced: bool,
}

/// One attempt with its own copy of the retry context.
struct InFlight {
    context: RetryContext,
    phase: Phase,
}

/// How far an attempt has come.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// It waits until it is due, with a token that was withdrawn then.
    Waiting { due: Timestamp, taken: Timestamp },
    /// It was sent then.
    Sent(Timestamp),
}

struct World<'a> {
    policy: &'a Arc<Policy>,
    text: &'a str,
    store: MemoryStore,
    threads: [Thread; 3],
    requests: Vec<Request>,
    now: Timestamp,
    events: Vec<Event>,
    /// Whether anybody but the seats has written a record or a property, or set the clock back.
    tampered: bool,
    /// Tokens that were withdrawn, less those that were given back or used by an attempt.
    tokens: i64,
}

fuzz_target!(|input: Input<'_>| {
    let (policy, text) = &POLICIES[usize::from(input.policy) % POLICIES.len()];
    let mut world = World {
        policy,
        text,
        store: if input.signalled { MemoryStore::default() } else { MemoryStore::unsignalled() },
        threads: [1, 2, 3].map(|seed| Thread::new(policy, seed)),
        requests: Vec::new(),
        now: Timestamp::from_secs(1_700_000_000),
        events: Vec::new(),
        tampered: false,
        tokens: 0,
    };
    world.threads[0].governed.publish(&mut world.store, text);
    for step in &input.steps {
        world.step(step);
        world.events.clear();
    }
});

impl World<'_> {
    fn retry(&self) -> &Retry {
        self.policy.retry.as_ref().expect("every policy has retries")
    }

    /// No wait is longer.
    fn longest(&self) -> Duration {
        self.retry().backoff.max.max(self.retry().retry_after.max)
    }

    fn step(&mut self, step: &Step<'_>) {
        let requests = self.requests.len();
        let pick = |request: u8| usize::from(request).checked_rem(requests);
        match *step {
            Step::Request { worker, value, post, keyed, attempt, cluster, ended, misses_seat } => {
                let method: &[u8] = if post { b"POST" } else { b"GET" };
                let eligibility = eligibility::of(self.retry(), method, || keyed, attempt);
                let asked = Asked { eligibility, cluster: ClusterHash(cluster.into()), ended };
                self.request(usize::from(worker % 3), value, asked, misses_seat);
            }
            Step::Begin { request, route } => {
                if let Some(request) = pick(request) {
                    self.begin(request, route);
                }
            }
            Step::Wake { request, one } => {
                if let Some((request, one, Phase::Waiting { taken, .. })) = self.one(pick(request), one) {
                    self.wake(request, one, taken);
                }
            }
            Step::Respond { request, one, host, status, ref headers, ended, route, ends } => {
                if let Some((request, one, Phase::Sent(sent))) = self.one(pick(request), one) {
                    self.respond(request, one, sent, Response { host, status, headers, ended, route, ends });
                }
            }
            Step::Silence { request, one, host, connected, client_left } => {
                if let Some((request, one, phase)) = self.one(pick(request), one) {
                    self.silence(request, one, phase, host, connected, client_left);
                }
            }
            Step::Finish { request, answer, attempts } => {
                if let Some(request) = pick(request) {
                    self.finish(request, answer.answer(), attempts);
                }
            }
            Step::Replace { request, head, body } => {
                if let Some(request) = pick(request) {
                    self.replace(request, bytes(head.then_some((Kind::RetryContext, 0)), body));
                }
            }
            Step::Patch { request, at, bytes } => {
                if let Some(request) = pick(request) {
                    let mut property = self.requests[request].property.clone();
                    property.iter_mut().skip(at.into()).zip(bytes).for_each(|(old, new)| *old = *new);
                    self.replace(request, property);
                }
            }
            Step::Pretend { request, retries, eligibility, next, deadline, attempt_lasts } => {
                if let Some(request) = pick(request)
                    && let Some(mut context) = RetryContext::read_property(&self.requests[request].property)
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
                    self.replace(request, context.property());
                }
            }
            Step::Scribble { record, number, head, body } => {
                let (key, kind, fingerprint) = target(record, number, &self.threads[0].governed);
                self.store.set(&key, &bytes(head.then_some((kind, fingerprint)), body));
                self.tampered = true;
            }
            Step::Tick { worker } => {
                let Thread { request, governed, .. } = &mut self.threads[usize::from(worker % 3)];
                request.tick(&mut self.store, self.now);
                governed.tick(&mut Cx::new(&mut self.store, request, self.now, &mut Vec::new()));
                governed.publish(&mut self.store, self.text);
            }
            Step::Restart { worker, seed } => {
                let number = usize::from(worker % 3);
                self.threads[number] = Thread::new(self.policy, seed);
                // What the VMs had in flight is gone with them, and with it what they held.
                self.requests.retain(|request| request.thread != number);
            }
            Step::Forward(micros) => self.now = self.now.plus(Duration::from_micros(micros.into())),
            Step::Back(micros) => self.set_clock(Timestamp(self.now.0.saturating_sub(u64::from(micros) * 1000))),
            Step::At(nanos) => self.set_clock(Timestamp(nanos)),
            Step::Signal => self.store.raise_epoch(),
        }
    }

    fn set_clock(&mut self, now: Timestamp) {
        self.tampered |= now < self.now;
        self.now = now;
    }

    fn replace(&mut self, request: usize, property: Vec<u8>) {
        let request = &mut self.requests[request];
        request.property = property;
        request.replaced = true;
        self.tampered = true;
    }

    /// An attempt of a request, and how far it has come.
    fn one(&self, request: Option<usize>, one: u8) -> Option<(usize, usize, Phase)> {
        let attempts = &self.requests[request?].attempts;
        let one = usize::from(one).checked_rem(attempts.len())?;
        Some((request?, one, attempts[one].phase))
    }

    /// What an attempt knows of its request: its own copy of the retry context, and where attempts run beside each other the newest.
    fn known(&self, request: usize, own: RetryContext) -> RetryContext {
        let written = RetryContext::read_property(&self.requests[request].property);
        let hedges = self.retry().hedge_on_per_try_timeout && own.eligibility == Eligibility::All;
        written.filter(|_| hedges).unwrap_or(own)
    }

    fn request(&mut self, number: usize, value: &[u8], asked: Asked, misses_seat: bool) {
        let retry = self.retry().clone();
        let World { store, threads, now, events, .. } = self;
        let Thread { request, governed, .. } = &mut threads[number];
        let key = governed.key(request, store, *now, |_| Some(value.into()));
        let Decision::Admitted(ticket) = governed.admit(&mut Cx::new(store, request, *now, events), key) else {
            return;
        };
        if misses_seat {
            governed.miss_attempt_seat(key, asked.cluster, *now);
        }
        let plan = governed.plan_retries(&mut Cx::new(store, request, *now, &mut Vec::new()), &ticket, asked);
        assert_eq!(plan.is_some(), retry.mode == Mode::Enforce);
        if let Some(plan) = &plan {
            let is_retried = plan.eligibility != Eligibility::Nothing && retry.max_retries > 0;
            assert_eq!(plan.context.is_some(), is_retried, "only what is retried is told of");
            assert!(plan.attempt_lasts >= retry.per_try_timeout, "no wait eats a try");
            let room = plan.attempt_lasts.unwrap_or_default().saturating_sub(retry.per_try_timeout.unwrap_or_default());
            assert!(room <= retry.backoff.max, "and no try lasts longer than a wait needs");
            for (name, value) in router::router_headers(&retry, plan.eligibility, plan.seat) {
                assert!(
                    !value.is_empty() && value.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                    "{name}: {value}"
                );
                if name == "x-envoy-max-retries" {
                    assert!(value.parse::<u8>().is_ok_and(|told| told <= retry.max_retries), "{value} retries");
                }
            }
        }
        let property = plan.as_ref().and_then(|plan| plan.context.as_ref()).map(RetryContext::property);
        let property = property.unwrap_or_default();
        self.requests.push(Request {
            thread: number,
            ticket,
            plan,
            property,
            attempts: Vec::new(),
            begun: 0,
            sent: 0,
            held: 0,
            passed: None,
            replaced: false,
        });
    }

    /// The attempt seat's policy for a retry context, as it finds it.
    fn seat(&mut self, number: usize, context: &RetryContext) -> Option<AttemptPolicy> {
        if let Some(known) = self.threads[number].attempts.take_if(|known| known.is(context)) {
            return Some(known);
        }
        let (name, fingerprint) = (&context.policy, context.fingerprint);
        let fetched = AttemptPolicy::fetch(&mut self.store, name, fingerprint)?;
        assert!(fetched.is(context), "never another policy's");
        Some(fetched)
    }

    /// Lets the attempt seat of a request's thread act on a retry context, and checks what it leaves.
    fn act<R>(
        &mut self,
        request: usize,
        context: &mut RetryContext,
        act: impl FnOnce(&mut AttemptPolicy, &mut Worker, &mut MemoryStore, &mut RetryContext, Timestamp) -> R,
    ) -> Option<R> {
        let number = self.requests[request].thread;
        let mut attempts = self.seat(number, context)?;
        let (before, was) = (self.used(context.key), context.retries);
        let now = self.now;
        let done = act(&mut attempts, &mut self.threads[number].attempt, &mut self.store, context, now);
        self.threads[number].attempts = Some(attempts);
        if !self.tampered {
            self.tokens += i64::from(self.used(context.key)) - i64::from(before);
        }
        assert_eq!(
            RetryContext::read_property(&context.property()).as_ref(),
            Some(&*context),
            "the other seat reads it"
        );
        let most = self.retry().max_retries.max(if self.requests[request].replaced { was } else { 0 });
        assert!(context.retries <= most, "{} of {most} retries", context.retries);
        Some(done)
    }

    /// How many tokens are withdrawn for a key.
    fn used(&mut self, key: Occupant) -> u32 {
        let fingerprint = self.threads[0].governed.fingerprint();
        let paths = Paths::new(&paths::of_policy(&self.policy.name, fingerprint), key.index);
        let fingerprint = occupied(fingerprint, key.tenancy);
        let stored = self.store.get(&paths.budget()).and_then(|(bytes, _)| Withdrawn::decode(&bytes, fingerprint));
        let cell = stored.unwrap_or_default();
        let one_each = Budget { ratio: Percent::FULL, min_per_second: 0, ..self.retry().budget };
        let (mut least, mut most) = (0, u32::MAX);
        while least < most {
            let middle = least + (most - least) / 2;
            if cell.has_left(&one_each, middle.saturating_add(1), self.now) {
                most = middle
            } else {
                least = middle + 1
            }
        }
        least
    }

    /// The router begins an attempt, and the attempt seat sees its headers.
    fn begin(&mut self, request: usize, route: &[u8]) {
        let one = &mut self.requests[request];
        let Some(mut context) = RetryContext::read_property(&one.property) else { return };
        let beside = one.attempts.len() + one.held;
        one.begun += 1;
        let (is_first, passed) = (one.begun == 1, one.passed);
        let done = self.act(request, &mut context, |attempts, worker, store, context, now| {
            attempts.announce(store, context, now);
            let hedges = attempts.hedges(context);
            if beside > 0 && !hedges {
                // Attempts follow each other.
                return None;
            }
            if let Some((status, marked)) = passed.filter(|_| !context.is_retried()) {
                let (end, took) = (End::Http(status), Duration::ZERO);
                context.ended(AttemptRecord { host: Vec::new(), end, verdict: Verdict::Success, took, ended: now });
                context.next = Next::Unnamed;
                context.marked = marked;
            }
            if matches!(context.next, Next::Denied(_) | Next::Unnamed) {
                attempts.came_back(context.marked, route.to_vec());
            }
            let is_retry = context.is_retried() || hedges && !is_first;
            let decision =
                is_retry.then(|| attempts.before_retry(&mut Cx::new(store, worker, now, &mut Vec::new()), context));
            Some((decision.unwrap_or(BeforeRetry::Send), is_retry, hedges))
        });
        let Some(Some((decision, is_retry, hedges))) = done else { return };
        let (now, longest) = (self.now, self.longest());
        let one = &mut self.requests[request];
        one.property = context.property();
        match decision {
            BeforeRetry::Send => {
                one.attempts.push(InFlight { context, phase: Phase::Sent(now) });
                if is_retry {
                    self.sends_further(request);
                }
            }
            BeforeRetry::Wait { due, taken } => {
                assert!(due > now && due.since(now) <= longest, "a wait of {:?} of {longest:?}", due.since(now));
                one.attempts.push(InFlight { context, phase: Phase::Waiting { due, taken } });
            }
            BeforeRetry::Stop(denial) => {
                if let Some(denial) = denial {
                    assert_eq!(context.next, Next::Denied(denial), "what is denied is told");
                }
                one.held += usize::from(hedges && beside > 0);
            }
        }
    }

    /// A retry leaves for its host.
    fn sends_further(&mut self, request: usize) {
        let most = u32::from(self.retry().max_retries);
        let one = &mut self.requests[request];
        one.sent += 1;
        assert!(one.replaced || one.sent <= most, "{} further tries of {most}", one.sent);
        self.tokens -= 1;
        assert!(self.tampered || self.tokens >= 0, "a further try without a token of its own");
    }

    fn wake(&mut self, request: usize, number: usize, taken: Timestamp) {
        let own = self.requests[request].attempts.remove(number).context;
        let mut context = self.known(request, own);
        let decision = self.act(request, &mut context, |attempts, _, store, context, now| {
            attempts.after_wait(store, context, taken, now)
        });
        let Some(decision) = decision else { return };
        let now = self.now;
        let one = &mut self.requests[request];
        one.property = context.property();
        match decision {
            BeforeRetry::Send => {
                one.attempts.push(InFlight { context, phase: Phase::Sent(now) });
                self.sends_further(request);
            }
            BeforeRetry::Wait { .. } => panic!("it has waited"),
            BeforeRetry::Stop(_) => one.held += usize::from(!one.attempts.is_empty()),
        }
    }

    fn respond(&mut self, request: usize, number: usize, sent: Timestamp, response: Response<'_>) {
        let Response { host, status, headers, ended, route, ends } = response;
        let status = (":status".to_owned(), status.code().to_string());
        let others = headers.iter().map(|(name, value)| (name.text().to_owned(), (*value).to_owned()));
        let headers: Vec<_> = core::iter::once(status).chain(others).collect();
        let honors = self.retry().retry_after.honor;
        let head = ResponseHead::read(&headers::write(&headers), self.now, honors);
        let own = self.requests[request].attempts.remove(number).context;
        let mut context = self.known(request, own);
        let beside = self.requests[request].attempts.len() + self.requests[request].held;
        let policy = Arc::clone(self.policy);
        let done = self.act(request, &mut context, |attempts, worker, store, context, now| {
            let answer = head.answer(ended)?;
            let took = now.since(sent);
            let verdict = Outcome::judge(&policy.outcome, answer, took, None).verdict;
            let one = AttemptRecord { host: host.to_vec(), end: End::of(answer)?, verdict, took, ended: now };
            let is_marked = attempts.forbids(context, &head, || Some(route.to_vec()));
            let ratelimited = head.ratelimited.is_some();
            let named =
                conditions::names_response(&policy.retry.as_ref()?.on, head.status, head.grpc_status, ratelimited);
            if !context.is_retried() && verdict == Verdict::Success && named == Named::No {
                // Nothing is told of a request that simply succeeds.
                return Some((None, is_marked));
            }
            let after = if attempts.hedges(context) && beside > 0 {
                attempts.after_hedged_response(context, one, &head)
            } else {
                let ends = match ends {
                    Ends::Never if attempts.wants_time_left() => RouteEnds::Never,
                    Ends::At(nanos) if attempts.wants_time_left() => RouteEnds::At(Timestamp(nanos)),
                    _ => RouteEnds::Unknown,
                };
                attempts.after_response(&mut Cx::new(store, worker, now, &mut Vec::new()), context, one, &head, ends)
            };
            context.marked = after == AfterResponse::Forbid && is_marked;
            Some((Some(after), is_marked))
        });
        match done {
            Some(Some((Some(after), _))) => {
                if after == AfterResponse::Ask {
                    assert_eq!(
                        context.eligibility,
                        Eligibility::All,
                        "what a host has seen is sent again only if it may be"
                    );
                }
                self.requests[request].property = context.property();
            }
            Some(Some((None, is_marked))) => self.requests[request].passed = Some((head.status, is_marked)),
            Some(None) | None => {}
        }
    }

    fn silence(
        &mut self,
        request: usize,
        number: usize,
        phase: Phase,
        host: &[u8],
        connected: bool,
        client_left: bool,
    ) {
        let own = self.requests[request].attempts.remove(number).context;
        let mut context = self.known(request, own);
        let done = self.act(request, &mut context, |attempts, _, store, context, now| match phase {
            Phase::Waiting { taken, .. } if client_left => attempts.abandon(store, context, taken, now),
            Phase::Waiting { due, taken } if connected => AttemptPolicy::begin_again(context, due, taken),
            Phase::Waiting { .. } => attempts.after_no_connection(context, host.to_vec(), now),
            Phase::Sent(_) if client_left => {}
            Phase::Sent(sent) => attempts.after_no_response(context, host.to_vec(), connected, sent, now),
        });
        if done.is_some() {
            let no_connection = matches!(phase, Phase::Waiting { .. }) && !connected && !client_left;
            // The router counts an attempt that had no connection, and so does the budget.
            self.tokens -= i64::from(no_connection);
            self.requests[request].property = context.property();
        }
        if client_left {
            self.finish(request, Answer::NotTheHost, 0);
        }
    }

    fn finish(&mut self, request: usize, answer: Answer, attempts: u64) {
        // With the request its attempts are gone.
        let waits = |one: &InFlight| matches!(one.phase, Phase::Waiting { .. });
        while let Some(one) = self.requests[request].attempts.iter().position(waits) {
            self.silence(request, one, self.requests[request].attempts[one].phase, b"", true, false);
        }
        let Request { thread, ticket, plan, property, .. } = self.requests.swap_remove(request);
        let context = RetryContext::read_property(&property);
        let key = ticket.key();
        let before = self.used(key.occupant);
        let World { policy, store, threads, now, events, .. } = self;
        let Thread { request, governed, .. } = &mut threads[thread];
        let outcome = Outcome::judge(&policy.outcome, answer, Duration::ZERO, None);
        if let Some(hold) = governed.report(&mut Cx::new(store, request, *now, events), ticket, &outcome) {
            governed.release(&mut Cx::new(store, request, *now, &mut Vec::new()), hold);
        }
        let tried = AttemptsMade {
            eligibility: plan.as_ref().map_or(Eligibility::All, |plan| plan.eligibility),
            denial: plan.as_ref().and_then(|plan| plan.denial),
            context: context.as_ref(),
            attempts,
        };
        let accounted =
            governed.account_retries(&mut Cx::new(store, request, *now, events), key, &tried, answer, &outcome);
        // What the router did by itself is charged, and that is no token for an attempt.
        let given_back = before.saturating_sub(self.used(key.occupant));
        assert!(given_back <= 1, "{given_back} tokens for the one try that was not made");
        self.tokens -= i64::from(given_back);
        if let Some(context) = context {
            let mut line = String::new();
            access_log::push_attempts(&mut line, &context.attempts, accounted.denial);
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        }
    }
}

/// What an attempt gets back.
struct Response<'a> {
    host: &'a [u8],
    status: Status,
    headers: &'a [(Name<'a>, &'a str)],
    ended: bool,
    route: &'a [u8],
    ends: Ends,
}

/// Bytes with the head that belongs there, or without one.
fn bytes(head: Option<(Kind, u64)>, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some((kind, fingerprint)) = head {
        bytes.extend_from_slice(&[VERSION, kind as u8]);
        bytes.extend_from_slice(&fingerprint.to_le_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

/// One of the keys that the policy uses, with the head that belongs there.
fn target(record: u8, number: u8, governed: &RequestPolicy) -> (String, Kind, u64) {
    let fingerprint = governed.fingerprint();
    let prefix = paths::of_policy(&governed.policy().name, fingerprint);
    let key = Paths::new(&prefix, (number & 3).into());
    match record % 7 {
        0 => (workers::KEY.to_owned(), Kind::Workers, 0),
        1 => (key.breaker(), Kind::Breaker, fingerprint),
        2 => (key.slot((number >> 2 & 3).into()), Kind::Slot, fingerprint),
        3 => (key.budget(), Kind::Budget, fingerprint),
        4 => {
            let index = (number >> 2).into();
            let group = GroupPaths::new(&prefix, 0, GroupId::Numbered(Occupant { index, tenancy: 0 }));
            (group.map(|group| group.attempt_seat()).unwrap_or_default(), Kind::AttemptSeat, fingerprint)
        }
        5 => (format!("{prefix}/key/{}", number & 3), Kind::KeyName, fingerprint),
        _ => (paths::policy_text(&prefix), Kind::PolicyText, fingerprint),
    }
}
