//! Traces of named scenarios, as committed text.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::host::Host;
use crate::seat::Seat;
use crate::thread::Thread;

/// What happened, line by line, with the time since the run began.
#[derive(Debug, Default)]
pub struct Trace {
    text: String,
    /// How many of the module's log lines are in it already.
    logged: usize,
}

impl Trace {
    /// A trace with a title.
    pub fn new(title: &str) -> Self {
        Trace { text: format!("# {title}\n"), logged: 0 }
    }

    /// Adds what the module has logged since.
    pub fn catch_up(&mut self, host: &Host) {
        let log = host.log();
        for line in log.iter().skip(self.logged) {
            // That every VM says the same at its start is of no interest.
            if line.thread != Thread::Canary {
                let seat = if line.seat == Seat::Attempt { " (attempt)" } else { "" };
                let _ = writeln!(self.text, "{}  {}{seat}: {}", Clock(line.at), line.thread, line.text);
            }
        }
        self.logged = log.len();
    }

    /// Adds a line of the test's own, after what the module has logged before it.
    pub fn note(&mut self, host: &Host, line: impl fmt::Display) {
        self.catch_up(host);
        let _ = writeln!(self.text, "{}  {line}", Clock(host.elapsed()));
    }

    /// Adds a line without a time.
    pub fn line(&mut self, line: impl fmt::Display) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Compares it with `traces/NAME.txt`; with `UPDATE_TRACES=1` in the environment, writes that file instead.
    pub fn check(self, name: &str) {
        check(name, &self.text);
    }
}

/// Compares a text with `traces/NAME.txt`; with `UPDATE_TRACES=1` in the environment, writes that file instead.
pub fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_TRACES").is_some_and(|value| value == "1") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = committed.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(
        committed == text,
        "traces/{name}.txt says something else, from line {}. If the new trace is right, run again with \
         UPDATE_TRACES=1 and review the difference. The new trace:\n{text}",
        differs.unwrap_or_else(|| committed.lines().count().min(text.lines().count())) + 1
    );
}

/// A time as `h:mm:ss.mmm`.
#[derive(Debug, Clone, Copy)]
pub struct Clock(pub Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        write!(f, "{}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}
