//! What follows an attempt: whether the router is asked for a retry or forbidden one, when that is sent, and whether it still is.

use core::time::Duration;
use std::sync::Arc;

use holdfast_policy::document::{Mode, Retry};

use super::policy::AttemptPolicy;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::http::attempt::{End, Try};
use crate::http::outcome;
use crate::http::response::ResponseHead;
use crate::retry::{Denial, Leave, Named, backoff, conditions};
use crate::seats::retry_context::{Exchange, Next};
use crate::store::Store;

/// How much before its time is over a try may be ended by that, at least and at most: a busy router's timers count from the
/// beginning of its loop, and were seen 15 ms early. In between it is a quarter of the time.
const TIMER_SLACK: core::ops::RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(50);

/// The time-out of a route that does not say its own. Source: Envoy, `RouteAction.timeout`.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What to do with a response, besides judging it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterResponse {
    /// Nothing: the router may do as it likes.
    Pass,
    /// Ask for another try.
    Ask,
    /// Forbid another try.
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

/// Whether a further try is sent.
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
    /// Not at all. Without a denial the policy does not name how the try before ended.
    Stop(Option<Denial>),
}

impl AttemptPolicy {
    /// Decides on a response: adds the try to the exchange and says what is to happen after it.
    #[allow(clippy::too_many_arguments)] // All of them are facts of this one moment.
    pub fn after_response(
        &mut self,
        cx: &mut Cx<'_>,
        exchange: &mut Exchange,
        one: Try,
        head: &ResponseHead,
        route_ends: RouteEnds,
    ) -> AfterResponse {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let Some(retry) = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce) else {
            return AfterResponse::Pass;
        };
        exchange.ended(one);
        exchange.next = Next::Open;
        // Whatever it says, it comes from the host's side.
        let ratelimited = head.ratelimited.is_some();
        let named = conditions::names_response(&retry.on, head.status, head.grpc_status, ratelimited);
        if named == Named::No {
            // The route may name it all the same.
            exchange.next = Next::Unnamed;
            return AfterResponse::Forbid;
        }
        if exchange.retries >= retry.max_retries {
            // The router has been told the number and flags that it is reached.
            return AfterResponse::Pass;
        }
        let asked = head.asked_wait().filter(|_| retry.retry_after.honor);
        if asked.is_some() {
            self.hosts_ask_for_waits = true;
        }
        let drawn = backoff::wait(&retry.backoff, exchange.seed, exchange.retries.saturating_add(1));
        let wait = asked.unwrap_or(drawn);
        let granted = if exchange.leave != Leave::All {
            Err(Denial::Method)
        } else {
            self.fits(retry, exchange, wait, asked, route_ends, now).and_then(|()| match named {
                Named::Yes => self.grant(cx, retry, exchange.key),
                // It is the router's choice, so a token is withdrawn only when the next try comes.
                _ => self.would_grant(cx, retry, exchange.key),
            })
        };
        let due = now.plus(wait);
        let (next, after) = match (granted, named) {
            (Ok(()), Named::Yes) => (Next::Retry { due, taken: now }, AfterResponse::Ask),
            (Ok(()), _) => (Next::Due(due), AfterResponse::Pass),
            (Err(denial), Named::Yes) => (Next::Denied(denial), AfterResponse::Forbid),
            // Perhaps nobody wanted it.
            (Err(_), _) => (Next::Unnamed, AfterResponse::Forbid),
        };
        exchange.next = next;
        after
    }

    /// Decides on a response while another try of the request is in flight. A token is withdrawn when a further try begins:
    /// the router may also simply wait for the other one.
    pub fn after_response_beside(&self, exchange: &mut Exchange, one: Try, head: &ResponseHead) -> AfterResponse {
        exchange.ended(one);
        let ratelimited = head.ratelimited.is_some();
        let is_named = self.policy.retry.as_ref().is_some_and(|retry| {
            conditions::names_response(&retry.on, head.status, head.grpc_status, ratelimited) == Named::Yes
        });
        match exchange.next {
            // The other one is held back and will never be sent: this is all that the client can get.
            Next::Denied(_) => AfterResponse::Forbid,
            _ if is_named => {
                exchange.next = Next::Open;
                AfterResponse::Ask
            }
            _ => {
                exchange.next = Next::Unnamed;
                AfterResponse::Forbid
            }
        }
    }

    /// Whether a wait fits into the time that there is.
    fn fits(
        &self,
        retry: &Retry,
        exchange: &Exchange,
        wait: Duration,
        asked: Option<Duration>,
        route_ends: RouteEnds,
        now: Timestamp,
    ) -> Result<(), Denial> {
        let too_long = if asked.is_some() { Denial::RetryAfter } else { Denial::Deadline };
        if asked.is_some_and(|asked| asked > retry.retry_after.max) {
            return Err(Denial::RetryAfter);
        }
        let ends_by = exchange.deadline.or(match route_ends {
            RouteEnds::At(time) => Some(time),
            RouteEnds::Never => None,
            // For a wait that a host asks for, Envoy's default stands for what nobody knows.
            RouteEnds::Unknown => asked.map(|_| exchange.admitted.plus(ROUTE_TIMEOUT)),
        });
        if ends_by.is_some_and(|end| now.plus(wait) >= end) {
            return Err(too_long);
        }
        // The wait runs in the next try's own time. That has room for the waits that the policy draws; a longer one would eat
        // the try. (A response cannot be held back instead: Envoy 1.40 crashes when it is retried before its request has
        // ended.)
        let room = exchange.try_lasts.zip(retry.per_try_timeout).map(|(lasts, per_try)| lasts.saturating_sub(per_try));
        if asked.zip(room).is_some_and(|(asked, room)| asked > room) {
            return Err(Denial::RetryAfter);
        }
        Ok(())
    }

    /// Adds a further try that ended while it waited: Envoy connects before it lets a filter wait, and there was no
    /// connection. Nothing was sent, but the router counts it, and so does the budget.
    pub fn after_no_connection(&self, exchange: &mut Exchange, host: Vec<u8>, now: Timestamp) {
        exchange.waiting = exchange.waiting.saturating_sub(1);
        self.after_no_response(exchange, host, false, now, now);
    }

    /// Adds a try that ended without a response. `connected` tells whether there was a connection to the host, `sent`
    /// when the try was sent.
    pub fn after_no_response(
        &self,
        exchange: &mut Exchange,
        host: Vec<u8>,
        connected: bool,
        sent: Timestamp,
        now: Timestamp,
    ) {
        let took = now.since(sent);
        let (end, ended) = self.end_without_response(exchange, connected, sent, now);
        let verdict = outcome::verdict(&self.policy.outcome, end.answer());
        exchange.next = Next::Open;
        exchange.ended(Try { host, end, verdict, took, ended });
    }

    /// How a try ended that had no response, and when that counts as. See [`AttemptPolicy::after_no_response`].
    pub fn end_without_response(
        &self,
        exchange: &Exchange,
        connected: bool,
        sent: Timestamp,
        now: Timestamp,
    ) -> (End, Timestamp) {
        let took = now.since(sent);
        let per_try = self.policy.retry.as_ref().and_then(|retry| retry.per_try_timeout);
        let is_over = |passed: Duration, of: Duration| {
            passed.saturating_add((of / 4).clamp(*TIMER_SLACK.start(), *TIMER_SLACK.end())) >= of
        };
        // A try with a hedge beside it goes on when its own time is over.
        let lasts = exchange.try_lasts.filter(|_| !self.hedges(exchange));
        let timed_out = lasts.is_some_and(|lasts| is_over(took, lasts))
            || exchange
                .deadline
                .is_some_and(|deadline| is_over(now.since(exchange.admitted), deadline.since(exchange.admitted)));
        // The router waits for a try longer than the policy does, by the longest wait; the try ended before.
        match (timed_out, connected) {
            (true, true) => {
                (End::TimedOut, per_try.filter(|_| lasts.is_some()).map_or(now, |per_try| now.min(sent.plus(per_try))))
            }
            (_, false) => (End::ConnectFailure, now),
            (false, true) => (End::Reset, now),
        }
    }

    /// Decides on a further try that the router has begun.
    pub fn before_retry(&mut self, cx: &mut Cx<'_>, exchange: &mut Exchange) -> BeforeRetry {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let Some(retry) = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce) else {
            return BeforeRetry::Send;
        };
        let (due, taken) = match exchange.next {
            Next::Denied(denial) => return BeforeRetry::Stop(Some(denial)),
            Next::Unnamed => return BeforeRetry::Stop(None),
            // The router has been told the number; foreign bytes may say otherwise.
            Next::Retry { .. } if exchange.retries >= retry.max_retries => return BeforeRetry::Stop(None),
            Next::Retry { due, taken } => (due, taken),
            Next::Open | Next::Due(_) => match self.leave_after_last(cx, retry, exchange) {
                Ok(due) => (if let Next::Due(due) = exchange.next { due } else { due }, now),
                Err(denial) => {
                    if let Some(denial) = denial {
                        exchange.next = Next::Denied(denial);
                    }
                    return BeforeRetry::Stop(denial);
                }
            },
        };
        // From here on the token is this try's: another one beside it needs its own.
        exchange.next = Next::Open;
        exchange.retries = exchange.retries.saturating_add(1);
        // No wait is longer, wherever the clock has been put.
        let longest = retry.backoff.max.max(retry.retry_after.max);
        let due = due.min(now.plus(longest));
        if due.remaining(now, longest).is_some() {
            exchange.waiting = exchange.waiting.saturating_add(1);
            return BeforeRetry::Wait { due, taken };
        }
        self.leave(cx.store, exchange, taken, now)
    }

    /// Decides on a further try whose wait is over. `taken` is when its token was withdrawn.
    pub fn after_wait(
        &mut self,
        store: &mut dyn Store,
        exchange: &mut Exchange,
        taken: Timestamp,
        now: Timestamp,
    ) -> BeforeRetry {
        exchange.waiting = exchange.waiting.saturating_sub(1);
        self.leave(store, exchange, taken, now)
    }

    /// Lets a further try leave for its host, unless the breaker has opened or the time has run out meanwhile.
    fn leave(
        &mut self,
        store: &mut dyn Store,
        exchange: &mut Exchange,
        taken: Timestamp,
        now: Timestamp,
    ) -> BeforeRetry {
        let denial = if !self.is_breaker_closed(store, exchange.key) {
            Denial::Breaker
        } else if exchange.deadline.is_some_and(|deadline| now >= deadline) {
            Denial::Deadline
        } else {
            return BeforeRetry::Send;
        };
        exchange.retries = exchange.retries.saturating_sub(1);
        exchange.next = Next::Denied(denial);
        self.refund(store, exchange.key, taken, now);
        BeforeRetry::Stop(Some(denial))
    }

    /// Takes a further try back that waited and will not be sent, because nobody waits for it any more.
    pub fn abandon(&mut self, store: &mut dyn Store, exchange: &mut Exchange, taken: Timestamp, now: Timestamp) {
        exchange.take_back();
        self.refund(store, exchange.key, taken, now);
    }

    /// Takes a further try back whose connection ended while it waited. Should the router begin it again, its wait and its
    /// token are still there; otherwise the request seat gives the token back.
    pub fn begin_again(exchange: &mut Exchange, due: Timestamp, taken: Timestamp) {
        exchange.take_back();
        exchange.next = Next::Retry { due, taken };
    }

    /// When the try after the last one is due, where Envoy has begun it by itself. Withdraws its token.
    fn leave_after_last(
        &mut self,
        cx: &mut Cx<'_>,
        retry: &Retry,
        exchange: &Exchange,
    ) -> Result<Timestamp, Option<Denial>> {
        let now = cx.now;
        if exchange.retries >= retry.max_retries || exchange.leave == Leave::Nothing {
            return Err(None);
        }
        let wait = backoff::wait(&retry.backoff, exchange.seed, exchange.retries.saturating_add(1));
        let due = match exchange.tries.last() {
            // The try before is still in flight: a hedge does not wait.
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
                if exchange.leave != Leave::All && last.end != End::ConnectFailure {
                    return Err(Some(Denial::Method));
                }
                last.ended.plus(wait)
            }
        };
        if exchange.deadline.is_some_and(|deadline| due.max(now) >= deadline) {
            return Err(Some(Denial::Deadline));
        }
        self.grant(cx, retry, exchange.key).map(|()| due).map_err(Some)
    }
}
