use super::*;
use crate::store::record::Mark;
use holdfast_policy::config;
use holdfast_policy::document::NamedHost;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const BAD: EjectionCause =
    EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Http(503) };
const HOUR: u64 = 3_600_000;

/// `millis` after a day of 2023.
fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

/// Rules without jitter, so that times can be told to the millisecond.
fn rules(more: &str) -> Outlier {
    let jitter = if more.contains("ejection_jitter") { "" } else { r#""ejection_jitter":0,"# };
    let text = format!(r#"{{"policies":[{{"name":"p","outlier":{{{jitter}"mode":"enforce"{more}}}}}]}}"#);
    config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}")).policies.remove(0).outlier.unwrap()
}

fn address(number: usize) -> String {
    format!("10.0.{}.{}:8080", number / 250, number % 250)
}

fn table(hosts: usize) -> (HostTable, Vec<HostId>) {
    let mut table = HostTable::default();
    let ids = (0..hosts).map(|number| table.enter(address(number).as_bytes(), false, t(0)).unwrap()).collect();
    (table, ids)
}

fn eject(table: &mut HostTable, rules: &Outlier, id: HostId, now: Timestamp) -> Ejection {
    table.eject(rules, id, BAD, now, 0)
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

fn lines(table: &HostTable) -> usize {
    table.events.list.len()
}

#[test]
fn a_limit_of_no_time_at_all_is_no_limit_and_so_it_is_stored() {
    let rules = rules(r#","latency":{"floor":"0s"}"#);
    let (mut table, ids) = table(5);
    let cause = EjectionCause::Latency { own: Duration::from_nanos(1), peers: Duration::ZERO, hosts: 4 };
    assert_eq!(table.eject(&rules, ids[0], cause, t(0), 0), Ejection::Ejected);
    assert_eq!(HostTable::decode(&table.encode(Mark { block: 7, key: 0 }), Mark { block: 7, key: 0 }), Some(table));
}

// How many may be out

#[test]
fn of_five_hosts_at_half_two_are_out_and_the_third_is_counted_as_one_too_many() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    assert_eq!(eject(&mut table, &rules, ids[0], t(0)), Ejection::Ejected, "1 of 5 is 20 %");
    assert_eq!(eject(&mut table, &rules, ids[1], t(0)), Ejection::Ejected, "2 of 5 are 40 %");
    assert_eq!(eject(&mut table, &rules, ids[2], t(0)), Ejection::Overflow, "with the candidate it would be 60 %");
    assert_eq!(table.out(), 2);
    assert!(table.host(ids[2]).unwrap().is_in());
    assert_eq!(counted(&table, HostCount::Detected(Detector::ConsecutiveFailures)), 3, "found were three");
    assert_eq!(counted(&table, HostCount::Ejected(Detector::ConsecutiveFailures)), 2, "taken out were two");
    assert_eq!(counted(&table, HostCount::Overflow), 1);
}

#[test]
fn the_limit_counts_the_candidate_and_is_reached_by_equality() {
    let limits =
        [(10, 50, 5), (9, 50, 4), (4, 25, 1), (4, 24, 0), (3, 33, 0), (3, 34, 1), (100, 1, 1), (7, 100, 7), (7, 0, 0)];
    for (hosts, percent, most) in limits {
        let rules = rules(&format!(r#","max_ejected":{percent},"always_eject_one":false"#));
        let (mut table, ids) = table(hosts);
        let out = ids.iter().filter(|id| eject(&mut table, &rules, **id, t(0)) == Ejection::Ejected).count();
        assert_eq!((out, table.out()), (most, most), "{percent} % of {hosts}");
    }
}

#[test]
fn one_host_may_always_be_out_and_never_a_second_by_that() {
    let without = rules(r#","max_ejected":10,"always_eject_one":false"#);
    let with = rules(r#","max_ejected":10"#);
    for hosts in [1, 2, 5, 9] {
        let (mut strict, ids) = table(hosts);
        assert_eq!(eject(&mut strict, &without, ids[0], t(0)), Ejection::Overflow, "one of {hosts} is over 10 %");
        let mut lenient = strict.clone();
        let outs: Vec<_> = ids.iter().map(|id| eject(&mut lenient, &with, *id, t(0))).collect();
        assert_eq!(outs[0], Ejection::Ejected);
        assert!(outs[1..].iter().all(|out| *out == Ejection::Overflow), "{outs:?}");
        assert_eq!(lenient.out(), 1);
    }
}

#[test]
fn a_host_that_is_back_makes_room_for_another() {
    let (rules, (mut table, ids)) = (rules(""), table(2));
    eject(&mut table, &rules, ids[0], t(0));
    assert_eq!(eject(&mut table, &rules, ids[1], t(1)), Ejection::Overflow, "one of two is half");
    assert!(table.take_probe(&rules, ids[0], t(30_000)));
    assert!(probed(&mut table, &rules, ids[0], None, t(30_000), t(30_001)));
    assert_eq!(eject(&mut table, &rules, ids[1], t(30_002)), Ejection::Ejected);
    assert_eq!(table.out(), 1);
}

#[test]
fn a_host_that_is_out_is_not_ejected_again_and_nothing_is_counted() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    let before = table.clone();
    assert_eq!(eject(&mut table, &rules, ids[0], t(1)), Ejection::Nothing);
    assert_eq!(
        eject(&mut table, &rules, HostId { index: 0, id: 99 }, t(1)),
        Ejection::Nothing,
        "a host of another name"
    );
    assert_eq!(
        eject(&mut table, &rules, HostId { index: 9, id: 0 }, t(1)),
        Ejection::Nothing,
        "a place without a host"
    );
    assert_eq!(table, before);
}

#[test]
fn the_line_about_one_too_many_comes_once_in_ten_seconds_for_each_host_and_the_count_each_time() {
    let (rules, (mut table, ids)) = (rules(""), table(3));
    eject(&mut table, &rules, ids[0], t(0));
    let told = |table: &HostTable| {
        table.events.list.iter().filter(|one| matches!(one.kind, HostEventKind::Overflow(_))).count()
    };
    eject(&mut table, &rules, ids[1], t(0));
    assert_eq!(told(&table), 1, "the first is told");
    eject(&mut table, &rules, ids[2], t(1));
    assert_eq!(told(&table), 2, "another host has its own line");
    eject(&mut table, &rules, ids[1], t(9_999));
    assert_eq!(told(&table), 2, "9,999 ms: silent");
    eject(&mut table, &rules, ids[1], t(10_000));
    assert_eq!(told(&table), 3, "10,000 ms: told again");
    eject(&mut table, &rules, ids[1], t(10_001));
    assert_eq!((told(&table), counted(&table, HostCount::Overflow)), (3, 5), "all five were counted");
}

#[test]
fn a_clock_put_back_silences_no_line_for_longer_than_it_is_apart() {
    let (rules, (mut table, ids)) = (rules(r#","max_ejected":0,"always_eject_one":false"#), table(2));
    eject(&mut table, &rules, ids[0], t(2 * HOUR));
    eject(&mut table, &rules, ids[0], t(HOUR));
    assert_eq!(lines(&table), 2, "an hour earlier is not within ten seconds");
}

// Modes

#[test]
fn a_detector_that_pretends_counts_and_tells_and_changes_nothing() {
    let rules = rules(r#","consecutive_failures":{"threshold":5,"mode":"shadow"}"#);
    let (mut table, ids) = table(5);
    for millis in [0, 1, 9_999] {
        assert_eq!(eject(&mut table, &rules, ids[0], t(millis)), Ejection::Shadowed);
    }
    assert_eq!(counted(&table, HostCount::Detected(Detector::ConsecutiveFailures)), 3);
    assert_eq!(counted(&table, HostCount::Would(Detector::ConsecutiveFailures)), 3);
    assert_eq!(counted(&table, HostCount::Ejected(Detector::ConsecutiveFailures)), 0);
    assert_eq!(counted(&table, HostCount::Overflow), 0, "a pretender is never one too many");
    assert_eq!(lines(&table), 1, "one line in ten seconds");
    assert!(table.host(ids[0]).unwrap().is_in());
    assert_eq!(table.host(ids[0]).unwrap().ejections, 0);
    assert!(!table.steers(&rules, t(1)), "requests go where they went");
}

#[test]
fn a_detector_that_is_off_finds_nothing() {
    let rules = rules(r#","consecutive_failures":{"threshold":5,"mode":"off"},"failure_rate":{}"#);
    let (mut table, ids) = table(5);
    let before = table.clone();
    assert_eq!(eject(&mut table, &rules, ids[0], t(0)), Ejection::Nothing);
    assert_eq!(table, before);
}

// Whether requests are steered

#[test]
fn steering_ends_below_the_panic_threshold_and_begins_again_at_it() {
    let (rules, (mut table, ids)) = (rules(r#","max_ejected":100,"panic_threshold":50"#), table(10));
    assert!(!table.steers(&rules, t(0)), "all are in: there is nothing to steer around");
    for id in &ids[..5] {
        eject(&mut table, &rules, *id, t(0));
        assert!(table.steers(&rules, t(0)), "{} of 10 out", table.out());
    }
    eject(&mut table, &rules, ids[5], t(0));
    assert!(!table.steers(&rules, t(0)), "four of ten are less than half: nobody is left out");
    assert!(probed(&mut table, &rules, ids[0], None, t(30_000), t(30_000)));
    assert!(table.steers(&rules, t(30_000)), "five of ten are half again");
}

#[test]
fn a_lone_host_that_is_out_is_steered_to_by_nobody_and_still_served() {
    let (rules, (mut table, ids)) = (rules(r#","panic_threshold":0"#), table(1));
    assert_eq!(eject(&mut table, &rules, ids[0], t(0)), Ejection::Ejected);
    assert!(!table.steers(&rules, t(0)), "there is no other, whatever the threshold");
    assert!(
        probed(&mut table, &rules, ids[0], None, t(30_000), t(30_001)),
        "whatever reaches it after its time is its probe"
    );
    assert_eq!(table.out(), 0);
}

#[test]
fn one_of_two_hosts_may_be_steered_around() {
    let (rules, (mut table, ids)) = (rules(""), table(2));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(table.steers(&rules, t(0)), "one of two left is the 50 % that the threshold asks for");
}

// How long

#[test]
fn a_host_is_out_for_its_time_to_the_millisecond() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    let host = table.host(ids[0]).unwrap();
    assert!(!host.is_due(&rules, t(29_999)), "29,999 ms: still out");
    assert!(!host.wants_probe(&rules, t(29_999)));
    assert!(host.is_due(&rules, t(30_000)), "30,000 ms: due");
    assert!(host.wants_probe(&rules, t(30_000)));
    assert!(!host.is_in(), "due is not back");
    assert_eq!(host.share(&rules, t(30_000)), 0, "and gets nothing but probes");
}

#[test]
fn each_ejection_is_longer_by_the_base_up_to_the_longest() {
    let (rules, (mut table, ids)) = (rules(r#","base_ejection_time":"30s","max_ejection_time":"100s""#), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    let mut now = t(0);
    for seconds in [30, 60, 90, 100, 100] {
        let lasts = Duration::from_secs(seconds);
        let just_before = Timestamp(now.plus(lasts).0 - 1);
        assert!(!table.take_probe(&rules, ids[0], just_before), "a nanosecond before {seconds} s: no probe");
        now = now.plus(lasts);
        assert!(table.take_probe(&rules, ids[0], now), "after {seconds} s: a probe");
        assert!(probed(&mut table, &rules, ids[0], Some(End::Reset), now, now), "which fails");
    }
    assert_eq!(table.host(ids[0]).unwrap().ejections, 5, "four make 100 s; the sixth adds nothing to be forgotten");
    assert_eq!(counted(&table, HostCount::ProbeFailed), 5);
    assert_eq!(
        counted(&table, HostCount::Ejected(Detector::ConsecutiveFailures)),
        1,
        "a failed probe is no new ejection"
    );
}

#[test]
fn jitter_lengthens_an_ejection_by_less_than_its_share_and_never_shortens_it() {
    let rules = rules(r#","ejection_jitter":10"#);
    for (random, from, to) in [(0, 30_000, 30_000), (u64::MAX / 2, 31_499, 31_500), (u64::MAX, 32_999, 33_000)] {
        let (mut table, ids) = table(5);
        table.eject(&rules, ids[0], BAD, t(0), random);
        let host = table.host(ids[0]).unwrap();
        assert!(from == to || !host.is_due(&rules, t(from)), "{random}: out at {from} ms");
        assert!(host.is_due(&rules, t(to)), "{random}: due at {to} ms");
    }
}

#[test]
fn the_longest_ejection_with_all_the_jitter_there_is_lasts_its_time() {
    let rules = rules(r#","ejection_jitter":100,"base_ejection_time":"300s","max_ejection_time":"300s""#);
    let (mut table, ids) = table(5);
    table.eject(&rules, ids[0], BAD, t(0), u64::MAX);
    let host = table.host(ids[0]).unwrap();
    assert!(!host.is_due(&rules, t(599_999)), "twice the longest time, less a little");
    assert!(host.is_due(&rules, t(600_000)));
}

#[test]
fn the_memory_of_ejections_fades_by_one_and_only_while_the_host_is_in() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    table.decay(&rules, ids[0]);
    assert_eq!(table.host(ids[0]).unwrap().ejections, 1, "out: nothing fades");
    probed(&mut table, &rules, ids[0], Some(End::TimedOut), t(30_000), t(30_000));
    probed(&mut table, &rules, ids[0], None, t(90_000), t(90_000));
    assert_eq!(table.host(ids[0]).unwrap().ejections, 2);
    for left in [1, 0, 0] {
        table.decay(&rules, ids[0]);
        assert_eq!(table.host(ids[0]).unwrap().ejections, left);
    }
    eject(&mut table, &rules, ids[0], t(100_000));
    assert!(table.host(ids[0]).unwrap().is_due(&rules, t(130_000)), "forgiven: the base time again");
}

/// How long a host would be out that is ejected now.
fn next_ejection(table: &HostTable, rules: &Outlier, id: HostId, now: Timestamp) -> Duration {
    let mut table = table.clone();
    assert_eq!(eject(&mut table, rules, id, now), Ejection::Ejected);
    let State::Out { until, .. } = table.host(id).unwrap().state else { panic!("it is out") };
    until.since(now)
}

/// What Envoy counts of a host: `ejectHost` and `checkHostForUneject` of `source/common/upstream/outlier_detection_impl.cc`.
#[derive(Default)]
struct Envoy {
    backoff: u64,
}

impl Envoy {
    const BASE: u64 = 30;
    const MAX: u64 = 300;

    /// How many seconds an ejection takes.
    fn eject(&mut self) -> u64 {
        if self.backoff * Self::BASE < Self::MAX + Self::BASE {
            self.backoff += 1;
        }
        (self.backoff * Self::BASE).min(Self::MAX)
    }

    fn healthy_interval(&mut self) {
        self.backoff = self.backoff.saturating_sub(1);
    }
}

#[test]
fn after_a_bad_day_ejections_are_short_again_as_soon_as_with_envoy() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    let (id, mut envoy) = (ids[0], Envoy::default());
    eject(&mut table, &rules, id, t(0));
    let (mut now, mut ejections) = (t(0).plus(Duration::from_secs(envoy.eject())), 1);
    while now < t(24 * HOUR) {
        assert!(table.take_probe(&rules, id, now), "it is due when Envoy would have it back");
        assert!(probed(&mut table, &rules, id, Some(End::Http(503)), now, now), "and as bad as before");
        now = now.plus(Duration::from_secs(envoy.eject()));
        ejections += 1;
    }
    assert!(ejections > 290, "a day of five minutes each: {ejections}");
    assert!(table.take_probe(&rules, id, now));
    assert!(probed(&mut table, &rules, id, None, now, now), "the next morning it is well");

    let lengths: Vec<u64> = (0..=11)
        .map(|_| {
            let next = next_ejection(&table, &rules, id, now).as_secs();
            assert_eq!(next, Envoy { backoff: envoy.backoff }.eject());
            table.decay(&rules, id);
            envoy.healthy_interval();
            now = now.plus(rules.interval);
            next
        })
        .collect();
    assert_eq!(
        lengths,
        [300, 300, 300, 270, 240, 210, 180, 150, 120, 90, 60, 30],
        "short after 110 s, not after 48 min"
    );
}

#[test]
fn what_an_earlier_version_counted_for_ever_is_forgotten_as_soon() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    table.host_mut(ids[0]).unwrap().ejections = 288;
    let mut read = HostTable::decode(&table.encode(Mark { block: 7, key: 0 }), Mark { block: 7, key: 0 }).unwrap();
    assert_eq!(next_ejection(&read, &rules, ids[0], t(0)), Duration::from_secs(300));
    for _ in 0..11 {
        read.decay(&rules, ids[0]);
    }
    assert_eq!(next_ejection(&read, &rules, ids[0], t(110_000)), Duration::from_secs(30));
    table.host_mut(ids[0]).unwrap().ejections = u16::MAX;
    eject(&mut table, &rules, ids[0], t(0));
    assert_eq!(table.host(ids[0]).unwrap().ejections, 11, "also where it goes out again first");
}

// Probes

#[test]
fn one_permit_is_one_probe_until_it_is_answered_or_its_lease_is_over() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(table.take_probe(&rules, ids[0], t(30_000)));
    assert!(!table.take_probe(&rules, ids[0], t(30_001)), "it is under way");
    assert!(!table.take_probe(&rules, ids[0], t(39_999)), "9,999 ms: it may still be answered");
    assert!(table.take_probe(&rules, ids[0], t(40_000)), "10,000 ms: another in its place");
    assert!(!table.take_probe(&rules, ids[0], t(40_001)), "and not a third");
}

#[test]
fn three_probes_have_to_succeed_where_three_are_asked_for() {
    let (rules, (mut table, ids)) = (rules(r#","probe":{"requests":3}"#), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    let taken = (0..10).filter(|_| table.take_probe(&rules, ids[0], t(30_000))).count();
    assert_eq!(taken, 3);
    for passed in 1..=2 {
        assert!(probed(&mut table, &rules, ids[0], None, t(30_000), t(30_010)));
        assert!(!table.host(ids[0]).unwrap().is_in(), "{passed} of 3");
        assert!(!table.take_probe(&rules, ids[0], t(30_010)), "a success frees no permit: it has used it up");
    }
    assert!(probed(&mut table, &rules, ids[0], None, t(30_000), t(30_020)));
    assert!(table.host(ids[0]).unwrap().is_in(), "3 of 3");
    assert_eq!(counted(&table, HostCount::Readmitted), 1);
    assert!(
        matches!(table.events.list.last(), Some(HostEvent { kind: HostEventKind::Readmitted { after, by_trial: false }, out: 0, of: 5, .. })
        if *after == Duration::from_millis(30_020)),
        "since it was first out"
    );
}

#[test]
fn a_failed_probe_takes_the_successes_before_it_along() {
    let (rules, (mut table, ids)) = (rules(r#","probe":{"requests":2}"#), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(table.take_probe(&rules, ids[0], t(30_000)) && table.take_probe(&rules, ids[0], t(30_000)));
    probed(&mut table, &rules, ids[0], None, t(30_000), t(30_001));
    probed(&mut table, &rules, ids[0], Some(End::Http(503)), t(30_000), t(30_002));
    assert!(!table.host(ids[0]).unwrap().is_due(&rules, t(90_001)), "out for 60 s more");
    assert!(
        table.take_probe(&rules, ids[0], t(90_002)) && table.take_probe(&rules, ids[0], t(90_002)),
        "both permits are back"
    );
    probed(&mut table, &rules, ids[0], None, t(90_002), t(90_003));
    assert!(!table.host(ids[0]).unwrap().is_in(), "one of two");
}

#[test]
fn a_hundred_probes_can_be_under_way_and_are_stored() {
    let (rules, (mut table, ids)) = (rules(r#","probe":{"requests":100}"#), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    let taken = (0..200).filter(|_| table.take_probe(&rules, ids[0], t(30_000))).count();
    assert_eq!(taken, 100);
    assert_eq!(
        HostTable::decode(&table.encode(Mark { block: 7, key: 0 }), Mark { block: 7, key: 0 }).as_ref(),
        Some(&table)
    );
}

#[test]
fn attempts_sent_before_the_time_was_over_say_nothing() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    let out = table.clone();
    for failed in [None, Some(End::Reset)] {
        assert!(!probed(&mut table, &rules, ids[0], failed, t(29_999), t(30_500)), "sent at 29,999 ms");
        assert_eq!(table, out);
    }
    assert!(probed(&mut table, &rules, ids[0], None, t(30_000), t(30_500)), "sent at 30,000 ms");
}

#[test]
fn attempts_sent_before_the_host_came_back_say_nothing() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    assert!(table.host(ids[0]).unwrap().is_judged_by(&rules, t(0), t(0)), "a host that was never out is judged by all");
    eject(&mut table, &rules, ids[0], t(0));
    probed(&mut table, &rules, ids[0], None, t(30_000), t(30_100));
    let host = table.host(ids[0]).unwrap();
    assert!(!host.is_judged_by(&rules, t(30_099), t(30_200)), "sent while it was out");
    assert!(host.is_judged_by(&rules, t(30_100), t(30_200)));
    let back = table.clone();
    assert!(!probed(&mut table, &rules, ids[0], Some(End::Reset), t(30_100), t(31_000)), "it has no probe any more");
    assert_eq!(table, back);
}

#[test]
fn the_answer_to_a_probe_of_the_time_before_says_nothing() {
    let (rules, (mut table, ids)) = (rules(r#","probe":{"requests":2}"#), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(table.take_probe(&rules, ids[0], t(30_000)) && table.take_probe(&rules, ids[0], t(30_000)));
    probed(&mut table, &rules, ids[0], Some(End::Reset), t(30_000), t(30_001));
    let out = table.clone();
    assert!(
        !probed(&mut table, &rules, ids[0], Some(End::Reset), t(30_000), t(30_002)),
        "the second failure is not counted twice"
    );
    assert!(
        !probed(&mut table, &rules, ids[0], None, t(30_000), t(95_000)),
        "nor does a late success count after the new time"
    );
    assert_eq!(table, out);
}

#[test]
fn a_permit_is_given_back_by_a_request_that_said_nothing() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(!table.return_probe(ids[0], t(30_000)), "there is none");
    assert!(table.take_probe(&rules, ids[0], t(30_000)));
    assert!(!table.return_probe(ids[0], t(29_999)), "sent before it was taken: another's");
    assert!(table.return_probe(ids[0], t(30_000)));
    assert!(table.take_probe(&rules, ids[0], t(30_001)), "at once");
}

// Coming back

#[test]
fn a_host_that_starts_slowly_has_a_tenth_at_first_and_all_in_the_end() {
    let (rules, (mut table, ids)) = (rules(r#","slow_start":"10s""#), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    probed(&mut table, &rules, ids[0], None, t(30_000), t(30_000));
    for (millis, share) in
        [(0, 100), (999, 100), (1_000, 100), (2_500, 250), (9_990, 999), (10_000, 1000), (60_000, 1000)]
    {
        assert_eq!(
            table.host(ids[0]).unwrap().share(&rules, t(30_000 + millis)),
            share,
            "{millis} ms after it came back"
        );
    }
    assert!(table.host(ids[0]).unwrap().is_in(), "it counts as in");
    assert!(table.steers(&rules, t(39_999)), "9,999 ms: requests are steered, or it would have its full share");
    assert!(!table.steers(&rules, t(40_000)), "10,000 ms: the cluster's own balancing again");
    table.end_slow_starts(&rules, t(39_999));
    assert!(matches!(table.host(ids[0]).unwrap().state, State::Starting { .. }));
    table.end_slow_starts(&rules, t(40_000));
    assert_eq!(table.host(ids[0]).unwrap().state, State::In { since: t(30_000) });
}

#[test]
fn a_host_that_fails_while_it_starts_is_out_again_for_longer() {
    let (rules, (mut table, ids)) = (rules(r#","slow_start":"10s""#), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    probed(&mut table, &rules, ids[0], None, t(30_000), t(30_000));
    assert_eq!(eject(&mut table, &rules, ids[0], t(31_000)), Ejection::Ejected);
    assert!(!table.host(ids[0]).unwrap().is_due(&rules, t(90_999)), "59,999 ms: still out");
    assert!(table.host(ids[0]).unwrap().is_due(&rules, t(91_000)), "60,000 ms: due");
}

#[test]
fn our_own_checks_let_back_at_once_only_what_they_took_out() {
    let rules = rules(r#","heartbeat":{"path":"/healthz"}"#);
    let (mut table, ids) = table(5);
    let found = EjectionCause::Heartbeat { failures: 3, last: None };
    table.eject(&rules, ids[0], found, t(0), u64::MAX);
    eject(&mut table, &rules, ids[1], t(0));
    assert!(table.readmit_healthy(&rules, ids[0], t(1)), "found bad by the checks and found good by them");
    assert!(!table.readmit_healthy(&rules, ids[1], t(29_999)), "29,999 ms: its time is not over");
    assert!(table.readmit_healthy(&rules, ids[1], t(30_000)));
    assert!(!table.readmit_healthy(&rules, ids[1], t(30_000)), "it is in");
    assert_eq!(counted(&table, HostCount::Readmitted), 2);
}

// A clock that jumps

#[test]
fn a_clock_put_back_by_an_hour_locks_no_host_out() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(HOUR));
    let host = table.host(ids[0]).unwrap();
    assert!(host.is_due(&rules, t(0)), "a time that far ahead can only be from before the clock was put back");
    assert!(table.take_probe(&rules, ids[0], t(0)));
    assert!(probed(&mut table, &rules, ids[0], None, t(0), t(5)), "its probe is judged");
    assert!(table.host(ids[0]).unwrap().is_in());
}

#[test]
fn a_clock_put_back_by_an_hour_hides_no_host_from_the_detectors() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(HOUR));
    probed(&mut table, &rules, ids[0], None, t(HOUR + 30_000), t(HOUR + 30_000));
    // 20 s later by a clock that has lost an hour.
    let host = table.host(ids[0]).unwrap();
    assert!(
        host.is_judged_by(&rules, t(50_000), t(50_000)),
        "it is in, and a try that was sent just now says something about it"
    );
}

#[test]
fn a_permit_taken_before_the_clock_was_put_back_is_over() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(HOUR));
    assert!(table.take_probe(&rules, ids[0], t(HOUR + 30_000)));
    assert!(table.take_probe(&rules, ids[0], t(0)), "an hour earlier");
    assert!(!table.take_probe(&rules, ids[0], t(1)), "one is under way");
}

#[test]
fn a_clock_put_back_during_a_slow_start_ends_it() {
    let (rules, (mut table, ids)) = (rules(r#","slow_start":"10s""#), table(5));
    eject(&mut table, &rules, ids[0], t(HOUR));
    probed(&mut table, &rules, ids[0], None, t(HOUR + 30_000), t(HOUR + 30_000));
    assert!(table.steers(&rules, t(HOUR + 31_000)));
    assert!(!table.steers(&rules, t(0)), "nobody is steered for an hour");
    table.end_slow_starts(&rules, t(0));
    assert_eq!(table.host(ids[0]).unwrap().share(&rules, t(0)), 1000);
}

#[test]
fn a_clock_put_forward_ends_times_early_and_nothing_else() {
    let (rules, (mut table, ids)) = (rules(""), table(5));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(table.take_probe(&rules, ids[0], t(HOUR)), "due at once");
    assert!(probed(&mut table, &rules, ids[0], None, t(HOUR), t(HOUR + 1)));
    let end = Timestamp(u64::MAX);
    eject(&mut table, &rules, ids[1], end);
    assert!(table.host(ids[1]).unwrap().is_due(&rules, end), "at the end of time nothing lasts");
}

#[test]
fn a_table_that_was_full_before_the_clock_was_put_back_steers_again() {
    let (rules, (mut table, ids)) = (rules(""), table(MOST_HOSTS));
    eject(&mut table, &rules, ids[0], t(HOUR));
    assert_eq!(table.enter(b"10.9.9.9:80", false, t(HOUR)), None);
    assert!(!table.steers(&rules, t(HOUR)));
    assert!(table.steers(&rules, t(0)), "an hour earlier nothing is known of there being more");
}

// Which hosts there are

#[test]
fn a_thousand_hosts_have_places_and_one_more_is_told_of_once() {
    let (rules, (mut table, ids)) = (rules(""), table(MOST_HOSTS));
    assert_eq!((table.known(), lines(&table)), (1000, 0));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(table.steers(&rules, t(1)));
    for millis in 1..100 {
        assert_eq!(table.enter(b"10.9.9.9:80", false, t(millis)), None);
    }
    assert!(!table.steers(&rules, t(100)), "hosts that nobody knows would get nothing");
    let full = |table: &HostTable| table.events.list.iter().filter(|one| one.kind == HostEventKind::Full).count();
    assert_eq!(full(&table), 1);
    assert!(!table.steers(&rules, t(600_098)), "99 + 599,999 ms after the last of them: not steered");
    assert!(table.steers(&rules, t(600_099)), "600 s after it nobody says that there are more");
    table.forget(ids[500]);
    let new = table.enter(b"10.9.9.9:80", false, t(700_000)).unwrap();
    assert_eq!(usize::from(new.index), 500, "a place that is free is taken");
    assert_eq!(full(&table), 1);
}

#[test]
fn whoever_takes_a_forgotten_hosts_place_is_somebody_else() {
    let (rules, (mut table, ids)) = (rules(""), table(3));
    eject(&mut table, &rules, ids[1], t(0));
    table.forget(ids[1]);
    assert_eq!((table.known(), table.out(), table.find(address(1).as_bytes())), (2, 0, None));
    let again = table.enter(address(1).as_bytes(), false, t(1)).unwrap();
    assert_eq!(again.index, ids[1].index);
    assert_ne!(again.id, ids[1].id);
    assert!(table.host(ids[1]).is_none(), "the name of the one before names nobody");
    assert!(table.host(again).unwrap().is_in(), "and what it did is forgotten");
    table.forget(ids[1]);
    assert_eq!(table.known(), 3);
}

#[test]
fn places_at_the_end_are_given_up() {
    let (mut table, ids) = table(3);
    table.forget(ids[1]);
    assert_eq!(table.indexes(), 3, "a place between others stays");
    table.forget(ids[2]);
    assert_eq!(table.indexes(), 1, "those at the end go, with the free one before them");
}

#[test]
fn what_is_too_long_or_empty_is_no_address() {
    let (mut table, _) = table(0);
    assert_eq!(table.enter(b"", false, t(0)), None);
    assert_eq!(table.enter(&[b'1'; LONGEST_ADDRESS + 1], false, t(0)), None);
    assert_eq!((table.known(), table.indexes()), (0, 0));
}

#[test]
fn a_listing_is_the_truth_but_for_configured_hosts() {
    let (rules, (mut table, ids)) = (rules(""), table(4));
    eject(&mut table, &rules, ids[0], t(0));
    eject(&mut table, &rules, ids[1], t(0));
    let listed = HostListing::of_named(&[1, 2, 9].map(address).map(NamedHost::at));
    table.list(&listed, &|host| host == address(3).as_bytes(), t(1));
    assert!(table.host(ids[0]).is_none(), "it is gone, though it was out");
    assert!(!table.host(ids[1]).unwrap().is_in(), "what is still there stays as it was");
    assert!(table.host(ids[3]).is_some(), "the policy names it");
    assert!(table.find(address(9).as_bytes()).is_some(), "and one is new");
    assert_eq!((table.known(), table.out()), (4, 1));
    table.list(&listed, &|host| host == address(3).as_bytes(), t(5_001));
    assert_eq!((table.known(), table.out()), (4, 1), "the same listing again changes nothing");
}

#[test]
fn a_new_host_that_turns_up_while_another_is_out_lets_the_next_be_looked_for_at_once() {
    let (rules, (mut table, ids)) = (rules(""), table(3));
    eject(&mut table, &rules, ids[0], t(0));
    assert!(!table.wants_discovery_request(Duration::ZERO, t(1_000)), "five seconds after the first went out");
    table.enter(b"10.9.9.9:80", false, t(1_000));
    let at_once = (0..10).filter(|_| table.send_discovery_request(Duration::ZERO, t(1_001))).count();
    assert_eq!(at_once, 4, "as many as it takes to come round");
    assert!(
        !table.wants_discovery_request(Duration::ZERO, t(6_000))
            && table.wants_discovery_request(Duration::ZERO, t(6_001))
    );
    assert!(
        !table.wants_discovery_request(Duration::from_secs(1), t(7_000)),
        "what had better not waits a second more"
    );
}

// As bytes

/// A table with everything in it.
fn full_of_everything() -> HostTable {
    let rules = rules(r#","slow_start":"10s","probe":{"requests":3},"failure_rate":{},"heartbeat":{"path":"/"}"#);
    let (mut table, ids) = table(9);
    table.cluster = b"orders".to_vec();
    table.swept = 17;
    eject(&mut table, &rules, ids[0], t(0));
    table.take_probe(&rules, ids[0], t(30_000));
    table.take_probe(&rules, ids[0], t(30_001));
    probed(&mut table, &rules, ids[0], None, t(30_001), t(30_002));
    table.eject(&rules, ids[1], EjectionCause::FailureRate { failures: 9, total: 10 }, t(0), 5);
    table.readmit_healthy(&rules, ids[1], t(60_000));
    table.eject(&rules, ids[2], EjectionCause::Heartbeat { failures: 3, last: Some(503) }, t(60_001), 5);
    table.eject(&rules, ids[2], BAD, t(60_001), 5);
    table.forget(ids[4]);
    table.miss(ids[5], 3);
    table.note(b"10.0.0.3:8080", HostEventKind::TakenOver(Duration::from_secs(12)));
    table
}

#[test]
fn what_one_worker_writes_another_reads_and_nothing_else_is_read() {
    let table = full_of_everything();
    let bytes = table.encode(Mark { block: 7, key: 0 });
    assert!(
        HostTable::decode(&bytes, Mark { block: 7, key: 0 }).as_ref() == Some(&table),
        "all of it, free places too"
    );
    assert_eq!(HostTable::decode(&bytes, Mark { block: 8, key: 0 }), None, "another policy's");
    for len in 0..bytes.len() {
        assert_eq!(HostTable::decode(&bytes[..len], Mark { block: 7, key: 0 }), None, "cut at {len}");
    }
    assert_eq!(HostTable::decode(&[&bytes[..], &[0]].concat(), Mark { block: 7, key: 0 }), None, "one byte more");
}

#[test]
fn a_table_with_any_byte_changed_reads_as_none_or_has_that_one_form() {
    let bytes = full_of_everything().encode(Mark { block: 7, key: 0 });
    for at in 0..bytes.len() {
        for value in [0, 1, 2, 3, 6, 7, 8, 0x7f, 0xff, bytes[at] ^ 1] {
            let mut other = bytes.clone();
            other[at] = value;
            if let Some(table) = HostTable::decode(&other, Mark { block: 7, key: 0 }) {
                assert!(
                    table.encode(Mark { block: 7, key: 0 }) == other,
                    "byte {at} as {value} is another form of the same"
                );
            }
        }
    }
}

#[test]
fn a_thousand_hosts_fit_into_what_is_reserved_for_them() {
    let (table, _) = table(MOST_HOSTS);
    let len = table.encode(Mark { block: 7, key: 0 }).len();
    assert!(len <= table.size() + 10, "{len} bytes in {}", table.size());
    assert!(len < 64 * 1024, "{len} bytes for each look");
}

// What a changed block begins with

/// One of five hosts is out from 0 on.
fn one_out(old: &Outlier) -> (HostTable, Vec<HostId>) {
    let (mut table, ids) = table(5);
    eject(&mut table, old, ids[0], t(0));
    (table, ids)
}

#[test]
fn a_host_that_is_out_stays_out_under_a_changed_policy_for_its_time() {
    let (table, ids) = one_out(&rules(""));
    let new = rules(r#","base_ejection_time":"60s","probe":{"requests":2},"max_ejected":10,"always_eject_one":false"#);
    let taken = table.taken_over(&new, t(5_000)).unwrap();
    assert_eq!(taken.host(ids[0]), table.host(ids[0]), "time, multiplier and name, also where none may be out");
    assert_eq!(taken.known(), 5);
    assert!(!taken.host(ids[0]).unwrap().is_due(&new, t(29_999)));
    assert!(taken.host(ids[0]).unwrap().wants_probe(&new, t(30_000)));
    assert_eq!(taken.events.counts().count(), 0);
    let [HostEvent { kind: HostEventKind::TakenOver(left), out: 1, of: 5, .. }] = taken.events.list[..] else {
        panic!("{:?}", taken.events);
    };
    assert_eq!(left, Duration::from_secs(25));
}

#[test]
fn it_is_out_for_the_longest_time_of_the_changed_policy_at_most() {
    let (old, ten) =
        (rules(r#","base_ejection_time":"200s""#), r#","base_ejection_time":"1s","max_ejection_time":"10s""#);
    let (mut table, ids) = one_out(&old);
    let due = |table: &HostTable, more: &str, now| {
        table.taken_over(&rules(&format!("{ten}{more}")), now).unwrap().host(ids[0]).unwrap().due_since()
    };
    assert_eq!(due(&table, "", t(4_000)), Some(t(10_000)), "from when it went out");
    assert_eq!(due(&table, "", t(50_000)), Some(t(10_000)));
    assert_eq!(due(&table, r#","ejection_jitter":50"#, t(4_000)), Some(t(15_000)), "with jitter");
    table.take_probe(&old, ids[0], t(200_000));
    probed(&mut table, &old, ids[0], Some(End::Reset), t(200_000), t(200_100));
    assert_eq!(due(&table, "", t(201_000)), Some(t(211_000)), "it has just failed its probe: from now on");
    let taken = table.taken_over(&rules(ten), t(201_000)).unwrap();
    let host = taken.host(ids[0]).unwrap();
    assert_eq!((host.ejections, host.seen), (2, t(211_000)), "and it is not missed before");
}

#[test]
fn the_multiplier_is_one_that_the_changed_policy_can_have() {
    let (mut table, ids) = one_out(&rules(""));
    table.host_mut(ids[0]).unwrap().ejections = 9;
    let kept = |more: &str| table.taken_over(&rules(more), t(1)).unwrap().host(ids[0]).unwrap().ejections;
    assert_eq!(kept(""), 9, "up to 300 s");
    assert_eq!(kept(r#","base_ejection_time":"30s","max_ejection_time":"60s""#), 3);
}

#[test]
fn what_the_changed_policy_does_not_act_on_lets_its_hosts_back() {
    let (table, ids) = one_out(&rules(""));
    for (more, is_slow) in [
        (r#","consecutive_failures":0,"failure_rate":{}"#, false),
        (r#","consecutive_failures":{"threshold":5,"mode":"shadow"},"failure_rate":{},"slow_start":"10s""#, true),
    ] {
        let new = rules(more);
        let taken = table.taken_over(&new, t(5_000)).unwrap();
        let host = taken.host(ids[0]).unwrap();
        assert_eq!((host.is_in(), host.is_starting(&new, t(5_000))), (true, is_slow));
        assert_eq!((host.in_since(), host.seen, host.ejections), (Some(t(5_000)), t(5_000), 1));
        assert!(taken.events.is_empty());
    }
}

#[test]
fn a_host_that_a_heartbeat_took_out_waits_for_one_if_there_still_is_one() {
    let beats = rules(r#","heartbeat":{"path":"/"}"#);
    let (mut table, ids) = table(5);
    table.eject(&beats, ids[0], EjectionCause::Heartbeat { failures: 3, last: None }, t(0), 0);
    let other = rules(r#","heartbeat":{"path":"/other"}"#);
    let mut taken = table.taken_over(&other, t(5_000)).unwrap();
    assert!(!taken.host(ids[0]).unwrap().is_in());
    assert!(taken.readmit_healthy(&other, ids[0], t(5_001)));
    assert!(table.taken_over(&rules(""), t(5_000)).unwrap().host(ids[0]).unwrap().is_in(), "nobody would let it back");
}

#[test]
fn probes_under_way_stay_so_and_fewer_of_them_get_nothing_stuck() {
    let old = rules(r#","probe":{"requests":4}"#);
    let (mut table, ids) = one_out(&old);
    for at in 0..3 {
        assert!(table.take_probe(&old, ids[0], t(30_000 + at * 100)));
    }
    probed(&mut table, &old, ids[0], None, t(30_000), t(30_300));
    assert!(table.take_probe(&old, ids[0], t(30_400)));
    let state = |taken: &HostTable| match &taken.host(ids[0]).unwrap().state {
        State::Out { probes, passed, .. } => {
            let mut probes = probes.clone();
            probes.sort_unstable();
            (probes, *passed)
        }
        other => panic!("{other:?}"),
    };
    let (more, fewer) = (rules(r#","probe":{"requests":5}"#), rules(r#","probe":{"requests":2}"#));
    let taken = table.taken_over(&more, t(31_000)).unwrap();
    assert_eq!(state(&taken), (vec![t(30_100), t(30_200), t(30_400)], 1));
    assert!(taken.host(ids[0]).unwrap().wants_probe(&more, t(31_000)), "one of five");
    let mut taken = table.taken_over(&fewer, t(31_000)).unwrap();
    assert_eq!(state(&taken), (vec![t(30_400)], 1), "the one that is under way longest");
    assert!(!taken.host(ids[0]).unwrap().wants_probe(&fewer, t(40_399)));
    assert!(taken.take_probe(&fewer, ids[0], t(40_400)), "its lease is over");
    probed(&mut taken, &fewer, ids[0], None, t(40_400), t(40_500));
    assert!(taken.host(ids[0]).unwrap().is_in());
    let one = rules("");
    let mut taken = table.taken_over(&one, t(41_000)).unwrap();
    assert_eq!(state(&taken), (vec![], 0), "what is asked for now decides");
    assert!(taken.take_probe(&one, ids[0], t(41_000)));
}

#[test]
fn slow_starts_go_on_under_a_changed_policy_and_one_of_no_time_is_over() {
    let old = rules(r#","slow_start":"10s""#);
    let (mut table, ids) = one_out(&old);
    table.take_probe(&old, ids[0], t(30_000));
    probed(&mut table, &old, ids[0], None, t(30_000), t(30_000));
    let (slower, none) = (rules(r#","slow_start":"20s""#), rules(""));
    let share = |new: &Outlier| table.taken_over(new, t(35_000)).unwrap().host(ids[0]).unwrap().share(new, t(35_000));
    assert_eq!((share(&old), share(&slower), share(&none)), (500, 250, 1000));
}

#[test]
fn hosts_are_listed_as_the_changed_policy_says() {
    let (mut table, ids) = table(3);
    for id in &ids[..2] {
        table.host_mut(*id).unwrap().listed = true;
    }
    let listed = |more: &str| -> Vec<bool> {
        table.taken_over(&rules(more), t(1)).unwrap().hosts().map(|(_, host)| host.listed).collect()
    };
    assert_eq!(listed(""), [false; 3]);
    assert_eq!(listed(r#","hosts":["10.0.0.2:8080"]"#), [false, false, true]);
    let discover = r#","discover":{"cluster":"admin","path":"/clusters?format=json"}"#;
    assert_eq!(listed(discover), [true, true, false], "until the first listing");
}

#[test]
fn of_a_table_without_hosts_or_of_foreign_bytes_there_is_nothing_to_take_over() {
    let new = rules("");
    assert_eq!(HostTable { cluster: b"orders".to_vec(), ..HostTable::default() }.taken_over(&new, t(0)), None);
    let (mut twice, _) = table(2);
    twice.hosts[1] = twice.hosts[0].clone();
    assert_eq!(twice.taken_over(&new, t(0)), None);
}

#[test]
fn a_clock_put_back_by_an_hour_keeps_nobody_out_who_is_taken_over() {
    let old = rules("");
    let (mut table, ids) = table(5);
    eject(&mut table, &old, ids[0], t(HOUR));
    let taken = table.taken_over(&old, t(0)).unwrap();
    assert!(taken.host(ids[0]).unwrap().is_due(&old, t(0)));
}
