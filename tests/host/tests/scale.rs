//! What a request costs with more workers, policies, keys and hosts: `traces/scale.txt`, `traces/scale_workers.txt`.
//!
//! A request that goes well must cost the same with any number of them. What does grow is pinned too: a failure reads what
//! each other worker has counted, and so does a success as long as its worker has seen less than `min_requests`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::rc::Rc;
use std::time::Duration;

use holdfast_host_tests::{Builder, Host, Request, Routed, Thread, trace};

use crate::costs::{RETURN_BYTES, one};
use crate::outlier_support::{FIVE, World};
use crate::support::millis;

/// So few suffice, so that a worker is soon warm.
const BREAKER: &str = r#""breaker":{"min_requests":5}"#;
const RETRY: &str = r#""retry":{}"#;
const OUTLIER: &str = r#""outlier":{}"#;
const RATES: &str = r#""outlier":{"failure_rate":{},"success_rate":{},"latency":{}}"#;

const POLICIES: [(&str, &[&str]); 4] = [
    ("breaker", &[BREAKER]),
    ("breaker, retry", &[BREAKER, RETRY]),
    ("breaker, retry, outlier", &[BREAKER, RETRY, OUTLIER]),
    ("breaker, retry, outlier with rates", &[BREAKER, RETRY, RATES]),
];

const WORKERS: [usize; 6] = [1, 2, 4, 8, 16, 64];

/// A worker has so many requests together, so many times a second. What it counts it writes at most every 10 ms, so that the
/// first of them pays for the others.
const TOGETHER: usize = 10;
const TIMES: usize = 4;

/// Host calls, and what they move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Cost {
    calls: u64,
    returning: u64,
    reads: u64,
    writes: u64,
    /// Bytes written to shared data.
    written: u64,
}

impl Cost {
    fn minus(self, other: Cost) -> Cost {
        Cost {
            calls: self.calls - other.calls,
            returning: self.returning - other.returning,
            reads: self.reads - other.reads,
            writes: self.writes - other.writes,
            written: self.written - other.written,
        }
    }

    fn plus(self, other: Cost) -> Cost {
        Cost {
            calls: self.calls + other.calls,
            returning: self.returning + other.returning,
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            written: self.written + other.written,
        }
    }

    fn over(self, count: usize) -> Mean {
        Mean(self, count as f64)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { calls, returning, reads, writes, written } = self;
        write!(f, "{calls} ({returning}), {reads} / {writes}, {written} B")
    }
}

/// A cost per request, or whatever there is this number of.
struct Mean(Cost, f64);

impl Mean {
    fn of(&self, part: u64) -> f64 {
        part as f64 / self.1
    }
}

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [calls, returning, reads, writes, written] =
            [self.0.calls, self.0.returning, self.0.reads, self.0.writes, self.0.written].map(|part| self.of(part));
        write!(f, "{calls:.2} ({returning:.2}), {reads:.2} / {writes:.2}, {written:.0} B")
    }
}

/// Counts what the workers' VMs do; the main thread has no requests.
struct Meter(Rc<Cell<Cost>>);

impl Meter {
    fn on(host: &Host) -> Meter {
        let sum: Rc<Cell<Cost>> = Rc::default();
        let counted = Rc::clone(&sum);
        host.on_call(move |_, call| {
            if call.thread != Thread::Main {
                counted.set(counted.get().plus(Cost {
                    calls: 1,
                    returning: RETURN_BYTES.contains(&call.name).into(),
                    reads: (call.name == "get_shared_data").into(),
                    writes: (call.name == "set_shared_data").into(),
                    written: call.writes_bytes as u64,
                }));
            }
            None
        });
        Meter(sum)
    }

    /// What a step costs.
    fn of(&self, step: impl FnOnce()) -> Cost {
        let before = self.0.get();
        step();
        self.0.get().minus(before)
    }
}

fn start(document: &str, workers: usize, hosts: &[&str]) -> World {
    World::with(document, workers, hosts, Builder::attempt_seat)
}

/// Every worker has requests for so long; `each` makes them.
fn for_seconds(world: &World, seconds: usize, mut each: impl FnMut(&dyn Fn())) {
    for _ in 0..seconds * TIMES {
        for worker in 0..world.host.workers() {
            (0..TOGETHER).for_each(|_| each(&|| drop(world.host.send(worker, Request::get("/")))));
        }
        world.host.advance(millis(1000 / TIMES as u64));
    }
}

/// What most requests cost, and what all did.
#[derive(Debug)]
struct Healthy {
    usual: Cost,
    all: Cost,
    count: usize,
}

/// Two seconds to warm up, and one that counts.
fn healthy(world: &World) -> Healthy {
    for_seconds(world, 2, |send| send());
    let meter = Meter::on(&world.host);
    let mut costs = Vec::new();
    for_seconds(world, 1, |send| costs.push(meter.of(send)));
    world.assert_clean();
    let all = costs.iter().fold(Cost::default(), |sum, cost| sum.plus(*cost));
    Healthy { count: costs.len(), usual: usual(costs), all }
}

/// The most frequent of them.
fn usual(costs: Vec<Cost>) -> Cost {
    let mut kinds: BTreeMap<Cost, usize> = BTreeMap::new();
    costs.into_iter().for_each(|cost| *kinds.entry(cost).or_default() += 1);
    kinds.into_iter().max_by_key(|(_, count)| *count).unwrap().0
}

impl Healthy {
    fn mean(&self) -> Mean {
        self.all.over(self.count)
    }

    /// Checks that requests cost what they cost there.
    #[track_caller]
    fn assert_as(&self, there: &Healthy, what: &str) {
        assert_eq!(self.usual, there.usual, "{what}: a request that goes well costs the same");
        assert_eq!((self.usual.reads, self.usual.writes), (0, 0), "{what}: it neither reads nor writes shared data");
    }

    /// Checks that with what comes once a second, and hosts that are looked at by chance, they cost much the same.
    #[track_caller]
    fn assert_mean_as(&self, there: &Healthy, what: &str) {
        let (here, there) = (self.mean(), there.mean());
        let calls = [here.of(here.0.calls), there.of(there.0.calls)];
        assert!((calls[0] - calls[1]).abs() < 0.5, "{what}: {here} against {there}");
    }
}

/// Many hosts of one cluster.
pub fn many_hosts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("10.0.{}.{}:8080", number / 100, number % 100 + 1)).collect()
}

fn healthy_by_workers(table: &mut String) {
    table.push_str("\n## A request that goes well, by workers\n");
    for (name, features) in POLICIES {
        let _ = writeln!(table, "\n{name}");
        let costs = WORKERS.map(|workers| (workers, healthy(&start(&one(&features.join(",")), workers, &FIVE))));
        for (workers, cost) in &costs {
            let _ = writeln!(table, "  workers {workers}: {}; in the mean {}", cost.usual, cost.mean());
            cost.assert_as(&costs[0].1, name);
            cost.assert_mean_as(&costs[0].1, name);
        }
    }
}

/// A document of so many policies, each for a cluster; requests are governed by the last one.
fn policies(count: usize, features: &str) -> String {
    let other = |number| format!(r#"{{"name":"p{number}","match":{{"cluster":["c{number}"]}},{features}}}"#);
    let mut all: Vec<String> = (1..count).map(other).collect();
    all.push(format!(r#"{{"name":"orders","match":{{"cluster":["orders"]}},{features}}}"#));
    format!(r#"{{"policies":[{}]}}"#, all.join(","))
}

/// What a request costs whose key has just had others, and one whose key has had none for some seconds.
fn healthy_by_keys(features: &str, keys: usize) -> [Cost; 2] {
    let world = start(&one(&format!(r#""scope":[{{"header":"x-tenant"}}],{features}"#)), 2, &FIVE);
    let meter = Meter::on(&world.host);
    let round = || {
        let get =
            |key: usize| meter.of(|| drop(world.host.send(0, Request::get("/").header("x-tenant", key.to_string()))));
        usual((0..keys).map(get).collect())
    };
    (0..4).for_each(|_| _ = round());
    world.host.advance(millis(1000));
    (0..4).for_each(|_| _ = round());
    let often = round();
    // The clock that a request is admitted by may be a second old.
    world.host.advance(millis(2500));
    let seldom = round();
    world.assert_clean();
    [often, seldom]
}

fn healthy_by_policies_keys_and_hosts(table: &mut String) {
    table.push_str("\n## A request that goes well, by policies, keys and hosts; 2 workers\n");
    for (name, features) in POLICIES {
        let _ = writeln!(table, "\n{name}");
        let features = features.join(",");
        let costs = [1, 100].map(|count| (count, healthy(&start(&policies(count, &features), 2, &FIVE))));
        for (count, cost) in &costs {
            let _ = writeln!(table, "  policies {count}: {}; in the mean {}", cost.usual, cost.mean());
            cost.assert_as(&costs[0].1, name);
            cost.assert_mean_as(&costs[0].1, name);
        }
        let costs = [3, 200].map(|count| {
            let hosts = many_hosts(count);
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let world = start(&one(&features), 2, &hosts);
            world.traffic(800, millis(1));
            (count, healthy(&world))
        });
        for (count, cost) in &costs {
            let _ = writeln!(table, "  hosts {count}: {}; in the mean {}", cost.usual, cost.mean());
            cost.assert_as(&costs[0].1, name);
        }
        let costs = [1, 256].map(|count| (count, healthy_by_keys(&features, count)));
        for (count, [often, seldom]) in &costs {
            let _ = writeln!(table, "  keys {count}: {often}; after some seconds without any {seldom}");
            assert_eq!(*often, costs[0].1[0], "{name}: the same with {count} keys");
            let one = costs[0].1[1];
            // Of one key there is one such request, which may happen to look at its host too.
            assert!(seldom.reads <= one.reads + 1, "{name}: {seldom} with {count} keys, {one} with one");
            assert_eq!(seldom.writes, one.writes, "{name}");
        }
    }
}

/// Shared data that a request reads and writes, both seats.
fn shared(request: &Routed) -> [u64; 2] {
    let [request, attempt] = [request.answer().calls, request.attempt_calls()];
    ["get_shared_data", "set_shared_data"].map(|name| request.of(name) + attempt.of(name))
}

/// What grows: a success of a worker below `min_requests`, the first in a tenth of the window, a failure, and one that a retry hides;
/// and what the next success elsewhere costs.
fn dear(features: &str, workers: usize) -> [[u64; 2]; 4] {
    let world = start(&one(features), workers + 1, &FIVE);
    let send = |worker| world.host.send(worker, Request::get("/"));
    let all = || (0..workers).for_each(|worker| (0..10).for_each(|_| drop(send(worker))));
    let failing = |status: u16| {
        FIVE.iter().for_each(|host| world.hosts.does(host, status));
        let request = send(0);
        world.hosts.are_well();
        world.host.advance(millis(25));
        request
    };
    (0..2).for_each(|_| {
        all();
        world.host.advance(millis(1100));
    });
    all();
    // The first one of all has to find its way about as well. Then it looks when others may have left the window.
    drop(send(workers));
    world.host.advance(millis(1100));
    all();
    let early = send(workers);
    // That it has come makes every other look once.
    all();
    let failed = failing(500);
    let next = send(workers - 1);
    let retried = failing(503);
    world.assert_clean();
    [early, failed, retried, next].map(|request| shared(&request))
}

const WAIT: &str = r#""retry":{"backoff":{"base":"25ms","max":"25ms","jitter":"none"}}"#;

fn what_grows_with_workers(table: &mut String) {
    table.push_str(
        "\n## What grows with workers, beside one that has had two requests: shared data read / written by\n\
         # a success below min_requests, the first in a tenth of the window; a failure; one that a retry hides;\n\
         # the next success, on another worker\n",
    );
    for (name, features) in [
        ("breaker", vec![BREAKER]),
        ("breaker, retry", vec![BREAKER, WAIT]),
        ("breaker, retry, outlier", vec![BREAKER, WAIT, OUTLIER]),
        ("breaker, retry, outlier with rates", vec![BREAKER, WAIT, RATES]),
    ] {
        let _ = writeln!(table, "\n{name}");
        let costs = WORKERS.map(|workers| (workers, dear(&features.join(","), workers)));
        let second = costs[1].1;
        for (workers, cost) in &costs {
            let [early, failed, retried, next] = cost.map(|[reads, writes]| format!("{reads} / {writes}"));
            let _ = writeln!(table, "  workers {workers}: {early}; {failed}; {retried}; {next}");
            // The only worker knows what it has read itself.
            let Some(more) = workers.checked_sub(2) else { continue };
            for (here, there) in cost.iter().zip(&second).take(3) {
                assert_eq!(here[0], there[0] + more as u64, "{name}: one slot more for each worker more");
                assert_eq!(here[1], there[1], "{name}: it writes no more");
            }
        }
    }
}

/// What a worker's VMs do by themselves in a second, over twenty seconds with a request every half second.
fn ticks(table: &mut String) {
    table.push_str("\n## Ticks of a worker's VMs in a second, by workers\n");
    for (name, features) in [POLICIES[0], POLICIES[2], POLICIES[3]] {
        let _ = writeln!(table, "\n{name}");
        for workers in WORKERS {
            let world = start(&one(&features.join(",")), workers, &FIVE);
            let meter = Meter::on(&world.host);
            let mut cost = Cost::default();
            for half in 0..50 {
                (0..workers).for_each(|worker| drop(world.host.send(worker, Request::get("/"))));
                let ticks = meter.of(|| world.host.advance(millis(500)));
                if half >= 10 {
                    cost = cost.plus(ticks);
                }
            }
            let _ = writeln!(table, "  workers {workers}: {}", cost.over(20 * workers));
            world.assert_clean();
        }
    }
}

/// So many that what comes once a second for each worker is seldom among them.
const WELL: usize = 12_800;

/// 100,000 requests in a second to 64 workers in turn; 101 is no multiple of theirs, so that each has failures.
fn at_full_load(table: &mut String) {
    table.push_str("\n## 100,000 requests/s over 64 workers, one failure in 101: a request in the mean\n\n");
    let in_a_row: &[&str] = &[r#""breaker":{"min_requests":5,"consecutive_failures":1000}"#];
    for (name, features) in POLICIES.into_iter().chain([("breaker with consecutive_failures", in_a_row)]) {
        let world = start(&one(&features.join(",")), 64, &FIVE);
        let meter = Meter::on(&world.host);
        let mut number = 0;
        let mut load = |count: usize, of: usize| {
            for _ in 0..count {
                number += 1;
                if number % of == 0 {
                    FIVE.iter().for_each(|host| world.hosts.does(host, 503));
                }
                let _ = world.host.send(number % 64, Request::get("/"));
                if number % of == 0 {
                    world.hosts.are_well();
                }
                world.host.advance(Duration::from_micros(10));
            }
        };
        load(640, usize::MAX);
        world.host.advance(millis(1000));
        load(640, usize::MAX);
        let well = meter.of(|| load(WELL, usize::MAX));
        load(1280, 101);
        let failing = meter.of(|| load(3232, 101));
        let _ = writeln!(table, "{name}: {}; without failures {}", failing.over(3232), well.over(WELL));
        world.assert_clean();
    }
}

/// A service fails altogether after it went well for a while.
fn until_open(table: &mut String) {
    table.push_str("\n## All fail at once after a while at 50 requests/s over 2 workers\n\n");
    for breaker in [r#""breaker":{}"#, r#""breaker":{"consecutive_failures":20}"#] {
        let world = start(&one(breaker), 2, &FIVE);
        world.traffic(600, millis(20));
        FIVE.iter().for_each(|host| world.hosts.does(host, 503));
        let began = world.host.elapsed();
        let failures = world.traffic_until(2000, |world| world.count("breaker_state") == 2);
        let took = (world.host.elapsed() - began).as_secs_f64();
        let _ = writeln!(table, "{breaker}: open after {failures} failures, 20 ms apart: {took:.1} s");
    }
}

#[test]
fn a_request_that_goes_well_costs_the_same_with_any_number_of_everything() {
    let mut table = String::from(
        "# Host calls of both seats (those that can return bytes), shared data read / written, and bytes written to it.\n\
         # What most requests cost. In the mean: of 10 that come together four times a second.\n",
    );
    healthy_by_workers(&mut table);
    healthy_by_policies_keys_and_hosts(&mut table);
    trace::check("scale", &table);
}

#[test]
fn a_failure_reads_what_every_other_worker_has_counted() {
    let mut table =
        String::from("# Shared data read and written where the cost grows, and what is done without a request.\n");
    what_grows_with_workers(&mut table);
    ticks(&mut table);
    at_full_load(&mut table);
    until_open(&mut table);
    trace::check("scale_workers", &table);
}
