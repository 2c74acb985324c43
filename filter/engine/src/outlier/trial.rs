//! How a host that was out for its latency comes back.
//!
//! One probe says little of a time. So when its time is over its probes go on, one after the other, until their answers show
//! whether it is slow: [`ENOUGH`] that are not let it back, with a share that grows; a few that are take it out for longer. And a cold host
//! becomes warm by requests alone: while it is out again it *trickles*, which is to say that it gets [`TRICKLE`] of what it would get.

use core::time::Duration;

use super::times::Times;
use crate::base::time::nanos;
use crate::store::record::{Reader, Writer};

/// What a host gets of its share that is still slow, in thousandths: over an hour, with what it had until it was found and its
/// probes, at most a twentieth.
pub const TRICKLE: u16 = 30;

/// So many answers that are not slow let a host back, or as many as are enough to judge it by in an interval, if that is less.
pub const ENOUGH: u32 = 20;

/// So few are enough if they are slow all together. That a heavy tail makes two of three slow is rare.
const FEW: u32 = 3;

/// The trial of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The answers of its probes.
    times: Times,
    /// What is slow; zero if nothing.
    slow_from: Duration,
    /// Whether it has been found slow again since it is out.
    pub trickles: bool,
}

/// What the answers of a trial have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialVerdict {
    /// They are too few.
    Waits,
    /// It is not slow.
    Passed,
    /// It is slow, with this mean.
    Slow(Duration),
}

impl Trial {
    /// Of a host that is slow from there on.
    pub fn new(slow_from: Duration) -> Self {
        Trial { times: Times::default(), slow_from, trickles: false }
    }

    /// Compares with peers that are faster or slower now.
    pub fn set_slow_from(&mut self, slow_from: Duration) {
        self.slow_from = slow_from;
    }

    /// Takes in the time of a good answer. `min_requests` are enough to judge a host by in an interval.
    pub fn judge(&mut self, took: Duration, min_requests: u32) -> TrialVerdict {
        self.times.add(Times::of(took));
        let (count, enough) = (self.times.count(), ENOUGH.min(min_requests));
        let (mean, has_limit) = (self.times.mean(), !self.slow_from.is_zero());
        let are_all_slow = count >= FEW.min(enough) && self.times.geometric_mean() >= self.slow_from;
        if has_limit && (are_all_slow || count >= enough && mean >= self.slow_from) {
            self.trickles = true;
            self.times = Times::default();
            return TrialVerdict::Slow(mean);
        }
        if count >= enough { TrialVerdict::Passed } else { TrialVerdict::Waits }
    }

    /// Begins anew with a host that has failed: it gets nothing until its time is over.
    pub fn fail(&mut self) {
        self.trickles = false;
        self.times = Times::default();
    }

    pub(super) fn write(&self, out: &mut Writer) {
        self.times.write(out);
        out.u64(nanos(self.slow_from));
        out.u8(self.trickles.into());
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(Trial {
            times: Times::read(input)?,
            slow_from: Duration::from_nanos(input.u64()?),
            trickles: input.flag()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What so many answers of these times show.
    fn judged(trial: &mut Trial, millis: &[u64]) -> Vec<TrialVerdict> {
        millis.iter().map(|millis| trial.judge(ms(*millis), 50)).collect()
    }

    #[test]
    fn twenty_answers_that_are_not_slow_let_it_back() {
        let mut trial = Trial::new(ms(60));
        assert!(judged(&mut trial, &[20; 19]).iter().all(|verdict| *verdict == TrialVerdict::Waits));
        assert_eq!(trial.judge(ms(20), 50), TrialVerdict::Passed);
        assert!(!trial.trickles);
    }

    #[test]
    fn three_that_are_slow_are_enough_and_the_next_trial_begins_anew() {
        let mut trial = Trial::new(ms(60));
        let slow = [TrialVerdict::Waits, TrialVerdict::Waits, TrialVerdict::Slow(ms(60))];
        assert_eq!(judged(&mut trial, &[60; 3]), slow);
        assert!(trial.trickles);
        assert_eq!(judged(&mut trial, &[60; 3]), slow);
        trial.fail();
        assert!(!trial.trickles);
    }

    #[test]
    fn one_of_a_heavy_tail_is_no_slow_host_but_many_are() {
        let mut trial = Trial::new(ms(60));
        let with = |slow: usize| (0..20).map(|at| if at >= 20 - slow { 500 } else { 5 }).collect::<Vec<_>>();
        assert_eq!(judged(&mut trial, &with(2)).last(), Some(&TrialVerdict::Passed), "54.5 ms in the mean");
        let mut trial = Trial::new(ms(60));
        let mixed: Vec<u64> = (0..20).map(|at| if at % 4 == 0 { 5000 } else { 1 }).collect();
        assert!(matches!(judged(&mut trial, &mixed).last(), Some(TrialVerdict::Slow(_))), "it hangs now and then");
    }

    #[test]
    fn where_fewer_are_enough_for_an_interval_they_are_here() {
        assert_eq!(Trial::new(ms(60)).judge(ms(59), 1), TrialVerdict::Passed);
        assert_eq!(Trial::new(ms(60)).judge(ms(60), 1), TrialVerdict::Slow(ms(60)));
        assert_eq!(Trial::new(Duration::ZERO).judge(ms(60), 1), TrialVerdict::Passed, "no limit is no limit");
        let mut trial = Trial::new(ms(60));
        trial.set_slow_from(ms(300));
        assert_eq!(trial.judge(ms(200), 1), TrialVerdict::Passed, "all are slower now");
    }
}
