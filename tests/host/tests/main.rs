//! The shipped module in process, as stories: who sends what when, and what then has to be.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod balance;
mod clock;
mod contention;
mod contexts;
mod costs;
mod crashes;
mod detours;
mod ends;
mod envoy;
mod fallback_call;
mod fleet;
mod foreign_bytes;
mod further;
mod fuzz;
mod half_open;
mod http_call;
mod in_place;
mod limits;
#[path = "../../../benches/src/listing.rs"]
mod listing;
mod outage;
mod outlier_bytes;
mod outlier_costs;
mod outlier_faults;
mod outlier_races;
mod outlier_simulation;
mod outlier_stories;
mod outlier_support;
mod outlier_upheavals;
mod pauses;
mod presence;
mod refusals;
mod retry_bytes;
mod retry_costs;
mod retry_deposits;
mod retry_faults;
mod retry_fuzz;
mod retry_races;
mod retry_references;
mod retry_storm;
mod retry_waits;
mod router;
mod scale;
mod scale_topology;
mod signal;
mod slow_clients;
mod small_module;
mod stale;
mod support;
mod ticks;
mod unreached;
mod update;
mod update_blocks;
mod update_drain;
mod update_fuzz;
mod update_hosts;
mod update_limits;
mod update_memory;
mod update_places;
mod update_support;
mod verdicts;
mod waiting;
