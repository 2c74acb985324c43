//! How an attempt ends without a response.

use crate::flags;

/// Why the stream to a host ended. Source: Envoy, `StreamResetReason`, `resetReasonToString` and
/// `streamResetReasonToResponseFlag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// There was no connection: nothing of the request was sent.
    ConnectFailure,
    /// The host reset the stream.
    Remote,
    /// The host refused the stream (HTTP/2 `REFUSED_STREAM`): it has not worked on the request.
    RefusedStream,
    /// The host closed the connection.
    ConnectionTermination,
    /// What the host sent was no HTTP.
    ProtocolError,
    /// One of Envoy's own ceilings for the cluster was reached.
    Overflow,
    /// Envoy gave the attempt up: a per-attempt time-out.
    Local,
}

impl Reset {
    /// Envoy's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reset::ConnectFailure => "remote connection failure",
            Reset::Remote => "remote reset",
            Reset::RefusedStream => "remote refused stream reset",
            Reset::ConnectionTermination => "connection termination",
            Reset::ProtocolError => "protocol error",
            Reset::Overflow => "overflow",
            Reset::Local => "local reset",
        }
    }

    /// The property `upstream.transport_failure_reason` that comes with it.
    pub(crate) fn transport_failure(self) -> Option<&'static str> {
        (self == Reset::ConnectFailure).then_some("delayed connect error: Connection refused")
    }

    pub(crate) fn flag(self) -> u64 {
        match self {
            Reset::ConnectFailure => flags::UPSTREAM_CONNECTION_FAILURE,
            Reset::Remote | Reset::RefusedStream => flags::UPSTREAM_REMOTE_RESET,
            Reset::ConnectionTermination => flags::UPSTREAM_CONNECTION_TERMINATION,
            Reset::ProtocolError => flags::UPSTREAM_PROTOCOL_ERROR,
            Reset::Overflow => flags::UPSTREAM_OVERFLOW,
            Reset::Local => flags::LOCAL_RESET,
        }
    }

    /// The status that the client gets if there is no retry.
    pub(crate) fn status(self) -> u16 {
        if self == Reset::ProtocolError { 502 } else { 503 }
    }

    /// `response.code_details` of a request that ends with it.
    pub(crate) fn details(self, has_response: bool) -> String {
        let when = if has_response { "after" } else { "before" };
        let reason = self.transport_failure().map(|reason| format!("|{reason}")).unwrap_or_default();
        format!("upstream_reset_{when}_response_started{{{}{reason}}}", self.name()).replace(' ', "_")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_spelled_as_envoy_spells_them() {
        assert_eq!(
            Reset::ConnectFailure.details(false),
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(Reset::ProtocolError.details(true), "upstream_reset_after_response_started{protocol_error}");
    }
}
