//! What is known of the connection of an attempt that ended without a response.

use core::net::SocketAddr;
use core::time::Duration;

use crate::host::Host;

/// Of the attempts that Envoy let go without a connection and without a reason, those that took so long were waiting for the
/// host; Envoy's own limits say no within a millisecond (seen on Envoy 1.36 and 1.40).
pub(super) const WAITED: Duration = Duration::from_millis(20);

/// What is known of an attempt's connection to its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// There was one, or may have been: over a Unix socket it has no local address.
    There,
    /// It could not be had.
    Failed,
    /// It was waited for too long, or one of Envoy's own limits was reached; the two look alike.
    Without,
    /// It was still waited for when the attempt was over.
    Unheard,
}

impl Connection {
    /// Asks the host. Only what is certain counts as none.
    pub(super) fn read(host: &dyn Host) -> Self {
        let is_there = |path: &str| host.property(path).is_some_and(|value| !value.is_empty());
        if is_there("upstream\0local_address") {
            return Connection::There;
        }
        if is_there("upstream\0transport_failure_reason") {
            return Connection::Failed;
        }
        let address = upstream_address(host);
        if core::str::from_utf8(&address).ok().and_then(|address| address.parse::<SocketAddr>().ok()).is_none() {
            return Connection::There;
        }
        if is_there("upstream\0cx_pool_ready_duration") { Connection::Without } else { Connection::Unheard }
    }

    pub(super) fn is_there(self) -> bool {
        self == Connection::There
    }

    /// Whether the end of an attempt that took so long says by itself something about its host.
    pub(super) fn says_something(self, took: Duration) -> bool {
        match self {
            Connection::There | Connection::Failed => true,
            Connection::Without => took >= WAITED,
            Connection::Unheard => false,
        }
    }
}

/// The address of the host of the attempt that was begun last.
pub(super) fn upstream_address(host: &dyn Host) -> Vec<u8> {
    host.property("upstream\0address").unwrap_or_default()
}
