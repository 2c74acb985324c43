use super::*;
use crate::http::attempt::End;
use crate::outlier::host_events::{HostCount, HostEventKind};
use crate::outlier::table::{ProbeResult, State};
use crate::outlier::topology::HostListing;
use holdfast_policy::config;
use holdfast_policy::document::{Detector, NamedHost};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

/// Rules with these detectors only, which may take all hosts out.
fn rules(detectors: &str) -> Outlier {
    let text = format!(
        r#"{{"policies":[{{"name":"p","outlier":{{"consecutive_failures":0,"max_ejected":100,"ejection_jitter":0,{detectors}}}}}]}}"#
    );
    config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}")).policies.remove(0).outlier.unwrap()
}

fn table(hosts: usize) -> (HostTable, Vec<HostId>) {
    let mut table = HostTable::default();
    let address = |number| format!("10.0.0.{number}:80");
    let ids = (0..hosts).map(|number| table.enter(address(number).as_bytes(), false, t(0)).unwrap()).collect();
    (table, ids)
}

/// So many attempts, of which so many failed, each of so many milliseconds.
fn tally(total: u32, failures: u32, millis: u64) -> HostTally {
    let times = (failures..total).map(|_| Duration::from_millis(millis)).collect();
    HostTally { total, failures, times, ..HostTally::default() }
}

fn tallies(ids: &[HostId], counts: &[HostTally]) -> Tallies {
    ids.iter().copied().zip(counts.iter().copied()).filter(|(_, tally)| tally.total > 0).collect()
}

/// Sweeps the interval of ten seconds before the last.
fn look(table: &mut HostTable, rules: &Outlier, tallies: &Tallies, now: Timestamp, random: u64) {
    let began = Timestamp(now.0 / 10_000_000_000 * 10_000_000_000).0.saturating_sub(10_000_000_000);
    sweep(table, rules, tallies, Timestamp(began), now, random);
}

/// Which hosts are out after one sweep of these counts.
fn swept(rules: &Outlier, counts: &[HostTally]) -> Vec<usize> {
    let (mut table, ids) = table(counts.len());
    look(&mut table, rules, &tallies(&ids, counts), t(10_100), 1);
    out(&table, &ids)
}

fn out(table: &HostTable, ids: &[HostId]) -> Vec<usize> {
    (0..ids.len()).filter(|number| table.host(ids[*number]).is_some_and(|host| !host.is_in())).collect()
}

/// A probe that was sent then has ended: with this failure, if any.
fn probed(
    table: &mut HostTable,
    rules: &Outlier,
    id: HostId,
    failed: Option<End>,
    sent: Timestamp,
    now: Timestamp,
) -> bool {
    let (end, took) = (failed.unwrap_or(End::Http(200)), now.since(sent));
    table.judge_probe(rules, id, ProbeResult { end, failed: failed.is_some(), took, has_permit: true }, sent, now, 0)
}

fn counted(table: &HostTable, kind: HostCount) -> u32 {
    table.events.counts().find(|(counted, _)| *counted == kind).map_or(0, |(_, count)| count)
}

// The share of failures

#[test]
fn a_failure_rate_ejects_at_its_threshold_and_not_one_failure_below() {
    let rules = rules(r#""failure_rate":{"threshold":85,"min_requests":20,"min_hosts":3}"#);
    let good = tally(100, 0, 1);
    assert_eq!(swept(&rules, &[tally(20, 17, 1), good, good]), [0], "17 of 20 are 85 %");
    assert_eq!(swept(&rules, &[tally(20, 16, 1), good, good]), [0; 0], "16 of 20 are 80 %");
    assert_eq!(swept(&rules, &[tally(19, 19, 1), good, good, good]), [0; 0], "19 tries are too few");
    assert_eq!(
        swept(&rules, &[tally(20, 20, 1), good, tally(19, 0, 1)]),
        [0; 0],
        "two hosts with enough tries are too few"
    );
    assert_eq!(swept(&rules, &[tally(20, 20, 1); 3]), [0, 1, 2], "it does not compare hosts");
}

#[test]
fn where_not_all_may_go_the_worst_go() {
    let text = r#"{"policies":[{"name":"p","outlier":{"consecutive_failures":0,"failure_rate":{"min_requests":10}}}]}"#;
    let rules = config::parse(text.as_bytes()).unwrap().policies.remove(0).outlier.unwrap();
    let counts = [tally(100, 86, 1), tally(100, 99, 1), tally(100, 85, 1), tally(100, 100, 1), tally(100, 0, 1)];
    let (mut table, ids) = table(5);
    look(&mut table, &rules, &tallies(&ids, &counts), t(10_100), 1);
    assert_eq!(out(&table, &ids), [1, 3], "two of five may");
    assert_eq!(counted(&table, HostCount::Overflow), 2, "the other two were found as well");
    assert_eq!(counted(&table, HostCount::Detected(Detector::FailureRate)), 4);
}

// The share of successes

#[test]
fn a_host_with_far_fewer_successes_than_the_others_goes() {
    let rules = rules(r#""success_rate":{"stdev_factor":1.9}"#);
    let good = tally(100, 0, 1);
    // Shares 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5: mean 0.95, stdev 0.15, threshold 0.665.
    let mut counts = vec![good; 9];
    counts.push(tally(100, 50, 1));
    assert_eq!(swept(&rules, &counts), [9]);
    // Of five, one at s: mean (4+s)/5, stdev 2(1-s)/5; below mean - 1.9 stdev for every s < 1.
    assert_eq!(swept(&rules, &[good, good, good, good, tally(100, 10, 1)]), [4]);
    assert_eq!(
        swept(&rules, &[tally(99, 99, 1), good, good, good, good]),
        [0; 0],
        "too few tries, and with it too few hosts"
    );
}

#[test]
fn equal_hosts_never_go_however_bad_they_are() {
    let rules = rules(r#""success_rate":{"stdev_factor":0},"latency":{"deviation":1,"floor":"0s"}"#);
    for failures in [0, 1, 33, 50, 66, 99, 100] {
        let counts = [tally(100, failures, 100); 7];
        assert_eq!(swept(&rules, &counts), [0; 0], "{failures} % failures each");
    }
}

#[test]
fn a_share_at_the_threshold_stays() {
    // Shares 0 and 1 by halves: mean 0.5, stdev 0.5, with factor 1 the threshold is 0.
    let rules = rules(r#""success_rate":{"stdev_factor":1,"min_hosts":4}"#);
    let (good, bad) = (tally(100, 0, 1), tally(100, 100, 1));
    assert_eq!(swept(&rules, &[good, good, bad, bad]), [0; 0], "0 is not below 0");
    let less = self::rules(r#""success_rate":{"stdev_factor":0.999,"min_hosts":4}"#);
    assert_eq!(swept(&less, &[good, good, bad, bad]), [2, 3], "0 is below 0.0005");
}

#[test]
fn ejected_hosts_are_left_out_of_the_mean() {
    let rules = rules(r#""success_rate":{"min_hosts":4,"stdev_factor":1.5}"#);
    let (mut table, ids) = table(5);
    let cause = EjectionCause::Heartbeat { failures: 1, last: None };
    let beats = self::rules(r#""heartbeat":{"path":"/"}"#);
    table.eject(&beats, ids[0], cause, t(0), 0);
    let counts = [tally(1000, 1000, 1), tally(100, 2, 1), tally(100, 2, 1), tally(100, 2, 1), tally(100, 3, 1)];
    look(&mut table, &rules, &tallies(&ids, &counts), t(10_100), 1);
    let Some(found) = table.events.list.iter().find_map(|one| match one.kind {
        HostEventKind::Ejected(EjectionCause::SuccessRate { share, mean, hosts, .. }, _) => Some((share, mean, hosts)),
        _ => None,
    }) else {
        panic!("the last host is worse than its peers: {:?}", table.events.list);
    };
    assert_eq!(found, (97_000, 97_750, 4), "the mean is that of the four that are in");
}

// Times

#[test]
fn a_slow_host_is_judged_by_its_peers_and_goes_at_the_limit() {
    let rules = rules(r#""latency":{"deviation":200,"floor":"20ms"}"#);
    let at = |millis| tally(50, 0, millis);
    assert_eq!(swept(&rules, &[at(10), at(10), at(30)]), [2], "(30 - 10) / 10 is 200 %");
    assert_eq!(swept(&rules, &[at(10), at(10), at(29)]), [0; 0], "190 %");
    assert_eq!(swept(&rules, &[at(1), at(1), at(20)]), [0; 0], "1900 %, and no slower than the floor");
    assert_eq!(swept(&rules, &[at(1), at(1), at(21)]), [2], "above the floor");
    assert_eq!(swept(&rules, &[at(10), at(10), tally(49, 0, 1000)]), [0; 0], "49 answers are too few");
    assert_eq!(swept(&rules, &[at(10), at(1000)]), [0; 0], "two hosts cannot tell which of them is slow");
}

#[test]
fn two_slow_hosts_among_five_are_both_found() {
    let rules = rules(r#""latency":{}"#);
    let (fast, slow) = (tally(50, 0, 5), tally(50, 0, 100));
    assert_eq!(swept(&rules, &[slow, fast, fast, slow, fast]), [0, 3]);
    assert_eq!(
        swept(&rules, &[tally(50, 0, 10_000), fast, fast, slow, fast]),
        [0, 3],
        "a very slow one hides no other"
    );
}

#[test]
fn a_host_that_is_faster_than_the_others_makes_none_of_them_slow() {
    let rules = rules(r#""latency":{"deviation":50,"floor":"0s"}"#);
    let counts = [tally(50, 0, 1), tally(50, 0, 100), tally(50, 0, 100), tally(50, 0, 100)];
    assert_eq!(swept(&rules, &counts), [0; 0], "100 ms are 49 % above the mean of 1, 100 and 100 ms");
}

#[test]
fn a_host_that_fails_at_once_makes_no_healthy_host_a_slow_one() {
    let rules = rules(r#""latency":{}"#);
    // Three hosts refuse at once, two answer in 30 ms as ever.
    let (broken, well) = (tally(500, 500, 0), tally(100, 0, 30));
    assert_eq!(
        swept(&rules, &[broken, broken, broken, well, well]),
        [0; 0],
        "how long a failure took is no answer's time"
    );
}

/// Five hosts of which the first has been found slow: it takes 100 ms for 10.
fn slow_one(more: &str) -> (Outlier, HostTable, Vec<HostId>) {
    let rules = rules(&format!(r#""latency":{{"deviation":200,"floor":"20ms"}}{more}"#));
    let (mut table, ids) = table(5);
    let (fast, slow) = (tally(50, 0, 10), tally(50, 0, 100));
    look(&mut table, &rules, &tallies(&ids, &[slow, fast, fast, fast, fast]), t(20_100), 1);
    assert_eq!(out(&table, &ids), [0]);
    (rules, table, ids)
}

#[test]
fn a_host_that_was_too_slow_is_back_when_twenty_answers_are_fast_and_not_before() {
    let (rules, mut table, ids) = slow_one("");
    let mut probe = |millis, now| {
        assert!(table.take_probe(&rules, ids[0], t(now)), "one after the other, as long as they are wanted");
        assert!(!table.take_probe(&rules, ids[0], t(now)), "and no two at a time");
        assert!(probed(&mut table, &rules, ids[0], None, t(now), t(now + millis)));
        let host = table.host(ids[0]).unwrap();
        (host.is_due(&rules, t(now + millis)), host.trickles(), host.ejections)
    };
    // Three that are as slow as it was are enough.
    assert_eq!(
        [30, 30, 30].map(|millis| probe(millis, 50_100)),
        [(true, false, 1), (true, false, 1), (false, true, 2)]
    );
    for number in 1..20 {
        assert_eq!(probe(29, 120_000), (true, true, 2), "29 ms, {number} of 20");
    }
    probe(29, 120_000);
    let host = table.host(ids[0]).unwrap();
    assert_eq!((host.is_in(), host.share(&rules, t(120_029)), host.share(&rules, t(135_029))), (true, 100, 500));
    assert!(table.host(ids[0]).unwrap().is_starting(&rules, t(149_999)) && !host.is_starting(&rules, t(150_030)));
    assert_eq!(counted(&table, HostCount::ProbeFailed), 1);
    assert_eq!(counted(&table, HostCount::Readmitted), 1);
    let kinds: Vec<_> = table.events.list.iter().map(|event| event.kind).collect();
    assert!(
        matches!(kinds[1], HostEventKind::StillSlow { mean, lasts } if (mean, lasts) == (Duration::from_millis(30), Duration::from_secs(60)))
    );
    assert!(matches!(kinds[2], HostEventKind::Readmitted { by_trial: true, .. }), "{kinds:?}");
}

#[test]
fn what_is_slow_changes_with_the_peers() {
    let (rules, mut table, ids) = slow_one("");
    let loaded = tally(50, 0, 90);
    look(&mut table, &rules, &tallies(&ids, &[tally(0, 0, 0), loaded, loaded, loaded, loaded]), t(60_100), 1);
    for _ in 0..20 {
        assert!(probed(&mut table, &rules, ids[0], None, t(70_000), t(70_100)));
    }
    assert_eq!(out(&table, &ids), [0; 0], "100 ms are as fast as all are now");
}

#[test]
fn heartbeats_say_nothing_of_how_fast_a_host_answers() {
    let (rules, mut table, ids) = slow_one(r#","heartbeat":{"path":"/"}"#);
    assert!(!table.readmit_healthy(&rules, ids[0], t(60_000)));
    for _ in 0..20 {
        assert!(probed(&mut table, &rules, ids[0], None, t(60_000), t(60_010)));
    }
    assert_eq!(out(&table, &ids), [0; 0]);
}

#[test]
fn a_host_that_trickles_and_fails_is_out_for_that() {
    let (rules, mut table, ids) = slow_one(r#","failure_rate":{}"#);
    let cause = EjectionCause::FailureRate { failures: 9, total: 10 };
    assert_eq!(table.eject(&rules, ids[0], cause, t(30_000), 0), Ejection::Nothing, "it gets nothing");
    for _ in 0..3 {
        assert!(probed(&mut table, &rules, ids[0], None, t(51_000), t(51_100)));
    }
    assert!(table.host(ids[0]).unwrap().serves(&rules, t(60_000)), "it trickles");
    assert_eq!(table.eject(&rules, ids[0], cause, t(60_000), 0), Ejection::Ejected);
    let host = table.host(ids[0]).unwrap();
    assert_eq!((host.trickles(), host.out_since()), (false, Some(t(20_100))));
    assert!(probed(&mut table, &rules, ids[0], None, t(200_000), t(200_000)), "it comes back by a probe");
    assert_eq!(out(&table, &ids), [0; 0]);
}

#[test]
fn a_host_whose_trial_fails_otherwise_gets_nothing_until_the_next() {
    let (rules, mut table, ids) = slow_one("");
    for _ in 0..3 {
        assert!(probed(&mut table, &rules, ids[0], None, t(51_000), t(51_100)));
    }
    assert!(probed(&mut table, &rules, ids[0], Some(End::Reset), t(120_000), t(120_000)));
    assert!(!table.host(ids[0]).unwrap().serves(&rules, t(130_000)), "nobody gets its failures");
    assert!(table.host(ids[0]).unwrap().is_on_trial());
}

#[test]
fn a_host_that_has_come_or_is_back_is_spared_for_a_while() {
    let rules = rules(r#""failure_rate":{},"latency":{}"#);
    let (fast, slow) = (tally(50, 0, 20), tally(50, 0, 100));
    let (mut table, mut ids) = table(4);
    ids.push(table.enter(b"10.0.0.9:80", false, t(20_000)).unwrap());
    look(&mut table, &rules, &tallies(&ids, &[fast, fast, fast, fast, slow]), t(49_900), 1);
    assert_eq!(out(&table, &ids), [0; 0], "for 30 s, and it makes nobody look fast");
    look(&mut table, &rules, &tallies(&ids, &[fast, fast, fast, fast, slow]), t(50_100), 1);
    assert_eq!(out(&table, &ids), [4]);

    // It was out for something else, perhaps as it has been started again.
    table.eject(&rules, ids[0], EjectionCause::FailureRate { failures: 1, total: 1 }, t(60_000), 0);
    assert!(probed(&mut table, &rules, ids[0], None, t(95_000), t(95_000)));
    for (now, is_out) in [(120_100, false), (130_100, true)] {
        look(&mut table, &rules, &tallies(&ids, &[slow, fast, fast, fast]), t(now), 1);
        assert_eq!(out(&table, &ids).contains(&0), is_out, "{now}");
    }
}

#[test]
fn a_host_that_has_come_with_the_others_is_not_spared() {
    let rules = rules(r#""latency":{}"#);
    let (mut table, mut ids) = table(3);
    ids.push(table.enter(b"10.0.0.9:80", false, t(1_000)).unwrap());
    let (fast, slow) = (tally(50, 0, 20), tally(50, 0, 100));
    look(&mut table, &rules, &tallies(&ids, &[fast, fast, fast, slow]), t(20_100), 1);
    assert_eq!(out(&table, &ids), [3]);
}

// Modes

#[test]
fn detectors_that_pretend_or_are_off_take_nobody_out() {
    let (good, bad) = (tally(100, 0, 1), tally(1000, 900, 1000));
    for detector in
        [r#""failure_rate":{"min_hosts":3"#, r#""success_rate":{"min_hosts":3"#, r#""latency":{"min_hosts":3"#]
    {
        let with = |mode: &str| rules(&format!(r#"{detector},"mode":"{mode}"}},"heartbeat":{{"path":"/"}}"#));
        let (mut table, ids) = table(6);
        let counts = tallies(&ids, &[good, good, good, good, good, bad]);
        look(&mut table, &with("shadow"), &counts, t(10_100), 1);
        assert_eq!(out(&table, &ids), [0; 0]);
        let would: u32 = Detector::ALL.iter().map(|detector| counted(&table, HostCount::Would(*detector))).sum();
        assert_eq!(would, 1, "{detector}: counted as found");
        let mut table = self::table(6).0;
        look(&mut table, &with("off"), &counts, t(10_100), 1);
        assert!(table.events.is_empty(), "{detector}: off");
    }
}

// What fades

#[test]
fn an_interval_with_successes_takes_one_off_and_one_without_takes_none() {
    let rules = rules(r#""failure_rate":{}"#);
    let (mut table, ids) = table(5);
    let cause = EjectionCause::FailureRate { failures: 9, total: 10 };
    for millis in [0, 100_000] {
        table.eject(&rules, ids[0], cause, t(millis), 0);
        probed(&mut table, &rules, ids[0], None, t(millis + 90_000), t(millis + 90_000));
    }
    let ejections = |table: &HostTable| table.host(ids[0]).unwrap().ejections;
    assert_eq!(ejections(&table), 2);
    look(&mut table, &rules, &tallies(&ids, &[tally(3, 3, 1)]), t(200_100), 1);
    assert_eq!(ejections(&table), 2, "failures only");
    look(&mut table, &rules, &Tallies::new(), t(210_100), 1);
    assert_eq!(ejections(&table), 2, "no traffic is no success");
    look(&mut table, &rules, &tallies(&ids, &[tally(100, 1, 1)]), t(220_100), 1);
    assert_eq!(ejections(&table), 1, "99 successes take one off, not 99");
}

#[test]
fn what_a_host_did_before_it_came_back_does_not_eject_it_again() {
    let rules = rules(r#""failure_rate":{"min_hosts":1,"min_requests":10},"base_ejection_time":"1s""#);
    let (mut table, ids) = table(5);
    // In one interval: nine of ten attempts fail, a run takes it out, its probe succeeds a second later, and all is well.
    table.eject(&rules, ids[0], EjectionCause::FailureRate { failures: 1, total: 1 }, t(1000), 0);
    probed(&mut table, &rules, ids[0], None, t(2000), t(2000));
    look(&mut table, &rules, &tallies(&ids, &[tally(100, 90, 1)]), t(10_100), 1);
    assert_eq!(out(&table, &ids), [0; 0], "those failures are what it was out for");
}

#[test]
fn slow_starts_end_with_the_sweep_after_their_time() {
    let rules = rules(r#""failure_rate":{},"slow_start":"5s""#);
    let (mut table, ids) = table(5);
    table.eject(&rules, ids[0], EjectionCause::FailureRate { failures: 1, total: 1 }, t(0), 0);
    probed(&mut table, &rules, ids[0], None, t(30_000), t(30_000));
    look(&mut table, &rules, &Tallies::new(), t(34_999), 1);
    assert!(matches!(table.host(ids[0]).unwrap().state, State::Starting { .. }));
    look(&mut table, &rules, &Tallies::new(), t(35_000), 1);
    assert!(matches!(table.host(ids[0]).unwrap().state, State::In { .. }));
}

// Who is not there any more

#[test]
fn a_host_is_forgotten_by_evidence_after_a_minute() {
    let rules = rules(r#""failure_rate":{}"#);
    let (mut table, ids) = table(3);
    // Each interval the others have ten attempts each: a host that is there would have had ten as well.
    let busy = tallies(&ids, &[tally(15, 0, 1), tally(15, 0, 1)]);
    for second in [10, 20, 30, 40, 50] {
        look(&mut table, &rules, &busy, t(second * 1000), 1);
        assert_eq!(table.known(), 3, "{second} s: missed often enough, unseen not long enough");
    }
    look(&mut table, &rules, &busy, t(59_999), 1);
    assert_eq!(table.known(), 3, "59,999 ms: still there");
    look(&mut table, &rules, &busy, t(60_000), 1);
    assert_eq!((table.known(), table.host(ids[2])), (2, None), "60,000 ms: forgotten");
}

#[test]
fn a_group_with_little_traffic_needs_longer_to_miss_a_host() {
    let rules = rules(r#""failure_rate":{}"#);
    let (mut table, ids) = table(3);
    // Two thirds of an attempt for each host in an interval: 30 of them make 20 attempts.
    let calm = tallies(&ids, &[tally(1, 0, 1), tally(1, 0, 1)]);
    for second in (10..=300).step_by(10) {
        look(&mut table, &rules, &calm, t(second * 1000), 1);
    }
    assert_eq!(table.known(), 3, "300 s: 19.98 tries are not enough");
    look(&mut table, &rules, &calm, t(310_000), 1);
    assert_eq!((table.known(), table.host(ids[2])), (2, None), "310 s: forgotten");
}

#[test]
fn a_group_without_traffic_forgets_only_after_ten_minutes() {
    let rules = rules(r#""failure_rate":{}"#);
    let (mut table, _) = table(3);
    for second in (10..=590).step_by(10) {
        look(&mut table, &rules, &Tallies::new(), t(second * 1000), 1);
    }
    look(&mut table, &rules, &Tallies::new(), t(599_999), 1);
    assert_eq!(table.known(), 3, "599,999 ms: no try is no evidence");
    look(&mut table, &rules, &Tallies::new(), t(600_000), 1);
    assert_eq!(table.known(), 0, "600,000 ms: forgotten in any case");
}

#[test]
fn a_host_that_is_seen_again_begins_anew() {
    let rules = rules(r#""failure_rate":{}"#);
    let (mut table, ids) = table(3);
    let busy = tallies(&ids, &[tally(90, 0, 1), tally(90, 0, 1)]);
    look(&mut table, &rules, &busy, t(50_000), 1);
    table.see(ids[2], t(55_000));
    look(&mut table, &rules, &busy, t(114_999), 1);
    assert_eq!(table.known(), 3, "59,999 ms unseen");
    look(&mut table, &rules, &busy, t(115_000), 1);
    assert_eq!(table.known(), 2);
}

#[test]
fn configured_and_listed_hosts_are_not_forgotten_for_lack_of_traffic() {
    let configured = rules(r#""failure_rate":{},"hosts":["10.0.0.0:80"]"#);
    let (mut table, ids) = table(2);
    let busy = tallies(&ids, &[tally(0, 0, 1), tally(0, 0, 1)]);
    look(&mut table, &configured, &busy, t(700_000), 1);
    assert!(table.host(ids[0]).is_some() && table.host(ids[1]).is_none(), "the policy names the first");

    let listed = rules(r#""failure_rate":{},"discover":{"cluster":"admin","path":"/clusters"}"#);
    let (mut table, ids) = self::table(2);
    table.list(
        &HostListing::of_named(&["10.0.0.0:80", "10.0.0.1:80"].map(str::to_owned).map(NamedHost::at)),
        &|_| false,
        t(0),
    );
    look(&mut table, &listed, &busy, t(700_000), 1);
    assert!(ids.iter().all(|id| table.host(*id).is_some()), "a listing has them");
}

#[test]
fn a_host_that_is_out_is_not_missed_and_its_ten_minutes_begin_when_its_time_is_over() {
    let rules = rules(r#""failure_rate":{}"#);
    let (mut table, ids) = table(3);
    table.eject(&rules, ids[2], EjectionCause::FailureRate { failures: 1, total: 1 }, t(0), 0);
    let busy = tallies(&ids, &[tally(900, 0, 1), tally(900, 0, 1)]);
    for second in (10..=620).step_by(10) {
        look(&mut table, &rules, &busy, t(second * 1000), 1);
    }
    look(&mut table, &rules, &busy, t(629_999), 1);
    assert!(table.host(ids[2]).is_some(), "629,999 ms: it was out for 30 s of them");
    look(&mut table, &rules, &busy, t(630_000), 1);
    assert!(table.host(ids[2]).is_none());
}

#[test]
fn a_clock_put_back_by_an_hour_keeps_nobody_who_has_left_for_an_hour() {
    let rules = rules(r#""failure_rate":{}"#);
    let (mut table, ids) = table(3);
    for id in &ids {
        table.see(*id, t(3_600_000));
    }
    let busy = tallies(&ids, &[tally(90, 0, 1), tally(90, 0, 1)]);
    for second in (10..=700).step_by(10) {
        look(&mut table, &rules, &busy, t(second * 1000), 1);
    }
    assert_eq!(table.known(), 2, "700 s without it by the clock that holds now");
}

#[test]
fn counts_of_hosts_that_are_not_in_the_table_say_nothing() {
    let rules = rules(r#""failure_rate":{"min_hosts":1},"success_rate":{"min_hosts":1},"latency":{}"#);
    let (mut table, ids) = table(3);
    let strangers: Tallies = (0..9).map(|id| (HostId { index: id, id: 99 }, tally(100, 100, 1))).collect();
    look(&mut table, &rules, &strangers, t(10_100), 1);
    assert!(table.events.is_empty() && out(&table, &ids).is_empty());
}

#[test]
fn numbers_at_their_ends_are_borne() {
    let rules = rules(r#""failure_rate":{"min_hosts":1},"success_rate":{"min_hosts":1},"latency":{"min_hosts":2}"#);
    let (mut table, ids) = table(4);
    let times: Times = [Duration::MAX; 60].into_iter().collect();
    let most = HostTally { total: u32::MAX, failures: u32::MAX, abandoned: u32::MAX, times, met: u32::MAX };
    let long = HostTally { total: 1, times, ..HostTally::default() };
    let more = HostTally { total: 50, failures: 60, ..HostTally::default() };
    for now in [Timestamp::ZERO, t(0), Timestamp(u64::MAX)] {
        look(&mut table, &rules, &tallies(&ids, &[most, long, more, most]), now, u64::MAX);
    }
    assert!(table.out() <= table.known());
}
