//! Random events on three workers, with random faults, from fixed seeds.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_engine::base::time::SKEW;
use holdfast_engine::breaker::StateName;
use holdfast_engine::observe::metrics::EPOCH;
use holdfast_host_tests::{Exchange, Host, Local, Pending, Response, Thread};

use crate::support::{HOUR, count, policy, seconds};

const PROBES: usize = 4;
const LIMIT: u64 = 6;
const LEASE: Duration = Duration::from_secs(5);

/// The policy, with so much white space in it; that changes nothing.
fn document(white_space: &str) -> String {
    policy(&format!(
        "{white_space}{}",
        r#""breaker":{"window":"10s","min_requests":8,"failure_rate":50,"consecutive_failures":5,"open_for":"3s",
            "open_max":"12s","open_jitter":10,"half_open":{"probes":4,"lease":"5s"},"ramp":"2s"},
        "concurrency":{"max_requests":6},
        "outcome":{"ignore":{"status":[404]},"slow_after":"2s"}"#,
    ))
}

struct Fuzz {
    host: Host,
    random: Random,
    in_flight: AllInFlight,
    generation: u32,
    /// Of 100 answers so many are good.
    health: u64,
    /// Whether workers only race and die in this run; in the others calls are refused, workers stuck, clocks set.
    only_races: bool,
    /// When the clock was last set: what is measured in time can be checked only after all leases from before it.
    clock_set: Option<Duration>,
    /// Whether a call was refused or a worker stuck since all was well: then requests pass or live on that are not counted.
    is_troubled: bool,
}

struct InFlight {
    pending: Pending,
    /// By the wall clock, as leases are.
    passed: u64,
    /// The breaker's generation that it probes.
    probes: Option<u32>,
}

type AllInFlight = Rc<RefCell<Vec<InFlight>>>;

/// A request to a worker; if it passes, it is in flight from then on.
fn request(host: &Host, worker: usize, in_flight: &AllInFlight) -> String {
    let passed = host.wall_nanos();
    let Exchange::Passed(pending) = host.get(worker) else { return format!("request on {worker}: answered") };
    let is_probe = pending.access_log().is_some_and(|line| line.ends_with("decision=probe"));
    let probes = is_probe.then(|| host.breaker().cell.generation);
    in_flight.borrow_mut().push(InFlight { pending, passed, probes });
    format!("request on {worker}: {}", if is_probe { "a probe" } else { "passes" })
}

impl Fuzz {
    fn new(seed: u64) -> Self {
        // Every third run is without the change signal.
        let host =
            Host::with(&document(" ")).workers(3).dropping_metrics(move |name| seed % 3 == 2 && name == EPOCH).start();
        let random = Random::new(seed);
        Fuzz {
            host,
            random,
            in_flight: AllInFlight::default(),
            generation: 0,
            health: 95,
            only_races: seed.is_multiple_of(2),
            clock_set: None,
            is_troubled: false,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    fn worker(&mut self) -> usize {
        self.below(3) as usize
    }

    /// One random event.
    fn step(&mut self) -> String {
        let host = self.host.clone();
        let event = match self.below(100) {
            // Where nothing goes wrong but races and crashes, every promise is exact.
            90 | 93 | 94 | 98 if self.only_races => 95,
            event => event,
        };
        match event {
            0..45 => {
                let worker = self.worker();
                request(&host, worker, &self.in_flight)
            }
            45..75 if !self.in_flight.borrow().is_empty() => {
                let count = self.in_flight.borrow().len() as u64;
                let at = self.below(count) as usize;
                let InFlight { pending, .. } = self.in_flight.borrow_mut().swap_remove(at);
                let worker = pending.worker();
                let is_good = self.below(100) < self.health;
                let (what, status) = match self.below(20) {
                    0..16 if is_good => ("200", 200),
                    0..16 => ("503", 503),
                    16 => ("404", 404),
                    17 => ("connect failure", 0),
                    18 => ("client leaves", 0),
                    _ => ("overflow", 0),
                };
                match what {
                    "connect failure" => drop(pending.local(Local::connect_failure())),
                    "client leaves" => drop(pending.client_leaves()),
                    "overflow" => drop(pending.local(Local::overflow())),
                    _ => drop(pending.respond(Response::status(status))),
                }
                format!("{what} on {worker}")
            }
            45..75 => "nothing to answer".to_owned(),
            75..78 => {
                self.health = [5, 50, 98][self.below(3) as usize];
                format!("from here on {} of 100 answers are good", self.health)
            }
            78..90 => {
                let millis = match self.below(10) {
                    0..5 => self.below(20),
                    5..9 => self.below(1500),
                    _ => self.below(12_000),
                };
                host.advance(Duration::from_millis(millis));
                format!("{millis} ms pass")
            }
            90 => {
                let worker = self.worker();
                let stalled = self.below(2) == 0;
                if stalled {
                    host.stall(worker)
                } else {
                    host.resume(worker)
                }
                self.is_troubled = true;
                format!("worker {worker} is {}", if stalled { "stuck" } else { "free" })
            }
            91 => {
                let spaces = " ".repeat(1 + self.below(2) as usize);
                host.nothing_fails();
                host.update(&document(&spaces)).unwrap();
                "the same policy is sent again".to_owned()
            }
            92 => {
                let (worker, nth) = (self.worker(), self.below(40));
                let mut seen = 0;
                host.crash_at(worker, move |_| {
                    seen += 1;
                    seen > nth
                });
                format!("worker {worker} is to die at its call {nth}")
            }
            93 => {
                let times = [1, 5, 70, 200][self.below(4) as usize];
                self.is_troubled = true;
                host.contend("holdfast/", times);
                format!("{times} swaps are to fail")
            }
            94 => {
                // One call in 20 is refused, for the next 200 calls.
                self.is_troubled = true;
                let mut random = Random::new(self.random.next());
                let mut left = 200;
                host.on_call(move |_, call| {
                    left -= i32::from(left > 0);
                    let spared = ["get_buffer_bytes", "send_local_response"];
                    let strikes = left > 0 && random.next().is_multiple_of(20) && !spared.contains(&call.name);
                    call.refused().filter(|_| strikes)
                });
                "some calls are to be refused".to_owned()
            }
            95..98 => {
                let (other, in_flight) = (self.worker(), Rc::clone(&self.in_flight));
                let mut random = Random::new(self.random.next());
                let mut left = 40;
                host.on_call(move |host, call| {
                    if left > 0 && call.swaps("holdfast/9/") && call.thread != Thread::Worker(other) {
                        left -= 1;
                        // The other reads the clock later and writes earlier.
                        host.set_clock_forward(Duration::from_millis(1));
                        let its = in_flight.borrow().iter().position(|one| one.pending.worker() == other);
                        match its.filter(|_| random.next().is_multiple_of(2)) {
                            Some(at) => {
                                let one = in_flight.borrow_mut().swap_remove(at);
                                one.pending.respond(Response::status(if random.next().is_multiple_of(2) {
                                    503
                                } else {
                                    200
                                }));
                            }
                            None => drop(request(host, other, &in_flight)),
                        }
                    }
                    None
                });
                format!("worker {other} is to overtake the others' swaps")
            }
            98 => {
                host.nothing_fails();
                let by = [seconds(1), seconds(20), HOUR][self.below(3) as usize];
                self.clock_set = Some(host.elapsed());
                if self.below(2) == 0 {
                    host.set_clock_forward(by);
                    format!("the clock is set forward by {by:?}")
                } else {
                    host.set_clock_back(by);
                    format!("the clock is set back by {by:?}")
                }
            }
            _ => {
                host.nothing_fails();
                "nothing fails any more".to_owned()
            }
        }
    }

    /// What must hold after every step.
    fn check(&mut self) -> Result<(), String> {
        let host = &self.host;
        if let Some(crash) = host.crashes().into_iter().find(|crash| !crash.wanted) {
            return Err(format!("a VM stopped by itself: {crash:?}"));
        }
        let record = host.breaker();
        if record.cell.generation < self.generation {
            return Err(format!("generation {} after {}", record.cell.generation, self.generation));
        }
        self.generation = record.cell.generation;
        let (in_flight, judged) = (record.probes_in_flight(), record.probes_judged());
        if in_flight + judged > PROBES {
            return Err(format!("{in_flight} probes in flight and {judged} judged are more than {PROBES}"));
        }
        let now = host.elapsed();
        if self.clock_set.is_some_and(|set| now < set + seconds(20)) {
            return Ok(());
        }
        let has_lease = |one: &InFlight| host.wall_nanos() < one.passed + LEASE.as_nanos() as u64;
        let in_flight = self.in_flight.borrow();
        let probing = in_flight.iter().filter(|one| one.probes == Some(self.generation) && has_lease(one)).count();
        if probing + judged > PROBES {
            return Err(format!("{probing} probes are with the host and {judged} judged: more than {PROBES}"));
        }
        // A worker that was stuck for longer than its lease has places that others have taken meanwhile.
        let alive = in_flight.iter().filter(|one| !one.pending.is_lost()).count() as u64;
        let most = alive.max(host.in_flight());
        if most > LIMIT && !self.is_troubled {
            return Err(format!("{most} are in flight, more than {LIMIT}"));
        }
        Ok(())
    }

    /// Everything is healthy from here on: the service must be back.
    fn heal(&mut self) -> Result<(), String> {
        self.host.nothing_fails();
        let in_flight = self.in_flight.take();
        for InFlight { pending, .. } in in_flight {
            pending.client_leaves();
        }
        (0..3).for_each(|worker| self.host.resume(worker));
        self.is_troubled = false;
        let start = self.host.elapsed();
        loop {
            self.host.advance(seconds(1));
            let passed = (0..3).map(|worker| crate::support::passing(&self.host, worker, 5, 200)).sum::<usize>();
            if passed == 15 {
                break;
            }
            // The longest open period with its jitter, the leases, the ramp.
            if self.host.elapsed() - start > seconds(14 + 5 + 2 + 3) + SKEW {
                return Err(format!("it is stuck: {:?}, in flight {}", self.host.breaker(), self.host.in_flight()));
            }
        }
        // Places in flight of a VM that died come back with their leases. After the clock was set back, those last longer by
        // as much as one worker's clock may be ahead of another's.
        self.host.advance(seconds(10) + SKEW);
        (0..3).for_each(|worker| assert!(crate::support::passing(&self.host, worker, 1, 200) <= 1));
        let (gauge, state) = (count(&self.host, "breaker_state"), self.host.state());
        if state != StateName::Closed || gauge != state as u64 {
            return Err(format!("the state is {state} and the gauge says {gauge}"));
        }
        if self.host.in_flight() != 0 {
            return Err(format!("{} are in flight that nobody knows of", self.host.in_flight()));
        }
        Ok(())
    }
}

/// `FUZZ_SEEDS=1000..2000` asks for others.
pub fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let asked = std::env::var("FUZZ_SEEDS").ok();
    let parse = |text: &str| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    };
    asked.map_or(usual, |text| parse(&text).expect("FUZZ_SEEDS is FIRST..END"))
}

#[test]
fn whatever_happens_the_invariants_hold_and_it_heals() {
    for seed in seeds(0..40) {
        let mut fuzz = Fuzz::new(seed);
        let mut steps: Vec<String> = Vec::new();
        let fail = |steps: &[String], problem: String| {
            let from = steps.len().saturating_sub(60);
            panic!("seed {seed}, after step {}: {problem}\n{}", steps.len(), steps[from..].join("\n"));
        };
        for number in 0..300 {
            let step = fuzz.step();
            steps.push(step);
            if let Err(problem) = fuzz.check() {
                fail(&steps, problem);
            }
            if number % 100 == 99 {
                steps.push("all is to heal".to_owned());
                if let Err(problem) = fuzz.heal() {
                    fail(&steps, problem);
                }
            }
        }
    }
}
