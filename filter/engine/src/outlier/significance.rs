//! Whether a mean lies above others by more than chance explains.
//!
//! Welch's t-test, one-sided, of one host's mean against the mean of its peers' means: t is the difference divided by its
//! standard error, the variances are each host's own, and the degrees of freedom those of Welch and Satterthwaite. Source: Welch,
//! "The generalization of 'Student's' problem when several different population variances are involved", 1947, formulas 7 and
//! 28.

use statrs::function::beta::checked_beta_reg;

/// What is known of a host's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// How many.
    pub count: u32,
    /// Their mean.
    pub mean: f64,
    /// Their variance, as that of a sample: divided by one less than their number.
    pub variance: f64,
}

impl Sample {
    /// Of so many values with this sum and this sum of squares; `None` if they are too few to have a variance.
    #[must_use]
    pub fn of_sums(count: u32, sum: f64, squares: f64) -> Option<Self> {
        let number = f64::from(count);
        let mean = sum / number;
        // What rounding alone makes of equal values is no variance below zero.
        let variance = ((squares - sum * mean) / (number - 1.0)).max(0.0);
        (count > 1 && mean.is_finite() && variance.is_finite()).then_some(Sample { count, mean, variance })
    }

    /// The variance of the mean, and what it adds to the divisor of the degrees of freedom.
    fn of_mean(&self, weight: f64) -> (f64, f64) {
        let variance = self.variance / f64::from(self.count) * weight * weight;
        (variance, variance * variance / (f64::from(self.count) - 1.0))
    }
}

/// The probability that chance alone puts the mean of `own` so far above the mean of the means of `peers`; 1 where it is not above
/// it, or there are no peers.
#[must_use]
pub fn chance(own: Sample, peers: &[Sample]) -> f64 {
    if peers.is_empty() {
        return 1.0;
    }
    let weight = 1.0 / peers.len() as f64;
    let expected = peers.iter().map(|peer| peer.mean).sum::<f64>() * weight;
    let difference = own.mean - expected;
    // NaN compares with nothing.
    if difference.is_nan() || difference <= 0.0 {
        return 1.0;
    }
    let parts = core::iter::once(own.of_mean(1.0)).chain(peers.iter().map(|peer| peer.of_mean(weight)));
    let (variance, divisor) = parts.fold((0.0, 0.0), |(sum, divisor), (part, of)| (sum + part, divisor + of));
    if variance <= 0.0 {
        return 0.0;
    }
    let freedom = (variance * variance / divisor).max(1.0);
    let squared = difference * difference / variance;
    // Student's distribution by the incomplete beta function: Abramowitz, Stegun, 26.5.27 and 26.7.1.
    let both_sides = checked_beta_reg(freedom / 2.0, 0.5, freedom / (freedom + squared));
    both_sides.map_or(1.0, |both| both / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn sample(count: u32, mean: f64, variance: f64) -> Sample {
        Sample { count, mean, variance }
    }

    /// Of these values.
    fn of(values: &[f64]) -> Sample {
        let squares = values.iter().map(|value| value * value).sum();
        Sample::of_sums(values.len() as u32, values.iter().sum(), squares).unwrap()
    }

    fn is_about(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 1e-3
    }

    #[test]
    fn a_sample_is_described_by_its_sums() {
        let found = of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!(is_about(found.mean, 5.0) && is_about(found.variance, 32.0 / 7.0), "{found:?}");
        assert_eq!(of(&[0.1; 10]).variance.max(1e-12), 1e-12, "equal values have none");
        assert_eq!(Sample::of_sums(1, 1.0, 1.0), None);
        assert_eq!(Sample::of_sums(0, 0.0, 0.0), None);
        assert_eq!(Sample::of_sums(9, f64::NAN, 1.0), None);
        assert_eq!(Sample::of_sums(9, 1.0, f64::INFINITY), None);
    }

    // t beyond which 1 in 1,000 lies, for so many degrees of freedom. Source: Abramowitz, Stegun, table 26.10.
    #[test]
    fn the_probability_is_that_of_students_distribution() {
        for (freedom, t) in [(4, 7.173), (9, 4.297), (19, 3.579), (60, 3.232)] {
            // All of the variance is one host's, so that the degrees of freedom are its own.
            let own = sample(freedom + 1, t, f64::from(freedom + 1));
            let found = chance(own, &[sample(1_000_000, 0.0, 0.0)]);
            assert!((found - 0.001).abs() < 2e-6, "{freedom}: {found}");
        }
    }

    // Two samples of 20 and 17 with means 5 and 3 and variances 9 and 4: t = 2.40, 33.2 degrees of freedom.
    #[test]
    fn two_samples_are_compared_by_their_own_variances() {
        let (own, peer) = (sample(20, 5.0, 9.0), sample(17, 3.0, 4.0));
        let found = chance(own, &[peer]);
        assert!((found - 0.011).abs() < 0.001, "{found}");
        assert_eq!(chance(peer, &[own]), 1.0, "it is not above");
    }

    #[test]
    fn more_peers_make_their_mean_surer() {
        let (own, peer) = (sample(50, 2.0, 4.0), sample(50, 1.0, 4.0));
        let found = [1, 2, 10].map(|peers| chance(own, &vec![peer; peers]));
        assert!(found[0] > found[1] && found[1] > found[2] && found[2] > 0.0, "{found:?}");
    }

    #[test]
    fn what_does_not_vary_differs_by_no_chance() {
        let still = sample(50, 1.0, 0.0);
        assert_eq!(chance(sample(50, 1.001, 0.0), &[still, still]), 0.0);
        assert_eq!(chance(still, &[still, still]), 1.0);
        assert_eq!(chance(still, &[]), 1.0);
        assert_eq!(chance(sample(50, f64::NAN, 1.0), &[still]), 1.0);
    }
}
