//! A request that Envoy's router has, in the words of a test.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::calls::Calls;
use crate::exchange::Answer;
use crate::flow::{Flow, Phase, Try};
use crate::headers::Headers;
use crate::host::Host;
use crate::message::Response;
use crate::reset::Reset;

/// A client's request that may be tried several times. Dropped, it stays where it is, and its timers run.
#[derive(Debug, Clone)]
pub struct Routed {
    host: Host,
    flow: Rc<RefCell<Flow>>,
}

/// One attempt as it was, or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The host's address.
    pub host: String,
    /// The headers that the host has seen; `None` if nothing was sent to it.
    pub headers: Option<Headers>,
    /// When it started, since the run began.
    pub began: Duration,
    /// When its request went to the host.
    pub sent: Option<Duration>,
    /// When it was over.
    pub ended: Option<Duration>,
    /// The host calls that the attempt seat made for it; none are known of one whose VM died.
    pub calls: Calls,
}

impl Tried {
    /// A header that the host has seen, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.as_ref()?.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

impl Routed {
    pub(crate) fn new(host: Host, flow: Rc<RefCell<Flow>>) -> Self {
        Routed { host, flow }
    }

    /// The attempt under way, the latest if there are several; a panic if there is none.
    #[track_caller]
    pub fn attempt(&self) -> Attempt {
        match self.attempts().pop() {
            Some(attempt) => attempt,
            None => panic!(
                "a try should be under way, but there were {} and the answer is {:?}",
                self.tries().len(),
                self.flow.borrow().answer
            ),
        }
    }

    /// All attempts under way, the oldest first: several if the request is hedged.
    pub fn attempts(&self) -> Vec<Attempt> {
        let flow = self.flow.borrow();
        let live = flow.tries.iter().enumerate().filter(|(_, one)| one.phase != Phase::Over);
        live.map(|(index, _)| Attempt { request: self.clone(), index }).collect()
    }

    /// Whether it waits for its next attempt: none is under way, and there is no answer.
    pub fn waits(&self) -> bool {
        self.attempts().is_empty() && !self.is_over()
    }

    /// All attempts that have started, in order.
    pub fn tries(&self) -> Vec<Tried> {
        let flow = self.flow.borrow();
        let tries = flow.tries.iter().enumerate();
        tries.map(|(index, one)| Tried { calls: flow.calls_of(&self.host, index), ..tried(one) }).collect()
    }

    /// The host calls that the attempt seat made for all its attempts.
    pub fn attempt_calls(&self) -> Calls {
        let mut calls = Calls::default();
        self.tries().iter().for_each(|one| calls.add(&one.calls));
        calls
    }

    /// Whether the client has its answer, or has left.
    pub fn is_over(&self) -> bool {
        self.flow.borrow().answer.is_some()
    }

    /// What became of it, with the host calls of the request seat; a panic if it is still under way.
    #[track_caller]
    pub fn answer(&self) -> Answer {
        match &self.flow.borrow().answer {
            Some(answer) => answer.clone(),
            None => panic!("there should be an answer after {} tries, but there is none", self.tries().len()),
        }
    }

    /// A piece of an unfinished body comes.
    pub fn uploads(&self, piece: impl AsRef<[u8]>) {
        self.host.drive(&self.flow, |flow, host| flow.uploads(host, piece.as_ref(), false));
    }

    /// An unfinished body ends, with an empty piece.
    pub fn ends_upload(&self) {
        self.host.drive(&self.flow, |flow, host| flow.uploads(host, b"", true));
    }

    /// An unfinished body ends with so many trailers.
    pub fn ends_upload_with(&self, trailers: usize) {
        self.host.drive(&self.flow, |flow, host| flow.upload_ends_with(host, trailers));
    }

    /// The client goes away.
    #[track_caller]
    pub fn client_leaves(&self) -> Answer {
        assert!(!self.is_over(), "the client should be there, but it has its answer: {:?}", self.answer());
        self.host.drive(&self.flow, Flow::client_leaves);
        self.answer()
    }

    /// The filter state `wasm.holdfast` so far.
    pub fn access_log(&self) -> Option<String> {
        self.flow.borrow().info.borrow().access_log()
    }

    /// The filter state `wasm.NAME`, if any filter has set it.
    pub fn filter_state(&self, name: &str) -> Option<Vec<u8>> {
        self.flow.borrow().info.borrow().filter_state.get(name.as_bytes()).cloned()
    }

    /// Puts any bytes into the filter state `wasm.NAME`, as another version of the module or another plugin might.
    pub fn put_filter_state(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref().to_vec();
        self.flow.borrow().info.borrow_mut().filter_state.insert(name.as_bytes().to_vec(), bytes);
    }
}

fn tried(one: &Try) -> Tried {
    let (sent, headers) = one.sent.clone().unzip();
    Tried {
        host: one.upstream.borrow().address.clone(),
        headers,
        began: one.began,
        sent,
        ended: one.ended,
        calls: Calls::default(),
    }
}

/// An attempt, at its host or on its way there.
#[derive(Debug, Clone)]
pub struct Attempt {
    request: Routed,
    index: usize,
}

impl Attempt {
    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.index + 1
    }

    fn get(&self) -> Ref<'_, Try> {
        Ref::map(self.request.flow.borrow(), |flow| &flow.tries[self.index])
    }

    /// What there is to know of it.
    pub fn tried(&self) -> Tried {
        self.request.tries().swap_remove(self.index)
    }

    /// The address of its host.
    pub fn host(&self) -> String {
        self.get().upstream.borrow().address.clone()
    }

    /// Whether the attempt seat keeps its request back from the host.
    pub fn is_held(&self) -> bool {
        self.get().phase == Phase::HeldRequest
    }

    /// Whether its host's headers have come.
    pub fn has_answered(&self) -> bool {
        matches!(self.get().phase, Phase::HeldResponse | Phase::Streaming)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.get().phase == Phase::Over
    }

    /// A header that its host has seen, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.tried().header(name)
    }

    #[track_caller]
    fn expect(&self, phases: &[Phase], what: &str) {
        let phase = self.get().phase;
        assert!(phases.contains(&phase), "try {} is {phase:?}: {what}", self.number());
    }

    /// Its host answers, a status or more.
    #[track_caller]
    pub fn responds(&self, response: impl Into<Response>) {
        self.expect(&[Phase::Sent], "only a host that has the request and has not answered can answer");
        let response = response.into();
        self.request.host.drive(&self.request.flow, |flow, host| flow.responds(host, self.index, response, true));
    }

    /// Its host's headers come; the rest of this response comes with [`Attempt::ends`].
    #[track_caller]
    pub fn begins(&self, response: impl Into<Response>) {
        self.expect(&[Phase::Sent], "only a host that has the request and has not answered can answer");
        let response = response.into();
        self.request.host.drive(&self.request.flow, |flow, host| flow.responds(host, self.index, response, false));
    }

    /// The rest of a response that has begun comes.
    #[track_caller]
    pub fn ends(&self) {
        self.expect(&[Phase::Streaming, Phase::HeldResponse], "only a response that has begun can end");
        self.request.host.drive(&self.request.flow, |flow, host| flow.ends(host, self.index));
    }

    /// It ends without a response, or in the middle of one.
    #[track_caller]
    pub fn fails(&self, reset: Reset) {
        let live = [Phase::HeldRequest, Phase::Sent, Phase::HeldResponse, Phase::Streaming];
        self.expect(&live, "only a try that is under way can fail");
        self.request.host.drive(&self.request.flow, |flow, host| flow.resets(host, self.index, reset));
    }

    /// Its host resets it.
    #[track_caller]
    pub fn resets(&self) {
        self.fails(Reset::Remote);
    }

    /// Its host cannot be reached.
    #[track_caller]
    pub fn connect_fails(&self) {
        self.expect(&[Phase::HeldRequest, Phase::Sent], "a host that has answered was reached");
        self.fails(Reset::ConnectFailure);
    }

    /// Its host refuses the stream.
    #[track_caller]
    pub fn refuses_stream(&self) {
        self.fails(Reset::RefusedStream);
    }
}
