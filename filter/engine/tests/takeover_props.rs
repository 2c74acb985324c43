//! Properties of what a changed block begins with, whatever the record of the block before it says and whoever wrote that.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::breaker::{Admission, Cell, HalfOpen, Lease, State};
use holdfast_engine::concurrency::in_flight::{InFlight, Passed, Source};
use holdfast_engine::http::attempt::End;
use holdfast_engine::http::outcome::Outcome;
use holdfast_engine::outlier::cause::EjectionCause;
use holdfast_engine::outlier::table::HostTable;
use holdfast_engine::store::record::{Mark, Record};
use holdfast_engine::store::window::Tally;
use holdfast_policy::config;
use holdfast_policy::document::{Detector, Policy};
use proptest::prelude::*;

fn policy(features: &str) -> Policy {
    let text = format!(r#"{{"policies":[{{"name":"p",{features}}}]}}"#);
    config::parse(text.as_bytes()).expect("a valid policy").policies.remove(0)
}

const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

/// Mostly about now, at times anything.
fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        6 => (0..1_200_000_u64).prop_map(|millis| Timestamp(NOW.0 - 600_000_000_000 + millis * 1_000_000)),
        1 => any::<u64>().prop_map(Timestamp),
    ]
}

fn cell() -> impl Strategy<Value = Cell> {
    let leases = prop::collection::vec((0..60_u32, time()).prop_map(|(id, expires)| Lease { id, expires }), 0..100);
    let half_open = (0..9_u32, leases).prop_map(|(failures, leases)| {
        let judged = Tally { total: 9, failures, slow: 0 };
        State::HalfOpen(HalfOpen { judged, run: 0, next: 60, leases })
    });
    let state = prop_oneof![
        Just(State::Closed),
        (time(), time()).prop_map(|(since, until)| State::Open { since, until }),
        half_open,
        time().prop_map(|since| State::Ramping { since }),
    ];
    (any::<u32>(), any::<u16>(), state).prop_map(|(generation, opens, state)| Cell { generation, opens, state })
}

proptest! {
    /// It fits together, no more permits are out than there are, and good answers close it within the longest times of the new
    /// block.
    #[test]
    fn a_breaker_that_was_taken_over_never_gets_stuck(
        before in cell(), probes in 1..8_u32, open_max in 1..100_u64, lease in 1..20_u64, ramp in 0..20_u64,
    ) {
        let policy = policy(&format!(
            r#""breaker":{{"open_for":"1s","open_max":"{open_max}s","ramp":"{ramp}s",
                "half_open":{{"probes":{probes},"lease":"{lease}s"}}}}"#
        ));
        let breaker = policy.breaker.expect("it has one");
        let Some(mut cell) = before.taken_over(&breaker, NOW) else { return Ok(()) };
        prop_assert!(cell.invariants());
        prop_assert_eq!((cell.generation, cell.opens, cell.name()), (before.generation, before.opens, before.name()));
        if let State::HalfOpen(half_open) = &cell.state {
            prop_assert!(half_open.leases.len() <= probes as usize && half_open.judged == Tally::default());
        }
        // With room for the jitter, and for what workers' clocks may be apart.
        let most = open_max + open_max / 10 + 10 + lease + ramp + 2;
        for second in 0..=most {
            let now = NOW.plus(Duration::from_secs(second));
            for _ in 0..probes {
                if let (Admission::Probe { generation, lease }, _) = cell.admit(&breaker, now, 0) {
                    cell.judge_probe(&breaker, generation, lease, &Outcome::SUCCESS, now, 0);
                }
            }
        }
        prop_assert!(cell.is_closed(), "after {} s: {:?}", most, cell);
    }

    /// A table in which any bytes were written over: what is taken over of it can be stored, nobody has more permits than there
    /// are, and nobody waits longer than the longest time of the new block.
    #[test]
    fn any_hosts_that_are_taken_over_fit_the_changed_rules(
        ejected in 0..4_usize, sent in 0..4_usize, requests in 1..4_u16, longest in 1..100_u64,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let old = policy(r#""outlier":{"max_ejected":100,"probe":{"requests":4}}"#).outlier.expect("it has one");
        let rules = policy(&format!(
            r#""outlier":{{"base_ejection_time":"1s","max_ejection_time":"{longest}s","probe":{{"requests":{requests}}}}}"#
        ));
        let rules = rules.outlier.expect("it has one");
        let mark = Mark { block: 7, key: 0 };
        let mut table = HostTable::default();
        for host in 0..4 {
            let address = format!("10.0.0.{host}:80");
            let id = table.enter(address.as_bytes(), false, NOW).expect("there is room");
            if host < ejected {
                let cause = EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Reset };
                table.eject(&old, id, cause, Timestamp(NOW.0 - 35_000_000_000), 0);
                for _ in 0..sent {
                    prop_assert!(table.take_probe(&old, id, NOW));
                }
            }
        }
        let mut record = table.encode(mark);
        let head = record.len() - 4 * 60;
        for (at, byte) in edits {
            let at = head + at.index(record.len() - head);
            record[at] = byte;
        }
        let Some(taken) = HostTable::decode(&record, mark).and_then(|table| table.taken_over(&rules, NOW)) else {
            return Ok(());
        };
        prop_assert!(taken.invariants());
        if record == table.encode(mark) {
            prop_assert_eq!(taken.out(), ejected);
        }
        prop_assert!(HostTable::decode(&taken.encode(mark), mark).as_ref() == Some(&taken));
        let last = NOW.plus(Duration::from_secs(2 * longest + 21));
        for (id, host) in taken.hosts().filter(|(_, host)| !host.is_in()) {
            prop_assert!(host.is_due(&rules, last), "{:?}", host);
            let mut later = taken.clone();
            prop_assert!(later.take_probe(&rules, id, last), "{:?}", host);
        }
    }

    /// Looks at a cell in any order: the number never rises, nor passes what was there at the first look or is there at the last.
    #[test]
    fn what_is_carried_only_falls(
        changes in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..60),
    ) {
        // Each look at a cell in which requests begin and end.
        let mut looks = vec![Source { whose: 1, requests: 3, passed: Passed { begun: 3, ended: 0 } }];
        let (mut cell, mut newest) = (InFlight::default(), 0);
        cell.carry(&looks, NOW);
        for (begins, which) in changes {
            let mut look = *looks.last().expect("there is one");
            if begins || look.requests == 0 {
                look.passed.begun += 1;
                look.requests += 1;
            } else {
                look.passed.ended += 1;
                look.requests -= 1;
            }
            looks.push(look);
            let (before, at) = (cell.total(), which.index(looks.len()));
            cell.carry(&looks[at..=at], NOW);
            newest = newest.max(at);
            let seen = looks[newest];
            prop_assert!(cell.total() <= before && cell.total() <= u64::from(seen.requests));
            prop_assert_eq!(cell.total() > 0, cell.carries(1));
            if at == newest && seen.passed.begun == 3 {
                prop_assert_eq!(cell.total(), u64::from(seen.requests), "none is lost while none begins");
            }
        }
    }
}
