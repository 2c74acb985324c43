//! Why a host is ejected, with the numbers.

use core::time::Duration;

use crate::base::time::nanos;
use crate::http::attempt::End;
use crate::store::record::{Reader, Writer};
use holdfast_policy::document::Detector;

/// What a detector has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// So many failures in a row.
    Run {
        /// Which kind of failures.
        detector: Detector,
        /// How many.
        length: u16,
        /// How the last of them ended.
        last: End,
    },
    /// So many failures in an interval.
    FailureRate {
        /// Failures.
        failures: u32,
        /// All outcomes.
        total: u32,
    },
    /// A share of successes far below that of the others; shares are in thousandths of a percent.
    SuccessRate {
        /// The host's share.
        share: u32,
        /// The mean of all shares.
        mean: u32,
        /// Their standard deviation.
        stdev: u32,
        /// How many there are.
        hosts: u16,
    },
    /// Answers far slower than those of the others.
    Latency {
        /// The host's mean.
        own: Duration,
        /// The mean of the others' means.
        peers: Duration,
        /// How many others there are.
        hosts: u16,
    },
    /// So many checks of ours failed in a row.
    Heartbeat {
        /// How many.
        failures: u16,
        /// The last answer's status, if there was an answer.
        last: Option<u16>,
    },
}

impl Cause {
    /// The detector that has found it.
    pub const fn detector(&self) -> Detector {
        match self {
            Cause::Run { detector, .. } => *detector,
            Cause::FailureRate { .. } => Detector::FailureRate,
            Cause::SuccessRate { .. } => Detector::SuccessRate,
            Cause::Latency { .. } => Detector::Latency,
            Cause::Heartbeat { .. } => Detector::Heartbeat,
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(self.detector() as u8);
        match self {
            Cause::Run { length, last, .. } => {
                out.u16(*length);
                out.end(*last);
            }
            Cause::FailureRate { failures, total } => {
                out.u32(*failures);
                out.u32(*total);
            }
            Cause::SuccessRate { share, mean, stdev, hosts } => {
                out.u32(*share);
                out.u32(*mean);
                out.u32(*stdev);
                out.u16(*hosts);
            }
            Cause::Latency { own, peers, hosts } => {
                out.u64(nanos(*own));
                out.u64(nanos(*peers));
                out.u16(*hosts);
            }
            Cause::Heartbeat { failures, last } => {
                out.u16(*failures);
                out.u16(last.unwrap_or(0));
            }
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(match Detector::from_number(input.u8()?)? {
            Detector::FailureRate => Cause::FailureRate { failures: input.u32()?, total: input.u32()? },
            Detector::SuccessRate => {
                Cause::SuccessRate { share: input.u32()?, mean: input.u32()?, stdev: input.u32()?, hosts: input.u16()? }
            }
            Detector::Latency => Cause::Latency {
                own: Duration::from_nanos(input.u64()?),
                peers: Duration::from_nanos(input.u64()?),
                hosts: input.u16()?,
            },
            Detector::Heartbeat => {
                Cause::Heartbeat { failures: input.u16()?, last: Some(input.u16()?).filter(|status| *status > 0) }
            }
            detector => Cause::Run { detector, length: input.u16()?, last: input.end()? },
        })
    }
}
