//! The proxy-wasm shell: turns Envoy's callbacks into calls of [`holdfast_engine`] and its verdicts into host calls.
//! It decides nothing.

mod attempt_filter;
mod contexts;
mod host;
mod hostcalls;
mod request_filter;
mod root;
mod shared_data;
mod start;
mod vm;
