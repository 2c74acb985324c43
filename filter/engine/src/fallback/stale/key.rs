//! The answers that are kept under one key.

use holdfast_policy::document::Stale;

use super::answer::{KeptAnswer, ServedAnswer};
use super::asked::AskedFor;
use super::index::{AnswerIndex, Kept, Wanted};
use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::fallback::Unserved;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::place::Place;
use crate::store::record::{self, Record};

/// So many places that earlier occupants have left something at are emptied with each answer that is kept.
const EMPTIED_AT_ONCE: usize = 8;

/// What a worker knows of a key's answers. All that matters is in the store: it is read where an answer is kept or wanted.
#[derive(Debug)]
pub struct StaleKey {
    place: Place,
    index: Address,
    /// What the operator was told last.
    told: Option<Kept>,
    /// Whether there may be something to tell.
    has_news: bool,
    /// Whether this occupant has an index: then nothing is left to be taken over of those before.
    has_index: bool,
}

impl StaleKey {
    /// The answers that have this place.
    pub fn new(place: Place) -> Self {
        StaleKey { index: place.cell(), place, told: None, has_news: true, has_index: false }
    }

    /// Whether a record of a later occupant of the place was met.
    pub fn is_superseded(&self) -> bool {
        self.index.is_superseded()
    }

    /// Keeps an answer, in place of an older one or of the oldest.
    pub fn keep(&mut self, store: &mut dyn Store, rules: &Stale, answer: &KeptAnswer, now: Timestamp) {
        let wanted = Wanted {
            target: fingerprint::of_text(&answer.target),
            vary: &answer.vary,
            values: &answer.values,
            size: u32::try_from(answer.stored_size()).unwrap_or(u32::MAX),
        };
        let left = if self.has_index { 0 } else { self.left_before(store) };
        let updated = self.index.update(store, |old: Option<&AnswerIndex>| {
            let mut index = old.cloned().unwrap_or_else(|| AnswerIndex::after(left));
            let place = index.put(&wanted, rules.entries.get(), now);
            let emptied: Vec<u16> = core::iter::from_fn(|| index.give_up()).take(EMPTIED_AT_ONCE).collect();
            ((place, emptied), place.map(|_| index))
        });
        let Ok(updated) = updated else { return };
        self.has_index = updated.record.is_some();
        let (place, emptied) = updated.verdict;
        for place in emptied {
            store.set(&self.place.item(place), &[]);
        }
        if let Some(place) = place {
            // Whoever writes last has it; what is then not where the index says is not found.
            store.set(&self.place.item(place), &answer.encode(self.place.mark()));
            self.has_news = true;
        }
    }

    /// How many places those before may have left something at; 0 where this occupant has an index already.
    fn left_before(&self, store: &mut dyn Store) -> u16 {
        let name = self.index.name();
        let Some((bytes, _)) = store.get(name) else { return 0 };
        let mark = record::mark_of(&bytes, AnswerIndex::KIND).filter(|mark| *mark < self.place.mark());
        let before = mark.and_then(|mark| AnswerIndex::decode(&bytes, mark));
        before.map_or(0, |before| before.places())
    }

    /// The answer to a request, if one is kept that may be served.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(
        &self,
        store: &mut dyn Store,
        rules: &Stale,
        asked: &AskedFor,
        now: Timestamp,
    ) -> Result<ServedAnswer, Unserved> {
        let index: AnswerIndex = self.index.read(store).ok_or(Unserved::NothingKept)?;
        let mut why = Unserved::NothingKept;
        for place in index.find(asked) {
            let stored = store.get(&self.place.item(place));
            let answer = stored.and_then(|(bytes, _)| KeptAnswer::decode(&bytes, self.place.mark()));
            let Some(answer) = answer.filter(|answer| answer.is_for(asked)) else { continue };
            match answer.age(rules.max_age, now) {
                Some(age) => return Ok(answer.serve(asked, age)),
                None => why = Unserved::TooOld,
            }
        }
        Err(why)
    }

    /// What the operator is to be told anew.
    pub fn news(&mut self, store: &mut dyn Store) -> Option<Kept> {
        if !core::mem::take(&mut self.has_news) {
            return None;
        }
        let kept = self.index.read::<AnswerIndex>(store).map(|index| index.kept()).unwrap_or_default();
        (self.told.replace(kept) != Some(kept)).then_some(kept)
    }

    /// Has it told again: nobody has under the name that the policy has now.
    pub fn tell_again(&mut self) {
        (self.told, self.has_news) = (None, true);
    }
}
