//! Which outcomes a breaker takes up.

use holdfast_policy::document::Breaker;

use crate::http::outcome::Outcome;

/// Whether a slow outcome can open it.
pub fn watches_slow(breaker: &Breaker) -> bool {
    !breaker.slow_rate.is_zero()
}

/// Whether an outcome counts for it: as a success or failure, or as slow alone where that is watched.
pub fn counts(breaker: &Breaker, outcome: &Outcome) -> bool {
    outcome.counts() || outcome.slow && watches_slow(breaker)
}
