//! Half-open: its probes, each with a permit that is a lease, and what was judged of them.

use holdfast_policy::document::Breaker;

use super::relevance;
use crate::base::time::Timestamp;
use crate::http::outcome::{Outcome, Verdict};
use crate::store::record::are_different;
use crate::store::window::Tally;

/// The probes of one half-open phase.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HalfOpen {
    /// Outcomes so far.
    pub judged: Tally,
    /// Failures in a row up to now.
    pub run: u16,
    /// The name of the next permit.
    pub next: u32,
    /// Permits of requests in flight.
    pub leases: Vec<Lease>,
}

/// A permit of one request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: u32,
    /// When it is given back by itself.
    pub expires: Timestamp,
}

impl HalfOpen {
    /// No permit is held twice, and no outcome is counted as more than it is.
    pub(super) fn invariants(&self) -> bool {
        let Tally { total, failures, slow } = self.judged;
        failures <= total
            && slow <= total
            && u32::from(self.run) <= failures
            && are_different(self.leases.iter().map(|lease| lease.id))
    }

    /// What a changed block begins with: nothing is judged, and the permits that are out stay out until their lease is over, at
    /// most the new one. Of more permits than the new block gives, those are kept that are out longest: a free one comes no
    /// sooner with all.
    pub(super) fn taken_over(&self, breaker: &Breaker, now: Timestamp) -> Self {
        let latest = now.plus(breaker.lease);
        let lasts = self.leases.iter().filter(|lease| lease.expires > now);
        let mut leases: Vec<_> = lasts.map(|lease| Lease { expires: lease.expires.min(latest), ..*lease }).collect();
        while leases.len() > usize::from(breaker.probes.get()) {
            let first = leases.iter().enumerate().min_by_key(|(_, lease)| lease.expires).map(|(at, _)| at);
            leases.remove(first.unwrap_or(0));
        }
        HalfOpen { judged: Tally::default(), run: 0, next: self.next, leases }
    }

    /// Permits that are held or used up.
    fn used(&self) -> u32 {
        u32::try_from(self.leases.len()).unwrap_or(u32::MAX).saturating_add(self.judged.total)
    }

    /// Takes a permit and gives its name; `None` if all are held or used up.
    pub(super) fn take_permit(&mut self, breaker: &Breaker, now: Timestamp) -> Option<u32> {
        self.leases.retain(|lease| lease.expires.remaining(now, breaker.lease).is_some());
        if self.used() >= u32::from(breaker.probes.get()) {
            return None;
        }
        let lease = self.next;
        self.next = self.next.wrapping_add(1);
        self.leases.push(Lease { id: lease, expires: now.plus(breaker.lease) });
        Some(lease)
    }

    /// Takes a probe's outcome into account, also after its lease is over. An ignored one only gives its permit back. Whether
    /// anything changed.
    pub(super) fn judge(&mut self, breaker: &Breaker, lease: u32, outcome: &Outcome) -> bool {
        let held = self.leases.iter().position(|held| held.id == lease);
        if let Some(held) = held {
            self.leases.swap_remove(held);
        }
        if !relevance::counts(breaker, outcome) {
            return held.is_some();
        }
        self.judged.add(outcome);
        // Late, but of this half-open: it says as much of the host as any other, and a host that is slower than the lease
        // would else never be judged. The permit that its lease was given on to is taken back, the oldest first.
        while self.used() > u32::from(breaker.probes.get()) && !self.leases.is_empty() {
            self.leases.remove(0);
        }
        match outcome.verdict {
            Verdict::Success => self.run = 0,
            Verdict::Failure => self.run = self.run.saturating_add(1),
            Verdict::Ignored => {}
        }
        true
    }
}
