//! A request that another cluster may serve after the last attempt: where it may go is said when it is sent, and what became of it shows at the
//! answer.

use std::borrow::Cow;
use std::rc::Rc;

use super::{Admitted, HostJudge, LastAttempt, Place, RequestState, ResponseTiming, last_attempt, settle};
use crate::cx::Cx;
use crate::fallback::{self, Detour, Disposition, FALLBACK_HEADER, ReplyContext, Unserved};
use crate::host::{Headers, Host};
use crate::http::attempt::RetryWish;
use crate::http::header_rules::HeaderVerdict;
use crate::http::outcome::Answer;
use crate::http::request::Field;
use crate::request::access_log;
use crate::request::active::{ActivePolicy, Leg};
use crate::request::detour::{Destination, destination, note_routed};
use crate::request::effect::RequestEffect;
use crate::request::facts::Facts;
use crate::request::plugin::RequestPlugin;
use crate::request::ticket::Decision;
use crate::seats::retry_context::{self, RetryContext};
use crate::store::Store;

/// The clusters that may serve a request after its last attempt, as far as their own policies let requests in.
///
/// # Errors
/// Why none may.
pub(super) fn others(
    plugin: &RequestPlugin,
    active: &ActivePolicy,
    store: &mut dyn Store,
    host: &dyn Host,
    facts: &Facts<'_>,
) -> Result<Vec<Vec<u8>>, Unserved> {
    if active.is_unrouted(Leg::Further, host.recently()) {
        return Err(Unserved::NotRouted);
    }
    let own = facts.get(Field::Cluster).unwrap_or_default();
    let others = active.policy().further_routes().map(|route| route.cluster.as_bytes()).filter(|name| *name != &*own);
    let others = others.filter(|name| lets_in(plugin, store, host, facts, name));
    let others: Vec<Vec<u8>> = others.map(<[u8]>::to_owned).collect();
    if others.is_empty() { Err(Unserved::Rejected) } else { Ok(others) }
}

/// Whether the policy that would govern a request to another cluster lets requests in there.
fn lets_in(plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host, facts: &Facts<'_>, cluster: &[u8]) -> bool {
    let value = |field: Field<'_>| {
        if field == Field::Cluster { Some(Cow::Owned(cluster.to_owned())) } else { facts.get(field) }
    };
    let Some(active) = plugin.governing(value).filter(|active| active.is_active && active.policy().breaker.is_some())
    else {
        return true;
    };
    let (Ok(mut worker), Ok(mut policy)) = (plugin.vm.worker.try_borrow_mut(), active.state.try_borrow_mut()) else {
        return true;
    };
    let now = host.recently();
    let key = policy.key(&mut worker, store, now, value);
    let mut events = active.metrics.events();
    let is_in = policy.lets_in(&mut Cx::new(store, &mut worker, now, &mut events), key);
    if !events.is_empty() {
        plugin.publish(active, &policy, key, events);
    }
    is_in
}

/// What became of a further attempt.
pub(super) enum Further {
    /// There was none.
    None,
    /// Another cluster was chosen that could not be asked, for this reason. What stands is how the last own attempt ended, where the
    /// answer that has come is none of it.
    Failed(Unserved, Option<LastAttempt>),
    /// Another cluster has served, or was about to.
    Gone(Box<RetryContext>, Detour),
}

/// Looks what became of the further attempt of a request to which there may be one.
pub(super) fn look(plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host, admitted: &Admitted) -> Further {
    let Some(context) = admitted.goes_further.then(|| retry_context::read(host)).flatten() else {
        return Further::None;
    };
    let Some(chosen) = context.chosen() else { return Further::None };
    let cluster = String::from_utf8_lossy(&chosen.cluster).into_owned();
    let whose = (&admitted.active, admitted.ticket.key());
    let Some(own) = &admitted.own_cluster else { return Further::None };
    let leg = (Leg::Further, own.as_slice(), cluster.as_str());
    if chosen.is_astray {
        note_routed(plugin, store, host, whose, leg, false);
        return Further::Failed(Unserved::NotRouted, last_attempt(Some(&context)));
    }
    match destination(host, own) {
        // The router has not begun it.
        Destination::Own => Further::None,
        Destination::Nowhere(why) => Further::Failed(why, last_attempt(Some(&context))),
        Destination::Other => {
            note_routed(plugin, store, host, whose, leg, true);
            let why = ReplyContext { reason: chosen.reason, retry_after: None, grpc: admitted.grpc };
            Further::Gone(Box::new(context), Detour { cluster, context: why, asked: 0 })
        }
    }
}

impl Admitted {
    /// Settles a request that another cluster serves, by how its last own attempt ended, and has the policy of that cluster judge what
    /// comes from there.
    fn hand_over(
        mut self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        context: &RetryContext,
        detour: Detour,
    ) -> RequestState {
        let (answer, by_headers, _) =
            last_attempt(Some(context)).unwrap_or((Answer::NoAnswer, HeaderVerdict::Nothing, false));
        let now = host.now();
        let last = context.attempts.last();
        let ended = last.map_or(now, |last| last.ended);
        let retry_after = last.and_then(|last| last.wish).and_then(|wish| match wish {
            RetryWish::Wait(wait) => Some(wait),
            RetryWish::Never => None,
        });
        let (last_byte, client_waits) = (self.last_byte, self.client_waits);
        self.gone = Some(detour);
        let timing =
            ResponseTiming { began: ended, at: now, retry_after, by_headers, place: Place::Headers, is_pointed: true };
        let (lasting, _) = settle(plugin, store, host, self, answer, &timing).unwrap_or_default();
        // Nothing of it is in flight at its own cluster any more.
        RequestState::ending(lasting).on_end(plugin, store, host);
        let Some(mut inner) = admit_late(plugin, store, host) else { return RequestState::Over };
        inner.ticket.came(ended);
        (inner.last_byte, inner.client_waits) = (last_byte, client_waits);
        RequestState::Admitted(Box::new(inner))
    }

    /// The headers of an answer have come that another cluster has given.
    pub(super) fn follow(
        self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        (context, detour): (&RetryContext, Detour),
        stream: u32,
        ended: bool,
    ) -> (RequestState, RequestEffect) {
        let active = Rc::clone(&self.active);
        let inner = self.hand_over(plugin, store, host, context, detour.clone());
        let (state, effect) = inner.on_response_headers(plugin, store, host, stream, ended);
        if effect == RequestEffect::Continue && !matches!(state, RequestState::Replacing(..)) {
            host.set_header(Headers::Response, FALLBACK_HEADER, &fallback::detour_says(active.policy(), &detour));
        }
        access_log::mark_detour(host, &active.policy().name, &detour);
        (state, effect)
    }

    /// It is over without an answer of the other cluster.
    pub(super) fn end_gone(
        self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        (context, detour): (&RetryContext, Detour),
    ) {
        self.hand_over(plugin, store, host, context, detour).on_end(plugin, store, host);
    }
}

/// Admits a request by the policy of the cluster that it has come to in the end; `None` where none governs it there, or it would not have
/// been let in.
fn admit_late(plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host) -> Option<Admitted> {
    let facts = Facts::new(host);
    let active = plugin.governing(|field| facts.get(field)).filter(|active| active.is_active)?;
    let mut events = active.metrics.events();
    let mut worker = plugin.vm.worker.try_borrow_mut().ok()?;
    let mut policy = active.state.try_borrow_mut().ok()?;
    let now = host.now();
    let key = policy.key(&mut worker, store, now, |field| facts.get(field));
    let cx = &mut Cx::new(store, &mut worker, now, &mut events);
    let Decision::Admitted(ticket) = policy.admit(cx, key) else { return None };
    let judges_hosts = policy.outlier().is_some();
    let cluster = policy.cluster_hash(key, || facts.get(Field::Cluster).unwrap_or_default());
    plugin.publish(active, &policy, key, events);
    Some(Admitted {
        cluster,
        hosts: judges_hosts.then_some(HostJudge::Afterwards),
        disposition: Disposition::Admitted,
        grpc: if active.replaces_answers { facts.grpc() } else { None },
        kept: active.kept.iter().map(|part| facts.get(fallback::field(part)?).map(Cow::into_owned)).collect(),
        ..Admitted::new(active, ticket)
    })
}
