//! Properties of the registry for any sequence of updates and pauses, over several workers.
//!
//! Contents come and go: forty of five names, whose blocks are one of three of a kind, or none. Four workers configure them,
//! renew what they have about once a second, let go of some and pause.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::store::Store;
use holdfast_engine::store::block::{BlockKind, ByKind};
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::paths;
use holdfast_engine::store::record::{self, Kind, Mark, Record};
use holdfast_engine::store::registry::{self, Configured, Identity, LEASE, Registry, Standing};
use proptest::prelude::*;

const CONTENTS: u64 = 40;
const NAMES: u64 = 5;
const WORKERS: usize = 4;

/// The content with this number. Each pair of blocks belongs to several contents of its name.
fn content(number: u64) -> Identity {
    let (name, variant) = (number % NAMES, number / NAMES);
    let block = |which: u64| (which > 0).then_some(name * 100 + which);
    Identity {
        name,
        content: 1000 + number,
        blocks: ByKind::new(|kind| match kind {
            BlockKind::Text => Some(1000 + number),
            BlockKind::Keys => Some(name * 100 + variant % 2),
            BlockKind::Breaker => block(variant % 4),
            BlockKind::Outlier => block(1 + variant / 4),
            _ => block(variant % 3),
        }),
    }
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A worker configures a content.
    Configure { worker: usize, content: u64, is_used: bool },
    /// A worker has it no more.
    End { worker: usize, content: u64 },
    /// So many milliseconds pass, and then all workers renew what they have.
    Tick(u64),
    /// So many milliseconds pass in which no worker runs.
    Pause(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..WORKERS;
    prop_oneof![
        6 => (worker.clone(), 0..CONTENTS, any::<bool>())
            .prop_map(|(worker, content, is_used)| Step::Configure { worker, content, is_used }),
        4 => (worker, 0..CONTENTS).prop_map(|(worker, content)| Step::End { worker, content }),
        6 => (0..2000_u64).prop_map(Step::Tick),
        1 => (0..100_000_u64).prop_map(Step::Pause),
    ]
}

/// A process, and what it has seen.
struct Process {
    store: MemoryStore,
    now: Timestamp,
    /// What each worker has, and since when each content was the newest.
    workers: [HashMap<u64, Timestamp>; WORKERS],
    /// Since when a content was the newest when a worker last configured it.
    configured: [HashMap<u64, Timestamp>; WORKERS],
    /// What block each place was for.
    tenants: HashMap<(BlockKind, Occupant), u64>,
    /// The most contents that lived at once.
    most: usize,
}

impl Process {
    fn new() -> Self {
        Process {
            store: MemoryStore::default(),
            now: Timestamp::from_secs(1_700_000_000),
            workers: Default::default(),
            configured: Default::default(),
            tenants: HashMap::new(),
            most: 0,
        }
    }

    fn registry(&mut self) -> Registry {
        registry::read(&mut self.store).unwrap_or_default()
    }

    fn standing(&mut self, number: u64) -> Option<Standing> {
        let now = self.now;
        self.registry().standing(&content(number), now)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Configure { worker, content: number, is_used } => self.configure(worker, number, is_used),
            Step::End { worker, content } => {
                self.workers[worker].remove(&content);
            }
            Step::Tick(millis) => {
                self.now = self.now.plus(Duration::from_millis(millis));
                for worker in 0..WORKERS {
                    self.renew(worker);
                }
            }
            Step::Pause(millis) => self.now = self.now.plus(Duration::from_millis(millis)),
        }
        self.check();
    }

    fn configure(&mut self, worker: usize, number: u64, is_used: bool) {
        let before = self.configured[worker].get(&number).copied();
        let (registry, known) = (self.registry(), self.standing(number));
        let used = ByKind::new(|_| is_used.then_some(self.now.plus(LEASE)));
        let configured = Configured { identity: content(number), before, used };
        registry::configure(&mut self.store, &[configured], &[], self.now).expect("nobody else writes");
        let standing = self.standing(number).expect("there is room");
        let mut others = registry.live(content(number).name, self.now);
        others.retain(|live| *live != content(number).content);
        match known {
            // What was used beside the newest comes before it as it is.
            Some(known) if known.since == standing.since || is_used && !others.is_empty() => {
                assert_eq!(known.places, standing.places, "it is where it was");
            }
            _ => self.check_entered(&registry, number, is_used, &standing),
        }
        // Whoever has it hears of it at the next look.
        let all = self.workers.iter_mut().flat_map(HashMap::iter_mut);
        all.filter(|(held, _)| **held == number).for_each(|(_, since)| *since = standing.since);
        self.workers[worker].insert(number, standing.since);
        self.configured[worker].insert(number, standing.since);
    }

    /// What must hold of a content that was entered where there was this registry: a block that is taken over goes on in the place of
    /// the newest content's, if that has the same; it is new, if that has another one and it was not used beside it. Any other
    /// goes on where the newest content has it that lives.
    fn check_entered(&self, before: &Registry, number: u64, is_used: bool, standing: &Standing) {
        let own = content(number);
        let live = before.live(own.name, self.now);
        let of = |content: &u64| before.standing(&Identity { content: *content, ..own }, self.now).expect("it lives");
        let live: Vec<(u64, Standing)> = live.iter().map(|content| (*content, of(content))).collect();
        let newest = live.iter().find(|(content, _)| *content != own.content).map(|(_, standing)| standing);
        for kind in BlockKind::ALL {
            let (Some(block), Some(place)) = (*own.blocks.get(kind), *standing.places.get(kind)) else { continue };
            let is_equal = |place: &Occupant| self.tenants.get(&(kind, *place)) == Some(&block);
            let newest = newest.and_then(|newest| *newest.places.get(kind));
            let mut all = live.iter().filter_map(|(_, standing)| *standing.places.get(kind));
            let shared = match newest.filter(|_| kind.is_taken_over() && !is_used) {
                Some(newest) => Some(newest).filter(is_equal),
                None => all.find(is_equal),
            };
            match shared {
                Some(shared) => assert_eq!(place, shared, "{kind:?}: an equal block has another place"),
                None => assert!(!self.tenants.contains_key(&(kind, place)), "{kind:?}: {place:?} is not new"),
            }
        }
    }

    fn renew(&mut self, worker: usize) {
        let all: Vec<_> = self.workers[worker].iter().map(|(number, since)| (content(*number), *since)).collect();
        if all.is_empty() {
            return;
        }
        registry::renew(&mut self.store, &all, self.now).expect("nobody else writes");
    }

    /// What must hold at any time.
    fn check(&mut self) {
        let now = self.now;
        let registry = self.registry();
        self.most = self.most.max((0..NAMES).map(|name| registry.live(name, now).len()).sum());
        let mark = Mark::NONE;
        assert_eq!(Registry::decode(&registry.encode(mark), mark).as_ref(), Some(&registry), "it has one form");
        let live: HashSet<u64> = self.workers.iter().flat_map(|held| held.keys().copied()).collect();
        let standings: Vec<(u64, Standing)> =
            live.iter().filter_map(|number| Some((*number, registry.standing(&content(*number), now)?))).collect();
        for (number, standing) in &standings {
            for kind in BlockKind::ALL {
                let (block, place) = (*content(*number).blocks.get(kind), *standing.places.get(kind));
                assert_eq!(block.is_some(), place.is_some(), "what has state has a place, and nothing else");
                let (Some(block), Some(place)) = (block, place) else { continue };
                let tenant = *self.tenants.entry((kind, place)).or_insert(block);
                assert_eq!(tenant, block, "{kind:?}: {place:?} was another block's");
                for before in standing.before.get(kind) {
                    assert_ne!(before.block, place, "{kind:?}: a block is not before itself");
                    let earlier = self.tenants.get(&(kind, before.block));
                    assert!(earlier.is_none_or(|earlier| earlier / 100 == block / 100), "{kind:?}: of another name");
                }
            }
        }
        // Those of a name that live are told apart, the newest first.
        for name in 0..NAMES {
            let rank = |one: &u64| {
                let of_name = Identity { content: *one, ..content(name) };
                registry.standing(&of_name, now).expect("it lives").rank
            };
            let ranks: Vec<usize> = registry.live(name, now).iter().map(rank).collect();
            assert!(ranks.iter().copied().eq(0..ranks.len()), "{name}: {ranks:?}");
        }
    }

    /// How many places of a kind there are.
    fn places(&self, kind: BlockKind) -> usize {
        let numbers: HashSet<u16> =
            self.tenants.keys().filter(|(of, _)| *of == kind).map(|(_, place)| place.index).collect();
        numbers.len()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Blocks that differ never have one place, not one after the other either. Equal ones share theirs. There are no more places
    /// than there were contents at once that were configured or renewed within a lease.
    #[test]
    fn a_place_is_one_blocks_and_there_are_no_more_than_are_needed(steps in prop::collection::vec(step(), 1..200)) {
        let mut process = Process::new();
        for step in &steps {
            process.step(step);
        }
        for kind in BlockKind::ALL {
            let (places, most) = (process.places(kind), process.most);
            prop_assert!(places <= most, "{kind:?}: {places} places for at most {most} contents");
        }
    }

    /// Bytes that nobody wrote are no registry, or one that can be written, read and worked with.
    #[test]
    fn damaged_bytes_read_as_none_or_as_a_registry_that_answers(
        steps in prop::collection::vec(step(), 1..20),
        at: prop::sample::Index,
        byte: u8,
        raw in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..200),
        worker in 0..WORKERS,
    ) {
        let mut process = Process::new();
        steps.iter().for_each(|step| process.step(step));
        let mut bytes = process.registry().encode(Mark::NONE);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        for bytes in [bytes, [&record::head(Kind::Registry, Mark::NONE), &raw[..]].concat()] {
            if let Some(registry) = Registry::decode(&bytes, Mark::NONE) {
                prop_assert_eq!(registry.encode(Mark::NONE), bytes.clone());
            }
            process.store.set(paths::REGISTRY, &bytes);
            for number in 0..CONTENTS {
                let configured = Configured { identity: content(number), before: None, used: ByKind::default() };
                registry::configure(&mut process.store, &[configured], &[], process.now);
                process.standing(number);
            }
            process.renew(worker);
        }
    }
}
