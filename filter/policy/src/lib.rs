//! Holdfast's decisions, without a host.
//!
//! Everything here is a function of its arguments: the time, random numbers and stored bytes come in, verdicts and
//! records go out. The proxy-wasm shell beside this crate turns callbacks into calls of it and its verdicts into
//! host calls; tests turn virtual hours into calls of it.

pub mod access;
pub mod attempts;
pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod config;
pub mod document;
pub mod exchange;
pub mod fallback;
pub mod fingerprint;
pub mod glob;
pub mod governed;
pub mod index;
pub mod inflight;
pub mod keys;
mod matching;
pub mod memory;
pub mod metrics;
pub mod narrate;
pub mod outcome;
pub mod outlier;
pub mod pairs;
pub mod paths;
pub mod percent;
pub mod places;
pub mod presence;
pub mod random;
pub mod record;
pub mod response;
pub mod retry;
pub mod seat;
pub mod slot;
pub mod store;
pub mod throttle;
pub mod time;
pub mod variants;
pub mod window;
pub mod worker;
pub mod workers;
