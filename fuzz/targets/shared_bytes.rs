//! A policy at work on three workers while anything at all is written over its records, at any time.

#![no_main]

use core::time::Duration;
use std::sync::{Arc, LazyLock};

use holdfast_policy::config;
use holdfast_policy::document::Policy;
use holdfast_policy::governed::{Decision, Governed, InFlightHold, Ticket};
use holdfast_policy::memory::MemoryStore;
use holdfast_policy::outcome::{Outcome, Verdict};
use holdfast_policy::record::VERSION;
use holdfast_policy::store::Store;
use holdfast_policy::time::Timestamp;
use holdfast_policy::worker::Worker;
use holdfast_policy::workers;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

static POLICIES: LazyLock<Vec<Arc<Policy>>> = LazyLock::new(|| {
    let document = br#"{"policies": [
        {"name": "time", "max_keys": 3, "breaker": {"min_requests": 2, "consecutive_failures": 3, "open_for": "1s",
            "half_open": {"probes": 2, "lease": "1s"}, "ramp": "1s"}, "concurrency": {"max_requests": 2}},
        {"name": "count", "scope": [], "breaker": {"window": 5, "open_for": "1s"}, "throttle": {"window": "1s"}}
    ]}"#;
    let document = config::parse(document).expect("the policies are valid");
    document.policies.into_iter().map(Arc::new).collect()
});

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    second: bool,
    signalled: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Request { worker: u8, value: &'a [u8] },
    Report { worker: u8, verdict: u8, retry_after: Option<u64> },
    Release { worker: u8 },
    Tick { worker: u8 },
    Restart { worker: u8, seed: u64 },
    Forward(u32),
    At(u64),
    Signal,
    Scribble { record: u8, head: bool, body: &'a [u8] },
}

struct Thread {
    worker: Worker,
    governed: Governed,
    tickets: Vec<Ticket>,
    holds: Vec<InFlightHold>,
}

impl Thread {
    fn new(policy: &Arc<Policy>, seed: u64) -> Self {
        let governed = Governed::new(Arc::clone(policy));
        Thread { worker: Worker::new(seed), governed, tickets: Vec::new(), holds: Vec::new() }
    }
}

fuzz_target!(|input: Input<'_>| {
    let policy = &POLICIES[usize::from(input.second)];
    let mut store = if input.signalled { MemoryStore::default() } else { MemoryStore::unsignalled() };
    let mut threads = [1, 2, 3].map(|seed| Thread::new(policy, seed));
    let mut now = Timestamp::from_secs(1_700_000_000);
    let mut events = Vec::new();
    for step in &input.steps {
        match *step {
            Step::Request { worker, value } => {
                let Thread { worker, governed, tickets, .. } = &mut threads[usize::from(worker % 3)];
                let key = governed.key(&mut store, |_| Some(value.into()));
                let decision = governed.admit(worker, &mut store, key, now, &mut events);
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
                holds.extend(governed.report(worker, &mut store, ticket, &outcome, now, &mut events));
            }
            Step::Release { worker } => {
                let Thread { worker, governed, holds, .. } = &mut threads[usize::from(worker % 3)];
                if let Some(hold) = holds.pop() {
                    governed.release(worker, &mut store, hold, now, &mut events);
                }
            }
            Step::Tick { worker } => {
                let Thread { worker, governed, .. } = &mut threads[usize::from(worker % 3)];
                worker.tick(&mut store, now);
                governed.tick(worker, &mut store, now);
            }
            Step::Restart { worker, seed } => threads[usize::from(worker % 3)] = Thread::new(policy, seed),
            Step::Forward(micros) => now = now.plus(Duration::from_micros(micros.into())),
            Step::At(nanos) => now = Timestamp(nanos),
            Step::Signal => store.raise_epoch(),
            Step::Scribble { record, head, body } => {
                let (key, kind, fingerprint) = target(record, &threads[0].governed);
                let mut bytes = Vec::new();
                if head {
                    bytes.extend_from_slice(&[VERSION, kind]);
                    bytes.extend_from_slice(&fingerprint.to_le_bytes());
                }
                bytes.extend_from_slice(body);
                store.set(&key, &bytes);
            }
        }
        events.clear();
    }
});

/// One of the keys that the policy uses, with the head that belongs there.
fn target(record: u8, governed: &Governed) -> (String, u8, u64) {
    let fingerprint = governed.fingerprint();
    let prefix = format!("holdfast/{VERSION}/p/{}/{fingerprint:016x}", governed.policy().name);
    let number = record >> 4 & 3;
    match record % 5 {
        0 => (workers::KEY.to_owned(), 3, 0),
        1 => (format!("{prefix}/{number}/breaker"), 1, fingerprint),
        2 => (format!("{prefix}/{number}/slot/{}", record >> 6), 2, fingerprint),
        3 => (format!("{prefix}/{number}/in_flight"), 4, fingerprint),
        _ => (format!("{prefix}/key/{number}"), 5, fingerprint),
    }
}
