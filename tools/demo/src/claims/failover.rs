//! What a standby should do in an outage.

use super::{Claim, breakers, claim};
use crate::answer::Fate;
use crate::recording::Runs;
use crate::scene::{Kind, Scene};

/// Once the breaker is open, no client sees an error in the outage but those whose requests are probes, `probes` in each half-open.
pub fn only_probes_failed(scene: &Scene, runs: Runs<'_>, probes: u32) -> Claim {
    let what = "once the breaker was open, no request but its probes failed";
    let Some(opened) = runs.with.first_opened() else { return claim(what, false, "it did not open") };
    let first = breakers::first_second_after(opened);
    let allowed = breakers::probes_allowed(runs.with, first.., probes);
    let tally = runs.with.tally(first..scene.seconds().max(first));
    let (failed, sent) = (tally.count(Fate::Failed), tally.sent());
    let holds = u64::from(failed) <= allowed && scene.span(Kind::Outage).end > first;
    claim(what, holds, format!("{failed} of {sent} failed, {allowed} probes allowed"))
}

/// Whoever got the fallback got it from the standby, which has seen nobody else.
pub fn the_standby_served_them(runs: Runs<'_>) -> Claim {
    let (with, without) = (runs.with, runs.without);
    let got = u64::from(with.total().count(Fate::Fallback));
    let holds = got > 0 && with.at_standby == got && without.at_standby == 0;
    let seen = format!("{got} clients, {} requests there, {} without Holdfast", with.at_standby, without.at_standby);
    claim("the standby has seen just the requests whose clients got the fallback", holds, seen)
}

#[cfg(test)]
mod tests {
    use crate::answer::Fate;
    use crate::test_data;

    #[test]
    fn an_error_while_the_breaker_is_open_is_noticed() {
        let (scene, mut with, without) = test_data::runs("failover");
        let late = with.answers.iter_mut().filter(|answer| answer.sent.as_secs() == 7);
        late.take(15).for_each(|answer| answer.fate = Fate::Failed);
        let broken = test_data::broken(&scene, &with, &without).join("\n");
        assert!(broken.contains("no request but its probes failed"), "{broken}");
    }

    #[test]
    fn a_standby_that_saw_somebody_else_is_noticed() {
        let (scene, mut with, without) = test_data::runs("failover");
        with.at_standby += 1;
        assert_eq!(
            test_data::broken(&scene, &with, &without),
            ["the standby has seen just the requests whose clients got the fallback"]
        );
    }
}
