//! Holdfast's decisions, without a host.
//!
//! Everything here is a function of its arguments: the time, random numbers and stored bytes come in, verdicts and
//! records go out. The proxy-wasm shell beside this crate turns callbacks into calls of it and its verdicts into
//! host calls; tests turn virtual hours into calls of it.

pub mod document;
pub mod glob;
pub mod percent;
pub mod time;
