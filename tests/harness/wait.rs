//! Waiting for a condition instead of sleeping.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How long anything here waits before it gives up. Generous: the tests may share two cores with a compiler.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Envoy's timers go by a clock that the kernel moves on with its tick, every 4 ms on many machines: a wait may be shorter by
/// one, seen from outside.
pub const TICK: Duration = Duration::from_millis(5);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// A condition did not come true in time.
#[derive(Debug)]
pub struct TimedOut {
    /// How long was waited.
    pub waited: Duration,
    /// What the condition said last, or what was waited for.
    pub last: String,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not within {:?}: {}", self.waited, self.last)
    }
}

impl std::error::Error for TimedOut {}

/// What a condition given to [`eventually`] may return: `bool`, `Option<T>` or `Result<T, E>`.
pub trait Condition {
    /// What is handed out once the condition holds.
    type Output;

    /// The output, or why it does not hold yet.
    ///
    /// # Errors
    /// The reason, for the message of [`TimedOut`].
    fn check(self) -> Result<Self::Output, String>;
}

impl Condition for bool {
    type Output = ();

    fn check(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("the condition stayed false".to_owned()) }
    }
}

impl<T> Condition for Option<T> {
    type Output = T;

    fn check(self) -> Result<T, String> {
        self.ok_or_else(|| "there was no value".to_owned())
    }
}

impl<T, E: fmt::Display> Condition for Result<T, E> {
    type Output = T;

    fn check(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// Calls `condition` again and again until it holds, and returns what it gave.
///
/// # Errors
/// [`TimedOut`] with the last answer when `timeout` has passed. The condition is always tried at least once.
pub async fn eventually<F, Fut>(
    timeout: Duration,
    mut condition: F,
) -> Result<<Fut::Output as Condition>::Output, TimedOut>
where
    F: FnMut() -> Fut,
    Fut: Future,
    Fut::Output: Condition,
{
    let start = Instant::now();
    loop {
        let last = match condition().await.check() {
            Ok(output) => return Ok(output),
            Err(last) => last,
        };
        if start.elapsed() >= timeout {
            return Err(TimedOut { waited: timeout, last });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
