//! The host that a value belongs to.
//!
//! Rendezvous hashing: each host has a score for the value, and the highest one wins, so that a host that comes or goes moves the
//! values that are or become its own and no others. Source: Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit
//! Rates", 1998. By weight: with u uniform in (0, 1) from the hash of value and host the score is weight / -ln u. Source: Schindelhauer,
//! Schomaker, "Weighted Distributed Hash Tables", 2005.

use super::Candidate;
use crate::base::fingerprint::of_text;
use crate::base::random::Random;
use crate::outlier::table::{FULL_SHARE, HostId};

/// One host.
#[derive(Debug, Clone, Copy)]
struct Entry {
    of: Candidate,
    /// The hash of its address: the same for all workers and proxies.
    hash: u64,
}

/// Hosts that values belong to.
#[derive(Debug, Default)]
pub struct Rendezvous {
    hosts: Vec<Entry>,
    /// Whether all have the same weight.
    is_even: bool,
}

impl Rendezvous {
    /// Values belong to these, each with its address.
    pub fn new<'a>(hosts: impl Iterator<Item = (Candidate, &'a [u8])>) -> Self {
        let hosts: Vec<Entry> = hosts.map(|(of, address)| Entry { of, hash: of_text(address) }).collect();
        let mut weights = hosts.iter().map(|host| host.of.weight);
        let first = weights.next();
        let is_even = weights.all(|weight| Some(weight) == first);
        Rendezvous { hosts, is_even }
    }

    /// The host of the value with this hash, and those that would have it next: at most so many. `share` is how much of its weight a
    /// host has now, in thousandths.
    pub fn next(&self, value: u64, wanted: usize, share: impl Fn(HostId) -> u32) -> Vec<HostId> {
        let is_even = self.is_even && self.hosts.iter().all(|host| share(host.of.host) >= FULL_SHARE);
        let mut best: Vec<(f64, HostId)> = Vec::with_capacity(wanted.saturating_add(1));
        for host in &self.hosts {
            let point = point(value, host.hash);
            let id = host.of.host;
            // The logarithm keeps the order of equal weights.
            let score = if is_even { point } else { f64::from(host.of.weight) * f64::from(share(id)) / -point.ln() };
            let place = best.partition_point(|(other, _)| *other >= score);
            if place < wanted {
                best.insert(place, (score, id));
                best.truncate(wanted);
            }
        }
        best.into_iter().map(|(_, id)| id).collect()
    }
}

/// Which of those that have these names and weights a value belongs to, by number.
pub fn pick(value: u64, of: impl Iterator<Item = (u64, u32)>) -> Option<usize> {
    let scores = of.map(|(name, weight)| f64::from(weight) / -point(value, name).ln());
    scores.enumerate().max_by(|(_, one), (_, two)| one.total_cmp(two)).map(|(at, _)| at)
}

/// Uniform in (0, 1) for a value and a host.
fn point(value: u64, host: u64) -> f64 {
    // FNV leaves the high bits of short texts alike, which the mixer of SplitMix64 does not.
    let mixed = Random::new(Random::new(value).next() ^ host).next();
    ((mixed >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn full(_: HostId) -> u32 {
        FULL_SHARE
    }

    /// Hosts with these numbers and weights.
    fn hosts(of: &[(u16, u32)]) -> Rendezvous {
        let named: Vec<(Candidate, String)> = of
            .iter()
            .map(|(index, weight)| {
                let host = HostId { index: *index, id: u32::from(*index) };
                (Candidate { host, weight: *weight }, format!("10.0.0.{index}:8080"))
            })
            .collect();
        Rendezvous::new(named.iter().map(|(of, address)| (*of, address.as_bytes())))
    }

    fn owner(hosts: &Rendezvous, user: u32, share: impl Fn(HostId) -> u32) -> u16 {
        hosts.next(of_text(format!("user-{user}").as_bytes()), 3, share)[0].index
    }

    fn served(hosts: &Rendezvous, share: impl Fn(HostId) -> u32) -> Vec<usize> {
        let mut served = vec![0; 8];
        for user in 0..10_000 {
            served[usize::from(owner(hosts, user, &share))] += 1;
        }
        served
    }

    #[test]
    fn a_host_that_goes_or_comes_moves_its_own_values_and_no_others() {
        let all = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)];
        let (five, four) = (hosts(&all), hosts(&all[..4]));
        let moved = (0..10_000).filter(|user| {
            let (before, after) = (owner(&five, *user, full), owner(&four, *user, full));
            assert!(before == after || before == 5, "user-{user} was at {before}, is at {after}");
            before != after
        });
        let moved = moved.count();
        assert!(moved.abs_diff(2000) < 200, "{moved}");
    }

    #[test]
    fn values_are_shared_by_weight() {
        let even = served(&hosts(&[(1, 7), (2, 7), (3, 7), (4, 7)]), full);
        assert!(even[1..5].iter().all(|served| served.abs_diff(2500) < 200), "{even:?}");
        let weighted = served(&hosts(&[(1, 1), (2, 1), (3, 2), (4, 4)]), full);
        let expected = [0, 1250, 1250, 2500, 5000];
        assert!(
            weighted.iter().zip(expected).all(|(served, expected)| served.abs_diff(expected) < 200),
            "{weighted:?}"
        );
    }

    #[test]
    fn one_that_is_starting_has_a_part_of_its_values_and_moves_no_others() {
        let hosts = hosts(&[(1, 1), (2, 1), (3, 1)]);
        let starting = |host: HostId| if host.index == 1 { 500 } else { FULL_SHARE };
        let shares = served(&hosts, starting);
        assert!(shares[1].abs_diff(2000) < 200, "half of a third, of what is left: {shares:?}");
        for user in 0..1000 {
            let (at, was) = (owner(&hosts, user, starting), owner(&hosts, user, full));
            assert!(at == was || was == 1);
        }
    }

    #[test]
    fn the_next_attempts_go_to_those_that_would_have_it_next() {
        let hosts = hosts(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        let named = hosts.next(7, 9, full);
        assert_eq!(named.len(), 4);
        assert_eq!(hosts.next(7, 2, full), named[..2]);
        assert!(Rendezvous::new(core::iter::empty()).next(7, 3, full).is_empty());
    }
}
