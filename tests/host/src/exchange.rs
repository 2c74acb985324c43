//! One request from the client's first byte to the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::calls::Calls;
use crate::delivery::{Delivery, Progress};
use crate::flags;
use crate::headers::Headers;
use crate::host::Host;
use crate::message::{Local, Request, Response};
use crate::seat::Seat;
use crate::stream::{Direction, LocalReply, Stream};
use crate::thread::Thread;
use crate::vm::{Action, Step, Trap, Vm};

/// Who made an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The module.
    Holdfast,
    /// The upstream host.
    Upstream,
    /// Envoy itself.
    Envoy,
    /// Nobody: the client was gone before there was one.
    Nobody,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub by: By,
    /// The status that the client got; 0 if it got none.
    pub status: u16,
    /// The headers that the client got.
    pub headers: Headers,
    /// The body that the client got.
    pub body: Vec<u8>,
    /// The trailers that the client got.
    pub trailers: Headers,
    /// Envoy's `response.code_details`.
    pub details: String,
    /// Envoy's `response.flags`.
    pub flags: u64,
    /// The filter state `wasm.holdfast`, as an access log shows it.
    pub access_log: Option<String>,
    /// The host calls that the module made for this request; none are known of one whose VM died.
    pub calls: Calls,
}

impl Answer {
    /// A header of it, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The body, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the module turned the request away, with a fallback or without.
    pub fn is_holdfasts(&self) -> bool {
        self.by == By::Holdfast
    }
}

/// What the module made of a request.
#[derive(Debug)]
pub enum Exchange {
    /// It went on to the upstream host.
    Passed(Pending),
    /// It was answered without one.
    Answered(Answer),
}

impl Exchange {
    /// The request on its way to the host; a panic if it did not get there.
    #[track_caller]
    pub fn passed(self) -> Pending {
        match self {
            Exchange::Passed(pending) => pending,
            Exchange::Answered(answer) => panic!("the request should have passed, but: {answer:?}"),
        }
    }

    /// The answer without a host; a panic if the request passed.
    #[track_caller]
    pub fn answered(self) -> Answer {
        match self {
            Exchange::Answered(answer) => answer,
            Exchange::Passed(_) => panic!("the request should have been answered, but it passed"),
        }
    }

    /// Whether it passed.
    pub fn has_passed(&self) -> bool {
        matches!(self, Exchange::Passed(_))
    }

    /// The end of it, with `response` if it passed.
    pub fn with(self, response: Response) -> Answer {
        match self {
            Exchange::Passed(pending) => pending.respond(response),
            Exchange::Answered(answer) => answer,
        }
    }

    pub(crate) fn begin(host: &Host, worker: usize, request: Request) -> Exchange {
        let begun = host.run(Thread::Worker(worker), Seat::Request, |vm| {
            let root = host.root_of(vm, request.listener);
            let id = vm.begin(Stream::new(root, &request))?;
            let mut step = vm.request_headers(id)?;
            if matches!(step, Step::Continue) {
                step = vm.request_body(id, &request.body, !request.is_unfinished && !request.has_only_headers())?;
            }
            match step {
                Step::Continue => Ok((id, None)),
                Step::Reply(reply) => Ok((id, Some(reply_to_request(vm, id, &reply)?))),
                Step::Pause => panic!("the module holds a request, which this host cannot resume"),
            }
        });
        let pending = |id| Pending { host: host.clone(), worker, incarnation: host.incarnation(worker), id };
        match begun {
            None => Exchange::Answered(failed()),
            Some((id, None)) => Exchange::Passed(pending(id)),
            Some((id, Some(answer))) => Exchange::Answered(pending(id).finish(answer)),
        }
    }
}

/// `response.code_details` of a request that a dead VM was to see.
pub(crate) const FAIL_STREAM: &str = "wasm_fail_stream";

/// Envoy's answer to a request whose VM is dead. Source: Envoy, `Context::failStream`.
pub(crate) fn failed() -> Answer {
    Answer {
        by: By::Envoy,
        status: 503,
        headers: [(":status", "503")].into_iter().collect(),
        body: Vec::new(),
        trailers: Headers::default(),
        details: FAIL_STREAM.to_owned(),
        flags: 0,
        access_log: None,
        calls: Calls::default(),
    }
}

pub(crate) fn answer(by: By, status: u16, headers: Headers, body: Vec<u8>, details: &str) -> Answer {
    let details = details.to_owned();
    let (trailers, calls) = (Headers::default(), Calls::default());
    Answer { by, status, headers, body, trailers, details, flags: 0, access_log: None, calls }
}

/// Sends the module's reply to a request: it comes by the module again, as a response.
pub(crate) fn reply_to_request(vm: &mut Vm, id: u32, reply: &LocalReply) -> Result<Answer, Trap> {
    local_reply(vm, id, reply, 0, By::Holdfast)
}

/// Sends a reply that Envoy makes, which passes the filters like a response of a host.
pub(crate) fn local_reply(vm: &mut Vm, id: u32, reply: &LocalReply, flags: u64, by: By) -> Result<Answer, Trap> {
    let stream = vm.stream(id);
    let (headers, body) = stream.prepare(reply);
    let mut info = stream.info.borrow_mut();
    info.code = Some(status_of(&headers));
    info.details = Some(reply.details.clone());
    info.flags |= flags;
    drop(info);
    let (mut delivery, ends) = (Delivery::default(), body.is_empty());
    let mut progress = delivery.headers(vm, id, headers, ends)?;
    if progress == Progress::Open {
        progress = delivery.body(vm, id, &body, true)?;
    }
    Ok(match progress {
        Progress::Whole => delivery.answer(vm, id, by, &reply.details),
        Progress::Replied(reply) => replace(vm, id, &reply),
        Progress::Open | Progress::Held => panic!("the module holds a reply, which is complete: {reply:?}"),
    })
}

pub(crate) fn status_of(headers: &Headers) -> u16 {
    headers.get(":status").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// The module's reply takes the place of a response.
pub(crate) fn replace(vm: &mut Vm, id: u32, reply: &LocalReply) -> Answer {
    let stream = vm.stream(id);
    let (headers, body) = stream.prepare(reply);
    let status = status_of(&headers);
    let mut info = stream.info.borrow_mut();
    info.code = Some(status);
    info.details = Some(reply.details.clone());
    *stream.response.headers.borrow_mut() = headers.clone();
    answer(By::Holdfast, status, headers, body, &reply.details)
}

pub(crate) fn go_on(step: Step) {
    assert!(matches!(step, Step::Continue), "bodies and trailers pass the module: {step:?}");
}

/// A request on its way to the upstream host. Dropped, it stays there for ever.
#[derive(Debug)]
#[must_use = "a request that is dropped stays in flight for ever"]
pub struct Pending {
    host: Host,
    worker: usize,
    /// The VM that it began in; when that has died, nobody is told of this request any more.
    incarnation: u64,
    id: u32,
}

impl Pending {
    /// The worker that has it.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Whether its VM has died: nobody will hear of its end.
    pub fn is_lost(&self) -> bool {
        !self.host.is_alive(self.worker) || self.host.incarnation(self.worker) != self.incarnation
    }

    /// The filter state `wasm.holdfast` so far.
    pub fn access_log(&self) -> Option<String> {
        self.run(|vm, id| Ok(vm.stream(id).info.borrow().access_log())).flatten()
    }

    /// The host calls made so far for this request.
    pub fn calls(&self) -> Calls {
        self.run(|vm, id| Ok(vm.stream(id).calls.clone())).unwrap_or_default()
    }

    fn run<R>(&self, step: impl FnOnce(&mut Vm, u32) -> Result<R, Trap>) -> Option<R> {
        if self.host.incarnation(self.worker) != self.incarnation {
            return None;
        }
        self.host.run(Thread::Worker(self.worker), Seat::Request, |vm| step(vm, self.id))
    }

    /// Whether it has this context.
    fn is(&self, thread: Thread, incarnation: u64, context: u32) -> bool {
        thread == Thread::Worker(self.worker) && incarnation == self.incarnation && context == self.id
    }

    /// Logs and ends it; what the client has got, it has got.
    fn finish(&self, answer: Answer) -> Answer {
        match self.run(Vm::finish) {
            Some(stream) => {
                let info = stream.info.borrow();
                Answer { access_log: info.access_log(), flags: info.flags, calls: stream.calls.clone(), ..answer }
            }
            None => answer,
        }
    }

    /// A piece of an unfinished body comes.
    pub fn uploads(&self, piece: impl AsRef<[u8]>) {
        let passed = self.run(|vm, id| vm.request_body(id, piece.as_ref(), false));
        passed.into_iter().for_each(go_on);
    }

    /// An unfinished body ends, with an empty piece.
    pub fn ends_upload(&self) {
        let passed = self.run(|vm, id| vm.request_body(id, b"", true));
        passed.into_iter().for_each(go_on);
    }

    /// The host answers. Where the module holds the answer back, time passes until the client has it.
    pub fn respond(self, response: Response) -> Answer {
        self.begin_response(&response).rest(&response.body, response.trailers)
    }

    /// The host answers a gRPC call with this status in its trailers.
    pub fn grpc(self, grpc_status: u32) -> Answer {
        self.respond(Response::grpc(grpc_status))
    }

    /// The host's headers come, and its body is still to come.
    pub fn headers(self, response: Response) -> Streaming {
        let mut streaming = self.begin_response(&Response { body: b"more".to_vec(), ..response });
        streaming.has_body = true;
        streaming.settle();
        streaming
    }

    fn begin_response(self, response: &Response) -> Streaming {
        let mut headers = response.headers.clone();
        if self.host.router_headers() {
            headers.set("x-envoy-upstream-service-time", "5");
        }
        let code = response.code();
        self.run(|vm, id| {
            let mut info = vm.stream(id).info.borrow_mut();
            (info.code, info.details) = (code, Some("via_upstream".to_owned()));
            Ok(())
        });
        let host = self.host.clone();
        let delivering = Delivering::new(self);
        host.note_delivering(&delivering);
        delivering.borrow_mut().step(|delivery, vm, id| delivery.headers(vm, id, headers, response.has_only_headers()));
        Streaming { delivering, has_body: false }
    }

    /// Envoy answers in place of the host.
    pub fn local(self, local: Local) -> Answer {
        let reply = LocalReply {
            status: local.status,
            details: local.details.to_owned(),
            body: local.body.as_bytes().to_vec(),
            headers: Headers::default(),
            grpc_status: local.grpc_status,
        };
        let answer = self.run(|vm, id| local_reply(vm, id, &reply, local.flags, By::Envoy)).unwrap_or_else(failed);
        self.finish(answer)
    }

    /// The client goes away before there is an answer.
    pub fn client_leaves(self) -> Answer {
        let details = "downstream_remote_disconnect";
        self.ends_without_response(flags::DOWNSTREAM_CONNECTION_TERMINATION, details)
    }

    /// It ends without a response, with these of Envoy's response flags.
    pub fn ends_without_response(self, flags: u64, details: &str) -> Answer {
        self.run(|vm, id| {
            let stream = vm.stream(id);
            let mut info = stream.info.borrow_mut();
            info.flags |= flags;
            info.details = Some(details.to_owned());
            Ok(())
        });
        self.finish(answer(By::Nobody, 0, Headers::default(), Vec::new(), details))
    }
}

/// A request whose response is on its way.
#[derive(Debug)]
pub(crate) struct Delivering {
    pending: Pending,
    delivery: Delivery,
    /// What the client has got, when it is over.
    answer: Option<Answer>,
}

pub(crate) type SharedDelivering = Rc<RefCell<Delivering>>;

impl Delivering {
    fn new(pending: Pending) -> SharedDelivering {
        let delivery = Delivery::new(pending.host.sees_held_bodies());
        Rc::new(RefCell::new(Delivering { pending, delivery, answer: None }))
    }

    /// Whether it is the response of this context.
    pub(crate) fn is(&self, thread: Thread, incarnation: u64, context: u32) -> bool {
        self.answer.is_none() && self.pending.is(thread, incarnation, context)
    }

    /// Takes the response further, unless it is over.
    fn step(&mut self, step: impl FnOnce(&mut Delivery, &mut Vm, u32) -> Result<Progress, Trap>) {
        if self.answer.is_some() {
            return;
        }
        let Delivering { pending, delivery, .. } = self;
        let answered = pending.run(|vm, id| {
            Ok(match step(delivery, vm, id)? {
                Progress::Open | Progress::Held => None,
                Progress::Whole => Some(delivery.answer(vm, id, By::Upstream, "via_upstream")),
                Progress::Replied(reply) => Some(replace(vm, id, &reply)),
            })
        });
        match answered {
            Some(None) => {}
            Some(Some(answered)) => self.finish(answered),
            // Nobody lets go what a dead VM holds.
            None if self.delivery.is_held() => {}
            None => self.finish(failed()),
        }
    }

    fn finish(&mut self, answered: Answer) {
        self.answer = Some(self.pending.finish(answered));
    }

    /// The module has let it go, or replied to it, outside of its own callbacks.
    pub(crate) fn act(&mut self, action: Action) {
        self.step(|delivery, vm, id| match action {
            Action::Resume(Direction::Response) => delivery.resume(vm, id),
            Action::Reply(reply) => Ok(Progress::Replied(reply)),
            Action::Resume(Direction::Request) => panic!("the request has gone on"),
        });
    }

    /// The host's answer is complete.
    fn complete(&self) {
        if self.answer.is_some() {
            return;
        }
        self.pending.run(|vm, id| {
            vm.stream(id).info.borrow_mut().backend_latency = Some(BACKEND_LATENCY);
            Ok(())
        });
    }

    /// It ends before it is whole.
    fn stops(&mut self, flags: u64) {
        if self.answer.is_some() {
            return;
        }
        let is_held = self.delivery.is_held();
        let Delivering { pending, delivery, .. } = self;
        let answered = pending.run(|vm, id| {
            vm.stream(id).info.borrow_mut().flags |= flags;
            Ok(delivery.answer(vm, id, By::Upstream, "via_upstream"))
        });
        let answered = if is_held { nothing("via_upstream") } else { answered.unwrap_or_else(failed) };
        self.finish(answered);
    }
}

/// The client gets nothing at all.
pub(crate) fn nothing(details: &str) -> Answer {
    answer(By::Nobody, 0, Headers::default(), Vec::new(), details)
}

/// How long a host takes, in nanoseconds.
pub(crate) const BACKEND_LATENCY: u64 = 5_000_000;

/// What is held for longer is held for ever.
const LONGEST_HELD: Duration = Duration::from_secs(1);

/// A response that has begun.
#[derive(Debug)]
#[must_use = "a response that is dropped never ends"]
pub struct Streaming {
    delivering: SharedDelivering,
    has_body: bool,
}

impl Streaming {
    /// What the module is called back for as soon as all that has come is dealt with.
    fn settle(&self) {
        let (host, worker) = {
            let delivering = self.delivering.borrow();
            (delivering.pending.host.clone(), delivering.pending.worker)
        };
        host.settle(Thread::Worker(worker));
    }

    /// Whether the module has put its own answer in the response's place.
    pub fn is_replaced(&self) -> bool {
        let delivering = self.delivering.borrow();
        let is_rewritten = || delivering.pending.run(|vm, id| Ok(vm.stream(id).is_rewritten)).unwrap_or(false);
        delivering.answer.is_some() || is_rewritten()
    }

    /// Whether the module holds it back: the client has nothing of it.
    pub fn is_held(&self) -> bool {
        let delivering = self.delivering.borrow();
        delivering.answer.is_none() && delivering.delivery.is_held()
    }

    /// What the client has got, if it is over.
    pub fn answer(&self) -> Option<Answer> {
        self.delivering.borrow().answer.clone()
    }

    /// The host calls made so far for this request.
    pub fn calls(&self) -> Calls {
        let delivering = self.delivering.borrow();
        delivering.answer.as_ref().map_or_else(|| delivering.pending.calls(), |answer| answer.calls.clone())
    }

    /// A piece of the body comes.
    pub fn piece(&self, piece: impl AsRef<[u8]>) {
        self.delivering.borrow_mut().step(|delivery, vm, id| delivery.body(vm, id, piece.as_ref(), false));
        self.settle();
    }

    /// The rest of it comes, and nothing after it.
    pub fn completes(&self, body: impl AsRef<[u8]>, trailers: Option<&[(&str, &str)]>) {
        self.complete(body.as_ref(), trailers.map(|trailers| trailers.iter().copied().collect()));
        self.settle();
    }

    fn complete(&self, body: &[u8], trailers: Option<Headers>) {
        let mut delivering = self.delivering.borrow_mut();
        delivering.complete();
        let ends = trailers.is_none();
        if ends || !body.is_empty() {
            delivering.step(|delivery, vm, id| delivery.body(vm, id, body, ends));
        }
        if let Some(trailers) = trailers {
            delivering.step(|delivery, vm, id| delivery.trailers(vm, id, trailers));
        }
    }

    /// The rest of it, and the end.
    fn rest(self, body: &[u8], trailers: Option<Headers>) -> Answer {
        self.complete(body, trailers);
        self.ended()
    }

    /// What the client has got in the end. Time passes until then; of what a dead VM holds it gets nothing.
    fn ended(self) -> Answer {
        self.settle();
        let host = self.delivering.borrow().pending.host.clone();
        let is_over = || self.answer().is_some() || self.delivering.borrow().pending.is_lost();
        host.advance_until(LONGEST_HELD, is_over);
        self.answer().unwrap_or_else(|| {
            assert!(self.delivering.borrow().pending.is_lost(), "the module holds the response for ever");
            self.stops(0)
        })
    }

    /// The body and these trailers come.
    pub fn trailers(self, trailers: &[(&str, &str)]) -> Answer {
        let body = if self.has_body { b"more".to_vec() } else { Vec::new() };
        self.rest(&body, Some(trailers.iter().copied().collect()))
    }

    /// The body comes, without trailers.
    pub fn ends(self) -> Answer {
        self.rest(b"more", None)
    }

    /// It breaks off: the host resets the stream. Of a response that is held the client gets nothing.
    pub fn breaks_off(self) -> Answer {
        self.stops(flags::UPSTREAM_REMOTE_RESET)
    }

    /// The client goes away.
    pub fn client_leaves(self) -> Answer {
        self.stops(flags::DOWNSTREAM_CONNECTION_TERMINATION)
    }

    fn stops(self, flags: u64) -> Answer {
        let mut delivering = self.delivering.borrow_mut();
        delivering.stops(flags);
        delivering.answer.clone().expect("it is over")
    }
}
