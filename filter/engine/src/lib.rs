//! Holdfast's decisions, without a host.
//!
//! Everything here is a function of its arguments: the time, random numbers and stored bytes come in, verdicts and
//! records go out. The proxy-wasm shell beside this crate turns callbacks into calls of it and its verdicts into
//! host calls; tests turn virtual hours into calls of it.
#![forbid(unsafe_code)]

pub mod attempt;
pub mod base;
pub mod breaker;
pub mod concurrency;
pub mod cx;
pub mod event;
pub mod fallback;
pub mod host;
pub mod http;
pub mod memory_host;
pub mod metric;
pub mod observe;
pub mod outlier;
pub mod request;
pub mod retry;
pub mod seats;
pub mod store;
pub mod throttle;
