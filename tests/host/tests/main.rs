//! The shipped module in process, as stories: who sends what when, and what then has to be.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod clock;
mod contention;
mod costs;
mod crashes;
mod envoy;
mod foreign_bytes;
mod fuzz;
mod half_open;
mod limits;
mod outage;
mod refusals;
mod signal;
mod support;
mod update;
