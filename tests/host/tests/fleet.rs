//! A cluster of many hosts that fail and are repaired, each in its own way, with what each of them got; and the users who
//! send requests to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_host_tests::{Arrival, Host, Reaction, Request, Reset, Routed};

use crate::support::{millis, seconds};

/// A good host answers 503 to one attempt of so many.
pub const ERROR_OF: u64 = 1000;

/// A slow host takes so many times as long.
const SLOWER: u32 = 20;

/// So many requests come together, to one worker. They go to as many hosts, so that for those it is much as if each came
/// alone; to simulate it takes less time.
pub const BATCH: u32 = 8;

/// A user who waits longer than this waits long: no good host takes a fifth of it.
pub const LONG: Duration = Duration::from_millis(100);

/// How a host is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It answers 503.
    Errors,
    /// It refuses connections.
    Refuses,
    /// It does not answer.
    Hangs,
    /// It answers well, and takes [`SLOWER`] times as long.
    Slow,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Errors, Way::Refuses, Way::Hangs, Way::Slow];

    pub fn name(self) -> &'static str {
        match self {
            Way::Errors => "errors",
            Way::Refuses => "refuses",
            Way::Hangs => "hangs",
            Way::Slow => "slow",
        }
    }

    /// Whether its attempts fail.
    pub fn fails(self) -> bool {
        self != Way::Slow
    }
}

/// A time in which a host is bad, its end not included.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    pub way: Way,
    pub from: Duration,
    pub to: Duration,
}

/// Of a random variable with an exponential distribution.
pub fn exponential(random: &mut Random, mean: Duration) -> Duration {
    let uniform = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
    Duration::from_micros((-(1.0 - uniform).ln() * mean.as_secs_f64() * 1e6).round() as u64)
}

/// A host, and what it got.
#[derive(Debug, Default)]
pub struct Machine {
    /// In order, none in another.
    pub outages: Vec<Outage>,
    /// The first outage that is not over.
    next: usize,
    /// When each attempt came.
    pub tries: Vec<Duration>,
    /// When those came among them that failed.
    pub failed: Vec<Duration>,
}

/// How many of these times lie between two.
pub fn within(times: &[Duration], from: Duration, to: Duration) -> usize {
    times.partition_point(|at| *at < to).saturating_sub(times.partition_point(|at| *at < from))
}

impl Machine {
    /// A host that is bad at these times, in order, and good in between.
    pub fn new(outages: Vec<Outage>) -> Self {
        Machine { outages, ..Machine::default() }
    }

    fn way_at(&mut self, at: Duration) -> Option<Way> {
        while self.outages.get(self.next).is_some_and(|outage| outage.to <= at) {
            self.next += 1;
        }
        self.outages.get(self.next).filter(|outage| outage.from <= at).map(|outage| outage.way)
    }

    /// Whether it is bad at a time, or was within so long before.
    pub fn is_bad(&self, at: Duration, lately: Duration) -> bool {
        self.outages.iter().any(|outage| outage.from <= at && at < outage.to + lately)
    }
}

/// All hosts, by address. Clones are the same.
#[derive(Debug, Clone)]
pub struct Fleet {
    machines: Rc<RefCell<BTreeMap<String, Machine>>>,
    random: Rc<RefCell<Random>>,
}

impl Fleet {
    pub fn new(machines: BTreeMap<String, Machine>, seed: u64) -> Self {
        Fleet { machines: Rc::new(RefCell::new(machines)), random: Rc::new(RefCell::new(Random::new(seed))) }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.machines.borrow().keys().cloned().collect()
    }

    /// What they got; no attempt may come meanwhile.
    pub fn see<R>(&self, look: impl FnOnce(&BTreeMap<String, Machine>) -> R) -> R {
        look(&self.machines.borrow())
    }

    /// What the host of an attempt does with it.
    pub fn serve(&self, arrival: &Arrival<'_>) -> Option<Reaction> {
        let (mut machines, mut random) = (self.machines.borrow_mut(), self.random.borrow_mut());
        let machine = machines.get_mut(arrival.host).unwrap();
        let latency = millis(8) + Duration::from_micros(random.below(4000));
        let (way, has_bad_luck) = (machine.way_at(arrival.at), random.below(ERROR_OF) == 0);
        machine.tries.push(arrival.at);
        if way.map_or(has_bad_luck, Way::fails) {
            machine.failed.push(arrival.at);
        }
        match way {
            None if has_bad_luck => Some(Reaction::from(503).after(latency)),
            None => Some(Reaction::from(200).after(latency)),
            Some(Way::Errors) => Some(Reaction::from(503).after(latency)),
            Some(Way::Refuses) => Some(Reaction::fails(Reset::ConnectFailure)),
            Some(Way::Hangs) => None,
            Some(Way::Slow) => Some(Reaction::from(200).after(latency * SLOWER)),
        }
    }

    /// All attempts and those that failed, between two times.
    pub fn tries(&self, from: Duration, to: Duration) -> (usize, usize) {
        self.see(|machines| {
            let of = |machine: &Machine| (within(&machine.tries, from, to), within(&machine.failed, from, to));
            machines.values().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        })
    }
}

/// Addresses of hosts, `count` from number `first` on.
pub fn addresses(first: usize, count: usize) -> Vec<String> {
    (first..first + count).map(|number| format!("10.0.{}.{}:80", number / 100, number % 100 + 100)).collect()
}

/// What users saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Users {
    pub requests: usize,
    /// They got an error.
    pub failed: usize,
    /// They waited longer than [`LONG`], for whatever.
    pub waited: usize,
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} failed, {} took longer than {LONG:?}", self.requests, self.failed, self.waited)
    }
}

impl Users {
    pub fn since(self, before: Users) -> Users {
        Users {
            requests: self.requests - before.requests,
            failed: self.failed - before.failed,
            waited: self.waited - before.waited,
        }
    }
}

/// Requests that come one by one at random times to random workers (a Poisson process).
pub struct Traffic {
    pub host: Host,
    random: Random,
    gap: Duration,
    under_way: Vec<(Duration, Routed)>,
    pub users: Users,
    /// When each host was probed.
    pub probes: BTreeMap<String, Vec<Duration>>,
}

impl Traffic {
    pub fn new(host: Host, per_second: u32, seed: u64) -> Self {
        let (under_way, probes) = (Vec::new(), BTreeMap::new());
        let gap = seconds(1) * BATCH / per_second;
        Traffic { host, random: Random::new(seed), gap, under_way, users: Users::default(), probes }
    }

    /// Goes on until then.
    pub fn run(&mut self, end: Duration) {
        loop {
            let gap = exponential(&mut self.random, self.gap);
            if self.host.elapsed() + gap >= end {
                // The process has no memory: it begins anew.
                self.host.advance(end.saturating_sub(self.host.elapsed()));
                self.collect();
                return;
            }
            self.host.advance(gap);
            self.collect();
            let worker = self.random.below(self.host.workers() as u64) as usize;
            for _ in 0..BATCH {
                self.under_way.push((self.host.elapsed(), self.host.send(worker, Request::get("/"))));
            }
        }
    }

    /// No more requests come, and those that are there end.
    pub fn stop(&mut self) {
        self.host.advance(seconds(10));
        self.collect();
        self.host.assert_no_trap();
        self.host.assert_nothing_is_left();
    }

    fn collect(&mut self) {
        let (over, left) = std::mem::take(&mut self.under_way).into_iter().partition(|(_, request)| request.is_over());
        self.under_way = left;
        let over: Vec<(Duration, Routed)> = over;
        for (began, request) in over {
            let answer = request.answer();
            let ended = || request.tries().last().and_then(|last| last.ended);
            let waited = self.host.elapsed() - began > LONG && ended().is_some_and(|ended| ended - began > LONG);
            self.users.requests += 1;
            self.users.failed += usize::from(answer.status != 200);
            self.users.waited += usize::from(waited);
            if let Some(probed) = answer.access_log.as_deref().and_then(probed) {
                self.probes.entry(probed.to_owned()).or_default().push(began);
            }
        }
    }
}

/// The host that a request was the probe of, from the access log.
fn probed(access_log: &str) -> Option<&str> {
    let (_, probe) = access_log.split_once("; probe=")?;
    probe.split(';').next()
}

/// The cause in a line about an ejection.
fn why(told: &str) -> &str {
    let (_, why) = told.split_once(": ").unwrap_or_default();
    why.rsplit_once("; ").map_or(why, |(why, _)| why)
}

/// Where a host was, as the module's log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Out,
    OutAgain,
    Back,
}

/// The hosts' moves in order, by address, and what the log says each was for.
pub type Moves = BTreeMap<String, Vec<(Duration, Move, String)>>;

/// All moves that the log tells of.
pub fn moves(host: &Host) -> Moves {
    let mut moves = Moves::new();
    for line in host.log() {
        assert!(!line.text.contains("not listed"), "the log has a line for each: {}", line.text);
        let Some((_, told)) = line.text.split_once(": host ") else { continue };
        let Some((address, told)) = told.split_once(' ') else { continue };
        let (kind, why) = match told {
            told if told.starts_with("ejected") => (Move::Out, why(told)),
            told if told.starts_with("failed its probe") || told.starts_with("is still slow") => (Move::OutAgain, told),
            told if told.starts_with("is back") => (Move::Back, told),
            _ => continue,
        };
        moves.entry(address.to_owned()).or_default().push((line.at, kind, why.to_owned()));
    }
    moves
}

/// The times in which a host was out; one that still is, until for ever.
pub fn times_out(moves: &[(Duration, Move, String)]) -> Vec<(Duration, Duration)> {
    let (mut times, mut since) = (Vec::new(), None);
    for (at, what, _) in moves {
        match what {
            Move::Out => since = Some(*at),
            Move::OutAgain => {}
            Move::Back => times.extend(since.take().map(|since| (since, *at))),
        }
    }
    times.extend(since.map(|since| (since, Duration::MAX)));
    times
}
