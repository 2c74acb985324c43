//! Request seats and attempt seats on one store, as timelines. `t` is milliseconds since a start.

use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::http::attempt::AttemptRecord;
use crate::http::attempt::End;
use crate::http::attempt::RetryWish;
use crate::http::client::ClientWaits;
use crate::http::outcome;
use crate::http::response::ResponseHead;
use crate::outlier::hosts::HostAttempt;
use crate::retry::Denial;
use crate::retry::Eligibility;
use crate::retry::budget::Withdrawn;
use crate::seats::policy_text;
use crate::seats::policy_text::PolicyText;
use crate::seats::presence::Presence;
use crate::seats::presence::seat;
use crate::seats::retry_context::Next;
use crate::seats::retry_context::RetryContext;
use crate::store::Store;
use crate::store::block::BlockKind;
use crate::store::cluster::GroupId;
use crate::store::directory::Occupant;
use crate::store::record::Record;
use crate::store::worker::Worker;
use core::time::Duration;
use std::borrow::Cow;

use super::*;
use crate::http::outcome::{Answer, Outcome, Verdict};
use crate::http::response::SetBy;
use crate::metric::Metric;
use crate::request::{Asked, AttemptsMade, Decision, Plan, RequestPolicy, Ticket};
use crate::store::cluster::ClusterHash;
use crate::store::keys::Key;
use crate::store::memory::MemoryStore;
use holdfast_policy::config;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const BREAKER: &str = r#""breaker":{"min_requests":2,"open_for":"10s","open_jitter":0}"#;

/// Waits of 100, 200, 250 ms; no more than the reserve of two tokens.
const RETRY: &str = r#""retry":{"backoff":{"base":"100ms","max":"250ms","jitter":"none"},
    "budget":{"ratio":0,"min_per_second":0.2,"window":"10s"}"#;

fn asked(eligibility: Eligibility) -> Asked {
    Asked { eligibility, cluster: ClusterHash::OF_THE_KEY, ended: true, client_waits: ClientWaits::default() }
}

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

/// Both seats of one worker thread: two VMs.
struct Thread {
    request: Worker,
    request_policy: RequestPolicy,
    attempt: Worker,
    attempts: AttemptPolicy,
    store: MemoryStore,
    events: Vec<Event>,
}

impl Thread {
    fn new(store: &MemoryStore, features: &str) -> Self {
        let text = format!(r#"{{"policies":[{{"name":"orders",{features}}}]}}"#);
        let mut document = match config::parse(text.as_bytes()) {
            Ok(document) => document,
            Err(errors) => panic!("{errors}"),
        };
        let mut store = store.clone();
        let request_policy = RequestPolicy::entered(document.policies.remove(0).into(), &mut store, t(0));
        request_policy.publish(&mut store, &config::policy_texts(text.as_bytes())[0]);
        let attempts =
            AttemptPolicy::fetch(&mut store, request_policy.text_place().unwrap(), |_| Default::default()).unwrap();
        let (request, attempt) = (Worker::new(1), Worker::new(2));
        Thread { request, request_policy, attempt, attempts, store, events: Vec::new() }
    }

    fn key(&mut self) -> Key {
        self.request_policy.key(&mut self.request, &mut self.store, t(0), |_| Some(Cow::Borrowed(b"orders")))
    }

    /// Admits a request of this eligibility, seen by an attempt seat.
    /// Writes what waits in the request seat.
    fn flush(&mut self, now: Timestamp) {
        self.request_policy.flush(&mut Cx::new(&mut self.store, &mut self.request, now, &mut Vec::new()));
    }

    fn admit(&mut self, eligibility: Eligibility, now: Timestamp) -> (Ticket, Plan) {
        let key = self.key();
        self.seat_is_seen(key, now);
        let decision =
            self.request_policy.admit(&mut Cx::new(&mut self.store, &mut self.request, now, &mut self.events), key);
        let Decision::Admitted(ticket) = decision else { panic!("{decision:?}") };
        let plan = self
            .request_policy
            .plan_retries(
                &mut Cx::new(&mut self.store, &mut self.request, now, &mut Vec::new()),
                &ticket,
                asked(eligibility),
                None,
            )
            .unwrap();
        (ticket, plan)
    }

    fn seat_is_seen(&mut self, key: Key, now: Timestamp) {
        let keys = self.request_policy.standing().unwrap().places.get(BlockKind::Keys).unwrap();
        let mut seat = seat(keys, key.occupant, GroupId::OfTheKey).unwrap();
        seat.update(&mut self.store, |_| ((), Some(Presence { seen: now }))).unwrap();
    }

    fn context(&mut self, eligibility: Eligibility, now: Timestamp) -> RetryContext {
        self.admit(eligibility, now).1.context.unwrap()
    }

    fn responds(&mut self, context: &mut RetryContext, head: &ResponseHead, now: Timestamp) -> AfterResponse {
        let one = AttemptRecord {
            host: HOST.into(),
            end: End::Http(head.status),
            verdict: Verdict::Failure,
            took: Duration::from_millis(1),
            ended: now,
            wish: None,
        };
        let route_ends = if self.attempts.wants_time_left() { RouteEnds::Never } else { RouteEnds::Unknown };
        self.attempts.after_response(
            &mut Cx::new(&mut self.store, &mut self.attempt, now, &mut Vec::new()),
            context,
            one,
            head,
            route_ends,
        )
    }

    /// The router begins a retry at the host that all responses here are of.
    fn before_retry(&mut self, context: &mut RetryContext, now: Timestamp) -> BeforeRetry {
        self.before_retry_at(context, HOST, now)
    }

    fn before_retry_at(&mut self, context: &mut RetryContext, host: &str, now: Timestamp) -> BeforeRetry {
        let route_ends = if self.attempts.wants_time_left() { RouteEnds::Never } else { RouteEnds::Unknown };
        self.attempts.before_retry(
            &mut Cx::new(&mut self.store, &mut self.attempt, now, &mut Vec::new()),
            context,
            host.as_bytes(),
            route_ends,
        )
    }

    fn sees(&mut self, context: &RetryContext, host: &str, times: u32) {
        for _ in 0..times {
            self.attempts.seen_hosts(context).unwrap().begin(|| host.into());
        }
    }

    /// So many attempts go to one host and no other that it shows that there is none.
    fn sees_one_host(&mut self, context: &RetryContext) {
        self.sees(context, HOST, 100);
    }

    /// A host answers an attempt of which nothing else is known.
    fn judge(&mut self, context: &RetryContext, host: &str, status: u16, now: Timestamp) {
        let verdict = if status < 500 { Verdict::Success } else { Verdict::Failure };
        let (end, took) = (End::Http(status), Duration::ZERO);
        let one = HostAttempt { host: host.as_bytes(), end, verdict, took, sent: now };
        self.attempts.judge_host(&mut Cx::new(&mut self.store, &mut self.attempt, now, &mut Vec::new()), context, one);
    }

    fn has_tokens(&mut self, count: u32, now: Timestamp) -> bool {
        let key = self.key();
        let cell = self.request_policy.place(BlockKind::Retry, key).unwrap().cell();
        let mut cell: Withdrawn = cell.read(&mut self.store).unwrap();
        let budget = self.attempts.policy.retry.as_ref().unwrap().budget;
        (0..count).all(|_| {
            let has_left = cell.has_left(&budget, 0, now);
            cell.charge(1, now, budget.window);
            has_left
        })
    }

    /// The end of a wait; the token was withdrawn when the last attempt ended.
    fn after_wait(&mut self, context: &mut RetryContext, now: Timestamp) -> BeforeRetry {
        let taken = context.attempts.last().unwrap().ended;
        self.attempts.after_wait(&mut self.store, context, HOST.as_bytes(), taken, now)
    }

    /// A request that ends as a failure without any retry: two of them open the breaker.
    fn fails(&mut self, now: Timestamp) {
        let (ticket, _) = self.admit(Eligibility::All, now);
        let outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };
        let (worker, store) = (&mut self.request, &mut self.store);
        assert_eq!(
            self.request_policy.report(&mut Cx::new(store, worker, now, &mut self.events), ticket, &outcome),
            None
        );
    }

    fn account(&mut self, tried: &AttemptsMade<'_>, answer: Answer, now: Timestamp) -> u32 {
        let key = self.key();
        let verdict = outcome::verdict(&self.request_policy.policy().outcome, answer);
        let outcome = Outcome { verdict, slow: false, retry_after: None };
        let (worker, store) = (&mut self.request, &mut self.store);
        let events = &mut self.events;
        self.request_policy
            .account_retries(&mut Cx::new(store, worker, now, events), key, tried, answer, &outcome)
            .retries
    }

    fn count(&self, metric: Metric) -> usize {
        self.events.iter().filter(|event| **event == Event::Count(metric)).count()
    }
}

fn thread(features: &str) -> Thread {
    Thread::new(&MemoryStore::default(), features)
}

fn retry(more: &str) -> String {
    format!("{RETRY}{more}}}")
}

/// A wait with a token that was withdrawn at `taken`.
fn wait(due: u64, taken: u64) -> BeforeRetry {
    BeforeRetry::Wait { due: t(due), taken: t(taken) }
}

fn status(status: u16) -> ResponseHead {
    ResponseHead { status, ..ResponseHead::default() }
}

const ASK: AfterResponse = AfterResponse::Ask;

/// The host that answers, and another one.
const HOST: &str = "10.0.0.1:80";
const OTHER: &str = "10.0.0.2:80";

#[test]
fn a_failed_attempt_is_followed_by_another_after_its_wait() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut context, &status(503), t(10)), ASK);
    assert_eq!(thread.before_retry(&mut context, t(12)), wait(110, 10), "100 ms from the end of the first");
    assert_eq!(thread.after_wait(&mut context, t(110)), BeforeRetry::Send);
    assert_eq!(thread.responds(&mut context, &status(503), t(120)), ASK);
    assert_eq!(thread.before_retry(&mut context, t(120)), wait(320, 120), "200 ms before the second retry");
    assert_eq!(thread.after_wait(&mut context, t(320)), BeforeRetry::Send);
    assert_eq!(thread.responds(&mut context, &status(503), t(330)), AfterResponse::Pass, "max_retries is reached");
    assert_eq!((context.retries, context.attempts.len()), (2, 3));
}

#[test]
fn a_wait_that_is_over_when_the_router_begins_is_not_waited_again() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(0));
    thread.responds(&mut context, &status(503), t(10));
    assert_eq!(thread.before_retry(&mut context, t(110)), BeforeRetry::Send);
}

#[test]
fn the_budget_is_over_all_workers_and_comes_back_with_the_window() {
    let store = MemoryStore::default();
    let mut threads = [Thread::new(&store, &retry("")), Thread::new(&store, &retry(""))];
    for thread in &mut threads {
        let mut context = thread.context(Eligibility::All, t(0));
        assert_eq!(thread.responds(&mut context, &status(503), t(0)), ASK);
    }
    let mut third = threads[0].context(Eligibility::All, t(0));
    assert_eq!(threads[0].responds(&mut third, &status(503), t(0)), AfterResponse::Forbid);
    assert_eq!(third.next, Next::Denied(Denial::Budget));
    let mut later = threads[1].context(Eligibility::All, t(11_000));
    assert_eq!(threads[1].responds(&mut later, &status(503), t(11_000)), ASK);
}

#[test]
fn requests_earn_tokens_on_whatever_worker_they_were() {
    let store = MemoryStore::default();
    let features = r#""retry":{"budget":{"ratio":50,"min_per_second":0,"window":"10s"}}"#;
    let mut threads = [Thread::new(&store, features), Thread::new(&store, features)];
    let mut poor = threads[0].context(Eligibility::All, t(0));
    assert_eq!(threads[0].responds(&mut poor, &status(503), t(0)), AfterResponse::Forbid, "nothing was earned yet");
    // Sent, and not answered yet.
    let _ = threads[1].context(Eligibility::All, t(1));
    for thread in &mut threads {
        thread.flush(t(11));
    }
    let mut rich = threads[0].context(Eligibility::All, t(20));
    assert_eq!(threads[0].responds(&mut rich, &status(503), t(20)), ASK, "two requests at 50 % are one token");
    let mut next = threads[1].context(Eligibility::All, t(20));
    assert_eq!(threads[1].responds(&mut next, &status(503), t(20)), AfterResponse::Forbid);
}

#[test]
fn an_open_breaker_denies_and_gives_the_token_back_even_between_two_attempts() {
    let mut thread = thread(&format!("{BREAKER},{}", retry("")));
    let mut waiting = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut waiting, &status(503), t(0)), ASK);
    thread.fails(t(10));
    thread.fails(t(20));
    assert_eq!(thread.before_retry(&mut waiting, t(30)), wait(100, 0));
    assert_eq!(thread.after_wait(&mut waiting, t(100)), BeforeRetry::Stop(Some(Denial::Breaker)));
    assert_eq!(waiting.retries, 0, "it was not sent");
    let key = thread.key();
    let cell = thread.request_policy.place(BlockKind::Retry, key).unwrap().cell();
    let cell: Withdrawn = cell.read(&mut thread.store).unwrap();
    let budget = thread.attempts.policy.retry.as_ref().unwrap().budget;
    assert!((0..2).all(|_| cell.clone().has_left(&budget, 0, t(100))), "both tokens are there");
}

#[test]
fn a_probe_is_not_retried() {
    let mut thread = thread(&format!("{BREAKER},{}", retry("")));
    thread.fails(t(0));
    thread.fails(t(1));
    let (ticket, plan) = thread.admit(Eligibility::All, t(10_001));
    assert!(ticket.is_probe());
    assert_eq!(
        (plan.eligibility, plan.denial),
        (Eligibility::Nothing, Some(Denial::Breaker)),
        "it would be one probe more"
    );
    assert_eq!(plan.context, None);
}

#[test]
fn half_open_denies_what_was_admitted_before() {
    let mut thread = thread(&format!("{BREAKER},{}", retry("")));
    let mut early = thread.context(Eligibility::All, t(0));
    thread.fails(t(1));
    thread.fails(t(2));
    let (_probe, _) = thread.admit(Eligibility::All, t(10_002));
    assert_eq!(thread.responds(&mut early, &status(503), t(10_010)), AfterResponse::Forbid);
    assert_eq!(early.next, Next::Denied(Denial::Breaker));
}

#[test]
fn what_a_host_has_seen_is_sent_again_only_if_it_may_be() {
    let mut thread = thread(&retry(""));
    let mut posted = thread.context(Eligibility::Unsent, t(0));
    assert_eq!(thread.responds(&mut posted, &status(503), t(1)), AfterResponse::Forbid);
    assert_eq!(posted.next, Next::Denied(Denial::Method));

    let mut reset = thread.context(Eligibility::Unsent, t(2));
    thread.attempts.after_no_response(&mut reset, Vec::new(), true, t(2), t(3));
    assert_eq!(
        thread.before_retry(&mut reset, t(4)),
        BeforeRetry::Stop(Some(Denial::Method)),
        "whatever the route says"
    );

    let mut refused = thread.context(Eligibility::Unsent, t(5));
    thread.attempts.after_no_response(&mut refused, Vec::new(), false, t(5), t(6));
    assert_eq!(thread.before_retry(&mut refused, t(7)), wait(106, 7), "nobody has seen it");
}

#[test]
fn a_connection_that_fails_while_its_attempt_waits_is_an_attempt_of_its_own() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(0));
    thread.attempts.after_no_response(&mut context, Vec::new(), false, t(0), t(1));
    assert_eq!(thread.before_retry(&mut context, t(2)), wait(101, 2));
    thread.attempts.after_no_connection(&mut context, Vec::new(), t(3));
    assert_eq!(context.retries, 1);
    assert_eq!(thread.before_retry(&mut context, t(4)), wait(203, 4), "and it costs a token of its own");
    thread.attempts.after_no_connection(&mut context, Vec::new(), t(5));
    assert_eq!(thread.before_retry(&mut context, t(6)), BeforeRetry::Stop(None), "two retries were made");
}

#[test]
fn what_the_policy_does_not_name_is_forbidden_whatever_the_route_says() {
    let mut thread = thread(r#""retry":{"on":["connect-failure",429]}"#);
    for (code, expected) in [(503, true), (404, true), (200, false)] {
        let mut context = thread.context(Eligibility::All, t(0));
        assert_eq!(thread.responds(&mut context, &status(code), t(1)), AfterResponse::Forbid, "{code}");
        assert_eq!(thread.attempts.forbids(&context, &status(code), || None), expected, "{code}");
    }
    let mut named = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut named, &status(429), t(1)), ASK);
    let mut reset = thread.context(Eligibility::All, t(0));
    thread.attempts.after_no_response(&mut reset, Vec::new(), true, t(0), t(1));
    assert_eq!(thread.before_retry(&mut reset, t(2)), BeforeRetry::Stop(None));
}

fn asks(seconds: u64) -> ResponseHead {
    ResponseHead { retry_after: Some(Duration::from_secs(seconds)), ..status(503) }
}

fn pushes_back(millis: u64) -> ResponseHead {
    ResponseHead { pushback: Some(Duration::from_millis(millis)), ..status(503) }
}

fn stopped(denial: Denial) -> BeforeRetry {
    BeforeRetry::Stop(Some(denial))
}

#[test]
fn where_there_is_one_host_its_wish_is_the_wait_unless_it_is_too_long() {
    let mut thread = thread(&retry(r#","retry_after":{"max":"20s"}"#));
    let mut first = thread.context(Eligibility::All, t(0));
    thread.sees_one_host(&first);
    assert_eq!(thread.responds(&mut first, &asks(20), t(0)), AfterResponse::Forbid, "a route's 15 s would be over");
    assert_eq!(first.next, Next::Denied(Denial::RetryAfter));
    assert!(thread.attempts.wants_time_left(), "from now on it is worth knowing");
    let mut long = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut long, &asks(20), t(0)), ASK, "a route without a time-out");
    assert_eq!(thread.before_retry(&mut long, t(1)), wait(20_000, 0));
    let mut longer = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut longer, &asks(21), t(0)), AfterResponse::Forbid);

    let mut deaf = super::tests::thread(&retry(r#","retry_after":{"honor":false}"#));
    let mut context = deaf.context(Eligibility::All, t(0));
    deaf.responds(&mut context, &asks(20), t(0));
    assert_eq!(deaf.before_retry(&mut context, t(1)), wait(100, 0));
}

#[test]
fn a_wait_beyond_the_deadline_is_not_begun() {
    let mut thread = thread(&retry(r#","timeout":"150ms""#));
    let mut late = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut late, &status(503), t(50)), AfterResponse::Forbid);
    assert_eq!(late.next, Next::Denied(Denial::Deadline));
    let mut early = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut early, &status(503), t(49)), ASK);
    let mut asked = thread.context(Eligibility::All, t(0));
    thread.sees_one_host(&asked);
    assert_eq!(thread.responds(&mut asked, &asks(1), t(1)), AfterResponse::Forbid);
    assert_eq!(asked.next, Next::Denied(Denial::RetryAfter));
}

#[test]
fn the_clients_deadline_binds_retries_whatever_the_policy_and_the_route_allow() {
    for (more, policy_allows) in [("", 15), (r#","timeout":"30s""#, 30), (r#","timeout":"3s""#, 3)] {
        let mut thread = thread(&retry(more));
        let mut context = thread.context(Eligibility::All, t(0));
        thread.sees_one_host(&context);
        context.deadline = context.deadline.into_iter().chain([t(5000)]).min();
        let within = 5.min(policy_allows);
        assert_eq!(thread.responds(&mut context.clone(), &asks(within - 1), t(0)), ASK, "{more}");
        let mut late = context.clone();
        assert_eq!(thread.responds(&mut late, &asks(within), t(0)), AfterResponse::Forbid, "{more}");
        assert_eq!(late.next, Next::Denied(Denial::RetryAfter));
        let mut last = context;
        assert_eq!(thread.responds(&mut last, &status(503), t(within * 1000 - 50)), AfterResponse::Forbid, "{more}");
        assert_eq!(last.next, Next::Denied(Denial::Deadline));
    }
}

#[test]
fn the_earlier_of_the_policys_time_out_and_the_clients_deadline_ends_retries() {
    let grpc = |seconds| ClientWaits { from_begin: Some(Duration::from_secs(seconds)), from_end: None };
    let proxy = |seconds| ClientWaits { from_begin: None, from_end: Some(Duration::from_secs(seconds)) };
    for (ended, client_waits, expected) in [
        (true, ClientWaits::default(), Some(3000)),
        (true, grpc(2), Some(2000)),
        (true, grpc(4), Some(3000)),
        (true, proxy(2), Some(2000)),
        (false, grpc(4), Some(4000)),
        (false, proxy(2), None),
        (false, ClientWaits::default(), None),
    ] {
        let mut thread = thread(&retry(r#","timeout":"3s""#));
        let (ticket, _) = thread.admit(Eligibility::All, t(0));
        let asked = Asked { ended, client_waits, ..asked(Eligibility::All) };
        let mut events = Vec::new();
        let cx = &mut Cx::new(&mut thread.store, &mut thread.request, t(0), &mut events);
        let context = thread.request_policy.plan_retries(cx, &ticket, asked, None).unwrap().context.unwrap();
        assert_eq!(context.deadline, expected.map(t), "{ended} {client_waits:?}");
    }
}

#[test]
fn the_time_of_an_attempt_has_room_for_the_wait_before_it() {
    let mut thread = thread(&retry(r#","per_try_timeout":"300ms""#));
    let (_, plan) = thread.admit(Eligibility::All, t(0));
    assert_eq!(plan.attempt_lasts, Some(Duration::from_millis(500)), "300 and the longest wait, 200");
    let (_, plan) = thread.admit(Eligibility::Nothing, t(0));
    assert_eq!(plan.attempt_lasts, Some(Duration::from_millis(300)), "without a retry there is no wait");

    let mut short = super::tests::thread(&retry(r#","per_try_timeout":"300ms","timeout":"400ms""#));
    let (_, plan) = short.admit(Eligibility::All, t(0));
    assert_eq!(plan.attempt_lasts, Some(Duration::from_millis(399)), "Envoy ignores one that is not below the whole");
}

#[test]
fn an_attempt_that_took_its_time_timed_out_and_its_wait_counts_from_there() {
    let mut thread = thread(&retry(r#","per_try_timeout":"300ms""#));
    let mut context = thread.context(Eligibility::All, t(0));
    thread.attempts.after_no_response(&mut context, Vec::new(), true, t(0), t(500));
    assert_eq!(context.attempts[0].end, End::TimedOut);
    assert_eq!(thread.before_retry(&mut context, t(501)), BeforeRetry::Send, "its 300 ms and a wait of 100 are over");
}

#[test]
fn a_timer_may_be_early_and_a_hedged_attempt_has_none() {
    let mut thread = thread(&retry(r#","per_try_timeout":"100ms""#));
    let ends = |thread: &mut Thread, lasted| {
        let mut context = thread.context(Eligibility::All, t(0));
        context.attempt_lasts = Some(Duration::from_millis(100));
        thread.attempts.after_no_response(&mut context, Vec::new(), true, t(0), t(lasted));
        context.attempts[0].end
    };
    assert_eq!((ends(&mut thread, 74), ends(&mut thread, 76)), (End::Reset, End::TimedOut));
    let hedging = r#","per_try_timeout":"100ms","timeout":"1s","hedge_on_per_try_timeout":true"#;
    let mut hedging = super::tests::thread(&retry(hedging));
    assert_eq!((ends(&mut hedging, 500), ends(&mut hedging, 995)), (End::Reset, End::TimedOut));
}

#[test]
fn a_hosts_wish_that_an_attempt_has_no_room_for_means_no_other_attempt() {
    let mut thread = thread(&retry(r#","per_try_timeout":"900ms""#));
    let mut short = thread.context(Eligibility::All, t(0));
    thread.sees_one_host(&short);
    assert_eq!(thread.responds(&mut short, &pushes_back(200), t(1)), ASK, "the next try has room for 200 ms");
    let mut long = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut long, &pushes_back(201), t(1)), AfterResponse::Forbid);
    assert_eq!(long.next, Next::Denied(Denial::RetryAfter));
}

#[test]
fn the_back_off_counts_on_after_a_wait_that_a_host_asked_for() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut context, &pushes_back(30), t(0)), ASK);
    assert_eq!(thread.before_retry(&mut context, t(0)), wait(30, 0), "the host's");
    assert_eq!(thread.after_wait(&mut context, t(30)), BeforeRetry::Send);
    assert_eq!(thread.responds(&mut context, &status(503), t(30)), ASK);
    assert_eq!(thread.before_retry(&mut context, t(30)), wait(230, 30), "the second of the policy's: twice 100 ms");
}

#[test]
fn a_hedge_costs_a_token_and_does_not_wait() {
    let mut thread = thread(&retry(r#","per_try_timeout":"300ms","hedge_on_per_try_timeout":true"#));
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(context.attempt_lasts, Some(Duration::from_millis(500)), "so that no try is hedged while it waits");
    assert_eq!(thread.before_retry(&mut context, t(300)), BeforeRetry::Send);
    let mut other = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.before_retry(&mut other, t(300)), BeforeRetry::Send);
    let mut third = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.before_retry(&mut third, t(300)), BeforeRetry::Stop(Some(Denial::Budget)));
}

/// Hedges after 500 ms: 300 of an attempt's own, and 200 for the longer of two waits.
const HEDGING: &str = r#""retry":{"max_retries":3,"per_try_timeout":"300ms","hedge_on_per_try_timeout":true,
    "backoff":{"base":"100ms","max":"200ms","jitter":"none"}"#;

fn hedging(more: &str) -> Thread {
    thread(&format!("{HEDGING}{more}}}"))
}

impl Thread {
    /// A response of a hedged request, while `has_others` of its attempts are in flight.
    fn responds_beside(
        &mut self,
        context: &mut RetryContext,
        head: &ResponseHead,
        has_others: bool,
        now: Timestamp,
    ) -> AfterResponse {
        let (end, verdict) = (End::Http(head.status), Verdict::Failure);
        let one = AttemptRecord { host: HOST.into(), end, verdict, took: Duration::ZERO, ended: now, wish: None };
        self.attempts.after_hedged_response(context, one, head, has_others)
    }
}

#[test]
fn beside_a_retry_an_answer_waits_for_it_unless_that_one_is_held_back() {
    let mut thread = hedging("");
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds_beside(&mut context, &status(503), true, t(600)), ASK);
    context.next = Next::Denied(Denial::Budget);
    assert_eq!(thread.responds_beside(&mut context, &status(503), true, t(610)), ASK, "others are in flight");
    assert_eq!(context.next, Next::Denied(Denial::Budget), "what the router begins for it is held back too");
    assert_eq!(thread.responds_beside(&mut context, &status(503), false, t(620)), AfterResponse::Forbid);
    assert_eq!(thread.responds_beside(&mut context, &status(404), true, t(630)), AfterResponse::Forbid, "not named");
}

/// gRPC A6: a negative pushback stops further hedges and retries; what is in flight goes on.
#[test]
fn a_host_that_asks_not_to_come_back_stops_what_has_not_begun() {
    let (never, too_long) = (Duration::MAX, Duration::from_millis(401));
    for pushback in [never, too_long] {
        let mut thread = hedging("");
        let asks = ResponseHead { pushback: Some(pushback), ..status(503) };
        let mut context = thread.context(Eligibility::All, t(0));
        assert_eq!(thread.before_retry(&mut context, t(500)), BeforeRetry::Send, "a hedge");
        assert_eq!(
            thread.responds_beside(&mut context, &asks, true, t(510)),
            ASK,
            "so that the router waits for the other"
        );
        let stopped = stopped(Denial::RetryAfter);
        assert_eq!(thread.before_retry(&mut context.clone(), t(520)), stopped);
        let elsewhere = thread.before_retry_at(&mut context.clone(), OTHER, t(520));
        let expected = if pushback == never { stopped } else { wait(710, 520) };
        assert_eq!(elsewhere, expected, "another host has not asked for a wait");

        let mut cut = context.clone();
        thread.attempts.after_no_response(&mut cut, Vec::new(), true, t(0), t(600));
        assert_eq!(thread.before_retry(&mut cut, t(610)), stopped, "nor after a reset of the other");
        let mut failed = context.clone();
        failed.next = Next::Open;
        thread.sees_one_host(&failed);
        assert_eq!(thread.responds(&mut failed, &status(503), t(600)), AfterResponse::Forbid);
        assert_eq!(failed.next, Next::Denied(Denial::RetryAfter));
        let mut begun = context.clone();
        thread.attempts.begin_again(&mut begun, t(700), t(600));
        assert_eq!(thread.before_retry(&mut begun, t(610)), stopped, "nor one whose connection was closed");
        let mut waiting = context.clone();
        (waiting.retries, waiting.waiting) = (2, 1);
        assert_eq!(
            thread.attempts.after_wait(&mut thread.store, &mut waiting, HOST.as_bytes(), t(400), t(620)),
            stopped,
            "nor one that waits"
        );
        assert_eq!((waiting.retries, waiting.waiting), (1, 0));
    }
}

#[test]
fn a_wait_that_a_host_asks_for_binds_whatever_begins_the_next_attempt() {
    let mut thread = hedging("");
    let asks = ResponseHead { pushback: Some(Duration::from_millis(190)), ..status(503) };
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.before_retry(&mut context, t(500)), BeforeRetry::Send);
    assert_eq!(thread.responds_beside(&mut context, &asks, true, t(510)), ASK);
    assert_eq!(thread.before_retry(&mut context.clone(), t(520)), wait(700, 520), "the router's own retry");

    let mut hedged = context.clone();
    assert_eq!(thread.responds_beside(&mut hedged, &status(503), true, t(520)), ASK);
    assert_eq!(thread.before_retry(&mut hedged, t(530)), wait(720, 530), "its own wait is longer");
    let mut failed = context.clone();
    let brief = ResponseHead { pushback: Some(Duration::from_millis(10)), ..status(503) };
    assert_eq!(thread.responds(&mut failed, &brief, t(520)), ASK);
    assert_eq!(thread.before_retry(&mut failed, t(530)), wait(700, 520), "the longer of two");

    let mut waiting = context.clone();
    (waiting.retries, waiting.waiting) = (2, 1);
    assert_eq!(
        thread.attempts.after_wait(&mut thread.store, &mut waiting, HOST.as_bytes(), t(505), t(600)),
        wait(700, 505),
        "it waits on"
    );
    assert_eq!((waiting.retries, waiting.waiting), (2, 1));
    assert_eq!(
        thread.attempts.after_wait(&mut thread.store, &mut waiting, HOST.as_bytes(), t(505), t(700)),
        BeforeRetry::Send
    );
    let mut eaten = context.clone();
    (eaten.retries, eaten.waiting) = (2, 1);
    let stopped = BeforeRetry::Stop(Some(Denial::RetryAfter));
    assert_eq!(
        thread.attempts.after_wait(&mut thread.store, &mut eaten, HOST.as_bytes(), t(499), t(600)),
        stopped,
        "201 ms have no room"
    );
}

/// The same waits, and a budget that is in nobody's way.
fn ample(more: &str) -> String {
    format!(
        r#""retry":{{"backoff":{{"base":"100ms","max":"250ms","jitter":"none"}},"budget":{{"min_per_second":100}}{more}}}"#
    )
}

#[test]
fn a_wait_binds_retries_on_the_host_that_asks_for_it() {
    let mut thread = thread(&ample(""));
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut context, &asks(1), t(10)), ASK);
    assert_eq!(thread.before_retry(&mut context.clone(), t(12)), wait(1010, 10), "in place of the back-off of 100 ms");
    assert_eq!(thread.before_retry_at(&mut context, OTHER, t(12)), wait(110, 10), "another host: the back-off");
    assert_eq!(
        thread.attempts.after_wait(&mut thread.store, &mut context, OTHER.as_bytes(), t(10), t(110)),
        BeforeRetry::Send
    );
    thread.attempts.after_no_response(&mut context, OTHER.into(), true, t(110), t(120));
    assert_eq!(
        thread.before_retry(&mut context.clone(), t(122)),
        wait(1010, 122),
        "later in the request it holds still"
    );
    assert_eq!(thread.before_retry_at(&mut context, OTHER, t(122)), wait(320, 122));
}

#[test]
fn a_wait_that_is_over_binds_nobody() {
    let mut thread = thread(&retry(r#","retry_after":{"max":"0s"}"#));
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut context, &pushes_back(50), t(0)), ASK);
    assert_eq!(thread.before_retry(&mut context.clone(), t(49)), stopped(Denial::RetryAfter));
    assert_eq!(thread.before_retry(&mut context, t(50)), BeforeRetry::Send);
}

#[test]
fn a_wait_that_does_not_fit_stops_a_retry_on_that_host_alone_and_gives_its_token_back() {
    for (more, deadline, millis) in [
        (r#","retry_after":{"max":"2s"}"#, None, 2001),
        (r#","timeout":"3s""#, None, 3000),
        (r#","per_try_timeout":"300ms""#, None, 201),
        ("", Some(t(4000)), 4000),
        ("", None, 3_600_000),
    ] {
        let mut thread = thread(&retry(more));
        let mut context = thread.context(Eligibility::All, t(0));
        context.deadline = context.deadline.into_iter().chain(deadline).min();
        assert_eq!(thread.responds(&mut context, &pushes_back(millis), t(0)), ASK, "{more}: another may serve it");
        assert_eq!(thread.before_retry_at(&mut context.clone(), OTHER, t(0)), wait(100, 0), "{more}");
        assert_eq!(thread.before_retry(&mut context, t(0)), stopped(Denial::RetryAfter), "{more}");
        assert_eq!((context.next, context.retries), (Next::Denied(Denial::RetryAfter), 0));
        assert!(thread.has_tokens(2, t(1)), "{more}: it was not sent");
    }
}

#[test]
fn no_other_attempt_begins_where_the_only_host_asks_for_too_much() {
    let mut thread = thread(&ample(r#","retry_after":{"max":"2s"}"#));
    let context = thread.context(Eligibility::All, t(0));
    thread.sees_one_host(&context);
    let mut long = context.clone();
    assert_eq!(thread.responds(&mut long, &asks(3), t(0)), AfterResponse::Forbid, "its own answer goes to the client");
    assert_eq!(long.next, Next::Denied(Denial::RetryAfter));
    let mut short = context.clone();
    assert_eq!(thread.responds(&mut short, &asks(1), t(0)), ASK);
    assert_eq!(thread.before_retry(&mut short, t(0)), wait(1000, 0));

    // Later a host comes that nobody expected.
    let mut served = context.clone();
    assert_eq!(thread.responds(&mut served, &asks(1), t(0)), ASK);
    assert_eq!(thread.before_retry_at(&mut served, OTHER, t(0)), wait(100, 0));
    thread.sees(&context, OTHER, 16);
    let mut long = context;
    assert_eq!(thread.responds(&mut long, &asks(3), t(0)), ASK);
}

#[test]
fn of_hosts_that_have_all_asked_the_one_that_asks_for_least_decides_whether_a_retry_begins() {
    let mut thread = thread(&retry(""));
    let context = thread.context(Eligibility::All, t(0));
    thread.sees_one_host(&context);
    let asked = |thread: &mut Thread, other: u64, millis: u64| {
        let mut context = context.clone();
        context.ended(AttemptRecord {
            host: OTHER.into(),
            end: End::Http(503),
            verdict: Verdict::Failure,
            took: Duration::ZERO,
            ended: t(0),
            wish: Some(RetryWish::Wait(Duration::from_secs(other))),
        });
        context.retries = 1;
        (thread.responds(&mut context, &pushes_back(millis), t(0)), context)
    };
    let hour = 3_600_000;
    assert_eq!(asked(&mut thread, 3600, hour).0, AfterResponse::Forbid);
    let (after, mut short) = asked(&mut thread, 2, hour);
    assert_eq!(after, ASK);
    assert_eq!(thread.before_retry_at(&mut short.clone(), OTHER, t(0)), wait(2000, 0));
    assert_eq!(thread.before_retry(&mut short, t(0)), stopped(Denial::RetryAfter));
}

#[test]
fn where_hosts_are_judged_their_table_says_whether_another_is_in() {
    let outlier =
        r#""outlier":{"consecutive_failures":1,"max_ejected":90,"panic_threshold":0,"base_ejection_time":"300s"}"#;
    let mut thread = thread(&format!("{outlier},{}", ample("")));
    let context = thread.context(Eligibility::All, t(0));
    let asks_for_too_much = |thread: &mut Thread| thread.responds(&mut context.clone(), &asks(600), t(10));
    thread.judge(&context, HOST, 200, t(1));
    assert_eq!(asks_for_too_much(&mut thread), ASK, "one host was seen: there may be others");
    thread.sees_one_host(&context);
    assert_eq!(asks_for_too_much(&mut thread), AfterResponse::Forbid);
    thread.judge(&context, OTHER, 200, t(2));
    assert_eq!(asks_for_too_much(&mut thread), ASK, "another worker may have seen it");
    thread.judge(&context, OTHER, 503, t(3));
    thread.sees(&context, OTHER, 16);
    assert_eq!(asks_for_too_much(&mut thread), AfterResponse::Forbid, "it is out: no retry goes there");
    thread.judge(&context, "10.0.0.3:80", 200, t(4));
    assert_eq!(asks_for_too_much(&mut thread), ASK);
}

#[test]
fn a_host_that_wants_no_retries_stops_them_at_all_hosts() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(0));
    let never = ResponseHead { pushback: Some(Duration::MAX), ..status(503) };
    assert_eq!(thread.responds(&mut context, &never, t(0)), AfterResponse::Forbid);
    assert_eq!(context.next, Next::Denied(Denial::RetryAfter));
    assert_eq!(
        thread.before_retry_at(&mut context, OTHER, t(1)),
        stopped(Denial::RetryAfter),
        "whatever the route says"
    );
}

#[test]
fn a_retry_whose_connection_is_closed_takes_no_wait_of_its_host_to_another() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut context, &asks(5), t(0)), ASK);
    assert_eq!(thread.before_retry(&mut context, t(1)), wait(5000, 0));
    thread.attempts.begin_again(&mut context, t(5000), t(0));
    assert_eq!(thread.before_retry(&mut context.clone(), t(50)), wait(5000, 0));
    assert_eq!(thread.before_retry_at(&mut context, OTHER, t(50)), wait(100, 0));
}

#[test]
fn no_clock_that_is_put_back_makes_a_wait_longer_than_it_was() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(3_600_000));
    context.admitted = t(0);
    thread.responds(&mut context, &asks(5), t(3_600_000));
    assert_eq!(thread.before_retry(&mut context, t(1000)), BeforeRetry::Send);
}

#[test]
fn a_host_is_not_heard_where_the_policy_is_deaf_or_no_retry_is_left() {
    let asks = ResponseHead { pushback: Some(Duration::MAX), ..status(503) };
    let mut deaf = hedging(r#","retry_after":{"honor":false}"#);
    let mut context = deaf.context(Eligibility::All, t(0));
    assert_eq!(deaf.responds_beside(&mut context, &asks, true, t(600)), ASK);
    assert_eq!((context.next, context.has_wishes()), (Next::Open, false));

    let mut thread = hedging("");
    let mut last = thread.context(Eligibility::All, t(0));
    last.retries = 3;
    assert_eq!(thread.responds_beside(&mut last, &asks, true, t(600)), ASK);
    assert_eq!(last.next, Next::Open, "it is no denial of one");
}

#[test]
fn what_became_of_the_attempts_is_counted_once() {
    let mut thread = thread(&retry(""));
    let mut context = thread.context(Eligibility::All, t(0));
    thread.responds(&mut context, &status(503), t(0));
    thread.before_retry(&mut context, t(100));
    let tried = AttemptsMade { eligibility: Eligibility::All, denial: None, context: Some(&context), attempts: 0 };
    assert_eq!(thread.account(&tried, Answer::Http(200), t(110)), 1);
    assert_eq!((thread.count(Metric::Retries), thread.count(Metric::RetriesRecovered)), (1, 1));
    assert_eq!(thread.account(&tried, Answer::Http(503), t(110)), 1);
    assert_eq!((thread.count(Metric::Retries), thread.count(Metric::RetriesRecovered)), (2, 1));
}

#[test]
fn a_denial_is_counted_by_its_reason_and_only_where_a_retry_was_wanted() {
    let mut thread = thread(&retry(""));
    let base = AttemptsMade { eligibility: Eligibility::Nothing, denial: None, context: None, attempts: 1 };
    let again = AttemptsMade { denial: Some(Denial::RetryOfRetry), ..base };
    thread.account(&again, Answer::Http(503), t(0));
    thread.account(&again, Answer::Http(200), t(0));
    thread.account(&again, Answer::Http(404), t(0));
    assert_eq!(thread.count(Metric::DeniedRetryOfRetry), 1);
    let posted = AttemptsMade { eligibility: Eligibility::Unsent, ..base };
    thread.account(&posted, Answer::Http(503), t(0));
    thread.account(&posted, Answer::NoAnswer, t(0));
    assert_eq!(thread.count(Metric::DeniedMethod), 1, "a connection that could not be had is no matter of the method");
}

#[test]
fn a_retry_that_the_router_did_not_make_costs_nothing() {
    let mut thread = thread(&retry(""));
    for _ in 0..5 {
        let mut context = thread.context(Eligibility::All, t(0));
        assert_eq!(thread.responds(&mut context, &status(503), t(0)), ASK, "the token came back each time");
        let tried = AttemptsMade { eligibility: Eligibility::All, denial: None, context: Some(&context), attempts: 0 };
        assert_eq!(thread.account(&tried, Answer::Http(503), t(1)), 0);
    }
    assert_eq!(thread.count(Metric::Retries), 0);
}

#[test]
fn without_an_attempt_seat_the_budget_is_looked_at_before_and_charged_after() {
    let mut thread = thread(&retry(""));
    let key = thread.key();
    let now = t(60_000);
    let plan = |thread: &mut Thread, now| {
        let decision = thread
            .request_policy
            .admit(&mut Cx::new(&mut thread.store, &mut thread.request, now, &mut thread.events), key);
        let Decision::Admitted(ticket) = decision else { panic!("{decision:?}") };
        thread
            .request_policy
            .plan_retries(
                &mut Cx::new(&mut thread.store, &mut thread.request, now, &mut Vec::new()),
                &ticket,
                asked(Eligibility::All),
                None,
            )
            .unwrap()
    };
    let first = plan(&mut thread, now);
    assert_eq!((first.seat, first.eligibility, first.denial), (false, Eligibility::All, None));
    let tried =
        AttemptsMade { eligibility: Eligibility::All, denial: None, context: first.context.as_ref(), attempts: 3 };
    assert_eq!(thread.account(&tried, Answer::Http(503), now), 2, "Envoy made two further tries");
    let second = plan(&mut thread, t(60_011));
    assert_eq!(
        (second.eligibility, second.denial),
        (Eligibility::Nothing, Some(Denial::Budget)),
        "the reserve of two is used"
    );
    assert_eq!(second.context, None);
}

#[test]
fn in_shadow_mode_it_only_counts_what_it_would_do() {
    let mut thread = thread(r#""breaker":{},"retry":{}"#);
    let text = r#"{"policies":[{"name":"shadow","retry":{"mode":"shadow"}}]}"#;
    let policy = config::parse(text.as_bytes()).unwrap().policies.remove(0);
    let mut shadow = RequestPolicy::entered(policy.into(), &mut thread.store, t(0));
    let key = shadow.key(&mut thread.request, &mut thread.store, t(0), |_| Some(Cow::Borrowed(b"orders")));
    let tried = AttemptsMade { eligibility: Eligibility::All, denial: None, context: None, attempts: 0 };
    let outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };
    let (worker, store, events) = (&mut thread.request, &mut thread.store, &mut thread.events);
    for answer in [Answer::Http(503), Answer::Http(500)] {
        let accounted =
            shadow.account_retries(&mut Cx::new(store, worker, t(0), events), key, &tried, answer, &outcome);
        assert_eq!(accounted.retries, 0);
    }
    assert_eq!(thread.count(Metric::WouldRetry), 1, "503 is a gateway's error, 500 is not");
}

#[test]
fn a_policy_is_taken_only_as_it_was_published() {
    let store = MemoryStore::default();
    let thread = Thread::new(&store, &retry(""));
    let mut store = store.clone();
    let place = thread.request_policy.text_place().unwrap();
    let fetch = |store: &mut MemoryStore, place| AttemptPolicy::fetch(store, place, |_| Default::default());
    assert!(fetch(&mut store, place).is_some());
    assert!(fetch(&mut store, Occupant { tenancy: place.tenancy + 1, ..place }).is_none());
    assert!(fetch(&mut store, Occupant { index: place.index + 1, ..place }).is_none());
    let (name, mark) = policy_text::name_and_mark(place);
    let places = thread.request_policy.standing().unwrap().places;
    store.set(&name, &PolicyText { places, text: b"{".to_vec() }.encode(mark));
    assert!(fetch(&mut store, place).is_none());
    thread.request_policy.publish(&mut store, &format!(r#"{{"policies":[{{"name":"orders",{}}}]}}"#, retry("")));
    assert!(fetch(&mut store, place).is_some(), "and is published again over them");
}

#[test]
fn a_seat_of_one_cluster_says_nothing_about_another_that_shares_its_key() {
    let mut thread = thread(&format!(r#""scope":[],{}"#, retry("")));
    let key = thread.key();
    assert!(thread.request_policy.wants_cluster(key));
    let plan = |thread: &mut Thread, cluster: &[u8], now| {
        let decision = thread
            .request_policy
            .admit(&mut Cx::new(&mut thread.store, &mut thread.request, now, &mut thread.events), key);
        let Decision::Admitted(ticket) = decision else { panic!("{decision:?}") };
        let asked = Asked { cluster: ClusterHash::of(cluster), ..asked(Eligibility::All) };
        thread
            .request_policy
            .plan_retries(
                &mut Cx::new(&mut thread.store, &mut thread.request, now, &mut Vec::new()),
                &ticket,
                asked,
                None,
            )
            .unwrap()
    };
    let orders = plan(&mut thread, b"orders", t(0)).context.unwrap();
    thread.attempts.announce(&mut thread.store, &orders, t(1));
    assert!(plan(&mut thread, b"orders", t(1001)).seat);
    assert!(!plan(&mut thread, b"carts", t(1001)).seat);
}

#[test]
fn it_learns_what_a_route_retries_by_itself_and_leaves_the_others_alone() {
    let mut thread = thread(&retry(""));
    let context = thread.context(Eligibility::All, t(0));
    let forbids = |thread: &Thread, code, route: &str| {
        thread.attempts.forbids(&context, &status(code), || Some(route.as_bytes().to_vec()))
    };
    let nobody = || panic!("where nothing was learnt nobody needs the name");
    assert!(!thread.attempts.forbids(&context, &status(200), nobody), "a mark would cost every success");
    assert!(thread.attempts.forbids(&context, &status(404), nobody));
    thread.attempts.came_back(false, b"eager".to_vec());
    assert!(forbids(&thread, 200, "eager"), "a route was seen to retry one");
    assert!(!forbids(&thread, 200, "calm"));
    thread.attempts.came_back(true, b"eager".to_vec());
    assert!(!forbids(&thread, 404, "eager") && !forbids(&thread, 200, "eager"), "there the mark itself asks");
    assert!(forbids(&thread, 404, "calm"));
    thread.attempts.came_back(false, Vec::new());
    assert!(forbids(&thread, 200, "") && forbids(&thread, 404, ""));
    thread.attempts.came_back(true, Vec::new());
    assert!(forbids(&thread, 404, ""), "of routes without a name most heed the mark");
    assert!(!forbids(&thread, 200, ""), "but to mark every success would lose them where one does not");
}

#[test]
fn a_host_that_is_rate_limited_is_not_asked_again_whatever_the_route_says() {
    let mut thread = thread(&retry(""));
    let limited = ResponseHead { ratelimited: Some(SetBy::Host), ..status(503) };
    let mut context = thread.context(Eligibility::All, t(0));
    assert_eq!(thread.responds(&mut context, &limited, t(1)), AfterResponse::Forbid);
    assert!(!thread.attempts.forbids(&context, &limited, || None), "its own mark stands");
    assert_eq!(thread.before_retry(&mut context, t(2)), BeforeRetry::Stop(None));
}
