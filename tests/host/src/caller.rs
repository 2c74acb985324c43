//! Who waits for an answer of the router: a client, whose request came by the request seat, or the module itself.

use crate::delivery::{Delivery, Progress};
use crate::exchange::{Answer, By, answer, failed, local_reply, nothing, replace, status_of};
use crate::headers::Headers;
use crate::host::Host;
use crate::seat::Seat;
use crate::stream::LocalReply;
use crate::stream_info::SharedInfo;
use crate::thread::Thread;
use crate::vm::{Trap, Vm};

/// Who waits.
#[derive(Debug)]
pub(crate) enum Caller {
    Client(Client),
    Module(Asking),
}

/// A client's request, by its context in the request seat.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) thread: Thread,
    pub(crate) context: u32,
    /// The VM that has the context; when that has died, nobody is told of this request any more.
    pub(crate) incarnation: u64,
    pub(crate) delivery: Delivery,
}

impl Client {
    /// Lets the context do something; `None` if its VM has died.
    pub(crate) fn run<R>(&self, host: &Host, step: impl FnOnce(&mut Vm, u32) -> Result<R, Trap>) -> Option<R> {
        if host.incarnation_on(self.thread, Seat::Request) != self.incarnation {
            return None;
        }
        host.run(self.thread, Seat::Request, |vm| step(vm, self.context))
    }

    /// Takes the response further; `None` if the VM has died.
    fn deliver(
        &mut self,
        host: &Host,
        step: impl FnOnce(&mut Delivery, &mut Vm, u32) -> Result<Progress, Trap>,
    ) -> Option<Progress> {
        let mut delivery = std::mem::take(&mut self.delivery);
        let progress = self.run(host, |vm, id| step(&mut delivery, vm, id));
        self.delivery = delivery;
        progress
    }
}

/// A call that the module makes (`proxy_http_call`): the answer is collected whole.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) seat: Seat,
    pub(crate) incarnation: u64,
    /// The root context that is told of the answer.
    pub(crate) root: u32,
    pub(crate) token: u32,
    pub(crate) is_grpc: bool,
    pub(crate) answer: CallAnswer,
}

/// What the module is told of a call; one that broke off has no headers.
#[derive(Debug, Default)]
pub(crate) struct CallAnswer {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<Headers>,
}

impl Caller {
    /// The headers of the response that was chosen; `None` if the VM they were for has died.
    pub(crate) fn response_headers(&mut self, host: &Host, headers: Headers, ends: bool) -> Option<Progress> {
        match self {
            Caller::Client(client) => client.deliver(host, |delivery, vm, id| delivery.headers(vm, id, headers, ends)),
            Caller::Module(asking) => {
                asking.answer.headers = headers;
                Some(if ends { Progress::Whole } else { Progress::Open })
            }
        }
    }

    pub(crate) fn response_body(&mut self, host: &Host, body: Vec<u8>, ends: bool) -> Option<Progress> {
        match self {
            Caller::Client(client) => client.deliver(host, |delivery, vm, id| delivery.body(vm, id, &body, ends)),
            Caller::Module(asking) => {
                asking.answer.body = body;
                Some(if ends { Progress::Whole } else { Progress::Open })
            }
        }
    }

    pub(crate) fn response_trailers(&mut self, host: &Host, trailers: Headers) -> Option<Progress> {
        match self {
            Caller::Client(client) => client.deliver(host, |delivery, vm, id| delivery.trailers(vm, id, trailers)),
            Caller::Module(asking) => {
                asking.answer.trailers = Some(trailers);
                Some(Progress::Whole)
            }
        }
    }

    /// The request seat lets the response go that it has held.
    pub(crate) fn resume(&mut self, host: &Host) -> Option<Progress> {
        match self {
            Caller::Client(client) => client.deliver(host, Delivery::resume),
            Caller::Module(_) => panic!("a call does not come by the request seat"),
        }
    }

    /// Whether the request seat holds the response.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self, Caller::Client(client) if client.delivery.is_held())
    }

    /// The whole response, when the last of it has come.
    pub(crate) fn responded(&mut self, host: &Host) -> Answer {
        match self {
            Caller::Client(client) => {
                let mut delivery = std::mem::take(&mut client.delivery);
                let whole = client.run(host, |vm, id| Ok(delivery.answer(vm, id, By::Upstream, "via_upstream")));
                whole.unwrap_or_else(failed)
            }
            Caller::Module(asking) => {
                let (headers, body) = (asking.answer.headers.clone(), asking.answer.body.clone());
                answer(By::Upstream, status_of(&headers), headers, body, "via_upstream")
            }
        }
    }

    /// The request seat's reply takes the place of the response.
    pub(crate) fn replaced(&self, host: &Host, reply: &LocalReply) -> Answer {
        match self {
            Caller::Client(client) => client.run(host, |vm, id| Ok(replace(vm, id, reply))).unwrap_or_else(failed),
            Caller::Module(_) => panic!("a call does not come by the request seat"),
        }
    }

    /// A reply that Envoy or the attempt seat makes.
    pub(crate) fn local_reply(&mut self, host: &Host, reply: &LocalReply, by: By) -> Answer {
        match self {
            Caller::Client(client) => {
                client.run(host, |vm, id| local_reply(vm, id, reply, 0, by)).unwrap_or_else(failed)
            }
            Caller::Module(asking) => {
                let (headers, body) = reply.prepare(asking.is_grpc);
                asking.answer = CallAnswer { headers: headers.clone(), body: body.clone(), trailers: None };
                answer(by, status_of(&headers), headers, body, &reply.details)
            }
        }
    }

    /// What there is when it breaks off: a client may have the headers of a response, the module is told of nothing.
    pub(crate) fn so_far(&mut self, host: &Host, details: &str) -> Answer {
        if self.is_held() {
            return nothing(details);
        }
        let headers = match self {
            Caller::Client(client) => client.run(host, |vm, id| Ok(vm.stream(id).response_headers())),
            Caller::Module(asking) => {
                asking.answer = CallAnswer::default();
                None
            }
        };
        let headers = headers.unwrap_or_default();
        if headers.is_empty() {
            return nothing(details);
        }
        answer(By::Upstream, status_of(&headers), headers, Vec::new(), details)
    }

    /// Logs and ends the context, and completes the answer with what is known then.
    pub(crate) fn finish(&self, host: &Host, info: &SharedInfo, answered: Answer) -> Answer {
        let Caller::Client(client) = self else { return answered };
        // The access log is written with the module's own, before the context is deleted.
        let logged = client.run(host, Vm::log);
        let access_log = info.borrow().access_log();
        let calls = logged.and_then(|()| client.run(host, Vm::delete)).map(|stream| stream.calls);
        Answer { access_log, calls: calls.unwrap_or_default(), ..answered }
    }
}
