//! Drives a real Envoy, with real backends and a real client, over loopback sockets.
//!
//! * [`Envoy`] renders a bootstrap from [`EnvoyOptions`], runs the binary, and reads what it says: statistics, log,
//!   access log, processor time. It is killed when dropped, and does not outlive this process.
//! * [`Backend`] is an HTTP/1.1 and HTTP/2 server that misbehaves on request and counts what it sees.
//! * [`RawHost`] writes its answers byte for byte; a [`BlackHole`] answers no connection, and a [`LeavingHost`]
//!   no request.
//! * [`Client`] sends single requests, bursts and loads, and keeps every answer; [`Traffic`] and [`drive_all`] send through
//!   several clients at once.
//! * [`Scene`] is an Envoy with Holdfast in it, with what its tests ask for again and again.
//! * [`Prometheus`] is a real one that scrapes Envoys; [`Alertmanager`] one that it sends alerts to.
//! * [`eventually`] waits for a condition, patiently.
//!
//! Environment variables name the parts: `HOLDFAST_ENVOY` (the Envoy binary), `HOLDFAST_WASM` (the module),
//! `HOLDFAST_PROGRAM` (the program `holdfast`), `HOLDFAST_PROMETHEUS` and `HOLDFAST_ALERTMANAGER` (their binaries, which have their
//! tools beside them, or `HOLDFAST_PROMTOOL` and `HOLDFAST_AMTOOL`). `./build.sh test` sets them. Without them everything that needs
//! them fails
//! and says so: a test that was skipped looks like one that passed.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use holdfast_tests::{Action, Backend, Client, Cluster, Envoy, EnvoyOptions, Route};
//! use serde_json::json;
//!
//! let orders = Backend::start().await?;
//! let envoy = Envoy::start(
//!     EnvoyOptions::new()
//!         .cluster(Cluster::new("orders").endpoint(orders.addr()))
//!         .route(Route::to("/", "orders"))
//!         .policy(json!({"policies": [{"name": "orders", "breaker": {}}]})),
//! )
//! .await?;
//! let client = Client::http1(envoy.addr());
//!
//! orders.always(Action::status(503));
//! let records = client.drive(4, 100, "/items").await;
//! println!("{:?}, {} reached the backend", records.statuses(), orders.requests());
//! for entry in envoy.wait_for_access_log(100).await? {
//!     println!("{} {} {:?}", entry.code, entry.flags, entry.holdfast);
//! }
//! # Ok(())
//! # }
//! ```

// A harness for tests and demonstrations: a broken expectation in it should stop the run where it is noticed.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod action;
mod alertmanager;
mod alone;
mod attempts;
mod backend;
mod black_hole;
mod bootstrap;
mod client;
mod envoy;
mod fragile;
mod interruption;
mod istio;
mod last_panic;
mod leaving_host;
mod metric_name;
mod prometheus;
mod raw_host;
mod scene;
mod server;
mod stream_reset;
mod traffic;
mod wait;
mod watchdog;

pub use action::{Action, SeenRequest, gaps};
pub use alertmanager::{Alertmanager, Received, amtool};
pub use alone::{Alone, alone};
pub use attempts::{Attempt, attempts};
pub use backend::{Backend, seen_by_all};
pub use black_hole::BlackHole;
pub use bootstrap::{
    Cluster, EnvoyOptions, HOSTS, Listener, Policy, Route, Seats, attempt_seat_filter, holdfast_filter, retry_policy,
    upstream_codec,
};
pub use client::{Client, OpenRequest, Record, Records, Response, SendError, Template, body_of, with_header};
pub use envoy::{
    AccessLogEntry, Envoy, StartError, Update, envoy_binary, envoy_version, holdfast_program, wasm_module,
};
pub use fragile::fatal_request;
pub use interruption::interruption;
pub use istio::{IstioCase, Mesh, MeshOptions, has_cluster_retries};
pub use leaving_host::LeavingHost;
pub use metric_name::{metric_name, stats_tags};
pub use prometheus::{Alert, Prometheus, PrometheusOptions, Sample, Series, promtool};
pub use raw_host::{RawHost, Then};
pub use scene::Scene;
pub use traffic::{Traffic, drive_all};
pub use wait::{Condition, PATIENCE, TICK, TimedOut, eventually};
