//! The order of telling: what happened, and each second once all its requests are answered, by the clock of the run.

use std::collections::VecDeque;
use std::time::Duration;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment<T> {
    /// Something happened.
    Event(T),
    /// A second is over and all its requests are answered.
    Second(u32),
}

/// Holds back what comes after a second that is not complete.
#[derive(Debug)]
pub struct Sequence<T> {
    events: VecDeque<(Duration, T)>,
    next_second: u32,
}

impl<T> Sequence<T> {
    /// From second 0.
    pub fn new() -> Self {
        Sequence { events: VecDeque::new(), next_second: 0 }
    }

    /// Adds an event; they come in the order of their times.
    pub fn happened(&mut self, at: Duration, event: T) {
        self.events.push_back((at, event));
    }

    /// How many seconds have been told.
    pub fn seconds_told(&self) -> u32 {
        self.next_second
    }

    /// What can be told next, when `is_complete` says whether a second can be.
    pub fn next(&mut self, is_complete: impl Fn(u32) -> bool) -> Option<Moment<T>> {
        let end = Duration::from_secs(u64::from(self.next_second) + 1);
        if self.events.front().is_some_and(|(at, _)| *at < end) {
            return self.events.pop_front().map(|(_, event)| Moment::Event(event));
        }
        is_complete(self.next_second).then(|| {
            self.next_second += 1;
            Moment::Second(self.next_second - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sequence: &mut Sequence<&'static str>, complete: u32) -> Vec<Moment<&'static str>> {
        std::iter::from_fn(|| sequence.next(|second| second < complete)).collect()
    }

    #[test]
    fn an_event_waits_for_the_seconds_before_it_and_comes_before_its_own() {
        let mut sequence = Sequence::new();
        sequence.happened(Duration::ZERO, "begins");
        sequence.happened(Duration::from_millis(1500), "opens");
        assert_eq!(told(&mut sequence, 0), [Moment::Event("begins")]);
        assert_eq!(told(&mut sequence, 0), [], "second 0 has requests under way");
        assert_eq!(told(&mut sequence, 1), [Moment::Second(0), Moment::Event("opens")]);
        sequence.happened(Duration::from_secs(2), "the next phase");
        assert_eq!(told(&mut sequence, 3), [Moment::Second(1), Moment::Event("the next phase"), Moment::Second(2)]);
        assert_eq!(sequence.seconds_told(), 3);
    }
}
