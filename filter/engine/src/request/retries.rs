//! The request seat's part in retries: what the router is told, and what became of it.

use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use holdfast_policy::document::{Dimension, Mode, Retry};

use super::policy::RequestPolicy;
use super::ticket::Ticket;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::http::attempt::End;
use crate::http::client::ClientWaits;
use crate::http::outcome::{Answer, Outcome, Verdict};
use crate::metric::Metric;
use crate::retry::key::RetryKey;
use crate::retry::{Denial, Eligibility, backoff, conditions, words};
use crate::seats::further::FurtherAttempt;
use crate::seats::policy_text;
use crate::seats::retry_context::{Next, RetryContext};
use crate::store::Store;
use crate::store::cluster::ClusterHash;
use crate::store::keys::Key;

/// What the router and the attempt seat are told about the retries of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the request may be retried after.
    pub eligibility: Eligibility,
    /// Whether there is an attempt seat, as far as is known.
    pub seat: bool,
    /// How long all attempts may take.
    pub timeout: Option<Duration>,
    /// How long one attempt may take by the router's clock.
    pub attempt_lasts: Option<Duration>,
    /// What the attempt seat is told; nothing about a request that is not retried.
    pub context: Option<RetryContext>,
    /// Why it is not retried at all, if it is not.
    pub denial: Option<Denial>,
    /// What another cluster may serve after, where one may.
    pub further: Option<Eligibility>,
}

/// What a request asks of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What it may be retried after.
    pub eligibility: Eligibility,
    /// Its cluster, where the key does not tell it.
    pub cluster: ClusterHash,
    /// Whether it ended with its headers.
    pub ended: bool,
    /// How long its client waits.
    pub client_waits: ClientWaits,
}

/// What is known at the end about the attempts of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptsMade<'a> {
    /// What the request could be retried after.
    pub eligibility: Eligibility,
    /// Why it was not to be retried at all.
    pub denial: Option<Denial>,
    /// The attempt seat's record, if there is one.
    pub context: Option<&'a RetryContext>,
    /// How many attempts Envoy counted; 0 where nobody asked.
    pub attempts: u64,
}

/// What became of a request's retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accounted {
    /// Attempts after the first.
    pub retries: u32,
    /// Why there was not another one that the policy's `on` asked for.
    pub denial: Option<Denial>,
}

impl AttemptsMade<'_> {
    /// The attempt seat's record, if it wrote into it.
    fn record(&self) -> Option<&RetryContext> {
        self.context.filter(|context| context.is_retried() || !matches!(context.next, Next::Open | Next::Unnamed))
    }

    /// Attempts after the first.
    pub fn retries(&self) -> u32 {
        match self.record() {
            Some(context) => context.retries.saturating_sub(context.waiting).into(),
            None => u32::try_from(self.attempts.saturating_sub(1)).unwrap_or(u32::MAX),
        }
    }
}

impl RequestPolicy {
    /// Whether requests may be retried by this policy.
    fn retry(&self, mode: Mode) -> Option<&Retry> {
        self.policy.retry.as_ref().filter(|retry| retry.mode == mode)
    }

    /// Publishes the policy for the attempt seats. `text` is a document with just this policy.
    pub fn publish(&self, store: &mut dyn Store, text: &str) {
        if self.retry(Mode::Enforce).is_none() && self.outlier().is_none() {
            return;
        }
        if let Some(standing) = self.standing() {
            policy_text::publish(store, &standing.places, text);
        }
    }

    /// Whether the breaker acts, and not only pretends to.
    fn breaker_acts(&self) -> bool {
        self.policy.breaker.as_ref().is_some_and(|breaker| breaker.mode == Mode::Enforce)
    }

    /// How the cluster of a request is told beside its key; `name` is asked only where the key does not tell it.
    pub fn cluster_hash<'a>(&self, key: Key, name: impl FnOnce() -> Cow<'a, [u8]>) -> ClusterHash {
        if self.wants_cluster(key) { ClusterHash::of(&name()) } else { ClusterHash::OF_THE_KEY }
    }

    /// Whether the cluster of a request must be known beside its key. Those that share the overflow key have nothing in common.
    pub(crate) fn wants_cluster(&self, key: Key) -> bool {
        !self.policy.scope.by.contains(&Dimension::Cluster) || self.is_overflow(key)
    }

    /// What the router is to be told about an admitted request; `None` if the policy says nothing about retries. `further` is what may
    /// follow the last attempt, for which an attempt seat is needed.
    pub fn plan_retries(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: &Ticket,
        asked: Asked,
        further: Option<FurtherAttempt>,
    ) -> Option<Plan> {
        let now = cx.now;
        let policy = Arc::clone(&self.policy);
        let retry = policy.retry.as_ref().filter(|retry| retry.mode == Mode::Enforce)?;
        let Asked { eligibility, cluster, ended, client_waits } = asked;
        let place = self.text_place()?;
        let seat = self.sees_attempt_seat(cx.store, ticket.key, cluster, now);
        let denial = match eligibility {
            Eligibility::Nothing => Some(Denial::RetryOfRetry),
            // A second attempt of a probe would be one probe more.
            _ if ticket.is_probe() && self.breaker_acts() => Some(Denial::Breaker),
            // An attempt seat looks at the budget when an attempt has failed; the router alone cannot.
            _ if !seat && !self.has_budget(cx, retry, ticket.key) => Some(Denial::Budget),
            _ => None,
        };
        let eligibility = if denial.is_some() { Eligibility::Nothing } else { eligibility };
        let seed = cx.worker.random.next();
        let is_retried = eligibility != Eligibility::Nothing && retry.max_retries > 0;
        // An attempt seat says that it is there when it is told of a request.
        let is_told = is_retried || further.is_some();
        let further = further.filter(|_| seat);
        let after = further.as_ref().map(|further| further.eligibility);
        let attempt_lasts = retry.per_try_timeout.map(|per_try| {
            // The attempt seat's wait runs in the time of the attempt after it; without room for it the wait would eat the
            // attempt, or be hedged.
            let room = if is_retried && seat {
                backoff::longest(&retry.backoff, seed, retry.max_retries)
            } else {
                Duration::ZERO
            };
            let lasts = per_try.saturating_add(room);
            // The router ignores a time that is not below the whole one.
            let most = retry.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(Duration::from_millis(1)));
            lasts.min(most).max(per_try)
        });
        let group = self.group_id(cx.store, ticket.key, cluster, now);
        // The router's time begins when the request has come to its end.
        let times_out = retry.timeout.filter(|_| ended).map(|timeout| now.plus(timeout));
        let context = is_told.then(|| RetryContext {
            governs_retries: true,
            // What comes after its client has given up is of use to nobody.
            deadline: [times_out, client_waits.deadline(now, ended.then_some(now))].into_iter().flatten().min(),
            attempt_lasts,
            eligibility,
            further,
            ..RetryContext::new(place, ticket.key.occupant, group, seat, seed, now)
        });
        Some(Plan { eligibility, seat, timeout: retry.timeout, attempt_lasts, context, denial, further: after })
    }

    /// Whether there is an attempt seat for a key and cluster that can be counted on; looked up once a second.
    pub(super) fn sees_attempt_seat(
        &mut self,
        store: &mut dyn Store,
        key: Key,
        cluster: ClusterHash,
        now: Timestamp,
    ) -> bool {
        self.with_seat(store, key, cluster, now, |seat, store| seat.is_there(store, now)).unwrap_or_default()
    }

    /// Notes that the attempt seat that was counted on for a key and cluster has not seen a request.
    pub fn miss_attempt_seat(&mut self, key: Key, cluster: ClusterHash, now: Timestamp) {
        if let Some(mut keys) = self.blocks.as_ref().and_then(|blocks| blocks.keys.try_borrow_mut().ok())
            && let Some(seat) = keys.seats.of(key).and_then(|seats| seats.get_mut(cluster))
        {
            seat.miss(now);
        }
    }

    /// Whether the retry budget has a token left; looked up every 10 ms, and without requests that still wait to be written.
    fn has_budget(&mut self, cx: &mut Cx<'_>, retry: &Retry, key: Key) -> bool {
        self.with_retry(key, |state| state.has_token(cx, retry)).unwrap_or_default()
    }

    /// Counts what became of a request's retries.
    pub fn account_retries(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        tried: &AttemptsMade<'_>,
        answer: Answer,
        outcome: &Outcome,
    ) -> Accounted {
        let policy = Arc::clone(&self.policy);
        let of_mode = |mode| policy.retry.as_ref().filter(|retry| retry.mode == mode);
        let named = |retry: &Retry| retry.max_retries > 0 && conditions::names_answer(&retry.on, answer);
        if let Some(retry) = of_mode(Mode::Shadow).filter(|retry| named(retry)) {
            if tried.eligibility == Eligibility::All && self.has_budget(cx, retry, key) {
                self.charge(cx, key, retry, 1);
                cx.events.push(Event::Count(Metric::WouldRetry));
            }
            return Accounted::default();
        }
        let Some(retry) = of_mode(Mode::Enforce) else { return Accounted::default() };
        let (made, record) = (tried.retries(), tried.record());
        cx.events.extend(core::iter::repeat_n(Event::Count(Metric::Retries), made.min(u8::MAX.into()) as usize));
        if made > 0 && outcome.verdict == Verdict::Success {
            cx.events.push(Event::Count(Metric::RetriesRecovered));
        }
        // A connection that could not be had is no matter of the method.
        let by_method = tried.eligibility == Eligibility::Unsent
            && match record.and_then(|record| record.attempts.last()) {
                Some(last) => last.end != End::ConnectFailure,
                None => answer != Answer::NoAnswer,
            };
        let denial = match record.map(|record| record.next) {
            Some(Next::Denied(denial)) => Some(denial),
            _ if named(retry) => tried.denial.or(by_method.then_some(Denial::Method)),
            _ => None,
        };
        if let Some(denial) = denial {
            cx.events.push(Event::Count(words::metric(denial)));
        }
        if record.is_none() && made > 0 {
            self.charge(cx, key, retry, made);
        } else if let Some(Next::Retry { taken, .. }) = record.map(|record| record.next) {
            // The router has not begun it.
            self.with_retry(key, |state| state.refund(cx.store, &retry.budget, taken, cx.now));
        }
        Accounted { retries: made, denial }
    }

    /// What is known of a key's budget, given to `act`.
    fn with_retry<R>(&mut self, key: Key, act: impl FnOnce(&mut RetryKey) -> R) -> Option<R> {
        let mut block = self.blocks.as_ref()?.retry.as_ref()?.try_borrow_mut().ok()?;
        block.of(key).map(act)
    }

    /// Charges the budget with retries that have been made.
    fn charge(&mut self, cx: &mut Cx<'_>, key: Key, retry: &Retry, retries: u32) {
        self.with_retry(key, |state| state.charge(cx.store, &retry.budget, retries, cx.now));
    }
}
