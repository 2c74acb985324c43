//! The attempt seat: an upstream HTTP filter, which sees one try of a request.

use holdfast_engine::http::markers;
use holdfast_engine::retry::conditions;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::attempt::{AfterResponse, Attempts, BeforeRetry, RouteEnds};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::{End, Try};
use holdfast_engine::http::outcome::{self, Answer, Outcome, Verdict};
use holdfast_engine::http::response::{self, ResponseHead};
use holdfast_engine::outlier::hosts::Judged;
use holdfast_engine::outlier::{heartbeat, steering};
use holdfast_engine::retry::{Denial, Named};
use holdfast_engine::seats::retry_context::{Exchange, Next};
use holdfast_policy::document::Retry;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::attempt_plugin::{self, AttemptPlugin, Waits};
use crate::host::{self, Headers};
use crate::shared::SharedData;
use crate::shared_exchange;

/// One try's context.
pub struct AttemptSeat {
    plugin: Rc<AttemptPlugin>,
    context: u32,
    /// `None` while the request is governed by no policy that this seat has a part in.
    attempt: Option<Rc<RefCell<Attempt>>>,
    /// Whether it is a check of ours that will be answered here.
    is_going_back: bool,
}

/// One try.
pub struct Attempt {
    policy: Rc<RefCell<Attempts>>,
    exchange: Exchange,
    /// When Envoy began the try.
    began: Timestamp,
    phase: Phase,
    route_ends: RouteEnds,
    /// The host, where tries may run beside each other: the host names only the one of the try begun last.
    host: Option<Vec<u8>>,
    /// Whether it counts as one that was sent or will be, where tries may run beside each other.
    is_live: bool,
}

/// How far a try has come.
enum Phase {
    /// It waits for its back-off to be over, and has a token.
    Waiting { due: Timestamp, taken: Timestamp },
    /// It may not be sent.
    Stopped,
    /// It was sent.
    Sent(Timestamp),
    /// Its response is judged by its trailers.
    Trailers { sent: Timestamp, head: Box<ResponseHead>, came: Timestamp },
    /// Its end is known.
    Over,
}

impl Attempt {
    /// What the request's waits follow from.
    pub fn seed(&self) -> u64 {
        self.exchange.seed
    }

    /// Decides whether a try whose wait is over is still to be sent.
    pub fn after_wait(&mut self, mut shared: SharedData, now: Timestamp) -> BeforeRetry {
        let Phase::Waiting { taken, .. } = self.phase else { return BeforeRetry::Send };
        let shared_policy = Rc::clone(&self.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return BeforeRetry::Send };
        if policy.hedges(&self.exchange) {
            self.refresh();
        }
        policy.after_wait(&mut shared, &mut self.exchange, taken, now)
    }

    /// Notes that the try is sent now.
    pub fn send(&mut self, now: Timestamp) {
        self.phase = Phase::Sent(now);
        self.write();
    }

    /// Replies in place of the try.
    pub fn stop(&mut self, denial: Option<Denial>) {
        self.phase = Phase::Stopped;
        self.write();
        attempt_plugin::reply_not_retried(self.exchange.tries.last().map(|last| last.end), denial);
    }

    /// Holds the try back instead of replying, where tries run beside each other: a reply would also end those.
    pub fn hold(&mut self) -> bool {
        let was_live = std::mem::take(&mut self.is_live);
        self.phase = Phase::Stopped;
        self.write();
        was_live
    }

    /// Replies in place of a hedge that is the last try left, with what the others have written meanwhile.
    pub fn stop_as_left(&mut self) {
        let denial = match self.exchange.next {
            Next::Denied(denial) => Some(denial),
            _ => None,
        };
        let next = self.exchange.next;
        self.refresh();
        self.exchange.next = next;
        self.stop(denial);
    }

    /// The address of the host.
    fn host(&self) -> Vec<u8> {
        self.host.clone().unwrap_or_else(upstream_host)
    }

    /// Leaves the record for the next try and the request seat.
    fn write(&mut self) {
        let given_up = u8::try_from(host::take_contentions()).unwrap_or(u8::MAX);
        self.exchange.contended = self.exchange.contended.saturating_add(given_up);
        // What a refusal means is no worse than no attempt seat.
        let _ = shared_exchange::write(&self.exchange);
    }

    /// Takes over what tries beside this one have written.
    fn refresh(&mut self) {
        if let Some(written) = shared_exchange::read_in_attempt_seat() {
            self.exchange = written;
        }
    }
}

impl AttemptSeat {
    /// A context.
    pub fn new(plugin: Rc<AttemptPlugin>, context: u32) -> Self {
        AttemptSeat { plugin, context, attempt: None, is_going_back: false }
    }

    /// Lets a try pass that is nobody's here, without the names of hosts. One of our own checks that has been sent to another
    /// host, because the cluster has its own no more, goes back instead.
    fn begin_ungoverned(&mut self) -> Option<Action> {
        let asked = host::header(Headers::Request, steering::HEADER)?;
        let is_check = host::header(Headers::Request, heartbeat::MARK).is_some();
        if is_check && upstream_host() != asked {
            // Not now: this runs within the call that sends the check, which would give no token for the answer.
            let now = Timestamp(host::now());
            self.is_going_back = true;
            self.plugin.wait(self.context, now, Waits::GoesBack, now);
            return Some(Action::Pause);
        }
        let _ = host::remove_header(Headers::Request, steering::HEADER);
        if is_check {
            let _ = host::remove_header(Headers::Request, heartbeat::MARK);
        }
        None
    }

    /// Finds out what the request seat says of this request, and decides on the try.
    fn begin(&mut self) -> Option<Action> {
        let Some(exchange) = shared_exchange::read_in_attempt_seat() else { return self.begin_ungoverned() };
        if exchange.steered {
            // It has been read, once for all tries; the host has no use for it.
            let _ = host::remove_header(Headers::Request, steering::HEADER);
        }
        let policy = self.plugin.policy(&exchange)?;
        let (now, mut shared) = (Timestamp(host::now()), self.plugin.shared);
        let mut attempt = Attempt {
            policy,
            exchange,
            began: now,
            phase: Phase::Over,
            route_ends: RouteEnds::Unknown,
            host: None,
            is_live: false,
        };
        let shared_policy = Rc::clone(&attempt.policy);
        let mut policy = shared_policy.try_borrow_mut().ok()?;
        policy.tell_presence(&mut shared, &attempt.exchange, now);
        if !attempt.exchange.governs_retries {
            attempt.phase = Phase::Sent(now);
            self.attempt = Some(Rc::new(RefCell::new(attempt)));
            return Some(Action::Continue);
        }
        if policy.wants_time_left() {
            attempt.route_ends = time_left().map_or(RouteEnds::Never, |left| RouteEnds::At(now.plus(left)));
        }
        let hedges = policy.hedges(&attempt.exchange);
        if hedges {
            attempt.host = host::property("upstream\0address");
            self.plugin.begin_beside(attempt.exchange.seed);
        }
        let is_known = attempt.exchange.is_retried();
        if let Some(passed) = self.plugin.passed(attempt.exchange.seed).filter(|_| !is_known) {
            // The route retries what was not worth a record.
            attempt.exchange.ended(passed.as_try(now));
            attempt.exchange.next = if policy.route_knows() { Next::Open } else { Next::Unnamed };
            attempt.exchange.marked = passed.is_marked;
        }
        if matches!(attempt.exchange.next, Next::Denied(_) | Next::Unnamed)
            && attempt.exchange.tries.last().is_some_and(|last| matches!(last.end, End::Http(_) | End::Grpc(_)))
        {
            policy.came_back(attempt.exchange.marked, route_name().unwrap_or_default());
        }
        let is_retry = attempt.exchange.is_retried() || hedges && attempt_count() > 1;
        if !is_retry {
            attempt.is_live = hedges && self.plugin.live_beside(attempt.exchange.seed);
            attempt.phase = Phase::Sent(now);
            self.attempt = Some(Rc::new(RefCell::new(attempt)));
            return Some(Action::Continue);
        }
        let mut worker = self.plugin.vm.worker.try_borrow_mut().ok()?;
        let decision = policy.before_retry(&mut worker, &mut shared, &mut attempt.exchange, now);
        drop(policy);
        drop(worker);
        Some(self.act(attempt, decision, hedges, now))
    }

    fn act(&mut self, mut attempt: Attempt, decision: BeforeRetry, hedges: bool, now: Timestamp) -> Action {
        let is_stopped = matches!(decision, BeforeRetry::Stop(_));
        attempt.is_live = hedges && !is_stopped && self.plugin.live_beside(attempt.exchange.seed);
        match decision {
            BeforeRetry::Send => {
                number_try(attempt.exchange.retries);
                attempt.send(now);
                self.attempt = Some(Rc::new(RefCell::new(attempt)));
                Action::Continue
            }
            BeforeRetry::Wait { due, taken } => {
                // Request headers cannot be changed later.
                number_try(attempt.exchange.retries);
                attempt.phase = Phase::Waiting { due, taken };
                attempt.write();
                let attempt = Rc::new(RefCell::new(attempt));
                self.attempt = Some(Rc::clone(&attempt));
                self.plugin.wait(self.context, due, Waits::Try(attempt), now);
                Action::Pause
            }
            // A reply would also end the try in flight beside this one: this one waits for its end.
            BeforeRetry::Stop(_)
                if hedges
                    && (self.plugin.live(attempt.exchange.seed) > 0
                        || !self.plugin.may_reply(attempt.exchange.seed)) =>
            {
                attempt.hold();
                let attempt = Rc::new(RefCell::new(attempt));
                self.attempt = Some(Rc::clone(&attempt));
                self.plugin.wait(self.context, now, Waits::Hedge(attempt), now);
                Action::Pause
            }
            BeforeRetry::Stop(denial) => {
                attempt.stop(denial);
                self.attempt = Some(Rc::new(RefCell::new(attempt)));
                Action::Pause
            }
        }
    }

    /// Judges a response by its headers.
    fn judge_head(&self, attempt: &mut Attempt, ended: bool) -> Action {
        let Phase::Sent(sent) = attempt.phase else { return Action::Continue };
        let now = Timestamp(host::now());
        let shared_policy = Rc::clone(&attempt.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return Action::Continue };
        let document = std::sync::Arc::clone(policy.policy());
        let retry = document.retry.as_ref().filter(|_| attempt.exchange.governs_retries);
        let wants_retry_after = retry.is_some_and(|retry| retry.retry_after.honor);
        let head = ResponseHead::read(&host::headers(Headers::Response), now, wants_retry_after);
        remove_foreign(&head);
        let Some(retry) = retry else {
            drop(policy);
            self.judge_only(attempt, head, ended, sent, now);
            return Action::Continue;
        };
        let seed = attempt.exchange.seed;
        let hedges = policy.hedges(&attempt.exchange);
        if hedges {
            attempt.refresh();
        }
        let is_hedge_held = matches!(attempt.exchange.next, Next::Denied(_));
        let is_beside = hedges && (is_hedge_held || self.plugin.live(seed) > 1);
        let Some(answer) = head.answer(ended) else {
            self.plugin.answer_beside(seed);
            if attempt.exchange.is_retried() {
                mark(markers::TRIES_HEADER, "1");
            } else {
                self.show_judged(attempt, &policy);
            }
            attempt.phase = Phase::Trailers { sent, head: Box::new(head), came: now };
            return Action::Continue;
        };
        attempt.phase = Phase::Over;
        let took = now.since(sent);
        let outcome = Outcome::judge(&document.outcome, answer, took, None);
        self.judge_host(attempt, &mut policy, End::of(answer), outcome.verdict, sent, now);
        if !attempt.exchange.is_retried() && outcome.verdict == Verdict::Success && !is_named(retry, &head) {
            let is_marked = policy.forbids(&attempt.exchange, &head, route_name);
            if is_marked {
                mark(markers::FORBID_HEADER, markers::FORBID_VALUE);
            }
            if hedges && is_hedge_held {
                // A hedge was not sent; that is worth counting.
                mark(markers::TRIES_HEADER, "1");
            }
            self.plugin.pass(seed, head.status, is_marked);
            self.plugin.answer_beside(seed);
            self.show_judged(attempt, &policy);
            return Action::Continue;
        }
        let Some(end) = End::of(answer) else { return Action::Continue };
        let one = Try { host: attempt.host(), end, verdict: outcome.verdict, took, ended: now };
        let Ok(mut worker) = self.plugin.vm.worker.try_borrow_mut() else { return Action::Continue };
        let (mut shared, ends) = (self.plugin.shared, attempt.route_ends);
        let after = if is_beside {
            policy.after_response_beside(&mut attempt.exchange, one, &head)
        } else {
            policy.after_response(&mut worker, &mut shared, &mut attempt.exchange, one, &head, ends, now)
        };
        attempt.exchange.marked =
            after == AfterResponse::Forbid && policy.forbids(&attempt.exchange, &head, route_name);
        attempt.write();
        mark(markers::TRIES_HEADER, "1");
        if !matches!(after, AfterResponse::Ask) {
            self.plugin.answer_beside(seed);
        }
        match after {
            AfterResponse::Pass => Action::Continue,
            AfterResponse::Forbid => {
                if attempt.exchange.marked {
                    mark(markers::FORBID_HEADER, markers::FORBID_VALUE);
                }
                Action::Continue
            }
            AfterResponse::Ask => {
                if head.ratelimited.is_some() && attempt.exchange.seat {
                    // The host's own would forbid what the policy asks for. (A router that goes by words goes by it.)
                    let _ = host::remove_header(Headers::Response, markers::FORBID_HEADER);
                }
                mark(markers::RETRY_HEADER, "1");
                Action::Continue
            }
        }
    }

    /// Judges a response to a request whose retries are the route's.
    fn judge_only(&self, attempt: &mut Attempt, head: ResponseHead, ended: bool, sent: Timestamp, now: Timestamp) {
        let shared_policy = Rc::clone(&attempt.policy);
        if let Ok(policy) = shared_policy.try_borrow() {
            self.show_judged(attempt, &policy);
        }
        let Some(answer) = head.answer(ended) else {
            attempt.phase = Phase::Trailers { sent, head: Box::new(head), came: now };
            return;
        };
        attempt.phase = Phase::Over;
        if self.record(attempt, answer, sent, now) {
            mark(markers::TRIES_HEADER, "1");
        }
    }

    /// Shows a request seat that has not heard of this seat that the host is judged here.
    fn show_judged(&self, attempt: &mut Attempt, policy: &Attempts) {
        if !attempt.exchange.seat && policy.judges_hosts() {
            // The header alone would prove nothing.
            attempt.write();
            mark(markers::TRIES_HEADER, "1");
        }
    }

    /// Gives the permit back of a probe that says nothing about its host.
    fn return_probe(&self, attempt: &Attempt, sent: Timestamp) {
        if attempt.exchange.probe.is_none() {
            return;
        }
        let (now, mut shared) = (Timestamp(host::now()), self.plugin.shared);
        if let (Ok(mut policy), Ok(mut worker)) =
            (attempt.policy.try_borrow_mut(), self.plugin.vm.attempt_worker.try_borrow_mut())
        {
            policy.return_probe(&mut worker, &mut shared, &attempt.exchange, sent, now);
        }
    }

    /// Judges the host by how a try ended.
    fn judge_host(
        &self,
        attempt: &Attempt,
        policy: &mut Attempts,
        end: Option<End>,
        verdict: Verdict,
        sent: Timestamp,
        came: Timestamp,
    ) {
        let Some(end) = end.filter(|_| policy.judges_hosts()) else { return };
        let mut shared = self.plugin.shared;
        if verdict == Verdict::Success && !policy.wants_host(&mut shared, &attempt.exchange, came) {
            return;
        }
        let host = attempt.host();
        let one = Judged { host: &host, end, verdict, took: came.since(sent), sent };
        let Ok(mut worker) = self.plugin.vm.attempt_worker.try_borrow_mut() else { return };
        if let Some(due) = policy.judge_host(&mut worker, &mut shared, &attempt.exchange, one, came) {
            self.plugin.flush_by(due, came);
        }
    }

    /// Judges a gRPC response by its trailers: too late for another try, but not for the record.
    fn judge_trailers(&self, attempt: &mut Attempt) {
        let Phase::Trailers { sent, came, .. } = attempt.phase else { return };
        attempt.phase = Phase::Over;
        let answer = response::trailers_answer(host::header(Headers::ResponseTrailers, "grpc-status").as_deref());
        self.record(attempt, answer, sent, came);
    }

    /// Records a try after which this seat decides nothing. Whether there is something to read.
    fn record(&self, attempt: &mut Attempt, answer: Answer, sent: Timestamp, came: Timestamp) -> bool {
        let took = came.since(sent);
        let shared_policy = Rc::clone(&attempt.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return false };
        let outcome = Outcome::judge(&policy.policy().outcome, answer, took, None);
        self.judge_host(attempt, &mut policy, End::of(answer), outcome.verdict, sent, came);
        drop(policy);
        let Some(end) = End::of(answer) else { return false };
        let is_worth_it = attempt.exchange.is_retried() || outcome.verdict != Verdict::Success;
        if is_worth_it {
            let host = attempt.host();
            attempt.exchange.ended(Try { host, end, verdict: outcome.verdict, took, ended: came });
            attempt.exchange.next = Next::Open;
            attempt.write();
        }
        is_worth_it
    }

    /// Records a try that ended without a response.
    fn end(&self, attempt: &mut Attempt) {
        let hedges = attempt.policy.try_borrow().is_ok_and(|policy| policy.hedges(&attempt.exchange));
        let is_answered = hedges && self.plugin.end_beside(attempt.seed(), attempt.is_live);
        match std::mem::replace(&mut attempt.phase, Phase::Over) {
            Phase::Over | Phase::Stopped => {}
            Phase::Waiting { due, taken } => {
                let (now, mut shared) = (Timestamp(host::now()), self.plugin.shared);
                if hedges {
                    attempt.refresh();
                }
                let shared_policy = Rc::clone(&attempt.policy);
                let Ok(mut policy) = shared_policy.try_borrow_mut() else { return };
                let (began, connection) = (attempt.began, connection());
                if outcome::client_left(response_flags()) {
                    policy.abandon(&mut shared, &mut attempt.exchange, taken, now);
                } else if connection.is_there() {
                    // Its host has closed the connection, or the route's time is over.
                    Attempts::begin_again(&mut attempt.exchange, due, taken);
                } else {
                    if connection.says_something(now.since(began)) {
                        let end = End::ConnectFailure;
                        let verdict = outcome::verdict(&policy.policy().outcome, end.answer());
                        self.judge_host(attempt, &mut policy, Some(end), verdict, began, now);
                    }
                    policy.after_no_connection(&mut attempt.exchange, upstream_host(), now);
                }
                attempt.write();
            }
            Phase::Trailers { sent, head, came } => {
                let answer = response::answer_at_end(Some(&head), response_flags());
                self.record(attempt, answer, sent, came);
            }
            Phase::Sent(sent) => {
                if is_answered || outcome::client_left(response_flags()) {
                    self.return_probe(attempt, sent);
                    return;
                }
                if hedges {
                    attempt.refresh();
                }
                let now = Timestamp(host::now());
                let (host, connection) = (attempt.host(), connection());
                let is_connected = connection.is_there();
                let tells_of_host = connection.says_something(now.since(sent));
                if !tells_of_host {
                    self.return_probe(attempt, sent);
                }
                let shared_policy = Rc::clone(&attempt.policy);
                if let Ok(mut policy) = shared_policy.try_borrow_mut() {
                    if tells_of_host {
                        let (end, _) = policy.end_without_response(&attempt.exchange, is_connected, sent, now);
                        let verdict = outcome::verdict(&policy.policy().outcome, end.answer());
                        self.judge_host(attempt, &mut policy, Some(end), verdict, sent, now);
                    }
                    policy.after_no_response(&mut attempt.exchange, host, is_connected, sent, now);
                }
                attempt.write();
            }
        }
    }
}

/// Adds a header for the router or the request seat.
fn mark(name: &str, value: &str) {
    // Where the host refuses, the router decides by its own rules.
    let _ = host::set_header(Headers::Response, name, value);
}

/// Removes what only this seat may say.
fn remove_foreign(head: &ResponseHead) {
    if head.asks_retry {
        let _ = host::remove_header(Headers::Response, markers::RETRY_HEADER);
    }
    if head.has_tries {
        let _ = host::remove_header(Headers::Response, markers::TRIES_HEADER);
    }
}

/// Tells the host which try this is, as Envoy does where the route asks for it: proxies behind it then do not retry too.
fn number_try(retries: u8) {
    let number = u32::from(retries).saturating_add(1);
    let _ = host::set_header(Headers::Request, "x-envoy-attempt-count", &number.to_string());
}

/// Whether the policy names a response as one to try again after, or may leave that to the route: of answers below 400 only
/// when the router does begin another try.
fn is_named(retry: &Retry, head: &ResponseHead) -> bool {
    match conditions::names_response(&retry.on, head.status, head.grpc_status, head.ratelimited.is_some()) {
        Named::Yes => true,
        Named::RouteKnows => head.status >= 400,
        Named::No => false,
    }
}

/// The try's number as Envoy counts, from 1.
fn attempt_count() -> u64 {
    host::property_number("upstream\0request_attempt_count").unwrap_or(0)
}

fn route_name() -> Option<Vec<u8>> {
    host::property("xds\0route_name")
}

/// How long the route lets the request go on.
fn time_left() -> Option<Duration> {
    let value = host::header(Headers::Request, "x-envoy-expected-rq-timeout-ms")?;
    let millis: u64 = std::str::from_utf8(&value).ok()?.trim().parse().ok()?;
    (millis > 0).then_some(Duration::from_millis(millis))
}

/// What is known of a try's connection to its host.
enum Connection {
    /// There was one, or may have been: over a Unix socket it has no local address.
    There,
    /// It could not be had.
    Failed,
    /// It was waited for too long, or one of Envoy's own limits was reached; the two look alike.
    Without,
    /// Nothing was heard of it before the request's time was over.
    Unheard,
}

/// Of the tries that Envoy let go without a connection and without a reason, those that took so long were waiting for the
/// host; Envoy's own limits say no within a millisecond (seen on Envoy 1.36 and 1.40).
const WAITED: Duration = Duration::from_millis(20);

impl Connection {
    fn is_there(&self) -> bool {
        matches!(self, Connection::There)
    }

    /// Whether the end of a try that took so long says something about its host.
    fn says_something(&self, took: Duration) -> bool {
        match self {
            Connection::There | Connection::Failed => true,
            Connection::Without => took >= WAITED,
            Connection::Unheard => false,
        }
    }
}

/// What is known of the connection of a try that ended without a response. Only what is certain counts as none.
fn connection() -> Connection {
    let is_there = |path: &str| host::property(path).is_some_and(|value| !value.is_empty());
    if is_there("upstream\0local_address") {
        return Connection::There;
    }
    if is_there("upstream\0transport_failure_reason") {
        return Connection::Failed;
    }
    let host = upstream_host();
    if std::str::from_utf8(&host).ok().and_then(|host| host.parse::<std::net::SocketAddr>().ok()).is_none() {
        return Connection::There;
    }
    if is_there("upstream\0cx_pool_ready_duration") { Connection::Without } else { Connection::Unheard }
}

fn upstream_host() -> Vec<u8> {
    host::property("upstream\0address").unwrap_or_default()
}

fn response_flags() -> u64 {
    host::property_number("response\0flags").unwrap_or(0)
}

impl Context for AttemptSeat {}

impl HttpContext for AttemptSeat {
    /// The request's headers are about to leave for the host.
    fn on_http_request_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        self.begin().unwrap_or(Action::Continue)
    }

    /// The host's headers have come.
    fn on_http_response_headers(&mut self, _headers: usize, end_of_stream: bool) -> Action {
        let Some(attempt) = &self.attempt else { return Action::Continue };
        match attempt.try_borrow_mut() {
            Ok(mut attempt) => self.judge_head(&mut attempt, end_of_stream),
            Err(_) => Action::Continue,
        }
    }

    /// The host's trailers have come.
    fn on_http_response_trailers(&mut self, _trailers: usize) -> Action {
        if let Some(attempt) = &self.attempt
            && let Ok(mut attempt) = attempt.try_borrow_mut()
        {
            self.judge_trailers(&mut attempt);
        }
        Action::Continue
    }
}

/// The host ends a try's context when the try is over, before it begins the next one.
impl Drop for AttemptSeat {
    fn drop(&mut self) {
        if self.is_going_back {
            self.plugin.forget(self.context);
        }
        let Some(attempt) = self.attempt.take() else { return };
        if let Ok(mut attempt) = attempt.try_borrow_mut() {
            if matches!(attempt.phase, Phase::Waiting { .. } | Phase::Stopped) {
                self.plugin.forget(self.context);
            }
            self.end(&mut attempt);
        }
    }
}
