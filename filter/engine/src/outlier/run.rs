//! A host's run of failures over all workers.
//!
//! A failure adds to it by a swap, a success of any worker ends it by one. So that a success knows whether there is anything to
//! end, each change raises a signal of its own ([`Store::raise_runs`](crate::store::Store::raise_runs)); while that stands
//! still successes do nothing.

use super::table::HostId;
use crate::http::attempt::End;
use crate::store::record::{Kind, Reader, Record, Writer};

/// A run of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostRun {
    /// Whose it is; another host may have had the place before.
    pub id: u32,
    /// Failures of any kind.
    pub failures: u16,
    /// Gateway failures.
    pub gateway: u16,
    /// No answers.
    pub local: u16,
}

/// Whether a failure is one that a gateway gives: 502, 503, 504, their gRPC kin, or no answer.
/// Source: Envoy, "Consecutive gateway failure", and its `grpcToHttpStatus`: DEADLINE_EXCEEDED is 504, UNAVAILABLE 503.
pub fn is_gateway_failure(end: End) -> bool {
    match end {
        End::Http(status) => (502..=504).contains(&status),
        End::Grpc(status) => matches!(status, 4 | 14),
        _ => is_local_failure(end),
    }
}

/// Whether there was no answer, or no whole one.
pub fn is_local_failure(end: End) -> bool {
    matches!(end, End::ConnectFailure | End::Reset | End::TimedOut | End::Broken)
}

impl HostRun {
    /// The run of this host: `old` if it is its own.
    pub fn of(host: HostId, old: Option<&HostRun>) -> HostRun {
        old.copied().filter(|run| run.id == host.id).unwrap_or(HostRun { id: host.id, ..HostRun::default() })
    }

    /// Whether there is no failure in it.
    pub fn is_empty(&self) -> bool {
        self.failures == 0 && self.gateway == 0 && self.local == 0
    }

    /// Adds a failure. A kind of run ends with a failure of another kind.
    pub fn fail(&mut self, end: End) {
        let next = |run: u16, goes_on: bool| if goes_on { run.saturating_add(1) } else { 0 };
        self.failures = next(self.failures, true);
        self.gateway = next(self.gateway, is_gateway_failure(end));
        self.local = next(self.local, is_local_failure(end));
    }
}

impl Record for HostRun {
    const KIND: Kind = Kind::HostRun;

    fn size(&self) -> usize {
        10
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.id);
        out.u16(self.failures);
        out.u16(self.gateway);
        out.u16(self.local);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(HostRun { id: input.u32()?, failures: input.u16()?, gateway: input.u16()?, local: input.u16()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_failure_of_another_kind_ends_the_narrower_runs_only() {
        let mut run = HostRun::default();
        for end in [End::Reset, End::Http(503), End::Grpc(14)] {
            run.fail(end);
        }
        assert_eq!((run.failures, run.gateway, run.local), (3, 3, 0));
        run.fail(End::Http(500));
        assert_eq!((run.failures, run.gateway, run.local), (4, 0, 0));
    }

    #[test]
    fn a_run_of_the_host_before_counts_for_nothing() {
        let old = HostRun { id: 1, failures: 4, gateway: 0, local: 0 };
        assert!(HostRun::of(HostId { index: 0, id: 2 }, Some(&old)).is_empty());
        assert_eq!(HostRun::of(HostId { index: 0, id: 1 }, Some(&old)).failures, 4);
    }
}
