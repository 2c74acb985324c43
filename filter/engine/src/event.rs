//! What the operator is to know.

use crate::metric::Metric;

/// Something about one key of a policy that the operator is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Adds one to a counter.
    Count(Metric),
    /// Adds a number to a counter.
    Add(Metric, u32),
    /// Sets a gauge. Also comes when nothing has changed: the gauge belongs to the process, and may still show what an earlier
    /// policy of this name, a worker that crashed, or one that was late has left there.
    Gauge(Metric, u64),
    /// A line for the log.
    Log {
        /// Whether somebody should look at it.
        alarming: bool,
        /// Whether it says what a feature in shadow mode would have done.
        shadow: bool,
        /// The line, without what it is about: policy and key.
        text: String,
    },
}

impl Event {
    /// The whole line of the log, if it is one, and whether it is alarming:
    /// `orders/cluster=orders: closed -> open: failure rate 62% of 48 >= 50%; next probe in 31s`.
    pub fn line(&self, policy: &str, key: &str) -> Option<(bool, String)> {
        match self {
            Event::Log { alarming, shadow, text } => {
                let mode = if *shadow { " (shadow)" } else { "" };
                Some((*alarming, format!("{policy}/{key}{mode}: {text}")))
            }
            Event::Count(_) | Event::Add(..) | Event::Gauge(..) => None,
        }
    }
}
