//! The proxy-wasm shell: turns Envoy's callbacks into calls of [`holdfast_policy`] and its verdicts into host calls.
//! It decides nothing.

mod abi;
mod attempt_plugin;
mod attempt_seat;
mod counters;
mod facts;
mod governing;
mod host;
mod request_seat;
mod root;
mod shared;
mod shared_exchange;
mod vm;
