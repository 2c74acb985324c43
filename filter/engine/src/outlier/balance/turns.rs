//! Each host in turn by its weight.
//!
//! Earliest deadline first: a host's next turn is due the longer after its last one the smaller its weight is. Every host has exactly
//! its share, spread evenly, and a turn costs the logarithm of their number. Source: Envoy, `source/common/upstream/edf_scheduler.h`.
//! Workers begin at moments of their own, which they draw: no two go in step.

use core::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Candidate;
use crate::base::random::Random;
use crate::outlier::table::{FULL_SHARE, HostId};

/// A host's next turn. The greatest is the one that is due first.
#[derive(Debug, Clone, Copy)]
struct Turn {
    of: Candidate,
    due: f64,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.total_cmp(&self.due).then_with(|| other.of.host.cmp(&self.of.host))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

/// A worker's turns of hosts.
#[derive(Debug, Default)]
pub struct Turns(BinaryHeap<Turn>);

impl Turns {
    /// Those of these hosts.
    pub fn new(hosts: Vec<Candidate>, random: &mut Random) -> Self {
        let first = |of: Candidate| Turn { of, due: between_turns(of, FULL_SHARE) * fraction(random.next()) };
        Turns(hosts.into_iter().map(first).collect())
    }

    /// The host whose turn it is, and those that are due after it: at most so many. `share` is how much of its weight a host has now, in
    /// thousandths.
    pub fn next(&mut self, wanted: usize, share: impl Fn(HostId) -> u32) -> Vec<HostId> {
        let turns: Vec<Turn> = core::iter::from_fn(|| self.0.pop()).take(wanted).collect();
        let named = turns.iter().map(|turn| turn.of.host).collect();
        for (place, mut turn) in turns.into_iter().enumerate() {
            if place == 0 {
                turn.due += between_turns(turn.of, share(turn.of.host));
            }
            self.0.push(turn);
        }
        named
    }
}

/// The time between two turns of a host that has so many thousandths of its weight.
fn between_turns(of: Candidate, share: u32) -> f64 {
    f64::from(FULL_SHARE) / (f64::from(of.weight.max(1)) * f64::from(share.max(1)))
}

/// A number that is uniform over all `u64` as one in [0, 1).
fn fraction(random: u64) -> f64 {
    (random >> 12) as f64 / (1_u64 << 52) as f64
}
