//! The headers by which the attempt seat marks a response for the router and for the request seat.

/// The response header by which the attempt seat asks the router for a retry.
pub const RETRY_HEADER: &str = "x-holdfast-retry";

/// The response header by which the attempt seat forbids the router a retry.
pub const FORBID_HEADER: &str = "x-envoy-ratelimited";

/// Its value where the attempt seat has set it; any other is the host's own.
pub const FORBID_VALUE: &str = "holdfast";

/// The response header by which the attempt seat tells the request seat that it has written something here. It is a hint, for
/// a host may send it too: whether an attempt seat has written stands in the retry context.
pub const ATTEMPTS_HEADER: &str = "x-holdfast-tries";
