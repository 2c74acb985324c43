//! Transitions in metrics, and in words for the log.

use core::time::Duration;

use holdfast_policy::document::{Breaker, Mode};

use super::cell::{Cell, State, Transition, TransitionCause};
use super::thresholds::Trip;
use crate::base::text::{seconds, share};
use crate::base::time::Timestamp;
use crate::event::Event;
use crate::metric::Metric;

/// The line of the log for a transition, with the numbers that caused it:
/// `closed -> open: failure rate 62% of 48 >= 50%; next probe in 31s`.
pub fn line(breaker: &Breaker, transition: &Transition) -> Event {
    let why = cause(breaker, &transition.cause);
    let text = format!("{} -> {}: {why}", transition.from, transition.to);
    Event::Log { alarming: transition.is_alarming(), shadow: breaker.mode == Mode::Shadow, text }
}

/// The line of the log for what a changed policy has taken over:
/// `open, taken over by the changed policy; next probe in 12s`.
pub fn taken_over(breaker: &Breaker, cell: &Cell, now: Timestamp) -> Event {
    let next = match &cell.state {
        State::Open { .. } => match cell.open_left(breaker, now) {
            Some(left) => format!("next probe in {}", seconds(left)),
            None => "the next request is a probe".to_owned(),
        },
        State::Ramping { since } => format!("full traffic in {}", seconds(since.plus(breaker.ramp).since(now))),
        State::HalfOpen(_) | State::Closed => format!("up to {} probes", breaker.probes),
    };
    let text = format!("{}, taken over by the changed policy; {next}", cell.name());
    Event::Log { alarming: false, shadow: breaker.mode == Mode::Shadow, text }
}

/// The counter of openings by what was reached.
pub fn opened(trip: Trip) -> Metric {
    match trip {
        Trip::FailureRate(_) => Metric::OpenedFailureRate,
        Trip::SlowRate(_) => Metric::OpenedSlowRate,
        Trip::ConsecutiveFailures(_) => Metric::OpenedConsecutiveFailures,
    }
}

fn cause(breaker: &Breaker, cause: &TransitionCause) -> String {
    match cause {
        TransitionCause::Tripped { trip, open_for } => {
            let next = seconds(*open_for);
            match trip {
                Trip::FailureRate(tally) => {
                    let share = share(tally.failures, tally.total);
                    format!("failure rate {share} of {} >= {}; next probe in {next}", tally.total, breaker.failure_rate)
                }
                Trip::SlowRate(tally) => {
                    let share = share(tally.slow, tally.total);
                    format!("slow rate {share} of {} >= {}; next probe in {next}", tally.total, breaker.slow_rate)
                }
                Trip::ConsecutiveFailures(run) => {
                    format!("{run} consecutive failures; next probe in {next}")
                }
            }
        }
        // Only what was set by hand is over as it begins.
        TransitionCause::PeriodOver(Duration::ZERO) => {
            format!("it is not forced open any more; up to {} probes", breaker.probes)
        }
        TransitionCause::PeriodOver(period) => {
            format!("{} are over; up to {} probes", seconds(*period), breaker.probes)
        }
        TransitionCause::ProbesPassed(tally) => {
            let mut words = format!("{} probes judged, {} failed", tally.total, tally.failures);
            if !breaker.slow_rate.is_zero() {
                words.push_str(&format!(", {} slow", tally.slow));
            }
            if !breaker.ramp.is_zero() {
                words.push_str(&format!("; full traffic in {}", seconds(breaker.ramp)));
            }
            words
        }
        TransitionCause::RampOver(ramp) => format!("the ramp of {} is over", seconds(*ramp)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::StateName;
    use crate::store::window::Tally;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_trip_is_told_with_its_numbers() {
        let text = br#"{"policies":[{"name":"orders","breaker":{"failure_rate":50}}]}"#;
        let policy = config::parse(text).unwrap().policies.remove(0);
        let trip = Trip::FailureRate(Tally { total: 48, failures: 30, slow: 0 });
        let transition = Transition {
            from: StateName::Closed,
            to: StateName::Open,
            cause: TransitionCause::Tripped { trip, open_for: Duration::from_millis(31_200) },
        };
        let line = line(&policy.breaker.unwrap(), &transition).line("orders", "cluster=orders");
        let text = "orders/cluster=orders: closed -> open: failure rate 62% of 48 >= 50%; next probe in 31s";
        assert_eq!(line, Some((true, text.to_owned())));
    }
    #[test]
    fn what_is_taken_over_is_told_with_what_comes_next() {
        let text = br#"{"policies":[{"name":"orders","breaker":{"ramp":"10s","half_open":{"probes":3}}}]}"#;
        let breaker = config::parse(text).unwrap().policies.remove(0).breaker.unwrap();
        let told = |state, millis| {
            let cell = Cell { generation: 4, opens: 1, state };
            let line = taken_over(&breaker, &cell, Timestamp::from_millis(millis)).line("orders", "cluster=orders");
            line.map(|(alarming, text)| (alarming, text.replace("orders/cluster=orders: ", ""))).unwrap()
        };
        let (since, until) = (Timestamp::from_secs(1000), Timestamp::from_secs(1030));
        let open = State::Open { since, until };
        let text = "open, taken over by the changed policy; next probe in 12s";
        assert_eq!(told(open.clone(), 1_018_000), (false, text.to_owned()), "it is no news");
        assert!(told(open, 1_030_000).1.ends_with("; the next request is a probe"));
        let text = "half-open, taken over by the changed policy; up to 3 probes";
        assert_eq!(told(State::HalfOpen(super::super::HalfOpen::default()), 1_018_000).1, text);
        let text = "ramping, taken over by the changed policy; full traffic in 7s";
        assert_eq!(told(State::Ramping { since }, 1_003_000).1, text);
    }
}
