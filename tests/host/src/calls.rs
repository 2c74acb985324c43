//! How often each host call was made.

use std::fmt;

/// Counts of host calls by name, without `proxy_`; in order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calls(Vec<(&'static str, u64)>);

impl Calls {
    pub(crate) fn count(&mut self, name: &'static str) {
        self.count_many(name, 1);
    }

    pub(crate) fn add(&mut self, others: &Calls) {
        for (name, count) in others.iter() {
            self.count_many(name, count);
        }
    }

    /// There are few names, and each is mostly one and the same constant: looking at all is faster than searching.
    fn count_many(&mut self, name: &'static str, count: u64) {
        let is_it = |each: &&'static str| std::ptr::eq(each.as_ptr(), name.as_ptr()) && each.len() == name.len();
        let place = self.0.iter().position(|(each, _)| is_it(each)).ok_or(());
        match place.or_else(|()| self.0.binary_search_by_key(&name, |(each, _)| each)) {
            Ok(place) => self.0[place].1 += count,
            Err(place) => self.0.insert(place, (name, count)),
        }
    }

    /// How often this one was made; `name` is without `proxy_`.
    pub fn of(&self, name: &str) -> u64 {
        self.0.iter().find(|(each, _)| *each == name).map_or(0, |(_, count)| *count)
    }

    /// How many calls there were.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Names and counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, count)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {count}")?;
        }
        Ok(())
    }
}
