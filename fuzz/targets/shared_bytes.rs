//! A policy at work on three workers while anything at all is written over its records, at any time.

#![no_main]

use core::time::Duration;
use holdfast_engine::cx::Cx;
use std::sync::{Arc, LazyLock};

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::End;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::outlier::hosts::{Asks, HostAttempt};
use holdfast_engine::request::{Decision, InFlightHold, RequestPolicy, Sending, Ticket};
use holdfast_engine::store::Store;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::cluster::{ClusterHash, GroupId};
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::paths::{self, HostPaths, KeysPaths};
use holdfast_engine::store::record::{self, Kind, Mark};
use holdfast_engine::store::worker::Worker;
use holdfast_engine::store::workers;
use holdfast_policy::config;
use holdfast_policy::document::Policy;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

static POLICIES: LazyLock<Vec<Arc<Policy>>> = LazyLock::new(|| {
    let document = br#"{"policies": [
        {"name": "time", "max_keys": 3, "breaker": {"min_requests": 2, "consecutive_failures": 3, "open_for": "1s",
            "half_open": {"probes": 2, "lease": "1s"}, "ramp": "1s"}, "concurrency": {"max_requests": 2}},
        {"name": "count", "scope": [], "breaker": {"window": 5, "open_for": "1s"}, "throttle": {"window": "1s"}},
        {"name": "hosts", "max_keys": 3, "outlier": {"consecutive_failures": 2, "interval": "1s", "base_ejection_time": "1s",
            "failure_rate": {"min_requests": 2, "min_hosts": 1}, "latency": {"min_requests": 2, "min_hosts": 2},
            "slow_start": "1s", "hosts": ["10.0.0.1:80", "[::1]:80"], "probe": {"requests": 2}}}
    ]}"#;
    let document = config::parse(document).expect("the policies are valid");
    document.policies.into_iter().map(Arc::new).collect()
});

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    policy: u8,
    signalled: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Request {
        worker: u8,
        value: &'a [u8],
    },
    Report {
        worker: u8,
        verdict: u8,
        retry_after: Option<u64>,
    },
    Release {
        worker: u8,
    },
    /// Where the request goes that was let pass last.
    Send {
        worker: u8,
        cluster: &'a [u8],
        waits: bool,
    },
    /// One of its attempts is over.
    Judge {
        worker: u8,
        key: u8,
        cluster: u8,
        host: Host<'a>,
        verdict: u8,
        end: u8,
        took: u32,
    },
    Tick {
        worker: u8,
    },
    Restart {
        worker: u8,
        seed: u64,
    },
    Forward(u32),
    At(u64),
    Signal,
    Scribble {
        record: u8,
        head: bool,
        body: &'a [u8],
    },
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Host<'a> {
    Known,
    Number(u8),
    Bytes(&'a [u8]),
}

struct Thread {
    worker: Worker,
    governed: RequestPolicy,
    tickets: Vec<Ticket>,
    holds: Vec<InFlightHold>,
}

impl Thread {
    fn new(policy: &Arc<Policy>, seed: u64, store: &mut MemoryStore, now: Timestamp) -> Self {
        let governed = RequestPolicy::entered(Arc::clone(policy), store, now);
        Thread { worker: Worker::new(seed), governed, tickets: Vec::new(), holds: Vec::new() }
    }
}

fuzz_target!(|input: Input<'_>| {
    let policy = &POLICIES[usize::from(input.policy) % POLICIES.len()];
    let mut store = if input.signalled { MemoryStore::default() } else { MemoryStore::unsignalled() };
    let mut now = Timestamp::from_secs(1_700_000_000);
    let mut threads = [1, 2, 3].map(|seed| Thread::new(policy, seed, &mut store, now));
    let mut events = Vec::new();
    for step in &input.steps {
        match *step {
            Step::Request { worker, value } => {
                let Thread { worker, governed, tickets, .. } = &mut threads[usize::from(worker % 3)];
                let key = governed.key(worker, &mut store, now, |_| Some(value.into()));
                let decision = governed.admit(&mut Cx::new(&mut store, worker, now, &mut events), key);
                if let Decision::Admitted(ticket) = decision {
                    tickets.push(ticket);
                }
                assert!(!governed.key_text(key).is_empty() && !governed.key_text(key).contains('\n'));
            }
            Step::Report { worker, verdict, retry_after } => {
                let Thread { worker, governed, tickets, holds } = &mut threads[usize::from(worker % 3)];
                let Some(ticket) = tickets.pop() else { continue };
                let verdict = [Verdict::Success, Verdict::Failure, Verdict::Ignored][usize::from(verdict % 3)];
                let outcome = Outcome { verdict, slow: false, retry_after: retry_after.map(Duration::from_nanos) };
                holds.extend(governed.report(&mut Cx::new(&mut store, worker, now, &mut events), ticket, &outcome));
            }
            Step::Release { worker } => {
                let Thread { worker, governed, holds, .. } = &mut threads[usize::from(worker % 3)];
                if let Some(hold) = holds.pop() {
                    governed.release(&mut Cx::new(&mut store, worker, now, &mut Vec::new()), hold);
                }
            }
            Step::Send { worker, cluster, waits } => {
                let Thread { worker, governed, tickets, .. } = &mut threads[usize::from(worker % 3)];
                let Some(ticket) = tickets.last() else { continue };
                let hash = ClusterHash(cluster.len() as u64 % 3);
                let eligibility = waits.then_some(holdfast_engine::retry::Eligibility::Nothing);
                let sending = Sending { cluster: hash, cluster_name: cluster, eligibility, context: None };
                let asks = Asks { selector: &|| Some(1), hash: &|| Some(cluster.len() as u64) };
                let sent = governed.send(&mut Cx::new(&mut store, worker, now, &mut events), ticket, sending, &asks);
                if let Some(steering) = sent.steering {
                    assert!(steering.out <= steering.of, "{steering:?}");
                    assert!(steering.hosts.split(',').count() <= 4, "three and the probe: {steering:?}");
                }
            }
            Step::Judge { worker, key, cluster, host, verdict, end, took } => {
                let Thread { worker, governed, .. } = &mut threads[usize::from(worker % 3)];
                let numbered;
                let host = match host {
                    Host::Known => &b"10.0.0.1:80"[..],
                    Host::Number(number) => {
                        numbered = format!("10.0.0.{number}:80");
                        numbered.as_bytes()
                    }
                    Host::Bytes(bytes) => bytes,
                };
                let end = [End::Http(503), End::Grpc(14), End::ConnectFailure, End::Reset, End::TimedOut, End::Broken]
                    [usize::from(end % 6)];
                let verdict = [Verdict::Success, Verdict::Failure, Verdict::Ignored][usize::from(verdict % 3)];
                let took = Duration::from_micros(took.into());
                let sent = Timestamp(now.0.saturating_sub(took.as_nanos() as u64));
                let value = [key % 4];
                let key = governed.key(worker, &mut store, now, |_| Some(value[..].into()));
                let cluster = ClusterHash(u64::from(cluster % 3));
                let one = HostAttempt { host, end, verdict, took, sent };
                let mut wants =
                    || governed.wants_host(&mut Cx::new(&mut store, worker, now, &mut events), key, cluster);
                if verdict != Verdict::Success || wants() {
                    governed.judge_host(&mut Cx::new(&mut store, worker, now, &mut events), key, cluster, one, None);
                }
            }
            Step::Tick { worker } => {
                let Thread { worker, governed, .. } = &mut threads[usize::from(worker % 3)];
                worker.tick(&mut store, now);
                governed.tick(&mut Cx::new(&mut store, worker, now, &mut Vec::new()));
            }
            Step::Restart { worker, seed } => {
                threads[usize::from(worker % 3)] = Thread::new(policy, seed, &mut store, now);
            }
            Step::Forward(micros) => now = now.plus(Duration::from_micros(micros.into())),
            Step::At(nanos) => now = Timestamp(nanos),
            Step::Signal => store.raise_epoch(),
            Step::Scribble { record, head, body } => {
                let (name, kind) = target(record);
                let head = if head { record::head(kind, Mark::NONE) } else { Vec::new() };
                store.set(&name, &[&head, body].concat());
            }
        }
        events.clear();
    }
});

/// One of the names that a policy uses that is alone, and what belongs there.
fn target(record: u8) -> (String, Kind) {
    let (key, number) = (u16::from(record >> 4 & 3), u16::from(record >> 6));
    let group = match record >> 6 {
        0 => GroupId::OfTheKey,
        index => GroupId::Numbered(Occupant { index: u16::from(index) - 1, tenancy: 0 }),
    };
    let Some(hosts) = HostPaths::new(0, key, group) else { unreachable!() };
    let (keys, of) = (KeysPaths::new(0), |kind| format!("{}/{key}", paths::of_block(kind, 0)));
    match record % 14 {
        0 => (workers::KEY.to_owned(), Kind::Workers),
        1 => (of(BlockKind::Breaker), Kind::Breaker),
        2 => (format!("{}/slot/{number}", of(BlockKind::Breaker)), Kind::BreakerSlot),
        3 => (of(BlockKind::Concurrency), Kind::InFlight),
        4 => (hosts.table(), Kind::Hosts),
        5 => (hosts.run(number), Kind::HostRun),
        6 => (hosts.slot(false, number), Kind::HostSlot),
        7 => (hosts.leader(), Kind::Leader),
        8 => (keys.directory(), Kind::Occupants),
        9 => (keys.groups(), Kind::Occupants),
        10 => (keys.name(key), Kind::KeyName),
        11 => (format!("{}/slot/{number}", of(BlockKind::Throttle)), Kind::TrafficSlot),
        12 => (paths::series("time"), Kind::Series),
        _ => (paths::REGISTRY.to_owned(), Kind::Registry),
    }
}
