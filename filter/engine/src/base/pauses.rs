//! Whether this worker itself did not run for a while: its process was stopped, had no processor, or its machine was moved. What waited
//! meanwhile is not to be judged by time: Envoy lets time-outs pass before it reads what has come (seen on 1.36 and 1.40).
//!
//! The idea is that of local health: a detector that is late itself must not accuse others. Source: Dadgar, Phillips, Currey, "Lifeguard:
//! Local Health Awareness for More Accurate Failure Detection" (2018).

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;

use super::text;
use super::time::Timestamp;

/// How often a worker is to give a sign of life while anything waits.
pub const SIGN_EVERY: Duration = Duration::from_millis(100);

/// Signs of life that are further apart show a pause. A quota of processor time holds a process up for less: Linux renews it every
/// 100 ms (CFS bandwidth control).
const APART: Duration = Duration::from_millis(250);

/// So many pauses are remembered, the last ones.
const MOST: usize = 8;

/// How often it is told that something was excused.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The pauses of the worker that a plugin runs on, as far as anything waited meanwhile.
#[derive(Debug, Default)]
pub struct Pauses {
    /// The last sign of life; `None` while none are to be expected.
    last: Cell<Option<Timestamp>>,
    waiting: Rc<Cell<u32>>,
    /// From when to when, the latest last.
    pauses: RefCell<VecDeque<(Timestamp, Timestamp)>>,
    /// What was excused and is still to be told.
    excused: Cell<u32>,
    told: Cell<Timestamp>,
}

/// Something that waits; it ends with this.
#[derive(Debug)]
pub struct Waiting(Rc<Cell<u32>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Pauses {
    /// Something begins to wait. Signs of life are to be given at least every [`SIGN_EVERY`] from now on, while they are
    /// [expected](Pauses::are_signs_expected).
    pub fn wait(&self, now: impl FnOnce() -> Timestamp) -> Waiting {
        if self.last.get().is_none() {
            self.last.set(Some(now()));
        }
        self.waiting.set(self.waiting.get().saturating_add(1));
        Waiting(Rc::clone(&self.waiting))
    }

    /// Whether a tick is wanted every [`SIGN_EVERY`].
    pub fn are_signs_expected(&self) -> bool {
        self.last.get().is_some()
    }

    /// The worker runs.
    pub fn sign(&self, now: Timestamp) {
        let Some(last) = self.last.get() else { return };
        self.last.set(Some(now));
        if now.since(last) >= APART
            && let Ok(mut pauses) = self.pauses.try_borrow_mut()
        {
            if pauses.len() >= MOST {
                pauses.pop_front();
            }
            pauses.push_back((last, now));
        }
    }

    /// The worker runs, and a tick has come: while nothing waits no further signs are to be expected.
    pub fn tick(&self, now: Timestamp) {
        self.sign(now);
        if self.waiting.get() == 0 {
            self.last.set(None);
        }
    }

    /// How long the worker did not run between the two, up to its last [sign](Pauses::sign) of life.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> Duration {
        let Ok(pauses) = self.pauses.try_borrow() else { return Duration::ZERO };
        pauses.iter().map(|(began, ended)| (*ended).min(to).since((*began).max(from))).sum()
    }

    /// Whether a wait between the two that was in vain says nothing of whom it was for, since the worker did not run for half of it or
    /// more. Counts it.
    pub fn excuse(&self, from: Timestamp, to: Timestamp) -> bool {
        let paused = self.between(from, to);
        let is_excused = !paused.is_zero() && paused.saturating_mul(2) >= to.since(from);
        if is_excused {
            self.excused.set(self.excused.get().saturating_add(1));
        }
        is_excused
    }

    /// What is to be told of what was excused since the last time, if there is anything and the last time is not too near. `what` are those
    /// that had no answer in time.
    pub fn tell(&self, what: &str, now: Timestamp) -> Option<String> {
        if self.excused.get() == 0 || now.apart(self.told.get()) < TELL_EVERY {
            return None;
        }
        self.told.set(now);
        let pauses = self.pauses.try_borrow().ok()?;
        let (from, to) = pauses.back()?;
        let (excused, paused) = (self.excused.take(), text::seconds(to.since(*from)));
        Some(format!(
            "this worker did not run for {paused}: {excused} {what} without an answer in time are not held against anybody"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn t(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    /// Ticks from the one to the other.
    fn runs(pauses: &Pauses, from: u64, to: u64) {
        (from..=to).step_by(100).for_each(|now| pauses.tick(t(now)));
    }

    #[test]
    fn what_waited_mostly_while_the_worker_did_not_run_is_excused() {
        let pauses = Pauses::default();
        let _waiting = pauses.wait(|| t(0));
        runs(&pauses, 100, 1000);
        assert!(!pauses.excuse(t(0), t(1000)));
        pauses.sign(t(3500));
        assert!(pauses.excuse(t(900), t(3500)), "2.5 of 2.6 s");
        runs(&pauses, 3600, 4500);
        assert!(!pauses.excuse(t(3500), t(4500)), "it began afterwards");
        assert!(pauses.excuse(t(900), t(4500)));
        assert_eq!(pauses.between(t(3000), t(4500)), Duration::from_millis(500));
    }

    #[test]
    fn a_wait_that_was_mostly_watched_is_not_excused() {
        let pauses = Pauses::default();
        let _waiting = pauses.wait(|| t(0));
        runs(&pauses, 100, 3000);
        runs(&pauses, 3300, 5000);
        assert_eq!(pauses.between(t(0), t(5000)), Duration::from_millis(300));
        assert!(!pauses.excuse(t(0), t(5000)), "a host that hangs is found while the worker now and then does not run");
        assert!(pauses.excuse(t(2900), t(3400)));
    }

    #[test]
    fn a_worker_with_nothing_to_wait_for_gives_no_signs_and_does_not_pause() {
        let pauses = Pauses::default();
        assert!(!pauses.are_signs_expected());
        drop(pauses.wait(|| t(0)));
        assert!(pauses.are_signs_expected());
        pauses.tick(t(100));
        assert!(!pauses.are_signs_expected());
        let _waiting = pauses.wait(|| t(60_000));
        pauses.tick(t(60_100));
        assert_eq!(pauses.between(t(0), t(60_100)), Duration::ZERO);
    }

    #[test]
    fn the_quota_of_a_container_is_no_pause_and_neither_is_a_clock_that_was_put_back() {
        let pauses = Pauses::default();
        let _waiting = pauses.wait(|| t(10_000));
        (10_000..20_000).step_by(200).for_each(|now| pauses.tick(t(now)));
        runs(&pauses, 5000, 6000);
        assert_eq!(pauses.between(t(0), t(6000)), Duration::ZERO);
    }

    #[test]
    fn what_was_excused_is_told_at_once_and_then_every_ten_seconds() {
        let pauses = Pauses::default();
        let _waiting = pauses.wait(|| t(0));
        assert_eq!(pauses.tell("attempts", t(100)), None);
        pauses.sign(t(2500));
        assert!(pauses.excuse(t(0), t(2500)) && pauses.excuse(t(100), t(2500)));
        let told = pauses.tell("attempts", t(2500)).unwrap();
        assert_eq!(
            told,
            "this worker did not run for 2.5s: 2 attempts without an answer in time are not held against anybody"
        );
        runs(&pauses, 2600, 3000);
        pauses.sign(t(4000));
        assert!(pauses.excuse(t(3000), t(4000)));
        assert_eq!(pauses.tell("attempts", t(4000)), None);
        assert!(pauses.tell("attempts", t(12_500)).is_some_and(|told| told.contains(": 1 attempts ")));
    }

    #[test]
    fn many_pauses_take_no_more_memory() {
        let pauses = Pauses::default();
        let _waiting = pauses.wait(|| t(0));
        (1..1000).for_each(|second| pauses.tick(t(1000 * second)));
        assert_eq!(pauses.pauses.borrow().len(), MOST);
        assert_eq!(pauses.between(t(0), t(999_000)), Duration::from_secs(MOST as u64));
    }
}
