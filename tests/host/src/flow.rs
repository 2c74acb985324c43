//! One client's request on its way through the request seat, the router, and the attempt seat.
//!
//! Which callback comes before which, and what the properties say in it, was recorded on Envoy 1.40. What is not plain:
//! * A try that answers for good is deleted before the last piece of its response reaches the request seat: before the
//!   headers, if there is nothing else.
//! * A local reply first deletes all tries, with its details already there and its status not yet. Whoever makes it: the
//!   attempt seat, Envoy, or the request seat in place of a response.
//! * When the client leaves, the request seat logs, and the access log is written, before the tries are deleted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::calls::Calls;
use crate::exchange::{
    Answer, By, FAIL_STREAM, answer, failed, go_on, local_reply, replace, reply_to_request, status_of,
};
use crate::flags;
use crate::headers::Headers;
use crate::host::Host;
use crate::message::{Request, Response};
use crate::reset::Reset;
use crate::router::{Effect, Router};
use crate::seat::Seat;
use crate::stream::{Direction, LocalReply, SharedHeaders, Stream};
use crate::stream_info::{SharedInfo, StreamInfo, Upstream};
use crate::thread::Thread;
use crate::vm::{Action, Step, Trap, Vm};

/// Where a try is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The attempt seat keeps its request.
    HeldRequest,
    /// The host has its request.
    Sent,
    /// The attempt seat keeps its response.
    HeldResponse,
    /// Its response goes to the client.
    Streaming,
    /// It is deleted.
    Over,
}

/// What is still to come of a response whose headers have come.
#[derive(Debug, Clone, Default)]
struct Rest {
    body: Vec<u8>,
    trailers: Option<Headers>,
    /// Whether it is there already, or the test says when.
    has_come: bool,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.body.is_empty() && self.trailers.is_none()
    }
}

/// One try.
#[derive(Debug)]
pub(crate) struct Try {
    /// Its context in the attempt seat and the incarnation of the VM; `None` without an attempt seat.
    context: Option<(u32, u64)>,
    pub(crate) upstream: Rc<RefCell<Upstream>>,
    pub(crate) phase: Phase,
    pub(crate) began: Duration,
    pub(crate) sent: Option<(Duration, Headers)>,
    pub(crate) ended: Option<Duration>,
    /// Host calls made for it; known when it is over.
    pub(crate) calls: Calls,
    response: Headers,
    rest: Rest,
}

/// One client's request.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) worker: usize,
    /// Its context in the request seat, and the incarnation of the VM.
    context: u32,
    incarnation: u64,
    pub(crate) info: SharedInfo,
    /// The request's headers, on which router and attempt seat leave their marks from try to try.
    headers: SharedHeaders,
    body: Vec<u8>,
    is_grpc: bool,
    /// Whether the body has come past the request seat.
    has_body: bool,
    router: Option<Router>,
    pub(crate) tries: Vec<Try>,
    pub(crate) answer: Option<Answer>,
}

impl Flow {
    /// The client's headers come to the request seat.
    pub(crate) fn begin(host: &Host, worker: usize, request: &Request) -> Flow {
        let begun = host.run(Thread::Worker(worker), Seat::Request, |vm| {
            let stream = Stream::new(host.root_of(vm, request.listener), request);
            let (headers, info) = (Rc::clone(&stream.request.headers), Rc::clone(&stream.info));
            let id = vm.begin(stream)?;
            let step = vm.request_headers(id)?;
            Ok((id, headers, info, step))
        });
        let (context, headers, info, step) = match begun {
            Some((id, headers, info, step)) => (id, headers, info, Some(step)),
            None => (0, SharedHeaders::default(), StreamInfo::new(request), None),
        };
        let mut flow = Flow {
            worker,
            context,
            incarnation: host.incarnation(worker),
            info,
            headers,
            body: request.body.clone(),
            is_grpc: request.is_grpc(),
            has_body: request.body.is_empty(),
            router: None,
            tries: Vec::new(),
            answer: None,
        };
        match step {
            Some(Step::Continue) => {}
            Some(Step::Reply(reply)) => {
                let answered = flow.in_request(host, |vm, id| reply_to_request(vm, id, &reply));
                flow.finish(host, answered.unwrap_or_else(failed));
            }
            Some(Step::Pause) => panic!("the request seat holds a request, which this host cannot resume"),
            None => flow.answer = Some(failed()),
        }
        flow
    }

    /// The router takes the request: its first try starts with its headers, and its body follows.
    pub(crate) fn enter_router(&mut self, host: &Host) {
        let now = host.steady_nanos();
        let router = Router::new(host.route(), &mut self.headers.borrow_mut(), host.router_headers(), now);
        self.router = Some(router);
        self.start_try(host);
        if self.answer.is_some() || self.has_body {
            return;
        }
        self.has_body = true;
        let body = self.in_request(host, |vm, id| {
            go_on(vm.request_body(id)?);
            Ok(vm.stream(id).request_body.clone())
        });
        let Some(body) = body else { return self.fail_stream(host) };
        self.body = body;
        if let Some(index) = self.tries.iter().position(|one| one.phase == Phase::Sent) {
            self.send_body(host, index);
        }
    }

    fn router(&mut self) -> &mut Router {
        self.router.as_mut().expect("it has gone on to the router")
    }

    fn in_request<R>(&self, host: &Host, step: impl FnOnce(&mut Vm, u32) -> Result<R, Trap>) -> Option<R> {
        if host.incarnation(self.worker) != self.incarnation {
            return None;
        }
        host.run(Thread::Worker(self.worker), Seat::Request, |vm| step(vm, self.context))
    }

    /// Lets a try's context do something: the outer `None` if the VM has died, the inner one without an attempt seat.
    fn in_try<R>(
        &self,
        host: &Host,
        index: usize,
        step: impl FnOnce(&mut Vm, u32) -> Result<R, Trap>,
    ) -> Option<Option<R>> {
        let Some((context, incarnation)) = self.tries[index].context else { return Some(None) };
        if host.incarnation(Seat::Attempt.on(self.worker)) != incarnation {
            return None;
        }
        host.run(Thread::Worker(self.worker), Seat::Attempt, |vm| step(vm, context)).map(Some)
    }

    /// Whether a try of it has this context in the attempt seat.
    pub(crate) fn has_try(&self, worker: usize, incarnation: u64, context: u32) -> bool {
        worker == self.worker && self.position(context, incarnation).is_some()
    }

    fn position(&self, context: u32, incarnation: u64) -> Option<usize> {
        self.tries.iter().position(|one| one.context == Some((context, incarnation)) && one.phase != Phase::Over)
    }

    /// When its next timer fires.
    pub(crate) fn due(&self) -> Option<u64> {
        self.router.as_ref().filter(|_| self.answer.is_none())?.due()
    }

    /// Its next timer fires.
    pub(crate) fn on_timer(&mut self, host: &Host) {
        let effects = self.router().on_timer(host.steady_nanos());
        self.apply(host, effects);
    }

    fn apply(&mut self, host: &Host, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start => self.start_try(host),
                Effect::End(index) => self.end_try(host, index),
                Effect::Flag(flag) => self.info.borrow_mut().flags |= flag,
                Effect::Choose(index) => self.choose(index),
                Effect::Forward(index) => self.forward(host, index),
                Effect::Reply { reply, flags } => {
                    self.info.borrow_mut().flags |= flags;
                    self.reply(host, &reply, By::Envoy);
                }
                Effect::BreakOff { details, flags } => {
                    self.info.borrow_mut().flags |= flags;
                    self.break_off(host, &details);
                }
            }
        }
    }

    // Tries.

    fn start_try(&mut self, host: &Host) {
        let now = host.steady_nanos();
        let number = self.tries.len() + 1;
        self.info.borrow_mut().attempts = number as u64;
        let chosen = host.choose(number, &self.headers.borrow());
        let Some(address) = chosen else { return self.apply(host, vec![Router::no_host()]) };
        let upstream = Rc::new(RefCell::new(Upstream { address, local_address: None, transport_failure_reason: None }));
        self.info.borrow_mut().upstream = Some(Rc::clone(&upstream));
        let headers = Rc::clone(&self.headers);
        let index = self.router().start(&mut headers.borrow_mut(), now);
        self.tries.push(Try {
            context: None,
            upstream: Rc::clone(&upstream),
            phase: Phase::HeldRequest,
            began: host.elapsed(),
            sent: None,
            ended: None,
            calls: Calls::default(),
            response: Headers::default(),
            rest: Rest::default(),
        });
        let step = if host.has_attempt_seat() { self.begin_context(host, index) } else { Some(Step::Continue) };
        match step {
            None => self.fail_stream(host),
            Some(Step::Continue) => self.send(host, index),
            Some(Step::Reply(reply)) => self.reply(host, &reply, By::Holdfast),
            Some(Step::Pause) => {}
        }
        // The connection is made while the attempt seat looks at the request, unless the test says later that it was not.
        if self.tries[index].phase != Phase::Over {
            upstream.borrow_mut().local_address = Some("127.0.0.1:50000".to_owned());
        }
    }

    /// A try's headers come to the attempt seat; `None` if its VM is dead.
    fn begin_context(&mut self, host: &Host, index: usize) -> Option<Step> {
        let place = Seat::Attempt.on(self.worker);
        host.ensure_vm(place);
        let (headers, info) = (Rc::clone(&self.headers), Rc::clone(&self.info));
        let (body, is_grpc) = (self.body.clone(), self.is_grpc);
        let (id, step) = host.run(Thread::Worker(self.worker), Seat::Attempt, |vm| {
            let root = Host::root_of_tries(vm);
            let id = vm.begin(Stream::of(root, headers, body, is_grpc, info))?;
            let step = vm.request_headers(id)?;
            Ok((id, step))
        })?;
        self.tries[index].context = Some((id, host.incarnation(place)));
        Some(step)
    }

    /// The host gets a try's request.
    fn send(&mut self, host: &Host, index: usize) {
        self.router().sent(index);
        let headers = self.headers.borrow().clone();
        let one = &mut self.tries[index];
        (one.phase, one.sent) = (Phase::Sent, Some((host.elapsed(), headers)));
        if self.has_body {
            self.send_body(host, index);
        }
    }

    fn send_body(&mut self, host: &Host, index: usize) {
        let body = self.body.clone();
        let passed = self.in_try(host, index, |vm, id| {
            vm.stream(id).request_body = body;
            vm.request_body(id).map(go_on)
        });
        if passed.is_none() {
            self.fail_stream(host);
        }
    }

    fn end_try(&mut self, host: &Host, index: usize) {
        self.router().ended(index);
        if self.tries[index].phase == Phase::Over {
            return;
        }
        let stream = self.in_try(host, index, Vm::delete).flatten();
        let one = &mut self.tries[index];
        (one.phase, one.ended) = (Phase::Over, Some(host.elapsed()));
        one.calls = stream.map(|stream| stream.calls).unwrap_or_default();
    }

    /// All that is under way ends.
    fn end_tries(&mut self, host: &Host) {
        let Some(router) = &mut self.router else { return };
        for index in router.stop() {
            self.end_try(host, index);
        }
    }

    /// The host calls made for a try so far.
    pub(crate) fn calls_of(&self, host: &Host, index: usize) -> Calls {
        if self.tries[index].phase == Phase::Over {
            return self.tries[index].calls.clone();
        }
        self.in_try(host, index, |vm, id| Ok(vm.stream(id).calls.clone())).flatten().unwrap_or_default()
    }

    // What the hosts do.

    /// A try's host answers; with `is_whole` body and trailers come too.
    pub(crate) fn responds(&mut self, host: &Host, index: usize, response: Response, is_whole: bool) {
        let Response { headers, body, trailers } = response;
        let rest = Rest { body, trailers, has_come: is_whole };
        let ends = rest.is_empty() && is_whole;
        self.tries[index].rest = rest;
        self.info.borrow_mut().details = Some("via_upstream".to_owned());
        let passing = headers.clone();
        match self.in_try(host, index, |vm, id| vm.response_headers(id, passing, ends)) {
            None => self.fail_stream(host),
            Some(None) => self.route_headers(host, index, headers),
            Some(Some(Step::Continue)) => self.route_headers_of_context(host, index),
            Some(Some(Step::Reply(reply))) => self.reply(host, &reply, By::Holdfast),
            Some(Some(Step::Pause)) => self.tries[index].phase = Phase::HeldResponse,
        }
    }

    /// The router gets a try's response headers as the attempt seat has left them.
    fn route_headers_of_context(&mut self, host: &Host, index: usize) {
        match self.in_try(host, index, |vm, id| Ok(vm.stream(id).response_headers())) {
            Some(headers) => self.route_headers(host, index, headers.unwrap_or_default()),
            None => self.fail_stream(host),
        }
    }

    fn route_headers(&mut self, host: &Host, index: usize, headers: Headers) {
        let effects = self.router().on_headers(index, &headers, host.steady_nanos());
        self.tries[index].response = headers;
        self.apply(host, effects);
    }

    /// What is still to come of a try's response comes.
    pub(crate) fn ends(&mut self, host: &Host, index: usize) {
        self.tries[index].rest.has_come = true;
        if self.tries[index].phase == Phase::Streaming {
            self.rest(host, index);
        }
    }

    /// A try's stream is reset.
    pub(crate) fn resets(&mut self, host: &Host, index: usize, reset: Reset) {
        if reset == Reset::ConnectFailure {
            let mut upstream = self.tries[index].upstream.borrow_mut();
            upstream.local_address = None;
            upstream.transport_failure_reason = reset.transport_failure().map(str::to_owned);
            drop(upstream);
            self.tries[index].sent = None;
        }
        let effects = self.router().on_reset(index, reset, host.steady_nanos());
        self.apply(host, effects);
    }

    /// The client goes away.
    pub(crate) fn client_leaves(&mut self, host: &Host) {
        let details = "downstream_remote_disconnect";
        let mut info = self.info.borrow_mut();
        info.flags |= flags::DOWNSTREAM_CONNECTION_TERMINATION;
        info.details = Some(details.to_owned());
        drop(info);
        let so_far = self.so_far(host, details);
        self.finish(host, so_far);
    }

    // What the attempt seat does outside of a try's own callbacks.

    /// The attempt seat lets a try go on, or replies to it.
    pub(crate) fn act(&mut self, host: &Host, context: u32, action: Action) {
        let incarnation = host.incarnation(Seat::Attempt.on(self.worker));
        let Some(index) = self.position(context, incarnation) else { return };
        match action {
            Action::Reply(reply) => self.reply(host, &reply, By::Holdfast),
            Action::Resume(Direction::Request) => self.send(host, index),
            Action::Resume(Direction::Response) => {
                self.route_headers_of_context(host, index);
                self.rest_after_deletion(host, index);
            }
        }
    }

    /// What Envoy has kept back of a response comes by the attempt seat even if the router has deleted the try meanwhile.
    fn rest_after_deletion(&mut self, host: &Host, index: usize) {
        let Try { phase, rest, .. } = &self.tries[index];
        if *phase == Phase::Over && self.answer.is_none() && rest.has_come {
            let (body, trailers) = (rest.body.len(), rest.trailers.as_ref().map_or(0, Headers::len));
            if self.in_try(host, index, |vm, id| vm.rest_after_deletion(id, body, trailers)).is_none() {
                self.fail_stream(host);
            }
        }
    }

    // What the client gets.

    /// A try is the one that the client gets the response of, and the request's facts are its facts from here on.
    fn choose(&mut self, index: usize) {
        let one = &mut self.tries[index];
        one.phase = Phase::Streaming;
        let mut info = self.info.borrow_mut();
        info.upstream = Some(Rc::clone(&one.upstream));
        info.code = Some(status_of(&one.response));
        info.details = Some("via_upstream".to_owned());
    }

    /// The response of a try goes on to the request seat.
    fn forward(&mut self, host: &Host, index: usize) {
        let elapsed = self.router().elapsed(host.steady_nanos());
        let mut headers = self.tries[index].response.clone();
        if host.router_headers() {
            headers.set("x-envoy-upstream-service-time", elapsed.as_millis().to_string());
        }
        let ends = self.tries[index].rest.is_empty() && self.tries[index].rest.has_come;
        if ends {
            self.end_try(host, index);
        }
        match self.in_request(host, |vm, id| vm.response_headers(id, headers, ends)) {
            None => self.finish(host, failed()),
            Some(Step::Continue) if ends => self.finish_upstream(host),
            Some(Step::Continue) if self.tries[index].rest.has_come => self.rest(host, index),
            Some(Step::Continue) => {}
            Some(Step::Reply(reply)) => {
                self.info.borrow_mut().details = Some(reply.details.clone());
                self.end_tries(host);
                let answered = self.in_request(host, |vm, id| Ok(replace(vm, id, &reply)));
                self.finish(host, answered.unwrap_or_else(failed));
            }
            Some(Step::Pause) => panic!("the request seat holds a response, which this host cannot resume"),
        }
    }

    /// Body and trailers of a try's response go on to the request seat.
    fn rest(&mut self, host: &Host, index: usize) {
        let Rest { body, trailers, .. } = std::mem::take(&mut self.tries[index].rest);
        let ends = trailers.is_none();
        if !body.is_empty() || ends {
            let passed = self.in_try(host, index, |vm, id| {
                go_on(vm.response_body(id, &body, ends)?);
                Ok(std::mem::take(&mut vm.stream(id).response_body))
            });
            let Some(passed) = passed else { return self.fail_stream(host) };
            if ends {
                self.end_try(host, index);
            }
            let body = passed.unwrap_or(body);
            if self.in_request(host, |vm, id| vm.response_body(id, &body, ends).map(go_on)).is_none() {
                return self.break_off(host, FAIL_STREAM);
            }
        }
        if let Some(trailers) = trailers {
            let passing = trailers.clone();
            let passed = self.in_try(host, index, |vm, id| {
                go_on(vm.response_trailers(id, passing)?);
                Ok(vm.stream(id).trailers.headers.borrow().clone())
            });
            let Some(passed) = passed else { return self.fail_stream(host) };
            self.end_try(host, index);
            let trailers = passed.unwrap_or(trailers);
            if self.in_request(host, |vm, id| vm.response_trailers(id, trailers).map(go_on)).is_none() {
                return self.break_off(host, FAIL_STREAM);
            }
        }
        self.finish_upstream(host);
    }

    fn finish_upstream(&mut self, host: &Host) {
        let answered = self.in_request(host, |vm, id| {
            let stream = vm.stream(id);
            let (headers, body) = (stream.response_headers(), std::mem::take(&mut stream.response_body));
            Ok(answer(By::Upstream, status_of(&headers), headers, body, "via_upstream"))
        });
        self.finish(host, answered.unwrap_or_else(failed));
    }

    /// A local reply, which ends everything else.
    fn reply(&mut self, host: &Host, reply: &LocalReply, by: By) {
        if self.router.as_ref().is_some_and(Router::has_response) {
            return self.break_off(host, &reply.details);
        }
        self.info.borrow_mut().details = Some(reply.details.clone());
        self.end_tries(host);
        let answered = self.in_request(host, |vm, id| local_reply(vm, id, reply, 0, by));
        self.finish(host, answered.unwrap_or_else(failed));
    }

    /// A VM that was to see a part of it is dead.
    fn fail_stream(&mut self, host: &Host) {
        let reply = LocalReply {
            status: 503,
            details: FAIL_STREAM.to_owned(),
            body: Vec::new(),
            headers: Headers::default(),
            grpc_status: 14,
        };
        self.reply(host, &reply, By::Envoy);
    }

    /// The client gets no more than it has.
    fn break_off(&mut self, host: &Host, details: &str) {
        self.info.borrow_mut().details = Some(details.to_owned());
        self.end_tries(host);
        let so_far = self.so_far(host, details);
        self.finish(host, so_far);
    }

    /// What the client has got by now: nothing, or the headers of a response.
    fn so_far(&self, host: &Host, details: &str) -> Answer {
        let headers = self.in_request(host, |vm, id| Ok(vm.stream(id).response_headers())).unwrap_or_default();
        if headers.is_empty() {
            return answer(By::Nobody, 0, headers, Vec::new(), details);
        }
        answer(By::Upstream, status_of(&headers), headers, Vec::new(), details)
    }

    /// Logs and ends it, and then what is still under way.
    fn finish(&mut self, host: &Host, answered: Answer) {
        // The access log is written with the module's own, before the context is deleted.
        let logged = self.in_request(host, Vm::log);
        let access_log = self.info.borrow().access_log();
        let calls = logged.and_then(|()| self.in_request(host, Vm::delete)).map(|stream| stream.calls);
        self.end_tries(host);
        assert!(self.tries.iter().all(|one| one.phase == Phase::Over), "every try ends with its request");
        let flags = self.info.borrow().flags;
        self.answer = Some(Answer { access_log, flags, calls: calls.unwrap_or_default(), ..answered });
    }
}
