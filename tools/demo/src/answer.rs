//! What a client got for a request.

use std::time::Duration;

use holdfast_tests::{Response, SendError};

/// One request and its end, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which of the scene's callers sent it.
    pub caller: usize,
    /// When it was due to be sent, from the start of the run.
    pub sent: Duration,
    /// How long its client waited.
    pub waited: Duration,
    /// What it got.
    pub fate: Fate,
    /// Whether the body is that of what was asked for, byte for byte.
    pub is_own: bool,
    /// The seconds since its service made it, where it says so.
    pub age: Option<u32>,
}

/// What a client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// A good answer of the service.
    Served,
    /// The answer that the policy chose for this case.
    Fallback,
    /// A clear "not now": 503 and when to come back.
    Rejected,
    /// Anything else: an error, or no answer.
    Failed,
}

impl Fate {
    /// All, from good to bad.
    pub const ALL: [Fate; 4] = [Fate::Served, Fate::Fallback, Fate::Rejected, Fate::Failed];

    /// What became of a request. Holdfast marks its own answers in their headers; a rejection that does not say when to
    /// come back counts as an error.
    pub fn of(outcome: &Result<Response, SendError>) -> Fate {
        let Ok(response) = outcome else { return Fate::Failed };
        let has = |name| response.headers.contains_key(name);
        if has("x-holdfast-fallback") {
            Fate::Fallback
        } else if has("x-holdfast-reject") && has("retry-after") && response.status == 503 {
            Fate::Rejected
        } else if (200..300).contains(&response.status) {
            Fate::Served
        } else {
            Fate::Failed
        }
    }

    /// One word for it, as in the headings of tables.
    pub fn word(self) -> &'static str {
        match self {
            Fate::Served => "ok",
            Fate::Fallback => "fallback",
            Fate::Rejected => "rejected",
            Fate::Failed => "errors",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &'static str)]) -> Fate {
        let mut response =
            Response { status, headers: http::HeaderMap::new(), body: Default::default(), trailers: None };
        for (name, value) in headers {
            response.headers.insert(*name, http::HeaderValue::from_static(value));
        }
        Fate::of(&Ok(response))
    }

    #[test]
    fn the_status_and_the_marks_tell_what_became_of_a_request() {
        assert_eq!(answered(200, &[]), Fate::Served);
        assert_eq!(answered(503, &[]), Fate::Failed, "the service's own error");
        let mark = ("x-holdfast-fallback", "static; reason=open; policy=items");
        assert_eq!(answered(200, &[mark]), Fate::Fallback, "not an answer of the service, though 200");
        let reject = ("x-holdfast-reject", "open; policy=checkout");
        assert_eq!(answered(503, &[reject, ("retry-after", "2")]), Fate::Rejected);
        assert_eq!(answered(503, &[reject]), Fate::Failed, "a rejection has to say when to come back");
    }

    #[test]
    fn no_answer_is_an_error() {
        let lost = SendError { status: None, message: "timed out".to_owned() };
        assert_eq!(Fate::of(&Err(lost)), Fate::Failed);
    }
}
