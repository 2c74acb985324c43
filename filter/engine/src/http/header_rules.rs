//! What a response's headers say of its outcome, where a policy judges by them.
//!
//! A service may answer `200` and say in a header that it failed. `ignore` is looked at before `failure`, as with statuses.

use holdfast_policy::document::OutcomeRules;
use holdfast_policy::glob::Glob;

use crate::http::markers;
use crate::http::outcome::{Answer, Outcome, Verdict};

/// What the header rules of a policy make of a response, the weaker first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum HeaderVerdict {
    /// They say nothing of it: its status decides.
    #[default]
    Nothing,
    /// It is a failure, unless its status is ignored.
    Failure,
    /// It is neither a success nor a failure, whatever its status.
    Ignored,
}

impl HeaderVerdict {
    /// What the rules make of a response with this header line. A line that the attempt seat has added says nothing.
    ///
    /// Names are compared as they are: the host gives them in lower case, as HTTP/2 does, and so does the policy.
    pub fn of_line(rules: &OutcomeRules, name: &[u8], value: &[u8]) -> HeaderVerdict {
        let matches = |rules: &[(String, Glob)]| {
            rules.iter().any(|(wanted, glob)| wanted.as_bytes() == name && glob.matches(value))
        };
        if name == markers::FORBID_HEADER.as_bytes() && value == markers::FORBID_VALUE.as_bytes() {
            HeaderVerdict::Nothing
        } else if matches(&rules.ignore_headers) {
            HeaderVerdict::Ignored
        } else if matches(&rules.failure_headers) {
            HeaderVerdict::Failure
        } else {
            HeaderVerdict::Nothing
        }
    }

    /// What an answer counts as by its status and these.
    pub fn verdict(self, rules: &OutcomeRules, answer: Answer) -> Verdict {
        self.applied_to(Outcome::judge(rules, answer, core::time::Duration::ZERO, None)).verdict
    }

    /// What an outcome by status becomes: whatever ignores it comes before what fails it.
    #[must_use]
    pub fn applied_to(self, by_status: Outcome) -> Outcome {
        match (self, by_status.verdict) {
            (HeaderVerdict::Ignored, _) => Outcome { verdict: Verdict::Ignored, slow: false, ..by_status },
            (HeaderVerdict::Failure, Verdict::Success) => Outcome { verdict: Verdict::Failure, ..by_status },
            _ => by_status,
        }
    }
}

impl From<Verdict> for HeaderVerdict {
    /// What makes an answer of this verdict count as that again, when its status is judged once more.
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Success => HeaderVerdict::Nothing,
            Verdict::Failure => HeaderVerdict::Failure,
            Verdict::Ignored => HeaderVerdict::Ignored,
        }
    }
}

/// Whether a policy judges by response headers.
pub fn are_given(rules: &OutcomeRules) -> bool {
    !(rules.failure_headers.is_empty() && rules.ignore_headers.is_empty())
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use holdfast_policy::config::defaults;
    use holdfast_policy::document::{GrpcSet, StatusSet};

    use super::*;
    use crate::base::time::Timestamp;
    use crate::http::headers;
    use crate::http::response::ResponseHead;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn named(pairs: &[(&str, &str)]) -> Vec<(String, Glob)> {
        pairs.iter().map(|(name, glob)| ((*name).to_owned(), Glob::new(glob, None).unwrap())).collect()
    }

    /// Errors by header, caches by header, `404` by status.
    fn rules() -> OutcomeRules {
        let mut ignore_status = StatusSet::default();
        ignore_status.insert_range(404, 404);
        let mut ignore_grpc = GrpcSet::default();
        ignore_grpc.insert(5);
        OutcomeRules {
            failure_headers: named(&[("x-app-error", "*"), ("x-status", "E*"), ("content-type", "text/html*")]),
            ignore_headers: named(&[("x-cache", "HIT*"), ("x-envoy-ratelimited", "*")]),
            ignore_status,
            ignore_grpc,
            slow_after: Some(Duration::from_secs(1)),
            ..defaults::outcome()
        }
    }

    fn read(rules: &OutcomeRules, lines: &[(&str, &[u8])]) -> ResponseHead {
        let lines: Vec<(String, Vec<u8>)> =
            lines.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        ResponseHead::read(&headers::write(&lines), Timestamp::from_secs(1), false, rules)
    }

    fn by_headers(lines: &[(&str, &[u8])]) -> HeaderVerdict {
        read(&rules(), lines).by_headers
    }

    /// What an answer with these headers counts as, and whether it is slow.
    fn judged(answer: Answer, lines: &[(&str, &[u8])], took: Duration) -> (Verdict, bool) {
        let outcome = by_headers(lines).applied_to(Outcome::judge(&rules(), answer, took, None));
        (outcome.verdict, outcome.slow)
    }

    #[test]
    fn a_header_says_that_a_response_failed_whatever_its_bytes_are() {
        assert_eq!(by_headers(&[(":status", b"200"), ("x-app-error", b"17")]), HeaderVerdict::Failure);
        assert_eq!(by_headers(&[("x-app-error", b"")]), HeaderVerdict::Failure, "it is there");
        assert_eq!(by_headers(&[("x-app-error", b"\xff\xfe")]), HeaderVerdict::Failure);
        assert_eq!(by_headers(&[("x-status", b"E\xff")]), HeaderVerdict::Failure);
        assert_eq!(by_headers(&[("content-type", b"text/html; charset=utf-8")]), HeaderVerdict::Failure);
        for other in [("x-status", &b"e1"[..]), ("x-status", b"OK E1"), ("x-app-errors", b"1"), ("app-error", b"1")] {
            assert_eq!(by_headers(&[other]), HeaderVerdict::Nothing, "{other:?}");
        }
    }

    #[test]
    fn any_of_several_lines_of_a_header_may_match() {
        assert_eq!(by_headers(&[("x-status", b"OK"), ("x-status", b"E1")]), HeaderVerdict::Failure);
        assert_eq!(by_headers(&[("x-status", b"E1"), ("x-status", b"OK")]), HeaderVerdict::Failure);
        assert_eq!(
            by_headers(&[("x-cache", b"HIT"), ("x-cache", b"MISS"), ("x-status", b"E")]),
            HeaderVerdict::Ignored
        );
    }

    #[test]
    fn what_is_ignored_comes_before_what_fails() {
        let (none, error, cache): (&[_], &[_], &[_]) =
            (&[], &[("x-app-error", &b"1"[..])], &[("x-cache", &b"HIT"[..])]);
        let both = [error, cache].concat();
        let verdict = |answer, lines| judged(answer, lines, Duration::ZERO).0;
        for (status, expected) in [
            (200, [Verdict::Success, Verdict::Failure, Verdict::Ignored, Verdict::Ignored]),
            (503, [Verdict::Failure, Verdict::Failure, Verdict::Ignored, Verdict::Ignored]),
            (404, [Verdict::Ignored; 4]),
        ] {
            let found = [none, error, cache, &both].map(|lines| verdict(Answer::Http(status), lines));
            assert_eq!(found, expected, "{status}");
        }
        for (status, expected) in [
            (0, [Verdict::Success, Verdict::Failure, Verdict::Ignored]),
            (14, [Verdict::Failure, Verdict::Failure, Verdict::Ignored]),
            (5, [Verdict::Ignored; 3]),
        ] {
            let found = [none, error, cache].map(|lines| verdict(Answer::Grpc(status), lines));
            assert_eq!(found, expected, "gRPC {status}");
        }
        assert_eq!(verdict(Answer::NotTheHost, error), Verdict::Ignored, "no host failed");
    }

    #[test]
    fn what_is_ignored_is_never_slow() {
        let slow = Duration::from_secs(2);
        assert_eq!(judged(Answer::Http(200), &[("x-app-error", b"1")], slow), (Verdict::Failure, true));
        assert_eq!(judged(Answer::Http(200), &[("x-cache", b"HIT")], slow), (Verdict::Ignored, false));
        assert_eq!(judged(Answer::Http(404), &[("x-app-error", b"1")], slow), (Verdict::Ignored, false));
    }

    #[test]
    fn the_attempt_seats_mark_says_nothing_and_a_hosts_own_does() {
        let mark = markers::FORBID_VALUE.as_bytes();
        assert_eq!(by_headers(&[(markers::FORBID_HEADER, mark)]), HeaderVerdict::Nothing);
        assert_eq!(by_headers(&[(markers::FORBID_HEADER, b"true")]), HeaderVerdict::Ignored);
    }

    #[test]
    fn a_policy_without_header_rules_judges_by_none() {
        let rules = defaults::outcome();
        assert!(!are_given(&rules));
        let head = read(&rules, &[(":status", b"200"), ("x-app-error", b"1"), ("x-cache", b"HIT")]);
        assert_eq!((head.status, head.by_headers), (200, HeaderVerdict::Nothing));
    }

    #[test]
    fn a_verdict_that_was_found_once_is_found_again() {
        for verdict in [Verdict::Success, Verdict::Failure, Verdict::Ignored] {
            let by_status = Outcome::judge(&rules(), Answer::Http(200), Duration::ZERO, None);
            assert_eq!(HeaderVerdict::from(verdict).applied_to(by_status).verdict, verdict);
        }
    }
}
