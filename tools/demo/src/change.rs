//! A breaker's changes of state, read from the module's log lines.

use std::time::Duration;

/// One change of one breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, from the start of the run.
    pub at: Duration,
    /// The policy whose breaker it is.
    pub policy: String,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why, with numbers, in the module's words.
    pub why: String,
}

/// Where a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All requests pass.
    Closed,
    /// A few requests pass and are judged.
    HalfOpen,
    /// No request passes.
    Open,
    /// A rising share of requests passes.
    Ramping,
}

impl State {
    const ALL: [State; 4] = [State::Closed, State::HalfOpen, State::Open, State::Ramping];

    /// The module's word for it.
    pub fn word(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::HalfOpen => "half-open",
            State::Open => "open",
            State::Ramping => "ramping",
        }
    }

    fn parse(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl Change {
    /// Reads a line of Envoy's log, which ends in `<policy>/<key>: <from> -> <to>: <why>` when it tells of a change.
    pub fn parse(line: &str, at: Duration) -> Option<Change> {
        let (before, after) = line.split_once(" -> ")?;
        let (to, why) = after.split_once(": ")?;
        let (before, from) = before.rsplit_once(": ")?;
        let name = before.rsplit(' ').next()?;
        let (policy, _key) = name.split_once('/')?;
        let (from, to) = (State::parse(from)?, State::parse(to)?);
        Some(Change { at, policy: policy.to_owned(), from, to, why: why.trim_end().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_out_of_envoys_log() {
        let line = "[2026-01-02 03:04:05.678][7][info][wasm] [context.cc:1195] wasm log holdfast holdfast holdfast: \
                    items/cluster=orders: half-open -> open: failure rate 100% of 3 >= 50%; next probe in 4.2s";
        let change = Change::parse(line, Duration::from_secs(9)).unwrap();
        assert_eq!((change.policy.as_str(), change.from, change.to), ("items", State::HalfOpen, State::Open));
        assert_eq!(change.why, "failure rate 100% of 3 >= 50%; next probe in 4.2s");
        assert_eq!(change.at, Duration::from_secs(9));
    }

    #[test]
    fn other_lines_tell_nothing() {
        for line in ["", "starting main dispatch loop", "a/b: up -> down: it fell", "closed -> open", "x -> y: z"] {
            assert_eq!(Change::parse(line, Duration::ZERO), None, "{line:?}");
        }
    }
}
