//! Calls that the module makes (`proxy_http_call`), in the words of a test.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::flow::{Call, Flow};
use crate::host::Host;
use crate::message::Response;
use crate::reset::Reset;
use crate::routed::Routed;
use crate::seat::Seat;
use crate::thread::Thread;

/// A call that a VM has made and that has no answer yet.
#[derive(Debug, Clone)]
pub struct HttpCall {
    call: Call,
    request: Routed,
}

impl HttpCall {
    pub(crate) fn of(host: &Host, flow: &Rc<RefCell<Flow>>) -> Option<Self> {
        let call = flow.borrow().call()?;
        Some(HttpCall { call, request: Routed::new(host.clone(), Rc::clone(flow)) })
    }

    /// The cluster that it goes to.
    pub fn cluster(&self) -> &str {
        &self.call.cluster
    }

    /// The address of the host that the cluster has chosen.
    pub fn host(&self) -> String {
        self.request.tries().pop().map(|one| one.host).unwrap_or_default()
    }

    /// A header that the host has seen, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.request.tries().pop()?.header(name)
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.call.body
    }

    /// The thread whose VM made it.
    pub fn thread(&self) -> Thread {
        self.call.thread
    }

    /// The seat whose VM made it.
    pub fn seat(&self) -> Seat {
        self.call.seat
    }

    /// When it was made, since the run began.
    pub fn began(&self) -> Duration {
        self.call.began
    }

    /// How long it may take; zero is for ever.
    pub fn timeout(&self) -> Duration {
        self.call.timeout
    }

    /// Whether the module has been told of its end, or the call was given up.
    pub fn is_over(&self) -> bool {
        self.request.is_over()
    }

    /// The host answers, a status or more.
    #[track_caller]
    pub fn responds(&self, response: impl Into<Response>) {
        self.request.attempt().responds(response);
    }

    /// The response breaks off after its headers have come, or is too large: the module is told of no headers.
    #[track_caller]
    pub fn resets(&self) {
        let attempt = self.request.attempt();
        if !attempt.has_answered() {
            attempt.begins(200);
        }
        attempt.resets();
    }

    /// It ends before there is a response, and Envoy answers in the host's place.
    #[track_caller]
    pub fn fails(&self, reset: Reset) {
        self.request.attempt().fails(reset);
    }

    /// The host cannot be reached: the module is told of a 503.
    #[track_caller]
    pub fn connect_fails(&self) {
        self.request.attempt().connect_fails();
    }
}
