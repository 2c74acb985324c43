//! How long a host's answers took, and how much those times differ.

use core::time::Duration;

use super::significance::{Sample, chance};
use crate::store::record::{Reader, Writer};

/// Sums over the times of some answers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Times {
    /// How many; where nobody judges by them, none.
    count: u32,
    sum: f64,
    squares: f64,
    logarithms: f64,
    squared_logarithms: f64,
}

impl Times {
    /// Bytes of a record.
    pub const SIZE: usize = 36;

    /// That of one answer. In microseconds, one at least.
    pub fn of(took: Duration) -> Self {
        let micros = (took.as_nanos() as f64 / 1000.0).max(1.0);
        let logarithm = micros.ln();
        Times {
            count: 1,
            sum: micros,
            squares: micros * micros,
            logarithms: logarithm,
            squared_logarithms: logarithm * logarithm,
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: Times) {
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        self.squares += other.squares;
        self.logarithms += other.logarithms;
        self.squared_logarithms += other.squared_logarithms;
    }

    /// Of the times, and of their logarithms.
    fn samples(&self) -> Option<[Sample; 2]> {
        let times = Sample::of_sums(self.count, self.sum, self.squares)?;
        let logarithms = Sample::of_sums(self.count, self.logarithms, self.squared_logarithms)?;
        Some([times, logarithms])
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Their mean; zero without any.
    pub fn mean(&self) -> Duration {
        let mean = self.sum / f64::from(self.count.max(1));
        // What is no number becomes zero, and what is too long the longest.
        Duration::from_nanos((mean * 1000.0).round() as u64)
    }

    /// Their geometric mean, which a few long ones hardly move.
    pub fn geometric_mean(&self) -> Duration {
        let mean = (self.logarithms / f64::from(self.count.max(1))).exp();
        Duration::from_nanos((mean * 1000.0).round() as u64)
    }

    /// Whether these are longer than those of the peers by more than chance explains: it makes one of `hosts` equal hosts look so
    /// once in a thousand intervals at most.
    ///
    /// The means of times with a heavy tail are far apart by chance, those of their logarithms are not; a host that is mostly fast and
    /// now and then hangs shows in the means alone. Each of the two has half of the error.
    #[must_use]
    pub fn are_longer(&self, peers: &[Times], hosts: usize) -> bool {
        let Some(own) = self.samples() else { return false };
        let Some(peers) = peers.iter().map(Times::samples).collect::<Option<Vec<_>>>() else { return false };
        let level = LEVEL / 2.0 / hosts.max(1) as f64;
        (0..2).any(|of| {
            let Some(own) = own.get(of) else { return false };
            let peers: Vec<Sample> = peers.iter().filter_map(|peer| peer.get(of).copied()).collect();
            chance(*own, &peers) <= level
        })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u32(self.count);
        for sum in [self.sum, self.squares, self.logarithms, self.squared_logarithms] {
            out.u64(sum.to_bits());
        }
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Option<Self> {
        let count = input.u32()?;
        let mut sum = || Some(f64::from_bits(input.u64()?)).filter(|sum| sum.is_finite() && *sum >= 0.0);
        Some(Times { count, sum: sum()?, squares: sum()?, logarithms: sum()?, squared_logarithms: sum()? })
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<T: IntoIterator<Item = Duration>>(all: T) -> Self {
        let mut times = Times::default();
        all.into_iter().for_each(|took| times.add(Times::of(took)));
        times
    }
}

/// How often at most an interval in which all hosts are equal finds one of them longer. By Bonferroni's inequality each of `n` hosts
/// has an `n`th part of it.
const LEVEL: f64 = 0.001;

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// So many answers of each of these times.
    fn of(each: usize, millis: &[u64]) -> Times {
        millis.iter().cycle().take(each * millis.len()).map(|millis| Duration::from_millis(*millis)).collect()
    }

    #[test]
    fn a_mean_is_that_of_all_and_never_longer_than_a_duration() {
        assert_eq!(of(25, &[10, 30]).mean(), Duration::from_millis(20));
        assert_eq!(Times::default().mean(), Duration::ZERO);
        let longest: Times = [Duration::MAX, Duration::MAX].into_iter().collect();
        assert_eq!(longest.mean(), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn one_that_is_slower_throughout_is_told_by_the_logarithms() {
        // Each has one answer of a second: the means are 3 and 1 times 29 ms, and so far apart by chance.
        let (mut own, mut peer) = (of(49, &[30]), of(49, &[10]));
        own.add(of(1, &[3000]));
        peer.add(of(1, &[1000]));
        assert!(own.are_longer(&[peer, peer], 3));
        assert!(!peer.are_longer(&[peer, peer], 3));
        // With few answers as much is chance.
        assert!(!of(1, &[30, 30, 3000]).are_longer(&[of(1, &[10, 10, 1000]); 2], 3));
    }

    #[test]
    fn one_that_hangs_now_and_then_and_is_fast_else_is_told_by_the_means() {
        let (own, peer) = (of(10, &[1, 1, 1, 5000, 1, 1, 5000, 1]), of(80, &[10]));
        assert!(own.are_longer(&[peer, peer], 3));
    }

    #[test]
    fn a_few_slow_answers_are_chance() {
        let mut own = of(98, &[10]);
        own.add(of(2, &[1000]));
        assert!(!own.are_longer(&[of(100, &[10]); 4], 5));
    }
}
