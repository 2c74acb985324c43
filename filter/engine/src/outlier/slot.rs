//! What one worker has counted for the hosts of one group in this interval and the one before. Only that worker writes it.
//!
//! Intervals are aligned to the clock, so that those of all workers mean the same time and can be added.

use core::time::Duration;

use super::table::{HostId, MOST_HOSTS};
use crate::base::time::{Timestamp, nanos};
use crate::store::record::{Kind, Reader, Record, Writer};

/// One host's counts in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostTally {
    /// Successes and failures that were looked at; where no detector counts all of them, some.
    pub total: u32,
    /// Failures among them.
    pub failures: u32,
    /// How long the successes took together, in microseconds.
    pub took: u64,
}

impl HostTally {
    /// Adds another tally.
    pub fn add(&mut self, other: HostTally) {
        self.total = self.total.saturating_add(other.total);
        self.failures = self.failures.saturating_add(other.failures);
        self.took = self.took.saturating_add(other.took);
    }

    /// Successes.
    pub fn successes(&self) -> u32 {
        self.total.saturating_sub(self.failures)
    }

    /// The successes' mean time; zero without any. A failure may be quick or slow for reasons of its own.
    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.took.checked_div(self.successes().into()).unwrap_or(0))
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.total);
        out.u32(self.failures);
        out.u64(self.took);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let tally = HostTally { total: input.u32()?, failures: input.u32()?, took: input.u64()? };
        (tally.failures <= tally.total).then_some(tally)
    }
}

/// One host's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    id: u32,
    current: HostTally,
    last: HostTally,
}

/// One worker's counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSlot {
    /// The number of the current interval.
    interval: u64,
    /// By place.
    hosts: Vec<Counts>,
}

/// The number of the interval that `now` falls in.
pub fn interval_number(now: Timestamp, length: Duration) -> u64 {
    now.0.checked_div(nanos(length)).unwrap_or(0)
}

impl HostSlot {
    fn advance(&mut self, interval: u64) {
        if interval == self.interval {
            return;
        }
        for counts in &mut self.hosts {
            counts.last = if interval == self.interval.wrapping_add(1) { counts.current } else { HostTally::default() };
            counts.current = HostTally::default();
        }
        self.interval = interval;
    }

    /// Counts an attempt that ended in this interval.
    pub fn record(&mut self, host: HostId, failed: bool, took: Duration, interval: u64) {
        self.advance(interval);
        let index = usize::from(host.index);
        if index >= MOST_HOSTS {
            return;
        }
        if self.hosts.len() <= index {
            self.hosts.resize(index + 1, Counts::default());
        }
        let Some(counts) = self.hosts.get_mut(index) else { return };
        if counts.id != host.id {
            *counts = Counts { id: host.id, ..Counts::default() };
        }
        let micros = if failed { 0 } else { u64::try_from(took.as_micros()).unwrap_or(u64::MAX) };
        counts.current.add(HostTally { total: 1, failures: failed.into(), took: micros });
    }

    /// What was counted in an interval, by host.
    pub fn tallies(&self, interval: u64) -> impl Iterator<Item = (HostId, HostTally)> {
        let (is_current, is_last) = (interval == self.interval, interval.wrapping_add(1) == self.interval);
        let hosts = self.hosts.iter().enumerate().map(move |(index, counts)| {
            let tally = match (is_current, is_last) {
                (true, _) => counts.current,
                (_, true) => counts.last,
                _ => HostTally::default(),
            };
            (HostId { index: index as u16, id: counts.id }, tally)
        });
        hosts.filter(|(_, tally)| tally.total > 0)
    }
}

impl Record for HostSlot {
    const KIND: Kind = Kind::HostSlot;

    fn size(&self) -> usize {
        16 + self.hosts.len() * 38
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.interval);
        let is_used = |counts: &Counts| counts.current.total > 0 || counts.last.total > 0;
        let used = self.hosts.iter().take(MOST_HOSTS).filter(|counts| is_used(counts)).count();
        out.u16(used as u16);
        for (index, counts) in self.hosts.iter().take(MOST_HOSTS).enumerate().filter(|(_, counts)| is_used(counts)) {
            out.u16(index as u16);
            out.u32(counts.id);
            counts.current.write(out);
            counts.last.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let mut slot = HostSlot { interval: input.u64()?, hosts: Vec::new() };
        for _ in 0..input.u16()? {
            let index = usize::from(input.u16()?);
            // There is one form of it.
            if index >= MOST_HOSTS || index < slot.hosts.len() {
                return None;
            }
            slot.hosts.resize(index + 1, Counts::default());
            let counts = slot.hosts.get_mut(index)?;
            *counts = Counts { id: input.u32()?, current: HostTally::read(input)?, last: HostTally::read(input)? };
            if counts.current.total == 0 && counts.last.total == 0 {
                return None;
            }
        }
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const HOST: HostId = HostId { index: 2, id: 7 };
    const MS: Duration = Duration::from_millis(1);

    fn total(slot: &HostSlot, interval: u64) -> u32 {
        slot.tallies(interval).map(|(_, tally)| tally.total).sum()
    }

    #[test]
    fn this_interval_and_the_one_before_are_kept_apart() {
        let mut slot = HostSlot::default();
        slot.record(HOST, true, MS, 10);
        slot.record(HOST, false, MS, 11);
        slot.record(HOST, false, MS, 11);
        assert_eq!((total(&slot, 10), total(&slot, 11), total(&slot, 12)), (1, 2, 0));
        slot.record(HOST, false, MS, 13);
        assert_eq!((total(&slot, 11), total(&slot, 12), total(&slot, 13)), (0, 0, 1), "a silent interval is between");
        slot.record(HOST, false, MS, 3);
        assert_eq!((total(&slot, 13), total(&slot, 3)), (0, 1), "the clock was put back");
    }

    #[test]
    fn the_next_host_at_a_place_begins_at_nothing() {
        let mut slot = HostSlot::default();
        slot.record(HOST, true, MS, 10);
        let next = HostId { id: 8, ..HOST };
        slot.record(next, false, MS, 10);
        let tally = HostTally { total: 1, failures: 0, took: 1000 };
        assert_eq!(slot.tallies(10).collect::<Vec<_>>(), [(next, tally)]);
    }

    #[test]
    fn what_one_worker_writes_another_reads() {
        let mut slot = HostSlot::default();
        slot.record(HOST, true, MS, 10);
        slot.record(HostId { index: 5, id: 1 }, false, MS, 11);
        let read = HostSlot::decode(&slot.encode(7), 7).unwrap();
        for interval in 9..13 {
            let (read, slot): (Vec<_>, Vec<_>) = (read.tallies(interval).collect(), slot.tallies(interval).collect());
            assert_eq!(read, slot);
        }
        let bytes = slot.encode(7);
        for len in 0..bytes.len() {
            assert_eq!(HostSlot::decode(&bytes[..len], 7), None, "cut at {len}");
        }
    }
}
