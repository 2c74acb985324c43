//! A store in memory with the semantics of Envoy's shared data, for tests and simulations.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::store::{Conflict, Expected, Store, Version};

#[derive(Debug, Default)]
struct Shared {
    values: HashMap<String, (Vec<u8>, u32)>,
    last_version: u32,
    epoch: u64,
    runs: u64,
    unsignalled: bool,
    reads: usize,
    writes: usize,
}

/// A store in memory. Clones share it, as workers share shared data.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Rc<RefCell<Shared>>);

impl MemoryStore {
    /// An empty store without a change signal.
    pub fn unsignalled() -> Self {
        let store = MemoryStore::default();
        store.0.borrow_mut().unsignalled = true;
        store
    }

    /// How many reads there have been.
    pub fn reads(&self) -> usize {
        self.0.borrow().reads
    }

    /// How many writes there have been, refused swaps left out.
    pub fn writes(&self) -> usize {
        self.0.borrow().writes
    }
}

impl Store for MemoryStore {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)> {
        let mut shared = self.0.borrow_mut();
        shared.reads += 1;
        shared.values.get(key).map(|(bytes, version)| (bytes.clone(), Version(*version)))
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        let mut shared = self.0.borrow_mut();
        shared.writes += 1;
        shared.last_version = shared.last_version.wrapping_add(1).max(1);
        let version = shared.last_version;
        shared.values.insert(key.to_owned(), (value.to_vec(), version));
    }

    fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict> {
        let current = self.0.borrow().values.get(key).map(|(_, version)| *version);
        match (current, expected) {
            // Envoy accepts any version for a key that was never written.
            (None, _) => {}
            (Some(current), Expected::Version(Version(version))) if current == version => {}
            (Some(_), _) => return Err(Conflict),
        }
        self.set(key, value);
        Ok(())
    }

    fn epoch(&mut self) -> Option<u64> {
        let shared = self.0.borrow();
        (!shared.unsignalled).then_some(shared.epoch)
    }

    fn raise_epoch(&mut self) {
        self.0.borrow_mut().epoch += 1;
    }
    fn runs(&mut self) -> Option<u64> {
        let shared = self.0.borrow();
        (!shared.unsignalled).then_some(shared.runs)
    }

    fn raise_runs(&mut self) {
        self.0.borrow_mut().runs += 1;
    }
}
