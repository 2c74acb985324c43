//! Several workers and one host: whatever comes between two host calls, it is out in time, the limits hold, one request is
//! its probe, and one VM checks it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_host_tests::{Call, Fault, Host, Reaction, Request, Response, Routed, Seat, Thread};

use crate::outlier_support::{BAD, Came, FIVE, World, ejecting, ejecting_and, out, tables};
use crate::support::{millis, seconds};

const EXACT: &str = r#""ejection_jitter":0"#;
const RETRY: &str = r#""retry":{"backoff":{"base":"1ms","max":"1ms"},"budget":{"ratio":100,"min_per_second":1000}}"#;

/// A cluster of so many hosts.
fn many(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("10.1.{}.{}:80", number / 250, number % 250 + 1)).collect()
}

fn texts(hosts: &[String]) -> Vec<&str> {
    hosts.iter().map(String::as_str).collect()
}

// In time.

/// Five clients, each of which sends its next request when the one before has its answer, to any worker.
fn five_clients(world: &World, count: usize, random: &mut Random) -> Vec<Routed> {
    let workers = world.host.workers() as u64;
    let next = |random: &mut Random| world.host.send((random.next() % workers) as usize, Request::get("/"));
    let mut under_way: Vec<Routed> = (0..5).map(|_| next(random)).collect();
    let mut over = Vec::new();
    while over.len() + under_way.len() < count {
        world.host.advance(millis(1));
        for one in &mut under_way {
            if one.is_over() {
                over.push(std::mem::replace(one, next(random)));
            }
        }
    }
    world.host.advance(seconds(1));
    over.extend(under_way);
    over
}

#[test]
fn a_host_that_turns_bad_gets_at_most_nine_of_the_next_300_requests() {
    for workers in [4, 8, 16] {
        for features in ["", RETRY] {
            for seed in 0..6 {
                let mut random = Random::new(seed);
                let world = World::start(&ejecting_and(EXACT, features), workers, &FIVE);
                let took = millis(3 + seed);
                world.hosts.take(took);
                five_clients(&world, 40 * workers, &mut random);
                world.hosts.serves(BAD, Reaction::from(503).after(millis(1 + random.next() % 8)));
                let before = world.hosts.at(BAD);
                let requests = five_clients(&world, 300, &mut random);
                let tries = world.hosts.at(BAD) - before;
                assert!((5..=9).contains(&tries), "{workers} workers, seed {seed}, {features}: {tries} tries");
                let failed = requests.iter().filter(|request| request.answer().status != 200).count();
                assert!(failed <= if features.is_empty() { tries } else { 0 }, "retries hide them: {failed}");
                assert_eq!(world.out(), [BAD]);
                world.assert_clean();
            }
        }
    }
}

// Limits.

/// Sees to it that never more hosts are out than the policy allows, between any two writes of shared data.
fn watch_limits(world: &World, most: usize) -> Rc<Cell<usize>> {
    let seen = Rc::new(Cell::new(0));
    let sees = Rc::clone(&seen);
    world.host.on_call(move |host, call| {
        if call.name == "set_shared_data" {
            for table in tables(host) {
                let now = out(&table).len();
                sees.set(sees.get().max(now));
                assert!(now <= most, "{now} hosts are out, and {most} may be");
            }
        }
        None
    });
    seen
}

#[test]
fn however_many_fail_at_once_no_more_are_out_than_may_be() {
    let hosts = many(10);
    for workers in [4, 16] {
        for (keys, most) in
            [("", 5), (r#","max_ejected":35"#, 3), (r#","max_ejected":0"#, 1), (r#","max_ejected":100"#, 10)]
        {
            let keys = format!(r#"{EXACT},"consecutive_failures":2,"base_ejection_time":"2s"{keys}"#);
            let world = World::start(&ejecting(&keys), workers, &texts(&hosts));
            world.hosts.take(millis(1));
            world.traffic(20 * workers, millis(1));
            let seen = watch_limits(&world, most);
            hosts.iter().for_each(|host| world.hosts.serves(host, Reaction::from(503).after(millis(1))));
            for _ in 0..160 {
                // One request of each worker at the same moment.
                (0..workers).for_each(|_| drop(world.get()));
                world.host.advance(millis(25));
            }
            assert_eq!(seen.get(), most, "and as many as may be");
            world.host.assert_no_trap();
        }
    }
}

/// Before each swap of the table another worker takes a host out, or lets one back.
#[test]
fn limits_hold_when_every_swap_comes_second() {
    let hosts = many(6);
    let world = World::start(
        &ejecting(&format!(r#"{EXACT},"consecutive_failures":1,"base_ejection_time":"1s""#)),
        8,
        &texts(&hosts),
    );
    world.traffic(100, millis(5));
    let seen = watch_limits(&world, 3);
    let turn = Cell::new(0);
    let lost = Rc::new(Cell::new(0));
    let loses = Rc::clone(&lost);
    world.host.on_call(move |host, call| {
        if call.swaps("/table") && call.thread == Thread::Worker(0) {
            loses.set(loses.get() + 1);
            turn.set(turn.get() % 7 + 1);
            host.send(turn.get(), Request::get("/"));
        }
        None
    });
    let mut random = Random::new(3);
    for _ in 0..1500 {
        for host in &hosts {
            let status = if random.next().is_multiple_of(2) { 503 } else { 200 };
            world.hosts.serves(host, status);
        }
        world.host.send(0, Request::get("/"));
        world.host.advance(millis(20));
    }
    assert!(lost.get() > 200, "{} swaps had somebody before them", lost.get());
    assert_eq!(seen.get(), 3);
    world.host.nothing_fails();
    world.hosts.are_well();
    world.traffic_until(50 * 40, |world| world.out().is_empty());
    world.assert_clean();
}

// Probes.

fn is_probe(request: &Routed) -> bool {
    request.access_log().is_some_and(|line| line.contains("probe="))
}

/// A host is out, and its time is over in a moment; it does not answer.
fn due(workers: usize, requests: usize) -> World {
    let keys = format!(r#"{EXACT},"base_ejection_time":"2s","probe":{{"requests":{requests}}}"#);
    let world = World::start(&ejecting(&keys), workers, &FIVE);
    world.traffic(25 * workers, millis(4));
    world.hosts.does(BAD, 503);
    world.traffic_until(25 * workers, |world| world.out() == [BAD]);
    world.host.advance(millis(1_900));
    // Every worker knows.
    world.traffic(workers, millis(1));
    world.hosts.hangs(BAD);
    world.host.advance(millis(200));
    world
}

/// At the host call with number `nth` (from 0) of worker 0's request seat the others have one request each; gives whether it
/// came to that.
fn at_call(host: &Host, nth: usize, others: Rc<RefCell<Vec<Routed>>>) -> Rc<Cell<bool>> {
    let (came, mut left) = (Rc::new(Cell::new(false)), nth);
    let comes = Rc::clone(&came);
    host.on_call(move |host, call: &Call<'_>| {
        if call.thread == Thread::Worker(0) && call.seat == Seat::Request && !comes.get() {
            if left > 0 {
                left -= 1;
            } else {
                comes.set(true);
                let sent = (1..host.workers()).map(|worker| host.send(worker, Request::get("/")));
                others.borrow_mut().extend(sent.collect::<Vec<_>>());
            }
        }
        None
    });
    came
}

#[test]
fn a_host_whose_time_is_over_has_one_probe_whatever_comes_between_two_calls() {
    for probes in [1, 3] {
        for nth in 0.. {
            let world = due(16, probes);
            let before = world.hosts.at(BAD);
            let others = Rc::new(RefCell::new(Vec::new()));
            let came = at_call(&world.host, nth, Rc::clone(&others));
            let mut requests = vec![world.host.send(0, Request::get("/"))];
            world.host.nothing_fails();
            requests.extend(world.traffic(32, millis(1)));
            requests.extend(others.borrow().iter().cloned());
            let taken = requests.iter().filter(|one| is_probe(one)).count();
            assert_eq!(taken, probes, "call {nth}");
            let unsteered =
                requests.iter().filter(|one| one.access_log().is_none_or(|line| !line.contains("hosts_out="))).count();
            let there = world.hosts.at(BAD) - before;
            assert!((probes..=probes + unsteered).contains(&there), "call {nth}: {there}");
            // All of them succeed.
            for request in requests.iter().filter(|one| !one.is_over()) {
                request.attempt().responds(200);
            }
            assert_eq!(world.out(), [""; 0], "call {nth}: it is back");
            world.host.assert_no_trap();
            if !came.get() {
                assert!(nth > 8, "the last call was {nth}");
                break;
            }
        }
    }
}

#[test]
fn of_several_probes_one_failure_is_enough_and_late_ones_change_nothing() {
    let world = due(8, 3);
    let mut requests = world.traffic(16, millis(1));
    requests.retain(is_probe);
    assert_eq!(requests.len(), 3);
    requests[0].attempt().responds(200);
    requests[1].attempt().responds(503);
    assert_eq!(world.out(), [BAD]);
    let until = world.host.elapsed() + seconds(4);
    requests[2].attempt().responds(200);
    world.hosts.is_well(BAD);
    world.traffic_until(50 * 10, |world| world.out().is_empty());
    assert!(world.host.elapsed() >= until && world.host.elapsed() <= until + millis(200));
    world.assert_clean();
}

#[test]
fn probes_that_hang_are_followed_by_one_more_each_lease() {
    let world = due(16, 1);
    let before = world.host.elapsed();
    let requests = world.traffic_for(seconds(45));
    let probes: Vec<u64> =
        requests.iter().filter(|one| is_probe(one)).map(|one| (one.tries()[0].began - before).as_secs()).collect();
    // After 15 s the route gives the first one up: that is a failure, and the host is out for 4 s more. What becomes of the
    // second, sent before that, says nothing. After 34 s it is the third's turn, and 6 s.
    assert_eq!(probes, [0, 10, 15 + 4, 19 + 10, 34 + 6]);
    world.host.assert_no_trap();
}

// One VM checks.

fn beating(hosts: &[String], interval: &str) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
    ejecting(&format!(
        r#"{EXACT},"hosts":[{}],"heartbeat":{{"path":"/healthz","interval":"{interval}"}}"#,
        hosts.join(",")
    ))
}

/// Who has checked since then.
fn checkers(world: &World, since: Duration) -> BTreeSet<String> {
    world.hosts.checked().iter().filter(|one| one.at >= since).map(|one| one.thread.to_string()).collect()
}

fn kill_main(world: &World) {
    let died = Cell::new(false);
    world.host.on_call(move |_, call| {
        let strikes = call.thread == Thread::Main && call.seat == Seat::Request && !died.get();
        died.set(died.get() || strikes);
        strikes.then_some(Fault::Trap)
    });
    world.host.advance(seconds(2));
    world.host.nothing_fails();
}

/// The one worker that checks.
fn leader(world: &World, since: Duration) -> usize {
    let checkers = checkers(world, since);
    assert_eq!(checkers.len(), 1, "{checkers:?}");
    checkers.first().unwrap().strip_prefix("worker ").unwrap().parse().unwrap()
}

/// Each host is asked once in each interval, give or take one.
#[track_caller]
fn assert_asked(checked: &[Came], hosts: &[String], from: Duration, to: Duration, interval: Duration) {
    assert_about(checked, hosts, from, to, interval, 1);
}

#[track_caller]
fn assert_about(checked: &[Came], hosts: &[String], from: Duration, to: Duration, interval: Duration, off: usize) {
    let expected = ((to - from).as_millis() / interval.as_millis()) as usize;
    let mut asked: BTreeMap<&str, usize> = hosts.iter().map(|host| (host.as_str(), 0)).collect();
    for one in checked.iter().filter(|one| (from..to).contains(&one.at)) {
        *asked.get_mut(one.host.as_str()).unwrap() += 1;
    }
    let wrong: Vec<_> = asked.iter().filter(|(_, count)| count.abs_diff(expected) > off).collect();
    assert!(wrong.is_empty(), "once each {interval:?}, {expected} times: {wrong:?}");
}

#[test]
fn one_vm_checks_and_when_it_dies_or_stops_ticking_another_one_does() {
    let hosts = many(5);
    let world = World::start(&beating(&hosts, "500ms"), 4, &texts(&hosts));
    world.host.advance(seconds(10));
    assert_eq!(checkers(&world, Duration::ZERO), BTreeSet::from(["main".to_owned()]));
    kill_main(&world);
    let since = world.host.elapsed() + seconds(7);
    world.host.advance(seconds(17));
    let first = leader(&world, since);
    world.host.crash(first);
    world.traffic(40, millis(20));
    let since = world.host.elapsed() + seconds(7);
    world.host.advance(seconds(17));
    let second = leader(&world, since);
    world.host.stall(second);
    let since = world.host.elapsed() + seconds(7);
    world.host.advance(seconds(17));
    let third = leader(&world, since);
    assert_ne!(second, third);
    world.host.resume(second);
    let since = world.host.elapsed();
    world.host.advance(seconds(20));
    assert_eq!(leader(&world, since), third, "whoever comes back finds another one there");
    let to = world.host.elapsed();
    assert_asked(&world.hosts.checked(), &hosts, since, to, millis(500));
    assert_eq!(world.out(), [""; 0], "nobody was taken for bad in the meantime");
    world.assert_clean();
}

#[test]
fn at_no_moment_do_two_check() {
    let hosts = many(5);
    let world = World::start(&beating(&hosts, "200ms"), 16, &texts(&hosts));
    for round in 0..6 {
        world.traffic(32, millis(50));
        match round % 3 {
            0 => kill_main(&world),
            1 => {
                let last = world.hosts.checked().pop().unwrap().thread;
                if let Thread::Worker(worker) = last {
                    world.host.crash(worker);
                }
            }
            _ => world.host.advance(seconds(3)),
        }
        world.host.advance(seconds(8));
    }
    let mut by_time: BTreeMap<Duration, BTreeSet<String>> = BTreeMap::new();
    for one in world.hosts.checked() {
        by_time.entry(one.at).or_default().insert(one.thread.to_string());
    }
    assert!(by_time.values().all(|threads| threads.len() == 1), "two at the same moment");
    world.assert_clean();
}

#[test]
fn of_200_hosts_each_is_asked_once_a_second_and_never_more_than_32_at_once() {
    let hosts = many(200);
    for (took, every) in [(millis(20), seconds(1)), (millis(120), seconds(1)), (millis(700), seconds(5))] {
        let world = World::start(&beating(&hosts, "1s"), 4, &texts(&hosts));
        world.hosts.take(took);
        let mut most = 0;
        for _ in 0..1000 {
            world.host.advance(millis(10));
            most = most.max(world.host.calls_out().len());
        }
        assert!(most <= 32, "{most} at once");
        let (from, to) = (world.host.elapsed(), world.host.elapsed() + seconds(20));
        world.host.advance(seconds(20));
        // With 700 ms for each no more than 45 can be asked in a second: every host once in five or so.
        let off = if every > seconds(1) { 2 } else { 1 };
        assert_about(&world.hosts.checked(), &hosts, from, to, every, off);
        assert_eq!(world.out(), [""; 0]);
        world.assert_clean();
    }
}

// Two configurations in one VM.

#[test]
fn two_listeners_with_one_policy_check_each_host_once_and_know_whose_answer_it_is() {
    let hosts = many(20);
    let document = beating(&hosts, "1s");
    let world = World::start(&document, 2, &texts(&hosts));
    world.hosts.take(millis(400));
    world.host.add_listener(&format!("{document} ")).unwrap();
    world.host.advance(seconds(5));
    let from = world.host.elapsed();
    world.host.advance(seconds(10));
    assert_asked(&world.hosts.checked(), &hosts, from, world.host.elapsed(), seconds(1));
    assert_eq!(world.out(), [""; 0]);
    let bad = hosts[7].clone();
    world.hosts.answers_checks(&bad, Reaction::from(503).after(millis(400)));
    for _ in 0..60 {
        world.host.advance(seconds(1));
        let out = world.out();
        assert!(out.is_empty() || out == [bad.clone()], "{out:?}");
    }
    assert_eq!(world.out(), [bad]);
    world.host.assert_no_trap();
}

#[test]
fn two_listeners_with_two_policies_check_for_each() {
    let hosts = many(20);
    let world = World::start(&beating(&hosts, "1s"), 2, &texts(&hosts));
    world.hosts.take(millis(400));
    world.host.add_listener(&beating(&hosts, "2s")).unwrap();
    world.hosts.answers_checks(&hosts[7], Reaction::from(503).after(millis(400)));
    world.host.advance(seconds(30));
    assert_eq!(world.tables().len(), 2);
    for table in world.tables() {
        assert_eq!(out(&table), [hosts[7].clone()]);
    }
    world.host.assert_no_trap();
}

#[test]
fn updates_while_checks_and_requests_are_under_way_eject_nobody_and_stop_no_vm() {
    let hosts = many(20);
    for (what, documents) in [
        ("the same policy", [beating(&hosts, "1s"), format!("{} ", beating(&hosts, "1s"))]),
        ("another one", [beating(&hosts, "1s"), beating(&hosts, "900ms")]),
    ] {
        let world = World::start(&documents[0], 2, &texts(&hosts));
        world.hosts.take(millis(300));
        world.host.advance(seconds(3));
        for number in 1..80 {
            let under_way = world.get();
            world.host.advance(millis(450));
            world.host.update(&documents[number % 2]).unwrap();
            world.host.advance(millis(200));
            assert!(under_way.is_over());
            for table in world.tables() {
                assert!(out(&table).is_empty(), "{what}, update {number}: {:?}", out(&table));
            }
        }
        let from = world.host.elapsed() + seconds(6);
        world.host.advance(seconds(26));
        let interval = if what == "another one" { millis(900) } else { seconds(1) };
        assert_asked(&world.hosts.checked(), &hosts, from, world.host.elapsed(), interval);
        world.host.assert_no_trap();
    }
}

#[test]
fn a_reading_under_way_at_an_update_is_no_hindrance() {
    let read = |interval: &str| {
        ejecting(&format!(
            r#""discover":{{"cluster":"envoy_admin","path":"/clusters?format=json","interval":"{interval}"}}"#
        ))
    };
    let world = World::start(&read("1s"), 2, &FIVE);
    let body = r#"{"clusters":{"orders":["10.0.0.1:8080","10.0.0.2:8080"]}}"#;
    world.hosts.lists(Reaction::responds(Response::status(200).body(body)).after(millis(800)));
    world.host.advance(millis(1_500));
    for number in 0..10 {
        let document = if number % 2 == 0 { format!("{} ", read("1s")) } else { read("1s") };
        world.host.update(&document).unwrap();
        world.host.advance(millis(500));
    }
    world.host.advance(seconds(12));
    assert_eq!(world.known(), FIVE[..2]);
    let before = world.hosts.readings();
    world.host.advance(seconds(20));
    assert!(world.hosts.readings() - before >= 9, "{}", world.hosts.readings() - before);
    world.assert_clean();
}

/// An update leaves the old root context beside the new one for as long as it has requests. Both make calls, whose tokens
/// come from one count, and each answer must come to the one that asked.
#[test]
fn answers_to_checks_come_to_the_policy_that_made_them() {
    let hosts = many(5);
    let listed: Vec<String> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
    let policy = |name: &str| {
        let beats = format!(r#""heartbeat":{{"path":"/{name}","interval":"500ms"}},"base_ejection_time":"300s""#);
        let outlier = format!(r#""outlier":{{{EXACT},"hosts":[{}],{beats}}}"#, listed.join(","));
        format!(r#"{{"policies":[{{"name":"{name}","match":{{"cluster":["orders"]}},{outlier}}}]}}"#)
    };
    let asked = Rc::new(RefCell::new(BTreeMap::<String, u64>::new()));
    let asks = Rc::clone(&asked);
    let ill = hosts[3].clone();
    let host = Host::with(&policy("old"))
        .workers(2)
        .attempt_seat()
        .override_host(&texts(&hosts))
        .answering_calls(move |arrival| {
            let path = arrival.header(":path").unwrap();
            let is_ill = path == "/new" && arrival.host == ill;
            *asks.borrow_mut().entry(path).or_default() += 1;
            // Later than the next ones are sent, so that both have some under way at any time.
            Some(Reaction::from(if is_ill { 503 } else { 200 }).after(millis(700)))
        })
        .start();
    let under_way: Vec<Routed> = (0..2).map(|worker| host.send(worker, Request::get("/"))).collect();
    host.advance(seconds(3));
    host.update(&policy("new")).unwrap();
    assert_eq!((host.roots(0), host.roots(1)), (2, 2));
    let before = asked.borrow().clone();
    for _ in 0..40 {
        host.advance(millis(250));
        let request = host.send(1, Request::get("/"));
        request.attempt().responds(200);
        assert_eq!(request.answer().status, 200);
    }
    let more = |path: &str| asked.borrow()[path] - before.get(path).copied().unwrap_or(0);
    assert!(more("/old") >= 50 && more("/new") >= 50, "both check five hosts: {:?}", asked.borrow());
    let out_of = |name: &str| host.metric_of(name, "cluster=orders", "ejections.heartbeat");
    assert_eq!((out_of("old"), out_of("new")), (0, 1), "each judges by its own checks");
    for request in under_way {
        request.attempt().responds(200);
        assert_eq!(request.answer().status, 200);
    }
    assert_eq!((host.roots(0), host.roots(1)), (1, 1));
    host.advance(seconds(3));
    let before = asked.borrow()["/old"];
    host.advance(seconds(3));
    assert_eq!(asked.borrow()["/old"], before, "the old one is gone");
    host.assert_no_trap();
}
