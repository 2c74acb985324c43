//! What follows an attempt: whether the router is asked for a retry or forbidden one, when that is sent, and whether it still is.

use core::time::Duration;
use std::sync::Arc;

use holdfast_policy::document::{Mode, Retry};

use super::policy::AttemptPolicy;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::http::attempt::{AttemptRecord, End, RetryWish};
use crate::http::outcome;
use crate::http::response::ResponseHead;
use crate::retry::{Denial, Eligibility, Named, backoff, conditions};
use crate::seats::retry_context::{Next, RetryContext};
use crate::store::Store;

/// How much before its time is over an attempt may be ended by that, at least and at most: a busy router's timers count from the
/// beginning of its loop, and were seen 15 ms early. In between it is a quarter of the time.
const TIMER_SLACK: core::ops::RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(50);

/// The time-out of a route that does not say its own. Source: Envoy, `RouteAction.timeout`.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What to do with a response, besides judging it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterResponse {
    /// Nothing: the router may do as it likes.
    Pass,
    /// Ask for a retry.
    Ask,
    /// Forbid a retry.
    Forbid,
}

/// When the route ends a request, as far as an attempt seat knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteEnds {
    /// Nobody asked.
    Unknown,
    /// It does not.
    Never,
    /// Then.
    At(Timestamp),
}

/// Whether a retry is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeRetry {
    /// At once.
    Send,
    /// At this time, if nothing has changed by then.
    Wait {
        /// Then.
        due: Timestamp,
        /// When its token was withdrawn.
        taken: Timestamp,
    },
    /// Not at all. Without a denial the policy does not name how the attempt before ended.
    Stop(Option<Denial>),
}

impl AttemptPolicy {
    /// Decides on a response: adds the attempt to the retry context and says what is to happen after it.
    pub fn after_response(
        &mut self,
        cx: &mut Cx<'_>,
        context: &mut RetryContext,
        one: AttemptRecord,
        head: &ResponseHead,
        route_ends: RouteEnds,
    ) -> AfterResponse {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let Some(retry) = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce) else {
            return AfterResponse::Pass;
        };
        let wish = head.wish().filter(|_| retry.retry_after.honor);
        self.hosts_ask_for_waits |= wish.is_some();
        context.ended(AttemptRecord { wish, ..one });
        context.next = Next::Open;
        // Whatever it says, it comes from the host's side.
        let ratelimited = head.ratelimited.is_some();
        let named = conditions::names_response(&retry.on, head.status, head.grpc_status, ratelimited);
        if named == Named::No {
            // The route may name it all the same.
            context.next = Next::Unnamed;
            return AfterResponse::Forbid;
        }
        if context.eligibility == Eligibility::Nothing {
            // Nothing but another cluster may follow.
            context.next = Next::Unnamed;
            return AfterResponse::Forbid;
        }
        if context.retries >= retry.max_retries {
            // The router has been told the number and flags that it is reached; where another cluster may follow it was told one more.
            return if context.further.is_some() { AfterResponse::Forbid } else { AfterResponse::Pass };
        }
        let drawn = backoff::wait(&retry.backoff, context.seed, context.retries.saturating_add(1));
        // A retry that another host serves heeds no wait that was asked for. Which host that is shows when it begins.
        let asked = context.least_asked(now).filter(|_| !self.another_may_serve(context, now));
        let (wait, asked) = match asked {
            Some(asked) if asked.replaces_backoff || asked.left > drawn => (asked.left, Some(asked.whole)),
            _ => (drawn, None),
        };
        let granted = if context.eligibility != Eligibility::All {
            Err(Denial::Method)
        } else if context.is_refused() {
            Err(Denial::RetryAfter)
        } else {
            self.fits(retry, context, wait, asked, route_ends, now).and_then(|()| match named {
                Named::Yes => self.grant(cx, retry, context.key),
                // It is the router's choice, so a token is withdrawn only when the next attempt comes.
                _ => self.would_grant(cx, retry, context.key),
            })
        };
        let due = now.plus(drawn);
        let (next, after) = match (granted, named) {
            (Ok(()), Named::Yes) => (Next::Retry { due, taken: now }, AfterResponse::Ask),
            (Ok(()), _) => (Next::Due(due), AfterResponse::Pass),
            (Err(denial), Named::Yes) => (Next::Denied(denial), AfterResponse::Forbid),
            // Perhaps nobody wanted it.
            (Err(_), _) => (Next::Unnamed, AfterResponse::Forbid),
        };
        context.next = next;
        after
    }

    /// Decides on a response while another attempt of the request is in flight (`has_others`) or is held back and will never be
    /// sent. A token is withdrawn when a retry begins: the router may also simply wait for the other one.
    ///
    /// What its host asks for binds retries that begin after it, and ends no attempt in flight: where there is to be none,
    /// the router is asked all the same, for it then waits for the others, and what it begins is held back. A wait binds those
    /// that go to that host; a refusal binds all. Source: gRPC proposal A6, "Pushback" of hedging, which knows no hosts.
    pub fn after_hedged_response(
        &mut self,
        context: &mut RetryContext,
        one: AttemptRecord,
        head: &ResponseHead,
        has_others: bool,
    ) -> AfterResponse {
        let policy = Arc::clone(&self.policy);
        // The router has been told how many there may be.
        let may_follow = |retry: &&Retry| retry.retry_after.honor && context.retries < retry.max_retries;
        let wish = head.wish().filter(|_| policy.retry.as_ref().filter(may_follow).is_some());
        self.hosts_ask_for_waits |= wish.is_some();
        context.ended(AttemptRecord { wish, ..one });
        let ratelimited = head.ratelimited.is_some();
        let retry = policy.retry.as_ref().filter(|retry| {
            conditions::names_response(&retry.on, head.status, head.grpc_status, ratelimited) == Named::Yes
        });
        let is_denied = matches!(context.next, Next::Denied(_));
        if retry.filter(|_| has_others || !is_denied).is_none() {
            // This is all that the client can get.
            if !is_denied {
                context.next = Next::Unnamed;
            }
            return AfterResponse::Forbid;
        }
        if !is_denied {
            let is_refused = wish == Some(RetryWish::Never);
            context.next = if is_refused { Next::Denied(Denial::RetryAfter) } else { Next::Open };
        }
        AfterResponse::Ask
    }

    /// When a retry that goes to this host is to be sent. It is due at `due`, unless the host has asked for a wait.
    fn due_at(
        &self,
        retry: &Retry,
        context: &RetryContext,
        host: &[u8],
        due: Timestamp,
        route_ends: RouteEnds,
        now: Timestamp,
    ) -> Result<Timestamp, Denial> {
        if context.is_refused() {
            return Err(Denial::RetryAfter);
        }
        let Some(asked) = context.asked_by(host, now) else { return Ok(due) };
        if !asked.left.is_zero() {
            self.fits(retry, context, asked.left, Some(asked.whole), route_ends, now)?;
        }
        let over = now.plus(asked.left);
        Ok(if asked.replaces_backoff { over } else { due.max(over) })
    }

    /// Whether a wait fits into the time that there is. `asked` is how long it was when a host asked for it, if one did.
    fn fits(
        &self,
        retry: &Retry,
        context: &RetryContext,
        wait: Duration,
        asked: Option<Duration>,
        route_ends: RouteEnds,
        now: Timestamp,
    ) -> Result<(), Denial> {
        let too_long = if asked.is_some() { Denial::RetryAfter } else { Denial::Deadline };
        if asked.is_some_and(|asked| asked > retry.retry_after.max) {
            return Err(Denial::RetryAfter);
        }
        let router_ends = match route_ends {
            RouteEnds::At(time) => Some(time),
            RouteEnds::Never => None,
            // For a wait that a host asks for, Envoy's default stands for what nobody knows.
            RouteEnds::Unknown => asked.map(|_| context.admitted.plus(retry.timeout.unwrap_or(ROUTE_TIMEOUT))),
        };
        let ends_by = [context.deadline, router_ends].into_iter().flatten().min();
        if ends_by.is_some_and(|end| now.plus(wait) >= end) {
            return Err(too_long);
        }
        // The wait runs in the next attempt's own time. That has room for the waits that the policy draws; a longer one would eat
        // the attempt. (A response cannot be held back instead: Envoy 1.40 crashes when it is retried before its request has
        // ended.)
        let room =
            context.attempt_lasts.zip(retry.per_try_timeout).map(|(lasts, per_try)| lasts.saturating_sub(per_try));
        if asked.and(room).is_some_and(|room| wait > room) {
            return Err(Denial::RetryAfter);
        }
        Ok(())
    }

    /// Adds a retry that ended while it waited: Envoy connects before it lets a filter wait, and there was no
    /// connection. Nothing was sent, but the router counts it, and so does the budget.
    pub fn after_no_connection(&self, context: &mut RetryContext, host: Vec<u8>, now: Timestamp) {
        context.waiting = context.waiting.saturating_sub(1);
        self.after_no_response(context, host, false, now, now);
    }

    /// Adds an attempt that ended without a response. `connected` tells whether there was a connection to the host, `sent`
    /// when the attempt was sent with its last byte: as long as that is to come, now.
    pub fn after_no_response(
        &self,
        context: &mut RetryContext,
        host: Vec<u8>,
        connected: bool,
        sent: Timestamp,
        now: Timestamp,
    ) {
        let took = now.since(sent);
        let (end, ended) = self.end_without_response(context, connected, sent, now);
        let verdict = outcome::verdict(&self.policy.outcome, end.answer());
        context.next = Next::Open;
        context.ended(AttemptRecord { host, end, verdict, took, ended, wish: None });
    }

    /// Decides already now on the retry that may follow an attempt without a response.
    pub fn decide_early(&mut self, cx: &mut Cx<'_>, context: &mut RetryContext, route_ends: RouteEnds) {
        let policy = Arc::clone(&self.policy);
        let Some(retry) = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce) else { return };
        // Which host it goes to shows when it begins.
        context.next = match self.due_after_last(cx, retry, context, b"", route_ends) {
            Ok(due) => Next::Retry { due, taken: cx.now },
            Err(Some(denial)) => Next::Denied(denial),
            Err(None) => Next::Open,
        };
    }

    /// How an attempt ended that had no response, and when that counts as. See [`AttemptPolicy::after_no_response`].
    pub fn end_without_response(
        &self,
        context: &RetryContext,
        connected: bool,
        sent: Timestamp,
        now: Timestamp,
    ) -> (End, Timestamp) {
        let took = now.since(sent);
        let per_try = self.policy.retry.as_ref().and_then(|retry| retry.per_try_timeout);
        let is_over = |passed: Duration, of: Duration| {
            passed.saturating_add((of / 4).clamp(*TIMER_SLACK.start(), *TIMER_SLACK.end())) >= of
        };
        // An attempt with a hedge beside it goes on when its own time is over.
        let lasts = context.attempt_lasts.filter(|_| !self.hedges(context));
        let timed_out = lasts.is_some_and(|lasts| is_over(took, lasts))
            || context
                .deadline
                .is_some_and(|deadline| is_over(now.since(context.admitted), deadline.since(context.admitted)));
        // The router waits for an attempt longer than the policy does, by the longest wait; the attempt ended before.
        match (timed_out, connected) {
            (true, true) => {
                (End::TimedOut, per_try.filter(|_| lasts.is_some()).map_or(now, |per_try| now.min(sent.plus(per_try))))
            }
            (_, false) => (End::ConnectFailure, now),
            (false, true) => (End::Reset, now),
        }
    }

    /// Decides on a retry that the router has begun, and that goes to the host with this address. The address matters only where
    /// hosts have asked for something.
    pub fn before_retry(
        &mut self,
        cx: &mut Cx<'_>,
        context: &mut RetryContext,
        host: &[u8],
        route_ends: RouteEnds,
    ) -> BeforeRetry {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let Some(retry) = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce) else {
            return BeforeRetry::Send;
        };
        let (due, taken) = match context.next {
            Next::Denied(denial) => return BeforeRetry::Stop(Some(denial)),
            Next::Unnamed => return BeforeRetry::Stop(None),
            // The router has been told the number; foreign bytes may say otherwise.
            Next::Retry { .. } if context.retries >= retry.max_retries => return BeforeRetry::Stop(None),
            Next::Retry { due, taken } => match self.due_at(retry, context, host, due, route_ends, now) {
                Ok(due) => (due, taken),
                Err(denial) => {
                    context.next = Next::Denied(denial);
                    self.refund(cx.store, context.key, taken, now);
                    return BeforeRetry::Stop(Some(denial));
                }
            },
            Next::Open | Next::Due(_) => match self.due_after_last(cx, retry, context, host, route_ends) {
                Ok(due) => (due, now),
                Err(denial) => {
                    if let Some(denial) = denial {
                        context.next = Next::Denied(denial);
                    }
                    return BeforeRetry::Stop(denial);
                }
            },
        };
        // From here on the token is this attempt's: another one beside it needs its own.
        context.next = Next::Open;
        context.retries = context.retries.saturating_add(1);
        // No wait is longer, wherever the clock has been put.
        let longest = retry.backoff.max.max(retry.retry_after.max);
        let due = due.min(now.plus(longest));
        if due.remaining(now, longest).is_some() {
            context.waiting = context.waiting.saturating_add(1);
            return BeforeRetry::Wait { due, taken };
        }
        self.let_go(cx.store, context, host, taken, now)
    }

    /// Decides on a retry to this host whose wait is over. `taken` is when its token was withdrawn.
    pub fn after_wait(
        &mut self,
        store: &mut dyn Store,
        context: &mut RetryContext,
        host: &[u8],
        taken: Timestamp,
        now: Timestamp,
    ) -> BeforeRetry {
        context.waiting = context.waiting.saturating_sub(1);
        self.let_go(store, context, host, taken, now)
    }

    /// Lets a retry leave for its host, unless the breaker has opened or the time has run out meanwhile.
    fn let_go(
        &mut self,
        store: &mut dyn Store,
        context: &mut RetryContext,
        host: &[u8],
        taken: Timestamp,
        now: Timestamp,
    ) -> BeforeRetry {
        let denial = if !self.is_breaker_closed(store, context.key) {
            Denial::Breaker
        } else if context.deadline.is_some_and(|deadline| now >= deadline) {
            Denial::Deadline
        } else {
            match self.waits_on(context, host, taken, now) {
                Ok(None) => return BeforeRetry::Send,
                Ok(Some(due)) => {
                    context.waiting = context.waiting.saturating_add(1);
                    return BeforeRetry::Wait { due, taken };
                }
                Err(denial) => denial,
            }
        };
        context.retries = context.retries.saturating_sub(1);
        context.next = Next::Denied(denial);
        self.refund(store, context.key, taken, now);
        BeforeRetry::Stop(Some(denial))
    }

    /// Until when a retry whose wait is over has to wait on, because its host has asked for it meanwhile, in another attempt. It
    /// has waited since its token was withdrawn at `taken`, or a moment less.
    fn waits_on(
        &self,
        context: &RetryContext,
        host: &[u8],
        taken: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Denial> {
        let Some(retry) = &self.policy.retry else { return Ok(None) };
        if context.is_refused() {
            return Err(Denial::RetryAfter);
        }
        let Some(asked) = context.asked_by(host, now).filter(|asked| !asked.left.is_zero()) else { return Ok(None) };
        let wait = asked.left.saturating_add(now.since(taken));
        self.fits(retry, context, wait, Some(asked.whole), RouteEnds::Unknown, taken)?;
        Ok(Some(now.plus(asked.left)))
    }

    /// Takes a retry back that waited and will not be sent, because nobody waits for it any more.
    pub fn abandon(&mut self, store: &mut dyn Store, context: &mut RetryContext, taken: Timestamp, now: Timestamp) {
        context.take_back();
        self.refund(store, context.key, taken, now);
    }

    /// Takes a retry back whose connection ended while it waited. Should the router begin it again, its wait and its
    /// token are still there; otherwise the request seat gives the token back. A wait that its host has asked for stays behind:
    /// it may go to another.
    pub fn begin_again(&self, context: &mut RetryContext, due: Timestamp, taken: Timestamp) {
        context.take_back();
        let drawn = self.policy.retry.as_ref().zip(context.attempts.last()).map(|(retry, last)| {
            last.ended.plus(backoff::wait(&retry.backoff, context.seed, context.retries.saturating_add(1)))
        });
        let due = drawn.map_or(due, |drawn| due.min(drawn));
        context.next = Next::Retry { due, taken };
    }

    /// When the attempt after the last one is due, where Envoy has begun it by itself. Withdraws its token.
    fn due_after_last(
        &mut self,
        cx: &mut Cx<'_>,
        retry: &Retry,
        context: &RetryContext,
        host: &[u8],
        route_ends: RouteEnds,
    ) -> Result<Timestamp, Option<Denial>> {
        let now = cx.now;
        if context.retries >= retry.max_retries || context.eligibility == Eligibility::Nothing {
            return Err(None);
        }
        let wait = backoff::wait(&retry.backoff, context.seed, context.retries.saturating_add(1));
        let due = match context.attempts.last() {
            // The attempt before is still in flight: a hedge does not wait.
            None => now,
            Some(last) => {
                let named = match last.end {
                    End::Http(status) => conditions::names_response(&retry.on, status, None, false),
                    End::Grpc(status) => conditions::names_response(&retry.on, 200, Some(status), false),
                    _ if conditions::names_no_answer(&retry.on, last.end) => Named::Yes,
                    _ => Named::No,
                };
                if named == Named::No {
                    return Err(None);
                }
                if context.eligibility != Eligibility::All && last.end != End::ConnectFailure {
                    return Err(Some(Denial::Method));
                }
                last.ended.plus(wait)
            }
        };
        let due = if let Next::Due(due) = context.next { due } else { due };
        let due = self.due_at(retry, context, host, due, route_ends, now).map_err(Some)?;
        if context.deadline.is_some_and(|deadline| due.max(now) >= deadline) {
            return Err(Some(Denial::Deadline));
        }
        self.grant(cx, retry, context.key).map(|()| due).map_err(Some)
    }
}
