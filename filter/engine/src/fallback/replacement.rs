//! An answer that is replaced as it passes. Its status, headers and body are rewritten, so the host's connection stays usable, and
//! the filters between Holdfast and the client work on the new answer as they would on the host's.
//!
//! A host may begin an answer and never end it. So what a host answers is held back until it is complete, for [`PATIENCE`] at
//! most. It is then let go, rewritten. What is not complete by then is answered by a reply, which costs the host's stream.
//! A long body does not fit where it would be held back, so it passes at once: see [`HELD_AT_MOST`].
//!
//! Whether a held answer is complete is asked of the host as soon as what it has received is dealt with, and then at ticks. Where
//! the plugin has `allow_on_headers_stop_iteration`, its body comes by while its headers are held, and it is let go with its last
//! piece.

use core::cell::Cell;
use core::time::Duration;

use super::reply::LocalReply;
use super::rewrite;
use crate::base::time::Timestamp;
use crate::host::{Headers, Host};

/// The longest that an answer is held back while the rest of it is still to come.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// The largest announced body that is held back, in bytes. Envoy stops reading from the host when more waits than its buffer limit,
/// which careful configurations set to 32 KiB, and the answer would never be complete.
pub const HELD_AT_MOST: u64 = 16 * 1024;

/// The property that a request has once its host's answer is complete: the time from the first byte sent to the last received.
const COMPLETE: &str = "response\0backend_latency";

/// What is to be done with the answer's next part.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the host has to do it"]
pub enum ReplacementEffect {
    /// Let it pass.
    Pass,
    /// Hold it back.
    Hold,
    /// Let go what was held back.
    Resume,
    /// Send this instead. Nothing of the answer has gone to the client.
    Reply(LocalReply),
}

/// How the answer is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It is rewritten.
    Rewritten,
    /// A reply takes its place as soon as it is complete: then the host's stream has ended by itself.
    Replied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its headers are held back. `begun`: so is the new body, which has come by.
    Held { begun: bool },
    /// Its headers have passed, its body has not begun.
    Passing,
    /// The new body has passed. What else the host sends is dropped.
    Written,
}

/// An answer that is being replaced.
#[derive(Debug)]
pub struct Replacement {
    phase: Cell<Phase>,
    manner: Manner,
    local: LocalReply,
    began: Timestamp,
}

impl Replacement {
    /// One whose headers are held back from now on.
    pub fn held(local: LocalReply, manner: Manner, now: Timestamp) -> Self {
        Replacement { phase: Cell::new(Phase::Held { begun: false }), manner, local, began: now }
    }

    /// One whose rewritten headers pass at once.
    pub fn passing(local: LocalReply, now: Timestamp) -> Self {
        Replacement { phase: Cell::new(Phase::Passing), manner: Manner::Rewritten, local, began: now }
    }

    /// A piece of the body has come, of `size` bytes, and with `ended` it is the answer's last. What was held back of the body
    /// before counts as part of it.
    pub fn on_body(&self, host: &dyn Host, size: usize, ended: bool) -> ReplacementEffect {
        match self.phase.get() {
            Phase::Held { .. } if self.manner == Manner::Replied => {
                if ended {
                    return self.reply();
                }
                host.set_response_body(&[]);
                ReplacementEffect::Hold
            }
            Phase::Held { .. } => {
                host.set_response_body(&self.local.reply.body);
                self.phase.set(if ended { Phase::Written } else { Phase::Held { begun: true } });
                if ended { ReplacementEffect::Pass } else { ReplacementEffect::Hold }
            }
            Phase::Passing => {
                host.set_response_body(&self.local.reply.body);
                self.phase.set(Phase::Written);
                ReplacementEffect::Pass
            }
            Phase::Written => {
                if size > 0 {
                    host.set_response_body(&[]);
                }
                ReplacementEffect::Pass
            }
        }
    }

    /// The answer's trailers have come. They are the host's, so they go.
    pub fn on_trailers(&self, host: &dyn Host) -> ReplacementEffect {
        match self.phase.get() {
            // Nothing is there that the new body could take the place of.
            Phase::Held { begun: false } => self.reply(),
            _ => {
                rewrite::remove_all(host, Headers::ResponseTrailers);
                self.phase.set(Phase::Written);
                ReplacementEffect::Pass
            }
        }
    }

    /// Some time has passed.
    pub fn wake(&self, host: &dyn Host, now: Timestamp) -> ReplacementEffect {
        if !self.is_held() {
            return ReplacementEffect::Pass;
        }
        let is_complete = host.property(COMPLETE).is_some();
        if is_complete && self.manner == Manner::Rewritten {
            self.phase.set(Phase::Passing);
            ReplacementEffect::Resume
        } else if is_complete || self.began.plus(PATIENCE).left(now, PATIENCE).is_none() {
            self.reply()
        } else {
            ReplacementEffect::Hold
        }
    }

    fn is_held(&self) -> bool {
        matches!(self.phase.get(), Phase::Held { .. })
    }

    /// Nothing comes after a reply, unless the host refuses it: then the rewritten answer goes on.
    fn reply(&self) -> ReplacementEffect {
        self.phase.set(if self.manner == Manner::Rewritten { Phase::Passing } else { Phase::Written });
        ReplacementEffect::Reply(self.local.clone())
    }
}
