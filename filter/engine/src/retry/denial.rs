//! Why an attempt is not followed by a retry.

/// Why an attempt that the policy's `on` names was not followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Denial {
    /// The budget has no token left.
    Budget = 0,
    /// The breaker is not closed.
    Breaker = 1,
    /// A host may have seen the request, and it is not idempotent.
    Method = 2,
    /// The wait would go beyond the time that is left.
    Deadline = 3,
    /// The host asked for a longer wait than the policy or the time that is left allows.
    RetryAfter = 4,
    /// The request is itself a retry.
    RetryOfRetry = 5,
    /// No token could be taken, because other workers were faster each time, or the key has lost its place.
    Contention = 6,
}

impl Denial {
    /// All, by number.
    pub const ALL: [Denial; 7] = [
        Denial::Budget,
        Denial::Breaker,
        Denial::Method,
        Denial::Deadline,
        Denial::RetryAfter,
        Denial::RetryOfRetry,
        Denial::Contention,
    ];

    /// The denial of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Denial::ALL.get(usize::from(number)).copied()
    }

    /// The word in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Denial::Budget => "budget",
            Denial::Breaker => "breaker",
            Denial::Method => "method",
            Denial::Deadline => "deadline",
            Denial::RetryAfter => "retry_after",
            Denial::RetryOfRetry => "retry_of_retry",
            Denial::Contention => "contention",
        }
    }
}
