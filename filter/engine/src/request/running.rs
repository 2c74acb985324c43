//! Probes whose responses last: a stream that has begun well and has run for the lease is a success to its permit and to its host,
//! whatever it ends with later.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::{Rc, Weak};

use super::active::ActivePolicy;
use crate::base::time::Timestamp;
use crate::breaker::key::Permit;
use crate::store::cluster::ClusterHash;
use crate::store::keys::Key;

/// A probe whose response has begun well and goes on.
pub struct RunningProbe {
    /// The policy that governs it.
    pub active: Rc<ActivePolicy>,
    /// Its key.
    pub key: Key,
    /// Its cluster, where the key does not tell it.
    pub cluster: ClusterHash,
    /// What it holds.
    pub permit: Cell<Permit>,
    /// The host, where that is out and this seat judges it.
    pub host: Option<MetHost>,
    /// Since when it counts for its host, once it has been a success.
    pub host_since: Cell<Option<Timestamp>>,
}

/// A host that is out and has sent the headers of a response.
pub struct MetHost {
    /// Its address.
    pub address: Vec<u8>,
    /// When the request was sent.
    pub sent: Timestamp,
    /// How long the headers took.
    pub took: Duration,
}

/// One of them, until its time comes.
struct Waiting {
    /// Gone when the stream is.
    probe: Weak<RunningProbe>,
    due: Timestamp,
    lease: Duration,
}

impl Waiting {
    fn is_there(&self) -> bool {
        self.probe.strong_count() > 0
    }
}

/// All of a plugin.
#[derive(Default)]
pub struct RunningProbes(RefCell<Vec<Waiting>>);

impl RunningProbes {
    /// Has a probe that was sent then taken as a success when it has run for the lease.
    pub fn add(&self, probe: &Rc<RunningProbe>, sent: Timestamp, lease: Duration) {
        if let Ok(mut all) = self.0.try_borrow_mut() {
            all.retain(Waiting::is_there);
            all.push(Waiting { probe: Rc::downgrade(probe), due: sent.plus(lease), lease });
        }
    }

    /// Whether there are any. Costs nothing.
    pub fn are_any(&self) -> bool {
        self.0.try_borrow().is_ok_and(|all| all.iter().any(Waiting::is_there))
    }

    /// Takes those out that have run for the lease.
    pub fn take_due(&self, now: Timestamp) -> Vec<Rc<RunningProbe>> {
        let Ok(mut all) = self.0.try_borrow_mut() else { return Vec::new() };
        let due = all.extract_if(.., |waiting| waiting.due.left(now, waiting.lease).is_none());
        due.filter_map(|waiting| waiting.probe.upgrade()).collect()
    }

    /// How soon the next one has run for the lease; `None` if there is none.
    pub fn due_within(&self, now: Timestamp) -> Option<Duration> {
        let all = self.0.try_borrow().ok()?;
        let running = all.iter().filter(|waiting| waiting.is_there());
        running.map(|waiting| waiting.due.left(now, waiting.lease).unwrap_or_default()).min()
    }
}
