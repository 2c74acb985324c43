//! Holdfast's decisions, without a host.
//!
//! Everything here is a function of its arguments: the time, random numbers and stored bytes come in, verdicts and
//! records go out. The proxy-wasm shell beside this crate turns callbacks into calls of it and its verdicts into
//! host calls; tests turn virtual hours into calls of it.
//!
//! A request through the request seat, over a host and a store in memory:
//!
//! ```
//! use std::rc::Rc;
//!
//! use holdfast_engine::host::{Headers, RootHost};
//! use holdfast_engine::memory_host::MemoryHost;
//! use holdfast_engine::request::{Configuration, RequestEffect, RequestPlugin, RequestState, RequestVm};
//! use holdfast_engine::store::memory::MemoryStore;
//!
//! let document = br#"{"policies": [{"name": "orders", "breaker": {"state": "forced_open"}}]}"#;
//! let (host, mut store) = (Rc::new(MemoryHost::default()), MemoryStore::default());
//! let root = Rc::clone(&host) as Rc<dyn RootHost>;
//! let configuration = Configuration::read(document).unwrap();
//! let plugin = RequestPlugin::new(&root, Rc::new(RequestVm::new(1)), configuration);
//!
//! host.put_headers(Headers::Request, &[(":method", "GET"), (":path", "/")]);
//! let (state, effect) = RequestState::on_request_headers(&plugin, &mut store, &*host, true);
//! let RequestEffect::Reply(local) = effect else { panic!("the breaker is forced open") };
//! assert_eq!((local.reply.status, local.details()), (503, "holdfast_open".to_owned()));
//! state.on_end(&plugin, &mut store, &*host);
//! ```
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
