//! A VM dies, or the host refuses what a seat asks for, while a host is taken out, probed, checked or listed. No host is
//! locked out for ever, the limits hold, there is one probe at a time, and no request is worse off than without the module.

use std::cell::Cell;
use std::rc::Rc;

use holdfast_engine::outlier::table::State;
use holdfast_host_tests::{Call, Fault, Host, Request, Response, Routed, Seat, Thread, status};

use crate::outlier_support::{BAD, FIVE, World, ejecting_and, out, tables};
use crate::support::{millis, seconds};

/// Short times, so that a story is over in a virtual minute.
const QUICK: &str = r#""ejection_jitter":0,"base_ejection_time":"3s","max_ejection_time":"6s","interval":"2s""#;
const BEATS: &str = r#","heartbeat":{"path":"/healthz","interval":"500ms","timeout":"1s"}"#;
const READS: &str = r#","discover":{"cluster":"envoy_admin","path":"/clusters?format=json","interval":"1s"}"#;
const RETRY: &str =
    r#""retry":{"backoff":{"base":"1ms","max":"1ms"},"timeout":"2s","budget":{"ratio":100,"min_per_second":100}}"#;

/// What goes on while something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    /// A host fails, and is taken out.
    Ejection,
    /// Its time is over, and it is still bad.
    FailedProbe,
    /// Its time is over, and it is well.
    Probe,
    /// Hosts are checked, and one is bad.
    Heartbeat,
    /// The hosts are read.
    Discover,
}

use Story::{Discover, Ejection, FailedProbe, Heartbeat, Probe};

const STORIES: [Story; 5] = [Ejection, FailedProbe, Probe, Heartbeat, Discover];

fn listing() -> Response {
    let hosts: Vec<String> = FIVE.iter().map(|host| format!("\"{host}\"")).collect();
    Response::status(200).body(format!(r#"{{"clusters":{{"orders":[{}]}}}}"#, hosts.join(",")))
}

fn start(story: Story, features: &str) -> World {
    let keys = match story {
        Heartbeat => format!("{QUICK}{BEATS}"),
        Discover => format!("{QUICK}{READS}"),
        _ => QUICK.to_owned(),
    };
    let world = World::start(&ejecting_and(&keys, features), 2, &FIVE);
    world.hosts.lists(listing());
    seen(&world, world.traffic(40, millis(20)));
    if matches!(story, Probe | FailedProbe) {
        world.hosts.does(BAD, 503);
        let most = if features.is_empty() { 60 } else { 100 };
        world.traffic_until(most, |world| world.out() == [BAD]);
        world.host.advance(millis(2_950));
        seen(&world, world.traffic(2, millis(1)));
    }
    world
}

/// The part in which things go wrong: requests to worker 1, and some time.
fn act(world: &World, story: Story) -> Vec<Routed> {
    match story {
        Probe => world.hosts.is_well(BAD),
        _ => world.hosts.does(BAD, 503),
    }
    let mut requests = Vec::new();
    for _ in 0..26 {
        requests.push(world.host.send(1, Request::get("/")));
        world.host.advance(millis(20));
        assert_within_limits(world);
    }
    // Ticks, sweeps, checks, readings.
    for _ in 0..12 {
        world.host.advance(millis(250));
        assert_within_limits(world);
    }
    requests
}

#[track_caller]
fn assert_within_limits(world: &World) {
    for table in world.tables() {
        let (out, known) = (out(&table).len(), table.known());
        assert!(out <= 1 || out * 100 <= 50 * known, "{out} of {known} are out");
    }
}

#[track_caller]
fn seen(world: &World, requests: Vec<Routed>) {
    let bad = requests.iter().filter(|one| one.answer().status != 200).count();
    assert_eq!(bad, 0, "{:#?}", world.table());
    world.assert_clean();
}

/// What each request must have come to: what its last attempt's host said. That of a VM which died fails, as do those in the
/// second before there is a new one; and an attempt that waits for its back-off ends with its time-out where nobody lets it go.
#[track_caller]
fn assert_served(requests: &[Routed], may_die: bool, what: &str) {
    for request in requests {
        let (answer, tries) = (request.answer(), request.tries());
        let may_wait = tries.len() > 1 && answer.details == "response_timeout";
        if may_die && answer.details == "wasm_fail_stream" || may_wait {
            continue;
        }
        // What the attempt seat could not see the end of is not tried again.
        if answer.details.starts_with("holdfast_not_retried") && tries[0].host == BAD {
            continue;
        }
        let last = tries.last().unwrap_or_else(|| panic!("{what}: it did not reach a host: {answer:?}"));
        let is_bad = answer.status == 503;
        assert!(answer.status == 200 || is_bad && last.host == BAD, "{what}: {answer:?} of {last:?}");
    }
}

/// Afterwards: all are well, and soon all have their share.
#[track_caller]
fn assert_recovers(world: &World, what: &str) {
    world.host.nothing_fails();
    world.hosts.are_well();
    let mut waited = 0;
    loop {
        world.traffic(20, millis(50));
        assert_within_limits(world);
        // A VM that could not read which key it is has used that of all others; nobody uses its table any more.
        let table = world.tables().into_iter().next().unwrap_or_default();
        if out(&table).is_empty() && table.known() == FIVE.len() {
            break;
        }
        waited += 1;
        assert!(waited <= 25, "{what}: after 25 s not all hosts are back: {table:#?}");
    }
    let before = FIVE.map(|host| world.hosts.at(host));
    let requests = world.traffic(50, millis(20));
    for (host, before) in FIVE.iter().zip(before) {
        let share = world.hosts.at(host) - before;
        assert!((6..=14).contains(&share), "{what}: {host} gets {share} of 50");
    }
    assert!(requests.iter().all(|request| request.answer().status == 200), "{what}");
    world.assert_clean();
}

/// And then one is bad, and is soon out.
#[track_caller]
fn assert_ejects(world: &World, what: &str) {
    world.hosts.does(FIVE[1], 503);
    world.traffic_until(60, |world| world.tables().first().is_some_and(|table| out(table) == [FIVE[1]]));
    world.hosts.are_well();
    let took = world.traffic_until(50 * 5, |world| world.tables().first().is_some_and(|table| out(table).is_empty()));
    assert!(took <= 50 * 4, "{what}: {took}");
    world.host.advance(seconds(3));
    world.assert_clean();
}

/// The calls at which something goes wrong: each of the first, which are those of one or two requests, and then some.
fn next(nth: u64) -> u64 {
    nth + if nth < 16 { 1 } else { 19 }
}

#[test]
fn all_is_well_where_nothing_goes_wrong() {
    for story in STORIES {
        for features in ["", RETRY] {
            let world = start(story, features);
            let requests = act(&world, story);
            assert_served(&requests, false, &format!("{story:?}"));
            assert_eq!(world.out().is_empty(), story == Probe, "{story:?}: {:?}", world.out());
            assert_recovers(&world, &format!("{story:?}"));
            assert_ejects(&world, &format!("{story:?}"));
        }
    }
}

#[test]
fn either_vm_may_die_at_any_host_call() {
    for story in STORIES {
        for (features, seat) in [("", Seat::Request), ("", Seat::Attempt), (RETRY, Seat::Attempt)] {
            if !features.is_empty() && story != FailedProbe {
                continue;
            }
            // Every call of the first requests, and then each seventh.
            let mut nth = 0;
            loop {
                let world = start(story, features);
                let first = world.host.calls(seat.on(1));
                world.host.crash_at(seat.on(1), move |call| call.before == first + nth);
                let what = format!("{story:?}, {seat:?} seat, call {nth}, {features}");
                let requests = act(&world, story);
                assert_served(&requests, true, &what);
                let died = !world.host.crashes().is_empty();
                let failed = requests.iter().filter(|one| one.answer().details == "wasm_fail_stream").count();
                assert!(failed <= if died { 26 } else { 0 }, "{what}: {failed}");
                assert_recovers(&world, &what);
                if !died {
                    break;
                }
                nth = next(nth);
            }
            assert!(nth > 16, "{story:?}: the {seat:?} seat makes more calls than {nth}");
        }
    }
}

/// The main thread's VM is not made anew; whoever led there has to be followed by a worker.
#[test]
fn the_main_threads_vm_may_die_at_any_host_call() {
    for story in [Ejection, Heartbeat, Discover] {
        let mut nth = 0;
        loop {
            let world = start(story, "");
            let (count, died) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
            let dies = Rc::clone(&died);
            world.host.on_call(move |_, call| {
                let is_it = call.thread == Thread::Main && call.seat == Seat::Request;
                count.set(count.get() + u64::from(is_it));
                let strikes = is_it && count.get() == nth + 1 && !dies.get();
                dies.set(dies.get() || strikes);
                strikes.then_some(Fault::Trap)
            });
            let requests = act(&world, story);
            assert_served(&requests, false, &format!("{story:?}, call {nth}"));
            let before = (world.hosts.checked().len(), world.hosts.readings());
            world.host.nothing_fails();
            world.host.advance(seconds(7));
            let after = (world.hosts.checked().len(), world.hosts.readings());
            assert!(story != Heartbeat || after.0 > before.0, "call {nth}: somebody checks on");
            assert!(story != Discover || after.1 > before.1, "call {nth}: somebody reads on");
            assert_recovers(&world, &format!("{story:?}, call {nth}"));
            if !died.get() {
                break;
            }
            nth = next(nth);
        }
    }
}

#[test]
fn a_probe_in_a_vm_that_dies_gives_its_permit_back_with_its_lease() {
    for seat in [Seat::Request, Seat::Attempt] {
        let world = World::start(&ejecting_and(r#""ejection_jitter":0"#, ""), 4, &FIVE);
        world.traffic(100, millis(20));
        world.hosts.does(BAD, 503);
        world.traffic_until(200, |world| world.out() == [BAD]);
        world.hosts.hangs(BAD);
        world.host.advance(millis(29_900));
        let is_probe = |request: &Routed| request.access_log().is_some_and(|line| line.contains("probe="));
        let probe = loop {
            let request = world.host.send(1, Request::get("/"));
            world.host.advance(millis(20));
            if is_probe(&request) {
                break request;
            }
        };
        world.host.crash(seat.on(1));
        let began = world.host.elapsed();
        let before = world.hosts.at(BAD);
        let mut unsteered = 0;
        loop {
            let request = world.get();
            let line = request.access_log();
            if is_probe(&request) {
                break;
            }
            unsteered += usize::from(line.is_none_or(|line| !line.contains("hosts_out")));
            world.host.advance(millis(20));
            assert!(world.host.elapsed() - began <= seconds(11), "the lease is over, and nobody probes");
        }
        let took = world.host.elapsed() - began;
        assert!(took >= millis(9_900) && took <= millis(10_100), "{seat:?}: {took:?}");
        assert!(world.hosts.at(BAD) - before <= 1 + unsteered, "{seat:?}: one probe at a time");
        drop(probe);
        world.host.assert_no_trap();
    }
}

// Refusals.

/// Every host call that both seats make in these stories.
const CALLS: [&str; 20] = [
    "continue_stream",
    "define_metric",
    "get_buffer_bytes",
    "get_current_time_nanoseconds",
    "get_header_map_pairs",
    "get_header_map_value",
    "get_metric",
    "get_property",
    "get_shared_data",
    "http_call",
    "increment_metric",
    "log",
    "record_metric",
    "remove_header_map_value",
    "replace_header_map_value",
    "send_local_response",
    "set_effective_context",
    "set_property",
    "set_shared_data",
    "set_tick_period_milliseconds",
];

/// Whether a refusal of this call means that a host may read what it should not: nobody can take the header off, or sees
/// that it is on one of our own checks.
fn may_leak(name: &str, seat: Seat, story: Story) -> bool {
    seat == Seat::Attempt && (name == "remove_header_map_value" || name == "get_header_map_value" && story == Heartbeat)
}

#[test]
fn every_call_may_be_refused_with_every_status_while_a_host_is_ejected() {
    for name in CALLS {
        for &status in status::refusals(name) {
            refused(Ejection, "", &format!("{name} {status}"), name == "remove_header_map_value", move |call| {
                call.refused_with(status).filter(|_| call.name == name)
            });
        }
    }
}

#[test]
fn every_call_of_either_seat_may_be_refused_in_every_story() {
    for name in CALLS.into_iter().filter(|name| !status::refusals(name).is_empty()) {
        for seat in [Seat::Request, Seat::Attempt] {
            for (story, features) in STORIES.map(|story| (story, "")).into_iter().chain([(FailedProbe, RETRY)]) {
                let what = format!("{name}, {story:?}, {seat:?} seat, {features}");
                refused(story, features, &what, may_leak(name, seat, story), move |call| {
                    call.refused().filter(|_| call.name == name && call.seat == seat)
                });
            }
        }
    }
}

#[test]
fn every_single_call_may_be_refused_once() {
    for story in STORIES {
        for seat in [Seat::Request, Seat::Attempt] {
            let mut nth = 0;
            loop {
                let (struck, first) = (Rc::new(Cell::new("")), Cell::new(None));
                let strikes = Rc::clone(&struck);
                let leaks = Rc::clone(&struck);
                let what = format!("{story:?}, {seat:?} seat, call {nth}");
                let rule = move |call: &Call<'_>| {
                    let is_it = call.seat == seat && call.thread == Thread::Worker(1);
                    if is_it && first.get().is_none() {
                        first.set(Some(call.before));
                    }
                    let is_it = is_it && first.get().is_some_and(|first| call.before == first + nth);
                    if is_it {
                        strikes.set(call.name);
                    }
                    call.refused().filter(|_| is_it)
                };
                let world = start(story, "");
                acts_refused(&world, story, &what, rule);
                if !may_leak(leaks.get(), seat, story) {
                    assert_recovers(&world, &what);
                }
                if struck.get().is_empty() {
                    break;
                }
                nth = next(nth);
            }
        }
    }
}

fn acts_refused(world: &World, story: Story, what: &str, mut rule: impl FnMut(&Call<'_>) -> Option<Fault> + 'static) {
    world.host.on_call(move |_, call| rule(call));
    let requests = act(world, story);
    assert_served(&requests, false, what);
    world.host.assert_no_trap();
}

fn refused(
    story: Story,
    features: &str,
    what: &str,
    may_leak: bool,
    rule: impl FnMut(&Call<'_>) -> Option<Fault> + 'static,
) {
    let world = start(story, features);
    acts_refused(&world, story, what, rule);
    if !may_leak {
        assert_recovers(&world, what);
        if story == FailedProbe {
            assert_ejects(&world, what);
        }
    }
}

/// Nothing is known then, so nothing is judged; but everything is served.
#[test]
fn every_call_may_be_refused_from_the_start() {
    for name in CALLS.into_iter().filter(|name| !status::refusals(name).is_empty()) {
        for seat in [Seat::Request, Seat::Attempt] {
            let keys = format!("{QUICK}{BEATS}{READS}");
            let started = Host::with(&ejecting_and(&keys, ""))
                .workers(1)
                .attempt_seat()
                .override_host(&FIVE)
                .plain_cluster("envoy_admin", &["127.0.0.1:9901"])
                .answering_tries(|_| Some(200.into()))
                .answering_calls(|_| Some(200.into()))
                .try_start_with(move |_, call| call.refused().filter(|_| call.name == name && call.seat == seat));
            let Ok(host) = started else {
                assert_eq!(name, "get_buffer_bytes", "only an unreadable document is refused");
                continue;
            };
            for _ in 0..100 {
                assert_eq!(host.send(0, Request::get("/")).answer().status, 200, "{name}");
                host.advance(millis(50));
            }
            host.assert_no_trap();
            host.nothing_fails();
            host.advance(seconds(10));
            (0..100).for_each(|_| drop(host.send(0, Request::get("/"))));
            let known = tables(&host).iter().map(|table| table.known()).max().unwrap_or(0);
            let is_out =
                tables(&host).iter().any(|table| table.hosts().any(|(_, one)| matches!(one.state, State::Out { .. })));
            assert!(!is_out, "{name}: {known}");
        }
    }
}
