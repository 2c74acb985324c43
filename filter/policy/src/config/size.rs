//! Numbers of bytes as people write them: `64KiB`, `1MiB`.

use core::ops::RangeInclusive;

use super::error::{Report, Reported};
use super::reader::{Fields, Item};
use super::table::Numeric;

/// Units in bytes, the largest first.
const UNITS: [(&str, u32); 3] = [("MiB", 1024 * 1024), ("KiB", 1024), ("B", 1)];

/// Parses a number of bytes: a whole number with a unit (`B`, `KiB`, `MiB`). One that is too large is the largest.
fn parse(text: &str) -> Option<u32> {
    let (digits, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u32::MAX).saturating_mul(unit))
}

/// A number of bytes as it is read, in the largest unit that fits.
pub fn text(bytes: u32) -> String {
    let fits = |(_, unit): &&(&str, u32)| bytes >= *unit && bytes.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().find(fits).copied().unwrap_or(("B", 1));
    format!("{}{name}", bytes / unit)
}

/// A range as it appears in messages.
pub(super) fn within(range: &RangeInclusive<u32>) -> String {
    format!("within {}..={}", text(*range.start()), text(*range.end()))
}

fn read(item: &Item<'_>, range: &RangeInclusive<u32>, report: &mut Report) -> Result<u32, Reported> {
    item.quantity((range, &within(range)), parse, ("size", r#""64KiB" or "1MiB""#), report)
}

impl Fields<'_> {
    /// The number of bytes of a key, or its default.
    pub(super) fn size(&self, key: &Numeric<u32>, report: &mut Report) -> Result<u32, Reported> {
        self.or(key.name, key.default, report, |item, report| read(item, &key.range, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        for (text, bytes) in [("1B", 1), ("64KiB", 65_536), ("1MiB", 1_048_576), ("0B", 0), ("007KiB", 7168)] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["99999MiB", "99999999999999999999B"] {
            assert_eq!(parse(text), Some(u32::MAX), "{text}");
        }
        for text in ["", "B", "64", "64kib", "64 KiB", "-1B", "1.5MiB", "64KB", "1MiB1KiB", "+1B"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_written_as_they_can_be_read() {
        for (bytes, expected) in [(0, "0B"), (1000, "1000B"), (1024, "1KiB"), (1025, "1025B"), (3 << 20, "3MiB")] {
            assert_eq!(text(bytes), expected);
            assert_eq!(parse(expected), Some(bytes));
        }
    }
}
