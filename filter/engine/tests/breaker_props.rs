//! Properties of the breaker for any sequence of outcomes, times and workers.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use holdfast_engine::cx::Cx;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::breaker::slot::BreakerSlot;
use holdfast_engine::breaker::{Cell, CellChange};
use holdfast_engine::concurrency::in_flight::InFlight;
use holdfast_engine::event::Event;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::request::{Decision, RequestPolicy, Ticket};
use holdfast_engine::retry::slot::DepositSlot;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::record::{self, Kind, Mark, Record};
use holdfast_engine::store::worker::Worker;
use holdfast_engine::store::workers::Workers;
use holdfast_engine::throttle::slot::TrafficSlot;
use holdfast_policy::config;
use holdfast_policy::document::Policy;
use proptest::prelude::*;

fn policy(breaker: &str) -> Arc<Policy> {
    let text = format!(r#"{{"policies":[{{"name":"p","scope":[],"breaker":{breaker}}}]}}"#);
    config::parse(text.as_bytes()).expect("a valid policy").policies.remove(0).into()
}

/// One thing that happens on one worker.
#[derive(Debug, Clone)]
enum Step {
    /// A request arrives.
    Arrive,
    /// The request in flight with this number (modulo how many there are) ends.
    End(usize, Verdict),
    /// Time passes.
    Pass(u64),
    /// The clock is set back.
    Back(u64),
    /// The worker's VM crashes, with all that it holds, and a new one takes its place.
    Crash,
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![4 => Just(Verdict::Success), 6 => Just(Verdict::Failure), 1 => Just(Verdict::Ignored)]
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        10 => Just(Step::Arrive),
        10 => (0..64_usize, verdict()).prop_map(|(which, verdict)| Step::End(which, verdict)),
        4 => (0..15_000_u64).prop_map(Step::Pass),
        1 => (0..4_000_000_u64).prop_map(Step::Back),
        1 => Just(Step::Crash),
    ];
    (0..3_usize, step)
}

const START: Timestamp = Timestamp::from_secs(1_700_000_000);

struct Thread {
    worker: Worker,
    request_policy: RequestPolicy,
    /// With the generation of half-open in which a probe was admitted.
    in_flight: Vec<(Ticket, Timestamp)>,
}

/// All workers of one process.
struct Process {
    policy: Arc<Policy>,
    store: MemoryStore,
    threads: Vec<Thread>,
    seed: u64,
}

impl Process {
    fn new(policy: Arc<Policy>) -> Self {
        let mut process = Process { policy, store: MemoryStore::default(), threads: Vec::new(), seed: 0 };
        for _ in 0..3 {
            let thread = process.thread();
            process.threads.push(thread);
        }
        process
    }

    fn thread(&mut self) -> Thread {
        self.seed += 1;
        let policy = Arc::clone(&self.policy);
        Thread {
            worker: Worker::new(self.seed),
            request_policy: RequestPolicy::entered(policy, &mut self.store, START),
            in_flight: Vec::new(),
        }
    }

    fn arrive(&mut self, number: usize, now: Timestamp) -> (bool, Vec<Event>) {
        let (thread, mut events) = (&mut self.threads[number], Vec::new());
        let key = thread.request_policy.key(&mut thread.worker, &mut self.store, now, |_| Some(Cow::Borrowed(b"")));
        match thread.request_policy.admit(&mut Cx::new(&mut self.store, &mut thread.worker, now, &mut events), key) {
            Decision::Admitted(ticket) => {
                thread.in_flight.push((ticket, now));
                (true, events)
            }
            Decision::Rejected(_) => (false, events),
        }
    }

    /// Writes what waits on every worker.
    fn flush(&mut self, now: Timestamp) {
        for thread in &mut self.threads {
            thread.request_policy.flush(&mut Cx::new(&mut self.store, &mut thread.worker, now, &mut Vec::new()));
        }
    }

    fn end(&mut self, number: usize, which: usize, verdict: Verdict, now: Timestamp) -> Vec<Event> {
        let (thread, mut events) = (&mut self.threads[number], Vec::new());
        if !thread.in_flight.is_empty() {
            let (ticket, _) = thread.in_flight.swap_remove(which % thread.in_flight.len());
            let outcome = Outcome { verdict, slow: false, retry_after: None };
            let hold = thread.request_policy.report(
                &mut Cx::new(&mut self.store, &mut thread.worker, now, &mut events),
                ticket,
                &outcome,
            );
            assert_eq!(hold, None, "the policy limits no requests in flight");
        }
        events
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// However requests, outcomes, crashes and clocks go: from one step into half-open to the next, no more probes are
    /// out or judged than the policy allows, where a probe is out until it reports or its lease is over.
    #[test]
    fn half_open_never_admits_more_than_its_probes(
        steps in prop::collection::vec(step(), 1..400),
        probes in 1..6_usize,
    ) {
        let lease = Duration::from_secs(10);
        let policy = policy(&format!(
            r#"{{"min_requests":4,"open_for":"2s","half_open":{{"probes":{probes},"lease":"10s"}}}}"#
        ));
        let mut process = Process::new(policy);
        let mut now = START;
        let mut latest = now;
        // Probes admitted since half-open began: when, and whether they were ignored in the end.
        let mut out: Vec<(usize, Timestamp)> = Vec::new();
        let mut judged = 0;
        for (number, step) in steps {
            match step {
                Step::Pass(millis) => now = now.plus(Duration::from_millis(millis)),
                Step::Back(millis) => {
                    now = Timestamp(now.0.saturating_sub(millis * 1_000_000));
                    // A lease from a clock further ahead than itself counts as over.
                    out.retain(|(_, admitted)| admitted.plus(lease).since(now) <= lease);
                }
                Step::Crash => {
                    let fresh = process.thread();
                    process.threads[number] = fresh;
                }
                Step::Arrive => {
                    let (admitted, events) = process.arrive(number, now);
                    if events.iter().any(|event| matches!(event, Event::Log { text, .. } if text.contains("-> half-open: "))) {
                        out.clear();
                        judged = 0;
                    }
                    let probe = process.threads[number].in_flight.last().is_some_and(|(ticket, _)| ticket.is_probe());
                    if admitted && probe {
                        out.retain(|(_, admitted)| now.since(*admitted) < lease && admitted.since(now) == Duration::ZERO);
                        out.push((number, now));
                        prop_assert!(out.len() + judged <= probes, "{} out, {judged} judged, of {probes}", out.len());
                    }
                }
                Step::End(which, verdict) => {
                    let ending = process.threads[number].in_flight.get(
                        which.checked_rem(process.threads[number].in_flight.len()).unwrap_or(0)
                    ).map(|(ticket, admitted)| (ticket.is_probe(), *admitted));
                    let events = process.end(number, which, verdict, now);
                    if let Some((true, admitted)) = ending
                        && let Some(index) = out.iter().position(|one| *one == (number, admitted))
                    {
                        out.swap_remove(index);
                        if verdict != Verdict::Ignored {
                            judged += 1;
                        }
                    }
                    if events.iter().any(|event| matches!(event, Event::Log { .. })) {
                        out.clear();
                        judged = 0;
                    }
                }
            }
            latest = latest.max(now);
        }
    }

    /// Whichever workers the outcomes fall to, what is admitted is what one worker would admit that saw them all.
    #[test]
    fn a_verdict_does_not_depend_on_the_worker(
        // Mostly good, and with pauses in which outcomes leave the window.
        steps in prop::collection::vec((0..3_usize, prop_oneof![
            12 => Just(Verdict::Success), 8 => Just(Verdict::Failure), 1 => Just(Verdict::Ignored),
        ], prop_oneof![8 => 11..150_u64, 2 => 600..1900_u64]), 1..150),
        min_requests in 2..8_u32,
        window in prop_oneof![Just("\"2s\""), Just("8")],
    ) {
        let policy = policy(&format!(
            r#"{{"window":{window},"min_requests":{min_requests},"open_for":"1s","open_jitter":0,"half_open":{{"probes":2}}}}"#
        ));
        let (mut one, mut three) = (Process::new(Arc::clone(&policy)), Process::new(policy));
        let mut now = START;
        for (number, verdict, millis) in steps {
            now = now.plus(Duration::from_millis(millis));
            let (here, there) = (one.arrive(0, now).0, three.arrive(number, now).0);
            prop_assert_eq!(here, there, "worker {} at {:?}", number, now);
            if here {
                one.end(0, 0, verdict, now);
                three.end(number, 0, verdict, now);
            }
            // Outcomes that decide nothing are written within 10 ms.
            three.flush(now.plus(Duration::from_millis(10)));
        }
    }

    /// A closed breaker that has seen fewer outcomes than `min_requests` never opens.
    #[test]
    fn below_the_volume_it_never_opens(
        outcomes in prop::collection::vec((0..3_usize, verdict(), 0..2_000_u64), 1..19),
    ) {
        let mut process = Process::new(policy(r#"{"min_requests":20}"#));
        let mut now = START;
        for (number, verdict, millis) in outcomes {
            prop_assert!(process.arrive(number, now).0);
            now = now.plus(Duration::from_millis(millis));
            let events = process.end(number, 0, verdict, now);
            let has_moved = events.iter().any(|event| matches!(event, Event::Log { .. }));
            prop_assert!(!has_moved);
        }
    }

    /// The period grows and never passes the maximum, whatever the settings.
    #[test]
    fn growth_never_passes_the_maximum(
        open_for in 1..100_000_u64, factor in 1000..10_000_u32, extra in 0..1_000_000_u64, opens in 0..u16::MAX,
    ) {
        let policy = policy(&format!(
            r#"{{"open_for":"{open_for}ms","open_growth":{},"open_max":"{}ms"}}"#,
            f64::from(factor) / 1000.0, open_for + extra
        ));
        let breaker = policy.breaker.as_ref().expect("it has one");
        prop_assert!(breaker.period(opens) <= breaker.open_max);
        prop_assert!(breaker.period(opens) >= breaker.open_for);
        prop_assert!(breaker.period(opens.saturating_add(1)) >= breaker.period(opens));
    }

    /// Any bytes decode to a record or to nothing, and a record's own bytes to itself.
    #[test]
    fn any_bytes_are_a_record_or_absent(bytes in prop::collection::vec(any::<u8>(), 0..600), block: u32, key: u32) {
        fn check<R: Record + PartialEq + std::fmt::Debug>(bytes: &[u8], mark: Mark) -> Result<(), TestCaseError> {
            // With the right head too, so that the fields are reached.
            for bytes in [bytes, &[&record::head(R::KIND, mark), bytes].concat()] {
                if let Some(record) = R::decode(bytes, mark) {
                    prop_assert_eq!(R::decode(&record.encode(mark), mark), Some(record));
                }
            }
            Ok(())
        }
        let mark = Mark { block, key };
        check::<Cell>(&bytes, mark)?;
        check::<BreakerSlot>(&bytes, mark)?;
        check::<TrafficSlot>(&bytes, mark)?;
        check::<DepositSlot>(&bytes, mark)?;
        check::<Workers>(&bytes, mark)?;
        check::<InFlight>(&bytes, mark)?;
        for other in [Mark { block: block.wrapping_add(1), key }, Mark { block, key: key.wrapping_add(1) }] {
            prop_assert_eq!(Cell::decode(&Cell::default().encode(mark), other), None);
        }
        prop_assert_eq!(Cell::decode(&[&record::head(Kind::InFlight, mark), &bytes[..]].concat(), mark), None);
    }

    /// A cell with any content that decodes never panics, whatever is asked of it at whatever time.
    #[test]
    fn any_cell_answers(bytes in prop::collection::vec(any::<u8>(), 0..200), now: u64, random: u64) {
        let policy = policy("{}");
        let breaker = policy.breaker.as_ref().expect("it has one");
        for state in 0..4_u8 {
            let mut record = record::head(Kind::Breaker, Mark::NONE);
            let head = record.len();
            record.extend_from_slice(&[0, 0, 0, 0, 0, 0, state]);
            record.extend_from_slice(&bytes);
            for len in [record.len(), head + 7, head + 15, head + 23, head + 27] {
                let Some(mut cell) = record.get(..len).and_then(|record| Cell::decode(record, Mark::NONE)) else { continue };
                cell.peek(breaker, Timestamp(now), random);
                cell.admit(breaker, Timestamp(now), random);
                let judged = cell.judge_probe(breaker, 0, 0, &Outcome::IGNORED, Timestamp(now), random);
                prop_assert!(matches!(judged, CellChange::Stale | CellChange::HostCount));
            }
        }
    }
}
