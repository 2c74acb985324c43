//! Which answers of a key are kept, and at which numbered places: one record, changed by swap.
//!
//! Who keeps an answer takes its place here first and then writes it there. Another worker may have taken the place meanwhile: so what
//! stands at a place is compared with what was asked for, and what is not an answer to that is none.

use super::asked::AskedFor;
use super::vary::Vary;
use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer, are_different};

/// So many different lists of headers by which answers vary are known at a time.
const MOST_VARIES: usize = 16;

/// An answer at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// What was asked for, hashed.
    target: u64,
    /// Which list of headers it varies by.
    vary: u8,
    /// What the request had of them, hashed.
    values: u64,
    /// When it was kept.
    kept: Timestamp,
    /// How many bytes it takes.
    size: u32,
}

/// The places of a key's answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerIndex {
    /// Lists of headers. Those that no answer varies by any more are used again.
    varies: Vec<Vary>,
    /// By place.
    entries: Vec<Entry>,
    /// So many places may hold something; those behind the entries hold what earlier occupants have left.
    places: u16,
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// So many answers.
    pub answers: u64,
    /// So many bytes.
    pub bytes: u64,
}

/// An answer that wants a place.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What was asked for, hashed.
    pub target: u64,
    /// By which headers it varies.
    pub vary: &'a Vary,
    /// What the request had of them.
    pub values: &'a [u8],
    /// How many bytes it takes.
    pub size: u32,
}

impl AnswerIndex {
    /// One of a new occupant, where those before may have left something at so many places.
    pub fn after(places: u16) -> Self {
        AnswerIndex { places, ..AnswerIndex::default() }
    }

    /// So many places may hold something.
    pub fn places(&self) -> u16 {
        self.places
    }

    /// What is kept.
    pub fn kept(&self) -> Kept {
        let bytes = self.entries.iter().map(|entry| u64::from(entry.size)).sum();
        Kept { answers: self.entries.len() as u64, bytes }
    }

    /// Gives an answer a place among `most`: its own, a new one, or that of the oldest. `None` where it cannot have any.
    pub fn put(&mut self, wanted: &Wanted<'_>, most: u16, now: Timestamp) -> Option<u16> {
        let vary = self.number_of(wanted.vary)?;
        let Wanted { target, size, .. } = *wanted;
        let entry = Entry { target, vary, values: fingerprint::of_text(wanted.values), kept: now, size };
        let same = |other: &Entry| (other.target, other.vary, other.values) == (target, vary, entry.values);
        let at = match self.entries.iter().position(same) {
            Some(own) => own,
            None if self.entries.len() < usize::from(most) => {
                self.entries.push(entry);
                self.entries.len().checked_sub(1)?
            }
            None => self.entries.iter().enumerate().min_by_key(|(_, other)| other.kept).map(|(at, _)| at)?,
        };
        *self.entries.get_mut(at)? = entry;
        let place = u16::try_from(at).ok()?;
        self.places = self.places.max(place.saturating_add(1));
        Some(place)
    }

    /// Gives up the last of the places that hold what earlier occupants have left.
    pub fn give_up(&mut self) -> Option<u16> {
        let last = self.places.checked_sub(1).filter(|last| usize::from(*last) >= self.entries.len())?;
        self.places = last;
        Some(last)
    }

    /// The places of answers to a request: the last that was kept first, one for each list of headers by which answers to it vary.
    pub fn find(&self, asked: &AskedFor) -> Vec<u16> {
        let target = asked.target_hash();
        let mut found: Vec<(Timestamp, u16)> = Vec::new();
        for (number, vary) in self.varies.iter().enumerate() {
            let of_target = |entry: &Entry| entry.target == target && usize::from(entry.vary) == number;
            if !self.entries.iter().any(of_target) {
                continue;
            }
            let Some(values) = asked.values(vary).map(|values| fingerprint::of_text(&values)) else { continue };
            let at = self.entries.iter().position(|entry| of_target(entry) && entry.values == values);
            if let Some((at, entry)) = at.and_then(|at| Some((u16::try_from(at).ok()?, self.entries.get(at)?))) {
                found.push((entry.kept, at));
            }
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.into_iter().map(|(_, place)| place).collect()
    }

    /// The number of a list of headers, which gets one where there is any left.
    fn number_of(&mut self, vary: &Vary) -> Option<u8> {
        let known = self.varies.iter().position(|known| known == vary);
        let number = known.or_else(|| {
            if self.varies.len() < MOST_VARIES {
                self.varies.push(vary.clone());
                return self.varies.len().checked_sub(1);
            }
            let is_used = |number: usize| self.entries.iter().any(|entry| usize::from(entry.vary) == number);
            let free = (0..self.varies.len()).find(|number| !is_used(*number))?;
            vary.clone_into(self.varies.get_mut(free)?);
            Some(free)
        });
        number.and_then(|number| u8::try_from(number).ok())
    }
}

impl Record for AnswerIndex {
    const KIND: Kind = Kind::AnswerIndex;

    /// No answer has two places, and all vary by lists that are there.
    fn invariants(&self) -> bool {
        are_different(self.entries.iter().map(|entry| (entry.target, entry.vary, entry.values)))
            && are_different(self.varies.iter())
            && self.entries.iter().all(|entry| usize::from(entry.vary) < self.varies.len())
            && self.entries.len() <= usize::from(self.places)
    }

    fn size(&self) -> usize {
        let varies: usize = self.varies.iter().map(|vary| vary.as_bytes().len().saturating_add(2)).sum();
        self.entries.len().saturating_mul(29).saturating_add(varies).saturating_add(5)
    }

    fn write(&self, out: &mut Writer) {
        out.u16(self.places);
        out.u8(self.varies.len().min(MOST_VARIES) as u8);
        for vary in self.varies.iter().take(MOST_VARIES) {
            out.bytes(vary.as_bytes());
        }
        out.u16(u16::try_from(self.entries.len()).unwrap_or(u16::MAX));
        for entry in self.entries.iter().take(u16::MAX.into()) {
            out.u64(entry.target);
            out.u8(entry.vary);
            out.u64(entry.values);
            out.time(entry.kept);
            out.u32(entry.size);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let (places, lists) = (input.u16()?, usize::from(input.u8()?));
        let mut varies = Vec::new();
        for _ in 0..lists {
            varies.push(Vary::stored(input.bytes()?)?);
        }
        let len = input.u16()?;
        let mut entries = Vec::with_capacity(usize::from(len).min(1024));
        for _ in 0..len {
            let (target, vary, values) = (input.u64()?, input.u8()?, input.u64()?);
            entries.push(Entry { target, vary, values, kept: input.time()?, size: input.u32()? });
        }
        let index = AnswerIndex { varies, entries, places };
        (lists <= MOST_VARIES && index.entries.len() <= usize::from(places)).then_some(index)
    }
}
