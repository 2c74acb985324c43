//! A response on its way by the request seat to the client. The module may hold it back.
//!
//! What a held response does was seen on Envoy 1.36.2 and 1.40.0:
//! * No callback of body or trailers comes meanwhile. What the host sends is kept. With `allow_on_headers_stop_iteration` the body's
//!   callback does come, and what was kept before is part of what it sees.
//! * Once the module has let it go, its body comes by in one piece, an empty one too if that is the end.
//! * A reply goes straight to the client. Neither it nor what is left of the response comes by the module.

use crate::exchange::{Answer, By, answer, status_of};
use crate::headers::Headers;
use crate::stream::LocalReply;
use crate::vm::{Step, Trap, Vm};

/// How far a response has come.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a response that is whole, or was replied to, is over"]
pub(crate) enum Progress {
    /// The rest of it is still to come.
    Open,
    /// The module holds it back.
    Held,
    /// The module replies in its place.
    Replied(LocalReply),
    /// All of it has gone to the client.
    Whole,
}

/// A response on its way.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// The plugin has `allow_on_headers_stop_iteration`.
    sees_held_bodies: bool,
    is_held: bool,
    /// What has come of the body while it was held.
    kept: Vec<u8>,
    /// Whether the last piece of the body is in `kept`.
    has_ended: bool,
    kept_trailers: Option<Headers>,
    /// The body that the client has.
    body: Vec<u8>,
    trailers: Headers,
}

impl Delivery {
    /// One to a plugin with `allow_on_headers_stop_iteration`, or without.
    pub(crate) fn new(sees_held_bodies: bool) -> Self {
        Delivery { sees_held_bodies, ..Delivery::default() }
    }

    /// Whether the client has nothing of it yet because the module holds it back.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// The headers come. `ends` says that there is nothing else.
    pub(crate) fn headers(&mut self, vm: &mut Vm, id: u32, headers: Headers, ends: bool) -> Result<Progress, Trap> {
        Ok(match vm.response_headers(id, headers, ends)? {
            Step::Continue => open_or_whole(ends),
            Step::Reply(reply) => Progress::Replied(reply),
            Step::Pause => {
                self.is_held = true;
                self.has_ended = ends;
                Progress::Held
            }
        })
    }

    /// A piece of the body comes, and with `ends` it is the last and there are no trailers.
    pub(crate) fn body(&mut self, vm: &mut Vm, id: u32, piece: &[u8], ends: bool) -> Result<Progress, Trap> {
        if !self.is_held {
            return self.pass_body(vm, id, piece.to_vec(), ends);
        }
        self.kept.extend_from_slice(piece);
        if self.sees_held_bodies {
            let kept = std::mem::take(&mut self.kept);
            return self.pass_body(vm, id, kept, ends);
        }
        self.has_ended = ends;
        Ok(Progress::Held)
    }

    /// The trailers come, which end it.
    pub(crate) fn trailers(&mut self, vm: &mut Vm, id: u32, trailers: Headers) -> Result<Progress, Trap> {
        if self.is_held && !self.sees_held_bodies {
            self.kept_trailers = Some(trailers);
            return Ok(Progress::Held);
        }
        self.pass_trailers(vm, id, trailers)
    }

    /// The module lets it go.
    pub(crate) fn resume(&mut self, vm: &mut Vm, id: u32) -> Result<Progress, Trap> {
        self.is_held = false;
        let (kept, trailers) = (std::mem::take(&mut self.kept), self.kept_trailers.take());
        if self.has_ended || !kept.is_empty() {
            let progress = self.pass_body(vm, id, kept, self.has_ended)?;
            if progress != Progress::Open {
                return Ok(progress);
            }
        }
        match trailers {
            Some(trailers) => self.pass_trailers(vm, id, trailers),
            None => Ok(Progress::Open),
        }
    }

    fn pass_body(&mut self, vm: &mut Vm, id: u32, body: Vec<u8>, ends: bool) -> Result<Progress, Trap> {
        match vm.response_body(id, &body, ends)? {
            Step::Continue => {
                self.is_held = false;
                self.body.append(&mut vm.stream(id).response_body);
                Ok(open_or_whole(ends))
            }
            Step::Reply(reply) => Ok(Progress::Replied(reply)),
            Step::Pause => {
                assert!(self.is_held && !ends, "the module holds a body, which this host cannot resume");
                self.kept = std::mem::take(&mut vm.stream(id).response_body);
                Ok(Progress::Held)
            }
        }
    }

    fn pass_trailers(&mut self, vm: &mut Vm, id: u32, trailers: Headers) -> Result<Progress, Trap> {
        match vm.response_trailers(id, trailers)? {
            Step::Continue => {
                self.is_held = false;
                self.body.append(&mut self.kept);
                self.trailers = vm.stream(id).trailers.headers.borrow().clone();
                Ok(Progress::Whole)
            }
            Step::Reply(reply) => Ok(Progress::Replied(reply)),
            Step::Pause => panic!("the module holds trailers, which this host cannot resume"),
        }
    }

    /// What the client has got. An answer whose status the module has written is the module's.
    pub(crate) fn answer(&mut self, vm: &mut Vm, id: u32, by: By, details: &str) -> Answer {
        let stream = vm.stream(id);
        let by = if stream.is_rewritten { By::Holdfast } else { by };
        let headers = stream.response_headers();
        let whole = answer(by, status_of(&headers), headers, std::mem::take(&mut self.body), details);
        Answer { trailers: std::mem::take(&mut self.trailers), ..whole }
    }
}

fn open_or_whole(ends: bool) -> Progress {
    if ends { Progress::Whole } else { Progress::Open }
}
