//! What kept answers should do in an outage.

use super::{Claim, claim};
use crate::answer::{Answer, Fate};
use crate::recording::{Recording, Runs};
use crate::scene::{Kind, Scene};

/// What one of the callers got in the outage.
pub fn got<'a>(scene: &Scene, run: &'a Recording, caller: usize) -> impl Iterator<Item = &'a Answer> {
    run.answers_to(scene.span(Kind::Outage)).filter(move |answer| answer.caller == caller)
}

/// How many of them brought what was asked for.
pub fn got_its_own(scene: &Scene, run: &Recording, caller: usize) -> usize {
    got(scene, run, caller).filter(|answer| answer.is_own).count()
}

/// The age of the oldest kept answer that was served, in seconds.
pub fn oldest(scene: &Scene, run: &Recording, caller: usize) -> Option<u32> {
    got(scene, run, caller).filter(|answer| answer.fate == Fate::Fallback).filter_map(|answer| answer.age).max()
}

/// Whoever asks again for what the service has answered before gets that, each its own.
pub fn known_is_served(scene: &Scene, runs: Runs<'_>, caller: usize) -> Claim {
    let (own, sent) = (got_its_own(scene, runs.with, caller), got(scene, runs.with, caller).count());
    let seen = format!("{own} of {sent} got theirs");
    claim(
        "with Holdfast everyone who asked for a known resource in the outage got it, byte for byte",
        own == sent && sent > 0,
        seen,
    )
}

/// Kept answers tell their ages, and none is older than the outage can have made it.
pub fn ages_are_true(scene: &Scene, runs: Runs<'_>, caller: usize) -> Claim {
    let oldest = oldest(scene, runs.with, caller);
    // A resource was last answered within a second before the outage, and a time is told in whole seconds.
    let most = u32::try_from(scene.span(Kind::Outage).len()).unwrap_or(u32::MAX).saturating_add(2);
    let holds = oldest.is_some_and(|age| age > 0 && age <= most);
    let seen = oldest.map_or_else(|| "none tells it".to_owned(), |age| format!("the oldest: {age} s"));
    claim(format!("kept answers tell their ages, at most {most} s"), holds, seen)
}

/// Whoever asks for what nobody has asked for gets the next fallback in the list.
pub fn unknown_is_served_the_next(scene: &Scene, runs: Runs<'_>, caller: usize) -> Claim {
    let all: Vec<&Answer> = got(scene, runs.with, caller).collect();
    let next =
        all.iter().filter(|answer| answer.fate == Fate::Fallback && !answer.is_own && answer.age.is_none()).count();
    let seen = format!("{next} of {} did", all.len());
    claim(
        "with Holdfast everyone who asked for a new resource in the outage got the next fallback",
        next == all.len() && next > 0,
        seen,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    #[test]
    fn an_answer_to_something_else_is_noticed() {
        let (scene, mut with, without) = test_data::runs("stale");
        let late = |answer: &&mut Answer| answer.sent.as_secs() >= 6 && answer.caller == 0;
        with.answers.iter_mut().find(late).unwrap().is_own = false;
        let broken = test_data::broken(&scene, &with, &without);
        assert_eq!(
            broken,
            ["with Holdfast everyone who asked for a known resource in the outage got it, byte for byte"]
        );
    }

    #[test]
    fn an_age_that_cannot_be_is_noticed() {
        let (scene, mut with, without) = test_data::runs("stale");
        with.answers.iter_mut().find(|answer| answer.age.is_some()).unwrap().age = Some(90);
        assert_eq!(test_data::broken(&scene, &with, &without), ["kept answers tell their ages, at most 8 s"]);
    }

    #[test]
    fn a_kept_answer_to_a_new_question_is_noticed() {
        let (scene, mut with, without) = test_data::runs("stale");
        with.answers.iter_mut().rfind(|answer| answer.caller == 1 && answer.sent.as_secs() < 9).unwrap().age = Some(1);
        let broken = test_data::broken(&scene, &with, &without);
        assert_eq!(broken, ["with Holdfast everyone who asked for a new resource in the outage got the next fallback"]);
    }
}
