//! What becomes of limits when their document changes: what is in flight, what is spent, what is throttled.

use holdfast_host_tests::{Host, Pending, Request};
use serde_json::json;

use crate::support::{count, fail, millis, passing, seats_meet, seconds};
use crate::update_support::{Change, Document, Way, all_that_pass, answer};

// Concurrency.

const LIMIT: usize = 6;

fn limited() -> Document {
    Document::new(
        r#""breaker":{"consecutive_failures":1000},"concurrency":{"max_requests":6},"retry":{"max_retries":1},
            "fallback":[{"on":["concurrency"],"respond":{"status":503,"body":"old"}}]"#,
    )
}

/// Changes that leave `concurrency` alone.
fn beside_the_limit(of: &Document) -> Vec<Change> {
    vec![
        (
            "the text of a fallback",
            of.set("fallback", json!([{"on": ["concurrency"], "respond": {"status": 503, "body": "new"}}])),
        ),
        ("no fallback", of.without("fallback")),
        ("the breaker", of.set("breaker.open_for", json!("31s"))),
        ("no breaker", of.without("breaker")),
        ("no retry", of.without("retry")),
        ("throttle", of.set("throttle", json!({"min_rps": 1000}))),
        ("outcome", of.set("outcome", json!({"ignore": {"status": [404]}}))),
        ("another policy before it", of.second()),
    ]
}

fn start(document: &Document) -> Host {
    Host::with(&document.text()).workers(3).start()
}

/// So many requests that the hosts have, on the workers in turn.
fn hold(host: &Host, requests: usize) -> Vec<Pending> {
    (0..requests).map(|number| host.get(number % 3).passed()).collect()
}

/// How many pass now on all workers together, each of which goes at once.
#[track_caller]
fn assert_free(host: &Host, free: usize, what: &str) {
    let passed = all_that_pass(host, 4);
    assert_eq!(passed.len(), free, "{what}");
    answer(passed, 200);
}

#[test]
fn what_is_in_flight_counts_over_every_change_elsewhere() {
    let document = limited();
    for way in Way::ALL {
        for (what, changed) in beside_the_limit(&document) {
            let what = format!("{what}, {way:?}");
            let host = start(&document);
            let mut old = hold(&host, 4);
            way.update(&host, &changed);
            assert_free(&host, LIMIT - 4, &what);
            while let Some(one) = old.pop() {
                answer([one], 200);
                assert_free(&host, LIMIT - old.len(), &format!("{what}: {} are left", old.len()));
            }
            host.assert_no_trap();
        }
    }
}

#[test]
fn what_is_in_flight_of_the_document_before_counts_for_a_new_limit_until_it_ends() {
    let document = limited();
    for way in Way::ALL {
        for limit in [8, 4, 3, 1] {
            let what = format!("from {LIMIT} to {limit}, {way:?}");
            let host = start(&document);
            let mut old = hold(&host, 4);
            way.update(&host, &document.set("concurrency.max_requests", json!(limit)));
            let free = |old: &Vec<_>| limit - limit.min(old.len());
            assert_free(&host, free(&old), &what);
            // They last longer than every lease.
            for _ in 0..60 {
                host.advance(seconds(1));
            }
            assert_free(&host, free(&old), &format!("{what}: a minute later"));
            while let Some(one) = old.pop() {
                answer([one], 200);
                assert_free(&host, free(&old), &format!("{what}: {} are left", old.len()));
            }
            host.assert_no_trap();
        }
    }
}

#[test]
fn a_limit_that_is_new_counts_what_comes_after_it_and_one_that_goes_holds_nothing_up() {
    let document = limited();
    let none = document.without("concurrency").without("fallback");
    for way in Way::ALL {
        let host = start(&none);
        let old = hold(&host, 10);
        way.update(&host, &document);
        assert_free(&host, LIMIT, &format!("{way:?}: nobody has counted those before"));
        answer(old, 200);
        assert_free(&host, LIMIT, &format!("{way:?}: nor counts them when they end"));
        let counted = hold(&host, LIMIT);
        way.update(&host, &none);
        assert_free(&host, 12, &format!("{way:?}: no limit"));
        host.advance(seconds(5));
        way.update(&host, &document);
        assert_free(&host, 0, &format!("{way:?}: put back, and the same are in flight"));
        answer(counted, 200);
        assert_free(&host, LIMIT, &format!("{way:?}: they have ended"));
        host.assert_no_trap();
    }
}

#[test]
fn requests_of_three_documents_in_a_row_count_together() {
    let [first, second, third] = [10, 9, 8].map(|limit| limited().set("concurrency.max_requests", json!(limit)));
    for way in Way::ALL {
        let host = start(&first);
        let mut ones = hold(&host, 2);
        way.update(&host, &second);
        let mut twos = hold(&host, 2);
        way.update(&host, &third);
        let mut threes = hold(&host, 2);
        let what = format!("{way:?}");
        assert_free(&host, 2, &what);
        answer([ones.remove(0)], 200);
        assert_free(&host, 3, &format!("{what}: one of the first has ended"));
        host.advance(seconds(40));
        assert_free(&host, 3, &format!("{what}: 40 s later"));
        answer([twos.remove(0)], 503);
        assert_free(&host, 4, &format!("{what}: and one of the second"));
        answer([threes.remove(0)], 200);
        assert_free(&host, 5, &format!("{what}: and one of the third"));
        for one in ones.into_iter().chain(twos).chain(threes) {
            answer([one], 200);
        }
        assert_free(&host, 8, &format!("{what}: and all"));
        host.assert_no_trap();
    }
}

/// What comes on an old listener after the new document counts, took its place or not, in its own document.
#[test]
fn the_old_document_goes_on_by_its_own_limit_while_it_drains() {
    let document = limited();
    let host = start(&document);
    let held = hold(&host, 4);
    let old = host.drain(&document.set("concurrency.max_requests", json!(5)).text()).unwrap();
    assert_free(&host, 1, "four of five");
    let on_old = |worker| host.request(worker, Request::get("/").on(old));
    let more: Vec<_> = (0..3).map(&on_old).filter(|one| one.has_passed()).map(|one| one.passed()).collect();
    assert_eq!(more.len(), 2, "the old one has two of its six left");
    answer(held, 200);
    answer(more, 200);
    assert_free(&host, 5, "nothing is in flight");
    host.assert_no_trap();
}

#[test]
fn requests_of_a_worker_that_died_with_the_old_document_stop_counting() {
    let document = limited();
    for changed in [document.without("retry"), document.set("concurrency.max_requests", json!(5))] {
        let limit = if changed.text().contains(":5}") { 5 } else { LIMIT };
        let host = start(&document);
        let old = hold(&host, 4);
        Way::AtOnce.update(&host, &changed);
        assert_free(&host, limit - 4, "four are in flight");
        // It had two of them: it dies before it could tell.
        host.crash(0);
        host.advance(seconds(1));
        assert_free(&host, limit - 4, "a second later");
        host.advance(seconds(10));
        assert_free(&host, limit - 2, "with its lease they are gone");
        let lost = old.iter().filter(|one| one.is_lost()).count();
        assert_eq!(lost, 2);
        old.into_iter().filter(|one| !one.is_lost()).for_each(|one| answer([one], 200));
        assert_free(&host, limit, "and the others have ended");
        host.assert_no_trap();
    }
}

/// A worker that takes the new block's first place while another one does.
#[test]
fn two_workers_that_come_to_a_new_limit_at_the_same_moment_do_not_pass_it() {
    let document = limited();
    for overtaking in 1..=3 {
        let host = start(&document);
        let held = hold(&host, 4);
        Way::AtOnce.update(&host, &document.set("concurrency.max_requests", json!(5)));
        host.race_before_swap("/concurrency/", move |host| {
            (0..overtaking).for_each(|number| std::mem::forget(host.get(1 + number % 2)));
        });
        let passed = host.get(0).has_passed();
        assert!(!passed, "{overtaking} were faster, and one place was free");
        drop(held);
        host.assert_no_trap();
    }
}

// Throttle.

fn throttled() -> Document {
    Document::new(
        r#""throttle":{"max_rejection":100,"aggression":10,"window":"60s"},
            "breaker":{"consecutive_failures":1000,"failure_rate":0},"fallback":[{"on":["throttled"],"respond":{"status":503,"body":"old"}}]"#,
    )
}

#[test]
fn a_throttle_goes_on_over_changes_elsewhere_and_begins_anew_with_one_of_its_block() {
    let document = throttled();
    let same = [
        ("no fallback", document.without("fallback")),
        ("the breaker", document.set("breaker.open_for", json!("31s"))),
        ("no breaker", document.without("breaker")),
        ("retry", document.set("retry", json!({}))),
        ("another policy before it", document.second()),
    ];
    let anew = [
        ("max_rejection", document.set("throttle.max_rejection", json!(99))),
        ("success_rate", document.set("throttle.success_rate", json!(94))),
        ("window", document.set("throttle.window", json!("59s"))),
        ("outcome", document.set("outcome", json!({"ignore": {"status": [404]}}))),
    ];
    for way in Way::ALL {
        let ways = same.iter().map(|change| (change, true)).chain(anew.iter().map(|change| (change, false)));
        for ((what, changed), goes_on) in ways {
            let what = format!("{what}, {way:?}");
            let host = start(&document);
            (0..600).for_each(|number| drop(host.get(number % 3).with(holdfast_host_tests::Response::status(503))));
            host.advance(millis(100));
            let rejected = 60 - (0..3).map(|worker| passing(&host, worker, 20, 503)).sum::<usize>();
            assert!(rejected >= 45, "{what}: it rejects most before: {rejected} of 60");
            way.update(&host, changed);
            let passed: usize = (0..3).map(|worker| passing(&host, worker, 1, 200)).sum();
            if goes_on {
                let more: usize = (0..3).map(|worker| passing(&host, worker, 10, 503)).sum();
                assert!(
                    passed + more <= 8,
                    "{what}: it goes on from the first request: {passed} and {more} of 33 pass"
                );
            } else {
                assert_eq!(passed, 3, "{what}: it begins anew");
            }
            host.assert_no_trap();
        }
    }
}

// The retry budget.

fn retried() -> Document {
    Document::new(
        r#""retry":{"max_retries":1,"on":["503"],"backoff":{"base":"1ms","max":"1ms"},
            "budget":{"ratio":0,"min_per_second":1,"window":"10s"}},"breaker":{"consecutive_failures":1000,"failure_rate":0}"#,
    )
}

/// Sends a request whose attempts all fail; gives how many there were.
fn attempts(host: &Host, worker: usize) -> usize {
    let request = host.send(worker, Request::get("/"));
    for _ in 0..3 {
        request.attempts().iter().for_each(|attempt| attempt.responds(503));
        host.advance(millis(10));
    }
    assert!(request.is_over());
    request.tries().len()
}

#[test]
fn a_spent_budget_is_spent_over_changes_elsewhere_and_begins_anew_with_one_of_its_block() {
    let document = retried();
    let same = [
        ("the breaker", document.set("breaker.open_for", json!("31s"))),
        ("no breaker", document.without("breaker")),
        ("a fallback", document.set("fallback", json!([{"on": ["failure"], "respond": {"status": 500}}]))),
        ("outlier", document.set("outlier", json!({"consecutive_failures": 1000}))),
        ("outcome", document.set("outcome", json!({"ignore": {"status": [404]}}))),
        ("another policy before it", document.second()),
    ];
    let anew = [
        ("max_retries", document.set("retry.max_retries", json!(2))),
        ("backoff", document.set("retry.backoff.max", json!("2ms"))),
        ("min_per_second", document.set("retry.budget.ratio", json!(1))),
    ];
    for way in Way::ALL {
        let ways = same.iter().map(|change| (change, true)).chain(anew.iter().map(|change| (change, false)));
        for ((what, changed), is_spent) in ways {
            let what = format!("{what}, {way:?}");
            let host = Host::with(&document.text()).workers(3).attempt_seat().start();
            seats_meet(&host);
            let spent: usize = (0..12).map(|number| attempts(&host, number % 3)).sum();
            assert_eq!(spent, 12 + 10, "{what}: there are ten tokens");
            way.update(&host, changed);
            if is_spent {
                for worker in 0..3 {
                    assert_eq!(attempts(&host, worker), 1, "{what}: it is spent on worker {worker}");
                }
                host.advance(seconds(11));
                assert!(attempts(&host, 0) > 1, "{what}: with its window it is full again");
            } else {
                host.advance(millis(20));
                assert!((0..3).map(|worker| attempts(&host, worker)).sum::<usize>() > 3, "{what}: a new budget");
            }
            assert_eq!(count(&host, "shared_data.contention"), 0);
            host.assert_no_trap();
        }
    }
}

#[test]
fn failures_before_a_limit_changes_are_the_breakers_all_the_same() {
    let document = limited().set("breaker.consecutive_failures", json!(3));
    let host = start(&document);
    fail(&host, 0);
    fail(&host, 0);
    Way::AtOnce.update(&host, &document.set("concurrency.max_requests", json!(7)));
    fail(&host, 0);
    assert_eq!(passing(&host, 1, 3, 200), 0, "each block goes its own way");
    host.assert_no_trap();
}
