//! The life of a request, from its headers to its end, as an enum that each event consumes: what is reported or replied once cannot be
//! reported or replied again.

mod calling;
mod further;
mod on_detour;
mod open;

use core::time::Duration;
use std::borrow::Cow;
use std::rc::Rc;

use holdfast_policy::document::{ClientGone, Mode, Policy, Route};

use super::access_log;
use super::active::{ActivePolicy, Leg};
use super::affinity;
use super::calling::{Calling, ToRepeat};
use super::capturing::Capturing;
use super::chain;
use super::detour::{Left, Sender};
use super::effect::RequestEffect;
use super::facts::Facts;
use super::hosts::Sending;
use super::plugin::RequestPlugin;
use super::policy::RequestPolicy;
use super::repeat::Repeat;
use super::retries::{Accounted, Asked, AttemptsMade, Plan};
use super::running::RunningProbe;
use super::ticket::{Decision, InFlightHold, Ticket};
use crate::base::pauses::Waiting;
use crate::base::time::{Timestamp, millis};
use crate::cx::Cx;
use crate::event::Event;
use crate::fallback::{
    self, AskedFor, Capture, Detour, Disposition, FailedAnswer, GrpcStatus, LocalReply, Placed, Replacement,
    ReplyContext, Served, Sources, StandIn, Unserved,
};
use crate::host::{Headers, Host, is_disconnected_locally, property_number, response_flags};
use crate::http::attempt::End;
use crate::http::client::{self, Client, ClientWaits};
use crate::http::grpc::GrpcDialect;
use crate::http::header_rules::HeaderVerdict;
use crate::http::last_byte::LastByte;
use crate::http::markers;
use crate::http::outcome::{self, Answer, Outcome, Verdict};
use crate::http::request::Field;
use crate::http::response::{NOT_RETRIED, OpenResponse, ResponseHead, SetBy, VIA_UPSTREAM, judges_at_end};
use crate::metric::Metric;
use crate::outlier::balance::load::InFlight;
use crate::outlier::hosts::{Asks, HostAttempt, Steering};
use crate::outlier::steering;
use crate::outlier::subset;
use crate::retry::{Denial, Eligibility, eligibility};
use crate::seats::further::FurtherAttempt;
use crate::seats::retry_context::{self, RetryContext};
use crate::store::Store;
use crate::store::cluster::ClusterHash;
use crate::store::keys::Key;
use further::Further;

/// What counts in flight until the response has ended.
#[derive(Default)]
pub struct Lasting {
    /// At the policy, and whose it is.
    of_policy: Option<(Rc<ActivePolicy>, InFlightHold)>,
    /// At the host; it ends with this.
    at_host: Option<InFlight>,
    /// The answer that is copied as it passes. It does not count, and is dropped with this unless it comes to its end.
    capturing: Option<Box<Capturing>>,
}

impl Lasting {
    fn is_nothing(&self) -> bool {
        self.of_policy.is_none() && self.at_host.is_none() && self.capturing.is_none()
    }
}

/// How far a request has come.
#[derive(Default)]
pub enum RequestState {
    /// Not governed by any policy, or over.
    #[default]
    Over,
    /// Passed on; the outcome is still to come.
    Admitted(Box<Admitted>),
    /// The outcome is known; the response has not ended and counts in flight.
    Ending(Lasting),
    /// Sent to another cluster by a policy that has rejected it; the answer is still to come.
    OnDetour(Box<on_detour::OnDetour>),
    /// The outcome is known; the answer is held back while another cluster is asked the same.
    Calling(Rc<Calling>, Lasting),
    /// The outcome is known, and the answer is being replaced. It may count in flight.
    Replacing(Rc<Replacement>, Lasting),
    /// A gRPC request was rejected with this status and message; the reply is about to come by on its way to the client.
    GrpcRejected(GrpcStatus, Vec<u8>),
}

/// An admitted request.
pub struct Admitted {
    active: Rc<ActivePolicy>,
    ticket: Ticket,
    /// How the client speaks gRPC, if it does; only asked where an answer may have to be replaced.
    grpc: Option<GrpcDialect>,
    /// What a fallback inserts of the request, in the order of [`ActivePolicy::kept`].
    kept: Vec<Option<Vec<u8>>>,
    /// What it asks for, where the last good answer to the same is kept or served.
    asked: Option<Box<AskedFor>>,
    /// The request itself, where it may have to be sent again.
    repeat: Option<Box<Repeat>>,
    /// Its answer, which is copied as it passes.
    capturing: Option<Box<Capturing>>,
    /// A response that has begun and is judged when it ends.
    response: Option<OpenResponse>,
    /// The host, where this seat has met it at the response's headers: then it is judged at its end, too.
    met: Option<Vec<u8>>,
    /// What the plugin knows of it while it may be a probe that lasts.
    running: Option<Rc<RunningProbe>>,
    /// What the router was told about retries, if anything.
    retrying: Option<Retrying>,
    /// Its cluster, where the key does not tell it.
    cluster: ClusterHash,
    /// Who judges the host, if anybody does.
    hosts: Option<HostJudge>,
    /// Whether another cluster may serve after the last attempt.
    goes_further: bool,
    /// Its cluster's name, where that has to be known at the end.
    own_cluster: Option<Vec<u8>>,
    /// Where the further attempt went, once that is known.
    gone: Option<Detour>,
    /// Why no other cluster serves in place of the answer.
    unrouted: Unserved,
    /// When the request's last byte came.
    last_byte: LastByte,
    /// How long its client waits, if that was read.
    client_waits: ClientWaits,
    /// Where the router was told to go, if it was.
    steering: Option<Steering>,
    /// What the access log says of the request so far.
    disposition: Disposition,
    /// While it waits for an answer that is judged.
    waiting: Option<Waiting>,
}

/// What the router was told about retries.
struct Retrying {
    /// What the request may be retried after.
    eligibility: Eligibility,
    /// Why it is not retried at all, if it is not.
    denial: Option<Denial>,
    /// Whether an attempt seat is known.
    seat: bool,
    /// Whether the retry context was left for an attempt seat.
    has_context: bool,
}

/// Who judges the host of a request.
#[derive(Clone, Copy)]
enum HostJudge {
    /// The attempt seat, which sees every attempt.
    AttemptSeat,
    /// This seat, by the request's last attempt.
    RequestSeat,
    /// The same, of a request that has come from another cluster, to whose policy the attempts belong.
    Afterwards,
}

/// What stands in for an answer.
enum Substitute {
    /// This.
    Reply(LocalReply),
    /// What another cluster answers to the same request.
    Call(Box<ToRepeat>),
}

/// How an answer came.
struct ResponseTiming {
    /// When it began.
    began: Timestamp,
    /// When it could be judged.
    at: Timestamp,
    /// How long the host asked to be left alone.
    retry_after: Option<Duration>,
    /// What the policy's header rules make of it.
    by_headers: HeaderVerdict,
    /// Where it is judged.
    place: Place,
    /// Whether it has a header of the attempt seat's that says that it has written a record, or a host's that pretends so.
    is_pointed: bool,
}

/// Where an answer is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At its headers: nothing of it has gone to the client yet.
    Headers,
    /// Where it has come to its end.
    End,
    /// Where it ended before that, or before it began.
    Cut,
}

impl RequestState {
    /// The request's headers have come. `ended` says that there is no body.
    pub fn on_request_headers(
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        ended: bool,
    ) -> (Self, RequestEffect) {
        let facts = Facts::new(host);
        let Some(active) = plugin.governing(|field| facts.get(field)) else {
            chain::pass(host, &facts);
            return Self::passed();
        };
        if !chain::may_govern(store, host, active) {
            return Self::passed();
        }
        plugin.enter(store);
        if !active.is_active {
            chain::claim(host, active);
            RequestState::Over.steer(host, &facts);
            return Self::passed();
        }
        let mut left = Left::default();
        match admit(plugin, active, store, host, &facts, ended, &left) {
            None => {
                RequestState::Over.steer(host, &facts);
                Self::passed()
            }
            Some(Admission::Passed(state)) => {
                state.steer(host, &facts);
                (state, RequestEffect::Continue)
            }
            Some(Admission::Answered(local)) => reject(local),
            Some(Admission::Sent(sender)) => Self::go(plugin, store, host, facts, ended, &mut left, *sender),
        }
    }

    /// Takes a request on a detour as far as it goes: to the other cluster, where the policy of that one governs it, or to the next fallback
    /// of the one that has sent it.
    fn go(
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        mut facts: Facts<'_>,
        ended: bool,
        left: &mut Left,
        mut sender: Sender,
    ) -> (Self, RequestEffect) {
        loop {
            let sent = sender.send(host);
            facts = facts.on_the_way_to(sender.cluster());
            left.leave(sender.from().to_owned());
            let admission = sent.map(|()| {
                let active = plugin.governing(|field| facts.get(field)).filter(|active| active.is_active)?;
                admit(plugin, active, store, host, &facts, ended, left)
            });
            let (why, theirs) = match admission {
                Ok(None) => {
                    RequestState::Over.steer(host, &facts);
                    return (on_detour::OnDetour::arrive(sender, host, RequestState::Over), RequestEffect::Continue);
                }
                Ok(Some(Admission::Passed(state))) => {
                    state.steer(host, &facts);
                    return (on_detour::OnDetour::arrive(sender, host, state), RequestEffect::Continue);
                }
                Ok(Some(Admission::Sent(next))) => {
                    sender = *next;
                    continue;
                }
                Ok(Some(Admission::Answered(local))) if !matches!(local.disposition, Disposition::Rejected(_)) => {
                    return reject(local);
                }
                Ok(Some(Admission::Answered(local))) => (Unserved::Rejected, Some(local)),
                Err(why) => (why, None),
            };
            let own = sender.cluster().to_owned();
            let mut route = |route: &Route| left.may_go(own.as_bytes(), route);
            match sender.give_way(plugin, store, host, why, &mut route) {
                Some((_, Served::Reply(local))) => return reject(local),
                Some((next, Served::Detour(_))) => sender = next,
                None => return theirs.map_or_else(Self::passed, reject),
            }
        }
    }

    /// The request's headers have come to a filter that has no plugin.
    pub fn without_plugin(host: &dyn Host) {
        chain::pass(host, &Facts::new(host));
    }

    /// It goes on, and is none of this seat's business any more.
    fn passed() -> (Self, RequestEffect) {
        (RequestState::Over, RequestEffect::Continue)
    }

    /// Names the hosts to the router, or has none named.
    fn steer(&self, host: &dyn Host, facts: &Facts<'_>) {
        match self.steering() {
            // What the host refuses is left to the cluster's own balancing.
            Some(steering) => host.set_header(Headers::Request, steering::HEADER, &steering.hosts),
            None if facts.lacks_header(steering::HEADER) => {}
            // A client's own would choose a host.
            None => host.remove_header(Headers::Request, steering::HEADER),
        }
    }

    /// A piece of the request's body has come, of `size` bytes, and with `ended` it is the last.
    pub fn on_request_body(&mut self, host: &dyn Host, size: usize, ended: bool) {
        if let Some(repeat) = self.repeat() {
            repeat.add(host, size, ended);
        }
        if ended {
            self.on_request_end(host);
        }
    }

    /// The request's trailers have come.
    pub fn on_request_trailers(&mut self, host: &dyn Host) {
        if let Some(repeat) = self.repeat() {
            repeat.drop_body();
        }
        self.on_request_end(host);
    }

    /// The request, where it is kept to be sent again.
    fn repeat(&mut self) -> Option<&mut Repeat> {
        match self {
            RequestState::Admitted(admitted) => admitted.repeat.as_deref_mut(),
            RequestState::OnDetour(detour) => detour.inner_mut().repeat(),
            _ => None,
        }
    }

    /// The request has ended, after its headers: with the last piece of its body, or with its trailers.
    pub fn on_request_end(&mut self, host: &dyn Host) {
        if let RequestState::OnDetour(detour) = self {
            detour.inner_mut().on_request_end(host);
        } else if let RequestState::Admitted(admitted) = self {
            // Where nothing follows from it but whether it has come, the time of a moment ago will do.
            let is_timed = admitted.hosts.is_some()
                || admitted.active.policy().outcome.slow_after.is_some()
                || admitted.client_waits.from_end.is_some();
            admitted.last_byte.come(|| if is_timed { host.now() } else { host.recently() });
        }
    }

    /// The response's headers have come. `ended` says that there is no body. `stream` is how the host names the request.
    pub fn on_response_headers(
        self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        stream: u32,
        ended: bool,
    ) -> (Self, RequestEffect) {
        let mut admitted = match self {
            RequestState::Admitted(admitted) => admitted,
            RequestState::OnDetour(detour) => return detour.on_response_headers(plugin, store, host, stream, ended),
            RequestState::GrpcRejected(status, message) => {
                fallback::place_grpc_rejection(host, ended, status, &message);
                return Self::passed();
            }
            other => return (other, RequestEffect::Continue),
        };
        let mut last = None;
        match further::look(plugin, store, host, &admitted) {
            Further::None => {}
            Further::Failed(why, own) => (admitted.unrouted, last) = (why, own),
            Further::Gone(context, detour) => {
                return admitted.follow(plugin, store, host, (&context, detour), stream, ended);
            }
        }
        // What is judged when it ends asks for the time then.
        let is_untimed = !ended && !admitted.is_timed();
        let now = if is_untimed { host.recently() } else { host.now() };
        let wants_retry_after = admitted.active.policy().wants_retry_after();
        let serialized = host.headers(Headers::Response);
        let head = ResponseHead::read(&serialized, now, wants_retry_after, &admitted.active.policy().outcome);
        strip(host, &head);
        let known = last.or_else(|| answer_of(host, &head, ended));
        let rules = &admitted.active.policy().outcome;
        let stays_open = |answer, is_hosts| is_hosts && !ended && judges_at_end(rules, &head, answer);
        let is_good = |(answer, by_headers, is_hosts): &(Answer, HeaderVerdict, bool)| {
            *is_hosts && *answer == Answer::Http(200) && by_headers.verdict(rules, *answer) == Verdict::Success
        };
        let capturing = if known.as_ref().is_some_and(is_good) { admitted.capture(host, &serialized) } else { None };
        let judged = known.filter(|(answer, _, is_hosts)| !stays_open(*answer, *is_hosts));
        let Some((answer, by_headers, is_hosts)) = judged else {
            let answer = known.map(|(answer, ..)| answer);
            admitted.capturing = capturing;
            admitted.open(plugin, store, host, OpenResponse { head, came: now, answer });
            return (RequestState::Admitted(admitted), RequestEffect::Continue);
        };
        let now = if is_untimed { host.now() } else { now };
        let (retry_after, is_pointed) = (head.retry_after, head.points_to_record());
        let timing = ResponseTiming { began: now, at: now, retry_after, by_headers, place: Place::Headers, is_pointed };
        let active = Rc::clone(&admitted.active);
        let (mut lasting, substitute) = settle(plugin, store, host, *admitted, answer, &timing).unwrap_or_default();
        lasting.capturing = capturing;
        if let Some(capturing) = lasting.capturing.take_if(|_| ended) {
            capturing.keep(plugin, store, host);
        }
        let placed = match substitute {
            None => None,
            Some(Substitute::Call(call)) => {
                return Calling::begin(call, plugin, store, host, lasting, (stream, ended, is_hosts));
            }
            Some(Substitute::Reply(local)) => {
                let rules = &active.policy().outcome;
                let answered = fallback::Answered { serialized: &serialized, rules, ended, is_hosts };
                Some(fallback::place(host, answered, local, now))
            }
        };
        Self::placed(plugin, placed, lasting, stream, now)
    }

    /// What follows from where a fallback was placed.
    fn placed(
        plugin: &RequestPlugin,
        placed: Option<Placed>,
        lasting: Lasting,
        stream: u32,
        now: Timestamp,
    ) -> (Self, RequestEffect) {
        let Some(placed) = placed else { return (Self::ending(lasting), RequestEffect::Continue) };
        match plugin.replace(placed, stream, now) {
            (Some(replacement), effect) => (RequestState::Replacing(replacement, lasting), effect),
            (None, effect) => (Self::ending(lasting), effect),
        }
    }

    /// Whether a piece of the response's body is of any interest, which is the last with `ended`.
    pub fn wants_body(&self, ended: bool) -> bool {
        match self {
            RequestState::Replacing(..) | RequestState::Calling(..) => true,
            RequestState::Admitted(admitted) => ended || admitted.capturing.is_some(),
            RequestState::Ending(lasting) => lasting.capturing.is_some(),
            _ => false,
        }
    }

    /// A piece of the response's body has come, of `size` bytes, and with `ended` it is the last.
    pub fn on_response_body(
        self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        size: usize,
        ended: bool,
    ) -> (Self, RequestEffect) {
        match self {
            RequestState::Replacing(replacement, lasting) => {
                let effect = replacement.on_body(host, size, ended).into();
                (RequestState::Replacing(replacement, lasting), effect)
            }
            RequestState::Calling(calling, lasting) => {
                let effect = calling.on_body(host, size, ended);
                (RequestState::Calling(calling, lasting), effect)
            }
            RequestState::Admitted(mut admitted) => {
                let capturing = copied(admitted.capturing.take(), host, size);
                if !ended {
                    admitted.capturing = capturing;
                    return (RequestState::Admitted(admitted), RequestEffect::Continue);
                }
                let answer = admitted.response.as_ref().map_or(Answer::NotTheHost, OpenResponse::complete);
                let state = settle_late(plugin, store, host, *admitted, answer, Place::End);
                keep(capturing, plugin, store, host);
                (state, RequestEffect::Continue)
            }
            RequestState::Ending(mut lasting) => {
                lasting.capturing = copied(lasting.capturing, host, size);
                if ended {
                    keep(lasting.capturing.take(), plugin, store, host);
                }
                (Self::ending(lasting), RequestEffect::Continue)
            }
            other => (other, RequestEffect::Continue),
        }
    }

    /// The response's trailers have come.
    pub fn on_response_trailers(
        self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
    ) -> (Self, RequestEffect) {
        match self {
            RequestState::Admitted(mut admitted) => {
                let capturing = admitted.capturing.take();
                let status = || host.header(Headers::ResponseTrailers, "grpc-status");
                let response = admitted.response.as_ref();
                let answer = response.map_or(Answer::NotTheHost, |response| response.with_trailers(status));
                let state = settle_late(plugin, store, host, *admitted, answer, Place::End);
                keep(capturing, plugin, store, host);
                (state, RequestEffect::Continue)
            }
            RequestState::Ending(mut lasting) => {
                keep(lasting.capturing.take(), plugin, store, host);
                (Self::ending(lasting), RequestEffect::Continue)
            }
            RequestState::Replacing(replacement, lasting) => {
                let effect = replacement.on_trailers(host).into();
                (RequestState::Replacing(replacement, lasting), effect)
            }
            RequestState::Calling(calling, lasting) => {
                let effect = calling.on_trailers(host);
                (RequestState::Calling(calling, lasting), effect)
            }
            other => (other, RequestEffect::Continue),
        }
    }

    /// The request is over, whatever became of it.
    pub fn on_end(self, plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host) {
        // Still admitted at the end: the client left, or the response did not come to its end.
        let state = match self {
            RequestState::OnDetour(detour) => return detour.on_end(plugin, store, host),
            RequestState::Admitted(admitted) => {
                if admitted.response.is_none()
                    && let Further::Gone(context, detour) = further::look(plugin, store, host, &admitted)
                {
                    return admitted.end_gone(plugin, store, host, (&context, detour));
                }
                let flags = response_flags(host);
                let answer = match &admitted.response {
                    Some(response) if outcome::client_left(flags) => response.left(),
                    Some(response) => response.cut(open::is_broken_off(host, flags)),
                    None => admitted.unanswered(host, flags),
                };
                settle_late(plugin, store, host, *admitted, answer, Place::Cut)
            }
            RequestState::Calling(_, lasting) => RequestState::Ending(lasting),
            other => other,
        };
        let (RequestState::Ending(lasting) | RequestState::Replacing(_, lasting)) = state else { return };
        let Some((active, hold)) = lasting.of_policy else { return };
        if let (Ok(mut worker), Ok(mut policy)) = (plugin.vm.worker.try_borrow_mut(), active.state.try_borrow_mut()) {
            let key = hold.key();
            store.refresh();
            policy.release(&mut Cx::new(store, &mut worker, host.now(), &mut Vec::new()), hold);
            plugin.publish(&active, &policy, key, active.metrics.events());
        }
    }

    /// The outcome is known; what is left to be done is what counts in flight.
    fn ending(lasting: Lasting) -> Self {
        if lasting.is_nothing() { RequestState::Over } else { RequestState::Ending(lasting) }
    }

    fn steering(&self) -> Option<&Steering> {
        match self {
            RequestState::Admitted(admitted) => admitted.steering.as_ref(),
            RequestState::OnDetour(detour) => detour.inner().steering(),
            _ => None,
        }
    }
}

/// Copies a piece of an answer that is to be kept, of `size` bytes, if it still is.
fn copied(capturing: Option<Box<Capturing>>, host: &dyn Host, size: usize) -> Option<Box<Capturing>> {
    capturing.and_then(|capturing| capturing.add(host, size)).map(Box::new)
}

/// Keeps an answer that has come to its end, if it is to be kept.
fn keep(capturing: Option<Box<Capturing>>, plugin: &RequestPlugin, store: &mut dyn Store, host: &dyn Host) {
    if let Some(capturing) = capturing {
        capturing.keep(plugin, store, host);
    }
}

/// Places a reply in the place of an answer that the proxy has made. `state` is how far the request has come without it.
pub(super) fn stand_in(
    plugin: &RequestPlugin,
    host: &dyn Host,
    active: &ActivePolicy,
    state: RequestState,
    local: LocalReply,
    stream: u32,
    ended: bool,
) -> (RequestState, RequestEffect) {
    let lasting = if let RequestState::Ending(lasting) = state { lasting } else { Lasting::default() };
    let (serialized, now) = (host.headers(Headers::Response), host.now());
    let rules = &active.policy().outcome;
    let answered = fallback::Answered { serialized: &serialized, rules, ended, is_hosts: false };
    let placed = fallback::place(host, answered, local, now);
    RequestState::placed(plugin, Some(placed), lasting, stream, now)
}

/// What becomes of a request.
enum Admission {
    /// It goes on.
    Passed(RequestState),
    /// It is answered.
    Answered(LocalReply),
    /// It goes to another cluster.
    Sent(Box<Sender>),
}

/// Replies to a request that was rejected. A gRPC reply's status and message are put into its headers when it comes by, before the
/// filters that translate them see it: Envoy makes a reply gRPC only where the client's own request was.
fn reject(mut local: LocalReply) -> (RequestState, RequestEffect) {
    let Some(status) = local.reply.grpc else { return (RequestState::Over, RequestEffect::Reply(local)) };
    let message = core::mem::take(&mut local.reply.body);
    (RequestState::GrpcRejected(status, message), RequestEffect::Reply(local))
}

/// Decides on the request, which has `left` other clusters. The reply is to be sent when nothing is borrowed.
fn admit(
    plugin: &RequestPlugin,
    active: &Rc<ActivePolicy>,
    store: &mut dyn Store,
    host: &dyn Host,
    facts: &Facts<'_>,
    ended: bool,
    left: &Left,
) -> Option<Admission> {
    let others = if active.goes_further && left.is_none() {
        further::others(plugin, active, store, host, facts)
    } else {
        Err(Unserved::TooLate)
    };
    let mut events = active.metrics.events();
    let mut worker = plugin.vm.worker.try_borrow_mut().ok()?;
    let mut policy = active.state.try_borrow_mut().ok()?;

    let mut now = host.recently();
    let key = policy.key(&mut worker, store, now, |field| facts.get(field));
    let mut fresh = None;
    let untimed = if active.is_untimed { policy.admit_recently(store, key, now, &mut events) } else { None };
    let decision = untimed.map(Decision::Admitted).unwrap_or_else(|| {
        now = host.now();
        fresh = Some(now);
        policy.admit(&mut Cx::new(store, &mut worker, now, &mut events), key)
    });
    let mut failed = Vec::new();
    let asked = policy.asked_for(key, facts, ended);
    let mut route = |route: &Route| {
        if active.is_unrouted(Leg::First, now) {
            return Err(Unserved::NotRouted);
        }
        left.may_go(&facts.get(Field::Cluster).unwrap_or_default(), route)
    };
    let cx = &mut Cx::new(store, &mut worker, now, &mut events);
    let (admission, disposition) = match decision {
        Decision::Rejected(rejection) => {
            let Cx { store, events, .. } = cx;
            let mut sources = Sources {
                value: &mut |field: Field<'_>| facts.get(field).map(Cow::into_owned),
                stale: &mut || policy.find_answer(&mut **store, key, asked.as_ref(), now),
                route: &mut route,
                call: &mut |_| Err(Unserved::TooLate),
            };
            let (reason, retry_after) = (rejection.reason, Some(rejection.retry_after));
            let context = ReplyContext { reason, retry_after, grpc: facts.grpc() };
            match fallback::serve_rejection(active.policy(), context, 0, &mut sources, &mut failed, events) {
                Served::Reply(local) => {
                    let disposition = local.disposition;
                    (Admission::Answered(local), disposition)
                }
                Served::Detour(detour) => {
                    let sender = Sender::new(active, key, facts, (detour, asked), now);
                    (Admission::Sent(Box::new(sender)), Disposition::Route(reason))
                }
            }
        }
        Decision::Admitted(mut ticket) => {
            if let Some(reason) = ticket.would_be_rejected() {
                let Cx { store, events, .. } = &mut *cx;
                let mut sources = Sources {
                    value: &mut |_| None,
                    stale: &mut || policy.find_answer(&mut **store, key, asked.as_ref(), now),
                    route: &mut route,
                    call: &mut |_| Err(Unserved::TooLate),
                };
                ticket.would_be_served = fallback::would_serve(active.policy(), reason, &mut sources, events);
            }
            let has_stale = others.is_ok()
                && active.policy().has_stale_before_further()
                && policy.find_answer(&mut *cx.store, key, asked.as_ref(), now).is_ok();
            let mut admitted = send(host, active, &mut policy, cx, facts, (ticket, ended), (others, has_stale));
            admitted.waiting = active.judges.then(|| plugin.wait_for_answer(fresh));
            admitted.asked = asked.map(Box::new);
            let disposition = admitted.disposition;
            (Admission::Passed(RequestState::Admitted(Box::new(admitted))), disposition)
        }
    };
    let steering = if let Admission::Passed(state) = &admission { state.steering() } else { None };
    if disposition == Disposition::Admitted && steering.is_none_or(Steering::is_plain) {
        active.log_admitted(host, &policy, key);
    } else {
        let mut line = access_log::line(&active.policy().name, &policy.key_text(key), disposition);
        if let Admission::Sent(sender) = &admission {
            access_log::push_cluster(&mut line, sender.cluster());
        }
        access_log::push_failed(&mut line, &failed);
        access_log::push_steering(&mut line, steering);
        access_log::write(host, &line);
    }
    plugin.publish(active, &policy, key, events);
    Some(admission)
}

/// Tells the router and the attempt seat about an admitted request: what may be retried, which hosts to use, and which `others` may serve
/// after the last attempt.
fn send(
    host: &dyn Host,
    active: &Rc<ActivePolicy>,
    policy: &mut RequestPolicy,
    cx: &mut Cx<'_>,
    facts: &Facts<'_>,
    (ticket, ended): (Ticket, bool),
    (others, has_stale): (Result<Vec<Vec<u8>>, Unserved>, bool),
) -> Admitted {
    let key = ticket.key();
    let judges_hosts = policy.outlier().is_some();
    // Before anything is said to the router in them.
    let repeat = if active.calls { Repeat::begin(active.policy(), facts, ended) } else { None };
    let (eligibility, client_waits) = eligibility(active.policy(), facts).unzip();
    // Asked for only where something follows from it.
    let cluster = if eligibility.is_some() || judges_hosts {
        policy.cluster_hash(key, || facts.get(Field::Cluster).unwrap_or_default())
    } else {
        ClusterHash::OF_THE_KEY
    };
    let client_waits = client_waits.unwrap_or_else(|| active.client_waits(facts, cx.now));
    let unrouted = match &others {
        Err(why) => *why,
        Ok(_) if eligibility != Some(Eligibility::All) => Unserved::Method,
        Ok(_) => Unserved::TooLate,
    };
    let further = others.ok().zip(eligibility);
    let further = further.and_then(|(others, eligibility)| FurtherAttempt::to(others, eligibility, has_stale));
    let plan = eligibility.and_then(|eligibility| {
        policy.plan_retries(cx, &ticket, Asked { eligibility, cluster, ended, client_waits }, further)
    });
    let mut steering = None;
    let (mut retrying, mut context) = match (eligibility, plan) {
        (_, Some(plan)) => {
            let (retrying, context) = instruct_router(host, active, plan);
            (Some(retrying), context)
        }
        (Some(eligibility), None) => {
            (Some(Retrying { eligibility, denial: None, seat: true, has_context: false }), None)
        }
        (None, None) => (None, None),
    };
    if judges_hosts {
        let cluster_name = facts.get(Field::Cluster).unwrap_or_default();
        let sending = Sending { cluster, cluster_name: &cluster_name, eligibility, context };
        let rules = active.policy().active_outlier();
        let asks = Asks { selector: &|| subset::selector(host), hash: &|| affinity::hash(rules?, facts, host) };
        let sent = policy.send(cx, &ticket, sending, &asks);
        (context, steering) = (sent.context, sent.steering);
    }
    if let Some(context) = &mut context {
        context.client_deadline = client_waits.deadline(context.admitted, ended.then_some(context.admitted));
    }
    let seat = context.as_ref().is_some_and(|context| context.seat);
    let goes_further = context.as_ref().is_some_and(|context| context.further.is_some());
    let has_context = context.is_some_and(|context| retry_context::write(host, &context).is_ok());
    if let Some(retrying) = &mut retrying {
        retrying.has_context &= has_context;
    }
    let judge = if seat && has_context { HostJudge::AttemptSeat } else { HostJudge::RequestSeat };
    Admitted {
        retrying,
        cluster,
        hosts: judges_hosts.then_some(judge),
        goes_further: goes_further && has_context,
        unrouted,
        own_cluster: if goes_further { facts.get(Field::Cluster).map(Cow::into_owned) } else { None },
        last_byte: LastByte::of_headers(ended),
        client_waits,
        // Where the attempt seat cannot be told it would not remove the header.
        steering: steering.filter(|_| has_context),
        disposition: if ticket.is_probe() { Disposition::Probe } else { Disposition::Admitted },
        repeat,
        grpc: if active.replaces_answers { facts.grpc() } else { None },
        kept: active.kept.iter().map(|part| facts.get(fallback::field(part)?).map(Cow::into_owned)).collect(),
        ..Admitted::new(active, ticket)
    }
}

impl Admitted {
    /// One of which nothing is known but that it was admitted.
    fn new(active: &Rc<ActivePolicy>, ticket: Ticket) -> Self {
        Admitted {
            active: Rc::clone(active),
            ticket,
            grpc: None,
            kept: Vec::new(),
            asked: None,
            repeat: None,
            capturing: None,
            response: None,
            met: None,
            running: None,
            retrying: None,
            cluster: ClusterHash::OF_THE_KEY,
            hosts: None,
            goes_further: false,
            own_cluster: None,
            gone: None,
            unrouted: Unserved::TooLate,
            last_byte: LastByte::WithHeaders,
            client_waits: ClientWaits::default(),
            steering: None,
            disposition: Disposition::Admitted,
            waiting: None,
        }
    }

    /// Whether something follows from how long a response takes.
    fn is_timed(&self) -> bool {
        self.active.policy().outcome.slow_after.is_some()
            || matches!(self.hosts, Some(HostJudge::RequestSeat | HostJudge::Afterwards))
            || self.steering.as_ref().is_some_and(|steering| steering.in_flight.is_some())
            || self.asked.is_some()
    }

    /// Begins to copy a good answer that has these headers, as the host serializes them, if it may be kept.
    fn capture(&self, host: &dyn Host, serialized: &[u8]) -> Option<Box<Capturing>> {
        let (asked, rules) = (self.asked.as_ref()?, self.active.policy().stale()?);
        let capture = Capture::begin(asked, serialized, rules, self.ticket.admitted(), host.now())?;
        Some(Box::new(Capturing { active: Rc::clone(&self.active), key: self.ticket.key(), capture }))
    }

    /// What it stands for that the request has ended without an answer.
    fn unanswered(&self, host: &dyn Host, flags: u64) -> Answer {
        let is_judged = self.active.policy().outcome.client_gone == ClientGone::Auto
            // A client that had not sent all has kept the host waiting.
            && self.last_byte != LastByte::Awaited;
        if !is_judged || !outcome::client_left(flags) || is_disconnected_locally(host) {
            return Answer::NotTheHost;
        }
        let now = host.now();
        self.active.note_client_left(now);
        let (began, mut waits) = (self.ticket.admitted(), self.client_waits);
        // The headers can be read again now; of those that tell of the client the router leaves this one as it was.
        waits.from_begin =
            waits.from_begin.or_else(|| Client::read_grpc_timeout(|name| host.header(Headers::Request, name)));
        match waits.deadline(began, Some(self.last_byte.counts_from(began, now))) {
            Some(deadline) if client::gave_up(began, deadline, now) => Answer::TimedOut,
            _ => Answer::ClientLeft,
        }
    }
}

/// The address of the host of the last attempt; without a host there was no attempt.
fn host_address(host: &dyn Host) -> Option<Vec<u8>> {
    host.property("upstream\0address").filter(|address| !address.is_empty())
}

/// Judges what came back and reports it. Gives what to send in its place, if the answer can still be replaced and a fallback is for
/// it.
fn settle(
    plugin: &RequestPlugin,
    store: &mut dyn Store,
    host: &dyn Host,
    admitted: Admitted,
    answer: Answer,
    timing: &ResponseTiming,
) -> Option<(Lasting, Option<Substitute>)> {
    let Admitted {
        active,
        mut ticket,
        grpc,
        kept,
        asked,
        repeat,
        retrying,
        cluster,
        hosts,
        last_byte,
        mut steering,
        disposition,
        met,
        running,
        gone,
        unrouted,
        ..
    } = admitted;
    let document = active.policy();
    let (key, would_be_served, sent) = (ticket.key(), ticket.would_be_served(), ticket.admitted());
    plugin.pauses.sign(timing.at);
    let took = timing.began.since(last_byte.counts_from(sent, timing.began));
    let took = took.saturating_sub(plugin.pauses.between(sent, timing.began));
    let by_status = Outcome::judge(&document.outcome, answer, took, timing.retry_after);
    let outcome = timing.by_headers.applied_to(by_status);
    // The client is served as after any other failure.
    let is_excused = outcome.failed()
        && End::of(answer).is_some_and(End::is_without_answer)
        && plugin.pauses.excuse(sent, timing.began);
    let mut events = active.metrics.events();
    let mut worker = plugin.vm.worker.try_borrow_mut().ok()?;
    let mut policy = active.state.try_borrow_mut().ok()?;
    let cx = &mut Cx::new(store, &mut worker, timing.at, &mut events);
    if let Some(running) = &running {
        ticket.permit = running.permit.get();
    }
    if answer == Answer::CutShort {
        ticket.permit = policy.pass_probe(cx, key, ticket.permit);
    }
    let hold = policy.report(cx, ticket, if is_excused { &Outcome::IGNORED } else { &outcome });
    if is_excused {
        cx.events.push(Event::Count(Metric::PausedRequests));
    }
    let reads = hosts.is_some_and(|judge| !matches!(judge, HostJudge::Afterwards));
    let is_worth_reading = retrying.as_ref().is_some_and(|retrying| retrying.is_worth_reading(timing, &outcome))
        || reads && (timing.is_pointed || timing.place == Place::Cut || outcome.verdict != Verdict::Success);
    let mut context = if is_worth_reading { retry_context::read(host) } else { None };
    if let Some(context) = &context {
        cx.events.push(Event::Add(Metric::Contention, context.contended.into()));
        cx.events.push(Event::Add(Metric::PausedAttempts, context.excused.into()));
    }
    let gave_up = timing.place == Place::Cut && answer == Answer::TimedOut;
    if let Some(context) = context.as_mut().filter(|_| gave_up) {
        // The attempt seat, which is called after this one when a client leaves, can neither read the headers nor know when a
        // proxy's time began.
        context.client_deadline = Some(timing.at);
        let _ = retry_context::write(host, context);
    }
    // A header may be the route's, of which an attempt seat writes nothing.
    let is_unseen = context.as_ref().is_some_and(|context| context.misses_seat(timing.is_pointed, answer, &by_status));
    if is_unseen {
        policy.miss_attempt_seat(key, cluster, timing.at);
    }
    let unsettled = context.as_mut().and_then(RetryContext::take_unsettled);
    if let Some((context, unsettled)) = context.as_mut().zip(unsettled) {
        open::settle_attempt(&mut policy, cx, (key, cluster), context, unsettled, (answer, outcome.verdict));
    }
    if let Some(judge) = hosts {
        let mut address = None;
        let is_judged = matches!(judge, HostJudge::AttemptSeat) && !is_unseen
            || context.as_ref().is_some_and(|context| context.seen);
        if is_judged && context.is_some() {
            policy.invalidate_hosts(key, cluster);
        } else if !is_judged && !is_excused {
            let sent = running.and_then(|running| running.host_since.get()).unwrap_or(sent);
            address = judge_host(host, &mut policy, cx, (key, cluster), met, (answer, &outcome, took, sent));
        }
        policy.note_subset(cx, (key, cluster), address.as_deref(), steering.as_ref(), host);
        let is_any_excused = is_excused || context.as_ref().is_some_and(|context| context.excused > 0);
        if let Some(steering) = steering.as_ref().filter(|_| outcome.counts() && !is_any_excused) {
            // A retry may have hidden it.
            let first = context.as_ref().and_then(|context| context.attempts.first());
            let first = first.filter(|first| first.verdict == Verdict::Failure);
            let (took, failed) = first.map_or((took, outcome.failed()), |first| (first.took, true));
            let answered = || first.map(|first| first.host.clone()).or(address).or_else(|| host_address(host));
            policy.observe((key, cluster), steering, (took, failed, timing.at), answered);
        }
    }
    let mut accounted = Accounted::default();
    if let Some(retrying) = &retrying {
        let tried = retrying.tried(host, context.as_ref(), is_unseen);
        // After what ended like that there is nothing to retry.
        let answer = if timing.place == Place::Cut { Answer::NotTheHost } else { answer };
        accounted = policy.account_retries(cx, key, &tried, answer, &outcome);
    }
    let may_follow = retrying.as_ref().is_some_and(|retrying| retrying.eligibility == Eligibility::All);
    let would_go_further = document.mode == Mode::Shadow && document.goes_further() && may_follow;
    let mut failed = Vec::new();
    if gone.is_some() {
        cx.events.push(Event::Count(Metric::FallbackRoute));
    }
    let reply = (timing.place == Place::Headers && gone.is_none()).then(|| {
        let Cx { store, events, .. } = &mut *cx;
        let mut sources = Sources {
            value: &mut |wanted: Field<'_>| {
                let index = active.kept.iter().position(|part| fallback::field(part) == Some(wanted))?;
                kept.get(index)?.clone()
            },
            stale: &mut || policy.find_answer(&mut **store, key, asked.as_deref(), timing.at),
            // Where it is only counted nothing was tried.
            route: &mut |_| if would_go_further { Ok(()) } else { Err(unrouted) },
            call: &mut |call| repeat.as_ref().ok_or(Unserved::Kind)?.may(call, answer),
        };
        let retries = accounted.retries;
        let answered = FailedAnswer { answer, outcome: &outcome, retries, would_be_served, grpc };
        fallback::serve_failure(document, answered, &mut sources, &mut failed, events)
    });
    let served = reply.flatten();
    let attempts = context.as_ref().map_or(&[][..], |context| &context.attempts);
    let mut tail = String::new();
    if served.is_some() || !failed.is_empty() || !attempts.is_empty() || accounted.denial.is_some() {
        let disposition = match (&gone, &served) {
            (Some(detour), _) => Disposition::Route(detour.context.reason),
            (None, Some(StandIn::Reply(local))) => local.disposition,
            (None, _) => disposition,
        };
        let mut line = access_log::line(&document.name, &policy.key_text(key), disposition);
        if let Some(detour) = &gone {
            access_log::push_cluster(&mut line, &detour.cluster);
        }
        access_log::push_failed(&mut line, &failed);
        access_log::push_steering(&mut tail, steering.as_ref());
        access_log::push_attempts(&mut tail, attempts, accounted.denial);
        line.push_str(&tail);
        access_log::write(host, &line);
    }
    plugin.publish(&active, &policy, key, events);
    drop(policy);
    let substitute = match served {
        Some(StandIn::Reply(local)) => Some(Substitute::Reply(local)),
        Some(StandIn::Call(call)) => repeat.map(|repeat| {
            let active = Rc::clone(&active);
            let to = ToRepeat { active, key, asked: call, repeat, kept, stale: asked, answer, unrouted, failed, tail };
            Substitute::Call(Box::new(to))
        }),
        None => None,
    };
    let at_host = steering.as_mut().and_then(|steering| steering.in_flight.take());
    Some((Lasting { of_policy: hold.map(|hold| (active, hold)), at_host, capturing: None }, substitute))
}

/// Settles after the response's headers have gone on to the client.
fn settle_late(
    plugin: &RequestPlugin,
    store: &mut dyn Store,
    host: &dyn Host,
    admitted: Admitted,
    answer: Answer,
    place: Place,
) -> RequestState {
    let now = host.now();
    let (began, retry_after, by_headers, is_pointed) = match &admitted.response {
        Some(OpenResponse { head, came, .. }) => (*came, head.retry_after, head.by_headers, head.points_to_record()),
        None => (now, None, HeaderVerdict::Nothing, false),
    };
    let timing = ResponseTiming { began, at: now, retry_after, by_headers, place, is_pointed };
    let settled = settle(plugin, store, host, admitted, answer, &timing);
    RequestState::ending(settled.unwrap_or_default().0)
}

impl Retrying {
    /// Whether the attempt seat may have written something that matters: it says so in the response's headers, and where it
    /// cannot the request has failed.
    fn is_worth_reading(&self, timing: &ResponseTiming, outcome: &Outcome) -> bool {
        let is_cut = timing.place == Place::Cut;
        self.has_context && (timing.is_pointed || is_cut || !self.seat || outcome.verdict != Verdict::Success)
    }

    /// What is known about the attempts.
    fn tried<'a>(&self, host: &dyn Host, context: Option<&'a RetryContext>, is_unseen: bool) -> AttemptsMade<'a> {
        // An attempt seat counts itself.
        let attempts = if self.seat && !is_unseen || !self.has_context {
            None
        } else {
            property_number(host, "upstream\0request_attempt_count")
        };
        AttemptsMade { eligibility: self.eligibility, denial: self.denial, context, attempts: attempts.unwrap_or(0) }
    }
}

/// What a request may be retried after, and how long its client waits; `None` if the policy says nothing about retries.
fn eligibility(policy: &Policy, facts: &Facts<'_>) -> Option<(Eligibility, ClientWaits)> {
    let retry = policy.retry.as_ref().filter(|retry| retry.mode != Mode::Off)?;
    let client = Client::read(facts.read_headers());
    let method = facts.get(Field::Method).unwrap_or_default();
    let is_keyed = || facts.get(Field::Header(&retry.idempotency_header)).is_some();
    Some((eligibility::of(retry, &method, is_keyed, client.is_retry), client.waits))
}

/// Judges the host of a request's last attempt, where no attempt seat does. Gives its address, if it was looked at.
fn judge_host(
    host: &dyn Host,
    policy: &mut RequestPolicy,
    cx: &mut Cx<'_>,
    (key, cluster): (Key, ClusterHash),
    met: Option<Vec<u8>>,
    (answer, outcome, took, sent): (Answer, &Outcome, Duration, Timestamp),
) -> Option<Vec<u8>> {
    if answer == Answer::ClientLeft && outcome.slow {
        if let Some(address) = host_address(host) {
            policy.abandon_host(cx, key, cluster, (&address, sent, took));
        }
        return None;
    }
    let end = End::of(answer)?;
    if outcome.verdict == Verdict::Success && met.is_none() && !policy.wants_host(cx, key, cluster) {
        return None;
    }
    let address = met.or_else(|| host_address(host))?;
    let one = HostAttempt { host: &address, end, verdict: outcome.verdict, took, sent };
    policy.judge_host(cx, key, cluster, one, None);
    Some(address)
}

/// Tells the router what may be retried. Gives what the attempt seat is to be told, too.
fn instruct_router(host: &dyn Host, active: &ActivePolicy, plan: Plan) -> (Retrying, Option<RetryContext>) {
    // What the host refuses to set is not retried as it should be, but the request goes on.
    let set = |name: &str, value: &str| host.set_header(Headers::Request, name, value);
    let headers = match plan.further {
        Some(after) => active.further_headers(after, plan.eligibility != Eligibility::Nothing),
        None => active.router_headers(plan.eligibility, plan.seat),
    };
    for (name, value) in headers {
        set(name, value);
    }
    if let Some(timeout) = plan.timeout {
        set("x-envoy-upstream-rq-timeout-ms", &millis(timeout).to_string());
    }
    if let Some(lasts) = plan.attempt_lasts {
        set("x-envoy-upstream-rq-per-try-timeout-ms", &millis(lasts).to_string());
    }
    let has_context = plan.context.is_some();
    (Retrying { eligibility: plan.eligibility, denial: plan.denial, seat: plan.seat, has_context }, plan.context)
}

/// What answered, what the header rules make of that, and whether it was a host; `None` when it stands in trailers still to come.
fn answer_of(host: &dyn Host, head: &ResponseHead, ended: bool) -> Option<(Answer, HeaderVerdict, bool)> {
    let hosts_own = || head.answer(ended).map(|answer| (answer, head.by_headers, true));
    if head.timed_by_router {
        return hosts_own();
    }
    let details = host.property("response\0code_details").unwrap_or_default();
    if details == VIA_UPSTREAM {
        hosts_own()
    } else if details.starts_with(NOT_RETRIED.as_bytes()) {
        // The attempt seat's reply stands for how the attempt before it ended.
        let last = last_attempt(retry_context::read(host).as_ref());
        Some(last.unwrap_or((Answer::NoAnswer, Verdict::Success.into(), false)))
    } else {
        // Its headers are no host's.
        Some((head.local_answer(response_flags(host), &details), HeaderVerdict::Nothing, false))
    }
}

/// What answered, what the header rules make of that, and whether it was a host.
type LastAttempt = (Answer, HeaderVerdict, bool);

/// How the last attempt at the request's own cluster ended, as [`answer_of`] says it.
fn last_attempt(context: Option<&RetryContext>) -> Option<LastAttempt> {
    let last = context?.attempts.last()?;
    Some((last.end.answer(), last.verdict.into(), false))
}

/// Removes what the attempt seat has added to a response.
fn strip(host: &dyn Host, head: &ResponseHead) {
    let remove = |name: &str| host.remove_header(Headers::Response, name);
    if head.asks_retry {
        remove(markers::RETRY_HEADER);
    }
    if head.has_attempts {
        remove(markers::ATTEMPTS_HEADER);
    }
    if head.ratelimited == Some(SetBy::AttemptSeat) {
        remove(markers::FORBID_HEADER);
    }
}
