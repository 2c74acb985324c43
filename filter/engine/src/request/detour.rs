//! Detours: a rejected request that another cluster serves.
//!
//! The route lets a filter state choose the cluster, so nothing that a client sends can. What became of it is seen where the answer
//! comes: in the callback that chooses, the host still tells of the cluster before.

use std::borrow::Cow;
use std::rc::Rc;

use holdfast_policy::document::{Route, TemplatePart};

use super::access_log;
use super::active::{ActivePolicy, Leg};
use super::facts::Facts;
use super::plugin::RequestPlugin;
use crate::base::time::Timestamp;
use crate::event::Event;
use crate::fallback::{self, AskedFor, Detour, Disposition, Failed, ReplyContext, Served, Sources, Unserved};
use crate::host::Host;
use crate::http::request::Field;
use crate::metric::Metric;
use crate::store::keys::Key;
use crate::store::{Expected, Store, paths};

/// Where a request on a detour has come to.
pub(super) enum Destination {
    /// To the other cluster.
    Other,
    /// There is no answer of its hosts.
    Nowhere(Unserved),
    /// To its own.
    Own,
}

/// No request goes on more detours than this.
const MOST: usize = 8;

/// The clusters that a request has left on detours.
#[derive(Debug, Default)]
pub(super) struct Left(Vec<Vec<u8>>);

impl Left {
    /// Whether a request that is on its way to `own` may go to another cluster.
    pub(super) fn may_go(&self, own: &[u8], route: &Route) -> Result<(), Unserved> {
        let other = route.cluster.as_bytes();
        let is_known = own == other || self.0.iter().any(|cluster| cluster == other);
        if is_known || self.0.len() >= MOST { Err(Unserved::Loop) } else { Ok(()) }
    }

    /// Whether it has left none.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn leave(&mut self, cluster: Vec<u8>) {
        self.0.push(cluster);
    }
}

/// Who has sent a request on a detour, and what is needed to serve it otherwise.
pub(super) struct Sender {
    active: Rc<ActivePolicy>,
    key: Key,
    /// The cluster that it would have gone to.
    from: Vec<u8>,
    detour: Detour,
    /// What the other fallbacks insert of the request.
    kept: Vec<(TemplatePart, Option<Vec<u8>>)>,
    asked: Option<AskedFor>,
    began: Timestamp,
}

impl Sender {
    /// A policy sends a request on a detour.
    pub(super) fn new(
        active: &Rc<ActivePolicy>,
        key: Key,
        facts: &Facts<'_>,
        (detour, asked): (Detour, Option<AskedFor>),
        began: Timestamp,
    ) -> Self {
        let parts = fallback::parts_on_detour(active.policy());
        let value = |part: &TemplatePart| facts.get(fallback::field(part)?).map(Cow::into_owned);
        Sender {
            active: Rc::clone(active),
            key,
            from: facts.get(Field::Cluster).unwrap_or_default().into_owned(),
            kept: parts.into_iter().map(|part| (part.clone(), value(&part))).collect(),
            detour,
            asked,
            began,
        }
    }

    /// Has the host choose the other cluster.
    ///
    /// # Errors
    /// Another filter holds the name.
    pub(super) fn send(&self, host: &dyn Host) -> Result<(), Unserved> {
        host.set_property(Route::PROPERTY, self.cluster().as_bytes()).map_err(|_| Unserved::NotRouted)?;
        host.clear_route_cache();
        Ok(())
    }

    pub(super) fn cluster(&self) -> &str {
        &self.detour.cluster
    }

    pub(super) fn from(&self) -> &[u8] {
        &self.from
    }

    /// Says to the access log who has sent the request where it is.
    pub(super) fn mark(&self, host: &dyn Host) {
        access_log::mark_detour(host, self.policy(), &self.detour);
    }

    /// What an answer says that came by the detour.
    pub(super) fn says(&self) -> String {
        fallback::detour_says(self.active.policy(), &self.detour)
    }

    fn policy(&self) -> &str {
        &self.active.policy().name
    }

    pub(super) fn active(&self) -> &Rc<ActivePolicy> {
        &self.active
    }

    /// The detour has come to nothing: the next fallback that can serves. `route` says whether the request may go elsewhere.
    pub(super) fn give_way(
        mut self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        why: Unserved,
        route: &mut dyn FnMut(&Route) -> Result<(), Unserved>,
    ) -> Option<(Self, Served)> {
        let now = host.now();
        let active = Rc::clone(&self.active);
        let mut events = active.metrics.events();
        let policy = active.state.try_borrow().ok()?;
        events.push(Event::Count(Metric::FallbackFailedRoute));
        let mut failed = vec![Failed { kind: fallback::ROUTE, why }];
        let waited = now.since(self.began);
        let retry_after = self.detour.context.retry_after.map(|left| left.saturating_sub(waited));
        let context = ReplyContext { retry_after, ..self.detour.context };
        let served = {
            let mut sources = Sources {
                value: &mut |wanted: Field<'_>| {
                    let (_, value) = self.kept.iter().find(|(part, _)| fallback::field(part) == Some(wanted))?;
                    value.clone()
                },
                stale: &mut || policy.find_answer(store, self.key, self.asked.as_ref(), now),
                route,
                call: &mut |_| Err(Unserved::TooLate),
            };
            let asked = self.detour.asked;
            fallback::serve_rejection(active.policy(), context, asked, &mut sources, &mut failed, &mut events)
        };
        let disposition = match &served {
            Served::Reply(local) => local.disposition,
            Served::Detour(detour) => {
                self.detour = detour.clone();
                Disposition::Route(context.reason)
            }
        };
        let mut line = access_log::line(&active.policy().name, &policy.key_text(self.key), disposition);
        if let Served::Detour(detour) = &served {
            access_log::push_cluster(&mut line, &detour.cluster);
        }
        access_log::push_failed(&mut line, &failed);
        access_log::write(host, &line);
        plugin.publish(&active, &policy, self.key, events);
        Some((self, served))
    }

    /// Notes whether the route let the fallback choose the cluster.
    pub(super) fn note_routed(&self, plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host, is_routed: bool) {
        let leg = (Leg::First, self.from.as_slice(), self.cluster());
        note_routed(plugin, store, host, (&self.active, self.key), leg, is_routed);
    }

    /// Where the request has come to, once there is an answer.
    pub(super) fn destination(&self, host: &dyn Host) -> Destination {
        destination(host, &self.from)
    }
}

/// Where a request has come to that was on its way to another cluster than its `own`, once there is an answer.
pub(super) fn destination(host: &dyn Host, own: &[u8]) -> Destination {
    let details = host.property("response\0code_details").unwrap_or_default();
    match details.as_slice() {
        b"cluster_not_found" => return Destination::Nowhere(Unserved::NoCluster),
        b"no_healthy_upstream" => return Destination::Nowhere(Unserved::NoHost),
        _ => {}
    }
    match host.property("xds\0cluster_name") {
        Some(cluster) if cluster == own => Destination::Own,
        _ => Destination::Other,
    }
}

/// Notes whether the route let a fallback of a policy choose the cluster: another one than `from` on that leg.
pub(super) fn note_routed(
    plugin: &RequestPlugin,
    store: &mut dyn Store,
    host: &dyn Host,
    (active, key): (&Rc<ActivePolicy>, Key),
    (leg, from, to): (Leg, &[u8], &str),
    is_routed: bool,
) {
    let is_news = active.note_routed(leg, is_routed, host.recently());
    if is_routed && !is_news {
        return;
    }
    let name = &active.policy().name;
    let is_further = leg == Leg::Further;
    if !is_routed && store.swap(&paths::told_of_route(name, is_further), b"1", Expected::Absent).is_ok() {
        let from = String::from_utf8_lossy(from);
        let (what, lacks) = match leg {
            Leg::First => ("requests still go", "does not let the filter state wasm.holdfast_route choose the cluster"),
            Leg::Further => (
                "further attempts still go",
                "does not let the filter state wasm.holdfast_route choose the cluster again for a retry (refresh_cluster_on_retry, \
                 Envoy 1.39)",
            ),
        };
        let line = format!(
            "{name}: a fallback's route to {to} does nothing: {what} to {from}, since their route in Envoy {lacks}; other fallbacks serve \
             in its place"
        );
        host.log(true, &line);
    }
    let mut events = active.metrics.events();
    events.push(Event::Gauge(Metric::MisassembledRoute, u64::from(active.is_misassembled())));
    // Of a further attempt that is counted with the fallbacks that serve in its place.
    if !is_routed && leg == Leg::First {
        events.push(Event::Count(Metric::FallbackFailedRoute));
    }
    if let Ok(policy) = active.state.try_borrow() {
        plugin.publish(active, &policy, key, events);
    }
}
