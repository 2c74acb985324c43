//! What an admitted request holds.

use core::time::Duration;

use holdfast_policy::document::Reason;

use crate::base::time::Timestamp;
use crate::breaker::key::Permit;
use crate::store::keys::Key;

/// Whether a request may go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may, and its outcome must be reported with this.
    Admitted(Ticket),
    /// It may not.
    Rejected(Rejection),
}

/// A request that was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// How long until it is worth another attempt; zero where nobody can say.
    pub retry_after: Duration,
}

/// What an admitted request holds. It is used up by reporting the outcome.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that was admitted must report its outcome or its end"]
pub struct Ticket {
    pub(super) key: Key,
    pub(super) admitted: Timestamp,
    pub(super) permit: Permit,
    pub(super) in_flight: bool,
    pub(super) would_be_rejected: Option<Reason>,
    pub(super) would_be_served: bool,
}

impl Ticket {
    /// One that holds nothing yet.
    pub(super) fn new(key: Key, admitted: Timestamp) -> Self {
        Ticket {
            key,
            admitted,
            permit: Permit::None,
            in_flight: false,
            would_be_rejected: None,
            would_be_served: false,
        }
    }

    /// The key it was admitted for.
    pub fn key(&self) -> Key {
        self.key
    }

    /// When it was admitted.
    pub fn admitted(&self) -> Timestamp {
        self.admitted
    }

    /// It came earlier than it was admitted.
    pub(super) fn came(&mut self, at: Timestamp) {
        self.admitted = at;
    }

    /// Why a feature in shadow mode would have rejected it to a fallback.
    pub fn would_be_rejected(&self) -> Option<Reason> {
        self.would_be_rejected
    }

    /// Whether a feature in shadow mode would have rejected it to a fallback, which has been counted.
    pub fn would_be_served(&self) -> bool {
        self.would_be_served
    }

    /// Whether it is one of half-open's probes.
    pub fn is_probe(&self) -> bool {
        matches!(self.permit, Permit::Probe { .. })
    }

    /// What it holds until its response has ended.
    pub(super) fn hold(&self) -> Option<InFlightHold> {
        self.in_flight.then_some(InFlightHold { key: self.key })
    }
}

/// One of the requests in flight, until its response has ended, which is after its outcome is known.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it must be released when the response has ended"]
pub struct InFlightHold {
    pub(super) key: Key,
}

impl InFlightHold {
    /// The key it was admitted for.
    pub fn key(&self) -> Key {
        self.key
    }
}
