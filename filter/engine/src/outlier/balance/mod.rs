//! Which of several hosts a request goes to, and which ones its further attempts go to.

mod draws;
pub mod load;
mod peak_ewma;
mod rendezvous;
mod turns;

pub use draws::{Draws, Preference};
pub use rendezvous::{Rendezvous, pick};
pub use turns::Turns;

use super::table::HostId;

/// A host and how much of the load it has at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The host.
    pub host: HostId,
    /// Its weight beside the others'; at least 1.
    pub weight: u32,
}
