//! Percentages as integers, so that records, hashes and comparisons are exact.

/// Thousandths of a percent in one percent.
const MILLI: u32 = 1000;

/// A percentage between 0 and 100, held in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(u32);

impl Percent {
    /// 0 %.
    pub const ZERO: Percent = Percent(0);
    /// 100 %.
    pub const FULL: Percent = Percent(100 * MILLI);

    /// `whole` percent; anything above 100 is 100.
    pub const fn whole(whole: u32) -> Self {
        if whole >= 100 { Percent::FULL } else { Percent(whole * MILLI) }
    }

    /// From a JSON number, rounded to a thousandth of a percent; `None` outside 0..=100 (and for NaN).
    pub fn from_f64(value: f64) -> Option<Self> {
        if !(0.0..=100.0).contains(&value) {
            return None;
        }
        Some(Percent((value * f64::from(MILLI)).round() as u32))
    }

    /// Thousandths of a percent, 0..=100_000.
    pub const fn millis(self) -> u32 {
        self.0
    }

    /// Whether this is 0 %, which for a threshold means "off".
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether `part` of `whole` is at least this percentage. Nothing of nothing is never enough.
    pub fn reached(self, part: u64, whole: u64) -> bool {
        whole > 0 && u128::from(part) * u128::from(Percent::FULL.0) >= u128::from(self.0) * u128::from(whole)
    }

    /// This percentage of `amount`, rounded down.
    pub fn of(self, amount: u64) -> u64 {
        let (part, full) = (u64::from(self.0), u64::from(Percent::FULL.0));
        // In two parts that cannot overflow, of which only the second is rounded.
        amount / full * part + amount % full * part / full
    }
}

impl core::fmt::Display for Percent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&decimal(self.0))?;
        f.write_str("%")
    }
}

/// So many thousandths as a decimal number: `62.5`, `7`.
pub fn decimal(thousandths: u32) -> String {
    (f64::from(thousandths) / f64::from(MILLI)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_threshold_is_reached_at_equality_and_not_one_below() {
        let half = Percent::whole(50);
        assert!(half.reached(10, 20));
        assert!(!half.reached(9, 20));
        assert!(!half.reached(0, 0), "no requests reach nothing");
    }

    #[test]
    fn a_part_of_an_amount_is_exact_up_to_the_largest() {
        for percent in [0, 1, 999, 33_333, 62_500, 99_999, 100_000].map(Percent) {
            for amount in [0, 1, 7, 99_999, 100_000, 100_001, 123_456_789_012_345, u64::MAX - 1, u64::MAX] {
                assert_eq!(u128::from(percent.of(amount)), u128::from(amount) * u128::from(percent.millis()) / 100_000);
            }
        }
    }

    #[test]
    fn fractions_are_kept_to_a_thousandth() {
        assert_eq!(Percent::from_f64(62.5).map(Percent::millis), Some(62_500));
        assert_eq!(Percent::from_f64(100.1), None);
        assert_eq!(Percent::from_f64(-0.1), None);
        assert_eq!(Percent::from_f64(f64::NAN), None);
        assert_eq!(Percent::from_f64(62.5).unwrap().to_string(), "62.5%");
        assert_eq!(Percent::whole(7).to_string(), "7%");
        assert_eq!(Percent(7).to_string(), "0.007%");
        assert_eq!(decimal(u32::MAX), "4294967.295");
    }
}
