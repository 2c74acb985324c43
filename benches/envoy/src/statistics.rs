//! Medians, and what they leave out.

use serde::Serialize;

/// What a figure was over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// A quarter of the values is not above this.
    pub low: f64,
    /// A quarter of the values is not below this.
    pub high: f64,
}

impl Spread {
    /// Of some values; none of no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Some(Spread { median: median(&values)?, low: percentile(&values, 25.0)?, high: percentile(&values, 75.0)? })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get((sorted.len() / 2).checked_sub(1)?)?;
    Some(lower.midpoint(upper))
}

/// The value that `percent` of the sorted values do not exceed (nearest rank).
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Each value by the median of the others; nothing where that is not above zero. Single differences of others may be: no figure is to
/// hang on which of them are.
pub fn by_median(values: Vec<f64>, others: Vec<f64>) -> Vec<f64> {
    match Spread::of(others) {
        Some(spread) if spread.median > 0.0 => values.into_iter().map(|value| value / spread.median).collect(),
        _ => Vec::new(),
    }
}

/// Value by value, as far as both have one: what changes from round to round is the same in both.
pub fn paired(left: &[f64], right: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    left.iter().zip(right).map(|(left, right)| combine(*left, *right)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, low: 1.0, high: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, low: 1.0, high: 3.0 }));
        assert_eq!(Spread::of([5.0]), Some(Spread { median: 5.0, low: 5.0, high: 5.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_value_that_is_no_number_does_not_count() {
        assert_eq!(Spread::of([f64::NAN, 1.0, f64::INFINITY]), Spread::of([1.0]));
    }

    #[test]
    fn drift_cancels_in_pairs() {
        let base = [40.0, 50.0, 60.0];
        let with = [46.0, 56.0, 66.0];
        assert_eq!(Spread::of(paired(&with, &base, |with, base| with - base)), Spread::of([6.0]));
    }

    #[test]
    fn a_ratio_is_by_the_median_whatever_single_values_are() {
        assert_eq!(by_median(vec![6.0, 8.0, 10.0], vec![-1.0, 4.0, 5.0]), [1.5, 2.0, 2.5]);
        assert_eq!(by_median(vec![6.0], vec![-4.0, 0.0]), [] as [f64; 0]);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(100.0));
        assert_eq!(percentile(&values, 99.0), Some(198.0));
        assert_eq!(percentile(&values, 100.0), Some(200.0));
        assert_eq!(percentile(&[], 50.0), None);
    }
}
