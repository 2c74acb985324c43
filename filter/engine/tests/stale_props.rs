//! What holds of kept answers whatever is asked and answered: nobody gets an answer to something else, none is served past its limits,
//! and memory has its bound.

#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use core::num::NonZeroU16;
use core::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::fallback::{AskedFor, CacheControl, Capture, StaleKey};
use holdfast_engine::http::headers;
use holdfast_engine::store::Store;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::place::Place;
use holdfast_policy::document::Stale;
use proptest::collection;
use proptest::prelude::*;

const MAX_BODY: u32 = 256;
/// What a record may take beside its body.
const BESIDE: usize = 28 * 1024;

fn rules(entries: u16) -> Stale {
    Stale { max_age: Duration::from_secs(60), max_body: MAX_BODY, entries: NonZeroU16::new(entries).unwrap() }
}

fn key(tenancy: u32) -> StaleKey {
    let block = Occupant { index: 0, tenancy: 7 };
    StaleKey::new(Place::new(BlockKind::Stale, block, Occupant { index: 0, tenancy }))
}

fn serialized(pairs: &[(&str, String)]) -> Vec<u8> {
    headers::write(&pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Vec<_>>())
}

/// A GET of a path whose headers `a` and `b` have these values.
fn asked(path: u8, a: u8, b: u8) -> AskedFor {
    let pairs = [
        (":method", "GET".to_owned()),
        (":authority", "shop.test".to_owned()),
        (":path", format!("/{path}")),
        ("a", a.to_string()),
        ("b", b.to_string()),
    ];
    AskedFor::read(&serialized(&pairs), || b"orders", true).unwrap()
}

const VARIES: [&str; 4] = ["", "a", "b", "a, b"];
const CONTROLS: [&str; 5] =
    ["", "max-age=10", "max-age=10, stale-if-error=10", "max-age=10, must-revalidate", "no-store"];

#[derive(Debug, Clone)]
enum Step {
    Keep { worker: usize, path: u8, a: u8, b: u8, vary: usize, control: usize, size: usize },
    Find { worker: usize, path: u8, a: u8, b: u8 },
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let keep = (0..2_usize, 0..6_u8, 0..3_u8, 0..3_u8, 0..VARIES.len(), 0..CONTROLS.len(), 0..300_usize)
        .prop_map(|(worker, path, a, b, vary, control, size)| Step::Keep { worker, path, a, b, vary, control, size });
    let find =
        (0..2_usize, 0..6_u8, 0..3_u8, 0..3_u8).prop_map(|(worker, path, a, b)| Step::Find { worker, path, a, b });
    prop_oneof![3 => keep, 3 => find, 1 => (0..20_u64).prop_map(Step::Advance)]
}

/// An answer that was kept last to a request.
#[derive(Debug, Clone)]
struct Model {
    path: u8,
    vary: usize,
    values: (u8, u8),
    control: usize,
    body: Vec<u8>,
    at: u64,
}

impl Model {
    fn is_for(&self, path: u8, a: u8, b: u8) -> bool {
        let (own_a, own_b) = self.values;
        let varies = VARIES[self.vary];
        self.path == path && (!varies.contains('a') || own_a == a) && (!varies.contains('b') || own_b == b)
    }

    /// The longest age at which it is served.
    fn limit(&self) -> u64 {
        match self.control {
            2 => 20,
            3 => 10,
            _ => 61,
        }
    }
}

proptest! {
    #[test]
    fn whoever_asks_gets_an_answer_to_that_or_none(
        entries in 1..5_u16,
        steps in collection::vec(step(), 1..80),
    ) {
        let mut store = MemoryStore::default();
        let (rules, mut workers) = (rules(entries), [key(0), key(0)]);
        let mut kept: Vec<Model> = Vec::new();
        let mut now = 1_000_000;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Advance(by) => now += by,
                Step::Keep { worker, path, a, b, vary, control, size } => {
                    let body = [format!("{number} ").as_bytes(), &vec![b'x'; size]].concat();
                    let mut pairs = vec![(":status", "200".to_owned()), ("cache-control", CONTROLS[control].to_owned())];
                    pairs.push(("vary", VARIES[vary].to_owned()));
                    let at = Timestamp::from_secs(now);
                    let begun = Capture::begin(&asked(path, a, b), &serialized(&pairs), &rules, at, at);
                    prop_assert_eq!(begun.is_some(), CONTROLS[control] != "no-store");
                    let Some(mut capture) = begun else { continue };
                    let fits = capture.add(&body);
                    prop_assert_eq!(fits, body.len() <= MAX_BODY as usize);
                    if let Some(answer) = capture.end().filter(|_| fits) {
                        workers[worker].keep(&mut store, &rules, &answer, at);
                        kept.push(Model { path, vary, values: (a, b), control, body, at: now });
                    }
                }
                Step::Find { worker, path, a, b } => {
                    let found = workers[worker].find(&mut store, &rules, &asked(path, a, b), Timestamp::from_secs(now));
                    let Ok(found) = found else { continue };
                    let model = kept.iter().rfind(|model| model.body == found.body);
                    let model = model.expect("it was kept");
                    prop_assert!(model.is_for(path, a, b), "{:?} to {} {} {}", model, path, a, b);
                    prop_assert_eq!(found.age, now - model.at);
                    prop_assert!(found.age < model.limit(), "{:?} at {}", model, found.age);
                    let newer = kept.iter().rfind(|other| {
                        (other.path, other.vary) == (model.path, model.vary) && other.is_for(path, a, b)
                    });
                    prop_assert_eq!(&newer.unwrap().body, &model.body, "the last one");
                }
            }
        }
        let held: usize = (0..100).filter_map(|place| store.get(&format!("holdfast/9/stale/0/0/item/{place}"))).map(|(bytes, _)| bytes.len()).sum();
        prop_assert!(held <= usize::from(entries) * (MAX_BODY as usize + BESIDE));
        let behind = store.get(&format!("holdfast/9/stale/0/0/item/{entries}"));
        prop_assert!(behind.is_none());
    }

    /// With room for all nothing is lost: what was kept and is within its limits is found.
    #[test]
    fn what_is_kept_is_found_while_there_is_room(steps in collection::vec((0..6_u8, 0..3_u8, 0..VARIES.len()), 1..40)) {
        let mut store = MemoryStore::default();
        let (rules, now) = (rules(200), Timestamp::from_secs(1_000_000));
        let mut worker = key(0);
        for (number, (path, a, vary)) in steps.into_iter().enumerate() {
            let pairs = [(":status", "200".to_owned()), ("vary", VARIES[vary].to_owned())];
            let at = now.plus(Duration::from_millis(number as u64));
            let mut capture = Capture::begin(&asked(path, a, 1), &serialized(&pairs), &rules, at, at).unwrap();
            let body = number.to_string().into_bytes();
            prop_assert!(capture.add(&body));
            worker.keep(&mut store, &rules, &capture.end().unwrap(), at);
            let found = worker.find(&mut store, &rules, &asked(path, a, 1), at).unwrap();
            prop_assert_eq!(found.body, body);
        }
    }

    #[test]
    fn no_bytes_make_an_answer_or_a_panic(
        lines in collection::vec(("(date|age|expires|cache-control|vary|pragma|content-length|connection|etag)", collection::vec(any::<u8>(), 0..60)), 0..8),
        sent in any::<u64>(),
        now in any::<u64>(),
    ) {
        let pairs: Vec<(String, Vec<u8>)> = lines;
        let bytes = headers::write(&pairs);
        let (sent, now) = (Timestamp(sent), Timestamp(now));
        if let Some(capture) = Capture::begin(&asked(1, 1, 1), &bytes, &rules(1), sent, now) {
            let Some(answer) = capture.end() else { return Ok(()) };
            prop_assert!(answer.freshness.born <= now && answer.freshness.until > now);
            let mut store = MemoryStore::default();
            let mut worker = key(0);
            worker.keep(&mut store, &rules(1), &answer, now);
            prop_assert!(worker.find(&mut store, &rules(1), &asked(1, 1, 1), now).is_ok());
        }
    }

    #[test]
    fn a_value_that_is_read_says_each_thing_once(value in "[a-z=0-9\", -]{0,80}") {
        if let Some(read) = CacheControl::read(value.as_bytes()) {
            let again = CacheControl::read(format!("{value}, {value}").as_bytes());
            prop_assert!(read == CacheControl::default() || again.is_none());
        }
    }
}

#[test]
fn the_next_occupant_of_a_place_finds_nothing_and_gives_up_what_was_left() {
    let mut store = MemoryStore::default();
    let (large, small, now) = (rules(40), rules(2), Timestamp::from_secs(1_000_000));
    let keep = |worker: &mut StaleKey, store: &mut MemoryStore, rules: &Stale, path: u8| {
        let headers = serialized(&[(":status", "200".to_owned())]);
        let capture = Capture::begin(&asked(path, 0, 0), &headers, rules, now, now).unwrap();
        worker.keep(store, rules, &capture.end().unwrap(), now);
    };
    let mut first = key(0);
    (0..40).for_each(|path| keep(&mut first, &mut store, &large, path));
    let mut second = key(1);
    assert!(second.find(&mut store, &small, &asked(0, 0, 0), now).is_err());
    (0..6).for_each(|path| keep(&mut second, &mut store, &small, path));
    let mut held =
        |place: u16| store.get(&format!("holdfast/9/stale/0/0/item/{place}")).map_or(0, |(bytes, _)| bytes.len());
    assert!(held(0) > 0 && held(1) > 0);
    assert_eq!((2..40).map(&mut held).sum::<usize>(), 0);
    // Who has not heard of it cannot take the place back.
    keep(&mut first, &mut store, &large, 0);
    assert!(first.is_superseded() && first.find(&mut store, &large, &asked(0, 0, 0), now).is_err());
    assert!(second.find(&mut store, &small, &asked(5, 0, 0), now).is_ok());
}
