//! Properties of what the seats tell each other about a request.

#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::{End, Try};
use holdfast_engine::http::outcome::Verdict;
use holdfast_engine::outlier::table::HostId;
use holdfast_engine::retry::{Denial, Leave};
use holdfast_engine::seats::retry_context::{Exchange, Next};
use holdfast_engine::store::cluster::GroupId;
use holdfast_engine::store::places::Occupant;
use holdfast_engine::store::record::{Kind, VERSION};
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
    ]
}

fn occupant() -> impl Strategy<Value = Occupant> {
    any::<(u16, u32)>().prop_map(|(place, tenancy)| Occupant { place, tenancy })
}

fn one() -> impl Strategy<Value = Try> {
    let verdict = prop_oneof![Just(Verdict::Success), Just(Verdict::Failure), Just(Verdict::Ignored)];
    let host = prop::collection::vec(any::<u8>(), 0..64);
    (host, end(), verdict, span(), time()).prop_map(|(host, end, verdict, took, ended)| Try {
        host,
        end,
        verdict,
        took,
        ended,
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

/// Any exchange. A time of zero stands for none, and no more than 32 tries are kept.
fn exchange() -> impl Strategy<Value = Exchange> {
    let leave = prop_oneof![Just(Leave::All), Just(Leave::Unsent), Just(Leave::Nothing)];
    let some_time = prop::option::of((1..=u64::MAX).prop_map(Timestamp));
    let some_span = prop::option::of((1..=u64::MAX).prop_map(Duration::from_nanos));
    let place = (
        any::<u64>(),
        ".{0,40}",
        occupant(),
        prop_oneof![Just(GroupId::OfTheKey), Just(GroupId::Nowhere), occupant().prop_map(GroupId::Numbered)],
        any::<[bool; 4]>(),
        prop::option::of(any::<(u16, u32)>()),
    );
    let times = (any::<u64>(), time(), some_time, some_span);
    let tries = (leave, any::<u8>(), any::<u8>(), prop::collection::vec(one(), 0..=32), next(), any::<(bool, u8)>());
    (place, times, tries).prop_map(|(place, times, tries)| {
        let (fingerprint, policy, key, group, [seat, seen, governs_retries, steered], probe) = place;
        let probe = probe.map(|(place, id)| HostId { place, id });
        let (seed, admitted, deadline, try_lasts) = times;
        let (leave, retries, waiting, tries, next, (marked, contended)) = tries;
        Exchange {
            fingerprint,
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
            try_lasts,
            leave,
            retries,
            waiting,
            tries,
            next,
            marked,
            contended,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_one_seat_writes_the_other_reads(exchange in exchange()) {
        prop_assert_eq!(Exchange::read_property(&exchange.property()), Some(exchange));
    }

    /// The part of a property that arrives is no exchange, and neither is one with something after it.
    #[test]
    fn what_is_not_whole_reads_as_none(exchange in exchange(), cut: prop::sample::Index, more in any::<u8>()) {
        let bytes = exchange.property();
        prop_assert_eq!(Exchange::read_property(bytes.get(..cut.index(bytes.len())).unwrap_or_default()), None);
        let longer = [bytes.as_slice(), &[more]].concat();
        prop_assert_eq!(Exchange::read_property(&longer), None);
    }

    /// Bytes that somebody changed are none, or another exchange that can be written and read like any.
    #[test]
    fn any_bytes_are_an_exchange_or_none(exchange in exchange(), place: prop::sample::Index, byte: u8) {
        let mut bytes = exchange.property();
        let place = place.index(bytes.len());
        if let Some(old) = bytes.get_mut(place) {
            *old = byte;
        }
        if let Some(changed) = Exchange::read_property(&bytes) {
            prop_assert_eq!(changed.property(), bytes, "an exchange has one form: {:?}", changed);
        }
    }

    #[test]
    fn bytes_nobody_wrote_are_an_exchange_or_none(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let head = [&[VERSION, Kind::Exchange as u8][..], &[0; 8]].concat();
        let bytes = [head, body].concat();
        if let Some(exchange) = Exchange::read_property(&bytes) {
            prop_assert_eq!(exchange.property(), bytes);
        }
    }

    /// However many tries there are and however long their hosts' names: what is kept is kept whole.
    #[test]
    fn tries_beyond_the_most_that_are_kept_leave_the_others_as_they_are(
        exchange in exchange(), more in prop::collection::vec(one(), 0..40),
    ) {
        let mut longer = exchange.clone();
        for one in &more {
            longer.ended(one.clone());
        }
        let all = exchange.tries.iter().chain(&more);
        prop_assert!(longer.tries.iter().eq(all.take(32)));
        prop_assert_eq!(Exchange::read_property(&longer.property()), Some(longer));
    }
}
