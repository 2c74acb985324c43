//! What the rest of a policy says that its fallbacks depend on.

use crate::document::{Match, Retry};

/// Which features of the policy can give a reason.
pub(super) struct Features {
    pub(super) breaker: Feature,
    pub(super) concurrency: Feature,
    pub(super) throttle: Feature,
    pub(super) retry: Feature,
}

/// What a policy does with a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    Absent,
    Off,
    On,
}

/// What the rest of the policy says that a fallback depends on.
pub(super) struct Around<'a> {
    pub(super) features: Features,
    /// Its retries, if there are any; `None` also where they are wrong, which has been said.
    pub(super) retry: Option<&'a Retry>,
    /// Which requests it governs; `None` where that is wrong, and has been said.
    pub(super) matches: Option<&'a Match>,
}
