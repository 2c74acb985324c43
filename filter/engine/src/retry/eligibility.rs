//! Which requests may be retried at all.

use holdfast_policy::document::Retry;

/// After what a request may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Eligibility {
    /// After everything that the policy names.
    All = 0,
    /// Only while no host can have seen it: it is not idempotent.
    Unsent = 1,
    /// After nothing: it is itself a retry, of a proxy before this one or of a gRPC client.
    Nothing = 2,
}

impl Eligibility {
    /// The eligibility of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Eligibility::All, Eligibility::Unsent, Eligibility::Nothing]
            .into_iter()
            .find(|eligibility| *eligibility as u8 == number)
    }
}

/// The eligibility of a request. `is_keyed` tells whether it has the idempotency header, `is_retry` whether its client says that
/// it has sent it before.
pub fn of(retry: &Retry, method: &[u8], is_keyed: impl FnOnce() -> bool, is_retry: bool) -> Eligibility {
    if retry.skip_retries_of_retries && is_retry {
        Eligibility::Nothing
    } else if retry.methods.iter().any(|named| named.as_bytes() == method) || is_keyed() {
        Eligibility::All
    } else {
        Eligibility::Unsent
    }
}
