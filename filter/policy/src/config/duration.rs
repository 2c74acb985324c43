//! Durations as people write them: `250ms`, `1.5s`, `1m30s`.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::error::{Report, Reported};
use super::reader::{Fields, Item};
use super::table::{Entry, Timed};

/// Units, the longest first, in nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Decimals that count; a nanosecond is the 13th of an hour, so more change nothing.
const DECIMALS: usize = 13;

/// Parses a duration: numbers with a unit (`h`, `m`, `s`, `ms`, `us`, `ns`), the longer units first, each at most once.
/// `None` when it is none, or longer than 584 years. Fractions of a nanosecond are dropped.
pub fn parse(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    let mut units = UNITS.as_slice();
    while !rest.is_empty() {
        let (number, after) = split(rest, |byte| byte.is_ascii_digit() || byte == b'.')?;
        let (unit, after) = split(after, |byte| byte.is_ascii_alphabetic())?;
        let position = units.iter().position(|(name, _)| *name == unit)?;
        let (_, nanos) = units.get(position)?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        units = units.get(position + 1..)?;
        rest = after;
    }
    (!text.is_empty()).then_some(Duration::from_nanos(total))
}

/// The leading bytes that are `wanted`, at least one, and the rest.
fn split(text: &str, wanted: impl Fn(u8) -> bool) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !wanted(byte)).unwrap_or(text.len());
    if end == 0 { None } else { text.split_at_checked(end) }
}

/// `number` (digits, with decimals or not) times `unit`.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, decimals) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let mut nanos = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if !decimals.is_empty() {
        if decimals.contains('.') {
            return None;
        }
        let decimals = decimals.get(..DECIMALS).unwrap_or(decimals);
        let power = 10u128.pow(decimals.len() as u32);
        let part = decimals.parse::<u128>().ok()? * u128::from(unit) / power;
        nanos = nanos.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(nanos)
}

/// A duration as [`parse`] reads it, exactly: `1m30s`, `250ms`, `1.5s`.
pub fn text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (name, unit) in UNITS {
        let whole = rest / unit;
        // From seconds down one unit with decimals reads better than several.
        if unit <= 1_000_000_000 && whole > 0 {
            out.push_str(&whole.to_string());
            let digits = unit.ilog10() as usize;
            let decimals = format!("{:0digits$}", rest % unit);
            let decimals = decimals.trim_end_matches('0');
            if !decimals.is_empty() {
                out.push('.');
                out.push_str(decimals);
            }
            out.push_str(name);
            return out;
        }
        if whole > 0 {
            out.push_str(&whole.to_string());
            out.push_str(name);
            rest %= unit;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// A range of durations as it appears in messages.
pub(super) fn within(range: &RangeInclusive<Duration>) -> String {
    format!("within {}..={}", text(*range.start()), text(*range.end()))
}

/// The value as a duration within `range`.
pub(super) fn read(
    item: &Item<'_>,
    range: &RangeInclusive<Duration>,
    report: &mut Report,
) -> Result<Duration, Reported> {
    item.quantity((range, &within(range)), parse, ("duration", r#""250ms", "10s" or "1m30s""#), report)
}

impl Fields<'_> {
    /// The duration of a key, or its default.
    pub(super) fn duration(&self, key: &Timed, report: &mut Report) -> Result<Duration, Reported> {
        Ok(self.duration_within(key.name, &key.range, report)?.unwrap_or(key.default))
    }

    /// The duration of a key, if it is there.
    pub(super) fn optional_duration(
        &self,
        key: &Entry<RangeInclusive<Duration>, ()>,
        report: &mut Report,
    ) -> Result<Option<Duration>, Reported> {
        self.duration_within(key.name, &key.range, report)
    }

    fn duration_within(
        &self,
        key: &str,
        range: &RangeInclusive<Duration>,
        report: &mut Report,
    ) -> Result<Option<Duration>, Reported> {
        self.optional(key, report, |item, report| read(item, range, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn durations_are_read_exactly() {
        for (text, nanos) in [
            ("0s", 0),
            ("1ns", 1),
            ("1.5us", 1_500),
            ("250ms", 250_000_000),
            ("0.1s", 100_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h0m1s1ms1us1ns", 3_601_001_001_001),
            ("0.0000000000001h", 0),
            ("0.00000000000000000001s", 0),
            ("18446744073709551615ns", u64::MAX),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "+1s",
            "1 s",
            " 1s",
            "1s ",
            "1S",
            "1d",
            "1.s",
            ".5s",
            "1.2.3s",
            "1s1s",
            "1s1m",
            "1e3s",
            "١s",
            "5124096h",
            "18446744073709551616ns",
            "1sé",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_they_can_be_read() {
        for text in ["0s", "1ns", "1.5us", "250ms", "1.25s", "1m30s", "24h", "1h0.5s", "5m", "584554h49m"] {
            let duration = parse(text).unwrap();
            let again = super::text(duration);
            assert_eq!(parse(&again), Some(duration), "{text} became {again}");
        }
        assert_eq!(text(Duration::from_secs(90)), "1m30s");
        assert_eq!(text(Duration::from_millis(1500)), "1.5s");
        assert_eq!(text(Duration::from_nanos(1_001)), "1.001us");
    }
}
