//! What the outage cost, in numbers and in words. The terminal and the page show the same.

use std::time::Duration;

use crate::answer::Fate;
use crate::recording::{Recording, Runs};
use crate::scene::{Kind, Scene};
use crate::words;

/// A line of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was counted or measured.
    pub what: &'static str,
    /// Whether it is a part of the count above.
    pub is_part: bool,
    /// With Holdfast.
    pub with: String,
    /// Without.
    pub without: String,
}

/// A table of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// When.
    pub title: String,
    /// Its lines.
    pub rows: Vec<Row>,
}

/// The comparison of both runs: the outage, and the time around it.
pub fn tables(scene: &Scene, runs: Runs<'_>) -> Vec<Table> {
    let outage = scene.span(Kind::Outage);
    let recovered = Duration::from_secs(outage.end.into());
    let healthy = scene.span(Kind::Healthy);
    let during = |run: &Recording| run.tally(outage.clone());
    let row = |what, value: &dyn Fn(&Recording) -> String| Row {
        what,
        is_part: false,
        with: value(runs.with),
        without: value(runs.without),
    };
    let part = |what, fate| Row { is_part: true, ..row(what, &|run| during(run).count(fate).to_string()) };
    vec![
        Table {
            title: format!("In the {} s while {} was down", outage.len(), scene.service),
            rows: vec![
                row("requests sent by clients", &|run| during(run).sent().to_string()),
                part("answered well by the service", Fate::Served),
                part("answered with the fallback", Fate::Fallback),
                part("rejected at once (503, retry-after)", Fate::Rejected),
                part("errors", Fate::Failed),
                row("a client waited, median", &|run| words::wait(during(run).wait(50))),
                row("a client waited, slowest", &|run| words::wait(during(run).wait(100))),
                row("all clients waited, together", &|run| words::seconds(during(run).waited())),
                row("requests the failing service had to take", &|run| run.arrived(outage.clone()).to_string()),
            ],
        },
        Table {
            title: "Before and after".to_owned(),
            rows: vec![
                row("a client waited before the outage, median", &|run| {
                    words::wait(run.tally(healthy.clone()).wait(50))
                }),
                row("until the recovery was noticed", &|run| words::seconds(run.lag(recovered))),
            ],
        },
    ]
}

/// What happened, in a few sentences.
pub fn sentences(scene: &Scene, runs: Runs<'_>) -> String {
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
        runs.without.arrived(outage.clone()),
    );
    let began = Duration::from_secs(outage.start.into());
    let Some(opened) = runs.with.first_opened() else {
        said.push_str(" With Holdfast no breaker opened.");
        return said;
    };
    said.push_str(&format!(
        " With Holdfast the first breaker opened {} into the outage. {} requests got the fallback answer, {} a clear \
         \"not now\", {} an error (sent before the breaker opened, or its probes); the median wait was {}, and \
         {service} was spared {} of the requests.",
        words::seconds(opened.saturating_sub(began)),
        with.count(Fate::Fallback),
        with.count(Fate::Rejected),
        with.count(Fate::Failed),
        words::wait(with.wait(50)),
        words::percent(spared(&outage, runs), runs.without.arrived(outage.clone())),
    ));
    let recovered = Duration::from_secs(outage.end.into());
    said.push_str(&format!(
        " The price: a breaker learns of the recovery from its next probe, here {} late ({} without Holdfast).",
        words::seconds(runs.with.lag(recovered)),
        words::seconds(runs.without.lag(recovered)),
    ));
    said
}

/// How many fewer requests the failing service had to take.
fn spared(outage: &std::ops::Range<u32>, runs: Runs<'_>) -> u64 {
    runs.without.arrived(outage.clone()).saturating_sub(runs.with.arrived(outage.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scene, test_data};

    fn outage() -> (Scene, Recording, Recording) {
        let scene = scene::all().into_iter().find(|scene| scene.name == "outage").unwrap();
        let (with, without) = (test_data::run(&scene, true), test_data::run(&scene, false));
        (scene, with, without)
    }

    #[test]
    fn the_tables_are_the_arithmetic_of_both_runs() {
        let (scene, with, without) = outage();
        let tables = tables(&scene, Runs { with: &with, without: &without });
        let row = |what: &str| {
            let row = tables.iter().flat_map(|table| &table.rows).find(|row| row.what == what).unwrap();
            (row.with.as_str(), row.without.as_str())
        };
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
        let (scene, with, without) = outage();
        let said = sentences(&scene, Runs { with: &with, without: &without });
        for part in ["1000 of 1000 requests", "opened 1.0 s into", "700 requests got", "125 an error", "spared 88%"] {
            assert!(said.contains(part), "{part:?} in {said}");
        }
    }

    #[test]
    fn without_an_opened_breaker_nothing_is_praised() {
        let (scene, _, without) = outage();
        let said = sentences(&scene, Runs { with: &without, without: &without });
        assert!(said.ends_with("With Holdfast no breaker opened."), "{said}");
    }
}
