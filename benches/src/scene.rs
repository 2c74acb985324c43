//! Workers, keys and policies of one case, in a state that stays the same however often it is measured.

use core::time::Duration;
use holdfast_engine::cx::Cx;
use std::borrow::Cow;
use std::sync::Arc;

use holdfast_engine::attempt::{AfterResponse, AttemptPolicy, RouteEnds};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::{AttemptRecord, End};
use holdfast_engine::http::index::Index;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::http::request::Field;
use holdfast_engine::http::response::ResponseHead;
use holdfast_engine::outlier::hosts::HostAttempt;
use holdfast_engine::request::{Asked, Decision, Plan, RequestPolicy, Sending, Sent, Ticket};
use holdfast_engine::retry::Eligibility;
use holdfast_engine::seats::retry_context::RetryContext;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config;
use holdfast_policy::document::Policy;

use crate::case::{Case, Kind, Part};

pub(crate) const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };
pub(crate) const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };

/// Virtual time between two requests of a worker: 10,000 a second.
const GAP: Duration = Duration::from_micros(100);

/// Virtual time between two retries. After it a worker's sum of all workers' requests is too old for another.
const RETRY_GAP: Duration = Duration::from_millis(10);

/// How long a worker relies on what it knows of the attempt seat.
const SEAT_IS_KNOWN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Scene {
    store: MemoryStore,
    threads: Vec<Thread>,
    /// Clusters and tenants that requests take in turn.
    requests: Vec<Request>,
    next: usize,
    tickets: Vec<(usize, Ticket)>,
    /// The measured worker's attempt seat, where the policy has retries or judges hosts.
    seat: Option<AttemptSeat>,
    /// The cluster's hosts, and which of them answers next.
    hosts: Vec<String>,
    next_host: usize,
    now: Timestamp,
}

/// The attempt seat of one worker, and the failed attempts that it is to decide on.
#[derive(Debug)]
struct AttemptSeat {
    worker: Worker,
    attempts: AttemptPolicy,
    failed: Vec<(RetryContext, AttemptRecord)>,
    /// This VM among those of the attempt seats.
    attempt_worker: Worker,
    /// What it is told about a request.
    context: Option<RetryContext>,
}

/// One worker with its view of all policies.
#[derive(Debug)]
struct Thread {
    worker: Worker,
    index: Index,
    policies: Vec<RequestPolicy>,
    events: Vec<holdfast_engine::event::Event>,
}

#[derive(Debug)]
struct Request {
    cluster: String,
    tenant: String,
}

impl Request {
    fn field(&self, field: Field<'_>) -> Option<Cow<'_, [u8]>> {
        match field {
            Field::Cluster => Some(Cow::Borrowed(self.cluster.as_bytes())),
            Field::Header("x-tenant") => Some(Cow::Borrowed(self.tenant.as_bytes())),
            _ => None,
        }
    }
}

impl Thread {
    fn new(index: &Index, policies: &[Arc<Policy>], seed: u64) -> Self {
        let policies = policies.iter().map(|policy| RequestPolicy::new(Arc::clone(policy))).collect();
        Thread { worker: Worker::new(seed), index: index.clone(), policies, events: Vec::with_capacity(8) }
    }

    /// What the module does for a request: the first policy that matches, its key, its decision.
    fn decide(&mut self, store: &mut MemoryStore, request: &Request, now: Timestamp) -> Option<(usize, Decision)> {
        self.events.clear();
        let field = |field: Field<'_>| request.field(field);
        let index = self.index.find(field)?;
        let governed = self.policies.get_mut(index)?;
        let key = governed.key(&mut self.worker, store, now, field);
        Some((index, governed.admit(&mut Cx::new(store, &mut self.worker, now, &mut self.events), key)))
    }

    fn report(&mut self, store: &mut MemoryStore, index: usize, ticket: Ticket, outcome: &Outcome, now: Timestamp) {
        self.events.clear();
        if let Some(governed) = self.policies.get_mut(index) {
            let hold = governed.report(&mut Cx::new(store, &mut self.worker, now, &mut self.events), ticket, outcome);
            debug_assert!(hold.is_none(), "nothing limits requests in flight");
        }
    }

    /// What the module tells the router and the attempt seat about a request that it lets pass.
    fn plan(
        &mut self,
        store: &mut MemoryStore,
        index: usize,
        ticket: &Ticket,
        cluster: &str,
        now: Timestamp,
    ) -> Option<Plan> {
        let governed = self.policies.get_mut(index)?;
        let cluster = governed.cluster_hash(ticket.key(), || cluster.as_bytes().into());
        let asked = Asked { eligibility: Eligibility::All, cluster, ended: true };
        governed.plan_retries(&mut Cx::new(store, &mut self.worker, now, &mut Vec::new()), ticket, asked)
    }

    /// What the module decides about where a request goes that it lets pass.
    fn send(
        &mut self,
        store: &mut MemoryStore,
        index: usize,
        ticket: &Ticket,
        cluster: &str,
        now: Timestamp,
    ) -> Option<Sent> {
        self.events.clear();
        let governed = self.policies.get_mut(index)?;
        let hash = governed.cluster_hash(ticket.key(), || cluster.as_bytes().into());
        let sending = Sending { cluster: hash, cluster_name: cluster.as_bytes(), eligibility: None, context: None };
        Some(governed.send(&mut Cx::new(store, &mut self.worker, now, &mut self.events), ticket, sending))
    }

    fn tick(&mut self, store: &mut MemoryStore, now: Timestamp) {
        self.worker.tick(store, now);
        for governed in &mut self.policies {
            governed.tick(&mut Cx::new(store, &mut self.worker, now, &mut Vec::new()));
        }
    }
}

impl AttemptSeat {
    /// The seat for the first policy, which the first worker publishes.
    fn new(store: &mut MemoryStore, threads: &[Thread], text: &str) -> Self {
        let governed = threads.first().and_then(|thread| thread.policies.first()).expect("there is a policy");
        let alone = config::policy_texts(text.as_bytes());
        governed.publish(store, alone.first().expect("a text for each policy"));
        let attempts = AttemptPolicy::fetch(store, &governed.policy().name, governed.fingerprint());
        AttemptSeat {
            worker: Worker::new(0),
            attempts: attempts.expect("it is published"),
            failed: Vec::new(),
            attempt_worker: Worker::of_attempts(1),
            context: None,
        }
    }

    /// Judges the host of an attempt that has ended. Whether its name was asked for.
    fn judge(&mut self, store: &mut MemoryStore, host: &str, verdict: Verdict, now: Timestamp) -> bool {
        let AttemptSeat { attempts, attempt_worker, context: Some(context), .. } = self else { return false };
        if verdict == Verdict::Success && !attempts.wants_host(store, context, now) {
            return false;
        }
        let end = End::Http(if verdict == Verdict::Success { 200 } else { 503 });
        let one = HostAttempt { host: host.as_bytes(), end, verdict, took: Duration::from_millis(3), sent: now };
        attempts.judge_host(&mut Cx::new(store, attempt_worker, now, &mut Vec::new()), context, one);
        true
    }
}

impl Scene {
    pub(crate) fn new(case: &Case) -> Self {
        let text = document(case);
        let document = config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        let index = Index::new(&document);
        let policies: Vec<Arc<Policy>> = document.policies.into_iter().map(Arc::new).collect();
        let mut store = MemoryStore::default();
        let threads: Vec<_> = (1..=case.workers).map(|seed| Thread::new(&index, &policies, seed as u64)).collect();
        let seat = (case.part.retries() || case.part.hosts()).then(|| AttemptSeat::new(&mut store, &threads, &text));
        let requests = (0..case.keys.max(case.policies))
            .map(|number| Request {
                cluster: format!("outbound|80||service-{}", number % case.policies),
                tenant: format!("tenant-{}", number % case.keys),
            })
            .collect();
        let mut scene = Scene {
            store,
            threads,
            requests,
            next: 0,
            tickets: Vec::with_capacity(case.batch() as usize),
            seat,
            hosts: hosts(case),
            next_host: 0,
            now: Timestamp::from_secs(1_700_000_000),
        };
        // Every worker has seen enough of every key: windows are full, and volumes beyond `min_requests`.
        let each = match case.kind {
            Kind::Time | Kind::Run => 32,
            Kind::Count100 => 100,
            Kind::Count1000 => 1000,
        };
        for _ in 0..each * scene.requests.len() {
            scene.serve_everywhere(&SUCCESS);
        }
        if case.part == Part::Reject {
            scene.serve_everywhere(&FAILURE);
        }
        if case.part.hosts() {
            scene.meet_hosts(case);
        }
        scene
    }

    /// One request on every worker.
    fn serve_everywhere(&mut self, outcome: &Outcome) {
        let Scene { store, threads, requests, next, now, .. } = self;
        let request = requests.get(*next % requests.len()).expect("there is a request");
        for thread in threads {
            *now = now.plus(GAP);
            if let Some((index, Decision::Admitted(ticket))) = thread.decide(store, request, *now) {
                thread.report(store, index, ticket, outcome, *now);
            }
        }
        *next += 1;
    }

    pub(crate) fn prepare(&mut self, case: &Case) {
        for thread in &mut self.threads {
            thread.tick(&mut self.store, self.now);
        }
        if case.part == Part::Reject {
            // The breaker stays open for longer than any measurement; only its view is made fresh.
            let _ = self.admit(case);
            return;
        }
        // Ends runs of failures, and looks at every cell, so that no view becomes old within the batch.
        for _ in 0..self.requests.len() {
            self.serve_everywhere(&SUCCESS);
        }
        self.tickets.clear();
        if case.part.retries() {
            self.meet_seat();
        }
        if case.part.hosts() {
            self.refresh_hosts(case);
        }
        let has_tickets =
            !matches!(case.part, Part::Admit | Part::Reject | Part::Judge | Part::JudgeRates | Part::JudgeFailed);
        if has_tickets {
            for _ in 0..case.batch() {
                match self.one() {
                    Some((index, Decision::Admitted(ticket))) => self.tickets.push((index, ticket)),
                    other => panic!("{case:?}: {other:?}"),
                }
            }
            // Reported in the order of admission, from the back.
            self.tickets.reverse();
        }
        if case.part == Part::Grant {
            self.fail_tries();
        }
    }

    /// Lets the request seat of the measured worker learn of the attempt seat.
    fn meet_seat(&mut self) {
        for _ in 0..2 {
            self.now = self.now.plus(SEAT_IS_KNOWN);
            let Some((index, Decision::Admitted(ticket))) = self.one() else { panic!("a request is let pass") };
            let planned = self.plan_one(index, &ticket).and_then(|plan| plan.context).expect("it may be retried");
            if let Some(seat) = &mut self.seat {
                seat.attempts.announce(&mut self.store, &planned, self.now);
            }
        }
    }

    /// Lets both seats know all hosts, and takes one out where that is the case's.
    fn meet_hosts(&mut self, case: &Case) {
        let Some((index, Decision::Admitted(ticket))) = self.one() else { panic!("a request is let pass") };
        let context = self.send_one(index, &ticket).and_then(|sent| sent.context);
        let Scene { store, seat: Some(seat), hosts, now, .. } = self else { panic!("there is an attempt seat") };
        seat.context = context;
        for host in hosts.iter() {
            *now = now.plus(GAP);
            seat.judge(store, host, Verdict::Success, *now);
        }
        let bad = if case.part == Part::Steer { 5 } else { 0 };
        for _ in 0..bad {
            let host = hosts.first().expect("there is a host");
            seat.judge(store, host, Verdict::Failure, *now);
        }
    }

    /// Makes views fresh, so that none becomes old within the batch, and ends runs of failures.
    fn refresh_hosts(&mut self, case: &Case) {
        for _ in 0..2 {
            self.now = self.now.plus(SEAT_IS_KNOWN);
            let Some((index, Decision::Admitted(ticket))) = self.one() else { panic!("a request is let pass") };
            self.send_one(index, &ticket);
            if case.part == Part::Judge || case.part == Part::JudgeRates {
                (0..20 * case.hosts).for_each(|_| {
                    self.judge_one(true);
                });
            }
        }
    }

    fn send_one(&mut self, index: usize, ticket: &Ticket) -> Option<Sent> {
        let cluster = &self.requests.get(self.next)?.cluster;
        self.threads.first_mut()?.send(&mut self.store, index, ticket, cluster, self.now)
    }

    /// The next host answers. Whether it was asked for by name.
    fn judge_one(&mut self, well: bool) -> bool {
        self.now = self.now.plus(GAP);
        self.next_host = if self.next_host + 1 < self.hosts.len() { self.next_host + 1 } else { 0 };
        let verdict = if well { Verdict::Success } else { Verdict::Failure };
        let Scene { store, seat: Some(seat), hosts, next_host, now, .. } = self else { return false };
        hosts.get(*next_host).is_some_and(|host| seat.judge(store, host, verdict, *now))
    }

    /// Lets the first attempt of all requests fail.
    fn fail_tries(&mut self) {
        while let Some((index, ticket)) = self.tickets.pop() {
            let context = self.plan_one(index, &ticket).and_then(|plan| plan.context).expect("it may be retried");
            let (host, end, took) = (b"10.0.0.1:8080".to_vec(), End::Http(503), Duration::from_millis(3));
            let one = AttemptRecord { host, end, verdict: Verdict::Failure, took, ended: self.now };
            if let Some(seat) = &mut self.seat {
                seat.failed.push((context, one));
            }
        }
    }

    fn plan_one(&mut self, index: usize, ticket: &Ticket) -> Option<Plan> {
        let cluster = &self.requests.get(self.next)?.cluster;
        self.threads.first_mut()?.plan(&mut self.store, index, ticket, cluster, self.now)
    }

    fn one(&mut self) -> Option<(usize, Decision)> {
        self.now = self.now.plus(GAP);
        // Counted through, without the division that would cost as much as a small decision.
        self.next = if self.next + 1 < self.requests.len() { self.next + 1 } else { 0 };
        let request = self.requests.get(self.next)?;
        self.threads.first_mut()?.decide(&mut self.store, request, self.now)
    }

    pub(crate) fn admit(&mut self, case: &Case) -> u32 {
        let mut admitted = 0;
        for _ in 0..case.batch() {
            admitted += u32::from(matches!(self.one(), Some((_, Decision::Admitted(_)))));
        }
        admitted
    }

    pub(crate) fn reject(&mut self, case: &Case) -> u32 {
        let mut rejected = 0;
        for _ in 0..case.batch() {
            rejected += u32::from(matches!(self.one(), Some((_, Decision::Rejected(_)))));
        }
        rejected
    }

    pub(crate) fn report(&mut self, outcome: &Outcome) -> u32 {
        let Scene { store, threads, tickets, now, .. } = self;
        let mut reported = 0;
        let Some(thread) = threads.first_mut() else { return reported };
        while let Some((index, ticket)) = tickets.pop() {
            *now = now.plus(GAP);
            thread.report(store, index, ticket, outcome, *now);
            // Nothing moved: what is told is the outcome and nothing else.
            reported += u32::from(thread.events.len() == 1);
        }
        reported
    }

    pub(crate) fn plan(&mut self) -> u32 {
        let mut planned = 0;
        while let Some((index, ticket)) = self.tickets.pop() {
            self.now = self.now.plus(GAP);
            let plan = self.plan_one(index, &ticket);
            planned += u32::from(plan.is_some_and(|plan| plan.seat && plan.context.is_some()));
        }
        planned
    }

    pub(crate) fn grant(&mut self) -> u32 {
        let Scene { store, seat: Some(AttemptSeat { worker, attempts, failed, .. }), now, .. } = self else { return 0 };
        let head = ResponseHead { status: 503, ..ResponseHead::default() };
        let mut granted = 0;
        while let Some((mut context, one)) = failed.pop() {
            *now = now.plus(RETRY_GAP);
            let after = attempts.after_response(
                &mut Cx::new(store, worker, *now, &mut Vec::new()),
                &mut context,
                one,
                &head,
                RouteEnds::Unknown,
            );
            granted += u32::from(after == AfterResponse::Ask);
        }
        granted
    }

    pub(crate) fn send(&mut self, steered: bool) -> u32 {
        let mut sent = 0;
        while let Some((index, ticket)) = self.tickets.pop() {
            self.now = self.now.plus(GAP);
            let done = self.send_one(index, &ticket);
            sent += u32::from(done.is_some_and(|done| done.context.is_some() && done.steering.is_some() == steered));
        }
        sent
    }

    pub(crate) fn judge(&mut self, case: &Case, well: bool) -> u32 {
        let mut judged = 0;
        for _ in 0..case.batch() {
            let asked = self.judge_one(well);
            // Of a success the host may not have to be known.
            judged += u32::from(asked || well);
        }
        judged
    }

    pub(crate) fn store_calls(&self) -> (usize, usize) {
        (self.store.reads(), self.store.writes())
    }
}

/// The cluster's hosts.
fn hosts(case: &Case) -> Vec<String> {
    (0..case.hosts).map(|number| format!("10.0.{}.{}:8080", number / 250, number % 250)).collect()
}

/// Policies that match one cluster each and count by tenant. A failure is never slow, so that a rate is worked out for
/// each one, which no number of failures reaches.
fn document(case: &Case) -> String {
    let breaker = match (case.kind, case.part) {
        (_, Part::Reject) => r#""window": "10s", "consecutive_failures": 1, "open_for": "24h""#,
        (Kind::Time, _) => r#""window": "10s", "failure_rate": 0, "slow_rate": 100"#,
        (Kind::Count100, _) => r#""window": 100, "failure_rate": 0, "slow_rate": 100"#,
        (Kind::Count1000, _) => r#""window": 1000, "failure_rate": 0, "slow_rate": 100"#,
        (Kind::Run, _) => r#""window": "10s", "failure_rate": 0, "slow_rate": 100, "consecutive_failures": 50"#,
    };
    // What is out stays out, nobody has to be looked for, and nobody is forgotten.
    let more = match case.part {
        Part::Steer => {
            r#", "base_ejection_time": "24h", "max_ejection_time": "24h",
                "discover": {"cluster": "envoy_admin", "path": "/clusters"}"#
        }
        Part::JudgeRates => r#", "failure_rate": {}, "latency": {}"#,
        Part::JudgeFailed => r#", "max_ejected": 0, "always_eject_one": false"#,
        _ => "",
    };
    let outlier =
        if case.part.hosts() { format!(r#", "outlier": {{"hosts": {:?}{more}}}"#, hosts(case)) } else { String::new() };
    // A budget that a batch does not use up.
    let retry = match case.part {
        Part::PlanPerTry => r#", "retry": {"per_try_timeout": "1s"}"#,
        Part::Plan | Part::Grant => r#", "retry": {"budget": {"min_per_second": 1000}}"#,
        _ => "",
    };
    let policies: Vec<String> = (0..case.policies)
        .map(|number| {
            format!(
                r#"{{"name": "p{number}", "match": {{"cluster": "outbound|80||service-{number}"}},
                    "scope": [{{"header": "x-tenant"}}], "outcome": {{"slow_after": "1s"}}, "breaker": {{{breaker}}}{retry}{outlier}}}"#
            )
        })
        .collect();
    format!(r#"{{"policies": [{}]}}"#, policies.join(","))
}
