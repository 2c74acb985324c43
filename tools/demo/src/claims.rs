//! What a scene wants to show, checked against what was observed, so that the demonstration cannot lie.

use std::time::Duration;

use crate::answer::Fate;
use crate::change::State;
use crate::recording::{Recording, Runs};
use crate::scene::{Kind, Scene};

/// Something that should have been seen.
#[derive(Clone, Debug)]
pub struct Claim {
    /// As a sentence.
    pub what: String,
    /// Whether it was.
    pub holds: bool,
    /// The numbers behind it.
    pub seen: String,
}

fn claim(what: impl Into<String>, holds: bool, seen: impl Into<String>) -> Claim {
    Claim { what: what.into(), holds, seen: seen.into() }
}

/// While the service is well, requests are served, with Holdfast and without. On a machine that is busy with other things
/// one may still be under way when the outage begins.
pub fn healthy_phase_is_clean(scene: &Scene, runs: Runs<'_>) -> Claim {
    let healthy = scene.span(Kind::Healthy);
    let (mut bad, mut sent) = (Vec::new(), 0);
    for run in [runs.with, runs.without] {
        let tally = run.tally(healthy.clone());
        bad.push(tally.sent() - tally.count(Fate::Served));
        sent += tally.sent();
    }
    let seen = format!("not served were {bad:?} with and without Holdfast, of {sent} in all");
    claim("before the outage at least 99% of requests were served", bad.iter().sum::<u32>() * 100 <= sent, seen)
}

/// Without Holdfast most clients see errors in the outage.
pub fn outage_hurts_without(scene: &Scene, runs: Runs<'_>) -> Claim {
    let tally = runs.without.tally(scene.span(Kind::Outage));
    let (failed, sent) = (tally.count(Fate::Failed), tally.sent());
    claim(
        "without Holdfast most clients saw errors in the outage",
        failed * 2 > sent,
        format!("{failed} of {sent} did"),
    )
}

/// With Holdfast clients see fewer than half of the errors.
pub fn fewer_errors_with(scene: &Scene, runs: Runs<'_>) -> Claim {
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
pub fn only_probes_reached_the_service(scene: &Scene, runs: Runs<'_>, probes: u32) -> Claim {
    let what = "once the breakers were open, only their probes reached the failing service";
    let opened = scene.policies().into_iter().map(|policy| {
        let first = runs.with.changes_of(policy).find(|change| change.to == State::Open);
        first.map(|change| change.at)
    });
    let Some(opened) = opened.collect::<Option<Vec<_>>>().and_then(|opened| opened.into_iter().max()) else {
        return claim(what, false, "a breaker did not open");
    };
    // Arrivals are known by the second.
    let first = u32::try_from(opened.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let span = first..scene.span(Kind::Outage).end.max(first);
    let half_opens =
        runs.with.changes.iter().filter(|change| {
            change.to == State::HalfOpen && change.at >= start(span.start) && change.at < start(span.end)
        });
    let allowed = half_opens.count() as u64 * u64::from(probes);
    let arrived = runs.with.arrived(span);
    claim(what, arrived <= allowed, format!("{arrived} requests, {allowed} probes allowed"))
}

/// The run without is one without.
pub fn nothing_of_holdfast_without(runs: Runs<'_>) -> Claim {
    let total = runs.without.total();
    let (marked, stats) = (total.count(Fate::Fallback) + total.count(Fate::Rejected), runs.without.stats.len());
    let seen = format!("{marked} answers of Holdfast's, {stats} of its statistics");
    claim("the run without Holdfast had nothing of it", marked == 0 && stats == 0, seen)
}

/// At the end of both runs all is well.
pub fn ends_well(scene: &Scene, runs: Runs<'_>) -> Claim {
    let last = scene.seconds().saturating_sub(1);
    let bad = |run: &Recording| {
        let tally = run.second(last);
        tally.sent() - tally.count(Fate::Served)
    };
    let (with, without) = (bad(runs.with), bad(runs.without));
    let seen = format!("{with} were not with Holdfast, {without} without");
    claim("in the last second every request was served again", with + without == 0, seen)
}

/// The breaker opens in the outage.
pub fn opened_in_the_outage(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let outage = scene.span(Kind::Outage);
    let first = runs.with.changes_of(policy).find(|change| change.to == State::Open);
    let holds = first.is_some_and(|change| change.at >= start(outage.start) && change.at < start(outage.end));
    claim(format!("the breaker {policy} opened in the outage"), holds, when(first.map(|change| change.at)))
}

/// The breaker probes while the service is still down, and opens again.
pub fn probed_in_vain(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let over = start(scene.span(Kind::Outage).end);
    let again = runs.with.changes_of(policy).find(|change| change.from == State::HalfOpen && change.to == State::Open);
    let holds = again.is_some_and(|change| change.at < over);
    let what = format!("the breaker {policy} probed during the outage and opened again");
    claim(what, holds, when(again.map(|change| change.at)))
}

/// The breaker closes after the outage, and stays closed.
pub fn closed_after_the_outage(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let over = start(scene.span(Kind::Outage).end);
    let last = runs.with.changes_of(policy).last().filter(|change| change.to == State::Closed);
    let holds = last.is_some_and(|change| change.at >= over) && runs.with.stat(policy, "breaker_state") == 0;
    claim(format!("the breaker {policy} closed after the outage"), holds, when(last.map(|change| change.at)))
}

/// Envoy's statistics say what the clients saw.
pub fn envoy_counted_the_same(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let governed = |caller: usize| scene.callers.get(caller).is_some_and(|caller| caller.policy == policy);
    let answers: Vec<Fate> =
        runs.with.answers.iter().filter(|answer| governed(answer.caller)).map(|answer| answer.fate).collect();
    let seen_by_clients = |fate| answers.iter().filter(|other| **other == fate).count() as u64;
    let stat = |metric| runs.with.stat(policy, metric);
    let mut pairs = vec![
        ("requests", answers.len() as u64, stat("requests")),
        ("fallback answers", seen_by_clients(Fate::Fallback), stat("fallback.static")),
    ];
    // With a fallback, what was rejected got that instead.
    if stat("fallback.static") == 0 {
        pairs.push(("rejections", seen_by_clients(Fate::Rejected), stat("rejected.open")));
    }
    let holds = pairs.iter().all(|(_, clients, envoy)| clients == envoy);
    let seen: Vec<String> =
        pairs.iter().map(|(what, clients, envoy)| format!("{what}: clients {clients}, Envoy {envoy}")).collect();
    claim(format!("Envoy's statistics of {policy} agree with its clients"), holds, seen.join("; "))
}

fn start(second: u32) -> Duration {
    Duration::from_secs(second.into())
}

fn when(at: Option<Duration>) -> String {
    at.map_or_else(|| "it did not".to_owned(), |at| format!("it did at {}", crate::words::seconds(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene;
    use crate::test_data;

    fn broken(scene: &Scene, with: &Recording, without: &Recording) -> Vec<String> {
        let claims = (scene.claims)(scene, Runs { with, without });
        claims.into_iter().filter(|claim| !claim.holds).map(|claim| claim.what).collect()
    }

    #[test]
    fn a_good_run_keeps_every_claim() {
        for scene in scene::all() {
            let (with, without) = (test_data::run(&scene, true), test_data::run(&scene, false));
            assert_eq!(broken(&scene, &with, &without), Vec::<String>::new());
        }
    }

    #[test]
    fn a_breaker_that_never_opened_is_noticed() {
        for scene in scene::all() {
            let without = test_data::run(&scene, false);
            let broken = broken(&scene, &without, &without).join("\n");
            assert!(broken.contains("opened in the outage"), "{broken}");
            assert!(broken.contains("clients got the fallback answer"), "{broken}");
            assert!(broken.contains("agree with its clients"), "{broken}");
        }
    }

    #[test]
    fn more_than_the_probes_at_the_service_is_noticed() {
        for scene in scene::all() {
            let (mut with, without) = (test_data::run(&scene, true), test_data::run(&scene, false));
            let late = scene.span(Kind::Outage).end - 1;
            // Two breakers have probed once in this time.
            with.arrivals[late as usize] = 11;
            assert_eq!(
                broken(&scene, &with, &without),
                ["once the breakers were open, only their probes reached the failing service"]
            );
        }
    }

    #[test]
    fn statistics_that_disagree_are_noticed() {
        for scene in scene::all() {
            let (mut with, without) = (test_data::run(&scene, true), test_data::run(&scene, false));
            for value in with.stats.values_mut() {
                *value += 1;
            }
            let broken = broken(&scene, &with, &without).join("\n");
            assert!(broken.contains("agree with its clients"), "{broken}");
            assert!(broken.contains("closed after the outage"), "Envoy's gauge says otherwise: {broken}");
        }
    }
}
