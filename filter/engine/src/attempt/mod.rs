//! An attempt's life: what follows it, its wait, and what it says of its host.

mod connection;
mod decision;
mod grant;
mod hedges;
mod hosts;
mod in_flight;
mod life;
mod other_hosts;
mod passed;
mod plugin;
mod policy;
mod seen_hosts;
mod strangers;
mod unreached;

pub use decision::{AfterResponse, BeforeRetry, RouteEnds};
pub use life::{Attempt, AttemptEffect, AttemptPlugin, AttemptReply, AttemptState, Waits};
pub use plugin::{AttemptVm, SeatPlugin, Waiter};
pub use policy::AttemptPolicy;

#[cfg(test)]
mod tests;
