//! A store on which every call is a point where another worker may come first, and the exploration of every order.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::paths;
use holdfast_engine::store::record::{Mark, Record};
use holdfast_engine::store::{Conflict, Expected, Store, Version};
use holdfast_policy::config;
use holdfast_policy::document::Policy;
use shuttle::future;

/// More orders than this are too many for a test; a scenario that has more fails, so that none is explored in part.
const MOST: usize = 400_000;

/// Runs a scenario in every order of its workers' calls.
pub fn send_discovery_request(policy: Arc<Policy>, scenario: impl Fn(&Arc<Policy>) + Send + Sync + 'static) {
    let scheduler = shuttle::scheduler::DfsScheduler::new(Some(MOST), false);
    let orders = shuttle::Runner::new(scheduler, shuttle::Config::default()).run(move || scenario(&policy));
    assert!((1..MOST).contains(&orders), "{orders} orders");
    println!("{orders} orders");
}

pub fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

/// A document with one policy.
pub fn document(features: &str) -> String {
    format!(r#"{{"policies":[{{"name":"p","scope":[],{features}}}]}}"#)
}

pub fn policy(features: &str) -> Arc<Policy> {
    config::parse(document(features).as_bytes()).expect("a valid policy").policies.remove(0).into()
}

/// The mark of what belongs to the first block of a kind and its first key.
pub const FIRST: Mark = Mark { block: 0, key: 0 };

/// The name of the first key's cell in the first block of a kind.
#[allow(dead_code)] // Not for hosts, which have a table instead.
pub fn cell(kind: BlockKind) -> String {
    format!("{}/0", paths::of_block(kind, 0))
}

/// What must hold of every write: its key, what was there, and what is there now.
type Check = dyn Fn(&str, Option<&[u8]>, &[u8]) + Send + Sync;

#[derive(Default)]
struct Map {
    values: HashMap<String, (Vec<u8>, u32)>,
    last_version: u32,
}

/// What all workers share.
pub struct Shared {
    /// Whether more than one worker runs.
    racing: AtomicBool,
    /// Whether another worker can come between a swap and its signal; not with three workers, to keep the orders few.
    pub signals_alone: AtomicBool,
    turn: shuttle::sync::atomic::AtomicBool,
    map: Mutex<Map>,
    epoch: AtomicU64,
    check: Box<Check>,
}

/// One worker's handle on the store. Each call is a point of interleaving.
#[derive(Clone)]
pub struct Handle {
    pub shared: Arc<Shared>,
    /// Calls left until this worker crashes: what it does from then on has no effect.
    fuel: Option<usize>,
}

impl Handle {
    /// An empty store. `check` looks at each write.
    pub fn new(check: impl Fn(&str, Option<&[u8]>, &[u8]) + Send + Sync + 'static) -> Self {
        let shared = Shared {
            racing: AtomicBool::new(false),
            signals_alone: AtomicBool::new(true),
            turn: shuttle::sync::atomic::AtomicBool::new(false),
            map: Mutex::default(),
            epoch: AtomicU64::new(0),
            check: Box::new(check),
        };
        Handle { shared: Arc::new(shared), fuel: None }
    }

    pub fn crashing_after(&self, calls: usize) -> Self {
        Handle { shared: Arc::clone(&self.shared), fuel: Some(calls) }
    }

    /// Lets another worker come first, and tells whether this one still lives, using up one call. This is the only point
    /// where workers alternate, so one schedule of shuttle's is one order of calls.
    fn lives(&mut self) -> bool {
        if self.fuel != Some(0) && self.shared.racing.load(Ordering::Relaxed) {
            self.shared.turn.load(Ordering::SeqCst);
        }
        match &mut self.fuel {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn put(&self, map: &mut Map, key: &str, value: &[u8]) {
        let old = map.values.get(key).map(|(bytes, _)| bytes.as_slice());
        (self.shared.check)(key, old, value);
        map.last_version += 1;
        let version = map.last_version;
        map.values.insert(key.to_owned(), (value.to_vec(), version));
    }

    /// The record of this name, of a policy that is alone and its first key.
    pub fn record<R: Record>(&self, name: &str) -> Option<R> {
        let map = self.shared.map.lock().expect("no worker panicked");
        map.values.get(name).and_then(|(bytes, _)| R::decode(bytes, FIRST))
    }
}

impl Store for Handle {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)> {
        if !self.lives() {
            return None;
        }
        let map = self.shared.map.lock().expect("no worker panicked");
        map.values.get(key).map(|(bytes, version)| (bytes.clone(), Version(*version)))
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        if self.lives() {
            let mut map = self.shared.map.lock().expect("no worker panicked");
            self.put(&mut map, key, value);
        }
    }

    fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict> {
        if !self.lives() {
            return Err(Conflict);
        }
        let mut map = self.shared.map.lock().expect("no worker panicked");
        match (map.values.get(key), expected) {
            (None, _) => {}
            (Some((_, current)), Expected::Version(Version(version))) if *current == version => {}
            (Some(_), _) => return Err(Conflict),
        }
        self.put(&mut map, key, value);
        Ok(())
    }

    fn epoch(&mut self) -> Option<u64> {
        Some(if self.fuel == Some(0) { 0 } else { self.shared.epoch.load(Ordering::SeqCst) })
    }

    fn raise_epoch(&mut self) {
        if !self.shared.signals_alone.load(Ordering::Relaxed) || self.lives() {
            self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Runs each worker's part in every interleaving, and gives the workers back.
pub fn race<W: AsRef<Handle> + 'static, R: 'static>(
    workers: Vec<W>,
    part: impl Fn(usize, &mut W) -> R + 'static,
) -> Vec<(W, R)> {
    let part = Rc::new(part);
    let shared = workers.first().map(|worker| Arc::clone(&worker.as_ref().shared)).expect("there are workers");
    shared.racing.store(true, Ordering::Relaxed);
    let mut workers = workers.into_iter().enumerate();
    // The first worker runs on the thread that starts the others: starting it too would only be more to interleave.
    let first = workers.next();
    let handles: Vec<_> = workers
        .map(|(number, mut worker)| {
            let part = Rc::clone(&part);
            // Shuttle runs all of them on one thread, by turns: what a worker has need not be sent.
            future::spawn_local(async move {
                let result = part(number, &mut worker);
                (worker, result)
            })
        })
        .collect();
    let first = first.map(|(number, mut worker)| {
        let result = part(number, &mut worker);
        (worker, result)
    });
    let others = handles.into_iter().map(|handle| future::block_on(handle).expect("the worker's part holds"));
    let done = first.into_iter().chain(others).collect();
    shared.racing.store(false, Ordering::Relaxed);
    done
}
