//! Properties of what the seats tell each other about a request.

#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::{AttemptRecord, End, RetryWish};
use holdfast_engine::http::outcome::Verdict;
use holdfast_engine::outlier::table::HostId;
use holdfast_engine::retry::{Denial, Eligibility};
use holdfast_engine::seats::further::{Chosen, FurtherAttempt};
use holdfast_engine::seats::retry_context::{Next, RetryContext};
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::record::{self, Kind, Mark};
use holdfast_policy::document::Reason;
use proptest::prelude::*;

fn time() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

fn span() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        any::<u16>().prop_map(End::Http),
        any::<u32>().prop_map(End::Grpc),
        Just(End::ConnectFailure),
        Just(End::Reset),
        Just(End::TimedOut),
        Just(End::Broken),
    ]
}

fn occupant() -> impl Strategy<Value = Occupant> {
    any::<(u16, u32)>().prop_map(|(index, tenancy)| Occupant { index, tenancy })
}

fn one() -> impl Strategy<Value = AttemptRecord> {
    let verdict = prop_oneof![Just(Verdict::Success), Just(Verdict::Failure), Just(Verdict::Ignored)];
    let host = prop::collection::vec(any::<u8>(), 0..64);
    let wish =
        prop_oneof![Just(None), Just(Some(RetryWish::Never)), span().prop_map(|wait| Some(RetryWish::Wait(wait)))];
    (host, end(), verdict, span(), time(), wish).prop_map(|(host, end, verdict, took, ended, wish)| AttemptRecord {
        host,
        end,
        verdict,
        took,
        ended,
        wish,
    })
}

fn next() -> impl Strategy<Value = Next> {
    prop_oneof![
        Just(Next::Open),
        Just(Next::Unnamed),
        (time(), time()).prop_map(|(due, taken)| Next::Retry { due, taken }),
        time().prop_map(Next::Due),
        prop::sample::select(Denial::ALL.as_slice()).prop_map(Next::Denied),
    ]
}

/// What may follow in another cluster, or was sent there.
fn further() -> impl Strategy<Value = FurtherAttempt> {
    let name = || prop::collection::vec(any::<u8>(), 0..=1024);
    let eligibility = prop_oneof![Just(Eligibility::All), Just(Eligibility::Unsent)];
    let chosen = (name(), prop::sample::select(Reason::ALL.as_slice()), any::<bool>())
        .prop_map(|(cluster, reason, is_astray)| Chosen { cluster, reason, is_astray });
    let others = prop::collection::vec(name(), 1..=32);
    (eligibility, any::<bool>(), others, prop::option::of(chosen))
        .prop_map(|(eligibility, has_stale, others, chosen)| FurtherAttempt { eligibility, has_stale, others, chosen })
}

/// Any retry context. A time of zero stands for none, and no more than 32 attempts are kept.
fn context() -> impl Strategy<Value = RetryContext> {
    let eligibility = prop_oneof![Just(Eligibility::All), Just(Eligibility::Unsent), Just(Eligibility::Nothing)];
    let some_time = prop::option::of((1..=u64::MAX).prop_map(Timestamp));
    let some_span = prop::option::of((1..=u64::MAX).prop_map(Duration::from_nanos));
    let index = (
        occupant(),
        occupant(),
        prop_oneof![Just(GroupId::OfTheKey), Just(GroupId::Nowhere), occupant().prop_map(GroupId::Numbered)],
        any::<[bool; 4]>(),
        prop::option::of(any::<(u16, u32)>()),
    );
    let more = (any::<bool>(), some_time.clone(), any::<u8>(), any::<u8>());
    let times = (any::<u64>(), time(), some_time.clone(), some_time, some_span);
    let attempts = (eligibility, any::<u8>(), any::<u8>(), prop::collection::vec(one(), 0..=32), next(), more);
    (index, times, attempts, prop::option::of(further())).prop_map(|(index, times, attempts, further)| {
        let (policy, key, group, [seat, seen, governs_retries, steered], probe) = index;
        let probe = probe.map(|(index, id)| HostId { index, id });
        let (seed, admitted, deadline, client_deadline, attempt_lasts) = times;
        let (eligibility, retries, waiting, attempts, next, (marked, unsettled, contended, excused)) = attempts;
        RetryContext {
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
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_one_seat_writes_the_other_reads(context in context()) {
        prop_assert_eq!(RetryContext::read_property(&context.property()), Some(context));
    }

    /// The part of a property that arrives is no retry context, and neither is one with something after it.
    #[test]
    fn what_is_not_whole_reads_as_none(context in context(), cut: prop::sample::Index, more in any::<u8>()) {
        let bytes = context.property();
        prop_assert_eq!(RetryContext::read_property(bytes.get(..cut.index(bytes.len())).unwrap_or_default()), None);
        let longer = [bytes.as_slice(), &[more]].concat();
        prop_assert_eq!(RetryContext::read_property(&longer), None);
    }

    /// Bytes that somebody changed are none, or another retry context that can be written and read like any.
    #[test]
    fn any_bytes_are_an_exchange_or_none(context in context(), index: prop::sample::Index, byte: u8) {
        let mut bytes = context.property();
        let index = index.index(bytes.len());
        if let Some(old) = bytes.get_mut(index) {
            *old = byte;
        }
        if let Some(changed) = RetryContext::read_property(&bytes) {
            prop_assert_eq!(changed.property(), bytes, "an exchange has one form: {:?}", changed);
        }
    }

    #[test]
    fn bytes_nobody_wrote_are_an_exchange_or_none(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let head = record::head(Kind::RetryContext, Mark::NONE);
        let bytes = [head, body].concat();
        if let Some(context) = RetryContext::read_property(&bytes) {
            prop_assert_eq!(context.property(), bytes);
        }
    }

    /// However many attempts there are and however long their hosts' names: what is kept is kept whole.
    #[test]
    fn attempts_beyond_the_most_that_are_kept_leave_the_others_as_they_are(
        context in context(), more in prop::collection::vec(one(), 0..40),
    ) {
        let mut longer = context.clone();
        for one in &more {
            longer.ended(one.clone());
        }
        let all = context.attempts.iter().chain(&more);
        prop_assert!(longer.attempts.iter().eq(all.take(32)));
        prop_assert_eq!(RetryContext::read_property(&longer.property()), Some(longer));
    }
}
