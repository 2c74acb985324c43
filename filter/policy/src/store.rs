//! The store that all workers share, and the one loop that changes a record in it.
//!
//! Cells are changed by compare-and-swap through [`update`]; slots have one writer and are simply [`Store::set`].

use crate::record::Record;

/// Names one stored value of a key; changes with every write of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(pub u32);

/// What a swap expects to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The key was never written.
    Absent,
    /// The key still has this version.
    Version(Version),
}

/// The value had been changed by another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict;

/// Key-value bytes shared by all workers, as a host offers them. There is no deletion and no enumeration.
pub trait Store {
    /// The bytes of `key` and their version; `None` if it was never written.
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)>;

    /// Writes `key` whatever is there. Only for keys with a single writer.
    fn set(&mut self, key: &str, value: &[u8]);

    /// Writes `key` if it still is as expected.
    fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict>;

    /// The change signal: a number that [`Store::raise_epoch`] of any worker changes. `None` where the host has none;
    /// views are then refreshed by time.
    fn epoch(&mut self) -> Option<u64>;

    /// Tells all workers that a cell changed.
    fn raise_epoch(&mut self);
}

/// How often [`update`] tries. Every failed try means that another worker got through, so this is also the number of
/// workers that may all want the same cell in the same microsecond.
pub const MAX_TRIES: usize = 64;

/// The cell was changed by others [`MAX_TRIES`] times in a row; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contended;

/// What [`update`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated<V, R> {
    /// The verdict of the step that took effect.
    pub verdict: V,
    /// The record as it now is in the store; `None` if there is none and the step wrote none.
    pub record: Option<R>,
    /// Whether the step wrote.
    pub written: bool,
}

/// Changes the record at `key`: `step` takes the old record (absent, foreign and damaged bytes are `None`) and gives a
/// verdict and the new record, or no record to leave it as it is. It is called again whenever another worker was
/// faster, so it must be pure.
pub fn update<S: Store, R: Record + Clone, V>(
    store: &mut S,
    key: &str,
    fingerprint: u64,
    mut step: impl FnMut(Option<&R>) -> (V, Option<R>),
) -> Result<Updated<V, R>, Contended> {
    for _ in 0..MAX_TRIES {
        let (old, expected) = match store.get(key) {
            Some((bytes, version)) => (R::decode(&bytes, fingerprint), Expected::Version(version)),
            None => (None, Expected::Absent),
        };
        let (verdict, new) = step(old.as_ref());
        let Some(new) = new else {
            return Ok(Updated { verdict, record: old, written: false });
        };
        if store.swap(key, &new.encode(fingerprint), expected).is_ok() {
            return Ok(Updated { verdict, record: Some(new), written: true });
        }
    }
    Err(Contended)
}

#[cfg(test)]
pub(crate) mod memory {
    //! A store for tests: a map with Envoy's semantics, shared by clones.

    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::rc::Rc;

    use super::*;

    #[derive(Debug, Default)]
    struct Shared {
        map: HashMap<String, (Vec<u8>, u32)>,
        next: u32,
        epoch: u64,
        reads: usize,
        writes: usize,
    }

    /// Clones share one map.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct MemoryStore(Rc<RefCell<Shared>>);

    impl MemoryStore {
        pub(crate) fn reads(&self) -> usize {
            self.0.borrow().reads
        }
        pub(crate) fn writes(&self) -> usize {
            self.0.borrow().writes
        }
    }

    impl Store for MemoryStore {
        fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)> {
            let mut shared = self.0.borrow_mut();
            shared.reads += 1;
            shared.map.get(key).map(|(bytes, version)| (bytes.clone(), Version(*version)))
        }
        fn set(&mut self, key: &str, value: &[u8]) {
            let mut shared = self.0.borrow_mut();
            shared.next += 1;
            shared.writes += 1;
            let version = shared.next;
            shared.map.insert(key.to_owned(), (value.to_vec(), version));
        }
        fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict> {
            let current = self.0.borrow().map.get(key).map(|(_, version)| *version);
            let fits = match (current, expected) {
                (None, _) => true,
                (Some(current), Expected::Version(Version(version))) => current == version,
                (Some(_), Expected::Absent) => false,
            };
            if !fits {
                return Err(Conflict);
            }
            self.set(key, value);
            Ok(())
        }
        fn epoch(&mut self) -> Option<u64> {
            Some(self.0.borrow().epoch)
        }
        fn raise_epoch(&mut self) {
            self.0.borrow_mut().epoch += 1;
        }
    }
}
