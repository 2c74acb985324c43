//! What becomes of a breaker when its document changes: every kind of change against every state, to the millisecond.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Host, Response};
use serde_json::json;

use crate::support::{BREAKER, count, fail, millis, passing, seconds, succeed};
use crate::update_support::{
    Change, Document, Way, all_that_pass, answer, beside_the_breaker, of_the_breaker, with_everything,
};

/// Three workers with a breaker that has just opened.
fn open(document: &Document) -> Host {
    let host = Host::with(&document.text()).workers(3).start();
    (0..3).for_each(|_| drop(fail(&host, 0)));
    assert!(!host.get(1).has_passed(), "it is open");
    host
}

/// As [`open`], and its open period of 30 s is over.
fn due(document: &Document) -> Host {
    let host = open(document);
    host.advance(seconds(30));
    host
}

fn every_change(of: &Document) -> Vec<Change> {
    beside_the_breaker(of).into_iter().chain(of_the_breaker(of)).collect()
}

#[track_caller]
fn assert_gauge(host: &Host, state: StateName, what: &str) {
    assert_eq!(count(host, "breaker_state"), state as u64, "{what}: the gauge says {state}");
}

/// No worker lets anything pass.
#[track_caller]
fn assert_open(host: &Host, what: &str) {
    for worker in 0..host.workers() {
        assert_eq!(passing(host, worker, 2, 200), 0, "{what}: nothing passes on worker {worker}");
    }
}

#[test]
fn an_open_breaker_stays_open_for_its_time_whatever_changes() {
    let document = with_everything(BREAKER);
    for way in Way::ALL {
        for (what, changed) in every_change(&document) {
            let what = format!("{what}, {way:?}");
            let host = open(&document);
            host.advance(seconds(10));
            way.update(&host, &changed);
            for worker in 0..3 {
                let answer = host.get(worker).with(Response::status(200));
                assert!(answer.is_holdfasts(), "{what}: worker {worker} lets nothing pass at its first request");
                let wait = answer.header("retry-after");
                assert_eq!(wait.as_deref().unwrap_or("20"), "20", "{what}: it knows how long");
            }
            assert_gauge(&host, StateName::Open, &what);
            host.advance(seconds(20) - millis(1));
            assert_open(&host, &what);
            host.advance(millis(1));
            let probes = all_that_pass(&host, 3);
            assert_eq!(probes.len(), 5, "{what}: not a moment longer");
            assert_gauge(&host, StateName::HalfOpen, &what);
            answer(probes, 200);
            assert_eq!(passing(&host, 2, 20, 200), 20, "{what}: and it closes");
            assert_gauge(&host, StateName::Closed, &what);
            host.assert_no_trap();
        }
    }
}

#[test]
fn features_that_come_leave_an_open_breaker_alone_as_those_that_go() {
    let document = with_everything(BREAKER);
    for (what, before) in beside_the_breaker(&document) {
        let host = open(&before);
        host.advance(seconds(10));
        Way::AtOnce.update(&host, &document);
        assert_open(&host, what);
        host.advance(seconds(20) - millis(1));
        assert_open(&host, what);
        host.advance(millis(1));
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}, undone");
        host.assert_no_trap();
    }
}

#[test]
fn a_new_maximum_shortens_what_is_under_way_and_a_longer_period_does_not_lengthen_it() {
    let document = with_everything(BREAKER);
    let shorter = document.set("breaker.open_for", json!("10s")).set("breaker.open_max", json!("10s"));
    for way in Way::ALL {
        // Five seconds of at most ten are over.
        let host = open(&document);
        host.advance(seconds(5));
        way.update(&host, &shorter);
        assert_open(&host, "5 s after it opened");
        host.advance(seconds(5) - millis(1));
        assert_open(&host, "a moment before");
        host.advance(millis(1));
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{way:?}: ten seconds after it opened");
        // More than the new maximum is over.
        let host = open(&document);
        host.advance(seconds(20));
        way.update(&host, &shorter);
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{way:?}: it probes at once");
        // A period that is shorter or longer is that of the next opening.
        for open_for in ["5s", "90s"] {
            let host = open(&document);
            host.advance(seconds(10));
            way.update(&host, &document.set("breaker.open_for", json!(open_for)));
            host.advance(seconds(20) - millis(1));
            assert_open(&host, open_for);
            host.advance(millis(1));
            assert_eq!(all_that_pass(&host, 3).len(), 5, "{way:?}, {open_for}");
            host.assert_no_trap();
        }
    }
}

#[test]
fn a_clients_wait_that_lengthened_the_period_holds_over_a_change() {
    let document = with_everything(BREAKER);
    for (what, changed) in every_change(&document) {
        let host = Host::with(&document.text()).workers(3).start();
        fail(&host, 0);
        fail(&host, 0);
        host.get(0).passed().respond(Response::status(503).header("retry-after", "100"));
        host.advance(seconds(10));
        Way::AtOnce.update(&host, &changed);
        host.advance(seconds(90) - millis(1));
        assert_open(&host, what);
        host.advance(millis(1));
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}: the host has asked for 100 s");
    }
}

#[test]
fn of_half_opens_probes_there_is_never_one_more_over_both_documents() {
    let document = with_everything(BREAKER);
    for way in Way::ALL {
        for (what, changed) in every_change(&document) {
            for held in [1, 4, 5] {
                let what = format!("{what}, {way:?}, {held} are out");
                let host = due(&document);
                let old: Vec<_> = (0..held).map(|number| host.get(number % 3).passed()).collect();
                way.update(&host, &changed);
                let new = all_that_pass(&host, 3);
                assert_eq!(new.len(), 5 - held, "{what}");
                assert_gauge(&host, StateName::HalfOpen, &what);
                drop((old, new));
                host.assert_no_trap();
            }
        }
    }
}

#[test]
fn probes_that_were_sent_before_a_change_elsewhere_are_judged_with_those_after_it() {
    let document = with_everything(BREAKER);
    for (what, changed) in beside_the_breaker(&document) {
        for statuses in [[200, 200], [503, 503]] {
            let host = due(&document);
            let old: Vec<_> = (0..2).map(|number| host.get(number).passed()).collect();
            Way::AtOnce.update(&host, &changed);
            let mut new = all_that_pass(&host, 3);
            assert_eq!(new.len(), 3);
            for (probe, status) in old.into_iter().zip(statuses) {
                answer([probe], status);
            }
            if statuses == [200, 200] {
                answer(new, 200);
                assert_eq!(passing(&host, 1, 10, 200), 10, "{what}: five good answers close it");
            } else {
                answer([new.remove(0)], 503);
                assert_gauge(&host, StateName::Open, &format!("{what}: three in a row fail"));
            }
            host.assert_no_trap();
        }
    }
}

#[test]
fn probes_of_the_block_before_say_nothing_to_the_one_after_it_and_their_permits_lapse() {
    let document = with_everything(BREAKER);
    for way in Way::ALL {
        for (what, changed) in of_the_breaker(&document) {
            let what = format!("{what}, {way:?}");
            let host = due(&document);
            host.advance(millis(100));
            let old: Vec<_> = (0..3).map(|number| host.get(number).passed()).collect();
            host.advance(seconds(2));
            way.update(&host, &changed);
            let new = all_that_pass(&host, 3);
            assert_eq!(new.len(), 2, "{what}");
            // Three failures in a row, if they were its own.
            answer(old, 503);
            assert_gauge(&host, StateName::HalfOpen, &what);
            answer(new, 200);
            assert_gauge(&host, StateName::HalfOpen, &format!("{what}: two of five are not enough"));
            assert_open(&host, &what);
            host.advance(seconds(8) - millis(1));
            assert_open(&host, &what);
            host.advance(millis(1));
            let rest = all_that_pass(&host, 3);
            assert_eq!(rest.len(), 3, "{what}: ten seconds after they were taken");
            answer(rest, 200);
            assert_eq!(passing(&host, 0, 10, 200), 10, "{what}: and it closes");
            assert_gauge(&host, StateName::Closed, &what);
            host.assert_no_trap();
        }
    }
}

#[test]
fn fewer_probes_and_a_shorter_lease_do_not_get_it_stuck_and_more_probes_are_sent_at_once() {
    let document = with_everything(BREAKER);
    let half_open =
        |probes: u64, lease: &str| document.set("breaker.half_open", json!({"probes": probes, "lease": lease}));
    // Five are out. Of a document with fewer probes none passes before they lapse.
    for (probes, lease, lapse) in [(1, "10s", 10), (2, "3s", 3), (5, "1s", 1), (3, "60s", 10)] {
        let host = due(&document);
        let old = all_that_pass(&host, 3);
        assert_eq!(old.len(), 5);
        Way::AtOnce.update(&host, &half_open(probes, lease));
        let what = format!("{probes} probes with {lease}");
        assert_open(&host, &what);
        host.advance(seconds(lapse) - millis(1));
        assert_open(&host, &what);
        host.advance(millis(1));
        let new = all_that_pass(&host, 3);
        assert_eq!(new.len() as u64, probes, "{what}");
        answer(new, 200);
        assert_eq!(passing(&host, 0, 10, 200), 10, "{what}: and it closes");
        answer(old, 503);
        assert_gauge(&host, StateName::Closed, &what);
        host.assert_no_trap();
    }
    let host = due(&document);
    let old = all_that_pass(&host, 3);
    Way::AtOnce.update(&host, &half_open(8, "10s"));
    assert_eq!(all_that_pass(&host, 4).len(), 3, "five of eight are out");
    drop(old);
}

#[test]
fn a_ramp_goes_on_where_it_is() {
    let document = with_everything(&BREAKER.replace(r#""open_jitter":0"#, r#""open_jitter":0,"ramp":"100s""#));
    for way in Way::ALL {
        for (what, changed) in every_change(&document) {
            let what = format!("{what}, {way:?}");
            let host = due(&document);
            answer(all_that_pass(&host, 3), 200);
            host.advance(seconds(70));
            way.update(&host, &changed);
            let passed: usize = (0..3).map(|worker| passing(&host, worker, 100, 200)).sum();
            assert!((170..250).contains(&passed), "{what}: about 70 of 100 pass, not {passed} of 300");
            assert_gauge(&host, StateName::Ramping, &what);
            host.advance(seconds(30) - millis(1));
            passing(&host, 0, 1, 200);
            assert_gauge(&host, StateName::Ramping, &what);
            host.advance(millis(1));
            for worker in 0..3 {
                assert_eq!(passing(&host, worker, 30, 200), 30, "{what}: after 100 s everything passes");
            }
            assert_gauge(&host, StateName::Closed, &what);
            host.assert_no_trap();
        }
    }
}

#[test]
fn a_ramp_that_is_taken_out_or_changed_while_it_goes_on_ends_as_the_new_one_says() {
    let document = with_everything(&BREAKER.replace(r#""open_jitter":0"#, r#""open_jitter":0,"ramp":"100s""#));
    for (ramp, after) in [("0s", 0), ("10s", 0), ("60s", 10)] {
        let host = due(&document);
        answer(all_that_pass(&host, 3), 200);
        host.advance(seconds(50));
        Way::AtOnce.update(&host, &document.set("breaker.ramp", json!(ramp)));
        host.advance(seconds(after));
        assert_eq!(passing(&host, 1, 50, 200), 50, "{ramp}: it is over");
        assert_gauge(&host, StateName::Closed, ramp);
    }
}

#[test]
fn how_often_it_has_opened_is_remembered_over_a_change() {
    let document = with_everything(BREAKER);
    for (what, changed) in every_change(&document) {
        if ["open_for", "open_growth", "open_jitter"].contains(&what) {
            continue;
        }
        let host = open(&document);
        host.advance(seconds(10));
        Way::AtOnce.update(&host, &changed);
        host.advance(seconds(20));
        answer(all_that_pass(&host, 3), 503);
        host.advance(seconds(60) - millis(1));
        assert_open(&host, what);
        host.advance(millis(1));
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}: the second time it is open for twice as long");
        host.assert_no_trap();
    }
}

#[test]
fn a_window_goes_on_over_changes_elsewhere_and_begins_anew_with_one_of_its_block() {
    let document = with_everything(BREAKER);
    for way in Way::ALL {
        for (what, changed) in beside_the_breaker(&document) {
            let host = Host::with(&document.text()).workers(3).start();
            fail(&host, 1);
            fail(&host, 1);
            way.update(&host, &changed);
            fail(&host, 1);
            assert_gauge(&host, StateName::Open, &format!("{what}, {way:?}: two before and one after"));
        }
        for (what, changed) in of_the_breaker(&document) {
            let host = Host::with(&document.text()).workers(3).start();
            let under_way: Vec<_> = (0..5).map(|_| host.get(1).passed()).collect();
            fail(&host, 1);
            fail(&host, 1);
            way.update(&host, &changed);
            fail(&host, 1);
            answer(under_way, 503);
            fail(&host, 1);
            assert_gauge(&host, StateName::Closed, &format!("{what}, {way:?}: those before are none of its own"));
            passing(&host, 1, 2, 503);
            assert_gauge(&host, StateName::Open, &format!("{what}, {way:?}: it opens by its own rule"));
            host.assert_no_trap();
        }
    }
}

// Forced states.

fn forced(document: &Document, state: &str) -> Document {
    document.set("breaker.state", json!(state))
}

/// A breaker that is closed, and one that is open; for how long it is forced to something else, so that the block from before
/// lives on meanwhile or does not; and what comes then: the document from before, or another one with the same breaker.
fn closed_and_open(document: &Document) -> Vec<(&'static str, Host, u64, Document)> {
    let closed = || Host::with(&document.text()).workers(3).start();
    let backs = [document.clone(), document.set("retry.max_retries", json!(3))];
    let pauses = [2, 20].into_iter().flat_map(|pause| backs.clone().map(|back| (pause, back)));
    let both = |(pause, back): (u64, Document)| {
        [("closed", closed(), pause, back.clone()), ("open", open(document), pause, back)]
    };
    pauses.flat_map(both).collect()
}

#[test]
fn after_forced_open_it_probes_whatever_it_was_before() {
    let document = with_everything(BREAKER);
    for way in Way::ALL {
        for (before, host, pause, back) in closed_and_open(&document) {
            if way == Way::Drain && back.text() == document.text() {
                // That one is still there.
                continue;
            }
            let what = format!("before it was {before}, {way:?}, for {pause} s");
            way.update(&host, &forced(&document, "forced_open"));
            assert_open(&host, &what);
            assert_gauge(&host, StateName::ForcedOpen, &what);
            way.update(&host, &forced(&document.without("retry"), "forced_open"));
            assert_open(&host, &what);
            host.advance(seconds(pause));
            assert_open(&host, &what);
            assert_gauge(&host, StateName::ForcedOpen, &what);
            way.update(&host, &back);
            let probes = all_that_pass(&host, 3);
            assert_eq!(probes.len(), 5, "{what}");
            assert_gauge(&host, StateName::HalfOpen, &what);
            answer(probes, 200);
            assert_eq!(passing(&host, 1, 10, 200), 10, "and it closes");
            assert_gauge(&host, StateName::Closed, &what);
            host.assert_no_trap();
        }
    }
}

#[test]
fn after_forced_closed_it_is_closed_and_counts_from_then_on() {
    let document = with_everything(BREAKER);
    for way in Way::ALL {
        for (before, host, pause, back) in closed_and_open(&document) {
            if way == Way::Drain && back.text() == document.text() {
                // That one is still there.
                continue;
            }
            let what = format!("before it was {before}, {way:?}, for {pause} s");
            way.update(&host, &forced(&document, "forced_closed"));
            for worker in 0..3 {
                assert_eq!(passing(&host, worker, 20, 503), 20, "{what}: nothing is judged");
            }
            assert_gauge(&host, StateName::ForcedClosed, &what);
            host.advance(seconds(pause));
            assert_eq!(passing(&host, 0, 2, 503), 2, "{what}");
            let late = host.get(0).passed();
            way.update(&host, &back);
            fail(&host, 0);
            answer([late], 503);
            fail(&host, 0);
            assert_gauge(&host, StateName::Closed, &format!("{what}: two failures of its own"));
            fail(&host, 0);
            assert_gauge(&host, StateName::Open, &what);
            host.advance(seconds(30) - millis(1));
            assert_open(&host, &format!("{what}: it is its first opening"));
            host.advance(millis(1));
            assert_eq!(all_that_pass(&host, 3).len(), 5, "{what}");
            host.assert_no_trap();
        }
    }
}

/// A document that still drains is used again when it is put back, and nobody tells it: it goes on where it was.
#[test]
fn a_document_that_drains_while_another_one_is_forced_goes_on_where_it_was_when_it_is_put_back() {
    let document = with_everything(BREAKER);
    let host = open(&document);
    host.advance(seconds(10));
    Way::Drain.update(&host, &forced(&document, "forced_closed"));
    host.advance(seconds(10));
    assert_eq!((0..3).map(|worker| passing(&host, worker, 3, 200)).sum::<usize>(), 9);
    Way::Drain.update(&host, &document);
    assert_open(&host, "20 s after it opened");
    host.advance(seconds(10));
    assert_eq!(all_that_pass(&host, 3).len(), 5, "30 s after it opened");
    host.assert_no_trap();
}

// Taken out and put back.

fn without_breaker(document: &Document) -> Document {
    document.without("breaker").without("fallback")
}

#[test]
fn a_breaker_that_is_taken_out_tells_nothing_and_one_that_is_put_back_soon_finds_its_state() {
    let document = with_everything(BREAKER);
    let (none, renamed) = (without_breaker(&document), document.set("name", json!("renamed")));
    for way in Way::ALL {
        for (what, without) in [("no breaker", &none), ("another name", &renamed)] {
            let host = open(&document);
            assert_gauge(&host, StateName::Open, what);
            way.update(&host, without);
            for worker in 0..3 {
                assert_eq!(passing(&host, worker, 5, 200), 5, "{what}, {way:?}: nothing holds it up");
            }
            host.advance(seconds(2));
            if way != Way::Drain {
                assert_gauge(&host, StateName::Closed, &format!("{what}, {way:?}: of none there is nothing to tell"));
            }
            host.advance(seconds(5));
            way.update(&host, &document);
            assert_open(&host, &format!("{what}, {way:?}: put back"));
            if way != Way::Drain {
                assert_gauge(&host, StateName::Open, what);
            }
            host.assert_no_trap();
        }
    }
}

#[test]
fn a_breaker_that_was_gone_for_long_begins_afresh() {
    let document = with_everything(BREAKER).set("breaker.open_for", json!("5m"));
    let host = open(&document);
    Way::AtOnce.update(&host, &without_breaker(&document));
    host.advance(seconds(60));
    assert_gauge(&host, StateName::Closed, "it is gone");
    Way::AtOnce.update(&host, &document);
    assert_eq!((0..3).map(|worker| passing(&host, worker, 2, 200)).sum::<usize>(), 6, "what was known is a minute old");
    assert_gauge(&host, StateName::Closed, "and closed");
    host.advance(millis(20));
    (0..3).for_each(|_| drop(fail(&host, 0)));
    assert_gauge(&host, StateName::Open, "and it works");
    host.assert_no_trap();
}

/// As after a pause of all workers, nobody had its name meanwhile.
#[test]
fn a_policy_that_was_gone_for_a_minute_finds_what_is_left_of_it() {
    let document = with_everything(BREAKER).set("breaker.open_for", json!("5m"));
    let host = open(&document);
    host.update(r#"{"policies":[]}"#).unwrap();
    host.advance(seconds(2));
    assert_gauge(&host, StateName::Closed, "it is gone");
    host.advance(seconds(58));
    Way::AtOnce.update(&host, &document);
    assert_open(&host, "put back");
    assert_gauge(&host, StateName::Open, "put back");
    host.advance(seconds(240));
    assert_eq!(all_that_pass(&host, 3).len(), 5, "five minutes after it opened");
    host.assert_no_trap();
}

#[test]
fn a_policy_that_is_renamed_begins_afresh() {
    let document = with_everything(BREAKER);
    let host = open(&document);
    Way::AtOnce.update(&host, &document.set("name", json!("renamed")));
    for worker in 0..3 {
        succeed(&host, worker);
    }
    assert_eq!(host.metric_of("renamed", "all", "breaker_state"), StateName::Closed as u64);
    (0..3).for_each(|_| drop(fail(&host, 2)));
    assert_eq!(host.metric_of("renamed", "all", "breaker_state"), StateName::Open as u64);
    host.assert_no_trap();
}

// Shadow.

#[test]
fn a_breaker_that_only_pretends_for_a_while_is_open_as_before_when_it_acts_again() {
    let document = with_everything(BREAKER);
    let shadow = document.set("breaker.mode", json!("shadow"));
    for way in Way::ALL {
        let host = open(&document);
        host.advance(seconds(5));
        way.update(&host, &shadow);
        for worker in 0..3 {
            assert_eq!(passing(&host, worker, 3, 200), 3, "{way:?}: it only pretends");
        }
        assert_eq!(count(&host, "would_reject.open"), 9, "and says so");
        assert_gauge(&host, StateName::Open, "in shadow mode");
        host.advance(seconds(5));
        way.update(&host, &document);
        assert_open(&host, "it acts again");
        host.advance(seconds(20) - millis(1));
        assert_open(&host, "it acts again");
        host.advance(millis(1));
        assert_eq!(all_that_pass(&host, 3).len(), 5, "{way:?}: 30 s after it opened");
        host.assert_no_trap();
    }
}
