//! The host's shared data as the policies' store.

use holdfast_engine::observe::metrics;
use holdfast_engine::store::{Conflict, Expected, Store, Version};
use proxy_wasm::types::MetricType;

use crate::{host, hostcalls};

/// No key ever has this version, so expecting it succeeds only where the key was never written. (Expecting none, 0,
/// would overwrite; and a key that was never written accepts any version.)
const NEVER: u32 = u32::MAX;

/// Shared data, with gauges as its change signals. Each callback works with a copy of its own.
#[derive(Debug, Clone, Copy)]
pub struct SharedData {
    epoch: Option<u32>,
    runs: Option<u32>,
    /// The epoch as this callback has read it. What is read of the data after that is as new or newer.
    seen: Option<u64>,
}

impl SharedData {
    /// Opens shared data and checks whether the gauges count; a stats matcher can drop one, and it then reads 0 for ever.
    ///
    /// Before Envoy 1.39 an upstream filter's gauge is another one than the same gauge of the listener's filters: what the
    /// attempt seats signal reaches the request seats with the requests that failed.
    pub fn open() -> Self {
        let counts = |id: &u32| {
            hostcalls::increment_metric(*id, 1).is_ok() && hostcalls::metric(*id).is_ok_and(|value| value > 0)
        };
        let open = |name| hostcalls::define_metric(MetricType::Gauge, name).ok().filter(counts);
        SharedData { epoch: open(metrics::EPOCH), runs: open(metrics::RUNS), seen: None }
    }

    /// Whether changes are signalled; otherwise views are refreshed by time.
    pub fn is_signalled(&self) -> bool {
        self.epoch.is_some()
    }
}

impl Store for SharedData {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, Version)> {
        hostcalls::shared_data(key).map(|(bytes, version)| (bytes, Version(version)))
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        // A refused write is made good by the next one: a slot is written whole each time.
        let _ = hostcalls::set_shared_data(key, value, 0);
    }

    fn swap(&mut self, key: &str, value: &[u8], expected: Expected) -> Result<(), Conflict> {
        let version = match expected {
            Expected::Absent => NEVER,
            // 0 would overwrite unconditionally.
            Expected::Version(Version(0)) => return Err(Conflict),
            Expected::Version(Version(version)) => version,
        };
        match hostcalls::set_shared_data(key, value, version) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Conflict),
        }
    }

    fn epoch(&mut self) -> Option<u64> {
        if self.seen.is_none() {
            self.seen = self.epoch.and_then(|id| hostcalls::metric(id).ok());
        }
        self.seen
    }

    fn refresh(&mut self) {
        self.seen = None;
    }

    fn raise_epoch(&mut self) {
        self.seen = None;
        if let Some(id) = self.epoch {
            let _ = hostcalls::increment_metric(id, 1);
        }
    }

    fn runs(&mut self) -> Option<u64> {
        self.runs.and_then(|id| hostcalls::metric(id).ok())
    }

    fn raise_runs(&mut self) {
        if let Some(id) = self.runs {
            let _ = hostcalls::increment_metric(id, 1);
        }
    }

    fn note_contention(&mut self) {
        host::note_contention();
    }
}
