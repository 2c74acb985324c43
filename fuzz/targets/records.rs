//! Any bytes as a record: what reads as one is written again as the same bytes, and may be worked with at any time.

#![no_main]

use core::fmt::Debug;
use core::time::Duration;
use std::sync::LazyLock;

use holdfast_policy::breaker::{Admission, Cell};
use holdfast_policy::config;
use holdfast_policy::document::{Breaker, Policy};
use holdfast_policy::inflight::InFlight;
use holdfast_policy::outcome::{Outcome, Verdict};
use holdfast_policy::record::{Record, VERSION};
use holdfast_policy::slot::{Shape, Slot};
use holdfast_policy::time::Timestamp;
use holdfast_policy::workers::{Place, Workers};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const FINGERPRINT: u64 = 0x0123_4567_89ab_cdef;

/// Breakers of every kind: window by time and by number, with a run, with a ramp, with a throttle beside it.
static POLICIES: LazyLock<Vec<Policy>> = LazyLock::new(|| {
    let document = br#"{"policies": [
        {"name": "time", "breaker": {"consecutive_failures": 5, "half_open": {"probes": 3}}, "throttle": {}},
        {"name": "count", "breaker": {"window": 100, "ramp": "10s"}},
        {"name": "most", "outcome": {"slow_after": "1s"}, "breaker": {"window": 1000, "min_requests": 1,
            "slow_rate": 0.1, "consecutive_failures": 1000, "open_for": "24h", "open_growth": 10, "open_max": "24h",
            "open_jitter": 100, "half_open": {"probes": 100, "lease": "1h"}, "ramp": "1h"}},
        {"name": "none", "throttle": {"window": "1h"}}
    ]}"#;
    config::parse(document).expect("the policies are valid").policies
});

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    policy: u8,
    first: &'a [u8],
    second: &'a [u8],
    any_head: bool,
    steps: Vec<Step>,
}

/// One operation, at a time that may be anywhere before or after the last.
#[derive(Debug, Arbitrary)]
struct Step {
    clock: Clock,
    verdict: u8,
    slow: bool,
    retry_after: Option<u64>,
    small: u8,
    number: u32,
    random: u64,
}

#[derive(Debug, Arbitrary)]
enum Clock {
    Still,
    Forward(u32),
    Back(u32),
    At(u64),
}

impl Clock {
    fn turn(&self, now: Timestamp) -> Timestamp {
        match *self {
            Clock::Still => now,
            Clock::Forward(micros) => now.plus(Duration::from_micros(micros.into())),
            Clock::Back(micros) => Timestamp(now.0.saturating_sub(u64::from(micros) * 1000)),
            Clock::At(nanos) => Timestamp(nanos),
        }
    }
}

impl Step {
    fn outcome(&self) -> Outcome {
        let verdict = match self.verdict % 4 {
            0 => Verdict::Success,
            1 => Verdict::Ignored,
            _ => Verdict::Failure,
        };
        let slow = self.slow && verdict != Verdict::Ignored;
        Outcome { verdict, slow, retry_after: self.retry_after.map(Duration::from_nanos) }
    }

    fn place(&self) -> Place {
        Place { number: self.small.into(), nonce: self.random % 4 }
    }
}

fuzz_target!(|input: Input<'_>| {
    let policy = &POLICIES[usize::from(input.policy) % POLICIES.len()];
    let shape = Shape::of(policy);
    let cell = start::<Cell>(&input);
    let first = start::<Slot>(&input);
    let workers = start::<Workers>(&input);
    let in_flight = start::<InFlight>(&input);

    if let Some(breaker) = &policy.breaker {
        run_cell(cell.unwrap_or_default(), breaker, &input.steps);
    }
    let second = Slot::decode_shaped(&with_head::<Slot>(input.second), FINGERPRINT, &shape);
    let fits = |slot: &Slot| Slot::decode_shaped(&slot.encode(FINGERPRINT), FINGERPRINT, &shape).is_some();
    let slots = [first.filter(fits), second].map(|slot| slot.unwrap_or_else(|| Slot::new(&shape, 0)));
    run_slots(slots, &shape, &input.steps);
    run_workers(workers.unwrap_or_default(), &input.steps);
    run_in_flight(in_flight.unwrap_or_default(), &input.steps);
});

fn with_head<R: Record>(body: &[u8]) -> Vec<u8> {
    [&[VERSION, R::KIND as u8][..], &FINGERPRINT.to_le_bytes(), body].concat()
}

/// The record in the first bytes, if they are one.
fn start<R: Record + PartialEq + Debug>(input: &Input<'_>) -> Option<R> {
    let bytes = if input.any_head { input.first.to_vec() } else { with_head::<R>(input.first) };
    let record = R::decode(&bytes, FINGERPRINT)?;
    assert_eq!(record.encode(FINGERPRINT), bytes, "a record has one form: {record:?}");
    assert_eq!(R::decode(&bytes, !FINGERPRINT), None, "another policy's record");
    Some(record)
}

/// Whatever was done with a record, it can be stored.
fn comes_back<R: Record + PartialEq + Debug>(record: &R) {
    assert_eq!(R::decode(&record.encode(FINGERPRINT), FINGERPRINT).as_ref(), Some(record));
}

fn run_cell(mut cell: Cell, breaker: &Breaker, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    let mut probes = Vec::new();
    for step in steps {
        now = step.clock.turn(now);
        let (generation, random) = (cell.generation, step.random);
        match step.small % 4 {
            0 | 1 => {
                let peeked = cell.peek(breaker, now, random);
                let (admission, _) = cell.admit(breaker, now, random);
                if let Some(peeked) = peeked {
                    assert_eq!(peeked, admission, "a look tells what asking does");
                }
                if let Admission::Probe { generation, lease } = admission {
                    probes.push((generation, lease));
                }
            }
            2 => {
                let (generation, lease) = probes.pop().unwrap_or((generation, step.number));
                cell.judge_probe(breaker, generation, lease, &step.outcome(), now, random);
            }
            _ => {
                use holdfast_policy::breaker::Trip;
                let trip = Trip::ConsecutiveFailures(step.number);
                cell.trip(breaker, generation, trip, step.outcome().retry_after, now, random);
            }
        }
        comes_back(&cell);
    }
}

fn run_slots(mut slots: [Slot; 2], shape: &Shape, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    for step in steps {
        now = step.clock.turn(now);
        let slot = &mut slots[usize::from(step.small) % 2];
        if step.small > 250 {
            slot.start_generation(shape, step.number);
        }
        slot.record(shape, &step.outcome(), now);
        slot.record_traffic(shape, &step.outcome(), now);
        comes_back(slot);
        assert!(Slot::decode_shaped(&slot.encode(FINGERPRINT), FINGERPRINT, shape).is_some(), "it keeps its shape");
        slot.own_total(shape, now);
        let traffic = slot.traffic_tally(shape, now);
        assert!(traffic.failures <= traffic.total && traffic.slow <= traffic.total);
        let tally = Slot::tally(&slots, shape, now);
        assert!(tally.failures <= tally.total && tally.slow <= tally.total);
        Slot::run_length(&slots, now);
    }
}

fn run_workers(mut workers: Workers, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    let mut held = None;
    for step in steps {
        now = step.clock.turn(now);
        let place = held.filter(|_| step.small.is_multiple_of(2)).unwrap_or_else(|| step.place());
        if !workers.renew(place, now) {
            held = workers.claim(now, step.random);
            assert!(held.is_none_or(|place| usize::from(place.number) < workers.claims.len()));
        }
        comes_back(&workers);
    }
}

fn run_in_flight(mut cell: InFlight, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    for step in steps {
        now = step.clock.turn(now);
        let limit = u32::from(step.small) + 1;
        if step.slow {
            cell.set(step.place(), step.number, now);
        } else if cell.acquire(step.place(), step.number, limit, now) {
            assert!(cell.total() <= u64::from(limit), "never one more");
        }
        comes_back(&cell);
    }
}
