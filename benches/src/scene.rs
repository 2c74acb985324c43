//! Workers, keys and policies of one case, in a state that stays the same however often it is measured.

use core::time::Duration;
use std::rc::Rc;

use holdfast_engine::attempt::{AttemptEffect, AttemptPlugin, AttemptState, AttemptVm};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::RootHost;
use holdfast_engine::outlier::discover;
use holdfast_engine::outlier::table::HostTable;
use holdfast_engine::outlier::topology::HostListing;
use holdfast_engine::request::{Configuration, RequestEffect, RequestPlugin, RequestState, RequestVm};
use holdfast_engine::store::Store;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::paths::{self, HostPaths};
use holdfast_engine::store::record::{Mark, Record, mark_of};
use holdfast_engine::store::registry::Registry;

use crate::case::{Case, Kind, Part};
use crate::host::{BenchHost, HeaderMap, Seen};
use crate::listing::{listing, spread};

/// Virtual time between two requests of a worker: 10,000 a second.
const GAP: Duration = Duration::from_micros(100);

/// Virtual time between two retries. After it a worker's sum of all workers' requests is too old for another.
const RETRY_GAP: Duration = Duration::from_millis(10);

/// How long a retry waits, where it does.
const BACKOFF: Duration = Duration::from_millis(1);

/// How long a worker relies on what it knows of the attempt seat.
const SEAT_IS_KNOWN: Duration = Duration::from_secs(1);

/// The cluster that is looked for in a listing, and how many others there are.
const LISTED: &str = "outbound|80||service-0";
const OTHERS: usize = 300;

/// How the host names a stream: one ends before the next begins.
const STREAM: u32 = 7;

pub(crate) struct Scene {
    host: Rc<BenchHost>,
    store: MemoryStore,
    /// The request seats' VMs, one for each worker.
    workers: Vec<RequestPlugin>,
    /// The measured worker's attempt seat.
    seat: AttemptPlugin,
    /// Clusters and tenants that requests take in turn.
    requests: Vec<Request>,
    next: usize,
    /// Requests whose response is still to come, with what their first attempt was told.
    begun: Vec<RequestState>,
    attempts: Vec<(AttemptState, Vec<u8>)>,
    /// The cluster's hosts, and which of them answers next.
    hosts: Vec<Rc<str>>,
    next_host: usize,
    responses: Responses,
    /// What Envoy lists, and the table of hosts that has taken it over.
    listing: String,
    listed: (HostListing, HostTable),
    now: Timestamp,
}

struct Request {
    cluster: Rc<str>,
    headers: Rc<HeaderMap>,
}

/// What hosts answer.
struct Responses {
    success: Rc<HeaderMap>,
    failure: Rc<HeaderMap>,
    /// A success with the attempt seat's mark.
    marked: Rc<HeaderMap>,
}

impl Responses {
    fn new() -> Self {
        let response = |status: &str, marks: &[(&str, &str)]| {
            let common = [
                (":status", status),
                ("content-type", "application/json"),
                ("content-length", "1532"),
                ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
                ("cache-control", "no-store"),
                ("x-envoy-upstream-service-time", "3"),
            ];
            HeaderMap::new(&[&common, marks].concat())
        };
        Responses {
            success: response("200", &[]),
            failure: response("503", &[]),
            marked: response("200", &[("x-holdfast-tries", "1")]),
        }
    }

    fn of(&self, well: bool) -> &Rc<HeaderMap> {
        if well { &self.success } else { &self.failure }
    }
}

impl Request {
    fn new(cluster: usize, tenant: usize) -> Self {
        let tenant = format!("tenant-{tenant}");
        let headers = [
            (":method", "GET"),
            (":path", "/orders/12345?expand=items"),
            (":authority", "orders.example.com"),
            (":scheme", "https"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
            ("accept", "application/json"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "6e1f2a7c-8f0e-4b7e-9a4f-0d6c1b2a3f4e"),
            ("x-tenant", &tenant),
        ];
        Request { cluster: format!("outbound|80||service-{cluster}").into(), headers: HeaderMap::new(&headers) }
    }
}

impl Scene {
    pub(crate) fn new(case: &Case) -> Self {
        let text = document(case);
        let now = Timestamp::from_secs(1_700_000_000);
        let host = Rc::new(BenchHost::new(now));
        let root: Rc<dyn RootHost> = Rc::clone(&host) as Rc<dyn RootHost>;
        let store = MemoryStore::default();
        let worker = |seed: usize| {
            let configuration = Configuration::read(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
            RequestPlugin::new(&root, Rc::new(RequestVm::new(seed as u64)), configuration)
        };
        let workers = (1..=case.workers).map(worker).collect();
        let numbers = 0..case.keys.max(case.policies);
        let mut scene = Scene {
            seat: AttemptPlugin::new(&root, Rc::new(AttemptVm::new(0))),
            host,
            store,
            workers,
            requests: numbers.map(|number| Request::new(number % case.policies, number % case.keys)).collect(),
            next: 0,
            begun: Vec::with_capacity(case.batch() as usize),
            attempts: Vec::with_capacity(case.batch() as usize),
            hosts: hosts(case).into_iter().map(Rc::from).collect(),
            next_host: 0,
            responses: Responses::new(),
            listing: String::new(),
            listed: <(HostListing, HostTable)>::default(),
            now,
        };
        // Every worker has seen enough of every key: windows are full, and volumes beyond `min_requests`.
        let each = match case.kind {
            Kind::Time | Kind::Run => 32,
            Kind::Count100 => 100,
            Kind::Count1000 => 1000,
        };
        for _ in 0..each * scene.requests.len() {
            scene.serve_everywhere(true);
        }
        if case.part == Part::Reject {
            scene.serve_everywhere(false);
        }
        if case.part.hosts() {
            scene.meet_hosts(case);
        }
        if matches!(case.part, Part::List | Part::TakeOver) || case.part.spreads() {
            scene.listing = listing_of(case);
            scene.read_listing();
        }
        if case.part.spreads() {
            scene.enter_listed();
        }
        scene
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.host.set_now(self.now);
    }

    /// A request comes to the request seat of a worker.
    fn begin(&mut self, worker: usize, request: usize) -> (RequestState, RequestEffect) {
        let (Some(plugin), Some(request)) = (self.workers.get(worker), self.requests.get(request)) else {
            panic!("there is none")
        };
        self.host.begin(&request.cluster, &request.headers);
        RequestState::on_request_headers(plugin, &mut self.store, &*self.host, true)
    }

    /// Its response comes, and its end. Whether that was that.
    fn end(&mut self, worker: usize, state: RequestState, headers: &Rc<HeaderMap>) -> bool {
        let Some(plugin) = self.workers.get(worker) else { return false };
        self.host.respond(headers);
        let (state, effect) = state.on_response_headers(plugin, &mut self.store, &*self.host, STREAM, true);
        let is_over = matches!((&state, effect), (RequestState::Over, RequestEffect::Continue));
        state.on_end(plugin, &mut self.store, &*self.host);
        is_over
    }

    /// The next request comes to the measured worker.
    fn one(&mut self) -> (RequestState, RequestEffect) {
        self.pass(GAP);
        // Counted through, without the division that would cost as much as a small decision.
        self.next = if self.next + 1 < self.requests.len() { self.next + 1 } else { 0 };
        self.begin(0, self.next)
    }

    fn admitted(&mut self) -> RequestState {
        match self.one() {
            (state @ RequestState::Admitted(_), RequestEffect::Continue) => state,
            (_, effect) => panic!("a request is let pass: {effect:?}"),
        }
    }

    /// One request on every worker.
    fn serve_everywhere(&mut self, well: bool) {
        let request = self.next % self.requests.len();
        let headers = Rc::clone(self.responses.of(well));
        for worker in 0..self.workers.len() {
            self.pass(GAP);
            let (state, _) = self.begin(worker, request);
            self.end(worker, state, &headers);
        }
        self.next += 1;
    }

    /// The router begins an attempt at the next host.
    fn begin_attempt(&mut self, number: u64) -> (AttemptState, AttemptEffect) {
        self.next_host = if self.next_host + 1 < self.hosts.len() { self.next_host + 1 } else { 0 };
        if let Some(host) = self.hosts.get(self.next_host) {
            self.host.attempt(number, host);
        }
        AttemptState::on_request_headers(&self.seat, &mut self.store, &*self.host, STREAM, true)
    }

    /// The attempt is answered, and over.
    fn end_attempt(&mut self, state: AttemptState, headers: &Rc<HeaderMap>) {
        self.host.respond(headers);
        state.on_response_headers(&self.seat, &mut self.store, &*self.host, STREAM, true);
        state.on_end(&self.seat, &mut self.store, &*self.host, STREAM);
    }

    pub(crate) fn prepare(&mut self, case: &Case) {
        for plugin in &self.workers {
            plugin.on_tick(&mut self.store, &mut |_, _| None);
        }
        if case.part == Part::Reject {
            // The breaker stays open for longer than any measurement; only its view is made fresh.
            let _ = self.reject(case);
            return;
        }
        // Ends runs of failures, and looks at every cell, so that no view becomes old within the batch.
        for _ in 0..self.requests.len() {
            self.serve_everywhere(true);
        }
        self.begun.clear();
        self.attempts.clear();
        if case.part.retries() {
            self.meet_seat();
        }
        if case.part.hosts() {
            self.refresh_hosts(case);
        }
        if case.part == Part::SteerAnew {
            // It is the same hosts, but where they stand has to be worked out again.
            if let Some(locality) = self.listed.0.localities.first_mut() {
                locality.unusable = 1 - locality.unusable.min(1);
            }
            self.enter_listed();
        }
        match case.part {
            Part::Succeed | Part::Fail => {
                for _ in 0..case.batch() {
                    let state = self.admitted();
                    self.begun.push(state);
                }
                // Reported in the order of admission, from the back.
                self.begun.reverse();
            }
            Part::Grant | Part::Judge | Part::JudgeRates | Part::JudgeFailed => {
                for _ in 0..case.batch() {
                    // Nobody waits for the request's own outcome.
                    let _ = self.admitted();
                    let (state, _) = self.begin_attempt(1);
                    self.attempts.push((state, self.host.context()));
                }
            }
            _ => {}
        }
    }

    /// Lets the request seat of the measured worker learn of the attempt seat.
    fn meet_seat(&mut self) {
        for _ in 0..2 {
            self.pass(SEAT_IS_KNOWN);
            let _ = self.admitted();
            let _ = self.begin_attempt(1);
        }
    }

    /// Lets both seats know all hosts, and takes one out where that is the case's.
    fn meet_hosts(&mut self, case: &Case) {
        let (success, failure) = (Rc::clone(&self.responses.success), Rc::clone(&self.responses.failure));
        for _ in 0..self.hosts.len() {
            let _ = self.admitted();
            let (state, _) = self.begin_attempt(1);
            self.end_attempt(state, &success);
        }
        let bad = if case.part.steers() { 5 } else { 0 };
        for _ in 0..bad {
            let _ = self.admitted();
            // The next one is the first.
            self.next_host = self.hosts.len();
            let (state, _) = self.begin_attempt(1);
            self.end_attempt(state, &failure);
        }
    }

    /// Makes views fresh, so that none becomes old within the batch, and ends runs of failures.
    fn refresh_hosts(&mut self, case: &Case) {
        let success = Rc::clone(&self.responses.success);
        for _ in 0..2 {
            self.pass(SEAT_IS_KNOWN);
            let _ = self.admitted();
            let _ = self.begin_attempt(1);
            let judges_well = [Part::Judge, Part::JudgeRates, Part::ServeHosts, Part::ServeSteered];
            if judges_well.contains(&case.part) {
                for _ in 0..20 * case.hosts {
                    let _ = self.admitted();
                    let (state, _) = self.begin_attempt(1);
                    self.end_attempt(state, &success);
                }
            }
        }
    }

    /// Runs a batch of what gives whether it went as it should.
    fn batch(&mut self, case: &Case, mut one: impl FnMut(&mut Self) -> bool) -> u32 {
        let before = self.host.seen();
        let done = (0..case.batch()).map(|_| u32::from(one(self))).sum();
        let lines = self.host.seen().lines - before.lines;
        // Nothing moved: there was nothing to say.
        if lines == 0 { done } else { 0 }
    }

    pub(crate) fn admit(&mut self, case: &Case) -> u32 {
        self.batch(case, |scene| matches!(scene.one(), (RequestState::Admitted(_), RequestEffect::Continue)))
    }

    pub(crate) fn reject(&mut self, case: &Case) -> u32 {
        self.batch(case, |scene| match scene.one() {
            (state, RequestEffect::Reply(_)) => {
                let Some(plugin) = scene.workers.first() else { return false };
                state.on_end(plugin, &mut scene.store, &*scene.host);
                true
            }
            _ => false,
        })
    }

    pub(crate) fn report(&mut self, case: &Case, well: bool) -> u32 {
        let headers = Rc::clone(self.responses.of(well));
        self.batch(case, |scene| {
            scene.pass(GAP);
            scene.begun.pop().is_some_and(|state| scene.end(0, state, &headers))
        })
    }

    /// Requests that go on, and leave this at the host each.
    fn sent(&mut self, case: &Case, count: impl Fn(Seen) -> [u32; 2]) -> u32 {
        let before = count(self.host.seen());
        let admitted = self.admit(case);
        let after = count(self.host.seen());
        let each = before.iter().zip(after).map(|(before, after)| after - before);
        each.fold(admitted, u32::min)
    }

    pub(crate) fn plan(&mut self, case: &Case) -> u32 {
        self.sent(case, |seen| [seen.contexts, seen.seats])
    }

    pub(crate) fn send(&mut self, case: &Case) -> u32 {
        let steered = self.host.seen().steered;
        let names = case.part.steers() || case.part.balance().is_some();
        let sent = self.sent(case, |seen| [seen.contexts, if names { seen.steered } else { seen.contexts }]);
        let is_well = names || self.host.seen().steered == steered;
        if is_well { sent } else { 0 }
    }

    pub(crate) fn grant(&mut self, case: &Case) -> u32 {
        let (asked, failure) = (self.host.seen().asked, Rc::clone(&self.responses.failure));
        let granted = self.batch(case, |scene| {
            scene.pass(RETRY_GAP);
            let Some((state, context)) = scene.attempts.pop() else { return false };
            scene.host.set_context(context);
            scene.end_attempt(state, &failure);
            true
        });
        granted.min(self.host.seen().asked - asked)
    }

    pub(crate) fn judge(&mut self, case: &Case, well: bool) -> u32 {
        let (addresses, headers) = (self.host.seen().addresses, Rc::clone(self.responses.of(well)));
        let judged = self.batch(case, |scene| {
            scene.pass(GAP);
            scene.next_host = if scene.next_host + 1 < scene.hosts.len() { scene.next_host + 1 } else { 0 };
            let Some(host) = scene.hosts.get(scene.next_host) else { return false };
            scene.host.attempt(1, host);
            let Some((state, context)) = scene.attempts.pop() else { return false };
            scene.host.set_context(context);
            scene.end_attempt(state, &headers);
            true
        });
        // Of a success the host may not have to be known.
        if well { judged } else { judged.min(self.host.seen().addresses - addresses) }
    }

    /// Whole requests, through the request seat alone or through both seats, whose one attempt succeeds.
    pub(crate) fn serve(&mut self, case: &Case, both: bool) -> u32 {
        let (steered, headers) = (self.host.seen().steered, Rc::clone(&self.responses.success));
        let served = self.batch(case, |scene| {
            let (state, effect) = scene.one();
            if both {
                let (attempt, begun) = scene.begin_attempt(1);
                if begun != AttemptEffect::Continue || !matches!(attempt, AttemptState::Governed(_)) {
                    return false;
                }
                scene.end_attempt(attempt, &headers);
            }
            matches!(effect, RequestEffect::Continue) && scene.end(0, state, &headers)
        });
        let steered = self.host.seen().steered - steered;
        if steered == if case.part.steers() { case.batch() } else { 0 } { served } else { 0 }
    }

    /// Whole requests through both seats, whose first attempt fails: a retry is granted, waits and succeeds.
    pub(crate) fn retry(&mut self, case: &Case) -> u32 {
        let Responses { success, failure, marked } = &self.responses;
        let (success, failure, marked) = (Rc::clone(success), Rc::clone(failure), Rc::clone(marked));
        self.batch(case, |scene| {
            scene.pass(RETRY_GAP);
            let (state, _) = scene.one();
            let (first, _) = scene.begin_attempt(1);
            scene.end_attempt(first, &failure);
            let (second, effect) = scene.begin_attempt(2);
            if effect != AttemptEffect::Pause {
                return false;
            }
            scene.pass(BACKOFF);
            let due = scene.seat.take_due(scene.now).unwrap_or_default();
            let mut resumed = 0;
            for waiter in due {
                let effect = scene.seat.wake(&mut scene.store, &*scene.host, waiter, scene.now);
                resumed += u32::from(effect == AttemptEffect::Resume);
            }
            scene.seat.end_tick(&mut scene.store, scene.now);
            scene.end_attempt(second, &success);
            resumed == 1 && scene.end(0, state, &marked)
        })
    }

    /// Reads the listing once, for what follows from it.
    fn read_listing(&mut self) {
        let listing =
            discover::hosts(self.listing.as_bytes(), LISTED, &|_| false).unwrap_or_else(|why| panic!("{why}"));
        self.listed.1.list(&listing, &|_| false, self.now);
        self.listed.0 = listing;
    }

    /// Reads the listing.
    pub(crate) fn list(&mut self, case: &Case) -> u32 {
        let listing = discover::hosts(self.listing.as_bytes(), LISTED, &|_| false);
        listing.map_or(0, |listing| u32::from(listing.hosts.len() == case.hosts))
    }

    /// Takes the listing over into a copy of a table that has it already.
    pub(crate) fn take_over(&mut self) -> u32 {
        let (listing, table) = &self.listed;
        let mut table = table.clone();
        table.list(listing, &|_| false, self.now);
        u32::from(table.known() == listing.hosts.len())
    }

    /// Another worker enters the listed hosts into the table that all share.
    fn enter_listed(&mut self) {
        let registry = self.store.get(paths::REGISTRY).and_then(|(bytes, _)| Registry::decode(&bytes, Mark::NONE));
        let block =
            registry.and_then(|registry| registry.all_places().find_map(|places| *places.get(BlockKind::Outlier)));
        let paths = block
            .and_then(|block| HostPaths::new(block.index, 0, GroupId::Numbered(Occupant { index: 0, tenancy: 0 })));
        let key = paths.map_or_else(String::new, |paths| paths.table());
        let stored = self.store.get(&key).and_then(|(bytes, _)| {
            let mark = mark_of(&bytes, HostTable::KIND)?;
            Some((mark, HostTable::decode(&bytes, mark)?))
        });
        let Some((mark, mut table)) = stored else { panic!("there is a table of hosts") };
        table.list(&self.listed.0, &|_| false, self.now);
        self.store.set(&key, &table.encode(mark));
        self.store.raise_epoch();
    }

    pub(crate) fn store_calls(&self) -> (usize, usize) {
        (self.store.reads(), self.store.writes())
    }
}

/// The cluster's hosts.
fn hosts(case: &Case) -> Vec<String> {
    (0..case.hosts).map(|number| format!("10.0.{}.{}:8080", number / 250, number % 250)).collect()
}

/// Envoy's listing of the cluster, its hosts in two priorities of four localities each, among others of three hosts.
fn listing_of(case: &Case) -> String {
    let other = |number: usize| {
        let hosts: Vec<String> =
            (1..=3).map(|host| format!("10.1.{}.{}:808{host}", number / 250, number % 250)).collect();
        (format!("outbound|80||service-{number}"), spread(&hosts))
    };
    let mut clusters: Vec<_> = (1..=OTHERS).map(other).collect();
    clusters.insert(OTHERS / 2, (LISTED.to_owned(), spread(&hosts(case))));
    listing(&clusters)
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
        _ if case.part.steers() => {
            r#", "base_ejection_time": "24h", "max_ejection_time": "24h",
                "discover": {"cluster": "envoy_admin", "path": "/clusters"}"#
        }
        Part::JudgeRates => r#", "failure_rate": {}, "latency": {}"#,
        Part::JudgeFailed => r#", "max_ejected": 0, "always_eject_one": false"#,
        _ => "",
    };
    let balance = case.part.balance().map_or_else(String::new, |balance| format!(r#", "balance": {balance}"#));
    let outlier = if case.part.hosts() {
        format!(r#", "outlier": {{"hosts": {:?}{more}{balance}}}"#, hosts(case))
    } else {
        String::new()
    };
    // A budget that a batch does not use up.
    let retry = match case.part {
        Part::PlanPerTry => r#", "retry": {"per_try_timeout": "1s"}"#,
        Part::Plan | Part::Grant | Part::ServeBoth | Part::Retry => {
            r#", "retry": {"budget": {"min_per_second": 1000}, "backoff": {"base": "1ms", "max": "1ms", "jitter": "none"}}"#
        }
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
