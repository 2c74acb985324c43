//! The scene of the standby: a service is gone, another one takes its requests, and gives them back.

use std::time::Duration;

use holdfast_tests::{Action, Seats};
use http::Method;
use serde_json::json;

use super::{Caller, Kind, Phase, Scene, Without};
use crate::answer::Fate;
use crate::change::State;
use crate::chart::Panel;
use crate::claims::{Claim, breakers, failover};
use crate::column::Column;
use crate::recording::{Recording, Runs};
use crate::server::always;
use crate::summary::{Row, Table};
use crate::words;

/// What a healthy answer takes.
const USUAL: Duration = Duration::from_millis(5);

/// The breaker's `half_open.probes`.
const PROBES: u32 = 5;

const READ: Caller = Caller { method: Method::GET, path: "/items", resources: 1, per_second: 80, policy: "orders" };
const WRITE: Caller = Caller { method: Method::POST, path: "/orders", resources: 1, per_second: 20, policy: "orders" };

pub(super) fn scene() -> Scene {
    Scene {
        name: "failover",
        title: "A service is gone, and its standby takes over: detect, switch, verify",
        service: "orders",
        hosts: 2,
        standby: Some("standby"),
        capacity: None,
        callers: vec![READ, WRITE],
        patience: Duration::from_secs(5),
        // Long enough to probe once in vain: at least a second until the breaker opens, and 2 s.
        phases: vec![
            Phase {
                kind: Kind::Healthy,
                name: "healthy",
                seconds: 4,
                told: "orders is well, and its standby has nothing to do".to_owned(),
                servers: |_| always(Action::ok().after(USUAL)),
            },
            Phase {
                kind: Kind::Outage,
                name: "outage",
                seconds: 6,
                told: "orders is gone: every connection is cut".to_owned(),
                servers: |_| always(Action::reset()),
            },
            Phase {
                kind: Kind::Recovery,
                name: "recovery",
                seconds: 8,
                told: "orders is well again".to_owned(),
                servers: |_| always(Action::ok().after(USUAL)),
            },
        ],
        seats: Seats::Request,
        policy: include_str!("failover.json"),
        policy_in_words: "a breaker that opens at 50% failures in 2 s and probes after 2 s; while it is open the cluster \
                          standby serves reads and writes, and afterwards orders gets them back over 2 s",
        without: Without {
            retry_policy: None,
            retried: None,
            cluster: json!({}),
            in_words: "the same Envoy passes every request on",
        },
        columns: vec![
            Column::Answers(Fate::Served),
            Column::Answers(Fate::Fallback),
            Column::Answers(Fate::Failed),
            Column::Attempts,
            Column::Median,
            Column::P99,
        ],
        panels: vec![Panel::Answers, Panel::Waits],
        remark: "A fallback is an answer of the standby here. What still fails are the requests sent before the breaker \
                 opened, and the probes that find out whether the service is back.",
        tables,
        sentences,
        gist,
        claims,
    }
}

/// How long after the beginning of the outage the breaker opened.
fn switched(scene: &Scene, run: &Recording) -> Option<Duration> {
    let began = Duration::from_secs(scene.span(Kind::Outage).start.into());
    Some(run.first_opened()?.saturating_sub(began))
}

/// How long after the end of the outage its probes had succeeded.
fn verified(scene: &Scene, run: &Recording) -> Option<Duration> {
    let over = Duration::from_secs(scene.span(Kind::Outage).end.into());
    let good = |change: &&crate::change::Change| change.from == State::HalfOpen && change.to != State::Open;
    Some(run.changes.iter().filter(good).find(|change| change.at >= over)?.at.saturating_sub(over))
}

fn moment(at: Option<Duration>) -> String {
    at.map_or_else(|| "-".to_owned(), words::seconds)
}

fn tables(scene: &Scene, runs: Runs<'_>) -> Vec<Table> {
    let outage = scene.span(Kind::Outage);
    let recovered = Duration::from_secs(outage.end.into());
    vec![
        Table {
            title: format!("In the {} s while {} was gone", outage.len(), scene.service),
            rows: vec![
                Row::sent(runs, &outage),
                Row::part("answered by the service", runs, &outage, Fate::Served),
                Row::part("answered by the standby", runs, &outage, Fate::Fallback),
                Row::part("errors", runs, &outage, Fate::Failed),
                Row::attempts("requests the failing service had to take", runs, &outage),
            ],
        },
        Table {
            title: "The course".to_owned(),
            rows: vec![
                Row::of("detected and switched, after the outage began", runs, |run| moment(switched(scene, run))),
                Row::of("verified by probes, after it was over", runs, |run| moment(verified(scene, run))),
                Row::of("all requests back at the service, after it was over", runs, |run| {
                    words::seconds(run.lag(recovered))
                }),
                Row::of("requests that the standby has served", runs, |run| run.at_standby.to_string()),
            ],
        },
    ]
}

fn sentences(scene: &Scene, runs: Runs<'_>) -> String {
    let outage = scene.span(Kind::Outage);
    let (with, without) = (runs.with.tally(outage.clone()), runs.without.tally(outage.clone()));
    format!(
        "The service {} was gone for {} s. Without Holdfast {} of {} requests ended in an error. With Holdfast {} did: \
         the breaker opened {} after the outage had begun, and from then on the standby served, {} reads and writes in the \
         outage, while probes asked for the service. {} after the outage was over they had verified that it is back, and \
         {} after it the last request had returned to it.",
        scene.service,
        outage.len(),
        without.count(Fate::Failed),
        without.sent(),
        with.count(Fate::Failed),
        moment(switched(scene, runs.with)),
        with.count(Fate::Fallback),
        moment(verified(scene, runs.with)),
        words::seconds(runs.with.lag(Duration::from_secs(outage.end.into()))),
    )
}

fn gist(scene: &Scene, runs: Runs<'_>) -> String {
    let outage = scene.span(Kind::Outage);
    let good = |run: &Recording| {
        let tally = run.tally(outage.clone());
        tally.count(Fate::Served) + tally.count(Fate::Fallback)
    };
    format!(
        "While {} was gone, {} of {} requests were served with Holdfast, by its standby, and {} without.",
        scene.service,
        good(runs.with),
        runs.with.tally(outage.clone()).sent(),
        good(runs.without),
    )
}

fn claims(scene: &Scene, runs: Runs<'_>) -> Vec<Claim> {
    let special = [failover::only_probes_failed(scene, runs, PROBES), failover::the_standby_served_them(runs)];
    breakers::in_an_outage(scene, runs, PROBES, special)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    #[test]
    fn the_words_are_the_policys() {
        let policy: serde_json::Value = serde_json::from_str(scene().policy).unwrap();
        let policy = &policy["policies"][0];
        test_data::assert_breaker_in_words(policy, PROBES);
        assert_eq!(policy["breaker"]["ramp"], "2s");
        assert_eq!(policy["fallback"][0]["route"]["cluster"], scene().standby.unwrap());
    }

    #[test]
    fn the_tables_are_the_arithmetic_of_both_runs() {
        let (scene, with, without) = test_data::runs("failover");
        let tables = tables(&scene, Runs { with: &with, without: &without });
        let row = |what| test_data::row(&tables, what);
        // 6 s at 80 + 20 requests.
        assert_eq!(row("requests sent by clients"), ("600", "600"));
        assert_eq!(row("answered by the service"), ("0", "0"));
        assert_eq!(row("answered by the standby"), ("500", "0"));
        assert_eq!(row("errors"), ("100", "600"));
        assert_eq!(row("requests the failing service had to take"), ("100", "600"));
        assert_eq!(row("detected and switched, after the outage began"), ("1.0 s", "-"));
        assert_eq!(row("verified by probes, after it was over"), ("1.0 s", "-"));
        assert_eq!(row("requests that the standby has served"), ("600", "0"));
    }

    #[test]
    fn the_sentences_carry_the_same_numbers() {
        test_data::assert_told(
            "failover",
            &["600 of 600 requests", "With Holdfast 100 did", "opened 1.0 s after", "500 reads and writes"],
            &["500 of 600", "0 without"],
        );
    }
}
