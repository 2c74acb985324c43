//! What the two seats tell each other about one request.
//!
//! The request seat writes it when it lets a request with retries pass; the attempt seat reads it at every attempt, and writes
//! back how attempts ended that did not simply succeed. It travels in Envoy's filter state, which no client can reach.

use core::time::Duration;

use crate::base::time::{Timestamp, nanos};
use crate::host::{Host, Refused};
use crate::http::attempt::{AttemptRecord, RetryWish};
use crate::http::outcome::{Answer, Outcome, Verdict};
use crate::outlier::table::HostId;
use crate::retry::{Denial, Eligibility};
use crate::seats::further::{Chosen, FurtherAttempt};
use crate::store::cluster::GroupId;
use crate::store::directory::Occupant;
use crate::store::record::{Kind, Mark, Reader, Record, Writer};

/// The property that holds it, which becomes the filter state `wasm.holdfast_exchange`.
pub const PROPERTY: &str = "holdfast_exchange";

/// The most attempts that are kept.
const MOST_ATTEMPTS: usize = 32;

/// The longest host's address that is kept whole: an IPv6 address with its port has 47 bytes.
const LONGEST_HOST: usize = 64;

/// One request, as both seats know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryContext {
    /// The place of the text of the policy that governs the request from its beginning to its end.
    pub policy: Occupant,
    /// The place of the request's key.
    pub key: Occupant,
    /// The place of its cluster.
    pub group: GroupId,
    /// Whether the request seat knew of an attempt seat, and so left responses to it.
    pub seat: bool,
    /// Whether an attempt seat has written this, and so sees the attempts and judges their hosts. No host can pretend that.
    pub seen: bool,
    /// Whether the policy decides on retries of it; otherwise that is left to the route.
    pub governs_retries: bool,
    /// Whether the request seat has named hosts to the router.
    pub steered: bool,
    /// The host that was out and whose probe it is, if it is one.
    pub probe: Option<HostId>,
    /// What the waits of this request follow from; also its name among the requests of a worker.
    pub seed: u64,
    /// When the request came.
    pub admitted: Timestamp,
    /// When no retry of it can be of use any more: the policy's time-out is over, or its client has given up.
    pub deadline: Option<Timestamp>,
    /// When its client gives up, as far as that is certain and its headers were read. See [`ClientWaits::deadline`].
    ///
    /// [`ClientWaits::deadline`]: crate::http::client::ClientWaits::deadline
    pub client_deadline: Option<Timestamp>,
    /// How long the router lets one attempt take, if the policy says so.
    pub attempt_lasts: Option<Duration>,
    /// What the request may be retried after.
    pub eligibility: Eligibility,
    /// Attempts after the first that were begun and not taken back.
    pub retries: u8,
    /// How many of these still wait for their back-off to be over.
    pub waiting: u8,
    /// The attempts that ended, without a first one that succeeded.
    pub attempts: Vec<AttemptRecord>,
    /// What is to happen after the last of them.
    pub next: Next,
    /// Whether the last response was marked as one that is not to be retried.
    pub marked: bool,
    /// Since when the last attempt counts for its host, if its response did not come to its end. The request seat sees why, takes the
    /// attempt out again and judges it.
    pub unsettled: Option<Timestamp>,
    /// How often an attempt seat has given up changing a record, this request's or one before, for the request seat to count.
    pub contended: u8,
    /// How many attempts are not held against their hosts because the worker did not run, for the request seat to count.
    pub excused: u8,
    /// What may follow the last attempt in another cluster, if anything may.
    pub further: Option<FurtherAttempt>,
}

/// What is to happen after the last attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing has been decided.
    Open,
    /// A retry.
    Retry {
        /// Not before this time.
        due: Timestamp,
        /// When its token was withdrawn.
        taken: Timestamp,
    },
    /// The route's lists decide. If there is a retry, it is due then; it has no token yet.
    Due(Timestamp),
    /// No other attempt, for this reason.
    Denied(Denial),
    /// No other attempt: the policy does not name how the last one ended.
    Unnamed,
}

/// A wait that a host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedWait {
    /// How long it was when it was asked for.
    pub whole: Duration,
    /// How much of it is left.
    pub left: Duration,
    /// Whether it takes the place of the back-off: the last attempt has asked for it.
    pub replaces_backoff: bool,
}

impl RetryContext {
    /// A request of which nothing was tried yet, whose retries are the route's. `seed` is what its waits follow from.
    pub fn new(
        policy: Occupant,
        key: Occupant,
        group: GroupId,
        seat: bool,
        seed: u64,
        admitted: Timestamp,
    ) -> RetryContext {
        RetryContext {
            policy,
            key,
            group,
            seat,
            seen: false,
            governs_retries: false,
            steered: false,
            probe: None,
            seed,
            admitted,
            deadline: None,
            client_deadline: None,
            attempt_lasts: None,
            eligibility: Eligibility::Nothing,
            retries: 0,
            waiting: 0,
            attempts: Vec::new(),
            next: Next::Open,
            marked: false,
            unsettled: None,
            contended: 0,
            excused: 0,
            further: None,
        }
    }

    /// Where the further attempt was sent, if it was.
    pub fn chosen(&self) -> Option<&Chosen> {
        self.further.as_ref()?.chosen.as_ref()
    }

    /// Whether another cluster may serve after the last attempt, and was not asked yet.
    pub fn may_go_further(&self) -> bool {
        self.further.as_ref().is_some_and(|further| further.chosen.is_none())
    }

    /// Whether the next attempt is a further one.
    pub fn is_retried(&self) -> bool {
        self.retries > 0 || !self.attempts.is_empty()
    }

    /// Whether it shows at the end of the request that the attempt seat on which the request seat counted does not see it: that
    /// would have written here of a host's failure, and before it asks for a retry or points here by a header
    /// (`is_pointed_to`).
    pub fn misses_seat(&self, is_pointed_to: bool, answer: Answer, outcome: &Outcome) -> bool {
        let is_hosts_failure = outcome.failed() && matches!(answer, Answer::Http(_) | Answer::Grpc(_));
        self.seat && !self.seen && (is_pointed_to || is_hosts_failure)
    }

    /// Takes the attempt out that the attempt seat could not judge, and since when it counts for its host.
    pub(crate) fn take_unsettled(&mut self) -> Option<(AttemptRecord, Timestamp)> {
        let since = self.unsettled.take()?;
        self.attempts.pop().map(|one| (one, since))
    }

    /// Whether a host has asked for anything.
    pub fn has_wishes(&self) -> bool {
        self.attempts.iter().any(|one| one.wish.is_some())
    }

    /// Whether a host has asked that no retry begins at all.
    pub(crate) fn is_refused(&self) -> bool {
        self.attempts.iter().any(|one| one.wish == Some(RetryWish::Never))
    }

    /// The wait that the host with this address asks for before a retry there: the one that lasts longest. `None` if it asks for
    /// none, or that is over and an attempt has followed it.
    pub fn asked_by(&self, address: &[u8], now: Timestamp) -> Option<AskedWait> {
        let address = address.get(..LONGEST_HOST).unwrap_or(address);
        let last = self.attempts.last().filter(|last| last.host == address);
        let replaces_backoff = last.is_some_and(|last| last.wish.is_some());
        let asked = |one: &AttemptRecord| match one.wish {
            Some(RetryWish::Wait(whole)) if one.host == address => {
                // What is further off than it was asked for shows that the clock was put back.
                let left = one.ended.plus(whole).remaining(now, whole).unwrap_or_default();
                Some(AskedWait { whole, left, replaces_backoff })
            }
            _ => None,
        };
        let longest = self.attempts.iter().filter_map(asked).max_by_key(|asked| asked.left)?;
        (replaces_backoff || !longest.left.is_zero()).then_some(longest)
    }

    /// The shortest of the waits that hosts ask for.
    pub(crate) fn least_asked(&self, now: Timestamp) -> Option<AskedWait> {
        self.attempts.iter().filter_map(|one| self.asked_by(&one.host, now)).min_by_key(|asked| asked.left)
    }

    /// Takes back a retry that waited.
    pub(crate) fn take_back(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        self.retries = self.retries.saturating_sub(1);
    }

    /// Adds an attempt that ended; what is over the most that are kept is left out.
    pub fn ended(&mut self, mut one: AttemptRecord) {
        one.host.truncate(LONGEST_HOST);
        if self.attempts.len() < MOST_ATTEMPTS {
            self.attempts.push(one);
        }
    }

    /// The retry context in a property's bytes; `None` when they are none of this version.
    pub fn read_property(bytes: &[u8]) -> Option<Self> {
        RetryContext::decode(bytes, Mark::NONE)
    }

    /// The bytes of the property.
    pub fn property(&self) -> Vec<u8> {
        self.encode(Mark::NONE)
    }
}

/// What the seats have written about the request; `None` if that is nothing.
pub fn read(host: &dyn Host) -> Option<RetryContext> {
    RetryContext::read_property(&host.property(PROPERTY)?)
}

/// The same for the attempt seat, which leaves its mark on all that it writes back; an error where something was written that cannot
/// be read.
///
/// # Errors
/// The request seat is of another release.
pub fn read_in_attempt_seat(host: &dyn Host) -> Result<Option<RetryContext>, OfAnotherRelease> {
    let Some(bytes) = host.property(PROPERTY).filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let context = RetryContext::read_property(&bytes).ok_or(OfAnotherRelease)?;
    Ok(Some(RetryContext { seen: true, ..context }))
}

/// What the other seat has written cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfAnotherRelease;

/// Leaves it where the other attempts and the other seat find it.
///
/// # Errors
/// The host refuses: the next attempt begins as a first one, and the access log lacks the attempts.
pub fn write(host: &dyn Host, context: &RetryContext) -> Result<(), Refused> {
    host.set_property(PROPERTY, &context.property())
}

/// A time that is not there.
const NO_TIME: u64 = 0;

fn read_some_time(input: &mut Reader<'_>) -> Option<Option<Timestamp>> {
    Some(Some(input.u64()?).filter(|time| *time != NO_TIME).map(Timestamp))
}

impl Record for RetryContext {
    const KIND: Kind = Kind::RetryContext;

    fn size(&self) -> usize {
        73 + self.attempts.len() * (LONGEST_HOST + 39) + self.further.as_ref().map_or(0, FurtherAttempt::size)
    }

    fn write(&self, out: &mut Writer) {
        self.policy.write(out);
        self.key.write(out);
        match self.group {
            GroupId::OfTheKey => out.u8(0),
            GroupId::Numbered(occupant) => {
                out.u8(1);
                occupant.write(out);
            }
            GroupId::Nowhere => out.u8(2),
        }
        out.u8(self.seat.into());
        out.u8(self.seen.into());
        out.u8(self.governs_retries.into());
        out.u8(self.steered.into());
        out.u8(self.probe.is_some().into());
        if let Some(HostId { index, id }) = self.probe {
            out.u16(index);
            out.u32(id);
        }
        out.u64(self.seed);
        out.time(self.admitted);
        for deadline in [self.deadline, self.client_deadline] {
            out.u64(deadline.map_or(NO_TIME, |deadline| deadline.0));
        }
        out.u64(self.attempt_lasts.map_or(NO_TIME, nanos));
        out.u8(self.eligibility as u8);
        out.u8(self.retries);
        out.u8(self.waiting);
        match self.next {
            Next::Open => out.u8(0),
            Next::Retry { due, taken } => {
                out.u8(1);
                out.time(due);
                out.time(taken);
            }
            Next::Denied(denial) => {
                out.u8(2);
                out.u8(denial as u8);
            }
            Next::Unnamed => out.u8(3),
            Next::Due(due) => {
                out.u8(4);
                out.time(due);
            }
        }
        out.u8(self.marked.into());
        out.u64(self.unsettled.map_or(NO_TIME, |since| since.0));
        out.u8(self.contended);
        out.u8(self.excused);
        out.u8(self.attempts.len().min(MOST_ATTEMPTS) as u8);
        for one in self.attempts.iter().take(MOST_ATTEMPTS) {
            out.bytes(&one.host);
            out.end(one.end);
            out.u8(one.verdict as u8);
            out.u64(nanos(one.took));
            out.time(one.ended);
            match one.wish {
                None => out.u8(0),
                Some(RetryWish::Wait(wait)) => {
                    out.u8(1);
                    out.u64(nanos(wait));
                }
                Some(RetryWish::Never) => out.u8(2),
            }
        }
        out.u8(self.further.is_some().into());
        if let Some(further) = &self.further {
            further.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let (policy, key) = (Occupant::read(input)?, Occupant::read(input)?);
        let group = match input.u8()? {
            0 => GroupId::OfTheKey,
            1 => GroupId::Numbered(Occupant::read(input)?),
            2 => GroupId::Nowhere,
            _ => return None,
        };
        let (seat, seen) = (input.flag()?, input.flag()?);
        let (governs_retries, steered) = (input.flag()?, input.flag()?);
        let probe = if input.flag()? { Some(HostId { index: input.u16()?, id: input.u32()? }) } else { None };
        let (seed, admitted) = (input.u64()?, input.time()?);
        let (deadline, client_deadline) = (read_some_time(input)?, read_some_time(input)?);
        let attempt_lasts = Some(input.u64()?).filter(|time| *time != NO_TIME).map(Duration::from_nanos);
        let (eligibility, retries, waiting) = (Eligibility::from_number(input.u8()?)?, input.u8()?, input.u8()?);
        let next = match input.u8()? {
            0 => Next::Open,
            1 => Next::Retry { due: input.time()?, taken: input.time()? },
            2 => Next::Denied(Denial::from_number(input.u8()?)?),
            3 => Next::Unnamed,
            4 => Next::Due(input.time()?),
            _ => return None,
        };
        let marked = input.flag()?;
        let (unsettled, contended, excused) = (read_some_time(input)?, input.u8()?, input.u8()?);
        let count = usize::from(input.u8()?);
        if count > MOST_ATTEMPTS {
            return None;
        }
        let mut attempts = Vec::with_capacity(count);
        for _ in 0..count {
            let host = input.bytes()?.to_owned();
            let end = input.end()?;
            let verdict = match input.u8()? {
                0 => Verdict::Success,
                1 => Verdict::Failure,
                2 => Verdict::Ignored,
                _ => return None,
            };
            let (took, ended) = (Duration::from_nanos(input.u64()?), input.time()?);
            let wish = match input.u8()? {
                0 => None,
                1 => Some(RetryWish::Wait(Duration::from_nanos(input.u64()?))),
                2 => Some(RetryWish::Never),
                _ => return None,
            };
            attempts.push(AttemptRecord { host, end, verdict, took, ended, wish });
        }
        let further = if input.flag()? { Some(FurtherAttempt::read(input)?) } else { None };
        Some(RetryContext {
            policy,
            key,
            group,
            seat,
            seen,
            governs_retries,
            steered,
            probe,
            seed,
            admitted,
            deadline,
            client_deadline,
            attempt_lasts,
            eligibility,
            retries,
            waiting,
            attempts,
            next,
            marked,
            unsettled,
            contended,
            excused,
            further,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::attempt::End;
    use holdfast_policy::document::Reason;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn context() -> RetryContext {
        let ended = Timestamp::from_secs(1001);
        let one = |end, verdict| AttemptRecord {
            host: b"[2001:db8::1]:8080".to_vec(),
            end,
            verdict,
            took: Duration::from_millis(3),
            ended,
            wish: None,
        };
        let asked = |wish| AttemptRecord { wish: Some(wish), ..one(End::Http(503), Verdict::Failure) };
        RetryContext {
            policy: Occupant { index: 7, tenancy: 8 },
            key: Occupant { index: 3, tenancy: 7 },
            group: GroupId::Numbered(Occupant { index: 300, tenancy: 2 }),
            seat: true,
            seen: true,
            governs_retries: true,
            steered: false,
            probe: Some(HostId { index: 3, id: 9 }),
            seed: u64::MAX,
            admitted: Timestamp::from_secs(1000),
            deadline: Some(Timestamp::from_secs(1005)),
            client_deadline: Some(Timestamp::from_secs(1007)),
            attempt_lasts: None,
            eligibility: Eligibility::Unsent,
            retries: 2,
            waiting: 1,
            attempts: vec![
                one(End::Http(503), Verdict::Failure),
                one(End::Grpc(14), Verdict::Ignored),
                one(End::ConnectFailure, Verdict::Failure),
                one(End::Reset, Verdict::Failure),
                one(End::TimedOut, Verdict::Success),
                asked(RetryWish::Wait(Duration::ZERO)),
                asked(RetryWish::Never),
            ],
            next: Next::Retry { due: ended, taken: Timestamp::from_secs(1000) },
            marked: true,
            unsettled: Some(Timestamp::from_secs(1002)),
            contended: 1,
            excused: 2,
            further: Some(FurtherAttempt {
                eligibility: Eligibility::All,
                has_stale: true,
                others: vec![b"standby".to_vec(), b"spare".to_vec()],
                chosen: Some(Chosen { cluster: b"standby".to_vec(), reason: Reason::Timeout, is_astray: true }),
            }),
        }
    }

    #[test]
    fn what_one_seat_writes_the_other_reads() {
        assert_eq!(RetryContext::read_property(&context().property()), Some(context()));
        let denied = RetryContext { next: Next::Denied(Denial::Budget), deadline: None, ..context() };
        assert_eq!(RetryContext::read_property(&denied.property()), Some(denied));
    }

    #[test]
    fn a_seat_is_missed_only_where_one_was_counted_on_and_nothing_but_a_host_can_have_answered() {
        let counted_on = RetryContext { seen: false, ..context() };
        let outcome = |verdict| Outcome { verdict, slow: false, retry_after: None };
        let (good, bad) = (outcome(Verdict::Success), outcome(Verdict::Failure));
        assert!(counted_on.misses_seat(false, Answer::Http(503), &bad));
        assert!(counted_on.misses_seat(false, Answer::Grpc(14), &bad));
        assert!(counted_on.misses_seat(true, Answer::Http(200), &good), "a host has pointed here");
        assert!(!counted_on.misses_seat(false, Answer::Http(200), &good), "of a success nothing is written");
        assert!(!counted_on.misses_seat(false, Answer::NoAnswer, &bad), "perhaps there was no try");
        for other in [RetryContext { seat: false, ..counted_on }, context()] {
            assert!(!other.misses_seat(true, Answer::Http(503), &bad), "{other:?}");
        }
    }

    #[test]
    fn other_bytes_read_as_none() {
        let bytes = context().property();
        for len in 0..bytes.len() {
            assert_eq!(RetryContext::read_property(&bytes[..len]), None, "cut at {len}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(RetryContext::read_property(&longer), None);
    }

    #[test]
    fn many_attempts_are_cut_off_and_so_are_long_hosts() {
        let mut many = context();
        for _ in 0..100 {
            many.ended(AttemptRecord { host: vec![b'x'; 1000], ..context().attempts.remove(0) });
        }
        assert_eq!(many.attempts.len(), MOST_ATTEMPTS);
        assert_eq!(many.attempts.last().map(|one| one.host.len()), Some(LONGEST_HOST));
        assert_eq!(RetryContext::read_property(&many.property()), Some(many));
    }
}
