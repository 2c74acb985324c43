//! Made-up observations for unit tests.

use std::time::Duration;

use crate::answer::{Answer, Fate};
use crate::change::{Change, State};
use crate::recording::Recording;
use crate::scene::{Kind, Scene};

/// An answer, times in milliseconds.
pub fn answer(caller: usize, sent: u64, waited: u64, fate: Fate) -> Answer {
    Answer { caller, sent: Duration::from_millis(sent), waited: Duration::from_millis(waited), fate }
}

/// A change, time in milliseconds.
pub fn change(at: u64, policy: &str, from: State, to: State) -> Change {
    let why = format!("made up, {} <ok> & \"fine\"", to.word());
    Change { at: Duration::from_millis(at), policy: policy.to_owned(), from, to, why }
}

/// A run of `scene` as it should be, with Holdfast or without: the breakers open after the first second of the
/// trouble, probe in vain in the third, and close a second after its end.
pub fn run(scene: &Scene, with: bool) -> Recording {
    let mut recording = Recording::default();
    let trouble = scene.span(Kind::Outage);
    let open = if with { trouble.start + 1..trouble.end + 1 } else { 0..0 };
    for second in 0..scene.seconds() {
        let down = trouble.contains(&second);
        let mut arrived = 0;
        for (number, caller) in scene.callers.iter().enumerate() {
            let has_fallback = number == 0;
            let (waited, fate) = match (open.contains(&second), down) {
                (true, _) if has_fallback => (1, Fate::Fallback),
                (true, _) => (1, Fate::Rejected),
                (false, true) => (1000, Fate::Failed),
                (false, false) => (6, Fate::Served),
            };
            for request in 0..caller.per_second {
                let sent = u64::from(second) * 1000 + u64::from(request * 1000 / caller.per_second);
                recording.answers.push(answer(number, sent, waited, fate));
            }
            arrived += if open.contains(&second) { 0 } else { u64::from(caller.per_second) };
        }
        recording.arrivals.push(arrived);
    }
    for (number, caller) in scene.callers.iter().enumerate() {
        let total = recording.answers.iter().filter(|answer| answer.caller == number);
        let count = |fate| total.clone().filter(|answer| answer.fate == fate).count() as u64;
        if with {
            for (after, from, to) in [
                (0, State::Closed, State::Open),
                (2000, State::Open, State::HalfOpen),
                (3000, State::HalfOpen, State::Open),
                (u64::from(open.end - open.start) * 1000 - 10, State::Open, State::HalfOpen),
                (u64::from(open.end - open.start) * 1000, State::HalfOpen, State::Closed),
            ] {
                recording.changes.push(change(u64::from(open.start) * 1000 + after, caller.policy, from, to));
            }
            let rejected = count(Fate::Fallback) + count(Fate::Rejected);
            for (metric, value) in [
                ("requests", total.clone().count() as u64),
                ("rejected.open", rejected),
                ("fallback.static", count(Fate::Fallback)),
                ("breaker_state", 0),
            ] {
                recording.stats.insert(format!("{}.key.cluster=orders.{metric}", caller.policy), value);
            }
        }
    }
    recording.changes.sort_by_key(|change| change.at);
    recording
}
