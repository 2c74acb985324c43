//! What becomes of hosts when their document changes: who is out, who is probed, who starts slowly.

use std::time::Duration;

use holdfast_host_tests::{Builder, Host, Routed};
use serde_json::json;

use crate::outlier_support::{BAD, FIVE, World, shares, statuses};
use crate::support::{count, millis, seconds};
use crate::update_support::{Change, Document, Way};

/// Three failures in a row eject a host for 30 s. The hosts are listed, so none has to be found.
fn ejecting() -> Document {
    Document::new(
        r#""outlier":{"ejection_jitter":0,"consecutive_failures":3,"hosts":["10.0.0.1:8080","10.0.0.2:8080","10.0.0.3:8080",
            "10.0.0.4:8080","10.0.0.5:8080"]},"breaker":{"consecutive_failures":1000,"failure_rate":0},
            "concurrency":{"max_requests":1000}"#,
    )
}

/// Changes that leave `outlier` alone.
fn beside_the_hosts(of: &Document) -> Vec<Change> {
    vec![
        ("a fallback", of.set("fallback", json!([{"on": ["open"], "respond": {"status": 503}}]))),
        ("retry", of.set("retry", json!({"on": ["504"]}))),
        ("the breaker", of.set("breaker.open_for", json!("31s"))),
        ("no breaker", of.without("breaker")),
        ("concurrency", of.set("concurrency.max_requests", json!(900))),
        ("match", of.set("match", json!({"path": ["/**"]}))),
        ("another policy before it", of.second()),
    ]
}

/// Changes of it that leave alone for how long a host is out and how it is probed.
fn of_the_hosts(of: &Document) -> Vec<Change> {
    vec![
        ("consecutive_failures", of.set("outlier.consecutive_failures", json!(4))),
        ("another detector", of.set("outlier.failure_rate", json!({"threshold": 90}))),
        ("interval", of.set("outlier.interval", json!("5s"))),
        ("max_ejected", of.set("outlier.max_ejected", json!(60))),
        ("panic_threshold", of.set("outlier.panic_threshold", json!(40))),
        ("max_ejection_time", of.set("outlier.max_ejection_time", json!("200s"))),
        ("outcome", of.set("outcome", json!({"ignore": {"status": [404]}}))),
    ]
}

fn start(document: &Document) -> World {
    World::start(&document.text(), 3, &FIVE)
}

/// As [`start`], with one host that fails and has just been ejected. When that was.
fn ejected(document: &Document) -> (World, Duration) {
    ejected_in(start(document))
}

fn ejected_in(world: World) -> (World, Duration) {
    world.traffic(60, millis(20));
    world.hosts.does(BAD, 503);
    world.traffic_until(100, |world| ejections(&world.host) == 1);
    let failed = world.hosts.came().into_iter().rfind(|came| came.host == BAD).expect("it has failed");
    (world, failed.at)
}

fn ejections(host: &Host) -> usize {
    host.logged("ejected for").len()
}

/// Whether Holdfast has named hosts for it.
fn is_steered(request: &&Routed) -> bool {
    request.access_log().is_some_and(|line| line.contains("hosts_out="))
}

fn is_probe(request: &&Routed) -> bool {
    request.access_log().is_some_and(|line| line.contains("probe="))
}

/// So many requests now, on the workers in turn: how many of those that are steered came to the bad host, and how many are its
/// probes.
fn sent(world: &World, requests: usize) -> (usize, usize) {
    let requests = world.traffic(requests, Duration::ZERO);
    let steered = requests.iter().filter(is_steered);
    let to_bad = steered.filter(|one| one.tries().iter().any(|one| one.host == BAD)).count();
    (to_bad, requests.iter().filter(is_probe).count())
}

/// Of so many requests none is sent to it, and hardly any wherever the cluster sends it, to find hosts.
#[track_caller]
fn assert_out(world: &World, requests: usize, what: &str) {
    let requests = world.traffic(requests, Duration::ZERO);
    let (steered, exploring): (Vec<_>, Vec<_>) = requests.into_iter().partition(|one| is_steered(&one));
    assert!(exploring.len() <= 1, "{what}: {} are not steered", exploring.len());
    assert_eq!(shares(&steered).get(BAD), None, "{what}: nobody is sent to it");
    assert_eq!(steered.iter().filter(is_probe).count(), 0, "{what}: no probe");
}

/// Goes on until so long after `from`.
fn until(world: &World, from: Duration, after: Duration) {
    world.host.advance((from + after).checked_sub(world.host.elapsed()).expect("that is still to come"));
}

/// It is out until so long after `from`, to the millisecond, and then it has one probe.
#[track_caller]
fn assert_out_until(world: &World, from: Duration, after: Duration, what: &str) {
    assert_out(world, 30, &format!("{what}: nobody is sent to it"));
    assert_eq!(count(&world.host, "hosts_ejected"), 1, "{what}: the gauge says so");
    until(world, from, after - millis(1));
    assert_out(world, 12, &format!("{what}: a moment before its time is over"));
    world.host.advance(millis(1));
    assert_eq!(sent(world, 12), (1, 1), "{what}: one probe when it is");
}

#[test]
fn a_host_stays_out_for_its_time_whatever_changes() {
    let document = ejecting();
    for way in Way::ALL {
        for (what, changed) in beside_the_hosts(&document).into_iter().chain(of_the_hosts(&document)) {
            let what = format!("{what}, {way:?}");
            let (world, at) = ejected(&document);
            until(&world, at, seconds(10));
            way.update(&world.host, &changed);
            assert_out_until(&world, at, seconds(30), &what);
            world.hosts.is_well(BAD);
            until(&world, at, seconds(90) - millis(1));
            assert_out(&world, 12, &format!("{what}: the probe failed, and the second time is twice as long"));
            world.host.advance(millis(1));
            assert_eq!(sent(&world, 12).1, 1, "{what}");
            assert_eq!(count(&world.host, "hosts_ejected"), 0, "{what}: it is back");
            assert!(shares(&world.traffic(100, millis(20)))[BAD] >= 15, "{what}: with its share");
            assert_eq!(ejections(&world.host), 1, "{what}: it was ejected once, and told once");
            world.assert_clean();
        }
    }
}

#[test]
fn without_an_attempt_seat_it_stays_out_too() {
    let document = ejecting();
    for (what, changed) in beside_the_hosts(&document).into_iter().chain(of_the_hosts(&document)) {
        let (world, at) = ejected_in(World::with(&document.text(), 3, &FIVE, |builder| builder));
        until(&world, at, seconds(10));
        Way::AtOnce.update(&world.host, &changed);
        assert_out_until(&world, at, seconds(30), what);
        world.host.assert_no_trap();
    }
}

#[test]
fn a_new_maximum_shortens_what_is_under_way_and_a_longer_time_does_not_lengthen_it() {
    let document = ejecting();
    let shorter =
        document.set("outlier.base_ejection_time", json!("10s")).set("outlier.max_ejection_time", json!("10s"));
    for way in Way::ALL {
        let (world, at) = ejected(&document);
        until(&world, at, seconds(5));
        way.update(&world.host, &shorter);
        assert_out_until(&world, at, seconds(10), &format!("{way:?}: ten seconds"));
        let (world, at) = ejected(&document);
        until(&world, at, seconds(20));
        way.update(&world.host, &shorter);
        assert_eq!(sent(&world, 12).1, 1, "{way:?}: it is due at once");
        for base in ["5s", "90s"] {
            let (world, at) = ejected(&document);
            until(&world, at, seconds(10));
            way.update(&world.host, &document.set("outlier.base_ejection_time", json!(base)));
            assert_out_until(&world, at, seconds(30), &format!("{way:?}: {base}"));
            world.assert_clean();
        }
    }
}

/// The bad host has its probe and does not answer.
fn probed(document: &Document) -> (World, Duration, Routed) {
    let (world, at) = ejected(document);
    world.hosts.hangs(BAD);
    until(&world, at, seconds(30));
    let mut requests = world.traffic(12, Duration::ZERO);
    requests.retain(|request| is_probe(&request));
    assert_eq!(requests.len(), 1, "it is due");
    (world, at, requests.remove(0))
}

#[test]
fn a_probe_that_is_under_way_is_the_only_one_over_both_documents() {
    let document = ejecting();
    for way in Way::ALL {
        let same = beside_the_hosts(&document).into_iter().map(|change| (change, true));
        for ((what, changed), is_same) in same.chain(of_the_hosts(&document).into_iter().map(|change| (change, false)))
        {
            let what = format!("{what}, {way:?}");
            let (world, at, probe) = probed(&document);
            until(&world, at, seconds(31));
            way.update(&world.host, &changed);
            assert_out(&world, 30, &format!("{what}: the one that is under way is enough"));
            until(&world, at, seconds(40) - millis(1));
            assert_out(&world, 12, &what);
            world.hosts.is_well(BAD);
            probe.attempt().responds(200);
            if is_same {
                sent(&world, 3);
                assert_eq!(count(&world.host, "hosts_ejected"), 0, "{what}: it is judged by it");
            } else {
                assert_out(&world, 12, &format!("{what}: it was the old block's"));
                world.host.advance(millis(1));
                assert_eq!(sent(&world, 12).1, 1, "{what}: with its lease another one is sent");
                assert_eq!(count(&world.host, "hosts_ejected"), 0, "{what}: and it is back");
            }
            assert_eq!(world.host.logged("is back after").len(), 1, "{what}: that is told once");
            assert!(shares(&world.traffic(100, millis(20)))[BAD] >= 15, "{what}: with its share");
            world.assert_clean();
        }
    }
}

#[test]
fn fewer_or_more_probes_do_not_get_a_host_stuck() {
    for (before, after) in [(3, 1), (1, 3), (3, 2)] {
        let document = ejecting().set("outlier.probe", json!({"requests": before}));
        let changed = document.set("outlier.probe", json!({"requests": after}));
        let (world, at) = ejected(&document);
        until(&world, at, seconds(30));
        // One has succeeded, and one is under way.
        world.hosts.is_well(BAD);
        if before > 1 {
            assert_eq!(world.traffic(1, Duration::ZERO).iter().filter(is_probe).count(), 1);
        }
        world.hosts.hangs(BAD);
        assert_eq!(world.traffic(1, Duration::ZERO).iter().filter(is_probe).count(), 1);
        Way::AtOnce.update(&world.host, &changed);
        world.hosts.is_well(BAD);
        let more = sent(&world, 30).1;
        assert!(more < after, "{before} probes became {after}, one is under way, and {more} more are sent");
        world.host.advance(seconds(10));
        sent(&world, 30);
        assert_eq!(count(&world.host, "hosts_ejected"), 0, "{before} probes became {after}: it is back");
        world.assert_clean();
    }
}

#[test]
fn a_host_that_starts_slowly_goes_on_with_the_share_that_it_has() {
    let document = ejecting().set("outlier.slow_start", json!("100s"));
    for way in Way::ALL {
        for (what, changed) in beside_the_hosts(&document).into_iter().chain(of_the_hosts(&document)) {
            let what = format!("{what}, {way:?}");
            let (world, at) = ejected(&document);
            world.hosts.is_well(BAD);
            until(&world, at, seconds(30));
            assert_eq!(sent(&world, 12).1, 1);
            until(&world, at, seconds(80));
            way.update(&world.host, &changed);
            let share = shares(&world.traffic(400, millis(10))).get(BAD).copied().unwrap_or_default();
            assert!((25..=62).contains(&share), "{what}: half of its 80, not {share}");
            until(&world, at, seconds(131));
            let share = shares(&world.traffic(400, millis(10))).get(BAD).copied().unwrap_or_default();
            assert!(share >= 70, "{what}: after 100 s all of its 80: {share}");
            world.assert_clean();
        }
    }
}

#[test]
fn how_often_a_host_was_ejected_is_remembered_after_it_came_back() {
    let document = ejecting();
    for (what, changed) in beside_the_hosts(&document).into_iter().chain(of_the_hosts(&document)) {
        let (world, at) = ejected(&document);
        world.hosts.is_well(BAD);
        until(&world, at, seconds(30));
        assert_eq!(sent(&world, 12).1, 1);
        Way::AtOnce.update(&world.host, &changed);
        world.hosts.does(BAD, 503);
        world.traffic_until(200, |world| ejections(&world.host) == 2);
        assert_eq!(
            world.host.logged("ejected for 60s").len(),
            1,
            "{what}: twice as long: {:?}",
            world.host.logged("host ")
        );
        world.assert_clean();
    }
}

#[test]
fn a_run_of_failures_goes_on_over_changes_elsewhere_and_begins_anew_with_one_of_its_block() {
    let document = ejecting();
    let fail = |world: &World, failures: usize| {
        let before = world.hosts.at(BAD);
        world.traffic_until(100, |world| world.hosts.at(BAD) == before + failures);
    };
    for way in Way::ALL {
        let same = beside_the_hosts(&document).into_iter().map(|change| (change, 1));
        let anew = of_the_hosts(&document).into_iter().filter(|(what, _)| *what != "consecutive_failures");
        for ((what, changed), more) in same.chain(anew.map(|change| (change, 3))) {
            let what = format!("{what}, {way:?}");
            let world = start(&document);
            world.traffic(60, millis(20));
            world.hosts.does(BAD, 503);
            fail(&world, 2);
            assert_eq!(ejections(&world.host), 0);
            way.update(&world.host, &changed);
            fail(&world, more - 1);
            world.host.advance(millis(20));
            assert_eq!(ejections(&world.host), 0, "{what}: {more} more are needed");
            fail(&world, 1);
            // It is told at the next request or tick of who finds it.
            world.host.advance(seconds(2));
            assert_eq!(ejections(&world.host), 1, "{what}");
            world.assert_clean();
        }
    }
}

#[test]
fn a_host_that_no_rule_would_eject_any_more_is_back() {
    let document = ejecting();
    let rate = document.set("outlier.failure_rate", json!({"threshold": 90}));
    for (what, changed) in [
        ("another detector", rate.set("outlier.consecutive_failures", json!(0))),
        (
            "a detector that pretends",
            rate.set("outlier.consecutive_failures", json!({"threshold": 3, "mode": "shadow"})),
        ),
        ("no outlier", document.without("outlier")),
    ] {
        for way in Way::ALL {
            let (world, at) = ejected(&document);
            until(&world, at, seconds(5));
            way.update(&world.host, &changed);
            world.hosts.is_well(BAD);
            let share = shares(&world.traffic(100, millis(20))).get(BAD).copied().unwrap_or_default();
            assert!(share >= 15, "{what}, {way:?}: it has its share, not {share} of 100");
            world.host.advance(seconds(2));
            if way != Way::Drain {
                assert_eq!(count(&world.host, "hosts_ejected"), 0, "{what}, {way:?}: and the gauge says so");
            }
            world.assert_clean();
        }
    }
}

#[test]
fn hosts_that_were_ejected_by_a_feature_that_was_taken_out_for_a_moment_are_still_out() {
    let document = ejecting();
    for way in Way::ALL {
        let (world, at) = ejected(&document);
        until(&world, at, seconds(5));
        way.update(&world.host, &document.without("outlier"));
        world.traffic(20, millis(20));
        world.host.advance(seconds(5));
        way.update(&world.host, &document);
        assert_out(&world, 30, &format!("{way:?}: it is put back"));
        until(&world, at, seconds(30) - millis(1));
        assert_out(&world, 12, &format!("{way:?}"));
        world.host.advance(millis(1));
        assert_eq!(sent(&world, 12).1, 1, "{way:?}: 30 s after it was ejected");
        world.assert_clean();
    }
}

#[test]
fn more_hosts_out_than_the_new_document_allows_stay_out_until_their_time() {
    let document = ejecting();
    let two = &FIVE[..2];
    let world = start(&document);
    world.traffic(60, millis(20));
    two.iter().for_each(|host| world.hosts.does(host, 503));
    world.traffic_until(200, |world| ejections(&world.host) == 2);
    Way::AtOnce.update(&world.host, &document.set("outlier.max_ejected", json!(20)));
    let requests = world.traffic(100, millis(20));
    let steered: Vec<Routed> = requests.into_iter().filter(|one| is_steered(&one)).collect();
    assert_eq!(statuses(&steered).into_keys().collect::<Vec<_>>(), [200], "both are out");
    assert_eq!(count(&world.host, "hosts_ejected"), 2);
    FIVE.iter().for_each(|host| world.hosts.does(host, 503));
    world.traffic(100, millis(20));
    assert_eq!(ejections(&world.host), 2, "and no third one goes");
    world.hosts.are_well();
    world.host.advance(seconds(31));
    world.traffic(60, millis(20));
    assert_eq!(count(&world.host, "hosts_ejected"), 0, "after their time they are back");
    world.assert_clean();
}

// Heartbeats.

fn with_heartbeat(path: &str) -> Document {
    let heartbeat =
        json!({"path": path, "interval": "1s", "timeout": "500ms", "unhealthy_after": 3, "healthy_after": 2});
    ejecting().set("outlier.heartbeat", heartbeat).set("outlier.consecutive_failures", json!(0))
}

/// How many checks each host has had since `from`.
fn checks(world: &World, from: Duration) -> Vec<usize> {
    let checked = world.hosts.checked();
    FIVE.iter().map(|host| checked.iter().filter(|one| one.at > from && one.host == *host).count()).collect()
}

#[test]
fn each_host_is_checked_once_per_interval_before_and_after_a_change() {
    let document = with_heartbeat("/healthz");
    for way in Way::ALL {
        for (what, changed) in [
            ("a fallback", document.set("fallback", json!([{"on": ["open"], "respond": {"status": 503}}]))),
            ("the path", with_heartbeat("/livez")),
        ] {
            let what = format!("{what}, {way:?}");
            let world = World::with(&document.text(), 3, &FIVE, Builder::attempt_seat);
            world.traffic(60, millis(20));
            world.host.advance(seconds(5));
            world.hosts.does(BAD, 503);
            world.host.advance(seconds(6));
            sent(&world, 6);
            assert_eq!(count(&world.host, "hosts_ejected"), 1, "{what}: its checks fail");
            let from = world.host.elapsed();
            world.host.advance(seconds(10));
            assert!(
                checks(&world, from).iter().all(|checks| (9..=11).contains(checks)),
                "{what}: {:?}",
                checks(&world, from)
            );
            way.update(&world.host, &changed);
            assert_out(&world, 30, &format!("{what}: it is out as before"));
            let from = world.host.elapsed();
            world.host.advance(seconds(10));
            let checks = checks(&world, from);
            // A document that drains has checks of its own where they are others.
            let most = if way == Way::Drain && what.starts_with("the path") { 22 } else { 12 };
            assert!(checks.iter().all(|checks| (8..=most).contains(checks)), "{what}: {checks:?}");
            assert_out(&world, 30, &format!("{what}: it goes on failing"));
            assert_eq!(count(&world.host, "hosts_ejected"), 1, "{what}");
            world.hosts.is_well(BAD);
            world.host.advance(seconds(5));
            sent(&world, 6);
            assert_eq!(count(&world.host, "hosts_ejected"), 0, "{what}: two good checks bring it back");
            world.assert_clean();
        }
    }
}
