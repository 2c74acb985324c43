//! The scene of ejection: of five hosts one fails and another turns slow, while the rest is well.

use std::ops::Range;
use std::time::Duration;

use holdfast_tests::{Action, Seats};
use http::Method;
use serde_json::json;

use super::{Caller, Kind, Manner, Phase, Scene, Script, Without};
use crate::answer::Fate;
use crate::chart::Panel;
use crate::claims::{self, Claim, hosts, retries};
use crate::column::Column;
use crate::ejection::What;
use crate::recording::{Recording, Runs};
use crate::server::{always, unwell};
use crate::summary::{Row, Table};
use crate::words;

/// What a healthy answer takes.
const USUAL: Duration = Duration::from_millis(10);
/// How long the failing host takes to fail.
const FAILS_AFTER: Duration = Duration::from_millis(100);
/// What the slow host takes.
const SLOW: Duration = Duration::from_millis(240);

const HOSTS: usize = 5;
/// The host that fails and the one that turns slow, counted from 0; and the others.
const FAILING: usize = 1;
const SLUGGISH: usize = 3;
const WELL: [usize; 3] = [0, 2, 4];

/// `outlier.consecutive_failures`, and the same of Envoy's own detection.
const IN_A_ROW: u32 = 5;
/// `outlier.base_ejection_time` in seconds, and the same of Envoy's own detection.
const FIRST_TIME: u32 = 3;

/// A failing host is out long before so many attempts.
const FEW_TRIES: u64 = 30;

/// Clients that waited so long were served by the slow host.
const LONG: Duration = Duration::from_millis(200);

/// Reads are sent again when they fail, purchases are not: nobody knows what they did.
const READ: Caller = Caller { method: Method::GET, path: "/items", resources: 1, per_second: 100, policy: "orders" };
const BUY: Caller = Caller { method: Method::POST, path: "/checkout", resources: 1, per_second: 100, policy: "orders" };

pub(super) fn scene() -> Scene {
    Scene {
        name: "ejection",
        title: "One host fails, another turns slow: outlier ejection with probes",
        service: "orders",
        hosts: HOSTS,
        standby: None,
        capacity: None,
        callers: vec![READ, BUY],
        patience: Duration::from_secs(5),
        // The failing host is well again before its second time is over, and before a request goes unsteered to find new hosts
        // (5 s after the first ejection). The slow one is before its first time is over: it is out 0.3 s after it turned slow
        // at the earliest.
        phases: vec![
            Phase {
                kind: Kind::Healthy,
                name: "healthy",
                seconds: 3,
                told: format!("all {HOSTS} hosts answer in {} ms", USUAL.as_millis()),
                servers: |_| always(Action::ok().after(USUAL)),
            },
            Phase {
                kind: Kind::Outage,
                name: "one host fails",
                seconds: 2,
                told: format!("host {} answers 503 to everything", FAILING + 1),
                servers: |number| if number == FAILING { failing() } else { always(Action::ok().after(USUAL)) },
            },
            Phase {
                kind: Kind::Outage,
                name: "another turns slow",
                seconds: 3,
                told: format!(
                    "host {} takes {} ms, {} times as long as the others; host {} still fails",
                    SLUGGISH + 1,
                    SLOW.as_millis(),
                    SLOW.as_millis() / USUAL.as_millis(),
                    FAILING + 1
                ),
                servers: |number| match number {
                    FAILING => failing(),
                    SLUGGISH => unwell(Manner::Slow, Action::ok().after(SLOW)),
                    _ => always(Action::ok().after(USUAL)),
                },
            },
            Phase {
                kind: Kind::Recovery,
                name: "recovery",
                seconds: 7,
                told: format!("hosts {} and {} are well again", FAILING + 1, SLUGGISH + 1),
                servers: |_| always(Action::ok().after(USUAL)),
            },
        ],
        seats: Seats::Both,
        // Its times are short, so that nobody has to wait for the end of the story.
        policy: include_str!("ejection.json"),
        policy_in_words: "a host is out for 3 s after 5 failures in a row, or when in an interval of 1 s its answers took 3 \
                          times as long as those of the others; then one request is its probe, and decides whether it is \
                          back or out for 6 s. A failed GET is tried again on another host, a POST is not",
        without: Without {
            retry_policy: Some(json!({
                "retry_on": "connect-failure,refused-stream,reset,gateway-error",
                "num_retries": 2,
                "host_selection_retry_max_attempts": 5,
                "retry_host_predicate": [{
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    },
                }],
            })),
            retried: Some(Method::GET),
            cluster: json!({"outlier_detection": {
                "consecutive_5xx": IN_A_ROW,
                "interval": "1s",
                "base_ejection_time": format!("{FIRST_TIME}s"),
                "max_ejection_percent": 50,
            }}),
            in_words: "the same Envoy with its own outlier_detection: consecutive_5xx 5 (its default), the same times, and at \
                       most 50% ejected as in the policy (by its default of 10% none of five hosts would ever be); \
                       a failed GET is tried again on another host, too",
        },
        columns: [Column::Answers(Fate::Served), Column::Answers(Fate::Failed)]
            .into_iter()
            .chain((0..HOSTS).map(Column::Host))
            .chain([Column::Median, Column::P99])
            .collect(),
        panels: vec![Panel::Hosts, Panel::Waits],
        remark: "Each thin line in a host's lane is one attempt that reached it. With Holdfast a host that is out gets nothing but, \
                 when its time is over, one request as its probe: a GET, so that another host can answer it should the probe \
                 fail. Envoy's own detection gives the host its full share again to see whether it is well, here for about a \
                 second, because Envoy merges such changes of a second into one (update_merge_window), and it has no eye for \
                 a host that is only slow.",
        tables,
        sentences,
        gist,
        claims,
    }
}

fn failing() -> Script {
    unwell(Manner::Failing, Action::status(503).after(FAILS_AFTER))
}

/// The seconds in which the slow host is slow.
fn slow_seconds(scene: &Scene) -> Range<u32> {
    let slow = scene.spans().find(|(phase, _)| (phase.servers)(SLUGGISH).manner == Manner::Slow);
    slow.map_or(0..0, |(_, span)| span)
}

/// The first second in which the failing host fails, and the others.
fn failing_seconds(scene: &Scene) -> (Range<u32>, Range<u32>) {
    let failing = scene.span(Kind::Outage);
    (failing.start..failing.start + 1, failing.start + 1..failing.end)
}

/// The last second of the trouble.
fn last_second(scene: &Scene) -> Range<u32> {
    let end = scene.span(Kind::Outage).end;
    end.saturating_sub(1)..end
}

fn errors(run: &Recording, seconds: &Range<u32>) -> u32 {
    run.tally(seconds.clone()).count(Fate::Failed)
}

/// Clients that waited for the slow host.
fn waited_long(run: &Recording, seconds: &Range<u32>) -> usize {
    let sent = |at: Duration| seconds.contains(&u32::try_from(at.as_secs()).unwrap_or(u32::MAX));
    run.answers.iter().filter(|answer| sent(answer.sent) && answer.waited >= LONG).count()
}

/// How the attempts of some seconds fell on the hosts that are well.
fn spread(run: &Recording, seconds: &Range<u32>) -> String {
    WELL.map(|host| run.attempts_at(host, seconds.clone()).to_string()).join(", ")
}

/// From when on this host had its share again, that is 15% of the attempts of a second; from the start of the recovery.
fn share_again(scene: &Scene, run: &Recording, host: usize) -> Option<Duration> {
    let recovery = scene.span(Kind::Recovery);
    let has = |second: &u32| {
        let seconds = *second..second + 1;
        run.attempts_at(host, seconds.clone()) * 100 >= run.attempts(seconds) * 15
    };
    let first = recovery.clone().find(has)?;
    Some(Duration::from_secs((first - recovery.start).into()))
}

fn share_again_in_words(scene: &Scene, run: &Recording, host: usize) -> String {
    share_again(scene, run, host).map_or_else(|| "not at all".to_owned(), words::seconds)
}

fn tables(scene: &Scene, runs: Runs<'_>) -> Vec<Table> {
    let (first, later) = failing_seconds(scene);
    let (slow, last, all) = (slow_seconds(scene), last_second(scene), 0..scene.seconds());
    let part = |what: &str, value: &dyn Fn(&Recording) -> String| Row { is_part: true, ..Row::of(what, runs, value) };
    let attempts =
        |run: &Recording, host: usize, seconds: &Range<u32>| run.attempts_at(host, seconds.clone()).to_string();
    let whole = first.start..later.end;
    vec![
        Table {
            title: format!("Host {}, which failed for {} s", FAILING + 1, whole.len()),
            rows: vec![
                Row::of("attempts it got, and failed", runs, |run| attempts(run, FAILING, &whole)),
                part("in the first second", &|run| attempts(run, FAILING, &first)),
                part("later, when its time out was over", &|run| attempts(run, FAILING, &later)),
                Row::of("clients that got an error", runs, |run| errors(run, &all).to_string()),
                part("in the first second", &|run| errors(run, &first).to_string()),
                part("later", &|run| (errors(run, &all) - errors(run, &first)).to_string()),
            ],
        },
        Table {
            title: format!("Host {}, which was slow for {} s", SLUGGISH + 1, slow.len()),
            rows: vec![
                Row::of(format!("clients that waited {} ms or more", LONG.as_millis()), runs, |run| {
                    waited_long(run, &slow).to_string()
                }),
                Row::of("attempts it got in the last of these seconds", runs, |run| attempts(run, SLUGGISH, &last)),
                Row::of("a client waited in that second, p99", runs, |run| {
                    words::wait(run.tally(last.clone()).wait(99))
                }),
            ],
        },
        Table {
            title: "The others, in that last second".to_owned(),
            rows: vec![Row::of("attempts at hosts 1, 3 and 5", runs, |run| spread(run, &last))],
        },
        Table {
            title: format!("After: in the {} s of the recovery", scene.span(Kind::Recovery).len()),
            rows: [FAILING, SLUGGISH]
                .into_iter()
                .map(|host| {
                    Row::of(format!("host {} had its share again after", host + 1), runs, |run| {
                        share_again_in_words(scene, run, host)
                    })
                })
                .collect(),
        },
    ]
}

fn sentences(scene: &Scene, runs: Runs<'_>) -> String {
    let (first, later) = failing_seconds(scene);
    let (slow, last, all) = (slow_seconds(scene), last_second(scene), 0..scene.seconds());
    let attempts = |run: &Recording, host: usize, seconds: &Range<u32>| run.attempts_at(host, seconds.clone());
    let later_errors = |run: &Recording| errors(run, &all) - errors(run, &first);
    let failed = format!(
        "Host {} began to fail and was out after {} attempts with Holdfast, {} without; in that second {} and {} clients got an \
         error, all of them of requests that may not be sent twice.",
        FAILING + 1,
        attempts(runs.with, FAILING, &first),
        attempts(runs.without, FAILING, &first),
        errors(runs.with, &first),
        errors(runs.without, &first),
    );
    let probed = format!(
        "When its time was over it still failed. With Holdfast it got {} as its probe, which was then \
         answered by another host, and {} saw an error. Envoy's own detection let it back to its full share: {} attempts \
         failed there again, and {}.",
        words::plural(attempts(runs.with, FAILING, &later) as usize, "request"),
        clients(later_errors(runs.with), "client"),
        attempts(runs.without, FAILING, &later),
        clients(later_errors(runs.without), "client got an error"),
    );
    let sluggish = format!(
        "Host {} turned slow. {} In the last of these seconds the {} attempts there were fell on hosts 1, 3 and 5 alone: {}. Without \
         Holdfast it kept its share, and {} clients waited {} ms or more ({} with Holdfast).",
        SLUGGISH + 1,
        runs.with
            .told_of(SLUGGISH)
            .find(|told| told.what == What::Ejected)
            .map(|told| {
                let since = told.at.saturating_sub(Duration::from_secs(slow.start.into()));
                format!("With Holdfast it was out {} later, for its latency alone.", words::seconds(since))
            })
            .unwrap_or_default(),
        runs.with.attempts(last.clone()),
        spread(runs.with, &last),
        waited_long(runs.without, &slow),
        LONG.as_millis(),
        waited_long(runs.with, &slow),
    );
    let back = format!(
        "Both came back by a probe, once they were well and their time was over: host {} had its share again {} after the \
         recovery, host {} after {} ({} and {} without Holdfast).",
        FAILING + 1,
        share_again_in_words(scene, runs.with, FAILING),
        SLUGGISH + 1,
        share_again_in_words(scene, runs.with, SLUGGISH),
        share_again_in_words(scene, runs.without, FAILING),
        share_again_in_words(scene, runs.without, SLUGGISH),
    );
    [failed, probed, sluggish, back].join(" ")
}

/// `no client`, `1 client`, `2 clients`; or with what they did.
fn clients(count: u32, what: &str) -> String {
    let (client, rest) = what.split_once(' ').unwrap_or((what, ""));
    let counted = if count == 0 { format!("no {client}") } else { words::plural(count as usize, client) };
    format!("{counted} {rest}").trim_end().to_owned()
}

fn gist(scene: &Scene, runs: Runs<'_>) -> String {
    let (slow, all) = (slow_seconds(scene), 0..scene.seconds());
    let (_, later) = failing_seconds(scene);
    format!(
        "One of {HOSTS} hosts failed and was out after {IN_A_ROW} failures in a row, with Holdfast and with Envoy's own detection; \
         but when its time was over, {} failed there with Holdfast, {} with Envoy's ({} and {} clients got an error in all); \
         a slow host kept {} clients waiting with Holdfast, {} with Envoy's.",
        words::plural(runs.with.attempts_at(FAILING, later.clone()) as usize, "attempt"),
        runs.without.attempts_at(FAILING, later),
        errors(runs.with, &all),
        errors(runs.without, &all),
        waited_long(runs.with, &slow),
        waited_long(runs.without, &slow),
    )
}

fn claims(scene: &Scene, runs: Runs<'_>) -> Vec<Claim> {
    let policy = READ.policy;
    vec![
        claims::served_before_the_outage(scene, runs),
        hosts::out_after_few_tries(scene, runs, FAILING, FEW_TRIES),
        hosts::one_probe_while_it_failed(scene, runs, FAILING, Duration::from_secs(FIRST_TIME.into())),
        hosts::no_errors_once_out(scene, runs, FAILING),
        hosts::errors_only_where_nothing_is_retried(runs, &[1]),
        hosts::failed_again_without(scene, runs, FAILING),
        hosts::out_for_its_latency(scene, runs, SLUGGISH, slow_seconds(scene)),
        hosts::kept_its_share_without(runs, SLUGGISH, last_second(scene)),
        hosts::load_fell_on_the_others_evenly(runs, &WELL, last_second(scene)),
        hosts::back_by_a_probe(scene, runs, FAILING),
        hosts::back_by_a_probe(scene, runs, SLUGGISH),
        hosts::nobody_else_was_out(runs, &[FAILING, SLUGGISH]),
        claims::ends_well(scene, "with", runs.with),
        claims::ends_well(scene, "without", runs.without),
        claims::nothing_of_holdfast_without(runs),
        claims::envoy_counted_the_same(scene, runs, policy),
        retries::envoy_counted_the_same_retries(runs, policy),
        hosts::envoy_counted_the_same_hosts(scene, runs, policy),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    #[test]
    fn the_words_are_the_policys_and_envoys() {
        let scene = scene();
        let policy: serde_json::Value = serde_json::from_str(scene.policy).unwrap();
        let outlier = &policy["policies"][0]["outlier"];
        assert_eq!(outlier["consecutive_failures"], IN_A_ROW);
        assert_eq!(outlier["latency"]["deviation"], 200, "three times as long");
        assert_eq!(outlier["base_ejection_time"], format!("{FIRST_TIME}s"));
        let envoys = &scene.without.cluster["outlier_detection"];
        assert_eq!(envoys["consecutive_5xx"], outlier["consecutive_failures"]);
        assert_eq!(envoys["max_ejection_percent"], outlier["max_ejected"]);
        for same in ["interval", "base_ejection_time"] {
            assert_eq!(envoys[same], outlier[same], "{same}");
        }
        let retries = &scene.without.retry_policy.unwrap()["num_retries"];
        assert_eq!(&policy["policies"][0]["retry"]["max_retries"], retries);
    }

    #[test]
    fn the_hosts_heal_while_they_are_out() {
        let scene = scene();
        let (failing, slow) = (scene.span(Kind::Outage), slow_seconds(&scene));
        assert!(failing.len() as u32 > FIRST_TIME + 1, "the first probe of the failing host fails");
        assert!(failing.len() as u32 <= FIRST_TIME * 2, "and the second does not");
        assert!(failing.len() <= 5, "so long after the first ejection a request goes unsteered, and might meet it");
        assert!(slow.len() as u32 <= FIRST_TIME, "the probe of the slow host is not slow");
        let out_longest = failing.start + 1 + FIRST_TIME * 3;
        assert!(scene.seconds() > out_longest + 1, "and all of that can be seen");
    }

    #[test]
    fn the_tables_are_the_arithmetic_of_both_runs() {
        let (scene, with, without) = test_data::runs("ejection");
        let tables = tables(&scene, Runs { with: &with, without: &without });
        let row = |table: usize, what| test_data::row(&tables[table..=table], what);
        assert_eq!(row(0, "attempts it got, and failed"), ("9", "16"));
        assert_eq!(row(0, "later, when its time out was over"), ("1", "8"));
        assert_eq!(row(0, "clients that got an error"), ("4", "8"));
        assert_eq!(row(0, "later"), ("0", "4"));
        assert_eq!(row(1, "attempts it got in the last of these seconds"), ("0", "50"));
        assert_eq!(row(1, "a client waited in that second, p99"), ("10 ms", "240 ms"));
        assert_eq!(row(3, "host 2 had its share again after"), ("5.0 s", "5.0 s"));
    }

    #[test]
    fn the_sentences_carry_the_same_numbers() {
        test_data::assert_told(
            "ejection",
            &[
                "out after 8 attempts with Holdfast, 8 without",
                "it got 1 request as its probe",
                "and no client saw an error",
                "8 attempts failed there again, and 4 clients got an error.",
                "out 1.0 s later, for its latency alone",
            ],
            &["1 attempt failed there with Holdfast, 8 with Envoy's", "4 and 8 clients"],
        );
    }
}
