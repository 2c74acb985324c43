//! Several documents at once: a listener that drains, workers that have an update later than others, updates in a hurry.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Host, Listener, Request, Response};
use serde_json::json;

use crate::support::{BREAKER, HOUR, count, fail, millis, passing, seconds, succeed};
use crate::update_support::{Document, Way, all_that_pass, answer, of_the_breaker, with_everything};

fn start(document: &Document) -> Host {
    Host::with(&document.text()).workers(3).start()
}

/// A request on a listener, which the host answers so; whether it passed.
fn passes_on(host: &Host, worker: usize, listener: Listener, status: u16) -> bool {
    let answer = host.request(worker, Request::get("/").on(listener)).with(Response::status(status));
    !answer.is_holdfasts()
}

/// A metric under the name that a policy has in metrics.
fn metric(host: &Host, policy: &str, metric: &str) -> u64 {
    host.metric_of(policy, "all", metric)
}

// A drain.

#[test]
fn over_a_drain_of_ten_minutes_both_documents_share_the_breaker_that_is_the_same() {
    let document = with_everything(BREAKER);
    let host = start(&document);
    succeed(&host, 0);
    let old = host.drain(&document.without("retry").set("concurrency.max_requests", json!(10)).text()).unwrap();
    let new = host.first_listener();
    assert!((0..3).all(|worker| passes_on(&host, worker, new, 200)));
    let before = [count(&host, "requests"), metric(&host, "orders~2", "requests")];
    let mut rejected = 0;
    for second in 0..600_u64 {
        host.advance(seconds(1));
        // For a while each document's host fails.
        let fails = (100..102).contains(&second) || (300..302).contains(&second);
        let (worker, status) = ((second % 3) as usize, if fails { 503 } else { 200 });
        // Two of each document: two failures are not enough for either, together they are.
        let passed = [old, new].map(|listener| passes_on(&host, worker, listener, status));
        rejected += passed.iter().filter(|passed| !**passed).count();
        let is_open = (101..132).contains(&(second % 200));
        if passed != [true, true] {
            assert!(is_open, "second {second}: {passed:?}");
        }
        if is_open && (103..130).contains(&(second % 200)) && second < 400 {
            assert_eq!(passed, [false, false], "second {second}: it is open for both");
        }
    }
    assert!((110..=124).contains(&rejected), "twice 30 s for both: {rejected}");
    let after = [count(&host, "requests"), metric(&host, "orders~2", "requests")];
    assert_eq!([after[0] - before[0], after[1] - before[1]], [600, 600], "each document counts its own");
    host.close(old);
    host.advance(seconds(20));
    let left = metric(&host, "orders~2", "requests");
    (0..30).for_each(|number| drop(succeed(&host, number % 3)));
    host.advance(seconds(1));
    assert_eq!(count(&host, "requests") - after[0], 30);
    assert_eq!(metric(&host, "orders~2", "requests"), left, "nobody counts for the old one any more");
    host.assert_no_trap();
}

#[test]
fn over_a_drain_breakers_that_differ_do_not_mix_after_the_take_over() {
    let document = with_everything(BREAKER);
    for (what, changed) in of_the_breaker(&document) {
        let host = start(&document);
        fail(&host, 0);
        fail(&host, 0);
        let old = host.drain(&changed.text()).unwrap();
        let new = host.first_listener();
        for worker in 0..3 {
            assert!(passes_on(&host, worker, new, 200) && passes_on(&host, worker, old, 200), "{what}");
        }
        host.advance(seconds(2));
        for _ in 0..3 {
            assert!(passes_on(&host, 1, old, 503));
        }
        for worker in 0..3 {
            assert!(!passes_on(&host, worker, old, 200), "{what}: the old one has opened");
            assert!(passes_on(&host, worker, new, 200), "{what}: the new one has not");
        }
        host.advance(seconds(2));
        assert_eq!(count(&host, "breaker_state"), StateName::Closed as u64, "{what}: the name is the new one's");
        assert_eq!(metric(&host, "orders~2", "breaker_state"), StateName::Open as u64, "{what}");
        for _ in 0..4 {
            passes_on(&host, 2, new, 503);
        }
        assert!(!passes_on(&host, 0, new, 200), "{what}: it opens by its own rule");
        host.advance(seconds(28));
        assert!(passes_on(&host, 0, old, 200), "{what}: the old one is half-open");
        assert!(!passes_on(&host, 0, new, 200), "{what}: the new one is open");
        host.close(old);
        host.advance(seconds(2));
        assert_eq!(count(&host, "breaker_state"), StateName::Open as u64, "{what}");
        host.assert_no_trap();
    }
}

#[test]
fn the_gauges_of_a_document_that_is_gone_say_nothing() {
    let document = with_everything(BREAKER);
    let host = start(&document);
    (0..3).for_each(|_| drop(fail(&host, 0)));
    let old = host.drain(&document.set("breaker.consecutive_failures", json!(4)).text()).unwrap();
    host.advance(seconds(2));
    for worker in 0..3 {
        assert!(!passes_on(&host, worker, old, 200) && !passes_on(&host, worker, host.first_listener(), 200));
    }
    assert_eq!(metric(&host, "orders~2", "breaker_state"), StateName::Open as u64);
    host.close(old);
    host.advance(seconds(20));
    assert_eq!(metric(&host, "orders~2", "breaker_state"), 0, "of what is not there any more there is nothing to tell");
    host.assert_no_trap();
}

// One worker after the other.

#[test]
fn workers_with_the_old_and_the_new_document_share_what_is_the_same() {
    let document = with_everything(BREAKER);
    let host = start(&document);
    host.update_main(&document.without("retry").text()).unwrap();
    fail(&host, 0);
    host.advance(seconds(1));
    fail(&host, 0);
    host.reach(0);
    host.advance(seconds(1));
    fail(&host, 0);
    for worker in [1, 0, 2] {
        assert_eq!(passing(&host, worker, 3, 200), 0, "one before and one after, on worker {worker}");
    }
    host.advance(seconds(30) - millis(1));
    host.reach(1);
    assert_eq!(passing(&host, 1, 1, 200), 0);
    host.advance(millis(1));
    let probes = all_that_pass(&host, 3);
    assert_eq!(probes.len(), 5, "over both documents");
    host.reach(2);
    assert_eq!(all_that_pass(&host, 2).len(), 0);
    answer(probes, 200);
    assert_eq!((0..3).map(|worker| passing(&host, worker, 5, 200)).sum::<usize>(), 15);
    host.assert_no_trap();
}

#[test]
fn the_first_worker_with_a_changed_breaker_finds_it_open_and_those_that_follow_find_what_it_made_of_it() {
    let document = with_everything(BREAKER);
    for (what, changed) in of_the_breaker(&document) {
        let host = start(&document);
        (0..3).for_each(|_| drop(fail(&host, 2)));
        host.advance(seconds(10));
        host.update_main(&changed.text()).unwrap();
        host.advance(seconds(2));
        host.reach(1);
        assert_eq!(passing(&host, 1, 3, 200), 0, "{what}: open");
        host.advance(seconds(18));
        assert_eq!(passing(&host, 1, 5, 200), 5, "{what}: its probes are good");
        host.reach(0);
        assert_eq!(passing(&host, 0, 5, 200), 5, "{what}: it is closed");
        // The one that is late has its own probes, and nobody else has anything of them.
        assert_eq!(passing(&host, 2, 3, 503), 3, "{what}: the late one probes");
        assert_eq!(passing(&host, 2, 3, 200), 0, "{what}: and opens again");
        assert_eq!(passing(&host, 0, 3, 200) + passing(&host, 1, 3, 200), 6, "{what}: for itself");
        host.reach(2);
        assert_eq!(passing(&host, 2, 3, 200), 3, "{what}: now it knows");
        assert_eq!(count(&host, "breaker_state"), StateName::Closed as u64, "{what}");
        host.assert_no_trap();
    }
}

#[test]
fn a_worker_that_is_an_hour_late_shares_what_is_the_same_and_then_finds_what_the_others_have() {
    let document = with_everything(BREAKER);
    for (what, changed, is_same) in [
        ("a fallback", document.without("fallback"), true),
        ("the breaker", document.set("breaker.window", json!("20s")), false),
    ] {
        let host = start(&document);
        host.update_main(&changed.text()).unwrap();
        host.reach(0);
        host.reach(1);
        let start = host.elapsed();
        while host.elapsed() < start + HOUR {
            host.advance(seconds(10));
            (0..3).for_each(|worker| drop(succeed(&host, worker)));
        }
        assert_eq!(count(&host, "breaker_state"), StateName::Closed as u64);
        (0..3).for_each(|_| drop(fail(&host, 0)));
        assert_eq!(passing(&host, 1, 3, 200), 0, "{what}: open");
        assert_eq!(passing(&host, 2, 3, 200), if is_same { 0 } else { 3 }, "{what}: for the late one");
        host.reach(2);
        assert_eq!(passing(&host, 2, 3, 200), 0, "{what}: it finds it open");
        host.advance(seconds(30));
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}");
        host.assert_no_trap();
    }
}

// In a hurry.

#[test]
fn the_last_of_ten_updates_within_a_second_finds_the_open_breaker_of_the_first() {
    let document = with_everything(BREAKER);
    for way in Way::ALL {
        for pause in [0, 100, 999, 1_000] {
            let host = start(&document);
            (0..3).for_each(|_| drop(fail(&host, 0)));
            let opened = host.elapsed();
            for number in 0..10 {
                way.update(&host, &document.set("breaker.open_for", json!(format!("{}s", 40 + number))));
                host.update(r#"{"policies":[{"name":"orders","breaker":{"open_for":"never"}}]}"#).unwrap_err();
                host.advance(millis(pause));
            }
            let what = format!("{way:?}, one each {pause} ms");
            for worker in 0..3 {
                assert_eq!(passing(&host, worker, 2, 200), 0, "{what}: open");
            }
            assert_eq!(count(&host, "breaker_state"), StateName::Open as u64, "{what}");
            host.advance(opened + seconds(30) - millis(1) - host.elapsed());
            assert_eq!(passing(&host, 0, 2, 200), 0, "{what}: open");
            host.advance(millis(1));
            assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}: 30 s after it opened");
            if way != Way::Drain {
                assert!((0..3).all(|worker| host.roots(worker) == 1), "{what}: one configuration is left");
            }
            host.assert_no_trap();
        }
    }
}

/// Nobody asks for a key for a while after its document has changed.
#[test]
fn an_open_breaker_without_requests_is_open_when_the_next_one_comes() {
    let document = with_everything(BREAKER).set("breaker.open_for", json!("4m"));
    for way in Way::ALL {
        let host = start(&document);
        (0..3).for_each(|_| drop(fail(&host, 0)));
        host.advance(seconds(10));
        for number in 0..3 {
            way.update(&host, &document.set("breaker.window", json!(format!("{}s", 20 + number))));
            host.advance(seconds(60));
        }
        for worker in 0..3 {
            assert_eq!(passing(&host, worker, 2, 200), 0, "{way:?}: open after three minutes and three changes");
        }
        host.advance(seconds(50));
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{way:?}: four minutes after it opened");
        host.assert_no_trap();
    }
}

/// With other places for the keys: those that have no request for a while after the change have their state too.
#[test]
fn keys_without_requests_keep_their_state_where_they_have_other_places() {
    let document = with_everything(BREAKER).set("scope", json!([{"header": "x-tenant"}]));
    let document = document.set("breaker.open_for", json!("4m")).set("concurrency.max_requests", json!(1));
    let of = |tenant: &str| Request::get("/").header("x-tenant", tenant);
    for way in Way::ALL {
        let host = start(&document);
        host.set_hosts_of("orders", &["10.0.0.1:80", "10.0.0.2:80"]);
        let fails = |tenant: &str| host.request(0, of(tenant)).with(Response::status(503));
        let passes =
            |worker, tenant: &str| !host.request(worker, of(tenant)).with(Response::status(200)).is_holdfasts();
        assert!(
            ["first", "second", "open", "in-flight"].iter().all(|tenant| passes(1, tenant)),
            "{way:?}: each has a place"
        );
        host.advance(seconds(1));
        (0..3).for_each(|_| drop(fails("open")));
        assert!(!passes(1, "open"), "{way:?}");
        let in_flight = host.request(2, of("in-flight")).passed();
        host.advance(seconds(2));
        way.update(&host, &document.set("max_keys", json!(100)));
        for _ in 0..60 {
            // Only this one has requests.
            host.advance(seconds(1));
            assert!((0..3).all(|worker| passes(worker, "second")), "{way:?}");
        }
        for worker in 0..3 {
            assert!(!passes(worker, "open"), "{way:?}: open on worker {worker}, a minute after the change");
            assert!(!passes(worker, "in-flight"), "{way:?}: one is in flight, and not more may be");
            assert!(passes(worker, "first"), "{way:?}");
        }
        in_flight.respond(Response::status(200));
        host.advance(seconds(30));
        assert!((0..3).all(|worker| passes(worker, "in-flight")), "{way:?}: it has ended");
        host.advance(seconds(180));
        assert!(passes(0, "open"), "{way:?}: it probes when its time is over");
        host.assert_no_trap();
    }
}

#[test]
fn one_document_and_another_and_the_first_again() {
    let document = with_everything(BREAKER);
    let changed = document.set("breaker.window", json!("20s"));
    for way in Way::ALL {
        for pause in [0, 1, 5] {
            let what = format!("{way:?}, {pause} s");
            let host = start(&document);
            let under_way: Vec<_> = (0..3).map(|worker| host.get(worker).passed()).collect();
            fail(&host, 0);
            fail(&host, 0);
            way.update(&host, &changed);
            host.advance(seconds(pause));
            fail(&host, 1);
            fail(&host, 1);
            way.update(&host, &document);
            host.advance(seconds(pause));
            assert_eq!(passing(&host, 0, 1, 503), 1, "{what}");
            assert_eq!(passing(&host, 1, 3, 200), 0, "{what}: two before and one after, in the same block");
            answer(under_way, 200);
            host.advance(seconds(30));
            let probes = all_that_pass(&host, 3);
            assert_eq!(probes.len(), 5, "{what}");
            answer(probes, 200);
            if way != Way::Drain {
                host.advance(seconds(2));
                assert_eq!(count(&host, "breaker_state"), StateName::Closed as u64, "{what}");
                let before = count(&host, "requests");
                (0..3).for_each(|worker| drop(succeed(&host, worker)));
                host.advance(seconds(1));
                assert_eq!(count(&host, "requests") - before, 3, "{what}: under the policy's own name");
            }
            host.assert_no_trap();
        }
    }
}

#[test]
fn the_same_document_again_and_refused_ones_change_nothing_and_count_nothing_twice() {
    let document = with_everything(BREAKER);
    let host = start(&document);
    let mut sent = 0;
    for round in 0..20 {
        let under_way: Vec<_> = (0..3).map(|worker| host.get(worker).passed()).collect();
        match round % 4 {
            0 => host.update(&document.text()).unwrap(),
            1 => drop(host.update(r#"{"policies":[{"name":"orders","breaker":{"failure_rate":140}}]}"#).unwrap_err()),
            2 => drop(host.update("").unwrap_err()),
            _ => host.update(&format!("{} ", document.text())).unwrap(),
        }
        host.advance(millis(300));
        answer(under_way, 200);
        succeed(&host, 0);
        sent += 4;
    }
    host.advance(seconds(1));
    assert_eq!((count(&host, "requests"), count(&host, "success")), (sent, sent));
    assert_eq!(metric(&host, "orders~2", "requests"), 0);
    (0..3).for_each(|_| drop(fail(&host, 0)));
    let keys = host.shared_keys().len();
    for _ in 0..20 {
        host.update(&format!("{} ", document.text())).unwrap();
        host.update(&document.text()).unwrap();
        host.advance(millis(400));
    }
    assert_eq!((0..3).map(|worker| passing(&host, worker, 3, 200)).sum::<usize>(), 0, "it is open as before");
    assert_eq!(host.shared_keys().len(), keys, "no name came");
    host.assert_no_trap();
}
