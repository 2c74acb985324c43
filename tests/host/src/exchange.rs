//! One request from the client's first byte to the end.

use crate::calls::Calls;
use crate::flags;
use crate::headers::Headers;
use crate::host::Host;
use crate::message::{Local, Request, Response};
use crate::seat::Seat;
use crate::stream::{LocalReply, Stream};
use crate::thread::Thread;
use crate::vm::{Step, Trap, Vm};

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
                step = vm.request_body(id)?;
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
        details: FAIL_STREAM.to_owned(),
        flags: 0,
        access_log: None,
        calls: Calls::default(),
    }
}

pub(crate) fn answer(by: By, status: u16, headers: Headers, body: Vec<u8>, details: &str) -> Answer {
    let details = details.to_owned();
    Answer { by, status, headers, body, details, flags: 0, access_log: None, calls: Calls::default() }
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
    respond(vm, id, headers, body, None, by, &reply.details)
}

pub(crate) fn status_of(headers: &Headers) -> u16 {
    headers.get(":status").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// A whole response passes the module.
fn respond(
    vm: &mut Vm,
    id: u32,
    headers: Headers,
    body: Vec<u8>,
    trailers: Option<Headers>,
    by: By,
    details: &str,
) -> Result<Answer, Trap> {
    let ends_with_headers = body.is_empty() && trailers.is_none();
    if let Some(replaced) = response_headers(vm, id, headers, ends_with_headers)? {
        return Ok(replaced);
    }
    go_on(vm.response_body(id, &body, trailers.is_none())?);
    if let Some(trailers) = trailers {
        go_on(vm.response_trailers(id, trailers)?);
    }
    let stream = vm.stream(id);
    // The module may have changed them.
    let (headers, body) = (stream.response_headers(), std::mem::take(&mut stream.response_body));
    Ok(answer(by, status_of(&headers), headers, body, details))
}

/// Response headers pass the module, which may replace the whole response: that neither comes by it again nor by any
/// filter that is still to come.
fn response_headers(vm: &mut Vm, id: u32, headers: Headers, ends: bool) -> Result<Option<Answer>, Trap> {
    match vm.response_headers(id, headers, ends)? {
        Step::Continue => Ok(None),
        Step::Reply(reply) => Ok(Some(replace(vm, id, &reply))),
        Step::Pause => panic!("the module holds a response, which this host cannot resume"),
    }
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

    /// Logs and ends it; what the client has got, it has got.
    fn finish(self, answer: Answer) -> Answer {
        match self.run(Vm::finish) {
            Some(stream) => {
                let info = stream.info.borrow();
                Answer { access_log: info.access_log(), flags: info.flags, calls: stream.calls.clone(), ..answer }
            }
            None => answer,
        }
    }

    /// The host answers.
    pub fn respond(self, response: Response) -> Answer {
        self.begin_response(&response).rest(response.body, response.trailers)
    }

    /// The host answers a gRPC call with this status in its trailers.
    pub fn grpc(self, grpc_status: u32) -> Answer {
        self.respond(Response::grpc(grpc_status))
    }

    /// The host's headers come, and its body is still to come.
    pub fn headers(self, response: Response) -> Streaming {
        let mut streaming = self.begin_response(&Response { body: b"more".to_vec(), ..response });
        streaming.has_body = true;
        streaming
    }

    fn begin_response(self, response: &Response) -> Streaming {
        let mut headers = response.headers.clone();
        if self.host.router_headers() {
            headers.set("x-envoy-upstream-service-time", "5");
        }
        let code = response.code();
        let ends = response.body.is_empty() && response.trailers.is_none();
        let begun = self.run(|vm, id| {
            let stream = vm.stream(id);
            let mut info = stream.info.borrow_mut();
            (info.code, info.details) = (code, Some("via_upstream".to_owned()));
            drop(info);
            response_headers(vm, id, headers, ends)
        });
        let answered = match begun {
            None => Some(failed()),
            Some(replaced) => replaced,
        };
        Streaming { pending: self, answered, has_body: false }
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

/// A response whose headers have passed.
#[derive(Debug)]
#[must_use = "a response that is dropped never ends"]
pub struct Streaming {
    pending: Pending,
    /// Set when the response was replaced, or the VM is dead.
    answered: Option<Answer>,
    has_body: bool,
}

impl Streaming {
    /// Whether the module has put its own answer in the response's place.
    pub fn is_replaced(&self) -> bool {
        self.answered.is_some()
    }

    /// The rest of it, and the end.
    fn rest(self, body: Vec<u8>, trailers: Option<Headers>) -> Answer {
        if let Some(answered) = self.answered {
            return self.pending.finish(answered);
        }
        let answered = self.pending.run(|vm, id| {
            go_on(vm.response_body(id, &body, trailers.is_none())?);
            if let Some(trailers) = trailers {
                go_on(vm.response_trailers(id, trailers)?);
            }
            let stream = vm.stream(id);
            let (headers, body) = (stream.response_headers(), std::mem::take(&mut stream.response_body));
            Ok(answer(By::Upstream, status_of(&headers), headers, body, "via_upstream"))
        });
        let answered = answered.unwrap_or_else(failed);
        self.pending.finish(answered)
    }

    /// The body and these trailers come.
    pub fn trailers(self, trailers: &[(&str, &str)]) -> Answer {
        let body = if self.has_body { b"more".to_vec() } else { Vec::new() };
        self.rest(body, Some(trailers.iter().copied().collect()))
    }

    /// The body comes, without trailers.
    pub fn ends(self) -> Answer {
        self.rest(b"more".to_vec(), None)
    }

    /// It breaks off: the host resets the stream.
    pub fn breaks_off(self) -> Answer {
        self.stops(flags::UPSTREAM_REMOTE_RESET)
    }

    /// The client goes away.
    pub fn client_leaves(self) -> Answer {
        self.stops(flags::DOWNSTREAM_CONNECTION_TERMINATION)
    }

    fn stops(self, flags: u64) -> Answer {
        if let Some(answered) = self.answered {
            return self.pending.finish(answered);
        }
        let answered = self.pending.run(|vm, id| {
            let stream = vm.stream(id);
            stream.info.borrow_mut().flags |= flags;
            let headers = stream.response_headers();
            Ok(answer(By::Upstream, status_of(&headers), headers, Vec::new(), "via_upstream"))
        });
        let answered = answered.unwrap_or_else(failed);
        self.pending.finish(answered)
    }
}
