//! The state machine alone, as timelines. `t` is milliseconds since a start.

use super::*;
use crate::breaker::thresholds;
use crate::http::outcome::Verdict;
use crate::store::record::Mark;
use holdfast_policy::config;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };
const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };
const SLOW: Outcome = Outcome { verdict: Verdict::Success, slow: true, retry_after: None };

fn breaker(settings: &str) -> Breaker {
    let text = format!(r#"{{"policies":[{{"name":"p","outcome":{{"slow_after":"1s"}},"breaker":{settings}}}]}}"#);
    config::parse(text.as_bytes()).unwrap().policies.remove(0).breaker.unwrap()
}

/// Five probes, 10 s open without jitter.
fn plain() -> Breaker {
    breaker(r#"{"open_for":"10s","open_jitter":0}"#)
}

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn tally(total: u32, failures: u32, slow: u32) -> Tally {
    Tally { total, failures, slow }
}

fn open_at(breaker: &Breaker, cell: &mut Cell, now: Timestamp) -> Duration {
    let judged = cell.trip(breaker, cell.generation, Trip::FailureRate(tally(20, 20, 0)), None, now, 0);
    match judged {
        CellChange::Moved(Transition {
            to: StateName::Open, cause: TransitionCause::Tripped { open_for, .. }, ..
        }) => open_for,
        other => panic!("it did not open: {other:?}"),
    }
}

fn probe(breaker: &Breaker, cell: &mut Cell, now: Timestamp) -> Option<(u32, u32)> {
    match cell.admit(breaker, now, 0).0 {
        Admission::Probe { generation, lease } => Some((generation, lease)),
        Admission::Reject { .. } => None,
        Admission::Pass { .. } => panic!("half-open lets nothing but probes pass"),
    }
}

/// Lets one probe pass and judges it.
fn probe_with(breaker: &Breaker, cell: &mut Cell, outcome: &Outcome, now: Timestamp) -> CellChange {
    let (generation, lease) = probe(breaker, cell, now).expect("a permit is free");
    cell.judge_probe(breaker, generation, lease, outcome, now, 0)
}

#[test]
fn it_trips_at_the_threshold_and_at_the_volume_and_not_one_below() {
    let breaker = plain();
    assert_eq!(thresholds::tripped(&breaker, tally(20, 10, 0), 0), Some(Trip::FailureRate(tally(20, 10, 0))));
    assert_eq!(thresholds::tripped(&breaker, tally(20, 9, 0), 0), None, "45% is below 50%");
    assert_eq!(thresholds::tripped(&breaker, tally(19, 19, 0), 0), None, "19 requests are below min_requests");
}

#[test]
fn each_trigger_works_alone() {
    let slow = breaker(r#"{"failure_rate":0,"slow_rate":50}"#);
    assert_eq!(thresholds::tripped(&slow, tally(20, 20, 9), 0), None);
    assert_eq!(thresholds::tripped(&slow, tally(20, 0, 10), 0), Some(Trip::SlowRate(tally(20, 0, 10))));
    let run = breaker(r#"{"failure_rate":0,"consecutive_failures":3}"#);
    assert_eq!(thresholds::tripped(&run, tally(2, 2, 0), 2), None);
    assert_eq!(thresholds::tripped(&run, tally(3, 3, 0), 3), Some(Trip::ConsecutiveFailures(3)), "whatever the volume");
}

#[test]
fn open_rejects_until_its_period_is_over_and_then_lets_probes_pass() {
    let (breaker, mut cell) = (plain(), Cell::default());
    assert_eq!(cell.peek(&breaker, t(0), 0), Some(Admission::Pass { generation: 0 }));
    assert_eq!(open_at(&breaker, &mut cell, t(0)), Duration::from_secs(10));
    let left = Duration::from_millis(1);
    assert_eq!(cell.peek(&breaker, t(9_999), 0), Some(Admission::Reject { retry_after: left }));
    assert_eq!(cell.peek(&breaker, t(10_000), 0), None, "somebody has to move it on");
    let (admission, transition) = cell.admit(&breaker, t(10_000), 0);
    assert!(matches!(admission, Admission::Probe { .. }));
    assert_eq!(transition.map(|transition| transition.to), Some(StateName::HalfOpen));
}

#[test]
fn half_open_lets_exactly_its_probes_pass_and_closes_when_all_are_judged_good() {
    let (breaker, mut cell) = (plain(), Cell::default());
    open_at(&breaker, &mut cell, t(0));
    let permits: Vec<_> = (0..50).filter_map(|_| probe(&breaker, &mut cell, t(10_000))).collect();
    assert_eq!(permits.len(), 5);
    for (generation, lease) in &permits[..4] {
        assert_eq!(cell.judge_probe(&breaker, *generation, *lease, &SUCCESS, t(10_100), 0), CellChange::HostCount);
        assert_eq!(probe(&breaker, &mut cell, t(10_100)), None, "a judged probe's permit is used up");
    }
    let (generation, lease) = permits[4];
    let judged = cell.judge_probe(&breaker, generation, lease, &SUCCESS, t(10_200), 0);
    assert!(matches!(judged, CellChange::Moved(Transition { to: StateName::Closed, .. })));
    assert_eq!(cell.opens, 0, "the next period is the first one again");
}

#[test]
fn half_open_opens_as_soon_as_nothing_can_prevent_it() {
    let (breaker, mut cell) = (plain(), Cell::default());
    open_at(&breaker, &mut cell, t(0));
    assert_eq!(probe_with(&breaker, &mut cell, &FAILURE, t(10_000)), CellChange::HostCount);
    assert_eq!(probe_with(&breaker, &mut cell, &SUCCESS, t(10_000)), CellChange::HostCount);
    assert_eq!(probe_with(&breaker, &mut cell, &FAILURE, t(10_000)), CellChange::HostCount, "2 of 5 are 40%");
    let judged = probe_with(&breaker, &mut cell, &FAILURE, t(10_000));
    assert!(matches!(judged, CellChange::Moved(Transition { to: StateName::Open, .. })), "3 of 5 are 60%");
}

#[test]
fn half_open_below_the_threshold_closes_despite_a_failure() {
    let (breaker, mut cell) = (plain(), Cell::default());
    open_at(&breaker, &mut cell, t(0));
    for outcome in [FAILURE, SUCCESS, FAILURE, SUCCESS] {
        assert_eq!(probe_with(&breaker, &mut cell, &outcome, t(10_000)), CellChange::HostCount);
    }
    let judged = probe_with(&breaker, &mut cell, &SUCCESS, t(10_000));
    assert!(matches!(judged, CellChange::Moved(Transition { to: StateName::Closed, .. })), "2 of 5 are 40%");
}

#[test]
fn slow_probes_open_it_again_too() {
    let breaker = breaker(r#"{"slow_rate":40,"open_for":"10s","open_jitter":0}"#);
    let mut cell = Cell::default();
    open_at(&breaker, &mut cell, t(0));
    assert_eq!(probe_with(&breaker, &mut cell, &SLOW, t(10_000)), CellChange::HostCount);
    assert!(matches!(probe_with(&breaker, &mut cell, &SLOW, t(10_000)), CellChange::Moved(_)));
    assert_eq!(cell.name(), StateName::Open);
}

#[test]
fn a_run_longer_than_the_probes_is_reached_when_all_of_them_fail() {
    let breaker = breaker(r#"{"failure_rate":0,"consecutive_failures":10,"half_open":{"probes":2},"open_jitter":0}"#);
    let mut cell = Cell::default();
    open_at(&breaker, &mut cell, t(0));
    assert_eq!(probe_with(&breaker, &mut cell, &FAILURE, t(30_000)), CellChange::HostCount);
    probe_with(&breaker, &mut cell, &FAILURE, t(30_000));
    assert_eq!(cell.name(), StateName::Open, "a service that fails every probe is not closed");
}

#[test]
fn an_ignored_probe_gives_its_permit_back() {
    let (breaker, mut cell) = (plain(), Cell::default());
    open_at(&breaker, &mut cell, t(0));
    for _ in 0..20 {
        assert_eq!(probe_with(&breaker, &mut cell, &Outcome::IGNORED, t(10_000)), CellChange::HostCount);
    }
    assert_eq!(cell.name(), StateName::HalfOpen, "nothing was learned");
    assert!(probe(&breaker, &mut cell, t(10_000)).is_some());
}

#[test]
fn a_probe_that_never_reports_gives_its_permit_back_after_its_lease() {
    let (breaker, mut cell) = (plain(), Cell::default());
    open_at(&breaker, &mut cell, t(0));
    let (generation, lost) = probe(&breaker, &mut cell, t(10_000)).unwrap();
    for _ in 0..4 {
        probe(&breaker, &mut cell, t(11_000)).unwrap();
    }
    assert_eq!(probe(&breaker, &mut cell, t(19_999)), None, "all five are in flight");
    assert!(probe(&breaker, &mut cell, t(20_000)).is_some(), "the first lease of 10 s is over");
    assert_eq!(probe(&breaker, &mut cell, t(20_000)), None, "and only that one");
    let ignored = cell.judge_probe(&breaker, generation, lost, &Outcome::IGNORED, t(20_001), 0);
    assert_eq!(ignored, CellChange::Stale, "it has no permit to give back any more");
}

#[test]
fn answers_later_than_the_lease_are_judged_and_no_probe_more_passes_for_it() {
    let (breaker, mut cell) = (plain(), Cell::default());
    open_at(&breaker, &mut cell, t(0));
    let late: Vec<_> = (0..5).map(|_| probe(&breaker, &mut cell, t(10_000)).unwrap()).collect();
    for _ in 0..5 {
        assert!(probe(&breaker, &mut cell, t(21_000)).is_some(), "the leases are over");
    }
    for (answers, (generation, lease)) in late[..2].iter().enumerate() {
        let judged = cell.judge_probe(&breaker, *generation, *lease, &FAILURE, t(25_000), 0);
        assert_eq!(judged, CellChange::HostCount, "late answer {answers}");
        assert_eq!(probe(&breaker, &mut cell, t(25_000)), None, "judged and in flight are five together");
    }
    let (generation, lease) = late[2];
    let judged = cell.judge_probe(&breaker, generation, lease, &FAILURE, t(25_000), 0);
    assert!(
        matches!(judged, CellChange::Moved(Transition { to: StateName::Open, .. })),
        "a host slower than the lease is out"
    );
}

#[test]
fn an_outcome_from_before_a_transition_does_not_judge_the_state_after_it() {
    let (breaker, mut cell) = (plain(), Cell::default());
    let before = cell.generation;
    open_at(&breaker, &mut cell, t(0));
    probe(&breaker, &mut cell, t(10_000)).unwrap();
    let trip = Trip::FailureRate(tally(20, 20, 0));
    assert_eq!(cell.trip(&breaker, before, trip, None, t(10_001), 0), CellChange::Stale);
    assert_eq!(cell.judge_probe(&breaker, before, 0, &FAILURE, t(10_001), 0), CellChange::Stale);
    assert_eq!(cell.name(), StateName::HalfOpen);
}

#[test]
fn each_reopening_is_longer_up_to_the_maximum_and_a_close_starts_over() {
    let breaker =
        breaker(r#"{"open_for":"10s","open_growth":2,"open_max":"35s","open_jitter":0,"half_open":{"probes":1}}"#);
    let mut cell = Cell::default();
    let mut now = 0;
    let mut period = open_at(&breaker, &mut cell, t(now));
    for expected in [10, 20, 35, 35] {
        assert_eq!(period, Duration::from_secs(expected));
        now += expected * 1000;
        period = match probe_with(&breaker, &mut cell, &FAILURE, t(now)) {
            CellChange::Moved(Transition { cause: TransitionCause::Tripped { open_for, .. }, .. }) => open_for,
            other => panic!("{other:?}"),
        };
    }
    now += 35_000;
    probe_with(&breaker, &mut cell, &SUCCESS, t(now));
    assert_eq!(cell.name(), StateName::Closed);
    assert_eq!(open_at(&breaker, &mut cell, t(now)), Duration::from_secs(10));
}

#[test]
fn jitter_is_added_uniformly_up_to_its_share() {
    let breaker = breaker(r#"{"open_for":"10s","open_jitter":10}"#);
    assert_eq!(thresholds::jittered(&breaker, 0, 0), Duration::from_secs(10));
    assert_eq!(thresholds::jittered(&breaker, 0, u64::MAX / 2 + 1), Duration::from_millis(10_500));
    assert!(thresholds::jittered(&breaker, 0, u64::MAX) < Duration::from_secs(11));
}

#[test]
fn retry_after_lengthens_the_period_and_never_past_the_maximum() {
    let breaker = breaker(r#"{"open_for":"10s","open_max":"60s","open_jitter":0}"#);
    let asked = |seconds: u64| {
        let mut cell = Cell::default();
        let trip = Trip::FailureRate(tally(20, 20, 0));
        match cell.trip(&breaker, 0, trip, Some(Duration::from_secs(seconds)), t(0), 0) {
            CellChange::Moved(Transition { cause: TransitionCause::Tripped { open_for, .. }, .. }) => {
                open_for.as_secs()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked(5), 10, "it never shortens");
    assert_eq!(asked(45), 45);
    assert_eq!(asked(86_400), 60);
}

#[test]
fn a_ramp_admits_a_rising_share_and_then_closes() {
    let breaker = breaker(r#"{"ramp":"10s","open_for":"10s","open_jitter":0,"half_open":{"probes":1}}"#);
    let mut cell = Cell::default();
    open_at(&breaker, &mut cell, t(0));
    probe_with(&breaker, &mut cell, &SUCCESS, t(10_000));
    assert_eq!(cell.name(), StateName::Ramping);
    let share = |cell: &Cell, now| {
        let draws = (0..1000_u64).map(|draw| draw * (u64::MAX / 1000) + u64::MAX / 2000);
        draws.filter(|draw| matches!(cell.peek(&breaker, now, *draw), Some(Admission::Pass { .. }))).count()
    };
    assert_eq!(share(&cell, t(10_000)), 0);
    assert_eq!(share(&cell, t(12_500)), 250);
    assert_eq!(share(&cell, t(19_000)), 900);
    assert_eq!(cell.peek(&breaker, t(20_000), 0), None, "somebody has to move it on");
    let (admission, transition) = cell.admit(&breaker, t(20_000), u64::MAX);
    assert!(matches!(admission, Admission::Pass { .. }));
    assert_eq!(transition.map(|transition| transition.to), Some(StateName::Closed));
    assert_eq!(cell.opens, 0);
}

#[test]
fn a_trip_while_ramping_opens_again_for_longer() {
    let breaker = breaker(r#"{"ramp":"10s","open_for":"10s","open_jitter":0,"half_open":{"probes":1}}"#);
    let mut cell = Cell::default();
    open_at(&breaker, &mut cell, t(0));
    probe_with(&breaker, &mut cell, &SUCCESS, t(10_000));
    assert_eq!(open_at(&breaker, &mut cell, t(15_000)), Duration::from_secs(20), "there was no close in between");
}

#[test]
fn a_clock_put_back_an_hour_holds_nothing_up() {
    let hour = 3_600_000;
    let breaker = breaker(r#"{"ramp":"10s","open_for":"10s","open_jitter":10,"half_open":{"probes":1}}"#);
    let mut cell = Cell::default();
    open_at(&breaker, &mut cell, t(hour));
    let (generation, lease) = probe(&breaker, &mut cell, t(0)).expect("an end an hour away cannot be right");
    assert!(matches!(cell.judge_probe(&breaker, generation, lease, &SUCCESS, t(hour), 0), CellChange::Moved(_)));
    assert_eq!(cell.name(), StateName::Ramping);
    let (admission, _) = cell.admit(&breaker, t(0), u64::MAX);
    assert!(matches!(admission, Admission::Pass { .. }), "nor can a ramp that begins in an hour");
    assert_eq!(cell.name(), StateName::Closed);

    let mut cell = Cell::default();
    open_at(&breaker, &mut cell, t(hour));
    probe(&breaker, &mut cell, t(hour + 10_000)).unwrap();
    assert!(probe(&breaker, &mut cell, t(0)).is_some(), "nor can a lease");
}

#[test]
fn every_state_survives_as_bytes_and_foreign_bytes_are_absent() {
    let breaker = breaker(r#"{"ramp":"10s","half_open":{"probes":3},"open_jitter":0}"#);
    let mut cell = Cell::default();
    let mut cells = vec![cell.clone()];
    open_at(&breaker, &mut cell, t(0));
    cells.push(cell.clone());
    probe(&breaker, &mut cell, t(30_000)).unwrap();
    probe(&breaker, &mut cell, t(30_000)).unwrap();
    cells.push(cell.clone());
    cells.push(Cell { generation: 9, opens: 2, state: State::Ramping { since: t(5) } });
    for cell in cells {
        let bytes = cell.encode(Mark { block: 7, key: 0 });
        assert_eq!(Cell::decode(&bytes, Mark { block: 7, key: 0 }), Some(cell));
        assert_eq!(Cell::decode(&bytes, Mark { block: 8, key: 0 }), None, "of another content");
        assert_eq!(Cell::decode(&bytes[..bytes.len() - 1], Mark { block: 7, key: 0 }), None, "cut off");
        assert_eq!(Cell::decode(&[&bytes[..], &[0]].concat(), Mark { block: 7, key: 0 }), None, "something after it");
        let mut newer = bytes.clone();
        newer[0] += 1;
        assert_eq!(Cell::decode(&newer, Mark { block: 7, key: 0 }), None, "of another version");
    }
}

// What a changed block begins with

fn open(since: Timestamp, until: Timestamp) -> Cell {
    Cell { generation: 7, opens: 2, state: State::Open { since, until } }
}

#[test]
fn an_open_period_goes_on_under_a_changed_policy_and_at_most_until_its_longest_is_over() {
    let (longer, shorter) = (breaker(r#"{"open_max":"10m"}"#), breaker(r#"{"open_for":"5s","open_max":"20s"}"#));
    let cell = open(t(0), t(60_000));
    assert_eq!(cell.taken_over(&longer, t(9_000)), Some(cell.clone()), "time, generation and openings stay");
    let shortened = cell.taken_over(&shorter, t(9_000));
    assert_eq!(shortened, Some(open(t(0), t(22_000))), "20 s and a jitter of 10 % of them, from when it opened");
    let over = cell.taken_over(&shorter, t(30_000)).unwrap();
    assert_eq!(over.peek(&shorter, t(30_000), 0), None, "that is over: the next request is a probe");
}

#[test]
fn after_a_clock_put_back_an_hour_what_is_taken_over_holds_nothing_up() {
    let (breaker, hour) = (breaker(r#"{"ramp":"10s","half_open":{"probes":1}}"#), 3_600_000);
    let mut cell = open(t(hour), t(hour + 30_000)).taken_over(&breaker, t(0)).unwrap();
    assert!(probe(&breaker, &mut cell, t(0)).is_some());
    let ramping = Cell { generation: 3, opens: 1, state: State::Ramping { since: t(hour) } };
    let mut cell = ramping.taken_over(&breaker, t(0)).unwrap();
    assert!(matches!(cell.admit(&breaker, t(0), u64::MAX).0, Admission::Pass { .. }));
    let lease = Lease { id: 0, expires: t(hour) };
    let half_open = HalfOpen { leases: vec![lease], next: 1, ..HalfOpen::default() };
    let cell = Cell { generation: 2, opens: 1, state: State::HalfOpen(half_open) };
    let mut cell = cell.taken_over(&breaker, t(0)).unwrap();
    assert_eq!(probe(&breaker, &mut cell, t(9_999)), None);
    assert!(probe(&breaker, &mut cell, t(10_000)).is_some(), "at most one lease from now on");
}

#[test]
fn half_open_is_judged_afresh_under_a_changed_policy_and_its_permits_stay_out() {
    let old = plain();
    let mut cell = Cell::default();
    open_at(&old, &mut cell, t(0));
    for outcome in [SUCCESS, FAILURE, FAILURE] {
        probe_with(&old, &mut cell, &outcome, t(10_000));
    }
    let (_, in_flight) = probe(&old, &mut cell, t(12_000)).unwrap();
    let new = breaker(r#"{"half_open":{"probes":3,"lease":"5s"}}"#);
    let mut taken = cell.taken_over(&new, t(13_000)).unwrap();
    assert_eq!((taken.name(), taken.generation, taken.opens), (StateName::HalfOpen, cell.generation, 1));
    let own: Vec<_> = (0..5).filter_map(|_| probe(&new, &mut taken, t(13_000))).collect();
    assert_eq!(own.len(), 2, "one of three is in flight, and nothing is judged");
    assert!(own.iter().all(|(_, lease)| *lease != in_flight), "no permit has the name of another");
    assert!(probe(&new, &mut taken, t(18_000)).is_some(), "its lease of 10 s is one of 5 s by now");
    for (generation, lease) in &own {
        taken.judge_probe(&new, *generation, *lease, &SUCCESS, t(18_000), 0);
    }
    assert_eq!(taken.name(), StateName::HalfOpen, "two of three");
}

#[test]
fn more_permits_out_than_the_changed_policy_gives_do_not_get_it_stuck() {
    let old = plain();
    let mut cell = Cell::default();
    open_at(&old, &mut cell, t(0));
    for at in 0..5 {
        probe(&old, &mut cell, t(10_000 + at * 100)).unwrap();
    }
    let new = breaker(r#"{"half_open":{"probes":2}}"#);
    let mut taken = cell.taken_over(&new, t(11_000)).unwrap();
    let State::HalfOpen(half_open) = &taken.state else { panic!("{taken:?}") };
    let kept: Vec<_> = half_open.leases.iter().map(|lease| lease.expires).collect();
    assert_eq!(kept, [t(20_300), t(20_400)], "those that are out longest");
    assert_eq!(probe(&new, &mut taken, t(20_299)), None);
    for _ in 0..2 {
        probe_with(&new, &mut taken, &SUCCESS, t(20_400));
    }
    assert_eq!(taken.name(), StateName::Closed);
}

#[test]
fn a_ramp_goes_on_under_a_changed_policy_and_one_of_no_time_is_over() {
    let cell = Cell { generation: 3, opens: 1, state: State::Ramping { since: t(0) } };
    let (ramp, none) = (breaker(r#"{"ramp":"20s"}"#), plain());
    let taken = cell.taken_over(&ramp, t(5_000)).unwrap();
    assert_eq!(taken, cell);
    assert!(matches!(taken.peek(&ramp, t(5_000), u64::MAX / 5), Some(Admission::Pass { .. })), "a quarter passes");
    let mut taken = cell.taken_over(&none, t(5_000)).unwrap();
    assert_eq!(taken.peek(&none, t(5_000), 0), None);
    let (admission, transition) = taken.admit(&none, t(5_000), u64::MAX);
    assert!(matches!(admission, Admission::Pass { .. }));
    assert_eq!((transition.map(|one| one.to), taken.opens), (Some(StateName::Closed), 0));
}

#[test]
fn of_a_closed_breaker_there_is_nothing_to_take_over() {
    let cell = Cell { generation: 12, ..Cell::default() };
    assert_eq!(cell.taken_over(&plain(), t(0)), None);
}

#[test]
fn what_does_not_fit_together_is_not_taken_over() {
    assert_eq!(open(t(9), t(3)).taken_over(&plain(), t(0)), None);
    let leases = vec![Lease { id: 1, expires: t(9) }; 2];
    let state = State::HalfOpen(HalfOpen { leases, ..HalfOpen::default() });
    assert_eq!(Cell { generation: 2, opens: 1, state }.taken_over(&plain(), t(0)), None);
}

// Forced states

#[test]
fn after_forced_open_it_is_half_open_whatever_it_was_before() {
    let breaker = plain();
    let ramping = Cell { generation: 3, opens: 1, state: State::Ramping { since: t(0) } };
    let half_open = Cell { generation: 2, opens: 1, state: State::HalfOpen(HalfOpen::default()) };
    for before in [Cell::default(), open(t(0), t(60_000)), half_open, ramping] {
        let forced = before.forced(BreakerControl::ForcedOpen, t(5_000)).expect("it is not open with its time over");
        assert_eq!(forced.forced(BreakerControl::ForcedOpen, t(6_000)), None, "once");
        assert_eq!(forced.opens, before.opens, "it is no opening of its own");
        let changes = before.name() != StateName::Open;
        assert_eq!(forced.generation, before.generation + u32::from(changes), "what was judged before counts no more");
        let mut after = forced.taken_over(&breaker, t(7_000)).unwrap();
        assert!(probe(&breaker, &mut after, t(7_000)).is_some());
        assert_eq!(after.name(), StateName::HalfOpen);
    }
}

#[test]
fn after_forced_closed_it_is_closed_with_a_fresh_window() {
    assert_eq!(Cell::default().forced(BreakerControl::ForcedClosed, t(0)), None);
    let forced = open(t(0), t(60_000)).forced(BreakerControl::ForcedClosed, t(5_000)).unwrap();
    assert_eq!(forced, Cell { generation: 8, opens: 0, state: State::Closed });
    assert_eq!(forced.forced(BreakerControl::ForcedClosed, t(6_000)), None, "once");
}

#[test]
fn a_state_that_is_not_forced_changes_nothing() {
    assert_eq!(open(t(0), t(60_000)).forced(BreakerControl::Auto, t(5_000)), None);
}
