//! The request seat: an HTTP filter just before the router, which sees one logical request.

use holdfast_engine::http::markers;
use holdfast_engine::retry::eligibility;
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::time::{Timestamp, millis};
use holdfast_engine::fallback::{self, Served};
use holdfast_engine::http::attempt::End;
use holdfast_engine::http::outcome::{self, Answer, Outcome, Verdict};
use holdfast_engine::http::request::Field;
use holdfast_engine::http::response::{self, NOT_RETRIED, ResponseHead, SetBy, VIA_UPSTREAM};
use holdfast_engine::observe::metrics::Metric;
use holdfast_engine::outlier::hosts::{Judged, Steering};
use holdfast_engine::outlier::steering;
use holdfast_engine::request::access_log::{self, Fate};
use holdfast_engine::request::{
    Accounted, Asked, Decision, Event, Governed, InFlightHold, Plan, Sending, Ticket, Tried,
};
use holdfast_engine::retry::{Denial, Leave};
use holdfast_engine::seats::retry_context;
use holdfast_engine::store::cluster::ClusterHash;
use holdfast_engine::store::keys::Key;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::document::{Mode, Policy};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::facts::Facts;
use crate::governing::{Governing, tell_access_log};
use crate::host::{self, Headers};
use crate::root::Plugin;
use crate::shared::SharedData;
use crate::shared_exchange;

/// One request's context.
pub struct RequestSeat {
    plugin: Option<Rc<Plugin>>,
    exchange: Exchange,
}

/// How far the request has come. Taking the admitted state out is the only way to report or to reply, so neither
/// can happen twice.
enum Exchange {
    /// Not governed by any policy, or over.
    Over,
    /// Passed on; the outcome is still to come.
    Admitted(Box<Admitted>),
    /// The outcome is known; the response has not ended and holds a place in flight.
    Ending(Rc<Governing>, InFlightHold),
}

/// An admitted request.
struct Admitted {
    governing: Rc<Governing>,
    ticket: Ticket,
    /// Whether the client speaks gRPC; only asked where an answer may have to be replaced.
    grpc: bool,
    /// What a fallback inserts of the request, in the order of `Governing::kept`.
    kept: Vec<Option<Vec<u8>>>,
    /// The headers of a response that is judged by its trailers, and when they came.
    head: Option<(ResponseHead, Timestamp)>,
    /// What the router was told about retries, if anything.
    retrying: Option<Retrying>,
    /// Its cluster, where the key does not tell it.
    cluster: ClusterHash,
    /// Who judges the host, if anybody does.
    hosts: Option<JudgesHosts>,
    /// Where the router was told to go, if it was.
    steering: Option<Steering>,
    /// What the access log says of the request so far.
    fate: Fate,
}

/// What the router was told about retries.
struct Retrying {
    /// What the request may be retried after.
    leave: Leave,
    /// Why it is not retried at all, if it is not.
    denial: Option<Denial>,
    /// Whether an attempt seat is known.
    seat: bool,
    /// Whether an attempt seat was told of the request.
    is_told: bool,
}

/// Who judges the host of a request.
#[derive(Clone, Copy)]
struct JudgesHosts {
    /// Whether an attempt seat is known, which sees every try.
    seat: bool,
}

/// How an answer came.
struct Came {
    /// When it began.
    began: Timestamp,
    /// When it could be judged.
    at: Timestamp,
    /// How long the host asked to be left alone.
    retry_after: Option<Duration>,
    /// Whether nothing of it has gone to the client yet.
    replaceable: bool,
    /// Whether it has a header of the attempt seat's that says that it has written a record, or a host's that pretends so.
    is_pointed: bool,
}

impl RequestSeat {
    /// A context; without a plugin it lets everything pass.
    pub fn new(plugin: Option<Rc<Plugin>>) -> Self {
        RequestSeat { plugin, exchange: Exchange::Over }
    }

    /// Decides on the request. A reply to send is returned, for nothing may be borrowed while the host sends it.
    fn admit(&mut self, facts: &Facts, ended: bool) -> Option<Served> {
        let plugin = self.plugin.as_ref()?;
        let governing = plugin.policies.get(plugin.index.find(|field| facts.get(field))?)?;
        if !governing.is_active {
            return None;
        }
        let mut shared = plugin.shared;
        let mut events = governing.events();
        let mut worker = plugin.vm.worker.try_borrow_mut().ok()?;
        let mut governed = governing.governed.try_borrow_mut().ok()?;
        let policy = governing.policy();

        let mut now = Timestamp(host::lately());
        let key = governed.key(&mut worker, &mut shared, now, |field| facts.get(field));
        let unhurried =
            if governing.is_untimed { governed.admit_unhurried(&mut shared, key, now, &mut events) } else { None };
        let decision = unhurried.map(Decision::Admitted).unwrap_or_else(|| {
            now = Timestamp(host::now());
            governed.admit(&mut worker, &mut shared, key, now, &mut events)
        });
        let served = match decision {
            Decision::Rejected(rejection) => {
                let value = &mut |field: Field<'_>| facts.get(field).map(Cow::into_owned);
                Some(fallback::serve_rejection(policy, &rejection, asks_grpc(facts), value, &mut events))
            }
            Decision::Admitted(ticket) => {
                let judges_hosts = governed.outlier().is_some();
                let leave = leave(policy, facts);
                // Asked for only where something follows from it.
                let cluster = if leave.is_some() || judges_hosts {
                    governed.cluster_hash(key, || facts.get(Field::Cluster).unwrap_or_default())
                } else {
                    ClusterHash::OF_THE_KEY
                };
                let plan = leave.and_then(|leave| {
                    let asked = Asked { leave, cluster, ended };
                    governed.plan_retries(&mut worker, &mut shared, &ticket, asked, now)
                });
                let mut steering = None;
                let (mut retrying, mut exchange) = match (leave, plan) {
                    (_, Some(plan)) => {
                        let (retrying, exchange) = tell_router(governing, plan);
                        (Some(retrying), exchange)
                    }
                    (Some(leave), None) => (Some(Retrying { leave, denial: None, seat: true, is_told: false }), None),
                    (None, None) => (None, None),
                };
                if judges_hosts {
                    let cluster_name = facts.get(Field::Cluster).unwrap_or_default();
                    let sending = Sending { cluster, cluster_name: &cluster_name, leave, exchange };
                    let sent = governed.send(&mut worker, &mut shared, &ticket, sending, now, &mut events);
                    (exchange, steering) = (sent.exchange, sent.steering);
                }
                let seat = exchange.as_ref().is_some_and(|exchange| exchange.seat);
                let is_told = exchange.is_some_and(|exchange| shared_exchange::write(&exchange).is_ok());
                if let Some(retrying) = &mut retrying {
                    retrying.is_told &= is_told;
                }
                // Where the attempt seat cannot be told it would not remove the header.
                let steering = steering.filter(|_| is_told);
                self.exchange = Exchange::Admitted(Box::new(Admitted {
                    retrying,
                    cluster,
                    hosts: judges_hosts.then_some(JudgesHosts { seat: seat && is_told }),
                    steering,
                    fate: if ticket.is_probe() { Fate::Probe } else { Fate::Admitted },
                    governing: Rc::clone(governing),
                    grpc: governing.replaces_answers && asks_grpc(facts),
                    kept: governing
                        .kept
                        .iter()
                        .map(|part| facts.get(fallback::field(part)?).map(Cow::into_owned))
                        .collect(),
                    head: None,
                    ticket,
                }));
                None
            }
        };
        let fate = match (&served, &self.exchange) {
            (Some(served), _) => served.fate,
            (None, Exchange::Admitted(admitted)) => admitted.fate,
            (None, _) => Fate::Admitted,
        };
        let steering = match &self.exchange {
            Exchange::Admitted(admitted) => admitted.steering.as_ref(),
            Exchange::Over | Exchange::Ending(..) => None,
        };
        if fate == Fate::Admitted && steering.is_none() {
            governing.tell_admitted(&governed, key);
        } else {
            let mut line = access_log::line(&policy.name, governed.key_text(key), fate);
            access_log::push_steering(&mut line, steering);
            tell_access_log(&line);
        }
        plugin.tell(governing, &governed, key, events);
        served
    }

    /// Judges what came back and reports it. Gives what to send in its place, if the answer can still be replaced and
    /// a fallback is for it.
    fn settle(&mut self, admitted: Admitted, answer: Answer, came: &Came) -> Option<Served> {
        let plugin = self.plugin.as_ref()?;
        let Admitted { governing, ticket, grpc, kept, retrying, cluster, hosts, steering, fate, .. } = admitted;
        let policy = governing.policy();
        let outcome = Outcome::judge(&policy.outcome, answer, came.began.since(ticket.admitted()), came.retry_after);
        let (key, would_be_served, sent) = (ticket.key(), ticket.would_be_served(), ticket.admitted());
        let mut events = governing.events();
        let mut shared = plugin.shared;
        let mut worker = plugin.vm.worker.try_borrow_mut().ok()?;
        let mut governed = governing.governed.try_borrow_mut().ok()?;
        let hold = governed.report(&mut worker, &mut shared, ticket, &outcome, came.at, &mut events);
        let is_worth_reading =
            retrying.as_ref().is_some_and(|retrying| retrying.is_worth_reading(came.is_pointed, &outcome))
                || hosts.is_some() && (came.is_pointed || outcome.verdict != Verdict::Success);
        let exchange = is_worth_reading.then(shared_exchange::read).flatten();
        events.extend(exchange.as_ref().map(|exchange| Event::Add(Metric::Contention, exchange.contended.into())));
        let is_unseen =
            exchange.as_ref().is_some_and(|exchange| exchange.misses_seat(came.is_pointed, answer, &outcome));
        if is_unseen {
            governed.miss_attempt_seat(key, cluster, came.at);
        }
        if let Some(hosts) = hosts {
            let is_judged = hosts.seat && !is_unseen || exchange.as_ref().is_some_and(|exchange| exchange.seen);
            if is_judged && exchange.is_some() {
                governed.look_again_at_hosts(key, cluster);
            } else if !is_judged {
                let one = (answer, &outcome, came.began.since(sent), sent);
                let (store, events) = (&mut shared, &mut events);
                judge_host(&mut governed, &mut worker, store, key, cluster, one, came.at, events);
            }
        }
        let mut accounted = Accounted::default();
        if let Some(retrying) = &retrying {
            let tried = retrying.tried(exchange.as_ref(), is_unseen);
            let store = &mut shared;
            accounted =
                governed.account_retries(&mut worker, store, key, &tried, answer, &outcome, came.at, &mut events);
        }
        let served = came.replaceable.then(|| {
            let value = &mut |wanted: Field<'_>| {
                let place = governing.kept.iter().position(|part| fallback::field(part) == Some(wanted))?;
                kept.get(place)?.clone()
            };
            fallback::serve_failure(
                policy,
                answer,
                &outcome,
                accounted.retries,
                would_be_served,
                grpc,
                value,
                &mut events,
            )
        });
        let served = served.flatten();
        let tries = exchange.as_ref().map_or(&[][..], |exchange| &exchange.tries);
        if served.is_some() || !tries.is_empty() || accounted.denial.is_some() {
            let fate = served.as_ref().map_or(fate, |served| served.fate);
            let mut line = access_log::line(&policy.name, governed.key_text(key), fate);
            access_log::push_steering(&mut line, steering.as_ref());
            access_log::push_tries(&mut line, tries, accounted.denial);
            tell_access_log(&line);
        }
        plugin.tell(&governing, &governed, key, events);
        drop(governed);
        if let Some(hold) = hold {
            self.exchange = Exchange::Ending(governing, hold);
        }
        served
    }

    /// Settles after the response's headers have gone on to the client.
    fn settle_late(&mut self, admitted: Admitted, answer: Answer) {
        let now = Timestamp(host::now());
        let (began, retry_after, is_pointed) = match &admitted.head {
            Some((head, came)) => (*came, head.retry_after, head.points_to_record()),
            None => (now, None, false),
        };
        self.settle(admitted, answer, &Came { began, at: now, retry_after, replaceable: false, is_pointed });
    }

    /// Takes the admitted request out, if its outcome is still to come.
    fn take(&mut self) -> Option<Admitted> {
        match std::mem::replace(&mut self.exchange, Exchange::Over) {
            Exchange::Admitted(admitted) => Some(*admitted),
            other => {
                self.exchange = other;
                None
            }
        }
    }

    /// Gives the place in flight back, if the request held one.
    fn release(&mut self) {
        let Exchange::Ending(governing, hold) = std::mem::replace(&mut self.exchange, Exchange::Over) else { return };
        let Some(plugin) = &self.plugin else { return };
        let mut shared = plugin.shared;
        if let (Ok(mut worker), Ok(mut governed)) =
            (plugin.vm.worker.try_borrow_mut(), governing.governed.try_borrow_mut())
        {
            let key = hold.key();
            governed.release(&mut worker, &mut shared, hold, Timestamp(host::now()));
            plugin.tell(&governing, &governed, key, governing.events());
        }
    }
}

/// Whether the request is gRPC.
fn asks_grpc(facts: &Facts) -> bool {
    facts.get(Field::Header("content-type")).is_some_and(|value| outcome::is_grpc_content_type(&value))
}

impl Retrying {
    /// Whether the attempt seat may have written something that matters: it says so in the response's headers, and where it
    /// cannot the request has failed.
    fn is_worth_reading(&self, is_pointed: bool, outcome: &Outcome) -> bool {
        self.is_told && (is_pointed || !self.seat || outcome.verdict != Verdict::Success)
    }

    /// What is known about the tries.
    fn tried<'a>(&self, exchange: Option<&'a retry_context::Exchange>, is_unseen: bool) -> Tried<'a> {
        // An attempt seat counts itself.
        let attempts = if self.seat && !is_unseen || !self.is_told {
            None
        } else {
            host::property_number("upstream\0request_attempt_count")
        };
        Tried { leave: self.leave, denial: self.denial, exchange, attempts: attempts.unwrap_or(0) }
    }
}

/// What a request may be retried after; `None` if the policy says nothing about retries.
fn leave(policy: &Policy, facts: &Facts) -> Option<Leave> {
    let retry = policy.retry.as_ref().filter(|retry| retry.mode != Mode::Off)?;
    facts.read_headers();
    let header = |name| facts.get(Field::Header(name));
    let attempt = if retry.skip_retries_of_retries { header("x-envoy-attempt-count") } else { None };
    let method = facts.get(Field::Method).unwrap_or_default();
    Some(eligibility::leave(&retry, &method, || header(&retry.idempotency_header).is_some(), attempt.as_deref()))
}

/// Judges the host of a request's last try, where no attempt seat does.
#[allow(clippy::too_many_arguments)] // The worker, the store and the events belong to every call.
fn judge_host(
    governed: &mut Governed,
    worker: &mut Worker,
    store: &mut SharedData,
    key: Key,
    cluster: ClusterHash,
    (answer, outcome, took, sent): (Answer, &Outcome, Duration, Timestamp),
    now: Timestamp,
    events: &mut Vec<Event>,
) {
    let Some(end) = End::of(answer) else { return };
    if outcome.verdict == Verdict::Success && !governed.wants_host(store, key, cluster, now) {
        return;
    }
    // Without a host there was no try.
    let Some(host) = host::property("upstream\0address").filter(|host| !host.is_empty()) else { return };
    let one = Judged { host: &host, end, verdict: outcome.verdict, took, sent };
    governed.judge_host(worker, store, key, cluster, one, now, events);
}

/// Tells the router what may be retried. Gives what the attempt seat is to be told, too.
fn tell_router(governing: &Governing, plan: Plan) -> (Retrying, Option<retry_context::Exchange>) {
    // What the host refuses to set is not retried as it should be, but the request goes on.
    let set = |name: &str, value: &str| {
        let _ = host::set_header(Headers::Request, name, value);
    };
    for (name, value) in governing.router_headers(plan.leave, plan.seat) {
        set(name, value);
    }
    if let Some(timeout) = plan.timeout {
        set("x-envoy-upstream-rq-timeout-ms", &millis(timeout).to_string());
    }
    if let Some(lasts) = plan.try_lasts {
        set("x-envoy-upstream-rq-per-try-timeout-ms", &millis(lasts).to_string());
    }
    let is_told = plan.exchange.is_some();
    (Retrying { leave: plan.leave, denial: plan.denial, seat: plan.seat, is_told }, plan.exchange)
}

/// Sends a reply in place of the host's answer.
fn send(served: &Served) -> Action {
    let reply = &served.reply;
    let reason = match served.fate {
        Fate::Rejected(reason) | Fate::Static(reason) => reason.name(),
        Fate::Admitted | Fate::Probe => "",
    };
    let details = format!("holdfast_{reason}");
    match host::reply(reply.status, &details, &reply.headers, &reply.body, reply.grpc_status) {
        Ok(()) => Action::Pause,
        // Better the host's answer than none.
        Err(_) => Action::Continue,
    }
}

/// What answered; `None` when that stands in trailers still to come.
fn answer_of(head: &ResponseHead, ended: bool) -> Option<Answer> {
    if head.timed_by_router {
        return head.answer(ended);
    }
    let details = host::property("response\0code_details").unwrap_or_default();
    if details == VIA_UPSTREAM {
        head.answer(ended)
    } else if details.starts_with(NOT_RETRIED.as_bytes()) {
        // The attempt seat's reply stands for how the try before it ended.
        Some(
            shared_exchange::read()
                .and_then(|exchange| exchange.tries.last().map(|last| last.end.answer()))
                .unwrap_or(Answer::NoAnswer),
        )
    } else {
        Some(head.local_answer(response_flags(), &details))
    }
}

/// Removes what the attempt seat has added to a response.
fn strip(head: &ResponseHead) {
    let remove = |name: &str| {
        let _ = host::remove_header(Headers::Response, name);
    };
    if head.asks_retry {
        remove(markers::RETRY_HEADER);
    }
    if head.has_tries {
        remove(markers::TRIES_HEADER);
    }
    if head.ratelimited == Some(SetBy::AttemptSeat) {
        remove(markers::FORBID_HEADER);
    }
}

fn response_flags() -> u64 {
    host::property_number("response\0flags").unwrap_or(0)
}

impl Context for RequestSeat {}

impl HttpContext for RequestSeat {
    fn on_http_request_headers(&mut self, _headers: usize, end_of_stream: bool) -> Action {
        let facts = Facts::default();
        if let Some(served) = self.admit(&facts, end_of_stream) {
            return send(&served);
        }
        let steering = match &self.exchange {
            Exchange::Admitted(admitted) => admitted.steering.as_ref(),
            Exchange::Over | Exchange::Ending(..) => None,
        };
        // What the host refuses is left to the cluster's own balancing.
        let _ = match steering {
            Some(steering) => host::set_header(Headers::Request, steering::HEADER, &steering.hosts),
            None if facts.lacks_header(steering::HEADER) => Ok(()),
            // A client's own would choose a host, governed or not.
            None => host::remove_header(Headers::Request, steering::HEADER),
        };
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _headers: usize, end_of_stream: bool) -> Action {
        let Some(mut admitted) = self.take() else { return Action::Continue };
        let now = Timestamp(host::now());
        let wants_retry_after = admitted.governing.policy().wants_retry_after();
        let head = ResponseHead::read(&host::headers(Headers::Response), now, wants_retry_after);
        strip(&head);
        let Some(answer) = answer_of(&head, end_of_stream) else {
            admitted.head = Some((head, now));
            self.exchange = Exchange::Admitted(Box::new(admitted));
            return Action::Continue;
        };
        let (retry_after, is_pointed) = (head.retry_after, head.points_to_record());
        let came = Came { began: now, at: now, retry_after, replaceable: true, is_pointed };
        match self.settle(admitted, answer, &came) {
            Some(served) => send(&served),
            None => Action::Continue,
        }
    }

    fn on_http_response_trailers(&mut self, _trailers: usize) -> Action {
        if let Some(admitted) = self.take() {
            let answer = response::trailers_answer(host::header(Headers::ResponseTrailers, "grpc-status").as_deref());
            self.settle_late(admitted, answer);
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        // Still admitted at the end: the client left, or a gRPC response broke off.
        if let Some(admitted) = self.take() {
            let answer = response::answer_at_end(admitted.head.as_ref().map(|(head, _)| head), response_flags());
            self.settle_late(admitted, answer);
        }
        self.release();
    }
}
