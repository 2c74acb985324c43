//! How often each host call was made.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of host calls by name, without `proxy_`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calls(BTreeMap<&'static str, u64>);

impl Calls {
    pub(crate) fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub(crate) fn add(&mut self, others: &Calls) {
        for (name, count) in others.iter() {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// How often this one was made; `name` is without `proxy_`.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How many calls there were.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Names and counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
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
