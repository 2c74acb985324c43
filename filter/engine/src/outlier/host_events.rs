//! What has happened to hosts and has not been told to the operator yet.
//!
//! It is noted in the table by the same swap that makes it happen, by any seat; one request seat takes it out, again by a
//! swap, and tells it: exactly once over all workers, and under the request seat's names of metrics.

use core::time::Duration;

use super::cause::EjectionCause;
use crate::base::time::nanos;
use crate::http::attempt::End;
use crate::store::record::{Reader, Writer};
use holdfast_policy::document::Detector;

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCount {
    /// A detector found a host, whatever came of it.
    Detected(Detector),
    /// It was ejected for that.
    Ejected(Detector),
    /// It would have been, but the detector only pretends.
    Would(Detector),
    /// It was not, because too many were out.
    Overflow,
    /// A host is back.
    Readmitted,
    /// A probe failed.
    ProbeFailed,
}

/// How many kinds of [`HostCount`] there are.
const KINDS: usize = 3 * Detector::COUNT + 3;

impl HostCount {
    /// All, by number.
    pub fn all() -> impl Iterator<Item = HostCount> {
        let of = |kind: fn(Detector) -> HostCount| Detector::ALL.into_iter().map(kind);
        of(HostCount::Detected).chain(of(HostCount::Ejected)).chain(of(HostCount::Would)).chain([
            HostCount::Overflow,
            HostCount::Readmitted,
            HostCount::ProbeFailed,
        ])
    }

    fn number(self) -> usize {
        match self {
            HostCount::Detected(detector) => detector as usize,
            HostCount::Ejected(detector) => Detector::COUNT + detector as usize,
            HostCount::Would(detector) => 2 * Detector::COUNT + detector as usize,
            HostCount::Overflow => 3 * Detector::COUNT,
            HostCount::Readmitted => 3 * Detector::COUNT + 1,
            HostCount::ProbeFailed => 3 * Detector::COUNT + 2,
        }
    }
}

/// Something that happened to a host, to be told in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEvent {
    /// The host's address.
    pub host: Vec<u8>,
    /// What happened.
    pub kind: HostEventKind,
    /// How many hosts are out after it.
    pub out: u16,
    /// How many there are.
    pub of: u16,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostEventKind {
    /// It was ejected for so long; without end if only a heartbeat lets it back.
    Ejected(EjectionCause, Duration),
    /// It would have been ejected.
    WouldEject(EjectionCause),
    /// It was not ejected: too many are out.
    Overflow(EjectionCause),
    /// Its probe failed, and it is out for so long more.
    ProbeFailed {
        /// How the probe ended.
        end: End,
        /// How long it is out now.
        lasts: Duration,
        /// How often it has been ejected lately.
        ejections: u16,
    },
    /// It is back.
    Readmitted {
        /// After so long.
        after: Duration,
        /// Because it is not slow any more.
        by_trial: bool,
    },
    /// The times of its probes are still slow.
    StillSlow {
        /// Their mean.
        mean: Duration,
        /// How long it is out now.
        lasts: Duration,
    },
    /// There are more hosts than the table holds.
    Full,
    /// The hosts that were out under the policy as it was before are out under the changed one. The first of them may be probed
    /// in so long.
    TakenOver(Duration),
    /// Requests are not steered: the cluster may have subsets, and their routes have no names to tell them apart.
    RouteUnnamed,
    /// Requests do not go to the hosts that are named to them.
    Unfollowed,
    /// The host has no IP address and port by which it could be told from others and named.
    Unaddressed,
}

/// The most happenings that wait to be told; what comes beyond them is only counted.
const MOST: usize = 64;

/// What has not been told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEvents {
    counts: [u32; KINDS],
    /// In their order.
    pub list: Vec<HostEvent>,
    /// How many more there were.
    pub left_out: u32,
}

impl Default for HostEvents {
    fn default() -> Self {
        HostEvents { counts: [0; KINDS], list: Vec::new(), left_out: 0 }
    }
}

impl HostEvents {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.left_out == 0 && self.counts.iter().all(|count| *count == 0)
    }

    /// Counts something so many times.
    pub fn count(&mut self, counted: HostCount, times: u32) {
        if let Some(count) = self.counts.get_mut(counted.number()) {
            *count = count.saturating_add(times);
        }
    }

    /// What was counted, and how often.
    pub fn counts(&self) -> impl Iterator<Item = (HostCount, u32)> {
        HostCount::all().zip(self.counts).filter(|(_, count)| *count > 0)
    }

    /// Notes a happening.
    pub fn note(&mut self, event: HostEvent) {
        if self.list.len() < MOST {
            self.list.push(event);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        let counted = self.counts.iter().filter(|count| **count > 0).count();
        out.u8(counted as u8);
        for (number, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            out.u8(number as u8);
            out.u32(*count);
        }
        out.u32(self.left_out);
        out.u8(self.list.len().min(MOST) as u8);
        for event in self.list.iter().take(MOST) {
            out.bytes(&event.host);
            event.kind.write(out);
            out.u16(event.out);
            out.u16(event.of);
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Option<Self> {
        let mut events = HostEvents::default();
        let mut least = 0;
        for _ in 0..input.u8()? {
            let (number, times) = (usize::from(input.u8()?), input.u32()?);
            // There is one form of it.
            if number < least || times == 0 {
                return None;
            }
            least = number + 1;
            *events.counts.get_mut(number)? = times;
        }
        events.left_out = input.u32()?;
        let list = usize::from(input.u8()?);
        if list > MOST {
            return None;
        }
        for _ in 0..list {
            events.list.push(HostEvent {
                host: input.bytes()?.to_owned(),
                kind: HostEventKind::read(input)?,
                out: input.u16()?,
                of: input.u16()?,
            });
        }
        Some(events)
    }
}

impl HostEventKind {
    fn write(&self, out: &mut Writer) {
        match self {
            HostEventKind::Ejected(cause, lasts) => {
                out.u8(0);
                cause.write(out);
                out.u64(nanos(*lasts));
            }
            HostEventKind::WouldEject(cause) => {
                out.u8(1);
                cause.write(out);
            }
            HostEventKind::Overflow(cause) => {
                out.u8(2);
                cause.write(out);
            }
            HostEventKind::ProbeFailed { end, lasts, ejections } => {
                out.u8(3);
                out.end(*end);
                out.u64(nanos(*lasts));
                out.u16(*ejections);
            }
            HostEventKind::Readmitted { after, by_trial } => {
                out.u8(4);
                out.u64(nanos(*after));
                out.u8((*by_trial).into());
            }
            HostEventKind::Full => out.u8(5),
            HostEventKind::TakenOver(left) => {
                out.u8(6);
                out.u64(nanos(*left));
            }
            HostEventKind::RouteUnnamed => out.u8(7),
            HostEventKind::Unfollowed => out.u8(8),
            HostEventKind::Unaddressed => out.u8(9),
            HostEventKind::StillSlow { mean, lasts } => {
                out.u8(10);
                out.u64(nanos(*mean));
                out.u64(nanos(*lasts));
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(match input.u8()? {
            0 => HostEventKind::Ejected(EjectionCause::read(input)?, Duration::from_nanos(input.u64()?)),
            1 => HostEventKind::WouldEject(EjectionCause::read(input)?),
            2 => HostEventKind::Overflow(EjectionCause::read(input)?),
            3 => HostEventKind::ProbeFailed {
                end: input.end()?,
                lasts: Duration::from_nanos(input.u64()?),
                ejections: input.u16()?,
            },
            4 => HostEventKind::Readmitted { after: Duration::from_nanos(input.u64()?), by_trial: input.flag()? },
            5 => HostEventKind::Full,
            6 => HostEventKind::TakenOver(Duration::from_nanos(input.u64()?)),
            7 => HostEventKind::RouteUnnamed,
            8 => HostEventKind::Unfollowed,
            9 => HostEventKind::Unaddressed,
            10 => HostEventKind::StillSlow {
                mean: Duration::from_nanos(input.u64()?),
                lasts: Duration::from_nanos(input.u64()?),
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_kind_has_its_own_number() {
        for (number, counted) in HostCount::all().enumerate() {
            assert_eq!(counted.number(), number);
        }
        assert_eq!(HostCount::all().count(), KINDS);
    }

    #[test]
    fn beyond_the_most_there_is_a_count_and_no_growth() {
        let mut events = HostEvents::default();
        for _ in 0..100 {
            events.note(HostEvent { host: b"10.0.0.1:80".to_vec(), kind: HostEventKind::Full, out: 0, of: 1 });
        }
        assert_eq!((events.list.len(), events.left_out), (MOST, 36));
    }
}
