//! A host turns bad, and what becomes of it: timelines with what an operator reads and counts, as committed traces.

use std::time::Duration;

use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{Builder, Reaction, Request, Reset, Response, Route, Routed};

use crate::outlier_support::{BAD, FIVE, World, ejecting, ejecting_and, shares, statuses};
use crate::support::{BREAKER, HOUR, millis, seconds};

/// Without jitter, so that the times in the traces are those of the policy.
const EXACT: &str = r#""ejection_jitter":0"#;

fn exact(keys: &str) -> String {
    let comma = if keys.is_empty() { "" } else { "," };
    ejecting(&format!("{EXACT}{comma}{keys}"))
}

/// Whether the router was told where to go with it.
fn is_steered(request: &Routed) -> bool {
    request.access_log().is_some_and(|line| line.contains("hosts_out="))
}

/// How many requests went wherever the cluster sends them.
fn exploring(requests: &[Routed]) -> usize {
    requests.iter().filter(|request| !is_steered(request)).count()
}

/// Every worker knows the hosts.
fn warm(world: &World) {
    world.traffic(100, millis(20));
}

// One bad host.

#[test]
fn a_bad_host_is_out_in_time_and_comes_back_by_a_probe() {
    let world = World::start(&exact(r#""slow_start":"10s""#), 4, &FIVE);
    let mut trace =
        Trace::new("One of five hosts turns bad, fails its probe, and heals: four workers, 50 requests a second");
    warm(&world);
    world.hosts.does(BAD, 503);
    trace.note(&world.host, format_args!("{BAD} turns bad"));
    let until = world.traffic_until(200, |world| world.out() == [BAD]);
    assert!(until <= 5 * 5 + 4, "five failures in a row: {until} requests");
    let before = world.hosts.at(BAD);
    let out = world.traffic_for(seconds(29));
    assert!(exploring(&out) <= 6, "one in five seconds goes wherever the cluster sends it, to find hosts");
    let steered: Vec<_> = out.into_iter().filter(is_steered).collect();
    assert_eq!(statuses(&steered).into_keys().collect::<Vec<_>>(), [200], "nobody else notices");
    let shares = shares(&steered);
    let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
    assert!(shares.len() == 4 && most - least <= most / 10, "the others have equal shares: {shares:?}");
    assert_eq!(shares.get(BAD), None, "it gets none of them");
    trace.note(
        &world.host,
        format_args!("29 s later {} more have come to it, of those that look for hosts", world.hosts.at(BAD) - before),
    );
    let mut probed = world.traffic_for(seconds(30));
    probed.retain(is_steered);
    assert_eq!(statuses(&probed).get(&503), Some(&1), "one request was its probe");
    world.hosts.is_well(BAD);
    trace.note(&world.host, format_args!("{BAD} is well again"));
    world.traffic_until(50 * 62, |world| world.out().is_empty());
    for second in 0..12 {
        let before = world.hosts.at(BAD);
        world.traffic_for(seconds(1));
        trace.note(
            &world.host,
            format_args!("second {}: {} of 50 requests went there", second + 1, world.hosts.at(BAD) - before),
        );
    }
    world.note_metrics(&mut trace);
    trace.check("outlier_eject");
    world.assert_clean();
}

#[test]
fn failures_that_retries_hide_eject_it_too() {
    let retry =
        r#""retry":{"backoff":{"base":"1ms","max":"1ms","jitter":"none"},"budget":{"ratio":100,"min_per_second":100}}"#;
    let world = World::start(&ejecting_and(EXACT, retry), 4, &FIVE);
    let mut trace =
        Trace::new("The same with retries: no client sees a failure, and a probe that fails is tried again elsewhere");
    let mut seen = world.traffic(100, millis(20));
    world.hosts.does(BAD, 503);
    seen.extend(world.traffic_for(seconds(100)));
    world.hosts.is_well(BAD);
    seen.extend(world.traffic_for(seconds(100)));
    world.host.advance(millis(100));
    assert_eq!(statuses(&seen).into_keys().collect::<Vec<_>>(), [200], "no client sees a failure");
    assert_eq!(world.out(), [""; 0]);
    let probe = seen.iter().filter_map(|request| request.answer().access_log).find(|line| line.contains("probe="));
    trace.catch_up(&world.host);
    trace.line(format_args!("the access log of the first probe: {}", probe.unwrap()));
    world.note_metrics(&mut trace);
    trace.check("outlier_retry");
    world.assert_clean();
}

#[test]
fn without_an_attempt_seat_the_last_attempts_host_is_judged_and_hosts_can_read_the_names_of_others() {
    let world = World::with(&exact(r#""base_ejection_time":"10s""#), 2, &FIVE, |builder| builder);
    let mut trace = Trace::new("The same without an attempt seat, which would take the header off again");
    warm(&world);
    world.hosts.does(BAD, 503);
    world.traffic_for(seconds(15));
    world.hosts.is_well(BAD);
    world.traffic_for(seconds(30));
    assert_eq!(world.out(), [""; 0], "it is let back by its own traffic");
    trace.catch_up(&world.host);
    world.note_metrics(&mut trace);
    let marked = world.hosts.came().iter().filter(|came| came.is_marked).count();
    trace.line(format_args!("{marked} requests came to a host with the names of hosts"));
    trace.check("outlier_without_attempt_seat");
    world.host.assert_no_trap();
}

#[test]
fn in_shadow_mode_all_is_told_and_nothing_changes() {
    let world = World::start(
        &exact(r#""mode":"shadow","failure_rate":{"min_requests":20,"min_hosts":3,"threshold":90}"#),
        4,
        &FIVE,
    );
    let mut trace = Trace::new("The same host, and detectors that only pretend");
    warm(&world);
    world.hosts.does(BAD, 503);
    let requests = world.traffic_for(seconds(30));
    let share = shares(&requests)[BAD];
    assert!(share.abs_diff(requests.len() / 5) <= 4, "it has its full share: {share} of {}", requests.len());
    assert_eq!(world.out(), [""; 0]);
    world.note_metrics(&mut trace);
    trace.check("outlier_shadow");
    world.assert_clean();
}

// Many bad hosts.

#[test]
fn when_all_turn_bad_as_many_are_out_as_may_be_and_below_the_panic_threshold_all_get_traffic() {
    let mut trace = Trace::new("All of five hosts turn bad");
    for (what, keys, most) in [
        ("at most 50 percent may be out", "", 2),
        ("all may be out", r#","max_ejected":100"#, 5),
        ("all may be out, and there is no panic", r#","max_ejected":100,"panic_threshold":0"#, 5),
        ("none may be out", r#","max_ejected":0,"always_eject_one":false"#, 0),
        ("none but one may be out", r#","max_ejected":0"#, 1),
    ] {
        let world = World::start(&exact(&format!(r#""base_ejection_time":"10s"{keys}"#)), 4, &FIVE);
        warm(&world);
        FIVE.iter().for_each(|host| world.hosts.does(host, 503));
        let (mut seen, mut steered) = (0, 0);
        let began = world.host.elapsed();
        while world.host.elapsed() < began + seconds(9) {
            let request = world.get();
            steered += usize::from(request.access_log().is_some_and(|line| line.contains("hosts_out")));
            world.host.advance(millis(20));
            let out = world.out().len();
            assert!(out <= most, "{what}: {out}");
            seen = seen.max(out);
        }
        assert_eq!(seen, most, "{what}");
        let late = world.traffic_for(seconds(1));
        let served = shares(&late).len();
        trace.note(
            &world.host,
            format_args!("{what}: {seen} are out, {served} of 5 get traffic, {steered} requests were steered"),
        );
        world.note_metrics(&mut trace);
        world.hosts.are_well();
        let took = world.traffic_until(50 * 120, |world| world.out().is_empty());
        trace.line(format_args!("  {} s after they are well all are back", took / 50));
        world.traffic_for(seconds(1));
        world.assert_clean();
        let share = shares(&world.traffic(100, millis(20)));
        assert!(share.len() == 5 && share.values().all(|count| (15..=25).contains(count)), "{what}: {share:?}");
    }
    trace.check("outlier_limits");
}

// Slow hosts.

#[test]
fn a_slow_host_is_out_after_one_sweep_and_hosts_that_are_all_slow_are_kept() {
    let mut trace = Trace::new("A host 24 times slower than its peers; five seconds between sweeps");
    let keys = r#""consecutive_failures":0,"latency":{"min_requests":20},"interval":"5s""#;
    for workers in [2, 16] {
        let world = World::start(&exact(keys), workers, &FIVE);
        world.hosts.take(millis(5));
        world.traffic_for(seconds(6));
        world.hosts.does(BAD, Reaction::from(200).after(millis(120)));
        let began = world.host.elapsed();
        world.traffic_until(50 * 12, |world| world.out() == [BAD]);
        let took = world.host.elapsed() - began;
        assert!(took <= seconds(2 * 5 + 2), "one whole interval with it, and the sweep: {took:?}");
        trace.note(&world.host, format_args!("{workers} workers: out {took:?} after it turned slow"));
        world.note_metrics(&mut trace);
        // It is still slow after its time: its probe succeeds, and the next sweep finds it again.
        world.traffic_for(seconds(45));
        world.note_metrics(&mut trace);
        world.assert_clean();
    }
    for all in [millis(1), millis(120), seconds(2)] {
        let world = World::start(&exact(keys), 4, &FIVE);
        world.hosts.take(all);
        world.traffic_for(seconds(30));
        assert_eq!(world.count("ejections_detected.latency"), 0, "all take {all:?}");
        world.hosts.does(BAD, Reaction::from(200).after(all * 2));
        world.traffic_for(seconds(30));
        assert_eq!(world.count("ejections_detected.latency"), 0, "twice as slow is not three times");
        world.assert_clean();
    }
    trace.check("outlier_slow");
}

#[test]
fn rates_find_what_never_fails_five_times_in_a_row() {
    let mut trace = Trace::new("A host that fails often and never in a row: every other request, and nine in ten");
    for (what, keys) in [
        ("failure_rate", r#""failure_rate":{"threshold":45,"min_requests":20},"interval":"5s""#),
        ("success_rate", r#""success_rate":{"min_requests":20},"interval":"5s""#),
    ] {
        let world = World::start(&exact(keys), 4, &FIVE);
        warm(&world);
        let began = world.host.elapsed();
        let mut number = 0;
        while world.out().is_empty() {
            number += 1;
            world.hosts.does(BAD, if world.hosts.at(BAD).is_multiple_of(2) { 503 } else { 200 });
            world.get();
            world.host.advance(millis(20));
            assert!(number < 50 * 12, "{what}");
        }
        assert_eq!(world.out(), [BAD]);
        trace.note(&world.host, format_args!("{what}: out after {:?}", world.host.elapsed() - began));
        world.traffic_for(seconds(2));
        world.note_metrics(&mut trace);
        world.assert_clean();
    }
    trace.check("outlier_rates");
}

// Hosts come and go.

const NEW: &str = "10.0.0.9:8080";

#[test]
fn what_was_counted_just_before_a_silence_counts_too() {
    let rate = r#""consecutive_failures":0,"failure_rate":{"min_requests":20,"min_hosts":5},"interval":"10s""#;
    let world = World::start(&exact(rate), 1, &FIVE);
    world.hosts.serves(BAD, 503);
    // Almost all of it within the same moment, and then nobody comes any more.
    (0..100).for_each(|_| drop(world.get()));
    world.host.advance(seconds(21));
    assert_eq!(world.out(), [BAD], "all of the 20 failures were counted");
    world.assert_clean();
}

fn with_new() -> Vec<&'static str> {
    FIVE.iter().copied().chain([NEW]).collect()
}

#[test]
fn a_new_host_has_its_share_soon_even_while_another_is_out() {
    let mut trace = Trace::new("A sixth host comes while one of five is out and stays bad");
    for (what, features) in [("no retries", ""), ("retries", r#""retry":{"backoff":{"base":"1ms","max":"1ms"}}"#)] {
        let world =
            World::start(&ejecting_and(&format!("{EXACT},\"base_ejection_time\":\"300s\""), features), 4, &FIVE);
        warm(&world);
        world.hosts.does(BAD, 503);
        world.traffic_until(200, |world| world.out() == [BAD]);
        world.host.set_hosts(&with_new());
        let began = world.host.elapsed();
        world.traffic_until(50 * 61, |world| world.known().contains(&NEW.to_owned()));
        let took = world.host.elapsed() - began;
        trace.note(&world.host, format_args!("{what}: it is known after {took:?}"));
        let share = shares(&world.traffic_for(seconds(10)));
        trace.line(format_args!("  of the next 500 requests it gets {}", share[NEW]));
        assert!(share[NEW] > 80, "{what}: {share:?}");
        world.assert_clean();
    }
    trace.check("outlier_new_host");
}

#[test]
fn three_new_hosts_are_found_one_after_the_other_at_once() {
    let three = ["10.0.1.1:80", "10.0.1.2:80", "10.0.1.3:80"];
    let world = World::start(&exact(r#""base_ejection_time":"300s""#), 4, &FIVE);
    warm(&world);
    world.hosts.does(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    world.host.set_hosts(&[&FIVE[..], &three[..]].concat());
    let took = world.traffic_until(50 * 300, |world| world.known().len() == 8);
    assert!(took <= 50 * 120, "{} s", took / 50);
    world.assert_clean();
}

#[test]
fn a_host_that_left_is_forgotten() {
    let mut trace =
        Trace::new("The bad host leaves the cluster while it is out, or a good one leaves while another is out");
    let gone = |world: &World, host: &str| !world.known().contains(&host.to_owned());
    // Its probe goes elsewhere.
    let world = World::start(&exact(""), 4, &FIVE);
    warm(&world);
    world.hosts.does(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    world.host.set_hosts(&FIVE[1..]);
    let began = world.host.elapsed();
    world.traffic_until(50 * 100, |world| gone(world, BAD));
    let took = world.host.elapsed() - began;
    trace.note(&world.host, format_args!("the one that is out, by its probe: after {took:?}"));
    assert!(took < seconds(32), "{took:?}");
    world.traffic_for(seconds(2));
    world.note_metrics(&mut trace);
    world.assert_clean();
    // By evidence: others get what it would have had.
    for (what, is_bad_out) in [("nobody is out", false), ("another is out", true)] {
        let world = World::start(&exact(r#""base_ejection_time":"300s""#), 4, &FIVE);
        warm(&world);
        if is_bad_out {
            world.hosts.does(BAD, 503);
            world.traffic_until(200, |world| world.out() == [BAD]);
        }
        world.host.set_hosts(&FIVE[..4]);
        let began = world.host.elapsed();
        world.traffic_until(50 * 700, |world| gone(world, FIVE[4]));
        let took = world.host.elapsed() - began;
        trace.note(&world.host, format_args!("a good one, {what}: after {} s", took.as_secs()));
        assert!(took <= seconds(120), "{what}: evidence is plenty: {took:?}");
        world.assert_clean();
    }
    // By time alone: no traffic says anything.
    let world = World::start(&exact(""), 2, &FIVE);
    warm(&world);
    world.host.advance(seconds(900));
    world.traffic(4, millis(20));
    world.host.advance(seconds(30));
    trace.note(
        &world.host,
        format_args!("after a quarter of an hour without traffic {} of 5 are known", world.known().len()),
    );
    world.assert_clean();
    trace.check("outlier_gone");
}

// IPv6.

#[test]
fn hosts_with_ipv6_addresses_are_ejected_and_steered_around_too() {
    let six = ["[2001:db8::1]:8080", "[2001:db8::2]:8080", "[2001:db8::3]:8080"];
    let world = World::start(&exact(""), 2, &six);
    warm(&world);
    world.hosts.does(six[0], 503);
    world.traffic_until(100, |world| world.out() == [six[0]]);
    let mut requests = world.traffic_for(seconds(20));
    requests.retain(is_steered);
    let share = shares(&requests);
    assert_eq!(share.get(six[0]), None, "{share:?}");
    assert!(share[six[1]].abs_diff(share[six[2]]) <= 20, "{share:?}");
    world.hosts.is_well(six[0]);
    world.traffic_until(50 * 32, |world| world.out().is_empty());
    world.host.advance(seconds(1));
    assert_eq!(world.host.logged("host [2001:db8::1]:8080").len(), 2, "{:#?}", world.host.logged(""));
    world.assert_clean();
}

#[test]
fn hosts_that_are_no_addresses_are_left_alone() {
    let world = World::start(&exact(""), 2, &["/run/orders.sock"]);
    world.hosts.does("/run/orders.sock", 503);
    world.traffic_for(seconds(5));
    assert_eq!(world.known(), [""; 0]);
    assert_eq!(world.count("ejections_detected.consecutive_failures"), 0);
    world.assert_clean();
}

// The heartbeat.

fn beating(keys: &str) -> String {
    exact(format!(r#""heartbeat":{{"path":"/healthz"}},{keys}"#).trim_end_matches(','))
}

#[test]
fn a_heartbeat_ejects_without_traffic_and_lets_back_without_risk() {
    let world = World::start(
        &beating(r#""hosts":["10.0.0.1:8080","10.0.0.2:8080","10.0.0.3:8080","10.0.0.4:8080","10.0.0.5:8080"]"#),
        2,
        &FIVE,
    );
    let mut trace =
        Trace::new("Hosts are asked for /healthz once a second; one stops answering well, without any traffic");
    world.host.advance(seconds(5));
    world.hosts.answers_checks(BAD, 503);
    trace.note(&world.host, format_args!("{BAD} answers 503 to checks"));
    world.host.advance(seconds(5));
    assert_eq!(world.out(), [BAD]);
    let requests = world.traffic_for(seconds(5));
    assert!(world.hosts.at(BAD) <= exploring(&requests), "it gets no request: {:?}", shares(&requests));
    trace.note(&world.host, "five seconds of traffic went to the others");
    world.hosts.is_well(BAD);
    world.host.advance(seconds(4));
    assert_eq!(world.out(), [""; 0]);
    trace.note(&world.host, format_args!("{BAD} answers well to checks, and then not at all"));
    world.hosts.hangs(BAD);
    world.host.advance(seconds(10));
    assert_eq!(world.out(), [BAD]);
    world.note_metrics(&mut trace);
    trace.check("outlier_heartbeat");
    world.assert_clean();
}

#[test]
fn with_a_heartbeat_no_user_is_a_probe() {
    let world = World::start(&beating(r#""base_ejection_time":"10s""#), 4, &FIVE);
    let mut trace = Trace::new("A host that fails users and is well by its checks, then one that is bad for both");
    warm(&world);
    world.hosts.serves(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    let before = world.hosts.at(BAD);
    let requests = world.traffic_for(seconds(9));
    assert!(
        world.hosts.at(BAD) - before <= exploring(&requests),
        "its time is its time, however well it answers checks"
    );
    world.traffic_until(200, |world| world.out().is_empty());
    trace.note(&world.host, "its time is over, and its checks are good: it is back");
    world.hosts.does(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    let before = world.hosts.at(BAD);
    let requests = world.traffic_for(seconds(60));
    assert!(world.hosts.at(BAD) - before <= exploring(&requests), "no user's request is a probe");
    assert!(requests.iter().all(|request| !request.answer().access_log.unwrap().contains("probe=")));
    world.hosts.is_well(BAD);
    let took = world.traffic_until(50 * 5, |world| world.out().is_empty());
    assert!(took <= 50 * 4, "two good checks: {took}");
    world.note_metrics(&mut trace);
    trace.check("outlier_heartbeat_and_traffic");
    world.assert_clean();
}

#[test]
fn a_heartbeat_of_a_host_that_left_forgets_it() {
    let world = World::start(&beating(""), 2, &FIVE);
    warm(&world);
    world.hosts.does(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    world.host.set_hosts(&FIVE[1..]);
    world.host.advance(seconds(3));
    assert_eq!(world.known(), FIVE[1..], "the attempt seat says so");
    assert!(world.hosts.checked().iter().all(|one| !one.is_marked));
    world.assert_clean();
}

#[test]
fn a_heartbeat_of_grpc_goes_by_what_a_host_says_of_its_health() {
    let world = World::start(
        &exact(
            r#""heartbeat":{"grpc":{"service":"a.B"}},
               "hosts":["10.0.0.1:8080","10.0.0.2:8080","10.0.0.3:8080","10.0.0.4:8080","10.0.0.5:8080"]"#,
        ),
        2,
        &FIVE,
    );
    let says = |status: u8| Response::grpc(0).body([0, 0, 0, 0, 2, 8, status]);
    for host in FIVE {
        world.hosts.answers_checks(host, says(1));
    }
    world.host.advance(seconds(5));
    assert_eq!(world.out(), [""; 0]);
    let bad = [
        Response::status(200),
        Response::status(503),
        Response::grpc_headers_only(12),
        Response::grpc(14).body([0, 0, 0, 0, 2, 8, 1]),
        Response::grpc(0),
        Response::grpc(0).body([0, 0, 0, 0, 2, 8]),
        Response::grpc(0).body([0xff; 4096]),
        says(0),
        says(2),
        says(3),
    ];
    for bad in bad {
        let what = format!("{bad:?}");
        world.hosts.answers_checks(BAD, bad);
        world.host.advance(seconds(5));
        assert_eq!(world.out(), [BAD], "{what}");
        world.hosts.answers_checks(BAD, says(1));
        world.host.advance(seconds(5));
        assert_eq!(world.out(), [""; 0], "after {what}");
    }
    world.hosts.hangs(BAD);
    world.host.advance(seconds(10));
    assert_eq!(world.out(), [BAD]);
    world.assert_clean();
}

#[test]
fn a_heartbeat_of_grpc_of_a_host_that_left_forgets_it() {
    let world = World::start(&exact(r#""heartbeat":{"grpc":{}}"#), 2, &FIVE);
    warm(&world);
    for host in FIVE {
        world.hosts.answers_checks(host, Response::grpc(0).body([0, 0, 0, 0, 2, 8, 1]));
    }
    world.host.advance(seconds(3));
    assert_eq!(world.known(), FIVE);
    world.host.set_hosts(&FIVE[1..]);
    world.host.advance(seconds(3));
    assert_eq!(world.known(), FIVE[1..], "the attempt seat says so in an answer of gRPC");
    assert_eq!(world.count("ejections_detected.heartbeat"), 0);
    world.assert_clean();
}

// Listings.

fn listing(hosts: &[&str]) -> Response {
    let hosts: Vec<String> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
    Response::status(200).body(format!(r#"{{"clusters":{{"orders":[{}]}}}}"#, hosts.join(",")))
}

#[test]
fn what_is_listed_is_known_and_what_is_not_is_forgotten() {
    let discover = r#""discover":{"cluster":"envoy_admin","path":"/clusters?format=json"}"#;
    let world = World::start(&exact(discover), 2, &FIVE);
    let mut trace = Trace::new("The hosts are read every five seconds");
    world.hosts.lists(listing(&FIVE));
    world.host.advance(seconds(6));
    assert_eq!(world.known(), FIVE, "before any traffic");
    warm(&world);
    world.hosts.does(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    world.host.set_hosts(&with_new());
    world.hosts.lists(listing(&with_new()));
    world.traffic_for(seconds(6));
    let share = shares(&world.traffic_for(seconds(10)));
    assert!(share[NEW] > 80, "the new one has its share: {share:?}");
    trace.note(&world.host, "a new host is listed and has its share");
    world.host.set_hosts(&with_new()[1..]);
    world.hosts.lists(listing(&with_new()[1..]));
    world.traffic_for(seconds(6));
    assert_eq!(world.known(), with_new()[1..], "the bad one is gone, with its ejection");
    trace.note(&world.host, "the bad one is not listed any more");
    for (what, answer) in [
        ("500", Response::status(500)),
        ("no JSON", Response::status(200).body("<html>")),
        ("no such cluster", Response::status(200).body(r#"{"clusters":{"carts":["10.0.0.1:80"]}}"#)),
        ("no hosts", listing(&[])),
    ] {
        world.hosts.lists(answer);
        world.host.advance(seconds(11));
        trace.note(&world.host, format_args!("the answer is: {what}"));
        assert_eq!(world.known(), with_new()[1..], "{what}");
    }
    let readings = world.hosts.readings();
    world.host.advance(seconds(60));
    let per_minute = world.hosts.readings() - readings;
    assert!((11..=13).contains(&per_minute), "{per_minute} readings in a minute");
    world.note_metrics(&mut trace);
    trace.check("outlier_discover");
    world.assert_clean();
}

// Configurations.

#[test]
fn an_update_keeps_what_is_out() {
    let document = exact("");
    let world = World::start(&document, 4, &FIVE);
    warm(&world);
    world.hosts.does(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    let before = world.hosts.at(BAD);
    world.host.update(&format!("{document} ")).unwrap();
    let requests = world.traffic_for(seconds(20));
    assert!(world.hosts.at(BAD) - before <= exploring(&requests), "it is out as before: {:?}", shares(&requests));
    let before = world.hosts.at(BAD);
    world.host.update(&exact(r#""interval":"9s""#)).unwrap();
    let requests = world.traffic_for(seconds(5));
    assert!(world.hosts.at(BAD) - before <= exploring(&requests), "it is out for rules that have changed, too");
    world.assert_clean();
}

#[test]
fn a_vm_that_is_new_steers_with_its_first_request() {
    let world = World::start(&exact(""), 4, &FIVE);
    warm(&world);
    world.hosts.does(BAD, 503);
    world.traffic_until(200, |world| world.out() == [BAD]);
    let before = world.hosts.at(BAD);
    (0..4).for_each(|worker| world.host.reload(worker));
    let requests = world.traffic(100, millis(20));
    assert!(requests[..4].iter().all(is_steered), "with its first one");
    assert_eq!(world.hosts.at(BAD), before);
    world.assert_clean();
}

// The clock.

type Jump = fn(&World);

const JUMPS: [(&str, Jump); 4] = [
    ("an hour forward", |world| world.host.set_clock_forward(HOUR)),
    ("an hour back", |world| world.host.set_clock_back(HOUR)),
    ("ten seconds back", |world| world.host.set_clock_back(seconds(10))),
    ("to 1971", |world| world.host.set_clock_back(HOUR * 24 * 365 * 55)),
];

#[test]
fn whatever_the_clock_does_a_healed_host_is_back_and_a_bad_one_is_out() {
    let mut trace = Trace::new("How long after a jump of the clock a healed host is back, and a bad one is out");
    for (what, jump) in JUMPS {
        for heartbeat in ["", r#","heartbeat":{"path":"/healthz"}"#] {
            let world = World::start(&ejecting(&format!("{EXACT},\"max_ejection_time\":\"60s\"{heartbeat}")), 4, &FIVE);
            warm(&world);
            world.hosts.does(BAD, 503);
            world.traffic_until(200, |world| world.out() == [BAD]);
            jump(&world);
            world.hosts.is_well(BAD);
            let back = world.traffic_until(50 * 200, |world| world.out().is_empty());
            world.traffic_for(seconds(2));
            world.hosts.does(FIVE[1], 503);
            let again = world.traffic_until(50 * 20, |world| world.out() == [FIVE[1]]);
            trace.line(format_args!(
                "{what}{}: back {} s, out {} requests",
                if heartbeat.is_empty() { "" } else { ", heartbeat" },
                back / 50,
                again
            ));
            assert!(back <= 50 * 61, "{what}{heartbeat}: {} s", back / 50);
            assert!(again <= 40, "{what}{heartbeat}: {again}");
            world.assert_clean();
        }
    }
    trace.check("outlier_clock");
}

// No signals.

#[test]
fn without_one_or_both_gauges_all_happens_a_moment_later() {
    type Drops = fn(&str) -> bool;
    let drops: [(&str, Drops); 3] = [
        ("holdfast.epoch", |name| name == "holdfast.epoch"),
        ("holdfast.runs", |name| name == "holdfast.runs"),
        ("all of ours", |name| name.starts_with("holdfast")),
    ];
    let mut trace = Trace::new("A stats matcher drops the gauges by which workers tell each other of changes");
    for (what, dropped) in drops {
        let world =
            World::with(&exact(""), 4, &FIVE, |builder: Builder| builder.attempt_seat().dropping_metrics(dropped));
        warm(&world);
        world.hosts.does(BAD, 503);
        let took = world.traffic_until(200, |world| world.out() == [BAD]);
        let before = world.hosts.at(BAD);
        // One more each until every worker has looked.
        let requests = world.traffic(100, millis(20));
        assert!(world.hosts.at(BAD) <= before + 4, "{what}: {:?}", shares(&requests));
        trace.note(&world.host, format_args!("{what}: out after {took} requests"));
        // A run that a success ends is no run, also unsignalled.
        world.hosts.does(FIVE[1], 503);
        for _ in 0..6 {
            world.traffic(12, millis(20));
            world.hosts.is_well(FIVE[1]);
            world.traffic(12, millis(20));
            world.hosts.does(FIVE[1], 503);
        }
        assert_eq!(world.out(), [BAD], "{what}: three failures and three successes, again and again");
        world.hosts.are_well();
        world.traffic_until(50 * 32, |world| world.out().is_empty());
        world.assert_clean();
    }
    trace.check("outlier_unsignalled");
}

/// A document with a breaker for another cluster, whose trips are signals too.
fn exact_and_another() -> String {
    let other = format!(r#"{{"name":"carts","match":{{"cluster":["carts"]}},{BREAKER}}}"#);
    exact("").replacen(r#"{"policies":["#, &format!(r#"{{"policies":[{other},"#), 1)
}

/// Before Envoy 1.39 the signal of an attempt seat does not reach the request seats. The first one that finds what it has done
/// signals it; so it must also where it has missed another signal, which the others have heeded before.
#[test]
fn what_an_attempt_seat_has_done_all_know_when_one_of_them_does_also_before_envoy_1_39() {
    for is_shared in [true, false] {
        let world = World::with(&exact_and_another(), 3, &FIVE, |builder: Builder| {
            let builder = builder.cluster("carts", &["10.1.0.1:80"]);
            if is_shared { builder.attempt_seat() } else { builder.attempt_seat_with_metrics_of_its_own() }
        });
        warm(&world);
        let get = |worker: usize| world.host.send(worker, Request::get("/"));
        let fails = |worker: usize| (0..20).find(|_| get(worker).answer().status == 503);
        get(0);
        for _ in 0..3 {
            world.host.request(2, Request::get("/").cluster("carts")).passed().respond(Response::status(503));
        }
        get(1);
        world.hosts.does(BAD, 503);
        while world.out().is_empty() {
            get(2);
        }
        get(0);
        let told = world.host.logged("ejected").len();
        assert_eq!((told, fails(0)), (1, None), "shared {is_shared}: worker 0 knows and tells");
        assert_eq!(fails(1), None, "shared {is_shared}: and worker 1, too");
        world.assert_clean();
    }
}

// What is not the host's fault.

#[test]
fn overflow_clients_that_leave_and_our_own_answers_count_for_nothing() {
    let keys = format!(r#"{EXACT},"consecutive_failures":2"#);
    let world = World::with(&ejecting_and(&keys, r#""outcome":{"ignore":{"status":[429]}}"#), 2, &FIVE, |builder| {
        builder.attempt_seat().route(Route::new().timeout(seconds(1)))
    });
    warm(&world);
    world.hosts.does(BAD, Reaction::fails(Reset::Overflow));
    world.traffic_for(seconds(2));
    assert_eq!(world.out(), [""; 0], "Envoy's own limits");
    world.hosts.does(BAD, 429);
    world.traffic_for(seconds(2));
    assert_eq!(world.out(), [""; 0], "what the policy ignores");
    world.hosts.hangs(BAD);
    for _ in 0..50 {
        let request = world.get();
        if !request.is_over() {
            request.client_leaves();
        }
    }
    assert_eq!(world.out(), [""; 0], "clients that leave");
    assert_eq!(world.count("ejections_detected.consecutive_failures"), 0);
    let hanging: Vec<_> = (0..20).map(|_| world.get()).collect();
    world.host.advance(seconds(2));
    assert!(hanging.iter().all(|request| request.is_over()));
    assert_eq!(world.out(), [BAD], "one that does not answer in time is another matter");
    world.assert_clean();
}

#[test]
fn a_post_is_a_probe_only_where_nothing_else_comes() {
    let retry = r#""retry":{"backoff":{"base":"1ms","max":"1ms"}}"#;
    let post = || Request::new("POST", "/").body("x");
    for mixed in [false, true] {
        let world = World::start(&ejecting_and(&format!("{EXACT},\"base_ejection_time\":\"10s\""), retry), 2, &FIVE);
        warm(&world);
        world.hosts.does(BAD, 503);
        world.traffic_until(200, |world| world.out() == [BAD]);
        let mut failed = 0;
        let before = world.hosts.at(BAD);
        let began = world.host.elapsed();
        let mut probed: Option<Duration> = None;
        while world.host.elapsed() < began + seconds(13) {
            let request = world.send(post());
            failed += usize::from(request.is_over() && request.answer().status == 503);
            if mixed {
                world.get();
            }
            world.host.advance(millis(20));
            if probed.is_none() && world.hosts.at(BAD) > before {
                probed = Some(world.host.elapsed() - began);
            }
        }
        let probed = probed.expect("it is probed");
        if mixed {
            assert_eq!(failed, 0, "a request that may be retried goes first");
            assert!(probed <= millis(10_100), "{probed:?}");
        } else {
            assert_eq!(failed, 1, "one request pays for it");
            assert!(probed >= millis(10_900) && probed <= millis(11_100), "a second later: {probed:?}");
        }
        world.assert_clean();
    }
}
