//! What ejection costs in host calls, by seat and by what becomes of the request: `traces/outlier_calls/`.
//!
//! As in `costs` and `retry_costs`: whoever adds a call changes the table and shows it to the reviewer. While all is well a
//! request pays for a look at a gauge or two, and reads nothing shared.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use holdfast_host_tests::{
    Builder, Calls, Reaction, Routed, Seat, Thread,
    trace::{self, Cases},
};

use crate::costs::{one, returning_bytes};
use crate::outlier_support::{BAD, FIVE, World, out};
use crate::support::{BREAKER, millis, seconds};

const OUTLIER: &str = r#""outlier":{"ejection_jitter":0}"#;
const RATES: &str = r#""outlier":{"ejection_jitter":0,"failure_rate":{},"success_rate":{},"latency":{}}"#;
const SHADOW: &str = r#""outlier":{"mode":"shadow"}"#;
const HEARTBEAT: &str = r#""outlier":{"ejection_jitter":0,"heartbeat":{"path":"/healthz"}}"#;
const DISCOVER: &str = r#""outlier":{"discover":{"cluster":"envoy_admin","path":"/clusters?format=json"}}"#;
const IN_TURN: &str = r#""outlier":{"hosts":["10.0.0.1:8080","10.0.0.2:8080","10.0.0.3:8080","10.0.0.4:8080","10.0.0.5:8080"],"balance":"weighted"}"#;
const BY_HASH: &str = r#""outlier":{"hosts":["10.0.0.1:8080","10.0.0.2:8080","10.0.0.3:8080","10.0.0.4:8080","10.0.0.5:8080"],"balance":{"hash":{"header":"x-user"}}}"#;
const BY_LATENCY: &str = r#""outlier":{"hosts":["10.0.0.1:8080","10.0.0.2:8080","10.0.0.3:8080","10.0.0.4:8080","10.0.0.5:8080"],"balance":"least_latency"}"#;
const RETRY: &str = r#""retry":{"backoff":{"base":"25ms","max":"25ms","jitter":"none"}}"#;

/// The calls of one request, by seat.
pub type Spent = [Calls; 2];

pub fn spent(request: &Routed) -> Spent {
    [request.answer().calls, request.attempt_calls()]
}

/// Worker 0 has a request.
fn get(world: &World) -> Routed {
    world.host.send(0, holdfast_host_tests::Request::get("/"))
}

/// So many on worker 0, 1 ms apart.
fn many(world: &World, count: usize) -> Vec<Routed> {
    let one = |_| {
        let request = get(world);
        world.host.advance(millis(1));
        request
    };
    (0..count).map(one).collect()
}

fn start(features: &[&str], attempt_seat: bool) -> World {
    let build = |builder: Builder| if attempt_seat { builder.attempt_seat() } else { builder };
    let world = World::with(&one(&features.join(",")), 3, &FIVE, build);
    world.traffic(900, millis(10));
    world
}

fn push(table: &mut String, seat: &str, calls: &Calls) {
    let _ = writeln!(table, "  {seat}: {} ({})", calls.total(), returning_bytes(calls));
    for (call, count) in calls.iter() {
        let _ = writeln!(table, "    {count} {call}");
    }
}

fn push_spent(table: &mut String, spent: &Spent) {
    push(table, "request seat", &spent[0]);
    if spent[1].total() > 0 {
        push(table, "attempt seat", &spent[1]);
    }
}

/// Kinds of spending among so many requests, the most frequent first.
pub fn kinds(requests: &[Routed]) -> Vec<(usize, Spent)> {
    let mut kinds: BTreeMap<String, (usize, Spent)> = BTreeMap::new();
    for spent in requests.iter().map(spent) {
        kinds.entry(format!("{spent:?}")).or_insert((0, spent)).0 += 1;
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    kinds
}

pub fn total(spent: &Spent) -> (u64, u64) {
    let sum = |count: fn(&Calls) -> u64| spent.iter().map(count).sum();
    (sum(Calls::total), sum(returning_bytes))
}

/// What one request has more than another, call by call.
pub fn difference(with: &Spent, without: &Spent) -> String {
    let mut said = Vec::new();
    for (seat, with, without) in [("request", &with[0], &without[0]), ("attempt", &with[1], &without[1])] {
        let names: BTreeMap<&str, ()> = with.iter().chain(without.iter()).map(|(name, _)| (name, ())).collect();
        for name in names.into_keys() {
            let more = with.of(name) as i64 - without.of(name) as i64;
            if more != 0 {
                said.push(format!("{seat} {more:+} {name}"));
            }
        }
    }
    if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
}

#[test]
fn what_detection_adds_while_all_is_well() {
    let mut table = String::from(
        "# 1,000 healthy requests on worker 0 of 3, a millisecond apart, after warm-up: host calls of both seats, all (those\n\
         # that can return bytes), and what the policy's outlier adds to the same policy without it.\n",
    );
    for (name, seat, base, added) in [
        ("breaker", true, &[BREAKER][..], OUTLIER),
        ("retry", true, &[RETRY], OUTLIER),
        ("breaker and retry", true, &[BREAKER, RETRY], OUTLIER),
        ("breaker, with rates and latency", true, &[BREAKER], RATES),
        ("retry, with rates and latency", true, &[RETRY], RATES),
        ("breaker, shadow", true, &[BREAKER], SHADOW),
        ("breaker, heartbeat", true, &[BREAKER], HEARTBEAT),
        ("breaker, each host in turn", true, &[BREAKER], IN_TURN),
        ("breaker, hash of a header", true, &[BREAKER], BY_HASH),
        ("breaker, least latency", true, &[BREAKER], BY_LATENCY),
        ("breaker, no attempt seat", false, &[BREAKER], OUTLIER),
        ("breaker, with rates and latency, no attempt seat", false, &[BREAKER], RATES),
    ] {
        let without = kinds(&many(&start(base, seat), 1000));
        let with = kinds(&many(&start(&[base, &[added]].concat(), seat), 1000));
        let mean = |kinds: &[(usize, Spent)], part: fn((u64, u64)) -> u64| {
            kinds.iter().map(|(count, spent)| *count as u64 * part(total(spent))).sum::<u64>() as f64 / 1000.0
        };
        let [all, bytes] = [|(all, _)| all, |(_, bytes)| bytes];
        let _ = writeln!(
            table,
            "\n{name}: {:.2} ({:.2}) a request with it, {:.2} ({:.2}) without",
            mean(&with, all),
            mean(&with, bytes),
            mean(&without, all),
            mean(&without, bytes)
        );
        for (count, spent) in with {
            let (all, bytes) = total(&spent);
            let _ = writeln!(table, "  {count} cost {all} ({bytes}): {}", difference(&spent, &without[0].1));
        }
    }
    trace::check("outlier_healthy_calls", &table);
}

#[test]
fn while_all_is_well_nothing_shared_is_read_but_once_a_second() {
    for features in [&[OUTLIER][..], &[OUTLIER, BREAKER], &[OUTLIER, RETRY], &[RATES], &[HEARTBEAT], &[SHADOW]] {
        let world = start(features, true);
        let requests = many(&world, 1000);
        let reads = |calls: &Spent| calls.iter().map(|calls| calls.of("get_shared_data")).sum::<u64>();
        let reading: Vec<_> = requests.iter().map(spent).filter(|calls| reads(calls) > 0).collect();
        // Both seats' views are a second old once, and the looks at the attempt seat.
        assert!(reading.len() <= 4, "{features:?}: {} of 1000: {reading:#?}", reading.len());
    }
}

struct Case {
    name: &'static str,
    features: Vec<&'static str>,
    prepare: fn(&World),
    request: fn(&World) -> Routed,
}

fn turns_bad(world: &World) {
    world.hosts.does(BAD, 503);
}

fn is_out(world: &World) -> bool {
    out(&world.table()) == [BAD]
}

/// Only worker 0's requests come there.
fn until_out(world: &World) {
    turns_bad(world);
    (0..60).for_each(|_| {
        if !is_out(world) {
            get(world);
        }
    });
    assert!(is_out(world));
}

fn out_and_told(world: &World) {
    until_out(world);
    (0..2).for_each(|_| drop(get(world)));
    world.host.advance(millis(5));
    world.traffic(12, millis(5));
}

/// The one that goes to the bad host.
fn failing(world: &World) -> Routed {
    for _ in 0..20 {
        let request = get(world);
        if request.tries().iter().any(|one| one.host == BAD) {
            return request;
        }
    }
    panic!("it gets nothing");
}

fn ejecting(world: &World) -> Routed {
    for _ in 0..20 {
        let request = failing(world);
        if is_out(world) {
            return request;
        }
    }
    panic!("it is not ejected");
}

fn until_due(world: &World) {
    out_and_told(world);
    world.host.advance(seconds(29));
    world.traffic(6, millis(1));
    world.host.advance(millis(950));
}

fn all_cases() -> Vec<Case> {
    type Prepare = fn(&World);
    type Do = fn(&World) -> Routed;
    let case = |name, features: &[&'static str], prepare: Prepare, request: Do| Case {
        name,
        features: features.to_vec(),
        prepare,
        request,
    };
    vec![
        case("a failure, the first", &[OUTLIER], turns_bad, failing),
        case("a failure, the first, with rates", &[RATES], turns_bad, failing),
        case("a failure, the first, retried", &[OUTLIER, RETRY], turns_bad, |world| {
            let request = failing(world);
            world.host.advance(millis(25));
            request
        }),
        case("a success elsewhere after it", &[OUTLIER], |world| drop((turns_bad(world), failing(world)).1), get),
        case("the ejecting failure", &[OUTLIER], turns_bad, ejecting),
        case("the next request, which tells it", &[OUTLIER], until_out, get),
        case("a steered request", &[OUTLIER], out_and_told, get),
        case("a steered request, retry", &[OUTLIER, RETRY], out_and_told, get),
        case("a steered request, rates", &[RATES], out_and_told, get),
        case("a steered request, breaker", &[OUTLIER, BREAKER], out_and_told, get),
        case(
            "a request that looks for hosts",
            &[OUTLIER],
            |world| {
                out_and_told(world);
                world.host.advance(seconds(6));
            },
            get,
        ),
        case(
            "a probe, success",
            &[OUTLIER],
            |world| {
                until_due(world);
                world.hosts.is_well(BAD);
            },
            get,
        ),
        case("a probe, failure", &[OUTLIER], until_due, get),
        case("a probe, failure, retried", &[OUTLIER, RETRY], until_due, |world| {
            let request = get(world);
            world.host.advance(millis(25));
            request
        }),
        case(
            "all are bad: a failure in vain",
            &[OUTLIER],
            |world| {
                FIVE.iter().for_each(|host| world.hosts.does(host, 503));
                many(world, 200);
            },
            get,
        ),
    ]
}

#[test]
fn host_calls_per_request_and_seat() {
    let mut cases = Cases::new(
        "outlier_calls",
        "# Host calls of one request on worker 0 of 3, both seats, after warm-up: all (those that can return bytes).\n",
    );
    for Case { name, features, prepare, request } in all_cases() {
        for seat in [true, false] {
            if !seat && features.contains(&RETRY) {
                continue;
            }
            let world = start(&features, seat);
            prepare(&world);
            let request = request(&world);
            let told = if seat { name.to_owned() } else { format!("{name}, no attempt seat") };
            let is_probe = request.answer().access_log.is_some_and(|line| line.contains("probe="));
            assert_eq!(is_probe, name.starts_with("a probe"), "{name}");
            let mut table = format!("{told}: {}\n", request.answer().status);
            push_spent(&mut table, &spent(&request));
            world.host.assert_no_trap();
            cases.add(&told, table);
        }
    }
    cases.check();
}

/// Calls of all VMs.
fn all_calls(world: &World) -> Vec<u64> {
    (0..3).flat_map(|worker| [world.host.calls(worker), world.host.calls(Seat::Attempt.on(worker))]).collect()
}

#[test]
fn what_ticks_cost() {
    let mut table =
        String::from("# Host calls of a worker's VMs in ten seconds without a request: the most, and the least\n\n");
    for (name, features) in [
        ("breaker", BREAKER),
        ("outlier", OUTLIER),
        ("outlier with rates", RATES),
        ("outlier with a heartbeat", HEARTBEAT),
        ("outlier with discover", DISCOVER),
    ] {
        let world = start(&[features], true);
        world.hosts.lists(holdfast_host_tests::Response::status(200).body(
            r#"{"clusters":{"orders":["10.0.0.1:8080","10.0.0.2:8080","10.0.0.3:8080","10.0.0.4:8080","10.0.0.5:8080"]}}"#,
        ));
        world.host.advance(seconds(20));
        let before = all_calls(&world);
        world.host.advance(seconds(10));
        let calls: Vec<u64> = all_calls(&world).iter().zip(before).map(|(after, before)| after - before).collect();
        let seat = |seat: usize| {
            let of_seat: Vec<u64> = calls.iter().skip(seat).step_by(2).copied().collect();
            format!("{} and {}", of_seat.iter().max().unwrap(), of_seat.iter().min().unwrap())
        };
        let _ = writeln!(table, "{name}: request seat {}, attempt seat {}", seat(0), seat(1));
        assert!(world.host.calls_out().iter().all(|call| matches!(call.thread(), Thread::Worker(_) | Thread::Main)));
    }
    trace::check("outlier_ticks", &table);
}

/// What a request or a try leaves behind in a VM's memory would add up to a dead worker.
#[test]
fn five_thousand_requests_later_the_memory_is_no_larger() {
    let world = start(&[RATES, RETRY], true);
    let some = |count: usize| {
        for number in 0..count {
            match number % 500 {
                0 => world.hosts.does(FIVE[number / 500 % 5], Reaction::fails(holdfast_host_tests::Reset::Remote)),
                250 => world.hosts.are_well(),
                _ => {}
            }
            let request = world.host.send(0, holdfast_host_tests::Request::get("/"));
            world.host.advance(millis(30));
            if !request.is_over() {
                request.client_leaves();
            }
        }
    };
    some(3_000);
    let before = (world.host.memory(0), world.host.memory(Seat::Attempt.on(0)));
    some(5_000);
    assert_eq!((world.host.memory(0), world.host.memory(Seat::Attempt.on(0))), before);
    world.assert_clean();
    world.host.advance(seconds(1));
    world.host.assert_nothing_is_left();
}
