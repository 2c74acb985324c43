//! Every order in which two or three workers can reach the retry budget, exhaustively.
//!
//! Each call of the store is a point where another worker may come first. That no more is withdrawn than there is is
//! checked at every write of the budget's cell, the outcome of the scenario at its end.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod racing;

use holdfast_engine::cx::Cx;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_engine::attempt::{AfterResponse, AttemptPolicy, RouteEnds};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::{AttemptRecord, End};
use holdfast_engine::http::client::ClientWaits;
use holdfast_engine::http::outcome::{Answer, Outcome, Verdict};
use holdfast_engine::http::response::ResponseHead;
use holdfast_engine::request::{Asked, AttemptsMade, Decision, RequestPolicy};
use holdfast_engine::retry::Eligibility;
use holdfast_engine::retry::budget::Withdrawn;
use holdfast_engine::seats::presence::{Presence, seat};
use holdfast_engine::seats::retry_context::RetryContext;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::cluster::{ClusterHash, GroupId};
use holdfast_engine::store::record::Record;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config;
use holdfast_policy::document::{Budget, Policy};
use holdfast_policy::percent::Percent;
use racing::{FIRST, Handle, policy, race, send_discovery_request, t};

/// When the scenarios are over; everything in them is less than a window old then.
const AT_THE_END: Timestamp = Timestamp::from_millis(1_700_000_003_000);

const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };

/// A budget of so many tokens, whatever the requests.
fn tokens(tokens: u32) -> String {
    let per_second = f64::from(tokens) / 10.0;
    format!(r#""retry":{{"budget":{{"ratio":0,"min_per_second":{per_second},"window":"10s"}}}}"#)
}

/// How many tokens a cell says are withdrawn.
fn used(cell: &Withdrawn, budget: &Budget, now: Timestamp) -> u32 {
    let one_each = Budget { ratio: Percent::FULL, min_per_second: 0, ..*budget };
    (0..).find(|used| cell.has_left(&one_each, used + 1, now)).expect("some number of requests leaves a token")
}

/// An empty store. `limit` is what may be withdrawn at most.
fn store(policy: &Policy, limit: u32) -> Handle {
    let name = racing::cell(BlockKind::Retry);
    let budget = policy.retry.as_ref().expect("it has retries").budget;
    Handle::new(move |key, _, new| {
        if key == name {
            let cell = Withdrawn::decode(new, FIRST).expect("what is written can be read");
            let used = used(&cell, &budget, AT_THE_END);
            assert!(used <= limit, "{used} tokens of {limit}");
        }
    })
}

/// A request whose retry has a token.
struct Token {
    context: RetryContext,
    taken: Timestamp,
}

/// Both seats of one worker thread.
struct Thread {
    request: Worker,
    request_policy: RequestPolicy,
    attempt: Worker,
    attempts: AttemptPolicy,
    /// A request as the attempt seat is told of it.
    context: RetryContext,
    store: Handle,
}

impl AsRef<Handle> for Thread {
    fn as_ref(&self) -> &Handle {
        &self.store
    }
}

impl Thread {
    fn new(store: &Handle, features: &str, policy: &Arc<Policy>, seed: u64) -> Self {
        let (mut request, mut store) = (Worker::new(seed), store.clone());
        let mut request_policy = RequestPolicy::entered(Arc::clone(policy), &mut store, t(0));
        request_policy.publish(&mut store, &config::policy_texts(racing::document(features).as_bytes())[0]);
        let attempts =
            request_policy.text_place().and_then(|place| AttemptPolicy::fetch(&mut store, place, |_| Rc::default()));
        let attempts = attempts.expect("it is published");

        let cluster = ClusterHash::OF_THE_KEY;
        let key = request_policy.key(&mut request, &mut store, t(0), |_| Some(Cow::Borrowed(b"")));
        let keys = request_policy.standing().and_then(|standing| *standing.places.get(BlockKind::Keys));
        let seat = keys.and_then(|keys| seat(keys, key.occupant, GroupId::OfTheKey));
        seat.expect("it is the key's")
            .update(&mut store, |_| ((), Some(Presence { seen: t(0) })))
            .expect("it is written");
        let decision = request_policy.admit(&mut Cx::new(&mut store, &mut request, t(0), &mut Vec::new()), key);
        let Decision::Admitted(ticket) = decision else { panic!("{decision:?}") };
        let asked = Asked { eligibility: Eligibility::All, cluster, ended: true, client_waits: ClientWaits::default() };
        let plan = request_policy.plan_retries(
            &mut Cx::new(&mut store, &mut request, t(0), &mut Vec::new()),
            &ticket,
            asked,
            None,
        );
        let context = plan.and_then(|plan| plan.context).expect("it may be retried");
        Thread { request, request_policy, attempt: Worker::new(!seed), attempts, context, store }
    }

    /// An attempt fails, and the attempt seat decides whether there is another: the token that was withdrawn for it.
    fn withdraws(&mut self, now: Timestamp) -> Option<Token> {
        let Thread { attempt, attempts, store, context, .. } = self;
        let mut context = RetryContext { admitted: now, ..context.clone() };
        let end = End::Http(503);
        let one = AttemptRecord {
            host: Vec::new(),
            end,
            verdict: Verdict::Failure,
            took: Duration::ZERO,
            ended: now,
            wish: None,
        };
        let head = ResponseHead { status: 503, ..ResponseHead::default() };
        let after = attempts.after_response(
            &mut Cx::new(store, attempt, now, &mut Vec::new()),
            &mut context,
            one,
            &head,
            RouteEnds::Unknown,
        );
        (after == AfterResponse::Ask).then_some(Token { context, taken: now })
    }

    fn gives_back(&mut self, token: &Token, now: Timestamp) {
        self.attempts.abandon(&mut self.store, &mut token.context.clone(), token.taken, now);
    }

    /// A request without retries: a deposit, and the tick that writes it.
    fn deposits(&mut self, now: Timestamp) {
        let (store, mut events) = (&mut self.store, Vec::new());
        let key = self.request_policy.key(&mut self.request, store, now, |_| Some(Cow::Borrowed(b"")));
        let decision = self.request_policy.admit(&mut Cx::new(store, &mut self.request, now, &mut events), key);
        let Decision::Admitted(ticket) = decision else { panic!("{decision:?}") };
        let hold =
            self.request_policy.report(&mut Cx::new(store, &mut self.request, now, &mut events), ticket, &FAILURE);
        assert_eq!(hold, None, "the policy limits no requests in flight");
        self.request_policy.flush(&mut Cx::new(store, &mut self.request, now, &mut events));
    }

    /// A request ends that the router alone has retried so many times: a charge.
    fn charges(&mut self, retries: u64, now: Timestamp) {
        let (store, mut events) = (&mut self.store, Vec::new());
        let key = self.request_policy.key(&mut self.request, store, now, |_| Some(Cow::Borrowed(b"")));
        let tried = AttemptsMade { eligibility: Eligibility::All, denial: None, context: None, attempts: retries + 1 };
        let answer = Answer::Http(503);
        self.request_policy.account_retries(
            &mut Cx::new(store, &mut self.request, now, &mut events),
            key,
            &tried,
            answer,
            &FAILURE,
        );
    }
}

fn workers(count: u64, features: &str, policy: &Arc<Policy>, limit: u32) -> (Handle, Vec<Thread>) {
    let store = store(policy, limit);
    let mut threads: Vec<_> = (0..count).map(|seed| Thread::new(&store, features, policy, seed)).collect();
    for thread in &mut threads {
        // What each has seen of the requests is fresh then, which leaves less to interleave.
        if let Some(token) = thread.withdraws(t(0)) {
            thread.gives_back(&token, t(0));
        }
    }
    (store, threads)
}

/// How many tokens are withdrawn in the end.
fn left_withdrawn(store: &Handle, policy: &Policy) -> u32 {
    let budget = policy.retry.as_ref().expect("it has retries").budget;
    used(&store.record(&racing::cell(BlockKind::Retry)).unwrap_or_default(), &budget, AT_THE_END)
}

#[test]
fn two_workers_that_withdraw_twice_each_get_the_three_tokens_there_are() {
    let features = tokens(3);
    send_discovery_request(policy(&features), move |policy| {
        let (store, threads) = workers(2, &features, policy, 3);
        let done = race(threads, |_, thread| (0..2).filter_map(|_| thread.withdraws(t(1))).count());
        assert_eq!(done.iter().map(|(_, granted)| granted).sum::<usize>(), 3, "not one more and not one less");
        assert_eq!(left_withdrawn(&store, policy), 3);
    });
}

#[test]
fn three_workers_share_the_last_two_tokens() {
    let features = tokens(2);
    send_discovery_request(policy(&features), move |policy| {
        let (store, threads) = workers(3, &features, policy, 2);
        let done = race(threads, |_, thread| thread.withdraws(t(1)).is_some());
        assert_eq!(done.iter().filter(|(_, granted)| *granted).count(), 2);
        assert_eq!(left_withdrawn(&store, policy), 2);
    });
}

#[test]
fn a_token_that_comes_back_while_another_worker_asks_for_it_is_neither_lost_nor_doubled() {
    let features = tokens(1);
    send_discovery_request(policy(&features), move |policy| {
        let (store, mut threads) = workers(2, &features, policy, 1);
        let token = threads[0].withdraws(t(0)).expect("there is one");
        let mut done = race(threads, move |number, thread| {
            if number == 0 {
                thread.gives_back(&token, t(1));
            }
            number == 1 && thread.withdraws(t(1)).is_some()
        });
        let granted = done[1].1;
        assert_eq!(left_withdrawn(&store, policy), u32::from(granted));
        assert_eq!(done[0].0.withdraws(t(2)).is_some(), !granted, "it is there for one of the two");
    });
}

#[test]
fn two_tokens_that_come_back_together_are_both_there_for_a_third_worker() {
    let features = tokens(2);
    send_discovery_request(policy(&features), move |policy| {
        let (store, mut threads) = workers(3, &features, policy, 2);
        let tokens = [0, 1].map(|number: usize| threads[number].withdraws(t(0)).expect("there are two"));
        // In another bucket than they were withdrawn in.
        let done = race(threads, move |number, thread| {
            if let Some(token) = tokens.get(number) {
                thread.gives_back(token, t(1500));
            }
            number == 2 && thread.withdraws(t(1500)).is_some()
        });
        assert_eq!(left_withdrawn(&store, policy), u32::from(done[2].1), "both came back");
    });
}

#[test]
fn a_token_that_two_workers_take_and_give_back_and_a_third_keeps_is_held_by_one_at_a_time() {
    let features = tokens(1);
    send_discovery_request(policy(&features), move |policy| {
        let (store, threads) = workers(3, &features, policy, 1);
        let held = Arc::new(AtomicUsize::new(0));
        let done = race(threads, move |number, thread| {
            let token = thread.withdraws(t(1));
            if let Some(token) = &token {
                assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "there is one");
                if number < 2 {
                    held.fetch_sub(1, Ordering::SeqCst);
                    thread.gives_back(token, t(1));
                }
            }
            token.is_some()
        });
        assert_eq!(left_withdrawn(&store, policy), u32::from(done[2].1));
    });
}

#[test]
fn what_the_router_alone_has_retried_is_charged_beside_every_withdrawal() {
    let features = tokens(2);
    send_discovery_request(policy(&features), move |policy| {
        // A charge is for attempts that have been made, whether or not there were tokens for them.
        let (store, threads) = workers(3, &features, policy, 4);
        let done = race(threads, |number, thread| {
            if number == 0 {
                thread.charges(2, t(1));
            }
            number > 0 && thread.withdraws(t(1)).is_some()
        });
        let granted = done.iter().filter(|(_, granted)| *granted).count() as u32;
        assert_eq!(left_withdrawn(&store, policy), 2 + granted, "nobody's change undid another's");
    });
}

#[test]
fn requests_that_are_counted_meanwhile_never_give_more_than_they_are_worth() {
    let features = r#""retry":{"budget":{"ratio":100,"min_per_second":0,"window":"10s"}}"#;
    send_discovery_request(policy(features), move |policy| {
        let (store, mut threads) = workers(2, features, policy, 3);
        threads[1].deposits(t(0));
        // And the one by which the worker began.
        let begun = Arc::new(AtomicUsize::new(2));
        let granted = Arc::new(AtomicUsize::new(0));
        race(threads, move |number, thread| {
            for millis in [20, 40] {
                if number == 1 {
                    begun.fetch_add(1, Ordering::SeqCst);
                    thread.deposits(t(millis));
                } else if thread.withdraws(t(millis)).is_some() {
                    let granted = granted.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(granted <= begun.load(Ordering::SeqCst), "{granted} tries for fewer requests");
                }
            }
        });
        assert!(left_withdrawn(&store, policy) >= 1, "the first request was there from the beginning");
    });
}

#[test]
fn a_worker_that_crashes_anywhere_takes_at_most_its_own_token_along() {
    let features = tokens(3);
    for calls in 0..4 {
        let features = features.clone();
        send_discovery_request(policy(&features), move |policy| {
            let (store, mut threads) = workers(3, &features, policy, 3);
            threads[0].store = store.crashing_after(calls);
            let done = race(threads, |_, thread| thread.withdraws(t(1)).is_some());
            assert!(done[1].1 && done[2].1, "there are three tokens: the others get theirs");
            let left = left_withdrawn(&store, policy);
            assert!((2..=3).contains(&left), "{left} tokens after a crash at call {calls}");
            assert_eq!(left == 3, done[0].1, "it is gone if and only if it was withdrawn");
        });
    }
}
