//! Transitions in words, for the log.

use core::time::Duration;

use crate::breaker::{Cause, Transition, Trip};
use holdfast_policy::document::{Breaker, Mode, Policy};

/// One log line for a transition, with the numbers that caused it:
/// `orders/cluster=orders: closed -> open: failure rate 62% of 48 >= 50%; next probe in 31s`.
pub fn line(policy: &Policy, key: &str, transition: &Transition) -> String {
    let mode = match policy.breaker.as_ref().map(|breaker| breaker.mode) {
        Some(Mode::Shadow) => " (shadow)",
        _ => "",
    };
    let why = policy.breaker.as_ref().map_or_else(String::new, |breaker| cause(breaker, &transition.cause));
    format!("{}/{key}{mode}: {} -> {}: {why}", policy.name, transition.from, transition.to)
}

fn cause(breaker: &Breaker, cause: &Cause) -> String {
    match cause {
        Cause::Tripped { trip, open_for } => {
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
        Cause::PeriodOver(period) => {
            format!("{} are over; up to {} probes", seconds(*period), breaker.probes)
        }
        Cause::ProbesPassed(tally) => {
            let mut words = format!("{} probes judged, {} failed", tally.total, tally.failures);
            if !breaker.slow_rate.is_zero() {
                words.push_str(&format!(", {} slow", tally.slow));
            }
            if !breaker.ramp.is_zero() {
                words.push_str(&format!("; full traffic in {}", seconds(breaker.ramp)));
            }
            words
        }
        Cause::RampOver(ramp) => format!("the ramp of {} is over", seconds(*ramp)),
    }
}

/// A share in whole percent, rounded down, so that it never claims a threshold that was not reached.
pub(crate) fn share(part: u32, whole: u32) -> String {
    let percent = u64::from(part).saturating_mul(100).checked_div(u64::from(whole)).unwrap_or(0);
    format!("{percent}%")
}

/// Whole seconds, or tenths and milliseconds where they matter.
pub(crate) fn seconds(duration: Duration) -> String {
    // Not `as_millis`: formatting 128 bits would add to the module.
    let millis = duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis().into());
    if millis >= 10_000 || millis.is_multiple_of(1000) {
        format!("{}s", millis.saturating_add(500) / 1000)
    } else if millis >= 1000 {
        format!("{}.{}s", millis / 1000, millis % 1000 / 100)
    } else {
        format!("{millis}ms")
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
            cause: Cause::Tripped { trip, open_for: Duration::from_millis(31_200) },
        };
        assert_eq!(
            line(&policy, "cluster=orders", &transition),
            "orders/cluster=orders: closed -> open: failure rate 62% of 48 >= 50%; next probe in 31s"
        );
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(250)), "250ms");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5s");
        assert_eq!(seconds(Duration::from_millis(2000)), "2s");
        assert_eq!(seconds(Duration::from_millis(61_600)), "62s");
    }
}
