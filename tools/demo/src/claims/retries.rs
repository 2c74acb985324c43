//! What retries should do for single failures, and should not do in an outage.

use std::ops::Range;

use super::{Claim, claim};
use crate::answer::Fate;
use crate::recording::{Recording, Runs};
use crate::scene::{Kind, Scene};
use crate::words;

/// A retry budget, as the policy document has it.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Retries for each 100 requests in the window.
    pub ratio: u32,
    /// Retries for each second of the window.
    pub per_second: u32,
    /// The window, in seconds.
    pub window: u32,
}

impl Budget {
    /// How many retries it allows when so many requests are all that the window has seen.
    pub fn allowed(self, requests: u32) -> u64 {
        u64::from(requests) * u64::from(self.ratio) / 100 + u64::from(self.per_second) * u64::from(self.window)
    }
}

/// The retries of what was sent in these seconds, counted at the servers: the attempts after each first.
pub fn made(run: &Recording, seconds: Range<u32>) -> u64 {
    run.attempts(seconds.clone()).saturating_sub(run.tally(seconds).sent().into())
}

/// Before the outage some attempts fail, so that retries have something to hide.
pub fn tries_failed_before_the_outage(scene: &Scene, runs: Runs<'_>) -> Claim {
    let healthy = scene.span(Kind::Healthy);
    let retried = [runs.with, runs.without].map(|run| (made(run, healthy.clone()), run.tally(healthy.clone()).sent()));
    let holds = retried.iter().all(|(retries, sent)| retries * 100 >= u64::from(*sent) * 3);
    let seen = retried.map(|(retries, sent)| format!("{retries} of {sent}")).join(" and ");
    claim("before the outage at least 3% of requests were retried, with Holdfast and without", holds, seen)
}

/// In the outage no request is served, however often it is tried.
pub fn nobody_served_in_the_outage(scene: &Scene, runs: Runs<'_>) -> Claim {
    let outage = scene.span(Kind::Outage);
    // One that is tried again may live to see the end of the outage.
    let early = outage.start..outage.end.saturating_sub(1).max(outage.start);
    let [with, without] = [runs.with, runs.without].map(|run| run.tally(early.clone()).count(Fate::Served));
    let seen = format!("{with} were with Holdfast, {without} without");
    claim("in the outage no request was served", with + without == 0, seen)
}

/// Without Holdfast the failing service gets at least `percent` of the load that clients make.
pub fn load_multiplied_without(scene: &Scene, runs: Runs<'_>, percent: u32) -> Claim {
    let outage = scene.span(Kind::Outage);
    let (attempts, sent) = (runs.without.attempts(outage.clone()), runs.without.tally(outage).sent());
    let what = format!(
        "without Holdfast retries multiplied the load on the failing service by {:.1} or more",
        f64::from(percent) / 100.0
    );
    let seen = format!("{attempts} attempts of {sent} requests, {}", words::factor(attempts, sent));
    claim(what, sent > 0 && attempts * 100 >= u64::from(sent) * u64::from(percent), seen)
}

/// With Holdfast there are at most 3% more attempts than the budget allows, until the end of the outage.
pub fn tries_within_the_budget(scene: &Scene, runs: Runs<'_>, budget: Budget) -> Claim {
    let (sent, attempts) = until_the_end_of_the_outage(scene, runs);
    let allowed = u64::from(sent) + budget.allowed(sent);
    let seen = format!("{attempts} attempts, {allowed} allowed");
    claim(
        "with Holdfast there were at most 3% more attempts than the budget allows",
        attempts * 100 <= allowed * 103,
        seen,
    )
}

/// With Holdfast at least 60% of the allowed retries are made: the budget is not kept by doing nothing.
pub fn budget_used(scene: &Scene, runs: Runs<'_>, budget: Budget) -> Claim {
    let (sent, attempts) = until_the_end_of_the_outage(scene, runs);
    let (allowed, made) = (budget.allowed(sent), attempts.saturating_sub(sent.into()));
    let seen = format!("{made} of {allowed}");
    claim("with Holdfast at least 60% of the allowed retries were made", made * 100 >= allowed * 60, seen)
}

/// Without Holdfast the service is still down when the cause of the outage is gone.
pub fn still_down_without(scene: &Scene, runs: Runs<'_>) -> Claim {
    let tally = runs.without.tally(scene.span(Kind::Recovery));
    let (served, sent) = (tally.count(Fate::Served), tally.sent());
    let what = "without Holdfast retries kept the service down after the cause was gone";
    claim(what, served * 2 < sent, format!("{served} of {sent} requests were served"))
}

/// Envoy's statistics say how many retries reached the servers.
pub fn envoy_counted_the_same_retries(runs: Runs<'_>, policy: &str) -> Claim {
    let attempts: u64 = runs.with.attempts.iter().sum();
    let servers = attempts.saturating_sub(runs.with.total().sent().into());
    let envoy = runs.with.stat(policy, "retries");
    let what = format!("Envoy's statistics of {policy} agree with the servers about retries");
    claim(what, servers == envoy, format!("servers {servers}, Envoy {envoy}"))
}

fn until_the_end_of_the_outage(scene: &Scene, runs: Runs<'_>) -> (u32, u64) {
    let troubled = 0..scene.span(Kind::Outage).end;
    (runs.with.tally(troubled.clone()).sent(), runs.with.attempts(troubled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    const BUDGET: Budget = Budget { ratio: 20, per_second: 1, window: 10 };

    #[test]
    fn a_budget_allows_a_share_of_the_requests_and_some_each_second() {
        assert_eq!(BUDGET.allowed(400), 90);
        assert_eq!(BUDGET.allowed(0), 10);
    }

    #[test]
    fn a_storm_with_holdfast_is_noticed() {
        let (scene, with, without) = test_data::runs("storm");
        let stormy = Recording { attempts: without.attempts.clone(), ..with };
        let broken = test_data::broken(&scene, &stormy, &without);
        assert_eq!(
            broken,
            [
                "with Holdfast there were at most 3% more attempts than the budget allows",
                "Envoy's statistics of orders agree with the servers about retries"
            ]
        );
    }

    #[test]
    fn three_percent_more_than_allowed_are_noticed_and_less_is_not() {
        let (scene, mut with, without) = test_data::runs("storm");
        let last = scene.span(Kind::Outage).end as usize - 1;
        // 800 requests and 170 retries are allowed, and 3% of that make 999 attempts; 940 there are.
        for (more, holds) in [(59, true), (60, false)] {
            with.attempts[last] += more;
            let claim = tries_within_the_budget(&scene, Runs { with: &with, without: &without }, BUDGET);
            assert_eq!(claim.holds, holds, "{}", claim.seen);
            with.attempts[last] -= more;
        }
    }

    #[test]
    fn retries_that_never_were_are_noticed() {
        let (scene, mut with, mut without) = test_data::runs("storm");
        for run in [&mut with, &mut without] {
            run.attempts = vec![u64::from(scene.rate()); scene.seconds() as usize];
        }
        let broken = test_data::broken(&scene, &with, &without).join("\n");
        for said in ["were retried", "multiplied the load", "60% of the allowed", "agree with the servers"] {
            assert!(broken.contains(said), "{said}: {broken}");
        }
    }

    #[test]
    fn a_service_that_came_back_by_itself_is_noticed() {
        let (scene, with, without) = test_data::runs("storm");
        let lucky = Recording { answers: with.answers.clone(), ..without };
        assert_eq!(
            test_data::broken(&scene, &with, &lucky),
            ["without Holdfast retries kept the service down after the cause was gone"]
        );
    }
}
