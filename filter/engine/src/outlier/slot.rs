//! What one worker has counted for the hosts of one group in this interval and the one before. Only that worker writes it.
//!
//! Intervals are aligned to the clock, so that those of all workers mean the same time and can be added.

use core::time::Duration;

use super::table::{HostId, MOST_HOSTS};
use super::times::Times;
use crate::store::record::{Kind, Reader, Record, Writer};

/// One host's counts in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HostTally {
    /// Successes and failures that were looked at; where no detector counts all of them, some.
    pub total: u32,
    /// Failures among them.
    pub failures: u32,
    /// Attempts whose clients left after `slow_after`. They count for the host's times, and for nothing else.
    pub abandoned: u32,
    /// How long the successes and the abandoned ones took, where hosts are judged by it. A failure may be quick or slow for reasons of
    /// its own.
    pub times: Times,
    /// Attempts at whose response headers the host was met; they count otherwise when they end.
    pub met: u32,
}

impl HostTally {
    /// Adds another tally.
    pub fn add(&mut self, other: HostTally) {
        self.total = self.total.saturating_add(other.total);
        self.failures = self.failures.saturating_add(other.failures);
        self.abandoned = self.abandoned.saturating_add(other.abandoned);
        self.times.add(other.times);
        self.met = self.met.saturating_add(other.met);
    }

    /// How often the host was seen.
    pub fn seen(&self) -> u32 {
        self.total.saturating_add(self.abandoned).max(self.met)
    }

    /// Successes.
    pub fn successes(&self) -> u32 {
        self.total.saturating_sub(self.failures)
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.total);
        out.u32(self.failures);
        out.u32(self.abandoned);
        out.u32(self.met);
        let is_timed = self.times != Times::default();
        out.u8(is_timed.into());
        if is_timed {
            self.times.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let tally = HostTally {
            total: input.u32()?,
            failures: input.u32()?,
            abandoned: input.u32()?,
            met: input.u32()?,
            times: if input.flag()? { Times::read(input)? } else { Times::default() },
        };
        (tally.failures <= tally.total).then_some(tally)
    }
}

/// One host's counts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Counts {
    id: u32,
    current: HostTally,
    last: HostTally,
}

/// One worker's counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostSlot {
    /// The number of the current interval.
    interval: u64,
    /// By place.
    hosts: Vec<Counts>,
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

    /// Counts an attempt that ended in this interval, with its time where hosts are judged by it.
    pub fn record(&mut self, host: HostId, failed: bool, took: Option<Duration>, interval: u64) {
        let times = took.filter(|_| !failed).map(Times::of).unwrap_or_default();
        self.add(host, HostTally { total: 1, failures: failed.into(), times, ..HostTally::default() }, interval);
    }

    /// Counts an attempt whose client left after so long, which is slow.
    pub fn record_abandoned(&mut self, host: HostId, took: Option<Duration>, interval: u64) {
        let times = took.map(Times::of).unwrap_or_default();
        self.add(host, HostTally { abandoned: 1, times, ..HostTally::default() }, interval);
    }

    /// Counts a host that was met at the headers of a response.
    pub fn record_met(&mut self, host: HostId, interval: u64) {
        self.add(host, HostTally { met: 1, ..HostTally::default() }, interval);
    }

    fn add(&mut self, host: HostId, tally: HostTally, interval: u64) {
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
        counts.current.add(tally);
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
        hosts.filter(|(_, tally)| tally.seen() > 0)
    }
}

impl Record for HostSlot {
    const KIND: Kind = Kind::HostSlot;

    fn size(&self) -> usize {
        16 + self.hosts.len() * (42 + 2 * Times::SIZE)
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.interval);
        let is_used = |counts: &Counts| counts.current.seen() > 0 || counts.last.seen() > 0;
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
            if counts.current.seen() == 0 && counts.last.seen() == 0 {
                return None;
            }
        }
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::Mark;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const HOST: HostId = HostId { index: 2, id: 7 };
    const MS: Option<Duration> = Some(Duration::from_millis(1));

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
    fn times_are_those_of_successes_and_of_those_whose_clients_left() {
        let mut slot = HostSlot::default();
        slot.record(HOST, true, Some(Duration::from_secs(9)), 10);
        slot.record(HOST, false, Some(Duration::from_millis(1)), 10);
        slot.record_abandoned(HOST, Some(Duration::from_millis(3)), 10);
        let (_, tally) = slot.tallies(10).next().unwrap();
        assert_eq!((tally.times.count(), tally.times.mean()), (2, Duration::from_millis(2)));
    }

    #[test]
    fn the_next_host_at_a_place_begins_at_nothing() {
        let mut slot = HostSlot::default();
        slot.record(HOST, true, MS, 10);
        let next = HostId { id: 8, ..HOST };
        slot.record(next, false, MS, 10);
        let tally = HostTally { total: 1, times: Times::of(Duration::from_millis(1)), ..HostTally::default() };
        assert_eq!(slot.tallies(10).collect::<Vec<_>>(), [(next, tally)]);
    }

    #[test]
    fn what_one_worker_writes_another_reads() {
        let mut slot = HostSlot::default();
        slot.record(HOST, true, MS, 10);
        slot.record(HostId { index: 5, id: 1 }, false, MS, 11);
        slot.record_abandoned(HostId { index: 9, id: 2 }, None, 11);
        let read = HostSlot::decode(&slot.encode(Mark { block: 7, key: 0 }), Mark { block: 7, key: 0 }).unwrap();
        for interval in 9..13 {
            let (read, slot): (Vec<_>, Vec<_>) = (read.tallies(interval).collect(), slot.tallies(interval).collect());
            assert_eq!(read, slot);
        }
        let bytes = slot.encode(Mark { block: 7, key: 0 });
        for len in 0..bytes.len() {
            assert_eq!(HostSlot::decode(&bytes[..len], Mark { block: 7, key: 0 }), None, "cut at {len}");
        }
    }
}
