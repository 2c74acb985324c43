//! One worker: its place among the others, and its random numbers.

use core::time::Duration;

use crate::base::random::Random;
use crate::base::time::Timestamp;
use crate::store::record::{Mark, Record};
use crate::store::workers::{self, LEASE, RENEW_AFTER, WorkerSlot, Workers};
use crate::store::{Store, update};

/// The mark of records that belong to no policy.
const NO_POLICY: Mark = Mark::NONE;

/// How old a view may be while the change signal says that nothing changed. A worker that crashed between its swap
/// and its signal would otherwise leave the others' views wrong for ever.
pub(crate) const VIEW_LASTS: Duration = Duration::from_secs(1);

/// How old a view may be where there is no change signal.
pub(crate) const VIEW_LASTS_UNSIGNALLED: Duration = Duration::from_millis(10);

/// When a worker last looked at something shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) epoch: Option<u64>,
    pub(crate) at: Timestamp,
}

impl Seen {
    /// Whether what was seen then can still be relied on.
    pub(crate) fn holds(&self, epoch: Option<u64>, now: Timestamp) -> bool {
        let lasts = if epoch.is_some() { VIEW_LASTS } else { VIEW_LASTS_UNSIGNALLED };
        // A look from the future is from before the clock was put back.
        self.epoch == epoch && self.at <= now && now.since(self.at) < lasts
    }
}

/// A worker: one VM on one thread. All policies on it share one.
#[derive(Debug)]
pub struct Worker {
    /// The table that it is in.
    table: &'static str,
    slot: Option<WorkerSlot>,
    renewed: Timestamp,
    /// Places in the table when last looked at.
    slots: u16,
    seen: Option<Seen>,
    /// Names this VM among all; 0 until somebody asks.
    nonce: u64,
    /// Whether a change was ever found that no signal had told of: those of the other seat may reach this one never.
    pub(crate) misses_signals: bool,
    pub(crate) random: Random,
}

impl Worker {
    /// A worker without a place. `seed` should differ between workers.
    pub fn new(seed: u64) -> Self {
        Worker::in_table(workers::KEY, seed)
    }

    /// An attempt seat's VM without a place.
    pub fn of_attempts(seed: u64) -> Self {
        Worker::in_table(workers::ATTEMPTS_KEY, seed)
    }

    fn in_table(table: &'static str, seed: u64) -> Self {
        Worker {
            table,
            slot: None,
            renewed: Timestamp::ZERO,
            slots: 0,
            seen: None,
            nonce: 0,
            misses_signals: false,
            random: Random::new(seed),
        }
    }

    /// Mixes into the random numbers what tells this worker from others that began in the same moment.
    pub fn reseed(&mut self, difference: u64) {
        self.random.reseed(difference);
    }

    /// The worker's place, claimed or renewed if need be; `None` when there is none to be had.
    pub(crate) fn slot(&mut self, store: &mut dyn Store, now: Timestamp) -> Option<WorkerSlot> {
        let current = self.slot.filter(|_| now.since(self.renewed) < LEASE && self.renewed.since(now) < LEASE);
        current.or_else(|| {
            self.claim(store, now);
            self.slot
        })
    }

    /// The place held now, without any call.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Option<WorkerSlot> {
        self.slot
    }

    /// Renews the claim when it is due. To be called every second or so; a worker that never served claims nothing.
    pub fn tick(&mut self, store: &mut dyn Store, now: Timestamp) {
        let age = now.apart(self.renewed);
        if self.slot.is_some() && age >= RENEW_AFTER {
            self.claim(store, now);
        }
    }

    /// Renews the claim, or makes a new one.
    fn claim(&mut self, store: &mut dyn Store, now: Timestamp) {
        let (old, random) = (self.slot, self.random.next());
        let claimed = update(store, self.table, NO_POLICY, |table: Option<&Workers>| {
            let mut table = table.cloned().unwrap_or_default();
            let slot = old.filter(|slot| table.renew(*slot, now)).or_else(|| table.claim(now, random));
            (slot, slot.map(|_| table))
        });
        // When giving up, the old claim is kept for as long as it lasts.
        if let Ok(done) = claimed {
            self.slot = done.verdict;
            self.renewed = now;
            self.note(done.record.as_ref());
            if let Some(slot) = done.verdict.filter(|slot| Some(*slot) != old) {
                self.random.reseed(slot.nonce);
                store.raise_epoch();
            }
        }
    }

    /// How many places there are, and so how many slots a key may have.
    pub(crate) fn slots(&mut self, store: &mut dyn Store, now: Timestamp) -> u16 {
        let epoch = store.epoch();
        if !self.seen.is_some_and(|seen| seen.holds(epoch, now)) {
            self.slots = slots(store, self.table);
            self.seen = Some(Seen { epoch, at: now });
        }
        self.slots
    }

    fn note(&mut self, table: Option<&Workers>) {
        self.slots = count(table);
    }

    /// A name that no other VM has.
    pub(crate) fn nonce(&mut self) -> u64 {
        if self.nonce == 0 {
            self.nonce = self.random.next().max(1);
        }
        self.nonce
    }

    /// Whether it is an attempt seat's VM.
    pub(crate) fn is_of_attempts(&self) -> bool {
        self.table == workers::ATTEMPTS_KEY
    }
}

fn count(table: Option<&Workers>) -> u16 {
    table.map_or(0, |table| u16::try_from(table.claims.len()).unwrap_or(u16::MAX))
}

/// How many places there are in the table of this key.
pub(crate) fn slots(store: &mut dyn Store, table: &str) -> u16 {
    count(store.get(table).and_then(|(bytes, _)| Workers::decode(&bytes, NO_POLICY)).as_ref())
}
