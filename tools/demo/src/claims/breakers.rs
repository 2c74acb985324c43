//! What breakers should do in an outage.

use std::ops::RangeBounds;
use std::time::Duration;

use super::{
    Claim, claim, ends_well, envoy_counted_the_same, nothing_of_holdfast_without, outage_hurts_without,
    served_before_the_outage, start,
};
use crate::answer::Fate;
use crate::change::State;
use crate::recording::{Recording, Runs};
use crate::scene::{Kind, Scene};

/// What a scene of breakers in an outage claims: what all of them do, with `special` in the midst of it. `probes` is the breakers'
/// `half_open.probes`.
pub fn in_an_outage(
    scene: &Scene,
    runs: Runs<'_>,
    probes: u32,
    special: impl IntoIterator<Item = Claim>,
) -> Vec<Claim> {
    let mut claims =
        vec![served_before_the_outage(scene, runs), outage_hurts_without(scene, runs), fewer_errors_with(scene, runs)];
    claims.extend(special);
    claims.extend([
        only_probes_reached_the_service(scene, runs, probes),
        nothing_of_holdfast_without(runs),
        ends_well(scene, "with", runs.with),
        ends_well(scene, "without", runs.without),
    ]);
    claims.extend(of_each(scene, runs));
    claims
}

/// With Holdfast clients see fewer than half of the errors.
fn fewer_errors_with(scene: &Scene, runs: Runs<'_>) -> Claim {
    let errors = |run: &Recording| run.tally(scene.span(Kind::Outage)).count(Fate::Failed);
    let (with, without) = (errors(runs.with), errors(runs.without));
    let seen = format!("{with} with, {without} without");
    claim("with Holdfast clients saw fewer than half of the errors", with * 2 < without, seen)
}

/// Some clients get the fallback.
pub fn fallback_served(runs: Runs<'_>) -> Claim {
    let count = runs.with.total().count(Fate::Fallback);
    claim("clients got the fallback answer", count > 0, format!("{count} did"))
}

/// Some clients are told to come back later.
pub fn rejections_seen(runs: Runs<'_>) -> Claim {
    let count = runs.with.total().count(Fate::Rejected);
    claim("requests without a fallback were rejected at once, with retry-after", count > 0, format!("{count} were"))
}

/// Once all breakers have opened, nothing reaches the failing service but their probes, `probes` in each half-open.
fn only_probes_reached_the_service(scene: &Scene, runs: Runs<'_>, probes: u32) -> Claim {
    let what = "once the breakers were open, only their probes reached the failing service";
    let opened = scene.breakers().into_iter().map(|policy| {
        let first = runs.with.changes_of(policy).find(|change| change.to == State::Open);
        first.map(|change| change.at)
    });
    let Some(opened) = opened.collect::<Option<Vec<_>>>().and_then(|opened| opened.into_iter().max()) else {
        return claim(what, false, "a breaker did not open");
    };
    let first = first_second_after(opened);
    let span = first..scene.span(Kind::Outage).end.max(first);
    let allowed = probes_allowed(runs.with, span.clone(), probes);
    let arrived = runs.with.attempts(span);
    claim(what, arrived <= allowed, format!("{arrived} requests, {allowed} probes allowed"))
}

/// The first second that begins after a breaker has opened: requests are known by the second in which they were sent.
pub fn first_second_after(opened: Duration) -> u32 {
    second_of(opened).saturating_add(1)
}

/// How many requests may be probes in these seconds, with `probes` in each half-open.
pub fn probes_allowed(run: &Recording, seconds: impl RangeBounds<u32>, probes: u32) -> u64 {
    let half_opens = run.changes.iter().filter(|change| change.to == State::HalfOpen);
    half_opens.filter(|change| seconds.contains(&second_of(change.at))).count() as u64 * u64::from(probes)
}

fn second_of(at: Duration) -> u32 {
    u32::try_from(at.as_secs()).unwrap_or(u32::MAX)
}

/// The breaker opens in the outage.
fn opened_in_the_outage(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let outage = scene.span(Kind::Outage);
    let first = runs.with.changes_of(policy).find(|change| change.to == State::Open);
    let holds = first.is_some_and(|change| change.at >= start(outage.start) && change.at < start(outage.end));
    claim(format!("the breaker {policy} opened in the outage"), holds, when(first.map(|change| change.at)))
}

/// The breaker probes while the service is still down, and opens again.
fn probed_in_vain(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let over = start(scene.span(Kind::Outage).end);
    let again = runs.with.changes_of(policy).find(|change| change.from == State::HalfOpen && change.to == State::Open);
    let holds = again.is_some_and(|change| change.at < over);
    let what = format!("the breaker {policy} probed during the outage and opened again");
    claim(what, holds, when(again.map(|change| change.at)))
}

/// The breaker closes after the outage, and stays closed.
fn closed_after_the_outage(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let over = start(scene.span(Kind::Outage).end);
    let last = runs.with.changes_of(policy).last().filter(|change| change.to == State::Closed);
    let holds = last.is_some_and(|change| change.at >= over) && runs.with.stat(policy, "breaker_state") == 0;
    claim(format!("the breaker {policy} closed after the outage"), holds, when(last.map(|change| change.at)))
}

/// What each breaker did in the outage and after it, and that Envoy's statistics agree with its policy's clients.
fn of_each(scene: &Scene, runs: Runs<'_>) -> Vec<Claim> {
    let of_one = |policy| {
        [
            opened_in_the_outage(scene, runs, policy),
            probed_in_vain(scene, runs, policy),
            closed_after_the_outage(scene, runs, policy),
            envoy_counted_the_same(scene, runs, policy),
        ]
    };
    scene.breakers().into_iter().flat_map(of_one).collect()
}

fn when(at: Option<Duration>) -> String {
    at.map_or_else(|| "it did not".to_owned(), |at| format!("it did at {}", crate::words::seconds(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    #[test]
    fn a_breaker_that_never_opened_is_noticed() {
        let (scene, _, without) = test_data::runs("outage");
        let broken = test_data::broken(&scene, &without, &without).join("\n");
        assert!(broken.contains("opened in the outage"), "{broken}");
        assert!(broken.contains("clients got the fallback answer"), "{broken}");
        assert!(broken.contains("agree with its clients"), "{broken}");
    }

    #[test]
    fn more_than_the_probes_at_the_service_is_noticed() {
        let (scene, mut with, without) = test_data::runs("outage");
        let late = scene.span(Kind::Outage).end - 1;
        // Two breakers have probed once in this time.
        with.attempts[late as usize] = 11;
        assert_eq!(
            test_data::broken(&scene, &with, &without),
            ["once the breakers were open, only their probes reached the failing service"]
        );
    }

    #[test]
    fn a_breaker_that_did_not_close_is_noticed() {
        let (scene, mut with, without) = test_data::runs("outage");
        with.stats.insert("items;.;key=.=cluster=orders;.;breaker_state".to_owned(), 2);
        assert_eq!(
            test_data::broken(&scene, &with, &without),
            ["the breaker items closed after the outage"],
            "Envoy's gauge says otherwise"
        );
    }
}
