//! How a host that was out for its latency comes back: with a small share, which grows while it is not slow.
//!
//! One probe says little of a time, and a cold host becomes warm by requests alone. So when its time is over it is on trial: it gets
//! [`SMALLEST`] of what it would get, and is judged by [`ENOUGH`] answers at a time. Those that are not slow give it four times as
//! much, until it is back; those that are slow give it the smallest share again.

use core::time::Duration;

use super::times::Times;
use crate::base::time::nanos;
use crate::store::record::{Reader, Writer};

/// The share that a trial begins with, in thousandths: over an hour, with what it had until it was found, at most a twentieth.
pub const SMALLEST: u16 = 30;

/// How much larger the next share is.
const GROWTH: u16 = 4;

/// A share that is no part any more.
const WHOLE: u16 = 1000;

/// So many answers are judged together. The logarithms of their times tell a host that is three times as slow apart where one in a
/// hundred takes a second.
pub const ENOUGH: u32 = 20;

/// The trial of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// What it gets of what it would get, in thousandths.
    pub share: u16,
    /// The answers that are not judged yet.
    times: Times,
    /// What was slow when it was found, for when there are no peers to compare with; zero if nothing.
    slow_from: Duration,
    /// Whether it has been found slow again.
    is_still_slow: bool,
}

/// What the answers of a trial have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialVerdict {
    /// They are too few.
    Waits,
    /// It gets a larger share.
    Grows,
    /// It is back.
    Passed,
    /// It is slow, with this mean, and gets the smallest share. Whether that is news.
    Slow(Duration, bool),
}

impl Trial {
    /// Of a host that was slow from there on.
    pub fn new(slow_from: Duration) -> Self {
        Trial { share: SMALLEST, times: Times::default(), slow_from, is_still_slow: false }
    }

    /// Takes in answers of an interval. `is_slow` compares times with those of the peers, if there are any; else what was slow
    /// at first is.
    pub fn judge(&mut self, times: Times, is_slow: impl FnOnce(&Times) -> Option<bool>) -> TrialVerdict {
        self.times.add(times);
        if self.times.count() < ENOUGH {
            return TrialVerdict::Waits;
        }
        let times = core::mem::take(&mut self.times);
        let was_slow = || !self.slow_from.is_zero() && times.mean() >= self.slow_from;
        if is_slow(&times).unwrap_or_else(was_slow) {
            let is_news = self.share > SMALLEST || !self.is_still_slow;
            (self.share, self.is_still_slow) = (SMALLEST, true);
            return TrialVerdict::Slow(times.mean(), is_news);
        }
        self.share = self.share.saturating_mul(GROWTH);
        if self.share >= WHOLE { TrialVerdict::Passed } else { TrialVerdict::Grows }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u16(self.share);
        self.times.write(out);
        out.u64(nanos(self.slow_from));
        out.u8(self.is_still_slow.into());
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(Trial {
            share: Some(input.u16()?).filter(|share| (SMALLEST..WHOLE).contains(share))?,
            times: Times::read(input)?,
            slow_from: Duration::from_nanos(input.u64()?),
            is_still_slow: input.flag()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn answers(count: u32, millis: u64) -> Times {
        (0..count).map(|_| Duration::from_millis(millis)).collect()
    }

    #[test]
    fn its_share_grows_with_every_twenty_answers_that_are_not_slow() {
        let mut trial = Trial::new(Duration::from_millis(60));
        let mut judge = |count| (trial.judge(answers(count, 20), |_| Some(false)), trial.share);
        assert_eq!(judge(19), (TrialVerdict::Waits, 30));
        assert_eq!(judge(1), (TrialVerdict::Grows, 120));
        assert_eq!(judge(20), (TrialVerdict::Grows, 480));
        assert_eq!(judge(20).0, TrialVerdict::Passed);
    }

    #[test]
    fn one_that_is_slow_begins_anew_and_it_is_news_once() {
        let (mut trial, slow) = (Trial::new(Duration::from_millis(60)), Duration::from_millis(100));
        let mut judge = |is_slow| trial.judge(answers(20, 100), |_| Some(is_slow));
        assert_eq!(judge(true), TrialVerdict::Slow(slow, true));
        assert_eq!(judge(true), TrialVerdict::Slow(slow, false));
        assert_eq!(judge(false), TrialVerdict::Grows);
        assert_eq!(judge(true), TrialVerdict::Slow(slow, true), "it had become better");
        assert_eq!(trial.share, SMALLEST);
    }

    #[test]
    fn without_peers_what_was_slow_at_first_is() {
        let mut trial = Trial::new(Duration::from_millis(60));
        assert!(matches!(trial.judge(answers(20, 60), |_| None), TrialVerdict::Slow(..)));
        assert_eq!(trial.judge(answers(20, 59), |_| None), TrialVerdict::Grows);
        assert_eq!(Trial::new(Duration::ZERO).judge(answers(20, 60), |_| None), TrialVerdict::Grows);
    }
}
