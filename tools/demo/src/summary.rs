//! The comparison of both runs in numbers: what its tables are made of. The terminal and the page show the same.

use std::ops::Range;

use crate::answer::Fate;
use crate::recording::{Recording, Runs};
use crate::words;

/// A line of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was counted or measured.
    pub what: String,
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

impl Row {
    /// The same question put to both runs.
    pub fn of(what: impl Into<String>, runs: Runs<'_>, value: impl Fn(&Recording) -> String) -> Row {
        Row { what: what.into(), is_part: false, with: value(runs.with), without: value(runs.without) }
    }

    /// The requests sent in these seconds.
    pub fn sent(runs: Runs<'_>, seconds: &Range<u32>) -> Row {
        Row::of("requests sent by clients", runs, |run| run.tally(seconds.clone()).sent().to_string())
    }

    /// Those of them that ended so, as a part of the row above.
    pub fn part(what: impl Into<String>, runs: Runs<'_>, seconds: &Range<u32>, fate: Fate) -> Row {
        let row = Row::of(what, runs, |run| run.tally(seconds.clone()).count(fate).to_string());
        Row { is_part: true, ..row }
    }

    /// The attempts that reached the servers for them.
    pub fn attempts(what: impl Into<String>, runs: Runs<'_>, seconds: &Range<u32>) -> Row {
        Row::of(what, runs, |run| run.attempts(seconds.clone()).to_string())
    }

    /// The attempts for each of them.
    pub fn factor(what: impl Into<String>, runs: Runs<'_>, seconds: &Range<u32>) -> Row {
        Row::of(what, runs, |run| words::factor(run.attempts(seconds.clone()), run.tally(seconds.clone()).sent()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::answer;

    #[test]
    fn rows_ask_both_runs_the_same() {
        let with =
            Recording { answers: vec![answer(0, 100, 1, Fate::Served)], attempts: vec![2], ..Recording::default() };
        let without = Recording { answers: vec![answer(0, 100, 1, Fate::Failed)], attempts: vec![4], ..with.clone() };
        let runs = Runs { with: &with, without: &without };
        let rows = [
            Row::sent(runs, &(0..1)),
            Row::part("served", runs, &(0..1), Fate::Served),
            Row::attempts("attempts", runs, &(0..1)),
            Row::factor("factor", runs, &(0..1)),
        ];
        let said = rows.each_ref().map(|row| (row.with.as_str(), row.without.as_str()));
        assert_eq!(said, [("1", "1"), ("1", "0"), ("2", "4"), ("2.00x", "4.00x")]);
        assert_eq!(rows.map(|row| row.is_part), [false, true, false, false]);
    }
}
