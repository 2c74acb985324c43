//! A policy at work: its state as this worker sees it, its metrics, and what follows from the document once and for all.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_policy::document::{Call, Mode, Policy, TemplatePart};

use super::access_log;
use super::blocks::Pools;
use super::facts::Facts;
use super::policy::RequestPolicy;
use crate::base::time::Timestamp;
use crate::event::Event;
use crate::fallback::{self, Disposition, Unserved};
use crate::host::{Host, RootHost};
use crate::http::client::{Client, ClientWaits};
use crate::observe::policy_metrics::{GaugesElsewhere, PolicyMetrics};
use crate::retry::{Eligibility, router};
use crate::store::Store;
use crate::store::block::BlockKind;
use crate::store::keys::Key;
use crate::store::registry::{Identity, Newer, Standing};

/// So long after a client has left unanswered it is of interest how long others wait.
const CLIENTS_LEAVE: Duration = Duration::from_secs(60);

/// So long a route is left alone that did not let a fallback choose the cluster: what was to go elsewhere has gone to the cluster whose
/// breaker is open.
const UNROUTED_FOR: Duration = Duration::from_secs(10);

/// A policy at work.
pub struct ActivePolicy {
    /// Its state.
    pub state: RefCell<RequestPolicy>,
    /// Its metrics.
    pub metrics: PolicyMetrics,
    /// Whether it was entered among those that live: until then its document may still be refused.
    pub(super) is_entered: Cell<bool>,
    /// Whether it does anything at all.
    pub is_active: bool,
    /// Whether nothing but a breaker that is not closed wants to know when a request came.
    pub is_untimed: bool,
    /// Whether it holds an answer that does not come against anybody.
    pub judges: bool,
    /// What fallbacks insert of a request whose answer they replace.
    pub kept: Vec<TemplatePart>,
    /// Whether it was said that a request seat before this one governs requests that this policy matches.
    pub has_reported_chain: Cell<bool>,
    /// Whether a fallback could replace an answer.
    pub replaces_answers: bool,
    /// Whether a request may be repeated in another cluster.
    pub(super) calls: bool,
    /// How many calls are under way.
    calling: Rc<Cell<u16>>,
    /// When a client last left before it had an answer.
    client_left: Cell<Option<Timestamp>>,
    /// Whether another cluster may serve after the last attempt.
    pub(super) goes_further: bool,
    /// Until when it is taken for known that the route lets no fallback choose the cluster.
    unrouted: Legs,
    /// What the router is told about retries, by [`ActivePolicy::router_headers`].
    router_headers: Vec<Vec<(&'static str, String)>>,
    /// The same where another cluster may serve after the last attempt.
    further_headers: Vec<Vec<(&'static str, String)>>,
    policy: Arc<Policy>,
    identity: Identity,
    /// The policy as the text of a document of its own.
    text: String,
    /// What the access log says of most requests, by the key's place.
    admitted: RefCell<Vec<Option<(Key, String)>>>,
}

impl ActivePolicy {
    /// A policy at work.
    pub fn new(host: Rc<dyn RootHost>, state: RequestPolicy, text: &str) -> Self {
        ActivePolicy {
            metrics: PolicyMetrics::new(host, state.metrics_name().into_owned()),
            is_entered: Cell::new(false),
            is_active: state.is_active(),
            is_untimed: state.is_untimed(),
            judges: state.policy().judges(),
            kept: fallback::kept_parts(state.policy()),
            has_reported_chain: Cell::new(false),
            replaces_answers: state.policy().replaces_answers(),
            calls: state.policy().has_calls(),
            calling: Rc::default(),
            client_left: Cell::new(None),
            goes_further: state.policy().goes_further() && state.policy().mode == Mode::Enforce,
            unrouted: Legs::default(),
            router_headers: router_headers(state.policy()),
            further_headers: further_headers(state.policy()),
            policy: Arc::clone(state.policy()),
            identity: *state.identity(),
            text: text.to_owned(),
            state: RefCell::new(state),
            admitted: RefCell::default(),
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How long the client of a request waits, where its headers are read for nothing else: only while clients leave unanswered.
    pub(super) fn client_waits(&self, facts: &Facts<'_>, now: Timestamp) -> ClientWaits {
        if self.client_left.get().is_some_and(|left| now.apart(left) < CLIENTS_LEAVE) {
            Client::read(facts.read_headers()).waits
        } else {
            ClientWaits::default()
        }
    }

    /// Counts a call as under way for as long as what it gives is kept.
    ///
    /// # Errors
    /// As many are as there may be.
    pub(super) fn begin_call(&self, call: &Call) -> Result<CallPermit, Unserved> {
        let others = self.calling.get();
        if others >= call.max_concurrent.get() {
            return Err(Unserved::Busy);
        }
        self.calling.set(others.saturating_add(1));
        Ok(CallPermit(Rc::clone(&self.calling)))
    }

    /// Notes that a client has left before it had an answer.
    pub(super) fn note_client_left(&self, now: Timestamp) {
        self.client_left.set(Some(now));
    }

    /// Whether the route was seen to let no fallback choose the cluster, not long ago.
    pub(super) fn is_unrouted(&self, leg: Leg, now: Timestamp) -> bool {
        self.unrouted.of(leg).get().is_some_and(|until| until.remaining(now, UNROUTED_FOR).is_some())
    }

    /// Notes whether the route let a fallback choose the cluster. Whether that is news.
    pub(super) fn note_routed(&self, leg: Leg, is_routed: bool, now: Timestamp) -> bool {
        let until = if is_routed { None } else { Some(now.plus(UNROUTED_FOR)) };
        self.unrouted.of(leg).replace(until).is_none() != is_routed
    }

    /// Whether the route let no fallback choose the cluster when one last wanted to, on either leg.
    pub(super) fn is_misassembled(&self) -> bool {
        [Leg::First, Leg::Further].into_iter().any(|leg| self.unrouted.of(leg).get().is_some())
    }

    /// The request headers that tell the router how to retry a request of this eligibility, without or with an attempt seat.
    pub fn router_headers(&self, eligibility: Eligibility, seat: bool) -> &[(&'static str, String)] {
        self.router_headers.get(eligibility as usize * 2 + usize::from(seat)).map_or(&[], Vec::as_slice)
    }

    /// The same where another cluster may serve after the last attempt, with an attempt seat; `retries` says whether there are any before that.
    pub fn further_headers(&self, eligibility: Eligibility, retries: bool) -> &[(&'static str, String)] {
        self.further_headers.get(eligibility as usize * 2 + usize::from(retries)).map_or(&[], Vec::as_slice)
    }

    /// What it is, in hashes.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it is this policy, by name and content.
    pub fn is(&self, policy: &Policy) -> bool {
        *self.policy == *policy
    }

    /// Takes over where the policy stands now: where its state is, and what it is called in metrics.
    pub(super) fn stand(&self, store: &mut dyn Store, pools: &mut Pools, standing: Standing) {
        let Ok(mut state) = self.state.try_borrow_mut() else { return };
        let places = |state: &RequestPolicy| state.standing().map(|standing| standing.places);
        let before = places(&state);
        state.stand(standing, store, pools);
        if places(&state) != before {
            state.publish(store, &self.text);
        }
        let newer = state.newer();
        let is_spoken = |kind| *newer.get(kind) != Newer::None;
        let hosts = is_spoken(BlockKind::Outlier);
        let speaks = GaugesElsewhere {
            breaker: is_spoken(BlockKind::Breaker),
            hosts,
            seats: hosts || is_spoken(BlockKind::Retry),
            stale: is_spoken(BlockKind::Stale),
        };
        let is_newest = state.standing().is_some_and(|standing| standing.rank == 0);
        // Under the other names gauges are told at the next request.
        if self.metrics.rename(&state.metrics_name(), speaks) && is_newest {
            state.tell_again();
        }
    }

    /// Publishes events of one key.
    pub fn publish(&self, state: &RequestPolicy, key: Key, events: Vec<Event>) {
        state.with_names(key, |names| self.metrics.publish(&self.policy, names, events));
    }

    /// Says to the access log that a request went on to the host, and nothing else.
    pub fn log_admitted(&self, host: &dyn Host, state: &RequestPolicy, key: Key) {
        let Ok(mut admitted) = self.admitted.try_borrow_mut() else { return };
        let index = usize::from(key.occupant.index);
        if admitted.len() <= index {
            admitted.resize_with(index.saturating_add(1), || None);
        }
        let Some(known) = admitted.get_mut(index) else { return };
        if known.as_ref().is_none_or(|(whose, _)| *whose != key) {
            let line = access_log::line(&self.policy.name, &state.key_text(key), Disposition::Admitted);
            *known = Some((key, line));
        }
        if let Some((_, line)) = known {
            access_log::write(host, line);
        }
    }
}

/// A call under way, which counts until this is dropped.
pub(super) struct CallPermit(Rc<Cell<u16>>);

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// When a fallback has another cluster serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    /// Before the first attempt.
    First,
    /// After the last.
    Further,
}

/// Something for each leg.
#[derive(Default)]
struct Legs {
    first: Cell<Option<Timestamp>>,
    further: Cell<Option<Timestamp>>,
}

impl Legs {
    fn of(&self, leg: Leg) -> &Cell<Option<Timestamp>> {
        match leg {
            Leg::First => &self.first,
            Leg::Further => &self.further,
        }
    }
}

/// The headers for each eligibility, without and with retries, where another cluster may serve after the last attempt.
fn further_headers(policy: &Policy) -> Vec<Vec<(&'static str, String)>> {
    let Some(retry) = policy.retry.as_ref().filter(|_| policy.goes_further()) else { return Vec::new() };
    let both =
        |eligibility| [false, true].map(|retries| router::headers_for_further_attempt(retry, eligibility, retries));
    [Eligibility::All, Eligibility::Unsent].into_iter().flat_map(both).collect()
}

/// The headers for each eligibility, without and with an attempt seat.
fn router_headers(policy: &Policy) -> Vec<Vec<(&'static str, String)>> {
    let Some(retry) = &policy.retry else { return Vec::new() };
    let both = |eligibility| [false, true].map(|seat| router::router_headers(retry, eligibility, seat));
    [Eligibility::All, Eligibility::Unsent, Eligibility::Nothing].into_iter().flat_map(both).collect()
}
