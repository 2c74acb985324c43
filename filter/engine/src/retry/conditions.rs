//! After which ends of an attempt the policy wants a retry.

use holdfast_policy::document::{RetryOn, RetryWord, WordSet};

use crate::http::attempt::End;
use crate::http::outcome::Answer;

/// Whether `on` names the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It leaves that to lists that only the route has.
    RouteKnows,
}

/// Words after which an attempt without an answer is followed by another, whatever ended it. Envoy counts a reset as a 5xx
/// (Envoy, `RetryStateImpl::wouldRetryFromReset`).
pub(super) const ANY_RESET: WordSet = WordSet::of(&[RetryWord::Reset, RetryWord::FiveXx, RetryWord::GatewayError]);

/// Words after which some resets are followed by a retry. Which, Envoy alone can tell.
const SOME_RESETS: WordSet =
    WordSet::of(&[RetryWord::RefusedStream, RetryWord::ResetBeforeRequest, RetryWord::Http3PostConnectFailure]);

/// Words that leave the choice to the route.
const ROUTE_KNOWS: WordSet = WordSet::of(&[RetryWord::RetriableStatusCodes, RetryWord::RetriableHeaders]);

/// Whether a response with this status, `grpc-status` and (of the host's own making) `x-envoy-ratelimited` is named.
/// Source: Envoy, `RetryStateImpl::wouldRetryFromHeaders`.
pub fn names_response(on: &RetryOn, status: u16, grpc_status: Option<u32>, ratelimited: bool) -> Named {
    let has = |word| on.words.contains(word);
    if ratelimited {
        return if has(RetryWord::EnvoyRatelimited) { Named::Yes } else { Named::No };
    }
    let grpc = on.words.iter().any(|word| word.grpc_status().is_some_and(|named| grpc_status == Some(named.into())));
    let http = on.statuses.contains(status)
        || has(RetryWord::FiveXx) && (500..=599).contains(&status)
        || has(RetryWord::GatewayError) && (502..=504).contains(&status)
        || has(RetryWord::Retriable4xx) && status == 409;
    if grpc || http {
        Named::Yes
    } else if on.words.has_any(ROUTE_KNOWS) {
        Named::RouteKnows
    } else {
        Named::No
    }
}

/// Whether this end of an attempt without an answer is named.
pub fn names_no_answer(on: &RetryOn, end: End) -> bool {
    let any = on.words.has_any(ANY_RESET);
    match end {
        End::ConnectFailure => {
            any || on.words.contains(RetryWord::ConnectFailure) || on.words.contains(RetryWord::ResetBeforeRequest)
        }
        End::Reset => any || on.words.has_any(SOME_RESETS),
        End::TimedOut => any,
        // After its headers an answer cannot be retried.
        End::Http(_) | End::Grpc(_) | End::Broken => false,
    }
}

/// Whether the final answer of a request is named.
pub fn names_answer(on: &RetryOn, answer: Answer) -> bool {
    match answer {
        Answer::Http(status) => names_response(on, status, None, false) == Named::Yes,
        Answer::Grpc(status) => names_response(on, 200, Some(status), false) == Named::Yes,
        Answer::NoAnswer | Answer::NoHost => {
            names_no_answer(on, End::Reset) || names_no_answer(on, End::ConnectFailure)
        }
        Answer::TimedOut => names_no_answer(on, End::TimedOut),
        Answer::Broken | Answer::CutShort | Answer::ClientLeft | Answer::NotTheHost => false,
    }
}
