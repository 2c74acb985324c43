//! The store that all workers share, and the one loop that changes a record in it.
//!
//! Cells are changed by compare-and-swap through [`update`]; slots have one writer and are simply [`Store::set`].

pub mod address;
pub mod block;
pub mod cluster;
pub mod directory;
pub mod keys;
pub mod memory;
pub mod own_slot;
pub mod paths;
pub mod place;
pub mod record;
pub mod registry;
pub mod slot;
pub mod told;
pub mod window;
pub mod worker;
pub mod workers;

use record::{Kind, Mark, Record};

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

    /// Writes `key` whatever is there. Only for keys with a single writer, or whose readers can do without.
    fn set(&mut self, key: &str, value: &[u8]);

    /// Writes `key` if it still is as expected.
    fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict>;

    /// The change signal: a number that [`Store::raise_epoch`] of any worker changes. `None` where the host has none;
    /// views are then refreshed by time.
    fn epoch(&mut self) -> Option<u64>;

    /// Makes the next [`Store::epoch`] ask again: within a callback a store may remember what it said.
    fn refresh(&mut self) {}

    /// Tells all workers that a cell changed.
    fn raise_epoch(&mut self);

    /// The signal of runs of failures, which changes far more often than any other cell where hosts fail; see
    /// [`Store::raise_runs`]. The common signal where the host offers no other.
    fn runs(&mut self) -> Option<u64> {
        self.epoch()
    }

    /// Tells all workers that a host's run of failures changed.
    fn raise_runs(&mut self) {
        self.raise_epoch();
    }

    /// Notes that [`update`] gave up on a cell, which is counted as `shared_data.contention`.
    fn note_contention(&mut self) {}
}

/// How often [`update`] tries. Every failed attempt means that another worker got through, so this is also the number of
/// workers that may all want the same cell in the same microsecond.
pub const MAX_TRIES: usize = 64;

/// Why a cell was not changed; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotUpdated {
    /// Others changed it [`MAX_TRIES`] times in a row.
    Contended,
    /// Its place in the store belongs to a later occupant: what it was for has no state there any more.
    Superseded,
}

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
///
/// ```
/// use holdfast_engine::retry::budget::Withdrawn;
/// use holdfast_engine::store::memory::MemoryStore;
/// use holdfast_engine::store::record::Mark;
/// use holdfast_engine::store::{Store, update};
///
/// let mut store = MemoryStore::default();
/// let done = update(&mut store, "holdfast/example", Mark { block: 7, key: 0 }, |old: Option<&Withdrawn>| {
///     // Pure: on a conflict it is called again with the newer record.
///     (old.is_none(), Some(old.cloned().unwrap_or_default()))
/// });
/// assert!(done.is_ok_and(|done| done.verdict && done.written));
/// assert!(store.get("holdfast/example").is_some());
/// ```
///
/// # Errors
/// [`NotUpdated`]; that others were always faster is noted in the store ([`Store::note_contention`]), so no caller has to.
pub fn update<R: Record + Clone, V>(
    store: &mut dyn Store,
    key: &str,
    mark: Mark,
    mut step: impl FnMut(Option<&R>) -> (V, Option<R>),
) -> Result<Updated<V, R>, NotUpdated> {
    let (mut verdict, mut record) = (None, None);
    let written = swap_until_done(store, key, R::KIND, mark, &mut |bytes| {
        let old = bytes.and_then(|bytes| R::decode(bytes, mark));
        let (now, new) = step(old.as_ref());
        verdict = Some(now);
        match new {
            Some(new) => {
                debug_assert!(
                    !old.as_ref().is_none_or(Record::invariants) || new.invariants(),
                    "{key}: the fields of a changed record do not fit together"
                );
                let bytes = new.encode(mark);
                record = Some(new);
                Some(bytes)
            }
            None => {
                record = old;
                None
            }
        }
    })?;
    // A step gave a verdict, or there was an error.
    let verdict = verdict.ok_or(NotUpdated::Contended)?;
    Ok(Updated { verdict, record, written })
}

/// A step of [`update`] on bytes: old ones to new ones.
type ByteStep<'a> = dyn FnMut(Option<&[u8]>) -> Option<Vec<u8>> + 'a;

/// The loop of [`update`], on bytes. Whether the last step wrote.
fn swap_until_done(
    store: &mut dyn Store,
    key: &str,
    kind: Kind,
    mark: Mark,
    step: &mut ByteStep<'_>,
) -> Result<bool, NotUpdated> {
    for _ in 0..MAX_TRIES {
        let stored = store.get(key);
        let bytes = stored.as_ref().map(|(bytes, _)| bytes.as_slice());
        if bytes.is_some_and(|bytes| record::is_of_later_occupant(bytes, kind, mark)) {
            return Err(NotUpdated::Superseded);
        }
        let Some(new) = step(bytes) else { return Ok(false) };
        let expected = stored.as_ref().map_or(Expected::Absent, |(_, version)| Expected::Version(*version));
        if store.swap(key, &new, expected).is_ok() {
            return Ok(true);
        }
    }
    store.note_contention();
    Err(NotUpdated::Contended)
}
