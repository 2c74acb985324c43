//! Contexts that are over, and when the SDK forgets them.
//!
//! Envoy may call an attempt's context once more when it has ended it: the router begins a retry by a response's headers, and
//! the trailers that another filter had kept back with them still come (seen on Envoy 1.37.0 and 1.40.0). The SDK stops the
//! VM at a context that it has deleted. So the module does not export the SDK's `proxy_on_delete` (`exports.json`). A context
//! ends at `on_done`, which Envoy calls at the same moment, and is deleted here after that.

#![allow(unsafe_code)] // To delete a context the SDK has nothing but the callback.

use std::cell::RefCell;
use std::collections::VecDeque;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

/// So many streams' contexts that are over are kept. What Envoy still has for one comes before it takes up anything else;
/// until then no more can end than a request has attempts beside each other.
const KEPT: usize = 16;

unsafe extern "C" {
    /// The SDK's callback. It stops the VM at a context that it does not know.
    safe fn proxy_on_delete(context: u32);
}

thread_local! {
    static OVER: RefCell<Over> = RefCell::default();
}

#[derive(Default)]
struct Over {
    streams: VecDeque<u32>,
    roots: Vec<u32>,
}

/// A stream's context: what a seat makes of it, until it is over. After that it lets everything pass.
pub struct Stream<S> {
    context: u32,
    seat: Option<S>,
}

impl<S> Stream<S> {
    /// Begins, and has the SDK forget the oldest that is over, if there are enough of them.
    pub fn begin(context: u32, seat: S) -> Box<Self> {
        let oldest =
            OVER.with_borrow_mut(|over| if over.streams.len() > KEPT { over.streams.pop_front() } else { None });
        if let Some(oldest) = oldest {
            proxy_on_delete(oldest);
        }
        Box::new(Stream { context, seat: Some(seat) })
    }
}

impl<S> Context for Stream<S> {
    fn on_done(&mut self) -> bool {
        self.seat = None;
        OVER.with_borrow_mut(|over| over.streams.push_back(self.context));
        true
    }
}

impl<S: HttpContext> HttpContext for Stream<S> {
    fn on_http_request_headers(&mut self, headers: usize, end_of_stream: bool) -> Action {
        self.seat.as_mut().map_or(Action::Continue, |seat| seat.on_http_request_headers(headers, end_of_stream))
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.seat.as_mut().map_or(Action::Continue, |seat| seat.on_http_request_body(size, end_of_stream))
    }

    fn on_http_request_trailers(&mut self, trailers: usize) -> Action {
        self.seat.as_mut().map_or(Action::Continue, |seat| seat.on_http_request_trailers(trailers))
    }

    fn on_http_response_headers(&mut self, headers: usize, end_of_stream: bool) -> Action {
        self.seat.as_mut().map_or(Action::Continue, |seat| seat.on_http_response_headers(headers, end_of_stream))
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.seat.as_mut().map_or(Action::Continue, |seat| seat.on_http_response_body(size, end_of_stream))
    }

    fn on_http_response_trailers(&mut self, trailers: usize) -> Action {
        self.seat.as_mut().map_or(Action::Continue, |seat| seat.on_http_response_trailers(trailers))
    }

    fn on_log(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.on_log();
        }
    }
}

/// A module whose exports were not trimmed has its contexts deleted by the host.
impl<S> Drop for Stream<S> {
    fn drop(&mut self) {
        OVER.with_borrow_mut(|over| over.streams.retain(|other| *other != self.context));
    }
}

/// Notes that a root context is over.
pub fn end_root(context: u32) {
    OVER.with_borrow_mut(|over| over.roots.push(context));
}

/// Notes that a root context is deleted.
pub fn delete_root(context: u32) {
    OVER.with_borrow_mut(|over| over.roots.retain(|other| *other != context));
}

/// Has the SDK forget the root contexts that are over. Only where no context's callback runs, as when another one begins.
pub fn forget_roots() {
    OVER.with_borrow_mut(|over| std::mem::take(&mut over.roots))
        .into_iter()
        .for_each(|context| proxy_on_delete(context));
}
