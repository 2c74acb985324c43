//! What was observed in a run, and arithmetic on it. Everything shown comes from here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::answer::{Answer, Fate};
use crate::change::{Change, State};
use crate::ejection::{Told, What};

/// One run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// What the clients got, in the order of the answers.
    pub answers: Vec<Answer>,
    /// The breakers' changes of state, in their order.
    pub changes: Vec<Change>,
    /// Attempts that reached the service's servers, by the second in which their requests were sent.
    pub attempts: Vec<u64>,
    /// The same, server by server.
    pub hosts: Vec<Vec<Arrival>>,
    /// Requests that reached the standby.
    pub at_standby: u64,
    /// What Holdfast told of the servers, in its order.
    pub told: Vec<Told>,
    /// Holdfast's metrics in Envoy's statistics at the end: `<policy>;.;key=.=<key>;.;<metric>`.
    pub stats: BTreeMap<String, u64>,
}

/// An attempt that reached a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The second in which its request was sent.
    pub second: u32,
    /// When it came, from the start of the run.
    pub at: Duration,
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
        Tally::of(self.answers_to(seconds))
    }

    /// The answers themselves.
    pub fn answers_to(&self, seconds: Range<u32>) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(move |answer| within(answer.sent, &seconds))
    }

    /// The answers to what was sent in this second.
    pub fn second(&self, second: u32) -> Tally {
        self.tally(second..second + 1)
    }

    /// The answers to everything.
    pub fn total(&self) -> Tally {
        Tally::of(&self.answers)
    }

    /// Attempts that reached the servers for what was sent in these seconds.
    pub fn attempts(&self, seconds: Range<u32>) -> u64 {
        let (from, count) = (seconds.start as usize, seconds.len());
        self.attempts.iter().skip(from).take(count).sum()
    }

    /// Takes over the attempts that have reached each server.
    pub fn take_tries(&mut self, hosts: Vec<Vec<Arrival>>) {
        let seconds = hosts.iter().flatten().map(|arrival| arrival.second as usize + 1).max().unwrap_or_default();
        self.attempts = vec![0; seconds];
        for arrival in hosts.iter().flatten() {
            if let Some(count) = self.attempts.get_mut(arrival.second as usize) {
                *count += 1;
            }
        }
        self.hosts = hosts;
    }

    /// Attempts that reached one server for what was sent in these seconds. Servers count from 0.
    pub fn attempts_at(&self, host: usize, seconds: Range<u32>) -> u64 {
        let arrivals = self.hosts.get(host).into_iter().flatten();
        arrivals.filter(|arrival| seconds.contains(&arrival.second)).count() as u64
    }

    /// Attempts that reached one server in this time.
    pub fn arrived(&self, host: usize, time: Range<Duration>) -> u64 {
        let arrivals = self.hosts.get(host).into_iter().flatten();
        arrivals.filter(|arrival| time.contains(&arrival.at)).count() as u64
    }

    /// What was told of one server.
    pub fn told_of(&self, host: usize) -> impl Iterator<Item = &Told> {
        self.told.iter().filter(move |told| told.host == host)
    }

    /// The stretches of time for which one server was out, up to `end`.
    pub fn out(&self, host: usize, end: Duration) -> Vec<Range<Duration>> {
        let mut stretches: Vec<Range<Duration>> = Vec::new();
        let mut since = None;
        for told in self.told_of(host) {
            match (told.what, since) {
                (What::Ejected, None) => since = Some(told.at),
                (What::Back, Some(from)) => {
                    stretches.push(from..told.at);
                    since = None;
                }
                _ => {}
            }
        }
        stretches.extend(since.map(|from| from..end.max(from)));
        stretches
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

    /// What is shown of these seconds.
    pub fn stretch(&self, seconds: Range<u32>) -> Stretch {
        let hosts = (0..self.hosts.len()).map(|host| self.attempts_at(host, seconds.clone())).collect();
        Stretch { tally: self.tally(seconds.clone()), attempts: self.attempts(seconds), hosts }
    }

    /// When the first breaker opened.
    pub fn first_opened(&self) -> Option<Duration> {
        self.changes.iter().find(|change| change.to == State::Open).map(|change| change.at)
    }

    /// A metric of a policy, over all its keys.
    pub fn stat(&self, policy: &str, metric: &str) -> u64 {
        let (begin, end) = (format!("{policy};.;key=.="), format!(";.;{metric}"));
        self.stats.iter().filter(|(name, _)| name.starts_with(&begin) && name.ends_with(&end)).map(|(_, n)| n).sum()
    }
}

fn within(at: Duration, seconds: &Range<u32>) -> bool {
    at >= Duration::from_secs(seconds.start.into()) && at < Duration::from_secs(seconds.end.into())
}

/// Some seconds, counted.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    /// What clients got.
    pub tally: Tally,
    /// Attempts that reached the servers.
    pub attempts: u64,
    /// The same, server by server.
    pub hosts: Vec<u64>,
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
    use crate::test_data::{self, answer, change};

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
            attempts: vec![1, 2, 4],
            ..Recording::default()
        };
        let tally = recording.second(1);
        assert_eq!(tally.sent(), 2);
        assert_eq!((tally.count(Fate::Failed), tally.count(Fate::Fallback)), (1, 1));
        assert_eq!(recording.tally(0..3).sent(), 4);
        assert_eq!((recording.attempts(1..3), recording.attempts(0..1), recording.attempts(3..9)), (6, 1, 0));
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
    fn attempts_are_known_by_server_by_request_and_by_time() {
        let arrival = |second, millis| Arrival { second, at: Duration::from_millis(millis) };
        let mut recording = Recording::default();
        recording.take_tries(vec![vec![arrival(0, 100), arrival(0, 1100)], vec![arrival(2, 2000)]]);
        assert_eq!(recording.attempts, [2, 0, 1], "an attempt counts for the second of its request");
        assert_eq!(
            (recording.attempts_at(0, 0..1), recording.attempts_at(1, 0..2), recording.attempts_at(9, 0..9)),
            (2, 0, 0)
        );
        let second = |from: u64| Duration::from_secs(from)..Duration::from_secs(from + 1);
        assert_eq!((recording.arrived(0, second(1)), recording.arrived(1, second(2))), (1, 1));
        assert_eq!(recording.stretch(0..3).hosts, [2, 1]);
    }

    #[test]
    fn a_server_is_out_until_it_is_back() {
        let told = |millis, host, what| test_data::told(millis, host, what, "made up");
        let recording = Recording {
            told: vec![
                told(1000, 0, What::Ejected),
                told(1500, 1, What::Ejected),
                told(2000, 0, What::ProbeFailed),
                told(3000, 0, What::Back),
                told(3500, 0, What::Other),
            ],
            ..Recording::default()
        };
        let (ms, end) = (Duration::from_millis, Duration::from_secs(5));
        assert_eq!(recording.out(0, end), [ms(1000)..ms(3000)]);
        assert_eq!(recording.out(1, end), [ms(1500)..end], "to the end of the run");
        assert_eq!(recording.out(2, end), []);
    }

    #[test]
    fn a_metric_is_summed_over_the_keys_of_its_policy() {
        let stats =
            [("items;.;key=.=a;.;requests", 1), ("items;.;key=.=b;.;requests", 2), ("other;.;key=.=a;.;requests", 4)];
        let stats = stats.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(Recording { stats, ..Recording::default() }.stat("items", "requests"), 3);
    }
}
