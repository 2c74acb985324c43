//! What a request changes: the retry budget when it is sent; probes and windows by its outcome, and whether the breaker opens.

use holdfast_policy::document::{Breaker, Mode};

use super::blocks::{Block, Blocks, BreakerState, borrowed};
use super::policy::RequestPolicy;
use super::running::{MetHost, RunningProbe};
use super::ticket::{InFlightHold, Ticket};
use crate::breaker::key::Permit;
use crate::breaker::relevance;
use crate::cx::Cx;
use crate::event::Event;
use crate::http::attempt::End;
use crate::http::outcome::{Outcome, Verdict};
use crate::metric::Metric;
use crate::outlier::hosts::HostAttempt;
use crate::store::keys::Key;

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
        if let Some(mut block) = self.blocks.as_ref().and_then(|blocks| borrowed(blocks.concurrency.as_ref()))
            && let Some(state) = block.of(hold.key)
        {
            state.release(cx);
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
        let RequestPolicy { policy, blocks, .. } = self;
        if let (Permit::Probe { generation, lease }, Some(breaker)) = (permit, &policy.breaker)
            && let Some(mut block) = blocks.as_ref().and_then(|blocks| borrowed(blocks.breaker.as_ref()))
            && let Some(state) = block.of(key)
        {
            state.key.judge_probe(cx, breaker, generation, lease, &Outcome::SUCCESS);
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
        let RequestPolicy { policy, blocks, .. } = self;
        let (Some(blocks), key) = (blocks, ticket.key) else { return };
        // Where something is about to be written anyway, what decides nothing is written with it.
        let may_wait = blocks.retry.as_ref().and_then(|block| block.try_borrow().ok());
        let may_wait = may_wait.is_some_and(|block| block.at(key.occupant).is_some_and(|state| state.waits(cx.now)));
        if let (Some(breaker), Some(block)) = (&policy.breaker, &blocks.breaker)
            && let Ok(mut block) = block.try_borrow_mut()
        {
            settle_breaker(cx, breaker, &mut block, &ticket, outcome, may_wait);
        }
        if let Some(block) = &blocks.throttle
            && outcome.counts()
            && let Ok(mut block) = block.try_borrow_mut()
            && block.of(key).is_some_and(|state| state.record(cx, outcome, may_wait))
        {
            block.list(key);
        }
    }

    /// Counts a request for the retry budget when it is sent. It waits to be written like an outcome that decides nothing: the
    /// attempt seat reads it when the attempt has failed.
    pub(super) fn deposit(&mut self, cx: &mut Cx<'_>, key: Key) {
        let retry = self.policy.retry.as_ref().filter(|retry| retry.mode != Mode::Off);
        let block = self.blocks.as_ref().and_then(|blocks| blocks.retry.as_ref()).filter(|_| retry.is_some());
        if let Some(mut block) = borrowed(block)
            && block.of(key).is_some_and(|state| state.deposit(cx))
        {
            block.list(key);
        }
    }

    /// Whether there may be outcomes to be written by [`RequestPolicy::flush`] within
    /// [`SLOTS_WAIT`](crate::store::own_slot::SLOTS_WAIT).
    pub fn has_unwritten(&self) -> bool {
        self.blocks.as_ref().is_some_and(Blocks::has_unwritten)
    }

    /// Writes the outcomes that have waited.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        if let Some(blocks) = &self.blocks {
            blocks.flush(cx);
        }
    }
}

/// Has the breaker take up an outcome.
fn settle_breaker(
    cx: &mut Cx<'_>,
    breaker: &Breaker,
    block: &mut Block<BreakerState>,
    ticket: &Ticket,
    outcome: &Outcome,
    may_wait: bool,
) {
    let Some(state) = block.of(ticket.key) else { return };
    if let Permit::Probe { generation, lease } = ticket.permit {
        state.key.judge_probe(cx, breaker, generation, lease, outcome);
    }
    if ticket.permit == Permit::Running {
        // It may have been a day.
        state.key.look(cx, breaker);
    }
    let generation = state.key.generation();
    let judges = match ticket.permit {
        Permit::Pass { generation: of } => of == generation,
        Permit::Running => true,
        Permit::None | Permit::Probe { .. } => false,
    };
    if !judges || !relevance::counts(breaker, outcome) {
        return;
    }
    let recorded = state.counts.record(cx, breaker, generation, outcome, may_wait);
    if let Some(trip) = recorded.trip {
        state.key.trip(cx, breaker, trip, outcome.retry_after);
    }
    if recorded.waits {
        block.list(ticket.key);
    }
}
