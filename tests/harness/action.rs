//! What a backend does with a request, and how it chooses by the request it sees.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

/// What the server does with a request.
#[derive(Clone, Debug)]
pub struct Action {
    pub(crate) delay: Duration,
    /// Between the answer's head and its end.
    pub(crate) lasts: Option<Duration>,
    pub(crate) ending: Ending,
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    Answer,
    Truncate,
    /// The answer's head, and never what follows it.
    Stall,
    ResetConnection,
    ResetStream(StreamError),
    Hang,
}

/// The code of an HTTP/2 stream reset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StreamError {
    Internal,
    Refused,
}

impl Action {
    fn new(ending: Ending) -> Self {
        Self {
            delay: Duration::ZERO,
            lasts: None,
            ending,
            status: StatusCode::OK,
            headers: Vec::new(),
            body: Bytes::new(),
            trailers: None,
        }
    }

    /// Answers `200` with the body `ok`.
    #[must_use]
    pub fn ok() -> Self {
        Self::new(Ending::Answer).body("ok")
    }

    /// Answers with this status and an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status: StatusCode::from_u16(status).expect("a status code"), ..Self::new(Ending::Answer) }
    }

    /// Answers as gRPC does: status 200, one empty message, `grpc-status` in the trailers.
    #[must_use]
    pub fn grpc(status: u32) -> Self {
        Self::new(Ending::Answer)
            .header("content-type", "application/grpc")
            .body(Bytes::from_static(&[0; 5]))
            .trailer("grpc-status", status.to_string())
    }

    /// Answers as gRPC does without a message: `grpc-status` in the headers, and nothing after them.
    #[must_use]
    pub fn grpc_trailers_only(status: u32) -> Self {
        Self::new(Ending::Answer).header("content-type", "application/grpc").header("grpc-status", status.to_string())
    }

    /// Never answers. The request ends when the peer gives up.
    #[must_use]
    pub fn hang() -> Self {
        Self::new(Ending::Hang)
    }

    /// Closes the connection with a TCP reset instead of an answer. Over HTTP/2 all its streams go with it.
    #[must_use]
    pub fn reset() -> Self {
        Self::new(Ending::ResetConnection)
    }

    /// Resets the HTTP/2 stream with `INTERNAL_ERROR` instead of an answer; its connection goes on. Over HTTP/1.1 it
    /// closes the connection.
    #[must_use]
    pub fn reset_stream() -> Self {
        Self::new(Ending::ResetStream(StreamError::Internal))
    }

    /// Resets the HTTP/2 stream with `REFUSED_STREAM`: nothing was done with the request. Over HTTP/1.1 it closes the
    /// connection.
    #[must_use]
    pub fn refuse_stream() -> Self {
        Self::new(Ending::ResetStream(StreamError::Refused))
    }

    /// Answers `200`, sends half of the body it announced, and closes the connection (HTTP/1.1) or resets the stream
    /// (HTTP/2).
    #[must_use]
    pub fn truncate() -> Self {
        Self::new(Ending::Truncate).body("a body of which only the first half arrives")
    }

    /// Sends the status and the headers of this answer, and then nothing more, until the peer gives up.
    #[must_use]
    pub fn then_hang(mut self) -> Self {
        self.ending = Ending::Stall;
        self
    }

    /// Sends the head of this answer at once, and what follows it after this time: the body and the trailers, or the break.
    #[must_use]
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasts = Some(time);
        self
    }

    /// Waits before doing so.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Adds a header. The value may hold any bytes that HTTP allows, UTF-8 or not.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name = name.parse().expect("a header name");
        self.headers.push((name, HeaderValue::from_bytes(value.as_ref()).expect("a header value")));
        self
    }

    /// Adds a trailer. Over HTTP/1.1 trailers get lost.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        let value = HeaderValue::from_bytes(value.as_ref()).expect("a header value");
        self.trailers.get_or_insert_default().append(name, value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A script for [`Backend::script`](crate::Backend::script): the requests with the same value of `header` get these
    /// actions in turn, and the last one from then on. Requests without the header count as one more value.
    ///
    /// Clones go on in the same sequence, so that attempts that fall on several backends can be scripted as one.
    ///
    /// # Panics
    /// When there is no action.
    pub fn in_turn(
        header: &str,
        actions: impl IntoIterator<Item = Self>,
    ) -> impl Fn(&SeenRequest) -> Self + Clone + Send + Sync + 'static {
        let actions: Arc<[Self]> = actions.into_iter().collect();
        assert!(!actions.is_empty(), "a sequence has at least one action");
        let header = header.to_owned();
        let turns = Arc::new(Mutex::new(BTreeMap::<Option<String>, usize>::new()));
        move |request| {
            let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = turns.entry(request.header(&header)).or_default();
            let action = actions[(*turn).min(actions.len() - 1)].clone();
            *turn += 1;
            action
        }
    }
}

/// A request the server has seen.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// Its number, from 0, in the order of arrival since the last
    /// [`Backend::reset_counters`](crate::Backend::reset_counters).
    pub index: u64,
    /// When its headers had arrived.
    pub at: Instant,
    /// The protocol that the request came in.
    pub version: Version,
    /// The method.
    pub method: Method,
    /// The path with its query.
    pub path: String,
    /// The headers, as bytes.
    pub headers: HeaderMap,
    /// The body; empty when it was not waited for.
    pub body: Bytes,
}

impl SeenRequest {
    /// The first value of a header, with bytes that are not UTF-8 replaced.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

/// The times from each of these requests to the next, by their arrivals: how long each retry was waited for,
/// when they are the attempts of one request.
#[must_use]
pub fn gaps(requests: &[SeenRequest]) -> Vec<Duration> {
    let mut arrivals: Vec<Instant> = requests.iter().map(|request| request.at).collect();
    arrivals.sort_unstable();
    arrivals.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect()
}
