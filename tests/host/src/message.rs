//! What a test sends and what it answers.

use crate::flags;
use crate::headers::Headers;
use crate::host::Listener;

/// A request of a client, with what Envoy has found out about it by the time it reaches the module.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    /// Whether more of the body is to come.
    pub(crate) is_unfinished: bool,
    pub(crate) cluster: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) filter_state: Vec<(String, Vec<u8>)>,
    pub(crate) protocol: String,
    pub(crate) is_translated: bool,
    pub(crate) listener: Listener,
}

impl Request {
    /// A request to `shop.example`, routed to the cluster `orders` by a route without a name.
    pub fn new(method: &str, path: &str) -> Self {
        let pairs = [
            (":method", method),
            (":path", path),
            (":authority", "shop.example"),
            (":scheme", "http"),
            ("x-forwarded-proto", "http"),
            ("x-request-id", "00000000-0000-4000-8000-000000000000"),
        ];
        Request {
            headers: pairs.into_iter().collect(),
            body: Vec::new(),
            is_unfinished: false,
            cluster: Some("orders".to_owned()),
            route: None,
            filter_state: Vec::new(),
            protocol: "HTTP/1.1".to_owned(),
            is_translated: false,
            listener: Listener::default(),
        }
    }

    /// A GET.
    pub fn get(path: &str) -> Self {
        Request::new("GET", path)
    }

    /// A unary gRPC call.
    pub fn grpc(path: &str) -> Self {
        let request = Request::new("POST", path).protocol("HTTP/2");
        request.header("content-type", "application/grpc").header("te", "trailers")
    }

    /// Sets a header; its value is any bytes.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Adds another line of a header.
    pub fn another(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// Gives it a body.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// Its client has not sent all of its body: the rest comes when the test says so.
    pub fn unfinished(mut self) -> Self {
        self.is_unfinished = true;
        self
    }

    /// Whether its end comes with its headers.
    pub(crate) fn has_only_headers(&self) -> bool {
        self.body.is_empty() && !self.is_unfinished
    }

    /// The version of HTTP that the client speaks, as `request.protocol` names it.
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.protocol = protocol.to_owned();
        self
    }

    /// A filter has made it of a client's request that was not gRPC, and translates the answer.
    pub fn transcoded(self) -> Self {
        let request = self.header("x-envoy-original-method", "GET");
        Request { is_translated: true, ..request }
    }

    /// The cluster it is routed to.
    pub fn cluster(mut self, cluster: &str) -> Self {
        self.cluster = Some(cluster.to_owned());
        self
    }

    /// The name of its route.
    pub fn route(mut self, route: &str) -> Self {
        self.route = Some(route.to_owned());
        self
    }

    /// Another filter has put bytes into the filter state `wasm.NAME` before.
    pub fn filter_state(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.filter_state.push((name.to_owned(), bytes.as_ref().to_vec()));
        self
    }

    /// No route was found, so there is no cluster.
    pub fn unrouted(mut self) -> Self {
        self.cluster = None;
        self
    }

    /// The listener it came in by.
    pub fn on(mut self, listener: Listener) -> Self {
        self.listener = listener;
        self
    }

    /// Whether Envoy's own replies to it are gRPC: it looks at what the client sent.
    pub(crate) fn is_grpc(&self) -> bool {
        let is_grpc = |value: &[u8]| value.starts_with(b"application/grpc");
        !self.is_translated && self.headers.get("content-type").is_some_and(is_grpc)
    }
}

/// An answer of the upstream host.
#[derive(Debug, Clone)]
pub struct Response {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<Headers>,
    /// Whether it has a body although that is empty.
    pub(crate) has_body: bool,
}

impl Response {
    /// An answer with this status and a short body.
    pub fn status(status: u16) -> Self {
        Response {
            headers: [(":status", status.to_string())].into_iter().collect(),
            body: b"upstream".to_vec(),
            trailers: None,
            has_body: false,
        }
    }

    /// A gRPC answer: a message, and this status in the trailers.
    pub fn grpc(grpc_status: u32) -> Self {
        let mut response = Response::status(200).header("content-type", "application/grpc");
        response.trailers = Some([("grpc-status", grpc_status.to_string())].into_iter().collect());
        response
    }

    /// A gRPC answer without a message: this status is in the headers.
    pub fn grpc_headers_only(grpc_status: u32) -> Self {
        Response::status(200)
            .header("content-type", "application/grpc")
            .header("grpc-status", grpc_status.to_string())
            .without_body()
    }

    /// Sets a header; its value is any bytes.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Adds another line of a header.
    pub fn another(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// Sets a trailer; its value is any bytes.
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.trailers.get_or_insert_default().set(name, value);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// Takes the body away.
    pub fn without_body(mut self) -> Self {
        self.body.clear();
        self
    }

    /// It has an empty body, and that shows only when that ends.
    pub fn empty_body(mut self) -> Self {
        self.body.clear();
        self.has_body = true;
        self
    }

    /// Whether its end comes with its headers.
    pub(crate) fn has_only_headers(&self) -> bool {
        self.body.is_empty() && self.trailers.is_none() && !self.has_body
    }

    pub(crate) fn code(&self) -> Option<u16> {
        std::str::from_utf8(self.headers.get(":status")?).ok()?.parse().ok()
    }
}

impl From<u16> for Response {
    fn from(status: u16) -> Self {
        Response::status(status)
    }
}

/// A reply that Envoy makes itself because the host gave none, with the response flags it sets.
/// Source: Envoy, `ResponseCodeDetailValues`.
#[derive(Debug, Clone)]
pub struct Local {
    pub(crate) status: u16,
    pub(crate) flags: u64,
    pub(crate) details: &'static str,
    pub(crate) body: &'static str,
    /// What a gRPC client gets; Envoy makes UNAVAILABLE of 503 and 504 where nothing else is said.
    pub(crate) grpc_status: u32,
}

/// UNAVAILABLE.
const UNAVAILABLE: u32 = 14;

impl Local {
    /// `response.code_details` of it.
    pub fn details(&self) -> &'static str {
        self.details
    }

    /// The connection could not be made.
    pub fn connect_failure() -> Self {
        Local {
            status: 503,
            flags: flags::UPSTREAM_CONNECTION_FAILURE,
            details: "upstream_reset_before_response_started{connection_failure}",
            body: "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
            grpc_status: UNAVAILABLE,
        }
    }

    /// The host reset the stream before it answered.
    pub fn reset() -> Self {
        Local {
            status: 503,
            flags: flags::UPSTREAM_REMOTE_RESET,
            details: "upstream_reset_before_response_started{remote_reset}",
            body: "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
            grpc_status: UNAVAILABLE,
        }
    }

    /// The host did not answer within the route's time-out.
    pub fn timeout() -> Self {
        Local {
            status: 504,
            flags: flags::UPSTREAM_TIMEOUT,
            details: "response_timeout",
            body: "upstream request timeout",
            grpc_status: UNAVAILABLE,
        }
    }

    /// A stream without a route time-out was idle for too long, with the whole request sent.
    pub fn idle() -> Self {
        Local {
            status: 504,
            flags: flags::STREAM_IDLE_TIMEOUT,
            details: "stream_idle_timeout",
            body: "stream timeout",
            grpc_status: UNAVAILABLE,
        }
    }

    /// A gRPC call did not end within its deadline, which the route lets pass (`grpc_timeout_header_max`).
    pub fn grpc_deadline() -> Self {
        Local {
            status: 408,
            flags: 0,
            details: "max_duration_timeout",
            body: "downstream duration timeout",
            grpc_status: 4,
        }
    }

    /// The cluster has no healthy host.
    pub fn no_healthy_upstream() -> Self {
        Local {
            status: 503,
            flags: flags::NO_HEALTHY_UPSTREAM,
            details: "no_healthy_upstream",
            body: "no healthy upstream",
            grpc_status: UNAVAILABLE,
        }
    }

    /// One of Envoy's own ceilings was reached.
    pub fn overflow() -> Self {
        Local {
            status: 503,
            flags: flags::UPSTREAM_OVERFLOW,
            details: "upstream_reset_before_response_started{overflow}",
            body: "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            grpc_status: UNAVAILABLE,
        }
    }

    /// A filter replied, or the router itself did (a redirect, a direct response): without any flag.
    pub fn by_filter(status: u16) -> Self {
        Local { status, flags: 0, details: "direct_response", body: "", grpc_status: UNAVAILABLE }
    }
}
