//! The scene of the circuit breaker and the fallback: a whole service is down for a while, slowly.

use std::time::Duration;

use holdfast_tests::{Action, Seats};
use http::Method;
use serde_json::json;

use super::{Caller, Kind, Phase, Scene, Without};
use crate::answer::Fate;
use crate::chart::Panel;
use crate::claims::{Claim, breakers};
use crate::column::Column;
use crate::recording::{Recording, Runs};
use crate::server::always;
use crate::summary::{Row, Table};
use crate::words;

/// What a healthy answer takes.
const USUAL: Duration = Duration::from_millis(5);
/// How long the service hangs before it fails: the worst kind of being down.
const HANG: Duration = Duration::from_secs(1);

/// The breakers' `half_open.probes`.
const PROBES: u32 = 5;

/// Reads have something to fall back to, purchases have not.
const READ: Caller = Caller { method: Method::GET, path: "/items", resources: 1, per_second: 100, policy: "items" };
const BUY: Caller =
    Caller { method: Method::POST, path: "/checkout", resources: 1, per_second: 25, policy: "checkout" };

pub(super) fn scene() -> Scene {
    Scene {
        name: "outage",
        title: "A service goes down: circuit breaker and fallback",
        service: "orders",
        hosts: 2,
        standby: None,
        capacity: None,
        callers: vec![READ, BUY],
        patience: Duration::from_secs(5),
        // The trouble ends while the breakers are open for the second time: at least 1.5 s until they open, 2 s, a
        // second of failing probes and 4 s make 8.5 s.
        phases: vec![
            Phase {
                kind: Kind::Healthy,
                name: "healthy",
                seconds: 5,
                told: format!("orders is well: it answers in {} ms", USUAL.as_millis()),
                servers: |_| always(Action::ok().after(USUAL)),
            },
            Phase {
                kind: Kind::Outage,
                name: "outage",
                seconds: 8,
                told: format!("orders goes down: it hangs for {} s, then answers 503", HANG.as_secs()),
                servers: |_| always(Action::status(503).after(HANG)),
            },
            Phase {
                kind: Kind::Recovery,
                name: "recovery",
                seconds: 6,
                told: format!("orders is well again: it answers in {} ms", USUAL.as_millis()),
                servers: |_| always(Action::ok().after(USUAL)),
            },
        ],
        seats: Seats::Request,
        // Its times are short, so that nobody has to wait for the end of the story.
        policy: include_str!("outage.json"),
        policy_in_words: "a breaker each: opens at 50% failures in 2 s, probes after 2 s, then after twice as long; \
                          /items has a fallback answer (an empty list), /checkout has none",
        without: Without {
            retry_policy: None,
            retried: None,
            cluster: json!({}),
            in_words: "the same Envoy passes every request on",
        },
        columns: vec![
            Column::Answers(Fate::Served),
            Column::Answers(Fate::Fallback),
            Column::Answers(Fate::Rejected),
            Column::Answers(Fate::Failed),
            Column::Attempts,
            Column::Median,
            Column::P99,
        ],
        panels: vec![Panel::Answers, Panel::Waits],
        remark: "With Holdfast, what still waits in the outage are the requests sent before the breakers opened, and the \
                 probes: a few clients pay for finding out whether the service is back.",
        tables,
        sentences,
        gist,
        claims,
    }
}

fn tables(scene: &Scene, runs: Runs<'_>) -> Vec<Table> {
    let outage = scene.span(Kind::Outage);
    let recovered = Duration::from_secs(outage.end.into());
    let healthy = scene.span(Kind::Healthy);
    let during = |run: &Recording| run.tally(outage.clone());
    vec![
        Table {
            title: format!("In the {} s while {} was down", outage.len(), scene.service),
            rows: vec![
                Row::sent(runs, &outage),
                Row::part("answered well by the service", runs, &outage, Fate::Served),
                Row::part("answered with the fallback", runs, &outage, Fate::Fallback),
                Row::part("rejected at once (503, retry-after)", runs, &outage, Fate::Rejected),
                Row::part("errors", runs, &outage, Fate::Failed),
                Row::of("a client waited, median", runs, |run| words::wait(during(run).wait(50))),
                Row::of("a client waited, slowest", runs, |run| words::wait(during(run).wait(100))),
                Row::of("all clients waited, together", runs, |run| words::seconds(during(run).waited())),
                Row::attempts("requests the failing service had to take", runs, &outage),
            ],
        },
        Table {
            title: "Before and after".to_owned(),
            rows: vec![
                Row::of("a client waited before the outage, median", runs, |run| {
                    words::wait(run.tally(healthy.clone()).wait(50))
                }),
                Row::of("until the recovery was noticed", runs, |run| words::seconds(run.lag(recovered))),
            ],
        },
    ]
}

fn sentences(scene: &Scene, runs: Runs<'_>) -> String {
    let outage = scene.span(Kind::Outage);
    let (with, without) = (runs.with.tally(outage.clone()), runs.without.tally(outage.clone()));
    let service = scene.service;
    let mut said = format!(
        "The service {service} was down for {} s. Without Holdfast {} of {} requests ended in an error, after a wait of {} \
         (median), and all {} of them burdened the failing service.",
        outage.len(),
        without.count(Fate::Failed),
        without.sent(),
        words::wait(without.wait(50)),
        runs.without.attempts(outage.clone()),
    );
    let began = Duration::from_secs(outage.start.into());
    let Some(opened) = runs.with.first_opened() else {
        said.push_str(" With Holdfast no breaker opened.");
        return said;
    };
    let (reached, all) = (runs.with.attempts(outage.clone()), runs.without.attempts(outage.clone()));
    said.push_str(&format!(
        " With Holdfast the first breaker opened {} into the outage. {} requests got the fallback answer, {} a clear \
         \"not now\", {} an error (sent before the breaker opened, or its probes); the median wait was {}, and \
         {service} was spared {} of the requests.",
        words::seconds(opened.saturating_sub(began)),
        with.count(Fate::Fallback),
        with.count(Fate::Rejected),
        with.count(Fate::Failed),
        words::wait(with.wait(50)),
        words::percent(all.saturating_sub(reached), all),
    ));
    let recovered = Duration::from_secs(outage.end.into());
    said.push_str(&format!(
        " The price: a breaker learns of the recovery from its next probe, here {} late ({} without Holdfast).",
        words::seconds(runs.with.lag(recovered)),
        words::seconds(runs.without.lag(recovered)),
    ));
    said
}

fn gist(scene: &Scene, runs: Runs<'_>) -> String {
    let outage = scene.span(Kind::Outage);
    let errors = |run: &Recording| run.tally(outage.clone()).count(Fate::Failed);
    let wait = |run: &Recording| words::wait(run.tally(outage.clone()).wait(50));
    format!(
        "While {} was down, {} of {} requests ended in an error with Holdfast, {} without; clients waited {} instead of {} \
         (median); {} requests burdened the service instead of {}.",
        scene.service,
        errors(runs.with),
        runs.with.tally(outage.clone()).sent(),
        errors(runs.without),
        wait(runs.with),
        wait(runs.without),
        runs.with.attempts(outage.clone()),
        runs.without.attempts(outage.clone()),
    )
}

fn claims(scene: &Scene, runs: Runs<'_>) -> Vec<Claim> {
    let special = [breakers::fallback_served(runs), breakers::rejections_seen(runs)];
    breakers::in_an_outage(scene, runs, PROBES, special)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    #[test]
    fn the_words_are_the_policys() {
        let policy: serde_json::Value = serde_json::from_str(scene().policy).unwrap();
        for policy in policy["policies"].as_array().unwrap() {
            test_data::assert_breaker_in_words(policy, PROBES);
            assert_eq!(policy["breaker"]["open_growth"], 2);
            assert_eq!(policy["fallback"].is_array(), policy["name"] == READ.policy);
        }
    }

    #[test]
    fn the_tables_are_the_arithmetic_of_both_runs() {
        let (scene, with, without) = test_data::runs("outage");
        let tables = tables(&scene, Runs { with: &with, without: &without });
        let row = |what| test_data::row(&tables, what);
        // 8 s at 100 + 25 requests; the breakers open after the first second.
        assert_eq!(row("requests sent by clients"), ("1000", "1000"));
        assert_eq!(row("answered well by the service"), ("0", "0"));
        assert_eq!(row("answered with the fallback"), ("700", "0"));
        assert_eq!(row("rejected at once (503, retry-after)"), ("175", "0"));
        assert_eq!(row("errors"), ("125", "1000"));
        assert_eq!(row("a client waited, median"), ("1.0 ms", "1.00 s"));
        assert_eq!(row("a client waited, slowest"), ("1.00 s", "1.00 s"));
        assert_eq!(row("all clients waited, together"), ("125.9 s", "1000.0 s"));
        assert_eq!(row("requests the failing service had to take"), ("125", "1000"));
        assert_eq!(row("a client waited before the outage, median"), ("6.0 ms", "6.0 ms"));
        assert_eq!(row("until the recovery was noticed"), ("1.0 s", "0.0 s"));
    }

    #[test]
    fn the_sentences_carry_the_same_numbers() {
        test_data::assert_told(
            "outage",
            &["1000 of 1000 requests", "opened 1.0 s into", "700 requests got", "125 an error", "spared 88%"],
            &["125 of 1000", "1000 without", "1.0 ms instead of 1.00 s", "125 requests burdened"],
        );
    }

    #[test]
    fn without_an_opened_breaker_nothing_is_praised() {
        let (scene, _, without) = test_data::runs("outage");
        let said = sentences(&scene, Runs { with: &without, without: &without });
        assert!(said.ends_with("With Holdfast no breaker opened."), "{said}");
    }
}
