//! A host by chance, or the better one of two.
//!
//! Two choices are nearly as good as a look at all of them. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load
//! Balancing", 2001. Both are drawn by weight, so that hosts that are equally busy have their weights' shares.

use super::Candidate;
use crate::base::random::Random;
use crate::outlier::table::{FULL_SHARE, HostId};

/// A host that is starting is passed over at most so often in a row.
const PASSED_OVER: u32 = 16;

/// Which of two hosts is the better one.
pub trait Preference {
    /// What a request costs there; the smaller one is the better one. `weight` is that of the host beside the least one, from 1 on.
    fn cost(&self, host: HostId, weight: f64) -> f64;
}

/// Hosts to draw from.
#[derive(Debug, Default)]
pub struct Draws {
    hosts: Vec<Candidate>,
    /// By host, the weights of all up to it.
    sums: Vec<u64>,
    /// The smallest weight.
    least: u32,
}

impl Draws {
    /// Draws from these.
    pub fn new(hosts: Vec<Candidate>) -> Self {
        let mut sum = 0;
        let sums = hosts.iter().map(|host| {
            sum += u64::from(host.weight);
            sum
        });
        let least = hosts.iter().map(|host| host.weight).min().unwrap_or(1).max(1);
        Draws { sums: sums.collect(), least, hosts }
    }

    /// One that is drawn, or with `better` the better one of two; and any others after it: at most so many. `share` is how much of its
    /// weight a host has now, in thousandths.
    pub fn next(
        &self,
        wanted: usize,
        random: &mut Random,
        share: impl Fn(HostId) -> u32,
        better: Option<&dyn Preference>,
    ) -> Vec<HostId> {
        let mut draw = || self.draw(random, &share);
        let Some(first) = draw() else { return Vec::new() };
        let chosen = match better.map(|better| (better, self.other_than(first, &mut draw))) {
            Some((better, Some(second))) if self.cost(better, second) < self.cost(better, first) => second,
            _ => first,
        };
        // The rest in a ring from somewhere on: the next attempts go to each other host once.
        let from = random.below(self.hosts.len() as u64) as usize;
        let ring = (from..self.hosts.len()).chain(0..from);
        let others = ring.filter(|at| *at != chosen);
        let named = core::iter::once(chosen).chain(others).take(wanted);
        named.filter_map(|at| self.hosts.get(at)).map(|host| host.host).collect()
    }

    fn cost(&self, better: &dyn Preference, at: usize) -> f64 {
        let weight = |host: &Candidate| f64::from(host.weight) / f64::from(self.least);
        self.hosts.get(at).map_or(f64::INFINITY, |host| better.cost(host.host, weight(host)))
    }

    /// Another one than `first`, if a few draws give one.
    fn other_than(&self, first: usize, draw: &mut impl FnMut() -> Option<usize>) -> Option<usize> {
        if self.hosts.len() < 2 {
            return None;
        }
        (0..4).find_map(|_| draw().filter(|at| *at != first))
    }

    fn draw(&self, random: &mut Random, share: &impl Fn(HostId) -> u32) -> Option<usize> {
        let total = *self.sums.last()?;
        let mut drawn = 0;
        for _ in 0..PASSED_OVER {
            let point = random.below(total);
            drawn = self.sums.partition_point(|sum| *sum <= point);
            let share = self.hosts.get(drawn).map_or(0, |host| share(host.host));
            if share >= FULL_SHARE || random.below(FULL_SHARE.into()) < u64::from(share) {
                break;
            }
        }
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn hosts(weights: &[u32]) -> Vec<Candidate> {
        let host = |(index, weight): (usize, &u32)| Candidate {
            host: HostId { index: index as u16, id: index as u32 },
            weight: *weight,
        };
        weights.iter().enumerate().map(host).collect()
    }

    fn shares(weights: &[u32], share: impl Fn(HostId) -> u32, better: Option<&dyn Preference>) -> Vec<usize> {
        let (draws, mut random) = (Draws::new(hosts(weights)), Random::new(1));
        let mut served = vec![0; weights.len()];
        for _ in 0..10_000 {
            let named = draws.next(3, &mut random, &share, better);
            assert_eq!(named.len(), weights.len().min(3));
            assert!(named.iter().enumerate().all(|(at, one)| !named.iter().skip(at + 1).any(|other| other == one)));
            served[usize::from(named[0].index)] += 1;
        }
        served
    }

    fn are_near(served: &[usize], expected: &[usize]) -> bool {
        served.iter().zip(expected).all(|(served, expected)| served.abs_diff(*expected) < 200)
    }

    /// Hosts with so many requests in flight.
    struct Busy(Vec<f64>);

    impl Preference for Busy {
        fn cost(&self, host: HostId, weight: f64) -> f64 {
            self.0.get(usize::from(host.index)).map_or(0.0, |busy| busy / weight)
        }
    }

    #[test]
    fn each_has_the_share_of_its_weight() {
        let full = |_| FULL_SHARE;
        assert!(are_near(&shares(&[1, 1, 2, 4], full, None), &[1250, 1250, 2500, 5000]));
        let equal = Busy(vec![0.0; 4]);
        assert!(are_near(&shares(&[1, 1, 2, 4], full, Some(&equal)), &[1250, 1250, 2500, 5000]));
    }

    #[test]
    fn of_two_the_better_one_is_taken() {
        let full = |_| FULL_SHARE;
        // The worst of three is taken only where it is drawn twice or more; the best one unless the other two are drawn.
        let served = shares(&[1, 1, 1], full, Some(&Busy(vec![1.0, 2.0, 3.0])));
        assert!(served[0] > 6000 && served[2] < 100, "{served:?}");
        // Three in flight of three times the weight are as busy as one.
        let served = shares(&[1, 3], full, Some(&Busy(vec![1.0, 3.0])));
        assert!(are_near(&served, &[2500, 7500]), "{served:?}");
    }

    #[test]
    fn one_that_is_starting_has_a_part_of_its_share() {
        let starting = |host: HostId| if host.index == 0 { 100 } else { FULL_SHARE };
        let served = shares(&[1, 1, 1], starting, None);
        assert!(are_near(&served, &[476, 4762, 4762]), "{served:?}");
        let served = shares(&[1], starting, None);
        assert_eq!(served, [10_000], "one that is alone has all");
    }

    #[test]
    fn nobody_is_drawn_from_nobody() {
        assert!(Draws::new(Vec::new()).next(3, &mut Random::new(1), |_| FULL_SHARE, None).is_empty());
    }
}
