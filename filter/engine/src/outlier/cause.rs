//! Why a host is ejected, with the numbers.

use core::time::Duration;

use crate::base::time::nanos;
use crate::http::attempt::End;
use crate::store::record::{Reader, Writer};
use holdfast_policy::document::Detector;

/// What a detector has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EjectionCause {
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
        /// The last answer, if there was one: an HTTP status, or a [`GrpcHealth::code`](super::grpc_health::GrpcHealth::code).
        last: Option<u16>,
    },
}

impl EjectionCause {
    /// The detector that has found it.
    pub const fn detector(&self) -> Detector {
        match self {
            EjectionCause::Run { detector, .. } => *detector,
            EjectionCause::FailureRate { .. } => Detector::FailureRate,
            EjectionCause::SuccessRate { .. } => Detector::SuccessRate,
            EjectionCause::Latency { .. } => Detector::Latency,
            EjectionCause::Heartbeat { .. } => Detector::Heartbeat,
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(self.detector() as u8);
        match self {
            EjectionCause::Run { length, last, .. } => {
                out.u16(*length);
                out.end(*last);
            }
            EjectionCause::FailureRate { failures, total } => {
                out.u32(*failures);
                out.u32(*total);
            }
            EjectionCause::SuccessRate { share, mean, stdev, hosts } => {
                out.u32(*share);
                out.u32(*mean);
                out.u32(*stdev);
                out.u16(*hosts);
            }
            EjectionCause::Latency { own, peers, hosts } => {
                out.u64(nanos(*own));
                out.u64(nanos(*peers));
                out.u16(*hosts);
            }
            EjectionCause::Heartbeat { failures, last } => {
                out.u16(*failures);
                out.u16(last.unwrap_or(0));
            }
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(match Detector::from_number(input.u8()?)? {
            Detector::FailureRate => EjectionCause::FailureRate { failures: input.u32()?, total: input.u32()? },
            Detector::SuccessRate => EjectionCause::SuccessRate {
                share: input.u32()?,
                mean: input.u32()?,
                stdev: input.u32()?,
                hosts: input.u16()?,
            },
            Detector::Latency => EjectionCause::Latency {
                own: Duration::from_nanos(input.u64()?),
                peers: Duration::from_nanos(input.u64()?),
                hosts: input.u16()?,
            },
            Detector::Heartbeat => EjectionCause::Heartbeat {
                failures: input.u16()?,
                last: Some(input.u16()?).filter(|status| *status > 0),
            },
            detector => EjectionCause::Run { detector, length: input.u16()?, last: input.end()? },
        })
    }
}
