//! The wait before a retry.
//!
//! Every wait of a request follows from one random number that is drawn when the request comes. So both seats know all of
//! its waits, and the one that sets the time-out of an attempt knows the longest of them in advance.
//!
//! Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use core::time::Duration;

use crate::base::random::{Random, scale};
use crate::base::time::nanos;
use holdfast_policy::document::{Backoff, Jitter};

/// The wait before retry number `retry` (from 1) of the request that `seed` belongs to. With
/// `cap(n) = min(base * 2^(n-1), max)`: `full` is uniform in `[0, cap(n))`, `equal` is `cap(n)/2` and uniform in
/// `[0, cap(n)/2)` on top, `none` is `cap(n)`, `decorrelated` is `min(max, uniform in [base, 3 * the wait before))` where
/// `base` stands before the first.
pub fn wait(backoff: &Backoff, seed: u64, retry: u8) -> Duration {
    let (base, max) = (nanos(backoff.base), nanos(backoff.max));
    let mut random = Random::new(seed);
    let doubled = u32::from(retry.saturating_sub(1)).min(63);
    let cap = base.saturating_mul(1 << doubled).min(max);
    let wait = match backoff.jitter {
        Jitter::None => cap,
        Jitter::Decorrelated => {
            let mut wait = base;
            for _ in 0..retry {
                let room = wait.saturating_mul(3).saturating_sub(base);
                wait = base.saturating_add(scale(random.next(), room)).min(max);
            }
            wait
        }
        Jitter::Full | Jitter::Equal => {
            let mut drawn = 0;
            for _ in 0..retry {
                drawn = random.next();
            }
            if backoff.jitter == Jitter::Full { scale(drawn, cap) } else { cap - cap / 2 + scale(drawn, cap / 2) }
        }
    };
    Duration::from_nanos(wait)
}

/// The longest of the waits before the retries 1 to `retries`.
pub fn longest(backoff: &Backoff, seed: u64, retries: u8) -> Duration {
    (1..=retries).map(|retry| wait(backoff, seed, retry)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const MILLI: u64 = 1_000_000;

    fn backoff(jitter: Jitter) -> Backoff {
        Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250), jitter }
    }

    fn waits(jitter: Jitter, retry: u8) -> Vec<u64> {
        (0..2000).map(|seed| wait(&backoff(jitter), seed * 0x9e37, retry).as_nanos() as u64).collect()
    }

    fn mean(waits: &[u64]) -> f64 {
        waits.iter().sum::<u64>() as f64 / waits.len() as f64 / MILLI as f64
    }

    #[test]
    fn without_jitter_the_wait_doubles_up_to_the_maximum() {
        let milliseconds: Vec<_> = (1..=6).map(|n| wait(&backoff(Jitter::None), 7, n).as_millis()).collect();
        assert_eq!(milliseconds, [25, 50, 100, 200, 250, 250]);
        assert_eq!(wait(&backoff(Jitter::None), 7, u8::MAX), Duration::from_millis(250));
    }

    #[test]
    fn full_jitter_is_uniform_from_nothing_to_the_exponential_wait() {
        for (retry, cap) in [(1, 25), (3, 100), (9, 250)] {
            let waits = waits(Jitter::Full, retry);
            assert!(waits.iter().all(|wait| *wait < cap * MILLI));
            let half = cap as f64 / 2.0;
            assert!((mean(&waits) - half).abs() < half * 0.1, "the mean is {} of {cap}", mean(&waits));
        }
    }

    #[test]
    fn equal_jitter_never_waits_less_than_half() {
        let waits = waits(Jitter::Equal, 3);
        assert!(waits.iter().all(|wait| (50 * MILLI..100 * MILLI).contains(wait)));
        assert!((mean(&waits) - 75.0).abs() < 2.0, "the mean is {}", mean(&waits));
    }

    #[test]
    fn decorrelated_jitter_stays_between_base_and_maximum_and_grows() {
        for retry in 1..6 {
            assert!(waits(Jitter::Decorrelated, retry).iter().all(|wait| (25 * MILLI..=250 * MILLI).contains(wait)));
        }
        assert!((mean(&waits(Jitter::Decorrelated, 1)) - 50.0).abs() < 2.0, "uniform from 25 to 75");
        assert!(mean(&waits(Jitter::Decorrelated, 3)) > mean(&waits(Jitter::Decorrelated, 1)));
    }

    #[test]
    fn the_longest_is_one_of_them_and_no_other_is_longer() {
        for seed in 0..100 {
            let waits: Vec<_> = (1..=3).map(|retry| wait(&backoff(Jitter::Full), seed, retry)).collect();
            assert_eq!(Some(&longest(&backoff(Jitter::Full), seed, 3)), waits.iter().max());
        }
        assert_eq!(longest(&backoff(Jitter::Full), 1, 0), Duration::ZERO);
    }
}
