//! Attempts of one request beside each other: Envoy may begin a hedge while the attempt before it is in flight.

use std::collections::HashMap;

/// The attempts in flight of requests that may be hedged, by the request's seed.
#[derive(Debug, Default)]
pub(super) struct Hedges(HashMap<u64, InFlight>);

/// Those of one request.
#[derive(Debug, Clone, Copy, Default)]
struct InFlight {
    /// All that have begun and not ended.
    attempts: u32,
    /// Those of them that were sent or will be.
    sent: u32,
    is_answered: bool,
    /// One of them has replied in place of all; a second reply would crash Envoy.
    has_replied: bool,
}

impl Hedges {
    /// Counts an attempt that has begun.
    pub(super) fn begin(&mut self, seed: u64) {
        let own = self.0.entry(seed).or_default();
        own.attempts = own.attempts.saturating_add(1);
    }

    /// Counts such an attempt as one that was sent or will be; `false` if it cannot be counted.
    pub(super) fn send(&mut self, seed: u64) -> bool {
        let own = self.0.get_mut(&seed);
        own.map(|own| own.sent = own.sent.saturating_add(1)).is_some()
    }

    /// Takes back that an attempt will be sent.
    pub(super) fn hold(&mut self, seed: u64) {
        if let Some(own) = self.0.get_mut(&seed) {
            own.sent = own.sent.saturating_sub(1);
        }
    }

    /// Notes that an attempt of the request has its answer: the router ends the others.
    pub(super) fn answer(&mut self, seed: u64) {
        if let Some(own) = self.0.get_mut(&seed) {
            own.is_answered = true;
        }
    }

    /// Takes an attempt back that [`Hedges::begin`] counted. Whether another one has the answer.
    pub(super) fn end(&mut self, seed: u64, was_sent: bool) -> bool {
        let Some(own) = self.0.get_mut(&seed) else { return false };
        own.attempts = own.attempts.saturating_sub(1);
        own.sent = own.sent.saturating_sub(was_sent.into());
        let is_answered = own.is_answered;
        if own.attempts == 0 {
            self.0.remove(&seed);
        }
        is_answered
    }

    /// Whether a reply may take the place of this request's attempts: none has yet. A request that is not hedged has only one.
    pub(super) fn may_reply(&mut self, seed: u64) -> bool {
        self.0.get_mut(&seed).is_none_or(|own| !core::mem::replace(&mut own.has_replied, true))
    }

    /// Whether an attempt that may not be sent waits instead of being replied to, which would end all attempts of the request: others
    /// than `own` of them were sent or will be, or one has replied already. If it does not wait, it is the one that replies.
    pub(super) fn holds(&mut self, seed: u64, own: u32) -> bool {
        self.sent(seed) > own || !self.may_reply(seed)
    }

    /// How many attempts of the request were sent, or will be, and have not ended.
    pub(super) fn sent(&self, seed: u64) -> u32 {
        self.0.get(&seed).map_or(0, |own| own.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn one_of_the_attempts_of_a_request_may_reply_and_no_second() {
        let mut hedges = Hedges::default();
        assert!(hedges.may_reply(1) && hedges.may_reply(1), "nothing is known of a request that is not hedged");
        hedges.begin(1);
        hedges.begin(1);
        assert!(hedges.may_reply(1));
        assert!(!hedges.may_reply(1));
        assert!(!hedges.end(1, false));
        assert!(!hedges.may_reply(1), "one is left");
        assert!(!hedges.end(1, false));
        assert!(hedges.may_reply(1), "the request is forgotten with its last attempt");
    }

    #[test]
    fn an_attempt_that_ends_after_another_was_answered_says_nothing() {
        let mut hedges = Hedges::default();
        assert!(!hedges.send(7), "it has not begun");
        hedges.begin(7);
        assert!(hedges.send(7));
        hedges.begin(7);
        assert!(hedges.send(7));
        assert_eq!(hedges.sent(7), 2);
        hedges.answer(7);
        assert!(hedges.end(7, true));
        assert_eq!(hedges.sent(7), 1);
        hedges.hold(7);
        assert_eq!(hedges.sent(7), 0);
    }
}
