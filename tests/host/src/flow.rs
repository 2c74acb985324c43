//! One client's request on its way through the request seat, the router, and the attempt seat; or a call that the module
//! makes itself, which goes the same way but for the request seat.
//!
//! Which callback comes before which, and what the properties say in it, was recorded on Envoy 1.40. What is not plain:
//! * An attempt that answers for good is deleted before the last piece of its response reaches the request seat: before the
//!   headers, if there is nothing else.
//! * A local reply first deletes all attempts, with its details already there and its status not yet. Whoever makes it: the
//!   attempt seat, Envoy, or the request seat in place of a response.
//! * When the client leaves, the request seat logs, and the access log is written, before the attempts are deleted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::caller::{Asking, Caller, Client};
use crate::calls::Calls;
use crate::clock::nanos;
use crate::clusters::Overrides;
use crate::delivery::{Delivery, Progress};
use crate::exchange::{Answer, By, FAIL_STREAM, failed, go_on, reply_to_request, status_of};
use crate::flags;
use crate::headers::Headers;
use crate::host::Host;
use crate::message::{Request, Response};
use crate::reaction::{Arrival, Reaction, What};
use crate::reset::Reset;
use crate::route::Route;
use crate::router::{Effect, Router};
use crate::seat::Seat;
use crate::stream::{Direction, LocalReply, SharedHeaders, Stream};
use crate::stream_info::{SharedInfo, StreamInfo, Upstream};
use crate::thread::Thread;
use crate::vm::{Action, Step, Trap, Vm};

/// Where an attempt is.
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
    /// Whether there is a body although that is empty.
    has_body: bool,
    /// Whether it is there already, or the test says when.
    has_come: bool,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.body.is_empty() && self.trailers.is_none() && !self.has_body
    }
}

/// The body of a request, as far as it has come past the request seat. Envoy keeps it for attempts to come.
#[derive(Debug, Clone, Default)]
struct Upload {
    body: Vec<u8>,
    /// How many trailers end it, if any do.
    trailers: Option<usize>,
    /// Whether all of it has come.
    is_whole: bool,
}

impl Upload {
    /// Of a request that ends with its headers, or that has all of its body from the start.
    fn whole(body: Vec<u8>) -> Self {
        Upload { body, trailers: None, is_whole: true }
    }

    /// Whether its last piece is the end of the request.
    fn ends_with_body(&self) -> bool {
        self.is_whole && self.trailers.is_none()
    }
}

/// One attempt.
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
    /// What its host does, and when.
    reaction: Option<(u64, Reaction)>,
}

/// A call that the module makes, as a test sees it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) thread: Thread,
    pub(crate) seat: Seat,
    pub(crate) cluster: Rc<str>,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Duration,
    pub(crate) began: Duration,
}

/// One client's request, or a call of the module.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Its number in the order in which all came.
    pub(crate) number: u64,
    pub(crate) thread: Thread,
    caller: Caller,
    call: Option<Call>,
    /// The name of its cluster, and the place of the one that chooses.
    cluster: Rc<str>,
    place: usize,
    overrides: Overrides,
    pub(crate) info: SharedInfo,
    /// The request's headers, on which router and attempt seat leave their marks from try to try.
    headers: SharedHeaders,
    upload: Upload,
    /// What comes of the body together with the headers, and whether that is all.
    first: Option<(Vec<u8>, bool)>,
    is_grpc: bool,
    router: Option<Router>,
    pub(crate) tries: Vec<Try>,
    pub(crate) answer: Option<Answer>,
}

impl Flow {
    /// The client's headers come to the request seat.
    pub(crate) fn begin(host: &Host, worker: usize, request: &Request) -> Flow {
        let thread = Thread::Worker(worker);
        let begun = host.run(thread, Seat::Request, |vm| {
            let stream = Stream::new(host.root_of(vm, request.listener), request);
            let (headers, info) = (Rc::clone(&stream.request.headers), Rc::clone(&stream.info));
            let id = vm.begin(stream)?;
            let step = vm.request_headers(id)?;
            Ok((id, headers, info, step))
        });
        let (context, headers, info, step) = match begun {
            Some((id, headers, info, step)) => (id, headers, info, Some(step)),
            None => {
                let headers = SharedHeaders::default();
                let info = StreamInfo::new(request, &headers);
                (0, headers, info, None)
            }
        };
        let delivery = Delivery::new(host.sees_held_bodies());
        let client = Client { thread, context, incarnation: host.incarnation(worker), delivery };
        let (place, cluster) = host.cluster_of(info.borrow().cluster());
        let mut flow = Flow {
            number: 0,
            thread,
            caller: Caller::Client(client),
            call: None,
            cluster,
            place,
            overrides: Overrides::default(),
            info,
            headers,
            upload: Upload { is_whole: request.has_only_headers(), ..Upload::default() },
            first: (!request.has_only_headers()).then(|| (request.body.clone(), !request.is_unfinished)),
            is_grpc: request.is_grpc(),
            router: None,
            tries: Vec::new(),
            answer: None,
        };
        match step {
            Some(Step::Continue) => {}
            Some(Step::Reply(reply)) => {
                let answered = flow.client().run(host, |vm, id| reply_to_request(vm, id, &reply));
                flow.finish(host, answered.unwrap_or_else(failed));
            }
            Some(Step::Pause) => panic!("the request seat holds a request, which this host cannot resume"),
            None => flow.answer = Some(failed()),
        }
        flow
    }

    /// The module makes a call. Source: Envoy, `Context::httpCall` and `AsyncStreamImpl::sendHeaders`.
    pub(crate) fn of_call(place: usize, call: Call, asking: Asking) -> Flow {
        let mut headers = call.headers.clone();
        if !call.body.is_empty() {
            headers.set("content-length", call.body.len().to_string());
        }
        headers.set("x-envoy-internal", "true");
        headers.set("x-forwarded-for", "127.0.0.1");
        Flow {
            number: 0,
            thread: call.thread,
            cluster: Rc::clone(&call.cluster),
            place,
            overrides: Overrides::default(),
            info: StreamInfo::of_call(&call.cluster),
            headers: Rc::new(RefCell::new(headers)),
            upload: Upload::whole(call.body.clone()),
            first: None,
            is_grpc: asking.is_grpc,
            router: None,
            tries: Vec::new(),
            answer: None,
            caller: Caller::Module(asking),
            call: Some(call),
        }
    }

    /// The call that it is, if it is one.
    pub(crate) fn call(&self) -> Option<Call> {
        self.call.clone()
    }

    pub(crate) fn asking(&self) -> Option<&Asking> {
        match &self.caller {
            Caller::Module(asking) => Some(asking),
            Caller::Client(_) => None,
        }
    }

    /// What the module is to be told of a call that is over: of one that was given up, nothing.
    pub(crate) fn take_call_answer(&mut self) -> Option<Asking> {
        let Caller::Module(Asking { seat, incarnation, root, token, is_grpc, answer }) = &mut self.caller else {
            return None;
        };
        let (seat, incarnation, root, token, is_grpc) = (*seat, *incarnation, *root, *token, *is_grpc);
        let is_wanted = self.call.is_some();
        is_wanted.then(|| Asking { seat, incarnation, root, token, is_grpc, answer: std::mem::take(answer) })
    }

    /// The router takes a client's request: its first attempt starts with its headers, and its body follows.
    pub(crate) fn enter_router(&mut self, host: &Host) {
        self.enter(host, host.route());
    }

    /// The router takes a call.
    pub(crate) fn enter_router_as_call(&mut self, host: &Host) {
        let timeout = self.call.as_ref().map(|call| call.timeout).unwrap_or_default();
        self.enter(host, &Route::new().timeout(timeout));
    }

    fn enter(&mut self, host: &Host, route: &Route) {
        let now = host.steady_nanos();
        let mut router = Router::new(route, &mut self.headers.borrow_mut(), host.router_headers());
        if self.first.is_none() {
            router.request_complete(now);
        }
        self.router = Some(router);
        self.start_try(host);
        if let Some((body, is_whole)) = self.first.take() {
            self.uploads(host, &body, is_whole);
        }
    }

    /// A piece of the client's body comes, and with `ends` it is the last and there are no trailers.
    pub(crate) fn uploads(&mut self, host: &Host, piece: &[u8], ends: bool) {
        if self.answer.is_some() || self.upload.is_whole {
            return;
        }
        let passed = self.client().run(host, |vm, id| {
            go_on(vm.request_body(id, piece, ends)?);
            Ok(std::mem::take(&mut vm.stream(id).request_body))
        });
        let Some(piece) = passed else { return self.fail_stream(host) };
        self.upload.body.extend_from_slice(&piece);
        self.pass_on(host, |vm, id| vm.request_body(id, &piece, ends));
        if ends {
            self.upload_ends(host);
        }
    }

    /// The client ends its body with so many trailers.
    pub(crate) fn upload_ends_with(&mut self, host: &Host, trailers: usize) {
        if self.answer.is_some() || self.upload.is_whole {
            return;
        }
        if self.client().run(host, |vm, id| vm.request_trailers(id, trailers).map(go_on)).is_none() {
            return self.fail_stream(host);
        }
        self.upload.trailers = Some(trailers);
        self.pass_on(host, |vm, id| vm.request_trailers(id, trailers));
        self.upload_ends(host);
    }

    /// What comes of the body goes on to the attempts that have been sent: for those that the attempt seat holds Envoy keeps it.
    fn pass_on(&mut self, host: &Host, step: impl Fn(&mut Vm, u32) -> Result<Step, Trap>) {
        for index in 0..self.tries.len() {
            let is_sent = matches!(self.tries[index].phase, Phase::Sent | Phase::HeldResponse | Phase::Streaming);
            if is_sent && self.in_try(host, index, |vm, id| step(vm, id).map(go_on)).is_none() {
                return self.fail_stream(host);
            }
        }
    }

    /// All of the request has come: from now on the router's times run.
    fn upload_ends(&mut self, host: &Host) {
        self.upload.is_whole = true;
        if self.answer.is_none() {
            let now = host.steady_nanos();
            self.router().request_complete(now);
        }
    }

    fn router(&mut self) -> &mut Router {
        self.router.as_mut().expect("it has gone on to the router")
    }

    fn client(&self) -> &Client {
        match &self.caller {
            Caller::Client(client) => client,
            Caller::Module(_) => panic!("a call does not come by the request seat"),
        }
    }

    /// Whether its attempts come by the attempt seat.
    fn has_attempt_seat(&self, host: &Host) -> bool {
        host.has_attempt_seat() && host.clusters().has_attempt_seat(self.place)
    }

    /// Lets an attempt's context do something: the outer `None` if the VM has died, the inner one without an attempt seat.
    fn in_try<R>(
        &self,
        host: &Host,
        index: usize,
        step: impl FnOnce(&mut Vm, u32) -> Result<R, Trap>,
    ) -> Option<Option<R>> {
        let Some((context, incarnation)) = self.tries[index].context else { return Some(None) };
        if host.incarnation_on(self.thread, Seat::Attempt) != incarnation {
            return None;
        }
        host.run(self.thread, Seat::Attempt, |vm| step(vm, context)).map(Some)
    }

    /// Whether an attempt of it has this context in the attempt seat.
    pub(crate) fn has_try(&self, thread: Thread, incarnation: u64, context: u32) -> bool {
        thread == self.thread && self.position(context, incarnation).is_some()
    }

    /// Whether this is its context in the request seat.
    pub(crate) fn has_client(&self, thread: Thread, incarnation: u64, context: u32) -> bool {
        let is_it = |client: &Client| client.incarnation == incarnation && client.context == context;
        thread == self.thread && matches!(&self.caller, Caller::Client(client) if is_it(client))
    }

    fn position(&self, context: u32, incarnation: u64) -> Option<usize> {
        self.tries.iter().position(|one| one.context == Some((context, incarnation)) && one.phase != Phase::Over)
    }

    /// When its next timer fires.
    pub(crate) fn due(&self) -> Option<u64> {
        let router = self.router.as_ref().filter(|_| self.answer.is_none())?;
        router.due().into_iter().chain(self.next_reaction().map(|(due, _)| due)).min()
    }

    /// When the next of its hosts does something, and in which attempt.
    fn next_reaction(&self) -> Option<(u64, usize)> {
        let tries = self.tries.iter().enumerate();
        tries.filter_map(|(index, one)| Some((one.reaction.as_ref()?.0, index))).min()
    }

    /// Its next timer fires, or a host does what it does by itself.
    pub(crate) fn on_timer(&mut self, host: &Host) {
        let now = host.steady_nanos();
        let reaction = self.next_reaction().filter(|(due, _)| Some(*due) == self.due() && *due <= now);
        if let Some((_, index)) = reaction {
            return self.react(host, index);
        }
        let effects = self.router().on_timer(now);
        self.apply(host, effects);
    }

    fn react(&mut self, host: &Host, index: usize) {
        let Some((_, reaction)) = self.tries[index].reaction.take() else { return };
        match reaction.what {
            What::Responds(response) => self.responds(host, index, response, true),
            What::Fails(reset) => self.resets(host, index, reset),
            // Nothing comes of it.
            What::IsUnreached => {}
            What::BreaksOff => {
                self.responds(host, index, Response::status(200), false);
                if self.tries[index].phase != Phase::Over {
                    self.resets(host, index, Reset::Remote);
                }
            }
        }
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

    // Attempts.

    fn start_try(&mut self, host: &Host) {
        let now = host.steady_nanos();
        let number = self.tries.len() + 1;
        self.info.borrow_mut().attempts = number as u64;
        if number > 1 && host.route().chooses_again && self.call.is_none() {
            self.info.borrow_mut().choose_again();
            let (place, cluster) = host.cluster_of(self.info.borrow().cluster());
            (self.place, self.cluster) = (place, cluster);
        }
        let chosen = {
            let (clusters, headers) = (host.clusters(), self.headers.borrow());
            clusters.choose(self.place, self.thread, number, &headers, &mut self.overrides)
        };
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
            reaction: None,
        });
        let step = if self.has_attempt_seat(host) { self.begin_context(host, index) } else { Some(Step::Continue) };
        // The connection is made while the attempt seat looks at the request, unless it turns out that it was not.
        let connect = || upstream.borrow_mut().local_address = Some("127.0.0.1:50000".to_owned());
        match step {
            None => self.fail_stream(host),
            Some(Step::Continue) => {
                connect();
                self.send(host, index);
            }
            Some(Step::Reply(reply)) => self.reply(host, &reply, By::Holdfast),
            Some(Step::Pause) => connect(),
        }
    }

    /// An attempt's headers come to the attempt seat; `None` if its VM is dead.
    fn begin_context(&mut self, host: &Host, index: usize) -> Option<Step> {
        host.ensure_vm(self.thread, Seat::Attempt);
        let (headers, info) = (Rc::clone(&self.headers), Rc::clone(&self.info));
        let is_grpc = self.is_grpc;
        let has_only_headers = self.upload.ends_with_body() && self.upload.body.is_empty();
        let (id, step) = host.run(self.thread, Seat::Attempt, |vm| {
            let root = Host::root_of_tries(vm);
            let id = vm.begin(Stream::of(root, headers, has_only_headers, is_grpc, info))?;
            let step = vm.request_headers(id)?;
            Ok((id, step))
        })?;
        self.tries[index].context = Some((id, host.incarnation_on(self.thread, Seat::Attempt)));
        Some(step)
    }

    /// The host gets an attempt's request.
    fn send(&mut self, host: &Host, index: usize) {
        self.router().sent(index);
        let headers = self.headers.borrow().clone();
        let one = &mut self.tries[index];
        (one.phase, one.sent) = (Phase::Sent, Some((host.elapsed(), headers)));
        self.send_body(host, index);
        if self.call.is_none() {
            host.count_served(&self.tries[index].upstream.borrow().address, 1);
        }
        self.arrives(host, index);
    }

    /// The host may know what it does with an attempt.
    fn arrives(&mut self, host: &Host, index: usize) {
        let one = &mut self.tries[index];
        let Some((at, headers)) = one.sent.as_ref().filter(|_| one.phase == Phase::Sent) else { return };
        let upstream = Rc::clone(&one.upstream);
        let (cluster, number, thread) = (&*self.cluster, index + 1, self.thread);
        let reaction = {
            let upstream = upstream.borrow();
            let arrival = Arrival { cluster, host: &upstream.address, headers, number, thread, at: *at };
            host.reaction(&arrival, self.call.is_some())
        };
        if reaction.as_ref().is_some_and(|reaction| matches!(reaction.what, What::IsUnreached)) {
            upstream.borrow_mut().local_address = None;
            return self.router().is_unreached(index);
        }
        one.reaction = reaction.map(|reaction| (host.steady_nanos() + nanos(reaction.after), reaction));
    }

    /// What has come of the body comes to an attempt, in one piece.
    fn send_body(&mut self, host: &Host, index: usize) {
        let Upload { body, trailers, .. } = self.upload.clone();
        let ends = self.upload.ends_with_body();
        let passed = self.in_try(host, index, |vm, id| {
            if !vm.stream(id).has_only_headers {
                go_on(vm.request_body(id, &body, ends)?);
                trailers.map_or(Ok(()), |trailers| vm.request_trailers(id, trailers).map(go_on))?;
            }
            Ok(())
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
        (one.phase, one.ended, one.reaction) = (Phase::Over, Some(host.elapsed()), None);
        one.calls = stream.map(|stream| stream.calls).unwrap_or_default();
    }

    /// All that is under way ends.
    fn end_tries(&mut self, host: &Host) {
        let Some(router) = &mut self.router else { return };
        for index in router.stop() {
            self.end_try(host, index);
        }
    }

    /// The host calls made for an attempt so far.
    pub(crate) fn calls_of(&self, host: &Host, index: usize) -> Calls {
        if self.tries[index].phase == Phase::Over {
            return self.tries[index].calls.clone();
        }
        self.in_try(host, index, |vm, id| Ok(vm.stream(id).calls.clone())).flatten().unwrap_or_default()
    }

    // What the hosts do.

    /// An attempt's host answers; with `is_whole` body and trailers come too.
    pub(crate) fn responds(&mut self, host: &Host, index: usize, response: Response, is_whole: bool) {
        let Response { headers, body, trailers, has_body } = response;
        let rest = Rest { body, trailers, has_body, has_come: is_whole };
        let ends = rest.is_empty() && is_whole;
        (self.tries[index].rest, self.tries[index].reaction) = (rest, None);
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

    /// The router gets an attempt's response headers as the attempt seat has left them.
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

    /// What is still to come of an attempt's response comes.
    pub(crate) fn ends(&mut self, host: &Host, index: usize) {
        self.tries[index].rest.has_come = true;
        if self.tries[index].phase == Phase::Streaming {
            self.rest(host, index);
        }
    }

    /// An attempt's stream is reset.
    pub(crate) fn resets(&mut self, host: &Host, index: usize, reset: Reset) {
        if matches!(reset, Reset::ConnectFailure | Reset::Overflow) {
            let shared = Rc::clone(&self.tries[index].upstream);
            let mut upstream = shared.borrow_mut();
            upstream.local_address = None;
            upstream.transport_failure_reason = reset.transport_failure().map(str::to_owned);
            if self.tries[index].sent.take().is_some() && self.call.is_none() {
                host.count_served(&upstream.address, -1);
            }
            drop(upstream);
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
        let so_far = self.caller.so_far(host, details);
        self.finish(host, so_far);
    }

    /// Nobody waits for a call any more: Envoy resets it.
    pub(crate) fn give_up(&mut self, host: &Host) {
        self.call = None;
        self.break_off(host, "cancelled");
    }

    // What the seats do outside of a request's or an attempt's own callbacks.

    /// The request seat lets the response go, or replies in its place.
    pub(crate) fn act_for_client(&mut self, host: &Host, action: Action) {
        let progress = match action {
            Action::Resume(Direction::Response) => self.caller.resume(host),
            Action::Reply(reply) => Some(Progress::Replied(reply)),
            Action::Resume(Direction::Request) => panic!("the request has gone on"),
        };
        self.delivered(host, progress);
    }

    /// The attempt seat lets an attempt go on, or replies to it.
    pub(crate) fn act(&mut self, host: &Host, context: u32, action: Action) {
        let incarnation = host.incarnation_on(self.thread, Seat::Attempt);
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

    /// What Envoy has kept back of a response comes by the attempt seat even if the router has deleted the attempt meanwhile.
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

    /// An attempt is the one that the client gets the response of, and the request's facts are its facts from here on.
    fn choose(&mut self, index: usize) {
        let one = &mut self.tries[index];
        one.phase = Phase::Streaming;
        let mut info = self.info.borrow_mut();
        info.upstream = Some(Rc::clone(&one.upstream));
        info.code = Some(status_of(&one.response));
        info.details = Some("via_upstream".to_owned());
    }

    /// The response of an attempt goes on to the request seat.
    fn forward(&mut self, host: &Host, index: usize) {
        let elapsed = self.router().elapsed(host.steady_nanos());
        let mut headers = self.tries[index].response.clone();
        if let Some(elapsed) = elapsed.filter(|_| host.router_headers()) {
            headers.set("x-envoy-upstream-service-time", elapsed.as_millis().to_string());
        }
        let ends = self.tries[index].rest.is_empty() && self.tries[index].rest.has_come;
        if ends {
            self.end_try(host, index);
        }
        let progress = self.caller.response_headers(host, headers, ends);
        if progress.is_none() {
            return self.finish(host, failed());
        }
        if self.delivered(host, progress) && self.tries[index].rest.has_come {
            self.rest(host, index);
        }
    }

    /// A part of the response has come to the request seat. Whether more of it can come.
    fn delivered(&mut self, host: &Host, progress: Option<Progress>) -> bool {
        match progress {
            Some(Progress::Open | Progress::Held) => return true,
            Some(Progress::Whole) => self.finish_upstream(host),
            Some(Progress::Replied(reply)) => {
                self.info.borrow_mut().details = Some(reply.details.clone());
                self.end_tries(host);
                let answered = self.caller.replaced(host, &reply);
                self.finish(host, answered);
            }
            // Nobody lets go what a dead VM holds, and what still comes of it is kept.
            None if self.caller.is_held() => return true,
            None => self.break_off(host, FAIL_STREAM),
        }
        false
    }

    /// The host's answer is complete, and with it the router's work.
    fn complete(&mut self, host: &Host, index: usize) {
        let sent = self.tries[index].sent.as_ref().map_or(Duration::ZERO, |(sent, _)| *sent);
        self.info.borrow_mut().backend_latency = Some(nanos(host.elapsed() - sent));
        self.end_try(host, index);
        let others = self.router().stop();
        assert!(others.is_empty(), "the one that answers is the only one: {others:?}");
    }

    /// Body and trailers of an attempt's response go on to the request seat.
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
                self.complete(host, index);
            }
            let progress = self.caller.response_body(host, passed.unwrap_or(body), ends);
            if !self.delivered(host, progress) {
                return;
            }
        }
        if let Some(trailers) = trailers {
            let passing = trailers.clone();
            let passed = self.in_try(host, index, |vm, id| {
                go_on(vm.response_trailers(id, passing)?);
                Ok(vm.stream(id).trailers.headers.borrow().clone())
            });
            let Some(passed) = passed else { return self.fail_stream(host) };
            self.complete(host, index);
            let progress = self.caller.response_trailers(host, passed.unwrap_or(trailers));
            self.delivered(host, progress);
        }
    }

    fn finish_upstream(&mut self, host: &Host) {
        let answered = self.caller.responded(host);
        self.finish(host, answered);
    }

    /// A local reply, which ends everything else.
    fn reply(&mut self, host: &Host, reply: &LocalReply, by: By) {
        if self.router.as_ref().is_some_and(Router::has_response) {
            return self.break_off(host, &reply.details);
        }
        self.info.borrow_mut().details = Some(reply.details.clone());
        self.end_tries(host);
        let answered = self.caller.local_reply(host, reply, by);
        self.finish(host, answered);
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
        let so_far = self.caller.so_far(host, details);
        self.finish(host, so_far);
    }

    /// Logs and ends it, and then what is still under way.
    fn finish(&mut self, host: &Host, answered: Answer) {
        let answered = self.caller.finish(host, &self.info, answered);
        self.end_tries(host);
        assert!(self.tries.iter().all(|one| one.phase == Phase::Over), "every try ends with its request");
        let flags = self.info.borrow().flags;
        self.answer = Some(Answer { flags, ..answered });
    }
}
