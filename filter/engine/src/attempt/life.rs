//! The life of an attempt, from its headers to its end.
//!
//! The phase that an attempt is in is consumed by each event, so that its end is recorded once. An attempt that waits is also known
//! to the plugin, which wakes it.

mod end;
mod further;
mod open;
mod unreached;

use core::cell::{Cell, RefCell};
use core::mem;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_policy::document::Retry;

use super::connection::upstream_address;
use super::decision::{AfterResponse, BeforeRetry, RouteEnds};
use super::plugin::{SeatPlugin, Waiter};
use super::policy::AttemptPolicy;
use super::strangers::Stranger;
use crate::base::pauses::Waiting;
use crate::base::time::{Timestamp, millis_up};
use crate::cx::Cx;
use crate::fallback::retry_after_seconds;
use crate::host::{Headers, Host, property_number};
use crate::http::attempt::{AttemptRecord, End};
use crate::http::header_rules::HeaderVerdict;
use crate::http::last_byte::LastByte;
use crate::http::markers;
use crate::http::outcome::{Answer, Verdict};
use crate::http::response::{NOT_RETRIED, OpenResponse, ResponseHead, judges_at_end};
use crate::outlier::hosts::HostAttempt;
use crate::outlier::{heartbeat, steering};
use crate::retry::{Denial, Named, conditions};
use crate::seats::retry_context::{self, Next, RetryContext};
use crate::store::Store;

/// What the host is to do after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the host has to do it"]
pub enum AttemptEffect {
    /// Go on.
    Continue,
    /// Hold the attempt until a tick wakes it.
    Pause,
    /// Go on with an attempt that was held.
    Resume,
    /// Reply in place of the attempt.
    Reply(AttemptReply),
}

/// A reply in place of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptReply {
    /// The HTTP status.
    pub status: u16,
    /// What Envoy's response code details say.
    pub details: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The gRPC status for a gRPC request, if Envoy is not to derive it from the HTTP status.
    pub grpc_status: Option<u8>,
}

impl AttemptReply {
    /// In place of a retry that may not be sent: with what stands for the end of the attempt before, and how long the client had
    /// better wait, if a host has said so.
    fn not_retried(last: Option<End>, denial: Option<Denial>, asked: Option<Duration>) -> Self {
        let why = denial.map_or("policy", Denial::name);
        let status = match last {
            Some(End::TimedOut) => 504,
            Some(End::Http(status @ 400..=599)) => status,
            _ => 503,
        };
        let grpc_status = match last {
            Some(End::Grpc(status)) => u8::try_from(status).ok(),
            _ => None,
        };
        let name = if grpc_status.is_some() { "grpc-retry-pushback-ms" } else { "retry-after" };
        let value = |left| if grpc_status.is_some() { millis_up(left) } else { retry_after_seconds(left) };
        let headers = asked.map(|left| (name.to_owned(), value(left).to_string())).into_iter().collect();
        let body = format!("upstream connect error or disconnect/reset before headers. not retried: {why}");
        let details = format!("{NOT_RETRIED}{{{why}}}");
        AttemptReply { status, details, headers, body: body.into(), grpc_status }
    }

    /// In place of a check for a host that the cluster does not have any more.
    fn no_such_host() -> Self {
        AttemptReply {
            status: 503,
            details: "holdfast_no_such_host".to_owned(),
            headers: vec![(heartbeat::GONE.to_owned(), "1".to_owned())],
            body: Vec::new(),
            grpc_status: None,
        }
    }
}

/// The plugin, of which an attempt is a part.
pub type AttemptPlugin = SeatPlugin<Waits>;

/// What a paused stream is for.
pub enum Waits {
    /// An attempt, until its back-off is over.
    Attempt(Rc<RefCell<Attempt>>),
    /// A hedge that may not be sent, until it is the last attempt left.
    Hedge(Rc<RefCell<Attempt>>),
    /// A stream from a host that is out, until it has run for the lease. It does not pause.
    Running(Rc<RefCell<Attempt>>),
    /// A check of ours that would reach another host, until the call that sent it is over.
    Check,
}

/// One attempt's stream.
#[derive(Default)]
pub enum AttemptState {
    /// No policy governs the request that this seat has a part in.
    #[default]
    Ungoverned,
    /// A check of ours that will be answered here.
    Check,
    /// An attempt of a governed request.
    Governed(Rc<RefCell<Attempt>>),
}

/// One attempt.
pub struct Attempt {
    policy: Rc<RefCell<AttemptPolicy>>,
    context: RetryContext,
    /// How the host names its stream.
    stream: u32,
    /// When Envoy began it.
    began: Timestamp,
    phase: Phase,
    /// When the last byte of its request came.
    last_byte: LastByte,
    route_ends: RouteEnds,
    /// The host's address, where it was met, or a host has asked for something, or the request is hedged: Envoy names only the host of the
    /// attempt begun last.
    address: Option<Vec<u8>>,
    /// Whether it counts as one that was sent or will be, where the request is hedged.
    is_sent: bool,
    /// Whether the host was met at the response's headers: then it is judged at its end, too.
    is_met: bool,
    /// Whether the plugin looks at it when it has run for the lease.
    is_watched: bool,
    /// While it waits for a host that is judged.
    waiting: Option<Waiting>,
    /// Whether its end is not held against its host, and the request seat still has to count that.
    is_excused: Cell<bool>,
}

/// How far an attempt has come.
enum Phase {
    /// It waits for its back-off to be over, and has a token.
    Waiting { due: Timestamp, taken: Timestamp },
    /// It may not be sent.
    Stopped,
    /// It was sent.
    Sent(Timestamp),
    /// Its response is judged when it ends.
    Open {
        sent: Timestamp,
        /// Since when it counts for its host: since it was sent, or since it has been a successful probe.
        since: Timestamp,
        response: Box<OpenResponse>,
    },
    /// Its end is known.
    Over,
}

/// When an attempt was sent, since when it counts for its host, and when its response's headers or its end came.
#[derive(Clone, Copy)]
struct AttemptTimes {
    sent: Timestamp,
    since: Timestamp,
    came: Timestamp,
}

/// What becomes of an attempt whose wait is over.
enum Woken {
    /// It is sent, or replied to in its place.
    Goes(AttemptEffect),
    /// It is held back for one in flight beside it.
    Held,
    /// It waits until then: the host of another attempt has asked for it meanwhile.
    WaitsOn(Timestamp),
}

impl AttemptState {
    /// The request's headers are about to leave for the host. `stream` is how the host names it; `ended` says that there is no
    /// body.
    pub fn on_request_headers(
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        stream: u32,
        ended: bool,
    ) -> (Self, AttemptEffect) {
        if let Ok(mut in_flight) = plugin.in_flight.try_borrow_mut() {
            in_flight.begin(stream);
        }
        let context = match retry_context::read_in_attempt_seat(host) {
            Ok(Some(context)) => context,
            Ok(None) => return begin_ungoverned(plugin, host, stream),
            Err(_) => {
                plugin.strangers.meet(store, host, Stranger::OfAnotherRelease, host.recently());
                return begin_ungoverned(plugin, host, stream);
            }
        };
        if context.chosen().is_some() {
            return further::begin(host, context);
        }
        if context.steered {
            check_steering(plugin, store, host, &context);
            // It has been read, once for all attempts; the host has no use for it.
            host.remove_header(Headers::Request, steering::HEADER);
        }
        begin(plugin, store, host, stream, context, ended)
            .unwrap_or((AttemptState::Ungoverned, AttemptEffect::Continue))
    }

    /// The request has ended, after its headers: with the last piece of its body, or with its trailers.
    pub fn on_request_end(&self, host: &dyn Host) {
        if let AttemptState::Governed(attempt) = self
            && let Ok(mut attempt) = attempt.try_borrow_mut()
        {
            attempt.last_byte.come(|| host.now());
        }
    }

    /// The host's headers have come. `stream` is how the host names the attempt; `ended` says that there is no body.
    pub fn on_response_headers(
        &self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        stream: u32,
        ended: bool,
    ) {
        let AttemptState::Governed(shared) = self else { return };
        let Ok(mut attempt) = shared.try_borrow_mut() else { return };
        attempt.judge_head(plugin, store, host, ended);
        if let Some((came, due)) = attempt.meet_host(plugin, store, host) {
            attempt.is_watched = true;
            plugin.wait(stream, due, Waits::Running(Rc::clone(shared)), came);
        }
    }

    /// The last piece of the host's body has come.
    pub fn on_response_end(&self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host) {
        if let AttemptState::Governed(attempt) = self
            && let Ok(mut attempt) = attempt.try_borrow_mut()
        {
            attempt.judge_open(plugin, store, host, OpenResponse::complete);
        }
    }

    /// The host's trailers have come.
    pub fn on_response_trailers(&self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host) {
        if let AttemptState::Governed(attempt) = self
            && let Ok(mut attempt) = attempt.try_borrow_mut()
        {
            let status = || host.header(Headers::ResponseTrailers, "grpc-status");
            attempt.judge_open(plugin, store, host, |response| response.with_trailers(status));
        }
    }

    /// The attempt is over; Envoy says so before it begins the next one.
    pub fn on_end(self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host, stream: u32) {
        if let Ok(mut in_flight) = plugin.in_flight.try_borrow_mut() {
            in_flight.end(stream);
        }
        match self {
            AttemptState::Ungoverned => {}
            AttemptState::Check => plugin.forget(stream),
            AttemptState::Governed(attempt) => {
                if let Ok(mut attempt) = attempt.try_borrow_mut() {
                    if attempt.is_watched || matches!(attempt.phase, Phase::Waiting { .. } | Phase::Stopped) {
                        plugin.forget(stream);
                    }
                    attempt.end(plugin, store, host);
                }
            }
        }
    }
}

impl AttemptPlugin {
    /// Wakes a stream whose time has come. What is to be done for it.
    pub fn wake(&self, store: &mut dyn Store, host: &dyn Host, waiter: Waiter<Waits>, now: Timestamp) -> AttemptEffect {
        let Waiter { stream, what, .. } = waiter;
        let hold = |attempt| {
            self.look_again(stream, Waits::Hedge(attempt), now);
            AttemptEffect::Pause
        };
        match what {
            Waits::Check => AttemptEffect::Reply(AttemptReply::no_such_host()),
            Waits::Running(shared) => {
                if let Ok(mut attempt) = shared.try_borrow_mut() {
                    attempt.pass_running(self, store, host, now);
                }
                AttemptEffect::Continue
            }
            Waits::Attempt(shared) => {
                let Ok(mut attempt) = shared.try_borrow_mut() else { return AttemptEffect::Continue };
                let woken = attempt.wake(self, store, host, now);
                drop(attempt);
                match woken {
                    Woken::Goes(effect) => effect,
                    Woken::Held => hold(shared),
                    Woken::WaitsOn(due) => {
                        self.wait(stream, due, Waits::Attempt(shared), now);
                        AttemptEffect::Pause
                    }
                }
            }
            Waits::Hedge(shared) => {
                let seed = shared.try_borrow().map(|attempt| attempt.seed());
                if seed.is_ok_and(|seed| self.hedges(false, |hedges| hedges.holds(seed, 0))) {
                    return hold(shared);
                }
                match shared.try_borrow_mut() {
                    Ok(mut attempt) => attempt.stop_as_left(host),
                    Err(_) => AttemptEffect::Continue,
                }
            }
        }
    }
}

/// Lets an attempt pass that is nobody's here, without the names of hosts. One of our own checks that has been sent to another
/// host, because the cluster has its own no more, goes back instead.
fn begin_ungoverned(plugin: &AttemptPlugin, host: &dyn Host, stream: u32) -> (AttemptState, AttemptEffect) {
    let pass = (AttemptState::Ungoverned, AttemptEffect::Continue);
    let Some(asked) = host.header(Headers::Request, steering::HEADER) else { return pass };
    let is_check = host.header(Headers::Request, heartbeat::MARK).is_some();
    if is_check && upstream_address(host) != asked {
        // Not now: this runs within the call that sends the check, which would give no token for the answer.
        let now = host.now();
        plugin.wait(stream, now, Waits::Check, now);
        return (AttemptState::Check, AttemptEffect::Pause);
    }
    host.remove_header(Headers::Request, steering::HEADER);
    if is_check {
        host.remove_header(Headers::Request, heartbeat::MARK);
    }
    pass
}

/// Looks now and then whether the first attempt of a request went to one of the hosts that were named to it.
fn check_steering(plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host, context: &RetryContext) {
    let now = host.recently();
    let Some(policy) = plugin.policy(store, context) else { return };
    let Ok(mut policy) = policy.try_borrow_mut() else { return };
    if !policy.wants_to_check_steering(now) {
        return;
    }
    // Later attempts have no header any more.
    let Some(named) = host.header(Headers::Request, steering::HEADER) else { return };
    let Ok(mut worker) = plugin.vm.hosts_worker.try_borrow_mut() else { return };
    store.refresh();
    let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
    policy.check_steering(cx, context, steering::names(&named, &upstream_address(host)));
}

/// Finds out what the request seat says of this request, and decides on the attempt. `None` where it is left to Envoy.
fn begin(
    plugin: &AttemptPlugin,
    store: &mut dyn Store,
    host: &dyn Host,
    stream: u32,
    context: RetryContext,
    ended: bool,
) -> Option<(AttemptState, AttemptEffect)> {
    let now = host.now();
    let Some(shared_policy) = plugin.policy(store, &context) else {
        plugin.strangers.meet(store, host, Stranger::OfAnotherVm, now);
        return None;
    };
    plugin.strangers.end();
    let mut attempt = Attempt {
        policy: Rc::clone(&shared_policy),
        context,
        stream,
        began: now,
        phase: Phase::Over,
        last_byte: LastByte::of_headers(ended),
        route_ends: RouteEnds::Unknown,
        address: None,
        is_sent: false,
        is_met: false,
        is_watched: false,
        waiting: None,
        is_excused: Cell::new(false),
    };
    let mut policy = shared_policy.try_borrow_mut().ok()?;
    if policy.judges_hosts() {
        attempt.waiting = Some(plugin.wait_for_host(now));
    }
    store.refresh();
    policy.announce(store, &attempt.context, now);
    if let Some((one, since)) = attempt.context.take_unsettled().filter(|(one, _)| one.verdict == Verdict::Success) {
        open::settle_retried(plugin, store, &mut policy, &mut attempt.context, one, since, now);
    }
    if !attempt.context.governs_retries {
        return Some(attempt.send_first(now));
    }
    if policy.wants_time_left() {
        attempt.route_ends = time_left(host).map_or(RouteEnds::Never, |left| RouteEnds::At(now.plus(left)));
    }
    policy.see_host(&attempt.context, || upstream_address(host));
    let (hedges, seed) = (policy.hedges(&attempt.context), attempt.context.seed);
    if hedges || attempt.context.has_wishes() {
        attempt.address = host.property("upstream\0address");
    }
    if hedges {
        plugin.hedges((), |hedges| hedges.begin(seed));
        if let Ok(mut in_flight) = plugin.in_flight.try_borrow_mut() {
            in_flight.place(stream, attempt.address.as_deref());
        }
    }
    let passed = plugin.passed.try_borrow().ok().and_then(|passed| passed.of(seed));
    if let Some(passed) = passed.filter(|_| !attempt.context.is_retried()) {
        // The route retries what was not worth a record.
        attempt.context.ended(passed.as_record(now));
        attempt.context.next = if policy.route_knows() { Next::Open } else { Next::Unnamed };
        attempt.context.marked = passed.is_marked;
    }
    if matches!(attempt.context.next, Next::Denied(_) | Next::Unnamed)
        && attempt.context.attempts.last().is_some_and(|last| matches!(last.end, End::Http(_) | End::Grpc(_)))
    {
        policy.came_back(attempt.context.marked, route_name(host).unwrap_or_default());
    }
    let is_retry = attempt.context.is_retried() || hedges && attempt_count(host) > 1;
    if !is_retry {
        attempt.is_sent = hedges && plugin.hedges(false, |hedges| hedges.send(seed));
        return Some(attempt.send_first(now));
    }
    let mut worker = plugin.vm.worker.try_borrow_mut().ok()?;
    let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
    let address = attempt.address.as_deref().unwrap_or_default();
    let decision = policy.before_retry(cx, &mut attempt.context, address, attempt.route_ends);
    drop(policy);
    Some(attempt.begin_retry(plugin, host, stream, decision, hedges, now))
}

impl Attempt {
    /// What the request's waits follow from.
    fn seed(&self) -> u64 {
        self.context.seed
    }

    fn share(self, effect: AttemptEffect) -> (AttemptState, AttemptEffect) {
        (AttemptState::Governed(Rc::new(RefCell::new(self))), effect)
    }

    /// It is the first attempt of its request: it leaves at once.
    fn send_first(mut self, now: Timestamp) -> (AttemptState, AttemptEffect) {
        self.phase = Phase::Sent(now);
        self.share(AttemptEffect::Continue)
    }

    /// Does what was decided on a retry.
    fn begin_retry(
        mut self,
        plugin: &AttemptPlugin,
        host: &dyn Host,
        stream: u32,
        decision: BeforeRetry,
        hedges: bool,
        now: Timestamp,
    ) -> (AttemptState, AttemptEffect) {
        let seed = self.seed();
        let is_stopped = matches!(decision, BeforeRetry::Stop(_));
        self.is_sent = hedges && !is_stopped && plugin.hedges(false, |hedges| hedges.send(seed));
        match decision {
            BeforeRetry::Send => {
                number_attempt(host, self.context.retries);
                self.send(host, now);
                self.share(AttemptEffect::Continue)
            }
            BeforeRetry::Wait { due, taken } => {
                // Request headers cannot be changed later.
                number_attempt(host, self.context.retries);
                self.phase = Phase::Waiting { due, taken };
                self.write(host);
                let attempt = Rc::new(RefCell::new(self));
                plugin.wait(stream, due, Waits::Attempt(Rc::clone(&attempt)), now);
                (AttemptState::Governed(attempt), AttemptEffect::Pause)
            }
            // A reply would also end the attempt in flight beside this one: this one waits for its end.
            BeforeRetry::Stop(_) if hedges && plugin.hedges(false, |hedges| hedges.holds(seed, 0)) => {
                self.hold(host);
                let attempt = Rc::new(RefCell::new(self));
                plugin.wait(stream, now, Waits::Hedge(Rc::clone(&attempt)), now);
                (AttemptState::Governed(attempt), AttemptEffect::Pause)
            }
            BeforeRetry::Stop(denial) => {
                let effect = self.stop(host, denial);
                self.share(effect)
            }
        }
    }

    /// Its wait is over.
    fn wake(&mut self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host, now: Timestamp) -> Woken {
        let seed = self.seed();
        match self.after_wait(store, host, now) {
            BeforeRetry::Stop(_) if plugin.hedges(false, |hedges| hedges.holds(seed, 1)) => {
                if self.hold(host) {
                    plugin.hedges((), |hedges| hedges.hold(seed));
                }
                Woken::Held
            }
            BeforeRetry::Stop(denial) => Woken::Goes(self.stop(host, denial)),
            BeforeRetry::Wait { due, taken } => {
                self.phase = Phase::Waiting { due, taken };
                self.write(host);
                Woken::WaitsOn(due)
            }
            BeforeRetry::Send => {
                self.send(host, now);
                Woken::Goes(AttemptEffect::Resume)
            }
        }
    }

    /// Decides whether an attempt whose wait is over is still to be sent.
    fn after_wait(&mut self, store: &mut dyn Store, host: &dyn Host, now: Timestamp) -> BeforeRetry {
        let Phase::Waiting { taken, .. } = self.phase else { return BeforeRetry::Send };
        let shared_policy = Rc::clone(&self.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return BeforeRetry::Send };
        if policy.hedges(&self.context) {
            self.refresh(host);
        }
        store.refresh();
        let address = self.address.as_deref().unwrap_or_default();
        policy.after_wait(store, &mut self.context, address, taken, now)
    }

    /// Notes that it is sent now.
    fn send(&mut self, host: &dyn Host, now: Timestamp) {
        self.phase = Phase::Sent(now);
        self.write(host);
    }

    /// Replies in its place.
    fn stop(&mut self, host: &dyn Host, denial: Option<Denial>) -> AttemptEffect {
        self.phase = Phase::Stopped;
        self.write(host);
        let last = self.context.attempts.last().map(|last| last.end);
        AttemptEffect::Reply(AttemptReply::not_retried(last, denial, self.asked(host, denial)))
    }

    /// How long the client of a request had better wait that is not retried for that reason.
    fn asked(&self, host: &dyn Host, denial: Option<Denial>) -> Option<Duration> {
        if denial != Some(Denial::RetryAfter) {
            return None;
        }
        let now = host.recently();
        let own = self.context.asked_by(self.address.as_deref().unwrap_or_default(), now);
        own.or_else(|| self.context.least_asked(now)).map(|asked| asked.left)
    }

    /// Holds it back instead of replying, where the request is hedged: a reply would also end the other attempts. Whether it counted as
    /// one that will be sent.
    fn hold(&mut self, host: &dyn Host) -> bool {
        let was_sent = mem::take(&mut self.is_sent);
        self.phase = Phase::Stopped;
        self.write(host);
        was_sent
    }

    /// Replies in place of a hedge that is the last attempt left, with what the others have written meanwhile.
    fn stop_as_left(&mut self, host: &dyn Host) -> AttemptEffect {
        let next = self.context.next;
        let denial = match next {
            Next::Denied(denial) => Some(denial),
            _ => None,
        };
        self.refresh(host);
        self.context.next = next;
        self.stop(host, denial)
    }

    /// How long the host had taken at `came`, of an attempt that was sent at `sent`.
    fn took(&self, sent: Timestamp, came: Timestamp) -> Duration {
        came.since(self.last_byte.counts_from(sent, came))
    }

    /// The address of the host.
    fn address(&self, host: &dyn Host) -> Vec<u8> {
        self.address.clone().unwrap_or_else(|| upstream_address(host))
    }

    /// Leaves the record for the next attempt and the request seat.
    fn write(&mut self, host: &dyn Host) {
        let given_up = u8::try_from(host.take_contentions()).unwrap_or(u8::MAX);
        self.context.contended = self.context.contended.saturating_add(given_up);
        self.context.excused = self.context.excused.saturating_add(self.is_excused.take().into());
        // What a refusal means is no worse than no attempt seat.
        let _ = retry_context::write(host, &self.context);
    }

    /// Takes over what attempts beside this one have written.
    fn refresh(&mut self, host: &dyn Host) {
        if let Ok(Some(written)) = retry_context::read_in_attempt_seat(host) {
            self.context = written;
        }
    }

    /// Judges a response by its headers.
    fn judge_head(&mut self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host, ended: bool) {
        let Phase::Sent(sent) = self.phase else { return };
        self.waiting = None;
        let now = host.now();
        let shared_policy = Rc::clone(&self.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return };
        let document = Arc::clone(policy.policy());
        let retry = document.retry.as_ref().filter(|_| self.context.governs_retries);
        let wants_retry_after = retry.is_some_and(|retry| retry.retry_after.honor);
        let head = ResponseHead::read(&host.headers(Headers::Response), now, wants_retry_after, &document.outcome);
        remove_foreign(host, &head);
        let answer = head.answer(ended);
        let stays_open = !ended && answer.is_none_or(|answer| judges_at_end(&document.outcome, &head, answer));
        let Some(retry) = retry else {
            self.show_judged(host, &policy);
            drop(policy);
            match answer.filter(|_| !stays_open) {
                Some(answer) => self.judge_only(plugin, store, host, (answer, head.by_headers), (sent, now)),
                None => self.stay_open(sent, OpenResponse { head, came: now, answer }),
            }
            return;
        };
        let seed = self.seed();
        let hedges = policy.hedges(&self.context);
        if hedges {
            self.refresh(host);
        }
        let is_hedge_held = matches!(self.context.next, Next::Denied(_));
        let has_others = hedges && plugin.hedges(0, |hedges| hedges.sent(seed)) > 1;
        let has_hedge = hedges && is_hedge_held || has_others;
        let Some(answer) = answer else {
            plugin.hedges((), |hedges| hedges.answer(seed));
            if self.context.is_retried() {
                mark(host, markers::ATTEMPTS_HEADER, "1");
            } else {
                self.show_judged(host, &policy);
            }
            self.stay_open(sent, OpenResponse { head, came: now, answer: None });
            return;
        };
        let verdict = head.by_headers.verdict(&document.outcome, answer);
        let is_named = is_named(retry, &head);
        if stays_open && !is_named {
            self.stay_open(sent, OpenResponse { head: head.clone(), came: now, answer: Some(answer) });
        } else {
            self.phase = Phase::Over;
            let times = AttemptTimes { sent, since: sent, came: now };
            self.judge_host(plugin, store, host, &mut policy, (End::of(answer), verdict), times);
        }
        if !self.context.is_retried() && verdict == Verdict::Success && !is_named {
            let is_marked = policy.forbids(&self.context, &head, || route_name(host));
            if is_marked {
                mark(host, markers::FORBID_HEADER, markers::FORBID_VALUE);
            }
            if hedges && is_hedge_held {
                // A hedge was not sent; that is worth counting.
                mark(host, markers::ATTEMPTS_HEADER, "1");
            }
            if let Ok(mut passed) = plugin.passed.try_borrow_mut() {
                passed.remember(seed, head.status, is_marked);
            }
            plugin.hedges((), |hedges| hedges.answer(seed));
            self.show_judged(host, &policy);
            return;
        }
        let Some(end) = End::of(answer) else { return };
        let (host_address, took) = (self.address(host), self.took(sent, now));
        let one = AttemptRecord { host: host_address, end, verdict, took, ended: now, wish: None };
        let Ok(mut worker) = plugin.vm.worker.try_borrow_mut() else { return };
        let mut after = if has_hedge {
            policy.after_hedged_response(&mut self.context, one, &head, has_others)
        } else {
            store.refresh();
            let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
            policy.after_response(cx, &mut self.context, one, &head, self.route_ends)
        };
        if after != AfterResponse::Ask && self.context.may_go_further() && self.go_further(&policy, host, now) {
            after = AfterResponse::Ask;
        }
        self.context.marked =
            after == AfterResponse::Forbid && policy.forbids(&self.context, &head, || route_name(host));
        self.write(host);
        mark(host, markers::ATTEMPTS_HEADER, "1");
        if !matches!(after, AfterResponse::Ask) {
            plugin.hedges((), |hedges| hedges.answer(seed));
        }
        match after {
            AfterResponse::Pass => {}
            AfterResponse::Forbid => {
                if self.context.marked {
                    mark(host, markers::FORBID_HEADER, markers::FORBID_VALUE);
                }
            }
            AfterResponse::Ask => {
                if head.ratelimited.is_some() && policy.asks_by_header(&self.context) {
                    // The host's own would forbid what the policy asks for. (A router that goes by words goes by it.)
                    host.remove_header(Headers::Response, markers::FORBID_HEADER);
                }
                mark(host, markers::RETRY_HEADER, "1");
            }
        }
    }

    /// Judges a response by its headers, of a request whose retries are the route's.
    fn judge_only(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        answer: (Answer, HeaderVerdict),
        (sent, now): (Timestamp, Timestamp),
    ) {
        self.phase = Phase::Over;
        if self.record(plugin, store, host, answer, AttemptTimes { sent, since: sent, came: now }) {
            mark(host, markers::ATTEMPTS_HEADER, "1");
        }
    }

    /// Shows a request seat that has not heard of this seat that the host is judged here.
    fn show_judged(&mut self, host: &dyn Host, policy: &AttemptPolicy) {
        if !self.context.seat && policy.judges_hosts() {
            // The header alone would prove nothing.
            self.write(host);
            mark(host, markers::ATTEMPTS_HEADER, "1");
        }
    }

    /// Gives the permit back of a probe that says nothing about its host.
    fn return_probe(&self, plugin: &AttemptPlugin, store: &mut dyn Store, host: &dyn Host, sent: Timestamp) {
        if self.context.probe.is_none() {
            return;
        }
        let now = host.now();
        if let (Ok(mut policy), Ok(mut worker)) =
            (self.policy.try_borrow_mut(), plugin.vm.hosts_worker.try_borrow_mut())
        {
            store.refresh();
            let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
            policy.return_probe(cx, &self.context, sent);
        }
    }

    /// Judges the host by how an attempt ended. What the response's headers said, or that there are none, shows at the time of its
    /// end; an open response ends later.
    fn judge_host(
        &self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        policy: &mut AttemptPolicy,
        (end, verdict): (Option<End>, Verdict),
        times: AttemptTimes,
    ) {
        let Some(end) = end.filter(|_| policy.judges_hosts()) else { return };
        store.refresh();
        if verdict == Verdict::Success && !self.is_met && !policy.wants_host(store, &self.context, host.recently()) {
            return;
        }
        let now = if matches!(self.phase, Phase::Open { .. }) { host.now() } else { times.came };
        self.judge_host_at(plugin, store, host, policy, (end, verdict), times, now);
    }

    /// The same at a time.
    #[allow(clippy::too_many_arguments)] // All of them are facts of this one moment.
    fn judge_host_at(
        &self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        policy: &mut AttemptPolicy,
        (end, verdict): (End, Verdict),
        times: AttemptTimes,
        now: Timestamp,
    ) {
        let AttemptTimes { sent, since, came } = times;
        let Ok(mut worker) = plugin.vm.hosts_worker.try_borrow_mut() else { return };
        let cx = &mut Cx { store, worker: &mut worker, now, events: &mut Vec::new() };
        plugin.pauses.sign(now);
        if end.is_without_answer() && plugin.pauses.excuse(sent, came) {
            self.is_excused.set(true);
            return policy.return_probe(cx, &self.context, sent);
        }
        let address = self.address(host);
        let took = self.took(sent, came).saturating_sub(plugin.pauses.between(sent, came));
        let one = HostAttempt { host: &address, end, verdict, took, sent: since };
        if let Some(due) = policy.judge_host(cx, &self.context, one) {
            plugin.flush_by(due, now);
        }
        policy.note_label(cx, &self.context, &address, host);
    }

    /// Records an attempt after which this seat decides nothing. Whether there is something to read.
    fn record(
        &mut self,
        plugin: &AttemptPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        (answer, by_headers): (Answer, HeaderVerdict),
        times: AttemptTimes,
    ) -> bool {
        let took = self.took(times.sent, times.came);
        let shared_policy = Rc::clone(&self.policy);
        let Ok(mut policy) = shared_policy.try_borrow_mut() else { return false };
        let verdict = by_headers.verdict(&policy.policy().outcome, answer);
        let end = End::of(answer);
        self.judge_host(plugin, store, host, &mut policy, (end, verdict), times);
        drop(policy);
        let Some(end) = end else {
            self.return_probe(plugin, store, host, times.sent);
            return false;
        };
        let is_worth_it = self.context.is_retried() || verdict != Verdict::Success;
        if is_worth_it {
            self.push(host, (end, verdict), took, times.came);
            self.context.next = Next::Open;
            self.write(host);
        }
        is_worth_it
    }

    /// Adds it to the retry context.
    fn push(&mut self, host: &dyn Host, (end, verdict): (End, Verdict), took: Duration, ended: Timestamp) {
        let host = self.address(host);
        self.context.ended(AttemptRecord { host, end, verdict, took, ended, wish: None });
    }
}

/// Adds a header for the router or the request seat. Where the host refuses, the router decides by its own rules.
fn mark(host: &dyn Host, name: &str, value: &str) {
    host.set_header(Headers::Response, name, value);
}

/// Removes what only this seat may say.
fn remove_foreign(host: &dyn Host, head: &ResponseHead) {
    if head.asks_retry {
        host.remove_header(Headers::Response, markers::RETRY_HEADER);
    }
    if head.has_attempts {
        host.remove_header(Headers::Response, markers::ATTEMPTS_HEADER);
    }
}

/// Tells the host which attempt this is, as Envoy does where the route asks for it: proxies behind it then do not retry too.
fn number_attempt(host: &dyn Host, retries: u8) {
    let number = u32::from(retries).saturating_add(1);
    host.set_header(Headers::Request, "x-envoy-attempt-count", &number.to_string());
}

/// Whether the policy names a response as one to retry after, or may leave that to the route: of answers below 400 only when the
/// router does begin a retry.
fn is_named(retry: &Retry, head: &ResponseHead) -> bool {
    match conditions::names_response(&retry.on, head.status, head.grpc_status, head.ratelimited.is_some()) {
        Named::Yes => true,
        Named::RouteKnows => head.status >= 400,
        Named::No => false,
    }
}

/// The attempt's number as Envoy counts, from 1.
fn attempt_count(host: &dyn Host) -> u64 {
    property_number(host, "upstream\0request_attempt_count").unwrap_or(0)
}

fn route_name(host: &dyn Host) -> Option<Vec<u8>> {
    host.property("xds\0route_name")
}

/// How long the route lets the request go on.
fn time_left(host: &dyn Host) -> Option<Duration> {
    let value = host.header(Headers::Request, "x-envoy-expected-rq-timeout-ms")?;
    let millis: u64 = core::str::from_utf8(&value).ok()?.trim().parse().ok()?;
    (millis > 0).then_some(Duration::from_millis(millis))
}
