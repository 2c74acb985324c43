//! The proxy-wasm shell: turns Envoy's callbacks into calls of [`holdfast_policy`] and its verdicts into host calls.
//! It decides nothing.

mod attempt_plugin;
mod attempt_seat;
mod contexts;
mod counters;
mod facts;
mod governing;
mod host;
mod request_seat;
mod root;
mod shared;
mod shared_exchange;
mod start;
mod vm;
