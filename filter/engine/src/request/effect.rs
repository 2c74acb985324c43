//! What the host is to do for a request.

use crate::fallback::{LocalReply, ReplacementEffect};

/// What the host is to do after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the host has to do it"]
pub enum RequestEffect {
    /// Go on.
    Continue,
    /// Hold the answer back, until [`RequestEffect::Resume`] or a reply.
    Hold,
    /// Let go what was held back of the answer.
    Resume,
    /// Reply in place of going on. Only when nothing is borrowed: a reply comes back as a response.
    Reply(LocalReply),
}

impl From<ReplacementEffect> for RequestEffect {
    fn from(effect: ReplacementEffect) -> Self {
        match effect {
            ReplacementEffect::Pass => RequestEffect::Continue,
            ReplacementEffect::Hold => RequestEffect::Hold,
            ReplacementEffect::Resume => RequestEffect::Resume,
            ReplacementEffect::Reply(local) => RequestEffect::Reply(local),
        }
    }
}
