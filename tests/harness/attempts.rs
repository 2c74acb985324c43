//! The trail of attempts that the attempt seat leaves in the access log.

use crate::AccessLogEntry;

/// One attempt of a request, as the access log tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The host's address.
    pub host: String,
    /// `success`, `failure` or `ignored`, then `:` and the status or what came instead: `failure:503`, `failure:reset`.
    pub outcome: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// The attempts of this request; none when the entry has no `attempts`.
///
/// # Panics
/// When `attempts` is there and is not a list of host, outcome and milliseconds.
#[must_use]
pub fn attempts(entry: &AccessLogEntry) -> Vec<Attempt> {
    let Some(trail) = entry.holdfast_field("attempts") else { return Vec::new() };
    let parsed = |part: &str| parse(part).unwrap_or_else(|| panic!("{part:?} is not a try, in {trail:?}"));
    trail.split(", ").map(parsed).collect()
}

fn parse(part: &str) -> Option<Attempt> {
    let mut words = part.split(' ');
    let attempt = Attempt {
        host: words.next().filter(|host| !host.is_empty())?.to_owned(),
        outcome: words.next()?.to_owned(),
        millis: words.next()?.strip_suffix("ms")?.parse().ok()?,
    };
    words.next().is_none().then_some(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_attempt_is_not_taken_for_one() {
        assert!(parse("127.0.0.1:4001 success:200 5ms").is_some());
        for part in ["", "127.0.0.1:4001", "127.0.0.1:4001 success:200", "a b 5", "a b xms", "a b 5ms more", " b 5ms"] {
            assert_eq!(parse(part), None, "{part:?}");
        }
    }
}
