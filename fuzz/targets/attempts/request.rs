//! A request as the router has it, and each of its attempts.

use std::rc::Rc;

use holdfast_engine::attempt::AttemptState;
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::{Headers, Host};
use holdfast_engine::http::markers;
use holdfast_engine::http::response::ResponseHead;
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::request::{RequestPlugin, RequestState};
use holdfast_engine::seats::retry_context::{PROPERTY, RetryContext};

use crate::steps::RequestHead;

/// A request, as the router and the two seats share it.
pub struct Request {
    pub worker: usize,
    /// The plugin that it began with.
    pub plugin: Rc<RequestPlugin>,
    pub host: MemoryHost,
    pub state: RequestState,
    pub attempts: Vec<Attempt>,
    pub router: Router,
    /// Whether its cluster has an attempt seat.
    pub seated: bool,
    /// The names of the headers that it came with.
    pub own_headers: Vec<String>,
    /// Whether another filter holds the names of our properties.
    pub is_refused: bool,
    /// Whether a response has gone to the client, which ends the attempts beside its own.
    pub is_answered: bool,
    /// Whether that response is still without its end.
    pub is_open: bool,
    /// How the host names it.
    pub stream: u32,
    /// What the request seat holds back of that response.
    pub held: Option<Held>,
    /// The pieces of its body that have gone to the client.
    pub passed: Vec<Vec<u8>>,
    /// Whether it counts in flight.
    pub is_held: bool,
    /// Whether it came without a body.
    pub is_bodyless: bool,
    /// Replies by each of the seats.
    pub replies: Replies,
    /// Retries that the attempt seat has sent.
    pub sent: u32,
    /// Whether somebody else wrote the retry context.
    pub replaced: bool,
    /// Whether the attempt seat cannot know of its first attempt: the route retried what was neither judged nor remembered.
    pub is_unseen: bool,
}

/// What is held back of a response.
pub struct Held {
    pub since: Timestamp,
    /// What has come of its body meanwhile.
    pub kept: Vec<u8>,
    /// Whether that was the end of it.
    pub has_ended: bool,
    /// The trailers that have come: the gRPC status in them, if any.
    pub trailers: Option<Option<Vec<u8>>>,
}

#[derive(Debug, Default)]
pub struct Replies {
    pub request_seat: u32,
    pub attempt_seat: u32,
}

impl Request {
    /// The retry context, as it stands in the filter state.
    pub fn context(&self) -> Option<RetryContext> {
        RetryContext::read_property(&self.property())
    }

    pub fn property(&self) -> Vec<u8> {
        self.host.property(PROPERTY).unwrap_or_default()
    }

    /// Whether this is still the router's to attempt.
    pub fn is_waited_for(&self) -> bool {
        !self.is_answered
    }

    /// Attempts that have no response, and such as are to begin.
    pub fn others_left(&self) -> bool {
        !self.attempts.is_empty() || self.router.wanted > 0
    }
}

/// One attempt's stream.
pub struct Attempt {
    /// How the host names it.
    pub stream: u32,
    pub state: AttemptState,
    pub phase: Phase,
    /// Whether it has been hedged.
    pub is_hedged: bool,
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// It is held by the attempt seat since then, and may not be sent before the other time.
    Waiting { since: Timestamp, not_before: Timestamp },
    /// It was sent.
    Sent,
    /// It was replied to in its place.
    Stopped,
    /// Its response has gone to the client.
    Answered,
}

/// What Envoy's router knows of a request.
pub struct Router {
    pub retries_left: u32,
    /// Its conditions for retries that the request names.
    words: Vec<String>,
    statuses: Vec<u16>,
    /// Whether our mark asks for a retry.
    heeds_mark: bool,
    pub hedges: bool,
    /// Attempts that it is about to begin.
    pub wanted: u32,
    /// Attempts that it has begun.
    pub begun: u64,
}

impl Router {
    /// Reads what the request seat has left in the headers. Source: Envoy, `RetryStateImpl`.
    pub fn new(host: &MemoryHost, head: &RequestHead<'_>) -> Self {
        let header = |name| host.text(Headers::Request, name);
        let list =
            |name| header(name).into_iter().flat_map(|value| value.split(',').map(str::to_owned).collect::<Vec<_>>());
        let route = head.route_ratelimited.then(|| "envoy-ratelimited".to_owned());
        let names = header("x-envoy-retriable-header-names");
        let told = header("x-envoy-max-retries").and_then(|value| value.parse().ok());
        Router {
            retries_left: told.unwrap_or(head.route_retries.into()),
            words: list("x-envoy-retry-on").chain(list("x-envoy-retry-grpc-on")).chain(route).collect(),
            statuses: list("x-envoy-retriable-status-codes").filter_map(|status| status.parse().ok()).collect(),
            heeds_mark: names.is_some_and(|names| names == markers::RETRY_HEADER),
            hedges: header("x-envoy-hedge-on-per-try-timeout").is_some_and(|value| value == "true"),
            wanted: 1,
            begun: 0,
        }
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    /// Whether the response in the host's headers is one to retry; `named` stands for the conditions of the route.
    /// Source: Envoy, `RetryStateImpl::wouldRetryFromHeaders`.
    pub fn would_retry(&self, host: &MemoryHost, head: &ResponseHead, named: bool) -> bool {
        let has_header = |name| host.header(Headers::Response, name).is_some();
        if has_header(markers::FORBID_HEADER) {
            return self.has("envoy-ratelimited");
        }
        let grpc = match head.grpc_status {
            Some(1) => self.has("cancelled"),
            Some(4) => self.has("deadline-exceeded"),
            Some(8) => self.has("resource-exhausted"),
            Some(13) => self.has("internal"),
            Some(14) => self.has("unavailable"),
            _ => false,
        };
        named
            || grpc
            || self.heeds_mark && has_header(markers::RETRY_HEADER)
            || self.has("5xx") && (500..=599).contains(&head.status)
            || self.has("gateway-error") && (502..=504).contains(&head.status)
            || self.has("retriable-4xx") && head.status == 409
            || self.has("retriable-status-codes") && self.statuses.contains(&head.status)
    }

    /// Whether an attempt without a response is retried. Source: Envoy, `RetryStateImpl::wouldRetryFromReset`.
    pub fn would_retry_reset(&self, is_connected: bool, named: bool) -> bool {
        named
            || ["reset", "5xx", "gateway-error"].into_iter().any(|word| self.has(word))
            || self.has("connect-failure") && !is_connected
    }

    /// Takes one of the retries, if there is one left.
    pub fn take_retry(&mut self) -> bool {
        let has_left = self.retries_left > 0;
        if has_left {
            self.retries_left -= 1;
            self.wanted += 1;
        }
        has_left
    }
}
