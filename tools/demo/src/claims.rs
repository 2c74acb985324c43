//! What a scene wants to show, checked against what was observed, so that the demonstration cannot lie.

pub mod breakers;
pub mod failover;
pub mod hosts;
pub mod retries;
pub mod stale;

use std::time::Duration;

use crate::answer::Fate;
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

/// Before the trouble requests are served, with Holdfast and without. On a machine that is busy with other things one may
/// still be under way when the outage begins.
pub fn served_before_the_outage(scene: &Scene, runs: Runs<'_>) -> Claim {
    let healthy = scene.span(Kind::Healthy);
    let [with, without] = [runs.with, runs.without].map(|run| run.tally(healthy.clone()));
    let seen = [("with", &with), ("without", &without)]
        .map(|(name, tally)| format!("{name} Holdfast {} of {}", tally.count(Fate::Served), tally.sent()));
    let holds = [&with, &without].into_iter().all(|tally| tally.count(Fate::Served) * 100 >= tally.sent() * 99);
    claim("before the trouble at least 99% of requests were served, with Holdfast and without", holds, seen.join(", "))
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

/// The run without is one without.
pub fn nothing_of_holdfast_without(runs: Runs<'_>) -> Claim {
    let total = runs.without.total();
    let (marked, stats) = (total.count(Fate::Fallback) + total.count(Fate::Rejected), runs.without.stats.len());
    let seen = format!("{marked} answers of Holdfast's, {stats} of its statistics");
    claim("the run without Holdfast had nothing of it", marked == 0 && stats == 0, seen)
}

/// At the end of this run, with or without Holdfast, all is well.
pub fn ends_well(scene: &Scene, which: &str, run: &Recording) -> Claim {
    let tally = run.second(scene.seconds().saturating_sub(1));
    let (served, sent) = (tally.count(Fate::Served), tally.sent());
    let what = format!("{which} Holdfast every request of the last second was served again");
    claim(what, served == sent, format!("{served} of {sent} were"))
}

/// Envoy's statistics say what the clients saw.
pub fn envoy_counted_the_same(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let governed = |caller: usize| scene.callers.get(caller).is_some_and(|caller| caller.policy == policy);
    let answers: Vec<Fate> =
        runs.with.answers.iter().filter(|answer| governed(answer.caller)).map(|answer| answer.fate).collect();
    let seen_by_clients = |fate| answers.iter().filter(|other| **other == fate).count() as u64;
    let stat = |metric| runs.with.stat(policy, metric);
    let mut pairs = vec![("requests", answers.len() as u64, stat("requests"))];
    if scene.policies_with("fallback").contains(&policy) {
        let served = stat("fallback.static") + stat("fallback.stale") + stat("fallback.route");
        pairs.push(("fallback answers", seen_by_clients(Fate::Fallback), served));
    } else if scene.breakers().contains(&policy) {
        // With a fallback, what was rejected gets that instead.
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

#[cfg(test)]
mod tests {
    use crate::scene;
    use crate::test_data;

    #[test]
    fn a_good_run_keeps_every_claim() {
        for scene in scene::all() {
            let (with, without) = (test_data::run(&scene, true), test_data::run(&scene, false));
            assert_eq!(test_data::broken(&scene, &with, &without), Vec::<String>::new());
        }
    }

    #[test]
    fn statistics_that_disagree_are_noticed() {
        for scene in scene::all() {
            let (mut with, without) = (test_data::run(&scene, true), test_data::run(&scene, false));
            for value in with.stats.values_mut() {
                *value += 1;
            }
            let broken = test_data::broken(&scene, &with, &without).join("\n");
            for policy in scene.policies() {
                let said = format!("Envoy's statistics of {policy} agree with its clients");
                assert!(broken.contains(&said), "{broken}");
            }
        }
    }

    #[test]
    fn a_run_without_that_had_holdfast_is_noticed() {
        for scene in scene::all() {
            let with = test_data::run(&scene, true);
            let broken = test_data::broken(&scene, &with, &with).join("\n");
            assert!(broken.contains("the run without Holdfast had nothing of it"), "{broken}");
        }
    }
}
