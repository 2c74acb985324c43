//! The answers that are held back until they are complete, and when each is looked at again.

use core::cell::RefCell;
use core::time::Duration;
use std::rc::{Rc, Weak};

use crate::base::time::Timestamp;
use crate::fallback::{PATIENCE, Replacement};

/// How soon an answer is looked at again that was not complete. Mostly its body comes with its headers, and once is enough.
const AGAIN: Duration = Duration::from_millis(1);

/// How soon it is looked at by a tick if the host's wake-up is lost.
const WITHOUT_WAKE: Duration = Duration::from_millis(10);

/// An answer that is held back.
pub struct HeldAnswer {
    /// How the host names its stream: its context.
    pub stream: u32,
    /// Gone when the stream is.
    replacement: Weak<Replacement>,
    due: Timestamp,
    /// How long it is left alone before `due`.
    pause: Duration,
    /// Whether nobody has looked at it yet.
    is_fresh: bool,
}

impl HeldAnswer {
    /// What replaces it; `None` when its stream is gone.
    pub fn replacement(&self) -> Option<Rc<Replacement>> {
        self.replacement.upgrade()
    }
}

/// All answers of a plugin that are held back.
#[derive(Default)]
pub struct HeldAnswers(RefCell<Vec<HeldAnswer>>);

impl HeldAnswers {
    /// Has an answer looked at: at the wake-up if there will be one, else at the next tick.
    pub fn add(&self, stream: u32, replacement: &Rc<Replacement>, wakes: bool, now: Timestamp) {
        let pause = if wakes { WITHOUT_WAKE } else { Duration::ZERO };
        let replacement = Rc::downgrade(replacement);
        self.push(HeldAnswer { stream, replacement, due: now.plus(pause), pause, is_fresh: true });
    }

    /// Has an answer looked at again: the longer it takes, the later.
    pub fn add_again(&self, held: HeldAnswer, now: Timestamp) {
        let pause = if held.is_fresh { AGAIN } else { held.pause.saturating_mul(2).min(PATIENCE / 4) };
        self.push(HeldAnswer { due: now.plus(pause), pause, is_fresh: false, ..held });
    }

    fn push(&self, held: HeldAnswer) {
        if let Ok(mut all) = self.0.try_borrow_mut() {
            all.push(held);
        }
    }

    /// Whether there are any. Costs nothing.
    pub fn are_any(&self) -> bool {
        self.0.try_borrow().is_ok_and(|all| !all.is_empty())
    }

    /// Takes those out that are to be looked at now: at a wake-up those too at which nobody has looked.
    pub fn take_due(&self, is_wake: bool, now: Timestamp) -> Vec<HeldAnswer> {
        let Ok(mut all) = self.0.try_borrow_mut() else { return Vec::new() };
        all.retain(|held| held.replacement.strong_count() > 0);
        all.extract_if(.., |held| is_wake && held.is_fresh || held.due.left(now, held.pause).is_none()).collect()
    }

    /// How soon one is to be looked at; `None` if there is none.
    pub fn due_within(&self, now: Timestamp) -> Option<Duration> {
        let all = self.0.try_borrow().ok()?;
        all.iter().map(|held| held.due.left(now, held.pause).unwrap_or_default()).min()
    }
}
