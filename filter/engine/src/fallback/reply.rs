//! A reply in place of the host's, and what it says of itself.

use core::time::Duration;

use holdfast_policy::document::Reason;

/// The header on every fallback answer: `<kind>; reason=<reason>; policy=<name>`.
pub const FALLBACK_HEADER: &str = "x-holdfast-fallback";

/// The header on every rejection without a fallback: `<reason>; policy=<name>`.
pub const REJECT_HEADER: &str = "x-holdfast-reject";

/// The gRPC status of a rejection without a fallback: UNAVAILABLE, which clients may retry.
pub(super) const UNAVAILABLE: u8 = 14;

/// A reply in place of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status; 200 for a gRPC reply.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; for a gRPC reply its message.
    pub body: Vec<u8>,
    /// Set for a gRPC reply: its status.
    pub grpc_status: Option<u8>,
}

/// Why and for whom a reply is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyContext {
    /// Why.
    pub reason: Reason,
    /// How long until a retry is worth it; `None` when nothing was rejected.
    pub retry_after: Option<Duration>,
    /// Whether the client speaks gRPC.
    pub grpc: bool,
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
            Disposition::Rejected(reason) | Disposition::Static(reason) => reason.name(),
            Disposition::Admitted | Disposition::Probe => "",
        };
        format!("holdfast_{reason}")
    }
}
