//! Whether a request may go on: breaker, concurrency and throttle are asked in this order.

use core::time::Duration;

use holdfast_policy::document::{Policy, Reason, Throttle};
use std::sync::Arc;

use super::blocks::{active, borrowed};
use super::policy::RequestPolicy;
use super::ticket::{Decision, Rejection, Ticket};
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::metric::Metric;
use crate::store::Store;
use crate::store::keys::Key;

impl RequestPolicy {
    /// Admits a request without looking at the clock, where the time changes nothing: the policy [is
    /// untimed](RequestPolicy::is_untimed) and this worker's view of a closed breaker holds. `recently` is a time that was now a
    /// moment ago. `None` says that [`RequestPolicy::admit`] has to decide.
    pub fn admit_recently(
        &self,
        store: &mut dyn Store,
        key: Key,
        recently: Timestamp,
        events: &mut Vec<Event>,
    ) -> Option<Ticket> {
        let (breaker, _) = active(self.policy.breaker.as_ref(), |feature| feature.mode)?;
        let block = self.blocks.as_ref()?.breaker.as_ref()?.try_borrow().ok()?;
        let permit = block.at(key.occupant)?.key.admit_recently(store, breaker, recently)?;
        events.push(Event::Count(Metric::Requests));
        Some(Ticket { permit, ..Ticket::new(key, recently) })
    }

    /// Decides on a request. What the operator should know is appended to the events.
    pub fn admit(&mut self, cx: &mut Cx<'_>, key: Key) -> Decision {
        cx.events.push(Event::Count(Metric::Requests));
        let policy = Arc::clone(&self.policy);
        let mut exempt = false;
        let mut ticket = Ticket::new(key, cx.now);
        let Some(blocks) = &self.blocks else { return Decision::Admitted(ticket) };

        if let Some((breaker, shadow)) = active(policy.breaker.as_ref(), |feature| feature.mode)
            && let Some(mut block) = borrowed(blocks.breaker.as_ref())
            && let Some(state) = block.of(key)
        {
            match state.key.admit(cx, breaker) {
                Ok(permit) => {
                    ticket.permit = permit;
                    // A probe must get through; but a breaker that only pretends has none.
                    exempt = !shadow && ticket.is_probe();
                }
                Err(retry_after) => {
                    let rejection = Rejection { reason: Reason::Open, retry_after };
                    if let Some(rejected) = reject(&policy, rejection, shadow, &mut ticket, cx.events) {
                        return rejected;
                    }
                }
            }
        }
        if let Some((concurrency, shadow)) = active(policy.concurrency.as_ref(), |feature| feature.mode) {
            let block = borrowed(blocks.concurrency.as_ref());
            let acquired = block.and_then(|mut block| block.of(key).map(|state| state.acquire(cx, concurrency)));
            match acquired.unwrap_or(Some(false)) {
                Some(is_counted) => ticket.in_flight = is_counted,
                None => {
                    let rejection = Rejection { reason: Reason::Concurrency, retry_after: Duration::ZERO };
                    if let Some(rejected) = reject(&policy, rejection, shadow, &mut ticket, cx.events) {
                        self.give_back(cx, ticket);
                        return rejected;
                    }
                }
            }
        }
        if let Some((throttle, shadow)) = active(policy.throttle.as_ref(), |feature| feature.mode)
            && !exempt
            && self.is_throttled(cx, throttle, key)
        {
            let rejection = Rejection { reason: Reason::Throttled, retry_after: Duration::ZERO };
            if let Some(rejected) = reject(&policy, rejection, shadow, &mut ticket, cx.events) {
                self.give_back(cx, ticket);
                return rejected;
            }
        }
        self.deposit(cx, key);
        Decision::Admitted(ticket)
    }

    /// Whether the breaker is closed to no request of a key now, without asking it for one.
    pub(super) fn lets_in(&mut self, cx: &mut Cx<'_>, key: Key) -> bool {
        let RequestPolicy { policy, blocks, .. } = self;
        let Some((breaker, false)) = active(policy.breaker.as_ref(), |feature| feature.mode) else { return true };
        let block = blocks.as_ref().and_then(|blocks| borrowed(blocks.breaker.as_ref()));
        block.is_none_or(|mut block| block.of(key).is_none_or(|state| state.key.lets_all_in(cx, breaker)))
    }

    /// Whether the throttle rejects a request now.
    fn is_throttled(&self, cx: &mut Cx<'_>, throttle: &Throttle, key: Key) -> bool {
        let block = self.blocks.as_ref().and_then(|blocks| borrowed(blocks.throttle.as_ref()));
        block.is_some_and(|mut block| block.of(key).is_some_and(|state| state.rejects(cx, throttle)))
    }
}

/// Counts a rejection and makes it real unless the feature only pretends.
fn reject(
    policy: &Policy,
    rejection: Rejection,
    shadow: bool,
    ticket: &mut Ticket,
    events: &mut Vec<Event>,
) -> Option<Decision> {
    let reason = rejection.reason;
    if let Some(metric) = Metric::rejected(reason, shadow) {
        events.push(Event::Count(metric));
    }
    if shadow && ticket.would_be_rejected.is_none() && policy.fallbacks_for(&[reason]).next().is_some() {
        ticket.would_be_rejected = Some(reason);
    }
    (!shadow).then_some(Decision::Rejected(rejection))
}
