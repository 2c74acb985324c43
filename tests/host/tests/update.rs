//! New configurations, while requests are under way.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{Host, Request, Response};

use crate::support::{BREAKER, count, fail, millis, passing, policy, seconds, succeed, trip};

#[test]
fn a_policy_that_did_not_change_keeps_its_state_whatever_else_does() {
    let host = Host::with(&policy(BREAKER)).workers(3).start();
    trip(&host, 0);
    let opened = host.breaker();
    // Another policy before it, other spelling, other white space: the same policy all the same.
    let respelled = BREAKER.replace(r#""open_for":"30s""#, r#""open_for" : "30000ms""#);
    let with_another = format!(
        r#"{{"policies":[{{"name":"carts","match":{{"cluster":["carts"]}},"breaker":{{}}}},
            {{"name":"orders","scope":[],{respelled}}}]}}"#
    );
    host.update(&with_another).unwrap();
    for worker in 0..3 {
        assert_eq!(passing(&host, worker, 3, 200), 0, "it is open as before, on worker {worker}");
    }
    assert_eq!(host.breaker(), opened);
    host.advance(seconds(30));
    assert_eq!(passing(&host, 1, 5, 200), 5);
    assert_eq!(host.state(), StateName::Closed);
    for worker in 0..3 {
        assert_eq!(host.roots(worker), 1, "the old configuration is gone");
    }
    host.assert_no_trap();
}

#[test]
fn failures_from_before_an_update_count_after_it() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    fail(&host, 0);
    let under_way = host.get(1).passed();
    host.update(&policy(&format!("{BREAKER} "))).unwrap();
    fail(&host, 0);
    assert_eq!(host.state(), StateName::Closed);
    under_way.respond(Response::status(503));
    assert_eq!(host.state(), StateName::Open, "one before, one after, and one across the update");
    host.assert_no_trap();
}

#[test]
fn a_breaker_that_changes_while_it_is_open_stays_open_and_what_is_under_way_ends_with_the_old_one() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    let mut trace = Trace::new("An open breaker's policy is changed, and requests of the old one are still under way");
    let under_way: Vec<_> = (0..4).map(|number| host.get(number % 2).passed()).collect();
    trip(&host, 0);
    host.advance(seconds(12));
    trace.note(&host, "the policy changes");
    host.update(&policy(&BREAKER.replace(r#""consecutive_failures":3"#, r#""consecutive_failures":4"#))).unwrap();
    assert_eq!((host.roots(0), host.roots(1)), (2, 2), "the old configuration lives while it has requests");
    assert_eq!(passing(&host, 0, 3, 200) + passing(&host, 1, 3, 200), 0, "the new one is open");
    for pending in under_way {
        pending.respond(Response::status(503));
    }
    assert_eq!((host.roots(0), host.roots(1)), (1, 1), "with its last request it is gone");
    trace.note(&host, "four requests of the old policy have failed");
    host.advance(seconds(18));
    assert_eq!(passing(&host, 0, 5, 200), 5, "30 s after it opened it probes");
    for _ in 0..3 {
        fail(&host, 1);
    }
    assert_eq!(passing(&host, 0, 1, 200), 1, "three failures are not enough any more");
    host.advance(millis(20));
    for _ in 0..4 {
        fail(&host, 1);
    }
    assert_eq!(passing(&host, 0, 3, 200), 0, "it opens by its own rule");
    trace.catch_up(&host);
    trace.check("update");
    host.assert_no_trap();
}

/// An operator looks at the gauge to see whether something is open.
#[test]
fn the_gauge_shows_the_state_of_the_policy_that_governs_now() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    assert_eq!(count(&host, "breaker_state"), StateName::Open as u64);
    host.update(&policy(&BREAKER.replace("30s", "31s"))).unwrap();
    assert_eq!(passing(&host, 0, 1, 200) + passing(&host, 1, 1, 200), 0);
    assert_eq!(count(&host, "breaker_state"), StateName::Open as u64, "the changed policy's breaker is open too");
    host.advance(seconds(30));
    assert_eq!(passing(&host, 0, 5, 200), 5);
    succeed(&host, 1);
    assert_eq!(count(&host, "breaker_state"), StateName::Closed as u64, "and closed when its probes are good");
    host.assert_no_trap();
}

#[test]
fn the_gauge_of_a_forced_state_follows_the_document() {
    let forced = |state: &str| policy(&format!(r#""breaker":{{"state":"{state}"}}"#));
    let host = Host::with(&forced("forced_open")).workers(2).start();
    assert_eq!(passing(&host, 0, 3, 200), 0);
    assert_eq!(count(&host, "breaker_state"), StateName::ForcedOpen as u64);
    host.update(&forced("forced_closed")).unwrap();
    assert_eq!(passing(&host, 0, 10, 503), 10, "nothing is judged");
    assert_eq!(count(&host, "breaker_state"), StateName::ForcedClosed as u64);
    host.update(&forced("auto")).unwrap();
    assert_eq!(passing(&host, 0, 3, 200), 3);
    assert_eq!(count(&host, "breaker_state"), StateName::Closed as u64);
    host.update(&forced("forced_open")).unwrap();
    assert_eq!(passing(&host, 0, 3, 200) + passing(&host, 1, 3, 200), 0);
    assert_eq!(count(&host, "breaker_state"), StateName::ForcedOpen as u64);
    host.assert_no_trap();
}

#[test]
fn a_document_that_is_refused_changes_nothing() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    let refused = host.update(&policy(r#""breaker":{"failure_rate":140,"open_fro":"1s"}"#)).unwrap_err();
    let said = refused.lines.join("\n");
    assert!(said.contains("policies[0].breaker.failure_rate: must be within 0..=100, was 140"), "{said}");
    assert!(said.contains("open_fro"), "every error at once: {said}");
    assert_eq!(passing(&host, 1, 3, 200), 0, "the old one governs on");
    assert_eq!(host.roots(0), 1);
    host.assert_no_trap();
}

#[test]
fn a_feature_that_is_turned_off_and_on_again_finds_its_state() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.update(r#"{"policies":[]}"#).unwrap();
    assert_eq!(passing(&host, 0, 5, 503), 5, "without a policy everything passes");
    host.update(&policy(BREAKER)).unwrap();
    assert_eq!(passing(&host, 1, 5, 200), 0, "the same policy again: its record says open, and its period is not over");
    host.assert_no_trap();
}

#[test]
fn two_listeners_with_the_same_policy_share_one_state_and_with_different_ones_none() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    let same = host.add_listener(&format!("{} ", policy(BREAKER))).unwrap();
    let other = host.add_listener(&policy(&BREAKER.replace("30s", "40s"))).unwrap();
    succeed(&host, 0);
    // Each has its own state from its first request on.
    for listener in [same, other] {
        assert!(host.request(1, Request::get("/").on(listener)).with(Response::status(200)).status == 200);
    }
    host.advance(millis(1));
    fail(&host, 0);
    host.request(0, Request::get("/").on(same)).passed().respond(Response::status(503));
    host.request(1, Request::get("/").on(same)).passed().respond(Response::status(503));
    for worker in 0..2 {
        assert!(!host.get(worker).has_passed(), "three failures, on two listeners and two workers");
        assert!(!host.request(worker, Request::get("/").on(same)).has_passed());
        assert!(host.request(worker, Request::get("/").on(other)).has_passed(), "the other policy is closed");
    }
    host.assert_no_trap();
}

#[test]
fn a_vm_that_died_comes_back_with_the_configuration_of_now() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.crash(1);
    host.update(&policy(&BREAKER.replace("30s", "31s"))).unwrap();
    assert_eq!(passing(&host, 1, 3, 200), 0, "an update makes a new VM at once, and that finds what is true");
    assert_eq!(host.roots(1), 1);
    host.advance(seconds(30));
    assert_eq!(passing(&host, 1, 5, 200), 5);
    host.assert_no_trap();
}

#[test]
fn a_hundred_updates_leave_one_configuration_behind() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    for number in 0..100 {
        let under_way = host.get(number % 2).passed();
        host.update(&policy(&BREAKER.replace("30s", &format!("{}s", 31 + number)))).unwrap();
        succeed(&host, 0);
        under_way.respond(Response::status(200));
        assert_eq!((host.roots(0), host.roots(1)), (1, 1));
    }
    host.advance(seconds(10));
    host.assert_no_trap();
}
