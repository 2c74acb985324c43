//! Properties of ejection: the detectors against formulas written down here once more, and whole processes over any timeline.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use holdfast_engine::cx::Cx;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::End;
use holdfast_engine::http::outcome::Verdict;
use holdfast_engine::outlier::host_events::{HostCount, HostEvents};
use holdfast_engine::outlier::hosts::{Asks, HostAttempt, Hosts};
use holdfast_engine::outlier::slot::{HostSlot, HostTally};
use holdfast_engine::outlier::sweep::{Tallies, sweep};
use holdfast_engine::outlier::table::{Host, HostId, HostTable, PROBE_LEASE, State};
use holdfast_engine::outlier::topology::HostListing;
use holdfast_engine::store::Store;
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::paths::HostPaths;
use holdfast_engine::store::record::{self, Kind, Mark, Record};
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config;
use holdfast_policy::document::{Detector, NamedHost, Outlier};
use proptest::prelude::*;

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn rules(outlier: &str) -> Outlier {
    let text = format!(r#"{{"policies":[{{"name":"p","outlier":{{"ejection_jitter":0,{outlier}}}}}]}}"#);
    let document = config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    document.policies.into_iter().next().and_then(|policy| policy.outlier).unwrap()
}

fn address(host: usize) -> String {
    format!("10.0.{}.{}:80", host / 250, host % 250)
}

/// What was counted of one host.
#[derive(Debug, Clone, Copy)]
struct Counts {
    successes: u32,
    failures: u32,
    /// Of the successes together, in microseconds.
    micros: u64,
    /// Whether it was out before.
    is_out: bool,
}

impl Counts {
    fn total(&self) -> u32 {
        self.successes + self.failures
    }
}

/// Hosts of every kind; many alike, so that thresholds are met exactly.
fn counts() -> impl Strategy<Value = Vec<Counts>> {
    let number = prop_oneof![Just(0), Just(50), Just(100), 0..200_u32];
    let mean = prop_oneof![Just(10_u64), Just(20), Just(30), 1..100_u64];
    let one =
        (number.clone(), number, mean, prop::bool::weighted(0.1)).prop_map(|(successes, failures, mean, is_out)| {
            Counts { successes, failures, micros: u64::from(successes) * mean * 1000, is_out }
        });
    prop::collection::vec(one, 0..12)
}

/// Which hosts one sweep takes out.
fn swept(rules: &Outlier, counts: &[Counts]) -> Vec<usize> {
    let mut table = HostTable::default();
    let ids: Vec<HostId> =
        (0..counts.len()).map(|host| table.enter(address(host).as_bytes(), false, t(0)).unwrap()).collect();
    // Out by something that does not change with the detectors.
    let beats = self::rules(r#""consecutive_failures":0,"max_ejected":100,"heartbeat":{"path":"/"}"#);
    for (id, _) in ids.iter().zip(counts).filter(|(_, counts)| counts.is_out) {
        let cause = holdfast_engine::outlier::cause::EjectionCause::Heartbeat { failures: 1, last: None };
        table.eject(&beats, *id, cause, t(1), 0);
    }
    let tally = |counts: &Counts| HostTally {
        total: counts.total(),
        failures: counts.failures,
        times: (0..counts.successes)
            .map(|_| Duration::from_micros(counts.micros / u64::from(counts.successes)))
            .collect(),
        ..HostTally::default()
    };
    let tallies: Tallies =
        ids.iter().copied().zip(counts.iter().map(tally)).filter(|(_, tally)| tally.total > 0).collect();
    sweep(&mut table, rules, &tallies, t(10_000), t(20_100), 1);
    let is_new = |host: &usize| !counts[*host].is_out && table.host(ids[*host]).is_some_and(|host| !host.is_in());
    (0..counts.len()).filter(is_new).collect()
}

proptest! {
    /// Envoy: with enough hosts that have enough requests, each at or over the threshold goes.
    #[test]
    fn the_failure_rate_ejects_whoever_reaches_the_threshold(
        counts in counts(), percent in 1..=100_u32, min_requests in 1..150_u32, min_hosts in 1..6_usize,
    ) {
        let rules = rules(&format!(
            r#""consecutive_failures":0,"max_ejected":100,
               "failure_rate":{{"threshold":{percent},"min_requests":{min_requests},"min_hosts":{min_hosts}}}"#
        ));
        let has_enough = |counts: &Counts| !counts.is_out && counts.total() >= min_requests;
        let judged = counts.iter().filter(|counts| has_enough(counts)).count();
        let expected: Vec<usize> = (0..counts.len())
            .filter(|host| has_enough(&counts[*host]) && judged >= min_hosts)
            .filter(|host| counts[*host].failures * 100 >= percent * counts[*host].total())
            .collect();
        prop_assert_eq!(swept(&rules, &counts), expected);
    }

    /// Envoy: below mean - factor x population stdev. Worked out in whole numbers: for shares s_i = x_i / d over a common
    /// denominator d, n x_i < sum - f sqrt(n sum(x^2) - sum^2).
    #[test]
    fn the_success_rate_ejects_whoever_is_below_the_others(counts in counts(), factor in 0..3000_u32, min_hosts in 1..6_usize) {
        // Of 100 attempts each, so that whole numbers will do.
        let counts: Vec<Counts> = counts
            .into_iter()
            .map(|one| Counts { successes: 100 - one.failures % 101, failures: one.failures % 101, ..one })
            .collect();
        let rules = rules(&format!(
            r#""consecutive_failures":0,"max_ejected":100,
               "success_rate":{{"stdev_factor":{},"min_requests":100,"min_hosts":{min_hosts}}}"#,
            f64::from(factor) / 1000.0
        ));
        let judged: Vec<i128> = counts.iter().filter(|one| !one.is_out).map(|one| one.successes.into()).collect();
        let (n, sum) = (judged.len() as i128, judged.iter().sum::<i128>());
        let squares: i128 = judged.iter().map(|share| share * share).sum();
        let spread = n * squares - sum * sum;
        let is_below = |share: i128| {
            let below = sum - n * share;
            // below > factor/1000 x sqrt(spread), both sides squared; none is negative.
            below > 0 && below * below * 1_000_000 > i128::from(factor) * i128::from(factor) * spread
        };
        let expected: Vec<usize> = (0..counts.len())
            .filter(|host| !counts[*host].is_out && judged.len() >= min_hosts && is_below(counts[*host].successes.into()))
            .collect();
        prop_assert_eq!(swept(&rules, &counts), expected);
    }

    /// (P - E) / E against the peers that are left, the slowest first. The times of each do not differ, so nothing is chance.
    #[test]
    fn latency_ejects_the_slowest_as_long_as_they_are_too_slow(
        counts in counts(), deviation in 1..400_u64, min_requests in 2..100_u32, min_hosts in 2..6_usize, floor in 0..40_u64,
    ) {
        let rules = rules(&format!(
            r#""consecutive_failures":0,"max_ejected":100,"latency":{{"deviation":{deviation},
               "min_requests":{min_requests},"min_hosts":{min_hosts},"floor":"{floor}ms"}}"#
        ));
        let mut left: Vec<(u64, usize)> = (0..counts.len())
            .filter(|host| !counts[*host].is_out && counts[*host].successes >= min_requests)
            .map(|host| (counts[host].micros / u64::from(counts[host].successes), host))
            .collect();
        left.sort_by_key(|(mean, host)| (*mean, core::cmp::Reverse(*host)));
        let mut expected = Vec::new();
        if left.len() >= min_hosts {
            while let Some((own, host)) = left.pop() {
                let (sum, peers) = (left.iter().map(|(mean, _)| mean).sum::<u64>(), left.len() as u64);
                // (own - E) / E >= deviation %, with E = sum / peers.
                if peers == 0 || own <= floor * 1000 || own * peers * 100 < sum * (100 + deviation) {
                    break;
                }
                expected.push(host);
            }
        }
        // A mean of peers that is no whole number of nanoseconds may be rounded; only then may the two differ.
        let means: Vec<u64> = counts.iter().filter(|one| one.successes > 0).map(|one| one.micros / u64::from(one.successes)).collect();
        prop_assume!(means.iter().all(|mean| mean % 1000 == 0));
        expected.sort_unstable();
        prop_assert_eq!(swept(&rules, &counts), expected);
    }

    #[test]
    fn equal_hosts_are_never_ejected_by_comparison(
        hosts in 1..30_usize, successes in 100..1000_u32, failures in 0..1000_u32, mean in 0..100_000_u64,
        factor in 0..10_000_u32, deviation in 1..1000_u32,
    ) {
        let one = Counts { successes, failures, micros: u64::from(successes) * mean, is_out: false };
        let rules = rules(&format!(
            r#""consecutive_failures":0,"max_ejected":100,"success_rate":{{"stdev_factor":{},"min_hosts":1}},
               "latency":{{"deviation":{deviation},"min_hosts":2,"floor":"0s"}}"#,
            f64::from(factor) / 1000.0
        ));
        prop_assert_eq!(swept(&rules, &vec![one; hosts]), Vec::<usize>::new());
    }
}

// Whole processes

/// One thing that happens. Numbers of workers and hosts are taken modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    /// So many milliseconds pass, or the clock is put back by so many.
    Pass(u64),
    Back(u64),
    /// A request is sent and answered.
    Request {
        worker: usize,
        host: usize,
        waits: bool,
        verdict: u8,
        takes: u64,
    },
    /// So many failures of one host.
    Failures {
        worker: usize,
        host: usize,
        times: usize,
    },
    /// A worker ticks.
    Tick(usize),
    /// A worker crashes, and another takes its place.
    Crash(usize),
    /// A listing of these hosts is read.
    List(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let request = (0..3_usize, 0..6_usize, any::<bool>(), 0..8_u8, prop_oneof![Just(1), 0..20_000_u64]);
    prop_oneof![
        4 => prop_oneof![0..20_u64, 0..5_000_u64, 0..60_000_u64].prop_map(Step::Pass),
        1 => prop_oneof![0..5_000_u64, 0..4_000_000_u64].prop_map(Step::Back),
        8 => request.prop_map(|(worker, host, waits, verdict, takes)| Step::Request { worker, host, waits, verdict, takes }),
        4 => (0..3_usize, 0..6_usize, 1..12_usize).prop_map(|(worker, host, times)| Step::Failures { worker, host, times }),
        3 => (0..3_usize).prop_map(Step::Tick),
        1 => (0..3_usize).prop_map(Step::Crash),
        1 => (0..3_usize, 1..64_u8).prop_map(|(worker, hosts)| Step::List(worker, hosts)),
    ]
}

struct Vm {
    worker: Worker,
    hosts: Hosts,
}

struct Process {
    rules: Outlier,
    store: MemoryStore,
    vms: Vec<Vm>,
    now: Timestamp,
    seed: u64,
    told: Vec<(HostCount, u32)>,
    is_signalled: bool,
}

/// The mark of the group's records.
const MARK: Mark = Mark { block: 7, key: 0 };

fn group() -> HostPaths {
    HostPaths::new(0, 0, GroupId::OfTheKey).expect("it is the key's")
}

impl Process {
    fn new(outlier: &str, is_signalled: bool) -> Self {
        let store = if is_signalled { MemoryStore::default() } else { MemoryStore::unsignalled() };
        let mut process = Process {
            rules: rules(outlier),
            store,
            vms: Vec::new(),
            now: t(0),
            seed: 0,
            told: Vec::new(),
            is_signalled,
        };
        (0..3).for_each(|_| process.start());
        process
    }

    fn start(&mut self) {
        self.seed += 1;
        self.vms.push(Vm { worker: Worker::new(self.seed), hosts: Hosts::new(group(), MARK, Vec::new()) });
    }

    fn table(&mut self) -> HostTable {
        let stored = self.store.get(&group().table());
        stored
            .map(|(bytes, _)| HostTable::decode(&bytes, MARK).expect("what is stored can be read"))
            .unwrap_or_default()
    }

    fn judge(&mut self, vm: usize, host: &str, verdict: Verdict, sent: Timestamp, probe: Option<HostId>) {
        let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
        let end = if verdict == Verdict::Success { End::Http(200) } else { End::Reset };
        let one = HostAttempt { host: host.as_bytes(), end, verdict, took: self.now.since(sent), sent };
        if verdict != Verdict::Success || probe.is_some() || hosts.wants_host(store, &self.rules, self.now) {
            hosts.judge(&mut Cx::new(store, worker, self.now, &mut Vec::new()), &self.rules, one, probe);
        }
    }

    fn tell(&mut self, events: Option<HostEvents>) {
        self.told.extend(events.iter().flat_map(HostEvents::counts));
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Pass(millis) => self.now = self.now.plus(Duration::from_millis(millis)),
            Step::Back(millis) => self.now = Timestamp(self.now.0.saturating_sub(millis * 1_000_000)),
            Step::Request { worker: vm, host, waits, verdict, takes } => {
                let now = self.now;
                let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
                hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules);
                let steering = hosts.steer(
                    &mut Cx::new(store, worker, now, &mut Vec::new()),
                    &self.rules,
                    2,
                    waits,
                    &Asks::NOTHING,
                );
                let probe = steering.as_ref().and_then(|steering| steering.probe.clone());
                if let Some(steering) = &steering {
                    let named: Vec<&str> = steering.hosts.split(',').collect();
                    assert!(!named.is_empty() && named.iter().all(|host| !host.is_empty()), "{named:?}");
                    // Three, as long as there are others each once, and the probe before them.
                    let table = self.table();
                    let host = |host: &&str| table.find(host.as_bytes()).and_then(|id| table.host(id));
                    let trickles = named.first().and_then(host).is_some_and(Host::trickles);
                    let others = &named[usize::from(probe.is_some() || trickles)..];
                    let unique: std::collections::HashSet<_> = others.iter().collect();
                    let in_now = usize::from(steering.of - steering.out);
                    assert_eq!((others.len(), unique.len()), (3, in_now.min(3)), "{named:?} of {in_now}");
                    // Without a signal a view may be 10 ms old.
                    for (index, host) in named.iter().enumerate().filter(|_| self.is_signalled) {
                        let is_probe = index == 0 && (probe.is_some() || trickles);
                        let id = table.find(host.as_bytes()).expect("it is known");
                        assert_eq!(!table.host(id).unwrap().is_in(), is_probe, "{host} in {steering:?}");
                    }
                    assert!(
                        u32::from(steering.of - steering.out) * 2 >= u32::from(steering.of),
                        "no panic: {steering:?}"
                    );
                }
                let to = steering.map_or_else(|| address(host), |one| one.hosts.split(',').next().unwrap().to_owned());
                self.now = now.plus(Duration::from_millis(takes));
                let verdict = match verdict {
                    0 => Verdict::Ignored,
                    1 | 2 => Verdict::Failure,
                    _ => Verdict::Success,
                };
                self.judge(vm, &to, verdict, now, probe.map(|(id, _)| id));
            }
            Step::Failures { worker, host, times } => {
                (0..times).for_each(|_| self.judge(worker, &address(host), Verdict::Failure, self.now, None));
            }
            Step::Tick(vm) => {
                let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
                worker.tick(store, self.now);
                hosts.refresh(&mut Cx::new(store, worker, self.now, &mut Vec::new()), &self.rules);
                hosts.flush(&mut Cx::new(store, worker, self.now, &mut Vec::new()), &self.rules);
                hosts.sweep(&mut Cx::new(store, worker, self.now, &mut Vec::new()), &self.rules);
                let events = hosts.take_events(&mut Cx::new(store, worker, self.now, &mut Vec::new()), &self.rules);
                self.tell(events);
            }
            Step::Crash(vm) => {
                self.start();
                self.vms.swap_remove(vm);
            }
            Step::List(vm, which) => {
                let listed = (0..6).filter(|host| which >> host & 1 == 1).map(|host| NamedHost::at(address(host)));
                let listed = HostListing::of_named(&listed.collect::<Vec<_>>());
                let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
                hosts.list(&mut Cx::new(store, worker, self.now, &mut Vec::new()), &self.rules, &listed, &[]);
            }
        }
    }
}

/// What holds of any table at any time.
fn check(table: &HostTable, before: &HostTable, rules: &Outlier) {
    let (out, known) = (table.out(), table.known());
    // A listing may take hosts that are in; only who is taken out has to fit.
    if out > before.out() {
        let within = out * 100_000 <= rules.max_ejected.millis() as usize * known;
        assert!(within || out == 1 && rules.always_eject_one, "{out} of {known} out");
    }
    for (_, host) in table.hosts() {
        if let State::Out { probes, passed, since, until, .. } = &host.state {
            assert!(probes.len() <= rules.probe_requests.get().into(), "{} probes", probes.len());
            assert!(*passed < rules.probe_requests.get(), "all of them succeeded: it is back");
            let longest = rules.max_ejection_time.as_nanos() as u64 * 11 / 10;
            assert!(until.0 >= since.0 || host.ejections > 1, "out from {since:?} to {until:?}");
            assert!(until.0 - since.0.min(until.0) <= longest || host.ejections > 1);
            assert!(host.ejections >= 1 || *passed == 0);
        }
    }
    assert!(*table == HostTable::decode(&table.encode(MARK), MARK).expect("it can be stored"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn whatever_happens_limits_hold_and_a_healthy_group_comes_to_rest(
        steps in prop::collection::vec(step(), 1..120), kind in 0..4_usize, is_signalled: bool,
    ) {
        let outlier = [
            r#""consecutive_failures":3,"slow_start":"10s""#,
            r#""consecutive_failures":3,"consecutive_local_failures":2,"max_ejected":30,"probe":{"requests":2}"#,
            r#""consecutive_failures":0,"failure_rate":{"min_requests":3,"min_hosts":1,"threshold":50},"always_eject_one":false"#,
            r#""consecutive_failures":4,"latency":{"min_requests":2,"min_hosts":2},"interval":"1s","base_ejection_time":"500ms","max_ejection_time":"2s""#,
        ][kind];
        let mut process = Process::new(outlier, is_signalled);
        let mut before = process.table();
        for step in &steps {
            process.step(step);
            let table = process.table();
            if !matches!(step, Step::List(..)) && table.indexes() >= before.indexes() {
                check(&table, &before, &process.rules);
            }
            before = table;
        }
        // From now on everything succeeds. After the longest time there is all hosts that still get requests are in.
        let mut random = Random::new(5);
        for _ in 0..3_000_u64 {
            let (vm, host) = ((random.next() % 3) as usize, (random.next() % 6) as usize);
            process.step(&Step::Pass(250));
            process.step(&Step::Request { worker: vm, host, waits: false, verdict: 7, takes: 1 });
            process.step(&Step::Tick(vm));
        }
        let table = process.table();
        prop_assert_eq!(table.out(), 0, "out after 750 s in which nothing failed: {:?}", table);
        let now = process.now;
        let (Vm { worker, hosts }, store) = (&mut process.vms[0], &mut process.store);
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), &process.rules);
        prop_assert_eq!(hosts.steer(&mut Cx::new(store, worker, now, &mut Vec::new()), &process.rules, 2, false, &Asks::NOTHING), None);
        // What was told adds up: who was ejected is back, or gone.
        let sum = |kind: fn(&HostCount) -> bool| -> u32 {
            process.told.iter().filter(|(counted, _)| kind(counted)).map(|(_, count)| count).sum()
        };
        let ejected = sum(|counted| matches!(counted, HostCount::Ejected(_)));
        let detected = sum(|counted| matches!(counted, HostCount::Detected(_)));
        let overflow = sum(|counted| *counted == HostCount::Overflow);
        prop_assert!(sum(|counted| *counted == HostCount::Readmitted) <= ejected, "nobody is back who was not out");
        // What a worker that crashed had only noted for later is lost with it.
        prop_assert!(detected <= ejected + overflow || detected == ejected + overflow, "{detected} = {ejected} + {overflow}");
    }

    /// Never more probes under way than are asked for, at any time of any worker, while the clock runs forward.
    #[test]
    fn probes_under_way_are_never_more_than_asked_for(
        requests in 1..4_usize, arrivals in prop::collection::vec((0..3_usize, 0..3_000_u64, 0..15_000_u64, 0..6_u8), 1..80),
    ) {
        let mut process = Process::new(&format!(r#""consecutive_failures":3,"probe":{{"requests":{requests}}}"#), true);
        for host in 0..5 {
            process.judge(0, &address(host), Verdict::Success, process.now, None);
        }
        process.step(&Step::Failures { worker: 0, host: 1, times: 3 });
        process.step(&Step::Pass(30_000));
        // Probes under way: who judges it, when it was sent, when it ends, how.
        let mut under_way: Vec<(usize, Timestamp, Timestamp, Verdict, HostId, String)> = Vec::new();
        for (vm, gap, takes, verdict) in arrivals {
            process.step(&Step::Pass(gap));
            let now = process.now;
            under_way.sort_by_key(|one| one.2);
            while let Some(one) = under_way.first().filter(|one| one.2 <= now).cloned() {
                under_way.remove(0);
                process.judge(one.0, &one.5, one.3, one.1, Some(one.4));
            }
            let (Vm { worker, hosts }, store) = (&mut process.vms[vm], &mut process.store);
            hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), &process.rules);
            if let Some((id, host)) = hosts.steer(&mut Cx::new(store, worker, now, &mut Vec::new()), &process.rules, 1, false, &Asks::NOTHING).and_then(|one| one.probe) {
                let verdict = [Verdict::Success, Verdict::Failure, Verdict::Ignored][usize::from(verdict % 3)];
                under_way.push((vm, now, now.plus(Duration::from_millis(takes)), verdict, id, host));
                // Of the same time out, and not given up as lost.
                let table = process.table();
                let due = table.host(id).and_then(|host| host.due_since()).unwrap();
                let counted = under_way.iter().filter(|one| one.1 >= due && now.since(one.1) < PROBE_LEASE).count();
                prop_assert!(counted <= requests, "{counted} probes under way of {requests}");
            }
        }
    }

    /// Any bytes as records: none, or the one form of something.
    #[test]
    fn any_bytes_are_no_record_or_have_that_one_form(bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..200)) {
        let with_head = |kind: Kind| [&record::head(kind, MARK), &bytes[..]].concat();
        let bytes = with_head(Kind::Hosts);
        if let Some(table) = HostTable::decode(&bytes, MARK) {
            prop_assert!(table.encode(MARK) == bytes);
        }
        let bytes = with_head(Kind::HostSlot);
        if let Some(slot) = HostSlot::decode(&bytes, MARK) {
            prop_assert!(slot.encode(MARK) == bytes);
        }
    }
}

/// What is found is exactly what is there: no detector is named that the rules do not have.
#[test]
fn what_is_told_names_only_detectors_that_are_on() {
    let mut process = Process::new(r#""consecutive_failures":3"#, true);
    for host in 0..5 {
        process.judge(0, &address(host), Verdict::Success, process.now, None);
    }
    process.step(&Step::Failures { worker: 0, host: 1, times: 30 });
    process.step(&Step::Tick(0));
    assert!(process.told.iter().all(|(counted, _)| match counted {
        HostCount::Detected(detector) | HostCount::Ejected(detector) | HostCount::Would(detector) => {
            *detector == Detector::ConsecutiveFailures
        }
        _ => true,
    }));
}
