//! What was observed in a run, and arithmetic on it. Everything shown comes from here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::answer::{Answer, Fate};
use crate::change::{Change, State};

/// One run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// What the clients got, in the order of the answers.
    pub answers: Vec<Answer>,
    /// The breakers' changes of state, in their order.
    pub changes: Vec<Change>,
    /// Tries that reached the service's servers, by the second in which their requests were sent.
    pub tries: Vec<u64>,
    /// Holdfast's metrics in Envoy's statistics at the end: `<policy>.key.<key>.<metric>`.
    pub stats: BTreeMap<String, u64>,
}

/// Both runs of a scene.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    /// The one with Holdfast.
    pub with: &'a Recording,
    /// The one without.
    pub without: &'a Recording,
}

impl Recording {
    /// The answers to what was sent in these seconds.
    pub fn tally(&self, seconds: Range<u32>) -> Tally {
        Tally::of(self.answers.iter().filter(|answer| within(answer.sent, &seconds)))
    }

    /// The answers to what was sent in this second.
    pub fn second(&self, second: u32) -> Tally {
        self.tally(second..second + 1)
    }

    /// The answers to everything.
    pub fn total(&self) -> Tally {
        Tally::of(&self.answers)
    }

    /// Tries that reached the servers for what was sent in these seconds.
    pub fn tries(&self, seconds: Range<u32>) -> u64 {
        let (from, count) = (seconds.start as usize, seconds.len());
        self.tries.iter().skip(from).take(count).sum()
    }

    /// The changes of one policy's breaker.
    pub fn changes_of<'a>(&'a self, policy: &'a str) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().filter(move |change| change.policy == policy)
    }

    /// The state of one policy's breaker just before a time. It starts closed.
    pub fn state(&self, policy: &str, at: Duration) -> State {
        self.changes_of(policy).take_while(|change| change.at < at).last().map_or(State::Closed, |change| change.to)
    }

    /// For how long after `recovered` requests were still sent in vain: none of the service's good answers for them.
    pub fn lag(&self, recovered: Duration) -> Duration {
        let late = self.answers.iter().filter(|answer| answer.sent >= recovered && answer.fate != Fate::Served);
        late.map(|answer| answer.sent.saturating_sub(recovered)).max().unwrap_or_default()
    }

    /// When the first breaker opened.
    pub fn first_opened(&self) -> Option<Duration> {
        self.changes.iter().find(|change| change.to == State::Open).map(|change| change.at)
    }

    /// A metric of a policy, over all its keys.
    pub fn stat(&self, policy: &str, metric: &str) -> u64 {
        let (begin, end) = (format!("{policy}.key."), format!(".{metric}"));
        self.stats.iter().filter(|(name, _)| name.starts_with(&begin) && name.ends_with(&end)).map(|(_, n)| n).sum()
    }
}

fn within(at: Duration, seconds: &Range<u32>) -> bool {
    at >= Duration::from_secs(seconds.start.into()) && at < Duration::from_secs(seconds.end.into())
}

/// Some answers, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By fate, in the order of [`Fate::ALL`].
    counts: [u32; 4],
    /// How long each client waited, shortest first.
    waits: Vec<Duration>,
}

impl Tally {
    /// Counts answers.
    pub fn of<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> Tally {
        let mut tally = Tally::default();
        for answer in answers {
            if let Some(count) = tally.counts.get_mut(answer.fate as usize) {
                *count += 1;
            }
            tally.waits.push(answer.waited);
        }
        tally.waits.sort_unstable();
        tally
    }

    /// How many of this fate.
    pub fn count(&self, fate: Fate) -> u32 {
        self.counts.get(fate as usize).copied().unwrap_or_default()
    }

    /// How many requests.
    pub fn sent(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// The wait that `percent` of the clients did not exceed (nearest rank); zero for none.
    pub fn wait(&self, percent: u32) -> Duration {
        let rank = (self.waits.len() * percent as usize).div_ceil(100).max(1);
        self.waits.get(rank - 1).copied().unwrap_or_default()
    }

    /// All waits together.
    pub fn waited(&self) -> Duration {
        self.waits.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{answer, change};

    #[test]
    fn a_second_counts_what_was_sent_in_it() {
        let recording = Recording {
            answers: vec![
                answer(0, 999, 1, Fate::Served),
                // Sent in second 1, answered in second 2.
                answer(0, 1000, 1000, Fate::Failed),
                answer(0, 1999, 2, Fate::Fallback),
                answer(0, 2000, 2, Fate::Served),
            ],
            tries: vec![1, 2, 4],
            ..Recording::default()
        };
        let tally = recording.second(1);
        assert_eq!(tally.sent(), 2);
        assert_eq!((tally.count(Fate::Failed), tally.count(Fate::Fallback)), (1, 1));
        assert_eq!(recording.tally(0..3).sent(), 4);
        assert_eq!((recording.tries(1..3), recording.tries(0..1), recording.tries(3..9)), (6, 1, 0));
    }

    #[test]
    fn waits_are_by_nearest_rank() {
        let answers: Vec<Answer> = (1..=100).map(|ms| answer(0, 0, ms, Fate::Served)).collect();
        let tally = Tally::of(&answers);
        let ms = Duration::from_millis;
        assert_eq!((tally.wait(50), tally.wait(99), tally.wait(100)), (ms(50), ms(99), ms(100)));
        assert_eq!(tally.waited(), ms(5050));
        assert_eq!(Tally::default().wait(50), Duration::ZERO, "nobody waited");
    }

    #[test]
    fn the_lag_is_the_last_request_in_vain_after_the_recovery() {
        let recording = Recording {
            answers: vec![
                answer(0, 900, 1, Fate::Failed),
                answer(0, 1100, 1, Fate::Served),
                answer(0, 1600, 1, Fate::Rejected),
                answer(0, 1700, 1, Fate::Served),
            ],
            ..Recording::default()
        };
        assert_eq!(recording.lag(Duration::from_secs(1)), Duration::from_millis(600));
        assert_eq!(recording.lag(Duration::from_millis(1650)), Duration::ZERO);
    }

    #[test]
    fn the_state_follows_the_policys_own_changes() {
        let recording = Recording {
            changes: vec![
                change(1500, "items", State::Closed, State::Open),
                change(1600, "checkout", State::Closed, State::Open),
                change(3500, "items", State::Open, State::HalfOpen),
            ],
            ..Recording::default()
        };
        let at = Duration::from_millis;
        assert_eq!(recording.state("items", at(1000)), State::Closed);
        assert_eq!(recording.state("items", at(2000)), State::Open);
        assert_eq!(recording.state("items", at(4000)), State::HalfOpen);
        assert_eq!(recording.state("checkout", at(4000)), State::Open);
        assert_eq!(recording.first_opened(), Some(at(1500)));
    }

    #[test]
    fn a_metric_is_summed_over_the_keys_of_its_policy() {
        let stats = [("items.key.a.requests", 1), ("items.key.b.requests", 2), ("other.key.a.requests", 4)];
        let stats = stats.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(Recording { stats, ..Recording::default() }.stat("items", "requests"), 3);
    }
}
