//! Any bytes as a record: what reads as one is written again as the same bytes, and may be worked with at any time.

#![no_main]

use core::fmt::Debug;
use core::time::Duration;
use holdfast_engine::retry::budget;
use std::sync::LazyLock;

use holdfast_engine::base::random::Random;
use holdfast_engine::base::time::{SKEW, Timestamp};
use holdfast_engine::breaker::slot::{BreakerSlot, Shape};
use holdfast_engine::breaker::{Admission, Cell};
use holdfast_engine::concurrency::in_flight::InFlight;
use holdfast_engine::http::attempt::{AttemptRecord, End, RetryWish};
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::outlier::balance::load::Loads;
use holdfast_engine::outlier::cause::EjectionCause;
use holdfast_engine::outlier::leader::Leader;
use holdfast_engine::outlier::run::HostRun;
use holdfast_engine::outlier::slot::HostSlot;
use holdfast_engine::outlier::steering::{self, Asked, Rotation};
use holdfast_engine::outlier::sweep::{Tallies, sweep};
use holdfast_engine::outlier::table::{Ejection, HostId, HostTable, MOST_HOSTS, ProbeResult};
use holdfast_engine::outlier::topology::{HostListing, ListedHost, Locality, Topology};
use holdfast_engine::retry::budget::Withdrawn;
use holdfast_engine::retry::slot::DepositSlot;
use holdfast_engine::seats::policy_text::PolicyText;
use holdfast_engine::seats::presence::{LASTS, Presence};
use holdfast_engine::seats::retry_context::RetryContext;
use holdfast_engine::store::Store;
use holdfast_engine::store::block::{BlockKind, ByKind};
use holdfast_engine::store::directory::{Directory, DirectoryView, Worth};
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::record::{self, Mark, Record};
use holdfast_engine::store::registry::{self, Configured, Identity, Registry};
use holdfast_engine::store::slot::Slot;
use holdfast_engine::store::workers::{WorkerSlot, Workers};
use holdfast_engine::throttle::slot::TrafficSlot;
use holdfast_policy::config;
use holdfast_policy::document::{Breaker, Budget, Detector, Outlier, Policy};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// From here on times saturate.
const END_OF_TIME: Timestamp = Timestamp(u64::MAX / 2);

const MARK: Mark = Mark { block: 0x0123_4567, key: 0x89ab_cdef };

/// That of a later occupant of the place.
const LATER: Mark = Mark { key: MARK.key + 1, ..MARK };

/// Breakers of every kind: window by time and by number, with a run, with a ramp, with a throttle beside it. Retry budgets of
/// every kind: by share, by reserve, by both, in shadow, off; alone and beside the others. Ejection by every detector.
static POLICIES: LazyLock<Vec<Policy>> = LazyLock::new(|| {
    let document = br#"{"policies": [
        {"name": "time", "breaker": {"consecutive_failures": 5, "half_open": {"probes": 3}}, "throttle": {}},
        {"name": "count", "breaker": {"window": 100, "ramp": "10s"}},
        {"name": "most", "outcome": {"slow_after": "1s"}, "breaker": {"window": 1000, "min_requests": 1,
            "slow_rate": 0.1, "consecutive_failures": 1000, "open_for": "24h", "open_growth": 10, "open_max": "24h",
            "open_jitter": 100, "half_open": {"probes": 100, "lease": "1h"}, "ramp": "1h"}},
        {"name": "none", "throttle": {"window": "1h"}},
        {"name": "retry", "retry": {}},
        {"name": "share", "retry": {"budget": {"ratio": 100, "min_per_second": 0, "window": "1s"}}},
        {"name": "reserve", "breaker": {"window": 10}, "retry": {"budget": {"ratio": 0, "min_per_second": 0.01, "window": "5m"}}},
        {"name": "all", "breaker": {"consecutive_failures": 5}, "throttle": {}, "retry": {"budget": {"ratio": 12.345,
            "min_per_second": 10000, "window": "1234ms"}}},
        {"name": "shadow", "breaker": {}, "retry": {"mode": "shadow", "budget": {"min_per_second": 0.001}}},
        {"name": "off", "breaker": {}, "retry": {"mode": "off"}},
        {"name": "runs", "outlier": {"slow_start": "10s", "hosts": ["10.0.0.1:80"]}},
        {"name": "rates", "outlier": {"consecutive_failures": 0, "failure_rate": {"min_requests": 1, "min_hosts": 1},
            "success_rate": {"stdev_factor": 0, "min_requests": 1, "min_hosts": 1, "mode": "shadow"},
            "latency": {"deviation": 1, "min_requests": 1, "min_hosts": 2, "floor": "0s"}, "interval": "100ms",
            "base_ejection_time": "1ms", "max_ejection_time": "24h", "ejection_jitter": 100, "max_ejected": 100,
            "probe": {"requests": 100}}},
        {"name": "beats", "outlier": {"max_ejected": 0, "always_eject_one": false, "panic_threshold": 0,
            "heartbeat": {"path": "/"}, "discover": {"cluster": "admin", "path": "/clusters"}}}
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
        Outcome { verdict, slow: self.slow, retry_after: self.retry_after.map(Duration::from_nanos) }
    }

    fn end(&self) -> End {
        match self.small % 6 {
            0 => End::Http(self.number as u16),
            1 => End::Grpc(self.number),
            2 => End::ConnectFailure,
            3 => End::Reset,
            4 => End::Broken,
            _ => End::TimedOut,
        }
    }

    fn index(&self) -> WorkerSlot {
        WorkerSlot { number: self.small.into(), nonce: self.random % 4 }
    }
}

fuzz_target!(|input: Input<'_>| {
    let policy = &POLICIES[usize::from(input.policy) % POLICIES.len()];
    let cell = start::<Cell>(&input);
    let breaker_slot = start::<BreakerSlot>(&input);
    let traffic = start::<TrafficSlot>(&input);
    let deposits = start::<DepositSlot>(&input);
    let workers = start::<Workers>(&input);
    let in_flight = start::<InFlight>(&input);
    let withdrawn = start::<Withdrawn>(&input);
    let context = start::<RetryContext>(&input);
    let presence = start::<Presence>(&input);
    start::<PolicyText>(&input);
    let table = start::<HostTable>(&input);
    let host_slot = start::<HostSlot>(&input);
    let run = start::<HostRun>(&input);
    start::<Leader>(&input);
    let directory = start::<Directory>(&input);
    let registry = start::<Registry>(&input);

    if let Some(breaker) = &policy.breaker {
        run_cell(cell.unwrap_or_default(), breaker, &input.steps);
        let shape = Shape::of(breaker);
        run_slots(slots(breaker_slot, &input, &shape), &shape, &input.steps);
    }
    if let Some(throttle) = &policy.throttle {
        run_traffic(traffic.unwrap_or_default(), throttle.window, &input.steps);
    }
    if let Some(retry) = &policy.retry {
        let slots = slots(deposits, &input, &retry.budget.window);
        run_budget(withdrawn.unwrap_or_default(), slots, &retry.budget, &input.steps);
    }
    run_workers(workers.unwrap_or_default(), &input.steps);
    run_in_flight(in_flight.unwrap_or_default(), &input.steps);
    if let Some(context) = context {
        run_exchange(context, input.second, &input.steps);
    }
    if let Some(rules) = &policy.outlier {
        run_hosts(table.unwrap_or_default(), rules, &input.steps);
        run_host_slot(host_slot.unwrap_or_default(), rules, &input.steps);
    }
    run_run(run.unwrap_or_default(), &input.steps);
    run_places(&directory.unwrap_or_default(), &input.steps);
    run_registry(registry.unwrap_or_default(), &input.steps);
    if let Some(presence) = presence.filter(|presence| presence.seen < END_OF_TIME) {
        run_presence(presence, &input.steps);
    }
});

/// Whatever the directory says, who is given a place has it, and no place is beyond the most.
fn run_places(directory: &Directory, steps: &[Step]) {
    let (mut store, mut now) = (MemoryStore::default(), Timestamp::from_secs(1_700_000_000));
    store.set("places", &directory.encode(MARK));
    let mut view = DirectoryView::new("places".to_owned(), MARK, 4);
    for step in steps {
        now = step.clock.turn(now);
        let worth = if step.slow { Worth::Keep } else { Worth::Little(step.small.into()) };
        if let Some((occupant, is_new)) = view.assign(&mut store, step.random % 8, 20, now, &mut |_, _| worth) {
            assert!(view.known().has(occupant));
            assert!(!is_new || usize::from(occupant.index) < directory.entries().len().max(4), "{occupant:?}");
            view.use_once(occupant);
        }
        view.refresh(&mut store, now);
        view.upkeep(&mut store, now, &mut |_| step.slow);
    }
}

/// Whatever the registry says, who is entered has a place for each block, alone or with those that have an equal one.
fn run_registry(mut registry: Registry, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    for step in steps {
        now = step.clock.turn(now);
        let number = step.random % 6;
        let policy = &POLICIES[number as usize / 2];
        let identity = Identity { content: number, ..Identity::of(policy) };
        let known = registry.standing(&identity, now);
        if step.slow {
            let before = known.map(|known| known.since).filter(|_| step.small > 9);
            let used = ByKind::new(|_| (step.verdict > 9).then_some(now.plus(registry::LEASE)));
            registry.configure(&Configured { identity, before, used }, &[], now);
        } else {
            registry.renew(&identity, Timestamp(step.number.into()), now);
        }
        let standing = registry.standing(&identity, now).expect("there is room");
        for kind in BlockKind::ALL {
            let block = standing.places.get(kind);
            assert!(!standing.before.get(kind).iter().any(|before| Some(before.block) == *block), "before itself");
        }
        comes_back(&registry);
    }
}

/// Two slots of this shape: one that the input says, if it has the shape, and what else the input says.
fn slots<S: Slot>(first: Option<S>, input: &Input<'_>, shape: &S::Shape) -> [S; 2] {
    let second = S::decode(&with_head::<S>(input.second), MARK);
    [first, second].map(|slot| slot.filter(|slot| slot.has(shape)).unwrap_or_else(|| S::empty(shape)))
}

fn with_head<R: Record>(body: &[u8]) -> Vec<u8> {
    [&record::head(R::KIND, MARK), body].concat()
}

/// The record in the first bytes, if they are one.
fn start<R: Record + PartialEq + Debug>(input: &Input<'_>) -> Option<R> {
    let bytes = if input.any_head { input.first.to_vec() } else { with_head::<R>(input.first) };
    let record = R::decode(&bytes, MARK)?;
    assert_eq!(record.encode(MARK), bytes, "a record has one form: {record:?}");
    assert_eq!(R::decode(&bytes, LATER), None, "another's record");
    Some(record)
}

/// Whatever was done with a record, it can be stored.
fn comes_back<R: Record + PartialEq + Debug>(record: &R) {
    assert_eq!(R::decode(&record.encode(MARK), MARK).as_ref(), Some(record));
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
                use holdfast_engine::breaker::Trip;
                let trip = Trip::ConsecutiveFailures(step.number);
                cell.trip(breaker, generation, trip, step.outcome().retry_after, now, random);
            }
        }
        comes_back(&cell);
    }
}

fn run_slots(mut slots: [BreakerSlot; 2], shape: &Shape, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    for step in steps {
        now = step.clock.turn(now);
        let slot = &mut slots[usize::from(step.small) % 2];
        if step.small > 250 {
            slot.enter(shape, step.number);
        }
        slot.record(shape, &step.outcome(), now);
        comes_back(slot);
        assert!(slot.has(shape), "it keeps its shape");
        let _ = (slot.own_total(shape, now), slot.outcomes(shape, now));
        let tally = BreakerSlot::tally(&slots, shape, now);
        assert!(tally.failures <= tally.total && tally.slow <= tally.total);
        let _ = BreakerSlot::run_length(&slots, now);
    }
}

fn run_traffic(mut slot: TrafficSlot, window: Duration, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    for step in steps {
        now = step.clock.turn(now);
        slot.0.record(&step.outcome(), now, window);
        comes_back(&slot);
        let tally = slot.tally(&window, now);
        assert!(tally.failures <= tally.total && tally.slow <= tally.total);
    }
}

fn run_workers(mut workers: Workers, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    let mut held = None;
    for step in steps {
        now = step.clock.turn(now);
        let index = held.filter(|_| step.small.is_multiple_of(2)).unwrap_or_else(|| step.index());
        if !workers.renew(index, now) {
            held = workers.claim(now, step.random);
            assert!(held.is_none_or(|index| usize::from(index.number) < workers.claims.len()));
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
            cell.set(step.index(), step.number, now);
        } else if cell.acquire(step.index(), step.number, limit, now) {
            assert!(cell.total() <= u64::from(limit), "never one more");
        }
        comes_back(&cell);
    }
}

/// Requests deposit, attempts withdraw, are charged or not sent after all. However it goes, what is withdrawn in a window that
/// ends with a withdrawal is within what the window's requests allow.
fn run_budget(mut cell: Withdrawn, mut slots: [DepositSlot; 2], budget: &Budget, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    // When tokens were taken, since the clock last went back; before that no window can be told.
    let mut taken: Vec<Timestamp> = Vec::new();
    for step in steps {
        let then = now;
        now = step.clock.turn(now);
        if now < then {
            taken.clear();
        }
        let requests = slots.iter().fold(0_u32, |sum, slot| sum.saturating_add(slot.tally(&budget.window, now)));
        match step.small % 5 {
            0 => {
                let slot = &mut slots[usize::from(step.slow)];
                let before = slot.tally(&budget.window, now);
                slot.deposit(&budget.window, now);
                assert_eq!(slot.tally(&budget.window, now), before.saturating_add(1), "a request is one deposit");
                comes_back(slot);
            }
            1 | 2 => {
                let had = cell.has_left(budget, requests, now);
                assert_eq!(cell.withdraw(budget, requests, now), had, "a look tells what asking does");
                if had {
                    taken.push(now);
                    let inside = taken.iter().filter(|taken| now.since(**taken) < budget.window).count() as u64;
                    assert!(inside * 1000 <= budget::allowed(budget, requests), "{inside} for {requests} requests");
                }
            }
            3 => {
                let had = cell.has_left(budget, requests, now);
                cell.charge(step.number, now, budget.window);
                assert!(had || !cell.has_left(budget, requests, now), "a charge never gives a token");
            }
            _ if taken.is_empty() => {}
            _ => {
                let one = taken.swap_remove(step.number as usize % taken.len());
                cell.refund(one, now, budget.window);
            }
        }
        comes_back(&cell);
    }
}

fn run_exchange(mut context: RetryContext, host: &[u8], steps: &[Step]) {
    let mut now = context.admitted;
    for step in steps {
        now = step.clock.turn(now);
        let took = Duration::from_nanos(step.random);
        let verdict = step.outcome().verdict;
        let wish = match step.random % 3 {
            0 => None,
            1 => Some(RetryWish::Wait(took)),
            _ => Some(RetryWish::Never),
        };
        context.ended(AttemptRecord { host: host.to_vec(), end: step.end(), verdict, took, ended: now, wish });
        if let Some(asked) = context.asked_by(host, now) {
            assert!(asked.left <= asked.whole.saturating_add(SKEW), "no clock makes a wait longer than it was");
        }
        assert!(context.is_retried(), "a try has ended");
        assert_eq!(
            RetryContext::read_property(&context.property()).as_ref(),
            Some(&context),
            "the other seat reads it"
        );
    }
}

fn run_presence(presence: Presence, steps: &[Step]) {
    let mut now = presence.seen;
    for step in steps {
        now = step.clock.turn(now);
        if presence.holds(now) {
            assert!(now.since(presence.seen) < LASTS && presence.seen.since(now) <= SKEW, "neither old nor to come");
        }
    }
}

/// Hosts are found, judged, ejected, probed, listed and forgotten in any order. Nothing that a step does passes a limit.
fn run_hosts(mut table: HostTable, rules: &Outlier, steps: &[Step]) {
    let mut now = Timestamp::from_secs(1_700_000_000);
    let mut random = Random::new(1);
    for step in steps {
        let then = now;
        now = step.clock.turn(now);
        let known: Vec<HostId> = table.hosts().map(|(id, _)| id).collect();
        let any = HostId { index: step.small.into(), id: step.number };
        let id = known.get(step.small as usize % known.len().max(1)).copied().unwrap_or(any);
        let address = format!("10.0.0.{}:80", step.number % 300);
        let out = table.out();
        match step.number % 12 {
            0 | 1 => {
                let _ = table.enter(address.as_bytes(), step.slow, now);
            }
            2 | 3 => {
                let detector = Detector::ALL[usize::from(step.verdict) % Detector::COUNT];
                let cause = match detector {
                    Detector::FailureRate => EjectionCause::FailureRate { failures: step.number, total: step.number },
                    Detector::SuccessRate => {
                        EjectionCause::SuccessRate { share: 1, mean: step.number, stdev: 0, hosts: 2 }
                    }
                    Detector::Latency => EjectionCause::Latency {
                        own: Duration::from_nanos(step.random),
                        peers: Duration::ZERO,
                        hosts: 1,
                    },
                    Detector::Heartbeat => EjectionCause::Heartbeat { failures: 1, last: None },
                    detector => EjectionCause::Run { detector, length: 5, last: step.end() },
                };
                let was_in = table.host(id).is_some_and(|host| host.is_in());
                let ejection = table.eject(rules, id, cause, now, step.random);
                let (now_out, known) = (table.out(), table.known());
                let within = now_out as u64 * 100_000 <= u64::from(rules.max_ejected.millis()) * known as u64;
                // One that trickles is out already.
                let is_more = ejection == Ejection::Ejected && was_in;
                assert_eq!(now_out, out + usize::from(is_more));
                assert!(!is_more || within || now_out == 1 && rules.always_eject_one);
            }
            4 => {
                let wanted = table.host(id).is_some_and(|host| host.wants_probe(rules, now));
                assert_eq!(table.take_probe(rules, id, now), wanted, "a look tells what asking does");
            }
            5 => {
                table.return_probe(id, then);
            }
            6 => {
                let took = Duration::from_nanos(step.random);
                let tried = ProbeResult { end: step.end(), failed: step.slow, took, has_permit: step.small > 99 };
                table.judge_probe(rules, id, tried, then, now, step.random);
            }
            7 => {
                table.readmit_healthy(rules, id, now);
            }
            8 => {
                let tally = |id: HostId| {
                    let total = step.number ^ u32::from(id.index);
                    let times = [Duration::from_nanos(step.random); 3].into_iter().collect();
                    let failures = total >> (id.index % 3);
                    (
                        id,
                        holdfast_engine::outlier::slot::HostTally {
                            total,
                            failures,
                            times,
                            abandoned: total / 3,
                            met: failures,
                        },
                    )
                };
                let tallies: Tallies = known.iter().copied().chain([any]).map(tally).collect();
                sweep(&mut table, rules, &tallies, then, now, step.random);
            }
            9 => table.forget(id),
            10 => {
                let (priority, weight) = ((step.number % 5) as u8, step.number.max(1));
                let topology = Topology { priority, locality: step.number as u16 % 5, weight, is_degraded: step.slow };
                let locality = |priority| Locality { priority, weight: step.number, unusable: step.small.into() };
                let localities = (0..step.small % 4).map(locality).collect();
                table.list(
                    &HostListing { hosts: vec![ListedHost { address, topology }], localities, requests: Vec::new() },
                    &|address| rules.names(address),
                    now,
                );
            }
            _ => {
                let _ = core::mem::take(&mut table.events);
            }
        }
        assert!(table.known() <= MOST_HOSTS && table.out() <= table.known());
        if table.steers(rules, now) {
            let mut rotation = Rotation::new(&table, rules, &|_| true, false, &mut random);
            let asked = Asked { table: &table, rules, wanted: 3, hash: None, loads: &Loads::default(), now };
            let hosts = rotation.next(&asked, &mut random);
            assert!(!hosts.is_empty(), "somebody is left");
            assert!(hosts.iter().all(|id| table.host(*id).is_some_and(|host| host.is_in())));
            assert!(!steering::header(&table, &hosts).is_empty() || hosts.is_empty() || !is_text(&table));
        }
        comes_back(&table);
    }
}

/// Whether all addresses are text; those that were entered are.
fn is_text(table: &HostTable) -> bool {
    table.hosts().all(|(_, host)| core::str::from_utf8(&host.address).is_ok())
}

fn run_host_slot(mut slot: HostSlot, rules: &Outlier, steps: &[Step]) {
    use holdfast_engine::outlier::interval::interval_number;
    let mut now = Timestamp::from_secs(1_700_000_000);
    for step in steps {
        now = step.clock.turn(now);
        let interval = interval_number(now, rules.interval);
        let host = HostId { index: step.random as u16 % 1100, id: step.number };
        slot.record(host, step.slow, Some(Duration::from_nanos(step.random)), interval);
        let read = HostSlot::decode(&slot.encode(MARK), MARK).expect("it can be read");
        for interval in [interval.saturating_sub(1), interval, interval.saturating_add(1)] {
            assert!(read.tallies(interval).eq(slot.tallies(interval)), "and says the same");
            assert!(slot.tallies(interval).all(|(_, tally)| tally.failures <= tally.total));
        }
    }
}

fn run_run(mut run: HostRun, steps: &[Step]) {
    for step in steps {
        run.fail(step.end());
        assert!(!run.is_empty());
        comes_back(&run);
    }
}
