//! The request seat: an HTTP filter just before the router, which sees one logical request.

use std::rc::Rc;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::RootHost;
use holdfast_engine::request::{RequestEffect, RequestPlugin, RequestState};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host::WasmHost;
use crate::hostcalls;
use crate::shared_data::SharedData;

/// One request's context.
pub struct RequestFilter {
    /// Without a plugin everything passes.
    plugin: Option<(Rc<RequestPlugin>, SharedData)>,
    context: u32,
    state: RequestState,
}

impl RequestFilter {
    /// A context of a plugin and its store.
    pub fn new(plugin: Option<(Rc<RequestPlugin>, SharedData)>, context: u32) -> Self {
        RequestFilter { plugin, context, state: RequestState::default() }
    }

    /// Has an event take the request further.
    fn step<E>(
        &mut self,
        event: impl FnOnce(RequestState, &RequestPlugin, &mut SharedData) -> (RequestState, E),
    ) -> Option<E> {
        let (plugin, shared) = self.plugin.as_ref()?;
        let (state, effect) = event(std::mem::take(&mut self.state), plugin, &mut shared.clone());
        self.state = state;
        Some(effect)
    }
}

/// Does what an event has led to.
fn act(effect: RequestEffect) -> Action {
    match effect {
        RequestEffect::Continue => Action::Continue,
        RequestEffect::Hold => Action::Pause,
        RequestEffect::Resume => {
            let _ = hostcalls::resume_response();
            Action::Continue
        }
        RequestEffect::Reply(local) => {
            let (reply, details) = (&local.reply, local.details());
            let grpc_status = reply.grpc.map(|grpc| grpc.code);
            match hostcalls::reply(reply.status, &details, &reply.headers, &reply.body, grpc_status) {
                Ok(()) => Action::Pause,
                // Better the host's answer than none.
                Err(_) => Action::Continue,
            }
        }
    }
}

/// Looks at the answers that are held back, at a tick or a wake-up. Afterwards host calls may concern one of theirs: then it gives
/// the time.
pub fn look_at_held(plugin: &RequestPlugin, is_wake: bool) -> Option<Timestamp> {
    if !plugin.holds() {
        return None;
    }
    let now = WasmHost.now();
    for held in plugin.take_held(is_wake, now) {
        // A context that is gone has no answer to let go.
        if hostcalls::act_for(held.stream).is_ok() {
            let effect = plugin.wake(&WasmHost, held, now);
            act_outside(effect);
        }
    }
    Some(now)
}

/// Does what an event has led to that is none of the stream's own.
pub fn act_outside(effect: RequestEffect) {
    let replies = matches!(effect, RequestEffect::Reply(_));
    if act(effect) == Action::Continue && replies {
        // The reply was refused, and nobody looks at the answer again.
        let _ = hostcalls::resume_response();
    }
}

impl Context for RequestFilter {}

impl HttpContext for RequestFilter {
    fn on_http_request_headers(&mut self, _headers: usize, ended: bool) -> Action {
        if self.plugin.is_none() {
            RequestState::without_plugin(&WasmHost);
        }
        let step = self.step(|_, plugin, shared| RequestState::on_request_headers(plugin, shared, &WasmHost, ended));
        step.map_or(Action::Continue, act)
    }

    /// Every piece of every request comes by here, and mostly only the end of it is of interest.
    fn on_http_request_body(&mut self, size: usize, ended: bool) -> Action {
        self.state.on_request_body(&WasmHost, size, ended);
        Action::Continue
    }

    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        self.state.on_request_trailers(&WasmHost);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _headers: usize, ended: bool) -> Action {
        let context = self.context;
        let step =
            self.step(|state, plugin, shared| state.on_response_headers(plugin, shared, &WasmHost, context, ended));
        step.map_or(Action::Continue, act)
    }

    /// Every piece of every response comes by here, and nearly all are of no interest.
    fn on_http_response_body(&mut self, size: usize, ended: bool) -> Action {
        if !self.state.wants_body(ended) {
            return Action::Continue;
        }
        let step = self.step(|state, plugin, shared| state.on_response_body(plugin, shared, &WasmHost, size, ended));
        step.map_or(Action::Continue, act)
    }

    fn on_http_response_trailers(&mut self, _trailers: usize) -> Action {
        let step = self.step(|state, plugin, shared| state.on_response_trailers(plugin, shared, &WasmHost));
        step.map_or(Action::Continue, act)
    }

    fn on_log(&mut self) {
        self.step(|state, plugin, shared| (RequestState::Over, state.on_end(plugin, shared, &WasmHost)));
    }
}
