//! Properties of the wait before a retry, for all settings, seeds and attempts.

#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use holdfast_engine::retry::backoff::{longest, wait};
use holdfast_policy::document::{Backoff, Jitter};
use proptest::prelude::*;

/// All settings that a policy can have: `base` from 1 ms to 1 min, `max` from `base` to 5 min.
fn backoff(jitter: Jitter) -> impl Strategy<Value = Backoff> {
    let base = prop_oneof![Just(1), Just(60_000), 1..=60_000_u64];
    base.prop_flat_map(move |base| {
        let max = prop_oneof![Just(base), Just(300_000), base..=300_000];
        max.prop_map(move |max| Backoff { base: Duration::from_millis(base), max: Duration::from_millis(max), jitter })
    })
}

/// `min(base * 2^(retry-1), max)`, worked out step by step.
fn cap(backoff: &Backoff, retry: u8) -> Duration {
    (1..retry).fold(backoff.base, |cap, _| (cap * 2).min(backoff.max)).min(backoff.max)
}

/// Seeds from everywhere, and the two ends.
fn seed() -> impl Strategy<Value = u64> {
    prop_oneof![6 => any::<u64>(), 1 => Just(0), 1 => Just(u64::MAX)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn without_jitter_the_wait_is_the_exponential_one(backoff in backoff(Jitter::None), seed in seed(), retry in 1..=u8::MAX) {
        prop_assert_eq!(wait(&backoff, seed, retry), cap(&backoff, retry));
    }

    #[test]
    fn full_jitter_is_below_the_exponential_wait(backoff in backoff(Jitter::Full), seed in seed(), retry in 1..=u8::MAX) {
        prop_assert!(wait(&backoff, seed, retry) < cap(&backoff, retry));
    }

    #[test]
    fn equal_jitter_is_between_half_of_the_exponential_wait_and_all_of_it(
        backoff in backoff(Jitter::Equal), seed in seed(), retry in 1..=u8::MAX,
    ) {
        let (wait, cap) = (wait(&backoff, seed, retry), cap(&backoff, retry));
        prop_assert!(wait >= cap / 2 && wait < cap, "{wait:?} of {cap:?}");
    }

    /// Each one is at most three times the one before it, where `base` stands before the first.
    #[test]
    fn decorrelated_jitter_grows_from_base_by_three_times_at_most(
        backoff in backoff(Jitter::Decorrelated), seed in seed(), retries in 1..=40_u8,
    ) {
        let mut before = backoff.base;
        for retry in 1..=retries {
            let wait = wait(&backoff, seed, retry);
            prop_assert!(wait >= backoff.base && wait <= backoff.max, "{wait:?} at {retry}");
            prop_assert!(wait <= before * 3, "{wait:?} after {before:?}");
            before = wait;
        }
    }

    /// The seat that sets a time-out and the one that waits work out the same: the longest is one of the waits.
    #[test]
    fn the_longest_wait_is_the_longest_of_those_that_are_waited(
        backoff in prop_oneof![
            backoff(Jitter::None), backoff(Jitter::Full), backoff(Jitter::Equal), backoff(Jitter::Decorrelated)
        ],
        seed in seed(), retries in 0..=20_u8,
    ) {
        let waits = || (1..=retries).map(|retry| wait(&backoff, seed, retry));
        prop_assert_eq!(longest(&backoff, seed, retries), waits().max().unwrap_or_default());
        prop_assert!(waits().all(|wait| wait <= backoff.max));
        prop_assert!(waits().eq(waits()), "the same seed waits the same");
    }
}
