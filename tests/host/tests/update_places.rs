//! Places in shared data over many updates: who is away for long, who dies, what is damaged, and how many names there are.

use std::cell::Cell;
use std::rc::Rc;

use holdfast_engine::base::random::Random;
use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Exchange, Host, Request, Response, Thread};
use serde_json::json;

use crate::foreign_bytes::damaged;
use crate::outlier_support::{BAD, FIVE, World, shares};
use crate::support::{BREAKER, count, fail, millis, passing, seconds, succeed};
use crate::update_support::{Document, Way, all_that_pass, answer, with_everything};

/// Open for five minutes.
fn long_open() -> Document {
    with_everything(BREAKER).set("breaker.open_for", json!("5m"))
}

fn start(document: &Document) -> Host {
    Host::with(&document.text()).workers(3).start()
}

fn trip(host: &Host, worker: usize) {
    (0..3).for_each(|_| drop(fail(host, worker)));
}

/// The document with a breaker of its own.
fn variant(document: &Document, number: u64) -> Document {
    document.set("breaker.window", json!(format!("{}s", 11 + number % 400)))
}

// Who is away.

#[test]
fn when_the_whole_process_stood_still_for_a_minute_nobody_has_lost_anything() {
    let document = long_open();
    for way in Way::ALL {
        for (what, changed) in [("a fallback", document.without("fallback")), ("the breaker", variant(&document, 1))] {
            let what = format!("{what}, {way:?}");
            // Before anybody has looked at the new document, and after.
            for looks in [false, true] {
                let host = start(&document);
                let held: Vec<_> = (0..3).map(|worker| host.get(worker).passed()).collect();
                trip(&host, 0);
                host.advance(seconds(10));
                way.update(&host, &changed);
                if looks {
                    (0..3).for_each(|worker| assert_eq!(passing(&host, worker, 1, 200), 0));
                    host.advance(seconds(2));
                }
                host.set_clock_forward(seconds(60));
                for worker in 0..3 {
                    assert_eq!(passing(&host, worker, 2, 200), 0, "{what}, {looks}: open on worker {worker}");
                }
                host.advance(seconds(5));
                assert_eq!(count(&host, "breaker_state"), StateName::Open as u64, "{what}, {looks}");
                answer(held, 200);
                host.advance(seconds(220));
                assert_eq!(passing(&host, 0, 2, 200), 0, "{what}, {looks}: not yet");
                host.advance(seconds(5));
                assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}, {looks}: five minutes after it opened");
                host.assert_no_trap();
            }
        }
    }
}

#[test]
fn a_worker_that_was_away_while_others_changed_twice_writes_nothing_into_what_is_theirs() {
    let document = long_open();
    for again in [true, false] {
        let host = start(&document);
        (0..3).for_each(|worker| drop(succeed(&host, worker)));
        fail(&host, 0);
        fail(&host, 0);
        host.stall(0);
        // The places of what the others had before are free by then, and are used again.
        for number in 1..=4 {
            host.update_main(&variant(&document, number).text()).unwrap();
            host.reach(1);
            host.reach(2);
            for _ in 0..20 {
                host.advance(seconds(1));
                succeed(&host, 1);
                succeed(&host, 2);
            }
        }
        // It has the document of long ago: one failure more opens its breaker, and nobody else's.
        fail(&host, 0);
        for worker in [1, 2] {
            assert_eq!(passing(&host, worker, 5, 200), 5, "its breaker is its own");
        }
        host.resume(0);
        host.advance(seconds(3));
        (0..3).for_each(|_| drop(host.get(0).with(Response::status(503))));
        assert_eq!(passing(&host, 0, 3, 200), 0, "it opens by its own failures");
        for worker in [1, 2] {
            assert_eq!(passing(&host, worker, 5, 200), 5, "and still is its own");
        }
        trip(&host, 1);
        assert_eq!(passing(&host, 2, 3, 200), 0, "that of the others is theirs");
        host.advance(seconds(1));
        assert_eq!(count(&host, "breaker_state"), StateName::Open as u64);
        if again {
            host.reach(0);
            assert_eq!(passing(&host, 0, 3, 200), 0, "now it shares theirs");
            host.advance(seconds(300));
            assert_eq!(all_that_pass(&host, 3).len(), 5);
        }
        host.assert_no_trap();
    }
}

/// Requests in flight of a worker that was away are counted where they belong.
#[test]
fn a_worker_that_was_away_counts_what_it_has_in_flight_in_its_own_document() {
    let document = with_everything(BREAKER).set("concurrency.max_requests", json!(4));
    let host = start(&document);
    let held: Vec<_> = (0..3).map(|_| host.get(0).passed()).collect();
    host.stall(0);
    for limit in [5, 6, 7, 5] {
        host.update_main(&document.set("concurrency.max_requests", json!(limit)).text()).unwrap();
        host.reach(1);
        host.reach(2);
        host.advance(seconds(20));
    }
    host.resume(0);
    host.advance(seconds(3));
    let passed = |worker| (0..8).map(|_| host.get(worker)).filter(Exchange::has_passed).map(Exchange::passed).collect();
    let others: Vec<_> = passed(1);
    assert!(others.len() <= 5, "never more than their limit");
    // Its own place is another one now, and begins with what comes.
    let own: Vec<_> = passed(0);
    assert!(own.len() <= 4, "never more than its limit");
    for one in held.into_iter().chain(own).chain(others) {
        answer([one], 200);
    }
    let others: Vec<_> = passed(1);
    assert_eq!(others.len(), 5, "nothing is left behind");
    answer(others, 200);
    host.reach(0);
    assert_eq!(all_that_pass(&host, 4).len(), 5, "together");
    host.assert_no_trap();
}

#[test]
fn hosts_of_a_worker_that_was_away_do_not_come_into_the_tables_of_others() {
    let ejecting =
        Document::new(r#""outlier":{"ejection_jitter":0,"consecutive_failures":3,"base_ejection_time":"100s"}"#);
    let world = World::start(&ejecting.text(), 3, &FIVE);
    world.traffic(60, millis(20));
    world.host.stall(0);
    for number in 1..=4 {
        world.host.update_main(&ejecting.set("outlier.interval", json!(format!("{}s", 10 + number))).text()).unwrap();
        world.host.reach(1);
        world.host.reach(2);
        for number in 0..200 {
            world.host.send(1 + number % 2, Request::get("/"));
            world.host.advance(millis(100));
        }
    }
    world.host.resume(0);
    world.hosts.does(BAD, 503);
    // Only the one that was away gets its failures.
    for _ in 0..40 {
        world.host.send(0, Request::get("/"));
        world.host.advance(millis(20));
    }
    world.hosts.is_well(BAD);
    let others: Vec<_> = (0..100)
        .map(|number| {
            world.host.advance(millis(20));
            world.host.send(1 + number % 2, Request::get("/"))
        })
        .collect();
    let share = shares(&others);
    assert!(share.values().all(|share| *share >= 12) && share.len() == 5, "all of theirs are in: {share:?}");
    world.host.reach(0);
    let share = shares(&world.traffic(100, millis(20)));
    assert!(share.len() == 5, "and now it has them too: {share:?}");
    world.assert_clean();
}

// Who dies.

#[test]
fn a_vm_that_dies_around_an_update_finds_what_the_others_know() {
    let document = long_open();
    for way in Way::ALL {
        for (what, changed) in [("a fallback", document.without("fallback")), ("the breaker", variant(&document, 1))] {
            for (when, before, after) in
                [("before", true, false), ("after", false, true), ("before and after", true, true)]
            {
                let what = format!("{what}, {way:?}, {when}");
                let host = start(&document);
                trip(&host, 0);
                host.advance(seconds(10));
                if before {
                    host.crash(1);
                }
                way.update(&host, &changed);
                if after {
                    (0..3).for_each(|worker| host.crash(worker));
                }
                host.advance(seconds(2));
                for worker in 0..3 {
                    let answered = host.get(worker).with(Response::status(200));
                    assert!(answered.is_holdfasts(), "{what}: open on worker {worker}");
                }
                host.advance(seconds(287));
                assert_eq!(passing(&host, 1, 2, 200), 0, "{what}");
                host.advance(seconds(1));
                assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}");
                host.assert_no_trap();
            }
        }
    }
}

/// It dies at each call that it makes while it takes the new document, and at each of its first request.
#[test]
fn a_vm_that_dies_in_the_middle_of_an_update_leaves_nothing_behind_that_holds_others_up() {
    let document = with_everything(BREAKER);
    for changed in [document.without("fallback"), variant(&document, 1)] {
        for nth in 0..60 {
            let host = start(&document);
            trip(&host, 0);
            host.advance(seconds(10));
            host.update_main(&changed.text()).unwrap();
            let mut seen = 0;
            host.crash_at(0, move |_| {
                seen += 1;
                seen > nth
            });
            host.reach(0);
            host.get(0).with(Response::status(200));
            let has_died = !host.crashes().is_empty();
            host.nothing_fails();
            host.reach(1);
            host.reach(2);
            for worker in [1, 2] {
                assert_eq!(passing(&host, worker, 2, 200), 0, "call {nth}: open on worker {worker}");
            }
            host.advance(seconds(2));
            assert!(host.get(0).with(Response::status(200)).is_holdfasts(), "call {nth}: and on the new VM");
            host.advance(seconds(18));
            let probes = all_that_pass(&host, 3);
            assert_eq!(probes.len(), 5, "call {nth}");
            answer(probes, 200);
            assert_eq!(passing(&host, 0, 5, 200), 5, "call {nth}");
            host.assert_no_trap();
            if !has_died {
                break;
            }
        }
    }
}

#[test]
fn swaps_that_are_lost_while_an_update_comes_lose_no_state() {
    let document = with_everything(BREAKER);
    for changed in [document.without("fallback"), variant(&document, 1)] {
        for nth in 0..30 {
            let host = start(&document);
            trip(&host, 0);
            host.advance(seconds(10));
            host.update_main(&changed.text()).unwrap();
            host.reach(1);
            // Just before one of its swaps another worker has its first request.
            let (mut seen, passed) = (0, Rc::new(Cell::new(0)));
            let passes = Rc::clone(&passed);
            host.on_call(move |host, call| {
                if call.thread == Thread::Worker(0) && call.swaps("holdfast/") {
                    if seen == nth {
                        host.reach(2);
                        passes.set(passing(host, 1, 2, 200) + passing(host, 2, 2, 200));
                    }
                    seen += 1;
                }
                None
            });
            host.reach(0);
            assert_eq!(passing(&host, 0, 2, 200), 0, "swap {nth}: open on the slow one");
            host.nothing_fails();
            assert_eq!(passed.get(), 0, "swap {nth}: open on those that are faster");
            host.reach(2);
            host.advance(seconds(20) - millis(1));
            assert_eq!((0..3).map(|worker| passing(&host, worker, 2, 200)).sum::<usize>(), 0, "swap {nth}");
            host.advance(millis(1));
            assert_eq!(all_that_pass(&host, 3).len(), 5, "swap {nth}");
            host.assert_no_trap();
        }
    }
}

// Damage.

/// A policy that uses every kind of record.
fn everything() -> Document {
    Document::new(&format!(
        r#"{BREAKER},"concurrency":{{"max_requests":50}},"throttle":{{"min_rps":1000}},
            "retry":{{"max_retries":1}},"outlier":{{"consecutive_failures":3,"base_ejection_time":"1s"}}"#
    ))
}

fn use_everything(host: &Host) {
    for number in 0..12 {
        let request = host.send(number % 3, Request::get("/"));
        for _ in 0..2 {
            let status = if number % 4 == 0 { 503 } else { 200 };
            request.attempts().iter().filter(|one| !one.is_held()).for_each(|one| one.responds(status));
            host.advance(millis(30));
        }
        assert!(request.is_over(), "nothing is held up");
    }
}

#[test]
fn updates_over_bytes_of_any_kind_under_any_name_hold_no_traffic_up() {
    let mut random = Random::new(20);
    for how in 0..20 {
        let host = Host::with(&everything().text()).workers(3).attempt_seat().start();
        use_everything(&host);
        let keys = host.shared_keys();
        for (number, key) in keys.iter().enumerate() {
            let bytes = damaged(&host.shared(key).unwrap_or_default().0, how, &mut random);
            host.put_shared(key, &bytes);
            let changed = match number % 4 {
                0 => everything().without("retry"),
                1 => variant(&everything(), number as u64),
                2 => everything().set("outlier.consecutive_failures", json!(4 + number)),
                _ => everything().set("concurrency.max_requests", json!(51 + number)),
            };
            Way::AtOnce.update(&host, &changed);
            use_everything(&host);
        }
        let start = host.elapsed();
        while (0..3).any(|worker| passing(&host, worker, 10, 200) < 10) {
            host.advance(seconds(5));
            assert!(host.elapsed() - start < seconds(700), "kind {how}: it is stuck");
        }
        (0..3).for_each(|_| drop(fail(&host, 0)));
        assert_eq!(passing(&host, 1, 3, 200), 0, "kind {how}: and all works again");
        host.assert_no_trap();
    }
}

#[test]
fn when_the_registry_is_lost_everybody_goes_on_and_agrees_again() {
    let mut random = Random::new(21);
    let document = with_everything(BREAKER);
    for how in 0..20 {
        for changed in [None, Some(document.without("retry")), Some(variant(&document, 1))] {
            let host = start(&document);
            (0..3).for_each(|worker| drop(succeed(&host, worker)));
            host.advance(seconds(1));
            let keys = host.shared_keys();
            let registry = keys.iter().find(|key| key.ends_with("/policies")).expect("there is a registry");
            let bytes = damaged(&host.shared(registry).unwrap().0, how, &mut random);
            host.put_shared(registry, &bytes);
            if let Some(changed) = &changed {
                Way::InTurn.update(&host, changed);
            }
            assert_eq!(
                (0..3).map(|worker| passing(&host, worker, 5, 200)).sum::<usize>(),
                15,
                "kind {how}: traffic passes"
            );
            for _ in 0..5 {
                host.advance(seconds(1));
                (0..3).for_each(|worker| drop(succeed(&host, worker)));
            }
            trip(&host, 0);
            for worker in 0..3 {
                assert_eq!(passing(&host, worker, 3, 200), 0, "kind {how}: all agree, on worker {worker}");
            }
            host.advance(seconds(30));
            let probes = all_that_pass(&host, 3);
            assert_eq!(probes.len(), 5, "kind {how}: and share the probes");
            answer(probes, 200);
            // What was lost is not handed out as if it were somebody else's.
            Way::AtOnce.update(&host, &variant(&document, 2));
            trip(&host, 1);
            assert_eq!((0..3).map(|worker| passing(&host, worker, 3, 200)).sum::<usize>(), 0, "kind {how}");
            host.assert_no_trap();
        }
    }
}

// How many names.

#[test]
fn a_hundred_changes_of_every_block_leave_as_many_names_as_fifty() {
    let document = everything();
    for way in [Way::AtOnce, Way::InTurn] {
        let host = Host::with(&document.text()).workers(3).attempt_seat().start();
        let mut names = Vec::new();
        for number in 0..100_u64 {
            let changed = variant(&document, number)
                .set("outlier.consecutive_failures", json!(3 + number))
                .set("concurrency.max_requests", json!(50 + number))
                .set("throttle.min_rps", json!(800 + number))
                .set("retry.backoff", json!({"max": format!("{}ms", 250 + number)}));
            way.update(&host, &changed);
            use_everything(&host);
            host.advance(seconds(if number % 10 == 9 { 40 } else { 2 }));
            names.push(host.shared_keys().len());
        }
        let (early, late) = (names[40..50].iter().max(), names[90..].iter().max());
        assert!(late <= early, "{way:?}: {names:?}");
        host.assert_no_trap();
    }
}
