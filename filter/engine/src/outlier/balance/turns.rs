//! Each host in turn by its weight.
//!
//! Earliest deadline first: a host's next turn is due the longer after its last one the smaller its weight is. Every host has exactly
//! its share, spread evenly, and a turn costs the logarithm of their number. Source: Envoy, `source/common/upstream/edf_scheduler.h`.
//! Workers begin at moments of their own, which they draw: no two go in step.

use core::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Candidate;
use crate::base::random::{Random, fraction};
use crate::outlier::table::{FULL_SHARE, HostId};

/// A host's next turn. The greatest is the one that is due first.
#[derive(Debug, Clone, Copy)]
struct Turn {
    of: Candidate,
    due: f64,
    /// What it has of a turn, in thousandths, where it does not take each one.
    part: u32,
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
        let mut first = |of: Candidate| Turn {
            of,
            due: between_turns(of) * fraction(random.next()),
            part: random.below(FULL_SHARE.into()) as u32,
        };
        Turns(hosts.into_iter().map(&mut first).collect())
    }

    /// The host whose turn it is, and those that are due after it: at most so many. `share` is how much of its weight a host has now, in
    /// thousandths, at least a tenth: of its turns it takes such a part.
    pub fn next(&mut self, wanted: usize, share: impl Fn(HostId) -> u32) -> Vec<HostId> {
        let Some(first) = self.take(share).filter(|_| wanted > 0) else { return Vec::new() };
        let others: Vec<Turn> = core::iter::from_fn(|| self.0.pop()).take(wanted.saturating_sub(1)).collect();
        let named = core::iter::once(&first).chain(&others).map(|turn| turn.of.host).collect();
        self.0.extend(others);
        self.0.push(first);
        named
    }

    /// Takes the next turn out, due when it has the next one.
    fn take(&mut self, share: impl Fn(HostId) -> u32) -> Option<Turn> {
        loop {
            let mut turn = self.0.pop()?;
            turn.due += between_turns(turn.of);
            turn.part += share(turn.of.host).clamp(FULL_SHARE / 10, FULL_SHARE);
            if turn.part >= FULL_SHARE {
                turn.part -= FULL_SHARE;
                return Some(turn);
            }
            self.0.push(turn);
        }
    }
}

/// The time between two turns of a host.
fn between_turns(of: Candidate) -> f64 {
    1.0 / f64::from(of.weight.max(1))
}
