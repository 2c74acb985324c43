//! The circuit breaker's state machine: one cell per key, one swap per transition.
//!
//! ```text
//!            a threshold is reached              the open period is over
//!   closed ---------------------------> open ----------------------------> half-open
//!     ^                                  ^  ^                               |   |
//!     |                                  |  +---- a threshold is reached ---+   |
//!     |   the ramp is over               |                                      |
//!     +----------------------- ramping --+            all probes judged below   |
//!     ^                           ^                   every threshold           |
//!     +---- (no ramp) ------------+---------------------------------------------+
//! ```
//!
//! All methods take the time and random numbers as arguments and change only `self`, so a swap that lost a race can
//! be computed again on the newer record.
//!
//! Where the model is Resilience4j: thresholds compare with `>=`, half-open judges a fresh window of `probes` outcomes, a
//! slow call that failed counts as both. On purpose different: probes are leases, so a probe whose answer never comes
//! cannot hold half-open for ever; half-open opens again as soon as no later outcome can prevent it; and a success
//! alone never opens the breaker except by completing `min_requests`.

mod cell;
pub mod counts;
mod half_open;
pub mod key;
pub mod relevance;
pub mod slot;
pub mod thresholds;
pub mod words;

pub use cell::{Admission, Cell, CellChange, State, StateName, Transition, TransitionCause};
pub use half_open::{HalfOpen, Lease};
pub use thresholds::Trip;
