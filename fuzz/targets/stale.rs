//! Any headers of a request and of an answer: `cache-control`, `vary`, `age`, dates, conditions. What is kept is found by the same
//! request, within its limits, and by nobody who asks for something else.

#![no_main]

use core::num::NonZeroU16;
use core::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::fallback::{AnswerIndex, AskedFor, CacheControl, Capture, KeptAnswer, StaleKey};
use holdfast_engine::http::headers;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::place::Place;
use holdfast_engine::store::record::{Mark, Record};
use holdfast_policy::document::Stale;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const OF_REQUEST: [&str; 8] =
    ["authorization", "cookie", "cache-control", "if-none-match", "if-modified-since", "range", "x-a", "accept"];
const OF_ANSWER: [&str; 12] = [
    "cache-control",
    "vary",
    "age",
    "date",
    "expires",
    "etag",
    "last-modified",
    "pragma",
    "content-length",
    "connection",
    "set-cookie",
    "x-a",
];

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    path: &'a [u8],
    request: Vec<(u8, &'a [u8])>,
    /// Of somebody else, who asks for the same path.
    other: Vec<(u8, &'a [u8])>,
    answer: Vec<(u8, &'a [u8])>,
    body: &'a [u8],
    sent: u64,
    took: u32,
    later: u64,
    record: &'a [u8],
}

fn pairs(fixed: &[(&str, &[u8])], more: &[(u8, &[u8])], names: &[&str]) -> Vec<u8> {
    let more = more.iter().filter_map(|(name, value)| Some((*names.get(usize::from(*name) % names.len())?, *value)));
    let all: Vec<_> =
        fixed.iter().copied().chain(more).map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
    headers::write(&all)
}

fuzz_target!(|input: Input<'_>| {
    for (_, value) in &input.answer {
        let _ = CacheControl::read(value);
    }
    if let Some(read) = KeptAnswer::decode(input.record, Mark::NONE) {
        assert_eq!(read.encode(Mark::NONE), input.record, "what reads as an answer is written as the same bytes");
    }
    if let Some(read) = AnswerIndex::decode(input.record, Mark::NONE) {
        assert_eq!(read.encode(Mark::NONE), input.record, "what reads as an index is written as the same bytes");
    }
    let ask = |more: &[(u8, &[u8])]| {
        let fixed: [(&str, &[u8]); 3] = [(":method", b"GET"), (":authority", b"shop.test"), (":path", input.path)];
        AskedFor::read(&pairs(&fixed, more, &OF_REQUEST), || b"orders", true)
    };
    let (Some(asked), Some(other)) = (ask(&input.request), ask(&input.other)) else { return };
    let entries = NonZeroU16::MIN;
    let rules = Stale { max_age: Duration::from_secs(600), max_body: 1024, entries };
    let (sent, now) = (Timestamp(input.sent), Timestamp(input.sent).plus(Duration::from_micros(input.took.into())));
    let answer = pairs(&[(":status", b"200")], &input.answer, &OF_ANSWER);
    let Some(mut capture) = Capture::begin(&asked, &answer, &rules, sent, now) else { return };
    if !capture.add(input.body) {
        assert!(input.body.len() > 1024, "it has room");
        return;
    }
    let Some(kept) = capture.end() else { return };
    assert!(kept.freshness.born <= now && now < kept.freshness.until);
    let place = Place::new(BlockKind::Stale, Occupant::default(), Occupant::default());
    let (mut store, mut key) = (MemoryStore::default(), StaleKey::new(place));
    key.keep(&mut store, &rules, &kept, now);
    let found = key.find(&mut store, &rules, &asked, now).expect("it was kept a moment ago");
    assert!(found.body == kept.body || found.status == 304, "the same body");
    let later = Timestamp(input.later);
    if let Ok(found) = key.find(&mut store, &rules, &asked, later) {
        assert!(found.age <= 600 && later < kept.freshness.until, "within its limits");
    }
    if key.find(&mut store, &rules, &other, now).is_ok() {
        assert!(kept.is_for(&other), "all that it was chosen by is the same");
    }
});
