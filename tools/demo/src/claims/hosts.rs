//! What ejection should do for a service of which a host fails, or is slow.

use std::ops::Range;
use std::time::Duration;

use super::{Claim, claim, start};
use crate::answer::Fate;
use crate::ejection::{Told, What};
use crate::recording::{Recording, Runs};
use crate::scene::{Kind, Scene};
use crate::words;

/// Attempts that were under way when their host was taken out arrive this long after that was read in the log at the latest.
const UNDER_WAY: Duration = Duration::from_millis(300);

fn first(run: &Recording, host: usize, what: What) -> Option<&Told> {
    run.told_of(host).find(|told| told.what == what)
}

fn when(told: Option<&Told>) -> String {
    told.map_or_else(|| "it was not told".to_owned(), |told| format!("at {}", words::seconds(told.at)))
}

/// With Holdfast a host that fails is out before it has failed `most` attempts.
pub fn out_after_few_tries(scene: &Scene, runs: Runs<'_>, host: usize, most: u64) -> Claim {
    let began = start(scene.span(Kind::Outage).start);
    let out = first(runs.with, host, What::Ejected);
    let failed = out.map(|out| runs.with.arrived(host, began..out.at + UNDER_WAY));
    let holds = out.is_some_and(|out| out.at >= began && out.text.contains("consecutive failures"))
        && failed.is_some_and(|failed| failed <= most);
    let seen = format!("{}, after {} attempts", when(out), failed.unwrap_or_default());
    claim(format!("with Holdfast host {} was out before it had failed {most} attempts", host + 1), holds, seen)
}

/// With Holdfast a host that still fails when its time of `lasts` is over gets one attempt, and is out again.
pub fn one_probe_while_it_failed(scene: &Scene, runs: Runs<'_>, host: usize, lasts: Duration) -> Claim {
    let healed = start(scene.span(Kind::Outage).end);
    let out = first(runs.with, host, What::Ejected).map_or(healed, |told| told.at);
    let failed = runs.with.told_of(host).filter(|told| told.what == What::ProbeFailed).count();
    let early = runs.with.arrived(host, out + UNDER_WAY..out + lasts.saturating_sub(UNDER_WAY));
    let attempts = runs.with.arrived(host, out + UNDER_WAY..healed);
    let what = format!(
        "with Holdfast host {} got nothing while it was out and exactly one request when its time was over, which failed",
        host + 1
    );
    let seen = format!("{early} before its time was over, {attempts} in all, {failed} failed as its probe");
    claim(what, (early, attempts, failed) == (0, 1, 1), seen)
}

/// With Holdfast no client gets an error once the failing host is out, its failing probe included.
pub fn no_errors_once_out(scene: &Scene, runs: Runs<'_>, host: usize) -> Claim {
    let out = first(runs.with, host, What::Ejected).map(|told| told.at);
    let errors = |from: Duration| {
        runs.with.answers.iter().filter(|answer| answer.sent >= from && answer.fate == Fate::Failed).count()
    };
    let later = out.map(errors);
    let before = errors(start(scene.span(Kind::Outage).start)) - later.unwrap_or_default();
    let seen = later.map_or_else(|| "it never was".to_owned(), |later| format!("{later} did, {before} had before"));
    claim(format!("with Holdfast no client got an error once host {} was out", host + 1), later == Some(0), seen)
}

/// Only requests of these callers got errors, in both runs: the others were tried again.
pub fn errors_only_where_nothing_is_retried(runs: Runs<'_>, callers: &[usize]) -> Claim {
    let failed = |run: &Recording, of_them: bool| {
        let failed = run.answers.iter().filter(|answer| answer.fate == Fate::Failed);
        failed.filter(|answer| callers.contains(&answer.caller) == of_them).count()
    };
    let [with, without] = [runs.with, runs.without].map(|run| (failed(run, true), failed(run, false)));
    let seen =
        format!("with Holdfast {} and {} others, without {} and {} others", with.0, with.1, without.0, without.1);
    claim("only requests that may not be sent twice got errors, in both runs", with.1 + without.1 == 0, seen)
}

/// Without Holdfast a host that still fails gets its share of requests when its time is over, and clients see that.
pub fn failed_again_without(scene: &Scene, runs: Runs<'_>, host: usize) -> Claim {
    let trouble = scene.span(Kind::Outage);
    let later = trouble.start + 1..trouble.end;
    let (attempts, errors) =
        (runs.without.attempts_at(host, later.clone()), runs.without.tally(later).count(Fate::Failed));
    let what =
        format!("without Holdfast host {} came back while it still failed, and clients got errors again", host + 1);
    claim(
        what,
        attempts >= 5 && errors > 0,
        format!("{attempts} more attempts failed there, {errors} clients got an error"),
    )
}

/// With Holdfast a host that is only slow is taken out while it is.
pub fn out_for_its_latency(scene: &Scene, runs: Runs<'_>, host: usize, slow: Range<u32>) -> Claim {
    let told = first(runs.with, host, What::Ejected);
    let holds = told
        .is_some_and(|told| told.at >= start(slow.start) && told.at < start(slow.end) && told.text.contains("latency"));
    let seen = format!("{}, slow from {} s", when(told), slow.start);
    let stayed = runs.without.out(host, start(scene.seconds())).is_empty();
    claim(format!("with Holdfast host {} was out for its latency while it was slow", host + 1), holds && stayed, seen)
}

/// Without Holdfast a slow host keeps its share.
pub fn kept_its_share_without(runs: Runs<'_>, host: usize, seconds: Range<u32>) -> Claim {
    let (attempts, all) = (runs.without.attempts_at(host, seconds.clone()), runs.without.attempts(seconds));
    let what = format!("without Holdfast host {} kept its share while it was slow, at least 15%", host + 1);
    claim(what, attempts * 100 >= all * 15, format!("{attempts} of {all} attempts"))
}

/// With Holdfast the load of those that are out falls on the others, on none of them less than 28% and more than 39% of it.
pub fn load_fell_on_the_others_evenly(runs: Runs<'_>, hosts: &[usize], seconds: Range<u32>) -> Claim {
    let all = runs.with.attempts(seconds.clone());
    let attempts: Vec<u64> = hosts.iter().map(|host| runs.with.attempts_at(*host, seconds.clone())).collect();
    let holds =
        attempts.iter().all(|attempts| (28..=39).contains(&(attempts * 100).checked_div(all).unwrap_or_default()));
    let seen: Vec<String> = attempts.iter().map(u64::to_string).collect();
    let what = "with Holdfast the load of the hosts that were out fell on the others evenly, 28% to 39% on each";
    claim(what, holds, format!("{} of {all} attempts", seen.join(", ")))
}

/// With Holdfast a host that is well again gets a request as its probe when its time is over, and is back by it.
pub fn back_by_a_probe(scene: &Scene, runs: Runs<'_>, host: usize) -> Claim {
    let healed = start(scene.span(Kind::Outage).end);
    let told = first(runs.with, host, What::Back);
    let by_probe = |text: &str| text.contains("its probe succeeded") || text.contains("it is not slow any more");
    let holds = told.is_some_and(|told| told.at >= healed && by_probe(&told.text));
    claim(format!("with Holdfast host {} came back by a probe after it had recovered", host + 1), holds, when(told))
}

/// With Holdfast no host but these was ever out.
pub fn nobody_else_was_out(runs: Runs<'_>, hosts: &[usize]) -> Claim {
    let others: Vec<String> = runs
        .with
        .told
        .iter()
        .filter(|told| !hosts.contains(&told.host))
        .map(|told| format!("host {} {}", told.host + 1, told.text))
        .collect();
    let seen = if others.is_empty() { "none was".to_owned() } else { others.join("; ") };
    claim("with Holdfast no host that was well was taken out", others.is_empty(), seen)
}

/// Envoy's statistics say of hosts what the log says, and know all of them.
pub fn envoy_counted_the_same_hosts(scene: &Scene, runs: Runs<'_>, policy: &str) -> Claim {
    let told = |what| runs.with.told.iter().filter(|told| told.what == what).count() as u64;
    let stat = |metric| runs.with.stat(policy, metric);
    let ejections = stat("ejections.consecutive_failures") + stat("ejections.latency");
    let pairs = [
        ("hosts", scene.hosts as u64, stat("hosts")),
        ("out at the end", 0, stat("hosts_ejected")),
        ("ejections", told(What::Ejected), ejections),
        ("failed probes", told(What::ProbeFailed), stat("probe_failed")),
        ("returns", told(What::Back), stat("readmitted")),
    ];
    let seen: Vec<String> =
        pairs.iter().map(|(what, known, envoy)| format!("{what}: {known}, Envoy {envoy}")).collect();
    let holds = pairs.iter().all(|(_, known, envoy)| known == envoy);
    claim(format!("Envoy's statistics of {policy} agree with its log about hosts"), holds, seen.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    fn broken(with: &Recording, without: &Recording) -> String {
        let (scene, ..) = test_data::runs("ejection");
        test_data::broken(&scene, with, without).join("\n")
    }

    #[test]
    fn a_run_that_took_nobody_out_is_noticed() {
        let (_, _, without) = test_data::runs("ejection");
        let broken = broken(&without, &without);
        for said in [
            "out before it had failed",
            "exactly one request",
            "no client got an error",
            "for its latency",
            "came back by a probe",
            "agree with its log",
        ] {
            assert!(broken.contains(said), "{said}: {broken}");
        }
    }

    #[test]
    fn a_second_attempt_at_a_host_that_is_out_is_noticed() {
        let (_, mut with, without) = test_data::runs("ejection");
        let probe = with.hosts[1].iter_mut().find(|arrival| arrival.at > Duration::from_secs(5)).unwrap();
        let second = *probe;
        with.hosts[1].push(second);
        let broken = broken(&with, &without);
        assert_eq!(broken.lines().count(), 1, "{broken}");
        assert!(broken.contains("exactly one request when its time was over"), "{broken}");
    }

    #[test]
    fn an_error_while_the_host_is_out_is_noticed() {
        let (_, mut with, without) = test_data::runs("ejection");
        let answer =
            with.answers.iter_mut().find(|answer| answer.caller == 0 && answer.sent > Duration::from_secs(6)).unwrap();
        answer.fate = Fate::Failed;
        let (once_out, kind) = (
            "with Holdfast no client got an error once host 2 was out",
            "only requests that may not be sent twice got errors, in both runs",
        );
        assert_eq!(broken(&with, &without), format!("{once_out}\n{kind}"), "a GET it was");
    }

    #[test]
    fn an_envoy_that_probes_by_itself_is_noticed() {
        let (_, with, _) = test_data::runs("ejection");
        let without = Recording { stats: Default::default(), told: Vec::new(), ..with.clone() };
        let broken = broken(&with, &without);
        for said in ["clients got errors again", "kept its share while it was slow"] {
            assert!(broken.contains(said), "{said}: {broken}");
        }
    }

    #[test]
    fn a_host_out_without_a_reason_is_noticed() {
        let (_, mut with, without) = test_data::runs("ejection");
        with.told.push(test_data::told(9_500, 4, What::Other, "not ejected: 5 consecutive failures"));
        assert_eq!(broken(&with, &without), "with Holdfast no host that was well was taken out");
    }
}
