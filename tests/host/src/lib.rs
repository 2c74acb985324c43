//! Runs the shipped module in process, on the interface that Envoy gives it.
//!
//! A [`Host`] has some workers, each with its own VM of the module, and what they share in one Envoy: shared data,
//! metrics, a log. The clock stands still until the test moves it, so hours pass in milliseconds and every run is the
//! same. A test sends requests, plays the upstream, and asks for state: what the client got, what the breaker is, what was
//! logged and counted.
//!
//! ```no_run
//! use holdfast_host_tests::{Host, Request, Response};
//!
//! let host = Host::with(r#"{"policies":[{"name":"orders","breaker":{"consecutive_failures":1}}]}"#).workers(4).start();
//! host.get(0).passed().respond(Response::status(503));
//! let turned_away = host.request(3, Request::get("/")).answered();
//! assert_eq!(turned_away.status, 503);
//! assert_eq!(turned_away.header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
//! ```
//!
//! With [`Builder::attempt_seat`] the module sits in the cluster too, and [`Host::send`] puts Envoy's router between the
//! seats: it reads what the request seat has told it, makes attempts, and the test says what the hosts do with them.
//!
//! ```no_run
//! use holdfast_host_tests::{Host, Request};
//! use std::time::Duration;
//!
//! let host = Host::with(r#"{"policies":[{"name":"orders","retry":{}}]}"#).attempt_seat().start();
//! let request = host.send(0, Request::get("/"));
//! request.attempt().responds(503);
//! host.advance(Duration::from_millis(50));
//! request.attempt().responds(200);
//! assert_eq!(request.answer().status, 200);
//! assert_eq!(request.attempts().len(), 2);
//! host.assert_nothing_is_left();
//! ```
//!
//! Calls that the module makes itself wait in [`Host::calls_out`] for the test to answer them. Where hours of traffic are
//! to pass, hosts act by themselves: see [`Builder::answering_tries`] and [`Builder::answering_calls`].
//!
//! What goes wrong on a real machine happens here on demand: see [`Host::on_call`], which can refuse any host call, stop
//! the VM at it, or let another worker take a step just before it.
//!
//! Where Envoy's behaviour had to be known exactly, the source is Envoy's `source/extensions/common/wasm/context.cc` and
//! `source/common/router`, and proxy-wasm-cpp-host's `context.cc`, `exports.cc`, `shared_data.cc` and `wasm.cc`. The order
//! of both seats' callbacks, and what their properties say in each, was recorded on Envoy 1.40.

// A test, and what tests are made with, may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod builder;
mod caller;
mod calls;
mod clock;
mod clusters;
mod delivery;
mod exchange;
mod faults;
pub mod flags;
mod flow;
mod headers;
mod host;
mod http_call;
mod imports;
mod message;
mod metrics;
mod module;
mod queues;
mod reaction;
mod records;
mod reset;
mod retry_state;
mod route;
mod routed;
mod router;
mod schedule;
mod seat;
mod shared_data;
pub mod status;
mod stream;
mod stream_info;
mod thread;
mod timeouts;
pub mod trace;
mod vm;

pub use builder::{Builder, Refused};
pub use calls::Calls;
pub use exchange::{Answer, By, Exchange, Pending, Streaming};
pub use faults::{Call, Fault};
pub use headers::Headers;
pub use host::{Crash, Host, Line, Listener};
pub use http_call::HttpCall;
pub use message::{Local, Request, Response};
pub use module::exports;
pub use reaction::{Arrival, Reaction};
pub use records::BreakerRecord;
pub use reset::Reset;
pub use route::Route;
pub use routed::{Attempt, Routed, Tried};
pub use seat::{Place, Seat};
pub use thread::Thread;
pub use vm::Callback;
