//! Response flags. Source: Envoy, `CoreResponseFlag`; the letters are those of its access log.

/// UH: no healthy host.
pub const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
/// UT: the host did not answer in time.
pub const UPSTREAM_TIMEOUT: u64 = 1 << 2;
/// LR: Envoy reset the stream to the host.
pub const LOCAL_RESET: u64 = 1 << 3;
/// UR: the host reset the stream.
pub const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
/// UF: no connection to the host.
pub const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
/// UC: the host closed the connection.
pub const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
/// UO: one of Envoy's own ceilings.
pub const UPSTREAM_OVERFLOW: u64 = 1 << 7;
/// DC: the client left.
pub const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
/// URX: a retry was wanted, and there were none left.
pub const UPSTREAM_RETRY_LIMIT_EXCEEDED: u64 = 1 << 15;
/// SI: the stream was idle for too long.
pub const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
/// UPE: the host broke the protocol.
pub const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
