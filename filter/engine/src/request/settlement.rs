//! What a request changes: the retry budget when it is sent; probes and windows by its outcome, and whether the breaker opens.

use super::key_state::state_of;
use super::policy::RequestPolicy;
use super::running::{MetHost, RunningProbe};
use super::ticket::{InFlightHold, Ticket};
use crate::breaker::key::Permit;
use crate::breaker::{relevance, thresholds};
use crate::cx::Cx;
use crate::event::Event;
use crate::http::attempt::End;
use crate::http::outcome::{Outcome, Verdict};
use crate::metric::Metric;
use crate::outlier::hosts::HostAttempt;
use crate::store::keys::Key;
use crate::store::slot::Slot;

impl RequestPolicy {
    /// Records the outcome of an admitted request. What is returned is to be given to [`RequestPolicy::release`] when the
    /// response has ended.
    pub fn report(&mut self, cx: &mut Cx<'_>, ticket: Ticket, outcome: &Outcome) -> Option<InFlightHold> {
        cx.events.push(Event::Count(match outcome.verdict {
            Verdict::Success => Metric::Success,
            Verdict::Failure => Metric::Failure,
            Verdict::Ignored => Metric::Ignored,
        }));
        if outcome.slow {
            cx.events.push(Event::Count(Metric::Slow));
        }
        let hold = ticket.hold();
        self.settle(cx, ticket, outcome);
        hold
    }

    /// Takes note that the response of a request that was counted in flight has ended.
    pub fn release(&mut self, cx: &mut Cx<'_>, hold: InFlightHold) {
        if let Some(state) = state_of(&mut self.states, hold.key) {
            state.concurrency.release(cx);
        }
    }

    /// Takes a probe as a success that has run for the lease, for its permit and for its host.
    pub(super) fn pass_running(&mut self, cx: &mut Cx<'_>, probe: &RunningProbe) {
        probe.permit.set(self.pass_probe(cx, probe.key, probe.permit.get()));
        if let Some(MetHost { address, sent, took }) = &probe.host {
            let (end, verdict) = (End::Http(200), Verdict::Success);
            let one = HostAttempt { host: address, end, verdict, took: *took, sent: *sent };
            self.judge_host(cx, probe.key, probe.cluster, one, None);
            probe.host_since.set(Some(cx.now));
        }
    }

    /// Takes the permit of a probe as one that has succeeded, though its response may go on. Gives what it holds from now on.
    pub(super) fn pass_probe(&mut self, cx: &mut Cx<'_>, key: Key, permit: Permit) -> Permit {
        let RequestPolicy { policy, states, .. } = self;
        if let (Permit::Probe { generation, lease }, Some(breaker)) = (permit, &policy.breaker)
            && let Some(state) = state_of(states, key)
        {
            state.breaker.judge_probe(cx, breaker, generation, lease, &Outcome::SUCCESS);
            return Permit::Running;
        }
        permit
    }

    /// Takes back what an admitted request holds that will not have an outcome, without counting it.
    pub(super) fn give_back(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        let hold = ticket.hold();
        self.settle(cx, ticket, &Outcome::IGNORED);
        if let Some(hold) = hold {
            self.release(cx, hold);
        }
    }

    fn settle(&mut self, cx: &mut Cx<'_>, ticket: Ticket, outcome: &Outcome) {
        let now = cx.now;
        let RequestPolicy { policy, shape, states, gathered, unwritten, .. } = self;
        let Some(state) = state_of(states, ticket.key) else { return };

        if let (Permit::Probe { generation, lease }, Some(breaker)) = (ticket.permit, &policy.breaker) {
            state.breaker.judge_probe(cx, breaker, generation, lease, outcome);
        }
        if ticket.permit == Permit::Running {
            // It may have been a day.
            state.breaker.look(cx);
        }
        let generation = state.breaker.generation();
        let judges = policy.breaker.as_ref().is_some_and(|breaker| relevance::counts(breaker, outcome))
            && match ticket.permit {
                Permit::Pass { generation: of } => of == generation,
                Permit::Running => true,
                Permit::None | Permit::Probe { .. } => false,
            };
        let throttles = outcome.counts() && policy.throttle.is_some();
        if !judges && !throttles {
            return;
        }
        let slot = &mut state.slot;
        if !slot.hold(cx.store, cx.worker, generation, now) {
            return;
        }
        let breaker = policy.breaker.as_ref().filter(|_| judges);
        // A success can complete `min_requests`, over all workers, and open the breaker by nothing else that it does. Where this
        // worker alone has seen as many before, it cannot. Others are asked before it is written, and what it decides by is read
        // after: of several that come at once and complete it together, the last one to be written sees all.
        let mut low = None;
        let mut completes = false;
        if let Some(breaker) = breaker {
            slot.enter(generation);
            low = Some(thresholds::low_volume(breaker)).filter(|least| slot.own_total(now) < *least);
            completes =
                !outcome.failed() && low.is_some_and(|least| !slot.have_all(cx.store, cx.worker, now, least, gathered));
            slot.record(outcome, now);
        }
        slot.record_traffic(outcome, now);
        let is_slow = outcome.slow && breaker.is_some_and(relevance::watches_slow);
        let decides = outcome.failed() || completes || is_slow;
        if !decides && low.is_none() && slot.may_wait(now) {
            if slot.wait() {
                unwritten.push(ticket.key);
            }
            return;
        }
        slot.write(cx.store, now);
        let Some(breaker) = breaker.filter(|_| decides) else { return };
        slot.gather(cx.store, cx.worker, now, gathered);
        let tally = Slot::tally(gathered, shape, now);
        let trip = if outcome.failed() {
            thresholds::tripped(breaker, tally, Slot::run_length(gathered, now))
        } else if completes {
            thresholds::tripped(breaker, tally, 0)
        } else {
            thresholds::slow_tripped(breaker, tally)
        };
        if let Some(trip) = trip {
            state.breaker.trip(cx, breaker, trip, outcome.retry_after);
        }
    }

    /// Counts a request for the retry budget when it is sent. It waits to be written like an outcome that decides nothing: the
    /// attempt seat reads it when the attempt has failed.
    pub(super) fn deposit(&mut self, cx: &mut Cx<'_>, key: Key) {
        let RequestPolicy { shape, states, unwritten, .. } = self;
        if !shape.counts_requests() {
            return;
        }
        let Some(state) = state_of(states, key) else { return };
        let generation = state.breaker.generation();
        if state.slot.hold(cx.store, cx.worker, generation, cx.now) && state.slot.deposit(cx.now) {
            unwritten.push(key);
        }
    }

    /// Whether there may be outcomes to be written by [`RequestPolicy::flush`] within
    /// [`SLOTS_WAIT`](crate::store::own_slot::SLOTS_WAIT).
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Writes the outcomes that have waited.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        let RequestPolicy { states, unwritten, .. } = self;
        for key in unwritten.drain(..) {
            if let Some(state) = state_of(states, key) {
                state.slot.flush(cx.store, cx.worker, cx.now);
            }
        }
    }
}
