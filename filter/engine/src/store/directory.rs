//! Numbered places: what there is no end of, tenants and clusters that come and go, has its state at one of so many places in the
//! store, which are given back and used again.
//!
//! One record, the directory, says who has which place. It is read when something is met for the first time and changed when a
//! place is given away; who has a place already asks nobody. A place has a *tenancy*, counted up with each new occupant. All
//! records at a place carry it ([`Mark`]): what an earlier occupant left reads as absent, and a
//! worker that has not heard of the change yet cannot overwrite what is the new one's.
//!
//! While there is room nothing is given away. After that the new one takes the place that is worth least. What the directory says of
//! that is a second or two old; whoever takes a place looks at the occupant's own records first.

use crate::base::time::{SKEW, Timestamp};
use crate::store::record::{Kind, Mark, Reader, Record, Writer, are_different};
use crate::store::worker::VIEW_LASTS_UNSIGNALLED;
use crate::store::{Expected, Store, update};
use core::time::Duration;

/// Who has, or had, a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Occupant {
    /// The place's number.
    pub index: u16,
    /// Counts the place's occupants, from 0.
    pub tenancy: u32,
}

impl Occupant {
    /// Appends it to a record.
    pub fn write(self, out: &mut Writer) {
        out.u16(self.index);
        out.u32(self.tenancy);
    }

    /// Reads it.
    pub fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(Occupant { index: input.u16()?, tenancy: input.u32()? })
    }
}

/// What keeping an occupant is worth, as its own records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It must stay.
    Keep,
    /// It may go; the one with the fewest of these goes first.
    Little(u32),
}

/// One place in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The occupant's name, hashed.
    pub name: u64,
    /// Which occupant of this place it is.
    pub tenancy: u32,
    /// When somebody last said that it is used, in seconds since the epoch.
    pub used: u32,
    /// Puts those in order that were used in the same second.
    pub order: u32,
    /// How often it was used, halved every [`HALVED_AFTER`] seconds.
    pub uses: u16,
    /// Until then it stays, in seconds since the epoch: somebody has seen that it must.
    pub kept_until: u32,
}

/// Uses count half with each so many seconds, aligned to the clock.
pub const HALVED_AFTER: u32 = 10;

/// Who was seen to have to stay stays so long without being looked at again, in seconds.
const KEPT_FOR: u32 = 10;

/// Who was not used for so long need not stay, whatever its records say, in seconds: nobody will ever move them.
pub const ABANDONED_AFTER: u32 = 600;

/// So many of the least used are looked at before a new one is turned away.
const CANDIDATES: usize = 4;

/// Nobody asks again so soon after a new one was turned away.
const REFUSED_FOR: Duration = Duration::from_millis(100);

/// How often a worker says what it has used, while places may be given away.
const UPKEEP_EVERY: Duration = Duration::from_secs(2);

/// How often a change is tried when other workers are faster.
const MAX_TRIES: usize = 16;

impl Entry {
    /// How much it is used now.
    #[must_use]
    pub fn weight(&self, now: Timestamp) -> u16 {
        if self.used > seconds(now.plus(SKEW)) {
            // From before the clock was put back.
            return 0;
        }
        let halvings = (seconds(now) / HALVED_AFTER).saturating_sub(self.used / HALVED_AFTER);
        self.uses.checked_shr(halvings).unwrap_or(0)
    }

    /// Whether it was seen a moment ago that it must stay.
    fn is_kept(&self, now: Timestamp) -> bool {
        (seconds(now)..=seconds(now).saturating_add(KEPT_FOR)).contains(&self.kept_until)
    }

    /// Whether nobody has used it for very long.
    fn is_abandoned(&self, now: Timestamp) -> bool {
        seconds(now).abs_diff(self.used) >= ABANDONED_AFTER
    }
}

fn seconds(now: Timestamp) -> u32 {
    u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX)
}

/// The directory: all places that were ever used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// The tenancy of each place's first occupant: 0, or later than any before where the directory was lost and began again.
    first: u32,
    /// How often it was changed.
    order: u32,
    /// By number.
    entries: Vec<Entry>,
}

impl Directory {
    /// Who has this name.
    #[must_use]
    pub fn find(&self, name: u64) -> Option<Occupant> {
        let index = self.entries.iter().position(|entry| entry.name == name)?;
        self.occupant(u16::try_from(index).ok()?)
    }

    /// The occupant of a place.
    #[must_use]
    pub fn occupant(&self, index: u16) -> Option<Occupant> {
        self.entries.get(usize::from(index)).map(|entry| Occupant { index, tenancy: entry.tenancy })
    }

    /// Whether the occupant still has its place.
    #[must_use]
    pub fn has(&self, occupant: Occupant) -> bool {
        self.occupant(occupant.index) == Some(occupant)
    }

    /// All places, by number.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn is_half_full(&self, most: u16) -> bool {
        self.entries.len().saturating_mul(2) >= usize::from(most)
    }

    fn next(&mut self) -> u32 {
        self.order = self.order.wrapping_add(1);
        self.order
    }

    fn push(&mut self, name: u64, now: Timestamp) -> Option<Occupant> {
        let index = u16::try_from(self.entries.len()).ok()?;
        let (tenancy, used, order) = (self.first, seconds(now), self.next());
        self.entries.push(Entry { name, tenancy, used, order, uses: 1, kept_until: 0 });
        self.occupant(index)
    }

    fn give(&mut self, index: u16, name: u64, now: Timestamp) -> Option<Occupant> {
        let (used, order) = (seconds(now), self.next());
        let entry = self.entries.get_mut(usize::from(index))?;
        let tenancy = entry.tenancy.wrapping_add(1);
        *entry = Entry { name, tenancy, used, order, uses: 1, kept_until: 0 };
        self.occupant(index)
    }

    fn entry_of(&mut self, occupant: Occupant) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(occupant.index)).filter(|entry| entry.tenancy == occupant.tenancy)
    }

    /// Notes that an occupant was used: `uses` makes of how often it was what it is now.
    fn note(&mut self, occupant: Occupant, now: Timestamp, uses: impl FnOnce(u16) -> u16) {
        let order = self.next();
        if let Some(entry) = self.entry_of(occupant) {
            let uses = uses(entry.weight(now));
            *entry = Entry { used: seconds(now), order, uses, ..*entry };
        }
    }

    /// Notes that an occupant must stay.
    fn keep(&mut self, occupant: Occupant, now: Timestamp) {
        if let Some(entry) = self.entry_of(occupant) {
            entry.kept_until = seconds(now).saturating_add(KEPT_FOR);
        }
    }

    /// The least used places that may go, the least used and the longest unused first.
    fn least_used(&self, now: Timestamp) -> Vec<Occupant> {
        let mut least = Vec::with_capacity(CANDIDATES.saturating_add(1));
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| !entry.is_kept(now)) {
            let candidate = (entry.weight(now), entry.used, entry.order, index, entry.tenancy);
            let at = least.partition_point(|other| *other < candidate);
            if at < CANDIDATES {
                least.insert(at, candidate);
                least.truncate(CANDIDATES);
            }
        }
        least.into_iter().map(|(.., index, tenancy)| Occupant { index: index as u16, tenancy }).collect()
    }
}

impl Record for Directory {
    const KIND: Kind = Kind::Occupants;

    /// Nobody has two places.
    fn invariants(&self) -> bool {
        are_different(self.entries.iter().map(|entry| entry.name))
    }

    fn size(&self) -> usize {
        self.entries.len().saturating_mul(26).saturating_add(10)
    }

    fn write(&self, out: &mut Writer) {
        let len = self.entries.len().min(usize::from(u16::MAX));
        out.u32(self.first);
        out.u32(self.order);
        out.u16(len as u16);
        for entry in self.entries.iter().take(len) {
            out.u64(entry.name);
            out.u32(entry.tenancy);
            out.u32(entry.used);
            out.u32(entry.order);
            out.u16(entry.uses);
            out.u32(entry.kept_until);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let (first, order) = (input.u32()?, input.u32()?);
        let len = usize::from(input.u16()?);
        let mut entries = Vec::with_capacity(len.min(4096));
        for _ in 0..len {
            let (name, tenancy, used, order) = (input.u64()?, input.u32()?, input.u32()?, input.u32()?);
            entries.push(Entry { name, tenancy, used, order, uses: input.u16()?, kept_until: input.u32()? });
        }
        Some(Directory { first, order, entries })
    }
}

/// How often this worker has used an occupant since it last said so.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    all: u16,
    /// How many of them stand in the directory already: the first of an occupant that was given its place here.
    said: u16,
}

/// One worker's copy of a directory.
#[derive(Debug)]
pub struct DirectoryView {
    path: String,
    mark: Mark,
    most: u16,
    known: Directory,
    /// What this worker has used, by number.
    uses: Vec<Uses>,
    /// When it did.
    upkept: Timestamp,
    /// When a new one was last turned away.
    refused: Option<Timestamp>,
    /// The change signal at the last look, and when that was.
    epoch: Option<u64>,
    looked: Timestamp,
    /// Whether somebody has lost a place since [`DirectoryView::refresh`] or [`DirectoryView::upkeep`] last said so.
    has_lost: bool,
}

impl DirectoryView {
    /// A copy of the directory at `path` with at most `most` places, of which nothing is known yet.
    #[must_use]
    pub fn new(path: String, mark: Mark, most: u16) -> Self {
        DirectoryView {
            path,
            mark,
            most,
            known: Directory::default(),
            uses: Vec::new(),
            upkept: Timestamp::ZERO,
            refused: None,
            epoch: None,
            looked: Timestamp::ZERO,
            has_lost: false,
        }
    }

    /// The directory as this worker last read it.
    #[must_use]
    pub fn known(&self) -> &Directory {
        &self.known
    }

    /// The place of this name, given to it if it has none, and whether that was now. `worth` says of an occupant, by its own records,
    /// what it is worth; one with `enough` stays like one that must. `None`: all places are worth keeping.
    pub fn assign(
        &mut self,
        store: &mut dyn Store,
        name: u64,
        enough: u32,
        now: Timestamp,
        worth: &mut dyn FnMut(&mut dyn Store, Occupant) -> Worth,
    ) -> Option<(Occupant, bool)> {
        if self.refused.is_some_and(|at| now.apart(at) < REFUSED_FOR) {
            // Who has a place has it all the same, as far as this worker knows.
            return self.known.find(name).map(|found| (found, false));
        }
        for _ in 0..MAX_TRIES {
            let (mut directory, expected) = self.read(store, now);
            if let Some(found) = directory.find(name) {
                self.know(directory);
                return Some((found, false));
            }
            let was_half_full = directory.is_half_full(self.most);
            let given = if directory.entries.len() < usize::from(self.most) {
                directory.push(name, now)
            } else {
                let mut least: Option<(u32, Occupant)> = None;
                for occupant in directory.least_used(now) {
                    let is_abandoned = directory.entry_of(occupant).is_some_and(|entry| entry.is_abandoned(now));
                    let outcomes = match worth(store, occupant) {
                        Worth::Keep if !is_abandoned => {
                            directory.keep(occupant, now);
                            continue;
                        }
                        Worth::Keep => 0,
                        Worth::Little(outcomes) => outcomes,
                    };
                    if outcomes < enough && least.is_none_or(|(fewest, _)| outcomes < fewest) {
                        least = Some((outcomes, occupant));
                    }
                    if outcomes <= 1 {
                        break;
                    }
                    // The directory has not heard of them yet.
                    let outcomes = u16::try_from(outcomes).unwrap_or(u16::MAX);
                    directory.note(occupant, now, |uses| uses.max(outcomes));
                }
                least.and_then(|(_, occupant)| directory.give(occupant.index, name, now))
            };
            if store.swap(&self.path, &directory.encode(self.mark), expected).is_err() {
                continue;
            }
            if !was_half_full && directory.is_half_full(self.most) {
                // From now on all workers look now and then who has lost a place.
                store.raise_epoch();
            }
            self.know(directory);
            self.refused = given.is_none().then_some(now);
            if let Some(uses) = given.and_then(|given| self.uses_of(given.index)) {
                *uses = Uses { all: 0, said: 1 };
            }
            return given.map(|given| (given, true));
        }
        store.note_contention();
        self.refused = Some(now);
        None
    }

    fn read(&self, store: &mut dyn Store, now: Timestamp) -> (Directory, Expected) {
        match store.get(&self.path) {
            Some((bytes, version)) => {
                // Damaged bytes: later than any tenancy that was counted up from 0.
                let lost = || Directory { first: seconds(now), ..Directory::default() };
                let directory = Directory::decode(&bytes, self.mark).unwrap_or_else(lost);
                (directory, Expected::Version(version))
            }
            None => (Directory::default(), Expected::Absent),
        }
    }

    /// Notes that an occupant is used.
    pub fn use_once(&mut self, occupant: Occupant) {
        if let Some(uses) = self.uses_of(occupant.index) {
            uses.all = uses.all.saturating_add(1);
        }
    }

    fn uses_of(&mut self, index: u16) -> Option<&mut Uses> {
        let index = usize::from(index);
        if self.uses.len() <= index {
            self.uses.resize(index.saturating_add(1), Uses::default());
        }
        self.uses.get_mut(index)
    }

    /// Looks who has lost a place, where places are given away and something has changed since the last look: who came to a state
    /// of its own meanwhile may have it at another place than this worker knows. Whether somebody has lost a place.
    pub fn refresh(&mut self, store: &mut dyn Store, now: Timestamp) -> bool {
        if self.known.entries.len() < usize::from(self.most) {
            return false;
        }
        let epoch = store.epoch();
        let is_stale = match epoch {
            Some(_) => epoch != self.epoch,
            None => now.apart(self.looked) >= VIEW_LASTS_UNSIGNALLED,
        };
        if is_stale {
            (self.epoch, self.looked) = (epoch, now);
            self.reread(store, now);
        }
        core::mem::take(&mut self.has_lost)
    }

    /// Looks at once who has lost a place.
    pub fn reread(&mut self, store: &mut dyn Store, now: Timestamp) {
        let (directory, _) = self.read(store, now);
        self.know(directory);
    }

    /// Takes over what the directory now is.
    fn know(&mut self, directory: Directory) {
        self.has_lost |= directory.entries.len() < self.known.entries.len();
        for ((index, new), old) in directory.entries.iter().enumerate().zip(&self.known.entries) {
            if new.tenancy != old.tenancy {
                self.has_lost = true;
                // They were the other one's.
                if let Some(uses) = self.uses.get_mut(index) {
                    *uses = Uses::default();
                }
            }
        }
        self.known = directory;
    }

    /// Says what was used and looks who has lost a place, where places may be given away: to be called about once a second. `is_kept`
    /// says of an occupant that was used whether it must stay. Whether somebody has lost a place.
    pub fn upkeep(&mut self, store: &mut dyn Store, now: Timestamp, is_kept: &mut dyn FnMut(Occupant) -> bool) -> bool {
        if self.known.entries.is_empty() {
            return false;
        }
        let epoch = store.epoch();
        if !self.known.is_half_full(self.most) && epoch.is_some() && epoch == self.epoch {
            return core::mem::take(&mut self.has_lost);
        }
        (self.epoch, self.looked) = (epoch, now);
        if self.known.is_half_full(self.most) && now.apart(self.upkept) >= UPKEEP_EVERY {
            self.say_what_was_used(store, now, is_kept);
        } else {
            self.reread(store, now);
        }
        core::mem::take(&mut self.has_lost)
    }

    fn say_what_was_used(&mut self, store: &mut dyn Store, now: Timestamp, is_kept: &mut dyn FnMut(Occupant) -> bool) {
        let used = |(index, uses): (usize, &Uses)| {
            let occupant = self.known.occupant(u16::try_from(index).ok()?)?;
            (uses.all > 0).then(|| (occupant, uses.all.saturating_sub(uses.said), is_kept(occupant)))
        };
        // Who was used no more than when it came is none the more used now, nor used later.
        let is_news = |(_, uses, is_kept): &(Occupant, u16, bool)| *uses > 0 || *is_kept;
        let used: Vec<_> = self.uses.iter().enumerate().filter_map(used).filter(is_news).collect();
        let updated = update(store, &self.path, self.mark, |old: Option<&Directory>| {
            let mut directory = old.cloned().unwrap_or_default();
            for (occupant, uses, is_kept) in &used {
                if *uses > 0 {
                    directory.note(*occupant, now, |before| before.saturating_add(*uses));
                }
                if *is_kept {
                    directory.keep(*occupant, now);
                }
            }
            ((), (old.is_some() && !used.is_empty()).then_some(directory))
        });
        // What could not be said is said the next time.
        if let Ok(updated) = updated {
            self.upkept = now;
            self.uses.fill(Uses::default());
            self.know(updated.record.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::record::is_of_later_occupant;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn t(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_700_000_000 + seconds)
    }

    fn directory(most: u16) -> DirectoryView {
        DirectoryView::new("places".to_owned(), Mark { block: 7, key: 0 }, most)
    }

    /// Uses the place of a name.
    fn index(
        directory: &mut DirectoryView,
        store: &mut MemoryStore,
        name: u64,
        now: Timestamp,
        worth: Worth,
    ) -> Option<Occupant> {
        let (occupant, _) = directory.assign(store, name, 20, now, &mut |_, _| worth)?;
        directory.use_once(occupant);
        Some(occupant)
    }

    #[test]
    fn the_least_used_and_among_those_the_longest_unused_goes_first() {
        let mut store = MemoryStore::default();
        let mut one = directory(3);
        for name in 1..=3 {
            index(&mut one, &mut store, name, t(0), Worth::Little(0));
        }
        // The first is used often and the second once more.
        (0..50).for_each(|_| one.use_once(Occupant { index: 0, tenancy: 0 }));
        one.use_once(Occupant { index: 1, tenancy: 0 });
        one.upkeep(&mut store, t(5), &mut |_| false);
        let fourth = index(&mut one, &mut store, 4, t(6), Worth::Little(0));
        assert_eq!(fourth, Some(Occupant { index: 2, tenancy: 1 }));
        let fifth = index(&mut one, &mut store, 5, t(7), Worth::Little(0));
        assert_eq!(fifth, Some(Occupant { index: 2, tenancy: 2 }), "the fourth was used once");
        // Long unused, what was used often is worth as little as anything.
        let later = t(7 + 160);
        one.use_once(Occupant { index: 1, tenancy: 0 });
        one.use_once(Occupant { index: 2, tenancy: 2 });
        one.upkeep(&mut store, later, &mut |_| false);
        let sixth = index(&mut one, &mut store, 6, later, Worth::Little(0));
        assert_eq!(sixth, Some(Occupant { index: 0, tenancy: 1 }));
    }

    #[test]
    fn new_ones_do_not_take_each_others_places_while_others_were_used_no_more() {
        // Two workers; each says what it has used every two seconds, however long ago the last of a hundred strays came.
        for told_at in [t(1), t(2), t(8)] {
            let mut store = MemoryStore::default();
            let mut workers = [directory(100), directory(100)];
            let mut given = 0;
            let mut ask = |worker: &mut DirectoryView, store: &mut MemoryStore, name: u64, now| {
                let found = worker.assign(store, name, 20, now, &mut |_, _| Worth::Little(1));
                let (occupant, is_new) = found.expect("nobody must stay");
                worker.use_once(occupant);
                given += u32::from(is_new);
            };
            for name in 0..150 {
                ask(&mut workers[name as usize % 2], &mut store, name, t(0));
            }
            workers.iter_mut().for_each(|worker| {
                worker.upkeep(&mut store, told_at, &mut |_| false);
            });
            for round in 0..30 {
                for name in [1000, 1001] {
                    ask(&mut workers[round % 2], &mut store, name, told_at);
                }
            }
            assert_eq!(given, 150 + 2, "each new one is given one place and keeps it");
        }
    }

    #[test]
    fn who_was_used_once_and_must_stay_is_not_looked_at_each_time() {
        let mut store = MemoryStore::default();
        let mut one = directory(8);
        for name in 0..8 {
            index(&mut one, &mut store, name, t(0), Worth::Little(0)).unwrap();
        }
        // All but the last have said that they must stay.
        one.upkeep(&mut store, t(2), &mut |occupant| occupant.index < 7);
        let mut looked_at = 0;
        let given = one.assign(&mut store, 9, 20, t(3), &mut |_, _| {
            looked_at += 1;
            Worth::Little(0)
        });
        assert_eq!((given.map(|(occupant, _)| occupant.index), looked_at), (Some(7), 1));
    }

    #[test]
    fn who_must_stay_stays_and_a_new_one_is_turned_away_for_a_moment() {
        let mut store = MemoryStore::default();
        let mut one = directory(2);
        let known = [1, 2].map(|name| index(&mut one, &mut store, name, t(0), Worth::Little(0)));
        for (worth, now) in [(Worth::Keep, t(1)), (Worth::Little(20), t(20))] {
            assert_eq!(index(&mut one, &mut store, 3, now, worth), None);
            let reads = store.reads();
            assert_eq!(index(&mut one, &mut store, 4, now, Worth::Little(0)), None);
            assert_eq!([1, 2].map(|name| index(&mut one, &mut store, name, now, Worth::Keep)), known);
            assert_eq!(store.reads(), reads, "nobody asks again at once, and who has a place is found");
        }
        assert!(index(&mut one, &mut store, 3, t(40), Worth::Little(19)).is_some());
    }

    #[test]
    fn who_must_stay_by_records_that_nobody_will_ever_change_goes_in_the_end() {
        let mut store = MemoryStore::default();
        let mut one = directory(2);
        for name in 1..=2 {
            index(&mut one, &mut store, name, t(0), Worth::Little(0));
            one.use_once(Occupant { index: name as u16 - 1, tenancy: 0 });
        }
        one.upkeep(&mut store, t(5), &mut |_| true);
        let abandoned = 5 + u64::from(ABANDONED_AFTER);
        for second in [6, 30, 300, abandoned - 1] {
            assert_eq!(index(&mut one, &mut store, 3, t(second), Worth::Keep), None, "second {second}");
        }
        assert!(index(&mut one, &mut store, 3, t(abandoned + 20), Worth::Keep).is_some());
    }

    #[test]
    fn uses_of_long_ago_weigh_nothing_however_often_there_are_new_ones() {
        let mut store = MemoryStore::default();
        let mut one = directory(1);
        let occupant = index(&mut one, &mut store, 1, t(0), Worth::Little(0)).unwrap();
        for round in 1..1000 {
            one.use_once(occupant);
            one.upkeep(&mut store, t(round * 9), &mut |_| false);
        }
        let weight = one.known().entries()[0].weight(t(9000));
        assert!(weight <= 3, "{weight} for one use each nine seconds");
        assert_eq!(one.known().entries()[0].weight(t(0)), 0, "the clock was put back by hours");
    }

    #[test]
    fn another_worker_hears_who_has_lost_a_place() {
        let mut store = MemoryStore::default();
        let (mut one, mut two) = (directory(1), directory(1));
        let first = index(&mut one, &mut store, 1, t(0), Worth::Little(0)).unwrap();
        assert!(
            two.refresh(&mut store, t(0))
                || two.upkeep(&mut store, t(0), &mut |_| false)
                || two.known().entries().is_empty()
        );
        assert_eq!(index(&mut two, &mut store, 1, t(0), Worth::Little(0)), Some(first));
        let second = index(&mut two, &mut store, 2, t(1), Worth::Little(0)).unwrap();
        assert!(one.known().has(first), "it has not looked");
        assert!(one.upkeep(&mut store, t(2), &mut |_| false));
        assert!(!one.known().has(first) && one.known().has(second));
        // Or at once, when something has changed that matters.
        let third = index(&mut two, &mut store, 3, t(3), Worth::Little(0)).unwrap();
        assert!(!one.refresh(&mut store, t(3)));
        store.raise_epoch();
        assert!(one.refresh(&mut store, t(3)) && one.known().has(third));
    }

    #[test]
    fn a_directory_that_was_lost_gives_tenancies_that_are_later_than_any_before() {
        let mut store = MemoryStore::default();
        let mut one = directory(2);
        let first = index(&mut one, &mut store, 1, t(0), Worth::Little(0)).unwrap();
        store.set("places", b"damaged");
        let again = index(&mut one, &mut store, 1, t(1), Worth::Little(0)).unwrap();
        assert!(again.index == first.index && again.tenancy > first.tenancy);
    }

    #[test]
    fn a_record_of_a_later_occupant_is_told_from_damaged_bytes() {
        let record = |tenancy: u32| Directory::default().encode(Mark { block: 7, key: tenancy });
        let is_later =
            |bytes: &[u8], than: u32| is_of_later_occupant(bytes, Directory::KIND, Mark { block: 7, key: than });
        assert!(is_later(&record(1), 0) && is_later(&record(u32::MAX), 0) && is_later(&record(1000), 999));
        assert!(!is_later(&record(5), 5) && !is_later(&record(4), 5));
        for at in 0..record(5).len() {
            for bit in 0..8 {
                let mut damaged = record(5);
                damaged[at] ^= 1 << bit;
                assert!(!is_later(&damaged, 5), "bit {bit} of byte {at}");
            }
        }
    }
}
