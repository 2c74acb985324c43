//! What goes wrong, on demand.

use crate::host::Host;
use crate::seat::Seat;
use crate::status;
use crate::thread::Thread;

/// A host call that is about to take effect.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The thread whose VM makes it.
    pub thread: Thread,
    /// The seat whose VM makes it.
    pub seat: Seat,
    /// Its name, without `proxy_`.
    pub name: &'static str,
    /// What it is about: the key of shared data, the name of the metric, header or property, the log line, the cluster of a
    /// call.
    pub subject: &'a str,
    /// The token of a write of shared data; 0 is an unconditional one.
    pub token: Option<u32>,
    /// How many bytes it would write to shared data; 0 for any other call.
    pub writes_bytes: usize,
    /// How many host calls this VM had made before this one.
    pub before: u64,
}

impl Call<'_> {
    /// This status in its place, if Envoy may refuse it so.
    pub fn refused_with(&self, status: u32) -> Option<Fault> {
        // The SDK makes it for each answer to a call, and Envoy tells none to a context that is gone.
        let is_before_an_answer = self.name == "set_effective_context" && self.seat == Seat::Request;
        (status::refusals(self.name).contains(&status) && !is_before_an_answer).then_some(Fault::Status(status))
    }

    /// A status in its place by which Envoy may refuse it, if it ever does.
    pub fn refused(&self) -> Option<Fault> {
        let refusals = status::refusals(self.name);
        let first =
            refusals.contains(&status::INTERNAL_FAILURE).then_some(&status::INTERNAL_FAILURE).or(refusals.first());
        self.refused_with(*first?)
    }

    /// Whether this is the raise of the change signal.
    pub fn is_signal(&self) -> bool {
        self.name == "increment_metric" && self.subject == holdfast_engine::observe::metrics::EPOCH
    }

    /// Whether this is a compare-and-swap of shared data under a key with this in it.
    pub fn swaps(&self, key: &str) -> bool {
        self.writes(key) && self.token != Some(0)
    }

    /// Whether this is a write of shared data under a key with this in it.
    pub fn writes(&self, key: &str) -> bool {
        self.name == "set_shared_data" && self.subject.contains(key)
    }
}

/// What happens instead of a host call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has no effect and returns this status.
    Status(u32),
    /// It has no effect and the VM dies at it.
    Trap,
}

pub(crate) type Rule = Box<dyn FnMut(&Host, &Call<'_>) -> Option<Fault>>;
