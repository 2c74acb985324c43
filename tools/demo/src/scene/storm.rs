//! The scene of the retry budget: a service fails totally, and retries come on top.

use std::ops::Range;
use std::time::Duration;

use holdfast_tests::{Action, Seats};
use http::Method;
use serde_json::json;

use super::{Caller, Kind, Phase, Scene, Without};
use crate::answer::Fate;
use crate::chart::Panel;
use crate::claims::{self, Claim, retries};
use crate::column::Column;
use crate::recording::{Recording, Runs};
use crate::server::{always, every};
use crate::summary::{Row, Table};
use crate::words;

/// What a healthy answer takes.
const USUAL: Duration = Duration::from_millis(5);

/// Before the outage one in so many attempts fails.
const FAILING: u64 = 20;

/// Twice what clients ask for, and half of what three retries make of it.
const CAPACITY: u32 = 200;

/// The attempts after the first that one request may have, with Holdfast and without.
const RETRIES: u32 = 3;

/// `retry.budget`: so many percent of the requests, and so many a second, over so many seconds.
const BUDGET: retries::Budget = retries::Budget { ratio: 20, per_second: 1, window: 10 };

const READ: Caller = Caller { method: Method::GET, path: "/items", resources: 1, per_second: 100, policy: "orders" };

pub(super) fn scene() -> Scene {
    Scene {
        name: "storm",
        title: "A service fails, and retries bury it: retry budget",
        service: "orders",
        hosts: 2,
        standby: None,
        capacity: Some(CAPACITY),
        callers: vec![READ],
        patience: Duration::from_secs(5),
        // What comes before the recovery fits into nine tenths of the budget's window: so the budget of this time is
        // known by counting.
        phases: vec![
            Phase {
                kind: Kind::Healthy,
                name: "healthy",
                seconds: 3,
                told: format!("orders is well, but one in {FAILING} attempts fails; a retry hides that"),
                // Not the same attempts on each server: a retry would meet the next failure.
                servers: |number| {
                    every(FAILING, 10 + 5 * number as u64, Action::status(503), Action::ok().after(USUAL))
                },
            },
            Phase {
                kind: Kind::Outage,
                name: "outage",
                seconds: 5,
                told: "orders fails totally: every attempt gets a 503 at once".to_owned(),
                servers: |_| always(Action::status(503)),
            },
            Phase {
                kind: Kind::Recovery,
                name: "recovery",
                seconds: 3,
                told: format!("the cause is gone: orders could answer {CAPACITY} attempts/s, twice what clients ask"),
                servers: |_| always(Action::ok().after(USUAL)),
            },
        ],
        seats: Seats::Both,
        policy: include_str!("storm.json"),
        policy_in_words: "up to 3 retries after a 5xx while the budget lasts: all retries together at most 20% of the \
                          requests and 1 a second, over 10 s (no breaker here, so that retries are seen by themselves)",
        without: Without {
            retry_policy: Some(json!({"retry_on": "5xx", "num_retries": RETRIES})),
            retried: None,
            cluster: json!({}),
            in_words: "the same Envoy with a retry policy as usual: retry_on 5xx, num_retries 3 (its ceiling of 3 \
                       concurrent retries out of the way, as Istio does)",
        },
        columns: vec![
            Column::Requests,
            Column::Answers(Fate::Served),
            Column::Answers(Fate::Failed),
            Column::Attempts,
            Column::Factor,
            Column::Median,
            Column::P99,
        ],
        panels: vec![Panel::Attempts, Panel::Answers],
        remark: "Clients send the same in both runs; only retries differ. With Holdfast the first second of the outage \
                 spends what the budget had saved up; then one retry is left for every five requests. Without it \
                 retries alone keep the service above what it bears, after the cause is gone: clients would \
                 have to call less before it can recover.",
        tables,
        sentences,
        gist,
        claims,
    }
}

fn tables(scene: &Scene, runs: Runs<'_>) -> Vec<Table> {
    let [healthy, outage, recovery] = [Kind::Healthy, Kind::Outage, Kind::Recovery].map(|kind| scene.span(kind));
    let troubled = healthy.start..outage.end;
    let failed_tries = |run: &Recording| {
        let served = u64::from(run.tally(healthy.clone()).count(Fate::Served));
        run.attempts(healthy.clone()).saturating_sub(served).to_string()
    };
    let made = |run: &Recording| retries::made(run, troubled.clone()).to_string();
    let budget = BUDGET.allowed(runs.with.tally(troubled.clone()).sent()).to_string();
    vec![
        Table {
            title: format!("Before: in the {} s while one in {FAILING} attempts failed", healthy.len()),
            rows: vec![
                Row::sent(runs, &healthy),
                Row::part("served", runs, &healthy, Fate::Served),
                Row::part("errors", runs, &healthy, Fate::Failed),
                Row::attempts("attempts at the servers", runs, &healthy),
                Row { is_part: true, ..Row::of("failed, hidden from clients by a retry", runs, failed_tries) },
                Row::factor("attempts for each request", runs, &healthy),
            ],
        },
        Table {
            title: format!("In the {} s while {} failed totally", outage.len(), scene.service),
            rows: vec![
                Row::sent(runs, &outage),
                Row::part("served", runs, &outage, Fate::Served),
                Row::part("errors", runs, &outage, Fate::Failed),
                Row::attempts("attempts at the servers", runs, &outage),
                Row::factor("attempts for each request", runs, &outage),
            ],
        },
        Table {
            title: format!("After: in {} s, the cause gone", recovery.len()),
            rows: vec![
                Row::sent(runs, &recovery),
                Row::part("served", runs, &recovery, Fate::Served),
                Row::part("errors", runs, &recovery, Fate::Failed),
                Row::attempts("attempts at the servers", runs, &recovery),
                Row::factor("attempts for each request", runs, &recovery),
            ],
        },
        Table {
            title: "Retries until the end of the outage".to_owned(),
            rows: vec![
                Row {
                    what: "allowed by the budget".to_owned(),
                    is_part: false,
                    with: budget,
                    without: "no budget".to_owned(),
                },
                Row::of("made", runs, made),
            ],
        },
    ]
}

fn sentences(scene: &Scene, runs: Runs<'_>) -> String {
    let service = scene.service;
    let [healthy, outage, recovery] = [Kind::Healthy, Kind::Outage, Kind::Recovery].map(|kind| scene.span(kind));
    let troubled = healthy.start..outage.end;
    let sent = |seconds: &Range<u32>| runs.with.tally(seconds.clone()).sent();
    let served = |run: &Recording, seconds: &Range<u32>| run.tally(seconds.clone()).count(Fate::Served);
    let factor = |run: &Recording, seconds: &Range<u32>| {
        words::factor(run.attempts(seconds.clone()), run.tally(seconds.clone()).sent())
    };
    let before = format!(
        "While one in {FAILING} attempts failed, retries hid it: {} of {} requests were served with Holdfast, {} without.",
        served(runs.with, &healthy),
        sent(&healthy),
        served(runs.without, &healthy),
    );
    let during = format!(
        "Then {service} failed totally, and no retry could help. Without Holdfast {} requests became {} attempts, {} the load \
         on a service that was failing anyway. With Holdfast they became {} attempts, {}: in these {} s the budget allowed {} \
         retries, and {} were made.",
        sent(&outage),
        runs.without.attempts(outage.clone()),
        factor(runs.without, &outage),
        runs.with.attempts(outage.clone()),
        factor(runs.with, &outage),
        troubled.len(),
        BUDGET.allowed(sent(&troubled)),
        retries::made(runs.with, troubled),
    );
    let after = format!(
        "After {} s the cause was gone. With Holdfast {service} served {} of the next {} requests. Without, it served {}: \
         retries alone kept the load at {}, more than the {CAPACITY} attempts a second it can take.",
        outage.len(),
        served(runs.with, &recovery),
        sent(&recovery),
        served(runs.without, &recovery),
        factor(runs.without, &recovery),
    );
    [before, during, after].join(" ")
}

fn gist(scene: &Scene, runs: Runs<'_>) -> String {
    let (outage, recovery) = (scene.span(Kind::Outage), scene.span(Kind::Recovery));
    let factor = |run: &Recording| words::factor(run.attempts(outage.clone()), run.tally(outage.clone()).sent());
    let served = |run: &Recording| run.tally(recovery.clone()).count(Fate::Served);
    format!(
        "While {} failed, its servers had to take {} the load with Holdfast, {} without; once the cause was gone, {} of {} \
         requests were served with Holdfast, {} without.",
        scene.service,
        factor(runs.with),
        factor(runs.without),
        served(runs.with),
        runs.with.tally(recovery.clone()).sent(),
        served(runs.without),
    )
}

fn claims(scene: &Scene, runs: Runs<'_>) -> Vec<Claim> {
    let mut claims = vec![
        retries::tries_failed_before_the_outage(scene, runs),
        claims::served_before_the_outage(scene, runs),
        retries::nobody_served_in_the_outage(scene, runs),
        retries::load_multiplied_without(scene, runs, 390),
        retries::tries_within_the_budget(scene, runs, BUDGET),
        retries::budget_used(scene, runs, BUDGET),
        retries::still_down_without(scene, runs),
        claims::ends_well(scene, "with", runs.with),
        claims::nothing_of_holdfast_without(runs),
    ];
    for policy in scene.policies_with("retry") {
        claims.push(claims::envoy_counted_the_same(scene, runs, policy));
        claims.push(retries::envoy_counted_the_same_retries(runs, policy));
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    #[test]
    fn the_words_are_the_policys() {
        let policy: serde_json::Value = serde_json::from_str(scene().policy).unwrap();
        let retry = &policy["policies"][0]["retry"];
        assert_eq!(retry["max_retries"], RETRIES);
        assert_eq!(retry["on"], json!(["5xx"]));
        assert_eq!(retry["budget"]["ratio"], BUDGET.ratio);
        assert_eq!(retry["budget"]["min_per_second"], BUDGET.per_second);
        assert_eq!(retry["budget"]["window"], format!("{}s", BUDGET.window));
    }

    #[test]
    fn the_budget_of_the_trouble_is_known_by_counting() {
        let scene = scene();
        let troubled = scene.span(Kind::Outage).end - scene.span(Kind::Healthy).start;
        assert!(troubled * 10 <= BUDGET.window * 9, "no deposit has left the window before the end of the outage");
    }

    #[test]
    fn a_storm_buries_the_service_and_a_budget_does_not() {
        let rate = scene().rate();
        assert!(rate * (1 + RETRIES) > CAPACITY * 3 / 2, "{rate} a second with all retries are far too many");
        assert!(rate + rate * BUDGET.ratio / 100 + BUDGET.per_second < CAPACITY * 3 / 4, "and with the budget few");
    }

    #[test]
    fn the_tables_are_the_arithmetic_of_both_runs() {
        let (scene, with, without) = test_data::runs("storm");
        let tables = tables(&scene, Runs { with: &with, without: &without });
        let row = |table: usize, what| test_data::row(&tables[table..=table], what);
        // 3 s, 5 s, 3 s at 100 requests.
        assert_eq!(row(0, "served"), ("300", "300"));
        assert_eq!(row(0, "failed, hidden from clients by a retry"), ("15", "15"));
        assert_eq!(row(0, "attempts for each request"), ("1.05x", "1.05x"));
        assert_eq!(row(1, "requests sent by clients"), ("500", "500"));
        assert_eq!(row(1, "served"), ("0", "0"));
        assert_eq!(row(1, "attempts at the servers"), ("625", "2000"));
        assert_eq!(row(1, "attempts for each request"), ("1.25x", "4.00x"));
        assert_eq!(row(2, "served"), ("300", "0"));
        assert_eq!(row(2, "attempts for each request"), ("1.00x", "4.00x"));
        assert_eq!(row(3, "allowed by the budget"), ("170", "no budget"));
        assert_eq!(row(3, "made"), ("140", "1515"));
    }

    #[test]
    fn the_sentences_carry_the_same_numbers() {
        test_data::assert_told(
            "storm",
            &[
                "500 requests became 2000 attempts, 4.00x",
                "became 625 attempts, 1.25x",
                "allowed 170 retries, and 140 were made",
            ],
            &["1.25x the load with Holdfast, 4.00x without", "300 of 300", "0 without"],
        );
    }
}
