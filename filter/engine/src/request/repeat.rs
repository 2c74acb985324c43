//! A request that is kept while it passes, to be sent again to another cluster.

use core::time::Duration;

use holdfast_policy::document::{Call, Policy};

use super::facts::Facts;
use crate::fallback::{self, Unserved};
use crate::host::Host;
use crate::http::outcome::Answer;
use crate::http::request::Field;

/// How much of a request's body is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// All of it.
    Whole,
    /// What has come so far.
    Part,
    /// Nothing of use.
    Nothing,
}

/// A request that may be sent again.
pub(super) struct Repeat {
    /// As the host serializes them.
    headers: Vec<u8>,
    body: Vec<u8>,
    copied: Copied,
    /// The longest body that any call takes.
    most: usize,
    /// Whether it may be sent twice.
    is_repeatable: bool,
}

impl Repeat {
    /// Begins to keep a request, which has no body if it has `ended`; `None` if no call of the policy could send it again.
    pub(super) fn begin(policy: &Policy, facts: &Facts<'_>, ended: bool) -> Option<Box<Self>> {
        let first = policy.calls().next()?;
        let headers = facts.serialized_headers().to_vec();
        if facts.grpc().is_some() {
            return None;
        }
        let method = facts.get(Field::Method).unwrap_or_default();
        let is_named = first.methods.iter().any(|named| named.as_bytes() == &*method);
        let is_repeatable = is_named || facts.get(Field::Header(&first.idempotency_header)).is_some();
        let most = policy.calls().map(|call| call.max_body).max().and_then(|most| usize::try_from(most).ok());
        Some(Box::new(Repeat {
            headers,
            body: Vec::new(),
            copied: if ended { Copied::Whole } else { Copied::Part },
            most: most.unwrap_or(0),
            is_repeatable,
        }))
    }

    /// A piece of the body has come, of `size` bytes, and with `ended` it is the last.
    pub(super) fn add(&mut self, host: &dyn Host, size: usize, ended: bool) {
        if self.copied != Copied::Part {
            return;
        }
        if self.body.len().saturating_add(size) > self.most {
            return self.drop_body();
        }
        if size > 0 {
            let piece = host.request_body(size);
            if piece.len() != size {
                return self.drop_body();
            }
            self.body.extend_from_slice(&piece);
        }
        if ended {
            self.copied = Copied::Whole;
        }
    }

    /// Trailers have come, which no call can send.
    pub(super) fn drop_body(&mut self) {
        self.body = Vec::new();
        self.copied = Copied::Nothing;
    }

    /// Whether a call may send it again after this answer.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may(&self, call: &Call, answer: Answer) -> Result<(), Unserved> {
        // Where there was no host none has seen it.
        if !self.is_repeatable && answer != Answer::NoHost {
            return Err(Unserved::Method);
        }
        let is_there = self.copied == Copied::Whole && self.body.len() <= usize::try_from(call.max_body).unwrap_or(0);
        if is_there { Ok(()) } else { Err(Unserved::Body) }
    }

    /// What is sent again.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn again(&self, call: &Call) -> Result<OutgoingCall, Unserved> {
        let (cluster, timeout) = (call.cluster.clone(), call.timeout);
        Ok(OutgoingCall { cluster, headers: fallback::headers_again(&self.headers)?, body: self.body.clone(), timeout })
    }
}

/// A request to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingCall {
    /// The cluster.
    pub cluster: String,
    /// All headers, those of HTTP/2's own before.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long the whole answer may take.
    pub timeout: Duration,
}
