//! Random walks of updates, requests, deaths and time on three workers, from fixed seeds.
//!
//! In every other walk all workers have an update at once, so one document governs whatever comes, and what is promised over a
//! change is checked. In the others workers have it later than others, and listeners drain: what holds for each block is checked.

use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_host_tests::{Exchange, Host, Listener, Pending, Request, Response, Thread};
use serde_json::json;

use crate::fuzz::seeds;
use crate::support::{millis, seconds};
use crate::update_support::Document;

const WORKERS: usize = 3;
const STEPS: usize = 250;

const PROBES: usize = 3;
const LEASE: Duration = Duration::from_secs(4);
const OPEN_FOR: Duration = Duration::from_secs(3);

/// The most names that a walk may leave in shared data.
const MOST_NAMES: usize = 400;

/// A document, by what its blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocks {
    /// Which breaker, if there is one.
    breaker: Option<u64>,
    /// The limit on requests in flight, if there is one.
    limit: Option<u64>,
    /// Everything else.
    rest: u64,
}

impl Blocks {
    fn text(self) -> String {
        let mut document = Document::new(r#""outlier":{"consecutive_failures":1000}"#);
        if let Some(number) = self.breaker {
            let breaker = json!({
                "window": format!("{}ms", 5_000 + number), "failure_rate": 0, "consecutive_failures": 3, "open_for": "3s",
                "open_growth": 1, "open_jitter": 0, "half_open": {"probes": PROBES, "lease": "4s"},
            });
            document = document.set("breaker", breaker);
        }
        if let Some(limit) = self.limit {
            document = document.set("concurrency", json!({"max_requests": limit}));
        }
        if self.rest % 2 == 1 {
            document = document.set("retry", json!({"max_retries": 1 + self.rest / 8}));
        }
        if self.rest % 4 > 1 {
            document =
                document.set("fallback", json!([{"on": ["failure"], "respond": {"status": 200 + self.rest / 4}}]));
        }
        if self.rest % 8 > 3 { document.second().text() } else { document.text() }
    }
}

/// A request that a host has.
struct InFlight {
    pending: Pending,
    blocks: Blocks,
    passed: Duration,
    is_probe: bool,
    /// How many half-opens its block had seen.
    half_opens: usize,
}

struct Walk {
    host: Host,
    random: Random,
    in_flight: Vec<InFlight>,
    /// What each worker's first listener has.
    have: [Blocks; WORKERS],
    newest: Blocks,
    /// Whether all workers have every update at once, and nothing drains.
    is_strict: bool,
    draining: Option<(Listener, Blocks)>,
    /// A number that no block had yet.
    fresh: u64,
    health: u64,
    opened: Option<Duration>,
    /// Whether what happens now is of a breaker that has been replaced: what it does from then on binds nobody.
    is_of_the_past: bool,
    /// Lines of the log that were looked at.
    looked: usize,
    /// How often a block went half-open, as far as can be told.
    half_opens: usize,
    refused: u64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let first = Blocks { breaker: Some(0), limit: Some(5), rest: 0 };
        Walk {
            host: Host::with(&first.text()).workers(WORKERS).start(),
            random: Random::new(seed),
            in_flight: Vec::new(),
            have: [first; WORKERS],
            newest: first,
            is_strict: seed.is_multiple_of(2),
            draining: None,
            fresh: 0,
            health: 60,
            opened: None,
            is_of_the_past: false,
            looked: 0,
            half_opens: 0,
            refused: 0,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    fn now(&self) -> Duration {
        self.host.elapsed()
    }

    /// One random event.
    fn step(&mut self) -> Result<String, String> {
        self.is_of_the_past = false;
        Ok(match self.below(100) {
            0..45 => return self.request(),
            45..72 => self.answer(),
            72..75 => {
                self.health = [5, 50, 98][self.below(3) as usize];
                format!("{} of 100 answers are good", self.health)
            }
            75..86 => {
                let by = match self.below(10) {
                    0..5 => self.below(30),
                    5..9 => self.below(1_500),
                    _ => self.below(20_000),
                };
                self.host.advance(millis(by));
                format!("{by} ms pass")
            }
            86..95 => self.update(),
            95 => {
                self.refused += 1;
                let refused = self.host.update(r#"{"policies":[{"name":"orders","breaker":{"failure_rate":140}}]}"#);
                if refused.is_ok() {
                    return Err("a document that is wrong was accepted".to_owned());
                }
                "a document is refused".to_owned()
            }
            96..98 => {
                let worker = self.below(WORKERS as u64) as usize;
                self.host.crash(worker);
                format!("worker {worker} dies")
            }
            _ => self.close(),
        })
    }

    fn request(&mut self) -> Result<String, String> {
        let worker = self.below(WORKERS as u64) as usize;
        let on_old = self.below(3) == 0;
        let (listener, blocks) = match self.draining {
            Some(draining) if on_old => draining,
            _ => (self.host.first_listener(), self.have[worker]),
        };
        let (passed, is_closed) = (self.now(), self.is_open_now(blocks));
        let Exchange::Passed(pending) = self.host.request(worker, Request::get("/").on(listener)) else {
            return Ok(format!("request on {worker}, {blocks:?}: answered"));
        };
        if is_closed {
            return Err(format!("a request passed on {worker} while the breaker was open"));
        }
        self.follow_log();
        let is_probe = pending.access_log().is_some_and(|line| line.contains("decision=probe"));
        let half_opens = self.half_opens;
        self.in_flight.push(InFlight { pending, blocks, passed, is_probe, half_opens });
        Ok(format!("request on {worker}, {blocks:?}: {}", if is_probe { "a probe" } else { "passes" }))
    }

    /// Whether the breaker must let nothing pass now.
    fn is_open_now(&self, blocks: Blocks) -> bool {
        let lasts = |opened| self.now() < opened + OPEN_FOR;
        self.is_strict && blocks.breaker.is_some() && self.opened.is_some_and(lasts)
    }

    fn answer(&mut self) -> String {
        if self.in_flight.is_empty() {
            return "nothing to answer".to_owned();
        }
        let at = self.below(self.in_flight.len() as u64) as usize;
        let status = if self.below(100) < self.health { 200 } else { 503 };
        let InFlight { pending, blocks, .. } = self.in_flight.swap_remove(at);
        self.is_of_the_past = blocks.breaker != self.newest.breaker;
        let worker = pending.worker();
        if self.below(12) == 0 {
            pending.client_leaves();
            return format!("a client leaves on {worker}, {blocks:?}");
        }
        pending.respond(Response::status(status));
        format!("{status} on {worker}, {blocks:?}")
    }

    fn update(&mut self) -> String {
        let mut blocks = self.newest;
        let fresh = self.fresh + 1;
        // A block that comes back while it still is at work somewhere else, and others have been at work meanwhile, begins with
        // what is true of those: it is another one then.
        let may_come_back =
            !self.is_strict && self.draining.is_none() && self.have.iter().all(|have| *have == self.newest);
        match self.below(10) {
            0..3 => {
                blocks.breaker = match self.below(6) {
                    0 => None,
                    // One of a few that there were before, or one that nobody had.
                    1..3 if may_come_back => Some(self.below(3)),
                    _ => Some(fresh),
                };
            }
            3..6 => {
                blocks.limit = match self.below(6) {
                    0 => None,
                    1..3 if may_come_back => Some(5 + self.below(3)),
                    _ => Some(5 + fresh),
                };
            }
            _ => blocks.rest = self.below(16),
        }
        self.fresh = fresh;
        let text = blocks.text();
        let what = match self.below(3) {
            0 if !self.is_strict && self.draining.is_none() && self.have.iter().all(|have| *have == self.newest) => {
                let old = self.host.drain(&text).expect("it is a good document");
                self.draining = Some((old, self.newest));
                self.have = [blocks; WORKERS];
                "a drain"
            }
            1 if !self.is_strict && self.draining.is_none() => {
                self.host.update_main(&text).expect("it is a good document");
                for worker in 0..WORKERS {
                    if self.below(2) == 0 {
                        self.host.reach(worker);
                        self.have[worker] = blocks;
                    }
                }
                "for some"
            }
            _ => {
                self.host.update(&text).expect("it is a good document");
                self.have = [blocks; WORKERS];
                "for all"
            }
        };
        self.newest = blocks;
        format!("an update {what}: {blocks:?}")
    }

    fn close(&mut self) -> String {
        let Some((listener, _)) = self.draining.take() else { return "nothing drains".to_owned() };
        self.host.close(listener);
        "the drain is over".to_owned()
    }

    /// What the module has said of its breakers.
    fn follow_log(&mut self) {
        let log = self.host.log();
        for line in &log[self.looked..] {
            if line.thread == Thread::Canary {
                continue;
            }
            if line.text.contains("-> open: ") && !self.is_of_the_past {
                self.opened = Some(line.at);
            } else if line.text.contains("-> half-open: ") {
                self.half_opens += 1;
            }
        }
        self.looked = log.len();
    }

    /// What must hold after every step.
    fn check(&mut self) -> Result<(), String> {
        if let Some(crash) = self.host.crashes().into_iter().find(|crash| !crash.wanted) {
            return Err(format!("a VM stopped by itself: {crash:?}"));
        }
        self.follow_log();
        self.in_flight.retain(|one| !one.pending.is_lost());
        self.check_limits()?;
        self.check_probes()?;
        let names = self.host.shared_keys().len();
        if names > MOST_NAMES { Err(format!("{names} names are in shared data")) } else { Ok(()) }
    }

    /// Never more requests of equal blocks are in flight than their limit; where all have an update at once, of any block.
    fn check_limits(&self) -> Result<(), String> {
        let counted = |limit: Option<u64>| {
            let same = self.in_flight.iter().filter(|one| one.blocks.limit.is_some() && one.blocks.limit == limit);
            same.count() as u64
        };
        for limit in self.in_flight.iter().filter_map(|one| one.blocks.limit) {
            let in_flight = counted(Some(limit));
            if in_flight > limit {
                return Err(format!("{in_flight} requests are in flight, and {limit} may be"));
            }
        }
        // A limit that grows is that of all.
        let all = self.in_flight.iter().filter(|one| one.blocks.limit.is_some()).count() as u64;
        match self.newest.limit {
            Some(limit) if self.is_strict && all > limit => Err(format!("{all} are in flight over all, of {limit}")),
            _ => Ok(()),
        }
    }

    /// Never more probes of one half-open are in flight, within their lease, than the policy says.
    fn check_probes(&self) -> Result<(), String> {
        let now = self.now();
        let live = |one: &&InFlight| one.is_probe && now < one.passed + LEASE;
        for one in self.in_flight.iter().filter(live) {
            let same = |other: &&InFlight| {
                let is_of_it = self.is_strict || other.blocks.breaker == one.blocks.breaker;
                is_of_it && other.half_opens == one.half_opens
            };
            let probes = self.in_flight.iter().filter(live).filter(same).count();
            if probes > PROBES {
                return Err(format!("{probes} probes are in flight"));
            }
        }
        Ok(())
    }

    /// Everything is healthy from here on: nothing may be left.
    fn heal(&mut self) -> Result<(), String> {
        self.close();
        self.in_flight.drain(..).for_each(|one| drop(one.pending.respond(Response::status(200))));
        (0..WORKERS).for_each(|worker| self.host.reach(worker));
        self.have = [self.newest; WORKERS];
        for _ in 0..20 {
            self.host.advance(seconds(1));
            for worker in 0..WORKERS {
                self.host.get(worker).with(Response::status(200));
            }
        }
        let limit = self.newest.limit.unwrap_or(30) as usize;
        let all = (0..limit + 5).map(|number| self.host.get(number % WORKERS));
        let passed: Vec<_> = all.filter(Exchange::has_passed).map(Exchange::passed).collect();
        let expected = if self.newest.limit.is_some() { limit } else { limit + 5 };
        let count = passed.len();
        passed.into_iter().for_each(|one| drop(one.respond(Response::status(200))));
        let stale = (0..WORKERS).filter(|worker| self.host.roots(*worker) != 1).count();
        if count != expected {
            Err(format!("{count} of {expected} pass when all is well"))
        } else if stale > 0 {
            Err(format!("{stale} workers have more than one configuration"))
        } else {
            self.check()
        }
    }
}

#[test]
fn whatever_comes_between_updates_what_they_promise_holds() {
    for seed in seeds(0..120) {
        let mut walk = Walk::new(seed);
        let mut steps: Vec<String> = Vec::new();
        let fail = |steps: &[String], problem: String| {
            let from = steps.len().saturating_sub(80);
            panic!("seed {seed}, after step {}: {problem}\n{}", steps.len(), steps[from..].join("\n"));
        };
        for number in 0..STEPS {
            match walk.step() {
                Ok(step) => steps.push(step),
                Err(problem) => fail(&steps, problem),
            }
            if let Err(problem) = walk.check() {
                fail(&steps, problem);
            }
            if number % 125 == 124 {
                steps.push("all is to heal".to_owned());
                if let Err(problem) = walk.heal() {
                    fail(&steps, problem);
                }
            }
        }
    }
}
