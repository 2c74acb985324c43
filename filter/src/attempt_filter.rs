//! The attempt seat: an upstream HTTP filter, which sees one attempt of a request.

use std::rc::Rc;

use holdfast_engine::attempt::{AttemptEffect, AttemptPlugin, AttemptReply, AttemptState};
use holdfast_engine::host::RootHost;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host::WasmHost;
use crate::hostcalls;
use crate::shared_data::SharedData;

/// One attempt's context.
pub struct AttemptFilter {
    plugin: Rc<AttemptPlugin>,
    shared: SharedData,
    context: u32,
    state: AttemptState,
}

impl AttemptFilter {
    /// A context of a plugin and its store.
    pub fn new(plugin: Rc<AttemptPlugin>, shared: SharedData, context: u32) -> Self {
        AttemptFilter { plugin, shared, context, state: AttemptState::default() }
    }
}

/// Does what an event has led to.
fn act(effect: AttemptEffect) -> Action {
    match effect {
        AttemptEffect::Continue => Action::Continue,
        AttemptEffect::Pause => Action::Pause,
        AttemptEffect::Resume => {
            let _ = hostcalls::resume_request();
            Action::Continue
        }
        AttemptEffect::Reply(AttemptReply { status, details, headers, body, grpc_status }) => {
            // Without a stream there is nobody to reply to.
            let _ = hostcalls::reply(status, &details, &headers, &body, grpc_status);
            Action::Pause
        }
    }
}

/// Wakes the attempts whose time has come.
pub fn on_tick(plugin: &AttemptPlugin, mut shared: SharedData) {
    // The tick that was asked for has come; the host goes on with it until it hears otherwise.
    let now = WasmHost.now();
    let Some(due) = plugin.take_due(now) else { return };
    for waiter in due {
        // A context that is gone was forgotten when it went.
        if hostcalls::act_for(waiter.stream).is_ok() {
            act(plugin.wake(&mut shared, &WasmHost, waiter, now));
        }
    }
    plugin.end_tick(&mut shared, now);
}

impl Context for AttemptFilter {}

impl HttpContext for AttemptFilter {
    /// The request's headers are about to leave for the host.
    fn on_http_request_headers(&mut self, _headers: usize, ended: bool) -> Action {
        let (state, effect) =
            AttemptState::on_request_headers(&self.plugin, &mut self.shared, &WasmHost, self.context, ended);
        self.state = state;
        act(effect)
    }

    /// A piece of the request's body is about to leave for the host.
    fn on_http_request_body(&mut self, _size: usize, ended: bool) -> Action {
        if ended {
            self.state.on_request_end(&WasmHost);
        }
        Action::Continue
    }

    /// The request's trailers are about to leave for the host.
    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        self.state.on_request_end(&WasmHost);
        Action::Continue
    }

    /// The host's headers have come.
    fn on_http_response_headers(&mut self, _headers: usize, ended: bool) -> Action {
        self.state.on_response_headers(&self.plugin, &mut self.shared, &WasmHost, self.context, ended);
        Action::Continue
    }

    /// A piece of the host's body has come. Only the last is of interest.
    fn on_http_response_body(&mut self, _size: usize, ended: bool) -> Action {
        if ended {
            self.state.on_response_end(&self.plugin, &mut self.shared, &WasmHost);
        }
        Action::Continue
    }

    /// The host's trailers have come.
    fn on_http_response_trailers(&mut self, _trailers: usize) -> Action {
        self.state.on_response_trailers(&self.plugin, &mut self.shared, &WasmHost);
        Action::Continue
    }
}

/// The host ends an attempt's context when the attempt is over, before it begins the next one.
impl Drop for AttemptFilter {
    fn drop(&mut self) {
        std::mem::take(&mut self.state).on_end(&self.plugin, &mut self.shared, &WasmHost, self.context);
    }
}
