//! How old an answer is, and until when it may be served. Source: RFC 9111, sections 4.2 and 5.2.2; RFC 5861, section 4.

use core::time::Duration;

use super::cache_control::{CacheControl, LONGEST, delta_seconds};
use crate::base::time::{Timestamp, nanos};
use crate::http::date;

/// A host's clock may be ahead by so much. A date that is further ahead is none.
const AHEAD: Duration = Duration::from_secs(300);

/// What an answer says of its age and its lifetime.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dates<'a> {
    /// `date`.
    pub date: Option<&'a [u8]>,
    /// `age`.
    pub age: Option<&'a [u8]>,
    /// `expires`.
    pub expires: Option<&'a [u8]>,
}

/// When an answer was made, and until when it may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Its age counts from here.
    pub born: Timestamp,
    /// Its own limit; the end of time where it has none.
    pub until: Timestamp,
}

impl Freshness {
    /// That of an answer that came `now` to a request that was sent at `sent`; `None` where its dates cannot be, or it may not be served
    /// to anybody without asking its host.
    pub fn of(control: &CacheControl, dates: &Dates<'_>, sent: Timestamp, now: Timestamp) -> Option<Self> {
        if control.no_cache {
            return None;
        }
        let date = match dates.date {
            Some(date) => date::parse(date).filter(|date| *date <= now.plus(AHEAD))?,
            None => now,
        };
        let age = dates.age.map_or(Some(0), delta_seconds)?;
        // The age that it had when it came, by the larger of two reckonings. Source: RFC 9111, section 4.2.3.
        let apparent = now.since(date);
        let corrected = Duration::from_secs(age.into()).saturating_add(now.since(sent));
        let initial = apparent.max(corrected);
        let born = Timestamp(now.0.saturating_sub(nanos(initial)));
        let lifetime = lifetime(control, dates.expires, date);
        let until = match control.stale_if_error {
            _ if control.must_revalidate || control.proxy_revalidate => born.plus(lifetime),
            // The host's own word on errors.
            Some(allowed) => born.plus(lifetime.saturating_add(Duration::from_secs(allowed.into()))),
            // It means proxy-revalidate as well. Source: RFC 9111, section 5.2.2.10.
            None if control.s_maxage.is_some() => born.plus(lifetime),
            // Whoever is cut off from the host may serve it. Source: RFC 9111, section 4.2.4.
            None => Timestamp(u64::MAX),
        };
        (until > now).then_some(Freshness { born, until })
    }
}

/// How long an answer is fresh; without a word of its own not at all.
fn lifetime(control: &CacheControl, expires: Option<&[u8]>, made: Timestamp) -> Duration {
    if let Some(seconds) = control.s_maxage.or(control.max_age) {
        return Duration::from_secs(seconds.into());
    }
    // What is no date has passed, such as 0. Source: RFC 9111, section 5.3.
    let left = expires.and_then(date::parse).map_or(Duration::ZERO, |expires| expires.since(made));
    left.min(Duration::from_secs(LONGEST.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: u64 = 784_111_777;

    fn t(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn of(control: &str, dates: &Dates<'_>) -> Option<(i64, Option<i64>)> {
        let control = CacheControl::read(control.as_bytes()).unwrap();
        let found = Freshness::of(&control, dates, t(NOW - 2), t(NOW))?;
        let after = |time: Timestamp| (time.0 / 1_000_000_000) as i64 - NOW as i64;
        Some((after(found.born), (found.until.0 != u64::MAX).then(|| after(found.until))))
    }

    fn dates<'a>(date: &'a str, age: &'a str) -> Dates<'a> {
        let given = |text: &'a str| (!text.is_empty()).then_some(text.as_bytes());
        Dates { date: given(date), age: given(age), expires: None }
    }

    #[test]
    fn its_age_counts_from_the_earlier_of_two_reckonings() {
        assert_eq!(of("", &dates("", "")), Some((-2, None)), "it took 2 s");
        assert_eq!(of("", &dates("", "10")), Some((-12, None)));
        assert_eq!(of("", &dates("Sun, 06 Nov 1994 08:49:07 GMT", "10")), Some((-30, None)));
        assert_eq!(of("", &dates("Sun, 06 Nov 1994 08:50:37 GMT", "")), Some((-2, None)), "a clock that is ahead");
    }

    #[test]
    fn dates_that_cannot_be_are_none() {
        for (date, age) in [
            ("Sun, 06 Nov 1994 09:49:37 GMT", ""),
            ("Sun, 07 Feb 2106 06:28:15 GMT", ""),
            ("soon", ""),
            ("", "-1"),
            ("", "1.5"),
            ("", "1, 2"),
            ("", "x"),
        ] {
            assert_eq!(of("max-age=60", &dates(date, age)), None, "{date} {age}");
        }
    }

    #[test]
    fn an_answer_is_served_as_long_as_it_says_itself() {
        let at = |control: &str| of(control, &dates("", "10")).map(|(_, until)| until);
        assert_eq!(at("max-age=60"), Some(None), "cut off from its host");
        assert_eq!(at("max-age=60, stale-if-error=30"), Some(Some(78)));
        assert_eq!(at("max-age=0, stale-if-error=30"), Some(Some(18)));
        assert_eq!(at("stale-if-error=5"), None, "it has passed");
        assert_eq!(at("max-age=60, must-revalidate, stale-if-error=30"), Some(Some(48)), "while it is fresh");
        assert_eq!(at("max-age=60, proxy-revalidate"), Some(Some(48)));
        assert_eq!(at("s-maxage=20, max-age=60"), Some(Some(8)));
        assert_eq!(at("s-maxage=20, stale-if-error=30"), Some(Some(38)));
        assert_eq!(at("must-revalidate"), None, "it is never fresh");
        assert_eq!(at("no-cache, max-age=60"), None);
        let longest = at("stale-if-error=99999999999, max-age=99999999999");
        assert!(longest.is_some_and(|until| until.is_some()));
    }

    #[test]
    fn expires_says_how_long_where_nothing_else_does() {
        let at = |control: &str, expires: &str| {
            let given =
                Dates { date: Some(b"Sun, 06 Nov 1994 08:49:37 GMT"), age: None, expires: Some(expires.as_bytes()) };
            of(control, &given).and_then(|(_, until)| until)
        };
        assert_eq!(at("must-revalidate", "Sun, 06 Nov 1994 08:50:37 GMT"), Some(58));
        assert_eq!(at("must-revalidate, max-age=10", "Sun, 06 Nov 1994 08:50:37 GMT"), Some(8));
        assert_eq!(at("stale-if-error=60", "0"), Some(58), "it has passed");
        assert_eq!(at("stale-if-error=60", "Sun, 06 Nov 1994 08:00:00 GMT"), Some(58));
    }

    #[test]
    fn no_clock_makes_it_panic() {
        for (sent, now) in [(0, 0), (u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            let control =
                CacheControl { max_age: Some(LONGEST), stale_if_error: Some(LONGEST), ..CacheControl::default() };
            let found =
                Freshness::of(&control, &dates("Sun, 06 Nov 1994 08:49:37 GMT", "7"), Timestamp(sent), Timestamp(now));
            assert!(found.is_none_or(|found| found.born <= Timestamp(now) && found.until > Timestamp(now)));
        }
    }
}
