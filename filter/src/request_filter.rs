//! The request seat: an HTTP filter just before the router, which sees one logical request.

use std::rc::Rc;

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
    state: RequestState,
}

impl RequestFilter {
    /// A context of a plugin and its store.
    pub fn new(plugin: Option<(Rc<RequestPlugin>, SharedData)>) -> Self {
        RequestFilter { plugin, state: RequestState::default() }
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

/// Does what the event has led to.
fn act(effect: Option<RequestEffect>) -> Action {
    let Some(RequestEffect::Reply(local)) = effect else { return Action::Continue };
    let (reply, details) = (&local.reply, local.details());
    match hostcalls::reply(reply.status, &details, &reply.headers, &reply.body, reply.grpc_status) {
        Ok(()) => Action::Pause,
        // Better the host's answer than none.
        Err(_) => Action::Continue,
    }
}

impl Context for RequestFilter {}

impl HttpContext for RequestFilter {
    fn on_http_request_headers(&mut self, _headers: usize, ended: bool) -> Action {
        if self.plugin.is_none() {
            RequestState::without_plugin(&WasmHost);
        }
        act(self.step(|_, plugin, shared| RequestState::on_request_headers(plugin, shared, &WasmHost, ended)))
    }

    fn on_http_response_headers(&mut self, _headers: usize, ended: bool) -> Action {
        act(self.step(|state, plugin, shared| state.on_response_headers(plugin, shared, &WasmHost, ended)))
    }

    fn on_http_response_trailers(&mut self, _trailers: usize) -> Action {
        self.step(|state, plugin, shared| (state.on_response_trailers(plugin, shared, &WasmHost), ()));
        Action::Continue
    }

    fn on_log(&mut self) {
        self.step(|state, plugin, shared| (RequestState::Over, state.on_end(plugin, shared, &WasmHost)));
    }
}
