//! Client-side throttling: the less of what it asked for a service delivers, the less it is asked for.
//!
//! Source: Google, "Site Reliability Engineering", chapter 21, "Client-side throttling"; the formula's `aggression`, the
//! maximum and the volume below which nothing happens are those of Envoy's `admission_control`. As there, only requests
//! that were let through count, so the share settles at what the service can take.

use crate::base::random::fraction;
use crate::base::time::nanos;
use crate::store::window::Tally;
use holdfast_policy::document::Throttle;
use holdfast_policy::percent::Percent;

/// The probability with which to reject now, in 0.0..=1.0:
/// `min(max_rejection, max(0, (n - s/success_rate) / (n + 1))^(1/aggression))` for `n` requests with `s` successes in the
/// window; 0 below `min_rps`.
///
/// ```
/// use holdfast_engine::store::window::Tally;
/// use holdfast_engine::throttle::rejection;
///
/// let document = br#"{"policies": [{"name": "orders", "throttle": {"success_rate": 95}}]}"#;
/// let throttle = holdfast_policy::config::parse(document).unwrap().policies.remove(0).throttle.unwrap();
/// assert_eq!(rejection(&throttle, Tally { total: 100, failures: 5, slow: 0 }), 0.0);
/// assert!(rejection(&throttle, Tally { total: 100, failures: 60, slow: 0 }) > 0.5);
/// ```
pub fn rejection(throttle: &Throttle, tally: Tally) -> f64 {
    let requests = f64::from(tally.total);
    let successes = f64::from(tally.total.saturating_sub(tally.failures));
    let per_second = requests * 1e9 / nanos(throttle.window).max(1) as f64;
    if per_second < f64::from(throttle.min_rps) {
        return 0.0;
    }
    let success_rate = f64::from(throttle.success_rate.millis()) / f64::from(Percent::FULL.millis());
    if success_rate <= 0.0 {
        return 0.0;
    }
    let excess = ((requests - successes / success_rate) / (requests + 1.0)).max(0.0);
    let aggression = f64::from(throttle.aggression.max(1)) / 1000.0;
    let probability = if throttle.aggression == 1000 { excess } else { excess.powf(1.0 / aggression) };
    probability.min(f64::from(throttle.max_rejection.millis()) / f64::from(Percent::FULL.millis()))
}

/// Whether to reject, for a `random` uniform over all `u64`.
pub fn rejects(throttle: &Throttle, tally: Tally, random: u64) -> bool {
    fraction(random) < rejection(throttle, tally)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use holdfast_policy::document::Mode;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn throttle() -> Throttle {
        Throttle {
            mode: Mode::Enforce,
            success_rate: Percent::whole(95),
            aggression: 1000,
            max_rejection: Percent::whole(80),
            min_rps: 0,
            window: Duration::from_secs(30),
        }
    }

    fn after(total: u32, failures: u32) -> Tally {
        Tally { total, failures, slow: 0 }
    }

    fn close(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} is not {right}");
    }

    #[test]
    fn a_service_above_its_success_rate_is_left_alone() {
        close(rejection(&throttle(), after(0, 0)), 0.0);
        close(rejection(&throttle(), after(1000, 0)), 0.0);
        close(rejection(&throttle(), after(1000, 50)), 0.0);
    }

    #[test]
    fn below_it_the_share_follows_the_formula() {
        close(rejection(&throttle(), after(1000, 500)), (1000.0 - 500.0 / 0.95) / 1001.0);
        let eager = Throttle { aggression: 2000, ..throttle() };
        close(rejection(&eager, after(1000, 500)), ((1000.0 - 500.0 / 0.95) / 1001.0_f64).sqrt());
    }

    #[test]
    fn some_requests_always_pass() {
        close(rejection(&throttle(), after(1000, 1000)), 0.8);
        assert!(!rejects(&throttle(), after(1000, 1000), u64::MAX));
        assert!(rejects(&throttle(), after(1000, 1000), 0));
    }

    #[test]
    fn a_trickle_is_not_throttled() {
        let busy = Throttle { min_rps: 10, ..throttle() };
        close(rejection(&busy, after(299, 299)), 0.0);
        close(rejection(&busy, after(300, 300)), 0.8);
    }
}
