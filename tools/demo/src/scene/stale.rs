//! The scene of kept answers: a service is gone, and those who ask again get what it said last.

use std::time::Duration;

use holdfast_tests::{Action, Seats};
use http::Method;
use serde_json::json;

use super::{Caller, Kind, Phase, Scene, Without};
use crate::answer::Fate;
use crate::chart::Panel;
use crate::claims::{Claim, breakers, stale};
use crate::column::Column;
use crate::recording::{Recording, Runs};
use crate::server::{always, contents};
use crate::summary::{Row, Table};
use crate::words;

/// What a healthy answer takes.
const USUAL: Duration = Duration::from_millis(5);

/// The breaker's `half_open.probes`.
const PROBES: u32 = 5;

/// The caller of what has been asked for before, and that of what nobody has.
const KNOWN: usize = 0;
const NEW: usize = 1;
const READ: Caller =
    Caller { method: Method::GET, path: "/products", resources: 40, per_second: 80, policy: "catalog" };
const SEARCH: Caller =
    Caller { method: Method::GET, path: "/searches", resources: u32::MAX, per_second: 20, policy: "catalog" };

pub(super) fn scene() -> Scene {
    Scene {
        name: "stale",
        title: "A service is gone, and its last good answers are served: stale",
        service: "catalog",
        hosts: 2,
        standby: None,
        capacity: None,
        callers: vec![READ, SEARCH],
        patience: Duration::from_secs(5),
        // Long enough to probe once in vain: at least a second until the breaker opens, and 2 s.
        phases: vec![
            Phase {
                kind: Kind::Healthy,
                name: "healthy",
                seconds: 4,
                told: "catalog is well: 40 products are read again and again, each search is a new one".to_owned(),
                servers: |_| contents(USUAL),
            },
            Phase {
                kind: Kind::Outage,
                name: "outage",
                seconds: 6,
                told: "catalog is gone: every connection is cut".to_owned(),
                servers: |_| always(Action::reset()),
            },
            Phase {
                kind: Kind::Recovery,
                name: "recovery",
                seconds: 6,
                told: "catalog is well again".to_owned(),
                servers: |_| contents(USUAL),
            },
        ],
        seats: Seats::Request,
        policy: include_str!("stale.json"),
        policy_in_words: "a breaker that opens at 50% failures in 2 s and probes after 2 s; whoever is not served by the \
                          service gets the last good answer to the same request, up to a minute old, or else an empty list",
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
        remark: "What is kept came by itself: answers that a shared cache may keep are copied as they pass. A failed \
                 request gets the kept answer as well, so that even those sent before the breaker opened see no error.",
        tables,
        sentences,
        gist,
        claims,
    }
}

fn tables(scene: &Scene, runs: Runs<'_>) -> Vec<Table> {
    let outage = scene.span(Kind::Outage);
    let sent = |caller: usize| move |run: &Recording| stale::got(scene, run, caller).count().to_string();
    let own = |caller: usize| move |run: &Recording| stale::got_its_own(scene, run, caller).to_string();
    let with_fate = |caller: usize, fate: Fate| {
        move |run: &Recording| stale::got(scene, run, caller).filter(|answer| answer.fate == fate).count().to_string()
    };
    let part = |row: Row| Row { is_part: true, ..row };
    let oldest =
        |run: &Recording| stale::oldest(scene, run, KNOWN).map_or_else(|| "-".to_owned(), |age| format!("{age} s"));
    vec![
        Table {
            title: format!("In the {} s while {} was gone", outage.len(), scene.service),
            rows: vec![
                Row::of("requests for known products", runs, sent(KNOWN)),
                part(Row::of("got that product", runs, own(KNOWN))),
                part(Row::of("errors", runs, with_fate(KNOWN, Fate::Failed))),
                Row::of("age of the oldest answer served", runs, oldest),
                Row::of("requests for something new", runs, sent(NEW)),
                part(Row::of("answered with the empty list", runs, with_fate(NEW, Fate::Fallback))),
                part(Row::of("errors", runs, with_fate(NEW, Fate::Failed))),
                Row::attempts("requests the failing service had to take", runs, &outage),
            ],
        },
        Table {
            title: "Before and after".to_owned(),
            rows: vec![
                Row::of("a client waited before the outage, median", runs, |run| {
                    words::wait(run.tally(scene.span(Kind::Healthy)).wait(50))
                }),
                Row::of("until the recovery was noticed", runs, |run| {
                    words::seconds(run.lag(Duration::from_secs(outage.end.into())))
                }),
            ],
        },
    ]
}

fn sentences(scene: &Scene, runs: Runs<'_>) -> String {
    let outage = scene.span(Kind::Outage);
    let errors = |run: &Recording| run.tally(outage.clone()).count(Fate::Failed);
    let fresh = |run: &Recording| words::seconds(run.lag(Duration::from_secs(outage.end.into())));
    let (known, new) = (stale::got(scene, runs.with, KNOWN).count(), stale::got(scene, runs.with, NEW));
    format!(
        "The service {} was gone for {} s. Without Holdfast {} of {} requests ended in an error. With Holdfast {} did: {} of \
         {known} requests for a known product got that product, byte for byte, at most {} s old, and {} for something new \
         the next fallback of the list. The price: a breaker learns of the return from its next probe, here {} late ({} without Holdfast); \
         until then kept answers are served.",
        scene.service,
        outage.len(),
        errors(runs.without),
        runs.without.tally(outage.clone()).sent(),
        errors(runs.with),
        stale::got_its_own(scene, runs.with, KNOWN),
        stale::oldest(scene, runs.with, KNOWN).unwrap_or_default(),
        new.filter(|answer| answer.fate == Fate::Fallback).count(),
        fresh(runs.with),
        fresh(runs.without),
    )
}

fn gist(scene: &Scene, runs: Runs<'_>) -> String {
    let own = |run: &Recording| stale::got_its_own(scene, run, KNOWN);
    format!(
        "While {} was gone, {} of {} requests for known products got their last good answer with Holdfast, {} without.",
        scene.service,
        own(runs.with),
        stale::got(scene, runs.with, KNOWN).count(),
        own(runs.without),
    )
}

fn claims(scene: &Scene, runs: Runs<'_>) -> Vec<Claim> {
    let special = [
        stale::known_is_served(scene, runs, KNOWN),
        stale::ages_are_true(scene, runs, KNOWN),
        stale::unknown_is_served_the_next(scene, runs, NEW),
    ];
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
        assert_eq!(policy["fallback"][0]["stale"]["max_age"], "1m");
        let (healthy, kept) = (scene().span(Kind::Healthy).end, &policy["fallback"][0]["stale"]["entries"]);
        assert!(kept.as_u64().unwrap() >= u64::from(READ.resources + healthy * SEARCH.per_second), "all of it is kept");
    }

    #[test]
    fn the_tables_are_the_arithmetic_of_both_runs() {
        let (scene, with, without) = test_data::runs("stale");
        let tables = tables(&scene, Runs { with: &with, without: &without });
        let row = |what| test_data::row(&tables, what);
        // 6 s at 80 + 20 requests.
        assert_eq!(row("requests for known products"), ("480", "480"));
        assert_eq!(row("got that product"), ("480", "0"));
        assert_eq!(row("errors"), ("0", "480"));
        assert_eq!(row("age of the oldest answer served"), ("6 s", "-"));
        assert_eq!(row("requests for something new"), ("120", "120"));
        assert_eq!(row("answered with the empty list"), ("120", "0"));
        assert_eq!(row("requests the failing service had to take"), ("100", "600"));
        assert_eq!(row("a client waited before the outage, median"), ("6.0 ms", "6.0 ms"));
    }

    #[test]
    fn the_sentences_carry_the_same_numbers() {
        test_data::assert_told(
            "stale",
            &["600 of 600 requests", "With Holdfast 0 did", "480 of 480 requests", "at most 6 s old", "and 120 for"],
            &["480 of 480", "0 without"],
        );
    }
}
