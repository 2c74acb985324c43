//! Concurrency, throttle, shadow mode.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{By, Host, Local, Request, Response};

use crate::support::{BREAKER, count, fail, millis, passing, policy, seconds, succeed};

#[test]
fn never_more_than_the_limit_are_in_flight_over_all_workers() {
    let host = Host::with(&policy(r#""concurrency":{"max_requests":7}"#)).workers(4).start();
    let all: Vec<_> = (0..20).map(|number| host.get(number % 4)).collect();
    let (passed, rejected): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.has_passed());
    assert_eq!((passed.len(), rejected.len()), (7, 13));
    for one in rejected {
        let answer = one.answered();
        assert_eq!(answer.header("x-holdfast-reject").as_deref(), Some("concurrency; policy=orders"));
        assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    }
    let mut passed = passed.into_iter().map(|one| one.passed());
    passed.next().unwrap().client_leaves();
    passed.next().unwrap().local(Local::connect_failure());
    passed.next().unwrap().respond(Response::status(500));
    assert_eq!(host.in_flight(), 4, "however a request ends, its place is free");
    host.assert_no_trap();
}

#[test]
fn two_workers_that_take_the_last_place_at_the_same_swap_do_not_both_get_it() {
    let host = Host::with(&policy(r#""concurrency":{"max_requests":3}"#)).workers(2).start();
    succeed(&host, 1);
    let _held: Vec<_> = (0..2).map(|_| host.get(0).passed()).collect();
    host.race_before_swap("/concurrency/", |host| assert!(host.get(1).has_passed(), "the faster one gets it"));
    assert!(!host.get(0).has_passed());
    assert_eq!(host.in_flight(), 3);
    host.assert_no_trap();
}

#[test]
fn a_request_that_lasts_longer_than_the_lease_counts_to_its_end() {
    let host = Host::with(&policy(r#""concurrency":{"max_requests":1}"#)).workers(2).start();
    let long = host.get(0).passed();
    for _ in 0..120 {
        host.advance(seconds(1));
        assert!(!host.get(1).has_passed());
    }
    long.respond(Response::status(200));
    assert!(host.get(1).has_passed());
    host.assert_no_trap();
}

/// Headers alone are not the end: the host is still sending.
#[test]
fn a_response_that_is_still_coming_counts() {
    let host = Host::with(&policy(&format!(r#"{BREAKER},"concurrency":{{"max_requests":1}}"#))).workers(2).start();
    type End = fn(holdfast_host_tests::Streaming) -> holdfast_host_tests::Answer;
    let ends: [End; 4] = [
        |streaming| streaming.ends(),
        |streaming| streaming.trailers(&[("x-checksum", "1")]),
        |streaming| streaming.breaks_off(),
        |streaming| streaming.client_leaves(),
    ];
    for (end, [successes, failures]) in ends.into_iter().zip([[0, 0], [1, 0], [2, 0], [2, 1]]) {
        let streaming = host.get(0).passed().headers(Response::status(200));
        assert_eq!((count(&host, "success"), count(&host, "failure")), (successes, failures), "its outcome is to come");
        assert!(!host.get(1).has_passed() && !host.get(0).has_passed(), "its place is not free");
        end(streaming);
        assert_eq!(host.in_flight(), 0);
    }
    host.assert_no_trap();
}

#[test]
fn a_response_that_is_replaced_gives_its_place_back() {
    let features = r#""concurrency":{"max_requests":1},"fallback":[{"on":["failure"],"respond":{"status":200}}]"#;
    let host = Host::with(&policy(features)).start();
    for _ in 0..5 {
        assert_eq!(host.get(0).passed().respond(Response::status(500)).by, By::Holdfast);
        assert_eq!(host.in_flight(), 0);
        let streaming = host.get(0).passed().headers(Response::status(500));
        assert!(streaming.is_replaced());
        streaming.client_leaves();
        assert_eq!(host.in_flight(), 0);
    }
    host.assert_no_trap();
}

#[test]
fn a_rejection_by_one_feature_gives_back_what_another_had_given() {
    let features = format!(r#"{BREAKER},"concurrency":{{"max_requests":1}}"#);
    let host = Host::with(&policy(&features)).workers(1).start();
    for _ in 0..3 {
        fail(&host, 0);
    }
    host.advance(seconds(30));
    let probe = host.get(0).passed();
    for _ in 0..20 {
        let answer = host.get(0).answered();
        assert_eq!(answer.header("x-holdfast-reject").as_deref(), Some("concurrency; policy=orders"));
    }
    assert_eq!(host.breaker().probes_in_flight(), 1, "their permits came back");
    probe.respond(Response::status(200));
    assert_eq!(passing(&host, 0, 4, 200), 4);
    assert_eq!(host.state(), StateName::Closed);
    host.assert_no_trap();
}

#[test]
fn the_throttle_rejects_the_more_the_less_gets_through() {
    let host =
        Host::with(&policy(r#""throttle":{"window":"30s","success_rate":95,"max_rejection":80}"#)).workers(4).start();
    let share = |host: &Host, failing: usize| {
        // Three windows to settle, then one to measure.
        let mut rejected = 0;
        for round in 0..480 {
            for worker in 0..4 {
                let status = if round % 10 < failing { 503 } else { 200 };
                let answer = host.get(worker).with(Response::status(status));
                rejected += usize::from(round >= 360 && answer.by == By::Holdfast);
            }
            host.advance(millis(250));
        }
        rejected * 100 / 480
    };
    assert_eq!(share(&host, 0), 0, "all is well");
    let half = share(&host, 5);
    assert!((38..58).contains(&half), "half fails: about half of the requests are rejected, {half}%");
    let all = share(&host, 10);
    assert!((72..=84).contains(&all), "all fails: never more than 80 %, {all}%");
    assert_eq!(share(&host, 0), 0, "and it ends when the host is well");
    host.assert_no_trap();
}

#[test]
fn shadow_mode_decides_and_counts_and_changes_nothing() {
    let document = r#"{"policies":[{"name":"orders","scope":[],"mode":"shadow",
        "breaker":{"consecutive_failures":3,"open_jitter":0},"concurrency":{"max_requests":2},
        "throttle":{"window":"10s"},
        "fallback":[{"on":["open","concurrency","throttled","failure","timeout"],"respond":{"status":299}}]}]}"#;
    let host = Host::with(document).workers(2).start();
    let held: Vec<_> = (0..5).map(|number| host.get(number % 2).passed()).collect();
    for round in 0..200 {
        let status = if round < 100 { 503 } else { 200 };
        let answer = host.get(round % 2).passed().respond(Response::status(status));
        assert_eq!((answer.by, answer.status), (By::Upstream, status), "round {round}");
        assert_eq!(answer.header("x-holdfast-fallback"), None);
        host.advance(millis(20));
    }
    host.get(0).passed().local(Local::timeout());
    host.get(0).passed().client_leaves();
    held.into_iter().for_each(|pending| drop(pending.respond(Response::status(200))));
    for would in ["would_reject.open", "would_reject.concurrency", "would_reject.throttled", "would_fallback.static"] {
        assert!(count(&host, would) > 0, "{would}");
    }
    for (name, value) in host.metrics() {
        assert!(!name.contains(".rejected.") && !name.contains(".fallback.") || value == 0, "{name} {value}");
    }
    let opened = host.logged("closed -> open");
    assert!(opened.first().is_some_and(|line| line.starts_with("orders/all (shadow): ")), "{opened:?}");
    assert_eq!(count(&host, "breaker_state"), StateName::Open as u64, "the gauge shows what it would be");
    host.assert_no_trap();
}

/// A breaker in shadow mode finds out when it would be closed again, though what it would reject passes.
#[test]
fn a_breaker_in_shadow_mode_comes_back_from_open() {
    let shadow = BREAKER.replace(r#""open_jitter":0"#, r#""open_jitter":0,"mode":"shadow""#);
    let host = Host::with(&policy(&shadow)).workers(2).start();
    for _ in 0..3 {
        fail(&host, 0);
    }
    assert_eq!(host.state(), StateName::Open);
    for _ in 0..60 {
        succeed(&host, 1);
        host.advance(seconds(1));
    }
    assert_eq!(host.state(), StateName::Closed);
    assert_eq!(count(&host, "would_reject.open"), 30);
    host.assert_no_trap();
}

#[test]
fn tenants_have_their_own_states_and_those_that_were_seen_once_make_room() {
    let document = format!(r#"{{"policies":[{{"name":"orders","scope":[{{"header":"x-tenant"}}],{BREAKER}}}]}}"#)
        .replace(r#""scope":[{"header":"x-tenant"}]"#, r#""scope":[{"header":"x-tenant"}],"max_keys":3"#);
    let host = Host::with(&document).workers(2).start();
    let ask = |worker: usize, tenant: &str| host.request(worker, Request::get("/").header("x-tenant", tenant));
    for tenant in ["a", "b", "c", "d", "e"] {
        ask(0, tenant).passed().respond(Response::status(200));
    }
    host.advance(millis(1));
    for _ in 0..3 {
        ask(0, "a").passed().respond(Response::status(503));
    }
    assert!(!ask(1, "a").has_passed(), "a is open");
    assert!(["b", "c", "d"].iter().all(|tenant| ask(1, tenant).has_passed()), "the others are not");
    for _ in 0..3 {
        ask(1, "d").passed().respond(Response::status(503));
    }
    assert!(!ask(0, "d").has_passed() && !ask(1, "a").has_passed());
    assert!(["e", "b", "f", "g"].iter().all(|tenant| ask(0, tenant).has_passed()), "the others go on");
    assert!(!ask(1, "d").has_passed() && !ask(0, "a").has_passed(), "open breakers keep their places");
    for _ in 0..3 {
        ask(1, "e").passed().respond(Response::status(503));
    }
    host.advance(millis(200));
    assert!(!ask(0, "e").has_passed(), "the third place is its own");
    // All three are worth keeping: what comes now shares a state.
    for _ in 0..3 {
        ask(0, "h").passed().respond(Response::status(503));
    }
    assert!(!ask(0, "i").has_passed(), "h and i share the overflow key");
    host.assert_no_trap();
}

/// Whenever the workers have said what they have used: those that were seen once are worth no more than new ones, and go first.
#[test]
fn tenants_that_come_by_turns_do_not_take_each_others_places() {
    let document =
        format!(r#"{{"policies":[{{"name":"orders","scope":[{{"header":"x-tenant"}}],"max_keys":64,{BREAKER}}}]}}"#);
    for told in [0, 2100, 2900, 5000] {
        let host = Host::with(&document).workers(2).start();
        let ask = |worker: usize, tenant: &str| host.request(worker, Request::get("/").header("x-tenant", tenant));
        for number in 0..80 {
            ask(number % 2, &format!("stray-{number}")).passed().respond(Response::status(200));
        }
        host.advance(millis(told));
        let mut cut_off = 0;
        for number in 0..20 {
            let failing = ask(number % 2, "failing");
            if failing.has_passed() {
                failing.passed().respond(Response::status(500));
            } else {
                cut_off += 1;
            }
            ask(number % 2, "well").passed().respond(Response::status(200));
        }
        assert_eq!(cut_off, 17, "three failures of its own open its breaker, {told} ms after the strays");
        host.assert_no_trap();
    }
}
