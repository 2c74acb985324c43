//! A reply in place of the host's, and what it says of itself.

use core::time::Duration;

use holdfast_policy::document::Reason;

use crate::http::grpc::GrpcDialect;

/// The header on every fallback answer: `<kind>; reason=<reason>; policy=<name>`.
pub const FALLBACK_HEADER: &str = "x-holdfast-fallback";

/// The header on every rejection without a fallback: `<reason>; policy=<name>`.
pub const REJECT_HEADER: &str = "x-holdfast-reject";

/// The gRPC status of a rejection without a fallback: UNAVAILABLE, which clients may retry.
pub(super) const UNAVAILABLE: u8 = 14;

/// A reply in place of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status. For a gRPC reply it is what a client that speaks HTTP gets, where a filter translates.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; for a gRPC reply its message.
    pub body: Vec<u8>,
    /// Set for a gRPC reply.
    pub grpc: Option<GrpcStatus>,
}

/// The status of a gRPC reply, and how it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcStatus {
    /// How the client speaks.
    pub dialect: GrpcDialect,
    /// The status.
    pub code: u8,
}

impl GrpcStatus {
    /// The headers that say it.
    pub(super) fn headers(self, message: String) -> [(&'static str, String); 3] {
        [
            ("content-type", self.dialect.content_type().to_owned()),
            ("grpc-status", self.code.to_string()),
            ("grpc-message", message),
        ]
    }
}

impl Reply {
    /// Whether a response of its status never has a body. Source: RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
    pub(super) fn has_bare_status(&self) -> bool {
        matches!(self.status, 204 | 205 | 304)
    }

    /// A gRPC reply as an HTTP response, for a client that a filter translates for.
    pub(super) fn into_http(mut self) -> Self {
        self.headers.retain(|(name, _)| name != "content-type");
        self.headers.push(("content-type".to_owned(), "text/plain; charset=utf-8".to_owned()));
        self.grpc = None;
        self
    }

    /// A gRPC reply that says its status in its headers, and has no body.
    pub(super) fn into_headers(mut self, status: GrpcStatus) -> Self {
        let message = String::from_utf8_lossy(&core::mem::take(&mut self.body)).into_owned();
        self.headers.retain(|(name, _)| name != "content-type" && !name.starts_with("grpc-"));
        self.headers.extend(status.headers(message).map(|(name, value)| (name.to_owned(), value)));
        self.status = 200;
        self.grpc = None;
        self
    }
}

/// The HTTP status of a gRPC status. Source: google/rpc/code.proto, "HTTP Mapping"; the one that transcoders use.
pub(super) fn http_status(grpc_status: u8) -> u16 {
    match grpc_status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Why and for whom a reply is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyContext {
    /// Why.
    pub reason: Reason,
    /// How long until a retry is worth it; `None` when nothing was rejected.
    pub retry_after: Option<Duration>,
    /// How the client speaks gRPC, if it does.
    pub grpc: Option<GrpcDialect>,
}

/// Whole seconds to wait, rounded up, at least 1.
pub fn retry_after_seconds(left: Duration) -> u64 {
    let whole = left.as_secs();
    whole.saturating_add(u64::from(left.subsec_nanos() > 0)).max(1)
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It went on to the host.
    Admitted,
    /// It went on to the host as one of half-open's probes.
    Probe,
    /// It was rejected and got the plain rejection.
    Rejected(Reason),
    /// It was rejected, or its answer was replaced, and a static fallback served.
    Static(Reason),
    /// The same, with a good answer that was kept, of this age in seconds.
    Stale(Reason, u64),
    /// It was rejected, and another cluster serves.
    Route(Reason),
    /// Its answer was replaced by what another cluster has answered to the same request.
    Call(Reason),
}

/// Why a fallback could not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// It is for GET and HEAD without a body, or the request may not be sent twice.
    Method,
    /// There is no answer to the same request.
    NothingKept,
    /// There is one, and it is older than it may be.
    TooOld,
    /// The key shares its place with others.
    Overflow,
    /// The request has come from that cluster.
    Loop,
    /// There is no such cluster.
    NoCluster,
    /// The cluster has no host that may be used.
    NoHost,
    /// The cluster's own policy has rejected the request.
    Rejected,
    /// The route does not let the request go there.
    NotRouted,
    /// The router has made its choice.
    TooLate,
    /// The request's body is not there to be sent again: it was too long, is not complete, or has trailers.
    Body,
    /// The request is of gRPC, an upgrade, or has headers that are no text: such a one cannot be sent again.
    Kind,
    /// As many calls are under way as there may be.
    Busy,
    /// The other cluster has failed, too.
    Failed,
    /// Nothing has come of it in time, or all of it.
    NoAnswer,
}

impl Unserved {
    /// The word in the access log.
    pub const fn name(self) -> &'static str {
        match self {
            Unserved::Method => "method",
            Unserved::NothingKept => "nothing_kept",
            Unserved::TooOld => "too_old",
            Unserved::Overflow => "overflow",
            Unserved::Loop => "loop",
            Unserved::NoCluster => "no_cluster",
            Unserved::NoHost => "no_host",
            Unserved::Rejected => "rejected",
            Unserved::NotRouted => "not_routed",
            Unserved::TooLate => "too_late",
            Unserved::Body => "body",
            Unserved::Kind => "kind",
            Unserved::Busy => "busy",
            Unserved::Failed => "failed",
            Unserved::NoAnswer => "no_answer",
        }
    }
}

/// A fallback that was asked, and could not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Its kind.
    pub kind: &'static str,
    /// Why.
    pub why: Unserved,
}

/// What a client gets, and what the access log says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// What to send.
    pub reply: Reply,
    /// What it is.
    pub disposition: Disposition,
}

impl LocalReply {
    /// What Envoy's response code details say of it: `holdfast_open`.
    pub fn details(&self) -> String {
        let reason = match self.disposition {
            Disposition::Rejected(reason)
            | Disposition::Static(reason)
            | Disposition::Stale(reason, _)
            | Disposition::Route(reason)
            | Disposition::Call(reason) => reason.name(),
            Disposition::Admitted | Disposition::Probe => "",
        };
        format!("holdfast_{reason}")
    }
}
