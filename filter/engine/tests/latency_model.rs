//! The latency detector over thousands of simulated intervals, and an hour of a cluster with a slow host or a cold one. All by their
//! seeds.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use holdfast_engine::base::random::{Random, fraction};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::cx::Cx;
use holdfast_engine::http::attempt::End;
use holdfast_engine::http::outcome::Verdict;
use holdfast_engine::outlier::hosts::{Asks, HostAttempt, Hosts};
use holdfast_engine::outlier::slot::HostTally;
use holdfast_engine::outlier::sweep::{Tallies, sweep};
use holdfast_engine::outlier::table::{HostId, HostTable};
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::paths::HostPaths;
use holdfast_engine::store::record::Mark;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config;
use holdfast_policy::document::Outlier;

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

/// The detector as it is where nothing but its name is given.
fn rules() -> Outlier {
    let text = br#"{"policies":[{"name":"p","outlier":{"latency":{}}}]}"#;
    config::parse(text).unwrap().policies.remove(0).outlier.unwrap()
}

fn address(host: usize) -> String {
    format!("10.0.0.{host}:80")
}

/// Normal with mean 0 and standard deviation 1. Source: Box, Muller, "A Note on the Generation of Random Normal Deviates", 1958.
fn normal(random: &mut Random) -> f64 {
    let (radius, angle) = ((-2.0 * (1.0 - fraction(random.next())).ln()).sqrt(), fraction(random.next()));
    radius * (2.0 * std::f64::consts::PI * angle).cos()
}

/// How long answers take, in milliseconds.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// 20 ms, give or take a fifth, but so many of a hundred so many milliseconds.
    Tail(f64, f64),
    /// The same from 5 ms on.
    ShortTail(f64, f64),
    /// Lognormal with a median of 20 ms and this sigma.
    Lognormal(f64),
    /// Exponential with a mean of 40 ms.
    Exponential,
}

impl Takes {
    fn next(self, random: &mut Random) -> f64 {
        let around = |median: f64, sigma: f64, random: &mut Random| median * (sigma * normal(random)).exp();
        match self {
            Takes::Tail(percent, long) | Takes::ShortTail(percent, long) => {
                let median = if matches!(self, Takes::Tail(..)) { 20.0 } else { 5.0 };
                if fraction(random.next()) * 100.0 < percent { long } else { around(median, 0.2, random) }
            }
            Takes::Lognormal(sigma) => around(20.0, sigma, random),
            Takes::Exponential => -40.0 * (1.0 - fraction(random.next())).ln(),
        }
    }
}

const HEAVY: [Takes; 8] = [
    Takes::Tail(2.0, 500.0),
    Takes::Tail(1.0, 1000.0),
    Takes::ShortTail(2.0, 500.0),
    Takes::ShortTail(1.0, 1000.0),
    Takes::Lognormal(1.0),
    Takes::Lognormal(1.5),
    Takes::Lognormal(2.0),
    Takes::Exponential,
];

/// Which hosts an interval takes out, of so many with so many answers each. The first takes `slower` times as long.
fn ejected(takes: Takes, hosts: usize, answers: usize, slower: f64, seed: u64) -> Vec<usize> {
    let (mut random, mut table) = (Random::new(seed), HostTable::default());
    let ids: Vec<HostId> = (0..hosts).map(|host| table.enter(address(host).as_bytes(), false, t(0)).unwrap()).collect();
    let tallies = ids.iter().enumerate().map(|(host, id)| {
        let factor = if host == 0 { slower } else { 1.0 };
        let times = (0..answers).map(|_| Duration::from_secs_f64(takes.next(&mut random) * factor / 1000.0));
        (*id, HostTally { total: answers as u32, times: times.collect(), ..HostTally::default() })
    });
    let tallies: Tallies = tallies.collect();
    sweep(&mut table, &rules(), &tallies, t(10_000), t(20_100), seed);
    (0..hosts).filter(|host| !table.host(ids[*host]).unwrap().is_in()).collect()
}

#[test]
fn equal_hosts_with_a_heavy_tail_stay_in() {
    for takes in HEAVY {
        for (hosts, answers) in [(3, 50), (10, 50), (3, 300)] {
            let found = (0..1000).filter(|seed| !ejected(takes, hosts, answers, 1.0, *seed).is_empty()).count();
            assert!(found <= 10, "{takes:?}, {hosts} hosts with {answers} answers: {found} of 1,000 intervals");
        }
    }
}

#[test]
fn a_host_that_is_three_times_as_slow_is_found_in_its_first_whole_interval() {
    let found = |takes, slower| (0..1000).filter(|seed| ejected(takes, 3, 50, slower, *seed) == [0]).count();
    let steady = Takes::Tail(0.0, 0.0);
    for (takes, slower, wanted) in [
        (steady, 3.5, 990..=1000),
        (Takes::Lognormal(0.5), 4.0, 990..=1000),
        (Takes::Exponential, 4.5, 950..=1000),
        (Takes::Lognormal(1.0), 5.0, 950..=1000),
        // Exactly at the limit: a mean that varies is on either side of it by chance.
        (steady, 3.0, 400..=600),
    ] {
        let found = found(takes, slower);
        assert!(wanted.contains(&found), "{takes:?}, {slower} times as slow: {found} of 1,000 intervals");
    }
}

/// A cluster of four hosts at 100 requests a second, which one worker sends in turn unless they are steered.
struct Cluster {
    rules: Outlier,
    store: MemoryStore,
    worker: Worker,
    hosts: Hosts,
    now: Timestamp,
    served: [u64; 4],
}

const RATE: u64 = 100;

impl Cluster {
    fn new() -> Self {
        let hosts = HostPaths::new(0, 0, GroupId::OfTheKey)
            .map(|paths| Hosts::new(paths, Mark { block: 7, key: 0 }, Vec::new()));
        Cluster {
            rules: rules(),
            store: MemoryStore::default(),
            worker: Worker::new(1),
            hosts: hosts.expect("it is the key's"),
            now: t(0),
            served: [0; 4],
        }
    }

    /// Sends requests for so many seconds to so many of the hosts; `takes` says how long the last one takes for what it has served,
    /// in milliseconds. The others take 20.
    fn run(&mut self, seconds: u64, of: usize, takes: impl Fn(u64) -> u64) {
        for turn in 0..seconds * RATE {
            let mut events = Vec::new();
            let cx = &mut Cx::new(&mut self.store, &mut self.worker, self.now, &mut events);
            self.hosts.refresh(cx, &self.rules);
            let steering = self.hosts.steer(cx, &self.rules, 3, false, &Asks::NOTHING);
            let named = steering.as_ref().and_then(|steering| steering.hosts.split(',').next());
            let host = named.map_or_else(|| address((turn % of as u64) as usize), str::to_owned);
            let at = (0..4).find(|at| address(*at) == host).unwrap();
            let took = Duration::from_millis(if at == 3 { takes(self.served[3]) } else { 20 });
            self.served[at] += 1;
            let (end, verdict) = (End::Http(200), Verdict::Success);
            let one = HostAttempt { host: host.as_bytes(), end, verdict, took, sent: self.now };
            let probe = steering.and_then(|steering| steering.probe);
            self.hosts.judge(cx, &self.rules, one, probe.map(|(probe, _)| probe));
            if turn % (RATE / 10) == 0 {
                self.worker.tick(&mut self.store, self.now);
                let cx = &mut Cx::new(&mut self.store, &mut self.worker, self.now, &mut events);
                self.hosts.flush(cx, &self.rules);
                self.hosts.sweep(cx, &self.rules);
            }
            self.now = self.now.plus(Duration::from_millis(1000 / RATE));
        }
    }

    /// Whether all hosts are in.
    fn is_whole(&self) -> bool {
        self.hosts.table().is_some_and(|table| table.out() == 0)
    }
}

#[test]
fn a_cold_host_that_joins_is_warm_within_a_minute_and_never_out() {
    let mut cluster = Cluster::new();
    cluster.run(60, 3, |_| 100);
    let warms = |served| if served < 300 { 100 } else { 20 };
    cluster.run(13, 4, warms);
    assert!(cluster.served[3] >= 300, "as without Holdfast: {:?}", cluster.served);
    for _ in 0..30 {
        cluster.run(1, 4, warms);
        assert!(cluster.is_whole());
    }
}

#[test]
fn a_host_that_was_slow_for_a_while_is_back_within_two_minutes() {
    let mut cluster = Cluster::new();
    cluster.run(60, 4, |_| 20);
    cluster.run(30, 4, |_| 100);
    assert!(!cluster.is_whole());
    cluster.run(120, 4, |_| 20);
    assert!(cluster.is_whole());
    let before = cluster.served[3];
    cluster.run(20, 4, |_| 20);
    let got = cluster.served[3] - before;
    assert!((450..=550).contains(&got), "its share of 2,000: {got}");
}

#[test]
fn a_host_that_stays_slow_gets_at_most_a_twentieth_of_its_share() {
    let mut cluster = Cluster::new();
    cluster.run(3600, 4, |_| 100);
    let share = 3600 * RATE / 4;
    assert!(cluster.served[3] * 20 <= share, "{} of {share}", cluster.served[3]);
    assert!(cluster.served[3] * 50 >= share, "and enough to become warm by: {} of {share}", cluster.served[3]);
}

#[test]
fn a_host_that_was_found_cold_becomes_warm_by_what_trickles_to_it() {
    let mut cluster = Cluster::new();
    cluster.run(60, 3, |_| 100);
    // It needs more than it gets until it is judged.
    let warms = |served| if served < 2000 { 100 } else { 20 };
    cluster.run(3600, 4, warms);
    assert!(cluster.served[3] > 10_000 && cluster.is_whole(), "{:?}", cluster.served);
}
