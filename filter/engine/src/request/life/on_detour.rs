//! A request on a detour: up to the headers of the answer it is one to the other cluster, and of the policy that has sent it.

use std::rc::Rc;

use holdfast_policy::document::Route;

use super::{RequestState, stand_in};
use crate::fallback::{FALLBACK_HEADER, Served, Unserved};
use crate::host::{Headers, Host};
use crate::request::detour::{Destination, Sender};
use crate::request::effect::RequestEffect;
use crate::request::plugin::RequestPlugin;
use crate::store::Store;

/// A request on a detour, whose answer is still to come.
pub struct OnDetour {
    sender: Sender,
    /// How far it has come as a request to the other cluster.
    inner: RequestState,
}

impl OnDetour {
    /// The request has come to where it was sent.
    pub(super) fn arrive(sender: Sender, host: &dyn Host, inner: RequestState) -> RequestState {
        sender.mark(host);
        RequestState::OnDetour(Box::new(OnDetour { sender, inner }))
    }

    /// How far it has come as a request to the other cluster.
    pub(super) fn inner(&self) -> &RequestState {
        &self.inner
    }

    pub(super) fn inner_mut(&mut self) -> &mut RequestState {
        &mut self.inner
    }

    /// The headers of the answer have come.
    pub(super) fn on_response_headers(
        self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        stream: u32,
        ended: bool,
    ) -> (RequestState, RequestEffect) {
        let OnDetour { sender, inner } = self;
        let (state, effect) = inner.on_response_headers(plugin, store, host, stream, ended);
        let is_answered = effect != RequestEffect::Continue || matches!(state, RequestState::Replacing(..));
        let destination = sender.destination(host);
        match destination {
            Destination::Own => sender.note_routed(plugin, store, host, false),
            Destination::Other => sender.note_routed(plugin, store, host, true),
            Destination::Nowhere(_) => {}
        }
        match destination {
            // The other cluster's policy has answered.
            _ if is_answered => {}
            Destination::Own => {}
            Destination::Other => host.set_header(Headers::Response, FALLBACK_HEADER, &sender.says()),
            Destination::Nowhere(why) => {
                let active = Rc::clone(sender.active());
                let mut too_late = |_: &Route| Err(Unserved::TooLate);
                let served = sender.give_way(plugin, store, host, why, &mut too_late);
                return match served {
                    Some((_, Served::Reply(local))) => stand_in(plugin, host, &active, state, local, stream, ended),
                    Some((_, Served::Detour(_))) | None => (state, effect),
                };
            }
        }
        sender.mark(host);
        (state, effect)
    }

    /// It is over without an answer.
    pub(super) fn on_end(self, plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host) {
        let OnDetour { sender, inner } = self;
        inner.on_end(plugin, store, host);
        sender.mark(host);
    }
}
