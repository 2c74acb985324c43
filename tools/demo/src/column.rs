//! The columns of a run's table: what is shown of some requests, on the terminal and on the page.

use crate::answer::Fate;
use crate::recording::Stretch;
use crate::words;

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The requests that clients sent.
    Requests,
    /// Those of them that ended so.
    Answers(Fate),
    /// The attempts that reached the servers for them.
    Attempts,
    /// The attempts that reached one of the servers, counted from 0, for them.
    Host(usize),
    /// The attempts for each request.
    Factor,
    /// The wait that half of the clients did not exceed.
    Median,
    /// The wait that 99 of 100 clients did not exceed.
    P99,
}

impl Column {
    /// What stands over it, and once over all its neighbours of which the same is said.
    pub fn over(self) -> &'static str {
        match self {
            Column::Requests => "clients",
            Column::Answers(_) => "clients got",
            Column::Attempts => "attempts at",
            Column::Host(_) => "attempts at host",
            Column::Factor => "attempts",
            Column::Median | Column::P99 => "clients waited",
        }
    }

    /// The heading itself.
    pub fn head(self, service: &str) -> String {
        let head = match self {
            Column::Requests => "sent",
            Column::Answers(fate) => fate.word(),
            Column::Attempts => service,
            Column::Host(host) => return (host + 1).to_string(),
            Column::Factor => "a request",
            Column::Median => "median",
            Column::P99 => "p99",
        };
        head.to_owned()
    }

    /// How wide it is on the terminal, with the gap before it.
    pub fn width(self) -> usize {
        match self {
            Column::Answers(Fate::Served) | Column::Host(_) => 6,
            Column::Answers(Fate::Failed) => 8,
            Column::Answers(Fate::Fallback | Fate::Rejected) | Column::Factor => 10,
            Column::Attempts => 12,
            Column::Requests | Column::Median | Column::P99 => 9,
        }
    }

    /// What it says of these requests and their attempts.
    pub fn cell(self, of: &Stretch) -> String {
        let (tally, attempts) = (&of.tally, of.attempts);
        match self {
            Column::Requests => words::count(tally.sent().into()),
            Column::Answers(fate) => words::count(tally.count(fate).into()),
            Column::Attempts => words::count(attempts),
            Column::Host(host) => words::count(of.hosts.get(host).copied().unwrap_or_default()),
            Column::Factor => words::factor(attempts, tally.sent()),
            Column::Median => words::wait(tally.wait(50)),
            Column::P99 => words::wait(tally.wait(99)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Tally;
    use crate::test_data::answer;

    #[test]
    fn each_column_says_its_own_of_the_same_requests() {
        let answers = [answer(0, 0, 2, Fate::Served), answer(0, 10, 4, Fate::Served), answer(0, 20, 30, Fate::Failed)];
        let of = Stretch { tally: Tally::of(&answers), attempts: 6, hosts: vec![5, 1] };
        let cells = [
            Column::Requests,
            Column::Answers(Fate::Served),
            Column::Answers(Fate::Failed),
            Column::Answers(Fate::Fallback),
            Column::Attempts,
            Column::Host(1),
            Column::Factor,
            Column::Median,
            Column::P99,
        ]
        .map(|column| column.cell(&of));
        assert_eq!(cells, ["3", "2", "1", "-", "6", "1", "2.00x", "4.0 ms", "30 ms"]);
    }
}
