//! A policy at work in the attempt seat: which try is followed by another, when, and which may not be sent after all.
//!
//! Nothing here runs while tries simply succeed. After one that did not, the cells and slots are read as they are in the
//! store: an attempt seat has no view of its own that could be old.

use crate::http::outcome;
use crate::retry::conditions;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::time::Timestamp;
use crate::breaker::{Cell, StateName};
use crate::http::attempt::{End, Try};
use crate::http::response::ResponseHead;
use crate::outlier::hosts::Hosts;
use crate::retry::backoff;
use crate::retry::budget::{self, Withdrawn};
use crate::retry::{Denial, Leave, Named};
use crate::seats::presence::{self, Presence};
use crate::seats::retry_context::{Exchange, Next};
use crate::store::cluster::GroupId;
use crate::store::paths::{self, GroupPaths, Paths};
use crate::store::places::Occupant;
use crate::store::record::{Record, occupied};
use crate::store::slot::{Shape, Slot};
use crate::store::worker::{VIEW_LASTS_UNSIGNALLED, Worker};
use crate::store::{NotUpdated, Store, update};
use holdfast_policy::config;
use holdfast_policy::document::{BreakerControl, Mode, Policy, Retry, RetryWord};

/// How much before its time is over a try may be ended by that, at least and at most: a busy router's timers count from the
/// beginning of its loop, and were seen 15 ms early. In between it is a quarter of the time.
const TIMER_SLACK: core::ops::RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(50);

/// The time-out of a route that does not say its own. Source: Envoy, `RouteAction.timeout`.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// The most routes of which an attempt seat remembers what they retry.
const MOST_ROUTES: usize = 1024;

/// One key as one attempt seat sees it.
#[derive(Debug)]
struct KeyState {
    occupant: Occupant,
    /// That of the key's records.
    fingerprint: u64,
    paths: Paths,
    /// Requests in the budget's window over all workers, and when they were added up.
    requests: Option<(Timestamp, u32)>,
}

/// One cluster under one key as one attempt seat sees it.
#[derive(Debug)]
struct Group {
    id: GroupId,
    key: Occupant,
    /// The name in the store of when an attempt seat was last seen.
    attempt_seat: String,
    /// When this seat last told that it is there.
    told: Option<Timestamp>,
    hosts: Hosts,
}

/// One policy as one attempt seat sees it.
#[derive(Debug)]
pub struct Attempts {
    policy: Arc<Policy>,
    fingerprint: u64,
    prefix: String,
    shape: Shape,
    /// By place.
    keys: HashMap<u16, KeyState>,
    /// By the place of the key, or by that of the group.
    groups: HashMap<(u16, bool), Group>,
    /// Routes that have retried a response that was forbidden: they have `envoy-ratelimited` among their own words.
    marks_ask: Vec<Vec<u8>>,
    /// Routes that have retried a response below 400: they have conditions of their own.
    retries_successes: Vec<Vec<u8>>,
    /// A host has asked for a wait: from then on the time that a try has left is worth knowing.
    hosts_ask_for_waits: bool,
}

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

impl Attempts {
    /// The policy of this name and content, as the request seat has published it; `None` if it is not there.
    pub fn fetch(store: &mut dyn Store, name: &str, fingerprint: u64) -> Option<Self> {
        let prefix = paths::of_policy(name, fingerprint);
        let (bytes, _) = store.get(&paths::policy_text(&prefix))?;
        let text = presence::PolicyText::decode(&bytes, fingerprint)?;
        let policy = config::parse(&text.0).ok()?.policies.pop()?;
        let is_it = policy.name == name && crate::base::fingerprint::of_policy(&policy) == fingerprint;
        is_it.then(|| Attempts {
            shape: Shape::of(&policy),
            policy: policy.into(),
            fingerprint,
            prefix,
            keys: HashMap::new(),
            groups: HashMap::new(),
            marks_ask: Vec::new(),
            retries_successes: Vec::new(),
            hosts_ask_for_waits: false,
        })
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Whether tries of this request may run beside each other.
    pub fn hedges(&self, exchange: &Exchange) -> bool {
        exchange.leave == Leave::All && self.policy.retry.as_ref().is_some_and(|retry| retry.hedge_on_per_try_timeout)
    }

    /// Whether responses that the policy does not name may be named by lists of the route.
    pub fn route_knows(&self) -> bool {
        let retry = self.policy.retry.as_ref();
        retry.is_some_and(|retry| conditions::names_response(&retry.on, 0, None, false) == Named::RouteKnows)
    }

    /// Whether this is the policy of that name and content.
    pub fn is(&self, exchange: &Exchange) -> bool {
        self.fingerprint == exchange.fingerprint && self.policy.name == exchange.policy
    }

    /// Whether a response is to be marked as one that is not to be retried. Those below 400 are marked only where the route
    /// was seen to retry such. No mark while the router has the word by which a mark asks for a retry, from the
    /// request's seat or, as was seen, from its route. A host's own mark stands already. `route` gives the route's name.
    pub fn forbids(&self, exchange: &Exchange, head: &ResponseHead, route: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        let given = self.policy.retry.as_ref().is_none_or(|retry| retry.on.words.contains(RetryWord::EnvoyRatelimited));
        if head.ratelimited.is_some() || !exchange.seat && given {
            return false;
        }
        let is_failure = head.status >= 400 || head.grpc_status.is_some_and(|status| status != 0);
        // Where nothing was learnt nobody needs the name.
        let learnt = if is_failure { &self.marks_ask } else { &self.retries_successes };
        if learnt.is_empty() {
            return is_failure;
        }
        let route = route().unwrap_or_default();
        if is_failure {
            // Routes without a name cannot be told apart, and most of them heed the mark.
            route.is_empty() || !self.marks_ask.contains(&route)
        } else {
            // To lose an answer that may be retried is less than to lose every success.
            self.retries_successes.contains(&route) && !self.marks_ask.contains(&route)
        }
    }

    /// Learns from a response that this route retried though the policy did not want it: `marked` tells whether it was
    /// forbidden.
    pub fn came_back(&mut self, marked: bool, route: Vec<u8>) {
        let learnt = if marked { &mut self.marks_ask } else { &mut self.retries_successes };
        if !learnt.contains(&route) {
            if learnt.len() >= MOST_ROUTES {
                // The one that was learnt first is learnt again when it does it again.
                learnt.remove(0);
            }
            learnt.push(route);
        }
    }

    /// Whether it is worth knowing how long the route gives a request: hosts ask for waits, and the policy has no time-out.
    pub fn wants_time_left(&self) -> bool {
        self.hosts_ask_for_waits
            && self
                .policy
                .retry
                .as_ref()
                .is_some_and(|retry| retry.timeout.is_none() && retry.per_try_timeout.is_none())
    }

    fn key(&mut self, key: Occupant) -> &mut KeyState {
        let fresh = || KeyState {
            occupant: key,
            fingerprint: occupied(self.fingerprint, key.tenancy),
            paths: Paths::new(&self.prefix, key.place),
            requests: None,
        };
        let state = self.keys.entry(key.place).or_insert_with(fresh);
        if state.occupant != key {
            *state = fresh();
        }
        state
    }

    /// The cluster of a request under its key; `None` where there is no place for it.
    fn group(&mut self, exchange: &Exchange) -> Option<&mut Group> {
        let (id, key) = (exchange.group, exchange.key);
        let place = match id {
            GroupId::OfTheKey => (key.place, false),
            GroupId::Numbered(occupant) => (occupant.place, true),
            GroupId::Nowhere => return None,
        };
        let is_known = self.groups.get(&place).is_some_and(|group| (group.id, group.key) == (id, key));
        if !is_known {
            let paths = GroupPaths::new(&self.prefix, key.place, id)?;
            let hosts = Hosts::new(paths.hosts(), id.fingerprint(self.fingerprint, key));
            self.groups.insert(place, Group { id, key, attempt_seat: paths.attempt_seat(), told: None, hosts });
        }
        self.groups.get_mut(&place)
    }

    /// Tells the request seats, now and then, that there is an attempt seat for this request's key and cluster.
    pub fn tell_presence<S: Store>(&mut self, store: &mut S, exchange: &Exchange, now: Timestamp) {
        let Some(group) = self.group(exchange) else { return };
        if group.told.is_none_or(|told| now.apart(told) >= presence::TELL_EVERY) {
            group.told = Some(now);
            // A later occupant's is left alone, and what cannot be told now is told in a while.
            let _ = update(store, &group.attempt_seat, group.hosts.fingerprint(), |_: Option<&Presence>| {
                ((), Some(Presence { seen: now }))
            });
        }
    }

    /// Decides on a response: adds the try to the exchange and says what is to happen after it.
    #[allow(clippy::too_many_arguments)] // All of them are facts of this one moment.
    pub fn after_response<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        exchange: &mut Exchange,
        one: Try,
        head: &ResponseHead,
        route_ends: RouteEnds,
        now: Timestamp,
    ) -> AfterResponse {
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
                Named::Yes => self.grant(worker, store, retry, exchange.key, now),
                // It is the router's choice, so a token is withdrawn only when the next try comes.
                _ => self.would_grant(worker, store, retry, exchange.key, now),
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

    /// How a try ended that had no response, and when that counts as. See [`Attempts::after_no_response`].
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
    pub fn before_retry<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        exchange: &mut Exchange,
        now: Timestamp,
    ) -> BeforeRetry {
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
            Next::Open | Next::Due(_) => match self.leave_after_last(worker, store, retry, exchange, now) {
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
        self.leave(store, exchange, taken, now)
    }

    /// Decides on a further try whose wait is over. `taken` is when its token was withdrawn.
    pub fn after_wait<S: Store>(
        &mut self,
        store: &mut S,
        exchange: &mut Exchange,
        taken: Timestamp,
        now: Timestamp,
    ) -> BeforeRetry {
        exchange.waiting = exchange.waiting.saturating_sub(1);
        self.leave(store, exchange, taken, now)
    }

    /// Lets a further try leave for its host, unless the breaker has opened or the time has run out meanwhile.
    fn leave<S: Store>(
        &mut self,
        store: &mut S,
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
    pub fn abandon<S: Store>(&mut self, store: &mut S, exchange: &mut Exchange, taken: Timestamp, now: Timestamp) {
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
    fn leave_after_last<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        retry: &Retry,
        exchange: &Exchange,
        now: Timestamp,
    ) -> Result<Timestamp, Option<Denial>> {
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
        self.grant(worker, store, retry, exchange.key, now).map(|()| due).map_err(Some)
    }

    /// The requests that the budget counts now, unless the breaker denies another try anyway.
    fn requests_while_closed<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        key: Occupant,
        now: Timestamp,
    ) -> Result<u32, Denial> {
        if self.is_breaker_closed(store, key) {
            Ok(self.requests(worker, store, key, now))
        } else {
            Err(Denial::Breaker)
        }
    }

    /// Grants another try and withdraws its token.
    fn grant<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        retry: &Retry,
        key: Occupant,
        now: Timestamp,
    ) -> Result<(), Denial> {
        let requests = self.requests_while_closed(worker, store, key, now)?;
        let state = self.key(key);
        let withdrawn = update(store, &state.paths.budget(), state.fingerprint, |old: Option<&Withdrawn>| {
            let mut cell = old.cloned().unwrap_or_default();
            let taken = cell.withdraw(&retry.budget, requests, now);
            (taken, taken.then_some(cell))
        });
        match withdrawn {
            Ok(done) if done.verdict => Ok(()),
            Ok(_) => Err(Denial::Budget),
            // Where the cell cannot be changed nothing is taken, so nothing is sent.
            Err(NotUpdated::Contended | NotUpdated::Superseded) => Err(Denial::Contention),
        }
    }

    /// Whether another try would be granted now.
    fn would_grant<S: Store>(
        &mut self,
        worker: &mut Worker,
        store: &mut S,
        retry: &Retry,
        key: Occupant,
        now: Timestamp,
    ) -> Result<(), Denial> {
        let requests = self.requests_while_closed(worker, store, key, now)?;
        let state = self.key(key);
        let cell = budget::read(store, &state.paths.budget(), state.fingerprint);
        if cell.has_left(&retry.budget, requests, now) { Ok(()) } else { Err(Denial::Budget) }
    }

    /// Gives the token back of a try that was not sent.
    fn refund<S: Store>(&mut self, store: &mut S, key: Occupant, taken: Timestamp, now: Timestamp) {
        let Some(window) = self.policy.retry.as_ref().map(|retry| retry.budget.window) else { return };
        let state = self.key(key);
        budget::change(store, &state.paths.budget(), state.fingerprint, |cell| cell.refund(taken, now, window));
    }

    /// Requests in the budget's window over all workers, looked up every 10 ms, and without those that still wait to be written.
    fn requests<S: Store>(&mut self, worker: &mut Worker, store: &mut S, key: Occupant, now: Timestamp) -> u32 {
        let shape = self.shape;
        let state = self.key(key);
        if let Some((at, requests)) = state.requests
            && at <= now
            && now.since(at) < VIEW_LASTS_UNSIGNALLED
        {
            return requests;
        }
        let mut requests = 0_u32;
        for place in 0..worker.places(store, now) {
            let slot = store.get(&state.paths.slot(place));
            let slot = slot.and_then(|(bytes, _)| Slot::decode_shaped(&bytes, state.fingerprint, &shape));
            requests = requests.saturating_add(slot.map_or(0, |slot| slot.deposits_tally(&shape, now)));
        }
        state.requests = Some((now, requests));
        requests
    }

    /// Whether the breaker lets tries pass that are no probes: it is closed or ramping, or there is none that acts.
    fn is_breaker_closed<S: Store>(&mut self, store: &mut S, key: Occupant) -> bool {
        let acts = |breaker: &&holdfast_policy::document::Breaker| {
            breaker.mode == Mode::Enforce && breaker.state == BreakerControl::Auto
        };
        if self.policy.breaker.as_ref().filter(acts).is_none() {
            return true;
        }
        let state = self.key(key);
        let stored = store.get(&state.paths.breaker());
        let cell = stored.and_then(|(bytes, _)| Cell::decode(&bytes, state.fingerprint)).unwrap_or_default();
        matches!(cell.name(), StateName::Closed | StateName::Ramping)
    }
}

mod hosts;

#[cfg(test)]
mod tests;
